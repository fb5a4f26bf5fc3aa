package pipelines

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const whole = `
name: shop
source: {topic: orders, group: g, broker: "kafka://h:9092", registry: "http://r", read-as: latest, until: end}
batch: {count: 10, bytes: 100, linger: 1.5s, latency: 50ms, rate: 2.5, by-schema: true, coalesce: true, cut: 'key == "x"'}
filter: message.a > 1
map: '{"id": message.a}'
map-to: rows-value
errors: {ordering: block, attempts: 3}
sink: {url: "postgres://u:${PASSWORD}@h/db", table: t, mode: upsert, key: [id]}
`

func parse(text string) (Pipeline, error) {
	return Parse("dir/orders.yaml", []byte(text), Options{
		Broker: "nats://n:4222", Registry: "http://n",
		Env: func(name string) (string, bool) { return "secret", name == "PASSWORD" },
	})
}

func TestParse(t *testing.T) {
	got, err := parse(whole)
	if err != nil {
		t.Fatal(err)
	}
	want := Pipeline{
		Name:   "shop",
		Source: Source{Topic: "orders", Group: "g", Broker: "kafka://h:9092", Registry: "http://r", ReadAs: "latest", Until: End},
		Batch:  Batch{Count: 10, Bytes: 100, Linger: Duration(1500 * time.Millisecond), Latency: Duration(50 * time.Millisecond), Rate: 2.5, BySchema: true, Coalesce: true, Cut: `key == "x"`},
		Filter: "message.a > 1", Map: `{"id": message.a}`, MapTo: "rows-value", Errors: Errors{Ordering: Block, Attempts: 3},
		Sink: Sink{URL: "postgres://u:secret@h/db", Table: "t", Mode: Upsert, Key: []string{"id"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	again, err := parse(got.String()) // JSON is YAML
	if err != nil || !equal(got, again) {
		t.Errorf("read back: %v, %v", again, err)
	}

	got, err = parse("source: {topic: orders}\nsink: {url: 'sqlite:x.db'}\n")
	if err != nil {
		t.Fatal(err)
	}
	want = Pipeline{
		Name:   "orders",
		Source: Source{Topic: "orders", Group: "orders", Broker: "nats://n:4222", Registry: "http://n", Until: Stopped},
		Batch:  Batch{Count: 5000, Bytes: 4_000_000, Linger: Duration(500 * time.Millisecond)},
		Errors: Errors{Ordering: Skip, Attempts: 10, DeadLetters: "orders.orders.dlq"},
		Sink:   Sink{URL: "sqlite:x.db", Table: "orders", Mode: Append},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRefused(t *testing.T) {
	const good = "source: {topic: t}\nsink: {url: 'sqlite:x.db'}\n"
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", `dir/orders.yaml: not YAML: yaml: no documents`}, {"a comment", "# later\n", `dir/orders.yaml`},
		{"no YAML", "source: [\n", `dir/orders.yaml:2:`},
		{"two documents", good + "---\n" + good, `dir/orders.yaml`},
		{"typo", "source: {topic: t}\nsnik: {}\nsink:\n  url: sqlite:x.db\n  tabel: t\n", `dir/orders.yaml:2:1: /snik: expected a field of the schema, found the unknown field "snik"; did you mean "sink"?
dir/orders.yaml:5:3: /sink/tabel: expected a field of the schema, found the unknown field "tabel"; did you mean "table"?`},
		{"missing", "source:\n  group: g\nsink: {url: 'sqlite:x'}\n", `dir/orders.yaml:1:1: /source/topic: expected`},
		{"no mapping", "- a\n", `dir/orders.yaml:1:1: /: expected object`},
		{"kind", good + "batch: {count: many}\n", `dir/orders.yaml:3:16: /batch/count: expected 32-bit integer, found string "many"; it is the most records of a batch, as a number`},
		{"duration", good + "batch:\n  linger: 5\n", `dir/orders.yaml:4:11: /batch/linger: expected string, found number 5; it is how long the first record of a batch waits, as in 500ms`},
		{"enum", "source: {topic: t}\nsink: {url: 'sqlite:x.db', mode: upsertt}\n", `dir/orders.yaml:2:34: /sink/mode: expected one of "append", "upsert", found string "upsertt"; did you mean "upsert"?`},
		{"alias", "source: &a {topic: t}\nsink: *a\n", `dir/orders.yaml:2:7: /sink: expected a value, found a reference`},
		{"twice", good + "sink: {}\n", `dir/orders.yaml:3:1`},
		{"number as name", good + "1: 2\n", `dir/orders.yaml:3:1: /1: expected a field of the schema`},
		{"deep", strings.Repeat("{a: ", 50) + strings.Repeat("}", 50), `expected at most 20 levels`},
		{"variable", "source: {topic: t}\nsink: {url: 'sqlite:${NO_SUCH}'}\n", `dir/orders.yaml:2:13: /sink/url: expected variables that are set, found NO_SUCH, which is not`},
		{"scheme", "source: {topic: t}\nsink: {url: 'mysql://u:hidden@h'}\n", `dir/orders.yaml:2:13: /sink/url: expected the URL of a sink`},
		{"itself", "source: {topic: t}\nsink: {url: 'topic:t'}\n", `dir/orders.yaml:2:13: /sink/url: expected another topic`},
		{"upsert to files", "source: {topic: t}\nsink: {url: 'parquet:d', mode: upsert}\n", `dir/orders.yaml:2:32: /sink/mode: expected append, found upsert`},
		{"key", "source: {topic: t}\nsink: {url: 'sqlite:d', key: [id]}\n", `dir/orders.yaml:2:30: /sink/key: expected no key columns`},
		{"soft delete", "source: {topic: t}\nsink: {url: 'sqlite:d', soft-delete: gone}\n", `/sink/soft-delete: expected no column for tombstones where rows are appended`},
		{"widen", "source: {topic: t}\nsink: {url: 'sqlite:d', widen: true}\n", `/sink/url: expected PostgreSQL, whose tables can be widened`},
		{"folders", "source: {topic: t}\nsink: {url: 'sqlite:d', partition-by: [id]}\n", `/sink/partition-by: expected a sink of Parquet files or PostgreSQL`},
		{"partitions", "source: {topic: t}\nsink: {url: 'postgres://h/d', partition-by: ['at:week']}\n", `/sink/partition-by: expected one column of a time, as COLUMN:hour, COLUMN:day, COLUMN:month or COLUMN:year, found ["at:week"]`},
		{"two columns", "source: {topic: t}\nsink: {url: 'postgres://h/d', partition-by: ['at:day', 'at:hour']}\n", `/sink/partition-by: expected one column of a time`},
		{"key apart", "source: {topic: t}\nsink: {url: 'postgres://h/d', partition-by: ['at:day'], mode: upsert, key: [id]}\n", `/sink/key: expected a key with "at" in it, by which the table is partitioned, found ["id"]`},
		{"ahead", "source: {topic: t}\nsink: {url: 'postgres://h/d', ahead: 3}\n", `/sink/ahead: expected a table of PostgreSQL with partitions, found none`},
		{"secret", "source: {topic: t}\nsink: {url: 'sqlite:d', secret: f}\n", `/sink/secret: expected a sink that is posted to`},
		{"letters with block", good + "errors: {ordering: block, dead-letters: d}\n", `dir/orders.yaml:3:41: /errors/dead-letters: expected none where a record that cannot pass blocks its partition, found "d"`},
		{"letters to the source", good + "errors: {dead-letters: t}\n", `dir/orders.yaml:3:24: /errors/dead-letters: expected a topic for dead letters alone, found "t", which is read or written`},
		{"letters to the sink", "source: {topic: t}\nsink: {url: 'topic:u'}\nerrors: {dead-letters: u}\n", `/errors/dead-letters: expected a topic for dead letters alone`},
		{"map to nothing", good + "map-to: x\n", `dir/orders.yaml:3:9: /map-to: expected map beside it`},
		{"keys", good + "batch: {keys: 3}\n", `dir/orders.yaml:3:15: /batch/keys: expected a sink that is posted to`},
		{"plain filter", good + "filter: message.a > mesage.b\n", `dir/orders.yaml:3:21: /filter: expected an expression of CEL, found a fault at line 1, column 13: undeclared reference to 'mesage'; it may name message`},
		{"quoted filter", good + "filter: 'message.a > mesage.b'\n", `dir/orders.yaml:3:22: /filter`},
		{"written filter", good + "filter: |\n   message.a >\n     mesage.b\n", `dir/orders.yaml:5:6: /filter: expected an expression of CEL, found a fault at line 2, column 3`},
		{"folded filter", good + "filter: >\n   message.a >\n   mesage.b\n", `dir/orders.yaml:3:9: /filter: expected an expression of CEL, found a fault at line 1, column 13`},
		{"map of no record", good + "map: '1'\n", `dir/orders.yaml:3:7: /map: expected an expression of CEL, found a fault at line 1, column 1: expected an expression that gives a record`},
		{"cut", good + "batch: {cut: message.a}\n", `dir/orders.yaml:3:14: /batch/cut: expected an expression of CEL, found a fault at line 1, column 1: undeclared reference to 'message'; it may name key`},
		{"end", "source: {topic: t, until: end}\nsink: {url: 'https://h/'}\n", `dir/orders.yaml:1:27: /source/until: expected stopped, found end`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parse(c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "hidden") {
				t.Errorf("shows a password: %v", err)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	load := func() ([]string, error) {
		all, err := Load(dir, Options{})
		var names []string
		for _, p := range all {
			names = append(names, p.Name)
		}
		return names, err
	}
	if _, err := load(); err == nil {
		t.Error("an empty folder was taken")
	}
	write("b.yml", "source: {topic: t}\nsink: {url: 'sqlite:x.db'}\n")
	write("a.yaml", "source: {topic: t}\nsink: {url: 'sqlite:x.db'}\n")
	write("notes.txt", "no pipeline")
	if names, err := load(); err != nil || !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("got %q, %v", names, err)
	}
	write("c.yaml", "source: {topic: t, group: a}\nsink: {url: 'sqlite:x.db'}\n")
	write("d.yaml", "name: a\nsource: {topic: u}\nsink: {url: 'sqlite:x.db'}\n")
	write("e.yaml", strings.Repeat("#", maxFile+1))
	_, err := load()
	var fault *Error
	if !errors.As(err, &fault) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"c.yaml: /source/group: expected a group of its own", "d.yaml: /name: expected a name of its own", "e.yaml: expected at most"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(whole)
	f.Add("source: {topic: t}\nsink: {url: 'sqlite:x.db'}\nbatch: {count: 1e300, rate: .nan}\n")
	f.Add("a: &a [*a, *a]")
	f.Add("{\"a\": 1, ? [b] : 2}")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parse(text)
		if err != nil {
			var fault *Error
			if !errors.As(err, &fault) {
				t.Fatalf("no place: %v", err)
			}
			return
		}
		if again, err := parse(p.String()); err != nil || !equal(p, again) {
			t.Fatalf("%s reads back as %s, %v", p, again, err)
		}
	})
}
