package samples

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"penstock/schemas"
)

const (
	// maxPlaces is after how many places a value is brought to an end.
	maxPlaces = 2000
	// maxDepth is from which level on no more is made than must be.
	maxDepth = 8
	// maxText bounds text, whatever the schema allows.
	maxText = 4096
)

// generator makes up the parts of one event.
type generator struct {
	*rand.Rand
	at     time.Time // of the event
	nth    uint64    // which event it is, from 0
	try    int       // how often the event did not fit before
	left   int       // places
	costs  map[*schemas.Node]int
	path   map[*schemas.Node]int // records, by how often they are around this place
	asText bool                  // bytes are text
	owner  string                // the record whose field is being made up; empty below the top
}

func (g *generator) oneIn(n int) bool { return g.IntN(n) == 0 }

// between is a number from low to high.
func (g *generator) between(low, high int) int { return low + g.IntN(high-low+1) }

func (g *generator) pick(from ...string) string { return from[g.IntN(len(from))] }

// value is a value of n, which the field of that name holds.
func (g *generator) value(n *schemas.Node, name string, depth int) any {
	g.left--
	if b := n.Bounds; b != nil && len(b.Values) > 0 {
		return b.Values[g.IntN(len(b.Values))]
	}
	// Bring it to an end: where it is large or deep, or contains itself again.
	small := g.left <= 0 || depth >= maxDepth || g.path[n] > 1
	switch n.Kind {
	case schemas.Union:
		return g.value(g.branch(n, small, depth > 0), name, depth)
	case schemas.Null:
		return nil
	case schemas.Bool:
		return g.truth(words(name))
	case schemas.Int:
		return g.integer(n, words(name))
	case schemas.Float:
		return g.float(n, words(name))
	case schemas.String:
		return g.text(n, words(name))
	case schemas.Enum:
		return n.Symbols[g.IntN(max(len(n.Symbols), 1))]
	case schemas.Bytes:
		if n.Logical == schemas.Decimal {
			return g.decimal(n)
		}
		return g.raw(g.between(1, 12))
	case schemas.Fixed:
		switch n.Logical {
		case schemas.Decimal:
			return g.decimal(n)
		case schemas.UUID:
			return g.uuid()
		}
		return g.raw(n.Size)
	case schemas.Array:
		return g.array(n, name, depth, small)
	case schemas.Map:
		return g.mapping(n, name, depth, small)
	case schemas.Record:
		return g.record(n, depth, small)
	}
	return g.anything()
}

// branch chooses among the branches of a union. nullable says whether null is
// welcome, as it is not in the place of a whole event: that is a tombstone.
func (g *generator) branch(n *schemas.Node, small, nullable bool) *schemas.Node {
	var null *schemas.Node
	least, rest := n.Branches[0], []*schemas.Node(nil)
	for _, b := range n.Branches {
		if g.costs[b] < g.costs[least] {
			least = b
		}
		if b.Kind == schemas.Null {
			null = b
		} else if g.costs[b] < tooMuch {
			rest = append(rest, b)
		}
	}
	switch {
	case !nullable && len(rest) > 0:
		return rest[g.IntN(len(rest))]
	case small && null != nil:
		return null
	case small || len(rest) == 0:
		return least
	case null != nil && g.oneIn(8):
		return null
	}
	return rest[g.IntN(len(rest))]
}

func (g *generator) record(n *schemas.Node, depth int, small bool) map[string]any {
	g.path[n]++
	defer func() { g.path[n]-- }()
	// What did not fit may fit with fewer fields.
	omit := max(8-g.try/8, 2)
	chosen := map[string]int{} // of each group of which one may be set
	groups := map[string]int{}
	for i := range n.Fields {
		if group := n.Fields[i].OneOf; group != "" {
			groups[group]++
			if g.IntN(groups[group]) == 0 {
				chosen[group] = i
			}
		}
	}
	out := make(map[string]any, len(n.Fields))
	for i := range n.Fields {
		f := &n.Fields[i]
		if g.owner = ""; depth == 0 {
			g.owner = lastPart(n.Name)
		}
		inner, nullable := f.Node.Nullable()
		if f.OneOf != "" {
			if chosen[f.OneOf] != i || g.costs[inner] >= tooMuch || small && !isLeaf(inner) {
				continue
			}
			out[f.Name] = g.value(inner, f.Name, depth+1)
			continue
		}
		if !f.Required && (g.costs[f.Node] >= tooMuch || small && !nullable && !isLeaf(inner) || !nullable && g.oneIn(omit)) {
			continue
		}
		out[f.Name] = g.value(f.Node, f.Name, depth+1)
	}
	return out
}

