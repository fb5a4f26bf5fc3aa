package strategies

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Rows are the updates of a round. They may lie anywhere: strategies read them
// block by block, and hold one block of each at a time.
type Rows interface {
	Len() int // the number of updates
	Dim() int // the number of values of each
	// Samples is the weight of update i.
	Samples(i int) float64
	// Read copies values of update i, from the given one on, to dst.
	Read(i, from int, dst []float64)
}

// block is how many values of each update are looked at in one go: 32 KiB as
// float64, so that a hundred updates stay within a second-level cache.
const block = 4096

// columns calls fn for each coordinate with the values of all updates, which fn
// may reorder.
func columns(rows Rows, fn func(i int, values []float64)) {
	n := rows.Len()
	blocks := make([]float64, n*min(block, rows.Dim()))
	column := make([]float64, n)
	for from := 0; from < rows.Dim(); from += block {
		width := min(block, rows.Dim()-from)
		for r := range n {
			rows.Read(r, from, blocks[r*width:][:width])
		}
		for c := range width {
			for r := range n {
				column[r] = blocks[r*width+c]
			}
			fn(from+c, column)
		}
	}
}

func atLeast(rows Rows, n int, strategy Strategy) error {
	if rows.Len() < n {
		return fmt.Errorf("%v needs at least %d updates, found %d: %w", strategy, n, rows.Len(), ErrTooFew)
	}
	return nil
}

// Median is the median of each coordinate (Yin et al., 2018), without weights.
type Median struct{}

func (Median) String() string { return "median" }

// Combine implements Robust.
func (s Median) Combine(rows Rows) ([]float64, error) {
	if err := atLeast(rows, 1, s); err != nil {
		return nil, err
	}
	model := make([]float64, rows.Dim())
	columns(rows, func(i int, values []float64) { model[i] = medianOf(values) })
	return model, nil
}

// medianOf sorts values.
func medianOf(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	if n%2 == 1 {
		return values[n/2]
	}
	return values[n/2-1]/2 + values[n/2]/2
}

// TrimmedMean is the mean of each coordinate without the lowest and the highest
// Share of the values (Yin et al., 2018), without weights.
type TrimmedMean struct{ Share float64 }

// NewTrimmedMean returns one that cuts a fifth at each end.
func NewTrimmedMean() *TrimmedMean { return &TrimmedMean{0.2} }

func (s *TrimmedMean) parameters() []parameter {
	return []parameter{{"share", &s.Share, 0, math.Nextafter(0.5, 0)}}
}

func (s *TrimmedMean) String() string { return spell("trimmed-mean", s.parameters()) }

// Combine implements Robust.
func (s *TrimmedMean) Combine(rows Rows) ([]float64, error) {
	if err := atLeast(rows, 1, s); err != nil {
		return nil, err
	}
	cut := int(s.Share * float64(rows.Len()))
	model := make([]float64, rows.Dim())
	columns(rows, func(i int, values []float64) {
		slices.Sort(values)
		model[i] = plainMean(values[cut : len(values)-cut])
	})
	return model, nil
}

func plainMean(values []float64) (sum float64) {
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// Krum keeps the update that lies nearest to its neighbours, or the mean of the
// Select nearest, weighted by samples (multi-Krum; Blanchard et al., 2017). It
// withstands Byzantine clients of which there are fewer than (n-2)/2.
type Krum struct {
	Byzantine float64 // clients that may lie
	Select    float64
}

func (s *Krum) parameters() []parameter {
	return []parameter{{"byzantine", &s.Byzantine, 0, 1 << 20}, {"select", &s.Select, 1, 1 << 20}}
}

func (s *Krum) String() string {
	if s.Select == 1 {
		return spell("krum", s.parameters()[:1])
	}
	return spell("multi-krum", s.parameters())
}

// Combine implements Robust.
func (s *Krum) Combine(rows Rows) ([]float64, error) {
	if err := atLeast(rows, max(int(s.Select), 2*int(s.Byzantine)+3), s); err != nil {
		return nil, err
	}
	order := ranked(distances(rows), all(rows.Len()), int(s.Byzantine))
	return weightedMean(rows, order[:int(s.Select)]), nil
}

// weightedMean is the mean of the given updates, added in their order.
func weightedMean(rows Rows, which []int) []float64 {
	sum, row := make([]float64, rows.Dim()), make([]float64, rows.Dim())
	var weight float64
	for _, r := range which {
		rows.Read(r, 0, row)
		w := rows.Samples(r)
		for i, v := range row {
			sum[i] += float64(w * v)
		}
		weight += w
	}
	for i := range sum {
		sum[i] /= weight
	}
	return sum
}

func all(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// distances are the squared ones between updates, each from the differences of
// the values: from products, as is often done, nothing of them may be left.
func distances(rows Rows) [][]float64 {
	n := rows.Len()
	d := make([][]float64, n)
	for r := range d {
		d[r] = make([]float64, n)
	}
	blocks := make([]float64, n*min(block, rows.Dim()))
	for from := 0; from < rows.Dim(); from += block {
		width := min(block, rows.Dim()-from)
		for r := range n {
			rows.Read(r, from, blocks[r*width:][:width])
		}
		for a := range n {
			x := blocks[a*width:][:width]
			for b := range a {
				var sum float64
				for i, v := range blocks[b*width:][:width] {
					diff := x[i] - v
					sum += float64(diff * diff)
				}
				d[a][b] += sum
				d[b][a] = d[a][b]
			}
		}
	}
	return d
}

// ranked orders the updates among which by their Krum score, the sum of their
// len-f-2 smallest distances to the others. Equal ones keep their order.
func ranked(d [][]float64, among []int, f int) []int {
	scores := map[int]float64{}
	for _, a := range among {
		var near []float64
		for _, b := range among {
			if a != b {
				near = append(near, d[a][b])
			}
		}
		slices.Sort(near)
		for _, v := range near[:min(max(1, len(among)-f-2), len(near))] {
			scores[a] += v
		}
	}
	order := slices.Clone(among)
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(scores[a], scores[b]) })
	return order
}

