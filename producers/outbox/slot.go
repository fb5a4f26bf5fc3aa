package outbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"penstock/producers"
	"penstock/schemas"
	"penstock/stream"
)

// IDHeader carries the id of the row that an event was, by which who reads can
// leave out what came twice.
const IDHeader = "penstock-outbox-id"

// What a batch holds at most, and a row.
const (
	maxRows     = 500 // fewer than stream.MaxCommit
	maxBytes    = 8 << 20
	maxRowBytes = 8 << 20
)

// grace is how long what a slot is at may take when it is to end.
const grace = 10 * time.Second

// slot publishes the rows of a slot. One goroutine uses it.
type slot struct {
	o        *Outbox
	oid      int64
	number   int
	input    string
	producer *producers.Producer
	resumer  stream.Resumer // nil: nothing but the table says how far it has come
	inputs   map[string]*input

	// What the producer's publisher uses:
	to   *input          // nil: the Publisher itself
	next stream.Position // behind the events being published
	sent bool            // it was called
}

// input is what a slot holds for one topic.
type input struct {
	stream.Transactor
	done int64 // the first number that is not in yet
}

func newSlot(w *owner, number int) *slot {
	s := &slot{o: w.o, oid: w.oid, number: number, input: fmt.Sprintf("%s/%d", w.input, number), inputs: map[string]*input{}}
	s.resumer, _ = w.o.cfg.Publisher.(stream.Resumer)
	topic := w.o.cfg.Topic
	s.producer = producers.New(s, w.o.cfg.Registry, producers.Config{Topic: func(name string) producers.Topic {
		var t producers.Topic
		if topic != nil {
			t = topic(name)
		}
		t.Misfits = producers.Reject
		return t
	}})
	return s
}

// Publish is where the producer's records go.
func (s *slot) Publish(ctx context.Context, records ...stream.Record) error {
	s.sent = true
	if s.to == nil {
		return s.o.cfg.Publisher.Publish(ctx, records...)
	}
	return s.to.Commit(ctx, records, s.next)
}

func (s *slot) close() {
	for _, in := range s.inputs {
		if in != nil {
			_ = in.Close() // the position stays where it is
		}
	}
}

// run publishes what there is whenever it is woken, until ctx ends. What it is
// at then it brings to an end, within grace.
func (s *slot) run(ctx context.Context, wake <-chan struct{}) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(grace, cancel)
		context.AfterFunc(work, func() { timer.Stop() })
	})()
	retry := backoff{}
	for ctx.Err() == nil {
		more, err := s.batch(ctx, work)
		switch {
		case err != nil && ctx.Err() == nil:
			s.o.cfg.Logger.Warn("outbox: cannot publish, trying again", "slot", s.number, "err", err)
			retry.wait(ctx)
			continue
		case more:
			continue
		}
		retry = backoff{}
		select {
		case <-wake:
		case <-ctx.Done():
		}
	}
}

// batch publishes the first rows of the slot and deletes them. It says whether
// there may be more.
func (s *slot) batch(ctx, work context.Context) (more bool, err error) {
	var w *worker
	select {
	case w = <-s.o.workers:
	case <-ctx.Done():
		return false, nil
	}
	defer func() { s.o.workers <- w }()
	conn, err := w.connected(ctx, s.o.address)
	if err != nil {
		return false, err
	}
	rows, more, err := s.read(work, conn)
	if err != nil || len(rows) == 0 {
		return false, err
	}
	next := rows[len(rows)-1].seq + 1
	if rows, err = s.refuseBroken(work, conn, rows); err != nil {
		return false, err
	}
	byTopic := map[string][]row{}
	var topics []string
	for _, r := range rows {
		if byTopic[r.event.Topic] == nil {
			topics = append(topics, r.event.Topic)
		}
		byTopic[r.event.Topic] = append(byTopic[r.event.Topic], r)
	}
	// What keeps one topic's back is no reason for another's to wait.
	var failed error
	for _, topic := range topics {
		if err := s.publish(work, conn, topic, byTopic[topic], next); err != nil {
			failed = errors.Join(failed, fmt.Errorf("topic %q: %w", topic, err))
		}
	}
	return more, failed
}

