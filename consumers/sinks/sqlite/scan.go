package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"

	"modernc.org/sqlite"

	"penstock/consumers/sinks/sqlsink"
)

// ReadTable reads the rows of a table in the file, which it does not change: of each the
// canonical values of columns, nil where one is NULL or the table has none of the
// name. values may not be kept. An error of row ends it.
func ReadTable(ctx context.Context, file, table string, columns []sqlsink.Column, row func(values []any) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("SQLite file %q: read table %q: %w", file, table, err)
		}
	}()
	if _, err := os.Stat(file); err != nil { // else it would be made
		return err
	}
	connector, err := sqlite.NewConnector(dsn(file) + "&_pragma=query_only(1)")
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer func() { err = errors.Join(err, db.Close()) }()
	target, names, err := sqlsink.Scanned(ctx, db, dialect{}, table, columns)
	if err != nil {
		return err
	}
	for i, name := range names {
		if names[i] = name; name == "" {
			names[i] = "NULL"
		}
	}
	rows, err := db.QueryContext(ctx, "SELECT "+strings.Join(names, ", ")+" FROM "+target)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		for i, v := range values {
			if values[i], err = columns[i].Canonical(v); err != nil {
				return err
			}
		}
		if err := row(values); err != nil {
			return err
		}
	}
	return rows.Err()
}
