package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"penstock/producers"
	"penstock/producers/amqp"
	"penstock/producers/mqtt"
	"penstock/registry/client"
	"penstock/schemas"
	"penstock/stream"
)

// bridgeCmd publishes what other brokers deliver.
type bridgeCmd struct {
	MQTT bridgeMQTTCmd `cmd:"" name:"mqtt" help:"Publish what an MQTT broker delivers, and acknowledge it once it is durable."`
	AMQP bridgeAMQPCmd `cmd:"" name:"amqp" help:"Publish what a queue of RabbitMQ delivers (AMQP 0.9.1 or 1.0), and acknowledge it once it is durable."`
}

// bridgeMQTTCmd is a bridge from MQTT.
type bridgeMQTTCmd struct {
	From string `arg:"" name:"mqtt-url" help:"Broker, as mqtt://HOST:1883 or mqtts://USER@HOST:8883."`

	brokerFlag
	registryFlag
	Filters     []string `name:"filter" required:"" sep:"none" placeholder:"FILTER" help:"Topic filter to subscribe to, as sensors/+/temp. Can be repeated."`
	Topics      []string `name:"topic" required:"" sep:"none" placeholder:"TOPIC" help:"Where the events go; {2} is the second level of the MQTT topic, {topic} all of it with dots. One for all filters, or one for each. A topic without braces is made if it does not exist."`
	Key         string   `default:"{topic}" placeholder:"TEMPLATE" help:"Key of the events, from the levels of the MQTT topic likewise. Default: ${default}."`
	DeadLetters string   `placeholder:"TOPIC" help:"Where messages go that are refused; it is made. Default: TOPIC.dlq, of the first without braces."`
	Drop        bool     `help:"Only log what is refused, and acknowledge it."`
	QoS         byte     `name:"qos" placeholder:"N" default:"1" help:"Highest quality of service to be delivered at: 0, 1 or 2. Default: ${default}."`
	Protocol    string   `enum:"5,3.1.1" default:"5" help:"Version of MQTT: 5 or 3.1.1. Default: ${default}."`
	ClientID    string   `name:"client-id" placeholder:"NAME" default:"penstock-bridge" help:"Names the session that the broker keeps for this bridge. Each bridge needs its own. Default: ${default}."`
	InFlight    int      `placeholder:"N" default:"256" help:"How many messages may be on their way. Default: ${default}."`
}

// mqttPasswordEnv holds the password for MQTT where its URL names no file.
const mqttPasswordEnv = "PENSTOCK_MQTT_PASSWORD"

// bridgeParameters are those of the URL of another broker.
var bridgeParameters = []string{"ca", "cert", "key", "password-file"}

// Help shows examples.
func (bridgeMQTTCmd) Help() string {
	return `Examples:
  penstock bridge mqtt mqtt://localhost:1883 --filter 'sensors/+/temp' --topic sensors
  penstock bridge mqtt mqtt://localhost --filter 'site/+/+/#' --topic 'site.{3}' --key '{2}' --dead-letters site.dlq
  penstock bridge mqtt mqtts://penstock@HOST:8883?password-file=FILE --filter 'a/#' --topic a --qos 2
  penstock bridge mqtt mqtt://localhost --protocol 3.1.1 --filter '$share/penstock/a/#' --topic a --client-id bridge-1

A message is JSON, or bytes that name their schema, and is checked by the schema of
its topic. It is acknowledged when its event is durable, or, if it is refused, when
its dead letter is. Delivery is at least once: after a crash an event may be there
twice. What the broker has while the bridge is away waits in the session of
--client-id, for as long and as much as the broker allows.

ca=FILE names authorities other than the system's, cert=FILE&key=FILE shows a
certificate. The password of USER is in password-file=FILE or in ` + mqttPasswordEnv + `.`
}

