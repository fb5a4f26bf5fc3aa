package avro

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
		s := parse(t, text)
		if got := s.Canonical(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		again := parse(t, s.Canonical())
		if again.Canonical() != s.Canonical() {
			t.Errorf("printed again: %s", again.Canonical())
		}
		if diff := cmp.Diff(s.Model(), again.Model()); diff != "" {
			t.Errorf("read again: %s", diff)
		}
	}
	f(` "string" `, `"string"`)
	f(`{"type": "string"}`, `"string"`)
	f(`{"type": "string", "doc": "dropped", "default": "kept"}`, `{"type":"string","default":"kept"}`)
	f(`{"logicalType": "decimal", "scale": 2, "type": "bytes", "precision": 9}`, `{"type":"bytes","logicalType":"decimal","scale":2,"precision":9}`)
	f(`{"items": {"type": "int"}, "x": 1, "type": "array"}`, `{"type":"array","items":"int","x":1}`)
	f(`{"type": "map", "values": ["null", {"type": "array", "items": "long"}]}`, `{"type":"map","values":["null",{"type":"array","items":"long"}]}`)
	f("/* a */ [\"null\", // b\n\"int\"]", `["null","int"]`)
	// The order of the attributes, whatever that of the source.
	f(`{"aliases": ["Old"], "p": null, "fields": [
		{"order": "descending", "aliases": ["b"], "q": [1, {"z": 1, "a": 2}], "default": 1, "doc": "", "type": "int", "name": "a"},
		{"name": "c", "type": "int", "order": "ascending"}
	], "doc": "d", "name": "R", "type": "record"}`,
		`{"type":"record","name":"R","doc":"d","fields":[{"name":"a","type":"int","doc":"","default":1,"order":"descending","aliases":["b"],"q":[1,{"z":1,"a":2}]},{"name":"c","type":"int"}],"p":null,"aliases":["Old"]}`)
	f(`{"default": "B", "symbols": ["A", "B"], "name": "E", "type": "enum", "p": 1, "namespace": "n"}`,
		`{"type":"enum","name":"E","namespace":"n","symbols":["A","B"],"default":"B","p":1}`)
	f(`{"size": 4, "name": "n.m.F", "type": "fixed"}`, `{"type":"fixed","name":"F","namespace":"n.m","size":4}`)
	f(`{"type": "error", "name": "E", "fields": []}`, `{"type":"error","name":"E","fields":[]}`)
	// Names: a dotted one wins, namespaces are inherited, written where they
	// change, and "" where one is left.
	f(`{"type": "record", "name": "a.b.R", "namespace": "ignored", "fields": [
		{"name": "x", "type": {"type": "fixed", "name": "F", "size": 1}},
		{"name": "y", "type": {"type": "fixed", "name": "G", "namespace": "c", "size": 1}},
		{"name": "z", "type": {"type": "record", "name": "H", "namespace": "", "fields": [{"name": "g", "type": "c.G"}]}},
		{"name": "u", "type": ["null", "a.b.F", "c.G", "H", "R"]}
	]}`,
		`{"type":"record","name":"R","namespace":"a.b","fields":[{"name":"x","type":{"type":"fixed","name":"F","size":1}},{"name":"y","type":{"type":"fixed","name":"G","namespace":"c","size":1}},{"name":"z","type":{"type":"record","name":"H","namespace":"","fields":[{"name":"g","type":"c.G"}]}},{"name":"u","type":["null","F","c.G","H","R"]}]}`)
	f(`{"type": "record", "name": "n.R", "aliases": ["A", "n.B", "m.C"], "fields": []}`,
		`{"type":"record","name":"R","namespace":"n","fields":[],"aliases":["A","B","m.C"]}`)
	// Text: only what must be is escaped.
	f(`{"type": "string", "p": "\u00e9\u2028\ud83d\ude00 \/ \"\\ \n\u001f"}`, `{"type":"string","p":"é`+"\u2028"+`😀 / \"\\ \n\u001F"}`)
	// Numbers: integers as they are, others as Java spells a double.
	f(`{"type": "string", "p": [1.50, 1e3, 1.5e10, 1e-3, 1.5e-4, 9999999.5, 1e7, -0.0, 100, 1e21, 123456789.125]}`,
		`{"type":"string","p":[1.5,1000.0,1.5E10,0.001,1.5E-4,9999999.5,1.0E7,-0.0,100,1.0E21,1.23456789125E8]}`)
	f(`{"type": "int", "p": [4.9e-324, 2e-323, 1.7976931348623157e308, 1e400, -1e400, 1e23, 0.001, 9.99e-4, 9999999.999, 1e7, -0, -0.0, 0e5, 9007199254740993]}`,
		`{"type":"int","p":[4.9E-324,2.0E-323,1.7976931348623157E308,"Infinity","-Infinity",1.0E23,0.001,9.99E-4,9999999.999,1.0E7,0,-0.0,0.0,9007199254740993]}`)
	f(`{"type": "record", "name": "R", "fields": [{"name": "a", "type": "double", "default": 1.50}, {"name": "b", "type": "double", "default": 1}]}`,
		`{"type":"record","name":"R","fields":[{"name":"a","type":"double","default":1.5},{"name":"b","type":"double","default":1}]}`)
	// A name that is that of a type is written in full; aliases count once, and
	// those of fields may be anything.
	f(`{"type":"record","name":"n.R","aliases":["n.A","A","m.C","int","record","n.map"],"fields":[{"name":"a","type":{"type":"fixed","name":"record","size":1}},{"name":"b","type":"record"},{"name":"c","type":"n.record"},{"name":"d","type":"int","aliases":["x-y","x","x","a b"]}]}`,
		`{"type":"record","name":"R","namespace":"n","fields":[{"name":"a","type":{"type":"fixed","name":"record","size":1}},{"name":"b","type":"n.record"},{"name":"c","type":"n.record"},{"name":"d","type":"int","aliases":["x-y","x","a b"]}],"aliases":["A","m.C","n.int","n.record","n.map"]}`)
	// What is no text is no doc, no namespace and no default symbol.
	f(`{"type":"record","name":"R","doc":5,"namespace":null,"fields":[{"name":"a","type":"int","doc":null,"order":"DESCENDING"}]}`,
		`{"type":"record","name":"R","fields":[{"name":"a","type":"int","order":"descending"}]}`)
	f(`{"type":"enum","name":"E","symbols":["A"],"default":null}`, `{"type":"enum","name":"E","symbols":["A"]}`)
	f(`{"type":"array","items":"int","namespace":"x","name":"A","doc":"d","default":[]}`, `{"type":"array","items":"int","default":[]}`)
	f(`{"type":"record","name":"a.R","fields":[{"name":"x","type":["null",{"type":"R","foo":1}],"default":null}]}`,
		`{"type":"record","name":"R","namespace":"a","fields":[{"name":"x","type":["null","R"],"default":null}]}`)
	f(`{"type":"record","name":".R","fields":[],"fields":[{"name":"b","type":"int"}]}`, `{"type":"record","name":"R","fields":[{"name":"b","type":"int"}]}`)
	f(`{"type":"record","name":"R","fields":[{"name":"x","type":{"type":"array","items":{"name":"Q","namespace":"z.y","type":"enum","symbols":["A"]}}},{"name":"y","type":"z.y.Q","default":"A"}]}`,
		`{"type":"record","name":"R","fields":[{"name":"x","type":{"type":"array","items":{"type":"enum","name":"Q","namespace":"z.y","symbols":["A"]}}},{"name":"y","type":"z.y.Q","default":"A"}]}`)
	// A logical type that cannot stand there is no more than a property.
	f(`{"type":"bytes","logicalType":"decimal","precision":2,"scale":50000000}`, `{"type":"bytes","logicalType":"decimal","precision":2,"scale":50000000}`)
	f(`{"type":"string","logicalType":"date"}`, `{"type":"string","logicalType":"date"}`)
	// An unknown logical type is a property like any other.
	f(`{"type": "int", "logicalType": "parsecs"}`, `{"type":"int","logicalType":"parsecs"}`)
}

