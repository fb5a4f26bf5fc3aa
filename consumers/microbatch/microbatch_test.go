package microbatch_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/consumers/microbatch"
	"penstock/stream"
)

// source yields what is sent to it, and takes notes of how it is settled.
type source struct {
	in      chan feed
	rest    feed
	fetched []*fetched
	refuse  int // how many acks are to fail for a passing reason
}

type feed struct {
	records []stream.Record
	err     error
}

// fetched is what one Fetch returned and what became of it.
type fetched struct {
	records []stream.Record
	acks    int
	errs    map[int]error
}

func newSource() *source { return &source{in: make(chan feed, 1000)} }

func (s *source) Fetch(ctx context.Context, max int) ([]stream.Record, stream.AckFunc, error) {
	if len(s.rest.records) == 0 {
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case f := <-s.in:
			if f.err != nil {
				return nil, nil, f.err
			}
			s.rest = f
		}
	}
	n := min(max, len(s.rest.records))
	f := &fetched{records: s.rest.records[:n]}
	s.rest.records = s.rest.records[n:]
	s.fetched = append(s.fetched, f)
	return f.records, func(_ context.Context, err error) error {
		if s.refuse > 0 {
			s.refuse--
			return errors.New("try again")
		}
		f.acks++
		f.errs = map[int]error{}
		var partly *stream.BatchError
		switch {
		case errors.As(err, &partly):
			maps.Copy(f.errs, partly.Errs)
		case err != nil:
			for i := range f.records {
				f.errs[i] = err
			}
		}
		if f.records[0].Partition == fencedPartition {
			return stream.ErrFenced
		}
		return nil
	}, nil
}

// fencedPartition is one whose acks come too late.
const fencedPartition = 66

// run makes n records from offset on.
func run(partition int32, offset int64, n, size int) []stream.Record {
	var records []stream.Record
	for i := range int64(n) {
		records = append(records, stream.Record{Topic: "t", Partition: partition, Offset: offset + i, Value: make([]byte, size)})
	}
	return records
}

// fetch returns the offsets of the next batch, and nil if none comes within
// patience (and a nanosecond, so that what comes just then counts).
func fetch(t *testing.T, b *microbatch.Batcher, patience time.Duration) ([]int64, stream.AckFunc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience+1)
	defer cancel()
	records, ack, err := b.Fetch(ctx, 1000)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var offsets []int64
	for _, r := range records {
		offsets = append(offsets, r.Offset)
	}
	return offsets, ack
}

func want(t *testing.T, b *microbatch.Batcher, patience time.Duration, want ...int64) stream.AckFunc {
	t.Helper()
	got, ack := fetch(t, b, patience)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("batch (-want +got):\n%s", diff)
	}
	return ack
}

// bubble runs test with a source and a batcher over it.
func bubble(t *testing.T, p microbatch.Policy, test func(t *testing.T, s *source, b *microbatch.Batcher)) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		b := microbatch.Batch(s, p)
		defer func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}()
		test(t, s, b)
	})
}

func TestCount(t *testing.T) {
	bubble(t, microbatch.Policy{Count: 3, Linger: time.Hour}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		s.in <- feed{records: run(0, 0, 2, 1)}
		want(t, b, time.Minute)
		s.in <- feed{records: run(0, 2, 5, 1)}
		want(t, b, 0, 0, 1, 2)
		want(t, b, 1, 3, 4, 5)
		want(t, b, time.Minute)
	})
}

func TestBytes(t *testing.T) {
	bubble(t, microbatch.Policy{Bytes: 10, Linger: time.Hour}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		s.in <- feed{records: run(0, 0, 2, 4)}
		want(t, b, time.Minute)
		s.in <- feed{records: run(0, 2, 1, 4)}
		want(t, b, 1, 0, 1) // with the third it would be 12
		s.in <- feed{records: run(0, 3, 1, 11)}
		want(t, b, 1, 2)
		want(t, b, 1, 3) // alone, since it is larger than the limit
	})
}

func TestBytesCountKeysAndHeaders(t *testing.T) {
	bubble(t, microbatch.Policy{Bytes: 10, Linger: time.Hour}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		r := run(0, 0, 2, 1)
		r[0].Key = make([]byte, 3)
		r[1].Headers = []stream.Header{{Key: "abc", Value: make([]byte, 1)}}
		s.in <- feed{records: r}
		want(t, b, time.Minute)
		s.in <- feed{records: run(0, 2, 1, 0)}
		want(t, b, time.Minute)
		s.in <- feed{records: run(0, 3, 1, 1)}
		want(t, b, 0, 0, 1, 2, 3)
	})
}

