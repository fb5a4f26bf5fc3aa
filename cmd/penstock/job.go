package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"penstock/consumers"
	"penstock/consumers/microbatch"
	"penstock/schemas"
	"penstock/stream"
)

// noPositions starts every partition at its oldest record.
type noPositions struct{}

func (noPositions) Assigned(context.Context, []stream.Partition) (map[stream.Partition]int64, error) {
	return nil, nil
}

func (noPositions) Lost(context.Context, []stream.Partition) error { return nil }

// finishLine is an owner that watches another's positions, and calls done when
// they have passed what the topic held at the start.
type finishLine struct {
	stream.Owner
	done func()

	mu   sync.Mutex
	ends map[int32]int64 // of the partitions still to go
}

// newFinishLine reads where the topic ends now. Without stop, done is never
// called; for a topic that holds nothing it is called at once.
func newFinishLine(ctx context.Context, broker stream.Broker, topic string, stop bool, owner stream.Owner, done func()) (*finishLine, error) {
	f := &finishLine{Owner: owner, done: done}
	if !stop {
		return f, nil
	}
	ranges, err := broker.Ranges(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("read topic %q: %w", topic, err)
	}
	f.ends = map[int32]int64{}
	for _, r := range ranges {
		if r.End > r.Start {
			f.ends[r.Partition.Number] = r.End
		}
	}
	if len(f.ends) == 0 {
		done()
	}
	return f, nil
}

// Assigned implements stream.Owner.
func (f *finishLine) Assigned(ctx context.Context, partitions []stream.Partition) (map[stream.Partition]int64, error) {
	positions, err := f.Owner.Assigned(ctx, partitions)
	for p, next := range positions {
		f.reached(p.Number, next)
	}
	return positions, err
}

// reached notes that a partition is done up to next.
func (f *finishLine) reached(partition int32, next int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if end, there := f.ends[partition]; there && next >= end {
		if delete(f.ends, partition); len(f.ends) == 0 {
			f.done()
		}
	}
}

// eachRecord hands what a topic holds now to do, each partition from its oldest
// record on, at most max records at a time.
func eachRecord(ctx context.Context, broker stream.Broker, topic, group string, max int, do func([]stream.Record) error) error {
	reading, done := context.WithCancel(ctx)
	defer done()
	finish, err := newFinishLine(ctx, broker, topic, true, noPositions{}, done)
	if err != nil || reading.Err() != nil {
		return err
	}
	src, err := broker.Open(ctx, stream.Subscription{Topic: topic, Group: group, Owner: finish})
	if err != nil {
		return fmt.Errorf("read topic %q: %w", topic, err)
	}
	defer src.Close()
	for reading.Err() == nil {
		records, ack, err := src.Fetch(reading, max)
		if err != nil {
			return err
		}
		if err := ack(ctx, nil); err != nil {
			return err
		}
		if err := do(records); err != nil {
			return err
		}
		last := records[len(records)-1]
		finish.reached(last.Partition, last.Offset+1)
	}
	return ctx.Err()
}

// job is what a consumer does with its batches.
type job struct {
	sink   consumers.Sink
	owner  stream.Owner       // nil: the broker keeps the positions
	policy *microbatch.Policy // nil: batches as they are fetched
	// until stops the job when it is through what the topic holds now.
	until        bool
	topic, group string
	deadLetters  string            // the topic for what cannot pass; empty: the usual one
	reader       consumers.Reader  // nil: as values were written
	plain        schemas.Schema    // of values that name none; nil: they are refused
	between      consumers.Between // nil: nothing stands there
	ordering     consumers.Ordering
	attempts     int  // consumers.Config.Attempts
	byKey        bool // the policy makes batches of one key each
	hooks        consumers.Hooks
	inFlight     int // consumers.Config.InFlightBytes
	// to says in words where the results go; with it, the job announces what it
	// reads.
	to  string
	log *slog.Logger // needed with to
	// patience is how often what failed for a passing reason is tried before
	// the job fails; 0 is for ever.
	patience int
}

// deadLetterTopic is where what cannot pass goes.
func (j job) deadLetterTopic() string {
	return cmp.Or(j.deadLetters, consumers.DeadLetterTopic(j.topic, j.group))
}

// runJob reads a topic until ctx ends or the job is through. Once it has begun to
// read, its error is a begunError.
func runJob(ctx context.Context, broker stream.Broker, reg consumers.Registry, j job) error {
	ranges, err := broker.Ranges(ctx, j.topic)
	if err != nil {
		return fmt.Errorf("read topic %q: %w", j.topic, err)
	}
	if err := broker.Create(ctx, j.deadLetterTopic(), len(ranges)); err != nil {
		return fmt.Errorf("create the dead-letter topic: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	finish, err := newFinishLine(ctx, broker, j.topic, j.until, j.owner, func() { cancel(nil) })
	if err != nil || ctx.Err() != nil {
		return err
	}
	sub := stream.Subscription{Topic: j.topic, Group: j.group}
	if j.owner != nil {
		sub.Owner = finish
	}
	if j.policy != nil {
		sub.HoldFor = j.policy.Linger + 10*time.Second
	}
	opened, err := broker.Open(ctx, sub)
	if err != nil {
		return fmt.Errorf("read topic %q: %w", j.topic, err)
	}
	var parking *consumers.Parking
	if j.ordering == consumers.Park {
		logs, ok := broker.(consumers.ParkingBroker)
		if !ok {
			return errors.Join(fmt.Errorf("park records: %w: it keeps no logs", stream.ErrUnsupported), opened.Close())
		}
		parking = consumers.NewParking(logs, j.group)
	}
	src, finished := stream.Source(opened), opened.Close
	if j.policy != nil {
		batcher := microbatch.Batch(opened, *j.policy)
		src, finished = batcher, func() error { return errors.Join(batcher.Close(), opened.Close()) }
	}
	cfg := consumers.Config{Group: j.group, Registry: reg, Reader: j.reader, Plain: j.plain, Between: j.between, ByKey: j.byKey, Ordering: j.ordering, Parking: parking, Attempts: j.attempts, DeadLetters: broker, DeadLetterTopic: j.deadLetters, Hooks: j.hooks, InFlightBytes: j.inFlight}
	if j.policy != nil {
		cfg.MaxRecords = j.policy.Count
	}
	announcer := consumers.NewAnnouncer(broker, consumers.Reading{Topic: j.topic, Group: j.group, Pinned: j.reader != nil, To: j.to})
	settled := cfg.Hooks.Settled
	cfg.Hooks.Settled = func(b consumers.Batch, took time.Duration) {
		if settled != nil {
			settled(b, took)
		}
		if j.to != "" {
			if err := announcer.Announce(ctx, b); err != nil && ctx.Err() == nil {
				j.log.Warn("whoever changes the schema will not hear of this consumer", "error", err)
			}
		}
		finish.reached(b.Partition, b.Next)
	}
	retry := cfg.Hooks.Retry
	cfg.Hooks.Retry = func(what string, attempt int, wait time.Duration, err error) {
		if retry != nil {
			retry(what, attempt, wait, err)
		}
		if j.patience > 0 && attempt >= j.patience {
			cancel(fmt.Errorf("%s, tried %d times: %w", what, attempt, err))
		}
	}
	err = consumers.Run(ctx, src, j.sink, cfg)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	if err = errors.Join(err, finished()); err != nil {
		return begunError{err}
	}
	return nil
}
