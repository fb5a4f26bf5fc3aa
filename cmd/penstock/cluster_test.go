//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/registry/registrytest"
	"penstock/servertest"
)

// process is a program that a test kills and puts to sleep.
type process struct {
	t    *testing.T
	args []string
	cmd  *exec.Cmd
}

// startProcess starts one of the programs of TestMain. It ends with the test.
func startProcess(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, args: args}
	p.start()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		_ = p.cmd.Wait()         // by the signal
	})
	return p
}

func (p *process) start() {
	p.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.CommandContext(p.t.Context(), exe)
	p.cmd.Args = p.args // testscript.Main looks at the name
	p.cmd.Stderr = p.t.Output()
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// kill is kill -9. It returns when the process is no more.
func (p *process) kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	_ = p.cmd.Wait() // by the signal
}

// startRegistries starts nodes of one registry, by URL.
func startRegistries(t *testing.T, n int, store string) (nodes map[string]*process, urls []string) {
	t.Helper()
	nodes = map[string]*process{}
	for range n {
		addr := freeAddr(t)
		nodes["http://"+addr] = startProcess(t, "penstock", "registry", "--listen", addr, "--store", store)
		urls = append(urls, "http://"+addr)
	}
	return nodes, urls
}

// TestRegistryOnFile kills the one process of a registry again and again, and
// puts it to sleep.
func TestRegistryOnFile(t *testing.T) {
	nodes, urls := startRegistries(t, 1, "file:"+t.TempDir())
	node := nodes[urls[0]]
	registrytest.Endure(t, urls, 5, func(_ context.Context, await func(string)) {
		for range 5 {
			node.kill()
			node.start()
			await("killed")
		}
		node.signal(syscall.SIGSTOP)
		pause(300 * time.Millisecond)
		node.signal(syscall.SIGCONT)
		await("asleep for a while")
	})
}

// TestRegistryCluster lets clients work on three nodes over Kafka while the one
// that writes is killed, and put to sleep for so long that another one takes its
// place.
func TestRegistryCluster(t *testing.T) {
	seeds := servertest.Kafka(t)
	topic := servertest.Name(t)
	nodes, urls := startRegistries(t, 3, "kafka://"+seeds+"/"+topic)
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(seeds, ",")...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	registrytest.Endure(t, urls, 5, func(ctx context.Context, await func(string)) {
		// writer is the URL of the node that writes, and not the one given.
		writer := func(but string) string {
			t.Helper()
			for tick := time.Tick(20 * time.Millisecond); ; {
				groups, err := kadm.NewClient(client).DescribeGroups(ctx, "penstock-registry."+topic)
				if err == nil {
					for _, m := range groups.Sorted()[0].Members {
						if a, ok := m.Assigned.AsConsumer(); ok && len(a.Topics) > 0 && m.InstanceID != nil && *m.InstanceID != but {
							return *m.InstanceID
						}
					}
				}
				select {
				case <-tick:
				case <-ctx.Done():
					t.Fatalf("there is no writer: %v", err)
				}
			}
		}
		killed := writer("")
		began := time.Now()
		nodes[killed].kill()
		t.Logf("killed the writer %s: another one %s was elected after %s", killed, writer(killed), time.Since(began).Round(10*time.Millisecond))
		await("the writer killed")
		nodes[killed].start()
		await("a node back")

		asleep := writer("")
		began = time.Now()
		nodes[asleep].signal(syscall.SIGSTOP)
		t.Logf("put the writer %s to sleep: another one %s was elected after %s", asleep, writer(asleep), time.Since(began).Round(10*time.Millisecond))
		await("the writer asleep")
		nodes[asleep].signal(syscall.SIGCONT)
		await("the first writer awake")

		again := writer("") // and at once back, before its session ends
		nodes[again].kill()
		nodes[again].start()
		await("the writer killed and back")
	})
}

// startNATSCluster starts three servers, by name.
func startNATSCluster(t *testing.T) (servers map[string]*process, url string) {
	t.Helper()
	var clients, routes []string
	for range 3 {
		clients = append(clients, freeAddr(t))
		routes = append(routes, "nats://"+freeAddr(t))
	}
	servers = map[string]*process{}
	for i := range clients {
		dir := t.TempDir()
		config := filepath.Join(dir, "nats.conf")
		var b bytes.Buffer
		fmt.Fprintf(&b, "server_name: n%d\nlisten: %q\njetstream { store_dir: %q, sync_interval: always }\n", i, clients[i], dir)
		fmt.Fprintf(&b, "cluster { name: c, listen: %q, routes: [%s] }\n", strings.TrimPrefix(routes[i], "nats://"), strings.Join(routes, ", "))
		if err := os.WriteFile(config, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		servers[fmt.Sprint("n", i)] = startProcess(t, "nats-server", config)
	}
	return servers, "nats://" + strings.Join(clients, ",")
}

// TestRegistryOnNATS lets clients work on three nodes over three servers, of
// which the one that leads the stream is killed, and put to sleep until another
// one leads, and so are nodes.
func TestRegistryOnNATS(t *testing.T) {
	servers, url := startNATSCluster(t)
	nc, err := nats.Connect(strings.ReplaceAll(url, ",", ",nats://"), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(50*time.Millisecond), nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	// leader is the server that leads the stream, and not the one given.
	leader := func(ctx context.Context, but string) string {
		t.Helper()
		for tick := time.Tick(50 * time.Millisecond); ; {
			asking, cancel := context.WithTimeout(ctx, time.Second) // a server that sleeps does not answer
			s, err := js.Stream(asking, "_schemas")
			cancel()
			if err == nil && s.CachedInfo().Cluster != nil {
				if name := s.CachedInfo().Cluster.Leader; name != "" && name != but {
					return name
				}
			}
			select {
			case <-tick:
			case <-ctx.Done():
				t.Fatalf("the stream has no leader: %v", err)
			}
		}
	}
	for tick := time.Tick(50 * time.Millisecond); ; { // the servers find each other
		if _, err := js.AccountInfo(t.Context()); err == nil {
			break
		}
		<-tick
	}
	nodes, urls := startRegistries(t, 3, url+"?replicas=3")
	registrytest.Endure(t, urls, 5, func(ctx context.Context, await func(string)) {
		killed := leader(ctx, "")
		servers[killed].kill()
		await("the leader " + killed + " killed")
		servers[killed].start()
		await("it is back")

		asleep := leader(ctx, "")
		servers[asleep].signal(syscall.SIGSTOP)
		leader(ctx, asleep)
		await("the leader " + asleep + " asleep")
		servers[asleep].signal(syscall.SIGCONT)
		await("it is awake")

		nodes[urls[0]].kill()
		await("a node killed")
		nodes[urls[0]].start()
		nodes[urls[1]].signal(syscall.SIGSTOP)
		pause(300 * time.Millisecond)
		nodes[urls[1]].signal(syscall.SIGCONT)
		await("a node asleep for a while")
	})
}
