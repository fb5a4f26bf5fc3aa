package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"penstock/stream"
)

// pinHeader names the pin under which a message was delivered.
const pinHeader = "Nats-Pin-Id"

const (
	// pullFor is how long a request waits in the server for records.
	pullFor = 30 * time.Second
	// grace is what an answer may take beyond the time its request waits.
	grace = 5 * time.Second
	// pause is the wait before something that failed is tried again.
	pause = 250 * time.Millisecond
)

// pull is a request for messages, as the server reads it.
type pull struct {
	Expires  time.Duration `json:"expires"`
	Batch    int           `json:"batch"`
	MaxBytes int           `json:"max_bytes,omitempty"`
	Group    string        `json:"group,omitempty"`
	Pin      string        `json:"id,omitempty"`
}

// request sends a pull request to a consumer and returns its number.
func (p *partition) request(consumer string, r pull) (int, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	p.requests++
	subject := "$JS.API.CONSUMER.MSG.NEXT." + p.src.topic.stream + "." + consumer
	return p.requests, p.src.b.nc.PublishRequest(subject, p.inbox+"."+strconv.Itoa(p.requests), body)
}

// number is which request a status answers. A delivered message has its own
// subject, and belongs to the oldest open request.
func (p *partition) number(m *nats.Msg) int {
	n, err := strconv.Atoi(strings.TrimPrefix(m.Subject, p.inbox+"."))
	if err != nil {
		return -1
	}
	return n
}

// status returns the code of an answer that is no message: 0 for a message.
// Delivered messages can be answered, statuses cannot.
func status(m *nats.Msg) (code int, description string) {
	if m.Reply != "" {
		return 0, ""
	}
	code, err := strconv.Atoi(m.Header.Get("Status"))
	if err != nil {
		return -1, ""
	}
	return code, m.Header.Get("Description")
}

// The statuses that say more than that a request is over.
const (
	statusNoResponders = 503
	statusWrongPin     = 423
	statusConflict     = 409 // consumer deleted, limits exceeded, leadership changed …
)

// Why a partition is no longer held.
var (
	errLost   = errors.New("the server has given the partition to another member")
	errHanded = errors.New("the partition was handed to another member")
	errGone   = errors.New("it was deleted")
)

// run holds the partition whenever it can, until the source is closed.
func (p *partition) run() {
	s := p.src
	for s.ctx.Err() == nil {
		err := p.claim()
		if err == nil {
			err = p.hold()
		}
		p.release(err)
		switch {
		case s.ctx.Err() != nil, errors.Is(err, errLost), errors.Is(err, errHanded):
		case errors.Is(err, stream.ErrTopicChanged), errors.Is(err, errEnd):
			s.fail(err)
			return
		default:
			if errors.Is(err, stream.ErrNoTopic) {
				s.missing(err)
			}
			p.unheld(err)
			select {
			case <-time.After(pause):
			case <-s.ctx.Done():
			}
		}
	}
}

// sayAgain is how often it is said that a partition is still not held.
const sayAgain = time.Minute

// unheld says why the partition is not held: as a warning if that has lasted for
// as long as a lease, and if it is not for the connection, which says so itself.
func (p *partition) unheld(err error) {
	now := time.Now()
	if p.failing.IsZero() {
		p.failing = now
	}
	level := slog.LevelDebug
	if now.Sub(p.failing) >= p.failover && now.Sub(p.warned) >= sayAgain && p.src.b.nc.IsConnected() {
		level, p.warned = slog.LevelWarn, now
	}
	p.src.b.options.Logger.Log(p.src.ctx, level, "partition is not held",
		"topic", p.src.topic.name, "partition", p.id.Number, "since", p.failing.Format(time.RFC3339), "error", err)
}

// errEnd marks what ends the source: an error of the Owner, a consumer that is
// gone and with it the group's position.
var errEnd = errors.New("hold partition")

