package sqlsink

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"penstock/consumers"
	"penstock/stream"
)

// claims are the partitions that this sink holds.
type claims struct {
	mu sync.Mutex
	m  map[lane]*claim
}

type lane struct {
	topic  string
	number int32
}

// claim is one partition and what this sink knows of its position. Assigned
// makes a new one; it is then in the hands of Write alone, but that Lost reads
// the epoch, which claims.mu guards.
type claim struct {
	partition stream.Partition
	epoch     int64
	next      int64
	// written says that a batch has been stored since the claim, from which
	// on the next one must follow without a hole.
	written bool
	// doubt says that next may be out of date: the outcome of a commit is not
	// known, or somebody else owns the partition.
	doubt bool
	// rival is the epoch of another owner, seen at the position rivalAt since
	// rivalSince.
	rival, rivalAt int64
	rivalSince     time.Time
}

func (c *claim) String() string { return fmt.Sprintf("%s[%d]", c.partition.Topic, c.partition.Number) }

// row is the primary key of the claim's position.
func (s *Sink) row(p stream.Partition) []any {
	return []any{s.config.Pipeline, p.Cluster, p.Topic + "/" + p.Incarnation, p.Number}
}

func (s *Sink) makePositions(ctx context.Context) error {
	return s.transact(ctx, false, func(conn *sql.Conn) error {
		if err := s.lock(ctx, conn); err != nil {
			return err
		}
		// Asking first spares a user who may not create tables.
		have, err := s.dialect.Columns(ctx, conn, s.positions)
		if err != nil || len(have) > 0 {
			return err
		}
		_, err = conn.ExecContext(ctx, `CREATE TABLE `+s.positions+` (
	pipeline text NOT NULL,
	cluster_id text NOT NULL,
	topic_id text NOT NULL,
	partition integer NOT NULL,
	next_offset bigint NOT NULL,
	leader_epoch integer NOT NULL,
	owner_epoch bigint NOT NULL,
	updated_at timestamp with time zone NOT NULL,
	PRIMARY KEY (pipeline, cluster_id, topic_id, partition)
)`)
		return err
	})
}

func (s *Sink) lock(ctx context.Context, conn *sql.Conn) error {
	if s.dialect.Lock() == "" {
		return nil
	}
	_, err := conn.ExecContext(ctx, s.dialect.Lock())
	return err
}

// Assigned implements stream.Owner: it claims the partitions, so that whoever
// held them before can store nothing more, and returns their positions. What
// fails for a passing reason is tried again for half a minute.
func (s *Sink) Assigned(ctx context.Context, partitions []stream.Partition) (map[stream.Partition]int64, error) {
	// One order for all keeps two claimants from waiting for each other.
	partitions = slices.Clone(partitions)
	slices.SortFunc(partitions, func(a, b stream.Partition) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Topic, b.Topic),
			cmp.Compare(a.Incarnation, b.Incarnation), cmp.Compare(a.Number, b.Number))
	})
	giveUp := time.Now().Add(30 * time.Second)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		claimed, err := s.claim(ctx, partitions)
		if err == nil {
			return s.keep(claimed), nil
		}
		class, err := s.dialect.Classify(err)
		if class != Passing || ctx.Err() != nil || time.Now().After(giveUp) {
			return nil, fmt.Errorf("claim partitions: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("claim partitions: %w", err)
		case <-time.After(wait):
		}
	}
}

func (s *Sink) claim(ctx context.Context, partitions []stream.Partition) ([]*claim, error) {
	claimed := make([]*claim, len(partitions))
	err := s.transact(ctx, false, func(conn *sql.Conn) error {
		for i, p := range partitions {
			c := &claim{partition: p}
			err := conn.QueryRowContext(ctx, `INSERT INTO `+s.positions+` AS p
	(pipeline, cluster_id, topic_id, partition, next_offset, leader_epoch, owner_epoch, updated_at)
	VALUES ($1, $2, $3, $4, 0, -1, 1, CURRENT_TIMESTAMP)
	ON CONFLICT (pipeline, cluster_id, topic_id, partition)
	DO UPDATE SET owner_epoch = abs(p.owner_epoch) + 1, updated_at = CURRENT_TIMESTAMP
	RETURNING owner_epoch, next_offset`, s.row(p)...).Scan(&c.epoch, &c.next)
			if err != nil {
				return err
			}
			claimed[i] = c
		}
		return nil
	})
	return claimed, err
}

// keep notes the claims and returns the positions among them. A partition of
// which nothing was stored yet has none.
func (s *Sink) keep(claimed []*claim) map[stream.Partition]int64 {
	s.claims.mu.Lock()
	defer s.claims.mu.Unlock()
	if s.claims.m == nil {
		s.claims.m = map[lane]*claim{}
	}
	positions := map[stream.Partition]int64{}
	for _, c := range claimed {
		s.claims.m[lane{c.partition.Topic, c.partition.Number}] = c
		if c.next > 0 {
			positions[c.partition] = c.next
		}
	}
	return positions
}

// Lost implements stream.Owner: it gives up the claims, by turning their owner
// epochs negative where no one else has claimed them. A batch that is being
// written meanwhile is then not stored. If the database cannot be reached it
// goes without, since whoever claims next does not depend on it.
func (s *Sink) Lost(ctx context.Context, partitions []stream.Partition) error {
	var lost []claim
	s.claims.mu.Lock()
	for _, p := range partitions {
		l := lane{p.Topic, p.Number}
		if c := s.claims.m[l]; c != nil && c.partition == p {
			lost = append(lost, claim{partition: p, epoch: c.epoch})
			delete(s.claims.m, l)
		}
	}
	s.claims.mu.Unlock()
	s.giveUp(ctx, lost...)
	return nil
}

