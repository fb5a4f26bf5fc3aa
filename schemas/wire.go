package schemas

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// The record headers in which a schema is named by GUID instead of in front of
// the payload. Their value is what AppendGUID writes, for Protobuf followed by
// the message indexes; ParseHeader reads it.
const (
	KeyHeader   = "__key_schema_id"
	ValueHeader = "__value_schema_id"
)

const (
	magicID   = 0
	magicGUID = 1
)

// ErrNotFramed marks a payload that does not begin with the number or the GUID
// of a schema. The wrapping error says what it begins with.
var ErrNotFramed = errors.New("payload names no schema")

// GUID names a schema by its content: the MD5 of its text and what belongs to
// it. It has no version bits.
type GUID [16]byte

// String is the usual form, 8-4-4-4-12 lower-case hexadecimal digits.
func (g GUID) String() string {
	h := hex.EncodeToString(g[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// ParseGUID reads the form that String writes, in either case.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("parse GUID %q: expected 8-4-4-4-12 hexadecimal digits", shorten(s))
	}
	if n, err := hex.Decode(g[:], []byte(strings.ReplaceAll(s, "-", ""))); err != nil || n != len(g) {
		return GUID{}, fmt.Errorf("parse GUID %q: expected 8-4-4-4-12 hexadecimal digits", s)
	}
	return g, nil
}

// Header is how a payload names its schema: by number, or by GUID.
type Header struct {
	ID     ID
	GUID   GUID
	ByGUID bool // GUID is set, ID is not
}

// AppendHeader appends the five bytes that name a schema by its number: 0,
// then the number as 32 bits, big-endian.
func AppendHeader(dst []byte, id ID) []byte {
	dst = append(dst, magicID)
	return binary.BigEndian.AppendUint32(dst, uint32(id))
}

// AppendGUID appends the 17 bytes that name a schema by its GUID: 1, then the
// GUID.
func AppendGUID(dst []byte, g GUID) []byte {
	dst = append(dst, magicGUID)
	return append(dst, g[:]...)
}

// ParseHeader splits a payload, or the value of a KeyHeader or ValueHeader,
// into the schema it names and the rest, which for Protobuf begins with the
// message indexes. An error wraps ErrNotFramed.
func ParseHeader(payload []byte) (Header, []byte, error) {
	if len(payload) == 0 {
		return Header{}, nil, fmt.Errorf("%w: it is empty, expected a byte 0 and a schema id", ErrNotFramed)
	}
	switch payload[0] {
	case magicID:
		if len(payload) < 5 {
			return Header{}, nil, fmt.Errorf("%w: expected 4 bytes of schema id after the byte 0, found %d", ErrNotFramed, len(payload)-1)
		}
		return Header{ID: ID(binary.BigEndian.Uint32(payload[1:]))}, payload[5:], nil
	case magicGUID:
		if len(payload) < 17 {
			return Header{}, nil, fmt.Errorf("%w: expected 16 bytes of schema GUID after the byte 1, found %d", ErrNotFramed, len(payload)-1)
		}
		return Header{GUID: GUID(payload[1:17]), ByGUID: true}, payload[17:], nil
	}
	return Header{}, nil, fmt.Errorf("%w: expected a first byte of 0 (schema id) or 1 (schema GUID), found 0x%02x; was it written without a registry's serializer?", ErrNotFramed, payload[0])
}

// Messages is a Schema with several messages, of which it is one: Protobuf's.
type Messages interface {
	Schema
	// Message returns the schema of another message of the file: the first
	// index counts the messages of the file, each further one those nested in
	// the message before. No index at all is the file's first message.
	Message(indexes []int) (Schema, error)
	// Indexes is the way to this message.
	Indexes() []int
}

// AppendFrame appends everything that stands before the encoding of a value of
// s whose number is id: the header, and for Protobuf the message indexes.
func AppendFrame(dst []byte, id ID, s Schema) []byte {
	dst = AppendHeader(dst, id)
	if m, ok := s.(Messages); ok {
		dst = AppendMessageIndexes(dst, m.Indexes())
	}
	return dst
}

// SelectMessage takes what ParseHeader left and the schema it named, and
// returns the schema of the value and the value's bytes. Where s has messages
// it reads the indexes and picks one, otherwise it returns s and rest as they
// are.
func SelectMessage(s Schema, rest []byte) (Schema, []byte, error) {
	m, ok := s.(Messages)
	if !ok {
		return s, rest, nil
	}
	indexes, body, err := ParseMessageIndexes(rest)
	if err != nil {
		return nil, nil, err
	}
	one, err := m.Message(indexes)
	if err != nil {
		return nil, nil, err
	}
	return one, body, nil
}

// Limits of message indexes: no compiler nests messages deeper, no file has
// more.
const (
	maxMessageDepth = 32
	maxMessageIndex = 1<<16 - 1
)

// AppendMessageIndexes appends the way to a message: the count and then each
// index as zigzag varints, or for the file's first message the single byte 0.
func AppendMessageIndexes(dst []byte, indexes []int) []byte {
	if len(indexes) == 0 || len(indexes) == 1 && indexes[0] == 0 {
		return append(dst, 0)
	}
	dst = binary.AppendVarint(dst, int64(len(indexes)))
	for _, i := range indexes {
		dst = binary.AppendVarint(dst, int64(i))
	}
	return dst
}

// ParseMessageIndexes reads what AppendMessageIndexes writes and returns the
// rest. The file's first message is [0], in its short form too.
func ParseMessageIndexes(src []byte) (indexes []int, rest []byte, err error) {
	next := func(what string, most int64) (int, error) {
		n, size := binary.Varint(src)
		if size <= 0 {
			return 0, fmt.Errorf("parse message indexes: expected %s, found the end of the payload or an overlong number", what)
		}
		if n < 0 || n > most {
			return 0, fmt.Errorf("parse message indexes: expected %s from 0 to %d, found %d", what, most, n)
		}
		src = src[size:]
		return int(n), nil
	}
	count, err := next("a count", maxMessageDepth)
	if err != nil {
		return nil, nil, err
	}
	if count == 0 {
		return []int{0}, src, nil
	}
	indexes = make([]int, count)
	for i := range indexes {
		if indexes[i], err = next("an index", maxMessageIndex); err != nil {
			return nil, nil, err
		}
	}
	return indexes, src, nil
}
