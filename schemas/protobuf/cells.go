package protobuf

import (
	"math"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"penstock/schemas"
)

// cellPlans say how a message is read into cells.
type cellPlans struct {
	fields []cellPlan // in the order of the model
	// at is where in fields a number is, and one more; 0 for a number that the
	// schema does not know.
	at []uint16
}

// cellPlan says how a field is read into a cell.
type cellPlan struct {
	of      protoreflect.Kind // MessageKind is a Timestamp
	wire    protowire.Type
	symbols map[protoreflect.EnumNumber]int64 // of an enum: their indexes
	absent  schemas.Cell                      // where the message lacks the field
}

// maxCellNumber is the largest number of a field that is read into a cell.
const maxCellNumber = 1 << 10

// planCells is nil for a message with a field that is no scalar, is required, is part
// of a oneof, or is an unsigned number of 64 bits.
func planCells(d protoreflect.MessageDescriptor) *cellPlans {
	fields := d.Fields()
	p := &cellPlans{fields: make([]cellPlan, fields.Len()), at: make([]uint16, 1)}
	for i := range p.fields {
		f := fields.Get(i)
		if group := f.ContainingOneof(); f.Cardinality() != protoreflect.Optional || f.Number() > maxCellNumber || group != nil && !group.IsSynthetic() {
			return nil
		}
		plan := &p.fields[i]
		plan.of = f.Kind()
		switch f.Kind() {
		case protoreflect.BoolKind:
			plan.wire, plan.absent.Kind = protowire.VarintType, schemas.CellBool
		case protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Sint32Kind, protoreflect.Sint64Kind, protoreflect.Uint32Kind:
			plan.wire, plan.absent.Kind = protowire.VarintType, schemas.CellInt
		case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind:
			plan.wire, plan.absent.Kind = protowire.Fixed32Type, schemas.CellInt
		case protoreflect.Sfixed64Kind:
			plan.wire, plan.absent.Kind = protowire.Fixed64Type, schemas.CellInt
		case protoreflect.FloatKind:
			plan.wire, plan.absent.Kind = protowire.Fixed32Type, schemas.CellFloat
		case protoreflect.DoubleKind:
			plan.wire, plan.absent.Kind = protowire.Fixed64Type, schemas.CellFloat
		case protoreflect.StringKind:
			plan.wire, plan.absent.Kind = protowire.BytesType, schemas.CellText
		case protoreflect.BytesKind:
			plan.wire, plan.absent.Kind = protowire.BytesType, schemas.CellBytes
		case protoreflect.EnumKind:
			plan.wire, plan.absent.Kind = protowire.VarintType, schemas.CellSymbol
			plan.symbols = map[protoreflect.EnumNumber]int64{}
			values := f.Enum().Values()
			for k := values.Len() - 1; k >= 0; k-- { // of several names the first counts
				plan.symbols[values.Get(k).Number()] = int64(k)
			}
			plan.absent.N = plan.symbols[0]
		case protoreflect.MessageKind:
			if wellKnown(f.Message()) != timestamp {
				return nil
			}
			plan.wire = protowire.BytesType
		default:
			return nil
		}
		if f.HasPresence() {
			plan.absent = schemas.Cell{}
		}
		for len(p.at) <= int(f.Number()) {
			p.at = append(p.at, 0)
		}
		p.at[f.Number()] = uint16(i + 1)
	}
	return p
}

// Cells implements schemas.CellReader.
func (s *Schema) Cells() int {
	if s.cells == nil {
		return 0
	}
	return len(s.cells.fields)
}

