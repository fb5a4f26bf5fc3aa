package diffing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/stream"
)

// table is a sink that keeps the last value of each key, and a position that
// outlives it.
type table struct {
	rows    map[string]string
	next    int64
	claimed bool
	history []string
	refuse  func(consumers.Message) error // for good
	fail    error                         // of the next Write, once
}

func (s *table) Assigned(_ context.Context, ps []stream.Partition) (map[stream.Partition]int64, error) {
	s.claimed = true
	if s.next == 0 {
		return nil, nil
	}
	return map[stream.Partition]int64{ps[0]: s.next}, nil
}

func (s *table) Lost(context.Context, []stream.Partition) error {
	s.claimed = false
	return nil
}

func (s *table) Write(_ context.Context, b consumers.Batch) error {
	if err := s.fail; err != nil {
		s.fail = nil
		return err
	}
	if !s.claimed {
		return stream.ErrFenced
	}
	if b.Next <= s.next {
		return nil
	}
	refused := &stream.BatchError{}
	for i, m := range b.Messages {
		if s.refuse != nil && m.Offset >= s.next {
			if err := s.refuse(m); err != nil {
				refused.Fail(i, err)
			}
		}
	}
	if err := refused.OrNil(); err != nil {
		return err
	}
	for _, m := range b.Messages {
		if m.Offset < s.next {
			continue
		}
		s.history = append(s.history, fmt.Sprintf("%d %s %s", m.Offset, m.Key, m.Value))
		if m.Schema == nil {
			delete(s.rows, string(m.Key))
			continue
		}
		if s.rows == nil {
			s.rows = map[string]string{}
		}
		s.rows[string(m.Key)] = string(m.Value)
	}
	s.next = b.Next
	return nil
}

