//go:build unix

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
