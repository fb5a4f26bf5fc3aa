package producers

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/schemas"
	"penstock/stream"
	"penstock/stream/memory"
)

// one is an atomic publisher that answers with err and counts its calls.
type one struct {
	publisher
	calls int
	c     stream.Conditions
	err   error
}

func (o *one) PublishAtomic(_ context.Context, c stream.Conditions, _ ...stream.Record) error {
	o.calls++
	o.c = c
	return o.err
}

// Events of two topics are published together, and lie where it is said.
func TestPublishAtomic(t *testing.T) {
	broker := memory.New()
	for _, topic := range []string{"orders", "bills"} {
		if err := broker.Create(t.Context(), topic, 1); err != nil {
			t.Fatal(err)
		}
	}
	reg := &registry{subjects: []string{"orders-value", "bills-value", "orders-key"}, schemas: []schemas.Schema{order(t), order(t), order(t)}}
	p := New(broker, reg, Config{Topic: func(string) Topic { return Topic{Misfits: DeadLetter, DeadLetters: "bills"} }})
	held := func() [2]int64 {
		t.Helper()
		var n [2]int64
		for i, topic := range []string{"orders", "bills"} {
			ranges, err := broker.Ranges(t.Context(), topic)
			if err != nil {
				t.Fatal(err)
			}
			n[i] = ranges[0].Records
		}
		return n
	}
	good := []Event{
		{Topic: "orders", Key: []byte("a"), Value: value("a")},
		{Topic: "bills", Key: []byte("a"), Value: value("b")},
		{Topic: "orders", Key: []byte("gone")},
	}
	bad := append(good[:len(good):len(good)],
		Event{Topic: "bills", Value: map[string]any{"id": 1, "amount": "x"}},
		Event{Topic: "orders", KeyValue: map[string]any{"id": "k", "amount": "y"}, Value: map[string]any{"id": 2, "amount": 1.5}},
		Event{Topic: "nothing", Value: value("c")},
	)
	for range 2 { // the second time with used buffers
		err := p.PublishAtomic(t.Context(), stream.Conditions{}, bad...)
		var failed *stream.BatchError
		if !errors.As(err, &failed) || len(failed.Errs) != 3 {
			t.Fatalf("publish: %v, want three events refused", err)
		}
		var misfit *schemas.ValueError
		if !errors.As(failed.Errs[3], &misfit) || len(misfit.Violations) != 2 {
			t.Errorf("event 3: %v, want both of its violations", failed.Errs[3])
		}
		if text := failed.Errs[4].Error(); !strings.Contains(text, "/amount") || !strings.Contains(text, "/id") {
			t.Errorf("event 4: %v, want what is wrong with its key and with its value", text)
		}
		if !errors.Is(failed.Errs[5], schemas.ErrNoSchema) {
			t.Errorf("event 5: %v, want ErrNoSchema", failed.Errs[5])
		}
		if got := held(); got != [2]int64{} {
			t.Fatalf("the topics hold %v records, want none", got)
		}
	}

	if err := p.PublishAtomic(t.Context(), stream.Conditions{}, good...); err != nil {
		t.Fatal(err)
	}
	if got, want := [3]int64{good[0].Offset, good[1].Offset, good[2].Offset}, [3]int64{0, 0, 1}; got != want {
		t.Errorf("the events lie at %v, want %v", got, want)
	}
	if got := held(); got != [2]int64{2, 1} {
		t.Errorf("the topics hold %v records, want 2 and 1", got)
	}
	late := stream.Conditions{After: map[int32]int64{0: 0}}
	if err := p.PublishAtomic(t.Context(), late, good[0]); !errors.Is(err, stream.ErrConflict) {
		t.Errorf("publish behind a record that is not the last: %v, want ErrConflict", err)
	}
}

// What the publisher says goes to the caller, and nothing is sent a second time.
func TestPublishAtomicOnce(t *testing.T) {
	reg := &registry{subjects: []string{"orders-value"}, schemas: []schemas.Schema{order(t)}}
	partly := &stream.BatchError{}
	partly.Fail(1, stream.ErrTooLarge)
	events := []Event{{Topic: "orders", Value: value("a")}, {Topic: "orders", Value: value("b")}}
	c := stream.Conditions{ID: "x", After: map[int32]int64{0: 7}}
	for _, err := range []error{partly, stream.ErrUnknownOutcome, stream.ErrUnreachable} {
		pub := &one{err: err}
		if got := New(pub, reg, Config{}).PublishAtomic(t.Context(), c, events...); !errors.Is(got, err) {
			t.Errorf("publish: %v, want %v", got, err)
		}
		if diff := cmp.Diff(c, pub.c); pub.calls != 1 || len(pub.records) > 0 || diff != "" {
			t.Errorf("after %v: %d calls, %d records by themselves, want one call; its conditions (-want +got):\n%s", err, pub.calls, len(pub.records), diff)
		}
	}
	if err := New(&publisher{}, reg, Config{}).PublishAtomic(t.Context(), c, events...); !errors.Is(err, stream.ErrUnsupported) {
		t.Errorf("publish without an atomic publisher: %v, want ErrUnsupported", err)
	}
}
