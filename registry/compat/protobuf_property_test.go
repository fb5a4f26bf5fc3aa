package compat_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"pgregory.net/rapid"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/schemas"
	"penstock/schemas/protobuf"
)

// protoFile is a small schema that can be changed and printed.
type protoFile struct {
	syntax   string
	messages map[string][]protoField // A and B
	enum     []string                // constants beyond NONE = 0
}

type protoField struct {
	number            int
	name, label, kind string
	oneof             string
}

var (
	protoKinds = []string{
		"int32", "int64", "uint32", "uint64", "bool", "sint32", "sint64", "fixed32", "sfixed32", "fixed64", "sfixed64",
		"float", "double", "string", "bytes", "E", "F", "A", "B", "map<string, int32>", "map<int32, A>", "map<bool, string>",
	}
	protoLabels = []string{"", "optional", "repeated", "required"}
	protoOneofs = []string{"", "", "x", "y"}
)

func drawField(t *rapid.T, number int) protoField {
	return protoField{
		number: number, name: fmt.Sprintf("f%d", number),
		label: rapid.SampledFrom(protoLabels).Draw(t, "label"), kind: rapid.SampledFrom(protoKinds).Draw(t, "kind"),
		oneof: rapid.SampledFrom(protoOneofs).Draw(t, "oneof"),
	}
}

func drawFile(t *rapid.T) protoFile {
	f := protoFile{syntax: rapid.SampledFrom([]string{"proto2", "proto3"}).Draw(t, "syntax"), messages: map[string][]protoField{}}
	for _, name := range []string{"A", "B"} {
		for n := range rapid.IntRange(0, 4).Draw(t, "fields") {
			f.messages[name] = append(f.messages[name], drawField(t, n+1))
		}
	}
	f.enum = []string{"ONE", "TWO"}[:rapid.IntRange(0, 2).Draw(t, "constants")]
	return f
}

// changedFile draws a schema that differs from f in a few places.
func changedFile(t *rapid.T, f protoFile) protoFile {
	out := protoFile{syntax: f.syntax, messages: map[string][]protoField{}, enum: f.enum}
	if rapid.IntRange(0, 5).Draw(t, "other syntax") == 0 {
		out.syntax = map[string]string{"proto2": "proto3", "proto3": "proto2"}[f.syntax]
	}
	if rapid.IntRange(0, 5).Draw(t, "other enum") == 0 {
		out.enum = []string{"ONE", "TWO"}[:rapid.IntRange(0, 2).Draw(t, "constants")]
	}
	for _, name := range []string{"A", "B"} {
		fields := slices.Clone(f.messages[name])
		for i := range fields {
			other := drawField(t, fields[i].number)
			switch rapid.IntRange(0, 12).Draw(t, "change") {
			case 0:
				fields[i].kind = other.kind
			case 1:
				fields[i].label = other.label
			case 2, 3:
				fields[i].oneof = other.oneof
			case 4:
				fields[i].name += "_"
			case 5:
				fields[i].number = 9 + i
			case 6:
				fields[i].kind = wider(fields[i].kind)
			}
		}
		if rapid.IntRange(0, 3).Draw(t, "add") == 0 {
			fields = append(fields, drawField(t, 8))
		}
		out.messages[name] = fields
	}
	return out
}

func wider(kind string) string {
	if k, ok := map[string]string{"int32": "int64", "uint32": "uint64", "bool": "int32", "sint32": "sint64", "string": "bytes", "E": "int32"}[kind]; ok {
		return k
	}
	return kind
}

