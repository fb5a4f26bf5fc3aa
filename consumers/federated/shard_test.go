package federated

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"penstock/consumers"
	"penstock/consumers/federated/strategies"
	"penstock/stream"
	"penstock/stream/memory"
)

// newShards are the root of a training on a broker of its own, and its shards.
func newShards(t *testing.T, rt *rapid.T, of, partitions, clients int) []*branch {
	ctx, broker := context.Background(), memory.New()
	topics := map[string]int{"updates": partitions, "sums": of}
	for i := range of {
		topics[fmt.Sprintf("%d.models", i)], topics[fmt.Sprintf("%d.partials", i)] = 1, 1
	}
	for topic, partitions := range topics {
		if err := broker.Create(ctx, topic, partitions); err != nil {
			t.Fatal(err)
		}
	}
	shards := Shards{Of: of, Partitions: partitions}
	tr := newTrainingOn(t, broker, clients, 2)
	root := &branch{training: tr, rt: rt, clients: tr.config.Clients, updates: reader{broker, 2, "sums", nil}, refused: map[[2]int64]Reason{}}
	tr.config.Updates, tr.config.Shards = "sums", shards
	if rapid.Bool().Draw(rt, "fence") {
		root.fence()
	}
	nodes := []*branch{root}
	numbers := []int{}
	for i := range of {
		numbers = append(numbers, i)
	}
	if rapid.Bool().Draw(rt, "twice") { // there are two processes of one of them
		numbers = append(numbers, 0)
	}
	for _, i := range numbers {
		own := *tr
		own.publisher = &publisher{registry: tr.publisher.registry, to: broker}
		own.config.Broker = broker
		own.config.Publisher, own.config.Models, own.config.Updates, own.config.Group = own.publisher, fmt.Sprintf("%d.models", i), "updates", fmt.Sprintf("g%d", i)
		own.config.Rounds, own.config.Initial, own.config.Clients, own.config.Shards = 0, nil, nil, Shards{}
		nodes = append(nodes, &branch{
			training: &own, rt: rt, parent: root, forgets: 4, refused: map[[2]int64]Reason{},
			shard:    EdgeConfig{Shards: shards, Shard: i, Root: "models"},
			updates:  reader{broker, 2, "updates", nil},
			partials: reader{broker, 2, fmt.Sprintf("%d.partials", i), map[int32]int64{}},
			above:    reader{broker, 1, "models", nil},
		})
	}
	for _, b := range nodes {
		b.publisher.fail = rapid.SliceOfN(rapid.SampledFrom([]failure{works, works, before, after}), 0, 6).Draw(rt, "publish")
		b.config.Piece = rapid.SampledFrom([]int{0, 16}).Draw(rt, "piece")
	}
	return nodes
}

