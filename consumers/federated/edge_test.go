package federated

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"penstock/consumers"
	"penstock/consumers/federated/kernels"
	"penstock/consumers/federated/strategies"
	"penstock/stream"
	"penstock/stream/memory"
)

// reader hands the records of a topic to a sink, a few at a time, as consumers.Run does.
type reader struct {
	broker stream.Broker
	schema int // of registry
	topic  string
	next   map[int32]int64
}

// starting is an Owner that starts each partition somewhere.
type starting map[stream.Partition]int64

func (s starting) Assigned(context.Context, []stream.Partition) (map[stream.Partition]int64, error) {
	return s, nil
}

func (starting) Lost(context.Context, []stream.Partition) error { return nil }

// ranges are what the topic holds.
func (r *reader) ranges(t *rapid.T) []stream.Range {
	ranges, err := r.broker.Ranges(context.Background(), r.topic)
	if err != nil {
		t.Fatal(err)
	}
	return ranges
}

// step writes up to n records of a partition that has some, and does not go on where that
// fails.
func (r *reader) step(t *rapid.T, reg registry, sink consumers.Sink, n int) (refused map[[2]int64]Reason, err error) {
	ctx := context.Background()
	ranges := r.ranges(t)
	for _, at := range ranges {
		from := max(at.Start, r.next[at.Partition.Number])
		if from >= at.End {
			continue
		}
		starts := starting{}
		for _, other := range ranges {
			starts[other.Partition] = other.End
		}
		starts[at.Partition] = from
		src, err := r.broker.Open(ctx, stream.Subscription{Topic: r.topic, Group: "look", Owner: starts})
		if err != nil {
			t.Fatal(err)
		}
		b := consumers.Batch{Topic: r.topic, Partition: at.Partition.Number, First: from, Next: from}
		for len(b.Messages) < n && b.Next < at.End {
			records, _, err := src.Fetch(ctx, n)
			if err != nil {
				t.Fatal(err)
			}
			for _, record := range records {
				if record.Partition != b.Partition || record.Offset != b.Next || len(b.Messages) == n {
					continue
				}
				data, err := reg[r.schema].Decode(record.Value[5:])
				if err != nil {
					t.Fatal(err)
				}
				b.Messages, b.Next = append(b.Messages, consumers.Message{Record: record, Data: data}), record.Offset+1
			}
		}
		if err := src.Close(); err != nil {
			t.Fatal(err)
		}
		refused = map[[2]int64]Reason{}
		for {
			err = sink.Write(ctx, b)
			var bad *stream.BatchError
			if !errors.As(err, &bad) {
				break
			}
			var rest []consumers.Message
			for i, m := range b.Messages {
				var why *Refusal
				switch {
				case bad.Errs[i] == nil:
					rest = append(rest, m)
				case errors.As(bad.Errs[i], &why):
					refused[[2]int64{int64(m.Partition), m.Offset}] = why.Reason
				default:
					t.Fatal(bad.Errs[i])
				}
			}
			b.Messages = rest
		}
		if err == nil {
			r.next[b.Partition] = b.Next
		}
		return refused, err
	}
	return nil, nil
}

// branch is a root or an edge, with the clients below.
type branch struct {
	*training
	rt       *rapid.T
	name     string
	parent   *branch // nil is the root
	clients  []string
	a        *Aggregator
	e        *Edge
	updates  reader
	above    reader // the models there
	partials reader
	forgets  int // how often it may forget what it has forwarded
	answered int // models that the clients have answered
	over     bool
	refused  map[[2]int64]Reason // updates that did not count, by partition and offset
	shard    EdgeConfig          // what makes it a shard
}