func TestLinger(t *testing.T) {
	bubble(t, microbatch.Policy{Linger: 10 * time.Second}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		time.Sleep(time.Minute) // an empty batch does not age
		s.in <- feed{records: run(0, 0, 1, 1)}
		want(t, b, 6*time.Second)
		s.in <- feed{records: run(0, 1, 1, 1)}
		s.in <- feed{records: run(1, 7, 1, 1)}
		want(t, b, 3999*time.Millisecond)
		want(t, b, time.Millisecond, 0, 1) // 10 s after its first record, not its last
		want(t, b, 5999*time.Millisecond)
		want(t, b, time.Millisecond, 7)
	})
}

func TestNoLinger(t *testing.T) {
	bubble(t, microbatch.Policy{Linger: -1}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		s.in <- feed{records: run(0, 0, 1, 1)}
		want(t, b, 1, 0)
	})
}

func TestFetchMax(t *testing.T) {
	bubble(t, microbatch.Policy{Linger: time.Hour}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		s.in <- feed{records: run(0, 0, 5, 1)}
		for _, n := range []int{2, 2} {
			records, _, err := b.Fetch(t.Context(), 2)
			if err != nil || len(records) != n {
				t.Fatalf("Fetch of 2: %d records, %v", len(records), err)
			}
		}
		want(t, b, time.Minute)
	})
}

// A full buffer does not wait for batches that nobody can complete.
func TestBuffer(t *testing.T) {
	bubble(t, microbatch.Policy{Linger: time.Hour, BufferedRecords: 4}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		for p := range int32(6) {
			s.in <- feed{records: run(p, int64(p), 1, 1)}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if n := len(s.fetched); n != 4 {
			t.Fatalf("%d records were read into a buffer of 4", n)
		}
		want(t, b, 1, 0)
		synctest.Wait()
		want(t, b, 1, 1)
		synctest.Wait()
		want(t, b, 1, 2)
		want(t, b, time.Minute)
	})
	bubble(t, microbatch.Policy{Linger: time.Hour, BufferedBytes: 10}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		s.in <- feed{records: run(0, 0, 1, 9)}
		want(t, b, time.Minute)
		s.in <- feed{records: run(1, 5, 1, 9)}
		s.in <- feed{records: run(2, 6, 1, 9)}
		synctest.Wait()
		if n := len(s.fetched); n != 2 {
			t.Fatalf("%d fetches were read into a buffer of 10 bytes, want 2", n)
		}
		want(t, b, 1, 0)
	})
}

func TestOrderBreaks(t *testing.T) {
	bubble(t, microbatch.Policy{Linger: time.Hour}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		s.in <- feed{records: run(0, 5, 3, 1)}
		s.in <- feed{records: run(0, 6, 3, 1)} // delivered again
		s.in <- feed{records: run(0, 9, 1, 1)}
		want(t, b, 1, 5, 6, 7)
		want(t, b, time.Hour, 6, 7, 8, 9)
	})
}

func TestSettle(t *testing.T) {
	bubble(t, microbatch.Policy{Count: 4, Linger: time.Hour}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		for _, r := range [][]stream.Record{run(0, 0, 1, 1), run(0, 1, 2, 1), run(0, 3, 5, 1)} {
			s.in <- feed{records: r}
		}
		first := want(t, b, 1, 0, 1, 2, 3)
		second := want(t, b, 1, 4, 5, 6, 7)
		bad := errors.New("bad")
		s.refuse = 1
		settle := func(ack stream.AckFunc, err error, ok bool) {
			t.Helper()
			if e := ack(t.Context(), err); (e == nil) != ok {
				t.Fatalf("ack: %v", e)
			}
		}
		batch := &stream.BatchError{Errs: map[int]error{2: bad, 3: bad}}
		settle(first, batch, false)
		settle(first, batch, true)
		settle(first, errors.New("once more"), true) // which does nothing
		if s.fetched[2].acks != 0 {
			t.Error("a fetch was settled before its last record was")
		}
		settle(second, &stream.BatchError{Errs: map[int]error{1: bad}}, true)
		var got []string
		for _, f := range s.fetched {
			got = append(got, fmt.Sprint(f.acks, f.errs))
		}
		if diff := cmp.Diff([]string{"1 map[]", "1 map[1:bad]", "1 map[0:bad 2:bad]"}, got); diff != "" {
			t.Errorf("settled (-want +got):\n%s", diff)
		}
	})
}

func TestFenced(t *testing.T) {
	bubble(t, microbatch.Policy{Count: 2, Linger: time.Hour}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		s.in <- feed{records: run(fencedPartition, 0, 1, 1)}
		s.in <- feed{records: run(fencedPartition, 1, 1, 1)}
		ack := want(t, b, 1, 0, 1)
		s.refuse = 1
		if err := ack(t.Context(), nil); errors.Is(err, stream.ErrFenced) {
			t.Fatalf("ack: %v before all is settled", err)
		}
		if err := ack(t.Context(), nil); !errors.Is(err, stream.ErrFenced) {
			t.Fatalf("ack: %v, want ErrFenced", err)
		}
	})
}

