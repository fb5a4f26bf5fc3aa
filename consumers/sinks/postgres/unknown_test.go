package postgres_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/consumers"
	"penstock/consumers/sinks/sinktest"
	"penstock/consumers/sinks/sqlsink"
	"penstock/servertest"
	"penstock/stream"
)

// A code that nobody knows is the first row's that it comes with, as far as one can
// know; a row that is refused for a reason goes before it, and what passes by itself
// is nobody's.
func TestUnknownCode(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	d.Exec(t, `CREATE TABLE events (id bigint, kind text CHECK (kind <> 'bad'), name text, step bigint);
		CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF length(NEW.kind) = 5 THEN RAISE EXCEPTION 'no %', NEW.kind USING ERRCODE = NEW.kind; END IF; RETURN NEW; END $$;
		CREATE TRIGGER odd BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION odd()`)
	s := open(t, d.url, sqlsink.Config{})
	assign(t, s)
	for _, c := range []struct {
		kinds   string
		named   []int
		unknown bool
	}{
		{"a b ZZ001 c", []int{2}, true},
		{"a XX000 b ZZ001", []int{1}, true},
		{"38000 a", []int{0}, true},
		{"ZZ001 a bad b P0001", []int{2, 4}, false},
		{"a 40001", nil, false}, {"25006", nil, false}, {"a 57P03", nil, false}, {"53400 ZZ001", nil, false},
		{strings.Repeat("ZZ001 ", 250), nil, false},
	} {
		b := sinktest.Batch(0, 0)
		for i, kind := range strings.Fields(c.kinds) {
			b.Messages = append(b.Messages, sinktest.Message(int64(i), 1, bounded, map[string]any{"id": int64(i), "kind": kind}))
			b.Next++
		}
		err := s.Write(t.Context(), b)
		var named []int
		if refused := (*stream.BatchError)(nil); errors.As(err, &refused) {
			named = slices.Sorted(maps.Keys(refused.Errs))
		}
		if err == nil || cmp.Diff(c.named, named) != "" || errors.Is(err, consumers.ErrUnknown) != c.unknown || errors.Is(err, consumers.ErrStop) {
			t.Errorf("%.40s: %v names %d, want %d, unknown: %t", c.kinds, err, named, c.named, c.unknown)
		}
	}
	if got := column(d, t, "SELECT count(*) FROM events"); got[0] != "0" {
		t.Errorf("%s rows are stored of batches that failed", got[0])
	}
}