func TestNormalized(t *testing.T) {
	refs := map[string]string{"f": `{"type":"fixed","name":"z.F","size":1}`}
	f := func(text, want string) {
		t.Helper()
		for text, want := range map[string]string{text: want, want: want} {
			s, err := Format{}.Parse(text, refs)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := schemas.Normalized(s); err != nil || got != want {
				t.Errorf("got  %s, %v\nwant %s", got, err, want)
			}
		}
	}
	f(`{"type":"string","b":{"z":1,"a":[{"y":1,"x":2},1.50]},"Z":1,"\uffff":1,"\ud83d\ude00":1,"a":1}`,
		`{"type":"string","Z":1,"a":1,"b":{"a":[{"x":2,"y":1},1.5],"z":1},"😀":1,"`+"\uffff"+`":1}`)
	// The logical type first, if it is one.
	f(`{"scale":2,"type":"bytes","b":1,"precision":9,"a":2,"logicalType":"decimal"}`, `{"type":"bytes","logicalType":"decimal","precision":9,"scale":2,"a":2,"b":1}`)
	f(`{"scale":0,"type":"bytes","b":1,"precision":9,"logicalType":"decimal"}`, `{"type":"bytes","logicalType":"decimal","precision":9,"b":1,"scale":0}`)
	f(`{"type":"bytes","b":1,"precision":9,"scale":99,"logicalType":"decimal"}`, `{"type":"bytes","b":1,"logicalType":"decimal","precision":9,"scale":99}`)
	f(`{"type":"int","a":1,"logicalType":"date"}`, `{"type":"int","logicalType":"date","a":1}`)
	f(`{"type":"int","z":2,"a":1,"logicalType":"parsecs"}`, `{"type":"int","a":1,"logicalType":"parsecs","z":2}`)
	f(`{"type":"fixed","name":"D","size":2,"a":1,"precision":4,"logicalType":"decimal"}`, `{"type":"fixed","name":"D","size":2,"logicalType":"decimal","precision":4,"a":1}`)
	f(`{"type":"fixed","name":"D","size":2,"a":1,"precision":5,"logicalType":"decimal"}`, `{"type":"fixed","name":"D","size":2,"a":1,"logicalType":"decimal","precision":5}`)
	// Aliases by full name, docs of types if there is something in them, errors.
	f(`{"type":"error","name":"n.R","doc":"","aliases":["B","m.C","A","a"],"fields":[{"name":"x","doc":"","type":"int","aliases":["b","a"],"order":"ignore"}]}`,
		`{"type":"record","name":"R","namespace":"n","fields":[{"name":"x","type":"int","doc":"","order":"ignore","aliases":["a","b"]}],"aliases":["m.C","A","B","a"]}`)
	f(`{"type":"enum","name":"E","doc":"d","symbols":["B","A"],"default":"A"}`, `{"type":"enum","name":"E","doc":"d","symbols":["B","A"],"default":"A"}`)
	// A type without a namespace does not fall into the one around it.
	f(`{"type":"record","name":"n.R","fields":[{"name":"x","type":{"type":"fixed","name":"F","namespace":"","size":1}},{"name":"y","type":["null","F","z.F"]}]}`,
		`{"type":"record","name":"R","namespace":"n","fields":[{"name":"x","type":{"type":"fixed","name":"F","namespace":"","size":1}},{"name":"y","type":["null","F","z.F"]}]}`)
	// Defaults as their types have them.
	def := func(typ, def, want string) {
		t.Helper()
		if want != "" {
			want = `,"default":` + want
		}
		f(`{"type":"record","name":"R","fields":[{"name":"x","type":`+typ+`,"default":`+def+`}]}`, `{"type":"record","name":"R","fields":[{"name":"x","type":`+typ+want+`}]}`)
	}
	def(`"double"`, `1`, `1.0`)
	def(`"double"`, `100000000000`, `1.0E11`)
	def(`"double"`, `123456789012345678901234567890`, `1.2345678901234568E29`)
	def(`"float"`, `1.5e10`, `1.50000005E10`)
	def(`"float"`, `0.1`, `0.1`)
	def(`"float"`, `16777217`, `1.6777216E7`)
	def(`"float"`, `8.85e10`, `8.8500003E10`)
	def(`"float"`, `3.4028235e38`, `3.4028235E38`)
	def(`"float"`, `1e-45`, `1.4E-45`)
	def(`"float"`, `9.9999e-4`, `9.9999E-4`)
	def(`"long"`, `123456789012`, `123456789012`)
	def(`"bytes"`, `"\u00ff\u0000"`, `"ÿ\u0000"`)
	def(`["double","null"]`, `1`, `1.0`)
	def(`["null","double"]`, `null`, `null`)
	def(`["null","double"]`, `5`, `5.0`)
	def(`"double"`, `"NaN"`, `"NaN"`)
	def(`{"type":"map","values":"double"}`, `{"b":1,"a":2}`, `{"a":2.0,"b":1.0}`)
	def(`{"type":"array","items":["null","float"]}`, `[1,null]`, `[1.0,null]`)
	def(`{"type":"record","name":"I","fields":[{"name":"z","type":"double"},{"name":"a","type":"boolean"}]}`, `{"z":1,"a":true}`, `{"a":true,"z":1.0}`)
}

