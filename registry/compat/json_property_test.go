package compat_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/schemas"
	"penstock/schemas/jsonschema"
)

// jsonMaker draws JSON Schemas of the part of the language in which the rules
// promise that data can be read. It leaves out what they do not compare
// (format, contains, propertyNames, if, the contents of patternProperties), and
// what they take for compatible though data may not fit: oneOf, in which a
// wider member may meet another, not, and allOf, of which more members on both
// sides are matched one by one.
type jsonMaker struct {
	*rapid.T
	depth int
	// steps counts the properties and items on the way from the root: without
	// one, a reference to the root says nothing that ends.
	steps int
}

func (m *jsonMaker) below(label string) any {
	m.steps++
	defer func() { m.steps-- }()
	return m.schema(label)
}

func (m *jsonMaker) pick(label string, from ...string) string {
	return rapid.SampledFrom(from).Draw(m.T, label)
}

func (m *jsonMaker) chance(label string) bool { return rapid.IntRange(0, 3).Draw(m.T, label) == 0 }

func (m *jsonMaker) schema(label string) any {
	kinds := []string{"string", "number", "integer", "boolean", "null", "empty", "list", "enum", "const"}
	if m.depth < 3 {
		kinds = append(kinds, "object", "object", "object", "array", "anyOf")
	}
	if m.steps > 0 {
		kinds = append(kinds, "reference")
	}
	m.depth++
	defer func() { m.depth-- }()
	s := map[string]any{}
	switch kind := m.pick(label, kinds...); kind {
	case "empty":
		return rapid.SampledFrom([]any{true, map[string]any{}}).Draw(m.T, "any")
	case "reference":
		s["$ref"] = "#"
	case "enum":
		s["enum"] = rapid.SliceOfNDistinct(rapid.SampledFrom([]any{"a", "bb", 1, 2, true, nil}), 1, 3, func(v any) string { return fmt.Sprint(v) }).Draw(m.T, "values")
	case "const":
		s["const"] = rapid.SampledFrom([]any{"a", 1, nil}).Draw(m.T, "value")
	case "list":
		s["type"] = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"string", "integer", "number", "null"}), 1, 3, rapid.ID[string]).Draw(m.T, "types")
		m.bound(s, "maxLength", "minLength", "maximum")
	case "anyOf":
		members := make([]any, rapid.IntRange(1, 3).Draw(m.T, "members"))
		for i := range members {
			members[i] = m.schema("member")
		}
		s["anyOf"] = members
	case "array":
		s["type"] = kind
		m.bound(s, "maxItems", "minItems")
		if m.chance("unique") {
			s["uniqueItems"] = true
		}
		switch m.pick("items", "none", "all", "positions", "positions") {
		case "all":
			s["items"] = m.below("items")
		case "positions":
			items := make([]any, rapid.IntRange(1, 2).Draw(m.T, "positions"))
			for i := range items {
				items[i] = m.below("item")
			}
			s["items"] = items
			m.rest(s, "additionalItems")
		}
	case "object":
		s["type"] = kind
		m.bound(s, "maxProperties", "minProperties")
		properties := map[string]any{}
		var required []string
		for _, name := range []string{"p", "q", "r"} {
			if rapid.Bool().Draw(m.T, name) {
				properties[name] = m.below(name)
				if m.chance("required") {
					required = append(required, name)
				}
			}
		}
		s["properties"] = properties
		if required != nil {
			s["required"] = required
		}
		m.rest(s, "additionalProperties")
		if m.chance("dependency") {
			s["dependencies"] = map[string]any{"p": []string{m.pick("on", "q", "r")}}
		}
	default:
		s["type"] = kind
		m.bound(s, "maxLength", "minLength", "maximum", "minimum", "exclusiveMaximum", "multipleOf")
	}
	return s
}

func (m *jsonMaker) bound(s map[string]any, words ...string) {
	if m.chance("bound") {
		s[m.pick("keyword", words...)] = rapid.IntRange(1, 3).Draw(m.T, "limit")
	}
}

