package avro

import (
	"encoding/binary"
	"math"

	"penstock/schemas"
)

// maxSharedDepth is how deep values nest that are read without the library.
const maxSharedDepth = 100

// shares says of a type that its values have bytes, and nothing that only the library
// reads. seen are the types above.
func shares(n *schemas.Node, seen map[*schemas.Node]bool) (has, all bool) {
	if seen[n] {
		return false, true
	}
	seen[n] = true
	switch {
	case n.Logical != schemas.NoLogical || n.Native != "":
		return false, false
	case n.Kind == schemas.Bytes:
		return true, true
	case n.Kind == schemas.Array:
		return shares(n.Items, seen)
	case n.Kind == schemas.Record, n.Kind == schemas.Union:
		parts := n.Branches
		for _, f := range n.Fields {
			parts = append(parts[:len(parts):len(parts)], f.Node)
		}
		all = true
		for _, part := range parts {
			partHas, partAll := shares(part, seen)
			has, all = has || partHas, all && partAll
		}
		return has, all
	}
	return false, n.Kind != schemas.Map
}

// DecodeShared implements schemas.SharedDecoder, for values that have bytes.
func (s *Schema) DecodeShared(src []byte) (v any, ok bool) {
	if !s.shares() {
		return nil, false
	}
	v, at := shared(s.model(), src, 0, maxSharedDepth)
	return v, at == len(src)
}

// shared reads a value of at most so many levels that lies in src from at on, and
// returns where it ends, or -1 where the library is to say what it is.
func shared(n *schemas.Node, src []byte, at, levels int) (any, int) {
	if levels == 0 {
		return nil, -1
	}
	switch n.Kind {
	case schemas.Null:
		return nil, at
	case schemas.Record:
		out := make(map[string]any, len(n.Fields))
		for _, f := range n.Fields {
			if out[f.Name], at = shared(f.Node, src, at, levels-1); at < 0 {
				return nil, -1
			}
		}
		return out, at
	case schemas.Array:
		out := []any{}
		for {
			var count int64
			if count, at = varint(src, at); count == 0 || count < 0 || count > int64(len(src)-at) {
				if count != 0 {
					at = -1
				}
				return out, at
			}
			for range count {
				var item any
				if item, at = shared(n.Items, src, at, levels-1); at < 0 {
					return nil, -1
				}
				out = append(out, item)
			}
		}
	case schemas.Bool:
		if at >= len(src) || src[at] > 1 {
			return nil, -1
		}
		return src[at] == 1, at + 1
	case schemas.Float:
		if size := n.Bits / 8; len(src)-at < size {
			return nil, -1
		}
		if n.Bits == 32 {
			return math.Float32frombits(binary.LittleEndian.Uint32(src[at:])), at + 4
		}
		return math.Float64frombits(binary.LittleEndian.Uint64(src[at:])), at + 8
	case schemas.Fixed:
		return part(src, at, int64(n.Size))
	}
	number, at := varint(src, at)
	if at < 0 {
		return nil, -1
	}
	switch n.Kind {
	case schemas.Int:
		if n.Bits == 64 {
			return number, at
		}
		if number != int64(int32(number)) {
			return nil, -1
		}
		return int32(number), at
	case schemas.Enum:
		if number < 0 || number >= int64(len(n.Symbols)) {
			return nil, -1
		}
		return n.Symbols[number], at
	case schemas.Union:
		if number < 0 || number >= int64(len(n.Branches)) {
			return nil, -1
		}
		return shared(n.Branches[number], src, at, levels-1)
	case schemas.Bytes:
		return part(src, at, number)
	case schemas.String:
		b, at := part(src, at, number)
		return string(b), at
	}
	return nil, -1
}

// part is size bytes of src.
func part(src []byte, at int, size int64) ([]byte, int) {
	if size < 0 || size > int64(len(src)-at) {
		return nil, -1
	}
	end := at + int(size)
	return src[at:end:end], end
}
