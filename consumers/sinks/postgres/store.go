package postgres

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"

	"penstock/consumers/sinks/sqlsink"
)

func (d dialect) Store(ctx context.Context, conn *sql.Conn, s sqlsink.Statement) error {
	return conn.Raw(func(c any) error {
		pg := c.(*stdlib.Conn).Conn()
		switch {
		case s.Delete:
			return d.remove(ctx, pg, s)
		case len(s.Key) == 0:
			return copyRows(ctx, pg, s.Table, s)
		}
		return d.merge(ctx, pg, s)
	})
}

// remove deletes the rows of the keys. A key that came as text is read by the
// server as the column's type.
func (d dialect) remove(ctx context.Context, pg *pgx.Conn, s sqlsink.Statement) error {
	key := s.Columns[0]
	name, err := d.Identifier(key.Name)
	if err != nil {
		return err
	}
	texts, raw := make([]string, len(s.Rows)), make([][]byte, len(s.Rows))
	for i, row := range s.Rows {
		switch v := row[0].(type) {
		case string:
			texts[i], raw[i] = v, []byte(v)
		case []byte:
			raw[i] = v
		}
	}
	if key.Declared == "bytea" {
		_, err = pg.Exec(ctx, "DELETE FROM "+s.Table+" WHERE "+name+" = ANY($1::bytea[])", raw)
	} else {
		_, err = pg.Exec(ctx, "DELETE FROM "+s.Table+" WHERE "+name+
			" IN (SELECT k::"+key.Declared+" FROM unnest($1::text[]) AS k)", texts)
	}
	return err
}

// merge copies the rows to a temporary table, which the session keeps for the
// next batch, and from there to the target.
func (d dialect) merge(ctx context.Context, pg *pgx.Conn, s sqlsink.Statement) error {
	var columns, key, set []string
	id := fnv.New64a()
	for _, c := range s.Columns {
		name, err := d.Identifier(c.Name)
		if err != nil {
			return err
		}
		columns = append(columns, name)
		if slices.Contains(s.Key, c.Name) {
			key = append(key, name)
		} else {
			set = append(set, name+" = excluded."+name)
		}
		fmt.Fprintf(id, "%s %s,", name, c.Declared)
	}
	staging := fmt.Sprintf(`"penstock_staging_%016x"`, id.Sum64())
	list := strings.Join(columns, ", ")
	// An earlier statement of this transaction may have left rows.
	_, err := pg.Exec(ctx, "CREATE TEMPORARY TABLE IF NOT EXISTS "+staging+" ON COMMIT DELETE ROWS AS SELECT "+list+" FROM "+s.Table+" WITH NO DATA; TRUNCATE "+staging)
	if err != nil {
		return err
	}
	if err := copyRows(ctx, pg, staging, s); err != nil {
		return err
	}
	action := "NOTHING"
	if len(set) > 0 {
		action = "UPDATE SET " + strings.Join(set, ", ")
	}
	_, err = pg.Exec(ctx, "INSERT INTO "+s.Table+" ("+list+") SELECT "+list+" FROM "+staging+
		" ON CONFLICT ("+strings.Join(key, ", ")+") DO "+action)
	return err
}

// copyRows writes the rows by COPY in its binary form. The table is an
// identifier, as are those that Tables makes.
func copyRows(ctx context.Context, pg *pgx.Conn, table string, s sqlsink.Statement) error {
	names := make([]string, len(s.Columns))
	for i, c := range s.Columns {
		names[i] = c.Name
	}
	_, err := pg.CopyFrom(ctx, unquote(table), names, &source{statement: s, next: -1, values: make([]any, len(s.Columns))})
	return err
}

// unquote takes an identifier apart into its names, in which Tables allows no
// dot.
func unquote(identifier string) pgx.Identifier {
	var parts pgx.Identifier
	for _, p := range strings.Split(identifier, ".") {
		p = strings.TrimPrefix(strings.TrimSuffix(p, `"`), `"`)
		parts = append(parts, strings.ReplaceAll(p, `""`, `"`))
	}
	return parts
}

// source gives rows to CopyFrom.
type source struct {
	statement sqlsink.Statement
	next      int
	values    []any // of the row that is being written
}

func (s *source) Next() bool {
	s.next++
	return s.next < len(s.statement.Rows)
}

func (s *source) Err() error { return nil }

func (s *source) Values() (_ []any, err error) {
	row := s.statement.Rows[s.next]
	for i := range s.statement.Columns {
		if s.values[i], err = bind(&s.statement.Columns[i], row[i]); err != nil {
			return nil, err
		}
	}
	return s.values, nil
}

// bind turns a value into one that pgx writes as the column's type.
func bind(c *sqlsink.Column, v any) (any, error) {
	switch c.Type {
	case sqlsink.Decimal:
		text, ok := v.(string)
		if !ok || !strings.HasPrefix(c.Declared, "numeric") {
			return v, nil
		}
		var n pgtype.Numeric
		if err := n.Scan(text); err != nil {
			return nil, fmt.Errorf("column %q: %w", c.Name, err)
		}
		return n, nil
	case sqlsink.UUID:
		text, ok := v.(string)
		if !ok || c.Declared != "uuid" {
			return v, nil
		}
		var id pgtype.UUID
		if _, err := hex.Decode(id.Bytes[:], []byte(strings.ReplaceAll(text, "-", ""))); err != nil {
			return nil, fmt.Errorf("column %q: %w", c.Name, err)
		}
		id.Valid = true
		return id, nil
	case sqlsink.TimeOfDay:
		if d, ok := v.(time.Duration); ok {
			return pgtype.Time{Microseconds: d.Microseconds(), Valid: true}, nil
		}
	}
	return v, nil
}
