package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/schemas/samples"
	"penstock/stream"
	"penstock/stream/nats"
)

// benchCmd measures Penstock against the raw client.
type benchCmd struct {
	Produce    benchProduceCmd    `cmd:"" help:"Publish orders: validated, encoded, framed; against encoder and client called by hand."`
	Consume    benchConsumeCmd    `cmd:"" help:"Read and decode flights, against client and decoder called by hand."`
	Microbatch benchMicrobatchCmd `cmd:"" help:"Store flights exactly once, against a bare loop of poll, decode and COPY."`
	Member     benchMemberCmd     `cmd:"" hidden:""`
	Gateway    benchGatewayCmd    `cmd:"" help:"Publish over HTTP, against penstock produce and against a bare handler."`
	Registry   benchRegistryCmd   `cmd:"" help:"Get and register schemas, against a bare handler and a bare loop of appends."`
	Diff       benchDiffCmd       `cmd:"" help:"Compare values, against another library."`
	Federated  benchFederatedCmd  `cmd:"" help:"Fold model updates, against reading the same memory."`
}

// benchFlags are what the benchmarks share.
type benchFlags struct {
	brokerFlag
	outputFlag
	Records int `short:"n" default:"500000" placeholder:"N" help:"Records a run (default ${default})."`
	Pairs   int `default:"9" placeholder:"N" help:"Runs of each side, taken in turn (default ${default})."`

	unit   string         // what is counted, if it is no records
	memory func() float64 // what our side took at most, or nil
}

// Help says how to read the figures.
func (benchFlags) Help() string {
	return `Both sides do the same work on the same broker in turn; the ratio is Penstock's
rate over the raw one, pair by pair, and the median is what to quote. The raw
side is cmd/penstock/bench_raw.go, with the settings that were fastest in a sweep.

Examples:
  penstock bench produce --broker kafka://127.0.0.1:9092 -o json
  penstock bench consume --broker kafka://127.0.0.1:9092`
}

// figure is one row of a benchmark. Rates are medians, in records a second.
type figure struct {
	Name     string  `json:"name"`
	Rate     float64 `json:"rate"`
	RawRate  float64 `json:"raw_rate"`
	Ratio    float64 `json:"ratio"`
	Unit     string  `json:"unit"`
	RatioMin float64 `json:"ratio_min"`
	RatioMax float64 `json:"ratio_max"`
	Pairs    int     `json:"pairs"`
	Records  int     `json:"records"`
	Settings string  `json:"settings"`
	CPUs     int     `json:"cpus"`
	Memory   float64 `json:"memory,omitempty"` // the most that our side took, in a unit of the row's own
}

// side runs one side once, and says how long it took.
type side func(ctx context.Context) (time.Duration, error)

// compare runs both sides in turn and prints the figure.
func (f *benchFlags) compare(ctx context.Context, t *terminal, name, settings string, ours, raw side) error {
	var ourTimes, rawTimes, ratios []float64
	bar := t.progress(name, int64(f.Pairs))
	for i := range f.Pairs + 1 {
		sides := []side{raw, ours}
		took := make([]float64, 2)
		for k := range sides {
			k = (k + i) % 2 // the other side first each time
			runtime.GC()
			d, err := sides[k](ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			took[k] = d.Seconds()
		}
		if i == 0 {
			continue // warms up
		}
		rawTimes, ourTimes = append(rawTimes, took[0]), append(ourTimes, took[1])
		ratios = append(ratios, took[0]/took[1])
		bar.add(1)
	}
	bar.stop()
	n, unit := float64(f.Records), cmp.Or(f.unit, "records/s")
	row := figure{
		Name: name, Rate: math.Round(n / median(ourTimes)), RawRate: math.Round(n / median(rawTimes)), Ratio: round3(median(ratios)), Unit: unit,
		RatioMin: round3(slices.Min(ratios)), RatioMax: round3(slices.Max(ratios)), Pairs: f.Pairs, Records: f.Records,
		Settings: settings, CPUs: runtime.GOMAXPROCS(0),
	}
	memory := ""
	if f.memory != nil {
		row.Memory = f.memory()
		memory = fmt.Sprintf("  memory %v", row.Memory)
	}
	if f.json() {
		return t.object(row)
	}
	t.printf("%-24s ratio %.3f (%.3f to %.3f over %d pairs)  penstock %s %s  raw %s %s%s  raw settings: %s\n", row.Name,
		row.Ratio, row.RatioMin, row.RatioMax, row.Pairs, count(int64(row.Rate)), unit, count(int64(row.RawRate)), unit, memory, settings)
	return nil
}

func round3(x float64) float64 { return math.Round(x*1000) / 1000 }

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	if n := len(x); n%2 == 0 {
		return (x[n/2-1] + x[n/2]) / 2
	}
	return x[len(x)/2]
}

