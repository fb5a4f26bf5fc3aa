package main

import (
	"context"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"penstock/servertest"
)

// The commands on partitions and constraints in docs/microbatching.md make them as it
// says.
func TestPartitionsGuide(t *testing.T) {
	guide, err := os.ReadFile("../../docs/microbatching.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(guide), "### Partitions by time\n")
	section, _, _ = strings.Cut(section, "\n## ")
	database, conn := emptySchema(t)
	at := []string{"--broker", "embedded:" + t.TempDir(), "--registry", memoryRegistry(t)}
	commands := regexp.MustCompile(`(?m)^    penstock (.*)$`).FindAllStringSubmatch(section, -1)
	if len(commands) != 6 {
		t.Fatalf("%d commands", len(commands))
	}
	outputs := make([]string, len(commands))
	for i, c := range commands {
		args := strings.Fields(strings.ReplaceAll(c[1], "postgres://localhost/shop", database))
		outputs[i] = call(t, append(args, at...)...)
	}
	if n := strings.Count(outputs[1], "ATTACH PARTITION"); n != 5 || !strings.Contains(outputs[1], `PARTITION BY RANGE ("time_hour")`) {
		t.Errorf("the plan attaches %d partitions: %s", n, outputs[1])
	}
	if done := outputs[5]; !strings.Contains(outputs[4], "-- ACCESS EXCLUSIVE, catalog only: it is required\nALTER TABLE \"flights\" ADD CONSTRAINT \"flights_origin_present\" CHECK (\"origin\" IS NOT NULL) NOT VALID;\n") ||
		!strings.Contains(done, `ALTER COLUMN "origin" SET NOT NULL`) {
		t.Errorf("the plan of constraints is %s, and done is %s", outputs[4], done)
	}
	var partitions string
	var rows, days, ahead int
	err = conn.QueryRow(t.Context(), `SELECT (SELECT string_agg(DISTINCT tableoid::regclass::text, ' ') FROM flights), (SELECT count(*) FROM flights),
		(SELECT count(DISTINCT tableoid) FROM flights_byday), (SELECT count(*) FROM pg_inherits WHERE inhparent = 'flights_byday'::regclass)`).Scan(&partitions, &rows, &days, &ahead)
	// Midnight may come between.
	if err != nil || partitions != "flights_p201302" || rows != 1000 || days > 2 || ahead < 8 || ahead > 9 {
		t.Errorf("%v: partitions %s, %d rows; %d partitions with rows of %d by day", err, partitions, rows, days, ahead)
	}
}

// emptySchema makes a schema of PostgreSQL, and returns a URL in which it is the
// only one.
func emptySchema(t *testing.T) (string, *pgx.Conn) {
	u, err := url.Parse(servertest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	name := servertest.Name(t)
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	conn, err := pgx.Connect(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	if _, err := conn.Exec(t.Context(), `CREATE SCHEMA "`+name+`"`); err != nil {
		t.Fatal(err)
	}
	return u.String(), conn
}
