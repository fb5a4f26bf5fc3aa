// Package outbox publishes the rows of a PostgreSQL table as events: what a
// transaction inserts there goes out if it commits, and only then.
//
// Rows of one topic and key become events in the order in which their
// transactions committed, and within a transaction in the order of its inserts.
// No column of a row knows the order of commits: ids are given out, and
// transaction ids too, long before. So the trigger of table.sql numbers the rows
// while their transaction commits, one transaction after the other.
//
// The table falls into slots, by topic and key. Whoever runs an Outbox on it
// takes a share of the slots by advisory locks, and gives some up as others
// come. How far a slot has been published is kept with the events where the
// broker is a stream.Resumer: then each row becomes one event, whoever is killed
// when. Elsewhere it is one at least, since a row is deleted after its event is
// durable.
package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"penstock/producers"
	"penstock/stream"
)

// Config says what to publish, and how.
type Config struct {
	// Address is the postgres:// URL of the database, in which everything may
	// stand that libpq knows.
	Address string
	// Table is as for DDL; empty is "outbox". Init has made it.
	Table     string
	Publisher stream.Publisher
	Registry  producers.Registry
	// Topic says how rows become records, as in producers.Config, but for its
	// Misfits: those are moved to the table for refused rows.
	Topic func(topic string) producers.Topic
	// Workers is how many slots are worked on at once, each over a connection of
	// its own beside the one that holds the locks. 0 is 4.
	Workers int
	// Poll is how long a row waits at most whose notification got lost, and how
	// soon shares are looked at. 0 is one second.
	Poll time.Duration
	// UntilEmpty ends Run once the table holds no row that is to be published.
	UntilEmpty bool
	Logger     *slog.Logger // nil: nothing is logged
}

// Outbox publishes the rows of one table.
type Outbox struct {
	cfg     Config
	address *pgx.ConnConfig
	table   table
	workers chan *worker

	published, refused atomic.Int64
}

