// Package streamtest is the suite that every broker passes. It says, as tests,
// what the contracts in package stream promise; what brokers may do differently
// is data, in Features.
package streamtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"penstock/stream"
)

// Features is what the suite has to know about a broker.
type Features struct {
	// MaxValueBytes is the largest value the broker takes. Zero is
	// stream.MaxValueBytes.
	MaxValueBytes int
	// Fenced says that a partition belongs to one source of its group at a
	// time: when a source joins, partitions move to it together with what is
	// unsettled, a late ack gets ErrFenced, and Owner.Lost is called. Where it
	// is false, sources of one group may share a partition, and an ack that
	// comes late may still count.
	Fenced bool
	// Releases says that its sources are stream.Releasers.
	Releases bool
	// Resumes says that the broker is a stream.Resumer, and Keeps that it is a stream.Keeper
	// and has stream.Logs as well.
	Resumes, Keeps bool
	// Surveys says that it is a stream.Surveyor.
	Surveys bool
	// Atomic is about its stream.AtomicPublisher.
	Atomic Atomic
	// Crash ends a source as the death of its process would: nothing is said
	// to the broker, nothing is committed, its connection is gone.
	Crash func(t testing.TB, src stream.SourceCloser)
	// Delete removes a topic. Where it is nil, nothing is said of topics that
	// are made again.
	Delete func(t testing.TB, topic string)
	// Timeout bounds every wait of the suite. Zero is 30 seconds.
	Timeout time.Duration
}

// Run runs the suite. open is called several times in a test, and returns each
// time a new connection to the same broker; the suite closes it. Topics that
// the suite makes have names of their own, so the broker may hold others.
func Run(t *testing.T, f Features, open func(t testing.TB) stream.Broker) {
	if f.MaxValueBytes == 0 {
		f.MaxValueBytes = stream.MaxValueBytes
	}
	if f.Timeout == 0 {
		f.Timeout = 30 * time.Second
	}
	for _, test := range []struct {
		name string
		run  func(*suite)
	}{
		{"publish/round trip", (*suite).roundTrip},
		{"publish/places", (*suite).places},
		{"publish/partition of a key", (*suite).partitionOfKey},
		{"publish/order of a key", (*suite).orderOfKey},
		{"publish/limit", (*suite).limit},
		{"publish/partial failure", (*suite).partialFailure},
		{"publish/caller may reuse its bytes", (*suite).reuse},
		{"resume/records and position", (*suite).resumeInput},
		{"resume/taken over", (*suite).resumeFenced},
		{"resume/too large", (*suite).resumeTooLarge},
		{"logs/read", (*suite).logs},
		{"logs/with records", (*suite).spans},
		{"keep/records and entries", (*suite).keepEntries},
		{"keep/taken over", (*suite).keepFenced},
		{"atomic/of several topics", (*suite).atomicTopics},
		{"atomic/all or none", (*suite).atomicRefused},
		{"atomic/concurrent", (*suite).atomicConcurrent},
		{"atomic/conditions", (*suite).atomicConditions},
		{"atomic/cut at the commit", (*suite).atomicCut},
		{"atomic/answer lost", (*suite).atomicLost},
		{"topics/create", (*suite).create},
		{"topics/unknown", (*suite).unknownTopic},
		{"topics/ranges", (*suite).ranges},
		{"topics/groups", (*suite).survey},
		{"topics/made again", (*suite).madeAgain},
		{"fetch/max", (*suite).fetchMax},
		{"fetch/cancel", (*suite).fetchCancel},
		{"fetch/close", (*suite).fetchClose},
		{"fetch/new group starts at the oldest", (*suite).oldest},
		{"ack/resume", (*suite).resume},
		{"ack/twice", (*suite).ackTwice},
		{"ack/out of order", (*suite).ackOutOfOrder},
		{"ack/after close", (*suite).ackAfterClose},
		{"nack/whole", (*suite).nackWhole},
		{"nack/part", (*suite).nackPart},
		{"nack/before ack", (*suite).nackBeforeAck},
		{"nack/index out of range", (*suite).nackOutOfRange},
		{"crash", (*suite).crash},
		{"group/concurrent sources", (*suite).concurrentSources},
		{"group/groups are independent", (*suite).independentGroups},
		{"group/random walk", (*suite).walk},
		{"group/rebalance with batches in flight", (*suite).rebalance},
		{"group/assignments", (*suite).assignments},
		{"group/pause", (*suite).pause},
		{"group/release", (*suite).release},
		{"owner/starts where it says", (*suite).ownerStarts},
		{"owner/identity", (*suite).ownerIdentity},
		{"owner/error", (*suite).ownerError},
		{"owner/late", (*suite).ownerLate},
		{"owner/position outside", (*suite).ownerOutside},
		{"owner/rebalance", (*suite).ownerRebalance},
		{"close", (*suite).closed},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), f.Timeout)
			t.Cleanup(cancel)
			s := &suite{T: t, f: f, ctx: ctx, connect: open, groups: "-" + rand.Text()}
			s.b = s.open()
			test.run(s)
		})
	}
}

