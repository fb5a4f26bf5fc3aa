package jsonschema

import (
	"encoding/json"
	"maps"
	"math"
	"math/big"
	"net/url"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"penstock/schemas"
)

// modeller turns compiled schemas into the neutral tree.
type modeller struct {
	*documents
	nodes    map[*jsonschema.Schema]*schemas.Node
	anything *schemas.Node // of what is not described
	members  map[*schemas.JSONNode]map[string]*schemas.JSONNode
}

func (m *modeller) node(s *jsonschema.Schema) *schemas.Node {
	if s == nil {
		return m.anything
	}
	if n, ok := m.nodes[s]; ok {
		return n
	}
	n := &schemas.Node{Name: s.Title, Doc: s.Description}
	m.nodes[s] = n
	switch {
	case s.Ref != nil:
		return m.same(s, s.Ref)
	case s.Types != nil:
		types := s.Types.ToStrings()
		if len(types) == 1 {
			m.fill(n, s, types[0])
			break
		}
		n.Kind = schemas.Union
		for _, t := range types {
			if t == "null" || !slices.Contains(types, "number") || t != "integer" {
				b := &schemas.Node{Name: s.Title, Doc: s.Description}
				m.fill(b, s, t)
				n.Branches = append(n.Branches, b)
			}
		}
	case s.Enum != nil && symbols(s.Enum.Values) != nil:
		n.Kind, n.Symbols = schemas.Enum, symbols(s.Enum.Values)
	case len(s.Properties) > 0:
		m.fill(n, s, "object")
	case len(s.AnyOf) > 0 || len(s.OneOf) > 0:
		n.Kind = schemas.Union
		for _, b := range append(slices.Clip(s.AnyOf), s.OneOf...) {
			n.Branches = append(n.Branches, m.node(b))
		}
	case len(s.AllOf) > 1 && len(m.inherited(n, s)) > 0:
		m.fill(n, s, "object")
	case len(s.AllOf) == 1:
		return m.same(s, s.AllOf[0])
	}
	if n.Bounds == nil && n.Kind != schemas.Enum && n.Kind != schemas.Union {
		n.Bounds = bounds(s, "")
	}
	return n
}

// untangle takes unions out of unions that they themselves are among: a union
// within itself adds nothing, and where two contain each other the inner one
// is Any.
func (m *modeller) untangle() {
	const open, done = 1, 2
	state := map[*schemas.Node]int{}
	var visit func(n *schemas.Node)
	visit = func(n *schemas.Node) {
		state[n] = open
		n.Branches = slices.DeleteFunc(n.Branches, func(b *schemas.Node) bool { return b == n })
		for i, b := range n.Branches {
			switch {
			case b.Kind != schemas.Union || state[b] == done:
			case state[b] == open:
				n.Branches[i] = &schemas.Node{}
			default:
				visit(b)
			}
		}
		if len(n.Branches) == 0 {
			n.Kind = schemas.Any
		}
		state[n] = done
	}
	for _, n := range m.nodes {
		if n.Kind == schemas.Union && state[n] == 0 {
			visit(n)
		}
	}
}

// same makes s and other one node.
func (m *modeller) same(s, other *jsonschema.Schema) *schemas.Node {
	n := m.node(other)
	m.nodes[s] = n
	return n
}

// bounds is what s asks of its values where they are of type t, or nil if that
// is nothing.
func bounds(s *jsonschema.Schema, t string) *schemas.Bounds {
	var b schemas.Bounds
	size := func(least, most *int) {
		if least != nil {
			b.MinSize = *least
		}
		b.MaxSize = most
	}
	var some bool
	switch {
	case t == "integer" || t == "number":
		b.Least, b.Most, b.Above, b.Below, b.Multiple = s.Minimum, s.Maximum, s.ExclusiveMinimum, s.ExclusiveMaximum, s.MultipleOf
		some = b.Least != nil || b.Most != nil || b.Above != nil || b.Below != nil || b.Multiple != nil
	case t == "string":
		size(s.MinLength, s.MaxLength)
		if s.Pattern != nil {
			b.Pattern = s.Pattern.String()
		}
		if s.Format != nil {
			b.Format = s.Format.Name
		}
		some = b.MinSize > 0 || b.MaxSize != nil || b.Pattern != "" || b.Format != ""
	case t == "array":
		size(s.MinItems, s.MaxItems)
		b.Unique = s.UniqueItems
		some = b.MinSize > 0 || b.MaxSize != nil || b.Unique
	case t == "object":
		size(s.MinProperties, s.MaxProperties)
		some = b.MinSize > 0 || b.MaxSize != nil
	default:
		some = false
	}
	switch {
	case s.Const != nil:
		b.Values, some = []any{*s.Const}, true
	case s.Enum != nil:
		b.Values, some = s.Enum.Values, true
	}
	if !some {
		return nil
	}
	return &b
}

