package diffing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/consumers"
	"penstock/stream"
)

// A log of states, cut into batches in any way, with commits failing before or
// after they took place, processes that end anywhere, and folders that stay, go
// or are those of before: the events are those of an uninterrupted run, each
// once.
func TestEveryChangeOnce(t *testing.T) {
	base := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		if runs++; runs > 40 {
			return // each starts many processes
		}
		dir := filepath.Join(base, strconv.Itoa(runs))
		config := Config{
			Format: rapid.SampledFrom([]Format{Debezium, JSONPatch, MergePatch}).Draw(rt, "format"),
			TTL:    rapid.SampledFrom([]time.Duration{0, 3 * time.Millisecond}).Draw(rt, "ttl"), // a record is a millisecond later than that before
		}
		n := rapid.IntRange(1, 12).Draw(rt, "records")
		var log []string
		for range n {
			log = append(log, rapid.SampledFrom([]string{"a=1", "a=2", "a", "b=1", `b={"x":1}`, `b={"x":2,"y":[1]}`, "b"}).Draw(rt, "record"))
		}
		sizes := rapid.SliceOfN(rapid.IntRange(1, n), n, n).Draw(rt, "sizes")
		// An expiry comes before a batch: batches are the same ones.
		var clean output
		config.Broker = &clean
		d, _ := open(t, dir+"-clean", config)
		for at, k := 0, 0; at < n; k++ {
			end := min(at+sizes[k], n)
			write(t, d, batchOf(int64(at), log[at:end]...))
			at = end
		}
		d.Close()

		out := &output{}
		config.Broker = out
		if rapid.Bool().Draw(rt, "spanning") {
			config.Broker = spanning{out}
		}
		fail := rapid.IntRange(0, 3)
		out.before = func(string) error {
			if fail.Draw(rt, "before") == 3 {
				return errPublish
			}
			return nil
		}
		out.after = out.before
		var at int64
		d, at = open(t, dir, config)
		ends := map[int64]int64{} // of the batches
		for at, k := int64(0), 0; at < int64(n); k++ {
			ends[at] = min(at+int64(sizes[k]), int64(n))
			at = ends[at]
		}
		for done := int64(0); done < int64(n); {
			if end, ok := ends[at]; ok {
				done = end
			}
			err := d.Write(t.Context(), batchOf(at, log[at:done]...))
			if err != nil && !errors.Is(err, errPublish) {
				rt.Fatal(err)
			}
			switch what := rapid.SampledFrom([]string{"go on", "again", "without folder", "moved"}).Draw(rt, "then"); {
			case err == nil && what == "go on":
				at = done
			case what == "without folder":
				d.Close()
				if err := os.RemoveAll(dir); err != nil {
					rt.Fatal(err)
				}
				fallthrough
			case what == "again":
				d.Close()
				d, at = open(t, dir, config)
			case what == "moved": // to another folder, and perhaps back later
				d.Close()
				d, at = open(t, dir+"-"+rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "folder"), config)
			}
			if err != nil {
				done = at
			}
			done = max(done, at)
			if at >= int64(n) {
				break
			}
		}
		out.before, out.after = nil, nil
		d.Close()
		d, at = open(t, dir, config)
		if at < int64(n) {
			write(t, d, batchOf(at, log[at:]...))
		}
		if err := d.lanes[0].ready(t.Context()); err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(out.logged(), contents(d)); diff != "" {
			rt.Fatalf("what the log says, and the folder:\n%s", diff)
		}
		d.Close()
		if diff := cmp.Diff(lines(clean.records), lines(out.records)); diff != "" {
			rt.Fatal(diff)
		}
	})
}

// each runs a test with a broker that spans topics, and with one that does not.
func each(t *testing.T, test func(t *testing.T, out *output, b Broker)) {
	t.Run("spanning", func(t *testing.T) { out := &output{}; test(t, out, spanning{out}) })
	t.Run("apart", func(t *testing.T) { out := &output{}; test(t, out, out) })
}

// One transaction holds a batch where the broker has such, else events come
// first; and before anything else comes the take-over.
func TestOrderOfCommits(t *testing.T) {
	each(t, func(t *testing.T, out *output, b Broker) {
		d, _ := open(t, t.TempDir(), Config{Broker: b})
		var commits []string
		out.before = func(topic string) error { commits = append(commits, topic); return nil }
		write(t, d, batchOf(0, `a=1`, `b=2`, `a`))
		want := []string{"out", "in.g.state.0"}
		if _, ok := b.(stream.Spanner); ok {
			want = want[:1]
		}
		if !slices.Equal(commits, want) {
			t.Errorf("committed to %q, want %q", commits, want)
		}
	})
}

// More records than a commit takes are several.
func TestLargeBatch(t *testing.T) {
	each(t, func(t *testing.T, out *output, b Broker) {
		d, _ := open(t, t.TempDir(), Config{Broker: b, Format: MergePatch})
		var values []string
		for i := range 2000 {
			values = append(values, fmt.Sprintf("k%d=1", i))
		}
		lost := false
		out.after = func(string) error {
			if len(out.records) > 500 && !lost {
				lost = true
				return errPublish
			}
			return nil
		}
		write(t, d, batchOf(0, values...))
		if !lost || len(out.records) != 2000 {
			t.Errorf("%d events", len(out.records))
		}
	})
}

