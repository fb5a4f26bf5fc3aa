package registry_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
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

// TestTags: tags in the texts are found, and others make a new version.
func TestTags(t *testing.T) {
	s := serveLanguages(t)
	s.has("PUT", "/config", `{"compatibility":"NONE"}`, 200)
	const rule = `{"name":"r","type":"ENCRYPT","kind":"TRANSFORM","tags":["PII"]}`
	for _, l := range []struct {
		language             schemas.Type
		text                 string
		record, field, inner string // entities
		tagged               []string
	}{
		{
			schemas.Avro, `{"type":"record","name":"R","namespace":"n","fields":[{"name":"f","type":"string","confluent:tags":["OLD"]},{"name":"g","type":{"type":"record","name":"I","fields":[{"name":"h","type":"int"}]}}]}`,
			"n.R", "n.R.f", "n.I.h",
			[]string{`"confluent:tags":["OLD","PII"]`, `{"name":"h","type":"int","confluent:tags":["PII"]}`, `"confluent:tags":["T"]}`},
		},
		{
			schemas.JSON, `{"type":"object","properties":{"f":{"type":"string","confluent:tags":["OLD"]},"g":{"type":"array","items":{"$ref":"#/definitions/i"}}},"definitions":{"i":{"allOf":[{"properties":{"h":{"type":"integer"}}}]}}}`,
			"object", "object.f", "object.g.array.allof.0.object.h",
			[]string{`"confluent:tags":["OLD","PII"]`, `"h":{"type":"integer","confluent:tags":["PII"]}`, `"confluent:tags":["T"]}`},
		},
		{
			schemas.Protobuf, "syntax = \"proto3\";\npackage p;\n\nimport \"confluent/meta.proto\";\n\nmessage R {\n  string f = 1 [(confluent.field_meta) = {\n    doc: \"d\",\n    tags: \"OLD\"\n  }];\n\n  oneof o {\n    string g = 2;\n  }\n\n  message I {\n    int32 h = 1 [json_name = \"k\"];\n  }\n}\n",
			"R", "R.f", "R.I.h",
			[]string{"doc: \"d\",\n    tags: [\n      \"OLD\",\n      \"PII\"\n    ]", "(confluent.field_meta).tags = \"PII\",\n      json_name = \"k\"", "option (confluent.message_meta).tags = \"T\";"},
		},
	} {
		subject := "/subjects/" + string(l.language) + "/versions"
		entity := func(path, tags string) string {
			kind := "sr_field"
			if path == l.record {
				kind = "sr_record"
			}
			return `{"schemaEntity":{"entityPath":` + quote(path) + `,"entityType":"` + kind + `"},"tags":[` + tags + `]}`
		}
		s.has("POST", subject, body(l.language, l.text, ""), 200)
		s.has("GET", subject+"/1?findTags=OLD&findTags=X", "", 200, `"schemaTags":[`+entity(l.field, `"OLD"`)+`]`)
		s.has("GET", subject+"/1?findTags=X", "", 200, "!schemaTags")
		s.has("GET", subject+"/1", "", 200, "!schemaTags")

		add := `{"tagsToAdd":[` + entity(l.field, `"PII","PII"`) + `,` + entity("."+l.inner, `"PII"`) + `,{"schemaEntity":{"entityPath":` + quote(l.record) + `},"tags":["T"]}],"rulesToMerge":{"domainRules":[` + rule + `]},"metadata":{"properties":{"a":"b"}}}`
		got := s.has("POST", subject+"/1/tags", add, 200, `"version":2`, `"name":"r"`, `"properties":{"a":"b"}`)
		for _, want := range l.tagged {
			if want := strings.Trim(quote(want), `"`); !strings.Contains(got, want) {
				t.Errorf("%s: %s lacks %s", l.language, got, want)
			}
		}
		s.has("GET", subject+"/2?findTags=PII", "", 200, entity(l.field, `"OLD","PII"`), entity(l.inner, `"PII"`), "!"+entity(l.record, `"T"`))
		var tagged registry.Schema
		if err := json.Unmarshal([]byte(got), &tagged); err != nil {
			t.Fatal(err)
		}
		s.has("GET", fmt.Sprintf("/schemas/ids/%d?findTags=*", tagged.ID), "", 200, entity(l.record, `"T"`))

		s.has("POST", subject+"/latest/tags", `{"tagsToRemove":[`+entity(l.inner, `"PII"`)+`,`+entity(l.record, `"T"`)+`,`+entity(l.field, `"PII"`)+`],"rulesToRemove":["r"],"metadata":{}}`, 200, `"version":3`, `!"name":"r"`)
		s.has("GET", subject+"/3?findTags=*", "", 200, `"schemaTags":[`+entity(l.field, `"OLD"`)+`]`)
		s.has("POST", subject+"/3/tags", `{"tagsToRemove":[`+entity(l.field, `"OLD"`)+`]}`, 200, "!OLD")
		s.want("POST", subject+"/1/tags", `{"newVersion":9,"tagsToAdd":[`+entity(l.field, `"Q"`)+`]}`, 422, "42201 not one more")
		s.want("POST", subject+"/7/tags", `{}`, 404, "40402")
		s.want("POST", subject+"/1/tags", `{"tagsToAdd":[`+entity("nowhere", `"Q"`)+`]}`, 422, `42201 no entity "nowhere"`)
	}
	s.has("POST", "/subjects/plain/versions", body(schemas.Protobuf, "message M { optional int32 a = 1; }", ""), 200)
	s.has("POST", "/subjects/plain/versions/1/tags", `{"tagsToAdd":[{"schemaEntity":{"entityPath":"M.a"},"tags":["A","B"]}]}`, 200,
		`import \"confluent/meta.proto\";`, `(confluent.field_meta).tags = \"A\",\n    (confluent.field_meta).tags = \"B\"`)
}

