package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"penstock/consumers"
	"penstock/consumers/microbatch"
	"penstock/stream"
	"penstock/stream/nats"
)

// The test binary, run again as a process to kill.
const (
	posterEnv = "PENSTOCK_TEST_WEBHOOK_DIR"
	urlEnv    = "PENSTOCK_TEST_WEBHOOK_URL"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(posterEnv); dir != "" {
		fmt.Fprintln(os.Stderr, poster(context.Background(), dir, os.Getenv(urlEnv)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const (
	killTotal = 40 // records, in
	killBatch = 10 // requests of so many
)

// openLog opens the folder of the log that is posted; the first to do so serves it.
func openLog(ctx context.Context, dir string) (*nats.Broker, error) {
	return nats.OpenDir(ctx, dir, nats.Options{Failover: time.Second})
}

// poster posts the log until it is killed.
func poster(ctx context.Context, dir, url string) error {
	broker, err := openLog(ctx, dir)
	if err != nil {
		return err
	}
	src, err := broker.Open(ctx, stream.Subscription{Topic: "log", Group: "p"})
	if err != nil {
		return err
	}
	sink, err := New(Config{URL: url, Pipeline: "p"})
	if err != nil {
		return err
	}
	// What is fetched at once is settled at once, so no fetch reaches into two batches.
	batches := microbatch.Batch(src, microbatch.Policy{Count: killBatch, BufferedRecords: killBatch, Linger: time.Hour})
	return consumers.Run(ctx, batches, sink, consumers.Config{MaxRecords: killBatch})
}

// killer is an endpoint that kills the process that posts, before it answers.
type killer struct {
	t     *testing.T
	kills map[int]int   // by how much was delivered before, how often
	done  chan struct{} // closed when all is delivered, or something is wrong

	over      sync.Once
	mu        sync.Mutex
	process   *exec.Cmd
	bodies    map[string]string // by key
	keys      map[string]string // of each event
	delivered int               // events that were answered for, in order
	killed    chan struct{}     // holds a token when the process was killed
}

func (k *killer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		k.t.Error(err)
	}
	var events []struct{ ID string }
	if err := json.Unmarshal(body, &events); err != nil {
		k.t.Errorf("body %s: %v", body, err)
	}
	key := r.Header.Get("Idempotency-Key")
	k.mu.Lock()
	defer k.mu.Unlock()
	if before, again := k.bodies[key]; again && before != string(body) {
		k.t.Errorf("key %s came with %s, and before with %s", key, body, before)
	}
	k.bodies[key] = string(body)
	for i, e := range events {
		if before, again := k.keys[e.ID]; again && before != key {
			k.t.Errorf("event %s came under key %s, and before under %s", e.ID, key, before)
		}
		k.keys[e.ID] = key
		if want := fmt.Sprint("0/", k.delivered+i+1); e.ID != want {
			k.t.Errorf("event %s came when all up to %d were delivered: want %s", e.ID, k.delivered, want)
		}
	}
	if n := k.kills[k.delivered]; n > 0 {
		k.kills[k.delivered] = n - 1
		if err := k.process.Process.Kill(); err != nil {
			k.t.Error(err)
		}
		k.killed <- struct{}{}
		return
	}
	if k.delivered += len(events); k.delivered >= killTotal || k.t.Failed() {
		k.over.Do(func() { close(k.done) })
	}
}

// start starts a process that posts.
func (k *killer) start(dir, url string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	exe, err := os.Executable()
	if err != nil {
		k.t.Fatal(err)
	}
	k.process = exec.CommandContext(k.t.Context(), exe)
	k.process.Env = append(os.Environ(), posterEnv+"="+dir, urlEnv+"="+url)
	k.process.Stderr = os.Stderr
	if err := k.process.Start(); err != nil {
		k.t.Fatal(err)
	}
}

// A process that posts is killed (-9) when the endpoint has read a request and not
// answered it yet: the second request, twice, and the last. Each record that was not
// answered for is posted again, in the same requests under the same keys, and none
// that was.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	broker, err := openLog(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Close() })
	if err := broker.Create(t.Context(), "log", 1); err != nil {
		t.Fatal(err)
	}
	var log []stream.Record
	for i := range killTotal {
		log = append(log, stream.Record{Topic: "log", Key: strconv.AppendInt(nil, int64(i), 10)})
	}
	if err := broker.Publish(t.Context(), log...); err != nil {
		t.Fatal(err)
	}
	k := &killer{
		t: t, kills: map[int]int{killBatch: 2, killTotal - killBatch: 1}, done: make(chan struct{}), killed: make(chan struct{}, 1),
		bodies: map[string]string{}, keys: map[string]string{},
	}
	server := httptest.NewServer(k)
	defer server.Close()
	kills := 0
	for over := false; !over; {
		k.start(dir, server.URL)
		select {
		case <-k.killed:
			kills++
		case <-k.done:
			over = true
			_ = k.process.Process.Kill()
		}
		var exit *exec.ExitError
		if err := k.process.Wait(); !errors.As(err, &exit) {
			t.Errorf("the process was not killed, but ended: %v", err)
		}
	}
	if kills != 3 || len(k.bodies) != killTotal/killBatch {
		t.Errorf("killed %d times, want 3; %d requests, want %d", kills, len(k.bodies), killTotal/killBatch)
	}
}
