package schemas_test

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
	"penstock/schemas/samples"
)

var formats = []schemas.Format{avro.Format{}, jsonschema.Format{}, protobuf.Format{}}

func sampleSchema(t testing.TB, f schemas.Format, name string) (samples.Sample, schemas.Schema) {
	t.Helper()
	s, err := samples.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	text, err := s.Schema(f.Type())
	if err != nil {
		t.Fatal(err)
	}
	schema, err := f.Parse(text, nil)
	if err != nil {
		t.Fatalf("%s: %v", f.Type(), err)
	}
	return s, schema
}

func firstEvent(t testing.TB, s samples.Sample) map[string]any {
	t.Helper()
	events, err := s.Events(1)
	if err != nil {
		t.Fatal(err)
	}
	for e := range events {
		return e
	}
	panic("no event")
}

// The same mistake in the same record reads the same in every language that
// can express the rule.
func TestTheSameMistakeReadsTheSame(t *testing.T) {
	all := []schemas.Type{schemas.Avro, schemas.JSON, schemas.Protobuf}
	// Protobuf 3 has no required fields, and a message in it may be absent.
	notProtobuf, onlyProtobuf := all[:2], all[2:]
	onlyJSON := []schemas.Type{schemas.JSON}
	type violation = schemas.Violation
	in := func(sample string, types []schemas.Type, why string, breakIt func(map[string]any), want ...violation) {
		t.Helper()
		for _, f := range formats {
			if !slices.Contains(types, f.Type()) {
				continue
			}
			s, schema := sampleSchema(t, f, sample)
			e := firstEvent(t, s)
			breakIt(e)
			dst := []byte("kept")
			out, err := schema.AppendEncode(dst, e)
			var refused *schemas.ValueError
			if !errors.As(err, &refused) {
				t.Errorf("%s, %s: got %v, want a *ValueError", why, f.Type(), err)
				continue
			}
			if string(out) != "kept" {
				t.Errorf("%s, %s: dst became %q", why, f.Type(), out)
			}
			if diff := cmp.Diff(want, refused.Violations); diff != "" {
				t.Errorf("%s, %s: %s", why, f.Type(), diff)
			}
		}
	}

	in("flights", all, "text for a number",
		func(e map[string]any) { e["distance"] = "far" },
		violation{"/distance", "32-bit integer", `string "far"`, "change the value, or the type in the schema"})
	in("flights", all, "a number beyond its width",
		func(e map[string]any) { e["distance"] = json.Number("5000000000") },
		violation{"/distance", "32-bit integer", "number 5000000000", "the range is -2147483648 to 2147483647"})
	in("flights", all, "a number beyond any width",
		func(e map[string]any) { e["distance"] = json.Number("1e300") },
		violation{"/distance", "32-bit integer", "number 1e300", "the range is -2147483648 to 2147483647"})
	in("flights", all, "a fraction for an integer",
		func(e map[string]any) { e["flight"] = 12.5 },
		violation{"/flight", "32-bit integer", "number 12.5", "round it, or make the field a floating-point number in the schema"})
	in("flights", all, "null where there must be a value",
		func(e map[string]any) { e["distance"] = nil },
		violation{"/distance", "32-bit integer", "null", "give it a value: null is not allowed here"})
	in("flights", all, "text for a number that may be null",
		func(e map[string]any) { e["dep_delay"] = "late" },
		violation{"/dep_delay", "32-bit integer or null", `string "late"`, "change the value, or the type in the schema"})
	in("flights", all, "a number for text",
		func(e map[string]any) { e["carrier"] = json.Number("7") },
		violation{"/carrier", "string", "number 7", "put it in quotes"})
	in("flights", all, "text that is not UTF-8",
		func(e map[string]any) { e["carrier"] = "U\xff" },
		violation{"/carrier", "string", `2 bytes that are not UTF-8, beginning "U\xff"`, "write the text in UTF-8"})
	in("flights", all, "text for a boolean",
		func(e map[string]any) { e["cancelled"] = "no" },
		violation{"/cancelled", "boolean", `string "no"`, "change the value, or the type in the schema"})
	in("flights", notProtobuf, "text that is no timestamp",
		func(e map[string]any) { e["time_hour"] = "tomorrow" },
		violation{"/time_hour", "timestamp", `string "tomorrow"`, "write it as 2013-02-08T17:00:00Z"})
	in("flights", onlyProtobuf, "text that is no timestamp, which in Protobuf may be absent",
		func(e map[string]any) { e["time_hour"] = "tomorrow" },
		violation{"/time_hour", "timestamp or null", `string "tomorrow"`, "write it as 2013-02-08T17:00:00Z"})
	in("flights", all, "a misspelled field that may be left out",
		func(e map[string]any) { e["tailnumm"] = e["tailnum"]; delete(e, "tailnum") },
		violation{"/tailnumm", "a field of the schema", `the unknown field "tailnumm"`, `did you mean "tailnum"?`})
	in("flights", all, "a field like no other",
		func(e map[string]any) { e["passengers"] = 120 },
		violation{"/passengers", "a field of the schema", `the unknown field "passengers"`, "remove it, or add it to the schema"})
	in("flights", notProtobuf, "a missing field",
		func(e map[string]any) { delete(e, "dest") },
		violation{"/dest", "string", "nothing", `the field "dest" is required: add it`})
	in("flights", all, "several mistakes, in the order of the schema",
		func(e map[string]any) {
			e["origin"], e["month"], e["year"], e["zzz"], e["a/b"] = 5, true, []any{}, 1, 2
		},
		violation{"/year", "32-bit integer", "array of 0", "change the value, or the type in the schema"},
		violation{"/month", "32-bit integer", "boolean true", "change the value, or the type in the schema"},
		violation{"/origin", "string", "number 5", "put it in quotes"},
		violation{"/a~1b", "a field of the schema", `the unknown field "a/b"`, "remove it, or add it to the schema"},
		violation{"/zzz", "a field of the schema", `the unknown field "zzz"`, "remove it, or add it to the schema"})
	in("sensors", all, "a misspelled symbol",
		func(e map[string]any) { e["status"] = "FUALT" },
		violation{"/status", `one of "OK", "WARN", "FAULT"`, `string "FUALT"`, `did you mean "FAULT"?`})
	in("sensors", all, "a number beyond the largest",
		func(e map[string]any) { e["sequence"] = uint64(math.MaxUint64) },
		violation{"/sequence", "64-bit integer", "number 18446744073709551615", "the range is -9223372036854775808 to 9223372036854775807"})
	in("sensors", all, "a value of the wrong type in a map",
		func(e map[string]any) { e["tags"] = map[string]any{"hall": "A", "line": 3} },
		violation{"/tags/line", "string", "number 3", "put it in quotes"})
	in("orders", all, "mistakes in an array of records",
		func(e map[string]any) {
			e["lines"] = []any{
				map[string]any{"sku": "A-1", "quantity": 1, "cents": 5},
				map[string]any{"sku": 3, "quantity": 1, "cents": 5, "colour": "red"},
				"A-2",
			}
		},
		violation{"/lines/1/sku", "string", "number 3", "put it in quotes"},
		violation{"/lines/1/colour", "a field of the schema", `the unknown field "colour"`, "remove it, or add it to the schema"},
		violation{"/lines/2", "object", `string "A-2"`, "change the value, or the type in the schema"})
	in("orders", all, "an object for an array",
		func(e map[string]any) { e["lines"] = map[string]any{} },
		violation{"/lines", "array", "object of 0 fields", "change the value, or the type in the schema"})
	in("flights", onlyJSON, "a rule that only JSON Schema has",
		func(e map[string]any) { e["month"], e["distance"] = 13, 1e30 },
		violation{"/distance", "32-bit integer", "number 1e+30", "the range is -2147483648 to 2147483647"},
		violation{"/month", "at most 12", "number 13", "change the value, or the rule in the schema"})
	in("sensors", onlyJSON, "what JSON cannot hold",
		func(e map[string]any) { e["celsius"] = math.NaN() },
		violation{"/celsius", "a finite number", "number NaN", ""})
}

