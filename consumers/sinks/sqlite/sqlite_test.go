package sqlite_test

import (
	"context"
	"database/sql"
	"net/url"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite"

	"penstock/consumers/sinks/sinktest"
	"penstock/consumers/sinks/sqlite"
	"penstock/consumers/sinks/sqlsink"
)

func TestSuite(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Database {
		file := filepath.Join(t.TempDir(), "a?b%c #.db")
		return database{file, reader(t, file)}
	})
}

type database struct {
	file string
	db   *sql.DB
}

// reader opens the file by the driver alone.
func reader(t testing.TB, file string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+url.PathEscape(file)+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func (d database) Open(ctx context.Context, c sqlsink.Config) (*sqlsink.Sink, error) {
	return sqlite.Open(ctx, d.file, c)
}

func (d database) Scan(ctx context.Context, table string, columns []sqlsink.Column, row func([]any) error) error {
	return sqlite.ReadTable(ctx, d.file, table, columns, row)
}

func (d database) Exec(t testing.TB, statement string) {
	t.Helper()
	if _, err := d.db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

func (d database) Query(t testing.TB, query string) [][]string {
	t.Helper()
	rows, err := d.db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	texts := sinktest.Texts(t, rows)
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return texts
}

func (database) Text() map[string]string {
	return map[string]string{
		"bool": "1", "int": "-5", "long": "-9223372036854775808", "uint": "4294967295", "ulong": "18446744073709551615",
		"float": "1.5", "double": "0.1", "decimal": "-1234567890123456.78",
		"text": "naïve \U0001F6EB", "empty": "", "enum": "A", "bytes": "\x00\xff", "nobytes": "",
		"uuid": "6BA7B810-9DAD-11D1-80B4-00C04FD430C8",
		"date": "2013-01-02", "time": "05:15:00.000001", "at": "2013-01-02T04:15:00.123456Z", "local": "1913-01-02T05:15:00.000000",
		"list": `[1,null,0.25]`, "map": `{"a":"aGk=","b":"<x>"}`, "nested": `{"t":"2013-01-02T00:00:00Z","x":"Infinity"}`, "any": `"text"`,
	}
}
