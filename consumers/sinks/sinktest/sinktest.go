// Package sinktest is the suite that every SQL sink passes.
package sinktest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/consumers"
	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
	"penstock/stream"
)

// Database is one empty database.
type Database interface {
	// Open opens a sink on it.
	Open(ctx context.Context, c sqlsink.Config) (*sqlsink.Sink, error)
	// Scan reads a table of it.
	Scan(ctx context.Context, table string, columns []sqlsink.Column, row func(values []any) error) error
	// Exec carries out a statement.
	Exec(t testing.TB, statement string)
	// Query returns the rows of a query, each value as the database writes it
	// as text, NULL as "NULL".
	Query(t testing.TB, query string) [][]string
	// Text is what the database makes of the row that Values returns, by
	// column.
	Text() map[string]string
}

// Schema is a schema of which there is only the model.
type Schema struct {
	schemas.Schema
	Tree *schemas.Node
}

// Model implements schemas.Schema.
func (s *Schema) Model() *schemas.Node { return s.Tree }

// Record is a schema that is a record of these fields.
func Record(fields ...schemas.Field) *Schema {
	return &Schema{Tree: &schemas.Node{Kind: schemas.Record, Name: "row", Fields: fields}}
}

// Field is a field of a record.
func Field(name string, n schemas.Node) schemas.Field { return schemas.Field{Name: name, Node: &n} }

// Optional is a field that may be null.
func Optional(name string, n schemas.Node) schemas.Field {
	return Field(name, schemas.Node{Kind: schemas.Union, Branches: []*schemas.Node{{Kind: schemas.Null}, &n}})
}

var (
	long   = schemas.Node{Kind: schemas.Int, Bits: 64}
	text   = schemas.Node{Kind: schemas.String}
	simple = Record(Field("id", long), Optional("name", text))
)

// Message is a message on partition 0 of the topic "events".
func Message(offset int64, id schemas.ID, s schemas.Schema, data any) consumers.Message {
	m := consumers.Message{SchemaID: id, Schema: s, Data: data}
	m.Topic, m.Offset = "events", offset
	return m
}

func row(offset int64, id int64, name any) consumers.Message {
	return Message(offset, 1, simple, map[string]any{"id": id, "name": name})
}

func keyed(key string, m consumers.Message) consumers.Message {
	m.Key = []byte(key)
	return m
}

func tombstone(offset int64, key string) consumers.Message {
	return keyed(key, Message(offset, 0, nil, nil))
}

// Batch is the run from first up to, not including, next.
func Batch(first, next int64, messages ...consumers.Message) consumers.Batch {
	return consumers.Batch{Topic: "events", First: first, Next: next, Messages: messages}
}

// Partition is partition n of the topic "events".
func Partition(n int32) stream.Partition {
	return stream.Partition{Cluster: "c", Topic: "events", Incarnation: "i", Number: n}
}

type suite struct {
	Database
	t *testing.T
}

func (s suite) open(c sqlsink.Config) *sqlsink.Sink {
	s.t.Helper()
	if c.Table == "" {
		c.Table = "events"
	}
	if c.Pipeline == "" {
		c.Pipeline = "p"
	}
	sink, err := s.Open(s.t.Context(), c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := sink.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return sink
}

// claim opens a sink and assigns partition 0 to it.
func (s suite) claim(c sqlsink.Config) *sqlsink.Sink {
	s.t.Helper()
	sink := s.open(c)
	s.assign(sink)
	return sink
}

// assign assigns partition 0 and returns where it starts; 0 is the oldest.
func (s suite) assign(sink *sqlsink.Sink) int64 {
	s.t.Helper()
	at, err := sink.Assigned(s.t.Context(), []stream.Partition{Partition(0)})
	if err != nil {
		s.t.Fatal(err)
	}
	return at[Partition(0)]
}

func (s suite) write(sink *sqlsink.Sink, b consumers.Batch) {
	s.t.Helper()
	if err := sink.Write(s.t.Context(), b); err != nil {
		s.t.Fatal(err)
	}
}

// fails writes and returns the error, which must be there and contain parts.
func (s suite) fails(sink *sqlsink.Sink, b consumers.Batch, parts ...string) error {
	s.t.Helper()
	err := sink.Write(s.t.Context(), b)
	if err == nil {
		s.t.Fatalf("Write succeeded, want an error with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			s.t.Fatalf("Write: %v; want %q in it", err, p)
		}
	}
	return err
}

func (s suite) want(query string, want ...string) {
	s.t.Helper()
	got := []string{}
	for _, r := range s.Query(s.t, query) {
		got = append(got, strings.Join(r, " "))
	}
	if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
		s.t.Fatalf("%s (-want +got):\n%s", query, diff)
	}
}

// refused returns the indexes that err names.
func (s suite) refused(err error) []int {
	s.t.Helper()
	var e *stream.BatchError
	if !errors.As(err, &e) {
		s.t.Fatalf("Write: %v, want a *stream.BatchError", err)
	}
	var at []int
	for i := range e.Errs {
		at = append(at, i)
	}
	slices.Sort(at)
	return at
}

// Texts reads all rows as Database.Query returns them.
func Texts(t testing.TB, rows *sql.Rows) [][]string {
	t.Helper()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var all [][]string
	for rows.Next() {
		cells := make([]sql.NullString, len(columns))
		into := make([]any, len(columns))
		for i := range cells {
			into[i] = &cells[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		texts := make([]string, len(columns))
		for i, c := range cells {
			texts[i] = "NULL"
			if c.Valid {
				texts[i] = c.String
			}
		}
		all = append(all, texts)
	}
	return all
}

// Run runs the suite; fresh makes an empty database.
func Run(t *testing.T, fresh func(t *testing.T) Database) {
	for _, c := range []struct {
		name string
		test func(s suite)
	}{
		{"values", values},
		{"null values", nulls},
		{"no record", noRecord},
		{"cells", cells},
		{"resume", resume},
		{"replay", replay},
		{"gaps", gaps},
		{"empty batch", emptyBatch},
		{"zombie", zombie},
		{"lost", lost},
		{"crossed claims", crossed},
		{"position gone", positionGone},
		{"new incarnation", incarnation},
		{"two pipelines", pipelines},
		{"partitions at once", partitions},
		{"first row null", firstNull},
		{"new field", newField},
		{"several schemas", severalSchemas},
		{"existing table", existingTable},
		{"table gone", tableGone},
		{"misfit", misfit},
		{"refused rows", refusedRows},
		{"refused with new field", refusedWithNewField},
		{"out of range", outOfRange},
		{"same column twice", sameColumn},
		{"odd names", oddNames},
		{"tombstone in append", tombstoneAppend},
		{"upsert", upsert},
		{"upsert by record key", upsertRecordKey},
		{"upsert several schemas", upsertSchemas},
		{"upsert model", upsertModel},
		{"soft delete", softDelete},
		{"plan", plan},
		{"several tables", severalTables},
		{"upsert needs a unique index", upsertNoIndex},
		{"upsert key", upsertKey},
		{"configuration", configuration},
		{"cancelled", cancelled},
		{"model", model},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(suite{fresh(t), t}) })
	}
}

