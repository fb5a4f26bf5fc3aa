package federated

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"penstock/consumers"
	"penstock/consumers/federated/secagg"
	"penstock/consumers/federated/strategies"
)

// SecureConfig says what a secure aggregator does.
type SecureConfig struct {
	SecureLog
	Key     ed25519.PrivateKey
	Clients []secagg.Participant
	// Threshold is how many clients it takes to finish a round; 0 is the least
	// that is safe, secagg.LeastThreshold.
	Threshold int
	Rounds    int64
	Initial   []Tensor
	// Strategy is one that needs the mean weighted by samples alone; empty is
	// "fedavg".
	Strategy string
	// Clip bounds how far a parameter may move in a round: what moves further
	// counts as that. 0 is 8.
	Clip float64
	// MaxWeight is the most examples that a client counts with; 1, or 0, has all
	// count the same.
	MaxWeight uint32
	// Privacy has the clients add noise to their updates, which are then clipped to a
	// distance as a whole and not to Clip, and weigh the same. Its Shares are Threshold
	// less Colluders: as many clients as stay for certain and tell nobody their noise.
	// nil is none.
	Privacy *Privacy
	// Colluders is how many clients may tell the server, or whoever reads the models,
	// their noise; those who are left are promised the same for it.
	Colluders int
	// Patience is how long a stage waits for clients, once enough to go on may
	// have come. 0 is a minute.
	Patience time.Duration
	OnModel  func(Model)
}

// secureServer aggregates.
type secureServer struct {
	SecureConfig
	strategy strategies.Linear
	settings secagg.Settings
	control  *tail
	topics   map[secagg.Stage]*tail
	next     map[*tail]int64 // after what the round counts on
	exposed  int64           // attempts at the round that may have told their sum and gave no model
}

// errAnother says that another server's records lie where this one's would.
var errAnother = errors.New("another server works on this training")

// AggregateSecurely makes models of sums that it cannot take apart, until the
// last one is published, which it returns. It keeps nothing but the log: killed at
// any instant and run again, it goes on with the lists that are there. Of several
// at work on a training, the first list on the log counts.
//
// It returns ctx.Err() when ctx ends.
func AggregateSecurely(ctx context.Context, config SecureConfig) (Model, error) {
	s, err := newSecureServer(config)
	if err != nil {
		return Model{}, fmt.Errorf("open secure aggregator: %w", err)
	}
	for before := ""; ; {
		m, err := s.work(ctx)
		// The same again is not the doing of another server.
		if !errors.Is(err, errAnother) || err.Error() == before {
			return m, err
		}
		before = err.Error()
		s.notef("%v; reading the log again", err)
	}
}

func newSecureServer(c SecureConfig) (*secureServer, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.Rounds < 1 || len(c.Initial) == 0 || c.Patience < 0 {
		return nil, errors.New("at least one round, one tensor and no negative patience are needed")
	}
	if c.Patience == 0 {
		c.Patience = time.Minute
	}
	c.Clients = slices.Clone(c.Clients)
	slices.SortFunc(c.Clients, func(a, b secagg.Participant) int { return cmp.Compare(a.Name, b.Name) })
	c.MaxWeight = max(c.MaxWeight, 1)
	if c.Clip == 0 {
		c.Clip = 8
	}
	if c.Strategy == "" {
		c.Strategy = "fedavg"
	}
	strategy, err := strategies.Parse(c.Strategy)
	if err != nil {
		return nil, err
	}
	linear, ok := strategy.(strategies.Linear)
	if ok {
		weight, scalar, err := linear.Weigh(strategies.Report{Samples: 7})
		ok = err == nil && weight == 7 && scalar == 0
	}
	if _, buffers := strategy.(*strategies.FedBuff); !ok || buffers {
		return nil, fmt.Errorf("strategy %s needs more than the mean weighted by samples, and that is all secure aggregation gives", strategy)
	}
	if c.Threshold == 0 {
		c.Threshold = secagg.LeastThreshold(len(c.Clients))
	}
	n := elements(c.Initial)
	if n > secagg.MaxElements || c.Threshold > math.MaxUint16 || c.Threshold < 0 {
		return nil, fmt.Errorf("expected at most %d parameters and a threshold of at most the clients, found %d and %d", secagg.MaxElements, n, c.Threshold)
	}
	settings := secagg.Settings{
		Threshold: uint16(c.Threshold), Elements: uint32(n), Clients: c.Clients,
		Encoding: secagg.Encoding{Bits: secagg.MostBits(len(c.Clients), c.MaxWeight), Clip: c.Clip, MaxWeight: c.MaxWeight},
	}
	if c.Privacy != nil {
		if settings.Encoding, err = c.private(linear, n); err != nil {
			return nil, err
		}
	} else if settings.Bits < 8 {
		return nil, fmt.Errorf("%d clients of weight %d leave %d bits for a parameter, expected at least 8: lower the largest weight", len(c.Clients), c.MaxWeight, settings.Bits)
	}
	if len(c.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("a key to sign with is needed")
	}
	return &secureServer{SecureConfig: c, strategy: linear, settings: settings}, settings.Check()
}

