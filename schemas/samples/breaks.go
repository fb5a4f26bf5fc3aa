package samples

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"penstock/schemas"
)

// Mistake is what is wrong with a broken event.
type Mistake struct {
	Kind    MistakeKind
	Pointer string // the place in the event, as a JSON Pointer
}

// MistakeKind is a way in which events go wrong.
type MistakeKind string

// The kinds.
const (
	MissingField  MistakeKind = "missing field"
	WrongType     MistakeKind = "wrong type"
	OutOfRange    MistakeKind = "out of range"
	UnknownSymbol MistakeKind = "unknown symbol"
	UnwantedNull  MistakeKind = "unwanted null"
	TooLong       MistakeKind = "too long"
	BadFormat     MistakeKind = "bad format"
	Misspelt      MistakeKind = "misspelt field"
)

// String is the mistake in plain words.
func (m Mistake) String() string {
	if m.Pointer == "" {
		return string(m.Kind)
	}
	return string(m.Kind) + " at " + m.Pointer
}

// ErrUnbreakable is returned for a broken event of a schema that takes
// everything that was tried.
var ErrUnbreakable = errors.New("break an event: the schema takes whatever was tried")

// breakUp returns a copy of v that does not fit, and what is wrong with it. One
// kind is as likely as another, if the schema refuses it.
func (m *Maker) breakUp(g *generator, v any) (any, *Mistake, error) {
	b := breaker{generator: g, ways: map[MistakeKind][]way{}}
	whole := func(v any) any { return v }
	b.part(m.model, v, "", func(_, to any) any { return to })
	b.visit(m.model, v, "", whole)
	for len(b.ways) > 0 {
		kinds := slices.Sorted(maps.Keys(b.ways))
		kind := kinds[g.IntN(len(kinds))]
		ways := b.ways[kind]
		i := g.IntN(len(ways))
		broken := ways[i].make(copied(v))
		if m.refuses(broken) {
			return broken, &Mistake{kind, ways[i].pointer}, nil
		}
		if ways = slices.Delete(ways, i, i+1); len(ways) == 0 {
			delete(b.ways, kind)
		} else {
			b.ways[kind] = ways
		}
	}
	return nil, nil, ErrUnbreakable
}

// way is one way to break an event.
type way struct {
	pointer string
	make    func(whole any) any // of a copy of the event
}

// breaker finds the ways to break an event.
type breaker struct {
	*generator
	ways  map[MistakeKind][]way
	found int
}

// maxWays bounds the ways that are looked at.
const maxWays = 500

func (b *breaker) add(kind MistakeKind, pointer string, make func(whole any) any) {
	if b.found < maxWays {
		b.found++
		b.ways[kind] = append(b.ways[kind], way{pointer, make})
	}
}

// visit finds the ways at v, which is of n and lies at pointer; at leads from a
// copy of the event to the copy of v.
func (b *breaker) visit(n *schemas.Node, v any, pointer string, at func(whole any) any) {
	if n.Kind == schemas.Union {
		if n = branchOf(n, v); n == nil {
			return
		}
	}
	switch v := v.(type) {
	case map[string]any:
		if n.Kind == schemas.Record {
			b.record(n, v, pointer, at)
		} else if n.Kind == schemas.Map {
			for _, k := range slices.Sorted(maps.Keys(v)) {
				b.part(n.Items, v[k], pointer+"/"+schemas.EscapePointer(k), func(whole, to any) any {
					at(whole).(map[string]any)[k] = to
					return whole
				})
				b.visit(n.Items, v[k], pointer+"/"+schemas.EscapePointer(k), func(whole any) any { return at(whole).(map[string]any)[k] })
			}
		}
	case []any:
		if n.Kind == schemas.Array {
			for i := range v {
				b.part(n.Items, v[i], pointer+"/"+strconv.Itoa(i), func(whole, to any) any {
					at(whole).([]any)[i] = to
					return whole
				})
				b.visit(n.Items, v[i], pointer+"/"+strconv.Itoa(i), func(whole any) any { return at(whole).([]any)[i] })
			}
		}
	}
}

func (b *breaker) record(n *schemas.Node, v map[string]any, pointer string, at func(any) any) {
	for i := range n.Fields {
		f := &n.Fields[i]
		name, below := f.Name, pointer+"/"+schemas.EscapePointer(f.Name)
		part, there := v[name]
		if !there {
			continue
		}
		b.add(MissingField, below, func(whole any) any {
			delete(at(whole).(map[string]any), name)
			return whole
		})
		if wrong := misspell(name); n.Field(wrong) == nil {
			b.add(Misspelt, below, func(whole any) any {
				m := at(whole).(map[string]any)
				m[wrong] = m[name]
				delete(m, name)
				return whole
			})
		}
		b.part(f.Node, part, below, func(whole, to any) any {
			at(whole).(map[string]any)[name] = to
			return whole
		})
		b.visit(f.Node, part, below, func(whole any) any { return at(whole).(map[string]any)[name] })
	}
}

