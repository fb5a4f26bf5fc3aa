// Package stream is the seam between Penstock and a broker.
//
// A Publisher appends records to topics, a Source yields the records of one
// subscription. The packages below implement both over one broker each; the
// suite in streamtest says, as tests, what they have in common. The rest of
// Penstock sees no broker but this package, which imports the standard library
// alone.
package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// MaxValueBytes is the largest value a Publisher accepts unless its broker was
// set up for another limit.
const MaxValueBytes = 1_000_000

// Errors that every implementation returns, wrapped with what it knows.
var (
	// ErrClosed is returned by every call on something that was closed.
	ErrClosed = errors.New("closed")
	// ErrTooLarge marks a record that the broker's limit does not admit. The
	// wrapping error names the limit and the record's size.
	ErrTooLarge = errors.New("record too large")
	// ErrNoTopic is returned where a topic is named that does not exist.
	ErrNoTopic = errors.New("no such topic")
	// ErrTopicChanged stops a source whose topic was deleted and made again:
	// its offsets start over, so positions kept for the old one mean nothing.
	ErrTopicChanged = errors.New("topic was deleted and made again")
	// ErrFenced is returned by an AckFunc whose partition has moved to another
	// member of the group: the batch is redelivered there, nothing was settled.
	ErrFenced = errors.New("partition was given to another consumer")
	// ErrPosition stops a source whose Owner names a position that its
	// partition does not hold: the records there were deleted before they were
	// read, or the position is another topic's.
	ErrPosition = errors.New("position outside of what the partition holds")
	// ErrUnreachable marks a broker that cannot be reached.
	ErrUnreachable = errors.New("broker cannot be reached")
)

// Record is one event on a topic. It has no methods and carries no context:
// copy it freely, and treat the bytes as read-only.
type Record struct {
	Topic string
	// Key decides the partition (Kafka's murmur2 hash). nil is no key, and
	// such records are spread over the partitions; empty is a key.
	Key []byte
	// Value is the payload. nil is a tombstone, which is not the same as empty.
	Value []byte
	// Headers keep their order, and a key may stand more than once. A header
	// value that is nil arrives as empty.
	Headers []Header
	// Time is when the event was published, to the millisecond. A Publisher
	// sets it where it is zero.
	Time time.Time

	// Partition and Offset say where the record lies. A Source sets them, and
	// so does a Publisher, which ignores what they were.
	Partition int32
	// Assignment grows each time that the partition comes to the Source anew.
	// The Source sets it. Of one assignment the records are delivered in the
	// order of their offsets, but for those that come again.
	Assignment int32
	Offset     int64
}

// Header is one header of a record.
type Header struct {
	Key   string
	Value []byte
}

// Header returns the value of the first header named key.
func (r Record) Header(key string) (value []byte, ok bool) {
	for _, h := range r.Headers {
		if h.Key == key {
			return h.Value, true
		}
	}
	return nil, false
}

// Partition names one partition of one life of a topic. It is comparable, and
// together with an offset it identifies a record for good.
type Partition struct {
	// Cluster is the Kafka cluster id, or the name of the NATS cluster or
	// server that holds the stream.
	Cluster string
	Topic   string
	// Incarnation tells apart a topic from one of the same name made after it
	// was deleted: Kafka's topic id, the JetStream stream's creation time.
	Incarnation string
	Number      int32
}

// Range is what a partition holds: the records from Start up to, not
// including, End. On some brokers offsets in between may be missing.
type Range struct {
	Partition  Partition
	Start, End int64
	// Records is how many records lie between Start and End, where the broker
	// can say without reading them, else -1 (a Kafka partition that may have
	// been compacted or hold transaction markers still answers End-Start).
	Records int64
}

// Publisher appends records to their topics.
type Publisher interface {
	// Publish returns once every record is durable, or ctx ends. Records of
	// one key arrive in the order given. If only some records failed, it
	// returns a *BatchError that names them by index; the others are durable.
	// After any other error each record may or may not have been written.
	// It sets Partition and Offset of each record of the slice that is durable.
	// Once it has returned nil, nothing refers to the records or their bytes
	// any more, and the caller may use them again; after an error it may not.
	// Publish may be called concurrently.
	Publish(ctx context.Context, records ...Record) error
}

// AckFunc settles a batch, once: a second call does nothing. A nil err acknowledges every record; a
// *BatchError redelivers, after a delay, the records it names and acknowledges
// the rest; any other err redelivers all. It returns ErrFenced if the partition
// has been given to another consumer meanwhile, and ErrClosed if the source was
// closed; then nothing was settled.
//
// After an error that is neither ErrFenced nor ErrClosed nothing was settled,
// and it may be called again.
//
// Batches may be settled in any order and from any goroutine. What the broker
// remembers never passes the lowest record that is not settled. Of two batches
// of one partition that are to be redelivered, the one with the lower offsets
// comes again first, if it was nacked first.
type AckFunc func(ctx context.Context, err error) error

// Source yields the batches of a subscription.
type Source interface {
	// Fetch blocks until at least one record is ready, and returns at most max
	// records, all of one assignment of one partition, in the order of their
	// offsets. Records that come again may stand before ones that are new, and
	// what lies between may be on its way still. Several
	// batches may be outstanding at once. A batch that is never settled is
	// delivered again to the group's next source. Fetch returns ErrClosed
	// after Close, and ctx.Err() if ctx ends first. One goroutine may call it
	// at a time.
	Fetch(ctx context.Context, max int) ([]Record, AckFunc, error)
}

