package avro

import (
	"encoding"
	"encoding/json"
	"math/big"
	"reflect"
	"strings"
	"time"

	"penstock/schemas"
)

const maxGoDepth = 200

// generic turns v into the generic values that schemas.Check takes: structs
// and typed maps into map[string]any, typed slices into []any, pointers into
// what they point to, and a union's {"Branch": value} into the value. It is
// for values that were refused, so it need not be quick.
func generic(n *schemas.Node, v any, depth int) any {
	if depth > maxGoDepth {
		return v
	}
	switch v.(type) {
	case nil, string, bool, json.Number, []byte, time.Time, time.Duration, *big.Rat:
		return v
	}
	r := reflect.ValueOf(v)
	for i := 0; r.Kind() == reflect.Pointer || r.Kind() == reflect.Interface; i++ {
		if r.IsNil() || i > maxGoDepth {
			return nil
		}
		if r.Type() == reflect.TypeFor[*big.Rat]() {
			return r.Interface()
		}
		r = r.Elem()
	}
	if !r.CanInterface() {
		return v
	}
	v = r.Interface()
	if n.Kind == schemas.Union {
		branch, inner := pick(n, r, v)
		if branch == nil {
			return v
		}
		return generic(branch, inner, depth+1)
	}
	switch r.Kind() {
	case reflect.Map:
		if r.Type().Key().Kind() != reflect.String {
			return v
		}
		m := make(map[string]any, r.Len())
		for it := r.MapRange(); it.Next(); {
			name := it.Key().String()
			inner := &schemas.Node{}
			if n.Kind == schemas.Map {
				inner = n.Items
			} else if f := n.Field(name); f != nil {
				inner = f.Node
			}
			m[name] = generic(inner, it.Value().Interface(), depth+1)
		}
		return m
	case reflect.Slice, reflect.Array:
		if r.Type().Elem().Kind() == reflect.Uint8 {
			if r.Kind() == reflect.Slice {
				return r.Bytes()
			}
			return v
		}
		items := n.Items
		if items == nil {
			items = &schemas.Node{}
		}
		a := make([]any, r.Len())
		for i := range a {
			a[i] = generic(items, r.Index(i).Interface(), depth+1)
		}
		return a
	case reflect.Struct:
		return structure(n, r, depth)
	case reflect.String:
		if _, ok := v.(encoding.TextMarshaler); !ok {
			return r.String()
		}
	}
	return v
}

// pick returns the branch of the union n that v is tagged with or, if that is
// the only one for objects or for arrays, has the shape of.
func pick(n *schemas.Node, r reflect.Value, v any) (*schemas.Node, any) {
	if r.Kind() == reflect.Map && r.Len() == 1 && r.Type().Key().Kind() == reflect.String {
		it := r.MapRange()
		it.Next()
		for _, b := range n.Branches {
			if key := it.Key().String(); key == b.Name && key != "" || key == tagOf(b) {
				return b, it.Value().Interface()
			}
		}
	}
	object := r.Kind() == reflect.Map || r.Kind() == reflect.Struct
	array := r.Kind() == reflect.Slice
	var only *schemas.Node
	for _, b := range n.Branches {
		if object && (b.Kind == schemas.Record || b.Kind == schemas.Map) || array && b.Kind == schemas.Array {
			if only != nil {
				return &schemas.Node{}, v
			}
			only = b
		}
	}
	return only, v
}

// tagOf is how Avro names an unnamed type.
func tagOf(n *schemas.Node) string {
	switch n.Kind {
	case schemas.Int:
		if n.Bits == 32 {
			return "int"
		}
		return "long"
	case schemas.Float:
		if n.Bits == 32 {
			return "float"
		}
		return "double"
	case schemas.Record, schemas.Enum, schemas.Fixed:
		return n.Name
	}
	return n.Kind.String()
}

// structure turns a struct into a map of the fields that n has. Any other
// field is none of the encoder's business.
func structure(n *schemas.Node, r reflect.Value, depth int) any {
	if n.Kind != schemas.Record && n.Kind != schemas.Any {
		return r.Interface()
	}
	m := map[string]any{}
	t := r.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("avro"), ",")
		if tag == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		fv := r.Field(i)
		if tag == "" && f.Anonymous || strings.Contains(","+options+",", ",inline,") {
			for fv.Kind() == reflect.Pointer && !fv.IsNil() {
				fv = fv.Elem()
			}
			if fv.Kind() == reflect.Struct {
				if inner, ok := structure(n, fv, depth+1).(map[string]any); ok {
					for k, v := range inner {
						if _, outer := m[k]; !outer {
							m[k] = v
						}
					}
				}
				continue
			}
		}
		if !fv.CanInterface() {
			continue
		}
		name := tag
		if name == "" {
			name = f.Name
		}
		inner := &schemas.Node{}
		if n.Kind == schemas.Record {
			field := n.Field(name)
			if field == nil || strings.Contains(options, "omitzero") && fv.IsZero() && !field.Required {
				continue
			}
			inner = field.Node
		}
		m[name] = generic(inner, fv.Interface(), depth+1)
	}
	return m
}

// label wraps, in a generic value that fits n, what is of a union of several
// objects in a map of one key that names the branch, as the encoder reads it.
func label(n *schemas.Node, v any) any {
	switch v := v.(type) {
	case []any:
		if n.Kind == schemas.Union {
			for _, b := range n.Branches {
				if b.Kind == schemas.Array {
					return label(b, v)
				}
			}
		}
		if n.Kind != schemas.Array {
			return v
		}
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = label(n.Items, e)
		}
		return out
	case map[string]any:
		if n.Kind == schemas.Union {
			for _, b := range n.Branches {
				if (b.Kind == schemas.Record || b.Kind == schemas.Map) && len(schemas.Check(b, v)) == 0 {
					return map[string]any{tagOf(b): label(b, v)}
				}
			}
			return v
		}
		out := make(map[string]any, len(v))
		for k, e := range v {
			if n.Kind == schemas.Map {
				out[k] = label(n.Items, e)
			} else if f := n.Field(k); f != nil {
				out[k] = label(f.Node, e)
			}
		}
		return out
	}
	return v
}
