package sqlsink

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"penstock/schemas"
)

// Convert turns a value as schemas.Schema gives it into the Go type that the
// column's Type names. nil stays nil.
func (c *Column) Convert(v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	switch c.Type {
	case Bool:
		if _, ok := v.(bool); ok {
			return v, nil
		}
	case Int32:
		if _, ok := v.(int32); ok {
			return v, nil
		}
		if n, ok := schemas.AsInt64(v); ok && math.MinInt32 <= n && n <= math.MaxInt32 {
			return n, nil
		}
	case Int64:
		switch v.(type) {
		case int64, int32:
			return v, nil
		}
		if n, ok := schemas.AsInt64(v); ok {
			return n, nil
		}
	case Float32, Float64:
		switch v.(type) {
		case float32, float64:
			return v, nil
		}
		if f, ok := schemas.AsFloat64(v); ok {
			return f, nil
		}
	case Decimal:
		return c.decimal(v)
	case Text:
		if _, ok := v.(string); ok {
			return v, nil
		}
	case UUID:
		switch v := v.(type) {
		case string:
			if digits := strings.ReplaceAll(v, "-", ""); len(digits) == 32 && strings.Trim(digits, "0123456789abcdefABCDEF") == "" {
				return v, nil
			}
		case []byte:
			if len(v) == 16 {
				return fmt.Sprintf("%x-%x-%x-%x-%x", v[:4], v[4:6], v[6:8], v[8:10], v[10:]), nil
			}
		}
	case Bytes:
		if _, ok := v.([]byte); ok {
			return v, nil
		}
	case Date, Timestamp, LocalTimestamp:
		return c.time(v)
	case TimeOfDay:
		if d, ok := v.(time.Duration); ok && d >= 0 && d < 24*time.Hour {
			return d.Truncate(time.Microsecond), nil
		}
	case JSON:
		text, err := schemas.AppendJSON(nil, v)
		if err != nil {
			return nil, fmt.Errorf("column %q: %w", c.Name, err)
		}
		return string(text), nil
	}
	return nil, c.misfit(v)
}

// Takes says of a cell what Convert would say of its value; symbols are those of
// an enum, and text is what the cell's bytes lie in.
func (c *Column) Takes(cell schemas.Cell, symbols []string, text []byte) error {
	switch cell.Kind {
	case schemas.CellNull:
		return nil
	case schemas.CellBool:
		if c.Type == Bool {
			return nil
		}
	case schemas.CellInt:
		if c.Type == Int64 || c.Type == Int32 && cell.N == int64(int32(cell.N)) {
			return nil
		}
	case schemas.CellFloat:
		if c.Type == Float64 || c.Type == Float32 {
			return nil
		}
	case schemas.CellText, schemas.CellSymbol:
		if c.Type == Text {
			return nil
		}
	case schemas.CellBytes:
		if c.Type == Bytes {
			return nil
		}
	case schemas.CellDate:
		if c.Type == Date && firstDay <= cell.N && cell.N < lastDay {
			return nil
		}
	case schemas.CellTime:
		if (c.Type == Timestamp || c.Type == LocalTimestamp) && firstDay*microsOfDay <= cell.N && cell.N < lastDay*microsOfDay {
			return nil
		}
	}
	_, err := c.ConvertCell(cell, symbols, text)
	return err
}

// ConvertCell is what Convert makes of a cell's value; see Takes.
func (c *Column) ConvertCell(cell schemas.Cell, symbols []string, text []byte) (any, error) {
	n := schemas.Node{Symbols: symbols}
	if c.Type == Float32 {
		n.Bits = 32
	}
	return c.Convert(cell.Value(&n, text))
}

// Days since 1970 of the years from 1 to 9999, the last excluded.
const (
	firstDay    = -719_162
	lastDay     = 2_932_897
	microsOfDay = 24 * 60 * 60 * 1_000_000
)

func (c *Column) misfit(v any) error {
	return fmt.Errorf("column %q: expected %v, found %s", c.Name, c, schemas.Describe(v))
}

func (c *Column) decimal(v any) (any, error) {
	r, ok := v.(*big.Rat)
	if !ok {
		n, ok := schemas.AsUint64(v)
		if !ok {
			return nil, c.misfit(v)
		}
		return strconv.FormatUint(n, 10), nil
	}
	places, exact := r.FloatPrec()
	if !exact || c.Precision > 0 && places > c.Scale {
		return nil, c.misfit(v)
	}
	if c.Precision > 0 {
		places = c.Scale
	}
	return r.FloatString(places), nil
}

func (c *Column) time(v any) (any, error) {
	t, ok := schemas.AsTime(v)
	if text, isText := v.(string); c.Type == Date && isText { // as JSON has it
		var err error
		t, err = time.Parse(time.DateOnly, text)
		ok = err == nil
	}
	t = t.UTC()
	if y := t.Year(); !ok || y < 1 || y > 9999 {
		return nil, c.misfit(v)
	}
	if c.Type == Date {
		return t.Truncate(24 * time.Hour), nil
	}
	return t.Truncate(time.Microsecond), nil
}
