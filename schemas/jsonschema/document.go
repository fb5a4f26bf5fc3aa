package jsonschema

import "penstock/schemas"

// Document returns the schema's text, as it was read, and the URL that relative
// references in it begin from as long as it has no $id. Treat it as read-only.
func (s *Schema) Document() (text *schemas.JSONNode, base string) { return s.texts.read[root], root }

// Reference returns the text that a $ref to an absolute URL, without its
// fragment, leads to: one of those that the schema was parsed with and refers
// to. It returns nil for any other, the drafts' own schemas among them. Treat
// the text as read-only.
func (s *Schema) Reference(address string) *schemas.JSONNode { return s.texts.read[address] }

// Keep calls build the first time, and returns what that returned as long as
// the schema lives. It is for the one who compares schemas.
func (s *Schema) Keep(build func() any) any {
	s.once.Do(func() { s.kept = build() })
	return s.kept
}