func newBranch(t *testing.T, rt *rapid.T, parent *branch, name string, clients ...string) *branch {
	b := &branch{training: newTrainingOn(t, memory.New(), 0, 3), rt: rt, name: name, parent: parent, clients: clients, forgets: 4, refused: map[[2]int64]Reason{}}
	if err := b.broker.Create(context.Background(), "partials", 1); err != nil {
		rt.Fatal(err)
	}
	b.updates, b.partials = reader{b.broker, 2, "updates", nil}, reader{b.broker, 2, "partials", map[int32]int64{}}
	b.config.Clients = clients
	b.config.Piece = rapid.SampledFrom([]int{0, 16}).Draw(rt, "piece")
	if rapid.Bool().Draw(rt, "fence") {
		b.fence()
	}
	b.publisher.fail = rapid.SliceOfN(rapid.SampledFrom([]failure{works, works, before, after}), 0, 6).Draw(rt, "publish")
	if parent != nil {
		parent.config.Edges = append(parent.config.Edges, name)
		b.above = reader{parent.broker, 1, "models", nil}
		b.config.Rounds, b.config.Initial = 0, nil
		b.config.Quorum = rapid.IntRange(0, len(clients)).Draw(rt, "quorum")
	}
	return b
}

// start opens the branch anew, as if it had been killed.
func (b *branch) start() {
	for {
		var err error
		if b.parent == nil {
			b.a, err = Open(context.Background(), b.config)
		} else {
			b.above.next = map[int32]int64{}
			c := EdgeConfig{Config: b.config, Name: b.name, Partials: b.partials.topic, Above: b.parent.updates.topic, To: b.parent.publisher}
			c.Shards, c.Shard, c.Root = b.shard.Shards, b.shard.Shard, b.shard.Root
			b.e, err = OpenEdge(context.Background(), c)
			if err == nil {
				b.a = b.e.Updates()
			}
		}
		if err == nil {
			break
		} else if !errors.Is(err, errConnection) {
			b.rt.Fatal(err)
		}
	}
	b.updates.next = nil
}

// fold writes some updates.
func (b *branch) fold() {
	if b.a.Model().Rounds == 0 || b.a.Model().Final() {
		b.over = b.a.Model().Final() && b.a.Model().Rounds > 0
		return
	}
	if b.updates.next == nil {
		var ids []stream.Partition
		for _, r := range b.updates.ranges(b.rt) {
			ids = append(ids, r.Partition)
		}
		starts, err := b.a.Assigned(context.Background(), ids)
		if errors.Is(err, ErrFinished) {
			return // by another one, while this one was away: its model is final now
		}
		if err != nil {
			b.rt.Fatal(err)
		}
		b.updates.next = map[int32]int64{}
		for id, at := range starts {
			b.updates.next[id.Number] = at
		}
		for _, id := range ids {
			if !b.a.above.reads(id.Number) {
				b.updates.next[id.Number] = math.MaxInt64
			}
		}
	}
	refused, err := b.updates.step(b.rt, b.publisher.registry, b.a, rapid.IntRange(1, 9).Draw(b.rt, "records"))
	maps.Copy(b.refused, refused)
	b.passing(err)
}

func (b *branch) passing(err error) {
	if b.over = b.over || errors.Is(err, ErrFinished); err != nil && !b.over && !errors.Is(err, errConnection) {
		b.rt.Fatal(err)
	}
}

// answer publishes what the clients make of models that they have not answered.
func (b *branch) answer() {
	models := b.models()
	for ; b.answered < len(models); b.answered++ {
		m := models[b.answered]
		for _, c := range b.clients {
			if m.Final() {
				continue
			}
			u := updateOf(c, m)
			send := []map[string]any{u.value()}
			if rapid.Bool().Draw(b.rt, "twice") {
				other := updateOf(c, m)
				other.Samples++
				send = append(send, other.value())
			}
			if rapid.IntRange(0, 3).Draw(b.rt, "lies") == 0 {
				send = append([]map[string]any{lie(u, rapid.SampledFrom(lies).Draw(b.rt, "lie"))}, send...)
			}
			for _, v := range send {
				s := sender{to: &publisher{registry: b.publisher.registry, to: b.broker}, topic: "updates", size: 16, key: c}
				if err := s.send(context.Background(), v); err != nil {
					b.rt.Fatal(err)
				}
			}
		}
	}
}

