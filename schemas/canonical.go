package schemas

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// maxJSONDepth is how deep values that are written as JSON may nest.
	maxJSONDepth = 500
	// maxJSONNumber bounds the digits of a number and its exponent,
	// maxDecimalBits the two halves of a decimal.
	maxJSONNumber  = 10_000
	maxDecimalBits = 1 << 15
)

// AppendJSON appends the canonical JSON of a decoded value to dst. Two values
// are equal exactly when their canonical JSON is, whatever Go types they are
// made of:
//
//   - Members are sorted by name, there is no white space, and strings escape
//     only what JSON demands.
//   - A number is its exact decimal value in one spelling, so that 1, 1.0 and
//     1e0 are the same, and integers beyond 2^53 and decimals keep every digit.
//     A float32 or float64 is its shortest decimal that reads back as itself.
//     NaN and the infinities, which JSON lacks, are the strings "NaN",
//     "Infinity" and "-Infinity"; a fraction without a finite decimal is the
//     string "1/3".
//   - Bytes are a base64 string, an instant is an RFC 3339 string in UTC, a
//     time of day is "hh:mm:ss" with the fraction it has.
//
// If v holds something that Schema does not list, or is beyond the limits, the
// error is a *ValueError.
func AppendJSON(dst []byte, v any) ([]byte, error) {
	return appendJSONValue(dst, v, nil)
}

// appendJSONValue appends v, which stands at the place that path names.
func appendJSONValue(dst []byte, v any, path []string) ([]byte, error) {
	if len(path) > maxJSONDepth {
		return dst, jsonMisfit(path[:1], fmt.Sprintf("at most %d levels", maxJSONDepth), "more", "")
	}
	switch v := v.(type) {
	case map[string]any:
		dst = append(dst, '{')
		var few [32]string // of most objects, so that they need no memory
		names := few[:0]
		for name := range v {
			names = append(names, name)
		}
		slices.Sort(names)
		for i, name := range names {
			if i > 0 {
				dst = append(dst, ',')
			}
			if !utf8.ValidString(name) {
				return dst, jsonMisfit(path, "names in UTF-8", fmt.Sprintf("%.40q", name), "")
			}
			dst = AppendJSONString(dst, name)
			dst = append(dst, ':')
			var err error
			if dst, err = appendJSONValue(dst, v[name], append(path, name)); err != nil {
				return dst, err
			}
		}
		return append(dst, '}'), nil
	case []any:
		dst = append(dst, '[')
		for i, item := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			var err error
			if dst, err = appendJSONValue(dst, item, append(path, strconv.Itoa(i))); err != nil {
				return dst, err
			}
		}
		return append(dst, ']'), nil
	}
	dst, err := appendScalar(dst, v)
	if err != nil {
		return dst, jsonMisfit(path, err.Error(), Describe(v), "")
	}
	return dst, nil
}

// jsonMisfit says that the value at path is not what it should be.
func jsonMisfit(path []string, expected, found, hint string) error {
	var pointer strings.Builder
	for _, token := range path {
		pointer.WriteByte('/')
		pointer.WriteString(EscapePointer(token))
	}
	return &ValueError{Violations: []Violation{{
		Pointer: pointer.String(), Expected: expected, Found: found, Hint: hint,
	}}}
}

// appendScalar appends everything that is neither an object nor an array. Its
// error says what was expected instead of v.
func appendScalar(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case string:
		if !utf8.ValidString(v) {
			return dst, errors.New("text in UTF-8")
		}
		return AppendJSONString(dst, v), nil
	case int32:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case uint32:
		return strconv.AppendUint(dst, uint64(v), 10), nil
	case uint64:
		return strconv.AppendUint(dst, v, 10), nil
	case float32:
		return appendFloat(dst, float64(v), 32), nil
	case float64:
		return appendFloat(dst, v, 64), nil
	case json.Number:
		return appendNumber(dst, string(v))
	case *big.Rat:
		return appendRat(dst, v)
	case []byte:
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, v)
		return append(dst, '"'), nil
	case time.Time:
		return appendInstant(dst, v), nil
	case time.Duration:
		return appendTimeOfDay(dst, v), nil
	}
	return dst, errors.New("a value that a schema gives")
}

func appendInstant(dst []byte, at time.Time) []byte {
	dst = append(dst, '"')
	dst = at.UTC().AppendFormat(dst, time.RFC3339Nano)
	return append(dst, '"')
}

