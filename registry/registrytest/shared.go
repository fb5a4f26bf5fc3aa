package registrytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/registry"
)

// patience bounds how long a test waits for a log to change its writer.
const patience = time.Minute

func testShared(t *testing.T, fresh func(t *testing.T) Home) {
	tests := []struct {
		name string
		run  func(t *testing.T, home Home)
	}{
		{"everyone reads", everyoneReads},
		{"end", sharedEnd},
		{"conflict", sharedConflict},
		{"concurrent", sharedConcurrent},
		{"handover", handover},
		{"one leads", oneLeads},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, fresh(t)) })
	}
}

// openShared opens the log as n processes would.
func openShared(t *testing.T, home Home, n int) []*opened {
	t.Helper()
	logs := make([]*opened, n)
	for i := range logs {
		logs[i] = open(t, home)
		if _, ok := logs[i].Log.(registry.SharedLog); !ok {
			t.Fatalf("%T is no registry.SharedLog", logs[i].Log)
		}
	}
	return logs
}

// appendTo appends through the log at i or, where the home has one writer and it
// is another one, through that one, which it returns.
func appendTo(t *testing.T, home Home, logs []*opened, i int, prev uint64, events ...registry.Event) (writer int, end uint64, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		end, err = logs[i].Append(ctx, prev, events...)
		if !home.OneWriter || !errors.As(err, new(*registry.NotWriterError)) || ctx.Err() != nil {
			return i, end, err
		}
		i = (i + 1) % len(logs)
	}
}

// positionOf returns where the log ends as Replay has it.
func positionOf(t *testing.T, log registry.Log, from uint64) uint64 {
	t.Helper()
	if events := replayed(t, log, from); len(events) > 0 {
		return events[len(events)-1].Position
	}
	return from
}

// everyoneReads checks that what one has appended, all replay, at the same
// positions.
func everyoneReads(t *testing.T, home Home) {
	logs := openShared(t, home, 3)
	writer, end := 0, uint64(0)
	for i := range 6 {
		var err error
		writer, end, err = appendTo(t, home, logs, i%len(logs), end, made(fmt.Sprint(i, "a")), made(fmt.Sprint(i, "b")))
		if err != nil {
			t.Fatalf("append: %v", err)
		}
		for j, log := range logs {
			got := replayed(t, log, 0)
			if diff := cmp.Diff(replayed(t, logs[writer], 0), got); diff != "" {
				t.Fatalf("log %d differs from the writer's (-writer +log):\n%s", j, diff)
			}
			if n := len(got); n != 2*(i+1) || got[n-1].Position != end {
				t.Fatalf("log %d replays %d events, want %d, the last before position %d", j, n, 2*(i+1), end)
			}
		}
	}
}

