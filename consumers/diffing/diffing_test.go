package diffing

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/stream"
)

var partition0 = stream.Partition{Cluster: "c1", Topic: "in", Incarnation: "i1"}

// open opens a Differ that has claimed partition 0.
func open(t testing.TB, dir string, c Config) (*Differ, int64) {
	t.Helper()
	c.Topic, c.Name = "out", "g"
	d, err := Open(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	starts, err := d.Assigned(t.Context(), []stream.Partition{partition0})
	if err != nil {
		t.Fatal(err)
	}
	return d, starts[partition0]
}

// batchOf is a batch of partition 0 that holds values as messages from offset
// first; a value is "key=JSON", or "key" for a tombstone.
func batchOf(first int64, values ...string) consumers.Batch {
	b := consumers.Batch{Topic: "in", First: first, Next: first + int64(len(values))}
	for i, s := range values {
		b.Messages = append(b.Messages, messageOf(first+int64(i), s))
	}
	return b
}

func messageOf(offset int64, s string) consumers.Message {
	key, text, ok := strings.Cut(s, "=")
	m := consumers.Message{Record: stream.Record{
		Topic: "in", Key: []byte(key), Offset: offset, Time: time.UnixMilli(1000 + offset),
	}}
	if ok {
		m.Value = []byte(text)
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&m.Data); err != nil {
			panic(err)
		}
	}
	return m
}

// lines shows records as "offset key value".
func lines(records []stream.Record) []string {
	var out []string
	for _, r := range records {
		id, _ := r.Header(IDHeader)
		offset := string(id[strings.LastIndex(string(id), "/")+1:])
		value := "tombstone"
		if r.Value != nil {
			value = string(r.Value)
		}
		out = append(out, strings.TrimSpace(offset+" "+string(r.Key)+" "+value))
	}
	return out
}

func write(t testing.TB, d *Differ, b consumers.Batch) {
	t.Helper()
	if err := d.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func expectLines(t testing.TB, got []stream.Record, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, lines(got)); d != "" {
		t.Error(d)
	}
}

func TestDebezium(t *testing.T) {
	var out output
	d, _ := open(t, t.TempDir(), Config{Broker: &out})
	write(t, d, batchOf(5, `a={"x":1.0,"n":null}`, `b=7`, `a={"n":null,"x":1}`, `a={"x":2}`, `c`, `a`, `a`, `a=null`))
	write(t, d, batchOf(13, `b=8`))
	expectLines(t, out.records,
		`5 a {"before":null,"after":{"n":null,"x":1},"source":{"topic":"in","partition":0,"offset":5,"ts_ms":1005},"op":"c","ts_ms":1005}`,
		`6 b {"before":null,"after":7,"source":{"topic":"in","partition":0,"offset":6,"ts_ms":1006},"op":"c","ts_ms":1006}`,
		`8 a {"before":{"n":null,"x":1},"after":{"x":2},"source":{"topic":"in","partition":0,"offset":8,"ts_ms":1008},"op":"u","ts_ms":1008}`,
		`10 a {"before":{"x":2},"after":null,"source":{"topic":"in","partition":0,"offset":10,"ts_ms":1010},"op":"d","ts_ms":1010}`,
		`a tombstone`,
		`12 a {"before":null,"after":null,"source":{"topic":"in","partition":0,"offset":12,"ts_ms":1012},"op":"c","ts_ms":1012}`,
		`13 b {"before":7,"after":8,"source":{"topic":"in","partition":0,"offset":13,"ts_ms":1013},"op":"u","ts_ms":1013}`,
	)
	id, _ := out.records[0].Header(IDHeader)
	if string(id) != "c1/in/i1/0/5" {
		t.Errorf("id is %q", id)
	}
	if r := out.records[0]; r.Topic != "out" || !r.Time.Equal(time.UnixMilli(1005)) {
		t.Errorf("record is %+v", r)
	}
}

