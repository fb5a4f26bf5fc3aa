package protobuf

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"pgregory.net/rapid"

	"penstock/schemas"
)

// What a file of testdata/text holds: the text as it is given, what is kept of
// it in each form, and other files as references. The part "descriptor" is
// what is kept of the text's descriptor.
func TestText(t *testing.T) {
	files, err := filepath.Glob("testdata/text/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			parts, refs := map[string]string{}, map[string]string{}
			for _, f := range archive.Files {
				if strings.HasSuffix(f.Name, ".proto") {
					refs[f.Name] = string(f.Data)
				} else {
					parts[f.Name] = string(f.Data)
				}
			}
			s, err := Format{}.Parse(parts["given"], refs)
			if err != nil {
				t.Fatal(err)
			}
			check(t, s, refs)
			bare, err := schemas.Text(s, "ignore_extensions")
			if err != nil {
				t.Fatal(err)
			}
			serialized, err := schemas.Text(s, "serialized")
			if err != nil {
				t.Fatal(err)
			}
			again, err := Format{}.Parse(serialized, refs)
			if err != nil {
				t.Fatal(err)
			}
			check(t, again, refs)
			normalized, _ := schemas.Normalized(s)
			if n, err := schemas.Normalized(again); n != normalized || err != nil {
				t.Errorf("normalised from the descriptor: %v %s", err, cmp.Diff(normalized, n))
			}
			for part, got := range map[string]string{
				"canonical": s.Canonical(), "normalized": normalized, "ignore_extensions": bare, "descriptor": again.Canonical(),
			} {
				if want, ok := parts[part]; ok && want != got {
					t.Errorf("%s: %s\ngot:\n%s", part, cmp.Diff(want, got), got)
				}
			}
		})
	}
}

// failer is what testing and rapid have in common.
type failer interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// check holds the texts of a schema against what they must be: they parse to
// the same schema, and they are what is kept of them.
func check(t failer, s schemas.Schema, refs map[string]string) {
	t.Helper()
	normalized, err := schemas.Normalized(s)
	if err != nil {
		t.Fatal(err)
	}
	want := sorted(t, s)
	for _, text := range []string{s.Canonical(), normalized} {
		again, err := Format{}.Parse(text, refs)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		got := sorted(t, again)
		if !proto.Equal(want, got) {
			t.Fatalf("another schema: %s\n%s", cmp.Diff(fmt.Sprint(want), fmt.Sprint(got)), text)
		}
		if n, err := schemas.Normalized(again); n != normalized || err != nil {
			t.Fatalf("normalised again: %v %s", err, cmp.Diff(normalized, n))
		}
		if text == s.Canonical() {
			if again.Canonical() != text {
				t.Fatalf("printed again: %s", cmp.Diff(text, again.Canonical()))
			}
			if diff := cmp.Diff(s.(*Schema).declared, again.(*Schema).declared, cmp.AllowUnexported(declaredMessage{})); diff != "" {
				t.Fatalf("other indexes: %s", diff)
			}
		}
	}
}

