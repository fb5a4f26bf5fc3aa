package compat_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/schemas"
	"penstock/schemas/jsonschema"
)

func parseJSON(t interface {
	Helper()
	Fatalf(string, ...any)
}, text string, refs map[string]string) schemas.Schema {
	t.Helper()
	s, err := jsonschema.Format{}.Parse(text, refs)
	if err != nil {
		t.Fatalf("parse %s: %v", text, err)
	}
	return s
}

// check returns the findings, and whether the writer's data can be read.
func check(t interface {
	Helper()
	Fatalf(string, ...any)
}, reader, writer schemas.Schema, d registry.Direction, p registry.Policy) ([]registry.Finding, bool) {
	t.Helper()
	found, err := compat.Checker{}.Check(reader, writer, d, p)
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	return found, registry.Compatible(found)
}

// jsonFindings is what findings.json holds: the findings of both directions
// under the policy STRICT, and what LENIENT makes of them.
type jsonFindings struct {
	Strict  []registry.Finding          `json:"strict"`
	Lenient map[registry.Direction]bool `json:"compatibleIfLenient"`
}

// TestJSONRules compares the schemas in each folder of testdata/json, in both
// directions, with exactly the findings that are written there. Every rule that
// the walk can find has a folder.
func TestJSONRules(t *testing.T) {
	dirs, err := filepath.Glob("testdata/json/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no folders in testdata: %v", err)
	}
	unseen := map[string]bool{}
	for _, rule := range compat.Rules(schemas.JSON) {
		unseen[rule.Name] = true
	}
	for _, other := range []string{
		// They have names, and nothing finds them.
		"PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL", "RESERVED_PROPERTY_REMOVED", "RESERVED_PROPERTY_CONFLICTS_WITH_PROPERTY",
		// TestJSONBounds finds them.
		"TOO_COMPLEX_TO_COMPARE", "MORE_FINDINGS",
	} {
		if !unseen[other] {
			t.Errorf("there is no rule %s", other)
		}
		delete(unseen, other)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			read := func(name string) string {
				raw, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil && !*update {
					t.Fatal(err)
				}
				return string(raw)
			}
			before, after := parseJSON(t, read("old.json"), nil), parseJSON(t, read("new.json"), nil)
			backward, _ := check(t, after, before, registry.Backward, registry.PolicyStrict)
			forward, _ := check(t, before, after, registry.Forward, registry.PolicyStrict)
			all := jsonFindings{Strict: slices.Concat(backward, forward), Lenient: map[registry.Direction]bool{}}
			_, all.Lenient[registry.Backward] = check(t, after, before, registry.Backward, registry.PolicyLenient)
			_, all.Lenient[registry.Forward] = check(t, before, after, registry.Forward, registry.PolicyLenient)
			for _, f := range all.Strict {
				delete(unseen, f.Rule)
				if f.Message == "" || f.Severity == registry.SeverityError && f.Fix == "" {
					t.Errorf("the finding %+v is not filled in", f)
				}
			}
			var got bytes.Buffer
			e := json.NewEncoder(&got)
			e.SetEscapeHTML(false)
			e.SetIndent("", " ")
			if err := e.Encode(all); err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.WriteFile(filepath.Join(dir, "findings.json"), got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(read("findings.json"), got.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for name := range unseen {
		t.Errorf("no folder of testdata/json has the rule %s", name)
	}
}

// TestJSONTable holds the table against the number of difference types that
// registries in use know, and the verdicts they give.
func TestJSONTable(t *testing.T) {
	seen := map[string]bool{}
	count := map[registry.Severity]int{}
	for _, rule := range compat.Rules(schemas.JSON) {
		if rule.Name == "" || rule.Purpose == "" || rule.Purpose[len(rule.Purpose)-1] != '.' {
			t.Errorf("rule %+v is not filled in", rule)
		}
		if seen[rule.Name] {
			t.Errorf("there are two rules %s", rule.Name)
		}
		seen[rule.Name] = true
		count[rule.Severity]++
	}
	// 132 of them and two of our own; 65 are compatible and MORE_FINDINGS.
	want := map[registry.Severity]int{registry.SeverityInfo: 65 + 1, registry.SeverityError: 9 + 58 + 1}
	if diff := cmp.Diff(want, count); diff != "" {
		t.Errorf("severities (-want +got):\n%s", diff)
	}
}

func TestJSONReferences(t *testing.T) {
	root := `{"$id":"https://example.org/root.json","properties":{"a":{"$ref":"other.json#/definitions/x"},"b":{"$ref":"https://elsewhere.org/y.json"}}}`
	refs := func(kind string) map[string]string {
		return map[string]string{
			"other.json": `{"definitions":{"x":{"type":"` + kind + `"}}}`,
			"y":          `{"$id":"https://elsewhere.org/y.json","$ref":"#/definitions/z","definitions":{"z":{"type":"` + kind + `"}}}`,
		}
	}
	found, ok := check(t, parseJSON(t, root, refs("string")), parseJSON(t, root, refs("string")), registry.Backward, "")
	if len(found) > 0 || !ok {
		t.Errorf("equal references: found %+v", found)
	}
	found, ok = check(t, parseJSON(t, root, refs("string")), parseJSON(t, root, refs("integer")), registry.Backward, "")
	var got []string
	for _, f := range found {
		got = append(got, f.Rule+" "+f.ReaderPath)
	}
	if diff := cmp.Diff([]string{"TYPE_CHANGED #/properties/a", "TYPE_CHANGED #/properties/b"}, got); diff != "" || ok {
		t.Errorf("references with other content (-want +got):\n%s", diff)
	}
}

func TestJSONWithoutText(t *testing.T) {
	other := typed{parse(t, `"int"`), schemas.JSON}
	if _, err := (compat.Checker{}).Check(other, other, registry.Backward, ""); err == nil || errors.Is(err, registry.ErrNoRules) {
		t.Errorf("a schema without text: got %v, want an error of its own", err)
	}
}
