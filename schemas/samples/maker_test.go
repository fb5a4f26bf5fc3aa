package samples_test

import (
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
	"penstock/schemas/samples"
)

var formats = map[schemas.Type]schemas.Format{
	schemas.Avro: avro.Format{}, schemas.JSON: jsonschema.Format{}, schemas.Protobuf: protobuf.Format{},
}

func parse(t interface{ Fatalf(string, ...any) }, language schemas.Type, text string) schemas.Schema {
	s, err := formats[language].Parse(text, nil)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return s
}

func made(t interface{ Fatalf(string, ...any) }, s schemas.Schema, o samples.Options, n int) []samples.Event {
	m, err := samples.NewMaker(s, o)
	if err != nil {
		t.Fatalf("%s: %v", s.Canonical(), err)
	}
	out := make([]samples.Event, n)
	for i := range out {
		if out[i], err = m.Next(); err != nil {
			t.Fatalf("%s: %v", s.Canonical(), err)
		}
	}
	return out
}

func line(t interface{ Fatalf(string, ...any) }, v any) string {
	text, err := schemas.AppendJSON(nil, v)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return string(text)
}

// schemaMaker draws schemas that some value fits.
type schemaMaker struct {
	*rapid.T
	names int
}

func (m *schemaMaker) name() string {
	m.names++
	word := rapid.SampledFrom([]string{"id", "email", "city", "price", "status", "customer_id", "createdAt", "count", "ip", "x", "lat", "updated_at", "name"}).Draw(m.T, "name")
	return fmt.Sprintf("%s_%d", word, m.names)
}

func (m *schemaMaker) pick(from ...string) string { return rapid.SampledFrom(from).Draw(m.T, "pick") }
func (m *schemaMaker) upTo(n int) int             { return rapid.IntRange(0, n).Draw(m.T, "n") }

func (m *schemaMaker) avro(depth int, around []string) string {
	simple := []string{`"boolean"`, `"int"`, `"long"`, `"float"`, `"double"`, `"string"`, `"bytes"`,
		`{"type":"int","logicalType":"date"}`, `{"type":"int","logicalType":"time-millis"}`, `{"type":"long","logicalType":"time-micros"}`,
		`{"type":"long","logicalType":"timestamp-millis"}`, `{"type":"long","logicalType":"timestamp-micros"}`, `{"type":"long","logicalType":"timestamp-nanos"}`,
		`{"type":"long","logicalType":"local-timestamp-millis"}`, `{"type":"string","logicalType":"uuid"}`,
		`{"type":"bytes","logicalType":"big-decimal"}`}
	if depth == 0 {
		return m.pick(simple...)
	}
	switch m.upTo(8) {
	case 0:
		return `{"type":"array","items":` + m.avro(depth-1, around) + `}`
	case 1:
		return `{"type":"map","values":` + m.avro(depth-1, around) + `}`
	case 2:
		return `["null",` + m.pick(simple...) + `,{"type":"array","items":` + m.avro(depth-1, around) + `}]`
	case 3:
		return fmt.Sprintf(`{"type":"enum","name":"E%s","symbols":["A","B","C"]}`, m.name())
	case 4:
		if m.upTo(1) == 0 {
			return fmt.Sprintf(`{"type":"fixed","name":"F%s","size":16,"logicalType":"uuid"}`, m.name())
		}
		return fmt.Sprintf(`{"type":"fixed","name":"F%s","size":%d}`, m.name(), m.upTo(20)+1)
	case 5:
		scale := m.upTo(6)
		return fmt.Sprintf(`{"type":"bytes","logicalType":"decimal","precision":%d,"scale":%d}`, scale+m.upTo(12)+1, scale)
	case 6:
		if len(around) > 0 {
			self := m.pick(around...)
			return m.pick(`["null","`+self+`"]`, `{"type":"array","items":"`+self+`"}`, `{"type":"map","values":"`+self+`"}`)
		}
	}
	name := "R" + m.name()
	around = append(around[:len(around):len(around)], name)
	var fields []string
	for range m.upTo(5) {
		fields = append(fields, fmt.Sprintf(`{"name":%q,"type":%s}`, m.name(), m.avro(depth-1, around)))
	}
	record := fmt.Sprintf(`{"type":"record","name":%q,"fields":[%s]}`, name, strings.Join(fields, ","))
	if m.upTo(4) == 0 {
		return fmt.Sprintf(`[%s,{"type":"record","name":"S%s","fields":[{"name":"only_here","type":"int"}]},"null"]`, record, m.name())
	}
	return record
}

