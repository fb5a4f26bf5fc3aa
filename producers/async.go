package producers

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"

	"penstock/stream"
)

// ErrClosed is returned by an Async that was closed.
var ErrClosed = stream.ErrClosed

// AsyncConfig bounds an Async. A zero field is its default.
type AsyncConfig struct {
	// MaxBytes is how much keys and values may take that are queued or on their
	// way; Send waits while there is more. 64 MiB by default.
	MaxBytes int
	// MaxBatch is the largest number of records of one call of the publisher;
	// 10,000 by default.
	MaxBatch int
	// Lanes is how many calls of the publisher may be on their way at once; 4
	// by default. Events of one key share a lane, and so keep their order.
	Lanes int
}

// Place is where an event lies.
type Place = stream.Place

// Async queues events and publishes them in the background, in batches that grow
// with the load: while one call of the publisher is on its way, the next batch
// gathers. There is no linger, since a publisher that has none to wait for does
// best to begin at once. It may be used concurrently.
type Async struct {
	p        *Producer
	o        AsyncConfig
	seed     maphash.Seed
	lanes    []*lane
	stop     context.CancelFunc // ends the calls of the publisher
	finished sync.WaitGroup     // the lanes

	mu     sync.Mutex
	bytes  int           // of what is queued or on its way
	next   int           // lane of the next event without a key
	freed  chan struct{} // closed, and made anew, when bytes has sunk and somebody waits
	waits  int
	closed bool
}

// lane publishes one batch after the other.
type lane struct {
	mu      sync.Mutex
	pending asyncBatch
	chunk   []byte        // what is left of it is free
	wake    chan struct{} // of capacity 1
	closed  bool
}

// asyncBatch is what a lane publishes at once.
type asyncBatch struct {
	records []stream.Record
	done    []func(Place, error)
}

// Async returns a queue in front of p. Whoever calls it calls Close.
func (p *Producer) Async(o AsyncConfig) *Async {
	if o.MaxBytes <= 0 {
		o.MaxBytes = 64 << 20
	}
	if o.MaxBatch <= 0 {
		o.MaxBatch = 10_000
	}
	if o.Lanes <= 0 {
		o.Lanes = 4
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &Async{p: p, o: o, seed: maphash.MakeSeed(), stop: stop, freed: make(chan struct{})}
	for range o.Lanes {
		l := &lane{wake: make(chan struct{}, 1)}
		a.lanes = append(a.lanes, l)
		a.finished.Go(func() { a.run(ctx, l) })
	}
	return a
}

// Send encodes an event and queues it; it keeps nothing of it but its headers.
// An event that Publish would refuse it refuses at once, with the same error,
// and done is not called. Otherwise done is called once, from a goroutine of a,
// when the event is durable (nil) or has failed; it must not block. nil: nobody
// asks.
//
// Send waits while the queue is full, until ctx ends. Events of one key that one
// goroutine sends arrive in that order.
func (a *Async) Send(ctx context.Context, e Event, done func(Place, error)) error {
	b := a.p.batches.Get().(*batch)
	defer a.p.release(b)
	failed, err := a.p.encode(ctx, b, []Event{e})
	if err != nil {
		return err
	}
	refused := failed.Errs[0]
	if refused != nil {
		if len(b.records) == 0 {
			return refused
		}
		done = nil // what goes on is the dead letter that a rule asks for
	}
	record := b.records[0]
	size := sizeOf(record)
	if err := a.reserve(ctx, size); err != nil {
		return err
	}
	l := a.lane(record.Key)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		a.release(size)
		return ErrClosed
	}
	// The bytes are b's or the caller's, who both go on to use them.
	record.Key, record.Value = l.hold(record.Key), l.hold(record.Value)
	l.pending.records = append(l.pending.records, record)
	l.pending.done = append(l.pending.done, done)
	l.mu.Unlock()
	l.signal()
	return refused
}

// recordBytes is what a queued record takes besides its key and value.
const recordBytes = 128

func sizeOf(r stream.Record) int { return recordBytes + len(r.Key) + len(r.Value) }

// chunkBytes is how much memory a lane takes at once for keys and values.
const chunkBytes = 64 << 10

