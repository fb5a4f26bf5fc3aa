package federated

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// numpy's format, byte for byte where it matters: magic, header, alignment.
func TestNPZ(t *testing.T) {
	var b bytes.Buffer
	if err := WriteNPZ(&b, exported); err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	for i, shape := range []string{"(2,3,)", "()", "(0,4,)"} {
		r, err := z.File[i].Open()
		if err != nil {
			t.Fatal(err)
		}
		array, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		n := 10 + int(binary.LittleEndian.Uint16(array[8:]))
		header := string(array[:n])
		if z.File[i].Name != exported[i].Name+".npy" || !strings.HasPrefix(header, "\x93NUMPY\x01\x00") || n%64 != 0 ||
			!strings.Contains(header, "'shape': "+shape) || !strings.HasSuffix(header, "\n") {
			t.Errorf("%s: header %q", z.File[i].Name, header)
		}
		if !bytes.Equal(array[n:], appendFloats(nil, exported[i].Values)) {
			t.Errorf("%s: values %x", z.File[i].Name, array[n:])
		}
	}
}

// archived is a zip of files with those names and contents, in turn.
func archived(t testing.TB, method uint16, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		f, err := z.CreateHeader(&zip.FileHeader{Name: files[i], Method: method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// array is one of numpy's format, of version 1, 2 or 3.
func array(version byte, header, values string) string {
	b := []byte{0x93, 'N', 'U', 'M', 'P', 'Y', version, 0}
	if version == 1 {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(header)))
	} else {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(header)))
	}
	return string(b) + header + values
}

const oneFloat = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), } \n"

func TestReadNPZ(t *testing.T) {
	var b bytes.Buffer
	if err := WriteNPZ(&b, exported); err != nil {
		t.Fatal(err)
	}
	got, err := ReadNPZ(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(exported, got); d != "" {
		t.Error(d)
	}
	large := []Tensor{{Name: "w", Shape: []int{3, blockSize/4 + 1}, Values: make([]float32, 3*(blockSize/4+1))}}
	for i := range large[0].Values {
		large[0].Values[i] = float32(i)
	}
	b.Reset()
	if err := WriteNPZ(&b, large); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadNPZ(b.Bytes()); err != nil || !cmp.Equal(large, got) {
		t.Errorf("an array of several blocks is another when it is read, %v", err)
	}
	for _, method := range []uint16{zip.Store, zip.Deflate} {
		for version := range byte(3) {
			file := archived(t, method, "a.npy", array(version+1, oneFloat, "\x00\x00\x80\x3f"))
			if got, err := ReadNPZ(file); err != nil || !cmp.Equal(got, []Tensor{{Name: "a", Shape: []int{1}, Values: []float32{1}}}) {
				t.Errorf("version %d: %v, %v", version+1, got, err)
			}
		}
	}
}

func TestNPZRefused(t *testing.T) {
	f := func(want string, files ...string) {
		t.Helper()
		if _, err := ReadNPZ(archived(t, zip.Deflate, files...)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	one := array(1, oneFloat, "\x00\x00\x80\x3f")
	header := func(from, to string) string { return array(1, strings.Replace(oneFloat, from, to, 1), "1234") }
	f("that end in .npy", "a.txt", one)
	f("different names", "a.npy", one, "a.npy", one)
	f("in UTF-8", "\xff.npy", one)
	f("numpy's format", "a.npy", "\x93NUMPY\x01")
	f("numpy's format", "a.npy", array(4, oneFloat, ""))
	f("header's length", "a.npy", "\x93NUMPY\x02\x00\x00\x00\x00")
	f("at most 10000 bytes, found 4294967295", "a.npy", "\x93NUMPY\x02\x00\xff\xff\xff\xff")
	f("header of 300 bytes", "a.npy", "\x93NUMPY\x01\x00\x2c\x01{")
	f(`found "{'descr': '|O'`, "a.npy", header("<f4", "|O"))
	f("numpy.ascontiguousarray(array, '<f4')", "a.npy", header("<f4", "<f8"))
	f("'fortran_order': True", "a.npy", header("False", "True"))
	f("expected {'descr'", "a.npy", header("(1,)", "(-1,)"))
	f("at most 16 dimensions", "a.npy", header("(1,)", "("+strings.Repeat("1,", 17)+")"))
	f("2147483647 elements", "a.npy", header("(1,)", "(2147483647, 2147483647, 2147483647)"))
	f("2147483647 elements", "a.npy", header("(1,)", "(99999999999999999999,)"))
	f("expected 4 bytes of values, found 3", "a.npy", array(1, oneFloat, "123"))
	f("expected 8589934588 bytes of values, found 4", "a.npy", header("(1,)", "(2147483647,)"))
	f("found more", "a.npy", array(1, oneFloat, "12345"))
	f("found +Inf in element 0", "a.npy", array(1, oneFloat, "\x00\x00\x80\x7f"))
	if _, err := ReadNPZ([]byte("PK")); err == nil || !strings.Contains(err.Error(), "numpy.savez") {
		t.Error(err)
	}
	damaged := archived(t, zip.Store, "a.npy", one)
	damaged[bytes.Index(damaged, []byte("\x80\x3f"))]++
	if _, err := ReadNPZ(damaged); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a damaged array: %v", err)
	}
	var many []string
	for i := range maxTensors + 1 {
		many = append(many, fmt.Sprint(i), "")
	}
	f("at most 10000 arrays", many...)
}

// numpy's own files are read, stored and compressed, as it reads ours.
func TestNumpyWritesNPZ(t *testing.T) {
	const script = `
import io, sys
import numpy as np
ours = np.load(io.BytesIO(sys.stdin.buffer.read()))
assert ours["z"].tolist() == [[1, 2, 3], [4, 5, -6.5]] and ours["a"] == 7 and ours["none"].shape == (0, 4), ours
for save in (np.savez, np.savez_compressed):
    file = io.BytesIO()
    save(file, **{name: ours[name] for name in ("z", "a", "none")})
    print(file.getvalue().hex())
`
	var b bytes.Buffer
	if err := WriteNPZ(&b, exported); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(python(t, script, b.Bytes())) {
		file, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadNPZ(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(exported, got); d != "" {
			t.Error(d)
		}
	}
}

func FuzzNPZ(f *testing.F) {
	var b bytes.Buffer
	if err := WriteNPZ(&b, exported); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(archived(f, zip.Deflate, "a.npy", array(2, oneFloat, "1234")))
	f.Add(archived(f, zip.Store, "a.npy", array(3, strings.Replace(oneFloat, "<f4", "|O", 1), "1234")))
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := ReadNPZ(file)
		if err != nil {
			return
		}
		if _, err := readTensors(tensorValues(got), nil, nil); err != nil {
			t.Fatal(err)
		}
	})
}
