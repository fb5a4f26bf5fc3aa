package kernels

// plain runs everywhere. The conversions of products keep them from being fused
// with the sum, which some processors would do, and so round once less.
var plain = kernel{name: "plain", add1: add1Plain, add4: add4Plain, check4: check4Plain, squares: squaresPlain}

func add1Plain(sum []float64, x []float32, w float64) {
	x = x[:len(sum)]
	for i := range sum {
		sum[i] += float64(w * float64(x[i]))
	}
}

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

func check4Plain(sum []float64, base []float32, x *[4][]float32, w *[4]float64, squares *[4][lanes]float64) {
	for i := range x {
		squaresPlain(&squares[i], x[i][:len(sum)], base)
	}
	add4Plain(sum, x, w)
}

func squaresPlain(squares *[lanes]float64, x, base []float32) {
	base = base[:len(x)]
	s0, s1, s2, s3 := squares[0], squares[1], squares[2], squares[3]
	s4, s5, s6, s7 := squares[4], squares[5], squares[6], squares[7]
	for ; len(x) >= lanes && len(base) >= lanes; x, base = x[lanes:], base[lanes:] {
		s0 += square(x[0], base[0])
		s1 += square(x[1], base[1])
		s2 += square(x[2], base[2])
		s3 += square(x[3], base[3])
		s4 += square(x[4], base[4])
		s5 += square(x[5], base[5])
		s6 += square(x[6], base[6])
		s7 += square(x[7], base[7])
	}
	*squares = [lanes]float64{s0, s1, s2, s3, s4, s5, s6, s7}
	for i, v := range x {
		squares[i] += square(v, base[i])
	}
}

func square(x, base float32) float64 {
	d := float64(x) - float64(base)
	return float64(d * d)
}
