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

// The schema and the events that docs/producing.md shows are taken and refused as it
// says.
func TestProducingGuide(t *testing.T) {
	guide, err := os.ReadFile("../../docs/producing.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(guide), "## Constraints in a Protobuf schema\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile(`(?m)(?:^    .*\n)+`).FindAllString(section, -1)
	if !found || len(blocks) != 4 {
		t.Fatalf("the guide has %d blocks on constraints, want a schema, events, a command and an answer", len(blocks))
	}
	for i := range blocks {
		blocks[i] = strings.TrimPrefix(strings.ReplaceAll(blocks[i], "\n    ", "\n"), "    ")
	}
	script := fmt.Sprintf(`exec penstock up --listen $REGISTRY --gateway $GATEWAY &up&
await penstock-data/server.json $REGISTRY
exits 1 %sstdout '^1 published to payments, 1 refused$'
stderr %s
stderr '/id: .*/mail: '
stderr 'due must not be before made'
kill -INT up
wait up
-- payments.proto --
%s-- payments.jsonl --
%s`, blocks[2], "'"+regexp.QuoteMeta(strings.TrimSpace(blocks[3]))+"'", blocks[0], blocks[1])
	file := filepath.Join(t.TempDir(), "guide.txtar")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Files: []string{file},
		Setup: func(env *testscript.Env) error {
			env.Setenv("REGISTRY", freeAddr(t))
			env.Setenv("GATEWAY", freeAddr(t))
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"await": await, "exits": exits},
	})
}
