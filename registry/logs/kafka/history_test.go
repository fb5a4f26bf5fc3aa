package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"penstock/registry"
	"penstock/registry/logs/kafka"
	"penstock/registry/registrytest"
	"penstock/servertest"
)

// startNodes starts three nodes over one topic.
func startNodes(t *testing.T, seeds []string, topic string) (nodes []*registrytest.Node, urls []string) {
	t.Helper()
	for range 3 {
		n := registrytest.StartNode(t, func(n *registrytest.Node) (registry.Log, func() error, error) {
			l, err := kafka.Open(t.Context(), kafka.Options{Seeds: seeds, Topic: topic, URL: n.URL, Logger: logger(t), Dial: n.Dial})
			if err != nil {
				return nil, nil, err
			}
			return l, l.Close, nil
		})
		nodes, urls = append(nodes, n), append(urls, n.URL)
	}
	return nodes, urls
}

// writer returns the node that writes, once there is one.
func writer(t *testing.T, ctx context.Context, nodes []*registrytest.Node) *registrytest.Node {
	t.Helper()
	for ctx.Err() == nil {
		for _, n := range nodes {
			_, err := n.Log.Append(ctx, 1<<40, registry.Event{Key: []byte("never")})
			if errors.Is(err, registry.ErrConflict) { // only the writer knows where the log ends
				return n
			}
		}
	}
	t.Fatal("there is no writer")
	return nil
}

func TestHistory(t *testing.T) {
	history(t, fakeCluster(t, kfake.NumBrokers(1)).ListenAddrs())
}

func TestHistoryOnKafka(t *testing.T) {
	history(t, strings.Split(servertest.Kafka(t), ","))
}

// history lets clients work on three nodes while the nodes lose their
// connections, are restarted, and the writer is cut off for longer than its
// session lasts.
func history(t *testing.T, seeds []string) {
	nodes, urls := startNodes(t, seeds, servertest.Name(t))
	registrytest.Endure(t, urls, 4, func(ctx context.Context, await func(string)) {
		for range 3 {
			for _, n := range nodes {
				n.Cut()
			}
			await("connections cut")
		}
		first := writer(t, ctx, nodes)
		first.Unplug()
		var second *registrytest.Node
		for second == nil || second == first {
			second = writer(t, ctx, nodes)
		}
		await("the writer cut off")
		first.Plug()
		await("the first writer back")
		second.Restart()
		await("the second writer restarted")
	})
}

// TestHistoryLeaderMoves lets clients work on three nodes over three brokers while
// the topic's leader moves from one to the next.
func TestHistoryLeaderMoves(t *testing.T) {
	cluster := fakeCluster(t, kfake.NumBrokers(3))
	_, urls := startNodes(t, cluster.ListenAddrs(), kafka.DefaultTopic)
	registrytest.Endure(t, urls, 4, func(_ context.Context, await func(string)) {
		for i := range int32(6) {
			if err := cluster.MoveTopicPartition(kafka.DefaultTopic, 0, i%3); err != nil {
				t.Fatal(err)
			}
			await(fmt.Sprint("led by broker ", i%3))
		}
	})
}
