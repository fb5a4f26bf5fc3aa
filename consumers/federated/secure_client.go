package federated

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"penstock/consumers"
	"penstock/consumers/federated/secagg"
)

// SecureClientConfig says what a client of a secure training does.
type SecureClientConfig struct {
	SecureLog
	Name    string
	Key     ed25519.PrivateKey
	Server  ed25519.PublicKey
	Trusted []secagg.Participant // with whom the client is willing to take part
	// Folder is where the client keeps its state between a start and the next:
	// one file, with secrets, of its current attempt.
	Folder string
	// Train is ClientConfig.Train. Of what it returns, the parameters and the number of
	// samples count; samples above the training's MaxWeight count
	// as that.
	Train func(ctx context.Context, m Model) (Trained, error)
}

// secureClient takes part.
type secureClient struct {
	SecureClientConfig
	control, shares *tail
	machine         *secagg.Client // nil where this client sits out
	attempt         secagg.Message // the Open that machine has joined
	base            Model
}

// JoinSecurely takes part in a secure training until its last model is published.
// Before it sends anything it keeps what it takes to send the same again; so it
// may be killed at any instant, and goes on when it is run again. It returns
// ctx.Err() when ctx ends.
func JoinSecurely(ctx context.Context, config SecureClientConfig) (err error) {
	if err := config.check(); err != nil {
		return fmt.Errorf("join secure training: %w", err)
	}
	if config.Name == "" || config.Train == nil || config.Folder == "" || len(config.Key) != ed25519.PrivateKeySize || len(config.Server) != ed25519.PublicKeySize {
		return errors.New("join secure training: a name, a folder, a way to train, a key, and that of the server are needed")
	}
	if err := os.MkdirAll(config.Folder, 0o700); err != nil {
		return fmt.Errorf("join secure training: %w", err)
	}
	c := &secureClient{SecureClientConfig: config}
	if c.base, _, err = c.lastModel(ctx); err != nil {
		return fmt.Errorf("read last model: %w", err)
	}
	c.control = c.tail(secureTopic(c.Training, secagg.Open), c.base.Positions)
	c.shares = c.tail(secureTopic(c.Training, secagg.Shares), c.base.Positions)
	defer func() { err = errors.Join(err, c.control.close(), c.shares.close()) }()
	// What was answered long ago is not answered again: of all that is there, the
	// newest record is.
	if err := c.control.catchUp(ctx); err != nil {
		return err
	}
	for {
		m, err := c.control.pop(ctx)
		if err != nil {
			return err
		}
		if err := m.FromServer(c.Training, c.Server); err != nil {
			c.notef("passed over record %d of the control topic: %v", m.offset, err)
			continue
		}
		if m.Stage == secagg.Closed {
			return nil
		}
		newest := !slices.ContainsFunc(c.control.queue, func(later placed) bool {
			return later.FromServer(c.Training, c.Server) == nil && supersedes(later.Message, m.Message)
		})
		out, err := c.answer(ctx, m.Message, newest)
		var refused *secagg.Refusal
		if errors.As(err, &refused) {
			c.notef("refused: %v", refused)
			if refused.Reason == secagg.NotOurs || refused.Reason == secagg.BadSettings {
				c.machine = nil // until the next attempt
			}
			continue
		}
		if err != nil {
			return err
		}
		for _, m := range out {
			if err := c.publish(ctx, m); err != nil {
				return err
			}
		}
	}
}

// supersedes says that a record of the server makes an answer to another one useless.
func supersedes(a, b secagg.Message) bool {
	return cmp.Or(cmp.Compare(a.Round, b.Round), cmp.Compare(a.Attempt, b.Attempt), cmp.Compare(a.Stage, b.Stage)) > 0
}