// flatly is the model after base that all clients' updates make without a tree.
func flatly(t *rapid.T, base Model, clients []string) Model {
	base.Clients, base.Edges = clients, nil
	s, err := strategies.Parse(base.Strategy)
	if err != nil {
		t.Fatal(err)
	}
	p, from := &partial{}, flat(base.Parameters)
	for _, c := range clients {
		u := updateOf(c, base)
		values := flat(u.Parameters)
		contribution := Contribution{Client: c, Samples: u.Samples, Norm: kernels.Distance(values, from)}
		if err := p.add(s, base, from, arrival{Update: u, Contribution: contribution}); err != nil {
			t.Fatal(err)
		}
	}
	m, err := step(base, s, []*partial{p}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// drawStrategy draws a strategy whose updates add up, and how they are added up.
func (b *branch) drawStrategy(rt *rapid.T) {
	exact := rapid.Bool().Draw(rt, "exact")
	b.config.Strategy = rapid.SampledFrom([]string{"fedavg", "fedavgm:momentum=0.9", "fedyogi", "qfedavg", "fednova", "scaffold"}).Draw(rt, "strategy")
	if s, _ := strategies.Parse(b.config.Strategy); weighsAlike(s) {
		if exact {
			b.config.Sum = SumExact
		}
		if rapid.Bool().Draw(rt, "clipped") {
			b.config.Privacy = &Privacy{Clip: 3}
		}
	}
}

// A tree makes the models that its clients would make without one: to the byte where
// sums are exact, and else nearly; whoever is killed, and whatever fails.
func TestTree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		root := newBranch(t, rt, nil, "", "c0")
		nodes := []*branch{root, newBranch(t, rt, root, "e0", "c1", "c2"), newBranch(t, rt, root, "e1", "c3", "c4")}
		if rapid.Bool().Draw(rt, "three levels") {
			nodes = append(nodes, newBranch(t, rt, nodes[2], "e2", "c5", "c6", "c7"))
		}
		root.drawStrategy(rt)
		for _, b := range slices.Backward(nodes) {
			b.start()
		}
		running := func(b *branch) bool { return !b.over }
		kills := rapid.IntRange(0, 12).Draw(rt, "kills")
		for rounds := 0; slices.ContainsFunc(nodes, running); rounds++ {
			if rounds > 500 {
				rt.Fatal("it does not end")
			}
			for _, b := range nodes {
				if kills > 0 && rapid.IntRange(0, 5).Draw(rt, "killed") == 0 {
					kills--
					b.start()
				}
				b.act()
			}
		}
		models := root.models()
		for i := 1; i < len(models); i++ {
			base, m := models[i-1], models[i]
			if m.Round == base.Round { // it lies there twice
				if m.Hash != base.Hash {
					rt.Fatalf("two models of round %d", m.Round)
				}
				continue
			}
			want := flatly(rt, base, root.leaves(rt, nodes, m.Round-1, m.Contributions))
			for j, v := range flat(m.Parameters) {
				if w := flat(want.Parameters)[j]; math.Abs(float64(v-w)) > 1e-5*max(1, math.Abs(float64(w))) || root.config.Sum == SumExact && v != w {
					rt.Fatalf("model of round %d, element %d: expected %v, found %v", m.Round, j, w, v)
				}
			}
			if err := Recompute(base, m, nil, root.sent(rt, "updates")); err != nil {
				rt.Fatal(err)
			}
		}
		for _, b := range nodes[1:] {
			b.check(rt)
		}
	})
}

// leaves are the clients whose updates a round of b is made of, sorted. None of them was
// refused.
func (b *branch) leaves(t *rapid.T, nodes []*branch, round int64, contributions []Contribution) (names []string) {
	for _, c := range contributions {
		if why, ok := b.refused[[2]int64{int64(c.Partition), c.Offset}]; ok {
			t.Fatalf("%q: the update at %d/%d of %s is in round %d, and was refused: %s", b.name, c.Partition, c.Offset, c.Client, round, why)
		}
		if c.Updates == 0 {
			names = append(names, c.Client)
			continue
		}
		i := slices.IndexFunc(nodes, func(n *branch) bool { return n.name == c.Client })
		for _, sum := range nodes[i].all(t, "partials") {
			if sum.Round == round {
				below := nodes[i].leaves(t, nodes, round, sum.Partial.Contributions)
				if int(c.Updates) != len(below) {
					t.Fatalf("%q: expected %d updates of %s in round %d, found %d", b.name, len(below), c.Client, round, c.Updates)
				}
				names = append(names, below...)
				break
			}
		}
	}
	slices.Sort(names)
	return names
}

