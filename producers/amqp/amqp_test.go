package amqp

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp10 "github.com/Azure/go-amqp"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"penstock/producers"
	"penstock/schemas"
	"penstock/servertest"
	"penstock/stream"
)

// queue is a queue of the test's own, with another one for its dead letters.
type queue struct {
	t    *testing.T
	conn *amqp091.Connection
	ch   *amqp091.Channel
	name string
}

func newQueue(t *testing.T, address string) *queue {
	t.Helper()
	q := &queue{t: t, name: servertest.Name(t)}
	q.connect(address)
	q.declare()
	return q
}

func (q *queue) declare() {
	q.t.Helper()
	for name, args := range map[string]amqp091.Table{
		q.name:           {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": q.name + ".dead"},
		q.name + ".dead": nil,
	} {
		if _, err := q.ch.QueueDeclare(name, true, false, false, false, args); err != nil {
			q.t.Fatal(err)
		}
	}
}

// isThere says whether the broker knows the queue.
func (q *queue) isThere() bool {
	q.t.Helper()
	_, err := q.ch.QueueDeclarePassive(q.name, true, false, false, false, nil)
	why := (*amqp091.Error)(nil)
	if err != nil && (!errors.As(err, &why) || why.Code != amqp091.NotFound) {
		q.t.Fatal(err)
	}
	return err == nil
}

// connect connects the test, again after its broker was killed.
func (q *queue) connect(address string) {
	q.t.Helper()
	conn, err := amqp091.Dial(address)
	if err != nil {
		q.t.Fatal(err)
	}
	q.t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	if err != nil {
		q.t.Fatal(err)
	}
	q.conn, q.ch = conn, ch
}

// config is of a bridge from the queue. RabbitMQ of versions 3 and 4 have their own
// ways to name a queue in AMQP 1.0.
func (q *queue) config(address, version string) Config {
	c := Config{URL: address, Version: version, Topic: "t", Queue: q.name, Retry: 1} // nanosecond
	if version == V10 {
		c.Queue = "/queues/" + q.name
		if server, _ := q.conn.Properties["version"].(string); strings.HasPrefix(server, "3.") {
			c.Queue = "/amq/queue/" + q.name
		}
	}
	return c
}

// onVersions runs a test with a queue of its own for both versions of the protocol,
// on the RabbitMQ that all tests share.
func onVersions(t *testing.T, f func(t *testing.T, q *queue, c Config)) {
	for _, version := range []string{V091, V10} {
		t.Run(version, func(t *testing.T) {
			address := servertest.AMQP(t)
			q := newQueue(t, address)
			f(t, q, q.config(address, version))
		})
	}
}

// publish returns when RabbitMQ has taken the messages.
func (q *queue) publish(bodies ...string) {
	q.t.Helper()
	for _, body := range bodies {
		taken, err := q.ch.PublishWithDeferredConfirmWithContext(q.t.Context(), "", q.name, false, false, amqp091.Publishing{DeliveryMode: amqp091.Persistent, Body: []byte(body)})
		if err == nil && !taken.Wait() {
			err = errors.New("not confirmed")
		}
		if err != nil {
			q.t.Fatal(err)
		}
	}
}

// left returns what a queue holds.
func (q *queue) left(name string) (bodies []string) {
	q.t.Helper()
	for {
		d, ok, err := q.ch.Get(name, true)
		if err != nil {
			q.t.Fatal(err)
		}
		if !ok {
			return bodies
		}
		bodies = append(bodies, string(d.Body))
	}
}

// log is a Publisher that keeps what is published, unless before says why not.
type log struct {
	before func(body string) error
	grown  chan string

	mu     sync.Mutex
	events []producers.Event
	bodies []string
}

func (l *log) Publish(_ context.Context, events ...producers.Event) error {
	failed := &stream.BatchError{}
	for i, e := range events {
		text, ok := e.Value.(producers.JSON)
		err := fmt.Errorf("published a %T", e.Value)
		if ok {
			err = l.before(string(text))
		}
		if err != nil {
			failed.Fail(i, err)
			continue
		}
		l.mu.Lock()
		l.events = append(l.events, e)
		l.bodies = append(l.bodies, string(text))
		l.mu.Unlock()
		l.grown <- string(text)
	}
	return failed.OrNil()
}

// run starts a bridge and returns, once RabbitMQ delivers, what stops it.
func run(t *testing.T, l *log, c Config) (stop func()) {
	t.Helper()
	ready := make(chan struct{}, 1)
	c.Subscribed = func() {
		select {
		case ready <- struct{}{}:
		default:
		}
	}
	b, err := New(l, c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("run: %v", err)
	}
	t.Cleanup(stop)
	return stop
}

func take(t *testing.T, l *log, n int) (got []string) {
	t.Helper()
	for range n {
		select {
		case v := <-l.grown:
			got = append(got, v)
		case <-time.After(5 * time.Minute):
			t.Fatal("nothing was published for five minutes")
		}
	}
	return got
}

// What is durable is acknowledged, what does not fit goes to the queue's dead
// letters, and neither comes again.
func TestPublish(t *testing.T) {
	onVersions(t, func(t *testing.T, q *queue, c Config) {
		l := &log{grown: make(chan string, 100), before: func(body string) error {
			if body == `"warm"` {
				return &schemas.ValueError{Violations: []schemas.Violation{{Expected: "a number", Found: "text"}}}
			}
			return nil
		}}
		var refused []string
		c.Refused = func(key string, body []byte, why error) {
			if key != q.name || !errors.As(why, new(*schemas.ValueError)) {
				t.Errorf("refused %q: %v", key, why)
			}
			refused = append(refused, string(body))
		}
		stop := run(t, l, c)
		q.publish(`1`, `"warm"`, `{"half":`, `2`)
		if got := take(t, l, 2); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("published %q", got)
		}
		stop()
		if e := l.events[0]; e.Topic != "t" || string(e.Key) != q.name || string(e.Headers[0].Value) != q.name {
			t.Errorf("published %+v", e)
		}
		bad := []string{`"warm"`, `{"half":`}
		if got := q.left(q.name + ".dead"); !slices.Equal(got, bad) || !slices.Equal(refused, bad) {
			t.Errorf("dead letters %q, told of %q, want %q", got, refused, bad)
		}
		if got := q.left(q.name); len(got) > 0 {
			t.Errorf("left in the queue: %q", got)
		}
	})
}

