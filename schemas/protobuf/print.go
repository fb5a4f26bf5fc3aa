package protobuf

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// printer writes a file as Confluent's registry keeps it.
type printer struct {
	out []byte
	// level is how deep the statements lie that are being written.
	level int
	// begun is whether the block holds a group of statements already.
	begun bool
	// bare leaves out custom options, extension ranges and extend blocks.
	bare bool
}

func (f *fileText) print(bare bool) string {
	p := &printer{bare: bare}
	p.file(f)
	return string(p.out)
}

func (p *printer) file(f *fileText) {
	if f.syntax != "" {
		p.line("syntax = ", quote(f.syntax), ";")
	}
	if f.pkg != "" {
		p.line("package ", f.pkg, ";")
	}
	p.begun = true
	p.group(len(f.imports) + len(f.public) + len(f.weak))
	for _, name := range f.imports {
		p.line("import ", quote(name), ";")
	}
	for _, name := range f.public {
		p.line("import public ", quote(name), ";")
	}
	for _, name := range f.weak {
		p.line("import weak ", quote(name), ";")
	}
	p.statements(f.options)
	p.types(f.messages, f.enums)
	p.extends(f.extends)
	p.group(len(f.services))
	for _, s := range f.services {
		p.service(s)
	}
}

func (p *printer) write(parts ...string) {
	for _, s := range parts {
		p.out = append(p.out, s...)
	}
}

func (p *printer) indent(level int) {
	for range level {
		p.write("  ")
	}
}

func (p *printer) line(parts ...string) {
	p.indent(p.level)
	p.write(parts...)
	p.write("\n")
}

// group sets n statements that belong together apart from those before them.
// The line between holds the indent of the block around.
func (p *printer) group(n int) {
	if n == 0 {
		return
	}
	if p.begun {
		p.indent(p.level - 1)
		p.write("\n")
	}
	p.begun = true
}

// block writes in braces what body writes, and goes to the next line.
func (p *printer) block(body func()) {
	p.write("{\n")
	begun, start := p.begun, len(p.out)
	p.begun = false
	p.level++
	body()
	p.level--
	p.begun = begun
	if len(p.out) == start {
		p.out = p.out[:start-1]
	} else {
		p.indent(p.level)
	}
	p.write("}\n")
}

func (p *printer) types(messages []*messageText, enums []*enumText) {
	p.group(len(messages) + len(enums))
	for _, m := range messages {
		p.indent(p.level)
		p.write("message ", m.name, " ")
		p.block(func() { p.message(m) })
	}
	for _, e := range enums {
		p.indent(p.level)
		p.write("enum ", e.name, " ")
		p.block(func() { p.enum(e) })
	}
}

func (p *printer) message(m *messageText) {
	p.ranges("reserved", m.reserved, maxTag)
	p.statements(m.options)
	p.group(len(m.fields))
	p.fields(m.fields)
	p.group(len(m.oneofs))
	for _, o := range m.oneofs {
		p.indent(p.level)
		p.write("oneof ", o.name, " ")
		p.block(func() {
			p.statements(o.options)
			p.members(o.fields, o.groups)
		})
	}
	p.group(len(m.groups))
	p.fields(m.groups)
	if !p.bare {
		p.ranges("extensions", m.extensions, maxTag)
	}
	p.extends(m.extends)
	p.types(m.messages, m.enums)
}

func (p *printer) members(fields, groups []*fieldText) {
	p.group(len(fields))
	p.fields(fields)
	p.group(len(groups))
	p.fields(groups)
}

func (p *printer) fields(fields []*fieldText) {
	for _, f := range fields {
		p.indent(p.level)
		if f.label != "" {
			p.write(f.label, " ")
		}
		switch {
		case f.body != nil:
			p.write("group")
		case f.key != "":
			p.write("map<", f.key, ", ", f.typ, ">")
		default:
			p.write(f.typ)
		}
		p.write(" ", f.name, " = ", strconv.FormatInt(f.number, 10))
		p.brackets(f.options)
		if f.body == nil {
			p.write(";\n")
			continue
		}
		p.write(" ")
		p.block(func() { p.message(f.body) })
	}
}

func (p *printer) enum(e *enumText) {
	for _, r := range e.reserved {
		p.rangesLine("reserved", r, maxNumber)
	}
	p.begun = false
	p.statements(e.options)
	for i := range e.constants {
		c := &e.constants[i]
		p.indent(p.level)
		p.write(c.name, " = ", strconv.FormatInt(c.number, 10))
		p.brackets(c.options)
		p.write(";\n")
	}
}

