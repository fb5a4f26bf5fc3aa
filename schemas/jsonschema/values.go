package jsonschema

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"penstock/schemas"
)

const maxValueDepth = 200

// converter turns Go values into what the library takes: JSON's own types,
// numbers as Go integers, finite float64s and checked json.Numbers, text in
// UTF-8. What JSON cannot hold it notes, and goes on with a null, so that all
// faults of a value are found.
type converter struct {
	faults []schemas.Violation
}

func (c *converter) fault(pointer, expected string, v any) any {
	if len(c.faults) < schemas.MaxViolations {
		c.faults = append(c.faults, schemas.Violation{Pointer: pointer, Expected: expected, Found: schemas.Describe(v)})
	}
	return nil
}

func (c *converter) value(v any, at string, depth int) any {
	if depth > maxValueDepth {
		return c.fault(at, fmt.Sprintf("at most %d levels", maxValueDepth), v)
	}
	switch v := v.(type) {
	case nil, bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		return v
	case string:
		if !utf8.ValidString(v) {
			return c.fault(at, "text in UTF-8", v)
		}
		return v
	case json.Number:
		if n, err := schemas.ParseJSON([]byte(v)); err != nil || n != v {
			return c.fault(at, "a JSON number without a huge exponent", v)
		}
		return v
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return c.fault(at, "a finite number", v)
		}
		return v
	case float32:
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return c.fault(at, "a finite number", v)
		}
		return json.Number(strconv.FormatFloat(float64(v), 'g', -1, 32))
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case time.Duration:
		return time.Time{}.Add(v).Format("15:04:05.999999999Z")
	case []byte:
		return base64.StdEncoding.EncodeToString(v)
	case *big.Rat:
		digits, exact := v.FloatPrec()
		if !exact || digits > 1000 {
			return c.fault(at, "a decimal of finitely many digits", v)
		}
		return json.Number(v.FloatString(digits))
	case []any:
		a := make([]any, len(v))
		for i, e := range v {
			a[i] = c.value(e, at+"/"+strconv.Itoa(i), depth+1)
		}
		return a
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			if !utf8.ValidString(k) {
				c.fault(at, "names in UTF-8", k)
				continue
			}
			m[k] = c.value(e, at+"/"+schemas.EscapePointer(k), depth+1)
		}
		return m
	}
	text, err := json.Marshal(v)
	if err != nil {
		return c.fault(at, "a value that JSON can hold", v)
	}
	out, err := schemas.ParseJSON(text)
	if err != nil {
		return c.fault(at, "a value that JSON can hold", v)
	}
	return out
}

// appendJSON appends what a converter returned.
func appendJSON(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case string:
		return schemas.AppendJSONString(dst, v)
	case json.Number:
		return append(dst, v...)
	case float64:
		if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
			return strconv.AppendFloat(dst, v, 'e', -1, 64)
		}
		return strconv.AppendFloat(dst, v, 'f', -1, 64)
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSON(dst, e)
		}
		return append(dst, ']')
	case map[string]any:
		dst = append(dst, '{')
		for i, k := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = schemas.AppendJSONString(dst, k)
			dst = append(dst, ':')
			dst = appendJSON(dst, v[k])
		}
		return append(dst, '}')
	}
	if u, ok := v.(uint64); ok {
		return strconv.AppendUint(dst, u, 10)
	}
	if u, ok := v.(uint); ok {
		return strconv.AppendUint(dst, uint64(u), 10)
	}
	n, _ := schemas.AsInt64(v)
	return strconv.AppendInt(dst, n, 10)
}

// appendText appends n without space, its keys in their order or sorted as
// UTF-16.
func appendText(dst []byte, n *schemas.JSONNode, sorted bool) []byte {
	switch n.Kind {
	case schemas.JSONNull:
		return append(dst, "null"...)
	case schemas.JSONString:
		return schemas.AppendJSONString(dst, n.Text)
	case schemas.JSONNumber:
		return append(dst, bigDecimal(n.Text)...)
	case schemas.JSONArray:
		dst = append(dst, '[')
		for i, item := range n.Items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendText(dst, item, sorted)
		}
		return append(dst, ']')
	case schemas.JSONObject:
		members := n.Members
		if sorted {
			members = slices.SortedFunc(slices.Values(members), func(a, b schemas.JSONMember) int { return schemas.CompareUTF16(a.Name, b.Name) })
		}
		dst = append(dst, '{')
		for i, m := range members {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = schemas.AppendJSONString(dst, m.Name)
			dst = append(dst, ':')
			dst = appendText(dst, m.Value, sorted)
		}
		return append(dst, '}')
	}
	return append(dst, n.Text...)
}

// bigDecimal spells a JSON number as Java's BigDecimal.toString does: digits
// and scale are kept, and an exponent is written where the scale is negative
// or the number below 1e-6.
func bigDecimal(s string) string {
	if !strings.ContainsAny(s, ".eE") {
		if s == "-0" {
			return "0"
		}
		return s
	}
	mantissa, exponent, _ := strings.Cut(strings.ToLower(s), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	e, _ := strconv.Atoi(strings.TrimPrefix(exponent, "+"))
	scale := len(fraction) - e
	digits := strings.TrimLeft(whole+fraction, "0")
	if digits == "" {
		digits, sign = "0", ""
	}
	adjusted := len(digits) - 1 - scale
	switch {
	case scale == 0:
		return sign + digits
	case scale > 0 && adjusted >= -6:
		if pad := scale - len(digits) + 1; pad > 0 {
			digits = strings.Repeat("0", pad) + digits
		}
		point := len(digits) - scale
		return sign + digits[:point] + "." + digits[point:]
	}
	if len(digits) > 1 {
		digits = digits[:1] + "." + digits[1:]
	}
	if adjusted == 0 {
		return sign + digits
	}
	return fmt.Sprintf("%s%sE%+d", sign, digits, adjusted)
}
