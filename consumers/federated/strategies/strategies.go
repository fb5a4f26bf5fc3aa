// Package strategies turns the updates of a round into the next global model:
// the published algorithms of federated learning, and those that withstand
// clients which lie.
//
// Strategies are values without memory. What one keeps between rounds lies in a
// State, which whoever publishes the model publishes with it; so a round is a
// function of the model, its State and the updates, and can be computed again.
//
// All arithmetic is in float64. Vectors are flat: what tensors they are made of
// is the caller's business.
package strategies

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Strategy is a Linear or a Robust one.
type Strategy interface {
	// String is the strategy with all its parameters, as Parse reads it.
	String() string
}

// Linear is a strategy that needs no more of the updates than a weighted sum,
// so that each is folded as it arrives, and sums of sums will do.
type Linear interface {
	Strategy
	// Weigh says with which weight an update goes into the sum, and what it
	// adds to Totals.Scalar. The error says what is missing in the report. The weight
	// does not depend on Distance: updates are folded while it is measured.
	Weigh(r Report) (weight, scalar float64, err error)
	// Step makes model the next global model, and state what goes with it. It
	// may use sum up. Without an update it leaves both as they are.
	Step(model, sum []float64, t Totals, state State)
}

// Robust is a strategy that compares the updates with one another.
type Robust interface {
	Strategy
	// Combine returns the next global model. The error wraps ErrTooFew where
	// the strategy's promise needs more updates than there are.
	Combine(updates Rows) ([]float64, error)
}

// ErrTooFew marks a round with fewer updates than a strategy needs.
var ErrTooFew = errors.New("too few updates")

// Report is what is known of an update beside its values.
type Report struct {
	Samples   float64 // how many examples it was trained on
	Steps     float64 // how many steps the training took; FedNova
	Loss      float64 // of the global model on the client's examples; q-FedAvg
	Staleness float64 // how many models were published since its base; FedBuff
	Distance  float64 // Euclidean, to the global model; q-FedAvg
}

// Totals are sums over the updates of a round. Totals of parts add up.
type Totals struct {
	Updates                 int64
	Weight, Samples, Scalar float64
}

// Add counts one update in.
func (t *Totals) Add(r Report, weight, scalar float64) {
	t.Merge(Totals{Updates: 1, Weight: weight, Samples: r.Samples, Scalar: scalar})
}

// Merge adds the totals of other updates.
func (t *Totals) Merge(o Totals) {
	t.Updates += o.Updates
	t.Weight += o.Weight
	t.Samples += o.Samples
	t.Scalar += o.Scalar
}

// State is what a strategy keeps between rounds, by name. A State without an
// entry is that of a training which has not begun.
type State map[string][]float64

// Clone returns a copy that shares nothing with s.
func (s State) Clone() State {
	c := State{}
	for name, values := range s {
		c[name] = slices.Clone(values)
	}
	return c
}

// vector returns the entry, which it makes with the value given where there is
// none.
func (s State) vector(name string, n int, initial float64) []float64 {
	v := s[name]
	if len(v) != n {
		v = slices.Repeat([]float64{initial}, n)
		s[name] = v
	}
	return v
}

// A parameter is one setting of a strategy: its name, where it is kept, and
// what it may be.
type parameter struct {
	name     string
	value    *float64
	min, max float64
}

// open bounds a parameter that may be anything above zero.
const open = math.SmallestNonzeroFloat64

var inf = math.Inf(1)

