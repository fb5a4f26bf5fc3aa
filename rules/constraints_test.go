package rules_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/rules"
	"penstock/schemas"
	"penstock/schemas/protobuf"
)

// constrained is a schema with constraints of each kind.
const constrained = `syntax = "proto3";
package shop;
import "buf/validate/validate.proto";
import "google/protobuf/timestamp.proto";

message Order {
  option (buf.validate.message).cel = {id: "order.end", message: "end must be behind start", expression: "this.end >= this.start"};
  string id = 1 [(buf.validate.field).string.min_len = 3];
  int32 quantity = 2 [(buf.validate.field).int32 = {gt: 0, lte: 100}];
  string mail = 3 [(buf.validate.field).string.email = true, (buf.validate.field).ignore = IGNORE_IF_ZERO_VALUE];
  int64 start = 4;
  int64 end = 5;
  repeated Item items = 6 [(buf.validate.field).repeated.max_items = 2];
  map<string, int32> stock = 7 [(buf.validate.field).map.values.int32.gte = 0];
  google.protobuf.Timestamp at = 8 [(buf.validate.field).required = true];
  Kind kind = 9 [(buf.validate.field).enum = {not_in: [2]}];
  oneof pay {
    option (buf.validate.oneof).required = true;
    string card = 10;
    string bill = 11;
  }
  string name = 12 [(buf.validate.field).cel = {id: "name.upper", expression: "this == this.upperAscii() ? '' : 'must be upper case, not ' + this"}];
  repeated string tags = 13 [(buf.validate.field).repeated = {unique: true, items: {string: {pattern: "^[a-z]+$"}}}];
  Order part = 14;
}
message Item { string sku = 1 [(buf.validate.field).string.pattern = "^[A-Z]+$"]; }
enum Kind { KIND_UNSPECIFIED = 0; ONE = 1; TWO = 2; }
`

