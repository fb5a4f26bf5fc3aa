package compat

import (
	"crypto/sha256"
	"encoding/binary"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"penstock/schemas"
)

// jsonSource is a JSON Schema that gives out its text, and those it refers to,
// and keeps what was made of them.
type jsonSource interface {
	Document() (text *schemas.JSONNode, base string)
	Reference(address string) *schemas.JSONNode
	Pattern(text string) (match func(string) (bool, error), err error)
	Keep(build func() any) any
}

// jsonKind is what sort of schema a node is. The rules compare nodes of one
// kind; a schema that says things of several kinds is a jsonCombined of them.
type jsonKind uint8

const (
	jsonEmpty jsonKind = iota // says nothing
	jsonTrue
	jsonFalse
	jsonString
	jsonNumber
	jsonBoolean
	jsonNull
	jsonObject
	jsonArray
	jsonEnum
	jsonConst
	jsonCombined
	jsonNot
	jsonConditional
	jsonReference // to another node, or to what is not among the texts
)

func (k jsonKind) String() string {
	return [...]string{"anything", "anything", "nothing", "a string", "a number", "a boolean", "null", "an object", "an array",
		"an enum", "a constant", "a combination", "a negation", "a condition", "a schema from elsewhere"}[k]
}

// jsonNode is one node of a schema as the rules see it. It does not change once
// it is built.
type jsonNode struct {
	kind    jsonKind
	part    bool                 // of a combination that the text does not write as one
	words   []schemas.JSONMember // the keywords that the rules know
	integer bool                 // jsonNumber

	object *jsonProperties // jsonObject
	array  *jsonItems      // jsonArray

	criterion string // jsonCombined: allOf, anyOf or oneOf
	members   []*jsonNode
	different []*jsonNode // members without those of equal text

	inner *jsonNode // jsonNot

	print  [sha256.Size]byte // equal for equal texts
	refers bool              // the text has references
	where  jsonPlace
	home   *jsonBuilder

	ref    string    // jsonReference
	target *jsonNode // what it leads to, or nil if that is not known
}

// same reports that two nodes say the same, by their texts alone.
func (n *jsonNode) same(other *jsonNode) bool {
	return n.print == other.print && n.where.draft == other.where.draft && !n.refers && !other.refers
}

// word returns a keyword's value, or nil.
func (n *jsonNode) word(name string) *schemas.JSONNode {
	for i := range n.words {
		if n.words[i].Name == name {
			return n.words[i].Value
		}
	}
	return nil
}

// key is the digest of a value in n's texts, nil included: equal keys are equal
// values.
func (n *jsonNode) key(v *schemas.JSONNode) [sha256.Size]byte {
	if v == nil {
		return [sha256.Size]byte{}
	}
	return n.home.digest(v).sum
}

// number returns a keyword's value if it is a number.
func (n *jsonNode) number(name string) *big.Rat { return ratOf(n.word(name)) }

func ratOf(v *schemas.JSONNode) *big.Rat {
	if v == nil || v.Kind != schemas.JSONNumber {
		return nil
	}
	r, ok := new(big.Rat).SetString(v.Text)
	if !ok {
		return nil
	}
	return r
}

// jsonProperties is what a node says about objects.
type jsonProperties struct {
	names        []string // in the order of the text
	nodes        map[string]*jsonNode
	required     map[string]bool
	patterns     []jsonPattern
	additional   jsonRest
	unevaluated  jsonRest
	lists        []jsonList       // dependencies on names
	dependencies []jsonDependency // dependencies on schemas
}

type jsonPattern struct {
	name  string
	match func(string) (bool, error)
	node  *jsonNode
}

type jsonList struct {
	key   string
	names map[string]bool
}

type jsonDependency struct {
	key  string
	node *jsonNode
}

// jsonItems is what a node says about arrays.
type jsonItems struct {
	all         *jsonNode // one schema for every item
	positions   []*jsonNode
	additional  jsonRest // behind the positions
	unevaluated jsonRest
	contains    bool // asks for an item of a sort by contains alone
}

// jsonRest is what a schema says about the fields or items that it does not
// name: at most one of the three is set.
type jsonRest struct {
	allowed, forbidden bool
	node               *jsonNode
	keyword            string // under which the text has it
}

