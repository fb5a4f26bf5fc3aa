package federated

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"penstock/consumers"
	"penstock/consumers/federated/strategies"
	"penstock/consumers/federated/trust"
)

// Overtaken is the Model.Closed of an edge's round that the training did not wait for.
const Overtaken = "overtaken"

// EdgeConfig says what an Edge does.
type EdgeConfig struct {
	// Config is what the edge's own clients see: its topics, its broker and its rounds.
	// Of it Rounds, Initial, Strategy, Sum, Privacy and NoiseKey are those of the
	// training above, and have to be empty; a MaxNorm is the edge's own.
	Config
	Name     string // as the training above expects it
	Partials string // a topic of one partition beside Updates, for what the edge makes of them
	// Above is the topic of the updates in the training above, and To what publishes
	// to it.
	Above string
	To    Publisher
	Key   trust.PrivateKey // signs what the edge sends; its zero value does not
	// Waiting is ClientConfig.Waiting, of the edge.
	Waiting func(m Model)
	// Shards, those of the training above, make the edge the shard with the number Shard,
	// counted from 0. Its clients are then some of that training: they read the models of
	// the topic Root, and publish to Updates, of which the shard reads its partitions
	// (Reads). Name, Clients and what ends a round are given there, and have to be empty;
	// Above is the topic of the sums, and Models the shard's own.
	Shards Shards
	Shard  int
	Root   string
}

// Edge is an aggregator of some of a training's clients: to those it is the aggregator,
// and to the training above a client, whose updates are the sums of theirs. The training
// above may be that of another edge.
//
// It has three things to read, each a consumers.Sink: the updates of its clients, which
// Updates folds as Aggregator does; its own topic Partials, from which Forward takes what
// a round came to, to the training above; and the models from there, which Models hands
// to its clients. What a round came to is on the edge's own log before it is sent. So the
// edge goes on while the one above is out of reach, until its round has ended; killed and
// started again it sends the same bytes; and who is above counts the first.
type Edge struct {
	a      *Aggregator
	config EdgeConfig
	models newest
	ready  chan struct{} // closed when there is a model
}

// above is what an edge's aggregator knows of the training above.
type above struct {
	config  *EdgeConfig
	edge    *Edge
	root    *Aggregator // of a shard, what reads the models above
	ended   *Partial    // what the round in progress has come to, once that is on the log
	pending *Update     // until then
	unsure  bool        // whether it is, after a failed publish
}

// over says that the round in progress waits for the next one. nil is no edge.
func (a *above) over() bool { return a != nil && a.ended != nil }

// OpenEdge goes on where the edge's topics say.
func OpenEdge(ctx context.Context, config EdgeConfig) (*Edge, error) {
	fail := func(err error) (*Edge, error) { return nil, fmt.Errorf("open edge: %w", err) }
	shard := config.Shards.Of > 0
	if shard {
		if err := config.checkShard(); err != nil {
			return fail(err)
		}
		config.Name = config.Shards.Name(config.Shard)
	}
	switch c := config.Config; {
	case config.Name == "" || config.Partials == "" || config.Above == "" || config.To == nil:
		return fail(errors.New("a name, the topic of partial sums, that of the updates above, and what publishes to it are needed"))
	case c.Rounds != 0 || c.Initial != nil || c.Strategy != "" || c.Sum != "" || c.Privacy != nil || c.NoiseKey != nil:
		return fail(errors.New("rounds, first model, strategy, kind of sum and privacy are those of the training above"))
	}
	roster, err := config.whom(ctx)
	if err != nil {
		return fail(err)
	}
	if !shard {
		if err := errors.Join(config.checkRounds(), config.enough(strategies.FedAvg{})); err != nil {
			return fail(err)
		}
	}
	e := &Edge{config: config, models: newest{joiner: NewJoiner()}, ready: make(chan struct{})}
	e.a = newAggregator(config.Config, nil, roster)
	e.a.above = &above{config: &e.config, edge: e}
	if shard {
		root := config.Config
		root.Models = config.Root
		e.a.above.root = newAggregator(root, nil, nil)
	}
	models, err := e.a.recent(ctx, 1)
	if err != nil {
		return fail(fmt.Errorf("read last model: %w", err))
	}
	if len(models) == 0 {
		return e, nil
	}
	m := models[0]
	if m.Edge != config.Name || !slices.Equal(m.Edges, config.Edges) || roster == nil && !shard && !slices.Equal(m.Clients, e.a.config.Clients) {
		return fail(fmt.Errorf("topic %q holds the models of edge %q with the clients %q, not those of %q with %q; choose another topic", config.Models, m.Edge, m.Clients, config.Name, e.a.config.Clients))
	}
	if (m.Trust == nil) != (roster == nil) || m.Trust != nil && m.Trust.Authority != string(config.Roster.Authority.DER()) {
		return fail(fmt.Errorf("the updates in topic %q are signed and the edge's are not, or the other way round, or its clients were enrolled by another key", config.Updates))
	}
	ended, err := e.a.lastPartial(ctx, m)
	if err != nil {
		return fail(fmt.Errorf("read last partial sum: %w", err))
	}
	if e.a.strategy, err = strategies.Parse(m.Strategy); err != nil {
		return fail(err)
	}
	e.a.goOn(m, ended)
	close(e.ready)
	return e, nil
}

