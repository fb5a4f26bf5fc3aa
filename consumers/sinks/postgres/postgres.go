// Package postgres writes batches to a PostgreSQL table, each record exactly
// once.
//
// In Append, rows go into the table by COPY; in Upsert, by COPY into a
// temporary table and from there by INSERT … ON CONFLICT DO UPDATE, so the key
// columns need a unique index, which a table that this package makes has.
//
// It makes integers bigint, so that a later schema may widen an int to a long,
// unsigned 64-bit integers numeric(20,0), floats real and double precision,
// decimals numeric, strings and enums text, bytes bytea, timestamps timestamp
// with time zone, or without for local ones, and what is JSON jsonb.
//
// PostgreSQL's text holds no NUL character, and jsonb none in any string: a
// record with one is refused.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"penstock/consumers/sinks/sqlsink"
)

// ErrUnreachable marks a server that cannot be reached.
var ErrUnreachable = errors.New("database cannot be reached")

// maxConnections is how many batches are written at once; others wait.
const maxConnections = 8

// Open connects to the database at a postgres:// URL, in which everything may
// stand that libpq knows, and returns a sink for a table in it. Config.Table is
// a name, or a schema and a name with a dot between. Close ends it.
func Open(ctx context.Context, address string, c sqlsink.Config) (*sqlsink.Sink, error) {
	config, err := parse(address)
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL: %w", err)
	}
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(maxConnections)
	db.SetMaxIdleConns(maxConnections)
	db.SetConnMaxIdleTime(time.Minute)
	s, err := sqlsink.New(ctx, db, dialect{}, c)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("PostgreSQL at %s: %w", where(config), err), db.Close())
	}
	return s, nil
}

func where(c *pgx.ConnConfig) string { return fmt.Sprintf("%s:%d/%s", c.Host, c.Port, c.Database) }

// parse reads the address. Its errors quote nothing of it in which a password
// could hide.
func parse(address string) (*pgx.ConnConfig, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, errors.New("expected postgres://USER:PASSWORD@HOST:PORT/DATABASE; a user or password with other than letters and digits has to be percent-encoded")
	}
	config, err := pgx.ParseConfig(address)
	if err == nil {
		return config, nil
	}
	reason := err
	if cause := errors.Unwrap(err); cause != nil {
		reason = cause
	}
	text := reason.Error()
	password, _ := u.User.Password()
	for _, secret := range []string{address, password, u.Query().Get("password"), u.Query().Get("sslpassword")} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "xxxxx")
		}
	}
	return nil, fmt.Errorf("address: %s", text)
}

// connect opens one connection.
func connect(ctx context.Context, address string) (*pgx.Conn, error) {
	config, err := parse(address)
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL: %w", err)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL at %s: %w: %w", where(config), ErrUnreachable, err)
	}
	return conn, nil
}

type dialect struct{}

var _ sqlsink.CellDialect = dialect{}

// TakesCells implements sqlsink.CellDialect.
func (dialect) TakesCells() {}

// Begin limits how long a process that was stopped, not killed, keeps the next
// owner of its partition waiting.
func (dialect) Begin(careful bool) string {
	begin := "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '60s'"
	if careful {
		begin += "; SET CONSTRAINTS ALL IMMEDIATE"
	}
	return begin
}

// Lock takes an advisory lock: its number is "penstock" in ASCII.
func (dialect) Lock() string      { return "SELECT pg_advisory_xact_lock(x'70656e73746f636b'::bigint)" }
func (dialect) ForUpdate() string { return " FOR UPDATE" }

func (d dialect) Tables(name string) (target, positions string, err error) {
	schema, table, qualified := strings.Cut(name, ".")
	if !qualified {
		target, err = d.Identifier(name)
		return target, `"penstock_positions"`, err
	}
	if strings.Contains(table, ".") {
		return "", "", fmt.Errorf("table %q: expected a name, or a schema and a name with one dot between", name)
	}
	schema, err = d.Identifier(schema)
	if err != nil {
		return "", "", err
	}
	table, err = d.Identifier(table)
	return schema + "." + table, schema + `."penstock_positions"`, err
}

// maxIdentifier is how many bytes of a name PostgreSQL keeps.
const maxIdentifier = 63

