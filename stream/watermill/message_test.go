package watermill

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/stream"
	"penstock/stream/memory"
)

// content is what of a message has to arrive, exactly.
type content struct {
	UUID     string
	Metadata message.Metadata
	Payload  message.Payload
}

func contentOf(m *message.Message) content { return content{m.UUID, m.Metadata, m.Payload} }

func TestEncodeDecode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bytes := rapid.SliceOf(rapid.Byte())
		text := rapid.Map(bytes, func(b []byte) string { return string(b) })
		m := message.NewMessage(text.Draw(t, "uuid"), nil)
		if rapid.Bool().Draw(t, "has a payload") {
			m.Payload = append([]byte{}, bytes.Draw(t, "payload")...)
		}
		for name, value := range rapid.MapOf(text, text).Draw(t, "metadata") {
			m.Metadata[name] = value
		}
		r, err := encode("topic", m)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(contentOf(m), contentOf(NewMessage(t.Context(), r))); diff != "" {
			t.Errorf("sent and received differ (-sent +received):\n%s", diff)
		}
	})
}

func TestEncodeIsTheSameEachTime(t *testing.T) {
	m := message.NewMessage("id", nil)
	for name := range strings.SplitSeq("b a d c f e h g", " ") {
		m.Metadata[name] = "v"
	}
	first, err := encode("topic", m)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		again, _ := encode("topic", m)
		if diff := cmp.Diff(first, again); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestDecodeForeignRecord(t *testing.T) {
	r := stream.Record{
		Topic: "flights", Partition: 3, Offset: 41, Key: []byte("k"), Value: []byte("v"),
		Headers: []stream.Header{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte{}}, {Key: "a", Value: []byte("2")}},
	}
	m := NewMessage(t.Context(), r)
	want := content{"flights/3/41", message.Metadata{"a": "1", "b": ""}, message.Payload("v")}
	if diff := cmp.Diff(want, contentOf(m)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	m.Payload[0] = 'X' // a handler's own
	got, ok := RecordFromContext(m.Context())
	if diff := cmp.Diff(r, got); !ok || diff != "" {
		t.Errorf("record of the context: %t (-want +got):\n%s", ok, diff)
	}
	if string(got.Value) != "v" {
		t.Error("a handler that changes the payload changes the record")
	}
	if _, ok := RecordFromContext(t.Context()); ok {
		t.Error("a context of no message has a record")
	}
}

func TestReservedMetadata(t *testing.T) {
	var sent recorder
	p := NewPublisher(&sent, PublisherConfig{})
	bad := message.NewMessage("2", nil)
	bad.Metadata[uuidHeader] = "mine"
	err := p.Publish("topic", message.NewMessage("1", nil), bad)
	if err == nil || !strings.Contains(err.Error(), "message 1") || !strings.Contains(err.Error(), uuidHeader) {
		t.Errorf("got %v", err)
	}
	if len(sent.records) > 0 {
		t.Errorf("published %v", sent.records)
	}
}

// recorder is a stream.Publisher that keeps what it is given.
type recorder struct {
	records []stream.Record
	err     error
}

func (r *recorder) Publish(_ context.Context, records ...stream.Record) error {
	r.records = append(r.records, records...)
	return r.err
}

func TestKeys(t *testing.T) {
	f := func(key func(*message.Message) []byte, m *message.Message, want []byte) {
		t.Helper()
		var sent recorder
		if err := NewPublisher(&sent, PublisherConfig{Key: key}).Publish("topic", m); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, sent.records[0].Key); diff != "" {
			t.Errorf("key (-want +got):\n%s", diff)
		}
	}
	plain := message.NewMessage("id", nil)
	plain.Metadata = message.Metadata{"customer": "7", "empty": ""}
	f(nil, plain, nil)
	f(KeyFromMetadata("customer"), plain, []byte("7"))
	f(KeyFromMetadata("empty"), plain, []byte{})
	f(KeyFromMetadata("other"), plain, nil)

	made := message.NewMessage("id", nil)
	made.SetContext(NewMessage(t.Context(), stream.Record{Key: []byte("k")}).Context())
	f(nil, made, []byte("k"))
	f(func(*message.Message) []byte { return nil }, made, nil)
}

func TestPublishErrors(t *testing.T) {
	failed := &stream.BatchError{}
	failed.Fail(1, stream.ErrTooLarge)
	p := NewPublisher(&recorder{err: failed}, PublisherConfig{})
	err := p.Publish("topic", message.NewMessage("1", nil), message.NewMessage("2", nil))
	var batch *stream.BatchError
	if !errors.As(err, &batch) || batch.Errs[1] == nil || !strings.Contains(err.Error(), `"topic"`) {
		t.Errorf("got %v", err)
	}

	b := memory.New()
	p = NewPublisher(b, PublisherConfig{})
	if err := p.Publish("nowhere", message.NewMessage("1", nil)); !errors.Is(err, stream.ErrNoTopic) {
		t.Errorf("to no topic: %v", err)
	}
	if err := p.Publish("nowhere"); err != nil {
		t.Errorf("no messages: %v", err)
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := p.Publish("nowhere", message.NewMessage("1", nil)); !errors.Is(err, stream.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := b.Create(t.Context(), "nowhere", 1); err != nil {
		t.Errorf("the broker was closed with the publisher: %v", err)
	}
}

// slow is a stream.Publisher that takes until ctx ends, or forever.
type slow struct{}

func (slow) Publish(ctx context.Context, _ ...stream.Record) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestPublishEndsWithAnyMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for i := range 3 {
			messages := []*message.Message{message.NewMessage("0", nil), message.NewMessage("1", nil), message.NewMessage("2", nil)}
			ctx, cancel := context.WithCancel(t.Context())
			messages[i].SetContext(ctx)
			p := NewPublisher(slow{}, PublisherConfig{})
			published, closed := make(chan error, 1), make(chan error, 1)
			go func() { published <- p.Publish("topic", messages...) }()
			synctest.Wait()
			go func() { closed <- p.Close() }()
			synctest.Wait()
			if len(published) > 0 || len(closed) > 0 {
				t.Fatal("did not wait")
			}
			cancel()
			if err := <-published; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if err := <-closed; err != nil {
				t.Error(err)
			}
		}
	})
}
