package producers

import (
	"context"

	"penstock/stream"
)

// Typed publishes values of one Go type, most often a struct with the tags of
// its format's library, to one topic. It may be used concurrently.
type Typed[T any] struct {
	p     *Producer
	topic string
	typ   string
	key   func(T) []byte
}

// TypedOptions say more about the values of a Typed. The zero value is ready to
// use.
type TypedOptions[T any] struct {
	// Key makes the key of a value's record; nil: there is none.
	Key func(T) []byte
	// Type is the full name of T in the schema, for subjects that are made of
	// it; see Event.
	Type string
}

// NewTyped returns a producer of values of one type.
func NewTyped[T any](p *Producer, topic string, o TypedOptions[T]) *Typed[T] {
	return &Typed[T]{p: p, topic: topic, typ: o.Type, key: o.Key}
}

// Event returns the event that a value becomes; Async.Send and Publish of the
// Producer take it.
func (t *Typed[T]) Event(v T) Event {
	e := Event{Topic: t.topic, Type: t.typ, Value: &v}
	if t.key != nil {
		e.Key = t.key(v)
	}
	return e
}

// Publish publishes the values that fit, and returns when they are durable. Its
// errors are those of Producer.Publish, by the index of the value.
func (t *Typed[T]) Publish(ctx context.Context, values ...T) error {
	events := make([]Event, len(values))
	for i := range values {
		events[i] = Event{Topic: t.topic, Type: t.typ, Value: &values[i]}
		if t.key != nil {
			events[i].Key = t.key(values[i])
		}
	}
	return t.p.Publish(ctx, events...)
}

// Delete publishes a tombstone for a key.
func (t *Typed[T]) Delete(ctx context.Context, key []byte, headers ...stream.Header) error {
	return t.p.Publish(ctx, Event{Topic: t.topic, Type: t.typ, Key: key, Headers: headers})
}
