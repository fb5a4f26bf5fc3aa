//go:build goexperiment.simd && amd64

package kernels

import "simd/archsimd"

// fastest are the kernels that go beyond plain Go and run here, the best first.
func fastest() []kernel {
	if !archsimd.X86.AVX512() {
		return nil
	}
	return []kernel{{name: "avx512", add1: add1, add4: add4, check4: check4, squares: squares}}
}

// What follows the kernels is slowed down several times over unless the upper
// halves of the registers are cleared.

func add1(sum []float64, x []float32, w float64) {
	x = x[:len(sum)]
	ws := archsimd.BroadcastFloat64x8(w)
	i := 0
	for ; i+8 <= len(sum); i += 8 {
		s := archsimd.LoadFloat64x8Slice(sum[i:])
		s.Add(archsimd.LoadFloat32x8Slice(x[i:]).ConvertToFloat64().Mul(ws)).StoreSlice(sum[i:])
	}
	archsimd.ClearAVXUpperBits()
	add1Plain(sum[i:], x[i:], w)
}

func add4(sum []float64, x *[4][]float32, w *[4]float64) {
	n := len(sum)
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
	archsimd.ClearAVXUpperBits()
	add4Plain(sum[i:], &[4][]float32{a[i:], b[i:], c[i:], d[i:]}, w)
}

func check4(sum []float64, base []float32, x *[4][]float32, w *[4]float64, squares *[4][lanes]float64) {
	n := len(sum)
	a, b, c, d, base := x[0][:n], x[1][:n], x[2][:n], x[3][:n], base[:n]
	wa, wb := archsimd.BroadcastFloat64x8(w[0]), archsimd.BroadcastFloat64x8(w[1])
	wc, wd := archsimd.BroadcastFloat64x8(w[2]), archsimd.BroadcastFloat64x8(w[3])
	qa, qb := archsimd.LoadFloat64x8(&squares[0]), archsimd.LoadFloat64x8(&squares[1])
	qc, qd := archsimd.LoadFloat64x8(&squares[2]), archsimd.LoadFloat64x8(&squares[3])
	i := 0
	for ; i+8 <= n; i += 8 {
		s := archsimd.LoadFloat64x8Slice(sum[i:])
		from := archsimd.LoadFloat32x8Slice(base[i:]).ConvertToFloat64()
		v := archsimd.LoadFloat32x8Slice(a[i:]).ConvertToFloat64()
		s, v = s.Add(v.Mul(wa)), v.Sub(from)
		qa = qa.Add(v.Mul(v))
		v = archsimd.LoadFloat32x8Slice(b[i:]).ConvertToFloat64()
		s, v = s.Add(v.Mul(wb)), v.Sub(from)
		qb = qb.Add(v.Mul(v))
		v = archsimd.LoadFloat32x8Slice(c[i:]).ConvertToFloat64()
		s, v = s.Add(v.Mul(wc)), v.Sub(from)
		qc = qc.Add(v.Mul(v))
		v = archsimd.LoadFloat32x8Slice(d[i:]).ConvertToFloat64()
		s, v = s.Add(v.Mul(wd)), v.Sub(from)
		qd = qd.Add(v.Mul(v))
		s.StoreSlice(sum[i:])
	}
	qa.Store(&squares[0])
	qb.Store(&squares[1])
	qc.Store(&squares[2])
	qd.Store(&squares[3])
	archsimd.ClearAVXUpperBits()
	check4Plain(sum[i:], base[i:], &[4][]float32{a[i:], b[i:], c[i:], d[i:]}, w, squares)
}

func squares(squares *[lanes]float64, x, base []float32) {
	base = base[:len(x)]
	s := archsimd.LoadFloat64x8(squares)
	i := 0
	for ; i+8 <= len(x); i += 8 {
		d := archsimd.LoadFloat32x8Slice(x[i:]).ConvertToFloat64().Sub(archsimd.LoadFloat32x8Slice(base[i:]).ConvertToFloat64())
		s = s.Add(d.Mul(d))
	}
	s.Store(squares)
	archsimd.ClearAVXUpperBits()
	squaresPlain(squares, x[i:], base[i:])
}
