package federated

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"penstock/consumers/federated/kernels"
)

// Statistics say how an update of a round looks beside the others.
type Statistics struct {
	Client string
	Norm   float64 // distance from the model
	// Cosine is that of the angle between where the update goes from the model, and
	// where the others go on average; 0 where either goes nowhere.
	Cosine float64
	Loss   float64 // as the client says
	// Score says how far the update is from the others: by the norm (either way), the
	// cosine (below) or the loss (above), whichever is the furthest off, in deviations
	// from the median. Fewer than four updates score 0.
	Score float64
	By    string // norm, cosine or loss
}

// Measure compares the updates of which a model is made, each with the model that it was
// trained from: before are those that were published before, the newest last, as for
// RecomputeAfter. It leaves the updates unpacked.
func Measure(before []Model, updates []Update) ([]Statistics, error) {
	bases := map[int64][]float32{}
	moves, sum := make([][]float32, len(updates)), make([]float64, elements(before[len(before)-1].Parameters))
	out := make([]Statistics, len(updates))
	for i, u := range updates {
		of := slices.IndexFunc(before, func(m Model) bool { return m.Round == u.Round })
		if of < 0 {
			return nil, fmt.Errorf("update of client %q: the model of round %d, which it was trained from, is not there", u.Client, u.Round)
		}
		trained := before[of].Parameters
		if u.Partial != nil && sameShape(u.Parameters, trained) == nil {
			u.Parameters = u.mean()
		}
		if err := fit(u.Parameters, trained); err != nil {
			return nil, fmt.Errorf("update of client %q: %w", u.Client, err)
		}
		flatBase := bases[u.Round]
		if flatBase == nil {
			flatBase = flat(trained)
			bases[u.Round] = flatBase
		}
		values := flat(u.Parameters)
		out[i] = Statistics{Client: u.Client, Loss: u.Loss, Norm: kernels.Distance(values, flatBase)}
		moves[i] = make([]float32, len(values))
		for k, v := range values {
			moves[i][k] = v - flatBase[k]
			sum[k] += float64(moves[i][k])
		}
	}
	norms, cosines, losses := make([]float64, len(out)), make([]float64, len(out)), make([]float64, len(out))
	for i := range out {
		var dot, own, rest float64
		for k, v := range moves[i] {
			x := float64(v)
			y := sum[k] - x
			dot += x * y
			own += x * x
			rest += y * y
		}
		if own > 0 && rest > 0 {
			out[i].Cosine = dot / math.Sqrt(own) / math.Sqrt(rest)
		}
		norms[i], cosines[i], losses[i] = math.Log(max(out[i].Norm, 1e-12)), out[i].Cosine, out[i].Loss
	}
	if len(out) < 4 {
		return out, nil
	}
	// What deviates by less than a tenth is no deviation: clients that are all alike
	// would otherwise be outliers by rounding.
	norm, cosine := deviation(norms, 0.1), deviation(cosines, 0.1)
	loss := deviation(losses, max(0.1*math.Abs(median(losses)), 1e-9))
	for i := range out {
		for by, score := range map[string]float64{"norm": math.Abs(norm(norms[i])), "cosine": -cosine(cosines[i]), "loss": loss(losses[i])} {
			if score > out[i].Score || score == out[i].Score && score > 0 && by < out[i].By {
				out[i].Score, out[i].By = score, by
			}
		}
	}
	return out, nil
}

// deviation measures how far a value is from the median of others, in what would be
// standard deviations of normal ones, which are at least that large.
func deviation(values []float64, least float64) func(x float64) float64 {
	middle := median(values)
	off := make([]float64, len(values))
	for i, v := range values {
		off[i] = math.Abs(v - middle)
	}
	unit := max(1.4826*median(off), least)
	return func(x float64) float64 { return (x - middle) / unit }
}

// median is that of one value or more.
func median(values []float64) float64 {
	s := slices.SortedFunc(slices.Values(values), cmp.Compare[float64])
	return (s[len(s)/2] + s[(len(s)-1)/2]) / 2
}
