package sqlsink

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
)

// shape is a set of columns that rows have in common. Its pointer is its
// identity.
type shape struct {
	columns []Column
	symbols [][]string // of a record's fields: those of enums
	record  bool       // the value is a record of the columns; else it is the only one
	keyed   bool       // the first column is the record's key
	key     []int      // which columns are the key
	remove  bool       // rows to be deleted, or marked; the first column is the key
	soft    bool       // the last column is Config.SoftDelete, and no field
	timed   bool       // the last column, but for that, is TimeColumn, and no field
	divides int        // which column divides the table, where one does
	model   *schemas.Node
	in      *catalog // of its table
}

// statement is what a Dialect is told of rows of this shape.
func (sh *shape) statement(s *Sink, declared map[string]string) Statement {
	st := Statement{Table: sh.in.table, Columns: slices.Clone(sh.columns), Symbols: sh.symbols, Delete: sh.remove}
	for i := range st.Columns {
		st.Columns[i].Declared = declared[s.dialect.Fold(st.Columns[i].Name)]
	}
	for _, k := range sh.key {
		st.Key = append(st.Key, sh.columns[k].Name)
	}
	if sh.remove {
		st.Mark = s.config.SoftDelete
	}
	return st
}

// operation is what a message does to the table.
type operation struct {
	index int // of the message in the batch
	shape *shape
	row   Row
	at    int64 // microseconds since 1970 of the column that divides the table
}

// operations turns the messages from offset next on into operations, sorted by
// shape. Messages whose values fit no column are named in a *stream.BatchError.
func (s *Sink) operations(b consumers.Batch, next int64) ([]operation, error) {
	ops := make([]operation, 0, len(b.Messages))
	refused := &stream.BatchError{}
	var room []any // for the values of many rows at once
	var cells []schemas.Cell
	var model *schemas.Node
	var sh *shape // of model, in its table
	for i, m := range b.Messages {
		if m.Offset < next || m.Schema == nil && s.config.Mode == Append {
			continue
		}
		op := operation{index: i}
		in, err := s.catalogOf(m)
		if errors.Is(err, consumers.ErrStop) {
			return nil, err
		}
		if err != nil {
			refused.Fail(i, err)
			continue
		}
		if m.Schema == nil {
			op.shape, op.row.Values, err = s.deletion(in, m)
		} else {
			if mm := m.Schema.Model(); mm != model || sh.in != in {
				if sh, err = in.shape(s, mm); err != nil {
					return nil, fmt.Errorf("schema %d: %w: %w", m.SchemaID, err, consumers.ErrStop)
				}
				model = mm
			}
			op.shape = sh
			if m.Cells != nil && s.cells {
				op.row.Cells, op.row.Text = m.Cells, m.Value
				if sh.timed {
					if len(cells) < len(sh.columns) {
						cells = make([]schemas.Cell, len(sh.columns)*min(len(b.Messages)-i, 256))
					}
					row := append(append(cells[:0:len(sh.columns)], m.Cells...), schemas.Cell{Kind: schemas.CellTime, N: m.Time.UnixMicro()})
					op.row.Cells, cells = row, cells[len(row):]
				}
				err = sh.check(op.row)
			} else {
				n := len(sh.columns)
				if len(room) < n {
					room = make([]any, n*min(len(b.Messages)-i, 256))
				}
				op.row.Values, room = room[:n:n], room[n:]
				err = sh.fill(op.row.Values, m)
			}
			if err == nil && s.divided != nil {
				op.at, err = sh.moment(op.row)
			}
		}
		if err != nil {
			refused.Fail(i, err)
			continue
		}
		ops = append(ops, op)
	}
	if err := refused.OrNil(); err != nil {
		return nil, err
	}
	if s.config.Mode == Upsert {
		ops = s.coalesce(ops)
	}
	return group(ops), nil
}

// group sorts operations by their table, so that all take their locks in one
// order, and then by their shape: deletions first, the others in the order of their
// first.
func group(ops []operation) []operation {
	order := map[*shape]int{}
	for _, op := range ops {
		if _, ok := order[op.shape]; !ok {
			order[op.shape] = len(order) + 1
			if op.shape.remove {
				order[op.shape] = 0
			}
		}
	}
	if len(order) > 1 {
		slices.SortStableFunc(ops, func(a, b operation) int {
			return cmp.Or(cmp.Compare(a.shape.in.table, b.shape.in.table), order[a.shape]-order[b.shape])
		})
	}
	return ops
}

// check says whether the cells of a row fit the columns.
func (sh *shape) check(r Row) error {
	for i := range sh.columns {
		if err := sh.columns[i].Takes(r.Cells[i], sh.symbols[i], r.Text); err != nil {
			return err
		}
	}
	return nil
}

