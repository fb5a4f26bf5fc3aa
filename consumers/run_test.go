package consumers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"penstock/schemas"
	"penstock/stream"
	"penstock/stream/memory"
)

// nowhere takes dead letters and keeps them.
type nowhere struct {
	mu      sync.Mutex
	letters []stream.Record
}

func (n *nowhere) Publish(_ context.Context, records ...stream.Record) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.letters = append(n.letters, records...)
	return nil
}

// within runs Run in a bubble of its own time until d has passed, and returns
// what it returns.
func within(t *testing.T, d time.Duration, src stream.Source, sink Sink, cfg Config) (err error) {
	t.Helper()
	if cfg.Registry == nil {
		cfg.Registry = registry{}
	}
	synctest.Test(t, func(*testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), d)
		defer cancel()
		err = Run(ctx, src, sink, cfg)
	})
	return err
}

func TestRunOverBroker(t *testing.T) {
	b := memory.New()
	defer b.Close()
	ctx := context.Background()
	for _, topic := range []string{"t", DeadLetterTopic("t", "g")} {
		if err := b.Create(ctx, topic, 3); err != nil {
			t.Fatal(err)
		}
	}
	var in []stream.Record
	want := map[string][]string{} // by key
	bad := 0
	for i := range 1000 {
		key, value := fmt.Sprint("k", i%17), fmt.Sprint("v", i)
		if i%10 == 3 {
			value = "!" + value
			bad++
		} else {
			want[key] = append(want[key], value)
		}
		in = append(in, stream.Record{Topic: "t", Key: []byte(key), Value: framed(value)})
	}
	if err := b.Publish(ctx, in...); err != nil {
		t.Fatal(err)
	}
	src, err := b.Open(ctx, stream.Subscription{Topic: "t", Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()

	ctx, cancel := context.WithCancel(ctx)
	var mu sync.Mutex
	got := map[string][]string{}
	settled := 0
	err = Run(ctx, src, sinkFunc(func(_ context.Context, b Batch) error {
		mu.Lock()
		defer mu.Unlock()
		for _, m := range b.Messages {
			got[string(m.Key)] = append(got[string(m.Key)], m.Data.(string))
		}
		return nil
	}), Config{
		Group: "g", Registry: registry{}, DeadLetters: b, MaxRecords: 7,
		Hooks: Hooks{Settled: func(b Batch, _ time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			if settled += int(b.Next - b.First); settled == len(in) {
				cancel()
			}
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("by key (-want +got):\n", diff)
	}
	ranges, err := b.Ranges(context.Background(), "t.g.dlq")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range ranges {
		bad -= int(r.Records)
	}
	if bad != 0 {
		t.Errorf("%d dead letters too few", bad)
	}
}

func TestChain(t *testing.T) {
	src := &script{batches: [][]stream.Record{
		records(10, "a", "b"),
		{records(15, "c")[0], records(18, "d")[0]}, // 12 to 14, 16 and 17 hold nothing
		records(19, "!"),                           // all dead letters
		records(11, "b"),                           // again
	}}
	var got [][3]int64
	sink := sinkFunc(func(_ context.Context, b Batch) error {
		got = append(got, [3]int64{b.First, b.Next, int64(len(b.Messages))})
		return nil
	})
	if err := within(t, time.Second, src, sink, Config{Group: "g", DeadLetters: &nowhere{}}); err != nil {
		t.Fatal(err)
	}
	want := [][3]int64{{10, 12, 2}, {12, 19, 2}, {19, 20, 0}, {11, 12, 1}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("first, next, messages (-want +got):\n", diff)
	}
}

func TestDeadLetter(t *testing.T) {
	at := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	src := &script{batches: [][]stream.Record{{
		{Topic: "t", Partition: 2, Offset: 5, Key: []byte("k"), Value: framed("!x"), Time: at, Headers: []stream.Header{
			{Key: "h", Value: []byte("1")}, {Key: "h", Value: []byte("2")},
			{Key: stream.HeaderOffset, Value: []byte("99")}, // from an earlier life
			{Key: stream.HeaderReason, Value: []byte("old")},
		}},
		{Topic: "t", Partition: 2, Offset: 6, Value: framed("never"), Time: at},
	}}}
	sink := sinkFunc(func(_ context.Context, b Batch) error {
		var refused stream.BatchError
		for i, m := range b.Messages {
			if m.Data == "never" {
				refused.Fail(i, errors.New("no such column"))
			}
		}
		return refused.OrNil()
	})
	var out nowhere
	if err := within(t, time.Second, src, sink, Config{Group: "g", DeadLetters: &out}); err != nil {
		t.Fatal(err)
	}
	if n, _ := src.acks(); n != 1 {
		t.Errorf("%d batches acknowledged, want 1", n)
	}
	header := func(k, v string) stream.Header { return stream.Header{Key: k, Value: []byte(v)} }
	decode := "written with schema id 7: at /a: expected no exclamation mark, found one"
	want := []stream.Record{
		{Topic: "t.g.dlq", Key: []byte("k"), Value: framed("!x"), Time: at, Headers: []stream.Header{
			header("h", "1"), header("h", "2"),
			header(stream.HeaderOffset, "99"),
			header(stream.HeaderTopic, "t"), header(stream.HeaderPartition, "2"),
			header(stream.HeaderStage, "VALUE_CONVERTER"), header(stream.HeaderClass, "penstock.decode-failed"), header(stream.HeaderMessage, decode),
			header(stream.HeaderReason, "decode-failed"), header(stream.HeaderError, decode), header(stream.HeaderPointer, "/a"),
			header(stream.HeaderGroup, "g"),
		}},
		{Topic: "t.g.dlq", Value: framed("never"), Time: at, Headers: []stream.Header{
			header(stream.HeaderTopic, "t"), header(stream.HeaderPartition, "2"), header(stream.HeaderOffset, "6"),
			header(stream.HeaderStage, "TASK_PUT"), header(stream.HeaderClass, "penstock.refused-by-sink"), header(stream.HeaderMessage, "no such column"),
			header(stream.HeaderReason, "refused-by-sink"), header(stream.HeaderError, "no such column"), header(stream.HeaderPointer, ""),
			header(stream.HeaderGroup, "g"),
		}},
	}
	notTime := cmpopts.IgnoreSliceElements(func(h stream.Header) bool { return h.Key == stream.HeaderTime })
	if diff := cmp.Diff(want, out.letters, notTime); diff != "" {
		t.Error("dead letters (-want +got):\n", diff)
	}
	for _, l := range out.letters {
		v, _ := l.Header(stream.HeaderTime)
		if _, err := time.Parse(time.RFC3339, string(v)); err != nil {
			t.Error(err)
		}
	}
}

// Dead letters of all topics go to the one that is named.
func TestDeadLetterNamed(t *testing.T) {
	src := &script{batches: [][]stream.Record{{{Topic: "t", Value: framed("!x")}}, {{Topic: "u", Value: framed("!x")}}}}
	var out nowhere
	sink := sinkFunc(func(context.Context, Batch) error { return nil })
	if err := within(t, time.Second, src, sink, Config{Group: "g", DeadLetters: &out, DeadLetterTopic: "refused"}); err != nil {
		t.Fatal(err)
	}
	if len(out.letters) != 2 || out.letters[0].Topic != "refused" || out.letters[1].Topic != "refused" {
		t.Errorf("got %+v, want two in topic refused", out.letters)
	}
}

func TestClip(t *testing.T) {
	for _, s := range []string{strings.Repeat("é", 3000), "x" + strings.Repeat("é", 3000), strings.Repeat("\xffa", 5000)} {
		got := stream.HeaderText(s)
		if len(got) > 2048 || len(got) < 2048-8 || strings.ToValidUTF8(got, "") != got {
			t.Errorf("clip gives %d bytes: %.20q…", len(got), got)
		}
	}
	if got := stream.HeaderText("short"); got != "short" {
		t.Errorf("clip gives %q", got)
	}
}

// The waits double up to the limit, and lie anywhere below that.
func TestBackoff(t *testing.T) {
	src := &script{batches: [][]stream.Record{records(0, "a")}}
	fails := 12
	sink := sinkFunc(func(context.Context, Batch) error {
		if fails--; fails >= 0 {
			return errDown
		}
		return nil
	})
	var waits []time.Duration
	cfg := Config{Backoff: 100 * time.Millisecond, MaxBackoff: 5 * time.Second}
	cfg.Hooks.Retry = func(what string, attempt int, wait time.Duration, err error) {
		if what != "write" || attempt != len(waits)+1 || !errors.Is(err, errDown) {
			t.Errorf("retry of %s, attempt %d, for %v", what, attempt, err)
		}
		waits = append(waits, wait)
	}
	if err := within(t, time.Hour, src, sink, cfg); err != nil {
		t.Fatal(err)
	}
	if n, _ := src.acks(); n != 1 || len(waits) != 12 {
		t.Fatalf("%d acknowledged after %d waits", n, len(waits))
	}
	most := 100 * time.Millisecond
	for i, w := range waits {
		if w > most {
			t.Errorf("wait %d is %s, want at most %s", i+1, w, most)
		}
		most = min(2*most, 5*time.Second)
	}
	for attempt := range 100 { // no overflow
		if d := (Config{}).withDefaults().delay(attempt+1, errDown); d < 0 || d > 30*time.Second {
			t.Errorf("attempt %d: %s", attempt+1, d)
		}
	}
}

type busy struct{ after time.Duration }

func (busy) Error() string               { return "busy" }
func (b busy) RetryAfter() time.Duration { return b.after }

func TestRetryAfter(t *testing.T) {
	if d := (Config{}).withDefaults().delay(1, fmt.Errorf("write: %w", busy{time.Minute})); d != time.Minute {
		t.Errorf("waits %s, want the minute it was told", d)
	}
}

// A registry that is down is not the records' fault.
func TestRegistryDown(t *testing.T) {
	src := &script{batches: [][]stream.Record{records(0, "a", "b")}}
	down := 20
	var got []string
	sink := sinkFunc(func(_ context.Context, b Batch) error {
		for _, m := range b.Messages {
			got = append(got, m.Data.(string))
		}
		return nil
	})
	var out nowhere
	cfg := Config{Group: "g", DeadLetters: &out, Registry: registry{fail: func() error {
		if down--; down >= 0 {
			return errDown
		}
		return nil
	}}}
	if err := within(t, time.Hour, src, sink, cfg); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, got); diff != "" || len(out.letters) > 0 {
		t.Errorf("%d dead letters, and (-want +got):\n%s", len(out.letters), diff)
	}
}

// While the run ends nothing is tried twice, nothing is set aside, and what
// was not written is given back whole.
func TestStopWhileSinkIsDown(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
	}{
		{"down", errDown},
		{"down, said record by record", &stream.BatchError{Errs: map[int]error{0: fmt.Errorf("timeout: %w", context.DeadlineExceeded)}}},
		{"no record of this batch", &stream.BatchError{Errs: map[int]error{7: errDown}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := &script{batches: [][]stream.Record{records(0, "a"), records(1, "b"), records(2, "!")}}
			sink := sinkFunc(func(_ context.Context, b Batch) error {
				if b.First > 0 {
					t.Errorf("batch %d was written before the one ahead of it", b.First)
				}
				return test.err
			})
			var out nowhere
			err := within(t, time.Minute, src, sink, Config{Group: "g", DeadLetters: &out})
			if !errors.Is(err, test.err) {
				t.Errorf("Run returns %v", err)
			}
			if a, r := src.acks(); a != 0 || r != 3 || len(out.letters) > 0 {
				t.Errorf("%d acknowledged, %d given back, %d dead letters", a, r, len(out.letters))
			}
			for _, err := range src.settled {
				var partly *stream.BatchError
				if errors.As(err, &partly) {
					t.Error("a batch was settled in part")
				}
			}
		})
	}
}

// Nothing is written while something before it was given back and has not come
// again, unless the partition went and came back meanwhile.
func TestHole(t *testing.T) {
	type batch struct {
		assignment int32
		offsets    string // one digit each
		written    string // the first batch that the sink is asked to write it refuses
		gone       bool   // the assignment is over when the batch is settled
	}
	for _, test := range []struct {
		name    string
		batches []batch
	}{
		{"comes again in order", []batch{
			{0, "0", "", false}, {0, "1", "", false}, {0, "0", "0", false}, {0, "1", "1", false}, {0, "2", "2", false},
		}},
		{"new records between those that come again", []batch{
			{0, "0", "", false}, {0, "1", "", false}, {0, "0", "0", false}, {0, "2", "", false}, {0, "1", "1", false}, {0, "2", "2", false}, {0, "3", "3", false},
		}},
		{"new records in one batch with those that come again", []batch{
			{0, "01", "", false}, {0, "2", "", false}, {0, "013", "01", false}, {0, "2", "2", false}, {0, "3", "3", false},
		}},
		{"new records before those that come again", []batch{
			{0, "0", "", false}, {0, "1", "", false}, {0, "2", "", false}, {0, "02", "0", false}, {0, "1", "1", false}, {0, "2", "2", false},
		}},
		{"offsets at which nothing lies", []batch{
			{0, "2", "", false}, {0, "5", "", false}, {0, "2", "2", false}, {0, "5", "5", false}, {0, "9", "9", false},
		}},
		{"the assignment ends", []batch{
			{0, "0", "", true}, {0, "1", "", true}, {1, "0", "0", false}, {1, "1", "1", false},
		}},
		{"another consumer went on", []batch{
			{0, "0", "", true}, {0, "1", "", true}, {1, "7", "7", false}, {1, "8", "8", false},
		}},
		{"another consumer went on from what was taken back", []batch{
			{0, "0", "", false}, {0, "1", "", false}, {1, "7", "7", false}, {1, "8", "8", false},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := &script{}
			var want, got []string
			for _, b := range test.batches {
				var all []stream.Record
				for _, digit := range b.offsets {
					r := records(int64(digit-'0'), "x")[0]
					r.Assignment = b.assignment
					all = append(all, r)
				}
				src.batches = append(src.batches, all)
				want = append(want, b.written)
			}
			settled := 0
			written := ""
			src.refuse = func() error {
				got = append(got, written)
				written = ""
				settled++
				if test.batches[settled-1].gone {
					return stream.ErrFenced
				}
				return nil
			}
			calls := 0
			sink := sinkFunc(func(_ context.Context, b Batch) error {
				if calls++; calls == 1 {
					return stream.ErrFenced
				}
				for _, m := range b.Messages {
					written += fmt.Sprint(m.Offset)
				}
				if last := b.Messages[len(b.Messages)-1].Offset; b.Next != last+1 {
					t.Errorf("the batch ends at %d, its last record is %d", b.Next, last)
				}
				return nil
			})
			if err := within(t, time.Second, src, sink, Config{InFlight: 1}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error("written of each batch (-want +got):\n", diff)
			}
			open := slices.DeleteFunc(slices.Clone(test.batches), func(b batch) bool { return b.gone })
			for i, err := range src.settled {
				acknowledged := ""
				var partly *stream.BatchError
				named := errors.As(err, &partly)
				for n, digit := range open[i].offsets {
					if err == nil || named && partly.Errs[n] == nil {
						acknowledged += string(digit)
					}
				}
				if acknowledged != open[i].written {
					t.Errorf("batch %q: %q was written, and %q acknowledged", open[i].offsets, open[i].written, acknowledged)
				}
			}
		})
	}
}

// What is in flight is finished after the stop, if it is quick enough.
func TestStopFinishes(t *testing.T) {
	for _, test := range []struct {
		takes    time.Duration
		finished bool
	}{{4 * time.Second, true}, {6 * time.Second, false}} {
		src := &script{batches: [][]stream.Record{records(0, "a", "!"), records(2, "b")}}
		sink := sinkFunc(func(ctx context.Context, b Batch) error {
			select {
			case <-time.After(test.takes):
				return nil
			case <-ctx.Done():
				// A sink that takes the interruption for the record's fault.
				var refused stream.BatchError
				refused.Fail(0, errors.New("cannot store"))
				return refused.OrNil()
			}
		})
		var out nowhere
		begin := time.Second
		err := within(t, begin, src, sink, Config{Group: "g", DeadLetters: &out, StopWithin: 8 * time.Second})
		a, r := src.acks()
		if test.finished != (err == nil) || len(out.letters) != 1 {
			t.Errorf("%s: Run returns %v, %d dead letters", test.takes, err, len(out.letters))
		}
		if test.finished != (a == 2) || a+r != 2 {
			t.Errorf("%s: %d acknowledged, %d given back", test.takes, a, r)
		}
	}
}

func TestErrStop(t *testing.T) {
	src := &script{batches: [][]stream.Record{records(0, "a"), records(1, "b")}}
	sink := sinkFunc(func(context.Context, Batch) error { return fmt.Errorf("no table %q: %w", "x", ErrStop) })
	err := within(t, time.Hour, src, sink, Config{})
	if !errors.Is(err, ErrStop) || !strings.Contains(err.Error(), `offset 0 of t/0: no table "x"`) {
		t.Errorf("Run returns %v", err)
	}
	fetched := 2 - len(src.batches) // perhaps it ended before it fetched the second
	if a, r := src.acks(); a != 0 || r != fetched {
		t.Errorf("of %d fetched %d acknowledged, %d given back", fetched, a, r)
	}
}

func TestNoDeadLetterTopic(t *testing.T) {
	src := &script{batches: [][]stream.Record{records(0, "a", "!")}}
	err := within(t, time.Hour, src, sinkFunc(func(context.Context, Batch) error { return nil }), Config{})
	var why *Reason
	if !errors.As(err, &why) || why.Code != DecodeFailed || !strings.Contains(err.Error(), "record 1 of t/0") {
		t.Errorf("Run returns %v", err)
	}
	if a, _ := src.acks(); a != 0 {
		t.Error("the batch was acknowledged")
	}
}

func TestDeadLetterTooLarge(t *testing.T) {
	src := &script{batches: [][]stream.Record{records(0, "!1", "!2")}}
	full := publisherFunc(func(_ context.Context, records ...stream.Record) error {
		var failed stream.BatchError
		failed.Fail(len(records)-1, stream.ErrTooLarge)
		return failed.OrNil()
	})
	err := within(t, time.Hour, src, sinkFunc(func(context.Context, Batch) error { return nil }), Config{Group: "g", DeadLetters: full})
	if !errors.Is(err, stream.ErrTooLarge) || !strings.Contains(err.Error(), `record 1 of t/0 to topic "t.g.dlq"`) {
		t.Errorf("Run returns %v", err)
	}
	if a, _ := src.acks(); a != 0 {
		t.Error("the batch was acknowledged")
	}
}

func TestConfigNeedsGroup(t *testing.T) {
	if err := Run(t.Context(), nil, nil, Config{DeadLetters: &nowhere{}}); err == nil {
		t.Error("dead letters without a group: no error")
	}
}

// failing is a Source whose Fetch fails.
type failing struct{ errs []error }

func (f *failing) Fetch(context.Context, int) ([]stream.Record, stream.AckFunc, error) {
	err := f.errs[0]
	f.errs = f.errs[1:]
	return nil, nil, err
}

func TestFetchError(t *testing.T) {
	src := &failing{errs: []error{stream.ErrUnreachable, stream.ErrUnreachable, stream.ErrTopicChanged}}
	err := within(t, time.Hour, src, nil, Config{})
	if !errors.Is(err, stream.ErrTopicChanged) || len(src.errs) > 0 {
		t.Errorf("Run returns %v, %d errors early", err, len(src.errs))
	}
}

// A broker that cannot take an acknowledgement is asked again.
func TestAckFails(t *testing.T) {
	fails := 3
	src := &script{batches: [][]stream.Record{records(0, "a")}, refuse: func() error {
		if fails--; fails >= 0 {
			return stream.ErrUnreachable
		}
		return nil
	}}
	writes := 0
	sink := sinkFunc(func(context.Context, Batch) error { writes++; return nil })
	if err := within(t, time.Hour, src, sink, Config{}); err != nil {
		t.Fatal(err)
	}
	if a, _ := src.acks(); a != 1 || writes != 1 {
		t.Errorf("%d acknowledged, %d writes", a, writes)
	}
}

// Partitions do not wait for each other, as long as there are slots.
func TestPartitionsAreIndependent(t *testing.T) {
	stuck, other := records(0, "stuck"), records(0, "other")
	other[0].Partition = 1
	src := &script{batches: [][]stream.Record{stuck, other}}
	var written []string
	sink := sinkFunc(func(_ context.Context, b Batch) error {
		if b.Partition == 0 {
			return errDown
		}
		written = append(written, b.Messages[0].Data.(string))
		return nil
	})
	err := within(t, time.Hour, src, sink, Config{InFlight: 2})
	if !errors.Is(err, errDown) {
		t.Errorf("Run returns %v", err)
	}
	if diff := cmp.Diff([]string{"other"}, written); diff != "" {
		t.Error("written (-want +got):\n", diff)
	}
}

func TestDecode(t *testing.T) {
	long := schemas.Limits{MaxBytes: 10}
	for _, test := range []struct {
		name   string
		record stream.Record
		want   Code
		text   string
	}{
		{"empty", stream.Record{Value: []byte{}}, NotFramed, "empty"},
		{"not framed", stream.Record{Value: []byte(`{"a":1}`)}, NotFramed, "0x7b"},
		{"truncated", stream.Record{Value: []byte{0, 0, 0}}, Truncated, "schema id"},
		{"too large", stream.Record{Value: framed("123456")}, TooLarge, "at most 10 bytes, found 11"},
		{"unknown", stream.Record{Value: []byte{0, 0, 0, 0, 9, 'x'}}, UnknownSchema, "id 9"},
		{"of no use", stream.Record{Value: []byte{0, 0, 0, 0, 66, 'x'}}, UnknownSchema, "cannot be used here"},
		{"wrong", stream.Record{Value: framed("!")}, DecodeFailed, "exclamation"},
		{"GUID", stream.Record{Value: []byte("x"), Headers: []stream.Header{{Key: schemas.ValueHeader, Value: schemas.AppendGUID(nil, schemas.GUID{15: 1})}}},
			UnknownSchema, "00000000-0000-0000-0000-000000000001"},
		{"GUID cut off", stream.Record{Value: []byte("x"), Headers: []stream.Header{{Key: schemas.ValueHeader, Value: []byte{1, 2}}}}, Truncated, "GUID"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := NewDecoder(registry{}, long).Decode(t.Context(), test.record)
			var why *Reason
			if !errors.As(err, &why) || why.Code != test.want || !strings.Contains(err.Error(), test.text) {
				t.Errorf("Decode gives %v, want %s with %q", err, test.want, test.text)
			}
		})
	}

	m, err := NewDecoder(registry{}, schemas.Limits{}).Decode(t.Context(), stream.Record{Offset: 3})
	if err != nil || m.Data != nil || m.Schema != nil || m.Offset != 3 {
		t.Errorf("a tombstone gives %+v, %v", m, err)
	}
	m, err = NewDecoder(guids{}, schemas.Limits{}).Decode(t.Context(), stream.Record{
		Value:   []byte("by guid"),
		Headers: []stream.Header{{Key: schemas.ValueHeader, Value: schemas.AppendGUID(nil, schemas.GUID{1})}},
	})
	if err != nil || m.Data != "by guid" || m.SchemaID != 0 {
		t.Errorf("a GUID gives %+v, %v", m, err)
	}
	_, err = NewDecoder(registry{fail: func() error { return errDown }}, schemas.Limits{}).Decode(t.Context(), stream.Record{Value: framed("a")})
	var why *Reason
	if !errors.Is(err, errDown) || errors.As(err, &why) {
		t.Errorf("a registry that is down gives %v", err)
	}
}

// Values that name no schema are read with the one for them, if there is one.
func TestDecodePlain(t *testing.T) {
	d := NewDecoder(registry{}, schemas.Limits{}).Plain(text{})
	for value, want := range map[string]string{
		"hello": "hello", string(framed("a")): "a", "!": "decode-failed", "\x00\x00": "truncated",
	} {
		m, err := d.Decode(t.Context(), stream.Record{Value: []byte(value)})
		if got, _ := m.Data.(string); err != nil && !strings.HasPrefix(err.Error(), want) || err == nil && (got != want || m.Schema != text{}) {
			t.Errorf("%q gives %q, %v, want %s", value, got, err, want)
		}
	}
}

type guids struct{ registry }

func (guids) SchemaByGUID(context.Context, schemas.GUID) (schemas.Schema, error) { return text{}, nil }

// ofKey are records of one key at the given offsets.
func ofKey(key string, offsets ...int64) []stream.Record {
	rs := make([]stream.Record, len(offsets))
	for i, o := range offsets {
		rs[i] = stream.Record{Topic: "t", Offset: o, Key: []byte(key), Value: framed(fmt.Sprint(key, o))}
	}
	return rs
}

// Keys do not wait for one another, and each is written in its order; once all
// is done nothing of them is kept.
func TestByKey(t *testing.T) {
	src := &script{batches: [][]stream.Record{ofKey("a", 0, 2), ofKey("b", 1, 5), ofKey("a", 3, 4), ofKey("b", 6)}}
	var mu sync.Mutex
	var got []string
	sink := sinkFunc(func(ctx context.Context, b Batch) error {
		if b.Messages[0].Data == "a0" {
			time.Sleep(time.Second)
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, fmt.Sprint(b.First, b.Next))
		return nil
	})
	if err := within(t, time.Minute, src, sink, Config{Registry: registry{}, ByKey: true}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1 6", "6 7", "0 3", "3 5"}, got); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
}

// positions is a sink that holds positions.
type positions struct {
	sinkFunc
	stream.Owner
}

func TestByKeyRefusesPositions(t *testing.T) {
	if err := Run(t.Context(), &script{}, positions{}, Config{ByKey: true}); err == nil {
		t.Error("Run took a sink that holds positions")
	}
}

// gatherer is a source that gives its last batch only when it is drained.
type gatherer struct {
	script
	drained chan struct{}
}

func (g *gatherer) Drain() { close(g.drained) }

func (g *gatherer) Fetch(ctx context.Context, n int) ([]stream.Record, stream.AckFunc, error) {
	select {
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	case <-g.drained:
	}
	if len(g.batches) == 0 {
		return nil, nil, stream.ErrClosed
	}
	return g.script.Fetch(ctx, n)
}

func TestStopDrains(t *testing.T) {
	g := &gatherer{script: script{batches: [][]stream.Record{records(0, "a"), records(1, "b")}}, drained: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, g, sinkFunc(func(context.Context, Batch) error { return nil }), Config{Registry: registry{}}); err != nil {
		t.Fatal(err)
	}
	if acknowledged, _ := g.acks(); acknowledged != 2 {
		t.Errorf("%d batches of what was gathered were acknowledged, want 2", acknowledged)
	}
}

func TestInFlightBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{}
		for i := range int64(5) {
			src.batches = append(src.batches, records(i, "abcde")) // 10 bytes
		}
		go func() {
			synctest.Wait()
			src.mu.Lock()
			defer src.mu.Unlock()
			if left := len(src.batches); left != 2 {
				t.Errorf("%d of 5 batches were left at a limit of 25 bytes, want 2", left)
			}
		}()
		sink := sinkFunc(func(context.Context, Batch) error {
			time.Sleep(time.Second)
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := Run(ctx, src, sink, Config{Registry: registry{}, InFlightBytes: 25}); err != nil {
			t.Fatal(err)
		}
		if acknowledged, _ := src.acks(); acknowledged != 5 {
			t.Errorf("%d batches were acknowledged, want 5", acknowledged)
		}
	})
}

// Of a batch that a sink refuses without a word why, only what it refuses alone
// is set aside; the rest is stored once, in runs that follow on from one another.
func TestHalves(t *testing.T) {
	bad := map[int64]bool{3: true, 4: true, 9: true}
	src := &script{batches: [][]stream.Record{records(0, strings.Split("abcdefghijk", "")...)}}
	var stored []int64
	next, writes := int64(0), 0
	sink := sinkFunc(func(_ context.Context, b Batch) error {
		writes++
		for _, m := range b.Messages {
			if bad[m.Offset] {
				return fmt.Errorf("422: %w", ErrBadRecord)
			}
		}
		if b.First != next {
			t.Errorf("a run from %d after one to %d", b.First, next)
		}
		next = b.Next
		for _, m := range b.Messages {
			stored = append(stored, m.Offset)
		}
		return nil
	})
	letters := &nowhere{}
	var done int
	err := within(t, time.Minute, src, sink, Config{Group: "g", DeadLetters: letters, Hooks: Hooks{
		Settled: func(b Batch, _ time.Duration) { done += len(b.Messages) },
	}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{0, 1, 2, 5, 6, 7, 8, 10}, stored); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	if len(letters.letters) != 3 || next != 11 || done != 8 || writes > 25 {
		t.Errorf("%d dead letters, position %d, %d settled in %d writes", len(letters.letters), next, done, writes)
	}
	if acknowledged, returned := src.acks(); acknowledged != 1 || returned != 0 {
		t.Errorf("%d batches acknowledged, %d given back", acknowledged, returned)
	}
}
