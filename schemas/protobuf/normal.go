package protobuf

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// normalizer brings a text that compiled into the form that all spellings of
// it share. It goes by the descriptors that it compiled to.
//
// The compiler's descriptors search what they hold from its beginning, hence
// byKey.
type normalizer struct {
	extensions extensions
	pkg        protoreflect.FullName
}

func byKey[K comparable, D any](all interface {
	Len() int
	Get(i int) D
}, key func(D) K) map[K]D {
	out := make(map[K]D, all.Len())
	for i := range all.Len() {
		d := all.Get(i)
		out[key(d)] = d
	}
	return out
}

func (n normalizer) file(f *fileText, d protoreflect.FileDescriptor) {
	if f.syntax != "proto3" {
		f.syntax = ""
	}
	for _, imports := range []*[]string{&f.imports, &f.public, &f.weak} {
		slices.Sort(*imports)
		*imports = slices.Compact(*imports)
	}
	scope := d.Package()
	f.options = n.options(f.options, scope, (*descriptorpb.FileOptions)(nil))
	n.messages(f.messages, d.Messages(), scope)
	n.enums(f.enums, scope)
	f.extends = n.extends(f.extends, d.Extensions(), scope)
	for _, s := range f.services {
		s.options = n.options(s.options, scope, (*descriptorpb.ServiceOptions)(nil))
		methods := byKey(d.Services().ByName(protoreflect.Name(s.name)).Methods(), protoreflect.MethodDescriptor.Name)
		scope := scope.Append(protoreflect.Name(s.name))
		for i := range s.rpcs {
			r := &s.rpcs[i]
			m := methods[protoreflect.Name(r.name)]
			r.in, r.out = "."+string(m.Input().FullName()), "."+string(m.Output().FullName())
			r.options = n.options(r.options, scope, (*descriptorpb.MethodOptions)(nil))
		}
	}
}

func (n normalizer) messages(messages []*messageText, all protoreflect.MessageDescriptors, scope protoreflect.FullName) {
	descriptors := byKey(all, protoreflect.MessageDescriptor.Name)
	for _, m := range messages {
		m.options = n.options(m.options, scope, (*descriptorpb.MessageOptions)(nil))
		n.message(m, descriptors[protoreflect.Name(m.name)])
	}
}

func (n normalizer) message(m *messageText, d protoreflect.MessageDescriptor) {
	scope, fields := d.FullName(), byKey(d.Fields(), protoreflect.FieldDescriptor.Number)
	n.fields(m.fields, fields, scope)
	for _, o := range m.oneofs {
		o.options = n.options(o.options, scope, (*descriptorpb.OneofOptions)(nil))
		n.fields(o.fields, fields, scope)
		n.fields(o.groups, fields, scope)
	}
	slices.SortStableFunc(m.oneofs, func(a, b *oneofText) int { return cmp.Compare(a.first(), b.first()) })
	n.fields(m.groups, fields, scope)
	m.reserved = single(m.reserved)
	for i := range m.extensions {
		m.extensions[i].options = n.options(m.extensions[i].options, scope, (*descriptorpb.ExtensionRangeOptions)(nil))
	}
	m.extensions = single(m.extensions)
	m.extends = n.extends(m.extends, d.Extensions(), scope)
	m.messages = slices.DeleteFunc(m.messages, (*messageText).isMapEntry)
	n.messages(m.messages, d.Messages(), scope)
	n.enums(m.enums, scope)
}

// first is the lowest number of a sorted oneof.
func (o *oneofText) first() int64 {
	lowest := int64(maxNumber)
	for _, fields := range [][]*fieldText{o.fields, o.groups} {
		if len(fields) > 0 {
			lowest = min(lowest, fields[0].number)
		}
	}
	return lowest
}

func (n normalizer) fields(fields []*fieldText, all map[protoreflect.FieldNumber]protoreflect.FieldDescriptor, scope protoreflect.FullName) {
	for _, f := range fields {
		n.field(f, all[protoreflect.FieldNumber(f.number)], scope)
	}
	slices.SortStableFunc(fields, byNumber)
}

func byNumber(a, b *fieldText) int { return cmp.Compare(a.number, b.number) }

