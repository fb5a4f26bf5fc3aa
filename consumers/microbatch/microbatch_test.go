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
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"penstock/consumers/microbatch"
	"penstock/schemas"
	"penstock/stream"
)

// source yields what is sent to it, and takes notes of how it is settled.
type source struct {
	in      chan feed
	rest    feed
	fetched []*fetched
	refuse  int // how many acks are to fail for a passing reason

	release func(topic string, partition int32, gone bool)
	fenced  map[int32]int  // of which fetches of a partition acks come too late: those before
	paused  map[int32]bool // what the batcher asked for
	pauses  []string       // in order
}

func (s *source) OnRelease(f func(topic string, partition int32, gone bool)) { s.release = f }

func (s *source) Pause(partition int32, pause bool) {
	s.paused[partition] = pause
	s.pauses = append(s.pauses, fmt.Sprint(partition, pause))
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

func newSource() *source {
	return &source{in: make(chan feed, 1000), fenced: map[int32]int{}, paused: map[int32]bool{}}
}

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
	number := len(s.fetched)
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
		if p := f.records[0].Partition; p == fencedPartition || number < s.fenced[p] {
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
		anew := run(0, 12, 2, 1) // another consumer had the partition meanwhile
		anew[0].Assignment, anew[1].Assignment = 1, 1
		s.in <- feed{records: anew}
		want(t, b, 1, 6, 7, 8, 9)
		want(t, b, time.Hour, 12, 13)
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

func TestCut(t *testing.T) {
	cut := func(r stream.Record) bool { return r.Offset%3 == 2 }
	bubble(t, microbatch.Policy{Cut: cut, Linger: time.Hour}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		s.in <- feed{records: run(0, 0, 2, 1)}
		want(t, b, time.Minute)
		s.in <- feed{records: run(0, 2, 1, 1)}
		want(t, b, 1, 0, 1, 2)
		s.in <- feed{records: run(0, 3, 4, 1)}
		want(t, b, 1, 3, 4, 5)
		want(t, b, time.Minute)
	})
}

func TestSchemaChange(t *testing.T) {
	bubble(t, microbatch.Policy{BySchema: true, Linger: time.Hour}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		records := run(0, 0, 7, 1)
		for i, id := range []schemas.ID{1, 1, 0, 1, 2, 0, 2} {
			records[i].Value = nil // a tombstone
			if id > 0 {
				records[i].Value = schemas.AppendHeader(nil, id)
			}
		}
		records[6].Value, records[6].Headers = []byte("x"), []stream.Header{{Key: schemas.ValueHeader, Value: schemas.AppendGUID(nil, schemas.GUID{7})}}
		s.in <- feed{records: records}
		want(t, b, 1, 0, 1, 2, 3)
		want(t, b, 1, 4, 5)
		want(t, b, time.Minute)
	})
}

// keyed makes records with these keys; "" is none.
func keyed(keys ...string) []stream.Record {
	records := run(0, 0, len(keys), 1)
	for i, k := range keys {
		if k != "" {
			records[i].Key = []byte(k)
		}
	}
	return records
}

func TestKeys(t *testing.T) {
	bubble(t, microbatch.Policy{Keys: 2, Count: 3, Linger: time.Hour}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		s.in <- feed{records: keyed("a", "b", "a", "a", "b")}
		first := want(t, b, 1, 0, 2, 3)
		want(t, b, time.Minute)
		more := keyed("c", "", "c")
		for i := range more {
			more[i].Offset += 5
		}
		s.in <- feed{records: more}
		second := want(t, b, 1, 1, 4) // with c and no key there are three
		want(t, b, time.Minute)
		settle := func(ack stream.AckFunc, err error) {
			t.Helper()
			if err := ack(t.Context(), err); err != nil {
				t.Fatal(err)
			}
		}
		settle(first, &stream.BatchError{Errs: map[int]error{1: errors.New("bad")}})
		if s.fetched[0].acks != 0 {
			t.Fatal("the fetch was settled with b outstanding")
		}
		settle(second, nil)
		if diff := cmp.Diff([]int{2}, slices.Collect(maps.Keys(s.fetched[0].errs))); diff != "" {
			t.Errorf("failed (-want +got):\n%s", diff)
		}
	})
}