// open reports that anything may follow, by the words of additional... and
// unevaluated... .
func open(additional, unevaluated jsonRest) bool {
	return !additional.forbidden && additional.node == nil && !unevaluated.forbidden &&
		(unevaluated.node == nil || unevaluated.node.kind == jsonEmpty)
}

// beyond returns the schema of what may follow and the keyword that it stands
// under, or nil.
func beyond(additional, unevaluated jsonRest) (*jsonNode, string) {
	switch {
	case additional.node != nil:
		return additional.node, additional.keyword
	case !additional.forbidden && unevaluated.node != nil:
		return unevaluated.node, unevaluated.keyword
	}
	return nil, ""
}

func (p *jsonProperties) open() bool {
	return len(p.patterns) == 0 && open(p.additional, p.unevaluated)
}

// jsonPlace is a schema within the texts: its draft and the URL that its
// references begin from are those of what it lies in.
type jsonPlace struct {
	text  *schemas.JSONNode
	base  string
	draft int
}

// jsonBuilder makes the nodes of one schema and of what it refers to. Each
// place of the texts is one node, but for the root, which a reference to it
// makes a second time: registries in use tell the two apart.
type jsonBuilder struct {
	source jsonSource
	draft  int                  // of the schema itself
	places map[string]jsonPlace // by URL: documents, what has an $id, and anchors
	nodes  map[*schemas.JSONNode]*jsonNode
	prints map[*schemas.JSONNode]jsonPrint
	refs   []*jsonNode // the references among the nodes
	names  map[*schemas.JSONNode]map[string]*schemas.JSONNode
}

// jsonPrint is the digest of a text, and whether that has references.
type jsonPrint struct {
	sum    [sha256.Size]byte
	refers bool
}

// jsonForm returns the root of a schema's nodes. They are made when they are
// first asked for, and kept with the schema.
func jsonForm(s jsonSource) *jsonNode {
	return s.Keep(func() any { return buildJSON(s) }).(*jsonNode)
}

// buildJSON makes the nodes of a schema, and of all that it refers to, and
// returns its root.
func buildJSON(s jsonSource) *jsonNode {
	text, base := s.Document()
	b := &jsonBuilder{
		source: s, draft: draftOf(text, 7), places: map[string]jsonPlace{},
		nodes: map[*schemas.JSONNode]*jsonNode{}, prints: map[*schemas.JSONNode]jsonPrint{},
		names: map[*schemas.JSONNode]map[string]*schemas.JSONNode{},
	}
	place := jsonPlace{text, base, b.draft}
	b.scan(base, place)
	root := b.build(place)
	for i := 0; i < len(b.refs); i++ {
		if to, ok := b.find(b.refs[i].where, b.refs[i].ref); ok {
			b.refs[i].target = b.node(to)
		}
	}
	return root
}

// draftOf returns the draft that $schema names, 2019 and 2020 for the newest.
func draftOf(text *schemas.JSONNode, otherwise int) int {
	name := textOf(text.Get("$schema"))
	name = strings.TrimSuffix(name, "#")
	_, name, _ = strings.Cut(name, "://")
	switch name {
	case "json-schema.org/draft-04/schema", "json-schema.org/schema":
		return 4
	case "json-schema.org/draft-06/schema":
		return 6
	case "json-schema.org/draft-07/schema":
		return 7
	case "json-schema.org/draft/2019-09/schema":
		return 2019
	case "json-schema.org/draft/2020-12/schema":
		return 2020
	}
	return otherwise
}

func textOf(n *schemas.JSONNode) string {
	if n == nil || n.Kind != schemas.JSONString {
		return ""
	}
	return n.Text
}

// scan notes what a document can be referred to by.
func (b *jsonBuilder) scan(address string, p jsonPlace) {
	b.places[address] = p
	var walk func(p jsonPlace)
	walk = func(p jsonPlace) {
		if p.text.Kind == schemas.JSONObject {
			id := textOf(p.text.Get(p.idWord()))
			p = p.entered()
			switch {
			case strings.HasPrefix(id, "#"):
				b.places[p.base+id] = p
			case id != "":
				b.places[p.base] = p
			}
			for _, word := range []string{"$anchor", "$dynamicAnchor"} {
				if anchor := textOf(p.text.Get(word)); anchor != "" {
					b.places[p.base+"#"+anchor] = p
				}
			}
		}
		for _, m := range p.text.Members {
			if m.Name != "enum" && m.Name != "const" && m.Name != "default" && m.Name != "examples" {
				walk(jsonPlace{m.Value, p.base, p.draft})
			}
		}
		for _, item := range p.text.Items {
			walk(jsonPlace{item, p.base, p.draft})
		}
	}
	walk(p)
}

