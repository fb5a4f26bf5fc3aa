package parquet

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"

	"penstock/consumers"
	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
	"penstock/stream"
)

// The keys of a file's metadata.
const (
	keyPipeline    = "penstock.pipeline"
	keyCluster     = "penstock.cluster"
	keyTopic       = "penstock.topic"
	keyIncarnation = "penstock.incarnation"
	keyPartition   = "penstock.partition"
	keyFirst       = "penstock.first"
	keyNext        = "penstock.next"
)

// shape is the columns of a schema.
type shape struct {
	id      string // the columns as text
	columns []sqlsink.Column
	fields  []schemas.Field // of a record
	symbols [][]string      // of these: those of enums
	texts   [][][]byte      // of symbols, to be written
	// plain is by column of which kind a cell is most likely and then written
	// without a further look.
	plain  []schemas.CellKind
	record bool
	needed []bool // columns that the schema lets no value be null in
	schema *parquet.Schema
}

// maxShapes bounds Sink.shapes: schemas may come and go.
const maxShapes = 200

func (s *Sink) shape(model *schemas.Node) *shape {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh := s.shapes[model]; sh != nil {
		return sh
	}
	plain, _ := model.Nullable()
	sh := &shape{columns: sqlsink.ColumnsOf(plain), fields: plain.Fields, record: plain.Kind == schemas.Record}
	sh.needed = make([]bool, len(sh.columns))
	for i, f := range plain.Fields {
		n, nullable := f.Node.Nullable()
		sh.needed[i] = sh.record && f.Required && !nullable && n.Kind != schemas.Any
		sh.symbols = append(sh.symbols, n.Symbols)
		texts := make([][]byte, len(n.Symbols))
		for i, symbol := range n.Symbols {
			texts[i] = []byte(symbol)
		}
		sh.texts = append(sh.texts, texts)
	}
	for _, c := range sh.columns {
		sh.plain = append(sh.plain, plainKind(c.Type))
	}
	sh.id = fmt.Sprintf("%t %+v", sh.record, sh.columns)
	sh.schema = parquet.NewSchema("row", newRoot(sh.columns, sh.needed))
	if len(s.shapes) >= maxShapes {
		clear(s.shapes)
	}
	s.shapes[model] = sh
	return sh
}

// plainKind is the kind of cell that becomes an INT32, INT64 or BYTE_ARRAY as it is,
// CellNull of a type that has none such.
func plainKind(t sqlsink.Type) schemas.CellKind {
	switch t {
	case sqlsink.Int32, sqlsink.Int64:
		return schemas.CellInt
	case sqlsink.Date:
		return schemas.CellDate
	case sqlsink.Timestamp, sqlsink.LocalTimestamp:
		return schemas.CellTime
	case sqlsink.Text:
		return schemas.CellText
	}
	return schemas.CellNull
}

// root is a group whose columns keep their order.
type root struct {
	parquet.Group
	fields []parquet.Field
}

// Fields implements parquet.Node.
func (r *root) Fields() []parquet.Field { return r.fields }

func newRoot(columns []sqlsink.Column, needed []bool) *root {
	r := &root{Group: parquet.Group{}}
	for i, c := range columns {
		if r.Group[c.Name] = nodeOf(c); !needed[i] {
			r.Group[c.Name] = parquet.Optional(r.Group[c.Name])
		}
	}
	place := map[string]int{}
	for i, c := range columns {
		place[c.Name] = i
	}
	r.fields = r.Group.Fields()
	slices.SortFunc(r.fields, func(a, b parquet.Field) int { return place[a.Name()] - place[b.Name()] })
	return r
}

// maxDecimal is how many digits an INT64 holds.
const maxDecimal = 18

func nodeOf(c sqlsink.Column) parquet.Node {
	switch c.Type {
	case sqlsink.Bool:
		return parquet.Leaf(parquet.BooleanType)
	case sqlsink.Int32:
		return parquet.Int(32)
	case sqlsink.Int64:
		return parquet.Int(64)
	case sqlsink.Float32:
		return parquet.Leaf(parquet.FloatType)
	case sqlsink.Float64:
		return parquet.Leaf(parquet.DoubleType)
	case sqlsink.Decimal:
		if 0 < c.Precision && c.Precision <= maxDecimal {
			return parquet.Decimal(c.Scale, c.Precision, parquet.Int64Type)
		}
		return parquet.String()
	case sqlsink.Text:
		return parquet.String()
	case sqlsink.UUID:
		return parquet.UUID()
	case sqlsink.Bytes:
		return parquet.Leaf(parquet.ByteArrayType)
	case sqlsink.Date:
		return parquet.Date()
	case sqlsink.TimeOfDay:
		return parquet.Time(parquet.Microsecond)
	case sqlsink.Timestamp:
		return parquet.Timestamp(parquet.Microsecond)
	case sqlsink.LocalTimestamp:
		return parquet.TimestampAdjusted(parquet.Microsecond, false)
	}
	return parquet.JSON()
}