// A partition whose batches are not settled does not keep others from coming.
func TestStuckPartition(t *testing.T) {
	bubble(t, microbatch.Policy{Count: 2, Out: 1, Linger: time.Hour}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		s.in <- feed{records: run(0, 0, 4, 1)}
		ack := want(t, b, 1, 0, 1)
		want(t, b, time.Minute)
		s.in <- feed{records: run(1, 0, 2, 1)}
		want(t, b, 1, 0, 1)
		if err := ack(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		want(t, b, 1, 2, 3)
		s.in <- feed{records: run(1, 2, 1, 1)}
		synctest.Wait()
		if diff := cmp.Diff([]string{"0 true", "0 false"}, s.pauses); diff != "" {
			t.Errorf("pauses (-want +got):\n%s", diff)
		}
	})
}

func TestRelease(t *testing.T) {
	bubble(t, microbatch.Policy{Linger: time.Hour}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		s.in <- feed{records: run(0, 0, 2, 1)}
		s.in <- feed{records: run(1, 0, 2, 1)}
		want(t, b, time.Minute)
		s.release("t", 1, false)
		want(t, b, 1, 0, 1)
		want(t, b, time.Minute)
		s.release("t", 1, true)
		s.in <- feed{records: run(1, 2, 1, 1)} // assigned again
		want(t, b, time.Hour, 0, 1)            // of partition 0, which is older
	})
}

func TestDrain(t *testing.T) {
	bubble(t, microbatch.Policy{Count: 3, Out: 1, Linger: time.Hour}, func(t *testing.T, s *source, b *microbatch.Batcher) {
		s.in <- feed{records: run(0, 0, 4, 1)}
		ack := want(t, b, 1, 0, 1, 2)
		b.Drain()
		time.AfterFunc(time.Minute, func() { _ = ack(context.Background(), nil) })
		want(t, b, time.Minute, 3)
		if _, _, err := b.Fetch(t.Context(), 9); !errors.Is(err, stream.ErrClosed) {
			t.Fatalf("Fetch: %v, want ErrClosed", err)
		}
	})
}

func TestFlushed(t *testing.T) {
	var got []microbatch.Flush
	p := microbatch.Policy{
		Count: 3, Bytes: 100, Linger: 10 * time.Second, BySchema: true, Out: 9,
		Cut:     func(r stream.Record) bool { return r.Offset == 3 },
		Flushed: func(f microbatch.Flush) { got = append(got, f) },
	}
	bubble(t, p, func(t *testing.T, s *source, b *microbatch.Batcher) {
		flush := func(err error, offsets ...int64) {
			t.Helper()
			ack := want(t, b, time.Minute, offsets...)
			time.Sleep(2 * time.Second)
			if err := ack(t.Context(), err); err != nil {
				t.Fatal(err)
			}
			_ = ack(t.Context(), err) // which is none
		}
		bad := errors.New("bad")
		s.in <- feed{records: run(0, 0, 4, 1)}
		flush(nil, 0, 1, 2)
		flush(nil, 3)
		s.in <- feed{records: run(0, 4, 1, 99)}
		flush(bad, 4)
		s.in <- feed{records: run(0, 5, 2, 60)}
		flush(nil, 5)
		s.in <- feed{records: run(0, 6, 1, 1)}
		flush(nil, 6)
		flush(nil, 6)
		b.Drain()
		want := []microbatch.Flush{
			{First: 0, Last: 2, Records: 3, Bytes: 3, Cause: microbatch.Count, Took: 2 * time.Second},
			{First: 3, Last: 3, Records: 1, Bytes: 1, Cause: microbatch.Predicate, Gathered: 2 * time.Second, Took: 2 * time.Second},
			{First: 4, Last: 4, Records: 1, Bytes: 99, Cause: microbatch.Linger, Gathered: 10 * time.Second, Took: 2 * time.Second, Err: bad},
			{First: 5, Last: 5, Records: 1, Bytes: 60, Cause: microbatch.Bytes, Took: 2 * time.Second},
			{First: 6, Last: 6, Records: 1, Bytes: 60, Cause: microbatch.Redelivery, Gathered: 2 * time.Second, Took: 2 * time.Second},
			{First: 6, Last: 6, Records: 1, Bytes: 1, Cause: microbatch.Linger, Gathered: 10 * time.Second, Took: 2 * time.Second},
		}
		for i := range want {
			want[i].Topic = "t"
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateErrors()); diff != "" {
			t.Errorf("flushes (-want +got):\n%s", diff)
		}
	})
}