func TestResolved(t *testing.T) {
	refs := map[string]string{
		"a": `{"type":"record","name":"people.Address","fields":[{"name":"city","type":"string"}]}`,
		"c": `{"type":"record","name":"people.Customer","doc":"d","fields":[{"name":"home","type":"Address"},{"name":"next","type":["null","Customer"]}]}`,
	}
	s, err := Format{}.Parse(`{"type":"record","name":"shop.Sale","fields":[{"name":"by","type":"people.Customer"},{"name":"to","type":"people.Address"}]}`, refs)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"type":"record","name":"Sale","namespace":"shop","fields":[{"name":"by","type":{"type":"record","name":"Customer","namespace":"people","doc":"d","fields":[{"name":"home","type":{"type":"record","name":"Address","fields":[{"name":"city","type":"string"}]}},{"name":"next","type":["null","Customer"]}]}},{"name":"to","type":"people.Address"}]}`
	if got, err := schemas.Text(s, "resolved"); err != nil || got != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
	alone, err := Format{}.Parse(want, nil)
	if err != nil || !schemas.Same(s, alone) {
		t.Errorf("the resolved text says something else: %v", err)
	}
	for _, format := range []string{"", "serialized"} {
		if got, err := schemas.Text(s, format); err != nil || got != s.Canonical() {
			t.Errorf("format %q: %s, %v", format, got, err)
		}
	}
}

func TestSame(t *testing.T) {
	base := `{"type":"record","name":"n.R","doc":"d","p":{"x":1,"y":2},"q":1,"aliases":["A","B"],"fields":[{"name":"a","type":{"type":"map","values":"double"},"default":{"k":1,"l":2.0},"aliases":["c","d"]},{"name":"e","type":{"type":"enum","name":"E","symbols":["S","T"],"default":"S"}}]}`
	f := func(old, new string, want bool) {
		t.Helper()
		if !strings.Contains(base, old) {
			t.Fatalf("%s is not there", old)
		}
		if got := schemas.Same(parse(t, base), parse(t, strings.Replace(base, old, new, 1))); got != want {
			t.Errorf("%s for %s: %t", new, old, got)
		}
	}
	f(`"p":{"x":1,"y":2},"q":1`, `"q":1,"p":{"y":2,"x":1}`, true)
	f(`["A","B"]`, `["n.B","A"]`, true)
	f(`["c","d"]`, `["d","c"]`, true)
	f(`{"k":1,"l":2.0}`, `{"l":2.00,"k":1}`, true)
	f(`"name":"n.R"`, `"namespace":"n","name":"R"`, true)
	f(`"record"`, `"error"`, true)
	f(`{"k":1,"l":2.0}`, `{"k":1.0,"l":2.0}`, false)
	f(`"doc":"d",`, ``, false)
	f(`"doc":"d"`, `"doc":""`, false)
	f(`"x":1`, `"x":2`, false)
	f(`"q":1`, `"q":1.0`, false)
	f(`["A","B"]`, `["A"]`, false)
	f(`,"default":"S"`, ``, false)
	f(`["S","T"]`, `["T","S"]`, false)
	f(`"aliases":["c","d"]`, `"order":"ignore","aliases":["c","d"]`, false)
	f(`n.R`, `m.R`, false)
	f(`"double"`, `"float"`, false)
	if schemas.Same(parse(t, `"int"`), parse(t, `"long"`)) {
		t.Error("int is long")
	}
}

func TestParseRefuses(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		_, err := Format{}.Parse(text, nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "parse Avro schema: ") {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
	f(``, `parse JSON: at offset 0: expected a JSON value, found the end`)
	f(`"int" x`, `at offset 6: expected nothing after the value`)
	f(`5`, `at the start: expected a type (a name, an object or an array), found a JSON number`)
	f(`"strin"`, `at the start: there is no type "strin": define it before its first use, or name the schema that defines it among the references`)
	f(`{"type":"record","name":"R"}`, `at /fields: expected an array of fields, found nothing`)
	f(`{"type":"record","fields":[]}`, `at the start: expected a "name" that is a string, because a record has one`)
	f(`{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"a","type":"int"}]}`, `at /fields/1/name: the field "a" stands twice`)
	f(`{"type":"record","name":"R","fields":[{"name":"a"}]}`, `at /fields/0/type: expected a type, found nothing`)
	f(`{"type":"record","name":"R","fields":[{"name":"a-b","type":"int"}]}`, `at /fields/0/name: expected a name of letters, digits and _, found string "a-b"`)
	f(`{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"enum","name":"R","symbols":["A"]}}]}`, `at /fields/0/type/name: the type "R" is defined twice`)
	f(`{"type":"record","name":"9","fields":[]}`, `at /name: expected a name of letters, digits and _, at most 1024 bytes with its namespace, found string "9"`)
	f(`{"type":"enum","name":"E","symbols":["A","A"]}`, `at /symbols/1: the symbol "A" stands twice`)
	f(`{"type":"enum","name":"E","symbols":["A B"]}`, `at /symbols/0: expected a symbol of letters, digits and _, found string "A B"`)
	f(`{"type":"enum","name":"E","symbols":["A"],"default":"B"}`, `at /default: expected one of the symbols, found string "B"`)
	f(`{"type":"fixed","name":"F","size":-1}`, `at /size: expected a number of bytes, found number -1`)
	f(`{"type":"array"}`, `at /items: expected a type, found nothing`)
	f(`{"type":"int","p":92233720368547758080}`, `at /p: expected an integer of 64 bits, found 92233720368547758080`)
	f(`["int","int"]`, `int`)
	f(`{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":"x"}]}`, `default`)
	f(`["null",["int"]]`, `at /1: expected a type that is no union, because a union may not directly contain another`)
	f(`["int",{"type":"map","values":"int"},{"type":"map","values":"string"}]`, `at /2: the union has two branches of the type "map": a value could not be told to be of one`)
	f(`["int",{"type":"fixed","name":"F","size":1},"F"]`, `at /2: the union has two branches of the type "F"`)
	f(`{"type":"record","name":"R","aliases":"x","fields":[]}`, `at /aliases: expected an array of names, found string "x"`)
	f(`{"type":"record","name":"R","aliases":["x",1],"fields":[]}`, `at /aliases/1: expected a name, found number 1`)
	f(`{"type":"record","name":"R","aliases":["x y"],"fields":[]}`, `at /aliases/0: expected a name, found string "x y"`)
	f(`{"type":"record","name":"R","fields":[{"name":"a","type":"int","aliases":{}}]}`, `at /fields/0/aliases: expected an array of names, found a JSON object`)
	f(strings.Repeat(`{"type":"array","items":`, 201)+`"int"`+strings.Repeat("}", 201), `less nesting`)
	f(strings.Repeat(" ", 4<<20+1), `a schema of at most`)
}

