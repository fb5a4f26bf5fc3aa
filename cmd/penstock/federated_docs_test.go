package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"penstock/servertest"
)

// The commands with which docs/federated.md begins train a model, with clients in Go
// and with one in Python in the place of bob.
func TestFederatedGuide(t *testing.T) {
	guide, err := os.ReadFile("../../docs/federated.md")
	if err != nil {
		t.Fatal(err)
	}
	_, first, _ := strings.Cut(string(guide), "## Try it")
	first, rest, _ := strings.Cut(first, "\n## ")
	command := regexp.MustCompile(`(?m)^    (penstock .*)$`)
	clients := map[string]string{"Go": "", "Python": ""}
	if m := regexp.MustCompile(`(?m)^    (python clients/python/examples/digits.py .*)$`).FindStringSubmatch(rest); m != nil {
		clients["Python"] = m[1]
	} else {
		t.Fatal("the guide shows no client in Python")
	}
	for language, bob := range clients {
		t.Run(language, func(t *testing.T) {
			root, err := filepath.Abs("../..")
			if err != nil {
				t.Fatal(err)
			}
			python := "none"
			if bob != "" {
				python = servertest.Python(t)
			}
			var script, waits strings.Builder
			commands, background := 0, 0
			for _, m := range command.FindAllStringSubmatch(first, -1) {
				line := m[1]
				commands++
				if line == "penstock up" {
					script.WriteString("exec penstock up --listen $REGISTRY --gateway $GATEWAY &up&\nawait penstock-data/server.json $REGISTRY\n")
					continue
				}
				if bob != "" && strings.Contains(line, "join") && strings.Contains(line, "--name bob") {
					line = "$PYTHON " + strings.Replace(strings.TrimPrefix(bob, "python "), "clients/", "$ROOT/clients/", 1)
				}
				if strings.Contains(line, " aggregate ") || strings.Contains(line, "--name ") {
					background++
					fmt.Fprintf(&script, "exec %s &b%d&\n", line, background)
					fmt.Fprintf(&waits, "wait b%d\n", background)
					continue
				}
				script.WriteString(waits.String()) // they end by themselves
				waits.Reset()
				fmt.Fprintf(&script, "exec %s\nstdout .\n", line)
			}
			if commands != 8 || background != 4 {
				t.Fatalf("the guide begins with %d commands, of which %d end with the training: does this test still see them?", commands, background)
			}
			script.WriteString("exists digits.safetensors\nkill -INT up\nwait up\n")
			file := filepath.Join(t.TempDir(), "guide.txtar")
			if err := os.WriteFile(file, []byte(script.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			testscript.Run(t, testscript.Params{
				Files: []string{file},
				Setup: func(env *testscript.Env) error {
					env.Setenv("PYTHON", python)
					env.Setenv("PYTHONPATH", filepath.Join(root, "clients", "python"))
					env.Setenv("PYTHONDONTWRITEBYTECODE", "1")
					env.Setenv("ROOT", root)
					env.Setenv("REGISTRY", freeAddr(t))
					env.Setenv("GATEWAY", freeAddr(t))
					env.Setenv("HOME", env.WorkDir)
					return nil
				},
				Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"await": await},
			})
		})
	}
}
