package secagg

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// Encoding says how numbers become elements of the ring of the integers modulo
// 2^32, in which the vectors are added up.
//
// A vector is the client's weight w, and w times each number's level: a number
// between -Clip and Clip, and what is beyond is brought there, is one of 2^Bits
// levels, 0 for -Clip. It is rounded up with the probability that makes the
// level right on the average. With Noise it is otherwise.
type Encoding struct {
	Bits      uint8   // 1 to 31; 0 with noise
	Clip      float64 // above 0
	MaxWeight uint32  // of a client; 1 where all weigh the same
	Noise
}

// levels is the highest level.
func (e Encoding) levels() uint32 { return 1<<e.Bits - 1 }

// check says why the sum of so many clients might not fit into the ring: it fits
// if clients*MaxWeight*(2^Bits-1) is below 2^32.
func (e Encoding) check(clients int) error {
	if e.Bits < 1 || e.Bits > 31 {
		return fmt.Errorf("expected 1 to 31 bits, found %d", e.Bits)
	}
	if !(e.Clip > 0) || e.Clip > math.MaxFloat32 {
		return fmt.Errorf("expected a clip above 0 and finite, found %v", e.Clip)
	}
	if e.MaxWeight < 1 {
		return errors.New("expected a largest weight of at least 1, found 0")
	}
	high, low := bits.Mul64(uint64(clients)*uint64(e.MaxWeight), uint64(e.levels()))
	if clients < 1 || clients > MaxClients || high != 0 || low > math.MaxUint32 {
		return fmt.Errorf("%d clients of weight %d with %d bits may add up to 2^32 or more: expected fewer bits or a smaller weight", clients, e.MaxWeight, e.Bits)
	}
	return nil
}

// MostBits is the largest Bits with which the sum of so many clients fits, at
// most 24 (what a float32 holds), and 0 if none does.
func MostBits(clients int, maxWeight uint32) uint8 {
	for b := uint8(24); b > 0; b-- {
		if (Encoding{Bits: b, Clip: 1, MaxWeight: maxWeight}).check(clients) == nil {
			return b
		}
	}
	return 0
}

// quantize returns the level of x among levels, rounded up where the fraction
// exceeds dice/2^32. x is no NaN.
func quantize(x, clip float64, levels, dice uint32) uint32 {
	exact := (min(max(x, -clip), clip) + clip) * (float64(levels) / (2 * clip))
	level := math.Floor(exact)
	if (exact-level)*(1<<32) > float64(dice) {
		level++
	}
	return uint32(min(level, float64(levels)))
}

// dequantize is the number of a level, or of a mean of levels.
func dequantize(level, clip float64, levels uint32) float64 {
	return level*(2*clip/float64(levels)) - clip
}

// encode returns the vector of values under a weight. dice draws the rounding.
func (e Encoding) encode(values []float32, weight uint32, dice cipher.Stream) ([]uint32, error) {
	if weight < 1 || weight > e.MaxWeight {
		return nil, fmt.Errorf("expected a weight from 1 to %d, found %d", e.MaxWeight, weight)
	}
	if e.Sigma > 0 {
		return e.integers(values, dice)
	}
	out := make([]uint32, 1+len(values))
	out[0] = weight
	var random [4 * 1024]byte
	levels := e.levels()
	for i, v := range values {
		at := 4 * i % len(random)
		if at == 0 {
			clear(random[:])
			dice.XORKeyStream(random[:], random[:])
		}
		x := float64(v)
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, fmt.Errorf("expected finite numbers, found %v in element %d", v, i)
		}
		out[1+i] = weight * quantize(x, e.Clip, levels, binary.LittleEndian.Uint32(random[at:]))
	}
	return out, nil
}

// Decode returns the sum of the clients' weights and, for each number, the
// weighted mean. sum is what Server.Sum returns.
func (e Encoding) Decode(sum []uint32) (weight uint32, mean []float64, err error) {
	if len(sum) == 0 || sum[0] == 0 {
		return 0, nil, errors.New("decode sum: it has no weight")
	}
	mean = make([]float64, len(sum)-1)
	if e.Sigma > 0 {
		unit := e.Scale(uint32(len(mean))) * float64(sum[0])
		for i, v := range sum[1:] {
			mean[i] = float64(int32(v)) / unit
		}
		return sum[0], mean, nil
	}
	levels := e.levels()
	for i, v := range sum[1:] {
		mean[i] = dequantize(float64(v)/float64(sum[0]), e.Clip, levels)
	}
	return sum[0], mean, nil
}
