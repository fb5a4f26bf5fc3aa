package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"penstock/consumers"
	"penstock/consumers/diffing"
	"penstock/consumers/sinks/postgres"
	"penstock/consumers/sinks/sqlite"
	"penstock/consumers/sinks/sqlsink"
	"penstock/pipelines"
	"penstock/schemas"
	"penstock/schemas/jsonschema"
	"penstock/stream"
)

// comparing is one comparison of two topics, or of a topic and a table.
type comparing struct {
	*diffCmd
	t          *terminal
	broker     stream.Broker
	decoder    *consumers.Decoder
	comparison *diffing.Comparison
	unread     int64
	tableRows  int64
	// rows says that values are compared as what a sink makes of them.
	rows bool
	// columns are those of the schemas that were read, and seen those of all, as
	// the last of them has them.
	columns map[*schemas.Node][]sqlsink.Column
	seen    map[string]sqlsink.Column
}

// compare compares by key, and prints where the two differ.
func (c *diffCmd) compare(ctx context.Context, t *terminal) (err error) {
	sides := []*tableURL{diffing.Left: tableAt(c.Compare), diffing.Right: tableAt(c.Topic)}
	rows := sides[diffing.Left] != nil || sides[diffing.Right] != nil
	switch {
	case sides[diffing.Left] != nil && sides[diffing.Right] != nil:
		return usagef("--compare: expected a topic beside a table, found two tables; the schemas of the topic say what the columns are")
	case rows && cmp.Or(sides...).table == "":
		return usagef("--compare: expected the name of a table behind the database, found none; write sqlite:FILE#TABLE or postgres://HOST/DATABASE#TABLE")
	case c.Soft != "" && !rows:
		return usagef("--soft-delete: expected a table that is compared, found two topics")
	}
	broker, err := openBroker(ctx, c.Broker, t.log)
	if err != nil {
		return err
	}
	defer broker.Close()
	reg, err := c.openRegistry(c.Broker)
	if err != nil {
		return err
	}
	defer reg.Close()
	dir, err := os.MkdirTemp("", "penstock-compare-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	key := c.Key
	if rows {
		key = "" // it is a column's then
	}
	comparison, err := diffing.OpenComparison(dir, key, c.rules(), c.Cache<<20)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, comparison.Close()) }()
	anything, err := jsonschema.Format{}.Parse("{}", nil)
	if err != nil {
		return err
	}
	w := comparing{
		diffCmd: c, t: t, broker: broker, decoder: consumers.NewDecoder(reg, schemas.Limits{}).Plain(anything), comparison: comparison,
		rows: rows, columns: map[*schemas.Node][]sqlsink.Column{}, seen: map[string]sqlsink.Column{},
	}
	for _, tables := range []bool{false, true} { // the schemas of a topic say what a table's columns are
		for side, name := range []string{diffing.Left: c.Compare, diffing.Right: c.Topic} {
			table := sides[side]
			switch {
			case (table != nil) != tables:
				continue
			case tables:
				err = w.table(ctx, diffing.Side(side), table)
			default:
				err = w.topic(ctx, diffing.Side(side), name)
			}
			if err != nil {
				return err
			}
		}
	}
	return w.report()
}

// topic reads what a topic holds.
func (w *comparing) topic(ctx context.Context, side diffing.Side, topic string) error {
	err := eachRecord(ctx, w.broker, topic, "compare-"+rand.Text(), 5000, func(records []stream.Record) error {
		messages := make([]consumers.Message, 0, len(records))
		for _, r := range records {
			m, err := w.decoder.Decode(ctx, r)
			if err == nil && w.rows {
				m, err = w.row(m)
			}
			if reason := (*consumers.Reason)(nil); errors.As(err, &reason) {
				w.leaveOut(r, reason)
				continue
			}
			if err != nil {
				return err
			}
			messages = append(messages, m)
		}
		return w.add(side, messages)
	})
	if err != nil {
		return fmt.Errorf("read topic %q: %w", topic, err)
	}
	return nil
}

// add adds messages, and says which cannot be.
func (w *comparing) add(side diffing.Side, messages []consumers.Message) error {
	err := w.comparison.Add(side, messages...)
	if refused := (*stream.BatchError)(nil); errors.As(err, &refused) {
		for i, why := range refused.Errs {
			w.leaveOut(messages[i].Record, why)
		}
		return nil
	}
	return err
}

func (w *comparing) leaveOut(r stream.Record, why error) {
	w.unread++
	w.t.log.Warn("left out", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "reason", why.Error())
}

// row is a message that says what a sink makes of another, under the key that its
// row has.
func (w *comparing) row(m consumers.Message) (consumers.Message, error) {
	if m.Value == nil {
		return m, nil
	}
	model := m.Schema.Model()
	columns, known := w.columns[model]
	if !known {
		columns = sqlsink.ColumnsOf(model)
		if w.Key != "" && !slices.ContainsFunc(columns, func(c sqlsink.Column) bool { return c.Name == w.Key }) {
			return m, usagef("--key %s: expected a field of schema %d, found none of that name", w.Key, m.SchemaID)
		}
		w.columns[model] = columns
		for _, c := range columns {
			w.seen[c.Name] = c
		}
	}
	row, err := sqlsink.RowOf(columns, m)
	if err == nil && w.Key != "" {
		m.Key, err = rowKey(w.Key, row[w.Key])
	}
	if err != nil {
		return m, &consumers.Reason{Code: consumers.RefusedBySink, Err: err}
	}
	m.Data = row
	return m, nil
}

