package protobuf

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// extensions finds the extensions that options may hold.
type extensions interface {
	protoregistry.ExtensionTypeResolver
	protoregistry.MessageTypeResolver
}

// decodeProto reads a file descriptor in base64. It returns nil for a text
// that is none.
func decodeProto(text string) *descriptorpb.FileDescriptorProto {
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil
	}
	d := &descriptorpb.FileDescriptorProto{}
	options := proto.UnmarshalOptions{Resolver: &protoregistry.Types{}, RecursionLimit: maxLevels}
	if options.Unmarshal(b, d) != nil || len(d.ProtoReflect().GetUnknown()) > 0 ||
		d.Name == nil && d.Package == nil && d.Syntax == nil && len(d.MessageType)+len(d.EnumType)+len(d.Service) == 0 {
		return nil
	}
	return d
}

// protoReader turns a file descriptor into the text that the registry keeps of
// it. Options that the descriptor does not know by itself are those that
// extensions finds; the others are lost, since no text can name them.
type protoReader struct {
	extensions extensions
	proto3     bool
	err        error
}

func readProto(d *descriptorpb.FileDescriptorProto, known extensions) (*fileText, error) {
	r := &protoReader{extensions: known, proto3: d.GetSyntax() == "proto3"}
	if d.Edition != nil || d.GetSyntax() == "editions" {
		return nil, refuseEdition(d.GetEdition().String())
	}
	f := &fileText{syntax: d.GetSyntax(), options: r.options(d.Options)}
	if d.GetPackage() != "" {
		f.pkg = r.names(d.GetPackage())
	}
	for i, name := range d.Dependency {
		switch at := int32(i); {
		case slices.Contains(d.PublicDependency, at):
			f.public = append(f.public, name)
		case slices.Contains(d.WeakDependency, at):
			f.weak = append(f.weak, name)
		default:
			f.imports = append(f.imports, name)
		}
	}
	var groups map[string]bool
	f.extends, groups = r.extends(d.Extension, d.MessageType)
	f.messages = r.messages(d.MessageType, groups)
	f.enums = r.enums(d.EnumType)
	for _, d := range d.Service {
		s := &serviceText{name: r.name(d.GetName()), options: r.options(d.Options)}
		for _, d := range d.Method {
			s.rpcs = append(s.rpcs, rpc{
				name: r.name(d.GetName()),
				in:   r.names(d.GetInputType()), inStream: d.GetClientStreaming(),
				out: r.names(d.GetOutputType()), outStream: d.GetServerStreaming(),
				options: r.options(d.Options),
			})
		}
		f.services = append(f.services, s)
	}
	return f, r.err
}

// name returns s, which has to be an identifier: a text is made of it.
func (r *protoReader) name(s string) string {
	for i, c := range []byte(s) {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			s = ""
			break
		}
	}
	if s == "" && r.err == nil {
		r.err = fmt.Errorf("the file descriptor holds a name that is none: write letters, digits and underscores")
	}
	return s
}

// names is name for a path of names.
func (r *protoReader) names(s string) string {
	for part := range strings.SplitSeq(strings.TrimPrefix(s, "."), ".") {
		r.name(part)
	}
	return s
}

// messages leaves out those that are written with a group.
func (r *protoReader) messages(all []*descriptorpb.DescriptorProto, groups map[string]bool) []*messageText {
	var out []*messageText
	for _, d := range all {
		if !groups[d.GetName()] {
			out = append(out, r.message(d))
		}
	}
	return out
}

