package consumers_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
)

// board takes announcements down, or fails.
type board struct {
	down   error
	topics []string
	said   []stream.Record
}

func (b *board) Create(_ context.Context, topic string, _ int) error {
	b.topics = append(b.topics, topic)
	return nil
}

func (b *board) Publish(_ context.Context, records ...stream.Record) error {
	if b.down == nil {
		b.said = append(b.said, records...)
	}
	return b.down
}

// A consumer is announced with each schema that is new to it, and once a day;
// what could not be said is said later.
func TestAnnounce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{}
		a := consumers.NewAnnouncer(b, consumers.Reading{Topic: "orders", Group: "billing", Fields: []string{"amount"}})
		see := func(ids ...schemas.ID) {
			t.Helper()
			batch := consumers.Batch{}
			for _, id := range ids {
				batch.Messages = append(batch.Messages, consumers.Message{SchemaID: id})
			}
			if err := a.Announce(t.Context(), batch); !errors.Is(err, b.down) {
				t.Errorf("got %v, want %v", err, b.down)
			}
		}
		want := func(schemas ...[]schemas.ID) {
			t.Helper()
			if len(b.said) != len(schemas) {
				t.Fatalf("%d announcements, want %d", len(b.said), len(schemas))
			}
			for i, r := range b.said {
				got, err := consumers.ReadReading(r)
				if err != nil {
					t.Fatal(err)
				}
				want := consumers.Reading{Topic: "orders", Group: "billing", Fields: []string{"amount"}, Schemas: schemas[i]}
				if diff := cmp.Diff(want, got); diff != "" || r.Topic != consumers.ReadersTopic || string(r.Key) != "billing/orders" {
					t.Errorf("announcement %d, key %q (-want +got):\n%s", i, r.Key, diff)
				}
			}
			b.said = nil
		}
		type ids = []schemas.ID
		see(0) // tombstones
		want()
		see(3, 3, 3)
		see(3)
		see(1, 3)
		want(ids{3}, ids{1, 3})
		time.Sleep(25 * time.Hour)
		see(3)
		see(3)
		want(ids{1, 3})
		b.down = errors.New("no broker")
		see(7)
		b.down = nil
		see(7)
		see(8) // still within the minute
		want()
		time.Sleep(time.Minute)
		see(3)
		want(ids{1, 3, 7, 8})
		if diff := cmp.Diff([]string{consumers.ReadersTopic}, b.topics); diff != "" {
			t.Errorf("topics made (-want +got):\n%s", diff)
		}
	})
}

func TestReadReading(t *testing.T) {
	for _, text := range []string{"", "[]", `{"topic":"t"}`, `{"group":"g"}`} {
		if _, err := consumers.ReadReading(stream.Record{Value: []byte(text)}); err == nil {
			t.Errorf("%q is taken for an announcement", text)
		}
	}
}
