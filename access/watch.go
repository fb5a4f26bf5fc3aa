package access

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
)

// maxFileBytes is the largest file that is read.
const maxFileBytes = 4 << 20

// watched is what one or several files say. Its methods may be called
// concurrently, and get never waits for the others.
type watched[T any] struct {
	what  string // for errors and the log
	files []string
	parse func(contents [][]byte) (*T, error)

	mu    sync.Mutex        // guards seen
	seen  [sha256.Size]byte // of the contents last parsed, whatever came of it
	value atomic.Pointer[T]
}

// watch reads the files for the first time.
func watch[T any](what string, parse func([][]byte) (*T, error), files ...string) (*watched[T], error) {
	w := &watched[T]{what: what, files: files, parse: parse}
	_, err := w.read()
	return w, err
}

func (w *watched[T]) get() *T { return w.value.Load() }

// poll reads the files again. Of a state that cannot be used it tells log once.
func (w *watched[T]) poll(log *slog.Logger) {
	switch changed, err := w.read(); {
	case err != nil && changed:
		log.Error("the last good state stays", "of", w.what, "error", err)
	case changed:
		log.Info("read again", "what", w.what, "files", w.files)
	}
}

// read reports whether the files are other than at the last call. It compares
// what they hold and not their times, which a quick writer may leave alone.
func (w *watched[T]) read() (changed bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var (
		contents [][]byte
		all      = sha256.New()
	)
	for _, name := range w.files {
		content, readErr := readFile(name)
		err = errors.Join(err, readErr)
		contents = append(contents, content)
		sum := sha256.Sum256(content)
		all.Write(sum[:])
	}
	if err != nil {
		all.Write([]byte(err.Error()))
	}
	sum := [sha256.Size]byte(all.Sum(nil))
	if changed = sum != w.seen; !changed {
		return false, nil
	}
	w.seen = sum
	if err != nil {
		return true, fmt.Errorf("read %s: %w", w.what, err)
	}
	value, err := w.parse(contents)
	if err != nil {
		return true, fmt.Errorf("read %s from %q: %w", w.what, w.files, err)
	}
	w.value.Store(value)
	return true, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if n > maxFileBytes {
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxFileBytes)
	}
	return b.Bytes(), nil
}