// What is not durable is not acknowledged: it is tried again, and the next bridge
// gets it.
func TestNothingAcknowledgedEarly(t *testing.T) {
	onVersions(t, func(t *testing.T, q *queue, c Config) {
		tried := make(chan string)
		done := make(chan struct{})
		stop := run(t, &log{before: func(body string) error {
			select {
			case tried <- body:
			case <-done:
			}
			return errors.New("not now")
		}}, c)
		q.publish(`1`, `2`)
		for seen := 0; seen < 2; {
			if <-tried == `1` {
				seen++
			}
		}
		close(done)
		stop()
		l := &log{grown: make(chan string, 100), before: func(string) error { return nil }}
		stop = run(t, l, c)
		got := take(t, l, 2)
		slices.Sort(got) // what is released is redelivered where the broker likes
		if !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("published %q", got)
		}
		stop()
		if got := append(q.left(q.name), q.left(q.name+".dead")...); len(got) > 0 {
			t.Errorf("left: %q", got)
		}
	})
}

// What a stopped bridge has received and not begun with goes back at once.
func TestGivenBack(t *testing.T) {
	onVersions(t, func(t *testing.T, q *queue, c Config) {
		var all []string
		for i := range 100 {
			all = append(all, fmt.Sprint(i))
		}
		begun, going := make(chan struct{}), make(chan struct{})
		l := &log{grown: make(chan string, 100), before: func(body string) error {
			if body == "0" {
				close(begun)
				<-going
			}
			return nil
		}}
		c.InFlight = 50
		q.publish(all[:1]...)
		stop := run(t, l, c)
		<-begun
		q.publish(all[1:]...)
		stopped := make(chan struct{})
		go func() { stop(); close(stopped) }()
		close(going)
		<-stopped
		published := take(t, l, len(l.events))
		got := append(published, q.left(q.name)...)
		slices.Sort(got)
		slices.Sort(all)
		if !slices.Equal(got, all) {
			t.Errorf("published or given back %q", got)
		}
	})
}

// A broker that is killed and comes back, with what it has on disk, gets every
// message published, and the queue is empty after that.
func TestBrokerKilled(t *testing.T) {
	servertest.AMQP(t) // or the test is skipped
	own := servertest.Start(t, servertest.RabbitMQ)
	kept := newQueue(t, own.Address)
	restart := func(q *queue) {
		own.Kill()
		own.Start()
		q.connect(own.Address)
	}
	// A RabbitMQ that is killed right after it has declared a queue may lose that. One
	// that it has after a restart it keeps.
	for restart(kept); !kept.isThere(); restart(kept) {
		kept.connect(own.Address) // the channel has ended by the answer
		kept.declare()
	}
	for _, version := range []string{V091, V10} {
		t.Run(version, func(t *testing.T) {
			q := &queue{t: t, name: kept.name}
			q.connect(own.Address)
			var failures atomic.Int32
			l := &log{grown: make(chan string, 10_000), before: func(string) error {
				if failures.Add(1)%7 == 0 {
					return errors.New("not now")
				}
				return nil
			}}
			stop := run(t, l, q.config(own.Address, version))
			missing := map[string]bool{}
			var some []string
			for i := range 100 {
				some = append(some, fmt.Sprint(i))
				missing[some[i]] = true
			}
			q.publish(some...)
			delete(missing, take(t, l, 1)[0]) // while others are on their way
			restart(q)
			for len(missing) > 0 {
				delete(missing, take(t, l, 1)[0])
			}
			stop()
			for _, body := range q.left(q.name) { // the broker may have lost an acknowledgement
				if !slices.Contains(l.bodies, body) {
					t.Errorf("left, but never published: %q", body)
				}
			}
		})
	}
}

