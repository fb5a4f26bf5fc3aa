package protobuf

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"

	"penstock/schemas"
)

// fill sets the fields of m from v and returns the first fault. It is the
// quick way; schemas.Check finds all faults.
func fill(m protoreflect.Message, v any, at string, levels int) *schemas.Violation {
	d := m.Descriptor()
	if levels == 0 {
		return &schemas.Violation{Pointer: at, Expected: fmt.Sprintf("at most %d levels", maxLevels), Found: "one more"}
	}
	switch wellKnown(d) {
	case timestamp:
		return fillTimestamp(m, v, at)
	case wrapper:
		return set(m, d.Fields().ByNumber(1), v, at, levels)
	case jsonValue:
		return fillJSON(m, v, at, levels)
	case jsonObject, jsonList:
		return set(m, d.Fields().ByNumber(1), v, at, levels)
	}
	fields, ok := v.(map[string]any)
	if !ok {
		return fault(at, "object", v)
	}
	known := 0
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		name := string(f.Name())
		fv, given := fields[name]
		if !given {
			if f.Cardinality() == protoreflect.Required {
				return &schemas.Violation{Pointer: at + "/" + name, Expected: "a value", Found: "nothing"}
			}
			continue
		}
		known++
		if fv == nil && f.HasPresence() && f.Cardinality() != protoreflect.Required && !isJSONValue(f) {
			continue
		}
		if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
			if other := m.WhichOneof(o); other != nil {
				return &schemas.Violation{
					Pointer: at + "/" + name, Expected: fmt.Sprintf("one field of the oneof %q", o.Name()),
					Found: fmt.Sprintf("both %q and %q", other.Name(), name), Hint: "leave out one of them, or make it null",
				}
			}
		}
		if bad := set(m, f, fv, at+"/"+name, levels); bad != nil {
			return bad
		}
	}
	if known != len(fields) {
		return fault(at, "no other fields than the schema's", v)
	}
	return nil
}

func fault(at, expected string, v any) *schemas.Violation {
	return &schemas.Violation{Pointer: at, Expected: expected, Found: schemas.Describe(v)}
}

func isJSONValue(f protoreflect.FieldDescriptor) bool {
	return f.Message() != nil && wellKnown(f.Message()) == jsonValue
}

func fillTimestamp(m protoreflect.Message, v any, at string) *schemas.Violation {
	t, ok := schemas.AsTime(v)
	if !ok || t.Year() < 1 || t.Year() > 9999 {
		return fault(at, "timestamp", v)
	}
	fields := m.Descriptor().Fields()
	m.Set(fields.ByNumber(1), protoreflect.ValueOfInt64(t.Unix()))
	m.Set(fields.ByNumber(2), protoreflect.ValueOfInt32(int32(t.Nanosecond())))
	return nil
}

func fillJSON(m protoreflect.Message, v any, at string, levels int) *schemas.Violation {
	number := protoreflect.FieldNumber(2)
	switch v.(type) {
	case nil:
		m.Set(m.Descriptor().Fields().ByNumber(1), protoreflect.ValueOfEnum(0))
		return nil
	case string:
		number = 3
	case bool:
		number = 4
	case map[string]any:
		number = 5
	case []any:
		number = 6
	}
	return set(m, m.Descriptor().Fields().ByNumber(number), v, at, levels)
}

// set sets one field of m.
func set(m protoreflect.Message, f protoreflect.FieldDescriptor, v any, at string, levels int) *schemas.Violation {
	switch {
	case f.IsMap():
		entries, ok := v.(map[string]any)
		if !ok {
			return fault(at, "object", v)
		}
		target := m.Mutable(f).Map()
		for _, name := range slices.Sorted(maps.Keys(entries)) {
			inner := at + "/" + schemas.EscapePointer(name)
			key, ok := mapKey(f.MapKey(), name)
			if !ok {
				return fault(inner, "a name that is of the type "+f.MapKey().Kind().String(), name)
			}
			value := target.NewValue()
			if f.MapValue().Message() != nil {
				if bad := fill(value.Message(), entries[name], inner, levels-1); bad != nil {
					return bad
				}
			} else if value, ok = toScalar(f.MapValue(), entries[name]); !ok {
				return fault(inner, f.MapValue().Kind().String(), entries[name])
			}
			target.Set(key, value)
		}
	case f.IsList():
		items, ok := v.([]any)
		if !ok {
			return fault(at, "array", v)
		}
		target := m.Mutable(f).List()
		for i, item := range items {
			inner := at + "/" + strconv.Itoa(i)
			if f.Message() != nil {
				if bad := fill(target.AppendMutable().Message(), item, inner, levels-1); bad != nil {
					return bad
				}
				continue
			}
			value, ok := toScalar(f, item)
			if !ok {
				return fault(inner, f.Kind().String(), item)
			}
			target.Append(value)
		}
	case f.Message() != nil:
		return fill(m.Mutable(f).Message(), v, at, levels-1)
	default:
		value, ok := toScalar(f, v)
		if !ok {
			return fault(at, f.Kind().String(), v)
		}
		m.Set(f, value)
	}
	return nil
}

