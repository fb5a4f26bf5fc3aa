package consumers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"penstock/schemas"
	"penstock/stream"
)

// Config says how Run works. Its zero value is useful but for Registry.
type Config struct {
	// Group is part of the name of the dead-letter topic, unless
	// DeadLetterTopic is its name, and stands in the header of dead letters.
	Group    string
	Registry Registry
	// Reader, if it is not nil, says as which schemas values are read; else it
	// is what they were written with.
	Reader Reader
	// Plain, if it is not nil, is the schema of values that name none; else they
	// become dead letters.
	Plain schemas.Schema
	// Between, if it is not nil, is asked about each decoded message.
	Between Between
	// DeadLetters takes the records that cannot pass; see DeadLetterTopic. If
	// it is nil, the first such record ends the run with its *Reason.
	DeadLetters     stream.Publisher
	DeadLetterTopic string
	// Ordering says what a record that cannot pass does to those behind it.
	Ordering Ordering
	// Parking is where the ordering Park keeps what waits.
	Parking *Parking
	// Attempts, if it is not 0, is how often a record is tried that fails with
	// ErrUnknown, before it is set aside; 0 is for as long as it takes. Since
	// none may be set aside because a server is down, the record before it in
	// the partition must have passed: where two fail one after the other, the
	// second is tried for as long as it takes.
	Attempts int
	// MaxRecords is the largest number of records in a batch; 0 is 1000.
	MaxRecords int
	// Limits bound the values that are decoded; a larger one becomes a dead
	// letter.
	Limits schemas.Limits
	// InFlight and InFlightBytes are how many batches may be fetched and not
	// yet settled, over all partitions, and at how many bytes of keys and
	// values in them no more is fetched; 0 is 8, and 32 MiB. One batch of each
	// partition is written at a time, and the others are decoded meanwhile. A
	// broker that limits how long, or how many, records are held must allow
	// for all of them.
	InFlight, InFlightBytes int
	// ByKey says that each batch of the source holds the records of one key
	// (microbatch.Policy.Keys). Batches of a partition are then written at the
	// same time where their keys differ, and do not follow on from one another:
	// First and Next of a Batch are its own. It is not for a sink that holds
	// positions.
	ByKey bool
	// Backoff is the wait before the second attempt at what failed for a
	// passing reason; it doubles with each further one, up to MaxBackoff, and
	// the wait itself is drawn between 0 and that ("full jitter"). 0 is 100
	// milliseconds, and 30 seconds for MaxBackoff.
	Backoff, MaxBackoff time.Duration
	// StopWithin is how long what is in flight may take to finish once the run
	// is told to stop; 0 is 10 seconds.
	StopWithin time.Duration
	Hooks      Hooks
}

// Ordering says what happens at a record that cannot pass.
type Ordering string

// The orderings.
const (
	// Skip sets the record aside as a dead letter; those behind it go on. It is
	// the default.
	Skip Ordering = ""
	// Block sets nothing aside: the record's batch is tried again and again, until
	// what is wrong is mended (a schema that is registered, a constraint that is
	// lifted), and its partition waits. The others go on while Config.InFlight
	// has room for them.
	Block Ordering = "block"
	// Park sets the record aside, and after it each one of the same key, so that
	// those of a key keep their order: when they are redriven, a record passes once
	// none that lay before it waits. Records without a key, and other keys, go on.
	Park Ordering = "park"
)

