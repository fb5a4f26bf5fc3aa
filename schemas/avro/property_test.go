package avro

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	hamba "github.com/hamba/avro/v2"
	"pgregory.net/rapid"

	"penstock/schemas"
)

// typed is a random schema with a generator of values that fit it.
type typed struct {
	text  string
	value func(*rapid.T) any
}

// names makes type and field names that do not repeat.
type names struct{ n int }

func (n *names) next() string {
	n.n++
	return fmt.Sprintf("N%d", n.n)
}

func anyType(t *rapid.T, n *names, depth int) typed {
	kinds := []string{"boolean", "int", "long", "float", "double", "string", "bytes", "enum", "fixed", "timestamp"}
	if depth > 0 {
		kinds = append(kinds, "array", "map", "record", "record", "nullable")
	}
	switch kind := rapid.SampledFrom(kinds).Draw(t, "kind"); kind {
	case "boolean":
		return typed{`"boolean"`, func(t *rapid.T) any { return rapid.Bool().Draw(t, "b") }}
	case "int":
		return typed{`"int"`, func(t *rapid.T) any { return rapid.Int32().Draw(t, "i") }}
	case "long":
		return typed{`"long"`, func(t *rapid.T) any { return rapid.Int64().Draw(t, "l") }}
	case "float":
		return typed{`"float"`, func(t *rapid.T) any { return rapid.Float32().Draw(t, "f") }}
	case "double":
		return typed{`"double"`, func(t *rapid.T) any { return rapid.Float64().Draw(t, "d") }}
	case "string":
		return typed{`"string"`, func(t *rapid.T) any { return rapid.String().Draw(t, "s") }}
	case "bytes":
		return typed{`"bytes"`, func(t *rapid.T) any { return rapid.SliceOf(rapid.Byte()).Draw(t, "y") }}
	case "timestamp":
		return typed{`{"type":"long","logicalType":"timestamp-millis"}`, func(t *rapid.T) any {
			return time.UnixMilli(rapid.Int64Range(-1<<41, 1<<42).Draw(t, "t")).UTC()
		}}
	case "enum":
		return typed{fmt.Sprintf(`{"type":"enum","name":%q,"symbols":["A","B","C"]}`, n.next()), func(t *rapid.T) any {
			return rapid.SampledFrom([]string{"A", "B", "C"}).Draw(t, "e")
		}}
	case "fixed":
		size := rapid.IntRange(1, 20).Draw(t, "size")
		return typed{fmt.Sprintf(`{"type":"fixed","name":%q,"size":%d}`, n.next(), size), func(t *rapid.T) any {
			return rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "x")
		}}
	case "array":
		item := anyType(t, n, depth-1)
		return typed{`{"type":"array","items":` + item.text + `}`, func(t *rapid.T) any {
			return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) any { return item.value(t) }), 0, 4).Draw(t, "a")
		}}
	case "map":
		item := anyType(t, n, depth-1)
		return typed{`{"type":"map","values":` + item.text + `}`, func(t *rapid.T) any {
			return rapid.MapOfN(rapid.String(), rapid.Custom(func(t *rapid.T) any { return item.value(t) }), 0, 4).Draw(t, "m")
		}}
	case "nullable":
		item := anyType(t, n, 0)
		return typed{`["null",` + item.text + `]`, func(t *rapid.T) any {
			if rapid.Bool().Draw(t, "null") {
				return nil
			}
			return item.value(t)
		}}
	}
	name := n.next()
	fields := map[string]typed{}
	var order []string
	text := ""
	for i := range rapid.IntRange(0, 5).Draw(t, "fields") {
		f, label := anyType(t, n, depth-1), fmt.Sprintf("f%d", i)
		fields[label] = f
		order = append(order, label)
		if i > 0 {
			text += ","
		}
		text += fmt.Sprintf(`{"name":%q,"type":%s}`, label, f.text)
	}
	return typed{fmt.Sprintf(`{"type":"record","name":%q,"fields":[%s]}`, name, text), func(t *rapid.T) any {
		m := map[string]any{}
		if len(order) == 0 {
			rapid.Bool().Draw(t, "nothing") // rapid wants every generator to draw
		}
		for _, label := range order {
			m[label] = fields[label].value(t)
		}
		return m
	}}
}

var sameValues = cmp.Options{
	cmpopts.EquateNaNs(), cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b *big.Rat) bool { return a.Cmp(b) == 0 }),
}