func TestPublishFailures(t *testing.T) {
	each(t, func(t *testing.T, out *output, b Broker) {
		d, _ := open(t, t.TempDir(), Config{Broker: b, Format: MergePatch})
		out.largest = 200
		err := d.Write(t.Context(), batchOf(0, `a=1`, `a`, fmt.Sprintf(`b=%q`, strings.Repeat("x", 200))))
		var bad *stream.BatchError
		if !errors.As(err, &bad) || len(bad.Errs) != 1 || !errors.Is(bad.Errs[2], stream.ErrTooLarge) {
			t.Errorf("an event beyond the broker's limit gives %v", err)
		}
		// Any other failure is passing: it names no message.
		out.before = func(string) error { return errPublish }
		err = d.Write(t.Context(), batchOf(0, `a=1`, `b=1`))
		if errors.As(err, &bad) || !errors.Is(err, errPublish) {
			t.Errorf("an event that was not written gives %v", err)
		}
	})
}

// A claim that is taken over writes nothing more; the new one goes on.
func TestTakenOver(t *testing.T) {
	each(t, func(t *testing.T, out *output, b Broker) {
		old, _ := open(t, t.TempDir(), Config{Broker: b, Format: MergePatch})
		write(t, old, batchOf(0, `a=1`))
		d, at := open(t, t.TempDir(), Config{Broker: b, Format: MergePatch})
		if at != 1 {
			t.Errorf("the new claim starts at %d", at)
		}
		for range 2 {
			if err := old.Write(t.Context(), batchOf(1, `a=3`)); !errors.Is(err, stream.ErrFenced) {
				t.Errorf("the old claim gives %v", err)
			}
		}
		write(t, d, batchOf(1, `a=2`))
		expectLines(t, out.records, `0 a 1`, `1 a 2`)
	})
}

// A restore that is interrupted, by a failure or because the partition is lost,
// goes on from where it was.
func TestRestoreGoesOn(t *testing.T) {
	each(t, func(t *testing.T, out *output, b Broker) {
		var values []string
		for i := range 30 {
			values = append(values, fmt.Sprintf("k%02d=%d", i, i))
		}
		d, _ := open(t, t.TempDir(), Config{Broker: b, Format: MergePatch})
		write(t, d, batchOf(0, values...))
		d.Close()

		read := 0
		var progress []int64
		dir := t.TempDir()
		config := Config{Broker: b, Format: MergePatch, Restoring: func(_ stream.Partition, done, total int64) {
			progress = append(progress, done, total)
		}}
		d, at := open(t, dir, config)
		lost := make(chan error)
		// Lost waits for what is being written, which here reads the log.
		out.reading = func(ctx context.Context) error {
			if read++; read == 4 {
				go func() { lost <- d.Lost(t.Context(), []stream.Partition{partition0}) }()
				select {
				case <-ctx.Done():
				case <-time.After(10 * time.Second):
					t.Error("the restore goes on though the partition is lost")
				}
			}
			return ctx.Err()
		}
		if err := d.Write(t.Context(), batchOf(at, `k00="x"`)); !errors.Is(err, stream.ErrFenced) {
			t.Errorf("a partition lost in the middle of a restore gives %v", err)
		}
		if err := <-lost; err != nil {
			t.Fatal(err)
		}
		if got := len(contents(d)); got != 8 { // three records at a time, the first of them the head
			t.Errorf("%d keys were restored", got)
		}
		d.Close()
		first := read
		out.reading = func(context.Context) error { read++; return nil }
		d, at = open(t, dir, config)
		write(t, d, batchOf(at, `k00="x"`, `k29=29`))
		expectLines(t, out.records[30:], `30 k00 "x"`)
		if want := []int64{3, 31, 6, 31, 9, 31, 3, 22}; !slices.Equal(progress[:8], want) || read-first != 8 {
			t.Errorf("progress %v, and %d parts read", progress, read-first)
		}
	})
}

