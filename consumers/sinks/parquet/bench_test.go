package parquet_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	parquetgo "github.com/parquet-go/parquet-go"

	"penstock/consumers/sinks/parquet"
	"penstock/consumers/sinks/sinktest"
	"penstock/stream"
)

// benchmarkRows is how many rows a file has.
const benchmarkRows = 25_000

// BenchmarkWrite writes files of flights to a disk, from cells.
func BenchmarkWrite(b *testing.B) {
	s, err := parquet.Open(b.Context(), b.TempDir(), parquet.Config{Pipeline: "p"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Assigned(b.Context(), []stream.Partition{sinktest.Partition(0)}); err != nil {
		b.Fatal(err)
	}
	_, messages := sinktest.Flights(benchmarkRows)
	for i := range messages {
		messages[i] = sinktest.Celled(messages[i])
	}
	at := int64(0)
	for b.Loop() {
		for i := range messages {
			messages[i].Offset = at + int64(i)
		}
		if err := s.Write(b.Context(), sinktest.Batch(at, at+benchmarkRows, messages...)); err != nil {
			b.Fatal(err)
		}
		at += benchmarkRows
	}
	b.ReportMetric(float64(b.N)*benchmarkRows/b.Elapsed().Seconds(), "rows/s")
}

// flight is one for parquet-go.
type flight struct {
	Year         int32     `parquet:"year"`
	Month        int32     `parquet:"month"`
	Day          int32     `parquet:"day"`
	DepTime      *int32    `parquet:"dep_time,optional"`
	SchedDepTime int32     `parquet:"sched_dep_time"`
	DepDelay     *int32    `parquet:"dep_delay,optional"`
	ArrTime      int32     `parquet:"arr_time"`
	SchedArrTime int32     `parquet:"sched_arr_time"`
	ArrDelay     int32     `parquet:"arr_delay"`
	Flight       int32     `parquet:"flight"`
	AirTime      int32     `parquet:"air_time"`
	Distance     int32     `parquet:"distance"`
	Hour         int32     `parquet:"hour"`
	Minute       int32     `parquet:"minute"`
	Carrier      string    `parquet:"carrier"`
	TailNum      string    `parquet:"tailnum"`
	Origin       string    `parquet:"origin"`
	Dest         string    `parquet:"dest"`
	TimeHour     time.Time `parquet:"time_hour,timestamp(microsecond)"`
	Cancelled    bool      `parquet:"cancelled"`
}

// BenchmarkRaw is parquet-go writing the same rows from structs.
func BenchmarkRaw(b *testing.B) {
	rows, _ := sinktest.Flights(benchmarkRows)
	flights := make([]flight, len(rows))
	for i, r := range rows {
		n := func(c int) int32 { return r[c].(int32) }
		pointer := func(c int) *int32 {
			if v, ok := r[c].(int32); ok {
				return &v
			}
			return nil
		}
		flights[i] = flight{n(0), n(1), n(2), pointer(3), n(4), pointer(5), n(6), n(7), n(8), n(9), n(10), n(11), n(12), n(13),
			r[14].(string), r[15].(string), r[16].(string), r[17].(string), r[18].(time.Time), r[19].(bool)}
	}
	dir := b.TempDir()
	for b.Loop() {
		file, err := os.Create(filepath.Join(dir, "flights.parquet"))
		if err != nil {
			b.Fatal(err)
		}
		w := parquetgo.NewGenericWriter[flight](file, parquetgo.Compression(&parquetgo.Snappy))
		_, err = w.Write(flights)
		if err = errors.Join(err, w.Close(), file.Sync(), file.Close()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*benchmarkRows/b.Elapsed().Seconds(), "rows/s")
}
