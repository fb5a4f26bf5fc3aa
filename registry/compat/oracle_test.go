package compat_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"testing"

	"github.com/twmb/avro"
	"pgregory.net/rapid"

	"penstock/registry"
	"penstock/registry/compat"
)

// TestMain draws more cases than rapid does by itself: the pairs that matter
// are rare.
func TestMain(m *testing.M) {
	flag.Parse()
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue && !testing.Short() {
		if err := checks.Value.Set("3000"); err != nil {
			panic(err)
		}
	}
	m.Run()
}

// maker draws Avro schemas that are valid and a few names wide, so that two of
// them often meet.
type maker struct {
	*rapid.T
	named map[string]bool
	open  []string // records being defined, which may be referred to
	depth int
}

func (m *maker) typ(label string) any {
	kinds := []string{"int", "long", "float", "double", "string", "bytes", "boolean"}
	if m.depth < 3 {
		kinds = append(kinds, "record", "record", "array", "map", "union", "union", "enum", "fixed")
	}
	if len(m.open) > 0 {
		kinds = append(kinds, "recursive")
	}
	kind := rapid.SampledFrom(kinds).Draw(m.T, label)
	m.depth++
	defer func() { m.depth-- }()
	switch kind {
	case "array":
		return map[string]any{"type": kind, "items": m.typ("items")}
	case "map":
		return map[string]any{"type": kind, "values": m.typ("values")}
	case "recursive":
		// By way of a union with null, so that there are values.
		return []any{"null", rapid.SampledFrom(m.open).Draw(m.T, "open")}
	case "union":
		var branches []any
		seen := map[string]bool{}
		for i := range rapid.IntRange(1, 4).Draw(m.T, "branches") {
			b := any("null")
			if i > 0 || rapid.Bool().Draw(m.T, "no null") {
				b = m.typ("branch")
			}
			key := branchKey(b)
			if key == "" || seen[key] {
				continue
			}
			seen[key] = true
			branches = append(branches, b)
		}
		if len(branches) == 0 {
			return "int"
		}
		return branches
	case "record", "enum", "fixed":
		name := rapid.SampledFrom([]string{"A", "B", "C", "D"}).Draw(m.T, "name")
		if m.named[name] {
			return "int"
		}
		m.named[name] = true
		n := map[string]any{"type": kind, "name": name}
		switch kind {
		case "fixed":
			n["size"] = rapid.IntRange(1, 2).Draw(m.T, "size")
		case "enum":
			symbols := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"X", "Y", "Z"}), 1, 3, rapid.ID[string]).Draw(m.T, "symbols")
			n["symbols"] = symbols
			if rapid.IntRange(0, 3).Draw(m.T, "with default") == 0 {
				n["default"] = symbols[0]
			}
		default:
			m.open = append(m.open, name)
			n["fields"] = m.fields()
			m.open = m.open[:len(m.open)-1]
		}
		return n
	}
	return kind
}

func (m *maker) fields() []any {
	fields := []any{}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"p", "q", "r", "s"}), 0, 3, rapid.ID[string]).Draw(m.T, "fields") {
		f := map[string]any{"name": name, "type": m.typ(name)}
		if alias := rapid.SampledFrom([]string{"", "", "", "", "p", "q"}).Draw(m.T, "alias"); alias != "" && alias != name {
			f["aliases"] = []string{alias}
		}
		if rapid.Bool().Draw(m.T, "with default") {
			if d, ok := zero(f["type"]); ok {
				f["default"] = d
			}
		}
		fields = append(fields, f)
	}
	return fields
}

// branchKey tells branches of a union apart; "" is no branch.
func branchKey(b any) string {
	switch b := b.(type) {
	case string:
		return b
	case map[string]any:
		if b["name"] != nil {
			return b["name"].(string)
		}
		return b["type"].(string)
	}
	return ""
}

// zero is a default for a type, as its schema writes it.
func zero(t any) (any, bool) {
	switch t := t.(type) {
	case string:
		d, ok := map[string]any{"int": 0, "long": 0, "float": 0, "double": 0, "string": "", "bytes": "", "boolean": false, "null": nil}[t]
		return d, ok
	case []any:
		return zero(t[0])
	case map[string]any:
		switch t["type"] {
		case "array":
			return []any{}, true
		case "map":
			return map[string]any{}, true
		case "enum":
			return t["symbols"].([]string)[0], true
		}
	}
	return nil, false
}

