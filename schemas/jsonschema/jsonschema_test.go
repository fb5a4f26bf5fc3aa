package jsonschema

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/schemas"
)

func parse(t testing.TB, text string) *Schema {
	t.Helper()
	s, err := Format{}.Parse(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s.(*Schema)
}

func TestCanonical(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got := parse(t, text).Canonical(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	f(` { "type" : "object" , "b" : [ 1 , true , null ] , "a" : { } } `, `{"type":"object","b":[1,true,null],"a":{}}`)
	f(`true`, `true`)
	f(`{"a":1,"b":2,"a":3}`, `{"a":3,"b":2}`)
	f(`{"title":"\u00e9\u2028\/\t\u001f"}`, `{"title":"é`+"\u2028"+`/\t\u001F"}`)
	f(`{"x":[1.0,0.10,1.50,1e2,1E400,1e-7,-0,-0.0,12345678901234567890,1.5e3,0.000001,0.0000001,1e0,12.5e-1,0e5,100e-2]}`,
		`{"x":[1.0,0.10,1.50,1E+2,1E+400,1E-7,0,0.0,12345678901234567890,1.5E+3,0.000001,1E-7,1,1.25,0E+5,1.00]}`)
}

func TestNormalized(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		for _, text := range []string{text, want} {
			if got, err := schemas.Normalized(parse(t, text)); err != nil || got != want {
				t.Errorf("got  %s, %v\nwant %s", got, err, want)
			}
		}
	}
	f(`false`, `false`)
	f(`{"type":"object","a":1,"A":2,"$id":"x","required":["b","a"]}`, `{"$id":"x","A":2,"a":1,"required":["b","a"],"type":"object"}`)
	f("{\"\uffff\":1,\"\U0001F600\":2,\"\ue000\":3,\"z\":[{\"b\":1.50,\"a\":1e2}]}", "{\"z\":[{\"a\":1E+2,\"b\":1.50}],\"\U0001F600\":2,\"\ue000\":3,\"\uffff\":1}")
	f(`{"a":1,"ab":2,"":3,"a":4}`, `{"":3,"a":4,"ab":2}`)
}

// The draft is read off what only it understands.
func TestDrafts(t *testing.T) {
	const (
		four   = `{"$schema":"?","minimum":1,"exclusiveMinimum":true}`
		seven  = `{"$schema":"?","if":{"const":1},"then":false}`
		newest = `{"$schema":"?","prefixItems":[false]}`
	)
	f := func(address string, want ...bool) {
		t.Helper()
		for i, text := range []string{four, seven, newest} {
			s, err := Format{}.Parse(strings.Replace(text, "?", address, 1), nil)
			refuses := false
			if err == nil {
				_, err = s.Decode([]byte([]string{`1`, `1`, `[1]`}[i]))
				refuses = err != nil
			}
			if refuses != want[i] {
				t.Errorf("%s: %s: %t", address, text, refuses)
			}
		}
	}
	for _, scheme := range []string{"http", "https"} {
		for _, end := range []string{"", "#"} {
			f(scheme+"://json-schema.org/schema"+end, true, false, false)
			f(scheme+"://json-schema.org/draft-04/schema"+end, true, false, false)
			f(scheme+"://json-schema.org/draft-06/schema"+end, false, false, false)
			f(scheme+"://json-schema.org/draft-07/schema"+end, false, true, false)
			f(scheme+"://json-schema.org/draft/2019-09/schema"+end, false, true, false)
			f(scheme+"://json-schema.org/draft/2020-12/schema"+end, false, true, true)
		}
	}
	f("http://127.0.0.1:1/meta", false, true, false)
	f("", false, true, false)
	f("draft-04", false, true, false)
}

// What RE2 lacks is matched too, but not for ever.
func TestPatterns(t *testing.T) {
	f := func(schema, value, want string) {
		t.Helper()
		_, err := parse(t, schema).Decode([]byte(value))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s, %s: got %v, want %q", schema, value, err, want)
		}
	}
	f(`{"pattern":"^(?=.*[0-9])[a-z0-9]+$"}`, `"abc1"`, "")
	f(`{"pattern":"^(?=.*[0-9])[a-z0-9]+$"}`, `"abc"`, `expected text that matches "^(?=.*[0-9])[a-z0-9]+$"`)
	f(`{"pattern":"^(.)\\1$"}`, `"aa"`, "")
	f(`{"pattern":"^(.)\\1$"}`, `"ab"`, "expected text that matches")
	f(`{"pattern":"^\\cC$"}`, `"\u0003"`, "")
	f(`{"patternProperties":{"^(?!x)":{"type":"string"}}}`, `{"a":1}`, "at /a: expected string")
	f(`{"format":"regex"}`, `"(?=a)"`, "")
	f(`{"format":"regex"}`, `"(?=a"`, `expected text of the format "regex"`)
	bomb := strings.Repeat("a", 40) + "!"
	const late = `can be decided in 50ms, found string "aaaa`
	f(`{"pattern":"^(?=a)(a+)+$"}`, `"`+bomb+`"`, late)
	// However the answer would count.
	f(`{"not":{"pattern":"^(?=a)(a+)+$"}}`, `"`+bomb+`"`, late)
	f(`{"anyOf":[{"pattern":"^(?=a)(a+)+$"},true]}`, `"`+bomb+`"`, late)
	f(`{"patternProperties":{"^(?=a)(a+)+$":false}}`, `{"`+bomb+`":1}`, late)
	f(`{"format":"regex","pattern":"^(a+)+$"}`, `"`+bomb+`"`, `expected text that matches "^(a+)+$"`) // linear
}

