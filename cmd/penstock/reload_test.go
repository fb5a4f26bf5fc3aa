package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// While events flow, the pipeline that posts them is changed again and again, and
// files that are not right come in between. No event is lost or posted twice,
// although the endpoint keeps no position, and the pipeline that stores them never
// stops.
func TestReload(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	c := &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t), gateway: freeAddr(t)}
	write := c.write
	write("event.avsc", `{"type":"record","name":"Event","fields":[{"name":"id","type":"string"}]}`)
	up := c.up()
	c.done("produce", "events", "-", "--schema", "event.avsc", "--dry-run")
	var mu sync.Mutex
	posted := map[string]int{}
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var events []struct{ Data struct{ ID string } }
		if err := json.NewDecoder(r.Body).Decode(&events); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			posted[e.Data.ID]++
		}
	}))
	defer endpoint.Close()
	changed := func(count int) string {
		return fmt.Sprintf("source: {topic: events}\nbatch: {count: %d, linger: 20ms}\nsink: {url: %q}\n", count, endpoint.URL)
	}
	write("pipelines/changed.yaml", changed(100))
	write("pipelines/same.yaml", "source: {topic: events}\nbatch: {count: 50, linger: 20ms}\nsink: {url: 'sqlite:events.db', table: events}\n")

	if !c.publish([]string{"first"}) { // which makes the topic
		t.Fatal("the first event was not published")
	}
	said := &heard{grown: make(chan struct{}, 1)}
	consumer := c.command("consume", "-v", "--config", "pipelines")
	consumer.Stderr = said
	if err := consumer.Start(); err != nil {
		t.Fatal(err)
	}
	said.await(ctx, t, 1, `name=changed is=started`)
	var work sync.WaitGroup
	stop := make(chan struct{})
	progress := make(chan struct{})
	rounds := 0
	work.Go(func() {
		defer close(progress)
		for ; ; rounds++ {
			ids := make([]string, 300)
			for i := range ids {
				ids[i] = fmt.Sprintf("%d-%d", rounds, i)
			}
			if !c.publish(ids) {
				t.Errorf("round %d was not published", rounds)
			}
			select {
			case progress <- struct{}{}:
			case <-stop:
				return
			}
		}
	})
	for n := 1; n <= 6; n++ {
		<-progress
		if n%2 == 0 {
			write("pipelines/changed.yaml", "sink: {}\n")
			hangUp(t, consumer.Process)
			said.await(ctx, t, n/2, `level=ERROR msg="the pipelines run on as they were" error="pipelines/changed.yaml:1:1: /source`)
		}
		write("pipelines/changed.yaml", changed(100+n))
		hangUp(t, consumer.Process)
		said.await(ctx, t, n+1, `name=changed is=started`)
	}
	close(stop)
	for range progress {
	}
	work.Wait()
	total := 1 + 300*(rounds+1)
	for tick := time.Tick(5 * time.Millisecond); ; {
		mu.Lock()
		n := len(posted)
		mu.Unlock()
		if n >= total {
			break
		}
		select {
		case <-tick:
		case <-ctx.Done():
			t.Fatalf("%d of %d events were posted\n%s", n, total, said)
		}
	}
	if err := consumer.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := consumer.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	c.done("consume", "microbatch", "events", "--to", "sqlite:events.db", "--group", "same", "--until", "end")
	rows := c.rows()
	for id, n := range c.log() {
		if n != 1 || rows[id] != 1 || posted[id] != 1 {
			t.Errorf("event %s lies %d times in the log, is in %d rows and was posted %d times", id, n, rows[id], posted[id])
		}
	}
	if len(rows) != total || len(posted) != total {
		t.Errorf("%d events, %d rows, %d posted", total, len(rows), len(posted))
	}
	if n := said.count(`name=same is=started`); n != 1 {
		t.Errorf("the pipeline that did not change was started %d times", n)
	}
	if n := said.count(`name=same is=unchanged`); n != 6 {
		t.Errorf("six files that are right were applied %d times", n)
	}
	if n := said.count(`name=changed is=failed`); n != 0 {
		t.Errorf("the pipeline that changed failed\n%s", said)
	}
	kill(t, up)
}

func hangUp(t *testing.T, p *os.Process) {
	t.Helper()
	if err := p.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// heard is what a process says.
type heard struct {
	mu    sync.Mutex
	text  bytes.Buffer
	grown chan struct{}
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case h.grown <- struct{}{}:
	default:
	}
	return h.text.Write(p)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

// count counts a text.
func (h *heard) count(text string) int {
	return strings.Count(h.String(), text)
}

// await waits until a text was said n times.
func (h *heard) await(ctx context.Context, t *testing.T, n int, text string) {
	t.Helper()
	for h.count(text) < n {
		select {
		case <-h.grown:
		case <-ctx.Done():
			t.Fatalf("%q was not said %d times, but\n%s", text, n, h)
		}
	}
}
