package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/registry"
)

// state is what a log adds up to, and where it continues.
type state struct {
	Values   map[string]string
	Position uint64
}

func (s state) with(events []registry.Event) state {
	s.Values = maps.Clone(s.Values)
	for _, e := range events {
		s.Position++
		s.Values[string(e.Key)] = string(e.Value)
		if e.Value == nil {
			delete(s.Values, string(e.Key))
		}
	}
	return s
}

func stateOf(t tb, l *Log) state {
	t.Helper()
	s, last := state{Values: map[string]string{}}, uint64(0)
	err := l.Replay(context.Background(), 0, func(e registry.Event) error {
		if e.Position <= last {
			t.Fatalf("position %d follows %d", e.Position, last)
		}
		last = e.Position
		s = s.with([]registry.Event{e})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Position = l.position
	return s
}

// TestCompactCrash cuts the power at a random step of appends and compactions,
// with a clock that jumps. What was acknowledged is there after it, and the log
// goes on at the same position.
func TestCompactCrash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := newCrashFS()
		acked := state{Values: map[string]string{}}
		perhaps := acked
		for life := range 4 {
			left := rapid.IntRange(0, 60).Draw(t, "steps until the power goes")
			if life == 3 {
				left = 1 << 30
			}
			fs.fail = func(string) error {
				if left--; left < 0 {
					return errPower
				}
				return nil
			}
			l, err := open(fs, dir)
			if err != nil && !errors.Is(err, errPower) {
				t.Fatalf("life %d: open: %v", life, err)
			}
			if err == nil {
				got := stateOf(t, l)
				if !cmp.Equal(got, acked) && !cmp.Equal(got, perhaps) {
					t.Fatalf("life %d: the log holds %v, acknowledged was %v, perhaps %v", life, got, acked, perhaps)
				}
				acked, perhaps = got, got
				for i := range rapid.IntRange(0, 12).Draw(t, "steps") {
					if rapid.IntRange(0, 3).Draw(t, "compact") == 0 {
						if err := l.Compact(context.Background()); err != nil && !errors.Is(err, errPower) {
							t.Fatalf("compact: %v", err)
						} else if err == nil && !cmp.Equal(stateOf(t, l), acked) {
							t.Fatalf("compacted, the log holds %v, before it %v", stateOf(t, l), acked)
						}
						continue
					}
					var events []registry.Event
					for j := range rapid.IntRange(1, 3).Draw(t, "events") {
						e := registry.Event{Time: time.UnixMilli(rapid.Int64().Draw(t, "time")), Key: []byte{byte(rapid.IntRange('a', 'd').Draw(t, "key"))}}
						if rapid.IntRange(0, 3).Draw(t, "tombstone") > 0 {
							e.Value = append(fmt.Appendf(nil, "%d.%d.%d", life, i, j), make([]byte, rapid.SampledFrom([]int{0, 700}).Draw(t, "size"))...)
						}
						events = append(events, e)
					}
					perhaps = acked.with(events)
					if _, err := l.Append(context.Background(), acked.Position, events...); err != nil {
						break
					}
					acked = perhaps
				}
				_ = l.Close()
			}
			odds := rapid.SampledFrom([]int{0, 1, 5, 9, 10}).Draw(t, "odds")
			fs = fs.crash(func() bool { return rapid.IntRange(0, 9).Draw(t, "keep") < odds })
		}
	})
}

