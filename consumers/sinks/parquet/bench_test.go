package parquet_test

import (
	"testing"

	"penstock/consumers/sinks/parquet"
	"penstock/consumers/sinks/sinktest"
	"penstock/stream"
)

// BenchmarkWrite writes files of flights to a disk.
func BenchmarkWrite(b *testing.B) {
	s, err := parquet.Open(b.Context(), b.TempDir(), parquet.Config{Pipeline: "p"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Assigned(b.Context(), []stream.Partition{sinktest.Partition(0)}); err != nil {
		b.Fatal(err)
	}
	const rows = 25_000
	_, messages := sinktest.Flights(rows)
	at := int64(0)
	for b.Loop() {
		for i := range messages {
			messages[i].Offset = at + int64(i)
		}
		if err := s.Write(b.Context(), sinktest.Batch(at, at+rows, messages...)); err != nil {
			b.Fatal(err)
		}
		at += rows
	}
	b.ReportMetric(float64(b.N)*rows/b.Elapsed().Seconds(), "rows/s")
}
