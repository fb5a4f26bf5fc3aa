package outbox

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// slots is how many parts the rows of a table fall into, by topic and key. The
// tables hold this number: see table.sql.
const slots = 16

//go:embed table.sql
var ddl string

// maxName is the longest name of a table: PostgreSQL keeps 63 bytes of a name,
// and others are made of this one.
const maxName = 50

// table is the name of a table, and those that go with it, quoted.
type table struct {
	name, refused, order, commits, commit string
}

// named returns the names that go with a table, whose own is a name, or a schema
// and a name with a dot between.
func named(name string) (table, error) {
	schema, base, qualified := strings.Cut(name, ".")
	if !qualified {
		schema, base = "", name
	}
	if base == "" || qualified && schema == "" || len(base) > maxName || len(schema) > 63 || strings.ContainsAny(name, "'$\x00") || strings.Contains(base, ".") {
		return table{}, fmt.Errorf("table %q: expected a name of 1 to %d bytes without ' and $, or a schema and such a name with a dot between", name, maxName)
	}
	quoted := func(suffix string) string {
		if qualified {
			return pgx.Identifier{schema, base + suffix}.Sanitize()
		}
		return pgx.Identifier{base + suffix}.Sanitize()
	}
	return table{
		name: quoted(""), refused: quoted("_refused"), commits: quoted("_commits"), commit: quoted("_commit"),
		order: pgx.Identifier{base + "_order"}.Sanitize(), // an index has its table's schema
	}, nil
}

// fill puts the names into a statement.
func (t table) fill(statement string) string {
	return strings.NewReplacer(
		"{table}", t.name, "{refused}", t.refused, "{order}", t.order, "{commits}", t.commits, "{commit}", t.commit,
	).Replace(statement)
}

// DDL returns the statements that make a table of that name, the one for refused
// rows, and the trigger. The name is one, or a schema's and one with a dot between.
func DDL(name string) (string, error) {
	t, err := named(name)
	if err != nil {
		return "", err
	}
	return t.fill(ddl), nil
}

// Init makes what DDL says in the database at a postgres:// URL, all or nothing.
func Init(ctx context.Context, address, name string) error {
	statements, err := DDL(name)
	if err != nil {
		return err
	}
	config, err := parse(address)
	if err != nil {
		return err
	}
	conn, err := connect(ctx, config)
	if err != nil {
		return err
	}
	// Several statements in one are one transaction.
	_, err = conn.PgConn().Exec(ctx, statements).ReadAll()
	if err != nil {
		err = fmt.Errorf("make table %q: %w", name, err)
	}
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}

// ErrUnreachable marks a database that cannot be reached.
var ErrUnreachable = errors.New("database cannot be reached")

// ErrNoTable marks a database without the table of that name.
var ErrNoTable = errors.New("no such table")

// parse reads an address. Its error quotes nothing of it, since a password could
// hide anywhere in it.
func parse(address string) (*pgx.ConnConfig, error) {
	scheme, _, _ := strings.Cut(address, "://")
	config, err := pgx.ParseConfig(address)
	if err != nil || scheme != "postgres" && scheme != "postgresql" {
		return nil, errors.New("address of the database: expected postgres://USER:PASSWORD@HOST:PORT/DATABASE; a user or password with other than letters and digits has to be percent-encoded")
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "penstock outbox"
	}
	return config, nil
}

func connect(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL at %s:%d/%s: %w: %w", config.Host, config.Port, config.Database, ErrUnreachable, err)
	}
	return conn, nil
}
