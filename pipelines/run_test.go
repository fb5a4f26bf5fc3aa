package pipelines

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Pipelines are started, left alone, stopped and started anew by what changes.
func TestServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var events []string
		note := func(format string, args ...any) { events = append(events, fmt.Sprintf(format, args...)) }
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			slices.Sort(events)
			slices.Sort(want)
			if !slices.Equal(events, want) {
				t.Errorf("got %q, want %q", events, want)
			}
			events = nil
		}
		broken := errors.New("broken")
		table := func(name, table string) Pipeline { return Pipeline{Name: name, Sink: Sink{Table: table}} }
		run := func(ctx context.Context, p Pipeline) error {
			switch p.Sink.Table {
			case "bad":
				return broken
			case "short":
				return nil
			}
			<-ctx.Done()
			return nil
		}
		reload := make(chan []Pipeline)
		ended := make(chan error, 1)
		go func() {
			ended <- Serve(ctx, []Pipeline{table("a", "1"), table("b", "1"), table("c", "bad"), table("d", "short")}, reload, run, func(e Event) {
				note("%s %s %s %v", e.Pipeline.Name, e.Pipeline.Sink.Table, e.What, e.Err)
			})
		}()
		expect("a 1 started <nil>", "b 1 started <nil>", "c bad started <nil>", "d short started <nil>", "c bad failed broken", "d short done <nil>")
		reload <- []Pipeline{table("a", "1"), table("b", "2"), table("c", "bad"), table("e", "1")}
		expect("a 1 unchanged <nil>", "b 1 stopped <nil>", "b 2 started <nil>", "c bad started <nil>", "c bad failed broken", "e 1 started <nil>")
		reload <- []Pipeline{table("a", "1"), table("c", "1")}
		expect("a 1 unchanged <nil>", "b 2 stopped <nil>", "e 1 stopped <nil>", "c 1 started <nil>")
		reload <- []Pipeline{table("a", "bad"), table("c", "1")}
		expect("a 1 stopped <nil>", "a bad started <nil>", "a bad failed broken", "c 1 unchanged <nil>")
		cancel()
		expect("c 1 stopped <nil>")
		if err := <-ended; !errors.Is(err, broken) {
			t.Errorf("got %v, want that of what had failed in the end", err)
		}
	})
}

// A pipeline that cannot be started for now is tried again, less and less often,
// while the others run; and begins with short waits again once it has run for long.
func TestServeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		down := Passing{errors.New("the server is down")}
		var waits []time.Duration
		waiting := make(chan time.Duration)
		runs := 0
		reload := make(chan []Pipeline)
		ended := make(chan error, 1)
		go func() {
			ended <- Serve(ctx, []Pipeline{{Name: "a"}, {Name: "b"}}, reload, func(ctx context.Context, p Pipeline) error {
				if p.Name == "a" {
					<-ctx.Done()
					return nil
				}
				if runs++; runs == 9 {
					<-time.After(2 * longestWait)
				}
				return fmt.Errorf("open: %w", down)
			}, func(e Event) {
				switch {
				case e.What == Waiting && errors.Is(e.Err, down):
					waiting <- e.Again
				case e.What != Started && e.What != Halted:
					t.Errorf("%s is %s: %v", e.Pipeline.Name, e.What, e.Err)
				}
			})
		}()
		for most := firstWait; len(waits) < 8; most = min(2*most, longestWait) {
			wait := <-waiting
			if waits = append(waits, wait); wait < most/2 || wait > most {
				t.Errorf("waits of %v: the last is not between %v and %v", waits, most/2, most)
			}
		}
		if wait := <-waiting; wait > firstWait {
			t.Errorf("it waits %v after it had run for long", wait)
		}
		cancel() // while it waits
		if err := <-ended; err != nil {
			t.Errorf("told to stop: %v", err)
		}
	})
}

// No part of a changed pipeline runs beside its successor.
func TestServeOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		running := map[string]bool{}
		flushed := make(chan struct{})
		reload := make(chan []Pipeline)
		ended := make(chan error, 1)
		go func() {
			ended <- Serve(ctx, []Pipeline{{Name: "a"}}, reload, func(ctx context.Context, p Pipeline) error {
				running[p.Sink.Table] = true
				<-ctx.Done()
				if p.Sink.Table == "" {
					<-flushed
				}
				delete(running, p.Sink.Table)
				return nil
			}, func(Event) {})
		}()
		reload <- []Pipeline{{Name: "a", Sink: Sink{Table: "next"}}}
		synctest.Wait()
		if !running[""] || running["next"] {
			t.Errorf("while the first flushes, there run %v", running)
		}
		close(flushed)
		synctest.Wait()
		if running[""] || !running["next"] {
			t.Errorf("once the first has flushed, there run %v", running)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
