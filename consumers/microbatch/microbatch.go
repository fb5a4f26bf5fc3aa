// Package microbatch gathers the small fetches of a source into batches that
// are worth a transaction or a file.
package microbatch

import (
	"context"
	"errors"
	"sync"
	"time"

	"penstock/schemas"
	"penstock/stream"
)

// Batcher is a source of larger batches. It is a stream.SourceCloser.
type Batcher struct {
	src    stream.Source
	pauser stream.Pauser // nil if src is none
	policy Policy

	stop    context.CancelFunc
	stopped chan struct{} // closed when the reader has ended
	changed chan struct{} // the reader has put something in, or there is less out
	room    chan struct{} // Fetch has taken something out

	mu      sync.Mutex
	lanes   map[key]*lane
	places  map[place]*share
	records int
	bytes   int
	size    int   // how many records a batch may have now; see Policy.Latency
	err     error // why the reader has stopped for now, to be returned by Fetch
	drained bool  // nothing more is read
	ended   bool  // nor given out
}

// Batch starts to read src and gathers what it yields. Each batch that the
// Batcher returns is of one partition, with the records in the order in which
// src gave them, and ends before a record that src delivers again and where an
// assignment ends. Its AckFunc
// settles what src gave: a fetch that was divided between batches is settled
// together with the last of them, so an ack that returns nil may take effect
// later. One that returns an error, other than stream.ErrFenced and
// stream.ErrClosed, has yet to settle a part of its batch, and what it was told
// counts for the rest: call it again with the same.
//
// A src that is a stream.Pauser leaves out a partition while Policy.Out batches
// of it are out and another is gathered, so that the others go on. One that is
// a stream.Releaser has what is gathered of a partition handed on at once when
// the partition is about to go.
//
// An error of src is returned by Fetch after all that was gathered before it,
// and the Fetch after that reads on. After stream.ErrClosed, from src or by
// Close, what was gathered is dropped, unsettled.
//
// The caller closes the Batcher, and then src.
func Batch(src stream.Source, p Policy) *Batcher {
	ctx, stop := context.WithCancel(context.Background())
	b := &Batcher{
		src:     src,
		policy:  p.withDefaults(),
		stop:    stop,
		stopped: make(chan struct{}),
		changed: make(chan struct{}, 1),
		room:    make(chan struct{}, 1),
		lanes:   map[key]*lane{},
		places:  map[place]*share{},
	}
	b.size = b.policy.start()
	b.pauser, _ = src.(stream.Pauser)
	if r, ok := src.(stream.Releaser); ok {
		r.OnRelease(b.releasing)
	}
	go func() {
		defer close(b.stopped)
		b.read(ctx)
	}()
	return b
}

var _ stream.SourceCloser = (*Batcher)(nil)

// Drain has nothing more read, and Fetch return what was gathered without
// waiting for more, and then stream.ErrClosed.
func (b *Batcher) Drain() { b.stop() }

// Close implements stream.SourceCloser. It leaves the source open.
func (b *Batcher) Close() error {
	b.end()
	b.stop()
	<-b.stopped
	return nil
}

// place is a partition of a topic.
type place struct {
	topic     string
	partition int32
}

// key is what the records of a batch have in common.
type key struct {
	place
	key   string // with Policy.Keys
	keyed bool
}

// share is what is gathered of a partition, and what is out.
type share struct {
	partition      int32
	records, bytes int
	out            int  // batches handed out and not settled
	paused         bool // the source leaves it out
	leaving        bool // it is about to go to another consumer
}

// lane is what is gathered under one key, in the order in which it came.
type lane struct {
	key            key
	share          *share
	spans          []span
	records, bytes int
	last           int64          // the offset of the newest record
	assignment     int32          // and its assignment
	schema         schemas.Header // the last that was named, if any was
	tail           Cause          // why a batch ends behind the newest record; empty if it does not
	cuts           int            // how many places there are at which a batch must end
}

// span is consecutive records of a fetch.
type span struct {
	fetch    *fetch
	from, to int
	cut      Cause // why a batch ends before it; never set on a lane's first
}

func (l *lane) since() time.Time { return l.spans[0].fetch.at }

// read fetches from the source until ctx ends or the source is closed.
func (b *Batcher) read(ctx context.Context) {
	for {
		n := b.vacancy()
		if n <= 0 {
			select {
			case <-b.room:
				continue
			case <-ctx.Done():
				b.drain()
				return
			}
		}
		records, ack, err := b.src.Fetch(ctx, min(n, readAtOnce))
		switch {
		case errors.Is(err, stream.ErrClosed):
			b.end()
			return
		case ctx.Err() != nil:
			b.drain()
			return
		case err != nil:
			b.mu.Lock()
			b.err = err
			b.mu.Unlock()
		case len(records) > 0:
			b.add(&fetch{records: records, ack: ack, at: time.Now(), open: len(records)})
		}
		signal(b.changed)
	}
}