// Run runs until it is interrupted.
func (c *bridgeMQTTCmd) Run(ctx context.Context, t *terminal) error {
	config, err := c.config(t)
	if err != nil {
		return usageError{err}
	}
	fixed := slices.DeleteFunc(slices.Clone(c.Topics), func(topic string) bool { return strings.Contains(topic, "{") })
	switch {
	case c.Drop && c.DeadLetters != "":
		return usagef("give either --dead-letters or --drop")
	case !c.Drop && c.DeadLetters == "" && len(fixed) == 0:
		return usagef("topics made from a template need --dead-letters TOPIC for what is refused, or --drop")
	case !c.Drop && c.DeadLetters == "":
		c.DeadLetters = fixed[0] + ".dlq"
	}
	reg, broker, err := openBridge(ctx, t, c.registryFlag, c.Broker, fixed)
	if err != nil {
		return err
	}
	defer reg.Close()
	defer broker.Close()
	if !c.Drop {
		config.Refused = mqtt.DeadLetters(broker, c.DeadLetters, t.log)
		if err := broker.Create(ctx, c.DeadLetters, 0); err != nil {
			return fmt.Errorf("create topic %q: %w", c.DeadLetters, err)
		}
	}
	config.Subscribed = func() { t.notef("subscribed to %s at %s\n", strings.Join(c.Filters, ", "), config.Address) }
	bridge, err := mqtt.New(producers.New(broker, reg, producers.Config{}), config)
	if err != nil {
		return usageError{err}
	}
	err = bridge.Run(ctx)
	if errors.Is(err, mqtt.ErrTakenOver) {
		err = withHint(err, "give each bridge a --client-id of its own")
	}
	return err
}

// config reads the flags.
func (c *bridgeMQTTCmd) config(t *terminal) (mqtt.Config, error) {
	config := mqtt.Config{ClientID: c.ClientID, QoS: c.QoS, Version: 5, InFlight: c.InFlight, Logger: t.log}
	if c.Protocol == "3.1.1" {
		config.Version = 4
	}
	if len(c.Topics) != 1 && len(c.Topics) != len(c.Filters) {
		return config, fmt.Errorf("%d filters and %d topics: expected one --topic for all, or one for each --filter", len(c.Filters), len(c.Topics))
	}
	for i, filter := range c.Filters {
		config.Routes = append(config.Routes, mqtt.Route{Filter: filter, Topic: c.Topics[min(i, len(c.Topics)-1)], Key: c.Key})
	}
	u, err := readBridgeURL(c.From, "mqtt", "1883", "8883", mqttPasswordEnv)
	if err != nil {
		return config, err
	}
	config.Address, config.Username, config.TLS, config.Password = u.Host, u.User.Username(), u.tls, u.password
	return config, nil
}

// bridgeURL is what the URL of another broker says: its scheme, user, host, port and
// path, and what its parameters name.
type bridgeURL struct {
	*url.URL
	tls      *tls.Config
	password func() (string, error) // nil: none
}

