package federated

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"penstock/consumers"
	"penstock/consumers/federated/kernels"
	"penstock/consumers/federated/strategies"
	"penstock/consumers/federated/trust"
	"penstock/schemas"
	"penstock/stream"
)

// MaxSamples is the largest weight of an update, so that no sum of weights
// comes near the end of an int64, or of what a float64 holds exactly.
const MaxSamples = 1 << 40

// Config says what an Aggregator does. All of it but Strategy, MaxNorm and OnModel
// is needed.
type Config struct {
	Models  string // the topic of the models, of one partition
	Updates string // the topic of the updates
	// Group names the aggregator to the broker: the last model is read by
	// group Group-models.
	Group string
	// Clients take part: a round asks all of them for an update, or with Fraction
	// as many of them, drawn anew for each round. It ends when all have answered.
	Clients  []string
	Fraction float64 // above 0 and up to 1; 0 is 1
	// Edges take part, beside Clients: each has clients of its own, and sends the sum of
	// their updates (OpenEdge). With a Roster they are those of its names.
	Edges []string
	// Shards share the rounds (EdgeConfig.Shards): Updates is then the topic of their sums,
	// with a partition for each. Their clients do not notice.
	Shards Shards
	// Quorum is how many updates are enough: without a Deadline the round ends
	// with them, and with one, when that has passed. Fewer mean another attempt at
	// the round. 0 is all clients, and with a Deadline 1.
	//
	// With fedbuff there are no rounds: each K updates make a model, and they may be
	// of one of the Window models before the newest. Fraction, Quorum, Deadline, Sum
	// and Privacy are not for it. With a Roster those count who are on it as of the
	// newest model.
	Quorum   int
	Deadline time.Duration // of a round, 0 being none; needs Watch to run
	Rounds   int64
	Initial  []Tensor // the parameters that round 0 starts from
	// Strategy makes the next model of the updates of a round, as
	// strategies.Parse reads it; empty is "fedavg". For scaffold the second half of the parameters are
	// the controls.
	Strategy string
	// Piece is how many bytes of numbers a record of a model has: models that have
	// more take several. 0 is 512 KiB.
	Piece int
	// Sum is how updates are added up: "" in float64, in the order of the log, or
	// SumExact, in any order.
	Sum string
	// MaxNorm is the largest distance of an update from its model, 0 being any.
	MaxNorm float64
	// Privacy protects the clients, by noise from NoiseKey; nil is not at all.
	Privacy  *Privacy
	NoiseKey *NoiseKey
	// Roster has who may take part, by signed updates: a round asks those who are
	// enrolled when it is opened, and Clients is empty. nil believes that an update
	// is its client's.
	Roster *RosterLog
	// Broker is where the models lie, Registry knows their schemas, and
	// Publisher takes them.
	Broker    Broker
	Registry  consumers.Registry
	Publisher Publisher
	// OnModel is called with each model that is on the topic, and first of all
	// by Open with the one it starts from. It holds up the aggregator.
	OnModel func(Model)
	Now     func() time.Time // nil is time.Now

	unspilled int64 // how many bytes of pieces a partition keeps in memory; 0 is 16 MiB
	fenced    int   // how many bytes of a model are written at a time; 0 is 4 MiB
}

// Aggregator makes models of updates. It is a consumers.Sink and a stream.Owner.
type Aggregator struct {
	config   Config
	strategy strategies.Strategy

	mu      sync.Mutex
	model   Model
	base    []float32         // the model's values, where updates are clipped
	parts   map[int32]*part   // of the partitions that are claimed
	arrived map[string]bool   // what is counted already, by mark: the clients of this round
	async   *asynchronous     // nil where there are rounds
	pending *Model            // what the round has ended with, until it is on the topic
	changed chan struct{}     // closed when there is another model
	roster  *rosterReader     // nil where updates are not signed
	members trust.Members     // whom the round believes
	above   *above            // of an edge: what it is part of
	seen    int64             // up to where the topic of models holds none that is newer
	fence   stream.Transactor // publishes models; nil until it is taken, and where there is none
}

// part is a claimed partition and the share of the round that came from it.
type part struct {
	partition stream.Partition
	next      int64 // the offset after the last one dealt with
	begun     bool  // next means something
	fresh     bool  // there was no batch yet under this claim
	halves    halves
	kept      int64 // the offset after the last piece that halves knows of
	partial
}

