// Package servertest hands tests the real servers that they run against.
//
// The servers are not started here: `make check` starts them once for all
// packages, by the program in servertest/servers, and passes their addresses
// in the environment. A test that asks for a server that is not there is
// skipped, so that `go test ./...` needs Go alone; with CI=true it fails
// instead. Only tests import this package.
package servertest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// The environment variables that carry the servers' addresses and the folders
// of the clients.
const (
	KafkaEnv    = "PENSTOCK_TEST_KAFKA"    // host:port[,host:port...]
	PostgresEnv = "PENSTOCK_TEST_POSTGRES" // postgres:// URL of a superuser
	NATSEnv     = "PENSTOCK_TEST_NATS"     // nats:// URL, JetStream enabled
	PythonEnv   = "PENSTOCK_TEST_PYTHON"   // virtual environment with Confluent's Python client, NATS's, numpy and Flower
	NodeEnv     = "PENSTOCK_TEST_NODE"     // folder with node_modules that hold the JavaScript clients
	MQTTEnv     = "PENSTOCK_TEST_MQTT"     // host:port of a mosquitto
	AMQPEnv     = "PENSTOCK_TEST_AMQP"     // amqp:// URL of a RabbitMQ
	AvroEnv     = "PENSTOCK_TEST_AVRO"     // folder of Apache Avro's jars
)

// Kafka returns the seed brokers of an Apache Kafka as host:port, several
// separated by commas. All tests share the broker: take topic and group names
// from [Name].
func Kafka(t testing.TB) string {
	t.Helper()
	return address(t, KafkaEnv, "a real Kafka")
}

// NATS returns the nats:// URL of a nats-server with JetStream. All tests
// share the server: take stream names from [Name].
func NATS(t testing.TB) string {
	t.Helper()
	return address(t, NATSEnv, "a real nats-server")
}

// MQTT returns the host:port of a mosquitto that lets everybody in. All tests share
// it: take topics and client ids from [Name].
func MQTT(t testing.TB) string {
	t.Helper()
	return address(t, MQTTEnv, "a real mosquitto")
}

// AMQP returns the amqp:// URL of a RabbitMQ. All tests share it: take names of queues
// from [Name].
func AMQP(t testing.TB) string {
	t.Helper()
	return address(t, AMQPEnv, "a real RabbitMQ")
}

// Python returns a Python interpreter that has confluent-kafka with its registry
// client and serializers, and Pydantic.
func Python(t testing.TB) string {
	t.Helper()
	return filepath.Join(address(t, PythonEnv, "Confluent's Python client"), "bin", "python")
}

// Node returns a folder whose node_modules hold @confluentinc/schemaregistry and
// @kafkajs/confluent-schema-registry, for scripts that are run in it, and typescript.
func Node(t testing.TB) string {
	t.Helper()
	return address(t, NodeEnv, "the JavaScript registry clients")
}

// Avro returns the folder of the jars of Apache Avro for Java. Where it is set,
// java is on the PATH and runs a program from its source.
func Avro(t testing.TB) string {
	t.Helper()
	return address(t, AvroEnv, "Apache Avro for Java")
}

// Postgres returns the postgres:// URL of a fresh, empty database, which is
// dropped, with whatever connections are left to it, when t ends.
func Postgres(t testing.TB) string {
	t.Helper()
	server := address(t, PostgresEnv, "a real PostgreSQL")
	u, err := url.Parse(server)
	if err != nil {
		t.Fatalf("parse %s: %v", PostgresEnv, err)
	}
	name := "test_" + suffix()
	execute(t, server, "CREATE DATABASE "+name)
	t.Cleanup(func() { execute(t, server, "DROP DATABASE "+name+" WITH (FORCE)") })
	u.Path = "/" + name
	return u.String()
}

// Name returns a name that no other test and no other run uses: the test's own
// name in lower case, letters, digits and dashes only, and a random end. It
// fits a topic, a stream, a group and a transactional id.
func Name(t testing.TB) string {
	const longest = 60
	var b strings.Builder
	for _, r := range strings.ToLower(t.Name()) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		} else {
			b.WriteByte('-')
		}
	}
	name := b.String()
	return name[:min(len(name), longest)] + "-" + suffix()
}

func address(t testing.TB, env, what string) string {
	t.Helper()
	if a := os.Getenv(env); a != "" {
		return a
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not set, and CI skips nothing: run make check", env)
	}
	t.Skipf("needs %s (%s is not set): run make check", what, env)
	return ""
}

func execute(t testing.TB, server, sql string) {
	t.Helper()
	// t's own context has ended when a cleanup runs.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		t.Fatalf("connect to PostgreSQL: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("execute %q: %v", sql, err)
	}
}

func suffix() string {
	var b [6]byte
	rand.Read(b[:]) // never fails, by its documentation
	return hex.EncodeToString(b[:])
}
