package federated

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"penstock/consumers"
	"penstock/consumers/federated/trust"
	"penstock/stream"
)

// Trained is what training made of a model.
type Trained struct {
	Parameters []Tensor
	Samples    int64   // how many examples it was trained on
	Loss       float64 // of the model on them, before the training; 0 says nothing
	Steps      int64   // that the training took; 0 says nothing
}

// ClientConfig says what a Client does.
type ClientConfig struct {
	Name      string // as the training expects it
	Updates   string // the topic of the updates
	Publisher Publisher
	// Train trains the model on the client's own examples, and leaves it as it is. An
	// error that wraps consumers.ErrStop ends the run; after any other it is called
	// again.
	Train func(ctx context.Context, m Model) (Trained, error)
	// Piece is how many bytes of numbers a record of an update has: updates that have
	// more take several. 0 is 512 KiB.
	Piece int
	// Compression makes updates smaller; nil sends them whole.
	Compression *Compression
	// Key signs the updates; its zero value does not.
	Key trust.PrivateKey
	// Waiting is called with each model whose round the client is not enrolled for. It
	// may be for a later one. nil is nobody.
	Waiting func(m Model)
}

// Client takes part in a training: it answers each model with an update. It is
// a consumers.Sink for the models topic, read by a group of its own. Its run
// ends with ErrFinished when it sees the final model.
//
// An update whose publication failed is sent again as it is. A client that is
// started again may train and answer a model once more; only its first update
// counts.
type Client struct {
	config ClientConfig

	mu     sync.Mutex
	update *Update // the last one made
	sent   bool    // it is durable
	sender sender  // of the update
	newest newest  // of the models
}

// NewClient returns a client.
func NewClient(config ClientConfig) (*Client, error) {
	if config.Name == "" || config.Updates == "" || config.Publisher == nil || config.Train == nil {
		return nil, errors.New("new client: a name, a topic, a publisher and a way to train are needed")
	}
	if config.Piece < 0 {
		return nil, fmt.Errorf("new client: expected pieces of 1 byte or more, found %d", config.Piece)
	}
	return &Client{config: config, newest: newest{joiner: NewJoiner()}}, nil
}

// Write implements consumers.Sink. Of several models it answers the newest: the
// rounds of the others are over.
func (c *Client) Write(ctx context.Context, b consumers.Batch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.newest.write(b, func(m Model) error { return c.answer(ctx, m) })
}

// newest reads models, of which the rounds of all but the newest are over.
type newest struct {
	joiner *Joiner
	next   int64 // the offset after the last record read
	model  *Model
}

// write calls do with the newest model there is, until that has been done. A batch may
// come again: what was read of it is not read once more, since the joiner may have gone on
// from the model that it ends to the one that it begins.
func (n *newest) write(b consumers.Batch, do func(Model) error) error {
	var refused stream.BatchError
	for i, message := range b.Messages {
		if message.Offset < n.next {
			continue
		}
		m, whole, err := n.joiner.Model(message.Data)
		if errors.Is(err, errDisk) {
			return err
		}
		n.next = message.Offset + 1
		if err != nil {
			refused.Fail(i, err)
		} else if whole && (n.model == nil || m.Round >= n.model.Round) {
			n.model = &m
		}
	}
	if err := refused.OrNil(); err != nil || n.model == nil {
		return err
	}
	if err := do(*n.model); err != nil {
		return err
	}
	n.model = nil
	return nil
}

func (c *Client) answer(ctx context.Context, m Model) error {
	if m.Final() {
		return ErrFinished
	}
	if !slices.Contains(m.Clients, c.config.Name) {
		if m.Trust != nil {
			if c.config.Waiting != nil {
				c.config.Waiting(m)
			}
			return nil
		}
		return fmt.Errorf("the training does not expect client %q: %w", c.config.Name, consumers.ErrStop)
	}
	if !slices.Contains(m.Asked(), c.config.Name) {
		return nil // others are asked in this round
	}
	if c.update != nil && m.Round < c.update.Round {
		return nil // a model that came twice
	}
	if c.update == nil || c.update.Round != m.Round || c.update.Base != m.Hash {
		t, err := c.config.Train(ctx, m)
		if err != nil {
			return fmt.Errorf("train for round %d: %w", m.Round, err)
		}
		if t.Parameters, err = c.config.Compression.pack(t.Parameters, m.Parameters); err != nil {
			return fmt.Errorf("update for round %d: %w: %w", m.Round, consumers.ErrStop, err)
		}
		c.update = &Update{
			Client: c.config.Name, Round: m.Round, Base: m.Hash,
			Samples: t.Samples, Loss: t.Loss, Steps: t.Steps, Parameters: t.Parameters,
		}
		if !c.config.Key.Zero() {
			if c.update.Signature, err = c.config.Key.Sign(c.update.signed(c.config.Updates).Text()); err != nil {
				c.update = nil
				return fmt.Errorf("sign update for round %d: %w: %w", m.Round, consumers.ErrStop, err)
			}
		}
		c.sent = false
		c.sender = sender{to: c.config.Publisher, topic: c.config.Updates, size: c.config.Piece, key: c.config.Name}
	}
	if c.sent {
		return nil
	}
	if err := c.sender.send(ctx, c.update.value()); err != nil {
		return publishing(fmt.Sprintf("update for round %d", m.Round), err)
	}
	c.sent = true
	return nil
}
