//go:build unix

package file

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Lock takes a lock that ends with the process, however it ends, and leaves the
// process id in the file for whoever finds it taken.
func (osFS) Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		by := "another process"
		holder := make([]byte, 20)
		if n, _ := f.ReadAt(holder, 0); n > 0 {
			by = "process " + strings.TrimSpace(string(holder[:n]))
		}
		_ = f.Close()
		return nil, fmt.Errorf("%w: %s has it open; stop that, or give another folder", ErrInUse, by)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
