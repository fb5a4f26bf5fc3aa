package avro

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/avro"
	"pgregory.net/rapid"

	"penstock/schemas"
)

// sameAsSlow sees that what the quick way makes of text is what the slow one makes
// of it, and returns whether there was a quick way.
func sameAsSlow(t interface{ Fatalf(string, ...any) }, s *Schema, text string) bool {
	got, plain := s.appendPlain([]byte("before"), []byte(text))
	if !plain {
		return false
	}
	v, err := schemas.ParseText([]byte(text))
	if err != nil {
		t.Fatalf("%s: %s was taken, but is no JSON: %v", s.Canonical(), text, err)
	}
	sameAsLibrary(t, s, got, v)
	return true
}

// sameAsLibrary sees that got, behind the word "before", is what the library makes
// of v, and that what it made can stay.
func sameAsLibrary(t interface{ Fatalf(string, ...any) }, s *Schema, got []byte, v any) {
	c, err := s.coder()
	if err != nil {
		t.Fatalf("%v", err)
	}
	want, err := c.encode([]byte("before"), v)
	if err != nil {
		t.Fatalf("%s: %#v was taken, but does not fit: %v", s.Canonical(), v, err)
	}
	if bytes.Equal(got, want) {
		return
	}
	// Maps have no order.
	mine, err := s.Decode(got[len("before"):])
	if err != nil {
		t.Fatalf("%s: what %#v was encoded as does not decode: %v", s.Canonical(), v, err)
	}
	theirs, err := s.Decode(want[len("before"):])
	if err != nil {
		t.Fatalf("%v", err)
	}
	if diff := cmp.Diff(theirs, mine); diff != "" || len(got) != len(want) {
		t.Fatalf("%s: %#v was encoded as % x, want % x\n%s", s.Canonical(), v, got, want, diff)
	}
}

// A map of whatever values, most of which fit, is encoded as the library does, or
// left to it.
func TestMapsAsLibrary(t *testing.T) {
	quick := 0
	rapid.Check(t, func(t *rapid.T) {
		typ := anyType(t, &names{}, 3)
		if branch := rapid.IntRange(0, 3).Draw(t, "branch"); branch > 0 {
			typ.text = []string{`["null",%s]`, `[%s,"null"]`, `["null",{"type":"enum","name":"Q","symbols":["A","B"]},%s]`}[branch-1]
			inner := anyType(t, &names{100}, 1)
			for strings.HasPrefix(inner.text, "[") || strings.Contains(inner.text, "enum") {
				inner = anyType(t, &names{100}, 0)
			}
			typ = typed{fmt.Sprintf(typ.text, inner.text), inner.value}
		}
		s, err := Format{}.Parse(`{"type":"record","name":"Z","fields":[{"name":"v","type":`+typ.text+`},{"name":"d","type":"int","default":7}]}`, nil)
		if err != nil {
			t.Fatal(err)
		}
		v := typ.value(t)
		if rapid.IntRange(0, 3).Draw(t, "odd") == 0 {
			v = rapid.SampledFrom([]any{
				nil, 1, int32(1), int64(1) << 40, 1.5, float32(2), math.Inf(1), "A", "x\xff", []byte("A"), []byte(nil), []any(nil), []string{"a"}, []string(nil),
				map[string]any{}, map[string]any(nil), map[string]any{"int": 1}, true, json.Number("1"), time.Second, time.Unix(1e9, 1e6), time.Time{}, [4]byte{},
			}).Draw(t, "v")
		}
		m := map[string]any{"v": v}
		switch rapid.IntRange(0, 5).Draw(t, "more") {
		case 0:
			m["d"] = 3
		case 1:
			m["unknown"] = 3
		}
		c, err := s.(*Schema).coder()
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := c.appendMap([]byte("before"), m); ok {
			quick++
			sameAsLibrary(t, s.(*Schema), got, m)
		}
	})
	if quick == 0 {
		t.Error("nothing was quick")
	}
}

