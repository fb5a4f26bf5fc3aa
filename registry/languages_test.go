package registry_test

import (
	"net/http/httptest"
	"testing"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/registry/logs/memory"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
)

// serveLanguages is serve with the languages and their rules as they are.
func serveLanguages(t *testing.T) *session {
	t.Helper()
	formats := []schemas.Format{avro.Format{}, jsonschema.Format{}, protobuf.Format{}}
	r, err := registry.New(t.Context(), memory.New(), formats, compat.Checker{}, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	server := httptest.NewServer(registry.Handler(r, registry.HandlerOptions{}))
	t.Cleanup(server.Close)
	return &session{T: t, server: server}
}

// body is a request with a schema; more are members of JSON.
func body(language schemas.Type, text, more string) string {
	return `{"schemaType":"` + string(language) + `","schema":` + quote(text) + more + `}`
}

// TestReservedFields: validateFields sees the fields at the top of a schema, in
// Protobuf those of every message.
func TestReservedFields(t *testing.T) {
	s := serveLanguages(t)
	s.has("PUT", "/config", `{"compatibility":"NONE","validateFields":true}`, 200)
	const reserved = `,"metadata":{"properties":{"confluent:reserved":"gone, old"}}`
	for language, f := range map[schemas.Type]func(name string) string{
		schemas.Avro: func(name string) string {
			return `{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"` + name + `","type":"int"}]}`
		},
		schemas.JSON: func(name string) string {
			return `{"properties":{"a":{"type":"integer"},"` + name + `":{"type":"integer"}}}`
		},
		schemas.Protobuf: func(name string) string {
			return `syntax = "proto3"; message First { int32 a = 1; } message Second { optional int32 ` + name + ` = 1; }`
		},
	} {
		path := "/subjects/" + string(language) + "/versions"
		s.has("POST", path, body(language, f("b"), reserved), 200)
		s.has("POST", path, body(language, f("c"), reserved), 200)
		s.want("POST", path, body(language, f("old"), reserved), 409, `40901 RESERVED_FIELD_CONFLICTS_WITH_FIELD`)
		s.want("POST", path, body(language, f("d"), `,"metadata":{"properties":{"confluent:reserved":"gone"}}`), 409, `40901 RESERVED_FIELD_REMOVED`)
	}
	inOneof := `syntax = "proto3"; message First { oneof o { int32 old = 1; } message Inner { int32 gone = 1; } }`
	s.has("POST", "/subjects/PROTOBUF/versions", body(schemas.Protobuf, inOneof, reserved), 200)
}

// TestValidateNewSchemas: properties that clients keep for themselves.
func TestValidateNewSchemas(t *testing.T) {
	s := serveLanguages(t)
	const text = `{"type":"object","properties":{"$$x":{}}}`
	s.want("POST", "/subjects/s/versions", body(schemas.JSON, text, ""), 422, "42201 /properties/$$x")
	s.want("POST", "/compatibility/subjects/s/versions/latest", body(schemas.JSON, text, ""), 422, "42201 /properties/$$x")
	s.has("PUT", "/config/s", `{"validateNewSchemas":false}`, 200)
	s.has("POST", "/subjects/s/versions", body(schemas.JSON, text, ""), 200)
	s.has("PUT", "/config/s", `{"validateNewSchemas":true}`, 200)
	s.has("POST", "/subjects/s/versions", body(schemas.JSON, text, ""), 200, `"version":1`) // it is there
	s.has("POST", "/subjects/s", body(schemas.JSON, text, ""), 200)
	s.has("PUT", "/mode/i", `{"mode":"IMPORT"}`, 200)
	s.has("POST", "/subjects/i/versions", body(schemas.JSON, text, `,"id":9`), 200)
}

// TestLogicalPolicy: under LOGICAL, a type that the language reads is refused
// where a table could not keep its column.
func TestLogicalPolicy(t *testing.T) {
	s := serveLanguages(t)
	record := func(typ string) string {
		return body(schemas.Avro, `{"type":"record","name":"R","fields":[{"name":"a","type":`+typ+`}]}`, "")
	}
	s.has("POST", "/subjects/s/versions", record(`"int"`), 200)
	s.has("PUT", "/config/s", `{"compatibilityPolicy":"LOGICAL"}`, 200)
	s.has("POST", "/compatibility/subjects/s/versions?verbose=true", record(`"float"`), 200, `"is_compatible":false`, "COLUMN_TYPE_CHANGED", "/fields/0/type")
	s.want("POST", "/subjects/s/versions", record(`"float"`), 409, "40901 COLUMN_TYPE_CHANGED")
	s.has("POST", "/subjects/s/versions", record(`"long"`), 200, `"version":2`)
	s.has("PUT", "/config/s", `{"compatibilityPolicy":"STRICT"}`, 200)
	s.has("POST", "/subjects/s/versions", record(`"float"`), 200, `"version":3`)
}
