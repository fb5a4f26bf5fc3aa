package schemas

import (
	"cmp"
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxViolations is how many violations of one value are reported at most.
const MaxViolations = 100

const (
	maxValueDepth = 200
	// maxCheckSteps bounds the search for the branch of a union that fits, in
	// places visited; a tenth of a second or so.
	maxCheckSteps = 1 << 17
)

// Check returns every way in which v does not fit n, at most MaxViolations, in
// the order of n's fields and then of the names n does not know. It is the one
// place that words a violation, so that the same mistake reads the same in
// every language. It takes the generic values listed at Schema; a record is a
// map[string]any.
//
// Formats encode first and check only what was refused, since finding all
// takes longer than finding one.
func Check(n *Node, v any) []Violation {
	vs, _ := CheckWithin(n, v)
	return vs
}

// CheckWithin is Check that also says whether it came to an end: where unions
// lie within unions the branches to try can multiply without bound, and then
// it gives up and reports by the shape of the values alone.
func CheckWithin(n *Node, v any) (vs []Violation, complete bool) {
	c := checker{steps: maxCheckSteps}
	c.check(n, v, "", maxValueDepth)
	return c.out, c.steps > 0
}

// Refuse returns the *ValueError for v, which an encoder refused with cause:
// all of Check's violations, or, where Check finds none, cause alone.
func Refuse(n *Node, v any, cause error) error {
	vs := Check(n, v)
	if len(vs) == 0 {
		vs = []Violation{{Expected: expected(n), Found: Describe(v), Hint: cause.Error()}}
	}
	return &ValueError{Violations: vs}
}

type checker struct {
	out    []Violation
	steps  int  // left
	trying bool // a branch of a union, which costs steps
}

func (c *checker) add(v Violation) {
	if len(c.out) < MaxViolations {
		c.out = append(c.out, v)
	}
}

// wrong notes that v is not what n, or n or null, asks for.
func (c *checker) wrong(n *Node, v any, pointer, hint string) {
	c.add(Violation{Pointer: pointer, Expected: expected(n), Found: Describe(v), Hint: cmp.Or(hint, advice(n, v))})
}

// advice is what to do about v where nothing better is known.
func advice(n *Node, v any) string {
	want := n
	if rest, nullable := n.Nullable(); nullable {
		want = rest
	}
	text, isText := v.(string)
	_, isBool := v.(bool)
	_, isNumber := AsFloat64(v)
	switch {
	case v == nil:
		return "give it a value: null is not allowed here"
	case isText && (want.Kind == Int || want.Kind == Float) && decimalNumber(text) != nil,
		isText && want.Kind == Bool && (text == "true" || text == "false"):
		return "write it without quotes"
	case want.Kind == Enum:
		return "use one of those, or add another to the schema"
	case want.Kind == String && (isBool || isNumber):
		return "put it in quotes"
	case want.Kind == Int && isNumber:
		return "round it, or make the field a floating-point number in the schema"
	}
	return "change the value, or the type in the schema"
}

// check walks v. whole is what the words describe: n, or the union n is a
// branch of.
func (c *checker) check(n *Node, v any, pointer string, depth int) {
	c.checkAs(n, n, v, pointer, depth)
}

func (c *checker) checkAs(whole, n *Node, v any, pointer string, depth int) {
	if len(c.out) >= MaxViolations {
		return
	}
	if c.trying {
		c.steps--
	}
	switch n.Kind {
	case Any:
		return
	case Union:
		c.union(n, v, pointer, depth)
		return
	case Array, Map, Record:
		if depth == 0 {
			c.add(Violation{Pointer: pointer, Expected: fmt.Sprintf("at most %d levels", maxValueDepth), Found: "one more"})
			return
		}
	}
	switch n.Kind {
	case Array:
		a, ok := v.([]any)
		if !ok {
			c.wrong(whole, v, pointer, "")
			return
		}
		for i, e := range a {
			c.check(n.Items, e, pointer+"/"+strconv.Itoa(i), depth-1)
		}
	case Map:
		m, ok := v.(map[string]any)
		if !ok {
			c.wrong(whole, v, pointer, "")
			return
		}
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !utf8.ValidString(k) {
				c.add(Violation{Pointer: pointer, Expected: "names in UTF-8", Found: Describe(k)})
				continue
			}
			c.check(n.Items, m[k], pointer+"/"+EscapePointer(k), depth-1)
		}
	case Record:
		m, ok := v.(map[string]any)
		if !ok {
			c.wrong(whole, v, pointer, "")
			return
		}
		c.record(n, m, pointer, depth)
	default:
		if hint, ok := fits(n, v); !ok {
			c.wrong(whole, v, pointer, hint)
		}
	}
}

