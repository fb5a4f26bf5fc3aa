package schemas

import (
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
)

// Propose writes a schema in a language for a record of plain fields, such as the
// columns of a table: scalars, enums, what Logical names, arrays of these, and Any.
// JSON Schema carries Bounds over; in the other languages they stand in what is
// said about the field. Fields that are not Required may be null and absent.
func Propose(t Type, n *Node) (string, error) {
	names := &Shape{}
	for i := range n.Fields {
		names.Names = append(names.Names, n.Fields[i].Name)
	}
	if t != JSON && !names.named() {
		return "", fmt.Errorf("propose a schema in %s: expected names of letters, digits and _, found %q", t, names.Names)
	}
	var tree any
	switch t {
	case JSON:
		tree = proposedJSON(n)
	case Avro:
		tree = proposedAvro(n)
	case Protobuf:
		return proposedProtobuf(n)
	default:
		return "", fmt.Errorf("propose a schema in %q: expected AVRO, JSON or PROTOBUF", t)
	}
	text, err := json.MarshalIndent(tree, "", "  ")
	return string(text) + "\n", err
}

// described adds what is said about a field or record.
func described(to orderedObject, key, doc string) orderedObject {
	if doc != "" {
		to = append(to, orderedMember{key, doc})
	}
	return to
}

func proposedJSON(n *Node) orderedObject {
	out := orderedObject{{"$schema", "http://json-schema.org/draft-07/schema#"}, {"title", camel(n.Name)}}
	out = append(described(out, "description", n.Doc), orderedMember{"type", "object"})
	properties := orderedObject{}
	required := []string{}
	for _, f := range n.Fields {
		p := described(jsonOf(f.Node, !f.Required), "description", f.Doc)
		if f.HasDefault {
			p = append(p, orderedMember{"default", f.Default})
		}
		properties = append(properties, orderedMember{f.Name, p})
		if f.Required {
			required = append(required, f.Name)
		}
	}
	out = append(out, orderedMember{"properties", properties})
	if len(required) > 0 {
		out = append(out, orderedMember{"required", required})
	}
	return append(out, orderedMember{"additionalProperties", false})
}

func jsonOf(n *Node, nullable bool) orderedObject {
	out := orderedObject{}
	if n.Kind == Any {
		return out
	}
	kind := map[Kind]string{Bool: "boolean", Int: "integer", Float: "number", Array: "array"}[n.Kind]
	switch {
	case n.Logical == Decimal:
		kind = "number"
	case kind == "" || n.Logical != NoLogical:
		kind = "string"
	}
	if nullable {
		out = append(out, orderedMember{"type", []string{kind, "null"}})
	} else {
		out = append(out, orderedMember{"type", kind})
	}
	if format := map[Logical]string{Timestamp: "date-time", Date: "date", TimeOfDay: "time", UUID: "uuid"}[n.Logical]; format != "" {
		out = append(out, orderedMember{"format", format})
	}
	if n.Kind == Bytes && n.Logical == NoLogical {
		out = append(out, orderedMember{"contentEncoding", "base64"})
	}
	var values []any
	for _, s := range n.Symbols {
		values = append(values, s)
	}
	b := n.Bounds
	if b == nil {
		b = &Bounds{}
	}
	values = append(values, b.Values...)
	if values != nil && nullable {
		values = append(values, nil)
	}
	if values != nil {
		out = append(out, orderedMember{"enum", values})
	}
	for _, bound := range []struct {
		name string
		at   *big.Rat
	}{{"minimum", b.Least}, {"maximum", b.Most}, {"exclusiveMinimum", b.Above}, {"exclusiveMaximum", b.Below}} {
		if bound.at != nil {
			digits, _ := bound.at.FloatPrec()
			out = append(out, orderedMember{bound.name, json.Number(bound.at.FloatString(digits))})
		}
	}
	size := "Length"
	if n.Kind == Array {
		size = "Items"
		out = append(out, orderedMember{"items", jsonOf(n.Items, false)})
	}
	if b.MinSize > 0 {
		out = append(out, orderedMember{"min" + size, b.MinSize})
	}
	if b.MaxSize != nil {
		out = append(out, orderedMember{"max" + size, *b.MaxSize})
	}
	if b.Pattern != "" {
		out = append(out, orderedMember{"pattern", b.Pattern})
	}
	return out
}

// bounded is what is said about a field, with the bounds that its language has no
// words for.
func bounded(f *Field) string {
	var words []string
	b := f.Node.Bounds
	if b == nil {
		return f.Doc
	}
	for _, bound := range []struct {
		words string
		at    *big.Rat
	}{{"at least", b.Least}, {"at most", b.Most}, {"above", b.Above}, {"below", b.Below}} {
		if bound.at != nil {
			digits, _ := bound.at.FloatPrec()
			words = append(words, bound.words+" "+bound.at.FloatString(digits))
		}
	}
	if b.MinSize > 0 {
		words = append(words, fmt.Sprintf("at least %d long", b.MinSize))
	}
	if b.MaxSize != nil {
		words = append(words, fmt.Sprintf("at most %d long", *b.MaxSize))
	}
	if b.Pattern != "" {
		words = append(words, "matches "+b.Pattern)
	}
	if len(b.Values) > 0 {
		words = append(words, fmt.Sprintf("one of %v", b.Values))
	}
	bounds := strings.Join(words, ", ")
	if f.Doc == "" || bounds == "" {
		return f.Doc + bounds
	}
	return f.Doc + "; " + bounds
}

