package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"penstock/stream"
)

// group is where the sources of one name stand in one topic. All but moving is
// guarded by server.mu.
type group struct {
	topic   *topic
	members []*source
	cursors []cursor // by partition

	// moving is held while partitions move between members, so that who loses
	// one has been told before who gets it can claim it. It is taken before
	// source.owning, and that before server.mu.
	moving sync.Mutex
}

// cursor is where a group stands in one partition.
type cursor struct {
	holder  *source
	epoch   int32 // counts the moves; a batch of an older epoch is fenced
	claimed bool  // the holder may fetch: its Owner, if it has one, knows
	paused  bool  // see stream.Pauser

	low     int64              // every record below is settled
	next    int64              // the next record to be delivered first
	settled map[int64]struct{} // settled records above low
	again   []redelivery       // nacked records, by due time
}

type redelivery struct {
	offset int64
	due    time.Time
}

// start makes c deliver from offset, and forgets what was in flight.
func (c *cursor) start(offset int64) {
	c.low, c.next, c.settled, c.again = offset, offset, map[int64]struct{}{}, nil
}

// rebalance deals the partitions out to the members, and returns those that
// have been taken from sources with an Owner. It is called with server.mu held.
func (g *group) rebalance(s *server) map[*source][]stream.Partition {
	lost := map[*source][]stream.Partition{}
	for i := range g.cursors {
		c := &g.cursors[i]
		var holder *source
		if n := len(g.members); n > 0 {
			holder = g.members[i%n]
		}
		if holder == c.holder {
			continue
		}
		if c.holder != nil && c.holder.sub.Owner != nil && c.claimed {
			lost[c.holder] = append(lost[c.holder], s.partition(g.topic, i))
		}
		c.holder = holder
		c.paused = false
		c.epoch++
		c.claimed = holder != nil && holder.sub.Owner == nil
		c.start(c.low)
	}
	s.wake()
	return lost
}

type source struct {
	server *server
	group  *group
	sub    stream.Subscription

	// owning is held while sub.Owner is called.
	owning sync.Mutex

	// Guarded by server.mu.
	closed bool
	failed error // what Fetch returns from now on
	turn   int   // the partition at which the next Fetch looks first
}

// Open implements stream.Broker.
func (b *Broker) Open(ctx context.Context, sub stream.Subscription) (stream.SourceCloser, error) {
	if err := b.usable(ctx); err != nil {
		return nil, fmt.Errorf("open topic %q: %w", sub.Topic, err)
	}
	if sub.Group == "" {
		return nil, fmt.Errorf("open topic %q: the subscription names no group", sub.Topic)
	}
	if sub.Retry == 0 {
		sub.Retry = 100 * time.Millisecond
	}
	s := b.server
	s.mu.Lock()
	t, err := s.find(sub.Topic)
	if err != nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("open: %w", err)
	}
	g, ok := t.groups[sub.Group]
	if !ok {
		g = &group{topic: t, cursors: make([]cursor, len(t.partitions))}
		for i := range g.cursors {
			g.cursors[i].start(0)
		}
		t.groups[sub.Group] = g
	}
	s.mu.Unlock()

	src := &source{server: s, group: g, sub: sub}
	src.move(func() { g.members = append(g.members, src) })
	return src, nil
}

// move changes the members of the group, and tells who loses partitions by it.
func (src *source) move(change func()) {
	g, s := src.group, src.server
	g.moving.Lock()
	defer g.moving.Unlock()
	s.mu.Lock()
	change()
	lost := g.rebalance(s)
	s.mu.Unlock()
	for loser, partitions := range lost {
		loser.owning.Lock()
		loser.lose(partitions)
		loser.owning.Unlock()
	}
}

// lose tells the Owner what it lost. It is called with src.owning held.
func (src *source) lose(partitions []stream.Partition) {
	if err := src.sub.Owner.Lost(context.Background(), partitions); err != nil {
		src.fail(fmt.Errorf("give up partitions of topic %q: %w", src.sub.Topic, err))
	}
}

