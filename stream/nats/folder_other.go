//go:build !linux && !darwin

package nats

import (
	"errors"
	"fmt"
	"os"
)

// errLocked is returned by flock if another process has the lock.
var errLocked = errors.New("locked")

// flock refuses: an embedded server is offered where a lock ends with its
// process.
func flock(*os.File) error {
	return fmt.Errorf("serve a folder: %w on this system: use a nats:// or kafka:// broker", errors.ErrUnsupported)
}

// freeBytes is how much may still be written to the disk of a folder.
func freeBytes(string) (uint64, error) { return 0, errors.ErrUnsupported }
