package avro

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/twmb/avro"

	"penstock/schemas"
)

// AppendText implements schemas.TextEncoder. Text goes from its tokens straight to
// bytes. Whatever is not plain on the way (an error, an escaped key, a union of
// whose branches two might be meant) is left to ParseText and AppendEncode, so that
// these two alone say what is accepted and what is wrong.
func (s *Schema) AppendText(dst, text []byte) ([]byte, error) {
	if out, ok := s.appendPlain(dst, text); ok {
		return out, nil
	}
	v, err := schemas.ParseText(text)
	if err != nil {
		return dst, err
	}
	return s.AppendEncode(dst, v)
}

// appendPlain is the quick way of AppendText. If it reports false, dst is to be
// taken as it was.
func (s *Schema) appendPlain(dst, text []byte) ([]byte, bool) {
	c, err := s.coder()
	if err != nil || len(text) > maxPlainText {
		return dst, false
	}
	p := c.texts()
	if p == nil {
		return dst, false
	}
	r := textReaders.Get().(*textReader)
	defer r.release()
	r.Text, r.Pos, r.depth = text, 0, maxPlainDepth
	r.Space()
	dst, ok := r.value(dst, p)
	r.Space()
	return dst, ok && r.Pos == len(text)
}

// Bounds within those of ParseJSON, of text that is read the quick way.
const (
	maxPlainText  = 1 << 20
	maxPlainDepth = 64
	maxPlainKeys  = 32   // of a map: they are compared one by one
	maxPlainItems = 4096 // of an array whose items take no bytes
)

// textPlan says how a type is read from text, or taken from a map.
type textPlan struct {
	kind     textKind
	size     int            // of a fixed; of a union, how many branches
	only     *textPlan      // the last branch of a union that is not null
	unit     time.Duration  // of a timestamp
	symbols  map[string]int // of an enum
	items    *textPlan      // of an array or a map
	fields   []textField    // of a record
	index    map[string]int // of its fields
	branches [tokens]textBranch
}

type textField struct {
	name string
	plan *textPlan
	def  []byte // the default's encoding; nil: it is not known, or there is none
}

// textBranch is the one branch of a union that a token can be of; plan is nil where
// there is none or are several.
type textBranch struct {
	number int
	plan   *textPlan
}

type textKind uint8

const (
	slowText textKind = iota // nothing of it is plain
	nullText
	boolText
	intText
	longText
	floatText
	doubleText
	stringText
	fixedText
	enumText
	dateText
	timestampText
	arrayText
	mapText
	recordText
	unionText
)

// token is what a JSON value begins with.
type token uint8

const (
	nullToken token = iota
	boolToken
	numberToken
	stringToken
	arrayToken
	objectToken
	tokens // how many there are
)

// textPlanner makes one plan for each type.
type textPlanner struct {
	plans map[*typ]*textPlan
	lib   map[string]*avro.SchemaNode // the records by their full names
	size  int                         // how many nodes the library's tree has
	left  int                         // of maxDefaultWork
}

// maxDefaultWork bounds the nodes that are visited for the defaults of a schema: of
// each record that has some, all; a fifth of a second or so. Defaults beyond it are
// not known.
const maxDefaultWork = 50_000

// textPlanOf returns the plan of a schema, nil where nothing can be read the quick
// way.
func (s *Schema) textPlanOf(c *coder) *textPlan {
	if c.forks {
		return nil
	}
	t, err := parseText(s.canonical, s.refs, false)
	if err != nil {
		return nil
	}
	pl := textPlanner{plans: map[*typ]*textPlan{}, lib: map[string]*avro.SchemaNode{}, left: maxDefaultWork}
	pl.records(c.lib.Root())
	return pl.plan(t, c.plan)
}

// records notes the records in a tree of the library's, where references are names.
func (pl *textPlanner) records(n *avro.SchemaNode) {
	if n == nil {
		return
	}
	pl.size++
	if n.Type == "record" || n.Type == "error" {
		pl.lib[named(n.Name, n.Namespace).full()] = n
	}
	pl.records(n.Items)
	pl.records(n.Values)
	for i := range n.Branches {
		pl.records(&n.Branches[i])
	}
	for i := range n.Fields {
		pl.records(&n.Fields[i].Type)
	}
}

