// Package mqtt turns the messages of an MQTT broker, 3.1.1 or 5, into events: it
// subscribes, publishes what fits the schemas of the topics, and acknowledges a
// message only when its event is durable.
//
// That is at least once. The broker keeps a session for the bridge and delivers
// again what was not acknowledged: after a crash of the bridge, or where an
// acknowledgement is lost with its connection, an event may lie twice in its
// topic, at QoS 2 too. A message of QoS 0 is delivered once and never again: it
// is lost if the bridge is not there.
//
// A message that can never become a record (it does not fit its schema, its topic
// has none, it is too large) must not hold up the others, and so it is
// acknowledged as well: see Config.Refused. MQTT has no way to send a reason back
// to who published it.
package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"penstock/producers"
	"penstock/stream"
)

// Errors of Run.
var (
	// ErrRefused marks a connection or a subscription that the broker refuses.
	ErrRefused = errors.New("refused by the MQTT broker")
	// ErrTakenOver ends a bridge whose client id another client uses.
	ErrTakenOver = errors.New("another client has connected with this client id")
)

// Publisher is what a Bridge asks of a *producers.Producer. Its registry has to
// be a producers.SchemaRegistry.
type Publisher interface {
	Publish(ctx context.Context, events ...producers.Event) error
}

// Message is a message as the broker delivered it.
type Message struct {
	Topic    string
	Payload  []byte
	QoS      byte
	Retained bool
	// To is the topic that it was to go to, where Config.Refused is told; empty
	// where no route leads to one.
	To string
}

// DeadLetters is for Config.Refused: it publishes what is refused to a topic,
// which must exist, as it came, with the reason in the headers that stream names.
// What is too large for that topic too is logged, and gone.
func DeadLetters(to stream.Publisher, topic string, log *slog.Logger) func(context.Context, Message, error) error {
	return func(ctx context.Context, m Message, why error) error {
		r := stream.Record{Topic: m.To, Key: []byte(m.Topic), Value: m.Payload, Headers: []stream.Header{{Key: TopicHeader, Value: []byte(m.Topic)}}}
		err := to.Publish(ctx, producers.SetAside(r, topic, why))
		if errors.Is(err, stream.ErrTooLarge) {
			log.Warn("message too large to be kept", "topic", m.Topic, "bytes", len(m.Payload), "error", why)
			return nil
		}
		return err
	}
}

// Config says where messages come from and where they go. A field that is zero
// has its default, where it has one.
type Config struct {
	Address string      // host:port of the broker
	TLS     *tls.Config // nil: none
	Version byte        // of the protocol: 4 is 3.1.1, 5 the default

	// ClientID names the session that the broker keeps. It stays the same from
	// run to run, and no other client may use it.
	ClientID string
	Username string // empty: none
	Password func() (string, error)
	// SessionExpiry is for how long the broker keeps the session of a bridge
	// that is away; a week by default. In 3.1.1 that is the broker's affair.
	SessionExpiry time.Duration
	KeepAlive     time.Duration // a minute by default, to the second

	// Routes are asked in their order. At least one is needed.
	Routes []Route
	// QoS is the highest quality of service at which messages are delivered.
	QoS byte
	// InFlight is how many messages wait to be published, and how many are on
	// their way, at most; 256 by default.
	InFlight int
	// MaxPacket is the size in bytes of the largest message that is taken, 1
	// MiB by default. One that is larger the broker drops; in 3.1.1 it is
	// refused, without its payload.
	MaxPacket int

	// Refused is told of each message that can never become a record, and why,
	// before it is acknowledged: the place to keep it. It is called until it
	// returns nil. What a topic's Misfits let go on its way is not refused. nil:
	// such a message is logged, without its payload, and gone.
	Refused func(context.Context, Message, error) error
	// Subscribed is called each time the broker has granted all filters.
	Subscribed func()

	// Retry is the first pause before a connection or a batch that failed is
	// tried again, 100 ms by default. It doubles up to a hundred times that.
	Retry  time.Duration
	Logger *slog.Logger // nil: none
}

