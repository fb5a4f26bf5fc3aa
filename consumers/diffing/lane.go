package diffing

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"penstock/consumers"
	"penstock/stream"
)

const (
	logFormat = 1
	// reclaimAfter is how long a lane that was shut out, and not told that its
	// partition was lost, waits before it takes it over again: a slow member
	// may have claimed it late, and will not write.
	reclaimAfter = 10 * time.Second
	// staleAfter is how old a copy of a log may be that is only brought up to
	// date: tombstones it has not seen may be gone from the log after a day.
	staleAfter = 12 * time.Hour
	// stepKeys is how many keys expire, or are in a part of a snapshot, at once.
	stepKeys = 400
)

// The first byte of a log's keys.
const (
	headRecord  = "h" // what the log belongs to, as JSON
	entryRecord = "v" // and the key: its entry
)

// head says what a log belongs to.
type head struct {
	Format      int    `json:"format"`
	Cluster     string `json:"cluster"`
	Topic       string `json:"topic"`
	Incarnation string `json:"incarnation"`
	Partition   int32  `json:"partition"`
	KeyField    string `json:"key_field,omitempty"`
	Applied     bool   `json:"applied,omitempty"` // it is an Applier's
}

// position is how far a partition has come: all records before next, and of
// what happens between two records so many steps.
type position struct {
	next int64
	note note
}

// note is what is kept beside an offset.
type note struct {
	Time     int64  `json:"time,omitempty"`     // that of the newest record, in milliseconds
	Steps    int64  `json:"steps,omitempty"`    // parts of snapshots and expiries, since ever
	Snapshot string `json:"snapshot,omitempty"` // the last one
	Keys     int64  `json:"keys,omitempty"`     // of it that are written; -1 for all
}

func (p position) after(q position) bool {
	return p.next > q.next || p.next == q.next && p.note.Steps > q.note.Steps
}

func (p position) stored() (stream.Position, error) {
	text, err := json.Marshal(p.note)
	return stream.Position{Next: p.next, Note: string(text)}, err
}

func readPosition(s stream.Position) (p position, err error) {
	p.next = s.Next
	if s.Note != "" {
		if err := json.Unmarshal([]byte(s.Note), &p.note); err != nil {
			return p, fmt.Errorf("read position %+v: %w", s, err)
		}
	}
	return p, nil
}

// lane is one claim of one partition.
type lane struct {
	d         *Differ
	partition stream.Partition
	topic     string // of the log
	// ctx ends, by end, when the partition is lost.
	ctx context.Context
	end context.CancelFunc

	mu sync.Mutex
	// out writes the events, and the log where it spans both, else log does. An
	// Applier has no events, and log alone. Both are nil after an error: where
	// they are has to be asked for.
	out, log stream.Transactor
	at       position // of the state
	emitted  position // of the output, which is not behind
	// life is that of the store in which the log is, up to cursor; 0: it has to
	// be restored.
	life    int
	cursor  cursor
	head    string    // what the log belongs to
	written bool      // since the claim: from there on batches follow one another
	shut    time.Time // when someone else was found to have taken it over
	compare Comparer
}

func (d *Differ) newLane(ctx context.Context, p stream.Partition) *lane {
	l := &lane{
		d: d, partition: p,
		topic:   fmt.Sprintf("%s.%s.state.%d", p.Topic, d.config.Name, p.Number),
		compare: Comparer{rules: d.rule},
	}
	l.ctx, l.end = context.WithCancel(context.WithoutCancel(ctx))
	text, _ := json.Marshal(head{logFormat, p.Cluster, p.Topic, p.Incarnation, p.Number, d.config.KeyField, d.applier != nil}) // strings and numbers
	l.head = string(text)
	return l
}

func (l *lane) String() string { return fmt.Sprintf("%s[%d]", l.partition.Topic, l.partition.Number) }

// giveUp ends what is being written, and waits for that.
func (l *lane) giveUp() {
	l.end()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop()
}

// claimed says that the transactors are at hand.
func (l *lane) claimed() bool { return l.out != nil || l.log != nil }

// drop lets go of the transactors, which have nothing to say: what was not
// committed is not there.
func (l *lane) drop() {
	for _, tx := range []stream.Transactor{l.out, l.log} {
		if tx != nil {
			_ = tx.Close()
		}
	}
	l.out, l.log = nil, nil
}