func (p jsonPlace) idWord() string {
	if p.draft == 4 {
		return "id"
	}
	return "$id"
}

// entered returns p with the base that holds within it.
func (p jsonPlace) entered() jsonPlace {
	if id := textOf(p.text.Get(p.idWord())); id != "" && !strings.HasPrefix(id, "#") {
		address, _, _ := strings.Cut(absolute(p.base, id), "#")
		p.base = address
	}
	return p
}

func absolute(base, ref string) string {
	b, err1 := url.Parse(base)
	r, err2 := url.Parse(ref)
	if err1 != nil || err2 != nil {
		return ref
	}
	return b.ResolveReference(r).String()
}

func (p jsonPlace) below(text *schemas.JSONNode) jsonPlace {
	return jsonPlace{text, p.base, p.draft}
}

// find returns the place that a reference leads to.
func (b *jsonBuilder) find(p jsonPlace, ref string) (jsonPlace, bool) {
	address, fragment, _ := strings.Cut(absolute(p.base, ref), "#")
	top, ok := b.places[address]
	if !ok {
		text := b.source.Reference(address)
		if text == nil {
			return jsonPlace{}, false
		}
		top = jsonPlace{text, address, draftOf(text, b.draft)}
		b.scan(address, top)
	}
	if fragment != "" && !strings.HasPrefix(fragment, "/") {
		at, ok := b.places[top.entered().base+"#"+fragment]
		return at, ok
	}
	if decoded, err := url.PathUnescape(fragment); err == nil {
		fragment = decoded
	}
	for i, token := range strings.Split(fragment, "/") {
		if i == 0 {
			continue
		}
		next := b.step(top.text, unescape(token))
		if next == nil {
			return jsonPlace{}, false
		}
		if top.text.Kind == schemas.JSONObject {
			top = top.entered()
		}
		top = top.below(next)
	}
	return top, true
}

// unescape returns the name that a token of a JSON Pointer stands for.
func unescape(token string) string {
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
}

// step is as the function; of a large object it remembers where the members are,
// since references often lead to many of one.
func (b *jsonBuilder) step(text *schemas.JSONNode, name string) *schemas.JSONNode {
	if len(text.Members) < 16 {
		return step(text, name)
	}
	if b.names[text] == nil {
		b.names[text] = make(map[string]*schemas.JSONNode, len(text.Members))
		for _, m := range text.Members {
			b.names[text][m.Name] = m.Value
		}
	}
	return b.names[text][name]
}

// step returns the member or item of that name, or nil.
func step(text *schemas.JSONNode, name string) *schemas.JSONNode {
	if text.Kind != schemas.JSONArray {
		return text.Get(name)
	}
	i, err := strconv.Atoi(name)
	if err != nil || i < 0 || i >= len(text.Items) {
		return nil
	}
	return text.Items[i]
}

// resolve follows references. Where they lead in a circle, or to nothing that
// is known, it returns a jsonReference.
func (n *jsonNode) resolve() *jsonNode {
	const most = 100
	at := n
	for range most {
		if at.target == nil {
			return at
		}
		at = at.target
	}
	return n
}

// node returns the node at a place.
func (b *jsonBuilder) node(p jsonPlace) *jsonNode {
	if n := b.nodes[p.text]; n != nil {
		return n
	}
	n := b.build(p)
	b.nodes[p.text] = n
	return n
}

func (b *jsonBuilder) build(p jsonPlace) *jsonNode {
	switch {
	case p.text.Kind == schemas.JSONBool && p.text.Text == "true":
		return b.printed(&jsonNode{kind: jsonTrue}, p, "")
	case p.text.Kind == schemas.JSONBool:
		return b.printed(&jsonNode{kind: jsonFalse}, p, "")
	case p.text.Kind != schemas.JSONObject:
		return b.printed(&jsonNode{}, p, "")
	}
	p = p.entered()
	words := b.words(p)
	parts := b.parts(p, words)
	switch len(parts) {
	case 0:
		return b.printed(&jsonNode{words: words}, p, "")
	case 1:
		parts[0].part = false
		return parts[0]
	}
	return b.combine("allOf", parts, &jsonNode{words: words}, p)
}

