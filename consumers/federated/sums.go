package federated

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"penstock/consumers/federated/strategies"
	"penstock/consumers/federated/trust"
)

// The dtypes of the tensors of a Partial.
const (
	Summed        = "float64_sum"
	ExactlySummed = "fixed64_sum" // integers, of which exactUnit make 1
)

// maxUpdates is how many updates a Partial may be the sum of.
const maxUpdates = 1 << 24

// maxTotal is what weights and scalars come to at most: sums of many, times any float32,
// are finite.
const maxTotal = 1e260

// Partial is what an edge has folded in a round: an Update that has one says the sum of
// the updates of the edge's clients, each times its weight, in tensors of Summed or
// ExactlySummed.
type Partial struct {
	strategies.Totals // Samples is that of the Update
	// Whole is how many updates did not have to be clipped, where there is privacy.
	Whole int64
	// Closed is why the edge's round ended, as in Model.
	Closed string
	// Contributions are the updates, by where they lie in the edge's own topic, and
	// Positions where the edge goes on there.
	Contributions []Contribution
	Positions     []Position
}

func (p *Partial) value() any {
	if p == nil {
		return nil
	}
	contributions := contributionValues(p.Contributions)
	for _, c := range contributions {
		delete(c.(map[string]any), "stale") // edges are for rounds
	}
	return map[string]any{
		"updates": p.Updates, "weight": p.Weight, "scalar": p.Scalar, "whole": p.Whole, "closed": p.Closed,
		"contributions": contributions, "positions": positionValues(p.Positions),
	}
}

func readPartial(v any) (*Partial, error) {
	f, _ := v.(map[string]any)
	if f == nil {
		return nil, nil
	}
	p := &Partial{}
	var ok [5]bool
	p.Updates, ok[0] = f["updates"].(int64)
	p.Weight, ok[1] = f["weight"].(float64)
	p.Scalar, ok[2] = f["scalar"].(float64)
	p.Whole, ok[3] = f["whole"].(int64)
	p.Closed, ok[4] = f["closed"].(string)
	if slices.Contains(ok[:], false) {
		return nil, errors.New("at /partial: expected updates, weight, scalar, whole and closed")
	}
	var err error
	if p.Contributions, err = readContributions(f["contributions"]); err == nil {
		p.Positions, err = readPositions(f["positions"])
	}
	if err != nil {
		return nil, fmt.Errorf("at /partial: %w", err)
	}
	return p, nil
}

// text is what a signature covers of p, nil where there is none.
func (p *Partial) text() []byte {
	if p == nil {
		return nil
	}
	number, text := trust.AppendNumber, trust.AppendText
	b := number(nil, p.Updates)
	b = number(b, int64(math.Float64bits(p.Weight)))
	b = number(b, int64(math.Float64bits(p.Scalar)))
	b = number(b, p.Whole)
	b = text(b, p.Closed)
	b = number(b, int64(len(p.Contributions)))
	for _, c := range p.Contributions {
		b = text(b, c.Client)
		b = number(b, c.Samples)
		b = number(b, int64(c.Partition))
		b = number(b, c.Offset)
		b = number(b, int64(math.Float64bits(c.Norm)))
		b = number(b, int64(math.Float64bits(c.Loss)))
		b = number(b, c.Updates)
	}
	b = number(b, int64(len(p.Positions)))
	for _, at := range p.Positions {
		b = text(b, at.Cluster)
		b = text(b, at.Topic)
		b = text(b, at.Incarnation)
		b = number(b, int64(at.Partition))
		b = number(b, at.Next)
	}
	return b
}

// addsUp says that s makes the next model of a sum of updates, which may be a sum of sums.
func addsUp(s strategies.Strategy) bool {
	if _, asynchronous := s.(*strategies.FedBuff); asynchronous {
		return false
	}
	_, ok := s.(strategies.Linear)
	return ok
}

// addends is how many updates the sum of the round may have all over the tree, were
// each branch as wide as this one.
func (m Model) addends() int { return max(1, int(m.Addends)) * max(1, len(m.Clients)) }

