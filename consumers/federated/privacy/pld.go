package privacy

import (
	"fmt"
	"math"
	"math/bits"
	"math/cmplx"
)

const (
	// spacing is between the values of a privacy loss.
	spacing = 1e-4
	// reach is how many standard deviations of the noise are looked at; what lies
	// beyond, some 1e-19, counts as privacy lost altogether.
	reach = 9
	// maxCells bounds memory: 2^24 losses are 256 MiB, and an epsilon of 1600.
	maxCells = 1 << 24
)

// PLD is the epsilon that has been spent at delta, by privacy loss distributions
// (Koskela et al., 2020; discretised as in Doroshenko et al., 2022, which rounds
// to the safe side). It is tight, and takes a second or so.
func PLD(spent []Rounds, delta float64) (epsilon float64, err error) {
	if err := check(spent, delta); err != nil {
		return 0, err
	}
	for _, adding := range []bool{true, false} {
		e, err := composed(spent, delta, adding)
		if err != nil {
			return 0, err
		}
		epsilon = max(epsilon, e)
	}
	return epsilon, nil
}

// losses is a distribution of the privacy loss on multiples of spacing.
type losses struct {
	first int // the multiple that mass[0] is for
	mass  []float64
	lost  float64 // the probability that the loss is infinite
}

// of is the distribution of one round, where the neighbour lacks the client or
// has it in addition. Between two multiples of spacing, the mass goes to both so
// that neither hypothesis gains or loses any.
func of(r Rounds, adding bool) losses {
	q, s := r.Rate, r.Sigma
	// The mixture outweighs the Gaussian by exp(loss(x)), which grows with x.
	loss := func(x float64) float64 { return logAdd(math.Log1p(-q), math.Log(q)+(2*x-1)/(2*s*s)) }
	at := func(l float64) float64 { // the inverse
		if v := math.Expm1(l) + q; v > 0 {
			return s*s*math.Log(v/q) + 0.5
		}
		return math.Inf(-1)
	}
	lowest, highest := loss(-reach*s), loss(1+reach*s)
	first, last := int(math.Floor(lowest/spacing)), int(math.Ceil(highest/spacing))
	out := losses{first: first, mass: make([]float64, last-first+1)}
	if adding {
		out.first = -last
	}
	ratio := -math.Expm1(-spacing)
	a := at(float64(first) * spacing)
	for i := first; i < last; i++ {
		l := float64(i) * spacing
		b := at(l + spacing)
		gaussian := normal(a/s, b/s)
		mixture := (1-q)*gaussian + q*normal((a-1)/s, (b-1)/s)
		a = b
		if adding {
			// The loss is -l: from -l-spacing to -l.
			up := min(max((gaussian-mixture*math.Exp(-l-spacing))/ratio, 0), gaussian)
			out.mass[last-i] += up
			out.mass[last-i-1] += gaussian - up
		} else {
			up := min(max((mixture-gaussian*math.Exp(l))/ratio, 0), mixture)
			out.mass[i-first+1] += up
			out.mass[i-first] += mixture - up
		}
	}
	var sum float64
	for _, m := range out.mass {
		sum += m
	}
	out.lost = max(0, 1-sum)
	return out
}

// normal is the probability that a standard Gaussian lies between a and b.
func normal(a, b float64) float64 {
	if a > 0 {
		a, b = -b, -a
	}
	return (math.Erfc(-b/math.Sqrt2) - math.Erfc(-a/math.Sqrt2)) / 2
}

// composed is the epsilon of all rounds against one kind of neighbour.
func composed(spent []Rounds, delta float64, adding bool) (float64, error) {
	kept := 1.0
	var parts []losses
	for _, r := range spent {
		p := of(r, adding)
		parts = append(parts, p)
		kept *= math.Pow(1-p.lost, float64(r.Count))
	}
	low, high := tail(spent, parts, -1), tail(spent, parts, 1)
	span := (high - low) / spacing
	if !(span+2 < maxCells) {
		return 0, fmt.Errorf("losses up to %.4g are too large to count at a spacing of %g; RDP gives a bound", high, spacing)
	}
	cells := 1 << bits.Len(uint(span)+2)
	roots := rootsOf(cells)
	total := make([]complex128, cells)
	for i := range total {
		total[i] = 1
	}
	for k, p := range parts {
		one := make([]complex128, cells)
		for i, m := range p.mass {
			one[((p.first+i)%cells+cells)%cells] += complex(m, 0)
		}
		fft(one, roots)
		for i := range total {
			total[i] *= cmplx.Pow(one[i], complex(float64(spent[k].Count), 0))
		}
	}
	fft(total, roots)
	first := int(math.Floor(low / spacing))
	excess := func(epsilon float64) float64 { // the delta that epsilon leaves
		d := 1 - kept
		for i := max(first, int(math.Floor(epsilon/spacing))); i < first+cells; i++ {
			if l := float64(i) * spacing; l > epsilon {
				d -= max(0, real(total[(cells-i%cells)%cells])/float64(cells)) * math.Expm1(epsilon-l)
			}
		}
		return d
	}
	if excess(0) <= delta {
		return 0, nil
	}
	if excess(high) > delta {
		return math.Inf(1), nil
	}
	lower, upper := 0.0, high
	for upper-lower > spacing/100 {
		if middle := (lower + upper) / 2; excess(middle) > delta {
			lower = middle
		} else {
			upper = middle
		}
	}
	return upper, nil
}

// tail is a loss that all rounds together pass, upwards or downwards, with a
// probability below 1e-14 (Chernoff).
func tail(spent []Rounds, parts []losses, direction float64) float64 {
	best := math.Inf(1)
	for t := 1.0 / 64; t <= 64; t *= 2 {
		bound := -math.Log(1e-14)
		for k, p := range parts {
			// The largest exponent is taken out, so that nothing overflows.
			largest := direction * t * float64(p.first) * spacing
			largest = max(largest, direction*t*float64(p.first+len(p.mass)-1)*spacing)
			var sum float64
			for i, m := range p.mass {
				sum += m * math.Exp(direction*t*float64(p.first+i)*spacing-largest)
			}
			bound += float64(spent[k].Count) * (largest + math.Log(max(sum, 1e-300)))
		}
		best = min(best, bound/t)
	}
	return direction * best
}

// rootsOf are the first half of the roots of unity that fft needs for n values.
func rootsOf(n int) []complex128 {
	roots := make([]complex128, n/2)
	for i := range roots {
		roots[i] = cmplx.Rect(1, -2*math.Pi*float64(i)/float64(n))
	}
	return roots
}

// fft is the discrete Fourier transform in place, of a power of two. Done twice
// it gives the values times their number, those after the first in reverse.
func fft(x, roots []complex128) {
	n := len(x)
	shift := 65 - bits.Len(uint(n))
	for i := range x {
		if j := int(bits.Reverse64(uint64(i)) >> shift); i < j {
			x[i], x[j] = x[j], x[i]
		}
	}
	for size := 2; size <= n; size *= 2 {
		half, stride := size/2, n/size
		for from := 0; from < n; from += size {
			for i := range half {
				a, b := x[from+i], x[from+i+half]*roots[i*stride]
				x[from+i], x[from+i+half] = a+b, a-b
			}
		}
	}
}