func (m *schemaMaker) json(depth int) string {
	low := m.upTo(50) - 25
	switch kind := m.upTo(13); {
	case kind == 0:
		return fmt.Sprintf(`{"type":"integer","minimum":%d,"maximum":%d}`, low, low+m.upTo(10))
	case kind == 1:
		return fmt.Sprintf(`{"type":"integer","exclusiveMinimum":%d,"multipleOf":%d}`, low*100, m.upTo(6)+1)
	case kind == 2:
		return fmt.Sprintf(`{"type":"number","exclusiveMinimum":%d,"exclusiveMaximum":%d.001}`, low+25, low+25)
	case kind == 3:
		return fmt.Sprintf(`{"type":"number","maximum":%d,"multipleOf":0.25}`, low)
	case kind == 4:
		return fmt.Sprintf(`{"type":"string","minLength":%d,"maxLength":%d}`, m.upTo(30), 30+m.upTo(3))
	case kind == 5:
		return fmt.Sprintf(`{"type":"string","pattern":%q}`, m.pick("^[A-Z]{2}[0-9]{3,7}$", "^(foo|ba[rz])+$", `^\\d+(\\.\\d{2})?$`, "x", `^[^a-z]{0,4}$`, `^\\S+@\\S+$`, `^(?:[01]\\d|2[0-3]):[0-5]\\d$`))
	case kind == 6:
		return fmt.Sprintf(`{"type":"string","format":%q}`, m.pick("email", "uri", "uri-reference", "uri-template", "iri", "hostname", "ipv4", "ipv6", "json-pointer", "relative-json-pointer",
			"duration", "period", "semver", "date-time", "date", "time", "uuid", "regex", "unheard-of"))
	case kind == 7:
		return m.pick(`{"enum":["A","B"]}`, `{"enum":["A",null]}`, `{"const":5}`, `{"enum":[1,2.5,true]}`, `{"type":["string","null"],"enum":["x",null]}`, `{"type":"boolean"}`, `{}`, `true`, `{"type":"null"}`)
	case kind == 8 && depth > 0:
		return fmt.Sprintf(`{"type":"array","items":%s,"minItems":%d,"maxItems":%d}`, m.json(depth-1), m.upTo(2), 2+m.upTo(2))
	case kind == 9:
		return fmt.Sprintf(`{"type":"array","items":{"type":"integer"},"minItems":%d,"uniqueItems":true}`, m.upTo(20))
	case kind == 10 && depth > 0:
		return fmt.Sprintf(`{"type":"object","additionalProperties":%s,"minProperties":%d,"propertyNames":{"type":"string","pattern":"^[a-z]{3,9}$"}}`, m.json(depth-1), m.upTo(3))
	case kind == 11 && depth > 0:
		return fmt.Sprintf(`{"oneOf":[{"type":"null"},%s]}`, `{"type":"object","properties":{"a":`+m.json(depth-1)+`},"required":["a"]}`)
	case kind >= 12 && depth > 0:
		return m.jsonObject(depth)
	}
	return m.pick(`{"type":"string"}`, `{"type":"integer"}`, `{"type":"number"}`, `{"type":["integer","string"]}`, `{"anyOf":[{"$ref":"#"},{"type":"null"}]}`)
}

func (m *schemaMaker) jsonObject(depth int) string {
	var fields, required []string
	for range m.upTo(5) {
		name := m.name()
		fields = append(fields, fmt.Sprintf("%q:%s", name, m.json(depth-1)))
		if m.upTo(1) == 0 {
			required = append(required, fmt.Sprintf("%q", name))
		}
	}
	return fmt.Sprintf(`{"type":"object","properties":{%s},"required":[%s],"additionalProperties":%v}`, strings.Join(fields, ","), strings.Join(required, ","), m.upTo(1) == 0)
}

func (m *schemaMaker) protobuf() string {
	var b strings.Builder
	number := 0
	field := func(label, kind string) {
		number++
		fmt.Fprintf(&b, "%s %s %s = %d;\n", label, kind, m.name(), number)
	}
	kinds := []string{"bool", "int32", "sint64", "fixed64", "uint32", "uint64", "float", "double", "string", "bytes", "E", "M", "google.protobuf.Timestamp", "google.protobuf.StringValue", "google.protobuf.Value", "google.protobuf.Struct", "google.protobuf.Duration"}
	for range m.upTo(5) + 1 {
		switch m.upTo(3) {
		case 0:
			field("repeated", m.pick(kinds...))
		case 1:
			field("", "map<"+m.pick("string", "int32", "uint64", "bool", "sfixed32")+", "+m.pick(kinds...)+">")
		case 2:
			fmt.Fprintf(&b, "oneof o%d {\n", number)
			for range m.upTo(3) + 1 {
				field("", m.pick(kinds...))
			}
			b.WriteString("}\n")
		default:
			field(m.pick("", "optional"), m.pick(kinds...))
		}
	}
	return `syntax = "proto3";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/duration.proto";
enum E { NONE = 0; SOME = 1; }
message M {
` + b.String() + "}\n"
}

