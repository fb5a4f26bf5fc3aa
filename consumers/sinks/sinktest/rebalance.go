package sinktest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"penstock/consumers"
	"penstock/consumers/microbatch"
	"penstock/stream"
)

// Rebalance has members of one group come and go while they microbatch a topic
// of broker by sinks that are opened at an address, and compares what they stored
// with what was published.
func Rebalance(t *testing.T, open Opener, address string, rows Rows, broker stream.Broker) {
	const partitions, records, generations = 4, 3000, 12
	ctx := t.Context()
	if err := broker.Create(ctx, "log", partitions); err != nil {
		t.Fatal(err)
	}
	publish := func(from, to int) {
		var batch []stream.Record
		for i := from; i < to; i++ {
			r := logRecord(0, int64(i))
			r.Key = fmt.Append(nil, i)
			batch = append(batch, r)
		}
		if err := broker.Publish(ctx, batch...); err != nil {
			t.Fatal(err)
		}
	}
	var members []func()
	join := func() {
		sink, err := open(ctx, address)
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
	// Looking costs a broker consumers of its own.
	tick, deadline := time.Tick(250*time.Millisecond), time.Now().Add(time.Minute)
	for len(rows(t)) < records && time.Now().Before(deadline) {
		<-tick
	}
	for _, leave := range members {
		leave()
	}
	var want []Row
	for i := range int64(records) {
		want = append(want, Row{0, i})
	}
	compare(t, want, rows(t))
}
