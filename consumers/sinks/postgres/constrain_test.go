package postgres_test

import (
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/consumers/sinks/postgres"
	"penstock/consumers/sinks/sinktest"
	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
	"penstock/servertest"
)

func required(f schemas.Field) schemas.Field { f.Required = true; return f }

// bounded is a record whose fields all say something of their values.
var bounded = sinktest.Record(
	required(sinktest.Field("id", schemas.Node{Kind: schemas.Int, Bits: 64, Bounds: &schemas.Bounds{Least: big.NewRat(1, 1)}})),
	required(sinktest.Field("kind", schemas.Node{Kind: schemas.Enum, Symbols: []string{"A"}})),
	sinktest.Optional("name", schemas.Node{Kind: schemas.String, Bounds: &schemas.Bounds{MinSize: 2}}),
	sinktest.Optional("step", schemas.Node{Kind: schemas.Int, Bits: 64, Bounds: &schemas.Bounds{Multiple: big.NewRat(5, 1)}}),
)

func sqlOf(steps []postgres.Step) (all []string) {
	for _, s := range steps {
		all = append(all, s.SQL)
	}
	return all
}

// A table that is there gets what the schema says, in steps that lock and cost what
// they say, wherever an earlier run was interrupted, and then it needs nothing more.
func TestConstrainExisting(t *testing.T) {
	server := servertest.Postgres(t)
	constrain := func(d database) ([]postgres.Step, []string) {
		t.Helper()
		steps, notes, err := postgres.Constrain(t.Context(), d.url, "events", bounded.Tree)
		if err != nil {
			t.Fatal(err)
		}
		return steps, notes
	}
	for done := 0; ; done++ {
		d := schema(t, server)
		d.Exec(t, `CREATE TABLE events (id bigint, kind text, name text, step bigint); INSERT INTO events VALUES (1, 'A', 'ab', 5), (2, 'A', NULL, NULL)`)
		steps, notes := constrain(d)
		if done > len(steps) {
			break
		}
		if len(steps) != 16 || len(notes) != 0 {
			t.Fatalf("%d steps, notes %q: %q", len(steps), notes, sqlOf(steps))
		}
		carryOut(t, d.conn, "events", steps[:done])
		rest, notes := constrain(d)
		if diff := cmp.Diff(sqlOf(steps[done:]), sqlOf(rest)); diff != "" || len(notes) != 0 {
			t.Fatalf("what is left after %d steps, notes %q (-want +got):\n%s", done, notes, diff)
		}
		if done < len(steps) {
			continue
		}
		for _, row := range []string{"0, 'A'", "3, 'B'", "NULL, 'A'", "3, NULL", "3, 'A', 'a'", "3, 'A', NULL, 7"} {
			if _, err := d.conn.Exec(t.Context(), "INSERT INTO events VALUES ("+row+")"); err == nil {
				t.Errorf("the table takes %s", row)
			}
		}
	}
}

// A table that was made with constraints needs none, one that is not there gets none,
// and what others have made is left alone.
func TestConstrainLeaves(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	if steps, notes, err := postgres.Constrain(t.Context(), d.url, "events", bounded.Tree); err != nil || len(steps)+len(notes) > 0 {
		t.Errorf("without a table: %q, %q, %v", sqlOf(steps), notes, err)
	}
	s := open(t, d.url, sqlsink.Config{Constrain: true})
	assign(t, s)
	if err := s.Write(t.Context(), sinktest.Batch(0, 1, sinktest.Message(0, 1, bounded, map[string]any{"id": int64(1), "kind": "A"}))); err != nil {
		t.Fatal(err)
	}
	if steps, notes, err := postgres.Constrain(t.Context(), d.url, "events", bounded.Tree); err != nil || len(steps)+len(notes) > 0 {
		t.Errorf("of a table made with them: %q, %q, %v", sqlOf(steps), notes, err)
	}
	d.Exec(t, `CREATE TABLE others (id bigint NOT NULL CONSTRAINT "my own" CHECK (id >= 1), kind text, name text CONSTRAINT others_name_check CHECK (name <> ''), CONSTRAINT others_kind_present CHECK (kind IS NOT NULL))`)
	steps, notes, err := postgres.Constrain(t.Context(), d.url, "others", bounded.Tree)
	if err != nil || len(notes) != 1 || !strings.HasPrefix(notes[0], `name: the schema says char_length("name") >= 2, and the constraint "others_name_check" says (name <> ''::text)`) {
		t.Errorf("notes %q, %v", notes, err)
	}
	want := []string{
		`ALTER TABLE "others" ADD CONSTRAINT "others_kind_check" CHECK ("kind" IN ('A')) NOT VALID`, `ALTER TABLE "others" VALIDATE CONSTRAINT "others_kind_check"`,
		`ALTER TABLE "others" ALTER COLUMN "kind" SET NOT NULL`, `ALTER TABLE "others" DROP CONSTRAINT "others_kind_present"`,
		`ALTER TABLE "others" ADD CONSTRAINT "others_step_check" CHECK (mod("step", 5) = 0) NOT VALID`, `ALTER TABLE "others" VALIDATE CONSTRAINT "others_step_check"`,
	}
	if diff := cmp.Diff(want, sqlOf(steps)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

// Apply stops at what cannot be, with its statement, and keeps what is done.
func TestApply(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	d.Exec(t, `CREATE TABLE events (id bigint); INSERT INTO events VALUES (0)`)
	steps, _, err := postgres.Constrain(t.Context(), d.url, "events", sinktest.Record(bounded.Tree.Fields[0]).Tree)
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	err = postgres.Apply(t.Context(), d.url, sqlOf(steps), func(string) { done++ })
	if done != 2 || err == nil || !strings.HasPrefix(err.Error(), `carry out ALTER TABLE "events" VALIDATE CONSTRAINT "events_id_check": ERROR: check constraint "events_id_check" of relation "events" is violated by some row`) {
		t.Errorf("Apply: %d done, %v", done, err)
	}
	d.Exec(t, `UPDATE events SET id = 1`)
	if steps, _, err = postgres.Constrain(t.Context(), d.url, "events", sinktest.Record(bounded.Tree.Fields[0]).Tree); err == nil {
		err = postgres.Apply(t.Context(), d.url, sqlOf(steps), func(string) {})
	}
	if err != nil || len(steps) != 5 {
		t.Errorf("Apply once more: %d steps, %v", len(steps), err)
	}
	if err := postgres.Apply(t.Context(), d.url, []string{"CREATE TABLE half (LIKE events);\nALTER TABLE none ADD COLUMN x int"}, func(string) {}); err == nil {
		t.Error("Apply takes a table that is not there")
	}
	if got := column(d, t, "SELECT count(*) FROM pg_class WHERE relname = 'half' AND relnamespace = current_schema()::regnamespace"); got[0] != "0" {
		t.Error("half of a text stayed")
	}
}
