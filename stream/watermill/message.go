// Package watermill lets handlers written for Watermill publish to, and read
// from, every broker of package stream: one record at a time, with the
// router and the middleware that there are for it. What works on batches reads
// a stream.Source instead.
//
// A message's UUID travels in a header of the name that Watermill's own
// adapters use, its metadata as headers, its payload as the value.
package watermill

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"

	"penstock/stream"
)

// uuidHeader is the header for a message's UUID.
const uuidHeader = "_watermill_message_uuid"

// recordKey is where a message's context holds its record.
type recordKey struct{}

// RecordFromContext returns the record that a message was made of, if ctx is
// the context of a message that a Subscriber delivered, or derived from one.
// Beside what the message shows, it says where the record lies, when it was
// published and under which key, and has all headers in their order. Its bytes
// are read-only.
func RecordFromContext(ctx context.Context) (stream.Record, bool) {
	r, ok := ctx.Value(recordKey{}).(stream.Record)
	return r, ok
}

// KeyFromMetadata returns a function for PublisherConfig.Key: the key is the
// metadata of that name. A message without it has no key.
func KeyFromMetadata(name string) func(*message.Message) []byte {
	return func(m *message.Message) []byte {
		if v, ok := m.Metadata[name]; ok {
			return []byte(v)
		}
		return nil
	}
}

// keyOfHandled is the key of the record in whose handling m was made.
func keyOfHandled(m *message.Message) []byte {
	r, _ := RecordFromContext(m.Context())
	return r.Key
}

// encode returns m as a record without a key. They share the payload.
func encode(topic string, m *message.Message) (stream.Record, error) {
	if _, ok := m.Metadata[uuidHeader]; ok {
		return stream.Record{}, fmt.Errorf("metadata %q is the header for the message's UUID: use another name", uuidHeader)
	}
	headers := make([]stream.Header, 0, 1+len(m.Metadata))
	headers = append(headers, stream.Header{Key: uuidHeader, Value: []byte(m.UUID)})
	for _, name := range slices.Sorted(maps.Keys(m.Metadata)) {
		headers = append(headers, stream.Header{Key: name, Value: []byte(m.Metadata[name])})
	}
	return stream.Record{Topic: topic, Value: m.Payload, Headers: headers}, nil
}

// NewMessage returns r as a message, whose payload the handler may change. Its
// context is derived from ctx.
//
// A record that nobody gave a UUID has its position in the place of one, so
// that it is the same each time the record is delivered. Of headers with one
// name the first becomes metadata, as in stream.Record.Header.
func NewMessage(ctx context.Context, r stream.Record) *message.Message {
	m := message.NewMessage(fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset), bytes.Clone(r.Value))
	if id, ok := r.Header(uuidHeader); ok {
		m.UUID = string(id)
	}
	for _, h := range r.Headers {
		if _, taken := m.Metadata[h.Key]; !taken && h.Key != uuidHeader {
			m.Metadata[h.Key] = string(h.Value)
		}
	}
	m.SetContext(context.WithValue(ctx, recordKey{}, r))
	return m
}
