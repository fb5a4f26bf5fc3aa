package jsonschema

import (
	"math"
	"math/big"
	"reflect"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"penstock/schemas"
)

// cellPlan is how the values of a flat object are read into cells, and checked
// on the way.
type cellPlan struct {
	fields   []cellField
	index    map[string]int
	required [maxCells / 64]uint64 // by field, one bit each
}

// maxCells is how many properties an object that is read so may have.
const maxCells = 256

type cellField struct {
	name        string
	kind        schemas.CellKind
	null        bool
	least, most int64    // CellInt: bounds; CellText: of its characters
	symbols     []string // CellText: one of these, if there are some
}

// cellPlanOf is nil if s says anything of its values that a cellPlan does not
// check.
func cellPlanOf(s *jsonschema.Schema, n *schemas.Node) *cellPlan {
	if !saysOnly(s, "Types", "Properties", "Required", "AdditionalProperties") || s.Types == nil || n.Kind != schemas.Record ||
		!slices.Equal(s.Types.ToStrings(), []string{"object"}) || len(n.Fields) != len(s.Properties) || len(n.Fields) > maxCells {
		return nil
	}
	p := &cellPlan{index: map[string]int{}}
	for i, f := range n.Fields {
		property := s.Properties[f.Name]
		if property == nil {
			return nil
		}
		field := cellField{name: f.Name}
		if !field.of(property, f.Node) {
			return nil
		}
		p.fields = append(p.fields, field)
		p.index[f.Name] = i
	}
	for _, name := range s.Required {
		i, ok := p.index[name]
		if !ok {
			return nil
		}
		p.required[i/64] |= 1 << (i % 64)
	}
	return p
}

// saysOnly reports whether s has no keyword but these and those that say nothing
// of values.
func saysOnly(s *jsonschema.Schema, keywords ...string) bool {
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i)
		switch name.Name {
		case "DraftVersion", "Location", "ID", "Title", "Description", "Default", "Comment", "ReadOnly", "WriteOnly", "Examples", "Deprecated":
			continue
		}
		if name.IsExported() && !v.Field(i).IsZero() && !slices.Contains(keywords, name.Name) {
			return false
		}
	}
	return true
}

// of fills in f for a property; it reports false if the property is no scalar
// that can be checked here.
func (f *cellField) of(s *jsonschema.Schema, n *schemas.Node) bool {
	if s.Types == nil {
		return false
	}
	types := s.Types.ToStrings()
	if i := slices.Index(types, "null"); i >= 0 {
		f.null = true
		types = slices.Delete(types, i, i+1)
	}
	n, _ = n.Nullable()
	if len(types) != 1 {
		return false
	}
	f.least, f.most = math.MinInt64, math.MaxInt64
	switch types[0] {
	case "boolean":
		f.kind = schemas.CellBool
		return n.Kind == schemas.Bool && saysOnly(s, "Types")
	case "integer":
		f.kind = schemas.CellInt
		return n.Kind == schemas.Int && saysOnly(s, "Types", "Minimum", "Maximum") && whole(&f.least, s.Minimum) && whole(&f.most, s.Maximum)
	case "number":
		f.kind = schemas.CellFloat
		return n.Kind == schemas.Float && saysOnly(s, "Types")
	case "string":
		if n.Logical == schemas.Timestamp {
			f.kind = schemas.CellTime
			return saysOnly(s, "Types", "Format")
		}
		f.kind = schemas.CellText
		if s.MinLength != nil {
			f.least = int64(*s.MinLength)
		}
		if s.MaxLength != nil {
			f.most = int64(*s.MaxLength)
		}
		if s.Enum != nil {
			f.null = false // it would have to be one of these
			for _, v := range s.Enum.Values {
				symbol, ok := v.(string)
				if !ok {
					return false
				}
				f.symbols = append(f.symbols, symbol)
			}
		}
		return n.Logical == schemas.NoLogical && (n.Kind == schemas.String || n.Kind == schemas.Enum) && saysOnly(s, "Types", "MinLength", "MaxLength", "Enum")
	}
	return false
}

