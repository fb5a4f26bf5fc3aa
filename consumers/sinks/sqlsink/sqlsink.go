// Package sqlsink is what the SQL sinks share: the columns of a schema, the
// values in them, and the positions that make each record count exactly once.
// A database adds its Dialect; see the packages sqlite and postgres.
//
// # The table
//
// It is made from the schemas of the messages, never from their values: one
// column for each field of a record, or one named "value" for a schema of
// another kind. A field that a later schema brings is added as a column in the
// transaction that stores the first record with it. All columns but keys may
// be NULL, since a later schema may lack the field. A nested record, an array,
// a map and a union of more than one type besides null are JSON. A property
// that a JSON Schema allows but does not name is not stored. A column that is
// there already keeps its type; one that cannot hold the field's values without
// loss is an error that names both types.
//
// Timestamps keep microseconds, and years from 1 to 9999. What is beyond a
// column's range is refused, never rounded into it.
//
// # Positions
//
// The table penstock_positions, in the schema of the target table, says for
// each partition which offset comes next. Assigned claims a partition by
// raising its owner epoch; Write stores rows and moves the position in one
// transaction, and only where position and epoch are what it expects. So a
// record that comes again is left out, a consumer that lost its partition
// unawares changes nothing, and after a commit whose answer was lost the
// position says whether it took place.
//
// An owner epoch below zero says that its owner has given the partition up.
//
// topic_id is the topic's name, a slash, and its incarnation (on Kafka the
// topic id), so that a topic made again starts anew. leader_epoch is -1:
// unknown.
package sqlsink

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
)

// Mode says what a message does to the table.
type Mode string

// The modes.
const (
	// Append adds a row for each message. A tombstone adds none.
	Append Mode = "append"
	// Upsert keeps the last message of each key: a message inserts the row or
	// sets the columns of its schema in it, a tombstone deletes it.
	Upsert Mode = "upsert"
)

// KeyColumn holds the record's key where Config.Key names no columns.
const KeyColumn = "record_key"

var recordKey = Column{Name: KeyColumn, Type: Bytes}

// Config says what a sink writes to.
type Config struct {
	// Table is the target table's name. It is made if it is not there. Where the
	// name has {topic}, {header:NAME} or {field:NAME} in it, each record says
	// which table it goes to, by the topic it is of, a header (the first of its
	// name) or a field; what a batch stores in several goes into one transaction.
	// What is filled in is 1 to 40 letters, digits, "-" and "_" (of a topic, dots are
	// taken for "_"); a record that has it otherwise is refused. There are 1,000 such tables at most. The name of a
	// schema has none of these.
	Table string
	// Pipeline is the name under which positions are kept, that of the
	// consumer group.
	Pipeline string
	// Mode is Append if it is empty.
	Mode Mode
	// Key names the columns that identify a row in Upsert; fields of those
	// names must be in every schema. Without it, the record's key does, in a
	// column of bytes named record_key. A tombstone has no fields: it finds its
	// row if there is one Key column, and the record's key is what the database
	// writes for its value as text.
	Key []string
	// SoftDelete, in Upsert, names a column that says when a row's tombstone was
	// written, NULL where there is none: the row stays. A later message of the
	// key has it NULL again.
	SoftDelete string
	// Widen has columns that are too narrow for a schema changed to a type that
	// holds all that they did and what the schema has, in the transaction that
	// stores the first record with it. Else they are an error. Most such changes
	// write the whole table anew, and nobody reads or writes it meanwhile.
	Widen bool
	// Constrain makes a new table check what the schema says of a field's
	// values: NOT NULL, bounds and symbols. Records of later schemas that allow
	// more are then refused, until somebody changes the constraints.
	Constrain bool
	// Index names columns that get an index for searching within them.
	Index []string
	// PartitionBy, as COLUMN:hour, COLUMN:day, COLUMN:month or COLUMN:year, makes a
	// new table of partitions by a column that is a timestamp or a date, or by
	// record_time, a column that then holds the record's own time; one that is
	// there must be divided by ranges of that column. The
	// partitions that rows need are made before them; one that a default partition
	// would take gets its own, too. None is ever dropped. A row must have a value
	// in the column, and Key must have the column in Upsert.
	PartitionBy string
	// Ahead is how many partitions are made for times to come; 0 is DefaultAhead.
	// A user who does not own the table makes none.
	Ahead int
	// Now says which those are; nil is time.Now.
	Now func() time.Time
	// Logger is told when a table or column is made; nil is silent.
	Logger *slog.Logger
}