func (p *printer) extends(extends []*extendText) {
	if p.bare {
		return
	}
	p.group(len(extends))
	for _, e := range extends {
		p.indent(p.level)
		p.write("extend ", e.name, " ")
		p.block(func() { p.members(e.fields, e.groups) })
	}
}

func (p *printer) service(s *serviceText) {
	p.write("service ", s.name, " ")
	p.block(func() {
		p.statements(s.options)
		p.group(len(s.rpcs))
		for i := range s.rpcs {
			p.rpc(&s.rpcs[i])
		}
	})
}

func (p *printer) rpc(r *rpc) {
	stream := func(is bool) string {
		if is {
			return "stream "
		}
		return ""
	}
	p.indent(p.level)
	p.write("rpc ", r.name, " (", stream(r.inStream), r.in, ") returns (", stream(r.outStream), r.out, ")")
	if len(p.kept(r.options)) == 0 {
		p.write(";\n")
		return
	}
	p.write(" ")
	p.block(func() { p.statements(r.options) })
	p.out = append(p.out[:len(p.out)-1], ";\n"...)
}

func (p *printer) ranges(keyword string, all []ranges, most int64) {
	p.group(len(all))
	for _, r := range all {
		p.rangesLine(keyword, r, most)
	}
}

func (p *printer) rangesLine(keyword string, r ranges, most int64) {
	var parts []string
	for _, s := range r.spans {
		part := strconv.FormatInt(s.from, 10)
		switch {
		case s.single:
		case s.to >= most:
			part += " to max"
		default:
			part += " to " + strconv.FormatInt(s.to, 10)
		}
		parts = append(parts, part)
	}
	for _, name := range r.names {
		parts = append(parts, quote(name))
	}
	p.indent(p.level)
	p.write(keyword, " ", strings.Join(parts, ", "))
	p.brackets(r.options)
	p.write(";\n")
}

// kept are the options that are printed.
func (p *printer) kept(options []option) []option {
	if !p.bare {
		return options
	}
	return slices.DeleteFunc(slices.Clone(options), func(o option) bool {
		name := strings.TrimPrefix(o.name[0].name, ".")
		return o.name[0].extension && !strings.HasPrefix(name, "confluent.")
	})
}

// statements writes the options of a block, a statement each.
func (p *printer) statements(options []option) {
	options = p.kept(options)
	p.group(len(options))
	for i := range options {
		p.indent(p.level)
		p.write("option ")
		p.option(&options[i])
		p.write(";\n")
	}
}

// brackets writes the options of a statement.
func (p *printer) brackets(options []option) {
	options = p.kept(options)
	switch len(options) {
	case 0:
	case 1:
		p.write(" [")
		p.option(&options[0])
		p.write("]")
	default:
		p.write(" [")
		p.list(len(options), func(i int) { p.option(&options[i]) })
		p.write("]")
	}
}

// list writes n items one level deeper, a comma between, a line each.
func (p *printer) list(n int, item func(int)) {
	p.write("\n")
	p.level++
	for i := range n {
		p.indent(p.level)
		item(i)
		if i < n-1 {
			p.write(",")
		}
		p.write("\n")
	}
	p.level--
	p.indent(p.level)
}

func (p *printer) option(o *option) {
	for i, part := range o.name {
		if i > 0 {
			p.write(".")
		}
		if part.extension {
			p.write("(", part.name, ")")
		} else {
			p.write(part.name)
		}
	}
	p.write(" = ")
	p.value(&o.value)
}

func (p *printer) value(v *value) {
	switch v.kind {
	case word:
		p.write(v.text)
	case quoted:
		p.write(quote(v.text))
	case listing:
		p.write("[")
		p.list(len(v.list), func(i int) { p.value(&v.list[i]) })
		p.write("]")
	case aggregate:
		p.write("{")
		p.list(len(v.entries), func(i int) {
			p.write(v.entries[i].key, ": ")
			p.value(&v.entries[i].value)
		})
		p.write("}")
	}
}

// quote is a string as it stands in the text: what has a letter to escape it
// by is escaped, everything else stays, but for bytes that a text cannot hold.
func quote(s string) string {
	b := make([]byte, 0, len(s)+2)
	b = append(b, '"')
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch j := strings.IndexRune("\a\b\f\n\r\t\v\\'\"", r); {
		case r == utf8.RuneError && size == 1 || r == 0:
			b = fmt.Appendf(b, `\%03o`, s[i])
		case j >= 0:
			b = append(b, '\\', `abfnrtv\'"`[j])
		default:
			b = append(b, s[i:i+size]...)
		}
		i += size
	}
	return string(append(b, '"'))
}