// A sink that takes a time for each batch and one for each record is steered to
// the size at which it takes as long, or brings as much, as was asked for.
func TestSteer(t *testing.T) {
	f := func(p microbatch.Policy, least, most int) {
		t.Helper()
		p.Count, p.BufferedBytes, p.Linger = 1000, 1<<30, time.Hour
		bubble(t, p, func(t *testing.T, s *source, b *microbatch.Batcher) {
			go func() {
				for i := range int64(300) {
					s.in <- feed{records: run(0, 1000*i, 1000, 0)}
				}
			}()
			n := 0
			for range 150 {
				records, ack, err := b.Fetch(t.Context(), 0)
				if err != nil {
					t.Fatal(err)
				}
				n = len(records)
				time.Sleep(10*time.Millisecond + time.Duration(n)*100*time.Microsecond)
				if err := ack(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
			}
			if n < least || n > most {
				t.Errorf("batches of %d records, want %d to %d", n, least, most)
			}
		})
	}
	f(microbatch.Policy{Latency: 50 * time.Millisecond}, 350, 450) // 10 ms and 400 records
	f(microbatch.Policy{Latency: time.Second}, 1000, 1000)         // all that is allowed
	f(microbatch.Policy{Latency: 5 * time.Millisecond}, 1, 1)      // which cannot be met
	f(microbatch.Policy{Rate: 5000}, 80, 130)                      // 100 in 20 ms
	f(microbatch.Policy{Rate: 8000}, 350, 520)                     // 400 in 50 ms
	f(microbatch.Policy{Rate: 1e6}, 1000, 1000)                    // which cannot be met
	f(microbatch.Policy{Rate: 8000, Latency: 20 * time.Millisecond}, 90, 110)
}

// step is one thing that happens in TestModel.
type step struct {
	what      string // one of those in steps
	partition int32
	n, size   int
	pick      int
	bad       []int
	whole     bool
}

func steps() *rapid.Generator[[]step] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			what:      rapid.SampledFrom([]string{"feed", "feed", "feed", "again", "wait", "fetch", "fetch", "settle", "settle", "refuse", "release", "move"}).Draw(t, "what"),
			partition: rapid.Int32Range(0, 2).Draw(t, "partition"),
			n:         rapid.IntRange(1, 9).Draw(t, "n"),
			size:      rapid.IntRange(0, 12).Draw(t, "size"),
			pick:      rapid.IntRange(0, 20).Draw(t, "pick"),
			bad:       rapid.SliceOfN(rapid.IntRange(0, 8), 0, 3).Draw(t, "bad"),
			whole:     rapid.Bool().Draw(t, "whole"),
		}
	}), 1, 60)
}