// anyJSON is the schema of all there is.
func anyJSON(t interface{ Fatal(...any) }) schemas.Schema {
	s, err := jsonschema.Format{}.Parse("{}", nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// applier opens one that has claimed partition 0.
func applier(t testing.TB, dir string, out *output, c ApplyConfig) (*Applier, int64) {
	t.Helper()
	if c.Broker == nil {
		c.Broker = out
	}
	c.Name = "g"
	plain := anyJSON(t)
	if c.Schema == nil {
		c.Schema = func(context.Context) (schemas.Registered, error) { return schemas.Registered{Schema: plain}, nil }
	}
	a, err := OpenApplier(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	starts, err := a.Assigned(t.Context(), []stream.Partition{partition0})
	if err != nil {
		t.Fatal(err)
	}
	return a, starts[partition0]
}

// eventsOf are the records of a topic as a batch of the input.
func eventsOf(t interface{ Fatal(...any) }, records []stream.Record) consumers.Batch {
	b := consumers.Batch{Topic: "in", Next: int64(len(records))}
	for i, r := range records {
		r.Topic, r.Offset = "in", int64(i)
		m := consumers.Message{Record: r}
		if r.Value != nil {
			var err error
			if m.Data, err = schemas.ParseJSON(r.Value); err != nil {
				t.Fatal(err)
			}
		}
		b.Messages = append(b.Messages, m)
	}
	return b
}

// Whatever a Differ says of a sequence of states, an Applier makes of it the same
// states again.
func TestApplyIsTheWayBack(t *testing.T) {
	for _, c := range []struct {
		format     Format
		invertible bool
	}{{Debezium, false}, {JSONPatch, false}, {JSONPatch, true}, {MergePatch, false}, {CloudEvents, false}} {
		var changes, kept output
		var sink table
		d, _ := open(t, t.TempDir(), Config{Broker: &changes, Format: c.format, Invertible: c.invertible})
		a, _ := applier(t, t.TempDir(), &kept, ApplyConfig{Format: c.format, Sink: &sink})
		p := partition0
		rapid.Check(t, func(r *rapid.T) {
			p.Number++ // each time with nothing before it
			if _, err := d.Assigned(t.Context(), []stream.Partition{p}); err != nil {
				r.Fatal(err)
			}
			sink, changes.records = table{rows: map[string]string{}}, nil
			if _, err := a.Assigned(t.Context(), []stream.Partition{p}); err != nil {
				r.Fatal(err)
			}
			in, want := anyStates(r, p.Number, c.format)
			write(t, d, in)
			events := eventsOf(r, changes.records)
			events.Partition = p.Number
			if err := a.Write(t.Context(), events); err != nil {
				r.Fatal(err)
			}
			if diff := cmp.Diff(want, sink.rows); diff != "" {
				r.Fatalf("%s (-states +applied):\n%s", c.format, diff)
			}
		})
	}
}

// anyStates is a batch of states, and what is left of them in the end, as far as a
// format can say that.
func anyStates(r *rapid.T, partition int32, format Format) (in consumers.Batch, want map[string]string) {
	in = consumers.Batch{Topic: "in", Partition: partition}
	last, want := map[string]any{}, map[string]string{}
	for i := range rapid.IntRange(1, 12).Draw(r, "records") {
		key := rapid.SampledFrom([]string{"a", "b"}).Draw(r, "key")
		m := messageOf(int64(i), key)
		m.Partition = partition
		if rapid.IntRange(0, 4).Draw(r, "tombstone") == 0 {
			delete(last, key)
			delete(want, key)
		} else {
			v := anyValue().Draw(r, "value")
			if old, ok := last[key]; ok && rapid.Bool().Draw(r, "small") {
				v = variation(r, old)
			}
			if v == nil && format == MergePatch { // which says so of a deletion
				v = false
			}
			want[key] = canonical(r, v)
			m.Value, m.Data, last[key] = []byte(want[key]), reread(r, want[key]), reread(r, want[key])
			if format == MergePatch {
				want[key] = canonical(r, withoutNulls(reread(r, want[key])))
			}
		}
		in.Messages = append(in.Messages, m)
	}
	in.Next = int64(len(in.Messages))
	return in, want
}

// applying gives messages to an applier, as consumers.Run does: what is refused is
// left out of the second try. It returns what was.
func applying(t testing.TB, a *Applier, b consumers.Batch) (refused []string) {
	t.Helper()
	for {
		err := a.Write(t.Context(), b)
		partly := (*stream.BatchError)(nil)
		if !errors.As(err, &partly) {
			if err != nil {
				t.Fatal(err)
			}
			return refused
		}
		var rest []consumers.Message
		for i, m := range b.Messages {
			if why := partly.Errs[i]; why != nil {
				refused = append(refused, fmt.Sprintf("%d %v", m.Offset, why))
			} else {
				rest = append(rest, m)
			}
		}
		b.Messages = rest
	}
}

// What does not agree with the last value is refused, and changes nothing.
func TestWhatCannotBeApplied(t *testing.T) {
	const again = "; events of this key are missing or out of order; a snapshot by the differ brings it back"
	cannot := func(offset int, why string) string {
		return fmt.Sprintf("%d the change cannot be applied: %s", offset, why)
	}
	for _, c := range []struct {
		format  Format
		events  []string
		refused []string
		rows    map[string]string
	}{
		{Debezium, []string{
			`a={"op":"c","before":null,"after":{"x":1}}`,
			`a={"op":"u","before":{"x":2},"after":{"x":3}}`,
			`a={"op":"u","before":{"x":1.0},"after":{"x":4}}`,
			`a={"op":"u","before":{"x":1},"after":{"x":4}}`, // once more
			`a={"op":"c","before":null,"after":{"x":5}}`,
			`a={"op":"d","before":{"x":5},"after":null}`,
			`b={"op":"u","before":{"x":1},"after":{"x":2}}`,
			`b={"op":"r","after":{"x":2}}`,
			`b={"op":"u","before":null,"after":{"x":3}}`, // by one who does not know
			`c=[{"op":"add"}]`, `c={"op":"t"}`, `c={"op":"u"}`,
			`c={"op":"c","after":null}`,
			`d={"op":"c","after":1}`, `d={"op":"d","before":null}`, `d`, `e={"op":"u","after":5}`,
		}, []string{
			cannot(1, "at /before: expected the last value of the key, found another"+again),
			cannot(4, "at /before: expected nothing, since the key has no value yet, found a key that has one"+again),
			cannot(5, "at /before: expected the last value of the key, found another"+again),
			cannot(6, "at /before: expected the last value of the key, found a key that has none"+again),
			cannot(9, "at the value: expected a Debezium envelope, an object with before, after and op, found array of 1; say what format the events have"),
			cannot(10, `at /op: expected c, u, d or r, found string "t"; say what format the events have`),
			cannot(11, "at /after: expected the value after the change, found nothing"),
		}, map[string]string{"a": `{"x":4}`, "b": `{"x":3}`, "c": "null", "e": "5"}},
		{CloudEvents, []string{
			`a={"type":"penstock.created","data":{"before":null,"after":1}}`,
			`a={"type":"penstock.updated","data":{"before":2,"after":3}}`,
			`a={"type":"penstock.updated","data":{"before":1,"after":2}}`,
			`b={"type":"penstock.read","data":{"after":2}}`,
			`b={"type":"penstock.deleted","data":{"before":2,"after":null}}`,
			`c={"type":"other","data":{}}`, `c={"type":"penstock.created","data":1}`, `c=1`,
		}, []string{
			cannot(1, "at /data/before: expected the last value of the key, found another"+again),
			cannot(5, `at /type: expected penstock.created, penstock.updated, penstock.deleted or penstock.read, found string "other"; say what format the events have`),
			cannot(6, "at /data: expected an object with before and after, found number 1"),
			cannot(7, "at the value: expected a CloudEvent, an object with type and data, found number 1; say what format the events have"),
		}, map[string]string{"a": "2"}},
		{JSONPatch, []string{
			`a=[{"op":"add","path":"","value":{"x":1}}]`,
			`a=[{"op":"test","path":"/x","value":2},{"op":"replace","path":"/x","value":3}]`,
			`a=[{"op":"test","path":"/x","value":1},{"op":"replace","path":"/x","value":4}]`,
			`a=[{"op":"add","path":"/y","value":1},{"op":"test","path":"/x","value":1}]`, // none of it
			`b=[{"op":"replace","path":"/x","value":1}]`,
			`b={"op":"add"}`,
		}, []string{
			cannot(1, `apply operation 0 of the patch, test "/x": expected number 2, found number 1; the patch is of another value`),
			cannot(3, `apply operation 1 of the patch, test "/x": expected number 1, found number 4; the patch is of another value`),
			cannot(4, `apply operation 0 of the patch, replace "/x": expected an object or an array at the step "x", found nothing`),
			cannot(5, "read patch: at the value: expected an array of operations, found object of 1 fields"),
		}, map[string]string{"a": `{"x":4}`}},
		{MergePatch, []string{`a={"x":1,"y":2}`, `a={"y":null}`, `b={"x":1}`, `b=null`}, nil, map[string]string{"a": `{"x":1}`}},
	} {
		var out output
		var sink table
		a, _ := applier(t, t.TempDir(), &out, ApplyConfig{Format: c.format, Sink: &sink})
		refused := applying(t, a, batchOf(0, c.events...))
		if diff := cmp.Diff(c.refused, refused); diff != "" {
			t.Errorf("%s refuses (-want +got):\n%s", c.format, diff)
		}
		if diff := cmp.Diff(c.rows, sink.rows); diff != "" {
			t.Errorf("%s makes (-want +got):\n%s", c.format, diff)
		}
		if diff := cmp.Diff(c.rows, out.logged()); diff != "" {
			t.Errorf("%s keeps (-want +got):\n%s", c.format, diff)
		}
	}
}

// What the sink refuses is part of the state: the patch behind it is of that.
func TestRefusedStatesAreKept(t *testing.T) {
	in := batchOf(0, `a=[{"op":"add","path":"","value":{"x":1}}]`, `a=[{"op":"replace","path":"/x","value":2}]`,
		`b=[{"op":"add","path":"","value":{"x":2}}]`, `a=[{"op":"test","path":"/x","value":2},{"op":"add","path":"/y","value":3}]`, `b=[{"op":"remove","path":""}]`)
	want := map[string]string{"a": `{"x":2,"y":3}`}
	each(t, func(t *testing.T, out *output, broker Broker) {
		var sink table
		away := false
		sink.refuse = func(m consumers.Message) error {
			if string(m.Value) == `{"x":2}` {
				return errors.New("no twos")
			}
			return nil
		}
		a, _ := applier(t, t.TempDir(), out, ApplyConfig{Format: JSONPatch, Sink: &sink, Broker: broker})
		out.before = func(string) error { // then the sink has it, and the log does not
			if !away {
				away = true
				return errPublish
			}
			return nil
		}
		refused := applying(t, a, in)
		if diff := cmp.Diff([]string{"1 no twos", "2 no twos"}, refused); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(want, sink.rows); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(want, out.logged()); diff != "" {
			t.Error(diff)
		}
	})
}

// A batch that was refused in part may be written after the partition has gone and
// come back.
func TestRefusedStatesOutliveAClaim(t *testing.T) {
	in := batchOf(0, `a=[{"op":"add","path":"","value":{"x":2}}]`, `a=[{"op":"add","path":"/y","value":3}]`)
	var out output
	sink := table{refuse: func(m consumers.Message) error {
		if string(m.Value) == `{"x":2}` {
			return errors.New("no twos")
		}
		return nil
	}}
	a, _ := applier(t, t.TempDir(), &out, ApplyConfig{Format: JSONPatch, Sink: &sink})
	partly := (*stream.BatchError)(nil)
	if err := a.Write(t.Context(), in); !errors.As(err, &partly) {
		t.Fatal(err)
	}
	if err := a.Lost(t.Context(), []stream.Partition{partition0}); err != nil {
		t.Fatal(err)
	}
	if err := a.Write(t.Context(), in); !errors.Is(err, stream.ErrFenced) {
		t.Fatalf("a batch of a lost partition: %v", err)
	}
	if _, err := a.Assigned(t.Context(), []stream.Partition{partition0}); err != nil {
		t.Fatal(err)
	}
	in.Messages = in.Messages[1:]
	if err := a.Write(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"a": `{"x":2,"y":3}`}, sink.rows); diff != "" {
		t.Error(diff)
	}
}

// Interrupted anywhere, an applier stores each state once, and with the folder gone
// the same ones.
func TestAppliedOnce(t *testing.T) {
	var events []string
	for i := range 40 {
		key := fmt.Sprintf("k%d", i%3)
		switch {
		case i < 3:
			events = append(events, key+`=[{"op":"add","path":"","value":{"n":0,"all":[]}}]`)
		default:
			events = append(events, fmt.Sprintf(`%s=[{"op":"test","path":"/n","value":%d},{"op":"replace","path":"/n","value":%d},{"op":"add","path":"/all/-","value":%d}]`, key, (i/3)-1, i/3, i))
		}
	}
	var clean table
	var out output
	a, _ := applier(t, t.TempDir(), &out, ApplyConfig{Format: JSONPatch, Sink: &clean})
	if refused := applying(t, a, batchOf(0, events...)); len(refused) > 0 {
		t.Fatal(refused)
	}
	each(t, func(t *testing.T, out *output, broker Broker) {
		var sink table
		dir := t.TempDir()
		where := map[string]int{}
		for run := 0; sink.next < 40 || run < 12; run++ {
			if run > 100 {
				t.Fatal("no end")
			}
			if run%3 == 2 {
				dir = t.TempDir()
			}
			a, at := applier(t, dir, out, ApplyConfig{Format: JSONPatch, Sink: &sink, Broker: broker})
			if sink.next < at {
				t.Fatalf("the state is at %d, the sink at %d", at, sink.next)
			}
			steps := []string{"compared", "emitted", "logged"}
			killed := steps[run%3]
			a.d.step = func(step string) {
				if step == killed {
					where[step]++
					panic(errPublish)
				}
			}
			err := func() (err error) {
				defer func() {
					if r := recover(); r != nil {
						err = r.(error)
					}
				}()
				if at >= 40 {
					return errPublish
				}
				return a.Write(t.Context(), batchOf(at, events[at:min(at+7, 40)]...))
			}()
			if !errors.Is(err, errPublish) {
				t.Fatal(err)
			}
			if err := a.d.store.close(); err != nil {
				t.Fatal(err)
			}
		}
		if len(where) != 3 {
			t.Errorf("killed at %v", where)
		}
		if diff := cmp.Diff(clean.history, sink.history); diff != "" {
			t.Errorf("states (-want +got):\n%s", diff)
		}
		if !maps.Equal(clean.rows, sink.rows) {
			t.Errorf("rows are %v", sink.rows)
		}
	})
}

// A sink that fails for a passing reason is asked again, and is not the log's fault.
func TestPassingErrorOfTheSink(t *testing.T) {
	var out output
	sink := table{fail: errors.New("database is away")}
	a, _ := applier(t, t.TempDir(), &out, ApplyConfig{Sink: &sink})
	in := batchOf(0, `a={"op":"c","after":1}`)
	if err := a.Write(t.Context(), in); err == nil || !strings.Contains(err.Error(), "database is away") {
		t.Fatalf("got %v", err)
	}
	if err := a.Write(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if sink.rows["a"] != "1" {
		t.Errorf("rows are %v", sink.rows)
	}
}

// A state that is ahead of the sink, or of another job, is of no use.
func TestStateAndSinkMustAgree(t *testing.T) {
	var out output
	var sink table
	dir := t.TempDir()
	a, _ := applier(t, dir, &out, ApplyConfig{Sink: &sink})
	if err := a.Write(t.Context(), batchOf(0, `a={"op":"c","after":1}`)); err != nil {
		t.Fatal(err)
	}
	a.Close()
	d, err := Open(dir, Config{Broker: &out, Name: "g", Topic: "out"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Assigned(t.Context(), []stream.Partition{partition0}); err == nil || !strings.Contains(err.Error(), "choose another group") {
		t.Errorf("a differ takes the state: %v", err)
	}
	d.Close()
	for _, c := range []struct {
		sink table
		ok   bool
	}{{sink, true}, {table{}, false}} {
		plain := anyJSON(t)
		a, err := OpenApplier(dir, ApplyConfig{Broker: &out, Name: "g", Sink: &c.sink, Schema: func(context.Context) (schemas.Registered, error) { return schemas.Registered{Schema: plain}, nil }})
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Assigned(t.Context(), []stream.Partition{partition0})
		if (err == nil) != c.ok || err != nil && !errors.Is(err, consumers.ErrStop) {
			t.Errorf("a sink at %d: %v", c.sink.next, err)
		}
		a.Close()
	}
}

// States are written in a schema that is more than JSON, and tombstones name none.
func TestAppliedInASchema(t *testing.T) {
	s, err := avro.Format{}.Parse(`{"type":"record","name":"R","fields":[{"name":"b","type":["null","bytes"]},{"name":"t","type":{"type":"int","logicalType":"time-millis"}}]}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"b": []byte{255, 0}, "t": 5 * time.Second}
	state, err := schemas.AppendJSON(nil, want)
	if err != nil {
		t.Fatal(err)
	}
	var out output
	var got []consumers.Message
	sink := table{refuse: func(m consumers.Message) error {
		got = append(got, m)
		return nil
	}}
	a, _ := applier(t, t.TempDir(), &out, ApplyConfig{Sink: &sink, Schema: func(context.Context) (schemas.Registered, error) {
		return schemas.Registered{ID: 7, Schema: s}, nil
	}})
	in := batchOf(0, fmt.Sprintf(`a={"op":"c","after":%s}`, state), `b={"op":"c","after":{"b":1}}`, `a={"op":"d"}`)
	in.Messages[0].Headers = []stream.Header{{Key: schemas.ValueHeader, Value: []byte("of the event")}, {Key: "x", Value: []byte("y")}}
	if refused := applying(t, a, in); len(refused) != 1 || !strings.HasPrefix(refused[0], "1 the state does not fit the schema: at /b: ") {
		t.Errorf("refused: %q", refused)
	}
	if len(got) != 2 || got[1].Value != nil || got[1].Schema != nil {
		t.Fatalf("the sink got %+v", got)
	}
	h, body, err := schemas.ParseHeader(got[0].Value)
	if err != nil || h.ID != 7 || got[0].SchemaID != 7 || len(got[0].Headers) != 1 {
		t.Errorf("the state is %+v: %v", got[0], err)
	}
	if v, err := schemas.Decode(s, body, schemas.Limits{}); err != nil || cmp.Diff(want, v) != "" || cmp.Diff(want, got[0].Data) != "" {
		t.Errorf("the state says %v, %v: %v", v, got[0].Data, err)
	}
}
