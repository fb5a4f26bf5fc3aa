package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	server "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"penstock/producers"
	"penstock/schemas"
	"penstock/stream"
)

// everybody may do everything.
type everybody struct{ server.HookBase }

func (*everybody) ID() string { return "everybody" }
func (*everybody) Provides(b byte) bool {
	return b == server.OnConnectAuthenticate || b == server.OnACLCheck
}
func (*everybody) OnConnectAuthenticate(*server.Client, packets.Packet) bool { return true }
func (*everybody) OnACLCheck(*server.Client, string, bool) bool              { return true }

// broker starts a broker in this process and returns its address.
func broker(t *testing.T) string {
	t.Helper()
	options := &server.Options{Logger: slog.New(slog.DiscardHandler)}
	s := server.New(options)
	if err := s.AddHook(new(everybody), nil); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddListener(listeners.NewNet("tcp", l)); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	// Not s.Close, in which a client that leaves meanwhile locks it up.
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// log is a Publisher that keeps what is published, unless before says why not.
type log struct {
	before func(producers.Event) error

	mu     sync.Mutex
	events []producers.Event
	grown  chan struct{} // of capacity 1
}

func newLog(before func(producers.Event) error) *log {
	if before == nil {
		before = func(producers.Event) error { return nil }
	}
	return &log{before: before, grown: make(chan struct{}, 1)}
}

func (l *log) Publish(_ context.Context, events ...producers.Event) error {
	failed := &stream.BatchError{}
	for i, e := range events {
		if err := l.before(e); err != nil {
			failed.Fail(i, err)
			continue
		}
		l.mu.Lock()
		l.events = append(l.events, e)
		l.mu.Unlock()
		select {
		case l.grown <- struct{}{}:
		default:
		}
	}
	return failed.OrNil()
}

// wait waits until an event has this value, and returns the values there are.
func (l *log) wait(t *testing.T, value string) []string {
	t.Helper()
	for {
		l.mu.Lock()
		var values []string
		found := false
		for _, e := range l.events {
			values = append(values, text(e))
			found = found || text(e) == value
		}
		l.mu.Unlock()
		if found {
			return values
		}
		select {
		case <-l.grown:
		case <-t.Context().Done():
			t.Fatalf("never published: %s", value)
		}
	}
}

func text(e producers.Event) string {
	switch v := e.Value.(type) {
	case json.RawMessage:
		return string(v)
	case producers.Framed:
		return string(v)
	}
	return fmt.Sprint(e.Value)
}

// run starts a bridge and returns, once it has subscribed, what stops it.
func run(t *testing.T, to Publisher, c Config) (stop func()) {
	t.Helper()
	ready := make(chan struct{}, 100)
	c.Subscribed = func() { ready <- struct{}{} }
	if c.ClientID == "" {
		c.ClientID = "bridge"
	}
	if c.Retry == 0 {
		c.Retry = 1 // nanosecond
	}
	b, err := New(to, c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("run: %v", err)
	}
	t.Cleanup(stop)
	return stop
}

// device is a client that publishes.
type device struct {
	t  *testing.T
	c  net.Conn
	in *bufio.Reader
}

func newDevice(t *testing.T, address string) *device {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	d := &device{t, c, bufio.NewReader(c)}
	pk := packets.Packet{ProtocolVersion: 4, FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), Clean: true, ClientIdentifier: fmt.Sprintf("device-%p", c)}}
	var out bytes.Buffer
	if err := pk.ConnectEncode(&out); err != nil {
		t.Fatal(err)
	}
	d.exchange(out.Bytes(), 4)
	return d
}

// exchange writes, and waits for an answer of so many bytes.
func (d *device) exchange(b []byte, answer int) {
	d.t.Helper()
	_, err := d.c.Write(b)
	if err == nil {
		_, err = io.ReadFull(d.in, make([]byte, answer))
	}
	if err != nil {
		d.t.Fatalf("device: %v", err)
	}
}

// publish publishes, and returns when the broker has taken it.
func (d *device) publish(topic, payload string, qos byte) {
	d.t.Helper()
	pk := packets.Packet{ProtocolVersion: 4, FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic, Payload: []byte(payload)}
	if qos > 0 {
		pk.PacketID = 1
	}
	var out bytes.Buffer
	if err := pk.PublishEncode(&out); err != nil {
		d.t.Fatal(err)
	}
	switch qos {
	case 0:
		d.exchange(out.Bytes(), 0)
	case 1:
		d.exchange(out.Bytes(), 4)
	case 2:
		d.exchange(out.Bytes(), 4)
		d.exchange([]byte{packets.Pubrel<<4 | 2, 2, 0, 1}, 4)
	}
}

