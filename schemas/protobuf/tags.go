package protobuf

import (
	"slices"
	"strings"

	"penstock/schemas"
)

var _ schemas.Tagger = (*Schema)(nil)

// metaImport defines the options that hold tags.
const metaImport = "confluent/meta.proto"

// Retag implements schemas.Tagger. A text that gets its first tag imports what
// defines them.
func (s *Schema) Retag(change func(schemas.Entity, []string) []string) (string, error) {
	source, err := s.source()
	if err != nil {
		return "", err
	}
	t := tagger{change: change}
	for _, m := range source.messages {
		t.message(m, m.name)
	}
	if t.tagged && !slices.Contains(slices.Concat(source.imports, source.public, source.weak), metaImport) {
		source.imports = append(source.imports, metaImport)
	}
	return source.print(false), nil
}

type tagger struct {
	change func(schemas.Entity, []string) []string
	tagged bool // there are tags now
}

func (t *tagger) message(m *messageText, path string) {
	m.options = t.options(m.options, "confluent.message_meta", schemas.Entity{Path: path, Type: schemas.RecordEntity})
	fields := slices.Concat(m.fields, m.groups)
	for _, o := range m.oneofs {
		fields = slices.Concat(fields, o.fields, o.groups)
	}
	for _, f := range fields {
		f.options = t.options(f.options, "confluent.field_meta", schemas.Entity{Path: path + "." + f.name, Type: schemas.FieldEntity})
		if f.body != nil {
			t.message(f.body, path+"."+f.name)
		}
	}
	for _, inner := range m.messages {
		t.message(inner, path+"."+inner.name)
	}
}

// options changes the tags that the option of a name, an extension's, holds:
// those of its member tags, as an aggregate or by a dotted name.
func (t *tagger) options(options []option, name string, e schemas.Entity) []option {
	const member = "tags"
	own := func(o option) bool {
		return o.name[0].extension && strings.TrimPrefix(o.name[0].name, ".") == name
	}
	dotted := func(o option) bool { return own(o) && len(o.name) == 2 && o.name[1].name == member }
	isTags := func(e entry) bool { return e.key == member }
	var before []string
	whole := -1 // where an aggregate is that may hold them
	for i, o := range options {
		switch {
		case dotted(o):
			before = append(before, o.value.texts()...)
		case own(o) && len(o.name) == 1 && o.value.kind == aggregate:
			whole = i
			for _, e := range o.value.entries {
				if isTags(e) {
					before = append(before, e.value.texts()...)
				}
			}
		}
	}
	after := t.change(e, before)
	t.tagged = t.tagged || len(after) > 0
	if slices.Equal(before, after) {
		return options
	}
	list := value{kind: listing}
	for _, tag := range after {
		list.list = append(list.list, value{kind: quoted, text: tag})
	}
	options = slices.Clone(options)
	if whole >= 0 {
		v := &options[whole].value
		v.entries = slices.DeleteFunc(slices.Clone(v.entries), isTags)
		if len(after) > 0 {
			v.entries = append(v.entries, entry{member, list})
		}
	}
	options = slices.DeleteFunc(options, func(o option) bool {
		return dotted(o) || own(o) && len(o.name) == 1 && o.value.kind == aggregate && len(o.value.entries) == 0
	})
	if whole >= 0 {
		return options
	}
	// Before default and json_name, which are the last.
	end := slices.IndexFunc(options, func(o option) bool { return o.is("default") || o.is("json_name") })
	if end < 0 {
		end = len(options)
	}
	for i, tag := range list.list {
		o := option{[]namePart{{name, true}, {member, false}}, tag}
		options = slices.Insert(options, end+i, o)
	}
	return options
}

// texts are the strings of a value that is one or a list of them.
func (v value) texts() []string {
	var texts []string
	for _, item := range v.items() {
		if item.kind == quoted {
			texts = append(texts, item.text)
		}
	}
	return texts
}