func TestParseRefuses(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		_, err := Format{}.Parse(text, map[string]string{"broken.json": `{`, "ok.json": `{"definitions":{"a":true}}`})
		if err == nil || err.Error() != "parse JSON Schema: "+want {
			t.Errorf("%.80s: got %v, want %s", text, err, want)
		}
	}
	f(``, `parse JSON: at offset 0: expected a JSON value, found the end`)
	f(`[]`, `expected an object or a boolean, found a JSON array`)
	f(`{"type":"strin"}`, `at /type: expected one of "array", "boolean", "integer", "null", "number", "object", "string"`)
	f(`{"minLength":-1}`, `at /minLength: expected at least 0`)
	f(`{"$ref":"file:///etc/hostname"}`, `there is no reference for "file:///etc/hostname": name the schema that defines it among the references`)
	f(`{"$ref":"http://127.0.0.1:1/x.json"}`, `there is no reference for "http://127.0.0.1:1/x.json": name the schema that defines it among the references`)
	f(`{"$ref":"other.json"}`, `there is no reference for "other.json": name the schema that defines it among the references`)
	f(`{"$ref":"broken.json"}`, `in the reference "broken.json": parse JSON: at offset 1: expected a key in double quotes, found the end`)
	f(`{"$ref":"#/definitions/x"}`, `json-pointer in "#/definitions/x" not found`)
	f(`{"minimum":1e10000000}`, `parse JSON: at /minimum, offset 11: expected an exponent of at most 400, found 10000000`)
	f(`{"pattern":"("}`, `at /pattern: expected text of the format "regex"`)
	f(`{"pattern":"`+strings.Repeat("a", maxPattern+1)+`"}`, `at /pattern: expected text of the format "regex"`)
	f(`{"patternProperties":{"(?=":true}}`, `at /patternProperties: expected other names than "(?="`)
	f(`{"definitions":{"a":{"type":["string","text"]}},"$ref":"#/definitions/a"}`, `at /definitions/a/type: expected one of "array", "boolean", "integer", "null", "number", "object", "string"`)
}