// Hooks are told what Run does. Each may be nil. They are called from several
// goroutines, and hold up the partition they are about.
type Hooks struct {
	// Settled is called for each batch that was written and acknowledged, with
	// the time from its first write to its acknowledgement.
	Settled func(b Batch, took time.Duration)
	// DeadLetter is called for each record that lies in the dead-letter topic.
	DeadLetter func(r stream.Record, why *Reason)
	// GivenBack is called for each batch that will come again, or has gone to
	// another consumer.
	GivenBack func(b Batch, why error)
	// Retry is called before each wait, with what failed in a word or two and
	// how long the wait is.
	Retry func(what string, attempt int, wait time.Duration, err error)
}

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	c.MaxRecords = cmp.Or(c.MaxRecords, 1000)
	c.InFlight = cmp.Or(c.InFlight, 8)
	c.InFlightBytes = cmp.Or(c.InFlightBytes, 32<<20)
	c.Backoff = cmp.Or(c.Backoff, 100*time.Millisecond)
	c.MaxBackoff = cmp.Or(c.MaxBackoff, 30*time.Second)
	c.StopWithin = cmp.Or(c.StopWithin, 10*time.Second)
	return c
}

// settleWithin is how long giving a batch back may take when the time to stop
// has run out.
const settleWithin = 2 * time.Second

// Run fetches batches from src, decodes them and writes them to sink until ctx
// ends. For each batch in turn: what cannot be decoded is published to the
// dead-letter topic, and awaited; the rest is written, and what the sink
// refuses for good goes the same way; then the batch is acknowledged. What
// fails for a passing reason (a sink, a registry or a broker that is down) is
// tried again for as long as it takes, and the partition waits; no record is
// set aside for it. Batches of different partitions are worked on at the same
// time.
//
// When ctx ends, Run fetches nothing more but what a Drainer has gathered, tries
// once to finish what it has fetched, gives the rest back, and returns nil if
// there was no rest. It does
// so, too, before it returns an error: that of src, other than
// stream.ErrUnreachable; one of sink that wraps ErrStop; or that of a dead
// letter that is too large for its topic.
//
// A record is delivered again, and may then be written or set aside twice,
// after an error, a crash, or when its partition moves to another consumer; a
// sink that holds positions leaves out what it has stored already.
func Run(ctx context.Context, src stream.Source, sink Sink, cfg Config) error {
	cfg = cfg.withDefaults()
	if cfg.Ordering == Park && (cfg.Parking == nil || cfg.DeadLetters == nil) {
		return errors.New("run consumer: to park records it needs a Parking and dead letters")
	}
	if cfg.Ordering != Park {
		cfg.Parking = nil
	}
	if cfg.DeadLetters != nil && cfg.Group == "" {
		return errors.New("run consumer: dead letters need the name of a group")
	}
	if _, positions := sink.(stream.Owner); positions && cfg.ByKey {
		return errors.New("run consumer: batches by key leave gaps, so no sink that holds positions can take them")
	}
	intake, halt := context.WithCancel(ctx)
	defer halt()
	work, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	r := &run{
		cfg:     cfg,
		decoder: NewDecoder(cfg.Registry, cfg.Limits).ReadAs(cfg.Reader).Plain(cfg.Plain),
		sink:    sink,
		intake:  intake,
		halt:    halt,
		work:    work,
		freed:   make(chan struct{}, 1),
		lanes:   map[laneKey]*lane{},
	}
	if s, ok := sink.(CellSink); ok && cfg.Between == nil {
		r.cells = &sync.Pool{New: func() any { return &cells{of: s} }}
	}
	err := r.fetch(intake, src)
	deadline := time.AfterFunc(cfg.StopWithin, abandon)
	defer deadline.Stop()
	d, gathers := src.(Drainer)
	switch {
	case err != nil:
		r.fail(err)
	case gathers && ctx.Err() != nil:
		d.Drain()
		_ = r.fetch(work, src) // whatever it is, that much comes again
	}
	r.wait.Wait()

	if r.failed != nil {
		return r.failed
	}
	if r.unsettled > 0 {
		return fmt.Errorf("stop: batches that could not be finished and will be delivered again: %d, the first because of: %w", r.unsettled, r.why)
	}
	return nil
}