// sorted is the descriptor without what an order or a spelling decides.
func sorted(t failer, s schemas.Schema) *descriptorpb.FileDescriptorProto {
	t.Helper()
	text, err := schemas.Text(s, "serialized")
	if err != nil {
		t.Fatal(err)
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	d := &descriptorpb.FileDescriptorProto{}
	if err := proto.Unmarshal(b, d); err != nil {
		t.Fatal(err)
	}
	if d.GetSyntax() == "proto2" {
		d.Syntax = nil
	}
	var public []string
	for _, i := range d.PublicDependency {
		public = append(public, d.Dependency[i])
	}
	slices.Sort(public)
	slices.Sort(d.Dependency)
	d.Dependency = append(d.Dependency, public...)
	d.PublicDependency, d.WeakDependency = nil, nil
	sortFields(d.Extension)
	sortMessages(d.MessageType)
	sortEnums(d.EnumType)
	for _, s := range d.Service {
		for _, m := range s.Method {
			if proto.Size(m.Options) == 0 {
				m.Options = nil // of empty braces
			}
		}
	}
	return d
}

func sortFields(fields []*descriptorpb.FieldDescriptorProto) {
	slices.SortFunc(fields, func(a, b *descriptorpb.FieldDescriptorProto) int {
		return strings.Compare(a.GetExtendee()+a.GetName(), b.GetExtendee()+b.GetName())
	})
}

func sortMessages(messages []*descriptorpb.DescriptorProto) {
	slices.SortFunc(messages, func(a, b *descriptorpb.DescriptorProto) int { return strings.Compare(a.GetName(), b.GetName()) })
	for _, m := range messages {
		for _, f := range m.Field {
			if f.OneofIndex != nil && len(m.OneofDecl) > 0 {
				f.TypeName = proto.String(f.GetTypeName() + " in " + m.OneofDecl[f.GetOneofIndex()].GetName())
				f.OneofIndex = nil
			}
		}
		slices.SortFunc(m.OneofDecl, func(a, b *descriptorpb.OneofDescriptorProto) int { return strings.Compare(a.GetName(), b.GetName()) })
		slices.SortFunc(m.ReservedRange, func(a, b *descriptorpb.DescriptorProto_ReservedRange) int {
			return int(a.GetStart()) - int(b.GetStart())
		})
		slices.SortFunc(m.ExtensionRange, func(a, b *descriptorpb.DescriptorProto_ExtensionRange) int {
			return int(a.GetStart()) - int(b.GetStart())
		})
		slices.Sort(m.ReservedName)
		sortFields(m.Field)
		sortFields(m.Extension)
		sortMessages(m.NestedType)
		sortEnums(m.EnumType)
	}
}

func sortEnums(enums []*descriptorpb.EnumDescriptorProto) {
	for _, e := range enums {
		slices.SortFunc(e.Value, func(a, b *descriptorpb.EnumValueDescriptorProto) int {
			return strings.Compare(a.GetName(), b.GetName())
		})
		slices.SortFunc(e.ReservedRange, func(a, b *descriptorpb.EnumDescriptorProto_EnumReservedRange) int {
			return int(int64(a.GetStart()) - int64(b.GetStart()))
		})
		slices.Sort(e.ReservedName)
	}
	slices.SortFunc(enums, func(a, b *descriptorpb.EnumDescriptorProto) int { return strings.Compare(a.GetName(), b.GetName()) })
}

// A line between groups holds the indent of the block around, which a file of
// testdata would not show.
func TestBlankLines(t *testing.T) {
	s := parse(t, `message A { optional int32 a = 1; message B { optional int32 b = 1; message C { reserved 4; optional int32 c = 1; } } enum E { X = 0; } } service S { option deprecated = true; rpc R(A) returns (A); }`)
	want := strings.Join([]string{
		"", "message A {", "  optional int32 a = 1;", "", "  message B {", "    optional int32 b = 1;", "  ", "    message C {", "      reserved 4;",
		"    ", "      optional int32 c = 1;", "    }", "  }", "  enum E {", "    X = 0;", "  }", "}",
		"", "service S {", "  option deprecated = true;", "", "  rpc R (A) returns (A);", "}", "",
	}, "\n")
	if diff := cmp.Diff(want, s.Canonical()); diff != "" {
		t.Error(diff)
	}
}

func TestDescriptorRefused(t *testing.T) {
	f := func(d *descriptorpb.FileDescriptorProto, want string) {
		t.Helper()
		b, err := proto.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Format{}.Parse(base64.StdEncoding.EncodeToString(b), nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	message := func(name string, fields ...*descriptorpb.FieldDescriptorProto) *descriptorpb.FileDescriptorProto {
		return &descriptorpb.FileDescriptorProto{MessageType: []*descriptorpb.DescriptorProto{{Name: &name, Field: fields}}}
	}
	f(message("A {} message B"), "a name that is none")
	f(message(""), "a name that is none")
	f(message("A", &descriptorpb.FieldDescriptorProto{Name: proto.String("f"), Number: proto.Int32(1), TypeName: proto.String(".X"), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}), "unknown type .X")
	f(message("A", &descriptorpb.FieldDescriptorProto{Name: proto.String("f"), Number: proto.Int32(1), TypeName: proto.String(".A.F"), Type: descriptorpb.FieldDescriptorProto_TYPE_GROUP.Enum()}), `no message for the group "f"`)
	f(message("A", &descriptorpb.FieldDescriptorProto{Name: proto.String("f"), Number: proto.Int32(1), OneofIndex: proto.Int32(3), Type: descriptorpb.FieldDescriptorProto_TYPE_INT32.Enum()}), `no oneof 3`)
	f(&descriptorpb.FileDescriptorProto{Syntax: proto.String("editions"), Edition: descriptorpb.Edition_EDITION_2023.Enum()}, "found edition")
	f(&descriptorpb.FileDescriptorProto{Name: proto.String("a"), Dependency: []string{"x.proto"}}, `there is no reference "x.proto"`)
	if _, err := (Format{}).Parse("AAAA", nil); err == nil || !strings.Contains(err.Error(), "syntax error") {
		t.Errorf("base64 of something else: %v", err)
	}
}

// A reference in base64 with a custom option, which a text in base64 uses.
func TestDescriptorsAsReferences(t *testing.T) {
	serialized := func(text string, refs map[string]string) string {
		s, err := Format{}.Parse(text, refs)
		if err != nil {
			t.Fatal(err)
		}
		out, err := schemas.Text(s, "serialized")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	ref := `syntax = "proto3"; package r; import "google/protobuf/descriptor.proto"; message R { map<string, int64> m = 1; } extend google.protobuf.FieldOptions { R r = 50000; }`
	text := `syntax = "proto3"; import "r.proto"; message A { r.R r = 1 [(r.r).m = { key: "k" value: 5 }]; map<string, r.R> rs = 2; }`
	given := serialized(text, map[string]string{"r.proto": ref})
	refs := map[string]string{"r.proto": serialized(ref, nil)}
	s, err := Format{}.Parse(given, refs)
	if err != nil {
		t.Fatal(err)
	}
	check(t, s, refs)
	n, err := schemas.Normalized(s)
	want := `syntax = "proto3";

import "r.proto";

message A {
  .r.R r = 1 [(r.r) = {
    m: {
      key: "k",
      value: 5
    }
  }];
  map<string, .r.R> rs = 2;
}
`
	if diff := cmp.Diff(want, n); diff != "" || err != nil {
		t.Error(err, diff)
	}
	b, err := s.AppendEncode(nil, map[string]any{"rs": map[string]any{"x": map[string]any{}}})
	if err != nil || len(b) == 0 {
		t.Errorf("the map of a descriptor: % x, %v", b, err)
	}
}

func TestBuiltIn(t *testing.T) {
	var text strings.Builder
	text.WriteString(`syntax = "proto3";`)
	count := 0
	for _, pattern := range []string{"imports/google/type/*", "imports/confluent/*.proto", "imports/confluent/type/*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			fmt.Fprintf(&text, "import %q;", strings.TrimPrefix(filepath.ToSlash(name), "imports/"))
			count++
		}
	}
	text.WriteString(`message A { google.type.Money m = 1 [(confluent.field_meta).tags = "PII"]; confluent.type.Decimal d = 2; google.type.DayOfWeek w = 3; confluent.type.Variant v = 4; }`)
	s := parse(t, text.String())
	if count != 20 || len(s.Model().Fields) != 4 {
		t.Errorf("%d files, %v", count, s.Model())
	}
	own, err := Format{}.Parse(`syntax = "proto3"; import "google/type/money.proto"; message A { google.type.Money m = 1; }`,
		map[string]string{"google/type/money.proto": `syntax = "proto3"; package google.type; message Money { string own = 1; }`})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := own.AppendEncode(nil, map[string]any{"m": map[string]any{"own": "x"}}); err != nil {
		t.Errorf("a reference did not win: %v", err)
	}
}

func TestTextLimits(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if _, err := (Format{}).Parse(text, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want %s", text, err, want)
		}
	}
	many := func(format string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i, i+20000)
		}
		return b.String()
	}
	f(strings.Repeat("message A{", 1000), "at most 64 brackets within each other")
	f("option (a) = {"+strings.Repeat("a:{", 200_000), "at most 64 brackets within each other")
	f("option (a) = {"+strings.Repeat("a:1 ", 100_000), "60000 blocks, statements and values")
	f("message A { "+many("optional int32 f%d = %d;", 60_000)+"}", "60000 blocks, statements and values")
	f(`syntax = "proto3"; message A { `+many("map<int32, int32> f%d = %d;", 13_000)+"}", "at most 60000 statements")
	f("message A { reserved "+strings.Repeat("1,", 100_000)+"2; }", "at most 60000 statements")
	f("message "+strings.Repeat("A", 100_000)+"{"+many("optional int32 f%d = %d;", 1000)+"}", "full names of at most 64000000 bytes")
	f(`edition = "2023"; message A {}`, `schema.proto:1:1: expected syntax "proto2" or "proto3", found edition "2023"`)
	f(`syntax = "proto3"; message E { option map_entry = true; string key = 1; string value = 2; }`, "within the message that has the map")
	f(`syntax = "proto3"; message A { repeated ME m = 1; message ME { option map_entry = true; string key = 1; string value = 2; } }`, "expected a map_entry of a key = 1 and a value = 2")

	// A text of 10,000 fields is not too much.
	s := parse(t, "message A { "+many("optional int32 f%d = %d;", 10_000)+"}")
	check(t, s, nil)
	// Brackets in strings and comments are none.
	parse(t, `// `+strings.Repeat("{", 100)+"\n/*"+strings.Repeat("{", 100)+`*/ option java_package = "`+strings.Repeat("{", 100)+`\"'{";`)
}

