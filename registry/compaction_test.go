package registry

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// said is all that an index says, in an order of its own.
func said(x *index) []string {
	var out []string
	for name, s := range x.subjects.all() {
		for _, v := range s.versions {
			out = append(out, fmt.Sprintf("version %s/%d: id %d, deleted %t, %q of %v", name, v.number, v.id, v.deleted, v.content.text, v.registered.UnixMilli()))
		}
	}
	for id, held := range x.ids.all() {
		uses := slices.Clone(held.uses)
		slices.SortFunc(uses, func(a, b SubjectVersion) int {
			return cmp.Or(cmp.Compare(a.Subject, b.Subject), a.Version-b.Version)
		})
		out = append(out, fmt.Sprintf("id %v: %q %v", id, held.content.text, uses))
		out = append(out, fmt.Sprintf("%q in %s: id %d", held.content.text, id.context, x.idOf(id.context, held.content)))
	}
	for context, id := range x.maxIDs.all() {
		out = append(out, fmt.Sprintf("highest id of %s: %d", context, *id))
	}
	for scope, c := range x.configs.all() {
		out = append(out, fmt.Sprintf("config of %q: %v", scope, *c))
	}
	for scope, m := range x.modes.all() {
		out = append(out, fmt.Sprintf("mode of %q: %s", scope, *m))
	}
	for target, users := range x.references.all() {
		for _, u := range *users {
			out = append(out, fmt.Sprintf("%v is used by %s/%d, deleted %t", target, u.subject, u.number, u.deleted))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestCompaction drops from random logs what a Compaction does not keep, then
// goes on with both: they say the same at every step.
func TestCompaction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(what string, from, to int) int { return rapid.IntRange(from, to).Draw(t, what) }
		now := time.UnixMilli(0)
		random := func() Event {
			now = now.Add(time.Duration(draw("clock", -5, 50)) * time.Millisecond)
			subject := rapid.SampledFrom([]string{"a", "b", ":.c:a"}).Draw(t, "subject")
			gone := draw("tombstone", 0, 3) == 0
			value := func(v any) any {
				if gone {
					return nil
				}
				return v
			}
			switch draw("kind", 0, 9) {
			case 0:
				return event(recordKey{KeyType: configRecord, Subject: subject}, value(configValue{Subject: subject, Config: Config{CompatibilityLevel: LevelFull}}), now)
			case 1:
				return event(recordKey{KeyType: modeRecord, Subject: subject}, value(modeValue{subject, Import}), now)
			case 2, 3:
				return event(recordKey{KeyType: deleteSubjectRecord, Subject: subject}, value(deleteSubjectValue{subject, draw("up to", 0, 4)}), now)
			case 4:
				return event(recordKey{KeyType: clearSubjectRecord, Subject: subject}, value(deleteSubjectValue{Subject: subject}), now)
			}
			number, id := draw("version", 1, 4), draw("id", 1, 6)
			v := schemaValue{Subject: subject, Version: number, ID: id, Schema: fmt.Sprint("text ", id/2), Deleted: draw("deleted", 0, 3) == 0}
			if id > 4 {
				v.References = []Reference{{Name: "r", Subject: "b", Version: id - 4}}
			}
			return event(schemaKey(subject, number), value(v), now)
		}
		take := func(x *index, e Event) {
			if err := x.apply(e); err != nil {
				t.Fatal(err)
			}
			x.merge()
		}

		c, whole, compacted := NewCompaction(), newIndex(), newIndex()
		var log []Event
		for range draw("events", 0, 40) {
			e := random()
			e.Position = uint64(len(log) + 1)
			log = append(log, e)
			c.Add(e)
			take(whole, e)
		}
		var kept []string
		for _, e := range log {
			if c.Keep(e) {
				kept = append(kept, fmt.Sprintf("%d: %s %s", e.Position, e.Key, e.Value))
				take(compacted, e)
			}
		}
		for range 10 {
			if diff := gocmp.Diff(said(whole), said(compacted)); diff != "" {
				t.Fatalf("what was compacted says something else (-whole +compacted):\n%s\nkept:\n%q", diff, kept)
			}
			e := random()
			take(whole, e)
			take(compacted, e)
		}
	})
}

// TestCompactionForgets: what was registered and deleted again and again leaves
// hardly anything behind, and its ids are not given again.
func TestCompactionForgets(t *testing.T) {
	c := NewCompaction()
	var log []Event
	add := func(e Event) {
		e.Position = uint64(len(log) + 1)
		log = append(log, e)
		c.Add(e)
	}
	for id := 1; id <= 100; id++ {
		v := &version{number: 1, id: id, content: newContent("AVRO", fmt.Sprint(id), nil, nil, nil)}
		add(schemaEvent("s", v, time.Time{}))
		add(event(recordKey{KeyType: deleteSubjectRecord, Subject: "s"}, deleteSubjectValue{"s", 1}, time.Time{}))
		add(event(schemaKey("s", 1), nil, time.Time{}))
		add(event(recordKey{KeyType: configRecord, Subject: "s"}, configValue{}, time.Time{}))
		add(event(recordKey{KeyType: configRecord, Subject: "s"}, nil, time.Time{}))
	}
	x, kept := newIndex(), 0
	for _, e := range log {
		if c.Keep(e) {
			kept++
			if err := x.apply(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if kept != 2 {
		t.Errorf("%d events are left, want the last schema and its tombstone", kept)
	}
	if x.nextID(".") != 101 || x.subjects.get("s") != nil {
		t.Errorf("the next id is %d, want 101; subject s is %v, want none", x.nextID("."), x.subjects.get("s"))
	}
}
