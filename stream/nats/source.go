package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"penstock/stream"
)

const (
	// windowMessages is how many records of a partition are asked for ahead.
	windowMessages = 2048
	// prefetchBytes is shared by the partitions of a source: half of it is
	// what they ask for at a time. A partition always asks for room enough for
	// the largest message.
	prefetchBytes = 64 << 20
	// minAckWait is the ack wait of the consumers made here, or twice the
	// subscription's HoldFor if that is more. Records that are held are kept
	// from being delivered again every third of it, so it matters only where
	// acks are lost.
	minAckWait = 30 * time.Second
	// priorityGroup is the one group that each consumer has its pin in.
	priorityGroup = "penstock"
)

// source reads a topic as one member of a group.
type source struct {
	b       *Broker
	sub     stream.Subscription
	topic   *topic
	parts   []*partition
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	closing sync.Once

	ownerMu sync.Mutex // one call of the Owner at a time

	mu     sync.Mutex
	ready  chan struct{} // holds a token when there may be something to fetch
	next   int           // the partition whose turn it is
	err    error         // ends the source
	gone   error         // the topic is not there at present
	closed bool

	onRelease func(topic string, partition int32, gone bool) // does nothing unless it was asked for
}

// Open starts to read a topic as a member of s.Group.
//
// Each partition belongs to one member at a time, which the server pins; a
// member that has more than its share gives partitions to those that wait, and
// of one that falls silent they go to others after Options.Failover. What is
// not settled by then is delivered again, in order, to the new holder.
//
// Open refuses a subscription whose HoldFor is longer than the ack wait of the
// group's consumers, which their first member set.
func (b *Broker) Open(ctx context.Context, s stream.Subscription) (stream.SourceCloser, error) {
	if s.Group == "" {
		return nil, fmt.Errorf("open topic %q: the subscription names no group", s.Topic)
	}
	if s.HoldFor == 0 {
		s.HoldFor = 10 * time.Second
	}
	if s.Retry == 0 {
		s.Retry = 100 * time.Millisecond
	}
	t, _, err := b.lookup(ctx, s.Topic)
	if err != nil {
		return nil, err
	}
	if v := b.nc.ConnectedServerVersion(); !atLeast(v, 2, 14) {
		return nil, fmt.Errorf("open topic %q: nats-server %s: reading as a group needs 2.14 or newer", s.Topic, v)
	}
	src := &source{b: b, sub: s, topic: t, ready: make(chan struct{}, 1), onRelease: func(string, int32, bool) {}}
	src.ctx, src.cancel = context.WithCancel(b.ctx)
	for i := range t.partitions {
		p := &partition{src: src, id: b.partition(t, i), wake: make(chan struct{}, 1), held: map[*batch]struct{}{}}
		if err := p.join(ctx); err != nil {
			src.cancel()
			return nil, fmt.Errorf("open topic %q for group %q: %w", s.Topic, s.Group, err)
		}
		src.parts = append(src.parts, p)
	}
	for _, p := range src.parts {
		src.wg.Go(p.run)
	}
	return src, nil
}

// atLeast compares a server's version.
func atLeast(version string, major, minor int) bool {
	f := strings.SplitN(version, ".", 3)
	if len(f) < 2 {
		return false
	}
	a, errA := strconv.Atoi(f[0])
	b, errB := strconv.Atoi(f[1])
	return errA == nil && errB == nil && (a > major || a == major && b >= minor)
}

// Fetch returns records of one partition. See stream.Source.
func (s *source) Fetch(ctx context.Context, max int) ([]stream.Record, stream.AckFunc, error) {
	if max < 1 {
		return nil, nil, fmt.Errorf("fetch at most %d records: expected at least 1", max)
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		b, err := s.take(max)
		if errors.Is(err, stream.ErrNoTopic) {
			// That was a moment ago.
			if err = s.check(ctx); errors.Is(err, stream.ErrTopicChanged) {
				s.fail(err)
			}
		}
		if err != nil {
			return nil, nil, err
		}
		if b != nil {
			records := make([]stream.Record, len(b.messages))
			for i, m := range b.messages {
				records[i] = m.Record
			}
			return records, b.settle, nil
		}
		select {
		case <-s.ready:
		case <-s.ctx.Done():
		case <-ctx.Done():
		}
	}
}

// take returns the next batch, or nil if there is none.
func (s *source) take(max int) (*batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed || s.ctx.Err() != nil:
		return nil, stream.ErrClosed
	case s.err != nil:
		return nil, s.err
	}
	for range s.parts {
		p := s.parts[s.next]
		s.next = (s.next + 1) % len(s.parts)
		if b := p.take(max); b != nil {
			s.signal() // there may be more
			return b, nil
		}
	}
	err := s.gone
	s.gone = nil
	return nil, err
}

// signal wakes Fetch.
func (s *source) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// fail ends the source with err.
func (s *source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.signal()
}

// missing tells the next Fetch that the topic is not there.
func (s *source) missing(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = err
	s.signal()
}