func TestReferences(t *testing.T) {
	refs := map[string]string{ // the keys sort against the dependencies
		"1 order":    `{"type":"record","name":"shop.Order","fields":[{"name":"by","type":"people.Customer"},{"name":"to","type":"people.Address"}]}`,
		"2 customer": `{"type":"record","name":"Customer","namespace":"people","fields":[{"name":"home","type":"Address"}]} // text`,
		"3 address":  `{"type":"record","name":"people.Address","fields":[{"name":"city","type":"string"}]}`,
		"4 unused":   `["null", {"type":"enum","name":"E","symbols":["A"]}]`,
	}
	s, err := Format{}.Parse(`{"type":"record","name":"shop.Sale","fields":[{"name":"order","type":"Order"},{"name":"via","type":["null","people.Address"]}]}`, refs)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"type":"record","name":"Sale","namespace":"shop","fields":[{"name":"order","type":"Order"},{"name":"via","type":["null","people.Address"]}]}`
	if s.Canonical() != want {
		t.Errorf("got  %s\nwant %s", s.Canonical(), want)
	}
	address := map[string]any{"city": "Jena"}
	v := map[string]any{"order": map[string]any{"by": map[string]any{"home": address}, "to": address}, "via": address}
	b, err := s.AppendEncode(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	back, err := s.Decode(b)
	if diff := cmp.Diff(v, back); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if _, err := (Format{}).Parse(`"shop.Order"`, refs); err != nil {
		t.Errorf("a name alone: %v", err)
	}

	f := func(text string, refs map[string]string, want string) {
		t.Helper()
		_, err := Format{}.Parse(text, refs)
		if err == nil || err.Error() != "parse Avro schema: "+want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	f(`"A"`, map[string]string{
		"a": `{"type":"record","name":"A","fields":[{"name":"b","type":"B"}]}`,
		"b": `{"type":"record","name":"B","fields":[{"name":"c","type":"C"}]}`,
		"c": `{"type":"record","name":"C","fields":[{"name":"x","type":"X"}]}`,
	}, `in the reference "c", at /fields/0/type: there is no type "X": define it before its first use, or name the schema that defines it among the references`)
	f(`"A"`, map[string]string{
		"a": `{"type":"record","name":"A","fields":[{"name":"b","type":"B"}]}`,
		"b": `{"type":"record","name":"B","fields":[{"name":"c","type":"C"}]}`,
		"c": `{"type":"record","name":"C","fields":[{"name":"a","type":["null","A"]}]}`,
	}, `in the reference "c", at /fields/0/type/1: the type "A" is of a schema that itself refers to this one`)
	f(`{"type":"record","name":"R","fields":[{"name":"a","type":"A"}]}`, map[string]string{
		"a": `{"type":"record","name":"A","fields":[{"name":"r","type":["null","R"]}]}`,
	}, `in the reference "a", at /fields/0/type/1: the type "R" is of a schema that itself refers to this one`)
	f(`"int"`, map[string]string{"a": `{`}, `in the reference "a": parse JSON: at offset 1: expected a key in double quotes, found the end`)
	f(`"int"`, map[string]string{
		"a": `{"type":"enum","name":"E","symbols":["A"]}`,
		"b": `{"type":"enum","name":"E","symbols":["A"]}`,
	}, `the type "E" is defined in both references "a" and "b"`)
	f(`{"type":"enum","name":"E","symbols":["A"]}`, map[string]string{"a": `{"type":"enum","name":"E","symbols":["A"]}`},
		`at /name: the type "E" is defined here and in the reference "a"`)
}

func TestModel(t *testing.T) {
	s := parse(t, `{"type":"record","name":"n.R","doc":"d","aliases":["Old"],"fields":[
		{"name":"i","type":"int","default":5,"aliases":["j"],"doc":"an int","confluent:tags":["PII","X"]},
		{"name":"n","type":["null","long"]},
		{"name":"m","type":["long","null"]},
		{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2},"default":"\u00ff\u0001"},
		{"name":"u","type":{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}},
		{"name":"t","type":{"type":"long","logicalType":"timestamp-micros"}},
		{"name":"w","type":{"type":"int","logicalType":"timestamp-micros"}},
		{"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"],"default":"B"},"default":"A"},
		{"name":"a","type":{"type":"array","items":"R"},"default":[]},
		{"name":"f","type":"float","default":1.5},
		{"name":"o","type":{"type":"map","values":"double"},"default":{"x":1}},
		{"name":"z","type":["null","string"],"default":null}
	]}`)
	n := s.Model()
	if n.Field("a").Node.Items != n {
		t.Error("the record within itself is not the record")
	}
	n.Field("a").Node.Items = nil
	micros := &schemas.Node{Kind: schemas.Int, Bits: 64, Logical: schemas.Timestamp, Native: "timestamp-micros"}
	null, long := &schemas.Node{Kind: schemas.Null}, &schemas.Node{Kind: schemas.Int, Bits: 64}
	want := &schemas.Node{Kind: schemas.Record, Name: "n.R", Doc: "d", Aliases: []string{"n.Old"}, Fields: []schemas.Field{
		{Name: "i", Aliases: []string{"j"}, Doc: "an int", Tags: []string{"PII", "X"}, Node: &schemas.Node{Kind: schemas.Int, Bits: 32}, HasDefault: true, Default: int32(5)},
		{Name: "n", Node: &schemas.Node{Kind: schemas.Union, Branches: []*schemas.Node{null, long}}},
		{Name: "m", Node: &schemas.Node{Kind: schemas.Union, Branches: []*schemas.Node{long, null}}, Required: true},
		{Name: "d", Node: &schemas.Node{Kind: schemas.Bytes, Logical: schemas.Decimal, Precision: 9, Scale: 2}, HasDefault: true, Default: []byte{255, 1}},
		{Name: "u", Node: &schemas.Node{Kind: schemas.Fixed, Name: "n.U", Size: 16, Logical: schemas.UUID}, Required: true},
		{Name: "t", Node: micros, Required: true},
		{Name: "w", Node: &schemas.Node{Kind: schemas.Int, Bits: 32}, Required: true},
		{Name: "e", Node: &schemas.Node{Kind: schemas.Enum, Name: "n.E", Symbols: []string{"A", "B"}, Fallback: "B"}, HasDefault: true, Default: "A"},
		{Name: "a", Node: &schemas.Node{Kind: schemas.Array}, HasDefault: true, Default: []any{}},
		{Name: "f", Node: &schemas.Node{Kind: schemas.Float, Bits: 32}, HasDefault: true, Default: float32(1.5)},
		{Name: "o", Node: &schemas.Node{Kind: schemas.Map, Items: &schemas.Node{Kind: schemas.Float, Bits: 64}}, HasDefault: true, Default: map[string]any{"x": 1.0}},
		{Name: "z", Node: &schemas.Node{Kind: schemas.Union, Branches: []*schemas.Node{null, {Kind: schemas.String}}}, HasDefault: true},
	}}
	if diff := cmp.Diff(want, n); diff != "" {
		t.Error(diff)
	}
}

// Everything the contract lists is taken and comes back as its own type.
func TestValues(t *testing.T) {
	f := func(text string, v, want any) {
		t.Helper()
		s := parse(t, text)
		b, err := s.AppendEncode([]byte("x"), v)
		if err != nil || b[0] != 'x' {
			t.Errorf("%s, %v: %v", text, v, err)
			return
		}
		got, err := s.Decode(b[1:])
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b *big.Rat) bool { return a.Cmp(b) == 0 })); err != nil || diff != "" {
			t.Errorf("%s, %v: %v %s", text, v, err, diff)
		}
	}
	at := time.Date(2013, 2, 8, 17, 30, 0, 123e6, time.UTC)
	f(`"null"`, nil, nil)
	f(`"boolean"`, true, true)
	f(`"int"`, json.Number("7.0"), int32(7))
	f(`"int"`, uint8(7), int32(7))
	f(`"long"`, 7.0, int64(7))
	f(`"float"`, 1, float32(1))
	f(`"double"`, json.Number("1.25"), 1.25)
	f(`"double"`, math.Inf(-1), math.Inf(-1))
	f(`"bytes"`, []byte("\xff"), []byte("\xff"))
	f(`"string"`, "é", "é")
	f(`{"type":"long","logicalType":"timestamp-millis"}`, at, at)
	f(`{"type":"long","logicalType":"timestamp-millis"}`, "2013-02-08T18:30:00.123+01:00", at)
	f(`{"type":"long","logicalType":"timestamp-millis"}`, json.Number("1360344600123"), at)
	f(`{"type":"int","logicalType":"date"}`, "2013-02-08", time.Date(2013, 2, 8, 0, 0, 0, 0, time.UTC))
	f(`{"type":"int","logicalType":"time-millis"}`, 90*time.Minute, 90*time.Minute)
	f(`{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}`, json.Number("12.34"), big.NewRat(1234, 100))
	f(`{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}`, "e1dd9a1e-f98b-451b-5369-0370b393966b", "e1dd9a1e-f98b-451b-5369-0370b393966b")
	f(`{"type":"fixed","name":"D","size":12,"logicalType":"duration"}`, bytes.Repeat([]byte{1}, 12), bytes.Repeat([]byte{1}, 12))
	f(`{"type":"enum","name":"E","symbols":["A","B"]}`, "B", "B")
	f(`["null","int","string"]`, nil, nil)
	f(`["null","int","string"]`, "x", "x")
	f(`["null","int","string"]`, map[string]any{"int": 5}, int32(5))
	f(`{"type":"map","values":"long"}`, map[string]any{"a": 1}, map[string]any{"a": int64(1)})
	f(`{"type":"array","items":"string"}`, []string{"a"}, []any{"a"})
	f(`{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":5},{"name":"b","type":["null","int"]}]}`,
		map[string]any{}, map[string]any{"a": int32(5), "b": nil})
}

