// Package sqlite writes batches to a table in an SQLite file, each record
// exactly once.
//
// The file is in WAL mode with synchronous FULL: what Write has returned nil
// for is on disk. One connection writes; others may read meanwhile.
//
// SQLite has five kinds of values. Integers and booleans are INTEGER (a boolean
// is 0 or 1, in a column declared BOOLEAN), floats REAL, bytes BLOB, and all
// else TEXT: timestamps as 2006-01-02T15:04:05.000000Z, which sorts by time and
// which the date functions take, dates as 2006-01-02, times of day as
// 15:04:05.000000, decimals with all their digits (cast them to compute with
// them), and JSON, for ->> and json_each. SQLite has no NaN: it becomes NULL.
package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"penstock/consumers/sinks/sqlsink"
)

// busyTimeout is how long a transaction waits for another process that is
// writing to the file.
const busyTimeout = 10 * time.Second

// Open opens the file, which is made if it is not there, and returns a sink
// for a table in it. Close ends it.
func Open(ctx context.Context, file string, c sqlsink.Config) (*sqlsink.Sink, error) {
	if file == "" {
		return nil, errors.New("open SQLite: it needs the name of a file")
	}
	connector, err := sqlite.NewConnector(dsn(file))
	if err != nil {
		return nil, fmt.Errorf("open SQLite file %q: %w", file, err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	s, err := sqlsink.New(ctx, db, dialect{}, c)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("SQLite file %q: %w", file, err), db.Close())
	}
	return s, nil
}

func dsn(file string) string {
	return fmt.Sprintf("file:%s?_pragma=busy_timeout(%d)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(ON)",
		url.PathEscape(file), busyTimeout.Milliseconds())
}

type dialect struct{}

func (dialect) Begin(bool) string { return "BEGIN IMMEDIATE" }
func (dialect) Lock() string      { return "" }
func (dialect) ForUpdate() string { return "" }

func (d dialect) Tables(name string) (target, positions string, err error) {
	target, err = d.Identifier(name)
	return target, `"penstock_positions"`, err
}

func (dialect) Identifier(name string) (string, error) {
	if name == "" || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("name %q: expected at least one character, and none that is NUL", name)
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`, nil
}

// Fold maps ASCII letters to lower case, as SQLite does.
func (dialect) Fold(name string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, name)
}

func (dialect) TypeName(c sqlsink.Column) string {
	switch c.Type {
	case sqlsink.Bool:
		return "BOOLEAN"
	case sqlsink.Int32, sqlsink.Int64:
		return "INTEGER"
	case sqlsink.Float32, sqlsink.Float64:
		return "REAL"
	case sqlsink.Bytes:
		return "BLOB"
	}
	return "TEXT"
}

// Fits goes by the column's affinity (https://sqlite.org/datatype3.html, 3.1):
// TEXT in a numeric column would become a number where it looks like one, and a
// number in a TEXT column text.
func (d dialect) Fits(c sqlsink.Column, declared string) bool {
	want, have := affinity(d.TypeName(c)), affinity(declared)
	switch {
	case have == want || have == "BLOB": // BLOB converts nothing
		return true
	case want == "BLOB": // blobs are never converted
		return true
	case want == "NUMERIC": // booleans
		return have == "INTEGER"
	case want == "INTEGER":
		return have == "NUMERIC"
	}
	return false
}

func affinity(declared string) string {
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(strings.ToUpper(declared), p) })
	}
	switch {
	case has("INT"):
		return "INTEGER"
	case has("CHAR", "CLOB", "TEXT"):
		return "TEXT"
	case declared == "" || has("BLOB"):
		return "BLOB"
	case has("REAL", "FLOA", "DOUB"):
		return "REAL"
	}
	return "NUMERIC"
}

func (d dialect) Columns(ctx context.Context, conn *sql.Conn, table string) (map[string]string, error) {
	name := strings.ReplaceAll(table[1:len(table)-1], `""`, `"`)
	rows, err := conn.QueryContext(ctx, "SELECT name, type FROM pragma_table_info($1)", name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns := map[string]string{}
	for rows.Next() {
		var name, declared string
		if err := rows.Scan(&name, &declared); err != nil {
			return nil, err
		}
		columns[d.Fold(name)] = declared
	}
	return columns, rows.Err()
}

// rowsAtOnce is how many rows one INSERT takes; more gained nothing when it was
// measured. SQLite allows maxParameters in a statement.
const (
	rowsAtOnce    = 50
	maxParameters = 32766
)

// Store works on the driver's own connection: database/sql would look at each
// value by reflection.
func (d dialect) Store(ctx context.Context, conn *sql.Conn, s sqlsink.Statement) error {
	var columns []string
	for _, c := range s.Columns {
		name, err := d.Identifier(c.Name)
		if err != nil {
			return err
		}
		columns = append(columns, name)
	}
	build := func(rows int) string { return insert(s.Table, columns, d.conflict(s), rows) }
	atOnce := max(1, min(rowsAtOnce, maxParameters/len(columns)))
	if s.Delete {
		build = func(int) string {
			row := " WHERE " + columns[0] + " IN (?1, CAST(?1 AS BLOB))"
			if s.Mark != "" {
				return "UPDATE " + s.Table + " SET " + columns[1] + " = ?2" + row + " AND " + columns[1] + " IS NULL"
			}
			return "DELETE FROM " + s.Table + row
		}
		atOnce = 1
	}
	return conn.Raw(func(c any) error {
		return store(ctx, c.(driver.ConnPrepareContext), s, build, atOnce)
	})
}

// store carries out rows, atOnce in each run of the statement that build makes
// for so many.
func store(ctx context.Context, conn driver.ConnPrepareContext, s sqlsink.Statement, build func(rows int) string, atOnce int) error {
	whole := len(s.Rows) / atOnce * atOnce
	if err := run(ctx, conn, s.Columns, s.Rows[:whole], build, atOnce); err != nil {
		return err
	}
	return run(ctx, conn, s.Columns, s.Rows[whole:], build, len(s.Rows)-whole)
}

func run(ctx context.Context, conn driver.ConnPrepareContext, columns []sqlsink.Column, rows []sqlsink.Row, build func(rows int) string, atOnce int) error {
	if len(rows) == 0 {
		return nil
	}
	stmt, err := conn.PrepareContext(ctx, build(atOnce))
	if err != nil {
		return err
	}
	args := make([]driver.NamedValue, atOnce*len(columns))
	for err == nil && len(rows) > 0 {
		i := 0
		for _, row := range rows[:atOnce] {
			for c, v := range row.Values {
				args[i] = driver.NamedValue{Ordinal: i + 1, Value: bind(&columns[c], v)}
				i++
			}
		}
		_, err = stmt.(driver.StmtExecContext).ExecContext(ctx, args)
		rows = rows[atOnce:]
	}
	return cmp.Or(err, stmt.Close())
}

func insert(table string, columns []string, conflict string, rows int) string {
	row := "(" + strings.Repeat("?, ", len(columns)-1) + "?)"
	return "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") VALUES " +
		strings.Repeat(row+", ", rows-1) + row + conflict
}