// fail makes every Fetch from now on return err.
func (src *source) fail(err error) {
	src.server.mu.Lock()
	defer src.server.mu.Unlock()
	if src.failed == nil {
		src.failed = err
	}
}

// Pause implements stream.Pauser.
func (src *source) Pause(partition int32, pause bool) {
	src.server.mu.Lock()
	defer src.server.mu.Unlock()
	if i := int(partition); i < len(src.group.cursors) && src.group.cursors[i].holder == src {
		src.group.cursors[i].paused = pause
		src.server.wake()
	}
}

// Close implements stream.SourceCloser. It returns what ended the source before,
// or the error of Owner.Lost.
func (src *source) Close() error {
	s, g := src.server, src.group
	s.mu.Lock()
	first := !src.closed
	src.closed = true
	s.mu.Unlock()
	if first {
		src.move(src.leave)
	}
	g.moving.Lock() // another Close is through as well
	defer g.moving.Unlock()
	src.owning.Lock()
	defer src.owning.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return src.failed
}

// leave takes src out of its group. It is called with server.mu held.
func (src *source) leave() {
	g := src.group
	g.members = slices.DeleteFunc(g.members, func(m *source) bool { return m == src })
}

// Fetch implements stream.Source.
func (src *source) Fetch(ctx context.Context, max int) ([]stream.Record, stream.AckFunc, error) {
	if max < 1 {
		return nil, nil, fmt.Errorf("fetch from topic %q: max is %d, want at least 1", src.sub.Topic, max)
	}
	for {
		records, ack, wait, err := src.poll(ctx, max)
		if err != nil || records != nil {
			return records, ack, err
		}
		if wait == nil {
			continue
		}
		if err := wait(); err != nil {
			return nil, nil, err
		}
	}
}

// poll returns a batch if there is one, else how to wait for it. With neither,
// partitions were claimed and there may be a batch now.
func (src *source) poll(ctx context.Context, max int) (_ []stream.Record, _ stream.AckFunc, wait func() error, _ error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, nil, err
	}
	s, g := src.server, src.group
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case src.closed:
		return nil, nil, nil, stream.ErrClosed
	case src.failed != nil:
		return nil, nil, nil, src.failed
	case g.topic.deleted && s.topics[g.topic.name] != nil:
		return nil, nil, nil, fmt.Errorf("topic %q: %w", g.topic.name, stream.ErrTopicChanged)
	case g.topic.deleted:
		return nil, nil, nil, fmt.Errorf("topic %q: %w", g.topic.name, stream.ErrNoTopic)
	}
	for i := range g.cursors {
		if c := &g.cursors[i]; c.holder == src && !c.claimed {
			s.mu.Unlock()
			err := src.claim(ctx)
			s.mu.Lock()
			return nil, nil, nil, err
		}
	}

	now := time.Now()
	var due time.Time // of the first redelivery that is not due yet
	for range g.cursors {
		i := src.turn
		src.turn = (src.turn + 1) % len(g.cursors)
		c := &g.cursors[i]
		if c.holder != src {
			continue
		}
		if offsets := c.take(now, max, int64(len(g.topic.partitions[i]))); len(offsets) > 0 {
			records := make([]stream.Record, len(offsets))
			for j, o := range offsets {
				records[j] = g.topic.partitions[i][o]
				records[j].Assignment = c.epoch - 1 // 0 for the first
			}
			return records, src.ack(c, offsets), nil, nil
		}
		if len(c.again) > 0 && (due.IsZero() || c.again[0].due.Before(due)) {
			due = c.again[0].due
		}
	}

	changed := s.changed
	return nil, nil, func() error {
		var timer <-chan time.Time
		if !due.IsZero() {
			timer = time.After(time.Until(due))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-timer:
		}
		return nil
	}, nil
}

