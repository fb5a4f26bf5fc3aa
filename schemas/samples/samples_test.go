package samples

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/schemas"
	"penstock/schemas/avro"
)

func TestHeldIsWhatTheReadmeSays(t *testing.T) {
	count := func(name string, n int) {
		t.Helper()
		s, err := Get(name)
		if err != nil {
			t.Fatal(err)
		}
		if held, err := s.Held(); err != nil || held != n {
			t.Errorf("%s: %d held, %v, want %d", name, held, err, n)
		}
	}
	count("flights", 4304)
	count("weather", 1008)
	count("digits", 1797)

	s, _ := Get("flights")
	events, err := s.Events(4304)
	if err != nil {
		t.Fatal(err)
	}
	storm, last := 0, time.Time{}
	for e := range events {
		at := e["time_hour"].(time.Time)
		if at.Before(last) {
			t.Fatalf("the flights are not in order at %v", at)
		}
		last = at
		if day := e["day"].(int32); (day == 8 || day == 9) && e["cancelled"].(bool) {
			storm++
		}
	}
	if storm != 865 {
		t.Errorf("%d flights were cancelled in the storm, want 865", storm)
	}
}

func TestGetNamesTheSamples(t *testing.T) {
	_, err := Get("fligths")
	want := `get sample "fligths": there is none; the samples are digits, flights, orders, sensors, weather`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Events begin again after the last one held, later by whole days, and every
// event is a map of its own.
func TestEventsBeginAgainLater(t *testing.T) {
	s, _ := Get("flights")
	held, err := s.Held()
	if err != nil {
		t.Fatal(err)
	}
	events, err := s.Events(2*held + 1)
	if err != nil {
		t.Fatal(err)
	}
	var first []map[string]any
	i := 0
	for e := range events {
		if i%held == 0 {
			first = append(first, e)
		}
		i++
	}
	if i != 2*held+1 || len(first) != 3 {
		t.Fatalf("%d events, %d beginnings", i, len(first))
	}
	for i, day := range []int32{7, 12, 17} {
		want := maps.Clone(first[0])
		want["day"] = day
		want["time_hour"] = first[0]["time_hour"].(time.Time).AddDate(0, 0, 5*i)
		if diff := cmp.Diff(want, first[i]); diff != "" {
			t.Errorf("round %d: %s", i, diff)
		}
	}
}

// An order keeps its content while it moves on, and every sample has a key.
func TestOrdersMoveOn(t *testing.T) {
	s, _ := Get("orders")
	events, err := s.Events(48)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string][]string{}
	lines := map[string]any{}
	for e := range events {
		id := e["id"].(string)
		seen[id] = append(seen[id], e["status"].(string))
		if before, ok := lines[id]; ok && !cmp.Equal(before, e["lines"]) {
			t.Errorf("the lines of %s changed", id)
		}
		lines[id] = e["lines"]
	}
	if len(seen) != 16 {
		t.Errorf("%d orders, want 16", len(seen))
	}
	for id, statuses := range seen {
		if len(statuses) != 3 || !slices.Equal(statuses[:2], []string{"PLACED", "PAID"}) {
			t.Errorf("%s: %v", id, statuses)
		}
	}
}

// Every event fits its Avro schema, comes back as it was, and no broken one
// fits. The other languages are held to the same in their own packages.
func TestEventsFitAndBrokenOnesDoNot(t *testing.T) {
	for _, name := range Names() {
		s, err := Get(name)
		if err != nil {
			t.Fatal(err)
		}
		text, err := s.Schema(schemas.Avro)
		if err != nil {
			t.Fatal(err)
		}
		schema, err := avro.Format{}.Parse(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		n := 3000
		if name == "flights" {
			n = 9000
		}
		events, err := s.Events(n)
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for e := range events {
			b, err := schema.AppendEncode(nil, e)
			if err != nil {
				t.Fatalf("%s %d: %v", name, i, err)
			}
			if i%10 == 0 {
				back, err := schema.Decode(b)
				if diff := cmp.Diff(e, back); err != nil || diff != "" {
					t.Fatalf("%s %d: %v %s", name, i, err, diff)
				}
			}
			broken, what := s.Break(i, e)
			if _, err := schema.AppendEncode(nil, broken); err == nil {
				t.Fatalf("%s %d: accepted although %s", name, i, what)
			}
			if _, ok := e[s.Key]; !ok {
				t.Fatalf("%s %d: no key %q", name, i, s.Key)
			}
			i++
		}
		if i != n {
			t.Errorf("%s: %d events, want %d", name, i, n)
		}
	}
}
