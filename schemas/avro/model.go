package avro

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"penstock/schemas"
)

// modeller turns types into the neutral tree. A named type becomes one node
// however often it is used, so a recursive schema becomes a graph.
type modeller struct {
	named map[*typ]*schemas.Node
}

func (m *modeller) node(t *typ) *schemas.Node {
	if n, ok := m.named[t]; ok {
		return n
	}
	n := &schemas.Node{}
	switch t.kind {
	case "null":
		n.Kind = schemas.Null
	case "boolean":
		n.Kind = schemas.Bool
	case "int":
		n.Kind, n.Bits = schemas.Int, 32
	case "long":
		n.Kind, n.Bits = schemas.Int, 64
	case "float":
		n.Kind, n.Bits = schemas.Float, 32
	case "double":
		n.Kind, n.Bits = schemas.Float, 64
	case "string":
		n.Kind = schemas.String
	case "bytes":
		n.Kind = schemas.Bytes
	case "array":
		n.Kind, n.Items = schemas.Array, m.node(t.items)
	case "map":
		n.Kind, n.Items = schemas.Map, m.node(t.items)
	case "union":
		n.Kind = schemas.Union
		for _, b := range t.members {
			n.Branches = append(n.Branches, m.node(b))
		}
	default:
		m.named[t] = n
		n.Name = t.name.full()
		for _, a := range t.aliases {
			n.Aliases = append(n.Aliases, a.full())
		}
		if t.doc != nil {
			n.Doc = *t.doc
		}
		m.definition(n, t)
	}
	logical(n, t)
	return n
}

func (m *modeller) definition(n *schemas.Node, t *typ) {
	switch t.kind {
	case "enum":
		n.Kind, n.Symbols = schemas.Enum, t.symbols
		if t.other != nil {
			n.Fallback = *t.other
		}
	case "fixed":
		n.Kind, n.Size = schemas.Fixed, t.size
	default:
		n.Kind = schemas.Record
		n.Fields = make([]schemas.Field, len(t.fields))
		for i, f := range t.fields {
			out := schemas.Field{
				Name: f.name, Aliases: f.aliases, Node: m.node(f.typ), Tags: property(f.props, "confluent:tags").Strings(),
			}
			if f.doc != nil {
				out.Doc = *f.doc
			}
			implicitNull := f.typ.kind == "null" || f.typ.kind == "union" && len(f.typ.members) > 0 && f.typ.members[0].kind == "null"
			out.Required = f.def == nil && !implicitNull
			if f.def != nil {
				out.HasDefault = true
			}
			if f.def != nil && !f.unfit {
				out.Default = value(out.Node, f.def)
			}
			n.Fields[i] = out
		}
	}
}

// logicalType is a logical type that is one of the type it stands on.
type logicalType struct {
	name             string
	precision, scale int // of a decimal
}

// logical returns the logical type of t, or nil if it has none, one that is
// unknown, or one that cannot stand there; the specification has all those
// ignored.
func (t *typ) logical() *logicalType {
	kind, _ := text(property(t.props, "logicalType"))
	l := &logicalType{name: kind}
	switch kind + " on " + t.kind {
	case "date on int", "time-millis on int", "time-micros on long",
		"timestamp-millis on long", "timestamp-micros on long", "timestamp-nanos on long",
		"local-timestamp-millis on long", "local-timestamp-micros on long", "local-timestamp-nanos on long",
		"uuid on string", "big-decimal on bytes":
		return l
	case "uuid on fixed":
		if t.size == 16 {
			return l
		}
	case "duration on fixed":
		if t.size == 12 {
			return l
		}
	case "decimal on bytes", "decimal on fixed":
		var whole, fits bool
		l.precision, whole = size(property(t.props, "precision"))
		l.scale, fits = 0, true
		if scale := property(t.props, "scale"); scale != nil {
			l.scale, fits = size(scale)
		}
		if whole && fits && l.precision > 0 && l.scale <= l.precision && (t.kind == "bytes" || l.precision <= digitsOf(t.size)) {
			return l
		}
	}
	return nil
}