func TestReferences(t *testing.T) {
	refs := map[string]string{
		"address.json":         `{"type":"object","properties":{"city":{"$ref":"defs/text.json#/definitions/short"}},"required":["city"],"additionalProperties":false}`,
		"defs/text.json":       `{"definitions":{"short":{"type":"string","maxLength":5}}}`,
		"some.subject":         `{"$id":"http://example.com/by-id.json","type":"boolean"}`,
		"http://example.com/u": `{"type":"integer"}`,
	}
	s, err := Format{}.Parse(`{"type":"object","properties":{
		"home":{"$ref":"address.json"},"ok":{"$ref":"http://example.com/by-id.json"},"n":{"$ref":"http://example.com/u"},"again":{"$ref":"#/properties/home"}}}`, refs)
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]any{"home": map[string]any{"city": "Jena"}, "ok": true, "n": 5, "again": map[string]any{"city": "Bonn"}}
	if _, err := s.AppendEncode(nil, good); err != nil {
		t.Error(err)
	}
	_, err = s.AppendEncode(nil, map[string]any{"home": map[string]any{"city": "Weimar"}, "ok": 1, "n": "x", "again": map[string]any{}})
	var refused *schemas.ValueError
	if !errors.As(err, &refused) {
		t.Fatal(err)
	}
	want := []schemas.Violation{
		{Pointer: "/ok", Expected: "boolean", Found: "number 1", Hint: "change the value, or the type in the schema"},
		{Pointer: "/n", Expected: "integer", Found: `string "x"`, Hint: "change the value, or the type in the schema"},
		{Pointer: "/again/city", Expected: "string", Found: "nothing", Hint: `the field "city" is required: add it`},
		{Pointer: "/home/city", Expected: "at most 5 characters", Found: `string "Weimar"`, Hint: "change the value, or the rule in the schema"},
	}
	if diff := cmp.Diff(want[:3], refused.Violations[:3]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want[3:], refused.Violations[3:]); diff != "" {
		t.Error(diff)
	}
}

func TestModel(t *testing.T) {
	s := parse(t, `{"title":"T","description":"d","type":"object","additionalProperties":false,"properties":{
		"z":{"type":"integer","minimum":0,"maximum":100,"default":5,"description":"doc","confluent:tags":["PII",1,"X"]},
		"a":{"type":["null","string"],"format":"date-time"},
		"m":{"type":"object","additionalProperties":{"type":"number"}},
		"r":{"$ref":"#"},
		"e":{"enum":["A","B"]},
		"o":{"oneOf":[{"type":"null"},{"type":"boolean"}]},
		"x":{"not":{"type":"null"}},
		"l":{"type":"array","items":{"type":"integer"}},
		"u":{"type":"array","items":{"type":"string","maxLength":3,"pattern":"^x"},"minItems":1,"uniqueItems":true},
		"k":{"type":"object","propertyNames":{"const":"one"}},
		"w":{"type":"integer","minimum":-9223372036854775808,"maximum":9223372036854775807},
		"p":{"type":"object","properties":{"q":true},"required":["s"]}
	},"required":["z","extra"]}`)
	n := s.Model()
	if n.Field("r").Node != n {
		t.Error("the object within itself is not the object")
	}
	n.Field("r").Node = nil
	anything := &schemas.Node{}
	null := &schemas.Node{Kind: schemas.Null}
	three := 3
	want := &schemas.Node{Kind: schemas.Record, Name: "T", Doc: "d", Fields: []schemas.Field{
		{Name: "z", Doc: "doc", Tags: []string{"PII", "X"}, Node: &schemas.Node{Kind: schemas.Int, Bits: 32, Doc: "doc", Bounds: &schemas.Bounds{Least: big.NewRat(0, 1), Most: big.NewRat(100, 1)}}, Required: true, HasDefault: true, Default: json.Number("5")},
		{Name: "a", Node: &schemas.Node{Kind: schemas.Union, Branches: []*schemas.Node{null, {Kind: schemas.String, Logical: schemas.Timestamp, Bounds: &schemas.Bounds{Format: "date-time"}}}}},
		{Name: "m", Node: &schemas.Node{Kind: schemas.Map, Items: &schemas.Node{Kind: schemas.Float}}},
		{Name: "r"},
		{Name: "e", Node: &schemas.Node{Kind: schemas.Enum, Symbols: []string{"A", "B"}}},
		{Name: "o", Node: &schemas.Node{Kind: schemas.Union, Branches: []*schemas.Node{null, {Kind: schemas.Bool}}}},
		{Name: "x", Node: anything},
		{Name: "l", Node: &schemas.Node{Kind: schemas.Array, Items: &schemas.Node{Kind: schemas.Int}}},
		{Name: "u", Node: &schemas.Node{
			Kind: schemas.Array, Bounds: &schemas.Bounds{MinSize: 1, Unique: true},
			Items: &schemas.Node{Kind: schemas.String, Bounds: &schemas.Bounds{MaxSize: &three, Pattern: "^x"}},
		}},
		{Name: "k", Node: &schemas.Node{Kind: schemas.Map, Items: anything, Keys: &schemas.Node{Bounds: &schemas.Bounds{Values: []any{"one"}}}}},
		{Name: "w", Node: &schemas.Node{Kind: schemas.Int, Bits: 64, Bounds: &schemas.Bounds{Least: big.NewRat(math.MinInt64, 1), Most: big.NewRat(math.MaxInt64, 1)}}},
		{Name: "p", Node: &schemas.Node{Kind: schemas.Record, Open: true, Fields: []schemas.Field{{Name: "q", Node: anything}, {Name: "s", Node: anything, Required: true}}}},
		{Name: "extra", Node: anything, Required: true},
	}}
	sameNumber := cmp.Comparer(func(a, b *big.Rat) bool { return a == b || a != nil && b != nil && a.Cmp(b) == 0 })
	if diff := cmp.Diff(want, n, sameNumber); diff != "" {
		t.Error(diff)
	}
}

