package diffing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
)

// ApplyConfig says what an Applier does. What is not said here is as in Config.
type ApplyConfig struct {
	// Broker takes the logs. The Applier does not close it.
	Broker Broker
	// Name is that of the consumer group: the logs are kept under it.
	Name   string
	Format Format
	// Sink takes the states: of each event the value that its key has after it, and
	// a tombstone where it has none any more, at the offset of the event and under
	// its key. The Applier does not close it.
	Sink consumers.Sink
	// Schema is what the states are written in, asked for each batch. One without
	// an id names none in the records.
	Schema func(ctx context.Context) (schemas.Registered, error)
	// MaxValueBytes, CacheBytes, Restoring and Logger are those of Config.
	MaxValueBytes int
	CacheBytes    int64
	Restoring     func(p stream.Partition, done, total int64)
	Logger        *slog.Logger
}

// Applier folds change events back into the last value of each key, and hands what
// that gives to another sink. It is a consumers.Sink and a stream.Owner. Write may
// be called concurrently for different partitions.
//
// # What holds
//
// What the keys are after a record hangs on the records up to it alone. So the sink
// comes first, with the position that it keeps in its own transaction, and the state
// and a position second, in a log like that of a Differ. Who starts after a kill
// finds the sink ahead by what was not logged, folds those records again, which must
// be there still, and the sink leaves out what it has. So it stores each state as
// often as it stores any record: once, if it holds positions.
//
// An event that cannot be applied is named in a BatchError and changes nothing. What
// the sink, or the schema, refuses for good is named as well, but changes the state
// all the same, since it is what the events after it start from.
type Applier struct {
	d      *Differ
	sink   consumers.Sink
	schema func(ctx context.Context) (schemas.Registered, error)

	mu sync.Mutex
	// held are the states that were refused, by partition and offset, for the batch
	// comes again without them. They outlive a claim, as the batch may.
	held map[stream.Partition]map[int64]update
}

// OpenApplier opens the folder dir as Open does.
func OpenApplier(dir string, c ApplyConfig) (*Applier, error) {
	if c.Sink == nil || c.Schema == nil {
		return nil, errors.New("open applier: it needs a sink and a schema")
	}
	d, err := openDiffer(dir, Config{
		Broker: c.Broker, Name: c.Name, Format: c.Format, MaxValueBytes: c.MaxValueBytes,
		CacheBytes: c.CacheBytes, Restoring: c.Restoring, Logger: c.Logger,
	})
	if err != nil {
		return nil, err
	}
	d.applier = &Applier{d: d, sink: c.Sink, schema: c.Schema, held: map[stream.Partition]map[int64]update{}}
	return d.applier, nil
}

var (
	_ consumers.Sink = (*Applier)(nil)
	_ stream.Owner   = (*Applier)(nil)
)

// Close gives up all partitions and closes the folder. Batches that are being
// written fail.
func (a *Applier) Close() error { return a.d.Close() }

// Assigned implements stream.Owner. The sink is claimed first: then who had the
// partition before can move it no more, and the state that is found is not ahead.
func (a *Applier) Assigned(ctx context.Context, partitions []stream.Partition) (map[stream.Partition]int64, error) {
	var stored map[stream.Partition]int64
	owner, holds := a.sink.(stream.Owner)
	if holds {
		var err error
		if stored, err = owner.Assigned(ctx, partitions); err != nil {
			return nil, err
		}
	}
	starts, err := a.d.Assigned(ctx, partitions)
	for p, next := range starts {
		if holds && stored[p] < next {
			err = fmt.Errorf("the state of %s[%d] reaches to offset %d, and the sink to %d: %w; choose another group to fill it from the start", p.Topic, p.Number, next, stored[p], consumers.ErrStop)
		}
	}
	if err != nil {
		return nil, errors.Join(err, a.Lost(ctx, partitions))
	}
	return starts, nil
}

// Lost implements stream.Owner.
func (a *Applier) Lost(ctx context.Context, partitions []stream.Partition) error {
	err := a.d.Lost(ctx, partitions)
	if owner, ok := a.sink.(stream.Owner); ok {
		err = errors.Join(err, owner.Lost(ctx, partitions))
	}
	return err
}

// Write implements consumers.Sink.
func (a *Applier) Write(ctx context.Context, b consumers.Batch) error { return a.d.Write(ctx, b) }

// ofSink is an error of an Applier's sink, or of the registry, that says nothing
// about the log.
type ofSink struct{ error }

func (e ofSink) Unwrap() error { return e.error }

// stepOf is what happens at an offset: a message of the batch, or what is held.
type stepOf struct {
	offset  int64
	message int // -1 for what is held
	held    update
}

// applySome is some of an Applier.
func (l *lane) applySome(ctx context.Context, b consumers.Batch, from int) (n int, err error) {
	a, w := l.d.applier, l.newWork()
	schema, err := a.schema(ctx)
	if err != nil {
		return 0, ofSink{fmt.Errorf("look up the schema of the states: %w", err)}
	}
	to := position{next: b.Next, note: l.at.note}
	w.states = consumers.Batch{Topic: b.Topic, Partition: b.Partition, First: max(b.First, l.at.next)}
	for _, s := range a.steps(l.partition, b, from, l.at.next) {
		if len(w.updates) > l.most()-2 { // a message is an entry, and there is a head
			to.next = s.offset
			break
		}
		if s.message < 0 {
			w.put(-1, s.held.key, s.held.entry)
			continue
		}
		if err := w.fold(s.message, b.Messages[s.message], schema); err != nil {
			return 0, err
		}
		n++
	}
	if err := w.refused.OrNil(); err != nil {
		return 0, err
	}
	w.states.Next = to.next
	if err := l.commit(ctx, w, to); err != nil {
		return 0, err
	}
	a.release(l.partition, to.next)
	return n, nil
}

