package jetstream

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"penstock/registry"
	"penstock/registry/registrytest"
	"penstock/servertest"
)

// startNodes starts nodes over one stream.
func startNodes(t *testing.T, n int, c Config) (nodes []*registrytest.Node, urls []string) {
	t.Helper()
	for range n {
		n := registrytest.StartNode(t, func(n *registrytest.Node) (registry.Log, func() error, error) {
			c := c
			c.Dial, c.Logger = n.Dial, slog.New(slog.NewTextHandler(t.Output(), nil))
			l, err := Open(t.Context(), c)
			if err != nil {
				return nil, nil, err
			}
			return l, l.Close, nil
		})
		nodes, urls = append(nodes, n), append(urls, n.URL)
	}
	return nodes, urls
}

// TestHistory lets clients work on one node, and on three, while the nodes lose
// their connections and are restarted, and the server is restarted.
func TestHistory(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			dir, port := t.TempDir(), freePort(t)
			s := startServer(t, dir, port)
			nodes, urls := startNodes(t, n, Config{URL: s.ClientURL()})
			registrytest.Endure(t, urls, 4, func(_ context.Context, await func(string)) {
				for range 3 {
					for _, n := range nodes {
						n.Cut()
					}
					await("connections cut")
				}
				if n > 1 {
					nodes[0].Unplug()
					await("a node cut off")
					nodes[0].Plug()
					await("the node back")
				}
				nodes[n-1].Restart()
				await("a node restarted")
				stopServer(s)
				s = startServer(t, dir, port)
				await("the server restarted")
			})
		})
	}
}

// natsCluster is three servers with JetStream.
type natsCluster struct {
	t       *testing.T
	options []*natsserver.Options
	servers []*natsserver.Server
}

func startCluster(t *testing.T) *natsCluster {
	t.Helper()
	c := &natsCluster{t: t}
	ports, err := servertest.FreePorts(6)
	if err != nil {
		t.Fatal(err)
	}
	var routes []string
	for i := range 3 {
		client, cluster := ports[i], ports[3+i]
		c.options = append(c.options, &natsserver.Options{
			ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: client, JetStream: true, StoreDir: t.TempDir(),
			Cluster: natsserver.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: cluster},
			NoSigs:  true, NoLog: true,
		})
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", cluster))
	}
	for _, o := range c.options {
		o.Routes = natsserver.RoutesFromStr(strings.Join(routes, ","))
	}
	c.servers = make([]*natsserver.Server, len(c.options))
	for i := range c.servers {
		c.start(i)
	}
	t.Cleanup(func() {
		for _, s := range c.servers {
			stopServer(s)
		}
	})
	return c
}

func (c *natsCluster) start(i int) {
	c.t.Helper()
	s, err := natsserver.NewServer(c.options[i].Clone())
	if err != nil {
		c.t.Fatal(err)
	}
	s.Start()
	c.servers[i] = s
}

func (c *natsCluster) url() string {
	var urls []string
	for _, o := range c.options {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", o.Port))
	}
	return strings.Join(urls, ",")
}

// stream asks for the stream until it has a leader.
func (c *natsCluster) stream(ctx context.Context, js jetstream.JetStream, name string) *jetstream.ClusterInfo {
	c.t.Helper()
	for tick := time.Tick(50 * time.Millisecond); ; {
		s, err := js.Stream(ctx, name)
		if err == nil && s.CachedInfo().Cluster != nil && s.CachedInfo().Cluster.Leader != "" {
			return s.CachedInfo().Cluster
		}
		select {
		case <-tick:
		case <-ctx.Done():
			c.t.Fatalf("the stream has no leader: %v", err)
		}
	}
}

// TestHistoryOnCluster lets clients work on three nodes over three servers while
// the server that leads the stream steps down, again and again, is stopped, and
// comes back.
func TestHistoryOnCluster(t *testing.T) {
	c := startCluster(t)
	nc, err := nats.Connect(c.url(), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for tick := time.Tick(50 * time.Millisecond); ; { // the servers find each other
		if _, err := js.AccountInfo(t.Context()); err == nil {
			break
		}
		select {
		case <-tick:
		case <-t.Context().Done():
			t.Fatal("the servers form no cluster")
		}
	}
	nodes, urls := startNodes(t, 3, Config{URL: c.url(), Replicas: 3})
	if kept := 1 + len(c.stream(t.Context(), js, DefaultStream).Replicas); kept != 3 {
		t.Fatalf("%d servers keep the stream, want 3", kept)
	}
	registrytest.Endure(t, urls, 4, func(ctx context.Context, await func(string)) {
		for range 3 {
			before := c.stream(ctx, js, DefaultStream).Leader
			if _, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+DefaultStream, nil); err != nil {
				t.Fatal(err)
			}
			await(before + " stepped down")
		}
		for _, n := range nodes {
			n.Cut()
		}
		await("connections cut")
		leader := c.stream(ctx, js, DefaultStream).Leader
		for i, o := range c.options {
			if o.ServerName == leader {
				stopServer(c.servers[i])
				await("the leader " + leader + " stopped")
				c.start(i)
				await("it is back")
			}
		}
		nodes[0].Restart()
		await("a node restarted")
	})
}
