package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"penstock/consumers"
	"penstock/consumers/federated"
	"penstock/consumers/federated/trust"
	"penstock/producers"
	"penstock/registry/client"
	"penstock/schemas"
	"penstock/stream"
)

// federatedEdgeCmd runs an aggregator that is a client of another.
type federatedEdgeCmd struct {
	trainingFlags
	Name     string        `required:"" placeholder:"NAME" help:"Of the edge, as the aggregator above expects it with --edges."`
	Above    string        `placeholder:"TRAINING" help:"Name of the training above. Default: that of this one."`
	Clients  []string      `placeholder:"NAME,…" help:"Who is expected here in every round. With --keys, those who are enrolled here."`
	Edges    []string      `placeholder:"NAME,…" help:"Edges below this one."`
	Quorum   int           `placeholder:"N" help:"Send what N updates come to; with --deadline, no sooner than that. Default: those of all clients; with --deadline, 1."`
	Deadline time.Duration `placeholder:"TIME" help:"Send what has come after TIME; the rest are refused as late."`
	Fraction float64       `placeholder:"0…1" help:"Ask this share of the clients in each round, drawn at random. Default: all."`
	MaxNorm  float64       `placeholder:"NORM" help:"Refuse updates that are further from the model. Default: any distance."`
	Piece    int           `default:"524288" placeholder:"BYTES" help:"Send what has more bytes of numbers in several records (default ${default})."`
	signingFlags
	AboveKeys string `placeholder:"FOLDER" help:"Sign what is sent above with NAME.key in this folder."`

	To connectFlags `embed:"" prefix:"above-" envprefix:"ABOVE_"`
}

// Help shows examples.
func (federatedEdgeCmd) Help() string {
	return `Examples:
  penstock federated aggregate digits --sample digits --edges north,south --rounds 5
  penstock federated edge north --name north --above digits --clients ann,bob
  penstock federated edge digits --name south --clients cyd,dan --above-broker nats://hub:4222 --above-registry http://hub:8081

To its clients an edge is the aggregator: they join its training, at its broker. It adds
up their updates, and sends the sum above. Cut off it finishes its round and sends the
sum later; killed and started again, with the same flags, it sends the same.`
}

// partials is the topic of what the edge's rounds came to.
func (f trainingFlags) partials() string { return f.Training + ".partials" }

// Run adds up until the final model has come from above.
func (c *federatedEdgeCmd) Run(ctx context.Context, t *terminal) error {
	if named := len(c.Clients) > 0; named && c.Keys != "" || !named && c.Keys == "" && len(c.Edges) == 0 {
		return usagef("expected either --clients NAME,… (or --edges) or --keys FOLDER, which takes the signed updates of those who are enrolled")
	}
	above := trainingFlags{Training: cmp.Or(c.Above, c.Training), connectFlags: c.To, outputFlag: c.outputFlag}
	if above.Training == c.Training && above.Broker == c.Broker {
		return usagef("training %q is above itself: expected --above TRAINING or --above-broker URL", c.Training)
	}
	var key trust.PrivateKey
	if c.AboveKeys != "" {
		var err error
		if key, err = signingKey(c.AboveKeys, c.Name); err != nil {
			return err
		}
	}
	return c.connect(ctx, t, func(tr training) error {
		err := errors.Join(
			tr.prepareTopic(ctx, c.models(), federated.ModelSchema(), 1),
			tr.prepareTopic(ctx, c.updates(), federated.UpdateSchema(), 0),
			tr.prepareTopic(ctx, c.partials(), federated.UpdateSchema(), 1))
		if err != nil {
			return err
		}
		roster, err := tr.rosterOf(ctx, t, c.Keys)
		if err != nil {
			return err
		}
		to := &latePublisher{}
		e, err := federated.OpenEdge(ctx, federated.EdgeConfig{
			Name: c.Name, Partials: c.partials(), Above: above.updates(), To: to, Key: key,
			Config: federated.Config{
				Models: c.models(), Updates: c.updates(), Group: c.aggregator(), Clients: c.Clients, Edges: c.Edges, Roster: roster,
				Quorum: c.Quorum, Deadline: c.Deadline, Fraction: c.Fraction, MaxNorm: c.MaxNorm, Piece: c.Piece,
				Broker: tr.broker, Registry: tr.reg, Publisher: eventPublisher{producers.New(tr.broker, tr.reg, producers.Config{})},
				OnModel: func(m federated.Model) { t.notef("model of round %d of %d: %s\n", m.Round, m.Rounds, fromBelow(m)) },
			},
			Waiting: func(m federated.Model) {
				t.notef("round %d of %d: %s is not enrolled for it\n", m.Round, m.Rounds, c.Name)
			},
		})
		if err != nil {
			return err
		}
		if m := e.Updates().Model(); m.Rounds == 0 || !m.Final() {
			err := federated.ErrReread
			for errors.Is(err, federated.ErrReread) {
				err = c.serve(ctx, t, tr, above, e, to)
			}
			if err := finished(err); err != nil {
				return err
			}
		}
		return c.show(t, e.Updates().Model())
	})
}

