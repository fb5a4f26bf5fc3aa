package consumers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"penstock/stream"
	"penstock/stream/memory"
)

// logs is a ParkingBroker of one log; fail, if not nil, is asked before each call.
type logs struct {
	mu      sync.Mutex
	entries []stream.Record
	fail    func() error
}

func (l *logs) CreateLog(context.Context, string) error { return l.failing() }

func (l *logs) ReadLog(_ context.Context, _ string, from int64, read func([]stream.Record) error) (int64, error) {
	if err := l.failing(); err != nil {
		return from, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.entries)), read(l.entries[from:])
}

func (l *logs) Publish(_ context.Context, records ...stream.Record) error {
	if err := l.failing(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, records...)
	return nil
}

func (l *logs) failing() error {
	if l.fail == nil {
		return nil
	}
	return l.fail()
}

// parking is a topic of one partition with its dead letters, and a sink that refuses
// some records until that is mended.
type parking struct {
	broker *memory.Broker
	logs   logs

	mu       sync.Mutex
	down     bool
	bad      map[string]bool
	unnamed  bool // the sink does not say which record it refuses
	stored   []string
	letters  []Letter
	redriven int // so many of the letters were
}

func (p *parking) Publish(_ context.Context, records ...stream.Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range records {
		p.letters = append(p.letters, ReadLetter(r))
	}
	return nil
}

func (p *parking) Write(_ context.Context, b Batch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return errDown
	}
	var refused stream.BatchError
	for i, m := range b.Messages {
		if p.bad[m.Data.(string)] {
			refused.Fail(i, errors.New("refused"))
		}
	}
	if err := refused.OrNil(); err != nil {
		if p.unnamed {
			return ErrBadRecord
		}
		return err
	}
	for _, m := range b.Messages {
		p.stored = append(p.stored, m.Data.(string))
	}
	return nil
}

// publish publishes records, as "key/number"; without a key, as "/number".
func (p *parking) publish(values ...string) {
	for _, v := range values {
		r := stream.Record{Topic: "t", Value: framed(v)}
		if key, _, _ := strings.Cut(v, "/"); key != "" {
			r.Key = []byte(key)
		}
		if err := p.broker.Publish(context.Background(), r); err != nil {
			panic(err)
		}
	}
}

// run consumes for a time; each run is a consumer that knows of no other.
func (p *parking) run(d time.Duration, most int) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	src, err := p.broker.Open(ctx, stream.Subscription{Topic: "t", Group: "g"})
	if err != nil {
		panic(err)
	}
	defer src.Close()
	_ = Run(ctx, src, p, Config{Group: "g", Registry: registry{}, DeadLetters: p, Ordering: Park, Parking: NewParking(&p.logs, "g"), MaxRecords: most})
}

// redrive brings back the letters that were set aside since the last time, in the
// order in which they lay.
func (p *parking) redrive() int {
	p.mu.Lock()
	letters := slices.Clone(p.letters[p.redriven:])
	p.redriven = len(p.letters)
	p.mu.Unlock()
	slices.SortStableFunc(letters, func(a, b Letter) int { return cmp.Compare(a.From.Offset, b.From.Offset) })
	for _, l := range letters {
		if err := p.broker.Publish(context.Background(), l.again()); err != nil {
			panic(err)
		}
	}
	return len(letters)
}

func newParking(t testing.TB) *parking {
	t.Helper()
	p := &parking{broker: memory.New(), bad: map[string]bool{}}
	if err := p.broker.Create(context.Background(), "t", 1); err != nil {
		t.Fatal(err)
	}
	return p
}

// A record that cannot pass has those of its key behind it wait, and no others, until
// it was redriven; so does one that comes while they are on their way back.
func TestPark(t *testing.T) {
	for _, most := range []int{1, 3, 100} {
		t.Run(fmt.Sprint("batches of ", most), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newParking(t)
				defer p.broker.Close()
				p.unnamed = most == 100
				want := func(stored, letters string) {
					t.Helper()
					var got []string
					for _, l := range p.letters {
						got = append(got, string(l.Value[5:])+" "+string(l.Code))
					}
					if s := strings.Join(p.stored, " "); s != stored || strings.Join(got, ", ") != letters {
						t.Errorf("stored %q, want %q; set aside %q, want %q", s, stored, got, letters)
					}
					p.stored, p.letters, p.redriven = nil, nil, 0
				}
				p.bad["a/1"], p.bad["/1"] = true, true
				p.publish("a/0", "a/1", "b/1", "a/2", "/1", "/2", "!a/3")
				p.run(time.Minute, most)
				if most > 1 { // in one batch what cannot be decoded is set aside first
					slices.SortFunc(p.letters, func(a, b Letter) int { return cmp.Compare(a.From.Offset, b.From.Offset) })
				}
				letters := slices.Clone(p.letters)
				want("a/0 b/1 /2", "a/1 refused-by-sink, a/2 parked, /1 refused-by-sink, !a/3 decode-failed")
				p.publish("a/4")
				p.run(time.Minute, most)
				letters = append(letters[:2:2], p.letters...)
				want("", "a/4 parked")
				p.letters = letters
				p.bad["a/1"] = false
				p.redrive()
				p.letters, p.redriven = nil, 0
				p.publish("a/5")
				p.run(time.Minute, most)
				want("a/1 a/2 a/4 a/5", "")
			})
		})
	}
}

