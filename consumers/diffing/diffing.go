// Package diffing turns a topic of states into a topic of changes: it keeps the
// last value of every key and says, for each record, what is different now.
//
// The pure part compares values (Diff) or, faster, JSON texts (Comparer), says
// by Rules what counts, and writes patches, applies them and turns them round. A
// Differ is the job: a consumers.Sink, to be run by consumers.Run, that keeps its
// state and its positions in a folder.
package diffing

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"
	"unicode/utf8"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
)

// Format is how a change is written.
type Format string

// The formats. In all of them a tombstone on the input becomes the event of the
// deletion, followed by a tombstone.
const (
	// Debezium is an object with before, after, op (c for created, u for
	// updated, d for deleted), source (topic, partition, offset and ts_ms of
	// the record that made the change) and ts_ms. Both ts_ms are the record's
	// time in milliseconds, so that an event emitted again is the same.
	Debezium Format = "debezium"
	// JSONPatch is an RFC 6902 patch of the last value. A new key adds, and a
	// deletion removes, the whole value (path "").
	JSONPatch Format = "json-patch"
	// MergePatch is an RFC 7396 patch of the last value; see AppendMergePatch
	// for what that format cannot say. A new key is its value, a deletion is
	// null.
	MergePatch Format = "merge-patch"
	// CloudEvents is a CloudEvents 1.0 event in its structured mode: its type is
	// penstock.created, penstock.updated or penstock.deleted, its subject the key
	// (left out if it is no text), its id that of IDHeader, and its data has
	// before and after.
	CloudEvents Format = "cloudevents"
)

// IDHeader is the header that names an event for good: the position of the
// record that made the change, as cluster/topic/incarnation/partition/offset.
const IDHeader = "penstock-id"

// Config says what a Differ does.
type Config struct {
	// Publisher takes the events. The Differ does not close it.
	Publisher stream.Publisher
	// Topic is where the events go, under the keys of the input.
	Topic string
	// Format is Debezium unless set.
	Format Format
	// Invertible puts tests of the old value into JSON patches; see Invert.
	Invertible bool
	// KeyField names the field of the value that is the key. Empty is the
	// record's own key. All records of one key must lie in one partition. A
	// tombstone has no fields, so it needs the record's own key.
	KeyField string
	// Rules say what counts as a change.
	Rules Rules
	// MaxValueBytes is the largest event the Publisher takes. Zero is
	// stream.MaxValueBytes.
	MaxValueBytes int
}

// Differ emits what changes in one topic. It is a consumers.Sink and a
// stream.Owner.
//
// # What holds
//
// The state of a key is the value of its last event: patch after patch, or
// after by after, the events of a key give exactly that. A record whose value
// is equal to the state emits nothing; so does a tombstone for a key that has
// none.
//
// The events of a batch are durable before the state and the position move, in
// one transaction. So no change is skipped or compared twice, and a process
// that is killed in between emits the same events once more, byte for byte and
// with the same IDHeader: a reader that drops an event whose offset is not
// above the last one of that key sees each change once.
//
// The state belongs to the process that holds its folder, and to one topic. A
// partition that moves to a process with another folder starts there at the
// oldest record, and its events are emitted again.
type Differ struct {
	config Config
	rule   *rule
	store  *store

	mu    sync.Mutex
	lanes map[int32]*lane // of the partitions that are claimed
}

// lane is one claim of one partition.
type lane struct {
	partition stream.Partition
	fresh     bool // no batch has been stored under this claim
}

// Open opens the state in dir, which it makes if it is not there, and reads all
// of it to see that it is whole. Its error wraps ErrInUse or ErrCorrupt, or
// says what is wrong with config.
func Open(dir string, config Config) (*Differ, error) {
	if config.Format == "" {
		config.Format = Debezium
	}
	if config.MaxValueBytes == 0 {
		config.MaxValueBytes = stream.MaxValueBytes
	}
	switch config.Format {
	case Debezium, JSONPatch, MergePatch, CloudEvents:
	default:
		return nil, fmt.Errorf("format %q is not known: choose %s, %s, %s or %s", config.Format, Debezium, JSONPatch, MergePatch, CloudEvents)
	}
	if config.Publisher == nil || config.Topic == "" {
		return nil, errors.New("open differ: a publisher and a topic are needed")
	}
	rule, err := config.Rules.compile()
	if err != nil {
		return nil, fmt.Errorf("open differ: %w", err)
	}
	s, err := openStore(dir)
	if err != nil {
		return nil, err
	}
	return &Differ{config: config, rule: rule, store: s, lanes: map[int32]*lane{}}, nil
}