// TestImportOfWhatMakesNoSense: what another registry let pass is taken over,
// found again, and told of where it matters.
func TestImportOfWhatMakesNoSense(t *testing.T) {
	s := serveLanguages(t)
	for language, l := range map[schemas.Type]struct{ bad, canonical, good, syntax string }{
		schemas.Avro: {
			`{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int", "default": "x"}]}`,
			`{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":"x"}]}`,
			`{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}`, `{"type":"record"`,
		},
		schemas.JSON: {
			`{"$ref": "https://example.com/other.json"}`, `{"$ref":"https://example.com/other.json"}`, `{"type":"string"}`, `{"type"`,
		},
		schemas.Protobuf: {
			`syntax = "proto3"; import "gone.proto"; message M { Gone g = 1; }`,
			"syntax = \"proto3\";\n\nimport \"gone.proto\";\n\nmessage M {\n  Gone g = 1;\n}\n",
			`syntax = "proto3"; message M { int32 g = 1; }`, `message {`,
		},
	} {
		subject := "/subjects/" + string(language)
		s.want("POST", subject+"/versions", body(language, l.bad, ""), 422, "42201 Invalid schema")
		s.has("PUT", "/mode/"+string(language), `{"mode":"IMPORT"}`, 200)
		s.want("POST", subject+"/versions", body(language, l.syntax, `,"id":9`), 422, "42201 Invalid schema")
		id := fmt.Sprintf(`,"id":%d,"version":3`, 100*int(language[0])) // of its own
		s.has("POST", subject+"/versions", body(language, l.bad, id), 200, quote(l.canonical), `"version":3`)
		s.has("PUT", "/mode/"+string(language), `{"mode":"READWRITE"}`, 200)

		s.has("POST", subject+"/versions", body(language, l.bad, ""), 200, `"version":3`)
		s.has("POST", subject, body(language, l.bad, ""), 200, `"version":3`)
		s.has("GET", subject+"/versions/3?format=serialized", "", 200, quote(l.canonical))
		s.want("POST", subject, body(language, l.syntax, ""), 422, "42201")
		s.want("POST", "/subjects/other/versions", body(language, l.bad, ""), 422, "42201 Invalid schema")
		if language == schemas.Avro { // whose default is all that makes no sense
			s.has("POST", subject+"/versions", body(language, l.good, ""), 200, `"version":4`)
			continue
		}
		s.want("POST", subject+"/versions", body(language, l.good, ""), 422, "42201 Version 3, with which the schema is to be compared")
		s.has("POST", subject+"/versions?force=true", body(language, l.good, ""), 200, `"version":4`)
		s.want("POST", subject+"/versions/3/tags", `{"tagsToAdd":[]}`, 422, "42201 cannot have any")
	}
}

func TestFixedModes(t *testing.T) {
	r, err := registry.New(t.Context(), memory.New(), nil, compat.Checker{}, registry.Options{FixedModes: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	server := httptest.NewServer(registry.Handler(r, registry.HandlerOptions{}))
	t.Cleanup(server.Close)
	s := &session{T: t, server: server}
	s.want("PUT", "/mode?force=true", `{"mode":"IMPORT"}`, 422, "42205 Mode changes are not allowed")
	s.want("DELETE", "/mode/s?recursive=true", "", 422, "42205 Mode changes are not allowed")
	s.want("GET", "/mode", "", 200, `{"mode":"READWRITE"}`)
}

// TestTakenElsewhere: schemas that another registry took, and this one would not,
// are imported, found by their producers, and developed on.
func TestTakenElsewhere(t *testing.T) {
	s := serveLanguages(t)
	order := func(space, def string) string {
		return `{"type":"record","name":"Order","namespace":"` + space + `","fields":[{"name":"n","type":"int","default":` + def + `}]}`
	}
	was, is := order("web-shop", `"one"`), order("shop", `1`)
	s.want("POST", "/subjects/s/versions", body(schemas.Avro, was, ""), 422, `42201 at /name`)
	s.has("PUT", "/mode/s", `{"mode":"IMPORT"}`, 200)
	s.has("POST", "/subjects/s/versions", body(schemas.Avro, was, `,"id":7,"version":3`), 200, `"id":7`)
	s.has("PUT", "/mode/s", `{"mode":"READWRITE"}`, 200)
	s.has("POST", "/subjects/s", body(schemas.Avro, was, ""), 200, `"version":3`)
	s.has("POST", "/subjects/s/versions", body(schemas.Avro, was, ""), 200, `"id":7`)
	s.want("POST", "/subjects/s/versions", body(schemas.Avro, order("web-shop", `1`), ""), 422, `42201 at /name`)
	s.has("POST", "/subjects/s/versions", body(schemas.Avro, is, ""), 200, `"version":4`)
	s.has("POST", "/subjects/uses/versions", body(schemas.Avro, `{"type":"array","items":"web-shop.Order"}`,
		`,"references":[{"name":"web-shop.Order","subject":"s","version":3}]`), 200, `"id":9`)
}
