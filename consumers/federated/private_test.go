package federated

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"penstock/consumers/federated/kernels"
	"penstock/consumers/federated/strategies"
)

// private is a training of 3 clients whose model has n parameters.
func private(t *testing.T, n int, rounds int64, p Privacy, key *NoiseKey) *hall {
	t.Helper()
	return newHall(t, 3, rounds, func(c *Config) {
		c.Initial = []Tensor{{Name: "w", Shape: []int{n}, Values: make([]float32, n)}}
		c.Privacy, c.NoiseKey = &p, key
	})
}

// all has every client answer, in an order, and returns what comes of it.
func (h *hall) all(order ...string) Model {
	h.t.Helper()
	m := h.a.Model()
	for _, c := range order {
		if err := h.send(c, m); err != nil && !errors.Is(err, ErrFinished) {
			h.t.Fatal(err)
		}
	}
	return h.a.Model()
}

// again makes next from base, as verify does.
func (h *hall) again(base, next Model, key *NoiseKey) error {
	h.t.Helper()
	return Recompute(base, next, key, func(c Contribution) (Update, error) { return updateOf(c.Client, base), nil })
}

// Each update weighs the same and goes at most a distance, whatever its client says.
func TestPrivacyClipsAndWeighsAlike(t *testing.T) {
	h := private(t, 4, 9, Privacy{Clip: 2, Quantile: 0.5, Rate: 0.2, CountSD: 1}, nil)
	first := h.a.Model()
	m := h.all("c0", "c1", "c2")
	want := make([]float64, 4)
	whole := 0
	for _, c := range first.Clients {
		x := flat(updateOf(c, first).Parameters)
		d := kernels.Distance(x, make([]float32, 4))
		if d <= 2 {
			whole++
		}
		for i, v := range x {
			want[i] += float64(v) * min(1, 2/d) / 3
		}
	}
	if whole == 0 || whole == 3 {
		t.Fatalf("%d updates are whole: this tests nothing", whole)
	}
	for i, v := range flat(m.Parameters) {
		if math.Abs(float64(v)-want[i]) > 1e-6 {
			t.Errorf("parameter %d is %v, want %v", i, v, want[i])
		}
	}
	for _, c := range m.Contributions {
		if c.Samples != 1 || c.Norm != 0 {
			t.Errorf("the model tells on client %q: %+v", c.Client, c)
		}
	}
	if clip := 2 * math.Exp(-0.2*(float64(whole)/3-0.5)); math.Abs(m.Privacy.Clip-clip) > 1e-12 {
		t.Errorf("clips at %v in the next round, want %v", m.Privacy.Clip, clip)
	}
	if err := h.again(first, m, nil); err != nil {
		t.Error(err)
	}
}

// A record may be folded again when the broker brings it again: clipping leaves alone what
// lies in it.
func TestClippingLeavesTheRecordAlone(t *testing.T) {
	base := someModel(0)
	base.Privacy = &Privacy{Clip: 1e-3}
	u := updateOf("c1", base)
	want := slices.Clone(flat(u.Parameters))
	if err := new(partial).add(strategies.FedAvg{}, base, flat(base.Parameters), arrival{Update: u}); err != nil {
		t.Fatal(err)
	}
	if got := flat(u.Parameters); !slices.Equal(got, want) {
		t.Errorf("expected %v, found %v", want, got)
	}
}

// Noise is as strong as it says, other for another sum, and the same for whoever makes
// a model again with the key.
func TestNoiseIsMadeAgainByItsKey(t *testing.T) {
	const n = 20_000
	key := &NoiseKey{1, 2, 3}
	settings := Privacy{Clip: 0.5, Noise: 2, Delta: 1e-5}
	h := private(t, n, 9, settings, key)
	first := h.a.Model()
	m := h.all("c2", "c0", "c1")
	if other := private(t, n, 9, settings, key).all("c0", "c1", "c2"); other.Hash != m.Hash {
		t.Error("the same updates and key make another model")
	}
	if other := private(t, n, 9, settings, &NoiseKey{3, 2, 1}).all("c0", "c1", "c2"); other.Hash == m.Hash {
		t.Error("another key makes the same model")
	}
	settings.Noise = 0
	plain := private(t, n, 9, settings, nil).all("c0", "c1", "c2")
	noise := func(a, b Model) (out []float64) {
		for i, v := range flat(a.Parameters) {
			out = append(out, float64(v)-float64(flat(b.Parameters)[i]))
		}
		return out
	}
	deviation := func(noise []float64) float64 {
		var squares float64
		for _, d := range noise {
			squares += d * d
		}
		return math.Sqrt(squares / n)
	}
	one := noise(m, plain)
	if sd, want := deviation(one), 2*0.5/3; math.Abs(sd/want-1) > 0.03 {
		t.Errorf("noise of deviation %v, want %v", sd, want)
	}
	// The noise of the next round is another: their difference has √2 of the deviation.
	second := h.all("c0", "c1", "c2")
	for i, d := range noise(second, m) {
		one[i] -= d
	}
	if sd := deviation(one); sd < 0.4 {
		t.Errorf("two rounds' noise differs by %v only", sd)
	}

	if err := errors.Join(h.again(first, m, key), h.again(m, second, key)); err != nil {
		t.Error(err)
	}
	for _, key := range []*NoiseKey{nil, {9}} {
		if err := h.again(first, m, key); !errors.Is(err, ErrNoiseKey) {
			t.Errorf("got %v, want %v", err, ErrNoiseKey)
		}
	}
	forged := m
	p := *m.Privacy
	p.Spent /= 2
	forged.Privacy = &p
	if err := h.again(first, forged, key); err == nil || !strings.Contains(err.Error(), "says of privacy") {
		t.Errorf("got %v", err)
	}
	// An aggregator with another key would publish what nobody can verify.
	h.config.NoiseKey = &NoiseKey{9}
	if _, err := Open(t.Context(), h.config); err == nil || !strings.Contains(err.Error(), "or its noise key") {
		t.Errorf("got %v", err)
	}
}

