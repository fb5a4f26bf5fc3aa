package protobuf

import (
	"slices"

	"github.com/bufbuild/protocompile/ast"
)

// sourceReader turns a syntax tree into what is printed of it.
type sourceReader struct{ file *ast.FileNode }

func readSource(file *ast.FileNode) *fileText {
	r := sourceReader{file}
	f := &fileText{}
	if file.Syntax != nil {
		f.syntax = file.Syntax.Syntax.AsString()
	}
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.PackageNode:
			f.pkg = string(d.Name.AsIdentifier())
		case *ast.ImportNode:
			switch name := d.Name.AsString(); {
			case d.Public != nil:
				f.public = append(f.public, name)
			case d.Weak != nil:
				f.weak = append(f.weak, name)
			default:
				f.imports = append(f.imports, name)
			}
		case *ast.OptionNode:
			f.options = append(f.options, r.option(d))
		case *ast.MessageNode:
			f.messages = append(f.messages, r.message(d.Name.Val, d.Decls))
		case *ast.EnumNode:
			f.enums = append(f.enums, r.enum(d))
		case *ast.ExtendNode:
			f.extends = append(f.extends, r.extend(d))
		case *ast.ServiceNode:
			f.services = append(f.services, r.service(d))
		}
	}
	return f
}

func (r sourceReader) message(name string, decls []ast.MessageElement) *messageText {
	m := &messageText{name: name}
	for _, d := range decls {
		switch d := d.(type) {
		case *ast.ReservedNode:
			m.reserved = append(m.reserved, r.reserved(d, maxTag))
		case *ast.OptionNode:
			m.options = append(m.options, r.option(d))
		case *ast.FieldNode:
			m.fields = append(m.fields, r.field(d))
		case *ast.MapFieldNode:
			m.fields = append(m.fields, &fieldText{
				key: d.MapType.KeyType.Val, typ: string(d.MapType.ValueType.AsIdentifier()),
				name: d.Name.Val, number: tag(d.Tag), options: r.fieldOptions(d.Options),
			})
		case *ast.OneofNode:
			m.oneofs = append(m.oneofs, r.oneof(d))
		case *ast.GroupNode:
			m.groups = append(m.groups, r.group(d))
		case *ast.ExtensionRangeNode:
			m.extensions = append(m.extensions, ranges{spans: spans(d.Ranges, maxTag), options: r.options(d.Options)})
		case *ast.ExtendNode:
			m.extends = append(m.extends, r.extend(d))
		case *ast.MessageNode:
			m.messages = append(m.messages, r.message(d.Name.Val, d.Decls))
		case *ast.EnumNode:
			m.enums = append(m.enums, r.enum(d))
		}
	}
	return m
}

func (r sourceReader) field(d *ast.FieldNode) *fieldText {
	return &fieldText{
		label: label(d.Label), typ: string(d.FldType.AsIdentifier()),
		name: d.Name.Val, number: tag(d.Tag), options: r.fieldOptions(d.Options),
	}
}

func (r sourceReader) group(d *ast.GroupNode) *fieldText {
	return &fieldText{
		label: label(d.Label), name: d.Name.Val, number: tag(d.Tag), options: r.fieldOptions(d.Options),
		body: r.message(d.Name.Val, d.Decls),
	}
}

// tag is 0 where the number is missing, for which the compiler has words.
func tag(d *ast.UintLiteralNode) int64 {
	if d == nil {
		return 0
	}
	return int64(d.Val)
}

func label(l ast.FieldLabel) string {
	if !l.IsPresent() {
		return ""
	}
	return l.Val
}

func (r sourceReader) oneof(d *ast.OneofNode) *oneofText {
	o := &oneofText{name: d.Name.Val}
	for _, d := range d.Decls {
		switch d := d.(type) {
		case *ast.OptionNode:
			o.options = append(o.options, r.option(d))
		case *ast.FieldNode:
			o.fields = append(o.fields, r.field(d))
		case *ast.GroupNode:
			o.groups = append(o.groups, r.group(d))
		}
	}
	return o
}

func (r sourceReader) extend(d *ast.ExtendNode) *extendText {
	e := &extendText{name: string(d.Extendee.AsIdentifier())}
	for _, d := range d.Decls {
		switch d := d.(type) {
		case *ast.FieldNode:
			e.fields = append(e.fields, r.field(d))
		case *ast.GroupNode:
			e.groups = append(e.groups, r.group(d))
		}
	}
	return e
}

