package sqlsink

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"penstock/consumers"
	"penstock/schemas"
)

// TimeColumn holds the record's own time where Config.PartitionBy names it.
const TimeColumn = "record_time"

// DefaultAhead is what Config.Ahead is if it is 0.
const DefaultAhead = 4

// maxPeriods is how many partitions one transaction writes to, each of which takes
// locks of the server: a batch with more is halved.
const maxPeriods = 200

// maxPartitions bounds those of a table, so that times that are none do not make
// partitions without end.
const maxPartitions = 10_000

// Partitioner is a Dialect whose tables can be partitioned by ranges of time.
type Partitioner interface {
	Dialect
	// PartitionedBy ends the statement that makes a table partitioned by a column.
	PartitionedBy(column string) (string, error)
	// Partitions reads what partitions a table has. The error wraps
	// consumers.ErrStop if it is not partitioned by ranges of the column.
	Partitions(ctx context.Context, conn *sql.Conn, table string, by Column) (*Partitions, error)
	// Partition is what makes one, while others read and write the table: two
	// statements, with a line's end between, that belong into one transaction. name
	// tells it from the others.
	Partition(table string, by Column, name string, r Range) (string, error)
	// MakePartition carries that out. The error wraps consumers.ErrStop where its
	// name or its rows are elsewhere already.
	MakePartition(ctx context.Context, conn *sql.Conn, table string, by Column, name string, r Range) error
	// Attached reports whether all of these are partitions of the table. Those that
	// this transaction has written to stay so until its end.
	Attached(ctx context.Context, conn *sql.Conn, table string, ids []uint32) (bool, error)
}

// Range is the times from From on and before To, in microseconds since 1970 in UTC.
// The least and the largest number stand for what has no bound.
type Range struct{ From, To int64 }

// Partitions are those of one table.
type Partitions struct {
	List   []Partition // in order
	MayAdd bool        // whether this user may make more
}

// Partition is one that a table has. It is not the default one.
type Partition struct {
	ID uint32
	Range
}

// find is the partition that holds all of a range, nil if there is none.
func (p *Partitions) find(r Range) *Partition {
	i, exact := slices.BinarySearchFunc(p.List, r.From, func(q Partition, from int64) int { return cmp.Compare(q.From, from) })
	if !exact {
		i--
	}
	if i < 0 || p.List[i].To < r.To {
		return nil
	}
	return &p.List[i]
}

// partitioning is Config.PartitionBy.
type partitioning struct {
	column string
	unit   unit
	ahead  int
	now    func() time.Time
}

// unit is how long a partition is.
type unit string

// layouts are the units, with what names a partition of each.
var layouts = map[unit]string{"hour": "2006010215", "day": "20060102", "month": "200601", "year": "2006"}

func parsePartitioning(c Config) (*partitioning, error) {
	column, u, _ := strings.Cut(c.PartitionBy, ":")
	p := &partitioning{column: column, unit: unit(u), ahead: cmp.Or(c.Ahead, DefaultAhead), now: c.Now}
	if p.now == nil {
		p.now = time.Now
	}
	switch {
	case column == "" || layouts[p.unit] == "":
		return nil, fmt.Errorf("partition by %q: expected COLUMN:hour, COLUMN:day, COLUMN:month or COLUMN:year", c.PartitionBy)
	case c.Mode == Upsert && !slices.Contains(c.Key, column):
		return nil, fmt.Errorf("partition by %q: expected %q among the key columns, found %q, and keys are unique only together with it; add it to the key, or leave the partitions out", c.PartitionBy, column, c.Key)
	}
	return p, nil
}

// period is the partition that a time belongs to.
func (u unit) period(at int64) Range {
	t := time.UnixMicro(at).UTC()
	year, month, day := t.Date()
	hour := 0
	end := [4]int{}
	switch u {
	case "hour":
		hour, end[3] = t.Hour(), 1
	case "day":
		end[2] = 1
	case "month":
		day, end[1] = 1, 1
	default:
		month, day, end[0] = 1, 1, 1
	}
	from := time.Date(year, month, day, hour, 0, 0, 0, time.UTC)
	to := time.Date(year+end[0], month+time.Month(end[1]), day+end[2], hour+end[3], 0, 0, 0, time.UTC)
	return Range{from.UnixMicro(), to.UnixMicro()}
}

// coming are the period of now, and those ahead of it.
func (p *partitioning) coming() (all []Range) {
	r := p.unit.period(p.now().UnixMicro())
	for range p.ahead + 1 {
		all = append(all, r)
		r = p.unit.period(r.To)
	}
	return all
}

// name tells the partition of a period from others.
func (p *partitioning) name(r Range) string {
	return time.UnixMicro(r.From).UTC().Format(layouts[p.unit])
}

// takes says whether a column can divide a table.
func (p *partitioning) takes(c Column) error {
	switch {
	case c.Type != Date && c.Type != Timestamp && c.Type != LocalTimestamp:
		return fmt.Errorf("partition by %q: expected a timestamp or a date, found %v", c.Name, c)
	case c.Type == Date && p.unit == "hour":
		return fmt.Errorf("partition by %q: expected a timestamp to make partitions by hour of, found %v", c.Name, c)
	}
	return nil
}

