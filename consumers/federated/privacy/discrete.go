package privacy

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
)

// MaxShare is the largest parameter of a share of discrete noise: up to it the sampler
// computes in 64 bits.
const MaxShare = 1 << 27

// AddDiscrete adds a draw of the discrete Gaussian, whose probabilities are as
// exp(-x²/(2 sigma²)), to each element of ring, modulo 2^32. It is the sampler of
// Canonne, Kamath and Steinke (2020) and exact: integers alone, so that no rounding
// of floating point tells of what is below the noise. The stream is secret, and used
// for nothing else; the same gives the same noise. sigma is 1 to MaxShare.
func AddDiscrete(stream cipher.Stream, ring []uint32, sigma uint32) {
	c := coins{stream: stream}
	for i := range ring {
		ring[i] += uint32(c.gaussian(uint64(sigma)))
	}
}

// coins draws from a stream of random bytes.
type coins struct {
	stream cipher.Stream
	buffer [4096]byte
	at     int
}

func (c *coins) word() uint64 {
	if c.at == 0 {
		clear(c.buffer[:])
		c.stream.XORKeyStream(c.buffer[:], c.buffer[:])
	}
	v := binary.LittleEndian.Uint64(c.buffer[c.at:])
	c.at = (c.at + 8) % len(c.buffer)
	return v
}

// below is uniform from 0 to n-1 (Lemire, 2019).
func (c *coins) below(n uint64) uint64 {
	high, low := bits.Mul64(c.word(), n)
	if low < n {
		for least := -n % n; low < least; {
			high, low = bits.Mul64(c.word(), n)
		}
	}
	return high
}

// decay is true with probability exp(-a/b). a is at most b.
func (c *coins) decay(a, b uint64) bool {
	k := uint64(1)
	for c.below(b*k) < a {
		k++
	}
	return k%2 == 1
}

// gaussian draws from the discrete Laplace distribution of scale sigma, and again
// unless a coin says that the draw may pass for a Gaussian one.
func (c *coins) gaussian(sigma uint64) int64 {
	for {
		x := c.below(sigma)
		if !c.decay(x, sigma) {
			continue
		}
		for c.decay(1, 1) {
			x += sigma
		}
		negative := c.below(2) == 1
		if negative && x == 0 {
			continue // or 0 would come twice
		}
		away, twice := max(x, sigma)-min(x, sigma), 2*sigma*sigma
		high, low := bits.Mul64(away, away)
		whole, rest := bits.Div64(high, low, twice)
		pass := c.decay(rest, twice)
		for ; pass && whole > 0; whole-- {
			pass = c.decay(1, 1)
		}
		switch {
		case !pass:
		case negative:
			return -int64(x)
		default:
			return int64(x)
		}
	}
}

// Shares is a sum of integer vectors to which several parties each add discrete
// Gaussian noise of their own (Kairouz, Liu and Steinke, 2021).
type Shares struct {
	Count    int     // of the shares that nobody who sees the sum knows; more do no harm
	Sigma    uint32  // of each
	Bound    float64 // the L2 norm of what one client says is at most that
	Elements int     // of a vector
}

// Multiplier is the noise multiplier of the Gaussian mechanism that costs as much. Its
// inverse is the epsilon of concentrated differential privacy in proposition 14 of the
// paper, by the term that has no L1 norm: a sum of discrete Gaussians is not quite one,
// by a factor whose logarithm is at most tau in each element.
func (s Shares) Multiplier() float64 {
	sigma := float64(s.Sigma)
	var tau float64
	for k := 1.0; k < float64(s.Count); k++ {
		tau += 10 * math.Exp(-2*math.Pi*math.Pi*sigma*sigma*k/(k+1))
	}
	return 1 / (s.Bound/(sigma*math.Sqrt(float64(s.Count))) + tau*math.Sqrt(float64(s.Elements)))
}

// Reach sets Sigma to the least with which the multiplier is at least z.
func (s *Shares) Reach(z float64) error {
	least := math.Ceil(z * s.Bound / math.Sqrt(float64(s.Count)))
	if s.Count < 1 || s.Elements < 1 || !(least >= 1 && least < MaxShare) {
		return fmt.Errorf("expected shares of noise from 1 to %d, found %v in %d shares", MaxShare, least, s.Count)
	}
	// Where it is large, what is left to make up for is less than one step.
	for s.Sigma = uint32(least); s.Multiplier() < z; s.Sigma++ {
		if s.Sigma == MaxShare {
			return fmt.Errorf("expected fewer elements, found %d: no noise reaches %v", s.Elements, z)
		}
	}
	return nil
}
