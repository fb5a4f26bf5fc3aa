package avro

import (
	"errors"
	"slices"
	"strconv"

	"penstock/schemas"
)

// form is one way to write a type.
type form struct {
	// resolved defines the types of references at their first use, where the
	// others write their names.
	resolved bool
	// sorted orders what has no order: properties, aliases, objects.
	sorted bool
	// normal also writes what is said in several ways in one: see Normalized.
	normal bool
	// library writes what the encoder reads: full names, and nothing that does
	// not bear on the encoding.
	library bool
}

// The forms of a type. The canonical one, which has no space and keeps
// everything but comments and the spelling of numbers, is not the
// specification's Parsing Canonical Form, which drops what compatibility
// depends on.
var (
	canonicalForm = form{}
	resolvedForm  = form{resolved: true}
	normalForm    = form{sorted: true, normal: true}
	libraryForm   = form{resolved: true, library: true}
	// sameForm is one text for all that a registry takes for the same.
	sameForm = form{resolved: true, sorted: true}
)

// printer writes a type as JSON in one form. The order of what it writes is
// that of Java's library for Avro.
type printer struct {
	form
	out  []byte
	seen map[string]bool // full names that were defined
	fits fitter
}

func (t *typ) print(f form) ([]byte, error) {
	p := printer{form: f, seen: map[string]bool{}, fits: newFitter()}
	p.typ(t, "")
	if p.fits.steps < 0 {
		return nil, errors.New("normalise Avro schema: there are too many ways to read its defaults")
	}
	return p.out, nil
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
	case isNamed(t.kind) && (p.seen[t.name.full()] || t.from != "" && !p.resolved):
		p.string(p.use(t.name, space))
		return
	}
	kind := t.kind
	if (p.library || p.sorted) && kind == "error" {
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
	p.typeProperties(t)
	if !p.library {
		aliases := t.aliases
		if p.sorted {
			aliases = slices.SortedFunc(slices.Values(aliases), func(a, b name) int { return schemas.CompareUTF16(a.full(), b.full()) })
		}
		written := make([]string, len(aliases))
		for i, a := range aliases {
			written[i] = p.use(a, t.name.space)
		}
		p.list("aliases", written)
	}
	p.raw("}")
}

// list writes a member of texts, if there are any.
func (p *printer) list(member string, texts []string) {
	if len(texts) == 0 {
		return
	}
	p.raw(`,"` + member + `":[`)
	for i, s := range texts {
		if i > 0 {
			p.raw(",")
		}
		p.string(s)
	}
	p.raw("]")
}

// use is how a name is written inside a namespace: simple where it is of that
// namespace, unless it would read as another type.
func (p *printer) use(n name, space string) string {
	if n.space == space && !isType(n.simple) && !p.library {
		return n.simple
	}
	return n.full()
}

// isType reports whether a name is one that Java's library has for a type.
func isType(name string) bool {
	switch name {
	case "record", "enum", "fixed", "array", "map", "union":
		return true
	}
	return isPrimitive(name)
}

func (p *printer) definition(t *typ, space string) {
	p.seen[t.name.full()] = true
	p.member("name", t.name.simple)
	if t.name.space != space {
		p.member("namespace", t.name.space)
	}
	if t.doc != nil && !p.library && (*t.doc != "" || !p.normal) {
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
	def := f.def
	switch {
	case def == nil:
	case f.unfit && p.library:
		def = nil
	case p.normal && !f.unfit:
		def = p.fits.fit(f.typ, def, 0)
	}
	if def != nil {
		p.raw(`,"default":`)
		p.json(def)
	}
	if !p.library {
		if f.order != "" && f.order != "ascending" {
			p.member("order", f.order)
		}
		aliases := f.aliases
		if p.sorted {
			aliases = slices.SortedFunc(slices.Values(aliases), schemas.CompareUTF16)
		}
		p.list("aliases", aliases)
		p.properties(f.props)
	}
	p.raw("}")
}

// typeProperties writes what a type has besides its attributes.
func (p *printer) typeProperties(t *typ) {
	logical := t.logical()
	switch {
	case p.library && (logical == nil || logical.precision > maxPrecision):
	case p.library:
		p.member("logicalType", logical.name)
		if logical.name == "decimal" {
			p.raw(`,"precision":` + strconv.Itoa(logical.precision) + `,"scale":` + strconv.Itoa(logical.scale))
		}
	case p.normal && logical != nil && logical.name != "duration": // which Java does not know
		// Those that make the logical type come first, in the order of names:
		// logicalType, precision, scale.
		own := func(m schemas.JSONMember) bool {
			return m.Name == "logicalType" || logical.name == "decimal" && (m.Name == "precision" || m.Name == "scale" && logical.scale > 0)
		}
		first, rest := []schemas.JSONMember{}, []schemas.JSONMember{}
		for _, m := range t.props {
			if own(m) {
				first = append(first, m)
			} else {
				rest = append(rest, m)
			}
		}
		p.properties(first)
		p.properties(rest)
	default:
		p.properties(t.props)
	}
}

func (p *printer) properties(props []schemas.JSONMember) {
	for _, m := range p.order(props) {
		p.raw(",")
		p.string(m.Name)
		p.raw(":")
		p.json(m.Value)
	}
}

// order returns members as the form orders them.
func (p *printer) order(members []schemas.JSONMember) []schemas.JSONMember {
	if !p.sorted {
		return members
	}
	return slices.SortedFunc(slices.Values(members), func(a, b schemas.JSONMember) int { return schemas.CompareUTF16(a.Name, b.Name) })
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
		for i, m := range p.order(n.Members) {
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
