package compat

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/bufbuild/protocompile/ast"
	"github.com/bufbuild/protocompile/parser"
	"github.com/bufbuild/protocompile/reporter"

	"penstock/registry"
	"penstock/schemas"
)

// edit puts text in the place of a part of another, or a name into a list or out
// of it.
type edit struct {
	start, end int
	text       string
	list       *nameList
	add, drop  string
}

// nameList is a list of names in a text, which several edits change.
type nameList struct {
	start, end int
	before     string // what stands before it, where there is none yet
	items      []string
}

// edited is the list after edits of it, the others left out.
func (l *nameList) edited(all []edit) edit {
	items := l.items
	for _, e := range all {
		switch {
		case e.list != l:
		case e.drop != "":
			items = slices.DeleteFunc(slices.Clone(items), func(s string) bool { return s == e.drop })
		case !slices.Contains(items, e.add):
			items = append(slices.Clone(items), e.add)
		}
	}
	text, _ := json.Marshal(append([]string{}, items...))
	return edit{start: l.start, end: l.end, text: l.before + strings.ReplaceAll(string(text), `","`, `", "`)}
}

// Mend returns the new schema's text with what is mechanical among the changes
// mended: in Avro a default and null for a field that is new, an alias for a
// field or type that has a new name; in Protobuf the reservation of what is
// gone; in JSON Schema a property that is put back, and what is required put in
// or taken out of the list of that. text is that of the side that Diff was given, and changes are Diff's, or
// some of them. How the rest is written stays as it is.
func Mend(text string, changes []Change) string {
	var found, all []edit
	for _, c := range changes {
		found = append(found, c.edits...)
	}
	lists := map[*nameList]bool{}
	for _, e := range found {
		if e.list == nil {
			all = append(all, e)
		} else if !lists[e.list] {
			lists[e.list] = true
			all = append(all, e.list.edited(found))
		}
	}
	slices.SortStableFunc(all, func(a, b edit) int { return a.start - b.start })
	var out strings.Builder
	at := 0
	for _, e := range all {
		if e.start < at { // within what another has replaced
			continue
		}
		out.WriteString(text[at:e.start])
		out.WriteString(e.text)
		at = e.end
	}
	out.WriteString(text[at:])
	return out.String()
}

// mend finds the edits that mend the changes, and marks those that have some.
func (w *diffWalk) mend(before, source registry.Schema) {
	var find func(c *Change) []edit
	for i := range w.changes {
		c := &w.changes[i]
		if source.Schema == "" || !w.mendable(c) {
			continue
		}
		if find == nil {
			find = w.mender(before.Schema, source.Schema)
		}
		c.edits = find(c)
		// A branch that none could read was not looked into: what else keeps it from
		// being read shows once it has its name again.
		hidden := slices.ContainsFunc(c.Findings, func(f registry.Finding) bool { return f.Rule == "MISSING_UNION_BRANCH" })
		if c.Mechanical = len(c.edits) > 0; c.Mechanical && w.language == schemas.Avro && !hidden {
			c.Mends = []registry.Direction{registry.Backward}
		}
	}
}

// mendable reports whether a change is of a kind that can be mended.
func (w *diffWalk) mendable(c *Change) bool {
	backward := slices.Contains(c.Breaks, registry.Backward)
	switch w.language {
	case schemas.Avro:
		return c.has(schemas.FieldRenamed) && c.By != "alias" ||
			backward && (c.has(schemas.FieldAdded) && !c.change.NewField.HasDefault ||
				c.has(schemas.TypeRenamed) && !slices.Contains(c.change.New.Node.Aliases, c.Was))
	case schemas.Protobuf:
		return c.has(schemas.FieldRemoved) && c.change.New.Up == nil && c.Severity == registry.SeverityWarning
	default:
		return len(c.Breaks) > 0
	}
}

func (w *diffWalk) mender(before, text string) func(c *Change) []edit {
	none := func(*Change) []edit { return nil }
	if w.language == schemas.Protobuf {
		file, err := parser.Parse("", strings.NewReader(text), reporter.NewHandler(nil))
		if err != nil {
			return none
		}
		return func(c *Change) []edit { return reserve(file, c) }
	}
	root, err := schemas.ReadJSON(text, schemas.JSONOptions{LastWins: true})
	if err != nil {
		return none // it has comments
	}
	if w.language == schemas.JSON {
		old, err := schemas.ReadJSON(before, schemas.JSONOptions{LastWins: true})
		if err != nil {
			return none
		}
		m := jsonMender{paths: w.new, old: old, before: before, root: root, text: text, required: map[*schemas.JSONNode]*nameList{}}
		return m.mend
	}
	return func(c *Change) []edit { return mendAvro(root, text, c) }
}

