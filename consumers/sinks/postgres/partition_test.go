package postgres_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/consumers"
	"penstock/consumers/sinks/sinktest"
	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
	"penstock/servertest"
	"penstock/stream"
)

var moment = schemas.Node{Kind: schemas.Int, Bits: 64, Logical: schemas.Timestamp}

// visit is a record with a time.
var visit = sinktest.Record(sinktest.Field("id", schemas.Node{Kind: schemas.Int, Bits: 64}), sinktest.Optional("at", moment))

func visitAt(offset int64, at string) consumers.Message {
	t, err := time.Parse(time.DateTime, at)
	if err != nil {
		panic(err)
	}
	return sinktest.Message(offset, 1, visit, map[string]any{"id": offset, "at": t})
}

// partitions are those of a table with their rows, without those that are empty.
func partitions(d database, t *testing.T) []string {
	t.Helper()
	return column(d, t, `SELECT tableoid::regclass::text, count(*) FROM events GROUP BY 1 ORDER BY 1`)
}

// Rows go into partitions that are made before them, and some are made ahead.
func TestPartitions(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	now := time.Date(2026, 11, 29, 23, 0, 0, 0, time.UTC)
	s := open(t, d.url, sqlsink.Config{PartitionBy: "at:day", Ahead: 2, Now: func() time.Time { return now }})
	assign(t, s)
	planned, err := s.Plan(t.Context(), visit)
	if err != nil || len(planned) != 4 || !strings.Contains(planned[0], `"at" timestamp with time zone NOT NULL`) || !strings.HasSuffix(planned[0], `) PARTITION BY RANGE ("at")`) {
		t.Fatalf("plan: %q, %v", planned, err)
	}
	want := `CREATE TABLE "events_p20261130" (LIKE "events" INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE);
ALTER TABLE "events" ATTACH PARTITION "events_p20261130" FOR VALUES FROM ('2026-11-30 00:00:00+00') TO ('2026-12-01 00:00:00+00')`
	if planned[2] != want {
		t.Errorf("plan: %s, want %s", planned[2], want)
	}
	err = s.Write(t.Context(), sinktest.Batch(0, 3, visitAt(0, "2013-01-01 00:00:00"), visitAt(1, "2026-11-29 12:00:00"), visitAt(2, "2013-01-01 23:59:59")))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"events_p20130101 2", "events_p20261129 1"}, partitions(d, t)); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	all := `SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY 1`
	if diff := cmp.Diff([]string{"events_p20130101", "events_p20261129", "events_p20261130", "events_p20261201"}, column(d, t, all)); diff != "" {
		t.Errorf("partitions (-want +got):\n%s", diff)
	}
	now = now.AddDate(0, 0, 1)
	if planned, err = s.Plan(t.Context(), visit); err != nil || len(planned) != 1 {
		t.Errorf("plan of the day after: %q, %v", planned, err)
	}
	b := sinktest.Batch(3, 5, visitAt(3, "2013-01-01 00:00:00"), sinktest.Message(4, 1, visit, map[string]any{"id": int64(4)}))
	if err := s.Write(t.Context(), b); err == nil || !strings.Contains(err.Error(), `column "at" says which partition a row belongs to: expected a value, found null`) {
		t.Errorf("Write without a time: %v", err)
	}
	b.Messages = b.Messages[:1]
	if err := s.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if got := column(d, t, all); len(got) != 5 || got[4] != "events_p20261202" {
		t.Errorf("partitions of the day after: %q", got)
	}
}