// valueOf is a value that Column.Convert gave, in the form of nodeOf.
func valueOf(c *sqlsink.Column, v any) (parquet.Value, error) {
	switch v := v.(type) {
	case bool:
		return parquet.BooleanValue(v), nil
	case int32:
		if c.Type == sqlsink.Int64 {
			return parquet.Int64Value(int64(v)), nil
		}
		return parquet.Int32Value(v), nil
	case int64:
		if c.Type == sqlsink.Int32 {
			return parquet.Int32Value(int32(v)), nil
		}
		return parquet.Int64Value(v), nil
	case float32:
		if c.Type == sqlsink.Float64 {
			return parquet.DoubleValue(float64(v)), nil
		}
		return parquet.FloatValue(v), nil
	case float64:
		if c.Type == sqlsink.Float32 {
			return parquet.FloatValue(float32(v)), nil
		}
		return parquet.DoubleValue(v), nil
	case []byte:
		return parquet.ByteArrayValue(v), nil
	case time.Duration:
		return parquet.Int64Value(v.Microseconds()), nil
	case time.Time:
		if c.Type == sqlsink.Date {
			return parquet.Int32Value(int32(v.Unix() / (24 * 60 * 60))), nil
		}
		return parquet.Int64Value(v.UnixMicro()), nil
	case string:
		switch {
		case c.Type == sqlsink.UUID:
			raw, err := hex.DecodeString(strings.ReplaceAll(v, "-", ""))
			return parquet.FixedLenByteArrayValue(raw), err
		case c.Type == sqlsink.Decimal && 0 < c.Precision && c.Precision <= maxDecimal:
			n, ok := new(big.Int).SetString(strings.Replace(v, ".", "", 1), 10)
			if limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(c.Precision)), nil); !ok || n.CmpAbs(limit) >= 0 {
				return parquet.Value{}, fmt.Errorf("column %q: expected %v, found %s", c.Name, c, v)
			}
			return parquet.Int64Value(n.Int64()), nil
		}
		return parquet.ByteArrayValue([]byte(v)), nil
	}
	return parquet.Value{}, fmt.Errorf("column %q: expected %v, found %s", c.Name, c, schemas.Describe(v))
}

// link is the rows of a batch that belong to one chain.
type link struct {
	chain
	shape *shape // of the first row
	// schema is that of the file: a column is needed where it is by the shapes of
	// all rows.
	schema *parquet.Schema
	needed []bool
	rows   []row
}

// join has the file take rows of a shape whose columns are the same.
func (l *link) join(sh *shape) {
	needed := slices.Clone(l.needed)
	for i := range needed {
		needed[i] = needed[i] && sh.needed[i]
	}
	if !slices.Equal(needed, l.needed) {
		l.needed, l.schema = needed, parquet.NewSchema("row", newRoot(sh.columns, needed))
	}
}

// row is a message's values, by column, or else its cells and the bytes that
// they lie in.
type row struct {
	Offset int64
	values []parquet.Value
	cells  []schemas.Cell
	text   []byte
	shape  *shape // of the cells: the columns are those of the chain, symbols may be others
}

