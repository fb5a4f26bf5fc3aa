// Package producers publishes events that fit their schema, and nothing else:
// validate, encode, frame, publish. It sees neither a broker nor a registry,
// only stream.Publisher and what it asks of a registry.
//
// Publish takes events at once and returns when they are durable; Async queues
// them one by one; Typed does either with one Go type.
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

// ContractRegistry is a Registry that also says what it keeps with a schema:
// rules, and its GUID. It is asked in place of Latest.
type ContractRegistry interface {
	Registry
	Newest(ctx context.Context, subject string) (schemas.Registered, error)
}

// Event is a value on its way to a topic.
type Event struct {
	Topic string
	Key   []byte // the record's key as it is; nil: no key
	// KeyValue is a key that is encoded by a schema of its own, in place of
	// Key. nil: there is none.
	KeyValue any
	// Value is what schemas.Schema encodes; nil is a tombstone, which needs no
	// schema. A JSON is text to be read, a Raw or a Framed is bytes already.
	Value any
	// Type is the full name of the value's type, for subjects that are made of
	// it: see RecordSubject.
	Type    string
	Headers []stream.Header
	Time    time.Time // zero: now
	// How says how this event becomes a record, in place of Config.Topic.
	// Events of one call that are made alike best share it.
	How *Topic

	// Partition and Offset say where the event lies, once Publish has returned.
	// It sets those of the events of its slice that are durable.
	Partition int32
	Offset    int64
}

// JSON is a key or a value as JSON text. It is the quickest way for text that
// nobody has looked into. Text that is not JSON does not fit. null is a value like
// others, and no tombstone.
type JSON []byte

// Raw is a key or a value that is published as it is, checked by nobody: see
// Topic.
type Raw []byte

// Framed is a key or a value in bytes that name their schema, as other producers
// write them. It is decoded to see that it fits, and published as it is. The
// registry then has to be a SchemaRegistry.
type Framed []byte

// SchemaRegistry is a Registry that knows schemas by their ids. Its errors are
// like those of Latest.
type SchemaRegistry interface {
	Registry
	Schema(ctx context.Context, id schemas.ID) (schemas.Schema, error)
}

// Config says how a Producer works. The zero value is the usual one.
type Config struct {
	// Topic says how the events of a topic become records; nil is the zero
	// Topic for all of them. It is called for every topic of every call of
	// Publish, from many goroutines, and answers the same each time.
	Topic func(topic string) Topic
	// Refused is told of each event that did not fit and that its topic's
	// Misfits let go on its way all the same, which Publish does not return.
	// nil: nobody is.
	Refused func(Event, error)
	// Sensitive are the tags of fields, in the text of their schema, whose values
	// no error and no header shows; nil is schemas.Sensitive. Rules show the value
	// of no field that has any tag.
	Sensitive []string
}

// Topic says how the events of one topic become records.
type Topic struct {
	// Key is for events with a KeyValue.
	Key, Value Part
	Misfits    Misfits
	// DeadLetters is where misfits go with DeadLetter; empty is the topic's
	// name, then ".dlq". It must exist.
	DeadLetters string
	// AllowRaw admits Raw keys and values, which are refused otherwise.
	AllowRaw bool
}

// Part says how the key or the value of an event is encoded.
type Part struct {
	// Subject is under what the schema is registered; nil is TopicSubject, for
	// keys KeySubject.
	Subject Subject
	// Lookup returns the schema registered there; nil is the newest one. It is
	// called as often as Registry.Latest, and its errors are like those.
	Lookup func(ctx context.Context, subject string) (schemas.Registered, error)
	// GUIDHeader names the schema by its GUID in a record header, and leaves
	// the payload bare. Lookup has to be set, since Registry.Latest knows no
	// GUID.
	GUIDHeader bool
}

// Producer publishes events that fit their schema. It may be used
// concurrently.
type Producer struct {
	publisher stream.Publisher
	registry  Registry
	config    Config
	batches   sync.Pool // of *batch
	compiled  sync.Map  // from a subject to its *compiled rules
	// constraints are from a subject, or the framed that bytes name, to its *constrained.
	constraints sync.Map
}

// New returns a producer that publishes to publisher what fits the schemas in
// registry. It closes neither.
func New(publisher stream.Publisher, registry Registry, cfg Config) *Producer {
	if cfg.Topic == nil {
		cfg.Topic = func(string) Topic { return Topic{} }
	}
	if cfg.Sensitive == nil {
		cfg.Sensitive = schemas.Sensitive
	}
	return &Producer{
		publisher: publisher,
		registry:  registry,
		config:    cfg,
		batches:   sync.Pool{New: func() any { return &batch{targets: map[targetName]target{}} }},
	}
}