// claim waits until the server pins this member, and then prepares to read. The
// server pins whoever waits longest once there is a message to deliver; that
// message is dropped here, because everything from the lowest unsettled record
// on is then delivered anew, in order.
func (p *partition) claim() error {
	s := p.src
	// A new inbox, so that no answer of an earlier time comes to it.
	p.inbox = s.b.nc.NewInbox()
	p.in = make(chan *nats.Msg, 4*windowMessages)
	var err error
	if p.inboxSub, err = s.b.nc.ChanSubscribe(p.inbox+".*", p.in); err != nil {
		return s.b.explain(s.ctx, err)
	}
	pin, err := p.awaitPin()
	if err != nil {
		return err
	}
	p.pinned = true
	now := time.Now()
	// Renew the lease first, so that the answer below says it was renewed.
	n, err := p.request(p.consumer, pull{Expires: p.failover / 4, Batch: 1, MaxBytes: 1, Group: priorityGroup, Pin: pin})
	if err != nil {
		return err
	}
	asking, cancel, err := s.b.ask(s.ctx)
	if err != nil {
		return err
	}
	defer cancel()
	reset, err := s.b.js.ResetConsumer(asking, s.topic.stream, p.consumer)
	if err != nil {
		return fmt.Errorf("reset consumer %q: %w", p.consumer, s.b.explain(s.ctx, err))
	}
	if !isPinned(reset.ConsumerInfo, pin) {
		return errLost
	}
	if err := s.check(asking); err != nil {
		return err
	}
	p.open, p.probing = nil, map[int]time.Time{n: now}
	p.reader, p.crowded = p.consumer, 0
	if s.sub.Owner != nil {
		s.ownerMu.Lock()
		starts, err := s.sub.Owner.Assigned(s.ctx, []stream.Partition{p.id})
		s.ownerMu.Unlock()
		if errors.Is(err, stream.ErrFenced) {
			return err
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errEnd, err)
		}
		p.assigned = true
		p.position = max(starts[p.id], 1)
		p.reader = ""
	}
	s.mu.Lock()
	p.pin, p.confirmed = pin, now
	p.times++
	s.mu.Unlock()
	return nil
}

// awaitPin returns the pin that the server gave this member.
func (p *partition) awaitPin() (string, error) {
	s := p.src
	for {
		l, err := s.b.connected(s.ctx)
		if err != nil {
			return "", err
		}
		if err := p.free(); err != nil {
			return "", err
		}
		n, err := p.request(p.consumer, pull{Expires: p.failover / 2, Batch: 1, Group: priorityGroup})
		if err != nil {
			return "", err
		}
		late := time.NewTimer(p.failover/2 + grace)
	answers:
		for {
			select {
			case m := <-p.in:
				code, text := status(m)
				if code == 0 {
					late.Stop()
					if pin := m.Header.Get(pinHeader); pin != "" {
						return pin, nil
					}
					return "", errors.New("the server delivered a record without a pin")
				}
				if p.number(m) != n {
					continue // an earlier claim
				}
				switch code {
				case statusNoResponders:
					late.Stop()
					return "", p.noConsumer()
				case statusConflict:
					late.Stop()
					if err := s.check(s.ctx); err != nil {
						return "", err
					}
					return "", fmt.Errorf("the server refused a claim: %s", text)
				default:
					break answers
				}
			case <-late.C:
				break answers
			case <-l.down:
				break answers
			case <-s.ctx.Done():
				late.Stop()
				return "", s.ctx.Err()
			}
		}
		late.Stop()
	}
}

// isPinned reports whether a consumer's pin is that one; empty: nobody has it.
func isPinned(info *jetstream.ConsumerInfo, pin string) bool {
	if len(info.PriorityGroups) == 0 {
		return pin == ""
	}
	return info.PriorityGroups[0].PinnedClientID == pin
}

// free makes the consumer deliver again if its last holder died with every
// record delivered and some not settled: there would be nothing to deliver, and
// so nobody would be pinned, until the ack wait is over.
func (p *partition) free() error {
	s := p.src
	asking, cancel, err := s.b.ask(s.ctx)
	if err != nil {
		return err
	}
	defer cancel()
	c, err := s.b.js.Consumer(asking, s.topic.stream, p.consumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		if s.sub.Owner == nil {
			return p.noConsumer()
		}
		if err := s.check(s.ctx); err != nil {
			return err
		}
		return p.join(s.ctx) // the server forgets a lease that nobody asks for
	}
	if err != nil {
		return s.b.explain(s.ctx, err)
	}
	info := c.CachedInfo()
	if info.NumAckPending == 0 || info.NumPending > 0 || !isPinned(info, "") {
		return nil
	}
	_, err = s.b.js.ResetConsumer(asking, s.topic.stream, p.consumer)
	return s.b.explain(s.ctx, err)
}

// noConsumer says why a consumer does not answer. With an Owner it holds nothing
// that is missed: free makes it anew.
func (p *partition) noConsumer() error {
	s := p.src
	if err := s.check(s.ctx); err != nil {
		return err
	}
	asking, cancel, err := s.b.ask(s.ctx)
	if err != nil {
		return err
	}
	defer cancel()
	_, err = s.b.js.Consumer(asking, s.topic.stream, p.consumer)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound) && s.sub.Owner != nil:
		return fmt.Errorf("consumer %q: %w", p.consumer, errGone)
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return fmt.Errorf("%w: consumer %q keeps the position of group %q: %w", errEnd, p.consumer, s.sub.Group, errGone)
	}
	return errors.New("the consumer did not answer for a moment")
}