// links sorts the rows of a batch that are not stored yet by their chains, in
// the order of their first.
func (s *Sink) links(c *claim, b consumers.Batch) ([]*link, error) {
	var all []*link
	byChain := map[chain]*link{}
	refused := &stream.BatchError{}
	var model *schemas.Node
	var sh *shape
	var l *link // of the message before
	for i, m := range b.Messages {
		if m.Offset < c.next || m.Schema == nil {
			continue
		}
		if mm := m.Schema.Model(); mm != model {
			model, sh = mm, s.shape(mm)
		}
		if len(sh.columns) == 0 {
			refused.Fail(i, errors.New("a record without fields has no columns"))
			continue
		}
		var data map[string]any
		if m.Cells != nil {
			data = s.named(sh, m)
		} else if sh.record {
			var ok bool
			if data, ok = m.Data.(map[string]any); !ok && m.Data != nil {
				refused.Fail(i, fmt.Errorf("expected a record, found %T", m.Data))
				continue
			}
		}
		folder, err := s.folder(data)
		if err != nil {
			refused.Fail(i, err)
			continue
		}
		if l == nil || l.shape != sh || l.folder != folder {
			k := chain{folder, sh.id}
			if l = byChain[k]; l == nil {
				l = &link{chain: k, shape: sh, schema: sh.schema, needed: sh.needed}
				if len(s.by) == 0 {
					l.rows = make([]row, 0, len(b.Messages)-i)
				}
				byChain[k] = l
				all = append(all, l)
			}
			l.join(sh)
		}
		r, err := sh.row(m, data)
		if err != nil {
			refused.Fail(i, err)
			continue
		}
		l.rows = append(l.rows, r)
	}
	for _, l := range all {
		l.drop(c.ahead[l.chain])
	}
	return all, refused.OrNil()
}

// noValue is what is wrong with a null in a column that is needed.
const noValue = "column %q: expected a value, since the schema requires one, found null"

