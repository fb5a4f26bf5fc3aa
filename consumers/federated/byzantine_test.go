package federated

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"penstock/consumers"
	"penstock/stream"
)

// Two of thirteen clients lie: they turn their updates around, or train on wrong answers
// and make much of it, or send the same lie both, or what is no number. Robust strategies
// learn the digits all the same, and the average does not; what is no number it is spared.
func TestByzantineClients(t *testing.T) {
	const clients, liars, rounds = 13, 2, 2
	var shares, wrong [clients][]Example
	var test []Example
	for i, e := range digits(t) {
		if i%5 == 0 {
			test = append(test, e)
			continue
		}
		c := i % clients
		shares[c] = append(shares[c], e)
		e.Class = (e.Class + 1) % 10
		wrong[c] = append(wrong[c], e)
	}
	moved := func(base, to []Tensor, factor float32) []Tensor {
		var out []Tensor
		for i, p := range base {
			p.Values = append([]float32(nil), p.Values...)
			for k, v := range to[i].Values {
				p.Values[k] += factor * (v - p.Values[k])
			}
			out = append(out, p)
		}
		return out
	}
	sgd := SGD{Epochs: 3, Batch: 10, Rate: 0.3, Seed: 1}
	known := map[string][]Tensor{} // what was trained, of which strategies begin with the same
	train := func(m Model, kind string, c int, share []Example) []Tensor {
		id := fmt.Sprint(m.Hash, kind, c)
		if known[id] == nil {
			out, err := sgd.Train(m.Parameters, share)
			if err != nil {
				t.Fatal(err)
			}
			known[id] = out
		}
		return known[id]
	}
	lies := map[string]func(m Model, c int) []Tensor{
		"turned around": func(m Model, c int) []Tensor { return moved(m.Parameters, train(m, "", c, shares[c]), -10) },
		"scaled":        func(m Model, c int) []Tensor { return moved(m.Parameters, train(m, "wrong", c, wrong[c]), 20) },
		"agreed upon":   func(m Model, _ int) []Tensor { return moved(m.Parameters, train(m, "wrong", 0, wrong[0]), 12) },
		"no number": func(m Model, _ int) []Tensor {
			return moved(m.Parameters, m.Parameters, float32(math.NaN()))
		},
	}
	accuracy := func(strategy, lie string) float64 {
		tr := newTraining(t, clients, rounds)
		tr.config.Initial, tr.config.Strategy = NewSoftmax(64, 10), strategy
		if lie == "no number" {
			tr.config.Quorum = clients - liars
		}
		a := open(t, tr.config)
		claim(t, a)
		for offset := int64(0); !a.Model().Final(); offset++ {
			c := int(offset) % clients
			m := a.Model()
			u := Update{Client: fmt.Sprint("c", c), Round: m.Round, Base: m.Hash, Samples: 100, Parameters: train(m, "", c, shares[c])}
			if c < liars {
				u.Parameters = lies[lie](m, c)
			}
			b := consumers.Batch{Topic: "updates", Messages: []consumers.Message{message(t, tr.publisher.registry, u.Client, u.value())}, First: offset, Next: offset + 1}
			b.Messages[0].Offset = offset
			err := a.Write(t.Context(), b)
			var refused *stream.BatchError
			if lie == "no number" && c < liars && errors.As(err, &refused) {
				b.Messages = nil
				err = a.Write(t.Context(), b)
			}
			if err != nil && !errors.Is(err, ErrFinished) {
				t.Fatalf("%s, updates %s: %v", strategy, lie, err)
			}
		}
		got, err := Accuracy(a.Model().Parameters, test)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for lie := range lies {
		average := accuracy("fedavg", lie)
		t.Logf("updates %s: fedavg %.3f", lie, average)
		if (average > 0.6) != (lie == "no number") {
			t.Errorf("updates %s: the average is right about %.3f", lie, average)
		}
		for _, strategy := range []string{"median", "trimmed-mean", "krum:byzantine=2", "multi-krum:byzantine=2,select=6", "bulyan:byzantine=2", "flower-bulyan:byzantine=2", "geometric-median"} {
			got := accuracy(strategy, lie)
			t.Logf("updates %s: %s %.3f", lie, strategy, got)
			if got < 0.8 { // Krum makes the model of one client
				t.Errorf("updates %s: %s is right about %.3f", lie, strategy, got)
			}
		}
	}
}
