package sinktest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"penstock/consumers"
	"penstock/consumers/microbatch"
	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
	"penstock/stream"
)

// Rebalance has members of one group come and go while they microbatch a topic
// of broker into an append table without keys, and compares the table with what
// was published.
func Rebalance(t *testing.T, db Database, broker stream.Broker) {
	const partitions, records, generations = 4, 3000, 12
	ctx := t.Context()
	if err := broker.Create(ctx, "log", partitions); err != nil {
		t.Fatal(err)
	}
	publish := func(from, to int) {
		var batch []stream.Record
		for i := from; i < to; i++ {
			value := schemas.AppendHeader(nil, 1)
			value = binary.BigEndian.AppendUint32(value, 0)
			value = binary.BigEndian.AppendUint64(value, uint64(i))
			batch = append(batch, stream.Record{Topic: "log", Key: fmt.Append(nil, i), Value: value})
		}
		if err := broker.Publish(ctx, batch...); err != nil {
			t.Fatal(err)
		}
	}
	var members []func()
	join := func() {
		sink, err := db.Open(ctx, sqlsink.Config{Table: "log", Pipeline: "g"})
		if err != nil {
			t.Fatal(err)
		}
		src, err := broker.Open(ctx, stream.Subscription{Topic: "log", Group: "g", Owner: sink})
		if err != nil {
			t.Fatal(err)
		}
		batches := microbatch.Batch(src, microbatch.Policy{Count: 50, Linger: 2 * time.Millisecond})
		run, stop := context.WithCancel(ctx)
		var wait sync.WaitGroup
		wait.Go(func() {
			err := consumers.Run(run, batches, sink, consumers.Config{Registry: registry{newLogSchema()}})
			if err != nil && run.Err() == nil && !errors.Is(err, stream.ErrClosed) {
				t.Errorf("Run: %v", err)
			}
		})
		members = append(members, func() {
			if rand.IntN(2) == 0 { // it leaves in good order, or loses its source
				stop()
				wait.Wait()
			}
			_ = batches.Close()
			_ = src.Close()
			stop()
			wait.Wait()
			if err := sink.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	for g := range generations {
		publish(g*records/generations, (g+1)*records/generations)
		join()
		if len(members) > 2 || g%2 == 1 {
			i := rand.IntN(len(members))
			members[i]()
			members = append(members[:i], members[i+1:]...)
		}
	}
	if len(members) == 0 {
		join()
	}
	want := fmt.Sprintf("%d %d 0 %d", records, records, records-1)
	got := ""
	for deadline := time.Now().Add(time.Minute); got != want && time.Now().Before(deadline); {
		got = strings.Join(db.Query(t, "SELECT count(*), count(DISTINCT at), min(at), max(at) FROM log")[0], " ")
	}
	for _, leave := range members {
		leave()
	}
	got = strings.Join(db.Query(t, "SELECT count(*), count(DISTINCT at), min(at), max(at) FROM log")[0], " ")
	if got != want {
		t.Fatalf("rows, different rows, lowest, highest: %s, want %s", got, want)
	}
}
