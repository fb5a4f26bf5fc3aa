package diffing

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"penstock/schemas"
)

// maxDepth is how deep a text may nest: what schemas.AppendJSON writes at most.
const maxDepth = 500

// node is one value of a JSON text. The nodes of a text lie in its order, each
// before those below it.
type node struct {
	raw  []byte // the value as it is spelled
	name []byte // of a member, without quotes and escapes
	kind byte   // n, t, f, 0 (a number), ", [ or {
	next int32  // the node after this one and all below it
	n    int32  // members or items
	// order is where in text.order the members are listed by name; -1 if they
	// stand in that order.
	order int32
}

// text is a JSON text, taken apart. It is used again for the next one.
type text struct {
	src   []byte
	pos   int
	nodes []node
	order []int32
}

// read takes src apart, which must not change while the text is in use. It
// refuses what schemas.ParseJSON refuses, but for its limits on numbers.
func (t *text) read(src []byte) error {
	t.src, t.pos, t.nodes, t.order = src, 0, t.nodes[:0], t.order[:0]
	t.space()
	if err := t.value(nil, 0); err != nil {
		return err
	}
	if t.space(); t.pos < len(src) {
		return t.fail("nothing after the value")
	}
	return nil
}

func (t *text) fail(expected string) error {
	found := "the end"
	if t.pos < len(t.src) {
		found = fmt.Sprintf("%.10q", t.src[t.pos:])
	}
	return &schemas.JSONError{Offset: t.pos, Expected: expected, Found: found}
}

func (t *text) space() {
	for t.pos < len(t.src) {
		switch t.src[t.pos] {
		case ' ', '\t', '\n', '\r':
			t.pos++
		default:
			return
		}
	}
}

// is steps over c, if it is next.
func (t *text) is(c byte) bool {
	if t.pos < len(t.src) && t.src[t.pos] == c {
		t.pos++
		return true
	}
	return false
}

func (t *text) value(name []byte, depth int) error {
	if depth > maxDepth {
		return t.fail(fmt.Sprintf("at most %d levels", maxDepth))
	}
	at, start := len(t.nodes), t.pos
	t.nodes = append(t.nodes, node{name: name, order: -1})
	var kind byte
	var n int32
	var err error
	switch {
	case t.is('{'):
		kind = '{'
		n, err = t.members(at, depth)
	case t.is('['):
		kind = '['
		n, err = t.items(depth)
	case t.is('"'):
		kind = '"'
		_, err = t.str()
	case t.word("null"), t.word("true"), t.word("false"):
		kind = t.src[start]
	default:
		kind = '0'
		err = t.number()
	}
	if err != nil {
		return err
	}
	v := &t.nodes[at]
	v.raw, v.kind, v.n, v.next = t.src[start:t.pos], kind, n, int32(len(t.nodes))
	return nil
}

func (t *text) word(w string) bool {
	if bytes.HasPrefix(t.src[t.pos:], []byte(w)) {
		t.pos += len(w)
		return true
	}
	return false
}

func (t *text) members(at, depth int) (n int32, err error) {
	t.space()
	if t.is('}') {
		return 0, nil
	}
	sorted := true
	var last []byte
	for {
		if !t.is('"') {
			return 0, t.fail("a key in double quotes")
		}
		name, err := t.str()
		if err != nil {
			return 0, err
		}
		if t.space(); !t.is(':') {
			return 0, t.fail("a colon")
		}
		t.space()
		sorted = sorted && (n == 0 || bytes.Compare(last, name) < 0)
		last = name
		if err := t.value(name, depth+1); err != nil {
			return 0, err
		}
		n++
		if t.space(); t.is('}') {
			break
		}
		if !t.is(',') {
			return 0, t.fail("a comma or the end of the object")
		}
		t.space()
	}
	if sorted {
		return n, nil
	}
	return n, t.sort(at, n)
}

// sort lists the members of the node at, which are the last of the text so far,
// by name.
func (t *text) sort(at int, n int32) error {
	from := len(t.order)
	t.nodes[at].order = int32(from)
	for i, child := int32(0), int32(at+1); i < n; i, child = i+1, t.nodes[child].next {
		t.order = append(t.order, child)
	}
	list := t.order[from:]
	slices.SortFunc(list, func(a, b int32) int { return bytes.Compare(t.nodes[a].name, t.nodes[b].name) })
	for i := range list[1:] {
		if name := t.nodes[list[i]].name; bytes.Equal(name, t.nodes[list[i+1]].name) {
			return t.fail(fmt.Sprintf("each key once, and there is a second %.40q before this place", name))
		}
	}
	return nil
}

