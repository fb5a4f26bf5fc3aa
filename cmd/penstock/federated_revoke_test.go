package main

import (
	"bufio"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// A round that waits for a client goes on when that is revoked: the aggregator reads
// the round's updates again, and the others' count without being sent again.
func TestRevokedWhileARoundWaits(t *testing.T) {
	for name, broker := range trainingBrokers {
		t.Run(name, func(t *testing.T) {
			c, federated := newTraining(t, "revoke", broker(t))
			run := func(cmd *exec.Cmd) string {
				t.Helper()
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%q: %v: %s", cmd.Args, err, out)
				}
				return string(out)
			}
			run(c.command("federated", "keys", "keys", "--names", "ann,bob,cyd,dan"))
			run(federated("enrol", "--keys", "keys", "--names", "ann,bob,cyd"))
			clients := []*exec.Cmd{
				federated("aggregate", "--sample", "digits", "--rounds", "2", "--keys", "keys"),
				federated("join", "--name", "ann", "--share", "1/2", "--keys", "keys"),
				federated("join", "--name", "bob", "--share", "2/2", "--keys", "keys"),
			}
			for i, cmd := range clients {
				started(t, cmd, []string{"model of round 0 of 2", "round 0 of 2: trained", "round 0 of 2: trained"}[i])
			}
			if !until(t, federated("join", "--name", "dan", "--share", "1/2", "--keys", "keys"), "round 0 of 2: dan is not enrolled for it") {
				t.Error("a client that is not enrolled does not say so")
			}
			// cyd is never heard of.
			run(federated("revoke", "--keys", "keys", "--names", "cyd", "--reason", "silent"))
			for _, cmd := range clients {
				if err := cmd.Wait(); err != nil {
					t.Fatalf("%q: %v", cmd.Args, err)
				}
			}
			if out := run(federated("history")); !strings.Contains(out, "  attempt 2 at its round: revoked, or with another key: cyd") {
				t.Error(out)
			}
			if out := run(federated("verify", "--keys", "keys")); !strings.HasPrefix(out, "3 models are what their 4 updates make") {
				t.Error(out)
			}
		})
	}
}

// started starts a command, and waits for a line with text on its standard error.
func started(t *testing.T, cmd *exec.Cmd, text string) {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if strings.Contains(lines.Text(), text) {
			go func() { _, _ = io.Copy(io.Discard, stderr) }() // it ends with the command
			return
		}
	}
	t.Fatalf("%q ended without %q", cmd.Args, text)
}