// changed draws a schema that differs from s in a few places.
func changed(t *rapid.T, s any) any {
	switch s := s.(type) {
	case string:
		if rapid.IntRange(0, 3).Draw(t, "other type") == 0 {
			return rapid.SampledFrom([]string{"int", "long", "float", "double", "string", "bytes"}).Draw(t, "type")
		}
		return s
	case []any:
		out := []any{}
		seen := map[string]bool{}
		for _, b := range s {
			if rapid.IntRange(0, 4).Draw(t, "drop branch") == 0 {
				continue
			}
			if b = changed(t, b); branchKey(b) != "" && !seen[branchKey(b)] {
				seen[branchKey(b)] = true
				out = append(out, b)
			}
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for _, k := range slices.Sorted(func(yield func(string) bool) {
			for k := range s {
				if !yield(k) {
					return
				}
			}
		}) {
			out[k] = s[k]
			switch k {
			case "name":
				// An alias that is another type's name is left out: of a union
				// with both, twmb/avro looks at one branch only, where the
				// specification's checker tries them all.
				switch rapid.IntRange(0, 8).Draw(t, "rename") {
				case 0:
					out[k] = s[k].(string) + "2"
				case 1:
					out[k] = s[k].(string) + "2"
					out["aliases"] = []string{s[k].(string)}
				}
			case "items", "values":
				out[k] = changed(t, s[k])
			case "size":
				out[k] = rapid.SampledFrom([]int{s[k].(int), s[k].(int), 3}).Draw(t, "size")
			case "symbols":
				list := slices.Clone(s[k].([]string))
				if rapid.Bool().Draw(t, "drop symbol") && len(list) > 1 {
					list = list[:len(list)-1]
				}
				out[k] = list
			case "fields":
				fields := []any{}
				for _, f := range s[k].([]any) {
					f := f.(map[string]any)
					switch rapid.IntRange(0, 6).Draw(t, "change field") {
					case 0:
						continue // removed
					case 1:
						fields = append(fields, map[string]any{"name": f["name"], "type": f["type"]}) // no default
						continue
					case 2:
						fields = append(fields, map[string]any{"name": f["name"].(string) + "2", "type": f["type"], "aliases": []string{f["name"].(string)}})
						continue
					}
					fields = append(fields, map[string]any{"name": f["name"], "type": changed(t, f["type"])})
				}
				if rapid.IntRange(0, 3).Draw(t, "add field") == 0 {
					fields = append(fields, map[string]any{"name": "added", "type": "int", "default": 1})
				}
				out[k] = fields
			}
		}
		return out
	}
	return s
}

// spellOut gives the fields whose type begins with null the default that
// twmb/avro takes for granted; the registries in use do not.
func spellOut(s any) {
	switch s := s.(type) {
	case []any:
		for _, b := range s {
			spellOut(b)
		}
	case map[string]any:
		spellOut(s["items"])
		spellOut(s["values"])
		fields, _ := s["fields"].([]any)
		for _, f := range fields {
			f := f.(map[string]any)
			spellOut(f["type"])
			if union, _ := f["type"].([]any); len(union) > 0 && union[0] == "null" {
				f["default"] = nil
			}
		}
	}
}

// pair draws two schemas that the library accepts. The reader's defaults are
// spelled out on request; adorn may add to both.
func pair(t *rapid.T, spelledOut bool, adorn func(*rapid.T, any)) (writer, reader string) {
	m := &maker{T: t, named: map[string]bool{}}
	w := m.typ("writer")
	var r any
	if rapid.IntRange(0, 4).Draw(t, "unrelated") == 0 {
		r = (&maker{T: t, named: map[string]bool{}}).typ("reader")
	} else {
		r = changed(t, w)
	}
	if spelledOut {
		spellOut(r)
	}
	texts := [2]string{}
	for i, s := range []any{w, r} {
		if adorn != nil {
			adorn(t, s)
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := avro.Parse(string(b)); err != nil {
			t.Skip("not a schema: ", err)
		}
		texts[i] = string(b)
	}
	return texts[0], texts[1]
}

// TestOracle: the verdict is that of twmb/avro, on generated pairs.
func TestOracle(t *testing.T) {
	counts := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		writer, reader := pair(t, true, nil)
		their := avro.CheckCompatibility(avro.MustParse(writer), avro.MustParse(reader))
		found, err := compat.Checker{}.Check(parse(t, reader), parse(t, writer), registry.Backward, registry.PolicyStrict)
		if err != nil {
			t.Fatal(err)
		}
		ours := registry.Compatible(found)
		counts[ours]++
		if ours != (their == nil) {
			t.Errorf("writer %s\nreader %s\nours: %+v\ntheirs: %v", writer, reader, found, their)
		}
	})
	if counts[true] == 0 || counts[false] == 0 {
		t.Errorf("the pairs were all of one kind: %v", counts)
	}
}