// Evolver is a Dialect that knows more of tables than their columns.
type Evolver interface {
	Dialect
	// Widened is a type that holds all that a column declared so does, and all of
	// c; empty is none.
	Widened(c Column, declared string) string
	// Constraints follow the type of a field's column.
	Constraints(f *schemas.Field) (string, error)
	// Index is the statement that makes an index of a column for searching
	// within its values, unless it is there.
	Index(table, column string) (string, error)
}

// Class says what an error of the database means for the batch.
type Class uint8

// The classes.
const (
	Passing Class = iota // waiting may help
	Refused              // a row of the batch can never be stored
	Broken               // somebody has to change something first
	Unknown              // either of these: it is not known whether a row is at fault
)

// Dialect is what one kind of database does in its own way. Its methods may be
// called concurrently.
type Dialect interface {
	// Begin is the statement that starts a writing transaction. In a careful
	// one every constraint is checked statement by statement.
	Begin(careful bool) string
	// Lock is the statement in a transaction that keeps others from changing
	// tables; empty if Begin has done it.
	Lock() string
	// ForUpdate ends a SELECT that waits for other writers of its rows; empty
	// if Begin has done it.
	ForUpdate() string
	// Tables splits the name of the target table and returns it, and
	// penstock_positions beside it, as identifiers.
	Tables(name string) (target, positions string, err error)
	// Identifier quotes a column's name. It refuses one that the database
	// would not keep as it is.
	Identifier(name string) (string, error)
	// Fold maps names that the database takes for the same to one.
	Fold(name string) string
	// TypeName is how CREATE TABLE spells the column's type.
	TypeName(c Column) string
	// Fits says whether a column declared so holds every value of c.
	Fits(c Column, declared string) bool
	// Columns reads the declared types of a table's columns by folded name;
	// none if there is no such table.
	Columns(ctx context.Context, conn *sql.Conn, table string) (map[string]string, error)
	// Store carries out a statement. If it fails, its transaction or
	// savepoint is rolled back.
	Store(ctx context.Context, conn *sql.Conn, s Statement) error
	// Classify says what an error means, and puts it in plain words that hold
	// no password.
	Classify(err error) (Class, error)
}

// Statement is a number of rows that meet the same fate.
type Statement struct {
	Table string // as an identifier
	// Columns describes the values of each row. Of a Delete it is the key
	// alone, as Bytes, or as Text that is to be read as the column's own type,
	// and where Mark is set a Timestamp behind it.
	Columns []Column
	// Symbols are, by column, what a schemas.CellSymbol counts; nil of others.
	Symbols [][]string
	// Key names the columns on which rows conflict; empty in Append.
	Key    []string
	Delete bool
	// Mark, of a Delete, names the column that gets the row's second value, where
	// it is NULL, in the place of a deletion.
	Mark string
	Rows []Row
}

// Row is the values of one row: by column, as Columns describes them.
type Row struct {
	Values []any
	// Cells, if Values is nil, are the values of an append to a CellDialect.
	// Their bytes lie in Text.
	Cells []schemas.Cell
	Text  []byte
}

// CellDialect is a Dialect whose Store takes rows with Cells.
type CellDialect interface {
	Dialect
	// TakesCells marks it.
	TakesCells()
}

