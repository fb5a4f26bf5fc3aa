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
	// key of the record in whose context it was made (by Watermill's
	// NewMessageWithContext), so that what a handler produces stays in order,
	// as does what a poison queue sets aside. A message made elsewhere has none.
	Key func(*message.Message) []byte
}

// Publisher publishes messages. It implements Watermill's message.Publisher.
type Publisher struct {
	to  stream.Publisher
	key func(*message.Message) []byte

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup // calls of Publish
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
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return stream.ErrClosed
	}
	p.running.Add(1)
	p.mu.Unlock()
	defer p.running.Done()

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
	p.closed = true
	p.mu.Unlock()
	p.running.Wait()
	return nil
}
