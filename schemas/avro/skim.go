package avro

import (
	"encoding/binary"
	"math"
	"unicode/utf8"

	"penstock/schemas"
)

// step is one thing to pass over in an encoding.
type step struct {
	what stepKind
	n    int   // how many varints or bytes
	null byte  // the byte that says null and ends the step; 0xff: never null
	part *plan // of steps that have parts
}

type stepKind uint8

const (
	overVarints stepKind = iota
	overText
	overBytes
	overFixed
	overFloat
	overDouble
	overArray
	overMap
	overUnion
	overRecord
)

// steps returns how to pass over p. Runs of integers, booleans and enums are
// one step.
func (p *plan) steps() []step {
	fields := []fieldPlan{{plan: p}}
	if p.kind == schemas.Record {
		fields = p.fields
	}
	var out []step
	for _, f := range fields {
		s := step{null: 0xff}
		q := f.plan
		if q.kind == schemas.Union && len(q.branches) == 2 {
			for i, b := range q.branches {
				if b.kind == schemas.Null {
					s.null, q = byte(2*i), q.branches[1-i]
					break
				}
			}
		}
		switch q.kind {
		case schemas.Null:
			continue
		case schemas.Bool, schemas.Int, schemas.Enum:
			s.n = 1
			if last := len(out) - 1; last >= 0 && out[last].what == overVarints && out[last].null == 0xff && s.null == 0xff {
				out[last].n++
				continue
			}
		case schemas.String:
			s.what = overText
		case schemas.Bytes:
			s.what = overBytes
		case schemas.Fixed:
			s.what, s.n = overFixed, q.size
		case schemas.Float:
			if s.what = overDouble; q.bits == 32 {
				s.what = overFloat
			}
		case schemas.Array:
			s.what, s.part = overArray, q.items
		case schemas.Map:
			s.what, s.part = overMap, q.items
		case schemas.Union:
			s.what, s.part = overUnion, q
		case schemas.Record:
			s.what, s.part = overRecord, q
		}
		out = append(out, s)
	}
	return out
}

// skim passes over the encoding of a value from pos on and returns where it
// ends, or reports that there is something odd to look at: text that is not
// UTF-8, an infinite number. It is what every record costs; audit is for what
// is odd, and for maps with parts.
func (p *plan) skim(src []byte, pos int) (next int, odd bool) {
	for i := range p.way {
		s := &p.way[i]
		if s.null != 0xff {
			pos++
			if src[pos-1] == s.null {
				continue
			}
		}
		switch s.what {
		case overVarints:
			for n := s.n; n > 0; pos++ {
				if src[pos] < 0x80 {
					n--
				}
			}
		case overText, overBytes:
			size := int(src[pos] >> 1)
			if src[pos] < 0x80 {
				pos++
			} else {
				long, n := binary.Varint(src[pos:])
				size, pos = int(long), pos+n
			}
			if s.what == overText && !utf8.Valid(src[pos:pos+size]) {
				return 0, true
			}
			pos += size
		case overFixed:
			pos += s.n
		case overFloat:
			if f := math.Float32frombits(binary.LittleEndian.Uint32(src[pos:])); math.IsInf(float64(f), 0) {
				return 0, true
			}
			pos += 4
		case overDouble:
			if math.IsInf(math.Float64frombits(binary.LittleEndian.Uint64(src[pos:])), 0) {
				return 0, true
			}
			pos += 8
		case overRecord:
			if pos, odd = s.part.skim(src, pos); odd {
				return 0, true
			}
		case overUnion:
			branch, n := binary.Varint(src[pos:])
			if pos, odd = s.part.branches[branch].skim(src, pos+n); odd {
				return 0, true
			}
		case overArray, overMap:
			for {
				count, n := binary.Varint(src[pos:])
				pos += n
				if count == 0 {
					break
				}
				for range count {
					if s.what == overMap {
						size, n := binary.Varint(src[pos:])
						pos += n
						if !utf8.Valid(src[pos : pos+int(size)]) {
							return 0, true
						}
						pos += int(size)
					}
					if pos, odd = s.part.skim(src, pos); odd {
						return 0, true
					}
				}
			}
		}
	}
	return pos, false
}

// clean reports whether src, the encoding of v just made, is one that a reader
// can want. For Go structs and flat records it allocates nothing.
func (p *plan) clean(src []byte, v any) bool {
	_, odd := p.skim(src, 0)
	if !odd {
		if m, ok := v.(map[string]any); ok && p.flat {
			known := p.required
			for i := range p.fields {
				if f := &p.fields[i]; !f.required {
					if _, given := m[f.name]; given {
						known++
					}
				}
			}
			return known == len(m)
		}
		if isStruct(v) {
			return true
		}
	}
	_, ok := p.audit(src, v)
	return ok
}
