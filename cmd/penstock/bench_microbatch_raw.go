package main

// The raw side of 'penstock bench microbatch': one goroutine that polls, decodes
// and stores, with no guarantee of anything.

import (
	"context"
	"errors"
	"io"
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

// rawMicrobatch reads n flights and stores them in batches of so many; the time
// counts from the first fetch on.
func rawMicrobatch(ctx context.Context, client *kgo.Client, n, batch int, decode func([]byte, *rawFlight) error, store func([]rawFlight) error) (time.Duration, error) {
	var start time.Time
	flights := make([]rawFlight, 0, batch)
	for got := 0; got < n; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return 0, err
		}
		if start.IsZero() {
			start = time.Now()
		}
		for records := fetches.RecordIter(); !records.Done(); {
			flights = append(flights, rawFlight{})
			if err := decode(records.Next().Value, &flights[len(flights)-1]); err != nil {
				return 0, err
			}
			if got++; len(flights) == batch || got == n {
				if err := store(flights); err != nil {
					return 0, err
				}
				flights = flights[:0]
			}
		}
	}
	return time.Since(start), nil
}

// rawCopy appends flights to a table.
func rawCopy(ctx context.Context, conn *pgx.Conn, table string) func([]rawFlight) error {
	return func(flights []rawFlight) error {
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
func rawParquet(create func() (io.WriteCloser, error)) func([]rawFlight) error {
	return func(flights []rawFlight) error {
		file, err := create()
		if err != nil {
			return err
		}
		w := parquet.NewGenericWriter[rawFlight](file, parquet.Compression(&parquet.Snappy))
		_, err = w.Write(flights)
		return errors.Join(err, w.Close(), file.Close())
	}
}
