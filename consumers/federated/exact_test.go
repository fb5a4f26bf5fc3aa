package federated

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"penstock/consumers/federated/kernels"
	"penstock/consumers/federated/strategies"
)

// The same updates make the same model, in whatever order they come and however they
// are dealt out to partitions; and that is the mean, within a bound.
func TestAnExactSumHasNoOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := someModel(0)
		base.Strategy, base.State = "fedavg", strategies.State{}
		n := rapid.IntRange(2, 9).Draw(t, "clients")
		var arrivals []arrival
		for i := range n {
			v := rapid.Float32Range(-100, 100).Draw(t, "value")
			samples := rapid.Int64Range(1, 1000).Draw(t, "samples")
			u := Update{Client: string(rune('a' + i)), Samples: samples, Parameters: []Tensor{{Values: []float32{v}}}}
			arrivals = append(arrivals, arrival{Update: u, Contribution: Contribution{Client: u.Client, Samples: samples}})
		}
		base.Sum = SumExact
		model := func(order []arrival) Model {
			partials := []*partial{{}, {}, {}}
			for _, a := range order {
				p := partials[rapid.IntRange(0, 2).Draw(t, "partition")]
				if err := p.add(strategies.FedAvg{}, base, flat(base.Parameters), a); err != nil {
					t.Fatal(err)
				}
			}
			partials = slices.DeleteFunc(partials, func(p *partial) bool { return len(p.counted) == 0 })
			m, err := step(base, strategies.FedAvg{}, partials, nil)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		shuffled := rapid.Permutation(arrivals).Draw(t, "order")
		one, other := model(arrivals), model(shuffled)
		if one.Hash != other.Hash {
			t.Fatalf("%v and %v", flat(one.Parameters), flat(other.Parameters))
		}
		var sum, weight float64
		for _, a := range arrivals {
			sum += float64(a.Update.Samples) * float64(a.Parameters[0].Values[0])
			weight += float64(a.Update.Samples)
		}
		if got := float64(flat(one.Parameters)[0]); math.Abs(got-sum/weight) > 1e-5 {
			t.Fatalf("mean %v, want %v", got, sum/weight)
		}
	})
}

// What would leave the range is refused before it is added, whoever else there is.
func TestAnExactSumStaysInRange(t *testing.T) {
	h := newHall(t, 3, 1, func(c *Config) { c.Sum = SumExact })
	m := h.a.Model()
	u := updateOf("c0", m)
	limit := exactLimit(3) / float64(u.Samples)
	u.Parameters[0].Values[1] = float32(limit * 1.01)
	refused(t, h.write(u), OutOfRange, "for an exact sum over 3 clients")
	all := map[string]Update{}
	for _, c := range m.Clients {
		u := updateOf(c, m)
		u.Parameters[0].Values[1] = float32(exactLimit(3) / float64(u.Samples) * 0.99)
		all[c] = u
		if err := h.write(u); err != nil && !errors.Is(err, ErrFinished) {
			t.Fatal(err)
		}
	}
	next := h.counted(1, Complete, "c0", "c1", "c2")
	if v := next.Parameters[0].Values[1]; !(v > 0) {
		t.Errorf("the sum has left its range: %v", v)
	}
	if err := Recompute(m, next, nil, func(c Contribution) (Update, error) { return all[c.Client], nil }); err != nil {
		t.Error(err)
	}
	h.config.Sum = ""
	if _, err := Open(t.Context(), h.config); err == nil || !strings.Contains(err.Error(), `it has the sum "exact"`) {
		t.Errorf("got %v", err)
	}
	h.config.Sum, h.config.Strategy = SumExact, "median"
	if _, err := Open(t.Context(), h.config); err == nil || !strings.Contains(err.Error(), "of the mean alone") {
		t.Errorf("got %v", err)
	}
}

// What an exact sum costs beside one in float64.
func BenchmarkSums(b *testing.B) {
	const n = 1 << 20
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(i%1000) / 500
	}
	b.Run("float64", func(b *testing.B) {
		sum := make([]float64, n)
		b.SetBytes(4 * n)
		for b.Loop() {
			kernels.Fold(sum, [][]float32{values}, []float64{3})
		}
	})
	b.Run("exact", func(b *testing.B) {
		sum := make([]int64, n)
		b.SetBytes(4 * n)
		for b.Loop() {
			foldExact(sum, values, 3)
		}
	})
}
