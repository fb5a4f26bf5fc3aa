package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A pipeline whose sink is not there yet is started once it is, without a SIGHUP,
// and meanwhile the others run.
func TestStartAgain(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	c := &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t), gateway: freeAddr(t)}
	c.write("event.avsc", `{"type":"record","name":"Event","fields":[{"name":"id","type":"string"}]}`)
	up := c.up()
	defer kill(t, up)
	c.done("produce", "events", "-", "--schema", "event.avsc", "--dry-run")
	if !c.publish([]string{"first"}) {
		t.Fatal("the first event was not published")
	}
	c.write("pipelines/late.yaml", "source: {topic: events}\nbatch: {linger: 10ms}\nsink: {url: 'sqlite:late/events.db', table: events}\n")
	c.write("pipelines/now.yaml", "source: {topic: events}\nbatch: {linger: 10ms}\nsink: {url: 'sqlite:events.db', table: events}\n")
	said := &heard{grown: make(chan struct{}, 1)}
	consumer := c.command("consume", "-v", "--config", "pipelines")
	consumer.Stderr = said
	if err := consumer.Start(); err != nil {
		t.Fatal(err)
	}
	said.await(ctx, t, 2, "msg=pipeline name=late is=")
	if said.count("level=WARN msg=pipeline name=late is=waiting") == 0 {
		t.Fatal(said)
	}
	said.await(ctx, t, 1, "msg=batch pipeline=now")
	if err := os.Mkdir(filepath.Join(c.dir, "late"), 0o700); err != nil {
		t.Fatal(err)
	}
	said.await(ctx, t, 1, "msg=batch pipeline=late")
	if err := consumer.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := consumer.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
}

// Who is told to stop while it starts has done nothing, and says nothing. The
// server that it waits for takes connections, and never answers.
func TestStoppedAtStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.yaml")
	f := func(args ...string) {
		t.Helper()
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		url := "kafka://" + silent.Addr().String()
		if err := os.WriteFile(file, []byte("source: {topic: t, broker: '"+url+"'}\nsink: {url: 'topic:x'}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		go func() {
			defer stop()
			if conn, err := silent.Accept(); err == nil {
				context.AfterFunc(t.Context(), func() { conn.Close() })
			}
		}()
		var out, errs bytes.Buffer
		if code := run(ctx, append(args, "--broker", url), strings.NewReader(""), &out, &errs); code != exitDone || errs.Len() > 0 {
			t.Errorf("%s, stopped while it connects: exit code %d, %q", args, code, errs.String())
		}
	}
	f("consume", "microbatch", "t", "--to", "topic:x")
	f("consume", "--config", file)
	f("consume", "diff", "t", "--to", "topic:x")
	f("consume", "tail", "t")
}