// named are the strategies by the name that Parse reads, each with its
// defaults: those of Flower 1.41 where it has the strategy.
var named = map[string]func() (Strategy, []parameter){
	"fedavg":            func() (Strategy, []parameter) { return FedAvg{}, nil },
	"fedprox":           func() (Strategy, []parameter) { s := &FedProx{}; return s, s.parameters() },
	"fedavgm":           func() (Strategy, []parameter) { s := NewFedAvgM(); return s, s.parameters() },
	"fedadagrad":        func() (Strategy, []parameter) { s := NewFedAdagrad(Paper); return s, s.parameters() },
	"fedadam":           func() (Strategy, []parameter) { s := NewFedAdam(Paper); return s, s.parameters() },
	"fedyogi":           func() (Strategy, []parameter) { s := NewFedYogi(Paper); return s, s.parameters() },
	"flower-fedadagrad": func() (Strategy, []parameter) { s := NewFedAdagrad(Flower); return s, s.parameters() },
	"flower-fedadam":    func() (Strategy, []parameter) { s := NewFedAdam(Flower); return s, s.parameters() },
	"flower-fedyogi":    func() (Strategy, []parameter) { s := NewFedYogi(Flower); return s, s.parameters() },
	"qfedavg":           func() (Strategy, []parameter) { s := NewQFedAvg(); return s, s.parameters() },
	"fednova":           func() (Strategy, []parameter) { return FedNova{}, nil },
	"scaffold":          func() (Strategy, []parameter) { s := &Scaffold{Rate: 1}; return s, s.parameters() },
	"fedbuff":           func() (Strategy, []parameter) { s := NewFedBuff(); return s, s.parameters() },
	"median":            func() (Strategy, []parameter) { return Median{}, nil },
	"trimmed-mean":      func() (Strategy, []parameter) { s := NewTrimmedMean(); return s, s.parameters() },
	"krum":              func() (Strategy, []parameter) { s := &Krum{Select: 1}; return s, s.parameters()[:1] },
	"multi-krum":        func() (Strategy, []parameter) { s := &Krum{Select: 2}; return s, s.parameters() },
	"bulyan":            func() (Strategy, []parameter) { s := &Bulyan{}; return s, s.parameters() },
	"flower-bulyan":     func() (Strategy, []parameter) { s := &Bulyan{Variant: Flower}; return s, s.parameters() },
	"geometric-median":  func() (Strategy, []parameter) { s := NewGeometricMedian(); return s, s.parameters() },
}

// Names are the strategies that Parse knows, sorted.
func Names() []string { return slices.Sorted(maps.Keys(named)) }

// Parse reads a strategy: its name, and after a colon the parameters that are
// not to have their defaults, as in "fedadam:eta=0.1,tau=0.001".
func Parse(text string) (Strategy, error) {
	name, rest, settings := strings.Cut(text, ":")
	build, ok := named[name]
	if !ok {
		return nil, fmt.Errorf("parse strategy: expected one of %s, found %.40q", strings.Join(Names(), ", "), name)
	}
	strategy, parameters := build()
	if !settings {
		return strategy, nil
	}
	for setting := range strings.SplitSeq(rest, ",") {
		key, value, _ := strings.Cut(setting, "=")
		i := slices.IndexFunc(parameters, func(p parameter) bool { return p.name == key })
		if i < 0 {
			return nil, fmt.Errorf("parse strategy: %s has no parameter %.40q; it has %s", name, key, listed(parameters))
		}
		p := parameters[i]
		x, err := strconv.ParseFloat(value, 64)
		if err != nil || !(x >= p.min && x <= p.max) {
			return nil, fmt.Errorf("parse strategy: expected %s of %s from %v to %v, found %.40q", key, name, p.min, p.max, value)
		}
		*p.value = x
	}
	return strategy, nil
}

func listed(parameters []parameter) string {
	if len(parameters) == 0 {
		return "none"
	}
	var names []string
	for _, p := range parameters {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

// spell is what Parse reads.
func spell(name string, parameters []parameter) string {
	var b strings.Builder
	b.WriteString(name)
	for i, p := range parameters {
		b.WriteByte(":,"[min(i, 1)])
		b.WriteString(p.name + "=" + strconv.FormatFloat(*p.value, 'g', -1, 64))
	}
	return b.String()
}

// Fold runs a linear strategy over updates that are all there, and makes model
// the next one. Robust ones have Combine for that.
func Fold(s Linear, model []float64, updates Rows, reports []Report, state State) error {
	sum := make([]float64, len(model))
	row := make([]float64, len(model))
	var t Totals
	for i, r := range reports {
		if err := updates.Read(i, 0, row); err != nil {
			return err
		}
		var squares float64
		for j, v := range row {
			d := v - model[j]
			squares += float64(d * d)
		}
		r.Distance = math.Sqrt(squares)
		weight, scalar, err := s.Weigh(r)
		if err != nil {
			return fmt.Errorf("update %d: %w", i, err)
		}
		for j, v := range row {
			sum[j] += float64(weight * v)
		}
		t.Add(r, weight, scalar)
	}
	s.Step(model, sum, t, state)
	return nil
}
