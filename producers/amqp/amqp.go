// Package amqp turns the messages of a queue, of RabbitMQ or another broker that
// speaks AMQP 0.9.1 or 1.0, into events: it publishes what fits the schema of the
// topic, and acknowledges a message only when its event is durable.
//
// That is at least once: after a crash of the bridge, or where an acknowledgement is
// lost with its connection, an event may lie twice in its topic.
//
// A message that can never become a record (it does not fit its schema, its topic
// has none, it is too large) is rejected and not put back, so that the dead letter
// exchange of its queue takes it. The broker drops it where the queue has none. 1.0
// sends the reason along, without a value that might be secret; 0.9.1 has no way to:
// see Config.Refused.
package amqp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"penstock/producers"
	"penstock/stream"
)

// KeyHeader is the header of a record that names the routing key it came with.
const KeyHeader = "amqp-routing-key"

// Publisher is what a Bridge asks of a *producers.Producer. Its registry has to
// be a producers.SchemaRegistry.
type Publisher interface {
	Publish(ctx context.Context, events ...producers.Event) error
}

// Config says where messages come from and where they go. A field that is zero
// has its default, where it has one.
type Config struct {
	URL     string // amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:
	TLS     *tls.Config
	Version string // of the protocol: V091, the default, or V10
	Queue   string // it exists; in 1.0 the address of the source, as its broker has it
	Topic   string // where the events go, keyed by the routing key
	// InFlight is how many messages may be unacknowledged; 256 by default. They
	// are held in memory, and how large each may be is set at the broker.
	InFlight int

	// Refused is told of each message that is rejected, and why; nil: it is
	// logged, without its body.
	Refused func(routingKey string, body []byte, why error)
	// Subscribed is called each time the broker has begun to deliver.
	Subscribed func()
	// Retry is the first pause before a connection is tried again, 100 ms by
	// default. It doubles up to a hundred times that.
	Retry  time.Duration
	Logger *slog.Logger // nil: none
}

// The versions of AMQP, which have little but the name in common.
const (
	V091 = "0.9.1"
	V10  = "1.0"
)

const (
	// finishWithin bounds how long a bridge that is told to stop goes on with
	// what it has begun to publish.
	finishWithin = 10 * time.Second
	answerWithin = 10 * time.Second
	heartbeat    = 10 * time.Second
)

// Bridge publishes what a queue delivers.
type Bridge struct {
	to Publisher
	c  Config
}