// release gives up whatever the partition holds: batches are fenced, the Owner
// hears of its loss, and after that the server may pin another member.
func (p *partition) release(why error) {
	s := p.src
	asked := p.inboxSub != nil
	if asked {
		if err := p.inboxSub.Unsubscribe(); err != nil {
			s.b.options.Logger.Debug("unsubscribe", "error", err)
		}
		p.inboxSub = nil
	}
	s.mu.Lock()
	p.pin, p.leaving = "", time.Time{}
	for b := range p.held {
		b.fenced = true
	}
	clear(p.held)
	p.queue, p.bytes, p.delayed, p.paused = nil, 0, nil, false
	s.mu.Unlock()
	if p.pinned {
		s.releasing(p, true)
	}
	pinned, assigned := p.pinned, p.assigned
	p.pinned, p.assigned = false, false
	// The source's own context may have ended, which is why this is due.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), connectTimeout)
	defer cancel()
	if !pinned && (!asked || !p.withdraw(ctx)) {
		return
	}
	if assigned {
		s.ownerMu.Lock()
		err := s.sub.Owner.Lost(ctx, []stream.Partition{p.id})
		s.ownerMu.Unlock()
		if err != nil {
			s.b.options.Logger.Warn("owner could not give up a partition", "topic", s.topic.name, "partition", p.id.Number, "error", err)
		}
		if p.reader != "" {
			// It would go by itself, a little later.
			_ = s.b.js.DeleteConsumer(ctx, s.topic.stream, p.reader)
		}
	}
	for _, e := range []error{errLost, errGone, stream.ErrNoTopic, stream.ErrTopicChanged} {
		if errors.Is(why, e) {
			return // there is no pin of this member
		}
	}
	// What is not settled is to be delivered again, but not to the requests that
	// are still open here: nobody listens for their answers any more.
	_, err := s.b.js.ResetConsumer(ctx, s.topic.stream, p.consumer)
	var handle jetstream.Stream
	if err == nil {
		handle, err = s.b.js.Stream(ctx, s.topic.stream)
	}
	if err == nil {
		err = handle.UnpinConsumer(ctx, p.consumer, priorityGroup)
	}
	if err != nil {
		s.b.options.Logger.Debug("the next holder has to wait for the end of the lease", "topic", s.topic.name, "partition", p.id.Number, "error", err)
	}
}

// withdraw takes back the request of a claim, whose inbox is gone: at the next
// message the server (2.15.2) would pin it before it sees that nobody listens,
// and the partition would lie still until the lease is over. It drops such
// requests when it counts those that wait. withdraw reports whether the request
// was answered with a pin, just before.
func (p *partition) withdraw(ctx context.Context) (pinned bool) {
	s := p.src
	c, err := s.b.js.Consumer(ctx, s.topic.stream, p.consumer)
	if err != nil {
		return false
	}
	for len(p.in) > 0 {
		pin := (<-p.in).Header.Get(pinHeader)
		pinned = pinned || pin != "" && isPinned(c.CachedInfo(), pin)
	}
	return pinned
}

