package diffing

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"penstock/stream"
)

// BenchmarkRestore brings the records of a log into the state, and, for comparison,
// the same pairs into its database by its own batches. PENSTOCK_KEYS says how many
// keys of 200 bytes there are; they come in the order of a hash.
func BenchmarkRestore(b *testing.B) {
	keys := 100_000
	if n, err := strconv.Atoi(os.Getenv("PENSTOCK_KEYS")); err == nil {
		keys = n
	}
	const chunk = 5000
	// fill makes the records from one on, into those of before.
	fill := func(records []stream.Record, from int) {
		for i := range records {
			n := uint64(from+i) * 0x9E3779B97F4A7C15
			e := entry{schema: 7, value: fmt.Appendf(nil, `{"id":"%020d","text":"%0150d"}`, n, rand.Uint64())}
			records[i] = stream.Record{Key: fmt.Appendf(nil, "%s%020d", entryRecord, n), Value: e.append(nil), Offset: int64(from + i)}
		}
	}
	for _, side := range []struct {
		name string
		do   func(s *store, records []stream.Record) error
	}{
		{"penstock", func(s *store, records []stream.Record) error {
			_, err := s.take(0, records, cursor{})
			return err
		}},
		{"pebble", func(s *store, records []stream.Record) error {
			batch := s.db.NewBatch()
			defer batch.Close()
			for _, r := range records {
				if err := batch.Set(rowKey('v', 0, string(r.Key[1:])), r.Value, nil); err != nil {
					return err
				}
			}
			return batch.Commit(pebble.NoSync)
		}},
	} {
		b.Run(side.name, func(b *testing.B) {
			records := make([]stream.Record, chunk)
			for b.Loop() {
				b.StopTimer()
				s, err := openStore(b.TempDir(), 64<<20, false, slog.New(slog.DiscardHandler))
				if err != nil {
					b.Fatal(err)
				}
				var early, late runtime.MemStats
				for from := 0; from < keys; from += chunk {
					fill(records, from)
					b.StartTimer()
					if err := side.do(s, records); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					if from == keys/10/chunk*chunk {
						runtime.ReadMemStats(&early)
					}
				}
				b.StartTimer()
				if err := s.db.Flush(); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				runtime.ReadMemStats(&late)
				b.ReportMetric(float64(early.Sys)/(1<<20), "MiB-early")
				b.ReportMetric(float64(late.Sys)/(1<<20), "MiB-late")
				if err := s.close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(keys)*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
		})
	}
}