// Files made at random, of all that nests and all that is sorted.
func TestTextProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := &generator{t: t}
		text := g.file()
		s, err := Format{}.Parse(text, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		check(t, s, nil)
		serialized, err := schemas.Text(s, "serialized")
		if err != nil {
			t.Fatal(err)
		}
		again, err := Format{}.Parse(serialized, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		check(t, again, nil)
		one, _ := schemas.Normalized(s)
		two, _ := schemas.Normalized(again)
		if one != two {
			t.Fatalf("text and descriptor: %s", cmp.Diff(one, two))
		}
	})
}

type generator struct {
	t     *rapid.T
	names int
}

func (g *generator) upTo(n int) int { return rapid.IntRange(0, n).Draw(g.t, "n") }

func (g *generator) pick(of ...string) string { return rapid.SampledFrom(of).Draw(g.t, "pick") }

func (g *generator) name(prefix string) string {
	g.names++
	return fmt.Sprintf("%s%d", prefix, g.names)
}

func (g *generator) file() string {
	var b strings.Builder
	b.WriteString("syntax = \"proto2\"; package p.q; import \"confluent/meta.proto\"; import \"google/protobuf/descriptor.proto\";")
	b.WriteString("enum Top { ZERO = 0; ONE = 1; } message Base { extensions 100 to max; }")
	fmt.Fprintf(&b, "option java_package = %s;", g.quoted())
	for range g.upTo(3) {
		b.WriteString(g.message(0))
	}
	for range g.upTo(2) {
		fmt.Fprintf(&b, "extend %s { optional %s %s = %d; }", g.pick("Base", ".p.q.Base", "q.Base"), g.pick("Top", "int32", "Base"), g.name("x"), 100+g.names)
	}
	return b.String()
}

