package federated

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/consumers"
	"penstock/consumers/federated/kernels"
	"penstock/consumers/federated/strategies"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/stream"
	"penstock/stream/memory"
)

// registry knows the schemas of models, updates and rosters, with the ids 1, 2 and 3.
type registry [4]schemas.Schema

func newRegistry(t testing.TB) registry {
	t.Helper()
	var r registry
	for i, text := range []string{ModelSchema(), UpdateSchema(), RosterSchema()} {
		s, err := avro.Format{}.Parse(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		r[i+1] = s
	}
	return r
}

func (r registry) Schema(_ context.Context, id schemas.ID) (schemas.Schema, error) {
	return r[id], nil
}

// publisher encodes and publishes to a broker, as a producer does. Its failures
// are scripted: each Publish takes the next of fail.
type publisher struct {
	registry registry
	to       stream.Publisher
	fail     []failure
}

type failure int

const (
	works  failure = iota
	before         // nothing is written
	after          // it is written, and the answer is lost
)

var errConnection = errors.New("connection lost")

// outcome is the next of fail.
func (p *publisher) outcome() failure {
	how := works
	if len(p.fail) > 0 {
		how, p.fail = p.fail[0], p.fail[1:]
	}
	return how
}

func (p *publisher) Publish(ctx context.Context, topic string, key []byte, value any) error {
	id := schemas.ID(2)
	switch {
	case strings.HasSuffix(topic, "models"):
		id = 1
	case topic == "roster":
		id = 3
	}
	payload, err := p.registry[id].AppendEncode(schemas.AppendHeader(nil, id), value)
	if err != nil {
		return err
	}
	how := p.outcome()
	if how == before {
		return errConnection
	}
	if err := p.to.Publish(ctx, stream.Record{Topic: topic, Key: key, Value: payload}); err != nil {
		return err
	}
	if how == after {
		return errConnection
	}
	return nil
}

// training is a broker with the topics of a training on it, and its config.
type training struct {
	t         testing.TB
	broker    stream.Broker
	publisher *publisher
	config    Config
}

func newTraining(t testing.TB, clients int, rounds int64) *training {
	t.Helper()
	return newTrainingOn(t, memory.New(), clients, rounds)
}

func newTrainingOn(t testing.TB, broker stream.Broker, clients int, rounds int64) *training {
	t.Helper()
	for topic, partitions := range map[string]int{"models": 1, "updates": 3, "roster": 1} {
		if err := broker.Create(context.Background(), topic, partitions); err != nil {
			t.Fatal(err)
		}
	}
	r := newRegistry(t)
	p := &publisher{registry: r, to: broker}
	config := Config{
		Models: "models", Updates: "updates", Group: "g", Rounds: rounds,
		Initial: []Tensor{{Name: "w", Shape: []int{2, 2}, Values: []float32{0.5, -1, 2, 0}}, {Name: "b", Shape: []int{1}, Values: []float32{3}}},
		Broker:  broker, Registry: r, Publisher: p,
	}
	for i := range clients {
		config.Clients = append(config.Clients, fmt.Sprintf("c%d", i))
	}
	return &training{t, broker, p, config}
}

// values are the payloads of a topic of one partition.
func values(t testing.TB, b stream.Broker, topic string) [][]byte {
	t.Helper()
	ranges, err := b.Ranges(context.Background(), topic)
	if err != nil {
		t.Fatal(err)
	}
	src, err := b.Open(context.Background(), stream.Subscription{Topic: topic, Group: "look", Owner: startAt(ranges[0].Start)})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var out [][]byte
	for int64(len(out)) < ranges[0].End-ranges[0].Start {
		records, _, err := src.Fetch(context.Background(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			out = append(out, r.Value)
		}
	}
	return out
}

func (tr *training) models() []Model {
	tr.t.Helper()
	var out []Model
	joiner := NewJoiner()
	defer joiner.Close()
	for _, payload := range values(tr.t, tr.broker, "models") {
		v, err := tr.publisher.registry[1].Decode(payload[5:])
		if err != nil {
			tr.t.Fatal(err)
		}
		m, whole, err := joiner.Model(v)
		if err != nil {
			tr.t.Fatal(err)
		}
		if whole {
			out = append(out, m)
		}
	}
	return out
}

// partitionOf is where the tests' log keeps what a client sends.
func partitionOf(client string) int32 { return int32(client[1]-'0') % 3 }

// updateOf is what the tests' clients make of a model: something of their own,
// in numbers whose sum depends on the order in which they are added.
func updateOf(client string, m Model) Update {
	n := int(client[1] - '0')
	u := Update{Client: client, Round: m.Round, Base: m.Hash, Samples: int64(3 + 10*n*n), Loss: 0.5 + float64(n), Steps: int64(1 + n)}
	for _, t := range m.Parameters {
		values := slices.Clone(t.Values)
		for i := range values {
			values[i] = values[i]*0.9 + float32(math.Sin(float64(7*n+i)))*float32(math.Pow(10, float64(n%5)))/3
		}
		u.Parameters = append(u.Parameters, Tensor{Name: t.Name, Shape: t.Shape, Values: values})
	}
	return u
}

func message(t testing.TB, r registry, key string, value map[string]any) consumers.Message {
	t.Helper()
	payload, err := r[2].AppendEncode(nil, value)
	if err != nil {
		t.Fatal(err)
	}
	data, err := r[2].Decode(payload)
	if err != nil {
		t.Fatal(err)
	}
	return consumers.Message{Record: stream.Record{Topic: "updates", Key: []byte(key), Value: payload}, Data: data}
}

func id(number int32) stream.Partition {
	return stream.Partition{Cluster: "c", Topic: "updates", Incarnation: "i", Number: number}
}

func open(t testing.TB, c Config) *Aggregator {
	t.Helper()
	a, err := Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// claim assigns all three partitions.
func claim(t testing.TB, a *Aggregator) map[stream.Partition]int64 {
	t.Helper()
	starts, err := a.Assigned(context.Background(), []stream.Partition{id(0), id(1), id(2)})
	if err != nil {
		t.Fatal(err)
	}
	return starts
}

// lie makes a valid update one that must be refused.
func lie(u Update, kind Reason) map[string]any {
	v := u.value()
	first := v["parameters"].([]any)[0].(map[string]any)
	switch kind {
	case UnknownClient:
		v["client"] = "c9"
	case Late:
		v["round"] = u.Round - 1
	case Ahead:
		v["round"] = u.Round + 1
	case WrongBase:
		v["base"] = make([]byte, 32)
	case Malformed:
		first["crc"] = first["crc"].(int64) ^ 1
	case NotFinite:
		t := Tensor{Name: "w", Shape: []int{2, 2}, Values: []float32{1, 2, float32(math.Inf(-1)), 4}}
		v["parameters"] = append(tensorValues([]Tensor{t}), v["parameters"].([]any)[1])
	case WrongShape:
		first["shape"] = []any{int64(4)}
	case BadSamples:
		v["samples"] = int64(0)
	}
	return v
}

var lies = []Reason{Late, Ahead, WrongBase, Malformed, NotFinite, WrongShape, BadSamples}

// simulation is a log of updates that grows as models are published, and an
// aggregator that reads it in any order and is killed at any step.
type simulation struct {
	*testing.T
	rt       *rapid.T
	training *training
	plan     map[string][]Reason // what client c sends before its update in round r, under "c r"
	log      [3][]consumers.Message
	piece    int // of updates, in bytes; 0 is whole
	looked   int64
	answered int // models that the clients have answered
	a        *Aggregator
	at       [3]int64 // what the source delivers next
	refused  map[string]Reason
}

// answer has the clients answer the models they have not seen.
func (s *simulation) answer() {
	ranges, err := s.training.broker.Ranges(context.Background(), "models")
	if err != nil {
		s.rt.Fatal(err)
	}
	if ranges[0].End == s.looked {
		return
	}
	s.looked = ranges[0].End
	models := s.training.models()
	for ; s.answered < len(models); s.answered++ {
		m := models[s.answered]
		if m.Final() {
			continue
		}
		var all [3][][]consumers.Message // by partition and client
		for _, c := range m.Clients {
			u := updateOf(c, m)
			var send []map[string]any
			for _, kind := range s.plan[fmt.Sprintf("%s %d", c, m.Round)] {
				if kind == Duplicate {
					other := updateOf(c, m)
					other.Samples++
					send = append(send, u.value(), other.value())
				} else {
					send = append(send, lie(u, kind))
				}
			}
			var records []consumers.Message
			for _, v := range append(send, u.value()) {
				var part []consumers.Message
				for record := range split(v, cmp.Or(s.piece, math.MaxInt)) {
					part = append(part, message(s.T, s.training.publisher.registry, c, record))
				}
				// Killed at any record, a client begins again; or goes on somewhere.
				for n := len(part); n > 1 && rapid.Bool().Draw(s.rt, "a client is killed"); {
					from := max(0, rapid.IntRange(-n, n-1).Draw(s.rt, "from"))
					records = append(records, part[from:rapid.IntRange(from, n).Draw(s.rt, "to")]...)
				}
				records = append(records, part...)
			}
			p := partitionOf(c)
			all[p] = append(all[p], records)
		}
		for p, clients := range all {
			for len(clients) > 0 {
				i := 0
				if s.piece > 0 {
					i = rapid.IntRange(0, len(clients)-1).Draw(s.rt, "who is next")
				}
				msg := clients[i][0]
				msg.Partition, msg.Offset = int32(p), int64(len(s.log[p]))
				s.log[p] = append(s.log[p], msg)
				if clients[i] = clients[i][1:]; len(clients[i]) == 0 {
					clients = slices.Delete(clients, i, i+1)
				}
			}
		}
	}
}

// start opens the aggregator anew. It reports false if the training is over.
func (s *simulation) start() bool {
	a, err := Open(context.Background(), s.training.config)
	if errors.Is(err, errConnection) {
		return true // killed while the first model was published
	}
	if err != nil {
		s.rt.Fatal(err)
	}
	s.a = a
	starts, err := a.Assigned(context.Background(), []stream.Partition{id(0), id(1), id(2)})
	if errors.Is(err, ErrFinished) {
		return false
	}
	if err != nil {
		s.rt.Fatal(err)
	}
	for i := range s.at {
		s.at[i] = starts[id(int32(i))]
	}
	return true
}

// step writes n messages of partition p, as consumers.Run does. It reports
// false if the training is over.
func (s *simulation) step(p int, n int) (goOn bool, err error) {
	end := min(s.at[p]+int64(n), int64(len(s.log[p])))
	b := consumers.Batch{Topic: "updates", Partition: int32(p), First: s.at[p], Next: end, Messages: slices.Clone(s.log[p][s.at[p]:end])}
	for {
		err := s.a.Write(context.Background(), b)
		var bad *stream.BatchError
		switch {
		case errors.As(err, &bad):
			var rest []consumers.Message
			for i, m := range b.Messages {
				if why := bad.Errs[i]; why == nil {
					rest = append(rest, m)
				} else {
					var r *Refusal
					if !errors.As(why, &r) {
						s.rt.Fatalf("refused with %v", why)
					}
					s.refused[fmt.Sprint(m.Partition, "/", m.Offset)] = r.Reason
				}
			}
			b.Messages = rest
			continue
		case errors.Is(err, ErrFinished):
			return false, nil
		case err == nil:
			s.at[p] = end
		case !errors.Is(err, errConnection):
			s.rt.Fatal(err)
		}
		return true, err
	}
}

func TestEveryModelOnceAndTheSame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const clients, rounds = 5, 3
		s := &simulation{T: t, rt: rt, training: newTraining(t, clients, rounds), plan: map[string][]Reason{}, refused: map[string]Reason{}}
		for c := range clients {
			for r := range rounds {
				s.plan[fmt.Sprintf("c%d %d", c, r)] = rapid.SliceOfN(rapid.SampledFrom(append(lies, Duplicate)), 0, 2).Draw(rt, "lies")
			}
		}
		s.training.config.Strategy = rapid.SampledFrom([]string{
			"fedavg", "fedavgm:momentum=0.9", "flower-fedadam", "fedyogi", "qfedavg", "fednova", "scaffold",
			"median", "krum:byzantine=1", "bulyan", "geometric-median",
		}).Draw(rt, "strategy")
		s.piece = rapid.SampledFrom([]int{0, 6, 11}).Draw(rt, "piece")
		s.training.config.Piece = rapid.SampledFrom([]int{0, 7, 16}).Draw(rt, "piece of models")
		if rapid.Bool().Draw(rt, "fence") {
			s.training.fence()
		}
		outcome := rapid.SampledFrom([]failure{works, works, before, after})
		s.training.publisher.fail = rapid.SliceOfN(outcome, 0, 8).Draw(rt, "publish")

		largest := 4
		if s.piece > 0 {
			largest = 60 // or it is killed before it has read a round
		}
		for s.a == nil {
			s.start()
		}
		for running := true; running; {
			s.answer()
			p := rapid.IntRange(0, 2).Draw(rt, "partition")
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0: // killed
				running = s.start()
			case 1: // the partition goes, and comes back
				if err := s.a.Lost(context.Background(), []stream.Partition{id(int32(p))}); err != nil {
					rt.Fatal(err)
				}
				starts, err := s.a.Assigned(context.Background(), []stream.Partition{id(int32(p))})
				if running = !errors.Is(err, ErrFinished); running && err != nil {
					rt.Fatal(err)
				}
				s.at[p] = starts[id(int32(p))]
			default:
				running, _ = s.step(p, rapid.IntRange(0, largest).Draw(rt, "size"))
			}
		}

		want := s.expected()
		got := s.training.models()
		if len(got) != len(want) {
			rt.Fatalf("%d models on the topic, want %d", len(got), len(want))
		}
		for i := range want {
			if !reflect.DeepEqual(got[i].value(), want[i].value()) {
				rt.Fatalf("model %d is not what the log gives:\n%s", i, gocmp.Diff(want[i], got[i]))
			}
		}
		counted := s.counted(want)
		for i, m := range want {
			if i > 0 {
				if err := Recompute(want[i-1], m, nil, counted); err != nil {
					rt.Fatal(err)
				}
			}
			for _, c := range m.Contributions {
				if why, ok := s.refused[fmt.Sprint(c.Partition, "/", c.Offset)]; ok {
					rt.Fatalf("the update at %d/%d was counted, and refused as %s", c.Partition, c.Offset, why)
				}
			}
		}
	})
}