// Two sums of one round, as two decisions about it give, do not share their noise: the
// difference of the models would be that of the updates.
func TestNoiseBelongsToItsSum(t *testing.T) {
	key := &NoiseKey{1}
	p := &Privacy{Clip: 1, Noise: 1, Delta: 1e-5, Key: key.id()}
	noisy := func(first float64) float64 {
		sum := []float64{first, 0, 0, 0}
		if _, err := p.apply(Model{}, sum, 3, 2, key); err != nil {
			t.Fatal(err)
		}
		return sum[3]
	}
	if noisy(0) != noisy(0) {
		t.Error("one sum gets different noise")
	}
	if noisy(0) == noisy(1) {
		t.Error("two sums get the same noise")
	}
}

// A training ends before the round that would take more than the budget, for good.
func TestASpentBudgetEndsTheTraining(t *testing.T) {
	key := &NoiseKey{7}
	h := private(t, 2, 9, Privacy{Clip: 1, Noise: 2, Quantile: 0.5, Rate: 0.2, CountSD: 2, Epsilon: 4, Delta: 1e-5}, key)
	var models []Model
	for m := h.a.Model(); ; m = h.all("c0", "c1", "c2") {
		if models = append(models, m); m.Final() {
			break
		}
	}
	last := models[len(models)-1]
	if last.Round < 2 || last.Round > 5 || last.Rounds != last.Round || !strings.Contains(last.Aborted, "budget is 4") || last.Privacy.Rounds != last.Round || !(last.Privacy.Spent > 3 && last.Privacy.Spent <= 4) {
		t.Fatalf("ended with %+v, privacy %+v", last, last.Privacy)
	}
	for i := range models[1:] {
		if err := h.again(models[i], models[i+1], key); err != nil {
			t.Error(err)
		}
	}
	a := open(t, h.config)
	if _, err := a.Assigned(t.Context(), nil); !errors.Is(err, ErrFinished) {
		t.Errorf("it goes on after a start: %v", err)
	}
	more := *h.config.Privacy
	more.Epsilon = 100
	h.config.Privacy = &more
	if _, err := Open(t.Context(), h.config); err == nil || !strings.Contains(err.Error(), "another training") {
		t.Errorf("a budget can be raised afterwards: %v", err)
	}
}

func TestPrivacyThatWouldPromiseTooMuch(t *testing.T) {
	f := func(want string, change func(c *Config, p *Privacy)) {
		t.Helper()
		c := newTraining(t, 5, 1).config
		p := Privacy{Clip: 1, Noise: 1, Quantile: 0.5, Rate: 0.2, CountSD: 1, Epsilon: 100, Delta: 1e-5}
		c.NoiseKey, c.Privacy = &NoiseKey{1}, &p
		change(&c, &p)
		if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f("distance to clip to above 0", func(_ *Config, p *Privacy) { p.Clip = 0 })
	f("the budget is 1", func(_ *Config, p *Privacy) { p.Epsilon = 1 })
	f("a delta between 0 and 1", func(_ *Config, p *Privacy) { p.Delta, p.Epsilon = 0, 0 })
	f("a quantile between 0 and 1", func(_ *Config, p *Privacy) { p.Quantile = 1 })
	f("a count with noise above 0.5", func(_ *Config, p *Privacy) { p.CountSD = 0.4 })
	f("noise needs a noise key", func(c *Config, _ *Privacy) { c.NoiseKey = nil })
	f("a budget needs noise", func(_ *Config, p *Privacy) { p.Noise = 0 })
	for _, s := range []string{"qfedavg", "fednova", "scaffold:rate=1,clients=5", "median", "krum:byzantine=1"} {
		f("of the mean alone", func(c *Config, _ *Privacy) { c.Strategy = s })
	}
}

// What a model says of privacy is read as it was written.
func TestPrivacyOnTheLog(t *testing.T) {
	h := private(t, 2, 9, Privacy{Clip: 1, Noise: 2, Epsilon: 40, Delta: 1e-5}, &NoiseKey{7})
	want := h.all("c0", "c1", "c2")
	models := h.models()
	if got := models[1]; *got.Privacy != *want.Privacy || !slices.Equal(got.Sample, want.Sample) {
		t.Errorf("got %+v, want %+v", got.Privacy, want.Privacy)
	}
	v := want.Privacy.value().(map[string]any)
	v["spent"] = math.NaN()
	if _, err := readPrivacy(v); err == nil || !strings.Contains(err.Error(), "at /privacy/spent") {
		t.Errorf("got %v", err)
	}
}
