package secagg

import "testing"

// BenchmarkMasks adds masks as a client does among a hundred; B/s is of the masks.
func BenchmarkMasks(b *testing.B) {
	v := make([]uint32, 1_000_001)
	masks := make([]mask, 100)
	for i := range masks {
		masks[i].seed[0], masks[i].subtract = byte(i), i%2 == 1
	}
	b.SetBytes(int64(4 * len(v) * len(masks)))
	for b.Loop() {
		apply(v, masks)
	}
}