// rowKey is what a row is known by, as the key of its tombstone has it.
func rowKey(column string, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return nil, fmt.Errorf("column %q: expected a key, found nothing", column)
	case []byte:
		return v, nil
	case string:
		return []byte(v), nil
	}
	text, err := schemas.AppendJSON(nil, v)
	return bytes.Trim(text, `"`), err
}

// table reads what a table holds of the columns that were seen.
func (w *comparing) table(ctx context.Context, side diffing.Side, table *tableURL) error {
	key := cmp.Or(w.Key, sqlsink.KeyColumn)
	columns := []sqlsink.Column{{Name: sqlsink.KeyColumn, Type: sqlsink.Bytes}}
	if w.Key != "" {
		var known bool
		if columns[0], known = w.seen[w.Key]; !known {
			return usagef("--key %s: expected a field of the topic's schemas, found a topic without values", w.Key)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.seen)) {
		if name != key {
			columns = append(columns, w.seen[name])
		}
	}
	from := 0
	if w.Key == "" {
		from = 1 // of the value
	}
	if w.Soft != "" {
		columns = append(columns, sqlsink.Column{Name: w.Soft, Type: sqlsink.Text})
	}
	var messages []consumers.Message
	err := table.read(ctx, columns, func(values []any) error {
		if w.Soft != "" {
			if values[len(values)-1] != nil {
				return nil
			}
			values = values[:len(values)-1]
		}
		m := consumers.Message{Record: stream.Record{Topic: table.table, Offset: w.tableRows, Value: []byte{}}}
		w.tableRows++
		var err error
		if m.Key, err = rowKey(key, values[0]); err != nil {
			return fmt.Errorf("row %d of table %q: %w; name the column that is the key with --key", w.tableRows, table.table, err)
		}
		row := map[string]any{}
		for i := from; i < len(values); i++ {
			if values[i] != nil {
				row[columns[i].Name] = values[i]
			}
		}
		m.Data = row
		if messages = append(messages, m); len(messages) < rowsAtOnce {
			return nil
		}
		err = w.add(side, messages)
		messages = messages[:0]
		return err
	})
	if err != nil {
		return err
	}
	return w.add(side, messages)
}

// rowsAtOnce is how many rows are gathered at once.
const rowsAtOnce = 1000

// tableURL is a table of a database.
type tableURL struct {
	database, table string
	read            func(ctx context.Context, columns []sqlsink.Column, row func([]any) error) error
}

// tableAt is the table at an address, as in sqlite:FILE#TABLE; nil if that is a
// topic's name.
func tableAt(address string) *tableURL {
	var t tableURL
	at := strings.LastIndexByte(address, '#')
	if at < 0 {
		at = len(address)
	}
	t.database, t.table = address[:at], strings.TrimPrefix(address[at:], "#")
	switch (pipelines.Sink{URL: t.database}).Kind() {
	case pipelines.SQLite:
		t.read = func(ctx context.Context, columns []sqlsink.Column, row func([]any) error) error {
			return sqlite.ReadTable(ctx, strings.TrimPrefix(t.database, "sqlite:"), t.table, columns, row)
		}
	case pipelines.Postgres:
		t.read = func(ctx context.Context, columns []sqlsink.Column, row func([]any) error) error {
			return postgres.ReadTable(ctx, t.database, t.table, columns, row)
		}
	default:
		return nil
	}
	return &t
}

// String is the table in words, without a password.
func (t *tableURL) String() string { return "table " + t.table + " of " + shown(t.database) }

// sideName is a topic or a table, without a password.
func sideName(address string) string {
	if t := tableAt(address); t != nil {
		return t.String()
	}
	return address
}

// report prints where the two differ.
func (w *comparing) report() error {
	c, t := w.diffCmd, w.t
	var left, extra, different int64
	same, err := w.comparison.Report(func(d diffing.Difference) error {
		what, text := "different", d.Patch
		switch {
		case d.Right == nil:
			what, text = "missing", d.Left
			left++
		case d.Left == nil:
			what, text = "extra", d.Right
			extra++
		default:
			different++
		}
		if c.json() {
			row := map[string]any{"key": printable([]byte(d.Key)), "what": what, "left": rawOrNull(d.Left), "right": rawOrNull(d.Right)}
			if d.Patch != nil {
				row["patch"] = rawOrNull(d.Patch)
			}
			return t.object(row)
		}
		t.printf("%-9s %s %s\n", what, printable([]byte(d.Key)), text)
		return nil
	})
	if err != nil {
		return err
	}
	if c.json() {
		err = t.object(map[string]any{"left": sideName(c.Compare), "right": sideName(c.Topic), "same": same, "missing": left, "extra": extra, "different": different, "leftOut": w.unread})
	} else {
		t.printf("%s the same, %s missing in %s, %s extra, %s different, %s left out\n",
			count(same), count(left), sideName(c.Topic), count(extra), count(different), count(w.unread))
	}
	if err == nil && left+extra+different+w.unread > 0 {
		err = errNo
	}
	return err
}

// rawOrNull is JSON as it is; nothing is null.
func rawOrNull(text []byte) json.RawMessage {
	if text == nil {
		return json.RawMessage("null")
	}
	return text
}
