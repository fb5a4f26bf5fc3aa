package secagg

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/consumers/federated/privacy"
	"penstock/servertest"
)

func withNoise(t testing.TB, clients, shares int, elements uint32, norm, multiplier float64) Encoding {
	t.Helper()
	e, err := WithNoise(clients, shares, elements, norm, multiplier)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// must be tested: whatever a client's numbers are, its integers keep to the bound that
// its noise is for, and say what the clipped numbers say.
func TestIntegersKeepTheirBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(t, "elements")
		norm := rapid.Float64Range(1e-3, 1e3).Draw(t, "norm")
		e, err := WithNoise(4, 3, uint32(n), norm, 1)
		if err != nil {
			t.Fatal(err)
		}
		// Coarse, so that rounding matters.
		e.Bound = uint32(math.Ceil(16 * math.Sqrt(float64(n))))
		values := make([]float32, n)
		size := rapid.Float64Range(-3, 3).Draw(t, "size")
		for i := range values {
			values[i] = float32(norm * math.Pow(10, size) / math.Sqrt(float64(n)) * rapid.Float64Range(-1, 1).Draw(t, "value"))
		}
		v, err := e.encode(values, 1, streamOf([]byte(rapid.String().Draw(t, "dice")), "test"))
		if err != nil {
			t.Fatal(err)
		}
		var squares int64
		for _, x := range v[1:] {
			squares += int64(int32(x)) * int64(int32(x))
		}
		if squares > int64(e.Bound)*int64(e.Bound) {
			t.Fatalf("the norm is the root of %d, and the bound %d", squares, e.Bound)
		}
		weight, mean, err := e.Decode(v)
		if err != nil || weight != 1 {
			t.Fatalf("weight %d, %v", weight, err)
		}
		privacy.Clip(values, make([]float32, n), norm)
		for i, x := range values {
			if step := 1 / e.Scale(uint32(n)); math.Abs(mean[i]-float64(x)) > step*(1+1e-3) {
				t.Fatalf("%v came back as %v, more than a step (%v) away", x, mean[i], step)
			}
		}
	})
}

// Integers are right on the average, negative ones as well.
func TestIntegersAreFair(t *testing.T) {
	const n = 1 << 16
	e := withNoise(t, 4, 3, n, 1e3, 1)
	e.Bound = 16 << 8
	factor := e.Scale(n)
	for _, x := range []float64{0.3, -0.3} {
		v, err := e.encode(slices.Repeat([]float32{float32(x / factor)}, n), 1, streamOf([]byte("x"), "test"))
		if err != nil {
			t.Fatal(err)
		}
		var sum float64
		for _, x := range v[1:] {
			sum += float64(int32(x))
		}
		if math.Abs(sum/n-x) > 0.01 {
			t.Errorf("%v is %v on the average", x, sum/n)
		}
	}
}

// Shares add up to the multiplier, and the sum fits: the largest of all clients and
// the noise of all, which the next larger bound would not leave room for.
func TestNoiseFits(t *testing.T) {
	for _, clients := range []int{2, 3, 30, MaxClients} {
		for _, elements := range []uint32{1, 1000, 1 << 20, MaxElements} {
			for _, z := range []float64{0.1, 1, 8} {
				shares := LeastThreshold(clients)
				e := withNoise(t, clients, shares, elements, 0.5, z)
				promised := privacy.Shares{Count: shares, Sigma: e.Sigma, Bound: float64(e.Bound), Elements: int(elements)}
				if promised.Multiplier() < z {
					t.Errorf("%d clients, %d elements: expected a multiplier of %v, found %v", clients, elements, z, promised.Multiplier())
				}
				fits := func(e Encoding) bool {
					most := float64(clients)*float64(e.Bound) + 12*float64(e.Sigma)*math.Sqrt(float64(clients))
					return most < 1<<31 && e.Bound <= 1<<24
				}
				double := e
				double.Bound, double.Sigma = 2*e.Bound, 2*e.Sigma
				if !fits(e) || fits(double) {
					t.Errorf("%d clients, %d elements, multiplier %v: bound %d with noise %d", clients, elements, z, e.Bound, e.Sigma)
				}
			}
		}
	}
	for _, f := range []struct {
		clients, shares int
		elements        uint32
		norm, z         float64
	}{{4, 0, 1, 1, 1}, {4, 3, 0, 1, 1}, {4, 3, 1, 0, 1}, {4, 3, 1, math.NaN(), 1}, {4, 3, 1, math.Inf(1), 1}, {4, 3, 1, 1, 0}, {4, 3, 1, 1, math.NaN()}, {4, 3, 1, 1, 1e9}, {4, 3, MaxElements, 1, 1e4}} {
		if e, err := WithNoise(f.clients, f.shares, f.elements, f.norm, f.z); err == nil {
			t.Errorf("%+v is %+v", f, e)
		}
	}
}

