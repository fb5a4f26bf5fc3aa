package federated

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"penstock/consumers"
	"penstock/stream"
	"penstock/stream/memory"
)

// hall is a training whose updates a test hands to its aggregator one by one, at a
// time of its own.
type hall struct {
	*training
	a    *Aggregator
	now  time.Time
	next [3]int64 // offsets
}

func newHall(t *testing.T, clients int, rounds int64, change func(c *Config)) *hall {
	t.Helper()
	h := &hall{training: newTraining(t, clients, rounds), now: time.UnixMilli(1_000_000)}
	h.config.Now = func() time.Time { return h.now }
	change(&h.config)
	h.a = open(t, h.config)
	claim(t, h.a)
	return h
}

// send writes what a client makes of model m, and returns why it is refused.
func (h *hall) send(client string, m Model) error {
	h.t.Helper()
	return h.write(updateOf(client, m))
}

func (h *hall) write(u Update) error {
	h.t.Helper()
	p := partitionOf(u.Client)
	msg := message(h.t, h.publisher.registry, u.Client, u.value())
	msg.Partition, msg.Offset = p, h.next[p]
	b := consumers.Batch{Topic: "updates", Partition: p, First: msg.Offset, Next: msg.Offset + 1, Messages: []consumers.Message{msg}}
	h.next[p]++
	err := h.a.Write(h.t.Context(), b)
	var bad *stream.BatchError
	if errors.As(err, &bad) {
		err = bad.Errs[0]
		b.Messages = nil
		if err := h.a.Write(h.t.Context(), b); err != nil {
			h.t.Fatal(err)
		}
	}
	return err
}

// refused checks why an update was refused.
func refused(t *testing.T, err error, want Reason, detail string) {
	t.Helper()
	var r *Refusal
	if !errors.As(err, &r) || r.Reason != want || !strings.Contains(r.Detail, detail) {
		t.Errorf("got %v, want %s with %q", err, want, detail)
	}
}

// counted are the clients of whose updates the last model is made.
func (h *hall) counted(round int64, closed string, clients ...string) Model {
	h.t.Helper()
	m := h.a.Model()
	var got []string
	for _, c := range m.Contributions {
		got = append(got, c.Client)
	}
	slices.Sort(got)
	if m.Round != round || m.Closed != closed || !slices.Equal(got, clients) {
		h.t.Fatalf("model of round %d, %s, of %q; want round %d, %s, of %q", m.Round, m.Closed, got, round, closed, clients)
	}
	return m
}

func (h *hall) expire(want error) {
	h.t.Helper()
	if err := h.a.Expire(h.t.Context()); !errors.Is(err, want) {
		h.t.Fatalf("got %v, want %v", err, want)
	}
}

func TestAQuorumEndsARound(t *testing.T) {
	h := newHall(t, 3, 2, func(c *Config) { c.Quorum = 2 })
	first := h.a.Model()
	if err := errors.Join(h.send("c2", first), h.send("c0", first)); err != nil {
		t.Fatal(err)
	}
	second := h.counted(1, ByQuorum, "c0", "c2")
	refused(t, h.send("c1", first), Late, "round 1 is in progress")
	// Who was late takes part in the next round.
	if err := h.send("c1", second); err != nil {
		t.Fatal(err)
	}
	if err := h.send("c0", second); !errors.Is(err, ErrFinished) {
		t.Fatal(err)
	}
	h.counted(2, ByQuorum, "c0", "c1")
}

// A round ends at its deadline with the updates that there are, and comes again where
// they are too few.
func TestADeadlineEndsARound(t *testing.T) {
	h := newHall(t, 3, 2, func(c *Config) { c.Quorum, c.Deadline = 2, time.Minute })
	first := h.a.Model()
	if first.Deadline != 1_060_000 || first.Quorum != 2 {
		t.Fatalf("deadline %d, quorum %d", first.Deadline, first.Quorum)
	}
	if err := h.send("c0", first); err != nil {
		t.Fatal(err)
	}
	h.now = h.now.Add(time.Minute - time.Millisecond)
	h.expire(nil)
	if m := h.a.Model(); m.Attempt != 0 {
		t.Fatalf("ended before its deadline: attempt %d", m.Attempt)
	}
	h.now = h.now.Add(time.Millisecond)
	h.expire(nil)
	m := h.a.Model()
	if m.Round != 0 || m.Attempt != 1 || m.Hash != first.Hash || m.Deadline != 1_120_000 || !strings.Contains(m.Aborted, "1 of 3 updates") {
		t.Fatalf("got %+v", m)
	}
	if !h.a.arrived["c0"] {
		t.Error("another attempt forgets what had arrived")
	}
	// What had arrived counts, also for an aggregator that was started since.
	h.a = open(t, h.config)
	if got := h.a.Model(); got.Attempt != 1 {
		t.Fatalf("attempt %d after a start", got.Attempt)
	}
	claim(t, h.a)
	h.next = [3]int64{}
	if err := errors.Join(h.send("c0", first), h.send("c2", first)); err != nil {
		t.Fatal(err)
	}
	if h.a.Model().Round != 0 {
		t.Fatal("a quorum ended the round, and there was a deadline to wait for")
	}
	h.now = h.now.Add(time.Minute)
	h.expire(nil)
	second := h.counted(1, ByDeadline, "c0", "c2")
	refused(t, h.send("c1", first), Late, "the one before ended by its deadline, with 2 updates")
	if err := errors.Join(h.send("c1", second), h.send("c0", second)); err != nil {
		t.Fatal(err)
	}
	if err := h.send("c2", second); !errors.Is(err, ErrFinished) {
		t.Fatal(err)
	}
	h.counted(2, Complete, "c0", "c1", "c2")
}