// TestModel feeds, waits, fetches, settles and moves partitions at random and
// checks that each record is delivered as often as the source gave it, in that
// order for its key, within the limits and in time, and that the source is told
// of each what was said of it, once all of a fetch is settled and no sooner.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		policy := microbatch.Policy{
			Count: 7, Bytes: 30, Linger: 10 * time.Second, BufferedRecords: 40, BufferedBytes: 300,
			Out:      rapid.SampledFrom([]int{1, 3, 100}).Draw(rt, "out"),
			BySchema: rapid.Bool().Draw(rt, "by schema"),
			Keys:     rapid.SampledFrom([]int{0, 0, 2, 5}).Draw(rt, "keys"),
		}
		if rapid.Bool().Draw(rt, "cut") {
			policy.Cut = func(r stream.Record) bool { return r.Offset%5 == 4 }
		}
		list := steps().Draw(rt, "steps")
		var failure string
		bubble(t, policy, func(t *testing.T, s *source, b *microbatch.Batcher) {
			m := &model{t: t, policy: policy, s: s, b: b, given: map[string][]delivery{}, next: map[int32]int64{}, outcome: map[string]error{}, leaving: map[int32]bool{}}
			failure = m.play(list)
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

// delivery is a record that the batcher was given, and when.
type delivery struct {
	stream.Record
	at time.Time
}

type batch struct {
	names     []string // of its deliveries
	partition int32
	ack       stream.AckFunc
	said      bool // err was given to ack once, which failed
	err       error
}

// model is what the batcher should hold, and has handed out.
type model struct {
	t          *testing.T
	policy     microbatch.Policy
	s          *source
	b          *microbatch.Batcher
	given      map[string][]delivery // by lane, what is still to come
	next       map[int32]int64
	open       []batch
	outcome    map[string]error // what was said of each delivery that is settled
	deliveries int
	leaving    map[int32]bool
}

// lane is what a record shares its batches with.
func (m *model) lane(r stream.Record) string {
	if m.policy.Keys > 0 {
		return fmt.Sprint(r.Partition, string(r.Key))
	}
	return fmt.Sprint(r.Partition)
}

// give feeds n records. Each delivery has its own name, in a header.
func (m *model) give(partition int32, from int64, n, size int) {
	records := run(partition, from, n, 0)
	for i := range records {
		r := &records[i]
		m.deliveries++
		r.Headers = []stream.Header{{Key: fmt.Sprint(m.deliveries)}}
		r.Key = []byte{byte('a' + r.Offset*r.Offset%4)}
		r.Value = append(schemas.AppendHeader(nil, schemas.ID(1+r.Offset/6)), make([]byte, size)...)
		if r.Offset%7 == 3 {
			r.Value = nil
		}
		m.given[m.lane(*r)] = append(m.given[m.lane(*r)], delivery{*r, time.Now()})
	}
	m.s.in <- feed{records: records}
	synctest.Wait()
}

func size(r stream.Record) int { return len(r.Key) + len(r.Value) + len(r.Headers[0].Key) }

func schema(r stream.Record) byte {
	if r.Value == nil {
		return 0
	}
	return r.Value[4]
}

func (m *model) out(partition int32) (n int) {
	for _, bt := range m.open {
		if bt.partition == partition {
			n++
		}
	}
	return n
}

// full says whether the batcher may stop reading.
func (m *model) full() bool {
	records, bytes, lanes := 0, 0, 0
	for _, rest := range m.given {
		if len(rest) > 0 {
			lanes++
		}
		for _, r := range rest {
			records++
			bytes += size(r.Record)
		}
	}
	return records >= m.policy.BufferedRecords || bytes >= m.policy.BufferedBytes || m.policy.Keys > 0 && lanes > m.policy.Keys
}

// take fetches a batch and looks whether it is one that may come now.
func (m *model) take(max int, patience time.Duration) string {
	ctx, cancel := context.WithTimeout(m.t.Context(), patience+1)
	defer cancel()
	records, ack, err := m.b.Fetch(ctx, max)
	if err != nil {
		return ""
	}
	p := records[0].Partition
	if m.out(p) >= m.policy.Out {
		return fmt.Sprintf("a batch of partition %d with %d out", p, m.out(p))
	}
	lane := m.lane(records[0])
	full, since, total := m.full(), m.given[lane][0].at, 0
	bt := batch{ack: ack, partition: p}
	var named byte
	for i, r := range records {
		rest := m.given[lane]
		switch {
		case len(rest) == 0 || m.lane(r) != lane || r.Headers[0].Key != rest[0].Headers[0].Key:
			return fmt.Sprintf("record %d of partition %d came out of turn", r.Offset, r.Partition)
		case i > 0 && r.Offset <= records[i-1].Offset:
			return fmt.Sprintf("offset %d after %d", r.Offset, records[i-1].Offset)
		case i > 0 && m.policy.Cut != nil && m.policy.Cut(records[i-1]):
			return fmt.Sprintf("record %d follows one that ends a batch", r.Offset)
		case m.policy.BySchema && named != 0 && schema(r) != 0 && schema(r) != named:
			return fmt.Sprintf("record %d has another schema", r.Offset)
		}
		if schema(r) != 0 {
			named = schema(r)
		}
		m.given[lane] = rest[1:]
		bt.names = append(bt.names, r.Headers[0].Key)
		total += size(r)
	}
	if len(records) > max || len(records) > m.policy.Count || len(records) > 1 && total > m.policy.Bytes {
		return fmt.Sprintf("a batch of %d records and %d bytes", len(records), total)
	}
	last := records[len(records)-1]
	complete := len(records) == min(max, m.policy.Count) || total >= m.policy.Bytes || m.leaving[p] ||
		m.policy.Cut != nil && m.policy.Cut(last)
	if rest := m.given[lane]; len(rest) > 0 {
		complete = complete || rest[0].Offset <= last.Offset || total+size(rest[0].Record) > m.policy.Bytes ||
			m.policy.BySchema && schema(rest[0].Record) != 0 && schema(rest[0].Record) != named
	}
	if !full && !complete && time.Since(since) < m.policy.Linger {
		return fmt.Sprintf("a batch came after %v with %d records and %d bytes", time.Since(since), len(records), total)
	}
	m.open = append(m.open, bt)
	return ""
}

// settle settles batch i, and says again of one that failed what was said.
func (m *model) settle(i int, err error) {
	bt := &m.open[i]
	if bt.said {
		err = bt.err
	}
	bt.said, bt.err = true, err
	var partly *stream.BatchError
	named := errors.As(err, &partly)
	for i, name := range bt.names {
		m.outcome[name] = err
		if named {
			m.outcome[name] = partly.Errs[i]
		}
	}
	if err := bt.ack(m.t.Context(), err); err == nil || errors.Is(err, stream.ErrFenced) {
		m.open = slices.Delete(m.open, i, i+1)
	}
}

// check compares what the source was told with what was said.
func (m *model) check() string {
	synctest.Wait() // until the batcher has read what it has room for
	for _, f := range m.s.fetched {
		all := true
		want := map[int]error{}
		for i, r := range f.records {
			err, settled := m.outcome[r.Headers[0].Key]
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
	for p, paused := range m.s.paused {
		if paused && m.out(p) < m.policy.Out {
			return fmt.Sprintf("partition %d is paused with %d batches out", p, m.out(p))
		}
	}
	return ""
}

func (m *model) step(st step) string {
	p := st.partition
	switch st.what {
	case "feed":
		if !m.leaving[p] {
			m.give(p, m.next[p], st.n, st.size)
			m.next[p] += int64(st.n)
		}
	case "again":
		if from := max(0, m.next[p]-int64(st.n)); from < m.next[p] && !m.leaving[p] {
			m.give(p, from, int(m.next[p]-from), st.size)
		}
	case "wait":
		time.Sleep(time.Duration(st.n) * time.Second)
	case "fetch":
		return m.take(st.n, time.Duration(st.size)*time.Second)
	case "refuse":
		m.s.refuse++
	case "release":
		m.leaving[p] = true
		m.s.release("t", p, false)
	case "move": // away, and back
		m.s.fenced[p] = len(m.s.fetched)
		m.leaving[p] = false
		m.s.release("t", p, true)
	case "settle":
		if len(m.open) == 0 {
			break
		}
		i := st.pick % len(m.open)
		var err error
		switch {
		case st.whole && len(st.bad) > 0:
			err = errors.New("all of it")
		case len(st.bad) > 0:
			partly := &stream.BatchError{}
			for _, j := range st.bad {
				partly.Fail(j%len(m.open[i].names), fmt.Errorf("bad %d", j))
			}
			err = partly
		}
		m.settle(i, err)
	}
	return ""
}

func (m *model) play(list []step) string {
	for _, st := range list {
		if bad := m.step(st); bad != "" {
			return bad
		}
		if bad := m.check(); bad != "" {
			return bad
		}
	}
	// Everything comes out within the linger, and can be settled.
	m.s.refuse = 0
	for {
		for len(m.open) > 0 {
			m.settle(0, nil)
		}
		if !slices.ContainsFunc(slices.Collect(maps.Values(m.given)), func(d []delivery) bool { return len(d) > 0 }) {
			break
		}
		if bad := m.take(1000, m.policy.Linger); bad != "" {
			return bad
		}
		if len(m.open) == 0 {
			return fmt.Sprintf("nothing came within %v of %v", m.policy.Linger, m.given)
		}
	}
	synctest.Wait()
	for _, f := range m.s.fetched {
		if f.acks != 1 {
			return fmt.Sprintf("a fetch was settled %d times", f.acks)
		}
	}
	return m.check()
}
