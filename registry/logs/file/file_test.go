package file

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/registry"
	"penstock/registry/registrytest"
)

func TestSuite(t *testing.T) {
	registrytest.TestLog(t, func(t *testing.T) registrytest.Home {
		dir := filepath.Join(t.TempDir(), "a", "registry")
		return registrytest.Home{Open: func(t *testing.T) (registry.Log, func() error) {
			l, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			return l, l.Close
		}}
	})
}

const dir = "/data/registry"

// tb is what testing.T and rapid.T have in common.
type tb interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func mustOpen(t tb, fs fileSystem) *Log {
	t.Helper()
	l, err := open(fs, dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func batch(label string, n, size int) []registry.Event {
	events := make([]registry.Event, n)
	for i := range events {
		events[i] = registry.Event{Time: time.UnixMilli(1), Key: fmt.Appendf(nil, "%s.%d", label, i), Value: bytes.Repeat([]byte{'v'}, size)}
	}
	return events
}

func keys(t tb, l *Log) []string {
	t.Helper()
	got := []string{}
	err := l.Replay(context.Background(), 0, func(e registry.Event) error {
		got = append(got, string(e.Key))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestCrash cuts the power at a random step, drops a random part of what was
// not synced, starts again, and does so several times. What was acknowledged is
// there, in order; besides it at most the append that the crash interrupted, as
// a whole.
func TestCrash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := newCrashFS()
		acked := []string{}
		var interrupted []string
		for life := range 3 {
			left := rapid.IntRange(0, 30).Draw(t, "steps until the power goes")
			fs.fail = func(string) error {
				if left--; left < 0 {
					return errPower
				}
				return nil
			}
			l, err := open(fs, dir)
			if err == nil {
				got := keys(t, l)
				if !slices.Equal(got, acked) && !slices.Equal(got, append(slices.Clone(acked), interrupted...)) {
					t.Fatalf("life %d: the log holds %v, acknowledged were %v, interrupted was %v", life, got, acked, interrupted)
				}
				acked, interrupted = got, nil
				for i := range rapid.IntRange(0, 6).Draw(t, "appends") {
					events := batch(fmt.Sprintf("%d.%d", life, i), rapid.IntRange(1, 3).Draw(t, "events"), rapid.SampledFrom([]int{0, 10, 700, 5000}).Draw(t, "size"))
					names := []string{}
					for _, e := range events {
						names = append(names, string(e.Key))
					}
					if _, err := l.Append(context.Background(), uint64(len(acked)), events...); err != nil {
						interrupted = names
						break
					}
					acked = append(acked, names...)
				}
			} else if !errors.Is(err, errPower) {
				t.Fatalf("life %d: open: %v", life, err)
			}
			odds := rapid.SampledFrom([]int{0, 1, 5, 9, 10}).Draw(t, "odds")
			fs = fs.crash(func() bool { return rapid.IntRange(0, 9).Draw(t, "keep") < odds })
		}
		got := keys(t, mustOpen(t, fs))
		if !slices.Equal(got, acked) && !slices.Equal(got, append(slices.Clone(acked), interrupted...)) {
			t.Fatalf("at the end the log holds %v, acknowledged were %v, interrupted was %v", got, acked, interrupted)
		}
	})
}

// TestTorn cuts a log short at every byte: all whole frames before are there,
// and appending goes on after them.
func TestTorn(t *testing.T) {
	fs := newCrashFS()
	l := mustOpen(t, fs)
	ends := []int64{headerSize}
	for i := range 3 {
		if _, err := l.Append(t.Context(), uint64(2*i), batch(fmt.Sprint(i), 2, 40)...); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, l.end)
	}
	whole := fs.names[dir+"/"+logName].data
	for cut := headerSize; cut <= int64(len(whole)); cut++ {
		for _, tail := range [][]byte{nil, make([]byte, 30), bytes.Repeat([]byte{0xff}, 30)} {
			frames := 0
			for frames+1 < len(ends) && ends[frames+1] <= cut {
				frames++
			}
			if cut > ends[frames] { // an append leaves nothing beyond its own end
				tail = tail[:min(int64(len(tail)), ends[frames+1]-cut)]
			}
			fs := newCrashFS()
			fs.names[dir+"/"+logName] = &inode{data: append(slices.Clone(whole[:cut]), tail...)}
			l := mustOpen(t, fs)
			if got := len(keys(t, l)); got != 2*frames {
				t.Fatalf("cut at %d with %d bytes of rubbish: %d events, want %d", cut, len(tail), got, 2*frames)
			}
			if want := cut - ends[frames] + int64(len(tail)); l.Torn() != want {
				t.Errorf("cut at %d: Torn is %d, want %d", cut, l.Torn(), want)
			}
			if _, err := l.Append(t.Context(), uint64(2*frames), batch("next", 1, 5)...); err != nil {
				t.Fatal(err)
			}
			_ = l.Close()
			if got := keys(t, mustOpen(t, fs)); len(got) != 2*frames+1 || got[2*frames] != "next.0" {
				t.Fatalf("cut at %d: after another append the log holds %v", cut, got)
			}
		}
	}
}

// TestFlippedBits damages every byte of a log in turn. Unless the damage is in
// the last frame, where it looks like an append that was interrupted, the log
// is refused, and left as it is; what is read is never wrong.
func TestFlippedBits(t *testing.T) {
	fs := newCrashFS()
	l := mustOpen(t, fs)
	var last int64
	for i := range 3 {
		last = l.end
		if _, err := l.Append(t.Context(), uint64(2*i), batch(fmt.Sprint(i), 2, 3)...); err != nil {
			t.Fatal(err)
		}
	}
	want := keys(t, l)
	whole := fs.names[dir+"/"+logName].data
	for at := range whole {
		for _, bit := range []byte{1, 0x80} {
			damaged := slices.Clone(whole)
			damaged[at] ^= bit
			fs := newCrashFS()
			fs.names[dir+"/"+logName] = &inode{data: slices.Clone(damaged)}
			l, err := open(fs, dir)
			if int64(at) >= last {
				if err != nil {
					t.Errorf("byte %d, in the last frame: %v", at, err)
				} else if got := keys(t, l); !slices.Equal(got, want[:4]) {
					t.Errorf("byte %d, in the last frame: the log holds %v", at, got)
				}
				continue
			}
			var corrupt *CorruptError
			if err == nil {
				t.Errorf("byte %d is damaged, and the log is read: %v", at, keys(t, l))
			} else if int64(at) >= headerSize && !errors.As(err, &corrupt) {
				t.Errorf("byte %d: got %v, want a *CorruptError", at, err)
			} else if corrupt != nil && (corrupt.Path != dir+"/"+logName || corrupt.Offset > int64(at) || !strings.Contains(err.Error(), "restore it from a copy")) {
				t.Errorf("byte %d: %v does not say where and what to do", at, err)
			}
			if !bytes.Equal(fs.names[dir+"/"+logName].data, damaged) {
				t.Errorf("byte %d: the log was refused, and changed", at)
			}
		}
	}
}

func TestNewerFormat(t *testing.T) {
	header := appendHeader(nil, plainVersion)
	header[len(magic)] = 3
	copy(header[headerSize-4:], []byte{0, 0, 0, 0})
	sum := checksum(header[:headerSize-4])
	header = append(header[:headerSize-4], byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
	fs := newCrashFS()
	fs.names[dir+"/"+logName] = &inode{data: header}
	if _, err := open(fs, dir); err == nil || !strings.Contains(err.Error(), "format version 3") {
		t.Errorf("got %v, want a word about the version", err)
	}
}

func failAt(step string, err error) func(string) error {
	return func(s string) error {
		if s == step {
			return err
		}
		return nil
	}
}

// TestFullDisk: nothing is stored, it is said so, and when there is room again
// appends succeed.
func TestFullDisk(t *testing.T) {
	fs := newCrashFS()
	l := mustOpen(t, fs)
	fs.fail = failAt("write", syscall.ENOSPC)
	_, err := l.Append(t.Context(), 0, batch("a", 1, 1000)...)
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("got %v, want ErrFull and what to do", err)
	}
	fs.fail = nil
	if _, err := l.Append(t.Context(), 0, batch("b", 1, 10)...); err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if got := keys(t, mustOpen(t, fs)); !slices.Equal(got, []string{"b.0"}) {
		t.Errorf("the log holds %v, want b.0", got)
	}
}

// TestUndoFails: a part of a frame that cannot be taken back stops all writes.
func TestUndoFails(t *testing.T) {
	fs := newCrashFS()
	l := mustOpen(t, fs)
	fs.fail = func(step string) error { return syscall.EIO }
	if _, err := l.Append(t.Context(), 0, batch("a", 1, 10)...); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v", err)
	}
	fs.fail = nil
	if _, err := l.Append(t.Context(), 0, batch("b", 1, 10)...); err == nil {
		t.Error("an append after that succeeded")
	}
}

