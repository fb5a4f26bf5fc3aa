package sinktest

import (
	"testing"
	"time"

	"penstock/consumers"
	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
	"penstock/stream"
)

// FlightColumns names the 20 columns of Flights.
var FlightColumns = []string{
	"year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay", "flight",
	"air_time", "distance", "hour", "minute", "carrier", "tailnum", "origin", "dest", "time_hour", "cancelled",
}

// Flights makes n flights, as rows and as the messages that give those rows.
func Flights(n int) (rows [][]any, messages []consumers.Message) {
	schema := Record()
	for i, name := range FlightColumns {
		node := schemas.Node{Kind: schemas.Int, Bits: 32}
		switch {
		case i == 19:
			node = schemas.Node{Kind: schemas.Bool}
		case i == 18:
			node = schemas.Node{Kind: schemas.Int, Bits: 64, Logical: schemas.Timestamp}
		case i >= 14:
			node = schemas.Node{Kind: schemas.String}
		}
		f := Field(name, node)
		f.Required = i != 3 && i != 5 // of flights that were cancelled
		schema.Tree.Fields = append(schema.Tree.Fields, f)
	}
	start := time.Date(2013, 1, 1, 5, 0, 0, 0, time.UTC)
	for i := range n {
		cancelled := i%40 == 0
		row := make([]any, 0, len(FlightColumns))
		for c := range 14 {
			row = append(row, int32(i*(c+1)%2400))
		}
		if cancelled {
			row[3], row[5] = nil, nil
		}
		row = append(row, "UA", "N14228", "EWR", "IAH", start.Add(time.Duration(i)*time.Minute), cancelled)
		data := make(map[string]any, len(row))
		for c, name := range FlightColumns {
			data[name] = row[c]
		}
		rows = append(rows, row)
		messages = append(messages, Message(0, 1, schema, data))
	}
	return rows, messages
}

// BenchmarkRows is how many rows are written in one transaction.
const BenchmarkRows = 5000

// Benchmark writes flights by a sink, in transactions of BenchmarkRows.
func Benchmark(b *testing.B, sink *sqlsink.Sink) {
	_, messages := Flights(BenchmarkRows)
	p := stream.Partition{Topic: "events"}
	if _, err := sink.Assigned(b.Context(), []stream.Partition{p}); err != nil {
		b.Fatal(err)
	}
	at := int64(0)
	for b.Loop() {
		batch := Batch(at, at+BenchmarkRows, messages...)
		for i := range messages {
			messages[i].Offset = at + int64(i)
		}
		if err := sink.Write(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		at += BenchmarkRows
	}
	Rate(b)
}

// Rate reports rows a second.
func Rate(b *testing.B) {
	b.ReportMetric(float64(b.N)*BenchmarkRows/b.Elapsed().Seconds(), "rows/s")
}
