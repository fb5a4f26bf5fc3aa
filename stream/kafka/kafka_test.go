package kafka

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"penstock/servertest"
	"penstock/stream"
	"penstock/stream/streamtest"
)

var _ stream.Broker = (*Broker)(nil)

func TestSuite(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.GroupMinSessionTimeout(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	suite(t, cluster.ListenAddrs(), 1500*time.Millisecond)
}

func TestSuiteOnRealKafka(t *testing.T) {
	seeds := servertest.Kafka(t)
	if testing.Short() {
		t.Skip("a crash takes the session timeout of a real Kafka to be noticed")
	}
	suite(t, strings.Split(seeds, ","), 6*time.Second)
}

func suite(t *testing.T, seeds []string, session time.Duration) {
	var lines sync.Map // *Broker to *line
	open := func(t testing.TB) stream.Broker {
		l := &line{}
		b, err := Open(t.Context(), Config{Seeds: seeds, SessionTimeout: session, Dial: l.dial})
		if err != nil {
			t.Fatal(err)
		}
		lines.Store(b, l)
		return b
	}
	streamtest.Run(t, streamtest.Features{
		Fenced:  true,
		Resumes: true,
		Crash: func(_ testing.TB, src stream.SourceCloser) {
			l, _ := lines.Load(src.(*source).broker)
			l.(*line).cut()
		},
		Delete: func(t testing.TB, topic string) {
			b := open(t).(*Broker)
			defer b.Close()
			if _, err := b.admin.DeleteTopic(t.Context(), topic); err != nil {
				t.Fatal(err)
			}
		},
	}, open)
}

// line is a network that can be cut.
type line struct {
	mu    sync.Mutex
	conns []net.Conn
	dead  bool
}

func (l *line) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		c.Close()
		return nil, errors.New("the line was cut")
	}
	l.conns = append(l.conns, c)
	return c, nil
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	for _, c := range l.conns {
		c.Close()
	}
}
