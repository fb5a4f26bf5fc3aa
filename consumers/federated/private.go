package federated

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"penstock/consumers/federated/privacy"
	"penstock/consumers/federated/secagg"
	"penstock/consumers/federated/strategies"
)

// Privacy is differential privacy: updates are clipped to a distance from
// their model and weigh the same, and their sum gets Gaussian noise. What it hides
// is what a client's update says, not that the client took part; and it hides it
// from those who read models, not from those who read updates. Under secure
// aggregation nobody can do that.
type Privacy struct {
	Clip  float64 // the distance to which updates of the round are clipped
	Noise float64 // the noise multiplier: what a sum gets has the deviation Noise·Clip
	// Quantile is the share of updates that are to stay whole: Clip follows it from
	// round to round (Andrew et al., 2021). 0 leaves Clip as it is.
	Quantile float64
	Rate     float64 // how fast Clip follows
	CountSD  float64 // the deviation of the noise on the count of those that stayed whole
	// Epsilon is the budget at Delta: a training ends before the round that would
	// take more. 0 is no bound.
	Epsilon, Delta float64

	// Spent is the epsilon that the rounds so far took, and Rounds how many those were.
	Spent  float64
	Rounds int64
	// Key says by which noise key the models are made, and does not tell it.
	Key Hash
	// Shares is how many clients have that noise between them, under secure aggregation,
	// where each adds its own and the aggregator none: there is no key, and the sum has
	// more noise the more clients stay. 0 is central privacy.
	Shares int64
}

// A NoiseKey is the secret from which noise is made: 32 random bytes. Noise is a
// function of the key and of the sum that gets it, as the nonces of deterministic
// signatures are: another sum gets other noise, an aggregator that is killed and
// started again makes the same model, and whoever has the key can verify one.
// Nobody else can tell it from true noise.
type NoiseKey [32]byte

// id commits to the key.
func (k *NoiseKey) id() Hash { return k.derive("id", nil) }

func (k *NoiseKey) derive(label string, text []byte) (h Hash) {
	mac := hmac.New(sha256.New, k[:])
	_, _ = io.WriteString(mac, "penstock federated "+label+"\x00") // a hash takes every write
	_, _ = mac.Write(text)
	mac.Sum(h[:0])
	return h
}

// source is the randomness for what text says in full.
func (k *NoiseKey) source(label string, text []byte) (io.Reader, error) {
	seed := k.derive(label, text)
	block, err := aes.NewCipher(seed[:])
	if err != nil {
		return nil, err
	}
	return cipher.StreamReader{S: cipher.NewCTR(block, make([]byte, aes.BlockSize)), R: zeros{}}, nil
}

// zeros is an endless source of zero bytes.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// ErrNoiseKey marks a model that cannot be made again without its noise key.
var ErrNoiseKey = errors.New("the models have noise, and this is not the key that it was made by")

// check says what keeps p from being a promise.
func (p *Privacy) check(s strategies.Strategy, key *NoiseKey) error {
	positive := func(name string, v float64) error {
		if !(v > 0 && v < 1e30) {
			return fmt.Errorf("expected a %s above 0, found %v", name, v)
		}
		return nil
	}
	if err := positive("distance to clip to", p.Clip); err != nil {
		return err
	}
	if !weighsAlike(s) {
		return fmt.Errorf("privacy needs a strategy that makes the next model of the mean alone, as fedavg, fedavgm, fedadam and fedyogi do, found %s", s)
	}
	if p.Quantile != 0 {
		if err := errors.Join(positive("rate", p.Rate), positive("noise of the count", p.CountSD)); err != nil {
			return err
		}
		if !(p.Quantile > 0 && p.Quantile < 1) {
			return fmt.Errorf("expected a quantile between 0 and 1, found %v", p.Quantile)
		}
	}
	switch {
	case p.Shares > 0 && (p.Noise == 0 || p.Quantile != 0 || key != nil):
		return errors.New("privacy with secure aggregation needs noise, a fixed distance to clip to, and no noise key")
	case p.Noise == 0 && p.Epsilon != 0:
		return errors.New("a budget needs noise")
	case p.Noise == 0:
		return nil
	case p.Shares == 0 && (key == nil || *key == (NoiseKey{})):
		return errors.New("noise needs a noise key")
	}
	if p.Epsilon < 0 || math.IsNaN(p.Epsilon) {
		return fmt.Errorf("expected an epsilon above 0, found %v", p.Epsilon)
	}
	if _, err := p.sumNoise(); err != nil {
		return err
	}
	return p.admit()
}

// weighsAlike says that s makes the next model of nothing but the mean of updates.
func weighsAlike(s strategies.Strategy) bool {
	switch s.(type) {
	case strategies.FedAvg, *strategies.FedProx, *strategies.FedAvgM, *strategies.Adaptive:
		return true
	}
	return false
}

// admit says why another round would take more than the budget: the error wraps
// privacy.ErrSpent.
func (p *Privacy) admit() error {
	if p.Noise == 0 {
		return nil
	}
	budget := privacy.Budget{Epsilon: p.Epsilon, Delta: p.Delta}
	if p.Epsilon == 0 {
		budget.Epsilon = math.Inf(1)
	}
	return budget.Admit(nil, privacy.Rounds{Count: int(p.Rounds) + 1, Sigma: p.Noise, Rate: 1})
}

// Tight is the epsilon that the rounds so far took by privacy loss distributions: no more
// than Spent, which budgets go by, and a second's work. It is 0 without noise, and with
// noise of shares, whose bound is on Renyi divergence alone.
func (p *Privacy) Tight() (float64, error) {
	if p == nil || p.Noise == 0 || p.Rounds == 0 || p.Shares > 0 {
		return 0, nil
	}
	return privacy.PLD([]privacy.Rounds{{Count: int(p.Rounds), Sigma: p.Noise, Rate: 1}}, p.Delta)
}

