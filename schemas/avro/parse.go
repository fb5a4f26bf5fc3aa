package avro

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"penstock/schemas"
)

// typ is one type of a schema text. A named type is one typ however often it
// is used.
type typ struct {
	kind    string // "null" … "bytes", "record", "error", "enum", "fixed", "array", "map", "union"
	name    name
	doc     *string
	aliases []name
	fields  []field
	symbols []string
	other   *string // an enum's default
	size    int
	items   *typ // array, map
	members []*typ
	props   []schemas.JSONMember
	from    string // the reference that defines it; empty for the text itself
}

type field struct {
	name    string
	typ     *typ
	doc     *string
	def     *schemas.JSONNode
	unfit   bool // def is no value of typ
	order   string
	aliases []string
	props   []schemas.JSONMember
}

// name is the name of a type and its namespace, which may be empty.
type name struct{ simple, space string }

func (n name) full() string {
	if n.space == "" {
		return n.simple
	}
	return n.space + "." + n.simple
}

// named reads a name as the specification has it: a dotted one brings its own
// namespace, any other takes space.
func named(text, space string) name {
	if i := strings.LastIndexByte(text, '.'); i >= 0 {
		return name{text[i+1:], text[:i]}
	}
	return name{text, space}
}

// maxName bounds a full name, which each type in a namespace has in it, in bytes.
const maxName = 1024

// valid reports whether n is a name. Only a strict reader looks at the namespace:
// Java's library looks at it since version 1.12.1, and clients at none.
func (n name) valid(strict bool) bool {
	if len(n.simple)+len(n.space) > maxName || !validName(n.simple) {
		return false
	}
	if n.space == "" || !strict {
		return true
	}
	for part := range strings.SplitSeq(n.space, ".") {
		if !validName(part) {
			return false
		}
	}
	return true
}

// validName reports whether s is a letter or _, and then letters, digits and _,
// of any script, as Java's library has it: none beyond the first 65,536
// characters.
func validName(s string) bool {
	for i, c := range s {
		if c != '_' && (c > 0xffff || !unicode.IsLetter(c)) && (i == 0 || c > 0xffff || !unicode.IsDigit(c)) {
			return false
		}
	}
	return s != ""
}

func isPrimitive(kind string) bool {
	switch kind {
	case "null", "boolean", "int", "long", "float", "double", "string", "bytes":
		return true
	}
	return false
}

func isNamed(kind string) bool {
	switch kind {
	case "record", "error", "enum", "fixed":
		return true
	}
	return false
}

// parser reads a text, and the texts it refers to when it meets their names.
type parser struct {
	types map[string]*typ              // by full name
	texts map[string]*schemas.JSONNode // the references
	home  map[string]string            // full name to the reference that defines it
	state map[string]readingOf         // how far a reference is; "" is the text itself
	from  string                       // the reference being read
	// strict is off for a text that is registered already. References are.
	strict bool

	pending []pending
}

type readingOf uint8

const (
	unread readingOf = iota
	reading
	read
)

// place is where a value stands in a text; nil is the text as a whole. It is made
// for each type, and printed for a complaint, so it lives on the stack: nothing
// may keep one.
type place struct {
	up    *place
	step  string
	index int // of an item; -1 of a member, which step names
}

func (at *place) member(name string) *place { return &place{at, name, -1} }

func (at *place) item(i int) *place { return &place{at, "", i} }

// String is a JSON Pointer.
func (at *place) String() string {
	switch {
	case at == nil:
		return ""
	case at.index >= 0:
		return at.up.String() + "/" + strconv.Itoa(at.index)
	}
	return at.up.String() + "/" + schemas.EscapePointer(at.step)
}

func (p *parser) fail(at *place, format string, args ...any) error {
	return p.failAt(at.String(), format, args...)
}

func (p *parser) failAt(pointer, format string, args ...any) error {
	where := "at " + pointer
	if pointer == "" {
		where = "at the start"
	}
	if p.from != "" {
		where = fmt.Sprintf("in the reference %q, %s", p.from, where)
	}
	return fmt.Errorf("parse Avro schema: %s: %s", where, fmt.Sprintf(format, args...))
}

