package federated

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"penstock/consumers"
	"penstock/consumers/federated/privacy"
	"penstock/servertest"
)

// flatModel has n parameters of 3.
func flatModel(n int) Model {
	values := make([]float32, n)
	for i := range values {
		values[i] = 3
	}
	p := []Tensor{{Name: "w", Shape: []int{n}, Values: values}}
	return Model{Round: 1, Rounds: 9, Hash: hashOf(p), Clients: []string{"c0"}, Parameters: p}
}

// moving trains by moving each parameter as far, which is called often.
func moving(by float32, calls *int) func(context.Context, Model) (Trained, error) {
	return func(_ context.Context, m Model) (Trained, error) {
		*calls++
		var out []Tensor
		for _, t := range m.Parameters {
			values := make([]float32, len(t.Values))
			for i, v := range t.Values {
				values[i] = v + by
			}
			out = append(out, Tensor{Name: t.Name, Shape: t.Shape, Values: values})
		}
		return Trained{Parameters: out, Samples: 77, Loss: 2, Steps: 5}, nil
	}
}

// An update goes no further than the distance, has the noise it says, and tells neither
// examples nor loss.
func TestLocalPrivacy(t *testing.T) {
	const n = 40_000
	calls := 0
	p := LocalPrivacy{Clip: 2, Noise: 3, Delta: 1e-5, Ledger: filepath.Join(t.TempDir(), "ledger")}
	train, err := p.Protect(moving(100, &calls))
	if err != nil {
		t.Fatal(err)
	}
	m := flatModel(n)
	got, err := train(t.Context(), m)
	if err != nil || got.Samples != 1 || got.Loss != 0 || got.Steps != 0 {
		t.Fatalf("it says %d samples, loss %v, %d steps, %v", got.Samples, got.Loss, got.Steps, err)
	}
	again, err := train(t.Context(), m)
	if err != nil || hashOf(again.Parameters) == hashOf(got.Parameters) {
		t.Errorf("the same noise twice, %v", err)
	}
	var sum, squares float64
	for _, v := range got.Parameters[0].Values {
		moved := float64(v) - 3 - 2/math.Sqrt(n)
		sum, squares = sum+moved, squares+moved*moved
	}
	// Each is off by seven of its standard deviations once in 10^11 runs.
	if math.Abs(sum/n) > 7*6/math.Sqrt(n) || math.Abs(squares/n/36-1) > 7*math.Sqrt(2.0/n) {
		t.Errorf("noise of mean %v and deviation %v, want 0 and 6", sum/n, math.Sqrt(squares/n))
	}
}