// hold returns a copy of b, in memory that is never used again, since a publisher
// that fails may hold on to it. It is called under mu.
func (l *lane) hold(b []byte) []byte {
	if b == nil {
		return nil
	}
	if cap(l.chunk)-len(l.chunk) < len(b) {
		l.chunk = make([]byte, 0, max(chunkBytes, len(b)))
	}
	at := len(l.chunk)
	l.chunk = append(l.chunk, b...)
	return l.chunk[at:len(l.chunk):len(l.chunk)]
}

// reserve waits until there is room for so many more bytes. A record larger than
// all the room there is waits until it is alone.
func (a *Async) reserve(ctx context.Context, size int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.bytes > 0 && a.bytes+size > a.o.MaxBytes && !a.closed {
		if err := a.waitFreed(ctx); err != nil {
			return fmt.Errorf("wait for room in the queue of %d bytes: %w", a.o.MaxBytes, err)
		}
	}
	if a.closed {
		return ErrClosed
	}
	a.bytes += size
	return nil
}

// waitFreed waits until bytes has sunk or a was closed, or ctx ends, whose error it
// then returns. It is called under mu, which it gives up meanwhile.
func (a *Async) waitFreed(ctx context.Context) error {
	freed := a.freed
	a.waits++
	a.mu.Unlock()
	select {
	case <-freed:
	case <-ctx.Done():
	}
	a.mu.Lock()
	a.waits--
	return ctx.Err()
}

func (a *Async) release(size int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bytes -= size
	a.wakeWaiting()
}

// wakeWaiting is called under mu.
func (a *Async) wakeWaiting() {
	if a.waits > 0 {
		close(a.freed)
		a.freed = make(chan struct{})
	}
}

// lane returns where events of a key go, and those without one in turn.
func (a *Async) lane(key []byte) *lane {
	if key != nil {
		return a.lanes[maphash.Bytes(a.seed, key)%uint64(len(a.lanes))]
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next = (a.next + 1) % len(a.lanes)
	return a.lanes[a.next]
}

func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default: // run has yet to see the last one
	}
}

// run publishes what gathers in a lane until it is closed and empty.
func (a *Async) run(ctx context.Context, l *lane) {
	for range l.wake {
		for {
			b, closed := l.take(a.o.MaxBatch)
			if len(b.records) == 0 {
				if closed {
					return
				}
				break
			}
			a.publish(ctx, b)
		}
	}
}

// take returns at most so many of the records that have gathered.
func (l *lane) take(most int) (b asyncBatch, closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, l.pending = l.pending, asyncBatch{}
	if len(b.records) > most {
		l.pending = asyncBatch{b.records[most:], b.done[most:]}
		b = asyncBatch{b.records[:most:most], b.done[:most:most]}
	}
	return b, l.closed
}

// publish publishes a batch and tells each of its records what came of it. What
// the publisher says of one record is not the others' business, and nothing is
// sent again: who failed may have been written, unless the error says not.
func (a *Async) publish(ctx context.Context, b asyncBatch) {
	err := a.p.publisher.Publish(ctx, b.records...)
	var partly *stream.BatchError
	if err != nil && !errors.As(err, &partly) {
		if ctx.Err() != nil {
			err = ErrClosed
		}
		err = fmt.Errorf("publish: %w", err)
	}
	size := 0
	for i, done := range b.done {
		r := b.records[i]
		size += sizeOf(r)
		switch {
		case done == nil:
		case partly != nil && partly.Errs[i] != nil:
			done(Place{}, partly.Errs[i])
		case partly == nil && err != nil:
			done(Place{}, err)
		default:
			done(Place{Partition: r.Partition, Offset: r.Offset}, nil)
		}
	}
	a.release(size)
}

// Flush returns when every event that Send took before has been told what came
// of it, or ctx ends.
func (a *Async) Flush(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.bytes > 0 {
		if err := a.waitFreed(ctx); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
	}
	return nil
}

// Close takes no more events, publishes those that wait, and returns when each
// has been told what came of it. If ctx ends first, what is on its way is given
// up, and told stream.ErrClosed: it may have been written or not. It does not
// close the publisher.
func (a *Async) Close(ctx context.Context) error {
	a.mu.Lock()
	a.closed = true
	a.wakeWaiting()
	a.mu.Unlock()
	for _, l := range a.lanes {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		l.signal()
	}
	gone := make(chan struct{})
	go func() {
		a.finished.Wait()
		close(gone)
	}()
	defer a.stop()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		a.stop()
		<-gone
		return fmt.Errorf("close: %w", ctx.Err())
	}
}
