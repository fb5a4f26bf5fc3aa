package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"penstock/servertest"
)

// TestKillBridge kills a bridge from mosquitto or RabbitMQ with SIGKILL again and
// again, and now and then 'penstock up' behind it. Whatever the broker took must be
// in the topic, or, if it does not fit, in the dead letters.
func TestKillBridge(t *testing.T) {
	t.Run("mqtt", func(t *testing.T) {
		address, name := servertest.MQTT(t), servertest.Name(t)
		d := newMQTTDevice(t, address)
		killBridge(t, 12, func(payload string, n int) { d.publish(name+"/a", payload, byte(1+n%2)) }, nil,
			"mqtt", "mqtt://"+address, "--filter", name+"/+", "--topic", "events", "--client-id", name, "--qos", "2")
	})
	for _, protocol := range []string{"0.9.1", "1.0"} {
		t.Run("amqp "+protocol, func(t *testing.T) {
			q := newAMQPQueue(t, servertest.AMQP(t))
			address := q.name
			if protocol == "1.0" {
				address = q.address
			}
			killBridge(t, 6, func(payload string, _ int) { q.publish(payload) }, q.dead,
				"amqp", "amqp://"+q.host, "--protocol", protocol, "--queue", address, "--topic", "events")
		})
	}
}

// killBridge is TestKillBridge of one bridge with its arguments. publish returns when
// the broker has taken the n-th message, and dead, which is nil where the bridge keeps
// dead letters itself, returns those that the broker has.
func killBridge(t *testing.T, kills int, publish func(payload string, n int), dead func() []string, args ...string) {
	limit := 4 * time.Minute
	if testing.Short() {
		kills, limit = kills/3, time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	c := &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t), gateway: freeAddr(t)}
	if err := os.WriteFile(filepath.Join(c.dir, "event.avsc"), []byte(`{"type":"record","name":"Event","fields":[{"name":"id","type":"string"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	up := c.up()
	c.done("schema", "register", "event.avsc", "--subject", "events-value")
	bridge := func() *exec.Cmd {
		t.Helper()
		for {
			cmd := c.command(append([]string{"bridge"}, args...)...)
			said, err := cmd.StderrPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			var text bytes.Buffer
			if _, err := io.CopyN(&text, said, int64(len("subscribed"))); err == nil && text.String() == "subscribed" {
				go func() { _, _ = io.Copy(io.Discard, said) }()
				return cmd
			}
			_, _ = io.Copy(&text, said)
			// What cannot be reached yet is tried again, as by whoever keeps it running.
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 3 || ctx.Err() != nil {
				t.Fatalf("bridge: %v: %s", err, text.String())
			}
			t.Logf("started again: %s", text.String())
		}
	}
	running := bridge()
	sent := 0
	for n := range kills {
		for range 50 {
			// Each tenth does not fit.
			payload := fmt.Sprintf(`{"id":"%d"}`, sent)
			if sent%10 == 9 {
				payload = fmt.Sprintf(`{"id":%d}`, sent)
			}
			publish(payload, sent)
			sent++
		}
		pause(time.Duration(rand.IntN(40)) * time.Millisecond)
		if n%4 == 3 {
			kill(t, up)
			up = c.up()
		}
		kill(t, running)
		running = bridge()
	}
	publish(`{"id":"last"}`, 0)
	values := map[string]int{}
	for values["last"] == 0 {
		values = c.log()
	}
	if dead == nil {
		dead = c.deadLetters
	}
	refused := map[string]bool{}
	for len(refused) < sent/10 && ctx.Err() == nil { // a letter may come after a record that was sent later
		for _, text := range dead() {
			var event struct{ ID int }
			if err := json.Unmarshal([]byte(text), &event); err != nil {
				t.Fatalf("dead letter %s: %v", text, err)
			}
			refused[fmt.Sprint(event.ID)] = true
		}
	}
	doubled := 0
	for i := range sent {
		id := fmt.Sprint(i)
		if i%10 == 9 {
			if !refused[id] || values[id] > 0 {
				t.Errorf("misfit %s: among the dead letters %v, among the events %d times", id, refused[id], values[id])
			}
			continue
		}
		if values[id] == 0 {
			t.Errorf("event %s was taken by the broker, but is not in the topic", id)
		}
		doubled += max(values[id]-1, 0)
	}
	t.Logf("%d kills: %d messages, %d events, %d of them again, %d dead letters", kills, sent, len(values), doubled, len(refused))
	kill(t, running)
	kill(t, up)
}

// deadLetters returns the values of the dead letters.
func (c *crashed) deadLetters() (texts []string) {
	c.t.Helper()
	out := c.done("consume", "tail", "events.dlq", "--until", "end", "-o", "json")
	for line := range bytes.Lines(out) {
		var letter struct{ Value json.RawMessage }
		if err := json.Unmarshal(line, &letter); err != nil {
			c.t.Fatal(err)
		}
		text := string(letter.Value)
		if unquoted := ""; json.Unmarshal(letter.Value, &unquoted) == nil {
			text = unquoted
		}
		texts = append(texts, text)
	}
	return texts
}

// amqpQueue is a queue of a test's own, with another one for its dead letters.
type amqpQueue struct {
	t          *testing.T
	ch         *amqp091.Channel
	host, name string
	address    string // in AMQP 1.0, of which RabbitMQ's versions have their own
}

func newAMQPQueue(t *testing.T, address string) *amqpQueue {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := amqp091.Dial(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	q := &amqpQueue{t: t, host: u.Host, name: strings.ReplaceAll(servertest.Name(t), ".", "-")}
	q.address = "/queues/" + q.name
	if version, _ := conn.Properties["version"].(string); strings.HasPrefix(version, "3.") {
		q.address = "/amq/queue/" + q.name
	}
	q.ch, err = conn.Channel()
	if err == nil {
		err = q.ch.Confirm(false)
	}
	for name, args := range map[string]amqp091.Table{
		q.name:           {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": q.name + ".dead"},
		q.name + ".dead": nil,
	} {
		if err == nil {
			_, err = q.ch.QueueDeclare(name, true, false, false, false, args)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// publish returns when the broker has taken the message.
func (q *amqpQueue) publish(payload string) {
	q.t.Helper()
	taken, err := q.ch.PublishWithDeferredConfirmWithContext(q.t.Context(), "", q.name, false, false,
		amqp091.Publishing{DeliveryMode: amqp091.Persistent, Body: []byte(payload)})
	if err != nil {
		q.t.Fatalf("publish to RabbitMQ: %v", err)
	}
	ctx, cancel := context.WithTimeout(q.t.Context(), time.Minute)
	defer cancel()
	if ok, err := taken.WaitContext(ctx); err != nil || !ok {
		q.t.Fatalf("publish to RabbitMQ: taken %v, %v", ok, err)
	}
}

// dead returns the dead letters.
func (q *amqpQueue) dead() (texts []string) {
	q.t.Helper()
	for {
		d, ok, err := q.ch.Get(q.name+".dead", true)
		if err != nil {
			q.t.Fatal(err)
		}
		if !ok {
			return texts
		}
		texts = append(texts, string(d.Body))
	}
}

// mqttDevice publishes to an MQTT broker, one message after the other.
type mqttDevice struct {
	t    *testing.T
	conn net.Conn
}

func newMQTTDevice(t *testing.T, address string) *mqttDevice {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	d := &mqttDevice{t, conn}
	d.exchange((*packets.Packet).ConnectEncode, packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connect},
		Connect:     packets.ConnectParams{ProtocolName: []byte("MQTT"), Clean: true, ClientIdentifier: "device-" + servertest.Name(t)},
	})
	return d
}

// publish returns when the broker has taken the message.
func (d *mqttDevice) publish(topic, payload string, qos byte) {
	d.t.Helper()
	d.exchange((*packets.Packet).PublishEncode, packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos},
		TopicName:   topic, Payload: []byte(payload), PacketID: 1,
	})
	if qos == 2 {
		d.exchange((*packets.Packet).PubrelEncode, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: 1})
	}
}

// exchange sends a packet of 3.1.1 and waits for an answer, all of which have four
// bytes.
func (d *mqttDevice) exchange(encode func(*packets.Packet, *bytes.Buffer) error, pk packets.Packet) {
	d.t.Helper()
	var out bytes.Buffer
	pk.ProtocolVersion = 4
	err := encode(&pk, &out)
	if err == nil {
		err = d.conn.SetDeadline(time.Now().Add(time.Minute))
	}
	if err == nil {
		_, err = d.conn.Write(out.Bytes())
	}
	if err == nil {
		_, err = io.ReadFull(d.conn, make([]byte, 4))
	}
	if err != nil {
		d.t.Fatalf("device: %s: %v", strings.ToUpper(packets.PacketNames[pk.FixedHeader.Type]), err)
	}
}

// A bridge that cannot start says why.
func TestBridgeWithoutRegistry(t *testing.T) {
	c := &crashed{t: t, ctx: t.Context(), dir: t.TempDir(), listen: freeAddr(t)}
	for _, args := range [][]string{
		{"bridge", "amqp", "amqp://127.0.0.1:1", "--queue", "q", "--topic", "t"},
		{"bridge", "mqtt", "mqtt://127.0.0.1:1", "--filter", "q", "--topic", "t"},
	} {
		cmd := c.command(args...)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 3 || !strings.Contains(string(out), `look up the schema of topic "t"`) {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
}