// TestCombined: an object has the fields of all that it combines.
func TestCombined(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		n := parse(t, `{"$defs":{"base":{"type":"object","properties":{"a":{"type":"string","confluent:tags":["PII"]}},"required":["a"]},
			"loop":{"allOf":[{"$ref":"#/$defs/loop"},{"$ref":"#/$defs/base"}]}},`+text+`}`).Model()
		got := n.Kind.String()
		for _, f := range n.Fields {
			got += fmt.Sprintf(" %s %s%s%t", f.Name, f.Node.Kind, f.Tags, f.Required)
		}
		if got != want || n.Kind == schemas.Record && !n.Open {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
	f(`"allOf":[{"$ref":"#/$defs/base"},{"properties":{"b":{"type":"integer"}}}]`, "record a string[PII]true b integer[]false")
	f(`"type":"object","properties":{"b":{"type":"integer"},"a":{"type":"string","confluent:tags":["X"]}},"allOf":[{"$ref":"#/$defs/base"}]`, "record b integer[]false a string[X PII]true")
	f(`"type":"object","allOf":[{"$ref":"#/$defs/base"}]`, "record a string[PII]true")
	f(`"allOf":[{"$ref":"#/$defs/base"}]`, "record a string[PII]true")
	f(`"allOf":[{"minProperties":1},{"maxProperties":2}]`, "any")
	f(`"$ref":"#/$defs/loop"`, "record a string[PII]true")
}

func TestEncode(t *testing.T) {
	f := func(v any, want string) {
		t.Helper()
		got, err := parse(t, `true`).AppendEncode([]byte("x"), v)
		if err != nil || string(got) != "x"+want {
			t.Errorf("%v: got %s, %v, want %s", v, got, err, want)
		}
	}
	f(nil, `null`)
	f(map[string]any{"b": 1, "a": []any{true, "é\n"}}, `{"a":[true,"é\n"],"b":1}`)
	f([]any{int8(-1), uint64(math.MaxUint64), uint(3), 1.0, 1e21, 1e-7, float32(0.1), json.Number("1.50")}, `[-1,18446744073709551615,3,1,1e+21,1e-07,0.1,1.50]`)
	f(time.Date(2013, 2, 8, 17, 30, 0, 5e8, time.UTC), `"2013-02-08T17:30:00.5Z"`)
	f(90*time.Minute, `"01:30:00Z"`)
	f([]byte("\xff"), `"/w=="`)
	f(big.NewRat(1234, 100), `12.34`)
	f(struct {
		A int `json:"a"`
	}{5}, `{"a":5}`)
	f([]string{"a"}, `["a"]`)

	bad := func(v any, want string) {
		t.Helper()
		if _, err := parse(t, `true`).AppendEncode(nil, v); err == nil || err.Error() != want {
			t.Errorf("%v: got %v, want %s", v, err, want)
		}
	}
	bad(map[string]any{"a": math.NaN(), "b": 1}, "at /a: expected a finite number, found number NaN")
	bad([]any{json.Number("1e10000000")}, "at /0: expected a JSON number without a huge exponent, found number 1e10000000")
	bad(json.Number("0x1"), "at the value: expected a JSON number without a huge exponent, found number 0x1")
	bad("\xff", `at the value: expected text in UTF-8, found 1 bytes that are not UTF-8, beginning "\xff"`)
	bad(map[string]any{"\xff": 1}, `at the value: expected names in UTF-8, found 1 bytes that are not UTF-8, beginning "\xff"`)
	bad(big.NewRat(1, 3), "at the value: expected a decimal of finitely many digits, found decimal 1/3")
	bad(make(chan int), "at the value: expected a value that JSON can hold, found Go value of type chan int")
	cycle := map[string]any{}
	cycle["a"] = cycle
	if _, err := parse(t, `true`).AppendEncode(nil, cycle); err == nil || !strings.Contains(err.Error(), "expected at most 200 levels") {
		t.Errorf("a cycle: %v", err)
	}
}

// Each keyword says in plain words what it asks for. Where want gives no hint, it
// is the usual one.
func TestKeywords(t *testing.T) {
	f := func(schema, value, want string) {
		t.Helper()
		for _, draft := range []string{"http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"} {
			text := strings.Replace(schema, "{", `{"$schema":"`+draft+`",`, 1)
			_, err := parse(t, text).Decode([]byte(value))
			if !strings.Contains(want, ";") {
				want += "; change the value, or the rule in the schema"
			}
			if err == nil || err.Error() != "decode JSON: "+want {
				t.Errorf("%s, %s: got %v, want %s", schema, value, err, want)
			}
		}
	}
	f(`{"type":["string","null","number"]}`, `true`, `at the value: expected number or string or null, found boolean true; change the value, or the type in the schema`)
	f(`{"const":5}`, `6`, `at the value: expected exactly the number 5, found number 6`)
	f(`{"enum":[1,"a"]}`, `2`, `at the value: expected one of number 1, "a", found number 2`)
	f(`{"minimum":2}`, `1`, `at the value: expected at least 2, found number 1`)
	f(`{"maximum":2.5}`, `3`, `at the value: expected at most 2.5, found number 3`)
	f(`{"exclusiveMinimum":2}`, `2`, `at the value: expected more than 2, found number 2`)
	f(`{"exclusiveMaximum":2}`, `2`, `at the value: expected less than 2, found number 2`)
	f(`{"multipleOf":0.01}`, `0.001`, `at the value: expected a multiple of 0.01, found number 0.001`)
	f(`{"minLength":2}`, `"é"`, `at the value: expected at least 2 characters, found string "é"`)
	f(`{"maxLength":1}`, `"ab"`, `at the value: expected at most 1 characters, found string "ab"`)
	f(`{"pattern":"^a"}`, `"b"`, `at the value: expected text that matches "^a", found string "b"`)
	f(`{"format":"email"}`, `"b"`, `at the value: expected text of the format "email", found string "b"`)
	f(`{"minItems":1}`, `[]`, `at the value: expected at least 1 items, found array of 0`)
	f(`{"maxItems":1}`, `[1,2]`, `at the value: expected at most 1 items, found array of 2`)
	f(`{"uniqueItems":true}`, `[1,2,1.0]`, `at the value: expected items that differ, but items 0 and 2 are equal, found array of 3`)
	f(`{"minProperties":1}`, `{}`, `at the value: expected at least 1 fields, found object of 0 fields`)
	f(`{"maxProperties":0}`, `{"a":1}`, `at the value: expected at most 0 fields, found object of 1 fields`)
	f(`{"propertyNames":{"maxLength":1}}`, `{"ab":1}`, `at the value: expected other names than "ab", found object of 1 fields`)
	f(`{"required":["a"]}`, `{}`, `at /a: expected any value, found nothing; the field "a" is required: add it`)
	f(`{"additionalProperties":false}`, `{"a":1}`, `at /a: expected a field of the schema, found the unknown field "a"; remove it, or add it to the schema`)
	f(`{"not":{"type":"string"}}`, `"a"`, `at the value: expected anything that its "not" does not describe, found string "a"`)
	f(`{"contains":{"const":1}}`, `[2]`, `at the value: expected what its "contains" asks for, found array of 1`)
	f(`{"properties":{"a":false}}`, `{"a":1}`, `at /a: expected nothing, found number 1`)
	f(`{"anyOf":[{"type":"string"},{"type":"object","required":["a"]}]}`, `{}`, `at /a: expected any value, found nothing; the field "a" is required: add it`)
	f(`{"anyOf":[{"type":"string"},{"type":"null"}]}`, `5`, `at the value: expected string or null, found number 5; put it in quotes`)
	f(`{"oneOf":[{"type":"integer"},{"minimum":2}]}`, `5`, `at the value: expected exactly one of the alternatives of its "oneOf", found number 5`)
	f(`{"if":{"type":"string"},"then":{"minLength":2}}`, `"a"`, `at the value: expected at least 2 characters, found string "a"`)
	f(`{"allOf":[{"minimum":2},{"multipleOf":2}]}`, `1`, `at the value: expected at least 2, found number 1`)
}

// Schemas made to take time or memory out of proportion to their size are
// refused, or cost no more than others.
func TestHostileSchemas(t *testing.T) {
	many := func(n int, item string) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strings.ReplaceAll(item, "?", strconv.Itoa(i)))
		}
		return b.String()
	}
	f := func(name, text, want string) {
		t.Helper()
		s, err := Format{}.Parse(text, nil)
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) || want == "" && err != nil {
			t.Errorf("%s: got %.300v, want %q", name, err, want)
		}
		if err == nil {
			if _, err := schemas.Normalized(s); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	f("10,000 fields", `{"properties":{`+many(10_000, `"f?":{"type":"string"}`)+`}}`, "")
	f("1 MB of fields", `{"properties":{`+many(40_000, `"f?":{"type":"string"}`)+`}}`, "at most 12000 objects")
	f("1 MB of values", `{"enum":[`+many(80_000, `{"a":?}`)+`]}`, "")
	f("depth 1,000", strings.Repeat(`{"items":`, 1000)+`{}`+strings.Repeat("}", 1000), "one level too many")
	f("itself", `{"$ref":"#"}`, "")
	f("in a circle", `{"definitions":{"a":{"$ref":"#/definitions/b"},"b":{"allOf":[{"$ref":"#/definitions/a"}]}},"$ref":"#/definitions/a"}`, "")
	f("a million branches", `{"anyOf":[`+strings.TrimSuffix(strings.Repeat("1,", 1_000_000), ",")+`]}`, "at most 524288 values")
	f("many alternatives", `{"anyOf":[`+many(20_000, `{"const":?}`)+`]}`, "at most 12000 objects")
	f("patterns that are large programs", `{"allOf":[`+many(10_000, `{"pattern":"\\pL{1000}"}`)+`]}`, "")
	f("a pattern beyond all size", `{"pattern":"((a{1000}){1000}){1000}"}`, "")
	f("a pattern of a million letters", `{"pattern":"`+strings.Repeat("a", 1_000_000)+`"}`, "at /pattern")
}