// benchData are the flights as bytes, again and again in order.
type benchData struct {
	schema  *avro.Schema
	ours    schemas.Schema
	keys    [][]byte
	encoded [][]byte
}

// benchFrame stands before each value: schema id 1.
var benchFrame = schemas.AppendHeader(nil, 1)

func newBenchData() (*benchData, error) {
	sample, err := samples.Get("flights")
	if err != nil {
		return nil, err
	}
	text, err := sample.Schema(schemas.Avro)
	if err != nil {
		return nil, err
	}
	d := &benchData{}
	if d.schema, err = avro.Parse(text); err != nil {
		return nil, err
	}
	if d.ours, err = formats()[0].Parse(text, nil); err != nil {
		return nil, err
	}
	held, err := sample.Held()
	if err != nil {
		return nil, err
	}
	events, err := sample.Events(held)
	if err != nil {
		return nil, err
	}
	for event := range events {
		value, err := rawEncode(d.schema, benchFrame, event)
		if err != nil {
			return nil, err
		}
		d.encoded = append(d.encoded, value)
		d.keys = append(d.keys, fmt.Appendf(nil, "%v", event[sample.Key]))
	}
	return d, nil
}

// record is the i-th record as bytes that were encoded before.
func (d *benchData) record(i int) (key, value []byte, err error) {
	i %= len(d.encoded)
	return d.keys[i], d.encoded[i], nil
}

// oneSchema is a registry with one schema, of id 1.
type oneSchema struct{ schema schemas.Schema }

func (s oneSchema) Latest(context.Context, string) (schemas.ID, schemas.Schema, error) {
	return 1, s.schema, nil
}

func (s oneSchema) Schema(_ context.Context, id schemas.ID) (schemas.Schema, error) {
	if id != 1 {
		return nil, schemas.ErrNoSchema
	}
	return s.schema, nil
}

// benchConsumeCmd measures reading.
type benchConsumeCmd struct {
	benchFlags
}

// Run prints a row for reading and decoding.
func (c *benchConsumeCmd) Run(ctx context.Context, t *terminal) (err error) {
	data, err := newBenchData()
	if err != nil {
		return err
	}
	b, err := openBench(ctx, t, c.Broker)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	fill := b.rawProduce(c.Records, data.record)
	if _, err := fill(ctx); err != nil {
		return err
	}
	decode := func(value []byte) error {
		var v any
		_, err := data.schema.Decode(value[len(benchFrame):], &v)
		return err
	}
	return c.compare(ctx, t, "consume map", "the client's own, from the oldest record", c.consume(b, data.ours), b.rawConsume(c.Records, decode))
}

// consume is Penstock's side. The time counts from the first batch on.
func (c *benchConsumeCmd) consume(b *bench, schema schemas.Schema) side {
	return func(ctx context.Context) (time.Duration, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		src, err := b.broker.Open(ctx, stream.Subscription{Topic: b.topic, Group: "bench-" + rand.Text(), Owner: noPositions{}})
		if err != nil {
			return 0, err
		}
		timed := &timedSource{Source: src}
		sink := &countingSink{left: c.Records, done: func() { timed.end = time.Now(); cancel() }}
		err = consumers.Run(ctx, timed, sink, consumers.Config{Registry: oneSchema{schema}, MaxRecords: 5000})
		return timed.end.Sub(timed.start), errors.Join(err, src.Close())
	}
}

// timedSource notes when the first batch came.
type timedSource struct {
	stream.Source
	start, end time.Time
}

func (s *timedSource) Fetch(ctx context.Context, max int) ([]stream.Record, stream.AckFunc, error) {
	records, ack, err := s.Source.Fetch(ctx, max)
	if s.start.IsZero() {
		s.start = time.Now()
	}
	return records, ack, err
}

// countingSink counts messages until there are none left.
type countingSink struct {
	mu   sync.Mutex
	left int
	done func()
}

func (s *countingSink) Write(_ context.Context, b consumers.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.left
	if s.left -= len(b.Messages); before > 0 && s.left <= 0 {
		s.done()
	}
	return nil
}

// bench is a topic of its own on a broker, by Penstock and by the raw client.
type bench struct {
	broker stream.Broker
	topic  string
	kafka  kafkaCluster
	conn   *natsgo.Conn // NATS
	raw    rawSettings
}