func TestTextIsPlain(t *testing.T) {
	record := `{"type":"record","name":"a.R","fields":[{"name":"x","type":"long"},
		{"name":"y","type":["null","string"],"default":null},
		{"name":"z","type":{"type":"array","items":"int"},"default":[7,8]},
		{"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]},"default":"B"},
		{"name":"b","type":"bytes","default":"\u00ff"}]}`
	list := `{"type":"record","name":"L","fields":[{"name":"v","type":"int"},{"name":"next","type":["null","L"],"default":null}]}`
	timestamp := `{"type":"long","logicalType":"timestamp-micros"}`
	choice := `[{"type":"record","name":"A","fields":[{"name":"x","type":"int"}]},{"type":"map","values":"int"}]`
	for _, test := range []struct {
		schema, text string
		plain        bool
	}{
		{record, `{"x":1,"y":"a","z":[1,2],"e":"A","b":"c"}`, true},
		{record, ` { "b" : "c" , "y" : null , "x" : -12 } `, true},
		{record, `{"x":1}`, true},
		{record, `{"x":1,"x":1}`, false},
		{record, `{"x":1,"q":1}`, false},
		{record, `{"y":"a"}`, false},
		{record, `{"x":1,"y":{"string":"a"}}`, false},
		{record, `{"x":1,}`, false},
		{record, `{"x":1}}`, false},
		{record, `{"x":1`, false},
		{record, ``, false},
		{list, `{"v":1,"next":{"v":2,"next":null}}`, true},
		{list, `{"v":1}`, false},
		{list, `{"v":1,"next":{"v":2}}`, false},
		{choice, `{"x":1}`, false},
		{`["null","int","string"]`, `"a"`, false},
		{`["null","int","boolean"]`, `true`, true},
		{`["null",{"type":"map","values":"int"}]`, `{"int":1}`, false},
		{`["null",{"type":"map","values":"int"}]`, `{"a":1,"b":2}`, true},
		{`{"type":"map","values":"int"}`, `{"a":1,"a":2}`, false},
		{`"long"`, `123456789012345678`, true},
		{`"long"`, `1e3`, false},
		{`"long"`, `1.0`, false},
		{`"long"`, `01`, false},
		{`"long"`, `-`, false},
		{`"int"`, `2147483648`, false},
		{`"float"`, `1e39`, false},
		{`"float"`, `1.5`, true},
		{`"double"`, `-0.0`, true},
		{`"double"`, `1e-300`, false},
		{`"double"`, `1.`, false},
		{`"double"`, `00`, false},
		{`"string"`, `"ü \"\u00e4\ud83d\ude00\n"`, true},
		{`"string"`, `"\ud83d"`, false},
		{`"string"`, `"\x"`, false},
		{`"string"`, "\"\xff\"", false},
		{`"string"`, "\"\n\"", false},
		{`"string"`, `"a`, false},
		{timestamp, `"2026-11-27T10:00:00.123456Z"`, true},
		{timestamp, `"2026-11-27T10:00:00+01:00"`, true},
		{timestamp, `5`, true},
		{timestamp, `"1969-11-27T10:00:00Z"`, false},
		{timestamp, `"2026-11-27"`, false},
		{`{"type":"int","logicalType":"date"}`, `"2026-11-27"`, true},
		{`{"type":"bytes","logicalType":"decimal","precision":4}`, `"12"`, false},
		{`{"type":"fixed","name":"F","size":2}`, `"ab"`, true},
		{`{"type":"fixed","name":"F","size":2}`, `"abc"`, false},
	} {
		s := parse(t, test.schema)
		if plain := sameAsSlow(t, s, test.text); plain != test.plain {
			t.Errorf("%s: %s is plain: %v, want %v", test.schema, test.text, plain, test.plain)
		}
		// In all, the verdict is that of the slow way.
		got, err := s.AppendText(nil, []byte(test.text))
		v, want := schemas.ParseText([]byte(test.text))
		if want == nil {
			_, want = s.AppendEncode(nil, v)
		}
		if fmt.Sprint(err) != fmt.Sprint(want) || err != nil && (len(got) != 0 || !errors.As(err, new(*schemas.ValueError))) {
			t.Errorf("%s: %s is answered %v, want %v", test.schema, test.text, err, want)
		}
	}
	deep := parse(t, `{"type":"record","name":"L","fields":[{"name":"n","type":["null","L"]},{"name":"x","type":"int"}]}`)
	for levels, plain := range map[int]bool{maxPlainDepth: true, maxPlainDepth + 1: false} {
		text := strings.Repeat(`{"x":1,"n":`, levels) + "null" + strings.Repeat("}", levels)
		if got := sameAsSlow(t, deep, text); got != plain {
			t.Errorf("%d levels are plain: %v", levels, got)
		}
	}
}

