package schemas

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits of JSON text.
const (
	maxJSONExponent = 400 // beyond it a number costs time out of proportion to its length
	maxJSONDigits   = 1000
)

// ParseJSON reads exactly one JSON value (RFC 8259) into nil, bool,
// json.Number, string, []any and map[string]any, within the default Limits. It
// refuses a duplicate key, text that is not UTF-8, half a surrogate pair, a
// number of more than 1,000 digits or with an exponent beyond ±400, and
// anything after the value. Its error is a *JSONError.
func ParseJSON(data []byte) (any, error) {
	return ParseJSONLeaving(data, nil)
}

// JSONText is a JSON value that ParseJSONLeaving left as it was written.
type JSONText []byte

// ParseJSONLeaving is ParseJSON, but that the values of which leave reports true
// are a JSONText, part of data, unless they are null. They are looked through all
// the same: what ParseJSON refuses is refused. leave is asked with the path to a
// value, which it must not keep; nil leaves none.
func ParseJSONLeaving(data []byte, leave func(path []string) bool) (any, error) {
	if most := (Limits{}).bytes(); len(data) > most {
		return nil, &JSONError{Expected: fmt.Sprintf("at most %d bytes", most), Found: fmt.Sprintf("%d", len(data))}
	}
	r := reader{text: string(data), depth: Limits{}.depth(), raw: data, asText: leave}
	var v any
	err := r.only(func() (err error) {
		v, err = r.value()
		return err
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// JSONError says where JSON text is wrong.
type JSONError struct {
	Offset   int    // in bytes, from 0
	Pointer  string // the value being read, as a JSON Pointer
	Expected string
	Found    string
}

// Error is one sentence.
func (e *JSONError) Error() string {
	where := fmt.Sprintf("offset %d", e.Offset)
	if e.Pointer != "" {
		where = e.Pointer + ", " + where
	}
	return fmt.Sprintf("parse JSON: at %s: expected %s, found %s", where, e.Expected, e.Found)
}

// JSONKind is what sort of JSON value a JSONNode is.
type JSONKind uint8

// The kinds.
const (
	JSONNull JSONKind = iota
	JSONBool
	JSONNumber
	JSONString
	JSONArray
	JSONObject
)

// String returns the kind's name.
func (k JSONKind) String() string {
	return [...]string{"null", "boolean", "number", "string", "array", "object"}[k]
}

// JSONNode is a JSON value as its text has it: members in their order, numbers
// as they are spelled. Schema texts are read into it, since their canonical
// forms depend on both.
type JSONNode struct {
	Kind    JSONKind
	Text    string // a number as spelled, a string without quotes and escapes, "true" or "false"
	Items   []*JSONNode
	Members []JSONMember
	Offset  int // where it begins, in bytes
}

// JSONMember is one member of an object.
type JSONMember struct {
	Name  string
	Value *JSONNode
}

// Get returns the member of that name, or nil.
func (n *JSONNode) Get(name string) *JSONNode {
	for i := range n.Members {
		if n.Members[i].Name == name {
			return n.Members[i].Value
		}
	}
	return nil
}

// Strings returns the strings of an array; of anything else there are none, nor
// of no node.
func (n *JSONNode) Strings() []string {
	if n == nil || n.Kind != JSONArray {
		return nil
	}
	var out []string
	for _, item := range n.Items {
		if item.Kind == JSONString {
			out = append(out, item.Text)
		}
	}
	return out
}

// JSONOptions say how a schema text is read.
type JSONOptions struct {
	// Comments allows /* */ and // comments.
	Comments bool
	// LastWins takes the last value of a duplicate key, at the first one's
	// place, instead of refusing it.
	LastWins bool
}

// Limits of schema texts.
const (
	maxSchemaBytes  = 4 << 20
	maxSchemaDepth  = 200
	maxSchemaValues = 1 << 19 // some 50 MB as nodes
)

// fewMembers is how many members of an object are faster compared than hashed.
const fewMembers = 16

// ReadJSON reads one JSON value of a schema text of at most 4 MiB and 200
// levels and 524,288 values. What else it refuses is what ParseJSON refuses, but
// for o.
func ReadJSON(text string, o JSONOptions) (*JSONNode, error) {
	if len(text) > maxSchemaBytes {
		return nil, &JSONError{Expected: fmt.Sprintf("a schema of at most %d bytes", maxSchemaBytes), Found: fmt.Sprintf("%d", len(text))}
	}
	r := reader{text: text, depth: maxSchemaDepth, JSONOptions: o}
	var n *JSONNode
	err := r.only(func() (err error) {
		n, err = r.node()
		return err
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// reader is a cursor over JSON text.
type reader struct {
	JSONOptions
	text   string
	pos    int
	depth  int      // levels left
	values int      // read so far, of a schema
	path   []string // of the value being read
	raw    []byte   // the text once more, where asText is set
	asText func(path []string) bool
}

func (r *reader) fail(at int, expected, found string) error {
	var p strings.Builder
	for _, s := range r.path {
		p.WriteByte('/')
		p.WriteString(EscapePointer(s))
	}
	return &JSONError{Offset: at, Pointer: p.String(), Expected: expected, Found: found}
}

// found names what stands at the cursor.
func (r *reader) found() string {
	if r.pos >= len(r.text) {
		return "the end"
	}
	c, size := utf8.DecodeRuneInString(r.text[r.pos:])
	if c == utf8.RuneError && size == 1 {
		return fmt.Sprintf("the byte 0x%02x", r.text[r.pos])
	}
	return strconv.QuoteRune(c)
}

// only reads one value with nothing but space around it.
func (r *reader) only(value func() error) error {
	if err := r.space(); err != nil {
		return err
	}
	if err := value(); err != nil {
		return err
	}
	if err := r.space(); err != nil {
		return err
	}
	if r.pos < len(r.text) {
		return r.fail(r.pos, "nothing after the value", r.found())
	}
	return nil
}

func (r *reader) space() error {
	for r.pos < len(r.text) {
		switch r.text[r.pos] {
		case ' ', '\t', '\n', '\r':
			r.pos++
		case '/':
			if !r.Comments || r.pos+1 >= len(r.text) {
				return nil
			}
			end := ""
			switch r.text[r.pos+1] {
			case '/':
				end = "\n"
			case '*':
				end = "*/"
			default:
				return nil
			}
			i := strings.Index(r.text[r.pos+2:], end)
			if i < 0 && end == "*/" {
				return r.fail(r.pos, "a comment that ends with */", "the end")
			}
			if i < 0 {
				r.pos = len(r.text)
			} else {
				r.pos += 2 + i + len(end)
			}
		default:
			return nil
		}
	}
	return nil
}

// peek returns the byte at the cursor, 0 at the end.
func (r *reader) peek() byte {
	if r.pos < len(r.text) {
		return r.text[r.pos]
	}
	return 0
}

func (r *reader) value() (any, error) {
	if r.asText != nil && r.peek() != 'n' && r.asText(r.path) {
		begin := r.pos
		if err := r.skip(); err != nil {
			return nil, err
		}
		return JSONText(r.raw[begin:r.pos:r.pos]), nil
	}
	switch c := r.peek(); c {
	case '{':
		m := map[string]any{}
		err := r.object(func(name string, at int) (err error) {
			if _, ok := m[name]; ok {
				return r.fail(at, "each key once", "a second "+strconv.Quote(shorten(name)))
			}
			m[name], err = r.value()
			return err
		})
		return m, err
	case '[':
		a := []any{}
		err := r.array(func() error {
			v, err := r.value()
			a = append(a, v)
			return err
		})
		return a, err
	case '"':
		return r.str()
	case 't':
		return true, r.word("true")
	case 'f':
		return false, r.word("false")
	case 'n':
		return nil, r.word("null")
	default:
		n, err := r.number()
		return json.Number(n), err
	}
}

// skip reads a value as value does and makes nothing of it.
func (r *reader) skip() error {
	switch r.peek() {
	case '{':
		var few [fewMembers]string // names, of small objects
		var many map[string]bool   // of large ones
		n := 0
		return r.object(func(name string, at int) error {
			if many[name] || slices.Contains(few[:min(n, fewMembers)], name) {
				return r.fail(at, "each key once", "a second "+strconv.Quote(shorten(name)))
			}
			switch {
			case n < fewMembers:
				few[n] = name
			case many == nil:
				many = map[string]bool{name: true}
			default:
				many[name] = true
			}
			n++
			return r.skip()
		})
	case '[':
		return r.array(r.skip)
	case '"':
		_, err := r.str()
		return err
	case 't':
		return r.word("true")
	case 'f':
		return r.word("false")
	case 'n':
		return r.word("null")
	default:
		_, err := r.number()
		return err
	}
}

func (r *reader) node() (n *JSONNode, err error) {
	if r.values++; r.values > maxSchemaValues {
		return nil, r.fail(r.pos, fmt.Sprintf("a schema of at most %d values", maxSchemaValues), "one more")
	}
	n = &JSONNode{Offset: r.pos}
	switch c := r.peek(); c {
	case '{':
		n.Kind = JSONObject
		var at map[string]int // of large objects; small ones are looked through
		return n, r.object(func(name string, offset int) error {
			var i int
			var ok bool
			if at != nil {
				i, ok = at[name]
			} else {
				i = slices.IndexFunc(n.Members, func(m JSONMember) bool { return m.Name == name })
				ok = i >= 0
			}
			if ok && !r.LastWins {
				return r.fail(offset, "each key once", "a second "+strconv.Quote(shorten(name)))
			}
			v, err := r.node()
			if ok {
				n.Members[i].Value = v
				return err
			}
			n.Members = append(n.Members, JSONMember{name, v})
			if at != nil {
				at[name] = len(n.Members) - 1
			} else if len(n.Members) == fewMembers {
				at = make(map[string]int, 2*fewMembers)
				for i, m := range n.Members {
					at[m.Name] = i
				}
			}
			return err
		})
	case '[':
		n.Kind = JSONArray
		return n, r.array(func() error {
			v, err := r.node()
			n.Items = append(n.Items, v)
			return err
		})
	case '"':
		n.Kind = JSONString
		n.Text, err = r.str()
	case 't':
		n.Kind, n.Text, err = JSONBool, "true", r.word("true")
	case 'f':
		n.Kind, n.Text, err = JSONBool, "false", r.word("false")
	case 'n':
		err = r.word("null")
	default:
		n.Kind = JSONNumber
		n.Text, err = r.number()
	}
	return n, err
}

func (r *reader) word(w string) error {
	if !strings.HasPrefix(r.text[r.pos:], w) {
		return r.fail(r.pos, "a JSON value", r.found())
	}
	r.pos += len(w)
	return nil
}

// enter and leave keep the depth of an object or array.
func (r *reader) enter() error {
	if r.depth == 0 {
		return r.fail(r.pos, "less nesting", "one level too many")
	}
	r.depth--
	r.pos++
	return r.space()
}

func (r *reader) leave() {
	r.depth++
	r.pos++
}

// within runs read for the part of that name.
func (r *reader) within(name string, read func() error) error {
	r.path = append(r.path, name)
	err := read()
	r.path = r.path[:len(r.path)-1]
	return err
}

// object calls member for each member, the cursor at its value.
func (r *reader) object(member func(name string, at int) error) error {
	if err := r.enter(); err != nil {
		return err
	}
	for first := true; ; first = false {
		if r.peek() == '}' && first {
			break
		}
		at := r.pos
		if r.peek() != '"' {
			return r.fail(at, "a key in double quotes", r.found())
		}
		name, err := r.str()
		if err != nil {
			return err
		}
		if err := r.space(); err != nil {
			return err
		}
		if r.peek() != ':' {
			return r.fail(r.pos, "a colon", r.found())
		}
		r.pos++
		if err := r.space(); err != nil {
			return err
		}
		if err := r.within(name, func() error { return member(name, at) }); err != nil {
			return err
		}
		if err := r.space(); err != nil {
			return err
		}
		if r.peek() == '}' {
			break
		}
		if r.peek() != ',' {
			return r.fail(r.pos, "a comma or a closing brace", r.found())
		}
		r.pos++
		if err := r.space(); err != nil {
			return err
		}
	}
	r.leave()
	return nil
}

// array calls item for each item, the cursor at it.
func (r *reader) array(item func() error) error {
	if err := r.enter(); err != nil {
		return err
	}
	for i := 0; ; i++ {
		if r.peek() == ']' && i == 0 {
			break
		}
		if err := r.within(strconv.Itoa(i), item); err != nil {
			return err
		}
		if err := r.space(); err != nil {
			return err
		}
		if r.peek() == ']' {
			break
		}
		if r.peek() != ',' {
			return r.fail(r.pos, "a comma or a closing bracket", r.found())
		}
		r.pos++
		if err := r.space(); err != nil {
			return err
		}
	}
	r.leave()
	return nil
}

func (r *reader) digits() int {
	start := r.pos
	for c := r.peek(); c >= '0' && c <= '9'; c = r.peek() {
		r.pos++
	}
	return r.pos - start
}

func (r *reader) number() (string, error) {
	start := r.pos
	if r.peek() == '-' {
		r.pos++
	}
	if first, n := r.peek(), r.digits(); n == 0 {
		if r.pos == start {
			return "", r.fail(start, "a JSON value", r.found())
		}
		return "", r.fail(r.pos, "a digit", r.found())
	} else if first == '0' && n > 1 {
		return "", r.fail(start, "a number", "a leading zero")
	}
	if r.peek() == '.' {
		r.pos++
		if r.digits() == 0 {
			return "", r.fail(r.pos, "a digit", r.found())
		}
	}
	if r.pos-start > maxJSONDigits {
		return "", r.fail(start, fmt.Sprintf("a number of at most %d digits", maxJSONDigits), fmt.Sprintf("%d", r.pos-start))
	}
	if c := r.peek(); c == 'e' || c == 'E' {
		r.pos++
		if c := r.peek(); c == '+' || c == '-' {
			r.pos++
		}
		from := r.pos
		if r.digits() == 0 {
			return "", r.fail(r.pos, "a digit", r.found())
		}
		if e, err := strconv.Atoi(r.text[from:r.pos]); err != nil || e > maxJSONExponent {
			return "", r.fail(start, fmt.Sprintf("an exponent of at most %d", maxJSONExponent), shorten(r.text[from:r.pos]))
		}
	}
	return r.text[start:r.pos], nil
}

// str reads a string, the cursor at its opening quote.
func (r *reader) str() (string, error) {
	start := r.pos
	r.pos++
	run := r.pos // what is not yet in b
	var b strings.Builder
	for r.pos < len(r.text) {
		switch c := r.text[r.pos]; {
		case c == '"':
			s := r.text[run:r.pos]
			r.pos++
			if b.Len() > 0 {
				b.WriteString(s)
				s = b.String()
			}
			return s, nil
		case c == '\\':
			b.WriteString(r.text[run:r.pos])
			c, err := r.escape()
			if err != nil {
				return "", err
			}
			b.WriteRune(c)
			run = r.pos
		case c < ' ':
			return "", r.fail(r.pos, "a control character to be escaped", r.found())
		case c < utf8.RuneSelf:
			r.pos++
		default:
			c, size := utf8.DecodeRuneInString(r.text[r.pos:])
			if c == utf8.RuneError && size == 1 {
				return "", r.fail(r.pos, "UTF-8 text", r.found())
			}
			r.pos += size
		}
	}
	return "", r.fail(start, "a string that ends with a quote", "the end")
}

// escape reads one escape, the cursor at its backslash.
func (r *reader) escape() (rune, error) {
	at := r.pos
	r.pos++
	c := r.peek()
	if c != 'u' {
		i := strings.IndexByte(`"\/bfnrt`, c)
		if i < 0 || c == 0 {
			return 0, r.fail(at, `an escape such as \n or \u0041`, r.found())
		}
		r.pos++
		return rune("\"\\/\b\f\n\r\t"[i]), nil
	}
	r.pos++
	high, err := r.hex(at)
	if err != nil || !utf16.IsSurrogate(high) {
		return high, err
	}
	if !strings.HasPrefix(r.text[r.pos:], `\u`) {
		return 0, r.fail(at, "the second half of a surrogate pair", r.found())
	}
	r.pos += 2
	low, err := r.hex(at)
	if err != nil {
		return 0, err
	}
	c2 := utf16.DecodeRune(high, low)
	if c2 == utf8.RuneError {
		return 0, r.fail(at, "a surrogate pair", "two halves that do not fit")
	}
	return c2, nil
}

func (r *reader) hex(at int) (rune, error) {
	if r.pos+4 > len(r.text) {
		return 0, r.fail(at, `four hexadecimal digits after \u`, "the end")
	}
	digits := r.text[r.pos : r.pos+4]
	n, err := strconv.ParseUint(digits, 16, 16)
	if err != nil {
		return 0, r.fail(at, `four hexadecimal digits after \u`, strconv.Quote(digits))
	}
	r.pos += 4
	return rune(n), nil
}

// AppendJSONString appends s as a JSON string in the spelling of canonical
// texts: only quotes, backslashes and control characters are escaped.
func AppendJSONString(dst []byte, s string) []byte { return appendJSONText(dst, s) }

func appendJSONText[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c >= ' ':
			dst = append(dst, c)
		default:
			if j := strings.IndexByte("\b\f\n\r\t", c); j >= 0 {
				dst = append(dst, '\\', "bfnrt"[j])
			} else {
				dst = fmt.Appendf(dst, "\\u%04X", c)
			}
		}
	}
	return append(dst, '"')
}

// EscapePointer returns name as a token of a JSON Pointer (RFC 6901).
func EscapePointer(name string) string {
	if !strings.ContainsAny(name, "~/") {
		return name
	}
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// UnescapePointer is the reverse of EscapePointer.
func UnescapePointer(token string) string {
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
}
