package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/consumers"
	"penstock/consumers/microbatch"
	"penstock/consumers/sinks/parquet"
	"penstock/consumers/sinks/postgres"
	"penstock/consumers/sinks/sqlite"
	"penstock/consumers/sinks/sqlsink"
	"penstock/consumers/sinks/topic"
	"penstock/schemas"
	"penstock/schemas/samples"
	"penstock/stream"
)

// benchMicrobatchCmd measures storing records, each exactly once, against a bare
// loop that guarantees nothing.
type benchMicrobatchCmd struct {
	benchFlags
	To    string   `required:"" placeholder:"URL" help:"PostgreSQL database in which to make tables and drop them again."`
	Only  []string `placeholder:"ROW,…" help:"Only these rows: avro, json, parquet, sqlite, topic, processes."`
	Count int      `default:"5000" placeholder:"N" help:"Records a batch, on both sides (default ${default})."`
	Files int      `default:"25000" placeholder:"N" help:"Records a Parquet file, on both sides (default ${default})."`
}

// Help shows an example.
func (benchMicrobatchCmd) Help() string {
	return `Flights of 20 fields lie in a Kafka topic of four partitions. The raw side polls,
decodes into structs and stores them by COPY, parquet-go, SQLite's driver or franz-go, in
one goroutine
(cmd/penstock/bench_microbatch_raw.go). Penstock's side is 'consume microbatch'
as it is, with positions and fences. The row "two processes" has two of those, with
half of the partitions each, against one.

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
		target     func(b *bench) benchTarget
	}{
		{"avro", "microbatch postgres, Avro", data, decodeAvro, c.postgres(conn)},
		{"json", "microbatch postgres, JSON", asJSON, decodeJSON, c.postgres(conn)},
		{"parquet", "microbatch parquet, Avro", data, decodeAvro, c.parquet(dir)},
		{"sqlite", "microbatch sqlite, Avro", data, decodeAvro, c.sqlite(dir)},
		{"topic", "microbatch topic, Avro", data, decodeAvro, c.topic},
	}
	for _, row := range rows {
		if len(c.Only) > 0 && !slices.Contains(c.Only, row.only) {
			continue
		}
		b, err := openBench(ctx, t, c.Broker)
		if err != nil {
			return err
		}
		err = c.row(ctx, t, b, row.name, row.target(b), row.data, row.decode)
		if err := errors.Join(err, b.close()); err != nil {
			return err
		}
	}
	if len(c.Only) > 0 && !slices.Contains(c.Only, "processes") {
		return nil
	}
	return c.processes(ctx, t, conn, data)
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

func (c *benchMicrobatchCmd) row(ctx context.Context, t *terminal, b *bench, name string, to benchTarget, data *benchData, decode func([]byte, *rawFlight) error) error {
	if b.conn != nil {
		return usagef("--broker: this benchmark reads from Kafka; write kafka://HOST:PORT")
	}
	if _, err := b.rawProduce(c.Records, data.record)(ctx); err != nil {
		return err
	}
	if to.close != nil {
		defer to.close()
	}
	ours := func(ctx context.Context) (time.Duration, error) {
		return c.store(ctx, b, data.ours, to.batch, func(ctx context.Context) (sink, error) { return to.open(ctx, "bench-"+rand.Text()) })
	}
	raw := func(ctx context.Context) (time.Duration, error) {
		client, err := b.kafka.client(kgo.ConsumeTopics(b.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			return 0, err
		}
		defer client.Close()
		store, end, err := to.raw(ctx)
		if err != nil {
			return 0, err
		}
		took, err := rawMicrobatch(ctx, client, c.Records, to.batch, decode, store)
		return took, errors.Join(err, end())
	}
	if to.prepare != nil { // one run makes what the raw side has a copy of
		if _, err := ours(ctx); err != nil {
			return err
		}
		if err := to.prepare(ctx); err != nil {
			return err
		}
	}
	emptied := func(s side) side { // both sides write to what is empty
		return func(ctx context.Context) (time.Duration, error) {
			if to.empty != nil {
				if err := to.empty(ctx); err != nil {
					return 0, err
				}
			}
			return s(ctx)
		}
	}
	return c.compare(ctx, t, name, "one goroutine, "+to.settings, emptied(ours), emptied(raw))
}

// benchTarget is where a row of the benchmark stores.
type benchTarget struct {
	settings string
	batch    int
	open     func(ctx context.Context, group string) (sink, error)
	// raw opens the other side's way to store, and to end it.
	raw     func(ctx context.Context) (store rawStore, end func() error, err error)
	prepare func(ctx context.Context) error // the raw side, after a first run; may be nil
	empty   func(ctx context.Context) error // both sides; may be nil
	close   func()                          // may be nil
}

func nothingToEnd() error { return nil }

func (c *benchMicrobatchCmd) postgres(conn *pgx.Conn) func(*bench) benchTarget {
	return func(*bench) benchTarget {
		suffix := strings.ToLower(rand.Text()[:8])
		table, rawTable := "penstock_bench_"+suffix, "penstock_bench_raw_"+suffix
		exec := func(ctx context.Context, statement string) error {
			_, err := conn.Exec(ctx, statement)
			return err
		}
		return benchTarget{
			settings: fmt.Sprintf("COPY of %d rows", c.Count), batch: c.Count,
			open: func(ctx context.Context, group string) (sink, error) {
				return postgres.Open(ctx, c.To, sqlsink.Config{Table: table, Pipeline: group})
			},
			raw: func(ctx context.Context) (rawStore, func() error, error) {
				return rawCopy(ctx, conn, rawTable), nothingToEnd, nil
			},
			prepare: func(ctx context.Context) error { return exec(ctx, "CREATE TABLE "+rawTable+" (LIKE "+table+")") },
			empty:   func(ctx context.Context) error { return exec(ctx, "TRUNCATE "+table+", "+rawTable) },
			close: func() { // what is left has a name of its own
				_ = exec(context.Background(), "DROP TABLE IF EXISTS "+table+", "+rawTable)
			},
		}
	}
}

func (c *benchMicrobatchCmd) parquet(dir string) func(*bench) benchTarget {
	return func(*bench) benchTarget {
		return benchTarget{
			settings: fmt.Sprintf("parquet-go, Snappy, files of %d rows in one row group, synced", c.Files), batch: c.Files,
			open: func(ctx context.Context, group string) (sink, error) {
				return parquet.Open(ctx, filepath.Join(dir, group), parquet.Config{Pipeline: group})
			},
			raw: func(context.Context) (rawStore, func() error, error) {
				return rawParquet(func() (*os.File, error) { return os.Create(filepath.Join(dir, rand.Text()+".parquet")) }), nothingToEnd, nil
			},
		}
	}
}

func (c *benchMicrobatchCmd) sqlite(dir string) func(*bench) benchTarget {
	return func(*bench) benchTarget {
		return benchTarget{
			settings: fmt.Sprintf("transactions of %d rows, %d in a statement, synchronous=FULL", c.Count, rawSQLiteRows), batch: c.Count,
			open: func(ctx context.Context, group string) (sink, error) {
				return sqlite.Open(ctx, filepath.Join(dir, group+".db"), sqlsink.Config{Table: "flights", Pipeline: group})
			},
			raw: func(ctx context.Context) (rawStore, func() error, error) {
				return rawSQLite(ctx, filepath.Join(dir, rand.Text()+".db"))
			},
		}
	}
}

func (c *benchMicrobatchCmd) topic(b *bench) benchTarget {
	return benchTarget{
		settings: fmt.Sprintf("produced and awaited %d at a time", c.Count), batch: c.Count,
		open: func(ctx context.Context, group string) (sink, error) {
			return openTopicSink(ctx, b.broker, b.topic, topic.Config{Topic: b.topic + "-ours", Pipeline: group})
		},
		raw: func(ctx context.Context) (rawStore, func() error, error) {
			if err := b.broker.Create(ctx, b.topic+"-raw", benchPartitions); err != nil {
				return nil, nil, err
			}
			client, err := b.kafka.client(kgo.MaxBufferedRecords(c.Count))
			if err != nil {
				return nil, nil, err
			}
			return rawTopic(ctx, client, b.topic+"-raw"), func() error { client.Close(); return nil }, nil
		},
	}
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