// property returns what a type or a field says beyond the specification.
func property(props []schemas.JSONMember, name string) *schemas.JSONNode {
	for _, p := range props {
		if p.Name == name {
			return p.Value
		}
	}
	return nil
}

// size is a JSON integer from 0 to 2^31-1.
func size(n *schemas.JSONNode) (int, bool) {
	if n == nil || n.Kind != schemas.JSONNumber || strings.ContainsAny(n.Text, ".eE") {
		return 0, false
	}
	v, err := strconv.ParseInt(n.Text, 10, 32)
	return int(v), err == nil && v >= 0
}

// digitsOf is how many decimal digits a signed integer of so many bytes holds.
func digitsOf(bytes int) int {
	return int(math.Log10(2) * float64(8*bytes-1))
}

// maxPrecision is the largest precision with which a decimal is a number to who
// encodes; with a larger one, which a registry keeps all the same, it is bytes.
const maxPrecision = 65536

// logical notes the logical type of t, but for a duration, which is bytes here.
func logical(n *schemas.Node, t *typ) {
	l := t.logical()
	if l == nil || l.precision > maxPrecision {
		return
	}
	if strings.HasSuffix(l.name, "s") { // millis, micros, nanos
		n.Native = l.name
	}
	switch l.name {
	case "date":
		n.Logical = schemas.Date
	case "time-millis", "time-micros":
		n.Logical = schemas.TimeOfDay
	case "timestamp-millis", "timestamp-micros", "timestamp-nanos":
		n.Logical = schemas.Timestamp
	case "local-timestamp-millis", "local-timestamp-micros", "local-timestamp-nanos":
		n.Logical = schemas.LocalTime
	case "uuid":
		n.Logical = schemas.UUID
	case "decimal":
		n.Logical, n.Precision, n.Scale = schemas.Decimal, l.precision, l.scale
	case "big-decimal":
		n.Logical = schemas.Decimal
	}
}

// value is the default j as a value of n. What does not fit n, which a parser
// of Avro's own may have let pass, stays nil.
func value(n *schemas.Node, j *schemas.JSONNode) any {
	switch n.Kind {
	case schemas.Union:
		for _, b := range n.Branches {
			if b.Kind == schemas.Null && j.Kind == schemas.JSONNull {
				return nil
			}
			if v := value(b, j); v != nil {
				return v
			}
		}
	case schemas.Bool:
		if j.Kind == schemas.JSONBool {
			return j.Text == "true"
		}
	case schemas.Int:
		if v, ok := schemas.AsInt64(json.Number(j.Text)); ok && j.Kind == schemas.JSONNumber {
			if n.Bits == 32 && v >= math.MinInt32 && v <= math.MaxInt32 {
				return int32(v)
			} else if n.Bits == 64 {
				return v
			}
		}
	case schemas.Float:
		if v, err := strconv.ParseFloat(j.Text, 64); err == nil {
			if n.Bits == 32 {
				return float32(v)
			}
			return v
		}
	case schemas.String, schemas.Enum:
		if j.Kind == schemas.JSONString {
			return j.Text
		}
	case schemas.Bytes, schemas.Fixed:
		if j.Kind == schemas.JSONString {
			b := []byte{}
			for _, c := range j.Text { // one code point a byte
				b = append(b, byte(c))
			}
			return b
		}
	case schemas.Array:
		if j.Kind == schemas.JSONArray {
			a := make([]any, len(j.Items))
			for i, item := range j.Items {
				a[i] = value(n.Items, item)
			}
			return a
		}
	case schemas.Map:
		if j.Kind == schemas.JSONObject {
			o := make(map[string]any, len(j.Members))
			for _, m := range j.Members {
				o[m.Name] = value(n.Items, m.Value)
			}
			return o
		}
	case schemas.Record:
		if j.Kind == schemas.JSONObject {
			o := make(map[string]any, len(j.Members))
			for _, m := range j.Members {
				if f := n.Field(m.Name); f != nil {
					o[m.Name] = value(f.Node, m.Value)
				}
			}
			return o
		}
	}
	return nil
}
