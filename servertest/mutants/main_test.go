//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// patch returns a mutant of a.go in which from became to.
func patch(test, from, to string) string {
	return "# test: " + test + "\n# why: to see what becomes of it\n" + `
diff --git a/a.go b/a.go
--- a/a.go
+++ b/a.go
@@ -1,3 +1,3 @@
 package a

-` + from + "\n+" + to + "\n"
}

func TestRun(t *testing.T) {
	const one = "func one() int { return 1 }"
	const test = "go test . -run TestOne -count=1"
	// A file more, in which the one function of a.go is declared again.
	const added = `# test: go test . -run TestOne
# why: what a mutant adds must be gone after it

diff --git a/b.go b/b.go
new file mode 100644
--- /dev/null
+++ b/b.go
@@ -0,0 +1,3 @@
+package a
+
+func one() int { return 1 }
`
	tree := map[string]string{
		"go.mod":     "module a\n\ngo 1.26.0\n",
		".gitignore": "/.tools/\n",
		"a.go":       "package a\n\n" + one + "\n",
		"a_test.go": `package a

import "testing"

func TestOne(t *testing.T) {
	if one() != 1 {
		t.Error("wrong")
	}
}
func TestNothing(t *testing.T) { one() }
func TestAway(t *testing.T)    { t.Skip() }
func TestBroken(t *testing.T)  { t.Error("wrong") }
`,
		"testdata/mutants/add.patch":     added,
		"testdata/mutants/kill.patch":    patch(test, one, "func one() int { return 2 }"),
		"testdata/mutants/crash.patch":   patch(test, one, `func one() int { panic("no") }`),
		"testdata/mutants/live.patch":    patch("go test . -run TestNothing -count=1", one, "func one() int { return 2 }"),
		"testdata/mutants/compile.patch": patch(test, one, "func one() int { return true }"),
		"testdata/mutants/old.patch":     patch(test, "func two() int { return 2 }", one),
		"testdata/mutants/empty.patch":   patch("go test . -run TestAbsent", one, "func one() int { return 2 }"),
		"testdata/mutants/skip.patch":    patch("go test . -run TestAway", one, "func one() int { return 2 }"),
		"testdata/mutants/broken.patch":  patch("go test . -run TestBroken", one, "func one() int { return 2 }"),
	}
	dir := t.TempDir()
	for name, text := range tree {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("git", "init", "-q", dir).CombinedOutput(); err != nil {
		t.Fatalf("git init: %v\n%s", err, out)
	}
	t.Chdir(dir)

	var out strings.Builder
	err := run(t.Context(), &out, "", 1, time.Minute)
	if err == nil || err.Error() != "7 of 9 mutants were not killed" {
		t.Errorf("error: got %v", err)
	}
	got := regexp.MustCompile(`(?m)^\S.* testdata/mutants/\w+`).FindAllString(out.String(), -1)
	for i, line := range got {
		got[i] = strings.Join(strings.Fields(strings.Replace(line, "testdata/mutants/", "", 1)), " ")
	}
	slices.Sort(got)
	want := []string{
		"DOES NOT APPLY old", "DOES NOT BUILD add", "DOES NOT BUILD compile", "FAILS ANYWAY broken",
		"SKIPPED OR EMPTY empty", "SKIPPED OR EMPTY skip", "SURVIVED live",
		"killed crash", "killed kill",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s\n%s", diff, out.String())
	}

	if err := run(t.Context(), &out, "kill", 1, time.Minute); err != nil {
		t.Errorf("only the killed one: %v", err)
	}
	if err := run(t.Context(), &out, "nothing like it", 1, time.Minute); err == nil {
		t.Error("no mutant at all: got no error")
	}
}
