package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"time"

	"github.com/wI2L/jsondiff"

	"penstock/consumers/diffing"
	"penstock/schemas"
	"penstock/schemas/samples"
)

// benchDiffCmd measures the differ.
type benchDiffCmd struct {
	benchFlags
	Diffs int `default:"20000" placeholder:"N" help:"Pairs a run that are compared (default ${default})."`
}

// Help says what is measured.
func (benchDiffCmd) Help() string {
	return `Rows jsondiff: pairs of flight records of 20 fields, 2 of them changed, from JSON
texts and from decoded values to the bytes of a JSON Patch, against
github.com/wI2L/jsondiff doing the same; and their allocations.

Examples:
  penstock bench diff -o json
  penstock bench diff --diffs 100000 --pairs 20`
}

// Run prints the rows.
func (c *benchDiffCmd) Run(ctx context.Context, t *terminal) error {
	pairs, err := newDiffPairs()
	if err != nil {
		return err
	}
	f := c.benchFlags
	f.Records, f.unit = c.Diffs, "pairs/s"
	for _, row := range []struct {
		name      string
		ours, raw func(diffPair) (int, error)
	}{
		{"diff jsondiff bytes", oursFromBytes(), rawFromBytes},
		{"diff jsondiff values", oursFromValues(), rawFromValues},
	} {
		allocs := make([]float64, 2)
		for i, diff := range []func(diffPair) (int, error){row.ours, row.raw} {
			if allocs[i], err = allocations(pairs, diff); err != nil {
				return fmt.Errorf("%s: %w", row.name, err)
			}
		}
		settings := fmt.Sprintf("jsondiff, its defaults; allocations a pair: %.1f, raw %.1f", allocs[0], allocs[1])
		if err := f.compare(ctx, t, row.name, settings, pairs.side(c.Diffs, row.ours), pairs.side(c.Diffs, row.raw)); err != nil {
			return err
		}
	}
	return nil
}

// diffPair is a flight and what became of it.
type diffPair struct {
	before, after         []byte
	beforeValue, nowValue any
}

type diffPairs []diffPair

// newDiffPairs makes a pair of each flight that is held: its departure is
// delayed, and it goes elsewhere.
func newDiffPairs() (diffPairs, error) {
	sample, err := samples.Get("flights")
	if err != nil {
		return nil, err
	}
	events, err := sample.Events(1000)
	if err != nil {
		return nil, err
	}
	var pairs diffPairs
	for event := range events {
		// As encoding/json has them, which is what the raw side takes.
		var p diffPair
		text, err := schemas.AppendJSON(nil, event)
		if err != nil {
			return nil, err
		}
		var before map[string]any
		if err := json.Unmarshal(text, &before); err != nil {
			return nil, err
		}
		after := maps.Clone(before)
		after["dep_delay"], after["dest"] = 77.0, "ZZZ"
		p.beforeValue, p.nowValue, p.before = before, after, text
		if p.after, err = json.Marshal(after); err != nil {
			return nil, err
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

// side compares n pairs, and counts the bytes of the patches, so that nothing is
// left out.
func (pairs diffPairs) side(n int, diff func(diffPair) (int, error)) side {
	return func(context.Context) (time.Duration, error) {
		began, total := time.Now(), 0
		for i := range n {
			size, err := diff(pairs[i%len(pairs)])
			if err != nil {
				return 0, err
			}
			total += size
		}
		took := time.Since(began)
		if total < 90*n {
			return 0, fmt.Errorf("expected patches of two changes, found %d bytes in %d", total, n)
		}
		return took, nil
	}
}

// allocations counts those of a pair.
func allocations(pairs diffPairs, diff func(diffPair) (int, error)) (float64, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, p := range pairs {
		if _, err := diff(p); err != nil {
			return 0, err
		}
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(len(pairs)), nil
}

func oursFromBytes() func(diffPair) (int, error) {
	var compare diffing.Comparer
	var patch []byte
	return func(p diffPair) (n int, err error) {
		patch, _, err = compare.AppendPatch(patch[:0], p.before, p.after, false)
		return len(patch), err
	}
}

func oursFromValues() func(diffPair) (int, error) {
	var compare diffing.Comparer
	var patch []byte
	return func(p diffPair) (n int, err error) {
		patch, _, err = compare.AppendPatchOf(patch[:0], p.beforeValue, p.nowValue, false)
		return len(patch), err
	}
}

func rawFromBytes(p diffPair) (int, error) {
	patch, err := jsondiff.CompareJSON(p.before, p.after)
	if err != nil {
		return 0, err
	}
	text, err := json.Marshal(patch)
	return len(text), err
}

func rawFromValues(p diffPair) (int, error) {
	patch, err := jsondiff.Compare(p.beforeValue, p.nowValue)
	if err != nil {
		return 0, err
	}
	text, err := json.Marshal(patch)
	return len(text), err
}
