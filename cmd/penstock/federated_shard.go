package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"penstock/consumers"
	"penstock/consumers/federated"
	"penstock/producers"
	"penstock/stream"
)

// federatedShardCmd runs one of several aggregators that share the rounds of a training.
type federatedShardCmd struct {
	trainingFlags
	Shard   string  `required:"" placeholder:"I/N" help:"Which one this is, of as many as the training has with --shards."`
	MaxNorm float64 `placeholder:"NORM" help:"Refuse updates that are further from the model. Default: any distance."`
	Piece   int     `default:"524288" placeholder:"BYTES" help:"Send what has more bytes of numbers in several records (default ${default})."`
}

// Help shows examples.
func (federatedShardCmd) Help() string {
	return `Examples:
  penstock federated aggregate digits --sample digits --clients ann,bob,cyd,dan --shards 2
  penstock federated shard digits --shard 1/2
  penstock federated shard digits --shard 2/2

A shard adds up the updates in its partitions of the training's topic, and the aggregator
their sums. The clients do not notice. Killed and started again it sends the same sums,
and so does another one of the same number beside it.`
}

// shardSums is the topic of what the shards of the training have added up.
func (f trainingFlags) shardSums() string { return f.Training + ".sums" }

// shards prepares the topics of updates and of sums for as many, and says how they share
// the updates.
func (t training) shards(ctx context.Context, of int) (s federated.Shards, err error) {
	if of < 1 || of > federated.MaxShards {
		return s, usagef("expected from 1 to %d shards, found %d", federated.MaxShards, of)
	}
	err = errors.Join(t.prepareTopic(ctx, t.updates(), federated.UpdateSchema(), of), t.prepareTopic(ctx, t.shardSums(), federated.UpdateSchema(), of))
	if err != nil {
		return s, err
	}
	ranges, err := t.broker.Ranges(ctx, t.updates())
	return federated.Shards{Of: of, Partitions: len(ranges)}, err
}

// Run adds up until the final model is there.
func (c *federatedShardCmd) Run(ctx context.Context, t *terminal) error {
	i, of, err := oneOfMany("--shard", c.Shard)
	if err != nil {
		return err
	}
	own := c.trainingFlags
	own.Training = fmt.Sprintf("%s.shard-%d", c.Training, i)
	return c.connect(ctx, t, func(tr training) error {
		shards, err := tr.shards(ctx, of)
		if err != nil {
			return err
		}
		err = errors.Join(
			tr.broker.Create(ctx, c.models(), 1),
			tr.prepareTopic(ctx, own.models(), federated.ModelSchema(), 1),
			tr.prepareTopic(ctx, own.partials(), federated.UpdateSchema(), 1))
		if err != nil {
			return err
		}
		// Of its own for each process: two of one shard each read all of its partitions.
		group := own.aggregator() + "." + rand.Text()
		publisher := eventPublisher{producers.New(tr.broker, tr.reg, producers.Config{})}
		e, err := federated.OpenEdge(ctx, federated.EdgeConfig{
			Shards: shards, Shard: i - 1, Root: c.models(), Partials: own.partials(), Above: c.shardSums(), To: publisher,
			Config: federated.Config{
				Models: own.models(), Updates: c.updates(), Group: group, MaxNorm: c.MaxNorm, Piece: c.Piece,
				Broker: tr.broker, Registry: tr.reg, Publisher: publisher,
				OnModel: func(m federated.Model) { t.notef("model of round %d of %d: %s\n", m.Round, m.Rounds, fromBelow(m)) },
			},
		})
		if err != nil {
			return err
		}
		if m := e.Updates().Model(); m.Rounds == 0 || !m.Final() {
			if err := finished(c.serve(ctx, t, tr, own, e, group)); err != nil {
				return err
			}
		}
		return c.show(t, e.Updates().Model())
	})
}

// serve reads all that a shard reads, until the final model has come.
func (c *federatedShardCmd) serve(ctx context.Context, t *terminal, tr training, own trainingFlags, e *federated.Edge, group string) error {
	// What is refused lies where one aggregator would have put it.
	updates := job{topic: c.updates(), group: group, sink: e.Updates(), owner: e.Updates(), inFlight: updatesInFlight, deadLetters: consumers.DeadLetterTopic(c.updates(), c.aggregator())}
	updates.hooks.DeadLetter = func(_ stream.Record, why *consumers.Reason) { t.notef("refused: %v\n", why.Err) }
	models := job{topic: c.models(), group: group + ".root", sink: e.Models(), owner: noPositions{}, deadLetters: consumers.DeadLetterTopic(c.models(), own.aggregator())}
	forward := job{topic: own.partials(), group: own.partials() + ".forward", sink: e.Forward()}
	return together(ctx,
		func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-e.Ready():
			}
			return aggregating(ctx, e.Updates(), func(ctx context.Context) error { return runJob(ctx, e.Reads(tr.broker), tr.reg, updates) })
		},
		func(ctx context.Context) error { return runJob(ctx, tr.broker, tr.reg, models) },
		func(ctx context.Context) error { return runJob(ctx, tr.broker, tr.reg, forward) })
}

// oneOfMany reads I/N.
func oneOfMany(flag, text string) (i, n int, err error) {
	first, of, _ := strings.Cut(text, "/")
	i, err1 := strconv.Atoi(first)
	n, err2 := strconv.Atoi(of)
	if err1 != nil || err2 != nil || i < 1 || i > n || n > 100 {
		return i, n, usagef("%s %s: expected I/N with I from 1 to N, and N at most 100", flag, text)
	}
	return i, n, nil
}

// fromShards are models as if their training had no shards, made of the updates that those
// have added up, and what reads these; read reads the sums.
func (t training) fromShards(ctx context.Context, models []federated.Model, read func(federated.Contribution) (federated.Update, error)) ([]federated.Model, func(federated.Contribution) (federated.Update, error), error) {
	if models[0].Shards.Of == 0 {
		return models, read, nil
	}
	var whole []federated.Model
	for _, m := range models {
		sums := m.Contributions
		m.Contributions, m.Shards = nil, federated.Shards{}
		for _, c := range sums {
			sum, err := read(c)
			if err == nil && sum.Partial == nil {
				err = errors.New("expected a sum of updates")
			}
			if err != nil {
				return nil, nil, fmt.Errorf("sum at %d/%d: %w", c.Partition, c.Offset, err)
			}
			m.Contributions = append(m.Contributions, sum.Partial.Contributions...)
		}
		whole = append(whole, m)
	}
	read, err := t.contributions(ctx, whole)
	return whole, read, err
}

// verifyShards makes the sums again that m is made of, and returns of how many updates.
func verifyShards(base, m federated.Model, sum, update func(federated.Contribution) (federated.Update, error)) (updates int, err error) {
	for _, c := range m.Contributions {
		u, err := sum(c)
		if err != nil {
			return 0, err
		}
		own, _ := base.Shard(c.Client)
		if err := federated.RecomputePartial(own, u, update); err != nil {
			return 0, fmt.Errorf("%s: %w", c.Client, err)
		}
		updates += len(u.Partial.Contributions)
	}
	return updates, nil
}
