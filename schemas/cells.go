package schemas

import (
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CellReader is a Schema whose values, if they are records of scalars alone, can
// be read without a Go value for each: into cells, of which a caller has room for
// many rows at once.
type CellReader interface {
	// Cells is how many cells a value takes, one for each of Model's fields in
	// their order, or 0 if values cannot be read so.
	Cells() int
	// ReadCells reads the value that lies in src from at on to its end. It
	// reports true only where Decode, and this package's Decode around it,
	// would accept the value, and a cell's Value then says what the field's
	// would. If it reports false, Decode says what the value is, or what is
	// wrong with it. What is not in the value is a CellNull.
	ReadCells(cells []Cell, src []byte, at int) bool
}

// Cell is a scalar. It holds no pointer, so that many of them cost the collector
// nothing.
type Cell struct {
	Kind CellKind
	// From and To are where a CellText or CellBytes lies in the bytes that were
	// read.
	From, To uint32
	N        int64
}

// CellKind says what a Cell is.
type CellKind uint8

// The kinds.
const (
	CellNull  CellKind = iota
	CellBool           // N is 0 or 1
	CellInt            // N
	CellFloat          // N is the bits of a float64
	CellText           // UTF-8
	CellBytes
	CellSymbol // N is the index among the Symbols of an Enum
	CellDate   // N is days since 1970
	CellTime   // N is microseconds since 1970 in UTC
)

// Float is the number in a CellFloat.
func (c Cell) Float() float64 { return math.Float64frombits(uint64(c.N)) }

// FloatCell is the cell of a number.
func FloatCell(f float64) Cell { return Cell{Kind: CellFloat, N: int64(math.Float64bits(f))} }

// Text is the bytes of a CellText or CellBytes in src.
func (c Cell) Text(src []byte) []byte { return src[c.From:c.To:c.To] }

// Value is the cell as a Go value; n is the field's type, and src what was read.
func (c Cell) Value(n *Node, src []byte) any {
	n, _ = n.Nullable()
	switch c.Kind {
	case CellBool:
		return c.N != 0
	case CellInt:
		return c.N
	case CellFloat:
		if n.Bits == 32 {
			return float32(c.Float())
		}
		return c.Float()
	case CellText:
		return string(c.Text(src))
	case CellBytes:
		return c.Text(src)
	case CellSymbol:
		return n.Symbols[c.N]
	case CellDate:
		return time.Unix(c.N*24*60*60, 0).UTC()
	case CellTime:
		return time.UnixMicro(c.N).UTC()
	}
	return nil
}

// maxCellBytes is the longest value that is read into cells: a longer one takes
// the long way, where limits are looked at.
const maxCellBytes = 1 << 20

// ReadCells is how bytes from outside are read into cells: r.ReadCells, with a
// panic below turned into false.
func ReadCells(r CellReader, cells []Cell, src []byte, at int) (ok bool) {
	if len(src) > maxCellBytes {
		return false
	}
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return r.ReadCells(cells, src, at)
}

// CellWriter writes what was read into cells as AppendJSON would write the value.
type CellWriter struct {
	fields []cellField // by name
}

type cellField struct {
	index int
	name  []byte // in quotes, with a colon
	node  *Node
}

// NewCellWriter returns what writes the values of a record, or false where cells do
// not say enough of them: of finer times, and of what is absent, in all languages but
// Avro.
func NewCellWriter(s Schema) (*CellWriter, bool) {
	model := s.Model()
	if s.Type() != Avro || model.Kind != Record {
		return nil, false
	}
	t := &CellWriter{}
	for i, f := range model.Fields {
		n, _ := f.Node.Nullable()
		if strings.HasSuffix(n.Native, "-nanos") {
			return nil, false
		}
		t.fields = append(t.fields, cellField{i, append(AppendJSONString(nil, f.Name), ':'), n})
	}
	slices.SortFunc(t.fields, func(a, b cellField) int {
		return strings.Compare(model.Fields[a.index].Name, model.Fields[b.index].Name)
	})
	return t, true
}

// Append appends the text of a value whose cells were read from src.
func (t *CellWriter) Append(dst []byte, cells []Cell, src []byte) []byte {
	dst = append(dst, '{')
	for i, f := range t.fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, f.name...)
		switch c := cells[f.index]; c.Kind {
		case CellBool:
			dst = strconv.AppendBool(dst, c.N != 0)
		case CellInt:
			dst = strconv.AppendInt(dst, c.N, 10)
		case CellFloat:
			dst = appendFloat(dst, c.Float(), f.node.Bits)
		case CellText:
			dst = appendJSONText(dst, c.Text(src))
		case CellBytes:
			dst = append(dst, '"')
			dst = base64.StdEncoding.AppendEncode(dst, c.Text(src))
			dst = append(dst, '"')
		case CellSymbol:
			dst = AppendJSONString(dst, f.node.Symbols[c.N])
		case CellDate:
			dst = appendInstant(dst, time.Unix(c.N*24*60*60, 0))
		case CellTime:
			dst = appendInstant(dst, time.UnixMicro(c.N))
		default:
			dst = append(dst, "null"...)
		}
	}
	return append(dst, '}')
}
