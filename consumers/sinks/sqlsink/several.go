package sqlsink

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"penstock/consumers"
	"penstock/schemas"
)

// namePart is a part of a table's name: a text, or what a record has to fill in.
type namePart struct {
	text     string
	of, name string // "topic", "header" or "field", and which
}

// blank is a place in a table's name.
var blank = regexp.MustCompile(`\{([^{}:]*):?([^{}]*)\}`)

func parseName(table string) (parts []namePart, err error) {
	at := 0
	for _, m := range blank.FindAllStringSubmatchIndex(table, -1) {
		if m[0] > at {
			parts = append(parts, namePart{text: table[at:m[0]]})
		}
		p := namePart{of: table[m[2]:m[3]], name: table[m[4]:m[5]]}
		switch {
		case p.of == "topic" && p.name == "", (p.of == "header" || p.of == "field") && p.name != "":
		default:
			return nil, fmt.Errorf("table %q: expected {topic}, {header:NAME} or {field:NAME}, found %s", table, table[m[0]:m[1]])
		}
		if strings.Contains(table[m[1]:], ".") {
			return nil, fmt.Errorf("table %q: expected a schema's name as it is, found %s in it", table, table[m[0]:m[1]])
		}
		parts = append(parts, p)
		at = m[1]
	}
	if at < len(table) {
		parts = append(parts, namePart{text: table[at:]})
	}
	return parts, nil
}

// several are the tables of a name that records fill in.
type several struct {
	mu sync.Mutex
	m  map[string]*catalog
}

// maxTables bounds several.
const maxTables = 1000

// filling is what a record may fill in.
var filling = regexp.MustCompile(`^[A-Za-z0-9_-]{1,40}$`)

// catalogOf is the table that a message goes to. An error that does not wrap
// consumers.ErrStop is the message's fault.
func (s *Sink) catalogOf(m consumers.Message) (*catalog, error) {
	if s.fixed != nil {
		return s.fixed, nil
	}
	var name strings.Builder
	for _, p := range s.name {
		text := p.text
		if p.of != "" {
			var err error
			if text, err = p.fill(m); err != nil {
				return nil, fmt.Errorf("table %q: %w", s.config.Table, err)
			}
		}
		name.WriteString(text)
	}
	s.several.mu.Lock()
	defer s.several.mu.Unlock()
	if c := s.several.m[name.String()]; c != nil {
		return c, nil
	}
	target, _, err := s.dialect.Tables(name.String())
	if err != nil {
		return nil, err
	}
	if len(s.several.m) >= maxTables {
		return nil, fmt.Errorf("table %q: expected at most %d tables, found one more, %s; name them by something of fewer values: %w", s.config.Table, maxTables, target, consumers.ErrStop)
	}
	if s.several.m == nil {
		s.several.m = map[string]*catalog{}
	}
	c := &catalog{table: target}
	s.several.m[name.String()] = c
	return c, nil
}

// fill is what a message has for this part of a name.
func (p namePart) fill(m consumers.Message) (string, error) {
	var text string
	switch p.of {
	case "topic":
		text = strings.ReplaceAll(m.Topic, ".", "_")
	case "header":
		value, ok := m.Header(p.name)
		if !ok {
			return "", fmt.Errorf("expected a header %q, found none", p.name)
		}
		text = string(value)
	case "field":
		v := fieldOf(m, p.name)
		switch v.(type) {
		case nil:
			return "", fmt.Errorf("expected a value of field %q, found none", p.name)
		case string, int32, int64, bool:
			text = fmt.Sprint(v)
		default:
			n, whole := schemas.AsInt64(v)
			if !whole {
				return "", fmt.Errorf("expected text, an integer or a boolean in field %q, found %s", p.name, schemas.Describe(v))
			}
			text = fmt.Sprint(n)
		}
	}
	if !filling.MatchString(text) {
		return "", fmt.Errorf("expected 1 to 40 letters, digits, \"-\" and \"_\" of the %s, found %s", strings.TrimSuffix(p.of+" "+p.name, " "), schemas.Describe(text))
	}
	return text, nil
}

// fieldOf is a field's value, nil where there is none.
func fieldOf(m consumers.Message, name string) any {
	if m.Cells == nil {
		data, _ := m.Data.(map[string]any)
		return data[name]
	}
	model := m.Schema.Model()
	i := slices.IndexFunc(model.Fields, func(f schemas.Field) bool { return f.Name == name })
	if i < 0 {
		return nil
	}
	return m.Cells[i].Value(model.Fields[i].Node, m.Value)
}