// printed gives n its print: that of its text and of what part of it n is.
func (b *jsonBuilder) printed(n *jsonNode, p jsonPlace, part string) *jsonNode {
	text := b.digest(p.text)
	n.print = sha256.Sum256(append(append(text.sum[:], byte(n.kind)), part...))
	n.home, n.where, n.refers = b, p, text.refers
	return n
}

// digest has an equal sum for equal values: the order of members and the
// spelling of numbers do not count.
func (b *jsonBuilder) digest(t *schemas.JSONNode) jsonPrint {
	if d, ok := b.prints[t]; ok {
		return d
	}
	var p jsonPrint
	data := []byte{byte(t.Kind)}
	if t.Kind == schemas.JSONNumber {
		data = appendNumber(data, t.Text)
	} else {
		data = append(data, t.Text...)
	}
	for _, item := range t.Items {
		d := b.digest(item)
		data = append(data, d.sum[:]...)
		p.refers = p.refers || d.refers
	}
	for _, m := range sortedMembers(t) {
		d := b.digest(m.Value)
		data = binary.AppendUvarint(data, uint64(len(m.Name)))
		data = append(data, m.Name...)
		data = append(data, d.sum[:]...)
		p.refers = p.refers || d.refers || slices.Contains(jsonReferring[:], m.Name)
	}
	p.sum = sha256.Sum256(data)
	b.prints[t] = p
	return p
}

// appendNumber appends a number such that equal numbers are equal: as digits
// that neither begin nor end with 0, and the exponent of 10.
func appendNumber(dst []byte, text string) []byte {
	text, negative := strings.CutPrefix(text, "-")
	digits, after, _ := strings.Cut(strings.ToLower(text), "e")
	exponent, _ := strconv.Atoi(after)
	whole, fraction, _ := strings.Cut(digits, ".")
	digits = strings.TrimLeft(whole+fraction, "0")
	significant := strings.TrimRight(digits, "0")
	if significant == "" {
		return append(dst, '0')
	}
	if negative {
		dst = append(dst, '-')
	}
	exponent += len(digits) - len(significant) - len(fraction)
	return strconv.AppendInt(append(append(dst, significant...), 'e'), int64(exponent), 10)
}

// jsonReferring are the keywords that refer to another schema.
var jsonReferring = [...]string{"$ref", "$dynamicRef", "$recursiveRef"}

func sortedMembers(t *schemas.JSONNode) []schemas.JSONMember {
	return slices.SortedFunc(slices.Values(t.Members), func(a, b schemas.JSONMember) int {
		return strings.Compare(a.Name, b.Name)
	})
}

// jsonSniffed says which keywords, in which drafts and later, make a schema
// without a type one of a kind, in the order in which the parts of several
// kinds stand.
var jsonSniffed = [...]struct {
	kind  jsonKind
	words map[string]int
}{
	{jsonArray, map[string]int{
		"items": 4, "additionalItems": 4, "minItems": 4, "maxItems": 4, "uniqueItems": 4, "contains": 6,
		"prefixItems": 2019, "unevaluatedItems": 2019, "minContains": 2019, "maxContains": 2019,
	}},
	{jsonObject, map[string]int{
		"properties": 4, "required": 4, "minProperties": 4, "maxProperties": 4, "dependencies": 4, "patternProperties": 4,
		"additionalProperties": 4, "propertyNames": 6, "dependentRequired": 2019, "dependentSchemas": 2019, "unevaluatedProperties": 2019,
	}},
	{jsonNumber, map[string]int{"minimum": 4, "maximum": 4, "exclusiveMinimum": 4, "exclusiveMaximum": 4, "multipleOf": 4}},
	{jsonString, map[string]int{"minLength": 4, "maxLength": 4, "pattern": 4, "format": 4}},
}

