// Package amqp turns the messages of a queue, of RabbitMQ or another broker that
// speaks AMQP 0.9.1, into events: it publishes what fits the schema of the topic,
// and acknowledges a message only when its event is durable.
//
// That is at least once: after a crash of the bridge, or where an acknowledgement is
// lost with its connection, an event may lie twice in its topic.
//
// A message that can never become a record (it does not fit its schema, its topic
// has none, it is too large) is rejected and not put back, so that the dead letter
// exchange of its queue takes it. The broker drops it where the queue has none. AMQP
// 0.9.1 has no way to send the reason along: see Config.Refused.
package amqp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

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
	URL   string // amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:
	TLS   *tls.Config
	Queue string // it exists
	Topic string // where the events go, keyed by the routing key
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

const (
	// finishWithin bounds how long a bridge that is told to stop goes on with
	// what it has begun to publish.
	finishWithin = 10 * time.Second
	dialWithin   = 10 * time.Second
	heartbeat    = 10 * time.Second
)

// Bridge publishes what a queue delivers.
type Bridge struct {
	to Publisher
	c  Config
}

// New returns a bridge into to. Its error is of a faulty Config.
func New(to Publisher, c Config) (*Bridge, error) {
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
	if _, err := amqp091.ParseURI(c.URL); err != nil {
		return nil, errors.New("the URL of AMQP: expected amqp://USER:PASSWORD@HOST:PORT/VHOST") // the error may show the password
	}
	switch {
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

// consume keeps one connection until it ends or something cannot be published,
// which it says why, or ctx ends, which is no error. What is not acknowledged by then the broker
// delivers again. It calls progress when it has acknowledged something.
func (b *Bridge) consume(ctx context.Context, subscribed, progress func()) error {
	d := &net.Dialer{Timeout: dialWithin}
	conn, err := amqp091.DialConfig(b.c.URL, amqp091.Config{
		Heartbeat:       heartbeat,
		TLSClientConfig: b.c.TLS,
		Dial: func(network, address string) (net.Conn, error) {
			c, err := d.DialContext(ctx, network, address)
			if err == nil {
				err = c.SetDeadline(time.Now().Add(dialWithin)) // the client ends it once it is in
			}
			return c, err
		},
	})
	if err != nil {
		if refused := (*amqp091.Error)(nil); errors.As(err, &refused) {
			return fmt.Errorf("connect to AMQP: %w", err)
		}
		return fmt.Errorf("connect to AMQP: %w: %w", stream.ErrUnreachable, err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("open a channel of AMQP: %w", err)
	}
	closed := ch.NotifyClose(make(chan *amqp091.Error, 1))
	if err := ch.Qos(b.c.InFlight, 0, false); err != nil {
		return fmt.Errorf("limit what is in flight: %w", err)
	}
	deliveries, err := ch.Consume(b.c.Queue, "", false, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("consume queue %q: %w", b.c.Queue, err)
	}
	subscribed()

	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(finishWithin, stop) })()
	for {
		var batch []amqp091.Delivery
		select {
		case d, ok := <-deliveries:
			if !ok {
				select {
				case err := <-closed:
					return fmt.Errorf("queue %q: %w", b.c.Queue, err)
				default:
					return fmt.Errorf("queue %q: the broker has ended the delivery", b.c.Queue)
				}
			}
			batch = append(batch, d)
		case <-ctx.Done():
			return nil
		}
		for more := true; more && len(batch) < b.c.InFlight; {
			select {
			case d, ok := <-deliveries:
				if more = ok; ok {
					batch = append(batch, d)
				}
			default:
				more = false
			}
		}
		if err := b.publish(work, batch, progress); err != nil {
			return err
		}
	}
}

// publish publishes a batch, acknowledges what is durable and rejects what will
// never be. An error says why the rest is to come again.
func (b *Bridge) publish(ctx context.Context, batch []amqp091.Delivery, progress func()) error {
	failed := make([]error, len(batch))
	events := make([]producers.Event, 0, len(batch))
	indexes := make([]int, 0, len(batch))
	for i, d := range batch {
		value, err := producers.Payload(d.Body)
		if err != nil {
			failed[i] = err
			continue
		}
		events = append(events, producers.Event{
			Topic: b.c.Topic, Key: []byte(d.RoutingKey), Value: value,
			Headers: []stream.Header{{Key: KeyHeader, Value: []byte(d.RoutingKey)}},
		})
		indexes = append(indexes, i)
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
	for i, d := range batch {
		var err error
		switch {
		case failed[i] == nil:
			err = d.Ack(false)
		case producers.IsFinal(failed[i]):
			b.c.Refused(d.RoutingKey, d.Body, failed[i])
			err = d.Reject(false)
		default:
			again = failed[i]
			continue
		}
		if err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
		progress()
	}
	return again
}