// Encoding and decoding give the value back, and hamba/avro agrees on the
// bytes both ways.
func TestRoundTripAgainstHamba(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := anyType(t, &names{}, 3)
		s, err := Format{}.Parse(d.text, nil)
		if err != nil {
			t.Fatalf("%s: %v", d.text, err)
		}
		v := d.value(t)
		if vs := schemas.Check(s.Model(), v); len(vs) > 0 {
			t.Fatalf("%s: Check finds fault with what fits: %v", d.text, vs)
		}
		b, err := s.AppendEncode(nil, v)
		if err != nil {
			t.Fatalf("%s, %v: %v", d.text, v, err)
		}
		back, err := schemas.Decode(s, b, schemas.Limits{})
		if diff := cmp.Diff(v, back, sameValues); err != nil || diff != "" {
			t.Fatalf("%s: %v %s", d.text, err, diff)
		}

		other, err := hamba.ParseWithCache(d.text, "", &hamba.SchemaCache{})
		if err != nil {
			t.Fatal(err)
		}
		var theirs any
		if err := hamba.Unmarshal(other, b, &theirs); err != nil {
			t.Fatalf("%s, % x: hamba: %v", d.text, b, err)
		}
		again, err := hamba.Marshal(other, theirs)
		if err != nil {
			t.Fatalf("%s: hamba: %v", d.text, err)
		}
		if back, err = s.Decode(again); err != nil {
			t.Fatalf("%s, % x: %v", d.text, again, err)
		}
		if diff := cmp.Diff(v, back, sameValues); diff != "" {
			t.Fatalf("%s: through hamba: %s", d.text, diff)
		}
	})
}

// A canonical text is a schema that means the same and prints the same.
func TestCanonicalIsStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := anyType(t, &names{}, 3)
		s, err := Format{}.Parse(d.text, nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Format{}.Parse(s.Canonical(), nil)
		if err != nil || again.Canonical() != s.Canonical() {
			t.Fatalf("%s: %v", s.Canonical(), err)
		}
		if diff := cmp.Diff(s.Model(), again.Model()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// object is a JSON object, set an array whose order says nothing.
type (
	object []member
	member struct {
		name  string
		value any // text as it is, or object, set, or []any
	}
	set []any
)

// render writes v, in its order or in another that says the same.
func render(t *rapid.T, v any, shuffled bool) string {
	var parts []string
	switch v := v.(type) {
	case string:
		return v
	case object:
		if shuffled {
			v = rapid.Permutation(v).Draw(t, "members")
		}
		for _, m := range v {
			parts = append(parts, strconv.Quote(m.name)+":"+render(t, m.value, shuffled))
		}
		return "{" + strings.Join(parts, ",") + "}"
	case set:
		if shuffled {
			v = rapid.Permutation(v).Draw(t, "set")
		}
		return render(t, []any(v), shuffled)
	case []any:
		for _, item := range v {
			parts = append(parts, render(t, item, shuffled))
		}
	}
	return "[" + strings.Join(parts, ",") + "]"
}

// adorned is a random schema with everything that texts differ in.
type adorned struct {
	names
	defined []string // full names
}

func (a *adorned) properties(t *rapid.T, o object) object {
	values := []any{`1`, `1.50`, `-0.0`, `1e30`, `"x\u00e9\n"`, `null`, object{{"b", `2`}, {"a", []any{`1`, object{{"y", `1`}, {"x", `2`}}}}}}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"p", "Q", "precision2", "default2", "logicalType", "\u00e9"}), 0, 3, rapid.ID).Draw(t, "properties") {
		o = append(o, member{name, rapid.SampledFrom(values).Draw(t, "property")})
	}
	return o
}

func (a *adorned) named(t *rapid.T, kind, space string) (object, string) {
	o := object{{"type", strconv.Quote(kind)}}
	simple := a.next()
	switch rapid.IntRange(0, 3).Draw(t, "namespace") {
	case 0:
		space = rapid.SampledFrom([]string{"", "n", "n.m"}).Draw(t, "space")
		o = append(o, member{"namespace", strconv.Quote(space)}, member{"name", strconv.Quote(simple)})
	case 1:
		space = rapid.SampledFrom([]string{"n", "n.m"}).Draw(t, "space")
		o = append(o, member{"name", strconv.Quote(space + "." + simple)})
	default:
		o = append(o, member{"name", strconv.Quote(simple)})
	}
	o = append(o, member{"aliases", a.aliases(t)})
	if rapid.Bool().Draw(t, "documented") {
		o = append(o, member{"doc", strconv.Quote(rapid.SampledFrom([]string{"", "d"}).Draw(t, "doc"))})
	}
	full := name{simple, space}.full()
	a.defined = append(a.defined, full)
	return a.properties(t, o), space
}

