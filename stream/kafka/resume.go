package kafka

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/stream"
	"penstock/stream/kafka/transaction"
)

// PositionsTopic is the compacted topic in which the positions of inputs lie.
const PositionsTopic = "penstock.idempotency"

// EntriesTopic holds the entries of books, for stream.KeepFor. A topic whose
// records go by their age needs nobody who removes them, and is read from a time on.
const EntriesTopic = "penstock.idempotency.keys"

const positionsPartitions = 8

// hour is how much of EntriesTopic goes at a time.
const hour = time.Hour

// Resume implements stream.Resumer. The position is a record of PositionsTopic,
// under the topic's id, so that a topic made again begins anew. Whoever takes an
// input over takes its transactional id over, which ends the transactions of the
// one before.
func (b *Broker) Resume(ctx context.Context, topic, input string) (stream.Transactor, stream.Position, error) {
	return b.resume(ctx, topic, input)
}

func (b *Broker) resume(ctx context.Context, topic, input string, more ...string) (stream.Transactor, stream.Position, error) {
	var at stream.Position
	w, err := b.newWriter(ctx, topic, input, PositionsTopic)
	if err != nil {
		return nil, at, err
	}
	if w.more = more; len(more) > 0 {
		w.most = stream.MaxSpan
	}
	x := &transactor{w}
	key := []byte("position/" + w.id)
	err = x.take(ctx, kgo.NewOffset().AtStart(), func(r *kgo.Record) error {
		if !slices.Equal(r.Key, key) {
			return nil
		}
		var stored storedPosition
		err := json.Unmarshal(r.Value, &stored)
		at = stream.Position(stored)
		return err
	})
	if err != nil {
		return nil, at, errors.Join(fmt.Errorf("take the input over: %w", err), x.Close())
	}
	return x, at, nil
}

// newWriter returns what writes to a topic, and of that to log. It has to be taken.
func (b *Broker) newWriter(ctx context.Context, topic, name, log string) (*writer, error) {
	if err := b.usable(ctx); err != nil {
		return nil, err
	}
	t, err := b.lookup(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("topic %q: %w", topic, err)
	}
	if err := b.makeLog(ctx, log); err != nil {
		return nil, fmt.Errorf("make topic %q: %w", log, err)
	}
	l, err := b.lookup(ctx, log)
	if err != nil {
		return nil, fmt.Errorf("topic %q: %w", log, err)
	}
	id := t.id.String() + "/" + name
	return &writer{broker: b, topic: topic, most: stream.MaxCommit, log: log, id: id, partition: stream.PartitionFor([]byte(id), l.partitions)}, nil
}

func (b *Broker) makeLog(ctx context.Context, log string) error {
	asked, cancel := b.ask(ctx)
	defer cancel()
	config := map[string]*string{"cleanup.policy": new("compact")}
	if log == EntriesTopic {
		config = map[string]*string{
			"cleanup.policy": new("delete"), "message.timestamp.type": new("LogAppendTime"),
			"retention.ms": new(millis(stream.KeepFor + hour)), "segment.ms": new(millis(hour)),
		}
	}
	_, err := b.admin.CreateTopic(asked, positionsPartitions, -1, config, log)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return translate(ctx, err)
	}
	return b.create(ctx, log, positionsPartitions) // waits for its leaders
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// partitioner leaves the partition of what goes to a log as it is set.
type partitioner struct{ kgo.Partitioner }

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if topic == PositionsTopic || topic == EntriesTopic {
		return kgo.ManualPartitioner().ForTopic(topic)
	}
	return p.Partitioner.ForTopic(topic)
}

// writer writes to a topic and, in the same transactions, to a log of what has
// been written there.
type writer struct {
	broker     *Broker
	client     *kgo.Client // nil until it is taken
	topic, log string
	more       []string // topics that it writes to as well
	most       int      // records of a transaction
	id         string   // of the topic, and a name
	partition  int32    // of the log
	over       bool     // after an error
}

// transactor implements stream.Transactor.
type transactor struct{ *writer }

// storedPosition is the value of a position's record.
type storedPosition struct {
	Next int64  `json:"next"`
	Note string `json:"note,omitempty"`
}

// transactional returns a client of a transactional id.
func (b *Broker) transactional(id string) (*kgo.Client, error) {
	return kgo.NewClient(append(b.config.options(),
		kgo.TransactionalID(id),
		kgo.TransactionTimeout(40*time.Second),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(partitioner{kgo.UniformBytesPartitioner(64<<10, true, true, nil)}),
		kgo.ProducerBatchMaxBytesFn(b.maxBatchBytes),
		kgo.ProducerLinger(0),
		kgo.RetryTimeout(b.config.Timeout),
	)...)
}

