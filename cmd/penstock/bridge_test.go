package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"context"

	"github.com/mochi-mqtt/server/v2/packets"

	"penstock/servertest"
)

// TestKillBridge kills a bridge from mosquitto with SIGKILL again and again, and
// now and then 'penstock up' behind it. Whatever mosquitto took from the device
// must be in the topic, or, if it does not fit, in the dead letters.
func TestKillBridge(t *testing.T) {
	kills, limit := 12, 4*time.Minute
	if testing.Short() {
		kills, limit = 4, time.Minute
	}
	address := servertest.MQTT(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	c := &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t), gateway: freeAddr(t)}
	if err := os.WriteFile(filepath.Join(c.dir, "event.avsc"), []byte(`{"type":"record","name":"Event","fields":[{"name":"id","type":"string"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	up := c.up()
	if out, err := c.command("schema", "register", "event.avsc", "--subject", "events-value").CombinedOutput(); err != nil {
		t.Fatalf("register: %v\n%s", err, out)
	}
	name := servertest.Name(t)
	bridge := func() *exec.Cmd {
		t.Helper()
		cmd := c.command("bridge", "mqtt", "mqtt://"+address, "--filter", name+"/+", "--topic", "events", "--client-id", name, "--qos", "2")
		said, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if _, err := io.CopyN(&text, said, int64(len("subscribed"))); err != nil || text.String() != "subscribed" {
			t.Fatalf("bridge: %v: %s", err, text.String())
		}
		go func() { _, _ = io.Copy(io.Discard, said) }()
		return cmd
	}
	running := bridge()
	d := newMQTTDevice(t, address)
	sent, misfits := 0, 0
	for n := range kills {
		for range 50 {
			// Of two qualities of service; each tenth does not fit.
			payload := fmt.Sprintf(`{"id":"%d"}`, sent)
			if sent%10 == 9 {
				payload = fmt.Sprintf(`{"id":%d}`, sent)
				misfits++
			}
			d.publish(name+"/a", payload, byte(1+sent%2))
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
	d.publish(name+"/a", `{"id":"last"}`, 1)
	values := map[string]int{}
	for values["last"] == 0 {
		values = c.log()
	}
	out, err := c.command("consume", "tail", "events.dlq", "--until", "end", "-o", "json").Output()
	if err != nil {
		t.Fatalf("read the dead letters: %v", err)
	}
	refused := map[string]bool{}
	for line := range bytes.Lines(out) {
		var letter struct{ Value json.RawMessage }
		var event struct{ ID int }
		if err := json.Unmarshal(line, &letter); err != nil {
			t.Fatal(err)
		}
		text := string(letter.Value)
		if unquoted := ""; json.Unmarshal(letter.Value, &unquoted) == nil {
			text = unquoted
		}
		if err := json.Unmarshal([]byte(text), &event); err != nil {
			t.Fatalf("dead letter %s: %v", line, err)
		}
		refused[fmt.Sprint(event.ID)] = true
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
			t.Errorf("event %s was taken by mosquitto, but is not in the topic", id)
		}
		doubled += max(values[id]-1, 0)
	}
	t.Logf("%d kills: %d messages, %d events, %d of them again, %d dead letters", kills, sent, len(values), doubled, len(refused))
	kill(t, running)
	kill(t, up)
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
		_, err = d.conn.Write(out.Bytes())
	}
	if err == nil {
		_, err = io.ReadFull(d.conn, make([]byte, 4))
	}
	if err != nil {
		d.t.Fatalf("device: %s: %v", strings.ToUpper(packets.PacketNames[pk.FixedHeader.Type]), err)
	}
}
