package protobuf

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/types/known/timestamppb"
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

const everything = `syntax = "proto3";
package p;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
enum Colour { RED = 0; GREEN = 5; }
message All {
  bool b = 1; int32 i = 2; sint64 l = 3; uint32 u = 4; fixed64 v = 5; float f = 6; double d = 7;
  string s = 8; bytes y = 9; Colour c = 10; repeated sfixed32 r = 11; map<int32, Colour> m = 12; map<string, string> t = 13;
  optional int64 o = 14;
  oneof one { string x = 15; In z = 16; }
  google.protobuf.Timestamp at = 17;
  google.protobuf.Int64Value w = 18;
  google.protobuf.Struct j = 19;
  google.protobuf.Value k = 20;
  repeated In in = 21;
  message In { string name = 1; All again = 2; message Deep { int32 n = 1; } }
  map<bool, In> q = 22;
}
message Other { int32 n = 1; }
`

// empty is what an empty message decodes to.
func empty() map[string]any {
	return map[string]any{
		"b": false, "i": int32(0), "l": int64(0), "u": uint32(0), "v": uint64(0), "f": float32(0), "d": 0.0, "s": "", "y": []byte{},
		"c": "RED", "r": []any{}, "m": map[string]any{}, "t": map[string]any{}, "o": nil, "x": nil, "z": nil, "at": nil, "w": nil,
		"j": nil, "k": nil, "in": []any{}, "q": map[string]any{},
	}
}

func TestValues(t *testing.T) {
	s := parse(t, everything)
	f := func(name string, v, want any) {
		t.Helper()
		b, err := s.AppendEncode([]byte("x"), map[string]any{name: v})
		if err != nil || b[0] != 'x' {
			t.Errorf("%s, %v: %v", name, v, err)
			return
		}
		got, err := schemas.Decode(s, b[1:], schemas.Limits{})
		whole := empty()
		whole[name] = want
		if diff := cmp.Diff(any(whole), got); err != nil || diff != "" {
			t.Errorf("%s, %v: %v %s", name, v, err, diff)
		}
	}
	at := time.Date(2013, 2, 8, 17, 30, 0, 123456789, time.UTC)
	f("b", true, true)
	f("i", json.Number("-7"), int32(-7))
	f("l", math.MinInt64, int64(math.MinInt64))
	f("u", 4294967295.0, uint32(math.MaxUint32))
	f("v", json.Number("18446744073709551615"), uint64(math.MaxUint64))
	f("f", 1.5, float32(1.5))
	f("d", json.Number("0.1"), 0.1)
	f("d", math.Inf(1), math.Inf(1))
	f("s", "é", "é")
	f("y", []byte("\xff"), []byte("\xff"))
	f("y", "/w==", []byte("\xff"))
	f("c", "GREEN", "GREEN")
	f("c", int32(77), int32(77))
	f("r", []any{1, int64(-2)}, []any{int32(1), int32(-2)})
	f("m", map[string]any{"-5": "GREEN"}, map[string]any{"-5": "GREEN"})
	f("t", map[string]any{"a": "b"}, map[string]any{"a": "b"})
	f("q", map[string]any{"true": map[string]any{"name": "n"}}, map[string]any{"true": map[string]any{"name": "n", "again": nil}})
	f("o", 0, int64(0))
	f("o", nil, nil)
	f("x", "", "")
	f("z", map[string]any{"name": "n"}, map[string]any{"name": "n", "again": nil})
	f("at", at, at)
	f("at", "2013-02-08T18:30:00.123456789+01:00", at)
	f("w", 5, int64(5))
	f("w", nil, nil)
	f("j", map[string]any{"a": []any{1.5, nil, true, "x", map[string]any{}}}, map[string]any{"a": []any{1.5, nil, true, "x", map[string]any{}}})
	f("k", nil, nil)
	f("k", []any{"a"}, []any{"a"})
	f("k", json.Number("1.25"), 1.25)
	f("in", []any{map[string]any{"name": "a"}, map[string]any{}}, []any{map[string]any{"name": "a", "again": nil}, map[string]any{"name": "", "again": nil}})
}

