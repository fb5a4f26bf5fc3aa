// Package registrytest is the suite that every home of the registry's log
// passes.
package registrytest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/registry"
)

// Home is an implementation of registry.Log under test.
type Home struct {
	// Open opens the log; it is called again, after close, for the same log.
	// close may be nil.
	Open func(t *testing.T) (log registry.Log, close func() error)
	// Forgets says that what was appended is gone after close.
	Forgets bool
	// Shared says that the log is a registry.SharedLog, and that Open opens the
	// same log again while it is open, as another process would.
	Shared bool
	// OneWriter says that of those that have a shared log open only one may
	// append, and the others get a *registry.NotWriterError.
	OneWriter bool
}

// TestLog runs the suite. fresh makes a home that holds nothing yet.
func TestLog(t *testing.T, fresh func(t *testing.T) Home) {
	tests := []struct {
		name string
		run  func(t *testing.T, home Home)
	}{
		{"order", order},
		{"contents", contents},
		{"conflict", conflict},
		{"concurrent", concurrent},
		{"replay from any position", replayFrom},
		{"replay stops", replayStops},
		{"reopen", reopen},
		{"context", endedContext},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, fresh(t)) })
	}
	if home := fresh(t); home.Shared {
		t.Run("shared", func(t *testing.T) { testShared(t, fresh) })
	}
}

func order(t *testing.T, home Home) {
	log := open(t, home)
	end := uint64(0)
	var want []string
	for i := range 10 {
		var events []registry.Event
		for j := range i%3 + 1 {
			name := fmt.Sprintf("%d-%d", i, j)
			events, want = append(events, made(name)), append(want, name)
		}
		end = appended(t, log, end, events...)
	}
	got := replayed(t, log, 0)
	if diff := cmp.Diff(want, keys(got)); diff != "" {
		t.Errorf("replay differs from what was appended (-want +got):\n%s", diff)
	}
	last := uint64(0)
	for _, e := range got {
		if e.Position <= last {
			t.Errorf("position %d follows %d, want them to rise", e.Position, last)
		}
		last = e.Position
	}
	if last != end {
		t.Errorf("Append ended at %d, Replay at %d", end, last)
	}
}

// contents checks that bytes and times come back as they were.
func contents(t *testing.T, home Home) {
	log := open(t, home)
	at := time.Date(2026, 11, 23, 8, 0, 0, 123e6, time.UTC)
	big := make([]byte, 300_000)
	for i := range big {
		big[i] = byte(i * 7)
	}
	want := []registry.Event{
		{Time: at, Key: []byte("tombstone")},
		{Time: at, Key: []byte("empty"), Value: []byte{}},
		{Time: at.Add(time.Millisecond), Key: []byte("bytes\x00\xff"), Value: []byte("\x00\x01\xfe\n")},
		{Time: at, Key: []byte("big"), Value: big},
	}
	appended(t, log, 0, want...)
	got := replayed(t, log, 0)
	if len(got) != len(want) {
		t.Fatalf("got %d events, want %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		if string(g.Key) != string(w.Key) || string(g.Value) != string(w.Value) || !g.Time.Equal(w.Time) {
			t.Errorf("event %d came back different: key %q, %d bytes, time %v", i, g.Key, len(g.Value), g.Time)
		}
		if (g.Value == nil) != (w.Value == nil) {
			t.Errorf("event %q: value is nil: %v, want %v (a tombstone is not an empty value)", w.Key, g.Value == nil, w.Value == nil)
		}
	}
}

func conflict(t *testing.T, home Home) {
	log := open(t, home)
	first := appended(t, log, 0, made("a"))
	for _, prev := range []uint64{0, first + 1, first + 1000} {
		if _, err := log.Append(t.Context(), prev, made("no"), made("no")); !errors.Is(err, registry.ErrConflict) {
			t.Errorf("append after %d where the log ends at %d: got %v, want ErrConflict", prev, first, err)
		}
	}
	appended(t, log, first, made("b"))
	if diff := cmp.Diff([]string{"a", "b"}, keys(replayed(t, log, 0))); diff != "" {
		t.Errorf("an append that conflicted left something (-want +got):\n%s", diff)
	}
}

