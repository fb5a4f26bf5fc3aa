package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"penstock/producers"
	"penstock/registry/client"
	"penstock/schemas"
	"penstock/schemas/samples"
	"penstock/stream"
)

// produceCmd publishes events that fit their schema.
type produceCmd struct {
	Topic string `arg:"" help:"Topic to publish to. It is made if it does not exist."`
	File  string `arg:"" optional:"" help:"File of JSON lines, one event each; - is standard input."`

	brokerFlag
	registryFlag
	outputFlag
	Schema     string `placeholder:"FILE" xor:"schema" help:"Register this schema (.avsc, .proto or .json) for the topic first."`
	Subject    string `placeholder:"NAME" xor:"schema" help:"Subject of the schema. Default: TOPIC-value."`
	Key        string `placeholder:"FIELD" help:"Field whose value is the record's key."`
	Sample     string `placeholder:"NAME" help:"Publish sample events instead of a file: ${samples}."`
	Count      int    `short:"n" placeholder:"N" default:"1000" help:"How many sample events."`
	Partitions int    `placeholder:"N" help:"Partitions of the topic if it is made. Default: the broker's."`
	DryRun     bool   `help:"Validate only; publish nothing and make no topic."`
}

// Help shows examples.
func (produceCmd) Help() string {
	return `Examples:
  penstock produce flights --sample flights -n 1000
  penstock produce orders orders.jsonl --schema orders.avsc --key id
  jq -c '.[]' orders.json | penstock produce orders - --dry-run

Events that do not fit the schema are refused one by one: each is printed with
where, expected, found and what to do, the others are published, and the exit
code is 1.`
}

// maxLine bounds one event of a file.
const maxLine = 4 << 20

// input is an event and where it came from.
type input struct {
	line  int
	event producers.Event
	err   error // the line is no event
}

// Run publishes.
func (c *produceCmd) Run(ctx context.Context, t *terminal) error {
	if (c.File == "") == (c.Sample == "") {
		return usagef("give either a FILE (- for standard input) or --sample NAME")
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
	var inputs iter.Seq[input]
	if c.Sample != "" {
		inputs, err = c.sampleInputs(ctx, reg, subject)
	} else {
		var in io.ReadCloser
		if in, err = c.open(t); err == nil {
			defer in.Close()
			inputs = lines(c.Topic, in)
		}
	}
	if err != nil {
		return err
	}
	if c.Schema != "" {
		if err := registerFile(ctx, reg, subject, c.Schema); err != nil {
			return err
		}
	}
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
	}
	p := producers.New(pub, reg, producers.Config{Topic: func(string) producers.Topic {
		return producers.Topic{Value: producers.Part{Subject: producers.FixedSubject(subject)}}
	}})
	return c.publish(ctx, t, p, inputs)
}

// publish sends the inputs in batches and reports the refused ones.
func (c *produceCmd) publish(ctx context.Context, t *terminal, p *producers.Producer, inputs iter.Seq[input]) error {
	const batch = 1000
	var accepted, refused int
	bar := t.progress("published", int64(c.total()))
	send := func(batch []input) error {
		var (
			events  []producers.Event
			indexes []int // of each event in batch
		)
		for i := range batch {
			in := &batch[i]
			if in.err == nil && c.Key != "" {
				in.event.Key, in.err = keyOf(in.event.Value, c.Key)
			}
			if in.err == nil {
				events, indexes = append(events, in.event), append(indexes, i)
			}
		}
		do := p.Publish
		if c.DryRun {
			do = p.Check
		}
		var partly *stream.BatchError
		if err := do(ctx, events...); errors.As(err, &partly) {
			for i, reason := range partly.Errs {
				if !isRefusal(reason) {
					return fmt.Errorf("publish line %d: %w", batch[indexes[i]].line, reason)
				}
				batch[indexes[i]].err = reason
			}
		} else if err != nil {
			return err
		}
		for _, in := range batch {
			if in.err == nil {
				accepted++
				continue
			}
			refused++
			if err := c.refuse(t, in.line, in.err, refused); err != nil {
				return err
			}
		}
		bar.add(int64(len(batch)))
		return nil
	}
	pending := make([]input, 0, batch)
	for in := range inputs {
		if pending = append(pending, in); len(pending) == batch {
			if err := send(pending); err != nil {
				return err
			}
			pending = pending[:0]
		}
	}
	if err := send(pending); err != nil {
		return err
	}
	bar.stop()
	return c.summary(t, accepted, refused)
}

