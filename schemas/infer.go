package schemas

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Shape is what is known of a place from the values that were seen there. The
// zero value has seen none. Values are those of ParseJSON.
type Shape struct {
	Count                                     int // values, null among them
	Nulls, Bools, Numbers, Texts, Lists, Maps int
	Fraction, Wide                            bool // of the numbers: one is not whole, one beyond 64 bits
	Negative                                  bool
	Items                                     *Shape            // of the lists
	Fields                                    map[string]*Shape // of the objects
	Names                                     []string          // of the fields, as they came; those of one value in the order of names

	notInstant, notDate, notUUID bool
	values                       map[string]bool // of the texts; nil when there are too many
	many                         bool
}

// Limits of what is kept of samples.
const (
	maxInferredValues = 12    // an enum has no more
	maxInferredFields = 2_000 // an object with more is taken for a map
)

// Add takes a value into account.
func (s *Shape) Add(v any) {
	s.Count++
	switch v := v.(type) {
	case nil:
		s.Nulls++
	case bool:
		s.Bools++
	case json.Number:
		s.Numbers++
		n := wholeNumber(string(v))
		s.Fraction = s.Fraction || n == nil
		s.Wide = s.Wide || n != nil && !n.IsInt64()
		s.Negative = s.Negative || strings.HasPrefix(string(v), "-")
	case string:
		s.Texts++
		s.text(v)
	case []any:
		s.Lists++
		if s.Items == nil {
			s.Items = &Shape{}
		}
		for _, item := range v {
			s.Items.Add(item)
		}
	case map[string]any:
		s.Maps++
		if s.Fields == nil {
			s.Fields = map[string]*Shape{}
		}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			f := s.Fields[name]
			if f == nil {
				if len(s.Fields) > maxInferredFields {
					continue
				}
				f = &Shape{}
				s.Fields[name] = f
				s.Names = append(s.Names, name)
			}
			f.Add(v[name])
		}
	}
}

var inferredUUID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func (s *Shape) text(v string) {
	at, err := time.Parse(time.RFC3339Nano, v)
	// To microseconds and in UTC, so that nothing of the text is lost.
	s.notInstant = s.notInstant || err != nil || !strings.HasSuffix(v, "Z") || at.Nanosecond()%1000 != 0 || at.Year() < 1700 || at.Year() > 2200
	day, err := time.Parse(time.DateOnly, v)
	s.notDate = s.notDate || err != nil || day.Year() < 1
	s.notUUID = s.notUUID || !inferredUUID.MatchString(v)
	if s.many {
		return
	}
	if s.values == nil {
		s.values = map[string]bool{}
	}
	s.values[v] = true
	if s.many = len(s.values) > maxInferredValues; s.many {
		s.values = nil
	}
}

// kinds is how many kinds of values but null were seen.
func (s *Shape) kinds() (n int) {
	for _, count := range []int{s.Bools, s.Numbers, s.Texts, s.Lists, s.Maps} {
		if count > 0 {
			n++
		}
	}
	return n
}

// logical is what all the texts spell.
func (s *Shape) logical() Logical {
	switch {
	case s.Texts == 0 || s.kinds() > 1:
		return NoLogical
	case !s.notInstant:
		return Timestamp
	case !s.notDate:
		return Date
	case !s.notUUID:
		return UUID
	}
	return NoLogical
}

// symbols are the texts, if they are few and each came often.
func (s *Shape) symbols() []string {
	const often = 5 // samples a symbol
	if s.values == nil || s.kinds() > 1 || s.logical() != NoLogical || s.Texts < often*len(s.values) {
		return nil
	}
	return slices.Sorted(maps.Keys(s.values))
}