// act does some of what is to be done.
func (b *branch) act() {
	b.answer()
	if b.e != nil && !b.over {
		_, err := b.above.step(b.rt, b.publisher.registry, b.e.Models(), rapid.IntRange(1, 9).Draw(b.rt, "models"))
		b.passing(err)
	}
	for range 3 {
		b.fold()
	}
	if b.e != nil {
		next := b.partials.next[0]
		_, err := b.partials.step(b.rt, b.publisher.registry, b.e.Forward(), 9)
		b.passing(err)
		if b.forgets > 0 && rapid.IntRange(0, 4).Draw(b.rt, "forgotten") == 0 {
			b.forgets--
			b.partials.next[0] = next
		}
	}
}

// all are the updates on a topic, by partition and offset of their last record.
func (b *branch) all(t *rapid.T, topic string) map[[2]int64]Update {
	out := map[[2]int64]Update{}
	joiner := NewJoiner()
	defer joiner.Close()
	r := reader{b.broker, 2, topic, map[int32]int64{}}
	for range r.ranges(t) {
		for {
			var got consumers.Batch
			if _, err := r.step(t, b.publisher.registry, sinkFunc(func(b consumers.Batch) { got = b }), 1000); err != nil {
				t.Fatal(err)
			}
			if len(got.Messages) == 0 {
				break
			}
			for _, m := range got.Messages {
				read, err := joiner.Update(m, func(Update) bool { return true })
				if err != nil {
					t.Fatal(err)
				}
				if read == nil {
					continue
				}
				if u, err := read(); err == nil {
					out[[2]int64{int64(m.Partition), m.Offset}] = u
				}
			}
		}
	}
	return out
}

type sinkFunc func(b consumers.Batch)

func (f sinkFunc) Write(_ context.Context, b consumers.Batch) error {
	f(b)
	return nil
}

// sent reads the updates of a topic.
func (b *branch) sent(t *rapid.T, topic string) func(Contribution) (Update, error) {
	all := b.all(t, topic)
	return func(c Contribution) (Update, error) {
		u, ok := all[[2]int64{int64(c.Partition), c.Offset}]
		if !ok {
			return u, errors.New("it is not there")
		}
		return u, nil
	}
}

// check makes the sums of an edge again.
func (b *branch) check(t *rapid.T) {
	models := map[int64]Model{}
	for _, m := range b.models() {
		models[m.Round] = m
	}
	sums := b.all(t, "partials")
	rounds := map[int64]string{}
	for _, sum := range sums {
		if err := RecomputePartial(models[sum.Round], sum, b.sent(t, "updates")); err != nil {
			t.Fatalf("edge %s: %v", b.name, err)
		}
		text := hashOf(sum.Parameters).String() + string(sum.Partial.text())
		if rounds[sum.Round] != "" && rounds[sum.Round] != text {
			t.Fatalf("edge %s: two sums of round %d", b.name, sum.Round)
		}
		rounds[sum.Round] = text
	}
}

// newEdge is an edge "e0" with the client c0, and its training.
func newEdge(t *testing.T) (*training, *Edge) {
	t.Helper()
	tr := newTraining(t, 1, 0)
	if err := tr.broker.Create(t.Context(), "partials", 1); err != nil {
		t.Fatal(err)
	}
	tr.config.Rounds, tr.config.Initial = 0, nil
	e, err := OpenEdge(t.Context(), EdgeConfig{Config: tr.config, Name: "e0", Partials: "partials", Above: "updates", To: tr.publisher})
	if err != nil {
		t.Fatal(err)
	}
	return tr, e
}

