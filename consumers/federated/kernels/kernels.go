// Package kernels folds updates of float32 into sums of float64, at about the
// speed at which memory can be read.
//
// Products and sums are rounded one after the other, in the order of the
// updates. So the bits of a result depend neither on how many updates are folded
// at once nor on the kernel: a round that one build folded can be folded again by
// another.
package kernels

import (
	"math"
	"runtime"
	"sync"
)

// block is how many values are worked on at a time: the sums of a block stay in
// the processor's own cache while all updates are added to them, and memory is
// read in stretches that are long enough to be fetched ahead.
const block = 8192

// alone is how many values one worker folds faster than two would begin.
const alone = 1 << 18

// lanes is how many partial sums there are of a squared distance, by the index
// of the value. It is part of what the result means.
const lanes = 8

// kernel is one way to fold, which all give the same bits. The slices that are
// given to a function are as long as its first one.
type kernel struct {
	name string
	// add1 adds x times w to sum, and add4 four of them in their order.
	add1 func(sum []float64, x []float32, w float64)
	add4 func(sum []float64, x *[4][]float32, w *[4]float64)
	// check4 does what add4 does, and squares for each of the four.
	check4 func(sum []float64, base []float32, x *[4][]float32, w *[4]float64, squares *[4][lanes]float64)
	// squares adds the squares of x minus base, each to the lane of its index.
	squares func(squares *[lanes]float64, x, base []float32)
}

// all are the kernels that run here, the fastest first.
var all = append(fastest(), plain)

// Name says which kernel folds here.
func Name() string { return all[0].name }

// Fold adds each update, times its weight, to sum, on all processors. The updates
// are as long as sum.
func Fold(sum []float64, updates [][]float32, weights []float64) {
	all[0].fold(workers(len(sum), len(updates)), sum, updates, weights)
}

// FoldChecked does what Fold does, and sets distances to the Euclidean distance
// of each update from base, in the same pass over memory. An update that holds
// NaN or an infinity has a distance that is not finite, and has spoilt sum.
func FoldChecked(sum []float64, base []float32, updates [][]float32, weights, distances []float64) {
	all[0].foldChecked(workers(len(sum), len(updates)), sum, base, updates, weights, distances)
}

// Distance is the Euclidean distance of update from base. It is finite if and
// only if all values of update are: no square of a float32 is too large for a
// float64, nor is a sum of as many as there can be.
func Distance(update, base []float32) float64 {
	var s Squares
	s.Add(update, base)
	return s.Distance()
}

// Squares come to the distance of an update whose values are given part by part.
type Squares struct {
	sums  [lanes]float64
	added int
}

// Add adds the next values of an update, beside those of its base.
func (s *Squares) Add(x, base []float32) { s.add(all[0], x, base) }

func (s *Squares) add(kn kernel, x, base []float32) {
	base = base[:len(x)]
	for ; s.added%lanes != 0 && len(x) > 0; x, base = x[1:], base[1:] {
		s.sums[s.added%lanes] += square(x[0], base[0])
		s.added++
	}
	kn.squares(&s.sums, x, base)
	s.added += len(x)
}

// Distance is what Distance is of the values so far.
func (s *Squares) Distance() float64 { return root(&s.sums) }

func root(squares *[lanes]float64) (sum float64) {
	for _, s := range squares {
		sum += s
	}
	return math.Sqrt(sum)
}

// workers is among how many so much work is worth dividing.
func workers(values, updates int) int {
	return min(runtime.GOMAXPROCS(0), max(1, values*updates/alone))
}

// fold gives each worker a range of sum.
func (kn kernel) fold(workers int, sum []float64, updates [][]float32, weights []float64) {
	blocks := (len(sum) + block - 1) / block
	var done sync.WaitGroup
	for i := range workers {
		first, end := blocks*i/workers*block, min(blocks*(i+1)/workers*block, len(sum))
		work := func() {
			for from := first; from < end; from += block {
				kn.foldBlock(from, min(from+block, end), sum, nil, updates, weights, nil)
			}
		}
		if i == workers-1 {
			work()
		} else {
			done.Go(work)
		}
	}
	done.Wait()
}

// foldChecked gives each worker some of the updates, because the squares of an
// update have an order. A worker follows the one before it through sum, so that the
// updates are added in theirs.
func (kn kernel) foldChecked(workers int, sum []float64, base []float32, updates [][]float32, weights, distances []float64) {
	squares := make([][lanes]float64, len(updates))
	fours := (len(updates) + 3) / 4
	workers = min(workers, max(1, fours))
	blocks := (len(sum) + block - 1) / block
	var before chan struct{}
	var done sync.WaitGroup
	for i := range workers {
		first, end := fours*i/workers*4, min(fours*(i+1)/workers*4, len(updates))
		wait, ready := before, make(chan struct{}, blocks)
		before = ready
		work := func() {
			for from := 0; from < len(sum); from += block {
				if wait != nil {
					<-wait
				}
				kn.foldBlock(from, min(from+block, len(sum)), sum, base, updates[first:end], weights[first:end], squares[first:end])
				ready <- struct{}{}
			}
		}
		if i == workers-1 {
			work()
		} else {
			done.Go(work)
		}
	}
	done.Wait()
	for i := range updates {
		distances[i] = root(&squares[i])
	}
}

// foldBlock folds one block, and adds up squares unless they are nil.
func (kn kernel) foldBlock(from, to int, sum []float64, base []float32, updates [][]float32, weights []float64, squares [][lanes]float64) {
	s, k := sum[from:to], 0
	for ; k+4 <= len(updates); k += 4 {
		x, w := [4][]float32{}, (*[4]float64)(weights[k:])
		for i := range x {
			x[i] = updates[k+i][from:to]
		}
		if squares == nil {
			kn.add4(s, &x, w)
		} else {
			kn.check4(s, base[from:to], &x, w, (*[4][lanes]float64)(squares[k:]))
		}
	}
	for ; k < len(updates); k++ {
		x := updates[k][from:to]
		if squares != nil {
			kn.squares(&squares[k], x, base[from:to])
		}
		kn.add1(s, x, weights[k])
	}
}
