package federated

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"

	"penstock/consumers/federated/kernels"
	"penstock/consumers/federated/privacy"
	"penstock/consumers/federated/strategies"
)

// partial is what a part of a round's updates comes to. Linear strategies need
// the sum, and robust ones the updates themselves, which lie in a file until close.
type partial struct {
	counted []Contribution
	sum     [][]float64   // by tensor
	spent   bool          // sum was let go
	spare   [][][]float64 // memory for more sums, where there are bets
	bets    bool          // sum is one of them: its memory is for the next round
	exact   []int64       // instead, where the sum is to be exact
	totals  strategies.Totals
	spilled spilled
	whole   int // updates that did not have to be clipped
}

// arrival is an update that counts. Without parameters it is one in pieces, which read
// reads again. They may lie in the record that it came in.
type arrival struct {
	Update
	Contribution
	read func() ([]Tensor, error)
	// each, if it is not nil, gives the values of the parameters block by block: of which
	// tensor, and from which element on. There are no others then.
	each func(func(tensor, from int, values []float32)) error
	// folded says that it is in the sum already, as all are that are added with it.
	folded bool
}

// ahead is how many updates in pieces are held in memory until those before them
// are folded; a batch may end more of them.
const ahead = 4

// add folds in updates of base's round, several at a time where there are several, and
// one that comes in blocks by itself. flatBase is needed where they are clipped.
func (p *partial) add(s strategies.Strategy, base Model, flatBase []float32, arrivals ...arrival) error {
	linear, isLinear := s.(strategies.Linear)
	updates, weights := make([][]Tensor, len(arrivals)), make([]float64, len(arrivals))
	for i, a := range arrivals {
		u, c := a.Update, a.Contribution
		updates[i] = u.Parameters
		if base.Privacy != nil {
			values := append(make([]float32, 0, len(flatBase)), flat(u.Parameters)...)
			updates[i] = []Tensor{{Values: values}}
			if privacy.Clip(values, flatBase, base.Privacy.Clip) <= base.Privacy.Clip {
				p.whole++
			}
			c.Samples, c.Norm, c.Loss = 1, 0, 0
			u.Samples, u.Loss, u.Steps = 1, 0, 0
		}
		p.counted = append(p.counted, c)
		if !isLinear {
			continue
		}
		r := u.report(c.Norm, c.Stale)
		weight, scalar, err := linear.Weigh(r)
		if err != nil {
			return fmt.Errorf("update of client %q: %w", u.Client, err)
		}
		weights[i] = weight
		p.totals.Add(r, weight, scalar)
	}
	switch {
	case !isLinear:
		return p.spilled.add(updates...)
	case len(arrivals) == 0, arrivals[0].folded:
	case arrivals[0].each != nil:
		p.begin(base)
		values := make([][]float32, 1)
		return arrivals[0].each(func(tensor, from int, block []float32) {
			values[0] = block
			kernels.Fold(p.sum[tensor][from:][:len(block)], values, weights)
		})
	default:
		p.begin(base)
		p.fold(updates, weights)
	}
	return nil
}

// begin makes room for the sum of updates of base.
func (p *partial) begin(base Model) {
	switch {
	case base.Sum == SumExact && p.exact == nil:
		p.exact = make([]int64, elements(base.Parameters))
	case base.Sum != SumExact && p.sum == nil:
		for _, t := range base.Parameters {
			p.sum = append(p.sum, make([]float64, len(t.Values)))
		}
	}
}

// fold adds updates to the sum that begin made room for.
func (p *partial) fold(updates [][]Tensor, weights []float64) {
	values, from := make([][]float32, len(updates)), 0
	for k, t := range updates[0] {
		to := from + len(t.Values)
		for i, u := range updates {
			if values[i] = u[k].Values; p.exact != nil {
				foldExact(p.exact[from:to], values[i], weights[i])
			}
		}
		if p.exact == nil {
			kernels.Fold(p.sum[k], values, weights)
		}
		from = to
	}
}