// hold reads the partition until it is lost or handed on, and says why.
func (p *partition) hold() error {
	s := p.src
	l, err := s.b.connected(s.ctx)
	if err != nil {
		return err
	}
	renew := time.NewTicker(p.failover / 4)
	defer renew.Stop()
	progress := time.NewTicker(p.ackWait / 3)
	defer progress.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		if err := p.fill(); err != nil {
			return err
		}
		p.failing, p.warned = time.Time{}, time.Time{}
		if done, wait := p.next(); done {
			return errHanded
		} else {
			due.Reset(wait)
		}
		select {
		case m := <-p.in:
			if err := p.receive(m); err != nil {
				return err
			}
			for n := len(p.in); n > 0; n-- {
				if err := p.receive(<-p.in); err != nil {
					return err
				}
			}
		case <-p.wake:
		case <-due.C:
		case <-progress.C:
			p.progress()
		case <-renew.C:
			if err := p.renew(); err != nil {
				return err
			}
		case <-l.down:
			if l, err = p.reconnect(); err != nil {
				return err
			}
			p.open = nil // the server has forgotten them
			clear(p.probing)
			if err := p.renew(); err != nil {
				return err
			}
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
}

// reconnect waits for the connection for as long as the lease lasts.
func (p *partition) reconnect() (*link, error) {
	s := p.src
	for {
		l, err := s.b.connected(s.ctx)
		if !errors.Is(err, stream.ErrUnreachable) {
			return l, err
		}
		s.mu.Lock()
		leased := p.leased()
		s.mu.Unlock()
		if !leased {
			return nil, errLost
		}
	}
}

// next moves what is due into the queue. It reports whether the partition is
// to be handed on now, and else when to look again at the latest.
func (p *partition) next() (hand bool, wait time.Duration) {
	s := p.src
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	wait = p.failover
	if !p.leaving.IsZero() {
		if len(p.held) == 0 || !now.Before(p.leaving) {
			return true, 0
		}
		wait = min(wait, p.leaving.Sub(now))
	}
	p.delayed = slices.DeleteFunc(p.delayed, func(d delayed) bool {
		if left := d.at.Sub(now); left > 0 {
			wait = min(wait, left)
			return false
		}
		p.queue = slices.Concat(d.messages, p.queue)
		for _, m := range d.messages {
			p.bytes += m.size
		}
		s.signal()
		return true
	})
	return false, wait
}

// fill asks for records if there is room for more.
func (p *partition) fill() error {
	s := p.src
	s.mu.Lock()
	queued, bytes, pin, leaving := len(p.queue), p.bytes, p.pin, !p.leaving.IsZero()
	s.mu.Unlock()
	if leaving {
		return nil
	}
	if p.reader == "" {
		if err := p.openReader(); err != nil {
			return err
		}
	}
	now := time.Now()
	asked := 0
	p.open = slices.DeleteFunc(p.open, func(r request) bool { return now.After(r.deadline) })
	for _, r := range p.open {
		asked += r.left
	}
	room := windowMessages - queued - asked
	limit := p.pullBytes()
	if len(p.open) >= 2 || room < windowMessages/2 || bytes > limit {
		return nil
	}
	r := pull{Expires: pullFor, Batch: room, MaxBytes: limit}
	if p.reader == p.consumer {
		r.Group, r.Pin = priorityGroup, pin
	}
	if n, err := p.request(p.reader, r); err == nil {
		p.open = append(p.open, request{number: n, left: room, deadline: now.Add(pullFor + grace)})
	}
	return nil // a lost connection is noticed by hold
}

// pullBytes is how much a request may bring: the largest message, at least.
func (p *partition) pullBytes() int {
	largest := p.src.b.nc.MaxPayload() + 64<<10
	share := int64(prefetchBytes / 2 / len(p.src.parts))
	return int(min(max(largest, min(share, 4<<20)), math.MaxInt32))
}

// receive takes an answer of the server.
func (p *partition) receive(m *nats.Msg) error {
	s := p.src
	code, text := status(m)
	if code == 0 {
		return p.add(m)
	}
	n := p.number(m)
	sent, probe := p.probing[n]
	i := slices.IndexFunc(p.open, func(r request) bool { return r.number == n })
	if i < 0 && !probe {
		return nil // it is over already
	}
	if i >= 0 {
		p.open = slices.Delete(p.open, i, i+1)
	}
	delete(p.probing, n)
	switch {
	case code == statusWrongPin:
		return errLost
	case code == statusNoResponders || code == statusConflict && text == "Consumer Deleted":
		if probe || s.sub.Owner == nil {
			return p.noConsumer()
		}
		p.reopen()
		return s.check(s.ctx)
	case probe:
		s.mu.Lock()
		defer s.mu.Unlock()
		if !p.leased() {
			return errLost
		}
		if sent.After(p.confirmed) {
			p.confirmed = sent
		}
	}
	return nil
}

// reopen has the ordered consumer made anew, from the next position on.
func (p *partition) reopen() {
	p.reader, p.open = "", nil
}

// delivered takes a message off the oldest open request, which is the one that
// the server serves.
func (p *partition) delivered() {
	if len(p.open) == 0 {
		return
	}
	if p.open[0].left--; p.open[0].left <= 0 {
		p.open = slices.Delete(p.open, 0, 1)
	}
}

// add puts a delivered message into the queue.
func (p *partition) add(m *nats.Msg) error {
	s := p.src
	meta, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("read a delivery of consumer %q: %w", p.reader, err)
	}
	msg := message{reply: m.Reply, size: m.Size()}
	if s.sub.Owner == nil {
		if m.Header.Get(pinHeader) != p.pin { // which run alone sets
			return nil
		}
		p.delivered()
	} else {
		if meta.Consumer != p.reader {
			return nil // of a reader before this
		}
		p.delivered()
		if meta.Sequence.Consumer != p.sequence+1 {
			p.reopen() // something was lost on the way
			return nil
		}
		p.sequence++
		p.position = int64(meta.Sequence.Stream) + 1
		msg.reply = ""
	}
	msg.Record, err = decode(m, meta.Timestamp)
	if err != nil {
		s.b.options.Logger.Warn("record with broken headers", "topic", s.topic.name, "partition", p.id.Number, "offset", meta.Sequence.Stream, "error", err)
	}
	msg.Topic, msg.Partition, msg.Offset = s.topic.name, p.id.Number, int64(meta.Sequence.Stream)
	s.mu.Lock()
	defer s.mu.Unlock()
	msg.Assignment = p.times - 1
	p.queue = append(p.queue, msg)
	p.bytes += msg.size
	s.signal()
	return nil
}

