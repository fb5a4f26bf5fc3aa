// Package jsonschema is JSON Schema, drafts 4 to 2020-12, on
// santhosh-tekuri/jsonschema, with guards for what it was measured to do: a
// number with a huge exponent panics it, and left alone it opens files.
//
// Values are JSON: decoding gives nil, bool, json.Number, string, []any and
// map[string]any, a timestamp staying the string it is. Encoding also takes Go
// numbers, a time.Time (RFC 3339), a time.Duration as a time of day, a
// *big.Rat with a finite decimal form, []byte (base64) and whatever else
// encoding/json encodes. Formats are asserted in every draft.
package jsonschema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"penstock/schemas"
)

// Format parses JSON Schemas.
type Format struct{}

// Type returns schemas.JSON.
func (Format) Type() schemas.Type { return schemas.JSON }

// maxPlaces bounds the objects and booleans, in a schema and what it refers to,
// that may be schemas: the library looks through a list of all of them for each,
// so its time grows with their square, to half a second here.
const maxPlaces = 12_000

// Further bounds of a schema and what it refers to.
const (
	maxValues = 100_000 // that it is made of
	// maxFar bounds the product of its places and the references that lead to
	// where no schema is expected: for each, the library copies a list of all
	// places.
	maxFar = 4_000_000
)

// root is where the schema lies among its references: nowhere.
const root = "schema:///root.json"

// Parse reads a schema of at most 4 MiB and 200 levels. As in Confluent's
// registry, one without $schema, or with one that is not known, is of draft 7,
// and the address without a number is draft 4. A $ref finds a text of refs by
// its key, by its $id, or by the end of its path.
//
// Patterns are RE2 where they can be. Others (looking ahead, references back)
// are ECMAScript's, and a value with which one takes more than 50 ms is refused.
func (Format) Parse(text string, refs map[string]string) (_ schemas.Schema, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("parse JSON Schema: the parser panicked on this text: %v", p)
		}
	}()
	top, err := read(text)
	if err != nil {
		return nil, fmt.Errorf("parse JSON Schema: %w", err)
	}
	if top.Kind != schemas.JSONObject && top.Kind != schemas.JSONBool {
		return nil, fmt.Errorf("parse JSON Schema: expected an object or a boolean, found a JSON %s", top.Kind)
	}
	compiled, d, err := compile(top, refs, nil)
	if err != nil {
		return nil, fmt.Errorf("parse JSON Schema: %w", explain(err))
	}
	m := modeller{documents: d, anything: &schemas.Node{}, nodes: map[*jsonschema.Schema]*schemas.Node{}, members: map[*schemas.JSONNode]map[string]*schemas.JSONNode{}}
	s := &Schema{canonical: string(appendText(nil, top, false)), lib: compiled, model: m.node(compiled), texts: d}
	m.untangle()
	s.cells = cellPlanOf(compiled, s.model)
	if d.refer() {
		s.counted = &sync.Pool{New: func() any { return newCounted(top, refs) }}
	}
	return s, nil
}

// ParseRegistered implements schemas.Lenient: any JSON may be a schema.
func (f Format) ParseRegistered(text string, refs map[string]string) (schemas.Schema, error) {
	s, cause := f.Parse(text, refs)
	if cause == nil {
		return s, nil
	}
	top, err := read(text)
	if err != nil {
		return nil, cause
	}
	return schemas.NewOpaque(schemas.JSON, string(appendText(nil, top, false)), cause), nil
}

// compile hands top to the library, with an extension of the schemas in it if
// there is one.
func compile(top *schemas.JSONNode, refs map[string]string, extension jsonschema.SchemaExt) (*jsonschema.Schema, *documents, error) {
	d := &documents{read: map[string]*schemas.JSONNode{root: top}, refs: refs, far: map[string]bool{}}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	c.AssertFormat()
	c.UseLoader(d)
	p := &patterns{maxSteps, map[string]*pattern{}}
	defer func() { p.known = nil }()
	c.UseRegexpEngine(p.compile)
	if extension != nil {
		c.AssertVocabs()
		c.RegisterVocabulary(&jsonschema.Vocabulary{
			URL: "schema:///vocabulary",
			Compile: func(*jsonschema.CompilerContext, map[string]any) (jsonschema.SchemaExt, error) {
				return extension, nil
			},
		})
	}
	if err := d.count(top, ""); err != nil {
		return nil, nil, err
	}
	if err := c.AddResource(root, document(top)); err != nil {
		return nil, nil, err
	}
	compiled, err := c.Compile(root)
	return compiled, d, err
}

func read(text string) (*schemas.JSONNode, error) {
	return schemas.ReadJSON(text, schemas.JSONOptions{LastWins: true})
}

