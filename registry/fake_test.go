package registry_test

import (
	"bytes"
	"encoding/base64"
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
// other schemas. In its normal form the lists are in order. That of PROTOBUF can
// be written in base64, too.
type fakeFormat struct{ typ schemas.Type }

type fakeSchema struct {
	schemas.Schema
	typ  schemas.Type
	text string
	refs map[string]string
	Needs, Has,
	Use []string
}

func (f fakeFormat) Type() schemas.Type { return f.typ }

func (f fakeFormat) Parse(text string, refs map[string]string) (schemas.Schema, error) {
	s := &fakeSchema{typ: f.typ, refs: refs}
	if raw, err := base64.StdEncoding.DecodeString(text); err == nil && f.typ == schemas.Protobuf {
		text = string(raw)
	}
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

// Model is a record with a field for each word that s has.
func (s *fakeSchema) Model() *schemas.Node {
	n := &schemas.Node{Kind: schemas.Record}
	for _, name := range s.Has {
		n.Fields = append(n.Fields, schemas.Field{Name: name})
	}
	return n
}

func (s *fakeSchema) Normalized() (string, error) { return s.words(false), nil }

// words are the words of s in order, with those of what it uses in place of
// that where resolved is set.
func (s *fakeSchema) words(resolved bool) string {
	var words []string
	var add func(s *fakeSchema)
	add = func(s *fakeSchema) {
		for sign, names := range map[string][]string{"-": s.Needs, "+": s.Has, "@": s.Use} {
			for _, name := range names {
				if sign != "@" || !resolved {
					words = append(words, sign+name)
					continue
				}
				used, err := fakeFormat{s.typ}.Parse(s.refs[name], s.refs)
				if err == nil {
					add(used.(*fakeSchema))
				}
			}
		}
	}
	add(s)
	slices.Sort(words)
	return text(strings.Join(slices.Compact(words), " "))
}

func (s *fakeSchema) Text(format string) (string, error) {
	switch {
	case format == "resolved" && s.typ == schemas.Avro:
		return s.words(true), nil
	case format == "serialized" && s.typ == schemas.Protobuf:
		return base64.StdEncoding.EncodeToString([]byte(s.text)), nil
	}
	return "", nil
}

// Same takes the order of words for nothing, in AVRO.
func (s *fakeSchema) Same(other schemas.Schema) bool {
	o := other.(*fakeSchema)
	return s.text == o.text || s.typ == schemas.Avro && s.words(true) == o.words(true)
}

// fakeChecker knows the rules of AVRO alone.
type fakeChecker struct{}

// Locate finds the word that a path names.
func (fakeChecker) Locate(_ schemas.Type, text, path string) *registry.Position {
	at := strings.Index(text, `"`+strings.TrimPrefix(path, "/")+`"`)
	if path == "/" {
		at = 0
	}
	if at < 0 {
		return nil
	}
	before := text[:at]
	return &registry.Position{Line: 1 + strings.Count(before, "\n"), Column: at - strings.LastIndex(before, "\n")}
}

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
	formats := []schemas.Format{fakeFormat{schemas.Avro}, fakeFormat{schemas.JSON}, fakeFormat{schemas.Protobuf}}
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