func TestErrors(t *testing.T) {
	bubble(t, microbatch.Policy{Linger: time.Hour}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		bad := errors.New("bad")
		s.in <- feed{records: run(0, 0, 2, 1)}
		s.in <- feed{err: bad}
		s.in <- feed{records: run(0, 2, 1, 1)}
		want(t, b, 1, 0, 1)
		if _, _, err := b.Fetch(t.Context(), 9); !errors.Is(err, bad) {
			t.Fatalf("Fetch: %v, want the source's error", err)
		}
		want(t, b, time.Hour, 2)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := b.Fetch(ctx, 9); !errors.Is(err, context.Canceled) {
			t.Fatalf("Fetch: %v, want context.Canceled", err)
		}
		s.in <- feed{records: run(0, 3, 1, 1)}
		s.in <- feed{err: fmt.Errorf("source: %w", stream.ErrClosed)}
		for range 2 {
			if _, _, err := b.Fetch(t.Context(), 9); !errors.Is(err, stream.ErrClosed) {
				t.Fatalf("Fetch: %v, want ErrClosed", err)
			}
		}
	})
}

func TestClose(t *testing.T) {
	bubble(t, microbatch.Policy{Linger: time.Hour}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		s.in <- feed{records: run(0, 0, 2, 1)}
		time.AfterFunc(time.Second, func() { _ = b.Close() })
		for range 2 {
			if _, _, err := b.Fetch(t.Context(), 9); !errors.Is(err, stream.ErrClosed) {
				t.Fatalf("Fetch: %v, want ErrClosed", err)
			}
		}
	})
}

// step is one thing that happens in TestModel.
type step struct {
	what      string // feed, again, wait, fetch, settle
	partition int32
	n, size   int
	pick      int
	bad       []int
	whole     bool
}

func steps() *rapid.Generator[[]step] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			what:      rapid.SampledFrom([]string{"feed", "feed", "feed", "again", "wait", "fetch", "fetch", "settle", "refuse"}).Draw(t, "what"),
			partition: rapid.Int32Range(0, 2).Draw(t, "partition"),
			n:         rapid.IntRange(1, 9).Draw(t, "n"),
			size:      rapid.IntRange(0, 12).Draw(t, "size"),
			pick:      rapid.IntRange(0, 20).Draw(t, "pick"),
			bad:       rapid.SliceOfN(rapid.IntRange(0, 8), 0, 3).Draw(t, "bad"),
			whole:     rapid.Bool().Draw(t, "whole"),
		}
	}), 1, 60)
}