func (m *schemaMaker) text(language schemas.Type) string {
	switch language {
	case schemas.Avro:
		return m.avro(3, nil)
	case schemas.JSON:
		return m.jsonObject(3)
	}
	return m.protobuf()
}

// Every event fits its schema, also when it is written as a line of JSON and
// read again, the same seed gives the same events, and every broken one is
// refused, for another reason than that something else was broken.
func TestMadeUp(t *testing.T) {
	for language := range formats {
		t.Run(string(language), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				m := schemaMaker{T: t}
				text := m.text(language)
				s := parse(t, language, text)
				seed := rapid.Uint64().Draw(t, "seed")
				events := made(t, s, samples.Options{Seed: seed}, 5)
				for i, again := range made(t, parse(t, language, text), samples.Options{Seed: seed}, 5) {
					text := line(t, events[i].Value)
					if diff := cmp.Diff(text, line(t, again.Value)); diff != "" {
						t.Fatalf("the same seed: %s", diff)
					}
					if _, err := s.AppendEncode(nil, events[i].Value); err != nil {
						t.Fatalf("%s: %s: %v", s.Canonical(), text, err)
					}
					back, err := schemas.ParseJSON([]byte(text))
					if err != nil {
						t.Fatalf("%s: %v", text, err)
					}
					if _, err := s.AppendEncode(nil, back); err != nil {
						t.Fatalf("%s: read again: %s: %v", s.Canonical(), text, err)
					}
				}
				breaker, err := samples.NewMaker(s, samples.Options{Seed: seed, Invalid: 1})
				if err != nil {
					t.Fatal(err)
				}
				for range 5 {
					e, err := breaker.Next()
					if errors.Is(err, samples.ErrUnbreakable) {
						continue
					}
					if err != nil {
						t.Fatal(err)
					}
					if e.Value == nil {
						continue // a schema of nulls alone
					}
					_, err = s.AppendEncode(nil, e.Value)
					var refused *schemas.ValueError
					if e.Mistake == nil || !errors.As(err, &refused) {
						t.Fatalf("%s: %v is taken although %v: %v", s.Canonical(), e.Value, e.Mistake, err)
					}
				}
			})
		})
	}
}

const order = `{"type":"record","name":"Order","fields":[
	{"name":"id","type":"string"},
	{"name":"email","type":"string"},
	{"name":"status","type":{"type":"enum","name":"S","symbols":["NEW","PAID"]}},
	{"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
	{"name":"quantity","type":"int"},
	{"name":"created_at","type":{"type":"long","logicalType":"timestamp-millis"}},
	{"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
	{"name":"note","type":["null","string"]}]}`