func (s *Sink) giveUp(ctx context.Context, lost ...claim) {
	if len(lost) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveUpWithin)
	defer cancel()
	err := s.transact(ctx, false, func(conn *sql.Conn) error {
		for _, c := range lost {
			_, err := conn.ExecContext(ctx, `UPDATE `+s.positions+` SET owner_epoch = -owner_epoch, updated_at = CURRENT_TIMESTAMP
	WHERE pipeline = $1 AND cluster_id = $2 AND topic_id = $3 AND partition = $4 AND owner_epoch = $5`,
				append(s.row(c.partition), c.epoch)...)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		_, err = s.dialect.Classify(err)
		s.log.Warn("give up partitions", "error", err)
	}
}

// giveUpWithin is how long Lost may take.
const giveUpWithin = 2 * time.Second

func (s *Sink) claimOf(topic string, number int32) *claim {
	s.claims.mu.Lock()
	defer s.claims.mu.Unlock()
	return s.claims.m[lane{topic, number}]
}

// move moves the position from where this sink has left it to next.
func (s *Sink) move(ctx context.Context, conn *sql.Conn, c *claim, next int64) error {
	// SQLite numbers parameters in the order in which they stand.
	args := append(append([]any{next}, s.row(c.partition)...), c.next, c.epoch)
	r, err := conn.ExecContext(ctx, `UPDATE `+s.positions+`
	SET next_offset = $1, updated_at = CURRENT_TIMESTAMP
	WHERE pipeline = $2 AND cluster_id = $3 AND topic_id = $4 AND partition = $5
	AND next_offset = $6 AND owner_epoch = $7`, args...)
	if err != nil {
		return err
	}
	n, err := r.RowsAffected()
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: the position is not where it was left", errCommit)
	}
	return err
}

// staleAfter is how long the owner of a partition that the source says is ours
// may leave its position where it is before this sink claims it again.
const staleAfter = 30 * time.Second

// recheck reads the position that c stands at, once whatever else is writing it
// has ended. The error wraps stream.ErrFenced if the partition has another
// owner.
//
// Claims can cross: a member that the broker has taken the partition from may
// be slow, and claim it after its rightful owner did. It gives it up once it
// hears of that, unless it dies first. So a sink that was not told that it lost
// the partition claims it again where the other has given it up, or has not
// moved for a while. Were the other the rightful owner after all, it would do
// the same; rows are stored once in any case.
func (s *Sink) recheck(ctx context.Context, c *claim) error {
	var next, epoch, reclaimed int64
	err := s.transact(ctx, false, func(conn *sql.Conn) error {
		where := `
	WHERE pipeline = $1 AND cluster_id = $2 AND topic_id = $3 AND partition = $4`
		err := conn.QueryRowContext(ctx, `SELECT next_offset, owner_epoch FROM `+s.positions+where+s.dialect.ForUpdate(),
			s.row(c.partition)...).Scan(&next, &epoch)
		if err != nil || epoch == c.epoch || !c.mayReclaim(next, epoch) || s.claimOf(c.partition.Topic, c.partition.Number) != c {
			return err
		}
		return conn.QueryRowContext(ctx, `UPDATE `+s.positions+` SET owner_epoch = abs(owner_epoch) + 1, updated_at = CURRENT_TIMESTAMP`+where+`
	RETURNING owner_epoch`, s.row(c.partition)...).Scan(&reclaimed)
	})
	if err == nil && reclaimed != 0 {
		s.log.Info("claim partition again", "partition", c.String(), "position", next, "epoch", reclaimed)
		if s.renew(c, reclaimed) {
			epoch = reclaimed
		} else { // it was lost just now
			s.giveUp(ctx, claim{partition: c.partition, epoch: reclaimed})
		}
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("its row in penstock_positions is gone: %w", consumers.ErrStop)
	case err != nil:
		return s.explain(err)
	case epoch != c.epoch:
		return fmt.Errorf("owner epoch is %d, this sink claimed it with %d: %w", epoch, c.epoch, stream.ErrFenced)
	case next < c.next:
		return fmt.Errorf("its position was set back from %d to %d: %w; start again to read from there", c.next, next, consumers.ErrStop)
	}
	c.written = c.written || next > c.next
	c.next, c.doubt = next, false
	return nil
}

// renew sets the epoch of a claim, if the sink still holds it.
func (s *Sink) renew(c *claim, epoch int64) bool {
	s.claims.mu.Lock()
	defer s.claims.mu.Unlock()
	if s.claims.m[lane{c.partition.Topic, c.partition.Number}] != c {
		return false
	}
	c.epoch = epoch
	return true
}

// mayReclaim says whether the other owner has given the partition up, or has
// not moved for a while since this sink first saw it there.
func (c *claim) mayReclaim(next, epoch int64) bool {
	if epoch < 0 {
		return true
	}
	if c.rival != epoch || c.rivalAt != next {
		c.rival, c.rivalAt, c.rivalSince = epoch, next, time.Now()
	}
	return time.Since(c.rivalSince) >= staleAfter
}

// discard makes sure that conn is not used again.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
}
