package diffing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
)

// work is what one commit holds.
type work struct {
	l       *lane
	events  []stream.Record
	sources []int // which message an event comes from
	updates []update
	origins []int          // which message an update comes from, the last one
	at      map[string]int // a key's place in updates
	time    int64          // that of the newest record
	room    []byte         // for values, which are kept until the commit
	refused stream.BatchError
	states  consumers.Batch // what an Applier hands on
	folded  []update        // what each of them makes of the state
}

func (l *lane) newWork() *work {
	return &work{l: l, at: map[string]int{}, time: l.at.note.Time}
}

// most is how many records a commit takes.
func (l *lane) most() int {
	if _, spans := l.d.config.Broker.(stream.Spanner); spans {
		return stream.MaxSpan
	}
	return stream.MaxCommit
}

// some works on the messages of b from one on, as many as fit into a commit, and
// commits what that gives. It returns how many those were.
func (l *lane) some(ctx context.Context, b consumers.Batch, from int) (n int, err error) {
	if l.d.applier != nil {
		return l.applySome(ctx, b, from)
	}
	return l.compareSome(ctx, b, from)
}

// compareSome is some of a Differ.
func (l *lane) compareSome(ctx context.Context, b consumers.Batch, from int) (n int, err error) {
	w, most := l.newWork(), l.most()
	to := position{next: b.Next, note: l.at.note}
	for i, m := range b.Messages[from:] {
		if len(w.events)+len(w.updates) > most-4 { // a message is an event, a tombstone and an entry; and there is a head
			to.next = m.Offset
			break
		}
		if err := w.add(ctx, from+i, m); err != nil {
			return 0, err
		}
		n++
	}
	if err := w.refused.OrNil(); err != nil {
		return 0, err
	}
	to.note.Time = w.time
	return n, l.commit(ctx, w, to)
}

// add compares message i to the state of its key. Only what concerns the store, or
// the registry, is returned as an error.
func (w *work) add(ctx context.Context, i int, m consumers.Message) error {
	l, c := w.l, &w.l.d.config
	key, err := keyOf(m, c.KeyField)
	if err != nil {
		w.refused.Fail(i, err)
		return nil
	}
	before, err := w.get(key)
	if err != nil {
		return err
	}
	w.time = max(w.time, m.Time.UnixMilli())
	now := entry{schema: m.SchemaID}
	if m.Value != nil {
		if now.value, err = w.text(m); err != nil {
			w.refused.Fail(i, err)
			return nil
		}
	}
	if c.TTL > 0 {
		now.seen = m.Time.UnixMilli()
	}
	if l.d.version != nil && m.Value != nil {
		if now.version, err = l.versionOf(now.value); err != nil {
			w.refused.Fail(i, err)
			return nil
		}
		if before != nil && before.version != nil && compareVersions(now.version, before.version) < 0 {
			return nil
		}
	}

	p := l.partition
	ch := &change{
		after: now.value, key: key, id: fmt.Sprintf("%s/%s/%s/%d/%d", p.Cluster, p.Topic, p.Incarnation, p.Number, m.Offset),
		topic: m.Topic, partition: m.Partition, offset: m.Offset, time: m.Time, schema: m.SchemaID,
	}
	if before != nil {
		ch.was = before.schema
	}
	same := false
	switch {
	case before == nil && m.Value == nil:
		return nil
	case before == nil:
		ch.what = created
	case m.Value == nil:
		ch.what, ch.before, ch.after = deleted, before.value, nil
	default:
		ch.before = before.value
		if same, err = l.same(before, &now, m.Schema); err != nil {
			return err
		}
	}
	if same {
		if c.TTL > 0 || string(now.version) != string(before.version) {
			now.value, now.schema, now.seen = before.value, before.schema, max(now.seen, before.seen)
			w.put(i, key, &now)
		}
		return nil
	}
	value, err := l.event(ctx, ch)
	switch {
	case errors.As(err, new(ofSink)):
		return err
	case err != nil:
		w.refused.Fail(i, err)
		return nil
	}
	if len(value) > c.MaxValueBytes {
		w.refused.Fail(i, fmt.Errorf("the event of this change has %d bytes, of at most %d: %w", len(value), c.MaxValueBytes, stream.ErrTooLarge))
		return nil
	}
	// Room for the key, as any broker counts it.
	if n := len(now.value) + len(now.version) + 2*len(key) + 1024; n > c.MaxValueBytes {
		w.refused.Fail(i, fmt.Errorf("the state of this key has %d bytes with its key, of at most %d: %w", n, c.MaxValueBytes, stream.ErrTooLarge))
		return nil
	}
	if m.Offset >= l.emitted.next { // else it is written already
		w.emit(i, ch, value)
	}
	if m.Value == nil {
		w.put(i, key, nil)
	} else {
		w.put(i, key, &now)
	}
	return nil
}

