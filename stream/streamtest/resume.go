package streamtest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/stream"
)

// resuming takes an input over, on a connection of its own.
func (s *suite) resuming(topic, input string) (stream.Transactor, stream.Position) {
	s.Helper()
	x, at, err := s.open().(stream.Resumer).Resume(s.ctx, topic, input)
	s.must("resume", err)
	s.Cleanup(func() { x.Close() })
	return x, at
}

// resumes reports whether the broker is a Resumer, as it was said to be.
func (s *suite) resumes() bool {
	s.Helper()
	_, ok := s.b.(stream.Resumer)
	if ok != s.f.Resumes {
		s.Errorf("a stream.Resumer: %v, want %v", ok, s.f.Resumes)
	}
	return ok
}

// keeps reports whether it is a Keeper as well.
func (s *suite) keeps() bool {
	s.Helper()
	_, ok := s.b.(stream.Keeper)
	if ok != s.f.Keeps {
		s.Errorf("a stream.Keeper: %v, want %v", ok, s.f.Keeps)
	}
	return ok
}

// held checks that topic holds records of these values and no others.
func (s *suite) held(topic string, want ...string) {
	s.Helper()
	s.publish(stream.Record{Topic: topic, Key: []byte("end"), Value: []byte("end")})
	records := s.subscribe(topic, "held-"+fmt.Sprint(len(want))).take(len(want) + 1)
	ranges, err := s.b.Ranges(s.ctx, topic)
	s.must("ranges", err)
	for _, r := range ranges {
		end := r.Start
		for _, record := range records {
			if record.Partition == r.Partition.Number {
				end = max(end, record.Offset+1)
			}
		}
		if r.End != end {
			s.Errorf("partition %d ends at %d, want %d, behind its last record", r.Partition.Number, r.End, end)
		}
	}
	got := values(records)
	slices.Sort(got)
	want = append(want, "end")
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		s.Errorf("what the topic holds (-want +got):\n%s", diff)
	}
}

func keyed(topic string, values ...string) []stream.Record {
	var records []stream.Record
	for _, v := range values {
		records = append(records, stream.Record{Topic: topic, Key: []byte(v), Value: []byte(v)})
	}
	return records
}

// The position of an input moves with its records, is found again, and is its
// own.
func (s *suite) resumeInput() {
	if !s.resumes() {
		return
	}
	topic := s.topic(4)
	x, at := s.resuming(topic, "a file/of *names.csv")
	if at != (stream.Position{}) {
		s.Errorf("an input that never was is at %+v", at)
	}
	s.must("commit", x.Commit(s.ctx, keyed(topic, "1", "2", "3"), stream.Position{Next: 3, Note: `{"sum":"1"}`}))
	s.must("commit", x.Commit(s.ctx, nil, stream.Position{Next: 4}))
	five := keyed(topic, "5")
	five[0].Time = time.UnixMilli(1000) // long ago
	s.must("commit", x.Commit(s.ctx, five, stream.Position{Next: 5, Note: "five"}))
	if _, at := s.resuming(topic, "another"); at != (stream.Position{}) {
		s.Errorf("another input is at %+v", at)
	}
	many := make([]string, stream.MaxCommit)
	for i := range many {
		many[i] = fmt.Sprintf("m%d", i)
	}
	x, at = s.resuming(topic, "a file/of *names.csv")
	if want := (stream.Position{Next: 5, Note: "five"}); at != want {
		s.Errorf("the input is at %+v, want %+v", at, want)
	}
	s.must("commit", x.Commit(s.ctx, keyed(topic, many...), stream.Position{Next: 905}))
	if err := x.Commit(s.ctx, keyed(topic, append(many, "one more")...), stream.Position{Next: 2000}); err == nil {
		s.Error("more than MaxCommit records were taken")
	}
	s.held(topic, append(many, "1", "2", "3", "5")...)
	if _, _, err := s.b.(stream.Resumer).Resume(s.ctx, topic+".nowhere", "x"); !errors.Is(err, stream.ErrNoTopic) {
		s.Errorf("resume on a topic that is not there: %v, want ErrNoTopic", err)
	}
}

// Whoever had the input before writes nothing more.
func (s *suite) resumeFenced() {
	if !s.resumes() {
		return
	}
	topic := s.topic(2)
	old, _ := s.resuming(topic, "f")
	s.must("commit", old.Commit(s.ctx, keyed(topic, "1"), stream.Position{Next: 1}))
	x, at := s.resuming(topic, "f")
	if at.Next != 1 {
		s.Errorf("the input is at %+v", at)
	}
	if err := old.Commit(s.ctx, keyed(topic, "lost"), stream.Position{Next: 2}); !errors.Is(err, stream.ErrFenced) {
		s.Errorf("commit of who had it before: %v, want ErrFenced", err)
	}
	s.must("commit", x.Commit(s.ctx, keyed(topic, "2"), stream.Position{Next: 2}))
	s.held(topic, "1", "2")
	if _, at := s.resuming(topic, "f"); at.Next != 2 {
		s.Errorf("the input is at %+v, want 2", at)
	}
}

// A record that can never be written is named, and nothing else of its commit
// is written.
func (s *suite) resumeTooLarge() {
	if !s.resumes() {
		return
	}
	topic := s.topic(1)
	x, _ := s.resuming(topic, "f")
	records := keyed(topic, "1", "2", "3")
	records[1].Value = make([]byte, s.f.MaxValueBytes+1)
	err := x.Commit(s.ctx, records, stream.Position{Next: 3})
	var failed *stream.BatchError
	if !errors.As(err, &failed) || len(failed.Errs) != 1 || !errors.Is(failed.Errs[1], stream.ErrTooLarge) {
		s.Fatalf("commit: %v, want ErrTooLarge of record 1", err)
	}
	s.must("commit the others", x.Commit(s.ctx, []stream.Record{records[0], records[2]}, stream.Position{Next: 3}))
	s.held(topic, "1", "3")
}
