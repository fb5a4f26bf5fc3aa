package postgres_test

import (
	"context"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"

	"penstock/consumers/sinks/postgres"
	"penstock/consumers/sinks/sinktest"
	"penstock/consumers/sinks/sqlsink"
	"penstock/servertest"
)

func TestSuite(t *testing.T) {
	server := servertest.Postgres(t)
	sinktest.Run(t, func(t *testing.T) sinktest.Database { return schema(t, server) })
}

// database is one schema of a database.
type database struct {
	url  string
	conn *pgx.Conn
}

// schema makes an empty schema and connects to it.
func schema(t testing.TB, server string) database {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	name := servertest.Name(t)
	q := u.Query()
	q.Set("search_path", `"`+name+`"`)
	q.Set("timezone", "UTC")
	u.RawQuery = q.Encode()
	d := database{url: u.String()}
	d.connect(t)
	d.Exec(t, `CREATE SCHEMA "`+name+`"`)
	return d
}

func (d *database) connect(t testing.TB) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	d.conn = conn
}

func (d database) Open(ctx context.Context, c sqlsink.Config) (*sqlsink.Sink, error) {
	return postgres.Open(ctx, d.url, c)
}

func (d database) Scan(ctx context.Context, table string, columns []sqlsink.Column, row func([]any) error) error {
	return postgres.ReadTable(ctx, d.url, table, columns, row)
}

func (d database) Exec(t testing.TB, statement string) {
	t.Helper()
	if _, err := d.conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func (d database) Query(t testing.TB, query string) [][]string {
	t.Helper()
	results, err := d.conn.PgConn().Exec(t.Context(), query).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var all [][]string
	for _, row := range results[0].Rows {
		texts := make([]string, len(row))
		for i, v := range row {
			texts[i] = "NULL"
			if v != nil {
				texts[i] = string(v)
			}
		}
		all = append(all, texts)
	}
	return all
}

func (database) Text() map[string]string {
	return map[string]string{
		"bool": "t", "int": "-5", "long": "-9223372036854775808", "uint": "4294967295", "ulong": "18446744073709551615",
		"float": "1.5", "double": "0.1", "decimal": "-1234567890123456.78",
		"text": "naïve \U0001F6EB", "empty": "", "enum": "A", "bytes": `\x00ff`, "nobytes": `\x`,
		"uuid": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
		"date": "2013-01-02", "time": "05:15:00.000001", "at": "2013-01-02 04:15:00.123456+00", "local": "1913-01-02 05:15:00",
		"list": `[1, null, 0.25]`, "map": `{"a": "aGk=", "b": "<x>"}`, "nested": `{"t": "2013-01-02T00:00:00Z", "x": "Infinity"}`, "any": `"text"`,
	}
}
