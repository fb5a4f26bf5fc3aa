// Package privacy is differential privacy for federated learning: clipping,
// noise, and how much of a budget a training has spent.
//
// What is accounted is the Gaussian mechanism under add-or-remove-one: sums of
// vectors of norm at most C, with noise of standard deviation sigma times C. A
// sampling rate below 1 lowers the bill only where each client is drawn on its
// own, by a coin that nobody outside sees (Poisson sampling). Clients that show
// up as they like are sampled at rate 1, whatever their share. Shares says which such
// mechanism the discrete noise of several parties costs as much as.
package privacy

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Rounds are so many rounds alike.
type Rounds struct {
	Count int
	Sigma float64 // the noise multiplier
	// Rate is the probability with which Poisson sampling takes a client, and 1
	// for whoever comes.
	Rate float64
}

// check refuses what has no meaning, or no finite bill.
func check(spent []Rounds, delta float64) error {
	if !(delta > 0 && delta < 1) {
		return fmt.Errorf("expected a delta between 0 and 1, found %v", delta)
	}
	for _, r := range spent {
		if r.Count < 0 || r.Count > 1e7 || !(r.Sigma >= 0.05 && r.Sigma <= 1e4) || !(r.Rate > 0 && r.Rate <= 1) {
			return fmt.Errorf("expected up to 1e7 rounds of sigma from 0.05 to 1e4 and rate above 0 up to 1, found %+v", r)
		}
	}
	return nil
}

// orders are those of dp-accounting, so that figures can be compared.
func orders() []float64 {
	var out []float64
	for i := range 99 {
		out = append(out, 1+float64(i+1)/10)
	}
	out = append(out, 11)
	for i := 12; i < 64; i++ {
		out = append(out, float64(i))
	}
	return append(out, 128, 256, 512, 1024)
}

// RDP is the epsilon that has been spent at delta, by Renyi differential privacy
// (Mironov et al., 2019) and the conversion of Canonne et al. (2020). It is an
// upper bound, a little above that of PLD, and takes microseconds.
func RDP(spent []Rounds, delta float64) (epsilon float64, err error) {
	if err := check(spent, delta); err != nil {
		return 0, err
	}
	epsilon = math.Inf(1)
	for _, order := range orders() {
		var divergence float64
		for _, r := range spent {
			divergence += float64(r.Count) * renyi(r, order)
		}
		switch {
		case math.Expm1(-divergence)+delta*delta > 0: // so little that delta covers it
			return 0, nil
		case order > 1.01:
			epsilon = min(epsilon, divergence+math.Log1p(-1/order)-math.Log(delta*order)/(order-1))
		}
	}
	return max(0, epsilon), nil
}

// renyi is the divergence of order a that one round costs.
func renyi(r Rounds, a float64) float64 {
	switch {
	case r.Rate == 1:
		return a / (2 * r.Sigma * r.Sigma)
	case a == math.Trunc(a):
		return logMomentInt(r.Rate, r.Sigma, int(a)) / (a - 1)
	default:
		return logMoment(r.Rate, r.Sigma, a) / (a - 1)
	}
}

// logMomentInt is the logarithm of E[(P/Q)^a] under Q, for P the sampled
// Gaussian and Q the Gaussian: a binomial sum.
func logMomentInt(q, sigma float64, a int) float64 {
	sum := math.Inf(-1)
	for i := range a + 1 {
		x := float64(i)
		sum = logAdd(sum, logBinomial(float64(a), x)+x*math.Log(q)+(float64(a)-x)*math.Log1p(-q)+(x*x-x)/(2*sigma*sigma))
	}
	return sum
}

func logBinomial(n, k float64) float64 {
	a, _ := math.Lgamma(n + 1)
	b, _ := math.Lgamma(k + 1)
	c, _ := math.Lgamma(n - k + 1)
	return a - b - c
}

// logMoment is logMomentInt for orders between integers: two series, one for
// each side of the point where both parts of the mixture weigh the same. Terms
// that would have to be taken away are added, as dp-accounting does: a bound that
// no cancellation spoils, and by less than 0.2 percent above the moment.
func logMoment(q, sigma, a float64) float64 {
	left, right := math.Inf(-1), math.Inf(-1)
	z := sigma*sigma*math.Log(1/q-1) + 0.5
	logCoefficient := 0.0 // of the generalised binomial
	for i := 0.0; ; i++ {
		j := a - i
		l := logCoefficient + i*math.Log(q) + j*math.Log1p(-q) + (i*i-i)/(2*sigma*sigma) + math.Log(0.5) + logErfc((i-z)/(math.Sqrt2*sigma))
		r := logCoefficient + j*math.Log(q) + i*math.Log1p(-q) + (j*j-j)/(2*sigma*sigma) + math.Log(0.5) + logErfc((z-j)/(math.Sqrt2*sigma))
		left, right = logAdd(left, l), logAdd(right, r)
		if i > a && max(l, r) < -30 {
			return logAdd(left, right)
		}
		logCoefficient += math.Log(math.Abs(j / (i + 1)))
	}
}

func logAdd(x, y float64) float64 {
	if x < y {
		x, y = y, x
	}
	if math.IsInf(y, -1) {
		return x
	}
	return x + math.Log1p(math.Exp(y-x))
}

// logErfc is the logarithm of the complementary error function, by its
// asymptotic series where that itself would be 0.
func logErfc(x float64) float64 {
	if x < 20 {
		return math.Log(math.Erfc(x))
	}
	s := 1 / (2 * x * x)
	return -x*x - math.Log(x*math.Sqrt(math.Pi)) + math.Log1p(-s*(1-3*s*(1-5*s)))
}

// ErrSpent marks a round that would take more than the budget.
var ErrSpent = errors.New("the privacy budget is spent")

// Budget is what a training may spend. It is by RDP, which every build computes
// alike in no time.
type Budget struct{ Epsilon, Delta float64 }

// Admit says whether another round fits: the error wraps ErrSpent if not.
func (b Budget) Admit(spent []Rounds, next Rounds) error {
	epsilon, err := RDP(append(slices.Clone(spent), next), b.Delta)
	if err != nil {
		return err
	}
	if epsilon > b.Epsilon {
		return fmt.Errorf("the round would bring epsilon to %.4g at delta %g, and the budget is %.4g: %w", epsilon, b.Delta, b.Epsilon, ErrSpent)
	}
	return nil
}
