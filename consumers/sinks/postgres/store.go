package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"penstock/consumers/sinks/sqlsink"
)

func (d dialect) Store(ctx context.Context, conn *sql.Conn, s sqlsink.Statement) error {
	columns := make([]string, len(s.Columns))
	for i, c := range s.Columns {
		var err error
		if columns[i], err = d.Identifier(c.Name); err != nil {
			return err
		}
	}
	err := conn.Raw(func(c any) error {
		pg := c.(*stdlib.Conn).Conn()
		switch {
		case s.Delete:
			return remove(ctx, pg, columns[0], s)
		case len(s.Key) > 0:
			return merge(ctx, pg, columns, s)
		}
		return copyRows(ctx, pg, s.Table, strings.Join(columns, ", "), s)
	})
	if err != nil || s.Delete {
		return err
	}
	return d.unchanged(ctx, conn, s)
}

// unchanged sees that the table's columns are still of the types whose bytes COPY
// wrote, which the server takes for those of any type as long. From here to the end
// of the transaction they stay: it holds the table by what it wrote.
func (d dialect) unchanged(ctx context.Context, conn *sql.Conn, s sqlsink.Statement) error {
	declared, err := d.Columns(ctx, conn, s.Table)
	if err != nil {
		return err
	}
	for _, c := range s.Columns {
		if now := declared[d.Fold(c.Name)]; now != c.Declared {
			return fmt.Errorf("column %q of table %s became %s while it was written as %s", c.Name, s.Table, now, c.Declared)
		}
	}
	return nil
}

// remove deletes the rows of the keys, or marks them. A key that came as text is
// read by the server as the column's type.
func remove(ctx context.Context, pg *pgx.Conn, key string, s sqlsink.Statement) (err error) {
	texts, raw, times := make([]string, len(s.Rows)), make([][]byte, len(s.Rows)), make([]time.Time, len(s.Rows))
	for i, row := range s.Rows {
		switch v := row.Values[0].(type) {
		case string:
			texts[i], raw[i] = v, []byte(v)
		case []byte:
			raw[i] = v
		}
		if s.Mark != "" {
			times[i], _ = row.Values[1].(time.Time)
		}
	}
	var keys any = texts
	kind, cast := "text[]", "::"+s.Columns[0].Declared
	if s.Columns[0].Declared == "bytea" {
		keys, kind, cast = raw, "bytea[]", ""
	}
	if s.Mark == "" {
		_, err = pg.Exec(ctx, "DELETE FROM "+s.Table+" WHERE "+key+" IN (SELECT k"+cast+" FROM unnest($1::"+kind+") AS k)", keys)
		return err
	}
	mark, err := dialect{}.Identifier(s.Mark)
	if err != nil {
		return err
	}
	_, err = pg.Exec(ctx, "UPDATE "+s.Table+" SET "+mark+" = d.at FROM unnest($1::"+kind+", $2::timestamptz[]) AS d (k, at) WHERE "+
		key+" = d.k"+cast+" AND "+mark+" IS NULL", keys, times)
	return err
}

// merge copies the rows to a temporary table, which the session keeps for the
// next batch, and from there to the target.
func merge(ctx context.Context, pg *pgx.Conn, columns []string, s sqlsink.Statement) error {
	var key, set []string
	id := fnv.New64a()
	for i, c := range s.Columns {
		if slices.Contains(s.Key, c.Name) {
			key = append(key, columns[i])
		} else {
			set = append(set, columns[i]+" = excluded."+columns[i])
		}
		fmt.Fprintf(id, "%s %s,", columns[i], c.Declared)
	}
	staging := fmt.Sprintf(`"penstock_staging_%016x"`, id.Sum64())
	list := strings.Join(columns, ", ")
	// An earlier statement of this transaction may have left rows.
	_, err := pg.Exec(ctx, "CREATE TEMPORARY TABLE IF NOT EXISTS "+staging+" ON COMMIT DELETE ROWS AS SELECT "+list+" FROM "+s.Table+" WITH NO DATA; DELETE FROM "+staging)
	if err != nil {
		return err
	}
	if err := copyRows(ctx, pg, staging, list, s); err != nil {
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

// unquote takes an identifier apart into its names, in which Tables allows no
// dot.
func unquote(identifier string) []string {
	parts := strings.Split(identifier, ".")
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(p[1:len(p)-1], `""`, `"`)
	}
	return parts
}
