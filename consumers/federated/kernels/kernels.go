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
// the cache while all updates are added to them, and an update's values while
// they are checked and added.
const block = 2048

// lanes is how many partial sums there are of a squared distance, by the index
// of the value. It is part of what the result means.
const lanes = 8

// Fold adds each update, times its weight, to sum. The updates are as long as
// sum.
func Fold(sum []float64, updates [][]float32, weights []float64) {
	fold(sum, nil, updates, weights, nil)
}

// FoldChecked does what Fold does, and sets distances to the Euclidean distance
// of each update from base, in the same pass over memory. An update that holds
// NaN or an infinity has a distance that is not finite, and has spoilt sum.
func FoldChecked(sum []float64, base []float32, updates [][]float32, weights, distances []float64) {
	fold(sum, base, updates, weights, distances)
}

// Distance is the Euclidean distance of update from base. It is finite if and
// only if all values of update are: no square of a float32 is too large for a
// float64, nor is a sum of as many as there can be.
func Distance(update, base []float32) float64 {
	var squares [lanes]float64
	for from := 0; from < len(base); from += block {
		to := min(from+block, len(base))
		addSquares(&squares, update[from:to], base[from:to])
	}
	return root(&squares)
}

func root(squares *[lanes]float64) (sum float64) {
	for _, s := range squares {
		sum += s
	}
	return math.Sqrt(sum)
}

func fold(sum []float64, base []float32, updates [][]float32, weights, distances []float64) {
	squares := make([][lanes]float64, len(distances))
	for from := 0; from < len(sum); from += block {
		to := min(from+block, len(sum))
		s := sum[from:to]
		k := 0
		for ; k+4 <= len(updates); k += 4 {
			var x [4][]float32
			for i := range x {
				x[i] = updates[k+i][from:to]
				if distances != nil {
					addSquares(&squares[k+i], x[i], base[from:to])
				}
			}
			add4(s, &x, (*[4]float64)(weights[k:]))
		}
		for ; k < len(updates); k++ {
			x := updates[k][from:to]
			if distances != nil {
				addSquares(&squares[k], x, base[from:to])
			}
			add1(s, x, weights[k])
		}
	}
	for i := range distances {
		distances[i] = root(&squares[i])
	}
}

// add1 is the fold of one update. The conversion keeps the product from being
// fused with the sum, which some processors would do, and so round once less.
func add1(sum []float64, x []float32, w float64) {
	x = x[:len(sum)]
	for i := range sum {
		sum[i] += float64(w * float64(x[i]))
	}
}

// add4Plain is the fold of four.
func add4Plain(sum []float64, x *[4][]float32, w *[4]float64) {
	n := len(sum)
	a, b, c, d := x[0][:n], x[1][:n], x[2][:n], x[3][:n]
	wa, wb, wc, wd := w[0], w[1], w[2], w[3]
	for i := range sum {
		s := sum[i]
		s += float64(wa * float64(a[i]))
		s += float64(wb * float64(b[i]))
		s += float64(wc * float64(c[i]))
		s += float64(wd * float64(d[i]))
		sum[i] = s
	}
}

// addSquaresPlain adds the squares of x minus base, each to the lane of its
// index, which begins anew with the block.
func addSquaresPlain(squares *[lanes]float64, x, base []float32) {
	base = base[:len(x)]
	s := *squares
	for len(x) >= lanes && len(base) >= lanes {
		for i := range lanes {
			d := float64(x[i]) - float64(base[i])
			s[i] += float64(d * d)
		}
		x, base = x[lanes:], base[lanes:]
	}
	for i, v := range x {
		d := float64(v) - float64(base[i])
		s[i] += float64(d * d)
	}
	*squares = s
}
