package federated

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// The dtypes of an update's tensors. All but float32 say how far the parameters are
// from the model's, and not what they are.
const (
	float32s = "float32"
	// Half is 2 bytes an element, in IEEE's binary16: off by at most 1/2048 of a
	// difference, or 2^-25 where that is more.
	Half = "float16_difference"
	// Eighth is a byte an element, times a float32 in front of each 256: off by at
	// most 1/254 of the largest difference of the 256.
	Eighth = "int8_difference"
	// Largest is the differences that are largest, each a uint32, its index, and a
	// float32; all others are zero.
	Largest = "largest_differences"
)

// scaled is how many elements of Eighth share a scale.
const scaled = 256

// maxHalf is the largest difference that Half can say.
const maxHalf = 65504

// Compression makes updates smaller, and remembers what it left out: that is added to
// what the next update says (error feedback), so that nothing is lost but time. It
// lives as long as the client; the zero value sends parameters as they are. It is not
// for strategies that read a single update's length closely.
type Compression struct {
	kind  string
	share float64
	left  [][]float32 // by tensor
}

// ParseCompression reads "fp16", "int8" or "top:SHARE", the share of the elements
// that is sent; "" is none.
func ParseCompression(text string) (*Compression, error) {
	kind, share, has := strings.Cut(text, ":")
	switch {
	case text == "":
		return &Compression{}, nil
	case text == "fp16":
		return &Compression{kind: Half}, nil
	case text == "int8":
		return &Compression{kind: Eighth}, nil
	case kind == "top" && has:
		if s, err := strconv.ParseFloat(share, 64); err == nil && s > 0 && s <= 1 {
			return &Compression{kind: Largest, share: s}, nil
		}
	}
	return nil, fmt.Errorf("expected fp16, int8 or top:SHARE with a share above 0 and up to 1, found %.40q", text)
}

// pack returns parameters as an update of base says them.
func (c *Compression) pack(parameters, base []Tensor) ([]Tensor, error) {
	if c == nil || c.kind == "" {
		return parameters, nil
	}
	if err := sameShape(parameters, base); err != nil {
		return nil, err
	}
	if c.left == nil {
		c.left = make([][]float32, len(base))
	}
	out := make([]Tensor, len(parameters))
	for i, t := range parameters {
		differences := make([]float32, len(t.Values))
		for j, v := range t.Values {
			differences[j] = v - base[i].Values[j]
			if len(c.left[i]) == len(differences) {
				differences[j] += c.left[i][j]
			}
			if !finite(float64(differences[j])) {
				return nil, fmt.Errorf("compress %q: %w, found %v in element %d", t.Name, errNotFinite, differences[j], j)
			}
		}
		out[i] = Tensor{Name: t.Name, Shape: t.Shape, DType: c.kind}
		switch c.kind {
		case Half:
			out[i].Packed = packHalf(differences)
		case Eighth:
			out[i].Packed = packEighth(differences)
		case Largest:
			out[i].Packed = packLargest(differences, c.share)
		}
		said, err := out[i].differences(len(differences))
		if err != nil {
			return nil, err
		}
		for j := range differences {
			differences[j] -= said[j]
		}
		c.left[i] = differences
	}
	return out, nil
}

func packHalf(values []float32) (b []byte) {
	for _, v := range values {
		b = binary.LittleEndian.AppendUint16(b, toHalf(min(max(v, -maxHalf), maxHalf)))
	}
	return b
}

func packEighth(values []float32) (b []byte) {
	for block := range slices.Chunk(values, scaled) {
		var largest float32
		for _, v := range block {
			largest = max(largest, float32(math.Abs(float64(v))))
		}
		scale := largest / 127
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(scale))
		for _, v := range block {
			q := 0.0
			if scale > 0 {
				q = min(max(math.RoundToEven(float64(v/scale)), -127), 127)
			}
			b = append(b, byte(int8(q)))
		}
	}
	return b
}

func packLargest(values []float32, share float64) (b []byte) {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		return cmp.Compare(math.Abs(float64(values[j])), math.Abs(float64(values[i])))
	})
	order = order[:int(math.Ceil(share*float64(len(values))))]
	slices.Sort(order)
	for _, i := range order {
		b = binary.LittleEndian.AppendUint32(b, uint32(i))
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(values[i]))
	}
	return b
}