// summed is what m's next model knows of u, a sum of updates trained from m. The error is
// a *Refusal without client and round.
func (u Update) summed(m Model, s strategies.Strategy) (c Contribution, err error) {
	refuse := func(why Reason, format string, args ...any) (Contribution, error) {
		return c, &Refusal{Reason: why, Detail: fmt.Sprintf(format, args...)}
	}
	p := u.Partial
	if p.Updates < 1 || p.Updates > maxUpdates || p.Whole < 0 || p.Whole > p.Updates {
		return refuse(Malformed, "at /partial/updates: expected from 1 to %d, and no more that stayed whole, found %d and %d", maxUpdates, p.Updates, p.Whole)
	}
	var updates, samples int64
	for i, c := range p.Contributions {
		if c.Updates < 0 || c.Updates > maxUpdates || c.Samples < 1 || c.Samples > MaxSamples*max(1, c.Updates) {
			return refuse(Malformed, "at /partial/contributions/%d: expected at least one sample, and at most %d of each update, found %d", i, int64(MaxSamples), c.Samples)
		}
		updates += max(1, c.Updates)
		if samples += c.Samples; updates > maxUpdates || samples > 1<<52 {
			return refuse(BadSamples, "expected at most %d updates and %d samples", maxUpdates, int64(1)<<52)
		}
	}
	switch {
	case updates != p.Updates || samples != u.Samples:
		return refuse(Malformed, "at /partial: expected %d updates with %d samples, as its contributions say, found %d and %d", updates, samples, p.Updates, u.Samples)
	case !(p.Weight > 0 && p.Weight < maxTotal) || !(math.Abs(p.Scalar) < maxTotal):
		return refuse(BadReport, "at /partial/weight: expected one above 0 and below %v, and a scalar below that, found %v and %v", maxTotal, p.Weight, p.Scalar)
	case !finite(u.Loss):
		return refuse(BadReport, "expected a finite loss, found %v", u.Loss)
	case weighsAlike(s) && p.Weight != float64(samples):
		return refuse(BadReport, "at /partial/weight: expected %d, the samples, found %v", samples, p.Weight)
	case m.Privacy != nil && samples != updates:
		return refuse(BadSamples, "expected the weight 1 of each update, for privacy, found %d of %d", samples, updates)
	}
	if m.Shards.Of > 0 {
		if err := m.fromShard(u); err != nil {
			return refuse(Malformed, "%v", err)
		}
	}
	want := Summed
	if m.Sum == SumExact {
		want = ExactlySummed
	}
	c = Contribution{Client: u.Client, Samples: u.Samples, Updates: p.Updates}
	limit := exactLimit(m.addends())
	var squares float64
	for i, t := range u.Parameters {
		if t.DType != want || len(t.Packed) != 8*len(m.Parameters[i].Values) {
			return refuse(Malformed, "at /parameters/%d: expected dtype %s, found %s", i, want, t.DType)
		}
		base := m.Parameters[i].Values
		for j := range base {
			v := t.total(j)
			switch {
			case want == ExactlySummed && math.Abs(v) > limit:
				return refuse(OutOfRange, "expected sums of at most %v, for an exact sum over %d updates, found %v in element %d of %q", limit, m.addends(), v, j, t.Name)
			case !finite(v):
				return refuse(NotFinite, "at /parameters/%d: %v, found %v in element %d of %q", i, errNotFinite, v, j, t.Name)
			}
			mean := v / p.Weight
			if !finite(float64(float32(mean))) {
				return refuse(NotFinite, "at /parameters/%d: expected a sum whose mean fits float32, found the mean %v in element %d of %q", i, mean, j, t.Name)
			}
			d := mean - float64(base[j])
			squares += float64(d * d)
		}
	}
	if m.Privacy == nil {
		c.Norm, c.Loss = math.Sqrt(squares), u.Loss
	}
	return c, nil
}

// total is element j of a tensor that says a sum.
func (t Tensor) total(j int) float64 {
	bits := binary.LittleEndian.Uint64(t.Packed[8*j:])
	if t.DType == ExactlySummed {
		return float64(int64(bits)) / exactUnit
	}
	return math.Float64frombits(bits)
}

// mean are the parameters that a sum of updates comes to, for who looks at it as at one
// update.
func (u Update) mean() []Tensor {
	out := make([]Tensor, len(u.Parameters))
	for i, t := range u.Parameters {
		out[i] = Tensor{Name: t.Name, Shape: t.Shape}
		for j := range len(t.Packed) / 8 {
			out[i].Values = append(out[i].Values, float32(t.total(j)/u.Partial.Weight))
		}
	}
	return out
}

// merge adds the sum that an edge has folded, which summed has looked at.
func (p *partial) merge(base Model, u Update, c Contribution) {
	p.counted = append(p.counted, c)
	p.totals.Merge(u.Partial.Totals)
	p.whole += int(u.Partial.Whole)
	p.begin(base)
	at := 0
	for k, t := range u.Parameters {
		for i := range len(t.Packed) / 8 {
			bits := binary.LittleEndian.Uint64(t.Packed[8*i:])
			if base.Sum == SumExact {
				p.exact[at+i] += int64(bits)
			} else {
				p.sum[k][i] += math.Float64frombits(bits)
			}
		}
		at += len(t.Packed) / 8
	}
}

// sumOf is the update that an edge makes of what came from its partitions in the round of
// m, in their order.
func sumOf(m Model, partials []*partial, positions []Position, closed string) Update {
	all := addUp(m, partials)
	exact, sum := all.exact, all.sum
	p := &Partial{Closed: closed, Positions: positions, Totals: all.totals, Whole: int64(all.whole)}
	for _, part := range partials {
		p.Contributions = append(p.Contributions, part.counted...)
	}
	loss, _ := lossOf(p.Contributions)
	u := Update{Client: m.Edge, Loss: loss, Round: m.Round, Base: m.Hash, Samples: int64(p.Samples), Partial: p}
	for _, t := range m.Parameters {
		out := Tensor{Name: t.Name, Shape: t.Shape, DType: Summed, Packed: make([]byte, 0, 8*len(t.Values))}
		for range t.Values {
			if exact != nil {
				out.DType = ExactlySummed
				out.Packed = binary.LittleEndian.AppendUint64(out.Packed, uint64(exact[0]))
				exact = exact[1:]
			} else {
				out.Packed = binary.LittleEndian.AppendUint64(out.Packed, math.Float64bits(sum[0]))
				sum = sum[1:]
			}
		}
		u.Parameters = append(u.Parameters, out)
	}
	return u
}