func appendFloat(dst []byte, f float64, bits int) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(dst, `"-Infinity"`...)
	case f == math.Trunc(f) && math.Abs(f) < 1<<53:
		return strconv.AppendInt(dst, int64(f), 10)
	}
	var buf [32]byte
	dst, err := appendNumber(dst, string(strconv.AppendFloat(buf[:0], f, 'e', -1, bits)))
	if err != nil {
		panic(err) // strconv writes JSON numbers of at most 26 characters
	}
	return dst
}

func appendRat(dst []byte, r *big.Rat) ([]byte, error) {
	if r == nil {
		return append(dst, "null"...), nil
	}
	if r.Num().BitLen() > maxDecimalBits || r.Denom().BitLen() > maxDecimalBits {
		return dst, fmt.Errorf("a decimal of at most %d bits", maxDecimalBits)
	}
	places, exact := r.FloatPrec()
	if !exact {
		return strconv.AppendQuote(dst, r.RatString()), nil
	}
	return appendNumber(dst, r.FloatString(places))
}

func appendTimeOfDay(dst []byte, d time.Duration) []byte {
	dst = append(dst, '"')
	ns := uint64(d)
	if d < 0 {
		dst = append(dst, '-')
		ns = -ns
	}
	s := ns / uint64(time.Second)
	dst = fmt.Appendf(dst, "%02d:%02d:%02d", s/3600, s/60%60, s%60)
	if frac := ns % uint64(time.Second); frac > 0 {
		dst = append(dst, '.')
		dst = append(dst, bytes.TrimRight(fmt.Appendf(nil, "%09d", frac), "0")...)
	}
	return append(dst, '"')
}

// appendNumber appends the one spelling of a JSON number: plain digits where
// the decimal point lies within or near them, else d.ddde±x, the rule of
// ECMAScript's Number::toString, with as many digits as there are.
func appendNumber(dst []byte, text string) ([]byte, error) {
	var digits string
	var point int
	negative, ok := false, len(text) <= 4*maxJSONNumber
	if ok {
		digits, point, negative, ok = splitNumber(text)
	}
	// These bounds are on what is left, so that the result is within them too.
	if !ok || len(digits) > maxJSONNumber || max(point, -point) > maxJSONNumber {
		return dst, fmt.Errorf("a JSON number of at most %d digits, with an exponent of at most that", maxJSONNumber)
	}
	if len(digits) == 0 {
		return append(dst, '0'), nil
	}
	if negative {
		dst = append(dst, '-')
	}
	switch n := len(digits); {
	case n <= point && point <= 21:
		dst = append(dst, digits...)
		return append(dst, zeros[:point-n]...), nil
	case 0 < point && point <= 21:
		dst = append(dst, digits[:point]...)
		dst = append(dst, '.')
		return append(dst, digits[point:]...), nil
	case -6 < point && point <= 0:
		dst = append(dst, "0."...)
		dst = append(dst, zeros[:-point]...)
		return append(dst, digits...), nil
	}
	dst = append(dst, digits[0])
	if len(digits) > 1 {
		dst = append(dst, '.')
		dst = append(dst, digits[1:]...)
	}
	dst = append(dst, 'e')
	if point > 0 {
		dst = append(dst, '+')
	}
	return strconv.AppendInt(dst, int64(point-1), 10), nil
}

const zeros = "000000000000000000000"

// splitNumber takes a JSON number apart: it is 0.DIGITS times ten to the power
// of point, with no zero at either end of the digits. Zero has no digits.
func splitNumber(s string) (digits string, point int, negative, ok bool) {
	rest := s
	if rest != "" && rest[0] == '-' {
		negative, rest = true, rest[1:]
	}
	whole, rest := leadingDigits(rest)
	if whole == "" || len(whole) > 1 && whole[0] == '0' {
		return "", 0, false, false
	}
	var fraction string
	if rest != "" && rest[0] == '.' {
		if fraction, rest = leadingDigits(rest[1:]); fraction == "" {
			return "", 0, false, false
		}
	}
	point = len(whole)
	if rest != "" && (rest[0] == 'e' || rest[0] == 'E') {
		exponent, err := strconv.Atoi(rest[1:])
		if err != nil || max(exponent, -exponent) > 4*maxJSONNumber {
			return "", 0, false, false
		}
		point, rest = point+exponent, ""
	}
	if rest != "" {
		return "", 0, false, false
	}
	digits = whole + fraction
	for digits != "" && digits[0] == '0' {
		digits, point = digits[1:], point-1
	}
	for digits != "" && digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
	}
	return digits, point, negative, true
}

func leadingDigits(s string) (digits, rest string) {
	i := 0
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	return s[:i], s[i:]
}
