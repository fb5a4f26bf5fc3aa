// Package memory is a broker in memory, for tests and examples: it has topics,
// partitions, groups that share them, positions and fencing as Kafka has, and
// it keeps everything it was ever given until nobody refers to it any more.
package memory

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"

	"penstock/stream"
)

// DefaultPartitions is how many partitions a topic gets that names no number.
const DefaultPartitions = 4

// Broker is a connection to a broker in memory. It implements stream.Broker.
type Broker struct {
	server *server

	mu     sync.Mutex
	closed bool
}

// New starts an empty broker and returns a connection to it. There is nothing
// to stop: it goes when the last connection to it does.
func New() *Broker {
	s := &server{
		cluster: rand.Text(),
		topics:  map[string]*topic{},
		changed: make(chan struct{}),
	}
	return &Broker{server: s}
}

// Connect returns a new connection to the same broker, which is independent of
// b: it works after b was closed, too.
func (b *Broker) Connect() *Broker { return &Broker{server: b.server} }

// server is what the connections share. Everything below it is guarded by mu.
type server struct {
	cluster string

	mu     sync.Mutex
	topics map[string]*topic
	// changed is closed, and replaced, whenever a waiting Fetch could find
	// something new.
	changed chan struct{}
}

type topic struct {
	name        string
	incarnation string
	deleted     bool
	partitions  [][]stream.Record
	keyless     int // the partition of the next record without a key
	groups      map[string]*group
	ids         map[string]bool // of stream.Conditions
	inputs      map[string]*input
}

// wake ends the wait of every Fetch. It is called with s.mu held.
func (s *server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// find returns the topic of that name. It is called with s.mu held.
func (s *server) find(name string) (*topic, error) {
	t, ok := s.topics[name]
	if !ok {
		return nil, fmt.Errorf("topic %q: %w", name, stream.ErrNoTopic)
	}
	return t, nil
}

func (s *server) partition(t *topic, number int) stream.Partition {
	return stream.Partition{Cluster: s.cluster, Topic: t.name, Incarnation: t.incarnation, Number: int32(number)}
}

// Create implements stream.Broker.
func (b *Broker) Create(ctx context.Context, name string, partitions int) error {
	if err := b.usable(ctx); err != nil {
		return fmt.Errorf("create topic %q: %w", name, err)
	}
	if name == "" || partitions < 0 {
		return fmt.Errorf("create topic %q: it needs a name, and no negative number of partitions (%d)", name, partitions)
	}
	if partitions == 0 {
		partitions = DefaultPartitions
	}
	s := b.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.topics[name]; !ok {
		s.topics[name] = &topic{
			name:        name,
			incarnation: rand.Text(),
			partitions:  make([][]stream.Record, partitions),
			groups:      map[string]*group{},
		}
	}
	return nil
}

// Delete removes a topic, its records and the positions of its groups.
func (b *Broker) Delete(ctx context.Context, name string) error {
	if err := b.usable(ctx); err != nil {
		return fmt.Errorf("delete topic %q: %w", name, err)
	}
	s := b.server
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.find(name)
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	t.deleted = true
	delete(s.topics, name)
	s.wake()
	return nil
}

// Publish implements stream.Publisher. It copies what it is given.
func (b *Broker) Publish(ctx context.Context, records ...stream.Record) error {
	if err := b.usable(ctx); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	s := b.server
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed stream.BatchError
	now := time.Now()
	for i, r := range records {
		t, err := s.admit(r)
		if err != nil {
			failed.Fail(i, err)
			continue
		}
		records[i].Partition, records[i].Offset = t.append(r, now)
	}
	if len(failed.Errs) < len(records) {
		s.wake()
	}
	return failed.OrNil()
}

// append stores a copy of r and returns where.
func (t *topic) append(r stream.Record, now time.Time) (partition int32, offset int64) {
	if r.Key == nil {
		r.Partition = int32(t.keyless)
		t.keyless = (t.keyless + 1) % len(t.partitions)
	} else {
		r.Partition = stream.PartitionFor(r.Key, len(t.partitions))
	}
	r.Offset = int64(len(t.partitions[r.Partition]))
	r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
	r.Headers = slices.Clone(r.Headers)
	for i := range r.Headers {
		r.Headers[i].Value = append([]byte{}, r.Headers[i].Value...)
	}
	if r.Time.IsZero() {
		r.Time = now
	}
	r.Time = r.Time.Truncate(time.Millisecond)
	t.partitions[r.Partition] = append(t.partitions[r.Partition], r)
	return r.Partition, r.Offset
}

// Ranges implements stream.Broker.
func (b *Broker) Ranges(ctx context.Context, name string) ([]stream.Range, error) {
	if err := b.usable(ctx); err != nil {
		return nil, fmt.Errorf("ranges of topic %q: %w", name, err)
	}
	s := b.server
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.find(name)
	if err != nil {
		return nil, fmt.Errorf("ranges: %w", err)
	}
	ranges := make([]stream.Range, len(t.partitions))
	for i, records := range t.partitions {
		n := int64(len(records))
		ranges[i] = stream.Range{Partition: s.partition(t, i), End: n, Records: n}
	}
	return ranges, nil
}

// Close implements stream.Broker. It may be called more than once.
func (b *Broker) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}

// usable says why a call cannot go on: ctx ended, or b was closed.
func (b *Broker) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return stream.ErrClosed
	}
	return nil
}
