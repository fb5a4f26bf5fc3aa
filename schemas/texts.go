package schemas

import (
	"cmp"
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
