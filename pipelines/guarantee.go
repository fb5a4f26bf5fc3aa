package pipelines

import (
	"fmt"
	"strings"
)

// Delivery is how often a record that passes is found in the sink.
type Delivery string

// The deliveries.
const (
	ExactlyOnce Delivery = "exactly once"
	AtLeastOnce Delivery = "at least once"
)

// Promise is what a kind of sink promises. The table in docs/microbatching.md is
// made of all of them.
type Promise struct {
	Kind Kind
	// Broker is "kafka" or "jetstream" where the promise is of sinks on that
	// broker alone.
	Broker string
	// Sink is how the URL is written.
	Sink     string
	Delivery Delivery
	// But is what has to be added to Delivery, if anything.
	But string
	Why string
	// Proof names a package and its tests.
	Proof string
	// Breaks are what takes the promise away.
	Breaks []string
}

const positions = "position and owner epoch in the transaction of the rows"

// Promises are the promises of all sinks.
var Promises = []Promise{
	{
		Kind: Postgres, Sink: "`postgres://…`", Delivery: ExactlyOnce,
		Why:   positions + "; after a COMMIT whose answer is lost, the position is read",
		Proof: "`consumers/sinks/postgres`: TestKilledAtEachStep, TestZombie, TestLostCommit, TestDiskFull, TestServerRestarted, TestCrash, TestOnce, TestTerminated, TestRebalance, TestSuite/zombie",
		Breaks: []string{
			"rows or the table penstock_positions restored one without the other",
			"rows of penstock_positions deleted or changed: the topic is stored anew, or in part not at all",
		},
	},
	{
		Kind: SQLite, Sink: "`sqlite:FILE`", Delivery: ExactlyOnce,
		Why:   positions,
		Proof: "`consumers/sinks/sqlite`: TestCrash, TestOnce, TestRebalance, TestSuite/zombie",
		Breaks: []string{
			"a file on a network's disk, where locks may not hold",
			"rows of penstock_positions deleted or changed: the topic is stored anew, or in part not at all",
		},
	},
	{
		Kind: Parquet, Sink: "`parquet:DIR`, `parquet:s3://BUCKET/PREFIX`", Delivery: ExactlyOnce, But: "for readers that list folders too",
		Why:   "the files of a partition in a folder are a chain: each is created exclusively under the offset of its first row and says how far it goes; a manifest holds the position",
		Proof: "`consumers/sinks/parquet`: TestKilledAtEachStep, TestCrash, TestOnce, TestRebalance",
		Breaks: []string{
			"an object storage that writes over what is there in spite of If-None-Match",
			"manifests deleted once the topic has dropped what they cover",
			"another --partition-by over files that are there",
		},
	},
	{
		Kind: Topic, Broker: "kafka", Sink: "`topic:NAME` on Kafka", Delivery: ExactlyOnce, But: "for readers of committed records",
		Why:   "position and records in one transaction, of a transactional id that each new owner takes over",
		Proof: "`consumers/sinks/topic`: TestCrash/kafka, TestOnce/kafka, TestLostAnswer/kafka",
		Breaks: []string{
			"a reader of the target with isolation level read_uncommitted, which also sees what was aborted",
			"the target topic deleted, or its records of positions",
		},
	},
	{
		Kind: Topic, Broker: "jetstream", Sink: "`topic:NAME` on JetStream", Delivery: ExactlyOnce, But: "beyond the duplicate window too",
		Why:    "position and records in one atomic batch, after the position that its writer knows",
		Proof:  "`consumers/sinks/topic`: TestCrash/nats, TestOnce/nats, TestLostAnswer/nats, TestRebalance",
		Breaks: []string{"the target stream deleted, or its records of positions"},
	},
	{
		Kind: Webhook, Sink: "`https://…`", Delivery: AtLeastOnce, But: "the receiver can tell what comes again",
		Why:   "the event's id is `PARTITION/OFFSET`; the broker keeps the position, and no record is set aside because the endpoint is down",
		Proof: "`consumers/sinks/webhook`: TestDelivery, TestKilled, TestRefused, TestLater, TestCircuit, TestAway",
		Breaks: []string{
			"a crash, or a partition that moves, between an answer and its acknowledgement: those events come twice, with the ids that they had",
			"an answer of 2xx for what the receiver has not stored",
		},
	},
}

// Guarantee is what a pipeline promises from end to end.
type Guarantee struct {
	Pipeline string   `json:"pipeline"`
	Topic    string   `json:"topic"`
	Sink     string   `json:"sink"`
	Delivery Delivery `json:"guarantee"`
	Why      []string `json:"why"`
	Order    []string `json:"order"`
	Breaks   []string `json:"breaks"`
	Proof    string   `json:"proof"`
	// DeadLetters is the topic of what is set aside; empty, nothing is.
	DeadLetters string `json:"deadLetters,omitempty"`
}

