package federated

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"penstock/consumers"
	"penstock/consumers/federated/strategies"
	"penstock/stream"
)

// reads is a strategy that reads updates in ranges that cross
// blocks, and keeps what it read.
type reads struct{ got [][]float64 }

func (*reads) String() string { return "reads" }

func (r *reads) Combine(updates strategies.Rows) ([]float64, error) {
	r.got = nil
	for i := range updates.Len() {
		row := make([]float64, updates.Dim())
		for from, n := 0, 1; from < len(row); from, n = from+n, 3*n {
			n = min(n, len(row)-from)
			if err := updates.Read(i, from, row[from:][:n]); err != nil {
				return nil, err
			}
		}
		r.got = append(r.got, append(row, updates.Samples(i)))
	}
	return nil, nil
}

// What is read of updates in files is what came, by partition and in its order, however
// many came at once.
func TestUpdatesThroughFiles(t *testing.T) {
	const dim = blockSize/4 + 77
	var partials []*partial
	defer func() { closeAll(partials) }()
	var want [][]float64
	base := Model{Parameters: []Tensor{{Name: "w", Shape: []int{dim}, Values: make([]float32, dim)}}}
	for p, batches := range [][]int{{1, 2}, {3}, {1}} {
		partials = append(partials, &partial{})
		for _, n := range batches {
			var arrivals []arrival
			for range n {
				values := make([]float32, dim)
				row := make([]float64, dim, dim+1)
				for i := range row {
					values[i] = float32(i)/7 - float32(1000*len(want))
					row[i] = float64(values[i])
				}
				a := arrival{Contribution: Contribution{Samples: int64(len(want) + 1)}}
				a.Parameters = []Tensor{{Values: values[:100]}, {Values: values[100:]}}
				arrivals, want = append(arrivals, a), append(want, append(row, float64(len(want)+1)))
			}
			if err := partials[p].add(&reads{}, base, nil, arrivals...); err != nil {
				t.Fatal(err)
			}
		}
	}
	var s reads
	if _, err := combine(&s, partials); err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(s.got, want, slices.Equal) {
		t.Error("what is read of the updates is not what came")
	}
	// Where the system maps no files.
	first := partials[0]
	all := rows{dim: dim, counted: first.counted}
	for i := range first.counted {
		all.at = append(all.at, place{first.spilled.file, first.spilled.offset(i)})
	}
	if _, err := s.Combine(all); err != nil || !slices.EqualFunc(s.got, want[:3], slices.Equal) {
		t.Errorf("what is read of a file that is not mapped is not what came: %v", err)
	}
}

// A round of a robust strategy takes the memory of a few models, however many updates it
// has: the result in float64 and in float32, and a block of each.
func TestRobustRoundsInBoundedMemory(t *testing.T) {
	const clients, dim = 20, 200_000
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // as many blocks are read at once
	base := Model{Parameters: []Tensor{{Name: "w", Shape: []int{dim}, Values: make([]float32, dim)}}}
	values := make([]float32, dim)
	var before, after runtime.MemStats
	for _, name := range []string{"median", "krum:byzantine=2"} {
		s, err := strategies.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		base.Strategy = s.String()
		p := &partial{}
		runtime.ReadMemStats(&before)
		for c := range clients {
			for i := range values {
				values[i] = float32((c*7+i)%clients) + 1
			}
			if err := p.add(s, base, nil, arrival{Update: Update{Parameters: []Tensor{{Values: values}}}, Contribution: Contribution{Samples: 1}}); err != nil {
				t.Fatal(err)
			}
		}
		next, err := step(base, s, []*partial{p}, nil)
		runtime.ReadMemStats(&after)
		p.spilled.close()
		if err != nil {
			t.Fatal(err)
		}
		if v := next.Parameters[0].Values[3]; name == "median" && v != (clients+1)/2. {
			t.Errorf("%s makes %v", name, v)
		}
		// All that was ever allocated: no more of it can have lived at once. The updates are 16 MB.
		if took := after.TotalAlloc - before.TotalAlloc; took > 6<<20 {
			t.Errorf("%s: %d updates of %d bytes took %d bytes of memory", name, clients, 4*dim, took)
		}
	}
}

// spills are the open files that lie in the folder for temporary files.
func spills(t *testing.T) (n int) {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("this system does not tell which files are open")
	}
	for _, f := range files {
		if name, err := os.Readlink(filepath.Join("/proc/self/fd", f.Name())); err == nil && strings.HasPrefix(name, os.TempDir()+"/") {
			n++
		}
	}
	return n
}