// run is one call of Run.
type run struct {
	cfg     Config
	decoder *Decoder
	sink    Sink
	cells   *sync.Pool // of *cells, nil if the sink takes none

	// intake ends when nothing more is to be fetched, or tried again; halt
	// ends it. work ends when what is in flight has had its time.
	intake context.Context
	halt   context.CancelFunc
	work   context.Context

	freed chan struct{}  // there is less in flight
	wait  sync.WaitGroup // lanes at work, and batches being decoded

	mu        sync.Mutex
	lanes     map[laneKey]*lane
	batches   int   // in flight
	bytes     int   // of these
	failed    error // what ended the run, if not its ctx
	unsettled int   // batches that were ours still when the run ended
	why       error // what kept the first of them
}

type laneKey struct {
	topic     string
	partition int32
	key       string // with Config.ByKey
	keyed     bool
}

// Drainer is a Source that holds records back to gather more of them.
type Drainer interface {
	// Drain has nothing more read, and Fetch return what was gathered without
	// waiting for more, and then stream.ErrClosed.
	Drain()
}

// lane works on the batches of one partition, one after the other. Its
// goroutine runs while there are any.
type lane struct {
	key laneKey
	// queue and busy are guarded by run.mu.
	queue []*job
	busy  bool

	// next is the Next of the last batch that was written, -1 for none.
	next int64
	// missing are the offsets that were given back and have not been written
	// since, of the newest assignment that a batch came from.
	missing    map[int64]struct{}
	assignment int32

	// doubt says that the last message was set aside because of ErrUnknown, so
	// that it may be the sink that is at fault.
	doubt bool
}

// job is a batch on its way.
type job struct {
	records     []stream.Record
	bytes       int
	ack         stream.AckFunc
	batch       Batch
	cells       *cells // of batch, or nil
	deadLetters []deadLetter
	decoded     chan struct{} // closed when batch and deadLetters are complete, or err is set
	err         error
}

// fetch hands batches to the lanes until ctx ends. Its error is that of the
// source.
func (r *run) fetch(ctx context.Context, src stream.Source) error {
	final := func(err error) bool { return !errors.Is(err, stream.ErrUnreachable) }
	for r.admits(ctx) {
		var records []stream.Record
		var ack stream.AckFunc
		err := r.retry("fetch", final, func() (err error) {
			records, ack, err = src.Fetch(ctx, r.cfg.MaxRecords)
			return err
		})
		if err == nil {
			r.dispatch(records, ack)
		} else if ctx.Err() == nil {
			return fmt.Errorf("fetch: %w", err)
		}
	}
	return nil
}

// admits waits until one more batch may be fetched. It reports whether one
// may: not once ctx has ended.
func (r *run) admits(ctx context.Context) bool {
	for {
		r.mu.Lock()
		room := r.batches < r.cfg.InFlight && r.bytes < r.cfg.InFlightBytes
		r.mu.Unlock()
		if room || ctx.Err() != nil {
			return ctx.Err() == nil
		}
		select {
		case <-r.freed:
		case <-ctx.Done():
		}
	}
}