// Explain says what a pipeline that Check admits promises.
func (p Pipeline) Explain() Guarantee {
	broker := "jetstream"
	if strings.HasPrefix(p.Source.Broker, "kafka:") {
		broker = "kafka"
	}
	kind := p.Sink.Kind()
	g := Guarantee{Pipeline: p.Name, Topic: p.Source.Topic, Sink: string(kind), DeadLetters: p.Errors.DeadLetters}
	for _, promise := range Promises {
		if promise.Kind != kind || promise.Broker != "" && promise.Broker != broker {
			continue
		}
		g.Delivery, g.Proof = promise.Delivery, strings.ReplaceAll(promise.Proof, "`", "")
		g.Why = append(g.Why, strings.ReplaceAll(promise.Why, "`", ""))
		if promise.But != "" {
			g.Why = append(g.Why, promise.But)
		}
		g.Breaks = append(g.Breaks, promise.Breaks...)
	}
	if kind == Topic {
		g.Sink = fmt.Sprintf("topic on %s", broker)
	}
	for _, r := range remarks {
		if r.holds(p, broker) {
			add := map[aspect]*[]string{why: &g.Why, order: &g.Order, breaks: &g.Breaks}[r.aspect]
			*add = append(*add, r.text)
		}
	}
	return g
}

// aspect is what a remark is about.
type aspect uint8

const (
	why aspect = iota
	order
	breaks
)

// remarks are what is to be said of configurations, beside what sinks promise.
var remarks = []struct {
	aspect aspect
	holds  func(p Pipeline, broker string) bool
	text   string
}{
	{why, skips, "a record that cannot be decoded or stored is not in the sink but in the dead-letter topic, once more if a kill falls between it and the position"},
	{why, func(p Pipeline, _ string) bool { return p.Sink.Mode == Upsert }, "there is one row for each key: the newest record's"},
	{why, func(p Pipeline, _ string) bool { return p.Batch.Coalesce }, "of the records of one key in a batch only the last is stored; where batches end depends on timing, so which others are stored does too"},
	{why, func(p Pipeline, _ string) bool { return p.Filter != "" }, "records that the filter does not want are done with, and the position moves on; another filter later does not bring them back"},
	{order, func(p Pipeline, _ string) bool { return p.Batch.Keys > 0 }, "batches of different keys overtake one another, also within a partition"},
	{order, always, "records of one partition are stored in their order, and so are those of one key while the topic keeps its number of partitions; partitions overtake one another"},
	{order, func(p Pipeline, _ string) bool { return p.Sink.Kind() == Webhook }, "requests of one batch may arrive in any order; offsets in the ids say which"},
	{order, blocks, "a partition waits at a record that cannot pass, and nothing is set aside: no record overtakes another of its partition"},
	{order, parks, "of a key, no record overtakes one that was set aside: those behind it wait among the dead letters until they are redriven, or it is released"},
	{order, func(p Pipeline, _ string) bool { return skips(p, "") && !parks(p, "") }, "a record that was set aside and is brought back comes after those that followed it"},
	{breaks, always, "records that the topic drops before they are read (retention, compaction): the pipeline stops where the position is gone, but cannot bring them back"},
	{breaks, func(p Pipeline, _ string) bool { return p.Sink.Kind() != Webhook }, "another --group: it has no position yet, and stores the whole topic once more"},
	{breaks, func(p Pipeline, _ string) bool { return p.Sink.Kind() == Webhook }, "another --group: it has no position yet, and posts the whole topic once more"},
	{breaks, func(_ Pipeline, broker string) bool { return broker == "kafka" }, "a topic of one replica, or unclean leader election: the broker itself then loses what it had acknowledged to producers"},
	{breaks, func(_ Pipeline, broker string) bool { return broker == "jetstream" }, "a stream of one replica whose server loses its disk"},
}

func always(Pipeline, string) bool     { return true }
func skips(p Pipeline, _ string) bool  { return p.Errors.Ordering != Block }
func parks(p Pipeline, _ string) bool  { return p.Errors.Ordering == Park }
func blocks(p Pipeline, _ string) bool { return p.Errors.Ordering == Block }

// String is the guarantee as text.
func (g Guarantee) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: topic %s to %s\n  guarantee: %s\n", g.Pipeline, g.Topic, g.Sink, g.Delivery)
	if g.DeadLetters != "" {
		fmt.Fprintf(&b, "  dead letters: topic %s\n", g.DeadLetters)
	}
	for _, part := range []struct {
		name  string
		lines []string
	}{{"why", g.Why}, {"order", g.Order}, {"what would break it", g.Breaks}, {"proven by", []string{g.Proof}}} {
		fmt.Fprintf(&b, "  %s:\n", part.name)
		for _, line := range part.lines {
			fmt.Fprintf(&b, "  - %s\n", line)
		}
	}
	return b.String()
}

// Table is Promises in Markdown.
func Table() string {
	var b strings.Builder
	b.WriteString("| sink | guarantee | by what | proven by |\n| --- | --- | --- | --- |\n")
	for _, p := range Promises {
		delivery := string(p.Delivery)
		switch {
		case p.But != "" && p.Delivery == AtLeastOnce:
			delivery += "; " + p.But
		case p.But != "":
			delivery += ", " + p.But
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", p.Sink, delivery, p.Why, p.Proof)
	}
	return b.String()
}