// explain gives the library's errors the form of ours where it is worth it.
func explain(err error) error {
	var loading *jsonschema.LoadURLError
	if errors.As(err, &loading) {
		return loading.Err
	}
	var invalid *jsonschema.SchemaValidationError
	var details *jsonschema.ValidationError
	if errors.As(err, &invalid) && errors.As(invalid.Err, &details) {
		var at string
		for leaf := range leaves(details) {
			at = pointer(leaf.InstanceLocation)
			return fmt.Errorf("at %s: expected %s", at, expected(leaf.ErrorKind))
		}
	}
	return errors.New(strings.ReplaceAll(err.Error(), root, ""))
}

// documents is the text of the schema and those it refers to. As a loader it
// knows nothing else.
type documents struct {
	read   map[string]*schemas.JSONNode // by URL
	refs   map[string]string
	places int // objects and booleans so far that may be schemas
	values int // so far
	far    map[string]bool
}

// count counts the objects and booleans of n, but those of an enumeration,
// which are values, and the booleans of keywords that take nothing else. within
// is the member that n is the value of.
func (d *documents) count(n *schemas.JSONNode, within string) error {
	if d.values++; d.values > maxValues {
		return fmt.Errorf("expected a schema of at most %d values, with those it refers to, found more: split it", maxValues)
	}
	if n.Kind == schemas.JSONObject || n.Kind == schemas.JSONBool {
		if d.places++; d.places > maxPlaces {
			return fmt.Errorf("expected a schema of at most %d objects and booleans, with those it refers to, found more: split it", maxPlaces)
		}
	}
	for _, item := range n.Items {
		if err := d.count(item, ""); err != nil {
			return err
		}
	}
	for _, m := range n.Members {
		if m.Name == "$ref" && m.Value.Kind == schemas.JSONString && far(m.Value.Text) {
			d.far[m.Value.Text] = true
		}
		if len(d.far)*d.places > maxFar {
			return fmt.Errorf("expected a schema of at most %d places times references to others than definitions, found more: refer to \"#/definitions\"", maxFar)
		}
		if m.Value.Kind == schemas.JSONArray && (m.Name == "enum" || m.Name == "examples") {
			d.values += size(m.Value)
			continue
		}
		if m.Value.Kind == schemas.JSONBool && !holders[within] && flags[m.Name] {
			continue
		}
		if err := d.count(m.Value, m.Name); err != nil {
			return err
		}
	}
	return nil
}

// size is how many values a value is made of.
func size(n *schemas.JSONNode) int {
	sum := 1
	for _, item := range n.Items {
		sum += size(item)
	}
	for _, m := range n.Members {
		sum += size(m.Value)
	}
	return sum
}

// far reports that a reference may lead to where no schema is expected.
func far(ref string) bool {
	_, pointer, _ := strings.Cut(ref, "#/")
	word, name, _ := strings.Cut(pointer, "/")
	return pointer != "" && (!holders[word] || strings.Contains(name, "/"))
}

var (
	// holders are the keywords of objects whose members are schemas.
	holders = map[string]bool{
		"properties": true, "patternProperties": true, "definitions": true, "$defs": true, "dependencies": true, "dependentSchemas": true,
	}
	// flags are the keywords for which a boolean is no schema to the library.
	flags = map[string]bool{
		"additionalProperties": true, "additionalItems": true, "uniqueItems": true, "readOnly": true, "writeOnly": true,
		"deprecated": true, "nullable": true, "default": true, "const": true, "exclusiveMinimum": true, "exclusiveMaximum": true,
	}
)

// Load implements jsonschema.URLLoader.
func (d *documents) Load(address string) (any, error) {
	best := ""
	for key, text := range d.refs {
		if key == address {
			best = key
			break
		}
		if strings.HasSuffix(address, "/"+strings.TrimPrefix(key, "/")) && len(key) > len(best) {
			best = key
			continue
		}
		if n, err := read(text); err == nil && best == "" && identity(n) == address {
			best = key
		}
	}
	if best == "" {
		return nil, fmt.Errorf("there is no reference for %q: name the schema that defines it among the references", strings.TrimPrefix(address, "schema:///"))
	}
	n, err := read(d.refs[best])
	if err != nil {
		return nil, fmt.Errorf("in the reference %q: %w", best, err)
	}
	if err := d.count(n, ""); err != nil {
		return nil, err
	}
	d.read[address] = n
	return document(n), nil
}

// refer reports whether a schema may contain itself.
func (d *documents) refer() bool {
	var found func(n *schemas.JSONNode) bool
	found = func(n *schemas.JSONNode) bool {
		for _, m := range n.Members {
			switch m.Name {
			case "$ref", "$dynamicRef", "$recursiveRef":
				return true
			}
			if found(m.Value) {
				return true
			}
		}
		return slices.ContainsFunc(n.Items, found)
	}
	for _, n := range d.read {
		if found(n) {
			return true
		}
	}
	return false
}

// identity is the $id of a document without its fragment.
func identity(n *schemas.JSONNode) string {
	for _, name := range []string{"$id", "id"} {
		if id := n.Get(name); id != nil && id.Kind == schemas.JSONString {
			id, _, _ := strings.Cut(id.Text, "#")
			return id
		}
	}
	return ""
}

