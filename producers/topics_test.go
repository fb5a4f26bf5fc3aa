package producers

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
	"penstock/stream"
	"penstock/stream/memory"
)

func parse(t testing.TB, f schemas.Format, text string) schemas.Schema {
	t.Helper()
	s, err := f.Parse(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func topics(t Topic) Config { return Config{Topic: func(string) Topic { return t }} }

func TestKeysWithASchema(t *testing.T) {
	reg := &registry{
		subjects: []string{"orders-value", "orders-key"},
		schemas:  []schemas.Schema{order(t), parse(t, avro.Format{}, `"string"`)},
	}
	var pub publisher
	p := New(&pub, reg, Config{})
	err := p.Publish(t.Context(),
		Event{Topic: "orders", Key: []byte("not used"), KeyValue: "k1", Value: value("a")},
		Event{Topic: "orders", KeyValue: 7, Value: value("b")},
		Event{Topic: "orders", KeyValue: "k2"},
		Event{Topic: "orders", KeyValue: "k3", Value: map[string]any{}},
		Event{Topic: "orders", Key: []byte("plain"), Value: value("c")},
	)
	var failed *stream.BatchError
	if !errors.As(err, &failed) || len(failed.Errs) != 2 {
		t.Fatalf("got %v, want two refused", err)
	}
	if text := failed.Errs[1].Error(); !strings.Contains(text, "key of the event does not fit schema 2") {
		t.Error(text)
	}
	want := []stream.Record{
		{Topic: "orders", Key: []byte("\x00\x00\x00\x00\x02\x04k1"), Value: encoded(t, "a")},
		{Topic: "orders", Key: []byte("\x00\x00\x00\x00\x02\x04k2")},
		{Topic: "orders", Key: []byte("plain"), Value: encoded(t, "c")},
	}
	if diff := cmp.Diff(want, pub.records); diff != "" {
		t.Error("published (-want +got):\n", diff)
	}
	var none *NoSchemaError
	if err := p.Publish(t.Context(), Event{Topic: "x", KeyValue: 1}); !errors.As(err, &none) || none.Subject != "x-key" {
		t.Errorf("keys without a schema: %v", err)
	}
}

func TestSubjects(t *testing.T) {
	reg := &registry{subjects: []string{"shop.Order", "orders-shop.Order"}, schemas: []schemas.Schema{order(t), order(t)}}
	for want, subject := range map[byte]Subject{1: RecordSubject, 2: TopicRecordSubject} {
		var pub publisher
		p := New(&pub, reg, topics(Topic{Value: Part{Subject: subject}}))
		err := p.Publish(t.Context(),
			Event{Topic: "orders", Type: "shop.Order", Value: value("a")},
			Event{Topic: "orders", Value: value("b")},
			Event{Topic: "orders", Type: "shop.Refund", Value: value("c")},
		)
		var failed *stream.BatchError
		if !errors.As(err, &failed) || len(failed.Errs) != 2 || !errors.Is(failed.Errs[1], ErrNoType) || !errors.Is(failed.Errs[2], schemas.ErrNoSchema) {
			t.Errorf("got %v, want ErrNoType and ErrNoSchema", err)
		}
		if len(pub.records) != 1 || pub.records[0].Value[4] != want {
			t.Errorf("published %v, want one of schema %d", pub.records, want)
		}
	}
	away := errors.New("associations cannot be asked for")
	p := New(&publisher{}, reg, topics(Topic{Value: Part{Subject: func(context.Context, string, string) (string, error) { return "", away }}}))
	if err := p.Publish(t.Context(), Event{Topic: "orders", Value: 1}); !errors.Is(err, away) {
		t.Errorf("a subject that cannot be found out: %v", err)
	}
}

func TestGUIDHeader(t *testing.T) {
	guid := schemas.GUID{1, 2, 3}
	messages := parse(t, protobuf.Format{}, `syntax = "proto3"; message A {} message B { string id = 1; }`)
	b, err := messages.(schemas.Messages).Message([]int{1})
	if err != nil {
		t.Fatal(err)
	}
	lookup := func(_ context.Context, subject string) (schemas.Registered, error) {
		switch subject {
		case "orders-key":
			return schemas.Registered{ID: 3, GUID: schemas.GUID{9}, Schema: parse(t, avro.Format{}, `"string"`)}, nil
		case "orders-value":
			return schemas.Registered{ID: 4, GUID: guid, Schema: b}, nil
		}
		return schemas.Registered{ID: 5, Schema: b}, nil
	}
	part := Part{Lookup: lookup, GUIDHeader: true}
	var pub publisher
	p := New(&pub, nil, topics(Topic{Key: part, Value: part}))
	headers := make([]stream.Header, 1, 4)
	headers[0] = stream.Header{Key: "h"}
	event := Event{Topic: "orders", KeyValue: "k", Value: map[string]any{"id": "a"}, Headers: headers}
	if err := p.Publish(t.Context(), event, event); err != nil {
		t.Fatal(err)
	}
	record := stream.Record{Topic: "orders", Key: []byte("\x02k"), Value: []byte("\x0a\x01a"), Headers: []stream.Header{
		{Key: "h"},
		{Key: schemas.KeyHeader, Value: schemas.AppendGUID(nil, schemas.GUID{9})},
		{Key: schemas.ValueHeader, Value: append(schemas.AppendGUID(nil, guid), 2, 2)},
	}}
	if diff := cmp.Diff([]stream.Record{record, record}, pub.records); diff != "" {
		t.Error("published (-want +got):\n", diff)
	}
	if beyond := headers[:2][1]; beyond.Key != "" {
		t.Errorf("header %s was written into the caller's memory", beyond.Key)
	}
	if err := p.Publish(t.Context(), Event{Topic: "x", Value: map[string]any{}}); err == nil || !strings.Contains(err.Error(), "no GUID") {
		t.Errorf("a schema without a GUID: %v", err)
	}
}

func TestMisfits(t *testing.T) {
	reg := &registry{subjects: []string{"orders-value"}, schemas: []schemas.Schema{order(t)}}
	bad := Event{Topic: "orders", Key: []byte("k"), Value: map[string]any{"id": 1, "amount": 2}, Headers: []stream.Header{{Key: "h", Value: []byte("v")}}}
	text := Event{Topic: "orders", Value: json.RawMessage(`{"amount":"x"}`)}
	const why = "event does not fit schema 1 of subject \"orders-value\": "
	for _, test := range []struct {
		misfits Misfits
		topic   string
		want    map[string]string // headers
	}{
		{DeadLetter, "orders.dlq", map[string]string{
			stream.HeaderTopic: "orders", stream.HeaderReason: "does-not-fit", stream.HeaderPointer: "/id", stream.HeaderError: why,
		}},
		{Mark, "orders", map[string]string{MisfitHeader: why}},
	} {
		var pub publisher
		var refused []Event
		cfg := topics(Topic{Misfits: test.misfits})
		cfg.Refused = func(e Event, err error) {
			if !errors.As(err, new(*schemas.ValueError)) {
				t.Errorf("refused for %v", err)
			}
			refused = append(refused, e)
		}
		p := New(&pub, reg, cfg)
		if err := p.Check(t.Context(), bad); !errors.As(err, new(*stream.BatchError)) {
			t.Errorf("Check returns %v", err)
		}
		if err := p.Publish(t.Context(), Event{Topic: "orders", Value: value("a")}, bad, text, Event{Topic: "orders", Value: value("b")}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]Event{bad, text}, refused, cmpopts.EquateComparable(time.Time{})); diff != "" {
			t.Errorf("refused (-want +got):\n%s", diff)
		}
		if len(pub.records) != 4 {
			t.Fatalf("%d records, want all 4", len(pub.records))
		}
		if diff := cmp.Diff(encoded(t, "b"), pub.records[3].Value); diff != "" {
			t.Error(diff)
		}
		if r := pub.records[2]; string(r.Value) != `{"amount":"x"}` {
			t.Errorf("JSON text went on as %s", r.Value)
		}
		r := pub.records[1]
		if r.Topic != test.topic || string(r.Key) != "k" || string(r.Value) != `{"amount":2,"id":1}` {
			t.Errorf("the misfit became %s %s %s", r.Topic, r.Key, r.Value)
		}
		for key, want := range test.want {
			if got, ok := r.Header(key); !ok || !strings.HasPrefix(string(got), want) {
				t.Errorf("header %s: %s, want %s", key, got, want)
			}
		}
		if v, _ := r.Header("h"); string(v) != "v" {
			t.Error("the event's own header is gone")
		}
		if len(bad.Headers) != 1 {
			t.Error("the event's headers were changed")
		}
		// What can be written in no way fails, and so does what is no misfit.
		err := p.Publish(t.Context(), Event{Topic: "orders", Value: map[string]any{"id": math.NaN()}}, Event{Topic: "x", Value: 1})
		var failed *stream.BatchError
		if !errors.As(err, &failed) || len(failed.Errs) != 2 || !errors.Is(failed.Errs[1], schemas.ErrNoSchema) {
			t.Errorf("Publish returns %v", err)
		}
	}
}

// byID knows the schemas of registry by their ids.
type byID struct{ *registry }

func (r byID) Schema(_ context.Context, id schemas.ID) (schemas.Schema, error) {
	if r.err != nil {
		return nil, r.err
	}
	if id < 1 || int(id) > len(r.schemas) {
		return nil, schemas.ErrNoSchema
	}
	return r.schemas[id-1], nil
}

func TestBytes(t *testing.T) {
	reg := byID{&registry{subjects: []string{"orders-value"}, schemas: []schemas.Schema{order(t)}}}
	var pub publisher
	p := New(&pub, reg, Config{})
	raw := &Topic{AllowRaw: true}
	good := Framed(encoded(t, "a"))
	events := []Event{
		{Topic: "orders", Value: good},
		{Topic: "orders", KeyValue: Raw("k"), Value: Raw("anything"), How: raw},
		{Topic: "orders", Value: Raw("anything")},
		{Topic: "orders", Value: Framed("\x00\x00\x00\x00\x09x")},
		{Topic: "orders", Value: good[:len(good)-1]},
		{Topic: "orders", Value: Framed("no frame")},
		{Topic: "orders", Value: Framed(schemas.AppendGUID(nil, schemas.GUID{}))},
		{Topic: "orders", KeyValue: good, Value: value("b")},
		{Topic: "orders", Value: Raw{}, How: raw},
	}
	err := p.Publish(t.Context(), events...)
	var failed *stream.BatchError
	if !errors.As(err, &failed) || len(failed.Errs) != 5 || !errors.Is(failed.Errs[2], ErrRaw) {
		t.Fatalf("got %v, want five refused", err)
	}
	for i := 3; i < 7; i++ {
		if !errors.As(failed.Errs[i], new(*schemas.ValueError)) {
			t.Errorf("event %d: %v, want that it does not fit", i, failed.Errs[i])
		}
	}
	want := []stream.Record{
		{Topic: "orders", Value: good},
		{Topic: "orders", Key: []byte("k"), Value: []byte("anything")},
		{Topic: "orders", Key: good, Value: encoded(t, "b")},
		{Topic: "orders", Value: []byte{}},
	}
	if diff := cmp.Diff(want, pub.records); diff != "" {
		t.Error("published (-want +got):\n", diff)
	}
	reg.err = errors.New("away")
	if err := p.Publish(t.Context(), Event{Topic: "orders", Value: good}); !errors.Is(err, reg.err) {
		t.Errorf("the registry is away: %v", err)
	}
	if err := New(&pub, reg.registry, Config{}).Publish(t.Context(), Event{Topic: "orders", Value: good}); err == nil {
		t.Error("bytes were not checked")
	}
}

// JSON text becomes what the value in it becomes, with rules and without, and what
// is no JSON is set aside as it is.
func TestText(t *testing.T) {
	document, err := jsonschema.Format{}.Parse(`{"type":"object"}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	plain := registry{subjects: []string{"orders-value", "documents-key"}, schemas: []schemas.Schema{order(t), document}}
	ruled := &contracts{plain, []byte(`{"ruleSet":{"domainRules":[{"name":"named","kind":"CONDITION","type":"CEL","mode":"WRITE","expr":"!has(message.id) || message.id != 'x'"}]}}`)}
	dead := &Topic{Misfits: DeadLetter}
	for name, reg := range map[string]Registry{"without rules": &plain, "with rules": ruled} {
		var pub publisher
		err := New(&pub, reg, Config{}).Publish(t.Context(),
			Event{Topic: "orders", Value: JSON(` {"amount": 1.5, "id": "a"}`)},
			Event{Topic: "orders", Value: JSON(`{"amount": 1.5, "id": `)},
			Event{Topic: "orders", Value: JSON(`{"amount": 1.5}`)},
			Event{Topic: "orders", Value: JSON(`null`)},
			Event{Topic: "orders", Value: JSON(`{"id"`), How: dead},
			Event{Topic: "orders", Value: JSON(`{"amount": 1.5, "id": "x"}`)},
			Event{Topic: "documents", KeyValue: JSON(`{"b": 1, "a": 2}`)},
		)
		refused := map[int]string{1: "at /id: expected a JSON value, found the end; mend the JSON at byte 22", 2: "at /id: ", 3: "at the value: "}
		want := []stream.Record{
			{Topic: "orders", Value: encoded(t, "a")},
			{Topic: "orders.dlq", Value: []byte(`{"id"`)},
			{Topic: "orders", Value: encoded(t, "x")},
			{Topic: "documents", Key: []byte("\x00\x00\x00\x00\x02{\"a\":2,\"b\":1}")},
		}
		if name == "with rules" {
			refused[5] = "named"
			want = slices.Delete(want, 2, 3)
		}
		var failed *stream.BatchError
		if !errors.As(err, &failed) || len(failed.Errs) != len(refused) {
			t.Fatalf("%s: %v, want %d refused", name, err, len(refused))
		}
		for i, says := range refused {
			if err := failed.Errs[i]; !errors.As(err, new(*schemas.ValueError)) || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: event %d: %v, want %q", name, i, err, says)
			}
		}
		for i := range pub.records {
			pub.records[i].Headers = nil
		}
		if diff := cmp.Diff(want, pub.records); diff != "" {
			t.Errorf("%s: published (-want +got):\n%s", name, diff)
		}
	}
}

// Publish says where the events lie, the refused ones apart.
func TestPlaces(t *testing.T) {
	b := memory.New()
	defer b.Close()
	if err := b.Create(t.Context(), "orders", 1); err != nil {
		t.Fatal(err)
	}
	p := New(b, &registry{subjects: []string{"orders-value"}, schemas: []schemas.Schema{order(t)}}, Config{})
	events := []Event{{Topic: "orders", Value: value("a")}, {Topic: "orders", Value: 1}, {Topic: "orders", Value: value("b")}}
	if err := p.Publish(t.Context(), events...); !errors.As(err, new(*stream.BatchError)) {
		t.Fatal(err)
	}
	if events[0].Offset != 0 || events[2].Offset != 1 {
		t.Errorf("offsets %d and %d, want 0 and 1", events[0].Offset, events[2].Offset)
	}
	a := p.Async(AsyncConfig{})
	var at Place
	if err := a.Send(t.Context(), events[0], func(p Place, err error) { at = p }); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(t.Context()); err != nil || at != (Place{Partition: 0, Offset: 2}) {
		t.Errorf("placed at %+v, %v; want offset 2", at, err)
	}
}

func TestTyped(t *testing.T) {
	type Order struct {
		ID     string  `avro:"id"`
		Amount float64 `avro:"amount"`
		Note   *string `avro:"note"`
	}
	reg := &registry{subjects: []string{"shop.Order"}, schemas: []schemas.Schema{order(t)}}
	var pub publisher
	orders := NewTyped(New(&pub, reg, topics(Topic{Value: Part{Subject: RecordSubject}})), "orders",
		TypedOptions[Order]{Type: "shop.Order", Key: func(o Order) []byte { return []byte(o.ID) }})
	if err := orders.Publish(t.Context(), Order{"a", 1.5, nil}, Order{"b", 1.5, nil}); err != nil {
		t.Fatal(err)
	}
	if err := orders.Delete(t.Context(), []byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := orders.p.Publish(t.Context(), orders.Event(Order{"c", 1.5, nil})); err != nil {
		t.Fatal(err)
	}
	want := []stream.Record{
		{Topic: "orders", Key: []byte("a"), Value: encoded(t, "a")},
		{Topic: "orders", Key: []byte("b"), Value: encoded(t, "b")},
		{Topic: "orders", Key: []byte("a")},
		{Topic: "orders", Key: []byte("c"), Value: encoded(t, "c")},
	}
	if diff := cmp.Diff(want, pub.records); diff != "" {
		t.Error("published (-want +got):\n", diff)
	}
}