// differences are the n that t says. Their number is the model's, and not what the
// sender says: a few bytes could ask for gigabytes.
func (t Tensor) differences(n int) ([]float32, error) {
	out := make([]float32, n)
	b := t.Packed
	wrong := func(want int) error {
		return fmt.Errorf("expected %d bytes of %s for %d elements, found %d", want, t.DType, n, len(b))
	}
	switch t.DType {
	case Half:
		if len(b) != 2*n {
			return nil, wrong(2 * n)
		}
		for i := range out {
			out[i] = fromHalf(binary.LittleEndian.Uint16(b[2*i:]))
		}
	case Eighth:
		if want := n + 4*((n+scaled-1)/scaled); len(b) != want {
			return nil, wrong(want)
		}
		for block := range slices.Chunk(out, scaled) {
			scale := math.Float32frombits(binary.LittleEndian.Uint32(b))
			for i := range block {
				block[i] = scale * float32(int8(b[4+i]))
			}
			b = b[4+len(block):]
		}
	case Largest:
		if len(b)%8 != 0 || len(b) > 8*n {
			return nil, wrong(8 * n)
		}
		last := -1
		for ; len(b) > 0; b = b[8:] {
			i := int(binary.LittleEndian.Uint32(b))
			if i <= last || i >= n {
				return nil, fmt.Errorf("expected ascending indexes below %d, found %d after %d", n, i, last)
			}
			out[i], last = math.Float32frombits(binary.LittleEndian.Uint32(b[4:])), i
		}
	default:
		return nil, fmt.Errorf("dtype %q is not one of differences", t.DType)
	}
	return out, nil
}

// unpack makes parameters of what an update says, which are of the shapes of base.
func unpack(tensors, base []Tensor) error {
	for i := range tensors {
		t := &tensors[i]
		if t.DType == "" {
			continue
		}
		values, err := t.differences(len(base[i].Values))
		if err != nil {
			return fmt.Errorf("at /parameters/%d: %w", i, err)
		}
		for j, d := range values {
			if values[j] = base[i].Values[j] + d; !finite(float64(values[j])) {
				return fmt.Errorf("at /parameters/%d: %w, found %v in element %d of %q", i, errNotFinite, values[j], j, t.Name)
			}
		}
		*t = Tensor{Name: t.Name, Shape: t.Shape, Values: values}
	}
	return nil
}

// fit says why tensors are not an update of base, and unpacks them.
func fit(tensors, base []Tensor) error {
	if err := sameShape(tensors, base); err != nil {
		return err
	}
	return unpack(tensors, base)
}

// errPacked marks differences where there is nothing that they differ from.
var errPacked = errors.New("expected dtype float32")

// toHalf rounds to the nearest binary16, halves to even. v is in its range.
func toHalf(v float32) uint16 {
	bits := math.Float32bits(v)
	sign := uint16(bits >> 16 & 0x8000)
	exponent := int(bits>>23&0xff) - 127
	mantissa := bits & 0x7fffff
	if exponent < -25 {
		return sign
	}
	shift := uint(13)
	if exponent < -14 { // subnormal
		mantissa |= 0x800000
		shift = uint(-exponent - 1)
		exponent = -15
	}
	half := uint32(exponent+15)<<10 | mantissa>>shift
	if exponent == -15 {
		half = mantissa >> shift
	}
	rest, middle := mantissa&(1<<shift-1), uint32(1)<<(shift-1)
	if rest > middle || rest == middle && half&1 == 1 {
		half++ // into the next exponent, where the mantissa is full
	}
	return sign | uint16(half)
}

// fromHalf is exact. An infinity or NaN stays one.
func fromHalf(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exponent, mantissa := uint32(h>>10&0x1f), uint32(h&0x3ff)
	switch exponent {
	case 0:
		v := float32(mantissa) / (1 << 24)
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | mantissa<<13)
	}
	return math.Float32frombits(sign | (exponent+112)<<23 | mantissa<<13)
}
