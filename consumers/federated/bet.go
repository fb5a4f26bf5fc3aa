package federated

import (
	"slices"

	"penstock/consumers"
	"penstock/consumers/federated/kernels"
	"penstock/consumers/federated/strategies"
)

// fewest is with how many updates a bet is worth its second sum.
const fewest = 4

// bet is a sum of updates that were folded before they were judged, in the one pass over
// memory in which they were read. It holds if just those turn out to count; if not, the
// sum before it is still there, and they are folded again.
type bet struct {
	readings []*reading // by message; nil is what it does not have, or what has a fault
	offsets  []int64    // of the messages it is on
	sum      [][]float64
}

// bet folds those of the messages that look as if they would count, beside p's sum. It
// is nil where there are few of them, or more than their sum is asked. Updates in pieces
// are not among them, so that whoever pays for the second sum holds more than that in
// messages.
func (a *Aggregator) bet(p *part, messages []consumers.Message) *bet {
	linear, ok := a.strategy.(strategies.Linear)
	if !ok || !a.streams() || len(messages) < fewest {
		return nil
	}
	b := &bet{readings: make([]*reading, len(messages))}
	var updates []kernels.Update
	var crcs [][]int64
	var which []int
	seen := map[string]bool{}
	for i, m := range messages {
		u, crc, ok := a.likely(m)
		if !ok || seen[u.Client] || p.begun && m.Offset < p.next {
			continue
		}
		weight, _, err := linear.Weigh(u.report(0, 0))
		if err != nil {
			continue
		}
		seen[u.Client] = true
		folded := kernels.Update{Weight: weight, Sums: make([]uint32, len(crc))}
		for _, t := range u.Parameters {
			folded.Values = append(folded.Values, t.Values)
		}
		updates, crcs, which = append(updates, folded), append(crcs, crc), append(which, i)
		b.readings[i], b.offsets = &reading{Update: u}, append(b.offsets, m.Offset)
	}
	if len(updates) < fewest {
		return nil
	}
	base := make([][]float32, len(a.model.Parameters))
	for k, t := range a.model.Parameters {
		base[k] = t.Values
	}
	before := p.sum
	if before == nil {
		before = make([][]float64, len(base))
	}
	b.sum = p.room(base)
	kernels.FoldChecked(b.sum, before, base, updates)
	for j, u := range updates {
		i := which[j]
		right := finite(u.Squares.Distance())
		for k, crc := range crcs[j] {
			right = right && int64(u.Sums[k]) == crc
		}
		if b.readings[i].meter.squares = u.Squares; !right {
			b.readings[i] = nil // judge finds the fault, and says where it is
		}
	}
	return b
}

// likely is the update in m, with the CRC-32s its tensors are to have, if as far as can
// be told without reading its numbers it counts, and they lie as the kernels want them.
func (a *Aggregator) likely(m consumers.Message) (u Update, crcs []int64, ok bool) {
	u, piece, err := readHead(m.Data)
	if err != nil || piece != nil || u.Partial != nil || u.Round != a.model.Round || u.Base != a.model.Hash ||
		string(m.Key) != u.Client || a.arrived[u.Client] || u.Samples < 1 || u.Samples > MaxSamples || !finite(u.Loss) ||
		!slices.Contains(a.config.Clients, u.Client) || !slices.Contains(a.model.Asked(), u.Client) {
		return u, nil, false
	}
	fields, _ := m.Data.(map[string]any)
	list, _ := fields["parameters"].([]any)
	if len(list) != len(a.model.Parameters) {
		return u, nil, false
	}
	for _, item := range list {
		t, data, crc, elements, err := tensorHead(item)
		if err != nil || t.DType != "" || uint64(len(data)) != 4*elements {
			return u, nil, false
		}
		if t.Values = kernels.Floats(data); t.Values == nil {
			return u, nil, false
		}
		u.Parameters, crcs = append(u.Parameters, t), append(crcs, crc)
	}
	return u, crcs, sameShape(u.Parameters, a.model.Parameters) == nil
}

// holds says that b is on just these arrivals. A weight does not depend on what reading
// an update tells.
func (b *bet) holds(arrivals []arrival) bool {
	return b != nil && slices.EqualFunc(b.offsets, arrivals, func(offset int64, a arrival) bool { return offset == a.Offset })
}

// room is memory for another sum, of tensors as long as those of like. What lies there
// does not matter.
func (p *partial) room(like [][]float32) [][]float64 {
	if n := len(p.spare); n > 0 {
		sum := p.spare[n-1]
		p.spare = p.spare[:n-1]
		return sum
	}
	sum := make([][]float64, len(like))
	for k, t := range like {
		sum[k] = make([]float64, len(t))
	}
	return sum
}

// settle makes b's sum that of p if it was won, and keeps the memory of the other one.
func (p *partial) settle(b *bet, won bool) {
	if b == nil {
		return
	}
	other := b.sum
	if won {
		p.sum, other, p.bets = b.sum, p.sum, true
	}
	if other != nil {
		p.spare = append(p.spare, other)
	}
}

// again is an empty partial of the next round, with the memory that bets of p took.
func (p *partial) again() partial {
	if p.bets {
		p.spare = append(p.spare, p.sum)
	}
	return partial{spare: p.spare}
}
