package compat_test

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"penstock/registry/compat"
	"penstock/schemas"
)

// docs/schema-rules.md says what the tables of rules say; with -update it is
// written.
func TestRulesDoc(t *testing.T) {
	const file = "../../docs/schema-rules.md"
	byName := func(a, b compat.Rule) int { return cmp.Compare(a.Name, b.Name) }
	languages := []schemas.Type{schemas.Avro, schemas.JSON, schemas.Protobuf}
	var out strings.Builder
	out.WriteString("# The rules\n\nThis list is made from the tables of `registry/compat` (`go test ./registry/compat -run\nTestRulesDoc -update`).\n\n" +
		"## Changes\n\nWhat `penstock schema diff` and `schema changelog` call a change, in all languages, with\n" +
		"the severity that it has at least: it is ERR where the rules of the language below find\nthat it stops a reader.\n\n" +
		"| change | Avro | JSON Schema | Protobuf | what it is |\n| --- | --- | --- | --- | --- |\n")
	severities := map[string][]string{}
	var changes []compat.Rule
	for _, l := range languages {
		rules := compat.ChangeRules(l)
		slices.SortFunc(rules, byName)
		for _, r := range rules {
			severities[r.Name] = append(severities[r.Name], string(r.Severity))
		}
		changes = rules
	}
	for _, r := range changes {
		fmt.Fprintf(&out, "| %s | %s | %s |\n", r.Name, strings.Join(severities[r.Name], " | "), r.Purpose)
	}
	for i, l := range languages {
		rules := slices.Clone(compat.Rules(l))
		if len(rules) < 9 {
			t.Fatalf("%s has %d rules: does this test still see them?", l, len(rules))
		}
		slices.SortFunc(rules, byName)
		fmt.Fprintf(&out, "\n## %s\n\nWhat `penstock schema check` and the registry find.\n\n| rule | severity | what it is about |\n| --- | --- | --- |\n", []string{"Avro", "JSON Schema", "Protobuf"}[i])
		for _, r := range rules {
			fmt.Fprintf(&out, "| %s | %s | %s |\n", r.Name, r.Severity, strings.ReplaceAll(r.Purpose, "|", "\\|"))
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != out.String() {
		t.Errorf("%s is not what the tables say: run this test with -update", file)
	}
}
