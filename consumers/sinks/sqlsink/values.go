package sqlsink

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// convert turns a value as schemas.Schema gives it into the Go type that the
// column's Type names. nil stays nil.
func (c *Column) convert(v any) (any, error) {
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
		return c.integer(v, math.MinInt32, math.MaxInt32)
	case Int64:
		switch v.(type) {
		case int64, int32:
			return v, nil
		}
		return c.integer(v, math.MinInt64, math.MaxInt64)
	case Float32, Float64:
		switch v := v.(type) {
		case float32, float64:
			return v, nil
		case json.Number:
			f, err := v.Float64()
			if err != nil {
				return nil, c.misfit(v)
			}
			return f, nil
		case int32:
			return float64(v), nil
		case int64:
			return float64(v), nil
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
			if id, ok := canonicalUUID(v); ok {
				return id, nil
			}
		case []byte:
			if len(v) == 16 {
				h := hex.EncodeToString(v)
				return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], nil
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
		return toJSON(v)
	}
	return nil, c.misfit(v)
}

func (c *Column) misfit(v any) error {
	text := fmt.Sprint(v)
	if len(text) > 40 {
		text = text[:40] + "…"
	}
	return fmt.Errorf("column %q: expected %v, found %q (%T)", c.Name, c, text, v)
}

func (c *Column) integer(v any, lowest, highest int64) (any, error) {
	var n int64
	switch v := v.(type) {
	case int32:
		n = int64(v)
	case int64:
		n = v
	case uint32:
		n = int64(v)
	case uint64:
		if v > math.MaxInt64 {
			return nil, c.misfit(v)
		}
		n = int64(v)
	case float64: // a JSON reader without json.Number
		if v != math.Trunc(v) || math.Abs(v) > 1<<53 {
			return nil, c.misfit(v)
		}
		n = int64(v)
	case json.Number:
		r, ok := ratOf(string(v))
		if !ok || !r.IsInt() || !r.Num().IsInt64() {
			return nil, c.misfit(v)
		}
		n = r.Num().Int64()
	default:
		return nil, c.misfit(v)
	}
	if n < lowest || n > highest {
		return nil, c.misfit(v)
	}
	return n, nil
}

func (c *Column) decimal(v any) (any, error) {
	var r *big.Rat
	switch v := v.(type) {
	case *big.Rat:
		r = v
	case uint64:
		return strconv.FormatUint(v, 10), nil
	case int32:
		r = new(big.Rat).SetInt64(int64(v))
	case int64:
		r = new(big.Rat).SetInt64(v)
	case json.Number:
		r, _ = ratOf(string(v))
	case string:
		r, _ = ratOf(v)
	}
	if r == nil {
		return nil, c.misfit(v)
	}
	digits, exact := r.FloatPrec()
	if !exact || c.Precision > 0 && digits > c.Scale {
		return nil, c.misfit(v)
	}
	if c.Precision > 0 {
		digits = c.Scale
	}
	return r.FloatString(digits), nil
}

// ratOf reads a decimal number. An exponent beyond 400 is refused: the number
// would be that many digits long.
func ratOf(s string) (*big.Rat, bool) {
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		if e, err := strconv.Atoi(s[i+1:]); err != nil || e > 400 || e < -400 {
			return nil, false
		}
	}
	if strings.ContainsAny(s, "/_xXpP") {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}

func (c *Column) time(v any) (any, error) {
	t, ok := v.(time.Time)
	if s, isText := v.(string); isText { // JSON Schema's formats
		layout := time.RFC3339Nano
		if c.Type == Date {
			layout = time.DateOnly
		}
		var err error
		t, err = time.Parse(layout, s)
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

// canonicalUUID writes s, with or without hyphens, in the form that databases
// print.
func canonicalUUID(s string) (string, bool) {
	digits := strings.ReplaceAll(s, "-", "")
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) != 16 || len(s) != 36 && len(s) != 32 {
		return "", false
	}
	h := hex.EncodeToString(raw)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], true
}

// toJSON writes a value as JSON text: bytes as base64, decimals as numbers,
// timestamps as RFC 3339, times of day as 15:04:05.999999, and the numbers that
// JSON lacks as the strings NaN, Infinity and -Infinity. Members are sorted.
func toJSON(v any) (any, error) {
	v, err := jsonable(v)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("write JSON: %w", err)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

func jsonable(v any) (any, error) {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			e, err := jsonable(e)
			if err != nil {
				return nil, err
			}
			out[k] = e
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			e, err := jsonable(e)
			if err != nil {
				return nil, err
			}
			out[i] = e
		}
		return out, nil
	case *big.Rat:
		digits, exact := v.FloatPrec()
		if !exact {
			return nil, fmt.Errorf("write JSON: %s is no decimal number", v)
		}
		return json.Number(v.FloatString(digits)), nil
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano), nil
	case time.Duration:
		return time.Time{}.Add(v).Format("15:04:05.999999999"), nil
	case float32:
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return jsonable(float64(v))
		}
	case float64:
		switch {
		case math.IsNaN(v):
			return "NaN", nil
		case math.IsInf(v, 1):
			return "Infinity", nil
		case math.IsInf(v, -1):
			return "-Infinity", nil
		}
	}
	return v, nil
}