// Values is a record with a field of every type, and a value for each.
func Values() (*Schema, map[string]any) {
	fields := []struct {
		name  string
		node  schemas.Node
		value any
	}{
		{"bool", schemas.Node{Kind: schemas.Bool}, true},
		{"int", schemas.Node{Kind: schemas.Int, Bits: 32}, int32(-5)},
		{"long", long, int64(math.MinInt64)},
		{"uint", schemas.Node{Kind: schemas.Int, Bits: 32, Unsigned: true}, uint32(math.MaxUint32)},
		{"ulong", schemas.Node{Kind: schemas.Int, Bits: 64, Unsigned: true}, uint64(math.MaxUint64)},
		{"float", schemas.Node{Kind: schemas.Float, Bits: 32}, float32(1.5)},
		{"double", schemas.Node{Kind: schemas.Float, Bits: 64}, 0.1},
		{"decimal", schemas.Node{Kind: schemas.Bytes, Logical: schemas.Decimal, Precision: 30, Scale: 2}, big.NewRat(-123456789012345678, 100)},
		{"text", text, "naïve \U0001F6EB"},
		{"empty", text, ""},
		{"enum", schemas.Node{Kind: schemas.Enum, Symbols: []string{"A"}}, "A"},
		{"bytes", schemas.Node{Kind: schemas.Bytes}, []byte{0, 255}},
		{"nobytes", schemas.Node{Kind: schemas.Bytes}, []byte{}},
		{"uuid", schemas.Node{Kind: schemas.String, Logical: schemas.UUID}, "6BA7B810-9DAD-11D1-80B4-00C04FD430C8"},
		{"date", schemas.Node{Kind: schemas.Int, Bits: 32, Logical: schemas.Date}, time.Date(2013, 1, 2, 0, 0, 0, 0, time.UTC)},
		{"time", schemas.Node{Kind: schemas.Int, Bits: 32, Logical: schemas.TimeOfDay}, 5*time.Hour + 15*time.Minute + time.Microsecond},
		{"at", schemas.Node{Kind: schemas.Int, Bits: 64, Logical: schemas.Timestamp}, time.Date(2013, 1, 2, 5, 15, 0, 123456789, time.FixedZone("", 3600))},
		{"local", schemas.Node{Kind: schemas.Int, Bits: 64, Logical: schemas.LocalTime}, time.Date(1913, 1, 2, 5, 15, 0, 0, time.UTC)},
		{"list", schemas.Node{Kind: schemas.Array, Items: &long}, []any{int64(1), nil, big.NewRat(1, 4)}},
		{"map", schemas.Node{Kind: schemas.Map, Items: &text}, map[string]any{"b": "<x>", "a": []byte("hi")}},
		{"nested", *Record(Field("x", long)).Tree, map[string]any{"x": math.Inf(1), "t": time.Date(2013, 1, 2, 0, 0, 0, 0, time.UTC)}},
		{"any", schemas.Node{}, "text"},
	}
	schema, data := Record(), map[string]any{}
	for _, f := range fields {
		schema.Tree.Fields = append(schema.Tree.Fields, Field(f.name, f.node))
		data[f.name] = f.value
	}
	return schema, data
}

func values(s suite) {
	schema, data := Values()
	s.write(s.claim(sqlsink.Config{}), Batch(0, 1, Message(0, 1, schema, data)))
	for name, want := range s.Text() {
		s.want(fmt.Sprintf(`SELECT "%s" FROM events`, name), want)
	}
	s.scanned(schema, data)
	named := Record(Field("t", long))
	s.write(s.claim(sqlsink.Config{Table: "named"}), Batch(1, 2, Message(1, 3, named, map[string]any{"t": int64(7)})))
	var read []any
	if err := s.Scan(s.t.Context(), "named", sqlsink.ColumnsOf(named.Tree), func(values []any) error {
		read = append(read, fmt.Sprint(values[0]))
		return nil
	}); err != nil || cmp.Diff([]any{"7"}, read) != "" {
		s.t.Errorf("a column of one letter is read as %v: %v", read, err)
	}
	bytes := Record(Field(sqlsink.KeyColumn, schemas.Node{Kind: schemas.Bytes}))
	s.write(s.claim(sqlsink.Config{Table: "other"}), Batch(2, 3, keyed("no", Message(2, 2, bytes, map[string]any{sqlsink.KeyColumn: []byte("yes")}))))
	s.want("SELECT count(*) FROM other WHERE length(record_key) = 3", "1")
	if len(s.Text()) != len(data) {
		s.t.Errorf("%d columns were compared of %d", len(s.Text()), len(data))
	}
}

// scanned says whether the table is read as its only row was written.
func (s suite) scanned(schema *Schema, data map[string]any) {
	s.t.Helper()
	columns := sqlsink.ColumnsOf(schema.Tree)
	want, err := sqlsink.RowOf(columns, Message(0, 1, schema, data))
	if err != nil {
		s.t.Fatal(err)
	}
	if len(want) != len(data) {
		s.t.Errorf("%d columns of %d", len(want), len(data))
	}
	columns = append(columns, sqlsink.Column{Name: "not there"})
	rows := 0
	err = s.Scan(s.t.Context(), "events", columns, func(values []any) error {
		rows++
		got := map[string]any{}
		for i, v := range values {
			if v != nil {
				got[columns[i].Name] = v
			}
		}
		if diff := cmp.Diff(canonical(s.t, want), canonical(s.t, got)); diff != "" {
			s.t.Errorf("a row is read as (-stored +read):\n%s", diff)
		}
		return nil
	})
	if err != nil || rows != 1 {
		s.t.Errorf("read %d rows: %v", rows, err)
	}
	if err := s.Scan(s.t.Context(), "nowhere", columns, nil); err == nil || !strings.Contains(err.Error(), `there is no table "nowhere"`) {
		s.t.Errorf("a table that is not there: %v", err)
	}
}

// canonical are the values of a row as canonical JSON.
func canonical(t testing.TB, row map[string]any) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for name, v := range row {
		text, err := schemas.AppendJSON(nil, v)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		texts[name] = string(text)
	}
	return texts
}

func nulls(s suite) {
	schema, data := Values()
	s.write(s.claim(sqlsink.Config{}), Batch(0, 1, Message(0, 1, schema, map[string]any{})))
	s.scanned(schema, map[string]any{})
	for name := range data {
		s.want(fmt.Sprintf(`SELECT "%s" FROM events`, name), "NULL")
	}
}