// Open reads the last model, or publishes the first if there is none. It
// refuses a models topic that holds another training.
func Open(ctx context.Context, config Config) (*Aggregator, error) {
	config.Strategy = cmp.Or(config.Strategy, "fedavg")
	roster, err := config.whom(ctx)
	if err != nil {
		return nil, fmt.Errorf("open aggregator: %w", err)
	}
	strategy, err := config.check()
	if err != nil {
		return nil, fmt.Errorf("open aggregator: %w", err)
	}
	if p := config.Privacy; p != nil {
		own := *p
		if own.Noise > 0 {
			own.Key = config.NoiseKey.id()
		}
		config.Privacy = &own
	}
	a := newAggregator(config, strategy, roster)
	window := 0
	if buffer, ok := strategy.(*strategies.FedBuff); ok {
		a.async, window = &asynchronous{k: int(buffer.K)}, Window
	}
	recent, err := a.recent(ctx, 1+window)
	if err != nil {
		return nil, fmt.Errorf("read last model: %w", err)
	}
	if len(recent) == 0 {
		if recent, err = a.first(ctx, 1+window); err != nil {
			return nil, err
		}
	}
	last := recent[len(recent)-1]
	if a.async != nil {
		a.async.older = recent[:len(recent)-1]
	}
	if err := a.accepts(last); err != nil {
		return nil, fmt.Errorf("topic %q holds another training: %w; choose another topic", config.Models, err)
	}
	a.config.Initial = nil // its memory
	a.adopt(last)
	return a, nil
}

// first publishes the model of round 0. If someone was faster, it is what recent returns.
func (a *Aggregator) first(ctx context.Context, n int) (recent []Model, err error) {
	defer a.letGo()
	c := a.config
	for {
		if err := a.takeOver(ctx); err != nil {
			return nil, err
		}
		if recent, err = a.recent(ctx, n); err != nil || len(recent) > 0 {
			return recent, err
		}
		m, err := a.opened(Model{
			Rounds:     c.Rounds,
			Hash:       hashOf(c.Initial),
			Clients:    c.Clients,
			Edges:      c.Edges,
			Shards:     c.Shards,
			Strategy:   a.strategy.String(),
			State:      strategies.State{},
			Parameters: c.Initial,
			Privacy:    c.Privacy,
			Sum:        c.Sum,
		})
		if err != nil {
			return nil, err
		}
		if err := a.publish(ctx, m); !errors.Is(err, ErrReread) {
			return []Model{m}, err
		}
	}
}

func newAggregator(config Config, s strategies.Strategy, roster *rosterReader) *Aggregator {
	if config.Now == nil {
		config.Now = time.Now
	}
	config.unspilled = cmp.Or(config.unspilled, unspilled)
	return &Aggregator{config: config, strategy: s, parts: map[int32]*part{}, arrived: map[string]bool{}, changed: make(chan struct{}), roster: roster}
}

// whom adds the edges to the clients and sorts them, or sets them to those of the roster,
// which it returns.
func (c *Config) whom(ctx context.Context) (*rosterReader, error) {
	c.Edges = slices.Sorted(slices.Values(c.Edges))
	if c.Roster == nil {
		c.Clients = slices.Sorted(slices.Values(append(slices.Clone(c.Clients), c.Edges...)))
		return nil, nil
	}
	if len(c.Clients) > 0 {
		return nil, errors.New("expected clients or a roster, found both")
	}
	roster, err := c.Roster.follow(ctx)
	if err != nil {
		return nil, err
	}
	if c.Clients = roster.At(roster.next).Names(); len(c.Clients) == 0 {
		return nil, fmt.Errorf("no client is enrolled in %q by %v", c.Roster.Topic, c.Roster.Authority)
	}
	return roster, nil
}

func (c *Config) check() (strategies.Strategy, error) {
	if c.Rounds < 1 || len(c.Initial) == 0 {
		return nil, errors.New("at least one round and one tensor are needed")
	}
	if _, err := readTensors(tensorValues(c.Initial), nil, nil); err != nil {
		return nil, fmt.Errorf("first model: %w", err)
	}
	s, err := strategies.Parse(c.Strategy)
	if err != nil {
		return nil, err
	}
	if _, ok := s.(*strategies.FedBuff); ok && (c.Fraction != 0 || c.Quorum != 0 || c.Deadline != 0 || c.Sum != "" || c.Privacy != nil) {
		return nil, errors.New("fedbuff has no rounds: it goes neither with a fraction of the clients, a quorum or a deadline, nor with exact sums or privacy")
	}
	if err := c.checkShards(); err != nil {
		return nil, err
	}
	if (len(c.Edges) > 0 || c.Shards.Of > 0) && !addsUp(s) {
		return nil, fmt.Errorf("edges and shards send sums, and strategy %s needs the updates themselves", s)
	}
	if err := checkSum(c.Sum, s); err != nil {
		return nil, err
	}
	if c.Privacy != nil {
		if err := c.Privacy.check(s, c.NoiseKey); err != nil {
			return nil, err
		}
	}
	return s, errors.Join(c.checkRounds(), c.enough(s))
}

