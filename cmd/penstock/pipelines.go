package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"penstock/consumers"
	"penstock/consumers/microbatch"
	"penstock/consumers/sinks/parquet"
	"penstock/consumers/sinks/sqlsink"
	"penstock/consumers/sinks/topic"
	"penstock/consumers/sinks/webhook"
	"penstock/pipelines"
	"penstock/registry/client"
	"penstock/schemas"
	"penstock/stream"
)

// pipelineCommands are the commands to which --config names pipelines.
var pipelineCommands = map[string]bool{"consume run": true, "consume explain": true}

// pipelinesCmd runs the pipelines of files.
type pipelinesCmd struct {
	brokerFlag
	registryFlag
	outputFlag
	metricsFlag
}

// Help shows examples.
func (pipelinesCmd) Help() string {
	return `Examples:
  penstock consume --config orders.yaml
  penstock consume --config pipelines/ --broker kafka://localhost:9092

Each file that ends in .yaml holds one pipeline; 'penstock consume schema' prints
what it may say. --broker and --registry hold for those that name none. One that
fails does not stop the others, and if what it needs is not there (a broker, a
database, a table) it is started again, less and less often, unless it has an end to
come to (until: end). On SIGHUP the files are read again: pipelines that
changed are stopped, with their positions kept, and started anew; the others run
on. If a file is not right, all runs on as it was.`
}

// Run runs pipelines until it is stopped, or all have ended.
func (c *pipelinesCmd) Run(ctx context.Context, t *terminal, config configFile) error {
	if config == "" {
		return usagef("consume needs to know what to run: --config FILE or FOLDER, or one of the commands of 'penstock consume --help'")
	}
	options := pipelines.Options{Broker: c.Broker, Registry: c.Registry}
	first, err := pipelines.Load(string(config), options)
	if err != nil {
		return usageError{err}
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	w, err := newWiring(t, c.registryFlag, c.outputFlag, c.metricsFlag, "stored")
	if err != nil {
		return err
	}
	w.several = true
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	reload := make(chan []pipelines.Pipeline)
	wait.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
			}
			next, err := pipelines.Load(string(config), options)
			if err != nil {
				t.log.Error("the pipelines run on as they were", "error", oneLine(err))
				continue
			}
			select {
			case reload <- next:
			case <-ctx.Done():
			}
		}
	})
	err = pipelines.Serve(ctx, first, reload, w.keep, func(e pipelines.Event) {
		if e.What == pipelines.Waiting {
			t.log.Warn("pipeline", "name", e.Pipeline.Name, "is", e.What, "again", e.Again.Round(time.Millisecond), "error", sentence(e.Err))
		} else if e.Err != nil {
			t.log.Error("pipeline", "name", e.Pipeline.Name, "is", e.What, "error", sentence(e.Err))
		} else {
			t.log.Info("pipeline", "name", e.Pipeline.Name, "is", e.What)
		}
	})
	return errors.Join(err, w.close())
}

// pipelineSchemaCmd prints the schema of a pipeline's file.
type pipelineSchemaCmd struct{}

// Run prints it.
func (pipelineSchemaCmd) Run(t *terminal) error {
	t.printf("%s", pipelines.Schema)
	return nil
}

// explainCmd says what pipelines guarantee.
type explainCmd struct {
	Topic string `arg:"" optional:"" help:"Topic to read, where no --config names pipelines."`
	readFlags
	To string `placeholder:"URL" help:"Sink, as in 'penstock consume microbatch'."`
	storeFlags
}

// Help shows examples.
func (explainCmd) Help() string {
	return `Examples:
  penstock consume explain orders --to topic:orders.checked --broker kafka://localhost:9092
  penstock consume explain --config pipelines/ -o json

It reads the flags of 'penstock consume microbatch' or the files of 'penstock
consume --config', asks no server, and says whether each record is stored exactly
once or at least once, why, in which order, what would break that, and which tests
prove it.`
}

// Run says it.
func (c *explainCmd) Run(t *terminal, config configFile) error {
	var all []pipelines.Pipeline
	var err error
	switch {
	case (config == "") == (c.Topic == ""):
		return usagef("expected --config FILE, or a topic with --to URL, and not both")
	case config != "":
		if all, err = pipelines.Load(string(config), pipelines.Options{Broker: c.Broker, Registry: c.Registry}); err != nil {
			return usageError{err}
		}
	default:
		p, err := pipelineOf(c.Topic, c.To, c.readFlags, c.storeFlags)
		if err != nil {
			return err
		}
		all = append(all, p)
	}
	for _, p := range all {
		g := p.Explain()
		if !c.json() {
			t.printf("%s", g)
		} else if err := t.object(g); err != nil {
			return err
		}
	}
	return nil
}