// steps are the messages of b from one on, and what is held from an offset on, in
// their order.
func (a *Applier) steps(p stream.Partition, b consumers.Batch, from int, next int64) []stepOf {
	a.mu.Lock()
	defer a.mu.Unlock()
	steps := make([]stepOf, 0, len(b.Messages)-from+len(a.held[p]))
	for i, m := range b.Messages[from:] {
		delete(a.held[p], m.Offset) // it came again
		steps = append(steps, stepOf{offset: m.Offset, message: from + i})
	}
	for offset, u := range a.held[p] {
		if next <= offset && offset < b.Next {
			steps = append(steps, stepOf{offset, -1, u})
		}
	}
	slices.SortFunc(steps, func(x, y stepOf) int { return cmp.Compare(x.offset, y.offset) })
	return steps
}

// hold keeps a state that is refused.
func (a *Applier) hold(p stream.Partition, offset int64, u update) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held[p] == nil {
		a.held[p] = map[int64]update{}
	}
	a.held[p][offset] = u
}

// release forgets what is held before an offset.
func (a *Applier) release(p stream.Partition, next int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for offset := range a.held[p] {
		if offset < next {
			delete(a.held[p], offset)
		}
	}
}

// fold applies message i. Only what concerns the store is returned as an error.
func (w *work) fold(i int, m consumers.Message, to schemas.Registered) error {
	c := &w.l.d.config
	key, err := keyOf(m, "")
	if err != nil {
		w.refused.Fail(i, err)
		return nil
	}
	before, err := w.get(key)
	if err != nil {
		return err
	}
	var was []byte
	if before != nil {
		was = before.value
	}
	value, err := c.Format.fold(was, m)
	switch {
	case err != nil && !ofEvent(err):
		return err
	case err == nil && len(value)+2*len(key)+1024 > c.MaxValueBytes: // room for the key, as any broker counts it
		err = fmt.Errorf("the state of this key has %d bytes, of at most %d with its key: %w", len(value), c.MaxValueBytes, stream.ErrTooLarge)
	}
	if err != nil {
		w.refused.Fail(i, fmt.Errorf("the change cannot be applied: %w", err))
		return nil
	}
	w.time = max(w.time, m.Time.UnixMilli())
	u := update{key: key}
	if value != nil {
		u.entry = &entry{value: value}
	}
	w.put(i, key, u.entry)
	if value == nil && before == nil {
		return nil // the tombstone behind a deletion
	}
	state, err := stateOf(m, value, to)
	if err != nil {
		w.l.d.applier.hold(w.l.partition, m.Offset, u)
		w.refused.Fail(i, err)
		return nil
	}
	w.states.Messages = append(w.states.Messages, state)
	w.sources, w.folded = append(w.sources, i), append(w.folded, u)
	return nil
}

// stateOf is the message that says what the value of a key is after an event.
func stateOf(m consumers.Message, value []byte, to schemas.Registered) (consumers.Message, error) {
	m.Headers = slices.DeleteFunc(slices.Clone(m.Headers), func(h stream.Header) bool { return h.Key == schemas.ValueHeader })
	m.Value, m.SchemaID, m.Schema, m.Data = nil, 0, nil, nil
	if value == nil {
		return m, nil
	}
	var frame []byte
	if to.ID != 0 {
		frame = schemas.AppendFrame(nil, to.ID, to.Schema)
	}
	framed, err := encode(frame, to.Schema, value)
	if err == nil {
		m.Data, err = schemas.Decode(to.Schema, framed[len(frame):], schemas.Limits{})
	}
	if err != nil {
		return m, fmt.Errorf("the state does not fit the schema: %w", err)
	}
	m.SchemaID, m.Schema, m.Value = to.ID, to.Schema, framed
	return m, nil
}

// encode appends the encoding of a value that is canonical JSON.
func encode(dst []byte, s schemas.Schema, text []byte) ([]byte, error) {
	if s.Type() == schemas.JSON {
		return schemas.AppendText(s, dst, text)
	}
	v, err := schemas.ParseText(text)
	if err != nil {
		return dst, err
	}
	return s.AppendEncode(dst, schemas.Restore(s.Model(), v))
}

// hand writes states to the sink. What it refuses is held.
func (a *Applier) hand(ctx context.Context, p stream.Partition, w *work) error {
	err := a.sink.Write(ctx, w.states)
	if err == nil {
		return nil
	}
	if refused := (*stream.BatchError)(nil); errors.As(err, &refused) {
		for i := range refused.Errs {
			a.hold(p, w.states.Messages[i].Offset, w.folded[i])
		}
	} else if errors.Is(err, consumers.ErrBadRecord) && len(w.states.Messages) == 1 {
		a.hold(p, w.states.Messages[0].Offset, w.folded[0])
	}
	return ofSink{consumers.Renumbered(err, w.sources)}
}
