package diffing

import (
	"testing"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
)

// Whatever is said to be an event: it is refused, or what it leads to is a value as
// this package has them, and a merge patch leads there again.
func FuzzFold(f *testing.F) {
	for format, event := range map[Format]string{
		Debezium:    `{"op":"u","before":{"a":1},"after":{"a":2},"source":{},"ts_ms":5}`,
		JSONPatch:   `[{"op":"test","path":"/a","value":1},{"op":"replace","path":"/a","value":[2]},{"op":"remove","path":"/a/0"},{"op":"add","path":"/b~1","value":null}]`,
		MergePatch:  `{"a":null,"b":{"c":[1,2.50]}}`,
		CloudEvents: `{"type":"penstock.updated","data":{"before":{"a":1},"after":null}}`,
	} {
		f.Add(string(format), `{"a":1}`, event)
		f.Add(string(format), ``, event)
	}
	f.Fuzz(func(t *testing.T, format, state, event string) {
		var before []byte
		if v, err := schemas.ParseJSON([]byte(state)); err == nil {
			if before, err = schemas.AppendJSON(nil, v); err != nil {
				t.Skip()
			}
		}
		data, err := schemas.ParseJSON([]byte(event))
		if err != nil {
			t.Skip()
		}
		m := consumers.Message{Record: stream.Record{Value: []byte(event)}, Data: data}
		after, err := Format(format).fold(before, m)
		if err != nil || after == nil {
			return
		}
		v, err := schemas.ParseJSON(after)
		if err != nil {
			t.Fatalf("%s of %q and %q is no JSON: %q: %v", format, state, event, after, err)
		}
		if canonical, err := schemas.AppendJSON(nil, v); err != nil || string(canonical) != string(after) {
			t.Fatalf("%s of %q and %q: %q, which is %q, %v", format, state, event, after, canonical, err)
		}
		if Format(format) == MergePatch {
			if again, err := Format(format).fold(after, m); err != nil || string(again) != string(after) {
				t.Fatalf("of %q and %q: %q, and again %q, %v", state, event, after, again, err)
			}
		}
	})
}