func TestHostilePayloads(t *testing.T) {
	f := func(schema, payload string) {
		t.Helper()
		if v, err := schemas.Decode(parse(t, schema), []byte(payload), schemas.Limits{}); err == nil {
			t.Errorf("%s: %.40s decoded to %v", schema, payload, v)
		}
	}
	f(`{"minimum":0}`, `1e10000000`)
	f(`{"minimum":0}`, `1e-10000000`)
	f(`{"multipleOf":3}`, `1e10000000`)
	f(`{"multipleOf":3}`, `1e-1000000`)
	f(`true`, strings.Repeat("[", 1<<20))
	f(`true`, `{"a":1,"a":2}`)
	f(`true`, "\"\xff\"")
	f(`true`, `1 2`)
	f(`true`, ``)
}

// Alternatives that contain themselves take the library time beyond all
// bounds; it is stopped.
func TestAlternativesWithinAlternativesEnd(t *testing.T) {
	for _, schema := range []string{
		`{"allOf":[{"properties":{"a":{"$ref":"#"}}},{"properties":{"a":{"$ref":"#"}}}]}`,
		`{"$schema":"https://json-schema.org/draft/2020-12/schema","anyOf":[{"properties":{"a":{"$dynamicRef":"#"},"k":{"const":1}}},{"properties":{"a":{"$ref":"#"},"k":{"const":2}}}]}`,
	} {
		s := parse(t, schema)
		_, err := s.Decode([]byte(strings.Repeat(`{"k":3,"a":`, 60) + `1` + strings.Repeat("}", 60)))
		var refused *schemas.ValueError
		if !errors.As(err, &refused) || refused.Violations[0].Expected != "a value that can be checked in good time" {
			t.Errorf("%s: got %v", schema, err)
		}
		for range 2 { // the count is of one value, not of all
			if _, err := s.Decode([]byte(strings.Repeat(`{"k":1,"a":`, 5) + `1` + strings.Repeat("}", 5))); err != nil {
				t.Errorf("%s: %v", schema, err)
			}
		}
	}
}

