//go:build goexperiment.simd && amd64

package kernels

import "simd/archsimd"

// Name says how this build folds here.
func Name() string {
	if archsimd.X86.AVX512() {
		return "avx512"
	}
	return "plain"
}

func add4(sum []float64, x *[4][]float32, w *[4]float64) {
	n := len(sum)
	if !archsimd.X86.AVX512() {
		add4Plain(sum, x, w)
		return
	}
	a, b, c, d := x[0][:n], x[1][:n], x[2][:n], x[3][:n]
	wa, wb := archsimd.BroadcastFloat64x8(w[0]), archsimd.BroadcastFloat64x8(w[1])
	wc, wd := archsimd.BroadcastFloat64x8(w[2]), archsimd.BroadcastFloat64x8(w[3])
	i := 0
	for ; i+8 <= n; i += 8 {
		s := archsimd.LoadFloat64x8Slice(sum[i:])
		s = s.Add(archsimd.LoadFloat32x8Slice(a[i:]).ConvertToFloat64().Mul(wa))
		s = s.Add(archsimd.LoadFloat32x8Slice(b[i:]).ConvertToFloat64().Mul(wb))
		s = s.Add(archsimd.LoadFloat32x8Slice(c[i:]).ConvertToFloat64().Mul(wc))
		s = s.Add(archsimd.LoadFloat32x8Slice(d[i:]).ConvertToFloat64().Mul(wd))
		s.StoreSlice(sum[i:])
	}
	add4Plain(sum[i:], &[4][]float32{a[i:], b[i:], c[i:], d[i:]}, w)
}

func addSquares(squares *[lanes]float64, x, base []float32) {
	if !archsimd.X86.AVX512() {
		addSquaresPlain(squares, x, base)
		return
	}
	base = base[:len(x)]
	s := archsimd.LoadFloat64x8(squares)
	i := 0
	for ; i+8 <= len(x); i += 8 {
		d := archsimd.LoadFloat32x8Slice(x[i:]).ConvertToFloat64().Sub(archsimd.LoadFloat32x8Slice(base[i:]).ConvertToFloat64())
		s = s.Add(d.Mul(d))
	}
	s.Store(squares)
	addSquaresPlain(squares, x[i:], base[i:])
}
