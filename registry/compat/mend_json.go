package compat

import (
	"slices"
	"strconv"
	"strings"

	"penstock/registry"
	"penstock/schemas"
)

// jsonMender finds the edits of a JSON Schema.
type jsonMender struct {
	paths        pathWriter
	old, root    *schemas.JSONNode
	before, text string
	required     map[*schemas.JSONNode]*nameList // by the object that has it
}

// mend returns the edits that mend a change, and notes in which directions they
// do. A field that is gone, or has a new name, comes back as it was; one that is
// required anew no longer is; one that the old readers need is required again.
func (m *jsonMender) mend(c *Change) []edit {
	switch {
	case c.has(schemas.FieldRemoved):
		record := m.record(m.paths.json(c.change.New))
		edits := m.putBack(c, record)
		if edits != nil && ofProperty(c) {
			c.Mends = c.Breaks
		}
		return edits
	case c.has(schemas.FieldAdded), c.has(schemas.FieldRequired):
		if !slices.Contains(c.Breaks, registry.Backward) || !onlyRequires(c) {
			return nil
		}
		place := c.change.New
		if place.Step == schemas.StepField {
			place = place.Up
		}
		f := c.change.NewField
		list := m.list(m.record(m.paths.json(place)), false)
		if f == nil || list == nil || !slices.Contains(list.items, f.Name) {
			return nil
		}
		c.Mends = []registry.Direction{registry.Backward}
		return []edit{{list: list, drop: f.Name}}
	case c.has(schemas.FieldOptional):
		place := c.change.New
		if place.Step == schemas.StepField {
			place = place.Up
		}
		list := m.list(m.record(m.paths.json(place)), true)
		if c.change.NewField == nil || list == nil || !slices.Contains(c.Breaks, registry.Forward) {
			return nil
		}
		if ofProperty(c) {
			c.Mends = []registry.Direction{registry.Forward}
		}
		return []edit{{list: list, add: c.change.NewField.Name}}
	}
	return nil
}

// onlyRequires reports whether all that stands against the new schema as a reader
// is that it requires the field.
func onlyRequires(c *Change) bool {
	return !slices.ContainsFunc(c.Findings, func(f registry.Finding) bool {
		return f.Direction == registry.Backward && f.Rule != "REQUIRED_ATTRIBUTE_ADDED" && f.Rule != "REQUIRED_PROPERTY_ADDED_TO_UNOPEN_CONTENT_MODEL"
	})
}

// ofProperty reports whether all that stands against a change is about a property,
// and not about a combination that lies around it.
func ofProperty(c *Change) bool {
	return !slices.ContainsFunc(c.Findings, func(f registry.Finding) bool {
		return !strings.HasPrefix(f.Rule, "PROPERTY_") && !strings.HasPrefix(f.Rule, "REQUIRED_")
	})
}

// record is the object of a text that a path leads to, nil if it leads there by
// no way of the text itself or that has no properties of its own.
func (m *jsonMender) record(path string) *schemas.JSONNode {
	n := exactly(m.root, path)
	if n == nil || n.Kind != schemas.JSONObject || n.Get("properties") == nil || n.Get("properties").Kind != schemas.JSONObject || n.Get("$ref") != nil {
		return nil
	}
	return n
}

func exactly(root *schemas.JSONNode, path string) *schemas.JSONNode {
	const most = 10_000
	l := jsonLocator{root: root, left: most}
	l.schema(root, strings.Trim(path, "/"), 0)
	if l.rest != 0 {
		return nil
	}
	return l.best
}

// putBack adds the old property to the record, unless its text refers to others.
func (m *jsonMender) putBack(c *Change, record *schemas.JSONNode) []edit {
	f := c.change.OldField
	was := exactly(m.old, strings.TrimPrefix(c.OldPath, "#"))
	if record == nil || was == nil || f == nil || record.Get("properties").Get(f.Name) != nil || len(record.Get("properties").Members) == 0 {
		return nil
	}
	text := m.before[was.Offset:end(m.before, was.Offset)]
	if strings.Contains(text, `"$ref"`) {
		return nil
	}
	edits := member(record.Get("properties"), m.text, f.Name, text, false)
	if edits != nil && f.Required {
		list := m.list(record, true)
		if list == nil {
			return nil
		}
		edits = append(edits, edit{list: list, add: f.Name})
	}
	return edits
}

// list is what an object requires, as one list for all edits; with create one
// that is yet to be made.
func (m *jsonMender) list(record *schemas.JSONNode, create bool) *nameList {
	if record == nil {
		return nil
	}
	if l := m.required[record]; l != nil {
		return l
	}
	l := &nameList{}
	switch required := record.Get("required"); {
	case required == nil && !create:
		return nil
	case required == nil:
		l.start = len(strings.TrimRight(m.text[:end(m.text, record.Offset)-1], " \t\r\n"))
		l.end, l.before = l.start, ", "+strconv.Quote("required")+": "
	case required.Kind != schemas.JSONArray:
		return nil // as draft 3 has it
	default:
		l.start, l.end = required.Offset, end(m.text, required.Offset)
		for _, item := range required.Items {
			l.items = append(l.items, item.Text)
		}
	}
	m.required[record] = l
	return l
}