// checkRounds says what keeps rounds from being run as c says, whatever is made of them.
func (c *Config) checkRounds() error {
	if c.Models == "" || c.Updates == "" || c.Group == "" || c.Broker == nil || c.Registry == nil || c.Publisher == nil {
		return errors.New("the topics, the group, the broker, the registry and the publisher are needed")
	}
	if c.Piece < 0 {
		return fmt.Errorf("expected pieces of 1 byte or more, found %d", c.Piece)
	}
	if !(c.MaxNorm >= 0) {
		return fmt.Errorf("expected a largest norm of 0 or more, found %v", c.MaxNorm)
	}
	if c.Fraction < 0 || c.Fraction > 1 || math.IsNaN(c.Fraction) {
		return fmt.Errorf("expected a fraction of the clients above 0 and up to 1, found %v", c.Fraction)
	}
	if c.Deadline < 0 {
		return fmt.Errorf("expected a deadline above 0, found %v", c.Deadline)
	}
	return nil
}

// enough says why the clients are too few.
func (c *Config) enough(s strategies.Strategy) error {
	if len(c.Clients) == 0 {
		return errors.New("at least one client is needed")
	}
	if len(slices.Compact(slices.Clone(c.Clients))) != len(c.Clients) || c.Clients[0] == "" {
		return errors.New("every client needs a name of its own")
	}
	fewest := c.asks()
	if buffer, ok := s.(*strategies.FedBuff); ok && int(buffer.K) > fewest {
		return fmt.Errorf("expected k of at most %d, as many as there are clients, found %v", fewest, buffer.K)
	}
	if c.Quorum < 0 || c.Quorum > fewest {
		return fmt.Errorf("expected a quorum from 1 to %d, as many as a round asks, found %d", fewest, c.Quorum)
	}
	if c.Quorum > 0 || c.Deadline > 0 {
		fewest = max(1, c.Quorum)
	}
	return enough(s, fewest)
}

// accepts says why m does not belong to the training.
func (a *Aggregator) accepts(m Model) error {
	c := a.config
	if m.Sum != c.Sum {
		return fmt.Errorf("it has the sum %q, not %q", m.Sum, c.Sum)
	}
	if !m.Privacy.same(c.Privacy) {
		return errors.New("its privacy settings are others, or its noise key")
	}
	spent := m.Final() && m.Aborted != "" // before its time
	if m.Rounds != c.Rounds && !spent {
		return fmt.Errorf("it has %d rounds, not %d", m.Rounds, c.Rounds)
	}
	if (m.Trust == nil) != (a.roster == nil) || m.Trust != nil && m.Trust.Authority != string(c.Roster.Authority.DER()) {
		return errors.New("its updates are signed and this training's are not, or the other way round, or its clients were enrolled by another key")
	}
	if a.roster != nil {
		if m.Trust.Next > a.roster.next {
			return fmt.Errorf("its roster has %d records, and this one %d", m.Trust.Next, a.roster.next)
		}
	} else if !slices.Equal(m.Clients, c.Clients) {
		return fmt.Errorf("it has clients %q, not %q", m.Clients, c.Clients)
	}
	if !slices.Equal(m.Edges, c.Edges) || m.Edge != "" {
		return fmt.Errorf("it has edges %q, not %q, or is that of an edge", m.Edges, c.Edges)
	}
	if m.Shards != c.Shards {
		return fmt.Errorf("it has %d shards of %d partitions, not %d of %d", m.Shards.Of, m.Shards.Partitions, c.Shards.Of, c.Shards.Partitions)
	}
	if m.Strategy != a.strategy.String() {
		return fmt.Errorf("it has strategy %s, not %s", m.Strategy, a.strategy)
	}
	return sameShape(m.Parameters, c.Initial)
}

// Model returns the model of the round in progress, or the final one.
func (a *Aggregator) Model() Model {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.model
}

// adopt begins the round of a model that is on the topic. What went into the
// model is dealt with, even where it was not read under this claim.
func (a *Aggregator) adopt(m Model) {
	same := m.Round == a.model.Round && m.Hash == a.model.Hash // another attempt
	a.async.follows(a.model, m)
	a.model, a.base, a.pending = m, nil, nil
	if m.Privacy != nil {
		a.base = flat(m.Parameters)
	}
	close(a.changed)
	a.changed = make(chan struct{})
	a.config.Clients = m.Clients
	if a.roster != nil {
		a.members = a.roster.At(m.Trust.Next)
	}
	if !same && a.above != nil {
		a.above.ended, a.above.pending, a.above.unsure = nil, nil, false
	}
	if !same {
		clear(a.arrived)
		for _, p := range a.parts {
			p.spilled.close()
			p.partial = p.again()
			p.halves.clear(a.async.first(m.Round))
			p.halves.limit = largestUpdate(m.Parameters)
		}
		a.async.counted(m, a.arrived)
	}
	for _, position := range m.Positions {
		if p := a.parts[position.Partition]; p != nil && (!p.begun || p.next < position.Next) {
			p.next, p.begun = position.Next, true
		}
	}
	if a.config.OnModel != nil {
		a.config.OnModel(m)
	}
}