// robustTraining has an aggregator of medians, and writes it what a client sends in a
// round, which lies on the log once.
func robustTraining(t *testing.T, rounds int64) (*Aggregator, func(client int) error) {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	tr := newTraining(t, 4, rounds)
	tr.config.Strategy = "median"
	a := open(t, tr.config)
	claim(t, a)
	log, next := map[string]consumers.Message{}, [3]int64{}
	return a, func(client int) error {
		u := updateOf(fmt.Sprint("c", client), a.Model())
		p := partitionOf(u.Client)
		name := fmt.Sprint(u.Client, " ", u.Round)
		m, again := log[name]
		if !again {
			m = message(t, tr.publisher.registry, u.Client, u.value())
			m.Partition, m.Offset = p, next[p]
			log[name], next[p] = m, next[p]+1
		}
		return a.Write(t.Context(), consumers.Batch{Topic: "updates", Partition: p, Messages: []consumers.Message{m}, First: m.Offset, Next: m.Offset + 1})
	}
}

// The files of updates are closed when their round ends, and when their partition is
// given up, as it is when a source closes.
func TestFilesOfUpdatesAreClosed(t *testing.T) {
	expect := func(want int) {
		t.Helper()
		if got := spills(t); got != want {
			t.Errorf("expected %d open files, found %d", want, got)
		}
	}
	_, first := robustTraining(t, 2)
	for range 2 {
		expect(0)
		for c := range 4 {
			if err := first(c); err != nil && !errors.Is(err, ErrFinished) {
				t.Fatal(err)
			}
			expect([]int{1, 2, 3, 0}[c])
		}
	}

	a, write := robustTraining(t, 1)
	for c := range 2 {
		if err := write(c); err != nil {
			t.Fatal(err)
		}
	}
	expect(2)
	if err := a.Lost(t.Context(), []stream.Partition{id(0), id(1), id(2)}); err != nil {
		t.Fatal(err)
	}
	expect(0)

	base := a.Model()
	next := Model{Round: 1, Base: base.Hash, Contributions: []Contribution{{Client: "c0", Samples: 3}}}
	if err := Recompute(base, next, nil, func(Contribution) (Update, error) { return updateOf("c0", base), nil }); err == nil {
		t.Error("a model is made of an update with another norm")
	}
	expect(0)
}

// A full disk ends the run, with what it says, and the next one counts what this one did.
func TestDiskOfUpdatesIsFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip("this system has no file that is full")
	}
	want, write := robustTraining(t, 1)
	for c := range 4 {
		if err := write(c); err != nil && !errors.Is(err, ErrFinished) {
			t.Fatal(err)
		}
	}
	a, write := robustTraining(t, 1)
	for _, c := range []int{1, 0} {
		if err := write(c); err != nil {
			t.Fatal(err)
		}
	}
	_ = a.parts[0].spilled.file.Close()
	a.parts[0].spilled.file = full
	err = write(3)
	if !errors.Is(err, consumers.ErrStop) || !strings.Contains(err.Error(), "keep an update: numbers are kept in temporary files (TMPDIR says where): write") || !strings.Contains(err.Error(), "no space left") {
		t.Fatal(err)
	}
	if err := write(3); !errors.Is(err, stream.ErrFenced) {
		t.Errorf("the run goes on: %v", err)
	}
	if starts := claim(t, a); len(starts) > 0 {
		t.Fatalf("the next run starts at %v", starts)
	}
	for _, c := range []int{0, 3, 2, 1} {
		if err := write(c); err != nil && !errors.Is(err, ErrFinished) {
			t.Fatal(err)
		}
	}
	if !a.Model().Final() || a.Model().Hash != want.Model().Hash {
		t.Errorf("the model of round %d is %v, and %v where there was room", a.Model().Round, a.Model().Hash, want.Model().Hash)
	}
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "none"))
	if err := (&spilled{}).add([]Tensor{{Values: []float32{1}}}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
}

// A whole round of ten updates of a million: into the file, out of it, and the model.
func BenchmarkRobustRound(b *testing.B) {
	const clients, dim = 10, 1_000_000
	base := Model{Parameters: []Tensor{{Name: "w", Shape: []int{dim}, Values: make([]float32, dim)}}}
	var arrivals []arrival
	for c := range clients {
		values := make([]float32, dim)
		for i := range values {
			values[i] = float32((i*7919+c*104729)%65537) / 65537
		}
		arrivals = append(arrivals, arrival{Update: Update{Parameters: []Tensor{{Values: values}}}, Contribution: Contribution{Samples: 1}})
	}
	for _, name := range []string{"krum:byzantine=2", "median", "trimmed-mean"} {
		s, err := strategies.Parse(name)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				p := &partial{}
				if err := p.add(s, base, nil, arrivals...); err != nil {
					b.Fatal(err)
				}
				_, err := step(base, s, []*partial{p}, nil)
				p.spilled.close()
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
