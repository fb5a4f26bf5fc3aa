package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"penstock/servertest"
)

// soakEnv are the variables with which make soak asks for more.
const (
	soakRows  = "PENSTOCK_SOAK_ROWS"
	soakKills = "PENSTOCK_SOAK_KILLS"
)

// Three consumers of a group store a topic that is being published in PostgreSQL,
// and die at random: most by kill -9, every fourth told to stop, as in a rolling
// restart. The table is the log in the end, each record once.
func TestSoakOnKafka(t *testing.T) {
	seeds := servertest.Kafka(t)
	soak(t, 6, func(member int) string { return fmt.Sprintf("kafka://%s?member=m%d", seeds, member) })
}

// The same on JetStream, where whoever takes over has to wait for a lease.
func TestSoakOnNATS(t *testing.T) {
	url := servertest.NATS(t)
	soak(t, 3, func(int) string { return url })
}

func soak(t *testing.T, few int, broker func(member int) string) {
	number := func(variable string, small int) int {
		n, err := strconv.Atoi(os.Getenv(variable))
		if err != nil {
			return small
		}
		return n
	}
	rows, kills := number(soakRows, 20_000), number(soakKills, few)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute+time.Duration(kills)*15*time.Second)
	defer cancel()
	c := &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t)}
	registry := c.start("registry", "--listen", c.listen, "--store", "memory:")
	defer kill(t, registry)
	c.listening(c.listen)
	c.events(rows)
	database, topic := servertest.Postgres(t), fmt.Sprintf("soak-%d", rand.Uint64())
	db, err := pgx.Connect(ctx, database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.WithoutCancel(ctx))

	produce := func(name string) *exec.Cmd {
		return c.command("produce", topic, name, "--schema", "event.avsc", "--key", "n", "--partitions", "6", "--broker", broker(9))
	}
	if out, err := produce("first.jsonl").CombinedOutput(); err != nil { // makes the topic
		t.Fatalf("produce: %v\n%s", err, out)
	}
	published := make(chan error, 1)
	go func() {
		out, err := produce("events.jsonl").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("produce: %w\n%s", err, out)
		}
		published <- err
	}()
	consumer := func(member int) *exec.Cmd {
		cmd := c.command("consume", "microbatch", topic, "--broker", broker(member), "--group", topic,
			"--to", database, "--table", "events", "--count", "500", "--linger", "50ms")
		cmd.Stderr = &bytes.Buffer{}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	var members [3]*exec.Cmd
	for i := range members {
		members[i] = consumer(i)
	}
	stored := func() (n int) {
		// The first batch makes the table.
		err := db.QueryRow(ctx, "SELECT count(*) FROM pg_class WHERE oid = to_regclass('events')").Scan(&n)
		if err == nil && n > 0 {
			err = db.QueryRow(ctx, "SELECT count(*) FROM events").Scan(&n)
		}
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	every := 20*time.Millisecond + time.Duration(rows)*time.Microsecond/2 // counting is work
	reach := func(n int) {
		t.Helper()
		for tick := time.Tick(every); stored() < n; {
			select {
			case <-tick:
			case <-ctx.Done():
				t.Fatalf("only %d of %d are stored", stored(), n)
			}
		}
	}
	start := time.Now()
	stops := 0
	for k := range kills {
		reach(rows * (k + 1) / (kills + 2))
		i := rand.IntN(len(members))
		if k%4 == 3 {
			stops++
			if err := members[i].Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			err := members[i].Wait()
			said := members[i].Stderr.(*bytes.Buffer).String()
			if err != nil && said != "" { // without a word it had not come to hear signals yet
				t.Errorf("a consumer that was told to stop: %v\n%s", err, said)
			}
		} else {
			kill(t, members[i])
		}
		members[i] = consumer(i)
	}
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	reach(rows)
	for _, m := range members {
		kill(t, m)
	}
	var count, distinct, least, most int
	if err := db.QueryRow(ctx, "SELECT count(*), count(DISTINCT n), min(n), max(n) FROM events").Scan(&count, &distinct, &least, &most); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d rows, %d kills and %d restarts in %v", count, kills-stops, stops, time.Since(start).Round(time.Second))
	if count != rows || distinct != rows || least != 0 || most != rows-1 {
		t.Errorf("%d rows, %d different, from %d to %d; want %d of 0 to %d", count, distinct, least, most, rows, rows-1)
	}
}

// events writes the files of so many events: the first alone, and the rest.
func (c *crashed) events(n int) {
	c.t.Helper()
	write := func(name string, from, to int) {
		file, err := os.Create(filepath.Join(c.dir, name))
		if err != nil {
			c.t.Fatal(err)
		}
		w := bufio.NewWriter(file)
		for i := from; i < to; i++ {
			fmt.Fprintf(w, "{\"n\":%d,\"name\":\"event %d\",\"of\":%d.5}\n", i, i, i%7)
		}
		if err := w.Flush(); err != nil {
			c.t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			c.t.Fatal(err)
		}
	}
	write("first.jsonl", 0, 1)
	write("events.jsonl", 1, n)
	schema := `{"type":"record","name":"Event","fields":[{"name":"n","type":"long"},{"name":"name","type":"string"},{"name":"of","type":"double"}]}`
	if err := os.WriteFile(filepath.Join(c.dir, "event.avsc"), []byte(schema), 0o600); err != nil {
		c.t.Fatal(err)
	}
}
