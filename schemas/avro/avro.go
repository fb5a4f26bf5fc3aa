// Package avro is the Avro schema language, on twmb/avro, the one Go library
// that survived every hostile input it was measured with.
//
// Go values. Besides the generic values that schemas.Schema lists, Schema
// encodes Go structs: a field belongs to the schema's field that its `avro`
// tag names, or else its own name. A string is taken for bytes and fixed as it
// is, byte by byte. A value of a union is given bare, or, to choose the branch,
// as a map of one key, the branch's name; decoding gives it bare. UUIDs decode
// to strings, durations to their 12 bytes.
package avro

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/twmb/avro"

	"penstock/schemas"
)

// Format parses Avro schemas.
type Format struct{}

// Type returns schemas.Avro.
func (Format) Type() schemas.Type { return schemas.Avro }

// Parse reads a schema of at most 4 MiB and 200 levels, comments allowed. The
// keys of refs need not be the names of the types they define: every name is
// looked up in all of refs.
func (Format) Parse(text string, refs map[string]string) (schemas.Schema, error) {
	return newSchema(text, refs, true)
}

// ParseRegistered implements schemas.Lenient: defaults may be of other types
// than their fields, and are then no defaults to whom encodes, and namespaces may
// be any text.
func (Format) ParseRegistered(text string, refs map[string]string) (schemas.Schema, error) {
	return newSchema(text, refs, false)
}

func newSchema(text string, refs map[string]string, strict bool) (schemas.Schema, error) {
	t, err := parseText(text, refs, strict)
	if err != nil {
		return nil, err
	}
	canonical, err := t.print(canonicalForm)
	if err != nil {
		return nil, err
	}
	s := &Schema{canonical: string(canonical), refs: maps.Clone(refs)}
	s.model = sync.OnceValue(func() *schemas.Node {
		m := modeller{named: map[*typ]*schemas.Node{}}
		return m.node(t)
	})
	s.same = sync.OnceValues(func() ([sha256.Size]byte, error) {
		text, err := s.text(sameForm)
		return sha256.Sum256([]byte(text)), err
	})
	s.coder = sync.OnceValues(s.compile)
	s.cells = sync.OnceValue(func() []cellPlan { return cellPlans(s.model()) })
	s.shares = sync.OnceValue(func() bool {
		has, all := shares(s.model(), map[*schemas.Node]bool{})
		return has && all
	})
	return s, nil
}

// coder is what it takes to encode and decode. It is made at the first use, since
// a registry never has one and it takes as much memory as all the rest.
type coder struct {
	lib     *avro.Schema
	plan    *plan
	choices bool // a union has several records or maps
	forks   bool // and such a union lies within another
	texts   func() *textPlan
}

func (s *Schema) compile() (*coder, error) {
	lib, err := s.text(libraryForm)
	if err != nil {
		return nil, err
	}
	options := []avro.SchemaOpt{avro.WithLaxNames(nil)} // Parse has looked at them
	if strings.Contains(lib, `"logicalType":"duration"`) {
		options = append(options, avro.CustomType{LogicalType: "duration", AvroType: "fixed"})
	}
	if strings.Contains(lib, `"logicalType":"uuid"`) {
		options = append(options, avro.CustomType{LogicalType: "uuid", AvroType: "fixed", Decode: func(v any, _ *avro.SchemaNode) (any, error) {
			b, ok := v.([]byte)
			if !ok || len(b) != 16 {
				return v, nil
			}
			return schemas.GUID(b).String(), nil
		}})
	}
	c := &coder{}
	if c.lib, err = avro.Parse(lib, options...); err != nil {
		return nil, fmt.Errorf("compile Avro schema: %w", err)
	}
	plans := planner{}
	c.plan = plans.plan(s.model())
	plans.finish()
	c.choices, c.forks = unions(s.model())
	c.texts = sync.OnceValue(func() *textPlan { return s.textPlanOf(c) })
	return c, nil
}

// Schema is a parsed Avro schema. It is immutable and safe for concurrent use.
// What a registry needs of few of its schemas is made at the first use.
type Schema struct {
	canonical string
	refs      map[string]string
	same      func() ([sha256.Size]byte, error) // of the text in sameForm
	model     func() *schemas.Node
	coder     func() (*coder, error)
	cells     func() []cellPlan
	shares    func() bool // there are bytes, and all else is plain
}

var (
	_ schemas.Schema        = (*Schema)(nil)
	_ schemas.TextEncoder   = (*Schema)(nil)
	_ schemas.Normalizer    = (*Schema)(nil)
	_ schemas.Formatter     = (*Schema)(nil)
	_ schemas.Comparer      = (*Schema)(nil)
	_ schemas.CellReader    = (*Schema)(nil)
	_ schemas.SharedDecoder = (*Schema)(nil)
)

// Type returns schemas.Avro.
func (s *Schema) Type() schemas.Type { return schemas.Avro }

// Canonical is the text that Confluent's registry keeps for the schema; types
// of references stay names in it.
func (s *Schema) Canonical() string { return s.canonical }