// expected computes the models from the whole log, without an aggregator.
func (s *simulation) expected() []Model {
	c := s.training.config
	strategy, err := strategies.Parse(c.Strategy)
	if err != nil {
		s.rt.Fatal(err)
	}
	models := []Model{{Rounds: c.Rounds, Hash: hashOf(c.Initial), Clients: c.Clients, Strategy: strategy.String(), State: strategies.State{}, Parameters: c.Initial}}
	next := map[int32]int64{}
	for round := range c.Rounds {
		last := models[round]
		m := Model{Round: round + 1, Rounds: c.Rounds, Base: last.Hash, Clients: c.Clients, Strategy: last.Strategy, State: last.State.Clone(), Closed: Complete}
		seen := map[string]bool{}
		var totals strategies.Totals
		var all inMemory
		sum := make([]float64, 5)
		for p := range s.log {
			part := make([]float64, 5)
			var partTotals strategies.Totals
			joiner := NewJoiner()
			for _, msg := range s.log[p] {
				read, err := joiner.Update(msg, func(u Update) bool { return u.Round == round && u.Base == last.Hash })
				if err != nil || read == nil {
					continue
				}
				u, err := read()
				valid := err == nil && u.Samples > 0 && len(u.Parameters) == 2 && len(u.Parameters[0].Shape) == 2
				if !valid || seen[u.Client] {
					continue
				}
				seen[u.Client] = true
				var squares [5]float64
				for j, v := range flat(u.Parameters) {
					d := float64(v) - float64(flat(last.Parameters)[j])
					squares[j] = float64(d * d)
				}
				contribution := Contribution{Client: u.Client, Samples: u.Samples, Partition: int32(p), Offset: msg.Offset, Loss: u.Loss, Norm: math.Sqrt(squares[0] + squares[1] + squares[2] + squares[3] + squares[4])}
				if linear, ok := strategy.(strategies.Linear); ok {
					report := strategies.Report{Samples: float64(u.Samples), Loss: u.Loss, Steps: float64(u.Steps), Distance: contribution.Norm}
					weight, scalar, err := linear.Weigh(report)
					if err != nil {
						s.rt.Fatal(err)
					}
					for j, v := range flat(u.Parameters) {
						part[j] += float64(float64(v) * weight)
					}
					partTotals.Add(report, weight, scalar)
				}
				all = append(all, counted{flat(u.Parameters), contribution})
				m.Contributions = append(m.Contributions, contribution)
				next[int32(p)] = msg.Offset + 1
			}
			for j := range sum {
				sum[j] += part[j]
			}
			totals.Merge(partTotals)
		}
		for p := range int32(3) {
			m.Positions = append(m.Positions, Position{"c", "updates", "i", p, next[p]})
		}
		var values []float64
		for _, v := range flat(last.Parameters) {
			values = append(values, float64(v))
		}
		switch strategy := strategy.(type) {
		case strategies.Linear:
			strategy.Step(values, sum, totals, m.State)
		case strategies.Robust:
			if values, err = strategy.Combine(all); err != nil {
				s.rt.Fatal(err)
			}
		}
		for _, t := range last.Parameters {
			out := make([]float32, len(t.Values))
			for j := range out {
				out[j] = float32(values[j])
			}
			values = values[len(out):]
			m.Parameters = append(m.Parameters, Tensor{Name: t.Name, Shape: t.Shape, Values: out})
		}
		m.Hash = hashOf(m.Parameters)
		models = append(models, m)
	}
	return models
}