// Publish publishes the events that fit, and returns when they are durable.
// Those of one key arrive in the order given.
//
// A *stream.BatchError names the events that failed by their index; the others
// are durable. An event that does not fit its schema failed with an error that
// wraps a *schemas.ValueError, unless its topic's Misfits let it go on. So did one
// that does not pass a rule for writing, of those that the registry keeps with the
// schema: a *rules.Error is in it then, and where that asks for a dead letter, the
// event is published there besides. An event without a schema failed with an error
// that wraps schemas.ErrNoSchema. Any other failure is the publisher's, and after
// one that names no single record the event may have been written or not. After
// any error that is not a *stream.BatchError, too, each event may or may not have
// been written, but for a registry that cannot be asked: then nothing was.
func (p *Producer) Publish(ctx context.Context, events ...Event) error {
	return p.publish(ctx, events, false)
}

// PublishTogether is Publish where events that do not fit hold the others back:
// either all of them go to the publisher, or none. It is no transaction, since
// the publisher may still take some and fail others: see PublishAtomic.
func (p *Producer) PublishTogether(ctx context.Context, events ...Event) error {
	return p.publish(ctx, events, true)
}

func (p *Producer) publish(ctx context.Context, events []Event, together bool) error {
	b := p.batches.Get().(*batch)
	failed, err := p.encode(ctx, b, events)
	if err == nil && len(b.records) > 0 && (len(failed.Errs) == 0 || !together) {
		err = p.publisher.Publish(ctx, b.records...)
		if err != nil {
			// The publisher may hold on to b, which is not used again.
			b.place(events)
			return b.blame(failed, err)
		}
		b.place(events)
	}
	p.release(b)
	if err != nil {
		return err
	}
	return failed.OrNil()
}

// PublishAtomic publishes all of the events or none of them: on Kafka in one
// transaction, over any number of topics; on JetStream in one atomic batch, which is
// of one topic and has 1,000 events at most. Nothing is ever sent a second time.
//
// All events are looked at before anything is sent, and any that does not fit holds
// all back, whatever its topic's Misfits or its rules ask for: a *stream.BatchError then
// names all of those, each with all that is wrong with it. Other errors are those of
// stream.AtomicPublisher: nothing was published but, perhaps, where one wraps
// stream.ErrUnknownOutcome. Where the publisher is none, or cannot do what is asked,
// it is stream.ErrUnsupported.
func (p *Producer) PublishAtomic(ctx context.Context, c stream.Conditions, events ...Event) error {
	publisher, ok := p.publisher.(stream.AtomicPublisher)
	if !ok {
		return fmt.Errorf("publish all or nothing: %w", stream.ErrUnsupported)
	}
	b := p.batches.Get().(*batch)
	b.checks = true
	failed, err := p.encode(ctx, b, events)
	if err != nil || len(failed.Errs) > 0 {
		p.release(b)
		if err != nil {
			return err
		}
		return failed
	}
	if err := publisher.PublishAtomic(ctx, c, b.records...); err != nil {
		return err // the publisher may hold on to b, which is not used again
	}
	b.place(events)
	p.release(b)
	return nil
}

// Check returns what Publish would if every misfit were rejected, without
// publishing anything.
func (p *Producer) Check(ctx context.Context, events ...Event) error {
	b := p.batches.Get().(*batch)
	defer p.release(b)
	b.checks = true
	failed, err := p.encode(ctx, b, events)
	if err != nil {
		return err
	}
	return failed.OrNil()
}

// Encode returns the records that PublishTogether would publish. Nothing refers to
// them but the events' own keys and headers, and nothing of a rule that asks for a
// dead letter is carried out.
func (p *Producer) Encode(ctx context.Context, events ...Event) ([]stream.Record, error) {
	b := &batch{targets: map[targetName]target{}}
	failed, err := p.encode(ctx, b, events)
	if err != nil {
		return nil, err
	}
	if failed.OrNil() != nil {
		return nil, failed
	}
	return b.records, nil
}

// place says of events where they lie, as far as the publisher has said it.
func (b *batch) place(events []Event) {
	for n, i := range b.indexes {
		events[i].Partition, events[i].Offset = b.records[n].Partition, b.records[n].Offset
	}
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
