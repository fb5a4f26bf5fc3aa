package diffing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
	"penstock/stream/memory"
)

// output is a Publisher that keeps what it is given. Its failures are scripted:
// each Publish takes the next of fail, durable records first, then an error.
type output struct {
	records []stream.Record
	fail    []int // how many records are durable before Publish fails; -1: all, and no failure
}

var errPublish = errors.New("connection lost")

func (o *output) Publish(_ context.Context, records ...stream.Record) error {
	if len(o.fail) == 0 || o.fail[0] < 0 {
		o.fail = o.fail[min(1, len(o.fail)):]
		o.records = append(o.records, records...)
		return nil
	}
	durable := min(o.fail[0], len(records))
	o.fail = o.fail[1:]
	o.records = append(o.records, records[:durable]...)
	return errPublish
}

var partition0 = stream.Partition{Cluster: "c1", Topic: "in", Incarnation: "i1"}

// open opens a Differ that has claimed partition 0.
func open(t testing.TB, dir string, c Config) (*Differ, int64) {
	t.Helper()
	c.Topic = "out"
	d, err := Open(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	d.store.db.NoSync = true // for speed: what is tested is the death of a process, not of a machine
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
	d, _ := open(t, t.TempDir(), Config{Publisher: &out})
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
	d, _ := open(t, t.TempDir(), Config{Publisher: &out, Format: JSONPatch})
	write(t, d, in)
	expectLines(t, out.records,
		`0 a [{"op":"add","path":"","value":{"x":1,"y":2}}]`,
		`1 a [{"op":"remove","path":"/y"},{"op":"add","path":"/z","value":null}]`,
		`2 a [{"op":"remove","path":""}]`, `a tombstone`)

	out = output{}
	d, _ = open(t, t.TempDir(), Config{Publisher: &out, Format: MergePatch})
	write(t, d, in)
	expectLines(t, out.records, `0 a {"x":1,"y":2}`, `1 a {"y":null}`, `2 a null`, `a tombstone`)

	out = output{}
	d, _ = open(t, t.TempDir(), Config{Publisher: &out, Format: JSONPatch, Invertible: true})
	write(t, d, in)
	expectLines(t, out.records,
		`0 a [{"op":"add","path":"","value":{"x":1,"y":2}}]`,
		`1 a [{"op":"test","path":"/y","value":2},{"op":"remove","path":"/y"},{"op":"add","path":"/z","value":null}]`,
		`2 a [{"op":"test","path":"","value":{"x":1,"z":null}},{"op":"remove","path":""}]`, `a tombstone`)

	out = output{}
	d, _ = open(t, t.TempDir(), Config{Publisher: &out, Format: CloudEvents})
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
	d, _ := open(t, t.TempDir(), Config{Publisher: &out, Format: JSONPatch, Rules: Rules{Ignore: []string{"/at", "/by/id"}}})
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
	d, _ := open(t, t.TempDir(), Config{Publisher: &out, Format: MergePatch, KeyField: "id"})
	write(t, d, batchOf(0, `r={"id":"a","v":1}`, `s={"id":1.0,"v":1}`, `t={"id":1,"v":2}`, `u={"id":true}`))
	expectLines(t, out.records, `0 a {"id":"a","v":1}`, `1 1 {"id":1,"v":1}`, `2 1 {"v":2}`, `3 true {"id":true}`)
}

func TestWhatCannotBeComparedIsRefused(t *testing.T) {
	f := func(c Config, m consumers.Message, want string) {
		t.Helper()
		var out output
		c.Publisher = &out
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
	f(Config{MaxValueBytes: 400}, value([]byte("k"), strings.Repeat("x", 400)), "record too large")
	f(Config{KeyField: "id"}, value([]byte("k"), m{"i/d": 1}), "at /id: expected the key, found nothing")
	f(Config{KeyField: "id"}, value([]byte("k"), m{"id": nil}), "at /id: expected the key, a single value, found null")
	f(Config{KeyField: "id"}, value([]byte("k"), m{"id": m{}}), "at /id: expected the key, a single value")
	f(Config{KeyField: "id"}, value([]byte("k"), "x"), "expected an object with the key in field")
	f(Config{KeyField: "id"}, consumers.Message{Record: stream.Record{Topic: "in", Key: []byte("k")}}, "found a tombstone")
}

func TestEmptyKeyIsAKey(t *testing.T) {
	var out output
	dir := t.TempDir()
	d, _ := open(t, dir, Config{Publisher: &out, Format: MergePatch})
	write(t, d, batchOf(0, `=1`, `=2`))
	d.Close()
	d, _ = open(t, dir, Config{Publisher: &out, Format: MergePatch})
	write(t, d, batchOf(2, `=2`, `=3`))
	expectLines(t, out.records, `0  1`, `1  2`, `3  3`)
}

// The state and the position move in one transaction, and only after the events
// are durable.
func TestOneTransactionABatch(t *testing.T) {
	var out output
	d, _ := open(t, t.TempDir(), Config{Publisher: &out})
	transaction := func() (id int) {
		if err := d.store.db.View(func(tx *bolt.Tx) error { id = tx.ID(); return nil }); err != nil {
			t.Fatal(err)
		}
		return id
	}
	before := transaction()
	write(t, d, batchOf(0, `a=1`, `b=2`, `a`))
	if n := transaction() - before; n != 1 {
		t.Errorf("a batch took %d transactions", n)
	}
	before = transaction()
	out.fail = []int{1}
	if err := d.Write(t.Context(), batchOf(3, `c=1`, `d=2`)); !errors.Is(err, errPublish) {
		t.Errorf("got %v", err)
	}
	if n := transaction() - before; n != 0 {
		t.Errorf("a batch that was not published took %d transactions", n)
	}
}

// A log of states, cut into batches in any way, with the publisher failing and
// the process starting again at any step: the events that stay when those
// already seen are dropped are those of an uninterrupted run, and an event
// emitted again is the same to the byte.
func TestEveryChangeOnce(t *testing.T) {
	base := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		dir := filepath.Join(base, strconv.Itoa(runs))
		config := Config{Format: rapid.SampledFrom([]Format{Debezium, JSONPatch, MergePatch}).Draw(rt, "format")}
		n := rapid.IntRange(1, 12).Draw(rt, "records")
		var log []string
		for range n {
			log = append(log, rapid.SampledFrom([]string{"a=1", "a=2", "a", "b=1", `b={"x":1}`, `b={"x":2,"y":[1]}`, "b"}).Draw(rt, "record"))
		}
		var clean output
		config.Publisher = &clean
		d, _ := open(t, dir+"-clean", config)
		write(t, d, batchOf(0, log...))
		d.Close()

		var out output
		config.Publisher = &out
		var at int64
		d, at = open(t, dir, config)
		for at < int64(n) {
			size := int64(rapid.IntRange(1, n-int(at)).Draw(rt, "size"))
			out.fail = []int{rapid.IntRange(-1, 4).Draw(rt, "durable")}
			b := batchOf(at, log[at:at+size]...)
			err := d.Write(t.Context(), b)
			if err != nil && !errors.Is(err, errPublish) {
				rt.Fatal(err)
			}
			switch restart := rapid.Bool().Draw(rt, "restart"); {
			case restart:
				d.Close()
				was := at
				if d, at = open(t, dir, config); err != nil && at != was || err == nil && at != b.Next {
					rt.Fatalf("after %v the position is %d", err, at)
				}
			case err == nil:
				at = b.Next
			}
		}
		d.Close()

		seen := map[string]string{}
		last := map[string]int64{}
		var once []stream.Record
		for i := 0; i < len(out.records); i++ {
			r := out.records[i]
			id, ok := r.Header(IDHeader)
			if !ok {
				continue // the tombstone of a deletion
			}
			if was, ok := seen[string(id)]; ok && was != string(r.Value) {
				rt.Fatalf("event %s was %s, and then %s", id, was, r.Value)
			}
			seen[string(id)] = string(r.Value)
			offset, _ := strconv.ParseInt(string(id[strings.LastIndex(string(id), "/")+1:]), 10, 64)
			if old, ok := last[string(r.Key)]; ok && offset <= old {
				continue
			}
			last[string(r.Key)] = offset
			once = append(once, r)
		}
		want := slices.DeleteFunc(lines(clean.records), func(s string) bool { return strings.HasSuffix(s, "tombstone") })
		if d := cmp.Diff(want, lines(once)); d != "" {
			rt.Fatal(d)
		}
	})
}