// fromBelow says what an edge had sent for a model.
func fromBelow(m federated.Model) string {
	switch n := len(m.Contributions); {
	case m.Closed == federated.Overtaken:
		return "made without this edge"
	case n > 0:
		return count(int64(n)) + " updates here"
	}
	return "the first here"
}

// serve reads all that an edge reads, until the final model has come.
func (c *federatedEdgeCmd) serve(ctx context.Context, t *terminal, tr training, above trainingFlags, e *federated.Edge, to *latePublisher) error {
	refused := func(_ stream.Record, why *consumers.Reason) { t.notef("refused: %v\n", why.Err) }
	updates := func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-e.Ready():
		}
		j := job{topic: c.updates(), group: c.aggregator(), sink: e.Updates(), owner: e.Updates()}
		j.hooks.DeadLetter = refused
		return rereading(ctx, e.Updates(), func(ctx context.Context) error { return runJob(ctx, tr.broker, tr.reg, j) })
	}
	away := false
	upward := func(ctx context.Context) error {
		for {
			err := above.reach(ctx, t, func(broker stream.Broker, reg *client.Client) error {
				if away {
					away = false
					t.notef("the training above is back\n")
				}
				to.to.Store(&eventPublisher{producers.New(broker, reg, producers.Config{})})
				return together(ctx,
					func(ctx context.Context) error {
						return runJob(ctx, broker, reg, job{topic: above.models(), group: above.models() + "." + c.Name, sink: e.Models(), owner: noPositions{}})
					},
					func(ctx context.Context) error {
						return runJob(ctx, tr.broker, tr.reg, job{topic: c.partials(), group: c.partials() + ".forward", sink: e.Forward()})
					})
			})
			if ctx.Err() != nil || errors.Is(err, consumers.ErrStop) || exitCode(err) == exitUsage {
				return err
			}
			if !away {
				away = true
				t.notef("the training above is out of reach, and what there is to send will be sent later: %v\n", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	return together(ctx, updates, upward)
}

// reach connects to the training, of which others make the topics: whoever comes first
// makes that of the models.
func (f trainingFlags) reach(ctx context.Context, t *terminal, do func(stream.Broker, *client.Client) error) error {
	return f.connect(ctx, t, func(tr training) error {
		if err := tr.broker.Create(ctx, f.models(), 1); err != nil {
			return err
		}
		return do(tr.broker, tr.reg)
	})
}

// edgeSums are what the rounds of an edge came to, by the round and the model it began with.
type edgeSums map[string]func() (federated.Update, error)

func edgeRound(round int64, base federated.Hash) string { return fmt.Sprintf("%d %v", round, base) }

// sums reads those of the training. Large ones lie in files.
func (t training) sums(ctx context.Context) (edgeSums, error) {
	found := edgeSums{}
	decoder, joiner := consumers.NewDecoder(t.reg, schemas.Limits{}), federated.NewJoiner()
	defer joiner.Close()
	err := eachRecord(ctx, t.broker, t.partials(), t.Training+".reader", 100, func(records []stream.Record) error {
		for _, r := range records {
			message, err := decoder.Decode(ctx, r)
			if err != nil {
				return err
			}
			var of federated.Update
			read, err := joiner.Update(message, func(u federated.Update) bool {
				of = u
				return true
			})
			if err != nil {
				return err
			}
			if read != nil {
				found[edgeRound(of.Round, of.Base)] = read
			}
		}
		return nil
	})
	return found, err
}

// verify makes the sum again that was sent between two models.
func (s edgeSums) verify(base, next federated.Model, update func(federated.Contribution) (federated.Update, error)) error {
	if next.Closed == federated.Overtaken {
		return nil // nothing was sent
	}
	read := s[edgeRound(base.Round, base.Hash)]
	if read == nil {
		return fmt.Errorf("sum of round %d: it is not on the topic", base.Round)
	}
	sum, err := read()
	if err != nil {
		return fmt.Errorf("sum of round %d: %w", base.Round, err)
	}
	return federated.RecomputePartial(base, sum, update)
}

// latePublisher publishes to what has been reached last. Nobody publishes before.
type latePublisher struct {
	to atomic.Pointer[eventPublisher]
}

// Publish implements federated.Publisher.
func (p *latePublisher) Publish(ctx context.Context, topic string, key []byte, value any) error {
	return p.to.Load().Publish(ctx, topic, key, value)
}

// together runs several at a time until the first of them ends, whose error it returns
// when all have.
func together(ctx context.Context, runs ...func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ends := make(chan error, len(runs))
	var running sync.WaitGroup
	for _, run := range runs {
		running.Go(func() { ends <- run(ctx) })
	}
	first := <-ends
	cancel()
	running.Wait()
	return first
}
