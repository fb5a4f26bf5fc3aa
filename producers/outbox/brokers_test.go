package outbox_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"penstock/schemas"
	"penstock/servertest"
	"penstock/stream"
	"penstock/stream/kafka"
	"penstock/stream/nats"
)

// anySubject has a schema for everything.
type anySubject struct{ registry }

func (r anySubject) Latest(context.Context, string) (schemas.ID, schemas.Schema, error) {
	return 1, r.event, nil
}

// A topic that cannot be, and what is beyond the broker's limits, is refused on
// every broker, and holds up nobody.
func TestBrokers(t *testing.T) {
	for name, open := range map[string]func() (stream.Broker, error){
		"Kafka": func() (stream.Broker, error) {
			return kafka.Open(t.Context(), kafka.Config{Seeds: strings.Split(servertest.Kafka(t), ","), Timeout: 10 * time.Second})
		},
		"NATS": func() (stream.Broker, error) { return nats.Open(t.Context(), nats.Config{URL: servertest.NATS(t)}) },
	} {
		t.Run(name, func(t *testing.T) {
			f := setUp(t)
			broker, err := open()
			if err != nil {
				t.Fatal(err)
			}
			defer broker.Close()
			topic := servertest.Name(t)
			if err := broker.Create(t.Context(), topic, 2); err != nil {
				t.Fatal(err)
			}
			names := []string{"a b", "x/y", "*", ">", "..", "é", topic + "-not-there", strings.Repeat("n", 300)}
			for _, n := range names {
				f.insert(f.db, n, "k", 1)
			}
			f.insert(f.db, topic, "k", 1)
			f.exec(f.db, `UPDATE outbox SET created_at = 'infinity' WHERE topic = $1`, topic) // which is taken for now
			f.exec(f.db, `INSERT INTO outbox (topic, key, payload, headers) VALUES
				($1, 'k', '{"n": 2}', jsonb_build_object('h', repeat('x', 3000000))), ($1, repeat('x', 3000000), '{"n": 2}', NULL)`, topic)
			for _, plain := range []bool{false, true} {
				c := f.config(broker)
				if plain {
					c.Publisher = publisherOnly{broker}
				}
				c.Registry = anySubject{events()}
				if published, refused := f.drain(c); published != 1 || refused != int64(len(names)+2) {
					t.Errorf("%d published, %d refused", published, refused)
				}
				f.exec(f.db, `WITH back AS (DELETE FROM outbox_refused RETURNING *) INSERT INTO outbox (topic, key, payload, headers) SELECT topic, key, payload, headers FROM back`)
				f.insert(f.db, topic, "k", 2)
			}
		})
	}
}

// publisherOnly is a broker that keeps no positions.
type publisherOnly struct{ stream.Publisher }
