package file

import (
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// crashFS is a file system in memory that keeps apart what was synced and what
// was not, and loses of the latter whatever the dice say. It fails on demand.
type crashFS struct {
	mu     sync.Mutex
	names  map[string]*inode // as programs see them
	synced map[string]*inode // as they are after a crash
	locked map[string]bool

	// fail is asked before each step that changes something: "write",
	// "sync", "truncate", "create", "rename", "syncdir". What it returns is
	// what the step returns; a write that fails may have written a part.
	fail func(step string) error
}

type inode struct {
	data    []byte // as programs see it
	durable []byte
	pending []change // since the last sync
}

// change is a write, or, where data is nil, a truncation to off.
type change struct {
	off  int64
	data []byte
}

func newCrashFS() *crashFS {
	return &crashFS{names: map[string]*inode{}, synced: map[string]*inode{}, locked: map[string]bool{}}
}

func (fs *crashFS) step(name string) error {
	if fs.fail == nil {
		return nil
	}
	return fs.fail(name)
}

// sector is what a disk writes whole or not at all.
const sector = 512

// crash drops what was not synced, but for what keep says, which is asked for
// each step of each change. All locks and handles are gone.
func (fs *crashFS) crash(keep func() bool) *crashFS {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	after := newCrashFS()
	names := fs.synced
	if keep() {
		names = fs.names
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		node := names[name]
		data := slices.Clone(node.durable)
		for _, c := range node.pending {
			data = survive(data, c, keep)
		}
		n := &inode{data: data, durable: slices.Clone(data)}
		after.names[name], after.synced[name] = n, n
	}
	return after
}

func survive(data []byte, c change, keep func() bool) []byte {
	if c.data == nil {
		if keep() {
			return resize(data, c.off)
		}
		return data
	}
	if keep() { // the file has grown, whether or not the data came
		data = resize(data, max(int64(len(data)), c.off+int64(len(c.data))))
	}
	for at := c.off; at < c.off+int64(len(c.data)); {
		next := min(at-at%sector+sector, c.off+int64(len(c.data)))
		if keep() {
			data = resize(data, max(int64(len(data)), next))
			copy(data[at:], c.data[at-c.off:next-c.off])
		}
		at = next
	}
	return data
}

func resize(data []byte, size int64) []byte {
	if size <= int64(len(data)) {
		return data[:size]
	}
	return append(data, make([]byte, size-int64(len(data)))...)
}

func (fs *crashFS) MkdirAll(string) error { return nil }

func (fs *crashFS) Open(path string) (file, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.names[path]
	if n == nil {
		return nil, os.ErrNotExist
	}
	return &handle{fs: fs, node: n}, nil
}

func (fs *crashFS) Create(path string) (file, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if err := fs.step("create"); err != nil {
		return nil, err
	}
	fs.names = maps.Clone(fs.names)
	fs.names[path] = &inode{}
	return &handle{fs: fs, node: fs.names[path]}, nil
}

func (fs *crashFS) Rename(from, to string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if err := fs.step("rename"); err != nil {
		return err
	}
	fs.names = maps.Clone(fs.names)
	fs.names[to] = fs.names[from]
	delete(fs.names, from)
	return nil
}

func (fs *crashFS) Remove(path string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if err := fs.step("remove"); err != nil {
		return err
	}
	fs.names = maps.Clone(fs.names)
	delete(fs.names, path)
	return nil
}

func (fs *crashFS) SyncDir(dir string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if err := fs.step("syncdir"); err != nil {
		return err
	}
	fs.synced = maps.Clone(fs.synced)
	for name := range fs.synced {
		if filepath.Dir(name) == dir {
			delete(fs.synced, name)
		}
	}
	for name, n := range fs.names {
		if filepath.Dir(name) == dir {
			fs.synced[name] = n
		}
	}
	return nil
}

func (fs *crashFS) Lock(path string) (io.Closer, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.locked[path] {
		return nil, ErrInUse
	}
	fs.locked[path] = true
	return unlock{fs, path}, nil
}

type unlock struct {
	fs   *crashFS
	path string
}

func (u unlock) Close() error {
	u.fs.mu.Lock()
	defer u.fs.mu.Unlock()
	delete(u.fs.locked, u.path)
	return nil
}

type handle struct {
	fs     *crashFS
	node   *inode
	closed bool
}

func (h *handle) ReadAt(b []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return 0, os.ErrClosed
	}
	if off >= int64(len(h.node.data)) {
		return 0, io.EOF
	}
	n := copy(b, h.node.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) WriteAt(b []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	err := h.fs.step("write")
	if err != nil {
		b = b[:len(b)/2]
	}
	h.node.data = resize(h.node.data, max(int64(len(h.node.data)), off+int64(len(b))))
	copy(h.node.data[off:], b)
	h.node.pending = append(h.node.pending, change{off, slices.Clone(b)})
	return len(b), err
}

func (h *handle) Truncate(size int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.fs.step("truncate"); err != nil {
		return err
	}
	h.node.data = resize(h.node.data, size)
	h.node.pending = append(h.node.pending, change{off: size})
	return nil
}

// Sync that fails has synced nothing, and later ones do not make up for it: so
// do systems that drop the pages they could not write.
func (h *handle) Sync() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	err := h.fs.step("sync")
	if err == nil {
		h.node.durable = slices.Clone(h.node.data)
	}
	if err == nil || !errors.Is(err, errPower) {
		h.node.pending = nil
	}
	return err
}

func (h *handle) Size() (int64, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	return int64(len(h.node.data)), nil
}

func (h *handle) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	h.closed = true
	return nil
}

// errPower is what every step returns once the power is gone.
var errPower = errors.New("no power")
