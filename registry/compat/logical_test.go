package compat_test

import (
	"strings"
	"testing"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
)

// TestLogical is the policy LOGICAL in each language: what it finds beyond
// STRICT, and where.
func TestLogical(t *testing.T) {
	f := func(format schemas.Format, writer, reader string, want ...string) {
		t.Helper()
		parse := func(text string) schemas.Schema {
			s, err := format.Parse(text, nil)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		old, now := parse(writer), parse(reader)
		found := func(p registry.Policy) (at []string) {
			findings, err := compat.Checker{}.Check(now, old, registry.Backward, p)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range findings {
				if f.Rule == "COLUMN_TYPE_CHANGED" {
					at = append(at, f.ReaderPath)
					if f.Severity != registry.SeverityError || compat.Checker.Locate(compat.Checker{}, format.Type(), reader, f.ReaderPath) == nil {
						t.Errorf("%s to %s: %+v lies nowhere in the text, or is no error", writer, reader, f)
					}
				}
			}
			return at
		}
		if got := found(registry.PolicyStrict); got != nil {
			t.Errorf("%s to %s: under STRICT too: %q", writer, reader, got)
		}
		if got := found(registry.PolicyLogical); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s to %s: got %q, want %q", writer, reader, got, want)
		}
	}
	a := func(fields ...string) string {
		return `{"type":"record","name":"R","fields":[` + strings.Join(fields, ",") + `]}`
	}
	field := func(name, typ string) string { return `{"name":"` + name + `","type":` + typ + `}` }
	decimal := func(precision, scale string) string {
		return `{"type":"bytes","logicalType":"decimal","precision":` + precision + `,"scale":` + scale + `}`
	}
	for _, fits := range [][2]string{
		{`"int"`, `"long"`}, {`"float"`, `"double"`}, {`"int"`, `["null","int"]`}, {decimal("5", "2"), decimal("7", "2")},
		{`{"type":"array","items":"int"}`, `{"type":"array","items":"long"}`}, {`{"type":"enum","name":"E","symbols":["x"]}`, `{"type":"enum","name":"E","symbols":["x","y"]}`},
	} {
		f(avro.Format{}, a(field("a", fits[0])), a(field("a", fits[1])))
	}
	for _, breaks := range [][3]string{
		{`"int"`, `"float"`, ""}, {`"long"`, `"double"`, ""}, {`"int"`, `"double"`, ""}, {`"string"`, `"bytes"`, ""},
		{decimal("7", "2"), decimal("5", "2"), ""}, {decimal("7", "2"), decimal("7", "3"), ""}, {decimal("7", "2"), `"bytes"`, ""},
		{`"long"`, `{"type":"long","logicalType":"timestamp-millis"}`, ""}, {`"int"`, `{"type":"int","logicalType":"date"}`, ""},
		{`{"type":"array","items":"int"}`, `{"type":"array","items":"float"}`, "/items"},
		{`{"type":"map","values":["null","int"]}`, `{"type":"map","values":["null","float"]}`, "/values"},
	} {
		f(avro.Format{}, a(field("k", `"int"`), field("a", breaks[0])), a(field("a", breaks[1])), "/fields/0/type"+breaks[2])
	}
	f(avro.Format{}, a(field("a", `"int"`)), a(`{"name":"b","type":"float","aliases":["a"]}`), "/fields/0/type")
	// A recursive schema, in which each break is told once.
	f(avro.Format{}, a(field("a", `"int"`), field("next", `["null","R"]`)), a(field("a", `"float"`), field("next", `["null","R"]`)), "/fields/0/type")

	f(jsonschema.Format{}, `{"properties":{"a":{"type":"integer"},"b":{"properties":{"c":{"type":"integer"}}}}}`,
		`{"properties":{"a":{"type":"number"},"b":{"properties":{"c":{"type":"number"}}}}}`, "#/properties/a", "#/properties/b/properties/c")
	f(jsonschema.Format{}, `{"type":"array","items":{"type":"integer"}}`, `{"type":"array","items":{"type":"number"}}`, "#/items")
	f(jsonschema.Format{}, `{"type":"integer"}`, `{"type":["integer","string"]}`)

	p := func(fields string) string {
		return `syntax = "proto3"; message A { int32 x = 1; } message B { message C { ` + fields + ` } C c = 7; }`
	}
	f(protobuf.Format{}, p("int32 n = 1;"), p("int64 n = 1;"))
	f(protobuf.Format{}, p("int64 n = 1;"), p("int32 m = 1;"), "#/B/7/1")
	f(protobuf.Format{}, p("string n = 1;"), p("bytes n = 1;"), "#/B/7/1")
}
