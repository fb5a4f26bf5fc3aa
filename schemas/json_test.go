package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestParseJSON(t *testing.T) {
	f := func(text string, want any) {
		t.Helper()
		got, err := ParseJSON([]byte(text))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", text, err, diff)
		}
	}
	f(` null `, nil)
	f("\t[true,\r\nfalse , [] ,{}]", []any{true, false, []any{}, map[string]any{}})
	f(`{"a":1,"b":-0.50e+3,"":"x"}`, map[string]any{"a": json.Number("1"), "b": json.Number("-0.50e+3"), "": "x"})
	f(`"A\u00e9\n\"\\\/\ud83d\ude00é"`, "Aé\n\"\\/😀é")
	f(`12345678901234567890123`, json.Number("12345678901234567890123"))
	f(`1e400`, json.Number("1e400"))
	f(`0`, json.Number("0"))
}

func TestParseJSONLeaves(t *testing.T) {
	records := func(path []string) bool { return len(path) == 3 && path[0] == "records" && path[2] == "value" }
	got, err := ParseJSONLeaving([]byte(`{"records": [{"value": {"a": [1, "]}"], "b": "é"} , "key": 1}, {"value": null}, {"value":"x"}], "value": [true]}`), records)
	want := map[string]any{
		"records": []any{
			map[string]any{"value": JSONText(`{"a": [1, "]}"], "b": "é"}`), "key": json.Number("1")},
			map[string]any{"value": nil},
			map[string]any{"value": JSONText(`"x"`)},
		},
		"value": []any{true},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	large := "{"
	for i := range 3 * fewMembers {
		large += fmt.Sprintf(`"%d":0,`, i)
	}
	for i := range 3 * fewMembers { // a second one is found wherever the first one stands
		text := []byte(large + fmt.Sprintf(`"%d":0}`, i))
		_, want := ParseJSON(text)
		if _, err := ParseJSONLeaving(text, func([]string) bool { return true }); err == nil || err.Error() != want.Error() {
			t.Fatalf("got %v, want %v", err, want)
		}
	}
}

func TestParseJSONRefuses(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		v, err := ParseJSON([]byte(text))
		var bad *JSONError
		if !errors.As(err, &bad) || v != nil || err.Error() != "parse JSON: at "+want {
			t.Errorf("%.40q: got %v, %v, want %s", text, v, err, want)
		}
		if v, left := ParseJSONLeaving([]byte(text), func([]string) bool { return true }); v != nil || left == nil || left.Error() != err.Error() {
			t.Errorf("%.40q: left as text: got %v, %v, want %v", text, v, left, err)
		}
	}
	f(``, `offset 0: expected a JSON value, found the end`)
	f(`nul`, `offset 0: expected a JSON value, found 'n'`)
	f(`{"a":1} x`, `offset 8: expected nothing after the value, found 'x'`)
	f(`{"a":{"b":1,"b":2}}`, `/a/b, offset 12: expected each key once, found a second "b"`)
	f(`{"a":[1,}`, `/a/1, offset 8: expected a JSON value, found '}'`)
	f(`{"a" 1}`, `offset 5: expected a colon, found '1'`)
	f(`{a:1}`, `offset 1: expected a key in double quotes, found 'a'`)
	f(`{"a":1,}`, `offset 7: expected a key in double quotes, found '}'`)
	f(`[1 2]`, `offset 3: expected a comma or a closing bracket, found '2'`)
	f(`{"a":1 "b":2}`, `offset 7: expected a comma or a closing brace, found '"'`)
	f(`{"a/b":"x`, `/a~1b, offset 7: expected a string that ends with a quote, found the end`)
	f("\"a\xff\"", `offset 2: expected UTF-8 text, found the byte 0xff`)
	f("\"a\nb\"", `offset 2: expected a control character to be escaped, found '\n'`)
	f(`"\x"`, `offset 1: expected an escape such as \n or \u0041, found 'x'`)
	f(`"\u12"`, `offset 1: expected four hexadecimal digits after \u, found the end`)
	f(`"\u12xy"`, `offset 1: expected four hexadecimal digits after \u, found "12xy"`)
	f(`"\ud83d"`, `offset 1: expected the second half of a surrogate pair, found '"'`)
	f(`"\ud83d\u0041"`, `offset 1: expected a surrogate pair, found two halves that do not fit`)
	f(`"\ude00"`, `offset 1: expected the second half of a surrogate pair, found '"'`)
	f(`01`, `offset 0: expected a number, found a leading zero`)
	f(`-`, `offset 1: expected a digit, found the end`)
	f(`1.`, `offset 2: expected a digit, found the end`)
	f(`1e+`, `offset 3: expected a digit, found the end`)
	f(`+1`, `offset 0: expected a JSON value, found '+'`)
	f(`.5`, `offset 0: expected a JSON value, found '.'`)
	f(`[1e10000000]`, `/0, offset 1: expected an exponent of at most 400, found 10000000`)
	f(`1e-401`, `offset 0: expected an exponent of at most 400, found 401`)
	f(strings.Repeat("9", 1001), `offset 0: expected a number of at most 1000 digits, found 1001`)
	f(strings.Repeat("[", 101), strings.Repeat("/0", 100)+`, offset 100: expected less nesting, found one level too many`)
	f(`/* no */ 1`, `offset 0: expected a JSON value, found '/'`)
	f(strings.Repeat(" ", 4<<20+1), `offset 0: expected at most 4194304 bytes, found 4194305`)
}