// part adds the ways to put something else in the place of v, which is of n;
// put does so in a copy of the event, and returns it.
func (b *breaker) part(n *schemas.Node, v any, pointer string, put func(whole, to any) any) {
	replace := func(kind MistakeKind, to any) {
		b.add(kind, pointer, func(whole any) any { return put(whole, to) })
	}
	inner, nullable := n.Nullable()
	if !nullable && v != nil && pointer != "" { // a whole event that is null is a tombstone
		replace(UnwantedNull, nil)
	}
	if inner.Kind == schemas.Union {
		if inner = branchOf(inner, v); inner == nil {
			return
		}
	}
	if _, text := v.(string); text && inner.Logical == schemas.NoLogical {
		replace(WrongType, int64(42))
	} else if v != nil {
		replace(WrongType, "not "+article(inner.Kind.String()))
	}
	bounds := inner.Bounds
	if bounds == nil {
		bounds = &schemas.Bounds{}
	}
	if bounds.Values != nil || inner.Kind == schemas.Enum {
		replace(UnknownSymbol, "NO_SUCH_SYMBOL")
	}
	switch inner.Kind {
	case schemas.Int:
		if inner.Logical == schemas.NoLogical {
			replace(OutOfRange, float64(1e30))
			if inner.Unsigned {
				replace(OutOfRange, int64(-1))
			} else if inner.Bits == 32 {
				replace(OutOfRange, int64(math.MaxInt32)+1)
			}
			for _, to := range beyond(bounds) {
				replace(OutOfRange, to)
			}
		}
	case schemas.Float:
		for _, to := range beyond(bounds) {
			replace(OutOfRange, to)
		}
		if inner.Bits == 32 {
			replace(OutOfRange, float64(1e300))
		}
	case schemas.String:
		if bounds.MaxSize != nil && *bounds.MaxSize < maxText {
			replace(TooLong, strings.Repeat("long ", *bounds.MaxSize/5+1))
		}
		if bounds.Format != "" || bounds.Pattern != "" || inner.Logical != schemas.NoLogical {
			replace(BadFormat, "?? not the format ??")
		}
	case schemas.Fixed:
		if inner.Logical == schemas.NoLogical {
			replace(TooLong, make([]byte, inner.Size+1))
		}
	case schemas.Array:
		if items, ok := v.([]any); ok && len(items) > 0 && bounds.MaxSize != nil && *bounds.MaxSize < maxText {
			replace(TooLong, slices.Repeat(items[:1], *bounds.MaxSize+1))
		}
	}
	switch inner.Logical {
	case schemas.Timestamp, schemas.LocalTime, schemas.Date, schemas.TimeOfDay, schemas.UUID:
		replace(BadFormat, "yesterday, more or less")
	case schemas.Decimal:
		if inner.Precision > 0 {
			replace(OutOfRange, "1"+strings.Repeat("0", inner.Precision-inner.Scale))
		}
	}
}

// beyond are numbers just outside of the bounds.
func beyond(b *schemas.Bounds) []any {
	var out []any
	one := big.NewRat(1, 1)
	number := func(r *big.Rat) json.Number {
		digits, _ := r.FloatPrec()
		return json.Number(r.FloatString(digits))
	}
	for _, low := range []*big.Rat{b.Least, b.Above} {
		if low != nil {
			out = append(out, number(new(big.Rat).Sub(low, one)))
		}
	}
	for _, high := range []*big.Rat{b.Most, b.Below} {
		if high != nil {
			out = append(out, number(new(big.Rat).Add(high, one)))
		}
	}
	return out
}

// branchOf is the branch of a union that v is of, or nil.
func branchOf(n *schemas.Node, v any) *schemas.Node {
	for _, b := range n.Branches {
		if b.Kind == schemas.Union {
			if b = branchOf(b, v); b != nil {
				return b
			}
		} else if len(schemas.Check(b, v)) == 0 {
			return b
		}
	}
	return nil
}

// misspell swaps the last two letters of a name, or doubles what cannot be
// swapped.
func misspell(name string) string {
	r := []rune(name)
	if n := len(r); n > 1 && r[n-1] != r[n-2] {
		r[n-1], r[n-2] = r[n-2], r[n-1]
		return string(r)
	}
	return name + name
}

func article(noun string) string {
	if strings.ContainsRune("aeiou", rune(noun[0])) {
		return "an " + noun
	}
	return fmt.Sprintf("a %s", noun)
}