// isLeaf reports whether a value of n has no parts.
func isLeaf(n *schemas.Node) bool {
	return n.Kind != schemas.Record && n.Kind != schemas.Union && n.Items == nil
}

// size is how many characters, items or entries there are to be, if n bounds
// them by least and most, and otherwise from low to high.
func size(n *schemas.Node, low, high int) (least, most int) {
	if b := n.Bounds; b != nil {
		if b.MinSize > 0 {
			low, high = b.MinSize, max(high, b.MinSize+1)
		}
		if b.MaxSize != nil {
			high = min(high, *b.MaxSize)
			low = min(low, high)
		}
	}
	return low, high
}

func (g *generator) count(n *schemas.Node, depth int, small bool) int {
	low, high := size(n, 0, max(1, 3-depth/2))
	if n.Bounds == nil || n.Bounds.MinSize == 0 {
		if small || g.costs[n.Items] >= tooMuch {
			return 0
		}
		if high > 0 && !g.oneIn(8) {
			low = 1 // an empty one is rarely of interest
		}
	}
	if small {
		high = low
	}
	return min(g.between(low, high), tooMuch)
}

func (g *generator) array(n *schemas.Node, name string, depth int, small bool) []any {
	name = strings.TrimSuffix(name, "s")
	count := g.count(n, depth, small)
	out := make([]any, 0, count)
	unique := n.Bounds != nil && n.Bounds.Unique
	seen := map[string]bool{}
	for try := 0; len(out) < count && try < count+maxTries; try++ {
		v := g.value(n.Items, name, depth+1)
		if unique {
			text, err := schemas.AppendJSON(nil, v)
			if err != nil || seen[string(text)] {
				continue
			}
			seen[string(text)] = true
		}
		out = append(out, v)
	}
	return out
}

func (g *generator) mapping(n *schemas.Node, name string, depth int, small bool) map[string]any {
	count := g.count(n, depth, small)
	out := make(map[string]any, count)
	for try := 0; len(out) < count && try < count+maxTries; try++ {
		key := g.pick(adjectives()...)
		switch {
		case n.Keys != nil:
			key = fmt.Sprint(g.value(n.Keys, "key", depth+1))
		case try >= 8:
			key = fmt.Sprintf("%s%d", key, try)
		}
		if _, there := out[key]; !there {
			out[key] = g.value(n.Items, name, depth+1)
		}
	}
	return out
}

// anything is a value where the schema, or its model, says nothing.
func (g *generator) anything() any {
	switch g.IntN(8) {
	case 0:
		return json.Number(fmt.Sprint(g.IntN(100)))
	case 1:
		return g.oneIn(2)
	case 2:
		return map[string]any{}
	case 3:
		return []any{}
	}
	return g.pick(adjectives()...)
}

func (g *generator) truth(w []string) bool {
	switch w[len(w)-1] {
	case "active", "enabled", "valid", "available", "verified", "ok", "paid":
		return !g.oneIn(10)
	case "deleted", "cancelled", "canceled", "disabled", "blocked", "failed", "test", "hidden", "locked", "expired":
		return g.oneIn(10)
	}
	return g.oneIn(2)
}

func (g *generator) bytes(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(g.Uint32())
	}
	return out
}

// raw is n bytes such as are the same as a line of JSON: there Avro reads them
// as text, and Protobuf as base64.
func (g *generator) raw(n int) any {
	if !g.asText {
		return g.bytes(n)
	}
	out := make([]byte, n)
	for i := range out {
		out[i] = byte('!' + g.IntN('~'-'!'+1))
	}
	return string(out)
}

// uuid is of version 4.
func (g *generator) uuid() string {
	b := g.bytes(16)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// decimal is a price, as far as the digits go.
func (g *generator) decimal(n *schemas.Node) *big.Rat {
	scale, digits := n.Scale, min(n.Precision, n.Scale+4)
	if n.Precision == 0 {
		scale, digits = 2, 6
	}
	high := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(digits)), nil)
	return new(big.Rat).SetFrac(
		g.whole(new(big.Int), new(big.Int).Sub(high, big.NewInt(1))),
		new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil))
}

