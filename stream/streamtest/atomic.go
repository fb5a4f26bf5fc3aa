package streamtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/stream"
)

// Atomic is what the suite has to know about a broker's stream.AtomicPublisher.
type Atomic struct {
	// Topics says that records of several topics can be written together, and
	// Conditions that it can see to them.
	Topics, Conditions bool
	// Open returns a connection over a line, which soon gives up where nobody
	// answers, and Commit recognises what has it write. Where they are nil, the
	// broker is not reached over any line.
	Open   func(t testing.TB, l *Line) stream.Broker
	Commit func(sent []byte) bool
}

// nothing checks that an error says that nothing was written, and is this one.
func (s *suite) nothing(err, want error) {
	s.Helper()
	if !errors.Is(err, want) || errors.Is(err, stream.ErrUnknownOutcome) {
		s.Errorf("publish: %v, want %q, and that nothing was written", err, want)
	}
}

// Records of several topics are written together where the broker can, each lies where
// it is said to lie, and where it cannot, none is written.
func (s *suite) atomicTopics() {
	a := s.b.(stream.AtomicPublisher)
	one, two := s.topic(3), s.topic(2)
	records := slices.Concat(keyed(one, "1", "2", "3"), keyed(two, "4", "5"), keyed(one, "6"))
	err := a.PublishAtomic(s.ctx, stream.Conditions{}, records...)
	if !s.f.Atomic.Topics {
		s.nothing(err, stream.ErrUnsupported)
		s.held(one)
		s.held(two)
		s.must("publish those of one", a.PublishAtomic(s.ctx, stream.Conditions{}, records[:3]...))
		s.held(one, "end", "1", "2", "3")
		return
	}
	s.must("publish", err)
	lies := map[place]string{}
	for _, r := range s.subscribe(one, "places").take(4) {
		lies[placeOf(r)] = string(r.Value)
	}
	for _, r := range records {
		if r.Topic == one && lies[placeOf(r)] != string(r.Value) {
			s.Errorf("%q is said to lie at %v, which holds %q", r.Value, placeOf(r), lies[placeOf(r)])
		}
	}
	s.held(one, "1", "2", "3", "6")
	s.held(two, "4", "5")
	s.must("publish nothing", a.PublishAtomic(s.ctx, stream.Conditions{}))
}

// A record that can never be written is named, each of them, and none is written. The
// next batch is not held up by it.
func (s *suite) atomicRefused() {
	a := s.b.(stream.AtomicPublisher)
	topic := s.topic(2)
	records := keyed(topic, "1", "2", "3", "4", "5")
	records[1].Value = make([]byte, s.f.MaxValueBytes+1)
	records[3].Topic = topic + ".nowhere"
	err := a.PublishAtomic(s.ctx, stream.Conditions{}, records...)
	var failed *stream.BatchError
	if !errors.As(err, &failed) || len(failed.Errs) != 2 || !errors.Is(failed.Errs[1], stream.ErrTooLarge) || !errors.Is(failed.Errs[3], stream.ErrNoTopic) {
		s.Fatalf("publish: %v, want ErrTooLarge of record 1 and ErrNoTopic of record 3", err)
	}
	// Its value is within the limit, and the whole record is not.
	records = keyed(topic, "1", "2", "3")
	records[1].Value = make([]byte, s.f.MaxValueBytes)
	records[1].Headers = []stream.Header{{Key: "large", Value: []byte(strings.Repeat("x", 100<<10))}}
	want := []string{"1", "3"}
	if err := a.PublishAtomic(s.ctx, stream.Conditions{}, records...); err == nil {
		want = append(want, string(records[1].Value)) // without such a limit
	} else if !errors.As(err, &failed) || len(failed.Errs) != 1 || !errors.Is(failed.Errs[1], stream.ErrTooLarge) {
		s.Fatalf("publish: %v, want ErrTooLarge of record 1", err)
	} else {
		s.must("publish the others", a.PublishAtomic(s.ctx, stream.Conditions{}, records[0], records[2]))
	}
	s.held(topic, want...)
}

// Many publish at a time.
func (s *suite) atomicConcurrent() {
	a := s.b.(stream.AtomicPublisher)
	topic := s.topic(2)
	var want []string
	var calls sync.WaitGroup
	for i := range 12 {
		values := []string{fmt.Sprint(i, "a"), fmt.Sprint(i, "b"), fmt.Sprint(i, "c")}
		want = append(want, values...)
		calls.Go(func() {
			if err := a.PublishAtomic(s.ctx, stream.Conditions{}, keyed(topic, values...)...); err != nil {
				s.Errorf("publish: %v", err)
			}
		})
	}
	calls.Wait()
	s.held(topic, want...)
}

