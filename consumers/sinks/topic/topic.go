// Package topic copies records to another topic, each exactly once, on a broker
// that is a stream.Resumer.
//
// The position of each source partition is kept with the target: on Kafka in
// the transaction that writes the records, on JetStream in their atomic batch,
// expected to follow the position that its writer knows. So nothing hangs on
// how long a broker remembers message ids. Whoever is assigned a partition takes
// its position over, which shuts out whoever had it before; and after a commit
// whose answer was lost, taking it over again says whether it took place.
//
// Source and target may lie on different brokers. A reader of a Kafka topic must
// leave out what was not committed (isolation level read_committed), as every
// source of this project does.
package topic

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
)

// SourceHeader says in each copy where the record lay: TOPIC/PARTITION/OFFSET.
const SourceHeader = "penstock-source"

// Config says what a sink writes to.
type Config struct {
	// Topic is the target. It must exist.
	Topic string
	// Pipeline is the name under which positions are kept, that of the
	// consumer group.
	Pipeline string
	// Encode writes the decoded value anew, in the schema that the message
	// names. It is for values that were changed on the way; else the bytes are
	// copied as they came.
	Encode bool
	// Logger is told when a partition is taken over again; nil is silent.
	Logger *slog.Logger
}

// Sink copies batches to one topic. It is a consumers.Sink and a stream.Owner;
// Write may be called concurrently for different partitions.
type Sink struct {
	broker       stream.Resumer
	config       Config
	log          *slog.Logger
	reclaimAfter time.Duration

	mu     sync.Mutex
	claims map[lane]*claim
}

type lane struct {
	topic  string
	number int32
}

// claim is one source partition that this sink was assigned.
type claim struct {
	partition stream.Partition
	// ctx ends, by end, when the partition is lost.
	ctx context.Context
	end context.CancelFunc

	mu   sync.Mutex
	tx   stream.Transactor // nil after an error: the position has to be asked for
	next int64
	// written says that a batch was stored since the claim, from which on the
	// next one must follow without a hole.
	written bool
	// shut is when someone else was found to have taken the partition over.
	shut time.Time
}

func (c *claim) String() string { return fmt.Sprintf("%s[%d]", c.partition.Topic, c.partition.Number) }

// reclaimAfter is how long a sink that was shut out, and not told that it lost
// the partition, waits before it takes it over again: a slow member that the
// source has taken the partition from may have claimed it late, and will not
// write.
const reclaimAfter = 10 * time.Second