// private is how vectors are made with noise. It sets c's Privacy to what the models say.
func (c *SecureConfig) private(s strategies.Strategy, elements int) (secagg.Encoding, error) {
	if c.MaxWeight > 1 {
		return secagg.Encoding{}, fmt.Errorf("privacy needs that all clients weigh the same: expected a largest weight of 1, found %d", c.MaxWeight)
	}
	if c.Colluders < 0 || 3*c.Colluders >= len(c.Clients) || c.Colluders >= c.Threshold {
		return secagg.Encoding{}, fmt.Errorf("expected fewer than a third of the %d clients to tell their noise, found %d", len(c.Clients), c.Colluders)
	}
	own := *c.Privacy
	own.Shares = int64(c.Threshold - c.Colluders)
	c.Privacy = &own
	if err := own.check(s, nil); err != nil {
		return secagg.Encoding{}, err
	}
	return secagg.WithNoise(len(c.Clients), int(own.Shares), uint32(elements), own.Clip, own.Noise)
}

// work goes on from where the log says.
func (s *secureServer) work(ctx context.Context) (_ Model, err error) {
	m, err := s.begin(ctx)
	if err != nil {
		return m, err
	}
	s.control = s.tail(secureTopic(s.Training, secagg.Open), m.Positions)
	s.topics = map[secagg.Stage]*tail{}
	s.next = map[*tail]int64{}
	defer func() {
		err = errors.Join(err, s.control.close())
		for _, t := range s.topics {
			err = errors.Join(err, t.close())
		}
	}()
	for _, stage := range secureStages {
		s.topics[stage] = s.tail(secureTopic(s.Training, stage), m.Positions)
	}
	for {
		if s.OnModel != nil {
			s.OnModel(m)
		}
		if m.Final() {
			return m, s.end(ctx, m)
		}
		if m, err = s.round(ctx, m); err != nil {
			return m, err
		}
		if _, err := publishModel(ctx, s.Publisher, s.Models, m, 0); err != nil {
			return m, err
		}
	}
}

// begin returns the last model, or publishes the first.
func (s *secureServer) begin(ctx context.Context) (Model, error) {
	m, found, err := s.lastModel(ctx)
	if err != nil {
		return m, fmt.Errorf("read last model: %w", err)
	}
	var names []string
	for _, c := range s.Clients {
		names = append(names, c.Name)
	}
	if found {
		a := Aggregator{config: Config{Rounds: s.Rounds, Clients: names, Initial: s.Initial, Privacy: s.Privacy}, strategy: s.strategy}
		if err := a.accepts(m); err != nil {
			return m, fmt.Errorf("topic %q holds another training: %w; choose another topic", s.Models, err)
		}
		return m, nil
	}
	m = Model{Rounds: s.Rounds, Hash: hashOf(s.Initial), Clients: names, Strategy: s.strategy.String(), State: strategies.State{}, Parameters: s.Initial, Privacy: s.Privacy}
	_, err = publishModel(ctx, s.Publisher, s.Models, m, 0)
	return m, err
}

