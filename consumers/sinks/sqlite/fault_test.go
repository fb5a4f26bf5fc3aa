package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"modernc.org/sqlite"
	"pgregory.net/rapid"

	"penstock/consumers"
	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
	"penstock/stream"
)

// faults says what a COMMIT is to come to. It is used by one goroutine.
type faults struct{ next []string }

// connector makes connections whose COMMIT fails at times.
type connector struct {
	driver.Connector
	faults *faults
}

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	inner, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{inner.(innerConn), c.faults}, nil
}

type innerConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
}

type conn struct {
	innerConn
	faults *faults
}

var errCut = errors.New("the connection was cut")

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if query != "COMMIT" || len(c.faults.next) == 0 {
		return c.innerConn.ExecContext(ctx, query, args)
	}
	fault := c.faults.next[0]
	c.faults.next = c.faults.next[1:]
	if fault == "cut before" {
		return nil, errCut
	}
	r, err := c.innerConn.ExecContext(ctx, query, args)
	if fault == "cut after" {
		return nil, errCut
	}
	return r, err
}

// open opens a sink with pragmas of its own and COMMITs that fail.
func open(t *testing.T, file string, f *faults, pragmas string) *sqlsink.Sink {
	t.Helper()
	inner, err := sqlite.NewConnector("file:" + url.PathEscape(file) + "?_pragma=journal_mode(WAL)" + pragmas)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector{inner, f})
	db.SetMaxOpenConns(1)
	s, err := sqlsink.New(t.Context(), db, dialect{}, sqlsink.Config{Table: "t", Pipeline: "p"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

type schema struct{ schemas.Schema }

var model = &schemas.Node{Kind: schemas.Record, Fields: []schemas.Field{
	{Name: "id", Node: &schemas.Node{Kind: schemas.Int, Bits: 64}},
	{Name: "text", Node: &schemas.Node{Kind: schemas.String}},
}}

func (schema) Model() *schemas.Node { return model }

func batch(topic string, first, next int64, text string) consumers.Batch {
	b := consumers.Batch{Topic: topic, First: first, Next: next}
	for o := first; o < next; o++ {
		m := consumers.Message{SchemaID: 1, Schema: schema{}, Data: map[string]any{"id": o, "text": text}}
		m.Topic, m.Offset = topic, o
		b.Messages = append(b.Messages, m)
	}
	return b
}

func assign(t testing.TB, s *sqlsink.Sink, topic string) {
	t.Helper()
	if _, err := s.Assigned(t.Context(), []stream.Partition{{Topic: topic}}); err != nil {
		t.Fatal(err)
	}
}

// A commit that fails may have taken place; whichever it was, no row is stored
// twice and none is missing.
func TestCommitUnknown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t.db")
	f := &faults{}
	s := open(t, file, f, "")
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		topic := fmt.Sprint("run", run)
		f.next = nil
		assign(t, s, topic)
		at := int64(0)
		for range rapid.IntRange(1, 6).Draw(rt, "batches") {
			// Each COMMIT of the write, and of looking the position up after it.
			f.next = rapid.SliceOfN(rapid.SampledFrom([]string{"", "cut before", "cut after"}), 0, 4).Draw(rt, "faults")
			first := max(0, at-rapid.Int64Range(0, 3).Draw(rt, "back"))
			next := at + rapid.Int64Range(1, 5).Draw(rt, "length")
			for tries := 0; ; tries++ {
				err := s.Write(t.Context(), batch(topic, first, next, topic))
				if err == nil {
					break
				}
				if !errors.Is(err, errCut) || tries > 5 {
					rt.Fatalf("Write: %v", err)
				}
				if rapid.Bool().Draw(rt, "cut differently") {
					next++
				}
			}
			at = next
		}
		var rows, different, end int64
		err := db.QueryRow("SELECT count(*), count(DISTINCT id), max(id) + 1 FROM t WHERE text = $1", topic).Scan(&rows, &different, &end)
		if err != nil || rows != at || different != at || end != at {
			rt.Fatalf("%d rows, %d different, up to %d; want %d (%v)", rows, different, end, at, err)
		}
	})
}

