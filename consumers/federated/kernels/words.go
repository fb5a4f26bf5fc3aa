package kernels

import "encoding/binary"

// AddWords adds to v, modulo 2^32, the words of b, which are little-endian and as many.
func AddWords(v []uint32, b []byte) {
	n := addMany(v, b)
	addPlain(v[n:], b[4*n:])
}

// SubtractWords takes away what AddWords adds.
func SubtractWords(v []uint32, b []byte) {
	n := subtractMany(v, b)
	subtractPlain(v[n:], b[4*n:])
}

func addPlain(v []uint32, b []byte) {
	for ; len(v) >= 4 && len(b) >= 16; v, b = v[4:], b[16:] {
		x, y := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
		v[0] += uint32(x)
		v[1] += uint32(x >> 32)
		v[2] += uint32(y)
		v[3] += uint32(y >> 32)
	}
	for i := range v {
		v[i] += binary.LittleEndian.Uint32(b[4*i:])
	}
}

func subtractPlain(v []uint32, b []byte) {
	for ; len(v) >= 4 && len(b) >= 16; v, b = v[4:], b[16:] {
		x, y := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
		v[0] -= uint32(x)
		v[1] -= uint32(x >> 32)
		v[2] -= uint32(y)
		v[3] -= uint32(y >> 32)
	}
	for i := range v {
		v[i] -= binary.LittleEndian.Uint32(b[4*i:])
	}
}