// end tells the clients that the training is over, once.
func (s *secureServer) end(ctx context.Context, m Model) error {
	if err := s.control.catchUp(ctx); err != nil {
		return err
	}
	for _, r := range s.control.queue {
		if r.Stage == secagg.Closed && r.FromServer(s.Training, s.public()) == nil {
			return nil
		}
	}
	return s.publish(ctx, secagg.Closing(s.Training, m.Round, secagg.Hash(m.Hash), s.Key))
}

func (s *secureServer) public() ed25519.PublicKey {
	key, _ := s.Key.Public().(ed25519.PublicKey)
	return key
}

// round makes the next model of a round, in as many attempts as it takes.
func (s *secureServer) round(ctx context.Context, base Model) (next Model, err error) {
	machine, err := s.attempt(base, 0)
	if err != nil {
		return base, err
	}
	defer func() { err = errors.Join(err, machine.Close()) }()
	began, opened := false, base // began: this process has seen the stage begin
	s.exposed = 0
	for {
		// What is on the log comes first, whoever wrote it.
		if err := s.control.catchUp(ctx); err != nil {
			return base, err
		}
		for len(s.control.queue) > 0 {
			r := s.control.queue[0]
			s.control.queue = s.control.queue[1:]
			if machine, err = s.record(base, machine, r); err != nil {
				return base, err
			}
			began = false
		}
		if base, err = s.charged(opened); err != nil || base.Final() {
			return base, err
		}
		stage, collects := machine.Collecting()
		if collects {
			if err := s.collect(ctx, machine, &began); err != nil {
				return base, err
			}
			if now, _ := machine.Collecting(); now != stage {
				began = false
				continue // what a list names is there again
			}
		}
		if stage == secagg.Unmask && machine.Complete() {
			return s.model(base, machine)
		}
		proposal, err := machine.Next()
		switch {
		case stage == secagg.Keys && errors.Is(err, secagg.ErrTooFew):
			began = false
			continue // nothing is lost by waiting on
		case stage == secagg.Unmask && collects, errors.Is(err, secagg.ErrTooFew):
			s.notef("round %d, attempt %d is given up: too few clients are left in stage %v", base.Round, machine.Attempt(), stage)
			proposal = machine.Aborted(fmt.Sprintf("too few clients are left in stage %v", stage))
		case err != nil:
			return base, err
		}
		if err := s.publish(ctx, proposal); err != nil {
			return base, err
		}
	}
}

// charged is the model of a round with what attempts at it have cost already: the final
// one, if another attempt would take more than the budget.
func (s *secureServer) charged(base Model) (_ Model, err error) {
	if base.Privacy == nil {
		return base, nil
	}
	if base.Privacy, err = base.Privacy.after(s.exposed); err != nil {
		return base, err
	}
	return base.affordable()
}

func (s *secureServer) attempt(base Model, number int32) (*secagg.Server, error) {
	return secagg.NewServer(secagg.ServerConfig{
		Training: s.Training, Round: base.Round, Attempt: number, Base: secagg.Hash(base.Hash), Key: s.Key, Settings: s.settings,
		Spill: func() (secagg.File, error) { return newSpill() },
	})
}