// Assigned implements stream.Owner. Partitions start where the last model says.
// The error wraps ErrFinished if that is the final one, and
// stream.ErrTopicChanged if the topic was made again since.
func (a *Aggregator) Assigned(ctx context.Context, partitions []stream.Partition) (map[stream.Partition]int64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.resume(ctx); err != nil {
		return nil, err
	}
	if a.model.Final() {
		return nil, ErrFinished
	}
	partitions = slices.DeleteFunc(slices.Clone(partitions), func(id stream.Partition) bool { return !a.above.reads(id.Number) })
	starts := map[stream.Partition]int64{}
	for _, id := range partitions {
		for _, p := range a.model.Positions {
			if p.Partition != id.Number {
				continue
			}
			if (stream.Partition{Cluster: p.Cluster, Topic: p.Topic, Incarnation: p.Incarnation, Number: p.Partition}) != id {
				return nil, fmt.Errorf("the training goes on in topic %q of %q: %w", p.Topic, p.Cluster, stream.ErrTopicChanged)
			}
			starts[id] = p.Next
		}
	}
	_, linear := a.strategy.(strategies.Linear)
	for _, id := range partitions {
		a.drop(id.Number)
		next, begun := starts[id]
		a.parts[id.Number] = &part{partition: id, next: next, begun: begun, fresh: true, halves: halves{limit: largestUpdate(a.model.Parameters), room: a.config.unspilled, reuse: linear}}
	}
	return starts, nil
}

// resume begins the round of a newer model, if there is one: another aggregator was at
// work before this one has got partitions.
func (a *Aggregator) resume(ctx context.Context) error {
	further, err := a.overtaken(ctx)
	if err == nil && further {
		window := 0
		if a.async != nil {
			window = Window
		}
		var recent []Model
		if recent, err = a.recent(ctx, 1+window); err == nil && len(recent) > 0 && recent[len(recent)-1].newer(a.model) {
			last := recent[len(recent)-1]
			if a.async != nil {
				a.model, a.async.older = Model{}, recent[:len(recent)-1]
			}
			var ended *Partial
			if a.above != nil {
				ended, err = a.lastPartial(ctx, last)
			}
			if err == nil {
				a.goOn(last, ended)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("read last model: %w", err)
	}
	return nil
}

// Lost implements stream.Owner. What came from the partitions in this round
// will be read again.
func (a *Aggregator) Lost(_ context.Context, partitions []stream.Partition) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range partitions {
		a.drop(id.Number)
	}
	if len(a.parts) == 0 {
		a.letGo()
	}
	return nil
}

func (a *Aggregator) drop(number int32) {
	if p := a.parts[number]; p != nil {
		for _, c := range p.counted {
			delete(a.arrived, a.async.mark(c.Client, a.model.Round-c.Stale))
		}
		p.halves.clear(math.MaxInt64)
		p.spilled.close()
		delete(a.parts, number)
	}
}

// Write implements consumers.Sink: it counts the updates of b, and publishes
// the next model if the round is complete. Updates that are not counted are
// named in a BatchError, each with its *Refusal.
func (a *Aggregator) Write(ctx context.Context, b consumers.Batch) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.parts[b.Partition]
	if p == nil || p.partition.Topic != b.Topic {
		return fmt.Errorf("partition %d of %q: %w", b.Partition, b.Topic, stream.ErrFenced)
	}
	if p.begun && b.First > p.next && !p.fresh {
		return fmt.Errorf("partition %d of %q goes on at offset %d, not at %d: updates are missing: %w",
			b.Partition, b.Topic, b.First, p.next, consumers.ErrStop)
	}
	if err := a.above.catchUp(ctx); err != nil {
		return err
	}
	// A round that could not be ended comes first: its model may be on the
	// topic, and b may hold what clients made of it.
	if err := a.endRound(ctx, false); err != nil {
		return err
	}
	for rest := b.Messages; ; {
		n, err := a.take(p, b, len(b.Messages)-len(rest))
		if err != nil {
			return err
		}
		if rest = rest[n:]; len(rest) == 0 {
			break
		}
		// Enough for a model, and the rest is for the one after.
		p.next, p.begun, p.fresh = rest[0].Offset, true, false
		if err := a.endRound(ctx, false); err != nil {
			return err
		}
	}
	if !p.begun || b.Next > p.next {
		p.next = b.Next
	}
	p.begun, p.fresh = true, false
	return a.endRound(ctx, false)
}