// Sink writes batches to one table. It is a consumers.Sink and a stream.Owner;
// Write may be called concurrently for different partitions.
type Sink struct {
	db      *sql.DB
	dialect Dialect
	config  Config
	log     *slog.Logger

	positions string        // as an identifier
	cells     bool          // the dialect takes rows of cells
	divided   *partitioning // nil: tables have no partitions
	claims    claims
	name      []namePart
	fixed     *catalog // of the one table; nil if there are several
	several   several
}

// New checks the configuration and makes sure that the table of positions is
// there. The sink closes db in the end; if New fails, its caller does.
func New(ctx context.Context, db *sql.DB, d Dialect, c Config) (*Sink, error) {
	if c.Mode == "" {
		c.Mode = Append
	}
	switch {
	case c.Table == "":
		return nil, errors.New("open sink: it needs the name of a table")
	case c.Pipeline == "":
		return nil, errors.New("open sink: it needs the name of a pipeline, under which its positions are kept")
	case c.Mode != Append && c.Mode != Upsert:
		return nil, fmt.Errorf("open sink: mode %q is neither %q nor %q", c.Mode, Append, Upsert)
	case c.Mode == Append && len(c.Key) > 0:
		return nil, fmt.Errorf("open sink: key columns %q mean nothing in mode %q; use mode %q", c.Key, Append, Upsert)
	case c.Mode == Append && c.SoftDelete != "":
		return nil, fmt.Errorf("open sink: nothing is deleted in mode %q; use mode %q, or no column for soft deletion", Append, Upsert)
	}
	if _, ok := d.(Evolver); !ok && (c.Widen || c.Constrain || len(c.Index) > 0) {
		return nil, errors.New("open sink: this database's tables cannot be widened, constrained or indexed here; use PostgreSQL, or leave that out")
	}
	var divided *partitioning
	if c.PartitionBy != "" {
		if _, ok := d.(Partitioner); !ok {
			return nil, errors.New("open sink: this database's tables have no partitions here; use PostgreSQL, or leave them out")
		}
		var err error
		if divided, err = parsePartitioning(c); err != nil {
			return nil, fmt.Errorf("open sink: %w", err)
		}
	}
	name, err := parseName(c.Table)
	if err != nil {
		return nil, fmt.Errorf("open sink: %w", err)
	}
	target, positions, err := d.Tables(blank.ReplaceAllString(c.Table, "x"))
	if err != nil {
		return nil, fmt.Errorf("open sink: %w", err)
	}
	s := &Sink{db: db, dialect: d, config: c, log: c.Logger, positions: positions, name: name, divided: divided}
	if len(name) == 1 && name[0].of == "" {
		s.fixed = &catalog{table: target}
	}
	if _, ok := d.(CellDialect); ok && c.Mode == Append {
		s.cells = true
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.makePositions(ctx); err != nil {
		_, err = d.Classify(err)
		return nil, fmt.Errorf("open sink: %w", err)
	}
	return s, nil
}

// Close closes the database. Batches that are being written fail.
func (s *Sink) Close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close sink: %w", err)
	}
	return nil
}

var (
	_ stream.Owner       = (*Sink)(nil)
	_ consumers.CellSink = (*Sink)(nil)
)

// TakesCells implements consumers.CellSink.
func (s *Sink) TakesCells(schemas.Schema) bool { return true }

// errCommit marks a transaction whose outcome is not known: the commit failed,
// or the position was not where this sink had left it.
var errCommit = errors.New("commit")

// transact runs fn in a transaction of its own. An error of fn rolls it back.
func (s *Sink) transact(ctx context.Context, careful bool, fn func(conn *sql.Conn) error) (err error) {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, s.dialect.Begin(careful)); err != nil {
		discard(conn)
		return err
	}
	err = fn(conn)
	if err == nil {
		if _, err = conn.ExecContext(ctx, "COMMIT"); err == nil {
			return nil
		}
		err = fmt.Errorf("%w: %w", errCommit, err)
	}
	if _, e := conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK"); e != nil {
		discard(conn)
	}
	return err
}