// Each unit, and each type of column, has its bounds.
func TestPartitionUnits(t *testing.T) {
	server := servertest.Postgres(t)
	for _, c := range []struct {
		by   string
		node schemas.Node
		want string
	}{
		{"at:hour", moment, "events_p2024022923 FOR VALUES FROM ('2024-02-29 23:00:00+00') TO ('2024-03-01 00:00:00+00')"},
		{"at:month", schemas.Node{Kind: schemas.Int, Bits: 64, Logical: schemas.LocalTime}, "events_p202402 FOR VALUES FROM ('2024-02-01 00:00:00') TO ('2024-03-01 00:00:00')"},
		{"at:year", schemas.Node{Kind: schemas.Int, Bits: 32, Logical: schemas.Date}, "events_p2024 FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')"},
		{"record_time:day", moment, "events_p20240229 FOR VALUES FROM ('2024-02-29 00:00:00+00') TO ('2024-03-01 00:00:00+00')"},
	} {
		d := schema(t, server)
		at := time.Date(2024, 2, 29, 23, 59, 59, 999_999_000, time.UTC)
		s := open(t, d.url, sqlsink.Config{PartitionBy: c.by, Now: func() time.Time { return at.AddDate(-10, 0, 0) }})
		assign(t, s)
		m := sinktest.Message(0, 1, sinktest.Record(sinktest.Field("at", c.node)), map[string]any{"at": at})
		if m.Time = at; c.node.Logical == schemas.Date {
			m.Data = map[string]any{"at": at.Truncate(24 * time.Hour)}
		}
		b := sinktest.Batch(0, 1, m)
		if err := s.Write(t.Context(), b); err != nil {
			t.Errorf("%s: %v", c.by, err)
			continue
		}
		got := column(d, t, `SELECT relname, pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = (SELECT tableoid FROM events)`)
		if diff := cmp.Diff([]string{c.want}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.by, diff)
		}
		if got := column(d, t, `SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass`); got[0] != "6" {
			t.Errorf("%s: %s partitions, want 6", c.by, got[0])
		}
	}
}

// Nothing goes into a default partition, and nothing leaves, because a partition was
// taken away behind the sink's back; what lies in the default one stops it.
func TestPartitionsTaken(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	s := open(t, d.url, sqlsink.Config{PartitionBy: "at:month", Now: func() time.Time { return time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) }})
	assign(t, s)
	next := int64(0)
	write := func(at string) error {
		next++
		return s.Write(t.Context(), sinktest.Batch(next-1, next, visitAt(next-1, at)))
	}
	for i, before := range []string{"", "DROP TABLE events_p202611", "CREATE TABLE rest PARTITION OF events DEFAULT; DROP TABLE events_p202611"} {
		if before != "" {
			d.Exec(t, before)
		}
		err := write("2026-11-27 10:00:00")
		if err != nil { // it says that they were taken away; the next attempt makes them anew
			next--
			err = write("2026-11-27 10:00:00")
		}
		if err != nil {
			t.Fatalf("Write %d: %v", i, err)
		}
		if diff := cmp.Diff([]string{"events_p202611 1"}, partitions(d, t)); diff != "" {
			t.Errorf("rows behind %q (-want +got):\n%s", before, diff)
		}
	}
	d.Exec(t, `INSERT INTO events VALUES (99, '2026-12-01 00:00:00+00')`)
	if err := write("2026-12-05 00:00:00"); !errors.Is(err, consumers.ErrStop) || !strings.Contains(err.Error(), "the default partition holds rows that belong there") {
		t.Errorf("Write beside rows in the default partition: %v", err)
	}
	next--
	d.Exec(t, `DELETE FROM events WHERE id = 99; ALTER TABLE events DETACH PARTITION events_p202611`)
	if err := write("2026-11-05 00:00:00"); !errors.Is(err, consumers.ErrStop) || !strings.Contains(err.Error(), "a table of that name is no partition of it") {
		t.Errorf("Write where a detached table has the partition's name: %v", err)
	}
}

