//go:build unix && !race

// Watermill's TestReconnect itself reads what its goroutines write, so that it
// cannot run under the race detector.

package watermill

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/twmb/franz-go/pkg/kfake"

	"penstock/servertest"
	"penstock/stream"
	"penstock/stream/kafka"
	"penstock/stream/nats"
)

// A JetStream server that restarts twice, while 100 publishers and a subscriber
// are at work, loses nothing.
func TestReconnectOnJetStream(t *testing.T) {
	dir, port := t.TempDir(), natsserver.RANDOM_PORT
	var server *natsserver.Server
	start := func() {
		var err error
		server, err = natsserver.NewServer(&natsserver.Options{
			Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, SyncAlways: true, NoSigs: true, NoLog: true,
		})
		if err != nil {
			t.Error(err)
			return
		}
		server.Start()
		if !server.ReadyForConnections(10 * time.Second) {
			t.Error("the server is not ready after ten seconds")
		}
	}
	stop := func() {
		server.Shutdown()
		server.WaitForShutdown()
	}
	start()
	port = server.Addr().(*net.TCPAddr).Port
	t.Cleanup(func() { stop() })
	b, err := nats.Open(t.Context(), nats.Config{URL: server.ClientURL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	reconnect(t, b, func() { stop(); start() })
}

// The same on Kafka's protocol.
func TestReconnectOnKfake(t *testing.T) {
	dir, ports := t.TempDir(), []int{0}
	var cluster *kfake.Cluster
	start := func() {
		var err error
		cluster, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(ports...), kfake.DataDir(dir), kfake.SyncWrites(), kfake.GroupMinSessionTimeout(100*time.Millisecond))
		if err != nil {
			t.Error(err)
		}
	}
	start()
	seeds := cluster.ListenAddrs()
	address, err := net.ResolveTCPAddr("tcp", seeds[0])
	if err != nil {
		t.Fatal(err)
	}
	ports[0] = address.Port
	t.Cleanup(func() { cluster.Close() })
	b, err := kafka.Open(t.Context(), kafka.Config{Seeds: seeds})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	reconnect(t, b, func() { cluster.Close(); start() })
}

// reconnect runs Watermill's test of restarts.
func reconnect(t *testing.T, b stream.Broker, restart func()) {
	if short(servertest.NATSEnv) {
		t.Skip("takes half a minute; make check runs it")
	}
	f := ordered
	f.RestartServiceCommand = restartCommand(t, restart)
	id := tests.NewTestID()
	tests.TestReconnect(t, tests.TestContext{TestID: id, Features: f}, func(t *testing.T) (message.Publisher, message.Subscriber) {
		return pubSub(t, b, "group-"+string(id))
	})
}

// restartCommand is a command line that has restart called in this process, and
// ends after it: the suite restarts servers by a command.
func restartCommand(t *testing.T, restart func()) []string {
	dir := t.TempDir()
	ask, done := filepath.Join(dir, "ask"), filepath.Join(dir, "done")
	for _, name := range []string{ask, done} {
		if err := syscall.Mkfifo(name, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	requests, err := os.OpenFile(ask, os.O_RDWR, 0) // open for both, so that neither end waits for the other
	if err != nil {
		t.Fatal(err)
	}
	answers, err := os.OpenFile(done, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		line := make([]byte, 1)
		for {
			if _, err := requests.Read(line); err != nil {
				return
			}
			restart()
			if _, err := answers.Write([]byte("\n")); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		requests.Close()
		<-ended
		answers.Close()
	})
	return []string{"sh", "-c", "printf x > '" + ask + "'; read answer < '" + done + "'"}
}