// Pause implements stream.Pauser.
func (s *source) Pause(partition int32, pause bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := int(partition); i < len(s.parts) {
		s.parts[i].paused = pause && s.parts[i].pin != ""
		s.signal()
	}
}

// OnRelease implements stream.Releaser.
func (s *source) OnRelease(f func(topic string, partition int32, gone bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onRelease = f
}

// releasing tells who asked for it that a partition is to go, or is gone.
func (s *source) releasing(p *partition, gone bool) {
	s.mu.Lock()
	tell := s.onRelease
	s.mu.Unlock()
	tell(s.topic.name, p.id.Number, gone)
}

// check asks whether the topic is still the one that was opened. It returns
// ErrTopicChanged or ErrNoTopic, or why it cannot say.
func (s *source) check(ctx context.Context) error {
	_, err := s.state(ctx)
	return err
}

// state is check that also says what the stream holds.
func (s *source) state(ctx context.Context) (jetstream.StreamState, error) {
	t, handle, err := s.b.lookup(ctx, s.topic.name)
	if err != nil {
		return jetstream.StreamState{}, err
	}
	if !t.created.Equal(s.topic.created) {
		return jetstream.StreamState{}, fmt.Errorf("topic %q, made %v, was made again %v: %w", t.name,
			s.topic.created.Format(time.RFC3339), t.created.Format(time.RFC3339), stream.ErrTopicChanged)
	}
	return handle.CachedInfo().State, nil
}

// Close gives up the partitions. See stream.SourceCloser.
func (s *source) Close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.cancel()
		s.wg.Wait()
	})
	return nil
}

// message is a record on its way through a source.
type message struct {
	stream.Record
	reply string // where the server waits for the ack; empty with an Owner
	size  int
}

// batch is what one Fetch returned.
type batch struct {
	p        *partition
	messages []message
	fenced   bool // guarded by source.mu

	settling sync.Mutex
	settled  bool
}

// settle is the batch's stream.AckFunc.
func (b *batch) settle(ctx context.Context, cause error) error {
	var failed *stream.BatchError
	if errors.As(cause, &failed) {
		for i := range failed.Errs {
			if i < 0 || i >= len(b.messages) {
				return fmt.Errorf("settle a batch of %d records: the error names record %d: %w", len(b.messages), i, cause)
			}
		}
	}
	b.settling.Lock()
	defer b.settling.Unlock()
	if b.settled {
		return nil
	}
	err := b.settleOnce(ctx, cause, failed)
	b.settled = err == nil
	return err
}

