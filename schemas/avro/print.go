package avro

import (
	"math"
	"strconv"
	"strings"

	"penstock/schemas"
)

// printer writes a type as JSON, in one of two forms.
//
// The canonical form is the text under which Confluent's registry and its
// clients keep a schema, so that lookups by text and hash agree: no space; for
// a record type, name, namespace, doc, fields, properties, aliases; types of
// references by name. It keeps everything but comments, spelling of numbers
// and space. It is not the specification's Parsing Canonical Form, which drops
// what compatibility depends on.
//
// The library form is what the encoder reads: types of references are defined
// at their first use, all names are full, and nothing is there that does not
// bear on the encoding.
type printer struct {
	out     []byte
	seen    map[string]bool // full names that were defined
	library bool
}

func (p *printer) raw(s string)    { p.out = append(p.out, s...) }
func (p *printer) string(s string) { p.out = schemas.AppendJSONString(p.out, s) }

func (p *printer) member(name, value string) {
	p.raw(`,"` + name + `":`)
	p.string(value)
}

func (p *printer) typ(t *typ, space string) {
	switch {
	case t.kind == "union":
		p.raw("[")
		for i, m := range t.members {
			if i > 0 {
				p.raw(",")
			}
			p.typ(m, space)
		}
		p.raw("]")
		return
	case isPrimitive(t.kind) && len(t.props) == 0:
		p.string(t.kind)
		return
	case isNamed(t.kind) && (p.seen[t.name.full()] || t.from != "" && !p.library):
		p.string(p.use(t.name, space))
		return
	}
	kind := t.kind
	if p.library && kind == "error" {
		kind = "record"
	}
	p.raw(`{"type":"` + kind + `"`)
	switch t.kind {
	case "array":
		p.raw(`,"items":`)
		p.typ(t.items, space)
	case "map":
		p.raw(`,"values":`)
		p.typ(t.items, space)
	case "record", "error", "enum", "fixed":
		p.definition(t, space)
	}
	p.properties(t.props)
	if isNamed(t.kind) && len(t.aliases) > 0 && !p.library {
		p.raw(`,"aliases":[`)
		for i, a := range t.aliases {
			if i > 0 {
				p.raw(",")
			}
			p.string(p.use(a, t.name.space))
		}
		p.raw("]")
	}
	p.raw("}")
}

// use is how a name is written inside a namespace: simple where it is of that
// namespace, unless it would read as a primitive type.
func (p *printer) use(n name, space string) string {
	if n.space == space && !isPrimitive(n.simple) && !p.library {
		return n.simple
	}
	return n.full()
}

func (p *printer) definition(t *typ, space string) {
	p.seen[t.name.full()] = true
	p.member("name", t.name.simple)
	if t.name.space != space {
		p.member("namespace", t.name.space)
	}
	if t.doc != nil && !p.library {
		p.member("doc", *t.doc)
	}
	switch t.kind {
	case "enum":
		p.raw(`,"symbols":[`)
		for i, s := range t.symbols {
			if i > 0 {
				p.raw(",")
			}
			p.string(s)
		}
		p.raw("]")
		if t.other != nil {
			p.member("default", *t.other)
		}
	case "fixed":
		p.raw(`,"size":` + strconv.Itoa(t.size))
	default:
		p.raw(`,"fields":[`)
		for i, f := range t.fields {
			if i > 0 {
				p.raw(",")
			}
			p.field(f, t.name.space)
		}
		p.raw("]")
	}
}

func (p *printer) field(f field, space string) {
	p.raw(`{"name":`)
	p.string(f.name)
	p.raw(`,"type":`)
	p.typ(f.typ, space)
	if f.doc != nil && !p.library {
		p.member("doc", *f.doc)
	}
	if f.def != nil {
		p.raw(`,"default":`)
		p.json(f.def)
	}
	if !p.library {
		if f.order != "" && f.order != "ascending" {
			p.member("order", f.order)
		}
		if len(f.aliases) > 0 {
			p.raw(`,"aliases":[`)
			for i, a := range f.aliases {
				if i > 0 {
					p.raw(",")
				}
				p.string(a)
			}
			p.raw("]")
		}
		p.properties(f.props)
	}
	p.raw("}")
}

func (p *printer) properties(props []schemas.JSONMember) {
	for _, m := range props {
		p.raw(",")
		p.string(m.Name)
		p.raw(":")
		p.json(m.Value)
	}
}

func (p *printer) json(n *schemas.JSONNode) {
	switch n.Kind {
	case schemas.JSONNull:
		p.raw("null")
	case schemas.JSONBool:
		p.raw(n.Text)
	case schemas.JSONString:
		p.string(n.Text)
	case schemas.JSONNumber:
		p.raw(javaNumber(n.Text))
	case schemas.JSONArray:
		p.raw("[")
		for i, item := range n.Items {
			if i > 0 {
				p.raw(",")
			}
			p.json(item)
		}
		p.raw("]")
	case schemas.JSONObject:
		p.raw("{")
		for i, m := range n.Members {
			if i > 0 {
				p.raw(",")
			}
			p.string(m.Name)
			p.raw(":")
			p.json(m.Value)
		}
		p.raw("}")
	}
}

// javaNumber spells a JSON number as Java's Double.toString does, which the
// canonical form keeps; integers stay as they are, but for -0.
func javaNumber(s string) string {
	if !strings.ContainsAny(s, ".eE") {
		if s == "-0" {
			return "0"
		}
		return s
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil { // beyond the largest double
		if f < 0 {
			return `"-Infinity"`
		}
		return `"Infinity"`
	}
	if abs := math.Abs(f); abs == 0 || abs >= 1e-3 && abs < 1e7 {
		s = strconv.FormatFloat(f, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s
	}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
	if !strings.Contains(mantissa, ".") {
		mantissa += ".0"
	}
	n, _ := strconv.Atoi(exponent)
	return mantissa + "E" + strconv.Itoa(n)
}