// inMemory are the updates of a round as they are said to be read from a file.
type inMemory []counted

type counted struct {
	values []float32
	Contribution
}

func (m inMemory) Len() int { return len(m) }

func (m inMemory) Dim() int { return len(m[0].values) }

func (m inMemory) Samples(i int) float64 { return float64(m[i].Contribution.Samples) }

func (m inMemory) Read(i, from int, dst []float64) error {
	for j := range dst {
		dst[j] = float64(m[i].values[from+j])
	}
	return nil
}

// counted reads updates from the log that models say they are made of.
func (s *simulation) counted(models []Model) func(Contribution) (Update, error) {
	at := map[string]func() (Update, error){}
	for p := range s.log {
		joiner := NewJoiner()
		for _, msg := range s.log[p] {
			read, err := joiner.Update(msg, func(u Update) bool {
				return slices.ContainsFunc(models, func(m Model) bool { return m.Round == u.Round && m.Hash == u.Base })
			})
			if err == nil && read != nil {
				at[fmt.Sprint(p, "/", msg.Offset)] = read
			}
		}
	}
	return func(c Contribution) (Update, error) { return at[fmt.Sprint(c.Partition, "/", c.Offset)]() }
}

// What a model is made of cannot be changed without notice.
func TestRecomputeTells(t *testing.T) {
	base := someModel(0)
	base.Clients = []string{"c0", "c1", "c2"}
	base.Strategy, base.State = "fedavgm:rate=1,momentum=0.5", strategies.State{}
	s, err := strategies.Parse(base.Strategy)
	if err != nil {
		t.Fatal(err)
	}
	p := &partial{}
	log := map[int64]Update{}
	for i := range int64(3) {
		u := updateOf(fmt.Sprint("c", i), base)
		log[i] = u
		norm := kernels.Distance(flat(u.Parameters), flat(base.Parameters))
		if err := p.add(s, base, flat(base.Parameters), arrival{Update: u, Contribution: Contribution{Client: u.Client, Samples: u.Samples, Offset: i, Norm: norm}}); err != nil {
			t.Fatal(err)
		}
	}
	next, err := step(base, s, []*partial{p}, nil)
	if err != nil {
		t.Fatal(err)
	}
	update := func(c Contribution) (Update, error) { return log[c.Offset], nil }
	if err := Recompute(base, next, nil, update); err != nil {
		t.Fatal(err)
	}
	f := func(want string, change func(m *Model)) {
		t.Helper()
		m := next
		m.Contributions, m.State = slices.Clone(next.Contributions), next.State.Clone()
		change(&m)
		if err := Recompute(base, m, nil, update); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f("its updates make", func(m *Model) { m.Contributions = m.Contributions[:2] })
	f("expected the first of client", func(m *Model) { m.Contributions[1] = m.Contributions[0] })
	f("expected the first of client", func(m *Model) { m.Contributions[1].Samples++ })
	f("expected norm", func(m *Model) { m.Contributions[2].Norm++ })
	f("expected loss", func(m *Model) { m.Contributions[2].Loss++ })
	f("its updates make", func(m *Model) { m.Hash[0]++ })
	f(`the state "momentum"`, func(m *Model) { m.State["momentum"][0]++ })
	f("is not made from", func(m *Model) { m.Base = Hash{} })
}

// An aggregator that gets the partitions of another goes on from the newest model, and one
// that was too slow to hear that it has lost its own publishes no older model behind that.
func TestAnotherAggregatorWasAtWork(t *testing.T) {
	for _, strategy := range []string{"fedavg", "fedbuff:k=1"} {
		t.Run(strategy, func(t *testing.T) {
			tr := newTraining(t, 1, 4)
			tr.config.Strategy = strategy
			write := func(a *Aggregator, m Model, offset int64) error {
				msg := message(t, tr.publisher.registry, "c0", updateOf("c0", m).value())
				msg.Offset = offset
				return a.Write(t.Context(), consumers.Batch{Topic: "updates", First: offset, Next: offset + 1, Messages: []consumers.Message{msg}})
			}
			first, slow, standby := open(t, tr.config), open(t, tr.config), open(t, tr.config)
			claim(t, slow)
			claim(t, first)
			start := first.Model()
			for i := range int64(2) {
				if err := write(first, first.Model(), i); err != nil {
					t.Fatal(err)
				}
			}
			if err := write(slow, start, 0); err != nil || slow.Model().Round != 2 {
				t.Errorf("the slow one is in round %d, %v", slow.Model().Round, err)
			}
			if starts := claim(t, standby); starts[id(0)] != 2 || standby.Model().Hash != first.Model().Hash {
				t.Errorf("the other goes on at %v, in round %d", starts, standby.Model().Round)
			}
			for i := int64(2); standby.Model().Round < 4; i++ {
				if err := write(standby, standby.Model(), i); err != nil && !errors.Is(err, ErrFinished) {
					t.Fatal(err)
				}
			}
			if err := slow.Lost(t.Context(), []stream.Partition{id(0), id(1), id(2)}); err != nil {
				t.Fatal(err)
			}
			if _, err := slow.Assigned(t.Context(), []stream.Partition{id(0)}); !errors.Is(err, ErrFinished) {
				t.Errorf("after the last model: %v", err)
			}
			for i, m := range tr.models() {
				if m.Round != int64(i) {
					t.Errorf("record %d is of round %d", i, m.Round)
				}
			}
		})
	}
}

// opens counts how often a topic is read.
type opens struct {
	Broker
	n int
}

func (o *opens) Open(ctx context.Context, s stream.Subscription) (stream.SourceCloser, error) {
	o.n++
	return o.Broker.Open(ctx, s)
}

// Looking for a newer model takes no reading, which on Kafka means joining a group, while
// there is none.
func TestNoModelIsReadWithoutNeed(t *testing.T) {
	tr := newTraining(t, 1, 3)
	tr.config.Piece = 4
	o := &opens{Broker: tr.broker}
	tr.config.Broker = o
	for range 2 {
		a := open(t, tr.config)
		o.n = 0
		claim(t, a)
		msg := message(t, tr.publisher.registry, "c0", updateOf("c0", a.Model()).value())
		msg.Offset = a.Model().Round
		if err := a.Write(t.Context(), consumers.Batch{Topic: "updates", First: msg.Offset, Next: msg.Offset + 1, Messages: []consumers.Message{msg}}); err != nil {
			t.Fatal(err)
		}
		if claim(t, a); o.n != 0 {
			t.Errorf("round %d: the models were read %d times", a.Model().Round, o.n)
		}
	}
}

func TestRefusals(t *testing.T) {
	tr := newTraining(t, 2, 2)
	tr.config.Strategy, tr.config.MaxNorm = "qfedavg", 1000
	a := open(t, tr.config)
	claim(t, a)
	good := updateOf("c1", a.Model())
	write := func(key string, v map[string]any) error {
		m := message(t, tr.publisher.registry, key, v)
		m.Partition = 1
		return a.Write(t.Context(), consumers.Batch{Topic: "updates", Partition: 1, Next: 1, Messages: []consumers.Message{m}})
	}
	f := func(why Reason, key string, v map[string]any, want string) {
		t.Helper()
		err := write(key, v)
		var bad *stream.BatchError
		var r *Refusal
		if !errors.As(err, &bad) || !errors.As(bad.Errs[0], &r) || r.Reason != why || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", why, err, want)
		}
	}
	f(UnknownClient, "c9", lie(good, UnknownClient), `client "c9"`)
	f(Malformed, "c0", good.value(), `expected the client's name as the record's key, found "c0"`)
	f(Late, "c1", lie(good, Late), "round 0 is in progress")
	f(Ahead, "c1", lie(good, Ahead), "round 0 is in progress")
	f(WrongBase, "c1", lie(good, WrongBase), "found 00000000")
	f(Malformed, "c1", lie(good, Malformed), "at /parameters/0: expected data with CRC-32")
	f(NotFinite, "c1", lie(good, NotFinite), `found -Inf in element 2 of "w"`)
	f(WrongShape, "c1", lie(good, WrongShape), `at /parameters/0: expected "w" of shape [2 2], found "w" of shape [4]`)
	f(BadSamples, "c1", lie(good, BadSamples), "found 0")
	for _, n := range []int64{-1, math.MinInt64, MaxSamples + 1, math.MaxInt64} {
		u := good
		u.Samples = n
		f(BadSamples, "c1", u.value(), fmt.Sprint("found ", n))
	}
	lossless := good
	lossless.Loss = -1
	f(BadReport, "c1", lossless.value(), "strategy qfedavg:q=0.1,rate=0.1: expected a loss of 0 or more")
	lossless.Loss = math.NaN()
	f(BadReport, "c1", lossless.value(), "expected a finite loss, found NaN")
	far := good
	far.Parameters = slices.Clone(good.Parameters)
	far.Parameters[1].Values = []float32{3e38}
	f(OverNorm, "c1", far.value(), "expected a distance of at most 1000 from the model, found 3.")
	none := good
	none.Parameters = nil
	f(WrongShape, "c1", none.value(), "expected 2 tensors, found 0")

	tombstone := consumers.Message{Record: stream.Record{Topic: "updates", Key: []byte("c1")}}
	b := consumers.Batch{Topic: "updates", Partition: 1, Next: 1, Messages: []consumers.Message{tombstone}}
	if err := a.Write(t.Context(), b); err == nil || !strings.Contains(err.Error(), `malformed: update of client "c1"`) {
		t.Errorf("a tombstone gives %v", err)
	}

	// A batch with the same update twice counts one of them.
	one := message(t, tr.publisher.registry, "c1", good.value())
	two := one
	two.Offset = 1
	b = consumers.Batch{Topic: "updates", Partition: 1, Next: 2, Messages: []consumers.Message{one, two}}
	var bad *stream.BatchError
	if err := a.Write(t.Context(), b); !errors.As(err, &bad) || len(bad.Errs) != 1 || !strings.Contains(bad.Errs[1].Error(), "duplicate") {
		t.Errorf("twice in a batch gives %v", err)
	}
	b.Messages = b.Messages[:1]
	if err := a.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	two.Offset = 2
	b = consumers.Batch{Topic: "updates", Partition: 1, First: 2, Next: 3, Messages: []consumers.Message{two}}
	if err := a.Write(t.Context(), b); !errors.As(err, &bad) || !strings.Contains(bad.Errs[0].Error(), "duplicate") {
		t.Errorf("again gives %v", err)
	}
}

