package jetstream

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"penstock/registry"
	"penstock/registry/logs/frame"
	"penstock/registry/registrytest"
	"penstock/servertest"
)

// startServer serves JetStream from a folder, which it may be given again, at a port.
func startServer(t testing.TB, dir string, port int) *natsserver.Server {
	t.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, SyncAlways: true, NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server does not start")
	}
	t.Cleanup(func() { stopServer(s) })
	return s
}

func stopServer(s *natsserver.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

func server(t testing.TB) *natsserver.Server {
	return startServer(t, t.TempDir(), freePort(t))
}

func freePort(t testing.TB) int {
	t.Helper()
	ports, err := servertest.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return ports[0]
}

func mustOpen(t testing.TB, c Config) *Log {
	t.Helper()
	l, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func suite(t *testing.T, url string) {
	registrytest.TestLog(t, func(t *testing.T) registrytest.Home {
		name := servertest.Name(t)
		return registrytest.Home{Shared: true, Open: func(t *testing.T) (registry.Log, func() error) {
			// The stream stays: a server that deletes its last one may fail to
			// make another in that moment.
			l := mustOpen(t, Config{URL: url, Stream: name})
			return l, l.Close
		}}
	})
}

func TestSuite(t *testing.T)       { suite(t, server(t).ClientURL()) }
func TestSuiteRemote(t *testing.T) { suite(t, servertest.NATS(t)) }

func event(key string, size int) registry.Event {
	return registry.Event{Time: time.UnixMilli(1), Key: []byte(key), Value: bytes.Repeat([]byte{'v'}, size)}
}

func keys(t testing.TB, l *Log, from uint64) string {
	t.Helper()
	var got []string
	err := l.Replay(t.Context(), from, func(e registry.Event) error {
		got = append(got, fmt.Sprintf("%s(%d)", e.Key, len(e.Value)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(got, " ")
}

// TestLarge appends more than one message may hold, between appends of others.
func TestLarge(t *testing.T) {
	url := server(t).ClientURL()
	one, other := mustOpen(t, Config{URL: url}), mustOpen(t, Config{URL: url})
	end, err := one.Append(t.Context(), 0, event("a", 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Append(t.Context(), 0, event("no", 3<<20)); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("a large append after a position that has passed: got %v, want ErrConflict", err)
	}
	end, err = other.Append(t.Context(), end, event("b", 3<<20), event("c", 1<<20), event("d", 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = one.Append(t.Context(), end, event("e", 1)); err != nil {
		t.Fatal(err)
	}
	if got, want := keys(t, one, 0), "a(1) b(3145728) c(1048576) d(0) e(1)"; got != want {
		t.Errorf("the log holds %s, want %s", got, want)
	}
	if got, want := keys(t, one, end), "e(1)"; got != want {
		t.Errorf("after the large append the log holds %s, want %s", got, want)
	}
	if _, err := one.Append(t.Context(), end, make([]registry.Event, step)...); !errors.Is(err, registry.ErrTooLarge) {
		t.Errorf("more records than an append may have: got %v, want ErrTooLarge", err)
	}
}

// TestMany replays more than is asked for message by message.
func TestMany(t *testing.T) {
	l := mustOpen(t, Config{URL: server(t).ClientURL()})
	var end uint64
	var want []string
	for i := range 3*few + 1 {
		var err error
		if end, err = l.Append(t.Context(), end, event(fmt.Sprint(i), i)); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("%d(%d)", i, i))
	}
	if got := keys(t, l, 0); got != strings.Join(want, " ") {
		t.Errorf("the log holds %s", got)
	}
	if got, err := l.End(t.Context()); err != nil || got != end {
		t.Errorf("End is %d (%v), the last append ended at %d", got, err, end)
	}
}

// TestUnusable: streams that may forget are refused, and so are a hole and a
// record that is not ours.
func TestUnusable(t *testing.T) {
	url := server(t).ClientURL()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	made := func(name string, change func(*jetstream.StreamConfig)) Config {
		t.Helper()
		c := jetstream.StreamConfig{Name: name, Subjects: []string{name}, AllowAtomicPublish: true}
		change(&c)
		if _, err := js.CreateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		return Config{URL: url, Stream: name}
	}
	for name, change := range map[string]func(*jetstream.StreamConfig){
		"age":     func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"bytes":   func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 },
		"last":    func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 },
		"queue":   func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy },
		"memory":  func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"others":  func(c *jetstream.StreamConfig) { c.Subjects = []string{"others", "more"} },
		"batches": func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false },
	} {
		if _, err := Open(t.Context(), made(name, change)); !errors.Is(err, ErrUnusable) {
			t.Errorf("%s: got %v, want ErrUnusable", name, err)
		}
	}

	hole := mustOpen(t, made("hole", func(*jetstream.StreamConfig) {}))
	var end uint64
	for range 3 {
		if end, err = hole.Append(t.Context(), end, event("a", 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := hole.stream.DeleteMsg(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	nothing := func(registry.Event) error { return nil }
	if err := hole.Replay(t.Context(), 0, nothing); !errors.Is(err, ErrUnusable) {
		t.Errorf("replay over a hole: got %v, want ErrUnusable", err)
	}
	if _, err := hole.End(t.Context()); !errors.Is(err, ErrUnusable) {
		t.Errorf("end behind a hole: got %v, want ErrUnusable", err)
	}

	foreign := mustOpen(t, Config{URL: url, Stream: "foreign"})
	if err := foreign.stream.DeleteMsg(t.Context(), 1); err == nil {
		t.Error("a stream that Open made lets records be deleted")
	}
	if err := foreign.stream.Purge(t.Context()); err == nil {
		t.Error("a stream that Open made lets records be purged")
	}
	if _, err := js.Publish(t.Context(), "foreign", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := foreign.Replay(t.Context(), 0, nothing); !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), "sequence 1") {
		t.Errorf("a foreign record: got %v, want ErrUnusable and where", err)
	}
	if _, err := Open(t.Context(), Config{URL: url, Stream: "a.b"}); err == nil {
		t.Error("a name that NATS does not allow was taken")
	}
}

// TestServerGone: without a server every call ends with ErrUnreachable, and
// with the server back the same log goes on where it was.
func TestServerGone(t *testing.T) {
	dir := t.TempDir()
	port := freePort(t)
	s := startServer(t, dir, port)
	back := make(chan struct{})
	l := mustOpen(t, Config{URL: s.ClientURL()})
	isBack := sync.OnceFunc(func() { close(back) })
	l.nc.SetReconnectHandler(func(*nats.Conn) { isBack() })
	gone := make(chan struct{})
	isGone := sync.OnceFunc(func() { close(gone) })
	l.nc.SetDisconnectErrHandler(func(*nats.Conn, error) { isGone() })
	end, err := l.Append(t.Context(), 0, event("a", 1))
	if err != nil {
		t.Fatal(err)
	}
	stopServer(s)
	<-gone
	if _, err := l.Append(t.Context(), end, event("b", 1)); !errors.Is(err, ErrUnreachable) {
		t.Errorf("append: got %v, want ErrUnreachable", err)
	}
	if _, err := l.End(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("end: got %v, want ErrUnreachable", err)
	}
	if _, err := Open(t.Context(), Config{URL: s.ClientURL()}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("open: got %v, want ErrUnreachable", err)
	}
	startServer(t, dir, port)
	<-back
	if _, err := l.Append(t.Context(), end, event("b", 1)); err != nil {
		t.Errorf("append to the server that is back: %v", err)
	}
	if got, want := keys(t, l, 0), "a(1) b(1)"; got != want {
		t.Errorf("the log holds %s, want %s", got, want)
	}
	_ = l.Close()
	if _, err := l.Append(t.Context(), end, event("c", 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("append after Close: got %v, want ErrClosed", err)
	}
}

// TestCutOff: what a crash of the server left of an append is passed over, and
// the next append follows it.
func TestCutOff(t *testing.T) {
	url := server(t).ClientURL()
	l := mustOpen(t, Config{URL: url})
	end, err := l.Append(t.Context(), 0, event("a", 1))
	if err != nil {
		t.Fatal(err)
	}
	parts, err := l.split(frame.Append(nil, []registry.Event{event("cut off", 3*maxPart)}))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range parts[:2] {
		stored := nats.NewMsg(m.Subject)
		stored.Data = m.Data
		stored.Header.Set(partHeader, m.Header.Get(partHeader))
		if _, err := l.js.PublishMsg(t.Context(), stored); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Append(t.Context(), end, event("b", 1)); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("append before the remains were seen: got %v, want ErrConflict", err)
	}
	if got := keys(t, l, end); got != "" {
		t.Errorf("replay gives %s of an append that is not complete", got)
	}
	end, err = l.Append(t.Context(), end, event("b", 2*maxPart))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = l.Append(t.Context(), end, event("c", 1)); err != nil {
		t.Fatal(err)
	}
	if got, want := keys(t, l, 0), fmt.Sprintf("a(1) b(%d) c(1)", 2*maxPart); got != want {
		t.Errorf("the log holds %s, want %s", got, want)
	}
}
