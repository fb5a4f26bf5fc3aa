package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"penstock/consumers"
	"penstock/consumers/diffing"
	"penstock/consumers/microbatch"
	"penstock/consumers/sinks/parquet"
	"penstock/consumers/sinks/sqlsink"
	"penstock/consumers/sinks/topic"
	"penstock/consumers/sinks/webhook"
	"penstock/registry/client"
	"penstock/schemas"
	"penstock/stream"
)

// consumeCmd runs consumers.
type consumeCmd struct {
	Microbatch microbatchCmd `cmd:"" help:"Store records in a database, each exactly once."`
	Diff       diffCmd       `cmd:"" help:"Turn keyed state into change events."`
	Tail       tailCmd       `cmd:"" help:"Print decoded records."`
}

// subscriptionFlags are what every consumer asks.
type subscriptionFlags struct {
	Topic string `arg:"" help:"Topic to read."`

	brokerFlag
	registryFlag
	outputFlag
	Group string `placeholder:"NAME" help:"Name under which positions are kept. Default: the job's name."`
	As    string `name:"read-as" placeholder:"VERSION" help:"Read values as this version (a number, or latest) of TOPIC-value, by the migration rules in between. Default: as they were written."`
	Until string `enum:"stopped,end" default:"stopped" help:"Run until stopped, or until what the topic held at the start (end) is done."`
}

// microbatchCmd stores records in a database.
type microbatchCmd struct {
	subscriptionFlags
	To     string        `required:"" placeholder:"URL" help:"sqlite:FILE, postgres://…, parquet:DIR, parquet:s3://BUCKET/PREFIX, topic:NAME, or https://… to post to"`
	Table  string        `placeholder:"NAME" help:"Table to write to; made from the schema if it does not exist. Default: the topic's name."`
	Mode   string        `enum:"append,upsert" default:"append" help:"append rows, or upsert the newest by key."`
	Key    []string      `placeholder:"COLUMN,…" help:"Key columns, for --mode upsert."`
	By     []string      `name:"partition-by" placeholder:"FIELD,…" help:"Fields that name the folders of Parquet files: FIELD, or FIELD:day of a time (year, month, hour)."`
	Secret string        `placeholder:"FILE" help:"File with the secret that signs what is posted."`
	Count  int           `default:"5000" placeholder:"N" help:"Write a batch when it holds this many records (default ${default})…"`
	Bytes  int           `default:"4000000" placeholder:"N" help:"… or this many bytes (default ${default})…"`
	Linger time.Duration `default:"500ms" placeholder:"TIME" help:"… or its first record is this old (default ${default})…"`

	BySchema bool          `help:"… or the next record has another schema."`
	Coalesce bool          `help:"Store of a batch only the last record of each key."`
	Latency  time.Duration `placeholder:"TIME" help:"Steer the size, from 1 record to --count, so that a batch is stored this long after it was complete."`
	Rate     float64       `placeholder:"N" help:"Steer the size to the smallest with which a partition's batches store this many records a second."`
}

// Help shows examples.
func (microbatchCmd) Help() string {
	return `Examples:
  penstock consume microbatch flights --to sqlite:flights.db
  penstock consume microbatch orders --to postgres://localhost/shop --table orders --mode upsert --key id
  penstock consume microbatch orders --to topic:orders.checked
  penstock consume microbatch flights --to parquet:lake --partition-by time_hour:day --count 100000 --linger 30s

The position of each partition is stored with the rows, in the transaction that
stores them (a database: table penstock_positions), so a kill at any moment neither
loses a record nor stores one twice. Records that cannot be decoded go to the
topic TOPIC.GROUP.dlq with the reason.`
}

// Run stores records until it is stopped.
func (c *microbatchCmd) Run(ctx context.Context, t *terminal) error {
	if c.Group == "" {
		c.Group = "microbatch"
	}
	if c.Table == "" {
		c.Table = c.Topic
	}
	broker, err := openBroker(ctx, c.Broker, t.log)
	if err != nil {
		return err
	}
	defer broker.Close()
	sink, err := c.open(ctx, t, broker)
	if err != nil {
		return err
	}
	if closer, ok := sink.(io.Closer); ok {
		defer closer.Close()
	}
	owner, _ := sink.(stream.Owner)
	if c.Coalesce {
		sink = microbatch.Coalesce(sink)
	}
	return c.run(ctx, t, broker, job{
		sink: sink, owner: owner,
		policy: &microbatch.Policy{
			Count: c.Count, Bytes: c.Bytes, Linger: c.Linger, BySchema: c.BySchema, Latency: c.Latency, Rate: c.Rate,
			Flushed: func(f microbatch.Flush) {
				t.log.Info("batch", "topic", f.Topic, "partition", f.Partition, "first", f.First, "last", f.Last, "records", f.Records,
					"bytes", f.Bytes, "cause", f.Cause, "gathered", f.Gathered, "took", f.Took, "error", f.Err)
			},
		},
	}, "stored in "+c.Table)
}

