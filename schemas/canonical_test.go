package schemas

import (
	"encoding/json"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"
)

func TestCanonicalJSON(t *testing.T) {
	f := func(v any, want string) {
		t.Helper()
		got, err := AppendJSON(nil, v)
		if err != nil || string(got) != want {
			t.Errorf("AppendJSON(%#v) = %s, %v; want %s", v, got, err, want)
		}
	}
	f(nil, `null`)
	f(true, `true`)
	f(int32(-7), `-7`)
	f(int64(math.MinInt64), `-9223372036854775808`)
	f(uint64(math.MaxUint64), `18446744073709551615`)
	f(float64(1), `1`)
	f(1.5, `1.5`)
	f(float32(0.1), `0.1`)
	f(0.1, `0.1`)
	f(math.Copysign(0, -1), `0`)
	f(1e21, `1e+21`)
	f(1e20, `100000000000000000000`)
	f(1e-6, `0.000001`)
	f(1e-7, `1e-7`)
	f(-1.25e-9, `-1.25e-9`)
	f(5e-324, `5e-324`)
	f(math.MaxFloat64, `1.7976931348623157e+308`)
	f(math.NaN(), `"NaN"`)
	f(math.Inf(-1), `"-Infinity"`)
	f(json.Number("1.000"), `1`)
	f(json.Number("1e2"), `100`)
	f(json.Number("0.00e5"), `0`)
	f(json.Number("123456789012345678901234567890"), `1.2345678901234567890123456789e+29`)
	f(json.Number("9007199254740993"), `9007199254740993`)
	f(big.NewRat(12345, 100), `123.45`)
	f(big.NewRat(200, 2), `100`)
	f(big.NewRat(1, 3), `"1/3"`)
	f([]byte{0, 255}, `"AP8="`)
	f("a\"\\\n\x01<é", `"a\"\\\n\u0001<é"`)
	f(time.Date(2013, 1, 1, 7, 0, 0, 5e6, time.FixedZone("", 3600)), `"2013-01-01T06:00:00.005Z"`)
	f(7*time.Hour+5*time.Second+20*time.Millisecond, `"07:00:05.02"`)
	f(-time.Minute, `"-00:01:00"`)
	f(map[string]any{"b": []any{}, "a": map[string]any{}}, `{"a":{},"b":[]}`)
}

func TestCanonicalJSONRefuses(t *testing.T) {
	deep := any(nil)
	for range maxJSONDepth + 1 {
		deep = []any{deep}
	}
	f := func(v any, want string) {
		t.Helper()
		if _, err := AppendJSON(nil, v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("AppendJSON(%.60v) = %v, want %q", v, err, want)
		}
	}
	f(map[string]any{"a/b": []any{1, "\xff"}}, "at /a~1b/0: expected a value that a schema gives, found")
	f(map[string]any{"a": []any{"\xff"}}, "at /a/0: expected text in UTF-8")
	f(map[string]any{"\xff": 1}, "expected names in UTF-8")
	f(json.Number("1e999999999999"), "exponent")
	f(json.Number("01"), "JSON number")
	f(json.Number("1."), "JSON number")
	f(json.Number(""), "JSON number")
	f(json.Number(strings.Repeat("9", maxJSONNumber+1)), "digits")
	f(new(big.Rat).SetFrac(big.NewInt(1), new(big.Int).Lsh(big.NewInt(1), maxDecimalBits)), "bits")
	f(deep, "levels")
}

func FuzzNumber(f *testing.F) {
	for _, s := range []string{"0", "-0.0", "1.50", "1e3", "12e-5", "1E+2", "00", "1.", ".5", "+1", "1e", "1e99999999999", "NaN"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := appendNumber(nil, s)
		valid := json.Valid([]byte(s)) && !strings.ContainsAny(s, "\"{[tfn \t\r\n")
		if err != nil {
			return
		}
		if !valid {
			t.Fatalf("%q is no JSON number, but gives %s", s, got)
		}
		again, err := appendNumber(nil, string(got))
		if err != nil || string(again) != string(got) {
			t.Fatalf("%q gives %s, which gives %s, %v", s, got, again, err)
		}
		if len(s) < 100 && !strings.ContainsAny(s, "eE") {
			a, _ := new(big.Rat).SetString(s)
			b, _ := new(big.Rat).SetString(string(got))
			if a.Cmp(b) != 0 {
				t.Fatalf("%q is not %s", s, got)
			}
		}
	})
}
