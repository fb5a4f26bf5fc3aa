package kafka

import (
	"bytes"
	"context"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/stream"
)

// The benchmarks do the same work by this package and by the client it stands
// on, against a fake broker in the process: what differs is what the seam costs.
// An operation is one record of 256 bytes, in batches of 1000.
const (
	benchBatch = 1000
	benchBytes = 256
)

func benchBroker(b *testing.B) (*Broker, []string) {
	b.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "t"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(cluster.Close)
	broker, err := Open(context.Background(), Config{Seeds: cluster.ListenAddrs()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { broker.Close() })
	b.SetBytes(benchBytes)
	b.ReportAllocs()
	return broker, cluster.ListenAddrs()
}

func BenchmarkPublish(b *testing.B) {
	key, value := []byte("key"), bytes.Repeat([]byte("v"), benchBytes)
	b.Run("penstock", func(b *testing.B) {
		broker, _ := benchBroker(b)
		records := make([]stream.Record, benchBatch)
		for i := range records {
			records[i] = stream.Record{Topic: "t", Key: key, Value: value}
		}
		b.ResetTimer()
		for n := b.N; n > 0; n -= benchBatch {
			if err := broker.Publish(context.Background(), records[:min(n, benchBatch)]...); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("raw", func(b *testing.B) {
		_, seeds := benchBroker(b)
		client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.DefaultProduceTopic("t"), kgo.ProducerLinger(0))
		if err != nil {
			b.Fatal(err)
		}
		defer client.Close()
		b.ResetTimer()
		for n := b.N; n > 0; n -= benchBatch {
			records := make([]*kgo.Record, min(n, benchBatch))
			for i := range records {
				records[i] = &kgo.Record{Key: key, Value: value}
			}
			if err := client.ProduceSync(context.Background(), records...).FirstErr(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkFetch(b *testing.B) {
	fill := func(b *testing.B, broker *Broker) {
		b.Helper()
		records := make([]stream.Record, benchBatch)
		for n := 0; n < b.N; {
			for i := range records {
				records[i] = stream.Record{Topic: "t", Key: []byte{byte(n), byte(n >> 8), byte(i)}, Value: bytes.Repeat([]byte("v"), benchBytes)}
			}
			if err := broker.Publish(context.Background(), records[:min(b.N-n, benchBatch)]...); err != nil {
				b.Fatal(err)
			}
			n += benchBatch
		}
		b.ResetTimer()
	}
	b.Run("penstock", func(b *testing.B) {
		broker, _ := benchBroker(b)
		fill(b, broker)
		src, err := broker.Open(context.Background(), stream.Subscription{Topic: "t", Group: "g"})
		if err != nil {
			b.Fatal(err)
		}
		for n := 0; n < b.N; {
			records, ack, err := src.Fetch(context.Background(), benchBatch)
			if err != nil {
				b.Fatal(err)
			}
			n += len(records)
			if err := ack(context.Background(), nil); err != nil {
				b.Fatal(err)
			}
		}
		if err := src.Close(); err != nil {
			b.Fatal(err)
		}
	})
	b.Run("raw", func(b *testing.B) {
		broker, seeds := benchBroker(b)
		fill(b, broker)
		client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"),
			kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.BlockRebalanceOnPoll(), kgo.AutoCommitMarks())
		if err != nil {
			b.Fatal(err)
		}
		for n := 0; n < b.N; {
			fetches := client.PollRecords(context.Background(), benchBatch)
			if err := fetches.Err(); err != nil {
				b.Fatal(err)
			}
			fetches.EachRecord(func(r *kgo.Record) {
				client.MarkCommitRecords(r)
				n++
			})
			client.AllowRebalance()
		}
		if err := client.CommitMarkedOffsets(context.Background()); err != nil {
			b.Fatal(err)
		}
		client.CloseAllowingRebalance()
	})
}
