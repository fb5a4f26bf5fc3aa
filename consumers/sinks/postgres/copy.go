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
)

// copyRows writes the rows by COPY in its binary form, which is written here
// and not by pgx's CopyFrom: the types are known, and looking up how to write
// each single value took half of the client's time.
//
// The format: https://www.postgresql.org/docs/current/sql-copy.html, "Binary
// Format". A value is its length, -1 for NULL, and what the type's send
// function makes of it.
func copyRows(ctx context.Context, pg *pgx.Conn, table, columns string, s sqlsink.Statement) error {
	r := &reader{types: pg.TypeMap(), rows: s.Rows, buf: []byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00")}
	for _, c := range s.Columns {
		r.forms = append(r.forms, formOf(c.Declared))
	}
	_, err := pg.PgConn().CopyFrom(ctx, r, "COPY "+table+" ("+columns+") FROM STDIN (FORMAT binary)")
	return err
}

// reader gives the rows as COPY wants them.
type reader struct {
	types *pgtype.Map
	rows  [][]any
	forms []form // by column
	buf   []byte // written and not yet read, from at on
	at    int
	ended bool
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	r.buf, r.at = append(r.buf[:0], r.buf[r.at:]...), 0
	for len(r.buf) < len(p) && len(r.rows) > 0 {
		r.buf = binary.BigEndian.AppendUint16(r.buf, uint16(len(r.forms)))
		for i, v := range r.rows[0] {
			if v == nil {
				r.buf = append(r.buf, 0xff, 0xff, 0xff, 0xff)
				continue
			}
			start := len(r.buf)
			var err error
			if r.buf, err = r.appendValue(append(r.buf, 0, 0, 0, 0), r.forms[i], v); err != nil {
				return 0, err
			}
			binary.BigEndian.PutUint32(r.buf[start:], uint32(len(r.buf)-start-4))
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
