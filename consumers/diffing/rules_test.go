package diffing

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestRules(t *testing.T) {
	f := func(r Rules, before, after string, want bool) {
		t.Helper()
		c, err := NewComparer(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, pair := range [][2]string{{before, after}, {after, before}} {
			got, err := c.Same([]byte(pair[0]), []byte(pair[1]))
			if err != nil || got != want {
				t.Errorf("%s and %s: same is %v, %v", pair[0], pair[1], got, err)
			}
		}
	}
	f(Rules{}, `{"a":1.0}`, `{ "a" : 1e0 }`, true)
	f(Rules{}, `9007199254740993`, `9007199254740992`, false)
	f(Rules{}, `{"a":null}`, `{}`, false)

	ignore := Rules{Ignore: []string{"/at", "/by/id", "/items/*/seen"}}
	f(ignore, `{"at":1,"x":1}`, `{"x":1}`, true)
	f(ignore, `{"at":1,"x":1}`, `{"at":2,"x":2}`, false)
	f(ignore, `{"at":1,"x":1}`, `{"attic":2,"x":1}`, false)
	f(ignore, `{"by":{"id":1,"n":1}}`, `{"by":{"id":{"x":[]},"n":1}}`, true)
	f(ignore, `{"by":{"id":1}}`, `{}`, false)
	f(ignore, `{"items":[{"seen":1},{"seen":2}]}`, `{"items":[{"seen":3},{}]}`, true)
	f(ignore, `{"items":[{"seen":1}]}`, `{"items":[{"seen":1},{}]}`, false)

	watch := Rules{Watch: []string{"/a/b", "/c"}, Ignore: []string{"/c/x"}}
	f(watch, `{"a":{"b":1,"z":1},"z":1}`, `{"a":{"b":1,"z":2}}`, true)
	f(watch, `{"a":{"b":1}}`, `{"a":{"b":2}}`, false)
	f(watch, `{"a":{"b":1}}`, `{"a":7}`, false)
	f(watch, `{"a":{"b":1}}`, `{}`, false)
	f(watch, `{"a":{"z":1}}`, `{"a":null}`, true)
	f(watch, `{"c":{"x":1,"y":{"z":1}}}`, `{"c":{"x":2,"y":{"z":1}}}`, true)
	f(watch, `{"c":{"y":{"z":1}}}`, `{"c":{"y":{"z":2}}}`, false)

	tolerance := Rules{Tolerance: map[string]string{"/t": "0.1", "/m/*": "1"}}
	f(tolerance, `{"t":0.3}`, `{"t":0.4}`, true) // which float64 has as 0.10000000000000003
	f(tolerance, `{"t":0.3}`, `{"t":0.4000000000000000000001}`, false)
	f(tolerance, `{"t":1}`, `{"t":"1"}`, false)
	f(tolerance, `{"m":{"a":1,"b":[9007199254740993]}}`, `{"m":{"a":2,"b":[9007199254740992]}}`, true)
	f(tolerance, `{"m":{"a":1}}`, `{"m":{"a":3}}`, false)
	f(tolerance, `{"t":1e999999999}`, `{"t":1e999999998}`, false)

	keyed := Rules{ArrayKeys: map[string]string{"/items": "id"}, Ignore: []string{"/items/*/at"}}
	f(keyed, `{"items":[{"id":1,"v":1},{"id":"1","v":2}]}`, `{"items":[{"id":"1","v":2,"at":7},{"id":1.0,"v":1}]}`, true)
	f(keyed, `{"items":[{"id":1,"v":1}]}`, `{"items":[{"id":1,"v":2}]}`, false)
	f(keyed, `{"items":[{"id":1}]}`, `{"items":[{"id":1},{"id":2}]}`, false)
	f(keyed, `{"items":[{"id":1},{"id":1}]}`, `{"items":[{"id":1}]}`, false)
	f(keyed, `{"items":[{"v":1},{"v":2}]}`, `{"items":[{"v":2},{"v":1}]}`, false)

	sets := Rules{Sets: []string{"/tags"}, FoldCase: []string{"/tags", "/name"}, Times: []string{"/at"}}
	f(sets, `{"tags":["b","A",1.0]}`, `{"tags":["a",1,"B","b"]}`, true)
	f(sets, `{"tags":["a"]}`, `{"tags":["a","b"]}`, false)
	f(sets, `{"name":"STRASSE"}`, `{"name":"strasse"}`, true)
	f(sets, `{"other":"A"}`, `{"other":"a"}`, false)
	f(sets, `{"at":"2026-01-01T01:00:00+01:00"}`, `{"at":"2026-01-01T00:00:00.000Z"}`, true)
	f(sets, `{"at":"2026-01-01T01:00:00+01:00"}`, `{"at":"2026-01-01T01:00:00Z"}`, false)
	f(sets, `{"at":"soon"}`, `{"at":"later"}`, false)

	f(Rules{Ignore: []string{"/*/x"}, Watch: []string{"/a"}}, `{"a":{"x":1}}`, `{"a":{"x":2}}`, true)
}

func TestRulesThatCannotBe(t *testing.T) {
	f := func(r Rules, want string) {
		t.Helper()
		if _, err := NewComparer(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f(Rules{Watch: []string{"a"}}, `watched place: "a" is not a JSON Pointer: it starts with a slash, as in "/a"`)
	f(Rules{Ignore: []string{"/a", ""}}, "nothing would count")
	f(Rules{Tolerance: map[string]string{"/a": "-1"}}, `tolerance of "/a": expected a number that is not negative, found "-1"`)
	f(Rules{Tolerance: map[string]string{"/a": "1/2"}}, "expected a number")
	f(Rules{ArrayKeys: map[string]string{"/a": ""}}, "expected the name of the member")
}

// Patches follow the items of arrays that are known by a key, and are exact
// whatever counts.
func TestPatchesFollowItems(t *testing.T) {
	c, err := NewComparer(Rules{ArrayKeys: map[string]string{"": "id"}, Sets: []string{"/*/tags"}})
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := c.AppendPatch(nil, []byte(`[{"id":1,"v":1},{"id":2,"v":2},{"id":3,"tags":["a","b"]}]`),
		[]byte(`[{"id":0},{"id":2,"v":5},{"id":3,"tags":["b","c"]}]`), false)
	want := `[{"op":"remove","path":"/0"},{"op":"add","path":"/0","value":{"id":0}},{"op":"replace","path":"/1/v","value":5},` +
		`{"op":"remove","path":"/2/tags/0"},{"op":"add","path":"/2/tags/1","value":"c"}]`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	item := rapid.Custom(func(t *rapid.T) map[string]any {
		return map[string]any{"id": rapid.IntRange(0, 5).Draw(t, "id"), "tags": rapid.SliceOfN(rapid.IntRange(0, 3), 0, 4).Draw(t, "tags")}
	})
	list := rapid.Map(rapid.SliceOfN(item, 0, 6), func(items []map[string]any) string {
		text, err := json.Marshal(items) // ids and tags need no more
		if err != nil {
			panic(fmt.Sprint(err))
		}
		return string(text)
	})
	rapid.Check(t, func(t *rapid.T) {
		checkPatch(t, c, list.Draw(t, "before"), list.Draw(t, "after"))
	})
}