// addedUp is what partials come to together: exact where the sum is to be, or sum, all
// tensors in a row.
type addedUp struct {
	sum    []float64
	exact  []int64
	totals strategies.Totals
	whole  int
}

// addUp adds the partials of m's round, in their order.
func addUp(m Model, partials []*partial) (all addedUp) {
	if n := elements(m.Parameters); m.Sum == SumExact {
		all.exact = make([]int64, n)
	} else {
		all.sum = make([]float64, n)
	}
	for _, p := range partials {
		for i, v := range p.exact {
			all.exact[i] += v
		}
		at := 0
		for _, tensor := range p.sum {
			for i, v := range tensor {
				all.sum[at+i] += v
			}
			at += len(tensor)
		}
		all.totals.Merge(p.totals)
		all.whole += p.whole
	}
	return all
}

// report is what strategies want to know of u.
func (u Update) report(norm float64, stale int64) strategies.Report {
	return strategies.Report{Staleness: float64(stale), Samples: float64(u.Samples), Steps: float64(u.Steps), Loss: u.Loss, Distance: norm}
}

// step is the model after base: what the strategy makes of the partials, which
// are in the order of their partitions, and the key of what noise it needs. It says
// nothing of positions.
func step(base Model, s strategies.Strategy, partials []*partial, key *NoiseKey) (Model, error) {
	next := Model{
		Round: base.Round + 1, Rounds: base.Rounds, Base: base.Hash, Clients: base.Clients,
		Strategy: base.Strategy, State: base.State.Clone(), Sum: base.Sum, Trust: base.Trust,
		Edges: base.Edges, Edge: base.Edge, Shards: base.Shards, Addends: base.Addends,
	}
	var values []float64
	switch s := s.(type) {
	case strategies.Linear:
		if e, ok := s.(strategies.Elementwise); ok && base.Privacy == nil && base.Sum != SumExact {
			var err error
			if next.Parameters, err = blockwise(base, e, partials); err != nil {
				return next, err
			}
			break
		}
		values = make([]float64, elements(base.Parameters))
		rest := values
		for _, t := range base.Parameters {
			for i, v := range t.Values {
				rest[i] = float64(v)
			}
			rest = rest[len(t.Values):]
		}
		all := addUp(base, partials)
		if all.exact != nil {
			all.sum = make([]float64, len(values))
			for i, v := range all.exact {
				all.sum[i] = float64(v) / exactUnit
			}
		}
		if base.Privacy != nil {
			var err error
			if next.Privacy, err = base.Privacy.apply(base, all.sum, int(all.totals.Updates), all.whole, key); err != nil {
				return next, err
			}
		}
		s.Step(values, all.sum, all.totals, next.State)
	case strategies.Robust:
		var err error
		if values, err = combine(s, partials); err != nil {
			return next, err
		}
	}
	for _, p := range partials {
		next.Contributions = append(next.Contributions, p.counted...)
	}
	for _, t := range base.Parameters[len(next.Parameters):] {
		out := Tensor{Name: t.Name, Shape: t.Shape, Values: make([]float32, len(t.Values))}
		if err := base.narrow(out, 0, values[:len(t.Values)]); err != nil {
			return next, err
		}
		values = values[len(t.Values):]
		next.Parameters = append(next.Parameters, out)
	}
	for name, kept := range next.State {
		if slices.ContainsFunc(kept, func(v float64) bool { return !finite(v) }) {
			return next, fmt.Errorf("strategy %s: %w in its state %q: the training diverges", base.Strategy, errNotFinite, name)
		}
	}
	next.Hash = hashOf(next.Parameters)
	return next, nil
}

// narrow sets values of the tensor of the next model, from one on.
func (m Model) narrow(t Tensor, from int, values []float64) error {
	for i, v := range values {
		x := float32(v)
		if t.Values[from+i] = x; x-x != 0 { // NaN, for NaN and the infinities alone
			return fmt.Errorf("strategy %s: %w in element %d of %q, found %v: the training diverges", m.Strategy, errNotFinite, from+i, t.Name, v)
		}
	}
	return nil
}

// errSpent is the error of a sum that was let go.
var errSpent = errors.New("the sum of the updates is used up")