func (r *protoReader) message(d *descriptorpb.DescriptorProto) *messageText {
	m := &messageText{name: r.name(d.GetName()), options: r.options(d.Options), enums: r.enums(d.EnumType)}
	for _, s := range d.ReservedRange {
		m.reserved = append(m.reserved, ranges{spans: []span{newSpan(s.GetStart(), s.GetEnd()-1)}})
	}
	m.reserved = append(m.reserved, names(d.ReservedName)...)
	for _, s := range d.ExtensionRange {
		m.extensions = append(m.extensions, ranges{spans: []span{newSpan(s.GetStart(), s.GetEnd()-1)}, options: r.options(s.Options)})
	}
	var groups map[string]bool
	m.extends, groups = r.extends(d.Extension, d.NestedType)
	m.oneofs = make([]*oneofText, len(d.OneofDecl))
	for i, d := range d.OneofDecl {
		m.oneofs[i] = &oneofText{name: r.name(d.GetName()), options: r.options(d.Options)}
	}
	for _, d2 := range d.Field {
		f := r.field(d2, d.NestedType, groups)
		fields, parts := &m.fields, &m.groups
		if d2.OneofIndex != nil && !d2.GetProto3Optional() {
			i := int(d2.GetOneofIndex())
			if i < 0 || i >= len(m.oneofs) {
				r.err = fmt.Errorf("the file descriptor has no oneof %d in %q", i, d.GetName())
				return m
			}
			f.label = ""
			fields, parts = &m.oneofs[i].fields, &m.oneofs[i].groups
		}
		if f.body != nil {
			fields = parts
		}
		*fields = append(*fields, f)
	}
	m.oneofs = slices.DeleteFunc(m.oneofs, func(o *oneofText) bool { return len(o.fields)+len(o.groups) == 0 })
	m.messages = r.messages(d.NestedType, groups)
	return m
}

// field looks for the message of a group among nested, and notes its name.
func (r *protoReader) field(d *descriptorpb.FieldDescriptorProto, nested []*descriptorpb.DescriptorProto, groups map[string]bool) *fieldText {
	f := &fieldText{name: r.name(d.GetName()), number: int64(d.GetNumber()), options: r.options(d.Options)}
	switch {
	case d.GetLabel() == descriptorpb.FieldDescriptorProto_LABEL_REPEATED:
		f.label = "repeated"
	case !r.proto3 && d.GetLabel() == descriptorpb.FieldDescriptorProto_LABEL_REQUIRED:
		f.label = "required"
	case !r.proto3 || d.GetProto3Optional():
		f.label = "optional"
	}
	switch {
	case d.GetType() == descriptorpb.FieldDescriptorProto_TYPE_GROUP:
		name := d.GetTypeName()[strings.LastIndexByte(d.GetTypeName(), '.')+1:]
		i := slices.IndexFunc(nested, func(m *descriptorpb.DescriptorProto) bool { return m.GetName() == name })
		if i < 0 || groups[name] {
			r.err = fmt.Errorf("the file descriptor has no message for the group %q", d.GetName())
			return f
		}
		groups[name] = true
		f.name, f.body = name, r.message(nested[i])
	case d.TypeName != nil:
		f.typ = r.names(d.GetTypeName())
	default:
		f.typ = strings.ToLower(strings.TrimPrefix(d.GetType().String(), "TYPE_"))
	}
	if d.DefaultValue != nil {
		f.options = append(f.options, option{[]namePart{{name: "default"}}, r.defaultValue(d)})
	}
	if d.JsonName != nil {
		f.options = append(f.options, option{[]namePart{{name: "json_name"}}, value{kind: quoted, text: d.GetJsonName()}})
	}
	return f
}

func (r *protoReader) defaultValue(d *descriptorpb.FieldDescriptorProto) value {
	s := d.GetDefaultValue()
	switch d.GetType() {
	case descriptorpb.FieldDescriptorProto_TYPE_STRING:
		return value{kind: quoted, text: s}
	case descriptorpb.FieldDescriptorProto_TYPE_BYTES:
		return value{kind: quoted, text: unescape(s)}
	case descriptorpb.FieldDescriptorProto_TYPE_ENUM, descriptorpb.FieldDescriptorProto_TYPE_BOOL:
		return value{text: r.name(s)}
	}
	if _, err := strconv.ParseFloat(s, 64); err != nil && strings.Trim(s, "-+.0123456789eE") != "" {
		r.err = fmt.Errorf("the file descriptor's default of %q: expected a number, found %q", d.GetName(), s)
	}
	if s == "-0" {
		s = decimal(math.Copysign(0, -1), 64)
	}
	return value{text: s}
}

