package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"penstock/consumers"
	"penstock/consumers/sinks/sqlsink"
)

var _ sqlsink.Partitioner = dialect{}

// PartitionedBy implements sqlsink.Partitioner.
func (d dialect) PartitionedBy(column string) (string, error) {
	name, err := d.Identifier(column)
	return " PARTITION BY RANGE (" + name + ")", err
}

// named finds the table that the parameters $1, its name, and $2, its schema or
// nothing, name.
const named = `c.relname = $1 AND CASE WHEN $2 = '' THEN pg_table_is_visible(c.oid) ELSE n.nspname = $2 END`

func parameters(table string) []any {
	names := unquote(table)
	if len(names) == 1 {
		return []any{names[0], ""}
	}
	return []any{names[1], names[0]}
}

// Partitions implements sqlsink.Partitioner.
func (d dialect) Partitions(ctx context.Context, conn *sql.Conn, table string, by sqlsink.Column) (*sqlsink.Partitions, error) {
	p := &sqlsink.Partitions{}
	var divided string // the columns, "" of a table that is not partitioned by ranges
	err := conn.QueryRowContext(ctx, `SELECT pg_has_role(c.relowner, 'USAGE'), CASE WHEN pg_get_partkeydef(c.oid) LIKE 'RANGE (%' THEN
		coalesce((SELECT string_agg(a.attname, ', ') FROM pg_partitioned_table t JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (t.partattrs::int2[]) WHERE t.partrelid = c.oid), '') ELSE '' END
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'f') AND `+named, parameters(table)...).Scan(&p.MayAdd, &divided)
	if err != nil {
		return nil, err
	}
	if divided != by.Name {
		return nil, fmt.Errorf("table %s: expected one that is partitioned by ranges of %q, found one that is not; write to another table, or leave the partitions out: %w", table, by.Name, consumers.ErrStop)
	}
	// A bound is written as the session writes times, and so it is read.
	bound := func(which string) string {
		return `(extract(epoch FROM CASE WHEN ` + which + ` NOT IN ('MINVALUE', 'MAXVALUE', '''-infinity''', '''infinity''') THEN trim(` + which + `, '''')::` + by.Declared + ` END) * 1000000)::bigint`
	}
	rows, err := conn.QueryContext(ctx, `SELECT oid, coalesce(`+bound("least")+`, -9223372036854775808), coalesce(`+bound("most")+`, 9223372036854775807)
		FROM (SELECT q.oid, substring(q.bound from '^FOR VALUES FROM \((.*)\) TO ') AS least, substring(q.bound from ' TO \((.*)\)$') AS most
			FROM (SELECT part.oid, pg_get_expr(part.relpartbound, part.oid) AS bound
				FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_inherits i ON i.inhparent = c.oid JOIN pg_class part ON part.oid = i.inhrelid
				WHERE `+named+`) AS q WHERE q.bound <> 'DEFAULT') AS r ORDER BY 2`, parameters(table)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var one sqlsink.Partition
		if err := rows.Scan(&one.ID, &one.From, &one.To); err != nil {
			return nil, err
		}
		p.List = append(p.List, one)
	}
	return p, rows.Err()
}

// Partition implements sqlsink.Partitioner. ATTACH, unlike CREATE TABLE … PARTITION
// OF, lets others read and write the table; it brings the indexes.
func (d dialect) Partition(table string, by sqlsink.Column, name string, r sqlsink.Range) (string, error) {
	parts := unquote(table)
	part := parts[len(parts)-1] + "_p" + name
	if len(part) > maxIdentifier {
		return "", fmt.Errorf("partition %q: expected a name of at most %d bytes; give the table a shorter one: %w", part, maxIdentifier, consumers.ErrStop)
	}
	quoted, err := d.Identifier(part)
	if err != nil {
		return "", err
	}
	schema, _, qualified := strings.Cut(table, ".")
	if qualified {
		quoted = schema + "." + quoted
	}
	return "CREATE TABLE " + quoted + " (LIKE " + table + " INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE);\n" +
		"ALTER TABLE " + table + " ATTACH PARTITION " + quoted + " FOR VALUES FROM (" + edge(by, r.From) + ") TO (" + edge(by, r.To) + ")", nil
}

// edge is a bound as the column's type has it, whatever the session's zone.
func edge(by sqlsink.Column, at int64) string {
	layout := "2006-01-02 15:04:05+00"
	switch {
	case by.Declared == "date", by.Declared == "" && by.Type == sqlsink.Date:
		layout = time.DateOnly
	case strings.HasSuffix(by.Declared, "without time zone"), by.Declared == "" && by.Type == sqlsink.LocalTimestamp:
		layout = time.DateTime
	}
	if at == math.MaxInt64 {
		return "MAXVALUE"
	}
	return quote(time.UnixMicro(at).UTC().Format(layout))
}

// MakePartition implements sqlsink.Partitioner.
func (d dialect) MakePartition(ctx context.Context, conn *sql.Conn, table string, by sqlsink.Column, name string, r sqlsink.Range) error {
	statements, err := d.Partition(table, by, name, r)
	if err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, statements)
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return err
	}
	hint := map[string]string{
		"42P07": "a table of that name is no partition of it; attach it, or give it another name",
		"23514": "the default partition holds rows that belong there; move them out of it",
		"42P17": "it has partitions of another length; attach what is lacking by hand, or divide the table as they do",
		"42501": "this user may not make it; make it for them, or grant the right",
	}[e.Code]
	if hint == "" {
		return err
	}
	return fmt.Errorf("make partition %q of table %s: %s: %w: %w", name, table, hint, consumers.ErrStop, err)
}

// Attached implements sqlsink.Partitioner.
func (dialect) Attached(ctx context.Context, conn *sql.Conn, table string, ids []uint32) (bool, error) {
	list := make([]int64, len(ids))
	for i, id := range ids {
		list[i] = int64(id)
	}
	var n int
	err := conn.QueryRowContext(ctx, `SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_inherits i ON i.inhparent = c.oid
		WHERE `+named+` AND i.inhrelid = ANY ($3::bigint[])`, append(parameters(table), list)...).Scan(&n)
	return n == len(ids), err
}
