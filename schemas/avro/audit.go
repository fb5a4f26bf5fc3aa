package avro

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"reflect"
	"unicode/utf8"

	"penstock/schemas"
)

// plan is what the audit of an encoding needs to know of a type.
type plan struct {
	kind     schemas.Kind
	bits     int
	size     int
	tag      string // how a union's value may name this branch
	fields   []fieldPlan
	required int // how many fields the encoder insists on
	items    *plan
	branches []*plan
	flat     bool   // a record all whose fields are scalars, or those or null
	way      []step // over the encoding
}

type fieldPlan struct {
	name     string
	plan     *plan
	required bool
}

// planner makes one plan for each node.
type planner map[*schemas.Node]*plan

func (pl planner) plan(n *schemas.Node) *plan {
	if p, ok := pl[n]; ok {
		return p
	}
	p := &plan{kind: n.Kind, bits: n.Bits, size: n.Size, tag: n.Name}
	pl[n] = p
	switch n.Kind {
	case schemas.Array, schemas.Map:
		p.tag = n.Kind.String()
		p.items = pl.plan(n.Items)
	case schemas.Union:
		for _, b := range n.Branches {
			p.branches = append(p.branches, pl.plan(b))
		}
	case schemas.Record:
		for _, f := range n.Fields {
			p.fields = append(p.fields, fieldPlan{f.Name, pl.plan(f.Node), f.Required})
			if f.Required {
				p.required++
			}
		}
	}
	return p
}

// finish makes what needs all plans to be there.
func (pl planner) finish() {
	for _, p := range pl {
		p.way = p.steps()
		p.flat = p.kind == schemas.Record
		for _, s := range p.way {
			p.flat = p.flat && s.part == nil
		}
	}
}

// compares reports whether the audit looks at values of p at all, and not at
// their encoding alone.
func (p *plan) compares() bool {
	switch p.kind {
	case schemas.Array, schemas.Map, schemas.Record, schemas.Union, schemas.Float:
		return true
	}
	return false
}

// unseen stands in for a value that the audit does not look into: a Go
// struct's, whose fields the encoder finds by type.
type unseen struct{}

// audit walks the encoding of v, just made, and reports whether the encoder
// let something pass that a reader could not want: text that is not UTF-8, a
// field that the schema does not have, a number that became infinite. For
// generic values and structs it allocates nothing.
func (p *plan) audit(src []byte, v any) (rest []byte, ok bool) {
	switch p.kind {
	case schemas.Bool:
		return src[1:], true
	case schemas.Int, schemas.Enum:
		_, n := binary.Varint(src)
		return src[n:], true
	case schemas.Float:
		return p.float(src, v)
	case schemas.String:
		s, rest := block(src)
		return rest, utf8.Valid(s)
	case schemas.Bytes:
		_, rest := block(src)
		return rest, true
	case schemas.Fixed:
		return src[p.size:], true
	case schemas.Array:
		return p.array(src, v)
	case schemas.Map:
		return p.entries(src, v)
	case schemas.Record:
		return p.record(src, v)
	case schemas.Union:
		i, n := binary.Varint(src)
		b := p.branches[i]
		if m, isMap := v.(map[string]any); isMap && len(m) == 1 {
			if inner, tagged := m[b.tag]; tagged {
				if rest, ok := b.audit(src[n:], inner); ok {
					return rest, true
				}
			}
		}
		return b.audit(src[n:], v)
	}
	return src, true
}

// block splits off what begins with its length.
func block(src []byte) (b, rest []byte) {
	size, n := binary.Varint(src)
	src = src[n:]
	return src[:size], src[size:]
}

func (p *plan) float(src []byte, v any) ([]byte, bool) {
	var f float64
	if p.bits == 32 {
		f = float64(math.Float32frombits(binary.LittleEndian.Uint32(src)))
		src = src[4:]
	} else {
		f = math.Float64frombits(binary.LittleEndian.Uint64(src))
		src = src[8:]
	}
	if !math.IsInf(f, 0) {
		return src, true
	}
	switch v := v.(type) {
	case json.Number:
		return src, false
	case float64:
		return src, math.IsInf(v, 0)
	}
	return src, true
}

func (p *plan) record(src []byte, v any) (rest []byte, ok bool) {
	m := members(v)
	known := p.required
	for i := range p.fields {
		f := &p.fields[i]
		var fv any = unseen{}
		if m != nil && (!f.required || f.plan.compares()) {
			if given, present := m[f.name]; present {
				fv = given
				if !f.required {
					known++
				}
			}
		}
		if src, ok = f.plan.audit(src, fv); !ok {
			return nil, false
		}
	}
	return src, m == nil || known == len(m)
}

func (p *plan) array(src []byte, v any) (rest []byte, ok bool) {
	items, _ := v.([]any)
	var typed reflect.Value
	if items == nil && p.items.compares() {
		typed = reflect.Indirect(reflect.ValueOf(v))
	}
	i := 0
	for {
		count, n := binary.Varint(src)
		src = src[n:]
		if count == 0 {
			return src, true
		}
		for range count {
			var item any = unseen{}
			if i < len(items) {
				item = items[i]
			} else if typed.IsValid() && typed.Kind() == reflect.Slice {
				item = typed.Index(i).Interface()
			}
			if src, ok = p.items.audit(src, item); !ok {
				return nil, false
			}
			i++
		}
	}
}

func (p *plan) entries(src []byte, v any) (rest []byte, ok bool) {
	var m map[string]any
	if p.items.compares() {
		m = members(v)
	}
	for {
		count, n := binary.Varint(src)
		src = src[n:]
		if count == 0 {
			return src, true
		}
		for range count {
			var key []byte
			key, src = block(src)
			if !utf8.Valid(key) {
				return nil, false
			}
			var item any = unseen{}
			if given, present := m[string(key)]; present {
				item = given
			}
			if src, ok = p.items.audit(src, item); !ok {
				return nil, false
			}
		}
	}
}

// isStruct reports whether v is a struct or points to one.
func isStruct(v any) bool {
	t := reflect.TypeOf(v)
	return t != nil && (t.Kind() == reflect.Struct || t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct)
}

// members returns v as a map of names to values, or nil if it is a struct.
func members(v any) map[string]any {
	switch v := v.(type) {
	case map[string]any:
		return v
	case unseen:
		return nil
	}
	r := reflect.ValueOf(v)
	for r.Kind() == reflect.Pointer || r.Kind() == reflect.Interface {
		r = r.Elem()
	}
	if r.Kind() != reflect.Map {
		return nil
	}
	m := make(map[string]any, r.Len())
	for it := r.MapRange(); it.Next(); {
		m[it.Key().String()] = it.Value().Interface()
	}
	return m
}