// unescape reads what a descriptor holds as the default of bytes: text with
// the escapes of C, those by number in octal.
func unescape(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b = append(b, s[i])
			continue
		}
		i++
		if n, err := strconv.ParseUint(s[i:min(i+3, len(s))], 8, 8); err == nil {
			b = append(b, byte(n))
			i += 2
		} else if j := strings.IndexByte("abfnrtv", s[i]); j >= 0 {
			b = append(b, "\a\b\f\n\r\t\v"[j])
		} else {
			b = append(b, s[i])
		}
	}
	return string(b)
}

func (r *protoReader) enums(all []*descriptorpb.EnumDescriptorProto) []*enumText {
	var out []*enumText
	for _, d := range all {
		e := &enumText{name: r.name(d.GetName()), options: r.options(d.Options)}
		for _, s := range d.ReservedRange {
			e.reserved = append(e.reserved, ranges{spans: []span{newSpan(s.GetStart(), s.GetEnd())}})
		}
		e.reserved = append(e.reserved, names(d.ReservedName)...)
		for _, c := range d.Value {
			e.constants = append(e.constants, constant{r.name(c.GetName()), int64(c.GetNumber()), r.options(c.Options)})
		}
		out = append(out, e)
	}
	return out
}

func newSpan(from, to int32) span { return span{int64(from), int64(to), from == to} }

func names(all []string) []ranges {
	out := make([]ranges, len(all))
	for i := range all {
		out[i].names = all[i : i+1]
	}
	return out
}

// extends gathers extensions by what they extend. It returns the names of the
// messages that belong to groups among them.
func (r *protoReader) extends(all []*descriptorpb.FieldDescriptorProto, nested []*descriptorpb.DescriptorProto) ([]*extendText, map[string]bool) {
	groups := map[string]bool{}
	var out []*extendText
	for _, d := range all {
		i := slices.IndexFunc(out, func(e *extendText) bool { return e.name == d.GetExtendee() })
		if i < 0 {
			i = len(out)
			out = append(out, &extendText{name: r.names(d.GetExtendee())})
		}
		if f := r.field(d, nested, groups); f.body != nil {
			out[i].groups = append(out[i].groups, f)
		} else {
			out[i].fields = append(out[i].fields, f)
		}
	}
	return out, groups
}

// options are those that the message of options knows, in its order, and then
// the extensions in the order of their numbers.
func (r *protoReader) options(m proto.Message) []option {
	if r.err != nil || !m.ProtoReflect().IsValid() {
		return nil
	}
	of := m.ProtoReflect()
	if r.extensions != nil && len(of.GetUnknown()) > 0 {
		b, err := proto.Marshal(m)
		again := of.New()
		if err == nil {
			err = proto.UnmarshalOptions{Resolver: r.extensions, RecursionLimit: maxLevels}.Unmarshal(b, again.Interface())
		}
		if err != nil {
			r.err = fmt.Errorf("read the options of the file descriptor: %w", err)
			return nil
		}
		of = again
	}
	var out []option
	for _, f := range present(of) {
		if f.Name() == "uninterpreted_option" && !f.IsExtension() {
			continue
		}
		name := []namePart{{string(f.Name()), false}}
		if f.IsExtension() {
			name = []namePart{{string(f.FullName()), true}}
		}
		for _, v := range fieldValue(f, of.Get(f)).items() {
			out = append(out, option{name, v})
		}
	}
	return out
}

// present are the fields that m has: its own in order, then its extensions by
// number.
func present(m protoreflect.Message) []protoreflect.FieldDescriptor {
	var out []protoreflect.FieldDescriptor
	m.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		out = append(out, f)
		return true
	})
	slices.SortFunc(out, func(a, b protoreflect.FieldDescriptor) int {
		switch {
		case a.IsExtension() != b.IsExtension():
			if a.IsExtension() {
				return 1
			}
			return -1
		case a.IsExtension():
			return cmp.Compare(a.Number(), b.Number())
		}
		return cmp.Compare(a.Index(), b.Index())
	})
	return out
}

