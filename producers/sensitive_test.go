package producers

import (
	"fmt"
	"strings"
	"testing"

	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
)

// patients is one schema in three languages: ssn is tagged, and so is a record, a
// map and what lies in a record that is not tagged itself.
var patients = map[schemas.Format]string{
	avro.Format{}: `{"type":"record","name":"Patient","fields":[
		{"name":"age","type":["null","int"],"default":null},
		{"name":"ssn","type":["null","int"],"default":null,"confluent:tags":["PII"]},
		{"name":"card","type":["null",{"type":"record","name":"Card","fields":[{"name":"number","type":["null","int"],"default":null}]}],"default":null,"confluent:tags":["SENSITIVE"]},
		{"name":"names","type":{"type":"map","values":"int"},"default":{},"confluent:tags":["PRIVATE"]},
		{"name":"visit","type":["null",{"type":"record","name":"Visit","fields":[
			{"name":"finding","type":["null","int"],"default":null,"confluent:tags":["PII"]}]}],"default":null}]}`,
	jsonschema.Format{}: `{"type":"object","additionalProperties":false,"properties":{
		"age":{"type":"integer"},
		"ssn":{"type":"integer","confluent:tags":["PII"]},
		"card":{"type":"object","additionalProperties":false,"properties":{"number":{"type":"integer"}},"confluent:tags":["SENSITIVE"]},
		"names":{"type":"object","additionalProperties":{"type":"integer"},"confluent:tags":["PRIVATE"]},
		"visit":{"type":"object","additionalProperties":false,"properties":{"finding":{"type":"integer","confluent:tags":["PII"]}}}}}`,
	protobuf.Format{}: `syntax = "proto3"; import "confluent/meta.proto";
		message Patient {
			int32 age = 1;
			int32 ssn = 2 [(confluent.field_meta).tags = "PII"];
			Card card = 3 [(confluent.field_meta).tags = "SENSITIVE"];
			map<string, int32> names = 4 [(confluent.field_meta).tags = "PRIVATE"];
			Visit visit = 5;
		}
		message Card { int32 number = 1; }
		message Visit { int32 finding = 1 [(confluent.field_meta).tags = "PII"]; }`,
}

// No way out shows the value of a sensitive field, and every one that of another
// field: the error, what Refused is told, and the headers of dead letters and of
// marked records.
func TestSensitive(t *testing.T) {
	const secret = "s3cret"
	values := map[string]map[string]any{
		"in the field":        {"ssn": secret},
		"in a record":         {"card": map[string]any{"number": secret}},
		"in place of it":      {"card": secret},
		"an unknown name":     {"card": map[string]any{secret: 1}},
		"in a map":            {"names": map[string]any{"a": secret}},
		"the key of an entry": {"names": map[string]any{secret: "x"}},
		"below another":       {"visit": map[string]any{"finding": secret}},
		"in place of that":    {"visit": secret},
		"in a list":           {"ssn": []any{secret}},
	}
	for format, text := range patients {
		schema := parse(t, format, text)
		reg := &registry{subjects: []string{"t-value"}, schemas: []schemas.Schema{schema}}
		for name, value := range values {
			for _, misfits := range []Misfits{Reject, DeadLetter, Mark} {
				t.Run(fmt.Sprintf("%s %s %d", format.Type(), name, misfits), func(t *testing.T) {
					value["age"] = "old"
					var said []string
					c := topics(Topic{Misfits: misfits})
					c.Refused = func(_ Event, why error) { said = append(said, why.Error()) }
					var pub publisher
					if err := New(&pub, reg, c).Publish(t.Context(), Event{Topic: "t", Value: value}); err != nil {
						said = append(said, err.Error())
					}
					for _, r := range pub.records {
						for _, h := range r.Headers {
							said = append(said, string(h.Value))
						}
					}
					all := strings.Join(said, "\n")
					if strings.Contains(all, secret) || !strings.Contains(all, "old") {
						t.Errorf("said %s", all)
					}
				})
			}
		}
	}
}

// The tags are the caller's to choose.
func TestSensitiveTags(t *testing.T) {
	reg := &registry{subjects: []string{"t-value"}, schemas: []schemas.Schema{parse(t, avro.Format{}, `{"type":"record","name":"R","fields":[
		{"name":"a","type":"int","confluent:tags":["PII"]}, {"name":"b","type":"int","confluent:tags":["OURS"]}]}`)}}
	err := New(new(publisher), reg, Config{Sensitive: []string{"OURS"}}).Publish(t.Context(), Event{Topic: "t", Value: map[string]any{"a": "shown", "b": "hidden"}})
	if text := fmt.Sprint(err); !strings.Contains(text, "shown\"") || strings.Contains(text, "hidden") || !strings.Contains(text, "a string that is not shown, since it is tagged OURS") {
		t.Errorf("got %s", text)
	}
}