// wiring opens what pipelines name, and runs them. They share the connections to
// brokers and registries.
type wiring struct {
	t        *terminal
	registry registryFlag
	output   outputFlag
	bar      *bar
	// between stands between source and sink, if it is not nil.
	between  func(ctx context.Context, p pipelines.Pipeline, broker stream.Broker, reg *client.Client, sink consumers.Sink) (between, error)
	several  bool // what is said names the pipeline
	lags     lags
	measured measured

	mu          sync.Mutex
	connections map[string]*connection // by the broker's URL
}

// connection is a broker, and the registries that pipelines on it use.
type connection struct {
	mu         sync.Mutex // held while one connects, so that those of other brokers do not wait
	broker     stream.Broker
	registries map[string]*client.Client
}

func newWiring(t *terminal, registry registryFlag, output outputFlag, metrics metricsFlag, doing string) (*wiring, error) {
	w := &wiring{
		t: t, registry: registry, output: output, connections: map[string]*connection{},
	}
	var err error
	if w.measured, err = metrics.open(t); err != nil {
		return nil, err
	}
	w.bar = t.progress(doing, 0)
	w.bar.note = w.lags.String
	return w, nil
}

// between is a sink that hands on to another what it makes of records.
type between struct {
	consumers.Sink
	plain schemas.Schema // of values that name none
	close func() error
}

// close closes the connections, once no pipeline runs.
func (w *wiring) close() error {
	w.bar.stop()
	errs := []error{w.measured.close()}
	for _, c := range w.connections {
		for _, r := range c.registries {
			errs = append(errs, r.Close())
		}
		if c.broker != nil {
			errs = append(errs, c.broker.Close())
		}
	}
	return errors.Join(errs...)
}

// connect returns the broker and the registry of a pipeline.
func (w *wiring) connect(ctx context.Context, s pipelines.Source) (stream.Broker, *client.Client, error) {
	w.mu.Lock()
	c := w.connections[s.Broker]
	if c == nil {
		c = &connection{registries: map[string]*client.Client{}}
		w.connections[s.Broker] = c
	}
	w.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broker == nil {
		broker, err := openBroker(ctx, s.Broker, w.t.log)
		if err != nil {
			return nil, nil, err
		}
		c.broker = broker
	}
	reg := c.registries[s.Registry]
	if reg == nil {
		flags := w.registry
		flags.Registry = s.Registry
		var err error
		if reg, err = flags.openRegistry(s.Broker); err != nil {
			return nil, nil, err
		}
		c.registries[s.Registry] = reg
	}
	return c.broker, reg, nil
}

// keep is run for pipelines.Serve: it says of what may pass that it may. What has
// an end to come to is not kept, so that its exit code says why it did not.
func (w *wiring) keep(ctx context.Context, p pipelines.Pipeline) error {
	err := stopped(ctx, w.run(ctx, p))
	begun, code := begunError{}, exitCode(err)
	if ctx.Err() != nil || p.Source.Until == pipelines.End || code == exitUsage || code != exitUnreachable && (err == nil || errors.As(err, &begun)) {
		return err
	}
	return pipelines.Passing{Err: err}
}

// run runs a pipeline until ctx ends or it is done, and says what it did.
func (w *wiring) run(ctx context.Context, p pipelines.Pipeline) (err error) {
	broker, reg, err := w.connect(ctx, p.Source)
	if err != nil {
		return err
	}
	sink, where, err := w.open(ctx, p, broker)
	if err != nil {
		return err
	}
	if closer, ok := sink.(io.Closer); ok {
		defer closer.Close()
	}
	var over between
	if w.between != nil {
		if over, err = w.between(ctx, p, broker, reg, sink); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, over.close()) }()
		sink = over.Sink
	}
	j := job{sink: sink, plain: over.plain, topic: p.Source.Topic, group: p.Source.Group, until: p.Source.Until == pipelines.End, to: goal(p.Sink), log: w.t.log}
	j.owner, _ = sink.(stream.Owner)
	if p.Batch.Coalesce {
		j.sink = microbatch.Coalesce(sink)
	}
	if j.reader, err = readerAs(reg, p.Source.ReadAs); err != nil {
		return err
	}
	log, name := w.t.log, ""
	if w.several {
		name = p.Name
		log = log.With("pipeline", name)
	}
	policy, err := p.Policy()
	if err != nil {
		return err
	}
	if j.between, err = p.Between(reg.Newest); err != nil {
		return err
	}
	j.byKey, j.ordering, j.attempts = p.Batch.Keys > 0, p.Ordering(), p.Errors.Attempts
	j.deadLetters = p.Errors.DeadLetters
	j.policy = &policy
	seen := watch{t: w.t, bar: w.bar, log: log}
	j.hooks = seen.hooks()
	policy.Flushed = func(f microbatch.Flush) {
		log.Info("batch", "topic", f.Topic, "partition", f.Partition, "first", f.First, "last", f.Last, "records", f.Records,
			"bytes", f.Bytes, "cause", f.Cause, "gathered", f.Gathered, "took", f.Took, "error", f.Err)
	}
	defer w.measure(ctx, p, broker, &j)()
	err = runJob(ctx, broker, reg, j)
	if !w.several {
		w.bar.stop()
	}
	return errors.Join(err, seen.report(w.output, j, name, "stored in "+where))
}

