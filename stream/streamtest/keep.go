package streamtest

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/stream"
)

// keeper is a book on a connection of its own, and what was read of it.
type keeper struct {
	stream.Book
	notes  []string
	places [][]stream.Place
}

func (s *suite) keeping(topic, name string) *keeper {
	s.Helper()
	k, ok := s.open().(stream.Keeper)
	if !ok {
		s.Fatal("the broker is no stream.Keeper")
	}
	b, err := k.Keep(s.ctx, topic, name)
	s.must("keep", err)
	s.Cleanup(func() { b.Close() })
	keeper := &keeper{Book: b}
	keeper.take(s)
	return keeper
}

func (k *keeper) take(s *suite) {
	s.Helper()
	s.must("take", k.Take(s.ctx, func(e stream.Entry) error {
		k.notes, k.places = append(k.notes, string(e.Note)), append(k.places, e.Places)
		return nil
	}))
}

func (k *keeper) read(t testing.TB, notes ...string) {
	t.Helper()
	if diff := cmp.Diff(notes, k.notes); diff != "" {
		t.Errorf("the entries (-want +got):\n%s", diff)
	}
}

// commit commits records of these values and returns where they lie.
func (k *keeper) commit(s *suite, topic, note string, values ...string) (places []stream.Place) {
	s.Helper()
	records := keyed(topic, values...)
	s.must("commit", k.Commit(s.ctx, records, []byte(note)))
	for _, r := range records {
		places = append(places, stream.Place{Partition: r.Partition, Offset: r.Offset})
	}
	return places
}

// Entries are found again, with the places of their records, by whoever takes the
// book over, and a record that can never be written holds its commit back.
func (s *suite) keepEntries() {
	if !s.keeps() {
		return
	}
	topic := s.topic(4)
	a := s.keeping(topic, "a/book of *names")
	a.read(s)
	want := [][]stream.Place{a.commit(s, topic, "one", "1", "2", "3"), a.commit(s, topic, "two"), a.commit(s, topic, "three", "4")}
	records := keyed(topic, "5", "6", "7")
	records[1].Value = make([]byte, s.f.MaxValueBytes+1)
	var failed *stream.BatchError
	if err := a.Commit(s.ctx, records, []byte("lost")); !errors.As(err, &failed) || len(failed.Errs) != 1 || !errors.Is(failed.Errs[1], stream.ErrTooLarge) {
		s.Fatalf("commit: %v, want ErrTooLarge of record 1", err)
	}
	want = append(want, a.commit(s, topic, "four", "8"))
	s.keeping(topic, "another").read(s)
	b := s.keeping(topic, "a/book of *names")
	b.read(s, "one", "two", "three", "four")
	if diff := cmp.Diff(want, b.places); diff != "" {
		s.Errorf("the places (-said when committed, +read back):\n%s", diff)
	}
	if err := b.Commit(s.ctx, nil, make([]byte, stream.MaxNote+1)); err == nil {
		s.Error("a note of more than MaxNote bytes was taken")
	}
	b.commit(s, topic, string(make([]byte, stream.MaxNote)))
	s.publish(stream.Record{Topic: topic, Key: []byte("end"), Value: []byte("end")})
	lies := map[stream.Place]string{}
	for _, r := range s.subscribe(topic, "places").take(6) {
		lies[stream.Place{Partition: r.Partition, Offset: r.Offset}] = string(r.Value)
	}
	var got []string
	for _, p := range slices.Concat(want...) {
		got = append(got, lies[p])
	}
	if diff := cmp.Diff([]string{"1", "2", "3", "4", "8"}, got); diff != "" {
		s.Errorf("what lies at the places (-want +got):\n%s", diff)
	}
	if _, err := s.b.(stream.Keeper).Keep(s.ctx, topic+".nowhere", "x"); !errors.Is(err, stream.ErrNoTopic) {
		s.Errorf("keep on a topic that is not there: %v, want ErrNoTopic", err)
	}
}

// Whoever had the book before adds nothing until he takes it again, and then has
// read what the other one wrote.
func (s *suite) keepFenced() {
	if !s.keeps() {
		return
	}
	topic := s.topic(2)
	a := s.keeping(topic, "f")
	a.commit(s, topic, "a1", "1")
	b := s.keeping(topic, "f")
	b.read(s, "a1")
	if err := a.Commit(s.ctx, keyed(topic, "lost"), []byte("lost")); !errors.Is(err, stream.ErrFenced) {
		s.Errorf("commit of who had it before: %v, want ErrFenced", err)
	}
	b.commit(s, topic, "b1", "2")
	a.take(s)
	if a.notes[len(a.notes)-1] != "b1" {
		s.Errorf("taken again, the last entry is %q, want b1", a.notes[len(a.notes)-1])
	}
	a.commit(s, topic, "a2", "3")
	if err := b.Commit(s.ctx, keyed(topic, "lost"), []byte("lost")); !errors.Is(err, stream.ErrFenced) {
		s.Errorf("commit of who had it before: %v, want ErrFenced", err)
	}
	s.keeping(topic, "f").read(s, "a1", "b1", "a2")
	s.held(topic, "1", "2", "3")
}
