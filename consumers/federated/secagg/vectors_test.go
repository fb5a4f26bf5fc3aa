package secagg

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"penstock/consumers/federated/kernels"
)

// must be tested: the vectors of Flower 1.41 and those of the formula; negative
// and boundary quantisation; ring at exact bound and bound+1

func readVector(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

// each calls f with every choice of k of n things.
func each(n, k int, f func([]int)) {
	var choose func(from int, chosen []int)
	choose = func(from int, chosen []int) {
		if len(chosen) == k {
			f(chosen)
			return
		}
		for i := from; i < n; i++ {
			choose(i+1, append(chosen, i))
		}
	}
	choose(0, nil)
}

// Flower pads a secret and shares it in blocks of 16 bytes, as our halves are.
func TestShamirOfFlower(t *testing.T) {
	var v struct {
		Threshold int      `json:"threshold"`
		Secret    string   `json:"secret_hex"`
		Shares    []string `json:"shares_hex"`
	}
	readVector(t, "shamir_flwr.json", &v)
	tried := 0
	each(len(v.Shares), v.Threshold, func(chosen []int) {
		var indexes []uint16
		var shares [][]byte
		for _, i := range chosen {
			b, err := hex.DecodeString(v.Shares[i])
			if err != nil {
				t.Fatal(err)
			}
			indexes, shares = append(indexes, uint16(b[0])), append(shares, b[4:])
		}
		factors, err := weights(gf128{}, indexes)
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		for at := 0; at < len(shares[0]); at += 16 {
			var values []block
			for _, s := range shares {
				values = append(values, readBlock(s[at:]))
			}
			got = combine(gf128{}, factors, values).append(got)
		}
		if want, _ := hex.DecodeString(v.Secret); !bytes.Equal(got, append(want, bytes.Repeat([]byte{16}, 16)...)) {
			t.Errorf("shares %v make %x", chosen, got)
		}
		tried++
	})
	if tried != 10 {
		t.Errorf("tried %d choices, want 10", tried)
	}
}

// prime61 is the field of the integers modulo 2^61-1.
type prime61 struct{}

const p61 = 1<<61 - 1

func (prime61) add(a, b uint64) uint64            { return (a + b) % p61 }
func (prime61) sub(a, b uint64) uint64            { return (a + p61 - b) % p61 }
func (prime61) mul(a, b uint64) uint64            { h, l := bits.Mul64(a, b); return bits.Rem64(h, l, p61) }
func (prime61) at(index uint16) uint64            { return uint64(index) }
func (f prime61) scale(a uint64, i uint16) uint64 { return f.mul(a, uint64(i)) }
func (f prime61) inverse(a uint64) uint64 {
	z := uint64(1)
	for e := uint64(p61 - 2); e > 0; e >>= 1 {
		if e&1 == 1 {
			z = f.mul(z, a)
		}
		a = f.mul(a, a)
	}
	return z
}

func TestShamirOfTheFormula(t *testing.T) {
	var v struct {
		Secret       string   `json:"secret"`
		Coefficients []string `json:"coefficients"`
		Shares       [][2]any `json:"shares"`
	}
	readVector(t, "shamir_gf2p61m1.json", &v)
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var coefficients []uint64
	for _, c := range v.Coefficients {
		coefficients = append(coefficients, number(c))
	}
	var indexes []uint16
	var values []uint64
	for _, s := range v.Shares {
		index, y := uint16(s[0].(float64)), number(s[1].(string))
		if got := evaluate(prime61{}, coefficients, index); got != y {
			t.Errorf("share %d is %d, want %d", index, got, y)
		}
		indexes, values = append(indexes, index), append(values, y)
	}
	each(len(indexes), 3, func(chosen []int) {
		var x []uint16
		var y []uint64
		for _, i := range chosen {
			x, y = append(x, indexes[i]), append(y, values[i])
		}
		factors, err := weights(prime61{}, x)
		if err != nil {
			t.Fatal(err)
		}
		if got := combine(prime61{}, factors, y); got != number(v.Secret) {
			t.Errorf("shares %v make %d", chosen, got)
		}
	})
}

func TestShamirProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := secret(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "secret"))
		threshold := rapid.IntRange(1, 9).Draw(t, "threshold")
		stream := randomOf(rapid.String().Draw(t, "seed"))
		p := newSharing(s, threshold, func(b []byte) { _, _ = stream.Read(b) })
		indexes := rapid.SliceOfNDistinct(rapid.Uint16Range(1, MaxClients), threshold, threshold, rapid.ID).Draw(t, "indexes")
		factors, err := weights(gf128{}, indexes)
		if err != nil {
			t.Fatal(err)
		}
		var shares []secret
		for _, i := range indexes {
			shares = append(shares, p.share(i))
		}
		if got := recombine(factors, shares); got != s {
			t.Fatalf("shares of %v make another secret", indexes)
		}
		shares[0][7] ^= 1
		if got := recombine(factors, shares); got == s {
			t.Fatal("a changed share makes the secret all the same")
		}
	})
	for _, bad := range [][]uint16{{0, 1}, {3, 3}} {
		if _, err := weights(gf128{}, bad); err == nil {
			t.Errorf("indexes %v are taken", bad)
		}
	}
}

