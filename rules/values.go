package rules

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"penstock/schemas"
)

const (
	maxDepth = 100
	day      = 24 * time.Hour
)

// values turns values into those of CEL and back, along the schema's nodes. A
// nil node is of a place that the schema does not describe.
type values struct {
	language schemas.Type
}

// toCEL converts v; records, maps and arrays are converted as they are looked
// into.
func (c values) toCEL(n *schemas.Node, v any) ref.Val {
	n = branch(n, v)
	switch v := v.(type) {
	case nil:
		return types.NullValue
	case bool:
		return types.Bool(v)
	case string:
		if n != nil && n.Numbers != nil {
			if i := slices.Index(n.Symbols, v); i >= 0 {
				return types.Int(n.Numbers[i])
			}
		}
		return types.String(v)
	case []byte:
		return types.Bytes(v)
	case float32:
		return types.Double(v)
	case float64:
		return types.Double(v)
	case json.Number:
		return number(v)
	case time.Time:
		if n != nil && n.Logical == schemas.Date {
			return types.Int(v.Unix() / int64(day/time.Second))
		}
		return types.Timestamp{Time: v.UTC()}
	case time.Duration:
		return types.Duration{Duration: v}
	case *big.Rat:
		f, _ := v.Float64()
		return types.Double(f)
	case map[string]any:
		if c.language == schemas.Protobuf && n != nil && n.Kind == schemas.Record {
			return &message{c: c, node: n, fields: v}
		}
		return &object{c: c, node: n, fields: v}
	case []any:
		return &array{c: c, node: n, items: v}
	case ref.Val:
		return v
	}
	if i, ok := schemas.AsInt64(v); ok {
		if n != nil && n.Unsigned {
			return types.Uint(i)
		}
		return types.Int(i)
	}
	if u, ok := schemas.AsUint64(v); ok {
		return types.Uint(u)
	}
	return types.NewErr("expressions cannot see %T", v)
}

// number is a whole number as int, and any other as double.
func number(v json.Number) ref.Val {
	if !strings.ContainsAny(string(v), ".eE") {
		if i, err := v.Int64(); err == nil {
			return types.Int(i)
		}
		return types.NewErr("integer %s does not fit into 64 bits", v)
	}
	f, err := v.Float64()
	if err != nil {
		return types.NewErr("number %s does not fit into a double", v)
	}
	return types.Double(f)
}

// fromCEL converts a result to a value for n.
func (c values) fromCEL(n *schemas.Node, v ref.Val, depth int) (any, error) {
	if depth == 0 {
		return nil, fmt.Errorf("convert result: expected at most %d levels", maxDepth)
	}
	switch v := v.(type) {
	case types.Null:
		return nil, nil
	case types.Bool:
		return bool(v), nil
	case types.Int:
		if rest, ok := only(n, schemas.Date); ok && rest.Kind == schemas.Int {
			return time.Unix(0, 0).UTC().AddDate(0, 0, int(v)), nil
		}
		if rest, ok := only(n, schemas.NoLogical); ok && rest.Numbers != nil && v >= math.MinInt32 && v <= math.MaxInt32 {
			if i := slices.Index(rest.Numbers, int32(v)); i >= 0 {
				return rest.Symbols[i], nil
			}
		}
		return int64(v), nil
	case types.Uint:
		return uint64(v), nil
	case types.Double:
		return float64(v), nil
	case types.String:
		return string(v), nil
	case types.Bytes:
		return []byte(v), nil
	case types.Timestamp:
		return v.Time, nil
	case types.Duration:
		return v.Duration, nil
	case *object:
		return v.fields, nil
	case *message:
		return v.fields, nil
	case *array:
		return v.items, nil
	case traits.Mapper:
		out := map[string]any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			key := it.Next()
			name, ok := key.(types.String)
			if !ok {
				return nil, fmt.Errorf("convert result: expected names that are strings, found %s", key.Type().TypeName())
			}
			item, err := c.fromCEL(child(n, string(name)), v.Get(key), depth-1)
			if err != nil {
				return nil, err
			}
			out[string(name)] = item
		}
		return out, nil
	case traits.Lister:
		out := []any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			item, err := c.fromCEL(items(n), it.Next(), depth-1)
			if err != nil {
				return nil, err
			}
			out = append(out, item)
		}
		return out, nil
	case *types.Err:
		return nil, v
	}
	return nil, fmt.Errorf("convert result: expected a value that a record can hold, found %s", v.Type().TypeName())
}