func (c *checker) record(n *Node, m map[string]any, pointer string, depth int) {
	known := make(map[string]bool, len(n.Fields))
	for i := range n.Fields {
		f := &n.Fields[i]
		known[f.Name] = true
		v, ok := m[f.Name]
		if ok {
			c.check(f.Node, v, pointer+"/"+EscapePointer(f.Name), depth-1)
		} else if f.Required {
			c.add(Violation{
				Pointer:  pointer + "/" + EscapePointer(f.Name),
				Expected: expected(f.Node), Found: "nothing",
				Hint: fmt.Sprintf("the field %q is required: add it", f.Name),
			})
		}
	}
	if n.Open {
		return
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !known[k] {
			c.add(unknownField(n, k, pointer))
		}
	}
}

func unknownField(n *Node, name, pointer string) Violation {
	names := make([]string, len(n.Fields))
	for i, f := range n.Fields {
		names[i] = f.Name
	}
	hint := "remove it, or add it to the schema"
	if near := nearest(name, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return Violation{
		Pointer:  pointer + "/" + EscapePointer(strings.ToValidUTF8(name, "\uFFFD")),
		Expected: "a field of the schema", Found: "the unknown field " + quote(name), Hint: hint,
	}
}

// union accepts v if a branch does. Otherwise it reports the violations of the
// branch that comes nearest.
func (c *checker) union(n *Node, v any, pointer string, depth int) {
	var best *checker
	var shaped *Node
	candidates := 0
	for _, b := range n.Branches {
		if !sameShape(b, v) {
			continue
		}
		shaped = b
		candidates++
	}
	switch candidates {
	case 0:
		if rest, _ := n.Nullable(); rest.Kind != Union && rest.Kind != Null && v != nil {
			c.checkAs(n, rest, v, pointer, depth)
			return
		}
		c.wrong(n, v, pointer, "")
		return
	case 1:
		c.checkAs(n, shaped, v, pointer, depth)
		return
	}
	for _, b := range n.Branches {
		if !sameShape(b, v) {
			continue
		}
		if c.steps <= 0 {
			break
		}
		try := checker{steps: c.steps, trying: true}
		try.checkAs(n, b, v, pointer, depth)
		c.steps = try.steps
		if len(try.out) == 0 {
			return
		}
		if best == nil || len(try.out) < len(best.out) {
			best = &try
		}
	}
	if best == nil {
		c.wrong(n, v, pointer, "there are too many ways to read it")
		return
	}
	for _, v := range best.out {
		c.add(v)
	}
}

// sameShape reports whether v is at first sight a value of n.
func sameShape(n *Node, v any) bool {
	switch n.Kind {
	case Array:
		_, ok := v.([]any)
		return ok
	case Map, Record:
		_, ok := v.(map[string]any)
		return ok
	case Any, Union:
		return true
	}
	_, ok := fits(n, v)
	return ok
}

// fits reports whether v is a value of n, which has no parts, and if not, what
// may help.
func fits(n *Node, v any) (hint string, ok bool) {
	if s, isString := v.(string); isString && !utf8.ValidString(s) {
		return "write the text in UTF-8", false
	}
	switch n.Logical {
	case Timestamp, LocalTime:
		if _, ok := AsTime(v); ok {
			return "", true
		}
		if s, isString := v.(string); isString {
			if n.Logical == LocalTime {
				_, err := time.Parse("2006-01-02T15:04:05.999999999", s)
				return "", err == nil
			}
			return "write it as 2013-02-08T17:00:00Z", false
		}
	case Date:
		if _, ok := AsTime(v); ok {
			return "", true
		}
		if s, isString := v.(string); isString {
			_, err := time.Parse(time.DateOnly, s)
			return "write it as 2013-02-08", err == nil
		}
	case TimeOfDay:
		switch v := v.(type) {
		case time.Duration:
			return "", v >= 0 && v < 24*time.Hour
		case time.Time:
			return "", true
		case string:
			if n.Kind == String {
				_, err := time.Parse("15:04:05.999999999Z07:00", v)
				return "write it as 17:30:00Z", err == nil
			}
		}
	case Decimal:
		if r := asDecimal(v); r != nil {
			return decimalFits(n, r)
		}
	case UUID:
		if s, isString := v.(string); isString {
			_, err := ParseGUID(s)
			return "write it as 8-4-4-4-12 hexadecimal digits", err == nil
		}
	}
	switch n.Kind {
	case Null:
		return "", v == nil
	case Bool:
		return "", reflect.ValueOf(v).Kind() == reflect.Bool
	case Int:
		return intFits(n, v)
	case Float:
		return floatFits(n, v)
	case String:
		return stringFits(v)
	case Bytes:
		_, isBytes := v.([]byte)
		_, isString := v.(string)
		return "", isBytes || isString
	case Fixed:
		size := -1
		switch v := v.(type) {
		case []byte:
			size = len(v)
		case string:
			size = len(v)
		default:
			if r := reflect.ValueOf(v); r.Kind() == reflect.Array && r.Type().Elem().Kind() == reflect.Uint8 {
				size = r.Len()
			}
		}
		return "", size == n.Size
	case Enum:
		s, isString := v.(string)
		if !isString {
			return "", false
		}
		if slices.Contains(n.Symbols, s) {
			return "", true
		}
		if near := nearest(s, n.Symbols); near != "" {
			return fmt.Sprintf("did you mean %q?", near), false
		}
		return "", false
	}
	return "", true
}

func intFits(n *Node, v any) (hint string, ok bool) {
	if n.Unsigned {
		u, ok := AsUint64(v)
		if n.Bits == 32 {
			ok = ok && u <= math.MaxUint32
		}
		if !ok && isWhole(v) {
			hint = fmt.Sprintf("the range is 0 to %d", uint64(math.MaxUint64)>>(64-n.Bits))
		}
		return hint, ok
	}
	i, ok := AsInt64(v)
	switch {
	case n.Bits == 32:
		ok = ok && i >= math.MinInt32 && i <= math.MaxInt32
	case n.Bits == 0 && !ok:
		return "", isWhole(v)
	}
	if !ok && isWhole(v) {
		low := int64(math.MinInt64) >> (64 - n.Bits)
		hint = fmt.Sprintf("the range is %d to %d", low, -(low + 1))
	}
	return hint, ok
}

// isWhole reports whether v is an integer of any size.
func isWhole(v any) bool {
	if n, ok := v.(json.Number); ok {
		return wholeNumber(string(n)) != nil
	}
	r := reflect.ValueOf(v)
	if r.CanFloat() {
		return r.Float() == math.Trunc(r.Float()) && !math.IsInf(r.Float(), 0)
	}
	return (r.CanInt() || r.CanUint()) && r.Type() != durationType
}

func floatFits(n *Node, v any) (hint string, ok bool) {
	f, ok := AsFloat64(v)
	if ok && n.Bits == 32 && !math.IsInf(f, 0) && math.IsInf(float64(float32(f)), 0) {
		ok = false
	}
	if _, isNumber := v.(json.Number); !ok && (isNumber || isWhole(v)) {
		hint = fmt.Sprintf("it is beyond the largest %d-bit number", max(n.Bits, 32))
	}
	return hint, ok
}

func stringFits(v any) (hint string, ok bool) {
	switch v := v.(type) {
	case string:
		return "", true
	case json.Number:
		return "put it in quotes", false
	case []byte:
		return "write the text in UTF-8", utf8.Valid(v)
	case encoding.TextMarshaler, encoding.TextAppender:
		return "", true
	default:
		return "", reflect.ValueOf(v).Kind() == reflect.String
	}
}

func decimalFits(n *Node, r *big.Rat) (hint string, ok bool) {
	if n.Precision == 0 {
		return "", true
	}
	scaled := new(big.Rat).Mul(r, new(big.Rat).SetInt(pow10(n.Scale)))
	if !scaled.IsInt() {
		return fmt.Sprintf("round it to %d digits after the point", n.Scale), false
	}
	return "", new(big.Int).Abs(scaled.Num()).Cmp(pow10(n.Precision)) < 0
}

func pow10(n int) *big.Int {
	return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil)
}

