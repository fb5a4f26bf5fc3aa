package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"penstock/servertest"
)

// trainingBrokers give the URLs of brokers for trainings; empty is that of 'penstock up'.
var trainingBrokers = map[string]func(testing.TB) string{
	"embedded": func(testing.TB) string { return "" },
	"Kafka":    func(t testing.TB) string { return "kafka://" + servertest.Kafka(t) },
}

// newTraining starts the servers in a folder of its own, until the test ends, and
// returns what makes commands about a training whose name begins with prefix.
func newTraining(t *testing.T, prefix, broker string) (c *crashed, federated func(args ...string) *exec.Cmd) {
	t.Helper()
	// Not t.Context, which ends before the servers are stopped.
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	c = &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t), gateway: freeAddr(t)}
	training := prefix + "-" + servertest.Name(t)
	var on []string
	if broker != "" {
		on = []string{"--broker", broker}
	}
	up := c.up()
	t.Cleanup(func() { kill(t, up) })
	return c, func(args ...string) *exec.Cmd {
		return c.command(append(append([]string{"federated", args[0], training}, on...), args[1:]...)...)
	}
}

// The aggregator is killed with SIGKILL as soon as each stage's list is on the
// log, and one of four clients for good once it has trained. The others finish
// the training.
func TestSecureKills(t *testing.T) {
	for name, broker := range trainingBrokers {
		t.Run(name, func(t *testing.T) {
			c, federated := newTraining(t, "lab", broker(t))
			c.done("federated", "keys", "keys", "--names", "ann,bob,cyd,dan")
			var clients []*exec.Cmd
			for i, name := range []string{"ann", "bob", "cyd"} {
				client := federated("join", "--name", name, "--share", string('1'+rune(i))+"/4", "--secure", "keys")
				if err := client.Start(); err != nil {
					t.Fatal(err)
				}
				clients = append(clients, client)
			}
			dan := make(chan struct{})
			go func() {
				defer close(dan)
				until(t, federated("join", "--name", "dan", "--share", "4/4", "--secure", "keys"), "trained on")
			}()
			server := func() *exec.Cmd {
				return federated("aggregate", "--sample", "digits", "--clients", "ann,bob,cyd,dan", "--rounds", "2", "--patience", "3s", "--secure", "keys")
			}
			kills := 0
			for _, stage := range []string{": open", ": roster", ": shared", ": survived", ": agreed"} {
				if until(t, server(), stage) {
					kills++
				}
			}
			if out, err := server().CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			<-dan
			for _, client := range clients {
				if err := client.Wait(); err != nil {
					t.Errorf("a client: %v", err)
				}
			}
			out, err := federated("history", "-o", "json").Output()
			if err != nil {
				t.Fatal(err)
			}
			rounds := 0
			for line := range strings.Lines(string(out)) {
				var row modelRow
				if err := json.Unmarshal([]byte(line), &row); err != nil {
					t.Fatal(err)
				}
				if row.Round > 0 && row.Updates < 3 {
					t.Errorf("round %d is of %d updates", row.Round, row.Updates)
				}
				if rounds++; row.Round == 2 && (row.Accuracy == nil || *row.Accuracy < 0.85) {
					t.Errorf("the last model: %s", line)
				}
			}
			if rounds != 3 || kills < 3 {
				t.Errorf("%d models, want 3; %d kills, want at least 3", rounds, kills)
			}
		})
	}
}

// until runs a command until it writes a line with text to its standard error,
// and then kills it. It says whether it came to that.
func until(t *testing.T, cmd *exec.Cmd, text string) bool {
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Error(err)
		return false
	}
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return false
	}
	lines, seen := bufio.NewScanner(stderr), false
	for !seen && lines.Scan() {
		seen = strings.Contains(lines.Text(), text)
	}
	if seen {
		_ = cmd.Process.Kill() // it may have come to its end
	}
	_ = cmd.Wait()
	return seen
}

func TestBenchSecure(t *testing.T) {
	out := call(t, "bench", "federated", "--secure", "5", "--parameters", "300", "-o", "json")
	var row secureFigure
	if err := json.Unmarshal([]byte(out), &row); err != nil || row.Clients != 5 || row.Dropped != 1 || row.Seconds <= 0 || row.Sent < 1200 {
		t.Errorf("%v: %s", err, out)
	}
}
