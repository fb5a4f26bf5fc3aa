package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"penstock/producers"
	"penstock/producers/gateway"
	"penstock/registry"
	"penstock/registry/client"
	"penstock/schemas"
	"penstock/stream"
	"penstock/stream/nats"
)

// upCmd starts broker, registry and gateway in one process.
type upCmd struct {
	brokerFlag
	Listen  string `default:"127.0.0.1:8081" placeholder:"ADDR" help:"Address of the registry (default ${default})."`
	Gateway string `default:"127.0.0.1:8082" placeholder:"ADDR" help:"Address of the HTTP gateway (default ${default})."`
	Store   string `placeholder:"URL" help:"Where the registry keeps its log: memory:, file:DIR, nats://HOST:PORT[/STREAM] or kafka://HOST:PORT,…[/TOPIC]. Default: the folder of the embedded broker, else file:./penstock-data/registry."`

	Advertise string   `placeholder:"URL" help:"Where the other nodes of a registry kept in Kafka reach this one. Default: http:// and the registry's address."`
	RawTopics []string `placeholder:"TOPIC,…" help:"Topics to which the gateway takes bytes that no schema describes."`
	Urgency   urgency  `placeholder:"USER=N,…" help:"How urgent the gateway holds requests of a user to be at most where not all can be served: 0 the most, 7 the least. Default: as their header Priority says."`
	dialectFlags
	secureFlags
}

// Help shows examples.
func (upCmd) Help() string {
	return `Examples:
  penstock up
  penstock up --broker kafka://127.0.0.1:9092

Then, in another terminal in the same folder:
  penstock produce flights --sample flights -n 1000
  penstock consume microbatch flights --to sqlite:flights.db
  curl -H 'Content-Type: application/json' -d @event.json http://127.0.0.1:8082/topics/flights`
}

// Run serves until it is stopped.
func (c *upCmd) Run(ctx context.Context, t *terminal) error {
	s, err := startStack(ctx, stackConfig{broker: c.Broker, registry: c.Listen, gateway: c.Gateway, store: c.Store, advertise: c.Advertise, options: c.options(t.log), dialect: c.Dialect, rawTopics: c.RawTopics, urgency: c.Urgency, secure: c.secureFlags, out: barWriter{t, t.err}, log: t.log})
	if err != nil {
		return err
	}
	t.notef("broker   %s\nregistry %s\ngateway  %s/topics/TOPIC\nready; Ctrl-C stops it\n", c.Broker, s.registryURL, s.gatewayURL)
	<-ctx.Done()
	t.notef("stopping\n")
	return s.stop()
}

// urgency is a number for each of some users.
type urgency map[string]int

// UnmarshalText reads USER=N, and more after commas.
func (u *urgency) UnmarshalText(text []byte) error {
	*u = urgency{}
	for part := range strings.SplitSeq(string(text), ",") {
		at := strings.LastIndex(part, "=")
		n, err := strconv.Atoi(part[at+1:])
		if at < 1 || err != nil || n < 0 || n > 7 {
			return fmt.Errorf("expected USER=N with an N from 0 to 7, found %q", part)
		}
		(*u)[part[:at]] = n
	}
	return nil
}

// stackConfig says what startStack starts.
type stackConfig struct {
	broker, store, advertise string // URLs
	registry, gateway        string // addresses to listen on
	options                  registry.Options
	dialect                  registry.Dialect
	rawTopics                []string // of the gateway
	urgency                  urgency  // likewise
	secure                   secureFlags
	out                      io.Writer // of logs that secure asks for
	log                      *slog.Logger
}

// stack is broker, registry and gateway in one process.
type stack struct {
	broker      stream.Broker
	client      *client.Client
	registryURL string
	gatewayURL  string
	ends        []func() error // in the order of starting
}

// startStack starts broker, registry and gateway. Whoever calls it stops it.
func startStack(ctx context.Context, c stackConfig) (_ *stack, err error) {
	s := &stack{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	s.broker, err = openBroker(ctx, c.broker, c.log)
	if err != nil {
		return nil, err
	}
	s.ends = append(s.ends, s.broker.Close)

	if c.store == "" {
		dir, embedded := embeddedDir(c.broker)
		if !embedded {
			dir, _ = embeddedDir(defaultBroker)
		}
		c.store = "file:" + filepath.Join(dir, "registry")
	}
	reg, err := openStore(ctx, c.store, advertised(c.advertise, c.registry, c.secure), c.options)
	if err != nil {
		return nil, err
	}
	s.ends = append(s.ends, reg.close)
	front, err := c.secure.open(reg.gauges(), c.out, c.log)
	if err != nil {
		return nil, err
	}
	s.ends = append(s.ends, front.close)
	registryServer, ends, err := front.serveRegistry(c.registry, reg, c.dialect)
	if err != nil {
		return nil, err
	}
	s.ends = append(s.ends, ends...)
	s.registryURL = registryServer.url
	if b, ok := s.broker.(*nats.Broker); ok && b.Serves() {
		if err := b.Announce(s.registryURL); err != nil {
			return nil, fmt.Errorf("announce the registry: %w", err)
		}
	}
	s.client, err = client.Local(reg.handler(registry.HandlerOptions{}), formats(), client.Options{})
	if err != nil {
		return nil, err
	}
	s.ends = append(s.ends, s.client.Close)
	keeper, _ := s.broker.(stream.Keeper)
	gw := gateway.New(producers.New(s.broker, s.client, producers.Config{}), gateway.Config{
		Lookup: func(choice gateway.Choice) client.Lookup { return lookupOf(s.client, front, choice) }, Formats: formats(),
		AllowRaw:  func(topic string) bool { return slices.Contains(c.rawTopics, topic) },
		Authorize: func(ctx context.Context, topic string) error { return front.guard.Authorize(ctx, opPublish, topic) },
		Urgency:   c.urgency,
		Keeper:    keeper,
		Log:       c.log,
	})
	s.ends = append(s.ends, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
		defer cancel()
		return gw.Close(ctx)
	})
	gatewayServer, err := front.serve("gateway", c.gateway, gw)
	if err != nil {
		return nil, err
	}
	s.ends = append(s.ends, gatewayServer.stop)
	s.gatewayURL = gatewayServer.url
	return s, nil
}

// lookupOf returns what finds the schema that a request to the gateway chooses. One
// that registers it needs permission for that too.
func lookupOf(c *client.Client, f *front, choice gateway.Choice) client.Lookup {
	switch {
	case choice.ID != 0:
		return client.ID(c, choice.ID)
	case choice.Version != 0:
		return client.Version(c, choice.Version)
	case choice.Schema != "":
		register := client.Registering(c, registry.Schema{SchemaType: choice.Type, Schema: choice.Schema})
		return func(ctx context.Context, subject string) (schemas.Registered, error) {
			if err := f.guard.Authorize(ctx, string(registry.OpWrite), subject); err != nil {
				return schemas.Registered{}, err
			}
			return register(ctx, subject)
		}
	}
	return c.Newest
}

// stop ends what was started, the last first.
func (s *stack) stop() error { return stopAll(s.ends) }
