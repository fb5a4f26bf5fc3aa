package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"penstock/registry"
)

// fetchBytes is how much is read at a time. A larger batch comes all the same.
const fetchBytes = 4 << 20

// End implements registry.SharedLog. It is where all transactions before have
// ended, as the partition's leader knows it.
func (l *Log) End(ctx context.Context) (uint64, error) {
	end, err := l.stable(ctx)
	if err != nil {
		return 0, fmt.Errorf("find the end of topic %q: %w", l.o.Topic, l.failure(ctx, err))
	}
	return end, nil
}

func (l *Log) stable(ctx context.Context) (uint64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	req.IsolationLevel = 1 // committed
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic = l.o.Topic
	partition := kmsg.NewListOffsetsRequestTopicPartition()
	partition.Timestamp = -1 // the end
	topic.Partitions = append(topic.Partitions, partition)
	req.Topics = append(req.Topics, topic)
	before := l.highest.Load()
	resp, err := req.RequestWith(ctx, l.client)
	if err != nil {
		return 0, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, errors.New("the answer names no partition")
	}
	p := resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
		return 0, err
	}
	end := uint64(max(p.Offset, 0))
	if end < before {
		return 0, fmt.Errorf("it ends at offset %d, and ended at %d before: it was made anew or lost its leader; restart the registry to go on with what it has: %w", end, before, ErrTruncated)
	}
	raise(&l.highest, end)
	return end, nil
}

// raise makes n at least to.
func raise(n *atomic.Uint64, to uint64) {
	for {
		old := n.Load()
		if to <= old || n.CompareAndSwap(old, to) {
			return
		}
	}
}

// Replay implements registry.Log.
func (l *Log) Replay(ctx context.Context, from uint64, fn func(registry.Event) error) error {
	end, err := l.stable(ctx)
	if err == nil {
		err = l.scan(ctx, from, end, fn)
	}
	if own := (*callbackError)(nil); errors.As(err, &own) {
		return own.error
	}
	if err != nil {
		return fmt.Errorf("read topic %q: %w", l.o.Topic, l.failure(ctx, err))
	}
	return nil
}

// callbackError is what Replay's caller said, and not what the reading did.
type callbackError struct{ error }

// scan calls fn for the events from an offset on, up to end at least, for which
// it waits. end is not beyond where transactions end, or will soon.
func (l *Log) scan(ctx context.Context, from, end uint64, fn func(registry.Event) error) error {
	for from < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		part, err := l.fetch(ctx, int64(from))
		if err != nil {
			return err
		}
		for _, r := range part.records {
			if uint64(r.Offset) >= end {
				break // younger than the call
			}
			if string(r.Key) == noop {
				continue
			}
			e := registry.Event{Position: uint64(r.Offset) + 1, Time: r.Timestamp, Key: r.Key, Value: r.Value}
			raise(&l.read, e.Position)
			if err := fn(e); err != nil {
				return &callbackError{err}
			}
		}
		if part.next == from && part.stable >= end {
			return nil // compaction has taken what was there
		}
		from = part.next
	}
	return nil
}

// fetched is what one request brought.
type fetched struct {
	records []*kgo.Record // committed data
	next    uint64        // the offset to go on at
	stable  uint64        // where transactions had ended
}

// fetch asks the leader for records from an offset on. It returns none if none
// came within a moment.
func (l *Log) fetch(ctx context.Context, from int64) (fetched, error) {
	for {
		part, err := l.fetchOnce(ctx, from)
		switch {
		case err == nil, ctx.Err() != nil, errors.Is(err, kgo.ErrClientClosed):
			return part, err
		case errors.Is(err, kerr.OffsetOutOfRange):
			return l.fromStart(ctx, from)
		case !kerr.IsRetriable(err) && errors.As(err, new(*kerr.Error)):
			return part, err
		}
		// The leader has moved, or cannot be reached.
		if pause(ctx, 50*time.Millisecond) != nil {
			return part, err
		}
		if _, failed := l.metadata(ctx); failed != nil {
			return part, errors.Join(err, failed)
		}
	}
}

// fromStart answers a fetch of what is no longer there: somebody has deleted
// records, so reading goes on where the topic begins now.
func (l *Log) fromStart(ctx context.Context, from int64) (fetched, error) {
	starts, err := l.admin.ListStartOffsets(ctx, l.o.Topic)
	if err != nil {
		return fetched{}, err
	}
	start, _ := starts.Lookup(l.o.Topic, 0)
	if start.Err != nil {
		return fetched{}, start.Err
	}
	if start.Offset <= from {
		return fetched{}, kerr.OffsetOutOfRange
	}
	return fetched{next: uint64(start.Offset)}, nil
}

func (l *Log) fetchOnce(ctx context.Context, from int64) (fetched, error) {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID = -1
	req.MaxWaitMillis = 100
	req.MinBytes = 1
	req.MaxBytes = fetchBytes
	req.IsolationLevel = 1
	req.SessionEpoch = -1 // no session
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic, topic.TopicID = l.o.Topic, l.topicID
	partition := kmsg.NewFetchRequestTopicPartition()
	partition.FetchOffset = from
	partition.PartitionMaxBytes = fetchBytes
	topic.Partitions = append(topic.Partitions, partition)
	req.Topics = append(req.Topics, topic)
	raw, err := l.client.Broker(int(l.leader.Load())).Request(ctx, req)
	if err != nil {
		return fetched{}, err
	}
	resp := raw.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return fetched{}, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return fetched{}, errors.New("the answer names no partition")
	}
	p := &resp.Topics[0].Partitions[0]
	part, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		Offset: from, IsolationLevel: kgo.ReadCommitted(), Topic: l.o.Topic,
	}, p, kgo.DefaultDecompressor(), nil)
	if part.Err != nil {
		return fetched{}, part.Err
	}
	return fetched{part.Records, uint64(next), uint64(max(p.LastStableOffset, 0))}, nil
}