// What ends a round is decided once: a publish that failed is repeated as it was,
// whatever came since, and one whose answer was lost is not repeated.
func TestAnEndIsDecidedOnce(t *testing.T) {
	for _, how := range []failure{before, after} {
		h := newHall(t, 3, 2, func(c *Config) { c.Deadline, c.Fraction = time.Minute, 0.9 })
		first := h.a.Model()
		if err := h.send("c0", first); err != nil {
			t.Fatal(err)
		}
		h.now = h.now.Add(time.Minute)
		h.publisher.fail = []failure{how}
		h.expire(errConnection)
		decided := *h.a.pending
		h.now = h.now.Add(time.Hour)
		refused(t, h.send("c1", first), Late, "")
		h.counted(1, ByDeadline, "c0")
		models := values(t, h.broker, "models")
		want, err := h.publisher.registry[1].AppendEncode(nil, decided.value())
		if err != nil {
			t.Fatal(err)
		}
		if len(models) != 2 || !bytes.Equal(models[1][5:], want) {
			t.Errorf("%d models on the topic, and the second is not what was decided", len(models))
		}
	}
}

func TestARoundAsksAShareOfTheClients(t *testing.T) {
	h := newHall(t, 5, 30, func(c *Config) { c.Fraction = 0.5 })
	asked := map[string]int{}
	for h.a.Model().Round < 20 {
		m := h.a.Model()
		if len(m.Sample) != 3 || !slices.IsSorted(m.Sample) {
			t.Fatalf("sample %q", m.Sample)
		}
		for _, c := range m.Clients {
			if !slices.Contains(m.Sample, c) {
				refused(t, h.send(c, m), NotSampled, "asks 3 of 5 clients")
			}
		}
		for _, c := range m.Sample {
			asked[c]++
			if err := h.send(c, m); err != nil {
				t.Fatal(err)
			}
		}
		h.counted(m.Round+1, Complete, m.Sample...)
	}
	if len(asked) != 5 {
		t.Errorf("20 rounds asked %v", asked)
	}
}

func TestRoundsThatCannotEnd(t *testing.T) {
	f := func(want string, change func(c *Config)) {
		t.Helper()
		c := newTraining(t, 4, 1).config
		change(&c)
		if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f("a quorum from 1 to 4", func(c *Config) { c.Quorum = 5 })
	f("a quorum from 1 to 2, as many as a round asks, found 3", func(c *Config) { c.Quorum, c.Fraction = 3, 0.5 })
	f("a fraction of the clients above 0 and up to 1, found 1.5", func(c *Config) { c.Fraction = 1.5 })
	f("a deadline above 0", func(c *Config) { c.Deadline = -time.Second })
	f("krum", func(c *Config) { c.Strategy, c.Deadline = "krum:byzantine=1", time.Second })
}

// unread is a broker that says how far the updates go.
type unread struct {
	*memory.Broker
	end atomic.Int64
}

func (u *unread) Ranges(ctx context.Context, topic string) ([]stream.Range, error) {
	if topic != "updates" {
		return u.Broker.Ranges(ctx, topic)
	}
	return []stream.Range{{Partition: id(0), End: u.end.Load()}}, nil
}

// At a deadline, what the topic holds by then counts, as far as it can be read.
func TestWatchWaitsForWhatIsUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHall(t, 2, 2, func(c *Config) { c.Deadline, c.Now = time.Minute, nil })
		u := &unread{Broker: h.broker.(*memory.Broker)}
		u.end.Store(1)
		h.a.config.Broker = u
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- h.a.Watch(ctx) }()
		first := h.a.Model()
		time.Sleep(75 * time.Second)
		synctest.Wait()
		if m := h.a.Model(); m.Attempt != 0 {
			t.Fatal("the round ended while an update was unread")
		}
		if err := h.send("c0", first); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		h.counted(1, ByDeadline, "c0")
		// What cannot be read does not hold up a training for ever.
		u.end.Store(9)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if m := h.a.Model(); m.Attempt != 1 {
			t.Errorf("attempt %d", m.Attempt)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
