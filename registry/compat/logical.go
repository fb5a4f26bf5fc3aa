package compat

import (
	"fmt"
	"strconv"
	"strings"

	"penstock/registry"
	"penstock/schemas"
)

// columnTypeChanged is the rule of the policy LOGICAL, for all languages: who
// keeps the data in tables (Iceberg, Flink) cannot change a column's type as
// freely as the languages change that of a field. The types are compared as
// version 2 of the Iceberg specification has them. It widens int to long, float
// to double and the precision of a decimal, and nothing else. Whether a column
// may be null, and what is added or removed, the language's own rules say.
const columnTypeChanged = "COLUMN_TYPE_CHANGED"

// checkLogical applies it, in Protobuf to the messages that both files have at
// their top.
func checkLogical(reader, writer schemas.Schema, d registry.Direction) []registry.Finding {
	w := &columnWalk{language: reader.Type(), direction: d, met: map[[2]*schemas.Node]bool{}}
	switch w.language {
	case schemas.Avro:
		w.walk(reader.Model(), writer.Model(), "/")
	case schemas.JSON:
		w.walk(reader.Model(), writer.Model(), "#/")
	case schemas.Protobuf:
		old := map[string]*schemas.Node{}
		for _, m := range topMessages(writer) {
			old[simpleName(m.Name)] = m
		}
		for _, m := range topMessages(reader) {
			if name := simpleName(m.Name); old[name] != nil {
				w.walk(m, old[name], "#/"+name)
			}
		}
	}
	return w.findings
}

func topMessages(s schemas.Schema) (nodes []*schemas.Node) {
	messages, _ := s.(schemas.Messages)
	for messages != nil {
		m, err := messages.Message([]int{len(nodes)})
		if err != nil {
			break // that was the last
		}
		nodes = append(nodes, m.Model())
	}
	return nodes
}

// maxColumns is how many pairs of records, arrays and maps one check compares.
const maxColumns = 1 << 16

type columnWalk struct {
	language  schemas.Type
	direction registry.Direction
	met       map[[2]*schemas.Node]bool // pairs of what may be recursive
	findings  []registry.Finding
}

// walk compares what lies at a path of both schemas.
func (w *columnWalk) walk(reader, writer *schemas.Node, at string) {
	reader, _ = reader.Nullable()
	writer, _ = writer.Nullable()
	r, old := columnOf(reader), columnOf(writer)
	if !old.widensTo(r) {
		w.report(at, r, old)
		return
	}
	pair := [2]*schemas.Node{reader, writer}
	if reader.Kind != writer.Kind || reader.Items == nil && reader.Fields == nil || w.met[pair] {
		return
	}
	if len(w.met) == maxColumns {
		w.report(at, column{name: "one of too many to compare"}, old)
		return
	}
	w.met[pair] = true
	switch reader.Kind {
	case schemas.Array:
		w.walk(reader.Items, writer.Items, w.below(at, "items", "items"))
	case schemas.Map:
		w.walk(reader.Items, writer.Items, w.below(at, "values", "additionalProperties"))
	case schemas.Record:
		for i := range reader.Fields {
			f := &reader.Fields[i]
			if old := w.counterpart(f, writer); old != nil {
				w.walk(f.Node, old.Node, w.field(at, i, f))
			}
		}
	}
}

// counterpart is the writer's field that a reader's is read from, or nil.
func (w *columnWalk) counterpart(f *schemas.Field, writer *schemas.Node) *schemas.Field {
	if w.language == schemas.Protobuf {
		for i := range writer.Fields {
			if writer.Fields[i].Number == f.Number {
				return &writer.Fields[i]
			}
		}
		return nil
	}
	old := writer.Field(f.Name)
	for _, alias := range f.Aliases {
		if old == nil {
			old = writer.Field(alias)
		}
	}
	return old
}

// field is the path of a field, as the rules of the language write it.
func (w *columnWalk) field(at string, i int, f *schemas.Field) string {
	switch w.language {
	case schemas.Avro:
		return join(at, "fields/"+strconv.Itoa(i)+"/type")
	case schemas.Protobuf:
		return join(at, strconv.Itoa(f.Number))
	}
	return join(at, "properties/"+f.Name)
}

// below is the path of what an array or a map holds. In Protobuf that has none
// of its own.
func (w *columnWalk) below(at, avro, json string) string {
	switch w.language {
	case schemas.Avro:
		return join(at, avro)
	case schemas.JSON:
		return join(at, json)
	}
	return at
}

func join(at, step string) string {
	return strings.TrimSuffix(at, "/") + "/" + step
}

func (w *columnWalk) report(at string, reader, writer column) {
	f := registry.Finding{
		Rule: columnTypeChanged, Severity: registry.SeverityError, Direction: w.direction, ReaderPath: at, WriterPath: at,
		Message: fmt.Sprintf("The column at %s is %s for the reader and %s for the writer, and a table does not widen the one to the other", at, reader, writer),
		Detail:  fmt.Sprintf("reader type: %s, writer type: %s", reader, writer),
		Fix:     fmt.Sprintf("keep the type %s, or add a field with another name", writer),
	}
	if w.direction == registry.Forward {
		f.Fix = fmt.Sprintf("keep the type %s, or add a field with another name", reader)
	}
	w.findings = append(w.findings, f)
}

// column is the type of a table's column. Its name is empty where the schema
// does not say.
type column struct {
	name             string
	precision, scale int // of a decimal, or a fixed's size
}

func (c column) String() string {
	switch c.name {
	case "decimal":
		return fmt.Sprintf("decimal(%d, %d)", c.precision, c.scale)
	case "fixed":
		return fmt.Sprintf("fixed(%d)", c.precision)
	}
	return c.name
}

// widensTo reports whether a column of type c can become one of type to.
func (c column) widensTo(to column) bool {
	switch {
	case c == to, c.name == "", to.name == "":
		return true
	case c.name == "decimal" && to.name == "decimal":
		return c.scale == to.scale && c.precision <= to.precision
	}
	return c.name == "int" && to.name == "long" || c.name == "float" && to.name == "double"
}

func columnOf(n *schemas.Node) column {
	switch n.Logical {
	case schemas.Decimal:
		return column{"decimal", n.Precision, n.Scale}
	case schemas.Date, schemas.UUID, schemas.TimeOfDay:
		return column{name: string(n.Logical)}
	case schemas.LocalTime:
		return column{name: "timestamp"}
	case schemas.Timestamp:
		return column{name: "timestamptz"}
	}
	switch n.Kind {
	case schemas.Bool:
		return column{name: "boolean"}
	case schemas.Int:
		switch {
		case n.Unsigned && n.Bits == 64:
			return column{"decimal", 20, 0}
		case n.Bits == 32 && !n.Unsigned:
			return column{name: "int"}
		}
		return column{name: "long"}
	case schemas.Float:
		if n.Bits == 32 {
			return column{name: "float"}
		}
		return column{name: "double"}
	case schemas.String, schemas.Enum:
		return column{name: "string"}
	case schemas.Bytes:
		return column{name: "binary"}
	case schemas.Fixed:
		return column{name: "fixed", precision: n.Size}
	case schemas.Array:
		return column{name: "list"}
	case schemas.Map:
		return column{name: "map"}
	case schemas.Record:
		return column{name: "struct"}
	}
	return column{} // any, null, and unions, whose branches the language's rules compare
}
