package federated

import (
	"context"
	"errors"
	"fmt"
	"time"

	"penstock/stream"
)

// aside is how long Lead waits before it says that it waits.
const aside = 2 * time.Second

// Lead runs work while no other call of Lead does, in any process, for the same topic of
// models and the same group; until then it stands by. So one aggregator has all partitions
// of its updates, and another takes over when the broker has not heard of it for some
// seconds, or at once where it ended. Who leads is who holds the one partition of the topic,
// for group Group-lead. The topic has to hold a model: Open has seen to that.
//
// Lead returns what work does. If the lead is lost, the context of work ends, and work is run
// again when it is this call's turn; an error of its own ends that. waiting, which may be
// nil, is called once where another leads.
func Lead(ctx context.Context, broker Broker, models, group string, waiting func(), work func(context.Context) error) (err error) {
	life, end := context.WithCancel(ctx)
	defer end()
	l := &lease{broker: broker, life: life, terms: make(chan context.Context, 1)}
	src, err := broker.Open(ctx, stream.Subscription{Topic: models, Group: group + "-lead", Owner: l})
	if err != nil {
		return fmt.Errorf("wait for the lead: %w", err)
	}
	held := make(chan error, 1)
	go func() {
		held <- hold(life, src)
		end()
	}()
	defer func() {
		end()
		err = errors.Join(err, src.Close())
	}()
	late := time.NewTimer(aside)
	defer late.Stop()
	for {
		select {
		case <-late.C:
			if waiting != nil {
				waiting()
			}
			continue
		case err := <-held:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("hold the lead: %w", err)
		case term := <-l.terms:
			late.Stop()
			if p, ok := src.(stream.Pauser); ok {
				p.Pause(0, true) // nobody reads the models here
			}
			err := work(term)
			if term.Err() == nil || ctx.Err() != nil || err != nil && !errors.Is(err, context.Canceled) {
				return err
			}
		}
	}
}

// hold keeps a source at work, and does without what it reads.
func hold(ctx context.Context, src stream.Source) error {
	for {
		_, ack, err := src.Fetch(ctx, 100)
		if err == nil {
			err = ack(ctx, nil)
		}
		if err != nil && !errors.Is(err, stream.ErrFenced) {
			return err
		}
	}
}

// lease is the Owner of the one partition whose holder leads.
type lease struct {
	broker Broker
	life   context.Context
	terms  chan context.Context // the last one that began
	end    context.CancelFunc   // of it
}

// Assigned implements stream.Owner.
func (l *lease) Assigned(ctx context.Context, partitions []stream.Partition) (map[stream.Partition]int64, error) {
	starts := map[stream.Partition]int64{}
	for _, p := range partitions {
		ranges, err := l.broker.Ranges(ctx, p.Topic)
		if err != nil { // it is claimed again
			return nil, fmt.Errorf("%w: %w", stream.ErrFenced, err)
		}
		if len(ranges) != 1 {
			return nil, fmt.Errorf("topic %q has %d partitions, and it needs to have 1", p.Topic, len(ranges))
		}
		starts[p] = ranges[0].End
		select {
		case <-l.terms:
		default:
		}
		var term context.Context
		term, l.end = context.WithCancel(l.life)
		l.terms <- term
	}
	return starts, nil
}

// Lost implements stream.Owner.
func (l *lease) Lost(context.Context, []stream.Partition) error {
	if l.end != nil {
		l.end()
	}
	return nil
}
