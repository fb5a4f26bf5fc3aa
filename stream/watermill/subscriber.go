package watermill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"penstock/stream"
)

// settleWithin bounds one attempt to tell the broker of an outcome, and so how
// long that may take after the end of a subscription.
const settleWithin = 5 * time.Second

// errNacked is what the broker is told of a record that comes again.
var errNacked = errors.New("the message was nacked")

// Broker is what a Subscriber asks of a stream.Broker.
type Broker interface {
	Create(ctx context.Context, topic string, partitions int) error
	Open(ctx context.Context, s stream.Subscription) (stream.SourceCloser, error)
}

// SubscriberConfig says who reads. All but Group may be left zero.
type SubscriberConfig struct {
	// Group is the consumer group. Subscriptions of one group to one topic
	// share its partitions, whether they are of one Subscriber or of several;
	// each group gets all messages. A new group starts at the oldest.
	Group string
	// Partitions is how many SubscribeInitialize gives a new topic. Zero is
	// the broker's default. As many subscriptions can get messages at a time.
	Partitions int
	// Retry is the delay before a nacked message comes again. Zero is 100 ms.
	Retry time.Duration
	// HoldFor is how long a message that is nacked again and again may keep
	// back those behind it, and how long a handler usually takes at most; see
	// stream.Subscription. Zero is 10 seconds.
	HoldFor time.Duration
	// Logger gets what has no caller to go to: why a subscription ended by
	// itself, and outcomes that the broker did not take. nil discards it.
	Logger *slog.Logger
}

// Subscriber delivers records as messages. It implements Watermill's
// message.Subscriber and message.SubscribeInitializer. Its methods may be
// called concurrently.
type Subscriber struct {
	broker Broker
	config SubscriberConfig

	life context.Context // ends with Close
	end  context.CancelFunc

	mu      sync.Mutex
	closed  bool
	err     error          // of subscriptions that Close ended
	running sync.WaitGroup // the subscriptions
}

// NewSubscriber returns a Subscriber to a broker, which stays the caller's to
// close, after the Subscriber.
func NewSubscriber(b Broker, c SubscriberConfig) *Subscriber {
	c.Retry = cmp.Or(c.Retry, 100*time.Millisecond)
	c.HoldFor = cmp.Or(c.HoldFor, 10*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Subscriber{broker: b, config: c}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// SubscribeInitialize creates the topic, if there is none of that name.
// Subscribe does not.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	err := s.broker.Create(s.life, topic, s.config.Partitions)
	if s.life.Err() != nil {
		err = stream.ErrClosed
	}
	if err != nil {
		return fmt.Errorf("initialize topic %q: %w", topic, err)
	}
	return nil
}

// Subscribe joins the group as one more member and returns the channel of its
// messages. A topic that does not exist is stream.ErrNoTopic.
//
// One message is out at a time: the next comes after its Ack. After its Nack it
// comes again itself, with a delay, before any other, so that no partition is
// delivered out of order; only once HoldFor has passed since it first came is
// it handed back to the broker, which brings it again when it can and may bring
// those behind it first. Retry and poison-queue middleware keep it from coming
// to that. A message that is neither acked nor nacked keeps back all others.
//
// The context of a message derives from ctx and ends with its Ack or Nack, with
// ctx and with Close. When ctx ends, the subscription does. The channel is
// closed once the subscription has given up its partitions; a message that is
// still out then comes again, to whom they belong next, even if it is acked
// later. The channel is closed, too, when the subscription cannot go on, as
// when its topic is deleted; the Logger gets the reason.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	messages, err := s.subscribe(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("subscribe to topic %q: %w", topic, err)
	}
	return messages, nil
}