// take takes the transactional id over and reads the log from an offset on.
func (x *writer) take(ctx context.Context, from kgo.Offset, read func(*kgo.Record) error) error {
	asked, cancel := x.broker.ask(ctx)
	defer cancel()
	if err := x.Close(); err != nil {
		return err
	}
	client, err := x.broker.transactional("penstock/" + x.id)
	if err != nil {
		return err
	}
	x.client, x.over = client, false
	if _, _, err := x.client.ProducerID(asked); err != nil {
		return translate(ctx, err)
	}
	// What is read up to a record of our own is all there is: whoever had it
	// before writes no more, and what he did not commit is aborted.
	nonce, claim := []byte(rand.Text()), []byte("claim/"+x.id)
	if err := x.write(ctx, nil, x.logged(claim, nonce)); err != nil {
		return err
	}
	reader, err := kgo.NewClient(append(x.broker.config.options(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{x.log: {x.partition: from}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)...)
	if err != nil {
		return err
	}
	defer reader.Close()
	for {
		fetches := reader.PollFetches(asked)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read back: %w", translate(ctx, err))
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			if slices.Equal(r.Key, claim) && slices.Equal(r.Value, nonce) {
				return nil
			}
			if err := read(r); err != nil {
				return fmt.Errorf("read back: offset %d of partition %d of %q: %w", r.Offset, r.Partition, x.log, err)
			}
		}
	}
}

// logged is a record of the log.
func (x *writer) logged(key, value []byte) func() *kgo.Record {
	return func() *kgo.Record { return &kgo.Record{Topic: x.log, Partition: x.partition, Key: key, Value: value} }
}

// Commit implements stream.Transactor.
func (x *transactor) Commit(ctx context.Context, out []stream.Record, in stream.Position) error {
	value, err := json.Marshal(storedPosition(in))
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	records, err := x.admit(ctx, out)
	if err == nil {
		err = x.write(ctx, records, x.logged([]byte("position/"+x.id), value))
	}
	if err == nil {
		place(out, records)
	}
	return committed(err)
}

// committed is the error of a commit.
func committed(err error) error {
	if partly := (*stream.BatchError)(nil); err == nil || errors.As(err, &partly) {
		return err
	}
	return fmt.Errorf("commit: %w", err)
}

// admit returns records as the client takes them, if they may be written.
func (x *writer) admit(ctx context.Context, out []stream.Record) ([]kgo.Record, error) {
	if len(out) > x.most {
		return nil, fmt.Errorf("%d records, expected %d at most", len(out), x.most)
	}
	p := publication{broker: x.broker, topics: map[string]*topic{}, missing: map[string]error{}}
	records := toKafka(out)
	var failed stream.BatchError
	for i := range records {
		if out[i].Topic != x.topic && !slices.Contains(x.more, out[i].Topic) {
			return nil, fmt.Errorf("a record of topic %q, expected those of %q", out[i].Topic, x.topic)
		}
		if err := p.admit(ctx, &records[i]); errors.Is(err, stream.ErrTooLarge) {
			failed.Fail(i, err)
		} else if err != nil {
			return nil, err
		}
	}
	return records, failed.OrNil()
}

// write writes records and one of the log in a transaction. That of the entries
// is made when it is known where the others lie.
func (x *writer) write(ctx context.Context, records []kgo.Record, more func() *kgo.Record) error {
	if x.over {
		return stream.ErrClosed
	}
	err := x.broker.transact(ctx, x.client, records, more, x.log == EntriesTopic)
	x.over = err != nil && !errors.As(err, new(*stream.BatchError))
	return err
}

// transact writes records, and what more makes, in a transaction of a client; apart,
// more is called when it is known where the others lie. After a *stream.BatchError
// the client can be used again, and after other errors not; nothing was written
// unless it wraps stream.ErrUnknownOutcome.
func (b *Broker) transact(ctx context.Context, client *kgo.Client, records []kgo.Record, more func() *kgo.Record, apart bool) error {
	if err := client.BeginTransaction(); err != nil {
		return fencedOr(ctx, err)
	}
	// The client does not give up what it has begun to send, but for its end.
	defer context.AfterFunc(ctx, client.Close)()
	asked, cancel := b.ask(ctx)
	defer cancel()
	var (
		mu     sync.Mutex
		failed = map[*kgo.Record]error{}
		first  error
		done   sync.WaitGroup
	)
	var sent []*kgo.Record
	produce := func(r *kgo.Record) {
		sent = append(sent, r)
		done.Add(1)
		client.Produce(asked, r, func(r *kgo.Record, err error) {
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
	if apart {
		done.Wait()
	}
	if more != nil && (!apart || first == nil) { // only who waited may read it
		produce(more())
	}
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
		sent = slices.DeleteFunc(sent, func(r *kgo.Record) bool { return failed[r] != nil })
		if err := transaction.End(ctx, client, kgo.TryAbort, sent...); err != nil {
			return fencedOr(ctx, err)
		}
		return &batch
	}
	if err := transaction.End(ctx, client, kgo.TryCommit, sent...); err != nil {
		return fmt.Errorf("%w: %w", fencedOr(ctx, err), stream.ErrUnknownOutcome)
	}
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

// Close implements stream.Transactor and stream.Book.
func (x *writer) Close() error {
	x.over = true
	if x.client != nil {
		x.client.Close()
	}
	return nil
}

var _ stream.Resumer = (*Broker)(nil)
