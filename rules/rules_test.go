package rules_test

import (
	"context"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/rules"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
)

const (
	flight = `{"type":"record","name":"Flight","namespace":"air","fields":[
		{"name":"carrier","type":"string","confluent:tags":["PUBLIC"]},
		{"name":"number","type":"int"},
		{"name":"pilot","type":["null","string"],"default":null,"confluent:tags":["PII"]},
		{"name":"day","type":{"type":"int","logicalType":"date"},"default":0},
		{"name":"at","type":{"type":"long","logicalType":"timestamp-millis"},"default":0},
		{"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2},"default":"\u0000"},
		{"name":"legs","type":{"type":"array","items":{"type":"record","name":"Leg","fields":[{"name":"from","type":"string"},{"name":"seats","type":"long","default":0}]}},"default":[]},
		{"name":"notes","type":{"type":"map","values":"string"},"default":{},"confluent:tags":["PII"]}
	]}`
	person = `{"type":"object","properties":{
		"name":{"type":"string","confluent:tags":["PII"]},
		"age":{"type":"integer"},
		"home":{"type":"object","properties":{"street":{"type":"string"},"city":{"type":"string"}}},
		"phones":{"type":"array","items":{"type":"string"},"confluent:tags":["PII"]},
		"extra":{"type":"object","additionalProperties":{"type":"string"}}
	}}`
	order = `syntax = "proto3"; package shop; import "confluent/meta.proto"; import "google/protobuf/timestamp.proto";
		message Order {
			string id = 1;
			optional string note = 2 [(confluent.field_meta) = { tags: "PII" }];
			State state = 3;
			uint32 count = 4;
			repeated Item items = 5;
			google.protobuf.Timestamp at = 6;
			Item first = 7;
		}
		message Item { string sku = 1; double price = 2; }
		enum State { NEW = 0; PAID = 5; }`
)

