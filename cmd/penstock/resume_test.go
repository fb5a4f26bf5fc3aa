package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"penstock/servertest"
)

// TestKillResumed kills a producer of a file with SIGKILL again and again, and
// the embedded broker too. Started once more under the same name, it goes on
// where it was: in the end each event lies in the topic once, and each that was
// refused once in the file of rejects.
func TestKillResumed(t *testing.T) {
	c := resumed(t)
	up := c.up()
	c.resume(9, nil, func() {
		kill(t, up)
		up = c.up()
	})
	kill(t, up)
}

// The same on a Kafka of its own process.
func TestKillResumedOnKafka(t *testing.T) {
	seeds := servertest.Kafka(t)
	c := resumed(t)
	registry := c.start("registry", "--listen", c.listen, "--store", "memory:")
	c.listening(c.listen)
	c.resume(6, []string{"--broker", "kafka://" + seeds}, nil)
	kill(t, registry)
}

func resumed(t *testing.T) *crashed {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	return &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t), gateway: freeAddr(t)}
}

// resume publishes a file with so many kills on the way; every third is of the
// broker, if killBroker can do that.
func (c *crashed) resume(kills int, broker []string, killBroker func()) {
	t := c.t
	const lines, refuseEvery = 40_000, 50
	var events bytes.Buffer
	for i := range lines {
		if i%refuseEvery == 7 {
			fmt.Fprintf(&events, "{\"id\":%d}\n", i)
		} else {
			fmt.Fprintf(&events, "{\"id\":\"%d\"}\n", i)
		}
	}
	for name, content := range map[string]string{
		"events.jsonl": events.String(),
		"event.avsc":   `{"type":"record","name":"Event","fields":[{"name":"id","type":"string"}]}`,
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	topic := fmt.Sprintf("events-%d", rand.Uint64())
	run := append([]string{"produce", topic, "events.jsonl", "--schema", "event.avsc", "--key", "id", "--resume", "nightly", "--rejects", "rejects.jsonl", "-o", "json"}, broker...)

	died := 0
	for n := 1; n <= kills; n++ {
		// The rejects tell how far it has come.
		far := n*lines/refuseEvery/(kills+1) + rand.IntN(20)
		cmd := c.start(run...)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cmd.Wait() // it is killed
		}()
		for alive, tick := true, time.Tick(time.Millisecond); alive; {
			select {
			case <-ended:
				alive = false
			case <-tick:
				if c.rejects() < far {
					continue
				}
				if n%3 == 0 && killBroker != nil {
					killBroker()
				}
				if err := cmd.Process.Kill(); err == nil {
					died++
				}
				<-ended
				alive = false
			}
		}
	}
	var stderr bytes.Buffer
	last := c.command(run...)
	last.Stderr = &stderr
	out, err := last.Output()
	if code := exitCodeOf(err); code != exitNo && code != exitDone {
		t.Fatalf("the last run: %v\n%s", err, stderr.Bytes())
	}
	at := bytes.LastIndexByte(bytes.TrimSpace(out), '\n') + 1
	var summary struct{ Before, Published, Refused int }
	if err := json.Unmarshal(out[at:], &summary); err != nil {
		t.Fatalf("the last run: %v: %s", err, out[at:])
	}
	t.Logf("%d kills; before the last run %d inputs were in, it published %d", died, summary.Before, summary.Published)
	if died == 0 || summary.Before == 0 {
		t.Errorf("nothing was interrupted: %d kills, %d inputs in before the last run", died, summary.Before)
	}
	if got := c.rejects(); got != lines/refuseEvery {
		t.Errorf("%d events are in the file of rejects, want %d", got, lines/refuseEvery)
	}
	log := c.tail(topic, broker)
	for i := range lines {
		want := 1
		if i%refuseEvery == 7 {
			want = 0
		}
		if n := log[fmt.Sprint(i)]; n != want {
			t.Fatalf("event %d lies %d times in the topic, want %d", i, n, want)
		}
	}
}

// rejects counts the events in the file of rejects.
func (c *crashed) rejects() int {
	content, _ := os.ReadFile(filepath.Join(c.dir, "rejects.jsonl")) // not there yet: none
	return strings.Count(string(content), "\n{")
}

func exitCodeOf(err error) int {
	if err == nil {
		return exitDone
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return exitFailed
}
