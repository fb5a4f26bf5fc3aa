package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/wI2L/jsondiff"

	"penstock/consumers"
	"penstock/consumers/diffing"
	"penstock/consumers/sinks/topic"
	"penstock/schemas"
	"penstock/schemas/samples"
	"penstock/stream"
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
github.com/wI2L/jsondiff doing the same; and their allocations. Row pipeline:
flights from topic to topic, exactly once, with state and diff, against
the same loop that decodes and copies.

Examples:
  penstock bench diff -o json
  penstock bench diff --broker kafka://127.0.0.1:9092 -n 200000`
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
	return c.pipeline(ctx, t)
}

// pipeline measures the job from topic to topic.
func (c *benchDiffCmd) pipeline(ctx context.Context, t *terminal) (err error) {
	data, err := newBenchData()
	if err != nil {
		return err
	}
	b, err := openBench(ctx, t, c.Broker)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	for from := 0; from < c.Records; from += 5000 {
		var records []stream.Record
		for i := from; i < min(from+5000, c.Records); i++ {
			key, value, err := data.record(i)
			if err != nil {
				return err
			}
			records = append(records, stream.Record{Topic: b.topic, Key: key, Value: value})
		}
		if err := b.broker.Publish(ctx, records...); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	keeper, ok := b.broker.(diffing.Broker)
	if !ok {
		return fmt.Errorf("bench diff: %w", stream.ErrUnsupported)
	}
	diff := c.through(b, data, func(name, out string) (closingOwner, error) {
		return diffing.Open(filepath.Join(dir, name), diffing.Config{Broker: keeper, Name: name, Topic: out})
	})
	duplicate := c.through(b, data, func(name, out string) (closingOwner, error) {
		return topic.New(keeper, topic.Config{Topic: out, Pipeline: name})
	})
	return c.compare(ctx, t, "diff pipeline", "the same loop with a sink that copies, exactly once", diff, duplicate)
}

// closingOwner is a sink that keeps positions.
type closingOwner interface {
	consumers.Sink
	stream.Owner
	io.Closer
}

// through runs the topic through a sink that is opened for it. The time counts
// from the first batch on.
func (c *benchDiffCmd) through(b *bench, data *benchData, open func(name, out string) (closingOwner, error)) side {
	return func(ctx context.Context) (took time.Duration, err error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		name := "bench-" + strings.ToLower(rand.Text()[:10])
		if err := b.broker.Create(ctx, name, benchPartitions); err != nil {
			return 0, err
		}
		sink, err := open(name, name)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, sink.Close()) }()
		src, err := b.broker.Open(ctx, stream.Subscription{Topic: b.topic, Group: name, Owner: sink})
		if err != nil {
			return 0, err
		}
		timed := &timedSource{Source: src}
		var mu sync.Mutex
		left := c.Records
		err = consumers.Run(ctx, timed, sink, consumers.Config{
			Registry: oneSchema{data.ours}, MaxRecords: 5000,
			Hooks: consumers.Hooks{Settled: func(b consumers.Batch, _ time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				if left -= len(b.Messages); left <= 0 && timed.end.IsZero() {
					timed.end = time.Now()
					cancel()
				}
			}},
		})
		return timed.end.Sub(timed.start), errors.Join(err, src.Close())
	}
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
