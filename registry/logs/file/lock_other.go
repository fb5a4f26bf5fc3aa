//go:build !unix

package file

import (
	"errors"
	"fmt"
	"io"
)

// Lock refuses: without a lock that ends with the process, two of them could
// write one log.
func (osFS) Lock(string) (io.Closer, error) {
	return nil, fmt.Errorf("lock a folder on this system: %w", errors.ErrUnsupported)
}
