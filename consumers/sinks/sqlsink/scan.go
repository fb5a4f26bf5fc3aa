package sqlsink

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"penstock/consumers"
	"penstock/schemas"
)

// Scanned returns the target table and, of each column, its identifier there, or
// "" where the table has none of that name.
func Scanned(ctx context.Context, db *sql.DB, d Dialect, table string, columns []Column) (target string, names []string, err error) {
	if target, _, err = d.Tables(table); err != nil {
		return "", nil, err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return "", nil, err
	}
	defer conn.Close()
	declared, err := d.Columns(ctx, conn, target)
	if err != nil {
		return "", nil, err
	}
	if len(declared) == 0 {
		return "", nil, fmt.Errorf("there is no table %q", table)
	}
	for _, c := range columns {
		name := ""
		if _, ok := declared[d.Fold(c.Name)]; ok {
			if name, err = d.Identifier(c.Name); err != nil {
				return "", nil, err
			}
		}
		names = append(names, name)
	}
	return target, names, nil
}

// RowOf is what a sink would store of a message that is no tombstone: the columns of
// its schema, and their values, canonical and by name, without those that are NULL.
// columns are those of the schema's model.
func RowOf(columns []Column, m consumers.Message) (map[string]any, error) {
	model, _ := m.Schema.Model().Nullable()
	data := map[string]any{valueColumn: m.Data}
	if model.Kind == schemas.Record {
		var ok bool
		if data, ok = m.Data.(map[string]any); !ok && m.Data != nil {
			return nil, fmt.Errorf("expected a record, found %s", schemas.Describe(m.Data))
		}
	}
	row := make(map[string]any, len(columns))
	for i := range columns {
		c := &columns[i]
		v, err := c.Convert(data[c.Name])
		if err == nil {
			v, err = c.Canonical(v)
		}
		if err != nil {
			return nil, err
		}
		if v != nil {
			row[c.Name] = v
		}
	}
	return row, nil
}

// Canonical is a value that Convert made, or that a database gives of what was
// stored, as the Go value of which the canonical JSON is the same in both cases.
func (c *Column) Canonical(v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	switch c.Type {
	case Bool:
		if n, ok := v.(int64); ok && (n == 0 || n == 1) { // where there are no booleans
			return n == 1, nil
		}
		if _, ok := v.(bool); ok {
			return v, nil
		}
	case Int32, Int64:
		if _, ok := schemas.AsInt64(v); ok {
			return v, nil
		}
	case Float32, Float64:
		if _, ok := v.(string); ok { // NaN and the like
			return v, nil
		}
		f, ok := schemas.AsFloat64(v)
		if n, isNumber := v.(json.Number); isNumber {
			var err error
			f, err = n.Float64()
			ok = err == nil
		}
		if ok && c.Type == Float32 {
			return float32(f), nil
		}
		if ok {
			return f, nil
		}
	case Decimal:
		switch v := v.(type) {
		case string:
			return json.Number(v), nil
		case json.Number, int64, float64:
			return v, nil
		}
	case UUID:
		if text, ok := v.(string); ok {
			return strings.ToLower(strings.ReplaceAll(text, "-", "")), nil
		}
	case Bytes:
		if digits, ok := v.(string); ok {
			return hex.DecodeString(strings.TrimPrefix(digits, `\x`))
		}
		if _, ok := v.([]byte); ok {
			return v, nil
		}
	case Date:
		switch v := v.(type) {
		case time.Time:
			return v.Format(time.DateOnly), nil
		case string:
			return v, nil
		}
	case Timestamp, LocalTimestamp:
		switch v := v.(type) {
		case time.Time:
			return v.UTC(), nil
		case string:
			return parseTime(v, "2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05")
		}
	case TimeOfDay:
		switch v := v.(type) {
		case time.Duration:
			return v, nil
		case string:
			t, err := parseTime(v, time.TimeOnly)
			return t.Sub(time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)), err
		}
	case JSON:
		if text, ok := v.(string); ok {
			return schemas.ParseJSON([]byte(text))
		}
	case Text:
		if _, ok := v.(string); ok {
			return v, nil
		}
	}
	return nil, c.misfit(v)
}

// parseTime reads a time as one of several layouts has it.
func parseTime(text string, layouts ...string) (t time.Time, err error) {
	for _, layout := range layouts {
		if t, err = time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return t, err
}