// Shards make the models that one aggregator would make of the same updates: to the byte
// where sums are exact, and else nearly; whoever is killed, and whatever fails. Without a
// deadline, all clients that are asked count.
func TestShards(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		partitions := rapid.IntRange(1, 4).Draw(rt, "partitions")
		nodes := newShards(t, rt, rapid.IntRange(1, min(3, partitions)).Draw(rt, "shards"), partitions, rapid.IntRange(1, 8).Draw(rt, "clients"))
		root := nodes[0]
		root.drawStrategy(rt)
		root.config.Fraction = rapid.SampledFrom([]float64{0, 0.5}).Draw(rt, "fraction")
		now := time.UnixMilli(1)
		if rapid.Bool().Draw(rt, "deadline") {
			root.config.Deadline = time.Minute
		}
		for _, b := range nodes {
			b.config.Now = func() time.Time { return now }
		}
		for _, b := range nodes {
			b.start()
		}
		kills := rapid.IntRange(0, 12).Draw(rt, "kills")
		for turns := 0; slices.ContainsFunc(nodes, func(b *branch) bool { return !b.over }); turns++ {
			if turns > 500 {
				rt.Fatal("it does not end")
			}
			for _, b := range nodes {
				if kills > 0 && rapid.IntRange(0, 5).Draw(rt, "killed") == 0 {
					kills--
					b.start()
				}
				b.act()
				if root.config.Deadline > 0 && rapid.IntRange(0, 9).Draw(rt, "time passes") == 0 {
					now = now.Add(40 * time.Second)
				}
				if !b.over && b.updates.next != nil {
					b.passing(b.a.Expire(context.Background()))
				}
			}
		}
		sums, updates := root.sent(rt, "sums"), root.sent(rt, "updates")
		models := root.models()
		for i := 1; i < len(models); i++ {
			base, m := models[i-1], models[i]
			if m.Round == base.Round { // another attempt, or it lies there twice
				if m.Hash != base.Hash {
					rt.Fatalf("two models of round %d", m.Round)
				}
				continue
			}
			if err := Recompute(base, m, nil, sums); err != nil {
				rt.Fatal(err)
			}
			var names []string
			for _, c := range m.Contributions {
				sum, err := sums(c)
				if err != nil {
					rt.Fatal(err)
				}
				own, ok := base.Shard(c.Client)
				if !ok || base.Shards.Name(int(c.Partition)) != c.Client {
					rt.Fatalf("the sum of %s lies in partition %d", c.Client, c.Partition)
				}
				if err := RecomputePartial(own, sum, updates); err != nil {
					rt.Fatal(err)
				}
				for _, c := range sum.Partial.Contributions {
					if !base.Shards.reads(base.Shards.of(c.Client), c.Partition) {
						rt.Fatalf("the update of %s lies in partition %d", c.Client, c.Partition)
					}
					names = append(names, c.Client)
				}
			}
			slices.Sort(names)
			if m.Closed == Complete && !slices.Equal(names, base.Asked()) || len(slices.Compact(slices.Clone(names))) != len(names) || m.Closed != Complete && root.config.Deadline == 0 {
				rt.Fatalf("model of round %d: asked %q, counted %q, closed %q", m.Round, base.Asked(), names, m.Closed)
			}
			want := flatly(rt, base, names)
			for j, v := range flat(m.Parameters) {
				if w := flat(want.Parameters)[j]; math.Abs(float64(v-w)) > 1e-6*max(1, math.Abs(float64(w))) || root.config.Sum == SumExact && v != w {
					rt.Fatalf("model of round %d, element %d: expected %v, found %v", m.Round, j, w, v)
				}
			}
		}
	})
}

// shardOfTwo is shard 0 of 2 of a training with eight clients, and a model of that
// training, on its topic, which the shard has not seen.
func shardOfTwo(t *testing.T) (tr *training, e *Edge, m Model) {
	t.Helper()
	tr = newTraining(t, 8, 3)
	for _, topic := range []string{"root.models", "sums", "partials"} {
		if err := tr.broker.Create(t.Context(), topic, 1); err != nil {
			t.Fatal(err)
		}
	}
	c := tr.config
	c.Models, c.Updates, c.Shards = "root.models", "sums", Shards{Of: 2, Partitions: 3}
	c.Strategy = "fedavg"
	m = open(t, c).Model()
	c = tr.config
	c.Rounds, c.Initial, c.Clients = 0, nil, nil
	e, err := OpenEdge(t.Context(), EdgeConfig{Config: c, Shards: m.Shards, Root: "root.models", Partials: "partials", Above: "sums", To: tr.publisher})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Models().Write(t.Context(), modelBatch(t, tr.publisher.registry, m)); err != nil {
		t.Fatal(err)
	}
	claim(t, e.Updates())
	return tr, e, m
}

