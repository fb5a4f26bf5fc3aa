package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/registry"
)

const (
	// patience is how long Append waits for a node to be elected.
	patience = 10 * time.Second
	// askAgain is how long it waits before it asks the group again.
	askAgain = 100 * time.Millisecond
)

// join makes this node a member of the group. It consumes nothing: what counts is
// to whom the partition is assigned.
func (l *Log) join() (*kgo.Client, error) {
	assigned := func(now bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
			if slices.Contains(topics[l.o.Topic], 0) {
				l.assign(now)
			}
		}
	}
	member, err := kgo.NewClient(append(l.o.client(),
		kgo.ConsumerGroup(l.group),
		kgo.ConsumeTopics(l.o.Topic),
		kgo.InstanceID(l.o.URL),
		kgo.SessionTimeout(l.o.SessionTimeout),
		kgo.RebalanceTimeout(l.o.SessionTimeout),
		kgo.HeartbeatInterval(min(time.Second, l.o.SessionTimeout/4)),
		kgo.Balancers(kgo.CooperativeStickyBalancer()), // the writer stays when others come and go
		kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(assigned(true)),
		kgo.OnPartitionsRevoked(assigned(false)),
		kgo.OnPartitionsLost(assigned(false)),
	)...)
	if err != nil {
		return nil, err
	}
	member.PauseFetchTopics(l.o.Topic)
	return member, nil
}

// assign notes whether the partition is this member's. If it is not, the term
// ends at once.
func (l *Log) assign(now bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.assigned = now
	if !now {
		l.endTerm()
	}
	l.notify()
}

// Leads reports whether this process is the one that writes, and that does what
// else only one should do. There may be none for a while.
func (l *Log) Leads() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.term != nil
}

// retire ends a term, if it has not ended.
func (l *Log) retire(t *term) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.term == t {
		l.endTerm()
		l.notify()
	}
}

// endTerm is called under mu.
func (l *Log) endTerm() {
	if l.term != nil && !l.term.used {
		l.retired = append(l.retired, l.term)
	}
	l.term = nil
}

// use returns the term that this node is the writer in, or nil and a channel
// that is closed when that may have changed. Whoever gets a term releases it.
func (l *Log) use() (*term, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.term != nil {
		l.term.used = true
	}
	return l.term, l.changed
}

func (l *Log) release(t *term) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.used = false
	if l.term != t {
		l.retired = append(l.retired, t)
		l.notify()
	}
}

// notify is called under mu.
func (l *Log) notify() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// elect begins a term whenever the partition is assigned to this node and there
// is none, and closes those that have ended.
func (l *Log) elect(ctx context.Context) {
	defer close(l.done)
	wait := askAgain
	for ctx.Err() == nil {
		l.mu.Lock()
		retired, wanted, changed := l.retired, l.assigned && l.term == nil, l.changed
		l.retired = nil
		l.mu.Unlock()
		for _, t := range retired {
			t.producer.Close()
		}
		if wanted {
			err := l.takeOver(ctx)
			if err == nil {
				wait = askAgain
				continue
			}
			if ctx.Err() == nil {
				l.o.Logger.Info("this node could not take over as the writer of the registry's log yet", "error", err)
			}
			_ = pause(ctx, wait) // the loop sees that ctx has ended
			wait = min(2*wait, 2*time.Second)
			continue
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// takeOver begins a term. A node that was asleep may believe that the partition
// is its own, so the group is asked first: who takes the transactional id over
// against the group's will only ends the term of another one.
func (l *Log) takeOver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	writer, mine, err := l.assignee(ctx)
	if err != nil {
		return err
	}
	if !mine {
		return fmt.Errorf("the group has assigned the partition to %q", writer)
	}
	t, err := l.newTerm(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.assigned {
		l.retired = append(l.retired, t)
		return errors.New("the partition was revoked meanwhile")
	}
	l.term = t
	l.notify()
	l.o.Logger.Info("this node is the writer of the registry's log", "topic", l.o.Topic)
	return nil
}

// assignee asks the group to whom the partition is assigned. The URL is empty
// while it is to nobody.
func (l *Log) assignee(ctx context.Context) (url string, mine bool, err error) {
	groups, err := l.admin.DescribeGroups(ctx, l.group)
	if err != nil {
		return "", false, fmt.Errorf("ask group %q: %w", l.group, err)
	}
	g := groups[l.group]
	if g.Err != nil {
		return "", false, fmt.Errorf("ask group %q: %w", l.group, g.Err)
	}
	self, _ := l.member.GroupMetadata()
	for _, m := range g.Members {
		a, ok := m.Assigned.AsConsumer()
		if !ok {
			continue
		}
		for _, t := range a.Topics {
			if t.Topic != l.o.Topic || !slices.Contains(t.Partitions, 0) {
				continue
			}
			if m.InstanceID != nil {
				return *m.InstanceID, m.MemberID == self, nil
			}
			return m.ClientID, m.MemberID == self, nil
		}
	}
	return "", false, nil
}

// writing returns the term that this node is the writer in, which the caller
// releases, or a *registry.NotWriterError. It waits for a while if it is not known who writes.
func (l *Log) writing(ctx context.Context) (*term, error) {
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answered := false // by the group
	for {
		t, changed := l.use()
		if t != nil {
			return t, nil
		}
		writer, _, err := l.assignee(patient)
		answered = answered || err == nil
		if err == nil && writer != "" && writer != l.o.URL {
			return nil, &registry.NotWriterError{Writer: writer}
		}
		select {
		case <-changed:
		case <-time.After(askAgain):
		case <-l.done:
			return nil, ErrClosed
		case <-patient.Done():
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if !answered {
				return nil, fmt.Errorf("find the writer of the registry's log: %w", err)
			}
			return nil, &registry.NotWriterError{}
		}
	}
}