func (t *text) items(depth int) (n int32, err error) {
	t.space()
	if t.is(']') {
		return 0, nil
	}
	for {
		if err := t.value(nil, depth+1); err != nil {
			return 0, err
		}
		n++
		if t.space(); t.is(']') {
			return n, nil
		}
		if !t.is(',') {
			return 0, t.fail("a comma or the end of the array")
		}
		t.space()
	}
}

// str reads a string, the cursor behind its first quote.
func (t *text) str() ([]byte, error) {
	start := t.pos
	plain, ascii := true, true
	for {
		if t.pos >= len(t.src) {
			return nil, t.fail("the end of the string")
		}
		switch c := t.src[t.pos]; {
		case c == '"':
			inner := t.src[start:t.pos]
			if !ascii && !utf8.Valid(inner) {
				t.pos = start
				return nil, t.fail("text in UTF-8")
			}
			t.pos++
			if plain {
				return inner, nil
			}
			s, err := unescape(t.src[start-1 : t.pos])
			if err != nil {
				t.pos = start
				return nil, t.fail("a string with whole escapes")
			}
			return s, nil
		case c < ' ':
			return nil, t.fail("an escape instead of a control character")
		case c == '\\':
			plain = false
			t.pos++
		case c >= utf8.RuneSelf:
			ascii = false
		}
		t.pos++
	}
}

// unescape returns what a string in quotes says.
func unescape(quoted []byte) ([]byte, error) {
	v, err := schemas.ParseJSON(quoted)
	s, ok := v.(string)
	if err == nil && !ok {
		err = errors.New("no string")
	}
	return []byte(s), err
}

func (t *text) digits() bool {
	start := t.pos
	for t.pos < len(t.src) && '0' <= t.src[t.pos] && t.src[t.pos] <= '9' {
		t.pos++
	}
	return t.pos > start
}

func (t *text) number() error {
	t.is('-')
	if !t.is('0') && !t.digits() {
		return t.fail("a JSON value")
	}
	if t.is('.') && !t.digits() {
		return t.fail("a digit")
	}
	if t.is('e') || t.is('E') {
		if !t.is('+') {
			t.is('-')
		}
		if !t.digits() {
			return t.fail("a digit")
		}
	}
	return nil
}

// members goes through the members of an object by name, or the items of an
// array in order.
type members struct {
	t        *text
	at, left int32
	order    []int32
}

func (t *text) below(at int32) members {
	v := &t.nodes[at]
	m := members{t: t, at: at + 1, left: v.n}
	if v.order >= 0 {
		m.order = t.order[v.order : v.order+v.n]
		m.at = m.order[0]
	}
	return m
}

// node is the one that m is at; nil behind the last.
func (m *members) node() *node {
	if m.left == 0 {
		return nil
	}
	return &m.t.nodes[m.at]
}

func (m *members) step() {
	m.left--
	switch {
	case m.left == 0:
	case m.order != nil:
		m.order = m.order[1:]
		m.at = m.order[0]
	default:
		m.at = m.t.nodes[m.at].next
	}
}

// both goes through the members of two objects by name. at is -1 where only the
// other has the member. It stops when each returns false.
func both(a, b *text, ai, bi int32, each func(name []byte, ai, bi int32) bool) bool {
	x, y := a.below(ai), b.below(bi)
	for {
		m, n := x.node(), y.node()
		var order int
		switch {
		case m == nil && n == nil:
			return true
		case n == nil:
			order = -1
		case m == nil:
			order = 1
		default:
			order = bytes.Compare(m.name, n.name)
		}
		name, i, j := []byte(nil), int32(-1), int32(-1)
		if order <= 0 {
			name, i = m.name, x.at
			x.step()
		}
		if order >= 0 {
			name, j = n.name, y.at
			y.step()
		}
		if !each(name, i, j) {
			return false
		}
	}
}

// equalScalar says whether two scalars say the same: numbers by their exact
// value, strings whatever they escape.
func equalScalar(a, b *node) bool {
	if a.kind != b.kind {
		return false
	}
	if bytes.Equal(a.raw, b.raw) {
		return true
	}
	switch a.kind {
	case '0':
		if plainInteger(a.raw) && plainInteger(b.raw) {
			return false
		}
		x, errX := schemas.AppendJSON(nil, json.Number(a.raw))
		y, errY := schemas.AppendJSON(nil, json.Number(b.raw))
		return errX == nil && errY == nil && bytes.Equal(x, y)
	case '"':
		if bytes.IndexByte(a.raw, '\\') < 0 && bytes.IndexByte(b.raw, '\\') < 0 {
			return false
		}
		return bytes.Equal(a.text(), b.text())
	}
	return false
}

