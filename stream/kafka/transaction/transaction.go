// Package transaction ends the transactions of a Kafka client.
package transaction

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// End ends the transaction of a client to which the broker has acknowledged these
// records, and no others.
//
// A client sends to a topic that is new to it shortly before it notes that topic's
// partitions, and a transaction that ends in between has none for it: what was to
// be a commit becomes an abort, without an error. So End waits until the partitions
// of the records are noted.
func End(ctx context.Context, client *kgo.Client, how kgo.TransactionEndTry, records ...*kgo.Record) error {
	for _, r := range records {
		for {
			if leader, _, _ := client.PartitionLeader(r.Topic, r.Partition); leader >= 0 {
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
	}
	return client.EndTransaction(ctx, how)
}
