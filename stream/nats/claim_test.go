package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"penstock/stream"
)

// A source that is closed while it waits for its first record keeps the
// partition from nobody: the server must not pin its request, which still
// waits, for a failover of an hour.
func TestClosedWhileWaiting(t *testing.T) {
	b, err := OpenDir(t.Context(), t.TempDir(), Options{Failover: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	create(t, b, "t", 1)
	src := open(t, b, stream.Subscription{Topic: "t", Group: "g"})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for waiting := 0; waiting == 0; <-tick.C {
		c, err := b.js.Consumer(t.Context(), "t", "g-0")
		if err != nil {
			t.Fatal(err)
		}
		waiting = c.CachedInfo().NumWaiting
	}
	if err := src.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), stream.Record{Topic: "t"}); err != nil {
		t.Fatal(err)
	}
	read(t, open(t, b, stream.Subscription{Topic: "t", Group: "g"}), 1)
}

// unheld is a slog.Handler that passes on why partitions are not held.
type unheld struct {
	slog.Handler
	said chan string
}

func (unheld) Enabled(context.Context, slog.Level) bool { return true }

func (w unheld) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "partition is not held" {
		return nil
	}
	text := r.Level.String()
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	w.said <- text
	return nil
}

// A partition that cannot be held, here for want of room for a consumer, is
// warned of, with what to do, and is held once that is done.
func TestUnheldIsSaid(t *testing.T) {
	t.Parallel()
	w := unheld{slog.DiscardHandler, make(chan string, 100)}
	b, err := OpenDir(t.Context(), t.TempDir(), Options{Failover: time.Second, Logger: slog.New(w)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	config := jetstream.StreamConfig{}
	err = b.create(t.Context(), "t", 1, func(c *jetstream.StreamConfig) {
		c.MaxConsumers = 1 // the lease, but nothing to read by
		config = *c
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), stream.Record{Topic: "t"}); err != nil {
		t.Fatal(err)
	}
	src := open(t, b, stream.Subscription{Topic: "t", Group: "g", Owner: oldest{}})
	said := <-w.said
	// The tenth attempt is later than the lease is long.
	for attempt := 1; attempt < 10 && !strings.HasPrefix(said, "WARN"); attempt++ {
		said = <-w.said
	}
	for _, part := range []string{"WARN", "topic=t", "partition=0", "raise max_consumers"} {
		if !strings.Contains(said, part) {
			t.Errorf("it says %q, which does not say %q", said, part)
		}
	}
	config.MaxConsumers = 2
	if _, err := b.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	read(t, src, 1)
	for len(w.said) > 0 {
		if said := <-w.said; strings.HasPrefix(said, "WARN") {
			t.Errorf("it warns more than once a minute: %s", said)
		}
	}
}

// The lease of an Owner's partition holds no position, so that the server may
// forget it, and will when nobody asks for it; the source makes it anew.
func TestLeaseForgotten(t *testing.T) {
	t.Parallel()
	b, err := OpenDir(t.Context(), t.TempDir(), Options{Failover: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	create(t, b, "t", 1)
	if err := b.Publish(t.Context(), stream.Record{Topic: "t"}); err != nil {
		t.Fatal(err)
	}
	src := open(t, b, stream.Subscription{Topic: "t", Group: "g", Owner: oldest{}})
	read(t, src, 1)
	lease, err := b.js.Consumer(t.Context(), "t", "g-0-lease")
	if err != nil {
		t.Fatal(err)
	}
	if idle := lease.CachedInfo().Config.InactiveThreshold; idle != leaseIdle {
		t.Errorf("the server forgets a lease after %v, want %v", idle, leaseIdle)
	}
	if err := b.js.DeleteConsumer(t.Context(), "t", "g-0-lease"); err != nil {
		t.Fatal(err)
	}
	// Its Owner begins anew, at the oldest record, once it has a lease again.
	read(t, src, 1)
	if _, err := b.js.Consumer(t.Context(), "t", "g-0-lease"); err != nil {
		t.Errorf("the partition is held without a lease: %v", err)
	}
}

// Who takes a position over goes on while the one who had it is faster, for as long
// as its context lasts.
func TestTakeFromBusyWriter(t *testing.T) {
	x := &writer{}
	faster := 100
	if err := x.take(t.Context(), func() error {
		if faster--; faster >= 0 {
			return fmt.Errorf("commit: %w", stream.ErrFenced)
		}
		return nil
	}); err != nil {
		t.Errorf("after a hundred batches of another: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	if err := x.take(ctx, func() error {
		if calls++; calls == 3 {
			cancel()
		}
		return stream.ErrFenced
	}); !errors.Is(err, stream.ErrFenced) || calls != 3 {
		t.Errorf("its context ended at the third attempt: %v after %d", err, calls)
	}
}

// A topic of many partitions has room for more consumers than a server admits
// for a stream by itself.
func TestRoomForConsumers(t *testing.T) {
	t.Parallel()
	b := openDir(t, t.TempDir())
	f := func(partitions, want int) {
		t.Helper()
		name := strings.Repeat("t", partitions)
		create(t, b, name, partitions)
		s, err := b.js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.CachedInfo().Config.MaxConsumers; got != want {
			t.Errorf("a topic of %d partitions admits %d consumers, want %d", partitions, got, want)
		}
	}
	f(50, -1)
	f(51, 51*groupConsumers)
}