// branch returns the branch of n that v belongs to; what is no union is its
// own. It is nil if no branch fits.
func branch(n *schemas.Node, v any) *schemas.Node {
	if n == nil || n.Kind != schemas.Union {
		return n
	}
	if v != nil {
		if rest, nullable := n.Nullable(); nullable && rest.Kind != schemas.Union {
			return branch(rest, v)
		}
	}
	for _, b := range n.Branches {
		if len(schemas.Check(b, v)) == 0 {
			return branch(b, v)
		}
	}
	return nil
}

// only returns n, or what it is beside null, if that is of the logical type.
func only(n *schemas.Node, l schemas.Logical) (*schemas.Node, bool) {
	if n == nil {
		return nil, false
	}
	if rest, nullable := n.Nullable(); nullable {
		n = rest
	}
	return n, n.Logical == l
}

// child is the node of a field of n, or of an entry of it.
func child(n *schemas.Node, name string) *schemas.Node {
	if n == nil {
		return nil
	}
	if rest, nullable := n.Nullable(); nullable {
		n = rest
	}
	switch n.Kind {
	case schemas.Record:
		if f := n.Field(name); f != nil {
			return f.Node
		}
	case schemas.Map:
		return n.Items
	}
	return nil
}

// items is the node of an array's items.
func items(n *schemas.Node) *schemas.Node {
	if n == nil {
		return nil
	}
	if rest, nullable := n.Nullable(); nullable {
		n = rest
	}
	if n.Kind != schemas.Array {
		return nil
	}
	return n.Items
}

// object is a record of Avro or JSON, or a map, as CEL's map.
type object struct {
	c      values
	node   *schemas.Node
	fields map[string]any
	all    traits.Mapper // made by whole
}

func (o *object) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	v, ok := o.fields[string(name)]
	if !ok {
		return nil, false
	}
	return o.c.toCEL(child(o.node, string(name)), v), true
}

func (o *object) Get(key ref.Val) ref.Val {
	v, ok := o.Find(key)
	if !ok {
		return types.NewErr("no such key: %v", key)
	}
	return v
}

func (o *object) Contains(key ref.Val) ref.Val {
	_, ok := o.Find(key)
	return types.Bool(ok)
}

// whole is the map with all its values converted.
func (o *object) whole() traits.Mapper {
	if o.all == nil {
		m := make(map[ref.Val]ref.Val, len(o.fields))
		for name, v := range o.fields {
			m[types.String(name)] = o.c.toCEL(child(o.node, name), v)
		}
		o.all = types.NewRefValMap(types.DefaultTypeAdapter, m)
	}
	return o.all
}

func (o *object) Size() ref.Val                               { return types.Int(len(o.fields)) }
func (o *object) Iterator() traits.Iterator                   { return o.whole().Iterator() }
func (o *object) Equal(other ref.Val) ref.Val                 { return o.whole().Equal(other) }
func (o *object) ConvertToType(t ref.Type) ref.Val            { return o.whole().ConvertToType(t) }
func (o *object) ConvertToNative(t reflect.Type) (any, error) { return o.whole().ConvertToNative(t) }
func (o *object) Type() ref.Type                              { return types.MapType }
func (o *object) Value() any                                  { return o.fields }
func (o *object) IsZeroValue() bool                           { return len(o.fields) == 0 }

// message is a record of Protobuf: a field that is not there reads as its
// default, and has says no of it.
type message struct {
	c      values
	node   *schemas.Node
	fields map[string]any
}

// Get implements traits.Indexer.
func (m *message) Get(key ref.Val) ref.Val {
	f := m.field(key)
	if f == nil {
		return types.NewErr("no such field: %v", key)
	}
	v, ok := m.fields[f.Name]
	if !ok || v == nil {
		return m.unset(f)
	}
	return m.c.toCEL(f.Node, v)
}