// fill describes s where its values are of type t.
func (m *modeller) fill(n *schemas.Node, s *jsonschema.Schema, t string) {
	n.Bounds = bounds(s, t)
	switch t {
	case "null":
		n.Kind = schemas.Null
	case "boolean":
		n.Kind = schemas.Bool
	case "number":
		n.Kind = schemas.Float
	case "integer":
		n.Kind = schemas.Int
		switch {
		case within(s, math.MinInt32, math.MaxInt32):
			n.Bits = 32
		case within(s, math.MinInt64, math.MaxInt64):
			n.Bits = 64
		}
	case "string":
		n.Kind = schemas.String
		if s.Enum != nil {
			n.Kind, n.Symbols = schemas.Enum, symbols(s.Enum.Values)
		}
		if s.Format != nil {
			n.Logical = map[string]schemas.Logical{
				"date-time": schemas.Timestamp, "date": schemas.Date, "time": schemas.TimeOfDay, "uuid": schemas.UUID,
			}[s.Format.Name]
		}
	case "array":
		n.Kind = schemas.Array
		n.Items = &schemas.Node{}
		if items, ok := s.Items.(*jsonschema.Schema); ok {
			n.Items = m.node(items)
		} else if s.Items2020 != nil && len(s.PrefixItems) == 0 {
			n.Items = m.node(s.Items2020)
		}
	case "object":
		additional, some := s.AdditionalProperties.(*jsonschema.Schema)
		closed := s.AdditionalProperties == false && len(s.PatternProperties) == 0
		inherited := m.inherited(n, s)
		if len(s.Properties) == 0 && len(s.Required) == 0 && len(inherited) == 0 && !closed {
			n.Kind, n.Items = schemas.Map, &schemas.Node{}
			if s.PropertyNames != nil {
				n.Keys = m.node(s.PropertyNames)
			}
			if some {
				n.Items = m.node(additional)
			}
			return
		}
		n.Kind = schemas.Record
		n.Open = !closed
		required := make(map[string]bool, len(s.Required))
		for _, name := range s.Required {
			required[name] = true
		}
		for _, name := range m.order(s) {
			p := s.Properties[name]
			f := schemas.Field{Name: name, Node: m.node(p), Required: required[name]}
			if p != nil {
				f.Doc = p.Description
				if at := m.locate(p.Location); at != nil {
					f.Tags = at.Get("confluent:tags").Strings()
				}
				if p.Default != nil {
					f.HasDefault, f.Default = true, *p.Default
				}
			}
			n.Fields = append(n.Fields, f)
		}
		for _, f := range inherited {
			if own := n.Field(f.Name); own == nil {
				n.Fields = append(n.Fields, f)
			} else {
				own.Required = own.Required || f.Required
				own.Tags = append(slices.Clip(own.Tags), f.Tags...)
			}
		}
	}
}

// inherited returns the fields that s, which n describes, has from the objects
// that it combines.
func (m *modeller) inherited(n *schemas.Node, s *jsonschema.Schema) []schemas.Field {
	var fields []schemas.Field
	for _, part := range s.AllOf {
		if p := m.node(part); p != n && p.Kind == schemas.Record {
			fields = append(fields, p.Fields...)
		}
	}
	return fields
}

// order returns the names of an object's properties in the order of the text,
// and then those that are required but not described.
func (m *modeller) order(s *jsonschema.Schema) []string {
	var names []string
	if at := m.locate(s.Location); at != nil && at.Get("properties") != nil {
		for _, p := range at.Get("properties").Members {
			if _, ok := s.Properties[p.Name]; ok {
				names = append(names, p.Name)
			}
		}
	}
	if len(names) < len(s.Properties) {
		names = slices.Sorted(maps.Keys(s.Properties))
	}
	named := make(map[string]bool, len(names))
	for _, name := range names {
		named[name] = true
	}
	for _, name := range s.Required {
		if !named[name] {
			named[name] = true
			names = append(names, name)
		}
	}
	return names
}

// locate returns the node at a location of the library's: a URL with a JSON
// Pointer as its fragment.
func (m *modeller) locate(location string) *schemas.JSONNode {
	address, fragment, _ := strings.Cut(location, "#")
	n := m.read[address]
	fragment, err := url.PathUnescape(fragment)
	if err != nil {
		return nil
	}
	for i, token := range strings.Split(fragment, "/") {
		if n == nil || i == 0 {
			continue
		}
		token = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
		if n.Kind != schemas.JSONArray {
			n = m.member(n, token)
			continue
		}
		index, ok := schemas.AsInt64(json.Number(token))
		if !ok || index < 0 || index >= int64(len(n.Items)) {
			return nil
		}
		n = n.Items[index]
	}
	return n
}

// member is n.Get, which compares one name after the other, for someone who asks
// for each of the members.
func (m *modeller) member(n *schemas.JSONNode, name string) *schemas.JSONNode {
	const few = 16
	if len(n.Members) <= few {
		return n.Get(name)
	}
	members := m.members[n]
	if members == nil {
		members = make(map[string]*schemas.JSONNode, len(n.Members))
		for _, member := range n.Members {
			members[member.Name] = member.Value
		}
		m.members[n] = members
	}
	return members[name]
}

// symbols returns the texts among values, or nil if something else is there
// besides null.
func symbols(values []any) []string {
	var out []string
	for _, v := range values {
		switch v := v.(type) {
		case string:
			out = append(out, v)
		case nil:
		default:
			return nil
		}
	}
	return out
}

// within reports whether s bounds its numbers by low and high or closer.
func within(s *jsonschema.Schema, low, high int64) bool {
	least, most := s.Minimum, s.Maximum
	if least == nil {
		least = s.ExclusiveMinimum
	}
	if most == nil {
		most = s.ExclusiveMaximum
	}
	return least != nil && most != nil &&
		least.Cmp(new(big.Rat).SetInt64(low)) >= 0 && most.Cmp(new(big.Rat).SetInt64(high)) <= 0
}
