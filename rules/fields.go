package rules

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"cel.dev/cel-go/common/types/traits"

	"penstock/schemas"
)

// maxMembers bounds how many records of a schema are kept in mind; a recursive
// JSON Schema has no end of them, since the path is part of a field's name.
const maxMembers = 10_000

// fields knows what the fields of a schema are called and how they are tagged.
type fields struct {
	values values
	// tagged says that some field has tags.
	tagged bool
	byPath []pathTags
	// known is []member by place.
	known sync.Map
	count atomic.Int64
}

// pathTags are the tags of the fields whose full names match.
type pathTags struct {
	matches *regexp.Regexp
	tags    []string
}

// place is a record of the schema. The path is part of it in JSON Schema alone,
// where records need no names.
type place struct {
	node *schemas.Node
	path string
}

// member is a field of a record.
type member struct {
	*schemas.Field
	name, fullName string
	tags           []string
}

func newFields(s schemas.Schema, m *Metadata) *fields {
	f := &fields{values: values{language: s.Type()}}
	if m != nil {
		for _, path := range slices.Sorted(maps.Keys(m.Tags)) {
			f.byPath = append(f.byPath, pathTags{wildcard(path), m.Tags[path]})
		}
	}
	f.tagged = len(f.byPath) > 0 || anyTags(s.Model(), map[*schemas.Node]bool{})
	return f
}

func anyTags(n *schemas.Node, seen map[*schemas.Node]bool) bool {
	if n == nil || seen[n] {
		return false
	}
	seen[n] = true
	for _, f := range n.Fields {
		if len(f.Tags) > 0 || anyTags(f.Node, seen) {
			return true
		}
	}
	return anyTags(n.Items, seen) || slices.ContainsFunc(n.Branches, func(b *schemas.Node) bool { return anyTags(b, seen) })
}

// wildcard compiles a pattern for full names: ? is a character, * any number of
// them, neither across a dot, and ** any number across dots.
func wildcard(pattern string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '?':
			b.WriteString(`[^.]`)
		case c == '*' && strings.HasPrefix(pattern[i:], "**"):
			b.WriteString(`.*`)
			if i++; strings.HasPrefix(pattern[i+1:], ".*") {
				i += 2
			}
		case c == '*':
			b.WriteString(`[^.]*`)
		default:
			if c == '\\' && i+1 < len(pattern) {
				i++
			}
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		}
	}
	b.WriteString(`\z`)
	return regexp.MustCompile(b.String())
}

// of returns the fields of the record n, which stands at path.
func (f *fields) of(n *schemas.Node, path string) []member {
	at := place{node: n}
	prefix := n.Name + "."
	if f.values.language == schemas.JSON {
		at.path, prefix = path, path+"."
	}
	if known, ok := f.known.Load(at); ok {
		return known.([]member)
	}
	members := make([]member, len(n.Fields))
	for i := range n.Fields {
		field := &n.Fields[i]
		m := member{Field: field, name: field.Name, fullName: prefix + field.Name}
		tags := slices.Clone(field.Tags)
		for _, p := range f.byPath {
			if p.matches.MatchString(m.fullName) {
				tags = append(tags, p.tags...)
			}
		}
		slices.Sort(tags)
		m.tags = slices.Compact(tags)
		members[i] = m
	}
	if f.count.Add(1) <= maxMembers {
		f.known.Store(at, members)
	}
	return members
}

// typeName is what Confluent's clients call the type of n.
func (f *fields) typeName(n *schemas.Node) string {
	switch n.Kind {
	case schemas.Bool:
		return "BOOLEAN"
	case schemas.Int:
		if n.Bits == 64 && f.values.language != schemas.JSON {
			return "LONG"
		}
		return "INT"
	case schemas.Float:
		if n.Bits == 32 {
			return "FLOAT"
		}
		return "DOUBLE"
	case schemas.String:
		if n.Logical == schemas.Timestamp && f.values.language == schemas.Protobuf {
			return "LONG"
		}
		return "STRING"
	case schemas.Bytes:
		return "BYTES"
	case schemas.Null:
		return "NULL"
	}
	return "" // no field rule is about it
}

// fieldProgram runs an expression for each field.
type fieldProgram struct{ celProgram }

func (p fieldProgram) run(_ context.Context, s *Set, r *rule, v any) (any, []schemas.Violation, error) {
	w := &walk{program: p.celProgram, fields: s.fields, rule: r}
	if _, isPayload := v.([]byte); isPayload || slices.Contains(r.modes, "UPGRADE") || slices.Contains(r.modes, "DOWNGRADE") {
		return nil, nil, fmt.Errorf("expected a rule of type CEL_FIELD among the domainRules, found it elsewhere; move it there")
	}
	out, err := w.node(s.schema.Model(), v, "$", nil, nil, maxDepth)
	if err != nil {
		return nil, nil, err
	}
	return out, w.violations, nil
}

// walk is one rule on its way through one record.
type walk struct {
	program    celProgram
	fields     *fields
	rule       *rule
	at         []string // the names and indexes that lead to here
	violations []schemas.Violation
}