func TestRedeliveryAndFencing(t *testing.T) {
	var out output
	d, _ := open(t, t.TempDir(), Config{Publisher: &out, Format: MergePatch})
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

// A claim that is lost while its events are published moves nothing.
func TestClaimLostDuringPublish(t *testing.T) {
	lose := &losing{}
	d, _ := open(t, t.TempDir(), Config{Publisher: lose})
	lose.differ = d
	if err := d.Write(t.Context(), batchOf(0, `a=1`)); !errors.Is(err, stream.ErrFenced) {
		t.Errorf("got %v", err)
	}
	starts, err := d.Assigned(t.Context(), []stream.Partition{partition0})
	if err != nil || len(starts) > 0 {
		t.Errorf("starts %v, %v", starts, err)
	}
}

type losing struct{ differ *Differ }

func (l *losing) Publish(ctx context.Context, _ ...stream.Record) error {
	return l.differ.Lost(ctx, []stream.Partition{partition0})
}

// tooLarge refuses the values that are larger than it.
type tooLarge int

func (n tooLarge) Publish(_ context.Context, records ...stream.Record) error {
	var bad stream.BatchError
	for i, r := range records {
		if len(r.Value) > int(n) {
			bad.Fail(i, stream.ErrTooLarge)
		}
	}
	return bad.OrNil()
}

type failing struct{ err error }

func (f failing) Publish(context.Context, ...stream.Record) error { return f.err }

func TestPublishFailures(t *testing.T) {
	d, _ := open(t, t.TempDir(), Config{Publisher: tooLarge(5), Format: MergePatch})
	err := d.Write(t.Context(), batchOf(0, `a=1`, `a`, `b="too long"`))
	var bad *stream.BatchError
	if !errors.As(err, &bad) || len(bad.Errs) != 1 || !errors.Is(bad.Errs[2], stream.ErrTooLarge) {
		t.Errorf("an event beyond the broker's limit gives %v", err)
	}
	// Any other failure is passing: it names no message.
	d, _ = open(t, t.TempDir(), Config{Publisher: failing{&stream.BatchError{Errs: map[int]error{1: errPublish}}}})
	err = d.Write(t.Context(), batchOf(0, `a=1`, `b=1`))
	if errors.As(err, &bad) || !errors.Is(err, errPublish) {
		t.Errorf("an event that was not written gives %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	f := func(c Config, want string) {
		t.Helper()
		if _, err := Open(t.TempDir(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%+v) = %v, want %q", c, err, want)
		}
	}
	f(Config{Publisher: &output{}, Topic: "x", Format: "xml"}, `"xml" is not known: choose debezium, json-patch, merge-patch or cloudevents`)
	f(Config{Topic: "x"}, "publisher")
	f(Config{Publisher: &output{}}, "topic")
	f(Config{Publisher: &output{}, Topic: "x", Rules: Rules{Ignore: []string{"at"}}}, `starts with a slash, as in "/at"`)
	f(Config{Publisher: &output{}, Topic: "x", Rules: Rules{Ignore: []string{""}}}, "nothing would count")
}

func TestStateFolderInUse(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, Config{Publisher: &output{}})
	_, err := Open(dir, Config{Publisher: &output{}, Topic: "out"})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
}

func TestStateFolderThatCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(file, "state"), Config{Publisher: &output{}, Topic: "out"}); err == nil || errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