// Celled is a message whose value is in cells.
func Celled(m consumers.Message) consumers.Message {
	data := m.Data.(map[string]any)
	m.Data, m.Value = nil, nil
	for _, f := range m.Schema.Model().Fields {
		c := schemas.Cell{From: uint32(len(m.Value))}
		n, _ := f.Node.Nullable()
		switch v := data[f.Name].(type) {
		case bool:
			if c.Kind = schemas.CellBool; v {
				c.N = 1
			}
		case int32:
			c.Kind, c.N = schemas.CellInt, int64(v)
		case int64:
			c.Kind, c.N = schemas.CellInt, v
		case float32:
			c = schemas.FloatCell(float64(v))
		case float64:
			c = schemas.FloatCell(v)
		case []byte:
			c.Kind, m.Value = schemas.CellBytes, append(m.Value, v...)
		case string:
			if c.Kind = schemas.CellText; n.Kind == schemas.Enum {
				c.Kind, c.N = schemas.CellSymbol, int64(slices.Index(n.Symbols, v))
			} else {
				m.Value = append(m.Value, v...)
			}
		case time.Time:
			if c.Kind, c.N = schemas.CellTime, v.UnixMicro(); n.Logical == schemas.Date {
				c.Kind, c.N = schemas.CellDate, v.Unix()/(24*60*60)
			}
		}
		c.To = uint32(len(m.Value))
		m.Cells = append(m.Cells, c)
	}
	return m
}

// Scalars is Values without what cells do not know.
func Scalars() (*Schema, map[string]any) {
	all, data := Values()
	schema := Record()
	for _, f := range all.Tree.Fields {
		if slices.Contains([]string{"uint", "ulong", "decimal", "time", "list", "map", "nested", "any"}, f.Name) {
			delete(data, f.Name)
		} else {
			schema.Tree.Fields = append(schema.Tree.Fields, f)
		}
	}
	return schema, data
}

// cells come to the same rows as values.
func cells(s suite) {
	schema, data := Scalars()
	other := Record(slices.Clone(schema.Tree.Fields)...) // the same columns, and other symbols
	i := slices.IndexFunc(other.Tree.Fields, func(f schemas.Field) bool { return f.Name == "enum" })
	other.Tree.Fields[i] = Field("enum", schemas.Node{Kind: schemas.Enum, Symbols: []string{"B", "C"}})
	second := maps.Clone(data)
	second["enum"], second["long"], second["at"] = "C", int64(7), time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)
	third := map[string]any{"long": int64(8), "date": time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), "text": "third"}
	for i, c := range []sqlsink.Config{{}, {Mode: sqlsink.Upsert, Key: []string{"long"}}, {Mode: sqlsink.Upsert}} {
		messages := []consumers.Message{Message(0, 1, schema, data), Message(1, 2, other, second), Message(2, 1, schema, third)}
		for k := range messages {
			messages[k] = keyed(strconv.Itoa(k), messages[k])
		}
		c.Table = fmt.Sprintf("values_%d", i)
		c.Pipeline = c.Table
		s.write(s.claim(c), Batch(0, 3, messages...))
		for k := range messages {
			messages[k] = Celled(messages[k])
		}
		c.Table = fmt.Sprintf("cells_%d", i)
		c.Pipeline = c.Table
		sink := s.claim(c)
		s.write(sink, Batch(0, 3, messages...))
		query := "SELECT * FROM %s_%d ORDER BY long"
		if diff := cmp.Diff(s.Query(s.t, fmt.Sprintf(query, "values", i)), s.Query(s.t, fmt.Sprintf(query, "cells", i))); diff != "" {
			s.t.Errorf("%+v (-values +cells):\n%s", c, diff)
		}
		b := Batch(3, 5)
		for k, v := range []map[string]any{{"long": int64(9), "at": time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, {"long": int64(10), "uuid": "x"}} {
			b.Messages = append(b.Messages, keyed("x", Celled(Message(3+int64(k), 1, schema, v))))
		}
		if diff := cmp.Diff([]int{0, 1}, s.refused(sink.Write(s.t.Context(), b))); diff != "" {
			s.t.Errorf("%+v: refused (-want +got):\n%s", c, diff)
		}
	}
}

func noRecord(s suite) {
	s.write(s.claim(sqlsink.Config{}), Batch(0, 2,
		Message(0, 1, &Schema{Tree: &text}, "a"), Message(1, 1, &Schema{Tree: &text}, "b")))
	s.want("SELECT value FROM events ORDER BY 1", "a", "b")
}

func resume(s suite) {
	a := s.open(sqlsink.Config{})
	if at := s.assign(a); at != 0 {
		s.t.Fatalf("a new partition starts at %d, want the oldest record", at)
	}
	s.write(a, Batch(5, 7, row(5, 5, "a"), row(6, 6, "b")))
	s.write(a, Batch(7, 8, row(7, 7, "c")))
	b := s.open(sqlsink.Config{})
	if at := s.assign(b); at != 8 {
		s.t.Fatalf("the next owner starts at %d, want 8", at)
	}
	s.write(b, Batch(8, 9, row(8, 8, "d")))
	s.want("SELECT id, name FROM events ORDER BY id", "5 a", "6 b", "7 c", "8 d")
	s.want("SELECT pipeline, cluster_id, topic_id, partition, next_offset, leader_epoch, owner_epoch FROM penstock_positions",
		"p c events/i 0 9 -1 2")
}

func replay(s suite) {
	sink := s.claim(sqlsink.Config{})
	first := Batch(0, 3, row(0, 0, "a"), row(1, 1, "b"), row(2, 2, "c"))
	s.write(sink, first)
	s.write(sink, first)
	s.write(sink, Batch(1, 2, row(1, 1, "b")))
	s.write(sink, Batch(1, 5, row(1, 1, "b"), row(2, 2, "c"), row(3, 3, "d"), row(4, 4, "e")))
	s.assign(sink)
	s.write(sink, first)
	s.want("SELECT id FROM events ORDER BY id", "0", "1", "2", "3", "4")
}

func gaps(s suite) {
	sink := s.claim(sqlsink.Config{})
	s.write(sink, Batch(0, 3, row(0, 0, "a")))
	s.assign(sink)
	s.write(sink, Batch(10, 13, row(10, 10, "a"), row(12, 12, "b"))) // 3 to 9 have expired
	err := s.fails(sink, Batch(20, 21, row(20, 20, "c")), "13")
	if !errors.Is(err, consumers.ErrStop) {
		s.t.Errorf("Write past a hole: %v, want ErrStop", err)
	}
	s.write(sink, Batch(13, 21, row(20, 20, "c")))
	s.want("SELECT id FROM events ORDER BY id", "0", "10", "12", "20")
}