// suite is one test: its deadline, and its first connection.
type suite struct {
	*testing.T
	f       Features
	ctx     context.Context
	connect func(testing.TB) stream.Broker
	b       stream.Broker
	groups  string // ends the names of its groups
}

// group is the name of a group that no other test is in: one whose member does
// not fetch holds up those who join.
func (s *suite) group(name string) string { return name + s.groups }

// open returns a new connection to the broker.
func (s *suite) open() stream.Broker {
	s.Helper()
	b := s.connect(s.T)
	s.Cleanup(func() {
		if err := b.Close(); err != nil {
			s.Errorf("close the broker: %v", err)
		}
	})
	return b
}

// topic makes a topic that nobody else uses. The dots are part of the test.
func (s *suite) topic(partitions int) string {
	s.Helper()
	name := "streamtest.v1.T_-" + rand.Text()
	s.must("create", s.b.Create(s.ctx, name, partitions))
	return name
}

func (s *suite) must(what string, err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}

func (s *suite) publish(records ...stream.Record) {
	s.Helper()
	s.must("publish", s.b.Publish(s.ctx, records...))
}

// numbered publishes n records to topic, whose values are "0", "1" and so on.
// Their keys are the values, which spreads them over the partitions.
func (s *suite) numbered(topic string, n int) []stream.Record {
	s.Helper()
	records := make([]stream.Record, n)
	for i := range records {
		records[i] = stream.Record{Topic: topic, Key: fmt.Append(nil, i), Value: fmt.Append(nil, i)}
	}
	s.publish(records...)
	return records
}

// source is a source, with helpers that end the test on errors.
type source struct {
	stream.SourceCloser
	s *suite
}

// subscribe opens a source over a connection of its own.
func (s *suite) subscribe(topic, group string, set ...func(*stream.Subscription)) source {
	s.Helper()
	return s.subscribeOn(s.open(), topic, group, set...)
}

func (s *suite) subscribeOn(b stream.Broker, topic, group string, set ...func(*stream.Subscription)) source {
	s.Helper()
	sub := stream.Subscription{Topic: topic, Group: s.group(group), HoldFor: 2 * time.Second}
	for _, f := range set {
		f(&sub)
	}
	src, err := b.Open(s.ctx, sub)
	s.must("open", err)
	s.Cleanup(func() { src.Close() })
	return source{src, s}
}

type batch struct {
	records []stream.Record
	ack     stream.AckFunc
}

// fetch returns the next batch, and checks what holds for every batch.
func (src source) fetch(max int) batch {
	src.s.Helper()
	records, ack, err := src.Fetch(src.s.ctx, max)
	src.s.must("fetch", err)
	src.s.check(records, max)
	return batch{records, ack}
}

func (s *suite) check(records []stream.Record, max int) {
	s.Helper()
	if len(records) == 0 || len(records) > max {
		s.Errorf("fetched %d records, want 1 to %d", len(records), max)
	}
	for i, r := range records {
		if r.Partition != records[0].Partition {
			s.Errorf("a batch holds records of partitions %d and %d", records[0].Partition, r.Partition)
		}
		if i > 0 && r.Offset <= records[i-1].Offset {
			s.Errorf("a batch holds offset %d after %d", r.Offset, records[i-1].Offset)
		}
	}
}

func (src source) settle(b batch, err error) {
	src.s.Helper()
	src.s.must("settle", b.ack(src.s.ctx, err))
}

