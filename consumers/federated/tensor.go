package federated

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"penstock/consumers/federated/kernels"
)

const (
	maxTensors = 10_000 // in a model
	maxDims    = 16     // of a tensor
)

// Tensor is a named array of numbers.
type Tensor struct {
	Name   string
	Shape  []int
	Values []float32 // in row-major order

	// Of an update that says differences, until it is unpacked, DType is Half, Eighth
	// or Largest, and of one that says a sum Summed or ExactlySummed; there are no
	// Values.
	DType  string
	Packed []byte
}

// Hash is the SHA-256 of a model's parameters: of each tensor in turn its name,
// its dtype, its number of dimensions and each of them, and its elements. Texts
// come after their length, and so do the elements of tensors that say differences;
// numbers are little-endian, of 64 bits where they are no elements.
type Hash [sha256.Size]byte

// String is the hash's first half in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:16]) }

func hashOf(parameters []Tensor) (h Hash) {
	sum := sha256.New()
	var b []byte
	text := func(s string) {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
	}
	for _, t := range parameters {
		b = b[:0]
		text(t.Name)
		text(cmp.Or(t.DType, float32s))
		b = binary.LittleEndian.AppendUint64(b, uint64(len(t.Shape)))
		for _, n := range t.Shape {
			b = binary.LittleEndian.AppendUint64(b, uint64(n))
		}
		if t.DType != "" {
			sum.Write(binary.LittleEndian.AppendUint64(b, uint64(len(t.Packed))))
			sum.Write(t.Packed)
			continue
		}
		sum.Write(b)
		sum.Write(floatBytes(t.Values))
	}
	sum.Sum(h[:0])
	return h
}

// floatBytes are values as the schemas have them, which lie where values do if they can.
func floatBytes(values []float32) []byte {
	if b := kernels.Bytes(values); b != nil {
		return b
	}
	return appendFloats(nil, values)
}

func appendFloats(dst []byte, values []float32) []byte {
	dst = slices.Grow(dst, 4*len(values))
	for _, v := range values {
		dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(v))
	}
	return dst
}

// tensorValues are tensors as the schemas have them. What they have is not to be changed.
func tensorValues(tensors []Tensor) []any {
	out := make([]any, len(tensors))
	for i, t := range tensors {
		shape := make([]any, len(t.Shape))
		for i, n := range t.Shape {
			shape[i] = int64(n)
		}
		data := t.Packed
		if t.DType == "" {
			data = floatBytes(t.Values)
		}
		out[i] = map[string]any{
			"name":  t.Name,
			"dtype": cmp.Or(t.DType, float32s),
			"shape": shape,
			"data":  data,
			"crc":   int64(crc32.ChecksumIEEE(data)),
		}
	}
	return out
}

// meter measures an update while it is read: how far it is from the model that it was
// trained from. What it does not copy it does not read twice.
type meter struct {
	base    []Tensor
	squares kernels.Squares
	missed  bool // tensors that say differences, or are not of the model
}

// next are the values that those of the next tensor are compared with. A nil *meter
// compares nothing.
func (m *meter) next(i int, dtype string, elements uint64) []float32 {
	if m == nil || i >= len(m.base) || dtype != float32s || uint64(len(m.base[i].Values)) != elements {
		if m != nil {
			m.missed = true
		}
		return nil
	}
	return m.base[i].Values
}

// allFloats says that all tensors of a message are float32.
func allFloats(v any) bool {
	fields, _ := v.(map[string]any)
	list, _ := fields["parameters"].([]any)
	return !slices.ContainsFunc(list, func(v any) bool {
		tensor, _ := v.(map[string]any)
		return tensor["dtype"] != float32s
	})
}

// readTensors reads what tensorValues makes, from anyone. It reports a tensor
// that contradicts itself, and numbers that are not finite as errNotFinite. With a
// meter, what it returns may lie where v does and is not to be changed.
func readTensors(v any, n *numbers, m *meter) ([]Tensor, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("at /parameters: expected an array, found %T", v)
	}
	if len(list) > maxTensors {
		return nil, fmt.Errorf("at /parameters: expected at most %d tensors, found %d", maxTensors, len(list))
	}
	out := make([]Tensor, len(list))
	for i, item := range list {
		t, err := readTensor(item, n, m, i)
		if err != nil {
			return nil, fmt.Errorf("at /parameters/%d: %w", i, err)
		}
		out[i] = t
	}
	return out, nil
}

var errNotFinite = errors.New("expected finite numbers")