// take counts the messages of b from one on, and returns how many it has looked at: all,
// or those that make a model complete where there are no rounds.
func (a *Aggregator) take(p *part, b consumers.Batch, from int) (n int, err error) {
	var refused stream.BatchError
	var arrivals []arrival
	pieced := 0
	here := map[string]bool{}
	room := a.async.room(a.parts)
	early, bet := a.readEarly(p, b.Messages[from:])
	won := false
	defer func() { p.settle(bet, won) }()
	for i, m := range b.Messages[from:] {
		if len(arrivals) == room {
			break
		}
		n++
		if p.begun && m.Offset < p.next || a.async.knows(b.Partition, m.Offset) {
			continue
		}
		u, err := a.judge(p, m, here, early(i))
		var refusal *Refusal
		switch {
		case errors.As(err, &refusal):
			refused.Fail(from+i, err)
			continue
		case err != nil:
			return n, err
		case u == nil:
			continue // there is more of it to come
		}
		u.Partition, u.Offset = b.Partition, m.Offset
		here[a.async.mark(u.Contribution.Client, u.Round)] = true
		if u.read != nil {
			if pieced++; pieced > ahead || u.Partial != nil && pieced > 1 {
				u.Parameters = nil
			}
		}
		arrivals = append(arrivals, *u)
	}
	if err := refused.OrNil(); err != nil {
		return n, err
	}
	won = bet.holds(arrivals)
	for i := range arrivals {
		arrivals[i].folded = won
	}
	if err := a.fold(p, arrivals); err != nil {
		a.drop(b.Partition) // some of them may be folded
		return n, fmt.Errorf("fold updates: %w: %w", consumers.ErrStop, err)
	}
	for mark := range here {
		a.arrived[mark] = true
	}
	return n, nil
}

// fold adds arrivals to p, in their order.
func (a *Aggregator) fold(p *part, arrivals []arrival) error {
	for len(arrivals) > 0 {
		n := 1
		if arrivals[0].each != nil {
			// Block by block.
		} else if arrivals[0].Parameters == nil {
			var err error
			if arrivals[0].Parameters, err = arrivals[0].read(); err != nil {
				return err
			}
		} else {
			for arrivals[0].Partial == nil && n < len(arrivals) && arrivals[n].Partial == nil && arrivals[n].Parameters != nil && arrivals[n].each == nil {
				n++
			}
		}
		if first := arrivals[0]; first.Partial != nil {
			p.merge(a.model, first.Update, first.Contribution)
		} else if err := p.add(a.strategy, a.model, a.base, arrivals[:n]...); err != nil {
			return err
		}
		for i := range n {
			p.halves.drop(a.async.mark(arrivals[i].Contribution.Client, arrivals[i].Round))
			arrivals[i] = arrival{} // its memory
		}
		arrivals = arrivals[n:]
	}
	return nil
}

// streams says that of an update whose numbers are all float32 nothing is asked but its
// weighted sum, and its distance: then it need not lie in memory whole.
func (a *Aggregator) streams() bool {
	_, linear := a.strategy.(strategies.Linear)
	return linear && a.async == nil && a.roster == nil && a.model.Privacy == nil && a.model.Sum == ""
}

