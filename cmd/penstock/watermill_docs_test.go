package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The program of docs/watermill.md says of its two orders what the guide says.
func TestWatermillGuide(t *testing.T) {
	text, err := os.ReadFile("../../docs/watermill.md")
	if err != nil {
		t.Fatal(err)
	}
	url, dir := memoryRegistry(t), t.TempDir()
	guide := strings.ReplaceAll(string(text), "http://127.0.0.1:8081", url)
	for language, name := range map[string]string{"json": "order.avsc", "go": "orders.go"} {
		_, block, _ := strings.Cut(guide, "```"+language+"\n")
		block, _, ok := strings.Cut(block, "```")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(block), 0o600); err != nil || !ok {
			t.Fatal(ok, err)
		}
	}
	call(t, "schema", "register", filepath.Join(dir, "order.avsc"), "--subject", "orders-value", "--registry", url)
	out, err := exec.CommandContext(t.Context(), "go", "run", filepath.Join(dir, "orders.go")).CombinedOutput()
	if err != nil || !regexp.MustCompile(`(?s)^publish to topic "orders": .*amuont.*"amount".*\npassed: 00000000[0-9a-f]{2}066f2d310{12}2240\n$`).Match(out) {
		t.Errorf("%v: %s", err, out)
	}
}
