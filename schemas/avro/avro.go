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
	"errors"
	"fmt"
	"strings"

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
	t, err := parseText(text, refs)
	if err != nil {
		return nil, err
	}
	lib := printer{seen: map[string]bool{}, library: true}
	lib.typ(t, "")
	var options []avro.SchemaOpt
	if strings.Contains(string(lib.out), `"logicalType":"duration"`) {
		options = append(options, avro.CustomType{LogicalType: "duration", AvroType: "fixed"})
	}
	if strings.Contains(string(lib.out), `"logicalType":"uuid"`) {
		options = append(options, avro.CustomType{LogicalType: "uuid", AvroType: "fixed", Decode: func(v any, _ *avro.SchemaNode) (any, error) {
			b, ok := v.([]byte)
			if !ok || len(b) != 16 {
				return v, nil
			}
			return schemas.GUID(b).String(), nil
		}})
	}
	compiled, err := avro.Parse(string(lib.out), options...)
	if err != nil {
		return nil, fmt.Errorf("parse Avro schema: %w", err)
	}
	canonical := printer{seen: map[string]bool{}}
	canonical.typ(t, "")
	m := modeller{named: map[*typ]*schemas.Node{}}
	s := &Schema{canonical: string(canonical.out), lib: compiled, model: m.node(t)}
	plans := planner{}
	s.plan = plans.plan(s.model)
	plans.finish()
	s.forks = forks(s.model)
	return s, nil
}

// Schema is a parsed Avro schema. It is immutable and safe for concurrent use.
type Schema struct {
	canonical string
	lib       *avro.Schema
	model     *schemas.Node
	plan      *plan
	forks     bool
}

var _ schemas.Schema = (*Schema)(nil)

// Type returns schemas.Avro.
func (s *Schema) Type() schemas.Type { return schemas.Avro }

// Canonical is the text that Confluent's registry keeps for the schema; types
// of references stay names in it.
func (s *Schema) Canonical() string { return s.canonical }

// Model returns the neutral tree, types of references included.
func (s *Schema) Model() *schemas.Node { return s.model }

// AppendEncode encodes v in Avro's binary form. Fields that v lacks are
// written as their defaults; fields of maps that the schema does not have are
// refused, those of structs are left out.
func (s *Schema) AppendEncode(dst []byte, v any) ([]byte, error) {
	if s.forks {
		if vs, complete := schemas.CheckWithin(s.model, generic(s.model, v, 0)); len(vs) > 0 {
			return dst, &schemas.ValueError{Violations: vs}
		} else if !complete {
			return dst, &schemas.ValueError{Violations: []schemas.Violation{{
				Expected: "a value whose unions can be told apart", Found: schemas.Describe(v),
				Hint: `name the branches: {"Branch": value}`,
			}}}
		}
	}
	out, err := s.lib.AppendEncode(dst, v)
	if err != nil {
		return dst, s.refuse(v, err)
	}
	if !s.plan.clean(out[len(dst):], v) {
		return dst, s.refuse(v, errors.New("it has text that is not UTF-8, a field that the schema does not have, or a number beyond its type"))
	}
	return out, nil
}

func (s *Schema) refuse(v any, cause error) error {
	return schemas.Refuse(s.model, generic(s.model, v, 0), cause)
}

// Decode reads one value. See schemas.Decode for bytes from outside.
func (s *Schema) Decode(src []byte) (any, error) {
	var v any
	rest, err := s.lib.Decode(src, &v)
	if err != nil {
		return nil, fmt.Errorf("decode Avro: %w", err)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("decode Avro: expected the end after %d bytes, found %d more; was it written with another schema?", len(src)-len(rest), len(rest))
	}
	return v, nil
}

// forks reports whether a union of several objects lies within one such
// union. The library tries the branches one after the other, so the time to
// refuse a value can then grow without bound in its depth.
func forks(root *schemas.Node) bool {
	found := false
	var seen [2]map[*schemas.Node]bool // outside and within such a union
	seen[0], seen[1] = map[*schemas.Node]bool{}, map[*schemas.Node]bool{}
	var visit func(n *schemas.Node, within int)
	visit = func(n *schemas.Node, within int) {
		if n == nil || found || seen[within][n] {
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
			found = found || within == 1
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
	return found
}