// TestCompatibleIsReadable: what is found compatible can be done: data of the
// writer decodes with the reader's schema.
func TestCompatibleIsReadable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		writer, reader := pair(t, true, nil)
		found, err := compat.Checker{}.Check(parse(t, reader), parse(t, writer), registry.Backward, registry.PolicyStrict)
		if err != nil {
			t.Fatal(err)
		}
		if !registry.Compatible(found) {
			return
		}
		w := avro.MustParse(writer)
		both, err := avro.Resolve(w, avro.MustParse(reader))
		if err != nil {
			t.Fatalf("writer %s\nreader %s\nresolve: %v", writer, reader, err)
		}
		value := (&filler{T: t, named: map[string]*avro.SchemaNode{}}).value(w.Root(), 0)
		data, err := w.Encode(value, avro.TaggedUnions())
		if err != nil {
			t.Fatalf("writer %s: encode %v: %v", writer, value, err)
		}
		var got any
		if rest, err := both.Decode(data, &got); err != nil || len(rest) > 0 {
			t.Errorf("writer %s\nreader %s\nvalue %v: decode: %v, %d bytes left", writer, reader, value, err, len(rest))
		}
	})
}

// filler draws a value of a schema.
type filler struct {
	*rapid.T
	named map[string]*avro.SchemaNode
}

func (f *filler) value(n *avro.SchemaNode, depth int) any {
	if n.Name != "" {
		f.named[n.Name] = n
	}
	few := rapid.IntRange(0, 2)
	switch n.Type {
	case "null":
		return nil
	case "boolean":
		return rapid.Bool().Draw(f.T, "bool")
	case "int":
		return rapid.Int32().Draw(f.T, "int")
	case "long":
		return rapid.Int64().Draw(f.T, "long")
	case "float":
		return rapid.Float32().Draw(f.T, "float")
	case "double":
		return rapid.Float64().Draw(f.T, "double")
	case "string":
		return rapid.StringN(0, 3, -1).Draw(f.T, "string")
	case "bytes":
		return []byte(rapid.StringN(0, 3, -1).Draw(f.T, "bytes"))
	case "fixed":
		return make([]byte, n.Size)
	case "enum":
		return rapid.SampledFrom(n.Symbols).Draw(f.T, "symbol")
	case "array":
		list := []any{}
		for range few.Draw(f.T, "length") {
			list = append(list, f.value(n.Items, depth+1))
		}
		return list
	case "map":
		m := map[string]any{}
		for i := range few.Draw(f.T, "length") {
			m[fmt.Sprint(i)] = f.value(n.Values, depth+1)
		}
		return m
	case "record":
		m := map[string]any{}
		for i := range n.Fields {
			m[n.Fields[i].Name] = f.value(&n.Fields[i].Type, depth+1)
		}
		return m
	case "union":
		i := rapid.IntRange(0, len(n.Branches)-1).Draw(f.T, "branch")
		if depth > 6 {
			i = 0 // null, where the schema is recursive
		}
		b := &n.Branches[i]
		v := f.value(b, depth+1)
		if v == nil {
			return nil
		}
		name := b.Type
		if b.Name != "" {
			name = b.Name
		}
		return map[string]any{name: v}
	default:
		return f.value(f.named[n.Type], depth)
	}
}
