package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"penstock/consumers"
	"penstock/pipelines"
	"penstock/registry/client"
	"penstock/schemas"
	"penstock/stream"
)

// consumeCmd runs consumers.
type consumeCmd struct {
	Run        pipelinesCmd      `cmd:"" default:"withargs" help:"Run the pipelines of the YAML files that --config names (the default command)."`
	Explain    explainCmd        `cmd:"" help:"State what a pipeline guarantees from end to end, and what would break it."`
	Schema     pipelineSchemaCmd `cmd:"" help:"Print the JSON Schema of a pipeline's file."`
	Microbatch microbatchCmd     `cmd:"" help:"Store records in a database, each exactly once."`
	Diff       diffCmd           `cmd:"" help:"Turn keyed state into change events."`
	Apply      applyCmd          `cmd:"" help:"Fold change events back into the last value of each key, and store those."`
	Tail       tailCmd           `cmd:"" help:"Print decoded records."`
}

// subscriptionFlags are what every consumer asks.
type subscriptionFlags struct {
	Topic string `arg:"" help:"Topic to read."`
	readFlags
}

// readFlags say how a topic is read.
type readFlags struct {
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
	To    string `required:"" placeholder:"URL" help:"sqlite:FILE, postgres://…, parquet:DIR, parquet:s3://BUCKET/PREFIX, topic:NAME, or https://… to post to"`
	Plan  bool   `help:"Print the statements that would make or change the table for the topic's newest schema, and run none."`
	Apply bool   `help:"Run the statements of --plan, each by itself, and store nothing. Of PostgreSQL."`
	storeFlags
	metricsFlag
}

// sinkFlags say what the sink is like.
type sinkFlags struct {
	Table  string   `placeholder:"NAME" help:"Table to write to; made from the schema if it does not exist. {topic}, {header:NAME} and {field:NAME} in it have records say which. Default: the topic's name."`
	Key    []string `placeholder:"COLUMN,…" help:"Columns that are the key of a row that is kept once. Default: the record's own key, in a column record_key."`
	Soft   string   `name:"soft-delete" placeholder:"COLUMN" help:"Note in this column when the tombstone of a row that is kept once was written, and keep the row."`
	Widen  bool     `help:"Change columns of PostgreSQL that are too narrow for a schema to wider types; most such changes write the whole table anew."`
	Checks bool     `name:"constrain" help:"Make a new table of PostgreSQL with what the schema says of values: NOT NULL, bounds, symbols. One that is there gets it by --apply."`
	Index  []string `placeholder:"COLUMN,…" help:"Columns of PostgreSQL that get an index for searching within them (GIN)."`
	By     []string `name:"partition-by" placeholder:"FIELD,…" help:"Fields that name the folders of Parquet files: FIELD, or FIELD:day of a time (year, month, hour). Or the time by which a table of PostgreSQL is partitioned: COLUMN:day, or record_time:day for the record's own."`
	Ahead  int      `placeholder:"N" help:"Partitions of PostgreSQL that are made for times to come. Default: 4."`
	Secret string   `placeholder:"FILE" help:"File with the secret that signs what is posted."`
	Order  string   `name:"ordering" enum:"skip,park,block" default:"skip" help:"At a record that cannot pass: skip it, as a dead letter, park with it those of its key behind it until they are redriven, or block its partition until it can."`
	Tries  int      `name:"attempts" default:"10" placeholder:"N" help:"Try a record this often (default ${default}) of which it is not known whether it is at fault, then set it aside."`
	Dead   string   `name:"dead-letters" placeholder:"TOPIC" help:"Where records go that cannot pass; it is made. Default: TOPIC.GROUP.dlq."`
}

// sizeFlags say how much is stored at once.
type sizeFlags struct {
	Count  int           `default:"5000" placeholder:"N" help:"Write a batch when it holds this many records (default ${default})…"`
	Bytes  int           `default:"4000000" placeholder:"N" help:"… or this many bytes (default ${default})…"`
	Linger time.Duration `default:"500ms" placeholder:"TIME" help:"… or its first record is this old (default ${default})…"`
}