func (a *adorned) aliases(t *rapid.T) set {
	var out set
	for _, s := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"A", "n.A", "m.B", "int", "map", "n.record"}), 0, 3, rapid.ID).Draw(t, "aliases") {
		out = append(out, strconv.Quote(s))
	}
	return out
}

// typ returns a type and a default of it.
func (a *adorned) typ(t *rapid.T, space string, depth int) (v, def any) {
	kinds := []string{"int", "double", "float", "string", "property", "logical", "decimal", "enum", "fixed"}
	if len(a.defined) > 0 {
		kinds = append(kinds, "again")
	}
	if depth > 0 {
		kinds = append(kinds, "array", "map", "record", "record", "union")
	}
	switch kind := rapid.SampledFrom(kinds).Draw(t, "kind"); kind {
	case "int":
		return `"int"`, `5`
	case "double", "float":
		return strconv.Quote(kind), rapid.SampledFrom([]string{`1`, `1.0`, `15e9`, `0.1`, `1e-7`}).Draw(t, "default")
	case "string":
		return `"string"`, `"x"`
	case "property":
		return a.properties(t, object{{"type", `"long"`}}), `7`
	case "logical":
		return object{{"type", `"long"`}, {"z", `1`}, {"logicalType", rapid.SampledFrom([]string{`"timestamp-millis"`, `"date"`, `"x"`}).Draw(t, "logical")}, {"a", `1`}}, `7`
	case "decimal":
		return object{{"type", `"bytes"`}, {"q", `1`}, {"scale", rapid.SampledFrom([]string{`0`, `2`, `99`}).Draw(t, "scale")}, {"precision", `9`}, {"logicalType", `"decimal"`}}, `"\u0001"`
	case "enum":
		o, _ := a.named(t, "enum", space)
		o = append(o, member{"symbols", []any{`"B"`, `"A"`}})
		if rapid.Bool().Draw(t, "fallback") {
			o = append(o, member{"default", `"A"`})
		}
		return o, `"B"`
	case "fixed":
		o, _ := a.named(t, "fixed", space)
		return append(o, member{"size", `1`}), `"\u00ff"`
	case "array":
		item, def := a.typ(t, space, depth-1)
		return a.properties(t, object{{"type", `"array"`}, {"items", item}}), listOf(def)
	case "map":
		item, def := a.typ(t, space, depth-1)
		if def != nil {
			def = object{{"k", def}, {"a", def}}
		}
		return a.properties(t, object{{"type", `"map"`}, {"values", item}}), def
	case "union":
		item, _ := a.typ(t, space, 0)
		if s, ok := item.(string); ok && s == `"null"` {
			item = `"int"`
		}
		return []any{`"null"`, item}, `null`
	case "again":
		return strconv.Quote(rapid.SampledFrom(a.defined).Draw(t, "again")), nil
	}
	o, space := a.named(t, rapid.SampledFrom([]string{"record", "record", "error"}).Draw(t, "kind"), space)
	fields, values := []any{}, object{}
	for i := range rapid.IntRange(0, 4).Draw(t, "fields") {
		label := fmt.Sprintf("f%d", i)
		typ, def := a.typ(t, space, depth-1)
		f := object{{"name", strconv.Quote(label)}, {"type", typ}, {"aliases", a.aliases(t)}}
		if def != nil && rapid.Bool().Draw(t, "default") {
			f = append(f, member{"default", def})
		}
		if rapid.Bool().Draw(t, "ordered") {
			f = append(f, member{"order", rapid.SampledFrom([]string{`"ascending"`, `"descending"`}).Draw(t, "order")})
		}
		fields = append(fields, a.properties(t, f))
		values = append(values, member{label, def})
	}
	for _, v := range values {
		if v.value == nil {
			return append(o, member{"fields", fields}), nil
		}
	}
	return append(o, member{"fields", fields}), values
}

func listOf(def any) any {
	if def == nil {
		return nil
	}
	return []any{def, def}
}