// goal is where a sink stores, in words.
func goal(s pipelines.Sink) string {
	switch s.Kind() {
	case pipelines.Topic, pipelines.Webhook, pipelines.Parquet:
		return shown(s.URL)
	}
	return "table " + s.Table + " of " + shown(s.URL)
}

// measure has what a job does measured, until the function that it returns is
// called.
func (w *wiring) measure(ctx context.Context, p pipelines.Pipeline, broker stream.Broker, j *job) func() {
	settled := j.hooks.Settled
	if w.measured.traces != nil {
		untraced := settled
		settled = func(b consumers.Batch, took time.Duration) {
			w.measured.traced(p.Name, b, took)
			untraced(b, took)
		}
		j.hooks.Settled = settled
	}
	if w.measured.consumers == nil && !w.t.live {
		return func() {}
	}
	behind := newLag(j.topic)
	w.lags.add(behind)
	if j.owner != nil {
		j.owner = followed{j.owner, behind}
	}
	j.hooks.Settled = func(b consumers.Batch, took time.Duration) {
		behind.settled(b)
		settled(b, took)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	wait.Go(func() { behind.follow(ctx, broker, func() { w.bar.add(0) }) })
	end := func() {
		cancel()
		wait.Wait()
		w.lags.remove(behind)
	}
	if w.measured.consumers == nil {
		return end
	}
	m := w.measured.consumers.Of(p.Name, behind.partitions)
	flushed, retry, deadLetter := j.policy.Flushed, j.hooks.Retry, j.hooks.DeadLetter
	j.policy.Flushed = func(f microbatch.Flush) {
		m.Flushed(string(f.Cause), f.Records, f.Bytes, f.Gathered, f.Took, f.Err)
		flushed(f)
	}
	j.hooks.Retry = func(what string, attempt int, wait time.Duration, err error) {
		m.Retry(what)
		retry(what, attempt, wait, err)
	}
	j.hooks.DeadLetter = func(r stream.Record, why *consumers.Reason) {
		m.DeadLetter(string(why.Code))
		deadLetter(r, why)
	}
	return func() {
		end()
		m.Close()
	}
}

// open opens a pipeline's sink, and says in a word or two what it is.
func (w *wiring) open(ctx context.Context, p pipelines.Pipeline, broker stream.Broker) (sink consumers.Sink, where string, err error) {
	s, group := p.Sink, p.Source.Group
	switch s.Kind() {
	case pipelines.Topic:
		sink, err = openTopicSink(ctx, broker, p.Source.Topic, topic.Config{Topic: s.Rest(), Pipeline: group, Encode: p.Source.ReadAs != "" || p.Map != "", Logger: w.t.log})
		return sink, "topic " + s.Rest(), err
	case pipelines.Webhook:
		sink, err = openWebhook(s, group)
		return sink, "posts", err
	case pipelines.Parquet:
		sink, err = parquet.Open(ctx, s.Rest(), parquet.Config{Pipeline: group, PartitionBy: s.PartitionBy, Logger: w.t.log})
		return sink, s.Rest(), err
	}
	sink, err = openSink(ctx, s.URL, tableOf(p, w.t.log))
	return sink, s.Table, err
}

// tableOf is the table that a pipeline writes to.
func tableOf(p pipelines.Pipeline, log *slog.Logger) sqlsink.Config {
	s := p.Sink
	return sqlsink.Config{
		Table: s.Table, Pipeline: p.Source.Group, Mode: sqlsink.Mode(s.Mode), Key: s.Key, SoftDelete: s.SoftDelete,
		Widen: s.Widen, Constrain: s.Constrain, Index: s.Index, PartitionBy: strings.Join(s.PartitionBy, ","), Ahead: s.Ahead, Logger: log,
	}
}

// openWebhook opens an endpoint to post to.
func openWebhook(s pipelines.Sink, group string) (consumers.Sink, error) {
	config := webhook.Config{URL: s.URL, Pipeline: group}
	if s.Secret != "" {
		secret, err := os.ReadFile(s.Secret)
		if err != nil {
			return nil, fmt.Errorf("read the secret: %w", err)
		}
		config.Secret = bytes.TrimSpace(secret)
	}
	return webhook.New(config)
}
