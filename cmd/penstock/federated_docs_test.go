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

// The way with which docs/federated.md begins: three clients, two in Go and one in
// Python, train a model, and another one that nobody sees their share of. The sections
// after it say what else a training can be; where they show no clients, those join that
// the aggregator names.
func TestFederatedGuide(t *testing.T) {
	first, _, _ := strings.Cut(guided(t, "From nothing to a private training"), "### The same over Kafka")
	lines, together := commands(first), 8
	named := regexp.MustCompile(`aggregate (\S+) .*--clients (\S+)`)
	for _, title := range []string{"Models and strategies", "When a round ends", "What is refused", "Smaller updates", "Privacy\n"} {
		for _, line := range commands(guided(t, title)) {
			lines = append(lines, line)
			if strings.Contains(line, "--name ") {
				together++
			}
			if m := named.FindStringSubmatch(line); m != nil {
				names := strings.Split(m[2], ",")
				for i, name := range names {
					lines = append(lines, fmt.Sprintf("penstock federated join %s --name %s --share %d/%d", m[1], name, i+1, len(names)))
				}
				together += 1 + len(names)
			}
		}
	}
	runTraining(t, lines, together, `
exists digits.safetensors
exec penstock federated history digits
stdout '^round 5 of 5  model [0-9a-f]{32}  fedavg  3 updates of .* accuracy on digits held back 0\.9'
exec penstock federated status private
stdout '^round 5 of 5  model [0-9a-f]{32}  fedavg  3 updates  accuracy on digits held back 0\.9'
exec penstock federated status robust
stdout '^round 10 of 10  .*  krum:byzantine=1  '
exec penstock federated status hasty
stdout '^round 10 of 10  .*  3 updates '
exec penstock federated status noisy
stdout ' of 4 spent at delta 1e-05 '
`)
}

// Whoever follows the guide in its order makes each training once.
func TestFederatedGuideNames(t *testing.T) {
	seen := map[string]bool{}
	for _, line := range commands(guided(t, "")) {
		if m := regexp.MustCompile(` aggregate (\S+)`).FindStringSubmatch(line); m != nil && seen[m[1]] {
			t.Errorf("%s: there is a training of this name before it", line)
		} else if m != nil {
			seen[m[1]] = true
		}
	}
	if len(seen) < 9 {
		t.Errorf("the guide makes the trainings %v: does this test still see them?", seen)
	}
}

// It goes on over Kafka.
func TestFederatedGuideOnKafka(t *testing.T) {
	all := guided(t, "From nothing to a private training")
	_, last, _ := strings.Cut(all, "### The same over Kafka")
	keys := regexp.MustCompile(`(?m)^    penstock federated keys .*$`).FindString(all)
	name := servertest.Name(t)
	over := strings.NewReplacer("kafka://localhost:9092", "kafka://"+servertest.Kafka(t), "on-kafka", name).Replace(last)
	lines := commands(over)
	runTraining(t, append(lines[:1], append([]string{strings.TrimSpace(keys)}, lines[1:]...)...), 4, `
exec penstock federated status `+name+` --broker kafka://`+servertest.Kafka(t)+`
stdout '^round 5 of 5  model [0-9a-f]{32}  fedavg  3 updates  accuracy on digits held back 0\.9'
`)
}

// runTraining runs commands of the guide, of which the first is penstock up, or penstock
// registry: those of the aggregator and the clients beside one another, until they end by
// themselves, and the others one after the other. Then comes what else is to hold.
func runTraining(t *testing.T, lines []string, together int, then string) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	python := "none"
	script, waits := new(strings.Builder), new(strings.Builder)
	switch {
	case lines[0] == "penstock up":
		script.WriteString("exec penstock up --listen $REGISTRY --gateway $GATEWAY &up&\nawait penstock-data/server.json $REGISTRY\n")
	case strings.HasPrefix(lines[0], "penstock registry "):
		script.WriteString("exec penstock registry --listen $REGISTRY --store memory: &up&\nready http://$REGISTRY/readyz empty\nenv PENSTOCK_REGISTRY=http://$REGISTRY\n")
	default:
		t.Fatalf("%q comes first: does this test still see the commands?", lines[0])
	}
	background := 0
	for _, line := range lines[1:] {
		if args, ok := strings.CutPrefix(line, "python "); ok {
			python = servertest.Python(t)
			line = "$PYTHON " + strings.Replace(args, "clients/", "$ROOT/clients/", 1)
		}
		if strings.Contains(line, " aggregate ") || strings.Contains(line, " shard ") || strings.Contains(line, "--name ") {
			background++
			fmt.Fprintf(script, "exec %s &b%d&\n", line, background)
			fmt.Fprintf(waits, "wait b%d\n", background)
			continue
		}
		script.WriteString(waits.String())
		waits.Reset()
		fmt.Fprintf(script, "exec %s\n", line)
	}
	if background != together {
		t.Fatalf("%d commands that end with the training: does this test still see them?", background)
	}
	script.WriteString(waits.String() + then + "kill -INT up\nwait up\n-- empty --\n")
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
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"await": await, "ready": ready},
	})
}