// The texts of a schema are stable, say the same as it does, and do not depend
// on the order of what has none.
func TestTextsAreStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, _ := (&adorned{}).typ(t, "", 3)
		text := render(t, v, false)
		s, err := Format{}.Parse(text, nil)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		checkTexts(t, s, nil)
		other, err := Format{}.Parse(render(t, v, true), nil)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := schemas.Normalized(s)
		if b, err := schemas.Normalized(other); err != nil || a != b {
			t.Fatalf("%s and %s are normalised to\n%s and\n%s, %v", s.Canonical(), other.Canonical(), a, b, err)
		}
		if !schemas.Same(s, other) {
			t.Fatalf("%s and %s are not the same", s.Canonical(), other.Canonical())
		}
		third, err := Format{}.Parse(strings.Replace(text, `"type"`, `"new":7,"type"`, 1), nil)
		if err == nil && strings.Contains(third.Canonical(), `"new"`) && schemas.Same(s, third) {
			t.Fatalf("%s and %s are the same", s.Canonical(), third.Canonical())
		}
	})
}

// checkTexts checks what holds of the texts of any schema.
func checkTexts(t interface{ Fatalf(string, ...any) }, s schemas.Schema, refs map[string]string) {
	again := func(text string, refs map[string]string) schemas.Schema {
		other, err := Format{}.Parse(text, refs)
		if err != nil {
			t.Fatalf("%s: does not parse: %v", text, err)
		}
		return other
	}
	if c := again(s.Canonical(), refs); c.Canonical() != s.Canonical() || !schemas.Same(s, c) || !schemas.Same(c, s) {
		t.Fatalf("canonical %s is read as %s", s.Canonical(), c.Canonical())
	}
	resolved, err := schemas.Text(s, "resolved")
	if err != nil {
		t.Fatalf("%s: %v", s.Canonical(), err)
	}
	if r := again(resolved, nil); r.Canonical() != resolved || !schemas.Same(s, r) {
		t.Fatalf("resolved %s is read as %s", resolved, r.Canonical())
	}
	normal, err := schemas.Normalized(s)
	if err != nil {
		t.Fatalf("%s: %v", s.Canonical(), err)
	}
	n := again(normal, refs)
	if n.Canonical() != normal {
		t.Fatalf("normalised %s is read as %s", normal, n.Canonical())
	}
	if twice, err := schemas.Normalized(n); err != nil || twice != normal {
		t.Fatalf("normalised %s is normalised again to %s, %v", normal, twice, err)
	}
	// What is read with them is the same, but for the order of aliases.
	if diff := cmp.Diff(s.Model(), n.Model(), sameValues, cmpopts.SortSlices(func(a, b string) bool { return a < b })); diff != "" {
		t.Fatalf("normalised %s means something else: %s", normal, diff)
	}
}