// take fetches and acknowledges until n different records have come, and
// returns them as they came.
func (src source) take(n int) []stream.Record {
	src.s.Helper()
	var records []stream.Record
	seen := map[place]bool{}
	for len(seen) < n {
		b := src.fetch(n - len(seen))
		for _, r := range b.records {
			if !seen[placeOf(r)] {
				seen[placeOf(r)] = true
				records = append(records, r)
			}
		}
		src.settle(b, nil)
	}
	return records
}

func (src source) close() {
	src.s.Helper()
	src.s.must("close the source", src.Close())
}

// place is where a record lies in its topic.
type place struct {
	partition int32
	offset    int64
}

func placeOf(r stream.Record) place { return place{r.Partition, r.Offset} }

// values returns the values of records, as strings.
func values(records []stream.Record) []string {
	var vs []string
	for _, r := range records {
		vs = append(vs, string(r.Value))
	}
	return vs
}

// lastly publishes one more record to a topic of one partition, and checks that
// it is the only one that a new source of the group gets: everything before it
// is settled.
func (s *suite) lastly(topic, group string) {
	s.Helper()
	const last = "the last one"
	s.publish(stream.Record{Topic: topic, Value: []byte(last)})
	src := s.subscribe(topic, group)
	if got := src.take(1); string(got[0].Value) != last {
		s.Errorf("record %q was settled, but came again at offset %d", got[0].Value, got[0].Offset)
	}
	src.close()
}

// again checks that a new source of the group gets every one of want.
func (s *suite) again(topic, group string, want []stream.Record) {
	s.Helper()
	missing := map[place]string{}
	for _, r := range want {
		missing[placeOf(r)] = string(r.Value)
	}
	src := s.subscribe(topic, group)
	defer src.close()
	for len(missing) > 0 {
		records, ack, err := src.Fetch(s.ctx, 100)
		if err != nil {
			s.Fatalf("these records are lost to the group, as partition, offset and value: %v (%v)", missing, err)
		}
		s.check(records, 100)
		for _, r := range records {
			delete(missing, placeOf(r))
		}
		s.must("settle", ack(s.ctx, nil))
	}
}

// equal compares records but for where they lie, and for their times.
func (s *suite) equal(got, want []stream.Record) {
	s.Helper()
	diff := cmp.Diff(want, got,
		cmpopts.IgnoreFields(stream.Record{}, "Partition", "Offset", "Time"),
		cmp.Comparer(func(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }),
		cmp.Transformer("Headers", func(hs []stream.Header) []string {
			out := []string{}
			for _, h := range hs {
				out = append(out, fmt.Sprintf("%q=%q", h.Key, h.Value))
			}
			return out
		}))
	if diff != "" {
		s.Errorf("records differ (-published +fetched):\n%s", diff)
	}
}

// owner keeps positions in memory and notes what it is told.
type owner struct {
	mu     sync.Mutex
	starts map[int32]int64 // by partition number
	fail   error
	fenced int // so often it was late
	held   []stream.Partition
	lost   []stream.Partition
}

func (o *owner) Assigned(_ context.Context, ps []stream.Partition) (map[stream.Partition]int64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fail != nil {
		return nil, o.fail
	}
	if o.fenced > 0 {
		o.fenced--
		return nil, fmt.Errorf("claim: %w", stream.ErrFenced)
	}
	starts := map[stream.Partition]int64{}
	for _, p := range ps {
		o.held = append(o.held, p)
		if at, ok := o.starts[p.Number]; ok {
			starts[p] = at
		}
	}
	return starts, nil
}

func (o *owner) Lost(_ context.Context, ps []stream.Partition) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range ps {
		o.lost = append(o.lost, p)
		i := slices.Index(o.held, p)
		if i < 0 {
			return fmt.Errorf("lost %+v, which was not held", p)
		}
		o.held = slices.Delete(o.held, i, i+1)
	}
	return nil
}

// holds returns the numbers of the partitions that are held now.
func (o *owner) holds() []int32 {
	o.mu.Lock()
	defer o.mu.Unlock()
	numbers := []int32{}
	for _, p := range o.held {
		numbers = append(numbers, p.Number)
	}
	slices.Sort(numbers)
	return numbers
}

func ownedBy(o stream.Owner) func(*stream.Subscription) {
	return func(sub *stream.Subscription) { sub.Owner = o }
}

func retryAfter(d time.Duration) func(*stream.Subscription) {
	return func(sub *stream.Subscription) { sub.Retry = d }
}