// TestFailedSync: the log takes no more writes until it is opened again, and
// nothing was acknowledged.
func TestFailedSync(t *testing.T) {
	fs := newCrashFS()
	l := mustOpen(t, fs)
	if _, err := l.Append(t.Context(), 0, batch("a", 1, 10)...); err != nil {
		t.Fatal(err)
	}
	fs.fail = failAt("sync", syscall.EIO)
	for range 2 {
		_, err := l.Append(t.Context(), 1, batch("b", 1, 10)...)
		if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "takes no more writes") {
			t.Errorf("got %v, want a refusal", err)
		}
		fs.fail = nil // the next sync would succeed, which proves nothing
	}
	if got := keys(t, l); !slices.Equal(got, []string{"a.0"}) {
		t.Errorf("the log holds %v, want what was acknowledged", got)
	}
	_ = l.Close()
	again := mustOpen(t, fs.crash(func() bool { return false }))
	if _, err := again.Append(t.Context(), 1, batch("c", 1, 10)...); err != nil {
		t.Errorf("after opening again: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	fs := newCrashFS()
	fs.fail = failAt("create", syscall.EROFS)
	if _, err := open(fs, dir); !errors.Is(err, ErrReadOnly) {
		t.Errorf("got %v, want ErrReadOnly", err)
	}
	fs.fail = failAt("create", &os.PathError{Op: "open", Path: "x", Err: syscall.EACCES})
	if _, err := open(fs, dir); !errors.Is(err, ErrReadOnly) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v, want ErrReadOnly and the folder", err)
	}
}

