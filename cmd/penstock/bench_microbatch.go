package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/consumers"
	"penstock/consumers/microbatch"
	"penstock/consumers/sinks/parquet"
	"penstock/consumers/sinks/postgres"
	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
	"penstock/schemas/samples"
	"penstock/stream"
)

// benchMicrobatchCmd measures storing records, each exactly once, against a bare
// loop that guarantees nothing.
type benchMicrobatchCmd struct {
	benchFlags
	To    string   `required:"" placeholder:"URL" help:"PostgreSQL database in which to make tables and drop them again."`
	Only  []string `placeholder:"ROW,…" help:"Only these rows: avro, json, parquet."`
	Count int      `default:"5000" placeholder:"N" help:"Records a batch, on both sides (default ${default})."`
	Files int      `default:"25000" placeholder:"N" help:"Records a Parquet file, on both sides (default ${default})."`
}

// Help shows an example.
func (benchMicrobatchCmd) Help() string {
	return `Flights of 20 fields lie in a Kafka topic of four partitions. The raw side polls,
decodes into structs and stores them by COPY, or by parquet-go, in one goroutine
(cmd/penstock/bench_microbatch_raw.go). Penstock's side is 'consume microbatch'
as it is, with positions and fences.

Example:
  penstock bench microbatch --broker kafka://127.0.0.1:9092 --to postgres://127.0.0.1/bench -o json`
}

// Run prints a row for each kind of record and sink.
func (c *benchMicrobatchCmd) Run(ctx context.Context, t *terminal) error {
	conn, err := pgx.Connect(ctx, c.To)
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	defer conn.Close(ctx)
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	data, err := newBenchData()
	if err != nil {
		return err
	}
	decodeAvro := func(value []byte, f *rawFlight) error {
		_, err := data.schema.Decode(value[len(benchFrame):], f)
		return err
	}
	decodeJSON := func(value []byte, f *rawFlight) error { return json.Unmarshal(value[len(benchFrame):], f) }
	asJSON, err := benchJSON(data)
	if err != nil {
		return err
	}
	rows := []struct {
		only, name string
		data       *benchData
		decode     func([]byte, *rawFlight) error
	}{
		{"avro", "microbatch postgres, Avro", data, decodeAvro},
		{"json", "microbatch postgres, JSON", asJSON, decodeJSON},
		{"parquet", "microbatch parquet, Avro", data, decodeAvro},
	}
	for _, row := range rows {
		if len(c.Only) > 0 && !strings.Contains(strings.Join(c.Only, " "), row.only) {
			continue
		}
		b, err := openBench(ctx, t, c.Broker)
		if err != nil {
			return err
		}
		err = c.row(ctx, t, b, conn, dir, row.name, row.only == "parquet", row.data, row.decode)
		if err := errors.Join(err, b.close()); err != nil {
			return err
		}
	}
	return nil
}

// benchJSON is the flights under their JSON Schema.
func benchJSON(from *benchData) (*benchData, error) {
	sample, err := samples.Get("flights")
	if err != nil {
		return nil, err
	}
	text, err := sample.Schema(schemas.JSON)
	if err != nil {
		return nil, err
	}
	d := &benchData{keys: from.keys}
	if d.ours, err = formats()[1].Parse(text, nil); err != nil {
		return nil, err
	}
	for _, encoded := range from.encoded {
		v, err := from.ours.Decode(encoded[len(benchFrame):])
		if err != nil {
			return nil, err
		}
		value, err := d.ours.AppendEncode(benchFrame[:len(benchFrame):len(benchFrame)], v)
		if err != nil {
			return nil, err
		}
		d.encoded = append(d.encoded, value)
	}
	return d, nil
}

func (c *benchMicrobatchCmd) row(ctx context.Context, t *terminal, b *bench, conn *pgx.Conn, dir, name string, files bool, data *benchData, decode func([]byte, *rawFlight) error) error {
	if b.conn != nil {
		return usagef("--broker: this benchmark reads from Kafka; write kafka://HOST:PORT")
	}
	if _, err := b.rawProduce(c.Records, data.record)(ctx); err != nil {
		return err
	}
	suffix := strings.ToLower(rand.Text()[:8])
	table, rawTable := "penstock_bench_"+suffix, "penstock_bench_raw_"+suffix
	batch, settings := c.Count, fmt.Sprintf("one goroutine, COPY of %d rows", c.Count)
	if files {
		batch, settings = c.Files, fmt.Sprintf("one goroutine, parquet-go, Snappy, files of %d rows", c.Files)
	}
	open := func(ctx context.Context) (sink, error) {
		group := "bench-" + rand.Text()
		if files {
			return parquet.Open(ctx, filepath.Join(dir, group), parquet.Config{Pipeline: group})
		}
		return postgres.Open(ctx, c.To, sqlsink.Config{Table: table, Pipeline: group})
	}
	exec := func(statement string) error {
		_, err := conn.Exec(ctx, statement)
		return err
	}
	ours := func(ctx context.Context) (time.Duration, error) { return c.store(ctx, b, data.ours, batch, open) }
	raw := func(ctx context.Context) (time.Duration, error) {
		client, err := b.kafka.client(kgo.ConsumeTopics(b.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			return 0, err
		}
		defer client.Close()
		store := rawCopy(ctx, conn, rawTable)
		if files {
			store = rawParquet(func() (io.WriteCloser, error) { return os.Create(filepath.Join(dir, rand.Text()+".parquet")) })
		}
		return rawMicrobatch(ctx, client, c.Records, batch, decode, store)
	}
	if !files {
		// One run makes the table, of which the raw one is a copy.
		if _, err := ours(ctx); err != nil {
			return err
		}
		if err := exec("CREATE TABLE " + rawTable + " (LIKE " + table + ")"); err != nil {
			return err
		}
		defer exec("DROP TABLE " + table + ", " + rawTable) //nolint:errcheck // what is left has a name of its own
	}
	emptied := func(s side) side { // both sides write to an empty table
		return func(ctx context.Context) (time.Duration, error) {
			if !files {
				if err := exec("TRUNCATE " + table + ", " + rawTable); err != nil {
					return 0, err
				}
			}
			return s(ctx)
		}
	}
	return c.compare(ctx, t, name, settings, emptied(ours), emptied(raw))
}

// store is Penstock's side. The time counts from the first fetch on.
func (c *benchMicrobatchCmd) store(ctx context.Context, b *bench, schema schemas.Schema, batch int, open func(context.Context) (sink, error)) (time.Duration, error) {
	sink, err := open(ctx)
	if err != nil {
		return 0, err
	}
	defer sink.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	src, err := b.broker.Open(ctx, stream.Subscription{Topic: b.topic, Group: "bench-" + rand.Text(), Owner: sink})
	if err != nil {
		return 0, err
	}
	timed := &timedSource{Source: src}
	batches := microbatch.Batch(timed, microbatch.Policy{Count: batch, Bytes: 64 << 20, Linger: 20 * time.Millisecond})
	var mu sync.Mutex
	left := c.Records
	err = consumers.Run(ctx, batches, sink, consumers.Config{
		Registry: oneSchema{schema}, MaxRecords: batch,
		Hooks: consumers.Hooks{Settled: func(settled consumers.Batch, _ time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			before := left
			if left -= len(settled.Messages); before > 0 && left <= 0 {
				timed.end = time.Now()
				cancel()
			}
		}},
	})
	return timed.end.Sub(timed.start), errors.Join(err, batches.Close(), src.Close())
}