// SourceCloser is a Source together with its end. Close gives up its
// partitions, leaves unsettled batches to be delivered again, and returns when
// nothing of it runs any more. It may be called more than once, and
// concurrently with Fetch, which it ends.
type SourceCloser interface {
	Source
	Close() error
}

// Pauser is a Source that can leave a partition out.
type Pauser interface {
	// Pause has Fetch return no new records of a partition, or, with pause
	// false, return them again; nacked records come all the same. A partition
	// that is assigned anew is not paused. It does not wait for anything, and
	// does nothing for a partition that this source does not hold.
	Pause(partition int32, pause bool)
}

// Releaser is a Source that warns before it gives up a partition.
type Releaser interface {
	// OnRelease has f called when a partition is to go to another consumer
	// (gone is false), and once it is gone. In between, for at most the
	// subscription's HoldFor, no records of it are delivered, and its batches
	// can be settled still: who gathers records hands on what it has. The
	// wait ends when nothing is left to settle. f must not wait for anything.
	// OnRelease is called before the first Fetch.
	OnRelease(f func(topic string, partition int32, gone bool))
}

// Owner is what holds the positions of a subscription in the place of the
// broker, typically in the transaction in which it stores its results.
type Owner interface {
	// Assigned claims partitions for this consumer, before anything is fetched
	// from them, and says at which offset each starts; one that is missing
	// from the answer starts at the oldest record. After ErrFenced, since someone
	// else was faster, the source claims again what it holds still. Another error
	// ends the source, and so does an offset below the oldest record or beyond
	// the end (ErrPosition): only who keeps the positions can tell what that means.
	Assigned(ctx context.Context, partitions []Partition) (map[Partition]int64, error)
	// Lost says that partitions it claimed are no longer this consumer's: they
	// belong to someone else from now on, or the source was closed. A source
	// never calls Assigned and Lost at the same time, and Close returns after
	// the last Lost has.
	Lost(ctx context.Context, partitions []Partition) error
}

// Subscription says what a source reads.
type Subscription struct {
	Topic string
	// Group is the name under which the broker keeps positions. Sources of one
	// group share the partitions of the topic. A group that has no position
	// starts at the oldest record.
	Group string
	// Owner, if not nil, keeps the positions in the broker's place. An ack
	// then only tells the broker how far the group has come.
	Owner Owner
	// HoldFor is the longest time a caller keeps a batch before it settles it
	// (its linger and the time to write). A broker that would deliver the
	// batch again before that refuses the subscription. Zero is 10 seconds.
	HoldFor time.Duration
	// Retry is the delay before a nacked record comes again. Zero is 100 ms.
	Retry time.Duration
}

// Broker is a connection to one broker. Its methods may be called
// concurrently.
type Broker interface {
	Publisher
	// Create makes a topic of the given number of partitions (0: the broker's
	// default). A topic that exists already is left as it is.
	Create(ctx context.Context, topic string, partitions int) error
	// Ranges says what each partition of topic holds now, ordered by number.
	// It returns ErrNoTopic if there is no such topic.
	Ranges(ctx context.Context, topic string) ([]Range, error)
	// Open starts to read. Opening a topic that does not exist is ErrNoTopic.
	Open(ctx context.Context, s Subscription) (SourceCloser, error)
	// Close ends the connection. Sources are closed by who opened them, first.
	Close() error
}

// BatchError says which records of a batch failed, by index.
type BatchError struct {
	Errs map[int]error
}

// Fail notes that record i failed with err.
func (e *BatchError) Fail(i int, err error) {
	if e.Errs == nil {
		e.Errs = map[int]error{}
	}
	e.Errs[i] = err
}

// OrNil returns e as an error, or nil if no record failed.
func (e *BatchError) OrNil() error {
	if e == nil || len(e.Errs) == 0 {
		return nil
	}
	return e
}

// Error names the first failed record, and how many there are.
func (e *BatchError) Error() string {
	indexes := slices.Sorted(maps.Keys(e.Errs))
	if len(indexes) == 0 {
		return "no record failed"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "record %d: %v", indexes[0], e.Errs[indexes[0]])
	if n := len(indexes) - 1; n > 0 {
		fmt.Fprintf(&b, " (and %d more)", n)
	}
	return b.String()
}

// Unwrap returns the errors of the failed records, in their order.
func (e *BatchError) Unwrap() []error {
	errs := make([]error, 0, len(e.Errs))
	for _, i := range slices.Sorted(maps.Keys(e.Errs)) {
		errs = append(errs, e.Errs[i])
	}
	return errs
}

// Group is who reads a topic under a name of its own.
type Group struct {
	Name string
	// Members is how many consumers are in it now, -1 where the broker does not
	// say.
	Members int
}

// Surveyor is a Broker that can say who reads a topic, whatever it was written
// with.
type Surveyor interface {
	// Groups returns the groups that read topic now, or keep a position in it,
	// ordered by name. Whom the broker's access rules hide is left out. It
	// returns ErrNoTopic if there is no such topic.
	Groups(ctx context.Context, topic string) ([]Group, error)
}
