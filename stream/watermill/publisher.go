package watermill

import (
	"context"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"penstock/stream"
)

// PublisherConfig says how messages become records. The zero value is good.
type PublisherConfig struct {
	// Key returns the key of a message, nil for none. Messages of one key come
	// in the order in which they were published. A nil Key gives a message the
	// key of the record in whose handling it was made, by its context, so that
	// what a handler produces, and what it sets aside, stays in order; a
	// message made elsewhere has none.
	Key func(*message.Message) []byte
}

// Publisher publishes messages. It implements Watermill's message.Publisher.
type Publisher struct {
	to  stream.Publisher
	key func(*message.Message) []byte

	mu     sync.RWMutex // read-locked while something is published
	closed bool
}

// NewPublisher returns a Publisher to a broker, which stays the caller's to
// close.
func NewPublisher(to stream.Publisher, c PublisherConfig) *Publisher {
	if c.Key == nil {
		c.Key = keyOfHandled
	}
	return &Publisher{to: to, key: c.Key}
}

// Publish returns once every message is durable, or the context of one of them
// ends. A nil payload becomes a tombstone, an empty one does not.
//
// If only some messages failed, the error wraps a *stream.BatchError that names
// them by index, and the others are durable. Metadata that uses the header for
// the UUID is an error, and nothing is published then. After Close it is
// stream.ErrClosed. Publish may be called concurrently. A message must not be
// changed meanwhile, nor, after an error, at all.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	if err := p.publish(topic, messages); err != nil {
		return fmt.Errorf("publish to topic %q: %w", topic, err)
	}
	return nil
}

func (p *Publisher) publish(topic string, messages []*message.Message) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		return stream.ErrClosed
	}
	if len(messages) == 0 {
		return nil
	}
	records := make([]stream.Record, len(messages))
	for i, m := range messages {
		var err error
		if records[i], err = encode(topic, m); err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		records[i].Key = p.key(m)
	}
	ctx, cancel := context.WithCancel(messages[0].Context())
	defer cancel()
	for _, m := range messages[1:] {
		defer context.AfterFunc(m.Context(), cancel)()
	}
	return p.to.Publish(ctx, records...)
}

// Close waits for every Publish that has begun. It may be called more than
// once.
func (p *Publisher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return nil
}