// plainInteger says of a JSON number whether no other one without point and
// exponent says the same.
func plainInteger(digits []byte) bool {
	return !bytes.ContainsAny(digits, ".eE") && digits[0] != '-'
}

// text is what a string says.
func (v *node) text() []byte {
	if bytes.IndexByte(v.raw, '\\') < 0 {
		return v.raw[1 : len(v.raw)-1]
	}
	s, _ := unescape(v.raw) // which was read before
	return s
}

// NewComparer returns a Comparer by rules; the zero value has none.
func NewComparer(rules Rules) (*Comparer, error) {
	r, err := rules.compile()
	return &Comparer{rules: r}, err
}

// Comparer compares JSON texts. It keeps its memory from one call to the next,
// so one goroutine may use it at a time. The zero value is ready.
type Comparer struct {
	a, b    text
	pointer []byte
	values  differ
	rules   *rule

	dst        []byte
	start      int // of the patch in dst
	invertible bool
}

// AppendPatch appends to dst the JSON Patch (RFC 6902) that turns the JSON text
// before into after, and says whether they differ; where they do not, the patch
// is []. Values are as they are spelled.
// invertible puts a test of the old value before each operation that replaces or
// removes it, so that the patch fails on another value, and Invert can turn it
// round.
func (c *Comparer) AppendPatch(dst, before, after []byte, invertible bool) (patch []byte, differ bool, err error) {
	if err := c.read(before, after); err != nil {
		return dst, false, err
	}
	dst, differ = c.appendPatch(dst, invertible)
	return dst, differ, nil
}

// Same says whether what differs between two JSON texts does not count, by the
// rules; without any, whether they say the same.
func (c *Comparer) Same(before, after []byte) (bool, error) {
	if err := c.read(before, after); err != nil {
		return false, err
	}
	return c.same(false, nil), nil
}

func (c *Comparer) read(before, after []byte) error {
	if err := c.a.read(before); err != nil {
		return fmt.Errorf("read the value before: %w", err)
	}
	if err := c.b.read(after); err != nil {
		return fmt.Errorf("read the value after: %w", err)
	}
	return nil
}

// AppendPatchOf is AppendPatch for decoded values, in canonical JSON, and without
// the rules.
func (c *Comparer) AppendPatchOf(dst []byte, before, after any, invertible bool) (patch []byte, differ bool, err error) {
	d := &c.values
	d.dst, d.start, d.invertible, d.err = append(slices.Grow(dst, fewChanges), '['), len(dst)+1, invertible, nil
	d.walk(before, after)
	patch, differ = append(d.dst, ']'), len(d.dst) > d.start
	d.dst = nil
	return patch, differ, d.err
}

func (c *Comparer) appendPatch(dst []byte, invertible bool) ([]byte, bool) {
	c.dst, c.pointer, c.invertible = append(slices.Grow(dst, fewChanges), '['), c.pointer[:0], invertible
	c.start = len(c.dst)
	c.walk(0, 0, c.rules)
	dst, differ := append(c.dst, ']'), len(c.dst) > c.start
	c.dst = nil
	return dst, differ
}

// fewChanges is room for a patch of a few changes, in bytes.
const fewChanges = 256

// same says whether what differs between the texts that were read does not count.
// evolved says that the second was written with another schema, this one.
func (c *Comparer) same(evolved bool, schema schemas.Schema) bool {
	switch {
	case evolved:
		return c.sameIn(schema.Model())
	case c.rules == nil:
		return c.equal(0, 0)
	}
	s := same{a: &c.a, b: &c.b}
	return s.values(0, 0, c.rules, ways{})
}

// sameIn is same where the second text is of this model, and the first of one before.
func (c *Comparer) sameIn(model *schemas.Node) bool {
	s := same{a: &c.a, b: &c.b, free: evolution(model)}
	return s.values(0, 0, c.rules, ways{watched: c.rules == nil})
}

// evolution says of members that only one value has whether it is the schema
// that has changed: the new value has a new field with its default, or lacks one
// that is no more.
func evolution(model *schemas.Node) func(path [][]byte, before, after *node) bool {
	return func(path [][]byte, before, after *node) bool {
		record := model
		for _, name := range path[:len(path)-1] {
			f, _ := fieldOf(record, name)
			if f == nil {
				return false
			}
			record = f.Node
		}
		f, known := fieldOf(record, path[len(path)-1])
		if before != nil {
			return known && f == nil
		}
		if f == nil || !f.HasDefault {
			return false
		}
		text, err := schemas.AppendJSON(nil, f.Default)
		return err == nil && bytes.Equal(text, after.raw)
	}
}

