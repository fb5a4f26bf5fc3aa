package main

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"penstock/servertest"
)

// Two shards, of which one is killed in the middle of a sum and started again, share four
// partitions on Kafka.
func TestShardsOnKafka(t *testing.T) {
	seeds := servertest.Kafka(t)
	shardsOn(t, true, func(member string) string { return fmt.Sprintf("kafka://%s?member=%s", seeds, member) })
}

// The same on JetStream, without a death, since who follows there waits for a lease.
func TestShardsOnJetStream(t *testing.T) {
	url := servertest.NATS(t)
	shardsOn(t, false, func(string) string { return url })
}

func shardsOn(t *testing.T, deaths bool, broker func(member string) string) {
	const rounds, clients = 2, 6
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t)}
	name := servertest.Name(t)
	flags := trainingFlags{Training: name}
	flags.Registry, flags.Broker = "http://"+c.listen, broker("reader")
	said := &soakLines{changed: make(chan struct{})}
	live := func(args ...string) *survivor {
		s := &survivor{c: c, said: said, args: args, done: make(chan struct{})}
		go s.live()
		return s
	}
	registry := live("registry", "--listen", c.listen, "--store", "memory:")
	defer func() {
		cancel()
		<-registry.done
	}()
	c.listening(c.listen)
	quiet := &terminal{log: slog.New(slog.DiscardHandler)}
	err := flags.connect(ctx, quiet, func(tr training) error { return tr.broker.Create(ctx, tr.updates(), 4) })
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, clients)
	for i := range names {
		names[i] = fmt.Sprintf("c%d", i)
	}
	run := func(member string, args ...string) *survivor {
		return live(append([]string{"federated", args[0], name, "--broker", broker(member), "--piece", strconv.Itoa(soakPiece)}, args[1:]...)...)
	}
	all := []*survivor{
		run("aggregator", "aggregate", "--sample", "digits", "--clients", strings.Join(names, ","), "--rounds", strconv.Itoa(rounds), "--shards", "2"),
		run("first", "shard", "--shard", "1/2"),
		run("second", "shard", "--shard", "2/2"),
	}
	for i, n := range names {
		all = append(all, run(n, "join", "--name", n, "--share", fmt.Sprintf("%d/%d", i+1, clients)))
	}
	if deaths {
		own := trainingFlags{Training: name + ".shard-1"}
		c.reach(func() bool { return topicRecords(ctx, flags, own.partials()) > 0 })
		t.Logf("killed: %v", all[1].kill())
	}
	for _, s := range all {
		select {
		case <-s.done:
		case <-ctx.Done():
			t.Fatalf("penstock %s does not end: %s", strings.Join(s.args, " "), s.last())
		}
	}
	out, err := c.command("federated", "verify", name, "--broker", flags.Broker).CombinedOutput()
	if want := fmt.Sprintf("%d models are what their %d updates make, to the byte\n", rounds+1, clients*rounds); err != nil || string(out) != want {
		t.Errorf("verify: %v: %s", err, out)
	}
	err = flags.connect(ctx, quiet, func(tr training) error {
		models, read, err := loaded(ctx, tr)
		if err != nil {
			return err
		}
		whole, read, err := tr.fromShards(ctx, models, read)
		if err != nil {
			return err
		}
		for i, m := range whole[1:] {
			partitions := map[int32]bool{}
			for _, c := range m.Contributions {
				partitions[c.Partition] = true
			}
			distance, err := fromPlainMean(models[i], m, read)
			if err != nil {
				return err
			}
			if distance > 1e-6 || len(m.Contributions) != clients || len(partitions) < 3 || len(models[i+1].Contributions) != 2 {
				t.Errorf("model of round %d: %v from the plain mean, of %d updates in %d partitions and %d sums", m.Round, distance, len(m.Contributions), len(partitions), len(models[i+1].Contributions))
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
