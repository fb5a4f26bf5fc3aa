package producers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/stream"
	"penstock/stream/memory"
)

const orderText = `{"type":"record","name":"Order","fields":[
	{"name":"id","type":"string"},
	{"name":"amount","type":"double"},
	{"name":"note","type":["null","string"],"default":null}]}`

func order(t testing.TB) schemas.Schema {
	t.Helper()
	s, err := avro.Format{}.Parse(orderText, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// registry holds schemas by subject; their ids count from 1.
type registry struct {
	subjects []string
	schemas  []schemas.Schema
	err      error
}

func (r *registry) Latest(_ context.Context, subject string) (schemas.ID, schemas.Schema, error) {
	if r.err != nil {
		return 0, nil, r.err
	}
	i := slices.Index(r.subjects, subject)
	if i < 0 {
		return 0, nil, fmt.Errorf("registry: %w", schemas.ErrNoSchema)
	}
	return schemas.ID(i + 1), r.schemas[i], nil
}

// publisher keeps what it is given, and then returns err.
type publisher struct {
	mu      sync.Mutex
	records []stream.Record
	err     func(records []stream.Record) error
}

func (p *publisher) Publish(_ context.Context, records ...stream.Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range records {
		r.Value = bytes.Clone(r.Value)
		p.records = append(p.records, r)
	}
	if p.err != nil {
		return p.err(records)
	}
	return nil
}

func value(id string) map[string]any { return map[string]any{"id": id, "amount": 1.5} }

// encoded is what an Order with that id is on the wire.
func encoded(t testing.TB, id string) []byte {
	t.Helper()
	b, err := order(t).AppendEncode([]byte{0, 0, 0, 0, 1}, value(id))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPublish(t *testing.T) {
	reg := &registry{subjects: []string{"orders-value"}, schemas: []schemas.Schema{order(t)}}
	at := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	type Order struct {
		ID     string  `avro:"id"`
		Amount float64 `avro:"amount"`
		Note   *string `avro:"note"`
	}
	events := []Event{
		{Topic: "orders", Key: []byte("k"), Value: value("a"), Time: at, Headers: []stream.Header{{Key: "h", Value: []byte("v")}}},
		{Topic: "orders", Value: map[string]any{"id": 1, "amount": "x"}},
		{Topic: "orders", Key: []byte("gone")}, // tombstone
		{Topic: "nothing", Value: value("b")},
		{Topic: "nothing", Key: []byte("gone")},
		{Topic: "orders", Value: Order{"c", 1.5, nil}},
	}
	want := []stream.Record{
		{Topic: "orders", Key: []byte("k"), Value: encoded(t, "a"), Time: at, Headers: []stream.Header{{Key: "h", Value: []byte("v")}}},
		{Topic: "orders", Key: []byte("gone")},
		{Topic: "nothing", Key: []byte("gone")},
		{Topic: "orders", Value: encoded(t, "c")},
	}
	verdict := func(t *testing.T, err error) {
		t.Helper()
		var failed *stream.BatchError
		if !errors.As(err, &failed) || len(failed.Errs) != 2 {
			t.Fatalf("want two events refused, found %v", errors.Join(failed.Unwrap()...))
		}
		var misfit *schemas.ValueError
		if !errors.As(failed.Errs[1], &misfit) || len(misfit.Violations) != 2 || misfit.Violations[0].Pointer != "/id" {
			t.Errorf("event 1: %v", failed.Errs[1])
		}
		none := failed.Errs[3]
		if !errors.Is(none, schemas.ErrNoSchema) || !strings.Contains(none.Error(), `--subject nothing-value`) {
			t.Errorf("event 3: %v", none)
		}
	}

	var pub publisher
	p := New(&pub, reg, Config{})
	verdict(t, p.Check(t.Context(), events...))
	if len(pub.records) > 0 {
		t.Errorf("Check published %d records", len(pub.records))
	}
	for range 2 { // the second time with used buffers
		pub.records = nil
		verdict(t, p.Publish(t.Context(), events...))
		if diff := cmp.Diff(want, pub.records); diff != "" {
			t.Error("published (-want +got):\n", diff)
		}
	}

	// What the publisher refuses is named by the caller's index, too.
	pub.err = func(records []stream.Record) error {
		return &stream.BatchError{Errs: map[int]error{3: stream.ErrTooLarge}}
	}
	var failed *stream.BatchError
	if err := p.Publish(t.Context(), events...); !errors.As(err, &failed) || len(failed.Errs) != 3 || !errors.Is(failed.Errs[5], stream.ErrTooLarge) {
		t.Errorf("Publish returns %v", err)
	}
	// Where nobody knows what was written, all that was tried has failed.
	pub.err = func(records []stream.Record) error { return stream.ErrUnreachable }
	if err := p.Publish(t.Context(), events...); !errors.As(err, &failed) || len(failed.Errs) != 6 || !errors.Is(failed.Errs[0], stream.ErrUnreachable) {
		t.Errorf("Publish returns %v", err)
	}
	failed = nil
	if err := p.Publish(t.Context(), events[0]); errors.As(err, &failed) || !errors.Is(err, stream.ErrUnreachable) {
		t.Errorf("Publish returns %v", err)
	}
}

func TestNothingToPublish(t *testing.T) {
	pub := publisher{err: func([]stream.Record) error { return errors.New("called") }}
	p := New(&pub, &registry{}, Config{})
	if err := p.Publish(t.Context()); err != nil {
		t.Error(err)
	}
	err := p.Publish(t.Context(), Event{Topic: "t", Value: 1})
	if !errors.Is(err, schemas.ErrNoSchema) {
		t.Errorf("Publish returns %v", err)
	}
}

func TestRegistryDown(t *testing.T) {
	down := errors.New("connection refused")
	var pub publisher
	p := New(&pub, &registry{err: down}, Config{})
	err := p.Publish(t.Context(), Event{Topic: "t"}, Event{Topic: "t", Value: 1})
	var failed *stream.BatchError
	if !errors.Is(err, down) || errors.As(err, &failed) || len(pub.records) > 0 {
		t.Errorf("Publish returns %v after %d records", err, len(pub.records))
	}
}

func TestSubject(t *testing.T) {
	var pub publisher
	reg := &registry{subjects: []string{"all"}, schemas: []schemas.Schema{order(t)}}
	p := New(&pub, reg, Config{Topic: func(string) Topic { return Topic{Value: Part{Subject: FixedSubject("all")}} }})
	if err := p.Publish(t.Context(), Event{Topic: "x", Value: value("a")}); err != nil {
		t.Fatal(err)
	}
}

// An event that is published after an error must not share the buffers of the
// one before: the publisher may still be about to send it.
func TestBuffersAfterError(t *testing.T) {
	var kept []stream.Record
	pub := retaining{func(records []stream.Record) error {
		if kept == nil {
			kept = records
			return context.Canceled
		}
		return nil
	}}
	p := New(pub, &registry{subjects: []string{"t-value"}, schemas: []schemas.Schema{order(t)}}, Config{})
	if err := p.Publish(t.Context(), Event{Topic: "t", Key: []byte("a"), Value: value("a")}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for range 10 {
		if err := p.Publish(t.Context(), Event{Topic: "t", Value: value("b")}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(stream.Record{Topic: "t", Key: []byte("a"), Value: encoded(t, "a")}, kept[0]); diff != "" {
		t.Error("what the publisher kept has changed (-want +got):\n", diff)
	}
}

type retaining struct {
	publish func([]stream.Record) error
}

func (r retaining) Publish(_ context.Context, records ...stream.Record) error {
	return r.publish(records)
}

// Whatever fits arrives, in order, as what it was, and the rest is named.
func TestPublishProperty(t *testing.T) {
	s := order(t)
	sensors, err := avro.Format{}.Parse(`{"type":"record","name":"S","fields":[{"name":"id","type":"string"}]}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	reg := &registry{subjects: []string{"orders-value", "sensors-value"}, schemas: []schemas.Schema{s, sensors}}
	var pub publisher
	p := New(&pub, reg, Config{})
	rapid.Check(t, func(t *rapid.T) {
		pub.records = nil
		var events []Event
		var want []stream.Record
		bad := map[int]bool{}
		for i := range rapid.IntRange(0, 30).Draw(t, "events") {
			e := Event{Topic: rapid.SampledFrom([]string{"orders", "sensors", "none"}).Draw(t, "topic"), Key: fmt.Append(nil, i)}
			switch {
			case rapid.IntRange(0, 9).Draw(t, "tombstone") == 0:
			case rapid.IntRange(0, 4).Draw(t, "bad") == 0:
				e.Value = map[string]any{"id": i}
				bad[i] = true
			default:
				m := map[string]any{"id": rapid.String().Draw(t, "id")}
				if e.Topic == "orders" {
					m["amount"] = float64(i)
				}
				e.Value = m
				bad[i] = e.Topic == "none"
			}
			events = append(events, e)
			if bad[i] {
				continue
			}
			r := stream.Record{Topic: e.Topic, Key: e.Key}
			if e.Value != nil {
				n := slices.Index(reg.subjects, e.Topic+"-value")
				if r.Value, err = reg.schemas[n].AppendEncode(schemas.AppendHeader(nil, schemas.ID(n+1)), e.Value); err != nil {
					t.Fatal(err)
				}
			}
			want = append(want, r)
		}
		err := p.Publish(context.Background(), events...)
		var failed stream.BatchError
		if f := (*stream.BatchError)(nil); errors.As(err, &f) {
			failed = *f
		} else if err != nil {
			t.Fatal(err)
		}
		for i := range events {
			if bad[i] != (failed.Errs[i] != nil) {
				t.Errorf("event %d: bad %v, error %v", i, bad[i], failed.Errs[i])
			}
		}
		if diff := cmp.Diff(want, pub.records); diff != "" {
			t.Errorf("published (-want +got):\n%s", diff)
		}
	})
}

func TestConcurrent(t *testing.T) {
	b := memory.New()
	defer b.Close()
	if err := b.Create(t.Context(), "t", 1); err != nil {
		t.Fatal(err)
	}
	p := New(b, &registry{subjects: []string{"t-value"}, schemas: []schemas.Schema{order(t)}}, Config{})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 50 {
				id := fmt.Sprintf("%d-%d", g, i)
				if err := p.Publish(t.Context(), Event{Topic: "t", Key: []byte(id), Value: value(id)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	src, err := b.Open(t.Context(), stream.Subscription{Topic: "t", Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	records, _, err := src.Fetch(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	if len(records) != 200 {
		t.Errorf("%d records, want 200", len(records))
	}
	for _, r := range records {
		if !bytes.Equal(r.Value, encoded(t, string(r.Key))) {
			t.Fatalf("record %s holds %q", r.Key, r.Value)
		}
	}
}

// A call allocates for itself, not for each event.
func TestAllocations(t *testing.T) {
	reg := &registry{subjects: []string{"t-value"}, schemas: []schemas.Schema{raw{}}}
	p := New(discard{}, reg, Config{})
	allocations := func(n int) float64 {
		events := make([]Event, n)
		for i := range events {
			events[i] = Event{Topic: "t", Key: []byte("k"), Value: json.RawMessage("x")}
		}
		return testing.AllocsPerRun(100, func() {
			if err := p.Publish(context.Background(), events...); err != nil {
				t.Fatal(err)
			}
		})
	}
	if few, many := allocations(1), allocations(1000); many > few+100 { // buffers grow, and the race detector empties pools
		t.Errorf("%v allocations for 1000 events, %v for one", many, few)
	}
}

// discard is a Publisher without a broker.
type discard struct{}

func (discard) Publish(context.Context, ...stream.Record) error { return nil }

// raw is a schema whose encoder does not allocate.
type raw struct{ schemas.Schema }

func (raw) AppendEncode(dst []byte, v any) ([]byte, error) {
	return append(dst, v.(json.RawMessage)...), nil
}
