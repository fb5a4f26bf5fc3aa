package jsonschema

import (
	"github.com/santhosh-tekuri/jsonschema/v6"

	"penstock/schemas"
)

// A value may be held against so many schemas, and so many more for each value
// in it; the first take a tenth of a second or so.
const (
	visitsAtAll = 1 << 17
	visitsEach  = 16
)

// counted is a compiled schema that counts. The library tries all alternatives
// of a schema to the end, so where alternatives contain themselves its time
// doubles, or worse, with every level of a value, and nothing else stops it.
// The count belongs to one validation, so one goroutine at a time uses it.
type counted struct {
	lib  *jsonschema.Schema
	left int
}

// newCounted panics if the schema, which was compiled before, does not compile.
func newCounted(top *schemas.JSONNode, refs map[string]string) *counted {
	c := &counted{}
	var err error
	if c.lib, _, err = compile(top, refs, c); err != nil {
		panic(err)
	}
	return c
}

// tooMany is the panic that ends a validation.
type tooMany struct{}

// Validate implements jsonschema.SchemaExt.
func (c *counted) Validate(*jsonschema.ValidatorContext, any) {
	if c.left--; c.left < 0 {
		panic(tooMany{})
	}
}

// validate is the library's Validate, within bounds.
func (s *Schema) validate(v any) error {
	if s.counted == nil {
		return s.lib.Validate(v)
	}
	c := s.counted.Get().(*counted)
	defer s.counted.Put(c)
	c.left = visitsAtAll + visitsEach*count(v)
	return c.lib.Validate(v)
}

// count returns how many values there are in v.
func count(v any) int {
	n := 1
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			n += count(e)
		}
	case map[string]any:
		for _, e := range v {
			n += count(e)
		}
	}
	return n
}
