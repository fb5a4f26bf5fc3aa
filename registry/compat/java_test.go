package compat_test

import (
	"bufio"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/servertest"
)

// TestJavaOracle: findings are those of Apache Avro for Java, in type, place and
// detail, on generated pairs.
//
// They differ by design where a field of the reader matches several of the
// writer's. Java throws, and a registry built on it says that instead of what is
// wrong. Ours has a rule, READER_FIELD_MATCHES_SEVERAL, and goes on; in a union
// such a record is a branch that cannot be read, and another may.
func TestJavaOracle(t *testing.T) {
	ask := oracle(t, servertest.Avro(t))
	counts := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		writer, reader := pair(t, rapid.Bool().Draw(t, "spelled out"), adorn)
		found, err := compat.Checker{}.Check(parse(t, reader), parse(t, writer), registry.Backward, registry.PolicyStrict)
		if err != nil {
			t.Fatal(err)
		}
		answer := ask(writer + "\t" + reader)
		kind, rest, _ := strings.Cut(answer, "\t")
		var theirs, ours []string
		if kind == "checked" && rest != "" {
			kind, theirs = "incompatible", strings.Split(rest, "\t")
		}
		counts[kind]++
		for _, f := range found {
			if f.Severity == registry.SeverityError {
				ours = append(ours, f.Rule+" "+f.ReaderPath+" "+f.Detail)
			}
		}
		switch kind {
		case "refused":
			t.Skip(answer)
		case "failed":
			if !strings.Contains(answer, "multiple fields") {
				t.Errorf("writer %s\nreader %s\n%s\nours: %q", writer, reader, answer, ours)
			}
			return
		}
		slices.Sort(ours)
		slices.Sort(theirs)
		if diff := cmp.Diff(slices.Compact(theirs), slices.Compact(ours)); diff != "" {
			t.Errorf("writer %s\nreader %s\n(-theirs +ours):\n%s", writer, reader, diff)
		}
	})
	t.Logf("answers: %v", counts)
}

// adorn gives a schema what the other oracle cannot be asked about: a
// namespace, and aliases of any name.
func adorn(t *rapid.T, s any) {
	if root, ok := s.(map[string]any); ok && root["name"] != nil {
		if ns := rapid.SampledFrom([]string{"", "", "n", "n.m"}).Draw(t, "namespace"); ns != "" {
			root["namespace"] = ns
		}
	}
	addAliases(t, s)
}

func addAliases(t *rapid.T, s any) {
	switch s := s.(type) {
	case []any:
		for _, b := range s {
			addAliases(t, b)
		}
	case map[string]any:
		if s["name"] != nil && rapid.IntRange(0, 5).Draw(t, "more aliases") == 0 {
			names := []string{"A", "B", "A2", "n.A", "n.B"}
			if s["fields"] == nil && s["size"] == nil && s["symbols"] == nil {
				names = []string{"p", "q", "r"} // a field
			}
			s["aliases"] = rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 2, rapid.ID[string]).Draw(t, "aliases")
		}
		for _, part := range []string{"items", "values", "fields", "type"} {
			addAliases(t, s[part])
		}
	}
}

// oracle starts the Java program and returns a function that asks it.
func oracle(t *testing.T, jars string) func(line string) string {
	t.Helper()
	cmd := exec.Command("java", "-XX:TieredStopAtLevel=1", "-cp", filepath.Join(jars, "*"), "testdata/java/Oracle.java")
	var log strings.Builder
	cmd.Stderr = &log
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // its end
		if err := cmd.Wait(); err != nil {
			t.Errorf("the oracle: %v\n%s", err, log.String())
		}
	})
	lines := bufio.NewReader(out)
	return func(line string) string {
		fmt.Fprintln(in, line)
		answer, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("ask the oracle: %v", err)
		}
		return strings.TrimSuffix(answer, "\n")
	}
}