// New returns a sink for a topic of broker. Close ends it, and leaves the broker
// open.
func New(broker stream.Resumer, c Config) (*Sink, error) {
	switch {
	case c.Topic == "":
		return nil, errors.New("open topic sink: it needs the name of a topic")
	case c.Pipeline == "":
		return nil, errors.New("open topic sink: it needs the name of a pipeline, under which its positions are kept")
	}
	s := &Sink{broker: broker, config: c, log: c.Logger, reclaimAfter: reclaimAfter, claims: map[lane]*claim{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

var (
	_ stream.Owner       = (*Sink)(nil)
	_ consumers.CellSink = (*Sink)(nil)
)

// TakesCells implements consumers.CellSink: bytes that are copied are looked at
// by nobody.
func (s *Sink) TakesCells(schemas.Schema) bool { return !s.config.Encode }

// Close gives up all partitions. Batches that are being written fail.
func (s *Sink) Close() error {
	s.mu.Lock()
	claims := s.claims
	s.claims = map[lane]*claim{}
	s.mu.Unlock()
	for _, c := range claims {
		c.giveUp()
	}
	return nil
}

// Assigned implements stream.Owner: it takes the positions over, so that whoever
// had them before can write nothing more.
func (s *Sink) Assigned(ctx context.Context, partitions []stream.Partition) (map[stream.Partition]int64, error) {
	claims := make([]*claim, len(partitions))
	errs := make([]error, len(partitions))
	var wait sync.WaitGroup
	for i, p := range partitions {
		c := &claim{partition: p}
		c.ctx, c.end = context.WithCancel(context.WithoutCancel(ctx))
		claims[i] = c
		if p.Topic == s.config.Topic {
			errs[i] = fmt.Errorf("topic %q would be copied to itself: %w", p.Topic, consumers.ErrStop)
			continue
		}
		wait.Go(func() { errs[i] = s.resume(ctx, c) })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		for _, c := range claims {
			c.giveUp()
		}
		return nil, fmt.Errorf("claim partitions: %w", err)
	}
	positions := map[stream.Partition]int64{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range claims {
		s.claims[lane{c.partition.Topic, c.partition.Number}] = c
		if c.next > 0 {
			positions[c.partition] = c.next
		}
	}
	return positions, nil
}

// Lost implements stream.Owner.
func (s *Sink) Lost(_ context.Context, partitions []stream.Partition) error {
	for _, p := range partitions {
		l := lane{p.Topic, p.Number}
		s.mu.Lock()
		c := s.claims[l]
		if c != nil && c.partition == p {
			delete(s.claims, l)
		} else {
			c = nil
		}
		s.mu.Unlock()
		if c != nil {
			c.giveUp()
		}
	}
	return nil
}

// giveUp ends what is being written, and waits for that.
func (c *claim) giveUp() {
	c.end()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop()
}

// drop lets go of the transactor. It is called with c.mu held.
func (c *claim) drop() {
	if c.tx != nil {
		_ = c.tx.Close() // it has nothing to say: what was not committed is not there
		c.tx = nil
	}
}

// resume takes the position over. It is called with c.mu held, or before anyone
// else knows c.
func (s *Sink) resume(ctx context.Context, c *claim) error {
	p := c.partition
	input := fmt.Sprintf("%s/%s/%s/%s/%d", s.config.Pipeline, p.Cluster, p.Topic, p.Incarnation, p.Number)
	tx, at, err := s.broker.Resume(ctx, s.config.Topic, input)
	switch {
	case errors.Is(err, stream.ErrUnsupported), errors.Is(err, stream.ErrNoTopic):
		return fmt.Errorf("%w: %w", consumers.ErrStop, err)
	case err != nil:
		return err
	case at.Next < c.next:
		_ = tx.Close()
		return fmt.Errorf("its position was set back from %d to %d: %w; start again to read from there", c.next, at.Next, consumers.ErrStop)
	}
	c.tx, c.next = tx, at.Next
	return nil
}

// Write implements consumers.Sink.
func (s *Sink) Write(ctx context.Context, b consumers.Batch) error {
	s.mu.Lock()
	c := s.claims[lane{b.Topic, b.Partition}]
	s.mu.Unlock()
	return consumers.WriteClaimed(ctx, b, c, s.write)
}

func (s *Sink) write(ctx context.Context, c *claim, b consumers.Batch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return fmt.Errorf("it was lost: %w", stream.ErrFenced)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	for again := false; ; again = true {
		if c.tx == nil {
			if time.Since(c.shut) < s.reclaimAfter {
				return fmt.Errorf("another sink has taken it over: %w", stream.ErrFenced)
			}
			if !c.shut.IsZero() {
				s.log.Info("take partition over again", "partition", c.String())
			}
			before := c.next
			if err := s.resume(ctx, c); err != nil {
				return err
			}
			c.written = c.written || c.next > before
		}
		if b.Next <= c.next {
			return nil
		}
		if c.written && b.First > c.next {
			return fmt.Errorf("offsets from %d on are missing before it: %w", c.next, consumers.ErrStop)
		}
		err := s.commit(ctx, c, b)
		refused := (*stream.BatchError)(nil)
		switch {
		case err == nil, errors.As(err, &refused):
			return err
		case errors.Is(err, stream.ErrFenced):
			c.drop()
			c.shut = time.Now()
			return err
		}
		c.drop() // whether it took place is to be asked
		if again || ctx.Err() != nil {
			return err
		}
	}
}

// commit writes the messages from the position on, and moves it to b.Next: in
// one commit, or in several where the broker takes no more records at once.
// What a commit was is not written again, so b may be left in between.
func (s *Sink) commit(ctx context.Context, c *claim, b consumers.Batch) error {
	from, _ := slices.BinarySearchFunc(b.Messages, c.next, func(m consumers.Message, at int64) int { return int(m.Offset - at) })
	records, err := s.records(b.Messages, from)
	if err != nil {
		return err
	}
	for {
		n, next := len(records), b.Next
		if n > stream.MaxCommit {
			n = stream.MaxCommit
			next = b.Messages[from+n].Offset
		}
		err := c.tx.Commit(ctx, records[:n], stream.Position{Next: next})
		if refused := (*stream.BatchError)(nil); errors.As(err, &refused) {
			named := &stream.BatchError{}
			for i, err := range refused.Errs {
				named.Fail(from+i, err)
			}
			return named
		}
		if err != nil {
			return err
		}
		c.next, c.written, c.shut = next, true, time.Time{}
		records, from = records[n:], from+n
		if next == b.Next {
			return nil
		}
	}
}

// records makes the copies of the messages from an index on.
func (s *Sink) records(messages []consumers.Message, from int) ([]stream.Record, error) {
	records := make([]stream.Record, 0, len(messages)-from)
	refused := &stream.BatchError{}
	for i, m := range messages[from:] {
		r := m.Record
		if s.config.Encode && m.Schema != nil {
			var err error
			if r.Value, err = encode(m); err != nil {
				refused.Fail(from+i, err)
				continue
			}
		}
		r.Topic = s.config.Topic
		r.Headers = slices.DeleteFunc(slices.Clone(r.Headers), func(h stream.Header) bool { return h.Key == SourceHeader })
		r.Headers = append(r.Headers, stream.Header{Key: SourceHeader, Value: fmt.Appendf(nil, "%s/%d/%d", m.Topic, m.Partition, m.Offset)})
		records = append(records, r)
	}
	return records, refused.OrNil()
}

// encode writes a message's value anew, with the number of its schema in front.
func encode(m consumers.Message) ([]byte, error) {
	if m.Schema.Type() == schemas.Protobuf {
		return nil, errors.New("expected a value in Avro or JSON, found Protobuf, which this sink copies only as it is")
	}
	return m.Schema.AppendEncode(schemas.AppendHeader(nil, m.SchemaID), m.Data)
}
