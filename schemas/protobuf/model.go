package protobuf

import (
	"google.golang.org/protobuf/reflect/protoreflect"

	"penstock/schemas"
)

// modeller turns descriptors into the neutral tree, a message into one node
// however often it is used.
type modeller map[protoreflect.FullName]*schemas.Node

func (m modeller) record(d protoreflect.MessageDescriptor) *schemas.Node {
	if n, ok := m[d.FullName()]; ok {
		return n
	}
	n := &schemas.Node{Kind: schemas.Record, Name: string(d.FullName())}
	m[d.FullName()] = n
	fields := d.Fields()
	n.Fields = make([]schemas.Field, fields.Len())
	for i := range n.Fields {
		n.Fields[i] = m.field(fields.Get(i))
	}
	return n
}

func (m modeller) field(d protoreflect.FieldDescriptor) schemas.Field {
	f := schemas.Field{Name: string(d.Name()), Number: int(d.Number()), Required: d.Cardinality() == protoreflect.Required, Tags: tags(d)}
	if group := d.ContainingOneof(); group != nil && !group.IsSynthetic() {
		f.OneOf = string(group.Name())
	}
	switch {
	case d.IsMap():
		f.Node = &schemas.Node{Kind: schemas.Map, Items: m.value(d.MapValue())}
		if d.MapKey().Kind() != protoreflect.StringKind {
			f.Node.Keys = m.value(d.MapKey())
		}
		f.HasDefault, f.Default = true, map[string]any{}
	case d.IsList():
		f.Node = &schemas.Node{Kind: schemas.Array, Items: m.value(d)}
		f.HasDefault, f.Default = true, []any{}
	case f.Required:
		f.Node = m.value(d)
	case d.HasPresence():
		f.Node = m.value(d)
		if _, nullable := f.Node.Nullable(); !nullable && f.Node.Kind != schemas.Any {
			f.Node = &schemas.Node{Kind: schemas.Union, Branches: []*schemas.Node{{Kind: schemas.Null}, f.Node}}
		}
		if d.HasDefault() {
			f.HasDefault, f.Default = true, scalar(d, d.Default())
		}
	default:
		f.Node = m.value(d)
		f.HasDefault, f.Default = true, scalar(d, d.Default())
	}
	return f
}

// tags are those of the option (confluent.field_meta).
func tags(d protoreflect.FieldDescriptor) []string {
	var out []string
	d.Options().ProtoReflect().Range(func(o protoreflect.FieldDescriptor, meta protoreflect.Value) bool {
		if o.FullName() != "confluent.field_meta" || o.Message() == nil {
			return true
		}
		if f := o.Message().Fields().ByName("tags"); f != nil && f.IsList() && f.Kind() == protoreflect.StringKind {
			list := meta.Message().Get(f).List()
			for i := range list.Len() {
				out = append(out, list.Get(i).String())
			}
		}
		return false
	})
	return out
}

// value describes one value of a field.
func (m modeller) value(d protoreflect.FieldDescriptor) *schemas.Node {
	n := &schemas.Node{}
	switch k := d.Kind(); k {
	case protoreflect.Sint32Kind, protoreflect.Sint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind, protoreflect.Sfixed32Kind, protoreflect.Sfixed64Kind:
		n.Native = k.String() // written in another way than int32 and so on
	}
	switch d.Kind() {
	case protoreflect.BoolKind:
		n.Kind = schemas.Bool
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		n.Kind, n.Bits = schemas.Int, 32
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		n.Kind, n.Bits = schemas.Int, 64
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		n.Kind, n.Bits, n.Unsigned = schemas.Int, 32, true
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		n.Kind, n.Bits, n.Unsigned = schemas.Int, 64, true
	case protoreflect.FloatKind:
		n.Kind, n.Bits = schemas.Float, 32
	case protoreflect.DoubleKind:
		n.Kind, n.Bits = schemas.Float, 64
	case protoreflect.StringKind:
		n.Kind = schemas.String
	case protoreflect.BytesKind:
		n.Kind = schemas.Bytes
	case protoreflect.EnumKind:
		n.Kind, n.Name = schemas.Enum, string(d.Enum().FullName())
		values := d.Enum().Values()
		for i := range values.Len() {
			n.Symbols = append(n.Symbols, string(values.Get(i).Name()))
			n.Numbers = append(n.Numbers, int32(values.Get(i).Number()))
		}
	default:
		return m.wellKnown(d.Message())
	}
	return n
}

// wellKnown describes a message that stands for a value of another kind, and
// any other message as the record it is.
func (m modeller) wellKnown(d protoreflect.MessageDescriptor) *schemas.Node {
	switch wellKnown(d) {
	case timestamp:
		return &schemas.Node{Kind: schemas.String, Logical: schemas.Timestamp} // as in Protobuf's JSON
	case wrapper:
		return &schemas.Node{Kind: schemas.Union, Branches: []*schemas.Node{{Kind: schemas.Null}, m.value(d.Fields().ByNumber(1))}}
	case jsonValue:
		return &schemas.Node{}
	case jsonObject:
		return &schemas.Node{Kind: schemas.Map, Items: &schemas.Node{}}
	case jsonList:
		return &schemas.Node{Kind: schemas.Array, Items: &schemas.Node{}}
	}
	return m.record(d)
}

// special is what a well-known message stands for.
type special uint8

const (
	plain special = iota
	timestamp
	wrapper
	jsonValue
	jsonObject
	jsonList
)

// wellKnown goes by name and, since anyone may write a file with such a name,
// by the fields.
func wellKnown(d protoreflect.MessageDescriptor) special {
	if d.ParentFile().Package() != "google.protobuf" {
		return plain
	}
	has := func(n protoreflect.FieldNumber, kind protoreflect.Kind) bool {
		f := d.Fields().ByNumber(n)
		return f != nil && f.Kind() == kind
	}
	switch d.Name() {
	case "Timestamp":
		if has(1, protoreflect.Int64Kind) && has(2, protoreflect.Int32Kind) {
			return timestamp
		}
	case "DoubleValue", "FloatValue", "Int64Value", "UInt64Value", "Int32Value", "UInt32Value", "BoolValue", "StringValue", "BytesValue":
		if f := d.Fields().ByNumber(1); f != nil && f.Message() == nil && f.Cardinality() == protoreflect.Optional {
			return wrapper
		}
	case "Value":
		if has(1, protoreflect.EnumKind) && has(2, protoreflect.DoubleKind) && has(3, protoreflect.StringKind) &&
			has(4, protoreflect.BoolKind) && has(5, protoreflect.MessageKind) && has(6, protoreflect.MessageKind) {
			return jsonValue
		}
	case "Struct":
		if has(1, protoreflect.MessageKind) && d.Fields().ByNumber(1).IsMap() {
			return jsonObject
		}
	case "ListValue":
		if has(1, protoreflect.MessageKind) && d.Fields().ByNumber(1).IsList() {
			return jsonList
		}
	}
	return plain
}
