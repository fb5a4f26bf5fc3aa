package postgres_test

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"penstock/consumers"
	"penstock/consumers/sinks/postgres"
	"penstock/consumers/sinks/sinktest"
	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
	"penstock/servertest"
)

// lockOrder has the locks of a table, weakest first.
var lockOrder = []string{"ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE"}

// carryOut runs a migration of the table, and checks of each step that its lock
// and cost are what it says.
func carryOut(t *testing.T, conn *pgx.Conn, table string, steps []postgres.Step) {
	t.Helper()
	ctx := t.Context()
	for _, s := range steps {
		for more := true; more; {
			tx, err := conn.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			ask := func() (file, scans int64, locks []string) {
				err := tx.QueryRow(ctx, `SELECT relfilenode::bigint, pg_stat_get_xact_numscans(oid), ARRAY(
					SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = c.oid AND granted)
					FROM pg_class c WHERE oid = $1::regclass`, table).Scan(&file, &scans, &locks)
				if err != nil {
					t.Fatal(err)
				}
				return file, scans, locks
			}
			file, scans, _ := ask()
			tag, err := tx.Conn().Exec(ctx, s.SQL)
			if err != nil {
				t.Fatalf("%s\n%v", s.SQL, err)
			}
			fileAfter, scansAfter, locks := ask()
			if err := tx.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			cost := postgres.Catalog
			switch {
			case tag.Update():
				cost = postgres.Rows
			case file != fileAfter:
				cost = postgres.Rewrite
			case scans != scansAfter:
				cost = postgres.Scan
			}
			strongest := 0
			for _, l := range locks {
				name := strings.TrimSuffix(l, "Lock") // AccessExclusiveLock
				for i, known := range lockOrder {
					if strings.EqualFold(name, strings.ReplaceAll(known, " ", "")) {
						strongest = max(strongest, i)
					}
				}
			}
			if cost != s.Cost || lockOrder[strongest] != s.Lock {
				t.Errorf("%s\ntakes %s, %s; it says %s, %s", s.SQL, lockOrder[strongest], cost, s.Lock, s.Cost)
			}
			more = s.Repeat && tag.RowsAffected() > 0
		}
	}
}

func connect(t *testing.T) *pgx.Conn {
	t.Helper()
	return connectTo(t, servertest.Postgres(t))
}

func connectTo(t *testing.T, address string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, statement string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s\n%v", statement, err)
	}
}

