package strategies

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"runtime"
	"slices"
	"sync"
)

// Rows are the updates of a round. They may lie anywhere: strategies read them
// block by block, and hold few blocks of each at a time. All values are finite. Rows are
// for concurrent use.
type Rows interface {
	Len() int // the number of updates
	Dim() int // the number of values of each
	// Samples is the weight of update i.
	Samples(i int) float64
	// Read copies values of update i, from the given one on, to dst.
	Read(i, from int, dst []float64) error
}

const (
	// block is how many values of each update are looked at in one go: 32 KiB as
	// float64. Distances are sums of sums over blocks, and other blocks would make
	// other bits.
	block = 4096
	// held is how many values of all updates may be in memory, if one block of each
	// is no more: 32 MiB.
	held = 4 << 20
	// slots is how many blocks may be worked on at once.
	slots = 16
)

// eachBlock calls work with every block of the updates: its first coordinate and the rows
// of it. As many are worked on at once as there are cores; each has a slot, a number below
// slots that no other has meanwhile. Then it calls done, if there is any, with the slots in
// the order of the blocks.
func eachBlock(rows Rows, width int, work func(slot, from int, values [][]float64), done func(slot int)) error {
	n, dim := rows.Len(), rows.Dim()
	width = min(width, dim)
	atOnce := max(1, min(runtime.GOMAXPROCS(0), slots, held/max(1, n*width)))
	values := make([][]float64, atOnce*n)
	for i := range values {
		values[i] = make([]float64, width)
	}
	for from := 0; from < dim; {
		began := min(atOnce, (dim-from+width-1)/width)
		err := together(began, func(slot int) error {
			start, mine := from+slot*width, values[slot*n:][:n]
			for r := range mine {
				mine[r] = mine[r][:min(width, dim-start)]
				if err := rows.Read(r, start, mine[r]); err != nil {
					return err
				}
			}
			work(slot, start, mine)
			return nil
		})
		if err != nil {
			return err
		}
		for slot := 0; done != nil && slot < began; slot++ {
			done(slot)
		}
		from += began * width
	}
	return nil
}

// together calls do n times, on all cores. It returns the first error there is.
func together(n int, do func(i int) error) error {
	errs := make([]error, n)
	cores := min(n, runtime.GOMAXPROCS(0))
	var all sync.WaitGroup
	for core := range cores {
		all.Go(func() {
			for i := core; i < n; i += cores {
				errs[i] = do(i)
			}
		})
	}
	all.Wait()
	return cmp.Or(errs...)
}

// eachSorted calls work with every block of the updates, and with the same values
// in ascending order for each coordinate, as keys.
func eachSorted(rows Rows, work func(from int, values [][]float64, sorted [][]int64)) error {
	n := rows.Len()
	var keys [slots][][]int64
	// Both fit into a second-level cache, which the network goes through many times.
	return eachBlock(rows, min(max(1<<14/n, 64), block), func(slot, from int, values [][]float64) {
		sorted := keys[slot]
		if sorted == nil {
			sorted = make([][]int64, n)
			for r, row := range values {
				sorted[r] = make([]int64, len(row))
			}
			keys[slot] = sorted
		}
		for r, row := range values {
			sorted[r] = sorted[r][:len(row)]
			for c, v := range row {
				sorted[r][c] = keyOf(v)
			}
		}
		sortRows(sorted)
		work(from, values, sorted)
	}, nil)
}

// keyOf is a number that is ordered as v is, and -0 below 0.
func keyOf(v float64) int64 {
	bits := int64(math.Float64bits(v))
	return bits ^ int64(uint64(bits>>63)>>1)
}

// valueOf is the value that has a key.
func valueOf(key int64) float64 {
	return math.Float64frombits(uint64(key ^ int64(uint64(key>>63)>>1)))
}

// sortRows sorts each column, by Batcher's network of comparisons (Knuth, volume 3,
// algorithm 5.2.2M): the same for all columns, so that no branch depends on a value.
func sortRows(rows [][]int64) {
	n := len(rows)
	top := 1 << bits.Len(uint(n-1)) / 2
	for p := top; p > 0; p /= 2 {
		for q, r, d := top, 0, p; ; q, r, d = q/2, p, q-p {
			for i := range n - d {
				if i&p == r {
					exchange(rows[i], rows[i+d])
				}
			}
			if q == p {
				break
			}
		}
	}
}