// around is the record that a field stands in, as the walk leaves it.
type around struct {
	node   *schemas.Node
	fields map[string]any
}

// node returns what becomes of v, a value of n. m is the field it belongs to and
// in the record around it, both nil at the root.
func (w *walk) node(n *schemas.Node, v any, path string, m *member, in *around, depth int) (any, error) {
	n = branch(n, v)
	if n == nil {
		return v, nil // it fits no branch, which the encoder will say
	}
	if depth == 0 {
		return nil, fmt.Errorf("expected at most %d levels, found more", maxDepth)
	}
	switch n.Kind {
	case schemas.Record:
		if fields, ok := v.(map[string]any); ok {
			return w.record(n, fields, path, depth)
		}
		return v, nil
	case schemas.Array:
		list, ok := v.([]any)
		if !ok {
			return v, nil
		}
		var out []any
		for i, item := range list {
			w.at = append(w.at, strconv.Itoa(i))
			next, err := w.node(n.Items, item, path, m, in, depth-1)
			w.at = w.at[:len(w.at)-1]
			if err != nil {
				return nil, err
			}
			if out == nil && w.rule.Kind == "TRANSFORM" {
				out = slices.Clone(list)
			}
			if out != nil {
				out[i] = next
			}
		}
		if out == nil {
			return v, nil
		}
		return out, nil
	case schemas.Map:
		entries, ok := v.(map[string]any)
		if !ok || w.fields.values.language == schemas.JSON {
			return v, nil // what a JSON Schema does not name is no field
		}
		var out map[string]any
		for _, name := range slices.Sorted(maps.Keys(entries)) {
			w.at = append(w.at, name)
			next, err := w.node(n.Items, entries[name], path, m, in, depth-1)
			w.at = w.at[:len(w.at)-1]
			if err != nil {
				return nil, err
			}
			if out == nil && w.rule.Kind == "TRANSFORM" {
				out = maps.Clone(entries)
			}
			if out != nil {
				out[name] = next
			}
		}
		if out == nil {
			return v, nil
		}
		return out, nil
	}
	name := w.fields.typeName(n)
	if m == nil || name == "" || !w.about(m) {
		return v, nil
	}
	return w.leaf(n, name, v, m, in)
}

// about reports whether the rule is about m.
func (w *walk) about(m *member) bool {
	return len(w.rule.Tags) == 0 || slices.ContainsFunc(w.rule.Tags, func(tag string) bool { return slices.Contains(m.tags, tag) })
}

func (w *walk) record(n *schemas.Node, fields map[string]any, path string, depth int) (any, error) {
	in := &around{node: n, fields: fields}
	changed := false
	for _, m := range w.fields.of(n, path) {
		v, ok := fields[m.name]
		if !ok || v == nil && w.fields.values.language != schemas.Avro {
			// Confluent's clients have a message of Protobuf hold what is not
			// there, if its absence is not to be told.
			if _, nullable := m.Node.Nullable(); w.fields.values.language != schemas.Protobuf || nullable || !m.HasDefault {
				continue
			}
			v = m.Default
		}
		w.at = append(w.at, m.name)
		next, err := w.node(m.Node, v, m.fullName, &m, in, depth-1)
		w.at = w.at[:len(w.at)-1]
		if err != nil {
			return nil, err
		}
		if w.rule.Kind != "TRANSFORM" || !ok && reflect.DeepEqual(next, v) {
			continue
		}
		if !changed {
			in.fields, changed = maps.Clone(fields), true
		}
		in.fields[m.name] = next
	}
	return in.fields, nil
}

// leaf runs the expression for a value without parts.
func (w *walk) leaf(n *schemas.Node, typeName string, v any, m *member, in *around) (any, error) {
	values := w.fields.values
	result, applies, err := w.program.eval(&scope{
		message: values.toCEL(in.node, in.fields), value: values.toCEL(n, v), member: m, typeName: typeName,
	})
	switch {
	case err != nil:
		if len(m.tags) > 0 || w.fields.tagged {
			err = errNotShown
		}
		return nil, fmt.Errorf("at %s: %w", w.pointer(), err)
	case !applies:
		return v, nil
	case w.rule.Kind == "TRANSFORM":
		switch result.(type) {
		case traits.Mapper, traits.Lister, *message:
			// A record could come to lie in itself, and each field double it.
			return nil, fmt.Errorf("at %s: expected a value without parts, found %s; mend the expression", w.pointer(), result.Type().TypeName())
		}
		return values.fromCEL(m.Node, result, 1)
	}
	if !holds(result) && len(w.violations) < schemas.MaxViolations {
		found := schemas.Describe(v)
		if len(m.tags) > 0 {
			found = fmt.Sprintf("a value that is not shown, since it is tagged %s", strings.Join(m.tags, ", "))
		}
		w.violations = append(w.violations, schemas.Violation{
			Pointer: w.pointer(), Expected: w.rule.expected(), Found: found, Hint: "correct the value, or the rule in the registry",
		})
	}
	return v, nil
}

func (w *walk) pointer() string {
	var b strings.Builder
	for _, name := range w.at {
		b.WriteString("/" + schemas.EscapePointer(name))
	}
	return b.String()
}