// Close closes the state. Call it after the source that feeds the Differ is
// closed.
func (d *Differ) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.lanes)
	if err := d.store.close(); err != nil {
		return fmt.Errorf("close state: %w", err)
	}
	return nil
}

// Assigned implements stream.Owner. It refuses a topic that is not the one the
// state belongs to; its error wraps stream.ErrTopicChanged if that topic was
// made again since.
func (d *Differ) Assigned(_ context.Context, partitions []stream.Partition) (map[stream.Partition]int64, error) {
	starts := map[stream.Partition]int64{}
	for _, p := range partitions {
		if p.Topic == d.config.Topic {
			return nil, fmt.Errorf("topic %q cannot be both read and written", p.Topic)
		}
		want := input{Format: stateFormat, KeyField: d.config.KeyField, Cluster: p.Cluster, Topic: p.Topic, Incarnation: p.Incarnation}
		have, err := d.store.claim(want)
		if err != nil {
			return nil, fmt.Errorf("claim state: %w", err)
		}
		if err := have.accepts(want); err != nil {
			return nil, fmt.Errorf("claim state: %w; choose another folder, or remove this one to start again at the oldest record", err)
		}
		at, ok, err := d.store.position(p.Number)
		if err != nil {
			return nil, fmt.Errorf("read position: %w", err)
		}
		if ok {
			starts[p] = at.next
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range partitions {
		d.lanes[p.Number] = &lane{partition: p, fresh: true}
	}
	return starts, nil
}

func (have input) accepts(want input) error {
	switch {
	case have.Cluster != want.Cluster || have.Topic != want.Topic:
		return fmt.Errorf("the folder belongs to topic %q of %q, not to %q of %q", have.Topic, have.Cluster, want.Topic, want.Cluster)
	case have.Incarnation != want.Incarnation:
		return fmt.Errorf("%w: %q", stream.ErrTopicChanged, want.Topic)
	case have.KeyField != want.KeyField:
		return fmt.Errorf("the folder's keys are taken from field %q, not %q", have.KeyField, want.KeyField)
	}
	return nil
}

// Lost implements stream.Owner.
func (d *Differ) Lost(_ context.Context, partitions []stream.Partition) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range partitions {
		delete(d.lanes, p.Number)
	}
	return nil
}

// Write implements consumers.Sink. Messages without a key, with a value that
// JSON cannot hold, or whose event is too large are named in a BatchError.
func (d *Differ) Write(ctx context.Context, b consumers.Batch) error {
	d.mu.Lock()
	l := d.lanes[b.Partition]
	d.mu.Unlock()
	if l == nil || l.partition.Topic != b.Topic {
		return fmt.Errorf("partition %d of %q: %w", b.Partition, b.Topic, stream.ErrFenced)
	}
	at, begun, err := d.store.position(b.Partition)
	switch {
	case err != nil:
		return fmt.Errorf("read position: %w", fatal(err))
	case begun && b.Next <= at.next:
		return nil
	case begun && b.First > at.next && !l.fresh:
		return fmt.Errorf("partition %d of %q goes on at offset %d, not at %d: records are missing: %w",
			b.Partition, b.Topic, b.First, at.next, consumers.ErrStop)
	}

	work := batch{config: &d.config, partition: l.partition, values: map[string][]byte{}, compare: Comparer{rules: d.rule}}
	err = d.store.read(b.Partition, func(get func(string) ([]byte, error)) error {
		work.stored = get
		for i, m := range b.Messages {
			if begun && m.Offset < at.next {
				continue
			}
			if err := work.add(i, m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read state: %w", fatal(err))
	}
	if err := work.refused.OrNil(); err != nil {
		return err
	}
	if err := work.publish(ctx, d.config.Publisher); err != nil {
		return err
	}

	// A claim that was lost meanwhile must not move the position.
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lanes[b.Partition] != l {
		return fmt.Errorf("partition %d of %q: %w", b.Partition, b.Topic, stream.ErrFenced)
	}
	moved, err := d.store.commit(b.Partition, at, begun, b.Next, work.values)
	if err != nil {
		return fmt.Errorf("store state: %w", fatal(err))
	}
	if !moved {
		return fmt.Errorf("partition %d of %q: %w", b.Partition, b.Topic, stream.ErrFenced)
	}
	l.fresh = false
	return nil
}

// fatal marks what waiting does not mend.
func fatal(err error) error {
	if errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%w: %w", consumers.ErrStop, err)
	}
	return err
}

// batch is the work of one Write.
type batch struct {
	config    *Config
	partition stream.Partition
	stored    func(key string) ([]byte, error)
	compare   Comparer

	values  map[string][]byte // new states, as canonical JSON; nil for none
	events  []stream.Record
	sources []int // which message an event comes from
	refused stream.BatchError
}

// add compares message i to the state of its key. Only what concerns the store
// is returned as an error.
func (w *batch) add(i int, m consumers.Message) error {
	key, err := keyOf(m, w.config.KeyField)
	if err != nil {
		w.refused.Fail(i, err)
		return nil
	}
	before, held := w.values[key]
	if !held {
		if before, err = w.stored(key); err != nil {
			return err
		}
	}
	var after []byte
	if m.Value != nil {
		if after, err = schemas.AppendJSON(nil, m.Data); err != nil {
			w.refused.Fail(i, err)
			return nil
		}
	}
	p := w.partition
	id := fmt.Sprintf("%s/%s/%s/%d/%d", p.Cluster, p.Topic, p.Incarnation, p.Number, m.Offset)
	c := change{before: before, after: after, key: key, id: id, message: m}
	value, emit, err := c.event(nil, w.config, &w.compare)
	if err != nil {
		w.refused.Fail(i, err)
		return nil
	}
	if !emit {
		return nil
	}
	if len(value) > w.config.MaxValueBytes {
		w.refused.Fail(i, fmt.Errorf("the event of this change has %d bytes, of at most %d: %w", len(value), w.config.MaxValueBytes, stream.ErrTooLarge))
		return nil
	}
	w.emit(i, stream.Record{
		Topic:   w.config.Topic,
		Key:     []byte(key),
		Value:   value,
		Headers: []stream.Header{{Key: IDHeader, Value: []byte(id)}},
		Time:    m.Time,
	})
	if after == nil {
		w.emit(i, stream.Record{Topic: w.config.Topic, Key: []byte(key), Time: m.Time})
	}
	w.values[key] = after
	return nil
}

func (w *batch) emit(i int, r stream.Record) {
	w.events = append(w.events, r)
	w.sources = append(w.sources, i)
}

// publish returns once every event is durable. Messages whose events the broker
// finds too large are named in a BatchError; any other failure is passing.
func (w *batch) publish(ctx context.Context, to stream.Publisher) error {
	if len(w.events) == 0 {
		return nil
	}
	err := to.Publish(ctx, w.events...)
	var failed *stream.BatchError
	if !errors.As(err, &failed) {
		if err != nil {
			return fmt.Errorf("publish changes: %w", err)
		}
		return nil
	}
	var refused stream.BatchError
	for i, err := range failed.Errs {
		if errors.Is(err, stream.ErrTooLarge) {
			refused.Fail(w.sources[i], err)
		}
	}
	if err := refused.OrNil(); err != nil {
		return err
	}
	// Not the BatchError itself, whose indexes are those of the events.
	return fmt.Errorf("publish changes: %w", failed.Unwrap()[0])
}

// keyOf returns the key of a message: the record's own, or the value's field.
func keyOf(m consumers.Message, field string) (string, error) {
	key := m.Key
	if field != "" {
		var err error
		if key, err = fieldKey(m, field); err != nil {
			return "", err
		}
	} else if key == nil {
		return "", errors.New("expected a record with a key, found none; produce it with a key, or name the field of the value that is the key")
	}
	if len(key) > maxKey {
		return "", fmt.Errorf("expected a key of at most %d bytes, found %d", maxKey, len(key))
	}
	return string(key), nil
}

func fieldKey(m consumers.Message, field string) ([]byte, error) {
	if m.Value == nil {
		return nil, misfit(nil, fmt.Sprintf("a value with the key in field %q", field), "a tombstone", "where there are tombstones, use the record's own key")
	}
	object, ok := m.Data.(map[string]any)
	if !ok {
		return nil, misfit(nil, fmt.Sprintf("an object with the key in field %q", field), schemas.Describe(m.Data), "")
	}
	path := []string{field}
	v, ok := object[field]
	if !ok {
		return nil, misfit(path, "the key", "nothing", "")
	}
	switch v := v.(type) {
	case string:
		return []byte(v), nil
	case []byte:
		return v, nil
	case nil, map[string]any, []any:
		return nil, misfit(path, "the key, a single value", schemas.Describe(v), "")
	}
	key, err := schemas.AppendJSON(nil, v)
	if err != nil {
		return nil, misfit(path, "a value that a schema gives", schemas.Describe(v), "")
	}
	return key, nil
}

// change is a message and what it replaces, both as canonical JSON; nil is
// nothing.
type change struct {
	before, after []byte
	key, id       string
	message       consumers.Message
}

// event appends the event of a change to dst; emit is false if there is none.
func (c change) event(dst []byte, config *Config, compare *Comparer) (event []byte, emit bool, err error) {
	if string(c.before) == string(c.after) { // both nil too: neither is ever empty
		return dst, false, nil
	}
	updated := c.before != nil && c.after != nil
	if updated && (compare.rules != nil || config.Format == JSONPatch || config.Format == MergePatch) {
		if err := compare.read(c.before, c.after); err != nil {
			return dst, false, err
		}
		if compare.same() {
			return dst, false, nil
		}
	}
	switch {
	case config.Format == CloudEvents:
		return c.appendCloudEvent(dst), true, nil
	case config.Format == Debezium:
		return c.appendEnvelope(dst), true, nil
	case config.Format == MergePatch && updated:
		return compare.appendMerge(dst, 0, 0), true, nil
	case config.Format == MergePatch:
		return append(dst, orNull(c.after)...), true, nil
	case updated:
		dst, _ = compare.appendPatch(dst, config.Invertible)
		return dst, true, nil
	case c.before == nil:
		dst = appendOperation(append(dst, '['), Add, nil, nil, c.after, false)
	default:
		dst = appendOperation(append(dst, '['), Remove, nil, c.before, nil, config.Invertible)
	}
	return append(dst, ']'), true, nil
}

// appendCloudEvent appends the CloudEvent of a change.
func (c change) appendCloudEvent(dst []byte) []byte {
	what := "penstock.updated"
	switch {
	case c.before == nil:
		what = "penstock.created"
	case c.after == nil:
		what = "penstock.deleted"
	}
	dst = append(dst, `{"specversion":"1.0","id":`...)
	dst = schemas.AppendJSONString(dst, c.id)
	dst = append(dst, `,"source":`...)
	dst = schemas.AppendJSONString(dst, "/"+url.PathEscape(c.message.Topic))
	dst = append(dst, `,"type":"`...)
	dst = append(dst, what...)
	if c.key != "" && utf8.ValidString(c.key) {
		dst = append(dst, `","subject":`...)
		dst = schemas.AppendJSONString(dst, c.key)
		dst = append(dst, `,"time":"`...)
	} else {
		dst = append(dst, `","time":"`...)
	}
	dst = c.message.Time.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","datacontenttype":"application/json","data":{"before":`...)
	dst = append(dst, orNull(c.before)...)
	dst = append(dst, `,"after":`...)
	return append(append(dst, orNull(c.after)...), "}}"...)
}

// appendEnvelope appends the Debezium envelope of a change.
func (c change) appendEnvelope(dst []byte) []byte {
	op := "u"
	switch {
	case c.before == nil:
		op = "c"
	case c.after == nil:
		op = "d"
	}
	ms := c.message.Time.UnixMilli()
	dst = append(dst, `{"before":`...)
	dst = append(dst, orNull(c.before)...)
	dst = append(dst, `,"after":`...)
	dst = append(dst, orNull(c.after)...)
	dst = append(dst, `,"source":{"topic":`...)
	dst = schemas.AppendJSONString(dst, c.message.Topic)
	return fmt.Appendf(dst, `,"partition":%d,"offset":%d,"ts_ms":%d},"op":"%s","ts_ms":%d}`,
		c.message.Partition, c.message.Offset, ms, op, ms)
}

func orNull(text []byte) []byte {
	if text == nil {
		return []byte("null")
	}
	return text
}
