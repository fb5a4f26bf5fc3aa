package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestKill kills 'penstock up' with SIGKILL again and again in the middle of
// producing and microbatching, and now and then the consumer too. Nothing that
// was acknowledged may be missing from the log, and the rows, in a table without
// a unique key, must be the log's records, each once.
func TestKill(t *testing.T) {
	kills, limit := 10, 4*time.Minute
	if testing.Short() {
		kills, limit = 3, time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	c := &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t), gateway: freeAddr(t)}
	if err := os.WriteFile(filepath.Join(c.dir, "event.avsc"), []byte(`{"type":"record","name":"Event","fields":[{"name":"id","type":"string"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	up := c.up()
	c.done("produce", "events", "-", "--schema", "event.avsc", "--dry-run")

	var work sync.WaitGroup
	stop := make(chan struct{})
	progress := make(chan int)
	acked := map[string]bool{}
	work.Go(func() {
		defer close(progress)
		for round := 0; ; round++ {
			select {
			case <-stop:
				return
			default:
			}
			ids := make([]string, 200)
			for i := range ids {
				ids[i] = fmt.Sprintf("%d-%d", round, i)
			}
			if c.publish(ids) {
				for _, id := range ids {
					acked[id] = true
				}
				progress <- round
			} else if ctx.Err() != nil {
				return
			}
		}
	})
	consumer := c.consumer()
	for n := range kills {
		if _, ok := <-progress; !ok { // something was acknowledged since the last kill
			t.Fatalf("after %d kills nothing was acknowledged any more: %v", n, ctx.Err())
		}
		pause(time.Duration(rand.IntN(150)) * time.Millisecond)
		kill(t, up)
		if n%3 == 2 {
			kill(t, consumer)
			consumer = c.consumer()
		}
		up = c.up()
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for range progress {
		}
	}()
	close(stop)
	work.Wait()
	<-drained
	kill(t, consumer)

	c.done("consume", "microbatch", "events", "--to", "sqlite:events.db", "--until", "end")
	log, rows := c.log(), c.rows()
	t.Logf("%d kills: %d events acknowledged, %d in the log, %d rows", kills, len(acked), len(log), len(rows))
	for id := range acked {
		if log[id] == 0 {
			t.Errorf("event %s was acknowledged, but is not in the log", id)
		}
	}
	for id, n := range log {
		if rows[id] != n {
			t.Errorf("event %s lies %d times in the log, but in %d rows", id, n, rows[id])
		}
	}
	for id := range rows {
		if log[id] == 0 {
			t.Errorf("event %s has a row, but is not in the log", id)
		}
	}
	kill(t, up)
}

// crashed is a folder in which processes are killed.
type crashed struct {
	t               *testing.T
	ctx             context.Context
	dir             string
	listen, gateway string
}

// command is this program, as a process of its own.
func (c *crashed) command(args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		c.t.Error(err)
	}
	cmd := exec.CommandContext(c.ctx, exe)
	cmd.Args = append([]string{"penstock"}, args...) // testscript.Main looks at the name
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "PENSTOCK_REGISTRY=http://"+c.listen)
	return cmd
}

// done runs a command, which may be run more than once, until it has reached what it
// needs, and returns what it printed.
func (c *crashed) done(args ...string) []byte {
	c.t.Helper()
	for {
		cmd := c.command(args...)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err == nil {
			return out
		}
		if cmd.ProcessState.ExitCode() != 3 || c.ctx.Err() != nil {
			c.t.Fatalf("penstock %s: %v\n%s", strings.Join(args, " "), err, said.Bytes())
		}
	}
}

// write writes a file of the folder.
func (c *crashed) write(name, text string) {
	c.t.Helper()
	file := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// start starts a command that runs until it is killed.
func (c *crashed) start(args ...string) *exec.Cmd {
	c.t.Helper()
	cmd := c.command(args...)
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	return cmd
}

// up starts the servers and waits until they answer.
func (c *crashed) up() *exec.Cmd {
	c.t.Helper()
	cmd := c.start("up", "--listen", c.listen, "--gateway", c.gateway)
	c.listening(c.gateway) // the last to be started
	return cmd
}

// listening waits until somebody listens at an address.
func (c *crashed) listening(address string) {
	c.t.Helper()
	for tick := time.Tick(5 * time.Millisecond); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-tick:
		case <-c.ctx.Done():
			c.t.Fatalf("%s does not answer: %v", address, err)
		}
	}
}

// consumer starts to store what is published, in batches small enough that a
// kill falls between them.
func (c *crashed) consumer() *exec.Cmd {
	c.t.Helper()
	return c.start("consume", "microbatch", "events", "--to", "sqlite:events.db", "--count", "150", "--linger", "20ms")
}

// publish says whether all ids were acknowledged.
func (c *crashed) publish(ids []string) bool {
	cmd := c.command("produce", "events", "-", "--key", "id")
	var lines strings.Builder
	for _, id := range ids {
		fmt.Fprintf(&lines, "{\"id\":%q}\n", id)
	}
	cmd.Stdin = strings.NewReader(lines.String())
	return cmd.Run() == nil
}

// log counts the ids in the topic of events.
func (c *crashed) log() map[string]int { return c.tail("events", nil) }

// tail counts the ids in a topic.
func (c *crashed) tail(topic string, broker []string) map[string]int {
	c.t.Helper()
	out := c.done(append([]string{"consume", "tail", topic, "--until", "end", "-o", "json"}, broker...)...)
	ids := map[string]int{}
	for line := range bytes.Lines(out) {
		var record struct {
			Value struct{ ID string }
		}
		if err := json.Unmarshal(line, &record); err != nil {
			c.t.Fatalf("read the log: %v: %s", err, line)
		}
		ids[record.Value.ID]++
	}
	return ids
}

// rows counts the ids in the table.
func (c *crashed) rows() map[string]int {
	c.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(c.dir, "events.db"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(c.ctx, `SELECT id FROM events`)
	if err != nil {
		c.t.Fatal(err)
	}
	defer rows.Close()
	ids := map[string]int{}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			c.t.Fatal(err)
		}
		ids[id]++
	}
	if err := rows.Err(); err != nil {
		c.t.Fatal(err)
	}
	return ids
}

// kill kills a process as kill -9 does, and waits for its end.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatalf("kill: %v", err)
	}
	_ = cmd.Wait() // it was killed
}

// pause spreads the kills over what the processes do; nothing waits for it.
func pause(d time.Duration) { <-time.After(d) }
