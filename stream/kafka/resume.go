package kafka

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/stream"
)

// PositionsTopic is the compacted topic in which the positions of inputs lie.
const PositionsTopic = "penstock.idempotency"

const positionsPartitions = 8

// Resume implements stream.Resumer. The position is a record of PositionsTopic,
// under the topic's id, so that a topic made again begins anew. Whoever takes an
// input over takes its transactional id over, which ends the transactions of the
// one before.
func (b *Broker) Resume(ctx context.Context, topic, input string) (stream.Transactor, stream.Position, error) {
	var none stream.Position
	if err := b.usable(ctx); err != nil {
		return nil, none, err
	}
	t, err := b.lookup(ctx, topic)
	if err != nil {
		return nil, none, fmt.Errorf("topic %q: %w", topic, err)
	}
	if err := b.makePositions(ctx); err != nil {
		return nil, none, fmt.Errorf("make topic %q: %w", PositionsTopic, err)
	}
	positions, err := b.lookup(ctx, PositionsTopic)
	if err != nil {
		return nil, none, fmt.Errorf("topic %q: %w", PositionsTopic, err)
	}
	id := t.id.String() + "/" + input
	x := &transactor{
		broker: b, topic: topic, key: []byte("position/" + id), claim: []byte("claim/" + id),
		partition: stream.PartitionFor([]byte(id), positions.partitions),
	}
	x.client, err = kgo.NewClient(append(b.config.options(),
		kgo.TransactionalID("penstock/"+id),
		kgo.TransactionTimeout(40*time.Second),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(partitioner{kgo.UniformBytesPartitioner(64<<10, true, true, nil)}),
		kgo.ProducerBatchMaxBytesFn(b.maxBatchBytes),
		kgo.ProducerLinger(0),
		kgo.RetryTimeout(b.config.Timeout),
		kgo.RecordDeliveryTimeout(b.config.Timeout),
	)...)
	if err != nil {
		return nil, none, err
	}
	at, err := x.begin(ctx)
	if err != nil {
		x.client.Close()
		return nil, none, err
	}
	return x, at, nil
}

func (b *Broker) makePositions(ctx context.Context) error {
	asked, cancel := b.ask(ctx)
	defer cancel()
	compact := "compact"
	_, err := b.admin.CreateTopic(asked, positionsPartitions, -1, map[string]*string{"cleanup.policy": &compact}, PositionsTopic)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return translate(ctx, err)
	}
	return b.create(ctx, PositionsTopic, positionsPartitions) // waits for its leaders
}

// partitioner leaves the partition of a position as it is set.
type partitioner struct{ kgo.Partitioner }

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if topic == PositionsTopic {
		return kgo.ManualPartitioner().ForTopic(topic)
	}
	return p.Partitioner.ForTopic(topic)
}

// transactor implements stream.Transactor.
type transactor struct {
	broker     *Broker
	client     *kgo.Client
	topic      string
	key, claim []byte
	partition  int32 // of PositionsTopic
	over       bool  // after an error
}

// storedPosition is the value of a position's record.
type storedPosition struct {
	Next int64  `json:"next"`
	Note string `json:"note,omitempty"`
}

