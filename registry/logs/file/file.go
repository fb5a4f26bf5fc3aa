// Package file keeps the registry's log in one file of a folder of its own,
// which one process uses at a time. What Append has taken is on the disk.
//
// The file begins with a header that names the format's version. After it,
// every append is one frame: its length, a checksum of the length, a checksum
// of the content, and the content, all little-endian. A frame holds the events
// of its append, so that after a crash all of them are there or none.
//
// Compact writes a new file, which begins with compacted frames: they say of
// each event its position, and up to where the log is theirs.
package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"penstock/registry"
)

const (
	logName  = "events.log"
	lockName = "lock"
)

// Errors of Open and Append, wrapped with what to do about them.
var (
	// ErrInUse is returned by Open for a folder that another process uses.
	ErrInUse = errors.New("folder is in use")
	// ErrFull is returned where the disk has no room left. Nothing was stored,
	// and a later Append may succeed.
	ErrFull = errors.New("disk is full")
	// ErrReadOnly is returned where the folder cannot be written.
	ErrReadOnly = errors.New("folder cannot be written")
	// ErrCompacted is returned by Replay for a position up to which the log has
	// been compacted.
	ErrCompacted = errors.New("the log has been compacted")
	// ErrClosed is returned by Append and Replay after Close.
	ErrClosed = errors.New("log is closed")
)

// Log is a registry.Log.
type Log struct {
	fs   fileSystem
	path string
	lock io.Closer
	torn int64

	mu       sync.Mutex // held by Append while it writes and syncs
	file     file
	position uint64
	failed   error // why nothing more is written
	usage    usage

	// state is held for a moment only. It guards what Replay needs to know.
	state     sync.Mutex
	end       int64  // of the last durable frame
	compacted uint64 // up to this position there are only some events left
	closed    bool
}

// Open opens the log in a folder, and makes both if they are not there. An
// append that a crash cut off, and that nobody was told had succeeded, is taken
// off the end; any other damage is a *CorruptError, and the file is left as it
// is. Whoever calls Open calls Close.
func Open(dir string) (*Log, error) { return open(osFS{}, dir) }

func open(fs fileSystem, dir string) (l *Log, err error) {
	dir = filepath.Clean(dir)
	if err := fs.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("make registry folder %s: %w", dir, explain(err))
	}
	lock, err := fs.Lock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("lock registry folder %s: %w", dir, explain(err))
	}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()
	l = &Log{fs: fs, path: filepath.Join(dir, logName), lock: lock}
	if err := fs.Remove(l.path + compactionSuffix); err != nil {
		return nil, fmt.Errorf("remove what a compaction left: %w", explain(err))
	}
	l.file, err = fs.Open(l.path)
	if errors.Is(err, os.ErrNotExist) {
		l.file, err = create(fs, dir, l.path)
	}
	if err != nil {
		return nil, fmt.Errorf("open registry log %s: %w", l.path, explain(err))
	}
	if err := l.recover(); err != nil {
		_ = l.file.Close()
		return nil, err
	}
	return l, nil
}

// create makes an empty log, which is there as a whole or not at all.
func create(fs fileSystem, dir, path string) (file, error) {
	temporary := path + ".new"
	f, err := fs.Create(temporary)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteAt(appendHeader(nil, plainVersion), 0)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return nil, err
	}
	if err := fs.Rename(temporary, path); err != nil {
		return nil, err
	}
	// The folder may be new as well.
	if err := errors.Join(fs.SyncDir(dir), fs.SyncDir(filepath.Dir(dir))); err != nil {
		return nil, err
	}
	return fs.Open(path)
}

