//go:build unix

package federated

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"syscall"
)

// mapping is a file that is read through memory.
type mapping []byte

// mapFile reads the first size bytes of a file, until the function that it returns is
// called. One that the system does not map, for want of addresses or because of where
// it lies, is read as files are.
func mapFile(file *os.File, size int64) (io.ReaderAt, func(), error) {
	if size == 0 || int64(int(size)) != size {
		return file, func() {}, nil
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var m mapping
	var failed error
	if err := raw.Control(func(fd uintptr) {
		m, failed = syscall.Mmap(int(fd), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED)
	}); err != nil {
		return nil, nil, err
	}
	if failed != nil {
		return file, func() {}, nil //nolint:nilerr // there is another way
	}
	return m, func() { _ = syscall.Munmap(m) }, nil // it is what Mmap returned
}

// ReadAt implements io.ReaderAt. What the disk does not give is an error here too, and
// not the end of the process.
func (m mapping) ReadAt(b []byte, at int64) (n int, err error) {
	if at < 0 || at > int64(len(m)) {
		return 0, io.EOF
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			n, err = 0, fmt.Errorf("byte %d of a mapped file and on: %v: %w", at, fault, io.ErrUnexpectedEOF)
		}
	}()
	if n = copy(b, m[at:]); n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