// written spells a value as JSON in one of the many ways to.
func written(t *rapid.T, v any) string {
	space := func() string { return rapid.SampledFrom([]string{"", "", "", " ", "\n\t"}).Draw(t, "space") }
	switch v := v.(type) {
	case []byte:
		return written(t, string(v))
	case time.Time:
		return written(t, v.Format(time.RFC3339Nano))
	case string:
		text, _ := json.Marshal(strings.ToValidUTF8(v, "?"))
		return string(text)
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = space() + written(t, e) + space()
		}
		return "[" + strings.Join(parts, ",") + "]"
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		parts := make([]string, len(v))
		for i, k := range rapid.Permutation(keys).Draw(t, "order") {
			parts[i] = space() + written(t, k) + space() + ":" + space() + written(t, v[k]) + space()
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	text, _ := json.Marshal(v)
	return string(text)
}

// Whatever the quick way takes, the slow way takes as the same; most of what fits
// is taken.
func TestTextAsSlow(t *testing.T) {
	plain := 0
	rapid.Check(t, func(t *rapid.T) {
		typ := anyType(t, &names{}, 3)
		s, err := Format{}.Parse(typ.text, nil)
		if err != nil {
			t.Fatal(err)
		}
		text := written(t, typ.value(t))
		if sameAsSlow(t, s.(*Schema), text) {
			plain++
		}
		// Broken in one place, it may still be JSON, and fit or not.
		if len(text) > 0 {
			b := []byte(text)
			at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
			b[at] = rapid.SampledFrom([]byte(`"\{}[]:, 019.eE-ntfx`+"\x00\xff")).Draw(t, "byte")
			sameAsSlow(t, s.(*Schema), string(b))
			sameAsSlow(t, s.(*Schema), text[:at])
		}
	})
	if plain == 0 {
		t.Error("nothing was plain")
	}
}

func FuzzText(f *testing.F) {
	f.Add(personText, `{"name":"a","age":1}`)
	f.Add(`{"type":"record","name":"R","fields":[{"name":"a","type":["null","long"],"default":null},{"name":"b","type":{"type":"map","values":"double"}},{"name":"c","type":{"type":"array","items":"string"},"default":["x"]}]}`, `{"b":{"x":1.5,"y":-2e3},"a":7}`)
	f.Add(`["null","string",{"type":"record","name":"R","fields":[{"name":"string","type":"string"}]}]`, `{"string":"a"}`)
	f.Add(`{"type":"long","logicalType":"timestamp-nanos"}`, `"2026-11-27T10:00:00.123456789+02:00"`)
	f.Add(`{"type":"int","logicalType":"date"}`, `"2026-11-27"`)
	f.Add(`{"type":"array","items":{"type":"enum","name":"E","symbols":["A","B"]}}`, `[ "A" ,"B"]`)
	f.Add(`{"type":"fixed","name":"F","size":4}`, `"\ud83d\ude00"`)
	f.Fuzz(func(t *testing.T, schema, text string) {
		s, err := Format{}.Parse(schema, nil)
		if err != nil {
			return
		}
		sameAsSlow(t, s.(*Schema), text)
	})
}

func TestMapsAreQuick(t *testing.T) {
	timestamp := `{"type":"long","logicalType":"timestamp-millis"}`
	list := `{"type":"array","items":"string"}`
	for _, test := range []struct {
		typ   string
		v     any
		quick bool
	}{
		{`"string"`, "ü", true},
		{`"string"`, "\xff", false},
		{`"int"`, int64(7), true},
		{`"int"`, int64(1) << 40, false},
		{`"long"`, json.Number("1"), false},
		{`"double"`, 1.5, true},
		{`"double"`, math.Inf(1), false},
		{timestamp, time.Unix(1e9, 1e6), true},
		{timestamp, time.Unix(-1, 0), false},
		{list, []any{"a", "b"}, true},
		{list, []string{"a"}, true},
		{list, []any{}, true},
		{list, []any{1}, false},
		{`["null",` + list + `]`, []any{"a"}, true},
		{`["null",` + list + `]`, []any(nil), false},
		{`["string","null"]`, nil, true},
		{`["null","string","long"]`, "a", false},
		{`["null",{"type":"enum","name":"E","symbols":["A","B"]},"long"]`, int32(1), false},
		{`["null",{"type":"map","values":"int"}]`, map[string]any{"int": 1}, false},
		{`["null",{"type":"map","values":"int"}]`, map[string]any{"a": 1, "b": 2}, true},
	} {
		s := parse(t, `{"type":"record","name":"Z","fields":[{"name":"v","type":`+test.typ+`}]}`)
		c, err := s.coder()
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]any{"v": test.v}
		got, quick := c.appendMap([]byte("before"), m)
		if quick != test.quick {
			t.Errorf("%s: %#v is quick: %v, want %v", test.typ, test.v, quick, test.quick)
		}
		if quick {
			sameAsLibrary(t, s, got, m)
		}
	}
}

// A plan of a large schema takes no longer for its defaults than for the rest of it.
func TestTextDefaultsAreBounded(t *testing.T) {
	fields := make([]string, 2000)
	for i := range fields {
		fields[i] = fmt.Sprintf(`{"name":"f%d","type":{"type":"record","name":"R%d","fields":[{"name":"d","type":"int","default":1}]}}`, i, i)
	}
	s := parse(t, `{"type":"record","name":"Root","fields":[`+strings.Join(fields, ",")+`]}`)
	c, err := s.coder()
	if err != nil {
		t.Fatal(err)
	}
	pl := textPlanner{plans: map[*typ]*textPlan{}, lib: map[string]*avro.SchemaNode{}, left: maxDefaultWork}
	pl.records(c.lib.Root())
	tree, err := parseText(s.canonical, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	pl.plan(tree, c.plan)
	known := 0
	for _, p := range pl.plans {
		if len(p.fields) > 0 && p.fields[0].def != nil {
			known++
		}
	}
	if most := maxDefaultWork / pl.size; known == 0 || known > most {
		t.Errorf("the defaults of %d records are known, want some, and at most %d", known, most)
	}
}

// Text is encoded without memory of its own.
func TestTextAllocatesNothing(t *testing.T) {
	s, _, m, _ := flightsFor(t)
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if !sameAsSlow(t, s, string(text)) {
		t.Fatalf("%s is not plain", text)
	}
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(200, func() { _, _ = s.AppendText(buf, text) }); n >= 1 {
		t.Errorf("%v allocations a text, want none", n)
	}
}