// A record is taken for the branch it fits, though the fields of another all
// have defaults.
func TestBranchesWithDefaults(t *testing.T) {
	s := parse(t, `{"type":"array","items":["null",
		{"type":"record","name":"A","fields":[{"name":"a","type":"int","default":1}]},
		{"type":"record","name":"n.B","fields":[{"name":"b","type":"int"},{"name":"in","type":["null","A","n.B"],"default":null}]},
		{"type":"map","values":"string"}]}`)
	v := []any{
		map[string]any{"b": int32(5), "in": map[string]any{"b": int32(6), "in": map[string]any{"a": int32(7)}}},
		map[string]any{"a": int32(2)},
		map[string]any{"x": "y"},
		nil,
	}
	b, err := s.AppendEncode(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	back, err := s.Decode(b)
	if diff := cmp.Diff(any(v), back); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if _, err := s.AppendEncode(nil, []any{map[string]any{"b": 5, "c": 6}}); err == nil {
		t.Error("a field that no branch has was taken")
	}
}

type person struct {
	Name    string            `avro:"name"`
	Age     int               `avro:"age"`
	Email   *string           `avro:"email"`
	Tags    map[string]string `avro:"tags"`
	Scores  []float32         `avro:"scores"`
	Ignored int               `avro:"-"`
	Base
}

type Base struct {
	Since time.Time `avro:"since"`
}

const personText = `{"type":"record","name":"Person","fields":[
	{"name":"name","type":"string"},{"name":"age","type":"int"},{"name":"email","type":["null","string"]},
	{"name":"tags","type":{"type":"map","values":"string"}},{"name":"scores","type":{"type":"array","items":"float"}},
	{"name":"since","type":{"type":"long","logicalType":"timestamp-millis"}}]}`

func TestStructs(t *testing.T) {
	s := parse(t, personText)
	mail := "a@b"
	v := person{Name: "Ada", Age: 36, Email: &mail, Tags: map[string]string{"a": "b"}, Scores: []float32{1}, Base: Base{Since: time.UnixMilli(5)}}
	b, err := s.AppendEncode(nil, &v)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Decode(b)
	want := map[string]any{"name": "Ada", "age": int32(36), "email": "a@b", "tags": map[string]any{"a": "b"}, "scores": []any{float32(1)}, "since": time.UnixMilli(5).UTC()}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}

	bad := "\xff"
	v.Age, v.Name, v.Email, v.Tags["k"] = 1<<40, "A\xff", &bad, "\xfe"
	for _, v := range []any{v, &v} {
		_, err = s.AppendEncode(nil, v)
		var refused *schemas.ValueError
		if !errors.As(err, &refused) {
			t.Fatalf("got %v", err)
		}
		var places []string
		for _, violation := range refused.Violations {
			places = append(places, violation.Pointer)
		}
		if diff := cmp.Diff([]string{"/name", "/age", "/email", "/tags/k"}, places); diff != "" {
			t.Errorf("%v: %s", err, diff)
		}
	}
	if _, err := s.AppendEncode(nil, struct{ Name string }{"Ada"}); err == nil {
		t.Error("a struct without most fields was taken")
	}
}

