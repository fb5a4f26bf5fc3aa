package consumers

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/stream"
)

// contracts is a registry of one subject, whose versions are numbered by id.
type contracts []schemas.Registered

func (c contracts) Schema(ctx context.Context, id schemas.ID) (schemas.Schema, error) {
	found, err := c.Registered(ctx, schemas.Header{ID: id})
	return found.Schema, err
}

func (c contracts) Registered(_ context.Context, h schemas.Header) (schemas.Registered, error) {
	if h.ByGUID || h.ID < 1 || int(h.ID) > len(c) {
		return schemas.Registered{}, schemas.ErrNoSchema
	}
	return c[h.ID-1], nil
}

func (c contracts) Path(_ context.Context, _ string, from, to schemas.Registered) ([]schemas.Registered, error) {
	var path []schemas.Registered
	for id := from.ID; ; {
		path = append(path, c[id-1])
		switch {
		case id < to.ID:
			id++
		case id > to.ID:
			id--
		default:
			return path, nil
		}
	}
}

// reader reads as the schema of an id.
func (c contracts) reader(id int) Reader {
	return func(context.Context, string) (schemas.Registered, error) { return c[id-1], nil }
}

// versions makes a subject of Avro records, each with its fields and its rules.
func versions(t testing.TB, texts ...[2]string) contracts {
	t.Helper()
	var c contracts
	for i, text := range texts {
		var format schemas.Format = avro.Format{}
		fields := `{"type":"record","name":"R","fields":[` + text[0] + `]}`
		if strings.HasPrefix(text[0], `{"type"`) {
			format, fields = jsonschema.Format{}, text[0]
		}
		s, err := format.Parse(fields, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := schemas.Registered{ID: schemas.ID(i + 1), Subject: "t-value", Version: i + 1, Schema: s}
		if text[1] != "" {
			r.Contract = []byte(`{"ruleSet":` + text[1] + `}`)
		}
		c = append(c, r)
	}
	return c
}

// read decodes v, written with the schema of an id.
func (c contracts) read(t *testing.T, d *Decoder, id int, v any) (Message, error) {
	t.Helper()
	value, err := c[id-1].Schema.AppendEncode(schemas.AppendHeader(nil, schemas.ID(id)), v)
	if err != nil {
		t.Fatal(err)
	}
	return d.Decode(t.Context(), stream.Record{Topic: "t", Value: value})
}

func TestReadRules(t *testing.T) {
	c := versions(t, [2]string{`{"name":"a","type":"int"},{"name":"s","type":"string","confluent:tags":["PII"]}`, `{"domainRules":[
		{"name":"positive","kind":"CONDITION","mode":"READ","type":"CEL","expr":"message.a > 0","onFailure":"DLQ"},
		{"name":"mask","kind":"TRANSFORM","mode":"READ","type":"CEL_FIELD","tags":["PII"],"expr":"'***'"},
		{"name":"more","kind":"TRANSFORM","mode":"READ","type":"CEL_FIELD","expr":"typeName == 'INT'; value + 1"}],
		"encodingRules":[{"name":"short","kind":"CONDITION","mode":"READ","type":"CEL","expr":"size(message) < 100"}]}`},
		[2]string{`{"name":"a","type":"int"}`, ""})
	d := NewDecoder(c, schemas.Limits{})
	m, err := c.read(t, d, 1, map[string]any{"a": 1, "s": "x"})
	if diff := cmp.Diff(map[string]any{"a": int32(2), "s": "***"}, m.Data); err != nil || diff != "" || m.SchemaID != 1 {
		t.Errorf("got %v, %v\n%s", m, err, diff)
	}
	for v, name := range map[string]map[string]any{"positive": {"a": -1, "s": ""}, "short": {"a": 1, "s": strings.Repeat("x", 200)}} {
		_, err := c.read(t, d, 1, name)
		var why *Reason
		if !errors.As(err, &why) || why.Code != RefusedByRule || !strings.Contains(err.Error(), v) {
			t.Errorf("%s: got %v", v, err)
		}
	}
	if m, err = c.read(t, d, 2, map[string]any{"a": -1}); err != nil || m.SchemaID != 2 {
		t.Errorf("without rules: %v, %v", m, err)
	}
	if m, err = d.Decode(t.Context(), stream.Record{}); err != nil || m.Data != nil {
		t.Errorf("a tombstone: %v, %v", m, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var why *Reason
	_, err = d.Decode(ended, stream.Record{Topic: "t", Value: []byte{0, 0, 0, 0, 1, 2, 0}})
	if !errors.Is(err, context.Canceled) || errors.As(err, &why) {
		t.Errorf("the end of the run is said to be the record's fault: %v", err)
	}
}

// TestMigration: records of any version are read as that of the reader.
func TestMigration(t *testing.T) {
	up := `{"migrationRules":[
		{"name":"u","mode":"UPGRADE","type":"JSONATA","expr":"$merge([$, {'full': name & '%'}])"},
		{"name":"d","mode":"DOWNGRADE","type":"JSONATA","expr":"$merge([$, {'name': full & '%'}])"}],
		"domainRules":[{"name":"c","kind":"CONDITION","mode":"READ","type":"CEL","expr":"!has(message.full) || message.full != 'no1'"}]}`
	swap := func(mark, from, to string) string {
		r := strings.NewReplacer("%", mark, "full", to, "name &", from+" &", "'name'", "'"+from+"'").Replace(up)
		return r
	}
	c := versions(t,
		[2]string{`{"name":"a","type":"long"},{"name":"one","type":"string"}`, ""},
		[2]string{`{"name":"a","type":"long"},{"name":"two","type":"string"}`, swap("1", "one", "two")},
		[2]string{`{"name":"a","type":"long"},{"name":"two","type":"string"},{"name":"b","type":"int","default":7}`, ""},
		[2]string{`{"name":"a","type":"double"},{"name":"four","type":"string"},{"name":"b","type":"int","default":7}`, swap("2", "two", "four")},
	)
	f := func(written, target int, v, want map[string]any) {
		t.Helper()
		d := NewDecoder(c, schemas.Limits{}).ReadAs(c.reader(target))
		for range 2 {
			m, err := c.read(t, d, written, v)
			if diff := cmp.Diff(any(want), m.Data); err != nil || diff != "" || m.SchemaID != schemas.ID(target) || m.Schema != c[target-1].Schema {
				t.Errorf("%d as %d: %v\n%s", written, target, err, diff)
			}
		}
	}
	type v = map[string]any
	f(1, 1, v{"a": 1, "one": "x"}, v{"a": int64(1), "one": "x"})
	f(1, 2, v{"a": 1, "one": "x"}, v{"a": int64(1), "two": "x1"})
	f(1, 3, v{"a": 1, "one": "x"}, v{"a": int64(1), "two": "x1", "b": int32(7)})
	f(1, 4, v{"a": 1, "one": "x"}, v{"a": 1.0, "four": "x12", "b": int32(7)})
	f(3, 2, v{"a": 1, "two": "x", "b": 1}, v{"a": int64(1), "two": "x"})
	f(3, 1, v{"a": 1, "two": "x", "b": 1}, v{"a": int64(1), "one": "x1"})
	f(4, 1, v{"a": 1, "four": "x", "b": 1}, v{"a": int64(1), "one": "x21"})
	d := NewDecoder(c, schemas.Limits{}).ReadAs(c.reader(2))
	if _, err := c.read(t, d, 1, v{"a": 1, "one": "no"}); err == nil || !strings.Contains(err.Error(), `"c"`) {
		t.Errorf("the reader's rules did not run: %v", err)
	}
	d = NewDecoder(c, schemas.Limits{}).ReadAs(c.reader(1))
	if _, err := c.read(t, d, 4, v{"a": 1.5, "four": "x"}); err == nil || !strings.Contains(err.Error(), "/a") {
		t.Errorf("half of a long: %v", err)
	}
	down := errors.New("down")
	d = NewDecoder(c, schemas.Limits{}).ReadAs(func(context.Context, string) (schemas.Registered, error) { return schemas.Registered{}, down })
	if _, err := c.read(t, d, 1, v{"a": 1, "one": "x"}); !errors.Is(err, down) || errors.As(err, new(*Reason)) {
		t.Errorf("the registry's failure is said to be the record's: %v", err)
	}
}

// TestFitted: what a schema leaves open stays.
func TestFitted(t *testing.T) {
	c := versions(t, [2]string{`{"type":"object","properties":{"a":{"type":"array","items":{"type":"object","properties":{"x":{"type":"integer"}},"additionalProperties":false}},"m":{"type":"object","additionalProperties":{"type":"string"}}}}`, ""})
	in := map[string]any{"a": []any{map[string]any{"x": json.Number("1"), "y": "z"}}, "m": map[string]any{"k": "v"}, "more": []any{map[string]any{"z": true}}}
	want := map[string]any{"a": []any{map[string]any{"x": json.Number("1")}}, "m": map[string]any{"k": "v"}, "more": []any{map[string]any{"z": true}}}
	if diff := cmp.Diff(any(want), Fitted(c[0].Schema.Model(), in)); diff != "" {
		t.Error(diff)
	}
}

// TestNoRulesNoCost: a schema without rules costs nothing more.
func TestNoRulesNoCost(t *testing.T) {
	c := versions(t, [2]string{`{"name":"a","type":"int"}`, ""})
	d, h := NewDecoder(c, schemas.Limits{}), schemas.Header{ID: 1}
	if n := testing.AllocsPerRun(10, func() {
		if p, err := d.plan(context.Background(), "t", h, c[0].Schema); p != nil || err != nil {
			t.Error(p, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
