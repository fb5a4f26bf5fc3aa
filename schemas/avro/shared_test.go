package avro

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// What is read without a copy is what Decode reads, and what Decode refuses is not
// read so.
func TestShared(t *testing.T) {
	read := 0
	rapid.Check(t, func(t *rapid.T) {
		rest := anyType(t, &names{}, 2)
		s, err := Format{}.Parse(`{"type":"record","name":"R","fields":[{"name":"data","type":"bytes"},{"name":"rest","type":`+rest.text+`}]}`, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.AppendEncode(nil, map[string]any{"data": rapid.SliceOf(rapid.Byte()).Draw(t, "data"), "rest": rest.value(t)})
		if err != nil {
			t.Skip() // a float that is infinite
		}
		if rapid.Bool().Draw(t, "damaged") {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "by")
			b = b[:rapid.IntRange(len(b)/2, len(b)).Draw(t, "end")]
		}
		got, ok := s.(*Schema).DecodeShared(b)
		if !ok {
			return
		}
		read++
		if want, err := s.Decode(b); err != nil || !cmp.Equal(got, want, cmpopts.EquateNaNs()) {
			t.Fatalf("%s: %x is read as %#v, and Decode says %#v, %v", s.Canonical(), b, got, want, err)
		}
	})
	if read == 0 {
		t.Error("nothing is read without a copy")
	}
}

// Bytes lie where the value does.
func TestSharedShares(t *testing.T) {
	s := parse(t, `{"type":"record","name":"R","fields":[{"name":"maybe","type":["null",{"type":"array","items":"bytes"}]}]}`)
	b, err := s.AppendEncode(nil, map[string]any{"maybe": []any{[]byte("abc")}})
	if err != nil {
		t.Fatal(err)
	}
	v, ok := s.DecodeShared(b)
	if !ok {
		t.Fatal("it is not read")
	}
	got := v.(map[string]any)["maybe"].([]any)[0].([]byte)
	if string(got) != "abc" || &got[0] != &b[len(b)-4] {
		t.Errorf("%q is a copy", got)
	}
	for _, text := range []string{`"long"`, `{"type":"map","values":"bytes"}`, `{"type":"bytes","logicalType":"decimal","precision":4}`} {
		if _, ok := parse(t, text).DecodeShared([]byte{0}); ok {
			t.Errorf("a value of %s is read without the library", text)
		}
	}
}
