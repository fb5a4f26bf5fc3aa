// Package diffing turns a topic of states into a topic of changes: it keeps the
// last value of every key and says, for each record, what is different now.
//
// The pure part compares values (Diff) or, faster, JSON texts (Comparer), says
// by Rules what counts, and writes patches, applies them and turns them round. A
// Differ is the job: a consumers.Sink, to be run by consumers.Run, that keeps its
// state in logs on the broker and a copy of them in a folder. An Applier is the way
// back: it makes of the events the states again, for any other sink.
package diffing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
)

// IDHeader is the header that names an event for good: the position of the
// record that made the change, as cluster/topic/incarnation/partition/offset.
// That of an event that no record made has a count behind it.
const IDHeader = "penstock-id"

// Broker is what a Differ asks of a broker. One that is a stream.Spanner, too,
// has events, state and position written in one transaction.
type Broker interface {
	stream.Resumer
	stream.Logs
	Ranges(ctx context.Context, topic string) ([]stream.Range, error)
}

// Config says what a Differ does.
type Config struct {
	// Broker takes the events and the logs. The Differ does not close it.
	Broker Broker
	// Name is that of the consumer group: positions and logs are kept under it.
	Name string
	// Topic is where the events go, under the keys of the input. It must exist.
	Topic string
	// Format is Debezium unless set.
	Format Format
	// Invertible puts tests of the old value into JSON patches; see Invert.
	Invertible bool
	// Envelope, if it is not nil, says under which schema the envelope is written of
	// a change of values that were written with a schema; see EnvelopeText. It is
	// called for each event. Errors are like those of consumers.Registry. It is of
	// Debezium alone.
	Envelope func(ctx context.Context, value schemas.ID) (schemas.Registered, error)
	// KeyField names the field of the value that is the key. Empty is the
	// record's own key. All records of one key must lie in one partition. A
	// tombstone has no fields, so it needs the record's own key.
	KeyField string
	// Rules say what counts as a change.
	Rules Rules
	// Version is a JSON Pointer to the number, time or text by which the records
	// of a key are ordered: one with a lower version than the newest that came
	// is left out. Steps lead through objects. A deletion forgets the version.
	// Empty is the order in which they come.
	Version string
	// TTL is after what time a key of which no record comes any more is deleted.
	// Time is that of the records: where none come, nothing expires. Zero is
	// never.
	TTL time.Duration
	// Snapshot is the name of a snapshot: when a partition is assigned, an event
	// of each key is written, once for each name. Empty is none.
	Snapshot string
	// MaxValueBytes is the largest event, and the largest state of a key with a
	// few bytes for its bookkeeping, that the Broker takes. Zero is
	// stream.MaxValueBytes.
	MaxValueBytes int
	// CacheBytes is how much memory is kept for reading the state; writing takes
	// some 32 MB more, however much there is. Zero is 64 MiB.
	CacheBytes int64
	// Restoring is called while a log is read into the folder: so many records
	// of about so many. It may be nil.
	Restoring func(p stream.Partition, done, total int64)
	// Logger is told what goes wrong and is mended; nil is silent.
	Logger *slog.Logger
}

// Differ emits what changes in one topic. It is a consumers.Sink and a
// stream.Owner. Write may be called concurrently for different partitions.
//
// # What holds
//
// The state of a key is the value of its last event: patch after patch, or
// after by after, the events of a key give exactly that. A record whose value
// is equal to the state emits nothing; so does a tombstone for a key that has
// none.
//
// No record is compared twice or skipped, and no event is written twice, whoever
// is killed, and wherever a partition moves:
//
//   - On a stream.Spanner (Kafka) the events of a batch, the new state and the
//     position are one transaction.
//   - Elsewhere (JetStream) the events and a position are one commit to the
//     output, then the state and a position are one commit to the log. Where the
//     output is found ahead of the log, the records in between are compared
//     again, and what is written of them already is not written again. They must
//     be there still.
//   - Whoever is assigned a partition takes both positions over, and whoever had
//     them can write nothing more.
//
// The folder holds nothing that the logs do not: where it is missing, damaged or
// behind, it is made from them, when the first batch of a partition comes, from
// the place where that was interrupted.
type Differ struct {
	config  Config
	version []string // its steps; nil for none
	rule    *rule
	store   *store
	log     *slog.Logger
	step    func(string) // called behind each step of what writes; of tests
	applier *Applier     // whose state this keeps; nil if it compares

	writers sync.Map // *schemas.CellWriter by *schemas.Node, nil where there is none

	mu    sync.Mutex
	lanes map[int32]*lane // of the partitions that are claimed
}

// Open opens the folder dir, which it makes if it is not there. Its error wraps
// ErrInUse, or says what is wrong with config.
func Open(dir string, config Config) (*Differ, error) {
	if config.Topic == "" {
		return nil, errors.New("open differ: it needs a topic for the events")
	}
	return openDiffer(dir, config)
}