// plan makes the plan of t, of which encoded is how to pass over its encoding.
func (pl *textPlanner) plan(t *typ, encoded *plan) *textPlan {
	if p, ok := pl.plans[t]; ok {
		return p
	}
	p := &textPlan{}
	pl.plans[t] = p
	logical := ""
	if l := t.logical(); l != nil {
		logical = l.name
	}
	switch t.kind {
	case "null":
		p.kind = nullText
	case "boolean":
		p.kind = boolText
	case "int":
		if p.kind = intText; logical == "date" {
			p.kind = dateText
		}
	case "long":
		p.kind = longText
		if unit := map[string]time.Duration{
			"timestamp-millis": time.Millisecond, "timestamp-micros": time.Microsecond, "timestamp-nanos": time.Nanosecond,
		}[logical]; unit != 0 {
			p.kind, p.unit = timestampText, unit
		}
	case "float":
		p.kind = floatText
	case "double":
		p.kind = doubleText
	case "string":
		p.kind = stringText
	case "bytes":
		if logical == "" {
			p.kind = stringText
		}
	case "fixed":
		if p.size = t.size; logical == "" {
			p.kind = fixedText
		}
	case "enum":
		p.kind, p.symbols = enumText, map[string]int{}
		for i, symbol := range t.symbols {
			p.symbols[symbol] = i
		}
	case "array":
		p.kind, p.items = arrayText, pl.plan(t.items, encoded.items)
	case "map":
		p.kind, p.items = mapText, pl.plan(t.items, encoded.items)
	case "union":
		p.kind, p.size = unionText, len(t.members)
		for i, m := range t.members {
			if m.kind != "null" {
				p.only = pl.plan(m, encoded.branches[i])
			}
		}
		for of := range tokens {
			for i, m := range t.members {
				if !mayBe(m, of) {
					continue
				}
				if p.branches[of].plan != nil {
					p.branches[of] = textBranch{}
					break
				}
				p.branches[of] = textBranch{i, pl.plan(m, encoded.branches[i])}
			}
		}
	default:
		p.kind, p.index = recordText, map[string]int{}
		for i, f := range t.fields {
			p.fields = append(p.fields, textField{name: f.name, plan: pl.plan(f.typ, encoded.fields[i].plan)})
			p.index[f.name] = i
		}
		pl.defaults(p, t, encoded)
	}
	return p
}

// mayBe reports whether a token may be of a type: it does not fail to where it is.
func mayBe(t *typ, of token) bool {
	switch t.kind {
	case "null":
		return of == nullToken
	case "boolean":
		return of == boolToken
	case "int", "long", "float", "double", "bytes", "fixed":
		return of == numberToken || of == stringToken
	case "string", "enum":
		return of == stringToken
	case "array":
		return of == arrayToken
	}
	return of == objectToken
}

// defaults has the library encode the defaults of a record: nothing at all, by a
// record of the fields that have one. In a record that contains itself, the name
// would then mean that one, so its defaults stay unknown.
func (pl *textPlanner) defaults(p *textPlan, t *typ, encoded *plan) {
	whole := pl.lib[t.name.full()]
	if whole == nil || len(whole.Fields) != len(p.fields) {
		return
	}
	some := *whole
	some.Fields = nil
	var which []int
	for i, f := range whole.Fields {
		if f.HasDefault {
			some.Fields = append(some.Fields, f)
			which = append(which, i)
		}
	}
	if which == nil || pl.left < pl.size || contains(t, t, map[*typ]bool{}) {
		return
	}
	pl.left -= pl.size
	lib, err := some.Schema(avro.WithLaxNames(nil))
	if err != nil {
		return
	}
	b, err := lib.AppendEncode(nil, map[string]any{})
	if err != nil {
		return
	}
	at := 0
	for _, i := range which {
		next, odd := encoded.fields[i].plan.skim(b, at)
		if odd {
			return
		}
		p.fields[i].def = slices.Clip(b[at:next])
		at = next
	}
}

// contains reports whether t lies within the parts of of.
func contains(of, t *typ, seen map[*typ]bool) bool {
	if of == nil || seen[of] {
		return false
	}
	seen[of] = true
	parts := append([]*typ{of.items}, of.members...)
	for _, f := range of.fields {
		parts = append(parts, f.typ)
	}
	return slices.Contains(parts, t) || slices.ContainsFunc(parts, func(part *typ) bool { return contains(part, t, seen) })
}

// textReader is a cursor over JSON text. Its methods append encodings and report
// whether all was plain.
type textReader struct {
	schemas.PlainJSON
	depth   int // levels left
	members int // of the object read last
	places  []extent
}

// extent is where the encoding of a field lies, end a byte behind it; 0 where it has
// yet to come.
type extent struct{ begin, end int }

var textReaders = sync.Pool{New: func() any { return &textReader{} }}

func (r *textReader) release() {
	r.Text, r.places = nil, r.places[:0]
	textReaders.Put(r)
}

