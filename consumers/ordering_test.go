package consumers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"penstock/schemas"
	"penstock/stream"
)

// later knows schema 7 only once it has been asked for it often enough.
type later struct{ missing atomic.Int64 }

func (l *later) Schema(context.Context, schemas.ID) (schemas.Schema, error) {
	if l.missing.Add(-1) >= 0 {
		return nil, fmt.Errorf("id 7: %w", schemas.ErrNoSchema)
	}
	return text{}, nil
}

// Where a topic's order matters most, the partition waits at what cannot pass, until
// it can, and nothing is set aside; the others go on.
func TestBlock(t *testing.T) {
	unknown := &later{}
	unknown.missing.Store(5)
	for name, c := range map[string]struct {
		registry Registry
		refusals int
	}{
		"decode": {unknown, 0},
		"sink":   {registry{}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			other := records(0, "x")
			other[0].Partition = 1
			src := &script{batches: [][]stream.Record{records(0, "a", "b"), records(2, "c"), other}}
			dlq := &nowhere{}
			var mu sync.Mutex
			var got []string
			err := within(t, time.Hour, src, sinkFunc(func(_ context.Context, b Batch) error {
				mu.Lock()
				defer mu.Unlock()
				if b.Partition == 0 && b.First == 0 {
					if c.refusals--; c.refusals >= 0 {
						return &stream.BatchError{Errs: map[int]error{1: errors.New("no such column")}}
					}
				}
				for _, m := range b.Messages {
					got = append(got, m.Data.(string))
				}
				return nil
			}), Config{Group: "g", Registry: c.registry, DeadLetters: dlq, Ordering: Block})
			if err != nil || len(dlq.letters) > 0 {
				t.Errorf("%d were set aside, %v", len(dlq.letters), err)
			}
			in := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s == "x" })
			if want := []string{"a", "b", "c"}; !slices.Equal(in, want) || len(got) != 4 {
				t.Errorf("stored %v", got)
			}
			if name == "sink" && got[0] != "x" {
				t.Errorf("the other partition waited too: %v", got)
			}
		})
	}
}

// What stays wrong when the run is to end comes again, and is not set aside.
func TestBlockEnds(t *testing.T) {
	src := &script{batches: [][]stream.Record{records(0, "a", "!b")}}
	dlq := &nowhere{}
	err := within(t, time.Hour, src, sinkFunc(func(context.Context, Batch) error { return nil }), Config{Group: "g", DeadLetters: dlq, Ordering: Block})
	acknowledged, returned := src.acks()
	if err == nil || len(dlq.letters) > 0 || acknowledged != 0 || returned != 1 {
		t.Errorf("%d set aside, %d acknowledged, %d given back, %v", len(dlq.letters), acknowledged, returned, err)
	}
}

// unknowing fails for an unknown reason at records that begin with "?".
func unknowing(tries map[string]int, stored *[]string) Sink {
	return sinkFunc(func(_ context.Context, b Batch) error {
		for i, m := range b.Messages {
			if v := m.Data.(string); strings.HasPrefix(v, "?") {
				tries[v]++
				return fmt.Errorf("%w: %w", ErrUnknown, &stream.BatchError{Errs: map[int]error{i: errors.New("odd")}})
			}
		}
		for _, m := range b.Messages {
			*stored = append(*stored, m.Data.(string))
		}
		return nil
	})
}

// A record that fails for an unknown reason is tried a few times and set aside.
func TestUnknown(t *testing.T) {
	for name, c := range map[string]struct {
		batches  [][]stream.Record
		attempts int
		stored   string
		tries    map[string]int
		dead     int
	}{
		"one":              {[][]stream.Record{records(0, "a", "?b", "c")}, 4, "a c", map[string]int{"?b": 4}, 1},
		"the first":        {[][]stream.Record{records(0, "?a", "b")}, 4, "b", map[string]int{"?a": 4}, 1},
		"apart":            {[][]stream.Record{records(0, "?a", "b", "?c", "d")}, 2, "b d", map[string]int{"?a": 2, "?c": 2}, 2},
		"in batches apart": {[][]stream.Record{records(0, "?a"), records(1, "b"), records(2, "?c")}, 2, "b", map[string]int{"?a": 2, "?c": 2}, 2},
		// Two in a row: it may be the sink.
		"all":        {[][]stream.Record{records(0, "?a", "?b", "?c")}, 2, "", map[string]int{"?a": 2, "?b": -1}, 1},
		"all, alone": {[][]stream.Record{records(0, "?a"), records(1, "?b")}, 2, "", map[string]int{"?a": 2, "?b": -1}, 1},
		"for ever":   {[][]stream.Record{records(0, "a", "?b")}, 0, "", map[string]int{"?b": -1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			tries, dlq := map[string]int{}, &nowhere{}
			var stored []string
			src := &script{batches: c.batches}
			err := within(t, time.Hour, src, unknowing(tries, &stored), Config{Group: "g", DeadLetters: dlq, Attempts: c.attempts})
			if s := strings.Join(stored, " "); s != c.stored || len(dlq.letters) != c.dead {
				t.Errorf("stored %q, %d set aside, want %q and %d", s, len(dlq.letters), c.stored, c.dead)
			}
			ends := true
			for v, n := range c.tries {
				if n < 0 {
					ends = false
					if tries[v] < 50 {
						t.Errorf("%s was tried %d times in an hour", v, tries[v])
					}
				} else if tries[v] != n {
					t.Errorf("%s was tried %d times, want %d", v, tries[v], n)
				}
			}
			if len(tries) != len(c.tries) || (err == nil) != ends {
				t.Errorf("tried %v, %v", tries, err)
			}
		})
	}
}
