package schemas

import (
	"errors"
	"fmt"
)

// TextEncoder is a Schema that encodes JSON text without making values of it
// first.
type TextEncoder interface {
	// AppendText appends what AppendEncode makes of the value that ParseText
	// reads, and refuses what either refuses, with the same error. Where the
	// encoding is JSON itself, it may be spelled as the text is.
	AppendText(dst, text []byte) ([]byte, error)
}

// AppendText appends to dst the encoding of a value that is given as JSON text.
// If it does not fit, dst is returned unchanged, with a *ValueError.
func AppendText(s Schema, dst, text []byte) ([]byte, error) {
	if t, ok := s.(TextEncoder); ok {
		return t.AppendText(dst, text)
	}
	v, err := ParseText(text)
	if err != nil {
		return dst, err
	}
	return s.AppendEncode(dst, v)
}

// ParseText is ParseJSON for text that is a value to encode: its error is a
// *ValueError.
func ParseText(text []byte) (any, error) {
	v, err := ParseJSON(text)
	if wrong := (*JSONError)(nil); errors.As(err, &wrong) {
		return nil, &ValueError{Violations: []Violation{{
			Pointer: wrong.Pointer, Expected: wrong.Expected, Found: wrong.Found,
			Hint: fmt.Sprintf("mend the JSON at byte %d", wrong.Offset),
		}}}
	}
	return v, err
}