// row takes the values of a message, or its cells once they are known to fit.
func (sh *shape) row(m consumers.Message, data map[string]any) (r row, err error) {
	r = row{Offset: m.Offset, cells: m.Cells, text: m.Value, shape: sh}
	if m.Cells == nil {
		r.values = make([]parquet.Value, len(sh.columns))
	}
	for i := range sh.columns {
		c := &sh.columns[i]
		switch {
		case m.Cells != nil:
			cell := &m.Cells[i]
			if cell.Kind == schemas.CellNull && !sh.needed[i] || cell.Kind == schemas.CellText && c.Type == sqlsink.Text ||
				cell.Kind == schemas.CellInt && c.Type == sqlsink.Int32 && cell.N == int64(int32(cell.N)) {
				continue // as Takes says
			}
			if err = c.Takes(*cell, sh.symbols[i], m.Value); cell.Kind == schemas.CellNull {
				err = fmt.Errorf(noValue, c.Name)
			}
		case sh.record:
			r.values[i], err = value(c, i, data[c.Name])
		default:
			r.values[i], err = value(c, i, m.Data)
		}
		if err == nil && r.values != nil && sh.needed[i] && r.values[i].IsNull() {
			err = fmt.Errorf(noValue, c.Name)
		}
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

// column sets the values of a column. Cells of the kind that most of its cells are
// have a short way.
func (sh *shape) column(values []parquet.Value, column int, rows []row) {
	plain := sh.plain[column]
	narrow := sh.columns[column].Type == sqlsink.Int32 || sh.columns[column].Type == sqlsink.Date
	for k := range rows {
		r, v := &rows[k], &values[k]
		if r.cells == nil {
			*v = r.values[column]
			continue
		}
		switch cell := &r.cells[column]; {
		case cell.Kind == schemas.CellNull:
			*v = parquet.Value{}
			continue
		case cell.Kind != plain:
			*v = r.shape.cell(column, cell, r.text)
		case narrow:
			*v = parquet.Int32Value(int32(cell.N))
		case plain == schemas.CellText:
			*v = parquet.ByteArrayValue(r.text[cell.From:cell.To])
		default:
			*v = parquet.Int64Value(cell.N)
		}
		v.SetDefinitionLevel(1)
	}
}

// cell is what value makes of the value of a cell that the column takes and that is
// not null, but for its level.
func (sh *shape) cell(column int, cell *schemas.Cell, text []byte) (v parquet.Value) {
	c := &sh.columns[column]
	switch cell.Kind {
	case schemas.CellBool:
		v = parquet.BooleanValue(cell.N != 0)
	case schemas.CellInt, schemas.CellDate, schemas.CellTime:
		if v = parquet.Int64Value(cell.N); c.Type == sqlsink.Int32 || c.Type == sqlsink.Date {
			v = parquet.Int32Value(int32(cell.N))
		}
	case schemas.CellFloat:
		if v = parquet.DoubleValue(cell.Float()); c.Type == sqlsink.Float32 {
			v = parquet.FloatValue(float32(cell.Float()))
		}
	case schemas.CellSymbol:
		v = parquet.ByteArrayValue(sh.texts[column][cell.N])
	default:
		if v = parquet.ByteArrayValue(cell.Text(text)); c.Type == sqlsink.UUID {
			v, _ = value(c, column, string(cell.Text(text))) // taken before
		}
	}
	return v
}

// named is the fields of a message with cells that folders are named by.
func (s *Sink) named(sh *shape, m consumers.Message) map[string]any {
	if len(s.by) == 0 {
		return nil
	}
	data := map[string]any{}
	for _, by := range s.by {
		if i := slices.IndexFunc(sh.fields, func(f schemas.Field) bool { return f.Name == by.field }); i >= 0 {
			data[by.field] = m.Cells[i].Value(sh.fields[i].Node, m.Value)
		}
	}
	return data
}

func value(c *sqlsink.Column, column int, v any) (parquet.Value, error) {
	v, err := c.Convert(v)
	if err != nil {
		return parquet.Value{}, err
	}
	if v == nil {
		return parquet.NullValue().Level(0, 0, column), nil
	}
	value, err := valueOf(c, v)
	return value.Level(0, 1, column), err
}

// drop leaves out the rows below an offset.
func (l *link) drop(below int64) {
	for len(l.rows) > 0 && l.rows[0].Offset < below {
		l.rows = l.rows[1:]
	}
}

// rowsAtOnce is of how many rows each column is written in turn: their cells stay in
// the processor's cache meanwhile.
const rowsAtOnce = 256

// encode writes a file of the rows to out.
func (l *link) encode(out *bytes.Buffer, metadata map[string]string) error {
	w := parquet.NewWriter(out, l.schema, parquet.Compression(&parquet.Snappy), parquet.CreatedBy("penstock", "", ""))
	for k, v := range metadata {
		w.SetKeyValueMetadata(k, v)
	}
	values := make([]parquet.Value, min(len(l.rows), rowsAtOnce))
	for rows := range slices.Chunk(l.rows, rowsAtOnce) {
		for i, c := range w.ColumnWriters() {
			l.shape.column(values, i, rows)
			if _, err := c.WriteRowValues(values[:len(rows)]); err != nil {
				return fmt.Errorf("make Parquet file: %w", err)
			}
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("make Parquet file: %w", err)
	}
	return nil
}

// readNext reads how far a file goes.
func readNext(file []byte) (next int64, err error) {
	defer func() { // the library does on what is no Parquet file
		if p := recover(); p != nil {
			err = fmt.Errorf("read Parquet file: %v", p)
		}
	}()
	f, err := parquet.OpenFile(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return 0, err
	}
	text, ok := f.Lookup(keyNext)
	if !ok {
		return 0, errors.New("it names no " + keyNext)
	}
	return strconv.ParseInt(text, 10, 64)
}

// folderBy is one part of a folder's name.
type folderBy struct {
	field, layout string // layout: of a time; empty is the value itself
}

func parseFolderBy(text string) (folderBy, error) {
	field, unit, timed := strings.Cut(text, ":")
	f := folderBy{field: field}
	if timed {
		f.layout = map[string]string{"year": "2006", "month": "2006-01", "day": "2006-01-02", "hour": "2006-01-02T15"}[unit]
	}
	if field == "" || timed && f.layout == "" {
		return f, fmt.Errorf("partition by %q: expected FIELD, or FIELD:year, FIELD:month, FIELD:day or FIELD:hour of a time", text)
	}
	return f, nil
}

// folder is where a record belongs, as Hive and those after it name folders.
func (s *Sink) folder(data map[string]any) (string, error) {
	folder := ""
	for _, by := range s.by {
		var text string
		switch v := data[by.field].(type) {
		case nil:
			text = "__HIVE_DEFAULT_PARTITION__"
		case time.Time:
			text = v.UTC().Format(cmp.Or(by.layout, time.RFC3339Nano))
		case string:
			text = v
			if t, ok := schemas.AsTime(v); by.layout != "" && ok {
				text = t.UTC().Format(by.layout)
			} else if by.layout != "" {
				return "", fmt.Errorf("field %q: expected a time, found %s", by.field, schemas.Describe(v))
			}
		case bool, int32, int64, uint32, uint64:
			text = fmt.Sprint(v)
		default:
			return "", fmt.Errorf("field %q: expected a string, integer, boolean or time to name a folder by, found %s", by.field, schemas.Describe(v))
		}
		if text = url.PathEscape(text); len(text) > 200 {
			return "", fmt.Errorf("field %q: expected at most 200 bytes in the name of a folder, found %d", by.field, len(text))
		}
		folder = path.Join(folder, by.field+"="+text)
	}
	return folder, nil
}
