package producers

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"penstock/schemas"
	"penstock/schemas/protobuf"
	"penstock/stream"
)

// The constraints that a Protobuf schema carries hold for values in each form, and keep
// what is sensitive to themselves.
func TestConstraints(t *testing.T) {
	schema := parse(t, protobuf.Format{}, `syntax = "proto3"; import "buf/validate/validate.proto"; import "confluent/meta.proto";
		message Other { string id = 1; }
		message Patient {
			int32 age = 1 [(buf.validate.field).int32 = {gte: 0, lt: 150}];
			string ssn = 2 [(buf.validate.field).string.len = 11, (confluent.field_meta).tags = "PII"];
		}`)
	patient, err := schema.(schemas.Messages).Message([]int{1})
	if err != nil {
		t.Fatal(err)
	}
	reg := byID{&registry{subjects: []string{"t-value", "t-key"}, schemas: []schemas.Schema{patient, patient}}}
	framed := func(v map[string]any) Framed {
		payload, err := patient.AppendEncode(schemas.AppendFrame(nil, 1, patient), v)
		if err != nil {
			t.Fatal(err)
		}
		return payload
	}
	good := map[string]any{"age": 7, "ssn": "123-45-6789"}
	bad := map[string]any{"age": 151, "ssn": "s3cret"}
	var pub publisher
	p := New(&pub, reg, Config{})
	for range 2 { // the second time with what was compiled
		for _, event := range []Event{
			{Topic: "t", Value: bad}, {Topic: "t", Value: JSON(`{"age":151,"ssn":"s3cret"}`)}, {Topic: "t", Value: framed(bad)}, {Topic: "t", KeyValue: bad, Value: good},
		} {
			err := p.Publish(t.Context(), event)
			var misfit *schemas.ValueError
			if !errors.As(err, &misfit) || len(misfit.Violations) != 2 {
				t.Fatalf("%T: %v, want two violations", event.Value, err)
			}
			text := err.Error()
			if !strings.Contains(text, "/age: expected a value that is greater than or equal to 0 and less than 150, found number 151") ||
				!strings.Contains(text, "/ssn: expected a value that is") || strings.Contains(text, "s3cret") {
				t.Errorf("%T: %v", event.Value, err)
			}
		}
		if len(pub.records) > 0 {
			t.Fatalf("published %d records, want none", len(pub.records))
		}
	}
	if err := p.Publish(t.Context(), Event{Topic: "t", Value: good}, Event{Topic: "t", Value: framed(good)}, Event{Topic: "t", Value: JSON(`{"age":7,"ssn":"123-45-6789"}`)}); err != nil {
		t.Error(err)
	}
	if n := len(pub.records); n != 3 {
		t.Errorf("published %d records, want 3", n)
	}
}

// Constraints that cannot be run let nothing through.
func TestFaultyConstraints(t *testing.T) {
	reg := byID{&registry{subjects: []string{"t-value"}, schemas: []schemas.Schema{parse(t, protobuf.Format{}, `syntax = "proto3"; import "buf/validate/validate.proto";
		message M { string a = 1 [(buf.validate.field).cel = {id: "x", expression: "this +"}]; }`)}}}
	for _, value := range []any{map[string]any{"a": "x"}, Framed("\x00\x00\x00\x00\x01\x00\x0a\x01x")} {
		var pub publisher
		err := New(&pub, reg, Config{}).Publish(t.Context(), Event{Topic: "t", Value: value})
		var failed *stream.BatchError
		if !errors.As(err, &failed) || !strings.Contains(fmt.Sprint(failed.Errs[0]), "the constraints of schema 1") || len(pub.records) > 0 {
			t.Errorf("%T: %v, %d records; want that the constraints cannot be run", value, err, len(pub.records))
		}
	}
}