// fill reads the values of a row.
func (sh *shape) fill(values []any, m consumers.Message) (err error) {
	var data map[string]any
	if sh.record && m.Cells == nil {
		var ok bool
		if data, ok = m.Data.(map[string]any); !ok && m.Data != nil {
			return fmt.Errorf("expected a record, found %T", m.Data)
		}
	}
	field := 0
	last := len(sh.columns) - 1
	if sh.soft {
		last-- // not deleted
	}
	if sh.timed {
		if values[last], err = sh.columns[last].Convert(m.Time); err != nil {
			return err
		}
		last--
	}
	for i := range last + 1 {
		if m.Cells != nil && !(sh.keyed && i == 0) {
			if values[i], err = sh.columns[i].ConvertCell(m.Cells[field], sh.symbols[field], m.Value); err != nil {
				return err
			}
			field++
			continue
		}
		v := m.Data
		switch {
		case sh.keyed && i == 0:
			if m.Key == nil {
				return errNoKey
			}
			v = m.Key
		case sh.record:
			v = data[sh.columns[i].Name]
		}
		if values[i], err = sh.columns[i].Convert(v); err != nil {
			return err
		}
	}
	for _, k := range sh.key {
		if values[k] == nil {
			return fmt.Errorf("column %q is part of the key: expected a value, found null", sh.columns[k].Name)
		}
	}
	return nil
}

var errNoKey = errors.New("expected a record key, found none; name key columns, or publish with a key")

// deletion is the operation of a tombstone.
func (s *Sink) deletion(in *catalog, m consumers.Message) (*shape, []any, error) {
	switch {
	case m.Key == nil:
		return nil, nil, errNoKey
	case len(s.config.Key) == 0:
		return in.deletion(s, recordKey), s.marked(m, m.Key), nil
	case len(s.config.Key) > 1:
		return nil, nil, fmt.Errorf("expected a tombstone whose key is one column, found %d key columns; its row cannot be found", len(s.config.Key))
	}
	return in.deletion(s, Column{Name: s.config.Key[0], Type: Text}), s.marked(m, string(m.Key)), nil
}

// marked are the values of a tombstone's operation.
func (s *Sink) marked(m consumers.Message, key any) []any {
	if s.config.SoftDelete == "" {
		return []any{key}
	}
	return []any{key, m.Time.UTC().Truncate(time.Microsecond)}
}

// coalesce leaves one row of each key: what the messages, one after the other,
// come to. A key that was deleted on the way is deleted first.
func (s *Sink) coalesce(ops []operation) []operation {
	last := make(map[string]int, len(ops)) // where in kept the key's row is
	kept := ops[:0:0]
	var deletions []operation
	deleted := map[string]bool{}
	var column *Column // of a key that is one column, if a row has it
	for _, op := range ops {
		if !op.shape.remove && len(op.shape.key) == 1 {
			column = &op.shape.columns[op.shape.key[0]]
		}
	}
	for _, op := range ops {
		key := op.shape.keyOf(op.row.Values)
		if op.shape.remove && column != nil {
			key = column.keyFrom(key)
		}
		if s.fixed == nil {
			key = op.shape.in.table + " " + key
		}
		at, seen := last[key]
		switch {
		case op.shape.remove && seen && s.config.SoftDelete != "":
			row := &kept[at].row
			row.Values = slices.Clone(row.Values)
			row.Values[len(row.Values)-1] = op.row.Values[1]
		case op.shape.remove:
			if !deleted[key] {
				deleted[key] = true
				deletions = append(deletions, op)
			}
			if seen {
				kept[at].shape = nil
				delete(last, key)
			}
		case seen:
			kept[at] = s.overlay(kept[at], op)
		default:
			last[key] = len(kept)
			kept = append(kept, op)
		}
	}
	kept = slices.DeleteFunc(kept, func(op operation) bool { return op.shape == nil })
	return append(deletions, kept...)
}

// overlay is what two messages of one key come to: the columns of the later
// one, and those of the earlier that the later's schema does not have.
func (s *Sink) overlay(earlier, later operation) operation {
	if earlier.shape == later.shape {
		return later
	}
	sh := later.shape.in.union(later.shape, earlier.shape)
	values := make([]any, len(sh.columns))
	for _, op := range []operation{earlier, later} {
		for i, c := range op.shape.columns {
			at := slices.IndexFunc(sh.columns, func(u Column) bool { return u.Name == c.Name })
			values[at] = op.row.Values[i]
		}
	}
	return operation{index: later.index, shape: sh, row: Row{Values: values}, at: later.at}
}

// keyOf is the key as text, the same for equal values of different Go types.
func (sh *shape) keyOf(values []any) string {
	if len(sh.key) == 1 {
		return keyText(values[sh.key[0]])
	}
	var b strings.Builder
	for _, k := range sh.key { // lengths keep "a","bc" apart from "ab","c"
		text := keyText(values[k])
		fmt.Fprintf(&b, "%d#%s", len(text), text)
	}
	return b.String()
}

func keyText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	case int32:
		return strconv.FormatInt(int64(v), 10)
	case int64:
		return strconv.FormatInt(v, 10)
	case time.Time:
		return v.Format(time.RFC3339Nano)
	}
	return fmt.Sprint(v)
}

// keyFrom is what keyText would make of the value that the database reads from
// the text of a tombstone's key, 5 for 05 in a column of integers.
func (c *Column) keyFrom(text string) string {
	var v any = text
	if c.Type == Int32 || c.Type == Int64 {
		v = json.Number(text)
	}
	v, err := c.Convert(v)
	if err != nil {
		return text
	}
	return keyText(v)
}
