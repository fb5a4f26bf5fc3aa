package kafka

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

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
	var lines sync.Map // *Broker to *streamtest.Line
	open := func(t testing.TB) stream.Broker {
		l := &streamtest.Line{}
		b, err := Open(t.Context(), Config{Seeds: seeds, SessionTimeout: session, Dial: l.DialContext})
		if err != nil {
			t.Fatal(err)
		}
		lines.Store(b, l)
		return b
	}
	streamtest.Run(t, streamtest.Features{
		Fenced:   true,
		Releases: true,
		Resumes:  true,
		Keeps:    true,
		Surveys:  true,
		Atomic: streamtest.Atomic{Topics: true, Open: func(t testing.TB, l *streamtest.Line) stream.Broker {
			b, err := Open(t.Context(), Config{Seeds: seeds, Timeout: 2 * time.Second, Dial: l.DialContext})
			if err != nil {
				t.Fatal(err)
			}
			return b
		}, Commit: func(request []byte) bool {
			return len(request) > 6 && binary.BigEndian.Uint16(request[4:]) == uint16(kmsg.EndTxn)
		}},
		Crash: func(_ testing.TB, src stream.SourceCloser) {
			l, _ := lines.Load(src.(*source).broker)
			l.(*streamtest.Line).Cut()
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

// A static member that is closed stays in its group, and comes back as the same.
func TestStaticMember(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	b, err := Open(t.Context(), Config{Seeds: cluster.ListenAddrs(), Member: "one"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	if err := b.Create(t.Context(), "static", 2); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), stream.Record{Topic: "static", Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	member := func() string {
		groups, err := b.admin.DescribeGroups(t.Context(), "static-group")
		if err != nil || len(groups["static-group"].Members) != 1 {
			t.Fatalf("members %v, %v, want one", groups["static-group"].Members, err)
		}
		instance := groups["static-group"].Members[0].InstanceID
		if instance == nil {
			t.Fatal("the member is not static")
		}
		return *instance
	}
	for range 2 {
		src, err := b.Open(t.Context(), stream.Subscription{Topic: "static", Group: "static-group"})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := src.Fetch(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if err := src.Close(); err != nil {
			t.Fatal(err)
		}
		if got := member(); got != "one" {
			t.Errorf("member %q, want %q", got, "one")
		}
	}
}

// Where the cluster deals out partitions, they move to who joins, and what was
// settled stays settled.
func TestServerBalances(t *testing.T) {
	const partitions, n = 4, 200
	b, err := Open(t.Context(), Config{Seeds: strings.Split(servertest.Kafka(t), ","), ServerBalances: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	topic := "balanced-" + strings.ToLower(rand.Text())
	if err := b.Create(t.Context(), topic, partitions); err != nil {
		t.Fatal(err)
	}
	var records []stream.Record
	for i := range n {
		records = append(records, stream.Record{Topic: topic, Key: []byte{byte(i)}, Value: []byte("x")})
	}
	if err := b.Publish(t.Context(), records...); err != nil {
		t.Fatal(err)
	}
	open := func() stream.SourceCloser {
		src, err := b.Open(t.Context(), stream.Subscription{Topic: topic, Group: topic})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { src.Close() })
		return src
	}
	type place struct {
		partition int32
		offset    int64
	}
	settled := map[place]int{}
	take := func(src stream.Source) int32 {
		records, ack, err := src.Fetch(t.Context(), 5)
		if err != nil {
			t.Fatal(err)
		}
		err = ack(t.Context(), nil)
		if err != nil && !errors.Is(err, stream.ErrFenced) {
			t.Fatal(err)
		}
		for _, r := range records {
			if err == nil {
				settled[place{r.Partition, r.Offset}]++
			}
		}
		return records[0].Partition
	}
	first := open()
	for seen := map[int32]bool{}; len(seen) < partitions; {
		seen[take(first)] = true
	}
	second := open()
	// The first goes on reading, as it has to for its partitions to move.
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _, _ = first.Fetch(ctx, n)
	}()
	take(second)
	stop()
	<-done
	if err := first.Close(); err != nil { // what it fetched there comes again
		t.Fatal(err)
	}
	for len(settled) < n {
		take(second)
	}
	for p, times := range settled {
		if times > 1 {
			t.Errorf("offset %d of partition %d was settled %d times", p.offset, p.partition, times)
		}
	}
	groups, err := b.admin.DescribeConsumerGroups(t.Context(), topic)
	if err != nil || len(groups[topic].Members) != 1 {
		t.Errorf("the group has members %v as a consumer group, %v, want one", groups[topic].Members, err)
	}
	seen, err := b.Groups(t.Context(), topic)
	if err != nil || !slices.Contains(seen, stream.Group{Name: topic, Members: 1}) {
		t.Errorf("the topic is read by %v, %v, want the group with its member", seen, err)
	}
}