// publish publishes rows, all of one topic, and deletes them, or moves them to
// the refused ones. next is the number behind the batch that they are of.
func (s *slot) publish(ctx context.Context, conn *pgx.Conn, topic string, rows []row, next int64) error {
	in, err := s.open(ctx, conn, topic)
	if errors.Is(err, stream.ErrNoTopic) {
		return s.refuse(ctx, conn, rows, func(int) error { return err })
	}
	if err != nil {
		return err
	}
	s.to, s.next = in, stream.Position{Next: next}
	out := make([]row, 0, len(rows))
	for _, r := range rows {
		if in == nil || r.seq >= in.done {
			out = append(out, r)
		}
	}
	// Either all are published or none, until those that do not fit are in their
	// own table: were the position past them before, a kill would leave them out.
	for sent := false; len(out) > 0 && !sent; {
		events := make([]producers.Event, len(out))
		for i, r := range out {
			events[i] = r.event
		}
		s.sent = false
		err := s.producer.PublishTogether(ctx, events...)
		var partly *stream.BatchError
		switch {
		case err == nil:
			sent = true
		case errors.As(err, &partly) && (in != nil && s.sent || all(partly, forGood)):
			// Beside them, a publisher that was asked has written the others.
			sent = s.sent && in == nil
			if err := s.refuse(ctx, conn, pick(out, partly, true), nth(partly)); err != nil {
				return err
			}
			out = pick(out, partly, false)
		case in == nil && errors.Is(err, stream.ErrNoTopic):
			return s.refuse(ctx, conn, out, func(int) error { return err })
		default:
			if in != nil && s.sent { // it is of no more use
				_ = in.Close()
				delete(s.inputs, topic)
			}
			return err
		}
	}
	if in != nil && len(out) > 0 {
		in.done = next
	}
	done := make([]int64, 0, len(rows))
	for _, r := range rows {
		done = append(done, r.id)
	}
	// Of those refused nothing is here any more.
	if _, err := conn.Exec(ctx, s.o.table.fill(`DELETE FROM {table} WHERE id = ANY($1)`), done); err != nil {
		return fmt.Errorf("delete what is published: %w", err)
	}
	s.o.published.Add(int64(len(out)))
	return nil
}