// fieldOf returns the field of that name of a record, or of the record that an
// array has as its items, or a union beside null. known says that there is such a
// record, and that it lists all of its fields.
func fieldOf(n *schemas.Node, name []byte) (f *schemas.Field, known bool) {
	for n != nil && (n.Kind == schemas.Union || n.Kind == schemas.Array) {
		if n.Kind == schemas.Array {
			n = n.Items
			continue
		}
		others := slices.DeleteFunc(slices.Clone(n.Branches), func(b *schemas.Node) bool { return b.Kind == schemas.Null })
		if len(others) != 1 {
			return nil, false
		}
		n = others[0]
	}
	if n == nil || n.Kind != schemas.Record {
		return nil, false
	}
	for i := range n.Fields {
		if n.Fields[i].Name == string(name) {
			return &n.Fields[i], true
		}
	}
	return nil, !n.Open
}

// op appends an operation at the place where the walk is.
func (c *Comparer) op(op Op, before, after *node) {
	if len(c.dst) > c.start {
		c.dst = append(c.dst, ',')
	}
	var old, now []byte
	if before != nil {
		old = before.raw
	}
	if after != nil {
		now = after.raw
	}
	c.dst = appendOperation(c.dst, op, c.pointer, old, now, c.invertible)
}

// down is one step further down; up goes back to where down was called.
func (c *Comparer) down(name []byte) (up int) {
	up = len(c.pointer)
	c.pointer = append(c.pointer, '/')
	for _, b := range name {
		switch b {
		case '~':
			c.pointer = append(c.pointer, "~0"...)
		case '/':
			c.pointer = append(c.pointer, "~1"...)
		default:
			c.pointer = append(c.pointer, b)
		}
	}
	return up
}

func (c *Comparer) downTo(i int) (up int) {
	up = len(c.pointer)
	c.pointer = strconv.AppendInt(append(c.pointer, '/'), int64(i), 10)
	return up
}

func (c *Comparer) walk(ai, bi int32, r *rule) {
	a, b := &c.a.nodes[ai], &c.b.nodes[bi]
	switch {
	case a.kind == '{' && b.kind == '{':
		both(&c.a, &c.b, ai, bi, func(name []byte, i, j int32) bool {
			up := c.down(name)
			switch {
			case i < 0:
				c.op(Add, nil, &c.b.nodes[j])
			case j < 0:
				c.op(Remove, &c.a.nodes[i], nil)
			default:
				c.walk(i, j, r.child(name))
			}
			c.pointer = c.pointer[:up]
			return true
		})
	case a.kind == '[' && b.kind == '[':
		if r.identified() {
			if pairs, ok := c.align(ai, bi, r); ok {
				c.aligned(pairs, r)
			} else if !bytes.Equal(a.raw, b.raw) {
				c.op(Replace, a, b)
			}
			return
		}
		c.items(ai, bi, r)
	case !equalScalar(a, b):
		c.op(Replace, a, b)
	}
}

// items compares arrays item by item, and removes from the end, so that the
// indexes before it stay right.
func (c *Comparer) items(ai, bi int32, r *rule) {
	x, y := c.a.below(ai), c.b.below(bi)
	i := 0
	for ; x.left > 0 && y.left > 0; i++ {
		up := c.downTo(i)
		c.walk(x.at, y.at, r.child(anyItem))
		c.pointer = c.pointer[:up]
		x.step()
		y.step()
	}
	var gone []*node
	for ; x.left > 0; x.step() {
		gone = append(gone, x.node())
	}
	for k, v := range slices.Backward(gone) {
		up := c.downTo(i + k)
		c.op(Remove, v, nil)
		c.pointer = c.pointer[:up]
	}
	for ; y.left > 0; i++ {
		up := c.downTo(i)
		c.op(Add, nil, y.node())
		c.pointer = c.pointer[:up]
		y.step()
	}
}

// pair is an item before and after; -1 where there is none.
type pair struct{ a, b int32 }

