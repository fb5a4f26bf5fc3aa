package registrytest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/schemas"
	"penstock/schemas/avro"
)

// Cable is what connects a node to the servers that keep its log. A test cuts
// it. Its methods may be called concurrently.
type Cable struct {
	mu        sync.Mutex
	unplugged bool
	open      map[net.Conn]bool
}

// Dial opens a connection that Cut and Unplug close.
func (c *Cable) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unplugged {
		return nil, errors.New("the cable is unplugged")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err == nil {
		if c.open == nil {
			c.open = map[net.Conn]bool{}
		}
		c.open[conn] = true
	}
	return conn, err
}

// Cut closes all connections. Others may be opened at once.
func (c *Cable) Cut() { c.set(false) }

// Unplug closes all connections, and lets none come about until Plug.
func (c *Cable) Unplug() { c.set(true) }

// Plug is the end of Unplug.
func (c *Cable) Plug() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unplugged = false
}

func (c *Cable) set(unplugged bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unplugged = unplugged
	for conn := range c.open {
		conn.Close()
	}
	clear(c.open)
}

// Node is a registry of Avro with its server, over a log of its own, in this
// process.
type Node struct {
	Cable
	// URL is where the registry is served, from before its log is opened.
	URL string
	// Log is what open has returned last.
	Log registry.Log

	t        *testing.T
	open     func(n *Node) (registry.Log, func() error, error)
	close    func() error
	registry *registry.Registry
	server   *http.Server
	ended    chan struct{}
}

// StartNode starts a node, which ends with the test. open opens its log, whose
// connections go through the node's cable, and returns how to close it.
func StartNode(t *testing.T, open func(n *Node) (registry.Log, func() error, error)) *Node {
	t.Helper()
	n := &Node{t: t, open: open}
	n.start("127.0.0.1:0")
	t.Cleanup(n.stop)
	return n
}

func (n *Node) start(address string) {
	n.t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		n.t.Fatal(err)
	}
	n.URL = "http://" + listener.Addr().String()
	if n.Log, n.close, err = n.open(n); err != nil {
		n.t.Fatal(err)
	}
	n.registry, err = registry.New(n.t.Context(), n.Log, []schemas.Format{avro.Format{}}, compat.Checker{}, registry.Options{
		Logger: slog.New(slog.NewTextHandler(n.t.Output(), nil)), WriteTimeout: 15 * time.Second,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.server = &http.Server{Handler: registry.Handler(n.registry, registry.HandlerOptions{}), ReadHeaderTimeout: time.Minute}
	n.ended = make(chan struct{})
	go func() {
		defer close(n.ended)
		_ = n.server.Serve(listener) // until stop
	}()
}

func (n *Node) stop() {
	n.t.Helper()
	n.server.Close()
	<-n.ended
	n.registry.Close()
	if err := n.close(); err != nil {
		n.t.Error(err)
	}
}

// Restart stops the node, with requests on their way cut off, and starts it
// again where it was.
func (n *Node) Restart() {
	n.t.Helper()
	n.stop()
	n.start(strings.TrimPrefix(n.URL, "http://"))
}

// Endure lets clients work on nodes while faults are made, and then checks what
// they have seen. After each fault make calls await, which returns when writes go
// on, and logs how long that took.
func Endure(t *testing.T, nodes []string, clients int, make func(ctx context.Context, await func(after string))) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	h := NewHistory(nodes...)
	working, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { h.Run(working, clients) })
	defer func() {
		stop()
		work.Wait()
	}()
	const writes = 20
	await := func(after string) {
		t.Helper()
		began := time.Now()
		if err := h.Await(ctx, writes); err != nil {
			t.Fatalf("%s: %v", after, err)
		}
		t.Logf("%s: %d writes more after %s", after, writes, time.Since(began).Round(10*time.Millisecond))
	}
	await("at first")
	make(ctx, await)
	stop()
	work.Wait()
	h.Check(t)
}