// judge reads an update and how far it is from the model. Its error is a *Refusal
// if the update does not count; here are the clients that are counted in the same
// batch, and early is what readEarly made of m, or nil. It returns nil for a record that
// only has numbers of an update to come: whether those count is judged when that comes.
func (a *Aggregator) judge(p *part, m consumers.Message, here map[string]bool, early *reading) (*arrival, error) {
	u, piece, err := readHead(m.Data)
	part := piece != nil && !piece.last()
	refuse := func(why Reason, format string, args ...any) (*arrival, error) {
		if part {
			return nil, nil
		}
		return nil, &Refusal{Reason: why, Client: u.Client, Round: u.Round, Detail: fmt.Sprintf(format, args...)}
	}
	round := a.model.Round
	base := a.async.model(u.Round) // nil is the one in progress
	mark := a.async.mark(u.Client, u.Round)
	switch {
	case err != nil:
		u.Client = cmp.Or(u.Client, string(m.Key))
		return refuse(Malformed, "%v", err)
	case string(m.Key) != u.Client:
		return refuse(Malformed, "expected the client's name as the record's key, found %.100q", m.Key)
	case a.members[u.Client].Gone:
		err := a.members.Check(trust.Update{Client: u.Client}, nil)
		return refuse(distrust(err), "%v", err)
	case a.roster != nil && !slices.Contains(a.config.Clients, u.Client):
		return refuse(UnknownClient, "%v when the round began", trust.ErrUnknown)
	case !slices.Contains(a.model.senders(), u.Client):
		return refuse(UnknownClient, "the training does not expect this client")
	case a.model.Final():
		return refuse(Late, "the training is finished")
	case u.Round == round-1 && a.model.Closed == ByDeadline:
		return refuse(Late, "round %d is in progress: the one before ended by its deadline, with %d updates", round, len(a.model.Contributions))
	case u.Round < round && base == nil:
		return refuse(Late, "round %d is in progress", round)
	case u.Round > round:
		return refuse(Ahead, "round %d is in progress", round)
	case base == nil && u.Base != a.model.Hash:
		return refuse(WrongBase, "expected one trained from model %v, found %v; read the models topic", a.model.Hash, u.Base)
	case base != nil && u.Base != base.Hash:
		return refuse(WrongBase, "expected one trained from model %v, found %v", base.Hash, u.Base)
	case !slices.Contains(a.model.answering(), u.Client):
		return refuse(NotSampled, "this round asks %d of %d clients, and not this one", len(a.model.Sample), len(a.model.Clients))
	case !part && (u.Partial != nil) != a.model.sums(u.Client):
		return refuse(NotEdge, "edges are %q, and they alone send sums of updates", a.model.Edges)
	case a.arrived[mark] || here[mark]:
		return refuse(Duplicate, "the client's first update of this round is counted")
	case a.above.over():
		return refuse(Late, "round %d is over at this edge, and the next has not begun", round)
	case part:
		if m.Offset < p.kept {
			return nil, nil // the batch is written again
		}
		if err := p.halves.add(mark, piece, m.Offset); err != nil {
			return nil, err
		}
		if h := p.halves.of[mark]; h != nil && h.at == m.Offset {
			h.round = u.Round
		}
		p.kept = m.Offset + 1
		return nil, nil
	}
	numbers, err := p.halves.whole(mark, piece, m.Offset)
	if errors.Is(err, errIncomplete) {
		return refuse(Incomplete, "%v", err)
	}
	trained := a.model.Parameters
	if base != nil {
		trained = base.Parameters
	}
	r := reading{Update: u, meter: meter{base: trained}}
	spilled := numbers != nil && numbers.file != nil
	streamed := spilled && u.Partial == nil && a.streams() && allFloats(m.Data)
	if streamed {
		numbers.each = func(int, int, []float32) {} // the meter is enough
	}
	switch {
	case err != nil:
	case early != nil:
		r, err = *early, early.err
	default:
		err = r.read(m.Data, numbers, &r.meter)
	}
	u = r.Update
	switch {
	case errors.Is(err, errDisk):
		return nil, err
	case errors.Is(err, errNotFinite):
		return refuse(NotFinite, "%v", err)
	case err != nil:
		return refuse(Malformed, "%v", err)
	case u.Samples < 1 || u.Samples > MaxSamples:
		return refuse(BadSamples, "expected from 1 to %d samples, found %d", MaxSamples, u.Samples)
	}
	if a.roster != nil {
		if err := a.members.Check(u.signed(a.config.Updates), u.Signature); err != nil {
			return refuse(distrust(err), "%v", err)
		}
	}
	if err := sameShape(u.Parameters, a.model.Parameters); err != nil {
		return refuse(WrongShape, "%v", err)
	}
	if u.Partial != nil {
		return a.judgeSum(p, m, u, piece)
	}
	if err := unpack(u.Parameters, trained); errors.Is(err, errNotFinite) {
		return refuse(NotFinite, "%v", err)
	} else if err != nil {
		return refuse(Malformed, "%v", err)
	}
	if !finite(u.Loss) {
		return refuse(BadReport, "expected a finite loss, found %v", u.Loss)
	}
	norm := r.meter.squares.Distance()
	if r.meter.missed {
		norm = kernels.Distance(flat(u.Parameters), flat(trained))
	}
	if a.config.MaxNorm > 0 && norm > a.config.MaxNorm {
		return refuse(OverNorm, "expected a distance of at most %v from the model, found %v", a.config.MaxNorm, norm)
	}
	if linear, ok := a.strategy.(strategies.Linear); ok {
		weight, _, err := linear.Weigh(u.report(norm, round-u.Round))
		if err != nil {
			return refuse(BadReport, "strategy %s: %v", a.strategy, err)
		}
		if a.model.Sum == SumExact {
			if err := fitsExact(flat(u.Parameters), weight, a.model.addends()); err != nil {
				return refuse(OutOfRange, "%v", err)
			}
		}
	}
	if a.async != nil {
		u.Parameters = differ(u.Parameters, trained)
	}
	out := &arrival{Update: u, Contribution: Contribution{Client: u.Client, Samples: u.Samples, Norm: norm, Loss: u.Loss, Stale: round - u.Round}}
	switch {
	case streamed:
		out.each = func(fold func(tensor, from int, values []float32)) error {
			numbers, err := p.halves.whole(mark, piece, m.Offset)
			if err != nil {
				return err
			}
			numbers.right, numbers.each = true, fold
			return new(Update).read(m.Data, numbers, nil)
		}
	case spilled:
		out.read = func() ([]Tensor, error) {
			again, err := p.parameters(mark, piece, m)
			if err == nil {
				err = unpack(again, trained)
			}
			if err == nil && a.async != nil {
				again = differ(again, trained)
			}
			return again, err
		}
	}
	return out, nil
}