// open returns what the slot holds for a topic, nil if the broker keeps no
// positions for it.
func (s *slot) open(ctx context.Context, conn *pgx.Conn, topic string) (*input, error) {
	in, known := s.inputs[topic]
	if known || s.resumer == nil {
		return in, nil
	}
	tx, at, err := s.resumer.Resume(ctx, topic, s.input)
	if errors.Is(err, stream.ErrUnsupported) {
		s.o.cfg.Logger.Warn("outbox: no positions are kept with this topic, so a row may become two events after a kill", "topic", topic, "err", err)
		s.inputs[topic] = nil
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var last int64
	err = conn.QueryRow(ctx, s.o.table.fill(`SELECT last_value FROM {commits}`)).Scan(&last)
	if err == nil && last < at.Next-1 {
		err = fmt.Errorf("the broker has events of this table up to number %d, but the sequence is at %d, as after a restore: its next rows would be taken for published; go on with SELECT setval('%s', %d)",
			at.Next-1, last, s.o.table.commits, at.Next)
	}
	if err != nil {
		return nil, errors.Join(err, tx.Close())
	}
	in = &input{Transactor: tx, done: at.Next}
	s.inputs[topic] = in
	return in, nil
}

// forGood says of an event's failure that it will be the same the next time.
func forGood(err error) bool {
	var misfit *schemas.ValueError
	return errors.As(err, &misfit) || errors.Is(err, schemas.ErrNoSchema) || errors.Is(err, stream.ErrTooLarge) ||
		errors.Is(err, stream.ErrNoTopic) || errors.Is(err, producers.ErrNoType)
}

func all(e *stream.BatchError, is func(error) bool) bool {
	for _, err := range e.Errs {
		if !is(err) {
			return false
		}
	}
	return true
}

// pick returns the rows that failed, or those that did not.
func pick(rows []row, e *stream.BatchError, failed bool) []row {
	var out []row
	for i, r := range rows {
		if (e.Errs[i] != nil) == failed {
			out = append(out, r)
		}
	}
	return out
}

// nth returns the errors in the order of their indexes.
func nth(e *stream.BatchError) func(int) error {
	indexes := slices.Sorted(maps.Keys(e.Errs))
	return func(i int) error { return e.Errs[indexes[i]] }
}

// refuseBroken refuses the rows that make no event, and returns the others.
func (s *slot) refuseBroken(ctx context.Context, conn *pgx.Conn, rows []row) ([]row, error) {
	var broken stream.BatchError
	for i, r := range rows {
		if r.err != nil {
			broken.Fail(i, r.err)
		}
	}
	if broken.OrNil() == nil {
		return rows, nil
	}
	return pick(rows, &broken, false), s.refuse(ctx, conn, pick(rows, &broken, true), nth(&broken))
}

// refuse moves rows to the table of those refused, each with its reason.
func (s *slot) refuse(ctx context.Context, conn *pgx.Conn, rows []row, why func(i int) error) error {
	ids, reasons := make([]int64, len(rows)), make([]string, len(rows))
	for i, r := range rows {
		ids[i], reasons[i] = r.id, stream.HeaderText(why(i).Error())
	}
	tag, err := conn.Exec(ctx, s.o.table.fill(`WITH why AS (SELECT * FROM unnest($1::bigint[], $2::text[]) AS w (id, reason)),
	gone AS (DELETE FROM {table} t USING why WHERE t.id = why.id RETURNING t.*, why.reason)
	INSERT INTO {refused} (id, topic, key, type, payload, headers, created_at, reason)
	SELECT id, topic, key, type, payload, headers, created_at, reason FROM gone`), ids, reasons)
	if err != nil {
		return fmt.Errorf("move refused rows: %w", err)
	}
	s.o.refused.Add(tag.RowsAffected())
	s.o.cfg.Logger.Warn("outbox: rows were refused", "count", tag.RowsAffected(), "first", ids[0], "table", s.o.cfg.Table+"_refused")
	return nil
}

// row is a row as an event, or why it is none.
type row struct {
	id, seq int64
	event   producers.Event
	err     error
}

// read returns the slot's first rows, and whether there may be more.
func (s *slot) read(ctx context.Context, conn *pgx.Conn) (batch []row, more bool, err error) {
	// Of a row beyond the limit nothing is read but its size. Kafka refuses a time
	// in the future, and one before 1970.
	rows, err := conn.Query(ctx, s.o.table.fill(`SELECT o.id, o.seq, CASE WHEN created_at >= 'epoch' THEN least(created_at, now()) END, o.size, f.*
	FROM (SELECT *, octet_length(topic) + coalesce(octet_length(key), 0) + coalesce(octet_length(type), 0)
			+ coalesce(octet_length(payload::text), 0) + coalesce(octet_length(headers::text), 0) AS size
		FROM {table} WHERE slot = $1 AND seq IS NOT NULL ORDER BY seq LIMIT $2) o
	LEFT JOIN LATERAL (SELECT o.topic, o.key, o.type, o.payload::text, o.headers::text WHERE o.size <= $3) f ON true
	ORDER BY o.seq`), s.number, maxRows, maxRowBytes)
	if err != nil {
		return nil, false, fmt.Errorf("read rows: %w", err)
	}
	defer rows.Close()
	size := 0
	for rows.Next() {
		if size >= maxBytes {
			return batch, true, nil
		}
		var (
			r                                 row
			at                                *time.Time
			bytes                             int
			topic, key, typ, payload, headers *string
		)
		if err := rows.Scan(&r.id, &r.seq, &at, &bytes, &topic, &key, &typ, &payload, &headers); err != nil {
			return nil, false, fmt.Errorf("read rows: %w", err)
		}
		size += min(bytes, maxRowBytes)
		switch {
		case topic == nil:
			r.err = fmt.Errorf("expected a row of at most %d bytes, found %d", maxRowBytes, bytes)
		case at == nil:
			r.err = errors.New("created_at: expected a time from 1970 on, found one before")
		default:
			r.event, r.err = event(r.id, *at, *topic, key, typ, payload, headers)
		}
		batch = append(batch, r)
	}
	if err := rows.Err(); err != nil {
		return nil, false, fmt.Errorf("read rows: %w", err)
	}
	return batch, len(batch) == maxRows, nil
}

// event makes an event of the columns of a row.
func event(id int64, at time.Time, topic string, key, typ, payload, headers *string) (producers.Event, error) {
	e := producers.Event{Topic: topic, Time: at, Headers: []stream.Header{{Key: IDHeader, Value: strconv.AppendInt(nil, id, 10)}}}
	if topic == "" {
		return e, errors.New("topic: expected a name, found none")
	}
	if key != nil {
		e.Key = []byte(*key)
	}
	if typ != nil {
		e.Type = *typ
	}
	if payload != nil {
		value, err := producers.Text([]byte(*payload))
		if err == nil && value == nil {
			err = errors.New("expected an event, found the JSON null; a tombstone is an SQL NULL")
		}
		if err != nil {
			return e, fmt.Errorf("payload: %w", err)
		}
		e.Value = value
	}
	if headers == nil {
		return e, nil
	}
	value, err := schemas.ParseJSON([]byte(*headers))
	if err != nil {
		return e, fmt.Errorf("headers: %w", err)
	}
	object, ok := value.(map[string]any)
	if !ok {
		return e, fmt.Errorf("headers: expected an object of strings, found %s", schemas.Describe(value))
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		text, ok := object[name].(string)
		if !ok {
			return e, fmt.Errorf("headers: at /%s: expected a string, found %s", schemas.EscapePointer(name), schemas.Describe(object[name]))
		}
		e.Headers = append(e.Headers, stream.Header{Key: name, Value: []byte(text)})
	}
	return e, nil
}

// worker is a connection for the work on one slot at a time.
type worker struct{ conn *pgx.Conn }

func (w *worker) connected(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	if w.conn == nil || w.conn.IsClosed() {
		conn, err := connect(ctx, config)
		if err != nil {
			return nil, err
		}
		w.conn = conn
	}
	return w.conn, nil
}

func (w *worker) close(ctx context.Context) {
	if w.conn != nil {
		_ = w.conn.Close(context.WithoutCancel(ctx)) // which holds nothing
	}
}