// readAtOnce is the most that is asked of the source in one fetch, so that
// BufferedBytes is overshot by little.
const readAtOnce = 500

// vacancy is how many records may be read now.
func (b *Batcher) vacancy() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || b.full() {
		return 0
	}
	return b.policy.BufferedRecords - b.records
}

// full is called with b.mu held.
func (b *Batcher) full() bool {
	return b.records >= b.policy.BufferedRecords || b.bytes >= b.policy.BufferedBytes || b.crowded()
}

// crowded says that more keys are open than may be. It is called with b.mu held.
func (b *Batcher) crowded() bool { return b.policy.Keys > 0 && len(b.lanes) > b.policy.Keys }

func (b *Batcher) drain() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drained = true
	signal(b.changed)
}

func (b *Batcher) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended, b.lanes = true, nil
	signal(b.changed)
}

// releasing is told by the source that a partition is to go, and that it is gone.
func (b *Batcher) releasing(topic string, partition int32, gone bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.share(place{topic, partition}).leaving = !gone
	signal(b.changed)
}

// share is called with b.mu held.
func (b *Batcher) share(p place) *share {
	s := b.places[p]
	if s == nil {
		s = &share{partition: p.partition}
		b.places[p] = s
	}
	return s
}

// add gathers a fetch.
func (b *Batcher) add(f *fetch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return
	}
	at := place{f.records[0].Topic, f.records[0].Partition}
	share := b.share(at)
	k := key{place: at}
	for i, r := range f.records {
		if b.policy.Keys > 0 {
			k.key, k.keyed = string(r.Key), r.Key != nil
		}
		l := b.lanes[k]
		if l == nil {
			l = &lane{key: k, share: share}
			b.lanes[k] = l
		}
		b.append(l, f, i)
	}
	b.balance(share)
}

// append adds record i of f to a lane. It is called with b.mu held.
func (b *Batcher) append(l *lane, f *fetch, i int) {
	r := f.records[i]
	cut := l.tail
	l.tail = ""
	if cut == "" && len(l.spans) > 0 && (r.Offset <= l.last || r.Assignment != l.assignment) {
		cut = Redelivery
		l.cuts++
	}
	if b.policy.BySchema {
		if h, ok := schemaOf(r); ok {
			if cut == "" && l.schema != h && l.schema != (schemas.Header{}) {
				cut = SchemaChange
				l.cuts++
			}
			l.schema = h
		}
	}
	if n := len(l.spans); cut == "" && n > 0 && l.spans[n-1].fetch == f && l.spans[n-1].to == i {
		l.spans[n-1].to++
	} else {
		l.spans = append(l.spans, span{f, i, i + 1, cut})
	}
	if b.policy.Cut != nil && b.policy.Cut(r) {
		l.tail = Predicate
		l.cuts++
	}
	l.last, l.assignment = r.Offset, r.Assignment
	b.count(l, 1, sizeOf(r))
}

// count is called with b.mu held.
func (b *Batcher) count(l *lane, records, bytes int) {
	l.records += records
	l.bytes += bytes
	l.share.records += records
	l.share.bytes += bytes
	b.records += records
	b.bytes += bytes
}

// balance has the source leave out a partition of which there is enough, or go
// on with it. It is called with b.mu held.
func (b *Batcher) balance(s *share) {
	enough := s.out >= b.policy.Out && (s.records >= b.size || s.bytes >= b.policy.Bytes)
	if b.pauser != nil && enough != s.paused {
		s.paused = enough
		b.pauser.Pause(s.partition, enough)
	}
}

// sizeOf is what a record counts for in Policy.Bytes.
func sizeOf(r stream.Record) int {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// schemaOf is the schema that a record names, if it does.
func schemaOf(r stream.Record) (schemas.Header, bool) {
	named, ok := r.Header(schemas.ValueHeader)
	if !ok {
		named = r.Value
	}
	if len(named) == 0 {
		return schemas.Header{}, false
	}
	h, _, err := schemas.ParseHeader(named)
	return h, err == nil
}

// Fetch implements stream.Source.
func (b *Batcher) Fetch(ctx context.Context, max int) ([]stream.Record, stream.AckFunc, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		records, ack, wait, err := b.next(max)
		if records != nil || err != nil {
			return records, ack, err
		}
		linger := time.NewTimer(wait)
		select {
		case <-b.changed:
		case <-linger.C:
		case <-ctx.Done():
		}
		linger.Stop()
	}
}

// forever is longer than any linger.
const forever = 1<<63 - 1