// judgeSum is judge for an edge's update, of which the tensors are read.
func (a *Aggregator) judgeSum(p *part, m consumers.Message, u Update, piece *piece) (*arrival, error) {
	c, err := u.summed(a.model, a.strategy)
	if err == nil && a.config.MaxNorm > 0 && c.Norm > a.config.MaxNorm {
		err = &Refusal{Reason: OverNorm, Detail: fmt.Sprintf("expected a distance of at most %v from the model, found %v", a.config.MaxNorm, c.Norm)}
	}
	if why, ok := errors.AsType[*Refusal](err); ok {
		why.Client, why.Round = u.Client, u.Round
		return nil, why
	}
	out := &arrival{Update: u, Contribution: c}
	if piece != nil {
		out.read = func() ([]Tensor, error) { return p.parameters(u.Client, piece, m) }
	}
	return out, nil
}

// parameters reads the tensors of an update in pieces, of which m is the last.
func (p *part) parameters(mark string, piece *piece, m consumers.Message) ([]Tensor, error) {
	numbers, err := p.halves.whole(mark, piece, m.Offset)
	if err != nil {
		return nil, err
	}
	var again Update
	err = again.read(m.Data, numbers, nil)
	return again.Parameters, err
}

// endRound publishes the next model once the round closes, unless it is on the
// topic already.
func (a *Aggregator) endRound(ctx context.Context, expired bool) error {
	if a.pending == nil {
		if a.above.over() {
			return nil // the next model comes from above
		}
		m, ended, err := a.outcome(ctx, expired)
		if err != nil || !ended {
			return err
		}
		a.pending = &m
	}
	return a.settle(ctx)
}

// settle publishes the pending model, unless it is on the topic already, and begins its
// round.
func (a *Aggregator) settle(ctx context.Context) error {
	// In this order: nothing that is newer comes after the look.
	if err := a.takeOver(ctx); err != nil {
		return err
	}
	further, err := a.overtaken(ctx)
	if err == nil && further {
		var last Model
		if last, _, err = a.last(ctx); err == nil && last.newer(a.model) {
			return a.begin(last)
		}
	}
	if err != nil {
		return fmt.Errorf("read last model: %w", err)
	}
	if err := a.publish(ctx, *a.pending); err != nil {
		return err
	}
	return a.begin(*a.pending)
}

// overtaken says that there is a newer model on the topic than the one in progress, or
// some of one: an answer was lost, or another aggregator is at work.
func (a *Aggregator) overtaken(ctx context.Context) (further bool, err error) {
	ranges, err := a.config.Broker.Ranges(ctx, a.config.Models)
	if err != nil || len(ranges) == 1 && ranges[0].End == a.seen {
		return false, err
	}
	end, err := a.config.tail(ctx, a.config.Models, "-models", 1, func(m consumers.Message) (int, error) {
		fields, _ := m.Data.(map[string]any)
		round, _ := fields["round"].(int64)
		attempt, _ := fields["attempt"].(int32)
		further = Model{Round: round, Attempt: attempt}.newer(a.model)
		return 1, nil
	}, func() { further = false })
	if err == nil && !further {
		a.seen = end
	}
	return further, err
}

// outcome is what the round ends with; ended is false while it goes on. It is made
// once: what is published again is what was.
func (a *Aggregator) outcome(ctx context.Context, expired bool) (m Model, ended bool, err error) {
	closed := a.closes(expired)
	if closed == "" && (!expired || a.above.shard()) {
		return m, false, nil
	}
	names, err := a.changes(ctx)
	switch {
	case err != nil:
		return m, false, err
	case len(names) > 0:
		m, err = a.without(names)
	case closed == "":
		m, err = a.again()
	case a.above != nil:
		return m, false, a.close(ctx, closed)
	default:
		if m, err = a.next(); err == nil {
			m.Closed = closed
			m, err = a.opened(m)
		}
	}
	return m, true, err
}

// begin adopts m and ends the run if m is final, or if it is another attempt that
// believes others: what was read for the round is then let go.
func (a *Aggregator) begin(m Model) error {
	reread := m.Round == a.model.Round && m.Trust != nil && *m.Trust != *a.model.Trust
	a.adopt(m)
	if m.Final() {
		return ErrFinished
	}
	if reread {
		return a.reread(ErrReread)
	}
	return nil
}

// next is what the strategy makes of the updates, by partition and within each
// by offset.
func (a *Aggregator) next() (Model, error) {
	partials, positions := a.folded()
	m, err := step(a.model, a.strategy, partials, a.config.NoiseKey)
	if err != nil {
		return m, fmt.Errorf("end round %d: %w: %w", a.model.Round, consumers.ErrStop, err)
	}
	m.Positions = positions
	return m, nil
}

