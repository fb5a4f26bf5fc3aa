package file

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// fileSystem is what the log asks of a file system. Tests put one under it that
// loses what was not synced.
type fileSystem interface {
	MkdirAll(dir string) error
	// Open opens a file that exists, to read and write.
	Open(path string) (file, error)
	// Create makes an empty file, in the place of one that exists.
	Create(path string) (file, error)
	Rename(from, to string) error
	// Remove takes a file away. It is no error if there is none.
	Remove(path string) error
	// SyncDir makes what was made and renamed in a folder durable.
	SyncDir(dir string) error
	// Lock returns ErrInUse if another process holds the lock.
	Lock(path string) (io.Closer, error)
}

type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	Truncate(size int64) error
	Sync() error
}

// osFS is the system's own.
type osFS struct{}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (osFS) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o700) }

func (osFS) Open(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	return osFile{f}, err
}

func (osFS) Create(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	return osFile{f}, err
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }

func (osFS) Remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return err
}

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) {
		err = nil // a file system that knows no such thing
	}
	return errors.Join(err, d.Close())
}