// align pairs the items of two arrays by what identifies them. ok is false where
// that is not unique, or the items that stay have changed their order: such
// arrays are replaced.
func (c *Comparer) align(ai, bi int32, r *rule) (pairs []pair, ok bool) {
	before, okA := identities(&c.a, ai, r)
	after, okB := identities(&c.b, bi, r)
	if !okA || !okB {
		return nil, false
	}
	at := make(map[string]int, len(after))
	for j, v := range after {
		at[v.id] = j
	}
	next := 0 // of after
	for _, v := range before {
		j, stays := at[v.id]
		if !stays {
			pairs = append(pairs, pair{v.at, -1})
			continue
		}
		if j < next {
			return nil, false
		}
		for ; next < j; next++ {
			pairs = append(pairs, pair{-1, after[next].at})
		}
		pairs = append(pairs, pair{v.at, after[j].at})
		next = j + 1
	}
	for ; next < len(after); next++ {
		pairs = append(pairs, pair{-1, after[next].at})
	}
	return pairs, true
}

// aligned writes what became of the items: first what is gone, from the end,
// then what is new or changed, from the front.
func (c *Comparer) aligned(pairs []pair, r *rule) {
	i := 0
	for _, p := range pairs {
		if p.a >= 0 {
			i++
		}
	}
	for _, p := range slices.Backward(pairs) {
		if p.a < 0 {
			continue
		}
		if i--; p.b < 0 {
			up := c.downTo(i)
			c.op(Remove, &c.a.nodes[p.a], nil)
			c.pointer = c.pointer[:up]
		}
	}
	i = 0
	for _, p := range pairs {
		if p.b < 0 {
			continue
		}
		up := c.downTo(i)
		if p.a < 0 {
			c.op(Add, nil, &c.b.nodes[p.b])
		} else {
			c.walk(p.a, p.b, r.child(anyItem))
		}
		c.pointer = c.pointer[:up]
		i++
	}
}

// AppendMergePatch appends to dst the JSON Merge Patch (RFC 7396) that turns the
// JSON text before into after; see the function AppendMergePatch for what that
// format cannot say.
func (c *Comparer) AppendMergePatch(dst, before, after []byte) ([]byte, error) {
	if err := c.read(before, after); err != nil {
		return dst, err
	}
	return c.appendMerge(dst, 0, 0), nil
}

// appendMerge writes the patch between two nodes; ai is -1 for nothing.
func (c *Comparer) appendMerge(dst []byte, ai, bi int32) []byte {
	b := &c.b.nodes[bi]
	if b.kind != '{' {
		return append(dst, b.raw...)
	}
	dst = append(dst, '{')
	start := len(dst)
	member := func(name []byte, i, j int32) {
		begin := len(dst)
		if len(dst) > start {
			dst = append(dst, ',')
		}
		dst = append(schemas.AppendJSONString(dst, string(name)), ':')
		switch wasNull := i >= 0 && c.a.nodes[i].kind == 'n'; {
		case j < 0, c.b.nodes[j].kind == 'n':
			if i < 0 || j >= 0 && wasNull {
				dst = dst[:begin]
				return
			}
			dst = append(dst, "null"...)
		case i >= 0 && c.equal(i, j):
			dst = dst[:begin]
		default:
			dst = c.appendMerge(dst, i, j)
		}
	}
	if ai >= 0 && c.a.nodes[ai].kind == '{' {
		both(&c.a, &c.b, ai, bi, func(name []byte, i, j int32) bool {
			member(name, i, j)
			return true
		})
	} else {
		for m := c.b.below(bi); m.left > 0; m.step() {
			member(m.node().name, -1, m.at)
		}
	}
	return append(dst, '}')
}

// equal says whether two values are the same, whatever the rules.
func (c *Comparer) equal(ai, bi int32) bool {
	s := same{a: &c.a, b: &c.b}
	return s.values(ai, bi, nil, ways{watched: true})
}

// identity is what an item of an array is known by.
type identity struct {
	id string
	at int32
}

// identities says how the items of an array are known. ok is false if two are
// known by the same.
func identities(t *text, at int32, r *rule) (list []identity, ok bool) {
	seen := map[string]bool{}
	for m := t.below(at); m.left > 0; m.step() {
		id, has := r.identify(t, m.at)
		if !has || seen[id] {
			return nil, false
		}
		seen[id] = true
		list = append(list, identity{id, m.at})
	}
	return list, true
}

// member returns the member of that name of an object; -1 if there is none.
func (t *text) member(at int32, name string) int32 {
	if t.nodes[at].kind != '{' {
		return -1
	}
	for m := t.below(at); m.left > 0; m.step() {
		switch cmp.Compare(string(m.node().name), name) {
		case 0:
			return m.at
		case 1:
			return -1
		}
	}
	return -1
}
