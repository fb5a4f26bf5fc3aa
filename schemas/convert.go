package schemas

import (
	"encoding/json"
	"math"
	"math/big"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// AsInt64 returns v as an integer where that loses nothing: any Go integer, a
// whole float, or a json.Number that is whole in any spelling.
func AsInt64(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case int:
		return int64(v), true
	case int32:
		return int64(v), true
	case json.Number:
		if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
			return n, true
		}
		if n := wholeNumber(string(v)); n != nil && n.IsInt64() {
			return n.Int64(), true
		}
		return 0, false
	}
	switch r := reflect.ValueOf(v); {
	case r.CanInt() && r.Type() != durationType:
		return r.Int(), true
	case r.CanUint():
		return int64(r.Uint()), r.Uint() <= math.MaxInt64
	case r.CanFloat():
		f := r.Float()
		return int64(f), f == math.Trunc(f) && f >= -1<<63 && f < 1<<63
	}
	return 0, false
}

// AsUint64 is AsInt64 for what is not negative.
func AsUint64(v any) (uint64, bool) {
	if n, ok := v.(json.Number); ok {
		if n := wholeNumber(string(n)); n != nil && n.IsUint64() {
			return n.Uint64(), true
		}
		return 0, false
	}
	switch r := reflect.ValueOf(v); {
	case r.CanUint():
		return r.Uint(), true
	case r.CanFloat():
		f := r.Float()
		return uint64(f), f == math.Trunc(f) && f >= 0 && f < 1<<64
	}
	n, ok := AsInt64(v)
	return uint64(n), ok && n >= 0
}

// AsFloat64 returns v as a float64: any Go number, or a json.Number that is
// not beyond the largest one. An integer may be rounded.
func AsFloat64(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case json.Number:
		f, err := strconv.ParseFloat(string(v), 64)
		return f, err == nil && !math.IsInf(f, 0) && !math.IsNaN(f)
	}
	switch r := reflect.ValueOf(v); {
	case r.CanFloat():
		return r.Float(), true
	case r.CanInt() && r.Type() != durationType:
		return float64(r.Int()), true
	case r.CanUint():
		return float64(r.Uint()), true
	}
	return 0, false
}

// AsTime returns v as an instant: a time.Time, or an RFC 3339 string.
func AsTime(v any) (time.Time, bool) {
	switch v := v.(type) {
	case time.Time:
		return v, true
	case string:
		t, err := time.Parse(time.RFC3339Nano, v)
		return t, err == nil
	}
	return time.Time{}, false
}

var durationType = reflect.TypeFor[time.Duration]()

// wholeNumber returns the integer that a JSON number is, or nil if it is none
// or has an exponent that ParseJSON refuses.
func wholeNumber(s string) *big.Int {
	if r := decimalNumber(s); r != nil && r.IsInt() {
		return r.Num()
	}
	return nil
}

// decimalNumber returns the value of a decimal number as JSON spells it, or
// nil if it is none, or is longer or has a larger exponent than ParseJSON
// takes.
func decimalNumber(s string) *big.Rat {
	if len(s) == 0 || len(s) > maxJSONDigits || strings.Trim(s, "+-.0123456789eE") != "" {
		return nil
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		if e, err := strconv.Atoi(s[i+1:]); err != nil || e < -maxJSONExponent || e > maxJSONExponent {
			return nil
		}
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return nil
	}
	return r
}

// asDecimal returns v as an exact decimal.
func asDecimal(v any) *big.Rat {
	switch v := v.(type) {
	case *big.Rat:
		return v
	case big.Rat:
		return &v
	case json.Number:
		return decimalNumber(string(v))
	case string:
		return decimalNumber(v)
	case float64:
		return decimalNumber(strconv.FormatFloat(v, 'g', -1, 64))
	case float32:
		return decimalNumber(strconv.FormatFloat(float64(v), 'g', -1, 32))
	}
	return nil
}