func (r sourceReader) enum(d *ast.EnumNode) *enumText {
	e := &enumText{name: d.Name.Val}
	for _, d := range d.Decls {
		switch d := d.(type) {
		case *ast.ReservedNode:
			e.reserved = append(e.reserved, r.reserved(d, maxNumber))
		case *ast.OptionNode:
			e.options = append(e.options, r.option(d))
		case *ast.EnumValueNode:
			n, _ := d.Number.AsInt64()
			e.constants = append(e.constants, constant{d.Name.Val, n, r.options(d.Options)})
		}
	}
	return e
}

func (r sourceReader) service(d *ast.ServiceNode) *serviceText {
	s := &serviceText{name: d.Name.Val}
	for _, d := range d.Decls {
		switch d := d.(type) {
		case *ast.OptionNode:
			s.options = append(s.options, r.option(d))
		case *ast.RPCNode:
			call := rpc{
				name: d.Name.Val,
				in:   string(d.Input.MessageType.AsIdentifier()), inStream: d.Input.Stream != nil,
				out: string(d.Output.MessageType.AsIdentifier()), outStream: d.Output.Stream != nil,
			}
			for _, d := range d.Decls {
				if o, ok := d.(*ast.OptionNode); ok {
					call.options = append(call.options, r.option(o))
				}
			}
			s.rpcs = append(s.rpcs, call)
		}
	}
	return s
}

func (r sourceReader) reserved(d *ast.ReservedNode, most int64) ranges {
	out := ranges{spans: spans(d.Ranges, most)}
	for _, name := range d.Names {
		out.names = append(out.names, name.AsString())
	}
	return out
}

func spans(nodes []*ast.RangeNode, most int64) []span {
	var out []span
	for _, n := range nodes {
		s := span{to: most, single: n.EndVal == nil && n.Max == nil}
		s.from, _ = n.StartVal.AsInt64()
		switch {
		case s.single:
			s.to = s.from
		case n.EndVal != nil:
			s.to, _ = n.EndVal.AsInt64()
		}
		out = append(out, s)
	}
	return out
}

func (r sourceReader) options(d *ast.CompactOptionsNode) []option {
	if d == nil {
		return nil
	}
	out := make([]option, len(d.Options))
	for i, o := range d.Options {
		out[i] = r.option(o)
	}
	return out
}

// fieldOptions puts default and json_name, in this order, behind the others.
func (r sourceReader) fieldOptions(d *ast.CompactOptionsNode) []option {
	out := r.options(d)
	rank := func(o option) int {
		switch {
		case o.is("default"):
			return 1
		case o.is("json_name"):
			return 2
		}
		return 0
	}
	slices.SortStableFunc(out, func(a, b option) int { return rank(a) - rank(b) })
	return out
}

func (r sourceReader) option(d *ast.OptionNode) option {
	o := option{name: make([]namePart, len(d.Name.Parts)), value: r.value(d.Val)}
	for i, part := range d.Name.Parts {
		o.name[i] = namePart{string(part.Name.AsIdentifier()), part.IsExtension()}
	}
	return o
}

func (r sourceReader) value(d ast.ValueNode) value {
	switch d := d.(type) {
	case ast.StringValueNode:
		return value{kind: quoted, text: d.AsString()}
	case *ast.ArrayLiteralNode:
		v := value{kind: listing, list: make([]value, len(d.Elements))}
		for i, e := range d.Elements {
			v.list[i] = r.value(e)
		}
		return v
	case *ast.MessageLiteralNode:
		v := value{kind: aggregate}
		seen := make(map[string]int, len(d.Elements))
		for _, e := range d.Elements {
			key, inner := r.key(e.Name), r.value(e.Val)
			if i, again := seen[key]; again {
				v.entries[i].value = value{kind: listing, list: append(v.entries[i].value.items(), inner.items()...)}
				continue
			}
			seen[key] = len(v.entries)
			v.entries = append(v.entries, entry{key, inner})
		}
		return v
	case *ast.NegativeIntLiteralNode:
		return value{text: "-" + r.raw(d.Uint)}
	case *ast.SignedFloatLiteralNode:
		return value{text: string(d.Sign.Rune) + r.raw(d.Float)}
	case ast.IdentValueNode:
		return value{text: string(d.AsIdentifier())}
	}
	return value{text: r.raw(d)}
}

// items are the values that a repeated field gets from v.
func (v value) items() []value {
	if v.kind == listing {
		return v.list
	}
	return []value{v}
}

func (r sourceReader) key(d *ast.FieldReferenceNode) string {
	name := string(d.Name.AsIdentifier())
	switch {
	case d.IsAnyTypeReference():
		return "[" + string(d.URLPrefix.AsIdentifier()) + "/" + name + "]"
	case d.IsExtension():
		return "[" + name + "]"
	}
	return name
}

func (r sourceReader) raw(d ast.Node) string { return r.file.NodeInfo(d).RawText() }