// Sinks that make the same partitions at the same time, of a table that neither knows
// yet, do not stand in each other's way.
func TestPartitionsTogether(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	const sinks = 6
	var all sync.WaitGroup
	for n := range int32(sinks) {
		s := open(t, d.url, sqlsink.Config{PartitionBy: "at:day"})
		if _, err := s.Assigned(t.Context(), []stream.Partition{sinktest.Partition(n)}); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for i := range int64(5) {
				b := sinktest.Batch(2*i, 2*i+2, visitAt(2*i, time.Date(2026, 1, int(i)+1, 0, 0, 0, 0, time.UTC).Format(time.DateTime)), visitAt(2*i+1, "2026-01-31 00:00:00"))
				b.Partition = n
				if err := s.Write(t.Context(), b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	want := []string{"events_p20260101 6", "events_p20260102 6", "events_p20260103 6", "events_p20260104 6", "events_p20260105 6", "events_p20260131 30"}
	if diff := cmp.Diff(want, partitions(d, t)); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

// A batch of more partitions than one transaction takes is refused as a whole, to be
// halved, and no record of it is.
func TestManyPartitions(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	s := open(t, d.url, sqlsink.Config{PartitionBy: "at:hour"})
	assign(t, s)
	b := sinktest.Batch(0, 201)
	for i := range int64(201) {
		b.Messages = append(b.Messages, visitAt(i, time.Date(2020, 1, 1, int(i), 0, 0, 0, time.UTC).Format(time.DateTime)))
	}
	if err := s.Write(t.Context(), b); !errors.Is(err, consumers.ErrBadRecord) || errors.Is(err, consumers.ErrStop) {
		t.Errorf("Write: %v, want ErrBadRecord", err)
	}
}

// With a key, the newest row of each is kept, in its partition.
func TestPartitionedUpsert(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	s := open(t, d.url, sqlsink.Config{PartitionBy: "at:day", Mode: sqlsink.Upsert, Key: []string{"id", "at"}})
	assign(t, s)
	named := sinktest.Record(sinktest.Field("id", schemas.Node{Kind: schemas.Int, Bits: 64}), sinktest.Field("at", moment), sinktest.Field("n", schemas.Node{Kind: schemas.Int, Bits: 64}))
	for i := range int64(3) {
		day := time.Date(2026, 1, 1+int(i/2), 0, 0, 0, 0, time.UTC)
		if err := s.Write(t.Context(), sinktest.Batch(i, i+1, sinktest.Message(i, 1, named, map[string]any{"id": int64(1), "at": day, "n": i}))); err != nil {
			t.Fatal(err)
		}
	}
	got := column(d, t, `SELECT tableoid::regclass, id, n FROM events ORDER BY 1`)
	if diff := cmp.Diff([]string{"events_p20260101 1 1", "events_p20260102 1 2"}, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

// What cannot be is said in one sentence.
func TestPartitionsRefused(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	for _, c := range []struct {
		config sqlsink.Config
		want   string
	}{
		{sqlsink.Config{PartitionBy: "at:week"}, `partition by "at:week": expected COLUMN:hour, COLUMN:day, COLUMN:month or COLUMN:year`},
		{sqlsink.Config{PartitionBy: "at:day", Mode: sqlsink.Upsert, Key: []string{"id"}}, `partition by "at:day": expected "at" among the key columns, found ["id"]`},
	} {
		c.config.Table, c.config.Pipeline = "events", "p"
		if s, err := d.Open(t.Context(), c.config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Open: %v, %v, want %s", s, err, c.want)
		}
	}
	d.Exec(t, `CREATE TABLE plain (id bigint, at timestamptz); CREATE TABLE two (id bigint, at timestamptz) PARTITION BY RANGE (id, at); CREATE TABLE lists (id bigint, at timestamptz) PARTITION BY LIST (at)`)
	for _, c := range []struct{ table, by, want string }{
		{"events", "id:day", `partition by "id": expected a timestamp or a date, found 64-bit integer`},
		{"events", "gone:day", `partition by "gone": expected a field of that name, or record_time for the record's own time, found none`},
		{"plain", "at:day", `table "plain": expected one that is partitioned by ranges of "at", found one that is not`},
		{"two", "at:day", `table "two": expected one that is partitioned by ranges of "at"`},
		{"lists", "at:day", `table "lists": expected one that is partitioned by ranges of "at"`},
		{strings.Repeat("x", 60), "at:day", `expected a name of at most 63 bytes`},
	} {
		s := open(t, d.url, sqlsink.Config{Table: c.table, PartitionBy: c.by})
		assign(t, s)
		err := s.Write(t.Context(), sinktest.Batch(0, 1, visitAt(0, "2026-11-27 10:00:00")))
		if !errors.Is(err, consumers.ErrStop) || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("Write to %s by %s: %v, want %s", c.table, c.by, err, c.want)
		}
	}
}