// Words is what was seen, in a few words.
func (s *Shape) Words() string {
	var words []string
	add := func(count int, word string) {
		if count > 0 {
			words = append(words, word)
		}
	}
	number := "integer"
	if s.Fraction {
		number = "number"
	}
	text := "string"
	if l := s.logical(); l != NoLogical {
		text = string(l)
	} else if symbols := s.symbols(); symbols != nil {
		text = "one of " + strings.Join(symbols, ", ")
	}
	add(s.Bools, "boolean")
	add(s.Numbers, number)
	add(s.Texts, text)
	add(s.Lists, "array")
	add(s.Maps, "record")
	add(s.Nulls, "null")
	if words == nil {
		return "nothing"
	}
	return strings.Join(words, " or ")
}

// Infer writes a schema that accepts every value that s has seen, which must be
// objects in Avro and Protobuf. name is that of its outermost type.
func Infer(t Type, s *Shape, name string) (string, error) {
	if s.Count == 0 {
		return "", fmt.Errorf("infer a schema: expected samples, found none")
	}
	if t != JSON && (s.kinds() != 1 || s.Maps != s.Count) {
		return "", fmt.Errorf("infer a schema in %s: expected objects, found %s", t, s.Words())
	}
	var tree any
	switch t {
	case JSON:
		object := s.json().(map[string]any)
		object["$schema"] = "http://json-schema.org/draft-07/schema#"
		object["title"] = camel(name)
		tree = object
	case Avro:
		a := inferredAvro{taken: map[string]bool{}}
		tree = a.record(s, camel(name))
		if a.err != nil {
			return "", a.err
		}
	case Protobuf:
		p := inferredProtobuf{taken: map[string]bool{}}
		p.message(s, camel(name))
		return p.file(), p.err
	default:
		return "", fmt.Errorf("infer a schema in %q: expected AVRO, JSON or PROTOBUF", t)
	}
	text, err := json.MarshalIndent(tree, "", "  ")
	return string(text) + "\n", err
}

// json is the JSON Schema of the shape.
func (s *Shape) json() any {
	var types []string
	out := map[string]any{}
	if s.Bools > 0 {
		types = append(types, "boolean")
	}
	if s.Numbers > 0 {
		number := "integer"
		if s.Fraction {
			number = "number"
		}
		types = append(types, number)
		if !s.Negative {
			out["minimum"] = 0
		}
	}
	if s.Texts > 0 {
		types = append(types, "string")
		if l := s.logical(); l != NoLogical {
			out["format"] = map[Logical]string{Timestamp: "date-time", Date: "date", UUID: "uuid"}[l]
		} else if symbols := s.symbols(); symbols != nil {
			values := make([]any, 0, len(symbols)+1)
			for _, v := range symbols {
				values = append(values, v)
			}
			if s.Nulls > 0 {
				values = append(values, nil)
			}
			out["enum"] = values
		}
	}
	if s.Lists > 0 {
		types = append(types, "array")
		out["items"] = s.Items.json()
	}
	if s.Maps > 0 {
		types = append(types, "object")
		if len(s.Fields) <= maxInferredFields {
			properties := orderedObject{}
			var required []string
			for _, name := range s.Names {
				f := s.Fields[name]
				properties = append(properties, orderedMember{name, f.json()})
				if f.Count == s.Maps {
					required = append(required, name)
				}
			}
			out["properties"], out["additionalProperties"] = properties, false
			if required != nil {
				out["required"] = required
			}
		}
	}
	if s.Nulls > 0 {
		types = append(types, "null")
	}
	switch len(types) {
	case 0:
	case 1:
		out["type"] = types[0]
	default:
		out["type"] = types
	}
	return out
}

// orderedObject is a JSON object whose members stay in their order.
type orderedObject []orderedMember

type orderedMember struct {
	name  string
	value any
}

// MarshalJSON writes the members.
func (o orderedObject) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(AppendJSONString(out, m.name), ':')
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		out = append(out, value...)
	}
	return append(out, '}'), nil
}

var inferredName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// named reports whether all the fields have names that a language with
// identifiers can have.
func (s *Shape) named() bool {
	return len(s.Fields) <= maxInferredFields && !slices.ContainsFunc(s.Names, func(name string) bool { return !inferredName.MatchString(name) })
}