// record takes a record of the control topic, and returns the machine that goes
// on: another one after an attempt was given up.
func (s *secureServer) record(base Model, machine *secagg.Server, r placed) (*secagg.Server, error) {
	if err := r.FromServer(s.Training, s.public()); err != nil {
		s.notef("passed over record %d of the control topic: %v", r.offset, err)
		return machine, nil
	}
	if r.Round > base.Round {
		return machine, fmt.Errorf("round %d is on the log: %w", r.Round, errAnother)
	}
	if r.Round < base.Round {
		return machine, nil
	}
	if err := machine.Record(r.Message); err != nil {
		var refused *secagg.Refusal
		if !errors.As(err, &refused) {
			return machine, err
		}
		if refused.Reason == secagg.Malformed && r.Stage == secagg.Open {
			return machine, fmt.Errorf("round %d was opened otherwise: %w: %w", base.Round, consumers.ErrStop, err)
		}
		s.notef("passed over record %d of the control topic: %v", r.offset, err)
		return machine, nil
	}
	s.passed(s.control, r.offset)
	s.notef("round %d, attempt %d: %v", r.Round, r.Attempt, r.Stage)
	if machine.Aborts() {
		if machine.Listed(secagg.Confirm) {
			s.exposed++ // a client may have answered after all, and the sum be known
		}
		next, err := s.attempt(base, r.Attempt+1)
		if err != nil {
			return machine, err
		}
		return next, machine.Close()
	}
	return machine, nil
}

// passed notes that the round counts on a record.
func (s *secureServer) passed(t *tail, offset int64) {
	s.next[t] = max(s.next[t], offset+1)
}

// collect reads the topic of the machine's stage until it is complete, or time is
// up. What a list on the log names is there, and is waited for. It sets began
// once the topic was read to its end, from when time counts.
func (s *secureServer) collect(ctx context.Context, machine *secagg.Server, began *bool) error {
	stage, _ := machine.Collecting()
	t := s.topics[stage]
	if !*began {
		if err := t.catchUp(ctx); err != nil {
			return err
		}
		*began = true
	}
	timed, cancel := context.WithTimeout(ctx, s.Patience)
	defer cancel()
	for {
		for len(t.queue) > 0 {
			m := t.queue[0]
			t.queue = t.queue[1:]
			var refused *secagg.Refusal
			switch err := machine.Receive(m.Message); {
			case errors.As(err, &refused):
				s.notef("refused: %v", err)
				continue
			case err != nil:
				return fmt.Errorf("%w: %w: %w", errDisk, consumers.ErrStop, err)
			}
			s.passed(t, m.offset)
			if machine.Complete() {
				return nil
			}
		}
		if now, ok := machine.Collecting(); !ok || now != stage || machine.Complete() {
			return nil
		}
		if machine.Listed(stage) {
			// It was read before another list than this server's own came first.
			return fmt.Errorf("what a list names lies before where stage %v is read: %w", stage, errAnother)
		}
		switch err := t.fetch(timed); {
		case ctx.Err() != nil:
			return ctx.Err()
		case timed.Err() != nil:
			return nil
		case err != nil:
			return err
		}
	}
}

// model is what the strategy makes of the sum.
func (s *secureServer) model(base Model, machine *secagg.Server) (Model, error) {
	sum, err := machine.Sum()
	if err != nil {
		return base, err
	}
	weight, mean, err := s.settings.Decode(sum)
	if err != nil {
		return base, err
	}
	var p partial
	p.begin(base)
	for k, t := range base.Parameters {
		for i, x := range t.Values {
			p.sum[k][i] = (float64(x) + mean[i]) * float64(weight)
		}
		mean = mean[len(t.Values):]
	}
	for _, name := range machine.Contributors() {
		p.counted = append(p.counted, Contribution{Client: name})
	}
	p.totals = strategies.Totals{Updates: int64(len(p.counted)), Weight: float64(weight), Samples: float64(weight)}
	next, err := step(base, s.strategy, []*partial{&p}, nil)
	if err != nil {
		return next, fmt.Errorf("end round %d: %w: %w", base.Round, consumers.ErrStop, err)
	}
	// Of these topics each server reads the same, killed or not. The others are
	// small, and read from their beginning.
	for _, t := range []*tail{s.control, s.topics[secagg.Shares], s.topics[secagg.Masked]} {
		next.Positions = append(next.Positions, Position{
			Cluster: t.id.Cluster, Topic: t.topic, Incarnation: t.id.Incarnation, Partition: t.id.Number, Next: s.next[t],
		})
	}
	return next, nil
}
