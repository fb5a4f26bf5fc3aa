package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"penstock/servertest"
)

// TestOutboxKill kills two 'penstock outbox' with SIGKILL in turn, and cuts their
// connections to the database, while transactions short and long count up
// accounts and insert an event with each count. The events of an account must be
// its counts, each once and in order.
func TestOutboxKill(t *testing.T) {
	for name, broker := range map[string]func(testing.TB) string{
		"Kafka": func(t testing.TB) string { return "kafka://" + servertest.Kafka(t) },
		"NATS":  func(t testing.TB) string { return servertest.NATS(t) },
	} {
		t.Run(name, func(t *testing.T) { outboxKill(t, broker(t)) })
	}
}

func outboxKill(t *testing.T, broker string) {
	kills, limit := 10, 4*time.Minute
	if testing.Short() {
		kills, limit = 3, time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	s := newShop(t, ctx, broker)
	s.open()
	workers := []*exec.Cmd{s.outbox(), s.outbox()}
	var (
		tellers sync.WaitGroup
		stop    atomic.Bool
	)
	for i := range 4 {
		conn := s.connect()
		tellers.Go(func() {
			for r := rand.New(rand.NewPCG(1, uint64(i))); !stop.Load() && ctx.Err() == nil; {
				s.transact(conn, r)
			}
		})
	}
	for n := range kills {
		for begin := s.events(); s.events() < begin+50; { // something was published since the last kill
			if ctx.Err() != nil {
				t.Fatal("nothing is published any more")
			}
		}
		pause(time.Duration(rand.IntN(100)) * time.Millisecond)
		kill(t, workers[n%2])
		workers[n%2] = s.outbox()
		if n%3 == 2 {
			s.exec(s.db, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'penstock outbox'`)
		}
	}
	stop.Store(true)
	tellers.Wait()
	for _, w := range workers {
		kill(t, w)
	}
	if out, err := s.command("outbox", "--from", s.database, "--broker", broker, "--until", "empty").CombinedOutput(); err != nil {
		t.Fatalf("publish the rest: %v\n%s", err, out)
	}
	s.check(kills)
}

// shop is a database, a broker and a registry.
type shop struct {
	crashed
	broker, database, topic string
	db                      *pgx.Conn
	misfits                 atomic.Int64 // whose insertion was committed
}

func newShop(t *testing.T, ctx context.Context, broker string) *shop {
	t.Helper()
	url := memoryRegistry(t)
	s := &shop{
		crashed: crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: url[len("http://"):]},
		broker:  broker, database: servertest.Postgres(t), topic: servertest.Name(t),
	}
	s.db = s.connect()
	return s
}

// open makes the accounts, the outbox and the topic.
func (s *shop) open() {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "account.avsc"), []byte(`{"type":"record","name":"Account","fields":[{"name":"n","type":"long"}]}`), 0o600); err != nil {
		s.t.Fatal(err)
	}
	// Of no events: the schema is registered and the topic made.
	if out, err := s.command("produce", s.topic, "-", "--broker", s.broker, "--schema", "account.avsc").CombinedOutput(); err != nil {
		s.t.Fatalf("register: %v\n%s", err, out)
	}
	s.exec(s.db, `CREATE TABLE accounts (name text PRIMARY KEY, n bigint NOT NULL); INSERT INTO accounts SELECT 'a' || n, 0 FROM generate_series(1, 9) n`)
	call(s.t, "outbox", "init", "--from", s.database)
}

func (s *shop) connect() *pgx.Conn {
	s.t.Helper()
	conn, err := pgx.Connect(s.ctx, s.database)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (s *shop) exec(conn *pgx.Conn, sql string) {
	if _, err := conn.Exec(s.ctx, sql); err != nil {
		s.t.Error(err)
	}
}

// outbox starts to publish.
func (s *shop) outbox() *exec.Cmd {
	s.t.Helper()
	return s.start("outbox", "--from", s.database, "--broker", s.broker)
}

// transact counts some accounts up, in a transaction that may be long, may have
// begun with something else, and may be rolled back.
func (s *shop) transact(conn *pgx.Conn, r *rand.Rand) {
	tx, err := conn.Begin(s.ctx)
	if err != nil {
		s.t.Error(err)
		return
	}
	do := func(sql string, args ...any) {
		if _, err := tx.Exec(s.ctx, sql, args...); err != nil && s.ctx.Err() == nil {
			s.t.Error(err)
		}
	}
	if r.IntN(3) == 0 {
		do(`SELECT pg_current_xact_id()`)
	}
	accounts := []int{1 + r.IntN(9), 1 + r.IntN(9), 1 + r.IntN(9)}[:1+r.IntN(3)]
	slices.Sort(accounts) // so that no two wait for each other
	for _, account := range accounts {
		do(`WITH a AS (UPDATE accounts SET n = n + 1 WHERE name = $1 RETURNING name, n)
			INSERT INTO outbox (topic, key, payload) SELECT $2, name, jsonb_build_object('n', n) FROM a`, fmt.Sprint("a", account), s.topic)
		if r.IntN(8) == 0 {
			pause(time.Duration(r.IntN(40)) * time.Millisecond)
		}
	}
	misfit := r.IntN(20) == 0
	if misfit {
		do(`INSERT INTO outbox (topic, key, payload) VALUES ($1, 'a1', '{"n": "many"}')`, s.topic)
	}
	if r.IntN(5) == 0 {
		err = tx.Rollback(s.ctx)
	} else if err = tx.Commit(s.ctx); err == nil && misfit {
		s.misfits.Add(1)
	}
	if err != nil && s.ctx.Err() == nil {
		s.t.Error(err)
	}
}

// events counts what left the table.
func (s *shop) events() (n int64) {
	if err := s.db.QueryRow(s.ctx, `SELECT (SELECT sum(n) FROM accounts) - (SELECT count(*) FROM outbox)`).Scan(&n); err != nil && s.ctx.Err() == nil {
		s.t.Error(err)
	}
	return n
}

// check compares the events of each account with its counts.
func (s *shop) check(kills int) {
	s.t.Helper()
	out, err := s.command("consume", "tail", s.topic, "--broker", s.broker, "--until", "end", "-o", "json").Output()
	if err != nil {
		s.t.Fatalf("read the log: %v", err)
	}
	got := map[string][]int64{}
	for line := range bytes.Lines(out) {
		var record struct {
			Key   string
			Value struct{ N int64 }
		}
		if err := json.Unmarshal(line, &record); err != nil {
			s.t.Fatalf("read the log: %v: %s", err, line)
		}
		got[record.Key] = append(got[record.Key], record.Value.N)
	}
	rows, err := s.db.Query(s.ctx, `SELECT name, n FROM accounts`)
	if err != nil {
		s.t.Fatal(err)
	}
	var (
		name   string
		n, sum int64
	)
	if _, err := pgx.ForEachRow(rows, []any{&name, &n}, func() error {
		sum += n
		for i, c := range got[name] {
			if c != int64(i+1) {
				s.t.Errorf("account %s: event %d holds count %d", name, i+1, c)
				break
			}
		}
		if int64(len(got[name])) != n {
			s.t.Errorf("account %s was counted to %d, and has %d events", name, n, len(got[name]))
		}
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	var refused int64
	if err := s.db.QueryRow(s.ctx, `SELECT count(*) FROM outbox_refused`).Scan(&refused); err != nil {
		s.t.Fatal(err)
	}
	if want := s.misfits.Load(); refused != want {
		s.t.Errorf("%d rows were refused, want %d", refused, want)
	}
	s.t.Logf("%d kills: %d events of %d accounts, %d refused", kills, sum, len(got), refused)
}

// What docs/outbox.md says to type does what it says.
func TestOutboxGuide(t *testing.T) {
	guide, err := os.ReadFile("../../docs/outbox.md")
	if err != nil {
		t.Fatal(err)
	}
	s := newShop(t, t.Context(), "kafka://"+servertest.Kafka(t))
	s.exec(s.db, `CREATE ROLE "`+s.topic+`"`)
	t.Cleanup(func() {
		if _, err := s.db.Exec(context.Background(), `DROP OWNED BY "`+s.topic+`"; DROP ROLE "`+s.topic+`"`); err != nil {
			t.Error(err)
		}
	})
	text := strings.NewReplacer("postgres://localhost/shop", s.database, "'orders'", "'"+s.topic+"'",
		"--topic orders", "--topic "+s.topic, "orders-value", s.topic+"-value", "tail orders", "tail "+s.topic,
		"TO shop;", `TO "`+s.topic+`";`, "TO penstock;", `TO "`+s.topic+`";`).Replace(string(guide))
	blocks := regexp.MustCompile("(?s)```(sql|json|)\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(blocks) < 11 {
		t.Fatalf("the guide has %d blocks: does this test still see them?", len(blocks))
	}
	var printed string
	for _, b := range blocks {
		switch b[1] {
		case "sql":
			s.exec(s.db, b[2])
		case "json":
			if err := os.WriteFile(filepath.Join(s.dir, "orders.avsc"), []byte(b[2]), 0o600); err != nil {
				t.Fatal(err)
			}
		default:
			for line := range strings.Lines(b[2]) {
				args := strings.Fields(line)[1:]
				switch args[0] {
				case "outbox", "consume":
					if args[1] == "run" && !strings.Contains(line, "--until") {
						continue // until it is stopped
					}
					if args[1] != "init" {
						args = append(args, "--broker", s.broker)
					}
				}
				out, err := s.command(args...).CombinedOutput()
				if err != nil {
					t.Errorf("%s: %v\n%s", line, err, out)
				}
				printed += string(out)
			}
		}
	}
	if out := call(t, "outbox", "--from", s.database, "--broker", s.broker, "--registry", "http://"+s.listen, "--until", "empty"); !strings.HasPrefix(out, "1 published, 0 refused") {
		t.Errorf("of the row that was mended: %s", out)
	}
	for _, want := range []string{"CREATE CONSTRAINT TRIGGER", "2 published, 1 refused", `"amount":12.5`, `"amount":13`} {
		if !strings.Contains(printed, want) {
			t.Errorf("the guide's commands did not print %q:\n%s", want, printed)
		}
	}
}
