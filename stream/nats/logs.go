package nats

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"penstock/stream"
)

// tombstoneFor is how long a tombstone of a log stays.
const tombstoneFor = "24h"

// CreateLog implements stream.Logs: a stream in which each key has a subject of
// its own, LOG.0.HASH, that keeps its last message.
func (b *Broker) CreateLog(ctx context.Context, name string) error {
	err := b.create(ctx, name, 1, func(c *jetstream.StreamConfig) {
		c.Subjects = []string{subject(c.Name, 0) + ".*"}
		c.MaxMsgsPerSubject = 1
		c.AllowMsgTTL = true
		c.Metadata[logKey] = "1"
	})
	if err != nil {
		return err
	}
	if t, _, err := b.lookup(ctx, name); err != nil || !t.log {
		return errors.Join(err, fmt.Errorf("create log %q: there is a topic of that name: %w", name, stream.ErrUnsupported))
	}
	return nil
}

// ofKey gives the message of a log's record the subject of its key.
func ofKey(m *nats.Msg, r stream.Record) {
	hash := sha256.Sum256(r.Key)
	m.Subject += "." + hex.EncodeToString(hash[:16])
	if r.Value == nil {
		m.Header[ttlHeader] = []string{tombstoneFor}
	}
}

// ReadLog implements stream.Logs.
func (b *Broker) ReadLog(ctx context.Context, name string, from int64, read func([]stream.Record) error) (next int64, err error) {
	next, err = b.readLog(ctx, name, from, read)
	if err != nil {
		return next, fmt.Errorf("read log %q: %w", name, err)
	}
	return next, nil
}

func (b *Broker) readLog(ctx context.Context, name string, from int64, read func([]stream.Record) error) (int64, error) {
	t, s, err := b.lookup(ctx, name)
	if err != nil {
		return from, err
	}
	end := int64(s.CachedInfo().State.LastSeq) + 1
	asking, cancel, err := b.ask(ctx)
	if err != nil {
		return from, err
	}
	defer cancel()
	consumer, err := s.CreateConsumer(asking, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   uint64(max(from, 1)),
		AckPolicy:     jetstream.AckNonePolicy,
		FilterSubject: t.filter(0),
		MemoryStorage: true,
		Replicas:      1,
		MaxDeliver:    1,

		InactiveThreshold: time.Minute,
	})
	if err != nil {
		return from, b.explain(ctx, err)
	}
	defer func() { _ = s.DeleteConsumer(context.WithoutCancel(ctx), consumer.CachedInfo().Name) }() // it would go by itself
	for left := consumer.CachedInfo().NumPending; left > 0 && from < end; {
		records, n, err := b.fetchLog(ctx, consumer, name, int(min(left, 2000)))
		if err != nil {
			return from, err
		}
		left -= min(left, uint64(n))
		for len(records) > 0 && records[len(records)-1].Offset >= end {
			records = records[:len(records)-1]
			from = end
		}
		if len(records) == 0 {
			continue
		}
		if err := read(records); err != nil {
			return from, err
		}
		from = max(from, records[len(records)-1].Offset+1)
	}
	return max(from, end), nil
}

// fetchLog fetches n records of a log, or those that come before an error.
func (b *Broker) fetchLog(ctx context.Context, c jetstream.Consumer, name string, n int) ([]stream.Record, int, error) {
	asking, cancel, err := b.ask(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer cancel()
	batch, err := c.Fetch(n, jetstream.FetchContext(asking))
	if err != nil {
		return nil, 0, b.explain(ctx, err)
	}
	records := make([]stream.Record, 0, n)
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			return nil, 0, err
		}
		r, err := decode(&nats.Msg{Data: m.Data(), Header: m.Headers()}, meta.Timestamp)
		if err != nil {
			return nil, 0, fmt.Errorf("message %d: %w", meta.Sequence.Stream, err)
		}
		r.Topic, r.Offset = name, int64(meta.Sequence.Stream)
		records = append(records, r)
	}
	// Nobody acknowledges them, so none may get lost on its way.
	if err := batch.Error(); err != nil || len(records) < n {
		return nil, 0, fmt.Errorf("%w: %d of %d records came: %w", stream.ErrUnreachable, len(records), n, errors.Join(b.explain(ctx, err), ctx.Err()))
	}
	return records, n, nil
}

var _ stream.Logs = (*Broker)(nil)