func TestPatchFormats(t *testing.T) {
	in := batchOf(0, `a={"x":1,"y":2}`, `a={"x":1,"z":null}`, `a`)
	var out output
	d, _ := open(t, t.TempDir(), Config{Broker: &out, Format: JSONPatch})
	write(t, d, in)
	expectLines(t, out.records,
		`0 a [{"op":"add","path":"","value":{"x":1,"y":2}}]`,
		`1 a [{"op":"remove","path":"/y"},{"op":"add","path":"/z","value":null}]`,
		`2 a [{"op":"remove","path":""}]`, `a tombstone`)

	out = output{}
	d, _ = open(t, t.TempDir(), Config{Broker: &out, Format: MergePatch})
	write(t, d, in)
	expectLines(t, out.records, `0 a {"x":1,"y":2}`, `1 a {"y":null}`, `2 a null`, `a tombstone`)

	out = output{}
	d, _ = open(t, t.TempDir(), Config{Broker: &out, Format: JSONPatch, Invertible: true})
	write(t, d, in)
	expectLines(t, out.records,
		`0 a [{"op":"add","path":"","value":{"x":1,"y":2}}]`,
		`1 a [{"op":"test","path":"/y","value":2},{"op":"remove","path":"/y"},{"op":"add","path":"/z","value":null}]`,
		`2 a [{"op":"test","path":"","value":{"x":1,"z":null}},{"op":"remove","path":""}]`, `a tombstone`)

	out = output{}
	d, _ = open(t, t.TempDir(), Config{Broker: &out, Format: CloudEvents})
	write(t, d, batchOf(0, `a="x"`, "\xff=1", `a=2`, `a`))
	event := func(offset int, what, subject, data string) string {
		return fmt.Sprintf(`{"specversion":"1.0","id":"c1/in/i1/0/%d","source":"/in","type":"penstock.%s",%s"time":"1970-01-01T00:00:01.00%dZ","datacontenttype":"application/json","data":%s}`,
			offset, what, subject, offset, data)
	}
	for i, want := range []string{
		strings.Replace(event(0, "created", `"subject":"a",`, `{"before":null,"after":"x"}`), "01.000Z", "01Z", 1),
		event(1, "created", "", `{"before":null,"after":1}`),
		event(2, "updated", `"subject":"a",`, `{"before":"x","after":2}`),
		event(3, "deleted", `"subject":"a",`, `{"before":2,"after":null}`),
		"",
	} {
		if got := string(out.records[i].Value); got != want {
			t.Errorf("event %d is %s, want %s", i, got, want)
		}
	}
}

func TestIgnoredPlacesMakeNoEvent(t *testing.T) {
	var out output
	d, _ := open(t, t.TempDir(), Config{Broker: &out, Format: JSONPatch, Rules: Rules{Ignore: []string{"/at", "/by/id"}}})
	write(t, d, batchOf(0,
		`a={"at":1,"by":{"id":1,"name":"x"},"attic":1}`,
		`a={"at":{"h":2},"by":{"id":2,"name":"x"},"attic":1}`,
		`a={"at":{"h":2},"by":{"id":3,"name":"x"},"attic":2}`,
		`a={"at":3,"by":{"id":3,"name":"x"},"attic":2}`,
		`a={"by":{"id":3,"name":"x"},"attic":2}`))
	expectLines(t, out.records,
		`0 a [{"op":"add","path":"","value":{"at":1,"attic":1,"by":{"id":1,"name":"x"}}}]`,
		`2 a [{"op":"replace","path":"/at","value":{"h":2}},{"op":"replace","path":"/attic","value":2},{"op":"replace","path":"/by/id","value":3}]`)
}

func TestKeyField(t *testing.T) {
	var out output
	d, _ := open(t, t.TempDir(), Config{Broker: &out, Format: MergePatch, KeyField: "id"})
	write(t, d, batchOf(0, `r={"id":"a","v":1}`, `s={"id":1.0,"v":1}`, `t={"id":1,"v":2}`, `u={"id":true}`))
	expectLines(t, out.records, `0 a {"id":"a","v":1}`, `1 1 {"id":1,"v":1}`, `2 1 {"v":2}`, `3 true {"id":true}`)
}

