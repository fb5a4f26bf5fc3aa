package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/registry"
	"penstock/stream/kafka/transaction"
)

// overhead bounds what a record takes besides its key and value.
const overhead = 128

// Append implements registry.Log. All events are one transaction. While no node
// is known to write, Append waits some seconds for one.
func (l *Log) Append(ctx context.Context, prev uint64, events ...registry.Event) (uint64, error) {
	records := make([]*kgo.Record, len(events))
	for i, e := range events {
		if size := len(e.Key) + len(e.Value) + overhead; size > l.maxRecord {
			return 0, fmt.Errorf("append to topic %q: record %s takes %d bytes, its max.message.bytes is %d: %w", l.o.Topic, e.Key, size, l.maxRecord, registry.ErrTooLarge)
		}
		records[i] = &kgo.Record{Topic: l.o.Topic, Key: e.Key, Value: e.Value, Timestamp: e.Time}
	}
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case l.appending <- struct{}{}:
	case <-l.done:
		return 0, ErrClosed
	}
	defer func() { <-l.appending }()
	for {
		t, err := l.writing(ctx)
		if err != nil {
			return 0, err
		}
		end, err := l.appendIn(ctx, t, prev, records)
		l.release(t)
		if err == nil || errors.Is(err, registry.ErrConflict) {
			return end, err
		}
		// Whether the transaction has a future is for the next term to see.
		l.retire(t)
		if errors.Is(err, errFenced) && ctx.Err() == nil {
			l.o.Logger.Warn("the term of the writer of the registry's log is over", "error", err)
			continue
		}
		unstored := errors.Is(err, errFenced) || errors.Is(err, errUncommitted)
		if err = l.failure(ctx, err); unstored {
			l.o.Logger.Error("append to the registry's log failed before its commit, nothing is stored", "error", err)
			err = fmt.Errorf("%w: %w", &registry.NotWriterError{}, err)
		}
		return 0, fmt.Errorf("append to topic %q: %w", l.o.Topic, err)
	}
}

// Why a term ended where nothing was stored.
var (
	errFenced      = errors.New("fenced")        // its producer has no future, a new one may have
	errUncommitted = errors.New("not committed") // nor will the transaction ever be
)

// appendIn appends as the writer of a term. errFenced and errUncommitted say that
// nothing was stored; after other errors nobody knows.
func (l *Log) appendIn(ctx context.Context, t *term, prev uint64, records []*kgo.Record) (uint64, error) {
	if l.endOf != t {
		if err := l.readToEnd(ctx); err != nil {
			return 0, fmt.Errorf("%w: %w", errUncommitted, err)
		}
		l.endOf = t
	}
	if prev != l.end {
		return 0, registry.ErrConflict
	}
	// The producer does not give up what it has begun to send, but for its end.
	defer context.AfterFunc(ctx, t.producer.Close)()
	if err := t.producer.BeginTransaction(); err != nil {
		return 0, l.ended(t, err)
	}
	results := t.producer.ProduceSync(ctx, records...)
	if err := results.FirstErr(); err != nil {
		return 0, l.ended(t, err)
	}
	if err := transaction.End(ctx, t.producer, kgo.TryCommit, records...); err != nil {
		return 0, err // it may have been committed before the answer got lost
	}
	last := uint64(0)
	for _, r := range records {
		last = max(last, uint64(r.Offset)+1)
	}
	// The transaction has ended, but readers see it only when its marker, which
	// takes the next offset, is in the partition.
	l.end = last
	err := l.scan(ctx, last, last+1, func(e registry.Event) error {
		l.end = e.Position // not ours: then the next Append conflicts
		return nil
	})
	if err != nil {
		return 0, err
	}
	raise(&l.read, last)
	return last, nil
}

// ended wraps an error before the commit into errFenced if the term is over, and
// into errUncommitted if not: the term that comes next aborts what was produced.
func (l *Log) ended(t *term, err error) error {
	l.mu.Lock()
	over := l.term != t
	l.mu.Unlock()
	if over || fenced(err) {
		return fmt.Errorf("%w: %w", errFenced, err)
	}
	return fmt.Errorf("%w: %w", errUncommitted, err)
}

// readToEnd finds the position of the last event. No transaction is open, since
// the term has begun.
func (l *Log) readToEnd(ctx context.Context) error {
	end, err := l.stable(ctx)
	if err == nil {
		err = l.scan(ctx, l.read.Load(), end, func(registry.Event) error { return nil })
	}
	if err != nil {
		return fmt.Errorf("read to the end: %w", err)
	}
	l.end = l.read.Load()
	return nil
}

// newTerm takes the transactional id over, which ends the transactions of
// whoever had it.
func (l *Log) newTerm(ctx context.Context) (*term, error) {
	producer, err := kgo.NewClient(append(l.o.client(),
		kgo.TransactionalID(l.group),
		kgo.TransactionTimeout(15*time.Second),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(int32(min(l.maxRecord, 64<<20))),
		kgo.ProducerLinger(0),
	)...)
	if err != nil {
		return nil, err
	}
	if _, _, err := producer.ProducerID(ctx); err != nil {
		producer.Close()
		return nil, fmt.Errorf("take over transactional id %q: %w", l.group, err)
	}
	return &term{producer: producer}, nil
}