// parseText reads text and what it needs of refs. Only a strict reader refuses
// defaults that are no values of their types, and namespaces that are no names.
func parseText(text string, refs map[string]string, strict bool) (*typ, error) {
	p := &parser{
		types:  map[string]*typ{},
		texts:  map[string]*schemas.JSONNode{},
		home:   map[string]string{},
		state:  map[string]readingOf{"": reading},
		strict: strict,
	}
	options := schemas.JSONOptions{Comments: true, LastWins: true}
	for _, key := range slices.Sorted(maps.Keys(refs)) {
		n, err := schemas.ReadJSON(refs[key], options)
		if err != nil {
			return nil, fmt.Errorf("parse Avro schema: in the reference %q: %w", key, err)
		}
		p.texts[key] = n
		for _, full := range definitions(n, "", nil) {
			if other, ok := p.home[full]; ok && other != key {
				return nil, fmt.Errorf("parse Avro schema: the type %q is defined in both references %q and %q", full, other, key)
			}
			p.home[full] = key
		}
	}
	n, err := schemas.ReadJSON(text, options)
	if err != nil {
		return nil, fmt.Errorf("parse Avro schema: %w", err)
	}
	t, err := p.typ(n, "", nil)
	if err == nil {
		err = p.defaults()
	}
	return t, err
}

// definitions appends the full names of the types that n defines.
func definitions(n *schemas.JSONNode, space string, names []string) []string {
	if n == nil {
		return names
	}
	for _, item := range n.Items {
		names = definitions(item, space, names)
	}
	kind, ok := text(n.Get("type"))
	if !ok {
		return names
	}
	switch {
	case isNamed(kind):
		full := nameOf(n, space)
		names = append(names, full.full())
		if fields := n.Get("fields"); fields != nil {
			for _, f := range fields.Items {
				names = definitions(f.Get("type"), full.space, names)
			}
		}
	case kind == "array":
		names = definitions(n.Get("items"), space, names)
	case kind == "map":
		names = definitions(n.Get("values"), space, names)
	}
	return names
}

func nameOf(n *schemas.JSONNode, space string) name {
	if own, ok := text(n.Get("namespace")); ok {
		space = own
	}
	simple, _ := text(n.Get("name"))
	return named(simple, space)
}

// text returns the text of a JSON string.
func text(n *schemas.JSONNode) (string, bool) {
	if n == nil || n.Kind != schemas.JSONString {
		return "", false
	}
	return n.Text, true
}

func optional(n *schemas.JSONNode) *string {
	if s, ok := text(n); ok {
		return &s
	}
	return nil
}

func (p *parser) typ(n *schemas.JSONNode, space string, at *place) (*typ, error) {
	if n == nil {
		return nil, p.fail(at, "expected a type, found nothing")
	}
	switch n.Kind {
	case schemas.JSONString:
		if isPrimitive(n.Text) {
			return &typ{kind: n.Text}, nil
		}
		return p.lookup(n.Text, space, at)
	case schemas.JSONArray:
		return p.union(n, space, at)
	case schemas.JSONObject:
		return p.object(n, space, at)
	}
	return nil, p.fail(at, "expected a type (a name, an object or an array), found a JSON %s", n.Kind)
}

func (p *parser) union(n *schemas.JSONNode, space string, at *place) (*typ, error) {
	if len(n.Items) > maxUnionLength {
		return nil, p.fail(at, "expected a union of at most %d branches, found %d", maxUnionLength, len(n.Items))
	}
	t := &typ{kind: "union", members: make([]*typ, 0, len(n.Items))}
	seen := map[string]bool{}
	for i, item := range n.Items {
		at := at.item(i)
		m, err := p.typ(item, space, at)
		if err != nil {
			return nil, err
		}
		branch := m.kind
		if isNamed(branch) {
			branch = m.name.full()
		}
		switch {
		case branch == "union":
			return nil, p.fail(at, "expected a type that is no union, because a union may not directly contain another")
		case seen[branch]:
			return nil, p.fail(at, "the union has two branches of the type %q: a value could not be told to be of one", branch)
		}
		seen[branch] = true
		t.members = append(t.members, m)
	}
	return t, nil
}

