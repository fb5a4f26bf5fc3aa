package main

// The raw side of 'penstock bench microbatch': one goroutine that polls, decodes
// and stores, with no guarantee of anything.

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/parquet-go/parquet-go"
	"github.com/twmb/franz-go/pkg/kgo"
)

// rawFlight is the struct that a program would declare for the flights.
type rawFlight struct {
	Year         int32     `avro:"year" json:"year" parquet:"year"`
	Month        int32     `avro:"month" json:"month" parquet:"month"`
	Day          int32     `avro:"day" json:"day" parquet:"day"`
	DepTime      *int32    `avro:"dep_time" json:"dep_time" parquet:"dep_time,optional"`
	SchedDepTime int32     `avro:"sched_dep_time" json:"sched_dep_time" parquet:"sched_dep_time"`
	DepDelay     *int32    `avro:"dep_delay" json:"dep_delay" parquet:"dep_delay,optional"`
	ArrTime      *int32    `avro:"arr_time" json:"arr_time" parquet:"arr_time,optional"`
	SchedArrTime int32     `avro:"sched_arr_time" json:"sched_arr_time" parquet:"sched_arr_time"`
	ArrDelay     *int32    `avro:"arr_delay" json:"arr_delay" parquet:"arr_delay,optional"`
	Carrier      string    `avro:"carrier" json:"carrier" parquet:"carrier"`
	Flight       int32     `avro:"flight" json:"flight" parquet:"flight"`
	TailNum      *string   `avro:"tailnum" json:"tailnum" parquet:"tailnum,optional"`
	Origin       string    `avro:"origin" json:"origin" parquet:"origin"`
	Dest         string    `avro:"dest" json:"dest" parquet:"dest"`
	AirTime      *int32    `avro:"air_time" json:"air_time" parquet:"air_time,optional"`
	Distance     int32     `avro:"distance" json:"distance" parquet:"distance"`
	Hour         int32     `avro:"hour" json:"hour" parquet:"hour"`
	Minute       int32     `avro:"minute" json:"minute" parquet:"minute"`
	TimeHour     time.Time `avro:"time_hour" json:"time_hour" parquet:"time_hour,timestamp(microsecond)"`
	Cancelled    bool      `avro:"cancelled" json:"cancelled" parquet:"cancelled"`
}

var rawColumns = []string{
	"year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay", "carrier",
	"flight", "tailnum", "origin", "dest", "air_time", "distance", "hour", "minute", "time_hour", "cancelled",
}

// rawStore stores flights, or the records that they were read from.
type rawStore func(flights []rawFlight, records []*kgo.Record) error

// rawMicrobatch reads n flights and stores them in batches of so many; the time
// counts from the first fetch on.
func rawMicrobatch(ctx context.Context, client *kgo.Client, n, batch int, decode func([]byte, *rawFlight) error, store rawStore) (time.Duration, error) {
	var start time.Time
	flights, from := make([]rawFlight, 0, batch), make([]*kgo.Record, 0, batch)
	for got := 0; got < n; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return 0, err
		}
		if start.IsZero() {
			start = time.Now()
		}
		for records := fetches.RecordIter(); !records.Done(); {
			from, flights = append(from, records.Next()), append(flights, rawFlight{})
			if err := decode(from[len(from)-1].Value, &flights[len(flights)-1]); err != nil {
				return 0, err
			}
			if got++; len(flights) == batch || got == n {
				if err := store(flights, from); err != nil {
					return 0, err
				}
				flights, from = flights[:0], from[:0]
			}
		}
	}
	return time.Since(start), nil
}

// rawCopy appends flights to a table.
func rawCopy(ctx context.Context, conn *pgx.Conn, table string) rawStore {
	return func(flights []rawFlight, _ []*kgo.Record) error {
		_, err := conn.CopyFrom(ctx, pgx.Identifier{table}, rawColumns, pgx.CopyFromSlice(len(flights), func(i int) ([]any, error) {
			f := &flights[i]
			return []any{
				f.Year, f.Month, f.Day, f.DepTime, f.SchedDepTime, f.DepDelay, f.ArrTime, f.SchedArrTime, f.ArrDelay, f.Carrier,
				f.Flight, f.TailNum, f.Origin, f.Dest, f.AirTime, f.Distance, f.Hour, f.Minute, f.TimeHour, f.Cancelled,
			}, nil
		}))
		return err
	}
}

// rawParquet writes flights to a file of their own.
func rawParquet(create func() (*os.File, error)) rawStore {
	return func(flights []rawFlight, _ []*kgo.Record) error {
		file, err := create()
		if err != nil {
			return err
		}
		w := parquet.NewGenericWriter[rawFlight](file, parquet.Compression(&parquet.Snappy))
		_, err = w.Write(flights)
		return errors.Join(err, w.Close(), file.Sync(), file.Close())
	}
}

// rawSQLiteRows is how many rows go into one statement: the fastest of 1 to 500.
const rawSQLiteRows = 100

// rawSQLite appends flights to a table of a new file.
func rawSQLite(ctx context.Context, name string) (rawStore, func() error, error) {
	db, err := sql.Open("sqlite", "file:"+name+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, "CREATE TABLE flights ("+strings.Join(rawColumns, ", ")+")"); err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	row := "(?" + strings.Repeat(", ?", len(rawColumns)-1) + ")"
	statement := func(rows int) string { return "INSERT INTO flights VALUES " + row + strings.Repeat(", "+row, rows-1) }
	values := func(flights []rawFlight) []any {
		args := make([]any, 0, len(flights)*len(rawColumns))
		for i := range flights {
			f := &flights[i]
			args = append(args, f.Year, f.Month, f.Day, f.DepTime, f.SchedDepTime, f.DepDelay, f.ArrTime, f.SchedArrTime, f.ArrDelay, f.Carrier,
				f.Flight, f.TailNum, f.Origin, f.Dest, f.AirTime, f.Distance, f.Hour, f.Minute, f.TimeHour.Format("2006-01-02T15:04:05.000000Z"), f.Cancelled)
		}
		return args
	}
	insert := func(tx *sql.Tx, flights []rawFlight) error {
		whole, err := tx.PrepareContext(ctx, statement(rawSQLiteRows))
		if err != nil {
			return err
		}
		defer whole.Close()
		for ; err == nil && len(flights) >= rawSQLiteRows; flights = flights[rawSQLiteRows:] {
			_, err = whole.ExecContext(ctx, values(flights[:rawSQLiteRows])...)
		}
		if err == nil && len(flights) > 0 {
			_, err = tx.ExecContext(ctx, statement(len(flights)), values(flights)...)
		}
		return err
	}
	return func(flights []rawFlight, _ []*kgo.Record) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if err := insert(tx, flights); err != nil {
			return errors.Join(err, tx.Rollback())
		}
		return tx.Commit()
	}, db.Close, nil
}

// rawTopic produces the records that flights were read from, and waits for them.
func rawTopic(ctx context.Context, client *kgo.Client, topic string) rawStore {
	return func(_ []rawFlight, records []*kgo.Record) error {
		promise := kgo.AbortingFirstErrPromise(client)
		for _, r := range records {
			client.Produce(ctx, &kgo.Record{Topic: topic, Key: r.Key, Value: r.Value}, promise.Promise())
		}
		return promise.Err()
	}
}