// One schema serves many goroutines, each with a count of its own.
func TestConcurrentUse(t *testing.T) {
	s := parse(t, `{"allOf":[{"properties":{"a":{"$ref":"#"}}},{"properties":{"a":{"$ref":"#"}}}]}`)
	good := []byte(strings.Repeat(`{"a":`, 8) + `1` + strings.Repeat("}", 8))
	bad := []byte(strings.Repeat(`{"a":`, 40) + `1` + strings.Repeat("}", 40))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if i == 0 {
				if _, err := s.Decode(bad); err == nil {
					t.Error("what takes too long was taken")
				}
				return
			}
			for range 20 {
				if _, err := s.Decode(good); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// Every draft is read, and asserts formats.
func TestDraftsAndFormats(t *testing.T) {
	for _, draft := range []string{
		"http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-06/schema#", "http://json-schema.org/draft-07/schema#",
		"https://json-schema.org/draft/2019-09/schema", "https://json-schema.org/draft/2020-12/schema",
	} {
		s := parse(t, `{"$schema":"`+draft+`","type":"string","format":"date-time"}`)
		if _, err := s.Decode([]byte(`"2013-02-08T17:30:00Z"`)); err != nil {
			t.Errorf("%s: %v", draft, err)
		}
		if _, err := s.Decode([]byte(`"yesterday"`)); err == nil {
			t.Errorf("%s: the format is not asserted", draft)
		}
	}
}

func anyValue(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		switch kind := rapid.IntRange(0, 6).Draw(t, "kind"); {
		case kind == 0:
			return nil
		case kind == 1:
			return rapid.Bool().Draw(t, "b")
		case kind == 2:
			return rapid.String().Draw(t, "s")
		case kind == 3:
			return rapid.Int64().Draw(t, "i")
		case kind == 4:
			return rapid.Float64Range(-1e300, 1e300).Draw(t, "f")
		case kind == 5 && depth > 0:
			return rapid.SliceOfN(anyValue(depth-1), 0, 4).Draw(t, "a")
		case kind == 6 && depth > 0:
			return rapid.MapOfN(rapid.String(), anyValue(depth-1), 0, 4).Draw(t, "m")
		}
		return ""
	})
}