// begin takes the transactional id over and reads the position back.
func (x *transactor) begin(ctx context.Context) (stream.Position, error) {
	var at stream.Position
	asked, cancel := x.broker.ask(ctx)
	defer cancel()
	if _, _, err := x.client.ProducerID(asked); err != nil {
		return at, fmt.Errorf("take the input over: %w", translate(ctx, err))
	}
	// What is read up to a record of our own is all there is: whoever had the
	// input before writes no more, and what he did not commit is aborted.
	nonce := rand.Text()
	if err := x.write(ctx, nil, &kgo.Record{Topic: PositionsTopic, Partition: x.partition, Key: x.claim, Value: []byte(nonce)}); err != nil {
		return at, fmt.Errorf("take the input over: %w", err)
	}
	reader, err := kgo.NewClient(append(x.broker.config.options(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{PositionsTopic: {x.partition: kgo.NewOffset().AtStart()}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)...)
	if err != nil {
		return at, err
	}
	defer reader.Close()
	for {
		fetches := reader.PollFetches(asked)
		if err := fetches.Err(); err != nil {
			return at, fmt.Errorf("read the position back: %w", translate(ctx, err))
		}
		for it := fetches.RecordIter(); !it.Done(); {
			switch r := it.Next(); {
			case slices.Equal(r.Key, x.key):
				var stored storedPosition
				if err := json.Unmarshal(r.Value, &stored); err != nil {
					return at, fmt.Errorf("read the position back: offset %d of partition %d of %q: %w", r.Offset, r.Partition, PositionsTopic, err)
				}
				at = stream.Position(stored)
			case slices.Equal(r.Key, x.claim) && string(r.Value) == nonce:
				return at, nil
			}
		}
	}
}

// Commit implements stream.Transactor.
func (x *transactor) Commit(ctx context.Context, out []stream.Record, in stream.Position) error {
	if len(out) > stream.MaxCommit {
		return fmt.Errorf("commit: %d records, expected %d at most", len(out), stream.MaxCommit)
	}
	value, err := json.Marshal(storedPosition(in))
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	p := publication{broker: x.broker, topics: map[string]*topic{}, missing: map[string]error{}}
	records := toKafka(out)
	var failed stream.BatchError
	for i := range records {
		if out[i].Topic != x.topic {
			return fmt.Errorf("commit: a record of topic %q, expected those of %q", out[i].Topic, x.topic)
		}
		if err := p.admit(ctx, &records[i]); errors.Is(err, stream.ErrTooLarge) {
			failed.Fail(i, err)
		} else if err != nil {
			return fmt.Errorf("commit: %w", err)
		}
	}
	if failed.OrNil() != nil {
		return &failed
	}
	err = x.write(ctx, records, &kgo.Record{Topic: PositionsTopic, Partition: x.partition, Key: x.key, Value: value})
	var partly *stream.BatchError
	if err != nil && !errors.As(err, &partly) {
		return fmt.Errorf("commit: %w", err)
	}
	return err
}

// write writes records and one more in a transaction.
func (x *transactor) write(ctx context.Context, records []kgo.Record, more *kgo.Record) error {
	if x.over {
		return stream.ErrClosed
	}
	x.over = true
	if err := x.client.BeginTransaction(); err != nil {
		return fencedOr(ctx, err)
	}
	// The client does not give up what it has begun to send, but for its end.
	defer context.AfterFunc(ctx, x.client.Close)()
	var (
		mu     sync.Mutex
		failed = map[*kgo.Record]error{}
		first  error
		done   sync.WaitGroup
	)
	produce := func(r *kgo.Record) {
		done.Add(1)
		x.client.Produce(ctx, r, func(r *kgo.Record, err error) {
			if err != nil {
				mu.Lock()
				failed[r] = err
				if first == nil || errors.Is(first, kerr.MessageTooLarge) {
					first = err
				}
				mu.Unlock()
			}
			done.Done()
		})
	}
	for i := range records {
		produce(&records[i])
	}
	produce(more)
	done.Wait()
	if first != nil {
		if !errors.Is(first, kerr.MessageTooLarge) {
			return fencedOr(ctx, first)
		}
		var batch stream.BatchError
		for i := range records {
			if err := failed[&records[i]]; err != nil {
				batch.Fail(i, fmt.Errorf("%w: %w", stream.ErrTooLarge, err))
			}
		}
		if err := x.client.EndTransaction(ctx, kgo.TryAbort); err != nil {
			return fencedOr(ctx, err)
		}
		x.over = false
		return &batch
	}
	if err := x.client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return fencedOr(ctx, err)
	}
	x.over = false
	return nil
}

// fencedOr is err, or stream.ErrFenced if it says so.
func fencedOr(ctx context.Context, err error) error {
	for _, fenced := range []error{kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping, kerr.InvalidTxnState, kerr.UnknownProducerID} {
		if errors.Is(err, fenced) {
			return fmt.Errorf("%w: %w", stream.ErrFenced, err)
		}
	}
	return translate(ctx, err)
}

// Close implements stream.Transactor.
func (x *transactor) Close() error {
	x.client.Close()
	return nil
}

var _ stream.Resumer = (*Broker)(nil)