func openDiffer(dir string, config Config) (*Differ, error) {
	if config.Format == "" {
		config.Format = Debezium
	}
	if config.MaxValueBytes == 0 {
		config.MaxValueBytes = stream.MaxValueBytes
	}
	if config.CacheBytes == 0 {
		config.CacheBytes = 64 << 20
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	switch config.Format {
	case Debezium, JSONPatch, MergePatch, CloudEvents:
	default:
		return nil, fmt.Errorf("format %q is not known: choose %s, %s, %s or %s", config.Format, Debezium, JSONPatch, MergePatch, CloudEvents)
	}
	if config.Broker == nil || config.Name == "" {
		return nil, errors.New("open differ: a broker and a name are needed")
	}
	if config.Envelope != nil && config.Format != Debezium {
		return nil, fmt.Errorf("open differ: expected events in format %s under a schema, found %s", Debezium, config.Format)
	}
	if config.TTL < 0 {
		return nil, fmt.Errorf("open differ: expected a TTL of more than nothing, found %v", config.TTL)
	}
	d := &Differ{config: config, log: config.Logger, step: func(string) {}, lanes: map[int32]*lane{}}
	if config.Version != "" {
		if config.Version[0] != '/' {
			return nil, fmt.Errorf("open differ: version %q is not a JSON Pointer: it starts with a slash, as in %q", config.Version, "/"+config.Version)
		}
		for step := range strings.SplitSeq(config.Version[1:], "/") {
			d.version = append(d.version, schemas.UnescapePointer(step))
		}
	}
	var err error
	if d.rule, err = config.Rules.compile(); err != nil {
		return nil, fmt.Errorf("open differ: %w", err)
	}
	if d.store, err = openStore(dir, config.CacheBytes, config.TTL > 0, d.log); err != nil {
		return nil, err
	}
	return d, nil
}

// Close gives up all partitions and closes the folder. Batches that are being
// written fail.
func (d *Differ) Close() error {
	d.mu.Lock()
	lanes := d.lanes
	d.lanes = map[int32]*lane{}
	d.mu.Unlock()
	for _, l := range lanes {
		l.giveUp()
	}
	if err := d.store.close(); err != nil {
		return fmt.Errorf("close state: %w", err)
	}
	return nil
}

var (
	_ consumers.CellSink = (*Differ)(nil)
	_ stream.Owner       = (*Differ)(nil)
)

// TakesCells implements consumers.CellSink.
func (d *Differ) TakesCells(s schemas.Schema) bool { return d.writer(s) != nil }

// writer is what writes values of a schema from cells, or nil.
func (d *Differ) writer(s schemas.Schema) *schemas.CellWriter {
	model := s.Model()
	if w, known := d.writers.Load(model); known {
		return w.(*schemas.CellWriter)
	}
	w, ok := schemas.NewCellWriter(s)
	if !ok {
		w = nil
	}
	d.writers.Store(model, w)
	return w
}

// Assigned implements stream.Owner: it takes the positions over, so that whoever
// had them before can write nothing more.
func (d *Differ) Assigned(ctx context.Context, partitions []stream.Partition) (map[stream.Partition]int64, error) {
	lanes := make([]*lane, len(partitions))
	errs := make([]error, len(partitions))
	var wait sync.WaitGroup
	for i, p := range partitions {
		l := d.newLane(ctx, p)
		lanes[i] = l
		wait.Go(func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if errs[i] = l.resume(ctx); errs[i] == nil && d.config.Snapshot != "" {
				errs[i] = l.snapshot(ctx)
			}
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		for _, l := range lanes {
			l.giveUp()
		}
		return nil, fmt.Errorf("claim partitions: %w", err)
	}
	starts := map[stream.Partition]int64{}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range lanes {
		d.lanes[l.partition.Number] = l
		if l.at.next > 0 {
			starts[l.partition] = l.at.next
		}
	}
	return starts, nil
}

// Lost implements stream.Owner.
func (d *Differ) Lost(_ context.Context, partitions []stream.Partition) error {
	for _, p := range partitions {
		d.mu.Lock()
		l := d.lanes[p.Number]
		if l != nil && l.partition == p {
			delete(d.lanes, p.Number)
		} else {
			l = nil
		}
		d.mu.Unlock()
		if l != nil {
			l.giveUp()
		}
	}
	return nil
}

// Write implements consumers.Sink. Messages without a key, with a value that
// JSON cannot hold, or whose event is too large are named in a BatchError.
func (d *Differ) Write(ctx context.Context, b consumers.Batch) error {
	d.mu.Lock()
	l := d.lanes[b.Partition]
	d.mu.Unlock()
	if l != nil && l.partition.Topic != b.Topic {
		l = nil
	}
	return consumers.WriteClaimed(ctx, b, l, func(ctx context.Context, l *lane, b consumers.Batch) error { return l.write(ctx, b) })
}