// New returns an Outbox. It looks at the configuration, and connects to nothing.
func New(cfg Config) (*Outbox, error) {
	if cfg.Table == "" {
		cfg.Table = "outbox"
	}
	if cfg.Workers <= 0 {
		cfg.Workers = 4
	}
	if cfg.Poll <= 0 {
		cfg.Poll = time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	address, err := parse(cfg.Address)
	if err != nil {
		return nil, err
	}
	t, err := named(cfg.Table)
	if err != nil {
		return nil, err
	}
	o := &Outbox{cfg: cfg, address: address, table: t, workers: make(chan *worker, cfg.Workers)}
	for range cfg.Workers {
		o.workers <- &worker{}
	}
	return o, nil
}

// Counts says how many rows became events, and how many were refused.
func (o *Outbox) Counts() (published, refused int64) {
	return o.published.Load(), o.refused.Load()
}

// Run publishes until ctx ends, and then returns nil. It goes on after failures
// of the database, the registry and the broker; it returns an error if the
// database cannot be reached at the start (ErrUnreachable) or has no such table
// (ErrNoTable). It may be called once.
func (o *Outbox) Run(ctx context.Context) error {
	defer func() {
		for range o.cfg.Workers {
			(<-o.workers).close(ctx)
		}
	}()
	owner, err := o.claim(ctx)
	if err != nil {
		return notCancelled(ctx, err)
	}
	retry := backoff{}
	for {
		if owner != nil {
			retry = backoff{}
			var done bool
			done, err = owner.run(ctx)
			if done {
				return nil
			}
		}
		if ctx.Err() == nil {
			o.cfg.Logger.Warn("outbox: lost the database, trying again", "err", err)
		}
		if !retry.wait(ctx) {
			return notCancelled(ctx, err)
		}
		owner, err = o.claim(ctx)
	}
}

// notCancelled is err, unless ctx is why.
func notCancelled(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// backoff waits longer each time.
type backoff struct{ last time.Duration }

func (b *backoff) wait(ctx context.Context) bool {
	b.last = min(max(2*b.last, 100*time.Millisecond), 5*time.Second)
	timer := time.NewTimer(b.last)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// owner holds slots, for as long as its connection lives.
type owner struct {
	o    *Outbox
	conn *pgx.Conn
	oid  int64
	// input begins the names of the inputs, under which the broker keeps
	// positions: see claim.
	input string
	held  map[int]*holding
}

// holding is a slot that is being worked on.
type holding struct {
	wake chan struct{}
	stop context.CancelFunc
	done chan struct{}
}

// claim connects, and says that there is one more to share the slots with.
//
// The name of an input tells apart the lives of a table: its oid, those of the
// database and the cluster, and the timeline, since a server that was restored
// or promoted may give out numbers again that the one before had given out.
func (o *Outbox) claim(ctx context.Context) (*owner, error) {
	conn, err := connect(ctx, o.address)
	if err != nil {
		return nil, err
	}
	w := &owner{o: o, conn: conn, held: map[int]*holding{}}
	err = conn.QueryRow(ctx, o.table.fill(`SELECT oid::bigint, concat_ws('/', 'outbox',
		(SELECT system_identifier FROM pg_control_system()),
		left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),
		(SELECT oid FROM pg_database WHERE datname = current_database()), oid)
	FROM pg_class WHERE oid = to_regclass($1)`), o.table.name).Scan(&w.oid, &w.input)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNoTable
	}
	if err == nil {
		_, err = conn.Exec(ctx, `LISTEN penstock_outbox`)
	}
	if err == nil {
		_, err = conn.Exec(ctx, `SELECT pg_advisory_lock_shared(`+memberLock+`)`, w.oid)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("table %q: %w", o.cfg.Table, err), conn.Close(context.WithoutCancel(ctx)))
	}
	return w, nil
}

// The advisory locks: all who run hold the first, shared; who holds the second
// has the slot.
const (
	memberLock = `hashtextextended('penstock outbox member', $1)`
	slotLock   = `hashtextextended('penstock outbox slot', $1 * 16 + $2)`
)

// run works on a share of the slots until ctx ends or the connection does. It
// is done if the table is empty and that is what it was to wait for.
func (w *owner) run(ctx context.Context) (done bool, err error) {
	defer func() {
		for slot := range w.held {
			w.leave(slot)
		}
		_ = w.conn.Close(context.WithoutCancel(ctx)) // which gives up the locks
	}()
	for {
		if err := w.share(ctx); err != nil {
			return false, err
		}
		if w.o.cfg.UntilEmpty {
			var rows bool
			if err := w.conn.QueryRow(ctx, w.o.table.fill(`SELECT EXISTS (SELECT FROM {table} WHERE seq IS NOT NULL)`)).Scan(&rows); err != nil || !rows {
				return err == nil, err
			}
		}
		if err := w.listen(ctx); err != nil {
			return false, err
		}
	}
}

// share takes slots or gives some up, until this owner has as many as others.
func (w *owner) share(ctx context.Context) error {
	var members int
	err := w.conn.QueryRow(ctx, `SELECT count(*) FROM pg_locks
	WHERE locktype = 'advisory' AND objsubid = 1 AND mode = 'ShareLock' AND granted
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
	AND (classid::bigint << 32 | objid::bigint) = `+memberLock, w.oid).Scan(&members)
	if err != nil {
		return err
	}
	share := (slots + members - 1) / max(members, 1)
	for slot := range w.held {
		if len(w.held) <= share {
			break
		}
		w.leave(slot)
		if _, err := w.conn.Exec(ctx, `SELECT pg_advisory_unlock(`+slotLock+`)`, w.oid, slot); err != nil {
			return err
		}
	}
	for slot := range slots {
		if w.held[slot] != nil || len(w.held) >= share {
			continue
		}
		var ours bool
		if err := w.conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(`+slotLock+`)`, w.oid, slot).Scan(&ours); err != nil {
			return err
		}
		if ours {
			w.take(ctx, slot)
		}
	}
	return nil
}

// take begins to work on a slot.
func (w *owner) take(ctx context.Context, slot int) {
	ctx, stop := context.WithCancel(ctx)
	h := &holding{wake: make(chan struct{}, 1), stop: stop, done: make(chan struct{})}
	w.held[slot] = h
	s := newSlot(w, slot)
	go func() {
		defer close(h.done)
		defer s.close()
		s.run(ctx, h.wake)
	}()
}

// leave returns when nothing works on a slot any more.
func (w *owner) leave(slot int) {
	h := w.held[slot]
	h.stop()
	<-h.done
	delete(w.held, slot)
}

// listen wakes slots for the time of a poll, and at its end all of them.
func (w *owner) listen(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, w.o.cfg.Poll)
	defer cancel()
	for {
		n, err := w.conn.WaitForNotification(wait)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case wait.Err() != nil && !w.conn.IsClosed():
			for _, h := range w.held {
				h.signal()
			}
			return nil
		case err != nil:
			return err
		}
		table, slot, _ := strings.Cut(n.Payload, "/")
		if table != strconv.FormatInt(w.oid, 10) {
			continue
		}
		if number, err := strconv.Atoi(slot); err == nil && w.held[number] != nil {
			w.held[number].signal()
		}
	}
}

func (h *holding) signal() {
	select {
	case h.wake <- struct{}{}:
	default: // it is to look already
	}
}
