package privacy

import (
	"crypto/aes"
	"crypto/cipher"
	"math"
	"slices"
	"testing"
)

func streamOf(seed byte) cipher.Stream {
	block, err := aes.NewCipher(slices.Repeat([]byte{seed}, 16))
	if err != nil {
		panic(err)
	}
	return cipher.NewCTR(block, make([]byte, 16))
}

func drawn(seed byte, n int, sigma uint32) []int32 {
	ring := make([]uint32, n)
	AddDiscrete(streamOf(seed), ring, sigma)
	out := make([]int32, n)
	for i, v := range ring {
		out[i] = int32(v)
	}
	return out
}

// logDiscrete are the logarithms of the probabilities from -reach to reach.
func logDiscrete(sigma float64, reach int) []float64 {
	out, sum := make([]float64, 2*reach+1), math.Inf(-1)
	for i := range out {
		x := float64(i - reach)
		out[i] = -x * x / (2 * sigma * sigma)
		sum = logAdd(sum, out[i])
	}
	for i := range out {
		out[i] -= sum
	}
	return out
}

// The stream is the same each time, and so is the outcome.
func TestDiscreteDraws(t *testing.T) {
	const n = 50_000
	for seed, sigma := range []uint32{1, 2, 7, 1000, MaxShare} {
		x := drawn(byte(seed), n, sigma)
		var sum, squares, cubes, fourths float64
		for _, v := range x {
			u := float64(v) / float64(sigma)
			sum, squares, cubes, fourths = sum+u, squares+u*u, cubes+u*u*u, fourths+u*u*u*u
		}
		var variance, fourth float64
		for i, l := range logDiscrete(min(float64(sigma), 1000), 20_000) {
			u := float64(i-20_000) / min(float64(sigma), 1000)
			variance, fourth = variance+math.Exp(l)*u*u, fourth+math.Exp(l)*u*u*u*u
		}
		for _, f := range []struct {
			name        string
			found, want float64
			deviation   float64 // of one draw, about
		}{{"mean", sum, 0, 1}, {"variance", squares, variance, 1.5}, {"third moment", cubes, 0, 4}, {"fourth moment", fourths, fourth, 10}} {
			if math.Abs(f.found/n-f.want) > 4*f.deviation/math.Sqrt(n) {
				t.Errorf("sigma %d: expected a %s of %v, found %v", sigma, f.name, f.want, f.found/n)
			}
		}
		if sigma > 7 {
			continue
		}
		const reach = 100
		counts := [2*reach + 1]float64{}
		for _, v := range x {
			counts[v+reach]++
		}
		var chi float64
		cells := 0
		for i, l := range logDiscrete(float64(sigma), reach) {
			if want := n * math.Exp(l); want > 10 {
				chi += (counts[i] - want) * (counts[i] - want) / want
				cells++
			}
		}
		if chi > float64(cells)+4*math.Sqrt(2*float64(cells)) || cells < 7 {
			t.Errorf("sigma %d: chi-square of %v over %d values", sigma, chi, cells)
		}
	}
	ring := []uint32{5, 1<<32 - 5}
	AddDiscrete(streamOf(3), ring, 7)
	if x := drawn(3, 2, 7); int32(ring[0]) != 5+x[0] || int32(ring[1]) != x[1]-5 {
		t.Errorf("noise was not added: %v and %v", ring, x)
	}
}

// The divergence of sums, added up from their probabilities, is below what is billed
// at every order, and not by much.
func TestShares(t *testing.T) {
	f := func(count int, sigma uint32, shift int) {
		t.Helper()
		const reach = 150
		one := logDiscrete(float64(sigma), reach)
		p := slices.Clone(one)
		for range count - 1 {
			next := slices.Repeat([]float64{math.Inf(-1)}, len(p))
			for i := range next {
				for k, l := range one {
					if j := i - k + reach; j >= 0 && j < len(p) {
						next[i] = logAdd(next[i], p[j]+l)
					}
				}
			}
			p = next
		}
		bill := Rounds{Count: 1, Sigma: Shares{count, sigma, float64(shift), 1}.Multiplier(), Rate: 1}
		for _, order := range []float64{1.1, 1.5, 2, 4, 8} {
			moment := math.Inf(-1)
			for i := shift; i < len(p); i++ {
				moment = logAdd(moment, order*p[i-shift]+(1-order)*p[i])
			}
			divergence := moment / (order - 1)
			if most := renyi(bill, order); divergence > most*(1+1e-9) || divergence < most*0.97 {
				t.Errorf("%d shares of %d, %d apart: order %v costs %v, and is billed %v", count, sigma, shift, order, divergence, most)
			}
		}
	}
	f(1, 1, 1)
	f(1, 3, 2)
	f(2, 1, 1)
	f(2, 1, 3)
	f(5, 1, 4)
	f(4, 2, 3)
	f(10, 1, 1)
}

func TestReach(t *testing.T) {
	for _, z := range []float64{0.05, 0.3, 1, 2.5, 40} {
		for _, count := range []int{1, 3, 171} {
			s := Shares{Count: count, Bound: 1 << 20, Elements: 1 << 20}
			if err := s.Reach(z); err != nil {
				t.Fatal(err)
			}
			less := s
			less.Sigma--
			if s.Multiplier() < z || less.Multiplier() >= z {
				t.Errorf("%v in %d shares: %d reaches %v, and one less %v", z, count, s.Sigma, s.Multiplier(), less.Multiplier())
			}
		}
	}
	// Where noise is small its sum is not quite Gaussian, which many elements add up to.
	few, many := Shares{3, 1, 1, 1}, Shares{3, 1, 1, 1 << 20}
	if few.Multiplier() < 1.7 || many.Multiplier() > 1.2 {
		t.Errorf("1 element has %v, and 2^20 have %v", few.Multiplier(), many.Multiplier())
	}
	for _, bad := range []Shares{{0, 0, 1 << 20, 1}, {3, 0, 1 << 20, 0}, {1, 0, 1 << 28, 1}, {1, 0, math.NaN(), 1}} {
		if err := bad.Reach(1); err == nil {
			t.Errorf("%+v reaches 1", bad)
		}
	}
}

func BenchmarkAddDiscrete(b *testing.B) {
	ring := make([]uint32, 1000)
	for b.Loop() {
		AddDiscrete(streamOf(1), ring, 1<<21)
	}
}
