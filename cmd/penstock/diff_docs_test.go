package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The commands of docs/diffing.md do what it says.
func TestDiffingGuide(t *testing.T) {
	guide, err := os.ReadFile("../../docs/diffing.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile(`(?m)^    penstock (.*)$`).FindAllStringSubmatch(string(guide), -1)
	at := []string{"--broker", "embedded:" + t.TempDir(), "--registry", memoryRegistry(t)}
	state := []string{"--state", t.TempDir()}
	outputs := map[string]string{}
	for _, c := range commands {
		args := append(strings.Fields(c[1]), at...)
		if strings.HasPrefix(c[1], "consume diff") {
			args = append(args, state...)
		}
		outputs[c[1]] = call(t, args...)
	}
	events := func(topic string) int {
		return strings.Count(call(t, append([]string{"consume", "tail", topic, "--until", "end"}, at...)...), "\n")
	}
	all, rain, mild := events("weather.changes"), events("rain.changes"), events("mild.changes")
	if len(commands) != 7 || all != 600 || rain < 4 || rain > 300 || mild <= rain || mild > 600 {
		t.Errorf("of %d commands: %d events, %d of rain, %d of mild weather", len(commands), all, rain, mild)
	}
	if out := outputs["consume diff --compare weather copy"]; !strings.Contains(out, "3 the same, 0 missing") {
		t.Errorf("the comparison says %s", out)
	}
}
