package diffing

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/consumers"
	"penstock/consumers/sinks/sqlite"
	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
	"penstock/schemas/jsonschema"
	"penstock/servertest"
	"penstock/stream"
)

// crashEvents are patches that give another value if one is left out or applied
// twice.
func crashEvents(from, size int) consumers.Batch {
	var events []string
	for i := from; i < min(from+size, crashRecords); i++ {
		key := fmt.Sprintf("k%d", i%13)
		switch {
		case i < 13 || i%50 < 13 && i%13 == 5: // new, or gone before
			events = append(events, fmt.Sprintf(`%s=[{"op":"add","path":"","value":{"n":[%d]}}]`, key, i))
		case i%13 == 5 && (i+13)%50 < 13:
			events = append(events, key+`=[{"op":"remove","path":""}]`)
		default:
			events = append(events, fmt.Sprintf(`%s=[{"op":"add","path":"/n/0","value":%d}]`, key, i))
		}
	}
	return batchOf(int64(from), events...)
}

// crashTable opens the table that is filled.
func crashTable(ctx context.Context, file string) (*sqlsink.Sink, error) {
	return sqlite.Open(ctx, file, sqlsink.Config{Table: "states", Pipeline: "g", Mode: sqlsink.Upsert})
}

func childApplies(ctx context.Context, broker Broker, p stream.Partition, args []string, times int) error {
	sink, err := crashTable(ctx, args[5])
	if err != nil {
		return err
	}
	defer sink.Close()
	plain, err := jsonschema.Format{}.Parse("{}", nil)
	if err != nil {
		return err
	}
	a, err := OpenApplier(args[1], ApplyConfig{
		Broker: broker, Name: "g", Format: JSONPatch, Sink: sink,
		Schema: func(context.Context) (schemas.Registered, error) { return schemas.Registered{Schema: plain}, nil },
	})
	if err != nil {
		return err
	}
	defer a.Close()
	if err := killedAt(a.d, args[3], times); err != nil {
		return err
	}
	return writeAll(ctx, a, p, crashBatch-times, crashEvents)
}

// Killed behind any step, with the folder there or not, an applier leaves the table
// that one leaves which nobody disturbed.
func TestKilledApplier(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	brokers(t, func(t *testing.T, address string) {
		dir, clean, file := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "clean.db"), filepath.Join(t.TempDir(), "killed.db")
		topic := servertest.Name(t)
		kills := map[string]int{}
		run := func(topic, dir, file, step string, times int) {
			t.Helper()
			if err := runChild(t, kills, exe, step, address, dir, topic, step, strconv.Itoa(times), file); err != nil {
				t.Fatal(err)
			}
		}
		steps := []string{"compared", "emitted", "logged", "emitted", "stored", "emitted", "restored"}
		for i, step := range steps {
			run(topic, dir, file, step, 1+i%2)
			if i%2 == 1 {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
		}
		run(topic, dir, file, "never", 1)
		run(topic+".clean", filepath.Join(t.TempDir(), "state"), clean, "never", 1)
		if diff := cmp.Diff(map[string]int{"compared": 1, "emitted": 3, "logged": 1, "stored": 1, "restored": 1}, kills); diff != "" {
			t.Errorf("kills: %s", diff)
		}
		want, got := rowsOf(t, clean), rowsOf(t, file)
		if len(want) < 12 {
			t.Errorf("only %d rows", len(want))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("rows (-undisturbed +killed):\n%s", diff)
		}
	})
}

// rowsOf reads the table that is filled.
func rowsOf(t *testing.T, file string) map[string]string {
	t.Helper()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), "SELECT record_key, value FROM states")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := map[string]string{}
	for rows.Next() {
		var key, value string
		if err := rows.Scan(&key, &value); err != nil {
			t.Fatal(err)
		}
		all[key] = value
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}