// sharedEnd checks that End, asked anywhere, is never before what was
// acknowledged earlier, and that Replay comes as far.
func sharedEnd(t *testing.T, home Home) {
	logs := openShared(t, home, 2)
	for _, log := range logs {
		if end, err := log.Log.(registry.SharedLog).End(t.Context()); err != nil || positionOf(t, log, 0) != 0 || end > 0 {
			t.Errorf("end of an empty log: %d, %v", end, err)
		}
	}
	end := uint64(0)
	for i := range 10 {
		var err error
		_, end, err = appendTo(t, home, logs, i%2, end, made(fmt.Sprint(i)))
		if err != nil {
			t.Fatalf("append: %v", err)
		}
		for j, log := range logs {
			got, err := log.Log.(registry.SharedLog).End(t.Context())
			if err != nil || got < end {
				t.Errorf("log %d: its end is %d (%v), and %d was acknowledged before", j, got, err, end)
			}
			if at := positionOf(t, log, 0); at != end {
				t.Errorf("log %d: replay comes to position %d, want %d", j, at, end)
			}
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := logs[0].Log.(registry.SharedLog).End(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("end under an ended context: got %v, want context.Canceled", err)
	}
}

// sharedConflict checks that who does not know the end appends nothing.
func sharedConflict(t *testing.T, home Home) {
	logs := openShared(t, home, 2)
	writer, first, err := appendTo(t, home, logs, 0, 0, made("a"))
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	other := 1 - writer
	_, err = logs[other].Append(t.Context(), 0, made("no"))
	if elsewhere := (*registry.NotWriterError)(nil); home.OneWriter {
		if !errors.As(err, &elsewhere) || elsewhere.Writer == "" {
			t.Errorf("append where another one writes: got %v, want a NotWriterError that says who", err)
		}
	} else if !errors.Is(err, registry.ErrConflict) {
		t.Errorf("append after 0 where another one has appended: got %v, want ErrConflict", err)
	}
	_, second, err := appendTo(t, home, logs, other, first, made("b"))
	if err != nil {
		t.Fatalf("append after another one: %v", err)
	}
	for _, prev := range []uint64{0, first, second + 1} {
		if _, _, err := appendTo(t, home, logs, writer, prev, made("no"), made("no")); !errors.Is(err, registry.ErrConflict) {
			t.Errorf("append after %d where the log ends at %d: got %v, want ErrConflict", prev, second, err)
		}
	}
	if diff := cmp.Diff([]string{"a", "b"}, keys(replayed(t, logs[other], 0))); diff != "" {
		t.Errorf("an append that was refused left something (-want +got):\n%s", diff)
	}
}

// sharedConcurrent lets several append at once through each of three logs; each
// starts over when it loses.
func sharedConcurrent(t *testing.T, home Home) {
	const writers, each = 6, 8
	logs := openShared(t, home, 3)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			at, position := w%len(logs), uint64(0)
			for i := 0; i < each; {
				var (
					end uint64
					err error
				)
				at, end, err = appendTo(t, home, logs, at, position, made(fmt.Sprintf("%d/%d", w, i)))
				switch {
				case err == nil:
					position, i = end, i+1
				case errors.Is(err, registry.ErrConflict):
					err := logs[at].Replay(t.Context(), position, func(e registry.Event) error {
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
	for j, log := range logs {
		wantAll(t, fmt.Sprintf("log %d", j), keys(replayed(t, log, 0)), writers, each)
	}
}

// handover checks that, when the one that appended has gone, another one can,
// and builds on all of what was there.
func handover(t *testing.T, home Home) {
	logs := openShared(t, home, 3)
	var want []string
	end := uint64(0)
	for i := range logs {
		last := end
		var (
			writer int
			err    error
		)
		writer, end, err = appendTo(t, home, logs, 0, last, made(fmt.Sprint(i)))
		if err != nil {
			t.Fatalf("append after %d others: %v", i, err)
		}
		want = append(want, fmt.Sprint(i))
		// The first thing that the next one hears may be what the last one knew.
		logs[writer].end(t)
		logs = append(logs[:writer:writer], logs[writer+1:]...)
		if len(logs) == 0 {
			break
		}
		if _, _, err := appendTo(t, home, logs, 0, last, made("no")); !errors.Is(err, registry.ErrConflict) {
			t.Fatalf("append after %d where the log ends at %d: got %v, want ErrConflict", last, end, err)
		}
		for j, log := range logs {
			if diff := cmp.Diff(want, keys(replayed(t, log, 0))); diff != "" {
				t.Fatalf("log %d after the writer has gone (-want +got):\n%s", j, diff)
			}
		}
	}
}

// oneLeads checks that one of several leads, never two, and when it has gone
// another one.
func oneLeads(t *testing.T, home Home) {
	logs := openShared(t, home, 3)
	for len(logs) > 0 {
		tick, end := time.Tick(10*time.Millisecond), time.After(patience)
		leaders := 0
		for again := 0; again < 100; { // looks at one that leads
			leaders = 0
			for _, log := range logs {
				leader, ok := log.Log.(registry.Leader)
				if !ok {
					t.Skipf("%T is no registry.Leader", log.Log)
				}
				if leader.Leads() {
					leaders++
				}
			}
			if leaders > 1 {
				t.Fatalf("%d of %d lead", leaders, len(logs))
			}
			again += leaders
			select {
			case <-tick:
			case <-end:
				t.Fatalf("none of %d leads", len(logs))
			}
		}
		logs = slices.DeleteFunc(logs, func(log *opened) bool {
			if !log.Log.(registry.Leader).Leads() {
				return false
			}
			log.end(t)
			return true
		})
	}
}