// quoted is not empty: in a message of proto3 that would be as good as none, and
// a descriptor holds nothing of it.
func (g *generator) quoted() string {
	return quote(rapid.StringOfN(rapid.SampledFrom([]rune("aé\"'\\\n\t\a?€🙂")), 1, 6, -1).Draw(g.t, "string"))
}

func (g *generator) options(more ...string) string {
	all := append([]string{
		"deprecated = true", "(confluent.field_meta).doc = " + g.quoted(), "(.confluent.field_meta).tags = " + g.quoted(),
		"(confluent.field_meta) = { params: [] tags: [" + g.quoted() + "] tags: \"b\" }",
		"(confluent.field_meta).params = { key: " + g.quoted() + " value: \"v\" }",
	}, more...)
	chosen := rapid.SliceOfNDistinct(rapid.IntRange(0, len(all)-1), 0, 2, rapid.ID[int]).Draw(g.t, "options")
	var out []string
	whole := false
	for _, i := range chosen {
		if inside := i >= 1 && i <= 4; inside {
			if whole { // an option is given whole, or in parts of different names
				continue
			}
			whole = true
		}
		out = append(out, all[i])
	}
	if len(out) == 0 {
		return ""
	}
	return " [" + strings.Join(out, ", ") + "]"
}

func (g *generator) message(depth int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "message %s {", g.name("M"))
	numbers := rapid.SliceOfNDistinct(rapid.IntRange(1, 90), 0, 8, rapid.ID[int]).Draw(g.t, "numbers")
	for _, n := range numbers {
		switch name := g.name("f"); g.upTo(6) {
		case 0:
			fmt.Fprintf(&b, "map<string, %s> %s = %d%s;", g.pick("Top", "q.Base", "bytes"), name, n, g.options())
		case 1:
			fmt.Fprintf(&b, "oneof %s { %s %s = 0x%x%s; }", g.name("o"), g.pick("string", "Base"), name, n, g.options())
		case 2:
			fmt.Fprintf(&b, "repeated group %s = %d { optional int32 %s = 1; }", g.name("G"), n, name)
		case 3:
			fmt.Fprintf(&b, "optional bytes %s = %d%s;", name, n, g.options("default = "+g.pick(`"\xff\0x"`, `"\303\251"`, g.quoted()), `json_name = "`+g.name("j")+`"`))
		case 4:
			fmt.Fprintf(&b, "optional double %s = %d [default = %s];", name, n, g.pick("0x1F", "1e300", "017", "-0.0", ".5", "1.", "inf", "-inf", "nan", "1e-9", "18446744073709551616", "-12"))
		case 5:
			fmt.Fprintf(&b, "required %s %s = 0%o%s;", g.pick("Top", ".p.q.Top"), name, n, g.options("default = ONE"))
		default:
			fmt.Fprintf(&b, "repeated %s %s = %d%s;", g.pick("Base", "p.q.Base", "float"), name, n, g.options())
		}
	}
	if g.upTo(1) == 0 {
		b.WriteString(g.pick("reserved 95, 91 to 92;", `reserved "z", "a";`, "extensions 200 to 300, 1000 to max; extensions 100;", "enum "+g.name("E")+" { option allow_alias = true; B"+g.name("")+" = 1; A"+g.name("")+" = 1; Z"+g.name("")+" = -5; reserved 7 to max, -9 to -7; }"))
	}
	for range g.upTo(2) {
		if depth < 2 {
			b.WriteString(g.message(depth + 1))
		}
	}
	b.WriteString("}")
	return b.String()
}