func emptyBatch(s suite) {
	sink := s.claim(sqlsink.Config{})
	s.write(sink, Batch(0, 4))
	if at := s.assign(sink); at != 4 {
		s.t.Fatalf("position is %d after an empty batch, want 4", at)
	}
}

func zombie(s suite) {
	a := s.claim(sqlsink.Config{})
	s.write(a, Batch(0, 1, row(0, 0, "a")))
	b := s.claim(sqlsink.Config{})
	for range 2 { // before and after b has moved the position
		err := s.fails(a, Batch(1, 2, row(1, 1, "zombie")), "events[0]")
		if !errors.Is(err, stream.ErrFenced) {
			s.t.Fatalf("Write of the former owner: %v, want ErrFenced", err)
		}
		if errors.Is(err, consumers.ErrStop) {
			s.t.Fatalf("Write of the former owner: %v, want a run that goes on", err)
		}
		s.write(b, Batch(1, 2, row(1, 1, "b")))
	}
	s.want("SELECT id, name FROM events ORDER BY id", "0 a", "1 b")
	s.want("SELECT next_offset, owner_epoch FROM penstock_positions", "2 2")
}

func lost(s suite) {
	sink := s.claim(sqlsink.Config{})
	if err := sink.Lost(s.t.Context(), []stream.Partition{Partition(0), Partition(1)}); err != nil {
		s.t.Fatal(err)
	}
	if err := s.fails(sink, Batch(0, 1, row(0, 0, "a"))); !errors.Is(err, stream.ErrFenced) {
		s.t.Fatalf("Write after Lost: %v, want ErrFenced", err)
	}
	s.want("SELECT next_offset, owner_epoch FROM penstock_positions", "0 -1")
	s.assign(sink)
	s.write(sink, Batch(0, 1, row(0, 0, "a")))
	s.want("SELECT next_offset, owner_epoch FROM penstock_positions", "1 2")
}

// crossed has a claim come after that of the rightful owner.
func crossed(s suite) {
	rightful, late := s.claim(sqlsink.Config{}), s.claim(sqlsink.Config{})
	s.write(late, Batch(0, 2, row(0, 0, "late"), row(1, 1, "late")))
	b := Batch(0, 3, row(0, 0, "rightful"), row(1, 1, "rightful"), row(2, 2, "rightful"))
	if err := s.fails(rightful, b); !errors.Is(err, stream.ErrFenced) {
		s.t.Fatalf("Write while another holds the claim: %v, want ErrFenced", err)
	}
	if err := late.Lost(s.t.Context(), []stream.Partition{Partition(0)}); err != nil {
		s.t.Fatal(err)
	}
	s.write(rightful, b)
	s.want("SELECT id, name FROM events ORDER BY id", "0 late", "1 late", "2 rightful")
	s.want("SELECT next_offset, owner_epoch FROM penstock_positions", "3 3")
}

func positionGone(s suite) {
	sink := s.claim(sqlsink.Config{})
	s.write(sink, Batch(0, 1, row(0, 0, "a")))
	s.Exec(s.t, "DELETE FROM penstock_positions")
	if err := s.fails(sink, Batch(1, 2, row(1, 1, "b")), "gone"); !errors.Is(err, consumers.ErrStop) {
		s.t.Errorf("Write without a position: %v, want ErrStop", err)
	}
	s.assign(sink)
	s.write(sink, Batch(1, 3, row(1, 1, "b"), row(2, 2, "c")))
	s.Exec(s.t, "UPDATE penstock_positions SET next_offset = 1")
	if err := s.fails(sink, Batch(3, 4, row(3, 3, "d")), "set back from 3 to 1"); !errors.Is(err, consumers.ErrStop) {
		s.t.Errorf("Write after the position was set back: %v, want ErrStop", err)
	}
	s.want("SELECT id FROM events ORDER BY id", "0", "1", "2")
}

func incarnation(s suite) {
	sink := s.claim(sqlsink.Config{})
	s.write(sink, Batch(0, 2, row(0, 0, "a"), row(1, 1, "b")))
	again := Partition(0)
	again.Incarnation = "j"
	at, err := sink.Assigned(s.t.Context(), []stream.Partition{again})
	if err != nil || at[again] != 0 {
		s.t.Fatalf("a topic made again starts at %d (%v), want the oldest record", at[again], err)
	}
	if err := sink.Lost(s.t.Context(), []stream.Partition{Partition(0)}); err != nil { // of the old topic, late
		s.t.Fatal(err)
	}
	s.write(sink, Batch(0, 1, row(0, 2, "c")))
	s.want("SELECT id FROM events ORDER BY id", "0", "1", "2")
}

func pipelines(s suite) {
	a, b := s.claim(sqlsink.Config{Pipeline: "a"}), s.claim(sqlsink.Config{Pipeline: "b"})
	s.write(a, Batch(0, 1, row(0, 0, "a")))
	s.write(b, Batch(0, 1, row(0, 0, "b")))
	s.write(a, Batch(1, 2, row(1, 1, "a")))
	s.want("SELECT id, name FROM events ORDER BY id, name", "0 a", "0 b", "1 a")
}

func partitions(s suite) {
	const lanes, batches, size = 4, 8, 20
	sink := s.open(sqlsink.Config{})
	var all []stream.Partition
	for n := range int32(lanes) {
		all = append(all, Partition(n))
	}
	if _, err := sink.Assigned(s.t.Context(), all); err != nil {
		s.t.Fatal(err)
	}
	var wait sync.WaitGroup
	for n := range int32(lanes) {
		wait.Go(func() {
			for b := range int64(batches) {
				batch := Batch(b*size, (b+1)*size)
				batch.Partition = n
				for i := range int64(size) {
					m := row(b*size+i, int64(n)*batches*size+b*size+i, "x")
					m.Partition = n
					batch.Messages = append(batch.Messages, m)
				}
				if err := sink.Write(s.t.Context(), batch); err != nil {
					s.t.Errorf("partition %d: %v", n, err)
					return
				}
			}
		})
	}
	wait.Wait()
	s.want("SELECT count(*), count(DISTINCT id), min(id), max(id) FROM events", "640 640 0 639")
}

func firstNull(s suite) {
	sink := s.claim(sqlsink.Config{})
	s.write(sink, Batch(0, 2, Message(0, 1, simple, map[string]any{"id": nil, "name": nil}), row(1, 1, "b")))
	s.want("SELECT id, name FROM events ORDER BY name IS NOT NULL", "NULL NULL", "1 b")
}

func newField(s suite) {
	sink := s.claim(sqlsink.Config{})
	s.write(sink, Batch(0, 1, row(0, 0, "a")))
	wider := Record(Field("id", long), Field("delay", long), Field("name", text))
	s.write(sink, Batch(1, 3, row(1, 1, "b"), Message(2, 2, wider, map[string]any{"id": int64(2), "name": "c", "delay": int64(7)})))
	s.write(sink, Batch(3, 4, row(3, 3, "d")))
	s.want("SELECT id, name, delay FROM events ORDER BY id", "0 a NULL", "1 b NULL", "2 c 7", "3 d NULL")
}