// New returns a bridge into to. Its error is of a faulty Config.
func New(to Publisher, c Config) (*Bridge, error) {
	if c.Version == "" {
		c.Version = V091
	}
	if c.InFlight == 0 {
		c.InFlight = 256
	}
	if c.Retry == 0 {
		c.Retry = 100 * time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Refused == nil {
		c.Refused = func(routingKey string, body []byte, why error) {
			c.Logger.Warn("message rejected", "routing key", routingKey, "bytes", len(body), "error", why)
		}
	}
	if c.Subscribed == nil {
		c.Subscribed = func() {}
	}
	if u, err := url.Parse(c.URL); err != nil || u.Hostname() == "" || u.Scheme != "amqp" && u.Scheme != "amqps" {
		return nil, errors.New("the URL of AMQP: expected amqp://USER:PASSWORD@HOST:PORT/VHOST") // the error may show the password
	}
	switch {
	case c.Version != V091 && c.Version != V10:
		return nil, fmt.Errorf("version %q of AMQP: expected %s or %s", c.Version, V091, V10)
	case c.Queue == "" || c.Topic == "":
		return nil, errors.New("expected a queue and a topic")
	case c.InFlight < 1 || c.InFlight > 65535:
		return nil, fmt.Errorf("%d messages in flight: expected 1 to 65535", c.InFlight)
	}
	return &Bridge{to: to, c: c}, nil
}

// Run publishes until ctx ends, and then returns nil. What it has begun it first
// finishes, for ten seconds at most; the broker keeps the rest.
//
// Its first connection has to succeed: an error wraps stream.ErrUnreachable, or is
// the broker's. Later ones are tried again until they do. Run may be called again
// when it has returned.
func (b *Bridge) Run(ctx context.Context) error {
	retry := producers.Backoff{First: b.c.Retry}
	for ever := false; ctx.Err() == nil; retry.Wait(ctx) {
		progress := false
		err := b.consume(ctx, func() {
			ever = true
			b.c.Subscribed()
		}, func() { progress = true })
		if !ever && ctx.Err() == nil {
			return err
		}
		if progress {
			retry.Reset()
		}
		if err != nil {
			b.c.Logger.Warn("messages of AMQP are to be delivered again", "queue", b.c.Queue, "error", err)
		}
	}
	return nil
}

// A source delivers the messages of a queue, over one connection. An error of any
// method ends it: what is not acknowledged by then is delivered again.
type source interface {
	// receive returns the next message. It waits for one until ctx ends.
	receive(ctx context.Context) (message, error)
	// received returns the next message if it is here already.
	received() (message, bool)
	close()
}

// message is a message that waits for one of its functions to be called.
type message struct {
	key    string
	body   []byte
	amiss  error // why the body cannot be read
	accept func() error
	reject func(why error) error
	// release gives it back, to be delivered again.
	release func() error
}

// consume keeps one connection until it ends or something cannot be published,
// which it says why, or ctx ends, which is no error. What is not acknowledged by
// then the broker delivers again. It calls progress when it has acknowledged
// something.
func (b *Bridge) consume(ctx context.Context, subscribed, progress func()) error {
	open := b.open091
	if b.c.Version == V10 {
		open = b.open10
	}
	from, err := open(ctx)
	if err != nil {
		return err
	}
	defer from.close()
	subscribed()

	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(finishWithin, stop) })()
	for {
		m, err := from.receive(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("queue %q: %w", b.c.Queue, err)
		}
		batch := []message{m}
		for len(batch) < b.c.InFlight {
			m, ok := from.received()
			if !ok {
				break
			}
			batch = append(batch, m)
		}
		if err := b.publish(work, batch, progress); err != nil {
			return err
		}
	}
}

// publish publishes a batch, acknowledges what is durable and rejects what will
// never be. An error says why the rest is to come again.
func (b *Bridge) publish(ctx context.Context, batch []message, progress func()) error {
	failed := make([]error, len(batch))
	events := make([]producers.Event, 0, len(batch))
	indexes := make([]int, 0, len(batch))
	for i, m := range batch {
		var value any
		if failed[i] = m.amiss; failed[i] == nil {
			value, failed[i] = producers.Payload(m.body)
		}
		if failed[i] != nil {
			continue
		}
		e := producers.Event{Topic: b.c.Topic, Value: value}
		if m.key != "" {
			e.Key = []byte(m.key)
			e.Headers = []stream.Header{{Key: KeyHeader, Value: e.Key}}
		}
		events, indexes = append(events, e), append(indexes, i)
	}
	if len(events) > 0 {
		err := b.to.Publish(ctx, events...)
		partly := (*stream.BatchError)(nil)
		switch {
		case errors.As(err, &partly):
			for n, err := range partly.Errs {
				failed[indexes[n]] = err
			}
		case err != nil:
			for _, i := range indexes {
				failed[i] = err
			}
		}
	}
	var again error
	for i, m := range batch {
		var err error
		switch {
		case failed[i] == nil:
			err = m.accept()
		case producers.IsFinal(failed[i]):
			b.c.Refused(m.key, m.body, failed[i])
			err = m.reject(failed[i])
		default:
			again = failed[i]
			if err := m.release(); err != nil {
				return fmt.Errorf("release: %w: %w", err, again)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
		progress()
	}
	return again
}
