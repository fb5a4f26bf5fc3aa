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
	"penstock/schemas/avro"
	"penstock/servertest"
	"penstock/stream"
	"penstock/stream/memory"
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
	case producers.Framed:
		return string(v)
	case producers.JSON:
		return string(v)
	}
	v, err := json.Marshal(e.Value)
	if err != nil {
		return err.Error()
	}
	return string(v)
}

// run starts a bridge and returns, once it has subscribed, what stops it.
func run(t *testing.T, to Publisher, c Config) (stop func()) {
	t.Helper()
	return runWith(t, to, c, make(chan struct{}, 100))
}

// runWith is run with a channel that is told of each subscription but the first.
func runWith(t *testing.T, to Publisher, c Config, ready chan struct{}) (stop func()) {
	t.Helper()
	c.Subscribed = func() { ready <- struct{}{} }
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

// onBrokers runs a test for both versions of the protocol and both qualities of
// service that ask for an acknowledgement, on a broker in this process and on
// mosquitto. The bridge subscribes to topic and its neighbours.
func onBrokers(t *testing.T, f func(t *testing.T, c Config, topic string)) {
	for name, address := range map[string]func(*testing.T) string{
		"in process": broker,
		"mosquitto":  func(t *testing.T) string { return servertest.MQTT(t) },
	} {
		for _, version := range []byte{4, 5} {
			for _, qos := range []byte{1, 2} {
				t.Run(fmt.Sprintf("%s version %d QoS %d", name, version, qos), func(t *testing.T) {
					own := servertest.Name(t)
					f(t, Config{
						Version: version, QoS: qos, Address: address(t), ClientID: own,
						Routes: []Route{{Filter: own + "/+/temp", Topic: "sensors", Key: "{2}"}},
					}, own+"/a/temp")
				})
			}
		}
	}
}

func TestPublish(t *testing.T) {
	onBrokers(t, func(t *testing.T, c Config, topic string) {
		l := newLog(nil)
		run(t, l, c)
		d := newDevice(t, c.Address)
		d.publish("elsewhere", `0`, 1)
		for qos := range byte(3) {
			d.publish(topic, fmt.Sprint(qos), qos)
		}
		d.publish(topic, "\x00framed", 1)
		if got := strings.Join(l.wait(t, "\x00framed"), "|"); got != "0|1|2|\x00framed" {
			t.Errorf("published %q", got)
		}
		e := l.events[3]
		if _, ok := e.Value.(producers.Framed); !ok || e.Topic != "sensors" || string(e.Key) != "a" || e.Headers[0].Key != TopicHeader || string(e.Headers[0].Value) != topic {
			t.Errorf("published %+v", e)
		}
	})
}

// A broker that is killed is gone with its sessions. The bridge comes back, publishes
// what it held all the same, and hears what is published from then on.
func TestBrokerKilled(t *testing.T) {
	servertest.MQTT(t) // or the test is skipped
	own := servertest.Start(t, servertest.Mosquitto)
	for _, version := range []byte{4, 5} {
		for _, qos := range []byte{1, 2} {
			t.Run(fmt.Sprintf("version %d QoS %d", version, qos), func(t *testing.T) {
				topic := servertest.Name(t)
				subscribed := make(chan struct{}, 100)
				held, going := make(chan struct{}, 100), make(chan struct{})
				l := newLog(func(producers.Event) error {
					held <- struct{}{}
					<-going
					return nil
				})
				stop := runWith(t, l, Config{Version: version, QoS: qos, Address: own.Address, ClientID: topic, Routes: []Route{{Filter: topic, Topic: "sensors"}}}, subscribed)
				newDevice(t, own.Address).publish(topic, `0`, qos)
				<-held
				own.Kill()
				own.Start()
				<-subscribed // again
				close(going)
				l.wait(t, `0`)
				d := newDevice(t, own.Address)
				for i := range 3 {
					d.publish(topic, fmt.Sprint(i+1), qos)
				}
				if got := l.wait(t, `3`); !slices.Equal(got[len(got)-3:], []string{"1", "2", "3"}) {
					t.Errorf("published %q", got)
				}
				stop()
			})
		}
	}
}

// What is not durable is not acknowledged: the next bridge gets it.
func TestNothingAcknowledgedEarly(t *testing.T) {
	onBrokers(t, func(t *testing.T, c Config, topic string) {
		tried := make(chan struct{}, 1)
		stop := run(t, newLog(func(e producers.Event) error {
			select {
			case tried <- struct{}{}:
			default:
			}
			return errors.New("not now")
		}), c)
		d := newDevice(t, c.Address)
		d.publish(topic, `1`, c.QoS)
		<-tried
		stop()
		// The broker in process may lose what comes before it has seen that the
		// bridge is gone.
		absent := strings.Contains(t.Name(), "mosquitto")
		if absent {
			d.publish(topic, `2`, c.QoS)
		}
		l := newLog(nil)
		stop = run(t, l, c)
		l.wait(t, `1`)
		if absent {
			l.wait(t, `2`)
		}
		stop()
		// Now all is acknowledged.
		last := newLog(nil)
		run(t, last, c)
		d.publish(topic, `3`, c.QoS)
		if got := last.wait(t, `3`); len(got) != 1 {
			t.Errorf("after all was acknowledged, delivered %q", got)
		}
	})
}

// A misfit is told of, acknowledged, and holds up nobody; one that cannot be told
// of is tried again.
func TestRefused(t *testing.T) {
	onBrokers(t, func(t *testing.T, c Config, topic string) {
		l := newLog(func(e producers.Event) error {
			if text(e) == `"warm"` {
				return fmt.Errorf("event: %w", misfit)
			}
			return nil
		})
		var told []string
		c.Refused = func(_ context.Context, m Message, why error) error {
			told = append(told, fmt.Sprintf("%s %s %v", m.To, m.Payload, errors.As(why, new(*schemas.ValueError))))
			if len(told) == 1 {
				return errors.New("not now")
			}
			return nil
		}
		stop := run(t, l, c)
		d := newDevice(t, c.Address)
		d.publish(topic, `"warm"`, c.QoS)
		d.publish(topic, ``, c.QoS)
		d.publish(topic, `1`, c.QoS)
		l.wait(t, `1`)
		d.publish(topic, `2`, c.QoS)
		l.wait(t, `2`) // which is not begun before all others are done
		stop()
		slices.Sort(told) // the empty one may come between
		want := []string{`sensors  true`, `sensors "warm" true`, `sensors "warm" true`}
		if !slices.Equal(told, want) {
			t.Errorf("told of %q, want %q", told, want)
		}
		last := newLog(nil)
		run(t, last, c)
		d.publish(topic, `3`, c.QoS)
		if got := last.wait(t, `3`); len(got) != 1 {
			t.Errorf("after it was refused, delivered %q", got)
		}
	})
}

// A connection that is cut while events are on their way doubles none of them, and
// none is lost.
func TestCut(t *testing.T) {
	onBrokers(t, func(t *testing.T, c Config, topic string) {
		address := c.Address
		line := servertest.NewLine(t, address)
		c.Address = line.Address
		subscribed := make(chan struct{}, 100)
		held, going := make(chan struct{}, 100), make(chan struct{})
		l := newLog(func(e producers.Event) error {
			held <- struct{}{}
			<-going
			return nil
		})
		runWith(t, l, c, subscribed)
		d := newDevice(t, address)
		for i := range 3 {
			d.publish(topic, fmt.Sprint(i), c.QoS)
		}
		<-held
		line.Cut()
		<-subscribed // again
		d.publish(topic, `3`, c.QoS)
		close(going)
		l.wait(t, `3`)
		line.Cut()
		<-subscribed
		d.publish(topic, `4`, c.QoS)
		values := l.wait(t, `4`)
		first := slices.Clone(values[:4])
		if !strings.Contains(t.Name(), "mosquitto") {
			slices.Sort(first) // the broker in process sends again in any order
		}
		if got := strings.Join(first, ""); got != "0123" {
			t.Errorf("published %q", values)
		}
		// At QoS 1 acknowledgements may have been lost with the line.
		if rest := strings.Join(values[4:], ""); c.QoS == 2 && rest != "4" {
			t.Errorf("published %q", values)
		}
	})
}

// What is too large is refused, and what comes after it is not held up. In 5 the
// broker keeps it back.
func TestTooLarge(t *testing.T) {
	onBrokers(t, func(t *testing.T, c Config, topic string) {
		c.MaxPacket = 1000
		l := newLog(nil)
		refused := make(chan error, 10)
		c.Refused = func(_ context.Context, m Message, why error) error {
			if m.Topic != topic || len(m.Payload) > 0 {
				t.Errorf("refused %+v", m)
			}
			refused <- why
			return nil
		}
		run(t, l, c)
		d := newDevice(t, c.Address)
		d.publish(topic, strings.Repeat("1", 5000), c.QoS)
		d.publish(topic, `1`, c.QoS)
		if got := l.wait(t, `1`); len(got) != 1 {
			t.Errorf("published %d", len(got))
		}
		if c.Version == 4 {
			if err := <-refused; !errors.Is(err, stream.ErrTooLarge) {
				t.Errorf("refused: %v", err)
			}
		}
	})
}

// Of two bridges with one client id the first ends, where the broker says why.
// mosquitto does not.
func TestTakenOver(t *testing.T) {
	c := Config{Address: broker(t), ClientID: "bridge", Routes: []Route{{Filter: "a", Topic: "a"}}}
	ready := make(chan struct{})
	first := c
	first.Subscribed = func() { close(ready) }
	b, err := New(newLog(nil), first)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- b.Run(t.Context()) }()
	<-ready
	run(t, newLog(nil), c)
	if err := <-ended; !errors.Is(err, ErrTakenOver) {
		t.Errorf("run: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	ports, err := servertest.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(newLog(nil), Config{Address: fmt.Sprintf("127.0.0.1:%d", ports[0]), ClientID: "b", Routes: []Route{{Filter: "a", Topic: "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Run(t.Context()); !errors.Is(err, stream.ErrUnreachable) {
		t.Errorf("run: %v", err)
	}
}

func TestRoutes(t *testing.T) {
	f := func(filter, topic, key, from, want string) {
		t.Helper()
		b, err := New(newLog(nil), Config{ClientID: "b", Routes: []Route{{Filter: filter, Topic: topic, Key: key}}})
		if err != nil {
			t.Fatal(err)
		}
		e, err := b.event(Message{Topic: from, Payload: []byte("1")})
		got := e.Topic + " " + string(e.Key)
		if err != nil {
			if !errors.Is(err, errUnroutable) {
				t.Errorf("%q: %v", from, err)
			}
			got = "nowhere"
		}
		if got != want {
			t.Errorf("%q through %q to %q: got %q, want %q", from, filter, topic, got, want)
		}
	}
	f("a/+/c", "t", "", "a/b/c", "t a/b/c")
	f("a/+/c", "t.{2}", "{1}-{3}", "a/b/c", "t.b a-c")
	f("a/#", "{topic}", "k", "a/b/c", "a.b.c k")
	f("a/#", "t", "k", "a", "t k")
	f("a/#", "t", "{2}", "a", "nowhere")
	f("a/+", "t", "k", "a", "nowhere")
	f("a/+", "t", "k", "a/b/c", "nowhere")
	f("a/+", "t.{2}", "k", "a/", "t. k")
	f("+", "{1}", "k", "", "nowhere")
	f("a/+", "{2}", "k", "a/ü", "nowhere")
	f("#", "t", "k", "$SYS/x", "nowhere")
	f("$share/g/a/+", "t", "k", "a/b", "t k")
	for _, r := range []Route{
		{"", "t", ""},
		{"a/#/b", "t", ""},
		{"a+", "t", ""},
		{"$share/g", "t", ""},
		{"a", "", ""},
		{"a", "t/u", ""},
		{"a", "{0}", ""},
		{"a", "t", "{x}"},
		{"a", "t", "{1"},
	} {
		if _, err := New(newLog(nil), Config{ClientID: "b", Routes: []Route{r}}); err == nil {
			t.Errorf("route %+v was taken", r)
		}
	}
}

// Whatever a broker sends, reading it ends, takes no more memory than allowed, and
// does not panic.
func FuzzRead(f *testing.F) {
	f.Add([]byte{0x32, 9, 0, 1, 'a', 0, 1, '{', '}', ' ', ' '}, byte(4))
	f.Add([]byte{0x32, 9, 0, 1, 'a', 0, 1, 0, '{', '}', ' '}, byte(5))
	f.Add([]byte{0x20, 3, 0, 0, 0}, byte(5))
	f.Add([]byte{0xe0, 1, 0x8e}, byte(5))
	f.Add([]byte{0x32, 0xff, 0xff, 0xff, 0x7f, 0, 1, 'a'}, byte(4))
	f.Add([]byte{0x90, 3, 0, 1, 1}, byte(4))
	f.Fuzz(func(t *testing.T, b []byte, version byte) {
		c := &Config{Version: 4 + version%2, MaxPacket: 16}
		in := bufio.NewReader(bytes.NewReader(b))
		for {
			pk, err := c.read(in)
			if err != nil {
				return
			}
			if len(pk.Payload) > c.MaxPacket {
				t.Fatalf("read a payload of %d bytes", len(pk.Payload))
			}
		}
	})
}

// one is a registry with one schema.
type one struct{ s schemas.Schema }

func (o one) Latest(context.Context, string) (schemas.ID, schemas.Schema, error) {
	return 7, o.s, nil
}
func (o one) Schema(context.Context, schemas.ID) (schemas.Schema, error) { return o.s, nil }

// Through a producer, JSON becomes bytes that name the schema, such bytes stay as
// they are, and what fits no schema becomes a dead letter as it came.
func TestProducer(t *testing.T) {
	schema, err := avro.Format{}.Parse(`{"type":"record","name":"T","fields":[{"name":"t","type":"int"}]}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := memory.New()
	for _, topic := range []string{"t", "dead"} {
		if err := b.Create(t.Context(), topic, 1); err != nil {
			t.Fatal(err)
		}
	}
	c := Config{Address: broker(t), ClientID: "bridge", QoS: 1, Routes: []Route{{Filter: "#", Topic: "t"}}}
	c.Refused = DeadLetters(b, "dead", slog.New(slog.DiscardHandler))
	run(t, producers.New(b, one{schema}, producers.Config{}), c)
	d := newDevice(t, c.Address)
	bad := []string{`{"t":"warm"}`, `{"t":`, ``, `null`, "\x00\x00\x00\x00\x07", `{"u":1}`}
	for _, payload := range bad {
		d.publish("a/b", payload, 1)
	}
	framed := "\x00\x00\x00\x00\x07\x04"
	d.publish("a/b", `{"t":1}`, 1)
	d.publish("a/b", framed, 1)
	f := func(topic string, want ...string) (got []stream.Record) {
		t.Helper()
		src, err := b.Open(t.Context(), stream.Subscription{Topic: topic, Group: "g"})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		for len(got) < len(want) {
			records, _, err := src.Fetch(t.Context(), 10)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, records...)
		}
		for i, r := range got {
			if string(r.Value) != want[i] {
				t.Errorf("%s %d: got %q, want %q", topic, i, r.Value, want[i])
			}
		}
		return got
	}
	f("t", "\x00\x00\x00\x00\x07\x02", framed)
	for i, r := range f("dead", bad...) {
		if from, _ := r.Header(stream.HeaderTopic); string(from) != "t" {
			t.Errorf("dead letter %d comes from %q", i, from)
		}
		if reason, _ := r.Header(stream.HeaderReason); string(reason) != "does-not-fit" {
			t.Errorf("dead letter %d: reason %q", i, reason)
		}
	}
}

// A message that comes for the first time is another one, though its id was used by
// one that the broker has forgotten.
func TestIDUsedAgain(t *testing.T) {
	s := &session{pending: map[uint16]*delivery{}}
	first := &delivery{Message: Message{Topic: "a", QoS: 1}, id: 1}
	s.pending[1] = first
	if s.known(nil, &delivery{Message: Message{Topic: "a", QoS: 1}, id: 1}, false) {
		t.Error("a new message was taken for one that is done")
	}
}
