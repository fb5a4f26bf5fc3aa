package federated

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// A client that turns its update around, one that makes it large, one that does
// nothing and one whose loss is high stand out, and honest ones do not.
func TestMeasure(t *testing.T) {
	base := Model{Parameters: []Tensor{{Name: "w", Shape: []int{40}, Values: make([]float32, 40)}}}
	random := rand.New(rand.NewPCG(3, 4))
	honest := func(n int) (out []Update) {
		for i := range n {
			values := make([]float32, 40)
			for k := range values {
				values[k] = float32(math.Sin(float64(k)) + 0.3*random.NormFloat64())
			}
			out = append(out, Update{Client: fmt.Sprint("c", i), Loss: 1 + 0.05*random.NormFloat64(), Parameters: []Tensor{{Name: "w", Shape: []int{40}, Values: values}}})
		}
		return out
	}
	for by, lie := range map[string]func(u *Update){
		"cosine": func(u *Update) {
			for k := range u.Parameters[0].Values {
				u.Parameters[0].Values[k] *= -1
			}
		},
		"norm": func(u *Update) {
			for k := range u.Parameters[0].Values {
				u.Parameters[0].Values[k] *= 30
			}
		},
		"loss": func(u *Update) { u.Loss = 9 },
	} {
		updates := honest(8)
		lie(&updates[2])
		got, err := Measure([]Model{base}, updates)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range got {
			if i == 2 && (s.Score < 5 || s.By != by) || i != 2 && s.Score > 4 {
				t.Errorf("%s: %+v", by, s)
			}
		}
	}

	// By hand: two that go the same way, and one across.
	at := func(x, y float32) Update {
		return Update{Parameters: []Tensor{{Name: "w", Shape: []int{2}, Values: []float32{x, y}}}}
	}
	base.Parameters = []Tensor{{Name: "w", Shape: []int{2}, Values: []float32{1, 1}}}
	got, err := Measure([]Model{base}, []Update{at(4, 5), at(1, 1), at(5, -2)})
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Norm != 5 || got[0].Cosine != 0 || got[1].Norm != 0 || got[1].Cosine != 0 || got[2].Norm != 5 || got[2].Score != 0 {
		t.Errorf("%+v", got)
	}
	if got, err = Measure([]Model{base}, []Update{at(2, 1), at(3, 1), at(1, 1), at(1, 1), at(1, 1)}); err != nil || got[0].Cosine != 1 || got[2].Score != 0 || got[1].Score < 5 || got[1].By != "norm" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Measure([]Model{base}, []Update{{Client: "c0", Parameters: base.Parameters[:0]}}); err == nil {
		t.Error("an update without tensors is measured")
	}
	if _, err := Measure([]Model{base}, []Update{{Client: "c0", Round: 1, Parameters: base.Parameters}}); err == nil {
		t.Error("an update is measured from a model that it was not trained from")
	}
}

// Without rounds an update is measured from the model that it was trained from: one that
// is late, and goes where the others go, is no outlier.
func TestMeasureLateUpdates(t *testing.T) {
	at := func(values ...float32) []Tensor { return []Tensor{{Name: "w", Shape: []int{2}, Values: values}} }
	before := []Model{{Round: 3, Parameters: at(0, 0)}, {Round: 4, Parameters: at(100, -50)}}
	updates := []Update{
		{Client: "ann", Round: 4, Parameters: at(103, -46)},
		{Client: "bob", Round: 3, Parameters: at(3, 4)},
		{Client: "cyd", Round: 4, Parameters: at(103, -46)},
		{Client: "dan", Round: 4, Parameters: at(103, -46)},
	}
	got, err := Measure(before, updates)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range got {
		if s.Norm != 5 || s.Cosine != 1 || s.Score != 0 {
			t.Errorf("%+v", s)
		}
	}
	updates[1].Parameters = at(97, -54) // near the newest model, and far from its own
	if got, err = Measure(before, updates); err != nil || got[1].Score < 5 {
		t.Errorf("%+v, %v", got, err)
	}
}
