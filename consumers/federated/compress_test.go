package federated

import (
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// Every binary16 is read and written as itself, and what lies between goes to the
// nearer one, halves to the even one.
func TestHalves(t *testing.T) {
	for h := range uint16(0x7c00) {
		v, above := fromHalf(h), fromHalf(h+1)
		if toHalf(v) != h || toHalf(-v) != h|0x8000 {
			t.Fatalf("%#04x reads as %v, which is written as %#04x", h, v, toHalf(v))
		}
		if h == 0x7bff {
			break // above it is an infinity
		}
		middle := v + (above-v)/2
		even := h + h&1
		if toHalf(middle) != even || toHalf(math.Nextafter32(middle, 0)) != h || toHalf(math.Nextafter32(middle, maxHalf)) != h+1 {
			t.Fatalf("between %v and %v: %v is written as %#04x, want %#04x", v, above, middle, toHalf(middle), even)
		}
	}
}

// compressed is what an aggregator reads of parameters, and how many bytes they took.
func compressed(t rapid.TB, c *Compression, parameters, base []float32) ([]float32, int) {
	t.Helper()
	tensor := func(values []float32) []Tensor {
		return []Tensor{{Name: "w", Shape: []int{len(values)}, Values: values}}
	}
	packed, err := c.pack(tensor(parameters), tensor(base))
	if err != nil {
		t.Fatal(err)
	}
	size := len(packed[0].Packed)
	read, err := readTensors(tensorValues(packed), nil, nil)
	if err == nil {
		err = fit(read, tensor(base))
	}
	if err != nil {
		t.Fatal(err)
	}
	return read[0].Values, size
}

func TestCompressionErrsWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.Float32Range(-1000, 1000)
		meant := rapid.SliceOfN(number, 1, 600).Draw(t, "differences")
		zeros := make([]float32, len(meant))
		n := len(meant)
		bounds := map[string]func(i int) float64{
			"fp16": func(i int) float64 { return max(math.Abs(float64(meant[i]))/2048, 1./(1<<25)) },
			"int8": func(i int) float64 {
				largest := 0.0
				for _, v := range meant[i/scaled*scaled : min(n, (i/scaled+1)*scaled)] {
					largest = max(largest, math.Abs(float64(v)))
				}
				return largest / 254 * 1.0001
			},
			"top:0.25": func(i int) float64 { // what is left out is no larger than what is not
				larger := 0
				for _, v := range meant {
					if math.Abs(float64(v)) > math.Abs(float64(meant[i])) {
						larger++
					}
				}
				if larger < (n+3)/4 {
					return math.Abs(float64(meant[i]))
				}
				return math.Inf(1)
			},
		}
		sizes := map[string]int{"fp16": 2 * n, "int8": n + 4*((n+scaled-1)/scaled), "top:0.25": 8 * ((n + 3) / 4)}
		for text, bound := range bounds {
			c, err := ParseCompression(text)
			if err != nil {
				t.Fatal(err)
			}
			said, size := compressed(t, c, meant, zeros)
			if size != sizes[text] {
				t.Errorf("%s: %d bytes, want %d", text, size, sizes[text])
			}
			whole := 0
			for i := range meant {
				if said[i] == meant[i] {
					whole++
				}
				if math.Abs(float64(said[i])-float64(meant[i])) > bound(i) {
					t.Errorf("%s: said %v for %v: further than %v", text, said[i], meant[i], bound(i))
				}
			}
			if text == "top:0.25" && whole < (n+3)/4 {
				t.Errorf("%d of %d are whole", whole, n)
			}
			// What was left out is said later: over many rounds the mean is right.
			var sum float64
			const rounds = 40
			for range rounds {
				said, _ := compressed(t, c, meant, zeros)
				sum += float64(said[n-1])
			}
			if off := math.Abs(sum/rounds - float64(meant[n-1])); off > 4*1000./rounds {
				t.Errorf("%s: %v is said as %v on average", text, meant[n-1], sum/rounds)
			}
		}
	})
}

// What a small update leaves out every time comes all the same.
func TestFeedback(t *testing.T) {
	c, err := ParseCompression("top:0.25")
	if err != nil {
		t.Fatal(err)
	}
	meant, sum := []float32{4, 3, 2, 1}, make([]float32, 4)
	const rounds = 100
	for range rounds {
		said, _ := compressed(t, c, meant, make([]float32, 4))
		for i, v := range said {
			sum[i] += v
		}
	}
	for i, v := range meant {
		if off := math.Abs(float64(sum[i]/rounds - v)); off > 0.2 {
			t.Errorf("%v is said as %v on average", v, sum[i]/rounds)
		}
	}
}

// A round takes compressed updates as others, and refuses what contradicts itself.
func TestCompressedUpdatesCount(t *testing.T) {
	h := newHall(t, 4, 1, func(*Config) {})
	base := h.a.Model()
	all := map[string]Update{}
	for i, text := range []string{"fp16", "int8", "top:0.5", ""} {
		c, err := ParseCompression(text)
		if err != nil {
			t.Fatal(err)
		}
		u := updateOf(base.Clients[i], base)
		if u.Parameters, err = c.pack(u.Parameters, base.Parameters); err != nil {
			t.Fatal(err)
		}
		all[u.Client] = u
	}
	bad := func(want Reason, dtype string, data ...byte) {
		t.Helper()
		u := updateOf("c0", base)
		u.Parameters[0] = Tensor{Name: "w", Shape: []int{2, 2}, DType: dtype, Packed: data}
		refused(t, h.write(u), want, "/parameters/0")
	}
	bad(Malformed, Half, 1, 2)
	bad(NotFinite, Half, 0, 0x7c, 0, 0, 0, 0, 0, 0)
	bad(Malformed, Eighth, 1, 2, 3, 4)
	bad(NotFinite, Eighth, 0, 0, 0xc0, 0x7f, 1, 0, 0, 0)
	bad(Malformed, Largest, 1)
	bad(Malformed, Largest, binary.LittleEndian.AppendUint64(nil, 4)...)
	bad(Malformed, Largest, append(binary.LittleEndian.AppendUint64(nil, 1), binary.LittleEndian.AppendUint64(nil, 1)...)...)
	huge := updateOf("c0", base)
	huge.Parameters[0] = Tensor{Name: "w", Shape: []int{math.MaxInt32}, DType: Largest}
	refused(t, h.write(huge), WrongShape, "/parameters/0")
	for _, c := range base.Clients {
		if err := h.write(all[c]); err != nil && !errors.Is(err, ErrFinished) {
			t.Fatal(err)
		}
	}
	next := h.counted(1, Complete, base.Clients...)
	if err := Recompute(base, next, nil, func(c Contribution) (Update, error) {
		u, err := ReadUpdate(message(t, h.publisher.registry, c.Client, all[c.Client].value()).Data)
		return u, err
	}); err != nil {
		t.Error(err)
	}
	model := next.value()
	model["parameters"] = tensorValues(all["c1"].Parameters)
	if _, err := ReadModel(model); !errors.Is(err, errPacked) {
		t.Errorf("a model of differences: %v", err)
	}
	for _, text := range []string{"zip", "top", "top:0", "top:2", "top:x", "fp16:1"} {
		if _, err := ParseCompression(text); err == nil {
			t.Errorf("%q is a compression", text)
		}
	}
}