func TestStateBelongsToOneTopic(t *testing.T) {
	dir := t.TempDir()
	d, _ := open(t, dir, Config{Publisher: &output{}})
	f := func(d *Differ, p stream.Partition, target error, want string) {
		t.Helper()
		_, err := d.Assigned(t.Context(), []stream.Partition{p})
		if err == nil || target != nil && !errors.Is(err, target) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v gives %v, want %q", p, err, want)
		}
	}
	f(d, stream.Partition{Cluster: "c1", Topic: "in", Incarnation: "i2"}, stream.ErrTopicChanged, `"in"`)
	f(d, stream.Partition{Cluster: "c1", Topic: "other", Incarnation: "i1"}, nil, `belongs to topic "in" of "c1", not to "other" of "c1"`)
	f(d, stream.Partition{Cluster: "c2", Topic: "in", Incarnation: "i1"}, nil, `not to "in" of "c2"`)
	f(d, stream.Partition{Cluster: "c1", Topic: "out", Incarnation: "i1"}, nil, "both read and written")
	d.Close()
	d, err := Open(dir, Config{Publisher: &output{}, Topic: "out", KeyField: "id"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f(d, partition0, nil, `taken from field "", not "id"`)
}

// Damage of any byte is found, when the folder is opened or when the place is
// used, or does no harm: it is never taken for another state, and never ends
// the process.
func TestCorruptStateIsFound(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, stateFile)
	var values []string
	bytes := 0
	for i := range 300 {
		values = append(values, fmt.Sprintf(`key-%03d={"value":"%s"}`, i, strings.Repeat("x", i)))
		bytes += len(values[i])
	}
	d, _ := open(t, dir, Config{Publisher: &output{}})
	write(t, d, batchOf(0, values...))
	first := contents(t, d)
	write(t, d, batchOf(300, `key-007=0`))
	second := contents(t, d)
	d.Close()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	more := batchOf(301, `key-000=0`, `key-150=1`, `key-299`, `new="x"`)
	d, _ = open(t, dir, Config{Publisher: &output{}})
	write(t, d, more)
	third := contents(t, d)
	d.Close()

	found := 0
	// damaged says what becomes of a folder with those bytes.
	damaged := func(bad []byte) error {
		// Removed first: where bbolt panicked, this process keeps its lock.
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := Open(dir, Config{Publisher: &output{}, Topic: "out"})
		if err != nil {
			found++
			return err
		}
		defer d.Close()
		d.store.db.NoSync = true
		got := contents(t, d)
		if cmp.Equal(got, first) {
			return nil // bbolt lost the newest of its two roots: the batch comes again
		}
		if !cmp.Equal(got, second) {
			return errors.New("opens as another state")
		}
		if _, err := d.Assigned(t.Context(), []stream.Partition{partition0}); err != nil {
			return err
		}
		if err := d.Write(t.Context(), more); err != nil {
			return err
		}
		if !cmp.Equal(contents(t, d), third) {
			return errors.New("goes on as another state")
		}
		return nil
	}
	step := 499
	if testing.Short() {
		step = 4999
	}
	tried := 0
	for at := 0; at < len(whole); at += step {
		bad := slices.Clone(whole)
		bad[at] ^= 0x55
		if err := damaged(bad); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("byte %d: %v", at, err)
		}
		tried++
	}
	if least := bytes / step * 9 / 10; found < least {
		t.Errorf("of %d damages %d were found when the folder was opened, want at least %d", tried, found, least)
	}
	for name, bad := range map[string][]byte{
		"half a file":      whole[:len(whole)/2],
		"three pages":      whole[:3*4096],
		"something else":   []byte("hello"),
		"nothing but zero": make([]byte, len(whole)),
	} {
		if err := damaged(bad); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func contents(t *testing.T, d *Differ) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := d.store.db.View(func(tx *bolt.Tx) error {
		p, _, err := positionIn(tx, 0)
		if err != nil {
			return err
		}
		out["position"] = fmt.Sprint(p)
		values := tx.Bucket(valuesBucket)
		if values == nil {
			return nil
		}
		return values.Bucket(partitionKey(0)).ForEach(func(k, v []byte) error {
			out[string(k)] = string(v)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCorruptValueStopsTheRun(t *testing.T) {
	d, _ := open(t, t.TempDir(), Config{Publisher: &output{}})
	write(t, d, batchOf(0, `a=1`))
	err := d.store.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(valuesBucket).Bucket(partitionKey(0)).Put(valueKey("a"), []byte("2????"))
	})
	if err != nil {
		t.Fatal(err)
	}
	err = d.Write(t.Context(), batchOf(1, `a=2`))
	if !errors.Is(err, consumers.ErrStop) || !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

// jsonText is a schema whose values are any JSON, which stands for the real
// ones.
type jsonText struct{ schemas.Schema }

func (jsonText) Type() schemas.Type             { return schemas.JSON }
func (jsonText) Model() *schemas.Node           { return &schemas.Node{} }
func (jsonText) Decode(src []byte) (any, error) { return schemas.ParseJSON(src) }

type registry struct{}

func (registry) Schema(context.Context, schemas.ID) (schemas.Schema, error) { return jsonText{}, nil }

// The job as it is run: from broker to broker, by consumers.Run, in three lives
// with another number of records in each.
func TestRunOnABroker(t *testing.T) {
	broker := memory.New()
	ctx := t.Context()
	for _, topic := range []string{"in", "out", consumers.DeadLetterTopic("in", "g")} {
		if err := broker.Create(ctx, topic, 2); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	published := 0
	for life := range 3 {
		for i := range 50 * (life + 1) {
			value := fmt.Sprintf(`{"n":%d}`, i/3)
			payload := append(schemas.AppendHeader(nil, 1), value...)
			record := stream.Record{Topic: "in", Key: fmt.Appendf(nil, "k%d", i%2), Value: payload}
			if i == 10 {
				record.Key = nil
			}
			if err := broker.Publish(ctx, record); err != nil {
				t.Fatal(err)
			}
			published++
		}
		d, err := Open(dir, Config{Publisher: broker, Topic: "out"})
		if err != nil {
			t.Fatal(err)
		}
		src, err := broker.Open(ctx, stream.Subscription{Topic: "in", Group: "g", Owner: d})
		if err != nil {
			t.Fatal(err)
		}
		runCtx, stop := context.WithCancel(ctx)
		settled := 0
		lock := make(chan struct{}, 1)
		dead := 0
		err = consumers.Run(runCtx, src, d, consumers.Config{
			Group: "g", Registry: registry{}, DeadLetters: broker, MaxRecords: 7,
			Hooks: consumers.Hooks{
				Settled: func(b consumers.Batch, _ time.Duration) {
					lock <- struct{}{}
					defer func() { <-lock }()
					settled += int(b.Next - b.First)
					if settled == 50*(life+1) {
						stop()
					}
				},
				DeadLetter: func(stream.Record, *consumers.Reason) { dead++ },
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if dead != 1 {
			t.Errorf("life %d: %d dead letters", life, dead)
		}
		if err := errors.Join(src.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
	}

	// Fold the events, and compare with the log.
	last := map[string]string{}
	for _, r := range all(t, broker, "out") {
		var e struct{ Before, After json.RawMessage }
		if err := json.Unmarshal(r.Value, &e); err != nil {
			t.Fatal(err)
		}
		before := last[string(r.Key)]
		if before == "" {
			before = "null"
		}
		if string(e.Before) != before {
			t.Errorf("event %s does not follow on from %s", r.Value, before)
		}
		last[string(r.Key)] = string(e.After)
	}
	want := map[string]string{}
	for _, r := range all(t, broker, "in") {
		if r.Key != nil {
			want[string(r.Key)] = string(r.Value[5:])
		}
	}
	if d := cmp.Diff(want, last); d != "" {
		t.Error(d)
	}
	if len(want) != 2 || published != 300 {
		t.Errorf("keys %v of %d records", slices.Sorted(maps.Keys(want)), published)
	}
}

// all reads a topic to its end.
func all(t *testing.T, b *memory.Broker, topic string) []stream.Record {
	t.Helper()
	ranges, err := b.Ranges(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	var left int64
	for _, r := range ranges {
		left += r.End - r.Start
	}
	src, err := b.Open(t.Context(), stream.Subscription{Topic: topic, Group: "all-" + topic})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var out []stream.Record
	for int64(len(out)) < left {
		records, ack, err := src.Fetch(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, records...)
		if err := ack(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	return out
}
