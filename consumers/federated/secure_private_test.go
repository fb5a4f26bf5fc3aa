package federated

import (
	"errors"
	"math"
	"slices"
	"testing"
	"testing/synctest"

	"penstock/consumers/federated/privacy"
	"penstock/consumers/federated/secagg"
	"penstock/stream/memory"
)

// newPrivateTraining has clients that add noise, to a model of n parameters.
func newPrivateTraining(t *testing.T, n int, rounds int64, p Privacy) *secureTraining {
	t.Helper()
	s := newSecureTraining(t, 4, rounds)
	s.config.MaxWeight, s.config.Privacy = 1, &p
	s.config.Initial = []Tensor{{Name: "w", Shape: []int{n}, Values: make([]float32, n)}}
	return s
}

// result aggregates until the training ends.
func (s *secureTraining) result(dies func(string) int) Model {
	s.t.Helper()
	s.server("server", dies) // until it was not killed
	config := s.config
	config.SecureLog = s.log("server", nil)
	m, err := AggregateSecurely(s.ctx, config)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// billed is the epsilon of so many rounds.
func billed(t *testing.T, p Privacy, rounds int) float64 {
	t.Helper()
	epsilon, err := privacy.RDP([]privacy.Rounds{{Count: rounds, Sigma: p.Noise, Rate: 1}}, p.Delta)
	if err != nil {
		t.Fatal(err)
	}
	return epsilon
}

// The clients that stay, killed all the time as the server is, have the promised noise
// between them, each once, and each has moved the model by no more than the distance.
func TestSecurePrivacy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		p := Privacy{Clip: 0.5, Noise: 2, Delta: 1e-5}
		s := newPrivateTraining(t, n, 1, p)
		for _, name := range names(4, 1) {
			s.client(name, everyPublish())
		}
		s.client("c1", leaves("masked"))
		m := s.result(everyPublish())
		s.work.Wait()
		if len(m.Contributions) != 3 || m.Privacy.Shares != 3 || m.Privacy.Rounds != 1 || m.Privacy.Spent != billed(t, p, 1) {
			t.Fatalf("the model of %d clients has %+v", len(m.Contributions), m.Privacy)
		}
		noise := make([]float64, n)
		for k, v := range flat(m.Parameters) {
			noise[k] = 3 * float64(v)
		}
		for _, c := range m.Contributions {
			moved, base := make([]float32, n), make([]float32, n)
			for k := range moved {
				moved[k] = float32(moves(c.Client, 0, k))
			}
			privacy.Clip(moved, base, p.Clip)
			for k, v := range moved {
				noise[k] -= float64(v)
			}
		}
		var squares float64
		for _, v := range noise {
			squares += v * v
		}
		// It is off by seven standard deviations at 5 percent.
		if found, want := math.Sqrt(squares/n), p.Noise*p.Clip; math.Abs(found/want-1) > 0.05 {
			t.Errorf("expected noise of %v on the sum, found %v", want, found)
		}
	})
}

// A training ends before the round that would take more than its budget, says why,
// lets its clients go, and stays at its end.
func TestASpentBudgetEndsTheSecureTraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := Privacy{Clip: 1, Noise: 2, Delta: 1e-5}
		p.Epsilon = billed(t, p, 2)
		s := newPrivateTraining(t, 5, 4, p)
		for name := range s.keys {
			s.client(name, nil)
		}
		m := s.result(nil)
		s.work.Wait()
		if m.Round != 2 || !m.Final() || m.Aborted == "" || m.Privacy.Spent != p.Epsilon {
			t.Errorf("it ends with round %d of %d, %q, and %+v", m.Round, m.Rounds, m.Aborted, m.Privacy)
		}
		if epsilon, err := m.Privacy.Tight(); epsilon != 0 || err != nil {
			t.Errorf("its noise is taken for Gaussian: %v, %v", epsilon, err)
		}
		ends := len(recordsOf(t, s.broker, "lab.control"))
		if again := s.result(nil); again.Hash != m.Hash || len(recordsOf(t, s.broker, "lab.control")) != ends {
			t.Error("it goes on after its end")
		}
	})
}

// What clients gave of an attempt at its end may tell its sum, although there is no
// model of it: it has to be paid for.
func TestAGivenUpAttemptCosts(t *testing.T) {
	for _, rounds := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			p := Privacy{Clip: 1, Noise: 2, Delta: 1e-5}
			p.Epsilon = billed(t, p, rounds)
			s := newPrivateTraining(t, 5, 1, p)
			s.client("c0", nil)
			s.client("c1", nil)
			s.client("c2", leaves("unmask"))
			s.client("c3", leaves("unmask"))
			s.work.Go(func() { s.server("server", nil) })
			s.untilAbort()
			s.client("c2", nil)
			s.work.Wait()
			m := s.result(nil)
			if m.Privacy.Rounds != int64(rounds) || m.Privacy.Spent != p.Epsilon || m.Round != int64(rounds-1) || !m.Final() {
				t.Errorf("with a budget of %d sums it ends with round %d, %q, and %+v", rounds, m.Round, m.Aborted, m.Privacy)
			}
		})
	}
}

