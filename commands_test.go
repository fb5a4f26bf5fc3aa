package penstock

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// Every command line of ours that a document or a stack shows is one that the
// program understands.
func TestCommandsShown(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	program := filepath.Join(t.TempDir(), "penstock")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/penstock")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build has built it
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}

	fewest := map[string]int{"README.md": 10, "compose/kafka.yaml": 3, "compose/nats.yaml": 3, "docs/amqp.md": 6, "docs/diffing.md": 7, "docs/benchmarks.md": 3, "docs/microbatching.md": 11, "docs/federated.md": 10, "docs/mqtt.md": 9, "docs/outbox.md": 6, "docs/gateway.md": 3, "docs/producing.md": 11, "docs/registry.md": 9, "docs/security.md": 7}
	for file, atLeast := range fewest {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		commands := shown(string(text))
		if filepath.Ext(file) == ".yaml" {
			commands = append(commands, configured(t, text)...)
		}
		if len(commands) < atLeast {
			t.Errorf("%s shows %d commands, fewer than there were: does this test still see them?", file, len(commands))
		}
		for _, args := range commands {
			// --help reads the whole line, refuses what it does not know, and
			// does nothing.
			out, err := exec.CommandContext(ctx, program, append(args, "--help")...).CombinedOutput()
			if err != nil {
				t.Errorf("%s: penstock %s: %v\n%s", file, strings.Join(args, " "), err, out)
			}
		}
	}
}

// shown returns the arguments of each command of ours that stands on a line of
// its own, of comments in YAML and of indented or fenced text in Markdown.
func shown(text string) [][]string {
	text = regexp.MustCompile(`\\\n[# ]*`).ReplaceAllString(text, " ")
	line := regexp.MustCompile(`(?m)^(?:#  +|    )?(?:\./|go run \./cmd/)?penstock +([a-z].*)$`)
	var commands [][]string
	for _, m := range line.FindAllStringSubmatch(text, -1) {
		command, _, _ := strings.Cut(m[1], "  #")
		command, _, _ = strings.Cut(command, "   ") // a remark in a column
		command = strings.NewReplacer("[", "", "]", "").Replace(command)
		commands = append(commands, strings.Fields(command))
	}
	return commands
}

// configured returns the command and the health check of the service penstock.
func configured(t *testing.T, text []byte) [][]string {
	t.Helper()
	var stack struct {
		Services struct {
			Penstock struct {
				Command     []string
				HealthCheck struct{ Test []string }
			}
		}
	}
	if err := yaml.Unmarshal(text, &stack); err != nil {
		t.Fatal(err)
	}
	p := stack.Services.Penstock
	if len(p.Command) == 0 || len(p.HealthCheck.Test) < 3 {
		t.Fatalf("got command %q and health check %q", p.Command, p.HealthCheck.Test)
	}
	return [][]string{p.Command, p.HealthCheck.Test[2:]} // after CMD and /penstock
}

func TestShown(t *testing.T) {
	got := shown("```\n./penstock up    # all of it\n```\n# Penstock here\n#   penstock produce t \\\n#       --sample flights [-n N]\nthe penstock is a gate\n")
	want := "up|produce t --sample flights -n N"
	var lines []string
	for _, args := range got {
		lines = append(lines, strings.Join(args, " "))
	}
	if s := strings.Join(lines, "|"); s != want {
		t.Errorf("got %q, want %q", s, want)
	}
}