func FuzzDecode(f *testing.F) {
	for _, h := range hostile {
		f.Add(h.schema, []byte(h.payload[:min(len(h.payload), 1<<12)]))
	}
	f.Add(personText, []byte("\x06Ada\x48\x02\x06a@b\x02\x02a\x02b\x00\x02\x00\x00\x80?\x00\x0a"))
	f.Add(`["null","int",{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"bytes","logicalType":"decimal","precision":4,"scale":1}}]}]`, []byte("\x04\x02\x05"))
	f.Fuzz(func(t *testing.T, text string, payload []byte) {
		s, err := Format{}.Parse(text, nil)
		if err != nil {
			return
		}
		v, err := schemas.Decode(s, payload, schemas.Limits{})
		if err != nil {
			return
		}
		// What was decoded can be written, unless it stands for no value that
		// encoders take (a time of day beyond a day, a date in the year
		// 300,000); a bare value of a union may find another branch, but is
		// stable then.
		b, err := s.AppendEncode(nil, v)
		if err != nil {
			return
		}
		back, err := schemas.Decode(s, b, schemas.Limits{})
		if err != nil {
			t.Fatalf("%s, % x: written again as % x, which does not decode: %v", text, payload, b, err)
		}
		b2, err := s.AppendEncode(nil, back)
		if err != nil {
			t.Fatalf("%s, % x: written as % x, then refused: %v", text, payload, b, err)
		}
		again, err := schemas.Decode(s, b2, schemas.Limits{})
		if diff := cmp.Diff(back, again, sameValues); err != nil || diff != "" {
			t.Fatalf("%s, % x: %v %s", text, payload, err, diff)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(personText, `"int"`)
	f.Add(`{"type":"record","name":"a.b.R","fields":[{"name":"x","type":{"type":"enum","name":"E","namespace":"","symbols":["A"]}},{"name":"y","type":["null","E","R"],"default":null}],"aliases":["Q"]}`, `{"type":"fixed","name":"F","size":3}`)
	f.Add(`{"type":"bytes","logicalType":"decimal","precision":4,"scale":50000000}`, "[]")
	f.Add(`["null","F"]`, `{"type":"fixed","name":"F","size":3,"p":[1.5e300,{"a":"\u2028"}]}`)
	f.Add(`"A"`, `{"type":"record","name":"A","fields":[{"name":"b","type":{"type":"map","values":"A"}}]}`)
	f.Fuzz(func(t *testing.T, text, ref string) {
		s, err := Format{}.Parse(text, map[string]string{"ref": ref})
		if err != nil {
			return
		}
		again, err := Format{}.Parse(s.Canonical(), map[string]string{"ref": ref})
		if err != nil {
			t.Fatalf("%s: the canonical text %s does not parse: %v", text, s.Canonical(), err)
		}
		if again.Canonical() != s.Canonical() {
			t.Fatalf("canonical text %s of %s", again.Canonical(), s.Canonical())
		}
		checkTexts(t, s, map[string]string{"ref": ref})
		// What is taken can be encoded with, and nothing panics.
		if _, err := s.(*Schema).coder(); err != nil {
			t.Fatalf("%s, taken, does not compile: %v", s.Canonical(), err)
		}
		for _, v := range []any{nil, 1, "x", 1.5, []any{}, map[string]any{}, map[string]any{"a": math.NaN()}, []byte{1}} {
			if b, err := s.AppendEncode(nil, v); err == nil {
				if _, err := s.Decode(b); err != nil {
					t.Fatalf("%s, %v: % x does not decode: %v", text, v, b, err)
				}
			}
		}
	})
}

// What canonical JSON says of a value is that value again.
func TestRestore(t *testing.T) {
	check := func(t interface{ Fatalf(string, ...any) }, text string, v any) {
		s, err := Format{}.Parse(text, nil)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		b, err := s.AppendEncode(nil, v)
		if err != nil {
			t.Fatalf("%s, %v: %v", text, v, err)
		}
		decoded, err := schemas.Decode(s, b, schemas.Limits{})
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		canonical, err := schemas.AppendJSON(nil, decoded)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		parsed, err := schemas.ParseJSON(canonical)
		if err != nil {
			t.Fatalf("%s: %v", canonical, err)
		}
		again, err := s.AppendEncode(nil, schemas.Restore(s.Model(), parsed))
		if err == nil {
			decoded, err = schemas.Decode(s, again, schemas.Limits{})
		}
		if err != nil {
			t.Fatalf("%s: %s: %v", text, canonical, err)
		}
		if got, err := schemas.AppendJSON(nil, decoded); err != nil || string(got) != string(canonical) {
			t.Fatalf("%s: %s comes back as %s, %v", text, canonical, got, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := anyType(t, &names{}, 3)
		check(t, d.text, d.value(t))
	})
	at := time.Date(2013, 1, 2, 3, 4, 5, 123456000, time.UTC)
	for text, v := range map[string]any{
		`{"type":"int","logicalType":"date"}`:                                        at.Truncate(24 * time.Hour),
		`["null",{"type":"int","logicalType":"time-millis"}]`:                        5*time.Hour + time.Millisecond,
		`{"type":"long","logicalType":"local-timestamp-micros"}`:                     at,
		`["null",{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}]`: big.NewRat(-1234, 100),
		`{"type":"string","logicalType":"uuid"}`:                                     "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
		`{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}`:                 "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
		`["null","string","bytes"]`:                                                  "AQ==",
		`["long","bytes"]`:                                                           []byte{200, 1},
		`["null","double"]`:                                                          math.Inf(-1),
		`"float"`:                                                                    float32(math.Inf(1)),
		`"double"`:                                                                   math.NaN(),
		`["null",{"type":"map","values":"bytes"}]`:                                   map[string]any{"a": []byte{1}},
		`["null",{"type":"array","items":["null","bytes"]}]`:                         []any{[]byte{1}, nil},
		`[{"type":"record","name":"A","fields":[{"name":"a","type":"bytes"}]},{"type":"record","name":"B","fields":[{"name":"b","type":"bytes"}]}]`: map[string]any{"b": []byte{1}},
	} {
		check(t, text, v)
	}
}