// Something else than a record is refused as a whole.
func TestNotARecord(t *testing.T) {
	for _, f := range formats {
		_, schema := sampleSchema(t, f, "flights")
		for _, v := range []any{nil, "EWR", []any{}, 5} {
			_, err := schema.AppendEncode(nil, v)
			var refused *schemas.ValueError
			if !errors.As(err, &refused) {
				t.Errorf("%s, %v: got %v", f.Type(), v, err)
				continue
			}
			hint := "change the value, or the type in the schema"
			if v == nil {
				hint = "give it a value: null is not allowed here"
			}
			want := []schemas.Violation{{Expected: "object", Found: schemas.Describe(v), Hint: hint}}
			if diff := cmp.Diff(want, refused.Violations); diff != "" {
				t.Errorf("%s, %v: %s", f.Type(), v, diff)
			}
		}
	}
}

// Every event of every sample fits in every language and, but for Avro and
// Protobuf's richer types, comes back as it was.
func TestSamplesInEveryLanguage(t *testing.T) {
	for _, f := range formats {
		for _, name := range samples.Names() {
			s, schema := sampleSchema(t, f, name)
			events, err := s.Events(150)
			if err != nil {
				t.Fatal(err)
			}
			i := 0
			for e := range events {
				b, err := schema.AppendEncode(nil, e)
				if err != nil {
					t.Fatalf("%s %s %d: %v", f.Type(), name, i, err)
				}
				back, err := schemas.Decode(schema, b, schemas.Limits{})
				if err != nil {
					t.Fatalf("%s %s %d: %v", f.Type(), name, i, err)
				}
				if f.Type() == schemas.JSON {
					again, err := schema.AppendEncode(nil, back)
					if err != nil || string(again) != string(b) {
						t.Fatalf("%s %s %d: %s, %v, then %s", f.Type(), name, i, b, err, again)
					}
				} else if diff := cmp.Diff(e, back); diff != "" {
					t.Fatalf("%s %s %d: %s", f.Type(), name, i, diff)
				}
				broken, what := s.Break(i, e)
				missing := i%4 == 1 // which Protobuf 3 cannot refuse
				if _, err := schema.AppendEncode(nil, broken); err == nil && !(missing && f.Type() == schemas.Protobuf) {
					t.Fatalf("%s %s %d: accepted although %s", f.Type(), name, i, what)
				}
				i++
			}
		}
	}
}