// described is a table's columns with their types, whether they are NOT NULL, and
// its constraints.
func described(t *testing.T, conn *pgx.Conn, table string) (all []string) {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT attname || ' ' || format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
		FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped
		UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = $1::regclass AND contype = 'c'
		UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = $1::regclass`, table)
	if err != nil {
		t.Fatal(err)
	}
	all, err = pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func fields(of ...schemas.Field) *schemas.Node {
	return &schemas.Node{Kind: schemas.Record, Name: "Event", Fields: of}
}

// Every step of a migration runs, takes the lock and costs what it says, and in
// the end the table is what the new schema asks for, with its rows.
func TestMigrate(t *testing.T) {
	text := func() *schemas.Node { return &schemas.Node{Kind: schemas.String} }
	long := func(b *schemas.Bounds) *schemas.Node { return &schemas.Node{Kind: schemas.Int, Bits: 64, Bounds: b} }
	optional := func(n *schemas.Node) *schemas.Node {
		return &schemas.Node{Kind: schemas.Union, Branches: []*schemas.Node{{Kind: schemas.Null}, n}}
	}
	most, least := 5, big.NewRat(0, 1)
	amount := func(precision, scale int) *schemas.Node {
		return &schemas.Node{Kind: schemas.Bytes, Logical: schemas.Decimal, Precision: precision, Scale: scale}
	}
	before := fields(
		schemas.Field{Name: "id", Node: long(nil), Required: true},
		schemas.Field{Name: "gone", Node: text(), Required: true},
		schemas.Field{Name: "carrier", Node: text(), Required: true, Doc: "who flies"},
		schemas.Field{Name: "distance", Node: long(nil), Required: true},
		schemas.Field{Name: "price", Node: amount(10, 2)},
		schemas.Field{Name: "status", Node: &schemas.Node{Kind: schemas.Enum, Name: "S", Symbols: []string{"A", "B"}}, Required: true},
		schemas.Field{Name: "delay", Node: optional(long(nil))},
		schemas.Field{Name: "free", Node: long(nil), Required: true},
	)
	after := fields(
		schemas.Field{Name: "id", Node: long(nil), Required: true},
		schemas.Field{Name: "airline", Aliases: []string{"carrier"}, Node: text(), Required: true, Doc: "who flies"},
		schemas.Field{Name: "distance", Node: &schemas.Node{Kind: schemas.Float, Bits: 64, Bounds: &schemas.Bounds{Above: least}}, Required: true},
		schemas.Field{Name: "price", Node: amount(14, 2)},
		schemas.Field{Name: "status", Node: &schemas.Node{Kind: schemas.Enum, Name: "S", Symbols: []string{"A", "B", "it's"}}, Required: true},
		schemas.Field{Name: "delay", Node: long(&schemas.Bounds{Least: least, Most: big.NewRat(7, 2)}), Required: true},
		schemas.Field{Name: "free", Node: optional(long(nil))},
		schemas.Field{Name: "gate", Node: &schemas.Node{Kind: schemas.String, Bounds: &schemas.Bounds{MinSize: 1, MaxSize: &most, Pattern: `^[A-Z]\d$`}}, HasDefault: true, Default: "A"},
		schemas.Field{Name: "code", Node: &schemas.Node{Kind: schemas.String, Bounds: &schemas.Bounds{Pattern: `^[A-Z]\.x$`}}, Required: true},
	)
	steps, notes, err := postgres.Migrate(schemas.Avro, before, after, "public.flights", nil)
	if err != nil {
		t.Fatal(err)
	}
	wantNotes := []string{
		"distance: stop the consumers before the columns change places, and start them again afterwards: one that runs stops by itself where the new type does not hold what its schema has",
		"distance: a column of 64-bit float does not hold all of 64-bit integer: by then nobody may write by the old schema",
		"gate: the table does not check the pattern",
		"code is required, and rows of old events have none: fill them before it can be NOT NULL",
	}
	if diff := cmp.Diff(wantNotes, notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	contract := slices.IndexFunc(steps, func(s postgres.Step) bool { return s.Phase == postgres.Contract })
	conn := connect(t)
	exec(t, conn, `CREATE TABLE flights (id bigint, gone text NOT NULL, carrier text, distance bigint, price numeric(10,2), status text, delay bigint, free bigint NOT NULL,
		CONSTRAINT flights_status_check CHECK (status IN ('A', 'B')));
		INSERT INTO flights SELECT i, 'x', 'AA', i, i, 'A', i % 3, i FROM generate_series(1, 25000) i`)
	carryOut(t, conn, "flights", steps[:contract])
	exec(t, conn, `INSERT INTO flights (carrier, distance, delay) VALUES ('late', 1, 1)`)
	carryOut(t, conn, "flights", steps[contract:])
	want := []string{
		"id bigint", "price numeric(14,2)", "status text", "delay bigint NOT NULL", "free bigint",
		"airline text NOT NULL", "distance double precision NOT NULL", "gate text NOT NULL", "code text",
		"CHECK ((distance > (0)::double precision))",
		"CHECK ((status = ANY (ARRAY['A'::text, 'B'::text, 'it''s'::text])))",
		"CHECK (((delay >= 0) AND ((delay)::numeric <= 3.5)))",
		"CHECK (((char_length(gate) >= 1) AND (char_length(gate) <= 5)))",
		`CHECK ((code ~ '^[A-Z]\.x$'::text))`,
	}
	got := described(t, conn, "flights")
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the table (-want +got):\n%s", diff)
	}
	var sums string
	if err := conn.QueryRow(t.Context(), `SELECT concat_ws(' ', count(*), sum(distance), min(airline), min(gate), count(airline)) FROM flights`).Scan(&sums); err != nil || sums != "25001 312512501 AA A 25001" {
		t.Errorf("the rows are %s, %v", sums, err)
	}
	if steps, notes, err := postgres.Migrate(schemas.Avro, after, after, "flights", nil); err != nil || len(steps) != 0 {
		t.Errorf("of a schema and itself: %v, %v, %v", steps, notes, err)
	}
	_, notes, err = postgres.Migrate(schemas.Avro, before, after, "flights", []string{"carrier", "gone", "distance"})
	if err != nil || len(notes) != len(wantNotes)+1 {
		t.Errorf("of a key: %q, %v", notes, err)
	}
}

// Each type becomes each other, or it is said that it does not; rows that are
// written meanwhile are there in the end.
func TestMigrateTypes(t *testing.T) {
	types := map[string]struct {
		node  schemas.Node
		value string // in SQL
	}{
		"boolean":   {schemas.Node{Kind: schemas.Bool}, "true"},
		"int":       {schemas.Node{Kind: schemas.Int, Bits: 32}, "1"},
		"long":      {schemas.Node{Kind: schemas.Int, Bits: 64}, "1"},
		"unsigned":  {schemas.Node{Kind: schemas.Int, Bits: 64, Unsigned: true}, "1"},
		"float":     {schemas.Node{Kind: schemas.Float, Bits: 32}, "1"},
		"double":    {schemas.Node{Kind: schemas.Float, Bits: 64}, "1"},
		"decimal":   {schemas.Node{Kind: schemas.Bytes, Logical: schemas.Decimal, Precision: 9, Scale: 2}, "1"},
		"more":      {schemas.Node{Kind: schemas.Bytes, Logical: schemas.Decimal, Precision: 12, Scale: 4}, "1"},
		"number":    {schemas.Node{Kind: schemas.Float, Logical: schemas.Decimal}, "1"},
		"string":    {schemas.Node{Kind: schemas.String}, ""},
		"uuid":      {schemas.Node{Kind: schemas.String, Logical: schemas.UUID}, "'7f2c8a34-0b1d-4e5f-8a9b-0c1d2e3f4a5b'"},
		"bytes":     {schemas.Node{Kind: schemas.Bytes}, `'\x31'`},
		"date":      {schemas.Node{Kind: schemas.Int, Logical: schemas.Date}, "'2013-02-08'"},
		"time":      {schemas.Node{Kind: schemas.Int, Logical: schemas.TimeOfDay}, "'17:00'"},
		"timestamp": {schemas.Node{Kind: schemas.Int, Logical: schemas.Timestamp}, "'2013-02-08T00:00:00Z'"},
		"local":     {schemas.Node{Kind: schemas.Int, Logical: schemas.LocalTime}, "'2013-02-08T00:00:00'"},
		"array":     {schemas.Node{Kind: schemas.Array, Items: &schemas.Node{Kind: schemas.Any}}, ""},
	}
	conn := connect(t)
	exec(t, conn, "SET TimeZone = 'America/New_York'; SET synchronous_commit = off")
	made := 0
	for from, f := range types {
		for to, g := range types {
			before, after := fields(schemas.Field{Name: "c", Node: &f.node}), fields(schemas.Field{Name: "c", Node: &g.node})
			empty := fields()
			create, _, err := postgres.Migrate(schemas.Avro, empty, before, "t", nil)
			if err != nil {
				t.Fatal(err)
			}
			steps, notes, err := postgres.Migrate(schemas.Avro, before, after, "t", nil)
			if err != nil {
				t.Fatal(err)
			}
			exec(t, conn, "DROP TABLE IF EXISTS t; CREATE TABLE t ()")
			carryOut(t, conn, "t", create)
			value := f.value
			switch { // a text, or JSON, that spells a value of the other type
			case from == "string" && g.value != "":
				value = "'" + strings.Trim(g.value, "'") + "'"
			case from == "array" && g.value != "":
				value = fmt.Sprintf("to_jsonb('%s'::text)", strings.Trim(g.value, "'"))
			case value == "":
				value = `'"x"'`
			}
			insert := "INSERT INTO t (c) VALUES (" + value + "), (NULL)"
			exec(t, conn, insert)
			if len(steps) == 0 {
				continue
			}
			half := slices.IndexFunc(steps, func(s postgres.Step) bool { return s.Phase != postgres.Expand })
			if half < 0 {
				half = len(steps)
			}
			carryOut(t, conn, "t", steps[:half])
			exec(t, conn, insert)
			carryOut(t, conn, "t", steps[half:])
			exec(t, conn, "DROP TABLE IF EXISTS u; CREATE TABLE u ()")
			create, _, _ = postgres.Migrate(schemas.Avro, empty, after, "u", nil)
			carryOut(t, conn, "u", create)
			if diff := cmp.Diff(described(t, conn, "u"), described(t, conn, "t")); diff != "" {
				t.Errorf("%s to %s (-want +got):\n%s", from, to, diff)
			}
			var rows, filled int
			if err := conn.QueryRow(t.Context(), "SELECT count(*), count(c) FROM t").Scan(&rows, &filled); err != nil || rows != 4 || filled != 2 {
				t.Errorf("%s to %s: %d rows, %d filled, want 4 and 2: %v, %v", from, to, rows, filled, notes, err)
			}
			made++
		}
	}
	if made < 100 {
		t.Errorf("%d changes of a type were carried out: are there no others?", made)
	}
}

// The sink that made the table goes on, with one stop, through the phases of its migration, by the
// old schema until the last phase, by the new one once the columns have changed.
func TestMigrateWhileWriting(t *testing.T) {
	required := func(name string, n schemas.Node, aliases ...string) schemas.Field {
		return schemas.Field{Name: name, Node: &n, Required: true, Aliases: aliases}
	}
	long, text := schemas.Node{Kind: schemas.Int, Bits: 64}, schemas.Node{Kind: schemas.String}
	key := schemas.Node{Kind: schemas.String, Logical: schemas.UUID}
	old := sinktest.Record(required("id", long), required("key", key), required("who", text), required("gone", text))
	vat := required("vat", schemas.Node{Kind: schemas.Float, Bits: 64})
	vat.HasDefault, vat.Default = true, 0.5
	fresh := sinktest.Record(required("id", long), required("key", text), required("name", text, "who"), vat)
	const uuid = "7f2c8a34-0b1d-4e5f-8a9b-0c1d2e3f4a5b"

	d := schema(t, servertest.Postgres(t))
	s := open(t, d.url, sqlsink.Config{})
	assign(t, s)
	at := int64(0)
	write := func(schema *sinktest.Schema, v map[string]any) {
		t.Helper()
		v["id"] = at
		b := consumers.Batch{Topic: "events", First: at, Next: at + 1, Messages: []consumers.Message{sinktest.Message(at, 1, schema, v)}}
		at++
		if err := s.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	byOld := func() { t.Helper(); write(old, map[string]any{"key": uuid, "who": "a", "gone": "x"}) }
	byNew := func() { t.Helper(); write(fresh, map[string]any{"key": "any text", "name": "b", "vat": 0.25}) }
	byOld()
	steps, notes, err := postgres.Migrate(schemas.Avro, old.Tree, fresh.Tree, "events", nil)
	if err != nil || len(notes) != 1 { // to stop for a moment
		t.Fatal(notes, err)
	}
	for _, phase := range []postgres.Phase{postgres.Expand, postgres.Backfill, postgres.Contract} {
		var due []postgres.Step
		for _, s := range steps {
			if s.Phase == phase {
				due = append(due, s)
			}
		}
		if phase == postgres.Backfill {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		carryOut(t, d.conn, "events", due)
		if phase == postgres.Backfill {
			s = open(t, d.url, sqlsink.Config{})
			assign(t, s)
		}
		if phase != postgres.Contract {
			byOld()
		}
		if phase != postgres.Expand {
			byNew()
		}
	}
	d.Exec(t, "ALTER TABLE events ALTER key SET NOT NULL")
	if diff := cmp.Diff([]string{"5 5 2 3 2"}, column(d, t,
		"SELECT count(*), count(name), sum(vat), count(*) FILTER (WHERE key = '"+uuid+"'), count(*) FILTER (WHERE key = 'any text') FROM events")); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}
