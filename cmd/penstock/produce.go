package main

import (
	"context"
	"errors"
	"fmt"

	"penstock/producers"
	"penstock/registry/client"
	"penstock/schemas"
	"penstock/schemas/samples"
	"penstock/stream"
)

// produceCmd publishes events that fit their schema.
type produceCmd struct {
	Topic string `arg:"" help:"Topic to publish to. It is made if it does not exist."`
	File  string `arg:"" optional:"" help:"File of events: JSON lines, CSV with the names of the fields in its first line, or Parquet; - is standard input."`

	brokerFlag
	registryFlag
	outputFlag
	Schema     string   `placeholder:"FILE" xor:"schema" help:"Register this schema (.avsc, .proto or .json) for the topic first."`
	Subject    string   `placeholder:"NAME" xor:"schema" help:"Subject of the schema. Default: TOPIC-value."`
	Format     string   `enum:"auto,jsonl,csv,parquet" default:"auto" help:"jsonl, csv or parquet. Default: by the ending of the file, else jsonl."`
	Headers    []string `name:"header" sep:"none" placeholder:"NAME=TEXT" help:"Header of every record; TEXT may be a template, as {{.region}}. Can be repeated."`
	Envelope   bool     `help:"Each JSON line holds key, headers and value, as 'consume tail -o json' prints them. A value of null is a tombstone."`
	Tombstone  string   `placeholder:"FIELD" help:"Where this field is true, the event is a tombstone: its key alone. The field is no part of the event."`
	Sample     string   `placeholder:"NAME" help:"Publish sample events instead of a file: ${samples}, or schema for events made up from the topic's schema."`
	Count      int      `short:"n" placeholder:"N" default:"1000" help:"How many sample events."`
	Partitions int      `placeholder:"N" help:"Partitions of the topic if it is made. Default: the broker's."`
	DryRun     bool     `help:"Validate only; publish nothing and make no topic. Every refused event is listed."`
	Stop       bool     `help:"Stop at the first event that is refused. What stands before it is published."`
	Rejects    string   `placeholder:"FILE" help:"Write what is refused to this file, with the reasons, to be mended and published again."`
	Resume     string   `placeholder:"NAME" help:"Keep, under this name, with the records, how far the file has come, and go on from there: nothing is published twice."`
	Atomic     bool     `help:"Publish all events of the file or, where one is refused or anything fails, none: 100,000 at most, on JetStream 1,000."`
	madeUpFlags
}

// Help shows examples.
func (produceCmd) Help() string {
	return `Examples:
  penstock produce flights --sample flights -n 1000
  penstock produce orders orders.jsonl --schema orders.avsc --key id
  penstock produce flights flights.csv --key '{{.carrier}}-{{.flight}}' --header source=nightly
  penstock produce orders orders.parquet --rejects refused.jsonl --resume orders-2026-11
  penstock produce orders corrections.jsonl --atomic
  penstock produce customers --sample schema --entities 100 --rate 500/s -n 100000
  penstock produce orders --sample schema --invalid 2% -n 1000
  jq -c '.[]' orders.json | penstock produce orders - --dry-run

Events that do not fit the schema are refused one by one: each is printed with
its line, where, expected, found and what to do, the others are published, and
the exit code is 1. Lines of JSON that begin with # are passed over, so a file
of --rejects can be published as it is, once mended.`
}

