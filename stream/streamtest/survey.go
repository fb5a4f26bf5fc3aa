package streamtest

import (
	"errors"
	"slices"

	"github.com/google/go-cmp/cmp"

	"penstock/stream"
)

// survey: a group is seen as long as it reads or has a position, whoever keeps
// its positions, and only on the topic that it reads.
func (s *suite) survey() {
	surveyor, ok := s.b.(stream.Surveyor)
	if ok != s.f.Surveys {
		s.Fatalf("a stream.Surveyor: %v, want %v", ok, s.f.Surveys)
	}
	if !ok {
		return
	}
	topic, other := s.topic(2), s.topic(1)
	see := func(topic string, want ...string) {
		s.Helper()
		groups, err := surveyor.Groups(s.ctx, topic)
		s.must("groups", err)
		var names []string
		for _, g := range groups {
			names = append(names, g.Name)
		}
		if diff := cmp.Diff(want, names); diff != "" {
			s.Errorf("groups of %s (-want +got):\n%s", topic, diff)
		}
	}
	see(topic)
	s.publish(keyed(topic, "1", "2", "3")...)
	s.publish(stream.Record{Topic: other, Value: []byte("1")})
	names := []string{s.group("billing %-1"), s.group("owned")}
	slices.Sort(names)
	s.subscribe(topic, "billing %-1").take(3)
	s.subscribe(topic, "owned", func(sub *stream.Subscription) { sub.Owner = &owner{} }).take(3)
	see(topic, names...)
	see(other)
	if _, err := surveyor.Groups(s.ctx, topic+".nowhere"); !errors.Is(err, stream.ErrNoTopic) {
		s.Errorf("groups of no topic: %v, want ErrNoTopic", err)
	}
}
