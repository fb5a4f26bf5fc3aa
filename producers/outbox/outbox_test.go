package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"penstock/producers/outbox"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/servertest"
	"penstock/stream"
	"penstock/stream/memory"
)

// registry has a schema for the values of two topics.
type registry struct{ event schemas.Schema }

func (r registry) Latest(_ context.Context, subject string) (schemas.ID, schemas.Schema, error) {
	if subject != "orders-value" && subject != "payments-value" {
		return 0, nil, schemas.ErrNoSchema
	}
	return 1, r.event, nil
}

func events() registry {
	s, err := avro.Format{}.Parse(`{"type":"record","name":"E","fields":[{"name":"n","type":"long"}]}`, nil)
	if err != nil {
		panic(err)
	}
	return registry{s}
}

// fixture is an empty outbox in a database of its own, and a broker.
type fixture struct {
	t       testing.TB
	address string
	db      *pgx.Conn
	broker  *resumer
}

func setUp(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{t: t, address: servertest.Postgres(t), broker: &resumer{Broker: memory.New(), inputs: map[string]*position{}}}
	if err := outbox.Init(t.Context(), f.address, "outbox"); err != nil {
		t.Fatal(err)
	}
	f.db = f.connect()
	for _, topic := range []string{"orders", "payments"} {
		if err := f.broker.Create(t.Context(), topic, 4); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *fixture) connect() *pgx.Conn {
	f.t.Helper()
	conn, err := pgx.Connect(f.t.Context(), f.address)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// executor is a connection or a transaction.
type executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

func (f *fixture) exec(on executor, sql string, args ...any) {
	f.t.Helper()
	if _, err := on.Exec(f.t.Context(), sql, args...); err != nil {
		f.t.Fatal(err)
	}
}

// insert adds an event that fits.
func (f *fixture) insert(on executor, topic, key string, n int) {
	f.t.Helper()
	f.exec(on, `INSERT INTO outbox (topic, key, payload) VALUES ($1, $2, jsonb_build_object('n', $3::bigint))`, topic, key, n)
}

func (f *fixture) begin() pgx.Tx {
	f.t.Helper()
	tx, err := f.connect().Begin(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return tx
}

func (f *fixture) commit(tx pgx.Tx) {
	f.t.Helper()
	if err := tx.Commit(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) config(to stream.Publisher) outbox.Config {
	return outbox.Config{Address: f.address, Publisher: to, Registry: events(), Poll: 20 * time.Millisecond}
}

// drain publishes until the table is empty.
func (f *fixture) drain(c outbox.Config) (published, refused int64) {
	f.t.Helper()
	c.UntilEmpty = true
	o, err := outbox.New(c)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := o.Run(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return o.Counts()
}

// start publishes until stop is called.
func (f *fixture) start(c outbox.Config) (stop func()) {
	f.t.Helper()
	o, err := outbox.New(c)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- o.Run(ctx) }()
	return func() {
		f.t.Helper()
		cancel()
		if err := <-ended; err != nil {
			f.t.Error(err)
		}
	}
}

// keyed are the numbers of the events of each key of a topic, in their order.
func (f *fixture) keyed(topic string) map[string][]int64 {
	f.t.Helper()
	got := map[string][]int64{}
	for _, r := range f.records(topic) {
		if r.Value == nil {
			got[string(r.Key)] = append(got[string(r.Key)], -1)
			continue
		}
		v, err := schemas.Decode(events().event, r.Value[5:], schemas.Limits{})
		if err != nil {
			f.t.Fatal(err)
		}
		n, _ := schemas.AsInt64(v.(map[string]any)["n"])
		got[string(r.Key)] = append(got[string(r.Key)], n)
	}
	return got
}

func (f *fixture) records(topic string) []stream.Record {
	f.t.Helper()
	ranges, err := f.broker.Ranges(f.t.Context(), topic)
	if err != nil {
		f.t.Fatal(err)
	}
	left := int64(0)
	for _, r := range ranges {
		left += r.End - r.Start
	}
	src, err := f.broker.Open(f.t.Context(), stream.Subscription{Topic: topic, Group: servertest.Name(f.t)})
	if err != nil {
		f.t.Fatal(err)
	}
	defer src.Close()
	var all []stream.Record
	for left > int64(len(all)) {
		records, ack, err := src.Fetch(f.t.Context(), 1000)
		if err == nil {
			err = ack(f.t.Context(), nil)
		}
		if err != nil {
			f.t.Fatal(err)
		}
		all = append(all, records...)
	}
	return all
}

// resumer keeps positions beside a memory broker, as others do within.
type resumer struct {
	stream.Broker
	mu     sync.Mutex
	inputs map[string]*position
	// fail is asked before a commit, and after it.
	fail func(after bool) error
}

type position struct {
	at    stream.Position
	epoch int
}

func (r *resumer) Resume(ctx context.Context, topic, input string) (stream.Transactor, stream.Position, error) {
	if _, err := r.Ranges(ctx, topic); err != nil {
		return nil, stream.Position{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.inputs[topic+" "+input]
	if p == nil {
		p = &position{}
		r.inputs[topic+" "+input] = p
	}
	p.epoch++
	return &transactor{r: r, p: p, epoch: p.epoch}, p.at, nil
}

type transactor struct {
	r     *resumer
	p     *position
	epoch int
	over  bool // after an error
}

func (x *transactor) Commit(ctx context.Context, out []stream.Record, in stream.Position) (err error) {
	x.r.mu.Lock()
	defer x.r.mu.Unlock()
	if x.over {
		return stream.ErrClosed
	}
	defer func() { x.over = err != nil }()
	if x.epoch != x.p.epoch {
		return stream.ErrFenced
	}
	if x.r.fail != nil {
		if err := x.r.fail(false); err != nil {
			return err
		}
	}
	if err := x.r.Publish(ctx, out...); err != nil {
		return err
	}
	x.p.at = in
	if x.r.fail != nil {
		return x.r.fail(true)
	}
	return nil
}

func (x *transactor) Close() error { return nil }

func TestPublish(t *testing.T) {
	f := setUp(t)
	f.exec(f.db, `INSERT INTO outbox (topic, key, payload, headers, created_at) VALUES
		('orders', 'a', '{"n": 9007199254740993}', '{"trace": "1", "Big": "2"}', '2026-11-27T08:00:00.123Z')`)
	f.exec(f.db, `INSERT INTO outbox (topic, payload) VALUES ('payments', '{"n": 1}')`)
	f.exec(f.db, `INSERT INTO outbox (topic, key) VALUES ('payments', 'gone')`)
	tx := f.begin()
	f.insert(tx, "orders", "never", 1)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if published, refused := f.drain(f.config(f.broker)); published != 3 || refused != 0 {
		t.Errorf("%d published, %d refused", published, refused)
	}
	orders := f.records("orders")
	if len(orders) != 1 {
		t.Fatalf("got %d orders", len(orders))
	}
	want := []stream.Header{{Key: outbox.IDHeader, Value: []byte("1")}, {Key: "Big", Value: []byte("2")}, {Key: "trace", Value: []byte("1")}}
	if diff := cmp.Diff(want, orders[0].Headers); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if at := time.Date(2026, 11, 27, 8, 0, 0, 123e6, time.UTC); !orders[0].Time.Equal(at) {
		t.Errorf("time %s, want %s", orders[0].Time, at)
	}
	if diff := cmp.Diff(map[string][]int64{"a": {9007199254740993}}, f.keyed("orders")); diff != "" {
		t.Errorf("orders (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string][]int64{"": {1}, "gone": {-1}}, f.keyed("payments")); diff != "" {
		t.Errorf("payments (-want +got):\n%s", diff)
	}
}

// The order is that of commits: not of ids, of transactions, or of statements.
func TestCommitOrder(t *testing.T) {
	f := setUp(t)
	long, short, late := f.begin(), f.begin(), f.begin()
	f.exec(late, `SELECT pg_current_xact_id()`) // has the lowest of all
	f.insert(long, "orders", "k", 3)
	f.insert(short, "orders", "k", 1)
	f.insert(short, "orders", "k", 2)
	f.commit(short)
	f.insert(f.db, "orders", "other", 1)
	stop := f.start(f.config(f.broker))
	f.await(3) // nothing waits for a transaction that is still open
	f.commit(long)
	f.insert(late, "orders", "k", 4)
	f.commit(late)
	f.await(5)
	stop()
	if diff := cmp.Diff(map[string][]int64{"k": {1, 2, 3, 4}, "other": {1}}, f.keyed("orders")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A transaction that has its number and is not seen yet holds back those behind
// it: were they published, the position would pass it by.
func TestCommitting(t *testing.T) {
	f := setUp(t)
	f.exec(f.db, `CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF NEW.payload->>'n' = '1' THEN PERFORM pg_advisory_xact_lock(42); END IF;
			RETURN NULL;
		END $$;
		CREATE CONSTRAINT TRIGGER z_after_the_number AFTER INSERT ON outbox DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait();
		SELECT pg_advisory_lock(42)`)
	committed := make(chan error, 2)
	for n := 1; n <= 2; n++ {
		tx := f.begin()
		f.insert(tx, "orders", "k", n)
		go func() { committed <- tx.Commit(t.Context()) }()
		if n == 1 {
			f.until("the wait", "ExclusiveLock", 1, 1) // the number's lock, and 42
		}
	}
	stop := f.start(f.config(f.broker))
	for tick := time.Tick(2 * time.Millisecond); ; { // until the second waits too, or is published
		var waiting int
		if err := f.db.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
		if waiting == 2 || len(f.records("orders")) > 0 {
			break
		}
		<-tick
	}
	f.exec(f.db, `SELECT pg_advisory_unlock(42)`)
	for range 2 {
		if err := <-committed; err != nil {
			t.Error(err)
		}
	}
	stop()
	f.drain(f.config(f.broker))
	if diff := cmp.Diff(map[string][]int64{"k": {1, 2}}, f.keyed("orders")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// await waits until so many orders are in.
func (f *fixture) await(n int64) {
	f.t.Helper()
	for tick := time.Tick(2 * time.Millisecond); ; {
		ranges, err := f.broker.Ranges(f.t.Context(), "orders")
		if err != nil {
			f.t.Fatal(err)
		}
		sum := int64(0)
		for _, r := range ranges {
			sum += r.End - r.Start
		}
		if sum >= n {
			return
		}
		select {
		case <-tick:
		case <-f.t.Context().Done():
			f.t.Fatalf("%d of %d orders are in", sum, n)
		}
	}
}

// refused are the refused rows' numbers, or payloads, and reasons.
func (f *fixture) refused() map[string]string {
	f.t.Helper()
	rows, err := f.db.Query(f.t.Context(), `SELECT coalesce(left(payload::text, 40), 'NULL'), reason FROM outbox_refused`)
	if err != nil {
		f.t.Fatal(err)
	}
	got := map[string]string{}
	var payload, reason string
	if _, err := pgx.ForEachRow(rows, []any{&payload, &reason}, func() error { got[payload] = reason; return nil }); err != nil {
		f.t.Fatal(err)
	}
	return got
}

// What cannot become an event steps aside, with the reason, and nothing waits
// for it.
func TestRefused(t *testing.T) {
	for name, resuming := range map[string]bool{"resuming": true, "plain": false} {
		t.Run(name, func(t *testing.T) {
			f := setUp(t)
			to := stream.Publisher(f.broker)
			if !resuming {
				to = f.broker.Broker
			}
			f.insert(f.db, "orders", "k", 1)
			f.exec(f.db, `INSERT INTO outbox (topic, key, payload, headers) VALUES
				('orders', 'k', '{"n": "1"}', NULL),
				('orders', 'k', '{"N": 1}', NULL),
				('orders', 'k', 'null', NULL),
				('orders', 'k', '{"n": 2}', '{"h": 1}'),
				('orders', 'k', '{"n": 3}', '["h"]'),
				('', 'k', '{"n": 4}', NULL),
				('invoices', 'k', '{"n": 5}', NULL),
				('orders', 'k', jsonb_build_object('n', 1, 'x', repeat('x', 9 << 20)), NULL)`)
			f.exec(f.db, `INSERT INTO outbox (topic, key, payload, created_at) VALUES ('orders', 'k', '{"n": 6}', '-infinity'), ('orders', 'k', '{"n": 7}', '0044-03-15 BC')`)
			f.insert(f.db, "orders", "k", 2)
			if err := f.broker.Create(t.Context(), "invoices", 1); err != nil {
				t.Fatal(err)
			}
			if published, refused := f.drain(f.config(to)); published != 2 || refused != 10 {
				t.Errorf("%d published, %d refused", published, refused)
			}
			got := f.refused()
			for payload, reason := range map[string]string{
				`{"n": "1"}`: "at /n: expected",
				`{"N": 1}`:   "/n",
				`null`:       "a tombstone is an SQL NULL",
				`{"n": 2}`:   "headers: at /h: expected a string, found number 1",
				`{"n": 3}`:   "headers: expected an object of strings, found array of 1",
				`{"n": 4}`:   "topic: expected a name",
				`{"n": 5}`:   "penstock schema register",
				`{"n": 6}`:   "created_at: expected a time from 1970 on",
				`{"n": 7}`:   "created_at",
				`{"n": 1, "x": "xxxxxxxxxxxxxxxxxxxxxxxxx`: "expected a row of at most 8388608 bytes",
			} {
				if !strings.Contains(got[payload], reason) {
					t.Errorf("%s: reason %q does not say %q", payload, got[payload], reason)
				}
			}
			if diff := cmp.Diff(map[string][]int64{"k": {1, 2}}, f.keyed("orders")); diff != "" {
				t.Errorf("orders (-want +got):\n%s", diff)
			}
		})
	}
}

// A topic that is not there refuses its own rows; one that is too large for the
// broker, itself.
func TestRefusedByBroker(t *testing.T) {
	f := setUp(t)
	f.insert(f.db, "nowhere", "k", 1)
	f.insert(f.db, "orders", "k", 1)
	for _, to := range []stream.Publisher{f.broker, f.broker.Broker} {
		f.insert(f.db, "nowhere", "k", 2)
		f.drain(f.config(to))
	}
	if got := f.refused(); len(got) != 2 {
		t.Errorf("got %q", got)
	}
	if got := f.keyed("orders"); len(got["k"]) != 1 {
		t.Errorf("got %v", got)
	}
}

// Whatever the broker says of a commit, and whoever takes a slot over meanwhile,
// each row becomes one event.
func TestOnceEach(t *testing.T) {
	f := setUp(t)
	const n = 400
	commits := 0
	f.broker.fail = func(after bool) error {
		if !after {
			commits++
		}
		if !after && commits%3 == 1 || after && commits%3 == 2 {
			return errors.New("the connection was cut")
		}
		return nil
	}
	want := map[string][]int64{}
	stops := []func(){f.start(f.config(f.broker)), f.start(f.config(f.broker))}
	for i := range n {
		key := fmt.Sprint("k", i%7)
		f.insert(f.db, "orders", key, i)
		want[key] = append(want[key], int64(i))
		if i%10 == 0 {
			f.exec(f.db, `INSERT INTO outbox (topic, key, payload) VALUES ('orders', $1, jsonb_build_object('misfit', $2::bigint))`, key, i)
		}
		if i%100 == 50 {
			stops[0]()
			stops = append(stops[1:], f.start(f.config(f.broker)))
		}
		if i%100 == 80 { // every connection of theirs
			f.until("memberships", "ShareLock", 1, 1)
			f.exec(f.db, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		}
	}
	f.await(n)
	for _, stop := range stops {
		stop()
	}
	f.broker.fail = nil
	f.drain(f.config(f.broker))
	if diff := cmp.Diff(want, f.keyed("orders")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := f.refused(); len(got) != n/10 {
		t.Errorf("%d rows were refused, want %d", len(got), n/10)
	}
}

// Without positions a row is an event at least once.
func TestAtLeastOnce(t *testing.T) {
	f := setUp(t)
	flaky := &flaky{Publisher: f.broker.Broker}
	for i := range 30 {
		f.insert(f.db, "orders", fmt.Sprint("k", i%3), i)
	}
	f.drain(f.config(flaky))
	got := f.keyed("orders")
	for i := range 30 {
		if !slices.Contains(got[fmt.Sprint("k", i%3)], int64(i)) {
			t.Errorf("row %d became no event", i)
		}
	}
}

// flaky fails two of three calls, one of them after it has published.
type flaky struct {
	stream.Publisher
	mu    sync.Mutex
	calls int
}

func (p *flaky) Publish(ctx context.Context, records ...stream.Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	if p.calls%3 == 1 {
		return errors.New("not sent")
	}
	err := p.Publisher.Publish(ctx, records...)
	if p.calls%3 == 2 {
		err = errors.New("nobody heard the answer")
	}
	return err
}

// The database goes away and comes back, and so does the registry: nothing is
// left out, and nothing has to be started again.
func TestAway(t *testing.T) {
	f := setUp(t)
	u, err := url.Parse(f.address)
	if err != nil {
		t.Fatal(err)
	}
	gate := &gate{to: u.Host}
	u.Host = gate.open(t, "127.0.0.1:0")
	registry := &away{registry: events()}
	logged := make(lines, 100)
	c := f.config(f.broker)
	c.Address, c.Registry, c.Logger = u.String(), registry, logged.logger()
	stop := f.start(c)
	said := func(text string) {
		t.Helper()
		for {
			select {
			case line := <-logged:
				if strings.Contains(line, text) {
					return
				}
			case <-t.Context().Done():
				t.Fatalf("%q is not logged", text)
			}
		}
	}
	for n := range 4 {
		f.insert(f.db, "orders", "k", n)
		f.await(int64(n) + 1)
		switch n {
		case 0:
			gate.shut()
			said("database cannot be reached")
			gate.open(t, u.Host)
		case 1:
			registry.gone.Store(true)
			f.insert(f.db, "payments", "k", 1)
			said("registry is away")
			registry.gone.Store(false)
		}
	}
	stop()
	gate.shut()
	f.drain(f.config(f.broker))
	if diff := cmp.Diff(map[string][]int64{"k": {0, 1, 2, 3}}, f.keyed("orders")); diff != "" {
		t.Errorf("orders (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string][]int64{"k": {1}}, f.keyed("payments")); diff != "" {
		t.Errorf("payments (-want +got):\n%s", diff)
	}
}

// away is a registry that can be gone.
type away struct {
	registry
	gone atomic.Bool
}

func (a *away) Latest(ctx context.Context, subject string) (schemas.ID, schemas.Schema, error) {
	if a.gone.Load() {
		return 0, nil, errors.New("the registry is away")
	}
	return a.registry.Latest(ctx, subject)
}

// gate is a way to a server that can be shut, which cuts its connections.
type gate struct {
	to       string
	listener net.Listener
	running  sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

func (g *gate) open(t *testing.T, address string) string {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	g.listener = l
	g.running.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", g.to)
			if err != nil {
				t.Error(err)
				_ = in.Close()
				return
			}
			g.mu.Lock()
			g.conns = append(g.conns, in, out)
			g.mu.Unlock()
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				g.running.Go(func() {
					_, _ = io.Copy(pair[0], pair[1]) // until one of them is closed
					_ = pair[0].Close()
				})
			}
		}
	})
	return l.Addr().String()
}

func (g *gate) shut() {
	_ = g.listener.Close()
	g.mu.Lock()
	for _, c := range g.conns {
		_ = c.Close()
	}
	g.conns = nil
	g.mu.Unlock()
	g.running.Wait()
}

// Several share the slots: none holds them all once there are two.
func TestShare(t *testing.T) {
	f := setUp(t)
	until := func(want ...int) {
		t.Helper()
		f.until("slots", "ExclusiveLock", want...)
	}
	first := f.start(f.config(f.broker))
	until(16)
	second := f.start(f.config(f.broker))
	until(8, 8)
	third := f.start(f.config(f.broker))
	until(4, 6, 6)
	first()
	until(8, 8)
	second()
	third()
	until()
}

// until waits until the advisory locks of a kind are so many on each connection,
// in ascending order.
func (f *fixture) until(what, mode string, want ...int) {
	f.t.Helper()
	for tick := time.Tick(5 * time.Millisecond); ; {
		rows, err := f.db.Query(f.t.Context(), `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = $1 AND granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) GROUP BY pid ORDER BY 1`, mode)
		if err != nil {
			f.t.Fatal(err)
		}
		held, err := pgx.CollectRows(rows, pgx.RowTo[int])
		if err != nil {
			f.t.Fatal(err)
		}
		if slices.Equal(held, want) {
			return
		}
		select {
		case <-tick:
		case <-f.t.Context().Done():
			f.t.Fatalf("%s held: %v, want %v", what, held, want)
		}
	}
}

// A sequence that was set back stops the topic, and loses nothing.
func TestRestored(t *testing.T) {
	f := setUp(t)
	for i := range 20 {
		f.insert(f.db, "orders", "k", i)
	}
	f.drain(f.config(f.broker))
	f.exec(f.db, `SELECT setval('outbox_commits', 1)`)
	f.insert(f.db, "orders", "k", 20)
	logged := make(lines, 100)
	c := f.config(f.broker)
	c.Logger = logged.logger()
	stop := f.start(c)
	for line := range logged {
		if strings.Contains(line, "SELECT setval") {
			break
		}
	}
	stop()
	f.exec(f.db, `SELECT setval('outbox_commits', 100); UPDATE outbox SET seq = nextval('outbox_commits')`)
	f.drain(f.config(f.broker))
	if got := f.keyed("orders")["k"]; len(got) != 21 || got[20] != 20 {
		t.Errorf("got %v", got)
	}
}

// The application and Penstock need few rights.
func TestRights(t *testing.T) {
	f := setUp(t)
	role := servertest.Name(t)
	as := func(name string) *url.URL {
		u, err := url.Parse(f.address)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword(role+name, "secret")
		f.exec(f.db, fmt.Sprintf(`CREATE ROLE "%s%s" LOGIN PASSWORD 'secret'`, role, name))
		t.Cleanup(func() {
			if _, err := f.db.Exec(context.Background(), fmt.Sprintf(`DROP OWNED BY "%[1]s%[2]s"; DROP ROLE "%[1]s%[2]s"`, role, name)); err != nil {
				t.Error(err)
			}
		})
		return u
	}
	shop, penstock := as("-shop"), as("-penstock")
	guide, err := os.ReadFile("../../docs/outbox.md")
	if err != nil {
		t.Fatal(err)
	}
	_, grants, found := strings.Cut(string(guide), "GRANT")
	grants, _, _ = strings.Cut(grants, "```")
	if !found {
		t.Fatal("the guide grants nothing")
	}
	f.exec(f.db, strings.NewReplacer(" shop;", ` "`+role+`-shop";`, " penstock;", ` "`+role+`-penstock";`).Replace("GRANT"+grants))
	app, err := pgx.Connect(t.Context(), shop.String())
	if err != nil {
		t.Fatal(err)
	}
	f.insert(app, "orders", "k", 1)
	f.exec(app, `INSERT INTO outbox (topic, payload) VALUES ('orders', '{}')`)
	if err := app.Close(t.Context()); err != nil {
		t.Error(err)
	}
	c := f.config(f.broker)
	c.Address = penstock.String()
	if published, refused := f.drain(c); published != 1 || refused != 1 {
		t.Errorf("%d published, %d refused", published, refused)
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", ".", "a.", ".a", "a.b.c", "it's", "$$", strings.Repeat("a", 51)} {
		if _, err := outbox.DDL(name); err == nil {
			t.Errorf("%q is a name", name)
		}
	}
	f := setUp(t)
	f.exec(f.db, `CREATE SCHEMA "Shop {table}"`)
	const name = `Shop {table}.Out "box"`
	if err := outbox.Init(t.Context(), f.address, name); err != nil {
		t.Fatal(err)
	}
	f.exec(f.db, `INSERT INTO "Shop {table}"."Out ""box""" (topic, key, payload) VALUES ('orders', 'k', '{"n": 1}'), ('orders', 'k', '{}')`)
	c := f.config(f.broker)
	c.Table = name
	if published, refused := f.drain(c); published != 1 || refused != 1 {
		t.Errorf("%d published, %d refused", published, refused)
	}
}

func TestErrors(t *testing.T) {
	for _, address := range []string{"", "mysql://u:secret@h/db", "postgres://u:se cret@h:x/db"} {
		_, err := outbox.New(outbox.Config{Address: address})
		if err == nil || strings.Contains(err.Error(), "cret") || !strings.Contains(err.Error(), "postgres://USER") {
			t.Errorf("%q: got %v", address, err)
		}
	}
	o, err := outbox.New(outbox.Config{Address: "postgres://127.0.0.1:1/none"})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Run(t.Context()); !errors.Is(err, outbox.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
	o, err = outbox.New(outbox.Config{Address: servertest.Postgres(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Run(t.Context()); !errors.Is(err, outbox.ErrNoTable) || !strings.Contains(err.Error(), `"outbox"`) {
		t.Errorf("no table: got %v", err)
	}
}
