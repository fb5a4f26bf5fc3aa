package main

import (
	"context"
	"errors"
	"path/filepath"

	"penstock/consumers"
	"penstock/consumers/diffing"
	"penstock/pipelines"
	"penstock/registry/client"
	"penstock/schemas"
	"penstock/schemas/jsonschema"
	"penstock/stream"
)

// applyCmd folds change events back into keyed state, and stores it.
type applyCmd struct {
	subscriptionFlags
	To     string `required:"" placeholder:"URL" help:"sqlite:FILE, postgres://…, parquet:DIR, parquet:s3://BUCKET/PREFIX, topic:NAME, or https://… to post to"`
	Format string `enum:"debezium,json-patch,merge-patch,cloudevents" default:"debezium" help:"What the events are: debezium, json-patch (RFC 6902), merge-patch (RFC 7396) or cloudevents."`
	Schema string `placeholder:"SUBJECT" help:"Store values in the newest schema of this subject, a column for each field. Default: as JSON, in one column."`
	sinkFlags
	sizeFlags
	stateFlags
	metricsFlag
}

// stateFlags say where the last values are.
type stateFlags struct {
	Cache int64  `default:"64" placeholder:"MB" help:"Memory for reading the state (default ${default})."`
	State string `placeholder:"DIR" default:"./penstock-data/state" help:"Folder of the last values (default ${default})."`
}

// Help shows examples.
func (applyCmd) Help() string {
	return `Examples:
  penstock consume apply weather.changes --to sqlite:weather.db --schema weather-value
  penstock consume apply orders.changes --to postgres://localhost/shop --table orders --format json-patch
  penstock consume apply orders.changes --to topic:orders.again

A database keeps one row for each key: a change inserts or updates it, a deletion
deletes it. Other sinks get the value of a key after each change, and a tombstone
where it has none. As with 'penstock consume microbatch' the position is stored with
the rows, so a kill at any moment leaves the same table. The last values are kept in
topics beside the input, TOPIC.GROUP.state.N, and --state is a copy of them. An event
that cannot be applied (its before, or a test in it, is of another value than the last)
goes to the topic TOPIC.GROUP.dlq with the reason.`
}

// Run applies events until it is stopped.
func (c *applyCmd) Run(ctx context.Context, t *terminal) error {
	if c.Group == "" {
		c.Group = "apply"
	}
	store := storeFlags{sinkFlags: c.sinkFlags, sizeFlags: c.sizeFlags}
	if kind := (pipelines.Sink{URL: c.To}).Kind(); kind == pipelines.SQLite || kind == pipelines.Postgres {
		store.Mode = pipelines.Upsert
	}
	p, err := pipelineOf(c.Topic, c.To, c.readFlags, store)
	if err != nil {
		return err
	}
	w, err := newWiring(t, c.registryFlag, c.outputFlag, c.metricsFlag, "applied")
	if err != nil {
		return err
	}
	w.between = c.applier(t)
	return errors.Join(stopped(ctx, w.run(ctx, p)), w.close())
}

// applier makes what stands between the events and the sink.
func (c *applyCmd) applier(t *terminal) func(context.Context, pipelines.Pipeline, stream.Broker, *client.Client, consumers.Sink) (between, error) {
	return func(ctx context.Context, p pipelines.Pipeline, broker stream.Broker, reg *client.Client, sink consumers.Sink) (between, error) {
		keeper, ok := broker.(diffing.Broker)
		if !ok {
			return between{}, usagef("--broker %s keeps no positions with what it is written; use embedded:, nats:// or kafka://", c.Broker)
		}
		anything, err := jsonschema.Format{}.Parse("{}", nil)
		if err != nil {
			return between{}, err
		}
		schema := func(ctx context.Context) (schemas.Registered, error) {
			if c.Schema == "" {
				return schemas.Registered{Schema: anything}, nil
			}
			return reg.Newest(ctx, c.Schema)
		}
		if _, err := schema(ctx); err != nil { // else it would be waited for
			return between{}, err
		}
		a, err := diffing.OpenApplier(filepath.Join(c.State, p.Source.Group), diffing.ApplyConfig{
			Broker: keeper, Name: p.Source.Group, Format: diffing.Format(c.Format), Sink: sink, Schema: schema,
			CacheBytes: c.Cache << 20, Logger: t.log, Restoring: restoring(t),
		})
		if err != nil {
			return between{}, err
		}
		return between{Sink: a, plain: anything, close: a.Close}, nil
	}
}

// restoring says how far the state is read.
func restoring(t *terminal) func(p stream.Partition, done, total int64) {
	return func(p stream.Partition, done, total int64) {
		t.log.Info("restore state", "topic", p.Topic, "partition", p.Number, "records", done, "of", total)
	}
}
