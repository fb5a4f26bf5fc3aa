package main

import (
	"context"
	"fmt"

	"penstock/consumers/sinks/sqlsink"
	"penstock/pipelines"
)

// plan prints what would become of the table for the newest schema of the topic.
// It makes nothing but the table of positions, as every opening of a database does.
func (c *microbatchCmd) plan(ctx context.Context, t *terminal, p pipelines.Pipeline) error {
	reg, err := c.openRegistry(c.Broker)
	if err != nil {
		return err
	}
	defer reg.Close()
	subject := topicSubject(c.Topic)
	if p.MapTo != "" {
		subject = p.MapTo
	}
	newest, err := reg.Newest(ctx, subject)
	if err != nil {
		return fmt.Errorf("look up the newest schema of subject %q: %w", subject, err)
	}
	kind := p.Sink.Kind()
	if kind != pipelines.SQLite && kind != pipelines.Postgres {
		return usagef("--plan: a %s sink has no table; use it with sqlite:FILE or postgres://HOST/DATABASE", kind)
	}
	opened, err := openSink(ctx, p.Sink.URL, tableOf(p, t.log))
	if err != nil {
		return err
	}
	defer opened.Close()
	table, ok := opened.(*sqlsink.Sink)
	if !ok {
		return usagef("--plan: a %s sink has no table", kind)
	}
	statements, err := table.Plan(ctx, newest.Schema)
	if err != nil {
		return err
	}
	if c.json() {
		return t.object(map[string]any{"table": p.Sink.Table, "subject": subject, "version": newest.Version, "statements": append([]string{}, statements...)})
	}
	for _, s := range statements {
		t.printf("%s;\n", s)
	}
	if len(statements) == 0 {
		t.printf("table %s is as version %d of %s needs it\n", p.Sink.Table, newest.Version, subject)
	}
	return nil
}
