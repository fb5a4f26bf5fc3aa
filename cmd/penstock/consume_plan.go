package main

import (
	"context"
	"fmt"

	"penstock/consumers/sinks/postgres"
	"penstock/consumers/sinks/sqlsink"
	"penstock/pipelines"
)

// plan prints what would become of the table for the newest schema of the topic.
// With Plan it makes nothing but the table of positions, as every opening of a
// database does; with Apply it makes all.
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
	switch {
	case c.Apply && (kind != pipelines.Postgres || c.Plan):
		return usagef("--apply: expected a table of PostgreSQL, and no --plan beside it; others are changed as records need it")
	case kind != pipelines.SQLite && kind != pipelines.Postgres:
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
	var steps []postgres.Step
	var notes []string
	if p.Sink.Constrain {
		if steps, notes, err = postgres.Constrain(ctx, p.Sink.URL, p.Sink.Table, newest.Schema.Model()); err != nil {
			return err
		}
	}
	if c.Apply {
		all := statements
		for _, s := range steps {
			all = append(all, s.SQL)
		}
		return postgres.Apply(ctx, p.Sink.URL, all, func(s string) { printStatement(t, s) })
	}
	if c.json() {
		return t.object(map[string]any{
			"table": p.Sink.Table, "subject": subject, "version": newest.Version, "statements": append([]string{}, statements...),
			"constraints": append([]postgres.Step{}, steps...), "notes": append([]string{}, notes...),
		})
	}
	for _, n := range notes {
		t.printf("-- to decide: %s\n", n)
	}
	for _, s := range statements {
		printStatement(t, s)
	}
	if len(steps) > 0 {
		t.printf("-- not done unless it is asked for, by --apply\n" + lockTimeout)
	}
	for _, s := range steps {
		t.printf(costs+"%s;\n", s.Lock, s.Cost, s.Why, s.SQL)
	}
	if len(statements)+len(steps) == 0 {
		t.printf("table %s is as version %d of %s needs it\n", p.Sink.Table, newest.Version, subject)
	}
	return nil
}
