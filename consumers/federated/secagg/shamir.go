package secagg

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// field is a field in which secrets are shared. No operation takes a time that
// depends on the elements; indexes are public.
type field[E any] interface {
	add(a, b E) E
	sub(a, b E) E
	mul(a, b E) E
	inverse(a E) E
	scale(a E, index uint16) E // a times at(index)
	at(index uint16) E         // where the polynomial is evaluated for a share
}

// evaluate returns the polynomial's value at index. coefficients[0] is the secret.
func evaluate[E any](f field[E], coefficients []E, index uint16) E {
	v := coefficients[len(coefficients)-1]
	for i := len(coefficients) - 2; i >= 0; i-- {
		v = f.add(f.scale(v, index), coefficients[i])
	}
	return v
}

var errIndexes = errors.New("expected shares of different indexes above 0")

// weights are what the values at the indexes are multiplied with to make the
// polynomial's value at 0. Any threshold of different indexes will do.
func weights[E any](f field[E], indexes []uint16) ([]E, error) {
	out := make([]E, len(indexes))
	for i, x := range indexes {
		if x == 0 {
			return nil, errIndexes
		}
		over, under := f.at(1), f.at(1)
		for j, y := range indexes {
			if i == j {
				continue
			}
			if x == y {
				return nil, errIndexes
			}
			over = f.scale(over, y)
			under = f.mul(under, f.sub(f.at(y), f.at(x)))
		}
		out[i] = f.mul(over, f.inverse(under))
	}
	return out, nil
}

// combine returns the secret that the values were made of.
func combine[E any](f field[E], weights, values []E) E {
	secret := f.mul(weights[0], values[0])
	for i := 1; i < len(values); i++ {
		secret = f.add(secret, f.mul(weights[i], values[i]))
	}
	return secret
}

// block is an element of GF(2^128) modulo x^128+x^7+x^2+x+1: bit i of the
// number is the coefficient of x^i.
type block struct{ hi, lo uint64 }

// readBlock reads 16 bytes, big-endian.
func readBlock(b []byte) block {
	return block{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

func (b block) append(dst []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, b.hi), b.lo)
}

func (b block) times2() block {
	return block{b.hi<<1 | b.lo>>63, b.lo<<1 ^ 0x87*(b.hi>>63)}
}

// gf128 is the field of the blocks.
type gf128 struct{}

func (gf128) add(a, b block) block { return block{a.hi ^ b.hi, a.lo ^ b.lo} }

func (gf128) sub(a, b block) block { return block{a.hi ^ b.hi, a.lo ^ b.lo} }

func (gf128) at(index uint16) block { return block{0, uint64(index)} }

func (gf128) mul(a, b block) (z block) {
	for i := range 128 {
		word, bit := b.hi, 63-i
		if i >= 64 {
			word, bit = b.lo, 127-i
		}
		mask := -(word >> bit & 1)
		z = z.times2()
		z.hi ^= a.hi & mask
		z.lo ^= a.lo & mask
	}
	return z
}

func (gf128) scale(a block, index uint16) (z block) {
	for i := bits.Len16(index) - 1; i >= 0; i-- {
		z = z.times2()
		if index>>i&1 == 1 {
			z.hi ^= a.hi
			z.lo ^= a.lo
		}
	}
	return z
}

// inverse is a to the power of 2^128-2; that of 0 is 0.
func (f gf128) inverse(a block) block {
	z, square := f.at(1), a
	for range 127 {
		square = f.mul(square, square)
		z = f.mul(z, square)
	}
	return z
}

// secretSize is that of the two secrets of a client that are shared, and of a
// share.
const secretSize = 32

type secret = [secretSize]byte

// sharing is a secret's two polynomials.
type sharing [2][]block

// newSharing draws the coefficients that make threshold shares necessary from
// random, 32 bytes each.
func newSharing(s secret, threshold int, random func([]byte)) (p sharing) {
	for i, b := 0, s; ; i++ {
		p[0] = append(p[0], readBlock(b[:16]))
		p[1] = append(p[1], readBlock(b[16:]))
		if i == threshold-1 {
			return p
		}
		random(b[:])
	}
}

func (p sharing) share(index uint16) (s secret) {
	evaluate(gf128{}, p[1], index).append(evaluate(gf128{}, p[0], index).append(s[:0]))
	return s
}

// recombine returns the secret of the shares that belong to weights.
func recombine(weights []block, shares []secret) (s secret) {
	halves := [2][]block{}
	for _, share := range shares {
		halves[0] = append(halves[0], readBlock(share[:16]))
		halves[1] = append(halves[1], readBlock(share[16:]))
	}
	combine(gf128{}, weights, halves[1]).append(combine(gf128{}, weights, halves[0]).append(s[:0]))
	return s
}
