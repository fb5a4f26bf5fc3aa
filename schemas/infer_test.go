package schemas_test

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
)

// sampleValue draws a JSON value of the kind that events have.
func sampleValue(t *rapid.T, depth int) any {
	kind := rapid.IntRange(0, 9).Draw(t, "kind")
	if depth > 2 {
		kind = min(kind, 7)
	}
	switch kind {
	case 0:
		return nil
	case 1:
		return rapid.Bool().Draw(t, "bool")
	case 2, 3:
		return json.Number(rapid.SampledFrom([]string{"0", "-1", "7", "1.5", "1e3", "9223372036854775807", "0.1"}).Draw(t, "number"))
	case 4, 5, 6, 7:
		return rapid.SampledFrom([]string{"", "a", "b", "a b", "2013-02-08", "2013-02-08T17:00:00Z", "2013-02-08T17:00:00+02:00",
			"2013-02-08T17:00:00.123456Z", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "é"}).Draw(t, "text")
	case 8:
		list := make([]any, rapid.IntRange(0, 3).Draw(t, "items"))
		for i := range list {
			list[i] = sampleValue(t, depth+1)
		}
		return list
	}
	return sampleObject(t, depth+1, "p", "q", "r", "a b")
}

func sampleObject(t *rapid.T, depth int, names ...string) any {
	object := map[string]any{}
	for _, name := range names {
		if rapid.IntRange(0, 3).Draw(t, name) > 0 && (name != "a b" || rapid.IntRange(0, 5).Draw(t, "odd") == 0) {
			object[name] = sampleValue(t, depth)
		}
	}
	return object
}

// TestInferredAccepts: a schema that is inferred from samples accepts each.
func TestInferredAccepts(t *testing.T) {
	for _, f := range []schemas.Format{avro.Format{}, jsonschema.Format{}, protobuf.Format{}} {
		t.Run(string(f.Type()), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				shape := &schemas.Shape{}
				samples := make([]any, rapid.IntRange(1, 6).Draw(t, "samples"))
				alike := rapid.Bool().Draw(t, "alike")
				for i := range samples {
					samples[i] = sampleObject(t, 0, "p", "q", "r", "s")
					if alike && i > 0 {
						samples[i] = samples[0]
					}
					shape.Add(samples[i])
				}
				text, err := schemas.Infer(f.Type(), shape, "flights 2013")
				if err != nil {
					t.Fatal(err)
				}
				s, err := f.Parse(text, nil)
				if err != nil {
					t.Fatalf("%v\n%s", err, text)
				}
				for _, v := range samples {
					if _, err := s.AppendEncode(nil, v); err != nil {
						t.Fatalf("%v\n%v\n%s", err, v, text)
					}
				}
			})
		})
	}
}

// What no schema of a language can say is refused in a sentence.
func TestInferRefuses(t *testing.T) {
	f := func(language schemas.Type, want string, samples ...string) {
		t.Helper()
		shape := &schemas.Shape{}
		for _, text := range samples {
			v, err := schemas.ParseJSON([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			shape.Add(v)
		}
		if text, err := schemas.Infer(language, shape, "x"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s of %q: %v\n%s", language, samples, err, text)
		}
	}
	f(schemas.Avro, "expected samples, found none")
	f(schemas.Avro, "expected objects, found integer", "1")
	f(schemas.Protobuf, "expected objects, found record or null", `{"a":1}`, "null")
	f(schemas.Avro, "beyond 64 bits", `{"a":18446744073709551616}`)
	f(schemas.Protobuf, "beyond 64 bits", `{"a":18446744073709551616}`)
	f(schemas.Protobuf, "but for its style", `{"a_b":1,"aB":2}`)
	f(schemas.Protobuf, "letters, digits and _", `{"a b":1}`)
	f("XML", "expected AVRO", `{"a":1}`)
}
