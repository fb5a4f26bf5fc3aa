// Package producers publishes events that fit their schema, and nothing else:
// validate, encode, frame, publish. It sees neither a broker nor a registry,
// only stream.Publisher and the one method it asks of a registry.
package producers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"penstock/schemas"
	"penstock/stream"
)

// Registry is what a producer asks of a schema registry. An error that wraps
// schemas.ErrNoSchema says that the subject has none.
type Registry interface {
	// Latest returns the newest schema of a subject and its id. It is called
	// for every topic of every call of Publish, so it answers from a cache.
	Latest(ctx context.Context, subject string) (schemas.ID, schemas.Schema, error)
}

// Event is a value on its way to a topic.
type Event struct {
	Topic   string
	Key     []byte // nil: no key
	Value   any    // what schemas.Schema encodes; nil is a tombstone
	Headers []stream.Header
	Time    time.Time // zero: now
}

// Config says how a Producer works. The zero value is the usual one.
type Config struct {
	// Subject returns the subject under which the schema of a topic's values
	// is registered; nil is TopicSubject.
	Subject func(topic string) string
}

// TopicSubject is the subject of a topic's values that most clients use: its
// name, then "-value".
func TopicSubject(topic string) string { return topic + "-value" }

// Producer publishes events that fit their schema. It may be used
// concurrently.
type Producer struct {
	publisher stream.Publisher
	registry  Registry
	subject   func(string) string
	batches   sync.Pool // of *batch
}

// New returns a producer that publishes to publisher what fits the newest
// schema in registry. It closes neither.
func New(publisher stream.Publisher, registry Registry, cfg Config) *Producer {
	if cfg.Subject == nil {
		cfg.Subject = TopicSubject
	}
	return &Producer{
		publisher: publisher,
		registry:  registry,
		subject:   cfg.Subject,
		batches:   sync.Pool{New: func() any { return &batch{targets: map[string]target{}} }},
	}
}

// Subject is the subject under which the schema of a topic's values is looked
// up.
func (p *Producer) Subject(topic string) string { return p.subject(topic) }

// Publish publishes the events that fit, and returns when they are durable.
// Those of one key arrive in the order given.
//
// A *stream.BatchError names the events that failed by their index; the others
// are durable. An event that does not fit its schema failed with an error that
// wraps a *schemas.ValueError, and one whose topic has no schema with one that
// wraps schemas.ErrNoSchema; any other failure is the publisher's, and after
// one that names no single record the event may have been written or not. After
// any error that is not a *stream.BatchError, too, each event may or may not
// have been written, but for a registry that cannot be asked: then nothing was.
//
// A tombstone needs no schema.
func (p *Producer) Publish(ctx context.Context, events ...Event) error {
	b := p.batches.Get().(*batch)
	failed, err := p.encode(ctx, b, events)
	if err == nil && len(b.records) > 0 {
		err = p.publisher.Publish(ctx, b.records...)
		if err != nil {
			// The publisher may hold on to b, which is not used again.
			return b.blame(failed, err)
		}
	}
	p.release(b)
	if err != nil {
		return err
	}
	return failed.OrNil()
}

// Check returns what Publish would, without publishing anything.
func (p *Producer) Check(ctx context.Context, events ...Event) error {
	b := p.batches.Get().(*batch)
	defer p.release(b)
	failed, err := p.encode(ctx, b, events)
	if err != nil {
		return err
	}
	return failed.OrNil()
}

// batch holds what one call of Publish needs, to be used again by the next.
type batch struct {
	records []stream.Record
	indexes []int  // of each record among the events
	ends    []int  // where the value of each record ends in values
	values  []byte // one value after the other
	targets map[string]target
}

// target is what the events of one topic need.
type target struct {
	id     schemas.ID
	schema schemas.Schema
	frame  []byte // what stands before a value
	err    error  // why there is no schema
}

// What a batch may keep for the next call; a larger one is left to the
// collector, so that one large call does not hold its memory for good.
const (
	keepBytes   = 4 << 20
	keepRecords = 1 << 14
	keepTargets = 64
)

func (p *Producer) release(b *batch) {
	if cap(b.values) > keepBytes || cap(b.records) > keepRecords || len(b.targets) > keepTargets {
		return
	}
	clear(b.records) // no reference to the caller's keys and headers
	clear(b.targets)
	b.records, b.indexes, b.ends, b.values = b.records[:0], b.indexes[:0], b.ends[:0], b.values[:0]
	p.batches.Put(b)
}

// encode fills b with the events that fit. Its error is that of a registry that
// cannot be asked.
func (p *Producer) encode(ctx context.Context, b *batch, events []Event) (*stream.BatchError, error) {
	failed := &stream.BatchError{}
	var topic string
	var t target
	for i := range events {
		e := &events[i]
		if e.Value != nil {
			if t.schema == nil && t.err == nil || e.Topic != topic {
				var err error
				if t, err = p.target(ctx, b, e.Topic); err != nil {
					return nil, err
				}
				topic = e.Topic
			}
			if t.err != nil {
				failed.Fail(i, t.err)
				continue
			}
			values, err := t.schema.AppendEncode(append(b.values, t.frame...), e.Value)
			if err != nil {
				failed.Fail(i, fmt.Errorf("event does not fit schema %d of subject %q: %w", t.id, p.subject(e.Topic), err))
				continue
			}
			b.values = values
		}
		b.records = append(b.records, stream.Record{Topic: e.Topic, Key: e.Key, Headers: e.Headers, Time: e.Time})
		b.indexes = append(b.indexes, i)
		b.ends = append(b.ends, len(b.values))
	}
	// Only now, since values has moved while it grew.
	begin := 0
	for n, end := range b.ends {
		if end > begin { // else a tombstone: a value has its frame at least
			b.records[n].Value = b.values[begin:end:end]
		}
		begin = end
	}
	return failed, nil
}

// target returns what events of a topic need. Its error is that of a registry
// that cannot be asked.
func (p *Producer) target(ctx context.Context, b *batch, topic string) (target, error) {
	if t, ok := b.targets[topic]; ok {
		return t, nil
	}
	subject := p.subject(topic)
	id, schema, err := p.registry.Latest(ctx, subject)
	t := target{id: id, schema: schema}
	switch {
	case errors.Is(err, schemas.ErrNoSchema):
		t.err = fmt.Errorf("topic %q has no schema under subject %q: %w; register one first: penstock schema register FILE --subject %s", topic, subject, err, subject)
	case err != nil:
		return t, fmt.Errorf("look up the schema of subject %q: %w", subject, err)
	default:
		t.frame = schemas.AppendFrame(nil, id, schema)
	}
	b.targets[topic] = t
	return t, nil
}

// blame adds the publisher's error to the failed events, by their own index.
func (b *batch) blame(failed *stream.BatchError, err error) error {
	var partly *stream.BatchError
	switch {
	case errors.As(err, &partly):
		for n, err := range partly.Errs {
			failed.Fail(b.indexes[n], err)
		}
	case len(failed.Errs) == 0:
		return fmt.Errorf("publish: %w", err)
	default:
		for _, i := range b.indexes {
			failed.Fail(i, fmt.Errorf("publish: %w", err))
		}
	}
	return failed
}
