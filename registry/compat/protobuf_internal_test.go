package compat

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"

	"penstock/registry"
	"penstock/schemas"
	"penstock/schemas/protobuf"
)

func descriptor(t *testing.T, text string, refs map[string]string) protoreflect.FileDescriptor {
	t.Helper()
	s, err := protobuf.Format{}.Parse(text, refs)
	if err != nil {
		t.Fatal(err)
	}
	return s.(described).Descriptor()
}

func TestProtobufBounds(t *testing.T) {
	last := func(r, w protoreflect.FileDescriptor, comparisons int) (int, string) {
		t.Helper()
		found := checkProtobuf(r, w, registry.Backward, comparisons)
		if len(found) == 0 {
			return 0, ""
		}
		return len(found), found[len(found)-1].Rule
	}
	small := descriptor(t, `syntax = "proto3"; message M { int32 a = 1; int32 b = 2; }`, nil)
	if _, rule := last(small, small, 2); rule != "TOO_LARGE_TO_COMPARE" {
		t.Errorf("with 2 comparisons: %q", rule)
	}
	if n, _ := last(small, small, 3); n != 0 {
		t.Errorf("with 3 comparisons: %d findings", n)
	}

	// A chain of imported messages, and many fields that all lead to its head.
	chain := func(length int) map[string]string {
		var b strings.Builder
		b.WriteString("syntax = \"proto3\"; package c;\n")
		for i := range length {
			fmt.Fprintf(&b, "message M%d { M%d m = 1; M%[2]d n = 2; }\n", i, (i+1)%length)
		}
		return map[string]string{"c.proto": b.String()}
	}
	text := `syntax = "proto3"; import "c.proto"; message M { c.M0 m = 1; repeated c.M0 n = 2; }`
	if n, _ := last(descriptor(t, text, chain(900)), descriptor(t, text, chain(900)), maxComparisons); n != 0 {
		t.Errorf("a chain of 900: %d findings", n)
	}
	if _, rule := last(descriptor(t, text, chain(1100)), descriptor(t, text, chain(1100)), maxComparisons); rule != "TOO_LARGE_TO_COMPARE" {
		t.Errorf("a chain of 1,100: %q", rule)
	}

	// What is wrong is told however much else there is to say.
	var many strings.Builder
	many.WriteString("syntax = \"proto3\"; message M {")
	for i := range maxProtobufFindings + 5 {
		fmt.Fprintf(&many, "int32 f%d = %d;", i, i+20_000)
	}
	n, rule := last(descriptor(t, many.String()+"}", nil), descriptor(t, `syntax = "proto3"; message M {} message Z {}`, nil), maxComparisons)
	if n != maxProtobufFindings+1 || rule != "MESSAGE_REMOVED" {
		t.Errorf("got %d findings, the last %q", n, rule)
	}
}

func TestLocateProtobuf(t *testing.T) {
	const text = "// é\nsyntax = \"proto3\";\n  package p;\n" +
		"message M {\n\t/* é */ int32 a = 1; map<string, M> m = 0x2;\n" +
		"  message I { enum E { Z = 0; N = -1; } }\n" +
		"  oneof x { string s = 4; }\n}\nenum M2 { A = 0; }\n"
	f := func(path string, line, column int) {
		t.Helper()
		if diff := cmp.Diff(&registry.Position{Line: line, Column: column}, finder(schemas.Protobuf, text)(path)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	f("#/", 3, 3)
	f("#/M", 4, 1)
	f("#/M/1", 5, 10)
	f("#/M/2", 5, 23)
	f("#/M/I", 6, 3)
	f("#/M/I/E", 6, 15)
	f("#/M/I/E/-1", 6, 31)
	f("#/M/x", 7, 3)
	f("#/M/x/4", 7, 13)
	f("#/M2/0", 9, 11)
	// What the text leaves out.
	f("#/M/gone/4", 7, 13)
	f("#/M/x/1", 5, 10)
	f("#/M/9", 4, 1)
	f("#/M/gone/I/E", 4, 1)
	f("#/Other/1", 3, 3)
	if got := finder(schemas.Protobuf, "message M {}")("#/"); got == nil || *got != (registry.Position{Line: 1, Column: 1}) {
		t.Errorf("without a package: %v", got)
	}
	for _, text := range []string{"message {", strings.Repeat(" ", maxLocated+1)} {
		if got := finder(schemas.Protobuf, text)("#/"); got != nil {
			t.Errorf("%.10q: %v", text, got)
		}
	}
}

func FuzzLocateProtobuf(f *testing.F) {
	f.Add("syntax = \"proto3\"; message M { oneof o { int32 a = 1; } }", "#/M/o/1")
	f.Add("enum E { A = -1; }", "#/E/-1")
	f.Fuzz(func(t *testing.T, text, path string) {
		if at := finder(schemas.Protobuf, text)(path); at != nil && (at.Line < 1 || at.Column < 1 || at.Line > strings.Count(text, "\n")+1) {
			t.Errorf("%q in %q: %+v", path, text, at)
		}
	})
}
