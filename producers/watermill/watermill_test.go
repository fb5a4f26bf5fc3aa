package watermill_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	wm "github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/google/go-cmp/cmp"

	"penstock/producers"
	"penstock/producers/watermill"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/stream"
)

// registry has one schema, for the orders, under id 7.
type registry struct{ order schemas.Schema }

func (r registry) Latest(_ context.Context, subject string) (schemas.ID, schemas.Schema, error) {
	if subject != "orders-value" && subject != "shop.Order" {
		return 0, nil, schemas.ErrNoSchema
	}
	return 7, r.order, nil
}

func (r registry) Schema(_ context.Context, id schemas.ID) (schemas.Schema, error) {
	if id != 7 {
		return nil, schemas.ErrNoSchema
	}
	return r.order, nil
}

func orders() registry {
	s, err := avro.Format{}.Parse(`{"type":"record","name":"Order","namespace":"shop","fields":[
		{"name":"id","type":"string"},{"name":"amount","type":"double"}]}`, nil)
	if err != nil {
		panic(err)
	}
	return registry{s}
}

func framed(t *testing.T, id string) []byte {
	t.Helper()
	b, err := orders().order.AppendEncode([]byte{0, 0, 0, 0, 7}, map[string]any{"id": id, "amount": 1.5})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// channel is Watermill's own, which keeps what was published.
func channel(t *testing.T) *gochannel.GoChannel {
	c := gochannel.NewGoChannel(gochannel.Config{Persistent: true, OutputChannelBuffer: 100, BlockPublishUntilSubscriberAck: false}, wm.NopLogger{})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// received are the next n messages of a topic.
func received(t *testing.T, c *gochannel.GoChannel, topic string, n int) map[string]*message.Message {
	t.Helper()
	in, err := c.Subscribe(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]*message.Message{}
	for range n {
		m := <-in
		got[m.UUID] = m
		m.Ack()
	}
	return got
}

func TestPublish(t *testing.T) {
	c := channel(t)
	p := watermill.Validate(c, orders(), watermill.Config{})
	in := message.NewMessage("json", []byte(`{"id":"a","amount":1.5}`))
	in.Metadata.Set("trace", "1")
	before := in.Copy()
	if err := p.Publish("orders", in, message.NewMessage("framed", framed(t, "b")), message.NewMessage("gone", nil)); err != nil {
		t.Fatal(err)
	}
	if !in.Equals(before) {
		t.Errorf("the caller's message was changed: %v", in)
	}
	got := received(t, c, "orders", 3)
	for uuid, want := range map[string][]byte{"json": framed(t, "a"), "framed": framed(t, "b"), "gone": nil} {
		if m := got[uuid]; m == nil || cmp.Diff(want, []byte(m.Payload)) != "" {
			t.Errorf("%s: got %v, want payload %x", uuid, m, want)
		}
	}
	if diff := cmp.Diff(message.Metadata{"trace": "1"}, got["json"].Metadata); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
}

func TestPayloadsStay(t *testing.T) {
	c := channel(t)
	p := watermill.Validate(c, orders(), watermill.Config{})
	const n = 20
	for i := range n {
		if err := p.Publish("orders", message.NewMessage(fmt.Sprint(i), fmt.Appendf(nil, `{"id":"order %d","amount":1.5}`, i))); err != nil {
			t.Fatal(err)
		}
	}
	for uuid, m := range received(t, c, "orders", n) {
		if diff := cmp.Diff(framed(t, "order "+uuid), []byte(m.Payload)); diff != "" {
			t.Errorf("message %s (-want +got):\n%s", uuid, diff)
		}
	}
}

// below records which calls come through.
type below struct {
	calls []string
	err   error
}

func (b *below) Publish(topic string, messages ...*message.Message) error {
	call := topic
	for _, m := range messages {
		call += " " + m.UUID
	}
	b.calls = append(b.calls, call)
	return b.err
}

func (b *below) Close() error { b.calls = append(b.calls, "close"); return nil }

func TestRefused(t *testing.T) {
	good := []byte(`{"id":"a","amount":1}`)
	for name, c := range map[string]struct {
		topic   string
		payload []byte
		want    []string
	}{
		"violations": {"orders", []byte(`{"id":1,"ammount":2}`), []string{"/id", "expected string", "/amount"}},
		"no JSON":    {"orders", []byte(`{"id":`), []string{"parse JSON: at /id, offset 6"}},
		"twice":      {"orders", []byte(`{"id":"a","id":"b","amount":1}`), []string{"id"}},
		"empty":      {"orders", []byte{}, []string{"parse JSON"}},
		"null":       {"orders", []byte("null"), []string{"tombstone"}},
		"unknown id": {"orders", []byte{0, 0, 0, 0, 8, 1}, []string{"id of a schema that the registry has"}},
		"cut":        {"orders", framed(t, "abc")[:8], []string{"encoding under schema 7"}},
		"no schema":  {"invoices", good, []string{"penstock schema register"}},
	} {
		t.Run(name, func(t *testing.T) {
			var to below
			err := watermill.Validate(&to, orders(), watermill.Config{}).Publish(c.topic, message.NewMessage("1", good), message.NewMessage("2", c.payload))
			var batch *stream.BatchError
			if !errors.As(err, &batch) || batch.Errs[1] == nil {
				t.Fatalf("got %v", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not name %q", err, want)
				}
			}
			if len(to.calls) > 0 {
				t.Errorf("the good one was published without the other: %q", to.calls)
			}
		})
	}
}

func TestMisfitsGoOn(t *testing.T) {
	misfits := func(m producers.Misfits) watermill.Config {
		return watermill.Config{Config: producers.Config{Topic: func(string) producers.Topic { return producers.Topic{Misfits: m} }}}
	}
	send := func(c watermill.Config) []string {
		var to below
		err := watermill.Validate(&to, orders(), c).Publish("orders",
			message.NewMessage("1", []byte(`{"id":"a","amount":1}`)),
			message.NewMessage("2", []byte(`{"id":"a"}`)),
			message.NewMessage("3", []byte(`{"id":"a","amount":3}`)))
		if err != nil {
			t.Fatal(err)
		}
		return to.calls
	}
	if diff := cmp.Diff([]string{"orders 1", "orders.dlq 2", "orders 3"}, send(misfits(producers.DeadLetter))); diff != "" {
		t.Errorf("dead letters (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"orders 1 2 3"}, send(misfits(producers.Mark))); diff != "" {
		t.Errorf("marked (-want +got):\n%s", diff)
	}

	c := channel(t)
	m := message.NewMessage("2", []byte(`{"id":"a"}`))
	m.Metadata.Set("trace", "1")
	if err := watermill.Validate(c, orders(), misfits(producers.Mark)).Publish("orders", m); err != nil {
		t.Fatal(err)
	}
	got := received(t, c, "orders", 1)["2"].Metadata
	if got["trace"] != "1" || !strings.Contains(got[producers.MisfitHeader], "/amount") {
		t.Errorf("got metadata %q", got)
	}
}

func TestTypes(t *testing.T) {
	var to below
	p := watermill.Validate(&to, orders(), watermill.Config{
		Config: producers.Config{Topic: func(string) producers.Topic {
			return producers.Topic{Value: producers.Part{Subject: producers.RecordSubject}}
		}},
		Type: func(m *message.Message) string { return m.Metadata.Get("name") },
	})
	m := message.NewMessage("1", []byte(`{"id":"a","amount":1}`))
	if err := p.Publish("anything", m); !errors.Is(err, producers.ErrNoType) {
		t.Errorf("no type: %v", err)
	}
	m.Metadata.Set("name", "shop.Order")
	if err := p.Publish("anything", m); err != nil {
		t.Error(err)
	}
}

func TestBelow(t *testing.T) {
	down := errors.New("down")
	to := below{err: down}
	p := watermill.Validate(&to, orders(), watermill.Config{})
	if err := p.Publish("orders", message.NewMessage("1", []byte(`{"id":"a","amount":1}`))); !errors.Is(err, down) {
		t.Errorf("got %v", err)
	}
	if err := p.Close(); err != nil || to.calls[len(to.calls)-1] != "close" {
		t.Errorf("close: %v, calls %q", err, to.calls)
	}
}

// An application validates by one line.
func Example() {
	registry := orders()
	var publisher message.Publisher = gochannel.NewGoChannel(gochannel.Config{}, wm.NopLogger{})

	publisher = watermill.Validate(publisher, registry, watermill.Config{})

	fmt.Println(publisher.Publish("orders", message.NewMessage("1", []byte(`{"id": "a", "amount": "12"}`))))
	// Output:
	// publish to topic "orders": record 0: event does not fit schema 7 of subject "orders-value": at /amount: expected number, found string "12"; write it without quotes
}