// sumNoise is the deviation of the noise on the sum.
func (p *Privacy) sumNoise() (float64, error) {
	z := p.Noise
	if p.Quantile > 0 {
		var err error
		if z, err = privacy.CountNoise(p.Noise, p.CountSD); err != nil {
			return 0, err
		}
	}
	return z * p.Clip, nil
}

// apply adds noise to the sum of a round's updates, of which some stayed whole, and
// returns what holds for the next round. The noise of shares is in the sum already.
func (p *Privacy) apply(base Model, sum []float64, updates, whole int, key *NoiseKey) (*Privacy, error) {
	share := float64(whole)
	if p.Noise > 0 && p.Shares == 0 {
		var err error
		if share, err = p.blur(base, sum, whole, key); err != nil {
			return nil, err
		}
	}
	next, err := p.after(1)
	if err != nil {
		return nil, err
	}
	if p.Quantile > 0 {
		a := privacy.Adaptive{Norm: p.Clip, Rate: p.Rate, Quantile: p.Quantile}
		next.Clip = a.Next(share / float64(updates)).Norm
		// A count with noise far out of range must not end the training.
		next.Clip = min(max(next.Clip, p.Clip/8), p.Clip*8)
	}
	return next, nil
}

// after is p with so many more rounds spent.
func (p *Privacy) after(rounds int64) (_ *Privacy, err error) {
	next := *p
	next.Rounds += rounds
	if p.Noise > 0 {
		next.Spent, err = privacy.RDP([]privacy.Rounds{{Count: int(next.Rounds), Sigma: p.Noise, Rate: 1}}, p.Delta)
	}
	return &next, err
}

// blur adds noise to a sum, and returns how many stayed whole with noise on it.
func (p *Privacy) blur(base Model, sum []float64, whole int, key *NoiseKey) (float64, error) {
	if key == nil || key.id() != p.Key {
		return 0, ErrNoiseKey
	}
	sd, err := p.sumNoise()
	if err != nil {
		return 0, err
	}
	exact := sha256.New()
	var word [8]byte
	for _, v := range sum {
		binary.LittleEndian.PutUint64(word[:], math.Float64bits(v))
		_, _ = exact.Write(word[:])
	}
	text := exact.Sum(base.Hash[:])
	text = binary.LittleEndian.AppendUint64(text, uint64(base.Round))
	text = binary.LittleEndian.AppendUint64(text, uint64(whole))
	source, err := key.source("sum", text)
	if err != nil {
		return 0, err
	}
	if err := privacy.Noise(source, sum, sd); err != nil {
		return 0, err
	}
	count := []float64{float64(whole)}
	if p.Quantile > 0 {
		if source, err = key.source("count", text); err != nil {
			return 0, err
		}
		err = privacy.Noise(source, count, p.CountSD)
	}
	return count[0], err
}

// keptBy says why the settings of a round do not keep what p, in the round's model, bills.
func (p *Privacy) keptBy(s secagg.Settings) error {
	if p == nil || p.Shares == 0 {
		return nil
	}
	shares := privacy.Shares{Count: int(p.Shares), Sigma: s.Sigma, Bound: float64(s.Bound), Elements: int(s.Elements)}
	if s.Sigma == 0 || s.Clip != p.Clip || p.Shares > int64(s.Threshold) || shares.Multiplier() < p.Noise {
		return fmt.Errorf("expected updates clipped to %v and a noise multiplier of %v from %d shares, as the model says, found %+v of threshold %d", p.Clip, p.Noise, p.Shares, s.Encoding, s.Threshold)
	}
	return nil
}

// same says that p and q are settings of one training.
func (p *Privacy) same(q *Privacy) bool {
	if p == nil || q == nil {
		return p == q
	}
	a, b := *p, *q
	for _, x := range []*Privacy{&a, &b} {
		x.Spent, x.Rounds = 0, 0
		if x.Quantile > 0 {
			x.Clip = 0
		}
	}
	return a == b
}

// value is p as the schema of models has it.
func (p *Privacy) value() any {
	if p == nil {
		return nil
	}
	return map[string]any{
		"clip": p.Clip, "noise": p.Noise, "quantile": p.Quantile, "rate": p.Rate, "countSd": p.CountSD,
		"epsilon": p.Epsilon, "delta": p.Delta, "spent": p.Spent, "rounds": p.Rounds, "key": p.Key[:],
		"shares": p.Shares,
	}
}

func readPrivacy(v any) (*Privacy, error) {
	f, _ := v.(map[string]any)
	if f == nil {
		return nil, nil
	}
	p := &Privacy{}
	for name, to := range map[string]*float64{
		"clip": &p.Clip, "noise": &p.Noise, "quantile": &p.Quantile, "rate": &p.Rate, "countSd": &p.CountSD,
		"epsilon": &p.Epsilon, "delta": &p.Delta, "spent": &p.Spent,
	} {
		x, ok := f[name].(float64)
		if !ok || !finite(x) || x < 0 {
			return nil, fmt.Errorf("at /privacy/%s: expected a number of 0 or more, found %v", name, f[name])
		}
		*to = x
	}
	var ok1, ok2 bool
	p.Rounds, ok1 = f["rounds"].(int64)
	p.Key, ok2 = readHash(f["key"])
	p.Shares, _ = f["shares"].(int64) // models of earlier versions have none
	if !ok1 || !ok2 || p.Rounds < 0 || p.Rounds > 1e7 || p.Shares < 0 {
		return nil, errors.New("at /privacy: expected rounds, the hash of a key, and no fewer shares than 0")
	}
	return p, nil
}