func (m *jsonMaker) rest(s map[string]any, word string) {
	switch m.pick(word, "absent", "false", "schema") {
	case "false":
		s[word] = false
	case "schema":
		s[word] = m.below(word)
	}
}

// changed returns a schema that differs from v in few places.
func (m *jsonMaker) changed(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if m.chance("anew") && m.depth > 0 {
			return m.schema("changed")
		}
		out := map[string]any{}
		for _, word := range sortedKeys(v) {
			out[word] = v[word]
			switch inner := v[word].(type) {
			case map[string]any, []any:
				m.depth++
				if word != "anyOf" {
					m.steps++
				}
				if properties, ok := inner.(map[string]any); ok && word == "properties" {
					fields := map[string]any{}
					for _, name := range sortedKeys(properties) {
						if !m.chance("drop a field") {
							fields[name] = m.changed(properties[name])
						}
					}
					out[word] = fields
				} else if word != "enum" && word != "dependencies" {
					out[word] = m.changed(inner)
				}
				if word != "anyOf" {
					m.steps--
				}
				m.depth--
			case int:
				if m.chance("limit changes") && word != "const" {
					out[word] = rapid.IntRange(1, 3).Draw(m.T, "limit")
				}
			}
			if m.chance("drop") && word != "type" && word != "$ref" && word != "items" {
				delete(out, word)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = m.changed(v[i])
		}
		return out
	}
	return v
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// value draws data that often fits a schema s, or something like it.
func (m *jsonMaker) value(s any, root any, depth int) any {
	words, _ := s.(map[string]any)
	if words == nil || depth > 5 || rapid.IntRange(0, 9).Draw(m.T, "wild") == 0 {
		return rapid.SampledFrom([]any{"", "a", "bb", "cccc", 0, 1, 2, 6, 1.5, true, nil, []any{}, []any{"a"}, map[string]any{}, map[string]any{"p": 1}}).Draw(m.T, "value")
	}
	if words["$ref"] != nil {
		return m.value(root, root, depth+1)
	}
	if v, ok := words["const"]; ok {
		return v
	}
	if values, ok := words["enum"].([]any); ok {
		return rapid.SampledFrom(values).Draw(m.T, "of enum")
	}
	if members, ok := words["anyOf"].([]any); ok {
		return m.value(rapid.SampledFrom(members).Draw(m.T, "of anyOf"), root, depth+1)
	}
	kind, _ := words["type"].(string)
	if list, ok := words["type"].([]string); ok {
		kind = m.pick("of types", list...)
	}
	switch kind {
	case "string":
		return m.pick("string", "", "a", "bb", "ccc")
	case "number":
		return rapid.SampledFrom([]any{0, 1, 2, 3, 1.5, 6}).Draw(m.T, "number")
	case "integer":
		return rapid.IntRange(0, 6).Draw(m.T, "integer")
	case "boolean":
		return true
	case "array":
		items := []any{}
		for i := range rapid.IntRange(0, 3).Draw(m.T, "length") {
			item := words["items"]
			if positions, ok := item.([]any); ok {
				item = words["additionalItems"]
				if i < len(positions) {
					item = positions[i]
				}
			}
			items = append(items, m.value(item, root, depth+1))
		}
		return items
	case "object":
		o := map[string]any{}
		properties, _ := words["properties"].(map[string]any)
		for _, name := range []string{"p", "q", "r", "s"} {
			if rapid.Bool().Draw(m.T, "has") {
				p, ok := properties[name]
				if !ok {
					p = words["additionalProperties"]
				}
				o[name] = m.value(p, root, depth+1)
			}
		}
		return o
	}
	return nil
}

func jsonText(t *rapid.T, v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestJSONSame compares schemas with themselves.
func TestJSONSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &jsonMaker{T: t}
		text := jsonText(t, m.schema("schema"))
		for _, p := range []registry.Policy{registry.PolicyStrict, registry.PolicyLenient} {
			if found, _ := check(t, parseJSON(t, text, nil), parseJSON(t, text, nil), registry.Backward, p); len(found) > 0 {
				t.Errorf("%s against itself: found %+v", text, found[0])
			}
		}
	})
}

