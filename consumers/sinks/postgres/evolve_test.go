package postgres_test

import (
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/consumers"
	"penstock/consumers/sinks/sinktest"
	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
	"penstock/servertest"
	"penstock/stream"
)

// Columns are widened in the transaction that stores the first record that needs
// it, and keep what they held; what no wider type holds stays an error.
func TestWiden(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	d.Exec(t, `CREATE TABLE events (small smallint, int integer, real real, short varchar(3), digits numeric(5,2), number integer, text text)`)
	d.Exec(t, `INSERT INTO events VALUES (1, 2, 0.5, 'abc', 123.45, 7, 'kept')`)
	of := sinktest.Record(
		sinktest.Field("small", schemas.Node{Kind: schemas.Int, Bits: 32}), sinktest.Field("int", schemas.Node{Kind: schemas.Int, Bits: 64}),
		sinktest.Field("real", schemas.Node{Kind: schemas.Float, Bits: 64}), sinktest.Field("short", schemas.Node{Kind: schemas.Enum, Symbols: []string{"LONGER"}}),
		sinktest.Field("digits", schemas.Node{Kind: schemas.Bytes, Logical: schemas.Decimal, Precision: 5, Scale: 3}),
		sinktest.Field("number", schemas.Node{Kind: schemas.Bytes, Logical: schemas.Decimal, Precision: 4, Scale: 1}))
	data := map[string]any{"small": int64(1 << 20), "int": int64(1 << 40), "real": 0.1, "short": "LONGER", "digits": big.NewRat(1234, 1000), "number": big.NewRat(15, 10)}
	b := sinktest.Batch(0, 1, sinktest.Message(0, 1, of, data))
	if s := open(t, d.url, sqlsink.Config{}); true {
		assign(t, s)
		if err := s.Write(t.Context(), b); !errors.Is(err, consumers.ErrStop) {
			t.Errorf("Write into columns that are too narrow: %v, want ErrStop", err)
		}
	}
	s := open(t, d.url, sqlsink.Config{Widen: true})
	assign(t, s)
	planned, err := s.Plan(t.Context(), of)
	if err != nil || len(planned) != 6 {
		t.Errorf("plan: %q, %v", planned, err)
	}
	if err := s.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	want := []string{"1 2 0.5 abc 123.450 7.0 kept", "1048576 1099511627776 0.1 LONGER 1.234 1.5 NULL"}
	if diff := cmp.Diff(want, column(d, t, "SELECT * FROM events ORDER BY int")); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	types := column(d, t, "SELECT string_agg(format_type(atttypid, atttypmod), ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'events'::regclass AND attnum > 0")
	if diff := cmp.Diff([]string{"bigint bigint double precision text numeric(6,3) numeric(20,1) text"}, types); diff != "" {
		t.Errorf("types (-want +got):\n%s", diff)
	}
	for _, node := range []schemas.Node{{Kind: schemas.Int, Bits: 64}, {Kind: schemas.Bytes}, {Kind: schemas.Bool}} {
		err := s.Write(t.Context(), sinktest.Batch(1, 2, sinktest.Message(1, 1, sinktest.Record(sinktest.Field("text", node)), map[string]any{})))
		if !errors.Is(err, consumers.ErrStop) {
			t.Errorf("%v into text: %v, want ErrStop", node.Kind, err)
		}
	}
}

// A new table has what the schema says of values, and its index, where that is
// asked for.
func TestConstrain(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	s := open(t, d.url, sqlsink.Config{Constrain: true, Index: []string{"doc"}})
	assign(t, s)
	required := func(f schemas.Field) schemas.Field { f.Required = true; return f }
	of := sinktest.Record(
		required(sinktest.Field("id", schemas.Node{Kind: schemas.Int, Bits: 64, Bounds: &schemas.Bounds{Least: big.NewRat(1, 1)}})),
		required(sinktest.Field("kind", schemas.Node{Kind: schemas.Enum, Symbols: []string{"A", "it's"}})),
		sinktest.Optional("name", schemas.Node{Kind: schemas.String, Bounds: &schemas.Bounds{MinSize: 2}}),
		sinktest.Field("doc", schemas.Node{Kind: schemas.Map, Items: &schemas.Node{}}))
	planned, err := s.Plan(t.Context(), of)
	if err != nil || len(planned) != 2 {
		t.Fatalf("plan: %q, %v", planned, err)
	}
	b := sinktest.Batch(0, 5)
	for i, v := range []map[string]any{
		{"id": int64(1), "kind": "it's", "name": "ab", "doc": map[string]any{"a": int64(1)}},
		{"id": int64(0), "kind": "A"}, {"id": int64(2), "kind": "B"}, {"id": int64(3)}, {"id": int64(4), "kind": "A", "name": "a"},
	} {
		b.Messages = append(b.Messages, sinktest.Message(int64(i), 1, of, v))
	}
	var refused *stream.BatchError
	if err := s.Write(t.Context(), b); !errors.As(err, &refused) || len(refused.Errs) != 4 || refused.Errs[0] != nil {
		t.Fatalf("Write: %v, want all but the first refused", err)
	}
	b.Messages = b.Messages[:1]
	if err := s.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1"}, column(d, t, `SELECT count(*) FROM events WHERE doc @> '{"a":1}'`)); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	indexes := column(d, t, "SELECT indexdef FROM pg_indexes WHERE tablename = 'events' AND schemaname = current_schema()")
	if !slices.ContainsFunc(indexes, func(def string) bool { return strings.Contains(def, "USING gin (doc)") }) {
		t.Errorf("indexes: %q, want a GIN index of doc", indexes)
	}
}
