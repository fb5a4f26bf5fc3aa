package memory

import (
	"context"
	"fmt"
	"time"

	"penstock/stream"
)

// input is what a topic knows of one input.
type input struct {
	at   stream.Position
	held *transactor // who took it over last
}

// transactor implements stream.Transactor. All but broker, topic and of is guarded by
// server.mu.
type transactor struct {
	broker *Broker
	topic  *topic
	of     *input
	closed bool
}

// Resume implements stream.Resumer. A position lasts as long as its topic.
func (b *Broker) Resume(ctx context.Context, topic, name string) (stream.Transactor, stream.Position, error) {
	if err := b.usable(ctx); err != nil {
		return nil, stream.Position{}, fmt.Errorf("take the input over: %w", err)
	}
	s := b.server
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.find(topic)
	if err != nil {
		return nil, stream.Position{}, fmt.Errorf("take the input over: %w", err)
	}
	of := t.inputs[name]
	if of == nil {
		of = &input{}
		if t.inputs == nil {
			t.inputs = map[string]*input{}
		}
		t.inputs[name] = of
	}
	of.held = &transactor{broker: b, topic: t, of: of}
	return of.held, of.at, nil
}

// Commit implements stream.Transactor.
func (x *transactor) Commit(ctx context.Context, out []stream.Record, in stream.Position) error {
	if len(out) > stream.MaxCommit {
		return fmt.Errorf("commit: %d records, expected %d at most", len(out), stream.MaxCommit)
	}
	for _, r := range out {
		if r.Topic != x.topic.name {
			return fmt.Errorf("commit: a record of topic %q, expected those of %q", r.Topic, x.topic.name)
		}
	}
	if err := x.broker.usable(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	s := x.broker.server
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case x.closed:
		return fmt.Errorf("commit: %w", stream.ErrClosed)
	case x.topic.deleted:
		return fmt.Errorf("commit: topic %q: %w", x.topic.name, stream.ErrTopicChanged)
	case x.of.held != x:
		return fmt.Errorf("commit: somebody else has taken the input over: %w", stream.ErrFenced)
	}
	if _, err := s.admitAll(out); err != nil {
		return err
	}
	now := time.Now()
	for i, r := range out {
		out[i].Partition, out[i].Offset = x.topic.append(r, now)
	}
	x.of.at = in
	s.wake()
	return nil
}

// Close implements stream.Transactor.
func (x *transactor) Close() error {
	x.broker.server.mu.Lock()
	defer x.broker.server.mu.Unlock()
	x.closed = true
	return nil
}

var _ stream.Resumer = (*Broker)(nil)
