package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/registry"
	"penstock/registry/logs/memory"
	"penstock/schemas"
)

// fakeFormat is a language in which a schema is a JSON object: "needs" lists
// what a reader must find, "has" what a writer puts there, "use" the names of
// other schemas.
type fakeFormat struct{ typ schemas.Type }

type fakeSchema struct {
	schemas.Schema
	typ  schemas.Type
	text string
	Needs, Has,
	Use []string
}

func (f fakeFormat) Type() schemas.Type { return f.typ }

func (f fakeFormat) Parse(text string, refs map[string]string) (schemas.Schema, error) {
	s := &fakeSchema{typ: f.typ}
	if err := json.Unmarshal([]byte(text), s); err != nil {
		return nil, errors.New("expected an object")
	}
	for _, name := range s.Use {
		if _, ok := refs[name]; !ok {
			return nil, fmt.Errorf("unknown name %q, have %v", name, slices.Sorted(maps.Keys(refs)))
		}
	}
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		return nil, err
	}
	s.text = b.String()
	return s, nil
}

func (s *fakeSchema) Type() schemas.Type { return s.typ }
func (s *fakeSchema) Canonical() string  { return s.text }

// fakeChecker knows the rules of AVRO alone.
type fakeChecker struct{}

func (fakeChecker) Check(reader, writer schemas.Schema, d registry.Direction, _ registry.Policy) ([]registry.Finding, error) {
	if reader.Type() != schemas.Avro {
		return nil, fmt.Errorf("check %s: %w", reader.Type(), registry.ErrNoRules)
	}
	var found []registry.Finding
	for _, need := range reader.(*fakeSchema).Needs {
		if !slices.Contains(writer.(*fakeSchema).Has, need) {
			found = append(found, registry.Finding{
				Rule: "MISSING", Severity: registry.SeverityError, ReaderPath: "/" + need, WriterPath: "/",
				Message: need + " is missing", Detail: need, Fix: "do not need " + need,
			})
		}
	}
	return found, nil
}

// clock is the time at which everything happens in tests.
var clock = time.UnixMilli(1_700_000_000_000)

func open(t testing.TB, log registry.Log) *registry.Registry {
	t.Helper()
	formats := []schemas.Format{fakeFormat{schemas.Avro}, fakeFormat{schemas.JSON}}
	r, err := registry.New(t.Context(), log, formats, fakeChecker{}, registry.Options{Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatalf("open registry: %v", err)
	}
	t.Cleanup(r.Close)
	return r
}

func fresh(t testing.TB) *registry.Registry { return open(t, memory.New()) }

// text makes a schema of the fake language: "-a +b" needs a and has b.
func text(words string) string {
	s := struct {
		Needs []string `json:"needs,omitempty"`
		Has   []string `json:"has,omitempty"`
		Use   []string `json:"use,omitempty"`
	}{}
	for word := range strings.FieldsSeq(words) {
		switch word[0] {
		case '-':
			s.Needs = append(s.Needs, word[1:])
		case '+':
			s.Has = append(s.Has, word[1:])
		case '@':
			s.Use = append(s.Use, word[1:])
		}
	}
	b, _ := json.Marshal(s)
	return string(b)
}

func fake(words string, refs ...registry.Reference) registry.Schema {
	return registry.Schema{Schema: text(words), References: refs}
}