// whole is an integer from low to high.
func (g *generator) whole(low, high *big.Int) *big.Int {
	span := new(big.Int).Sub(high, low)
	if span.IsUint64() {
		if n := span.Uint64(); n < math.MaxUint64 {
			return new(big.Int).Add(low, new(big.Int).SetUint64(g.Uint64N(n+1)))
		}
	}
	// 64 bits more than the span make what is left over by Mod too rare to see.
	bits := new(big.Int).SetBytes(g.bytes(len(span.Bytes()) + 8))
	return bits.Mod(bits, span.Add(span, big.NewInt(1))).Add(bits, low)
}

// steps is how many steps of the given width lie at and above low, and at and
// below high, with the bounds of b where they are closer. ok is false if there
// is nothing between them.
func steps(b *schemas.Bounds, low, high, width *big.Rat) (first, last *big.Int, ok bool) {
	lowest, highest := new(big.Rat).Quo(low, width), new(big.Rat).Quo(high, width)
	first, last = ceil(lowest), floor(highest)
	if b != nil {
		raise := func(to *big.Int) {
			if to.Cmp(first) > 0 {
				first = to
			}
		}
		lower := func(to *big.Int) {
			if to.Cmp(last) < 0 {
				last = to
			}
		}
		one := big.NewInt(1)
		if b.Least != nil {
			raise(ceil(new(big.Rat).Quo(b.Least, width)))
		}
		if b.Above != nil {
			above := floor(new(big.Rat).Quo(b.Above, width))
			raise(above.Add(above, one))
		}
		if b.Most != nil {
			lower(floor(new(big.Rat).Quo(b.Most, width)))
		}
		if b.Below != nil {
			below := ceil(new(big.Rat).Quo(b.Below, width))
			lower(below.Sub(below, one))
		}
	}
	return first, last, first.Cmp(last) <= 0
}

func floor(r *big.Rat) *big.Int {
	return new(big.Int).Div(r.Num(), r.Denom()) // Euclidean: down, the denominator being positive
}

func ceil(r *big.Rat) *big.Int {
	up := floor(new(big.Rat).Neg(r))
	return up.Neg(up)
}

// reach is low and high, moved to where b lets numbers be: around its bounds.
func reach(b *schemas.Bounds, low, high *big.Rat) (*big.Rat, *big.Rat) {
	span := new(big.Rat).Sub(high, low)
	if b.Multiple != nil {
		span.Add(span, new(big.Rat).Mul(b.Multiple, big.NewRat(10, 1)))
	}
	for _, from := range []*big.Rat{b.Least, b.Above} {
		if from != nil {
			low, high = from, new(big.Rat).Add(from, span)
		}
	}
	for _, to := range []*big.Rat{b.Most, b.Below} {
		if to != nil && to.Cmp(high) < 0 {
			low, high = new(big.Rat).Sub(to, span), to
		}
	}
	return low, high
}

// number is a multiple of width from low to high, or else where b wants it.
func (g *generator) number(b *schemas.Bounds, low, high, width *big.Rat) *big.Rat {
	if b != nil && b.Multiple != nil {
		width = b.Multiple
	}
	first, last, ok := steps(b, low, high, width)
	for finer := 0; !ok && b != nil && finer < 20; finer++ {
		low, high = reach(b, low, high)
		if first, last, ok = steps(b, low, high, width); !ok && b.Multiple == nil && !width.IsInt() {
			width = new(big.Rat).Mul(width, big.NewRat(1, 10)) // the bounds are closer than that
		}
	}
	if !ok {
		return low
	}
	return new(big.Rat).Mul(new(big.Rat).SetInt(g.whole(first, last)), width)
}

func (g *generator) integer(n *schemas.Node, w []string) any {
	switch n.Logical {
	case schemas.Timestamp, schemas.LocalTime:
		return g.instant(w)
	case schemas.Date:
		return g.instant(w).Truncate(24 * time.Hour)
	case schemas.TimeOfDay:
		// A number is read back from JSON, which the text of a time is not: of
		// milliseconds in 32 bits, else of microseconds.
		ms := int32(g.IntN(24*60*60) * 1000)
		if n.Bits == 32 {
			return ms
		}
		return int64(ms) * 1000
	}
	low, high := g.integers(w, n.Bits)
	switch {
	case n.Unsigned:
		low = max(low, 0)
	case n.Bits == 32:
		low, high = max(low, math.MinInt32), min(high, math.MaxInt32)
	}
	r := g.number(n.Bounds, new(big.Rat).SetInt64(low), new(big.Rat).SetInt64(high), big.NewRat(1, 1)).Num()
	switch {
	case n.Bits == 32 && n.Unsigned:
		return uint32(r.Uint64())
	case n.Bits == 32:
		return int32(r.Int64())
	case n.Unsigned:
		return r.Uint64()
	case r.IsInt64():
		return r.Int64()
	}
	return json.Number(r.String())
}