func TestWhatCannotBeComparedIsRefused(t *testing.T) {
	f := func(c Config, m consumers.Message, want string) {
		t.Helper()
		var out output
		c.Broker = &out
		d, _ := open(t, t.TempDir(), c)
		b := batchOf(0, `a={"id":1}`, `bad`, `a={"id":1,"v":2}`)
		m.Offset = 1
		b.Messages[1] = m
		err := d.Write(t.Context(), b)
		var bad *stream.BatchError
		if !errors.As(err, &bad) || len(bad.Errs) != 1 || bad.Errs[1] == nil || !strings.Contains(bad.Errs[1].Error(), want) {
			t.Errorf("got %v, want %q for record 1", err, want)
		}
		if len(out.records) > 0 {
			t.Errorf("published %v though the batch was refused", lines(out.records))
		}
		b.Messages = slices.Delete(b.Messages, 1, 2)
		write(t, d, b)
		if len(out.records) != 2 {
			t.Errorf("published %v without the bad one", lines(out.records))
		}
	}
	value := func(key []byte, data any) consumers.Message {
		return consumers.Message{Record: stream.Record{Topic: "in", Key: key, Value: []byte("x")}, Data: data}
	}
	type m = map[string]any
	f(Config{}, value(nil, "x"), "expected a record with a key, found none")
	f(Config{}, value([]byte("k"), m{"a": "\xff"}), "at /a: expected text in UTF-8")
	f(Config{}, value(make([]byte, maxKey+1), "x"), "expected a key of at most 32000 bytes, found 32001")
	f(Config{MaxValueBytes: 2000}, value([]byte("k"), strings.Repeat("x", 2000)), "record too large")
	f(Config{MaxValueBytes: 2000, Format: MergePatch}, value([]byte("k"), strings.Repeat("x", 1500)), "the state of this key has")
	f(Config{KeyField: "id"}, value([]byte("k"), m{"i/d": 1}), "at /id: expected the key, found nothing")
	f(Config{KeyField: "id"}, value([]byte("k"), m{"id": nil}), "at /id: expected the key, a single value, found null")
	f(Config{KeyField: "id"}, value([]byte("k"), m{"id": m{}}), "at /id: expected the key, a single value")
	f(Config{KeyField: "id"}, value([]byte("k"), "x"), "expected an object with the key in field")
	f(Config{KeyField: "id"}, consumers.Message{Record: stream.Record{Topic: "in", Key: []byte("k")}}, "found a tombstone")
}

func TestEmptyKeyIsAKey(t *testing.T) {
	var out output
	dir := t.TempDir()
	d, _ := open(t, dir, Config{Broker: &out, Format: MergePatch})
	write(t, d, batchOf(0, `=1`, `=2`))
	d.Close()
	d, _ = open(t, dir, Config{Broker: &out, Format: MergePatch})
	write(t, d, batchOf(2, `=2`, `=3`))
	expectLines(t, out.records, `0  1`, `1  2`, `3  3`)
}

func TestRedeliveryAndFencing(t *testing.T) {
	var out output
	d, _ := open(t, t.TempDir(), Config{Broker: &out, Format: MergePatch})
	write(t, d, batchOf(7, `a=1`, `a=2`)) // the first batch may start anywhere
	write(t, d, batchOf(7, `a=1`, `a=2`))
	write(t, d, batchOf(8, `a=2`, `a=3`))
	write(t, d, consumers.Batch{Topic: "in", First: 10, Next: 20})
	expectLines(t, out.records, `7 a 1`, `8 a 2`, `9 a 3`)

	if err := d.Write(t.Context(), batchOf(21, `a=4`)); !errors.Is(err, consumers.ErrStop) {
		t.Errorf("a hole gives %v", err)
	}
	if err := d.Lost(t.Context(), []stream.Partition{partition0}); err != nil {
		t.Fatal(err)
	}
	if err := d.Write(t.Context(), batchOf(20, `a=4`)); !errors.Is(err, stream.ErrFenced) {
		t.Errorf("a lost partition gives %v", err)
	}
	starts, err := d.Assigned(t.Context(), []stream.Partition{partition0})
	if err != nil || starts[partition0] != 20 {
		t.Errorf("starts %v, %v", starts, err)
	}
	write(t, d, batchOf(25, `a=5`)) // the first batch of a claim may leave out offsets
	expectLines(t, out.records[3:], `25 a 5`)
}

func TestOpenRefuses(t *testing.T) {
	f := func(c Config, want string) {
		t.Helper()
		if _, err := Open(t.TempDir(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%+v) = %v, want %q", c, err, want)
		}
	}
	f(Config{Broker: &output{}, Topic: "x", Name: "g", Format: "xml"}, `"xml" is not known: choose debezium, json-patch, merge-patch or cloudevents`)
	f(Config{Topic: "x", Name: "g"}, "broker")
	f(Config{Broker: &output{}, Name: "g"}, "topic")
	f(Config{Broker: &output{}, Topic: "x", Name: "g", Rules: Rules{Ignore: []string{"at"}}}, `starts with a slash, as in "/at"`)
	f(Config{Broker: &output{}, Topic: "x", Name: "g", Rules: Rules{Ignore: []string{""}}}, "nothing would count")
	f(Config{Broker: &output{}, Topic: "x", Name: "g", Version: "v"}, `version "v" is not a JSON Pointer`)
	f(Config{Broker: &output{}, Topic: "x", Name: "g", TTL: -1}, "TTL")
}