func (r *textReader) value(dst []byte, p *textPlan) ([]byte, bool) {
	switch p.kind {
	case nullText:
		return dst, r.Word("null")
	case boolText:
		if r.Word("true") {
			return append(dst, 1), true
		}
		return append(dst, 0), r.Word("false")
	case intText, longText:
		return r.integer(dst, p.kind == intText)
	case floatText, doubleText:
		return r.float(dst, p.kind == floatText)
	case stringText:
		return r.str(dst, true)
	case fixedText:
		begin := len(dst)
		dst, ok := r.str(dst, false)
		return dst, ok && len(dst)-begin == p.size
	case enumText:
		symbol, ok := r.Bare()
		i, known := p.symbols[string(symbol)]
		return binary.AppendVarint(dst, int64(i)), ok && known
	case dateText, timestampText:
		return r.time(dst, p)
	case arrayText:
		return r.array(dst, p.items)
	case mapText:
		return r.entries(dst, p.items)
	case recordText:
		return r.record(dst, p)
	case unionText:
		return r.union(dst, p)
	}
	return dst, false
}

func (r *textReader) union(dst []byte, p *textPlan) ([]byte, bool) {
	of := numberToken
	switch r.Next() {
	case 'n':
		of = nullToken
	case 't', 'f':
		of = boolToken
	case '"':
		of = stringToken
	case '[':
		of = arrayToken
	case '{':
		of = objectToken
	}
	b := p.branches[of]
	if b.plan == nil {
		return dst, false
	}
	dst, ok := r.value(binary.AppendVarint(dst, int64(b.number)), b.plan)
	// An object of one member may name its branch.
	return dst, ok && (of != objectToken || r.members != 1)
}

func (r *textReader) integer(dst []byte, narrow bool) ([]byte, bool) {
	n, ok := r.Whole()
	return binary.AppendVarint(dst, n), ok && (!narrow || n == int64(int32(n)))
}

func (r *textReader) float(dst []byte, narrow bool) ([]byte, bool) {
	f, ok := r.Float()
	if !narrow {
		return binary.LittleEndian.AppendUint64(dst, math.Float64bits(f)), ok
	}
	return binary.LittleEndian.AppendUint32(dst, math.Float32bits(float32(f))), ok && !math.IsInf(float64(float32(f)), 0)
}

// time reads a number, or a time from 1970 to 2200 as AppendEncode does.
func (r *textReader) time(dst []byte, p *textPlan) ([]byte, bool) {
	if r.Next() != '"' {
		return r.integer(dst, p.kind == dateText)
	}
	text, ok := r.Bare()
	layout := time.RFC3339Nano
	if p.kind == dateText {
		layout = time.DateOnly
	}
	if !ok || len(text) > 40 {
		return dst, false
	}
	t, err := time.Parse(layout, string(text))
	if err != nil || t.Unix() < 0 || t.Year() > 2200 {
		return dst, false
	}
	if p.kind == dateText {
		return binary.AppendVarint(dst, t.Unix()/(24*60*60)), true
	}
	return binary.AppendVarint(dst, t.UnixNano()/int64(p.unit)), true
}

// str appends a string, after its length if that is counted.
func (r *textReader) str(dst []byte, counted bool) ([]byte, bool) {
	if !r.Word(`"`) {
		return dst, false
	}
	text, ok := r.Run()
	if !ok {
		return dst, false
	}
	begin := len(dst)
	if r.Word(`"`) {
		if counted {
			dst = binary.AppendVarint(dst, int64(len(text)))
		}
		return append(dst, text...), true
	}
	for {
		dst = append(dst, text...)
		if r.Word(`"`) {
			break
		}
		c, ok := r.escape()
		if !ok {
			return dst, false
		}
		dst = utf8.AppendRune(dst, c)
		if text, ok = r.Run(); !ok {
			return dst, false
		}
	}
	if counted {
		dst = insertVarint(dst, begin, len(dst)-begin)
	}
	return dst, true
}

// insertVarint puts n in front of what begins at a place.
func insertVarint(dst []byte, at, n int) []byte {
	var b [binary.MaxVarintLen64]byte
	return slices.Insert(dst, at, b[:binary.PutVarint(b[:], int64(n))]...)
}