// expected is what n asks for, in plain words.
func expected(n *Node) string {
	switch n.Logical {
	case Date:
		return "date"
	case TimeOfDay:
		return "time of day"
	case Timestamp:
		return "timestamp"
	case LocalTime:
		return "local date and time"
	case UUID:
		return "UUID"
	case Decimal:
		if n.Precision == 0 {
			return "decimal"
		}
		return fmt.Sprintf("decimal of at most %d digits, %d of them after the point", n.Precision, n.Scale)
	}
	switch n.Kind {
	case Int:
		s := "integer"
		if n.Bits > 0 {
			s = fmt.Sprintf("%d-bit integer", n.Bits)
		}
		if n.Unsigned {
			s = "unsigned " + s
		}
		return s
	case Fixed:
		return fmt.Sprintf("%d bytes", n.Size)
	case Enum:
		return "one of " + some(n.Symbols)
	case Map, Record:
		return "object"
	case Union:
		words, null := alternatives(n, nil, map[*Node]bool{})
		if null {
			words = append(words, "null")
		}
		return strings.Join(words, " or ")
	case Any:
		return "any value"
	}
	return n.Kind.String()
}

// alternatives appends what the branches of a union are, null apart. A union
// may contain itself.
func alternatives(n *Node, words []string, seen map[*Node]bool) (_ []string, null bool) {
	seen[n] = true
	for _, b := range n.Branches {
		switch {
		case b.Kind == Null:
			null = true
		case b.Kind == Union && b.Logical == NoLogical:
			if !seen[b] {
				var within bool
				words, within = alternatives(b, words, seen)
				null = null || within
			}
		default:
			if w := expected(b); !slices.Contains(words, w) {
				words = append(words, w)
			}
		}
	}
	return words, null
}