// reserve is the reservation of a field that is gone, at the begin of the
// message.
func reserve(file *ast.FileNode, c *Change) []edit {
	message, ok := elementAt(file, c.NewPath).(*ast.MessageNode)
	if !ok {
		return nil
	}
	at := file.NodeInfo(message.OpenBrace).Start().Offset + 1
	f := c.change.OldField
	words := fmt.Sprintf("\n  reserved %d; // was %s", f.Number, f.Name)
	if file.NodeInfo(message.OpenBrace).End().Line == file.NodeInfo(message.CloseBrace).Start().Line {
		words = fmt.Sprintf(" reserved %d;", f.Number)
	}
	return []edit{{start: at, end: at, text: words}}
}

func mendAvro(root *schemas.JSONNode, text string, c *Change) []edit {
	switch {
	case c.has(schemas.TypeRenamed):
		definition := definitionOf(root, c.change.New.Node.Name)
		return member(definition, text, "aliases", strconv.Quote(c.Was), true)
	case c.has(schemas.FieldRenamed):
		f := fieldText(definitionOf(root, c.change.New.Up.Node.Name), c.Is)
		return member(f, text, "aliases", strconv.Quote(c.Was), true)
	}
	f := fieldText(definitionOf(root, c.change.New.Up.Node.Name), c.change.NewField.Name)
	edits := member(f, text, "default", "null", false)
	if edits == nil {
		return nil
	}
	typ := f.Get("type")
	n := c.change.NewField.Node
	switch {
	case n.Kind == schemas.Null || n.Kind == schemas.Union && n.Branches[0].Kind == schemas.Null:
		return edits
	case n.Kind != schemas.Union:
		return append(edits, edit{start: typ.Offset, end: end(text, typ.Offset), text: `["null", ` + text[typ.Offset:end(text, typ.Offset)] + `]`})
	}
	branches := []string{`"null"`}
	for i, b := range typ.Items {
		if n.Branches[i].Kind != schemas.Null {
			branches = append(branches, text[b.Offset:end(text, b.Offset)])
		}
	}
	return append(edits, edit{start: typ.Offset, end: end(text, typ.Offset), text: "[" + strings.Join(branches, ", ") + "]"})
}

// member adds a member to an object, or a value to one that is a list.
func member(object *schemas.JSONNode, text, name, value string, list bool) []edit {
	if object == nil || object.Kind != schemas.JSONObject {
		return nil
	}
	if there := object.Get(name); there != nil {
		if !list || there.Kind != schemas.JSONArray {
			return nil
		}
		at := there.Offset + 1
		if len(there.Items) > 0 {
			value += ", "
		}
		return []edit{{start: at, end: at, text: value}}
	}
	if list {
		value = "[" + value + "]"
	}
	at := end(text, object.Offset) - 1
	at = len(strings.TrimRight(text[:at], " \t\r\n"))
	return []edit{{start: at, end: at, text: fmt.Sprintf(", %q: %s", name, value)}}
}

// end is where the JSON value ends that begins at an offset.
func end(text string, offset int) int {
	d := json.NewDecoder(strings.NewReader(text[offset:]))
	var raw json.RawMessage
	if err := d.Decode(&raw); err != nil && err != io.EOF {
		return offset
	}
	return offset + int(d.InputOffset())
}

// definitionOf is where a text defines the type of a full name, nil if it does
// so nowhere or more than once by the simple name.
func definitionOf(n *schemas.JSONNode, full string) *schemas.JSONNode {
	var found []*schemas.JSONNode
	var visit func(n *schemas.JSONNode)
	visit = func(n *schemas.JSONNode) {
		for _, item := range n.Items {
			visit(item)
		}
		if n.Kind != schemas.JSONObject {
			return
		}
		// A field has a name and a type too, but none of these.
		named := n.Get("fields") != nil || n.Get("symbols") != nil || n.Get("size") != nil
		if named && simpleName(textOf(n.Get("name"))) == simpleName(full) {
			found = append(found, n)
		}
		for _, m := range n.Members {
			if m.Name == "type" || m.Name == "items" || m.Name == "values" || m.Name == "fields" {
				visit(m.Value)
			}
		}
	}
	visit(n)
	if len(found) != 1 {
		return nil
	}
	return found[0]
}

// fieldText is where a record's text has a field.
func fieldText(record *schemas.JSONNode, name string) *schemas.JSONNode {
	if record == nil || record.Get("fields") == nil {
		return nil
	}
	for _, f := range record.Get("fields").Items {
		if textOf(f.Get("name")) == name {
			return f
		}
	}
	return nil
}
