package nats

import (
	"context"
	"errors"
	"testing"

	"penstock/stream"
)

// An ack that did not get through is given again, and counts then.
func TestSettleAgain(t *testing.T) {
	b := openDir(t, t.TempDir())
	create(t, b, "t", 1)
	for _, v := range []string{"a", "b"} {
		if err := b.Publish(t.Context(), stream.Record{Topic: "t", Value: []byte(v)}); err != nil {
			t.Fatal(err)
		}
	}
	src := open(t, b, stream.Subscription{Topic: "t", Group: "g"})
	_, ack, err := src.Fetch(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ack(over, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("ack without time: %v", err)
	}
	for range 2 {
		if err := ack(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := src.Close(); err != nil {
		t.Fatal(err)
	}
	src = open(t, b, stream.Subscription{Topic: "t", Group: "g"})
	if r := read(t, src, 1)[0]; string(r.Value) != "b" {
		t.Errorf("%q comes again", r.Value)
	}
}