func parse(t testing.TB, text string) schemas.Schema {
	t.Helper()
	var format schemas.Format = avro.Format{}
	switch {
	case strings.HasPrefix(text, "syntax"):
		format = protobuf.Format{}
	case !strings.Contains(text, `"record"`):
		format = jsonschema.Format{}
	}
	s, err := format.Parse(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// compile makes a set of what the registry keeps beside a schema.
func compile(t testing.TB, text, definition string) *rules.Set {
	t.Helper()
	var d rules.Definition
	if err := json.Unmarshal([]byte(definition), &d); err != nil {
		t.Fatal(err)
	}
	set, err := rules.Compile(parse(t, text), d)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// domain is a definition with domain rules.
func domain(rules string) string { return `{"ruleSet":{"domainRules":[` + rules + `]}}` }

type record = map[string]any

func TestCondition(t *testing.T) {
	f := func(text, expr string, v any, want bool) {
		t.Helper()
		b, _ := json.Marshal(expr)
		set := compile(t, text, domain(`{"name":"r","kind":"CONDITION","mode":"WRITE","type":"CEL","expr":`+string(b)+`}`))
		got, err := set.Write(context.Background(), v)
		var refused *rules.Error
		switch {
		case want && err != nil:
			t.Errorf("%s: %v", expr, err)
		case !want && (!errors.As(err, &refused) || refused.Action != "ERROR"):
			t.Errorf("%s: got %v", expr, err)
		case want && !cmp.Equal(got, v, cmp.Comparer(func(a, b *big.Rat) bool { return a.Cmp(b) == 0 })):
			t.Errorf("%s: a condition changed the record", expr)
		}
	}
	rat := big.NewRat(1999, 100)
	a := record{
		"carrier": "LH", "number": int32(400), "pilot": nil, "day": time.Unix(0, 0).AddDate(0, 0, 3), "at": time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		"price": rat, "legs": []any{record{"from": "FRA", "seats": int64(5)}}, "notes": record{"a": "b"},
	}
	f(flight, "message.number == 400 && message.carrier == 'LH'", a, true)
	f(flight, "message.number > 400", a, false)
	f(flight, "message.pilot == null", a, true)
	f(flight, "message.day == 3", a, true)
	f(flight, "message.at < now && message.at.getFullYear() == 2026", a, true)
	f(flight, "message.legs.all(l, l.seats > 0) && message.legs[0].from == 'FRA' && size(message.legs) == 1", a, true)
	f(flight, "message.carrier.matches('^L[H]$') && matches(message.carrier, message.carrier) && !message.carrier.matches('l')", a, true)
	f(flight, "message.carrier.matches('(')", a, false)
	f(flight, "message.carrier.matches(message.number)", a, false)
	f(flight, "message.notes == {'a': 'b'} && 'a' in message.notes && has(message.notes.a) && !has(message.notes.c)", a, true)
	f(flight, "message.legs == [{'from': 'FRA', 'seats': 5}] && {'from': 'FRA', 'seats': 5} in message.legs", a, true)
	f(flight, "message.nothing == 1", a, false)
	f(flight, "message.number", a, true)
	f(flight, "''", a, false)
	f(flight, "null", a, false)
	f(flight, "1 +", a, false)
	f(flight, "value == 1", a, false)
	f(flight, "message.number == 1; false", a, true)
	f(flight, "message.number == 400; false", a, false)
	f(flight, " ; true", a, true)
	f(flight, "message.nothing; true", a, false)
	f(flight, "'a,b'.split(',')[1] == 'b' && 'A'.lowerAscii() == 'a' && 'aXa'.replace('a', 'b') == 'bXb' && ['a','b'].join('-') == 'a-b' && ['a','b'].join() == 'ab' && 'aa'.replace('a', 'b', 1) == 'ba'", a, true)

	p := record{"name": "Ann", "age": json.Number("30"), "home": record{"city": "Bonn"}, "phones": []any{"1"}}
	f(person, "message.age > 18 && message.age < 30.5 && message.home.city == 'Bonn' && !has(message.extra)", p, true)
	f(person, "message.age > 18", record{"age": json.Number("1e400")}, false)
	f(person, "message.age > 18", record{"age": json.Number("99999999999999999999")}, false)

	o := record{"id": "1", "state": "PAID", "count": uint32(3), "items": []any{record{"sku": "x", "price": 1.5}}}
	f(order, "message.state == 5 && message.count == 3u && message.items[0].price > 1.0", o, true)
	f(order, "message.note == '' && !has(message.note) && !has(message.at) && message.at == timestamp(0) && message.first.sku == '' && !has(message.first)", o, true)
	f(order, "has(message.state) && !has(message.items)", o, false)
	f(order, "message.id == ''", record{}, true)
	f(order, "has(message.count)", record{"count": uint32(0)}, false)
	f(order, "has(message.note)", record{"note": ""}, true)
	f(order, "message.state == 0", record{}, true)
	f(order, "message.unknown == 0", record{}, false)
}

func TestFunctions(t *testing.T) {
	f := func(call string, yes, no []string) {
		t.Helper()
		set := compile(t, person, domain(`{"name":"r","kind":"CONDITION","mode":"WRITE","type":"CEL","expr":"message.name.`+call+`()"}`))
		for i, text := range append(yes, no...) {
			if _, err := set.Write(context.Background(), record{"name": text}); (err == nil) != (i < len(yes)) {
				t.Errorf("%q.%s(): %v", text, call, err)
			}
		}
	}
	f("isEmail", []string{"a@b.de", "a.b+c@x-y.org"}, []string{"", "a", "a@", "@b", "A <a@b.de>", "a@b@c.de", "a@1.2", strings.Repeat("a", 65) + "@b.de", "a@-b.de"})
	f("isHostname", []string{"a", "a.b.", "1.a", strings.Repeat("a", 63)}, []string{"", ".", "a..b", "1.2.3.4", "a_b", "-a", "a-", "é", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a"})
	f("isIpv4", []string{"1.2.3.4"}, []string{"", "1.2.3", "1.2.3.256", "::1", "01.2.3.4"})
	f("isIpv6", []string{"::1", "fe80::1%eth0", "::ffff:1.2.3.4"}, []string{"", "1.2.3.4", ":::"})
	f("isUri", []string{"http://a.b/c", "mailto:a@b", "urn:x"}, []string{"", "a/b", "//a", ":a", "http://%zz"})
	f("isUriRef", []string{"http://a.b/c", "a/b", "#x", ""}, []string{":a", "%zz"})
	f("isUuid", []string{"123e4567-e89b-12d3-a456-426614174000", "{123E4567-e89b-12d3-a456-426614174000}", "123e4567e89b12d3a456426614174000", "urn:uuid:123e4567-e89b-12d3-a456-426614174000"},
		[]string{"", "123e4567-e89b-12d3-a456-42661417400", "123e4567-e89b-12d3-a456-42661417400g", "{123e4567-e89b-12d3-a456-426614174000"})
}

// TestTransform: records change as a whole, the value that came in stays.
func TestTransform(t *testing.T) {
	set := compile(t, flight, domain(`{"name":"r","kind":"TRANSFORM","mode":"WRITE","type":"CEL",
		"expr":"message.carrier == 'LH'; {'carrier': message.carrier + '!', 'number': message.number, 'pilot': null, 'day': message.day + 1, 'legs': message.legs, 'at': timestamp(5)}"}`))
	in := record{"carrier": "LH", "number": int32(1), "day": time.Unix(0, 0).UTC(), "legs": []any{record{"from": "FRA"}}}
	got, err := set.Write(context.Background(), in)
	want := record{
		"carrier": "LH!", "number": int64(1), "pilot": nil, "day": time.Unix(0, 0).UTC().AddDate(0, 0, 1), "at": time.Unix(5, 0).UTC(),
		"legs": []any{record{"from": "FRA"}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if in["carrier"] != "LH" {
		t.Error("the record that came in was changed")
	}
	if _, err := parse(t, flight).AppendEncode(nil, got); err != nil {
		t.Error(err)
	}
	other := record{"carrier": "BA", "number": int32(1)}
	if got, err = set.Write(context.Background(), other); err != nil || !cmp.Equal(got, any(other)) {
		t.Errorf("the guard did not hold: %v, %v", got, err)
	}
	if got, err = set.Read(context.Background(), in); err != nil || !cmp.Equal(got, any(in)) {
		t.Errorf("a rule for writing ran on reading: %v, %v", got, err)
	}
	set = compile(t, order, domain(`{"name":"r","mode":"WRITE","type":"CEL","expr":"{'id': message.id, 'state': 5, 'count': message.count + 1u, 'first': {'sku': 'x'}}"}`))
	got, err = set.Write(context.Background(), record{"id": "1"})
	if diff := cmp.Diff(any(record{"id": "1", "state": "PAID", "count": uint64(1), "first": record{"sku": "x"}}), got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	set = compile(t, flight, domain(`{"name":"r","mode":"WRITE","type":"CEL","expr":"null"}`))
	if _, err = set.Write(context.Background(), in); err == nil {
		t.Error("a record became null")
	}
}

func TestFieldTransform(t *testing.T) {
	f := func(text, definition string, in, want any) {
		t.Helper()
		before, _ := json.Marshal(in)
		got, err := compile(t, text, definition).Write(context.Background(), in)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", definition, err, diff)
		}
		if after, _ := json.Marshal(in); string(after) != string(before) {
			t.Errorf("%s: the record that came in was changed to %s", definition, after)
		}
	}
	field := func(tags, expr string) string {
		return `{"name":"r","kind":"TRANSFORM","mode":"WRITE","type":"CEL_FIELD","tags":[` + tags + `],"expr":"` + expr + `"}`
	}
	in := record{"carrier": "LH", "number": int32(1), "pilot": "Ann", "notes": record{"a": "b"}, "legs": []any{record{"from": "FRA", "seats": int64(1)}}}
	f(flight, domain(field(`"PII"`, `value + '!'`)), in,
		record{"carrier": "LH", "number": int32(1), "pilot": "Ann!", "notes": record{"a": "b!"}, "legs": []any{record{"from": "FRA", "seats": int64(1)}}})
	f(flight, domain(field(``, `typeName == 'STRING'; name + '|' + fullName + '|' + tags.join(',') + '|' + value`)), in,
		record{"carrier": "carrier|air.Flight.carrier|PUBLIC|LH", "number": int32(1), "pilot": "pilot|air.Flight.pilot|PII|Ann", "notes": record{"a": "notes|air.Flight.notes|PII|b"},
			"legs": []any{record{"from": "from|air.Leg.from||FRA", "seats": int64(1)}}})
	f(flight, domain(field(``, `name == 'pilot' && typeName == 'NULL'; 'nobody'`)), record{"pilot": nil}, record{"pilot": "nobody"})
	f(flight, domain(field(``, `name == 'number'; message.carrier == 'x' ? 7 : 8`)+`,`+field(``, `name == 'carrier'; 'x'`)), record{"carrier": "LH", "number": int32(1)}, record{"carrier": "x", "number": int64(8)})
	f(flight, domain(field(``, `name == 'carrier'; 'x'`)+`,`+field(``, `name == 'number'; message.carrier == 'x' ? 7 : 8`)), record{"carrier": "LH", "number": int32(1)}, record{"carrier": "x", "number": int64(7)})
	// The first of two with the same tags alone runs.
	f(flight, domain(field(`"PII"`, `value + '1'`)+`,`+field(`"PII"`, `value + '2'`)+`,`+field(`"PII","X"`, `value + '3'`)), record{"pilot": "Ann"}, record{"pilot": "Ann13"})
	tagged := func(path string) string {
		return `{"metadata":{"tags":{"` + path + `":["T"]}},` + domain(field(`"T"`, `value + '!'`))[1:]
	}
	f(flight, tagged("air.Leg.from"), in, record{"carrier": "LH", "number": int32(1), "pilot": "Ann", "notes": record{"a": "b"}, "legs": []any{record{"from": "FRA!", "seats": int64(1)}}})
	p := record{"name": "Ann", "age": json.Number("3"), "home": record{"street": "s", "city": "c"}, "phones": []any{"1", "2"}, "extra": record{"a": "b"}}
	changed := func(home record) record {
		return record{"name": "Ann", "age": json.Number("3"), "home": home, "phones": []any{"1", "2"}, "extra": record{"a": "b"}}
	}
	f(person, tagged("$.home.street"), p, changed(record{"street": "s!", "city": "c"}))
	f(person, tagged("$.home.*"), p, changed(record{"street": "s!", "city": "c!"}))
	f(person, tagged("**.cit?"), p, changed(record{"street": "s", "city": "c!"}))
	f(person, tagged("$.*"), record{"name": "Ann", "home": record{"city": "c"}}, record{"name": "Ann!", "home": record{"city": "c"}})
	f(person, tagged("$.home"), p, changed(record{"street": "s", "city": "c"}))
	f(person, domain(field(`"PII"`, `value + '!'`)), p, record{"name": "Ann!", "age": json.Number("3"), "home": record{"street": "s", "city": "c"}, "phones": []any{"1!", "2!"}, "extra": record{"a": "b"}})
	f(`{"allOf":[{"properties":{"a":{"type":"string","confluent:tags":["PII"]}}},{"properties":{"b":{"type":"string"}}}]}`,
		domain(field(`"PII"`, `value + '!'`)), record{"a": "1", "b": "2"}, record{"a": "1!", "b": "2"})
	f(order, domain(field(`"PII"`, `value + '!'`)), record{"id": "1"}, record{"id": "1"})
	f(order, domain(field(`"PII"`, `value + '!'`)), record{"note": "n"}, record{"note": "n!"})
	f(order, domain(field(``, `typeName == 'STRING'; value + fullName`)), record{"items": []any{record{"price": 1.0}}},
		record{"id": "shop.Order.id", "items": []any{record{"sku": "shop.Item.sku", "price": 1.0}}})
}

func TestFieldCondition(t *testing.T) {
	set := compile(t, person, domain(`{"name":"long","doc":"more than two letters","kind":"CONDITION","mode":"WRITE","type":"CEL_FIELD","expr":"typeName == 'STRING'; size(value) > 2"}`))
	_, err := set.Write(context.Background(), record{"name": "Al", "home": record{"street": "abc", "city": "x"}, "phones": []any{"123", "4"}})
	want := []schemas.Violation{
		{Pointer: "/name", Expected: "more than two letters", Found: "a value that is not shown, since it is tagged PII", Hint: "correct the value, or the rule in the registry"},
		{Pointer: "/home/city", Expected: "more than two letters", Found: `string "x"`, Hint: "correct the value, or the rule in the registry"},
		{Pointer: "/phones/1", Expected: "more than two letters", Found: "a value that is not shown, since it is tagged PII", Hint: "correct the value, or the rule in the registry"},
	}
	var refused *rules.Error
	if !errors.As(err, &refused) {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, refused.Violations); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(err.Error(), `rule "long" (WRITE): at /name: expected more than two letters, found a value`) {
		t.Error(err)
	}
	// What is tagged is not in the reason of a failure either.
	set = compile(t, person, domain(`{"name":"n","kind":"CONDITION","mode":"WRITE","type":"CEL","expr":"int(message.name) > 2"}`))
	if _, err = set.Write(context.Background(), record{"name": "secret"}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

// TestActions: what follows of success and of failure, for each mode.
func TestActions(t *testing.T) {
	f := func(rule, write, read string) {
		t.Helper()
		set := compile(t, person, domain(`{"name":"r","kind":"CONDITION","type":"CEL",`+rule+`}`))
		for i, run := range []func(context.Context, any) (any, error){set.Write, set.Read} {
			want := []string{write, read}[i]
			_, err := run(context.Background(), record{"name": "Ann"})
			var refused *rules.Error
			if errors.As(err, &refused) != (want != "") || refused != nil && (refused.Action != want || refused.Mode != []string{"WRITE", "READ"}[i]) {
				t.Errorf("%s: %d: got %v, want %q", rule, i, err, want)
			}
		}
	}
	f(`"mode":"WRITEREAD","expr":"false"`, "ERROR", "ERROR")
	f(`"expr":"false"`, "ERROR", "ERROR")
	f(`"mode":"WRITE","expr":"false"`, "ERROR", "")
	f(`"mode":"READ","expr":"false"`, "", "ERROR")
	f(`"mode":"UPGRADE","expr":"false"`, "", "")
	f(`"mode":"WRITEREAD","expr":"false","onFailure":"DLQ,NONE"`, "DLQ", "")
	f(`"mode":"WRITEREAD","expr":"false","onFailure":"NONE"`, "", "")
	f(`"mode":"WRITEREAD","expr":"false","onFailure":",DLQ"`, "ERROR", "DLQ")
	f(`"mode":"WRITE","expr":"false","onFailure":"DLQ"`, "DLQ", "")
	f(`"mode":"WRITEREAD","expr":"true","onFailure":"DLQ"`, "", "")
	f(`"mode":"WRITEREAD","expr":"true","onSuccess":"NONE,ERROR"`, "", "ERROR")
	f(`"mode":"WRITE","expr":"1 +","onFailure":"NONE"`, "", "")
	f(`"mode":"WRITE","expr":"1 +","onFailure":"DLQ"`, "DLQ", "")
	f(`"mode":"WRITE","expr":"false","disabled":true`, "", "")
	// A type that nobody can run is an error, and the end of the rules.
	broken := `{"name":"x","kind":"TRANSFORM","type":"ENCRYPT","onFailure":"%"},{"name":"y","kind":"CONDITION","type":"CEL","mode":"WRITEREAD","expr":"false"}`
	for action, want := range map[string]string{"ERROR": `expected the type CEL`, "NONE": ""} {
		_, err := compile(t, person, domain(strings.Replace(broken, "%", action, 1))).Write(context.Background(), record{})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", action, err)
		}
	}
}

// TestOrder: rules run in order, and backward on reading.
func TestOrder(t *testing.T) {
	add := func(name, mode, text string) string {
		return `{"name":"` + name + `","mode":"` + mode + `","type":"CEL","expr":"{'name': message.name + '` + text + `'}"}`
	}
	set := compile(t, person, `{"ruleSet":{"domainRules":[`+add("a", "WRITEREAD", "1")+`,`+add("b", "WRITEREAD", "2")+`,`+add("c", "READ", "3")+`],
		"migrationRules":[`+add("d", "UPDOWN", "4")+`,`+add("e", "UPGRADE", "5")+`,`+add("f", "DOWNGRADE", "6")+`]}}`)
	for i, run := range []func(context.Context, any) (any, error){set.Write, set.Read, set.Upgrade, set.Downgrade} {
		got, err := run(context.Background(), record{"name": ""})
		if want := []string{"12", "321", "45", "64"}[i]; err != nil || got.(record)["name"] != want {
			t.Errorf("%d: got %v, %v, want %s", i, got, err, want)
		}
	}
	if got, err := set.Write(context.Background(), nil); got != nil || err != nil {
		t.Errorf("a tombstone became %v, %v", got, err)
	}
}

func TestPayload(t *testing.T) {
	set := compile(t, person, `{"ruleSet":{"encodingRules":[{"name":"s","kind":"CONDITION","mode":"WRITE","type":"CEL","expr":"size(message) < 3"},
		{"name":"t","mode":"READ","type":"CEL","expr":"message + b'!'"}]}}`)
	if b, err := set.WritePayload(context.Background(), []byte("ab")); err != nil || string(b) != "ab" {
		t.Error(string(b), err)
	}
	if _, err := set.WritePayload(context.Background(), []byte("abc")); err == nil {
		t.Error("too long a payload passed")
	}
	if b, err := set.ReadPayload(context.Background(), []byte("abc")); err != nil || string(b) != "abc!" {
		t.Error(string(b), err)
	}
	if v, err := set.Write(context.Background(), record{}); err != nil || v == nil {
		t.Error(v, err)
	}
}

// TestStructs: what the schema's library encodes is judged too.
func TestStructs(t *testing.T) {
	type Flight struct {
		Carrier string `avro:"carrier"`
		Number  int32  `avro:"number"`
	}
	text := `{"type":"record","name":"F","fields":[{"name":"carrier","type":"string"},{"name":"number","type":"int"}]}`
	set := compile(t, text, domain(`{"name":"r","kind":"CONDITION","mode":"WRITE","type":"CEL","expr":"message.number > 0"}`))
	if _, err := set.Write(context.Background(), Flight{"LH", 0}); err == nil {
		t.Error("a struct was not judged")
	}
	if v, err := set.Write(context.Background(), &Flight{"LH", 1}); err != nil || v == nil {
		t.Error(v, err)
	}
}

func TestNoRules(t *testing.T) {
	for _, d := range []string{`{}`, `{"ruleSet":{}}`, `{"ruleSet":{"enableAt":"SERVER","domainRules":[{"name":"a","type":"CEL","expr":"false"}]}}`, domain(`{"name":"a","type":"CEL","disabled":true}`)} {
		if set := compile(t, person, d); set != nil {
			t.Errorf("%s has rules", d)
		}
	}
	var none *rules.Set
	v, ctx := any(record{}), context.Background()
	if n := testing.AllocsPerRun(10, func() { _, _ = none.Write(ctx, v); _, _ = none.Read(ctx, v); _, _ = none.WritePayload(ctx, nil) }); n != 0 {
		t.Errorf("%v allocations without rules", n)
	}
}

// TestBounds: expressions that would take long, or build much, are cut off.
func TestBounds(t *testing.T) {
	many := strings.Repeat("[1,2,3,4,5,6,7,8,9,10].all(a,", 12) + "true" + strings.Repeat(")", 12)
	for _, expr := range []string{
		many, `message.name.replace('', message.name).size() > 0`, `message.list.join(message.name).size() > 0`,
		strings.Repeat("(", 2000) + "1" + strings.Repeat(")", 2000), `'` + strings.Repeat("a", 20_000) + `' == ''`,
		`message.name.matches('(a*)*b')` + strings.Repeat(` || message.name.matches('(a{1,100}){1,10}b')`, 100),
		`message.name.matches(message.name)`, `'%.1000000000f'.format([1.0]) == ''`,
	} {
		list := make([]any, 10_000)
		for i := range list {
			list[i] = ""
		}
		b, _ := json.Marshal(expr)
		set := compile(t, person, domain(`{"name":"r","kind":"CONDITION","mode":"WRITE","type":"CEL","expr":`+string(b)+`}`))
		if _, err := set.Write(context.Background(), record{"name": strings.Repeat("a", 1<<20), "list": list}); err == nil {
			t.Errorf("%.50s passed", expr)
		}
	}
	var d rules.Definition
	d.RuleSet = &rules.RuleSet{DomainRules: make([]rules.Rule, 1001)}
	if _, err := rules.Compile(parse(t, person), d); err == nil {
		t.Error("too many rules passed")
	}
}

// TestMigration: values that JSON does not have pass through, and an expression
// is worth the same each time.
func TestMigration(t *testing.T) {
	set := compile(t, flight, `{"ruleSet":{"migrationRules":[{"name":"up","mode":"UPGRADE","type":"JSONATA",
		"expr":"$merge([$sift($, function($v, $k) {$k != 'pilot'}), {'carrier': $uppercase(carrier) & ($.'pilot' ~> $replace('n', 'N'))}])"}]}}`)
	in := record{"carrier": "lh", "number": int32(7), "pilot": "Ann", "price": big.NewRat(1, 3), "at": time.Unix(5, 0).UTC(), "notes": []byte{1}, "legs": []any{int64(1 << 60)}}
	want := record{"carrier": "LHANN", "number": int32(7), "price": big.NewRat(1, 3), "at": time.Unix(5, 0).UTC(), "notes": []byte{1}, "legs": []any{int64(1 << 60)}}
	for range 3 {
		got, err := set.Upgrade(context.Background(), in)
		if diff := cmp.Diff(any(want), got, cmp.Comparer(func(a, b *big.Rat) bool { return a.Cmp(b) == 0 })); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	}
}

// TestJSONataBounds: what would take long, build much or end the process is an
// error, and soon.
func TestJSONataBounds(t *testing.T) {
	for _, expr := range []string{
		`($f := function($x) { $f($x) }; $f(1))`, `($f := function($x) { $f($x & $x) }; $f(name))`, `(function($f) { $f($f) })(function($f) { $f($f) })`,
		`[1..10000000]`, `[1..10000].[1..10000].[1..10000]`, `($a := [1..10000]; $a.$a.$a)`, `($a := [1..10000]; $a.($a).($a))`, `($a := [1..10000]; $a.$a[1=1].$a[1=1])`,
		`(` + strings.Repeat(`$a := $a & 'xxxxxxxxxx' & $a & name; `, 50) + `$a)`, `(` + strings.Repeat(`$a := [$a, $a, 1]; `, 50) + `$a)`,
		`($a := [1,2]; ` + strings.Repeat(`$a := $append($a, $a); `, 50) + `$a)`, `$pad(name, 1000000000)`, `$join([1..9999].'a', $pad(name, 9999))`,
		`($r := $replace; $s := $pad('a', 9999); $r($s, 'a', $s))`, `$reduce([1..1000], function($a, $b) { $a & $a & 'x' })`,
		strings.Repeat("[1,2].", 40) + "x", `**.**.**.**.**.**.**.**.**.**.**.**`, `$contains(name, /(a{1,100}){1,10}b/)`,
		`$penstockCalled()`, `($penstockGrown := 1; 2)`, strings.Repeat("(", 5000) + "1" + strings.Repeat(")", 5000), `$map([1..10000], function($x) { $map([1..10000], function($y) { $y }) })`,
	} {
		b, _ := json.Marshal(expr)
		set := compile(t, person, `{"ruleSet":{"migrationRules":[{"name":"r","mode":"UPGRADE","type":"JSONATA","expr":`+string(b)+`}]}}`)
		var deep any = record{"a": "x"}
		for range 30 {
			deep = record{"b": deep, "c": "x"}
		}
		if v, err := set.Upgrade(context.Background(), record{"name": "nnn", "deep": deep}); err == nil && !strings.HasPrefix(expr, "((") {
			s, _ := json.Marshal(v)
			t.Errorf("%.60s passed: %.80s", expr, s)
		}
	}
}
