//go:build unix

package federated

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// What a disk does not give is an error, also where a file is read through memory.
func TestMappedFileThatCannotBeRead(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	in, unmap, err := mapFile(file, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer unmap()
	if _, ok := in.(mapping); !ok {
		t.Fatal("the file is not mapped")
	}
	b := make([]byte, 100)
	if n, err := in.ReadAt(b, 1<<20-100); n != 100 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	for _, at := range []int64{-1, 1<<20 - 99, 1<<20 + 1} {
		if _, err := in.ReadAt(b, at); !errors.Is(err, io.EOF) {
			t.Errorf("at %d: %v", at, err)
		}
	}
	if err := file.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := in.ReadAt(b, 1<<19); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}
