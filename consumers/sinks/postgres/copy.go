package postgres

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
)

// copyRows writes the rows by COPY in its binary form, which is written here
// and not by pgx's CopyFrom: the types are known, and looking up how to write
// each single value took half of the client's time.
//
// The format: https://www.postgresql.org/docs/current/sql-copy.html, "Binary
// Format". A value is its length, -1 for NULL, and what the type's send
// function makes of it.
func copyRows(ctx context.Context, pg *pgx.Conn, table, columns string, s sqlsink.Statement) error {
	r := &reader{types: pg.TypeMap(), rows: s.Rows, columns: s.Columns, names: s.Symbols, buf: []byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00")}
	for _, c := range s.Columns {
		r.forms = append(r.forms, formOf(c.Declared))
	}
	_, err := pg.PgConn().CopyFrom(ctx, r, "COPY "+table+" ("+columns+") FROM STDIN (FORMAT binary)")
	return err
}

// reader gives the rows as COPY wants them.
type reader struct {
	types   *pgtype.Map
	rows    []sqlsink.Row
	forms   []form // by column
	columns []sqlsink.Column
	names   [][]string // by column: symbols of enums
	buf     []byte     // written and not yet read, from at on
	at      int
	ended   bool
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	r.buf, r.at = append(r.buf[:0], r.buf[r.at:]...), 0
	for len(r.buf) < len(p) && len(r.rows) > 0 {
		if err := r.appendRow(&r.rows[0]); err != nil {
			return 0, err
		}
		r.rows = r.rows[1:]
	}
	if len(r.rows) == 0 && !r.ended {
		r.buf = append(r.buf, 0xff, 0xff)
		r.ended = true
	}
	n := copy(p, r.buf)
	r.at = n
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (r *reader) appendRow(row *sqlsink.Row) (err error) {
	r.buf = binary.BigEndian.AppendUint16(r.buf, uint16(len(r.forms)))
	if row.Values == nil {
		for i := range row.Cells {
			if err := r.appendCell(i, &row.Cells[i], row.Text); err != nil {
				return err
			}
		}
		return nil
	}
	for i, v := range row.Values {
		if err := r.appendField(i, v); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) appendField(column int, v any) (err error) {
	if v == nil {
		r.buf = append(r.buf, 0xff, 0xff, 0xff, 0xff)
		return nil
	}
	start := len(r.buf)
	if r.buf, err = r.appendValue(append(r.buf, 0, 0, 0, 0), r.forms[column], v); err != nil {
		return err
	}
	binary.BigEndian.PutUint32(r.buf[start:], uint32(len(r.buf)-start-4))
	return nil
}

// appendCell writes what appendField writes of the cell's value.
func (r *reader) appendCell(column int, c *schemas.Cell, text []byte) error {
	f := r.forms[column]
	if f == numeric || f == uuid {
		v, err := r.columns[column].ConvertCell(*c, r.names[column], text)
		if err != nil {
			return err
		}
		return r.appendField(column, v)
	}
	n := c.N
	switch c.Kind {
	case schemas.CellNull:
		r.buf = append(r.buf, 0xff, 0xff, 0xff, 0xff)
		return nil
	case schemas.CellBool:
		r.buf = append(r.buf, 0, 0, 0, 1, byte(n))
		return nil
	case schemas.CellText, schemas.CellBytes:
		r.appendText(f, c.Text(text))
		return nil
	case schemas.CellSymbol:
		r.appendText(f, []byte(r.names[column][n]))
		return nil
	case schemas.CellFloat:
		if f == float4 {
			r.buf = binary.BigEndian.AppendUint32(append(r.buf, 0, 0, 0, 4), math.Float32bits(float32(c.Float())))
			return nil
		}
	case schemas.CellDate:
		n -= epoch.Unix() / (24 * 60 * 60)
		f = int4
	case schemas.CellTime:
		n -= epoch.UnixMicro()
	}
	if f == int4 {
		r.buf = binary.BigEndian.AppendUint32(append(r.buf, 0, 0, 0, 4), uint32(n))
	} else {
		r.buf = binary.BigEndian.AppendUint64(append(r.buf, 0, 0, 0, 8), uint64(n))
	}
	return nil
}

func (r *reader) appendText(f form, text []byte) {
	size := len(text)
	if f == jsonb {
		size++
	}
	r.buf = binary.BigEndian.AppendUint32(r.buf, uint32(size))
	if f == jsonb {
		r.buf = append(r.buf, 1) // the version of the form
	}
	r.buf = append(r.buf, text...)
}

// form is how a column's type is written.
type form uint8

const (
	plain   form = iota // as the value's Go type is: text, json, bytea, boolean, times
	int4                // integer
	int8                // bigint
	float4              // real
	float8              // double precision
	numeric             // numeric
	jsonb
	uuid
	date
)

func formOf(declared string) form {
	base, _, _ := strings.Cut(declared, "(")
	return map[string]form{
		"integer": int4, "bigint": int8, "real": float4, "double precision": float8,
		"numeric": numeric, "jsonb": jsonb, "uuid": uuid, "date": date,
	}[base]
}

// epoch is where PostgreSQL counts its time from.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// appendValue writes a value, without its length. It knows the pairs of types
// that Fits allows.
func (r *reader) appendValue(dst []byte, f form, v any) ([]byte, error) {
	if f == numeric {
		var n pgtype.Numeric
		if err := n.Scan(fmt.Sprint(v)); err != nil {
			return dst, fmt.Errorf("write numeric: %w", err)
		}
		return r.types.Encode(pgtype.NumericOID, pgtype.BinaryFormatCode, n, dst)
	}
	switch v := v.(type) {
	case int32:
		return appendInt(dst, f, int64(v)), nil
	case int64:
		return appendInt(dst, f, v), nil
	case float32:
		return appendFloat(dst, f, float64(v)), nil
	case float64:
		return appendFloat(dst, f, v), nil
	case bool:
		if v {
			return append(dst, 1), nil
		}
		return append(dst, 0), nil
	case string:
		switch f {
		case uuid:
			return hex.AppendDecode(dst, []byte(strings.ReplaceAll(v, "-", "")))
		case jsonb:
			dst = append(dst, 1) // the version of the form
		}
		return append(dst, v...), nil
	case []byte:
		return append(dst, v...), nil
	case time.Time:
		if f == date {
			return appendInt(dst, int4, (v.Unix()-epoch.Unix())/(24*60*60)), nil
		}
		return appendInt(dst, int8, v.UnixMicro()-epoch.UnixMicro()), nil
	case time.Duration:
		return appendInt(dst, int8, v.Microseconds()), nil
	}
	return dst, fmt.Errorf("write value: no form for %T", v)
}

func appendInt(dst []byte, f form, n int64) []byte {
	if f == int4 {
		return binary.BigEndian.AppendUint32(dst, uint32(n))
	}
	return binary.BigEndian.AppendUint64(dst, uint64(n))
}

func appendFloat(dst []byte, f form, v float64) []byte {
	if f == float4 {
		return binary.BigEndian.AppendUint32(dst, math.Float32bits(float32(v)))
	}
	return binary.BigEndian.AppendUint64(dst, math.Float64bits(v))
}