// tensorHead reads what a message says of a tensor, and how many elements it is to have.
func tensorHead(v any) (t Tensor, data []byte, crc int64, elements uint64, err error) {
	fail := func(format string, args ...any) (Tensor, []byte, int64, uint64, error) {
		return Tensor{}, nil, 0, 0, fmt.Errorf(format, args...)
	}
	m, _ := v.(map[string]any)
	name, ok1 := m["name"].(string)
	dtype, ok2 := m["dtype"].(string)
	shape, ok3 := m["shape"].([]any)
	data, ok4 := m["data"].([]byte)
	crc, ok5 := m["crc"].(int64)
	if !(ok1 && ok2 && ok3 && ok4 && ok5) {
		return fail("expected a tensor with name, dtype, shape, data and crc")
	}
	if dtype != float32s && !isSum(dtype) && dtype != Half && dtype != Eighth && dtype != Largest {
		return fail("%w, found %.40q", errPacked, dtype)
	}
	if len(shape) > maxDims {
		return fail("expected at most %d dimensions, found %d", maxDims, len(shape))
	}
	t = Tensor{Name: name, Shape: make([]int, len(shape))}
	if dtype != float32s {
		t.DType = dtype
	}
	elements = 1
	for i, item := range shape {
		n, ok := item.(int64)
		if !ok || n < 0 || n > math.MaxInt32 {
			return fail("expected dimensions from 0 to %d, found %v", math.MaxInt32, item)
		}
		t.Shape[i] = int(n)
		if elements *= uint64(n); elements > math.MaxInt32 {
			return fail("expected at most %d elements, found shape %v", math.MaxInt32, shape)
		}
	}
	return t, data, crc, elements, nil
}

func isSum(dtype string) bool { return dtype == Summed || dtype == ExactlySummed }

func readTensor(v any, n *numbers, meter *meter, index int) (Tensor, error) {
	t, data, crc, elements, err := tensorHead(v)
	if err != nil {
		return t, err
	}
	packed := t.DType != ""
	size, err := n.next(data)
	if err != nil {
		return t, err
	}
	want := 4 * elements
	if isSum(t.DType) {
		want = 8 * elements
	}
	if (isSum(t.DType) || !packed) && uint64(size) != want {
		return t, fmt.Errorf("expected %d bytes of data for shape %v, found %d", want, t.Shape, size)
	}
	sum := uint32(0)
	base := meter.next(index, cmp.Or(t.DType, float32s), elements)
	if packed {
		if t.Packed, err = n.all(data, size); err != nil {
			return t, err
		}
		sum = crc32.ChecksumIEEE(t.Packed)
	} else if base != nil && n == nil {
		t.Values = kernels.Floats(data)
	} else if base != nil && n.file == nil {
		t.Values = kernels.Floats(n.memory[:size])
	}
	there := t.Values != nil
	passed := n != nil && n.each != nil
	if !packed && !there && !passed {
		t.Values = make([]float32, elements)
	}
	var notFinite error
	for at := 0; !packed && at < int(elements); {
		block, err := n.block(data[min(4*at, len(data)):], size-4*int64(at))
		if err != nil {
			return t, err
		}
		if !n.known() {
			sum = crc32.Update(sum, crc32.IEEETable, block)
		}
		var values []float32
		if passed {
			values = kernels.Floats(block)
		} else {
			values = t.Values[at:][:len(block)/4]
		}
		if !there && (!passed || values == nil) {
			if passed {
				values = make([]float32, len(block)/4)
			}
			for i := range values {
				values[i] = math.Float32frombits(binary.LittleEndian.Uint32(block[4*i:]))
			}
		}
		wrong := base == nil
		if base != nil {
			meter.squares.Add(values, base[at:][:len(values)])
			wrong = !finite(meter.squares.Distance())
		}
		for i := 0; wrong && i < len(values) && notFinite == nil; i++ {
			if x := values[i]; x-x != 0 { // NaN, for NaN and the infinities alone
				notFinite = fmt.Errorf("%w, found %v in element %d of %q", errNotFinite, x, at+i, t.Name)
			}
		}
		if passed {
			n.each(index, at, values)
		}
		at += len(values)
	}
	if int64(sum) != crc && !n.known() {
		return t, fmt.Errorf("expected data with CRC-32 %d, found %d: it was damaged on the way", crc, sum)
	}
	return t, notFinite
}

// sameShape says why tensors are not of the names and shapes of like.
func sameShape(tensors, like []Tensor) error {
	if len(tensors) != len(like) {
		return fmt.Errorf("expected %d tensors, found %d", len(like), len(tensors))
	}
	for i, t := range tensors {
		if t.Name != like[i].Name || !slices.Equal(t.Shape, like[i].Shape) {
			return fmt.Errorf("at /parameters/%d: expected %q of shape %v, found %.40q of shape %v",
				i, like[i].Name, like[i].Shape, t.Name, t.Shape)
		}
	}
	return nil
}

// readHash reads a SHA-256.
func readHash(v any) (h Hash, ok bool) {
	b, ok := v.([]byte)
	if !ok || len(b) != len(h) {
		return h, false
	}
	return Hash(bytes.Clone(b)), true
}
