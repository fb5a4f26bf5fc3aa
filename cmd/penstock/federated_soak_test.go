package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"penstock/consumers/federated"
	"penstock/servertest"
)

// The variables with which make soak asks for more.
const (
	soakRounds         = "PENSTOCK_SOAK_ROUNDS"
	soakClients        = "PENSTOCK_SOAK_CLIENTS"
	soakFederatedKills = "PENSTOCK_SOAK_FEDERATED_KILLS"
)

// soakPiece makes several records of each model and update of the digits.
const soakPiece = 700

// Aggregator and clients of a training die by kill -9 at random, and the broker with
// them (if no more is asked for, the broker alone). Each published model is what an independent replay of the log makes, to the
// byte, and close to the mean computed plainly; each client counts once in each round.
// Models and updates take several records, between which deaths fall.
func TestSoakFederatedOnJetStream(t *testing.T) {
	soakFederated(t, "soak", 2, func(*crashed, string) string { return "" })
}

// The same over Kafka, which stays up.
func TestSoakFederatedOnKafka(t *testing.T) {
	seeds := servertest.Kafka(t)
	soakFederated(t, servertest.Name(t), 6, func(_ *crashed, member string) string {
		return fmt.Sprintf("kafka://%s?member=%s", seeds, member)
	})
}

// soakOf is what a variable asks for, or small.
func soakOf(variable string, small int) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil {
		return n
	}
	return small
}