func (b *batch) settleOnce(ctx context.Context, cause error, failed *stream.BatchError) error {
	s := b.p.src
	s.mu.Lock()
	switch {
	case s.closed || s.ctx.Err() != nil:
		s.mu.Unlock()
		return stream.ErrClosed
	case b.fenced || !b.p.leased():
		s.mu.Unlock()
		return stream.ErrFenced
	}
	var again []message
	for i, m := range b.messages {
		named := false
		if failed != nil {
			_, named = failed.Errs[i]
		}
		if named || cause != nil && failed == nil {
			again = append(again, m)
		}
	}
	if s.sub.Owner != nil {
		b.p.again(again, time.Now().Add(s.sub.Retry))
		b.p.forget(b)
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	// The batch stays held, and so from being delivered again, until the
	// server has its acks.
	if err := b.p.acknowledge(ctx, b.messages, again); err != nil {
		return err
	}
	s.mu.Lock()
	b.p.forget(b)
	s.mu.Unlock()
	return nil
}

// acknowledge sends an ack for each message, or a nack for those that shall
// come again, and waits until the server has the last: it reads them in order.
func (p *partition) acknowledge(ctx context.Context, messages, again []message) error {
	asking, cancel, err := p.src.b.ask(ctx)
	if err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	defer cancel()
	nak := fmt.Appendf(nil, `-NAK {"delay": %d}`, p.src.sub.Retry.Nanoseconds())
	for i, m := range messages {
		body := []byte("+ACK")
		if len(again) > 0 && again[0].Offset == m.Offset {
			body, again = nak, again[1:]
		}
		if i < len(messages)-1 {
			err = p.src.b.nc.Publish(m.reply, body)
		} else {
			_, err = p.src.b.nc.RequestWithContext(asking, m.reply, body)
		}
		if err != nil {
			return fmt.Errorf("settle: %w", p.src.b.explain(ctx, err))
		}
	}
	return nil
}

// partition is a source's part in one partition: it waits for the server's pin,
// reads while it has it, and hands it on.
//
// The pin is a lease. The server takes it back if it hears nothing for the
// failover time, counted from its last request; leased counts from when that
// request was sent, and so ends no later.
type partition struct {
	src      *source
	id       stream.Partition
	consumer string        // the durable consumer whose pin is the lease
	failover time.Duration // how long the lease lasts unheard
	ackWait  time.Duration
	wake     chan struct{} // holds a token when run has something to look at

	// Guarded by source.mu.
	pin       string    // empty: not the holder
	times     int32     // how often it was
	confirmed time.Time // when the request was sent that last renewed the lease
	queue     []message // read, not fetched
	bytes     int       // of queue
	held      map[*batch]struct{}
	delayed   []delayed // with an Owner: nacked, and not yet due
	paused    bool      // see stream.Pauser
	leaving   time.Time // when to hand on the partition, whatever is held; zero: not at all

	// What follows belongs to run.
	pinned   bool   // the server may still hold a pin of this member
	assigned bool   // the Owner has claimed the partition
	inbox    string // statuses of request n come to inbox.n
	inboxSub *nats.Subscription
	in       chan *nats.Msg
	requests int               // how many were sent
	open     []request         // in the order sent, in which the server serves them
	probing  map[int]time.Time // open requests that renew the lease, and when they were sent
	reader   string            // the consumer read: with an Owner an ordered one
	position int64             // with an Owner: the offset to read next
	sequence uint64            // with an Owner: of the reader's last delivery
	crowded  int               // how often in a row others were seen waiting
	failing  time.Time         // since when it cannot be held; zero: it can
	warned   time.Time         // when that was last said
}

// delayed is a run of messages that come again at a time.
type delayed struct {
	at       time.Time
	messages []message
}

// request is a pull request that the server has not answered in full.
type request struct {
	number   int
	left     int
	deadline time.Time
}

// leased reports whether the partition is this member's for certain.
// source.mu is held.
func (p *partition) leased() bool {
	return p.pin != "" && time.Since(p.confirmed) < p.failover
}

// take returns up to max messages from the queue. source.mu is held.
func (p *partition) take(max int) *batch {
	if len(p.queue) == 0 || p.paused || !p.leased() || !p.leaving.IsZero() {
		return nil
	}
	n := 1
	for n < min(max, len(p.queue)) && p.queue[n].Offset > p.queue[n-1].Offset {
		n++
	}
	b := &batch{p: p, messages: p.queue[:n:n]}
	p.queue = p.queue[n:]
	for _, m := range b.messages {
		p.bytes -= m.size
	}
	p.held[b] = struct{}{}
	p.rouse()
	return b
}

// again has messages come again at a time. source.mu is held.
func (p *partition) again(messages []message, at time.Time) {
	if len(messages) > 0 {
		p.delayed = append(p.delayed, delayed{at, messages})
		p.rouse()
	}
}

// forget drops a batch that is settled. source.mu is held.
func (p *partition) forget(b *batch) {
	delete(p.held, b)
	p.rouse()
}

// rouse wakes run.
func (p *partition) rouse() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// leaseIdle is after how long the server forgets a lease that nobody asks for. It
// says nothing of where its group stands, and a server admits so many consumers
// (1000 for a stream) that those of groups for one look would fill it.
const leaseIdle = time.Hour

// join makes the partition's durable consumer, if it is the group's first
// member, and else checks that it will do.
func (p *partition) join(ctx context.Context) error {
	s := p.src
	asking, cancel, err := s.b.ask(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	p.consumer = escape(s.sub.Group) + "-" + strconv.Itoa(int(p.id.Number))
	if s.sub.Owner != nil {
		// Only the pin of this one is used: records come from elsewhere.
		p.consumer += "-lease"
	}
	want := jetstream.ConsumerConfig{
		Durable:        p.consumer,
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        max(minAckWait, 2*s.sub.HoldFor),
		MaxDeliver:     -1,
		MaxAckPending:  -1, // the caller bounds what it holds
		FilterSubject:  s.topic.filter(int(p.id.Number)),
		PriorityPolicy: jetstream.PriorityPolicyPinned,
		PriorityGroups: []string{priorityGroup},
		PinnedTTL:      s.b.options.Failover,
	}
	if s.sub.Owner != nil {
		want.InactiveThreshold = leaseIdle
	}
	c, err := s.b.js.CreateConsumer(asking, s.topic.stream, want)
	if errors.Is(err, jetstream.ErrConsumerExists) {
		c, err = s.b.js.Consumer(asking, s.topic.stream, p.consumer)
	}
	if err != nil {
		return fmt.Errorf("make consumer %q: %w", p.consumer, s.b.explain(ctx, err))
	}
	have := c.CachedInfo().Config
	switch {
	case have.PriorityPolicy != want.PriorityPolicy || !slices.Contains(have.PriorityGroups, priorityGroup) ||
		have.AckPolicy != want.AckPolicy || have.FilterSubject != want.FilterSubject ||
		have.MaxDeliver > 0 || len(have.BackOff) > 0:
		return fmt.Errorf("consumer %q was not made by Penstock: delete it, or use another group", p.consumer)
	case have.AckWait < s.sub.HoldFor:
		return fmt.Errorf("consumer %q delivers again after %v, but batches are held for up to %v: hold them shorter, or delete the consumer, which forgets its position", p.consumer, have.AckWait, s.sub.HoldFor)
	}
	p.failover, p.ackWait = have.PinnedTTL, have.AckWait
	return nil
}
