//go:build amd64 && !goexperiment.simd

package kernels

import "golang.org/x/sys/cpu"

// fastest are the kernels that go beyond plain Go and run here, the best first.
func fastest() []kernel {
	if !cpu.X86.HasAVX2 {
		return nil
	}
	return []kernel{{name: "avx2", add1: add1, add4: add4, check4: check4, squares: squares}}
}

// The functions in assembly look at n values, a multiple of lanes and not 0.

//go:noescape
func add1AVX2(sum *float64, x *float32, w float64, n int)

//go:noescape
func add4AVX2(sum *float64, x *[4]*float32, w *[4]float64, n int)

//go:noescape
func check4AVX2(sum *float64, base *float32, x *[4]*float32, w *[4]float64, squares *[4][lanes]float64, n int)

//go:noescape
func squaresAVX2(squares *[lanes]float64, x, base *float32, n int)

func add1(sum []float64, x []float32, w float64) {
	x = x[:len(sum)]
	n := len(sum) &^ (lanes - 1)
	if n > 0 {
		add1AVX2(&sum[0], &x[0], w, n)
	}
	add1Plain(sum[n:], x[n:], w)
}

func add4(sum []float64, x *[4][]float32, w *[4]float64) {
	n := len(sum) &^ (lanes - 1)
	if n > 0 {
		add4AVX2(&sum[0], starts(x, n), w, n)
	}
	add4Plain(sum[n:], rest(x, n), w)
}

func check4(sum []float64, base []float32, x *[4][]float32, w *[4]float64, squares *[4][lanes]float64) {
	base = base[:len(sum)]
	n := len(sum) &^ (lanes - 1)
	if n > 0 {
		check4AVX2(&sum[0], &base[0], starts(x, n), w, squares, n)
	}
	check4Plain(sum[n:], base[n:], rest(x, n), w, squares)
}

func squares(squares *[lanes]float64, x, base []float32) {
	base = base[:len(x)]
	n := len(x) &^ (lanes - 1)
	if n > 0 {
		squaresAVX2(squares, &x[0], &base[0], n)
	}
	squaresPlain(squares, x[n:], base[n:])
}

// starts are where n values or more begin.
func starts(x *[4][]float32, n int) *[4]*float32 {
	return &[4]*float32{&x[0][:n][0], &x[1][:n][0], &x[2][:n][0], &x[3][:n][0]}
}

func rest(x *[4][]float32, n int) *[4][]float32 {
	return &[4][]float32{x[0][n:], x[1][n:], x[2][n:], x[3][n:]}
}