// goOn adopts the last model, of whose round an edge may have sent the sum.
func (a *Aggregator) goOn(m Model, ended *Partial) {
	if ended != nil {
		m.Positions = ended.Positions
	}
	a.adopt(m)
	if ended != nil {
		a.above.ended = ended
	}
}

// Ready is closed when the edge has a model, and Updates may be used.
func (e *Edge) Ready() <-chan struct{} { return e.ready }

// Updates is what reads the updates of the edge's clients. Its Watch is to run beside it.
func (e *Edge) Updates() *Aggregator { return e.a }

// Models is what reads the models topic of the training above, from its start or from
// anywhere before its end. Its run ends with ErrFinished when it has seen the final one,
// and the edge's clients can.
func (e *Edge) Models() consumers.Sink { return edgeModels{e} }

// Forward is what reads Partials, as a group of the broker's, and hands them on.
func (e *Edge) Forward() consumers.Sink { return forward{e} }

type edgeModels struct{ e *Edge }

func (s edgeModels) Write(ctx context.Context, b consumers.Batch) error {
	return s.e.models.write(b, func(m Model) error { return s.e.follow(ctx, m) })
}

type forward struct{ e *Edge }

func (s forward) Write(ctx context.Context, b consumers.Batch) error {
	round := s.e.a.Model().Round
	for _, m := range b.Messages {
		if u, _, err := readHead(m.Data); err != nil || u.Round < round {
			continue // the training above is further
		}
		if err := s.e.config.To.Publish(ctx, s.e.config.Above, m.Key, m.Data); err != nil {
			return publishing("partial sum", err)
		}
	}
	return nil
}

// follow begins the round of a model from above, if that is newer.
func (e *Edge) follow(ctx context.Context, m Model) error {
	e.a.mu.Lock()
	defer e.a.mu.Unlock()
	return e.advance(ctx, m)
}

// advance is follow, with the lock held.
func (e *Edge) advance(ctx context.Context, m Model) error {
	a := e.a
	if !a.above.shard() {
		m.Attempt = 0 // an edge counts those of its own
	}
	for {
		begun := a.model.Rounds > 0
		if begun && !m.newer(a.model) && (!m.Final() || a.model.Final()) {
			if a.model.Final() {
				return ErrFinished
			}
			return nil // it came again, or asks once more for what was sent
		}
		if err := a.resolve(ctx); err != nil {
			return err
		}
		if a.pending == nil || a.pending.Round != m.Round || a.pending.Attempt != m.Attempt || a.pending.Final() != m.Final() {
			next, err := e.below(m)
			if err != nil || next == nil {
				return err
			}
			if a.strategy, err = strategies.Parse(m.Strategy); err != nil {
				return fmt.Errorf("%w: %w", consumers.ErrStop, err)
			}
			if !a.above.shard() {
				if *next, err = a.opened(*next); err != nil {
					return err
				}
			}
			a.pending = next
		}
		// Until this succeeds, the sum of the round before keeps being what it is. It may
		// find one on the topic that lies between, whose publication had a lost answer.
		if err := a.settle(ctx); err != nil && !errors.Is(err, ErrFinished) {
			return err
		}
		if !begun {
			close(e.ready)
		}
	}
}

// below is m as the clients of the edge get it, nil where m is not for them.
func (e *Edge) below(m Model) (*Model, error) {
	a := e.a
	stop := func(format string, args ...any) (*Model, error) {
		return nil, fmt.Errorf("the training above %s: %w", fmt.Sprintf(format, args...), consumers.ErrStop)
	}
	shard := a.above.shard()
	if !m.Final() {
		switch {
		case shard && m.Shards != e.config.Shards:
			return stop("has %d shards of %d partitions, not %d of %d", m.Shards.Of, m.Shards.Partitions, e.config.Shards.Of, e.config.Shards.Partitions)
		case shard && !slices.Contains(m.answering(), e.config.Name):
			return nil, nil // it has none of the clients that are asked
		case shard:
		case m.Trust != nil && !slices.Contains(m.Clients, e.config.Name):
			if e.config.Waiting != nil {
				e.config.Waiting(m)
			}
			return nil, nil
		case !slices.Contains(m.Edges, e.config.Name):
			return stop("has the edges %q, and not %q", m.Edges, e.config.Name)
		case !slices.Contains(m.Asked(), e.config.Name):
			return nil, nil // others are asked in this round
		}
	}
	if a.model.Rounds > 0 {
		if err := sameShape(m.Parameters, a.model.Parameters); err != nil {
			return stop("is another one than before: %v", err)
		}
	}
	next := m
	if shard {
		next, _ = m.Shard(e.config.Name)
	} else {
		next.Clients, next.Edges, next.Edge = a.config.Clients, a.config.Edges, e.config.Name
		next.Sample, next.Quorum, next.Deadline, next.Attempt, next.Trust = nil, 0, a.hurries(m), 0, nil
		next.Addends = int64(m.addends())
	}
	next.Contributions, next.Positions, next.State = nil, a.model.Positions, strategies.State{}
	next.Closed = ""
	if !m.Final() {
		next.Aborted = ""
	}
	switch ended := a.above.ended; {
	case !m.Final() && m.Round == a.model.Round && m.Hash == a.model.Hash: // another attempt
		next.Contributions, next.Closed = a.model.Contributions, a.model.Closed
	case ended != nil:
		next.Contributions, next.Positions, next.Closed = ended.Contributions, ended.Positions, ended.Closed
	case a.model.Rounds > 0:
		next.Closed = Overtaken
	}
	return &next, nil
}