// A connection that is cut again and again loses nothing.
func TestCut(t *testing.T) {
	onVersions(t, func(t *testing.T, q *queue, c Config) {
		u, err := url.Parse(c.URL)
		if err != nil {
			t.Fatal(err)
		}
		line := servertest.NewLine(t, u.Host)
		u.Host = line.Address
		c.URL, c.InFlight = u.String(), 20
		l := &log{grown: make(chan string, 10_000), before: func(string) error { return nil }}
		missing := map[string]bool{}
		stop := run(t, l, c)
		for i := range 200 {
			body := fmt.Sprint(i)
			missing[body] = true
			q.publish(body)
			if i%20 == 19 {
				line.Cut()
			}
		}
		for len(missing) > 0 {
			delete(missing, take(t, l, 1)[0])
		}
		stop()
		if got := q.left(q.name + ".dead"); len(got) > 0 {
			t.Errorf("dead letters: %q", got)
		}
	})
}

// The reason of a rejection is sent along in 1.0, cut to what fits a frame, and a
// body may be data, text or a binary value.
func TestMessage10(t *testing.T) {
	s := &source10{}
	subject := "a.b"
	for want, m := range map[string]*amqp10.Message{
		"12":   {Data: [][]byte{[]byte("1"), []byte("2")}},
		"text": {Value: "text", Properties: &amqp10.MessageProperties{Subject: &subject}},
		"bin":  {Value: []byte("bin"), Annotations: amqp10.Annotations{"x-routing-key": "r"}},
		"":     {},
	} {
		got := s.message(m)
		if string(got.body) != want || got.amiss != nil {
			t.Errorf("%q: got %q, %v", want, got.body, got.amiss)
		}
		if key := map[string]string{"text": "a.b", "bin": "r"}[want]; got.key != key {
			t.Errorf("%q: key %q, want %q", want, got.key, key)
		}
	}
	for _, m := range []*amqp10.Message{{Value: int64(1)}, {Value: map[string]any{}}, {Sequence: [][]any{{1}}}} {
		if got := s.message(m); got.amiss == nil || !producers.IsFinal(got.amiss) {
			t.Errorf("%+v: %v", m, got.amiss)
		}
	}
}

func TestNoQueue(t *testing.T) {
	onVersions(t, func(t *testing.T, q *queue, c Config) {
		c.Queue += "-not"
		b, err := New(&log{}, c)
		if err != nil {
			t.Fatal(err)
		}
		err = b.Run(t.Context())
		missing, gone := (*amqp091.Error)(nil), (*amqp10.Error)(nil)
		if !(errors.As(err, &missing) && missing.Code == amqp091.NotFound || errors.As(err, &gone) && gone.Condition == amqp10.ErrCondNotFound) {
			t.Errorf("run: %v", err)
		}
	})
}

func TestUnreachable(t *testing.T) {
	for _, version := range []string{V091, V10} {
		b, err := New(&log{}, Config{URL: "amqp://127.0.0.1:1/", Version: version, Queue: "q", Topic: "t"})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Run(t.Context()); !errors.Is(err, stream.ErrUnreachable) {
			t.Errorf("%s: run: %v", version, err)
		}
	}
}

// Whatever bytes a message of 1.0 is made of, it becomes a body or a misfit.
func FuzzMessage10(f *testing.F) {
	for _, m := range []*amqp10.Message{
		amqp10.NewMessage([]byte(`{"a":1}`)),
		{Value: "text"},
		{Value: []byte{0, 1}},
		{Sequence: [][]any{{int64(1)}}},
		{Data: [][]byte{[]byte("1"), []byte("2")}, Annotations: amqp10.Annotations{"x-routing-key": "r"}},
	} {
		b, err := m.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := unmarshal(b)
		if m == nil {
			return
		}
		got := (&source10{}).message(m)
		if len(got.body) > len(b) {
			t.Fatalf("%d bytes became %d", len(b), len(got.body))
		}
		if got.amiss != nil && !producers.IsFinal(got.amiss) {
			t.Fatalf("not a misfit: %v", got.amiss)
		}
		if _, err := producers.Payload(got.body); err != nil && !producers.IsFinal(err) {
			t.Fatalf("not a misfit: %v", err)
		}
	})
}

// unmarshal returns nil where there is no message. The library panics on
// annotations with a key that AMQP does not allow, a binary one: see record 3.
func unmarshal(b []byte) (m *amqp10.Message) {
	defer func() {
		if recover() != nil {
			m = nil
		}
	}()
	m = &amqp10.Message{}
	if m.UnmarshalBinary(b) != nil {
		return nil
	}
	return m
}
