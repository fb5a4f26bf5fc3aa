package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"penstock/consumers/sinks/postgres"
	"penstock/consumers/sinks/sinktest"
	"penstock/consumers/sinks/sqlsink"
	"penstock/servertest"
)

func BenchmarkFlights(b *testing.B) {
	server := servertest.Postgres(b)
	b.Run("penstock", func(b *testing.B) { ours(b, server, sqlsink.Config{}) })
	b.Run("raw", func(b *testing.B) { raw(b, server) })
	b.Run("penstock upsert", func(b *testing.B) {
		ours(b, server, sqlsink.Config{Mode: sqlsink.Upsert, Key: []string{"flight", "time_hour"}})
	})
}

func ours(b *testing.B, server string, c sqlsink.Config) {
	c.Table, c.Pipeline = "flights", "p"
	sink, err := postgres.Open(b.Context(), schema(b, server).url, c)
	if err != nil {
		b.Fatal(err)
	}
	defer sink.Close()
	sinktest.Benchmark(b, sink)
}

// raw does the same by pgx: rows that are there already, no position.
func raw(b *testing.B, server string) {
	d := schema(b, server)
	d.Exec(b, `CREATE TABLE flights (year bigint, month bigint, day bigint, dep_time bigint, sched_dep_time bigint, dep_delay bigint,
		arr_time bigint, sched_arr_time bigint, arr_delay bigint, flight bigint, air_time bigint, distance bigint, hour bigint, minute bigint,
		carrier text, tailnum text, origin text, dest text, time_hour timestamptz, cancelled boolean)`)
	rows, _ := sinktest.Flights(sinktest.BenchmarkRows)
	for b.Loop() {
		tx, err := d.conn.Begin(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := tx.CopyFrom(b.Context(), pgx.Identifier{"flights"}, sinktest.FlightColumns, pgx.CopyFromRows(rows)); err != nil {
			b.Fatal(err)
		}
		if err := tx.Commit(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	sinktest.Rate(b)
}