// escape reads one escape, a pair of surrogates as one.
func (r *textReader) escape() (rune, bool) {
	if !r.Word(`\`) || r.Pos == len(r.Text) {
		return 0, false
	}
	c := r.Text[r.Pos]
	r.Pos++
	switch c {
	case '"', '\\', '/':
		return rune(c), true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	case 'u':
		high, ok := r.hex()
		if !ok || !utf16.IsSurrogate(high) {
			return high, ok
		}
		if !r.Word(`\u`) {
			return 0, false
		}
		low, ok := r.hex()
		pair := utf16.DecodeRune(high, low)
		return pair, ok && pair != utf8.RuneError
	}
	return 0, false
}

func (r *textReader) hex() (c rune, ok bool) {
	if len(r.Text)-r.Pos < 4 {
		return 0, false
	}
	for _, digit := range r.Text[r.Pos : r.Pos+4] {
		switch {
		case digit-'0' <= 9:
			c = c<<4 | rune(digit-'0')
		case digit|0x20-'a' < 6:
			c = c<<4 | rune(digit|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	r.Pos += 4
	return c, true
}

// enter passes over what opens an array or an object, and reports whether it is
// empty; then it is read to its end.
func (r *textReader) enter(open, end string) (empty, ok bool) {
	if r.depth == 0 || !r.Word(open) {
		return false, false
	}
	r.depth--
	r.Space()
	if r.Word(end) {
		r.depth++
		return true, true
	}
	return false, true
}

// more passes over a comma, or else over the end.
func (r *textReader) more(end string) (more, ok bool) {
	r.Space()
	if r.Word(",") {
		r.Space()
		return true, true
	}
	r.depth++
	return false, r.Word(end)
}

// key reads the key of a member and the colon behind it.
func (r *textReader) key() (key []byte, ok bool) {
	key, ok = r.Bare()
	r.Space()
	ok = ok && r.Word(":")
	r.Space()
	return key, ok
}

func (r *textReader) array(dst []byte, items *textPlan) ([]byte, bool) {
	empty, ok := r.enter("[", "]")
	if !ok || empty {
		return append(dst, 0), ok
	}
	begin, n := len(dst), 0
	for more := true; more; n++ {
		if dst, ok = r.value(dst, items); !ok {
			return dst, false
		}
		if more, ok = r.more("]"); !ok {
			return dst, false
		}
	}
	if len(dst) == begin && n > maxPlainItems {
		return dst, false
	}
	return append(insertVarint(dst, begin, n), 0), true
}

func (r *textReader) entries(dst []byte, items *textPlan) ([]byte, bool) {
	empty, ok := r.enter("{", "}")
	if !ok || empty {
		r.members = 0
		return append(dst, 0), ok
	}
	var keys [maxPlainKeys][]byte
	begin, n := len(dst), 0
	for more := true; more; n++ {
		key, ok := r.key()
		if !ok || n == maxPlainKeys {
			return dst, false
		}
		for _, k := range keys[:n] {
			if bytes.Equal(k, key) {
				return dst, false
			}
		}
		keys[n] = key
		dst = append(binary.AppendVarint(dst, int64(len(key))), key...)
		if dst, ok = r.value(dst, items); !ok {
			return dst, false
		}
		if more, ok = r.more("}"); !ok {
			return dst, false
		}
	}
	r.members = n
	return append(insertVarint(dst, begin, n), 0), true
}

// record encodes the fields as they come, and then puts them into their order.
func (r *textReader) record(dst []byte, p *textPlan) ([]byte, bool) {
	empty, ok := r.enter("{", "}")
	if !ok {
		return dst, false
	}
	begin, first, n := len(dst), len(r.places), 0
	r.places = slices.Grow(r.places, len(p.fields))[:first+len(p.fields)]
	clear(r.places[first:])
	expected, ordered := 0, true
	for more := !empty; more; n++ {
		key, ok := r.key()
		if !ok {
			return dst, false
		}
		i := expected
		if i == len(p.fields) || p.fields[i].name != string(key) {
			ordered = false
			if i, ok = p.index[string(key)]; !ok {
				return dst, false
			}
		}
		expected = i + 1
		at := len(dst)
		if dst, ok = r.value(dst, p.fields[i].plan); !ok || r.places[first+i].end > 0 {
			return dst, false
		}
		r.places[first+i] = extent{at, len(dst) + 1}
		if more, ok = r.more("}"); !ok {
			return dst, false
		}
	}
	if !ordered || n < len(p.fields) {
		end := len(dst)
		for i, at := range r.places[first:] {
			switch {
			case at.end > 0:
				dst = append(dst, dst[at.begin:at.end-1]...)
			case p.fields[i].def != nil:
				dst = append(dst, p.fields[i].def...)
			default:
				return dst, false
			}
		}
		dst = dst[:begin+copy(dst[begin:], dst[end:])]
	}
	r.members, r.places = n, r.places[:first]
	return dst, true
}