func (dialect) Identifier(name string) (string, error) {
	if name == "" || strings.ContainsRune(name, 0) || len(name) > maxIdentifier {
		return "", fmt.Errorf("name %q: expected 1 to %d bytes, and no NUL", name, maxIdentifier)
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`, nil
}

func (dialect) Fold(name string) string { return name }

func (dialect) TypeName(c sqlsink.Column) string {
	switch c.Type {
	case sqlsink.Bool:
		return "boolean"
	case sqlsink.Int32, sqlsink.Int64:
		return "bigint"
	case sqlsink.Float32:
		return "real"
	case sqlsink.Float64:
		return "double precision"
	case sqlsink.Decimal:
		if c.Precision > 0 {
			return fmt.Sprintf("numeric(%d,%d)", c.Precision, c.Scale)
		}
		return "numeric"
	case sqlsink.Text:
		return "text"
	case sqlsink.UUID:
		return "uuid"
	case sqlsink.Bytes:
		return "bytea"
	case sqlsink.Date:
		return "date"
	case sqlsink.TimeOfDay:
		return "time without time zone"
	case sqlsink.Timestamp:
		return "timestamp with time zone"
	case sqlsink.LocalTimestamp:
		return "timestamp without time zone"
	}
	return "jsonb"
}

func (d dialect) Fits(c sqlsink.Column, declared string) bool {
	if declared == d.TypeName(c) {
		return true
	}
	text := declared == "text" || strings.HasPrefix(declared, "character varying")
	switch c.Type {
	case sqlsink.Int32:
		return declared == "integer" || holds(declared, 10, 0)
	case sqlsink.Int64:
		return holds(declared, 19, 0)
	case sqlsink.Float32:
		return declared == "double precision"
	case sqlsink.Decimal:
		if c.Precision == 0 {
			return text
		}
		return text || holds(declared, c.Precision-c.Scale, c.Scale)
	case sqlsink.Text, sqlsink.UUID:
		return text
	case sqlsink.JSON:
		return text || declared == "json"
	}
	return false
}

// holds says whether a type is a numeric with so many digits before and after
// the point.
func holds(declared string, before, after int) bool {
	var precision, scale int
	if declared == "numeric" {
		return true
	}
	n, _ := fmt.Sscanf(declared, "numeric(%d,%d)", &precision, &scale)
	return n == 2 && precision-scale >= before && scale >= after
}

// Columns asks the catalog's tables: to_regclass may answer from a cache that
// has not heard of a table made while this transaction waited for Lock.
func (dialect) Columns(ctx context.Context, conn *sql.Conn, table string) (map[string]string, error) {
	rows, err := conn.QueryContext(ctx, `SELECT a.attname::text, format_type(a.atttypid, a.atttypmod)
	FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE `+named+` AND a.attnum > 0 AND NOT a.attisdropped`, parameters(table)...)
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
		columns[name] = declared
	}
	return columns, rows.Err()
}

func (dialect) Classify(err error) (sqlsink.Class, error) {
	var connect *pgconn.ConnectError
	unreachable := errors.As(err, &connect)
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		if unreachable {
			err = fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		return sqlsink.Passing, err
	}
	switch {
	case strings.HasPrefix(e.Code, "22"), // data exception
		strings.HasPrefix(e.Code, "23"), // constraint violation
		e.Code == "21000",               // two rows of one key, which go one by one
		e.Code == "44000",               // WITH CHECK OPTION
		e.Code == "54000",               // row or index entry too large
		e.Code == "P0001":               // raised by a trigger
		return sqlsink.Refused, err
	case e.Code == "53100":
		return sqlsink.Passing, fmt.Errorf("the disk of the server is full: %w", err)
	case e.Code == "42P10":
		return sqlsink.Broken, fmt.Errorf("the key columns of the table need a unique index: %w", err)
	case e.Code == "42P01", e.Code == "42P07", e.Code == "42701", e.Code == "42703":
		// A table or column that came or went just now.
		return sqlsink.Passing, err
	case strings.HasPrefix(e.Code, "42"), // no right, or not what a table is
		strings.HasPrefix(e.Code, "28"),      // no login
		e.Code == "3D000", e.Code == "3F000": // no such database, schema
		return sqlsink.Broken, err
	case slices.Contains(passing, e.Code[:min(len(e.Code), 2)]):
		return sqlsink.Passing, err
	}
	return sqlsink.Unknown, err // a trigger's own codes, say, or what is internal to an extension
}

// passing are the classes of codes that say of the server, not of what it was asked:
// connections, transactions that are read-only or were ended, conflicts with others,
// resources, what is in use, operators, the system below, old snapshots.
var passing = []string{"08", "25", "26", "40", "53", "55", "57", "58", "72"}
