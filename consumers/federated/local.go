package federated

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"

	"penstock/consumers"
	"penstock/consumers/federated/privacy"
)

// LocalPrivacy is differential privacy by a client itself, which then has to trust nobody:
// each update is clipped to a distance from its model and gets Gaussian noise before it is
// sent. What it hides is which update it was: any two that a client might send are up to
// twice the distance apart, so that it costs what half the noise costs under central
// privacy, and each update costs it anew.
type LocalPrivacy struct {
	Clip  float64 // the distance
	Noise float64 // each number gets noise of the deviation Noise·Clip
	// Epsilon is the budget at Delta: the client stops before the update that would take
	// more. 0 is no bound.
	Epsilon, Delta float64
	// Ledger is the file in which updates are counted, those of all trainings to which it
	// was given; it is made if it is not there. Processes may share it: who writes to it
	// holds the lock of the file beside it whose name ends in .lock.
	Ledger string
	// OnSpent is called with the epsilon of all updates in the ledger; nil is nobody.
	OnSpent func(m Model, epsilon float64)
}

// ledger is how many updates were made with a noise, by its multiplier in text.
type ledger struct {
	Updates map[string]int `json:"updates"`
}

func (p *LocalPrivacy) read() (l ledger, spent []privacy.Rounds, err error) {
	l.Updates = map[string]int{}
	text, err := os.ReadFile(p.Ledger)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &l)
	}
	if err != nil {
		return l, nil, fmt.Errorf("read ledger of updates: %s: %w", p.Ledger, err)
	}
	for noise, count := range l.Updates {
		z, err := strconv.ParseFloat(noise, 64)
		if err != nil || !(z > 0) || count < 0 {
			return l, nil, fmt.Errorf("%s: at /updates: expected multipliers above 0 and counts, found %q: %d", p.Ledger, noise, count)
		}
		spent = append(spent, privacy.Rounds{Count: count, Sigma: z / 2, Rate: 1})
	}
	return l, spent, nil
}

// next is the ledger with an update more, and the epsilon of that. The error wraps
// privacy.ErrSpent if the budget has no room for it.
func (p *LocalPrivacy) next() (l ledger, epsilon float64, err error) {
	l, spent, err := p.read()
	if err != nil {
		return l, 0, err
	}
	one := privacy.Rounds{Count: 1, Sigma: p.Noise / 2, Rate: 1}
	budget := privacy.Budget{Epsilon: p.Epsilon, Delta: p.Delta}
	if p.Epsilon == 0 {
		budget.Epsilon = math.Inf(1)
	}
	if err := budget.Admit(spent, one); err != nil {
		return l, 0, err
	}
	if l.Updates == nil {
		l.Updates = map[string]int{}
	}
	l.Updates[strconv.FormatFloat(p.Noise, 'g', -1, 64)]++
	epsilon, err = privacy.RDP(append(spent, one), p.Delta)
	return l, epsilon, err
}

// count writes one more update to the ledger, which others may have written to since,
// and returns the epsilon of all.
func (p *LocalPrivacy) count() (epsilon float64, err error) {
	fail := func(err error) (float64, error) { return 0, fmt.Errorf("write ledger of updates: %w", err) }
	unlock, err := lockFile(p.Ledger + ".lock")
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	l, epsilon, err := p.next()
	if err != nil {
		return 0, fmt.Errorf("%w: %w", consumers.ErrStop, err)
	}
	text, err := json.Marshal(l)
	if err != nil {
		return fail(err)
	}
	if err := writeFile(p.Ledger, text); err != nil {
		return fail(err)
	}
	return epsilon, nil
}

// Protect is train with what it returns made private: it counts in the ledger before it is
// returned. Nothing is said of how many examples it is of, nor of their loss. Its error
// says what keeps p from being a promise.
func (p LocalPrivacy) Protect(train func(context.Context, Model) (Trained, error)) (func(context.Context, Model) (Trained, error), error) {
	if !(p.Clip > 0 && p.Clip < 1e30) || p.Ledger == "" || !(p.Epsilon >= 0) {
		return nil, fmt.Errorf("expected a distance to clip to above 0, an epsilon of 0 or more, and a file for the ledger, found %v, %v and %q", p.Clip, p.Epsilon, p.Ledger)
	}
	if _, _, err := p.next(); err != nil && !errors.Is(err, privacy.ErrSpent) {
		return nil, err
	}
	return func(ctx context.Context, m Model) (Trained, error) {
		if _, _, err := p.next(); err != nil {
			return Trained{}, fmt.Errorf("%w: %w", consumers.ErrStop, err)
		}
		t, err := train(ctx, m)
		if err != nil {
			return t, err
		}
		if t.Parameters, err = p.blur(t.Parameters, m.Parameters); err != nil {
			return t, fmt.Errorf("%w: %w", consumers.ErrStop, err)
		}
		epsilon, err := p.count()
		if err != nil {
			return Trained{}, err
		}
		if p.OnSpent != nil {
			p.OnSpent(m, epsilon)
		}
		return Trained{Parameters: t.Parameters, Samples: 1}, nil
	}, nil
}

// blur are the parameters clipped and with noise.
func (p *LocalPrivacy) blur(parameters, base []Tensor) (out []Tensor, err error) {
	if err := sameShape(parameters, base); err != nil {
		return nil, err
	}
	moved := make([]float32, 0, elements(base))
	for i, t := range parameters {
		for k, v := range t.Values {
			moved = append(moved, v-base[i].Values[k])
		}
	}
	if d := privacy.Clip(moved, make([]float32, len(moved)), p.Clip); !finite(d) {
		return nil, fmt.Errorf("%w of the update, found one among them that is not", errNotFinite)
	}
	noisy := make([]float64, len(moved))
	for i, v := range moved {
		noisy[i] = float64(v)
	}
	if err := privacy.Noise(rand.Reader, noisy, p.Noise*p.Clip); err != nil {
		return nil, err
	}
	for _, t := range base {
		values := make([]float32, len(t.Values))
		for k, v := range t.Values {
			values[k] = float32(float64(v) + noisy[k])
		}
		noisy = noisy[len(values):]
		out = append(out, Tensor{Name: t.Name, Shape: t.Shape, Values: values})
	}
	return out, nil
}
