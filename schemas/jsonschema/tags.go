package jsonschema

import (
	"strconv"
	"strings"

	"penstock/schemas"
)

var _ schemas.Tagger = (*Schema)(nil)

// Retag implements schemas.Tagger. A property that is an object itself is two
// entities, a field and a record, which share their tags. References within the
// text are followed, each place once.
func (s *Schema) Retag(change func(schemas.Entity, []string) []string) (string, error) {
	top, err := read(s.canonical)
	if err != nil {
		return "", err
	}
	t := tagger{top, change, map[*schemas.JSONNode]bool{}}
	t.visit(top, nil)
	return string(appendText(nil, top, false)), nil
}

type tagger struct {
	root   *schemas.JSONNode
	change func(schemas.Entity, []string) []string
	seen   map[*schemas.JSONNode]bool
}

func (t *tagger) visit(n *schemas.JSONNode, path []string) {
	if n == nil || t.seen[n] {
		return
	}
	t.seen[n] = true
	for _, word := range []string{"allOf", "anyOf", "oneOf"} {
		if list := n.Get(word); list != nil {
			t.list(list, append(path, strings.ToLower(word)))
		}
	}
	t.visit(n.Get("not"), append(path, "not"))
	if ref := n.Get("$ref"); ref != nil {
		t.visit(t.find(ref.Text), path)
	}
	if items := n.Get("items"); items != nil {
		t.visit(items, append(path, "array"))
		t.list(items, append(path, "array"))
	}
	if items := n.Get("prefixItems"); items != nil {
		t.list(items, append(path, "array"))
	}
	properties := n.Get("properties")
	if kind := n.Get("type"); properties == nil && (kind == nil || kind.Text != "object") {
		return
	}
	path = append(path, "object")
	n.Members = schemas.RetagMembers(n.Members, schemas.Entity{Path: strings.Join(path, "."), Type: schemas.RecordEntity}, t.change)
	if properties == nil {
		return
	}
	for _, p := range properties.Members {
		field := append(path, p.Name)
		p.Value.Members = schemas.RetagMembers(p.Value.Members, schemas.Entity{Path: strings.Join(field, "."), Type: schemas.FieldEntity}, t.change)
		t.visit(p.Value, field)
	}
}

func (t *tagger) list(n *schemas.JSONNode, path []string) {
	for i, item := range n.Items {
		t.visit(item, append(path, strconv.Itoa(i)))
	}
}

// find returns what a pointer from the root leads to, or nil.
func (t *tagger) find(ref string) *schemas.JSONNode {
	pointer, ok := strings.CutPrefix(ref, "#/")
	at := t.root
	for step := range strings.SplitSeq(pointer, "/") {
		if !ok || at == nil {
			return nil
		}
		at = at.Get(schemas.UnescapePointer(step))
	}
	return at
}
