package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"penstock/consumers/diffing"
	"penstock/registry"
	"penstock/registry/client"
	"penstock/schemas"
)

// rulesFlags say what counts as a change.
type rulesFlags struct {
	Ignore    []string          `placeholder:"POINTER,…" help:"JSON pointers at and below which changes do not count. A step * stands for every member or item."`
	Watch     []string          `placeholder:"POINTER,…" help:"The only JSON pointers at and below which changes count. Default: all."`
	Tolerance map[string]string `placeholder:"POINTER=N;…" help:"By how much numbers may differ from those of the last event."`
	ArrayKey  map[string]string `placeholder:"POINTER=FIELD;…" help:"Arrays whose items are known by a field, in any order. Default: by their index."`
	Set       []string          `placeholder:"POINTER,…" help:"Arrays that are sets: their order does not count."`
	AnyCase   []string          `placeholder:"POINTER,…" help:"Strings whose upper and lower case do not count."`
	Times     []string          `name:"time" placeholder:"POINTER,…" help:"RFC 3339 times whose zone does not count."`
}

func (f *rulesFlags) rules() diffing.Rules {
	return diffing.Rules{
		Ignore: f.Ignore, Watch: f.Watch, Tolerance: f.Tolerance, ArrayKeys: f.ArrayKey,
		Sets: f.Set, FoldCase: f.AnyCase, Times: f.Times,
	}
}

// diffCmd turns keyed state into change events.
type diffCmd struct {
	subscriptionFlags
	To      string `placeholder:"topic:NAME" help:"Topic for the change events."`
	Compare string `placeholder:"OTHER" help:"Compare what OTHER and TOPIC hold now, by key, and say what is missing in TOPIC, extra, or different. One of them may be a table, sqlite:FILE#TABLE or postgres://…#TABLE. Exit code 1 if anything is."`
	Format  string `enum:"debezium,json-patch,merge-patch,cloudevents" default:"debezium" help:"debezium, json-patch (RFC 6902), merge-patch (RFC 7396) or cloudevents."`
	Tests   bool   `name:"invertible" help:"Put tests of the old values into JSON patches, so that they can be turned round."`
	Typed   bool   `name:"registered" help:"Write the events under a schema that is made from that of the values, in Avro or Protobuf, and registered as NAME-value. Of --format debezium."`
	Key     string `placeholder:"FIELD" help:"Field that identifies an entity. Default: the record's key."`
	Soft    string `name:"soft-delete" placeholder:"COLUMN" help:"For --compare with a table: rows that have something in this column are deleted."`
	rulesFlags
	Version  string        `placeholder:"POINTER" help:"Number, time or text by which the records of a key are ordered; older ones are left out. Default: as they come."`
	TTL      time.Duration `placeholder:"TIME" help:"Delete keys of which no record has come for so long, by the time of the records. Default: never."`
	Snapshot string        `placeholder:"NAME" help:"First write an event of each key there is, once for each NAME."`
	stateFlags
}

// Help shows examples.
func (diffCmd) Help() string {
	return `Examples:
  penstock consume diff weather --to topic:weather.changes --ignore /time_hour
  penstock consume diff orders --to topic:orders.changes --key id --format json-patch
  penstock consume diff sensors --to topic:sensors.changes --tolerance /celsius=0.5 --set /tags
  penstock consume diff orders --to topic:orders.changes --registered
  penstock consume diff --compare orders orders.migrated --ignore /updated_at
  penstock consume diff --compare orders sqlite:shop.db#orders --key id

Each change is emitted once, also after a kill -9 and where partitions move: the
state is kept in topics beside the input, TOPIC.GROUP.state.N, and --state is a
copy of it, which is made again where it is missing. What cannot be compared goes
to the topic TOPIC.GROUP.dlq with the reason.`
}