func TestStateFolderInUse(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, Config{Broker: &output{}})
	_, err := Open(dir, Config{Broker: &output{}, Topic: "out", Name: "g"})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
}

func TestStateFolderThatCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(file, "state"), Config{Broker: &output{}, Topic: "out", Name: "g"}); err == nil || errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

// Of the records of a key, one with a lower version than the newest is left out.
func TestVersions(t *testing.T) {
	var out output
	dir := t.TempDir()
	config := Config{Broker: &out, Format: MergePatch, Version: "/meta/at", Rules: Rules{Ignore: []string{"/meta"}}}
	d, _ := open(t, dir, config)
	write(t, d, batchOf(0, `a={"meta":{"at":9},"v":1}`, `a={"meta":{"at":10},"v":1}`, `b={"meta":{"at":"2026-01-01T02:00:00+01:00"},"v":1}`))
	d.Close()
	d, at := open(t, t.TempDir(), config) // the versions are in the log
	write(t, d, batchOf(at,
		`a={"meta":{"at":9.5},"v":2}`, `a={"meta":{"at":10.0},"v":3}`,
		`b={"meta":{"at":"2026-01-01T00:59:59Z"},"v":2}`, `b={"meta":{"at":"2026-01-01T01:00:00Z"},"v":3}`, `b`, `b={"meta":{"at":"a"},"v":4}`))
	expectLines(t, out.records,
		`0 a {"meta":{"at":9},"v":1}`, `2 b {"meta":{"at":"2026-01-01T02:00:00+01:00"},"v":1}`,
		`4 a {"meta":{"at":10},"v":3}`, `6 b {"meta":{"at":"2026-01-01T01:00:00Z"},"v":3}`, `7 b null`, `b tombstone`,
		`8 b {"meta":{"at":"a"},"v":4}`)
	err := d.Write(t.Context(), batchOf(9, `a={"meta":{}}`, `a={"meta":{"at":[]}}`))
	var bad *stream.BatchError
	if !errors.As(err, &bad) || len(bad.Errs) != 2 || !strings.Contains(bad.Errs[0].Error(), "at /meta/at: expected the version, a number or a text, found nothing") {
		t.Errorf("records without a version give %v", err)
	}
}

// A key of which nothing comes is deleted once records that much newer come.
func TestTTL(t *testing.T) {
	var out output
	dir := t.TempDir()
	config := Config{Broker: &out, TTL: 10 * time.Millisecond}
	later := func(ms int64, b consumers.Batch) consumers.Batch { // than the millisecond from record to record
		for i := range b.Messages {
			b.Messages[i].Time = b.Messages[i].Time.Add(time.Duration(ms) * time.Millisecond)
		}
		return b
	}
	d, _ := open(t, dir, config)
	write(t, d, batchOf(0, `a=1`, `b=1`))
	write(t, d, later(6, batchOf(2, `a=1`)))
	write(t, d, later(9, batchOf(3, `c=1`)))
	d.Close()
	d, _ = open(t, t.TempDir(), config)
	write(t, d, later(9, batchOf(4, `d=1`)))
	expectLines(t, out.records[2:],
		`3 c {"before":null,"after":1,"source":{"topic":"in","partition":0,"offset":3,"ts_ms":1012},"op":"c","ts_ms":1012}`,
		`1.0 b {"before":1,"after":null,"source":{"topic":"in","partition":0,"offset":4,"ts_ms":1012},"op":"d","ts_ms":1012}`, `b tombstone`,
		`4 d {"before":null,"after":1,"source":{"topic":"in","partition":0,"offset":4,"ts_ms":1013},"op":"c","ts_ms":1013}`)
	if got := contents(d); len(got) != 3 || got["b"] != "" {
		t.Errorf("the state is %v", got)
	}
	write(t, d, later(13, batchOf(5, `a=1`)))
	write(t, d, later(14, batchOf(6, `c=1`)))
	write(t, d, later(15, batchOf(7, `c=1`)))
	if got := contents(d); len(got) != 3 {
		t.Errorf("the state is %v: what was seen again has expired", got)
	}
	// Without a TTL the list by time is not kept; with one it is made from the log.
	config.TTL = 0
	d.Close()
	d, _ = open(t, dir, config)
	write(t, d, later(15, batchOf(8, `e=1`)))
	config.TTL = 10 * time.Millisecond
	d.Close()
	d, _ = open(t, dir, config)
	write(t, d, later(40, batchOf(9, `f=1`)))
	write(t, d, later(40, batchOf(10, `f=1`)))
	if got := contents(d); len(got) != 1 || got["f"] != "1" {
		t.Errorf("the state is %v", got)
	}
}

