package diffing

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
	"penstock/stream"
)

// envelopes are the schemas of events, by those of values: ids from 100 on.
type envelopes struct {
	values map[schemas.ID]schemas.Schema
	away   error
}

func (e *envelopes) of(_ context.Context, id schemas.ID) (schemas.Registered, error) {
	if e.away != nil {
		return schemas.Registered{}, e.away
	}
	if id >= 100 {
		return schemas.Registered{}, schemas.ErrNoSchema
	}
	text, err := EnvelopeText(e.values[id])
	if err != nil {
		return schemas.Registered{}, err
	}
	s, err := avro.Format{}.Parse(text, nil)
	return schemas.Registered{ID: 100 + id, Schema: s}, err
}

// Schema implements consumers.Registry, for the events.
func (e *envelopes) Schema(ctx context.Context, id schemas.ID) (schemas.Schema, error) {
	r, err := e.of(ctx, id-100)
	return r.Schema, err
}

func parseAvro(t testing.TB, text string) schemas.Schema {
	t.Helper()
	s, err := avro.Format{}.Parse(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Events under a schema say the same as those in JSON, and are applied like them,
// over a change of the values' schema too.
func TestEventsUnderASchema(t *testing.T) {
	registry := &envelopes{values: map[schemas.ID]schemas.Schema{
		1: parseAvro(t, `{"type":"record","name":"a.b.R","fields":[{"name":"x","type":"bytes"},{"name":"old","type":"int"}]}`),
		2: parseAvro(t, `{"type":"record","name":"R","namespace":"a.b","fields":[{"name":"x","type":"bytes"},{"name":"at","type":["null",{"type":"int","logicalType":"time-millis"}],"default":null}]}`),
		3: parseAvro(t, `{"type":"record","name":"a.b.R","fields":[{"name":"y","type":"int"}]}`),
	}}
	type m = map[string]any
	in := consumers.Batch{Topic: "in"}
	for _, v := range []struct {
		key  string
		id   schemas.ID
		data any
	}{
		{"a", 1, m{"x": []byte{255}, "old": int32(5)}},
		{"a", 2, m{"x": []byte{255}, "at": nil}}, // the same
		{"a", 2, m{"x": []byte{254}, "at": 5 * time.Second}},
		{"b", 1, m{"x": []byte{1}, "old": int32(6)}},
		{"b", 3, m{"y": int32(7)}}, // before it there is nothing that its schema can say
		{"a", 0, nil},
	} {
		msg := consumers.Message{Record: stream.Record{Topic: "in", Key: []byte(v.key), Offset: in.Next, Time: time.UnixMilli(1000 + in.Next)}}
		if v.data != nil {
			msg.Value, msg.SchemaID, msg.Schema, msg.Data = []byte("x"), v.id, registry.values[v.id], v.data
		}
		in.Messages = append(in.Messages, msg)
		in.Next++
	}
	var out output
	d, _ := open(t, t.TempDir(), Config{Broker: &out, Envelope: registry.of})
	registry.away = errors.New("registry is away")
	if err := d.Write(t.Context(), in); !errors.Is(err, registry.away) || errors.As(err, new(*stream.BatchError)) {
		t.Fatalf("without the registry: %v", err)
	}
	registry.away = nil
	write(t, d, in)

	decoder := consumers.NewDecoder(registry, schemas.Limits{})
	events := consumers.Batch{Topic: "in"}
	var got []string
	for _, r := range out.records {
		r.Topic, r.Offset = "in", events.Next
		msg, err := decoder.Decode(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		events.Messages = append(events.Messages, msg)
		events.Next++
		text, err := schemas.AppendJSON(nil, msg.Data)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %d %s", r.Key, msg.SchemaID, text))
	}
	source := func(offset int) string {
		return fmt.Sprintf(`"source":{"offset":%d,"partition":0,"topic":"in","ts_ms":%d},"ts_ms":%d}`, offset, 1000+offset, 1000+offset)
	}
	if diff := cmp.Diff([]string{
		`a 101 {"after":{"old":5,"x":"/w=="},"before":null,"op":"c",` + source(0),
		`a 102 {"after":{"at":"00:00:05","x":"/g=="},"before":{"at":null,"x":"/w=="},"op":"u",` + source(2),
		`b 101 {"after":{"old":6,"x":"AQ=="},"before":null,"op":"c",` + source(3),
		`b 103 {"after":{"y":7},"before":null,"op":"u",` + source(4),
		`a 102 {"after":null,"before":{"at":"00:00:05","x":"/g=="},"op":"d",` + source(5),
		`a 0 null`,
	}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	var kept output
	var sink table
	a, _ := applier(t, t.TempDir(), &kept, ApplyConfig{Sink: &sink})
	if refused := applying(t, a, events); len(refused) > 0 {
		t.Errorf("not applied: %q", refused)
	}
	if diff := cmp.Diff(map[string]string{"b": `{"y":7}`}, sink.rows); diff != "" {
		t.Error(diff)
	}
}

// The schema of events is one of Avro, whatever the values are.
func TestEnvelopeText(t *testing.T) {
	for _, text := range []string{
		`"string"`, `["null","long"]`, `["long","null",{"type":"enum","name":"E","symbols":["A"]}]`, `{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}`,
		`{"type":"map","values":{"type":"array","items":["null",{"type":"record","name":"N","namespace":"n","fields":[{"name":"next","type":["null","N"]}]}]}}`,
		`{"type":"fixed","name":"x.F","size":2}`,
	} {
		envelope, err := EnvelopeText(parseAvro(t, text))
		if err != nil {
			t.Fatal(err)
		}
		model := parseAvro(t, envelope).Model()
		before, after := model.Field("before").Node, model.Field("after").Node
		want := parseAvro(t, text).Model()
		plain, _ := want.Nullable()
		if b, nullable := before.Nullable(); !nullable || plain.Kind != b.Kind || plain.Name != b.Name || cmp.Diff(before, after) != "" {
			t.Errorf("%s becomes %s", text, envelope)
		}
	}
	json, err := jsonschema.Format{}.Parse(`{"type":"object"}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := EnvelopeText(json); !errors.Is(err, schemas.ErrBadSchema) || !strings.Contains(err.Error(), "expected values in Avro or Protobuf to write events under a schema of theirs, found JSON") {
		t.Errorf("of JSON: %v", err)
	}
}

// What has no schema cannot be written under one.
func TestEventsThatHaveNoSchema(t *testing.T) {
	var out output
	registry := &envelopes{}
	d, _ := open(t, t.TempDir(), Config{Broker: &out, Envelope: registry.of})
	in := batchOf(0, "a=1", "b=2")
	in.Messages[1].SchemaID = 100
	var refused *stream.BatchError
	if err := d.Write(t.Context(), in); !errors.As(err, &refused) || !strings.Contains(refused.Errs[0].Error(), "expected a value that names its schema by a number") || !errors.Is(refused.Errs[1], schemas.ErrNoSchema) {
		t.Errorf("got %v", err)
	}
	if _, err := Open(t.TempDir(), Config{Broker: &out, Name: "g", Topic: "out", Format: JSONPatch, Envelope: registry.of}); err == nil {
		t.Error("patches have no schema")
	}
}

// In Protobuf the envelope is a message beside the value's.
func TestEventsInProtobuf(t *testing.T) {
	parse := func(text string) schemas.Schema {
		s, err := protobuf.Format{}.Parse(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	value := parse(`syntax = "proto3"; package a.b; message R { string id = 1; optional bytes x = 2; Inner inner = 3; message Inner { int64 n = 1; } }`)
	text, err := EnvelopeText(value)
	if err != nil {
		t.Fatal(err)
	}
	file := parse(text)
	envelope, err := EnvelopeIn(file)
	if err != nil || envelope.Model().Name != "a.b.PenstockChange" {
		t.Fatalf("%v: %v", envelope, err)
	}
	var out output
	d, _ := open(t, t.TempDir(), Config{Broker: &out, Envelope: func(context.Context, schemas.ID) (schemas.Registered, error) {
		return schemas.Registered{ID: 9, Schema: envelope}, nil
	}})
	in := batchOf(0, `a={"id":"a","x":"/w==","inner":{"n":9007199254740993}}`, `a={"id":"a","x":null,"inner":null}`, `a`)
	for i := range in.Messages[:2] {
		in.Messages[i].SchemaID = 7
	}
	write(t, d, in)
	decoder := consumers.NewDecoder(only{file}, schemas.Limits{})
	var got []string
	for _, r := range out.records {
		m, err := decoder.Decode(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		data, _ := m.Data.(map[string]any)
		delete(data, "source")
		text, err := schemas.AppendJSON(nil, m.Data)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(text))
	}
	one, two := `{"id":"a","inner":{"n":9007199254740993},"x":"/w=="}`, `{"id":"a","inner":null,"x":null}`
	if diff := cmp.Diff([]string{
		`{"after":` + one + `,"before":null,"op":"c","ts_ms":1000}`, `{"after":` + two + `,"before":` + one + `,"op":"u","ts_ms":1001}`,
		`{"after":null,"before":` + two + `,"op":"d","ts_ms":1002}`, "null",
	}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	for _, wrong := range []string{`syntax = "proto3"; message A {} message B {}`, `syntax = "proto3"; enum E { A = 0; }`} {
		if _, err := EnvelopeText(parse(wrong)); !errors.Is(err, schemas.ErrBadSchema) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

// only is a registry of one schema.
type only struct{ s schemas.Schema }

// Schema implements consumers.Registry.
func (o only) Schema(context.Context, schemas.ID) (schemas.Schema, error) { return o.s, nil }
