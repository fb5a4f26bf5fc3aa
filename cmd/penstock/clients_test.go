package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"penstock/servertest"
)

// Sessions of other people's registry clients, in their own languages, with a
// registry as the command line serves it.
func TestForeignClients(t *testing.T) {
	t.Run("python", func(t *testing.T) {
		session(t, servertest.Python(t), "", "session.py")
	})
	t.Run("javascript", func(t *testing.T) {
		node, err := exec.LookPath("node")
		folder := servertest.Node(t)
		if err != nil {
			t.Fatal(err)
		}
		session(t, node, folder, "session.mjs")
	})
}

// session runs a script of testdata/clients with the URL of a fresh registry. A
// script that imports from a folder is run there.
func session(t *testing.T, interpreter, folder, script string) {
	url := memoryRegistry(t)
	text, err := os.ReadFile(filepath.Join("testdata", "clients", script))
	if err != nil {
		t.Fatal(err)
	}
	if folder == "" {
		folder = t.TempDir()
	}
	// Node finds modules from where a script lies.
	at := filepath.Join(folder, fmt.Sprintf("%d-%s", os.Getpid(), script))
	if err := os.WriteFile(at, text, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(at); err != nil {
			t.Error(err)
		}
	})
	cmd := exec.CommandContext(t.Context(), interpreter, at, url)
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "checks passed") {
		t.Errorf("%s: %v\n%s", script, err, out)
	}
	t.Logf("%s", out)
}
