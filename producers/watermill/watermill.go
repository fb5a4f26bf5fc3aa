// Package watermill puts a check before the Publisher of a Watermill
// application: what does not fit the schema of its topic does not reach it.
//
//	publisher = watermill.Validate(publisher, registry, watermill.Config{})
package watermill

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"penstock/producers"
	"penstock/stream"
)

// Config says how messages are checked. The zero value is the usual one.
type Config struct {
	producers.Config
	// Type returns the full name of the type of a message, for subjects that
	// are made of it: see producers.RecordSubject. nil: messages have none.
	Type func(*message.Message) string
}

// Publisher passes on the messages that fit. It implements Watermill's
// message.Publisher.
type Publisher struct {
	to       message.Publisher
	producer *producers.Producer
	typeOf   func(*message.Message) string
}

// Validate returns a Publisher before to. Closing it closes to.
func Validate(to message.Publisher, registry producers.Registry, cfg Config) *Publisher {
	if cfg.Type == nil {
		cfg.Type = func(*message.Message) string { return "" }
	}
	return &Publisher{to: to, producer: producers.New(collect{}, registry, cfg.Config), typeOf: cfg.Type}
}

// Publish passes messages on once all of them fit, encoded and framed, as copies
// with the same UUID, metadata and context. A payload is JSON, or is framed
// already: then it begins with a byte 0, is decoded to see that it fits, and
// stays as it is. A nil payload is a tombstone and passes; an empty one is
// neither.
//
// If one does not fit, none is passed on, and the error wraps a
// *stream.BatchError that names each such message by its index with all that is
// wrong about it; Config.Topic may let misfits go on as they are, marked, or to
// dead letters, instead. Text that is no JSON is refused in any case. An error of
// the Publisher below is returned as it is.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	if len(messages) == 0 {
		return p.to.Publish(topic)
	}
	events := make([]producers.Event, len(messages))
	var broken stream.BatchError
	for i, m := range messages {
		value, err := valueOf(m.Payload)
		if err != nil {
			broken.Fail(i, err)
		}
		events[i] = producers.Event{Topic: topic, Type: p.typeOf(m), Value: value}
	}
	err := broken.OrNil()
	var checked collection
	if err == nil {
		err = p.producer.PublishTogether(context.WithValue(messages[0].Context(), collectionKey{}, &checked), events...)
	}
	if err != nil {
		return fmt.Errorf("publish to topic %q: %w", topic, err)
	}
	// Runs of one topic: dead letters lie between those that fit.
	for begin := 0; begin < len(messages); {
		to, end := checked[begin].Topic, begin
		var run []*message.Message
		for ; end < len(messages) && checked[end].Topic == to; end++ {
			m := messages[end].CopyWithContext()
			m.Payload = checked[end].Value
			for _, h := range checked[end].Headers {
				m.Metadata.Set(h.Key, string(h.Value))
			}
			run = append(run, m)
		}
		if err := p.to.Publish(to, run...); err != nil {
			return err
		}
		begin = end
	}
	return nil
}

// Close closes the Publisher below.
func (p *Publisher) Close() error { return p.to.Close() }

// valueOf is a payload as a producer takes it.
func valueOf(payload []byte) (any, error) {
	switch {
	case payload == nil:
		return nil, nil
	case len(payload) > 0 && payload[0] == 0:
		return producers.Framed(payload), nil
	}
	value, err := producers.Text(payload)
	if err == nil && value == nil {
		err = errors.New("expected an event, found the JSON null; a tombstone has a nil payload")
	}
	return value, err
}

type collectionKey struct{}

// collection are the records of one call.
type collection []stream.Record

// collect is a stream.Publisher that leaves the records of a call in the
// collection of its context.
type collect struct{}

func (collect) Publish(ctx context.Context, records ...stream.Record) error {
	c := ctx.Value(collectionKey{}).(*collection)
	for _, r := range records {
		r.Value = bytes.Clone(r.Value) // the producer uses the bytes again
		*c = append(*c, r)
	}
	return nil
}
