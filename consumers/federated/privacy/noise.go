package privacy

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// Clip scales update so that it is at most norm away from base, and returns the
// distance it had. An update within norm stays as it is, to the bit.
func Clip(update, base []float32, norm float64) (distance float64) {
	measure := func() float64 {
		var squares float64
		for i, v := range update {
			d := float64(v) - float64(base[i])
			squares += d * d
		}
		return math.Sqrt(squares)
	}
	distance = measure()
	// Rounding may leave it a little beyond: a second turn aims that much lower.
	for d, aim := distance, norm; d > norm; d = measure() {
		for i, v := range update {
			update[i] = float32(float64(base[i]) + (float64(v)-float64(base[i]))*aim/d)
		}
		aim *= 1 - 1e-7
	}
	return distance
}

// Adaptive follows a quantile of the norms of updates (Andrew et al., 2021).
type Adaptive struct {
	Norm     float64 // to clip at in the next round
	Rate     float64 // of learning; 0.2 in the paper
	Quantile float64 // the share of updates that are to stay whole
}

// Next is the norm after a round of which a share stayed whole. The share is to
// be noisy already: see CountNoise.
func (a Adaptive) Next(whole float64) Adaptive {
	a.Norm *= math.Exp(-a.Rate * (whole - a.Quantile))
	return a
}

// CountNoise says which noise multiplier the sum of updates needs so that,
// together with a count of noise sd, a round costs what it would with the
// multiplier alone.
func CountNoise(multiplier, sd float64) (float64, error) {
	if multiplier == 0 {
		return 0, nil
	}
	rest := 1/(multiplier*multiplier) - 1/(4*sd*sd)
	if !(multiplier > 0 && rest > 0) {
		return 0, fmt.Errorf("expected a count with noise above %v, found %v", multiplier/2, sd)
	}
	return 1 / math.Sqrt(rest), nil
}

// MeanNoise is the standard deviation of the noise on the mean of n updates that
// were clipped to norm. All must weigh the same.
func MeanNoise(multiplier, norm float64, n int) float64 { return multiplier * norm / float64(n) }

// Noise adds Gaussian noise to values, with randomness from source, which is
// crypto/rand.Reader but in tests. The result lies on a grid of at most sd/2^20,
// so that its low bits do not tell the value below the noise (Mironov, 2012).
func Noise(source io.Reader, values []float64, sd float64) error {
	if !(sd > 0 && sd < 1e300) {
		return fmt.Errorf("expected a standard deviation above 0, found %v", sd)
	}
	grid := math.Ldexp(1, math.Ilogb(sd)-20)
	in := bufio.NewReaderSize(source, 64<<10)
	var word [8]byte
	uniform := func() (float64, error) { // above 0, up to 1
		if _, err := io.ReadFull(in, word[:]); err != nil {
			return 0, fmt.Errorf("read randomness: %w", err)
		}
		return float64(binary.LittleEndian.Uint64(word[:])>>11+1) / (1 << 53), nil
	}
	for i := 0; i < len(values); i += 2 {
		u, err := uniform()
		if err != nil {
			return err
		}
		v, err := uniform()
		if err != nil {
			return err
		}
		radius := sd * math.Sqrt(-2*math.Log(u))
		sin, cos := math.Sincos(2 * math.Pi * v)
		values[i] = math.RoundToEven((values[i]+radius*cos)/grid) * grid
		if i+1 < len(values) {
			values[i+1] = math.RoundToEven((values[i+1]+radius*sin)/grid) * grid
		}
	}
	return nil
}