// Run emits change events until it is stopped, or compares topics.
func (c *diffCmd) Run(ctx context.Context, t *terminal) error {
	if c.Compare != "" {
		if c.To != "" {
			return usagef("--to: expected none with --compare, which writes nothing")
		}
		return c.compare(ctx, t)
	}
	return stopped(ctx, c.emit(ctx, t))
}

// emit emits change events until it is stopped.
func (c *diffCmd) emit(ctx context.Context, t *terminal) error {
	topic, ok := strings.CutPrefix(c.To, "topic:")
	if !ok || topic == "" {
		return usagef("--to %q is no topic; write topic:NAME", c.To)
	}
	if c.Typed && c.Format != string(diffing.Debezium) {
		return usagef("--registered: expected --format debezium, found %s, whose events are JSON", c.Format)
	}
	if c.Group == "" {
		c.Group = "diff"
	}
	broker, err := openBroker(ctx, c.Broker, t.log)
	if err != nil {
		return err
	}
	defer broker.Close()
	keeper, ok := broker.(diffing.Broker)
	if !ok {
		return usagef("--broker %s keeps no positions with what it is written; use embedded:, nats:// or kafka://", c.Broker)
	}
	ranges, err := broker.Ranges(ctx, c.Topic)
	if err != nil {
		return fmt.Errorf("read topic %q: %w", c.Topic, err)
	}
	if err := broker.Create(ctx, topic, len(ranges)); err != nil {
		return fmt.Errorf("create topic %q: %w", topic, err)
	}
	config := diffing.Config{
		Broker: keeper, Name: c.Group, Topic: topic,
		Format: diffing.Format(c.Format), Invertible: c.Tests, KeyField: c.Key, Rules: c.rules(),
		Version: c.Version, TTL: c.TTL, Snapshot: c.Snapshot, CacheBytes: c.Cache << 20,
		Logger: t.log, Restoring: restoring(t),
	}
	if c.Typed {
		reg, err := c.openRegistry(c.Broker)
		if err != nil {
			return err
		}
		defer reg.Close()
		config.Envelope = envelopes(reg, topicSubject(topic))
	}
	differ, err := diffing.Open(filepath.Join(c.State, c.Group), config)
	if err != nil {
		return err
	}
	defer differ.Close()
	return c.run(ctx, t, broker, job{sink: differ, owner: differ, to: "topic " + topic, log: t.log}, "compared")
}

// envelopes makes the schemas of events, by those of the values, and registers them.
func envelopes(reg *client.Client, subject string) func(context.Context, schemas.ID) (schemas.Registered, error) {
	var mu sync.Mutex
	known := map[schemas.ID]schemas.Registered{}
	return func(ctx context.Context, id schemas.ID) (schemas.Registered, error) {
		mu.Lock()
		defer mu.Unlock()
		if r, ok := known[id]; ok {
			return r, nil
		}
		value, err := reg.Schema(ctx, id)
		if err != nil {
			return schemas.Registered{}, err
		}
		text, err := diffing.EnvelopeText(value)
		if err != nil {
			return schemas.Registered{}, err
		}
		change := registry.Schema{Schema: text, SchemaType: value.Type()}
		if change.SchemaType == schemas.Protobuf { // what it imports
			was, err := reg.ByID(ctx, id)
			if err != nil {
				return schemas.Registered{}, err
			}
			change.References = was.References
		}
		r := schemas.Registered{Subject: subject}
		if r.ID, err = reg.Register(ctx, subject, change); err != nil {
			if refused := (*registry.Error)(nil); errors.As(err, &refused) && (refused.Code == registry.CodeIncompatible || refused.Code == registry.CodeInvalidSchema || refused.Code == registry.CodeTooLarge) {
				err = fmt.Errorf("%w: %w", schemas.ErrBadSchema, err)
			}
			return r, err
		}
		file, err := reg.Schema(ctx, r.ID)
		if err == nil {
			r.Schema, err = diffing.EnvelopeIn(file)
		}
		if err == nil {
			known[id] = r
		}
		return r, err
	}
}