// Pinned, so that a change of the generator, or a machine that rounds
// otherwise, is seen.
func TestSameBytesEverywhere(t *testing.T) {
	var got []string
	for _, e := range made(t, parse(t, schemas.Avro, order), samples.Options{Seed: 7, Every: 2 * time.Millisecond}, 3) {
		got = append(got, line(t, e.Value))
	}
	want := []string{
		`{"at":"2026-01-05T08:00:00Z","created_at":"2026-01-05T08:00:00Z","email":"diego.garcia@example.org","id":"O-000000","note":"The late mill is jolly.","price":1675.87,"quantity":8,"status":"PAID"}`,
		`{"at":"2026-01-05T08:00:00.002Z","created_at":"2026-01-05T08:00:00.002Z","email":"kofi.tanaka@example.org","id":"O-000001","note":"The jolly engine is calm.","price":2762.17,"quantity":5,"status":"PAID"}`,
		`{"at":"2026-01-05T08:00:00.004Z","created_at":"2026-01-05T08:00:00.004Z","email":"kofi.yilmaz@example.org","id":"O-000002","note":null,"price":473.39,"quantity":5,"status":"PAID"}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Time goes on with the rate, and an entity keeps its key and what it was made
// with while a few fields change, until a tombstone.
func TestEntities(t *testing.T) {
	const entities, n = 10, 2000
	events := made(t, parse(t, schemas.Avro, order), samples.Options{Entities: entities, Every: time.Second}, n)
	last := map[any]map[string]any{}
	var begun time.Time
	tombstones, revisions, changes := 0, 0, 0
	for i, e := range events {
		if e.Value == nil {
			if last[e.Key] == nil {
				t.Fatalf("event %d ends %v, which is not there", i, e.Key)
			}
			delete(last, e.Key)
			tombstones++
			continue
		}
		v := e.Value.(map[string]any)
		if v["id"] != e.Key {
			t.Fatalf("event %d: key %v of %v", i, e.Key, v)
		}
		at := v["at"].(time.Time)
		if i == 0 {
			begun = at
		}
		if want := begun.Add(time.Duration(i) * time.Second); !at.Equal(want) {
			t.Fatalf("event %d is of %v, want %v", i, at, want)
		}
		if before := last[e.Key]; before != nil {
			revisions++
			for k := range v {
				if k != "at" && !cmp.Equal(before[k], v[k], cmp.Comparer(func(a, b *big.Rat) bool { return a.Cmp(b) == 0 })) {
					changes++
				}
			}
		}
		last[e.Key] = v
	}
	if len(last) > entities || tombstones < n/80 || tombstones > n/20 {
		t.Errorf("%d entities, %d tombstones", len(last), tombstones)
	}
	if per := float64(changes) / float64(revisions); per < 0.5 || per > 2 {
		t.Errorf("%.1f fields change on average", per)
	}
}

// Every kind of mistake is made, about as often as was asked for.
func TestMistakes(t *testing.T) {
	s := parse(t, schemas.JSON, `{"type":"object","additionalProperties":false,"required":["id","n","e","m"],"properties":{
		"id":{"type":"string","maxLength":8},"n":{"type":"integer","minimum":1,"maximum":5},"e":{"enum":["A","B"]},"m":{"type":"string","format":"email"}}}`)
	kinds := map[samples.MistakeKind]int{}
	const n = 4000
	wrong := 0
	for _, e := range made(t, s, samples.Options{Invalid: 0.25}, n) {
		if e.Mistake != nil {
			kinds[e.Mistake.Kind]++
			wrong++
		}
	}
	for _, kind := range []samples.MistakeKind{
		samples.MissingField, samples.WrongType, samples.OutOfRange, samples.UnknownSymbol,
		samples.UnwantedNull, samples.TooLong, samples.BadFormat, samples.Misspelt,
	} {
		if kinds[kind] == 0 {
			t.Errorf("none is broken by %s", kind)
		}
	}
	if wrong < n/5 || wrong > n/3 {
		t.Errorf("%d of %d are broken, want a quarter", wrong, n)
	}
}

func TestMakerRefuses(t *testing.T) {
	f := func(language schemas.Type, text string, o samples.Options, want string) {
		t.Helper()
		m, err := samples.NewMaker(parse(t, language, text), o)
		if err == nil {
			_, err = m.Next()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	f(schemas.Avro, `{"type":"record","name":"R","fields":[{"name":"r","type":"R"}]}`, samples.Options{}, "no value of the schema ends")
	f(schemas.Avro, order, samples.Options{Key: "idd"}, `the key "idd" is no field`)
	f(schemas.Avro, order, samples.Options{Key: "status", Entities: 3}, `the field "status" has few values: found 2, expected 3`)
	f(schemas.Avro, `"string"`, samples.Options{Entities: 3}, "no field of the schema looks like a key")
	f(schemas.Avro, order, samples.Options{Invalid: 1.5}, "from 0 to 1")
	f(schemas.Avro, order, samples.Options{Entities: -1}, "from 0 to")
	f(schemas.JSON, `{"type":"string","minLength":5,"maxLength":2}`, samples.Options{}, "none of 100 fits the schema")
	f(schemas.JSON, `{}`, samples.Options{Invalid: 1}, "the schema takes whatever was tried")
}

// Names and bounds make a value plausible.
func TestPlausible(t *testing.T) {
	f := func(field, want string) {
		t.Helper()
		s := parse(t, schemas.JSON, `{"title":"Order","type":"object","required":["`+strings.Split(field, `"`)[1]+`"],"properties":{`+field+`}}`)
		got := line(t, made(t, s, samples.Options{Seed: 1}, 1)[0].Value)
		_, got, _ = strings.Cut(strings.TrimSuffix(got, "}"), ":")
		if got != want {
			t.Errorf("%s: %s, want %s", field, got, want)
		}
	}
	f(`"id":{"type":"string"}`, `"O-000000"`)
	f(`"customer_email":{"type":"string"}`, `"joana.berg@example.org"`)
	f(`"departureAirport":{"type":"string"}`, `"CDG"`)
	f(`"currency":{"type":"string"}`, `"CHF"`)
	f(`"price":{"type":"number"}`, `299.53`)
	f(`"price":{"type":"number","minimum":5000}`, `5298.54`)
	f(`"lat":{"type":"number"}`, `17.69`)
	f(`"ip":{"type":"string"}`, `"192.0.2.152"`)
	f(`"created_at":{"type":"string","format":"date-time"}`, `"2026-01-05T08:00:00Z"`)
	f(`"country_code":{"type":"string"}`, `"KE"`)
	f(`"year":{"type":"integer"}`, `2026`)
	f(`"first_name":{"type":"string","maxLength":3}`, `"Joa"`)
	f(`"code":{"type":"string","pattern":"^[A-Z]{3}-\\d+$"}`, `"SSV-1"`)
	f(`"x":{"type":"string","minLength":40}`, `"narrow-basin plain amber plain mild rapid"`)
}
