package nats

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"penstock/stream"
)

func benchBroker(b *testing.B) (*Broker, string) {
	b.Helper()
	broker, err := OpenDir(b.Context(), b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { broker.Close() })
	if err := broker.Create(b.Context(), "bench", 4); err != nil {
		b.Fatal(err)
	}
	return broker, "bench"
}

func benchRecords(topic string, n int) []stream.Record {
	records := make([]stream.Record, n)
	for i := range records {
		records[i] = stream.Record{Topic: topic, Key: []byte(strconv.Itoa(i)), Value: make([]byte, 256)}
	}
	return records
}

// BenchmarkPublish publishes records of 256 bytes to the embedded server, which
// syncs every batch: in calls of n records, from so many callers.
func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct{ records, callers int }{{1, 1}, {1, 4}, {1, 16}, {1, 256}, {2, 1}, {4, 1}, {16, 1}, {1000, 1}, {1000, 4}} {
		b.Run(fmt.Sprintf("records=%d/callers=%d", c.records, c.callers), func(b *testing.B) {
			broker, topic := benchBroker(b)
			records := benchRecords(topic, c.records)
			b.SetParallelism((c.callers + 1) / 2)
			if c.callers == 1 {
				for b.Loop() {
					if err := broker.Publish(b.Context(), records...); err != nil {
						b.Fatal(err)
					}
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := broker.Publish(b.Context(), records...); err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ReportMetric(float64(b.N*c.records)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// BenchmarkFetch reads records of 256 bytes and acknowledges them.
func BenchmarkFetch(b *testing.B) {
	broker, topic := benchBroker(b)
	const n = 100_000
	for range n / 1000 {
		if err := broker.Publish(b.Context(), benchRecords(topic, 1000)...); err != nil {
			b.Fatal(err)
		}
	}
	group := 0
	for _, o := range []stream.Owner{nil, oldest{}} {
		b.Run(fmt.Sprintf("owner=%v", o != nil), func(b *testing.B) {
			for b.Loop() {
				group++
				src, err := broker.Open(b.Context(), stream.Subscription{Topic: topic, Group: strconv.Itoa(group), Owner: o})
				if err != nil {
					b.Fatal(err)
				}
				for got := 0; got < n; {
					records, ack, err := src.Fetch(b.Context(), 1000)
					if err != nil {
						b.Fatal(err)
					}
					got += len(records)
					if err := ack(b.Context(), nil); err != nil {
						b.Fatal(err)
					}
				}
				src.Close()
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// oldest is an Owner that has no position.
type oldest struct{}

func (oldest) Assigned(context.Context, []stream.Partition) (map[stream.Partition]int64, error) {
	return nil, nil
}
func (oldest) Lost(context.Context, []stream.Partition) error { return nil }
