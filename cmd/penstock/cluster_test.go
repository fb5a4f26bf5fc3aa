//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
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
	"github.com/twmb/franz-go/pkg/kfake"
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
	addresses := freeAddrs(t, 6)
	clients := addresses[:3]
	var routes []string
	for _, a := range addresses[3:] {
		routes = append(routes, "nats://"+a)
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
	deadline := time.After(2 * time.Minute)
	for tick := time.Tick(50 * time.Millisecond); ; { // the servers find each other
		_, err := js.AccountInfo(t.Context())
		if err == nil {
			break
		}
		select {
		case <-tick:
		case <-deadline:
			t.Fatalf("the servers at %s are no cluster: %v", url, err)
		}
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

// TestForwardedIdentity writes to both nodes of a registry over Kafka with the
// certificates of two users. Whichever node takes the writes knows who they are
// from, and believes nobody but the other node who says for whom they ask.
func TestForwardedIdentity(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	dir := t.TempDir()
	put := func(name string, text []byte) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	pool := x509.NewCertPool()
	clients := map[string]*http.Client{}
	var authorities []byte
	for _, name := range []string{"node", "alice", "mallory"} {
		cert, key, err := newCertificate(name)
		if err != nil {
			t.Fatal(err)
		}
		put(name+".pem", cert)
		put(name+".key", key)
		authorities = append(authorities, cert...)
		pool.AppendCertsFromPEM(cert)
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}}
		t.Cleanup(transport.CloseIdleConnections)
		clients[name] = &http.Client{Transport: transport, Timeout: 20 * time.Second}
	}
	common := []string{
		"--store", "kafka://" + strings.Join(cluster.ListenAddrs(), ","),
		"--tls-cert", filepath.Join(dir, "node.pem"), "--tls-key", filepath.Join(dir, "node.key"),
		"--tls-client-ca", put("clients.pem", authorities), "--peers", "node",
		"--permissions", put("permissions.yaml", []byte("rules:\n- {allow: [read, write], to: [alice], on: ['*']}\n- {allow: [read], to: [mallory], on: ['*']}\n")),
	}
	var urls, audits []string
	for i := range 2 {
		addr, audit := freeAddr(t), filepath.Join(dir, fmt.Sprint("audit", i))
		startProcess(t, append([]string{"penstock", "registry", "--listen", addr, "--audit-log", audit}, common...)...)
		urls, audits = append(urls, "https://"+addr), append(audits, audit)
	}
	ask := func(name, method, url, body, behalf string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if behalf != "" {
			req.Header.Set("Penstock-On-Behalf", base64.StdEncoding.EncodeToString([]byte(behalf)))
		}
		resp, err := clients[name].Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, err.Error()
		}
		return resp.StatusCode, string(answer)
	}
	deadline := time.After(2 * time.Minute)
	for i, url := range urls {
		for tick := time.Tick(20 * time.Millisecond); ; {
			code, answer := ask("alice", http.MethodGet, url+"/livez", "", "")
			if code == http.StatusOK {
				break
			}
			select {
			case <-tick:
			case <-deadline:
				t.Fatalf("the node at %s does not answer: %d %s", url, code, answer)
			}
		}
		path := fmt.Sprintf("%s/subjects/s%d/versions", url, i)
		if code, answer := ask("alice", http.MethodPost, path, `{"schema":"\"int\""}`, ""); code != http.StatusOK {
			t.Errorf("alice writes at node %d: %d %s", i, code, answer)
		}
		if code, answer := ask("mallory", http.MethodPost, path, `{"schema":"\"long\""}`, `{"Name":"alice"}`); code != http.StatusForbidden {
			t.Errorf("mallory writes at node %d as if for alice: %d %s", i, code, answer)
		}
	}
	// Both nodes have seen a write, and the one that takes them has seen both.
	writes := 0
	for _, audit := range audits {
		text, err := os.ReadFile(audit)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, `"outcome":"allowed"`) {
				writes++
				if !strings.Contains(line, `"principal":"alice"`) {
					t.Errorf("the write is not alice's: %s", line)
				}
			}
		}
	}
	if writes != 3 {
		t.Errorf("the audit logs tell of %d writes, want 3: one at the node that takes them, and one at each", writes)
	}
}