func (m *message) unset(f *schemas.Field) ref.Val {
	if f.HasDefault {
		return m.c.toCEL(f.Node, f.Default)
	}
	n, _ := f.Node.Nullable()
	switch n.Kind {
	case schemas.Bool:
		return types.False
	case schemas.Int:
		if n.Unsigned {
			return types.Uint(0)
		}
		return types.Int(0)
	case schemas.Float:
		return types.Double(0)
	case schemas.String:
		if n.Logical == schemas.Timestamp {
			return types.Timestamp{Time: time.Unix(0, 0).UTC()}
		}
		return types.String("")
	case schemas.Bytes:
		return types.Bytes{}
	case schemas.Enum:
		if len(n.Symbols) > 0 {
			return m.c.toCEL(n, n.Symbols[0])
		}
	case schemas.Record:
		return &message{c: m.c, node: n}
	}
	return types.NullValue
}

// IsSet implements traits.FieldTester.
func (m *message) IsSet(key ref.Val) ref.Val {
	f := m.field(key)
	if f == nil {
		return types.NewErr("no such field: %v", key)
	}
	v, ok := m.fields[f.Name]
	if !ok || v == nil {
		return types.False
	}
	if _, nullable := f.Node.Nullable(); f.HasDefault && !nullable {
		if z, ok := m.c.toCEL(f.Node, v).(traits.Zeroer); ok {
			return types.Bool(!z.IsZeroValue())
		}
	}
	return types.True
}

func (m *message) field(key ref.Val) *schemas.Field {
	name, ok := key.(types.String)
	if !ok {
		return nil
	}
	return m.node.Field(string(name))
}

func (m *message) Equal(other ref.Val) ref.Val {
	o, ok := other.(*message)
	return types.Bool(ok && o.node == m.node && reflect.DeepEqual(o.fields, m.fields))
}

func (m *message) ConvertToType(t ref.Type) ref.Val {
	if t == types.TypeType {
		return types.NewObjectType(m.node.Name)
	}
	return types.NewErr("type conversion error from %q to %q", m.node.Name, t.TypeName())
}

func (m *message) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("cannot convert %s to %v", m.node.Name, t)
}

func (m *message) Type() ref.Type {
	return types.NewObjectType(m.node.Name, traits.IndexerType|traits.FieldTesterType)
}
func (m *message) Value() any { return m.fields }

// array is a list.
type array struct {
	c     values
	node  *schemas.Node
	items []any
	all   traits.Lister // made by whole
}

func (a *array) Get(index ref.Val) ref.Val {
	i, err := types.IndexOrError(index)
	if err != nil {
		return types.WrapErr(err)
	}
	if i < 0 || i >= len(a.items) {
		return types.NewErr("index out of bounds: %d", i)
	}
	return a.c.toCEL(items(a.node), a.items[i])
}

func (a *array) whole() traits.Lister {
	if a.all == nil {
		all := make([]ref.Val, len(a.items))
		for i, v := range a.items {
			all[i] = a.c.toCEL(items(a.node), v)
		}
		a.all = types.NewRefValList(types.DefaultTypeAdapter, all)
	}
	return a.all
}

func (a *array) Size() ref.Val                               { return types.Int(len(a.items)) }
func (a *array) Contains(v ref.Val) ref.Val                  { return a.whole().Contains(v) }
func (a *array) Add(other ref.Val) ref.Val                   { return a.whole().Add(other) }
func (a *array) Iterator() traits.Iterator                   { return a.whole().Iterator() }
func (a *array) Equal(other ref.Val) ref.Val                 { return a.whole().Equal(other) }
func (a *array) ConvertToType(t ref.Type) ref.Val            { return a.whole().ConvertToType(t) }
func (a *array) ConvertToNative(t reflect.Type) (any, error) { return a.whole().ConvertToNative(t) }
func (a *array) Type() ref.Type                              { return types.ListType }
func (a *array) Value() any                                  { return a.items }
func (a *array) IsZeroValue() bool                           { return len(a.items) == 0 }