// What is written reads back as the same JSON.
func TestRoundTrip(t *testing.T) {
	s := parse(t, `true`)
	rapid.Check(t, func(t *rapid.T) {
		v := anyValue(3).Draw(t, "v")
		b, err := s.AppendEncode(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		back, err := schemas.Decode(s, b, schemas.Limits{})
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		again, err := s.AppendEncode(nil, back)
		if err != nil || string(again) != string(b) {
			t.Fatalf("%s, %v: %s", b, err, again)
		}
		theirs, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var one, other any
		if json.Unmarshal(b, &one) != nil || json.Unmarshal(theirs, &other) != nil || !cmp.Equal(one, other) {
			t.Fatalf("%s, but encoding/json writes %s", b, theirs)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(`{"minimum":0}`, []byte(`1e10000000`))
	f.Add(`{"multipleOf":3}`, []byte(`1e-400`))
	f.Add(`{"multipleOf":1e-400,"minimum":1e400}`, []byte(`1e400`))
	f.Add(`{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}`, []byte(`{"a":{"a":{"b":1}}}`))
	f.Add(`{"anyOf":[{"type":"string","pattern":"a+$"},{"oneOf":[{"const":1},{"enum":[2,null]}]}],"uniqueItems":true}`, []byte(`[1,1]`))
	f.Add(`{"$schema":"https://json-schema.org/draft/2020-12/schema","$defs":{"x":{"$dynamicAnchor":"x"}},"unevaluatedProperties":false}`, []byte(`{"a":"2013-02-08"}`))
	f.Fuzz(func(t *testing.T, text string, payload []byte) {
		s, err := Format{}.Parse(text, nil)
		if err != nil {
			return
		}
		v, err := schemas.Decode(s, payload, schemas.Limits{})
		if err != nil {
			var refused *schemas.ValueError
			if errors.As(err, &refused) && len(refused.Violations) == 0 {
				t.Fatalf("%s, %s: refused without a reason", text, payload)
			}
			return
		}
		b, err := s.AppendEncode(nil, v)
		if err != nil {
			t.Fatalf("%s, %s: decoded, then refused: %v", text, payload, err)
		}
		if _, err := schemas.Decode(s, b, schemas.Limits{}); err != nil {
			t.Fatalf("%s, %s: written as %s: %v", text, payload, b, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(`{"$ref":"file:///etc/hostname"}`, `{}`)
	f.Add(`{"$ref":"ref.json#/definitions/a","minimum":1.50}`, `{"definitions":{"a":{"type":["null","integer"]}}}`)
	f.Add(`{"$id":"http://x/y","properties":{"a":{"$ref":"#/$defs/b"}},"$defs":{"b":{"enum":["x",null]}}}`, `true`)
	f.Add(`{"allOf":[{"$ref":"#"}]}`, `{"$ref":"ref.json"}`)
	f.Add(`{"$schema":"http://json-schema.org/schema#","id":"http://x","minimum":1E400,"exclusiveMinimum":true}`, `{"$schema":"x"}`)
	f.Add(`{"pattern":"^(?=a)(a+)+$","patternProperties":{"(.)\\1":false},"multipleOf":0.010}`, `false`)
	f.Fuzz(func(t *testing.T, text, ref string) {
		s, err := Format{}.Parse(text, map[string]string{"ref.json": ref})
		if err != nil {
			return
		}
		again, err := Format{}.Parse(s.Canonical(), map[string]string{"ref.json": ref})
		if err != nil || again.Canonical() != s.Canonical() {
			t.Fatalf("%s: canonical %s: %v", text, s.Canonical(), err)
		}
		normal, err := schemas.Normalized(s)
		if err != nil {
			t.Fatalf("%s: %v", s.Canonical(), err)
		}
		// It may be read in another way only where it is not read at all.
		if n, err := (Format{}).Parse(normal, map[string]string{"ref.json": ref}); err != nil {
			t.Fatalf("%s: normalised %s: %v", text, normal, err)
		} else if twice, err := schemas.Normalized(n); err != nil || twice != normal || n.Canonical() != normal {
			t.Fatalf("normalised %s is normalised to %s, %v", normal, twice, err)
		}
	})
}

// TestUnionsWithinThemselves has alternatives that are the schema itself, or
// each other: a value that does not fit must be told so, and end.
func TestUnionsWithinThemselves(t *testing.T) {
	for _, text := range []string{
		`{"anyOf":[{"$ref":"#"},{"type":"string"}]}`,
		`{"anyOf":[{"$ref":"#"}]}`,
		`{"anyOf":[{"type":"string"},{"oneOf":[{"$ref":"#"},{"type":"boolean"}]}]}`,
	} {
		s, err := Format{}.Parse(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.AppendEncode(nil, 1); err == nil {
			t.Errorf("%s takes a number", text)
		}
	}
}