// storeFlags say how records are stored.
type storeFlags struct {
	sinkFlags
	Mode   string `enum:"append,upsert" default:"append" help:"append rows, or upsert the newest by key, which keeps a row once."`
	Filter string `placeholder:"CEL" help:"Store the records of which this is true, as in 'message.amount > 0'."`
	Map    string `placeholder:"CEL" help:"Store what this makes of a record, as in '{\"id\": message.id}'…"`
	MapTo  string `placeholder:"SUBJECT" help:"… in the newest schema of this subject. Default: the record's own."`
	sizeFlags

	BySchema bool          `help:"… or the next record has another schema."`
	Cut      string        `placeholder:"CEL" help:"… or behind a record of which this is true; it sees key, headers, topic, partition, offset and time."`
	Keys     int           `placeholder:"N" help:"Make batches of one key each, while at most this many keys wait. For --to https://…"`
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
topic TOPIC.GROUP.dlq, or to that of --dead-letters, with the reason.`
}

// Run stores records until it is stopped.
func (c *microbatchCmd) Run(ctx context.Context, t *terminal) error {
	p, err := pipelineOf(c.Topic, c.To, c.readFlags, c.storeFlags)
	if err != nil {
		return err
	}
	if c.Plan || c.Apply {
		return c.plan(ctx, t, p)
	}
	w, err := newWiring(t, c.registryFlag, c.outputFlag, c.metricsFlag, "stored in "+p.Sink.Table)
	if err != nil {
		return err
	}
	return errors.Join(stopped(ctx, w.run(ctx, p)), w.close())
}

// pipelineOf is what flags say. A file that says the same makes the same one.
func pipelineOf(topic, to string, r readFlags, s storeFlags) (pipelines.Pipeline, error) {
	p := pipelines.Pipeline{
		Name: "microbatch",
		Source: pipelines.Source{
			Topic: topic, Group: r.Group, Broker: r.Broker, Registry: r.Registry, ReadAs: r.As, Until: r.Until,
		},
		Batch: pipelines.Batch{
			Count: s.Count, Bytes: s.Bytes, Linger: pipelines.Duration(s.Linger), Latency: pipelines.Duration(s.Latency), Rate: s.Rate,
			BySchema: s.BySchema, Coalesce: s.Coalesce, Cut: s.Cut, Keys: s.Keys,
		},
		Filter: s.Filter, Map: s.Map, MapTo: s.MapTo,
		Errors: pipelines.Errors{Ordering: s.Order, DeadLetters: s.Dead, Attempts: s.Tries},
		Sink:   pipelines.Sink{URL: to, Table: s.Table, Mode: s.Mode, Key: s.Key, SoftDelete: s.Soft, Widen: s.Widen, Constrain: s.Checks, Index: s.Index, PartitionBy: s.By, Ahead: s.Ahead, Secret: s.Secret},
	}.WithDefaults()
	if problem := (*pipelines.Problem)(nil); errors.As(p.Check(), &problem) {
		flag := *problem
		flag.Pointer = "--" + flagOf[problem.Pointer]
		return p, usageError{&flag}
	}
	return p, nil
}

// flagOf are the flags by what they say of a pipeline.
var flagOf = map[string]string{
	"/sink/url": "to", "/sink/mode": "mode", "/sink/key": "key", "/sink/soft-delete": "soft-delete", "/sink/partition-by": "partition-by", "/sink/ahead": "ahead",
	"/sink/secret": "secret", "/source/until": "until", "/filter": "filter", "/map": "map", "/map-to": "map-to", "/batch/cut": "cut", "/batch/keys": "keys",
	"/errors/dead-letters": "dead-letters",
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
	return stopped(ctx, c.tail(ctx, t))
}

func (c *tailCmd) tail(ctx context.Context, t *terminal) error {
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
	reader, err := readerAs(reg, c.As)
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

// readerAs is what --read-as asks for.
func readerAs(reg *client.Client, version string) (consumers.Reader, error) {
	lookup := reg.Newest
	switch number, err := strconv.Atoi(version); {
	case version == "":
		return nil, nil
	case version == "latest":
	case err != nil || number < 1:
		return nil, usagef("--read-as %q is no version; write a number, or latest", version)
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
	if j.reader, err = readerAs(reg, f.As); err != nil {
		return err
	}
	j.topic, j.group, j.until = f.Topic, f.Group, f.Until == "end"
	w := watch{t: t, bar: t.progress(done, 0), log: t.log}
	j.hooks = w.hooks()
	err = runJob(ctx, broker, reg, j)
	w.bar.stop()
	return errors.Join(err, w.report(f.outputFlag, j, "", done))
}

// watch counts what a consumer does.
type watch struct {
	t   *terminal
	bar *bar
	log *slog.Logger

	messages, deadLetters atomic.Int64
}

func (w *watch) hooks() consumers.Hooks {
	return consumers.Hooks{
		Settled: func(b consumers.Batch, _ time.Duration) {
			w.messages.Add(int64(len(b.Messages)))
			w.bar.add(int64(len(b.Messages)))
		},
		DeadLetter: func(r stream.Record, why *consumers.Reason) {
			w.deadLetters.Add(1)
			w.log.Warn("set aside", "partition", r.Partition, "offset", r.Offset, "reason", why.Error())
		},
		Retry: func(what string, attempt int, wait time.Duration, err error) {
			w.log.Warn("will try again", "what", what, "attempt", attempt, "wait", wait, "error", err)
		},
	}
}

// report prints what was done. pipeline is its name, if there are several.
func (w *watch) report(o outputFlag, j job, pipeline, done string) error {
	if o.json() {
		out := map[string]any{"topic": j.topic, "group": j.group, "done": w.messages.Load(), "deadLetters": w.deadLetters.Load()}
		if pipeline != "" {
			out["pipeline"] = pipeline
		}
		return w.t.object(out)
	}
	if pipeline != "" {
		pipeline += ": "
	}
	w.t.printf("%s%s %s, %s set aside in %s\n", pipeline, count(w.messages.Load()), done, count(w.deadLetters.Load()), j.deadLetterTopic())
	return nil
}
