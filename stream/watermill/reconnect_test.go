package watermill

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
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
	dir, ports := t.TempDir(), freePorts(t)
	var server *natsserver.Server
	start := func() {
		var err error
		server, err = natsserver.NewServer(&natsserver.Options{
			Host: "127.0.0.1", Port: ports[0], JetStream: true, StoreDir: dir, SyncAlways: true, NoSigs: true, NoLog: true,
		})
		if err != nil {
			t.Error(err)
			return
		}
		server.Start()
		if !server.ReadyForConnections(time.Minute) {
			t.Error("the server is not ready after a minute")
		}
	}
	stop := func() {
		server.Shutdown()
		server.WaitForShutdown()
	}
	start()
	t.Cleanup(func() { stop() })
	b, err := nats.Open(t.Context(), nats.Config{URL: server.ClientURL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	reconnect(t, b, func() { stop(); start() })
}

func freePorts(t *testing.T) []int {
	t.Helper()
	ports, err := servertest.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return ports
}

// The same on Kafka's protocol.
func TestReconnectOnKfake(t *testing.T) {
	dir, ports := t.TempDir(), freePorts(t)
	var cluster *kfake.Cluster
	start := func() {
		var err error
		cluster, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(ports...), kfake.DataDir(dir), kfake.SyncWrites(), kfake.GroupMinSessionTimeout(100*time.Millisecond))
		if err != nil {
			t.Error(err)
		}
	}
	start()
	t.Cleanup(func() { cluster.Close() })
	b, err := kafka.Open(t.Context(), kafka.Config{Seeds: cluster.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	reconnect(t, b, func() { cluster.Close(); start() })
}

// reconnect does what Watermill's TestReconnect does. That one reads what its
// publishers write without waiting for them, and so now and then misses a
// message whose answer came after the message itself.
func reconnect(t *testing.T, b stream.Broker, restart func()) {
	const publishers = 100
	count := 10000
	if short(servertest.NATSEnv) {
		count = 1000
	}
	pub, sub := pubSub(t, b, servertest.Name(t))
	topic := servertest.Name(t)
	if err := sub.SubscribeInitialize(topic); err != nil {
		t.Fatal(err)
	}
	messages, err := sub.Subscribe(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}

	ids, restarts := make(chan string), make(chan struct{}, 2)
	var work sync.WaitGroup
	work.Go(func() {
		for range restarts {
			restart()
		}
	})
	work.Go(func() {
		defer close(ids)
		defer close(restarts)
		for i := range count {
			ids <- strconv.Itoa(i)
			if i == count/3 || i == count/2 {
				restarts <- struct{}{}
			}
		}
	})
	for range publishers {
		work.Go(func() {
			for id := range ids {
				for pub.Publish(topic, message.NewMessage(id, []byte("x"))) != nil {
					if t.Context().Err() != nil {
						return
					}
				}
			}
		})
	}

	received := map[string]bool{}
	for len(received) < count {
		select {
		case m := <-messages:
			received[m.UUID] = true
			m.Ack()
		case <-time.After(time.Minute):
			t.Fatalf("received %d of %d messages, and none for a minute", len(received), count)
		}
	}
	work.Wait()
}
