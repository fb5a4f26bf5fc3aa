package federated

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"time"

	"penstock/consumers"
	"penstock/consumers/federated/privacy"
)

// Why a round ended, in Model.Closed.
const (
	Complete    = "complete" // all who were asked have answered
	ByQuorum    = "quorum"   // enough have, and there was no deadline to wait for
	ByDeadline  = "deadline" // enough had when it passed
	catchUpTime = 30 * time.Second
	rosterPause = time.Second // between two looks at whether a client was revoked
)

// Asked are the clients that the round started from m asks for an update.
func (m Model) Asked() []string {
	if len(m.Sample) > 0 {
		return m.Sample
	}
	return m.Clients
}

// enough is how many updates may end the round.
func (m Model) enough() int {
	if m.Quorum > 0 {
		return int(m.Quorum)
	}
	return len(m.Asked())
}

// newer says that m is a later state of the training than other.
func (m Model) newer(other Model) bool {
	return m.Round > other.Round || m.Round == other.Round && m.Attempt > other.Attempt
}

// opened sets what the round started from m asks of its clients.
func (a *Aggregator) opened(m Model) (Model, error) {
	if m.Final() {
		return m, nil
	}
	m, err := a.enrolled(m)
	if err != nil {
		return m, err
	}
	if m, err = m.affordable(); err != nil || m.Final() {
		return m, err
	}
	if f := a.config.Fraction; f > 0 && f < 1 && m.Attempt == 0 {
		sample, err := draw(m.Clients, a.config.asks())
		if err != nil {
			return m, err
		}
		m.Sample = sample
	}
	m.Quorum = int64(a.config.Quorum)
	if a.config.Deadline > 0 {
		m.Deadline = a.config.Now().Add(a.config.Deadline).UnixMilli()
	}
	if m.Quorum == 0 && m.Deadline > 0 {
		m.Quorum = 1
	}
	return m, nil
}

// affordable is m, as the final model if a round more would take more than its budget.
func (m Model) affordable() (Model, error) {
	if m.Privacy == nil || m.Final() {
		return m, nil
	}
	err := m.Privacy.admit()
	if errors.Is(err, privacy.ErrSpent) {
		m.Rounds, m.Aborted = m.Round, err.Error()
		return m, nil
	}
	return m, err
}

// asks is how many clients a round asks.
func (c *Config) asks() int {
	if c.Fraction == 0 {
		return len(c.Clients)
	}
	return max(1, int(math.Ceil(c.Fraction*float64(len(c.Clients)))))
}

// draw picks n of names, each set of n as likely as any other, in their order.
func draw(names []string, n int) ([]string, error) {
	rest := slices.Clone(names)
	for len(rest) > n {
		i, err := rand.Int(rand.Reader, big.NewInt(int64(len(rest))))
		if err != nil {
			return nil, fmt.Errorf("draw clients: %w", err)
		}
		rest = slices.Delete(rest, int(i.Int64()), int(i.Int64())+1)
	}
	return rest, nil
}

// closes says why the round ends now, or "". expired means that its deadline has
// passed, and everything has been read that came before.
func (a *Aggregator) closes(expired bool) string {
	if a.async != nil {
		if a.async.room(a.parts) <= 0 {
			return Complete
		}
		return ""
	}
	switch n := len(a.arrived); {
	case n >= len(a.model.answering()):
		return a.whole()
	case n < a.model.enough():
		return ""
	case expired:
		return ByDeadline
	case a.model.Deadline == 0:
		return ByQuorum
	}
	return ""
}

// again is the model of the round in progress, for another attempt at it, which
// asks all clients. What has arrived keeps counting.
func (a *Aggregator) again() (Model, error) {
	m := a.model
	m.Attempt++
	m.Sample, m.Deadline = nil, 0
	m.Aborted = fmt.Sprintf("%d of %d updates had arrived at the deadline, and %d were needed", len(a.arrived), len(a.model.Asked()), a.model.enough())
	return a.opened(m)
}

// Expire ends the round in progress if its deadline has passed: with the updates
// that there are, or, where they are too few, by another attempt at it. Watch
// calls it.
func (a *Aggregator) Expire(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d := a.expires(a.model); a.model.Final() || d == 0 || a.config.Now().UnixMilli() < d {
		return nil
	}
	return a.endRound(ctx, true)
}

// Watch ends rounds when their deadlines pass. It is to run beside what reads the
// updates, and returns ErrFinished after the last round, another error that wraps
// consumers.ErrStop when the training cannot go on or is to be run again (ErrReread),
// or ctx.Err(). At a deadline it
// waits until everything is read that the topic holds, up to 30 seconds.
func (a *Aggregator) Watch(ctx context.Context) error {
	pause := 10 * time.Millisecond
	for {
		a.mu.Lock()
		m, changed := a.model, a.changed
		a.mu.Unlock()
		if m.Final() {
			return ErrFinished
		}
		var passes <-chan time.Time
		if m.Deadline > 0 {
			passes = time.After(max(pause, time.UnixMilli(a.expires(m)).Sub(a.config.Now())))
		}
		var look <-chan time.Time
		if m.Trust != nil {
			look = time.After(rosterPause)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
			pause = 10 * time.Millisecond
			continue
		case <-look:
			if err := a.Follow(ctx); errors.Is(err, consumers.ErrStop) {
				return err
			}
			continue
		case <-passes:
		}
		late := a.config.Now().Sub(time.UnixMilli(a.expires(m)))
		caughtUp, err := a.caughtUp(ctx)
		if err == nil && (caughtUp || late > catchUpTime) {
			err = a.Expire(ctx)
		}
		if errors.Is(err, consumers.ErrStop) {
			return err
		}
		pause = min(2*pause, time.Second)
	}
}

// caughtUp says that all updates are read that the topic holds.
func (a *Aggregator) caughtUp(ctx context.Context) (bool, error) {
	ranges, err := a.config.Broker.Ranges(ctx, a.config.Updates)
	if err != nil {
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range ranges {
		if !a.above.reads(r.Partition.Number) {
			continue
		}
		next := r.Start
		for _, p := range a.model.Positions {
			if p.Partition == r.Partition.Number {
				next = max(next, p.Next)
			}
		}
		if p := a.parts[r.Partition.Number]; p != nil && p.begun {
			next = max(next, p.next)
		}
		if next < r.End {
			return false, nil
		}
	}
	return true, nil
}
