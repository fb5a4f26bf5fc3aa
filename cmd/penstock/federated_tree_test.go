package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"penstock/consumers/federated"
	"penstock/servertest"
)

// An edge on Kafka goes on while the broker above, an embedded JetStream, is away: its
// round ends, what that came to is on its log, and it is killed and started there. When the
// broker is back it is sent, and counted once. make soak then kills aggregator, edge,
// clients and the broker above at random.
func TestSoakTree(t *testing.T) {
	seeds := servertest.Kafka(t)
	rounds, clients, kills := soakOf(soakRounds, 2), soakOf(soakClients, 2), soakOf(soakFederatedKills, 0)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Duration(rounds+kills)*15*time.Second)
	defer cancel()
	hub := &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t), gateway: freeAddr(t)}
	edge := &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t)}
	name := servertest.Name(t)
	kafka := func(member string) string { return fmt.Sprintf("kafka://%s?member=%s", seeds, member) }
	said := &soakLines{changed: make(chan struct{})}
	live := func(c *crashed, args ...string) *survivor {
		s := &survivor{c: c, said: said, args: args, done: make(chan struct{})}
		go s.live()
		return s
	}
	registry := live(edge, "registry", "--listen", edge.listen, "--store", "memory:")
	// The hub lives under a context of its own, and with it what it is restarted by.
	up := func() (*survivor, func()) {
		of, stop := context.WithCancel(ctx)
		c := *hub
		c.ctx = of
		s := live(&c, "up", "--listen", hub.listen, "--gateway", hub.gateway)
		return s, func() {
			stop()
			<-s.done
		}
	}
	broker, stop := up()
	defer func() {
		cancel()
		<-registry.done
		<-broker.done
	}()
	hub.listening(hub.listen)
	hub.listening(hub.gateway)
	edge.listening(edge.listen)

	below := trainingFlags{Training: name}
	below.Registry, below.Broker = "http://"+edge.listen, kafka("reader")
	above := trainingFlags{Training: "soak"}
	above.Registry, above.Broker = "http://"+hub.listen, "embedded:"+hub.dir+"/penstock-data"

	aggregator := live(hub, "federated", "aggregate", "soak", "--sample", "digits", "--clients", "c0", "--edges", "north", "--rounds", strconv.Itoa(rounds), "--piece", strconv.Itoa(soakPiece))
	direct := live(hub, "federated", "join", "soak", "--name", "c0", "--share", "1/9")
	names := make([]string, clients)
	for i := range names {
		names[i] = fmt.Sprintf("c%d", i+1)
	}
	north := live(edge, "federated", "edge", name, "--name", "north", "--clients", strings.Join(names, ","), "--broker", kafka("north"), "--piece", strconv.Itoa(soakPiece),
		"--above", "soak", "--above-broker", above.Broker, "--above-registry", above.Registry)
	edge.reach(func() bool { return topicRecords(ctx, below, below.models()) > 0 })
	edge.reach(func() bool { return topicRecords(ctx, above, above.updates()) > 0 })
	stop()
	victims := []*survivor{aggregator, north, direct}
	for i, n := range names {
		victims = append(victims, live(edge, "federated", "join", name, "--name", n, "--share", fmt.Sprintf("%d/9", i%8+2), "--broker", kafka(n), "--piece", strconv.Itoa(soakPiece)))
	}
	edge.reach(func() bool { return topicRecords(ctx, below, below.partials()) > 3 }) // its pieces
	killed := map[string]int{}
	strike := func(what string, s *survivor) {
		if s.kill() {
			killed[what]++
		}
	}
	strike("edge", north)
	broker, _ = up()
	for k := range kills {
		said.reach(ctx, rounds*k/kills)
		pause(time.Duration(rand.IntN(60)) * time.Millisecond)
		switch n := rand.IntN(10); {
		case n < 2:
			strike("broker", broker)
		case n < 4:
			strike("aggregator", aggregator)
		case n < 7:
			strike("edge", north)
		default:
			strike("clients", victims[2+rand.IntN(1+clients)])
		}
	}
	for _, s := range victims {
		select {
		case <-s.done:
		case <-ctx.Done():
			t.Fatalf("penstock %s does not end: %s", strings.Join(s.args, " "), s.last())
		}
	}
	for _, c := range []struct {
		in   *crashed
		of   trainingFlags
		want string
	}{
		{hub, above, fmt.Sprintf("%d models are what their %d updates make, to the byte\n", rounds+1, 2*rounds)},
		{edge, below, fmt.Sprintf("the sums for %d models are what %d updates make, to the byte\n", rounds, clients*rounds)},
	} {
		out, err := c.in.command("federated", "verify", c.of.Training, "--broker", c.of.Broker).CombinedOutput()
		if err != nil || string(out) != c.want {
			t.Errorf("verify %s: %v: %s", c.of.Training, err, out)
		}
	}
	// Each model is the mean of what all clients sent, wherever they did.
	quiet := &terminal{log: slog.New(slog.DiscardHandler)}
	err := above.connect(ctx, quiet, func(up training) error {
		return below.connect(ctx, quiet, func(down training) error {
			models, readUp, err := loaded(ctx, up)
			if err != nil {
				return err
			}
			copies, readDown, err := loaded(ctx, down)
			if err != nil {
				return err
			}
			if len(models) != rounds+1 || len(copies) != rounds+1 {
				return fmt.Errorf("%d models above and %d below, want %d", len(models), len(copies), rounds+1)
			}
			worst := 0.0
			for i, m := range models[1:] {
				all := m
				all.Contributions = nil
				read := map[federated.Contribution]func(federated.Contribution) (federated.Update, error){}
				add := func(c federated.Contribution, from func(federated.Contribution) (federated.Update, error)) {
					all.Contributions, read[c] = append(all.Contributions, c), from
				}
				for _, c := range m.Contributions {
					if c.Client != "north" {
						add(c, readUp)
					}
				}
				for _, c := range copies[i+1].Contributions {
					add(c, readDown)
				}
				if len(all.Contributions) != clients+1 {
					t.Errorf("model of round %d has %d updates, want %d", m.Round, len(all.Contributions), clients+1)
				}
				distance, err := fromPlainMean(models[i], all, func(c federated.Contribution) (federated.Update, error) { return read[c](c) })
				if err != nil {
					return err
				}
				worst = max(worst, distance)
			}
			if t.Logf("%d rounds of %d clients, kill -9 of %v; at most %.2g from the plain mean", rounds, clients+1, killed, worst); worst > 1e-6 {
				t.Errorf("at most %v from the mean of all updates in float64", worst)
			}
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
}

// loaded are the models of a training, and what reads the updates that they name.
func loaded(ctx context.Context, t training) ([]federated.Model, func(federated.Contribution) (federated.Update, error), error) {
	var models []federated.Model
	err := t.each(ctx, func(m federated.Model) error {
		models = append(models, m)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	read, err := t.contributions(ctx, models)
	return models, read, err
}