// finishWithin bounds how long a bridge that is told to stop goes on with what it
// has begun to publish.
const finishWithin = 10 * time.Second

// Bridge publishes what an MQTT broker delivers.
type Bridge struct {
	to     Publisher
	c      Config
	routes []route
}

// New returns a bridge into to. Its error is of a faulty Config.
func New(to Publisher, c Config) (*Bridge, error) {
	if c.Version == 0 {
		c.Version = 5
	}
	if c.SessionExpiry == 0 {
		c.SessionExpiry = 7 * 24 * time.Hour
	}
	if c.KeepAlive == 0 {
		c.KeepAlive = time.Minute
	}
	if c.InFlight == 0 {
		c.InFlight = 256
	}
	if c.MaxPacket == 0 {
		c.MaxPacket = 1 << 20
	}
	if c.Retry == 0 {
		c.Retry = 100 * time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Refused == nil {
		c.Refused = func(_ context.Context, m Message, why error) error {
			c.Logger.Warn("message refused", "topic", m.Topic, "bytes", len(m.Payload), "error", why)
			return nil
		}
	}
	if c.Subscribed == nil {
		c.Subscribed = func() {}
	}
	switch {
	case c.Version != 4 && c.Version != 5:
		return nil, fmt.Errorf("version %d of MQTT: expected 4, which is 3.1.1, or 5", c.Version)
	case c.QoS > 2:
		return nil, fmt.Errorf("QoS %d: expected 0, 1 or 2", c.QoS)
	case c.ClientID == "":
		return nil, errors.New("no client id: it names the session that the broker keeps")
	case c.InFlight < 1 || c.InFlight > 65535:
		return nil, fmt.Errorf("%d messages in flight: expected 1 to 65535", c.InFlight)
	case c.KeepAlive < time.Second || c.KeepAlive > 65535*time.Second:
		return nil, fmt.Errorf("keep alive %s: expected 1s to 65535s", c.KeepAlive)
	case len(c.Routes) == 0:
		return nil, errors.New("no topic filter to subscribe to")
	}
	b := &Bridge{to: to, c: c}
	for _, r := range c.Routes {
		parsed, err := parseRoute(r)
		if err != nil {
			return nil, err
		}
		b.routes = append(b.routes, parsed)
	}
	return b, nil
}

// Run publishes until ctx ends, and then returns nil. What it has begun it first
// finishes, for ten seconds at most; the broker keeps the rest.
//
// Its first connection has to succeed: an error wraps stream.ErrUnreachable or
// ErrRefused. Later ones are tried again until they do, but for ErrTakenOver. Run
// may be called once.
func (b *Bridge) Run(ctx context.Context) error {
	s := &session{Bridge: b, queue: make(chan *delivery, b.c.InFlight), pending: map[uint16]*delivery{}}
	ctx, stop := context.WithCancel(ctx)
	var publishing sync.WaitGroup
	publishing.Go(func() { s.publish(ctx) })
	defer func() {
		stop()
		publishing.Wait()
		s.leave()
	}()
	retry := producers.Backoff{First: b.c.Retry}
	for ever := false; ; {
		var since time.Time
		err := s.connect(ctx, func() {
			ever, since = true, time.Now()
			b.c.Subscribed()
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case !ever || errors.Is(err, ErrTakenOver):
			return err
		}
		if !since.IsZero() && time.Since(since) > retry.Longest() {
			retry.Reset() // but not where two bridges throw each other out
		}
		b.c.Logger.Warn("connection to the MQTT broker lost", "error", err)
		if !retry.Wait(ctx) {
			return nil
		}
	}
}

func unreachable(address string, err error) error {
	return fmt.Errorf("connect to MQTT at %s: %w: %w", address, stream.ErrUnreachable, err)
}