// What the library lets pass and readers could not want is refused.
func TestAudit(t *testing.T) {
	f := func(text string, v any, where string) {
		t.Helper()
		_, err := parse(t, text).AppendEncode(nil, v)
		var refused *schemas.ValueError
		if !errors.As(err, &refused) || refused.Violations[0].Pointer != where {
			t.Errorf("%s, %v: got %v, want a violation at %q", text, v, err, where)
		}
	}
	record := `{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":1}]}`
	f(record, map[string]any{"b": 2}, "/b")
	f(record, map[string]any{"a": 1, "b": 2}, "/b")
	f(record, map[string]int{"b": 2}, "/b")
	f(record, &map[string]any{"b": 2}, "/b")
	f(`{"type":"array","items":`+record+`}`, []any{map[string]any{"a": 1}, map[string]any{"b": 2}}, "/1/b")
	f(`{"type":"array","items":`+record+`}`, []map[string]any{{"b": 2}}, "/0/b")
	f(`{"type":"map","values":`+record+`}`, map[string]any{"x": map[string]any{"b": 2}}, "/x/b")
	f(`{"type":"map","values":`+record+`}`, map[string]map[string]any{"x": {"b": 2}}, "/x/b")
	f(`["null",`+record+`]`, map[string]any{"b": 2}, "/b")
	f(`["null",`+record+`]`, map[string]any{"R": map[string]any{"b": 2}}, "/b")
	f(`{"type":"record","name":"O","fields":[{"name":"r","type":`+record+`}]}`, map[string]any{"r": map[string]any{"b": 2}}, "/r/b")
	f(`"string"`, "\xff", "")
	text := `{"type":"record","name":"R","fields":[{"name":"n","type":["null","int"]},{"name":"s","type":"string"},{"name":"d","type":["double","null"]}]}`
	f(text, map[string]any{"n": 300, "s": "\xff", "d": nil}, "/s")
	f(text, map[string]any{"n": nil, "s": "s", "d": json.Number("1e309")}, "/d")
	f(text, &struct {
		N *int     `avro:"n"`
		S string   `avro:"s"`
		D *float64 `avro:"d"`
	}{S: "\xff"}, "/s")
	f(`{"type":"map","values":"int"}`, map[string]any{"\xff": 1}, "")
	f(`{"type":"array","items":"string"}`, []string{"a", "\xff"}, "/1")
	f(`"double"`, json.Number("1e309"), "")
	f(`"float"`, json.Number("1e39"), "")
	f(`"float"`, 1e39, "")

	ok := func(text string, v any) {
		t.Helper()
		if _, err := parse(t, text).AppendEncode(nil, v); err != nil {
			t.Errorf("%s, %v: %v", text, v, err)
		}
	}
	ok(`["null",`+record+`]`, map[string]any{"R": map[string]any{"a": 1}})
	ok(record, map[string]int{"a": 2})
	ok(`{"type":"record","name":"a","fields":[{"name":"a","type":["null","a"]}]}`, map[string]any{"a": map[string]any{"a": nil}})
}