// jsonOther are the other keywords that the rules know, and the draft that
// brought them.
var jsonOther = map[string]int{
	"$ref": 4, "id": 4, "$id": 6, "title": 4, "description": 4, "default": 4, "connect.type": 4, "type": 4,
	"enum": 4, "const": 6, "allOf": 4, "anyOf": 4, "oneOf": 4, "not": 4, "if": 7,
	"$dynamicRef": 2020, "$recursiveRef": 2019, "minContains": 4, "maxContains": 4,
}

// words returns the keywords of a place that the rules know.
func (b *jsonBuilder) words(p jsonPlace) []schemas.JSONMember {
	var words []schemas.JSONMember
	for _, m := range p.text.Members {
		if since, ok := jsonOther[m.Name]; ok {
			if since <= p.draft && (m.Name != "id" || p.draft == 4) {
				words = append(words, m)
			}
			continue
		}
		for _, s := range jsonSniffed {
			if since := s.words[m.Name]; since > 0 && since <= p.draft && (m.Name != "dependencies" || p.draft < 2019) {
				words = append(words, m)
				break
			}
		}
	}
	return words
}

// parts returns what the schema at a place says, a node for each sort of it.
func (b *jsonBuilder) parts(p jsonPlace, words []schemas.JSONMember) []*jsonNode {
	said := &jsonNode{words: words}
	old := p.draft <= 7
	ref := b.reference(p, said)
	if ref != nil && old {
		return []*jsonNode{ref}
	}
	add := func(parts []*jsonNode, n *jsonNode) []*jsonNode {
		if n == nil {
			return parts
		}
		n.words, n.part = words, true
		return append(parts, n)
	}
	var parts []*jsonNode
	if ref != nil {
		parts = append(parts, ref)
	}
	typed := b.typed(p, said)
	if !old {
		for _, n := range typed {
			parts = add(parts, n)
		}
	}
	if values := said.word("enum"); values != nil && values.Kind == schemas.JSONArray {
		parts = add(parts, b.printed(&jsonNode{kind: jsonEnum}, p, ""))
	}
	for _, criterion := range []string{"allOf", "anyOf", "oneOf"} {
		if list := said.word(criterion); list != nil && list.Kind == schemas.JSONArray && len(list.Items) > 0 {
			members := make([]*jsonNode, len(list.Items))
			for i, item := range list.Items {
				members[i] = b.node(p.below(item))
			}
			parts = add(parts, b.combine(criterion, members, &jsonNode{}, p))
		}
	}
	if inner := said.word("not"); inner != nil {
		parts = add(parts, b.printed(&jsonNode{kind: jsonNot, inner: b.node(p.below(inner))}, p, ""))
	}
	if said.word("const") != nil {
		parts = add(parts, b.printed(&jsonNode{kind: jsonConst}, p, ""))
	}
	if old {
		for _, n := range typed {
			parts = add(parts, n)
		}
	}
	if said.word("if") != nil {
		parts = add(parts, b.printed(&jsonNode{kind: jsonConditional}, p, ""))
	}
	return parts
}

func (b *jsonBuilder) reference(p jsonPlace, said *jsonNode) *jsonNode {
	for _, word := range jsonReferring {
		if v := said.word(word); v != nil && v.Kind == schemas.JSONString {
			n := b.printed(&jsonNode{kind: jsonReference, ref: v.Text, words: said.words}, p, "")
			b.refs = append(b.refs, n)
			return n
		}
	}
	return nil
}

func (b *jsonBuilder) combine(criterion string, members []*jsonNode, n *jsonNode, p jsonPlace) *jsonNode {
	n.kind, n.criterion, n.members = jsonCombined, criterion, members
	seen := make(map[[sha256.Size]byte]bool, len(members))
	for _, m := range members {
		if !seen[m.print] {
			seen[m.print] = true
			n.different = append(n.different, m)
		}
	}
	return b.printed(n, p, criterion)
}

// typed returns the parts that the type, or what is said of one type alone,
// makes.
func (b *jsonBuilder) typed(p jsonPlace, said *jsonNode) []*jsonNode {
	written := said.word("type")
	if written == nil {
		var parts []*jsonNode
		for _, s := range jsonSniffed {
			if slices.ContainsFunc(said.words, func(m schemas.JSONMember) bool {
				since := s.words[m.Name]
				return since > 0 && since <= p.draft
			}) {
				parts = append(parts, b.typedAs(s.kind, "", p, said))
			}
		}
		return parts
	}
	names := []*schemas.JSONNode{written}
	if written.Kind == schemas.JSONArray {
		names = written.Items
	}
	var members []*jsonNode
	for _, name := range names {
		if kind, ok := kindOf(textOf(name)); ok {
			n := b.typedAs(kind, textOf(name), p, said)
			n.words, n.part = said.words, true
			members = append(members, n)
		}
	}
	if len(members) <= 1 {
		return members
	}
	return []*jsonNode{b.combine("anyOf", members, &jsonNode{}, p)}
}