// A record comes back in one batch with those that wait for it, before and behind;
// and again, since the sink was down the first time.
func TestParkWithinBatch(t *testing.T) {
	for _, down := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := newParking(t)
			defer p.broker.Close()
			p.bad["a/0"] = true
			p.publish("a/0")
			p.run(time.Minute, 10)
			p.publish("a/1")
			p.redrive()
			p.publish("a/2")
			clear(p.bad)
			if p.down = down; down {
				p.run(time.Minute, 10)
				if len(p.stored) > 0 {
					t.Errorf("stored %v while the sink was down", p.stored)
				}
				p.down = false
			}
			p.run(time.Minute, 10)
			if !slices.Equal(p.stored, []string{"a/0"}) {
				t.Errorf("down %v: stored %v, want a/0 alone", down, p.stored)
			}
			p.redrive()
			p.run(time.Minute, 10)
			if got := slices.Compact(slices.Clone(p.stored)); !slices.Equal(got, []string{"a/0", "a/1", "a/2"}) && !down {
				t.Errorf("stored %v", p.stored)
			}
		})
	}
}

// Whatever is refused, mended, stopped and redriven, and whenever: the records of a
// key are stored in their order, and in the end all of them are.
func TestParkModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type step struct{ publish, run, mend, redrive int }
		records := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "a", "b", ""}), 1, 30).Draw(rt, "keys")
		bad := rapid.SliceOfN(rapid.IntRange(0, 3), len(records), len(records)).Draw(rt, "bad")
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{rapid.IntRange(0, 10).Draw(rt, "publish"), rapid.IntRange(1, 300).Draw(rt, "run"), rapid.IntRange(0, 2).Draw(rt, "mend"), rapid.IntRange(0, 2).Draw(rt, "redrive")}
		}), 0, 8).Draw(rt, "steps")
		most := rapid.IntRange(1, 10).Draw(rt, "most")
		down := rapid.IntRange(0, 3).Draw(rt, "down")
		unnamed := rapid.Bool().Draw(rt, "unnamed")
		var failure string
		synctest.Test(t, func(t *testing.T) {
			p := newParking(t)
			defer p.broker.Close()
			p.unnamed = unnamed
			calls := 0
			p.logs.fail = func() error {
				p.mu.Lock()
				defer p.mu.Unlock()
				if calls++; down > 0 && calls%(down+1) == 0 {
					return errDown
				}
				return nil
			}
			var all []string
			for i, key := range records {
				v := fmt.Sprintf("%s/%d", key, i)
				all = append(all, v)
				p.bad[v] = bad[i] == 0
			}
			rest := all
			publish := func(n int) {
				n = min(n, len(rest))
				p.publish(rest[:n]...)
				rest = rest[n:]
			}
			for _, s := range steps {
				publish(s.publish)
				p.run(time.Duration(s.run)*time.Millisecond, most)
				if s.mend == 0 {
					for _, v := range all {
						if p.bad[v] {
							p.bad[v] = false
							break
						}
					}
				}
				if s.redrive == 0 {
					p.redrive()
				}
			}
			publish(len(rest))
			clear(p.bad)
			for rounds := 0; ; rounds++ {
				p.run(time.Hour, most)
				if p.redrive() == 0 {
					break
				}
				if rounds > 100 {
					failure = "letters come again for ever"
					return
				}
			}
			of := func(values []string, key string) (out []string) {
				for _, v := range values {
					if k, _, _ := strings.Cut(v, "/"); k == key && !slices.Contains(out, v) {
						out = append(out, v)
					}
				}
				return out
			}
			for _, key := range []string{"a", "b"} {
				if got, want := of(p.stored, key), of(all, key); !slices.Equal(got, want) {
					failure = fmt.Sprintf("of key %s %v were stored, want %v; all: %v", key, got, want, p.stored)
				}
			}
			for _, v := range of(all, "") {
				if !slices.Contains(p.stored, v) {
					failure = v + " was not stored"
				}
			}
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

// What waits may be given up, by whoever knows that it will never pass.
func TestRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newParking(t)
		defer p.broker.Close()
		p.bad["a/1"] = true
		p.publish("a/1", "a/2")
		p.run(time.Minute, 10)
		lot := NewParking(&p.logs, "g")
		for _, want := range []bool{true, false} {
			if was, err := lot.Release(t.Context(), "t", 0, 0); err != nil || was != want {
				t.Errorf("released %v, %v, want %v", was, err, want)
			}
		}
		p.letters = p.letters[1:]
		p.redrive()
		p.letters, p.redriven = nil, 0
		p.publish("a/3")
		p.run(time.Minute, 10)
		if !slices.Equal(p.stored, []string{"a/2", "a/3"}) || len(p.letters) > 0 {
			t.Errorf("stored %v, set aside %d", p.stored, len(p.letters))
		}
	})
}