// A sum whose publication had a lost answer is found on the log, and is not there twice.
func TestEdgeFindsItsSum(t *testing.T) {
	tr, e := newEdge(t)
	above := someModel(0)
	above.Strategy, above.Clients, above.Edges = "fedavg", []string{"e0"}, []string{"e0"}
	if err := e.Models().Write(t.Context(), modelBatch(t, tr.publisher.registry, above)); err != nil {
		t.Fatal(err)
	}
	<-e.Ready()
	claim(t, e.Updates())
	b := consumers.Batch{Topic: "updates", Next: 1, Messages: []consumers.Message{message(t, tr.publisher.registry, "c0", updateOf("c0", e.Updates().Model()).value())}}
	tr.publisher.fail = []failure{after}
	if err := e.Updates().Write(t.Context(), b); !errors.Is(err, errConnection) {
		t.Fatal(err)
	}
	if err := e.Updates().Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if n := len(values(t, tr.broker, "partials")); n != 1 || !e.a.above.over() {
		t.Errorf("the sum lies there %d times, and the round is over: %v", n, e.a.above.over())
	}
}

// An edge that is told no deadline sends what it has when three quarters of the time of the
// one above have passed; one that is told a quorum does what it is told.
func TestEdgeHurries(t *testing.T) {
	for _, tt := range []struct{ deadline, quorum, left, want int64 }{
		{0, 0, 60_000, 45_000}, {0, 0, 0, 0}, {0, 0, -1000, 0}, {10, 0, 60_000, 10}, {0, 2, 60_000, 0},
	} {
		tr := newTraining(t, 3, 0)
		if err := tr.broker.Create(t.Context(), "partials", 1); err != nil {
			t.Fatal(err)
		}
		now := time.UnixMilli(1_000_000)
		tr.config.Rounds, tr.config.Initial, tr.config.Now = 0, nil, func() time.Time { return now }
		tr.config.Deadline, tr.config.Quorum = time.Duration(tt.deadline)*time.Millisecond, int(tt.quorum)
		e, err := OpenEdge(t.Context(), EdgeConfig{Config: tr.config, Name: "e0", Partials: "partials", Above: "updates", To: tr.publisher})
		if err != nil {
			t.Fatal(err)
		}
		above := someModel(0)
		above.Strategy, above.Clients, above.Edges, above.Deadline = "fedavg", []string{"e0"}, []string{"e0"}, now.UnixMilli()+tt.left
		if err := e.Models().Write(t.Context(), modelBatch(t, tr.publisher.registry, above)); err != nil {
			t.Fatal(err)
		}
		m := e.Updates().Model()
		if got := m.Deadline - now.UnixMilli(); tt.want > 0 && (got != tt.want || m.Quorum != 1) || tt.want == 0 && (m.Deadline != 0 || m.Quorum != tt.quorum) {
			t.Errorf("%+v: it ends after %d with %d updates", tt, got, m.Quorum)
		}
		if tt.want != 45_000 {
			continue
		}
		// Nobody answers: it waits on, for who comes, and does not begin anew all the time.
		now = now.Add(45 * time.Second)
		if err := e.Updates().Expire(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m := e.Updates().Model(); m.Attempt != 1 || m.Deadline != 0 {
			t.Errorf("attempt %d with the deadline %d", m.Attempt, m.Deadline)
		}
	}
}

// A model whose publication had a lost answer does not stand in the way of the next.
func TestEdgeFollowsPastALostAnswer(t *testing.T) {
	tr, e := newEdge(t)
	first, final := someModel(0), someModel(3)
	for _, m := range []*Model{&first, &final} {
		m.Strategy, m.Clients, m.Edges = "fedavg", []string{"e0"}, []string{"e0"}
	}
	tr.publisher.fail = []failure{after}
	if err := e.Models().Write(t.Context(), modelBatch(t, tr.publisher.registry, first)); !errors.Is(err, errConnection) {
		t.Fatal(err)
	}
	if err := e.Models().Write(t.Context(), modelBatch(t, tr.publisher.registry, first, final)); !errors.Is(err, ErrFinished) {
		t.Errorf("expected the end of the training, found round %d, %v", e.Updates().Model().Round, err)
	}
	if n := len(tr.models()); n != 2 {
		t.Errorf("expected two models for the clients, found %d", n)
	}
}