// folded is what has come from the partitions, in their order, and where they go on.
func (a *Aggregator) folded() ([]*partial, []Position) {
	positions := map[int32]Position{}
	for _, p := range a.model.Positions {
		positions[p.Partition] = p
	}
	var partials []*partial
	for _, number := range sortedKeys(a.parts) {
		p := a.parts[number]
		if len(p.counted) == 0 {
			continue
		}
		partials = append(partials, &p.partial)
		// Not p.next, which depends on how far the partition happens to be read.
		positions[number] = Position{
			Cluster: p.partition.Cluster, Topic: p.partition.Topic, Incarnation: p.partition.Incarnation,
			Partition: number, Next: p.counted[len(p.counted)-1].Offset + 1,
		}
	}
	if a.async != nil {
		for number, position := range positions {
			if p := a.parts[number]; p != nil {
				position.Next = p.halves.first(position.Next)
				positions[number] = position
			}
		}
	}
	var next []Position
	for _, number := range sortedKeys(positions) {
		next = append(next, positions[number])
	}
	return partials, next
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// last reads the last model of the topic; found is false if there is none.
func (a *Aggregator) last(ctx context.Context) (m Model, found bool, err error) {
	recent, err := a.recent(ctx, 1)
	if err != nil || len(recent) == 0 {
		return m, false, err
	}
	return recent[0], true, nil
}

// recent reads the last models of the topic, n of different rounds if there are so many.
func (a *Aggregator) recent(ctx context.Context, n int) (models []Model, err error) {
	joiner := NewJoiner()
	defer joiner.Close()
	a.seen, err = a.config.tail(ctx, a.config.Models, "-models", n, func(message consumers.Message) (int, error) {
		m, whole, err := joiner.Model(message.Data)
		switch {
		case errors.Is(err, errIncomplete): // it begins before what is read
		case err != nil:
			return 0, err
		case whole:
			if k := len(models); k > 0 && models[k-1].Round == m.Round {
				models = models[:k-1] // another attempt, or it lies there twice
			}
			models = append(models, m)
			models = models[max(0, len(models)-n):]
		}
		return len(models), nil
	}, func() { models = nil })
	return models, err
}

// tail reads the last records of a topic of one partition, in which messages may be in
// pieces: at least the last n, and more from before them while take, which is called with
// one after the other and says how many messages it has whole, has less than n. Before
// they are read again, clear is called. It returns the offset after the last record.
func (c *Config) tail(ctx context.Context, topic, group string, n int, take func(consumers.Message) (int, error), clear func()) (end int64, err error) {
	ranges, err := c.Broker.Ranges(ctx, topic)
	if err != nil {
		return 0, err
	}
	if len(ranges) != 1 {
		return 0, fmt.Errorf("topic %q has %d partitions, and it needs to have 1", topic, len(ranges))
	}
	// The last record may be a piece of a message, and even of one that was never
	// published whole: then more of them are read, from further before the end.
	for back := int64(n); ranges[0].Start < ranges[0].End; {
		from := max(ranges[0].Start, ranges[0].End-back)
		clear()
		have, before, err := c.between(ctx, topic, group, from, ranges[0].End, take)
		if err != nil || have >= n || from == ranges[0].Start {
			return ranges[0].End, err
		}
		back = max(2*back, back+int64(before))
	}
	return ranges[0].End, nil
}

// between reads the records between two offsets, and returns what take says of the last.
// before is how many records of its message came before the first one.
func (c *Config) between(ctx context.Context, topic, group string, from, end int64, take func(consumers.Message) (int, error)) (have int, before int32, err error) {
	src, err := c.Broker.Open(ctx, stream.Subscription{Topic: topic, Group: c.Group + group, Owner: startAt(from)})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	decoder := consumers.NewDecoder(c.Registry, schemas.Limits{})
	first := true
	for next := from; next < end; {
		records, ack, err := src.Fetch(ctx, int(min(end-next, 100)))
		if err != nil {
			return 0, 0, err
		}
		for _, r := range records {
			message, err := decoder.Decode(ctx, r)
			if err != nil {
				return 0, 0, err
			}
			if have, err = take(message); err != nil {
				return 0, 0, err
			}
			if fields, _ := message.Data.(map[string]any); first {
				if p, err := readPiece(fields["piece"]); err == nil && p != nil {
					before = p.index
				}
				first = false
			}
			next = r.Offset + 1
		}
		if err := ack(ctx, nil); err != nil {
			return 0, 0, err
		}
	}
	return have, before, nil
}

// startAt is an Owner that starts every partition at one offset.
type startAt int64

func (at startAt) Assigned(_ context.Context, partitions []stream.Partition) (map[stream.Partition]int64, error) {
	starts := map[stream.Partition]int64{}
	for _, p := range partitions {
		starts[p] = int64(at)
	}
	return starts, nil
}

func (startAt) Lost(context.Context, []stream.Partition) error { return nil }