// resume takes the positions over. It is called with l.mu held.
func (l *lane) resume(ctx context.Context) error {
	p, c := l.partition, &l.d.config
	if p.Topic == c.Topic {
		return fmt.Errorf("topic %q cannot be both read and written: %w", p.Topic, consumers.ErrStop)
	}
	before := l.at
	if err := l.takeOver(ctx, fmt.Sprintf("%s/%s/%s/%s/%d", c.Name, p.Cluster, p.Topic, p.Incarnation, p.Number)); err != nil {
		l.drop()
		if errors.Is(err, stream.ErrUnsupported) || errors.Is(err, stream.ErrNoTopic) {
			err = fmt.Errorf("%w: %w", consumers.ErrStop, err)
		}
		return fmt.Errorf("take over: %w", err)
	}
	if before.after(l.at) {
		l.drop()
		return fmt.Errorf("its position was set back from %d to %d: %w; start again to read from there", before.next, l.at.next, consumers.ErrStop)
	}
	if l.at.after(l.emitted) {
		l.drop()
		return fmt.Errorf("topic %q was made again, its log %q goes on to offset %d: %w; choose another group", c.Topic, l.topic, l.at.next, consumers.ErrStop)
	}
	l.life = 0
	return nil
}

func (l *lane) takeOver(ctx context.Context, input string) error {
	c := &l.d.config
	if err := c.Broker.CreateLog(ctx, l.topic); err != nil {
		return err
	}
	var at stream.Position
	var err error
	spanner, spans := c.Broker.(stream.Spanner)
	if l.d.applier != nil {
		if spans { // for it takes more at once
			l.log, at, err = spanner.Span(ctx, l.topic, input)
		} else {
			l.log, at, err = c.Broker.Resume(ctx, l.topic, input)
		}
		if err == nil {
			l.at, err = readPosition(at)
			l.emitted = l.at
		}
		return err
	}
	if spans {
		if l.out, at, err = spanner.Span(ctx, c.Topic, input, l.topic); err != nil {
			return err
		}
		l.at, err = readPosition(at)
		l.emitted = l.at
		return err
	}
	if l.out, at, err = c.Broker.Resume(ctx, c.Topic, input); err != nil {
		return err
	}
	if l.emitted, err = readPosition(at); err != nil {
		return err
	}
	if l.log, at, err = c.Broker.Resume(ctx, l.topic, input); err != nil {
		return err
	}
	l.at, err = readPosition(at)
	return err
}