func (n normalizer) field(f *fieldText, d protoreflect.FieldDescriptor, scope protoreflect.FullName) {
	f.options = n.options(f.options, scope, (*descriptorpb.FieldOptions)(nil))
	switch {
	case f.body != nil:
		n.message(f.body, d.Message())
	case d.IsMap():
		f.label, f.key, f.typ = "", d.MapKey().Kind().String(), typeName(d.MapValue())
	default:
		f.typ = typeName(d)
	}
}

func typeName(d protoreflect.FieldDescriptor) string {
	switch {
	case d.Message() != nil:
		return "." + string(d.Message().FullName())
	case d.Enum() != nil:
		return "." + string(d.Enum().FullName())
	}
	return d.Kind().String()
}

func (n normalizer) enums(enums []*enumText, scope protoreflect.FullName) {
	for _, e := range enums {
		e.reserved = single(e.reserved)
		e.options = n.options(e.options, scope, (*descriptorpb.EnumOptions)(nil))
		for i := range e.constants {
			e.constants[i].options = n.options(e.constants[i].options, scope, (*descriptorpb.EnumValueOptions)(nil))
		}
		slices.SortFunc(e.constants, func(a, b constant) int {
			return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.name, b.name))
		})
	}
}

func (n normalizer) extends(extends []*extendText, all protoreflect.ExtensionDescriptors, scope protoreflect.FullName) []*extendText {
	descriptors := byKey(all, protoreflect.ExtensionDescriptor.Name)
	var out []*extendText
	at := map[string]*extendText{}
	for _, e := range extends {
		for _, fields := range [][]*fieldText{e.fields, e.groups} {
			for _, f := range fields {
				name := f.name
				if f.body != nil {
					name = strings.ToLower(name)
				}
				d := descriptors[protoreflect.Name(name)]
				e.name = "." + string(d.ContainingMessage().FullName())
				n.field(f, d, scope)
			}
		}
		first := at[e.name]
		if first == nil {
			at[e.name] = e
			out = append(out, e)
			continue
		}
		first.fields = append(first.fields, e.fields...)
		first.groups = append(first.groups, e.groups...)
	}
	for _, e := range out {
		slices.SortStableFunc(e.fields, byNumber)
		slices.SortStableFunc(e.groups, byNumber)
	}
	return out
}

// single gives each span and each name a statement of its own, the spans by
// their start and then the names.
func single(all []ranges) []ranges {
	var spans, words []ranges
	for _, r := range all {
		for _, s := range r.spans {
			s.single = s.from == s.to
			spans = append(spans, ranges{spans: []span{s}, options: r.options})
		}
		for _, name := range r.names {
			words = append(words, ranges{names: []string{name}})
		}
	}
	slices.SortStableFunc(spans, func(a, b ranges) int { return cmp.Compare(a.spans[0].from, b.spans[0].from) })
	slices.SortFunc(words, func(a, b ranges) int { return cmp.Compare(a.names[0], b.names[0]) })
	return append(spans, words...)
}

// options makes of each option one statement with a plain name: what a dotted
// name leads into becomes an aggregate, and several that lead into one become
// one. of is the message of the options.
func (n normalizer) options(options []option, scope protoreflect.FullName, of proto.Message) []option {
	if len(options) == 0 {
		return nil
	}
	var out []option
	at := map[namePart]int{}
	for _, o := range options {
		head := o.name[0]
		var d protoreflect.FieldDescriptor
		if head.extension {
			d = n.extension(head.name, scope)
		} else {
			d = of.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(head.name))
		}
		if head.extension && d != nil {
			head.name = string(d.FullName())
			if n.extension(head.name, scope) != d {
				head.name = "." + head.name // another of this name is nearer
			}
		}
		v := n.value(n.nest(o.name[1:], o.value, scope), d)
		i, again := at[head]
		if again && d != nil && !d.IsList() && d.Message() != nil {
			out[i].value = n.merge(out[i].value, v, d)
			continue
		}
		at[head] = len(out)
		out = append(out, option{[]namePart{head}, v})
	}
	for i := range out {
		out[i].value = tidyValue(out[i].value)
	}
	slices.SortStableFunc(out, func(a, b option) int { return cmp.Compare(a.name[0].name, b.name[0].name) })
	return out
}