// TestModel feeds, waits, fetches and settles at random and checks that each
// record is delivered as often as the source gave it, in that order, within the
// limits and in time, and that the source is told of each what was said of it.
func TestModel(t *testing.T) {
	policy := microbatch.Policy{Count: 7, Bytes: 30, Linger: 10 * time.Second, BufferedRecords: 40, BufferedBytes: 300}
	rapid.Check(t, func(rt *rapid.T) {
		list := steps().Draw(rt, "steps")
		var failure string
		bubble(t, policy, func(t *testing.T, s *source, b *microbatch.Batcher) {
			failure = play(t, policy, s, b, list)
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

type batch struct {
	keys []string // of its records
	ack  stream.AckFunc
	said bool // err was given to ack once, which failed
	err  error
}

func play(t *testing.T, policy microbatch.Policy, s *source, b *microbatch.Batcher, list []step) string {
	given := map[int32][]stream.Record{} // by partition, what is still to come
	came := map[int32][]time.Time{}      // and when it was put in
	next := map[int32]int64{}
	var open []batch
	outcome := map[string]error{} // what was said of each record that is settled
	deliveries := 0
	// Each delivery of a record has its own name, in a header.
	give := func(records []stream.Record) {
		for i := range records {
			deliveries++
			records[i].Headers = []stream.Header{{Key: fmt.Sprint(deliveries)}}
			p := records[i].Partition
			given[p] = append(given[p], records[i])
			came[p] = append(came[p], time.Now())
		}
		s.in <- feed{records: records}
		synctest.Wait()
	}
	size := func(r stream.Record) int { return len(r.Value) + len(r.Headers[0].Key) }
	take := func(max int, patience time.Duration) string {
		ctx, cancel := context.WithTimeout(t.Context(), patience+1)
		defer cancel()
		records, ack, err := b.Fetch(ctx, max)
		if err != nil {
			return ""
		}
		bt := batch{ack: ack}
		total := 0
		p := records[0].Partition
		since := came[p][0]
		buffered, bufferedBytes := 0, 0
		for _, rest := range given {
			buffered += len(rest)
			for _, r := range rest {
				bufferedBytes += size(r)
			}
		}
		for i, r := range records {
			if len(given[p]) == 0 || r.Partition != p || r.Headers[0].Key != given[p][0].Headers[0].Key {
				return fmt.Sprintf("record %d of partition %d came out of turn", r.Offset, r.Partition)
			}
			if i > 0 && r.Offset <= records[i-1].Offset {
				return fmt.Sprintf("offset %d after %d", r.Offset, records[i-1].Offset)
			}
			given[p], came[p] = given[p][1:], came[p][1:]
			bt.keys = append(bt.keys, r.Headers[0].Key)
			total += size(r)
		}
		if len(records) > max || len(records) > policy.Count || len(records) > 1 && total > policy.Bytes {
			return fmt.Sprintf("a batch of %d records and %d bytes", len(records), total)
		}
		full := buffered >= policy.BufferedRecords || bufferedBytes >= policy.BufferedBytes
		complete := len(records) == min(max, policy.Count) || total >= policy.Bytes
		if rest := given[p]; len(rest) > 0 {
			complete = complete || rest[0].Offset <= records[len(records)-1].Offset || total+size(rest[0]) > policy.Bytes
		}
		if !full && !complete && time.Since(since) < policy.Linger {
			return fmt.Sprintf("a batch came after %v with %d records and %d bytes", time.Since(since), len(records), total)
		}
		open = append(open, bt)
		return ""
	}
	settle := func(bt batch, err error) bool {
		var partly *stream.BatchError
		named := errors.As(err, &partly)
		for i, k := range bt.keys {
			outcome[k] = err
			if named {
				outcome[k] = partly.Errs[i]
			}
		}
		return bt.ack(t.Context(), err) == nil
	}
	// check compares what the source was told with what was said.
	check := func() string {
		synctest.Wait() // until the batcher has read what it has room for
		for _, f := range s.fetched {
			all := true
			want := map[int]error{}
			for i, r := range f.records {
				err, settled := outcome[r.Headers[0].Key]
				all = all && settled
				if err != nil {
					want[i] = err
				}
			}
			switch {
			case !all && f.acks > 0:
				return "a fetch was settled before all its records were"
			case f.acks > 1:
				return "a fetch was settled twice"
			case f.acks == 1 && !maps.Equal(want, f.errs):
				return fmt.Sprintf("the source was told %v, want %v", f.errs, want)
			}
		}
		return ""
	}
	for _, st := range list {
		bad := ""
		switch st.what {
		case "feed":
			give(run(st.partition, next[st.partition], st.n, st.size))
			next[st.partition] += int64(st.n)
		case "again":
			from := max(0, next[st.partition]-int64(st.n))
			if from < next[st.partition] {
				give(run(st.partition, from, int(next[st.partition]-from), st.size))
			}
		case "wait":
			time.Sleep(time.Duration(st.n) * time.Second)
		case "fetch":
			bad = take(st.n, time.Duration(st.size)*time.Second)
		case "refuse":
			s.refuse++
		case "settle":
			if len(open) == 0 {
				break
			}
			i := st.pick % len(open)
			var err error
			switch {
			case st.whole && len(st.bad) > 0:
				err = errors.New("all of it")
			case len(st.bad) > 0:
				partly := &stream.BatchError{}
				for _, j := range st.bad {
					partly.Fail(j%len(open[i].keys), fmt.Errorf("bad %d", j))
				}
				err = partly
			}
			if open[i].said { // and is said again
				err = open[i].err
			}
			open[i].said, open[i].err = true, err
			if settle(open[i], err) {
				open = slices.Delete(open, i, i+1)
			}
		}
		if bad == "" {
			bad = check()
		}
		if bad != "" {
			return bad
		}
	}
	// Everything comes out within the linger, and can be settled.
	s.refuse = 0
	for slices.ContainsFunc(slices.Collect(maps.Values(given)), func(r []stream.Record) bool { return len(r) > 0 }) {
		before := len(open)
		if bad := take(1000, policy.Linger); bad != "" {
			return bad
		}
		if len(open) == before {
			return fmt.Sprintf("nothing came within %v of %v", policy.Linger, given)
		}
	}
	for _, bt := range open {
		if !settle(bt, bt.err) {
			return "an ack failed"
		}
	}
	synctest.Wait()
	for _, f := range s.fetched {
		if f.acks != 1 {
			return fmt.Sprintf("a fetch was settled %d times", f.acks)
		}
	}
	return check()
}
