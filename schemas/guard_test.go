package schemas

import (
	"strings"
	"testing"
)

// decoder is a Schema of which only Decode is used.
type decoder func([]byte) (any, error)

func (decoder) Type() Type                                     { return Avro }
func (decoder) Canonical() string                              { return "" }
func (decoder) Model() *Node                                   { return &Node{} }
func (decoder) AppendEncode(dst []byte, v any) ([]byte, error) { return dst, nil }
func (d decoder) Decode(src []byte) (any, error)               { return d(src) }

func gives(v any) decoder { return func([]byte) (any, error) { return v, nil } }

func TestDecodeGuards(t *testing.T) {
	f := func(d decoder, size int, limits Limits, want string) {
		t.Helper()
		v, err := Decode(d, make([]byte, size), limits)
		if err == nil || err.Error() != want || v != nil {
			t.Errorf("got %v, %v, want %s", v, err, want)
		}
	}
	f(gives(nil), 11, Limits{MaxBytes: 10}, "decode AVRO: expected at most 10 bytes, found 11")
	f(gives(nil), 4<<20+1, Limits{}, "decode AVRO: expected at most 4194304 bytes, found 4194305")
	f(func([]byte) (any, error) { panic("cannot convert nil to map key") }, 3, Limits{},
		"decode AVRO: the decoder panicked on these 3 bytes: cannot convert nil to map key")
	var unmade map[string]int
	f(func([]byte) (any, error) { unmade["a"] = 1; return nil, nil }, 3, Limits{},
		"decode AVRO: the decoder panicked on these 3 bytes: assignment to entry in nil map")
	f(gives("a\xff"), 1, Limits{}, `decode AVRO: at "": expected UTF-8 text, found 2 bytes that are not UTF-8, beginning "a\xff"`)
	f(gives(map[string]any{"a/b": []any{"x", "\xff"}}), 1, Limits{},
		`decode AVRO: at "/a~1b/1": expected UTF-8 text, found 1 bytes that are not UTF-8, beginning "\xff"`)
	f(gives(map[string]any{"a": map[string]any{"\xff": 1}}), 1, Limits{},
		`decode AVRO: at "/a": expected UTF-8 names, found 1 bytes that are not UTF-8, beginning "\xff"`)
	f(gives([]any{[]any{[]any{}}}), 1, Limits{MaxDepth: 2}, `decode AVRO: at "/0/0": nested too deep`)
	f(gives(map[string]any{"a": map[string]any{"b": []any{}}}), 1, Limits{MaxDepth: 2}, `decode AVRO: at "/a/b": nested too deep`)
	var deep any = 1
	for range 101 {
		deep = []any{deep}
	}
	f(gives(deep), 1, Limits{}, `decode AVRO: at "`+strings.Repeat("/0", 100)+`": nested too deep`)

	v, err := Decode(gives(deep.([]any)[0]), nil, Limits{})
	if err != nil || v == nil {
		t.Errorf("100 levels: got %v", err)
	}
	v, err = Decode(gives([]any{"é", []byte("\xff")}), make([]byte, 10), Limits{MaxBytes: 10})
	if err != nil || v == nil {
		t.Errorf("text and bytes: got %v", err)
	}
}