// nest makes aggregates of the parts of a dotted name.
func (n normalizer) nest(parts []namePart, v value, scope protoreflect.FullName) value {
	for _, part := range slices.Backward(parts) {
		key := part.name
		if part.extension {
			if d := n.extension(key, scope); d != nil {
				key = "." + string(d.FullName())
			}
			key = "[" + key + "]"
		}
		v = value{kind: aggregate, entries: []entry{{key, v}}}
	}
	return v
}

// extension finds what a name means in a scope, the inner before the outer.
func (n normalizer) extension(name string, scope protoreflect.FullName) protoreflect.FieldDescriptor {
	absolute, is := strings.CutPrefix(name, ".")
	if is {
		scope = ""
	}
	for {
		full := protoreflect.FullName(absolute)
		if scope != "" {
			full = scope + "." + full
		}
		if t, err := n.extensions.FindExtensionByName(full); err == nil {
			return t.TypeDescriptor()
		}
		if scope == "" {
			return nil
		}
		scope = scope.Parent()
	}
}

// value normalises what stands in a value of the field d. d is nil where it is
// not known, as within an Any.
func (n normalizer) value(v value, d protoreflect.FieldDescriptor) value {
	switch v.kind {
	case word:
		v.text = normalNumber(v.text)
	case listing:
		for i := range v.list {
			v.list[i] = n.value(v.list[i], d)
		}
	case aggregate:
		for i := range v.entries {
			e := &v.entries[i]
			inner := n.inner(d, e.key)
			if inner != nil && inner.IsExtension() {
				e.key = "[" + string(inner.FullName()) + "]"
			}
			e.value = n.value(e.value, inner)
		}
	}
	return v
}

// inner is the field that a key stands for in an aggregate of the field d.
func (n normalizer) inner(d protoreflect.FieldDescriptor, key string) protoreflect.FieldDescriptor {
	if name, ok := strings.CutPrefix(key, "["); ok {
		if strings.Contains(name, "/") || d == nil {
			return nil
		}
		return n.extension(strings.TrimSuffix(name, "]"), n.pkg)
	}
	if d == nil || d.Message() == nil {
		return nil
	}
	return d.Message().Fields().ByTextName(key)
}

// merge joins two aggregates of the field d.
func (n normalizer) merge(a, b value, d protoreflect.FieldDescriptor) value {
	if a.kind != aggregate || b.kind != aggregate {
		return b
	}
	for _, e := range b.entries {
		i := slices.IndexFunc(a.entries, func(o entry) bool { return o.key == e.key })
		if i < 0 {
			a.entries = append(a.entries, e)
			continue
		}
		inner := n.inner(d, e.key)
		at := &a.entries[i].value
		if inner != nil && (inner.IsList() || inner.IsMap()) {
			*at = value{kind: listing, list: append(at.items(), e.value.items()...)}
		} else {
			*at = n.merge(*at, e.value, inner)
		}
	}
	return a
}

// tidyValue sorts the keys of aggregates, drops empty lists in them and takes
// the one item of a list out of it.
func tidyValue(v value) value {
	for i := range v.list {
		v.list[i] = tidyValue(v.list[i])
	}
	v.entries = slices.DeleteFunc(v.entries, func(e entry) bool { return e.value.kind == listing && len(e.value.list) == 0 })
	for i := range v.entries {
		v.entries[i].value = tidyValue(v.entries[i].value)
	}
	slices.SortStableFunc(v.entries, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	if v.kind == listing && len(v.list) == 1 {
		return v.list[0]
	}
	return v
}

// normalNumber writes a number in decimal and returns other words as they are.
func normalNumber(s string) string {
	digits, negative := strings.CutPrefix(s, "-")
	if digits == "" || (digits[0] < '0' || digits[0] > '9') && digits[0] != '.' {
		return s
	}
	if i, err := strconv.ParseUint(digits, 0, 64); err == nil {
		if negative && i != 0 {
			return "-" + strconv.FormatUint(i, 10)
		}
		return strconv.FormatUint(i, 10)
	}
	x, err := strconv.ParseFloat(digits, 64)
	if err != nil && x == 0 {
		return s
	}
	if negative {
		x = -x
	}
	return decimal(x, 64)
}
