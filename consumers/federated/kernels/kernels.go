// Package kernels folds updates of float32 into sums of float64, at about the
// speed at which memory can be read.
//
// Products and sums are rounded one after the other, in the order of the
// updates. So the bits of a result depend neither on how many updates are folded
// at once nor on the kernel: a round that one build folded can be folded again by
// another.
package kernels

import "math"

// block is how many values are worked on at a time: the sums of a block stay in
// the processor's own cache while all updates are added to them, and memory is
// read in stretches that are long enough to be fetched ahead.
const block = 8192

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
	// squares adds the squares of x minus base, each to the lane of its index, which
	// begins anew with the block.
	squares func(squares *[lanes]float64, x, base []float32)
}

// all are the kernels that run here, the fastest first.
var all = append(fastest(), plain)

// Name says which kernel folds here.
func Name() string { return all[0].name }

// Fold adds each update, times its weight, to sum. The updates are as long as
// sum.
func Fold(sum []float64, updates [][]float32, weights []float64) {
	all[0].fold(sum, nil, updates, weights, nil)
}

// FoldChecked does what Fold does, and sets distances to the Euclidean distance
// of each update from base, in the same pass over memory. An update that holds
// NaN or an infinity has a distance that is not finite, and has spoilt sum.
func FoldChecked(sum []float64, base []float32, updates [][]float32, weights, distances []float64) {
	all[0].fold(sum, base, updates, weights, distances)
}

// Distance is the Euclidean distance of update from base. It is finite if and
// only if all values of update are: no square of a float32 is too large for a
// float64, nor is a sum of as many as there can be.
func Distance(update, base []float32) float64 { return all[0].distance(update, base) }

func (kn kernel) distance(update, base []float32) float64 {
	var squares [lanes]float64
	for from := 0; from < len(base); from += block {
		to := min(from+block, len(base))
		kn.squares(&squares, update[from:to], base[from:to])
	}
	return root(&squares)
}

func root(squares *[lanes]float64) (sum float64) {
	for _, s := range squares {
		sum += s
	}
	return math.Sqrt(sum)
}

func (kn kernel) fold(sum []float64, base []float32, updates [][]float32, weights, distances []float64) {
	squares := make([][lanes]float64, len(distances))
	for from := 0; from < len(sum); from += block {
		to := min(from+block, len(sum))
		s := sum[from:to]
		k := 0
		for ; k+4 <= len(updates); k += 4 {
			x, w := [4][]float32{}, (*[4]float64)(weights[k:])
			for i := range x {
				x[i] = updates[k+i][from:to]
			}
			if distances == nil {
				kn.add4(s, &x, w)
			} else {
				kn.check4(s, base[from:to], &x, w, (*[4][lanes]float64)(squares[k:]))
			}
		}
		for ; k < len(updates); k++ {
			x := updates[k][from:to]
			if distances != nil {
				kn.squares(&squares[k], x, base[from:to])
			}
			kn.add1(s, x, weights[k])
		}
	}
	for i := range distances {
		distances[i] = root(&squares[i])
	}
}
