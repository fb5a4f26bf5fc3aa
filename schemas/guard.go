package schemas

import (
	"fmt"
	"unicode/utf8"
)

// Limits bound what is read from outside. A zero field is its default.
type Limits struct {
	// MaxBytes is the largest encoding of one value; 4 MiB by default, four
	// times what brokers carry unless told to.
	MaxBytes int
	// MaxDepth is how deep arrays, maps and records may nest; 100 by default.
	MaxDepth int
}

func (l Limits) bytes() int {
	if l.MaxBytes > 0 {
		return l.MaxBytes
	}
	return 4 << 20
}

func (l Limits) depth() int {
	if l.MaxDepth > 0 {
		return l.MaxDepth
	}
	return 100
}

// Decode is how bytes from outside are decoded: s.Decode, within limits, with
// every string checked to be UTF-8, and with a panic of the library below
// turned into an error that says so.
func Decode(s Schema, src []byte, limits Limits) (v any, err error) {
	return decode(s, src, limits, nil)
}

// SharedDecoder is a Schema whose values can be read without a copy of their bytes.
type SharedDecoder interface {
	// DecodeShared reads what Decode reads, but bytes in it may lie in src. If ok is
	// false, Decode says what the value is, or what is wrong with it.
	DecodeShared(src []byte) (v any, ok bool)
}

// DecodeShared is Decode for whoever leaves src as it is: bytes in the value may lie
// in it.
func DecodeShared(s Schema, src []byte, limits Limits) (v any, err error) {
	shared, _ := s.(SharedDecoder)
	return decode(s, src, limits, shared)
}

func decode(s Schema, src []byte, limits Limits, shared SharedDecoder) (v any, err error) {
	if most := limits.bytes(); len(src) > most {
		return nil, fmt.Errorf("decode %s: expected at most %d bytes, found %d", s.Type(), most, len(src))
	}
	defer func() {
		if p := recover(); p != nil {
			v, err = nil, fmt.Errorf("decode %s: the decoder panicked on these %d bytes: %v", s.Type(), len(src), p)
		}
	}()
	read := false
	if shared != nil {
		v, read = shared.DecodeShared(src)
	}
	if !read {
		if v, err = s.Decode(src); err != nil {
			return nil, err
		}
	}
	if bad := vet(v, limits.depth(), ""); bad != "" {
		return nil, fmt.Errorf("decode %s: %s", s.Type(), bad)
	}
	return v, nil
}

// vet returns what is wrong with a decoded value, or nothing.
func vet(v any, depth int, pointer string) string {
	switch v := v.(type) {
	case string:
		if !utf8.ValidString(v) {
			return fmt.Sprintf("at %q: expected UTF-8 text, found %s", pointer, Describe(v))
		}
	case []any:
		if depth == 0 {
			return fmt.Sprintf("at %q: nested too deep", pointer)
		}
		for i, e := range v {
			if scalar(e) {
				continue
			}
			if bad := vet(e, depth-1, fmt.Sprintf("%s/%d", pointer, i)); bad != "" {
				return bad
			}
		}
	case map[string]any:
		if depth == 0 {
			return fmt.Sprintf("at %q: nested too deep", pointer)
		}
		for k, e := range v {
			if !utf8.ValidString(k) {
				return fmt.Sprintf("at %q: expected UTF-8 names, found %s", pointer, Describe(k))
			}
			if scalar(e) {
				continue
			}
			if bad := vet(e, depth-1, pointer+"/"+EscapePointer(k)); bad != "" {
				return bad
			}
		}
	}
	return ""
}

// scalar reports that nothing of v needs vetting, which spares building its
// pointer.
func scalar(v any) bool {
	switch v := v.(type) {
	case string:
		return utf8.ValidString(v)
	case []any, map[string]any:
		return false
	}
	return true
}