// some lists at most ten words.
func some(words []string) string {
	quoted := make([]string, 0, 11)
	for _, w := range words[:min(len(words), 10)] {
		quoted = append(quoted, quote(w))
	}
	if len(words) > 10 {
		quoted = append(quoted, fmt.Sprintf("%d more", len(words)-10))
	}
	return strings.Join(quoted, ", ")
}

// Describe is v with its type, shortened, as a Violation's Found has it.
func Describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return fmt.Sprintf("boolean %t", v)
	case string:
		if !utf8.ValidString(v) {
			return fmt.Sprintf("%d bytes that are not UTF-8, beginning %s", len(v), quote(v))
		}
		return "string " + quote(v)
	case json.Number:
		return "number " + shorten(string(v))
	case []byte:
		return fmt.Sprintf("%d bytes", len(v))
	case []any:
		return fmt.Sprintf("array of %d", len(v))
	case map[string]any:
		return fmt.Sprintf("object of %d fields", len(v))
	case time.Time:
		return "timestamp " + v.Format(time.RFC3339Nano)
	case time.Duration:
		return "duration " + v.String()
	case *big.Rat:
		if v.Num().BitLen()+v.Denom().BitLen() > 1000 {
			return "decimal of many digits"
		}
		return "decimal " + shorten(v.RatString())
	}
	switch r := reflect.ValueOf(v); {
	case r.CanInt() || r.CanUint() || r.CanFloat():
		return "number " + shorten(fmt.Sprint(v))
	case r.Kind() == reflect.String:
		return "string " + quote(r.String())
	}
	return fmt.Sprintf("Go value of type %T", v)
}

const shownBytes = 60

// shorten cuts s to at most shownBytes, between runes.
func shorten(s string) string {
	if len(s) <= shownBytes {
		return s
	}
	end := shownBytes
	for end > shownBytes-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

func quote(s string) string { return strconv.Quote(shorten(s)) }

// nearest returns the candidate that s is most likely a misspelling of, or
// nothing if none is near.
func nearest(s string, candidates []string) string {
	if len(s) > shownBytes {
		return ""
	}
	best, found := max(2, len(s)/3+1), ""
	for _, c := range candidates {
		if len(c) > shownBytes {
			continue
		}
		if strings.EqualFold(s, c) {
			return c
		}
		if d := distance(s, c); d < best && d < max(len(s), len(c)) {
			best, found = d, c
		}
	}
	return found
}

// distance is the edit distance of the bytes of a and b in which swapping two
// neighbours is one edit (optimal string alignment).
func distance(a, b string) int {
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, above, row = above, row, before
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(above[j]+cost, above[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
