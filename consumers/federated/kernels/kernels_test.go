package kernels

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math"
	"runtime"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// However many updates are folded at once, by whichever kernel, the bits are
// those of one after the other; and so are those of the distances.
func TestFold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dim := rapid.SampledFrom([]int{0, 1, 7, 8, 9, 1000, block - 1, 2*block + 13}).Draw(t, "dim")
		n := rapid.IntRange(0, 9).Draw(t, "updates")
		workers := rapid.IntRange(1, 3).Draw(t, "workers")
		cut := rapid.IntRange(0, dim).Draw(t, "cut")
		seed := rapid.Float64Range(0.1, 3).Draw(t, "seed")
		values := func(k int) []float32 {
			x := make([]float32, dim)
			for i := range x {
				x[i] = float32(math.Sin(seed*float64(i*31+k*17)) * math.Pow(10, float64((i+k)%7-3)))
			}
			return x
		}
		base := values(-1)
		var updates [][]float32
		var weights, wantDistances []float64
		want, got := make([]float64, dim), make([]float64, dim)
		begun := rapid.Bool().Draw(t, "begun")
		before := make([]float64, dim)
		for i := range before {
			if begun {
				before[i] = float64(i%7) / 3
			}
		}
		copy(want, before)
		for k := range n {
			x, w := values(k), seed*float64(k*k+1)
			updates, weights = append(updates, x), append(weights, w)
			var squares [lanes]float64
			for i, v := range x {
				want[i] += float64(w * float64(v))
				d := float64(v) - float64(base[i])
				squares[i%lanes] += float64(d * d)
			}
			wantDistances = append(wantDistances, root(&squares))
		}
		for _, kn := range all {
			distances := make([]float64, n)
			copy(got, before)
			kn.fold(workers, got, updates, weights)
			checked := slices.Repeat([]float64{math.NaN()}, dim)
			from := [][]float64{before[:cut], before[cut:]}
			if !begun {
				from = make([][]float64, 2)
			}
			var whole []Update
			for k, x := range updates {
				whole = append(whole, Update{Values: [][]float32{x[:cut], x[cut:]}, Weight: weights[k], Sums: make([]uint32, 2)})
			}
			kn.foldChecked(workers, [][]float64{checked[:cut], checked[cut:]}, from, [][]float32{base[:cut], base[cut:]}, whole)
			for k, u := range whole {
				distances[k] = u.Squares.Distance()
				for i, values := range u.Values {
					if want := crc32.ChecksumIEEE(Bytes(values)); u.Sums[i] != want {
						t.Fatalf("%s: expected the CRC-32 %d of tensor %d of update %d, found %d", kn.name, want, i, k, u.Sums[i])
					}
				}
			}
			if !slices.Equal(got, want) || !slices.Equal(checked, want) || !slices.Equal(distances, wantDistances) {
				t.Fatalf("%s: %d updates of %d values by %d: not the bits of one after the other", kn.name, n, dim, workers)
			}
			for k, x := range updates {
				var s Squares
				s.add(kn, x[:cut], base[:cut])
				s.add(kn, x[cut:], base[cut:])
				if d := s.Distance(); d != wantDistances[k] {
					t.Fatalf("%s: distance %d: expected %v, found %v", kn.name, k, wantDistances[k], d)
				}
			}
		}
	})
}

// A distance is finite if and only if all values are.
func TestDistanceTellsFinite(t *testing.T) {
	for _, at := range []int{0, 5, block, block + 9} {
		x, base := make([]float32, block+10), make([]float32, block+10)
		for i := range x {
			x[i], base[i] = math.MaxFloat32, -math.MaxFloat32
		}
		if d := Distance(x, base); math.IsInf(d, 0) || d != d {
			t.Fatalf("of finite values: %v", d)
		}
		for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
			x[at] = bad
			if d := Distance(x, base); d-d == 0 {
				t.Errorf("%v at %d: found %v", bad, at, d)
			}
		}
	}
}

func BenchmarkFold(b *testing.B) {
	updates := make([][]float32, 32)
	weights := make([]float64, len(updates))
	for k := range updates {
		updates[k] = make([]float32, 1<<20)
		weights[k] = float64(k)
		for i := range updates[k] { // memory that nobody wrote to is no memory
			updates[k][i] = float32(i % 1013)
		}
	}
	sum, base := make([]float64, 1<<20), make([]float32, 1<<20)
	for _, kn := range all {
		run := func(name string, fn func()) {
			b.Run(name+"/"+kn.name, func(b *testing.B) {
				b.SetBytes(int64(len(updates)) << 22)
				for b.Loop() {
					fn()
				}
			})
		}
		run("sum", func() { kn.fold(1, sum, updates, weights) })
		run("sum by two", func() { kn.fold(2, sum, updates, weights) })
		whole, sums := make([]Update, len(updates)), [][]float64{sum}
		for k, x := range updates {
			whole[k] = Update{Values: [][]float32{x}, Weight: weights[k]}
		}
		run("checked", func() { kn.foldChecked(1, sums, sums, [][]float32{base}, whole) })
		run("checked by two", func() { kn.foldChecked(2, sums, sums, [][]float32{base}, whole) })
		for k := range whole {
			whole[k].Sums = make([]uint32, 1)
		}
		run("checked with CRC-32", func() { kn.foldChecked(1, sums, sums, [][]float32{base}, whole) })
		run("distance", func() {
			for _, x := range updates {
				var s Squares
				s.add(kn, x, base)
			}
		})
	}
}

// Floats are those in the bytes, and Bytes those of the numbers, or nothing.
func TestFloats(t *testing.T) {
	want := []float32{1, -2.5, math.MaxFloat32, float32(math.Inf(-1))}
	data := []byte{0}
	for _, v := range want {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
	}
	aligned := append([]byte(nil), data[1:]...)
	if got := Floats(aligned); got != nil && !slices.Equal(got, want) {
		t.Errorf("expected %v, found %v", want, got)
	}
	if got := Bytes(want); got != nil && !bytes.Equal(got, aligned) {
		t.Errorf("expected %v, found %v", aligned, got)
	}
	if got := Floats(append(make([]byte, 0, 64), data...)[1:]); got != nil {
		t.Errorf("expected nothing where they are not aligned, found %v", got)
	}
	if runtime.GOARCH == "amd64" && (Floats(aligned) == nil || Bytes(want) == nil) {
		t.Error("expected the numbers where they lie, found none")
	}
}
