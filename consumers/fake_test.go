package consumers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"penstock/schemas"
	"penstock/stream"
)

// text is a schema whose values are strings that do not begin with "!".
type text struct{}

func (text) Type() schemas.Type   { return schemas.Avro }
func (text) Canonical() string    { return `"string"` }
func (text) Model() *schemas.Node { return &schemas.Node{Kind: schemas.String} }

func (text) AppendEncode(dst []byte, v any) ([]byte, error) {
	return append(dst, v.(string)...), nil
}

func (text) Decode(src []byte) (any, error) {
	if bytes.HasPrefix(src, []byte("!")) {
		return nil, &schemas.ValueError{Violations: []schemas.Violation{{Pointer: "/a", Expected: "no exclamation mark", Found: "one"}}}
	}
	return string(src), nil
}

// framed is a value written with schema 7, which registry knows.
func framed(s string) []byte { return append(schemas.AppendHeader(nil, 7), s...) }

// registry knows schema 7; fail, if not nil, is asked first.
type registry struct {
	fail func() error
}

func (r registry) Schema(_ context.Context, id schemas.ID) (schemas.Schema, error) {
	if r.fail != nil {
		if err := r.fail(); err != nil {
			return nil, err
		}
	}
	if id == 66 {
		return nil, fmt.Errorf("id %d: %w", id, schemas.ErrBadSchema)
	}
	if id != 7 {
		return nil, fmt.Errorf("id %d: %w", id, schemas.ErrNoSchema)
	}
	return text{}, nil
}

// sinkFunc is a Sink.
type sinkFunc func(context.Context, Batch) error

func (f sinkFunc) Write(ctx context.Context, b Batch) error { return f(ctx, b) }

// publisherFunc is a stream.Publisher.
type publisherFunc func(context.Context, ...stream.Record) error

func (f publisherFunc) Publish(ctx context.Context, records ...stream.Record) error {
	return f(ctx, records...)
}

// script is a Source that yields its batches, then waits for the end.
type script struct {
	mu      sync.Mutex
	batches [][]stream.Record
	settled []error // what the acks were called with, in their order
	refuse  func() error
}

func (s *script) Fetch(ctx context.Context, _ int) ([]stream.Record, stream.AckFunc, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.batches) == 0 {
		s.mu.Unlock()
		<-ctx.Done()
		s.mu.Lock()
		return nil, nil, ctx.Err()
	}
	b := s.batches[0]
	s.batches = s.batches[1:]
	return b, func(_ context.Context, err error) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.refuse != nil {
			if err := s.refuse(); err != nil {
				return err
			}
		}
		s.settled = append(s.settled, err)
		return nil
	}, nil
}

// acks returns how many batches were acknowledged, and how many given back.
func (s *script) acks() (acknowledged, returned int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, err := range s.settled {
		if err == nil {
			acknowledged++
		} else {
			returned++
		}
	}
	return acknowledged, returned
}

// records makes records of partition 0 of topic "t", from offset first on.
func records(first int64, values ...string) []stream.Record {
	rs := make([]stream.Record, len(values))
	for i, v := range values {
		rs[i] = stream.Record{Topic: "t", Offset: first + int64(i), Value: framed(v)}
	}
	return rs
}

var errDown = errors.New("server is down")