// next returns a batch that is due, the oldest first, or how long to wait for
// one.
func (b *Batcher) next(max int) (records []stream.Record, ack stream.AckFunc, wait time.Duration, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return nil, nil, 0, stream.ErrClosed
	}
	limit := b.size
	if max > 0 {
		limit = min(limit, max)
	}
	wait = forever
	var due, oldest *lane
	for _, l := range b.lanes {
		if l.share.out >= b.policy.Out {
			continue
		}
		rest := time.Until(l.since().Add(b.policy.Linger))
		wait = min(wait, rest)
		oldest = older(oldest, l)
		if rest <= 0 || b.drained || l.share.leaving || l.records >= limit || l.bytes >= b.policy.Bytes || l.cuts > 0 {
			due = older(due, l)
		}
	}
	if due == nil && (b.err != nil || b.full()) {
		due = oldest
	}
	switch {
	case due != nil:
		records, ack = b.take(due, limit)
		signal(b.room)
	case b.err != nil && len(b.lanes) == 0: // nothing is left of what came before it
		err, b.err = b.err, nil
		signal(b.room)
	case b.drained && len(b.lanes) == 0:
		err = stream.ErrClosed
	}
	return records, ack, wait, err
}

// older returns the lane that has waited longer; the first may be nil.
func older(a, b *lane) *lane {
	if a == nil || b.since().Before(a.since()) {
		return b
	}
	return a
}

// why says what makes a lane due of which all is taken. It is called with b.mu
// held.
func (b *Batcher) why(l *lane) Cause {
	switch {
	case l.share.leaving:
		return Revoke
	case b.drained:
		return Drain
	case time.Since(l.since()) >= b.policy.Linger:
		return Linger
	case b.crowded():
		return OpenKeys
	}
	return Buffer
}

// take removes the first batch of a lane: at most limit records, and at most
// Policy.Bytes unless it is one record. It is called with b.mu held.
func (b *Batcher) take(l *lane, limit int) ([]stream.Record, stream.AckFunc) {
	f := Flush{Topic: l.key.topic, Partition: l.key.partition, Cause: l.tail, Gathered: time.Since(l.since())}
	if f.Cause == "" {
		f.Cause = b.why(l)
	}
	var parts []part
gather:
	for len(l.spans) > 0 {
		s := &l.spans[0]
		if s.cut != "" && f.Records > 0 {
			f.Cause = s.cut
			break
		}
		p := part{fetch: s.fetch, from: s.from, at: f.Records}
		for ; s.from < s.to; s.from++ {
			n := sizeOf(s.fetch.records[s.from])
			if f.Records >= limit {
				f.Cause = Count
			} else if f.Records > 0 && f.Bytes+n > b.policy.Bytes {
				f.Cause = Bytes
			} else {
				f.Records++
				f.Bytes += n
				continue
			}
			if p.to = s.from; p.to > p.from {
				parts = append(parts, p)
			}
			break gather
		}
		p.to = s.to
		parts = append(parts, p)
		l.spans = l.spans[1:]
	}
	b.count(l, -f.Records, -f.Bytes)
	switch {
	case len(l.spans) == 0:
		delete(b.lanes, l.key)
		if l.tail == "" && f.Records >= limit {
			f.Cause = Count
		} else if l.tail == "" && f.Bytes >= b.policy.Bytes {
			f.Cause = Bytes
		}
	case l.spans[0].cut != "":
		l.spans[0].cut = ""
		l.cuts--
	}
	l.share.out++
	b.balance(l.share)
	records := joined(parts, f.Records)
	f.First, f.Last = records[0].Offset, records[len(records)-1].Offset
	return records, b.settler(l.share, f, parts)
}

// joined are the records of parts, of which there are n.
func joined(parts []part, n int) []stream.Record {
	if len(parts) == 1 {
		p := parts[0]
		return p.fetch.records[p.from:p.to:p.to]
	}
	records := make([]stream.Record, 0, n)
	for _, p := range parts {
		records = append(records, p.fetch.records[p.from:p.to]...)
	}
	return records
}

// settler makes the AckFunc of a batch, which notes when the batch is no longer
// out.
func (b *Batcher) settler(s *share, f Flush, parts []part) stream.AckFunc {
	settle, handed := settle(parts), time.Now()
	var done sync.Once
	return func(ctx context.Context, err error) error {
		failed := settle(ctx, err)
		if failed == nil || gone(failed) {
			done.Do(func() {
				f.Took = time.Since(handed)
				if f.Err = err; failed != nil {
					f.Err = failed
				}
				b.settled(s, f)
			})
		}
		return failed
	}
}

// settled is called once a batch is no longer out.
func (b *Batcher) settled(s *share, f Flush) {
	b.mu.Lock()
	s.out--
	if f.Err == nil {
		b.size = b.policy.steer(b.size, f)
	}
	b.balance(s)
	signal(b.changed)
	b.mu.Unlock()
	if b.policy.Flushed != nil {
		b.policy.Flushed(f)
	}
}

// signal wakes the one that waits on c, now or when it comes to wait.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
