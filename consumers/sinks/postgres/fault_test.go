package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/consumers"
	"penstock/consumers/sinks/postgres"
	"penstock/consumers/sinks/sinktest"
	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
	"penstock/servertest"
	"penstock/stream"
)

func host(t *testing.T, d database) string {
	u, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

var (
	schemaOfRows = sinktest.Record(
		sinktest.Field("id", schemas.Node{Kind: schemas.Int, Bits: 64}),
		sinktest.Optional("name", schemas.Node{Kind: schemas.String}))
	column = func(d database, t *testing.T, query string) []string {
		var all []string
		for _, row := range d.Query(t, query) {
			all = append(all, strings.Join(row, " "))
		}
		return all
	}
)

func rows(first, next int64) consumers.Batch {
	b := sinktest.Batch(first, next)
	for o := first; o < next; o++ {
		b.Messages = append(b.Messages, sinktest.Message(o, 1, schemaOfRows, map[string]any{"id": o, "name": "x"}))
	}
	return b
}

func open(t *testing.T, address string, c sqlsink.Config) *sqlsink.Sink {
	t.Helper()
	if c.Table == "" {
		c.Table = "events"
	}
	c.Pipeline = "p"
	s, err := postgres.Open(t.Context(), address, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func assign(t *testing.T, s *sqlsink.Sink) {
	t.Helper()
	if _, err := s.Assigned(t.Context(), []stream.Partition{sinktest.Partition(0)}); err != nil {
		t.Fatal(err)
	}
}

// The answer to COMMIT is lost: nothing is doubled, nothing is missing, and
// what took place is no failure.
func TestLostCommit(t *testing.T) {
	const (
		cutBefore = "cut before"        // the server never sees it
		cutAfter  = "cut after"         // the server has carried it out, and nobody hears of it
		cutLate   = "cut, and go later" // the server gets it when late is closed
	)
	d := schema(t, servertest.Postgres(t))
	p := newProxy(t, host(t, d))
	s := open(t, p.through(t, d), sqlsink.Config{})
	assign(t, s)
	at := int64(0)
	for i, fault := range []string{"", cutAfter, cutBefore, cutLate, cutAfter, cutLate, cutBefore} {
		late := make(chan struct{})
		var of atomic.Pointer[session]
		p.ask(func(s *session, m message) verdict {
			if fault != "" && !m.server && m.is('Q', "COMMIT") && of.CompareAndSwap(nil, s) {
				if fault == cutBefore {
					return cut
				}
				if fault == cutLate {
					_ = s.client.Close()
					<-late
				}
			} else if m.server && of.Load() == s {
				return cut
			}
			return pass
		})
		var watch sync.WaitGroup
		if fault == cutLate {
			watch.Go(func() { // the sink looks up its position, and has to wait for it
				for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
					if !slices.Equal(column(d, t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR UPDATE%' AND datname = current_database()"), []string{"0"}) {
						break
					}
				}
				close(late)
			})
		}
		err := s.Write(t.Context(), rows(at, at+10))
		watch.Wait()
		if err != nil {
			t.Fatalf("Write %d (%s): %v", i, fault, err)
		}
		at += 10
	}
	if diff := cmp.Diff([]string{"70 70 69"}, column(d, t, "SELECT count(*), count(DISTINCT id), max(id) FROM events")); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// Connections are cut by the server at random.
func TestTerminated(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	s := open(t, d.url, sqlsink.Config{})
	assign(t, s)
	ctx, stop := context.WithCancel(t.Context())
	var killer sync.WaitGroup
	killer.Go(func() {
		for ctx.Err() == nil {
			_, err := d.conn.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.5")
			if err != nil {
				t.Error(err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(rand.N(20 * time.Millisecond)):
			}
		}
	})
	failures := 0
	for at := int64(0); at < 2000; {
		next := at + 1 + rand.Int64N(60)
		err := s.Write(t.Context(), rows(max(0, at-rand.Int64N(5)), next))
		switch {
		case err == nil:
			at = next
		case errors.Is(err, stream.ErrFenced) || errors.Is(err, consumers.ErrStop):
			t.Fatalf("Write: %v, want an error that passes", err)
		default:
			failures++
		}
	}
	stop()
	killer.Wait()
	t.Logf("%d writes failed", failures)
	if diff := cmp.Diff([]string{"t t 0"}, column(d, t, "SELECT count(*) = max(id) + 1, count(*) = count(DISTINCT id), min(id) FROM events")); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// A record that PostgreSQL can never hold is named, and alone.
func TestRefused(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	d.Exec(t, "CREATE TABLE events (id bigint, name varchar(5), doc jsonb, parent bigint UNIQUE DEFERRABLE INITIALLY DEFERRED)")
	d.Exec(t, `CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.id = 7 THEN RAISE 'seven is right out'; END IF; RETURN NEW; END $$`)
	d.Exec(t, "CREATE TRIGGER g BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION f()")
	s := open(t, d.url, sqlsink.Config{})
	assign(t, s)
	all := sinktest.Record(
		sinktest.Field("id", schemas.Node{Kind: schemas.Int, Bits: 64}),
		sinktest.Field("name", schemas.Node{Kind: schemas.String}),
		sinktest.Field("doc", schemas.Node{}),
		sinktest.Field("parent", schemas.Node{Kind: schemas.Int, Bits: 64}))
	var b consumers.Batch
	b.Topic = "events"
	for _, v := range []map[string]any{
		{"id": int64(1), "parent": int64(1)},
		{"name": "a\x00b"},
		{"name": "long\xff"},
		{"name": "longer"},
		{"doc": "a\x00b"},
		{"id": int64(7)},
		{"parent": int64(1)}, // found by COMMIT alone
		{"id": int64(2), "name": "ok", "doc": map[string]any{"x": 1.5}},
	} {
		b.Messages = append(b.Messages, sinktest.Message(b.Next, 1, all, v))
		b.Next++
	}
	var e *stream.BatchError
	err := s.Write(t.Context(), b)
	if !errors.As(err, &e) {
		t.Fatalf("Write: %v, want a *stream.BatchError", err)
	}
	var got []int
	for i, err := range e.Errs {
		got = append(got, i)
		t.Log(i, err)
	}
	slices.Sort(got)
	if diff := cmp.Diff([]int{1, 2, 3, 4, 5, 6}, got); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	b.Messages = []consumers.Message{b.Messages[0], b.Messages[7]}
	if err := s.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// Columns that somebody made, of other types than this package would have.
func TestOtherTypes(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	d.Exec(t, `CREATE TABLE events (int integer, long numeric, uint numeric(20,0), ulong text, float double precision,
		decimal varchar, uuid text, list json, map text, text varchar(100))`)
	s := open(t, d.url, sqlsink.Config{})
	assign(t, s)
	all, data := sinktest.Values()
	if err := s.Write(t.Context(), sinktest.Batch(0, 1, sinktest.Message(0, 1, all, data))); err != nil {
		t.Fatal(err)
	}
	got := column(d, t, "SELECT int, long, uint, ulong, float, decimal, uuid, list, map, text FROM events")
	want := `-5 -9223372036854775808 4294967295 18446744073709551615 1.5 -1234567890123456.78 6BA7B810-9DAD-11D1-80B4-00C04FD430C8 [1,null,0.25] {"a":"aGk=","b":"<x>"} naïve ` + "\U0001F6EB"
	if diff := cmp.Diff([]string{want}, got); diff != "" {
		t.Errorf("row (-want +got):\n%s", diff)
	}
	for column, kind := range map[string]string{
		"int": "smallint", "long": "integer", "ulong": "numeric(19,0)", "double": "real", "decimal": "numeric(30,1)",
		"text": "character(100)", "at": "timestamp(3) with time zone", "local": "date", "bytes": "text",
	} {
		d.Exec(t, fmt.Sprintf("DROP TABLE events; CREATE TABLE events (%s %s)", column, kind))
		b := sinktest.Batch(1, 2, sinktest.Message(1, 1, all, data))
		_ = s.Write(t.Context(), b) // which finds out that it knows another table
		err := s.Write(t.Context(), b)
		if !errors.Is(err, consumers.ErrStop) || !strings.Contains(err.Error(), kind) || !strings.Contains(err.Error(), column) {
			t.Errorf("column %s %s: %v, want ErrStop that names both", column, kind, err)
		}
	}
}

func TestSetUp(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	name := servertest.Name(t)
	d.Exec(t, `CREATE SCHEMA "`+name+`"`)
	s := open(t, d.url, sqlsink.Config{Table: name + ".flights"})
	assign(t, s)
	if err := s.Write(t.Context(), rows(0, 2)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"2 2"}, column(d, t, fmt.Sprintf("SELECT count(*), (SELECT next_offset FROM %q.penstock_positions) FROM %q.flights", name, name))); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}

	// A user who may write, and not make, finds the tables there.
	role := strings.ReplaceAll(name, "-", "_")
	d.Exec(t, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'hunter2'", role))
	t.Cleanup(func() {
		c := context.Background()
		_, _ = d.conn.Exec(c, fmt.Sprintf("DROP OWNED BY %s", role))
		_, _ = d.conn.Exec(c, fmt.Sprintf("DROP ROLE %s", role))
	})
	d.Exec(t, fmt.Sprintf("GRANT USAGE ON SCHEMA %q TO %s; GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA %q TO %s", name, role, name, role))
	u, _ := url.Parse(d.url)
	u.User = url.UserPassword(role, "hunter2")
	s = open(t, u.String(), sqlsink.Config{Table: name + ".flights"})
	assign(t, s)
	if err := s.Write(t.Context(), rows(2, 3)); err != nil {
		t.Fatal(err)
	}
	d.Exec(t, fmt.Sprintf("REVOKE INSERT ON ALL TABLES IN SCHEMA %q FROM %s", name, role))
	if err := s.Write(t.Context(), rows(3, 4)); !errors.Is(err, consumers.ErrStop) {
		t.Errorf("Write without the right to: %v, want ErrStop", err)
	}

	for table, want := range map[string]string{
		"a.b.c":                    "one dot",
		"nowhere.t":                "nowhere",
		strings.Repeat("long", 16): "63 bytes",
	} {
		_, err := postgres.Open(t.Context(), d.url, sqlsink.Config{Table: table, Pipeline: "p"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open of table %q: %v, want %q in it", table, err, want)
		}
	}
}

// Passwords are in no error, however wrong the address is.
func TestPasswords(t *testing.T) {
	ports, err := servertest.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	closed := fmt.Sprintf("127.0.0.1:%d", ports[0])
	for _, address := range []string{
		"postgres://u:hunter2@" + closed + "/db?sslmode=disable",
		"postgres://u:hunter2@" + closed + "/db?sslmode=nonsense",
		"postgres://u:hunter2@" + closed + ":x/db",
		"postgres://u:hunter2%zz@" + closed + "/db",
		"postgres://u:hun/ter2@" + closed + "/db",
		"postgres://" + closed + "/db?password=hunter2&sslmode=nonsense",
		"postgres://" + closed + "/db?password=hunter2&port=x",
		"postgres://" + closed + "/db?sslpassword=hunter2&connect_timeout=hunter2",
		"host=localhost password=hunter2",
		"mysql://u:hunter2@localhost/db",
		"u:hunter2@localhost",
	} {
		_, err := postgres.Open(t.Context(), address, sqlsink.Config{Table: "t", Pipeline: "p"})
		if err == nil {
			t.Errorf("Open(%q) succeeded", address)
		} else if strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "ter2") {
			t.Errorf("Open(%q): the error tells the password: %v", address, err)
		}
	}
	_, err = postgres.Open(t.Context(), "postgres://u:hunter2@"+closed+"/db", sqlsink.Config{Table: "t", Pipeline: "p"})
	if !errors.Is(err, postgres.ErrUnreachable) {
		t.Errorf("Open without a server: %v, want ErrUnreachable", err)
	}
}

// Cells go into columns of other types as values do.
func TestCellsOtherTypes(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	d.Exec(t, "CREATE TABLE events (int numeric, long integer, text varchar(100), float double precision, uuid text)")
	s := open(t, d.url, sqlsink.Config{})
	assign(t, s)
	of := sinktest.Record(
		sinktest.Field("int", schemas.Node{Kind: schemas.Int, Bits: 64}), sinktest.Field("long", schemas.Node{Kind: schemas.Int, Bits: 32}),
		sinktest.Field("text", schemas.Node{Kind: schemas.Enum, Symbols: []string{"A", "B"}}), sinktest.Field("float", schemas.Node{Kind: schemas.Float, Bits: 32}),
		sinktest.Field("uuid", schemas.Node{Kind: schemas.String, Logical: schemas.UUID}))
	data := map[string]any{"int": int64(-7), "long": int64(5), "text": "B", "float": float32(0.5), "uuid": "6BA7B810-9DAD-11D1-80B4-00C04FD430C8"}
	if err := s.Write(t.Context(), sinktest.Batch(0, 1, sinktest.Celled(sinktest.Message(0, 1, of, data)))); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"-7 5 B 0.5 6BA7B810-9DAD-11D1-80B4-00C04FD430C8"}, column(d, t, "SELECT * FROM events")); diff != "" {
		t.Errorf("row (-want +got):\n%s", diff)
	}
}

// A column that becomes of another type while the sink runs gets no bytes of the old
// one, even where they are as long.
func TestTypeChangesMeanwhile(t *testing.T) {
	for mode, key := range map[sqlsink.Mode][]string{sqlsink.Append: nil, sqlsink.Upsert: {"id"}} {
		for kind, want := range map[string]string{"double precision": "42", "timestamp USING to_timestamp(n) AT TIME ZONE 'UTC'": "1970-01-01 00:00:42"} {
			t.Run(string(mode)+" "+kind, func(t *testing.T) {
				d := schema(t, servertest.Postgres(t))
				s := open(t, d.url, sqlsink.Config{Mode: mode, Key: key})
				assign(t, s)
				of := sinktest.Record(
					sinktest.Field("id", schemas.Node{Kind: schemas.Int, Bits: 64}), sinktest.Field("n", schemas.Node{Kind: schemas.Int, Bits: 64}))
				batch := func(o int64) consumers.Batch {
					return sinktest.Batch(o, o+1, sinktest.Message(o, 1, of, map[string]any{"id": o, "n": 42 + o}))
				}
				if err := s.Write(t.Context(), batch(0)); err != nil {
					t.Fatal(err)
				}
				d.Exec(t, "ALTER TABLE events ALTER COLUMN n TYPE "+kind)
				if err := s.Write(t.Context(), batch(1)); err == nil || !strings.Contains(err.Error(), `column "n"`) {
					t.Errorf("the first time: %v", err)
				}
				// Now it knows the type, and that the schema's values have no place there.
				if err := s.Write(t.Context(), batch(1)); !errors.Is(err, consumers.ErrStop) || !strings.Contains(err.Error(), `column "n"`) {
					t.Errorf("again: %v", err)
				}
				if got := column(d, t, "SELECT n::text FROM events ORDER BY id"); !slices.Equal(got, []string{want}) {
					t.Errorf("the column holds %q, want %q", got, want)
				}
			})
		}
	}
}
