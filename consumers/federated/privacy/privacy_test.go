package privacy

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The table of docs/federated.md: dp-accounting 0.6.0, add or remove one.
var table = []struct {
	q, sigma float64
	rounds   int
	delta    float64
	rdp, pld float64
}{
	{1, 1, 1, 1e-5, 4.7285, 4.3772},
	{1, 2, 10, 1e-5, 8.0794, 7.5113},
	{0.01, 1, 1000, 1e-5, 2.1014, 1.8282},
	{0.01, 1.1, 10000, 1e-5, 5.6320, 5.1926},
	{0.001, 0.8, 10000, 1e-6, 1.7036, 0.9473},
	{0.05, 1.5, 500, 1e-6, 4.6304, 4.2803},
	{0.1, 1, 100, 1e-5, 7.9039, 7.0466},
	{0.1, 2, 1000, 1e-5, 8.9470, 8.2793},
	{0.02, 0.6, 200, 1e-5, 8.6162, 7.2602},
	{0.2, 4, 2000, 1e-7, 14.7732, 13.9630},
	{0.005, 1.3, 50000, 1e-6, 5.3065, 4.9591},
	{1, 10, 100, 1e-6, 5.2215, 4.8866},
}

func TestAccountants(t *testing.T) {
	for _, row := range table {
		spent := []Rounds{{row.rounds, row.sigma, row.q}}
		rdp, err := RDP(spent, row.delta)
		if err != nil || math.Abs(rdp-row.rdp) > 1e-3 {
			t.Errorf("%+v: RDP gives %.4f, %v", row, rdp, err)
		}
		pld, err := PLD(spent, row.delta)
		if err != nil || math.Abs(pld-row.pld) > 1e-2 {
			t.Errorf("%+v: PLD gives %.4f, %v", row, pld, err)
		}
	}
}

// One round costs what the moments recorded say, at orders of both kinds.
func TestRenyi(t *testing.T) {
	for _, f := range []struct {
		q, sigma, order, want float64
	}{{1, 1, 64, 32}, {0.01, 1, 2, 0.00017181342207455162}, {0.01, 1, 8, 0.000893643907606041}, {0.01, 1, 16, 3.087850783696245}, {0.01, 1, 64, 27.32173187455178}} {
		if got := renyi(Rounds{1, f.sigma, f.q}, f.order); math.Abs(got-f.want) > 1e-9*max(1, f.want) {
			t.Errorf("%+v: found %v", f, got)
		}
	}
	for a := 2.0; a < 30; a++ { // the series meets the sum
		whole, near := renyi(Rounds{1, 0.9, 0.02}, a), renyi(Rounds{1, 0.9, 0.02}, a+1e-7)
		if math.Abs(whole-near) > 1e-5*max(1e-3, whole) {
			t.Errorf("order %v: %v, and just above it %v", a, whole, near)
		}
	}
}

// Rounds add up, however they are written down, and a plain Gaussian costs what
// its closed form says.
func TestComposition(t *testing.T) {
	one, err := PLD([]Rounds{{30, 2, 0.1}}, 1e-5)
	if err != nil {
		t.Fatal(err)
	}
	two, err := PLD([]Rounds{{10, 2, 0.1}, {20, 2, 0.1}}, 1e-5)
	if err != nil || math.Abs(one-two) > 1e-6 {
		t.Errorf("30 rounds cost %v, 10 and 20 cost %v, %v", one, two, err)
	}
	// n rounds of sigma are one of sigma/sqrt(n).
	for n := 1; n <= 64; n *= 4 {
		e, err := PLD([]Rounds{{n, 3, 1}}, 1e-6)
		if err != nil {
			t.Fatal(err)
		}
		s := 3 / math.Sqrt(float64(n))
		delta := normal(math.Inf(-1), 1/(2*s)-e*s) - math.Exp(e)*normal(math.Inf(-1), -1/(2*s)-e*s)
		if math.Abs(delta-1e-6) > 1e-9 {
			t.Errorf("%d rounds: epsilon %v has delta %v", n, e, delta)
		}
	}
	if _, err := PLD([]Rounds{{1e6, 0.1, 1}}, 1e-6); err == nil {
		t.Error("a loss beyond all bounds was counted")
	}
	for _, bad := range []Rounds{{-1, 1, 1}, {1, 0, 1}, {1, 1, 0}, {1, 1, 1.1}, {1, math.NaN(), 1}, {1, 1, math.NaN()}} {
		if e, err := RDP([]Rounds{bad}, 1e-5); err == nil {
			t.Errorf("%+v costs %v", bad, e)
		}
	}
	if e, err := RDP([]Rounds{{1, 1, 1}}, 0); err == nil {
		t.Errorf("delta 0 costs %v", e)
	}
}

func TestBudget(t *testing.T) {
	b := Budget{Epsilon: 8.1, Delta: 1e-5}
	spent := []Rounds{{9, 2, 1}}
	if err := b.Admit(spent, Rounds{1, 2, 1}); err != nil {
		t.Errorf("the tenth round: %v", err)
	}
	if err := b.Admit(spent, Rounds{2, 2, 1}); !errors.Is(err, ErrSpent) {
		t.Errorf("the eleventh round: %v", err)
	}
}

