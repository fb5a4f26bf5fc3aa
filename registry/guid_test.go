package registry

import (
	"encoding/json"
	"os"
	"testing"
)

func TestGUID(t *testing.T) {
	raw, err := os.ReadFile("testdata/guid.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Note, Schema, GUID string
		References         []Reference
		Metadata           *Metadata
		RuleSet            *RuleSet
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 6 {
		t.Fatalf("testdata has %d vectors, want at least 6", len(vectors))
	}
	for _, v := range vectors {
		got := guidOf(v.Schema, v.References, v.Metadata, v.RuleSet)
		if got.String() != v.GUID {
			t.Errorf("%s: got %s, want %s", v.Note, got, v.GUID)
		}
		if parsed, ok := parseGUID(v.GUID); !ok || parsed != got {
			t.Errorf("%s: %s does not parse back", v.Note, v.GUID)
		}
	}
	for _, bad := range []string{"", "e1dd", "not-a-guid", "e1dd9a1e-f98b-451b-5369-0370b393966b00"} {
		if _, ok := parseGUID(bad); ok {
			t.Errorf("%q parses as a GUID", bad)
		}
	}
}
