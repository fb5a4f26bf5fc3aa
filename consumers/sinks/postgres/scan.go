package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/stdlib"

	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
)

// ReadTable reads the rows of a table of the database: of each the canonical values of
// columns, nil where one is NULL or the table has none of the name. values may not
// be kept. An error of row ends it.
func ReadTable(ctx context.Context, address, table string, columns []sqlsink.Column, row func(values []any) error) (err error) {
	config, err := parse(address)
	if err != nil {
		return fmt.Errorf("open PostgreSQL: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("PostgreSQL at %s: read table %q: %w", where(config), table, err)
		}
	}()
	config.RuntimeParams["timezone"] = "UTC"
	config.RuntimeParams["extra_float_digits"] = "1" // floats that read back as themselves
	db := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, db.Close()) }()
	target, names, err := sqlsink.Scanned(ctx, db, dialect{}, table, columns)
	if err != nil {
		return err
	}
	var selected []string
	for i, name := range names {
		switch {
		case name == "":
		case columns[i].Type == sqlsink.JSON: // to tell a text from one that is JSON
			selected = append(selected, name+"::text AS "+name)
		default:
			selected = append(selected, name)
		}
	}
	// As JSON each type has one text, whatever a column is declared as.
	rows, err := db.QueryContext(ctx, "SELECT row_to_json(t.*)::text FROM (SELECT "+strings.Join(selected, ", ")+" FROM "+target+") AS t")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	values := make([]any, len(columns))
	var text []byte
	for rows.Next() {
		if err := rows.Scan(&text); err != nil {
			return err
		}
		v, err := schemas.ParseJSON(text)
		if err != nil {
			return err
		}
		object, _ := v.(map[string]any)
		for i := range columns {
			if values[i], err = columns[i].Canonical(object[columns[i].Name]); err != nil {
				return err
			}
		}
		if err := row(values); err != nil {
			return err
		}
	}
	return rows.Err()
}