// readBridgeURL reads SCHEME://USER@HOST:PORT/PATH?PARAMETER=VALUE&… or the same with
// SCHEMEs. The port is there afterwards, the parameters are not.
func readBridgeURL(from, scheme, port, securePort, passwordEnv string) (bridgeURL, error) {
	u, err := url.Parse(from)
	if err != nil || u.Hostname() == "" || u.Scheme != scheme && u.Scheme != scheme+"s" {
		return bridgeURL{}, fmt.Errorf("the broker's URL: expected %s://HOST:PORT or %[1]ss://HOST:PORT", scheme)
	}
	if _, secret := u.User.Password(); secret {
		return bridgeURL{}, fmt.Errorf("the broker's URL holds a password, which others may see; put it into a file, as ?password-file=FILE, or into %s", passwordEnv)
	}
	values := u.Query()
	for name, v := range values {
		if !slices.Contains(bridgeParameters, name) || len(v) > 1 {
			return bridgeURL{}, fmt.Errorf("the broker's URL has the parameter %q, expected each of %s at most once", name, strings.Join(bridgeParameters, ", "))
		}
	}
	b := bridgeURL{URL: u}
	if u.Scheme == scheme+"s" {
		port = securePort
		values.Set("tls", "true")
		if b.tls, err = kafkaTLS(values); err != nil {
			return bridgeURL{}, fmt.Errorf("the broker's URL: %w", err)
		}
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	u.RawQuery = ""
	if file := values.Get("password-file"); file != "" {
		b.password = func() (string, error) {
			text, err := os.ReadFile(file)
			return strings.TrimRight(string(text), "\r\n"), err
		}
	} else if p := os.Getenv(passwordEnv); p != "" {
		b.password = func() (string, error) { return p, nil }
	}
	return b, nil
}

// bridgeAMQPCmd is a bridge from AMQP.
type bridgeAMQPCmd struct {
	From string `arg:"" name:"amqp-url" help:"Broker, as amqp://USER@HOST:5672/VHOST or amqps://USER@HOST:5671."`

	brokerFlag
	registryFlag
	Queue    string `required:"" placeholder:"NAME" help:"Queue to consume, in AMQP 1.0 its address. It exists, and has a dead letter exchange for what is rejected."`
	Topic    string `required:"" placeholder:"TOPIC" help:"Where the events go, keyed by the routing key. It is made if it does not exist."`
	Protocol string `enum:"0.9.1,1.0" default:"0.9.1" help:"Version of AMQP: 0.9.1 or 1.0. Default: ${default}."`
	InFlight int    `placeholder:"N" default:"256" help:"How many messages may be on their way. Default: ${default}."`
}

// amqpPasswordEnv holds the password for AMQP where its URL names no file.
const amqpPasswordEnv = "PENSTOCK_AMQP_PASSWORD"

// Help shows examples.
func (bridgeAMQPCmd) Help() string {
	return `Examples:
  penstock bridge amqp amqp://localhost --queue readings --topic sensors
  penstock bridge amqp amqps://penstock@HOST/plant?password-file=FILE --queue readings --topic sensors
  penstock bridge amqp amqp://localhost --protocol 1.0 --queue /queues/readings --topic sensors

A message is JSON, or bytes that name their schema, and is checked by the schema of
the topic. It is acknowledged when its event is durable. One that is refused is
rejected and not put back: the queue's dead letter exchange takes it, and the reason
is in the log. A queue without such an exchange drops it. Delivery is at least once:
after a crash an event may be there twice.

ca=FILE names authorities other than the system's, cert=FILE&key=FILE shows a
certificate. The password of USER is in password-file=FILE or in
` + amqpPasswordEnv + `; without USER both are guest, in AMQP 1.0 none.`
}

// Run runs until it is interrupted.
func (c *bridgeAMQPCmd) Run(ctx context.Context, t *terminal) error {
	u, err := readBridgeURL(c.From, "amqp", "5672", "5671", amqpPasswordEnv)
	if err != nil {
		return usageError{err}
	}
	if u.password != nil {
		password, err := u.password()
		if err != nil {
			return usageError{err}
		}
		u.User = url.UserPassword(u.User.Username(), password)
	}
	reg, broker, err := openBridge(ctx, t, c.registryFlag, c.Broker, []string{c.Topic})
	if err != nil {
		return err
	}
	defer reg.Close()
	defer broker.Close()
	bridge, err := amqp.New(producers.New(broker, reg, producers.Config{}), amqp.Config{
		URL: u.String(), TLS: u.tls, Version: c.Protocol, Queue: c.Queue, Topic: c.Topic, InFlight: c.InFlight, Logger: t.log,
		Subscribed: func() { t.notef("subscribed to %s at %s\n", c.Queue, u.Host) },
	})
	if err != nil {
		return usageError{err}
	}
	return bridge.Run(ctx)
}

// openBridge opens registry and broker, and makes the topics, which have to have
// schemas: without one, all would be refused. Without an error, both are to be closed.
func openBridge(ctx context.Context, t *terminal, f registryFlag, address string, topics []string) (_ *client.Client, broker stream.Broker, err error) {
	reg, err := f.openRegistry(address)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = reg.Close()
		}
	}()
	for _, topic := range topics {
		if _, _, err := reg.Latest(ctx, topicSubject(topic)); err != nil {
			err = fmt.Errorf("look up the schema of topic %q: %w", topic, err)
			if errors.Is(err, schemas.ErrNoSchema) {
				err = withHint(err, "register one: penstock schema register FILE --subject %s", topicSubject(topic))
			}
			return nil, nil, err
		}
	}
	if broker, err = openBroker(ctx, address, t.log); err != nil {
		return nil, nil, err
	}
	for _, topic := range topics {
		if err := broker.Create(ctx, topic, 0); err != nil {
			_ = broker.Close()
			return nil, nil, fmt.Errorf("create topic %q: %w", topic, err)
		}
	}
	return reg, broker, nil
}
