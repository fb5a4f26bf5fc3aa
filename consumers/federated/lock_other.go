//go:build !unix

package federated

import "errors"

// lockFile refuses: it needs a lock that ends with its process.
func lockFile(string) (unlock func() error, err error) {
	return nil, errors.New("expected a system with flock")
}