// emptyAdded is the rule that does not keep the promise: registries in use ask
// it before they ask whether the property is required.
const emptyAdded = "PROPERTY_WITH_EMPTY_SCHEMA_ADDED_TO_OPEN_CONTENT_MODEL"

// TestJSONPromise draws pairs of schemas and data of the old one. What STRICT
// takes for compatible must read it, in both directions; LENIENT finds the same
// or less wrong.
func TestJSONPromise(t *testing.T) {
	compatible := 0
	rapid.Check(t, func(t *rapid.T) {
		m := &jsonMaker{T: t}
		before := m.schema("old")
		after := m.changed(before)
		old, young := parseJSON(t, jsonText(t, before), nil), parseJSON(t, jsonText(t, after), nil)
		promise := func(reader, writer schemas.Schema, from any, d registry.Direction) {
			found, strict := check(t, reader, writer, d, registry.PolicyStrict)
			_, lenient := check(t, reader, writer, d, registry.PolicyLenient)
			if strict && !lenient {
				t.Errorf("%s reads %s under STRICT, but not under LENIENT", reader.Canonical(), writer.Canonical())
			}
			if !strict || slices.ContainsFunc(found, func(f registry.Finding) bool { return f.Rule == emptyAdded }) {
				return
			}
			for range 5 {
				v := m.value(from, from, 0)
				data, err := writer.AppendEncode(nil, v)
				if err != nil {
					continue // it is not the writer's data
				}
				compatible++
				if _, err := reader.Decode(data); err != nil {
					t.Errorf("%s (%s)\nwas taken to read\n%s\nand refuses %s: %v", reader.Canonical(), d, writer.Canonical(), data, err)
				}
			}
		}
		promise(young, old, before, registry.Backward)
		promise(old, young, after, registry.Forward)
	})
	if compatible == 0 {
		t.Error("no data was read")
	}
}

// TestJSONBounds compares schemas that are large, or have circles in them, and
// looks whether the end is an answer.
func TestJSONBounds(t *testing.T) {
	rules := func(reader, writer string) map[string]int {
		t.Helper()
		found, _ := check(t, parseJSON(t, reader, nil), parseJSON(t, writer, nil), registry.Backward, registry.PolicyStrict)
		count := map[string]int{}
		for _, f := range found {
			count[f.Rule+" "+string(f.Severity)]++
		}
		return count
	}
	list := func(n int, member func(i int) string) string {
		members := make([]string, n)
		for i := range members {
			members[i] = member(i)
		}
		return strings.Join(members, ",")
	}
	anyOf := func(n, limit int) string {
		return `{"anyOf":[` + list(n, func(i int) string { return fmt.Sprintf(`{"maxLength":%d,"title":"%d"}`, limit, i) }) + `]}`
	}
	if got := rules(anyOf(2000, 1), anyOf(2000, 2)); len(got) != 1 || got["TOO_COMPLEX_TO_COMPARE ERR"] != 1 {
		t.Errorf("2,000 alternatives that all changed: found %v", got)
	}
	if got := rules(anyOf(10_000, 1), anyOf(10_000, 1)); len(got) != 0 {
		t.Errorf("20,000 equal alternatives: found %v", got)
	}
	if got := rules(anyOf(300, 1), anyOf(300, 2)); got["COMBINED_TYPE_SUBSCHEMAS_CHANGED ERR"] != 1 {
		t.Errorf("300 alternatives that all changed: found %v", got)
	}

	object := func(n int, typ string) string {
		return `{"type":"object","properties":{` + list(n, func(i int) string { return fmt.Sprintf(`"p%d":{"type":%q}`, i, typ) }) + `}}`
	}
	if got := rules(object(10_000, "string"), object(10_000, "integer")); got["TYPE_CHANGED ERR"] != 1000 || got["MORE_FINDINGS INFO"] != 1 {
		t.Errorf("10,000 broken fields: found %v", got)
	}

	// A name that a pattern cannot be decided for in time.
	bomb := `{"patternProperties":{"^(?=a)(a+)+$":{}},"additionalProperties":false}`
	named := `{"properties":{"` + strings.Repeat("a", 40) + `!":{}},"additionalProperties":false}`
	if got := rules(bomb, named); len(got) != 1 || got["TOO_COMPLEX_TO_COMPARE ERR"] != 1 {
		t.Errorf("a pattern that takes too long: found %v", got)
	}

	// A ring of n schemas that refer to the next one; only a walk through all
	// pairs of two rings sees where they differ.
	ring := func(n int, last string) string {
		return `{"$ref":"#/definitions/d0","definitions":{` + list(n, func(i int) string {
			v := "string"
			if i == n-1 {
				v = last
			}
			return fmt.Sprintf(`"d%d":{"type":"object","properties":{"v":{"type":%q},"next":{"$ref":"#/definitions/d%d"}}}`, i, v, (i+1)%n)
		}) + `}}`
	}
	if got := rules(ring(11, "string"), ring(7, "integer")); got["TYPE_CHANGED ERR"] != 11 {
		t.Errorf("two rings: found %v", got)
	}
	if got := rules(ring(101, "string"), ring(99, "string")); got["TOO_COMPLEX_TO_COMPARE ERR"] != 1 {
		t.Errorf("two long rings: found %v", got)
	}

	// Every property of a level leads to the level below, in two ways, so that
	// there are 2^30 places of one difference.
	levels := func(typ string) string {
		return `{"$ref":"#/definitions/d0","definitions":{` + list(30, func(i int) string {
			return fmt.Sprintf(`"d%d":{"properties":{"a":{"$ref":"#/definitions/d%d"},"b":{"$ref":"#/definitions/d%d"}}}`, i, i+1, i+1)
		}) + fmt.Sprintf(`,"d30":{"type":%q}}}`, typ)
	}
	if got := rules(levels("string"), levels("integer")); got["TYPE_CHANGED ERR"] != 1000 || got["MORE_FINDINGS INFO"] != 1 {
		t.Errorf("2^30 places: found %v", got)
	}
}