// A commit that took place without an answer is no failure.
func TestCommitTookPlace(t *testing.T) {
	f := &faults{}
	s := open(t, filepath.Join(t.TempDir(), "t.db"), f, "")
	assign(t, s, "t")
	f.next = []string{"cut after"}
	if err := s.Write(t.Context(), batch("t", 0, 3, "x")); err != nil {
		t.Fatalf("Write: %v, though it was stored", err)
	}
}

// A claim that came after that of the rightful owner, from a member that then
// died, does not keep the partition for ever.
func TestDeadRival(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t.db")
	synctest.Test(t, func(t *testing.T) {
		rightful, rival := open(t, file, &faults{}, ""), open(t, file, &faults{}, "")
		assign(t, rightful, "t")
		assign(t, rival, "t")
		fenced := func() {
			t.Helper()
			if err := rightful.Write(t.Context(), batch("t", 0, 2, "x")); !errors.Is(err, stream.ErrFenced) {
				t.Fatalf("Write: %v, want ErrFenced", err)
			}
		}
		fenced()
		time.Sleep(29 * time.Second)
		fenced()
		if err := rival.Write(t.Context(), batch("t", 0, 1, "x")); err != nil { // it lives
			t.Fatal(err)
		}
		time.Sleep(29 * time.Second)
		fenced()
		time.Sleep(29 * time.Second)
		fenced()
		time.Sleep(time.Second)
		if err := rightful.Write(t.Context(), batch("t", 0, 2, "x")); err != nil {
			t.Fatal(err)
		}
		if err := rival.Write(t.Context(), batch("t", 1, 2, "x")); !errors.Is(err, stream.ErrFenced) {
			t.Fatalf("Write of the other: %v, want ErrFenced", err)
		}
	})
}

func TestDiskFull(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "t.db"), &faults{}, "&_pragma=max_page_count(20)")
	assign(t, s, "t")
	if err := s.Write(t.Context(), batch("t", 0, 3, "x")); err != nil {
		t.Fatal(err)
	}
	err := s.Write(t.Context(), batch("t", 3, 9, strings.Repeat("x", 50_000)))
	var refused *stream.BatchError
	if err == nil || !strings.Contains(err.Error(), "disk is full") || errors.Is(err, consumers.ErrStop) || errors.As(err, &refused) {
		t.Fatalf("Write to a full disk: %v, want an error that passes", err)
	}
	if err := s.Write(t.Context(), batch("t", 3, 4, "x")); err != nil {
		t.Fatalf("Write once there is room: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t.db")
	open(t, file, &faults{}, "")
	inner, err := sqlite.NewConnector("file:" + url.PathEscape(file) + "?_pragma=query_only(1)")
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(inner)
	defer db.Close()
	_, err = sqlsink.New(t.Context(), db, dialect{}, sqlsink.Config{Table: "t", Pipeline: "p"})
	if err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Fatalf("New with a read-only file: %v", err)
	}
}

func TestLocked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t.db")
	s := open(t, file, &faults{}, "&_pragma=busy_timeout(20)")
	assign(t, s, "t")
	other, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	other.SetMaxOpenConns(1)
	if _, err := other.Exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	err = s.Write(t.Context(), batch("t", 0, 1, "x"))
	if err == nil || !strings.Contains(err.Error(), "locked") || errors.Is(err, consumers.ErrStop) {
		t.Fatalf("Write to a locked file: %v, want an error that passes", err)
	}
	if _, err := other.Exec("ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), batch("t", 0, 1, "x")); err != nil {
		t.Fatal(err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("not a database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"":                                 "name of a file",
		filepath.Join(dir, "no", "folder"): "cannot be opened",
		text:                               "no SQLite database",
	} {
		_, err := Open(t.Context(), file, sqlsink.Config{Table: "t", Pipeline: "p"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%q): %v, want %q in it", file, err, want)
		}
	}
}

// What is committed is on disk, and readers are not in the way.
func TestDurable(t *testing.T) {
	db, err := sql.Open("sqlite", dsn(filepath.Join(t.TempDir(), "t.db")))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var journal, synchronous string
	if err := db.QueryRow("SELECT j.journal_mode, s.synchronous FROM pragma_journal_mode j, pragma_synchronous s").Scan(&journal, &synchronous); err != nil {
		t.Fatal(err)
	}
	if journal != "wal" || synchronous != "2" {
		t.Errorf("journal mode %s, synchronous %s; want wal and 2, which is FULL", journal, synchronous)
	}
}