// A client may answer a model before its shard has seen that: the update counts.
func TestShardIsBehindItsClients(t *testing.T) {
	tr, e, m := shardOfTwo(t)
	next, err := step(m, strategies.FedAvg{}, nil, nil)
	if err == nil {
		next.Parameters = m.Parameters
		next.Hash = m.Hash
		_, err = publishModel(t.Context(), tr.publisher, "root.models", next, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	client := e.Updates().Model().Clients[0]
	partition := stream.PartitionFor([]byte(client), 3)
	b := consumers.Batch{Topic: "updates", Partition: partition, Next: 1, Messages: []consumers.Message{message(t, tr.publisher.registry, client, updateOf(client, next).value())}}
	b.Messages[0].Partition = partition
	if err := e.Updates().Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if !e.Updates().arrived[client] {
		t.Errorf("%s did not count in round %d", client, e.Updates().Model().Round)
	}
}

// A shard is not waited for where none of its clients is asked.
func TestShardWithoutClients(t *testing.T) {
	m := Model{Shards: Shards{Of: 2, Partitions: 3}}
	for i := range 8 {
		m.Clients = append(m.Clients, fmt.Sprintf("c%d", i))
	}
	for i := range 2 {
		own, _ := m.Shard(m.Shards.Name(i))
		asked := m
		asked.Sample = own.Clients
		if got := asked.answering(); len(own.Clients) == 0 || !slices.Equal(got, []string{m.Shards.Name(i)}) {
			t.Errorf("of %q are waited for: %q", own.Clients, got)
		}
	}
	if got := m.answering(); !slices.Equal(got, m.Shards.names()) {
		t.Errorf("of all are waited for: %q", got)
	}
}

// What a shard says that it has added up is of its own clients, each once.
func TestShardSumsItsOwnClients(t *testing.T) {
	_, e, m := shardOfTwo(t)
	own, _ := m.Shard(e.config.Name)
	sum := func(clients ...string) Update {
		p := &partial{}
		for _, c := range clients {
			if err := p.add(strategies.FedAvg{}, own, nil, arrival{Update: updateOf(c, own), Contribution: Contribution{Client: c, Samples: updateOf(c, own).Samples}}); err != nil {
				t.Fatal(err)
			}
		}
		return sumOf(own, []*partial{p}, nil, Complete)
	}
	if _, err := sum(own.Clients...).summed(m, strategies.FedAvg{}); err != nil {
		t.Error(err)
	}
	other, _ := m.Shard(m.Shards.Name(1))
	for _, clients := range [][]string{other.Clients[:1], {own.Clients[0], own.Clients[0]}, {"c9"}} {
		if _, err := sum(clients...).summed(m, strategies.FedAvg{}); err == nil || !strings.Contains(err.Error(), "one update of each client of the shard") {
			t.Errorf("a sum of %q: %v", clients, err)
		}
	}
}

// A shard is handed nothing of others' partitions.
func TestShardReadsItsPartitions(t *testing.T) {
	_, e, _ := shardOfTwo(t)
	ctx, broker := t.Context(), memory.New()
	if err := broker.Create(ctx, "many", 5); err != nil {
		t.Fatal(err)
	}
	publish := func() (own int) {
		for i := range 100 {
			key := fmt.Appendf(nil, "k%d", i)
			if err := broker.Publish(ctx, stream.Record{Topic: "many", Key: key}); err != nil {
				t.Fatal(err)
			}
			if stream.PartitionFor(key, 5)%2 == 0 {
				own++
			}
		}
		return own
	}
	src, err := e.Reads(broker).Open(ctx, stream.Subscription{Topic: "many", Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	for range 2 {
		for left := publish(); left > 0; {
			records, ack, err := src.Fetch(ctx, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range records {
				if left--; r.Partition%2 != 0 {
					t.Fatalf("a record of partition %d", r.Partition)
				}
			}
			if err := ack(ctx, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What does not go with shards is said before a training begins.
func TestShardsRefuse(t *testing.T) {
	tr := newTraining(t, 3, 1)
	for name, change := range map[string]func(*Config){
		"one for each of the 3 partitions": func(c *Config) { c.Shards.Of = 4 },
		"signed updates nor a quorum":      func(c *Config) { c.Quorum = 1 },
		"edges, ":                          func(c *Config) { c.Edges = []string{"e"} },
		"a largest norm is":                func(c *Config) { c.MaxNorm = 1 },
		"needs the updates themselves":     func(c *Config) { c.Strategy = "median" },
	} {
		c := tr.config
		c.Shards = Shards{Of: 2, Partitions: 3}
		change(&c)
		if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("expected %q, found %v", name, err)
		}
	}
	good := EdgeConfig{Config: tr.config, Shards: Shards{Of: 2, Partitions: 3}, Root: "models", Partials: "p", Above: "sums", To: tr.publisher}
	good.Rounds, good.Initial, good.Clients = 0, nil, nil
	for name, change := range map[string]func(*EdgeConfig){
		"from 0 to 1":                  func(c *EdgeConfig) { c.Shard = 2 },
		"those of the training above":  func(c *EdgeConfig) { c.Deadline = time.Second },
		"the topic of the models abov": func(c *EdgeConfig) { c.Root = "" },
	} {
		c := good
		change(&c)
		if _, err := OpenEdge(t.Context(), c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("expected %q, found %v", name, err)
		}
	}
	e, err := OpenEdge(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	m := someModel(0)
	m.Strategy, m.Shards = "fedavg", Shards{Of: 3, Partitions: 3}
	if err := e.Models().Write(t.Context(), modelBatch(t, tr.publisher.registry, m)); !errors.Is(err, consumers.ErrStop) || !strings.Contains(err.Error(), "3 shards of 3 partitions, not 2 of 3") {
		t.Errorf("a training with other shards: %v", err)
	}
}
