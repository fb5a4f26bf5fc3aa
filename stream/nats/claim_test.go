package nats

import (
	"testing"
	"time"

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