// hurries is the deadline of a round of an edge that is told none, nor a quorum, where the
// one above has one: three quarters of the time that is left, so that the sum is there by
// then. 0 is none.
func (a *Aggregator) hurries(above Model) int64 {
	now := a.config.Now().UnixMilli()
	left := above.Deadline - now
	if a.config.Deadline > 0 || a.config.Quorum > 0 || above.Final() || left <= 0 {
		return 0
	}
	return now + left - left/4
}

// close writes what the round has come to on the edge's log.
func (a *Aggregator) close(ctx context.Context, closed string) error {
	up := a.above
	if up.pending == nil {
		partials, positions := a.folded()
		u := sumOf(a.model, partials, positions, closed)
		if !up.config.Key.Zero() {
			var err error
			if u.Signature, err = up.config.Key.Sign(u.signed(up.config.Above).Text()); err != nil {
				return fmt.Errorf("sign the sum of round %d: %w: %w", u.Round, consumers.ErrStop, err)
			}
		}
		up.pending = &u
	}
	if err := a.resolve(ctx); err != nil {
		return err
	}
	if up.ended == nil {
		up.unsure = true
		s := sender{to: a.config.Publisher, topic: up.config.Partials, size: a.config.Piece, key: up.config.Name}
		if err := s.send(ctx, up.pending.value()); err != nil {
			return publishing(fmt.Sprintf("sum of round %d", a.model.Round), err)
		}
		up.ended = up.pending.Partial
	}
	up.pending, up.unsure = nil, false
	for _, p := range a.parts {
		p.partial = partial{counted: p.counted} // what is on the log needs no memory
	}
	return nil
}

// resolve looks for what the round has come to, where a failed publish has left open
// whether it is on the log: it may even have been handed on from there.
func (a *Aggregator) resolve(ctx context.Context) (err error) {
	if !a.above.unsure {
		return nil
	}
	if a.above.ended, err = a.lastPartial(ctx, a.model); err != nil {
		return fmt.Errorf("read last partial sum: %w", err)
	}
	return nil
}

// lastPartial is what the round of m has come to, nil if that is not on the log.
func (a *Aggregator) lastPartial(ctx context.Context, m Model) (last *Partial, err error) {
	joiner := NewJoiner()
	defer joiner.Close()
	have := 0
	_, err = a.config.tail(ctx, a.above.config.Partials, "-partials", 1, func(message consumers.Message) (int, error) {
		read, err := joiner.Update(message, func(Update) bool { return true })
		if err != nil || read == nil {
			return have, err
		}
		u, err := read()
		switch {
		case errors.Is(err, errIncomplete): // it begins before what is read
		case err != nil:
			return have, err
		default:
			if have = 1; u.Round == m.Round && u.Base == m.Hash {
				last = u.Partial
			}
		}
		return have, nil
	}, func() { have, last = 0, nil })
	return last, err
}

// RecomputePartial makes the sum of an edge's round again, which began with m, out of the
// updates that it names, and tells whether it is the same to the byte. update
// reads one of them.
func RecomputePartial(m Model, sum Update, update func(Contribution) (Update, error)) error {
	s, err := strategies.Parse(m.Strategy)
	if err != nil {
		return err
	}
	if sum.Partial == nil || sum.Round != m.Round || sum.Base != m.Hash {
		return fmt.Errorf("expected a sum of updates of round %d, trained from its model", m.Round)
	}
	partials, err := refold([]Model{m}, s, sum.Partial.Contributions, update)
	defer closeAll(partials)
	if err != nil {
		return err
	}
	again := sumOf(m, partials, sum.Partial.Positions, sum.Partial.Closed)
	if hashOf(again.Parameters) != hashOf(sum.Parameters) || again.Samples != sum.Samples || again.Loss != sum.Loss || string(again.Partial.text()) != string(sum.Partial.text()) {
		return fmt.Errorf("sum of round %d: its updates make another one", m.Round)
	}
	return nil
}