// The neutral trees of a sample agree on what the languages have in common:
// the names, their order, the kinds, and what may be null.
func TestModelsAgree(t *testing.T) {
	type field struct {
		Name     string
		Kind     schemas.Kind
		Logical  schemas.Logical
		Nullable bool
	}
	outline := func(n *schemas.Node) []field {
		var out []field
		for _, f := range n.Fields {
			inner, nullable := f.Node.Nullable()
			if inner.Logical == schemas.Timestamp {
				out = append(out, field{f.Name, 0, inner.Logical, false})
				continue
			}
			out = append(out, field{f.Name, inner.Kind, inner.Logical, nullable})
		}
		return out
	}
	for _, name := range samples.Names() {
		_, first := sampleSchema(t, formats[0], name)
		want := outline(first.Model())
		for _, f := range formats[1:] {
			_, schema := sampleSchema(t, f, name)
			if diff := cmp.Diff(want, outline(schema.Model())); diff != "" {
				t.Errorf("%s: %s: %s", name, f.Type(), diff)
			}
		}
	}
}

// TestRetag tags everything in each sample, finds the tags in the new text, and
// takes them away again.
func TestRetag(t *testing.T) {
	for _, f := range formats {
		for _, name := range []string{"flights", "weather", "orders", "sensors", "digits"} {
			_, s := sampleSchema(t, f, name)
			retag := func(s schemas.Schema, tags ...string) (schemas.Schema, map[schemas.Entity][]string) {
				before := map[schemas.Entity][]string{}
				text, err := s.(schemas.Tagger).Retag(func(e schemas.Entity, had []string) []string {
					before[e] = had
					return tags
				})
				if err != nil {
					t.Fatal(err)
				}
				again, err := f.Parse(text, nil)
				if err != nil || again.Canonical() != text {
					t.Fatalf("%s of %s: %v, or not canonical:\n%s", f.Type(), name, err, text)
				}
				return again, before
			}
			tagged, none := retag(s, "A", "B")
			bare, all := retag(tagged)
			if len(none) < 3 || len(all) != len(none) {
				t.Errorf("%s of %s has %d entities, and with tags %d", f.Type(), name, len(none), len(all))
			}
			for e, tags := range all {
				if f.Type() == schemas.JSON && e.Type == schemas.RecordEntity {
					continue // the field that it is, if it is one, comes first
				}
				if !slices.Equal(tags, []string{"A", "B"}) || none[e] != nil {
					t.Errorf("%s of %s: %v has tags %q, had %q", f.Type(), name, e, tags, none[e])
				}
			}
			if f.Type() != schemas.Protobuf && bare.Canonical() != s.Canonical() { // there the import stays
				t.Errorf("%s of %s without tags again:\n%s\nwant\n%s", f.Type(), name, bare.Canonical(), s.Canonical())
			}
		}
	}
}