func (f protoFile) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "syntax = %q;\nenum E { NONE = 0;", f.syntax)
	for i, c := range f.enum {
		fmt.Fprintf(&b, " %s = %d;", c, i+1)
	}
	b.WriteString(" }\nenum F { NO = 0; YES = 1; }\n")
	for _, name := range []string{"A", "B"} {
		fmt.Fprintf(&b, "message %s {\n", name)
		oneofs := map[string]string{}
		for _, field := range f.messages[name] {
			line := fmt.Sprintf("%s %s = %d;", field.kind, field.name, field.number)
			isMap := strings.HasPrefix(field.kind, "map")
			if field.oneof != "" && !isMap {
				oneofs[field.oneof] += " " + line
				continue
			}
			label := field.label
			switch {
			case isMap:
				label = ""
			case f.syntax == "proto3" && label == "required":
				label = ""
			case f.syntax == "proto2" && (label == "" || label == "required" && len(field.kind) == 1):
				label = "optional" // a message that requires itself has no end
			}
			fmt.Fprintf(&b, "  %s %s\n", label, line)
		}
		for _, o := range []string{"x", "y"} {
			if oneofs[o] != "" {
				fmt.Fprintf(&b, "  oneof %s {%s }\n", o, oneofs[o])
			}
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func parseProtobuf(t interface {
	Helper()
	Fatalf(string, ...any)
}, text string) *protobuf.Schema {
	t.Helper()
	s, err := protobuf.Format{}.Parse(text, nil)
	if err != nil {
		t.Fatalf("parse %s: %v", text, err)
	}
	return s.(*protobuf.Schema)
}

// TestCompatibleProtobufIsReadable: what a message of the old schema holds, in
// fields that both have, the new one reads the same, unless a finding says
// otherwise. That is more than the registries in use promise: our own warnings
// make up for the rest.
func TestCompatibleProtobufIsReadable(t *testing.T) {
	clean, broken := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		f := drawFile(t)
		before, after := parseProtobuf(t, f.String()), parseProtobuf(t, changedFile(t, f).String())
		if same, err := (compat.Checker{}).Check(before, before, registry.Backward, registry.PolicyStrict); err != nil || len(same) > 0 {
			t.Fatalf("%s\nwith itself: %+v, %v", f, same, err)
		}
		found, err := compat.Checker{}.Check(after, before, registry.Backward, registry.PolicyStrict)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(found, func(f registry.Finding) bool { return f.Severity != registry.SeverityInfo }) {
			broken++
			return
		}
		clean++
		for _, name := range []protoreflect.Name{"A", "B"} {
			old := fillMessage(t, before.Descriptor().Messages().ByName(name), 0)
			data, err := proto.Marshal(old.Interface())
			if err != nil {
				t.Fatal(err)
			}
			read := dynamicpb.NewMessage(after.Descriptor().Messages().ByName(name))
			if err := proto.Unmarshal(data, read); err != nil {
				t.Fatalf("%s\n%s\n%v: %v", before.Canonical(), after.Canonical(), old, err)
			}
			if diff := lost(old, read); diff != "" {
				t.Fatalf("%s\n%s\n%v\nis read as %v: %s", before.Canonical(), after.Canonical(), old, read, diff)
			}
		}
	})
	if clean == 0 || broken == 0 {
		t.Errorf("the pairs were all of one kind: %d can be read, %d cannot", clean, broken)
	}
}

// fillMessage draws a message.
func fillMessage(t *rapid.T, d protoreflect.MessageDescriptor, depth int) protoreflect.Message {
	m := dynamicpb.NewMessage(d)
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		leaveOut := f.Cardinality() != protoreflect.Required && rapid.IntRange(0, 3).Draw(t, "leave out") == 0
		if leaveOut || depth > 2 && f.Message() != nil {
			continue
		}
		switch {
		case f.IsMap():
			for range rapid.IntRange(0, 2).Draw(t, "entries") {
				m.Mutable(f).Map().Set(fillValue(t, f.MapKey(), depth).MapKey(), fillValue(t, f.MapValue(), depth))
			}
		case f.IsList():
			for range rapid.IntRange(0, 3).Draw(t, "elements") {
				m.Mutable(f).List().Append(fillValue(t, f, depth))
			}
		default:
			m.Set(f, fillValue(t, f, depth))
		}
	}
	return m
}