// ReadCells implements schemas.CellReader.
func (s *Schema) ReadCells(cells []schemas.Cell, src []byte, at int) bool {
	p := s.cells
	for i := range p.fields {
		cells[i] = p.fields[i].absent
	}
	for at < len(src) {
		number, wire, n := protowire.ConsumeTag(src[at:])
		if n < 0 || number > protowire.MaxValidNumber {
			return false
		}
		at += n
		if int(number) >= len(p.at) || p.at[number] == 0 {
			if n = protowire.ConsumeFieldValue(number, wire, src[at:]); n < 0 {
				return false
			}
			at += n
			continue
		}
		i := p.at[number] - 1
		if wire != p.fields[i].wire {
			return false
		}
		if at = p.fields[i].read(&cells[i], src, at); at < 0 {
			return false
		}
	}
	return true
}

// read reads a cell and returns where it ends, or -1.
func (p *cellPlan) read(c *schemas.Cell, src []byte, at int) int {
	var v uint64
	var n int
	switch p.wire {
	case protowire.VarintType:
		v, n = protowire.ConsumeVarint(src[at:])
	case protowire.Fixed32Type:
		var short uint32
		short, n = protowire.ConsumeFixed32(src[at:])
		v = uint64(short)
	case protowire.Fixed64Type:
		v, n = protowire.ConsumeFixed64(src[at:])
	default:
		return p.bytes(c, src, at)
	}
	if n < 0 {
		return -1
	}
	switch p.of {
	case protoreflect.BoolKind:
		*c = schemas.Cell{Kind: schemas.CellBool}
		if v != 0 {
			c.N = 1
		}
	case protoreflect.EnumKind:
		symbol, known := p.symbols[protoreflect.EnumNumber(v)]
		if !known {
			return -1
		}
		*c = schemas.Cell{Kind: schemas.CellSymbol, N: symbol}
	case protoreflect.FloatKind:
		*c = schemas.FloatCell(float64(math.Float32frombits(uint32(v))))
	case protoreflect.DoubleKind:
		*c = schemas.FloatCell(math.Float64frombits(v))
	default:
		*c = schemas.Cell{Kind: schemas.CellInt, N: p.integer(v)}
	}
	return at + n
}

// integer is the number that is written as v.
func (p *cellPlan) integer(v uint64) int64 {
	switch p.of {
	case protoreflect.Int32Kind, protoreflect.Sfixed32Kind:
		return int64(int32(v))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return int64(uint32(v))
	case protoreflect.Sint32Kind:
		return int64(int32(protowire.DecodeZigZag(v & math.MaxUint32)))
	case protoreflect.Sint64Kind:
		return protowire.DecodeZigZag(v)
	}
	return int64(v)
}

// bytes reads what has its length in front of it.
func (p *cellPlan) bytes(c *schemas.Cell, src []byte, at int) int {
	b, n := protowire.ConsumeBytes(src[at:])
	if n < 0 {
		return -1
	}
	end := at + n
	switch p.of {
	case protoreflect.MessageKind:
		if c.Kind != schemas.CellNull { // the two would be merged
			return -1
		}
		micros, ok := readTimestamp(b)
		if !ok {
			return -1
		}
		*c = schemas.Cell{Kind: schemas.CellTime, N: micros}
		return end
	case protoreflect.StringKind:
		if !utf8.Valid(b) {
			return -1
		}
		c.Kind = schemas.CellText
	default:
		c.Kind = schemas.CellBytes
	}
	c.From, c.To, c.N = uint32(end-len(b)), uint32(end), 0
	return end
}

// readTimestamp reads a google.protobuf.Timestamp, to the microsecond before it.
func readTimestamp(b []byte) (micros int64, ok bool) {
	var seconds, nanos int64
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 || wire != protowire.VarintType || number > 2 {
			return 0, false
		}
		v, m := protowire.ConsumeVarint(b[n:])
		if m < 0 {
			return 0, false
		}
		if b = b[n+m:]; number == 1 {
			seconds = int64(v)
		} else {
			nanos = int64(int32(v))
		}
	}
	t := time.Unix(seconds, nanos).UTC()
	return t.UnixMicro(), t.Year() >= 1 && t.Year() <= 9999
}
