package diffing

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/schemas"
)

func TestDiff(t *testing.T) {
	f := func(before, after any, want ...Change) {
		t.Helper()
		if d := cmp.Diff(want, Diff(before, after)); d != "" {
			t.Errorf("Diff(%v, %v):\n%s", before, after, d)
		}
	}
	type m = map[string]any
	f(int32(1), 1.0)
	f(json.Number("1.0"), int64(1))
	f(int64(1<<53), int64(1<<53+1), Change{Replace, "", int64(1 << 53), int64(1<<53 + 1)})
	f(float64(1<<53), int64(1<<53+1), Change{Replace, "", float64(1 << 53), int64(1<<53 + 1)})
	f(big.NewRat(1, 10), json.Number("0.10"))
	f(math.NaN(), math.NaN())
	f([]byte("ab"), []byte("ab"))
	f([]byte("ab"), "YWI=")
	f(time.Unix(0, 0), time.Unix(0, 0).UTC())
	f(time.Unix(0, 0), "1970-01-01T00:00:00Z")
	f("1", int64(1), Change{Replace, "", "1", int64(1)})
	f(m{"a": nil}, m{}, Change{Remove, "/a", nil, nil})
	f(m{}, m{"a": nil}, Change{Add, "/a", nil, nil})
	f(m{"a": nil}, m{"a": int64(0)}, Change{Replace, "/a", nil, int64(0)})
	f(m{"x": "", "b": m{"c/d": int64(1), "~": true}}, m{"b": m{"c/d": int64(2), "~": true, "e": false}, "x": ""},
		Change{Replace, "/b/c~1d", int64(1), int64(2)}, Change{Add, "/b/e", nil, false})
	f([]any{"a", "b", "c"}, []any{"a"}, Change{Remove, "/2", "c", nil}, Change{Remove, "/1", "b", nil})
	f([]any{"a"}, []any{"b", "c"}, Change{Replace, "/0", "a", "b"}, Change{Add, "/1", nil, "c"})
	f(m{}, []any{}, Change{Replace, "", m{}, []any{}})
}

// anyValue draws a value of the types that schemas.Schema lists.
func anyValue() *rapid.Generator[any] {
	scalar := rapid.OneOf(
		rapid.Just[any](nil),
		rapid.Bool().AsAny(),
		rapid.Int32Range(-3, 3).AsAny(),
		rapid.Int64().AsAny(),
		rapid.Uint32().AsAny(),
		rapid.Uint64().AsAny(),
		rapid.Float32().AsAny(),
		rapid.Float64().AsAny(),
		rapid.Just[any](math.NaN()),
		rapid.StringN(0, 4, -1).AsAny(),
		rapid.SliceOfN(rapid.Byte(), 0, 3).AsAny(),
		rapid.Map(rapid.Int64Range(0, 1e12), func(ms int64) any { return time.UnixMilli(ms) }),
		rapid.Map(rapid.Int64Range(0, 86399999), func(ms int64) any { return time.Duration(ms) * time.Millisecond }),
		rapid.Map(rapid.Int64(), func(n int64) any { return big.NewRat(n, 10000) }),
		rapid.SampledFrom([]any{json.Number("1.0"), json.Number("1e400"), json.Number("-0"), json.Number("9007199254740993")}),
	)
	name := rapid.SampledFrom([]string{"", "a", "b", "c", "a/b", "~", "é"})
	var at func(depth int) *rapid.Generator[any]
	at = func(depth int) *rapid.Generator[any] {
		if depth == 0 {
			return scalar
		}
		return rapid.OneOf(
			scalar,
			rapid.SliceOfN(at(depth-1), 0, 3).AsAny(),
			rapid.MapOfN(name, at(depth-1), 0, 4).AsAny(),
		)
	}
	return at(3)
}

// variation draws a value that has much in common with v.
func variation(t *rapid.T, v any) any {
	switch rapid.IntRange(0, 5).Draw(t, "what") {
	case 0:
		return anyValue().Draw(t, "other")
	case 1:
		return v
	}
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, item := range v {
			if rapid.IntRange(0, 3).Draw(t, "keep") > 0 {
				out[name] = variation(t, item)
			}
		}
		if rapid.Bool().Draw(t, "more") {
			out["new"] = anyValue().Draw(t, "added")
		}
		return out
	case []any:
		out := []any{}
		for _, item := range v[:rapid.IntRange(0, len(v)).Draw(t, "length")] {
			out = append(out, variation(t, item))
		}
		return append(out, rapid.SliceOfN(anyValue(), 0, 2).Draw(t, "tail")...)
	}
	return v
}

func canonical(t interface{ Fatal(...any) }, v any) string {
	text, err := schemas.AppendJSON(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func reread(t interface{ Fatal(...any) }, text string) any {
	v, err := parseJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDiffIsEmptyForEqualValues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := anyValue().Draw(t, "v")
		if c := Diff(v, v); len(c) > 0 {
			t.Fatalf("Diff(v, v) = %v", c)
		}
		text := canonical(t, v)
		again := reread(t, text)
		if c := Diff(again, v); len(c) > 0 {
			t.Fatalf("what is read back differs: %v", c)
		}
		if got := canonical(t, again); got != text {
			t.Fatalf("canonical JSON is not stable: %s, then %s", text, got)
		}
	})
}

