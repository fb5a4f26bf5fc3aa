package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// demoCmd shows the whole thing.
type demoCmd struct {
	brokerFlag
	outputFlag
	Dir     string `default:"./penstock-demo" placeholder:"DIR" help:"Folder for everything it makes; each run gets one of its own below it (default ${default})."`
	Flights int    `default:"4000" placeholder:"N" help:"How many flights to publish (default ${default})."`
}

// Help shows examples.
func (demoCmd) Help() string {
	return `Examples:
  penstock demo
  penstock demo --broker kafka://127.0.0.1:9092
  penstock demo --broker nats://127.0.0.1:4222

On a broker of your own the topics begin with the name of the run, so that they
disturb nothing.`
}

// demo is one run of the demo.
type demo struct {
	t       *terminal
	stack   *stack
	dir     string // everything it makes on disk
	broker  string // URL
	store   string // URL of the registry's log
	prefix  string // of its topics
	ledger  ledger
	onTopic int // the ledger's entry for the records on the flights topic
}

// Run plays the five scenes and adds up.
func (c *demoCmd) Run(ctx context.Context, t *terminal) error {
	dir, run, err := newRunDir(c.Dir)
	if err != nil {
		return err
	}
	began := time.Now()
	story := t
	if c.json() {
		story = t.aside()
	}
	d := &demo{t: story, dir: dir, broker: c.Broker, store: "file:" + filepath.Join(dir, "registry")}
	if c.Broker == defaultBroker {
		home := filepath.Join(dir, "broker")
		d.broker, d.store = "embedded:"+home, "file:"+filepath.Join(home, "registry")
	} else {
		d.prefix = fmt.Sprintf("demo-%s-%s.", began.UTC().Format("20060102-150405"), run)
	}
	d.t.printf("Everything this demo makes lies in %s\n", dir)
	d.stack, err = startStack(ctx, stackConfig{
		broker: d.broker, store: d.store, registry: "127.0.0.1:0", gateway: "127.0.0.1:0", log: t.log,
	})
	if err != nil {
		return err
	}
	d.say("broker   %s", describe(d.broker))
	d.say("registry %s", d.stack.registryURL)

	err = d.play(ctx, c.Flights)
	if stopping := d.stack.stop(); err == nil {
		err = stopping
	}
	if err != nil {
		return err
	}
	if c.json() {
		failures := d.ledger.failures()
		return errors.Join(t.object(map[string]any{
			"dir": d.dir, "seconds": time.Since(began).Seconds(), "counts": d.ledger.entries, "failures": failures,
		}), doesNotAddUp(failures))
	}
	return d.finish(time.Since(began))
}

// play plays the scenes one after the other.
func (d *demo) play(ctx context.Context, flights int) error {
	scenes := []struct {
		title string
		run   func(context.Context) error
	}{
		{"Publish flights: what does not fit its schema is refused", func(ctx context.Context) error { return d.publishFlights(ctx, flights) }},
		{"Microbatch them into SQLite, each exactly once", d.storeFlights},
		{"Diff hourly weather into change events", d.diffWeather},
		{"Train a model with ten clients that keep their data", d.trainDigits},
		{"Change the schema: one change is fine, one is not", d.changeSchema},
	}
	for i, s := range scenes {
		d.t.printf("\n%d. %s\n", i+1, s.title)
		if err := s.run(ctx); err != nil {
			return fmt.Errorf("demo, step %d: %w", i+1, err)
		}
	}
	return nil
}

// finish prints the counts and what to do next.
func (d *demo) finish(took time.Duration) error {
	d.t.printf("\nWhat there is now, each count read back from where the data lies:\n\n")
	d.ledger.print(d.t)
	if err := doesNotAddUp(d.ledger.failures()); err != nil {
		return err
	}
	name := program()
	d.t.printf("\nDone in %.1f s. Everything lies in %s\n", took.Seconds(), d.dir)
	d.t.printf("\nTry next, the same to stay:\n  %s up\n", name)
	d.t.printf("and in another terminal:\n  %s produce flights --sample flights -n 1000\n", name)
	d.t.printf("  %s consume microbatch flights --to sqlite:flights.db\n", name)
	again := name + " up --broker " + d.broker
	if _, embedded := embeddedDir(d.broker); !embedded {
		again += " --store " + d.store // beside an embedded broker it is found
	}
	d.t.printf("or look at what the demo made:\n  %s\n", again)
	d.t.printf("  %s consume tail %s --broker %s --until end\n", name, d.topic("flights"), d.broker)
	return nil
}

// program is how the user called this program.
func program() string {
	if exe, err := os.Executable(); err == nil && strings.Contains(exe, "go-build") {
		return "go run ./cmd/penstock"
	}
	return os.Args[0]
}

func doesNotAddUp(failures []string) error {
	if len(failures) == 0 {
		return nil
	}
	return fmt.Errorf("the counts do not add up: %s", strings.Join(failures, "; "))
}

// say prints a line of a scene.
func (d *demo) say(format string, args ...any) { d.t.printf("   "+format+"\n", args...) }

// topic is the name of a topic of this run.
func (d *demo) topic(name string) string { return d.prefix + name }

// describe names a broker in the user's words.
func describe(broker string) string {
	if dir, ok := embeddedDir(broker); ok {
		return "embedded JetStream in " + dir
	}
	return broker
}

// newRunDir makes the folder of this run: run-1, run-2 and so on.
func newRunDir(parent string) (dir, name string, err error) {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", "", withHint(fmt.Errorf("make the demo's folder: %w", err), "choose another with --dir")
	}
	for n := 1; ; n++ {
		name = fmt.Sprintf("run-%d", n)
		dir = filepath.Join(parent, name)
		switch err := os.Mkdir(dir, 0o755); {
		case err == nil:
			return dir, name, nil
		case !errors.Is(err, os.ErrExist):
			return "", "", withHint(fmt.Errorf("make the demo's folder: %w", err), "choose another with --dir")
		}
	}
}