func FuzzParse(f *testing.F) {
	f.Add(everything, `syntax = "proto3";`)
	f.Add(`syntax = "proto3"; import "ref.proto"; message A { B b = 1; }`, `syntax = "proto3"; message B { reserved 5 to max; reserved "x"; }`)
	f.Add(`syntax = "proto2"; message A { optional group G = 1 { extensions 4 to 10; } } extend A.G { optional bytes x = 4 [default = "\xff"]; } service S { rpc R(A) returns (stream A) { option deprecated = true; } }`, ``)
	f.Add(`edition = "2023"; option java_package = "x"; message A { int32 i = 1 [features.field_presence = IMPLICIT]; }`, ``)
	f.Add(`import "google/protobuf/descriptor.proto"; message O { optional float f = 1; repeated O o = 2; extensions 5 to 9; } extend O { optional int32 e = 5; } extend google.protobuf.MessageOptions { optional O o = 5000; }
		message A { option (o).f = 1e39; option (o).(e) = 0x10; option (o).o = { f: -.5 o: <> [e]: 7 }; enum E { reserved -1 to max; X = 017777; } }`, ``)
	f.Add(`syntax = "proto3"; message A { repeated ME m = 1; message ME { option map_entry = true; string key = 1; A value = 2; } }`, ``)
	f.Add(withConstraints, ``)
	f.Add(`CgdkZWZhdWx0IhsKAUESFgoBbRgBIAMoCzILLkEuTUVudHJ5GgA=`, ``)
	for _, text := range []string{everything, `message A { optional group G = 1 { optional bytes b = 1 [default = "\xff"]; } map<string, A> m = 2; }`} {
		serialized, err := schemas.Text(parse(f, text), "serialized")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(serialized, ``)
		f.Add(`import "ref.proto"; `+text, serialized)
	}
	f.Fuzz(func(t *testing.T, text, ref string) {
		refs := map[string]string{"ref.proto": ref}
		s, err := Format{}.Parse(text, refs)
		if err != nil {
			return
		}
		check(t, s, refs)
		for _, format := range []string{"serialized", "ignore_extensions"} {
			if out, err := schemas.Text(s, format); err != nil {
				t.Fatalf("%s: %v", format, err)
			} else if format == "serialized" {
				if _, err := (Format{}).Parse(out, refs); err != nil && out != "" {
					t.Fatalf("the descriptor is refused: %v", err)
				}
			}
		}
		for _, v := range []any{nil, 1, map[string]any{}, map[string]any{"a": []any{1}}} {
			if b, err := s.AppendEncode(nil, v); err == nil {
				if _, err := s.Decode(b); err != nil {
					t.Fatalf("%s, %v: % x does not decode: %v", text, v, b, err)
				}
			}
		}
	})
}
