package federated

import (
	"errors"
	"math"
	"slices"
	"testing"
)

// Whatever clients say of their steps and numbers, a training with fednova goes on to its
// end, and those who say too much can read it.
func TestNoStepsEndATraining(t *testing.T) {
	h := newHall(t, 2, 3, func(c *Config) { c.Strategy = "fednova" })
	var err error
	for round := range int64(3) {
		m := h.a.Model()
		far, near := updateOf("c0", m), updateOf("c1", m)
		far.Steps = 1<<30 + 1
		refused(t, h.write(far), BadReport, "strategy fednova: expected from 1 to 1073741824 steps, found 1.073741825e+09")
		far.Steps, near.Steps, near.Samples = 1<<30, 1, 1
		for _, tensor := range near.Parameters {
			for i := range tensor.Values {
				tensor.Values[i] = float32(1-2*(int64(i)+round)%2) * math.MaxFloat32
			}
		}
		err = errors.Join(h.write(far), h.write(near))
		if round < 2 && err != nil {
			t.Fatal(err)
		}
		for _, v := range flat(h.counted(round+1, Complete, "c0", "c1").Parameters) {
			if !finite(float64(v)) {
				t.Fatalf("the model of round %d has %v", round+1, v)
			}
		}
	}
	if !errors.Is(err, ErrFinished) || !slices.Contains(flat(h.a.Model().Parameters), math.MaxFloat32) {
		t.Errorf("%v; the model is %v, and was to reach what float32 holds", err, h.a.Model().Parameters)
	}
}