// periods are the different ones of rows, in order.
func (p *partitioning) periods(ops []operation) (all []Range) {
	seen := map[Range]bool{}
	last := Range{0, math.MinInt64}
	for i := range ops {
		if op := &ops[i]; !op.shape.remove && (op.at < last.From || op.at >= last.To) {
			if last = p.unit.period(op.at); !seen[last] {
				seen[last] = true
				all = append(all, last)
			}
		}
	}
	slices.SortFunc(all, func(a, b Range) int { return cmp.Compare(a.From, b.From) })
	return all
}

// moment is the time of a row by which its table is divided.
func (sh *shape) moment(r Row) (int64, error) {
	c := &sh.columns[sh.divides]
	var v any
	if r.Values != nil {
		v = r.Values[sh.divides]
	} else {
		switch cell := r.Cells[sh.divides]; cell.Kind {
		case schemas.CellTime:
			return cell.N, nil
		case schemas.CellDate:
			return cell.N * microsOfDay, nil
		default:
			v, _ = c.ConvertCell(cell, nil, r.Text)
		}
	}
	if t, ok := v.(time.Time); ok {
		return t.UnixMicro(), nil
	}
	return 0, fmt.Errorf("column %q says which partition a row belongs to: expected a value, found null", c.Name)
}

// divide makes the partitions that rows need and some ahead, unless they are there,
// and returns all that are, with the IDs of those that the rows go to.
func (c *catalog) divide(ctx context.Context, s *Sink, conn *sql.Conn, k known, ops []operation) (*Partitions, []uint32, error) {
	dialect := s.dialect.(Partitioner) // New has seen to it
	by := Column{Name: s.divided.column, Declared: k.columns[s.dialect.Fold(s.divided.column)]}
	needed := s.divided.periods(ops)
	have := k.partitions
	var err error
	if have == nil || len(c.lacking(s, have, needed)) > 0 {
		if err = s.lock(ctx, conn); err != nil {
			return nil, nil, err
		}
		if have, err = dialect.Partitions(ctx, conn, c.table, by); err != nil {
			return nil, nil, err
		}
		lacking := c.lacking(s, have, needed)
		if len(have.List)+len(lacking) > maxPartitions {
			return nil, nil, fmt.Errorf("table %s: expected at most %d partitions, found %d more than its %d to be made; choose longer ones, or leave out records whose time is wrong: %w",
				c.table, maxPartitions, len(lacking), len(have.List), consumers.ErrStop)
		}
		for _, r := range lacking {
			if err := dialect.MakePartition(ctx, conn, c.table, by, s.divided.name(r), r); err != nil {
				return nil, nil, err
			}
			s.log.Info("make partition", "table", c.table, "of", s.divided.name(r))
		}
		if len(lacking) > 0 {
			if have, err = dialect.Partitions(ctx, conn, c.table, by); err != nil {
				return nil, nil, err
			}
		}
	}
	var used []uint32
	for _, r := range needed {
		if p := have.find(r); p != nil {
			used = append(used, p.ID)
		}
	}
	return have, used, nil
}

// lacking are the periods that have no partition: of those needed, and of those to
// come, where this user may make any.
func (c *catalog) lacking(s *Sink, have *Partitions, needed []Range) (all []Range) {
	wanted := needed
	if have.MayAdd {
		wanted = append(slices.Clone(needed), s.divided.coming()...)
	}
	for _, r := range wanted {
		if have.find(r) == nil && !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	return all
}

// stayed sees, behind the rows, that those partitions still are what they were: else
// rows may be in one that is for what has no other, or refused for want of theirs.
func (s *Sink) stayed(ctx context.Context, conn *sql.Conn, found tables) error {
	for c, f := range found {
		if len(f.used) == 0 {
			continue
		}
		ok, err := s.dialect.(Partitioner).Attached(ctx, conn, c.table, f.used)
		if err == nil && !ok {
			err = fmt.Errorf("partitions of table %s were taken away while rows were written to them", c.table)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// planned are the statements that make the partitions to come.
func (c *catalog) planned(ctx context.Context, s *Sink, conn *sql.Conn, declared map[string]string, sh *shape) (statements []string, err error) {
	dialect := s.dialect.(Partitioner)
	by := sh.columns[sh.divides]
	have := &Partitions{MayAdd: true}
	if len(declared) > 0 {
		by.Declared = declared[s.dialect.Fold(by.Name)]
		if have, err = dialect.Partitions(ctx, conn, c.table, by); err != nil {
			return nil, err
		}
	}
	for _, r := range c.lacking(s, have, nil) {
		made, err := dialect.Partition(c.table, by, s.divided.name(r), r)
		if err != nil {
			return nil, err
		}
		statements = append(statements, made)
	}
	return statements, nil
}