func TestQuantizeVectors(t *testing.T) {
	var v struct {
		Cases []struct {
			Clip        float64     `json:"clipping_range"`
			Levels      uint32      `json:"target_range"`
			Input       []float64   `json:"input"`
			Either      [][2]uint32 `json:"must_be_floor_or_ceil"`
			Dequantized []float64   `json:"dequantized_of_ceil"`
		} `json:"cases"`
	}
	readVector(t, "secagg_quantize.json", &v)
	for _, c := range v.Cases {
		for i, x := range c.Input {
			floor, ceil := quantize(x, c.Clip, c.Levels, 1<<32-1), quantize(x, c.Clip, c.Levels, 0)
			if got := [2]uint32{floor, ceil}; got != c.Either[i] {
				t.Errorf("%v is level %v, want %v", x, got, c.Either[i])
			}
			if got := dequantize(float64(ceil), c.Clip, c.Levels); got != c.Dequantized[i] {
				t.Errorf("level %d is %v, want %v", ceil, got, c.Dequantized[i])
			}
		}
	}
	if len(v.Cases) == 0 {
		t.Error("no cases")
	}
}

// On the average a level is right: the part of the dice that round up is the
// fraction.
func TestRoundingIsFair(t *testing.T) {
	const x, clip, levels = 0.3, 1.0, 7 // level 4.55
	up := 0
	for i := range 1 << 12 {
		if quantize(x, clip, levels, uint32(i)<<20) == 5 {
			up++
		}
	}
	if got := float64(up) / (1 << 12); got < 0.549 || got > 0.551 {
		t.Errorf("rounds up %v of the time, want 0.55", got)
	}
}

func TestRingBound(t *testing.T) {
	f := func(clients int, weight uint32, b uint8, fits bool) {
		t.Helper()
		e := Encoding{Bits: b, Clip: 1, MaxWeight: weight}
		if err := e.check(clients); (err == nil) != fits {
			t.Errorf("%d clients of weight %d with %d bits: %v", clients, weight, b, err)
		}
		if !fits {
			return
		}
		// The largest vector of each, added up without a ring.
		v, err := e.encode([]float32{2}, weight, streamOf([]byte("x"), "test"))
		if err != nil {
			t.Fatal(err)
		}
		sum := uint64(clients) * uint64(v[1])
		if sum >= 1<<32 {
			t.Errorf("%d clients of weight %d with %d bits add up to %d", clients, weight, b, sum)
		}
	}
	f(3, 5*17*257, 16, true)    // 3*5*17*257*65535 = 2^32-1
	f(3, 5*17*257+1, 16, false) // the first that does not fit
	f(3, 5*17*257, 17, false)
	f(2, 1, 31, true)  // 2^32-2
	f(3, 1, 31, false) // more
	f(256, 257, 16, false)
	f(255, 257, 16, true) // 2^32-1-...: 65535*65535
	f(1, 1<<32-1, 1, true)
	f(2, 1<<31, 1, false) // 2^32 itself
	f(2, 1, 32, false)
	f(2, 1, 0, false)
	f(2, 0, 4, false)
	f(MaxClients+1, 1, 1, false)
	for clients := 1; clients <= MaxClients; clients++ {
		for _, weight := range []uint32{1, 7, 1000, 1 << 20} {
			b := MostBits(clients, weight)
			if b == 0 {
				t.Fatalf("nothing fits %d clients of weight %d", clients, weight)
			}
			f(clients, weight, b, true)
		}
	}
}

func TestEncodeAndDecode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := Encoding{Bits: uint8(rapid.IntRange(1, 20).Draw(t, "bits")), Clip: rapid.Float64Range(0.01, 100).Draw(t, "clip"), MaxWeight: 9}
		values := rapid.SliceOfN(rapid.Float32Range(-150, 150), 1, 50).Draw(t, "values")
		weight := rapid.Uint32Range(1, 9).Draw(t, "weight")
		v, err := e.encode(values, weight, streamOf([]byte("x"), "test"))
		if err != nil {
			t.Fatal(err)
		}
		got, mean, err := e.Decode(v)
		if err != nil || got != weight {
			t.Fatalf("weight %d, %v", got, err)
		}
		step := 2 * e.Clip / float64(e.levels())
		for i, x := range values {
			want := min(max(float64(x), -e.Clip), e.Clip)
			if d := mean[i] - want; d > step*1.000001 || d < -step*1.000001 {
				t.Fatalf("%v came back as %v, more than a level (%v) away", x, mean[i], step)
			}
		}
	})
	e := Encoding{Bits: 8, Clip: 1, MaxWeight: 3}
	inf := float32(math.Inf(1))
	for name, err := range map[string]error{
		"NaN":         second(e.encode([]float32{inf - inf}, 1, streamOf(nil, "x"))),
		"infinity":    second(e.encode([]float32{-inf}, 1, streamOf(nil, "x"))),
		"weight 0":    second(e.encode([]float32{0}, 0, streamOf(nil, "x"))),
		"weight 4":    second(e.encode([]float32{0}, 4, streamOf(nil, "x"))),
		"no weight":   third(e.Decode([]uint32{0, 1})),
		"no elements": third(e.Decode(nil)),
	} {
		if err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func second[A any](_ A, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

// Parts of a mask are the same wherever the work is cut, and the counter carries.
func TestMaskKernel(t *testing.T) {
	seed := secret(bytes.Repeat([]byte{0xff}, 32)) // the counter wraps at once
	n := 3*sumBlock + 7
	whole := make([]uint32, n)
	stream := newAES(seed[:16])
	c := counter(seed[16:], 0)
	var out [16]byte
	for i := 0; i < n; i += 4 {
		stream.Encrypt(out[:], c)
		kernels.AddWords(whole[i:min(i+4, n)], out[:])
		c = counter(c, 1)
	}
	v := make([]uint32, n)
	apply(v, []mask{{seed, false}, {seed, false}, {seed, true}})
	for i := range v {
		if v[i] != whole[i] {
			t.Fatalf("element %d is %x, want %x", i, v[i], whole[i])
		}
	}
	apply(v, []mask{{seed, true}})
	for i := range v {
		if v[i] != 0 {
			t.Fatalf("element %d is left with %x", i, v[i])
		}
	}
}