func proposedAvro(n *Node) orderedObject {
	a := inferredAvro{taken: map[string]bool{}}
	name := a.unique(n.Name)
	fields := []any{}
	for i := range n.Fields {
		f := &n.Fields[i]
		typ := a.of(f.Node, name+camel(f.Name))
		member := orderedObject{{"name", f.Name}}
		switch {
		case f.HasDefault && !f.Required: // a union's default is of its first type
			member = append(member, orderedMember{"type", []any{typ, "null"}}, orderedMember{"default", f.Default})
		case !f.Required:
			member = append(member, orderedMember{"type", []any{"null", typ}}, orderedMember{"default", nil})
		case f.HasDefault:
			member = append(member, orderedMember{"type", typ}, orderedMember{"default", f.Default})
		default:
			member = append(member, orderedMember{"type", typ})
		}
		fields = append(fields, described(member, "doc", bounded(f)))
	}
	return append(described(orderedObject{{"type", "record"}, {"name", name}}, "doc", n.Doc), orderedMember{"fields", fields})
}

// of is the Avro type of a plain node.
func (a *inferredAvro) of(n *Node, name string) any {
	switch n.Logical {
	case Date:
		return orderedObject{{"type", "int"}, {"logicalType", "date"}}
	case TimeOfDay:
		return orderedObject{{"type", "long"}, {"logicalType", "time-micros"}}
	case Timestamp:
		return orderedObject{{"type", "long"}, {"logicalType", "timestamp-micros"}}
	case LocalTime:
		return orderedObject{{"type", "long"}, {"logicalType", "local-timestamp-micros"}}
	case UUID:
		return orderedObject{{"type", "string"}, {"logicalType", "uuid"}}
	case Decimal:
		if n.Precision == 0 {
			return orderedObject{{"type", "bytes"}, {"logicalType", "big-decimal"}}
		}
		return orderedObject{{"type", "bytes"}, {"logicalType", "decimal"}, {"precision", n.Precision}, {"scale", n.Scale}}
	}
	switch n.Kind {
	case Bool:
		return "boolean"
	case Int:
		return map[bool]string{true: "int", false: "long"}[n.Bits == 32]
	case Float:
		return map[bool]string{true: "float", false: "double"}[n.Bits == 32]
	case Bytes:
		return "bytes"
	case Enum:
		for _, s := range n.Symbols {
			if !inferredName.MatchString(s) {
				return "string"
			}
		}
		return orderedObject{{"type", "enum"}, {"name", a.unique(name)}, {"symbols", n.Symbols}}
	case Array:
		return orderedObject{{"type", "array"}, {"items", a.of(n.Items, name+"Item")}}
	case Any:
		return orderedObject{{"type", "map"}, {"values", "string"}}
	}
	return "string"
}

func proposedProtobuf(n *Node) (string, error) {
	p := &inferredProtobuf{taken: map[string]bool{}}
	name := asciiCamel(n.Name)
	var out strings.Builder
	comment := func(indent, text string) {
		if text != "" {
			fmt.Fprintf(&out, "%s// %s\n", indent, strings.ReplaceAll(text, "\n", "\n"+indent+"// "))
		}
	}
	comment("", n.Doc)
	fmt.Fprintf(&out, "message %s {\n", name)
	seen := map[string]bool{}
	for i := range n.Fields {
		f := &n.Fields[i]
		if seen[fold(f.Name)] {
			return "", fmt.Errorf("propose a schema in PROTOBUF: the field %q has the name of another but for its style", f.Name)
		}
		seen[fold(f.Name)] = true
		comment("  ", bounded(f))
		label := ""
		switch {
		case f.Node.Kind == Array:
			label = "repeated "
		case !f.Required && f.Node.Kind != Any:
			label = "optional "
		}
		fmt.Fprintf(&out, "  %s%s %s = %d;\n", label, p.of(f.Node), f.Name, protobufNumber(i))
	}
	out.WriteString("}\n")
	p.messages = append(p.messages, out.String())
	return p.file(), nil
}

// of is the Protobuf type of a plain node. Enums stay texts, since theirs have
// numbers and prefixes that somebody has to choose.
func (p *inferredProtobuf) of(n *Node) string {
	switch n.Logical {
	case Timestamp:
		p.timestamp = true
		return "google.protobuf.Timestamp"
	case NoLogical:
	default:
		return "string"
	}
	switch n.Kind {
	case Bool:
		return "bool"
	case Int:
		return map[bool]string{true: "int32", false: "int64"}[n.Bits == 32]
	case Float:
		return map[bool]string{true: "float", false: "double"}[n.Bits == 32]
	case Bytes:
		return "bytes"
	case Array:
		return p.of(n.Items)
	case Any:
		p.structs = true
		return "google.protobuf.Value"
	}
	return "string"
}