// A schema whose unions nest could take the library forever to refuse a value.
func TestNestedUnionsEnd(t *testing.T) {
	s := parse(t, `{"type":"record","name":"Root","fields":[{"name":"n","type":[
		{"type":"record","name":"A","fields":[{"name":"next","type":["null","A",{"type":"record","name":"B","fields":[{"name":"next","type":["null","A","B"]}]}]}]},
		"B"]}]}`)
	forks := func(s *Schema) bool {
		c, err := s.coder()
		if err != nil {
			t.Fatal(err)
		}
		return c.forks
	}
	if !forks(s) {
		t.Fatal("the schema is not seen to fork")
	}
	var v any
	for range 90 {
		v = map[string]any{"next": v}
	}
	if _, err := s.AppendEncode(nil, map[string]any{"n": v}); err != nil {
		t.Errorf("a good value: %v", err)
	}
	v = "the end"
	for range 90 {
		v = map[string]any{"next": v}
	}
	if _, err := s.AppendEncode(nil, map[string]any{"n": v}); err == nil {
		t.Error("a bad value was taken")
	}
	if forks(parse(t, personText)) || forks(parse(t, `[{"type":"map","values":"int"},{"type":"record","name":"R","fields":[]}]`)) {
		t.Error("a schema without nested unions is seen to fork")
	}
}

// Schemas made to take time or memory out of proportion to their size are
// refused, or cost no more than others: each bound is one that a schema here
// would pass by hours or gigabytes.
func TestHostileSchemas(t *testing.T) {
	many := func(n int, item string) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strings.ReplaceAll(item, "#", strconv.Itoa(i)))
		}
		return b.String()
	}
	record := func(fields string) string { return `{"type":"record","name":"R","fields":[` + fields + `]}` }
	deep := func(value string) string { return strings.Repeat(`{"n":`, 90) + value + strings.Repeat("}", 90) }
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
	f("10,000 fields", record(many(10_000, `{"name":"f#","type":["null","long"],"default":null,"doc":"d"}`)), "")
	f("1 MB of fields", record(many(30_000, `{"name":"f#","type":"int","doc":""}`)), "")
	f("1 MB of symbols", `{"type":"enum","name":"E","symbols":[`+many(110_000, `"a#"`)+`]}`, "")
	f("1 MB of aliases", `{"type":"fixed","name":"E","size":1,"aliases":[`+many(110_000, `"a#"`)+`]}`, "")
	f("1 MB of properties", `{"type":"int",`+many(80_000, `"a#":1`)+`}`, "")
	f("depth 1,000", strings.Repeat(`{"type":"array","items":`, 1000)+`"int"`+strings.Repeat("}", 1000), "one level too many")
	f("a type in itself", record(many(10, `{"name":"f#","type":["null","R"]}`)), "")
	f("a million branches", "["+strings.TrimSuffix(strings.Repeat("1,", 1_000_000), ",")+"]", "at most 524288 values")
	f("many branches", "["+many(10_001, `{"type":"fixed","name":"F#","size":1}`)+"]", "at most 10000 branches")
	f("a long namespace", `{"type":"record","name":"R","namespace":"`+strings.Repeat("a.", 100_000)+`a","fields":[`+many(1000, `{"name":"f#","type":{"type":"fixed","name":"F#","size":1}}`)+`]}`, "at most 1024 bytes")
	f("a default in unions in unions", record(`{"name":"n","type":[{"type":"record","name":"A","fields":[{"name":"n","type":["null","A",{"type":"record","name":"B","fields":[{"name":"n","type":["null","A","B"]}]}]}]},"B"]},{"name":"d","type":["A","B"],"default":`+deep(`1`)+`}`), "at /fields/1/default: expected a default")
	f("a default that lacks itself", record(`{"name":"d","type":{"type":"map","values":"R"},"default":{"k":{}}}`), "at /fields/0/default: expected a default")
	f("a default whose parts double", record(many(9, `{"name":"f#","type":["null","R"],"default":{}}`)), "at /fields/0/default: expected a default")
	f("a default of the wrong size", record(`{"name":"d","type":{"type":"fixed","name":"F","size":2},"default":"x"}`), "at /fields/0/default: expected a default")
	f("a default that is no symbol", record(`{"name":"d","type":{"type":"enum","name":"E","symbols":["A"]},"default":"B"}`), "at /fields/0/default: expected a default")
	f("a default beyond 32 bits", record(`{"name":"d","type":"int","default":2147483648}`), "at /fields/0/default: expected a default")
}

