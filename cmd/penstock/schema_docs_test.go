package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The commands of docs/schema-changes.md print what it shows.
func TestSchemaChangesGuide(t *testing.T) {
	guide, err := os.ReadFile("../../docs/schema-changes.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(string(guide), -1)
	var script, files strings.Builder
	script.WriteString("exec penstock registry --listen $REGISTRY --store memory: &registry&\nready http://$REGISTRY/readyz empty\nenv PENSTOCK_REGISTRY=http://$REGISTRY\n")
	files.WriteString("-- empty --\n")
	commands := 0
	for _, b := range blocks {
		for _, part := range strings.Split("\n"+b[1], "\n$ ")[1:] {
			command, output, _ := strings.Cut(part, "\n")
			command, into, _ := strings.Cut(command, " > ")
			verb := "exec"
			if strings.HasPrefix(output, "ERR ") || strings.Contains(output, "\n0 of 40 events fit") {
				verb = "exits 1"
			}
			fmt.Fprintf(&script, "%s %s\n", verb, command)
			switch {
			case into != "":
				fmt.Fprintf(&script, "cp stdout %s\n", into)
			case output == "":
				script.WriteString("! stdout .\n")
			default:
				commands++
				fmt.Fprintf(&script, "cmp stdout want%d\n", commands)
				fmt.Fprintf(&files, "-- want%d --\n%s\n", commands, strings.TrimSuffix(output, "\n"))
			}
		}
	}
	if commands < 8 {
		t.Fatalf("the guide shows the output of %d commands: does this test still see them?", commands)
	}
	script.WriteString("kill -INT registry\nwait registry\n")
	file := filepath.Join(t.TempDir(), "guide.txtar")
	if err := os.WriteFile(file, []byte(script.String()+files.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Files: []string{file},
		Setup: func(env *testscript.Env) error {
			env.Setenv("REGISTRY", freeAddr(t))
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"ready": ready, "exits": exits},
	})
}
