package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// leaseTime is how long a node leads without a further word. Its successor
// leads after that much at the latest.
const leaseTime = 9 * time.Second

// Leads reports whether this process is the one, among those with the log open,
// that does what only one should do. There may be none for a while. It takes part
// in the choice from the first call on, until Close.
//
// The lease is the only message of a stream of its own, which drops it after
// leaseTime. To take it, or to renew it, is an append on condition.
func (l *Log) Leads() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leading == nil && !l.nc.IsClosed() {
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.lead(ctx)
		}()
		l.leading = func() {
			stop()
			<-done
		}
	}
	return time.Now().Before(l.leadsUntil)
}

// lead takes and renews the lease until ctx ends.
func (l *Log) lead(ctx context.Context) {
	tick := time.NewTicker(leaseTime / 4)
	defer tick.Stop()
	for {
		began := time.Now() // no later than when the server begins to count
		if err := l.lease(ctx); err != nil {
			if ctx.Err() == nil && !errors.Is(err, errLeased) {
				l.logger.Warn("take part in the choice of the leading node", "error", err)
			}
		} else {
			l.mu.Lock()
			l.leadsUntil = began.Add(leaseTime)
			l.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			l.giveUp()
			return
		case <-tick.C:
		}
	}
}

// giveUp lets another node lead at once.
func (l *Log) giveUp() {
	l.mu.Lock()
	led := time.Now().Before(l.leadsUntil)
	l.leadsUntil = time.Time{}
	l.mu.Unlock()
	if !led {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s, err := l.js.Stream(ctx, l.name+"-lease"); err == nil {
		_ = s.DeleteMsg(ctx, l.leased) // else it ends by itself
	}
}

// errLeased is why there is no lease for this node.
var errLeased = errors.New("another node leads")

func (l *Log) lease(ctx context.Context) error {
	asking, cancel := l.asking(ctx)
	defer cancel()
	name := l.name + "-lease"
	s, err := l.js.Stream(asking, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = l.js.CreateStream(asking, jetstream.StreamConfig{
			Name: name, Subjects: []string{name}, Description: "Which node of a Penstock schema registry leads",
			Storage: jetstream.FileStorage, Replicas: l.replicas,
			MaxMsgs: 1, MaxAge: leaseTime, Duplicates: leaseTime,
		})
	}
	if err != nil {
		return fmt.Errorf("open the stream %q: %w", name, l.explain(ctx, err))
	}
	state := s.CachedInfo().State
	if state.Msgs > 0 && state.LastSeq != l.leased {
		return errLeased
	}
	ack, err := l.js.Publish(asking, name, nil, jetstream.WithExpectLastSequence(state.LastSeq), jetstream.WithRetryAttempts(0))
	if refused := (*jetstream.APIError)(nil); errors.As(err, &refused) && conflicts(refused.ErrorCode) {
		return errLeased
	}
	if err != nil {
		return fmt.Errorf("append to the stream %q: %w", name, l.explain(ctx, err))
	}
	l.leased = ack.Sequence
	return nil
}