func constraintsOf(t testing.TB, text string) (*rules.Constraints, schemas.Schema) {
	t.Helper()
	s, err := protobuf.Format{}.Parse(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := rules.ConstraintsOf(s)
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func fitting() map[string]any {
	return map[string]any{
		"id": "o-1", "quantity": 1, "items": []any{map[string]any{"sku": "AB"}}, "stock": map[string]any{"a": 1},
		"at": "2026-11-27T12:00:00Z", "kind": "ONE", "card": "c", "name": "ANN", "tags": []any{"a", "b"},
	}
}

// A value that keeps to all constraints passes, and each that is broken is named by its
// place, what was expected, what was found, and the constraint.
func TestConstraints(t *testing.T) {
	c, s := constraintsOf(t, constrained)
	verdict := func(change map[string]any) []string {
		t.Helper()
		v := fitting()
		for name, to := range change {
			v[name] = to
		}
		payload, err := s.AppendEncode(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		err = c.Check(payload)
		if err == nil {
			return nil
		}
		var broken *schemas.ValueError
		if !errors.As(err, &broken) {
			t.Fatalf("%v: %v, want a ValueError", change, err)
		}
		var said []string
		for _, v := range broken.Violations {
			said = append(said, v.String())
		}
		return said
	}
	for _, test := range []struct {
		name   string
		change map[string]any
		want   []string
	}{
		{"nothing", nil, nil},
		{"several", map[string]any{"id": "x", "quantity": 101}, []string{
			`at /id: expected a value that is at least 3 characters, found string "x"; change the value, or the constraint "string.min_len" of the schema`,
			`at /quantity: expected a value that is greater than 0 and less than or equal to 100, found number 101; change the value, or the constraint "int32.gt_lte" of the schema`,
		}},
		{"a format", map[string]any{"mail": "nobody"}, []string{`at /mail: expected a value that is a valid email address, found string "nobody"; change the value, or the constraint "string.email" of the schema`}},
		{"of a whole message", map[string]any{"start": 5, "end": 3}, []string{`at the value: expected a value of which holds: end must be behind start, found one of other fields; change the value, or the constraint "order.end" of the schema`}},
		{"in a list", map[string]any{"items": []any{map[string]any{"sku": "AB"}, map[string]any{"sku": "ab"}}}, []string{"at /items/1/sku: expected a value that matches regex pattern `^[A-Z]+$`, found string \"ab\"; change the value, or the constraint \"string.pattern\" of the schema"}},
		{"of a list", map[string]any{"items": []any{map[string]any{"sku": "A"}, map[string]any{"sku": "A"}, map[string]any{"sku": "A"}}}, []string{`at /items: expected a value that must contain no more than 2 item(s), found array of 3; change the value, or the constraint "repeated.max_items" of the schema`}},
		{"in a map", map[string]any{"stock": map[string]any{"a/b": -1}}, []string{`at /stock/a~1b: expected a value that is greater than or equal to 0, found number -1; change the value, or the constraint "int32.gte" of the schema`}},
		{"required", map[string]any{"at": nil}, []string{`at /at: expected a value, found nothing; change the value, or the constraint "required" of the schema`}},
		{"a symbol", map[string]any{"kind": "TWO"}, []string{`at /kind: expected a value that must not be in list [2], found string "TWO"; change the value, or the constraint "enum.not_in" of the schema`}},
		{"a oneof", map[string]any{"card": nil}, []string{`at /pay: expected a value, found nothing; change the value, or the constraint "required" of the schema`}},
		{"an expression", map[string]any{"name": "Ann"}, []string{`at /name: expected a value that is upper case, not Ann, found string "Ann"; change the value, or the constraint "name.upper" of the schema`}},
		{"below another", map[string]any{"part": map[string]any{"id": "o-2", "quantity": 0, "at": "2026-11-27T12:00:00Z", "bill": "b"}}, []string{`at /part/quantity: expected a value that is greater than 0 and less than or equal to 100, found number 0; change the value, or the constraint "int32.gt_lte" of the schema`}},
	} {
		if diff := cmp.Diff(test.want, verdict(test.change)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}

	var many []any
	for i := range 200 {
		many = append(many, fmt.Sprint(i))
	}
	if got := len(verdict(map[string]any{"tags": many})); got != 100 {
		t.Errorf("%d of 200 violations are named, want 100", got)
	}
	// What is no message at all, and what makes the decoder panic.
	for _, payload := range []string{"\xff", "\x3a\x08\x0a\x01\x6b\x0d\x01\x02\x03\x04"} {
		if err := c.Check([]byte(payload)); !errors.As(err, new(*schemas.ValueError)) {
			t.Errorf("check of %q: %v, want a ValueError", payload, err)
		}
	}
}

// Rules that a schema defines for its own use count too.
func TestPredefinedConstraints(t *testing.T) {
	c, s := constraintsOf(t, `syntax = "proto2"; package p; import "buf/validate/validate.proto";
extend buf.validate.Int32Rules { optional bool even = 80048952 [(buf.validate.predefined).cel = {id: "int32.even", message: "must be even", expression: "this % 2 == 0"}]; }
message M { optional int32 n = 1 [(buf.validate.field).int32.(even) = true]; }`)
	for n, want := range map[int]bool{2: true, 3: false} {
		payload, err := s.AppendEncode(nil, map[string]any{"n": n})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(payload); (err == nil) != want {
			t.Errorf("check of %d: %v", n, err)
		}
	}
}

// A schema without constraints, in its own messages or in what they hold, has none.
func TestNoConstraints(t *testing.T) {
	for _, text := range []string{
		`syntax = "proto3"; message M { string a = 1; }`,
		`syntax = "proto3"; import "buf/validate/validate.proto"; message M { string a = 1; } message N { string a = 1 [(buf.validate.field).string.min_len = 3]; }`,
		`syntax = "proto3"; import "buf/validate/validate.proto";`,
	} {
		if c, _ := constraintsOf(t, text); c != nil {
			t.Errorf("%s has constraints", text)
		}
	}
	if err := (*rules.Constraints)(nil).Check([]byte("\xff")); err != nil {
		t.Errorf("check without constraints: %v", err)
	}
}

// What cannot be run is said at once, and not when an event comes.
func TestFaultyConstraints(t *testing.T) {
	for _, field := range []string{
		`(buf.validate.field).cel = {id: "x", expression: "this +"}`,
		`(buf.validate.field).cel = {id: "x", expression: "this.size()"}`,
		`(buf.validate.field).int32.gt = 3`,
		`(buf.validate.field).string.pattern = "("`,
		// What has no bound.
		`(buf.validate.field).cel = {id: "x", expression: "[this].map(a, a + a).map(a, a + a).all(a, a != '')"}`,
		`(buf.validate.field).cel = {id: "x", expression: "this.split('').all(a, this.matches('x'))"}`,
		`(buf.validate.field).cel = {id: "x", expression: "this.replace('', this) != ''"}`,
		`(buf.validate.field).cel = {id: "x", expression: "this.matches(this)"}`,
		`(buf.validate.field).cel = {id: "x", expression: "'%.999999999f'.format([1.0]) == this"}`,
		`(buf.validate.field).cel = {id: "x", expression: "[1].all(a, [1].all(b, [1].all(c, [1].all(d, true))))"}`,
		`(buf.validate.field).cel_expression = "this.join(this) == ''"`,
	} {
		s, err := protobuf.Format{}.Parse(`syntax = "proto3"; import "buf/validate/validate.proto"; message M { N n = 1; } message N { string a = 1 [`+field+`]; }`, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rules.ConstraintsOf(s); err == nil || !strings.Contains(err.Error(), "compile constraints") {
			t.Errorf("%s: %v, want that it cannot be compiled", field, err)
		}
	}
}

// Where a field is tagged, no text is shown that an expression has made.
func TestConstraintsOfTagged(t *testing.T) {
	c, s := constraintsOf(t, `syntax = "proto3"; import "buf/validate/validate.proto"; import "confluent/meta.proto";
message M {
  string ssn = 1 [(confluent.field_meta).tags = "PII", (buf.validate.field).cel = {id: "ssn", expression: "'not ' + this"}, (buf.validate.field).string.min_len = 30];
}`)
	payload, err := s.AppendEncode(nil, map[string]any{"ssn": "s3cret"})
	if err != nil {
		t.Fatal(err)
	}
	err = schemas.Conceal(s.Model(), schemas.Sensitive, c.Check(payload))
	if err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "at least 30 characters") {
		t.Errorf("check: %v, want no value and the constraint's own text", err)
	}
}

// Expressions as they are written pass, whatever they loop over in what the message
// holds, and a payload is refused at which they would work for minutes.
func TestConstraintsAreBounded(t *testing.T) {
	c, s := constraintsOf(t, `syntax = "proto3"; import "buf/validate/validate.proto";
message M {
  option (buf.validate.message).cel = {id: "once", expression: "this.items.filter(i, i.on).map(i, i.name).all(n, n.matches('^[a-z]+$'))"};
  option (buf.validate.message).cel = {id: "pairs", expression: "this.numbers.all(a, this.numbers.exists_one(b, a == b))"};
  option (buf.validate.message).cel = {id: "text", expression: "this.note == '' ? '' : 'no note of ' + string(size(this.note)) + ' characters'"};
  repeated Item items = 1;
  repeated int32 numbers = 2;
  string note = 3;
}
message Item { string name = 1; bool on = 2; }`)
	check := func(v map[string]any) error {
		payload, err := s.AppendEncode(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		return c.Check(payload)
	}
	numbers := func(n int) (all []any) {
		for i := range n {
			all = append(all, i)
		}
		return all
	}
	if err := check(map[string]any{"items": []any{map[string]any{"name": "a", "on": true}, map[string]any{"name": "B"}}, "numbers": numbers(300)}); err != nil {
		t.Error(err)
	}
	if err := check(map[string]any{"items": []any{map[string]any{"name": "B", "on": true}}}); err == nil || !strings.Contains(err.Error(), `"once"`) {
		t.Errorf("check: %v, want that it does not keep to once", err)
	}
	err := check(map[string]any{"numbers": numbers(3000), "note": strings.Repeat("x", 50)})
	if !errors.As(err, new(*schemas.ValueError)) || !strings.Contains(err.Error(), "too much work to check, found lists of up to 3000") {
		t.Errorf("check of pairs of 3,000: %v, want that it is too much work", err)
	}
}
