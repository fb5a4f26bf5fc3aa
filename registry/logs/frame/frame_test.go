package frame

import (
	"bytes"
	"testing"
	"time"

	"penstock/registry"
)

// FuzzRead reads any bytes. What is read, written again, is the same bytes.
func FuzzRead(f *testing.F) {
	whole := Append(nil, []registry.Event{
		{Time: time.UnixMilli(-5), Key: []byte("k")},
		{Time: time.UnixMilli(7), Value: []byte{}},
		{Time: time.UnixMilli(8), Key: []byte("k"), Value: []byte("v")},
	})
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(append(bytes.Clone(whole), 0))
	f.Add(Append(nil, nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := Read(b)
		if err != nil {
			return
		}
		if again := Append(nil, events); !bytes.Equal(again, b) {
			t.Errorf("read %x, written again it is %x", b, again)
		}
	})
}