// concurrent lets several writers append; each starts over when it loses.
func concurrent(t *testing.T, home Home) {
	const writers, each = 8, 10
	log := open(t, home)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			position := uint64(0)
			for i := 0; i < each; {
				end, err := log.Append(t.Context(), position, made(fmt.Sprintf("%d/%d", w, i)))
				switch {
				case err == nil:
					position, i = end, i+1
				case errors.Is(err, registry.ErrConflict):
					err := log.Replay(t.Context(), position, func(e registry.Event) error {
						position = e.Position
						return nil
					})
					if err != nil {
						t.Errorf("replay: %v", err)
						return
					}
				default:
					t.Errorf("append: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	wantAll(t, "the log", keys(replayed(t, log, 0)), writers, each)
}

// wantAll checks that what several writers appended is all there, once each, and
// each writer's in order.
func wantAll(t *testing.T, which string, got []string, writers, each int) {
	t.Helper()
	next := map[int]int{}
	for _, key := range got {
		var w, i int
		if _, err := fmt.Sscanf(key, "%d/%d", &w, &i); err != nil {
			t.Fatalf("%s: key %q: %v", which, key, err)
		}
		if i != next[w] {
			t.Errorf("%s: writer %d: event %d came where %d was due", which, w, i, next[w])
		}
		next[w]++
	}
	if len(got) != writers*each {
		t.Errorf("%s holds %d events, want %d", which, len(got), writers*each)
	}
}

func replayFrom(t *testing.T, home Home) {
	log := open(t, home)
	end := uint64(0)
	for i := range 5 {
		end = appended(t, log, end, made(fmt.Sprint(i, "a")), made(fmt.Sprint(i, "b")))
	}
	all := replayed(t, log, 0)
	for i, e := range all {
		if diff := cmp.Diff(keys(all[i+1:]), keys(replayed(t, log, e.Position))); diff != "" {
			t.Errorf("replay after event %d (-want +got):\n%s", i, diff)
		}
	}
	if got := replayed(t, log, end+100); len(got) != 0 {
		t.Errorf("replay from beyond the end gave %d events", len(got))
	}
}

func replayStops(t *testing.T, home Home) {
	log := open(t, home)
	appended(t, log, 0, made("a"), made("b"), made("c"))
	enough := errors.New("enough")
	calls := 0
	err := log.Replay(t.Context(), 0, func(registry.Event) error {
		if calls++; calls == 2 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || calls != 2 {
		t.Errorf("got %v after %d calls, want the function's own error after 2", err, calls)
	}
}

func reopen(t *testing.T, home Home) {
	if home.Forgets {
		log, _ := home.Open(t)
		appended(t, log, 0, made("gone"))
		again, _ := home.Open(t)
		if got := keys(replayed(t, again, 0)); len(got) > 0 {
			t.Errorf("a home that forgets still has %v", got)
		}
		return
	}
	end, want := uint64(0), []string(nil)
	for i := range 4 {
		log, closeLog := home.Open(t)
		if diff := cmp.Diff(want, keys(replayed(t, log, 0))); diff != "" {
			t.Fatalf("after opening it %d times (-want +got):\n%s", i+1, diff)
		}
		end = appended(t, log, end, made(fmt.Sprint(i)), made(fmt.Sprint(i, "b")))
		want = append(want, fmt.Sprint(i), fmt.Sprint(i, "b"))
		if err := closeLog(); err != nil {
			t.Fatalf("close: %v", err)
		}
	}
}

func endedContext(t *testing.T, home Home) {
	log := open(t, home)
	ctx, cancel := context.WithCancel(t.Context())
	appended(t, log, 0, made("a"))
	cancel()
	if _, err := log.Append(ctx, 1, made("b")); err == nil {
		t.Error("append under an ended context succeeded")
	}
	if err := log.Replay(ctx, 0, func(registry.Event) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("replay under an ended context: got %v, want context.Canceled", err)
	}
}

// opened is a log as one process has it.
type opened struct {
	registry.Log
	close func() error // nil where there is nothing to close, or no longer
}

// open opens the log. What the test leaves open is closed when it ends.
func open(t *testing.T, home Home) *opened {
	t.Helper()
	log, closeLog := home.Open(t)
	o := &opened{log, closeLog}
	t.Cleanup(func() { o.end(t) })
	return o
}

func (o *opened) end(t *testing.T) {
	t.Helper()
	if o.close == nil {
		return
	}
	if err := o.close(); err != nil {
		t.Errorf("close: %v", err)
	}
	o.close = nil
}

func made(key string) registry.Event {
	return registry.Event{Time: time.UnixMilli(1_700_000_000_000), Key: []byte(key), Value: []byte("value of " + key)}
}

func appended(t *testing.T, log registry.Log, prev uint64, events ...registry.Event) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	end, err := log.Append(ctx, prev, events...)
	for errors.As(err, new(*registry.NotWriterError)) && ctx.Err() == nil {
		end, err = log.Append(ctx, prev, events...) // nobody writes yet
	}
	if err != nil {
		t.Fatalf("append after %d: %v", prev, err)
	}
	return end
}

func replayed(t *testing.T, log registry.Log, from uint64) []registry.Event {
	t.Helper()
	var events []registry.Event
	if err := log.Replay(t.Context(), from, func(e registry.Event) error {
		events = append(events, e)
		return nil
	}); err != nil {
		t.Fatalf("replay: %v", err)
	}
	return events
}

func keys(events []registry.Event) []string {
	var keys []string
	for _, e := range events {
		keys = append(keys, string(e.Key))
	}
	return keys
}
