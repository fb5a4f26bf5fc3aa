package schemas_test

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
	"penstock/schemas/samples"
)

const (
	cellsAvro = `{"type": "record", "name": "R", "fields": [
		{"name": "bool", "type": "boolean"}, {"name": "int", "type": "int"}, {"name": "long", "type": ["long", "null"]},
		{"name": "float", "type": "float"}, {"name": "double", "type": ["null", "double"]}, {"name": "text", "type": ["null", "string"]},
		{"name": "bytes", "type": "bytes"}, {"name": "fixed", "type": {"type": "fixed", "name": "F", "size": 3}},
		{"name": "enum", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
		{"name": "date", "type": {"type": "int", "logicalType": "date"}},
		{"name": "millis", "type": {"type": "long", "logicalType": "timestamp-millis"}},
		{"name": "micros", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
		{"name": "nanos", "type": {"type": "long", "logicalType": "timestamp-nanos"}},
		{"name": "local", "type": {"type": "long", "logicalType": "local-timestamp-micros"}}]}`
	cellsJSON = `{"type": "object", "required": ["int"], "properties": {
		"bool": {"type": "boolean"}, "int": {"type": "integer", "minimum": -5, "maximum": 100}, "long": {"type": ["integer", "null"]},
		"double": {"type": ["null", "number"]}, "text": {"type": ["string", "null"], "minLength": 1, "maxLength": 3},
		"enum": {"enum": ["A", "B"], "type": ["null", "string"]}, "time": {"type": "string", "format": "date-time"}}}`
)

// What is read into cells is what Decode accepts, and means the same to a column.
func checkCells(t interface {
	Helper()
	Fatalf(string, ...any)
}, s schemas.Schema, value []byte) bool {
	t.Helper()
	r := s.(schemas.CellReader)
	cells := make([]schemas.Cell, r.Cells())
	src := append([]byte("head"), value...)
	if !schemas.ReadCells(r, cells, src, 4) {
		return false
	}
	v, err := schemas.Decode(s, value, schemas.Limits{})
	if err != nil {
		t.Fatalf("%q was read into cells, but Decode says: %v", value, err)
	}
	if w, ok := schemas.NewCellWriter(s); ok {
		want, err := schemas.AppendJSON(nil, v)
		if got := w.Append(nil, cells, src); err != nil || string(got) != string(want) {
			t.Fatalf("%q as JSON: %s, want %s, %v", value, got, want, err)
		}
	}
	columns := sqlsink.ColumnsOf(s.Model())
	for i, c := range columns {
		want, wantErr := c.Convert(v.(map[string]any)[c.Name])
		got, err := c.Convert(cells[i].Value(s.Model().Fields[i].Node, src))
		if fmt.Sprint(got) != fmt.Sprint(want) || (err == nil) != (wantErr == nil) {
			t.Fatalf("%q, column %q: cell %v, %v; Decode %v, %v", value, c.Name, got, err, want, wantErr)
		}
	}
	return true
}