// text is the value of a message as canonical JSON.
func (w *work) text(m consumers.Message) ([]byte, error) {
	if cap(w.room)-len(w.room) < 4*len(m.Value)+fewChanges {
		w.room = make([]byte, 0, max(64<<10, 4*len(m.Value)+fewChanges))
	}
	from := len(w.room)
	out, err := w.room, error(nil)
	if m.Cells != nil {
		out = w.l.d.writer(m.Schema).Append(out, m.Cells, m.Value)
	} else if out, err = schemas.AppendJSON(out, m.Data); err != nil {
		return nil, err
	}
	w.room = out
	return out[from:len(out):len(out)], nil
}

// get returns the entry of a key as it is after what was added.
func (w *work) get(key string) (*entry, error) {
	if i, held := w.at[key]; held {
		return w.updates[i].entry, nil
	}
	e, err := w.l.d.store.get(w.l.partition.Number, key)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	return e, nil
}

// put notes the new entry of a key, by message i; nil deletes it.
func (w *work) put(i int, key string, e *entry) {
	if k, held := w.at[key]; held {
		w.updates[k].entry, w.origins[k] = e, i
		return
	}
	w.at[key] = len(w.updates)
	w.updates, w.origins = append(w.updates, update{key, e}), append(w.origins, i)
}

// emit adds the event of a change, and its tombstone.
func (w *work) emit(i int, ch *change, value []byte) {
	topic := w.l.d.config.Topic
	w.events = append(w.events, stream.Record{
		Topic: topic, Key: []byte(ch.key), Value: value,
		Headers: []stream.Header{{Key: IDHeader, Value: []byte(ch.id)}},
		Time:    ch.time,
	})
	w.sources = append(w.sources, i)
	if ch.what == deleted {
		w.events = append(w.events, stream.Record{Topic: topic, Key: []byte(ch.key), Time: ch.time})
		w.sources = append(w.sources, i)
	}
}

// step adds change i of a step between records, which leads to a position.
func (w *work) step(ctx context.Context, i int, to position, ch *change) error {
	p := w.l.partition
	ch.topic, ch.partition, ch.offset, ch.time = p.Topic, p.Number, to.next, time.UnixMilli(to.note.Time)
	ch.id = fmt.Sprintf("%s/%s/%s/%d/%d/%d.%d", p.Cluster, p.Topic, p.Incarnation, p.Number, to.next, to.note.Steps, i)
	value, err := w.l.event(ctx, ch)
	if err != nil {
		if !errors.As(err, new(ofSink)) {
			err = fmt.Errorf("%w: %w", consumers.ErrStop, err)
		}
		return fmt.Errorf("write the event of key %.40q: %w", ch.key, err)
	}
	w.emit(i, ch, value)
	return nil
}

// named is the error of a commit that names messages, not records: events, or
// those of the log, before which there may be a head.
func named(err error, sources ...int) error {
	var failed *stream.BatchError
	if !errors.As(err, &failed) {
		return err
	}
	var named stream.BatchError
	for i, err := range failed.Errs {
		if i >= len(sources) || sources[i] < 0 {
			return fmt.Errorf("write the head of the log: %w (%w)", consumers.ErrStop, err)
		}
		named.Fail(sources[i], err)
	}
	return &named
}

// versionOf returns the version that a value has.
func (l *lane) versionOf(value []byte) ([]byte, error) {
	t := &l.compare.b
	if err := t.read(value); err != nil {
		return nil, err
	}
	v := t.find(l.d.version)
	expected := "the version, a number or a text"
	switch {
	case v == nil:
		return nil, misfit(l.d.version, expected, "nothing", "")
	case v.kind != '0' && v.kind != '"':
		return nil, misfit(l.d.version, expected, string(v.raw[:min(len(v.raw), 40)]), "")
	}
	return v.raw, nil
}

// same says whether what differs between two states does not count. Where it
// does, compare has read both.
func (l *lane) same(before, now *entry, schema schemas.Schema) (bool, error) {
	if string(before.value) == string(now.value) {
		return true, nil
	}
	evolved := schema != nil && before.schema != 0 && before.schema != now.schema
	if f := l.d.config.Format; l.d.rule == nil && !evolved && f != JSONPatch && f != MergePatch {
		return false, nil
	}
	if err := l.compare.read(before.value, now.value); err != nil {
		return false, fmt.Errorf("%w (%w)", ErrCorrupt, err)
	}
	return l.compare.same(evolved, schema), nil
}