// exchange puts the smaller of two values into low, for each column. It is a function of
// its own so that its loop has the registers to itself.
//
//go:noinline
func exchange(low, high []int64) {
	high = high[:len(low)]
	for c, x := range low {
		y := high[c]
		low[c], high[c] = min(x, y), max(x, y)
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
	n := rows.Len()
	err := eachSorted(rows, func(from int, values [][]float64, sorted [][]int64) {
		low, high, column := sorted[(n-1)/2], sorted[n/2], make([]float64, n)
		for c := range low {
			v := valueOf(high[c])
			if n%2 == 0 {
				v = valueOf(low[c])/2 + v/2
			}
			if v == 0 { // which of the zeros, the network does not know
				for r := range column {
					column[r] = values[r][c]
				}
				v = medianOf(column)
			}
			model[from+c] = v
		}
	})
	return model, err
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
	kept := float64(rows.Len() - 2*cut)
	err := eachSorted(rows, func(from int, _ [][]float64, sorted [][]int64) {
		sum := model[from:][:len(sorted[0])]
		for _, row := range sorted[cut : len(sorted)-cut] {
			for c, key := range row {
				sum[c] += valueOf(key)
			}
		}
		for c := range sum {
			sum[c] /= kept
		}
	})
	return model, err
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
	d, err := distances(rows)
	if err != nil {
		return nil, err
	}
	return weightedMean(selection{rows, ranked(d, all(rows.Len()), int(s.Byzantine))[:int(s.Select)]})
}

// weightedMean is the mean of the updates, added in their order.
func weightedMean(rows Rows) ([]float64, error) {
	var weight float64
	for r := range rows.Len() {
		weight += rows.Samples(r)
	}
	mean := make([]float64, rows.Dim())
	err := eachBlock(rows, block, func(_, from int, values [][]float64) {
		for r, row := range values {
			sum, w := mean[from:][:len(row)], rows.Samples(r)
			for i, v := range row {
				sum[i] += float64(w * v)
			}
		}
		for i := range values[0] {
			mean[from+i] /= weight
		}
	}, nil)
	return mean, err
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
func distances(rows Rows) ([][]float64, error) {
	n := rows.Len()
	d := make([][]float64, n)
	for r := range d {
		d[r] = make([]float64, n)
	}
	var sums [slots][]float64 // of a block, for all pairs
	err := eachBlock(rows, block, func(slot, _ int, values [][]float64) {
		sum := sums[slot][:0]
		for a, x := range values {
			others := values[:a]
			for ; len(others) >= 4; others = others[4:] {
				sum = append(sum, 0, 0, 0, 0)
				squares4((*[4]float64)(sum[len(sum)-4:]), x, others)
			}
			for _, y := range others {
				sum = append(sum, squares(x, y))
			}
		}
		sums[slot] = sum
	}, func(slot int) {
		sum := sums[slot]
		for a := range n {
			for b := range a {
				d[a][b] += sum[b]
				d[b][a] = d[a][b]
			}
			sum = sum[a:]
		}
	})
	return d, err
}

// squares is the sum of the squared differences of two vectors.
func squares(x, y []float64) (sum float64) {
	y = y[:len(x)]
	for i, v := range x {
		d := v - y[i]
		sum += float64(d * d)
	}
	return sum
}

// squares4 are the squares of x and each of four others, to the same bits: an addition
// need not wait for the one before.
func squares4(sums *[4]float64, x []float64, others [][]float64) {
	y0, y1, y2, y3 := others[0][:len(x)], others[1][:len(x)], others[2][:len(x)], others[3][:len(x)]
	var s0, s1, s2, s3 float64
	for i, v := range x {
		d0, d1, d2, d3 := v-y0[i], v-y1[i], v-y2[i], v-y3[i]
		s0 += float64(d0 * d0)
		s1 += float64(d1 * d1)
		s2 += float64(d2 * d2)
		s3 += float64(d3 * d3)
	}
	*sums = [4]float64{s0, s1, s2, s3}
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
	d, err := distances(rows)
	if err != nil {
		return nil, err
	}
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
	err = eachSorted(selection{rows, chosen}, func(from int, _ [][]float64, sorted [][]int64) {
		column := make([]float64, theta)
		for c := range sorted[0] {
			for r := range column {
				column[r] = valueOf(sorted[r][c])
			}
			middle := medianOf(column)
			slices.SortStableFunc(column, func(a, b float64) int { return cmp.Compare(math.Abs(a-middle), math.Abs(b-middle)) })
			model[from+c] = plainMean(column[:theta-2*f])
		}
	})
	return model, err
}

// selection are some of the rows.
type selection struct {
	Rows
	which []int
}

func (s selection) Len() int              { return len(s.which) }
func (s selection) Samples(i int) float64 { return s.Rows.Samples(s.which[i]) }

func (s selection) Read(i, from int, dst []float64) error { return s.Rows.Read(s.which[i], from, dst) }

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
	average := func() error {
		clear(next)
		err := eachBlock(rows, block, func(_, from int, values [][]float64) {
			for r, row := range values {
				sum, w := next[from:][:len(row)], weights[r]
				for i, v := range row {
					sum[i] += float64(w * v)
				}
			}
		}, nil)
		point, next = next, point
		return err
	}
	if err := average(); err != nil {
		return nil, err
	}
	for range int(s.Rounds) {
		squares, err := squaresFrom(rows, point)
		if err != nil {
			return nil, err
		}
		var total float64
		for r := range weights {
			weights[r] = 1 / max(math.Sqrt(squares[r]), s.Smoothing)
			total += weights[r]
		}
		for r := range weights {
			weights[r] /= total
		}
		if err := average(); err != nil {
			return nil, err
		}
		var moved, size float64
		for i, v := range point {
			d := v - next[i]
			moved += float64(d * d)
			size += float64(v * v)
		}
		if math.Sqrt(moved) <= 1e-15*max(math.Sqrt(size), s.Smoothing) {
			break
		}
	}
	return point, nil
}

// squaresFrom are the squared distances of the updates from a point, each added up from
// the first coordinate to the last.
func squaresFrom(rows Rows, point []float64) ([]float64, error) {
	sums := make([]float64, rows.Len())
	err := together(len(sums), func(r int) error {
		var sum float64
		part := make([]float64, min(block, len(point)))
		for from := 0; from < len(point); from += len(part) {
			part = part[:min(len(part), len(point)-from)]
			if err := rows.Read(r, from, part); err != nil {
				return err
			}
			for i, v := range part {
				d := v - point[from+i]
				sum += float64(d * d)
			}
		}
		sums[r] = sum
		return nil
	})
	return sums, err
}
