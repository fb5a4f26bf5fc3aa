package streamtest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-cmp/cmp"

	"penstock/stream"
)

// readLog returns what a log says from an offset on: of each key the last value.
func (s *suite) readLog(name string, from int64) (map[string]string, int64) {
	s.Helper()
	got := map[string]string{}
	last := from - 1
	next, err := s.b.(stream.Logs).ReadLog(s.ctx, name, from, func(records []stream.Record) error {
		for _, r := range records {
			if r.Offset <= last {
				s.Errorf("offset %d comes after %d", r.Offset, last)
			}
			last = r.Offset
			if got[string(r.Key)] = "gone"; r.Value != nil {
				got[string(r.Key)] = string(r.Value)
			}
		}
		return nil
	})
	s.must("read log", err)
	if next <= last {
		s.Errorf("the log goes on at %d, after a record at %d", next, last)
	}
	return got, next
}

// A log is read from any place up to its end, and keeps the last record of each
// key.
func (s *suite) logs() {
	logs, ok := s.b.(stream.Logs)
	if ok != s.f.Keeps {
		s.Errorf("a stream.Logs: %v, want %v", ok, s.f.Keeps)
	}
	if !ok {
		return
	}
	name := s.topic(1) + ".log"
	if _, err := logs.ReadLog(s.ctx, name, 0, nil); !errors.Is(err, stream.ErrNoTopic) {
		s.Errorf("read a log that is not there: %v, want ErrNoTopic", err)
	}
	s.must("create log", logs.CreateLog(s.ctx, name))
	s.must("create log again", logs.CreateLog(s.ctx, name))
	if got, _ := s.readLog(name, 0); len(got) > 0 {
		s.Errorf("an empty log holds %v", got)
	}
	x, _ := s.resuming(name, "in")
	first := keyed(name, "a", "b", "", "c")
	s.must("commit", x.Commit(s.ctx, first, stream.Position{Next: 1}))
	if !slices.IsSortedFunc(first, func(a, b stream.Record) int { return int(a.Offset - b.Offset) }) || first[0].Offset == first[3].Offset {
		s.Errorf("offsets %d to %d", first[0].Offset, first[3].Offset)
	}
	s.seen(name, first)
	got, next := s.readLog(name, 0)
	if diff := cmp.Diff(map[string]string{"a": "a", "b": "b", "": "", "c": "c"}, got); diff != "" {
		s.Errorf("the log (-want +got):\n%s", diff)
	}
	if got, _ := s.readLog(name, first[3].Offset); len(got) != 1 || got["c"] != "c" {
		s.Errorf("from its last record on the log holds %v", got)
	}
	second := []stream.Record{
		{Topic: name, Key: []byte("b"), Value: []byte("B")}, {Topic: name, Key: []byte("c")},
	}
	s.must("commit", x.Commit(s.ctx, second, stream.Position{Next: 2}))
	s.seen(name, second)
	got, again := s.readLog(name, next)
	if diff := cmp.Diff(map[string]string{"b": "B", "c": "gone"}, got); diff != "" {
		s.Errorf("what is new in the log (-want +got):\n%s", diff)
	}
	if got, _ := s.readLog(name, again); len(got) > 0 {
		s.Errorf("behind its end the log holds %v", got)
	}
	many := make([]stream.Record, 0, stream.MaxCommit)
	for round := range 3 {
		many = many[:0]
		for i := range stream.MaxCommit {
			many = append(many, stream.Record{Topic: name, Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "%d", round)})
		}
		s.must("commit", x.Commit(s.ctx, many, stream.Position{Next: int64(round) + 3}))
	}
	r := s.seen(name, many)
	got, _ = s.readLog(name, 0)
	if len(got) < stream.MaxCommit+3 || got["k7"] != "2" || got["a"] != "a" || got["b"] != "B" {
		s.Errorf("the log holds %d keys, and k7 is %q", len(got), got["k7"])
	}
	if last := many[len(many)-1].Offset; r.End != last+1 && r.End != last+2 { // the position of JetStream's lies behind it
		s.Errorf("the log ends at %d, its last record lies at %d", r.End, last)
	}
}

// seen waits until who reads sees the last of the records, which may be a moment after
// they were committed, and returns the log's range.
func (s *suite) seen(name string, records []stream.Record) stream.Range {
	s.Helper()
	for {
		ranges, err := s.b.Ranges(s.ctx, name)
		s.must("range of log", err)
		if len(ranges) != 1 {
			s.Fatalf("the log has %d ranges, want 1", len(ranges))
		}
		if ranges[0].End > records[len(records)-1].Offset {
			return ranges[0]
		}
	}
}

// Records of several topics and the position are one commit.
func (s *suite) spans() {
	b, ok := s.b.(stream.Spanner)
	if !ok {
		return
	}
	topic, log := s.topic(2), s.topic(1)+".log"
	s.must("create log", s.b.(stream.Logs).CreateLog(s.ctx, log))
	x, at, err := b.Span(s.ctx, topic, "in", log)
	s.must("span", err)
	defer x.Close()
	if at.Next != 0 {
		s.Errorf("an input that never was is at %+v", at)
	}
	both := append(keyed(topic, "1", "2"), keyed(log, "x")...)
	s.must("commit", x.Commit(s.ctx, both, stream.Position{Next: 7}))
	if err := x.Commit(s.ctx, keyed(s.topic(1), "1"), stream.Position{Next: 8}); err == nil {
		s.Error("a record of another topic was taken")
	}
	other, at, err := b.Span(s.ctx, topic, "in", log)
	s.must("span", err)
	defer other.Close()
	if at.Next != 7 {
		s.Errorf("the input is at %+v, want 7", at)
	}
	if err := x.Commit(s.ctx, append(keyed(topic, "lost"), keyed(log, "lost")...), stream.Position{Next: 8}); !errors.Is(err, stream.ErrFenced) {
		s.Errorf("commit of who had it before: %v, want ErrFenced", err)
	}
	many := make([]string, 2*stream.MaxCommit)
	for i := range many {
		many[i] = fmt.Sprint("m", i)
	}
	s.must("commit", other.Commit(s.ctx, keyed(topic, many...), stream.Position{Next: 9}))
	s.held(topic, append(many, "1", "2")...)
	if got, _ := s.readLog(log, 0); len(got) != 1 || got["x"] != "x" {
		s.Errorf("the log holds %v", got)
	}
}