func (c *produceCmd) total() int {
	if c.Sample != "" {
		return c.Count
	}
	return 0
}

// summary says how many events passed.
func (c *produceCmd) summary(t *terminal, accepted, refused int) error {
	if c.json() {
		name := "published"
		if c.DryRun {
			name = "valid"
		}
		if err := t.object(map[string]any{"topic": c.Topic, name: accepted, "refused": refused}); err != nil {
			return err
		}
	} else {
		verb := "published to " + c.Topic
		if c.DryRun {
			verb = "valid (nothing was published)"
		}
		t.printf("%s %s, %s refused\n", count(int64(accepted)), verb, count(int64(refused)))
	}
	if refused > 0 {
		return errNo
	}
	return nil
}

// isRefusal tells a record that was refused from a failure to publish.
func isRefusal(err error) bool {
	var value *schemas.ValueError
	return errors.As(err, &value) || errors.Is(err, stream.ErrTooLarge)
}

// refuse reports one refused event. In text, the first ten are printed.
func (c *produceCmd) refuse(t *terminal, line int, err error, nth int) error {
	if c.json() {
		out := map[string]any{"line": line, "error": err.Error()}
		var value *schemas.ValueError
		if errors.As(err, &value) {
			out["violations"] = value.Violations
		}
		return t.object(out)
	}
	switch {
	case nth <= 10:
		t.notef("refused, line %d: %v\n", line, err)
	case nth == 11:
		t.notef("refused: more; -o json lists all\n")
	}
	return nil
}

// open opens the file of events.
func (c *produceCmd) open(t *terminal) (io.ReadCloser, error) {
	if c.File == "-" {
		return io.NopCloser(t.in), nil
	}
	f, err := os.Open(c.File)
	if err != nil {
		return nil, usageError{fmt.Errorf("open events: %w", err)}
	}
	return f, nil
}

// sampleInputs makes sample events. It registers the sample's schema if the
// subject has none, and keys by the sample's own field unless told otherwise.
func (c *produceCmd) sampleInputs(ctx context.Context, reg *client.Client, subject string) (iter.Seq[input], error) {
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
	return func(yield func(input) bool) {
		n := 0
		for v := range events {
			n++
			if !yield(input{line: n, event: producers.Event{Topic: c.Topic, Value: v}}) {
				return
			}
		}
	}, nil
}

// lines reads one JSON event a line; empty lines are passed over.
func lines(topic string, r io.Reader) iter.Seq[input] {
	return func(yield func(input) bool) {
		scan := bufio.NewScanner(r)
		scan.Buffer(nil, maxLine)
		n := 0
		for scan.Scan() {
			n++
			line := bytes.TrimSpace(scan.Bytes())
			if len(line) == 0 {
				continue
			}
			v, err := schemas.ParseJSON(line)
			if !yield(input{line: n, event: producers.Event{Topic: topic, Value: v}, err: err}) {
				return
			}
		}
		if err := scan.Err(); err != nil {
			yield(input{line: n + 1, err: fmt.Errorf("read line: %w (a line holds at most %d bytes)", err, maxLine)})
		}
	}
}

// keyOf is the record key that a field of the event gives: a string as it is,
// anything else as JSON.
func keyOf(value any, field string) ([]byte, error) {
	m, ok := value.(map[string]any)
	v, there := m[field]
	if !ok || !there || v == nil {
		return nil, &schemas.ValueError{Violations: []schemas.Violation{{
			Pointer: "/" + field, Expected: "a value, because --key names this field", Found: "nothing",
			Hint: "add the field, or choose another with --key",
		}}}
	}
	if s, ok := v.(string); ok {
		return []byte(s), nil
	}
	return json.Marshal(v)
}
