//go:build !(goexperiment.simd && amd64)

package kernels

// Name says how this build folds here.
func Name() string { return "plain" }

func add4(sum []float64, x *[4][]float32, w *[4]float64) { add4Plain(sum, x, w) }

func addSquares(squares *[lanes]float64, x, base []float32) { addSquaresPlain(squares, x, base) }
