package compat_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
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
	delete(unseen, "TOO_LARGE_TO_COMPARE") // TestAvroBounds has it
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			before, after := parse(t, read(t, dir, "old.avsc")), parse(t, read(t, dir, "new.avsc"))
			checkFindings(t, dir, before, after, unseen)
		})
	}
	for name := range unseen {
		t.Errorf("no folder of testdata/avro has the rule %s", name)
	}
}

// TestAvroBounds compares unions of records that all have one name, and fit none
// of the others but the last that is tried.
func TestAvroBounds(t *testing.T) {
	union := func(n int, forward bool) schemas.Schema {
		branches := make([]string, n)
		for i := range branches {
			at := i
			if !forward {
				at = n - 1 - i
			}
			branches[at] = fmt.Sprintf(`{"type":"record","name":"n%d.R","fields":[{"name":"f%d","type":"int"}]}`, i, i)
		}
		return parse(t, "["+strings.Join(branches, ",")+"]")
	}
	for n, want := range map[int]string{400: "", 1600: "TOO_LARGE_TO_COMPARE"} {
		found, compatible := check(t, union(n, true), union(n, false), registry.Backward, registry.PolicyStrict)
		rule := ""
		if len(found) > 0 {
			rule = found[0].Rule
		}
		if len(found) > 1 || rule != want || compatible != (want == "") {
			t.Errorf("two unions of %d records: found %.300v", n, found)
		}
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// checkFindings compares two schemas in both directions and expects exactly
// the findings in the folder's findings.json. It takes the rules that it meets
// out of unseen.
func checkFindings(t *testing.T, dir string, before, after schemas.Schema, unseen map[string]bool) {
	t.Helper()
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
	if diff := cmp.Diff(read(t, dir, "findings.json"), got.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLanguages(t *testing.T) {
	a, unknown := parse(t, `"int"`), typed{parse(t, `"int"`), "OTHER"}
	if _, err := (compat.Checker{}).Check(unknown, unknown, registry.Backward, registry.PolicyStrict); !errors.Is(err, registry.ErrNoRules) {
		t.Errorf("a language without rules: got %v, want ErrNoRules", err)
	}
	for _, typ := range []schemas.Type{schemas.JSON, schemas.Protobuf, "OTHER"} {
		if _, err := (compat.Checker{}).Check(a, typed{a, typ}, registry.Backward, registry.PolicyStrict); err == nil || errors.Is(err, registry.ErrNoRules) {
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
	for _, typ := range []schemas.Type{schemas.Avro, schemas.JSON, schemas.Protobuf} {
		seen := map[string]bool{}
		for _, rule := range compat.Rules(typ) {
			if rule.Name == "" || seen[rule.Name] || rule.Severity == "" || !strings.HasSuffix(rule.Purpose, ".") {
				t.Errorf("rule %+v is not filled in, or there twice", rule)
			}
			seen[rule.Name] = true
		}
	}
}
