// Package handlers runs functions written for Watermill, with its router and its
// middleware, on the records of a consumer: under the rules by which sinks take
// batches, in the same process, beside the other jobs.
package handlers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"penstock/consumers"
	"penstock/stream"
	bridge "penstock/stream/watermill"
)

// Config says what handles records. Handler is needed.
type Config struct {
	// Name is the handler's name in the router; empty is "penstock".
	Name string
	// Handler is called with one record after the other of a partition, and with
	// those of several partitions at a time. The message is as one of
	// stream/watermill: its payload is the record's value as it came. What
	// the value says is in the message's context, see Decoded.
	//
	// Its error, as the middleware leaves it, says what comes next, as that of a
	// Sink does: one that wraps consumers.ErrBadRecord sets the record aside,
	// one that wraps consumers.ErrStop ends the run, and any other, a panic too,
	// has the record tried again later, as often as consumers.Config.Attempts
	// says. The records before it are not handled again.
	Handler message.HandlerFunc
	// Publisher and To take the messages that Handler returns, before the record
	// counts as handled. Without them it may return none.
	Publisher message.Publisher
	To        string
	// Middleware is put around Handler, the first outermost.
	Middleware []message.HandlerMiddleware
	// Logger gets what the router says; nil is silent.
	Logger *slog.Logger
}

// Sink hands each message to a handler. It is a consumers.Sink; Write may be
// called concurrently. A record is handled at least once: again if a crash, or a
// partition that moves, falls between it and its acknowledgement.
type Sink struct {
	router *message.Router
	feed   *feed
	ended  chan error

	mu sync.Mutex
	// half is how far batches came that were not handled whole: they are written
	// again, from their beginning.
	half map[batch]int64
}

// batch names one that is written until it is done.
type batch struct {
	topic     string
	partition int32
	first     int64
}

// maxHalf is how many batches are remembered that were not handled whole. One that
// is forgotten is handled again.
const maxHalf = 1000

// New starts a router. Whoever calls it calls Close.
func New(c Config) (*Sink, error) {
	if c.Handler == nil || (c.Publisher == nil) != (c.To == "") {
		return nil, errors.New("handlers: a handler is needed, and a publisher and the topic it publishes to go together")
	}
	c.Name = cmp.Or(c.Name, "penstock")
	log := watermill.NewSlogLogger(cmp.Or(c.Logger, slog.New(slog.DiscardHandler)))
	router, err := message.NewRouter(message.RouterConfig{}, log)
	if err != nil {
		return nil, fmt.Errorf("make router: %w", err)
	}
	router.AddMiddleware(keepError)
	router.AddMiddleware(c.Middleware...)
	s := &Sink{router: router, feed: newFeed(), ended: make(chan error, 1), half: map[batch]int64{}}
	if c.Publisher != nil {
		router.AddHandler(c.Name, "records", s.feed, c.To, c.Publisher, c.Handler)
	} else {
		router.AddConsumerHandler(c.Name, "records", s.feed, func(m *message.Message) error {
			out, err := c.Handler(m)
			if err == nil && len(out) > 0 {
				return fmt.Errorf("%w: the handler returned %d messages, and there is no publisher for them", consumers.ErrStop, len(out))
			}
			return err
		})
	}
	go func() { s.ended <- router.Run(context.Background()) }()
	select {
	case <-router.Running():
		return s, nil
	case err := <-s.ended:
		return nil, fmt.Errorf("run router: %w", err)
	}
}

// Close ends the router, once no Write is under way.
func (s *Sink) Close() error {
	err := s.router.Close()
	return errors.Join(err, <-s.ended)
}

// decodedKey is where a message's context holds what was decoded.
type decodedKey struct{}

// Decoded returns the record that a message was made of and what its value says,
// if ctx is the context of a message that a Sink handed over.
func Decoded(ctx context.Context) (consumers.Message, bool) {
	m, ok := ctx.Value(decodedKey{}).(consumers.Message)
	return m, ok
}

// outcomeKey is where a message's context holds its *outcome.
type outcomeKey struct{}

// outcome is how the handling of a message ended, which a nack does not say.
type outcome struct{ err error }

// keepError is the outermost middleware.
func keepError(next message.HandlerFunc) message.HandlerFunc {
	return func(m *message.Message) (out []*message.Message, err error) {
		o := m.Context().Value(outcomeKey{}).(*outcome)
		defer func() {
			if r := recover(); r != nil {
				out, err = nil, fmt.Errorf("the handler panicked: %v", r)
			}
			o.err = err
		}()
		return next(m)
	}
}

// errNacked is where the router itself failed: it could not publish.
var errNacked = errors.New("what the handler returned could not be published")

// Write implements consumers.Sink.
func (s *Sink) Write(ctx context.Context, b consumers.Batch) error {
	this := batch{b.Topic, b.Partition, b.First}
	s.mu.Lock()
	done := s.half[this]
	s.mu.Unlock()
	for i, m := range b.Messages {
		if m.Offset < done {
			continue
		}
		if err := s.handle(ctx, m); err != nil {
			s.stopped(this, m.Offset)
			return refused(i, m, err)
		}
	}
	s.mu.Lock()
	delete(s.half, this)
	s.mu.Unlock()
	return nil
}

// stopped notes that a batch is handled up to an offset.
func (s *Sink) stopped(b batch, offset int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.half[b]; !known && len(s.half) >= maxHalf {
		clear(s.half)
	}
	s.half[b] = offset
}

// refused is what Write says of message i.
func refused(i int, m consumers.Message, err error) error {
	err = fmt.Errorf("handle record %d of %s/%d: %w", m.Offset, m.Topic, m.Partition, err)
	named := &stream.BatchError{Errs: map[int]error{i: err}}
	for _, known := range []error{errNacked, stream.ErrClosed, consumers.ErrStop, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, known) {
			return err
		}
	}
	if errors.Is(err, consumers.ErrBadRecord) {
		return named
	}
	return fmt.Errorf("%w: %w", consumers.ErrUnknown, named)
}

// handle hands a message to the router and waits for what becomes of it.
func (s *Sink) handle(ctx context.Context, m consumers.Message) error {
	var o outcome
	msg := bridge.NewMessage(context.WithValue(context.WithValue(ctx, decodedKey{}, m), outcomeKey{}, &o), m.Record)
	select {
	case s.feed.in <- msg:
	case <-s.feed.closed:
		return stream.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-msg.Acked():
		return nil
	case <-msg.Nacked():
		return cmp.Or(o.err, errNacked)
	case <-ctx.Done():
		return ctx.Err() // the handler may be at work still: it comes again
	}
}

// feed is the Subscriber of the router.
type feed struct {
	in     chan *message.Message
	closed chan struct{}
	once   sync.Once
	wait   sync.WaitGroup
}

func newFeed() *feed {
	return &feed{in: make(chan *message.Message), closed: make(chan struct{})}
}

// Subscribe implements message.Subscriber.
func (f *feed) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	out := make(chan *message.Message)
	f.wait.Go(func() {
		defer close(out)
		for {
			select {
			case m := <-f.in:
				select {
				case out <- m:
				case <-f.closed:
					m.Nack()
					return
				}
			case <-f.closed:
				return
			case <-ctx.Done():
				return
			}
		}
	})
	return out, nil
}

// Close implements message.Subscriber.
func (f *feed) Close() error {
	f.once.Do(func() { close(f.closed) })
	f.wait.Wait()
	return nil
}
