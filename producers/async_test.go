package producers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/schemas"
	"penstock/stream"
)

// slow is a publisher whose calls last a second, and fail as told.
type slow struct {
	mu      sync.Mutex
	calls   [][]stream.Record
	running int
	most    int // calls at once
	err     func(records []stream.Record) error
}

func (s *slow) Publish(ctx context.Context, records ...stream.Record) error {
	s.mu.Lock()
	s.calls = append(s.calls, records)
	s.running++
	s.most = max(s.most, s.running)
	s.mu.Unlock()
	var err error
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	if err == nil && s.err != nil {
		err = s.err(records)
	}
	return err
}

// rawEvents takes JSON text as it is.
func rawEvents(pub stream.Publisher) *Producer {
	return New(pub, &registry{subjects: []string{"t-value"}, schemas: []schemas.Schema{raw{}}}, Config{})
}

func event(key, value string) Event {
	return Event{Topic: "t", Key: []byte(key), Value: json.RawMessage(value)}
}

// Each event is told once what came of it, those of one key arrive in order, and
// all that gathers meanwhile goes in one call.
func TestAsync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pub slow
		a := rawEvents(&pub).Async(AsyncConfig{Lanes: 3})
		const keys, each = 7, 50
		var told [keys * each]int
		for i := range keys * each {
			key := []byte(fmt.Sprint("k", i%keys))
			e := event("", fmt.Sprint(i))
			e.Key = key
			if err := a.Send(t.Context(), e, func(_ Place, err error) {
				told[i]++
				if err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Fatal(err)
			}
			copy(key, "??") // a has its own copy
		}
		if err := a.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, n := range told {
			if n != 1 {
				t.Fatalf("event %d was told %d times", i, n)
			}
		}
		next := map[string]int{}
		for _, call := range pub.calls {
			for _, r := range call {
				var key, i int
				if _, err := fmt.Sscanf(string(r.Key), "k%d", &key); err != nil {
					t.Fatalf("key %q", r.Key)
				}
				if _, err := fmt.Sscanf(string(r.Value[5:]), "%d", &i); err != nil || i != next[string(r.Key)]*keys+key {
					t.Fatalf("key %s: event %d comes as number %d", r.Key, i, next[string(r.Key)])
				}
				next[string(r.Key)]++
			}
		}
		if n := len(pub.calls); n > 2*3 || pub.most > 3 {
			t.Errorf("%d calls, %d at once; want what gathers to go together, and 3 lanes", n, pub.most)
		}
		if err := a.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := a.Close(t.Context()); err != nil {
			t.Error("closed again:", err)
		}
		if err := a.Send(t.Context(), event("k", "1"), nil); !errors.Is(err, ErrClosed) {
			t.Errorf("Send after Close: %v", err)
		}
	})
}

func TestAsyncBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pub slow
		one := event("k", string(bytes.Repeat([]byte("x"), 1000)))
		a := rawEvents(&pub).Async(AsyncConfig{Lanes: 1, MaxBytes: 5000, MaxBatch: 3})
		sent := 0
		for range 4 {
			if err := a.Send(t.Context(), one, nil); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := a.Send(ctx, one, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Send into a full queue: %v", err)
		}
		for range 10 { // these wait for room
			if err := a.Send(t.Context(), one, nil); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		// Larger than all the room there is.
		if err := a.Send(t.Context(), event("k", string(bytes.Repeat([]byte("x"), 9000))), nil); err != nil {
			t.Fatal(err)
		}
		sent++
		if err := a.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := 0
		for _, call := range pub.calls {
			if len(call) > 3 {
				t.Errorf("a call of %d records, want at most 3", len(call))
			}
			got += len(call)
		}
		if got != sent {
			t.Errorf("%d records were published, want %d", got, sent)
		}
	})
}

// What failed is told, who was told is not sent again, and what does not fit
// never gets as far.
func TestAsyncFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pub := slow{err: func(records []stream.Record) error {
			failed := &stream.BatchError{}
			for i, r := range records {
				if bytes.HasSuffix(r.Value, []byte("large")) {
					failed.Fail(i, stream.ErrTooLarge)
				}
				if bytes.HasSuffix(r.Value, []byte("down")) {
					return stream.ErrUnreachable
				}
			}
			return failed.OrNil()
		}}
		a := rawEvents(&pub).Async(AsyncConfig{Lanes: 1})
		told := map[string]error{}
		send := func(values ...string) {
			for _, v := range values {
				if err := a.Send(t.Context(), event("k", v), func(_ Place, err error) { told[v] = err }); err != nil {
					t.Fatal(err)
				}
			}
		}
		send("first") // goes by itself
		synctest.Wait()
		send("a", "large", "b")
		if err := a.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for v, want := range map[string]error{"first": nil, "a": nil, "large": stream.ErrTooLarge, "b": nil} {
			if err, ok := told[v]; !ok || !errors.Is(err, want) {
				t.Errorf("%s: told %v (%v), want %v", v, err, ok, want)
			}
		}
		send("down")
		if err := a.Flush(t.Context()); err != nil || !errors.Is(told["down"], stream.ErrUnreachable) {
			t.Errorf("told %v, flushed: %v", told["down"], err)
		}
		if len(pub.calls) != 3 {
			t.Errorf("%d calls, want 3: nothing is sent again", len(pub.calls))
		}
		if err := a.Send(t.Context(), Event{Topic: "none", Value: 1}, func(Place, error) { t.Error("told") }); !errors.Is(err, schemas.ErrNoSchema) {
			t.Errorf("an event without a schema: %v", err)
		}

		// A deadline ends what is on its way.
		send("late")
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := a.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush: %v", err)
		}
		if err := a.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(told["late"], ErrClosed) {
			t.Errorf("Close: %v; told %v", err, told["late"])
		}
	})
}

// Senders, flushes and a close at once: everything taken is told, once.
func TestAsyncConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pub slow
		a := rawEvents(&pub).Async(AsyncConfig{MaxBytes: 20_000, MaxBatch: 10})
		var mu sync.Mutex
		taken, told := 0, 0
		var work sync.WaitGroup
		for g := range 8 {
			work.Go(func() {
				for i := range 40 {
					err := a.Send(t.Context(), event(fmt.Sprint("k", g), fmt.Sprint(i)), func(Place, error) {
						mu.Lock()
						told++
						mu.Unlock()
					})
					mu.Lock()
					if err == nil {
						taken++
					} else if !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
					mu.Unlock()
				}
			})
		}
		work.Go(func() {
			if err := a.Flush(t.Context()); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(3500 * time.Millisecond) // of the bubble's clock
		if err := a.Close(t.Context()); err != nil {
			t.Error(err)
		}
		work.Wait()
		if taken != told || taken == 0 {
			t.Errorf("%d events were taken, %d told", taken, told)
		}
		var published int
		for _, call := range pub.calls {
			published += len(call)
		}
		if diff := cmp.Diff(taken, published); diff != "" {
			t.Error("published (-want +got):\n", diff)
		}
	})
}