func TestPatchGivesTheValueAfter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := anyValue().Draw(t, "before")
		after := variation(t, before)
		changes := Diff(before, after)
		if equal := canonical(t, before) == canonical(t, after); equal != (len(changes) == 0) {
			t.Fatalf("equal is %v, but the changes are %v", equal, changes)
		}
		patch, _, err := new(Comparer).AppendPatchOf(nil, before, after, false)
		if err != nil {
			t.Fatal(err)
		}
		got := reread(t, canonical(t, before))
		for _, op := range reread(t, string(patch)).([]any) {
			got = applyOp(t, got, op.(map[string]any))
		}
		if got, want := canonical(t, got), canonical(t, after); got != want {
			t.Fatalf("%s applied to %s gives %s, want %s", patch, canonical(t, before), got, want)
		}
	})
}

// A patch from the texts is the patch from the values, and what is made of them:
// applied it gives the value after, turned round the value before, and on any
// other value it fails.
func TestPatchOfTexts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := anyValue().Draw(t, "before")
		before, after := canonical(t, value), canonical(t, variation(t, value))
		checkPatch(t, new(Comparer), before, after)
	})
}

// checkPatch checks a patch of two canonical texts.
func checkPatch(t interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}, c *Comparer, before, after string) {
	t.Helper()
	want, _, err := c.AppendPatchOf(nil, reread(t, before), reread(t, after), true)
	if err != nil {
		t.Fatal(err)
	}
	patch, differ, err := c.AppendPatch([]byte("x"), []byte(before), []byte(after), true)
	if err != nil || differ != (before != after) || patch[0] != 'x' {
		t.Fatalf("patch of %s and %s: %s, %v, %v", before, after, patch, differ, err)
	}
	if patch = patch[1:]; c.rules == nil && string(patch) != string(want) {
		t.Fatalf("patch of %s and %s: %s of the texts, %s of the values", before, after, patch, want)
	}
	got, gone, err := Apply(reread(t, before), false, patch)
	if err != nil || gone || canonical(t, got) != after {
		t.Fatalf("%s on %s: %s, %v, want %s", patch, before, canonical(t, got), err, after)
	}
	back, err := Invert(nil, patch)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := Apply(got, false, back); err != nil || canonical(t, got) != before {
		t.Fatalf("%s on %s: %s, %v, want %s", back, after, canonical(t, got), err, before)
	}
	merge, err := c.AppendMergePatch(nil, []byte(before), []byte(after))
	if err != nil {
		t.Fatal(err)
	}
	wantMerge, err := AppendMergePatch(nil, reread(t, before), reread(t, after))
	if err != nil || string(merge) != string(wantMerge) {
		t.Fatalf("merge patch of %s and %s: %s of the texts, %s of the values (%v)", before, after, merge, wantMerge, err)
	}
}

func TestApplyRefuses(t *testing.T) {
	f := func(value, patch, want string) {
		t.Helper()
		_, _, err := Apply(reread(t, value), false, []byte(patch))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s on %s: got %v, want %q", patch, value, err, want)
		}
	}
	f(`{"a":1}`, `[{"op":"test","path":"/a","value":2}]`, `operation 0 of the patch, test "/a": expected number 2, found number 1`)
	f(`{"a":1}`, `[{"op":"remove","path":"/b"}]`, "found nothing")
	f(`{"a":1}`, `[{"op":"replace","path":"/a/b","value":1}]`, `expected an object or an array at the step "b"`)
	f(`{}`, `[{"op":"add","path":"/a/b","value":1}]`, `at the step "b", found nothing`)
	f(`[1]`, `[{"op":"add","path":"/2","value":1}]`, `expected an index below 1, found "2"`)
	f(`[1]`, `[{"op":"remove","path":"/-"}]`, "expected an index")
	f(`1`, `[{"op":"move","path":"","from":"/a"}]`, "at /0/op: expected add, remove, replace or test")
	f(`1`, `[{"op":"add","path":""}]`, "at /0/value: expected a value, found nothing")
	f(`1`, `[{"op":"add","path":"x","value":1}]`, "at /0/path: expected a JSON Pointer")
	f(`1`, `{}`, "expected an array of operations")
	if _, err := Invert(nil, []byte(`[{"op":"remove","path":"/a"}]`)); err == nil || !strings.Contains(err.Error(), "only an invertible patch") {
		t.Errorf("got %v", err)
	}
}