// merged is the shape of the values of all fields, as one map has them.
func (s *Shape) merged() *Shape {
	out := &Shape{}
	for _, name := range s.Names {
		out.join(s.Fields[name])
	}
	return out
}

// join takes all into account that another shape has.
func (s *Shape) join(o *Shape) {
	s.Count += o.Count
	s.Nulls += o.Nulls
	s.Bools += o.Bools
	s.Numbers += o.Numbers
	s.Texts += o.Texts
	s.Lists += o.Lists
	s.Maps += o.Maps
	s.Fraction, s.Wide, s.Negative = s.Fraction || o.Fraction, s.Wide || o.Wide, s.Negative || o.Negative
	if o.Texts > 0 {
		s.notInstant, s.notDate, s.notUUID = s.notInstant || o.notInstant, s.notDate || o.notDate, s.notUUID || o.notUUID
		s.many, s.values = true, nil
	}
	if o.Items != nil {
		if s.Items == nil {
			s.Items = &Shape{}
		}
		s.Items.join(o.Items)
	}
	for _, name := range o.Names {
		if s.Fields == nil {
			s.Fields = map[string]*Shape{}
		}
		if s.Fields[name] == nil {
			s.Fields[name] = &Shape{}
			s.Names = append(s.Names, name)
		}
		s.Fields[name].join(o.Fields[name])
	}
}

// inferredAvro writes Avro.
type inferredAvro struct {
	taken map[string]bool
	err   error
}

func (a *inferredAvro) unique(name string) string {
	name = asciiCamel(name)
	for i, base := 2, name; a.taken[name]; i++ {
		name = base + strconv.Itoa(i)
	}
	a.taken[name] = true
	return name
}

// asciiCamel is camel in the letters that Avro and Protobuf know.
func asciiCamel(name string) string {
	name = regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(name, "_")
	return camel(name)
}

// record is the type of a shape's objects: a map where a name is no identifier.
func (a *inferredAvro) record(s *Shape, name string) any {
	if !s.named() {
		return orderedObject{{"type", "map"}, {"values", a.typ(s.merged(), name+"Value", false)}}
	}
	name = a.unique(name)
	fields := []any{}
	for _, field := range s.Names {
		f := s.Fields[field]
		absent := f.Count < s.Maps
		member := orderedObject{{"name", field}, {"type", a.typ(f, name+camel(field), absent)}}
		if absent || f.Nulls > 0 {
			member = append(member, orderedMember{"default", nil})
		}
		fields = append(fields, member)
	}
	return orderedObject{{"type", "record"}, {"name", name}, {"fields", fields}}
}

func (a *inferredAvro) typ(s *Shape, name string, absent bool) any {
	var types []any
	if s.Nulls > 0 || absent || s.kinds() == 0 {
		types = append(types, "null")
	}
	if s.Bools > 0 {
		types = append(types, "boolean")
	}
	switch {
	case s.Numbers == 0:
	case s.Fraction:
		types = append(types, "double")
	case s.Wide:
		if a.err == nil {
			a.err = fmt.Errorf("infer a schema in AVRO: an integer of %s is beyond 64 bits, which only JSON Schema takes", name)
		}
	default:
		types = append(types, "long")
	}
	if s.Texts > 0 {
		symbols := s.symbols()
		switch {
		case s.logical() == Timestamp:
			types = append(types, orderedObject{{"type", "long"}, {"logicalType", "timestamp-micros"}})
		case s.logical() == Date:
			types = append(types, orderedObject{{"type", "int"}, {"logicalType", "date"}})
		case symbols != nil && !slices.ContainsFunc(symbols, func(v string) bool { return !inferredName.MatchString(v) }):
			types = append(types, orderedObject{{"type", "enum"}, {"name", a.unique(name)}, {"symbols", symbols}})
		default:
			types = append(types, "string")
		}
	}
	if s.Lists > 0 {
		types = append(types, orderedObject{{"type", "array"}, {"items", a.typ(s.Items, name+"Item", false)}})
	}
	if s.Maps > 0 {
		types = append(types, a.record(s, name))
	}
	if len(types) == 1 {
		return types[0]
	}
	return types
}