// The figures of the library whose vectors we keep, and of the paper.
func TestClippingVectors(t *testing.T) {
	var file struct {
		Cases []struct {
			Fn         string    `json:"fn"`
			Norm       float64   `json:"clipping_norm"`
			Global     []float32 `json:"global_"`
			Client     []float32 `json:"client"`
			L2         float64   `json:"update_l2"`
			Clipped    []float64 `json:"expected_client"`
			Multiplier float64   `json:"noise_multiplier"`
			SD         float64   `json:"expected_clipped_count_stddev"`
			Update     *float64  `json:"expected_update_noise_multiplier"`
			Sampled    int       `json:"num_sampled_clients"`
			Expected   json.RawMessage
		} `json:"cases"`
	}
	for _, dir := range []string{"testdata", "../../../../shared/data/federated"} {
		text, err := os.ReadFile(filepath.Join(dir, "dp_clipping.json"))
		if err != nil && dir != "testdata" {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &file); err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		for _, c := range file.Cases {
			seen[c.Fn]++
			switch c.Fn {
			case "clip":
				if l2 := Clip(c.Client, c.Global, c.Norm); math.Abs(l2-c.L2) > 1e-6 {
					t.Errorf("norm: expected %v, found %v", c.L2, l2)
				}
				for i, v := range c.Client {
					if math.Abs(float64(v)-c.Clipped[i]) > 1e-6 {
						t.Errorf("clipped to %v: expected %v, found %v", c.Norm, c.Clipped, c.Client)
						break
					}
				}
			case "adaptive_noise_params":
				z, err := CountNoise(c.Multiplier, c.SD)
				if err != nil || math.Abs(z-*c.Update) > 1e-12 {
					t.Errorf("noise multiplier: expected %v, found %v, %v", *c.Update, z, err)
				}
			case "central_noise_stddev":
				var want float64
				if err := json.Unmarshal(c.Expected, &want); err != nil {
					t.Fatal(err)
				}
				if sd := MeanNoise(c.Multiplier, c.Norm, c.Sampled); math.Abs(sd-want) > 1e-15 {
					t.Errorf("noise: expected %v, found %v", want, sd)
				}
			}
		}
		if len(seen) < 3 {
			t.Errorf("%s: expected clipping and both kinds of noise, found %v", dir, seen)
		}
	}
	a := Adaptive{Norm: 1, Rate: 0.2, Quantile: 0.5}
	for i, want := range []float64{0.9231163463866358, 0.8869204367171575, 0.8869204367171575, 0.9231163463866358, 1} {
		if a = a.Next([]float64{0.9, 0.7, 0.5, 0.3, 0.1}[i]); math.Abs(a.Norm-want) > 1e-12 {
			t.Errorf("norm after round %d: expected %v, found %v", i, want, a.Norm)
		}
	}
}

// Nothing is left beyond the norm, and what was within it is untouched.
func TestClip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "n")
		values := rapid.SliceOfN(rapid.Float32Range(-1e6, 1e6), n, n)
		update, base := values.Draw(t, "update"), values.Draw(t, "base")
		for i := range base {
			base[i] /= 1e6
		}
		before := slices.Clone(update)
		norm := rapid.Float64Range(1e-2, 1e7).Draw(t, "norm")
		d := Clip(update, base, norm)
		if again := Clip(slices.Clone(update), base, norm); again > norm {
			t.Fatalf("expected at most %v, found %v", norm, again)
		}
		if d <= norm && !slices.Equal(update, before) {
			t.Fatal("an update within the norm was changed")
		}
	})
}

func TestNoise(t *testing.T) {
	const n, sd = 200_001, 0.37
	x := make([]float64, n)
	if err := Noise(rand.Reader, x, sd); err != nil {
		t.Fatal(err)
	}
	var sum, squares float64
	within := 0
	grid := math.Ldexp(1, math.Ilogb(sd)-20)
	for _, v := range x {
		sum += v
		squares += v * v
		if math.Abs(v) < sd {
			within++
		}
		if v != math.Trunc(v/grid)*grid {
			t.Fatalf("%v is not on the grid", v)
		}
	}
	// Each is off by six of its standard deviations once in 500 million runs.
	if math.Abs(sum/n) > 6*sd/math.Sqrt(n) || math.Abs(squares/n/(sd*sd)-1) > 6*math.Sqrt(2.0/n) || math.Abs(float64(within)/n-0.6827) > 6*math.Sqrt(0.22/n) {
		t.Errorf("mean %v, variance %v, within one deviation %v", sum/n, squares/n, float64(within)/n)
	}
	if err := Noise(bytes.NewReader(make([]byte, 20)), x, sd); err == nil {
		t.Error("noise without randomness")
	}
	if err := Noise(rand.Reader, x, math.NaN()); err == nil {
		t.Error("noise of no deviation")
	}
}
