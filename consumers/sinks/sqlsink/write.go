package sqlsink

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"

	"penstock/consumers"
	"penstock/stream"
)

// maxRefused is how many refused messages one Write looks for, since each costs
// a few statements in an open transaction. The next Write finds the others.
const maxRefused = 200

// Write implements consumers.Sink.
func (s *Sink) Write(ctx context.Context, b consumers.Batch) error {
	c := s.claimOf(b.Topic, b.Partition)
	return consumers.WriteClaimed(ctx, b, c, s.write)
}

func (s *Sink) write(ctx context.Context, c *claim, b consumers.Batch) error {
	for again := false; ; again = true {
		if c.doubt {
			if err := s.recheck(ctx, c); err != nil {
				return err
			}
		}
		if b.Next <= c.next {
			return nil
		}
		if c.written && b.First > c.next {
			return fmt.Errorf("offsets from %d on are missing before it: %w", c.next, consumers.ErrStop)
		}
		ops, err := s.operations(b, c.next)
		if err != nil {
			return err
		}
		if s.divided != nil {
			if n := len(s.divided.periods(ops)); n > maxPeriods {
				return fmt.Errorf("its records belong to %d partitions, more than the %d of one transaction: %w", n, maxPeriods, consumers.ErrBadRecord)
			}
		}
		err = s.store(ctx, c, b.Next, ops, false)
		if err != nil {
			if class, _ := s.dialect.Classify(err); class == Refused || class == Unknown {
				err = s.store(ctx, c, b.Next, ops, true)
			}
		}
		if err == nil || !c.doubt || again {
			return s.explain(err)
		}
	}
}

// store carries out the operations and moves the position, in one transaction.
// A careful one finds out which of the operations the database refuses.
func (s *Sink) store(ctx context.Context, c *claim, next int64, ops []operation, careful bool) error {
	var found tables
	err := s.transact(ctx, careful, func(conn *sql.Conn) (err error) {
		if found, err = s.ensure(ctx, conn, ops); err != nil {
			return err
		}
		if careful {
			err = s.isolate(ctx, conn, found, ops)
		} else {
			err = s.apply(ctx, conn, found, ops)
		}
		if refused := (*stream.BatchError)(nil); err == nil || errors.As(err, &refused) {
			if e := s.stayed(ctx, conn, found); e != nil {
				err = e
			}
		}
		if err != nil {
			return err
		}
		return s.move(ctx, conn, c, next)
	})
	c.doubt = errors.Is(err, errCommit)
	if err != nil {
		for _, op := range ops {
			op.shape.in.forget() // what it knows may be why
		}
		return err
	}
	for c, t := range found {
		c.learn(t.known)
	}
	c.next, c.written = next, true
	return nil
}

// apply carries out the operations, one statement for each run of a kind.
func (s *Sink) apply(ctx context.Context, conn *sql.Conn, found tables, ops []operation) error {
	for len(ops) > 0 {
		n := 1
		for n < len(ops) && ops[n].shape == ops[0].shape {
			n++
		}
		run := ops[:n]
		ops = ops[n:]
		declared := found[run[0].shape.in].columns
		if len(declared) == 0 { // nothing to delete from
			continue
		}
		st := run[0].shape.statement(s, declared)
		st.Rows = make([]Row, n)
		for i := range run {
			st.Rows[i] = run[i].row
		}
		if err := s.dialect.Store(ctx, conn, st); err != nil {
			return err
		}
	}
	return nil
}

// isolate carries out the operations that the database accepts, and names the
// messages of the others in a *stream.BatchError. It halves what fails, so that
// one bad message among n costs about 2·log2(n) statements; the good halves
// stay, since a later row may conflict with one of them. Where none is refused and
// some fail for an unknown reason, the first of these is named beside
// consumers.ErrUnknown.
func (s *Sink) isolate(ctx context.Context, conn *sql.Conn, found tables, ops []operation) error {
	refused, unknown := &stream.BatchError{}, &stream.BatchError{}
	var try func(ops []operation) error
	try = func(ops []operation) error {
		if len(ops) == 0 || len(refused.Errs)+len(unknown.Errs) >= maxRefused {
			return nil
		}
		if _, err := conn.ExecContext(ctx, "SAVEPOINT penstock"); err != nil {
			return err
		}
		err := s.apply(ctx, conn, found, ops)
		if err == nil {
			_, err = conn.ExecContext(ctx, "RELEASE SAVEPOINT penstock")
			return err
		}
		class, reason := s.dialect.Classify(err)
		if class != Refused && class != Unknown {
			return err
		}
		if _, err := conn.ExecContext(ctx, "ROLLBACK TO SAVEPOINT penstock"); err != nil {
			return err
		}
		if _, err := conn.ExecContext(ctx, "RELEASE SAVEPOINT penstock"); err != nil {
			return err
		}
		if len(ops) == 1 {
			if class == Unknown {
				unknown.Fail(ops[0].index, reason)
			} else {
				refused.Fail(ops[0].index, reason)
			}
			return nil
		}
		if err := try(ops[:len(ops)/2]); err != nil {
			return err
		}
		return try(ops[len(ops)/2:])
	}
	if err := try(ops); err != nil {
		return err
	}
	if len(refused.Errs) > 0 || len(unknown.Errs) == 0 {
		return refused.OrNil()
	}
	first := slices.Min(slices.Collect(maps.Keys(unknown.Errs)))
	err := unknown.Errs[first]
	if len(unknown.Errs) >= maxRefused { // not all were looked at, so the first may be another
		return err
	}
	return fmt.Errorf("%w: %w", consumers.ErrUnknown, &stream.BatchError{Errs: map[int]error{first: err}})
}

// explain puts an error of the database in the words of its dialect, and marks
// what does not pass by itself.
func (s *Sink) explain(err error) error {
	if refused := (*stream.BatchError)(nil); err == nil || errors.As(err, &refused) || errors.Is(err, consumers.ErrStop) {
		return err
	}
	class, err := s.dialect.Classify(err)
	if class == Broken {
		return fmt.Errorf("%w: %w", consumers.ErrStop, err)
	}
	return err
}
