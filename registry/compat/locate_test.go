package compat_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/schemas"
)

// TestLocate looks for paths in texts in which » marks the place to be found.
func TestLocate(t *testing.T) {
	f := func(typ schemas.Type, marked, path string) {
		t.Helper()
		before, after, _ := strings.Cut(marked, "»")
		lines := strings.Split(before, "\n")
		want := registry.Position{Line: len(lines), Column: len([]rune(lines[len(lines)-1])) + 1}
		got := compat.Checker{}.Locate(typ, before+after, path)
		if got == nil || *got != want {
			t.Errorf("%s in %s: got %v, want %v", path, marked, got, want)
		}
	}
	f(schemas.JSON, "»{}", "#/")
	f(schemas.JSON, "»{}", "/")
	f(schemas.JSON, " »true", "#/properties/a")
	f(schemas.JSON, "{\"title\":\"äöü\",\n\"properties\": {\"ä\":»{}, \"b\": {}}}", "#/properties/ä")
	f(schemas.JSON, `{"properties":{"a":{},"a/b":{"maxLength":»1}}}`, "#/properties/a/b/maxLength")
	f(schemas.JSON, `{"properties":{"a/properties":{"maximum":1},"a":{"properties":{"c":{"maximum":»1}}}}}`, "#/properties/a/properties/c/maximum")
	f(schemas.JSON, `{"properties":{"a":»{}}}`, "#/properties/a/pattern")
	f(schemas.JSON, `{"required":["a",»"b"]}`, "#/required/b")
	f(schemas.JSON, `{"properties":{"x":{"$ref":"#/definitions/a~1b"}},"definitions":{"a/b":{"maximum":»1}}}`, "#/properties/x/maximum")
	f(schemas.JSON, `»{"$ref":"#"}`, "#/properties/x")
	f(schemas.JSON, `{"type":["string","null"],"maxLength":»3}`, "#/anyOf/0/maxLength")
	f(schemas.JSON, `{"type":"object","properties":{"a":»{}},"anyOf":[{},{}]}`, "#/allOf/1/properties/a")
	f(schemas.JSON, `{"anyOf":[{},{"items":»{}}]}`, "#/anyOf/1/items")
	f(schemas.JSON, `{"items":[{},»{}]}`, "#/items/1")
	f(schemas.JSON, `{"prefixItems":[{},»{}],"items":{}}`, "#/items/1")
	f(schemas.JSON, `{"prefixItems":[{}],"items":»false}`, "#/additionalItems")
	f(schemas.JSON, `{"items":{"maxLength":»1}}`, "#/items/maxLength")
	f(schemas.JSON, `{"dependentRequired":{"a":»["b"]}}`, "#/dependencies/a")

	f(schemas.Avro, `»{"type":"record"}`, "/")
	f(schemas.Avro, "{\"type\":\"record\",\"fields\":[{\"name\":\"a\",\n \"type\":»\"int\"}]}", "/fields/0/type")
	f(schemas.Avro, `{"fields":[{"type":["null",»{"type":"array","items":"X"}]}]}`, "/fields/0/type/1")
	f(schemas.Avro, `{"fields":[{"type":»"X"}]}`, "/fields/0/type/fields/3")
	f(schemas.Avro, "[ »\"int\" ]", "/0")

	for _, typ := range []schemas.Type{schemas.Avro, schemas.JSON, "OTHER"} {
		if got := (compat.Checker{}).Locate(typ, "{", "/"); got != nil {
			t.Errorf("%s: found %v in what is no schema", typ, got)
		}
	}
}

// TestLocateHostile has a text in which each slash of the path can be read in
// two ways, and references in a circle.
func TestLocateHostile(t *testing.T) {
	text := `{"properties":{"a":{"$ref":"#"},"a/properties/a":{"$ref":"#"}},"allOf":[{"$ref":"#"}]}`
	path := "#" + strings.Repeat("/properties/a", 200) + "/x"
	if got := (compat.Checker{}).Locate(schemas.JSON, text, path); got == nil {
		t.Error("found nothing")
	}
}

// TestLocateFindings looks for every finding of the test data in its text: all
// but the root must be found below it.
func TestLocateFindings(t *testing.T) {
	for language, file := range map[schemas.Type]string{schemas.JSON: "json/*/new.json", schemas.Avro: "avro/*/new.avsc"} {
		paths, err := filepath.Glob("testdata/" + file)
		if err != nil || len(paths) == 0 {
			t.Fatalf("no test data: %v", err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(filepath.Join(filepath.Dir(path), "findings.json"))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range findingsOf(t, language, raw) {
				at := compat.Checker{}.Locate(language, string(text), f.ReaderPath)
				if at == nil || at.Line < 1 || at.Line > strings.Count(string(text), "\n")+1 {
					t.Errorf("%s: %s is at %v", path, f.ReaderPath, at)
				}
			}
		}
	}
}

func findingsOf(t *testing.T, language schemas.Type, raw []byte) []registry.Finding {
	t.Helper()
	var list []registry.Finding
	var err error
	if language == schemas.JSON {
		var all jsonFindings
		err = json.Unmarshal(raw, &all)
		list = all.Strict
	} else {
		err = json.Unmarshal(raw, &list)
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}
