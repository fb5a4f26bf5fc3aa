package kernels

import (
	"encoding/binary"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Words are added and taken away alike in plain Go and by whatever the processor has.
func TestWords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 70).Draw(t, "words")
		words := rapid.SliceOfN(rapid.Uint32(), 2*n, 2*n).Draw(t, "values")
		first, second := words[:n], words[n:]
		b := make([]byte, 0, 4*n)
		want := make([]uint32, n)
		for i, x := range second {
			b = binary.LittleEndian.AppendUint32(b, x)
			want[i] = first[i] + x
		}
		v, plain := slices.Clone(first), slices.Clone(first)
		AddWords(v, b)
		addPlain(plain, b)
		if !slices.Equal(v, want) || !slices.Equal(plain, want) {
			t.Fatalf("%v plus %v is %v, and %v in plain Go", first, second, v, plain)
		}
		SubtractWords(v, b)
		subtractPlain(plain, b)
		if !slices.Equal(v, first) || !slices.Equal(plain, first) {
			t.Fatalf("%v less %v is %v, and %v in plain Go", want, second, v, plain)
		}
	})
}
