package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"penstock/stream"
)

// trim moves the end of each range behind the last record before it. Who reads
// up to the end would wait for ever for a record in the place of a marker.
func (b *Broker) trim(ctx context.Context, name string, t *topic, ranges []stream.Range) error {
	var leaders map[int32]int32
	for i := range ranges {
		r := &ranges[i]
		for back := int64(1); r.Start < r.End; back *= 4 {
			if leaders == nil {
				m, err := b.admin.Metadata(ctx, name)
				if err != nil {
					return translate(ctx, err)
				}
				leaders = map[int32]int32{}
				for _, p := range m.Topics[name].Partitions {
					leaders[p.Partition] = p.Leader
				}
			}
			from := max(r.Start, r.End-back)
			last, err := b.lastRecord(ctx, name, t, leaders[int32(i)], int32(i), from, r.End)
			if moved(err) && wait(ctx) {
				leaders, back = nil, max(back/4, 1)
				continue
			}
			if err != nil {
				return translate(ctx, fmt.Errorf("partition %d: %w", i, err))
			}
			if last >= 0 {
				r.End, r.Records = last+1, last+1-r.Start
				break
			}
			if from == r.Start {
				r.Start, r.Records = r.End, 0 // it holds none
			}
		}
	}
	return nil
}

// moved reports whether an error says that a partition has another leader, or none
// yet.
func moved(err error) bool {
	return kerr.IsRetriable(err) && !errors.Is(err, kerr.UnknownTopicOrPartition) && !errors.Is(err, kerr.UnknownTopicID)
}

// wait gives a new leader a moment, and says whether ctx, which bounds how long one
// is looked for, still holds.
func wait(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(50 * time.Millisecond):
		return true
	}
}

// lastRecord is the offset of the last committed record of a partition from an
// offset up to, not including, end; -1 if there is none.
func (b *Broker) lastRecord(ctx context.Context, name string, t *topic, leader, partition int32, from, end int64) (int64, error) {
	const fetchBytes = 1 << 20
	last := int64(-1)
	for from < end {
		req := kmsg.NewPtrFetchRequest()
		req.ReplicaID, req.SessionEpoch, req.IsolationLevel = -1, -1, 1
		req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 100, 1, fetchBytes
		of := kmsg.NewFetchRequestTopic()
		of.Topic, of.TopicID = name, t.id
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, from, fetchBytes
		of.Partitions = append(of.Partitions, p)
		req.Topics = append(req.Topics, of)
		raw, err := b.client.Broker(int(leader)).RetriableRequest(ctx, req)
		if err != nil {
			return 0, err
		}
		resp := raw.(*kmsg.FetchResponse)
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return 0, err
		}
		if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
			return 0, errors.New("the answer names no partition")
		}
		part, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
			Offset: from, IsolationLevel: kgo.ReadCommitted(), Topic: name, Partition: partition,
		}, &resp.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
		if part.Err != nil {
			return 0, part.Err
		}
		for _, r := range part.Records {
			if r.Offset < end {
				last = r.Offset
			}
		}
		if next <= from {
			break // compaction has taken what was there
		}
		from = next
	}
	return last, nil
}