func soakFederated(t *testing.T, name string, few int, broker func(c *crashed, member string) string) {
	rounds, clients := soakOf(soakRounds, 3), soakOf(soakClients, 3)
	kills := soakOf(soakFederatedKills, few)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Duration(rounds+kills)*15*time.Second)
	defer cancel()
	c := &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t), gateway: freeAddr(t)}
	flags := trainingFlags{Training: name}
	flags.Registry, flags.Broker = "http://"+c.listen, broker(c, "reader")
	server := []string{"registry", "--listen", c.listen, "--store", "memory:"}
	embedded := flags.Broker == ""
	all := !embedded || os.Getenv(soakFederatedKills) != "" // whoever follows on JetStream waits for a lease
	if embedded {
		flags.Broker = "embedded:" + filepath.Join(c.dir, "penstock-data")
		server = []string{"up", "--listen", c.listen, "--gateway", c.gateway}
	}
	said := &soakLines{changed: make(chan struct{})}
	live := func(member string, args ...string) *survivor {
		s := &survivor{c: c, said: said, args: args, done: make(chan struct{})}
		if b := broker(c, member); b != "" && member != "server" {
			s.args = append(args, "--broker", b)
		}
		go s.live()
		return s
	}
	up := live("server", server...)
	defer func() {
		cancel()
		<-up.done
	}()
	c.listening(c.listen)
	if embedded {
		c.listening(c.gateway)
	}

	var names []string
	for i := range clients {
		names = append(names, fmt.Sprintf("c%d", i))
	}
	victims := []*survivor{live("aggregator", "federated", "aggregate", name, "--sample", "digits", "--clients", strings.Join(names, ","),
		"--rounds", strconv.Itoa(rounds), "--piece", strconv.Itoa(soakPiece))}
	join := func(i int) {
		victims = append(victims, live(names[i], "federated", "join", name, "--name", names[i], "--share", fmt.Sprintf("%d/%d", i+1, clients),
			"--piece", strconv.Itoa(soakPiece)))
	}
	killed := map[string]int{}
	strike := func(what string, s *survivor) {
		if s.kill() {
			killed[what]++
		}
	}
	// The first client says everything twice, for it dies after its answer, and so does
	// the aggregator.
	join(0)
	updates := func(n int64) func() bool {
		return func() bool { return topicRecords(ctx, flags, flags.updates()) >= n }
	}
	c.reach(updates(4))
	if all {
		strike("aggregator", victims[0])
		strike("clients", victims[1])
		c.reach(updates(8))
	}
	for i := 1; i < clients; i++ {
		join(i)
	}
	for k := range kills {
		if at := rounds * k / kills; all {
			said.reach(ctx, at)
		} else {
			said.reach(ctx, at+1) // then all have their leases
		}
		pause(time.Duration(rand.IntN(60)) * time.Millisecond)
		switch n := rand.IntN(10); {
		case embedded && n < 2 || !all:
			strike("broker", up)
		case n < 5:
			strike("aggregator", victims[0])
		default:
			strike("clients", victims[1+rand.IntN(clients)])
		}
	}
	for _, s := range victims {
		select {
		case <-s.done:
		case <-ctx.Done():
			t.Fatalf("penstock %s does not end: %s", strings.Join(s.args, " "), s.last())
		}
	}

	out, err := c.command("federated", "verify", name, "--broker", flags.Broker).CombinedOutput()
	if want := fmt.Sprintf("%d models are what their %d updates make, to the byte\n", rounds+1, rounds*clients); err != nil || string(out) != want {
		t.Errorf("verify: %v: %s", err, out)
	}
	err = flags.connect(ctx, &terminal{log: slog.New(slog.DiscardHandler)}, func(tr training) error {
		models, err := tr.outlines(ctx)
		if err != nil {
			return err
		}
		read, err := tr.contributions(ctx, models)
		if err != nil {
			return err
		}
		worst := 0.0
		err = tr.eachStep(ctx, models, func(before []federated.Model, m federated.Model) error {
			distance, err := fromPlainMean(before[len(before)-1], m, read)
			if err != nil {
				return err
			}
			if len(m.Contributions) != clients {
				t.Errorf("model of round %d has %d updates, want %d", m.Round, len(m.Contributions), clients)
			}
			worst = max(worst, distance)
			return nil
		})
		if err != nil {
			return err
		}
		t.Logf("%d rounds of %d clients, kill -9 of %v; at most %.2g from the plain mean", rounds, clients, killed, worst)
		if worst > 1e-6 || len(models) != rounds+1 {
			t.Errorf("%d models, at most %v from the mean of their updates in float64", len(models), worst)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// fromPlainMean is how far m is from the weighted mean of its updates, computed one
// element after the other in float64. Each client is to be in it once.
func fromPlainMean(base, m federated.Model, read func(federated.Contribution) (federated.Update, error)) (worst float64, err error) {
	sums, total, seen := map[string][]float64{}, 0.0, map[string]bool{}
	for _, c := range m.Contributions {
		u, err := read(c)
		if err != nil {
			return 0, err
		}
		if seen[c.Client] || u.Client != c.Client || u.Round != base.Round || u.Base != base.Hash {
			return 0, fmt.Errorf("update of %s for round %d: not the only one of its client, or of another model", c.Client, base.Round)
		}
		seen[c.Client] = true
		total += float64(u.Samples)
		for _, p := range u.Parameters {
			sum := sums[p.Name]
			if sum == nil {
				sum = make([]float64, len(p.Values))
				sums[p.Name] = sum
			}
			for i, v := range p.Values {
				sum[i] += float64(u.Samples) * float64(v)
			}
		}
	}
	for _, p := range m.Parameters {
		for i, v := range p.Values {
			worst = max(worst, math.Abs(float64(v)-sums[p.Name][i]/total)/max(1, math.Abs(float64(v))))
		}
	}
	return worst, nil
}

// topicRecords counts the records in a topic; there may be no such topic, and nobody to
// ask.
func topicRecords(ctx context.Context, flags trainingFlags, topic string) (n int64) {
	b, err := openBroker(ctx, flags.Broker, slog.New(slog.DiscardHandler))
	if err != nil {
		return 0
	}
	defer b.Close()
	ranges, err := b.Ranges(ctx, topic)
	if err != nil {
		return 0
	}
	for _, r := range ranges {
		n += r.End - r.Start
	}
	return n
}

// reach waits until something is so.
func (c *crashed) reach(so func() bool) {
	c.t.Helper()
	for tick := time.Tick(20 * time.Millisecond); !so(); {
		select {
		case <-tick:
		case <-c.ctx.Done():
			c.t.Fatal(c.ctx.Err())
		}
	}
}

// survivor is a command that is started again whenever it fails or is killed, as an
// operator's supervisor does, until it ends by itself.
type survivor struct {
	c    *crashed
	said *soakLines
	args []string
	done chan struct{}

	mu    sync.Mutex
	cmd   *exec.Cmd
	lines *bytes.Buffer
}

func (s *survivor) live() {
	defer close(s.done)
	for s.c.ctx.Err() == nil {
		cmd, lines := s.c.command(s.args...), &bytes.Buffer{}
		cmd.Stderr = soakWriter{s, lines}
		s.mu.Lock()
		err := cmd.Start()
		s.cmd, s.lines = cmd, lines
		s.mu.Unlock()
		if err == nil && cmd.Wait() == nil {
			return
		}
	}
}

// kill kills the process, if it lives.
func (s *survivor) kill() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd != nil && s.cmd.Process != nil && s.cmd.Process.Kill() == nil
}

// last is what the process said at the end.
func (s *survivor) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.lines.String()
	return text[max(0, len(text)-1000):]
}

// soakLines is what round the processes have said that they are in.
type soakLines struct {
	mu      sync.Mutex
	round   int
	changed chan struct{}
}

// reach waits for a round.
func (l *soakLines) reach(ctx context.Context, round int) {
	for {
		l.mu.Lock()
		now, changed := l.round, l.changed
		l.mu.Unlock()
		if now >= round {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

var soakRound = regexp.MustCompile(`round (\d+) of `)

// soakWriter keeps what a process says.
type soakWriter struct {
	of    *survivor
	lines *bytes.Buffer
}

func (w soakWriter) Write(b []byte) (int, error) {
	w.of.mu.Lock()
	w.lines.Write(b)
	w.of.mu.Unlock()
	l := w.of.said
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range soakRound.FindAllSubmatch(b, -1) {
		if n, err := strconv.Atoi(string(m[1])); err == nil && n > l.round {
			l.round = n
			close(l.changed)
			l.changed = make(chan struct{})
		}
	}
	return len(b), nil
}
