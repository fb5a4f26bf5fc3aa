package avro

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"penstock/schemas"
)

// Limits of defaults. A default within unions is tried against their branches,
// within those against theirs, and the encoder does so several times over.
const (
	maxFits        = 1 << 19 // attempts to fit the defaults of one schema to their types
	maxFitDepth    = 200
	maxUnionsDeep  = 8
	maxUnionLength = 10_000 // branches, at whose square the encoder's time grows
)

// fitter fits the defaults of one schema to their types.
type fitter struct {
	steps  int // left
	unions int // around the value
}

func newFitter() fitter { return fitter{steps: maxFits} }

// fit returns the default j as a value of t in the one spelling that t has for
// it, or nil if it is none of t. A value of a union is one of the first branch
// that it fits. Where steps are below zero in the end, the answer is not known.
func (p *fitter) fit(t *typ, j *schemas.JSONNode, depth int) *schemas.JSONNode {
	if p.steps--; p.steps < 0 || depth > maxFitDepth {
		return nil
	}
	switch t.kind {
	case "union":
		if p.unions++; p.unions <= maxUnionsDeep {
			for _, m := range t.members {
				if fitted := p.fit(m, j, depth+1); fitted != nil {
					p.unions--
					return fitted
				}
			}
		}
		p.unions--
	case "null":
		return only(schemas.JSONNull, j, true)
	case "boolean":
		return only(schemas.JSONBool, j, true)
	case "int", "long":
		v, ok := schemas.AsInt64(json.Number(j.Text))
		if ok && j.Kind == schemas.JSONNumber && (t.kind == "long" || v >= math.MinInt32 && v <= math.MaxInt32) {
			return numberNode(strconv.FormatInt(v, 10))
		}
	case "float", "double":
		if j.Kind != schemas.JSONNumber {
			return only(schemas.JSONString, j, slices.Contains([]string{"NaN", "Infinity", "-Infinity"}, j.Text))
		}
		f := parseDouble(j.Text)
		if t.kind == "float" {
			return numberNode(javaFloat(float32(f)))
		}
		return numberNode(javaDouble(f))
	case "string":
		return only(schemas.JSONString, j, true)
	case "enum":
		return only(schemas.JSONString, j, slices.Contains(t.symbols, j.Text))
	case "bytes", "fixed":
		return only(schemas.JSONString, j, isBytes(j.Text) && (t.kind == "bytes" || utf8.RuneCountInString(j.Text) == t.size))
	case "array":
		return p.fitAll(schemas.JSONArray, j, depth, func(string) *typ { return t.items })
	case "map":
		return p.fitAll(schemas.JSONObject, j, depth, func(string) *typ { return t.items })
	default:
		return p.fitRecord(t, j, depth)
	}
	return nil
}

// only returns j if it is of a kind and fits.
func only(kind schemas.JSONKind, j *schemas.JSONNode, fits bool) *schemas.JSONNode {
	if j.Kind != kind || !fits {
		return nil
	}
	return j
}

// isBytes reports whether each character of s stands for one byte.
func isBytes(s string) bool {
	for _, c := range s {
		if c > 0xff {
			return false
		}
	}
	return true
}

// fitRecord also sees that what j lacks has a default, and that it does not
// contain itself.
func (p *fitter) fitRecord(t *typ, j *schemas.JSONNode, depth int) *schemas.JSONNode {
	if j.Kind != schemas.JSONObject {
		return nil
	}
	given := make(map[string]bool, len(j.Members))
	for _, m := range j.Members {
		given[m.Name] = true
	}
	types := make(map[string]*typ, len(t.fields))
	for _, f := range t.fields {
		types[f.name] = f.typ
		if !given[f.name] && (f.def == nil || p.fit(f.typ, f.def, depth+1) == nil) {
			return nil
		}
	}
	return p.fitAll(schemas.JSONObject, j, depth, func(name string) *typ { return types[name] })
}

// fitAll fits the parts of j, which is of a kind if it is to fit, to their
// types; a part without a type stays as it is.
func (p *fitter) fitAll(kind schemas.JSONKind, j *schemas.JSONNode, depth int, typeOf func(name string) *typ) *schemas.JSONNode {
	if j.Kind != kind {
		return nil
	}
	out := &schemas.JSONNode{Kind: kind}
	for _, item := range j.Items {
		fitted := p.fit(typeOf(""), item, depth+1)
		if fitted == nil {
			return nil
		}
		out.Items = append(out.Items, fitted)
	}
	for _, m := range j.Members {
		fitted := m.Value
		if t := typeOf(m.Name); t != nil {
			fitted = p.fit(t, m.Value, depth+1)
		}
		if fitted == nil {
			return nil
		}
		out.Members = append(out.Members, schemas.JSONMember{Name: m.Name, Value: fitted})
	}
	return out
}

// pending is a default that is checked once all types are known.
type pending struct {
	typ    *typ
	def    *schemas.JSONNode
	of     *typ // the record
	field  int
	from   string
	within string // where the record's fields are, as a JSON Pointer
}

// defaults checks that every default is a value of its type. In what is
// registered already it marks those that are none.
func (p *parser) defaults() error {
	fits := newFitter()
	for _, d := range p.pending {
		if fits.fit(d.typ, d.def, 0) != nil {
			continue
		}
		if !p.strict || d.from != "" {
			d.of.fields[d.field].unfit = true
			continue
		}
		pointer := fmt.Sprintf("%s/%d/default", d.within, d.field)
		if fits.steps < 0 {
			return p.failAt(pointer, "there are too many ways to read this default and those before it: make them smaller")
		}
		return p.failAt(pointer, "expected a default that is a value of the type %s, with all its fields, within at most %d unions, found %s", d.typ, maxUnionsDeep, found(d.def))
	}
	return nil
}

// String names a type, in messages.
func (t *typ) String() string {
	if isNamed(t.kind) {
		return strconv.Quote(t.name.full())
	}
	return strconv.Quote(t.kind)
}
