package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/stream"
)

// Span implements stream.Spanner.
func (b *Broker) Span(ctx context.Context, topic, input string, more ...string) (stream.Transactor, stream.Position, error) {
	return b.resume(ctx, topic, input, more...)
}

// CreateLog implements stream.Logs: a compacted topic of one partition.
func (b *Broker) CreateLog(ctx context.Context, name string) error {
	if err := b.usable(ctx); err != nil {
		return fmt.Errorf("create log %q: %w", name, err)
	}
	asked, cancel := b.ask(ctx)
	defer cancel()
	config := map[string]*string{"cleanup.policy": new("compact")}
	_, err := b.admin.CreateTopic(asked, 1, -1, config, name)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create log %q: %w", name, translate(ctx, err))
	}
	return b.Create(ctx, name, 1) // waits for its leader
}

// ReadLog implements stream.Logs.
func (b *Broker) ReadLog(ctx context.Context, name string, from int64, read func([]stream.Record) error) (next int64, err error) {
	ranges, err := b.Ranges(ctx, name)
	if err != nil {
		return from, err
	}
	r := ranges[0]
	if r.End <= from || r.End == r.Start {
		return from, nil
	}
	reader, err := kgo.NewClient(append(b.config.options(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: {0: kgo.NewOffset().At(max(from, r.Start))}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)...)
	if err != nil {
		return from, fmt.Errorf("read log %q: %w", name, err)
	}
	defer reader.Close()
	for from < r.End {
		fetches := reader.PollRecords(ctx, 10_000)
		if err := fetches.Err(); err != nil {
			return from, fmt.Errorf("read log %q: %w", name, translate(ctx, err))
		}
		records := fromKafka(fetches.Records())
		for len(records) > 0 && records[len(records)-1].Offset >= r.End {
			records = records[:len(records)-1]
			from = r.End
		}
		if len(records) == 0 {
			continue
		}
		if err := read(records); err != nil {
			return from, fmt.Errorf("read log %q: %w", name, err)
		}
		from = max(from, records[len(records)-1].Offset+1)
	}
	return from, nil
}

var (
	_ stream.Spanner = (*Broker)(nil)
	_ stream.Logs    = (*Broker)(nil)
)