// Processes that share a ledger count each update, in Go and in Python, and what one has
// spent is spent for the others.
func TestLedgerIsShared(t *testing.T) {
	p := LocalPrivacy{Clip: 2, Noise: 6, Delta: 1e-5, Ledger: filepath.Join(t.TempDir(), "ledger")}
	ended := make(chan error)
	const processes, updates = 4, 15
	for range processes {
		go func() {
			for range updates {
				calls := 0
				train, err := p.Protect(moving(1, &calls))
				if err == nil {
					_, err = train(t.Context(), flatModel(2))
				}
				if err != nil {
					ended <- err
					return
				}
			}
			ended <- nil
		}()
	}
	python(t, fmt.Sprintf(`
import numpy as np
from penstock import LocalPrivacy, Model
model = Model(1, 9, bytes(32), ["ann"], "fedavg", {"w": np.ones(2, "<f4")})
for _ in range(%d):
    LocalPrivacy(2, 6, %q).protect(model, model.parameters)
`, updates, p.Ledger), nil)
	for range processes {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	calls := 0
	count := func() int {
		t.Helper()
		_, spent, err := p.read()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, s := range spent { // Python writes 6.0
			n += s.Count
		}
		return n
	}
	if n := count(); n != (processes+1)*updates {
		t.Errorf("the ledger has %d updates, want %d", n, (processes+1)*updates)
	}

	// The budget has room for one more, which another process takes meanwhile.
	epsilon, err := privacy.RDP([]privacy.Rounds{{Count: count() + 1, Sigma: 3, Rate: 1}}, p.Delta)
	if err != nil {
		t.Fatal(err)
	}
	p.Epsilon = epsilon + 1e-9
	train, err := p.Protect(func(ctx context.Context, m Model) (Trained, error) {
		if _, err := p.count(); err != nil {
			t.Error(err)
		}
		return moving(1, &calls)(ctx, m)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := train(t.Context(), flatModel(2)); !errors.Is(err, privacy.ErrSpent) || !errors.Is(err, consumers.ErrStop) || calls != 1 {
		t.Errorf("an update beyond the budget: %v", err)
	}
	if n := count(); n != (processes+1)*updates+1 {
		t.Errorf("the ledger has %d updates, and one more was made", n)
	}
}

// Updates are paid for by what two of them may differ, over every start and every noise,
// and none is made beyond the budget.
func TestLocalBudget(t *testing.T) {
	bill := func(rounds ...privacy.Rounds) float64 {
		t.Helper()
		e, err := privacy.RDP(rounds, 1e-5)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	var spent float64
	calls := 0
	p := LocalPrivacy{Clip: 2, Noise: 6, Delta: 1e-5, Ledger: filepath.Join(t.TempDir(), "ledger"), OnSpent: func(_ Model, epsilon float64) { spent = epsilon }}
	p.Epsilon = bill(privacy.Rounds{Count: 2, Sigma: 3, Rate: 1}, privacy.Rounds{Count: 1, Sigma: 2, Rate: 1})
	update := func() error {
		t.Helper()
		train, err := p.Protect(moving(1, &calls)) // a start
		if err != nil {
			t.Fatal(err)
		}
		_, err = train(t.Context(), flatModel(2))
		return err
	}
	for i := range 2 {
		if err := update(); err != nil || spent != bill(privacy.Rounds{Count: i + 1, Sigma: 3, Rate: 1}) {
			t.Errorf("update %d: epsilon %v, %v", i+1, spent, err)
		}
	}
	p.Noise = 4
	if err := update(); err != nil || math.Abs(spent-p.Epsilon) > 1e-12 {
		t.Errorf("epsilon %v, want %v, %v", spent, p.Epsilon, err)
	}
	if err := update(); !errors.Is(err, privacy.ErrSpent) || !errors.Is(err, consumers.ErrStop) || calls != 3 {
		t.Errorf("trained %d times, %v", calls, err)
	}
	if text, err := os.ReadFile(p.Ledger); err != nil || string(text) != `{"updates":{"4":1,"6":2}}` {
		t.Errorf("the ledger has %s, %v", text, err)
	}
}

func TestLocalPrivacyRefused(t *testing.T) {
	calls := 0
	good := LocalPrivacy{Clip: 2, Noise: 3, Delta: 1e-5, Ledger: filepath.Join(t.TempDir(), "ledger")}
	for name, change := range map[string]func(*LocalPrivacy){
		"no distance":        func(p *LocalPrivacy) { p.Clip = 0 },
		"no noise":           func(p *LocalPrivacy) { p.Noise = 0 },
		"no delta":           func(p *LocalPrivacy) { p.Delta = 0 },
		"a negative epsilon": func(p *LocalPrivacy) { p.Epsilon = -1 },
		"no ledger":          func(p *LocalPrivacy) { p.Ledger = "" },
	} {
		p := good
		change(&p)
		if _, err := p.Protect(moving(1, &calls)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, text := range []string{"x", `{"updates":{"x":1}}`, `{"updates":{"-1":1}}`, `{"updates":{"1":-1}}`, `{"updates":{"1":1e9}}`} {
		if err := os.WriteFile(good.Ledger, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := good.Protect(moving(1, &calls)); err == nil {
			t.Errorf("a ledger of %s: accepted", text)
		}
	}
	if err := os.Remove(good.Ledger); err != nil {
		t.Fatal(err)
	}
	train, err := good.Protect(moving(float32(math.Inf(1)), &calls))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := train(t.Context(), flatModel(2)); !errors.Is(err, consumers.ErrStop) {
		t.Errorf("an infinite update: %v", err)
	}
	if _, err := os.Stat(good.Ledger); err == nil {
		t.Error("what was not sent was counted")
	}
}

// The client in Python bills alike, in the same ledger, and sends updates that went no
// further than the distance and have noise.
func TestPythonLocalPrivacy(t *testing.T) {
	const script = `
import json, math, os, sys
import numpy as np
from penstock import LocalPrivacy, Model, Spent, Training, federated
ledger, spent, budget = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
p = LocalPrivacy(2, 6, ledger, epsilon=budget)
assert abs(p.spent - spent) < 1e-9, (p.spent, spent)
n = 40_000
model = Model(1, 9, bytes(32), ["ann"], "fedavg", {"w": np.full((n // 2, 2), 3, "<f4")})
federated.open_broker = lambda *_, **__: None
t = Training("lab", "ann", broker="x", registry="x", privacy=p)
t._encode = lambda _, value: value
sent = []
t._persist = lambda do: do()
class Broker:
    def publish(self, topic, key, value): sent.append(value)
t._broker = Broker()
t.publish(model, {"w": model.parameters["w"] + 100}, 77, {"loss": 2, "steps": 5})
t.publish(model, {"w": model.parameters["w"] + 100}, 77)
assert sent[0] is sent[1] and (sent[0]["samples"], sent[0]["loss"], sent[0]["steps"]) == (1, 0, 0), sent[0]
noise = np.frombuffer(sent[0]["parameters"][0]["data"], "<f4") - 3 - 2 / math.sqrt(n)
assert abs(noise.mean()) < 7 * 12 / math.sqrt(n) and abs((noise**2).mean() / 144 - 1) < 7 * math.sqrt(2 / n), (noise.mean(), noise.std())
assert p.spent == LocalPrivacy(2, 6, ledger).spent and abs(p.spent - budget) < 1e-9, p.spent
for who, factor, error in ((p, 1, Spent), (LocalPrivacy(2, 6, ledger), np.inf, ValueError)):
    try:
        who.protect(model, {"w": model.parameters["w"] * factor})
        raise AssertionError("expected no update")
    except error: pass
print("ok")
`
	bill := func(count int) float64 {
		t.Helper()
		e, err := privacy.RDP([]privacy.Rounds{{Count: count, Sigma: 3, Rate: 1}}, 1e-5)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	calls := 0
	p := LocalPrivacy{Clip: 2, Noise: 6, Delta: 1e-5, Ledger: filepath.Join(t.TempDir(), "ledger")}
	train, err := p.Protect(moving(1, &calls))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := train(t.Context(), flatModel(2)); err != nil {
			t.Fatal(err)
		}
	}
	client, err := filepath.Abs("../../clients/python")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), servertest.Python(t), "-c", script, p.Ledger, fmt.Sprint(bill(2)), fmt.Sprint(bill(3)+1e-12))
	cmd.Env = append(cmd.Environ(), "PYTHONPATH="+client, "PYTHONDONTWRITEBYTECODE=1")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "ok\n" {
		t.Fatalf("%v: %s", err, out)
	}
	var spent float64
	p.OnSpent = func(_ Model, epsilon float64) { spent = epsilon }
	if train, err = p.Protect(moving(1, &calls)); err != nil {
		t.Fatal(err)
	}
	if _, err := train(t.Context(), flatModel(2)); err != nil || math.Abs(spent-bill(4)) > 1e-9 {
		t.Errorf("after Python's update: epsilon %v, want %v, %v", spent, bill(4), err)
	}
}
