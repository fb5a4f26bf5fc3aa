package handlers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/stream"
	"penstock/stream/memory"
	bridge "penstock/stream/watermill"
)

// log is a broker with n records of three keys in topic t, and their registry.
type log struct {
	*memory.Broker
	schema schemas.Schema
}

func (l log) Schema(context.Context, schemas.ID) (schemas.Schema, error) { return l.schema, nil }

func newLog(t *testing.T, n int) log {
	t.Helper()
	schema, err := avro.Format{}.Parse(`{"type":"record","name":"E","fields":[{"name":"n","type":"int"}]}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := log{memory.New(), schema}
	t.Cleanup(func() { l.Close() })
	for _, topic := range []string{"t", "out", consumers.DeadLetterTopic("t", "g")} {
		if err := l.Create(t.Context(), topic, 3); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		value, err := schema.AppendEncode(schemas.AppendHeader(nil, 7), map[string]any{"n": i})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Publish(t.Context(), stream.Record{Topic: "t", Key: []byte{byte('a' + i%3)}, Value: value, Headers: []stream.Header{{Key: "h", Value: []byte("v")}}}); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// run runs a handler over the log until it holds done.
func (l log) run(t *testing.T, c Config, done func() bool) error {
	t.Helper()
	sink, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	src, err := l.Open(t.Context(), stream.Subscription{Topic: "t", Group: "g", Retry: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- consumers.Run(ctx, src, sink, consumers.Config{Group: "g", Registry: l, DeadLetters: l, MaxRecords: 7, Backoff: time.Millisecond, Hooks: consumers.Hooks{
			Settled: func(consumers.Batch, time.Duration) {
				if done() {
					cancel()
				}
			},
		}})
	}()
	err = <-ended
	return errors.Join(err, src.Close(), sink.Close())
}

// held is how many records a topic holds.
func (l log) held(t *testing.T, topic string) (n int64) {
	t.Helper()
	ranges, err := l.Ranges(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range ranges {
		n += r.End - r.Start
	}
	return n
}

// handled are the numbers that were handled, by key.
type handled struct {
	mu    sync.Mutex
	byKey map[string][]int32
	n     int
}

func (h *handled) note(m *message.Message) int32 {
	decoded, _ := Decoded(m.Context())
	n := decoded.Data.(map[string]any)["n"].(int32)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byKey == nil {
		h.byKey = map[string][]int32{}
	}
	h.byKey[string(decoded.Key)] = append(h.byKey[string(decoded.Key)], n)
	h.n++
	return n
}

func (h *handled) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n
}

// Each record is handled once and in its order, although some fail at first, panic
// or are refused; those that are refused are set aside.
func TestHandle(t *testing.T) {
	const n = 200
	l := newLog(t, n)
	var h handled
	var mu sync.Mutex
	tried := map[int32]int{}
	err := l.run(t, Config{Handler: func(m *message.Message) ([]*message.Message, error) {
		decoded, ok := Decoded(m.Context())
		record, also := bridge.RecordFromContext(m.Context())
		if !ok || !also || !bytes.Equal(record.Value, m.Payload) || m.Metadata["h"] != "v" {
			return nil, fmt.Errorf("%w: the message is not whole: %v", consumers.ErrStop, m)
		}
		number := decoded.Data.(map[string]any)["n"].(int32)
		mu.Lock()
		tried[number]++
		attempt := tried[number]
		mu.Unlock()
		switch {
		case number%20 == 7:
			return nil, fmt.Errorf("never this one: %w", consumers.ErrBadRecord)
		case number%31 == 5 && attempt == 1:
			return nil, errors.New("not now")
		case number%31 == 6 && attempt == 1:
			panic("oh")
		}
		h.note(m)
		return nil, nil
	}}, func() bool { return h.count() == n-n/20 })
	if err != nil {
		t.Fatal(err)
	}
	for key, numbers := range h.byKey {
		if !slices.IsSorted(numbers) {
			t.Errorf("those of key %s came as %v", key, numbers)
		}
	}
	if h.count() != n-n/20 || l.held(t, consumers.DeadLetterTopic("t", "g")) != n/20 {
		t.Errorf("%d were handled, and %d set aside", h.count(), l.held(t, consumers.DeadLetterTopic("t", "g")))
	}
}

// Watermill's middleware stands around the handler, and what it returns is
// published before the record is done.
func TestMiddleware(t *testing.T) {
	const n = 30
	l := newLog(t, n)
	var mu sync.Mutex
	tried := map[string]int{}
	err := l.run(t, Config{
		Publisher: bridge.NewPublisher(l, bridge.PublisherConfig{}), To: "out",
		Middleware: []message.HandlerMiddleware{middleware.Retry{MaxRetries: 2, InitialInterval: time.Microsecond}.Middleware, middleware.CorrelationID},
		Handler: func(m *message.Message) ([]*message.Message, error) {
			mu.Lock()
			defer mu.Unlock()
			if tried[m.UUID]++; tried[m.UUID] < 3 {
				return nil, errors.New("not yet")
			}
			return []*message.Message{message.NewMessage(m.UUID, m.Payload)}, nil
		},
	}, func() bool { return l.held(t, "out") == n })
	if err != nil || l.held(t, "out") != n {
		t.Errorf("%d were published, %v", l.held(t, "out"), err)
	}
}

// A batch whose handling ended half-way goes on from there.
func TestGoesOn(t *testing.T) {
	var seen []int64
	fail := true
	s, err := New(Config{Handler: func(m *message.Message) ([]*message.Message, error) {
		r, _ := Decoded(m.Context())
		if r.Offset == 2 && fail {
			fail = false
			return nil, errors.New("not now")
		}
		seen = append(seen, r.Offset)
		return nil, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	b := consumers.Batch{Topic: "t", First: 0, Next: 4}
	for i := range int64(4) {
		b.Messages = append(b.Messages, consumers.Message{Record: stream.Record{Topic: "t", Offset: i}})
	}
	if err := s.Write(t.Context(), b); err == nil {
		t.Error("what failed was taken for done")
	}
	for range 2 { // the second time it is a batch that comes again
		if err := s.Write(t.Context(), b); err != nil {
			t.Error(err)
		}
	}
	if want := []int64{0, 1, 2, 3, 0, 1, 2, 3}; !slices.Equal(seen, want) {
		t.Errorf("handled %v, want %v", seen, want)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Write(t.Context(), b); !errors.Is(err, stream.ErrClosed) {
		t.Errorf("got %v from a closed sink", err)
	}
}

func TestErrors(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("no handler was needed")
	}
	l := newLog(t, 3)
	err := l.run(t, Config{Handler: func(*message.Message) ([]*message.Message, error) { return nil, consumers.ErrStop }}, func() bool { return false })
	if !errors.Is(err, consumers.ErrStop) {
		t.Errorf("got %v, want the run to end", err)
	}
	err = l.run(t, Config{Handler: func(m *message.Message) ([]*message.Message, error) {
		return []*message.Message{m}, nil
	}}, func() bool { return false })
	if !errors.Is(err, consumers.ErrStop) {
		t.Errorf("got %v, want that there is no publisher", err)
	}
}

// A handler that does not end when it is to does not keep Write.
func TestStops(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	s, err := New(Config{Handler: func(*message.Message) ([]*message.Message, error) {
		close(started)
		<-release
		return nil, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-started
		cancel()
	}()
	err = s.Write(ctx, consumers.Batch{Topic: "t", Next: 1, Messages: []consumers.Message{{Record: stream.Record{Topic: "t"}}}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(release)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
