package avro

import (
	"math"
	"math/big"
	"strconv"
	"strings"

	"penstock/schemas"
)

// javaNumber spells a JSON number as the canonical form does: integers as they
// are, but for -0, and all else as Java spells the double.
func javaNumber(s string) string {
	if !strings.ContainsAny(s, ".eE") {
		if s == "-0" {
			return "0"
		}
		return s
	}
	f, _ := strconv.ParseFloat(s, 64) // infinite beyond the largest double
	return javaDouble(f)
}

// javaDouble is the JSON that Java writes for a double: the shortest decimal
// that reads back as f, but of two digits the nearer one where one would do. A
// number that JSON lacks is a string.
func javaDouble(f float64) string {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return notFinite(f)
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	if mantissa, _, _ := strings.Cut(s, "e"); !strings.Contains(mantissa, ".") {
		if two := strconv.FormatFloat(f, 'e', 1, 64); math.Float64bits(parseDouble(two)) == math.Float64bits(f) {
			s = two
		}
	}
	mantissa, exponent, _ := strings.Cut(s, "e")
	mantissa, negative := strings.CutPrefix(mantissa, "-")
	e, _ := strconv.Atoi(exponent)
	return javaDecimal(negative, strings.Replace(mantissa, ".", "", 1), e)
}

func parseDouble(s string) float64 {
	f, _ := strconv.ParseFloat(s, 64)
	return f
}

func notFinite(f float64) string {
	switch {
	case math.IsNaN(f):
		return `"NaN"`
	case f < 0:
		return `"-Infinity"`
	}
	return `"Infinity"`
}

// javaDecimal writes d.ddd times ten to the power of e with a point where e is
// from -3 to 6, and with an exponent elsewhere.
func javaDecimal(negative bool, digits string, e int) string {
	digits = strings.TrimRight(digits, "0")
	whole, fraction, tail := "0", "", ""
	switch {
	case digits == "":
	case e < -3 || e > 6:
		whole, fraction, tail = digits[:1], digits[1:], "E"+strconv.Itoa(e)
	case e < 0:
		fraction = strings.Repeat("0", -e-1) + digits
	case len(digits) <= e:
		whole = digits + strings.Repeat("0", e+1-len(digits))
	default:
		whole, fraction = digits[:e+1], digits[e+1:]
	}
	if fraction == "" {
		fraction = "0"
	}
	if negative {
		whole = "-" + whole
	}
	return whole + "." + fraction + tail
}

// javaFloat is the JSON that Java 17 writes for a float. It is not always the
// shortest decimal: digits are taken until what is left is less than half the
// distance to the next float, and a whole number below 2^63 loses only the
// digits that lie below that distance.
func javaFloat(f float32) string {
	v := math.Abs(float64(f))
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return javaDouble(float64(f))
	}
	negative := math.Signbit(float64(f))
	fraction, exponent := math.Frexp(v) // v is fraction times 2^exponent, 0.5 <= fraction < 1
	if v == math.Trunc(v) && exponent <= 63 {
		n, lost := uint64(v), 0
		if below := exponent - 26; below > 1 {
			lost = int(float64(below) * math.Log10(2))
			n += uint64(math.Pow10(lost)) / 2
			n /= uint64(math.Pow10(lost))
		}
		digits := strconv.FormatUint(n, 10)
		return javaDecimal(negative, digits, len(digits)-1+lost)
	}
	unit := exponent - 24 // the lowest bit stands for 2^unit
	half := exact(1, unit-1)
	if unit < -149 {
		half = exact(1, -150)
	} else if fraction == 0.5 {
		half = exact(1, unit-2)
	}
	text := strconv.FormatFloat(v, 'e', 0, 64)
	_, tail, _ := strings.Cut(text, "e")
	e, _ := strconv.Atoi(tail)
	left := new(big.Rat).SetFloat64(v)
	place := pow10(e)
	if left.Cmp(place) < 0 { // it was rounded up
		e--
		place = pow10(e)
	}
	var digits []byte
	for ten := big.NewRat(10, 1); ; place.Quo(place, ten) {
		d := new(big.Rat).Quo(left, place)
		digit := new(big.Int).Quo(d.Num(), d.Denom())
		left.Sub(left, new(big.Rat).Mul(place, new(big.Rat).SetInt(digit)))
		digits = append(digits, '0'+byte(digit.Int64()))
		low, high := left.Cmp(half) < 0, new(big.Rat).Add(left, half).Cmp(place) > 0
		if len(digits) == 1 && (e < -3 || e > 6) || !low && !high {
			continue
		}
		if high && low {
			middle := new(big.Rat).Add(left, left).Cmp(place)
			high = middle > 0 || middle == 0 && digits[len(digits)-1]%2 == 1
		}
		if high {
			digits, e = roundUp(digits, e)
		}
		return javaDecimal(negative, string(digits), e)
	}
}

func exact(n int64, exponent int) *big.Rat {
	return new(big.Rat).SetFloat64(math.Ldexp(float64(n), exponent))
}

func pow10(e int) *big.Rat {
	p := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(e, -e))), nil))
	if e < 0 {
		p.Inv(p)
	}
	return p
}

// roundUp adds one to the last of digits, which are d.ddd times ten to the
// power of e.
func roundUp(digits []byte, e int) ([]byte, int) {
	for i := len(digits) - 1; i >= 0; i-- {
		if digits[i] < '9' {
			digits[i]++
			return digits, e
		}
		digits[i] = '0'
	}
	return append([]byte{'1'}, digits...), e + 1
}

// numberNode is a number of the normalised form, or a string where JSON lacks
// it.
func numberNode(text string) *schemas.JSONNode {
	if quoted, ok := strings.CutPrefix(text, `"`); ok {
		return &schemas.JSONNode{Kind: schemas.JSONString, Text: strings.TrimSuffix(quoted, `"`)}
	}
	return &schemas.JSONNode{Kind: schemas.JSONNumber, Text: text}
}
