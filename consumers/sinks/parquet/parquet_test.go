package parquet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	pq "github.com/parquet-go/parquet-go"

	"penstock/consumers"
	"penstock/consumers/sinks/parquet"
	"penstock/consumers/sinks/sinktest"
	"penstock/schemas"
	"penstock/stream"
	"penstock/stream/memory"
)

func TestMain(m *testing.M) { sinktest.Main(m, open) }

// open has a batch go to three folders.
func open(ctx context.Context, address string) (sinktest.Sink, error) {
	return parquet.Open(ctx, address, parquet.Config{Pipeline: "p", PartitionBy: []string{"kind"}})
}

// disk is an empty folder and what its files hold.
func disk(t *testing.T) (address string, rows sinktest.Rows) {
	dir := t.TempDir()
	return dir, func(t testing.TB) (all []sinktest.Row) {
		for name, file := range files(t, dir) {
			all = append(all, rowsOf(t, name, file)...)
		}
		return all
	}
}

// files reads the Parquet files below a folder, by their paths in it.
func files(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(name) != ".parquet" {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		all[rel], err = os.ReadFile(name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func rowsOf(t testing.TB, name string, file []byte) (all []sinktest.Row) {
	t.Helper()
	type row struct {
		Part int64  `parquet:"part,optional"`
		At   int64  `parquet:"at,optional"`
		Kind string `parquet:"kind,optional"`
	}
	rows, err := pq.Read[row](bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, r := range rows {
		if !strings.HasPrefix(filepath.ToSlash(name), "kind="+strings.ReplaceAll(r.Kind, " ", "%20")+"/") {
			t.Errorf("a row of %s lies in %s", r.Kind, name)
		}
		all = append(all, sinktest.Row{r.Part, r.At})
	}
	return all
}

// s3 is an empty bucket of a server in this process.
func s3(t *testing.T) (address string, rows sinktest.Rows) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	backend := s3mem.New()
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	if err := backend.CreateBucket("lake"); err != nil {
		t.Fatal(err)
	}
	return "s3://lake/raw/flights?region=eu-west-1&endpoint=" + server.URL, func(t testing.TB) (all []sinktest.Row) {
		list, err := backend.ListBucket("lake", nil, gofakes3.ListBucketPage{})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Contents {
			name, ok := strings.CutPrefix(o.Key, "raw/flights/")
			if !ok {
				t.Errorf("object %s is outside of its prefix", o.Key)
			}
			if filepath.Ext(name) != ".parquet" {
				continue
			}
			object, err := backend.GetObject("lake", o.Key, nil)
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(object.Contents)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, rowsOf(t, name, content)...)
		}
		return all
	}
}

func TestOnce(t *testing.T) {
	t.Run("disk", func(t *testing.T) { sinktest.Once(t, 10, open, disk) })
	t.Run("s3", func(t *testing.T) { sinktest.Once(t, 10, open, s3) })
}

func TestCrash(t *testing.T) {
	t.Run("disk", func(t *testing.T) {
		address, rows := disk(t)
		sinktest.Crash(t, address, rows)
	})
	t.Run("s3", func(t *testing.T) {
		address, rows := s3(t)
		sinktest.Crash(t, address, rows)
	})
}

func TestRebalance(t *testing.T) {
	broker := memory.New()
	defer broker.Close()
	address, rows := disk(t)
	sinktest.Rebalance(t, open, address, rows, broker)
}

// Each step of a batch is the last one of a consumer that is killed there: the
// next one finds its files and goes on, with batches cut elsewhere.
func TestKilledAtEachStep(t *testing.T) {
	partition := stream.Partition{Cluster: "c", Topic: "log", Incarnation: "i"}
	batch := func(first, next int64) consumers.Batch {
		b := consumers.Batch{Topic: "log", First: first, Next: next}
		for o := first; o < next; o++ {
			b.Messages = append(b.Messages, sinktest.LogMessage(0, o))
		}
		return b
	}
	for steps := range 4 { // files that were there when it died; the manifest was not
		for _, cut := range []int64{3, 20, 30, 40} {
			address, rows := disk(t)
			write := func(b consumers.Batch) {
				t.Helper()
				s, err := open(t.Context(), address)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				at, err := s.Assigned(t.Context(), []stream.Partition{partition})
				if err != nil {
					t.Fatal(err)
				}
				if b.First = at[partition]; b.First < b.Next {
					b.Messages = batch(b.First, b.Next).Messages
				}
				if err := s.Write(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
			write(batch(0, 10))
			before := files(t, address)
			manifests, err := filepath.Glob(filepath.Join(address, "_penstock/commits/*/*"))
			if err != nil || len(manifests) != 1 {
				t.Fatalf("manifests %v, %v; want one", manifests, err)
			}
			write(batch(10, 30))
			// Undo what the dead had not come to.
			all, _ := filepath.Glob(filepath.Join(address, "_penstock/commits/*/*"))
			for _, name := range all {
				if name != manifests[0] {
					if err := os.Remove(name); err != nil {
						t.Fatal(err)
					}
				}
			}
			kept := 0
			for name := range files(t, address) {
				if _, old := before[name]; old {
					continue
				}
				if kept++; kept > steps {
					if err := os.Remove(filepath.Join(address, name)); err != nil {
						t.Fatal(err)
					}
				}
			}
			write(batch(10, max(cut, 11)))
			write(batch(10, 35)) // after one more restart
			write(batch(10, 50))
			seen := map[sinktest.Row]int{}
			for _, r := range rows(t) {
				seen[r]++
			}
			for o := range int64(50) {
				if seen[sinktest.Row{0, o}] != 1 {
					t.Fatalf("killed after %d files, next batch to %d: row %d is there %d times", steps, cut, o, seen[sinktest.Row{0, o}])
				}
			}
		}
	}
}

// Columns have the types that readers know.
func TestColumns(t *testing.T) {
	dir := t.TempDir()
	s, err := parquet.Open(t.Context(), dir, parquet.Config{Pipeline: "p", PartitionBy: []string{"at:month"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	schema, data := sinktest.Values()
	if _, err := s.Assigned(t.Context(), []stream.Partition{sinktest.Partition(0)}); err != nil {
		t.Fatal(err)
	}
	null := map[string]any{}
	misfit := map[string]any{"uuid": "none"}
	b := sinktest.Batch(0, 4, sinktest.Message(0, 1, schema, null), sinktest.Message(1, 1, schema, data), sinktest.Message(2, 1, schema, misfit))
	var refused *stream.BatchError
	if err := s.Write(t.Context(), b); !errors.As(err, &refused) || len(refused.Errs) != 1 || refused.Errs[2] == nil {
		t.Fatalf("Write: %v, want a BatchError that names message 2", err)
	}
	b.Messages = b.Messages[:2]
	if err := s.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	all := files(t, dir)
	var got []string
	for name, file := range all {
		f, err := pq.OpenFile(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(name, "at=2013-01/") {
			for _, field := range f.Schema().Fields() {
				got = append(got, field.Name()+" "+field.Type().String())
			}
		}
	}
	if len(all) != 2 {
		t.Errorf("%d files, want one for the month and one for none", len(all))
	}
	want := []string{}
	for _, f := range schema.Tree.Fields {
		want = append(want, f.Name)
	}
	for i := range got {
		if name, _, _ := strings.Cut(got[i], " "); i >= len(want) || name != want[i] {
			t.Fatalf("columns %q, want the order %q", got, want)
		}
	}
	for _, c := range []string{"int INT(32,true)", "at TIMESTAMP(isAdjustedToUTC=true,unit=MICROS)", "local TIMESTAMP(isAdjustedToUTC=false,unit=MICROS)", "date DATE", "uuid UUID", "text STRING", "nested JSON"} {
		if !strings.Contains(strings.Join(got, "\n")+"\n", c+"\n") {
			t.Errorf("no column %q among %q", c, got)
		}
	}
	for _, by := range []string{"", "at:week", ":day"} {
		if _, err := parquet.Open(t.Context(), t.TempDir(), parquet.Config{Pipeline: "p", PartitionBy: []string{by}}); err == nil {
			t.Errorf("partition by %q was taken", by)
		}
	}
}

// valuesOf is what lies in files, as text.
func valuesOf(t *testing.T, files map[string][]byte) map[string]string {
	all := map[string]string{}
	for name, file := range files {
		r := pq.NewReader(bytes.NewReader(file))
		rows := make([]pq.Row, r.NumRows())
		if _, err := r.ReadRows(rows); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		all[name] = fmt.Sprintf("%v\n%+v", r.Schema(), rows)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// Cells come to the same files as values.
func TestCells(t *testing.T) {
	schema, data := sinktest.Scalars()
	var made []map[string]string
	for _, as := range []func(consumers.Message) consumers.Message{
		func(m consumers.Message) consumers.Message { return m }, sinktest.Celled,
	} {
		dir := t.TempDir()
		s, err := parquet.Open(t.Context(), dir, parquet.Config{Pipeline: "p", PartitionBy: []string{"at:day", "date:month"}})
		if err != nil {
			t.Fatal(err)
		}
		if !s.TakesCells(nil) {
			t.Error("it takes no cells")
		}
		if _, err := s.Assigned(t.Context(), []stream.Partition{sinktest.Partition(0)}); err != nil {
			t.Fatal(err)
		}
		b := sinktest.Batch(0, 3, as(sinktest.Message(0, 1, schema, data)), as(sinktest.Message(1, 1, schema, data)),
			as(sinktest.Message(2, 1, schema, map[string]any{"at": data["at"], "date": data["date"]})))
		if err := s.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		b = sinktest.Batch(3, 4, as(sinktest.Message(3, 1, schema, map[string]any{"uuid": "x"})))
		if err := s.Write(t.Context(), b); err == nil {
			t.Error("a UUID that is none was stored")
		}
		made = append(made, valuesOf(t, files(t, dir)))
	}
	if diff := cmp.Diff(made[0], made[1]); diff != "" || len(made[0]) != 1 {
		t.Errorf("%d files (-values +cells):\n%s", len(made[0]), diff)
	}
}

// More rows than are written at a time come to the same file from values, from cells
// and from both by turns.
func TestManyRows(t *testing.T) {
	const rows = 1000
	var made []map[string]string
	for _, celled := range []func(i int) bool{func(int) bool { return false }, func(int) bool { return true }, func(i int) bool { return i%3 == 0 }} {
		dir := t.TempDir()
		s, err := parquet.Open(t.Context(), dir, parquet.Config{Pipeline: "p"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Assigned(t.Context(), []stream.Partition{sinktest.Partition(0)}); err != nil {
			t.Fatal(err)
		}
		_, messages := sinktest.Flights(rows)
		for i := range messages {
			if messages[i].Offset = int64(i); celled(i) {
				messages[i] = sinktest.Celled(messages[i])
			}
		}
		if err := s.Write(t.Context(), sinktest.Batch(0, rows, messages...)); err != nil {
			t.Fatal(err)
		}
		made = append(made, valuesOf(t, files(t, dir)))
	}
	for i, m := range made {
		if diff := cmp.Diff(made[0], m); diff != "" || len(m) != 1 {
			t.Errorf("%d files of the way %d (-values +got):\n%.2000s", len(m), i, diff)
		}
	}
}

// Two schemas whose columns are the same and whose symbols are not go into one file,
// each row with its own schema's symbol.
func TestSymbols(t *testing.T) {
	dir := t.TempDir()
	s, err := parquet.Open(t.Context(), dir, parquet.Config{Pipeline: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Assigned(t.Context(), []stream.Partition{sinktest.Partition(0)}); err != nil {
		t.Fatal(err)
	}
	b := sinktest.Batch(0, 3)
	for i, symbols := range [][]string{{"A", "B"}, {"B", "A"}, {"C", "A", "B"}} {
		of := sinktest.Record(sinktest.Field("kind", schemas.Node{Kind: schemas.Enum, Symbols: symbols}))
		b.Messages = append(b.Messages, sinktest.Celled(sinktest.Message(int64(i), schemas.ID(i+1), of, map[string]any{"kind": "B"})))
	}
	if err := s.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	all := files(t, dir)
	for _, file := range all {
		rows, err := pq.Read[struct {
			Kind string `parquet:"kind,optional"`
		}](bytes.NewReader(file), int64(len(file)))
		if err != nil || len(all) != 1 || fmt.Sprint(rows) != "[{B} {B} {B}]" {
			t.Errorf("%d files, rows %v, %v, want B in each", len(all), rows, err)
		}
	}
}

// A column is required where the schemas of all rows of a file require it, and a null
// in one is the record's fault.
func TestRequired(t *testing.T) {
	text := schemas.Node{Kind: schemas.String}
	required := func(f schemas.Field) schemas.Field { f.Required = true; return f }
	strict := sinktest.Record(required(sinktest.Field("a", text)), required(sinktest.Field("b", text)), required(sinktest.Optional("c", text)))
	loose := sinktest.Record(required(sinktest.Field("a", text)), sinktest.Field("b", text), sinktest.Optional("c", text))
	dir := t.TempDir()
	s, err := parquet.Open(t.Context(), dir, parquet.Config{Pipeline: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Assigned(t.Context(), []stream.Partition{sinktest.Partition(0)}); err != nil {
		t.Fatal(err)
	}
	full := map[string]any{"a": "1", "b": "2", "c": "3"}
	for i, b := range []consumers.Batch{
		sinktest.Batch(0, 1, sinktest.Celled(sinktest.Message(0, 1, strict, full))),
		sinktest.Batch(1, 3, sinktest.Celled(sinktest.Message(1, 1, strict, full)), sinktest.Celled(sinktest.Message(2, 2, loose, map[string]any{"a": "1"}))),
		sinktest.Batch(3, 4, sinktest.Message(3, 1, strict, full)),
	} {
		if err := s.Write(t.Context(), b); err != nil {
			t.Fatalf("batch %d: %v", i, err)
		}
	}
	all := files(t, dir)
	if len(all) != 3 {
		t.Errorf("%d files, want one of each batch", len(all))
	}
	for name, file := range all {
		f, err := pq.OpenFile(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, field := range f.Root().Fields() {
			if field.Required() {
				got += field.Name()
			}
		}
		if want := map[int64]string{1: "ab", 2: "a"}[f.NumRows()]; got != want {
			t.Errorf("%s: required are %q, want %q", name, got, want)
		}
	}
	for _, as := range []func(consumers.Message) consumers.Message{func(m consumers.Message) consumers.Message { return m }, sinktest.Celled} {
		err := s.Write(t.Context(), sinktest.Batch(4, 5, as(sinktest.Message(4, 1, strict, map[string]any{"a": "1", "c": "3"}))))
		if refused := (*stream.BatchError)(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), `column "b": expected a value`) {
			t.Errorf("a null where there is none: %v", err)
		}
	}
}