var misfit = &schemas.ValueError{Violations: []schemas.Violation{{Pointer: "/t", Expected: "a number", Found: "text"}}}

// forVersions runs a test for both versions of the protocol and both qualities of
// service that ask for an acknowledgement.
func forVersions(t *testing.T, f func(t *testing.T, c Config)) {
	for _, version := range []byte{4, 5} {
		for _, qos := range []byte{1, 2} {
			t.Run(fmt.Sprintf("version %d QoS %d", version, qos), func(t *testing.T) {
				f(t, Config{Version: version, QoS: qos, Address: broker(t), Routes: []Route{{Filter: "sensors/+/temp", Topic: "sensors"}}})
			})
		}
	}
}

func TestPublish(t *testing.T) {
	forVersions(t, func(t *testing.T, c Config) {
		l := newLog(nil)
		run(t, l, c)
		d := newDevice(t, c.Address)
		d.publish("elsewhere", `0`, 1)
		for qos := range byte(3) {
			d.publish("sensors/a/temp", fmt.Sprint(qos), qos)
		}
		d.publish("sensors/a/temp", "\x00framed", 1)
		if got := strings.Join(l.wait(t, "\x00framed"), "|"); got != "0|1|2|\x00framed" {
			t.Errorf("published %q", got)
		}
		e := l.events[3]
		if _, ok := e.Value.(producers.Framed); !ok || e.Topic != "sensors" || string(e.Key) != "sensors/a/temp" || e.Headers[0].Key != TopicHeader || string(e.Headers[0].Value) != "sensors/a/temp" {
			t.Errorf("published %+v", e)
		}
	})
}

// What is not durable is not acknowledged: the next bridge gets it.
func TestNothingAcknowledgedEarly(t *testing.T) {
	forVersions(t, func(t *testing.T, c Config) {
		tried := make(chan struct{}, 1)
		stop := run(t, newLog(func(e producers.Event) error {
			select {
			case tried <- struct{}{}:
			default:
			}
			return errors.New("not now")
		}), c)
		d := newDevice(t, c.Address)
		d.publish("sensors/a/temp", `1`, c.QoS)
		<-tried
		stop()
		d.publish("sensors/a/temp", `2`, c.QoS) // while nobody is there
		l := newLog(nil)
		stop = run(t, l, c)
		l.wait(t, `1`)
		l.wait(t, `2`)
		stop()
		// Now all is acknowledged.
		last := newLog(nil)
		run(t, last, c)
		d.publish("sensors/a/temp", `3`, c.QoS)
		if got := last.wait(t, `3`); len(got) != 1 {
			t.Errorf("after all was acknowledged, delivered %q", got)
		}
	})
}

// A misfit is told of, acknowledged, and holds up nobody; one that cannot be told
// of is tried again.
func TestRefused(t *testing.T) {
	forVersions(t, func(t *testing.T, c Config) {
		l := newLog(func(e producers.Event) error {
			if text(e) == `"warm"` {
				return fmt.Errorf("event: %w", misfit)
			}
			return nil
		})
		var told []string
		c.Refused = func(_ context.Context, m Message, why error) error {
			told = append(told, fmt.Sprintf("%s %s %v", m.Topic, m.Payload, errors.As(why, new(*schemas.ValueError))))
			if len(told) == 1 {
				return errors.New("not now")
			}
			return nil
		}
		stop := run(t, l, c)
		d := newDevice(t, c.Address)
		d.publish("sensors/a/temp", `"warm"`, c.QoS)
		d.publish("sensors/a/temp", ``, c.QoS)
		d.publish("sensors/a/temp", `1`, c.QoS)
		l.wait(t, `1`)
		d.publish("sensors/a/temp", `2`, c.QoS)
		l.wait(t, `2`) // which is not begun before all others are done
		stop()
		slices.Sort(told) // the empty one may come between
		want := []string{`sensors/a/temp  true`, `sensors/a/temp "warm" true`, `sensors/a/temp "warm" true`}
		if !slices.Equal(told, want) {
			t.Errorf("told of %q, want %q", told, want)
		}
		last := newLog(nil)
		run(t, last, c)
		d.publish("sensors/a/temp", `3`, c.QoS)
		if got := last.wait(t, `3`); len(got) != 1 {
			t.Errorf("after it was refused, delivered %q", got)
		}
	})
}