func severalSchemas(s suite) {
	sink := s.claim(sqlsink.Config{})
	narrow := Record(Field("n", schemas.Node{Kind: schemas.Int, Bits: 32}))
	wide := Record(Field("n", schemas.Node{Kind: schemas.Float, Bits: 64}), Field("m", text))
	wider := Record(Field("m", text), Field("k", long))
	var b consumers.Batch
	for i := int64(0); i < 6; i += 2 {
		b.Messages = append(b.Messages,
			Message(i, 2, wide, map[string]any{"n": 0.5, "m": "x"}),
			Message(i+1, 3, wider, map[string]any{"m": "y", "k": i}))
	}
	b.Topic, b.Next = "events", 6
	s.write(sink, b)
	s.want("SELECT n, m, k FROM events ORDER BY m, k", "0.5 x NULL", "0.5 x NULL", "0.5 x NULL", "NULL y 0", "NULL y 2", "NULL y 4")
	err := s.fails(sink, Batch(6, 7, Message(6, 4, narrow, map[string]any{"n": int32(1)})), `"n"`)
	if !errors.Is(err, consumers.ErrStop) {
		s.t.Errorf("an integer for a float: %v, want ErrStop", err)
	}
	// An integer that became wider, in one batch and in a later one.
	other := s.claim(sqlsink.Config{Table: "other"})
	longer := Record(Field("n", long))
	s.write(other, Batch(7, 8, Message(7, 4, narrow, map[string]any{"n": int32(1)})))
	s.write(other, Batch(8, 10, Message(8, 5, longer, map[string]any{"n": int64(math.MaxInt64)}), Message(9, 4, narrow, map[string]any{"n": int32(3)})))
	s.want("SELECT n FROM other ORDER BY n", "1", "3", "9223372036854775807")
}

func existingTable(s suite) {
	s.Exec(s.t, "CREATE TABLE events (seen integer DEFAULT 7, name varchar(100), id bigint NOT NULL)")
	sink := s.claim(sqlsink.Config{})
	s.write(sink, Batch(0, 2, row(0, 0, "a"), row(1, 1, nil)))
	s.want("SELECT * FROM events ORDER BY id", "7 a 0", "7 NULL 1")
}

func tableGone(s suite) {
	sink := s.claim(sqlsink.Config{})
	s.write(sink, Batch(0, 1, row(0, 0, "a")))
	s.Exec(s.t, "DROP TABLE events")
	if err := s.fails(sink, Batch(1, 2, row(1, 1, "b")), "events"); errors.Is(err, consumers.ErrStop) {
		s.t.Errorf("Write without the table: %v, want an error that passes", err)
	}
	s.write(sink, Batch(1, 2, row(1, 1, "b")))
	s.want("SELECT id FROM events", "1")
}

func misfit(s suite) {
	s.Exec(s.t, "CREATE TABLE events (id bigint, name double precision)")
	sink := s.claim(sqlsink.Config{})
	err := s.fails(sink, Batch(0, 1, row(0, 0, "a")), `column "name"`, "text", "double precision")
	if !errors.Is(err, consumers.ErrStop) {
		s.t.Errorf("Write to a column of another type: %v, want ErrStop", err)
	}
	s.want("SELECT next_offset FROM penstock_positions", "0")
	s.Exec(s.t, "DROP TABLE events")
	s.write(sink, Batch(0, 1, row(0, 0, "a")))
}

func refusedRows(s suite) {
	s.Exec(s.t, "CREATE TABLE events (id bigint UNIQUE CHECK (id % 10 <> 3), name text NOT NULL)")
	sink := s.claim(sqlsink.Config{})
	s.write(sink, Batch(0, 1, row(0, 0, "a")))
	b := Batch(1, 41)
	for i := int64(1); i < 41; i++ {
		var name any = "x"
		if i == 18 {
			name = nil
		}
		id := i
		if i == 30 {
			id = 29 // twice in the batch
		}
		b.Messages = append(b.Messages, row(i, id, name))
	}
	for range 2 {
		err := sink.Write(s.t.Context(), b)
		if diff := cmp.Diff([]int{2, 12, 17, 22, 29, 32}, s.refused(err)); diff != "" {
			s.t.Fatalf("refused (-want +got):\n%s", diff)
		}
		s.want("SELECT count(*) FROM events", "1")
	}
	good := b.Messages[:0:0]
	for i, m := range b.Messages {
		if !slices.Contains([]int{2, 12, 17, 22, 29, 32}, i) {
			good = append(good, m)
		}
	}
	b.Messages = good
	s.write(sink, b)
	s.want("SELECT count(*) FROM events", "35")
	s.want("SELECT next_offset FROM penstock_positions", "41")
}

func refusedWithNewField(s suite) {
	s.Exec(s.t, "CREATE TABLE events (id bigint CHECK (id < 10))")
	sink := s.claim(sqlsink.Config{})
	err := sink.Write(s.t.Context(), Batch(0, 2, row(0, 1, "a"), row(1, 11, "b")))
	if diff := cmp.Diff([]int{1}, s.refused(err)); diff != "" {
		s.t.Fatalf("refused (-want +got):\n%s", diff)
	}
	s.write(sink, Batch(0, 2, row(0, 1, "a")))
	s.want("SELECT id, name FROM events", "1 a")
}