func mapKey(f protoreflect.FieldDescriptor, name string) (protoreflect.MapKey, bool) {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(name).MapKey(), utf8.ValidString(name)
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(name == "true").MapKey(), name == "true" || name == "false"
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		n, err := strconv.ParseInt(name, 10, 32)
		return protoreflect.ValueOfInt32(int32(n)).MapKey(), err == nil
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		n, err := strconv.ParseInt(name, 10, 64)
		return protoreflect.ValueOfInt64(n).MapKey(), err == nil
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		n, err := strconv.ParseUint(name, 10, 32)
		return protoreflect.ValueOfUint32(uint32(n)).MapKey(), err == nil
	default:
		n, err := strconv.ParseUint(name, 10, 64)
		return protoreflect.ValueOfUint64(n).MapKey(), err == nil
	}
}

// toScalar returns v as a value of the field's kind, if that loses nothing.
func toScalar(f protoreflect.FieldDescriptor, v any) (protoreflect.Value, bool) {
	switch f.Kind() {
	case protoreflect.BoolKind:
		b, ok := v.(bool)
		return protoreflect.ValueOfBool(b), ok
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		n, ok := schemas.AsInt64(v)
		return protoreflect.ValueOfInt32(int32(n)), ok && int64(int32(n)) == n
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		n, ok := schemas.AsInt64(v)
		return protoreflect.ValueOfInt64(n), ok
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		n, ok := schemas.AsUint64(v)
		return protoreflect.ValueOfUint32(uint32(n)), ok && n <= math.MaxUint32
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		n, ok := schemas.AsUint64(v)
		return protoreflect.ValueOfUint64(n), ok
	case protoreflect.FloatKind:
		n, ok := schemas.AsFloat64(v)
		return protoreflect.ValueOfFloat32(float32(n)), ok && (math.IsInf(n, 0) || !math.IsInf(float64(float32(n)), 0))
	case protoreflect.DoubleKind:
		n, ok := schemas.AsFloat64(v)
		return protoreflect.ValueOfFloat64(n), ok
	case protoreflect.StringKind:
		s, ok := v.(string)
		return protoreflect.ValueOfString(s), ok && utf8.ValidString(s)
	case protoreflect.BytesKind:
		switch v := v.(type) {
		case []byte:
			return protoreflect.ValueOfBytes(v), true
		case string:
			b, err := base64.StdEncoding.DecodeString(v)
			return protoreflect.ValueOfBytes(b), err == nil
		}
	case protoreflect.EnumKind:
		switch v := v.(type) {
		case string:
			if e := f.Enum().Values().ByName(protoreflect.Name(v)); e != nil {
				return protoreflect.ValueOfEnum(e.Number()), true
			}
		case int32:
			return protoreflect.ValueOfEnum(protoreflect.EnumNumber(v)), true
		}
	}
	return protoreflect.Value{}, false
}

// reader turns messages into generic values, left many at most.
type reader struct {
	left int
	err  error
}

func (r *reader) message(m protoreflect.Message) any {
	d := m.Descriptor()
	fields := d.Fields()
	switch wellKnown(d) {
	case timestamp:
		t := time.Unix(m.Get(fields.ByNumber(1)).Int(), m.Get(fields.ByNumber(2)).Int()).UTC()
		if year := t.Year(); year < 1 || year > 9999 {
			r.err = fmt.Errorf("expected a timestamp of the years 1 to 9999, found one of the year %d", year)
		}
		return t
	case wrapper, jsonObject, jsonList:
		return r.field(m, fields.ByNumber(1))
	case jsonValue:
		set := m.WhichOneof(fields.ByNumber(1).ContainingOneof())
		if set == nil || set.Number() == 1 {
			return nil
		}
		return r.field(m, set)
	}
	r.left -= fields.Len() + 1
	if r.left < 0 {
		return nil
	}
	out := make(map[string]any, fields.Len())
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.HasPresence() && !m.Has(f) {
			out[string(f.Name())] = nil
			continue
		}
		out[string(f.Name())] = r.field(m, f)
	}
	return out
}

func (r *reader) field(m protoreflect.Message, f protoreflect.FieldDescriptor) any {
	v := m.Get(f)
	switch {
	case f.IsMap():
		out := make(map[string]any, v.Map().Len())
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			r.left--
			out[k.String()] = r.value(f.MapValue(), v)
			return r.left >= 0
		})
		return out
	case f.IsList():
		list := v.List()
		if r.left -= list.Len(); r.left < 0 {
			return nil
		}
		out := make([]any, list.Len())
		for i := range out {
			out[i] = r.value(f, list.Get(i))
			if r.left < 0 {
				return nil
			}
		}
		return out
	}
	return r.value(f, v)
}

func (r *reader) value(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	if f.Message() != nil {
		return r.message(v.Message())
	}
	return scalar(f, v)
}

// scalar returns a value without parts.
func scalar(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch f.Kind() {
	case protoreflect.EnumKind:
		if e := f.Enum().Values().ByNumber(v.Enum()); e != nil {
			return string(e.Name())
		}
		return int32(v.Enum())
	case protoreflect.BytesKind:
		return append([]byte{}, v.Bytes()...)
	}
	return v.Interface()
}
