package main

import (
	"context"
	"errors"
	"fmt"

	"penstock/producers"
	"penstock/producers/outbox"
)

// outboxCmd publishes the rows of a table.
type outboxCmd struct {
	Run  outboxRunCmd  `cmd:"" default:"withargs" help:"Publish what is in the table, until stopped (the default)."`
	Init outboxInitCmd `cmd:"" help:"Make the table."`
}

// Help shows examples.
func (outboxCmd) Help() string { return outboxRunCmd{}.Help() }

// tableFlag is embedded by both.
type tableFlag struct {
	Table string `default:"outbox" placeholder:"NAME" help:"The table: a name, or a schema and a name with a dot between (default ${default})."`
}

// outboxInitCmd makes the table.
type outboxInitCmd struct {
	tableFlag
	From string `placeholder:"URL" xor:"from" required:"" help:"postgres://…, where the table is to be."`
	DDL  bool   `name:"ddl" xor:"from" required:"" help:"Print the statements instead, for a migration of your own."`
}

// Help shows examples.
func (outboxInitCmd) Help() string {
	return `Examples:
  penstock outbox init --from postgres://localhost/shop
  penstock outbox init --ddl --table shop.events > 0007_outbox.sql`
}

// Run makes the table or prints how.
func (c *outboxInitCmd) Run(ctx context.Context, t *terminal) error {
	if c.DDL {
		ddl, err := outbox.DDL(c.Table)
		if err != nil {
			return usageError{err}
		}
		t.printf("%s", ddl)
		return nil
	}
	if err := outbox.Init(ctx, c.From, c.Table); err != nil {
		return err
	}
	t.printf("made table %s and %s_refused\n", c.Table, c.Table)
	return nil
}

// outboxRunCmd publishes.
type outboxRunCmd struct {
	brokerFlag
	registryFlag
	outputFlag
	tableFlag
	From     string   `required:"" placeholder:"URL" help:"postgres://…, where the table is."`
	Topics   []string `name:"topic" placeholder:"NAME" help:"Make this topic if it does not exist. Can be repeated."`
	Subjects string   `enum:"topic,record,topic-record" default:"topic" help:"What subjects are made of: topic, record (the column type) or topic-record."`
	Workers  int      `default:"4" placeholder:"N" help:"How many parts of the table are worked on at once (default ${default})."`
	Until    string   `enum:"stopped,empty" default:"stopped" help:"Run until stopped, or until the table is empty."`
}

// Help shows examples.
func (outboxRunCmd) Help() string {
	return `Examples:
  penstock outbox init --from postgres://localhost/shop
  penstock outbox --from postgres://localhost/shop --broker kafka://localhost:9092
  penstock outbox --from postgres://localhost/shop --table shop.events --until empty

What a transaction inserts into the table becomes events if it commits, in the
order of commits within a key, once each where the broker keeps positions: Kafka,
and streams that Penstock made on NATS. Run it as often as you like; all that run
share the work. Rows that do not fit, or whose topic does not exist, go to the table NAME_refused with the
reason; it is for you to mend them and insert them again.`
}

// Run publishes until it is stopped.
func (c *outboxRunCmd) Run(ctx context.Context, t *terminal) error {
	if c.Workers < 1 {
		return usagef("--workers %d: expected 1 or more", c.Workers)
	}
	reg, err := c.openRegistry(c.Broker)
	if err != nil {
		return err
	}
	defer reg.Close()
	broker, err := openBroker(ctx, c.Broker, t.log)
	if err != nil {
		return err
	}
	defer broker.Close()
	for _, topic := range c.Topics {
		if err := broker.Create(ctx, topic, 0); err != nil {
			return fmt.Errorf("create topic %q: %w", topic, err)
		}
	}
	subject := map[string]producers.Subject{
		"topic": producers.TopicSubject, "record": producers.RecordSubject, "topic-record": producers.TopicRecordSubject,
	}[c.Subjects]
	o, err := outbox.New(outbox.Config{
		Address: c.From, Table: c.Table, Publisher: broker, Registry: reg,
		Topic:   func(string) producers.Topic { return producers.Topic{Value: producers.Part{Subject: subject}} },
		Workers: c.Workers, UntilEmpty: c.Until == "empty", Logger: t.log,
	})
	if err != nil {
		return usageError{err}
	}
	err = o.Run(ctx)
	if errors.Is(err, outbox.ErrNoTable) {
		return withHint(err, "make it with penstock outbox init")
	}
	if err != nil {
		return err
	}
	published, refused := o.Counts()
	if c.json() {
		return t.object(map[string]int64{"published": published, "refused": refused})
	}
	t.printf("%s published, %s refused\n", count(published), count(refused))
	return nil
}
