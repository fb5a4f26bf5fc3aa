package avro

import "penstock/schemas"

var _ schemas.Tagger = (*Schema)(nil)

// Retag implements schemas.Tagger.
func (s *Schema) Retag(change func(schemas.Entity, []string) []string) (string, error) {
	t, err := parseText(s.canonical, s.refs, false)
	if err != nil {
		return "", err
	}
	seen := map[*typ]bool{}
	var visit func(t *typ)
	visit = func(t *typ) {
		if t == nil || t.from != "" || seen[t] {
			return
		}
		seen[t] = true
		for _, member := range t.members {
			visit(member)
		}
		visit(t.items)
		if t.kind != "record" && t.kind != "error" {
			return
		}
		name := t.name.full()
		t.props = schemas.RetagMembers(t.props, schemas.Entity{Path: name, Type: schemas.RecordEntity}, change)
		for i := range t.fields {
			f := &t.fields[i]
			f.props = schemas.RetagMembers(f.props, schemas.Entity{Path: name + "." + f.name, Type: schemas.FieldEntity}, change)
			visit(f.typ)
		}
	}
	visit(t)
	out, err := t.print(canonicalForm)
	return string(out), err
}