// lookup finds a type by name: in the enclosing namespace, else in none, and
// reads the reference that defines it if that was not done yet.
func (p *parser) lookup(used, space string, at *place) (*typ, error) {
	inside := named(used, space)
	for _, n := range []name{inside, named(used, "")} {
		full := n.full()
		t, known := p.types[full]
		key, ok := p.home[full]
		if known {
			key = t.from
		}
		switch {
		case !known && !ok:
			continue
		case key != p.from && p.state[key] == reading:
			return nil, p.fail(at, "the type %q is of a schema that itself refers to this one", full)
		case !known && p.state[key] == unread:
			if err := p.reference(key); err != nil {
				return nil, err
			}
		}
		if t, ok := p.types[full]; ok {
			return t, nil
		}
	}
	if strings.HasSuffix(used, ".") || !inside.valid(p.strict && p.from == "") {
		return nil, p.fail(at, "expected the name of a type, found %q", used)
	}
	return nil, p.fail(at, "there is no type %q: define it before its first use, or name the schema that defines it among the references", inside.full())
}

func (p *parser) reference(key string) error {
	outer := p.from
	p.from, p.state[key] = key, reading
	_, err := p.typ(p.texts[key], "", nil)
	p.from, p.state[key] = outer, read
	return err
}

// reserved names the attributes of a type that are not properties.
func reserved(kind, attribute string) bool {
	switch attribute {
	case "doc", "fields", "items", "name", "namespace", "size", "symbols", "values", "type", "aliases":
		return true
	case "default":
		return kind == "enum"
	}
	return false
}

func reservedInField(attribute string) bool {
	switch attribute {
	case "aliases", "default", "doc", "name", "order", "type":
		return true
	}
	return false
}

func (p *parser) object(n *schemas.JSONNode, space string, at *place) (*typ, error) {
	kind, ok := text(n.Get("type"))
	if !ok {
		return nil, p.fail(at, `expected a "type" that is a string`)
	}
	t := &typ{kind: kind, from: p.from}
	var err error
	switch {
	case isPrimitive(kind):
	case kind == "array":
		t.items, err = p.typ(n.Get("items"), space, at.member("items"))
	case kind == "map":
		t.items, err = p.typ(n.Get("values"), space, at.member("values"))
	case isNamed(kind):
		err = p.define(t, n, space, at)
	default:
		return p.lookup(kind, space, at.member("type"))
	}
	if err != nil {
		return nil, err
	}
	for _, m := range n.Members {
		if reserved(kind, m.Name) {
			continue
		}
		if err := p.property(m.Value, at.member(m.Name)); err != nil {
			return nil, err
		}
		t.props = append(t.props, m)
	}
	return t, nil
}

// property refuses integers that no reader of properties can hold.
func (p *parser) property(n *schemas.JSONNode, at *place) error {
	if n.Kind == schemas.JSONNumber && !strings.ContainsAny(n.Text, ".eE") {
		if _, ok := schemas.AsInt64(json.Number(n.Text)); !ok {
			return p.fail(at, "expected an integer of 64 bits, found %s", n.Text)
		}
	}
	for i, item := range n.Items {
		if err := p.property(item, at.item(i)); err != nil {
			return err
		}
	}
	for _, m := range n.Members {
		if err := p.property(m.Value, at.member(m.Name)); err != nil {
			return err
		}
	}
	return nil
}

// define reads the rest of a named type. Its name is known from here on, for
// the type itself to use.
func (p *parser) define(t *typ, n *schemas.JSONNode, space string, at *place) error {
	if _, ok := text(n.Get("name")); !ok {
		return p.fail(at, `expected a "name" that is a string, because a %s has one`, t.kind)
	}
	t.name = nameOf(n, space)
	full := t.name.full()
	if !t.name.valid(p.strict && p.from == "") || isPrimitive(full) {
		return p.fail(at.member("name"), "expected a name of letters, digits and _, at most %d bytes with its namespace, found %s", maxName, schemas.Describe(full))
	}
	if _, twice := p.types[full]; twice {
		return p.fail(at.member("name"), "the type %q is defined twice", full)
	}
	if key, ok := p.home[full]; ok && key != p.from {
		return p.fail(at.member("name"), "the type %q is defined here and in the reference %q", full, key)
	}
	p.types[full] = t
	t.doc = optional(n.Get("doc"))
	aliases, err := p.aliases(n.Get("aliases"), at)
	if err != nil {
		return err
	}
	known := make(map[name]bool, len(aliases))
	for i, s := range aliases {
		alias := named(s, t.name.space)
		if !alias.valid(p.strict && p.from == "") {
			return p.fail(at.member("aliases").item(i), "expected a name, found %s", schemas.Describe(s))
		}
		if !known[alias] {
			known[alias] = true
			t.aliases = append(t.aliases, alias)
		}
	}
	switch t.kind {
	case "enum":
		return p.enum(t, n, at)
	case "fixed":
		size := n.Get("size")
		if size != nil && size.Kind == schemas.JSONNumber {
			if v, ok := schemas.AsInt64(json.Number(size.Text)); ok && v >= 0 && v <= 1<<30 {
				t.size = int(v)
				return nil
			}
		}
		return p.fail(at.member("size"), "expected a number of bytes, found %s", found(size))
	}
	return p.record(t, n, at)
}

