package main

import (
	"strings"

	"penstock/consumers/sinks/postgres"
)

// sqlFlags ask for a migration in the place of a comparison.
type sqlFlags struct {
	SQL      string   `enum:"postgres," default:"" placeholder:"postgres" help:"Print instead the SQL that the change means for the table of a sink: postgres."`
	Table    string   `placeholder:"NAME" help:"With --sql: the table, or a schema and a table with a dot between."`
	TableKey []string `placeholder:"COLUMN,…" help:"With --sql: the key columns of a table that is upserted to."`
}

// phaseWords say when the steps of a phase are due.
var phaseWords = map[postgres.Phase]string{
	postgres.Expand:   "before the first event of the new schema",
	postgres.Backfill: "then, while the table is in use",
	postgres.Contract: "when the last event of the old schema is stored",
}

// What is printed before statements that lock a table, and of each.
const (
	lockTimeout = "-- who waits for a lock keeps others waiting: rather try again\nSET lock_timeout = '3s';\n"
	costs       = "-- %s, %s: %s\n"
)

// migrate prints the SQL for a table that one schema became the columns of.
func (c *schemaDiffCmd) migrate(t *terminal, before, after []sourced) error {
	if len(before) != 1 || len(after) != 1 || c.Table == "" || c.Output != "text" && c.Output != "json" {
		return usagef("--sql: expected --table, two schemas to compare and -o text or json")
	}
	b, a := before[0].side, after[0].side
	if b.Source.SchemaType != a.Source.SchemaType {
		return usagef("--sql: expected two schemas in one language, found %s and %s", b.Source.SchemaType, a.Source.SchemaType)
	}
	steps, notes, err := postgres.Migrate(a.Source.SchemaType, b.Schema.Model(), a.Schema.Model(), c.Table, c.TableKey)
	if err != nil {
		return usageError{err}
	}
	if c.Output == "json" {
		if steps == nil {
			steps = []postgres.Step{}
		}
		return t.object(map[string]any{"table": c.Table, "steps": steps, "notes": notes})
	}
	t.printf("-- %s, table %s of PostgreSQL\n", before[0].title+" → "+after[0].title, c.Table)
	for _, n := range notes {
		t.printf("-- to decide: %s\n", n)
	}
	if len(steps) == 0 {
		t.printf("-- the table stays as it is\n")
		return nil
	}
	t.printf(lockTimeout)
	var phase postgres.Phase
	for _, s := range steps {
		if s.Phase != phase {
			phase = s.Phase
			t.printf("\n-- %s: %s\n", phase, phaseWords[phase])
		}
		t.printf(costs, s.Lock, s.Cost, s.Why)
		if s.Repeat {
			t.printf("%s; -- until it changes no row\n", s.SQL)
		} else {
			printStatement(t, s.SQL)
		}
	}
	return nil
}

// printStatement prints a statement, or several of one transaction.
func printStatement(t *terminal, sql string) {
	if strings.Contains(sql, ";\n") {
		sql = "BEGIN;\n" + sql + ";\nCOMMIT"
	}
	t.printf("%s;\n", sql)
}
