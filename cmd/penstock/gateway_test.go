package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"penstock/servertest"
)

// A gateway is killed again and again under load, while clients send each request
// with a key until it is answered. In the end each record is in the topic once.
func TestKillGateway(t *testing.T) { killGateway(t, "", 8) }

func TestKillGatewayOnKafka(t *testing.T) { killGateway(t, "kafka://"+servertest.Kafka(t), 8) }

func TestKillGatewayOnNATS(t *testing.T) { killGateway(t, servertest.NATS(t), 8) }

func killGateway(t *testing.T, broker string, kills int) {
	c := resumed(t)
	topic := servertest.Name(t)
	var at []string
	if broker != "" {
		at = []string{"--broker", broker}
	}
	up := func() *exec.Cmd {
		cmd := c.start(append([]string{"up", "--listen", c.listen, "--gateway", c.gateway}, at...)...)
		c.listening(c.gateway)
		return cmd
	}
	running := up()
	schema := filepath.Join(c.dir, "event.avsc")
	if err := os.WriteFile(schema, []byte(`{"type":"record","name":"Event","fields":[{"name":"id","type":"string"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	first := c.command(append([]string{"produce", topic, "-", "--schema", schema}, at...)...)
	first.Stdin = strings.NewReader(`{"id":"first"}`)
	if out, err := first.CombinedOutput(); err != nil {
		t.Fatalf("make the topic: %v\n%s", err, out)
	}

	acked := make(chan []string)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for n := range 6 {
		clients.Go(func() {
			for round := 0; ; round++ {
				select {
				case <-stop:
					return
				default:
				}
				ids, ok := c.publishOnce(topic, fmt.Sprintf("%d-%d", n, round), n)
				if !ok {
					return
				}
				acked <- ids
			}
		})
	}
	go func() {
		clients.Wait()
		close(acked)
	}()
	want := map[string]int{"first": 1}
	count := func(n int) {
		for ids := range acked {
			for _, id := range ids {
				want[id] = 1
			}
			if n--; n == 0 {
				return
			}
		}
	}
	for range kills {
		count(30) // answers since the last kill
		kill(t, running)
		running = up()
		for form := range 4 { // what has been answered is still known
			ids, _ := c.publishOnce(topic, fmt.Sprintf("again-%d", form), form)
			for _, id := range ids {
				want[id] = 1
			}
		}
	}
	close(stop)
	count(-1)
	got := c.tail(topic, at)
	t.Logf("%d kills, %d records answered, %d in the topic", kills, len(want), len(got))
	for id := range want {
		if got[id] != 1 {
			t.Errorf("event %s was answered, and is in the topic %d times", id, got[id])
		}
	}
	for id := range got {
		if want[id] == 0 {
			t.Errorf("event %s is in the topic, but was never answered", id)
		}
	}
	kill(t, running)
}

// publishOnce sends a request of one of the four forms until it is answered, and
// once more; it returns the ids of its records.
func (c *crashed) publishOnce(topic, key string, form int) (ids []string, ok bool) {
	path, media := "/topics/"+topic, "application/json"
	var body strings.Builder
	add := func(format string) {
		id := fmt.Sprintf("%s-%d", key, len(ids))
		fmt.Fprintf(&body, format, id)
		ids = append(ids, id)
	}
	switch form % 4 {
	case 0:
		add(`{"id":%q}`)
	case 1:
		media = "application/vnd.kafka.json.v2+json"
		body.WriteString(`{"records":[`)
		add(`{"value":{"id":%q}},`)
		add(`{"value":{"id":%q}},`)
		add(`{"value":{"id":%q}}]}`)
	case 2:
		path = "/v3/clusters/penstock/topics/" + topic + "/records:batch"
		add(`{"entries":[{"id":"1","value":{"type":"JSON","data":{"id":%q}}},`)
		add(`{"id":"2","value":{"type":"JSON","data":{"id":%q}}}]}`)
	default:
		path = "/v3/clusters/penstock/topics/" + topic + "/records"
		for range 5 {
			add(`{"value":{"type":"JSON","data":{"id":%q}}}`)
		}
	}
	answered := ""
	for tick := time.Tick(10 * time.Millisecond); ; {
		answer, err := c.ask(path, media, key, body.String())
		switch {
		case err != nil || strings.Contains(answer, `"error_code":4`) || strings.Contains(answer, `"error_code":5`) || strings.Count(answer, `"error_code":200`) < len(ids) && form%4 > 1:
			// Not yet, or part of an answer.
		case answered == "":
			answered = answer
			continue
		case answer != answered:
			c.t.Errorf("request %s was answered\n%s, and again\n%s", key, answered, answer)
			fallthrough
		default:
			return ids, true
		}
		select {
		case <-tick:
		case <-c.ctx.Done():
			c.t.Errorf("request %s: %q, %v", key, answer, err)
			return ids, false
		}
	}
}

func (c *crashed) ask(path, media, key, body string) (string, error) {
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.gateway+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", media)
	r.Header.Set("Idempotency-Key", key)
	answer, err := (&http.Client{Timeout: 20 * time.Second}).Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err
}

// The script of docs/gateway.md publishes by WebSocket, as its comment says.
func TestDocumentedSocket(t *testing.T) {
	servertest.Node(t)
	text, err := os.ReadFile("../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(text), "```js\n")
	script, _, ok := strings.Cut(script, "```")
	c := resumed(t)
	if err := os.WriteFile(filepath.Join(c.dir, "publish.mjs"), []byte(strings.ReplaceAll(script, "127.0.0.1:8082", c.gateway)), 0o600); err != nil || !ok {
		t.Fatal(ok, err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "order.avsc"), []byte(`{"type":"record","name":"Order","fields":[{"name":"id","type":"string"},{"name":"amount","type":"double"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	up := c.up()
	first := c.command("produce", "orders", "-", "--schema", "order.avsc")
	first.Stdin = strings.NewReader(`{"id":"o-1","amount":1}`)
	if out, err := first.CombinedOutput(); err != nil {
		t.Fatalf("make the topic: %v\n%s", err, out)
	}
	run := exec.CommandContext(c.ctx, "node", "--experimental-websocket", "publish.mjs")
	run.Dir = c.dir
	out, err := run.Output()
	if err != nil || !regexp.MustCompile(`^{"id":"1","partition":\d,"offset":\d+}\n{"id":"2","error_code":42207,.*"pointer":"/amuont"`).Match(out) {
		t.Errorf("%v: %s", err, out)
	}
	if got := c.tail("orders", nil); got["o-8"] != 1 {
		t.Errorf("the topic holds %v", got)
	}
	kill(t, up)
}

var manyConnections = 10_000

// A gateway with 10,000 connections (fewer under the race detector, which takes
// memory of its own) that say nothing, or half a header, still serves, and stays
// small.
func TestIdleConnections(t *testing.T) {
	c := resumed(t)
	up := c.up()
	idle := manyConnections
	for i := range idle {
		conn, err := net.Dial("tcp", c.gateway)
		if err != nil && i >= 1000 {
			t.Logf("this machine admits %d connections: %v", i, err)
			idle = i
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i%2 == 0 {
			if _, err := io.WriteString(conn, "POST /topics/orders HTTP/1.1\r\nHost: x\r\nA: "); err != nil {
				t.Fatal(err)
			}
		}
	}
	if answer, err := c.ask("/topics/orders", "application/json", "k", "{}"); err != nil || !strings.Contains(answer, `"error_code":404`) {
		t.Errorf("%v: %s", err, answer)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", up.Process.Pid))
	if err != nil {
		t.Skip("the memory of a process is read from /proc")
	}
	_, rss, _ := strings.Cut(string(status), "VmRSS:")
	var kb int
	if _, err := fmt.Sscan(rss, &kb); err != nil || kb > 400<<10 {
		t.Errorf("with %d connections it takes %d kB (%v)", idle, kb, err)
	}
	t.Logf("%d kB with %d connections", kb, idle)
	kill(t, up)
}