// compactable is a log of three keys with many values each.
func compactable(t tb, fs *crashFS) *Log {
	t.Helper()
	l := mustOpen(t, fs)
	for i := range 30 {
		e := registry.Event{Time: time.UnixMilli(1), Key: []byte{byte('a' + i%3)}, Value: fmt.Append(nil, i)}
		if _, err := l.Append(context.Background(), uint64(i), e); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// TestCompactFull lets each step of a compaction fail for want of room. The log
// stays as it is, nothing is left lying about, and with room it succeeds.
func TestCompactFull(t *testing.T) {
	for _, step := range []string{"create", "write", "sync", "rename"} {
		fs := newCrashFS()
		l := compactable(t, fs)
		before, size := stateOf(t, l), l.end
		fs.fail = failAt(step, syscall.ENOSPC)
		if err := l.Compact(t.Context()); !errors.Is(err, ErrFull) {
			t.Errorf("%s: got %v, want ErrFull", step, err)
		}
		fs.fail = nil
		if n := len(fs.names); n != 1 {
			t.Errorf("%s: %d files are left, want the log alone", step, n)
		}
		end, err := l.Append(t.Context(), before.Position, batch("more", 1, 1)...)
		if err != nil {
			t.Fatalf("%s: append after a compaction that failed: %v", step, err)
		}
		if err := l.Compact(t.Context()); err != nil {
			t.Errorf("%s: with room again: %v", step, err)
		}
		if l.end >= size {
			t.Errorf("%s: the log has %d bytes, before it was compacted %d", step, l.end, size)
		}
		if _, err := l.Append(t.Context(), end, batch("last", 1, 1)...); err != nil {
			t.Errorf("%s: append to the new file: %v", step, err)
		}
		want := before.with(slices.Concat(batch("more", 1, 1), batch("last", 1, 1)))
		_ = l.Close()
		if diff := cmp.Diff(want, stateOf(t, mustOpen(t, fs))); diff != "" {
			t.Errorf("%s: the log holds something else (-want +got):\n%s", step, diff)
		}
	}
}

// TestCompactFolderNotSynced: nobody knows which file a crash will leave, so
// nothing is added to either.
func TestCompactFolderNotSynced(t *testing.T) {
	fs := newCrashFS()
	l := compactable(t, fs)
	fs.fail = failAt("syncdir", syscall.EIO)
	if err := l.Compact(t.Context()); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v", err)
	}
	fs.fail = nil
	if _, err := l.Append(t.Context(), 30, batch("a", 1, 1)...); err == nil {
		t.Error("an append after that succeeded")
	}
}

// TestCompactFlippedBits damages every byte of a compacted log in turn. No damage
// is taken for an append that a crash has cut off.
func TestCompactFlippedBits(t *testing.T) {
	fs := newCrashFS()
	l := compactable(t, fs)
	if err := l.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	whole := fs.names[l.path].data
	for at := range whole {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 1
		fs := newCrashFS()
		fs.names[l.path] = &inode{data: bytes.Clone(damaged)}
		again, err := open(fs, dir)
		if err == nil {
			t.Errorf("byte %d of %d is damaged, and the log is read: %v", at, len(whole), stateOf(t, again))
		}
		if !bytes.Equal(fs.names[l.path].data, damaged) {
			t.Errorf("byte %d: the log was refused, and changed", at)
		}
	}
}

// TestCompactMeanwhile appends and replays while the log is compacted again and
// again.
func TestCompactMeanwhile(t *testing.T) {
	l, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := state{Values: map[string]string{}}
	done := make(chan error)
	stop := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			err := l.Compact(t.Context())
			if err == nil {
				err = l.Replay(t.Context(), 0, func(registry.Event) error { return nil })
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	for i := range 300 {
		e := []registry.Event{{Time: time.UnixMilli(1), Key: []byte{byte('a' + i%7)}, Value: fmt.Append(nil, i)}}
		if _, err := l.Append(t.Context(), uint64(i), e...); err != nil {
			t.Fatal(err)
		}
		want = want.with(e)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, stateOf(t, l)); diff != "" {
		t.Errorf("the log holds something else (-want +got):\n%s", diff)
	}
}

// TestWasteful: a log asks to be compacted when most of it is superseded, not
// when it was just compacted, and not for being large.
func TestWasteful(t *testing.T) {
	l := mustOpen(t, newCrashFS())
	big := make([]byte, 100_000)
	position := uint64(0)
	add := func(key string) {
		t.Helper()
		var err error
		if position, err = l.Append(t.Context(), position, registry.Event{Key: []byte(key), Value: big}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 30 {
		if add(fmt.Sprint(i)); l.Wasteful() {
			t.Fatalf("wasteful after %d different keys", i+1)
		}
	}
	n := 0
	for ; !l.Wasteful() && n < 100; n++ {
		add("0")
	}
	if n < 30 || n > 50 {
		t.Errorf("wasteful after 30 keys and %d superseded events", n)
	}
	if err := l.Compact(t.Context()); err != nil || l.Wasteful() {
		t.Errorf("wasteful after compaction: %v (%v)", l.Wasteful(), err)
	}
	if err := l.Replay(t.Context(), position-1, func(registry.Event) error { return nil }); !errors.Is(err, ErrCompacted) {
		t.Errorf("replay from within what was compacted: got %v, want ErrCompacted", err)
	}
	if got := len(keys(t, l)); got != 30 {
		t.Errorf("%d events are left, want 30", got)
	}
}
