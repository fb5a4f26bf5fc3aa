package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"penstock/stream"
)

const (
	messageIDHeader       = "Nats-Msg-Id"
	expectedSubjectHeader = "Nats-Expected-Last-Subject-Sequence-Subject"
)

// The codes of a refusal of an atomic batch as such.
const (
	codeAtomicDisabled  = 10174
	codeBatchTooLarge   = 10199
	codeBatchDuplicates = 10201
)

// PublishAtomic implements stream.AtomicPublisher by an atomic batch. JetStream has
// these since nats-server 2.12, for one stream: records of several topics, more than
// 1,000, and a stream that does not allow atomic batches are stream.ErrUnsupported.
//
// Conditions.ID is the message id of the first record, and is remembered for as long
// as the stream's duplicate window, two minutes by default.
func (b *Broker) PublishAtomic(ctx context.Context, c stream.Conditions, records ...stream.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(records) == 0 {
		return nil
	}
	t, messages, partitions, err := b.together(ctx, records)
	if partly := (*stream.BatchError)(nil); errors.As(err, &partly) {
		return partly
	}
	if err == nil {
		err = expect(t, messages, partitions, c)
	}
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	last, err := b.writeTogether(ctx, messages)
	var refused *jetstream.APIError
	switch {
	case isConflict(err):
		err = fmt.Errorf("%w: %w", stream.ErrConflict, err)
	case errors.As(err, &refused):
		switch refused.ErrorCode {
		case codeBatchDuplicates:
			err = fmt.Errorf("ID %q: %w", c.ID, stream.ErrDuplicate)
		case codeAtomicDisabled, codeBatchTooLarge:
			err = fmt.Errorf("%w: %w", stream.ErrUnsupported, err)
		}
	}
	if err != nil {
		b.forget(t.name)
		return fmt.Errorf("publish: %w", err)
	}
	for i, p := range partitions { // they lie side by side
		records[i].Partition, records[i].Offset = int32(p), int64(last)-int64(len(records)-1-i)
	}
	return nil
}

// together encodes records, if all may be written in one batch, and says for which
// partitions.
func (b *Broker) together(ctx context.Context, records []stream.Record) (t *topic, messages []*nats.Msg, partitions []int, err error) {
	var failed stream.BatchError
	topics := map[string]*topic{}
	for i, r := range records {
		of := topics[r.Topic]
		if of == nil {
			if of, err = b.known(ctx, r.Topic); errors.Is(err, stream.ErrNoTopic) {
				failed.Fail(i, err)
				continue
			} else if err != nil {
				return nil, nil, nil, err
			}
			topics[r.Topic], t = of, of
		}
		m, p, err := b.message(of, r)
		if err != nil {
			failed.Fail(i, err)
			continue
		}
		messages, partitions = append(messages, m), append(partitions, p)
	}
	switch {
	case failed.OrNil() != nil:
		return nil, nil, nil, &failed
	case len(topics) > 1:
		return nil, nil, nil, fmt.Errorf("records of %d topics: an atomic batch of JetStream is of one: %w", len(topics), stream.ErrUnsupported)
	case !t.atomic:
		return nil, nil, nil, fmt.Errorf("topic %q: its stream allows no atomic batches, or its server is older than 2.12: %w", t.name, stream.ErrUnsupported)
	case len(records) > maxBatch:
		return nil, nil, nil, fmt.Errorf("%d records: an atomic batch of JetStream has %d at most: %w", len(records), maxBatch, stream.ErrUnsupported)
	}
	return t, messages, partitions, nil
}

// expect adds conditions to the messages of a batch, each of which can name one
// partition. The server looks at its own subject before it is written to, so that is
// said by the first message there.
func expect(t *topic, messages []*nats.Msg, partitions []int, c stream.Conditions) error {
	set := func(m *nats.Msg, key, value string) {
		if m.Header == nil {
			m.Header = nats.Header{}
		}
		m.Header[key] = []string{value}
	}
	if c.ID != "" {
		set(messages[0], messageIDHeader, c.ID)
	}
	last := map[int]string{} // of the partitions that are not looked at yet
	for number, offset := range c.After {
		if number < 0 || int(number) >= t.partitions {
			return fmt.Errorf("topic %q has no partition %d", t.name, number)
		}
		last[int(number)] = strconv.FormatInt(max(offset, 0), 10)
	}
	free := []*nats.Msg{}
	for i, m := range messages {
		if want, ok := last[partitions[i]]; ok {
			set(m, expectedSubjectSequenceHeader, want)
			delete(last, partitions[i])
		} else {
			free = append(free, m)
		}
	}
	if len(free) < len(last) {
		return fmt.Errorf("conditions on %d partitions, and %d records: JetStream takes one of each: %w", len(c.After), len(messages), stream.ErrUnsupported)
	}
	for number, want := range last {
		set(free[0], expectedSubjectSequenceHeader, want)
		set(free[0], expectedSubjectHeader, t.subjects[number])
		free = free[1:]
	}
	return nil
}

var _ stream.AtomicPublisher = (*Broker)(nil)