// blockwise are the parameters that s makes of the partials. Their sums are let go
// tensor by tensor, so that they and the parameters never lie in memory whole: a second
// time it fails.
func blockwise(base Model, s strategies.Elementwise, partials []*partial) ([]Tensor, error) {
	var totals strategies.Totals
	for _, p := range partials {
		if p.spent {
			return nil, errSpent
		}
		p.spent = len(p.sum) > 0
		totals.Merge(p.totals)
	}
	next := make([]Tensor, len(base.Parameters))
	for k, t := range base.Parameters {
		next[k] = Tensor{Name: t.Name, Shape: t.Shape, Values: make([]float32, len(t.Values))}
		workers := min(runtime.GOMAXPROCS(0), 1+len(t.Values)/stepAlone)
		errs := make([]error, workers)
		var all sync.WaitGroup
		for i := range workers {
			from, to := len(t.Values)*i/workers, len(t.Values)*(i+1)/workers
			all.Go(func() { errs[i] = stretch(base, s, partials, totals, next[k], k, from, to) })
		}
		all.Wait()
		for _, err := range errs { // that of the first element
			if err != nil {
				return nil, err
			}
		}
		for _, p := range partials {
			if p.sum != nil && !p.bets {
				p.sum[k] = nil
			}
		}
	}
	return next, nil
}

// stepAlone is how many elements one processor steps faster than two would begin.
const stepAlone = 1 << 16

// stretch makes elements of tensor k of the next model.
func stretch(base Model, s strategies.Elementwise, partials []*partial, totals strategies.Totals, next Tensor, k, from, to int) error {
	var values, sum [1024]float64 // in the processor's first cache
	for ; from < to; from += len(sum) {
		n := min(len(sum), to-from)
		for i, v := range base.Parameters[k].Values[from:][:n] {
			values[i], sum[i] = float64(v), 0
		}
		for _, p := range partials {
			if p.sum == nil {
				continue
			}
			for i, v := range p.sum[k][from:][:n] {
				sum[i] += v
			}
		}
		s.Step(values[:n], sum[:n], totals, nil)
		if err := base.narrow(next, from, values[:n]); err != nil {
			return err
		}
	}
	return nil
}

// Recompute makes the model after base again, out of the updates that next says
// it is made of, and tells whether it is next to the byte. update reads one of
// them. The error says what differs, or is that of update. key is needed
// where the models have noise: without it the error wraps ErrNoiseKey.
func Recompute(base, next Model, key *NoiseKey, update func(Contribution) (Update, error)) error {
	return RecomputeAfter([]Model{base}, next, key, update)
}

// RecomputeAfter is Recompute where next may be made of updates of older models:
// before are those that were published before next, the newest last.
func RecomputeAfter(before []Model, next Model, key *NoiseKey, update func(Contribution) (Update, error)) error {
	base := before[len(before)-1]
	if next.Base != base.Hash || next.Round != base.Round+1 {
		return fmt.Errorf("model of round %d is not made from that of round %d", next.Round, base.Round)
	}
	strategy, err := strategies.Parse(base.Strategy)
	if err != nil {
		return err
	}
	partials, err := refold(before, strategy, next.Contributions, update)
	defer closeAll(partials)
	if err != nil {
		return err
	}
	again, err := step(base, strategy, partials, key)
	if err != nil {
		return err
	}
	if again.Hash != next.Hash {
		return fmt.Errorf("model of round %d: its updates make %v, and it says %v", next.Round, again.Hash, next.Hash)
	}
	if (again.Privacy == nil) != (next.Privacy == nil) || again.Privacy != nil && *again.Privacy != *next.Privacy {
		return fmt.Errorf("model of round %d: what it says of privacy does not follow from the one before", next.Round)
	}
	for name, want := range again.State {
		if !slices.Equal(next.State[name], want) {
			return fmt.Errorf("model of round %d: the state %q of strategy %s is not what its updates make", next.Round, name, base.Strategy)
		}
	}
	return nil
}

