package avro

import (
	"encoding/binary"
	"math"
	"time"
	"unicode/utf8"

	"penstock/schemas"
)

// cellPlan says how a field is read into a cell.
type cellPlan struct {
	kind schemas.CellKind
	null byte  // the byte that says null, 0xff for a field that is never null
	some byte  // the byte that says it is not
	bits int   // of a CellInt or CellFloat
	n    int64 // CellBytes: of a fixed, its size, else -1; CellSymbol: how many
	// A CellTime's number is multiplied, or divided, by unit.
	unit int64
	down bool
}

// cellPlans is how the fields of a record are read, nil if one of them is no
// scalar, or of a logical type that has no cell.
func cellPlans(n *schemas.Node) []cellPlan {
	if n.Kind != schemas.Record {
		return nil
	}
	plans := make([]cellPlan, len(n.Fields))
	for i, f := range n.Fields {
		p := &plans[i]
		p.null = 0xff
		of := f.Node
		if of.Kind == schemas.Union {
			if len(of.Branches) != 2 {
				return nil
			}
			for k, b := range of.Branches {
				if b.Kind == schemas.Null {
					p.null, p.some, of = byte(2*k), byte(2-2*k), of.Branches[1-k]
					break
				}
			}
		}
		if !p.of(of) {
			return nil
		}
	}
	return plans
}

// of fills in p for a scalar; it reports false if it is none.
func (p *cellPlan) of(n *schemas.Node) bool {
	p.bits = n.Bits
	switch n.Logical {
	case schemas.Date:
		p.kind = schemas.CellDate
		return n.Kind == schemas.Int
	case schemas.Timestamp, schemas.LocalTime:
		p.kind, p.unit = schemas.CellTime, 1
		switch n.Native {
		case "timestamp-millis", "local-timestamp-millis":
			p.unit = 1000
		case "timestamp-nanos", "local-timestamp-nanos":
			p.unit, p.down = 1000, true
		case "timestamp-micros", "local-timestamp-micros":
		default:
			return false
		}
		return true
	case schemas.NoLogical:
	default:
		return false
	}
	switch n.Kind {
	case schemas.Bool:
		p.kind = schemas.CellBool
	case schemas.Int:
		p.kind = schemas.CellInt
	case schemas.Float:
		p.kind = schemas.CellFloat
	case schemas.String:
		p.kind = schemas.CellText
	case schemas.Bytes:
		p.kind, p.n = schemas.CellBytes, -1
	case schemas.Fixed:
		p.kind, p.n = schemas.CellBytes, int64(n.Size)
	case schemas.Enum:
		p.kind, p.n = schemas.CellSymbol, int64(len(n.Symbols))
	default:
		return false
	}
	return n.Native == ""
}

// Cells implements schemas.CellReader.
func (s *Schema) Cells() int { return len(s.cells()) }

// ReadCells implements schemas.CellReader.
func (s *Schema) ReadCells(cells []schemas.Cell, src []byte, at int) bool {
	for i, plans := 0, s.cells(); i < len(plans); i++ {
		p, c := &plans[i], &cells[i]
		*c = schemas.Cell{}
		if p.null != 0xff {
			if at >= len(src) {
				return false
			}
			at++
			switch src[at-1] {
			case p.null:
				continue
			case p.some:
			default:
				return false
			}
		}
		if at = p.read(c, src, at); at < 0 {
			return false
		}
	}
	return at == len(src)
}

// read reads a cell and returns where it ends, or -1.
func (p *cellPlan) read(c *schemas.Cell, src []byte, at int) int {
	c.Kind = p.kind
	switch p.kind {
	case schemas.CellBool:
		if at >= len(src) || src[at] > 1 {
			return -1
		}
		c.N = int64(src[at])
		return at + 1
	case schemas.CellFloat:
		if p.bits == 32 {
			if len(src)-at < 4 {
				return -1
			}
			c.N = int64(math.Float64bits(float64(math.Float32frombits(binary.LittleEndian.Uint32(src[at:])))))
			return at + 4
		}
		if len(src)-at < 8 {
			return -1
		}
		c.N = int64(binary.LittleEndian.Uint64(src[at:]))
		return at + 8
	case schemas.CellBytes:
		if p.n >= 0 {
			return p.text(c, src, at, p.n)
		}
	}
	n, at := varint(src, at)
	if at < 0 {
		return -1
	}
	c.N = n
	switch p.kind {
	case schemas.CellInt, schemas.CellDate:
		if p.bits == 32 && n != int64(int32(n)) {
			return -1
		}
	case schemas.CellTime:
		switch {
		case p.down: // to the microsecond before it
			c.N = time.Unix(0, n).UnixMicro()
		case n > math.MaxInt64/p.unit || n < math.MinInt64/p.unit:
			return -1
		default:
			c.N = n * p.unit
		}
	case schemas.CellSymbol:
		if n < 0 || n >= p.n {
			return -1
		}
	case schemas.CellText, schemas.CellBytes:
		return p.text(c, src, at, n)
	}
	return at
}

func (p *cellPlan) text(c *schemas.Cell, src []byte, at int, size int64) int {
	if size < 0 || size > int64(len(src)-at) {
		return -1
	}
	c.From, c.To, c.N = uint32(at), uint32(at)+uint32(size), 0
	if p.kind == schemas.CellText && !utf8.Valid(c.Text(src)) {
		return -1
	}
	return int(c.To)
}

// varint reads a zigzag number of 64 bits, and returns where it ends, or -1.
func varint(src []byte, at int) (int64, int) {
	var u uint64
	for shift := 0; shift <= 63 && at < len(src); shift += 7 {
		b := src[at]
		if shift == 63 && b > 1 {
			break
		}
		at++
		u |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return int64(u>>1) ^ -int64(u&1), at
		}
	}
	return 0, -1
}
