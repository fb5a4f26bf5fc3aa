package schemas

import (
	"cmp"
	"fmt"
	"unicode/utf8"
)

// What a registry asks of a schema's text beyond Canonical. A Schema implements
// what its language has; the functions below say what holds where it does not.

// Normalizer is a Schema with a second, stricter form: one text for all
// spellings that a registry asked to normalise takes for the same.
type Normalizer interface {
	// Normalized is that text. It parses, with the same references, to a
	// schema that means the same.
	Normalized() (string, error)
}

// Normalized returns the normalised text of s, or its canonical one where the
// language knows no other.
func Normalized(s Schema) (string, error) {
	if n, ok := s.(Normalizer); ok {
		return n.Normalized()
	}
	return s.Canonical(), nil
}

// Formatter is a Schema that can be written in other ways than Canonical, by
// the names that registries use: "resolved" is Avro with its references written
// out, "serialized" is a Protobuf file descriptor in base64,
// "ignore_extensions" is Protobuf without custom options and extensions.
type Formatter interface {
	// Text returns the text in a format, and "" for a name that the language
	// does not know.
	Text(format string) (string, error)
}

// Text returns the text of s in a format. A format that the language does not
// know, "" among them, is the canonical text.
func Text(s Schema, format string) (string, error) {
	if f, ok := s.(Formatter); ok && format != "" {
		text, err := f.Text(format)
		if err != nil || text != "" {
			return text, err
		}
	}
	return s.Canonical(), nil
}

// Comparer is a Schema that recognises itself in other spellings.
type Comparer interface {
	// Same reports whether other, of the same language, says the same to a
	// registry: it is the test by which a schema is found that is registered
	// already.
	Same(other Schema) bool
}

// Same reports whether a and b are one schema to a registry: of one language,
// and the same by its Comparer or else by their canonical texts.
func Same(a, b Schema) bool {
	if a.Type() != b.Type() {
		return false
	}
	if c, ok := a.(Comparer); ok {
		return c.Same(b)
	}
	return a.Canonical() == b.Canonical()
}

// Lenient is a Format that keeps texts which Parse refuses. A registry has such,
// if it copies another one that has let them pass.
type Lenient interface {
	Format
	// ParseRegistered is Parse for a text that was registered somewhere. What
	// the language's syntax does not allow it refuses too; of anything else it
	// makes what can be made of it, an Opaque if need be.
	ParseRegistered(text string, refs map[string]string) (Schema, error)
}

// Opaque is a schema that can be kept, and no more: a text of its language which
// makes no sense, or refers to what is not there.
type Opaque struct {
	language  Type
	canonical string
	cause     error
}

// NewOpaque makes one of a canonical text. cause says what is wrong with it.
func NewOpaque(language Type, canonical string, cause error) *Opaque {
	return &Opaque{language, canonical, cause}
}

// Type returns the language.
func (o *Opaque) Type() Type { return o.language }

// Canonical returns the text.
func (o *Opaque) Canonical() string { return o.canonical }

// Model says nothing.
func (o *Opaque) Model() *Node { return &Node{} }

// Cause says why the schema cannot be used.
func (o *Opaque) Cause() error { return o.cause }

// AppendEncode refuses.
func (o *Opaque) AppendEncode(dst []byte, _ any) ([]byte, error) {
	return dst, fmt.Errorf("encode: %w: %w", ErrBadSchema, o.cause)
}

// Decode refuses.
func (o *Opaque) Decode([]byte) (any, error) {
	return nil, fmt.Errorf("decode: %w: %w", ErrBadSchema, o.cause)
}

// TopFielder is a Schema whose Model does not tell all the fields at its top.
type TopFielder interface {
	// TopFields names them, in no order.
	TopFields() []string
}

// TopFields returns the names of the fields at the top of s: those of an Avro
// record, the properties of a JSON Schema, and in Protobuf those of all messages
// at the top of the file that lie outside oneofs.
func TopFields(s Schema) []string {
	if t, ok := s.(TopFielder); ok {
		return t.TopFields()
	}
	var names []string
	for _, f := range s.Model().Fields {
		names = append(names, f.Name)
	}
	return names
}

// CompareUTF16 orders texts by their UTF-16 code units, as Java and JavaScript
// do: like strings.Compare, but that what lies beyond the first 65,536
// characters comes before U+E000.
func CompareUTF16(a, b string) int {
	for {
		x, n := utf8.DecodeRuneInString(a)
		y, m := utf8.DecodeRuneInString(b)
		if x != y || n == 0 || m == 0 {
			return cmp.Or(cmp.Compare(min(n, 1), min(m, 1)), cmp.Compare(leadingUnit(x), leadingUnit(y)), cmp.Compare(x, y))
		}
		a, b = a[n:], b[m:]
	}
}

// leadingUnit is the first UTF-16 code unit of a character.
func leadingUnit(c rune) rune {
	if c < 1<<16 {
		return c
	}
	return 0xD800 + (c-1<<16)>>10
}
