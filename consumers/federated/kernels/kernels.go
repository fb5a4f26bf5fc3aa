// Package kernels folds updates of float32 into sums of float64, at about the
// speed at which memory can be read.
//
// Products and sums are rounded one after the other, in the order of the
// updates. So the bits of a result depend neither on how many updates are folded
// at once nor on the kernel: a round that one build folded can be folded again by
// another.
package kernels

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"runtime"
	"sync"
)

// block is how many values are worked on at a time: the sums of a block stay in
// the processor's own cache while all updates are added to them, and memory is
// read in stretches that are long enough to be fetched ahead.
const block = 8192

// piece is how many values of a block are measured at a time.
const piece = 1024

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

// Update is one of those that FoldChecked folds.
type Update struct {
	Values [][]float32 // by tensor
	Weight float64
	// Squares are added to, by all tensors in turn.
	Squares Squares
	// Sums become the CRC-32 of each tensor's Bytes, by the polynomial of IEEE. nil is
	// not to look.
	Sums []uint32
}

// FoldChecked makes sum, by tensor, of before and each update, times its weight, in one
// pass over memory in which the updates are measured against base as well. before may
// be sum; where it is nil it is 0, and what sum has does not matter. An update that
// holds NaN or an infinity has a distance that is not finite, and has spoilt sum. All
// have tensors of the lengths of sum's, and all Squares were given as many values.
func FoldChecked(sum, before [][]float64, base [][]float32, updates []Update) {
	var values int
	for _, t := range sum {
		values += len(t)
	}
	all[0].foldChecked(workers(values, len(updates)), sum, before, base, updates)
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
				kn.foldBlock(from, min(from+block, end), sum, updates, weights)
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
func (kn kernel) foldChecked(workers int, sum, before [][]float64, base [][]float32, updates []Update) {
	fours := (len(updates) + 3) / 4
	workers = min(workers, max(1, fours))
	blocks := 0
	for _, t := range sum {
		blocks += (len(t) + block - 1) / block
	}
	var previous chan struct{}
	var done sync.WaitGroup
	for i := range workers {
		first, end := fours*i/workers*4, min(fours*(i+1)/workers*4, len(updates))
		wait, ready := previous, make(chan struct{}, blocks)
		previous = ready
		work := func() {
			for k, s := range sum {
				for from := 0; from < len(s); from += block {
					to := min(from+block, len(s))
					switch {
					case wait != nil:
						<-wait
					case before[k] == nil:
						clear(s[from:to])
					default:
						copy(s[from:to], before[k][from:to])
					}
					kn.checkBlock(k, from, to, s, base[k], updates[first:end])
					ready <- struct{}{}
				}
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

// foldBlock folds one block.
func (kn kernel) foldBlock(from, to int, sum []float64, updates [][]float32, weights []float64) {
	s, k := sum[from:to], 0
	for ; k+4 <= len(updates); k += 4 {
		x := [4][]float32{}
		for i := range x {
			x[i] = updates[k+i][from:to]
		}
		kn.add4(s, &x, (*[4]float64)(weights[k:]))
	}
	for ; k < len(updates); k++ {
		kn.add1(s, updates[k][from:to], weights[k])
	}
}

// checkBlock folds and measures one block of a tensor, piece by piece: what the CRC-32
// has looked at is in the processor's first cache when it is folded.
func (kn kernel) checkBlock(tensor, from, to int, sum []float64, base []float32, updates []Update) {
	for ; len(updates) >= 4; updates = updates[4:] {
		four, at := (*[4]Update)(updates), from
		if off := four[0].Squares.added % lanes; off != 0 { // after tensors of odd lengths
			at = min(from+lanes-off, to)
			for i := range four {
				kn.checkOne(tensor, from, at, sum, base, &four[i])
			}
		}
		for ; at < to; at += piece {
			kn.checkFour(tensor, at, min(at+piece, to), sum, base, four)
		}
	}
	for i := range updates {
		kn.checkOne(tensor, from, to, sum, base, &updates[i])
	}
}

func (kn kernel) checkOne(tensor, from, to int, sum []float64, base []float32, u *Update) {
	x := u.Values[tensor][from:to]
	u.sum(tensor, x)
	u.Squares.add(kn, x, base[from:to])
	kn.add1(sum[from:to], x, u.Weight)
}

func (kn kernel) checkFour(tensor, from, to int, sum []float64, base []float32, four *[4]Update) {
	var x [4][]float32
	var w [4]float64
	var squares [4][lanes]float64
	for i := range four {
		u := &four[i]
		x[i], w[i], squares[i] = u.Values[tensor][from:to], u.Weight, u.Squares.sums
		u.sum(tensor, x[i])
	}
	kn.check4(sum[from:to], base[from:to], &x, &w, &squares)
	for i := range four {
		four[i].Squares.sums = squares[i]
		four[i].Squares.added += to - from
	}
}

// sum goes on with the CRC-32 of a tensor.
func (u *Update) sum(tensor int, x []float32) {
	if u.Sums == nil {
		return
	}
	if b := Bytes(x); b != nil {
		u.Sums[tensor] = crc32.Update(u.Sums[tensor], crc32.IEEETable, b)
		return
	}
	var b [4]byte
	for _, v := range x {
		binary.LittleEndian.PutUint32(b[:], math.Float32bits(v))
		u.Sums[tensor] = crc32.Update(u.Sums[tensor], crc32.IEEETable, b[:])
	}
}