// recover reads the file through, and cuts off an append that did not end.
func (l *Log) recover() error {
	size, err := l.file.Size()
	if err != nil {
		return fmt.Errorf("read registry log %s: %w", l.path, err)
	}
	l.usage = newUsage()
	x, err := scan(l.file, size, false, func(e registry.Event) error {
		l.usage.add(e)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read registry log: %w", l.named(err))
	}
	if x.end < size {
		if err := errors.Join(l.file.Truncate(x.end), l.file.Sync()); err != nil {
			return fmt.Errorf("cut registry log %s off at %d, where its last append was interrupted: %w", l.path, x.end, explain(err))
		}
	}
	l.torn, l.position, l.usage.compacted = size-x.end, x.position, x.compactedEnd
	l.end, l.compacted = x.end, x.compacted
	return nil
}

// Torn is how many bytes Open took off the end, left there by an append that a
// crash cut off.
func (l *Log) Torn() int64 { return l.torn }

// Append implements registry.Log. It returns when the events are on the disk,
// synced. Where the disk is full, the error wraps ErrFull and nothing was
// stored. After a sync that failed nobody knows what the disk holds, and
// Append refuses until the log is opened again.
func (l *Log) Append(ctx context.Context, prev uint64, events ...registry.Event) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if l.failed != nil {
		return 0, l.failed
	}
	if prev != l.position {
		return 0, registry.ErrConflict
	}
	frame, err := appendFrame(nil, prev, events)
	if err != nil {
		return 0, fmt.Errorf("append to registry log %s: %w", l.path, err)
	}
	end := l.end // Append alone changes it, and Compact while it holds mu
	if _, err := l.file.WriteAt(frame, end); err != nil {
		// What was written of the frame goes; if it stays, so does the state
		// in which a later frame might be taken for part of it.
		if undo := l.file.Truncate(end); undo != nil {
			l.fail(undo)
		}
		return 0, fmt.Errorf("append to registry log %s: %w", l.path, explain(err))
	}
	if err := l.file.Sync(); err != nil {
		l.fail(err)
		return 0, l.failed
	}
	l.position += uint64(len(events))
	for _, e := range events {
		l.usage.add(e)
	}
	l.state.Lock()
	l.end += int64(len(frame))
	l.state.Unlock()
	return l.position, nil
}

func (l *Log) fail(err error) {
	l.failed = fmt.Errorf("registry log %s takes no more writes, since the disk failed to store one: %w; check the disk, and start again", l.path, explain(err))
}

// Replay implements registry.Log. From within what was compacted it cannot be
// told what is gone, so there Replay returns ErrCompacted.
func (l *Log) Replay(ctx context.Context, from uint64, fn func(registry.Event) error) error {
	f, end, err := l.snapshot(from)
	if err != nil {
		return err
	}
	_, err = scan(f, end, true, func(e registry.Event) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.Position <= from {
			return nil
		}
		return fn(e)
	})
	if closing := f.Close(); err == nil {
		err = closing
	}
	return l.named(err)
}

// named puts the log's name into an error about its content.
func (l *Log) named(err error) error {
	if c := (*CorruptError)(nil); errors.As(err, &c) {
		c.Path = l.path
	}
	return err
}

// snapshot opens the log as it is now, to read it from a position.
func (l *Log) snapshot(from uint64) (file, int64, error) {
	l.state.Lock()
	defer l.state.Unlock()
	if l.closed {
		return nil, 0, ErrClosed
	}
	if 0 < from && from < l.compacted {
		return nil, 0, fmt.Errorf("read registry log %s from position %d: %w up to %d: read it from the beginning", l.path, from, ErrCompacted, l.compacted)
	}
	f, err := l.fs.Open(l.path)
	if err != nil {
		return nil, 0, fmt.Errorf("read registry log: %w", err)
	}
	return f, l.end, nil
}

// Close waits for an Append that is on its way and gives up the folder.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(l.failed, ErrClosed) {
		return nil
	}
	l.failed = ErrClosed
	l.state.Lock()
	l.closed = true
	l.state.Unlock()
	return errors.Join(l.file.Close(), l.lock.Close())
}

// explain adds what to do about what the system says.
func explain(err error) error {
	switch {
	case errors.Is(err, ErrInUse):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: free some space, and try again: %w", ErrFull, err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: give another one, or change its permissions: %w", ErrReadOnly, err)
	default:
		return err
	}
}
