// Package microbatch gathers the small fetches of a source into batches that
// are worth a transaction or a file.
package microbatch

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"penstock/stream"
)

// Policy says when a batch is large or old enough. A field that is zero has
// its default.
type Policy struct {
	// Count is the largest number of records in a batch; 0 is 5000. A Fetch
	// that asks for fewer gets fewer: consumers.Config.MaxRecords should be no
	// less.
	Count int
	// Bytes is the largest sum of keys, values and headers in a batch; 0 is
	// 8 MiB. A record that is larger is a batch of its own.
	Bytes int
	// Linger is how long the first record of a batch waits for others; 0 is
	// 200 milliseconds, and less than 0 is not at all. The HoldFor of the
	// subscription has to allow for it.
	Linger time.Duration
	// BufferedRecords and BufferedBytes bound what is gathered and not fetched
	// yet, over all partitions; 0 is 4 times Count and Bytes. Once either is
	// reached nothing more is read, and the oldest batch does not wait any
	// longer. One fetch of the source may go beyond BufferedBytes, since its
	// size is not known before.
	BufferedRecords, BufferedBytes int
}

func (p Policy) withDefaults() Policy {
	p.Count = cmp.Or(p.Count, 5000)
	p.Bytes = cmp.Or(p.Bytes, 8<<20)
	p.Linger = cmp.Or(p.Linger, 200*time.Millisecond)
	p.BufferedRecords = cmp.Or(p.BufferedRecords, 4*p.Count)
	p.BufferedBytes = cmp.Or(p.BufferedBytes, 4*p.Bytes)
	return p
}

// readAtOnce is the most that is asked of the source in one fetch, so that
// BufferedBytes is overshot by little.
const readAtOnce = 500

// Batcher is a source of larger batches. It is a stream.SourceCloser.
type Batcher struct {
	src    stream.Source
	policy Policy

	stop    context.CancelFunc
	stopped chan struct{} // closed when the reader has ended
	changed chan struct{} // the reader has put something in
	room    chan struct{} // Fetch has taken something out

	mu      sync.Mutex
	lanes   map[key]*lane
	records int
	bytes   int
	err     error // why the reader has stopped for now, to be returned by Fetch
	ended   bool  // for good
}

// Batch starts to read src and gathers what it yields. Each batch that the
// Batcher returns is of one partition, with the records in the order in which
// src gave them, and ends before a record that src delivers again. Its AckFunc
// settles what src gave: a fetch that was divided between batches is settled
// together with the last of them, so an ack that returns nil may take effect
// later. One that returns an error, other than stream.ErrFenced and
// stream.ErrClosed, has yet to settle a part of its batch, and what it was told
// counts for the rest: call it again with the same.
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
	}
	go func() {
		defer close(b.stopped)
		b.read(ctx)
	}()
	return b
}

var _ stream.SourceCloser = (*Batcher)(nil)

// Close implements stream.SourceCloser. It leaves the source open.
func (b *Batcher) Close() error {
	b.stop()
	<-b.stopped
	return nil
}

type key struct {
	topic     string
	partition int32
}

// lane is what is gathered of one partition, in the order in which it came.
type lane struct {
	fetches []*fetch
	records int
	bytes   int
	last    int64 // the offset of the newest record
	breaks  int   // how many of fetches[1:] break the order of offsets
}

func (l *lane) since() time.Time { return l.fetches[0].at }