func TestCellsAvro(t *testing.T) {
	s, err := avro.Format{}.Parse(cellsAvro, nil)
	if err != nil {
		t.Fatal(err)
	}
	coarse, err := avro.Format{}.Parse(strings.Replace(cellsAvro, `{"name": "nanos", "type": {"type": "long", "logicalType": "timestamp-nanos"}},`, "", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := schemas.NewCellWriter(coarse); !ok {
		t.Fatal("the record without nanoseconds is not written from cells")
	}
	if _, ok := schemas.NewCellWriter(s); ok {
		t.Fatal("nanoseconds are written from cells")
	}
	plain := 0
	rapid.Check(t, func(t *rapid.T) {
		or := func(label string, v any) any {
			if rapid.Bool().Draw(t, label) {
				return nil
			}
			return v
		}
		at := func(label string) time.Time {
			return time.UnixMilli(rapid.Int64Range(-1e12, 4e12).Draw(t, label)).UTC()
		}
		v := map[string]any{
			"bool": rapid.Bool().Draw(t, "bool"), "int": rapid.Int32().Draw(t, "int"), "long": or("no long", rapid.Int64().Draw(t, "long")),
			"float": rapid.Float32().Draw(t, "float"), "double": or("no double", rapid.Float64().Draw(t, "double")),
			"text": or("no text", rapid.String().Draw(t, "text")), "bytes": rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"),
			"fixed": []byte("abc"), "enum": rapid.SampledFrom([]string{"A", "B"}).Draw(t, "enum"), "date": at("date").Truncate(24 * time.Hour),
			"millis": at("millis"), "micros": or("no micros", at("micros")), "nanos": at("nanos"), "local": at("local"),
		}
		b, err := s.AppendEncode(nil, v)
		if err != nil {
			t.Skip() // a float that is infinite
		}
		if !checkCells(t, s, b) {
			t.Fatalf("%v was not read into cells", v)
		}
		plain++
		if i := rapid.IntRange(0, len(b)-1).Draw(t, "at"); true { // any other bytes
			b[i] = rapid.Byte().Draw(t, "byte")
		}
		checkCells(t, s, b[:rapid.IntRange(0, len(b)).Draw(t, "length")])
		checkCells(t, s, b)

		// As JSON, which has finer times than cells.
		delete(v, "nanos")
		if b, err = coarse.AppendEncode(nil, v); err != nil || !checkCells(t, coarse, b) {
			t.Fatalf("%v was not read into cells: %v", v, err)
		}
	})
	if plain == 0 {
		t.Error("no value was read into cells")
	}
}

const cellsProtobuf = `syntax = "proto3"; import "google/protobuf/timestamp.proto";
	message R {
		bool bool = 1; int32 int = 2; optional int64 long = 3; float float = 4; optional double double = 5; optional string text = 6; bytes bytes = 7;
		E enum = 8; optional E some = 9; google.protobuf.Timestamp time = 10; uint32 uint = 11; sint32 sint = 12; optional sint64 slong = 13;
		fixed32 fixed = 14; sfixed32 sfixed = 15; sfixed64 sflong = 16; string name = 1000;
	}
	enum E { option allow_alias = true; Z = 0; A = 5; B = 5; N = -1; }`

func TestCellsProtobuf(t *testing.T) {
	s, err := protobuf.Format{}.Parse(cellsProtobuf, nil)
	if err != nil {
		t.Fatal(err)
	}
	plain := 0
	rapid.Check(t, func(t *rapid.T) {
		v := map[string]any{}
		some := func(name string, of any) {
			if rapid.Bool().Draw(t, "has "+name) {
				v[name] = of
			}
		}
		some("bool", rapid.Bool().Draw(t, "bool"))
		for _, name := range []string{"int", "sint", "sfixed"} {
			some(name, rapid.Int32().Draw(t, name))
		}
		for _, name := range []string{"long", "slong", "sflong"} {
			some(name, rapid.Int64().Draw(t, name))
		}
		some("uint", rapid.Uint32().Draw(t, "uint"))
		some("fixed", rapid.Uint32().Draw(t, "fixed"))
		some("float", rapid.Float32().Draw(t, "float"))
		some("double", rapid.Float64().Draw(t, "double"))
		some("text", rapid.String().Draw(t, "text"))
		some("name", rapid.String().Draw(t, "name"))
		some("bytes", rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		some("enum", rapid.SampledFrom([]string{"Z", "A", "B", "N"}).Draw(t, "enum"))
		some("some", rapid.SampledFrom([]string{"Z", "A", "B", "N"}).Draw(t, "some"))
		some("time", time.Unix(rapid.Int64Range(-62_135_596_800, 253_402_300_799).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanos")).UTC())
		b, err := s.AppendEncode(nil, v)
		if err != nil {
			t.Skip() // text that is not UTF-8
		}
		if !checkCells(t, s, b) {
			t.Fatalf("%v was not read into cells", v)
		}
		plain++
		other, err := s.AppendEncode(nil, map[string]any{"int": 7, "text": "later", "time": time.Unix(1, 0)})
		if err != nil {
			t.Fatal(err)
		}
		checkCells(t, s, append(slices.Clone(b), other...))
		if len(b) == 0 {
			return
		}
		b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte") // any other bytes
		checkCells(t, s, b[:rapid.IntRange(0, len(b)).Draw(t, "length")])
		checkCells(t, s, b)
	})
	if plain == 0 {
		t.Error("no value was read into cells")
	}
}

// What the schema does not know is left out, as by Decode, and what is not plain is
// left to it.
func TestCellsProtobufOdd(t *testing.T) {
	s, err := protobuf.Format{}.Parse(cellsProtobuf, nil)
	if err != nil {
		t.Fatal(err)
	}
	for text, plain := range map[string]bool{
		"\x88\x03\x01":             true, // number 49
		"\x8b\x03\x10\x01\x8c\x03": true, // a group of number 49
		"\x10\x01\x10\x02":         true, // the last of two counts
		"\x10\x81\x80\x80\x80\x10": true, // more than 32 bits
		"\x10\x80":                 false,
		"\x15\x00\x00\x00\x00":     false, // another wire type: a field that is not known
		"\x40\x07":                 false, // a number that is no symbol
		"\x32\x01\xff":             false, // no UTF-8
		"\x52\x00\x52\x00":         false, // two timestamps
		"\x52\x02\x18\x01":         false, // one with more in it
		"\x00\x01":                 false,
		"\x8c\x03":                 false, // the end of no group
	} {
		if got := checkCells(t, s, []byte(text)); got != plain {
			t.Errorf("%q was read into cells: %t, want %t", text, got, plain)
		}
	}
	for _, field := range []string{"repeated int32 a = 1;", "map<string, int32> a = 1;", "R a = 1;", "oneof o { int32 a = 1; }", "uint64 a = 1;", "fixed64 a = 1;", "int32 a = 1025;"} {
		s, err := protobuf.Format{}.Parse(`syntax = "proto3"; message R {`+field+`}`, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.(schemas.CellReader).Cells(); n != 0 {
			t.Errorf("%s: %d cells", field, n)
		}
	}
}

func TestCellsJSON(t *testing.T) {
	s, err := jsonschema.Format{}.Parse(cellsJSON, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		`{"int":5}`, ` { "long" : null , "int" : -5 } `, `{"int":100,"double":1e3,"text":"äöü","enum":"B","bool":false,"time":"2024-02-29T23:59:59.123456789Z"}`,
		`{"int":1,"time":"0001-01-01T00:00:00Z"}`, `{"int":1,"time":"1969-12-31T23:59:59.9999999Z"}`, `{"int":1,"double":-0.5}`,
	} {
		if !checkCells(t, s, []byte(text)) {
			t.Errorf("%s was not read into cells", text)
		}
	}
	for _, text := range []string{
		`{}`, `{"int":101}`, `{"int":-6}`, `{"int":1,"int":2}`, `{"int":1.5}`, `{"int":null}`, `{"int":1,"text":""}`, `{"int":1,"text":"long"}`,
		`{"int":1,"enum":null}`, `{"int":1,"enum":"C"}`, `{"int":1,"time":"2023-02-29T00:00:00Z"}`, `{"int":1,"time":"2023-02-28T24:00:00Z"}`,
		`{"int":1,"time":"2023-02-28"}`, `{"int":01}`, `{"int":1}x`, `{"int":1,}`, `{"int":1`, `{"int":1,"bool":0}`, `{"int":1,"text":"a` + "\n" + `"}`,
		`{"int":1,"text":"` + "\xff" + `"}`, `[]`, `{"int":1 "bool":true}`, `{"int" 1}`, `{"int":1,"time":"0000-01-01T00:00:00Z"}`,
	} {
		if checkCells(t, s, []byte(text)) { // which fails where Decode refuses it
			t.Errorf("%s was read into cells", text)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		b := []byte(rapid.SampledFrom([]string{
			`{"int":5,"long":12345678901,"double":1.25e-3,"text":"abc","enum":"A","time":"2013-01-01T10:00:00Z","bool":true}`,
			`{"time":"1999-12-31T23:59:59.5Z","text":null,"int":7,"double":null,"long":0}`,
		}).Draw(t, "text"))
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.SampledFrom([]byte(` "0159.eE-+:,{}TZtnul`+"\x00\xc3")).Draw(t, "byte")
		}
		checkCells(t, s, b)
	})
}

// A schema that says what is not checked here is read by Decode alone.
func TestNoCells(t *testing.T) {
	for _, text := range []string{
		`{"type":"string","format":"uuid"}`, `{"type":"integer","multipleOf":2}`, `{"type":"number","minimum":0}`, `{"type":"string","pattern":"a"}`,
		`{"type":"integer","minimum":0.5}`, `{"type":"integer","not":{"const":1}}`, `{"type":["integer","string"]}`, `{"type":"array"}`, `{"const":1}`,
		`{"type":"string","enum":["a",null]}`, `{"allOf":[{"type":"string"}]}`, `true`,
	} {
		s, err := jsonschema.Format{}.Parse(`{"type":"object","properties":{"a":`+text+`}}`, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.(schemas.CellReader).Cells(); n != 0 {
			t.Errorf("%s: %d cells", text, n)
		}
	}
	for _, whole := range []string{
		`{"type":"object","properties":{"a":{"type":"string"}},"minProperties":1}`, `{"type":["object","null"],"properties":{"a":{"type":"string"}}}`,
		`{"type":"object","properties":{"a":{"type":"string"}},"required":["b"]}`, `{"properties":{"a":{"type":"string"}}}`,
	} {
		s, err := jsonschema.Format{}.Parse(whole, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.(schemas.CellReader).Cells(); n != 0 {
			t.Errorf("%s: %d cells", whole, n)
		}
	}
	for _, text := range []string{
		`{"type":"array","items":"int"}`, `["int","string"]`, `["null","int","string"]`, `{"type":"bytes","logicalType":"decimal","precision":4}`,
		`{"type":"string","logicalType":"uuid"}`, `{"type":"int","logicalType":"time-millis"}`, `{"type":"record","name":"I","fields":[]}`,
	} {
		s, err := avro.Format{}.Parse(`{"type":"record","name":"R","fields":[{"name":"a","type":`+text+`}]}`, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.(schemas.CellReader).Cells(); n != 0 {
			t.Errorf("%s: %d cells", text, n)
		}
	}
}

// Flights are what the cells are for.
func TestCellsFlights(t *testing.T) {
	sample, err := samples.Get("flights")
	if err != nil {
		t.Fatal(err)
	}
	for language, f := range map[schemas.Type]schemas.Format{schemas.Avro: avro.Format{}, schemas.JSON: jsonschema.Format{}, schemas.Protobuf: protobuf.Format{}} {
		text, err := sample.Schema(language)
		if err != nil {
			t.Fatal(err)
		}
		s, err := f.Parse(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		events, err := sample.Events(100)
		if err != nil {
			t.Fatal(err)
		}
		for event := range events {
			b, err := s.AppendEncode(nil, event)
			if err != nil {
				t.Fatal(err)
			}
			if !checkCells(t, s, b) {
				t.Fatalf("%s: %s was not read into cells", language, b)
			}
		}
	}
}

// Neither reading makes Go values.
func TestCellsAllocate(t *testing.T) {
	s, err := avro.Format{}.Parse(cellsAvro, nil)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	b, err := s.AppendEncode(nil, map[string]any{"bool": true, "int": 1, "long": 2, "float": 1, "text": strings.Repeat("long", 20), "bytes": []byte("b"),
		"fixed": []byte("abc"), "enum": "A", "date": at, "millis": at, "nanos": at, "local": at})
	if err != nil {
		t.Fatal(err)
	}
	r := s.(schemas.CellReader)
	cells := make([]schemas.Cell, r.Cells())
	if n := testing.AllocsPerRun(100, func() { schemas.ReadCells(r, cells, b, 0) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if reflect.TypeFor[schemas.Cell]().Size() > 24 {
		t.Error("a cell is larger than 24 bytes")
	}
	if f := schemas.FloatCell(math.Pi).Float(); f != math.Pi {
		t.Error(f)
	}
}

// BenchmarkCells reads a flight as a Go value, and into cells.
func BenchmarkCells(b *testing.B) {
	sample, err := samples.Get("flights")
	if err != nil {
		b.Fatal(err)
	}
	for language, f := range map[schemas.Type]schemas.Format{schemas.Avro: avro.Format{}, schemas.JSON: jsonschema.Format{}, schemas.Protobuf: protobuf.Format{}} {
		text, err := sample.Schema(language)
		if err != nil {
			b.Fatal(err)
		}
		s, err := f.Parse(text, nil)
		if err != nil {
			b.Fatal(err)
		}
		events, err := sample.Events(1)
		if err != nil {
			b.Fatal(err)
		}
		var value []byte
		for event := range events {
			if value, err = s.AppendEncode(nil, event); err != nil {
				b.Fatal(err)
			}
		}
		r := s.(schemas.CellReader)
		cells := make([]schemas.Cell, r.Cells())
		b.Run(string(language)+"/value", func(b *testing.B) {
			for b.Loop() {
				if _, err := schemas.Decode(s, value, schemas.Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(string(language)+"/cells", func(b *testing.B) {
			for b.Loop() {
				if !schemas.ReadCells(r, cells, value, 0) {
					b.Fatal("not read into cells")
				}
			}
		})
	}
}
