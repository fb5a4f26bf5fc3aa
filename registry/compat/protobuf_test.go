package compat_test

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"penstock/registry/compat"
	"penstock/schemas"
	"penstock/schemas/protobuf"
)

// TestProtobufRules compares the schemas in each folder of testdata/protobuf
// as TestAvroRules does. The file old_a.proto is what the old schema imports
// as a.proto.
func TestProtobufRules(t *testing.T) {
	dirs, err := filepath.Glob("testdata/protobuf/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no folders in testdata: %v", err)
	}
	unseen := map[string]bool{}
	for _, rule := range compat.Rules(schemas.Protobuf) {
		unseen[rule.Name] = true
	}
	delete(unseen, "TOO_LARGE_TO_COMPARE") // TestProtobufBounds has it
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			parse := func(side string) schemas.Schema {
				imports, err := filepath.Glob(filepath.Join(dir, side+"_*.proto"))
				if err != nil {
					t.Fatal(err)
				}
				refs := map[string]string{}
				for _, file := range imports {
					name := filepath.Base(file)
					refs[strings.TrimPrefix(name, side+"_")] = read(t, dir, name)
				}
				s, err := protobuf.Format{}.Parse(read(t, dir, side+".proto"), refs)
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			checkFindings(t, dir, parse("old"), parse("new"), unseen)
		})
	}
	for _, name := range slices.Sorted(maps.Keys(unseen)) {
		t.Errorf("no folder of testdata/protobuf has the rule %s", name)
	}
}
