package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestKillAtomic kills a producer of a file, with SIGKILL, when it has written all
// events and before the broker has been told to commit. Nobody ever reads any of them,
// and once the coordinator has ended what was left open, the same file is there once.
func TestKillAtomic(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	broker := []string{"--broker", "kafka://" + cluster.ListenAddrs()[0]}
	c := &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t)}
	for name, content := range map[string]string{
		"events.jsonl": "{\"id\":\"a\"}\n{\"id\":\"b\"}\n{\"id\":\"c\"}\n",
		"event.avsc":   `{"type":"record","name":"Event","fields":[{"name":"id","type":"string"}]}`,
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	registry := c.start("registry", "--listen", c.listen, "--store", "memory:")
	c.listening(c.listen)

	run := append([]string{"produce", "events", "events.jsonl", "--schema", "event.avsc", "--key", "id", "--atomic"}, broker...)
	reached, killed := make(chan string, 1), make(chan struct{})
	cluster.ControlKey(int16(kmsg.EndTxn), func(req kmsg.Request) (kmsg.Response, error, bool) {
		reached <- req.(*kmsg.EndTxnRequest).TransactionalID
		<-killed
		return nil, errors.New("it never came"), true
	})
	producer, ended := c.start(run...), make(chan struct{})
	go func() {
		defer close(ended)
		_ = producer.Wait() // it is killed
	}()
	var id string
	select {
	case id = <-reached:
	case <-ended:
		t.Fatal("it ended without a commit")
	}
	if err := producer.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	close(killed)
	if got := c.tail("events", broker); len(got) > 0 {
		t.Errorf("read %v, want nothing of what was not committed", got)
	}

	// What the coordinator does once the time of a transaction is over.
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.TransactionalID(id))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, _, err := client.ProducerID(ctx); err != nil {
		t.Fatal(err)
	}
	c.done(run...)
	got := c.tail("events", broker)
	for _, id := range []string{"a", "b", "c"} {
		if got[id] != 1 || len(got) != 3 {
			t.Fatalf("the topic holds %v, want a, b and c once each", got)
		}
	}
	kill(t, registry)
}