// conflict is the clause that turns an INSERT into an upsert.
func (d dialect) conflict(s sqlsink.Statement) string {
	if len(s.Key) == 0 {
		return ""
	}
	var key, set []string
	for _, c := range s.Columns {
		name, _ := d.Identifier(c.Name) // accepted by Store
		if slices.Contains(s.Key, c.Name) {
			key = append(key, name)
		} else {
			set = append(set, name+" = excluded."+name)
		}
	}
	clause := " ON CONFLICT (" + strings.Join(key, ", ") + ") DO "
	if len(set) == 0 {
		return clause + "NOTHING"
	}
	return clause + "UPDATE SET " + strings.Join(set, ", ")
}

// bind turns a value into one of those that the driver takes.
func bind(c *sqlsink.Column, v any) any {
	switch v := v.(type) {
	case int32:
		return int64(v)
	case float32:
		return float64(v)
	case []byte:
		if v == nil {
			return nil
		}
	case time.Time:
		switch c.Type {
		case sqlsink.Date:
			return v.Format(time.DateOnly)
		case sqlsink.Timestamp:
			return v.Format("2006-01-02T15:04:05.000000Z")
		}
		return v.Format("2006-01-02T15:04:05.000000")
	case time.Duration:
		return time.Time{}.Add(v).Format("15:04:05.000000")
	}
	return v
}

func (dialect) Classify(err error) (sqlsink.Class, error) {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return sqlsink.Passing, err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH:
		return sqlsink.Refused, err
	case sqlite3.SQLITE_FULL:
		return sqlsink.Passing, fmt.Errorf("the disk is full: %w", err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return sqlsink.Passing, fmt.Errorf("another process has had the file locked for %v: %w", busyTimeout, err)
	case sqlite3.SQLITE_READONLY:
		return sqlsink.Broken, fmt.Errorf("the file or its folder is read-only: %w", err)
	case sqlite3.SQLITE_CANTOPEN:
		return sqlsink.Broken, fmt.Errorf("the file cannot be opened; do its folder and the right to write there exist? %w", err)
	case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return sqlsink.Broken, fmt.Errorf("the file is damaged or no SQLite database: %w", err)
	case sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH:
		return sqlsink.Broken, err
	case sqlite3.SQLITE_ERROR:
		if strings.Contains(e.Error(), "ON CONFLICT clause does not match") {
			return sqlsink.Broken, fmt.Errorf("the key columns of the table need a unique index: %w", err)
		}
	}
	return sqlsink.Passing, err
}