// read fetches from the source until ctx ends or the source is closed.
func (b *Batcher) read(ctx context.Context) {
	for {
		n := b.vacancy()
		if n <= 0 {
			select {
			case <-b.room:
				continue
			case <-ctx.Done():
				b.end()
				return
			}
		}
		records, ack, err := b.src.Fetch(ctx, min(n, readAtOnce))
		switch {
		case ctx.Err() != nil || errors.Is(err, stream.ErrClosed):
			b.end()
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
	return b.records >= b.policy.BufferedRecords || b.bytes >= b.policy.BufferedBytes
}

func (b *Batcher) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended, b.lanes = true, nil
	signal(b.changed)
}

func (b *Batcher) add(f *fetch) {
	first, last := f.records[0], f.records[len(f.records)-1]
	size := 0
	for _, r := range f.records {
		size += sizeOf(r)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	k := key{first.Topic, first.Partition}
	l := b.lanes[k]
	if l == nil {
		l = &lane{}
		b.lanes[k] = l
	} else if first.Offset <= l.last {
		f.breaks = true
		l.breaks++
	}
	l.fetches = append(l.fetches, f)
	l.last = last.Offset
	l.records += len(f.records)
	l.bytes += size
	b.records += len(f.records)
	b.bytes += size
}

// sizeOf is what a record counts for in Policy.Bytes.
func sizeOf(r stream.Record) int {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// Fetch implements stream.Source.
func (b *Batcher) Fetch(ctx context.Context, max int) ([]stream.Record, stream.AckFunc, error) {
	limit := b.policy.Count
	if max > 0 {
		limit = min(limit, max)
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		records, ack, wait, err := b.next(limit)
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
func (b *Batcher) next(limit int) (records []stream.Record, ack stream.AckFunc, wait time.Duration, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return nil, nil, 0, stream.ErrClosed
	}
	wait = forever
	var due, oldest key
	for k, l := range b.lanes {
		rest := time.Until(l.since().Add(b.policy.Linger))
		wait = min(wait, rest)
		if b.older(k, oldest) {
			oldest = k
		}
		whole := l.records >= limit || l.bytes >= b.policy.Bytes || l.breaks > 0
		if (whole || rest <= 0) && b.older(k, due) {
			due = k
		}
	}
	if b.lanes[due] == nil && (b.err != nil || b.full()) {
		due = oldest
	}
	switch {
	case b.lanes[due] != nil:
		records, ack = b.take(due, limit)
	case b.err != nil: // nothing is left of what came before it
		err, b.err = b.err, nil
	default:
		return nil, nil, wait, nil
	}
	signal(b.room)
	return records, ack, 0, err
}

// older says whether the lane of k has waited longer than that of other, which
// may be none.
func (b *Batcher) older(k, other key) bool {
	l := b.lanes[other]
	return l == nil || b.lanes[k].since().Before(l.since())
}

// take removes the first batch of a lane: at most limit records, and at most
// Policy.Bytes unless it is one record.
func (b *Batcher) take(k key, limit int) ([]stream.Record, stream.AckFunc) {
	l := b.lanes[k]
	var parts []part
	count, size := 0, 0
	for count < limit && len(l.fetches) > 0 {
		f := l.fetches[0]
		if f.breaks && count > 0 {
			break
		}
		at, from := count, f.taken
		for f.taken < len(f.records) && count < limit {
			n := sizeOf(f.records[f.taken])
			if count > 0 && size+n > b.policy.Bytes {
				break
			}
			size += n
			count++
			f.taken++
		}
		if f.taken > from {
			parts = append(parts, part{f, from, f.taken, at})
		}
		if f.taken < len(f.records) {
			break
		}
		l.fetches = l.fetches[1:]
		if len(l.fetches) > 0 && l.fetches[0].breaks {
			l.breaks--
		}
	}
	l.records -= count
	l.bytes -= size
	b.records -= count
	b.bytes -= size
	if len(l.fetches) == 0 {
		delete(b.lanes, k)
	}
	if len(parts) == 1 {
		p := parts[0]
		return p.fetch.records[p.from:p.to:p.to], settle(parts)
	}
	records := make([]stream.Record, 0, count)
	for _, p := range parts {
		records = append(records, p.fetch.records[p.from:p.to]...)
	}
	return records, settle(parts)
}

// signal wakes the one that waits on c, now or when it comes to wait.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