// badNoise are settings that a server may not ask for.
func badNoise() map[string]func(*Settings) {
	return map[string]func(*Settings){
		"no noise":        func(s *Settings) { s.Sigma = 0 },
		"no bound":        func(s *Settings) { s.Bound = 0 },
		"too much noise":  func(s *Settings) { s.Sigma = 1 << 27 },
		"a large bound":   func(s *Settings) { s.Bound = 1<<24 + 1 },
		"many elements":   func(s *Settings) { s.Bound, s.Elements = 1<<17, MaxElements },
		"weights":         func(s *Settings) { s.MaxWeight = 2 },
		"levels":          func(s *Settings) { s.Bits = 8 },
		"no norm":         func(s *Settings) { s.Clip = 0 },
		"an endless norm": func(s *Settings) { s.Clip = math.Inf(1) },
	}
}

// What a server may not ask, clients refuse.
func TestNoiseSettings(t *testing.T) {
	w := newWorld(t, 4, 5)
	w.config.Settings.Encoding = withNoise(t, 4, 3, 5, 2, 1)
	s := w.config.Settings
	again, err := readSettings(s.append(nil))
	if diff := cmp.Diff(s, again); diff != "" || err != nil || again.Check() != nil {
		t.Errorf("it is read as another one: %v, %v, %s", err, again.Check(), diff)
	}
	for name, change := range badNoise() {
		bad := s
		change(&bad)
		if bad.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// must be tested: each survivor's noise is in the sum, once, also where all are killed
// at each step; and whoever is gone has left none.
func TestNoiseIsInTheSumOnce(t *testing.T) {
	const elements = 2000
	d := drops{1: Masked}
	run := func(restart bool) *world {
		w := newWorld(t, 4, elements)
		w.config.Settings.Encoding = withNoise(t, 4, 3, elements, 2, 1)
		w.server, w.restart = w.newServer(), restart
		w.mustSum(d)
		return w
	}
	calm, killed := run(false), run(true)
	if diff := cmp.Diff(calm.logOf(), killed.logOf()); diff != "" {
		t.Errorf("the logs differ: %.300s", diff)
	}
	// The sum is that of the integers, and noise of what was promised, or rather more.
	e := calm.config.Settings.Encoding
	sum := slices.Clone(calm.server.sum)
	for i := range calm.keys {
		if i == 1 {
			continue
		}
		v, err := e.encode(calm.values[i], 1, streamOf(calm.clients[i].state.entropy[:], "rounding"))
		if err != nil {
			t.Fatal(err)
		}
		for k, x := range v {
			sum[k] -= x
		}
	}
	var squares float64
	for _, x := range sum[1:] {
		squares += float64(int32(x)) * float64(int32(x))
	}
	found, want := math.Sqrt(squares/elements), float64(e.Bound)
	if found < want*0.95 || found > want*1.05 || sum[0] != 0 {
		t.Errorf("expected noise of %v, found %v, and %d on the weight", want, found, sum[0])
	}
}

// The client in clients/python clips, rounds and adds noise as this one does, and refuses
// what it refuses.
func TestPythonNoise(t *testing.T) {
	type vector struct {
		Settings string    `json:"settings"`
		Bound    uint32    `json:"bound"`
		Sigma    uint32    `json:"sigma"`
		Norm     float64   `json:"norm"`
		Values   []float32 `json:"values"`
		Exact    []float64 `json:"exact"`
	}
	in := struct {
		Cases   []vector          `json:"cases"`
		Refused map[string]string `json:"refused"`
	}{Refused: map[string]string{}}
	s := newWorld(t, 4, 5).config.Settings
	for _, values := range [][]float32{{0, 0, 0}, {0.3, -0.2, 0.1}, {3e5, -2e5, 1}, slices.Repeat([]float32{-0.7, 1e-3}, 200)} {
		for _, norm := range []float64{0.5, 10} {
			s.Encoding, s.Elements = withNoise(t, 4, 3, uint32(len(values)), norm, 1.5), uint32(len(values))
			v := vector{hex.EncodeToString(s.append(nil)), s.Bound, s.Sigma, norm, values, nil}
			clipped := slices.Clone(values)
			d := privacy.Clip(clipped, make([]float32, len(values)), norm)
			for _, x := range values {
				v.Exact = append(v.Exact, float64(x)*min(1, norm/max(d, 1e-9))*s.Scale(s.Elements))
			}
			in.Cases = append(in.Cases, v)
		}
	}
	for name, change := range badNoise() {
		bad := s
		if change(&bad); bad.Bits == 0 {
			in.Refused[name] = hex.EncodeToString(bad.append(nil))
		}
	}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	client, err := filepath.Abs("../../../clients/python")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), servertest.Python(t), "noise.py")
	cmd.Dir, cmd.Env, cmd.Stdin = "testdata", append(cmd.Environ(), "PYTHONPATH="+client, "PYTHONDONTWRITEBYTECODE=1"), bytes.NewReader(text)
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "8 vectors, 8 refused\n" {
		t.Errorf("%v: %s", err, out)
	}
}