func TestClosed(t *testing.T) {
	l, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	if _, err := l.Append(t.Context(), 0, batch("a", 1, 1)...); !errors.Is(err, ErrClosed) {
		t.Errorf("append: %v", err)
	}
	if err := l.Replay(t.Context(), 0, func(registry.Event) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("replay: %v", err)
	}
}

// TestTwoProcesses holds the folder in another process, which is then killed.
func TestTwoProcesses(t *testing.T) {
	if folder := os.Getenv("PENSTOCK_TEST_HOLD"); folder != "" {
		if _, err := Open(folder); err != nil {
			t.Fatal(err)
		}
		fmt.Println("open")
		_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
		return
	}
	folder := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestTwoProcesses$")
	cmd.Env = append(os.Environ(), "PENSTOCK_TEST_HOLD="+folder)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := io.ReadFull(out, make([]byte, len("open"))); err != nil {
		t.Fatal(err)
	}
	_, err := Open(folder)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint("process ", cmd.Process.Pid)) || !strings.Contains(err.Error(), folder) {
		t.Errorf("got %v, want ErrInUse with the process and the folder", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	l, err := Open(folder)
	if err != nil {
		t.Fatalf("after the other process was killed: %v", err)
	}
	_ = l.Close()
}

// TestCorruptNotOurs: a file of another kind is refused.
func TestCorruptNotOurs(t *testing.T) {
	for _, content := range []string{"", "x", "{\"a\":1} and more of it"} {
		folder := t.TempDir()
		if err := os.WriteFile(filepath.Join(folder, logName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		var corrupt *CorruptError
		if _, err := Open(folder); !errors.As(err, &corrupt) {
			t.Errorf("%q: got %v, want a *CorruptError", content, err)
		}
	}
}

// FuzzScan reads any bytes as a log. What is read, written again, is the same
// bytes.
func FuzzScan(f *testing.F) {
	one, _ := appendFrame(appendHeader(nil, plainVersion), 0, batch("a", 2, 3))
	two, _ := appendFrame(slices.Clone(one), 2, []registry.Event{{Time: time.UnixMilli(-5), Key: []byte("k")}, {Time: time.UnixMilli(0), Value: []byte{}}})
	f.Add(one)
	f.Add(two)
	f.Add(two[:len(two)-3])
	f.Add(append(slices.Clone(two), make([]byte, 100)...))
	f.Add(append(slices.Clone(two), two[headerSize:]...))
	f.Add([]byte(magic))
	empty, _ := appendFrame(appendHeader(nil, plainVersion), 0, nil)
	f.Add(empty)
	events := batch("c", 2, 3)
	events[0].Position, events[1].Position = 4, 9
	three, _ := appendCompacted(appendHeader(nil, compactedVersion), compacted, 0, 9, events)
	f.Add(three)
	three, _ = appendCompacted(three, lastCompacted, 9, 12, nil)
	f.Add(three)
	three, _ = appendFrame(three, 12, batch("d", 1, 1))
	f.Add(three)
	f.Fuzz(func(t *testing.T, b []byte) {
		var events []registry.Event
		x, err := scan(bytes.NewReader(b), int64(len(b)), true, func(e registry.Event) error {
			if n := len(events); n > 0 && e.Position <= events[n-1].Position || e.Position == 0 {
				t.Fatalf("event %d has position %d", n, e.Position)
			}
			events = append(events, e)
			return nil
		})
		if x.end < headerSize {
			if err == nil {
				t.Fatal("no header, and no error")
			}
			return
		}
		// Frames are cut anew, one by one, as they stand in b.
		again, position := slices.Clone(b[:headerSize]), uint64(0)
		for at := headerSize; at < x.end; {
			length, _ := frameLength(b[at:])
			content := b[at+frameHead:][:length]
			held, end, err := readFrame(content, position)
			if err != nil {
				t.Fatal(err)
			}
			if kind := binary.LittleEndian.Uint32(content[8:]); kind >= compacted {
				again, err = appendCompacted(again, kind, position, end, held)
			} else {
				again, err = appendFrame(again, position, held)
			}
			if err != nil {
				t.Fatal(err)
			}
			if n := len(held); n > len(events) || n > 0 && !cmp.Equal(held, events[:n]) {
				t.Fatalf("a frame at byte %d was read as %v", at, events)
			}
			events, at, position = events[len(held):], at+frameHead+length, end
		}
		if diff := cmp.Diff(b[:x.end], again); diff != "" {
			t.Errorf("written again (-want +got):\n%s", diff)
		}
	})
}