// A position set back, a log that is gone, another topic's log: none of them is
// taken for ours.
func TestWhatDoesNotBelongTogether(t *testing.T) {
	each(t, func(t *testing.T, out *output, b Broker) {
		f := func(config Config, p stream.Partition, b consumers.Batch, target error, want string) {
			t.Helper()
			config.Topic, config.Name = "out", "g"
			d, err := Open(t.TempDir(), config)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if _, err = d.Assigned(t.Context(), []stream.Partition{p}); err == nil {
				b.Topic = p.Topic
				err = d.Write(t.Context(), b)
			}
			if !errors.Is(err, consumers.ErrStop) || target != nil && !errors.Is(err, target) || !strings.Contains(err.Error(), want) {
				t.Errorf("%v gives %v, want %q", p, err, want)
			}
		}
		d, _ := open(t, t.TempDir(), Config{Broker: b})
		write(t, d, batchOf(0, `a=1`))
		d.Close()
		next := batchOf(1, `a=2`)
		f(Config{Broker: b}, stream.Partition{Cluster: "c1", Topic: "in", Incarnation: "i2"}, next, stream.ErrTopicChanged, `"in"`)
		f(Config{Broker: b}, stream.Partition{Cluster: "c2", Topic: "in", Incarnation: "i1"}, next, nil, `belongs to partition 0 of topic "in" of "c1"`)
		f(Config{Broker: b}, stream.Partition{Cluster: "c1", Topic: "out", Incarnation: "i1"}, next, nil, "both read and written")
		f(Config{Broker: b, KeyField: "id"}, partition0, next, nil, `taken from field "", not "id"`)

		l := out.logs["in.g.state.0"]
		kept := l.records
		l.records = append(slices.Clone(kept), stream.Record{Key: []byte("x"), Value: []byte("y"), Offset: int64(len(kept))})
		f(Config{Broker: b}, partition0, next, nil, `expected a record of a differ's state, found key "x"`)
		l.records, l.life = nil, 77
		f(Config{Broker: b}, partition0, next, nil, `log "in.g.state.0" is empty, though the state reaches to offset 1`)
		l.records = kept
		out.inputs = nil
		f(Config{Broker: b}, partition0, batchOf(0, `a=1`), nil, `topic "out" was made again`)
	})
}

// A folder in which any byte is damaged gives the right events all the same.
func TestCorruptFolderIsMadeAnew(t *testing.T) {
	out := &output{}
	dir := t.TempDir()
	d, _ := open(t, dir, Config{Broker: out, Format: MergePatch})
	var values []string
	for i := range 300 {
		values = append(values, fmt.Sprintf(`key-%03d="%s"`, i, strings.Repeat("x", i)))
	}
	write(t, d, batchOf(0, values...))
	want := contents(d)
	d.Close()
	files, err := filepath.Glob(filepath.Join(dir, "db", "*"))
	if err != nil {
		t.Fatal(err)
	}
	whole := map[string][]byte{}
	for _, f := range files {
		if whole[f], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	anew := 0
	next := int64(300)
	damaged := func(what string, damage func(f string, bytes []byte) []byte) {
		for _, f := range files {
			if err := os.RemoveAll(filepath.Join(dir, "db")); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "db"), 0o700); err != nil {
				t.Fatal(err)
			}
			for g, bytes := range whole {
				if g == f {
					if bytes = damage(f, slices.Clone(bytes)); bytes == nil {
						continue
					}
				}
				if err := os.WriteFile(g, bytes, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before := len(out.records)
			restored := false
			d, at := open(t, dir, Config{Broker: out, Format: MergePatch, Restoring: func(_ stream.Partition, done, _ int64) { restored = restored || done > 100 }})
			if at != next {
				t.Fatalf("position %d, want %d", at, next)
			}
			write(t, d, batchOf(at, values...))
			next += int64(len(values))
			if n := len(out.records) - before; n > 0 {
				t.Fatalf("%s of %s: %d events of nothing", what, f, n)
			}
			if diff := cmp.Diff(want, contents(d)); diff != "" {
				t.Fatalf("%s of %s:\n%s", what, f, diff)
			}
			if restored {
				anew++
			}
			d.Close()
		}
	}
	damaged("no damage", func(_ string, b []byte) []byte { return b })
	if anew > 0 {
		t.Errorf("a whole folder was made anew %d times", anew)
	}
	for part := range 8 {
		damaged(fmt.Sprintf("damage in part %d", part), func(_ string, b []byte) []byte {
			if len(b) > 0 {
				b[len(b)*part/8] ^= 0x55
			}
			return b
		})
	}
	damaged("half", func(_ string, b []byte) []byte { return b[:len(b)/2] })
	damaged("loss", func(string, []byte) []byte { return nil })
	if anew < 8 {
		t.Errorf("%d damaged folders were made anew", anew)
	}
}

// What is too old to be brought up to date is made anew.
func TestStaleFolderIsMadeAnew(t *testing.T) {
	out := &output{}
	dir := t.TempDir()
	d, _ := open(t, dir, Config{Broker: out, Format: MergePatch})
	write(t, d, batchOf(0, `a=1`, `b=1`))
	c := d.lanes[0].cursor
	if err := d.store.use(func(db *pebble.DB) error {
		c.At = time.Now().Add(-13 * time.Hour).Unix()
		return db.Set(rowKey('c', 0), fmt.Appendf(nil, `{"log":%q,"next":%d,"at":%d,"head":%q}`, c.Log, c.Next, c.At, c.Head), pebble.NoSync)
	}); err != nil {
		t.Fatal(err)
	}
	d.Close()
	restored := int64(0)
	d, at := open(t, dir, Config{Broker: out, Format: MergePatch, Restoring: func(_ stream.Partition, done, _ int64) { restored = done }})
	write(t, d, batchOf(at, `a=1`, `b=2`))
	expectLines(t, out.records, `0 a 1`, `1 b 1`, `3 b 2`)
	if restored == 0 {
		t.Error("the folder was taken as it is")
	}
}
