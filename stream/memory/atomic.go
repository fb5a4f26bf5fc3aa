package memory

import (
	"context"
	"fmt"
	"time"

	"penstock/stream"
)

// PublishAtomic implements stream.AtomicPublisher, over any number of topics. An
// ID is remembered for as long as its topic is there.
func (b *Broker) PublishAtomic(ctx context.Context, c stream.Conditions, records ...stream.Record) error {
	if err := b.usable(ctx); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if len(records) == 0 {
		return nil
	}
	s := b.server
	s.mu.Lock()
	defer s.mu.Unlock()
	topics, err := s.admitAll(records)
	if err != nil {
		return err
	}
	t := topics[0]
	if c.ID != "" || c.After != nil {
		for _, other := range topics {
			if other != t {
				return fmt.Errorf("publish: conditions on records of topics %q and %q, expected those of one: %w", t.name, other.name, stream.ErrUnsupported)
			}
		}
	}
	if t.ids[c.ID] {
		return fmt.Errorf("publish: ID %q: %w", c.ID, stream.ErrDuplicate)
	}
	for number, want := range c.After {
		if int(number) < 0 || int(number) >= len(t.partitions) {
			return fmt.Errorf("publish: topic %q has no partition %d", t.name, number)
		}
		if last := int64(len(t.partitions[number])) - 1; last != want {
			return fmt.Errorf("publish: partition %d of topic %q ends with offset %d, expected %d: %w", number, t.name, last, want, stream.ErrConflict)
		}
	}
	if c.ID != "" {
		if t.ids == nil {
			t.ids = map[string]bool{}
		}
		t.ids[c.ID] = true
	}
	now := time.Now()
	for i, r := range records {
		records[i].Partition, records[i].Offset = topics[i].append(r, now)
	}
	s.wake()
	return nil
}

// admit returns the topic of a record, or why it cannot be written. It is called
// with s.mu held.
func (s *server) admit(r stream.Record) (*topic, error) {
	t, err := s.find(r.Topic)
	if err == nil && len(r.Value) > stream.MaxValueBytes {
		err = fmt.Errorf("%w: the value has %d bytes, the limit is %d", stream.ErrTooLarge, len(r.Value), stream.MaxValueBytes)
	}
	return t, err
}

// admitAll returns the topics of records, if all may be written. It is called with s.mu
// held.
func (s *server) admitAll(records []stream.Record) ([]*topic, error) {
	var failed stream.BatchError
	topics := make([]*topic, len(records))
	for i, r := range records {
		t, err := s.admit(r)
		if err != nil {
			failed.Fail(i, err)
		}
		topics[i] = t
	}
	return topics, failed.OrNil()
}

var _ stream.AtomicPublisher = (*Broker)(nil)
