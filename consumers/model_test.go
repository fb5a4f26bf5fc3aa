package consumers

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"penstock/stream"
)

// TestModel runs Run against a broker, a registry, a dead-letter topic and a
// sink that all fail at random, while partitions move to another consumer and
// back and the run is stopped and started. Then every record must lie in the
// sink, once and in order, or in the dead-letter topic, and nothing may have
// been acknowledged before that.
func TestModel(t *testing.T) {
	rounds := 20 // of a hundred worlds each
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		testModel(t)
	}
}

func testModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		percent := rapid.IntRange(0, 40)
		w := &world{
			seed:      rapid.Uint64().Draw(rt, "seed"),
			max:       rapid.IntRange(1, 5).Draw(rt, "max records"),
			inFlight:  rapid.IntRange(1, 5).Draw(rt, "in flight"),
			positions: rapid.Bool().Draw(rt, "sink holds positions"),
			moves:     rapid.IntRange(0, 25).Draw(rt, "moves"),
			down:      percent.Draw(rt, "down"),
			stops:     rapid.IntRange(0, 3).Draw(rt, "stops"),
			parts:     make([]*part, rapid.IntRange(1, 3).Draw(rt, "partitions")),
			tries:     map[string]int{},
		}
		for i := range w.parts {
			p := &part{number: int32(i), live: true, fresh: true, at: map[int64]int{}}
			var offset int64
			for range rapid.IntRange(0, 25).Draw(rt, "records") {
				offset += rapid.SampledFrom([]int64{1, 1, 1, 2, 5}).Draw(rt, "step")
				kind := rapid.SampledFrom([]string{"good", "good", "good", "!bad", "refused"}).Draw(rt, "kind")
				p.at[offset] = len(p.log)
				p.log = append(p.log, stream.Record{Topic: "t", Partition: p.number, Offset: offset, Value: framed(kind)})
			}
			p.settled = make([]bool, len(p.log))
			p.state = make([]state, len(p.log))
			w.parts[i] = p
		}
		synctest.Test(t, func(*testing.T) { w.play() })
		if len(w.faults) > 0 {
			rt.Fatalf("%s\nafter\n%s", strings.Join(w.faults, "\n"), strings.Join(w.trace, "\n"))
		}
	})
}

// world is everything around one Run, and its oracle.
type world struct {
	seed          uint64
	max, inFlight int
	positions     bool // the sink holds positions, else it is a plain one
	moves         int  // how many of a hundred fetches move a partition
	down          int  // how many of a hundred calls fail
	stops         int

	mu     sync.Mutex
	parts  []*part
	turn   int
	tries  map[string]int
	faults []string
	trace  []string // what happened, for whoever has to find out why
}

// part is a partition: what lies in it, where the group is, and what has become
// of each record.
type part struct {
	number  int32
	log     []stream.Record
	at      map[int64]int // index by offset
	settled []bool
	state   []state

	epoch int
	next  int   // index of the next record delivered first
	again []int // indexes to be redelivered
	due   time.Time
	held  int // batches that are out

	live   bool  // the sink has a claim
	fresh  bool  // and has written nothing under it
	stored int64 // its position
}

type state struct {
	rows, letters int
}

// chance reports, by what and for how often it was asked, whether something
// happens that does percent times in a hundred. It is called with w.mu held.
func (w *world) chance(percent int, what string) bool {
	n := w.tries[what]
	w.tries[what]++
	h := fnv.New64a()
	fmt.Fprint(h, w.seed, what, n)
	return int(h.Sum64()>>7%100) < percent
}

