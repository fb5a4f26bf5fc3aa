package federated

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// WriteNPZ writes parameters as numpy.savez does: one array a tensor.
func WriteNPZ(w io.Writer, parameters []Tensor) error {
	z := zip.NewWriter(w)
	for _, t := range parameters {
		f, err := z.CreateHeader(&zip.FileHeader{Name: t.Name + ".npy", Method: zip.Store})
		if err != nil {
			return fmt.Errorf("write npz: %w", err)
		}
		var shape strings.Builder
		for _, n := range t.Shape {
			fmt.Fprintf(&shape, "%d,", n)
		}
		header := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", shape.String())
		header += strings.Repeat(" ", 63-(10+len(header))%64) + "\n" // the values begin at a multiple of 64
		if len(header) > math.MaxUint16 {
			return fmt.Errorf("write npz: tensor %.40q has too many dimensions", t.Name)
		}
		b := binary.LittleEndian.AppendUint16([]byte("\x93NUMPY\x01\x00"), uint16(len(header)))
		if _, err := f.Write(appendFloats(append(b, header...), t.Values)); err != nil {
			return fmt.Errorf("write npz: %w", err)
		}
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("write npz: %w", err)
	}
	return nil
}

// ReadNPZ reads the float32 arrays of a file of numpy.savez or numpy.savez_compressed, in
// the order in which they lie in it. Other dtypes (those of objects too, of which nothing
// is looked at), arrays in Fortran's order, values that are not finite, and arrays with
// more or fewer bytes than their shape asks for are refused. Memory is taken as values
// come, not as headers promise them.
func ReadNPZ(file []byte) ([]Tensor, error) {
	tensors, err := readNPZ(file)
	if err != nil {
		return nil, fmt.Errorf("read npz: %w", err)
	}
	return tensors, nil
}

func readNPZ(file []byte) ([]Tensor, error) {
	z, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil, fmt.Errorf("expected a file of numpy.savez: %w", err)
	}
	if len(z.File) > maxTensors {
		return nil, fmt.Errorf("expected at most %d arrays, found %d", maxTensors, len(z.File))
	}
	out, known := make([]Tensor, len(z.File)), map[string]bool{}
	for i, f := range z.File {
		name, ok := strings.CutSuffix(f.Name, ".npy")
		if !ok || !utf8.ValidString(name) || known[name] {
			return nil, fmt.Errorf("expected files of different names in UTF-8 that end in .npy, found %.40q", f.Name)
		}
		known[name] = true
		if out[i], err = readArray(f, name); err != nil {
			return nil, fmt.Errorf("array %.40q: %w", name, err)
		}
	}
	return out, nil
}

func readArray(f *zip.File, name string) (t Tensor, err error) {
	r, err := f.Open()
	if err != nil {
		return t, err
	}
	defer r.Close()
	t.Name = name
	var size int64
	if t.Shape, size, err = readArrayHeader(r); err != nil {
		return t, err
	}
	t.Values = []float32{}
	buf := make([]byte, min(blockSize, size))
	for left := size; left > 0; left -= int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), left)]
		n, err := io.ReadFull(r, buf)
		if err != nil {
			return t, fmt.Errorf("expected %d bytes of values, found %d: %w", size, size-left+int64(n), err)
		}
		for b := buf; len(b) > 0; b = b[4:] {
			x := math.Float32frombits(binary.LittleEndian.Uint32(b))
			if !finite(float64(x)) {
				return t, fmt.Errorf("%w, found %v in element %d", errNotFinite, x, len(t.Values))
			}
			t.Values = append(t.Values, x)
		}
	}
	// The checksum is looked at where the end is found.
	if n, err := io.Copy(io.Discard, io.LimitReader(r, 1)); err != nil || n > 0 {
		return t, errors.Join(fmt.Errorf("expected %d bytes of values and their checksum, found more or another", size), err)
	}
	return t, nil
}

// arrayHeader is the dictionary that numpy writes before an array.
var arrayHeader = regexp.MustCompile(`^\{'descr': '([^']*)', 'fortran_order': (True|False), 'shape': \(((?:[0-9]+, ?)*[0-9]*)\),? ?\} *\n$`)

// maxArrayHeader is more than numpy reads of a header unless told to.
const maxArrayHeader = 10_000

// readArrayHeader reads up to where an array's values begin.
func readArrayHeader(r io.Reader) (shape []int, size int64, err error) {
	begin := make([]byte, 12)
	if _, err := io.ReadFull(r, begin[:10]); err != nil || string(begin[:6]) != "\x93NUMPY" || begin[6] < 1 || begin[6] > 3 || begin[7] != 0 {
		return nil, 0, fmt.Errorf("expected an array of numpy's format 1.0, 2.0 or 3.0, found %q", begin[:10])
	}
	length := uint32(binary.LittleEndian.Uint16(begin[8:]))
	if begin[6] > 1 {
		if _, err := io.ReadFull(r, begin[10:]); err != nil {
			return nil, 0, fmt.Errorf("expected the header's length: %w", err)
		}
		length = binary.LittleEndian.Uint32(begin[8:])
	}
	if length > maxArrayHeader {
		return nil, 0, fmt.Errorf("expected a header of at most %d bytes, found %d", maxArrayHeader, length)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, 0, fmt.Errorf("expected a header of %d bytes: %w", length, err)
	}
	header := arrayHeader.FindSubmatch(text)
	if header == nil || string(header[1]) != "<f4" || string(header[2]) != "False" {
		return nil, 0, fmt.Errorf("expected {'descr': '<f4', 'fortran_order': False, 'shape': (…)}, found %.100q; save it as numpy.ascontiguousarray(array, '<f4')", text)
	}
	shape, size = []int{}, 4
	for n := range strings.SplitSeq(string(header[3]), ",") {
		if n = strings.TrimSpace(n); n == "" {
			continue
		}
		k, err := strconv.Atoi(n)
		if shape = append(shape, k); err != nil || k > math.MaxInt32 || size != 0 && int64(k) > 4*math.MaxInt32/size || len(shape) > maxDims {
			return nil, 0, fmt.Errorf("expected at most %d dimensions and %d elements, found shape (%s)", maxDims, math.MaxInt32, header[3])
		}
		size *= int64(k)
	}
	return shape, size, nil
}