// restore brings the folder up to the end of the log.
func (l *lane) restore(ctx context.Context) error {
	d, number := l.d, l.partition.Number
	life := d.store.life()
	ranges, err := d.config.Broker.Ranges(ctx, l.topic)
	if err != nil {
		return err
	}
	held := ranges[0]
	c, ok, err := d.store.cursor(number)
	if err != nil {
		return err
	}
	age := time.Since(time.Unix(c.At, 0))
	if !ok || c.Log != held.Partition.Incarnation || c.Next > held.End || c.Timed != d.store.timed || age > staleAfter || age < -staleAfter {
		if err := d.store.drop(number); err != nil {
			return err
		}
		c = cursor{Log: held.Partition.Incarnation}
	}
	done, total := int64(0), held.End-max(c.Next, held.Start)
	c.Next, err = d.config.Broker.ReadLog(ctx, l.topic, c.Next, func(records []stream.Record) error {
		next, err := d.store.take(number, records, c)
		if err != nil {
			return err
		}
		c = next
		d.step("restored")
		done += int64(len(records))
		if d.config.Restoring != nil {
			d.config.Restoring(l.partition, done, max(total, done))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := l.accepts(c); err != nil {
		return err
	}
	l.cursor, l.life = c, life
	return nil
}

// readLog hands the entries that records of a log say to do, nil for a key that is
// gone, and returns what the log belongs to, if they say that.
func readLog(records []stream.Record, do func(key []byte, e *entry, raw []byte) error) (head string, err error) {
	for _, r := range records {
		kind := ""
		if len(r.Key) > 0 {
			kind = string(r.Key[:1])
		}
		switch kind {
		case headRecord:
			head = string(r.Value)
			continue
		case entryRecord:
		default:
			return "", fmt.Errorf("offset %d: expected a record of a differ's state, found key %.40q: %w", r.Offset, r.Key, consumers.ErrStop)
		}
		var e *entry
		if r.Value != nil {
			if e, err = parseEntry(r.Value); err != nil {
				return "", fmt.Errorf("offset %d: expected a differ's state, found %.40q: %w", r.Offset, r.Value, consumers.ErrStop)
			}
		}
		if err := do(r.Key[1:], e, r.Value); err != nil {
			return "", err
		}
	}
	return head, nil
}

// accepts says whether a log is that of this lane.
func (l *lane) accepts(c cursor) error {
	if c.Head == "" {
		if l.at.next > 0 || l.at.note.Steps > 0 {
			return fmt.Errorf("log %q is empty, though the state reaches to offset %d: %w; choose another group to start again", l.topic, l.at.next, consumers.ErrStop)
		}
		return nil
	}
	if c.Head == l.head {
		if l.at.next == 0 {
			return fmt.Errorf("topic %q was made again, log %q is of the one before: %w; choose another group", l.d.config.Topic, l.topic, consumers.ErrStop)
		}
		return nil
	}
	var have, want head
	if err := errors.Join(json.Unmarshal([]byte(c.Head), &have), json.Unmarshal([]byte(l.head), &want)); err != nil {
		return fmt.Errorf("log %q does not say what it belongs to: %w: %w", l.topic, err, consumers.ErrStop)
	}
	switch {
	case have.Format != want.Format:
		return fmt.Errorf("log %q has format %d, and this program writes %d: %w", l.topic, have.Format, want.Format, consumers.ErrStop)
	case have.Applied != want.Applied:
		return fmt.Errorf("log %q is of another job of that name, one that compares and one that applies: %w; choose another group", l.topic, consumers.ErrStop)
	case have.KeyField != want.KeyField:
		return fmt.Errorf("the keys of log %q are taken from field %q, not %q: %w; choose another group", l.topic, have.KeyField, want.KeyField, consumers.ErrStop)
	case have.Incarnation != want.Incarnation:
		return fmt.Errorf("%w: %q: %w; choose another group", stream.ErrTopicChanged, want.Topic, consumers.ErrStop)
	}
	return fmt.Errorf("log %q belongs to partition %d of topic %q of %q: %w; choose another group", l.topic, have.Partition, have.Topic, have.Cluster, consumers.ErrStop)
}

// ready has the positions, and the state in the folder.
func (l *lane) ready(ctx context.Context) error {
	if !l.claimed() {
		if time.Since(l.shut) < reclaimAfter {
			return fmt.Errorf("another member has taken it over: %w", stream.ErrFenced)
		}
		if !l.shut.IsZero() {
			l.d.log.Info("take partition over again", "partition", l.String())
		}
		before := l.at.next
		if err := l.resume(ctx); err != nil {
			return err
		}
		l.written = l.written || l.at.next > before
	}
	if l.life != l.d.store.life() {
		if err := l.restore(ctx); err != nil {
			return fmt.Errorf("restore the state from log %q: %w", l.topic, err)
		}
	}
	return nil
}

// mended runs work with positions and state at hand, and once more after what
// another try may mend.
func (l *lane) mended(ctx context.Context, work func(context.Context) error) error {
	if l.ctx.Err() != nil {
		return fmt.Errorf("it was lost: %w", stream.ErrFenced)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	for again := false; ; again = true {
		err := l.ready(ctx)
		if err == nil {
			err = work(ctx)
		}
		refused := (*stream.BatchError)(nil)
		switch {
		case err == nil, errors.As(err, &refused), errors.Is(err, consumers.ErrStop):
			return err
		case errors.As(err, new(ofSink)) && !errors.Is(err, stream.ErrFenced):
			return err // it says nothing about the log
		case errors.Is(err, ErrCorrupt):
			if err := l.d.store.renew(l.d.store.life(), err); err != nil {
				return err
			}
		case errors.Is(err, stream.ErrFenced):
			if l.claimed() {
				l.drop()
				l.shut = time.Now()
			}
			return err
		default:
			l.drop() // whether it took place is to be asked
		}
		if l.ctx.Err() != nil {
			return fmt.Errorf("it was lost: %w", stream.ErrFenced)
		}
		if again || ctx.Err() != nil {
			return err
		}
	}
}

func (l *lane) write(ctx context.Context, b consumers.Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mended(ctx, func(ctx context.Context) error {
		if b.Next <= l.at.next {
			return nil
		}
		if l.written && b.First > l.at.next {
			return fmt.Errorf("offsets from %d on are missing before it: %w", l.at.next, consumers.ErrStop)
		}
		from, _ := slices.BinarySearchFunc(b.Messages, l.at.next, func(m consumers.Message, at int64) int { return int(m.Offset - at) })
		for l.at.next < b.Next {
			if err := l.expire(ctx); err != nil {
				return err
			}
			n, err := l.some(ctx, b, from)
			if err != nil {
				return err
			}
			from += n
		}
		return nil
	})
}

// commit writes events and state, and moves the position. What was written of
// the events before is not written again.
func (l *lane) commit(ctx context.Context, w *work, to position) error {
	records := make([]stream.Record, 0, len(w.updates)+1)
	origins := w.origins
	if l.cursor.Head == "" {
		origins = append([]int{-1}, origins...)
		records = append(records, stream.Record{Topic: l.topic, Key: []byte(headRecord), Value: []byte(l.head)})
	}
	for _, u := range w.updates {
		r := stream.Record{Topic: l.topic, Key: append([]byte(entryRecord), u.key...)}
		if u.entry != nil {
			r.Value = u.entry.append(nil)
		}
		records = append(records, r)
	}
	stored, err := to.stored()
	if err != nil {
		return err
	}
	l.d.step("compared")
	if l.log == nil {
		all := append(w.events, records...)
		if err := l.out.Commit(ctx, all, stored); err != nil {
			return named(err, append(w.sources, origins...)...)
		}
		records = all[len(w.events):]
	} else {
		if l.d.applier != nil {
			if err := l.d.applier.hand(ctx, l.partition, w); err != nil {
				return err
			}
			l.d.step("emitted")
		} else if to.after(l.emitted) {
			if err := l.out.Commit(ctx, w.events, stored); err != nil {
				return named(err, w.sources...)
			}
			l.emitted = to
			l.d.step("emitted")
		}
		if err := l.log.Commit(ctx, records, stored); err != nil {
			return named(err, origins...)
		}
	}
	l.d.step("logged")
	l.at, l.written, l.shut = to, true, time.Time{}
	if l.log == nil {
		l.emitted = to
	}
	l.cursor.Head = l.head
	if len(records) > 0 {
		l.cursor.Next = records[len(records)-1].Offset + 1
	}
	if err := l.d.store.apply(l.partition.Number, w.updates, l.cursor); err != nil {
		// The log has it all.
		l.d.log.Warn("state could not be stored, and is read from the log again", "partition", l.String(), "error", err)
		l.life = 0
	}
	l.d.step("stored")
	return nil
}

// expire deletes the keys whose time is over.
func (l *lane) expire(ctx context.Context) error {
	ttl := l.d.config.TTL.Milliseconds()
	for ttl > 0 {
		keys, err := l.d.store.due(l.partition.Number, l.at.note.Time-ttl, stepKeys)
		if err != nil || len(keys) == 0 {
			return err
		}
		w := l.newWork()
		to := l.at
		to.note.Steps++
		for i, key := range keys {
			e, err := l.d.store.get(l.partition.Number, key)
			if err != nil {
				return err
			}
			if e == nil {
				return errEntry
			}
			if err := w.step(ctx, i, to, &change{before: e.value, what: deleted, key: key, was: e.schema}); err != nil {
				return err
			}
			w.put(i, key, nil)
		}
		if err := l.commit(ctx, w, to); err != nil {
			return err
		}
	}
	return nil
}

// snapshot writes an event of each key, if it has not been written. It goes on
// where it was interrupted. It is called with l.mu held.
func (l *lane) snapshot(ctx context.Context) error {
	return l.mended(ctx, func(ctx context.Context) error {
		name := l.d.config.Snapshot
		if l.at.next == 0 {
			return nil // there is nothing yet
		}
		to := l.at
		if to.note.Snapshot != name {
			to.note.Snapshot, to.note.Keys = name, 0
		}
		from, skip := "", to.note.Keys
		for to.note.Keys >= 0 {
			w, n, failed := l.newWork(), 0, error(nil)
			to.note.Steps++
			err := l.d.store.each(l.partition.Number, from, func(key string, e *entry) bool {
				if skip > 0 {
					skip--
					return true
				}
				if n == stepKeys {
					from = key
					return false
				}
				failed = w.step(ctx, n, to, &change{after: slices.Clone(e.value), what: read, key: key, schema: e.schema})
				n++
				return failed == nil
			})
			if err = cmp.Or(err, failed); err != nil {
				return err
			}
			if to.note.Keys += int64(n); n < stepKeys {
				to.note.Keys = -1
			}
			if err := l.commit(ctx, w, to); err != nil {
				return err
			}
		}
		return nil
	})
}