func TestSecurePrivacyRefused(t *testing.T) {
	good := newPrivateTraining(t, 5, 1, Privacy{Clip: 1, Noise: 2, Epsilon: 4, Delta: 1e-5})
	good.config.SecureLog = good.log("g", nil)
	for name, change := range map[string]func(*SecureConfig){
		"weights":           func(c *SecureConfig) { c.MaxWeight = 2 },
		"many colluders":    func(c *SecureConfig) { c.Colluders = 2 },
		"a colluder less":   func(c *SecureConfig) { c.Colluders = -1 },
		"no noise":          func(c *SecureConfig) { c.Privacy.Noise = 0 },
		"a budget for none": func(c *SecureConfig) { c.Privacy.Epsilon = 0.1 },
		"a quantile":        func(c *SecureConfig) { c.Privacy.Quantile, c.Privacy.Rate, c.Privacy.CountSD = 0.5, 0.2, 9 },
		"no distance":       func(c *SecureConfig) { c.Privacy.Clip = 0 },
		"no delta":          func(c *SecureConfig) { c.Privacy.Delta = 0 },
		"endless noise":     func(c *SecureConfig) { c.Privacy.Noise = 1e9 },
	} {
		c, p := good.config, *good.config.Privacy
		c.Privacy = &p
		change(&c)
		if _, err := newSecureServer(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// With a colluder two have to have the noise of three.
	sigma := func(colluders int) uint32 {
		c := good.config
		c.Colluders = colluders
		s, err := newSecureServer(c)
		if err != nil {
			t.Fatal(err)
		}
		return s.settings.Sigma
	}
	if ratio := float64(sigma(1)) / float64(sigma(0)); math.Abs(ratio-math.Sqrt(1.5)) > 1e-4 {
		t.Errorf("a colluder makes shares %v times as large", ratio)
	}
}

// A client takes no part in a round that keeps less than its model says.
func TestSecureClientChecksItsNoise(t *testing.T) {
	config := newPrivateTraining(t, 5, 1, Privacy{Clip: 1, Noise: 2, Delta: 1e-5}).config
	config.SecureLog = SecureLog{Training: "lab", Models: "models", Group: "g", Broker: memory.New(), Registry: secureRegistry{}, Publisher: &process{}}
	s, err := newSecureServer(config)
	if err != nil {
		t.Fatal(err)
	}
	model := Model{Rounds: 1, Hash: hashOf(s.Initial), Parameters: s.Initial}
	read := func(change func(*Privacy, *secagg.Settings)) error {
		t.Helper()
		asked, says := *s, *s.Privacy
		change(&says, &asked.settings)
		model := model
		model.Privacy = &says
		server, err := asked.attempt(model, 0)
		if err != nil {
			t.Fatal(err)
		}
		open, err := server.Next()
		if err != nil {
			t.Fatal(err)
		}
		c := &secureClient{base: model, attempt: open}
		c.machine, _, err = secagg.Join(secagg.ClientConfig{Training: "lab", Name: "c0", Key: testKey("c0"), Server: s.public(), Trusted: s.Clients}, open, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.read(t.Context())
	}
	if err := read(func(*Privacy, *secagg.Settings) {}); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Privacy, *secagg.Settings){
		"less noise":        func(_ *Privacy, s *secagg.Settings) { s.Sigma-- },
		"another norm":      func(_ *Privacy, s *secagg.Settings) { s.Clip = 2 },
		"no noise":          func(_ *Privacy, s *secagg.Settings) { s.Encoding = secagg.Encoding{Bits: 8, Clip: 1, MaxWeight: 1} },
		"clients that left": func(p *Privacy, _ *secagg.Settings) { p.Shares++ },
	} {
		var refused *secagg.Refusal
		if err := read(change); !errors.As(err, &refused) || refused.Reason != secagg.BadSettings {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Clients learn although what each says is lost in noise: an untrained model is right
// about a tenth.
func TestPrivateSumsTeach(t *testing.T) {
	all := digits(t)
	test, rest := all[:397], all[397:]
	synctest.Test(t, func(t *testing.T) {
		const clients = 8
		s := newSecureTraining(t, clients, 4)
		s.config.MaxWeight, s.config.Initial = 1, NewSoftmax(64, 10)
		s.config.Privacy = &Privacy{Clip: 1, Noise: 0.3, Delta: 1e-5}
		s.train = func(client string, m Model) (Trained, error) {
			var own []Example
			for i := slices.Index(names(clients), client); i < len(rest); i += clients {
				own = append(own, rest[i])
			}
			return SGD{Epochs: 5, Batch: 10, Rate: 0.3, Seed: uint64(m.Round)}.Answer(m, own)
		}
		for name := range s.keys {
			s.client(name, nil)
		}
		m := s.result(nil)
		s.work.Wait()
		accuracy, err := Accuracy(m.Parameters, test)
		if err != nil || accuracy < 0.4 {
			t.Errorf("accuracy %v with epsilon %v, %v", accuracy, m.Privacy.Spent, err)
		}
	})
}