// Bulyan chooses by Krum and then takes, coordinate by coordinate, the mean of
// the values closest to the median (El Mhamdi et al., 2018). The paper chooses
// the updates one by one, Flower's message API all at once.
type Bulyan struct {
	Variant   Variant // the paper's if it is empty
	Byzantine float64
}

func (s *Bulyan) parameters() []parameter {
	return []parameter{{"byzantine", &s.Byzantine, 0, 1 << 20}}
}

func (s *Bulyan) String() string {
	if s.Variant == Flower {
		return spell("flower-bulyan", s.parameters())
	}
	return spell("bulyan", s.parameters())
}

// Combine implements Robust.
func (s *Bulyan) Combine(rows Rows) ([]float64, error) {
	f := int(s.Byzantine)
	if err := atLeast(rows, 4*f+3, s); err != nil {
		return nil, err
	}
	theta := rows.Len() - 2*f
	d := distances(rows)
	var chosen []int
	if s.Variant == Flower {
		chosen = ranked(d, all(rows.Len()), f)[:theta]
	} else {
		for left := all(rows.Len()); len(chosen) < theta; {
			best := ranked(d, left, f)[0]
			chosen = append(chosen, best)
			left = slices.DeleteFunc(left, func(r int) bool { return r == best })
		}
	}
	model := make([]float64, rows.Dim())
	columns(selection{rows, chosen}, func(i int, values []float64) {
		middle := medianOf(values)
		slices.SortStableFunc(values, func(a, b float64) int { return cmp.Compare(math.Abs(a-middle), math.Abs(b-middle)) })
		model[i] = plainMean(values[:theta-2*f])
	})
	return model, nil
}

// selection are some of the rows.
type selection struct {
	Rows
	which []int
}

func (s selection) Len() int                        { return len(s.which) }
func (s selection) Read(i, from int, dst []float64) { s.Rows.Read(s.which[i], from, dst) }
func (s selection) Samples(i int) float64           { return s.Rows.Samples(s.which[i]) }

// GeometricMedian is the point of the smallest sum of distances to the updates,
// by smoothed Weiszfeld steps (Pillutla et al., 2022), without weights. Smoothing
// is the distance below which updates count alike; it stops after Rounds steps,
// or when a step no longer moves it.
type GeometricMedian struct{ Smoothing, Rounds float64 }

// NewGeometricMedian returns one of smoothing 1e-6 and at most 1000 steps.
func NewGeometricMedian() *GeometricMedian { return &GeometricMedian{1e-6, 1000} }

func (s *GeometricMedian) parameters() []parameter {
	return []parameter{{"smoothing", &s.Smoothing, open, inf}, {"rounds", &s.Rounds, 1, 1e6}}
}

func (s *GeometricMedian) String() string { return spell("geometric-median", s.parameters()) }

// Combine implements Robust.
func (s *GeometricMedian) Combine(rows Rows) ([]float64, error) {
	if err := atLeast(rows, 1, s); err != nil {
		return nil, err
	}
	weights := slices.Repeat([]float64{1 / float64(rows.Len())}, rows.Len())
	point, next := make([]float64, rows.Dim()), make([]float64, rows.Dim())
	row := make([]float64, min(block, rows.Dim()))
	each := func(fn func(r, i int, v float64)) {
		for r := range weights {
			for from := 0; from < rows.Dim(); from += block {
				part := row[:min(block, rows.Dim()-from)]
				rows.Read(r, from, part)
				for i, v := range part {
					fn(r, from+i, v)
				}
			}
		}
	}
	average := func() {
		clear(next)
		each(func(r, i int, v float64) { next[i] += float64(weights[r] * v) })
		point, next = next, point
	}
	average()
	for range int(s.Rounds) {
		squares := make([]float64, len(weights))
		each(func(r, i int, v float64) { d := v - point[i]; squares[r] += float64(d * d) })
		var total float64
		for r := range weights {
			weights[r] = 1 / max(math.Sqrt(squares[r]), s.Smoothing)
			total += weights[r]
		}
		for r := range weights {
			weights[r] /= total
		}
		average()
		var moved, size float64
		for i, v := range point {
			moved += (v - next[i]) * (v - next[i])
			size += v * v
		}
		if math.Sqrt(moved) <= 1e-15*max(math.Sqrt(size), s.Smoothing) {
			break
		}
	}
	return point, nil
}