func fillValue(t *rapid.T, f protoreflect.FieldDescriptor, depth int) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
	case protoreflect.EnumKind:
		i := rapid.IntRange(0, f.Enum().Values().Len()-1).Draw(t, "constant")
		return protoreflect.ValueOfEnum(f.Enum().Values().Get(i).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, "int32"))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "int64"))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, "uint32"))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64().Draw(t, "uint64"))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(rapid.Float32().Draw(t, "float"))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(rapid.Float64().Draw(t, "double"))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(rapid.StringN(0, 3, -1).Draw(t, "string"))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "bytes"))
	default:
		return protoreflect.ValueOfMessage(fillMessage(t, f.Message(), depth+1))
	}
}

// lost says what of a message is not in what was read, or "".
func lost(old, read protoreflect.Message) (diff string) {
	old.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		g := read.Descriptor().Fields().ByNumber(f.Number())
		if g == nil {
			return true
		}
		was, is := elements(f, v), elements(g, read.Get(g))
		if len(was) != len(is) {
			diff = fmt.Sprintf("field %s: %d values became %d", f.FullName(), len(was), len(is))
		}
		for key, v := range was {
			if w, ok := is[key]; diff == "" && !ok {
				diff = fmt.Sprintf("field %s: key %s is gone", f.FullName(), key)
			} else if m, isMessage := v.Interface().(protoreflect.Message); diff == "" && isMessage {
				diff = lost(m, w.Message())
			} else if diff == "" && plainValue(v) != plainValue(w) {
				diff = fmt.Sprintf("field %s: %v became %v", f.FullName(), v, w)
			}
		}
		return diff == ""
	})
	return diff
}

// elements are the values of a field by key or index.
func elements(f protoreflect.FieldDescriptor, v protoreflect.Value) map[string]protoreflect.Value {
	all := map[string]protoreflect.Value{}
	switch {
	case f.IsMap():
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			all[plainValue(k.Value())] = v
			return true
		})
	case f.IsList():
		for i := range v.List().Len() {
			all[fmt.Sprint(i)] = v.List().Get(i)
		}
	default:
		all["0"] = v
	}
	return all
}

// plainValue writes a value without its type.
func plainValue(v protoreflect.Value) string {
	switch x := v.Interface().(type) {
	case bool:
		if x {
			return "1"
		}
		return "0"
	case []byte:
		return string(x)
	case protoreflect.EnumNumber:
		return fmt.Sprint(int32(x))
	default:
		return fmt.Sprint(x)
	}
}

// FuzzProtobuf: two texts, whatever they are, compare without a panic, within
// the bounds, and a text with itself without a finding.
func FuzzProtobuf(f *testing.F) {
	f.Add(`syntax = "proto3"; message M { oneof o { int32 a = 1; M m = 2; } map<string, M> n = 3; }`, `syntax = "proto2"; message M { required group G = 1 { optional M m = 1; } optional string s = 2; }`)
	f.Add(`edition = "2023"; package p; import "google/protobuf/any.proto"; message A { google.protobuf.Any a = 1; message B { repeated A a = 1; } }`, `enum E { option allow_alias = true; A = 0; B = 0; C = -1; } message A { optional E e = 1; extensions 4 to max; }`)
	f.Add("message M { reserved 1 to 5; }", "message M { optional int32 a = 1; }")
	f.Fuzz(func(t *testing.T, before, after string) {
		var parsed []schemas.Schema
		for _, text := range []string{before, after} {
			s, err := protobuf.Format{}.Parse(text, nil)
			if err != nil {
				return
			}
			parsed = append(parsed, s)
			if found, err := (compat.Checker{}).Check(s, s, registry.Backward, registry.PolicyStrict); err != nil || len(found) > 0 {
				t.Errorf("%q with itself: %+v, %v", text, found, err)
			}
		}
		for _, d := range []registry.Direction{registry.Backward, registry.Forward} {
			found, err := compat.Checker{}.Check(parsed[1], parsed[0], d, registry.PolicyStrict)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range found {
				if !strings.HasPrefix(f.ReaderPath, "#/") || !strings.HasPrefix(f.WriterPath, "#/") || strings.Contains(f.Message+f.Fix, "%!") {
					t.Errorf("%q, %q: %+v", before, after, f)
				}
			}
		}
	})
}