// Normalized is the text that Confluent's registry keeps if asked to normalise:
// properties (but the logical type, which comes first) and aliases sorted,
// defaults spelled as their types have them, empty docs of named types left out,
// errors made records. Three things that change what a schema means are not
// done: a type without a namespace stays out of the namespace around it, and a
// default stays where it is one of a later branch of a union, or an integer
// beyond 64 bits for a number.
func (s *Schema) Normalized() (string, error) { return s.text(normalForm) }

// Text knows the format "resolved": the canonical text with the types of
// references defined at their first use.
func (s *Schema) Text(format string) (string, error) {
	if format != "resolved" {
		return "", nil
	}
	return s.text(resolvedForm)
}

// text reads the canonical text again: what it takes to write the others is
// not worth keeping.
func (s *Schema) text(f form) (string, error) {
	t, err := parseText(s.canonical, s.refs, false)
	if err != nil {
		return "", err
	}
	out, err := t.print(f)
	return string(out), err
}

// Same compares the structure, references resolved: everything that Canonical
// keeps, but the order of properties, of aliases and of the members of objects,
// and whether a record is an error. Defaults of 1 and 1.0 differ.
func (s *Schema) Same(other schemas.Schema) bool {
	o, ok := other.(*Schema)
	if !ok {
		return false
	}
	// The text was read before, so the errors are nil.
	mine, err := s.same()
	its, otherErr := o.same()
	return err == nil && otherErr == nil && mine == its
}

// Model returns the neutral tree, types of references included.
func (s *Schema) Model() *schemas.Node { return s.model() }

// AppendEncode encodes v in Avro's binary form. Fields that v lacks are
// written as their defaults; fields of maps that the schema does not have are
// refused, those of structs are left out.
func (s *Schema) AppendEncode(dst []byte, v any) ([]byte, error) {
	c, err := s.coder()
	if err != nil {
		return dst, err
	}
	if m, ok := v.(map[string]any); ok {
		if out, ok := c.appendMap(dst, m); ok {
			return out, nil
		}
	}
	if c.forks {
		if vs, complete := schemas.CheckWithin(s.model(), generic(s.model(), v, 0)); len(vs) > 0 {
			return dst, &schemas.ValueError{Violations: vs}
		} else if !complete {
			return dst, &schemas.ValueError{Violations: []schemas.Violation{{
				Expected: "a value whose unions can be told apart", Found: schemas.Describe(v),
				Hint: `name the branches: {"Branch": value}`,
			}}}
		}
	}
	out, err := c.encode(dst, v)
	if err == nil {
		return out, nil
	}
	plain := generic(s.model(), v, 0)
	if c.choices {
		// The library takes the first record whose fields have defaults where
		// v lacks them, though another is meant: name the branches for it.
		if vs, complete := schemas.CheckWithin(s.model(), plain); len(vs) == 0 && complete {
			if out, err := c.encode(dst, label(s.model(), plain)); err == nil {
				return out, nil
			}
		}
	}
	return dst, schemas.Refuse(s.model(), plain, err)
}

func (c *coder) encode(dst []byte, v any) ([]byte, error) {
	out, err := c.lib.AppendEncode(dst, v)
	if err != nil {
		return dst, err
	}
	if !c.plan.clean(out[len(dst):], v) {
		return dst, errors.New("it has text that is not UTF-8, a field that the schema does not have, or a number beyond its type")
	}
	return out, nil
}

// Decode reads one value. See schemas.Decode for bytes from outside.
func (s *Schema) Decode(src []byte) (any, error) {
	c, err := s.coder()
	if err != nil {
		return nil, err
	}
	var v any
	rest, err := c.lib.Decode(src, &v)
	if err != nil {
		return nil, fmt.Errorf("decode Avro: %w", err)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("decode Avro: expected the end after %d bytes, found %d more; was it written with another schema?", len(src)-len(rest), len(rest))
	}
	return v, nil
}

// unions reports whether there is a union of several objects, and whether one
// lies within another. The library tries the branches one after the other, so
// the time to refuse a value can then grow without bound in its depth.
func unions(root *schemas.Node) (choices, forks bool) {
	var seen [2]map[*schemas.Node]bool // outside and within such a union
	seen[0], seen[1] = map[*schemas.Node]bool{}, map[*schemas.Node]bool{}
	var visit func(n *schemas.Node, within int)
	visit = func(n *schemas.Node, within int) {
		if n == nil || forks || seen[within][n] {
			return
		}
		seen[within][n] = true
		objects := 0
		for _, b := range n.Branches {
			if b.Kind == schemas.Map || b.Kind == schemas.Record {
				objects++
			}
		}
		if objects > 1 {
			choices, forks = true, within == 1
			within = 1
		}
		for _, b := range n.Branches {
			visit(b, within)
		}
		for _, f := range n.Fields {
			visit(f.Node, within)
		}
		visit(n.Items, within)
	}
	visit(root, 0)
	return choices, forks
}