func (s *Subscriber) subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, stream.ErrClosed
	}
	s.running.Add(1)
	s.mu.Unlock()

	ctx, cancel := context.WithCancel(ctx)
	unlink := context.AfterFunc(s.life, cancel)
	done := func() {
		unlink()
		cancel()
		s.running.Done()
	}
	source, err := s.broker.Open(ctx, stream.Subscription{
		Topic: topic, Group: s.config.Group, HoldFor: s.config.HoldFor, Retry: s.config.Retry,
	})
	if err != nil {
		defer done()
		if s.life.Err() != nil {
			return nil, stream.ErrClosed
		}
		return nil, err
	}
	sub := &subscription{
		ctx:    ctx,
		source: source,
		config: s.config,
		log:    s.config.Logger.With("topic", topic, "group", s.config.Group),
		out:    make(chan *message.Message),
	}
	go func() {
		defer done()
		defer close(sub.out)
		if err := sub.run(); err != nil {
			s.noteClosing(err)
		}
	}()
	return sub.out, nil
}

// noteClosing keeps the error of a subscription that Close waits for.
func (s *Subscriber) noteClosing(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.err = errors.Join(s.err, err)
	}
}

// Close ends all subscriptions and returns when nothing of them runs any more
// and their channels are closed. The error says that the broker may not have
// been told how far they came, so that some messages come again. It may be
// called more than once.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// subscription is one member of a group on its way through a topic.
type subscription struct {
	ctx    context.Context
	source stream.SourceCloser
	config SubscriberConfig
	log    *slog.Logger
	out    chan *message.Message
}

// run delivers until ctx ends or the source does. It returns the error of
// closing the source.
func (s *subscription) run() error {
	for s.ctx.Err() == nil {
		records, ack, err := s.source.Fetch(s.ctx, 1)
		if errors.Is(err, stream.ErrUnreachable) {
			s.log.Warn("watermill: cannot fetch, trying again", "err", err)
			s.pause()
			continue
		}
		if err == nil {
			err = s.deliver(records[0], ack)
		}
		if err != nil {
			if !errors.Is(err, s.ctx.Err()) {
				s.log.Error("watermill: the subscription ended", "err", err)
			}
			break
		}
	}
	err := s.source.Close()
	if err != nil {
		s.log.Error("watermill: messages may come again", "err", err)
	}
	return err
}

// deliver offers r until it is acked, or was nacked for so long that the broker
// gets it back, and settles it. Its error ends the subscription, and leaves r
// to be delivered again.
func (s *subscription) deliver(r stream.Record, ack stream.AckFunc) error {
	handBack := time.Now().Add(s.config.HoldFor)
	for {
		acked, err := s.offer(r)
		if err != nil {
			return err
		}
		if acked {
			return s.settle(ack, nil)
		}
		if time.Now().Before(handBack) {
			s.pause()
			continue
		}
		// After the pause the broker that can bring it again does so before it
		// brings others.
		if err := s.settle(ack, errNacked); err != nil {
			return err
		}
		s.pause()
		return nil
	}
}

// offer sends r as a message and waits for its outcome, or returns why ctx
// ended first.
func (s *subscription) offer(r stream.Record) (acked bool, err error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	m := NewMessage(ctx, r)
	select {
	case s.out <- m:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	return outcome(ctx, m)
}

// outcome waits until m is acked or nacked, or returns why ctx ended first. An
// ack from before that end counts, whoever notices it when.
func outcome(ctx context.Context, m *message.Message) (acked bool, err error) {
	select {
	case <-m.Acked():
		return true, nil
	case <-m.Nacked():
		return false, nil
	case <-ctx.Done():
	}
	select {
	case <-m.Acked(): // just before the end
		return true, nil
	default:
		return false, ctx.Err()
	}
}

// settle tells the broker of an outcome, and again until it took it. A record
// whose partition has moved on is settled elsewhere.
func (s *subscription) settle(ack stream.AckFunc, outcome error) error {
	for {
		// An ack counts even if the subscription ends right after it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), settleWithin)
		err := ack(ctx, outcome)
		cancel()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, stream.ErrFenced):
			s.log.Debug("watermill: the partition moved while its message was out, which comes again there")
			return nil
		case errors.Is(err, stream.ErrClosed), s.ctx.Err() != nil:
			return fmt.Errorf("settle: %w", err)
		}
		s.log.Warn("watermill: cannot settle, trying again", "err", err)
		s.pause()
	}
}

// pause waits for Retry, or for the end of ctx.
func (s *subscription) pause() {
	timer := time.NewTimer(s.config.Retry)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ctx.Done():
	}
}
