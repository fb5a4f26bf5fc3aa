package federated

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/consumers/federated/kernels"
	"penstock/consumers/federated/strategies"
)

func TestWireRoundTrip(t *testing.T) {
	r := newRegistry(t)
	rapid.Check(t, func(t *rapid.T) {
		var p []Tensor
		for range rapid.IntRange(1, 3).Draw(t, "tensors") {
			shape := rapid.SliceOfN(rapid.IntRange(0, 3), 0, 3).Draw(t, "shape")
			n := 1
			for _, d := range shape {
				n *= d
			}
			p = append(p, Tensor{
				Name:   rapid.String().Draw(t, "name"),
				Shape:  append([]int{}, shape...),
				Values: rapid.SliceOfN(rapid.Float32(), n, n).Draw(t, "values"),
			})
		}
		m := Model{
			Round: 1, Rounds: 3, Hash: hashOf(p), Base: Hash{1}, Clients: []string{"a", "b"}, Parameters: p,
			Contributions: []Contribution{{"a", 7, 2, 1 << 40, 0.5, 0.25, 3, 9}},
			Strategy:      "median", State: strategies.State{"v": {1, -2.5}, "m": {}},
			Positions: []Position{{"c", "t", "i", 2, 1<<40 + 1}},
		}
		payload, err := r[1].AppendEncode(nil, m.value())
		if err != nil {
			t.Fatal(err)
		}
		v, err := r[1].Decode(payload)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadModel(v)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m, got); d != "" {
			t.Fatal(d)
		}
	})
}

func TestHashTellsModelsApart(t *testing.T) {
	seen := map[Hash][]Tensor{}
	for _, p := range [][]Tensor{
		nil,
		{{Name: "a", Shape: []int{2}, Values: []float32{1, 2}}},
		{{Name: "a", Shape: []int{2}, Values: []float32{1, 3}}},
		{{Name: "b", Shape: []int{2}, Values: []float32{1, 2}}},
		{{Name: "a", Shape: []int{2, 1}, Values: []float32{1, 2}}},
		{{Name: "a", Shape: []int{1, 2}, Values: []float32{1, 2}}},
		{{Name: "a", Shape: []int{1}, Values: []float32{1}}, {Name: "a", Shape: []int{1}, Values: []float32{2}}},
	} {
		if other, ok := seen[hashOf(p)]; ok {
			t.Errorf("%v and %v have one hash", p, other)
		}
		seen[hashOf(p)] = p
	}
}

func TestReadModelRefuses(t *testing.T) {
	f := func(want string, change func(v map[string]any)) {
		t.Helper()
		v := someModel(1).value()
		change(v)
		if _, err := ReadModel(v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f("expected round", func(v map[string]any) { v["round"] = "1" })
	f("expected round", func(v map[string]any) { v["round"] = int64(4) })
	f("expected round", func(v map[string]any) { v["hash"] = []byte{1} })
	f("at /base", func(v map[string]any) { v["base"] = []byte{1} })
	f("at /clients/0", func(v map[string]any) { v["clients"] = []any{1} })
	f("at /contributions/0", func(v map[string]any) { v["contributions"] = []any{nil} })
	f("at /positions/0", func(v map[string]any) { v["positions"] = []any{nil} })
	f("expected round", func(v map[string]any) { delete(v, "strategy") })
	f("at /state/0", func(v map[string]any) { v["state"] = []any{nil} })
	f("at /state/0", func(v map[string]any) { v["state"] = []any{map[string]any{"name": "m", "data": []byte{1}}} })
	f("found NaN in element 0", func(v map[string]any) {
		v["state"] = []any{map[string]any{"name": "m", "data": bytes.Repeat([]byte{255}, 8)}}
	})
	f("at most 16 entries", func(v map[string]any) { v["state"] = make([]any, 17) })
	f("at /parameters", func(v map[string]any) { delete(v, "parameters") })
	f("expected parameters with hash", func(v map[string]any) {
		v["parameters"] = tensorValues([]Tensor{{Name: "w", Shape: []int{1}, Values: []float32{9}}})
	})
	if _, err := ReadModel(nil); err == nil {
		t.Error("nothing is a model")
	}
}

func FuzzTensor(f *testing.F) {
	ok := appendFloats(nil, []float32{1, 2, 3, 4})
	f.Add("w", "float32", int64(2), int64(2), 2, ok, int64(crc32.ChecksumIEEE(ok)))
	f.Add("w", "float64", int64(2), int64(1), 2, ok, int64(0))
	f.Add("", "float32", int64(-1), int64(math.MaxInt64), 2, ok, int64(-1))
	f.Add("", "float32", int64(math.MaxInt32), int64(math.MaxInt32), 4, []byte{}, int64(0))
	nan := appendFloats(nil, []float32{float32(math.NaN())})
	f.Add("", "float32", int64(1), int64(1), 1, nan, int64(crc32.ChecksumIEEE(nan)))
	f.Add("", "float32", int64(0), int64(1<<40), 2, []byte{}, int64(0))
	f.Fuzz(func(t *testing.T, name, dtype string, a, b int64, dims int, data []byte, crc int64) {
		shape := []any{}
		for i := range min(max(dims, 0), 40) {
			shape = append(shape, []int64{a, b}[i%2])
		}
		v := map[string]any{"name": name, "dtype": dtype, "shape": shape, "data": data, "crc": crc}
		tensor, err := readTensor(v, nil, nil, 0)
		// Beside a model nothing else is read, and where the numbers lie.
		base := make([]float32, len(data)/4)
		m := meter{base: []Tensor{{Values: base}}}
		where, err2 := readTensor(v, nil, &m, 0)
		if fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Fatalf("%v, and beside a model %v", err, err2)
		}
		if err != nil {
			return
		}
		if !slices.Equal(where.Values, tensor.Values) || !m.missed && m.squares.Distance() != kernels.Distance(tensor.Values, base) {
			t.Fatalf("%v, and beside a model %v at %v", tensor, where, m.squares.Distance())
		}
		n := 1
		for _, d := range tensor.Shape {
			n *= d
		}
		if n != len(tensor.Values) || 4*n != len(data) {
			t.Fatalf("shape %v with %d values of %d bytes", tensor.Shape, len(tensor.Values), len(data))
		}
		again := tensorValues([]Tensor{tensor})[0]
		if d := cmp.Diff(any(v), again); d != "" && len(data) > 0 {
			t.Fatal(d)
		}
	})
}

func TestReadTensorsBoundsTheirNumber(t *testing.T) {
	if _, err := readTensors(make([]any, maxTensors+1), nil, nil); err == nil || !strings.Contains(err.Error(), "at most 10000 tensors") {
		t.Errorf("got %v", err)
	}
	if _, err := readTensors([]any{nil}, nil, nil); err == nil || errors.Is(err, errNotFinite) {
		t.Errorf("got %v", err)
	}
}