func outOfRange(s suite) {
	sink := s.claim(sqlsink.Config{})
	schema, _ := Values()
	var b consumers.Batch
	b.Topic = "events"
	for _, v := range []map[string]any{
		{"at": time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		{"int": int64(math.MaxInt32 + 1)},
		{"decimal": big.NewRat(1, 3)},
		{"decimal": big.NewRat(1, 1000)},
		{"uuid": "x"},
		{"text": int32(1)},
		{"list": []any{struct{}{}}},
		{"time": 25 * time.Hour},
		{"int": int32(1)},
	} {
		b.Messages = append(b.Messages, Message(b.Next, 1, schema, v))
		b.Next++
	}
	err := sink.Write(s.t.Context(), b)
	if diff := cmp.Diff([]int{0, 1, 2, 3, 4, 5, 6, 7}, s.refused(err)); diff != "" {
		s.t.Fatalf("refused (-want +got):\n%s\n%v", diff, err)
	}
}

func sameColumn(s suite) {
	sink := s.claim(sqlsink.Config{})
	err := sink.Write(s.t.Context(), Batch(0, 1, Message(0, 1, Record(Field("", text)), map[string]any{"": "x"})))
	if !errors.Is(err, consumers.ErrStop) {
		s.t.Errorf("a field without a name: %v, want ErrStop", err)
	}
	err = sink.Write(s.t.Context(), Batch(0, 1, Message(0, 2, Record(), map[string]any{})))
	if !errors.Is(err, consumers.ErrStop) {
		s.t.Errorf("a record without fields: %v, want ErrStop", err)
	}
}

func oddNames(s suite) {
	sink := s.claim(sqlsink.Config{Table: `od"d`})
	odd := Record(Field(`a"b`, text), Field("select", text), Field("ü x;--", text), Field("$1", text))
	s.write(sink, Batch(0, 1, Message(0, 1, odd, map[string]any{`a"b`: "1", "select": "2", "ü x;--": "3", "$1": "4"})))
	s.want(`SELECT "a""b", "select", "ü x;--", "$1" FROM "od""d"`, "1 2 3 4")
}

func tombstoneAppend(s suite) {
	sink := s.claim(sqlsink.Config{})
	s.write(sink, Batch(0, 3, row(0, 0, "a"), tombstone(1, "0"), tombstone(2, "9")))
	s.want("SELECT id FROM events", "0")
	if at := s.assign(sink); at != 3 {
		s.t.Errorf("position is %d, want 3", at)
	}
}

func upsert(s suite) {
	sink := s.claim(sqlsink.Config{Mode: sqlsink.Upsert, Key: []string{"id"}})
	s.write(sink, Batch(0, 1, tombstone(0, "4"))) // there is no table yet
	s.write(sink, Batch(1, 5, row(1, 1, "a"), row(2, 2, "b"), row(3, 1, "c"), row(4, 3, "d")))
	s.want("SELECT id, name FROM events ORDER BY id", "1 c", "2 b", "3 d")
	s.write(sink, Batch(5, 12,
		row(5, 2, "e"), tombstone(6, "2"), // stored, changed, gone
		tombstone(7, "1"), row(8, 1, "f"), // gone and back
		row(9, 4, "g"), tombstone(10, "4"), // new and gone
		row(11, 5, nil)))
	s.want("SELECT id, name FROM events ORDER BY id", "1 f", "3 d", "5 NULL")
	s.write(sink, Batch(12, 13, tombstone(12, "3")))
	s.want("SELECT id FROM events ORDER BY id", "1", "5")

	// The same key, in another spelling.
	s.write(sink, Batch(13, 15, row(13, 7, "h"), tombstone(14, "07")))
	s.want("SELECT id FROM events ORDER BY id", "1", "5")
	ids := s.claim(sqlsink.Config{Table: "ids", Mode: sqlsink.Upsert, Key: []string{"id"}, Pipeline: "ids"})
	id := "6BA7B810-9DAD-11D1-80B4-00C04FD430C8"
	byID := Record(Field("id", schemas.Node{Kind: schemas.String, Logical: schemas.UUID}))
	s.write(ids, Batch(0, 1, Message(0, 3, byID, map[string]any{"id": id})))
	s.write(ids, Batch(1, 3, Message(1, 3, byID, map[string]any{"id": id}), tombstone(2, id)))
	s.want("SELECT count(*) FROM ids", "0")

	two := s.claim(sqlsink.Config{Table: "two", Mode: sqlsink.Upsert, Key: []string{"name", "id"}})
	s.write(two, Batch(15, 19, row(15, 1, "a"), row(16, 1, "b"), row(17, 1, "a"), row(18, 2, "a")))
	s.want("SELECT id, name FROM two ORDER BY id, name", "1 a", "1 b", "2 a")
	if at := s.refused(two.Write(s.t.Context(), Batch(19, 20, tombstone(19, "1")))); len(at) != 1 {
		s.t.Errorf("a tombstone for two columns: %v refused, want it", at)
	}
}

func upsertRecordKey(s suite) {
	sink := s.claim(sqlsink.Config{Mode: sqlsink.Upsert})
	s.write(sink, Batch(0, 4, keyed("k", row(0, 1, "a")), keyed("l", row(1, 2, "b")), keyed("", row(2, 3, "c")), keyed("k", row(3, 4, "d"))))
	s.want("SELECT id, name FROM events ORDER BY id", "2 b", "3 c", "4 d")
	s.write(sink, Batch(4, 6, tombstone(4, "l"), tombstone(5, "")))
	s.want("SELECT id FROM events", "4")
	if diff := cmp.Diff([]int{0, 1}, s.refused(sink.Write(s.t.Context(), Batch(6, 9,
		row(6, 5, "e"), Message(7, 0, nil, nil), keyed("m", row(8, 6, "f")))))); diff != "" {
		s.t.Errorf("refused without a key (-want +got):\n%s", diff)
	}
}

func upsertSchemas(s suite) {
	wide := Record(Field("id", long), Field("name", text), Field("x", text))
	v2 := func(offset, id int64, name, x string) consumers.Message {
		return Message(offset, 2, wide, map[string]any{"id": id, "name": name, "x": x})
	}
	b := Batch(0, 9,
		row(0, 1, "a"), v2(1, 1, "b", "x1"), row(2, 1, "c"),
		v2(3, 2, "d", "x2"), tombstone(4, "2"), row(5, 2, "e"),
		row(6, 3, "f"), v2(7, 4, "g", "x4"), v2(8, 3, "h", "x3"))
	want := []string{"1 c x1", "2 e NULL", "3 h x3", "4 g x4"}
	s.write(s.claim(sqlsink.Config{Mode: sqlsink.Upsert, Key: []string{"id"}}), b)
	s.want("SELECT id, name, x FROM events ORDER BY id", want...)
	// The rows do not depend on where batches are cut.
	one := s.claim(sqlsink.Config{Table: "one", Mode: sqlsink.Upsert, Key: []string{"id"}, Pipeline: "one"})
	for i, m := range b.Messages {
		s.write(one, Batch(int64(i), int64(i+1), m))
	}
	s.want("SELECT id, name, x FROM one ORDER BY id", want...)
}

// upsertModel writes messages at random in batches of all sizes, and one by
// one, and compares the two tables.
func upsertModel(s suite) {
	wide := Record(Field("id", long), Field("x", text), Field("name", text))
	config := sqlsink.Config{Mode: sqlsink.Upsert, Key: []string{"id"}}
	batched := s.claim(config)
	config.Table, config.Pipeline = "one", "one"
	one := s.claim(config)
	for _, sink := range []*sqlsink.Sink{batched, one} { // makes the tables
		s.write(sink, Batch(0, 1, Message(0, 2, wide, map[string]any{"id": int64(9), "name": "a", "x": "a"})))
	}
	at := int64(1)
	rapid.Check(s.t, func(t *rapid.T) {
		n := int64(0)
		b := Batch(at, at)
		for range rapid.IntRange(1, 10).Draw(t, "length") {
			id := rapid.Int64Range(1, 4).Draw(t, "id")
			n++
			var m consumers.Message
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				m = tombstone(b.Next, fmt.Sprint(id))
			case 1:
				m = Message(b.Next, 2, wide, map[string]any{"id": id, "name": fmt.Sprint(n), "x": fmt.Sprint(n)})
			default:
				m = row(b.Next, id, fmt.Sprint(n))
			}
			b.Messages = append(b.Messages, m)
			b.Next++
		}
		at = b.Next
		if err := batched.Write(s.t.Context(), b); err != nil {
			t.Fatal(err)
		}
		for _, m := range b.Messages {
			if err := one.Write(s.t.Context(), Batch(m.Offset, m.Offset+1, m)); err != nil {
				t.Fatal(err)
			}
		}
		const query = "SELECT id, name, x FROM %s ORDER BY id"
		if diff := cmp.Diff(s.Query(s.t, fmt.Sprintf(query, "one")), s.Query(s.t, fmt.Sprintf(query, "events"))); diff != "" {
			t.Fatalf("one by one, and in a batch (-one +batch):\n%s", diff)
		}
	})
}