// A snapshot is written once for each name, whatever it is interrupted by.
func TestSnapshot(t *testing.T) {
	each(t, func(t *testing.T, out *output, b Broker) {
		config := Config{Broker: b, Snapshot: "first"}
		d, _ := open(t, t.TempDir(), config)
		var values []string
		for i := range 3*stepKeys - 1 {
			values = append(values, fmt.Sprintf("k%04d=%d", i, i))
		}
		write(t, d, batchOf(0, values...))
		if len(out.records) != len(values) {
			t.Errorf("%d events, and there was nothing to take a snapshot of", len(out.records))
		}
		d.Close()
		out.records = nil
		commits := 0
		for life := 0; ; life++ {
			out.before = func(topic string) error {
				if commits++; commits%2 == 0 {
					return errPublish
				}
				return nil
			}
			out.after = out.before
			config.Topic, config.Name = "out", "g"
			d, err := Open(t.TempDir(), config)
			if err != nil {
				t.Fatal(err)
			}
			_, err = d.Assigned(t.Context(), []stream.Partition{partition0})
			d.Close()
			if err == nil {
				break
			}
			if !errors.Is(err, errPublish) || life > 20 {
				t.Fatal(err)
			}
		}
		out.before, out.after = nil, nil
		open(t, t.TempDir(), config)
		var keys []string
		for _, r := range out.records {
			keys = append(keys, string(r.Key))
			if want := fmt.Sprintf(`{"before":null,"after":%d,`, len(keys)-1); !strings.HasPrefix(string(r.Value), want) || !strings.Contains(string(r.Value), `"op":"r"`) {
				t.Fatalf("event %d is %s", len(keys)-1, r.Value)
			}
		}
		if len(keys) != len(values) {
			t.Errorf("%d events of a snapshot of %d keys", len(keys), len(values))
		}
		config.Snapshot = "second"
		open(t, t.TempDir(), config)
		if len(out.records) != 2*len(values) {
			t.Errorf("%d events after a second snapshot", len(out.records))
		}
	})
}

// A field that a new schema adds, with its default, or drops is no change.
func TestSchemaEvolution(t *testing.T) {
	parse := func(fields string) schemas.Schema {
		s, err := avro.Format{}.Parse(`{"type":"record","name":"r","fields":[`+fields+`]}`, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	x, y := `{"name":"x","type":"int"}`, `{"name":"y","type":["null",{"type":"record","name":"s","fields":[{"name":"z","type":"int","default":7}]}],"default":null}`
	one, two := parse(x+`,{"name":"old","type":"int","default":0}`), parse(x+`,`+y)
	var out output
	d, _ := open(t, t.TempDir(), Config{Broker: &out, Format: JSONPatch})
	type m = map[string]any
	b := consumers.Batch{Topic: "in"}
	for _, v := range []struct {
		id   schemas.ID
		s    schemas.Schema
		data any
	}{
		{1, one, m{"x": int32(1), "old": int32(5)}},
		{2, two, m{"x": int32(1), "y": nil}},
		{2, two, m{"x": int32(1), "y": m{"z": int32(7)}}},
		{2, two, m{"x": int32(1), "y": m{"z": int32(8)}}},
	} {
		b.Messages = append(b.Messages, consumers.Message{
			Record:   stream.Record{Topic: "in", Key: []byte("a"), Value: []byte("x"), Offset: b.Next},
			SchemaID: v.id, Schema: v.s, Data: v.data,
		})
		b.Next++
	}
	write(t, d, b)
	expectLines(t, out.records,
		`0 a [{"op":"add","path":"","value":{"old":5,"x":1}}]`,
		`2 a [{"op":"remove","path":"/old"},{"op":"add","path":"/y","value":{"z":7}}]`,
		`3 a [{"op":"replace","path":"/y/z","value":8}]`)
}
