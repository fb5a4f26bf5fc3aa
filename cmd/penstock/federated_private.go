package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"penstock/consumers/federated"
)

// privacyFlags are those of differential privacy.
type privacyFlags struct {
	ClipNorm     float64 `group:"Privacy" placeholder:"NORM" help:"Clip updates to this distance from the model, and weigh all alike."`
	ClipQuantile float64 `group:"Privacy" placeholder:"0…1" help:"Let the distance follow this quantile of theirs, from round to round."`
	Noise        float64 `group:"Privacy" placeholder:"Z" help:"Add Gaussian noise of Z times the distance to their sum; with --secure, the clients do."`
	NoiseKey     string  `group:"Privacy" placeholder:"FILE" help:"The secret that noise is made from, for the aggregator and for verify; made if it is not there."`
	Epsilon      float64 `group:"Privacy" placeholder:"E" help:"End the training before it has spent more than this."`
	Delta        float64 `group:"Privacy" default:"1e-5" placeholder:"D" help:"The delta of that (default ${default})."`
}

// clipRate is how fast the distance follows its quantile: that of the paper.
const clipRate = 0.2

// settings are what the aggregator is told; nil is no privacy. In secure aggregation
// the clients add the noise.
func (f privacyFlags) settings(clients int, secure bool) (*federated.Privacy, *federated.NoiseKey, error) {
	if f.ClipNorm == 0 {
		if f.Noise != 0 || f.ClipQuantile != 0 || f.Epsilon != 0 || f.NoiseKey != "" {
			return nil, nil, usagef("--noise, --noise-key, --clip-quantile and --epsilon go with --clip-norm")
		}
		return nil, nil, nil
	}
	p := &federated.Privacy{Clip: f.ClipNorm, Noise: f.Noise, Epsilon: f.Epsilon, Delta: f.Delta}
	if secure {
		if f.Noise == 0 || f.NoiseKey != "" || f.ClipQuantile != 0 {
			return nil, nil, usagef("--clip-norm with --secure: expected --noise, which the clients add, and neither --noise-key nor --clip-quantile")
		}
		return p, nil, nil
	}
	if f.ClipQuantile != 0 {
		// A twentieth of the clients, as in the paper; few clients need no less
		// than what the noise on the sum can make up for.
		p.Quantile, p.Rate, p.CountSD = f.ClipQuantile, clipRate, max(float64(clients)/20, f.Noise)
		if p.CountSD == 0 {
			p.CountSD = 1
		}
	}
	if f.Noise == 0 {
		return p, nil, nil
	}
	if f.NoiseKey == "" {
		return nil, nil, usagef("--noise needs --noise-key FILE, which is made if it is not there: keep it, and from the clients too")
	}
	key, err := noiseKey(f.NoiseKey, true)
	return p, key, err
}

// trainer makes an update of a model.
type trainer = func(context.Context, federated.Model) (federated.Trained, error)

// localPrivacyFlags are those of a client that protects itself.
type localPrivacyFlags struct {
	ClipNorm float64 `group:"Privacy" placeholder:"NORM" help:"Clip each update to this distance from the model, and add noise to it before it is sent."`
	Noise    float64 `group:"Privacy" placeholder:"Z" help:"The deviation of the noise, in distances."`
	Epsilon  float64 `group:"Privacy" placeholder:"E" help:"Stop before more than this is spent."`
	Delta    float64 `group:"Privacy" default:"1e-5" placeholder:"D" help:"The delta of that (default ${default})."`
	Ledger   string  `group:"Privacy" placeholder:"FILE" help:"Where the updates that had noise are counted, over all trainings; made if it is not there."`
}

func (f localPrivacyFlags) given() bool {
	return f.ClipNorm != 0 || f.Noise != 0 || f.Epsilon != 0 || f.Ledger != ""
}

// protect is train with noise on what it returns, if the flags ask for it.
func (f localPrivacyFlags) protect(t *terminal, train trainer) (trainer, error) {
	if !f.given() {
		return train, nil
	}
	if f.ClipNorm == 0 || f.Noise == 0 || f.Ledger == "" {
		return nil, usagef("expected --clip-norm, --noise and --ledger together")
	}
	return federated.LocalPrivacy{
		Clip: f.ClipNorm, Noise: f.Noise, Epsilon: f.Epsilon, Delta: f.Delta, Ledger: f.Ledger,
		OnSpent: func(m federated.Model, epsilon float64) {
			t.notef("round %d of %d: epsilon %.4g spent at delta %g\n", m.Round, m.Rounds, epsilon, f.Delta)
		},
	}.Protect(train)
}

// noiseKey reads a key from a file, which it may make.
func noiseKey(file string, anew bool) (*federated.NoiseKey, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && anew {
		var key federated.NoiseKey
		if _, err := rand.Read(key[:]); err != nil {
			return nil, fmt.Errorf("make noise key: %w", err)
		}
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, fmt.Errorf("make noise key: %w", err)
		}
		_, err = fmt.Fprintln(f, hex.EncodeToString(key[:]))
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return nil, fmt.Errorf("make noise key: %w", err)
		}
		return &key, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read noise key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != len(federated.NoiseKey{}) {
		return nil, fmt.Errorf("%s: expected a noise key of 64 hexadecimal digits", file)
	}
	return (*federated.NoiseKey)(key), nil
}
