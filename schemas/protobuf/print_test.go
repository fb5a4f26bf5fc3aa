package protobuf_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/schemas"
	"penstock/schemas/protobuf"
)

var update = flag.Bool("update", false, "write the texts of testdata/print anew; then read what has changed")

// Each text that registries make of a file, byte for byte, and what it parses
// to again.
func TestPrint(t *testing.T) {
	source, err := os.ReadFile("testdata/print/source.proto")
	if err != nil {
		t.Fatal(err)
	}
	s := parseText(t, string(source))
	normal, err := schemas.Normalized(s)
	if err != nil {
		t.Fatal(err)
	}
	serialized, err := schemas.Text(s, "serialized")
	if err != nil {
		t.Fatal(err)
	}
	bare, err := schemas.Text(s, "ignore_extensions")
	if err != nil {
		t.Fatal(err)
	}
	described := parseText(t, serialized)
	for name, got := range map[string]string{
		"canonical.proto":         s.Canonical(),
		"normalized.proto":        normal,
		"descriptor.proto":        described.Canonical(),
		"ignore_extensions.proto": bare,
	} {
		file := filepath.Join("testdata", "print", name)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		again := parseText(t, got)
		if name != "normalized.proto" && again.Canonical() != got {
			t.Errorf("%s is printed otherwise when it is read again:\n%s", name, cmp.Diff(got, again.Canonical()))
		}
		if name == "ignore_extensions.proto" {
			continue
		}
		if n, err := schemas.Normalized(again); err != nil || n != normal {
			t.Errorf("%s is normalised otherwise than its source, %v:\n%s", name, err, cmp.Diff(normal, n))
		}
	}
}

func parseText(t *testing.T, text string) schemas.Schema {
	t.Helper()
	s, err := protobuf.Format{}.Parse(text, nil)
	if err != nil {
		t.Fatalf("%v in\n%.200s", err, strings.TrimSpace(text))
	}
	return s
}
