//go:build unix

package main

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/registry/registrytest"
	"penstock/servertest"
)

// registryNode is a process that serves a registry kept in Kafka.
type registryNode struct {
	t     *testing.T
	addr  string
	store string
	cmd   *exec.Cmd
}

func (n *registryNode) start() {
	n.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	n.cmd = exec.CommandContext(n.t.Context(), exe)
	n.cmd.Args = []string{"penstock", "registry", "--listen", n.addr, "--store", n.store} // testscript.Main looks at the name
	n.cmd.Stderr = n.t.Output()
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
}

func (n *registryNode) signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.t.Fatal(err)
	}
}

// TestRegistryCluster lets clients work on three nodes over Kafka while the one
// that writes is killed, and put to sleep for so long that another one takes its
// place.
func TestRegistryCluster(t *testing.T) {
	seeds := servertest.Kafka(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	topic := servertest.Name(t)
	nodes := map[string]*registryNode{} // by URL
	var urls []string
	for range 3 {
		n := &registryNode{t: t, addr: freeAddr(t), store: "kafka://" + seeds + "/" + topic}
		n.start()
		t.Cleanup(func() {
			_ = n.cmd.Process.Kill() // it may have ended
			_ = n.cmd.Wait()         // by the signal
		})
		nodes["http://"+n.addr] = n
		urls = append(urls, "http://"+n.addr)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(seeds, ",")...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
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
	h := registrytest.NewHistory(urls...)
	working, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { h.Run(working, 5) })
	defer func() {
		stop()
		work.Wait()
	}()
	await := func(what string) {
		t.Helper()
		if err := h.Await(ctx, 30); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	await("at first")

	killed := writer("")
	began := time.Now()
	nodes[killed].signal(syscall.SIGKILL)
	_ = nodes[killed].cmd.Wait() // by the signal
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
	nodes[again].signal(syscall.SIGKILL)
	_ = nodes[again].cmd.Wait() // by the signal
	nodes[again].start()
	await("the writer killed and back")

	stop()
	work.Wait()
	h.Check(t)
}