// answer hands a record to the machine, and keeps what has to be kept of its
// answer. There is none to one that is not the newest.
func (c *secureClient) answer(ctx context.Context, m secagg.Message, newest bool) (out []secagg.Message, err error) {
	switch {
	case m.Stage == secagg.Open:
		var kept []byte
		if kept, err = c.load(); err != nil {
			return nil, err
		}
		c.machine = nil
		machine, answer, err := secagg.Join(secagg.ClientConfig{
			Training: c.Training, Name: c.Name, Key: c.Key, Server: c.Server, Trusted: c.Trusted,
		}, m, kept)
		if err != nil {
			return nil, err
		}
		c.machine, c.attempt, out = machine, m, answer
		if s := machine.Settings(); s.Sigma > 0 {
			c.notef("round %d: the update is clipped to %.4g and gets noise of %.4g", m.Round, s.Clip, float64(s.Sigma)/s.Scale(s.Elements))
		}
	case c.machine == nil || m.Round != c.attempt.Round || m.Attempt != c.attempt.Attempt:
		return nil, nil
	case m.Stage == secagg.Abort:
		c.notef("round %d, attempt %d was given up: %.200q", m.Round, m.Attempt, m.Payload)
		c.machine = nil
		return nil, nil
	default:
		if out, err = c.machine.Receive(m); err != nil {
			return nil, err
		}
		if m.Stage == secagg.Shared {
			if out, err = c.mask(ctx, newest); err != nil {
				return nil, err
			}
		}
	}
	if err := writeFile(c.file(), c.machine.State()); err != nil {
		return nil, fmt.Errorf("keep state: %w", err)
	}
	if !newest {
		return nil, nil
	}
	if m.Stage == secagg.Shared {
		if err := c.claim(out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// claim sees that of an attempt one vector is sent, also where two copies of the
// client are at work on one folder: the first to claim may. A claim stays for
// ever, as does what it is about on the log.
func (c *secureClient) claim(vector []secagg.Message) error {
	sum := sha256.New()
	for _, m := range vector {
		sum.Write(m.Payload)
	}
	ours, attempt := sum.Sum(nil), c.attempt.Hash()
	name := c.file() + "." + hex.EncodeToString(attempt[:8]) + ".sent"
	draft := name + "." + rand.Text()
	if err := writeFile(draft, ours); err != nil {
		return fmt.Errorf("claim attempt: %w", err)
	}
	err := os.Link(draft, name)
	if errors.Is(err, os.ErrExist) {
		err = nil
	}
	first, err2 := os.ReadFile(name)
	if err := errors.Join(err, err2, os.Remove(draft)); err != nil {
		return fmt.Errorf("claim attempt: %w", err)
	}
	if !bytes.Equal(first, ours) {
		return &secagg.Refusal{Reason: secagg.NotOurs, Stage: secagg.Masked, Sender: c.Name, Detail: "another copy of this client has sent a vector of its own; it sits the attempt out"}
	}
	return nil
}

// mask reads the shares of the others, trains, and masks the difference to the
// model.
func (c *secureClient) mask(ctx context.Context, newest bool) ([]secagg.Message, error) {
	for c.machine.Missing() {
		m, err := c.shares.pop(ctx)
		if err != nil {
			return nil, err
		}
		if m.After != c.machine.Roster() || c.machine.Owns(m.Message) {
			continue // of another attempt, or its own
		}
		if _, err := c.machine.Receive(m.Message); err != nil {
			c.notef("refused: %v", err)
		}
	}
	if c.machine.Masked() {
		return c.machine.Mask(nil, 0)
	}
	if !newest {
		return nil, nil // the list of vectors is there already, without this client
	}
	if err := c.read(ctx); err != nil {
		return nil, err
	}
	trained, err := c.Train(ctx, c.base)
	if err != nil {
		return nil, fmt.Errorf("train for round %d: %w", c.base.Round, err)
	}
	if err := sameShape(trained.Parameters, c.base.Parameters); err != nil || trained.Samples < 1 {
		return nil, fmt.Errorf("train for round %d: %w: expected the model's tensors and at least one sample, found %d samples: %w", c.base.Round, consumers.ErrStop, trained.Samples, err)
	}
	moved := make([]float32, 0, elements(trained.Parameters))
	for i, t := range trained.Parameters {
		for k, v := range t.Values {
			moved = append(moved, v-c.base.Parameters[i].Values[k])
		}
	}
	settings := c.machine.Settings()
	return c.machine.Mask(moved, uint32(min(trained.Samples, int64(settings.MaxWeight))))
}

// read reads the model that the attempt starts from.
func (c *secureClient) read(ctx context.Context) error {
	if c.base.Hash != Hash(c.attempt.Base) {
		m, found, err := c.lastModel(ctx)
		if err != nil || !found {
			return errors.Join(err, errors.New("read last model: there is none"))
		}
		c.base = m
	}
	if c.base.Hash != Hash(c.attempt.Base) || c.base.Round != c.attempt.Round {
		return &secagg.Refusal{Reason: secagg.WrongRound, Stage: secagg.Open, Detail: fmt.Sprintf("the last model is %v of round %d, not its base", c.base.Hash, c.base.Round)}
	}
	if err := c.base.Privacy.keptBy(c.machine.Settings()); err != nil {
		return &secagg.Refusal{Reason: secagg.BadSettings, Stage: secagg.Open, Detail: err.Error()}
	}
	return nil
}

// file is where the client's state is kept.
func (c *secureClient) file() string {
	return filepath.Join(c.Folder, hex.EncodeToString([]byte(c.Name))+".state")
}

func (c *secureClient) load() ([]byte, error) {
	kept, err := os.ReadFile(c.file())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return kept, err
}

// writeFile writes a file that is there whole, and durable, or not at all. What a
// kill leaves of it ends in .new, and is in nobody's way.
func writeFile(name string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*.new")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
