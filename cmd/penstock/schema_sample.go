package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/schemas"
	"penstock/schemas/samples"
)

// schemaSampleCmd prints made-up events of a schema.
type schemaSampleCmd struct {
	Source string `arg:"" help:"Schema file (.avsc, .proto or .json), one of ${samples}, or a subject."`
	Count  int    `short:"n" placeholder:"N" default:"5" help:"How many events."`
	Type   string `enum:"avro,json,protobuf," default:"" placeholder:"TYPE" help:"Print the schema of that one of ${samples} in avro, json or protobuf, in place of events."`
	madeUpFlags
	connectFlags
}

// Help shows examples.
func (schemaSampleCmd) Help() string {
	return `Examples:
  penstock schema sample orders.avsc
  penstock schema sample orders-value -n 1000 --seed 7 > orders.jsonl
  penstock schema sample orders.proto --invalid 20%
  penstock schema sample customers.json --entities 10 --key id -n 200
  penstock schema sample flights --type protobuf

One event a line, as 'penstock produce' takes them; with --entities, key and
value, as 'penstock produce --envelope' does. The same seed gives the same
events. What is wrong with a broken one is said on standard error.`
}

// Run prints events, or a schema.
func (c *schemaSampleCmd) Run(ctx context.Context, t *terminal) error {
	sample, err := samples.Get(c.Source)
	if c.Type != "" {
		if err != nil {
			return usageError{err}
		}
		text, err := sample.Schema(schemas.Type(strings.ToUpper(c.Type)))
		if err != nil {
			return err
		}
		t.printf("%s\n", strings.TrimSuffix(text, "\n"))
		return nil
	}
	next := func() (samples.Event, error) { return samples.Event{}, nil }
	if err == nil {
		next, err = c.held(sample)
	} else {
		var schema schemas.Schema
		if schema, err = c.schema(ctx); err != nil {
			return err
		}
		var m *samples.Maker
		if m, err = c.maker(schema); err == nil {
			next = m.Next
		}
	}
	if err != nil {
		return usageError{err}
	}
	for n := 1; n <= c.Count && ctx.Err() == nil; n++ {
		e, err := next()
		if err != nil {
			return noError{err}
		}
		text, err := c.line(e)
		if err != nil {
			return err
		}
		t.printf("%s\n", text)
		if e.Mistake != nil {
			t.notef("line %d is broken: %v\n", n, e.Mistake)
		}
	}
	return ctx.Err()
}

// line is an event as produce reads it: of entities, since tombstones are among
// them, in an envelope.
func (c *schemaSampleCmd) line(e samples.Event) ([]byte, error) {
	if c.Entities == 0 {
		return schemas.AppendJSON(nil, e.Value)
	}
	return schemas.AppendJSON(nil, map[string]any{"key": e.Key, "value": e.Value})
}

// schema is that of the file or subject.
func (c *schemaSampleCmd) schema(ctx context.Context) (schemas.Schema, error) {
	if _, err := typeOf(c.Source); err == nil {
		s, err := readSchema(c.Source)
		if err != nil {
			return nil, err
		}
		return parseFile(c.Source, s.SchemaType, s.Schema)
	}
	reg, err := c.openRegistry(c.Broker)
	if err != nil {
		return nil, err
	}
	defer reg.Close()
	_, schema, err := reg.Latest(ctx, c.Source)
	if errors.Is(err, schemas.ErrNoSchema) && filepath.Ext(c.Source) != "" {
		return nil, withHint(err, "it is also no schema file, whose name would end in .avsc, .proto or .json")
	}
	return schema, err
}

// parseFile reads the schema that a file holds.
func parseFile(file string, language schemas.Type, text string) (schemas.Schema, error) {
	all := formats()
	i := slices.IndexFunc(all, func(f schemas.Format) bool { return f.Type() == language })
	schema, err := all[i].Parse(text, nil)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", file, err)}
	}
	return schema, nil
}

// held yields the events of a sample, as often as they are asked for.
func (c *schemaSampleCmd) held(s samples.Sample) (func() (samples.Event, error), error) {
	if c.madeUpFlags != (madeUpFlags{Rate: c.Rate, Seed: c.Seed, Key: c.Key}) {
		return nil, fmt.Errorf("the events of %s are given: --entities and --invalid are for those of a schema file or subject", s.Name)
	}
	events, err := s.Events(c.Count)
	if err != nil {
		return nil, err
	}
	var all []samples.Event
	for v := range events {
		all = append(all, samples.Event{Key: v[s.Key], Value: v})
	}
	return func() (samples.Event, error) {
		e := all[0]
		all = all[1:]
		return e, nil
	}, nil
}

// madeUpFlags say how events are made up.
type madeUpFlags struct {
	Seed     uint64 `placeholder:"N" default:"1" help:"What decides the events: the same seed gives the same ones."`
	Rate     rate   `placeholder:"N/s" help:"Events in a second (or N/m, N/h): their times are that far apart. Default: 1/s."`
	Entities int    `placeholder:"N" help:"Tell of that many things: the same key comes again with few fields changed, now and then a tombstone."`
	Key      string `placeholder:"FIELD" help:"Field whose value is the key of an event."`
	Invalid  share  `placeholder:"P%" help:"Break so many of the events, as 2%."`
}

// maker is one of events that fit schema, but for those to be broken.
func (f *madeUpFlags) maker(schema schemas.Schema) (*samples.Maker, error) {
	return samples.NewMaker(schema, samples.Options{
		Seed: f.Seed, Every: f.Rate.every(), Entities: f.Entities, Key: f.Key, Invalid: float64(f.Invalid),
	})
}

// share is a part of a whole, from 0 to 1, as text 2% or 0.02.
type share float64

// UnmarshalText reads a share.
func (s *share) UnmarshalText(text []byte) error {
	number, percent := strings.CutSuffix(string(text), "%")
	f, err := strconv.ParseFloat(number, 64)
	if percent {
		f /= 100
	}
	if err != nil || !(f >= 0 && f <= 1) {
		return fmt.Errorf("expected a share such as 2%% or 0.02, found %q", text)
	}
	*s = share(f)
	return nil
}

// rate is how often something is done, in a second; 0 is as fast as can be.
type rate float64

// UnmarshalText reads a rate, as 500, 500/s, 30/m or 2/h.
func (r *rate) UnmarshalText(text []byte) error {
	number, unit, _ := strings.Cut(string(text), "/")
	per := map[string]float64{"": 1, "s": 1, "m": 60, "h": 3600}[unit]
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || per == 0 || !(f/per >= 1e-6 && f/per <= 1e9) {
		return fmt.Errorf("expected a rate such as 500/s, 30/m or 2/h, found %q", text)
	}
	*r = rate(f / per)
	return nil
}

// every is the time from one to the next, 0 if there is no rate.
func (r rate) every() time.Duration {
	if r == 0 {
		return 0
	}
	return time.Duration(float64(time.Second) / float64(r))
}
