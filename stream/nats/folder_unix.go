//go:build linux || darwin

package nats

import (
	"errors"
	"os"
	"syscall"
)

// errLocked is returned by flock if another process has the lock.
var errLocked = errors.New("locked")

// flock locks f until it is closed or the process ends.
func flock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errLocked
	}
	return err
}

// freeBytes is how much may still be written to the disk of a folder.
func freeBytes(dir string) (uint64, error) {
	var fs syscall.Statfs_t
	err := syscall.Statfs(dir, &fs)
	return fs.Bavail * uint64(fs.Bsize), err
}
