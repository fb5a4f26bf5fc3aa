package kafka_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/registry/logs/kafka"
	"penstock/registry/registrytest"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/servertest"
)

// node is a registry with its server. What connects it to Kafka can be cut.
type node struct {
	t     *testing.T
	seeds []string
	topic string
	url   string

	log      *kafka.Log
	registry *registry.Registry
	server   *http.Server

	mu          sync.Mutex
	unreachable bool
	connections map[net.Conn]bool
}

func startNode(t *testing.T, seeds []string, topic string) *node {
	t.Helper()
	n := &node{t: t, seeds: seeds, topic: topic, connections: map[net.Conn]bool{}}
	n.start("127.0.0.1:0")
	t.Cleanup(func() { n.stop() })
	return n
}

func (n *node) start(listen string) {
	n.t.Helper()
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		n.t.Fatal(err)
	}
	n.url = "http://" + listener.Addr().String()
	n.log, err = kafka.Open(n.t.Context(), kafka.Options{Seeds: n.seeds, Topic: n.topic, URL: n.url, Logger: logger(n.t), Dial: n.dial})
	if err != nil {
		n.t.Fatal(err)
	}
	n.registry, err = registry.New(n.t.Context(), n.log, []schemas.Format{avro.Format{}}, compat.Checker{}, registry.Options{Logger: logger(n.t), WriteTimeout: 15 * time.Second})
	if err != nil {
		n.t.Fatal(err)
	}
	n.server = &http.Server{Handler: registry.Handler(n.registry, registry.HandlerOptions{}), ReadHeaderTimeout: time.Minute}
	go func() { _ = n.server.Serve(listener) }() // until stop
}

func (n *node) stop() {
	n.t.Helper()
	n.server.Close()
	n.registry.Close()
	if err := n.log.Close(); err != nil {
		n.t.Error(err)
	}
}

// restart stops the node as SIGTERM does, and starts it again where it was.
func (n *node) restart() {
	n.t.Helper()
	n.stop()
	n.start(strings.TrimPrefix(n.url, "http://"))
}

func (n *node) dial(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.unreachable {
		return nil, errors.New("no route to Kafka")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err == nil {
		n.connections[c] = true
	}
	return c, err
}

// cut cuts all connections to Kafka, and if so told, lets none come about.
func (n *node) cut(unreachable bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unreachable = unreachable
	for c := range n.connections {
		c.Close()
	}
	clear(n.connections)
}

// writes asks a node whether it is the writer.
func (n *node) writes(ctx context.Context) bool {
	_, err := n.log.Append(ctx, 1<<40, registry.Event{Key: []byte("never")})
	return errors.Is(err, registry.ErrConflict)
}

// writer returns the node that writes, once there is one.
func writer(t *testing.T, ctx context.Context, nodes []*node) *node {
	t.Helper()
	for ctx.Err() == nil {
		for _, n := range nodes {
			if n.writes(ctx) {
				return n
			}
		}
	}
	t.Fatal("there is no writer")
	return nil
}

func TestHistory(t *testing.T) {
	cluster := fakeCluster(t, kfake.NumBrokers(1))
	history(t, cluster.ListenAddrs())
}

func TestHistoryOnKafka(t *testing.T) {
	history(t, strings.Split(servertest.Kafka(t), ","))
}

// history lets clients work on three nodes while the nodes lose their
// connections, are restarted, and the writer is cut off for longer than its
// session lasts.
func history(t *testing.T, seeds []string) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	topic := servertest.Name(t)
	var nodes []*node
	var urls []string
	for range 3 {
		n := startNode(t, seeds, topic)
		nodes, urls = append(nodes, n), append(urls, n.url)
	}
	h := registrytest.NewHistory(urls...)
	working, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { h.Run(working, 4) })
	defer func() {
		stop()
		work.Wait()
	}()
	await := func(what string) {
		t.Helper()
		began := time.Now()
		if err := h.Await(ctx, 20); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		t.Logf("%s: writes go on after %s", what, time.Since(began).Round(10*time.Millisecond))
	}
	await("at first")
	for range 3 {
		for _, n := range nodes {
			n.cut(false)
		}
		await("connections cut")
	}
	first := writer(t, ctx, nodes)
	first.cut(true)
	var second *node
	for second == nil || second == first {
		second = writer(t, ctx, nodes)
	}
	await("the writer cut off")
	first.cut(false)
	await("the first writer back")
	second.restart()
	await("the second writer restarted")
	stop()
	work.Wait()
	h.Check(t)
}