func kindOf(name string) (jsonKind, bool) {
	switch name {
	case "string":
		return jsonString, true
	case "number", "integer":
		return jsonNumber, true
	case "boolean":
		return jsonBoolean, true
	case "null":
		return jsonNull, true
	case "object":
		return jsonObject, true
	case "array":
		return jsonArray, true
	}
	return 0, false
}

func (b *jsonBuilder) typedAs(kind jsonKind, name string, p jsonPlace, said *jsonNode) *jsonNode {
	n := &jsonNode{kind: kind, integer: name == "integer"}
	switch kind {
	case jsonObject:
		n.object = b.properties(p, said)
	case jsonArray:
		n.array = b.items(p, said)
	}
	return b.printed(n, p, name)
}

func (b *jsonBuilder) rest(p jsonPlace, said *jsonNode, keyword string) jsonRest {
	v := said.word(keyword)
	switch {
	case v == nil:
		return jsonRest{}
	case v.Kind == schemas.JSONBool && v.Text == "true":
		return jsonRest{allowed: true, keyword: keyword}
	case v.Kind == schemas.JSONBool:
		return jsonRest{forbidden: true, keyword: keyword}
	}
	return jsonRest{node: b.node(p.below(v)), keyword: keyword}
}

func (b *jsonBuilder) properties(p jsonPlace, said *jsonNode) *jsonProperties {
	members := func(keyword string) []schemas.JSONMember {
		if v := said.word(keyword); v != nil {
			return v.Members
		}
		return nil
	}
	o := &jsonProperties{
		nodes: map[string]*jsonNode{}, required: map[string]bool{},
		additional: b.rest(p, said, "additionalProperties"), unevaluated: b.rest(p, said, "unevaluatedProperties"),
	}
	for _, m := range members("properties") {
		o.names = append(o.names, m.Name)
		o.nodes[m.Name] = b.node(p.below(m.Value))
	}
	if required := said.word("required"); required != nil {
		for _, name := range required.Items {
			o.required[textOf(name)] = true
		}
	}
	for _, m := range members("patternProperties") {
		match, err := b.source.Pattern(m.Name)
		if err != nil {
			match = func(string) (bool, error) { return false, err }
		}
		o.patterns = append(o.patterns, jsonPattern{m.Name, match, b.node(p.below(m.Value))})
	}
	for _, keyword := range []string{"dependencies", "dependentRequired", "dependentSchemas"} {
		for _, m := range members(keyword) {
			if m.Value.Kind != schemas.JSONArray {
				o.dependencies = append(o.dependencies, jsonDependency{m.Name, b.node(p.below(m.Value))})
				continue
			}
			list := jsonList{m.Name, map[string]bool{}}
			for _, name := range m.Value.Items {
				list.names[textOf(name)] = true
			}
			o.lists = append(o.lists, list)
		}
	}
	return o
}

func (b *jsonBuilder) items(p jsonPlace, said *jsonNode) *jsonItems {
	a := &jsonItems{additional: b.rest(p, said, "additionalItems"), unevaluated: b.rest(p, said, "unevaluatedItems")}
	a.contains = p.draft >= 2019 && said.word("contains") != nil
	positions := said.word("prefixItems")
	items := said.word("items")
	switch {
	case positions != nil:
		a.additional = b.rest(p, said, "items")
	case items != nil && items.Kind == schemas.JSONArray:
		positions = items
	case p.draft >= 2019 && items != nil && items.Kind == schemas.JSONBool && items.Text == "false":
		a.additional = b.rest(p, said, "items")
	case items != nil:
		a.all = b.node(p.below(items))
	}
	if positions != nil {
		for _, item := range positions.Items {
			a.positions = append(a.positions, b.node(p.below(item)))
		}
	}
	return a
}
