package file

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"path/filepath"

	"penstock/registry"
)

const (
	compactionSuffix = ".compact"
	// compactedFrame is about how many bytes of events a compacted frame holds.
	compactedFrame = 256 << 10
	// minWaste is how many bytes compacting must save at least.
	minWaste = 1 << 20
)

var _ registry.Compacter = (*Log)(nil)

// usage estimates how much of a log is superseded: keys are told apart by a
// hash.
type usage struct {
	seed      maphash.Seed
	last      map[uint64]int64 // by key, the bytes of its last event
	live      int64
	compacted int64 // the bytes of the compacted frames
}

func newUsage() usage { return usage{seed: maphash.MakeSeed(), last: map[uint64]int64{}} }

func (u *usage) add(e registry.Event) {
	key := maphash.Bytes(u.seed, e.Key)
	u.live -= u.last[key]
	delete(u.last, key)
	if e.Value != nil {
		n := int64(frameHead + len(e.Key) + len(e.Value))
		u.last[key], u.live = n, u.live+n
	}
}

// Wasteful reports whether more than half of the log is superseded.
func (l *Log) Wasteful() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	// What the last compaction has left is as small as it gets.
	return l.end > 2*max(l.usage.live, l.usage.compacted)+minWaste
}

// Compact implements registry.Compacter: it writes a new file, and puts it in
// the place of the old one when all of it is on the disk. Where there is no room
// the error wraps ErrFull.
func (l *Log) Compact(ctx context.Context) (err error) {
	old, end, err := l.snapshot(0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	w, err := l.newWriter()
	if err == nil {
		defer w.abandon(&err)
		err = w.compact(ctx, old, end)
	}
	if err == nil {
		err = l.replace(w, old, end)
	}
	if err != nil {
		return fmt.Errorf("compact registry log %s: %w", l.path, explain(l.named(err)))
	}
	return nil
}

// replace adds to the new file what was appended meanwhile, and puts it in the
// place of the old one.
func (l *Log) replace(w *writer, old file, from int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return l.failed
	}
	compactedEnd := w.size
	if err := w.copy(old, from, l.end); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	l.state.Lock()
	defer l.state.Unlock()
	if err := l.fs.Rename(w.path, l.path); err != nil {
		return err
	}
	w.done = true
	before := l.file
	l.file, l.end, l.compacted = w.file, w.size, w.position
	l.usage.compacted = compactedEnd
	if err := l.fs.SyncDir(w.dir); err != nil {
		// After a crash either file may be there, and both are good, but only
		// while nothing is added to one of them.
		l.fail(err)
		return errors.Join(l.failed, before.Close())
	}
	return before.Close()
}

// writer writes the new file of a compaction.
type writer struct {
	fs        fileSystem
	dir, path string
	file      file
	size      int64
	position  uint64 // up to where it is compacted
	done      bool   // it has taken the place of the old one
}

func (l *Log) newWriter() (*writer, error) {
	w := &writer{fs: l.fs, dir: filepath.Dir(l.path), path: l.path + compactionSuffix}
	var err error
	w.file, err = l.fs.Create(w.path)
	return w, err
}

// abandon removes a file that has not taken the place of the old one.
func (w *writer) abandon(err *error) {
	if !w.done {
		*err = errors.Join(*err, w.file.Close(), w.fs.Remove(w.path))
	}
}

func (w *writer) write(b []byte) error {
	n, err := w.file.WriteAt(b, w.size)
	w.size += int64(n)
	return err
}

// compact writes what is needed of the first bytes of old, up to end.
func (w *writer) compact(ctx context.Context, old file, end int64) error {
	needed := registry.NewCompaction()
	if _, err := scan(old, end, false, func(e registry.Event) error {
		needed.Add(e)
		return ctx.Err()
	}); err != nil {
		return err
	}
	if err := w.write(appendHeader(nil, compactedVersion)); err != nil {
		return err
	}
	var (
		events []registry.Event
		bytes  int
	)
	flush := func(kind uint32, upTo uint64) error {
		b, err := appendCompacted(nil, kind, w.position, upTo, events)
		if err != nil {
			return err
		}
		w.position, events, bytes = upTo, nil, 0
		return w.write(b)
	}
	x, err := scan(old, end, true, func(e registry.Event) error {
		if needed.Keep(e) {
			events, bytes = append(events, e), bytes+len(e.Key)+len(e.Value)
		}
		if bytes >= compactedFrame {
			return flush(compacted, e.Position)
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	if x.end != end {
		return &CorruptError{Offset: x.end, Reason: "a record that was stored is no longer whole"}
	}
	return flush(lastCompacted, x.position)
}

// copy adds the frames of old that lie between two offsets.
func (w *writer) copy(old file, from, to int64) error {
	in := reader{r: old, size: to}
	for from < to {
		b, err := in.read(from, min(to-from, readAhead))
		if err != nil {
			return err
		}
		if err := w.write(b); err != nil {
			return err
		}
		from += int64(len(b))
	}
	return nil
}