// done notes that a batch is no longer in flight.
func (r *run) done(j *job) {
	if j.cells != nil {
		j.cells.free = j.cells.all
		r.cells.Put(j.cells)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches--
	r.bytes -= j.bytes
	select {
	case r.freed <- struct{}{}:
	default:
	}
}

// dispatch starts to decode a batch and queues it in its partition's lane.
func (r *run) dispatch(records []stream.Record, ack stream.AckFunc) {
	first, last := records[0], records[len(records)-1]
	j := &job{
		records: records,
		ack:     ack,
		batch:   Batch{Topic: first.Topic, Partition: first.Partition, First: first.Offset, Next: last.Offset + 1},
		decoded: make(chan struct{}),
	}
	for _, r := range records {
		j.bytes += len(r.Key) + len(r.Value)
	}
	r.wait.Go(func() {
		defer close(j.decoded)
		j.err = r.decode(j)
	})

	key := laneKey{topic: first.Topic, partition: first.Partition}
	if r.cfg.ByKey {
		key.key, key.keyed = string(first.Key), first.Key != nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches++
	r.bytes += j.bytes
	l := r.lanes[key]
	if l == nil {
		l = &lane{key: key, next: -1, missing: map[int64]struct{}{}}
		r.lanes[key] = l
	}
	l.queue = append(l.queue, j)
	if !l.busy {
		l.busy = true
		r.wait.Go(func() { r.drain(l) })
	}
}

// drain works on l's batches until there are none.
func (r *run) drain(l *lane) {
	for {
		r.mu.Lock()
		if len(l.queue) == 0 {
			l.busy = false
			if r.cfg.ByKey && len(l.missing) == 0 { // else there would be one for each key that ever was
				delete(r.lanes, l.key)
			}
			r.mu.Unlock()
			return
		}
		j := l.queue[0]
		l.queue = l.queue[1:]
		r.mu.Unlock()
		<-j.decoded
		r.settle(l, j)
		r.done(j)
	}
}

// decode fills in the messages of a batch, and its dead letters. It fails only
// if the run ends first.
func (r *run) decode(j *job) error {
	j.batch.Messages = make([]Message, 0, len(j.records))
	if r.cells != nil {
		j.cells = r.cells.Get().(*cells)
	}
	never := func(error) bool { return false }
	rest := j.records
	return r.retry("decode", never, func() error {
		for ; len(rest) > 0; rest = rest[1:] {
			m, err := r.decoder.decode(r.work, rest[0], j.cells)
			wanted := true
			if err == nil && r.cfg.Between != nil {
				m, wanted, err = r.cfg.Between(r.work, m)
			}
			if err == nil {
				if wanted {
					j.batch.Messages = append(j.batch.Messages, m)
				}
				continue
			}
			var why *Reason
			if !errors.As(err, &why) || r.cfg.Ordering == Block {
				return err
			}
			j.deadLetters = append(j.deadLetters, deadLetter{rest[0], why})
		}
		return nil
	})
}

// settle writes a batch and acknowledges it, or gives it back.
//
// A batch that is given back leaves a hole, and nothing behind it may be written
// before it is filled, since a sink that holds positions cannot tell a hole from
// offsets at which nothing lies. An assignment delivers everything from where it
// begins, in order, and again what was given back; so nothing is missing before a
// record but what was given back of its assignment and has not been written since.
// Where a batch lacks some of that between its records, only those before it are
// written, or else the batch that came again with new records would wait for ever
// for what lies in between, and that for it.
func (r *run) settle(l *lane, j *job) {
	if a := j.records[0].Assignment; a != l.assignment {
		l.assignment = a
		clear(l.missing)
	}
	rest := stream.BatchError{}
	n := l.complete(j)
	if n == 0 {
		r.giveBack(l, j, errHole)
		return
	}
	j.cut(n)
	for i := n; i < len(j.records); i++ {
		rest.Fail(i, errGivenBack)
	}
	if l.next >= 0 && !r.cfg.ByKey {
		j.batch.First = min(j.batch.First, l.next)
	}

	start := time.Now()
	err := j.err
	if err == nil {
		err = r.write(l, j)
	}
	if err != nil {
		r.giveBack(l, j, err)
		return
	}
	l.next = j.batch.Next
	l.written(j, n)
	err = r.retry("acknowledge", gone, func() error { return j.ack(r.work, rest.OrNil()) })
	switch {
	case err == nil:
		if r.cfg.Hooks.Settled != nil {
			r.cfg.Hooks.Settled(j.batch, time.Since(start))
		}
	case !gone(err):
		r.leave(err)
	}
}

// complete returns how many records of a batch, from the first on, have nothing
// missing before them.
func (l *lane) complete(j *job) int {
	n := len(j.records)
	for offset := range l.missing {
		i, here := slices.BinarySearchFunc(j.records, offset, func(r stream.Record, o int64) int { return cmp.Compare(r.Offset, o) })
		if !here {
			n = min(n, i)
		}
	}
	return n
}

// written notes that the first n records of a batch are written, and that the
// others are to come again.
func (l *lane) written(j *job, n int) {
	if n == len(j.records) && len(l.missing) == 0 {
		return // as nearly always
	}
	for i := range j.records {
		offset := j.records[i].Offset
		if i < n {
			delete(l.missing, offset)
		} else {
			l.missing[offset] = struct{}{}
		}
	}
}

// cut leaves in a batch what comes of its first n records.
func (j *job) cut(n int) {
	if n == len(j.records) {
		return
	}
	next := j.records[n-1].Offset + 1
	j.batch.Next = next
	j.batch.Messages = slices.DeleteFunc(j.batch.Messages, func(m Message) bool { return m.Offset >= next })
	j.deadLetters = slices.DeleteFunc(j.deadLetters, func(d deadLetter) bool { return d.record.Offset >= next })
}

// errHole is why a batch is given back that comes after one that was.
var errHole = errors.New("an earlier batch of the partition was not written")

// errGivenBack redelivers a batch whole.
var errGivenBack = errors.New("the batch was not written")

// gone says of the error of an AckFunc that the batch is no longer ours.
func gone(err error) bool {
	return errors.Is(err, stream.ErrFenced) || errors.Is(err, stream.ErrClosed)
}

// write sets dead letters aside and stores the rest. It fails if the run ends
// first, or must end for it, or if the sink does not own the partition.
func (r *run) write(l *lane, j *job) error {
	if r.cfg.Parking != nil {
		if err := r.tries("read what is parked", func() error { return r.cfg.Parking.fresh(r.work, j.records) }); err != nil {
			return err
		}
	}
	if err := r.setAside(j.deadLetters); err != nil {
		return err
	}
	return r.store(l, &j.batch)
}

// store stores a batch but for what the sink refuses, which it takes out of it
// and sets aside.
func (r *run) store(l *lane, b *Batch) error {
	for {
		if err := r.park(b); err != nil {
			return err
		}
		var bad map[int]error
		unknown, attempts := false, 0
		final := func(err error) bool {
			bad = refused(err, len(b.Messages))
			attempts++
			unknown = errors.Is(err, ErrUnknown)
			if r.cfg.Ordering == Block || unknown && !r.despairs(l, bad, attempts) {
				bad = nil
			}
			return bad != nil || errors.Is(err, ErrStop) || errors.Is(err, stream.ErrFenced)
		}
		err := r.retry("write", final, func() error { return r.sink.Write(r.work, *b) })
		if errors.Is(err, ErrStop) {
			r.fail(fmt.Errorf("write from offset %d of %s/%d: %w", b.First, b.Topic, b.Partition, err))
		}
		// What a sink says once it is interrupted is not the records' fault.
		if err == nil || bad == nil || r.work.Err() != nil {
			if err == nil && len(b.Messages) > 0 {
				l.doubt = false
			}
			return err
		}
		if bad[someRecord] != nil {
			return r.halve(l, b)
		}
		var letters []deadLetter
		rest := make([]Message, 0, len(b.Messages))
		for i, m := range b.Messages {
			if err := bad[i]; err != nil {
				letters = append(letters, deadLetter{m.Record, &Reason{RefusedBySink, err}})
			} else {
				rest = append(rest, m)
			}
		}
		if err := r.setAside(letters); err != nil {
			return err
		}
		l.doubt = unknown
		b.Messages = rest
	}
}

// park takes out of a batch what has to wait for an earlier record of its key, and
// sets it aside.
func (r *run) park(b *Batch) error {
	if r.cfg.Parking == nil {
		return nil
	}
	behind, rest, entries, err := r.cfg.Parking.sort(b)
	if err != nil {
		r.fail(err)
		return err
	}
	b.Messages = rest
	if err := r.note(b.Topic, entries); err != nil {
		return err
	}
	return r.setAside(behind)
}

// note writes entries about what is parked.
func (r *run) note(topic string, entries []stream.Record) error {
	return r.tries("note what is parked", func() error { return r.cfg.Parking.write(r.work, topic, entries) })
}

// tries is retry until it succeeds or its error ends the run.
func (r *run) tries(what string, try func() error) error {
	err := r.retry(what, func(err error) bool { return errors.Is(err, ErrStop) }, try)
	if errors.Is(err, ErrStop) {
		r.fail(err)
	}
	return err
}

// despairs says of a batch that failed so often with ErrUnknown whether those of
// its messages that are named are set aside.
func (r *run) despairs(l *lane, bad map[int]error, attempts int) bool {
	return r.cfg.Attempts > 0 && attempts >= r.cfg.Attempts && (bad[0] == nil || !l.doubt)
}

// halve stores the two halves of a batch, one after the other.
func (r *run) halve(l *lane, b *Batch) error {
	first, second := *b, *b
	middle := len(b.Messages) / 2
	first.Next = b.Messages[middle].Offset
	second.First = first.Next
	first.Messages, second.Messages = b.Messages[:middle:middle], b.Messages[middle:]
	if err := r.store(l, &first); err != nil {
		return err
	}
	if err := r.store(l, &second); err != nil {
		return err
	}
	b.Messages = slices.Concat(first.Messages, second.Messages)
	return nil
}

// someRecord is the index of a record that is refused, where it is not known.
const someRecord = -1

// refused returns the records, of n, that a sink's error says can never be
// stored, or nil if it says anything else: no record is set aside because a
// server is down or the run is ending, whatever the sink calls it.
func refused(err error, n int) map[int]error {
	var partly *stream.BatchError
	if !errors.As(err, &partly) && !errors.Is(err, ErrBadRecord) {
		return nil
	}
	for _, other := range []error{ErrStop, stream.ErrFenced, stream.ErrUnreachable, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, other) {
			return nil
		}
	}
	if partly == nil {
		switch n {
		case 0:
			return nil
		case 1:
			return map[int]error{0: err}
		}
		return map[int]error{someRecord: err}
	}
	bad := map[int]error{}
	for i, err := range partly.Errs {
		if i >= 0 && i < n && err != nil {
			bad[i] = err
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return bad
}

// giveBack has the source deliver a batch again.
func (r *run) giveBack(l *lane, j *job, why error) {
	l.written(j, 0)
	if r.cfg.Hooks.GivenBack != nil {
		r.cfg.Hooks.GivenBack(j.batch, why)
	}
	err := r.retry("give back", gone, func() error {
		ctx := r.work
		if ctx.Err() != nil {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), settleWithin)
			defer cancel()
		}
		return j.ack(ctx, errGivenBack) // not why: it may hold a BatchError
	})
	if !gone(err) && r.intake.Err() != nil {
		r.leave(why)
	}
}

// leave notes that a batch stays unsettled when the run ends.
func (r *run) leave(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.unsettled == 0 {
		r.why = why
	}
	r.unsettled++
}

// fail ends the run.
func (r *run) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil {
		r.failed = err
	}
	r.halt()
}

// retry tries until it succeeds, or its error is final. Once the run ends it
// tries no more, and returns the last error.
func (r *run) retry(what string, final func(error) bool, try func() error) error {
	for attempt := 1; ; attempt++ {
		err := try()
		if err == nil || final(err) || r.intake.Err() != nil {
			return err
		}
		wait := r.cfg.delay(attempt, err)
		if r.cfg.Hooks.Retry != nil {
			r.cfg.Hooks.Retry(what, attempt, wait, err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-r.intake.Done():
			timer.Stop()
			return err
		}
	}
}

// delay is the wait after that many failed attempts: full jitter, as in
// "Exponential Backoff And Jitter" of the AWS Architecture Blog, but no less
// than the error asks for.
func (c Config) delay(attempt int, err error) time.Duration {
	most := c.MaxBackoff
	if doublings := attempt - 1; doublings < 30 {
		most = min(most, c.Backoff<<doublings)
	}
	wait := rand.N(most + 1)
	var after interface{ RetryAfter() time.Duration }
	if errors.As(err, &after) {
		wait = max(wait, after.RetryAfter())
	}
	return wait
}
