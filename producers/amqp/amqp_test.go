package amqp

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"penstock/producers"
	"penstock/schemas"
	"penstock/servertest"
	"penstock/stream"
)

// queue is a queue of the test's own, with another one for its dead letters.
type queue struct {
	t    *testing.T
	ch   *amqp091.Channel
	name string
}

func newQueue(t *testing.T) *queue {
	t.Helper()
	conn, err := amqp091.Dial(servertest.AMQP(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	q := &queue{t, ch, servertest.Name(t)}
	for name, args := range map[string]amqp091.Table{
		q.name:           {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": q.name + ".dead"},
		q.name + ".dead": nil,
	} {
		if _, err := ch.QueueDeclare(name, true, false, false, false, args); err != nil {
			t.Fatal(err)
		}
	}
	return q
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
}

func (l *log) Publish(_ context.Context, events ...producers.Event) error {
	failed := &stream.BatchError{}
	for i, e := range events {
		text, err := json.Marshal(e.Value)
		if err == nil {
			err = l.before(string(text))
		}
		if err != nil {
			failed.Fail(i, err)
			continue
		}
		l.mu.Lock()
		l.events = append(l.events, e)
		l.mu.Unlock()
		l.grown <- string(text)
	}
	return failed.OrNil()
}

// run starts a bridge and returns, once RabbitMQ delivers, what stops it.
func run(t *testing.T, l *log, c Config) (stop func()) {
	t.Helper()
	ready := make(chan struct{}, 10_000)
	c.URL, c.Topic, c.Retry = servertest.AMQP(t), "t", 1 // nanosecond
	c.Subscribed = func() { ready <- struct{}{} }
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
		case <-t.Context().Done():
			t.Fatal("nothing published")
		}
	}
	return got
}

// What is durable is acknowledged, what does not fit goes to the queue's dead
// letters, and neither comes again.
func TestPublish(t *testing.T) {
	q := newQueue(t)
	l := &log{grown: make(chan string, 100), before: func(body string) error {
		if body == `"warm"` {
			return &schemas.ValueError{Violations: []schemas.Violation{{Expected: "a number", Found: "text"}}}
		}
		return nil
	}}
	var refused []string
	stop := run(t, l, Config{Queue: q.name, Refused: func(key string, body []byte, why error) {
		if key != q.name || !errors.As(why, new(*schemas.ValueError)) {
			t.Errorf("refused %q: %v", key, why)
		}
		refused = append(refused, string(body))
	}})
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
}

// What is not durable is not acknowledged: it is tried again, and the next bridge
// gets it.
func TestNothingAcknowledgedEarly(t *testing.T) {
	q := newQueue(t)
	tried := make(chan string, 10_000)
	stop := run(t, &log{before: func(body string) error {
		tried <- body
		return errors.New("not now")
	}}, Config{Queue: q.name})
	q.publish(`1`, `2`)
	for seen := 0; seen < 2; {
		if <-tried == `1` {
			seen++
		}
	}
	stop()
	l := &log{grown: make(chan string, 100), before: func(string) error { return nil }}
	stop = run(t, l, Config{Queue: q.name})
	if got := take(t, l, 2); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("published %q", got)
	}
	stop()
	if got := append(q.left(q.name), q.left(q.name+".dead")...); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
}

func TestNoQueue(t *testing.T) {
	b, err := New(&log{}, Config{URL: servertest.AMQP(t), Queue: servertest.Name(t), Topic: "t"})
	if err != nil {
		t.Fatal(err)
	}
	var missing *amqp091.Error
	if err := b.Run(t.Context()); !errors.As(err, &missing) || missing.Code != amqp091.NotFound {
		t.Errorf("run: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	b, err := New(&log{}, Config{URL: "amqp://127.0.0.1:1/", Queue: "q", Topic: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Run(t.Context()); !errors.Is(err, stream.ErrUnreachable) {
		t.Errorf("run: %v", err)
	}
}