func TestRefusals(t *testing.T) {
	s := parse(t, everything)
	f := func(v map[string]any, want ...string) {
		t.Helper()
		out, err := s.AppendEncode([]byte("kept"), v)
		var refused *schemas.ValueError
		if !errors.As(err, &refused) || string(out) != "kept" {
			t.Errorf("%v: got %q, %v", v, out, err)
			return
		}
		var got []string
		for _, violation := range refused.Violations {
			got = append(got, violation.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v: %s", v, diff)
		}
	}
	f(map[string]any{"x": "a", "z": map[string]any{}}, `at /z: expected one field of the oneof "one", found both "x" and "z"; leave out one of them, or make it null`)
	f(map[string]any{"u": -1, "c": "BLUE", "i": nil},
		`at /i: expected 32-bit integer, found null; give it a value: null is not allowed here`,
		`at /u: expected unsigned 32-bit integer, found number -1; the range is 0 to 4294967295`,
		`at /c: expected one of "RED", "GREEN", found string "BLUE"; use one of those, or add another to the schema`)
	f(map[string]any{"y": "not base64!"}, `at /y: expected bytes, found string "not base64!"`)
	f(map[string]any{"m": map[string]any{"x": "RED"}}, `at /m/x: expected a name that is of the type int32, found string "x"`)
	f(map[string]any{"t": map[string]any{"a/b": "\xff"}}, `at /t/a~1b: expected string, found 1 bytes that are not UTF-8, beginning "\xff"; write the text in UTF-8`)
	f(map[string]any{"at": "0000-01-01T00:00:00Z"}, `at /at: expected timestamp, found string "0000-01-01T00:00:00Z"`)
	f(map[string]any{"in": []any{nil}}, `at /in/0: expected object, found null; give it a value: null is not allowed here`)
	f(map[string]any{"f": 1e39}, `at /f: expected number, found number 1e+39; it is beyond the largest 32-bit number`)
	deep := map[string]any{}
	for range 60 {
		deep = map[string]any{"z": map[string]any{"again": deep}}
	}
	f(deep, "at "+strings.Repeat("/z/again", 50)+": expected at most 100 levels, found one more")

	two := parse(t, `syntax = "proto2"; message A { required string a = 1; optional int32 b = 2 [default = 5]; }`)
	if _, err := two.AppendEncode(nil, map[string]any{"b": 1}); err == nil || err.Error() != `at /a: expected string, found nothing; the field "a" is required: add it` {
		t.Errorf("a missing required field: %v", err)
	}
	if _, err := two.Decode([]byte{0x10, 1}); err == nil {
		t.Error("a message without its required field was read")
	}
}

func TestGeneratedMessages(t *testing.T) {
	s := parse(t, `syntax = "proto3"; import public "google/protobuf/timestamp.proto"; message M {}`)
	if _, err := s.AppendEncode(nil, timestamppb.Now()); err == nil || err.Error() != "at the value: expected a message M, found a message google.protobuf.Timestamp" {
		t.Errorf("got %v", err)
	}
	own := parse(t, `syntax = "proto3"; package google.protobuf; message Timestamp { int64 seconds = 1; int32 nanos = 2; }`)
	b, err := own.AppendEncode(nil, &timestamppb.Timestamp{Seconds: 5})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := own.Decode(b); err != nil || !cmp.Equal(v, any(time.Unix(5, 0).UTC())) {
		t.Errorf("got %v, %v", v, err)
	}
}

func TestMessages(t *testing.T) {
	s := parse(t, everything)
	f := func(indexes []int, name string) {
		t.Helper()
		m, err := s.Message(indexes)
		if err != nil || m.(*Schema).Name() != name {
			t.Errorf("%v: got %v, %v", indexes, m, err)
			return
		}
		want := indexes
		if len(want) == 0 {
			want = []int{0}
		}
		if got := m.(schemas.Messages).Indexes(); !slices.Equal(got, want) {
			t.Errorf("%v: the way is %v", indexes, got)
		}
		if m.Canonical() != s.Canonical() {
			t.Errorf("%v: another text", indexes)
		}
	}
	f(nil, "p.All")
	f([]int{0}, "p.All")
	f([]int{1}, "p.Other")
	f([]int{0, 0}, "p.All.In") // the entries of maps do not count
	f([]int{0, 0, 0}, "p.All.In.Deep")
	bad := func(indexes ...int) {
		t.Helper()
		if m, err := s.Message(indexes); err == nil {
			t.Errorf("%v: got %v", indexes, m)
		}
	}
	bad(2)
	bad(-1)
	bad(1, 0)
	bad(0, 1)
	bad(0, 0, 0, 0)

	// A frame names the message, and selecting finds it again.
	other, err := s.Message([]int{0, 0})
	if err != nil {
		t.Fatal(err)
	}
	b, err := other.AppendEncode(schemas.AppendFrame(nil, 7, other), map[string]any{"name": "n"})
	if err != nil {
		t.Fatal(err)
	}
	_, rest, err := schemas.ParseHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	one, body, err := schemas.SelectMessage(s, rest)
	if err != nil {
		t.Fatal(err)
	}
	v, err := schemas.Decode(one, body, schemas.Limits{})
	if want := any(map[string]any{"name": "n", "again": nil}); err != nil || !cmp.Equal(want, v) {
		t.Errorf("got %v, %v", v, err)
	}
}

func TestParseRefuses(t *testing.T) {
	refs := map[string]string{"a.proto": `syntax = "proto3"; import "b.proto"; message A { B b = 1; }`, "cycle.proto": `import "cycle.proto";`}
	f := func(text, want string) {
		t.Helper()
		_, err := Format{}.Parse(text, refs)
		if err == nil || !strings.HasPrefix(err.Error(), "parse Protobuf schema: "+want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
	f(`syntax = "proto3"; message A { B b = 1; }`, `schema.proto:1:32: field A.b: unknown type B`)
	f(`message {`, `schema.proto:1:9: syntax error: unexpected '{'`)
	f(`syntax = "proto3"; import "x.proto";`, `schema.proto:1:27: there is no reference "x.proto": name the schema that defines it among the references`)
	f(`syntax = "proto3"; import "/etc/hostname";`, `schema.proto:1:27: there is no reference "/etc/hostname"`)
	f(`syntax = "proto3"; import "a.proto";`, `a.proto:1:27: there is no reference "b.proto"`)
	f(`syntax = "proto3"; import "cycle.proto";`, `cycle.proto:1:8: cycle found in imports: "cycle.proto" -> "cycle.proto"`)
	f(strings.Repeat("message A {", 50)+strings.Repeat("}", 50), ``)
	f(strings.Repeat(" ", maxText+1), `schema.proto: expected a schema of at most 2097152 bytes, all that it imports included, found more`)

	s, err := Format{}.Parse(`syntax = "proto3"; import "schema.proto"; message M { N n = 1; }`, map[string]string{"schema.proto": `syntax = "proto3"; message N {}`})
	if err != nil || s.(*Schema).Name() != "M" {
		t.Errorf("a reference of our own file's name: %v", err)
	}
	none := parse(t, `syntax = "proto3"; enum E { A = 0; }`)
	if _, err := none.AppendEncode(nil, map[string]any{}); err == nil {
		t.Error("encoded without a message")
	}
	if _, err := none.Decode(nil); err == nil {
		t.Error("decoded without a message")
	}
}

func TestCanonical(t *testing.T) {
	one := parse(t, "syntax=\"proto3\";//c\nmessage  A{int32 a=1;\n/* d */ map<string,A> m = 0x2; }")
	two := parse(t, one.Canonical())
	if one.Canonical() != two.Canonical() || strings.Contains(one.Canonical(), "d */") {
		t.Errorf("got %s, then %s", one.Canonical(), two.Canonical())
	}
	other := parse(t, "syntax=\"proto3\";message A{int32 a=2;}")
	if other.Canonical() == one.Canonical() {
		t.Error("different schemas print the same")
	}
}

func TestModel(t *testing.T) {
	s := parse(t, `syntax = "proto3"; package p; import "google/protobuf/timestamp.proto"; import "google/protobuf/wrappers.proto"; import "confluent/meta.proto";
		message A { int32 i = 1 [(confluent.field_meta) = { tags: "PII", tags: "X" }]; optional string s = 2; A a = 3; repeated uint64 r = 4; map<string, bytes> m = 5; google.protobuf.Timestamp t = 6; google.protobuf.BoolValue w = 7; E e = 8; }
		enum E { X = 0; Y = 1; }`)
	n := s.Model()
	if inner, nullable := n.Field("a").Node.Nullable(); inner != n || !nullable {
		t.Error("the message within itself is not the message")
	}
	n.Field("a").Node = nil
	null := &schemas.Node{Kind: schemas.Null}
	or := func(n *schemas.Node) *schemas.Node {
		return &schemas.Node{Kind: schemas.Union, Branches: []*schemas.Node{null, n}}
	}
	want := &schemas.Node{Kind: schemas.Record, Name: "p.A", Fields: []schemas.Field{
		{Name: "i", Number: 1, Tags: []string{"PII", "X"}, Node: &schemas.Node{Kind: schemas.Int, Bits: 32}, HasDefault: true, Default: int32(0)},
		{Name: "s", Number: 2, Node: or(&schemas.Node{Kind: schemas.String})},
		{Name: "a", Number: 3},
		{Name: "r", Number: 4, Node: &schemas.Node{Kind: schemas.Array, Items: &schemas.Node{Kind: schemas.Int, Bits: 64, Unsigned: true}}, HasDefault: true, Default: []any{}},
		{Name: "m", Number: 5, Node: &schemas.Node{Kind: schemas.Map, Items: &schemas.Node{Kind: schemas.Bytes}}, HasDefault: true, Default: map[string]any{}},
		{Name: "t", Number: 6, Node: or(&schemas.Node{Kind: schemas.String, Logical: schemas.Timestamp})},
		{Name: "w", Number: 7, Node: or(&schemas.Node{Kind: schemas.Bool})},
		{Name: "e", Number: 8, Node: &schemas.Node{Kind: schemas.Enum, Name: "p.E", Symbols: []string{"X", "Y"}, Numbers: []int32{0, 1}}, HasDefault: true, Default: "X"},
	}}
	if diff := cmp.Diff(want, n); diff != "" {
		t.Error(diff)
	}
}

// known is the payload that panics the library: the entry of a map with a good
// key and then a second one of the wrong wire type.
var known = []byte{0x6a, 0x08, 0x0a, 0x01, 0x6b, 0x0d, 0x01, 0x02, 0x03, 0x04}

func TestHostilePayloads(t *testing.T) {
	s := parse(t, everything)
	f := func(payload []byte, want string) {
		t.Helper()
		v, err := schemas.Decode(s, payload, schemas.Limits{})
		if err == nil || !strings.HasPrefix(err.Error(), "decode Protobuf: "+want) {
			t.Errorf("% .20x: got %v, %v, want %s", payload, v, err, want)
		}
	}
	f(known, "the decoder panicked on these 10 bytes: ")
	f([]byte{0x42, 0x01, 0xff}, "") // text that is not UTF-8
	f([]byte{0x42, 0x05, 'a'}, "")
	f([]byte{0x0f}, "")
	// Each message lies in the field 16 of the one before, or in field 2.
	deep := []byte{}
	for i := range 2000 {
		tag := []byte{0x82, 0x01}
		if i%2 == 0 {
			tag = []byte{0x12}
		}
		size := len(deep)
		for tag = append(tag, byte(size&0x7f|0x80)); size >= 0x80; tag = append(tag, byte(size&0x7f|0x80)) {
			size >>= 7
		}
		tag[len(tag)-1] &= 0x7f
		deep = append(tag, deep...)
	}
	f(deep, "")
	// Two bytes become a map of 22 fields.
	wide := parse(t, `syntax = "proto3"; message A { repeated A a = 1; `+fields(30)+`}`)
	if _, err := schemas.Decode(wide, []byte(strings.Repeat("\x0a\x00", 140_000)), schemas.Limits{}); err == nil || !strings.Contains(err.Error(), "at most 4194304 values") {
		t.Errorf("many small messages: %v", err)
	}
	f([]byte{0x8a, 0x01, 0x0b, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x10, 0x00}, "")
}

func fields(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("int32 f")
		b.WriteByte(byte('a' + i%26))
		b.WriteByte(byte('a' + i/26))
		b.WriteString(" = ")
		b.WriteByte(byte('1' + i/10))
		b.WriteByte(byte('0' + i%10))
		b.WriteString("; ")
	}
	return b.String()
}

func TestTrailingBytes(t *testing.T) {
	s := parse(t, `syntax = "proto3"; message A { string a = 1; }`)
	b, err := s.AppendEncode(nil, map[string]any{"a": "x"})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := s.Decode(append(b, 0)); err == nil {
		t.Errorf("a byte 0 after the message: %v", v)
	}
}

func TestRoundTrip(t *testing.T) {
	s := parse(t, everything)
	text := rapid.String()
	in := rapid.Custom(func(t *rapid.T) any { return map[string]any{"name": text.Draw(t, "name"), "again": nil} })
	colour := rapid.SampledFrom([]any{"RED", "GREEN", int32(3)})
	rapid.Check(t, func(t *rapid.T) {
		v := map[string]any{
			"b": rapid.Bool().Draw(t, "b"), "i": rapid.Int32().Draw(t, "i"), "l": rapid.Int64().Draw(t, "l"), "u": rapid.Uint32().Draw(t, "u"),
			"v": rapid.Uint64().Draw(t, "v"), "f": rapid.Float32().Draw(t, "f"), "d": rapid.Float64().Draw(t, "d"), "s": text.Draw(t, "s"),
			"y": rapid.SliceOf(rapid.Byte()).Draw(t, "y"), "c": colour.Draw(t, "c"),
			"r": rapid.SliceOf(rapid.Custom(func(t *rapid.T) any { return rapid.Int32().Draw(t, "n") })).Draw(t, "r"),
			"m": map[string]any{}, "t": rapid.MapOf(text, rapid.Custom(func(t *rapid.T) any { return text.Draw(t, "v") })).Draw(t, "t"),
			"o": nil, "x": nil, "z": nil, "at": time.Unix(rapid.Int64Range(-1<<35, 1<<37).Draw(t, "at"), 5).UTC(),
			"w": rapid.Int64().Draw(t, "w"), "j": map[string]any{"a": rapid.Float64().Draw(t, "j")}, "k": text.Draw(t, "k"),
			"in": rapid.SliceOfN(in, 0, 3).Draw(t, "in"), "q": map[string]any{},
		}
		v[rapid.SampledFrom([]string{"x", "s"}).Draw(t, "one")] = text.Draw(t, "x")
		b, err := s.AppendEncode(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		back, err := schemas.Decode(s, b, schemas.Limits{})
		if diff := cmp.Diff(any(v), back, cmpopts.EquateNaNs(), cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Fatalf("%v %s", err, diff)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(known)
	f.Add([]byte{0x42, 0x01, 0xff})
	f.Add([]byte{0x8a, 0x01, 0x04, 0x08, 0x05, 0x10, 0x06, 0x92, 0x01, 0x02, 0x08, 0x07})
	f.Add([]byte{0x9a, 0x01, 0x0a, 0x0a, 0x08, 0x0a, 0x01, 'a', 0x12, 0x03, 0x1a, 0x01, 'b', 0xa2, 0x01, 0x00})
	f.Add([]byte{0x62, 0x04, 0x08, 0x01, 0x10, 0x05, 0x82, 0x01, 0x04, 0x12, 0x02, 0x08, 0x01, 0xb2, 0x01, 0x00})
	s := parse(f, everything)
	f.Fuzz(func(t *testing.T, payload []byte) {
		v, err := schemas.Decode(s, payload, schemas.Limits{})
		if err != nil {
			return
		}
		b, err := s.AppendEncode(nil, v)
		if err != nil {
			t.Fatalf("% x: decoded, then refused: %v", payload, err)
		}
		back, err := schemas.Decode(s, b, schemas.Limits{})
		if diff := cmp.Diff(v, back, cmpopts.EquateNaNs()); err != nil || diff != "" {
			t.Fatalf("% x: %v %s", payload, err, diff)
		}
	})
}