// The reader of texts takes what the reader of values takes, and reads the same.
func FuzzText(f *testing.F) {
	for _, s := range []string{`{"b":[1,-2.50e+1,"é\u00e9\n"],"a":{"":null,"x~/":true}}`, ` [ {} , [] ] `, `{"a":1,"a":2}`, `"\ud800"`, "\"\xff\"", `01`, `1.`, `[1`, `tru`, `{"b":1,"a":2,"b":3}`} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		var c Comparer
		x, errX := schemas.ParseJSON([]byte(a))
		y, errY := schemas.ParseJSON([]byte(b))
		patch, differ, err := c.AppendPatch(nil, []byte(a), []byte(b), false)
		if errX != nil || errY != nil {
			var limit *schemas.JSONError
			if err == nil && !(errors.As(errors.Join(errX, errY), &limit) && (strings.Contains(limit.Expected, "digits") || strings.Contains(limit.Expected, "exponent") || strings.Contains(limit.Expected, "nesting"))) {
				t.Fatalf("%q and %q are read, though: %v, %v", a, b, errX, errY)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if d := Diff(x, y); len(d) > 0 != differ {
			t.Fatalf("%q and %q: %s, but %v", a, b, patch, d)
		}
		got, _, err := Apply(x, false, patch)
		if err != nil || len(Diff(got, y)) > 0 {
			t.Fatalf("%s on %q gives %v, %v", patch, a, got, err)
		}
	})
}

func TestInverseOfDiff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := anyValue().Draw(t, "before")
		after := variation(t, before)
		there, back := Diff(before, after), Diff(after, before)
		if len(there) != len(back) {
			t.Fatalf("%d changes there, %d back", len(there), len(back))
		}
		opposite := map[Op]Op{Add: Remove, Remove: Add, Replace: Replace}
		byPlace := map[string]Change{}
		for _, c := range back {
			byPlace[c.Pointer] = c
		}
		for _, c := range there {
			if b := byPlace[c.Pointer]; b.Op != opposite[c.Op] || canonical(t, b.Old) != canonical(t, c.New) || canonical(t, b.New) != canonical(t, c.Old) {
				t.Fatalf("at %q: %v there, %v back", c.Pointer, c, b)
			}
		}
	})
}

func TestMergePatchGivesTheValueAfterWithoutNulls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := anyValue().Draw(t, "before")
		after := variation(t, before)
		patch, err := AppendMergePatch(nil, before, after)
		if err != nil {
			t.Fatal(err)
		}
		got := ApplyMerge(reread(t, canonical(t, before)), reread(t, string(patch)))
		want := withoutNulls(reread(t, canonical(t, after)))
		if got, want := canonical(t, withoutNulls(got)), canonical(t, want); got != want {
			t.Fatalf("%s applied to %s gives %s, want %s", patch, canonical(t, before), got, want)
		}
	})
}

// applyOp applies one operation of a JSON Patch, as RFC 6902 has it.
func applyOp(t *rapid.T, doc any, op map[string]any) any {
	pointer := op["path"].(string)
	if pointer == "" {
		return op["value"]
	}
	tokens := strings.Split(pointer[1:], "/")
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	var apply func(doc any, tokens []string) any
	apply = func(doc any, tokens []string) any {
		token := unescape.Replace(tokens[0])
		switch doc := doc.(type) {
		case map[string]any:
			old, ok := doc[token]
			switch {
			case !ok && (len(tokens) > 1 || op["op"] != "add"), ok && len(tokens) == 1 && op["op"] == "add":
				t.Fatalf("%v does not fit %v", op, doc)
			case len(tokens) > 1:
				doc[token] = apply(old, tokens[1:])
			case op["op"] == "remove":
				delete(doc, token)
			default:
				doc[token] = op["value"]
			}
			return doc
		case []any:
			i, err := strconv.Atoi(token)
			if err != nil || i < 0 || i > len(doc) || i == len(doc) && (len(tokens) > 1 || op["op"] != "add") {
				t.Fatalf("%v does not fit %v", op, doc)
			}
			switch {
			case len(tokens) > 1:
				doc[i] = apply(doc[i], tokens[1:])
			case op["op"] == "remove":
				return append(doc[:i:i], doc[i+1:]...)
			case op["op"] == "add":
				return append(doc[:i:i], append([]any{op["value"]}, doc[i:]...)...)
			default:
				doc[i] = op["value"]
			}
			return doc
		}
		t.Fatalf("%v does not fit %v", op, doc)
		return nil
	}
	return apply(doc, tokens)
}

// withoutNulls leaves out the members that are null, save inside arrays.
func withoutNulls(v any) any {
	object, ok := v.(map[string]any)
	if !ok {
		return v
	}
	out := map[string]any{}
	for name, item := range object {
		if item != nil {
			out[name] = withoutNulls(item)
		}
	}
	return out
}

func TestMergePatchSaysWhatItCan(t *testing.T) {
	type m = map[string]any
	got, err := AppendMergePatch(nil,
		m{"same": m{"x": int64(1)}, "gone": int64(1), "null": int64(2), "still": nil, "deep": m{"a": int64(1), "b": int64(2)}, "list": []any{int64(1)}},
		m{"same": m{"x": 1.0}, "null": nil, "still": nil, "deep": m{"a": int64(1), "b": int64(3)}, "list": []any{nil}, "new": m{"n": nil, "o": true}})
	want := `{"deep":{"b":3},"gone":null,"list":[null],"new":{"o":true},"null":null}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}