// take returns the offsets of the next batch: nacked records that are due, else
// new ones, up to end.
func (c *cursor) take(now time.Time, max int, end int64) []int64 {
	var offsets []int64
	n := 0
	for n < len(c.again) && n < max && !c.again[n].due.After(now) {
		offsets = append(offsets, c.again[n].offset)
		n++
	}
	if n > 0 {
		c.again = c.again[n:]
		slices.Sort(offsets)
		return offsets
	}
	for !c.paused && c.next < end && len(offsets) < max {
		offsets = append(offsets, c.next)
		c.next++
	}
	return offsets
}

// claimAgain is how long a source waits before it claims again what someone else
// was faster to claim.
const claimAgain = 50 * time.Millisecond

// claim has the Owner say where the partitions start that are new to src.
func (src *source) claim(ctx context.Context) error {
	s, g := src.server, src.group
	src.owning.Lock()
	defer src.owning.Unlock()

	s.mu.Lock()
	var partitions []stream.Partition
	epochs := map[int32]int32{}
	for i := range g.cursors {
		if c := &g.cursors[i]; c.holder == src && !c.claimed {
			partitions = append(partitions, s.partition(g.topic, i))
			epochs[int32(i)] = c.epoch
		}
	}
	s.mu.Unlock()
	if len(partitions) == 0 {
		return nil
	}

	starts, err := src.sub.Owner.Assigned(ctx, partitions)
	if err != nil && ctx.Err() != nil {
		return ctx.Err() // the next Fetch claims them again
	}
	if errors.Is(err, stream.ErrFenced) {
		select {
		case <-time.After(claimAgain):
			return nil // the next poll claims what is held still
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err == nil {
		err = src.check(starts)
	}
	if err != nil {
		err = fmt.Errorf("claim partitions of topic %q: %w", g.topic.name, err)
		src.fail(err)
		return err
	}

	s.mu.Lock()
	var gone []stream.Partition
	for _, p := range partitions {
		c := &g.cursors[p.Number]
		if c.epoch != epochs[p.Number] {
			gone = append(gone, p)
			continue
		}
		c.claimed = true
		c.start(starts[p])
	}
	s.mu.Unlock()
	if len(gone) > 0 {
		src.lose(gone)
	}
	return nil
}

// check says which of the positions its partition does not hold.
func (src *source) check(starts map[stream.Partition]int64) error {
	s, g := src.server, src.group
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, at := range starts {
		if end := int64(len(g.topic.partitions[p.Number])); at < 0 || at > end {
			return fmt.Errorf("partition %d: %w: it is %d, the partition holds 0 to %d", p.Number, stream.ErrPosition, at, end)
		}
	}
	return nil
}

// ack returns what settles a batch of those offsets. It is called with
// server.mu held.
func (src *source) ack(c *cursor, offsets []int64) stream.AckFunc {
	epoch, done := c.epoch, false
	return func(_ context.Context, err error) error {
		var some *stream.BatchError
		if errors.As(err, &some) {
			for i := range some.Errs {
				if i < 0 || i >= len(offsets) {
					return fmt.Errorf("settle a batch of %d records: it has no record %d", len(offsets), i)
				}
			}
		}
		s := src.server
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case done:
			return nil
		case src.closed:
			return stream.ErrClosed
		case c.epoch != epoch:
			return stream.ErrFenced
		}
		done = true
		due := time.Now().Add(src.sub.Retry)
		for i, o := range offsets {
			failed := err != nil
			if some != nil {
				_, failed = some.Errs[i]
			}
			if failed {
				c.again = append(c.again, redelivery{o, due})
			} else {
				c.settled[o] = struct{}{}
			}
		}
		for {
			if _, ok := c.settled[c.low]; !ok {
				break
			}
			delete(c.settled, c.low)
			c.low++
		}
		s.wake()
		return nil
	}
}
