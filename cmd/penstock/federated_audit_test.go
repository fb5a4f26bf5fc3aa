package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/servertest"
)

// The audit tells what counted from what was refused, and puts those under quarantine who score too much, once for each enrolment.
func TestFederatedAudit(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	c := &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t), gateway: freeAddr(t)}
	up := c.up()
	defer kill(t, up)
	federated := func(verb string, args ...string) *exec.Cmd {
		return c.command(append([]string{"federated", verb, "lab"}, args...)...)
	}
	run := func(cmd *exec.Cmd) string {
		t.Helper()
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, stderr.String())
		}
		return string(out)
	}
	run(c.command("federated", "keys", "keys", "--names", "ann,bob,cyd,dan", "--algorithm", "ml-dsa-65"))
	run(federated("enrol", "--keys", "keys", "--names", "ann,bob,cyd,dan"))
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	forger := exec.CommandContext(ctx, servertest.Python(t), filepath.Join(root, "clients/python/examples/digits.py"),
		"--training", "lab", "--name", "ann", "--broker", "embedded:penstock-data")
	forger.Dir, forger.Env = c.dir, append(forger.Environ(), "PYTHONPATH="+filepath.Join(root, "clients/python"), "PYTHONDONTWRITEBYTECODE=1")
	if err := forger.Start(); err != nil {
		t.Fatal(err)
	}
	aggregator := federated("aggregate", "--sample", "digits", "--rounds", "1", "--keys", "keys")
	stderr, err := aggregator.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := aggregator.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() && !strings.Contains(lines.Text(), "refused: unsigned") {
	}
	kill(t, forger)
	var clients []*exec.Cmd
	for i, name := range []string{"ann", "bob", "cyd", "dan"} {
		client := federated("join", "--name", name, "--share", string('1'+rune(i))+"/4", "--keys", "keys")
		if err := client.Start(); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, client)
	}
	for lines.Scan() { // until it ends
	}
	clients = append(clients, aggregator)
	for _, client := range clients {
		if err := client.Wait(); err != nil {
			t.Errorf("%q: %v", client.Args, err)
		}
	}

	var suspects []string
	decisions := map[string]int{}
	for line := range strings.Lines(run(federated("audit", "-o", "json"))) {
		var row auditRow
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		decisions[row.Decision]++
		switch {
		case row.Decision == "counted" && *row.Score > 0.01:
			suspects = append(suspects, row.Client)
		case row.Decision == "refused" && (row.Client != "ann" || !strings.HasPrefix(row.Reason, "unsigned: ")):
			t.Errorf("refused: %s", line)
		}
	}
	if decisions["counted"] != 4 || decisions["refused"] != 1 || decisions["enrol"] != 4 || len(decisions) != 3 || len(suspects) == 0 {
		t.Fatalf("%v, suspects %q", decisions, suspects)
	}
	under := func() (names []string) {
		t.Helper()
		for line := range strings.Lines(run(federated("clients", "--keys", "keys"))) {
			if name, rest, _ := strings.Cut(line, "  "); strings.HasPrefix(rest, "quarantine  in round 0 its update scores ") {
				names = append(names, name)
			}
		}
		return names
	}
	slices.Sort(suspects)
	quarantine := func() { t.Helper(); run(federated("audit", "--quarantine", "0.01", "--keys", "keys")) }
	quarantine()
	quarantine()
	if got := under(); !slices.Equal(got, suspects) {
		t.Errorf("under quarantine: %q, want %q", got, suspects)
	}
	run(federated("enrol", "--keys", "keys", "--names", suspects[0]))
	quarantine()
	if got := under(); !slices.Equal(got, suspects[1:]) {
		t.Errorf("under quarantine: %q, want %q", got, suspects[1:])
	}
}
