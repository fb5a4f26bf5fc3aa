package federated

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var exported = []Tensor{
	{Name: "z", Shape: []int{2, 3}, Values: []float32{1, 2, 3, 4, 5, -6.5}},
	{Name: "a", Shape: []int{}, Values: []float32{7}},
	{Name: "none", Shape: []int{0, 4}, Values: []float32{}},
}

func safetensors(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteSafetensors(&b, exported, map[string]string{"round": "3"}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSafetensors(t *testing.T) {
	file := safetensors(t)
	got, err := ReadSafetensors(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(exported, got); d != "" {
		t.Error(d)
	}
	if err := WriteSafetensors(io.Discard, []Tensor{exported[0], exported[0]}, nil); err == nil {
		t.Error("two tensors of one name were written")
	}
	f := func(want, header string, data ...byte) {
		t.Helper()
		b := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
		if _, err := ReadSafetensors(append(b, data...)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f("header", `[`)
	f("expected dtype F32", `{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}`, 0, 0, 0, 0)
	f("expected dtype F32 and 4 bytes within 3", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 0, 0, 0)
	f("expected at most", `{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, 0, 0, 0, 0)
	f("expected at most", `{"a":{"dtype":"F32","shape":[2147483647,2147483647,2147483647],"data_offsets":[0,4]}}`, 0, 0, 0, 0)
	f("overlap", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`, 0, 0, 0, 0)
	f("to begin at byte 0", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 0, 0, 0, 0, 0, 0, 0, 0)
	f("expected 4 bytes of values, found 5", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 0, 0, 0, 0, 0)
	f("found +Inf", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 0, 0, 0x80, 0x7f)
	if _, err := ReadSafetensors(file[:7]); err == nil {
		t.Error("seven bytes were read")
	}
}

func FuzzSafetensors(f *testing.F) {
	f.Add(safetensors(f))
	f.Add([]byte("\x02\x00\x00\x00\x00\x00\x00\x00{}"))
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := ReadSafetensors(file)
		if err != nil {
			return
		}
		if _, err := readTensors(tensorValues(got), nil, nil); err != nil {
			t.Fatal(err)
		}
	})
}