// refold folds the updates of contributions again, which counted in the round that began
// with the last of before. The error says what they should be and are not. Whoever
// calls it closes the partials, also where there is an error.
func refold(before []Model, strategy strategies.Strategy, contributions []Contribution, update func(Contribution) (Update, error)) (partials []*partial, err error) {
	base := before[len(before)-1]
	flatOf := map[int64][]float32{}
	async := newAsynchronous(strategy, before)
	seen := map[string]bool{}
	async.counted(base, seen)
	for i, c := range contributions {
		if i == 0 || c.Partition != contributions[i-1].Partition {
			partials = append(partials, &partial{})
		}
		u, err := update(c)
		if err != nil {
			return partials, fmt.Errorf("update at %d/%d: %w", c.Partition, c.Offset, err)
		}
		trained, mark := base, async.mark(u.Client, u.Round)
		if older := async.model(u.Round); older != nil {
			trained = *older
		}
		if u.Client != c.Client || base.Privacy == nil && u.Samples != c.Samples || u.Round != trained.Round || u.Round != base.Round-c.Stale || u.Base != trained.Hash || seen[mark] {
			return partials, fmt.Errorf("update at %d/%d: expected the first of client %q in round %d, found one of %q for round %d", c.Partition, c.Offset, c.Client, base.Round, u.Client, u.Round)
		}
		if !slices.Contains(base.answering(), u.Client) {
			return partials, fmt.Errorf("update at %d/%d: client %q was not asked in round %d", c.Partition, c.Offset, u.Client, base.Round)
		}
		seen[mark] = true
		flatBase := flatOf[u.Round]
		if flatBase == nil {
			flatBase = flat(trained.Parameters)
			flatOf[u.Round] = flatBase
		}
		if (u.Partial != nil) != base.sums(u.Client) {
			return partials, fmt.Errorf("update at %d/%d: client %q is an edge and sent no sum, or the other way round", c.Partition, c.Offset, u.Client)
		}
		if u.Partial != nil {
			err := sameShape(u.Parameters, base.Parameters)
			var again Contribution
			if err == nil {
				again, err = u.summed(base, strategy)
			}
			if again.Partition, again.Offset = c.Partition, c.Offset; err == nil && again != c {
				err = fmt.Errorf("expected a sum of %d updates with norm %v, found %d with %v", c.Updates, c.Norm, again.Updates, again.Norm)
			}
			if err != nil {
				return partials, fmt.Errorf("update at %d/%d: %w", c.Partition, c.Offset, err)
			}
			partials[len(partials)-1].merge(base, u, c)
			continue
		}
		if err := fit(u.Parameters, trained.Parameters); err != nil {
			return partials, fmt.Errorf("update at %d/%d: %w", c.Partition, c.Offset, err)
		}
		values := flat(u.Parameters)
		if norm := kernels.Distance(values, flatBase); base.Privacy == nil && norm != c.Norm {
			return partials, fmt.Errorf("update at %d/%d: expected norm %v, found %v", c.Partition, c.Offset, c.Norm, norm)
		}
		if c.Loss != 0 && u.Loss != c.Loss { // earlier versions say none
			return partials, fmt.Errorf("update at %d/%d: expected loss %v, found %v", c.Partition, c.Offset, c.Loss, u.Loss)
		}
		if async != nil {
			u.Parameters = differ(u.Parameters, trained.Parameters)
		}
		if err := partials[len(partials)-1].add(strategy, base, flatBase, arrival{Update: u, Contribution: c}); err != nil {
			return partials, fmt.Errorf("update at %d/%d: %w", c.Partition, c.Offset, err)
		}
	}
	return partials, nil
}

func elements(tensors []Tensor) (n int) {
	for _, t := range tensors {
		n += len(t.Values)
	}
	return n
}

// flat are the values of all tensors in a row.
func flat(tensors []Tensor) []float32 {
	if len(tensors) == 1 {
		return tensors[0].Values
	}
	out := make([]float32, 0, elements(tensors))
	for _, t := range tensors {
		out = append(out, t.Values...)
	}
	return out
}

// finite says that x is neither NaN nor an infinity.
func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
