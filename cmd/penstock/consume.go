package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"penstock/consumers"
	"penstock/consumers/diffing"
	"penstock/consumers/microbatch"
	"penstock/consumers/sinks/sqlsink"
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
	Until string `enum:"stopped,end" default:"stopped" help:"Run until stopped, or until what the topic held at the start (end) is done."`
}

// microbatchCmd stores records in a database.
type microbatchCmd struct {
	subscriptionFlags
	To     string        `required:"" placeholder:"URL" help:"sqlite:FILE or postgres://…"`
	Table  string        `placeholder:"NAME" help:"Table to write to; made from the schema if it does not exist. Default: the topic's name."`
	Mode   string        `enum:"append,upsert" default:"append" help:"append rows, or upsert the newest by key."`
	Key    []string      `placeholder:"COLUMN,…" help:"Key columns, for --mode upsert."`
	Count  int           `default:"5000" placeholder:"N" help:"Write a batch when it holds this many records (default ${default})…"`
	Bytes  int           `default:"4000000" placeholder:"N" help:"… or this many bytes (default ${default})…"`
	Linger time.Duration `default:"500ms" placeholder:"TIME" help:"… or its first record is this old (default ${default})."`
}

// Help shows examples.
func (microbatchCmd) Help() string {
	return `Examples:
  penstock consume microbatch flights --to sqlite:flights.db
  penstock consume microbatch orders --to postgres://localhost/shop --table orders --mode upsert --key id

The position of each partition is stored in the database, in the transaction
that stores the rows (table penstock_positions), so a kill at any moment neither
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
	sink, err := openSink(ctx, c.To, sqlsink.Config{
		Table: c.Table, Pipeline: c.Group, Mode: sqlsink.Mode(c.Mode), Key: c.Key, Logger: t.log,
	})
	if err != nil {
		return err
	}
	defer sink.Close()
	broker, err := openBroker(ctx, c.Broker, t.log)
	if err != nil {
		return err
	}
	defer broker.Close()
	return c.run(ctx, t, broker, job{
		sink: sink, owner: sink,
		policy: &microbatch.Policy{Count: c.Count, Bytes: c.Bytes, Linger: c.Linger},
	}, "stored in "+c.Table)
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
	reg, err := openRegistry(c.Registry, c.Broker)
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
	if err != nil {
		return err
	}
	src, err := broker.Open(ctx, stream.Subscription{Topic: c.Topic, Group: c.Group, Owner: finish})
	if err != nil {
		return fmt.Errorf("read topic %q: %w", c.Topic, err)
	}
	defer src.Close()
	decoder := consumers.NewDecoder(reg, schemas.Limits{})
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

// noPositions starts every partition at its oldest record.
type noPositions struct{}

func (noPositions) Assigned(context.Context, []stream.Partition) (map[stream.Partition]int64, error) {
	return nil, nil
}

func (noPositions) Lost(context.Context, []stream.Partition) error { return nil }

// finishLine is an owner that watches another's positions, and calls done when
// they have passed what the topic held at the start.
type finishLine struct {
	stream.Owner
	done func()

	mu    sync.Mutex
	start map[int32]int64
	ends  map[int32]int64 // of the partitions still to go; nil: no end
	total int64
}

// newFinishLine reads where the topic ends now. Without stop, done is never
// called.
func newFinishLine(ctx context.Context, broker stream.Broker, topic string, stop bool, owner stream.Owner, done func()) (*finishLine, error) {
	f := &finishLine{Owner: owner, done: done}
	if !stop {
		return f, nil
	}
	ranges, err := broker.Ranges(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("read topic %q: %w", topic, err)
	}
	f.ends, f.start = map[int32]int64{}, map[int32]int64{}
	for _, r := range ranges {
		if r.End > r.Start {
			f.ends[r.Partition.Number], f.start[r.Partition.Number] = r.End, r.Start
			f.total += max(r.Records, 0)
		}
	}
	if len(f.ends) == 0 {
		done()
	}
	return f, nil
}

// Assigned implements stream.Owner.
func (f *finishLine) Assigned(ctx context.Context, partitions []stream.Partition) (map[stream.Partition]int64, error) {
	positions, err := f.Owner.Assigned(ctx, partitions)
	for p, next := range positions {
		f.reached(p.Number, next)
	}
	return positions, err
}

// reached notes that a partition is done up to next.
func (f *finishLine) reached(partition int32, next int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if end, there := f.ends[partition]; there && next >= end {
		if delete(f.ends, partition); len(f.ends) == 0 {
			f.done()
		}
	}
}

// job is what a consumer does with its batches.
type job struct {
	sink   consumers.Sink
	owner  stream.Owner
	policy *microbatch.Policy // nil: batches as they are fetched
	// until stops the job when it is through what the topic holds now.
	until bool
	// deadLetters names the topic for what cannot pass.
	topic, group string
	hooks        consumers.Hooks
	// patience is how often what failed for a passing reason is tried before
	// the job fails; 0 is for ever.
	patience int
}

// tally is what a job has done.
type tally struct {
	mu          sync.Mutex
	messages    int64
	deadLetters int64
}

// runJob reads a topic until ctx ends or the job is through.
func runJob(ctx context.Context, broker stream.Broker, reg consumers.Registry, j job) error {
	ranges, err := broker.Ranges(ctx, j.topic)
	if err != nil {
		return fmt.Errorf("read topic %q: %w", j.topic, err)
	}
	if err := broker.Create(ctx, consumers.DeadLetterTopic(j.topic, j.group), len(ranges)); err != nil {
		return fmt.Errorf("create the dead-letter topic: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	finish, err := newFinishLine(ctx, broker, j.topic, j.until, j.owner, func() { cancel(nil) })
	if err != nil {
		return err
	}
	sub := stream.Subscription{Topic: j.topic, Group: j.group, Owner: finish}
	if j.policy != nil {
		sub.HoldFor = j.policy.Linger + 10*time.Second
	}
	opened, err := broker.Open(ctx, sub)
	if err != nil {
		return fmt.Errorf("read topic %q: %w", j.topic, err)
	}
	src, finished := stream.Source(opened), opened.Close
	if j.policy != nil {
		batcher := microbatch.Batch(opened, *j.policy)
		src, finished = batcher, func() error { return errors.Join(batcher.Close(), opened.Close()) }
	}
	cfg := consumers.Config{Group: j.group, Registry: reg, DeadLetters: broker, Hooks: j.hooks}
	if j.policy != nil {
		cfg.MaxRecords = j.policy.Count
	}
	settled := cfg.Hooks.Settled
	cfg.Hooks.Settled = func(b consumers.Batch, took time.Duration) {
		if settled != nil {
			settled(b, took)
		}
		finish.reached(b.Partition, b.Next)
	}
	retry := cfg.Hooks.Retry
	cfg.Hooks.Retry = func(what string, attempt int, wait time.Duration, err error) {
		if retry != nil {
			retry(what, attempt, wait, err)
		}
		if j.patience > 0 && attempt >= j.patience {
			cancel(fmt.Errorf("%s, tried %d times: %w", what, attempt, err))
		}
	}
	err = consumers.Run(ctx, src, j.sink, cfg)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return errors.Join(err, finished())
}

// run runs a job from the command line, and says what it did.
func (f *subscriptionFlags) run(ctx context.Context, t *terminal, broker stream.Broker, j job, done string) error {
	reg, err := openRegistry(f.Registry, f.Broker)
	if err != nil {
		return err
	}
	defer reg.Close()
	j.topic, j.group, j.until = f.Topic, f.Group, f.Until == "end"
	var (
		n   tally
		bar = t.progress(done, 0)
	)
	j.hooks = consumers.Hooks{
		Settled: func(b consumers.Batch, _ time.Duration) {
			n.mu.Lock()
			n.messages += int64(len(b.Messages))
			n.mu.Unlock()
			bar.add(int64(len(b.Messages)))
		},
		DeadLetter: func(r stream.Record, why *consumers.Reason) {
			n.mu.Lock()
			n.deadLetters++
			n.mu.Unlock()
			t.log.Warn("set aside", "partition", r.Partition, "offset", r.Offset, "reason", why.Error())
		},
		Retry: func(what string, attempt int, wait time.Duration, err error) {
			t.log.Warn("will try again", "what", what, "attempt", attempt, "wait", wait, "error", err)
		},
	}
	err = runJob(ctx, broker, reg, j)
	bar.stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	if f.json() {
		if err := t.object(map[string]any{"topic": f.Topic, "group": f.Group, "done": n.messages, "deadLetters": n.deadLetters}); err != nil {
			return err
		}
	} else {
		t.printf("%s %s, %s set aside in %s\n", count(n.messages), done, count(n.deadLetters), consumers.DeadLetterTopic(f.Topic, f.Group))
	}
	return err
}