// FuzzJSON compares whatever parses.
func FuzzJSON(f *testing.F) {
	f.Add(`{"type":["string","null"],"enum":["a"]}`, `{"$ref":"#/definitions/x","definitions":{"x":{"anyOf":[{},false,{"$ref":"#"}]}}}`)
	f.Add(`{"$schema":"https://json-schema.org/draft/2020-12/schema","prefixItems":[true],"items":false,"unevaluatedItems":{}}`, `{"items":[{}],"additionalItems":{"not":{}},"contains":{}}`)
	f.Add(`{"properties":{"a/b":{}},"required":["a/b"],"patternProperties":{"^(?!x)":{}},"dependencies":{"a":["b"],"c":{}}}`, `{"additionalProperties":{"$ref":"#"},"minProperties":1}`)
	f.Add(`{"$schema":"http://json-schema.org/draft-04/schema#","id":"http://a/b","exclusiveMaximum":true,"maximum":1e400}`, `{"const":null,"multipleOf":0.1,"if":{},"$id":"#x"}`)
	f.Fuzz(func(t *testing.T, one, other string) {
		a, err1 := jsonschema.Format{}.Parse(one, nil)
		b, err2 := jsonschema.Format{}.Parse(other, nil)
		if err1 != nil || err2 != nil {
			return
		}
		for _, p := range []registry.Policy{registry.PolicyStrict, registry.PolicyLenient} {
			found, _ := check(t, a, b, registry.Backward, p)
			for _, f := range found {
				if !strings.HasPrefix(f.ReaderPath, "#/") || !strings.HasPrefix(f.WriterPath, "#/") || f.Message == "" {
					t.Errorf("%+v is not filled in", f)
				}
				compat.Checker{}.Locate(schemas.JSON, one, f.ReaderPath)
			}
		}
		if found, ok := check(t, a, a, registry.Backward, ""); !ok && found[0].Rule != "TOO_COMPLEX_TO_COMPARE" {
			t.Errorf("%s against itself: found %+v", one, found)
		}
	})
}