// open opens what --to names.
func (c *microbatchCmd) open(ctx context.Context, t *terminal, broker stream.Broker) (consumers.Sink, error) {
	if name, ok := strings.CutPrefix(c.To, "topic:"); ok {
		c.Table = "topic " + name
		return openTopicSink(ctx, broker, c.Topic, topic.Config{Topic: name, Pipeline: c.Group, Encode: c.As != "", Logger: t.log})
	}
	if strings.HasPrefix(c.To, "https://") || strings.HasPrefix(c.To, "http://") {
		return c.openWebhook()
	}
	if address, ok := strings.CutPrefix(c.To, "parquet:"); ok {
		if c.Mode != string(sqlsink.Append) {
			return nil, usagef("--mode %s: Parquet files are only added to; use --mode append, or a database", c.Mode)
		}
		c.Table = address
		return parquet.Open(ctx, address, parquet.Config{Pipeline: c.Group, PartitionBy: c.By, Logger: t.log})
	}
	return openSink(ctx, c.To, sqlsink.Config{
		Table: c.Table, Pipeline: c.Group, Mode: sqlsink.Mode(c.Mode), Key: c.Key, Logger: t.log,
	})
}

// openWebhook opens an endpoint to post to.
func (c *microbatchCmd) openWebhook() (consumers.Sink, error) {
	config := webhook.Config{URL: c.To, Pipeline: c.Group}
	if c.Secret != "" {
		secret, err := os.ReadFile(c.Secret)
		if err != nil {
			return nil, fmt.Errorf("read the secret: %w", err)
		}
		config.Secret = bytes.TrimSpace(secret)
	}
	c.Table = "posts"
	if c.Until == "end" {
		return nil, usagef("--until end: an endpoint keeps no positions to tell the end by; stop with Ctrl-C, or use a sink that does")
	}
	return webhook.New(config)
}

// diffCmd turns keyed state into change events.
type diffCmd struct {
	subscriptionFlags
	To     string   `required:"" placeholder:"topic:NAME" help:"Topic for the change events."`
	Format string   `enum:"debezium,json-patch,merge-patch" default:"debezium" help:"debezium, json-patch (RFC 6902) or merge-patch (RFC 7396)."`
	Key    string   `placeholder:"FIELD" help:"Field that identifies an entity. Default: the record's key."`
	Ignore []string `placeholder:"POINTER,…" help:"JSON pointers whose changes do not count."`
	State  string   `placeholder:"DIR" default:"./penstock-data/state" help:"Folder of the last values (default ${default})."`
}

// Help shows examples.
func (diffCmd) Help() string {
	return `Examples:
  penstock consume diff weather --to topic:weather.changes --ignore /time_hour
  penstock consume diff orders --to topic:orders.changes --key id --format json-patch

After a crash an event may come a second time, byte for byte the same and with
the same penstock-event-id header; none is left out.`
}

// Run emits change events until it is stopped.
func (c *diffCmd) Run(ctx context.Context, t *terminal) error {
	topic, ok := strings.CutPrefix(c.To, "topic:")
	if !ok || topic == "" {
		return usagef("--to %q is no topic; write topic:NAME", c.To)
	}
	if c.Group == "" {
		c.Group = "diff"
	}
	broker, err := openBroker(ctx, c.Broker, t.log)
	if err != nil {
		return err
	}
	defer broker.Close()
	ranges, err := broker.Ranges(ctx, c.Topic)
	if err != nil {
		return fmt.Errorf("read topic %q: %w", c.Topic, err)
	}
	if err := broker.Create(ctx, topic, len(ranges)); err != nil {
		return fmt.Errorf("create topic %q: %w", topic, err)
	}
	differ, err := diffing.Open(filepath.Join(c.State, c.Group), diffing.Config{
		Publisher: broker, Topic: topic, Format: diffing.Format(c.Format), KeyField: c.Key, Ignore: c.Ignore,
	})
	if err != nil {
		return err
	}
	defer differ.Close()
	return c.run(ctx, t, broker, job{sink: differ, owner: differ}, "compared")
}

// tailCmd prints decoded records.
type tailCmd struct {
	subscriptionFlags
}

// Help shows examples.
func (tailCmd) Help() string {
	return `Examples:
  penstock consume tail flights --until end
  penstock consume tail flights.microbatch.dlq -o json

It reads from the oldest record and keeps no position. JSON that names no schema
is printed as it is; what cannot be decoded, with the reason.`
}