// document is a whole text as the library takes it: of a draft that it knows.
func document(n *schemas.JSONNode) any {
	v := plain(n)
	if m, ok := v.(map[string]any); ok {
		if address, ok := m["$schema"].(string); ok {
			delete(m, "$schema")
			if known := draft(address); known != nil {
				m["$schema"] = known.String()
			}
		}
	}
	return v
}

// draft is the draft that an address stands for, or nil.
func draft(address string) *jsonschema.Draft {
	address = strings.TrimSuffix(address, "#")
	address = strings.TrimPrefix(strings.TrimPrefix(address, "http://"), "https://")
	switch address {
	case "json-schema.org/schema", "json-schema.org/draft-04/schema":
		return jsonschema.Draft4
	case "json-schema.org/draft-06/schema":
		return jsonschema.Draft6
	case "json-schema.org/draft-07/schema":
		return jsonschema.Draft7
	case "json-schema.org/draft/2019-09/schema":
		return jsonschema.Draft2019
	case "json-schema.org/draft/2020-12/schema":
		return jsonschema.Draft2020
	}
	return nil
}

// plain turns a node into the values that the library takes.
func plain(n *schemas.JSONNode) any {
	switch n.Kind {
	case schemas.JSONBool:
		return n.Text == "true"
	case schemas.JSONNumber:
		return json.Number(n.Text)
	case schemas.JSONString:
		return n.Text
	case schemas.JSONArray:
		a := make([]any, len(n.Items))
		for i, item := range n.Items {
			a[i] = plain(item)
		}
		return a
	case schemas.JSONObject:
		m := make(map[string]any, len(n.Members))
		for _, member := range n.Members {
			m[member.Name] = plain(member.Value)
		}
		return m
	}
	return nil
}

// Schema is a parsed JSON Schema. It is immutable and safe for concurrent use.
type Schema struct {
	canonical string
	lib       *jsonschema.Schema
	model     *schemas.Node
	texts     *documents
	cells     *cellPlan  // nil where values cannot be read so
	counted   *sync.Pool // of *counted, where the schema may contain itself
	once      sync.Once  // of Keep
	kept      any
}

var (
	_ schemas.Schema      = (*Schema)(nil)
	_ schemas.TextEncoder = (*Schema)(nil)
	_ schemas.Normalizer  = (*Schema)(nil)
	_ schemas.TopFielder  = (*Schema)(nil)
	_ schemas.CellReader  = (*Schema)(nil)
)

// Type returns schemas.JSON.
func (s *Schema) Type() schemas.Type { return schemas.JSON }

// TopFields names the properties, those of references apart.
func (s *Schema) TopFields() []string { return slices.Collect(maps.Keys(s.lib.Properties)) }

// Canonical is the text that Confluent's registry keeps for the schema:
// without space, keys in the order of the source, numbers in Java's
// BigDecimal form. Its rare readings of what is not JSON (NaN, text after the
// schema) are refused instead.
func (s *Schema) Canonical() string { return s.canonical }

// Normalized is the canonical text with the keys of every object sorted by
// their UTF-16 code units.
func (s *Schema) Normalized() (string, error) {
	top, err := read(s.canonical)
	if err != nil {
		return "", fmt.Errorf("normalise JSON Schema: %w", err)
	}
	return string(appendText(nil, top, true)), nil
}

// Model returns the neutral tree, as far as it can say what the schema does: a
// place whose alternatives or conditions it cannot hold is schemas.Any.
func (s *Schema) Model() *schemas.Node { return s.model }

// AppendEncode checks v and appends it as JSON, keys sorted.
func (s *Schema) AppendEncode(dst []byte, v any) ([]byte, error) {
	c := converter{}
	plain := c.value(v, "", 0)
	given := v
	if _, ok := v.(map[string]any); !ok {
		given = plain
	}
	if err := s.check(plain, given, c.faults); err != nil {
		return dst, err
	}
	return appendJSON(dst, plain), nil
}

// AppendText implements schemas.TextEncoder. It appends the text as it is, but for
// the space around it.
func (s *Schema) AppendText(dst, text []byte) ([]byte, error) {
	v, err := schemas.ParseText(text)
	if err == nil {
		err = s.check(v, v, nil)
	}
	if err != nil {
		return dst, err
	}
	return append(dst, bytes.Trim(text, " \t\r\n")...), nil
}

// Decode reads one value, within the limits of schemas.ParseJSON, and checks
// it against the schema; JSON has no structure of its own that would do.
func (s *Schema) Decode(src []byte) (any, error) {
	v, err := schemas.ParseJSON(src)
	if err != nil {
		return nil, fmt.Errorf("decode JSON: %w", err)
	}
	if err := s.check(v, v, nil); err != nil {
		return nil, fmt.Errorf("decode JSON: %w", err)
	}
	return v, nil
}