// note adds to the trace. It is called with w.mu held.
func (w *world) note(format string, args ...any) {
	w.trace = append(w.trace, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
}

func (w *world) fault(format string, args ...any) {
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// play runs until everything is settled, with stops in between.
func (w *world) play() {
	cfg := Config{
		Group:       "g",
		Registry:    registry{fail: w.lookUp},
		DeadLetters: publisherFunc(w.publish),
		MaxRecords:  w.max,
		InFlight:    w.inFlight,
		MaxBackoff:  time.Second,
	}
	for stop := 0; ; stop++ {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- Run(ctx, w, w, cfg) }()
		for waited := 0; !w.done(); waited++ {
			if stop < w.stops && waited == 5+3*stop {
				break
			}
			if waited > 100_000 {
				w.mu.Lock()
				w.fault("stuck")
				w.mu.Unlock()
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		cancel()
		err := <-ended
		w.mu.Lock()
		if err == nil {
			for _, p := range w.parts {
				if p.held > 0 {
					w.fault("Run returned nil with %d batches of partition %d out", p.held, p.number)
				}
			}
		}
		over := stop >= w.stops
		for _, p := range w.parts {
			w.restart(p)
		}
		w.mu.Unlock()
		if over {
			break
		}
	}
	for _, p := range w.parts {
		for i, s := range p.state {
			r := p.log[i]
			kind := string(r.Value[5:])
			moved := w.moves > 0 || w.stops > 0
			switch {
			case !p.settled[i]:
				w.fault("%d/%d was not settled", r.Partition, r.Offset)
			case kind == "good" && s.letters > 0, kind != "good" && s.rows > 0:
				w.fault("%s record %d/%d: %+v", kind, r.Partition, r.Offset, s)
			case kind == "good" && (w.positions || !moved) && s.rows != 1:
				w.fault("record %d/%d was stored %d times", r.Partition, r.Offset, s.rows)
			case kind != "good" && !moved && s.letters != 1:
				w.fault("%s record %d/%d was set aside %d times", kind, r.Partition, r.Offset, s.letters)
			}
		}
	}
}

func (w *world) done() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.parts {
		if slices.Contains(p.settled, false) {
			return false
		}
	}
	return true
}

// Fetch implements stream.Source. Partitions move at its end, when the batch is
// chosen and the caller does not have it yet.
func (w *world) Fetch(ctx context.Context, max int) ([]stream.Record, stream.AckFunc, error) {
	for {
		w.mu.Lock()
		if w.chance(w.down/4, "fetch") {
			w.mu.Unlock()
			return nil, nil, stream.ErrUnreachable
		}
		for range w.parts {
			p := w.parts[w.turn%len(w.parts)]
			w.turn++
			indexes := w.take(p, max)
			if len(indexes) == 0 {
				continue
			}
			batch := make([]stream.Record, len(indexes))
			for i, at := range indexes {
				batch[i] = p.log[at]
				batch[i].Assignment = int32(p.epoch)
			}
			p.held++
			ack := w.ack(p, indexes)
			w.note("fetch %d of partition %d, epoch %d", offsets(batch), p.number, p.epoch)
			for _, q := range w.parts {
				if w.chance(w.moves, "move") {
					w.move(q)
				}
			}
			w.mu.Unlock()
			return batch, ack, nil
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		w.mu.Lock()
		for _, q := range w.parts {
			if w.chance(w.moves, "move") {
				w.move(q)
			}
		}
		w.mu.Unlock()
	}
}

// take chooses the next batch of p.
func (w *world) take(p *part, max int) (indexes []int) {
	if !p.live {
		// The partition comes back: the sink claims it.
		p.live, p.fresh = true, true
	}
	if len(p.again) > 0 && !time.Now().Before(p.due) {
		n := min(max, len(p.again))
		indexes, p.again = p.again[:n:n], p.again[n:]
		if !w.chance(30, "again and new") {
			return indexes
		}
	}
	for p.next < len(p.log) && len(indexes) < max {
		indexes = append(indexes, p.next)
		p.next++
	}
	return indexes
}

func (w *world) ack(p *part, indexes []int) stream.AckFunc {
	epoch, done := p.epoch, false
	return func(ctx context.Context, err error) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.note("settle records %d to %d of partition %d, epoch %d of %d, with %v", indexes[0], indexes[len(indexes)-1], p.number, epoch, p.epoch, err)
		switch {
		case done:
			w.fault("batch of partition %d settled twice", p.number)
			return nil
		case p.epoch != epoch:
			return stream.ErrFenced
		case ctx.Err() != nil:
			return ctx.Err()
		case w.chance(w.down, "ack"):
			return errDown
		}
		done = true
		p.held--
		var partly *stream.BatchError
		named := errors.As(err, &partly)
		for n, i := range indexes {
			if err != nil && (!named || partly.Errs[n] != nil) {
				p.again = append(p.again, i)
				p.due = time.Now().Add(100 * time.Millisecond)
				continue
			}
			p.settled[i] = true
			for j := range i + 1 {
				if p.state[j] == (state{}) {
					w.fault("record %d of partition %d was acknowledged, or passed, and lies nowhere", p.log[j].Offset, p.number)
				}
			}
		}
		slices.Sort(p.again)
		return nil
	}
}

// move takes p away, lets another consumer go on with it now and then, and
// brings it back.
func (w *world) move(p *part) {
	w.note("move partition %d, stored %d", p.number, p.stored)
	p.live = false
	if w.chance(50, "other") {
		low := p.low()
		if w.positions {
			low = p.position()
		}
		for i := low; i < min(low+3, len(p.log)); i++ {
			if r := p.log[i]; string(r.Value[5:]) == "good" {
				p.state[i].rows++
			} else {
				p.state[i].letters++
			}
			p.settled[i] = true
			p.stored = p.log[i].Offset + 1
		}
	}
	w.restart(p)
	if w.chance(50, "back at once") {
		p.live, p.fresh = true, true
	}
}

// restart delivers p again, from where the group or the sink is.
func (w *world) restart(p *part) {
	p.epoch++
	p.held = 0
	p.again = nil
	p.next = p.low()
	if w.positions {
		p.live = false
		p.next = p.position()
		// What lies below the sink's position is settled: the owner says so.
		for i := range p.next {
			p.settled[i] = true
		}
	}
}

// low is the index of the lowest record that is not settled.
func (p *part) low() int {
	if i := slices.Index(p.settled, false); i >= 0 {
		return i
	}
	return len(p.log)
}

// position is the index of the first record at or above the sink's position.
func (p *part) position() int {
	for i, r := range p.log {
		if r.Offset >= p.stored {
			return i
		}
	}
	return len(p.log)
}

func offsets(records []stream.Record) []int64 {
	var all []int64
	for _, r := range records {
		all = append(all, r.Offset)
	}
	return all
}

func (w *world) lookUp() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.chance(w.down/2, "registry") {
		return errDown
	}
	return nil
}

// publish is the dead-letter topic.
func (w *world) publish(ctx context.Context, records ...stream.Record) error {
	w.mu.Lock()
	wait := w.chance(30, "slow")
	w.mu.Unlock()
	if wait {
		time.Sleep(50 * time.Millisecond)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.chance(w.down, "publish") {
		return errDown
	}
	var failed stream.BatchError
	for i, r := range records {
		if w.chance(w.down, "letter") {
			failed.Fail(i, errDown)
			continue
		}
		partition, _ := r.Header(stream.HeaderPartition)
		offset, _ := r.Header(stream.HeaderOffset)
		n, err := strconv.Atoi(string(partition))
		if err != nil {
			w.fault("dead letter: %v", err)
			continue
		}
		o, err := strconv.ParseInt(string(offset), 10, 64)
		if err != nil {
			w.fault("dead letter: %v", err)
			continue
		}
		p := w.parts[n]
		p.state[p.at[o]].letters++
	}
	return failed.OrNil()
}

// Write implements Sink, as the contract of Batch tells a sink to.
func (w *world) Write(ctx context.Context, b Batch) error {
	w.mu.Lock()
	slow := w.chance(30, "slow")
	w.mu.Unlock()
	if slow {
		time.Sleep(30 * time.Millisecond)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.parts[b.Partition]
	w.note("write %d to %d of partition %d, %d messages, on %d, live %v, fresh %v", b.First, b.Next, b.Partition, len(b.Messages), p.stored, p.live, p.fresh)
	if w.positions {
		switch {
		case !p.live:
			return fmt.Errorf("no claim: %w", stream.ErrFenced)
		case b.Next <= p.stored:
			return nil
		case b.First > p.stored && !p.fresh:
			w.fault("hole: batch from %d to %d of partition %d follows on %d", b.First, b.Next, b.Partition, p.stored)
		}
	}
	if w.chance(w.down, "write") {
		return errDown
	}
	var refused stream.BatchError
	last := int64(-1)
	for i, m := range b.Messages {
		if m.Offset <= last || m.Offset < b.First && !w.positions || m.Offset >= b.Next {
			w.fault("message %d of partition %d does not belong in a batch from %d to %d after %d", m.Offset, b.Partition, b.First, b.Next, last)
		}
		last = m.Offset
		if m.Data == "refused" && !(w.positions && m.Offset < p.stored) {
			refused.Fail(i, errors.New("refused"))
		}
	}
	if err := refused.OrNil(); err != nil {
		return err
	}
	for _, m := range b.Messages {
		i := p.at[m.Offset]
		if w.positions && m.Offset < p.stored {
			continue
		}
		p.state[i].rows++
	}
	// Everything below is where it belongs before the position moves past it.
	for i := range p.log {
		if p.log[i].Offset < b.Next && p.state[i] == (state{}) {
			w.fault("%d/%d was passed over by a batch from %d to %d", b.Partition, p.log[i].Offset, b.First, b.Next)
		}
	}
	p.stored, p.fresh = b.Next, false
	if w.positions && w.chance(w.down/2, "answer") {
		return errDown // stored, and the answer is lost
	}
	return nil
}