// inferredProtobuf writes Protobuf.
type inferredProtobuf struct {
	taken     map[string]bool
	messages  []string
	structs   bool // google/protobuf/struct.proto is needed
	timestamp bool
	err       error
}

func (p *inferredProtobuf) file() string {
	var out strings.Builder
	out.WriteString("syntax = \"proto3\";\n")
	if p.structs || p.timestamp {
		out.WriteByte('\n')
	}
	if p.structs {
		out.WriteString("import \"google/protobuf/struct.proto\";\n")
	}
	if p.timestamp {
		out.WriteString("import \"google/protobuf/timestamp.proto\";\n")
	}
	for _, m := range slices.Backward(p.messages) {
		out.WriteString("\n" + m)
	}
	return out.String()
}

// message writes the message of a shape's objects, and returns its name.
func (p *inferredProtobuf) message(s *Shape, name string) string {
	if !s.named() {
		if p.err == nil && len(p.taken) == 0 {
			p.err = fmt.Errorf("infer a schema in PROTOBUF: expected names of letters, digits and _, found others")
		}
		p.structs = true
		return "google.protobuf.Struct"
	}
	name = asciiCamel(name)
	for i, base := 2, name; p.taken[name]; i++ {
		name = base + strconv.Itoa(i)
	}
	p.taken[name] = true
	var out strings.Builder
	fmt.Fprintf(&out, "message %s {\n", name)
	// Two names that are one in Protobuf's JSON would not parse.
	seen := map[string]bool{}
	for i, field := range s.Names {
		if seen[fold(field)] && p.err == nil {
			p.err = fmt.Errorf("infer a schema in PROTOBUF: the field %q has the name of another but for its style", field)
		}
		seen[fold(field)] = true
		fmt.Fprintf(&out, "  %s %s = %d;\n", p.field(s.Fields[field], name+camel(field), s.Fields[field].Count < s.Maps), field, protobufNumber(i))
	}
	out.WriteString("}\n")
	p.messages = append(p.messages, out.String())
	return name
}

// protobufNumber is the number of the i-th field; a range is not for use.
func protobufNumber(i int) int {
	if i+1 >= 19_000 {
		return i + 1 + 1_000
	}
	return i + 1
}

// field is the label and type of a field.
func (p *inferredProtobuf) field(s *Shape, name string, absent bool) string {
	if s.Lists > 0 && s.kinds() == 1 && s.Nulls == 0 && !absent && s.Items.kinds() == 1 && s.Items.Nulls == 0 && s.Items.Lists == 0 {
		return "repeated " + p.plain(s.Items, name)
	}
	if s.kinds() == 1 && s.Lists == 0 {
		return "optional " + p.plain(s, name)
	}
	p.structs = true
	return "google.protobuf.Value"
}

func (p *inferredProtobuf) plain(s *Shape, name string) string {
	switch {
	case s.Bools > 0:
		return "bool"
	case s.Fraction:
		return "double"
	case s.Numbers > 0:
		if s.Wide && p.err == nil {
			p.err = fmt.Errorf("infer a schema in PROTOBUF: an integer of %s is beyond 64 bits, which only JSON Schema takes", name)
		}
		return "int64"
	case s.logical() == Timestamp:
		p.timestamp = true
		return "google.protobuf.Timestamp"
	case s.Texts > 0:
		return "string"
	default:
		return p.message(s, name)
	}
}

// Ratio bounds how sure it is, in percent, that the next value at the place is of
// a kind that was seen: by the rule of succession.
func (s *Shape) Ratio() int {
	r := big.NewRat(int64(s.Count)+1, int64(s.Count)+2)
	f, _ := r.Float64()
	return int(f * 100)
}