func fieldValue(f protoreflect.FieldDescriptor, v protoreflect.Value) value {
	switch {
	case f.IsMap():
		out := value{kind: listing}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			out.list = append(out.list, value{kind: aggregate, entries: []entry{
				{"key", oneValue(f.MapKey(), k.Value())}, {"value", oneValue(f.MapValue(), v)},
			}})
			return true
		})
		slices.SortFunc(out.list, func(a, b value) int { return cmp.Compare(a.entries[0].value.text, b.entries[0].value.text) })
		return out
	case f.IsList():
		out := value{kind: listing}
		for i := range v.List().Len() {
			out.list = append(out.list, oneValue(f, v.List().Get(i)))
		}
		return out
	}
	return oneValue(f, v)
}

func oneValue(f protoreflect.FieldDescriptor, v protoreflect.Value) value {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		out := value{kind: aggregate}
		for _, inner := range present(v.Message()) {
			key := inner.TextName()
			out.entries = append(out.entries, entry{key, fieldValue(inner, v.Message().Get(inner))})
		}
		return out
	case protoreflect.StringKind:
		return value{kind: quoted, text: v.String()}
	case protoreflect.BytesKind:
		return value{kind: quoted, text: string(v.Bytes())}
	case protoreflect.EnumKind:
		if e := f.Enum().Values().ByNumber(v.Enum()); e != nil {
			return value{text: string(e.Name())}
		}
		return value{text: strconv.Itoa(int(v.Enum()))}
	case protoreflect.FloatKind:
		return value{text: decimal(v.Float(), 32)}
	case protoreflect.DoubleKind:
		return value{text: decimal(v.Float(), 64)}
	}
	return value{text: v.String()}
}

// decimal is the shortest decimal that reads as x again, without an exponent.
func decimal(x float64, bits int) string {
	switch {
	case math.IsInf(x, 1):
		return "inf"
	case math.IsInf(x, -1):
		return "-inf"
	case math.IsNaN(x):
		return "nan"
	case x == 0 && math.Signbit(x):
		return "-0.0" // -0 would be read as an integer
	}
	return strconv.FormatFloat(x, 'f', -1, bits)
}

// encodeProto returns a file descriptor in base64. Messages nested in one come
// in the order of declared, which is that of their indexes, and then the
// entries of maps and the messages of groups.
func encodeProto(d *descriptorpb.FileDescriptorProto, declared []declaredMessage) (string, error) {
	d = proto.CloneOf(d)
	d.Name = proto.String("default")
	d.MessageType = tidy(d.MessageType, declared)
	forgetJSONNames(d.Extension)
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(d)
	if err != nil {
		return "", fmt.Errorf("write the file descriptor: %w", err)
	}
	return base64.StdEncoding.EncodeToString(b), nil
}

func tidy(messages []*descriptorpb.DescriptorProto, declared []declaredMessage) []*descriptorpb.DescriptorProto {
	rank := make(map[string]int, len(declared))
	for i, m := range declared {
		rank[m.name] = i
	}
	at := func(m *descriptorpb.DescriptorProto) int {
		if i, ok := rank[m.GetName()]; ok {
			return i
		}
		return len(declared)
	}
	slices.SortStableFunc(messages, func(a, b *descriptorpb.DescriptorProto) int { return at(a) - at(b) })
	for i, m := range messages {
		var nested []declaredMessage
		if i < len(declared) {
			nested = declared[i].nested
		}
		m.NestedType = tidy(m.NestedType, nested)
		forgetJSONNames(m.Field)
		forgetJSONNames(m.Extension)
	}
	return messages
}

// forgetJSONNames drops the names that every reader derives by itself, as
// compilers do that write descriptors.
func forgetJSONNames(fields []*descriptorpb.FieldDescriptorProto) {
	for _, f := range fields {
		if f.GetJsonName() == jsonName(f.GetName()) || f.Extendee != nil {
			f.JsonName = nil
		}
	}
}

func jsonName(s string) string {
	b := make([]byte, 0, len(s))
	up := false
	for _, c := range []byte(s) {
		switch {
		case c == '_':
			up = true
			continue
		case up && c >= 'a' && c <= 'z':
			c -= 'a' - 'A'
		}
		up = false
		b = append(b, c)
	}
	return string(b)
}