func TestReadJSONKeepsTheText(t *testing.T) {
	n, err := ReadJSON("// c\n{\"b\": 1.50, /* c */ \"a\": [\"x\", null, true], \"b\": 2 } // end", JSONOptions{Comments: true, LastWins: true})
	if err != nil {
		t.Fatal(err)
	}
	want := &JSONNode{Kind: JSONObject, Offset: 5, Members: []JSONMember{
		{"b", &JSONNode{Kind: JSONNumber, Text: "2", Offset: 54}},
		{"a", &JSONNode{Kind: JSONArray, Offset: 30, Items: []*JSONNode{
			{Kind: JSONString, Text: "x", Offset: 31},
			{Kind: JSONNull, Offset: 36},
			{Kind: JSONBool, Text: "true", Offset: 42},
		}}},
	}}
	if diff := cmp.Diff(want, n); diff != "" {
		t.Error(diff)
	}
	if _, err := ReadJSON("1 /* c", JSONOptions{Comments: true}); err == nil {
		t.Error("accepted a comment without an end")
	}
	if _, err := ReadJSON(strings.Repeat("[", 201), JSONOptions{}); err == nil {
		t.Error("accepted 201 levels")
	}
}

func TestAppendJSONString(t *testing.T) {
	got := string(AppendJSONString(nil, "\"\\/\n\t\b\f\r\x1f\x7f\u2028😀"))
	if want := "\"\\\"\\\\/\\n\\t\\b\\f\\r\\u001F\x7f\u2028😀\""; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What ParseJSON accepts, encoding/json reads the same; what it refuses,
// encoding/json refuses too, or it is one of the things ParseJSON alone is
// strict about.
func FuzzParseJSON(f *testing.F) {
	for _, s := range []string{
		`{"a":[1,2.5e3,"x",null,true,{}]}`, `{"minimum":1e10000000}`, `1e-10000000`, `{"a":1,"a":2}`, "\"\xff\"", `"\ud83d"`,
		strings.Repeat("[", 200), `{"a":{"b":{"c":[[[[0]]]]}}}`, `"\u0000"`, ` 1 `, `-0.0`, `1E+5`, `""`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := ParseJSON(data)
		left, leftErr := ParseJSONLeaving(data, func([]string) bool { return true })
		if (leftErr == nil) != (err == nil) || err != nil && leftErr.Error() != err.Error() {
			t.Fatalf("left as text: %v, want %v", leftErr, err)
		}
		if text, ok := left.(JSONText); ok {
			if again, err := ParseJSON(text); err != nil || !cmp.Equal(again, got) {
				t.Fatalf("%s was left of %s: %v, %v", text, data, again, err)
			}
		}
		node, nodeErr := ReadJSON(string(data), JSONOptions{LastWins: true, Comments: true})
		if err == nil && (nodeErr != nil || node == nil) {
			t.Fatalf("ReadJSON refused what ParseJSON took: %v", nodeErr)
		}
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		var want any
		wantErr := d.Decode(&want)
		if wantErr == nil {
			if _, more := d.Token(); more == nil || d.InputOffset() < int64(len(bytes.TrimRight(data, " \t\r\n"))) {
				wantErr = errors.New("more follows")
			}
		}
		if err == nil {
			if wantErr != nil {
				t.Fatalf("took %q, which encoding/json refuses: %v", data, wantErr)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatal(diff)
			}
			return
		}
		var bad *JSONError
		if !errors.As(err, &bad) || bad.Offset < 0 || bad.Offset > len(data) {
			t.Fatalf("got %v", err)
		}
		if wantErr != nil {
			return
		}
		for _, strict := range []string{"each key once", "UTF-8", "surrogate pair", "exponent", "digits", "less nesting"} {
			if strings.Contains(bad.Expected, strict) {
				return
			}
		}
		if utf8.Valid(data) {
			t.Fatalf("refused %q: %v", data, err)
		}
	})
}