// Run publishes.
func (c *produceCmd) Run(ctx context.Context, t *terminal) error {
	switch {
	case (c.File == "") == (c.Sample == ""):
		return usagef("give either a FILE (- for standard input) or --sample NAME")
	case c.Resume != "" && (c.Sample != "" || c.DryRun):
		return usagef("--resume is for files that are published")
	case c.Sample != "schema" && (c.Entities != 0 || c.Invalid != 0):
		return usagef("--entities and --invalid are for events that are made up: --sample schema")
	}
	if err := c.checkAtomic(); err != nil {
		return err
	}
	reg, err := c.openRegistry(c.Broker)
	if err != nil {
		return err
	}
	defer reg.Close()
	subject := c.Subject
	if subject == "" {
		subject = topicSubject(c.Topic)
	}
	if c.Schema != "" {
		if err := registerFile(ctx, reg, subject, c.Schema); err != nil {
			return err
		}
	}
	var events *source
	switch {
	case c.Sample == "schema":
		events, err = c.madeUp(ctx, reg, subject)
	case c.Sample != "":
		events, err = c.held(ctx, reg, subject)
	default:
		events, err = c.fromFile(ctx, t, reg, subject)
	}
	if err != nil {
		return err
	}
	defer events.close()

	job := &publishing{produceCmd: c, t: t, source: events}
	if err := job.prepare(); err != nil {
		return err
	}
	defer job.close()
	var pub stream.Publisher
	if !c.DryRun {
		broker, err := openBroker(ctx, c.Broker, t.log)
		if err != nil {
			return err
		}
		defer broker.Close()
		if err := broker.Create(ctx, c.Topic, c.Partitions); err != nil {
			return fmt.Errorf("create topic %q: %w", c.Topic, err)
		}
		pub = broker
		if c.Resume != "" {
			if pub, err = job.resume(ctx, broker); err != nil {
				return err
			}
		}
	}
	job.producer = producers.New(pub, reg, producers.Config{Topic: func(string) producers.Topic {
		return producers.Topic{Value: producers.Part{Subject: producers.FixedSubject(subject)}}
	}})
	if c.Atomic {
		return job.runAtomic(ctx)
	}
	return job.run(ctx)
}

// fromFile opens the file.
func (c *produceCmd) fromFile(ctx context.Context, t *terminal, reg *client.Client, subject string) (*source, error) {
	model := &schemas.Node{}
	_, schema, err := reg.Latest(ctx, subject)
	switch {
	case err == nil:
		model = schema.Model()
	case !errors.Is(err, schemas.ErrNoSchema): // which is said of the first event
		return nil, err
	}
	return c.openFile(t, model)
}

// held are sample events. It registers the sample's schema if the subject has
// none, and keys by the sample's own field unless told otherwise.
func (c *produceCmd) held(ctx context.Context, reg *client.Client, subject string) (*source, error) {
	sample, err := samples.Get(c.Sample)
	if err != nil {
		return nil, usageError{err}
	}
	if _, _, err := reg.Latest(ctx, subject); c.Schema == "" && errors.Is(err, client.ErrNotFound) {
		if err := registerSample(ctx, reg, subject, sample); err != nil {
			return nil, err
		}
	}
	if c.Key == "" {
		c.Key = sample.Key
	}
	events, err := sample.Events(c.Count)
	if err != nil {
		return nil, usageError{err}
	}
	s := c.samples()
	s.all = func(yield func(input) bool) {
		in := input{}
		for v := range events {
			in.nth++
			in.line, in.event = in.nth, producers.Event{Topic: c.Topic, Value: v}
			if !yield(in) {
				return
			}
		}
	}
	return s, nil
}

// mistakeHeader says of a record made up what was broken in it.
const mistakeHeader = "penstock-mistake"

// madeUp are events made up from the subject's schema.
func (c *produceCmd) madeUp(ctx context.Context, reg *client.Client, subject string) (*source, error) {
	_, schema, err := reg.Latest(ctx, subject)
	if err != nil {
		return nil, err
	}
	m, err := c.maker(schema)
	if err != nil {
		return nil, usageError{err}
	}
	key := keyMaker(nil)
	if c.Key != "" {
		if key, err = newKeyMaker(c.Key); err != nil {
			return nil, err
		}
	}
	c.Key = "" // the events come with it
	s := c.samples()
	s.all = func(yield func(input) bool) {
		in := input{}
		for range c.Count {
			e, err := m.Next()
			in.nth++
			in.line, in.note, in.err = in.nth, "", err
			in.event = producers.Event{Topic: c.Topic, Value: e.Value}
			switch {
			case err != nil:
			case key != nil && e.Value != nil && e.Mistake == nil:
				in.event.Key, in.err = key(e.Value)
			case e.Key != nil:
				in.event.Key, in.err = keyText(e.Key)
			}
			if e.Mistake != nil {
				in.note = e.Mistake.String()
				in.event.Headers = []stream.Header{{Key: mistakeHeader, Value: []byte(in.note)}}
			}
			if !yield(in) || err != nil {
				return
			}
		}
	}
	return s, nil
}

// samples is a source without its events.
func (c *produceCmd) samples() *source {
	return &source{name: "sample", header: func() []byte { return nil }, reject: rejectLine, total: int64(c.Count), close: func() {}}
}
