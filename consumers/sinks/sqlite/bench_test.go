package sqlite_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"penstock/consumers/sinks/sinktest"
	"penstock/consumers/sinks/sqlite"
	"penstock/consumers/sinks/sqlsink"
)

func BenchmarkFlights(b *testing.B) {
	b.Run("penstock", func(b *testing.B) {
		sink, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "t.db"), sqlsink.Config{Table: "flights", Pipeline: "p"})
		if err != nil {
			b.Fatal(err)
		}
		defer sink.Close()
		sinktest.Benchmark(b, sink)
	})
	for _, n := range []int{1, 10, 50, 500} { // in search of its best
		b.Run(fmt.Sprint("raw by ", n), func(b *testing.B) { raw(b, n) })
	}
}

// raw does the same by database/sql and the driver, n rows in a statement:
// rows that are there already, no position.
func raw(b *testing.B, n int) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(b.TempDir(), "t.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	kinds := strings.Repeat(" INTEGER, ", 14) + strings.Repeat(" TEXT, ", 5) + " BOOLEAN"
	var columns []string
	for i, k := range strings.Split(kinds, ",") {
		columns = append(columns, sinktest.FlightColumns[i]+k)
	}
	if _, err := db.Exec("CREATE TABLE flights (" + strings.Join(columns, ",") + ")"); err != nil {
		b.Fatal(err)
	}
	row := "(?" + strings.Repeat(", ?", len(columns)-1) + ")"
	insert := "INSERT INTO flights VALUES " + row + strings.Repeat(", "+row, n-1)
	rows, _ := sinktest.Flights(sinktest.BenchmarkRows)
	transaction := func() error {
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		stmt, err := tx.Prepare(insert)
		if err != nil {
			return err
		}
		defer stmt.Close()
		args := make([]any, 0, n*len(columns))
		for i, r := range rows {
			at := len(args)
			args = append(args, r...)
			args[at+18] = r[18].(time.Time).Format("2006-01-02T15:04:05.000000Z")
			if (i+1)%n == 0 {
				if _, err := stmt.Exec(args...); err != nil {
					return err
				}
				args = args[:0]
			}
		}
		return tx.Commit()
	}
	for b.Loop() {
		if err := transaction(); err != nil {
			b.Fatal(err)
		}
	}
	sinktest.Rate(b)
}