// A tombstone marks its row by its own time, once, and a later message takes the
// mark away.
func softDelete(s suite) {
	at := func(second int, m consumers.Message) consumers.Message {
		m.Time = time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC)
		return m
	}
	for i, key := range [][]string{{"id"}, nil} {
		table := fmt.Sprintf("soft_%d", i)
		c := sqlsink.Config{Table: table, Pipeline: table, Mode: sqlsink.Upsert, Key: key, SoftDelete: "gone"}
		sink := s.claim(c)
		s.write(sink, Batch(0, 4, keyed("1", row(0, 1, "a")), keyed("2", row(1, 2, "b")), at(5, tombstone(2, "2")), keyed("3", row(3, 3, "c"))))
		s.write(sink, Batch(4, 6, at(6, tombstone(4, "1")), at(7, tombstone(5, "2")))) // the second is gone already
		query := "SELECT id, name, CASE WHEN gone IS NULL THEN 'here' ELSE substr(CAST(gone AS text), 18, 2) END FROM " + table + " ORDER BY id"
		s.want(query, "1 a 06", "2 b 05", "3 c here")
		s.write(sink, Batch(6, 8, keyed("1", row(6, 1, "d")), at(8, tombstone(7, "9"))))
		s.want(query, "1 d here", "2 b 05", "3 c here")
		s.write(sink, Batch(8, 11, at(9, tombstone(8, "3")), keyed("3", row(9, 3, "e")), at(10, tombstone(10, "3")))) // the last counts
		s.want(query, "1 d here", "2 b 05", "3 e 10")
		s.write(s.claim(c), Batch(6, 11, keyed("1", row(6, 1, "old")))) // stored before
		s.want(query, "1 d here", "2 b 05", "3 e 10")
	}
}

// Records say which table they go to; a batch is stored in all of them, or in none.
func severalTables(s suite) {
	tenant := func(name string, m consumers.Message) consumers.Message {
		m.Headers = []stream.Header{{Key: "tenant", Value: []byte(name)}}
		return m
	}
	sink := s.claim(sqlsink.Config{Table: "t_{topic}_{header:tenant}", Pipeline: "headers"})
	s.write(sink, Batch(0, 3, tenant("a", row(0, 1, "x")), tenant("b", row(1, 2, "y")), tenant("a", row(2, 3, "z"))))
	s.want("SELECT id, name FROM t_events_a ORDER BY id", "1 x", "3 z")
	s.want("SELECT id, name FROM t_events_b ORDER BY id", "2 y")
	s.Exec(s.t, "CREATE TABLE t_events_c (id bigint CHECK (id > 10), name text)")
	b := Batch(3, 8, tenant("a", row(3, 4, "no")), tenant("c", row(4, 5, "too small")), row(5, 6, "no tenant"), tenant("a.b", row(6, 7, "a dot")),
		tenant(strings.Repeat("a", 41), row(7, 8, "too long")))
	if diff := cmp.Diff([]int{2, 3, 4}, s.refused(sink.Write(s.t.Context(), b))); diff != "" {
		s.t.Errorf("refused (-want +got):\n%s", diff)
	}
	b.Messages = b.Messages[:2]
	if diff := cmp.Diff([]int{1}, s.refused(sink.Write(s.t.Context(), b))); diff != "" {
		s.t.Errorf("refused by one table (-want +got):\n%s", diff)
	}
	s.want("SELECT count(*) FROM t_events_a", "2")
	s.write(sink, Batch(3, 8, b.Messages[0]))
	s.want("SELECT count(*) FROM t_events_a", "3")
	s.want("SELECT count(*) FROM t_events_c", "0")
	s.want("SELECT next_offset FROM penstock_positions WHERE pipeline = 'headers'", "8")

	// By a field, of values and of cells; keys of one table are none of another's.
	c := sqlsink.Config{Table: "f_{field:name}", Pipeline: "fields", Mode: sqlsink.Upsert, Key: []string{"id"}}
	sink = s.claim(c)
	s.write(sink, Batch(0, 4, row(0, 1, "a"), Celled(row(1, 1, "b")), row(2, 1, "a"), row(3, 2, "b")))
	s.want("SELECT id FROM f_a", "1")
	s.want("SELECT id FROM f_b ORDER BY id", "1", "2")
	if diff := cmp.Diff([]int{0, 1}, s.refused(sink.Write(s.t.Context(), Batch(4, 6, tombstone(4, "1"), row(5, 3, nil))))); diff != "" {
		s.t.Errorf("refused (-want +got):\n%s", diff)
	}
	c.Table, c.Pipeline, c.SoftDelete = "g_{header:tenant}", "soft", "gone"
	sink = s.claim(c)
	s.write(sink, Batch(0, 4, tenant("a", row(0, 1, "x")), tenant("b", row(1, 1, "y")), tenant("a", tombstone(2, "1")), tenant("b", row(3, 2, "z"))))
	s.want("SELECT count(*), count(gone) FROM g_a", "1 1")
	s.want("SELECT count(*), count(gone) FROM g_b", "2 0")
	if _, err := sink.Plan(s.t.Context(), simple); err == nil {
		s.t.Error("a plan of tables that records name")
	}
	for _, table := range []string{"{tenant}", "{header:}", "{topic:a}", "{field:a}.b"} {
		if _, err := s.Open(s.t.Context(), sqlsink.Config{Table: table, Pipeline: "p"}); err == nil || !strings.Contains(err.Error(), table) {
			s.t.Errorf("table %s: %v, want an error that names it", table, err)
		}
	}
}