func (g *generator) float(n *schemas.Node, w []string) any {
	low, high := floats(w)
	// In hundredths, so that no machine rounds otherwise than another.
	r := g.number(n.Bounds, big.NewRat(low, 100), big.NewRat(high, 100), big.NewRat(1, 100))
	switch n.Bits {
	case 32:
		f, _ := r.Float32()
		return f
	case 64:
		f, _ := r.Float64()
		return f
	}
	digits, _ := r.FloatPrec()
	return json.Number(r.FloatString(min(digits, 300)))
}

// instant is the time of a field of an event: that of the event, but for what
// is said to be to come.
func (g *generator) instant(w []string) time.Time {
	t := g.at
	for _, word := range w {
		switch word {
		case "expires", "expiry", "due", "until", "end", "arrival", "deadline", "delivery":
			return t.Add(time.Duration(g.between(10, 600)) * time.Minute)
		case "birth", "birthday", "born":
			return t.AddDate(-g.between(18, 80), 0, -g.IntN(365))
		}
	}
	return t
}

// text is a string within the bounds of n.
func (g *generator) text(n *schemas.Node, w []string) string {
	switch n.Logical {
	case schemas.Timestamp:
		return g.instant(w).Format(time.RFC3339Nano)
	case schemas.Date:
		return g.instant(w).Format(time.DateOnly)
	case schemas.TimeOfDay:
		return g.instant(w).Format("15:04:05Z")
	case schemas.UUID:
		return g.uuid()
	}
	b := n.Bounds
	if b == nil {
		return g.words(w)
	}
	if b.Pattern != "" {
		return g.matching(n)
	}
	if s, ok := g.format(b.Format, w); ok {
		return s
	}
	low, high := size(n, 0, maxText)
	s := g.words(w)
	for utf8.RuneCountInString(s) < min(low, maxText) {
		s += " " + g.pick(adjectives()...)
	}
	if utf8.RuneCountInString(s) > high {
		return strings.TrimSpace(string([]rune(s)[:max(low, min(high, maxText))]))
	}
	return s
}

// matching is text that matches the pattern of n and has its length, if such a
// one is found. A plausible one is preferred.
func (g *generator) matching(n *schemas.Node) string {
	re, err := regexp.Compile(n.Bounds.Pattern)
	if err != nil {
		return "" // not RE2: it is not known how to make one
	}
	low, high := size(n, 0, maxText)
	fits := func(s string) bool {
		count := utf8.RuneCountInString(s)
		return count >= low && count <= high && re.MatchString(s)
	}
	p, err := newPattern(n.Bounds.Pattern)
	if err != nil {
		return ""
	}
	s := ""
	for try := range 20 {
		if s = p.text(g.Rand, low, try); fits(s) {
			break
		}
	}
	return s
}

// format is text of a format as JSON Schema names it; ok is false for one that
// is not known, which says nothing.
func (g *generator) format(format string, w []string) (s string, ok bool) {
	switch format {
	case "email", "idn-email":
		return g.words([]string{"email"}), true
	case "uri", "iri", "uri-reference", "iri-reference", "url":
		return g.words([]string{"url"}), true
	case "uri-template":
		return "https://example.org/{id}", true
	case "hostname", "idn-hostname":
		return g.words([]string{"host"}), true
	case "ipv4":
		return g.words([]string{"ip"}), true
	case "ipv6":
		return g.words([]string{"ipv6"}), true
	case "json-pointer":
		return "/" + g.pick(adjectives()...), true
	case "relative-json-pointer":
		return "0/" + g.pick(adjectives()...), true
	case "duration":
		return fmt.Sprintf("PT%dM", g.between(1, 90)), true
	case "period":
		return fmt.Sprintf("%s/PT%dM", g.at.Format(time.RFC3339), g.between(1, 90)), true
	case "semver":
		return fmt.Sprintf("%d.%d.%d", g.IntN(4), g.IntN(10), g.IntN(10)), true
	case "regex":
		return "^[a-z]+$", true
	case "date-time":
		return g.instant(w).Format(time.RFC3339Nano), true
	}
	return "", false
}