// Run prints records until it is stopped.
func (c *tailCmd) Run(ctx context.Context, t *terminal) error {
	broker, err := openBroker(ctx, c.Broker, t.log)
	if err != nil {
		return err
	}
	defer broker.Close()
	reg, err := c.openRegistry(c.Broker)
	if err != nil {
		return err
	}
	defer reg.Close()
	if c.Group == "" {
		c.Group = "tail-" + rand.Text()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	finish, err := newFinishLine(ctx, broker, c.Topic, c.Until == "end", noPositions{}, cancel)
	if err != nil || ctx.Err() != nil {
		return err
	}
	src, err := broker.Open(ctx, stream.Subscription{Topic: c.Topic, Group: c.Group, Owner: finish})
	if err != nil {
		return fmt.Errorf("read topic %q: %w", c.Topic, err)
	}
	defer src.Close()
	reader, err := c.reader(reg)
	if err != nil {
		return err
	}
	decoder := consumers.NewDecoder(reg, schemas.Limits{}).ReadAs(reader)
	for {
		records, ack, err := src.Fetch(ctx, 1000)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ack(ctx, nil); err != nil {
			return err
		}
		for _, r := range records {
			if err := printRecord(ctx, t, decoder, r, c.json()); err != nil {
				return err
			}
		}
		last := records[len(records)-1]
		finish.reached(last.Partition, last.Offset+1)
	}
}

// printRecord prints one record and what it says.
func printRecord(ctx context.Context, t *terminal, decoder *consumers.Decoder, r stream.Record, asJSON bool) error {
	m, err := decoder.Decode(ctx, r)
	var reason *consumers.Reason
	if err != nil && !errors.As(err, &reason) {
		return err
	}
	value := []byte("null")
	switch {
	case reason != nil && json.Valid(r.Value): // change events name no schema
		value, reason = r.Value, nil
	case reason == nil && m.Data != nil:
		if value, err = schemas.AppendJSON(nil, m.Data); err != nil {
			reason = &consumers.Reason{Code: consumers.DecodeFailed, Err: err}
		}
	}
	if !asJSON {
		text := string(value)
		if reason != nil {
			text = fmt.Sprintf("cannot be decoded: %v: %q", reason, shorten(r.Value, 200))
		}
		t.printf("%d/%d %s %s\n", r.Partition, r.Offset, printable(r.Key), text)
		return nil
	}
	out := map[string]any{
		"topic": r.Topic, "partition": r.Partition, "offset": r.Offset,
		"time": r.Time.UTC().Format(time.RFC3339Nano), "key": nil,
	}
	if r.Key != nil {
		out["key"] = printable(r.Key)
	}
	if len(r.Headers) > 0 {
		headers := make([][2]string, len(r.Headers))
		for i, h := range r.Headers {
			headers[i] = [2]string{h.Key, printable(h.Value)}
		}
		out["headers"] = headers
	}
	if reason != nil {
		out["error"], out["raw"] = reason.Error(), r.Value
	} else {
		out["value"] = json.RawMessage(value)
	}
	return t.object(out)
}

// printable is b as text, or quoted if it is none.
func printable(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return strconv.Quote(string(b))
}

func shorten(b []byte, n int) []byte {
	if len(b) > n {
		return b[:n]
	}
	return b
}

// reader is what --read-as asks for.
func (f *subscriptionFlags) reader(reg *client.Client) (consumers.Reader, error) {
	lookup := reg.Newest
	switch number, err := strconv.Atoi(f.As); {
	case f.As == "":
		return nil, nil
	case f.As == "latest":
	case err != nil || number < 1:
		return nil, usagef("--read-as %q is no version; write a number, or latest", f.As)
	default:
		lookup = client.Version(reg, number)
	}
	return func(ctx context.Context, topic string) (schemas.Registered, error) {
		return lookup(ctx, topic+"-value")
	}, nil
}

// run runs a job from the command line, and says what it did.
func (f *subscriptionFlags) run(ctx context.Context, t *terminal, broker stream.Broker, j job, done string) error {
	reg, err := f.openRegistry(f.Broker)
	if err != nil {
		return err
	}
	defer reg.Close()
	if j.reader, err = f.reader(reg); err != nil {
		return err
	}
	j.topic, j.group, j.until = f.Topic, f.Group, f.Until == "end"
	var (
		messages, deadLetters atomic.Int64

		bar = t.progress(done, 0)
	)
	j.hooks = consumers.Hooks{
		Settled: func(b consumers.Batch, _ time.Duration) {
			messages.Add(int64(len(b.Messages)))
			bar.add(int64(len(b.Messages)))
		},
		DeadLetter: func(r stream.Record, why *consumers.Reason) {
			deadLetters.Add(1)
			t.log.Warn("set aside", "partition", r.Partition, "offset", r.Offset, "reason", why.Error())
		},
		Retry: func(what string, attempt int, wait time.Duration, err error) {
			t.log.Warn("will try again", "what", what, "attempt", attempt, "wait", wait, "error", err)
		},
	}
	err = runJob(ctx, broker, reg, j)
	bar.stop()
	if f.json() {
		if err := t.object(map[string]any{"topic": f.Topic, "group": f.Group, "done": messages.Load(), "deadLetters": deadLetters.Load()}); err != nil {
			return err
		}
	} else {
		t.printf("%s %s, %s set aside in %s\n", count(messages.Load()), done, count(deadLetters.Load()), consumers.DeadLetterTopic(f.Topic, f.Group))
	}
	return err
}
