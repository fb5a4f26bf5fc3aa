package schemas

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCheckScalars(t *testing.T) {
	f := func(n Node, v any, want string) {
		t.Helper()
		got := "fits"
		if vs := Check(&n, v); len(vs) > 0 {
			got = vs[0].String()
		}
		if want = strings.Replace(want, "…", "at the value: expected", 1); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	int32s := Node{Kind: Int, Bits: 32}
	f(int32s, int64(math.MaxInt32), "fits")
	f(int32s, json.Number("2147483647.0"), "fits")
	f(int32s, 2e9, "fits")
	f(int32s, int64(math.MaxInt32)+1, "… 32-bit integer, found number 2147483648; the range is -2147483648 to 2147483647")
	f(int32s, math.NaN(), "… 32-bit integer, found number NaN; round it, or make the field a floating-point number in the schema")
	f(int32s, "1", `… 32-bit integer, found string "1"; write it without quotes`)
	f(int32s, time.Second, "… 32-bit integer, found duration 1s; change the value, or the type in the schema")
	f(Node{Kind: Int, Bits: 64}, json.Number("9223372036854775808"), "… 64-bit integer, found number 9223372036854775808; the range is -9223372036854775808 to 9223372036854775807")
	f(Node{Kind: Int}, json.Number("9223372036854775808"), "fits")
	f(Node{Kind: Int, Bits: 32, Unsigned: true}, -1, "… unsigned 32-bit integer, found number -1; the range is 0 to 4294967295")
	f(Node{Kind: Int, Bits: 64, Unsigned: true}, uint64(math.MaxUint64), "fits")
	f(Node{Kind: Int, Bits: 64, Unsigned: true}, json.Number("18446744073709551616"), "… unsigned 64-bit integer, found number 18446744073709551616; the range is 0 to 18446744073709551615")
	f(Node{Kind: Float, Bits: 64}, json.Number("1e309"), "… number, found number 1e309; it is beyond the largest 64-bit number")
	f(Node{Kind: Float, Bits: 64}, math.Inf(1), "fits")
	f(Node{Kind: Float, Bits: 32}, 1e39, "… number, found number 1e+39; it is beyond the largest 32-bit number")
	f(Node{Kind: Float, Bits: 32}, "x", `… number, found string "x"; change the value, or the type in the schema`)
	f(Node{Kind: Bool}, "true", `… boolean, found string "true"; write it without quotes`)
	f(Node{Kind: Null}, 0, "… null, found number 0; change the value, or the type in the schema")
	f(Node{Kind: String}, strings.Repeat("é", 50), "fits")
	f(Node{Kind: String}, []any{strings.Repeat("é", 50)}, "… string, found array of 1; change the value, or the type in the schema")
	f(int32s, strings.Repeat("é", 50), `… 32-bit integer, found string "`+strings.Repeat("é", 30)+`…"; change the value, or the type in the schema`)
	f(Node{Kind: Bytes}, []byte("\xff"), "fits")
	f(Node{Kind: Bytes}, 1, "… bytes, found number 1; change the value, or the type in the schema")
	f(Node{Kind: Fixed, Size: 4}, []byte("abc"), "… 4 bytes, found 3 bytes; change the value, or the type in the schema")
	f(Node{Kind: Fixed, Size: 4}, [4]byte{}, "fits")
	f(Node{Kind: Enum, Symbols: []string{"RED", "GREEN"}}, "red", `… one of "RED", "GREEN", found string "red"; did you mean "RED"?`)
	f(Node{Kind: Enum, Symbols: []string{"RED", "GREEN"}}, "violet", `… one of "RED", "GREEN", found string "violet"; use one of those, or add another to the schema`)
	f(Node{Kind: Enum, Symbols: strings.Split("abcdefghijkl", "")}, 1,
		`… one of "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", 2 more, found number 1; use one of those, or add another to the schema`)
	f(Node{Kind: Int, Bits: 64, Logical: Timestamp}, "2013-02-08", `… timestamp, found string "2013-02-08"; write it as 2013-02-08T17:00:00Z`)
	f(Node{Kind: Int, Bits: 64, Logical: Timestamp}, json.Number("1360342800000"), "fits")
	f(Node{Kind: Int, Bits: 32, Logical: Date}, "2013-02-30", `… date, found string "2013-02-30"; write it as 2013-02-08`)
	f(Node{Kind: Int, Bits: 32, Logical: Date}, "2013-02-28", "fits")
	f(Node{Kind: Int, Bits: 32, Logical: TimeOfDay}, 25*time.Hour, "… time of day, found duration 25h0m0s; change the value, or the type in the schema")
	f(Node{Kind: String, Logical: TimeOfDay}, "17:30:00Z", "fits")
	f(Node{Kind: String, Logical: LocalTime}, "2013-02-08T17:30:00", "fits")
	f(Node{Kind: String, Logical: UUID}, "123", `… UUID, found string "123"; write it as 8-4-4-4-12 hexadecimal digits`)
	money := Node{Kind: Bytes, Logical: Decimal, Precision: 5, Scale: 2}
	f(money, big.NewRat(12345, 100), "fits")
	f(money, json.Number("-999.99"), "fits")
	f(money, "1000.00", `… decimal of at most 5 digits, 2 of them after the point, found string "1000.00"; change the value, or the type in the schema`)
	f(money, 0.125, "… decimal of at most 5 digits, 2 of them after the point, found number 0.125; round it to 2 digits after the point")
	f(Node{}, struct{}{}, "fits")
	f(Node{Kind: Bool}, struct{}{}, "… boolean, found Go value of type struct {}; change the value, or the type in the schema")
}

func TestCheckUnions(t *testing.T) {
	circle := &Node{Kind: Record, Name: "Circle", Fields: []Field{{Name: "r", Node: &Node{Kind: Float}, Required: true}}}
	box := &Node{Kind: Record, Name: "Box", Fields: []Field{
		{Name: "w", Node: &Node{Kind: Float}, Required: true}, {Name: "h", Node: &Node{Kind: Float}, Required: true},
	}}
	shape := &Node{Kind: Union, Branches: []*Node{{Kind: Null}, {Kind: String}, circle, box}}
	f := func(v any, want ...string) {
		t.Helper()
		var got []string
		for _, violation := range Check(shape, v) {
			got = append(got, violation.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v: %s", v, diff)
		}
	}
	f(nil)
	f("none")
	f(map[string]any{"r": 1})
	f(map[string]any{"w": 1, "h": 2})
	f(5, "at the value: expected string or object or null, found number 5; change the value, or the type in the schema")
	f(map[string]any{"w": 1, "h": "2"}, `at /h: expected number, found string "2"; write it without quotes`)
	f(map[string]any{"w": 1}, "at /h: expected number, found nothing; the field \"h\" is required: add it")
}

// Branches within branches multiply; the search ends all the same, and says
// that it gave up.
func TestCheckOfNestedUnionsEnds(t *testing.T) {
	union := &Node{Kind: Union}
	for _, name := range []string{"A", "B", "C"} {
		union.Branches = append(union.Branches, &Node{Kind: Record, Name: name, Fields: []Field{{Name: "next", Node: union, Required: true}}})
	}
	var v any = "the end"
	for range 100 {
		v = map[string]any{"next": v}
	}
	vs, complete := CheckWithin(union, v)
	if complete || len(vs) == 0 {
		t.Errorf("complete %t, %v", complete, vs)
	}
}

func TestCheckIsBounded(t *testing.T) {
	many := make([]any, 5000)
	if vs := Check(&Node{Kind: Array, Items: &Node{Kind: Bool}}, many); len(vs) != MaxViolations {
		t.Errorf("%d violations", len(vs))
	}
	list := &Node{Kind: Array}
	list.Items = list
	cycle := []any{nil}
	cycle[0] = cycle
	vs := Check(list, cycle)
	if len(vs) != 1 || vs[0].Expected != "at most 200 levels" {
		t.Errorf("got %v", vs)
	}
}

func TestRefuse(t *testing.T) {
	cause := errors.New("the encoder's reason")
	err := Refuse(&Node{Kind: Bool}, true, cause)
	if want := "at the value: expected boolean, found boolean true; the encoder's reason"; err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := Refuse(&Node{Kind: Bool}, 1, cause); strings.Contains(err.Error(), "reason") {
		t.Errorf("got %v", err)
	}
}

func TestNearest(t *testing.T) {
	f := func(s, want string, candidates ...string) {
		t.Helper()
		if got := nearest(s, candidates); got != want {
			t.Errorf("%s: got %q, want %q", s, got, want)
		}
	}
	f("dep_dealy", "dep_delay", "arr_delay", "dep_delay", "dep_time")
	f("DepDelay", "depdelay", "depth", "depdelay")
	f("a", "", "b", "c")
	f("carier", "carrier", "carrier")
	f("passengers", "", "distance", "dest")
	f(strings.Repeat("x", 100), "", strings.Repeat("x", 99))
}

func TestAsInt64(t *testing.T) {
	f := func(v any, want int64, ok bool) {
		t.Helper()
		got, gotOK := AsInt64(v)
		if gotOK != ok || ok && got != want {
			t.Errorf("%v: got %d, %t", v, got, gotOK)
		}
	}
	f(int8(-5), -5, true)
	f(uint64(math.MaxInt64), math.MaxInt64, true)
	f(uint64(math.MaxInt64)+1, 0, false)
	f(float32(7), 7, true)
	f(9.2e18, 9200000000000000000, true)
	f(float64(1<<63), 0, false)
	f(float64(-1<<63), math.MinInt64, true)
	f(0.5, 0, false)
	f(json.Number("9.5e17"), 950000000000000000, true)
	f(json.Number("1e400"), 0, false)
	f(json.Number("1e10000000"), 0, false)
	f(json.Number("0x10"), 0, false)
	f(json.Number("1_0"), 0, false)
	f("5", 0, false)
	f(nil, 0, false)
	if n, ok := AsUint64(json.Number("18446744073709551615")); !ok || n != math.MaxUint64 {
		t.Errorf("got %d, %t", n, ok)
	}
	if _, ok := AsUint64(-1); ok {
		t.Error("took -1")
	}
	if f, ok := AsFloat64(json.Number("1e400")); ok {
		t.Errorf("took 1e400 as %v", f)
	}
	if _, ok := AsFloat64(json.Number("Infinity")); ok {
		t.Error("took Infinity")
	}
}

func ExampleValueError() {
	n := &Node{Kind: Record, Fields: []Field{
		{Name: "carrier", Node: &Node{Kind: String}, Required: true},
		{Name: "distance", Node: &Node{Kind: Int, Bits: 32}, Required: true},
	}}
	for _, v := range Check(n, map[string]any{"carier": "UA", "distance": "far"}) {
		fmt.Println(v)
	}
	// Output:
	// at /carrier: expected string, found nothing; the field "carrier" is required: add it
	// at /distance: expected 32-bit integer, found string "far"; change the value, or the type in the schema
	// at /carier: expected a field of the schema, found the unknown field "carier"; did you mean "carrier"?
}
