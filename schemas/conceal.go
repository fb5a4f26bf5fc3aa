package schemas

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Sensitive are the tags that make a field sensitive unless others are named: those
// that Confluent's catalog has from the start for what not everybody may see.
var Sensitive = []string{"PII", "PRIVATE", "SENSITIVE"}

// Conceal returns err without the values of fields that bear one of tags, or that lie
// in such a field, if err is a *ValueError of a value that should fit n; another one it
// returns as it is. Of a concealed value the kind remains, and neither text nor
// length; the names of entries that lie within a sensitive map go with it.
func Conceal(n *Node, tags []string, err error) error {
	misfit := (*ValueError)(nil)
	if n == nil || !errors.As(err, &misfit) {
		return err
	}
	c := concealer{tags: tags}
	if c.below(n, map[*Node]bool{}) == "" {
		return err
	}
	out := slices.Clone(misfit.Violations)
	for i := range out {
		c.conceal(n, &out[i])
	}
	return &ValueError{Violations: out}
}

type concealer struct{ tags []string }

func (c concealer) conceal(n *Node, v *Violation) {
	at, tag := []*Node{n}, ""
	tokens := strings.Split(v.Pointer, "/")[1:]
	for i, token := range tokens {
		var next []*Node
		for _, n := range at {
			nodes, of := c.step(n, UnescapePointer(token), 0)
			next, tag = append(next, nodes...), cmp.Or(tag, of)
		}
		// A name that the value gave, and not the schema, is part of the value.
		if tag != "" && (len(next) == 0 || slices.ContainsFunc(at, hasEntries)) {
			v.Pointer = strings.TrimSuffix("/"+strings.Join(tokens[:i], "/"), "/")
			break
		}
		at = next
	}
	if tag == "" {
		// What stands in the place of a record may be what the record should hold.
		for _, n := range at {
			tag = cmp.Or(tag, c.below(n, map[*Node]bool{}))
		}
	}
	if tag == "" {
		return
	}
	if v.Pointer == "" {
		v.Hint = "" // an encoder's words may quote what they are about
	}
	switch kind, _, _ := strings.Cut(v.Found, " "); kind {
	case "null", "nothing", "object", "array": // without a value, as Describe has them
	case "string", "number", "boolean", "timestamp", "duration", "decimal":
		v.Found = fmt.Sprintf("a %s that is not shown, since it is tagged %s", kind, tag)
	default:
		v.Found = "a value that is not shown, since it is tagged " + tag
	}
}

// hasEntries says whether what is below n is named by the value, not by the schema.
func hasEntries(n *Node) bool {
	return n.Kind == Map || n.Kind == Any || n.Kind == Union && slices.ContainsFunc(n.Branches, func(b *Node) bool { return b.Kind == Map || b.Kind == Any })
}

// step returns what may stand under a name or an index of n, and the sensitive tag
// of its field.
func (c concealer) step(n *Node, token string, depth int) (next []*Node, tag string) {
	switch n.Kind {
	case Record:
		for _, f := range n.Fields {
			if f.Name == token || slices.Contains(f.Aliases, token) {
				return []*Node{f.Node}, c.of(f)
			}
		}
	case Array, Map:
		return []*Node{n.Items}, ""
	case Union:
		for _, b := range n.Branches {
			if b.Name == token || b.Kind.String() == token {
				next = append(next, b) // a branch that is named in the value
			}
			if depth < maxValueDepth {
				nodes, of := c.step(b, token, depth+1)
				next = append(next, nodes...)
				tag = cmp.Or(tag, of)
			}
		}
	}
	return slices.DeleteFunc(next, func(n *Node) bool { return n == nil }), tag
}

func (c concealer) of(f Field) string {
	for _, tag := range f.Tags {
		if slices.Contains(c.tags, tag) {
			return tag
		}
	}
	return ""
}

// below returns a sensitive tag of a field somewhere below n.
func (c concealer) below(n *Node, seen map[*Node]bool) string {
	if n == nil || seen[n] {
		return ""
	}
	seen[n] = true
	for _, f := range n.Fields {
		if tag := cmp.Or(c.of(f), c.below(f.Node, seen)); tag != "" {
			return tag
		}
	}
	for _, b := range append([]*Node{n.Items}, n.Branches...) {
		if tag := c.below(b, seen); tag != "" {
			return tag
		}
	}
	return ""
}