// guided is a section of the guide, or all of it if the title is empty.
func guided(t *testing.T, title string) string {
	t.Helper()
	guide, err := os.ReadFile("../../docs/federated.md")
	if err != nil {
		t.Fatal(err)
	}
	if title == "" {
		return string(guide)
	}
	_, text, _ := strings.Cut(string(guide), "## "+title)
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

// commands are those of a text that run penstock or a client in Python.
func commands(text string) (lines []string) {
	for _, m := range regexp.MustCompile(`(?m)^    (penstock .*|python clients/.*)$`).FindAllStringSubmatch(text, -1) {
		lines = append(lines, m[1])
	}
	return lines
}

// section are the commands of a section of the guide, behind penstock up.
func section(t *testing.T, title string) []string {
	t.Helper()
	return append([]string{"penstock up"}, commands(guided(t, title))...)
}

// The commands about secure aggregation train a model, with clients in Go and one in Python.
func TestSecureGuide(t *testing.T) {
	runTraining(t, section(t, "Secure aggregation"), 5, `
exec penstock federated status secret
stdout '^round 5 of 5  model [0-9a-f]{32}  fedavg  [34] updates  accuracy on digits held back 0\.9'
`)
}

// So do those about trees, whose last example is of another site.
func TestTreeGuide(t *testing.T) {
	lines := section(t, "Trees")
	if last := lines[len(lines)-1]; strings.Contains(last, "hub.example") {
		lines = lines[:len(lines)-1]
	}
	runTraining(t, lines, 7, `
exec penstock federated status hub
stdout '^round 5 of 5  model [0-9a-f]{32}  fedavg  4 updates by way of 2 edges of '
exec penstock federated audit hub
stdout '^round 4  north  counted  norm '
! exec penstock federated edge hub-north --name south --above hub --clients ann,bob
stderr 'choose another topic'
! exec penstock federated edge hub --name south --clients ann
stderr 'is above itself'
! exec penstock federated edge hub-east --name east --above hub
stderr 'either --clients'
`)
}

// So do those about shards, with one client in Python.
func TestShardGuide(t *testing.T) {
	runTraining(t, section(t, "Shards"), 7, `
exec penstock federated status shared
stdout '^round 5 of 5  model [0-9a-f]{32}  fedavg  4 updates by way of 2 shards of '
exec penstock federated verify shared
stdout '^6 models are what their 20 updates make, to the byte$'
exec penstock federated audit shared
stdout '^round 4  cyd  counted  norm '
! exec penstock federated verify shared.shard-1
stderr 'is a shard'
! exec penstock federated aggregate shared --sample digits --rounds 5 --clients ann,bob,cyd,dan
stderr 'it has 2 shards of 2 partitions, not 0 of 0'
! exec penstock federated shard shared --shard 3/2
stderr 'expected I/N'
! exec penstock federated aggregate sharp --sample digits --clients ann --shards 2 --quorum 1
stderr 'nor a quorum'
! exec penstock federated aggregate sharp --sample digits --clients ann --shards 200
stderr 'from 1 to 64 shards'
`)
}

// So do those about signed updates, with one client in Python; and what is verified
// says so.
func TestSignedGuide(t *testing.T) {
	runTraining(t, append(section(t, "Signed updates"), commands(guided(t, "Who is off"))...), 4, `
exec penstock federated clients lab --keys lab-keys
stdout '^ann  enrolled  ed25519 [0-9a-f]{16}$'
stdout '^bob  revoked  lost$'
exec penstock federated audit lab
stdout '^round 4  cyd  counted  norm [0-9.]+  cosine -?0\.[0-9]+  loss 0\.[0-9]+  score 0\.0$'
stdout '^entry 4  bob  revoke  lost$'
exec penstock federated verify lab
stdout '^6 models are what their 15 updates make, to the byte, each signed by a client that was enrolled by ed25519 '
exec penstock federated keys others --names ann --algorithm ml-dsa-65
! exec penstock federated verify lab --keys others
stderr 'expected clients enrolled by ml-dsa-65 '
! exec penstock federated revoke lab --keys others --names ann
! exec penstock federated revoke lab --keys lab-keys --names bob
stderr 'expected the name of an enrolled client'
! exec penstock federated aggregate lab --sample digits --clients ann,cyd --rounds 5
stderr 'are signed'
! exec penstock federated aggregate lab --sample digits --rounds 5
stderr 'either --clients'
`)
}
