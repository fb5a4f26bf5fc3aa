package compat_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/schemas"
	"penstock/schemas/avro"
)

var update = flag.Bool("update", false, "write findings.json anew")

func parse(t interface {
	Helper()
	Fatalf(string, ...any)
}, text string) schemas.Schema {
	t.Helper()
	s, err := avro.Format{}.Parse(text, nil)
	if err != nil {
		t.Fatalf("parse %s: %v", text, err)
	}
	return s
}

// TestAvroRules compares the schemas in each folder of testdata/avro, in both
// directions, with exactly the findings that are written there. Every rule has
// a folder.
func TestAvroRules(t *testing.T) {
	dirs, err := filepath.Glob("testdata/avro/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no folders in testdata: %v", err)
	}
	unseen := map[string]bool{}
	for _, rule := range compat.Rules(schemas.Avro) {
		unseen[rule.Name] = true
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
			before, after := parse(t, read("old.avsc")), parse(t, read("new.avsc"))
			backward, err1 := compat.Checker{}.Check(after, before, registry.Backward, registry.PolicyStrict)
			forward, err2 := compat.Checker{}.Check(before, after, registry.Forward, registry.PolicyStrict)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			all := append(backward, forward...)
			for _, f := range all {
				delete(unseen, f.Rule)
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
		t.Errorf("no folder of testdata/avro has the rule %s", name)
	}
}

func TestLanguages(t *testing.T) {
	a := parse(t, `"int"`)
	for _, typ := range []schemas.Type{schemas.Protobuf} {
		other := typed{a, typ}
		if _, err := (compat.Checker{}).Check(other, other, registry.Backward, registry.PolicyStrict); !errors.Is(err, registry.ErrNoRules) {
			t.Errorf("%s: got %v, want ErrNoRules", typ, err)
		}
		if rules := compat.Rules(typ); rules != nil {
			t.Errorf("%s has rules: %v", typ, rules)
		}
		if _, err := (compat.Checker{}).Check(a, other, registry.Backward, registry.PolicyStrict); err == nil || errors.Is(err, registry.ErrNoRules) {
			t.Errorf("AVRO against %s: got %v", typ, err)
		}
	}
}

type typed struct {
	schemas.Schema
	typ schemas.Type
}

func (t typed) Type() schemas.Type { return t.typ }

func TestRuleTable(t *testing.T) {
	for _, rule := range compat.Rules(schemas.Avro) {
		if rule.Name == "" || rule.Severity == "" || !strings.HasSuffix(rule.Purpose, ".") {
			t.Errorf("rule %+v is not filled in", rule)
		}
	}
}