// rawSettings are what the raw producer is swept over.
type rawSettings struct {
	linger  time.Duration             // Kafka
	batch   int32                     // Kafka: bytes
	pending int                       // NATS: acknowledgements outstanding
	ahead   jetstream.PullMessagesOpt // NATS: what a reader asks for at a time
}

const benchPartitions = 4

func openBench(ctx context.Context, t *terminal, url string) (*bench, error) {
	return openBenchOf(ctx, t, url, benchPartitions)
}

func openBenchOf(ctx context.Context, t *terminal, url string, partitions int) (*bench, error) {
	broker, err := openBroker(ctx, url, t.log)
	if err != nil {
		return nil, err
	}
	b := &bench{broker: broker, topic: "penstock-bench-" + strings.ToLower(rand.Text()[:10]), raw: rawSettings{batch: 1_000_000, pending: 4096, ahead: jetstream.PullMaxMessages(10_000)}}
	if err = broker.Create(ctx, b.topic, partitions); err == nil {
		if dir, embedded := embeddedDir(url); embedded {
			var file nats.ServerFile
			if file, err = nats.ReadServerFile(dir); err == nil {
				b.conn, err = natsgo.Connect(file.URL, natsgo.Token(file.Token))
			}
		} else if strings.HasPrefix(url, "kafka://") {
			b.kafka, err = parseKafka(url)
		} else {
			b.conn, err = natsgo.Connect(url)
		}
	}
	if err != nil {
		return nil, errors.Join(err, broker.Close())
	}
	return b, nil
}

func (b *bench) close() error {
	if b.conn != nil {
		b.conn.Close()
	}
	return b.broker.Close()
}

// sweep tries the raw client's settings on encoded records, keeps the fastest,
// and says which they are.
func (b *bench) sweep(ctx context.Context, n int, record func(i int) (key, value []byte, err error)) (string, error) {
	try := b.rawProduce(n, record)
	if _, err := try(ctx); err != nil { // warms up
		return "", err
	}
	candidates := []rawSettings{
		{linger: 0, batch: 1_000_000, pending: 1024}, {linger: 2 * time.Millisecond, batch: 1_000_000, pending: 4096}, {linger: 10 * time.Millisecond, batch: 1_000_000, pending: 16384},
		{linger: 0, batch: 250_000, pending: 32768}, {linger: 10 * time.Millisecond, batch: 250_000, pending: 65536},
	}
	best, fastest := time.Duration(math.MaxInt64), candidates[0]
	for _, b.raw = range candidates {
		took, err := try(ctx)
		if err != nil {
			return "", err
		}
		if took < best {
			best, fastest = took, b.raw
		}
	}
	b.raw = fastest
	if b.conn != nil {
		return fmt.Sprintf("asynchronous, %d pending", b.raw.pending), nil
	}
	return fmt.Sprintf("idempotent, acks=all, linger %v, batches of up to %d bytes", b.raw.linger, b.raw.batch), nil
}

// rawProduce is the raw client's side of publishing.
func (b *bench) rawProduce(n int, record func(i int) (key, value []byte, err error)) side {
	return func(ctx context.Context) (time.Duration, error) {
		if b.conn != nil {
			start := time.Now()
			err := rawNATSProduce(ctx, b.conn, b.raw.pending, func(i int) string { return fmt.Sprintf("%s.%d", b.topic, i%benchPartitions) }, n, record)
			return time.Since(start), err
		}
		client, err := b.kafka.client(kgo.ProducerLinger(b.raw.linger), kgo.ProducerBatchMaxBytes(b.raw.batch), kgo.MaxBufferedRecords(n))
		if err != nil {
			return 0, err
		}
		defer client.Close()
		if err := client.Ping(ctx); err != nil {
			return 0, err
		}
		start := time.Now()
		err = rawKafkaProduce(ctx, client, b.topic, n, record)
		return time.Since(start), err
	}
}

// rawConsume is the raw client's side of reading.
func (b *bench) rawConsume(n int, each func(value []byte) error) side {
	return func(ctx context.Context) (time.Duration, error) {
		if b.conn != nil {
			js, err := jetstream.New(b.conn)
			if err != nil {
				return 0, err
			}
			consumer, err := js.OrderedConsumer(ctx, b.topic, jetstream.OrderedConsumerConfig{})
			if err != nil {
				return 0, err
			}
			return rawNATSConsume(consumer, b.raw.ahead, n, each)
		}
		client, err := b.kafka.client(kgo.ConsumeTopics(b.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			return 0, err
		}
		defer client.Close()
		return rawKafkaConsume(ctx, client, n, each)
	}
}