// aliases reads an array of strings, each of which counts once. The aliases of
// a field may be any text, as in other readers of Avro.
func (p *parser) aliases(n *schemas.JSONNode, at *place) ([]string, error) {
	if n == nil {
		return nil, nil
	}
	if n.Kind != schemas.JSONArray {
		return nil, p.fail(at.member("aliases"), "expected an array of names, found %s", found(n))
	}
	var out []string
	seen := make(map[string]bool, len(n.Items))
	for i, item := range n.Items {
		s, ok := text(item)
		if !ok {
			return nil, p.fail(at.member("aliases").item(i), "expected a name, found %s", found(item))
		}
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out, nil
}

func (p *parser) enum(t *typ, n *schemas.JSONNode, at *place) error {
	symbols := n.Get("symbols")
	if symbols == nil || symbols.Kind != schemas.JSONArray {
		return p.fail(at.member("symbols"), "expected an array of symbols, found %s", found(symbols))
	}
	seen := map[string]bool{}
	for i, item := range symbols.Items {
		s, ok := text(item)
		if !ok || !validName(s) {
			return p.fail(at.member("symbols").item(i), "expected a symbol of letters, digits and _, found %s", found(item))
		}
		if seen[s] {
			return p.fail(at.member("symbols").item(i), "the symbol %q stands twice", s)
		}
		seen[s] = true
		t.symbols = append(t.symbols, s)
	}
	if d := n.Get("default"); d != nil && d.Kind != schemas.JSONNull {
		t.other = optional(d)
		if t.other == nil || !seen[*t.other] {
			return p.fail(at.member("default"), "expected one of the symbols, found %s", found(d))
		}
	}
	return nil
}

func (p *parser) record(t *typ, n *schemas.JSONNode, at *place) error {
	fields := n.Get("fields")
	if fields == nil || fields.Kind != schemas.JSONArray {
		return p.fail(at.member("fields"), "expected an array of fields, found %s", found(fields))
	}
	list, within := at.member("fields"), ""
	t.fields = make([]field, 0, len(fields.Items))
	seen := make(map[string]bool, len(fields.Items))
	for i, item := range fields.Items {
		at := list.item(i)
		s, ok := text(item.Get("name"))
		if !ok || !validName(s) {
			return p.fail(at.member("name"), "expected a name of letters, digits and _, found %s", found(item.Get("name")))
		}
		if seen[s] {
			return p.fail(at.member("name"), "the field %q stands twice", s)
		}
		seen[s] = true
		f := field{name: s, doc: optional(item.Get("doc")), def: item.Get("default")}
		var err error
		if f.typ, err = p.typ(item.Get("type"), t.name.space, at.member("type")); err != nil {
			return err
		}
		if f.def != nil {
			if within == "" {
				within = list.String()
			}
			p.pending = append(p.pending, pending{f.typ, f.def, t, i, p.from, within})
		}
		if o := item.Get("order"); o != nil {
			f.order, _ = text(o)
			f.order = strings.ToLower(f.order)
			if !slices.Contains([]string{"ascending", "descending", "ignore"}, f.order) {
				return p.fail(at.member("order"), `expected "ascending", "descending" or "ignore", found %s`, found(o))
			}
		}
		if f.aliases, err = p.aliases(item.Get("aliases"), at); err != nil {
			return err
		}
		for _, m := range item.Members {
			if reservedInField(m.Name) {
				continue
			}
			if err := p.property(m.Value, at.member(m.Name)); err != nil {
				return err
			}
			f.props = append(f.props, m)
		}
		t.fields = append(t.fields, f)
	}
	return nil
}

// found describes what stands where something else was expected.
func found(n *schemas.JSONNode) string {
	if n == nil {
		return "nothing"
	}
	switch n.Kind {
	case schemas.JSONString:
		return schemas.Describe(n.Text)
	case schemas.JSONNumber:
		return schemas.Describe(json.Number(n.Text))
	case schemas.JSONNull:
		return "null"
	}
	return "a JSON " + n.Kind.String()
}