// Records are written behind those that the caller knows, and under an ID once.
func (s *suite) atomicConditions() {
	a := s.b.(stream.AtomicPublisher)
	topic := s.topic(3)
	first := keyed(topic, "1", "2", "3", "4", "5", "6")
	if !s.f.Atomic.Conditions {
		s.nothing(a.PublishAtomic(s.ctx, stream.Conditions{ID: "x"}, first...), stream.ErrUnsupported)
		s.nothing(a.PublishAtomic(s.ctx, stream.Conditions{After: map[int32]int64{0: -1}}, first...), stream.ErrUnsupported)
		s.held(topic)
		return
	}
	empty := map[int32]int64{0: -1, 1: -1, 2: -1}
	s.must("publish to what is empty", a.PublishAtomic(s.ctx, stream.Conditions{ID: "first", After: empty}, first...))
	last := map[int32]int64{0: -1, 1: -1, 2: -1}
	for _, r := range first {
		last[r.Partition] = max(last[r.Partition], r.Offset)
	}
	if last[0] < 0 || last[1] < 0 || last[2] < 0 {
		s.Fatalf("the keys do not reach all partitions: %v", last)
	}
	s.nothing(a.PublishAtomic(s.ctx, stream.Conditions{After: empty}, keyed(topic, "lost", "lost", "lost")...), stream.ErrConflict)
	// All partitions are looked at, those too that no record goes to.
	second := keyed(topic, "1", "1", "1")
	s.must("publish behind them", a.PublishAtomic(s.ctx, stream.Conditions{After: last}, second...))
	s.nothing(a.PublishAtomic(s.ctx, stream.Conditions{After: last}, keyed(topic, "lost", "lost", "lost")...), stream.ErrConflict)
	last[second[0].Partition] = second[2].Offset
	s.must("publish behind those", a.PublishAtomic(s.ctx, stream.Conditions{After: last}, keyed(topic, "7", "8", "9")...))

	s.nothing(a.PublishAtomic(s.ctx, stream.Conditions{ID: "first"}, keyed(topic, "lost")...), stream.ErrDuplicate)
	s.must("publish under another ID", a.PublishAtomic(s.ctx, stream.Conditions{ID: "second"}, keyed(topic, "10")...))
	if err := a.PublishAtomic(s.ctx, stream.Conditions{After: map[int32]int64{3: -1}}, keyed(topic, "lost")...); err == nil {
		s.Error("a condition on a partition that is not there was taken")
	}
	s.held(topic, "1", "2", "3", "4", "5", "6", "1", "1", "1", "7", "8", "9", "10")
}

// victim is a connection that breaks at its next commit.
func (s *suite) victim(deliver bool) (stream.AtomicPublisher, *Line, <-chan struct{}) {
	s.Helper()
	l := &Line{}
	b := s.f.Atomic.Open(s.T, l)
	s.Cleanup(func() { b.Close() })
	return b.(stream.AtomicPublisher), l, l.Watch(s.f.Atomic.Commit, deliver)
}

// afterwards publishes one more record, once the connection is there again.
func (s *suite) afterwards(a stream.AtomicPublisher, topic, value string) {
	s.Helper()
	for {
		err := a.PublishAtomic(s.ctx, stream.Conditions{}, keyed(topic, value)...)
		if errors.Is(err, stream.ErrUnreachable) && !errors.Is(err, stream.ErrUnknownOutcome) && s.ctx.Err() == nil {
			continue
		}
		s.must("publish after the line was mended", err)
		return
	}
}

// A commit that never reaches the broker: nobody can tell, nothing is written, it is
// not sent again, and readers get what comes after it.
func (s *suite) atomicCut() {
	if s.f.Atomic.Open == nil {
		return
	}
	topic := s.topic(2)
	a, line, met := s.victim(false)
	err := a.PublishAtomic(s.ctx, stream.Conditions{}, keyed(topic, "lost", "lost too")...)
	<-met
	if !errors.Is(err, stream.ErrUnknownOutcome) || !errors.Is(err, stream.ErrUnreachable) {
		s.Errorf("publish: %v, want ErrUnknownOutcome and ErrUnreachable", err)
	}
	line.Mend()
	s.afterwards(a, topic, "1")
	s.held(topic, "1")
}

// A commit whose answer never comes back: nobody can tell, and all is written, once.
func (s *suite) atomicLost() {
	if s.f.Atomic.Open == nil {
		return
	}
	topic := s.topic(2)
	a, line, met := s.victim(true)
	c := stream.Conditions{}
	if s.f.Atomic.Conditions {
		c.ID = "once"
	}
	told := make(chan error)
	go func() { told <- a.PublishAtomic(s.ctx, c, keyed(topic, "1", "2")...) }()
	<-met
	got := values(s.subscribe(topic, "lost").take(2))
	slices.Sort(got)
	if diff := cmp.Diff([]string{"1", "2"}, got); diff != "" {
		s.Errorf("what was written (-want +got):\n%s", diff)
	}
	line.Cut()
	if err := <-told; !errors.Is(err, stream.ErrUnknownOutcome) || !errors.Is(err, stream.ErrUnreachable) {
		s.Errorf("publish: %v, want ErrUnknownOutcome and ErrUnreachable", err)
	}
	line.Mend()
	s.afterwards(a, topic, "3")
	if c.ID != "" {
		s.nothing(a.PublishAtomic(s.ctx, c, keyed(topic, "1", "2")...), stream.ErrDuplicate)
	}
	s.held(topic, "1", "2", "3")
}
