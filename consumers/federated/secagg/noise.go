package secagg

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"penstock/consumers/federated/privacy"
)

// Noise makes an encoding one of distributed differential privacy: each client bounds
// its vector and adds a share of noise, and the server sees what the sum of the shares
// leaves of the sum of the vectors. The zero value is none.
//
// All clients then weigh 1. The numbers are brought to the L2 norm Clip, multiplied by
// Scale, rounded to integers at random so that they are right on the average, and get
// noise: integers modulo 2^32, of which those of 2^31 and more stand for negative ones.
type Noise struct {
	// Bound is what the L2 norm of the integers stays within, whatever the numbers are.
	// Rounding moves each by less than 1 and the norm by less than the root of their
	// number, which Scale leaves room for.
	Bound uint32
	Sigma uint32 // of each client's discrete Gaussian noise
}

const (
	// mostBound keeps a float64 from rounding a norm by as much as 1.
	mostBound = 1 << 24
	// tail is how many standard deviations of the noise of all clients there is room for.
	// A sum of discrete Gaussians is further out with a probability below 2 exp(-tail²/2),
	// and one of the 2^28 elements with one below 2^-74.
	tail = 12
)

// Scale is by how much numbers grow on the way to integers.
func (e Encoding) Scale(elements uint32) float64 {
	return (float64(e.Bound) - math.Sqrt(float64(elements)) - 1) / e.Clip
}

// checkNoise says why the integers of so many clients might not keep to their bound, or
// why no room might be left for their sum: none of them can pass the bound, nor their
// noise the tail.
func (e Encoding) checkNoise(clients int, elements uint32) error {
	n, root := float64(clients), math.Sqrt(float64(elements))
	switch {
	case e.Bits != 0 || e.MaxWeight != 1:
		return fmt.Errorf("expected an encoding with noise to have 0 bits and the weight 1, found %d and %d", e.Bits, e.MaxWeight)
	case !(e.Clip > 0) || e.Clip > math.MaxFloat32:
		return fmt.Errorf("expected a norm to clip to above 0 and finite, found %v", e.Clip)
	case e.Bound > mostBound || float64(e.Bound) < 16*root:
		return fmt.Errorf("expected a bound from %v, 16 times the root of the elements, to %d, found %d", 16*root, mostBound, e.Bound)
	case e.Sigma < 1 || e.Sigma > privacy.MaxShare:
		return fmt.Errorf("expected noise from 1 to %d, found %d", privacy.MaxShare, e.Sigma)
	case n*float64(e.Bound)+tail*float64(e.Sigma)*math.Sqrt(n) >= 1<<31:
		return fmt.Errorf("%d clients of norm %d with noise of %d may add up to 2^31 or more: expected a smaller bound", clients, e.Bound, e.Sigma)
	}
	return nil
}

// WithNoise is an encoding for vectors of so many elements, clipped to norm, of so many
// clients: any shares of them have the noise multiplier between them, and more have more.
// Its bound, and with it its precision, is the largest power of two that fits.
func WithNoise(clients, shares int, elements uint32, norm, multiplier float64) (Encoding, error) {
	e := Encoding{Clip: norm, MaxWeight: 1}
	for e.Bound = mostBound; e.Bound > 0; e.Bound /= 2 {
		s := privacy.Shares{Count: shares, Bound: float64(e.Bound), Elements: int(elements)}
		if err := s.Reach(multiplier); err == nil {
			e.Sigma = s.Sigma
			if e.checkNoise(clients, elements) == nil {
				return e, nil
			}
		}
	}
	return e, fmt.Errorf("no integers of 32 bits hold the sum of %d clients with %d elements and a noise multiplier of %v: expected less noise, or fewer elements", clients, elements, multiplier)
}

// integers returns the vector of values without noise.
func (e Encoding) integers(values []float32, dice cipher.Stream) ([]uint32, error) {
	var squares float64
	for _, v := range values {
		squares += float64(v) * float64(v)
	}
	if math.IsNaN(squares) || math.IsInf(squares, 0) {
		return nil, errors.New("expected finite numbers, found others among them")
	}
	factor := e.Scale(uint32(len(values))) * min(1, e.Clip/math.Sqrt(squares))
	out := make([]uint32, 1+len(values))
	out[0] = 1
	var random [4 * 1024]byte
	for i, v := range values {
		at := 4 * i % len(random)
		if at == 0 {
			clear(random[:])
			dice.XORKeyStream(random[:], random[:])
		}
		exact := float64(v) * factor
		low := math.Floor(exact)
		if (exact-low)*(1<<32) > float64(binary.LittleEndian.Uint32(random[at:])) {
			low++
		}
		out[1+i] = uint32(int64(low))
	}
	return out, nil
}

// blur adds the client's noise, which the weight has none of: who takes part is no secret.
func (e Encoding) blur(vector []uint32, secret cipher.Stream) {
	if e.Sigma > 0 {
		privacy.AddDiscrete(secret, vector[1:], e.Sigma)
	}
}
