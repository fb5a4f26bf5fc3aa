package servertest

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// recorder is a test whose end is looked at.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (*recorder) Helper() {}
func (r *recorder) Skipf(format string, args ...any) {
	r.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
func (r *recorder) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// outcome runs f as a test of its own.
func outcome(t *testing.T, f func(testing.TB)) *recorder {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}

func TestWithoutServer(t *testing.T) {
	for env, f := range map[string]func(testing.TB) string{
		KafkaEnv: Kafka, PostgresEnv: Postgres, NATSEnv: NATS,
	} {
		t.Run(env, func(t *testing.T) {
			t.Setenv(env, "")
			use := func(t testing.TB) { f(t) }

			t.Setenv("CI", "")
			r := outcome(t, use)
			if !strings.Contains(r.skipped, env) || !strings.Contains(r.skipped, "make check") || r.failed != "" {
				t.Errorf("at home: skipped %q, failed %q", r.skipped, r.failed)
			}

			t.Setenv("CI", "true")
			r = outcome(t, use)
			if !strings.Contains(r.failed, env) || r.skipped != "" {
				t.Errorf("in CI: skipped %q, failed %q", r.skipped, r.failed)
			}
		})
	}
}

func TestName(t *testing.T) {
	t.Run("Ünlike/any "+strings.Repeat("long ", 100), func(t *testing.T) {
		a, b := Name(t), Name(t)
		if a == b {
			t.Errorf("twice %q", a)
		}
		if !regexp.MustCompile(`^testname--nlike-any-long-[a-z0-9-]{1,100}$`).MatchString(a) {
			t.Errorf("got %q", a)
		}
	})
}

func TestPostgresIsFresh(t *testing.T) {
	Postgres(t) // or skip
	var first string
	t.Run("one", func(t *testing.T) {
		first = Postgres(t)
		execute(t, first, "CREATE TABLE mark (n int)")
		execute(t, Postgres(t), "CREATE TABLE mark (n int)")
	})
	conn, err := pgx.Connect(context.Background(), first)
	if err == nil {
		conn.Close(context.Background())
		t.Error("the database is there after its test")
	}
	if server := os.Getenv(PostgresEnv); first == server {
		t.Error("got the server's own database")
	}
}
