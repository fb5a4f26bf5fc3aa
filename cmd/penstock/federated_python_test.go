package main

import (
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"penstock/servertest"
)

// Two clients in Go and two in Python add up what nobody sees. One in Python goes away
// for good once its shares are dealt, and the others take its masks off; the other one
// is killed at the same point, and goes on with the shares that it dealt before.
func TestSecurePythonKills(t *testing.T) {
	const script = `
import sys, threading
from penstock.secure import SecureTraining

def train(model):
    print("training", file=sys.stderr, flush=True)
    if sys.argv[2] == "hang":
        threading.Event().wait()
    return {name: array + 0.25 for name, array in model.parameters.items()}, 100

with SecureTraining("lab", sys.argv[1], "keys", "embedded:penstock-data") as training:
    training.run(train)
`
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	c := &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t), gateway: freeAddr(t)}
	up := c.up()
	defer kill(t, up)
	python := func(name, how string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, servertest.Python(t), "-c", script, name, how)
		cmd.Dir, cmd.Env = c.dir, append(cmd.Environ(), "PYTHONPATH="+filepath.Join(root, "clients/python"), "PYTHONDONTWRITEBYTECODE=1")
		return cmd
	}
	c.done("federated", "keys", "keys", "--names", "ann,bob,cyd,dan")
	var clients []*exec.Cmd
	for i, name := range []string{"ann", "bob"} {
		client := c.command("federated", "join", "lab", "--name", name, "--share", string('1'+rune(i))+"/2", "--secure", "keys")
		if err := client.Start(); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, client)
	}
	gone := make(chan bool)
	for _, name := range []string{"cyd", "dan"} {
		go func() { gone <- until(t, python(name, "hang"), "training") }()
	}
	aggregator := c.command("federated", "aggregate", "lab", "--sample", "digits", "--clients", "ann,bob,cyd,dan", "--rounds", "1", "--patience", "3s", "--secure", "keys")
	if err := aggregator.Start(); err != nil {
		t.Fatal(err)
	}
	if first, second := <-gone, <-gone; !first || !second {
		t.Error("a client in Python did not come to train")
	}
	again := python("cyd", "go on")
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range append(clients, aggregator, again) {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%q: %v", cmd.Args, err)
		}
	}
	out, err := c.command("federated", "status", "lab", "-o", "json").Output()
	var row modelRow
	if err := json.Unmarshal(out, &row); err != nil {
		t.Fatal(err)
	}
	// The two in Python move all parameters alike, which changes no answer.
	if err != nil || row.Round != 1 || row.Updates != 3 || row.Accuracy == nil || *row.Accuracy < 0.8 {
		t.Errorf("%v: %s", err, out)
	}
}
