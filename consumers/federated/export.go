package federated

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
)

// WriteSafetensors writes parameters in the format of safetensors, with the
// texts given beside them.
func WriteSafetensors(w io.Writer, parameters []Tensor, about map[string]string) error {
	header := map[string]any{}
	if len(about) > 0 {
		header["__metadata__"] = about
	}
	offset := 0
	for _, t := range parameters {
		header[t.Name] = stored{"F32", t.Shape, [2]int{offset, offset + 4*len(t.Values)}}
		offset += 4 * len(t.Values)
	}
	if len(header) != len(parameters)+min(len(about), 1) {
		return errors.New("write safetensors: two tensors of one name, or one named __metadata__")
	}
	text, err := json.Marshal(header)
	if err != nil {
		return fmt.Errorf("write safetensors: %w", err)
	}
	for len(text)%8 != 0 { // so that the values are aligned
		text = append(text, ' ')
	}
	if _, err := w.Write(append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)); err != nil {
		return fmt.Errorf("write safetensors: %w", err)
	}
	for _, t := range parameters {
		if _, err := w.Write(appendFloats(nil, t.Values)); err != nil {
			return fmt.Errorf("write safetensors: %w", err)
		}
	}
	return nil
}

// stored is a tensor in the header of a safetensors file.
type stored struct {
	DType   string `json:"dtype"`
	Shape   []int  `json:"shape"`
	Offsets [2]int `json:"data_offsets"`
}

// maxHeader is how long the header of a safetensors file may be, and is the limit
// of its reference implementation.
const maxHeader = 100_000_000

// ReadSafetensors reads the float32 tensors of a safetensors file, in the order
// in which their values lie. Other dtypes, values that are not finite, gaps and
// overlaps are refused.
func ReadSafetensors(file []byte) ([]Tensor, error) {
	tensors, err := readSafetensors(file)
	if err != nil {
		return nil, fmt.Errorf("read safetensors: %w", err)
	}
	return tensors, nil
}

func readSafetensors(file []byte) ([]Tensor, error) {
	if len(file) < 8 {
		return nil, errors.New("expected 8 bytes with the header's length")
	}
	length := binary.LittleEndian.Uint64(file)
	if length > maxHeader || length > uint64(len(file)-8) {
		return nil, fmt.Errorf("expected a header of at most %d bytes, found %d", min(maxHeader, len(file)-8), length)
	}
	data := file[8+length:]
	var entries map[string]json.RawMessage
	if err := json.Unmarshal(file[8:8+length], &entries); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	delete(entries, "__metadata__")
	if len(entries) > maxTensors {
		return nil, fmt.Errorf("expected at most %d tensors, found %d", maxTensors, len(entries))
	}
	begin := map[int]string{} // the tensor that begins there
	of := map[string]stored{}
	var empty []Tensor
	for _, name := range sortedKeys(entries) {
		var s stored
		if err := json.Unmarshal(entries[name], &s); err != nil {
			return nil, fmt.Errorf("tensor %.40q: %w", name, err)
		}
		size := 4
		for _, n := range s.Shape {
			if n < 0 || n > math.MaxInt32 || size != 0 && n > 4*math.MaxInt32/size {
				return nil, fmt.Errorf("tensor %.40q: expected at most %d elements, found shape %v", name, math.MaxInt32, s.Shape)
			}
			size *= n
		}
		if s.DType != "F32" || len(s.Shape) > maxDims || s.Offsets[1]-s.Offsets[0] != size || s.Offsets[0] < 0 || s.Offsets[1] > len(data) {
			return nil, fmt.Errorf("tensor %.40q: expected dtype F32 and %d bytes within %d, found %.10q and %v", name, size, len(data), s.DType, s.Offsets)
		}
		if size == 0 {
			empty = append(empty, Tensor{Name: name, Shape: s.Shape, Values: []float32{}})
			continue
		}
		if other, twice := begin[s.Offsets[0]]; twice {
			return nil, fmt.Errorf("tensors %.40q and %.40q overlap", other, name)
		}
		begin[s.Offsets[0]], of[name] = name, s
	}
	var out []Tensor
	at := 0
	for range len(begin) {
		name, ok := begin[at]
		if !ok {
			return nil, fmt.Errorf("expected a tensor to begin at byte %d of the values", at)
		}
		s := of[name]
		t := Tensor{Name: name, Shape: s.Shape, Values: make([]float32, (s.Offsets[1]-s.Offsets[0])/4)}
		for i := range t.Values {
			x := math.Float32frombits(binary.LittleEndian.Uint32(data[at+4*i:]))
			if !finite(float64(x)) {
				return nil, fmt.Errorf("%w, found %v in element %d of %.40q", errNotFinite, x, i, name)
			}
			t.Values[i] = x
		}
		out, at = append(out, t), s.Offsets[1]
	}
	if at != len(data) {
		return nil, fmt.Errorf("expected %d bytes of values, found %d", at, len(data))
	}
	return append(out, empty...), nil
}