// The model was published though the answer was lost, and a client has made an
// update of it before the aggregator knows: that update counts.
func TestUpdateOvertakesLostAnswer(t *testing.T) {
	tr := newTraining(t, 2, 2)
	a := open(t, tr.config)
	claim(t, a)
	tr.publisher.fail = []failure{after}
	send := func(client string, offset int64, m Model) error {
		msg := message(t, tr.publisher.registry, client, updateOf(client, m).value())
		msg.Partition, msg.Offset = partitionOf(client), offset
		return a.Write(t.Context(), consumers.Batch{
			Topic: "updates", Partition: msg.Partition, First: offset, Next: offset + 1, Messages: []consumers.Message{msg},
		})
	}
	first := a.Model()
	if err := send("c0", 0, first); err != nil {
		t.Fatal(err)
	}
	if err := send("c1", 0, first); !errors.Is(err, errConnection) {
		t.Fatalf("got %v", err)
	}
	models := tr.models()
	if err := send("c0", 1, models[1]); err != nil {
		t.Fatal(err)
	}
	if err := send("c1", 0, first); err != nil { // Run tries again
		t.Fatal(err)
	}
	if err := send("c1", 1, models[1]); !errors.Is(err, ErrFinished) || !errors.Is(err, consumers.ErrStop) {
		t.Fatalf("got %v", err)
	}
	if n := len(tr.models()); n != 3 {
		t.Errorf("%d models", n)
	}
	if _, err := open(t, tr.config).Assigned(t.Context(), []stream.Partition{id(0)}); !errors.Is(err, ErrFinished) {
		t.Errorf("a training that is over is claimed with %v", err)
	}
}

