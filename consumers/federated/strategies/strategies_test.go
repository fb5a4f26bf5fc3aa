package strategies

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The paper's variants differ from Flower's in what they are said to.
func TestPaperVariants(t *testing.T) {
	updates := matrix{[][]float64{{0.5, -0.25}}, []float64{4}}
	step := func(s Linear) ([]float64, State) {
		model, state := []float64{0, 0}, State{}
		if err := Fold(s, model, updates, reports(updates.samples), state); err != nil {
			t.Fatal(err)
		}
		return model, state
	}
	for _, f := range []struct {
		s    *Adaptive
		v    float64 // of the first value
		rate float64
	}{
		{NewFedAdagrad(Paper), 1e-6 + 0.25, 0.1},
		{NewFedAdam(Paper), 0.99*1e-6 + 0.01*0.25, 0.1},
		{NewFedYogi(Paper), 1e-6 + 0.01*0.25, 0.01},
		{NewFedAdam(Flower), 0.01 * 0.25, 0.1 * math.Sqrt(1-0.99*0.99) / (1 - 0.9*0.9)},
	} {
		model, state := step(f.s)
		m := 0.5 * (1 - f.s.Beta1)
		want := f.rate * m / (math.Sqrt(f.v) + 1e-3)
		if math.Abs(state["v"][0]-f.v) > 1e-15 || math.Abs(model[0]-want) > 1e-15 {
			t.Errorf("%v: expected v %v and model %v, found %v and %v", f.s, f.v, want, state["v"][0], model[0])
		}
	}
}

// Every strategy's text is read as the strategy itself.
func TestParse(t *testing.T) {
	for _, name := range Names() {
		s, err := Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Errorf("%s: %v is read as %v, %v", name, s, again, err)
		}
		_, linear := s.(Linear)
		_, robust := s.(Robust)
		if linear == robust {
			t.Errorf("%s is linear: %v, robust: %v", name, linear, robust)
		}
	}
	s, err := Parse("fedadam:eta=0.25,tau=1e-9")
	if a, ok := s.(*Adaptive); err != nil || !ok || a.Eta != 0.25 || a.Tau != 1e-9 || a.Beta1 != 0.9 {
		t.Errorf("found %v, %v", s, err)
	}
	for _, bad := range []string{"", "fedsgd", "fedavg:", "fedavg:eta=1", "fedadam:eta=", "fedadam:eta=0", "fedadam:eta=NaN", "fedadam:beta1=1.5", "trimmed-mean:share=0.5", "krum:select=3"} {
		if s, err := Parse(bad); err == nil {
			t.Errorf("%q is read as %v", bad, s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("fedadam:eta=0.1,beta1=0.9")
	f.Add("multi-krum:byzantine=2,select=5")
	f.Add("krum:=")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(s.String()); err != nil || again.String() != s.String() {
			t.Errorf("%q: %v is read as %v, %v", text, s, again, err)
		}
	})
}

// Robust strategies stay with the honest clients, wherever the others are.
func TestByzantine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.IntRange(0, 3).Draw(t, "f")
		n := 4*f + 3 + rapid.IntRange(0, 3).Draw(t, "more")
		dim := rapid.SampledFrom([]int{1, 3, block + 1}).Draw(t, "dim")
		m := matrix{samples: slices.Repeat([]float64{1}, n)}
		for i := range n {
			row := make([]float64, dim)
			for j := range row {
				row[j] = 10 + math.Sin(float64(i*dim+j))
			}
			if i < f {
				lie := rapid.SampledFrom([]float64{-1e3, 1e6, 0, 1e-3}).Draw(t, "lie")
				for j := range row {
					row[j] *= lie
				}
			}
			m.rows = append(m.rows, row)
		}
		for _, s := range []Robust{
			Median{}, &TrimmedMean{Share: 0.3}, &Krum{Byzantine: float64(f), Select: 1}, &Krum{Byzantine: float64(f), Select: float64(n - 2*f - 2)},
			&Bulyan{Byzantine: float64(f)}, &Bulyan{Variant: Flower, Byzantine: float64(f)},
		} {
			got, err := s.Combine(m)
			if err != nil {
				t.Fatal(err)
			}
			for i, v := range got {
				if v < 9 || v > 11 {
					t.Fatalf("%v: expected a value from 9 to 11, found %v at %d", s, v, i)
				}
			}
		}
		if _, err := (&Bulyan{Byzantine: float64(n)}).Combine(m); !errors.Is(err, ErrTooFew) {
			t.Fatalf("expected ErrTooFew, found %v", err)
		}
	})
}

// Without updates nothing changes.
func TestNoUpdates(t *testing.T) {
	for _, name := range Names() {
		s, err := Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		l, ok := s.(Linear)
		if !ok {
			continue
		}
		model, state := []float64{1, 2}, State{}
		if err := Fold(l, model, matrix{rows: [][]float64{{0, 0}}}, nil, state); err != nil || !slices.Equal(model, []float64{1, 2}) || len(state) > 0 {
			t.Errorf("%s: %v, %v, %v", name, model, state, err)
		}
	}
}

// Whatever losses clients report, those that are weighed make finite numbers of any float32.
func TestQFedAvgStaysFinite(t *testing.T) {
	for _, s := range []*QFedAvg{{Q: 0.1, Rate: 0.1}, {Q: 1, Rate: 1e-3}, {Q: 50, Rate: 10}} {
		weighed := 0
		for _, loss := range []float64{0, 1e-300, 1e-9, 1, 2, 1e5, 1e300, math.MaxFloat64} {
			var totals Totals
			r := Report{Samples: 1, Loss: loss, Distance: math.Sqrt2 * math.MaxFloat32}
			weight, scalar, err := s.Weigh(r)
			if err != nil {
				continue
			}
			weighed++
			model, sum := []float64{math.MaxFloat32}, []float64{0}
			for range 1000 {
				totals.Add(r, weight, scalar)
				sum[0] -= float64(weight * math.MaxFloat32)
			}
			s.Step(model, sum, totals, nil)
			if x := float64(float32(model[0])); math.IsInf(x, 0) || math.IsNaN(x) {
				t.Errorf("%v: the loss %v makes %v", s, loss, model[0])
			}
		}
		if weighed < 2 {
			t.Errorf("%v weighs %d losses", s, weighed)
		}
	}
	if _, _, err := (&QFedAvg{Q: 2, Rate: 1}).Weigh(Report{Loss: 1e200}); err == nil || !strings.Contains(err.Error(), "found 1e+200 and +Inf") {
		t.Errorf("got %v", err)
	}
}

// Updates are weighed before their distance is known.
func TestWeightWithoutDistance(t *testing.T) {
	for _, name := range Names() {
		s, err := Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		linear, ok := s.(Linear)
		if !ok {
			continue
		}
		r := Report{Samples: 7, Steps: 3, Loss: 0.5, Staleness: 2}
		want, _, err1 := linear.Weigh(r)
		r.Distance = 11
		got, _, err2 := linear.Weigh(r)
		if got != want || err1 != nil || err2 != nil {
			t.Errorf("%s: expected the weight %v, found %v with a distance, %v, %v", name, want, got, err1, err2)
		}
	}
}