// openReader makes the ordered consumer that an Owner's partition is read by:
// it forgets nothing because it remembers nothing.
func (p *partition) openReader() error {
	s := p.src
	asking, cancel, err := s.b.ask(s.ctx)
	if err != nil {
		return err
	}
	defer cancel()
	c, err := s.b.js.CreateConsumer(asking, s.topic.stream, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       uint64(p.position),
		AckPolicy:         jetstream.AckNonePolicy,
		MaxDeliver:        1,
		FilterSubject:     s.topic.filter(int(p.id.Number)),
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: 5 * time.Minute,
	})
	if err != nil {
		return fmt.Errorf("make an ordered consumer: %w", s.b.explain(s.ctx, err))
	}
	// If the topic was made again, it was before the consumer was.
	state, err := s.state(asking)
	if err != nil {
		return err
	}
	if last := int64(state.LastSeq); p.position > last+1 {
		return fmt.Errorf("%w: partition %d: %w: it is %d, the topic ends at %d", errEnd, p.id.Number, stream.ErrPosition, p.position, last+1)
	}
	if first := int64(state.FirstSeq); p.position < first && p.position > 1 {
		// Whether any of what was deleted lay in this partition is not known.
		s.b.options.Logger.Warn("the topic's oldest records were deleted, perhaps before they were read",
			"topic", s.topic.name, "partition", p.id.Number, "position", p.position, "oldest", first)
	}
	p.reader, p.sequence = c.CachedInfo().Name, 0
	return nil
}

// progress keeps the server from delivering again what is here.
func (p *partition) progress() {
	s := p.src
	if s.sub.Owner != nil {
		return
	}
	var replies []string
	s.mu.Lock()
	for b := range p.held {
		for _, m := range b.messages {
			replies = append(replies, m.reply)
		}
	}
	for _, m := range p.queue {
		replies = append(replies, m.reply)
	}
	s.mu.Unlock()
	for _, reply := range replies {
		if err := s.b.nc.Publish(reply, []byte("+WPI")); err != nil {
			return // the connection is lost, which hold notices
		}
	}
}

// renew renews the lease, and looks whether others wait for partitions of which
// this member has more than its share.
func (p *partition) renew() error {
	s := p.src
	s.mu.Lock()
	leased, pin := p.leased(), p.pin
	s.mu.Unlock()
	if !leased {
		return errLost
	}
	ctx, cancel := context.WithTimeout(s.ctx, p.failover/4)
	defer cancel()
	if c, err := s.b.js.Consumer(ctx, s.topic.stream, p.consumer); err == nil {
		own := len(p.probing)
		if p.reader == p.consumer {
			own += len(p.open)
		}
		if p.share(c.CachedInfo().NumWaiting - own) {
			s.releasing(p, false)
		}
	}
	now := time.Now()
	for n, sent := range p.probing {
		if now.Sub(sent) > p.failover {
			delete(p.probing, n)
		}
	}
	// No message is that small, so this brings none.
	n, err := p.request(p.consumer, pull{Expires: p.failover / 8, Batch: 1, MaxBytes: 1, Group: priorityGroup, Pin: pin})
	if err == nil {
		p.probing[n] = now
	}
	return nil // a lost connection is noticed by hold
}

// share begins to hand on the partition if, twice in a row, so many others wait
// for it that this member holds more than its share. It reports whether it did.
func (p *partition) share(others int) bool {
	s := p.src
	s.mu.Lock()
	defer s.mu.Unlock()
	holds := 0
	for _, q := range s.parts {
		if q.pin != "" && q.leaving.IsZero() {
			holds++
		}
	}
	if others <= 0 || !p.leaving.IsZero() || holds <= (len(s.parts)+others)/(others+1) {
		p.crowded = 0
		return false
	}
	if p.crowded++; p.crowded < 2 {
		return false
	}
	p.crowded = 0
	p.leaving = time.Now().Add(s.sub.HoldFor)
	p.queue, p.bytes = nil, 0
	p.rouse()
	return true
}