// plan says what Write would do, and does nothing.
func plan(s suite) {
	sink := s.claim(sqlsink.Config{})
	statements, err := sink.Plan(s.t.Context(), simple)
	if err != nil || len(statements) != 1 || !strings.Contains(statements[0], "CREATE TABLE") {
		s.t.Fatalf("plan of a new table: %q, %v", statements, err)
	}
	s.write(sink, Batch(0, 1, row(0, 1, "a")))
	if statements, err = sink.Plan(s.t.Context(), simple); err != nil || len(statements) != 0 {
		s.t.Errorf("plan of what is there: %q, %v", statements, err)
	}
	wider := Record(append(slices.Clone(simple.Tree.Fields), Optional("more", text))...)
	statements, err = sink.Plan(s.t.Context(), wider)
	if err != nil || len(statements) != 1 || !strings.Contains(statements[0], "ADD COLUMN") {
		s.t.Errorf("plan of one more column: %q, %v", statements, err)
	}
	s.write(sink, Batch(1, 2, row(1, 2, "b"))) // nothing was changed
	s.want("SELECT * FROM events ORDER BY id", "1 a", "2 b")
	other := Record(Field("id", text))
	if _, err := sink.Plan(s.t.Context(), other); err == nil || !strings.Contains(err.Error(), "id") {
		s.t.Errorf("plan of a column of another type: %v", err)
	}
}

func upsertNoIndex(s suite) {
	s.Exec(s.t, "CREATE TABLE events (id bigint, name text)")
	sink := s.claim(sqlsink.Config{Mode: sqlsink.Upsert, Key: []string{"id"}})
	if err := s.fails(sink, Batch(0, 1, row(0, 1, "a")), "unique index"); !errors.Is(err, consumers.ErrStop) {
		s.t.Errorf("upsert without a unique index: %v, want ErrStop", err)
	}
	s.Exec(s.t, "CREATE UNIQUE INDEX i ON events (id)")
	s.write(sink, Batch(0, 1, row(0, 1, "a")))
	none := s.claim(sqlsink.Config{Mode: sqlsink.Upsert, Pipeline: "none"})
	if err := s.fails(none, Batch(0, 1, keyed("k", row(0, 1, "a"))), "record_key"); !errors.Is(err, consumers.ErrStop) {
		s.t.Errorf("upsert without the key column: %v, want ErrStop", err)
	}
}

func upsertKey(s suite) {
	sink := s.claim(sqlsink.Config{Mode: sqlsink.Upsert, Key: []string{"name"}})
	if diff := cmp.Diff([]int{1}, s.refused(sink.Write(s.t.Context(), Batch(0, 2, row(0, 1, "a"), row(1, 2, nil))))); diff != "" {
		s.t.Errorf("refused for a null key (-want +got):\n%s", diff)
	}
	missing := s.claim(sqlsink.Config{Mode: sqlsink.Upsert, Key: []string{"nome"}})
	if err := s.fails(missing, Batch(0, 1, row(0, 1, "a")), `"nome"`); !errors.Is(err, consumers.ErrStop) {
		s.t.Errorf("a key that is no field: %v, want ErrStop", err)
	}
}

func configuration(s suite) {
	for _, c := range []sqlsink.Config{
		{Pipeline: "p"},
		{Table: "t"},
		{Table: "t", Pipeline: "p", Mode: "replace"},
		{Table: "t", Pipeline: "p", Key: []string{"id"}},
		{Table: "t\x00", Pipeline: "p"},
	} {
		if sink, err := s.Open(s.t.Context(), c); err == nil {
			s.t.Errorf("Open(%+v) succeeded", c)
			_ = sink.Close()
		}
	}
}

func cancelled(s suite) {
	sink := s.claim(sqlsink.Config{})
	ctx, cancel := context.WithCancel(s.t.Context())
	cancel()
	if err := sink.Write(ctx, Batch(0, 1, row(0, 0, "a"))); !errors.Is(err, context.Canceled) {
		s.t.Fatalf("Write with a cancelled context: %v", err)
	}
	s.write(sink, Batch(0, 1, row(0, 0, "a")))
	s.want("SELECT id FROM events", "0")
}

// model lets two sinks claim, lose, write and write again at random, and
// compares the table with the log of what was there to be written.
func model(s suite) {
	sinks := []*sqlsink.Sink{s.open(sqlsink.Config{}), s.open(sqlsink.Config{})}
	s.assign(sinks[0])
	s.write(sinks[0], Batch(0, 1, row(0, 0, "makes the table")))
	run, p := 0, Partition(0)
	rapid.Check(s.t, func(t *rapid.T) {
		for _, sink := range sinks { // of the run before
			if err := sink.Lost(s.t.Context(), []stream.Partition{p}); err != nil {
				t.Fatal(err)
			}
		}
		run++
		p.Incarnation = fmt.Sprint("run", run)
		s.Exec(s.t, "DELETE FROM events")
		var stored int64 // the position
		var names []string
		owner := -1
		at := []int64{0, 0} // where each sink would go on
		claimed := []bool{false, false}
		t.Repeat(map[string]func(*rapid.T){
			"claim": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "sink")
				got, err := sinks[i].Assigned(s.t.Context(), []stream.Partition{p})
				if err != nil || got[p] != stored {
					t.Fatalf("Assigned: %v, %v; want %d", got, err, stored)
				}
				owner, at[i], claimed[i] = i, stored, true
			},
			"lose": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "sink")
				if err := sinks[i].Lost(s.t.Context(), []stream.Partition{p}); err != nil {
					t.Fatal(err)
				}
				claimed[i] = false
				if owner == i { // it gives it up
					owner = -1
				}
			},
			"write": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "sink")
				first := max(0, at[i]-rapid.Int64Range(0, 5).Draw(t, "back"))
				next := first + rapid.Int64Range(1, 8).Draw(t, "length")
				b := Batch(first, next)
				for o := first; o < next; o++ {
					b.Messages = append(b.Messages, row(o, o, fmt.Sprint(run)))
				}
				if owner == -1 && claimed[i] && next > at[i] {
					owner = i // it claims again what the other gave up
				}
				err := sinks[i].Write(s.t.Context(), b)
				switch {
				case owner == i:
					if err != nil {
						t.Fatalf("Write of the owner: %v", err)
					}
					stored, at[i] = max(stored, next), max(stored, next)
				case err == nil && !(claimed[i] && next <= at[i]):
					t.Fatal("Write without the partition succeeded")
				case err != nil && !errors.Is(err, stream.ErrFenced):
					t.Fatalf("Write without the partition: %v, want ErrFenced", err)
				}
			},
			"": func(t *rapid.T) {
				names = names[:0]
				for o := range stored {
					names = append(names, fmt.Sprint(o))
				}
				got := []string{}
				for _, r := range s.Query(s.t, "SELECT id FROM events ORDER BY id") {
					got = append(got, r[0])
				}
				if !slices.Equal(got, names) {
					t.Fatalf("table holds %v, want %v", got, names)
				}
			},
		})
	})
}
