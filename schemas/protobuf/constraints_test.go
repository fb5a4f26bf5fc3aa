package protobuf

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/schemas"
)

const withConstraints = `syntax = "proto3";
package p;

import "buf/validate/validate.proto";

message M {
  option (buf.validate.message).cel = {
    id: "m",
    message: "no",
    expression: "this.a != 'b'"
  };

  string a = 1 [(buf.validate.field).string.min_len = 3];
  repeated int32 n = 2 [(buf.validate.field).repeated = {
    unique: true,
    items: { int32: { gt: 0 } }
  }];
}
`

// The file of Protovalidate's options may be imported without a reference, and a schema
// that does has all its texts.
func TestConstraintsImport(t *testing.T) {
	s, err := Format{}.Parse(withConstraints, nil)
	if err != nil {
		t.Fatal(err)
	}
	normal, err := s.(schemas.Normalizer).Normalized()
	if err != nil {
		t.Fatal(err)
	}
	serialized, err := s.(schemas.Formatter).Text("serialized")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"canonical": s.Canonical(), "normalised": normal, "serialized": serialized} {
		again, err := Format{}.Parse(text, nil)
		if err != nil {
			t.Fatalf("parse the %s text: %v\n%s", name, err, text)
		}
		got, err := again.(schemas.Normalizer).Normalized()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(normal, got); diff != "" {
			t.Errorf("the normal form of the %s text (-want +got):\n%s", name, diff)
		}
	}
	if !strings.Contains(normal, "min_len: 3") || !strings.Contains(normal, "unique: true") {
		t.Errorf("the normal form has lost constraints:\n%s", normal)
	}
	one, two := s.(*Schema).Descriptor().Imports().Get(0), parse(t, withConstraints).Descriptor().Imports().Get(0)
	if one.FileDescriptor != two.FileDescriptor {
		t.Error("each schema has the file of options anew")
	}
}

// A reference of that name is another file.
func TestConstraintsReference(t *testing.T) {
	_, err := Format{}.Parse(withConstraints, map[string]string{"buf/validate/validate.proto": `syntax = "proto2"; package other;`})
	if err == nil || !strings.Contains(err.Error(), "buf.validate") {
		t.Errorf("parse: %v, want that the reference defines no buf.validate", err)
	}
}
