package main

import (
	"bytes"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"penstock/servertest"
)

// A topic is compared with the table that a sink made of it, as it is and after
// somebody has changed it.
func TestCompareWithTable(t *testing.T) {
	at := []string{"--broker", "embedded:" + t.TempDir(), "--registry", memoryRegistry(t)}
	call(t, append([]string{"produce", "weather", "--sample", "weather", "-n", "30"}, at...)...)
	compare := func(code int, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		args = append([]string{"consume", "diff", "--compare"}, args...)
		if got := run(t.Context(), append(args, at...), strings.NewReader(""), &out, &errs); got != code {
			t.Errorf("%s: exit code %d, want %d: %s%s", args, got, code, out.String(), errs.String())
		}
		return out.String() + errs.String()
	}
	file, server := filepath.Join(t.TempDir(), "weather.db"), servertest.Postgres(t)
	for driver, c := range map[string]struct {
		source, to  string
		store, flag []string
		want        []string
	}{
		"sqlite": {file, "sqlite:" + file, nil, nil, []string{
			`different JFK [{"op":"replace","path":"/temp","value":1}]`, "missing   LGA {", `extra     XXX {"day":1,`, "\n1 the same, 1 missing in table ", ", 1 extra, 1 different, 0 left out",
		}},
		"pgx": {server, server, []string{"--key", "origin", "--soft-delete", "gone"}, []string{"--key", "origin", "--soft-delete", "gone", "--ignore", "/temp"}, []string{
			"missing   EWR {", "missing   LGA {", `extra     XXX {"day":1,`, "\n1 the same, 2 missing in table ", ", 1 extra, 0 different, 0 left out",
		}},
	} {
		t.Run(driver, func(t *testing.T) {
			name := servertest.Name(t)
			table := c.to + "#" + name
			call(t, append(append([]string{"consume", "microbatch", "weather", "--to", c.to, "--mode", "upsert", "--until", "end", "--group", name, "--table", name}, c.store...), at...)...)
			if out := compare(exitDone, slices.Concat([]string{"weather", table}, c.flag)...); !strings.HasPrefix(out, "3 the same, 0 missing in table "+name+" of ") || strings.Contains(out, "@") {
				t.Errorf("as it was: %s", out)
			}
			db, err := sql.Open(driver, c.source)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			statements := []string{`UPDATE %q SET temp = 1 WHERE origin = 'JFK'`}
			if c.store == nil {
				statements = append(statements, `UPDATE %q SET record_key = CAST('XXX' AS BLOB) WHERE origin = 'LGA'`)
			} else {
				statements = append(statements, `UPDATE %q SET origin = 'XXX' WHERE origin = 'LGA'`, `UPDATE %q SET gone = CURRENT_TIMESTAMP WHERE origin = 'EWR'`)
			}
			for _, s := range statements {
				if _, err := db.ExecContext(t.Context(), fmt.Sprintf(s, name)); err != nil {
					t.Fatal(err)
				}
			}
			out := compare(exitNo, slices.Concat([]string{"weather", table}, c.flag)...)
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("after changes, want %s:\n%s", want, out)
				}
			}
			if out := compare(exitNo, slices.Concat([]string{table, "weather", "-o", "json"}, c.flag)...); !strings.Contains(out, `"extra":`+strings.Fields(c.want[len(c.want)-2])[3]+`,`) {
				t.Errorf("the other way: %s", out)
			}
		})
	}
	for _, wrong := range [][]string{
		{"weather", "sqlite:" + file}, {"sqlite:a#a", "sqlite:a#b"}, {"weather", "weather", "--soft-delete", "gone"}, {"weather", "sqlite:a#a", "--key", "nowhere"},
	} {
		compare(exitUsage, wrong...)
	}
	if out := compare(exitFailed, "weather", "sqlite:"+file+"#nowhere"); !strings.Contains(out, `there is no table "nowhere"`) {
		t.Errorf("a table that is not there: %s", out)
	}
	if out := compare(exitFailed, "weather", "sqlite:"+file+"#penstock_positions"); !strings.Contains(out, `column "record_key": expected a key, found nothing; name the column that is the key with --key`) {
		t.Errorf("a table without keys: %s", out)
	}
}

// A new version of the values' schema makes one of the events', to which readers of
// the one before may go over.
func TestRegisteredEvents(t *testing.T) {
	dir, url := t.TempDir(), memoryRegistry(t)
	at := []string{"--broker", "embedded:" + t.TempDir(), "--registry", url}
	with := func(args ...string) string { t.Helper(); return call(t, append(args, at...)...) }
	for i, fields := range []string{`{"name":"id","type":"string"}`, `{"name":"id","type":"string"},{"name":"note","type":["null","string"],"default":null}`} {
		schema := put(t, dir, fmt.Sprintf("v%d.avsc", i), `{"type":"record","name":"Order","fields":[`+fields+`,{"name":"n","type":"int"}]}`)
		with("schema", "register", schema, "--subject", "orders-value")
		with("produce", "orders", put(t, dir, "events.jsonl", fmt.Sprintf("{\"id\":\"a\",\"n\":%d}\n{\"id\":\"b%d\",\"n\":1}\n", i, i)), "--key", "id")
		with("consume", "diff", "orders", "--to", "topic:changes", "--registered", "--until", "end", "--state", filepath.Join(dir, "state"))
	}
	out := with("consume", "tail", "changes", "--until", "end", "-o", "json")
	if strings.Count(out, "\n") != 4 || !strings.Contains(out, `"value":{"after":{"id":"a","n":1,"note":null},"before":{"id":"a","n":0,"note":null},"op":"u"`) {
		t.Errorf("events: %s", out)
	}
	if out := with("schema", "changelog", "changes-value"); !strings.Contains(out, "note") {
		t.Errorf("the schemas: %s", out)
	}
	if out := with("consume", "apply", "changes", "--to", "topic:orders.again", "--schema", "orders-value", "--until", "end", "--state", filepath.Join(dir, "state")); !strings.Contains(out, " 0 set aside") {
		t.Errorf("applied: %s", out)
	}
	if out := with("consume", "diff", "--compare", "orders", "orders.again", "--ignore", "/note"); !strings.Contains(out, "3 the same, 0 missing") {
		t.Errorf("compared: %s", out)
	}
}