// whole sets n to a bound, if there is one; it reports false if it is none of 64
// bits.
func whole(n *int64, bound *big.Rat) bool {
	if bound == nil {
		return true
	}
	if !bound.IsInt() || !bound.Num().IsInt64() {
		return false
	}
	*n = bound.Num().Int64()
	return true
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
	clear(cells)
	r := schemas.PlainJSON{Text: src, Pos: at}
	if r.Space(); !r.Word("{") {
		return false
	}
	var seen [maxCells / 64]uint64
	r.Space()
	expected := 0
	for more := !r.Word("}"); more; {
		key, ok := r.Bare()
		if !ok {
			return false
		}
		i := expected
		if i >= len(p.fields) || p.fields[i].name != string(key) {
			if i, ok = p.index[string(key)]; !ok {
				return false
			}
		}
		expected = i + 1
		if seen[i/64]&(1<<(i%64)) != 0 {
			return false
		}
		seen[i/64] |= 1 << (i % 64)
		if r.Next() != ':' {
			return false
		}
		r.Pos++
		r.Space()
		if !p.fields[i].read(&cells[i], &r) {
			return false
		}
		switch r.Next() {
		case ',':
			r.Pos++
			r.Space()
		case '}':
			r.Pos++
			more = false
		default:
			return false
		}
	}
	for i, required := range p.required {
		if seen[i]&required != required {
			return false
		}
	}
	r.Space()
	return r.Pos == len(src)
}

// read reads a cell, and checks what the schema says of it.
func (f *cellField) read(c *schemas.Cell, r *schemas.PlainJSON) bool {
	if f.null && r.Word("null") {
		return true
	}
	c.Kind = f.kind
	switch f.kind {
	case schemas.CellBool:
		if r.Word("true") {
			c.N = 1
			return true
		}
		return r.Word("false")
	case schemas.CellInt:
		n, ok := r.Whole()
		c.N = n
		return ok && f.least <= n && n <= f.most
	case schemas.CellFloat:
		n, ok := r.Float()
		*c = schemas.FloatCell(n)
		return ok
	}
	text, ok := r.Bare()
	if !ok {
		return false
	}
	if f.kind == schemas.CellTime {
		c.N, ok = instant(text)
		return ok
	}
	c.To = uint32(r.Pos - 1)
	c.From = c.To - uint32(len(text))
	if f.least > 0 || f.most < math.MaxInt64 {
		if n := int64(utf8.RuneCount(text)); n < f.least || n > f.most {
			return false
		}
	}
	return f.symbols == nil || slices.Contains(f.symbols, string(text))
}

// instant reads a time in UTC, 2013-01-01T10:00:00Z with or without a fraction,
// to the microsecond before it. What else a date-time may be it does not know.
func instant(text []byte) (int64, bool) {
	const form = "dddd-dd-ddTdd:dd:dd"
	if len(text) <= len(form) || len(text) > len(form)+11 || text[len(text)-1] != 'Z' {
		return 0, false
	}
	for i, c := range []byte(form) {
		if c == 'd' && text[i]-'0' > 9 || c != 'd' && text[i] != c {
			return 0, false
		}
	}
	two := func(at int) int { return int(text[at]-'0')*10 + int(text[at+1]-'0') }
	year, month, day := two(0)*100+two(2), two(5), two(8)
	if year == 0 || month == 0 || month > 12 || day == 0 || day > 28 && day > time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day() {
		return 0, false
	}
	if two(11) > 23 || two(14) > 59 || two(17) > 59 {
		return 0, false
	}
	micros, unit := int64(0), int64(100_000)
	if fraction := text[len(form) : len(text)-1]; len(fraction) > 0 {
		if fraction[0] != '.' || len(fraction) == 1 {
			return 0, false
		}
		for _, c := range fraction[1:] {
			if c-'0' > 9 {
				return 0, false
			}
			micros += int64(c-'0') * unit
			unit /= 10
		}
	}
	seconds := days(year, month, day)*24*60*60 + int64(two(11)*60*60+two(14)*60+two(17))
	return seconds*1_000_000 + micros, true
}

// days counts from 1970 to a day of the Gregorian calendar: years begin with
// March here, so that the day that comes every four years is their last.
func days(year, month, day int) int64 {
	if month <= 2 {
		year, month = year-1, month+12
	}
	return int64(365*year+year/4-year/100+year/400+(153*(month-3)+2)/5+day-1) - 719_468
}
