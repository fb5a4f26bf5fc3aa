package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"penstock/consumers"
	"penstock/consumers/sinks/postgres"
	"penstock/consumers/sinks/sqlite"
	"penstock/consumers/sinks/sqlsink"
	"penstock/consumers/sinks/topic"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
	"penstock/stream"
	"penstock/stream/kafka"
	"penstock/stream/nats"
)

// formats are the schema languages that this program speaks.
func formats() []schemas.Format {
	return []schemas.Format{avro.Format{}, jsonschema.Format{}, protobuf.Format{}}
}

// typeOf is the language of a schema file, by its ending.
func typeOf(file string) (schemas.Type, error) {
	switch filepath.Ext(file) {
	case ".avsc":
		return schemas.Avro, nil
	case ".json":
		return schemas.JSON, nil
	case ".proto":
		return schemas.Protobuf, nil
	}
	return "", usagef("%s: the ending says the language of a schema: .avsc (Avro), .json (JSON Schema) or .proto (Protobuf)", file)
}

// embeddedDir is the folder that an embedded: URL names.
func embeddedDir(broker string) (string, bool) {
	return strings.CutPrefix(broker, "embedded:")
}

// openBroker connects to the broker that a URL names.
func openBroker(ctx context.Context, broker string, log *slog.Logger) (stream.Broker, error) {
	return openBrokerFor(ctx, broker, log, 0)
}

// openBrokerFor is openBroker for consumers that on Kafka lose their partitions after that
// silence; 0 is the usual.
func openBrokerFor(ctx context.Context, broker string, log *slog.Logger, silence time.Duration) (stream.Broker, error) {
	if dir, ok := embeddedDir(broker); ok {
		if dir == "" {
			return nil, usagef("--broker embedded: needs a folder, as in embedded:./penstock-data")
		}
		b, err := nats.OpenDir(ctx, dir, nats.Options{Logger: log})
		if err != nil {
			return nil, err
		}
		return b, nil
	}
	switch scheme, _, _ := strings.Cut(broker, "://"); scheme {
	case "kafka":
		c, err := parseKafka(broker)
		if err != nil {
			return nil, err
		}
		b, err := kafka.Open(ctx, kafka.Config{Seeds: c.seeds, TLS: c.tls, SASL: c.sasl, Member: c.member, ServerBalances: c.serverBalances, SessionTimeout: silence, Timeout: 10 * time.Second, Logger: log})
		if err != nil {
			return nil, withHint(err, "start one there, or name another with --broker")
		}
		return b, nil
	case "nats", "tls":
		b, err := nats.Open(ctx, nats.Config{URL: broker, Options: nats.Options{Logger: log}})
		if err != nil {
			return nil, withHint(err, "start one there, or name another with --broker")
		}
		return b, nil
	default:
		return nil, usagef("--broker begins with %q, which penstock does not know; write embedded:DIR, kafka://HOST:PORT or nats://HOST:PORT", scheme)
	}
}

// sink is a place for records that holds positions.
type sink interface {
	consumers.Sink
	stream.Owner
	io.Closer
}

// openSink opens the database that a URL names.
func openSink(ctx context.Context, to string, c sqlsink.Config) (sink, error) {
	if name, ok := strings.CutPrefix(to, "sqlite:"); ok {
		if name == "" {
			return nil, usagef("--to sqlite: needs a file, as in sqlite:flights.db")
		}
		return sqlite.Open(ctx, name, c)
	}
	if strings.HasPrefix(to, "postgres://") || strings.HasPrefix(to, "postgresql://") {
		return postgres.Open(ctx, to, c)
	}
	scheme, _, _ := strings.Cut(to, ":")
	return nil, usagef("--to %s: is none that penstock knows; write sqlite:FILE, postgres://HOST/DATABASE, parquet:DIR or topic:NAME", scheme)
}

// openTopicSink opens a topic to copy another to. It is made with as many
// partitions as that has, if it is not there.
func openTopicSink(ctx context.Context, broker stream.Broker, from string, c topic.Config) (sink, error) {
	resumer, ok := broker.(stream.Resumer)
	if !ok || c.Topic == "" || c.Topic == from {
		return nil, usagef("--to topic: needs the name of another topic, as in topic:orders.checked")
	}
	ranges, err := broker.Ranges(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("read topic %q: %w", from, err)
	}
	if err := broker.Create(ctx, c.Topic, len(ranges)); err != nil {
		return nil, fmt.Errorf("create topic %q: %w", c.Topic, err)
	}
	return topic.New(resumer, c)
}

// topicSubject is the subject of a topic's values where nothing else is said.
func topicSubject(topic string) string { return topic + "-value" }
