package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"penstock/producers"
	"penstock/producers/mqtt"
)

// bridgeCmd publishes what other brokers deliver.
type bridgeCmd struct {
	MQTT bridgeMQTTCmd `cmd:"" name:"mqtt" help:"Publish what an MQTT broker delivers, and acknowledge it once it is durable."`
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

// mqttParameters are those of a URL of MQTT.
var mqttParameters = []string{"ca", "cert", "key", "password-file"}

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
	reg, err := c.openRegistry(c.Broker)
	if err != nil {
		return err
	}
	defer reg.Close()
	for _, topic := range fixed { // without one, all would be refused
		if _, _, err := reg.Latest(ctx, topicSubject(topic)); err != nil {
			return withHint(fmt.Errorf("look up the schema of topic %q: %w", topic, err), "register one: penstock schema register FILE --subject %s", topicSubject(topic))
		}
	}
	broker, err := openBroker(ctx, c.Broker, t.log)
	if err != nil {
		return err
	}
	defer broker.Close()
	if !c.Drop {
		fixed = append(fixed, c.DeadLetters)
		config.Refused = mqtt.DeadLetters(broker, c.DeadLetters, t.log)
	}
	for _, topic := range fixed {
		if err := broker.Create(ctx, topic, 0); err != nil {
			return fmt.Errorf("create topic %q: %w", topic, err)
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
	u, err := url.Parse(c.From)
	if err != nil || u.Host == "" || u.Scheme != "mqtt" && u.Scheme != "mqtts" {
		return config, errors.New("the broker's URL: expected mqtt://HOST:PORT or mqtts://HOST:PORT")
	}
	if _, secret := u.User.Password(); secret {
		return config, fmt.Errorf("the broker's URL holds a password, which others may see; put it into a file, as ?password-file=FILE, or into %s", mqttPasswordEnv)
	}
	config.Username = u.User.Username()
	values := u.Query()
	for name, v := range values {
		if !slices.Contains(mqttParameters, name) || len(v) > 1 {
			return config, fmt.Errorf("the broker's URL has the parameter %q, expected each of %s at most once", name, strings.Join(mqttParameters, ", "))
		}
	}
	port := "1883"
	if u.Scheme == "mqtts" {
		port = "8883"
		values.Set("tls", "true")
		if config.TLS, err = kafkaTLS(values); err != nil {
			return config, fmt.Errorf("the broker's URL: %w", err)
		}
	}
	if u.Port() != "" {
		port = u.Port()
	}
	config.Address = net.JoinHostPort(u.Hostname(), port)
	if file := values.Get("password-file"); file != "" {
		config.Password = func() (string, error) {
			text, err := os.ReadFile(file)
			return strings.TrimRight(string(text), "\r\n"), err
		}
	} else if p := os.Getenv(mqttPasswordEnv); p != "" {
		config.Password = func() (string, error) { return p, nil }
	}
	return config, nil
}