func TestFencingAndHoles(t *testing.T) {
	tr := newTraining(t, 2, 2)
	a := open(t, tr.config)
	if err := a.Write(t.Context(), consumers.Batch{Topic: "updates"}); !errors.Is(err, stream.ErrFenced) {
		t.Errorf("without a claim: %v", err)
	}
	claim(t, a)
	if err := a.Write(t.Context(), consumers.Batch{Topic: "updates", First: 4, Next: 6}); err != nil {
		t.Error(err)
	}
	if err := a.Write(t.Context(), consumers.Batch{Topic: "updates", First: 7, Next: 8}); !errors.Is(err, consumers.ErrStop) {
		t.Errorf("a hole: %v", err)
	}
	if err := a.Lost(t.Context(), []stream.Partition{id(0)}); err != nil {
		t.Error(err)
	}
	if err := a.Write(t.Context(), consumers.Batch{Topic: "updates", First: 6, Next: 7}); !errors.Is(err, stream.ErrFenced) {
		t.Errorf("after a loss: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	f := func(want string, change func(*Config)) {
		t.Helper()
		tr := newTraining(t, 2, 2)
		open(t, tr.config)
		change(&tr.config)
		if _, err := Open(t.Context(), tr.config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f("it has 2 rounds, not 3", func(c *Config) { c.Rounds = 3 })
	f(`it has clients ["c0" "c1"], not ["c0"]`, func(c *Config) { c.Clients = c.Clients[:1] })
	f("expected 1 tensors, found 2", func(c *Config) { c.Initial = c.Initial[:1] })
	f("every client needs a name of its own", func(c *Config) { c.Clients = []string{"a", "a"} })
	f("found NaN", func(c *Config) {
		c.Initial = []Tensor{{Name: "w", Shape: []int{1}, Values: []float32{float32(math.NaN())}}}
	})
	f("for shape [3], found 4", func(c *Config) { c.Initial = []Tensor{{Name: "w", Shape: []int{3}, Values: []float32{1}}} })
	f("no such topic", func(c *Config) { c.Models = "none" })
	f("has 3 partitions", func(c *Config) { c.Models = "updates" })
	f("it has strategy fedavg, not median", func(c *Config) { c.Strategy = "median" })
	f("needs at least 3 updates, found 2", func(c *Config) { c.Strategy = "krum" })
	f("parse strategy: expected one of", func(c *Config) { c.Strategy = "best" })
	f("expected k of at most 2", func(c *Config) { c.Strategy = "fedbuff" })
	f("fedbuff has no rounds", func(c *Config) { c.Strategy, c.Quorum = "fedbuff:k=1", 1 })
	f("expected a largest norm of 0 or more", func(c *Config) { c.MaxNorm = math.NaN() })
	f("at least one round", func(c *Config) { c.Rounds = 0 })
	f("are needed", func(c *Config) { c.Registry = nil })
}

func TestTopicOfUpdatesMadeAgain(t *testing.T) {
	tr := newTraining(t, 1, 2)
	a := open(t, tr.config)
	claim(t, a)
	m := message(t, tr.publisher.registry, "c0", updateOf("c0", a.Model()).value())
	if err := a.Write(t.Context(), consumers.Batch{Topic: "updates", Next: 1, Messages: []consumers.Message{m}}); err != nil {
		t.Fatal(err)
	}
	again := id(0)
	again.Incarnation = "j"
	if _, err := open(t, tr.config).Assigned(t.Context(), []stream.Partition{again}); !errors.Is(err, stream.ErrTopicChanged) {
		t.Errorf("got %v", err)
	}
}
