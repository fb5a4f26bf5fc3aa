package kafka_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"penstock/registry"
	"penstock/registry/logs/kafka"
	"penstock/registry/registrytest"
	"penstock/servertest"
)

// fakeCluster starts a broker in this process.
func fakeCluster(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{
		kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster
}

// home is a topic, and the nodes that open it.
func home(t *testing.T, seeds []string) registrytest.Home {
	topic, nodes := servertest.Name(t), 0
	return registrytest.Home{
		Shared: true, OneWriter: true,
		Open: func(t *testing.T) (registry.Log, func() error) {
			nodes++
			log := open(t, seeds, topic, nodes)
			return log, log.Close
		},
	}
}

func open(t *testing.T, seeds []string, topic string, node int) *kafka.Log {
	t.Helper()
	log, err := kafka.Open(t.Context(), kafka.Options{
		Seeds: seeds, Topic: topic, URL: fmt.Sprintf("http://127.0.0.1:%d", 8000+node),
		Logger: logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// logger writes to the test's output.
func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func TestSuite(t *testing.T) {
	registrytest.TestLog(t, func(t *testing.T) registrytest.Home {
		return home(t, fakeCluster(t).ListenAddrs())
	})
}

func TestSuiteOnKafka(t *testing.T) {
	seeds := strings.Split(servertest.Kafka(t), ",")
	registrytest.TestLog(t, func(t *testing.T) registrytest.Home { return home(t, seeds) })
}

var _ = errors.New