// Payloads that bring down other decoders.
var hostile = []struct {
	schema, payload string
}{
	{`{"type":"array","items":"long"}`, "\xfe\xff\xff\xff\x0f"},
	{`{"type":"array","items":"long"}`, "\x80\x80\x80\x80\x80\x40"},
	{`{"type":"array","items":"null"}`, "\x80\xa8\xd6\xb9\x07\x00"},
	{`{"type":"array","items":{"type":"record","name":"E","fields":[]}}`, "\x80\xa8\xd6\xb9\x07\x00"},
	{`{"type":"map","values":"long"}`, "\x80\x84\xaf\x5f"},
	{`{"type":"array","items":"long"}`, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
	{`{"type":"record","name":"L","fields":[{"name":"n","type":["null","L"]}]}`, strings.Repeat("\x02", 1<<20)},
	{`{"type":"record","name":"T","fields":[{"name":"n","type":{"type":"array","items":"T"}}]}`, strings.Repeat("\x02", 1<<20)},
	{`"string"`, "\x80\xca\xb5\xee\x01"},
	{`"bytes"`, "\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
	{`"long"`, "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"},
	{`"string"`, "\x02\xff"},
	{`"int"`, "\x02\x02"},
	{`"boolean"`, ""},
}

func TestHostilePayloads(t *testing.T) {
	for _, h := range hostile {
		v, err := schemas.Decode(parse(t, h.schema), []byte(h.payload), schemas.Limits{})
		if err == nil {
			t.Errorf("%s: % .20x decoded to %v", h.schema, h.payload, v)
		}
	}
}

func TestDecodeTakesExactlyOneValue(t *testing.T) {
	s := parse(t, personText)
	b, err := s.AppendEncode(nil, map[string]any{"name": "Ada", "age": 36, "email": "a@b", "tags": map[string]any{"a": "b"}, "scores": []any{1}, "since": time.UnixMilli(5)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		if v, err := s.Decode(b[:i]); err == nil {
			t.Errorf("%d of %d bytes decoded to %v", i, len(b), v)
		}
	}
	_, err = s.Decode(append(b, 0))
	if err == nil || !strings.Contains(err.Error(), "found 1 more; was it written with another schema?") {
		t.Errorf("one byte more: %v", err)
	}
}

// TestRegistered: what registries have taken for years is read, and serves data.
func TestRegistered(t *testing.T) {
	text := `{"type":"record","name":"Größe","namespace":"foo-bar","fields":[{"name":"größe","type":"int","default":"x"},{"name":"c","type":{"type":"enum","name":"C","symbols":["Grün"]},"default":"Grün"}]}`
	if _, err := (Format{}).Parse(text, nil); err == nil || !strings.Contains(err.Error(), "at /name") {
		t.Errorf("anew: got %v, want the namespace refused", err)
	}
	if _, err := (Format{}).Parse(strings.Replace(text, "foo-bar", "foo.bär", 1), nil); err == nil || !strings.Contains(err.Error(), "at /fields/0/default") {
		t.Errorf("anew: got %v, want the default refused", err)
	}
	s, err := Format{}.ParseRegistered(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Canonical() != text {
		t.Errorf("canonical %s, want %s", s.Canonical(), text)
	}
	if normal, err := schemas.Normalized(s); err != nil || !strings.Contains(normal, `"default":"x"`) {
		t.Errorf("normalised: %s, %v", normal, err)
	}
	b, err := s.AppendEncode(nil, map[string]any{"größe": 5})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := s.Decode(b); err != nil || cmp.Diff(map[string]any{"größe": int32(5), "c": "Grün"}, v) != "" {
		t.Errorf("decoded %v, %v", v, err)
	}
	if _, err := s.AppendEncode(nil, map[string]any{}); err == nil {
		t.Error("a field whose default is no value of it was left out, and encoded")
	}
	// A reference has been registered, so it may be like that.
	if _, err := (Format{}).Parse(`{"type":"array","items":"foo-bar.Größe"}`, map[string]string{"r": text}); err != nil {
		t.Error(err)
	}
	if _, err := (Format{}).ParseRegistered(`{"type":"record","name":"R","fields":[{"name":"a-b","type":"int"}]}`, nil); err == nil {
		t.Error("a field's name of any text was read")
	}
}
