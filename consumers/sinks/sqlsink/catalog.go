package sqlsink

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"sync"

	"penstock/consumers"
	"penstock/schemas"
)

// catalog is what a sink knows of schemas and of one table.
type catalog struct {
	table string // as an identifier
	mu    sync.Mutex
	// shapes by the model of the schema. Schemas that come and go (a Protobuf
	// message may be a new Schema each time) must not fill it.
	shapes    map[*schemas.Node]*shape
	all       []*shape // each different one
	deletions *shape
	known     known
}

// known is what a sink knows of a table. It is replaced, never changed; nil is not
// known.
type known struct {
	columns    map[string]string // the types by folded name
	partitions *Partitions
}

// maxShapes bounds catalog.shapes.
const maxShapes = 200

// shape returns the shape of a schema's rows.
func (c *catalog) shape(s *Sink, model *schemas.Node) (*shape, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sh := c.shapes[model]; sh != nil {
		return sh, nil
	}
	sh, err := c.newShape(s, model)
	if err != nil {
		return nil, err
	}
	if c.shapes == nil || len(c.shapes) >= maxShapes {
		c.shapes = map[*schemas.Node]*shape{}
	}
	sh = c.same(sh)
	c.shapes[model] = sh
	return sh, nil
}

// same returns the shape that is known already for these columns, or sh, which
// it then is. It is called with c.mu held.
func (c *catalog) same(sh *shape) *shape {
	i := slices.IndexFunc(c.all, func(o *shape) bool {
		return o.record == sh.record && slices.Equal(o.columns, sh.columns) && slices.EqualFunc(o.symbols, sh.symbols, slices.Equal)
	})
	if i >= 0 {
		return c.all[i]
	}
	if len(c.all) >= maxShapes {
		c.all = nil
	}
	c.all = append(c.all, sh)
	return sh
}

func (c *catalog) newShape(s *Sink, model *schemas.Node) (*shape, error) {
	model, _ = model.Nullable()
	sh := &shape{columns: ColumnsOf(model), record: model.Kind == schemas.Record, model: model, in: c}
	if sh.record {
		sh.symbols = make([][]string, len(sh.columns))
		for i, f := range model.Fields {
			n, _ := f.Node.Nullable()
			sh.symbols[i] = n.Symbols
		}
	}
	key := s.config.Key
	if s.config.Mode == Upsert && len(key) == 0 {
		key = []string{KeyColumn}
		sh.columns = append([]Column{recordKey}, sh.columns...)
		sh.keyed = true
	}
	if s.divided != nil && s.divided.column == TimeColumn {
		sh.columns = append(sh.columns, Column{Name: TimeColumn, Type: Timestamp})
		sh.symbols = append(sh.symbols, nil)
		sh.timed = true
	}
	if s.config.SoftDelete != "" {
		sh.columns = append(sh.columns, Column{Name: s.config.SoftDelete, Type: Timestamp})
		sh.soft = true
	}
	if s.divided != nil {
		sh.divides = slices.IndexFunc(sh.columns, func(c Column) bool { return c.Name == s.divided.column })
		if sh.divides < 0 {
			return nil, fmt.Errorf("partition by %q: expected a field of that name, or %s for the record's own time, found none", s.divided.column, TimeColumn)
		}
		if err := s.divided.takes(sh.columns[sh.divides]); err != nil {
			return nil, err
		}
	}
	if len(sh.columns) == 0 {
		return nil, fmt.Errorf("a record without fields has no columns")
	}
	seen := map[string]string{}
	for _, c := range sh.columns {
		if _, err := s.dialect.Identifier(c.Name); err != nil {
			return nil, err
		}
		folded := s.dialect.Fold(c.Name)
		if other, ok := seen[folded]; ok {
			return nil, fmt.Errorf("fields %q and %q would be the same column", other, c.Name)
		}
		seen[folded] = c.Name
	}
	for _, k := range key {
		i := slices.IndexFunc(sh.columns, func(c Column) bool { return c.Name == k })
		if i < 0 {
			return nil, fmt.Errorf("key column %q is no field of it", k)
		}
		if sh.columns[i].Type == JSON {
			return nil, fmt.Errorf("key column %q is %v, which cannot be compared", k, sh.columns[i])
		}
		sh.key = append(sh.key, i)
	}
	return sh, nil
}

// union is the shape with the columns of a, then those that only b has.
func (c *catalog) union(a, b *shape) *shape {
	sh := &shape{columns: slices.Clone(a.columns), key: a.key, keyed: a.keyed, record: true, soft: a.soft, timed: a.timed, divides: a.divides, model: a.model, in: c}
	for _, col := range b.columns {
		if !slices.ContainsFunc(a.columns, func(o Column) bool { return o.Name == col.Name }) {
			sh.columns = append(sh.columns, col)
		}
	}
	if last := len(a.columns) - 1; sh.soft { // it stays the last
		sh.columns = append(slices.Delete(sh.columns, last, last+1), a.columns[last])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.same(sh)
}

// deletion is the shape of a tombstone that finds its row by this column.
func (c *catalog) deletion(s *Sink, key Column) *shape {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deletions == nil {
		c.deletions = &shape{columns: []Column{key}, key: []int{0}, remove: true, in: c}
		if s.config.SoftDelete != "" {
			c.deletions.columns = append(c.deletions.columns, Column{Name: s.config.SoftDelete, Type: Timestamp})
		}
	}
	return c.deletions
}

// ensure makes the tables, or changes them, as operations need it, and returns what
// they are. It reads a table only where what is known does not suffice.
func (s *Sink) ensure(ctx context.Context, conn *sql.Conn, ops []operation) (tables, error) {
	found := tables{}
	for len(ops) > 0 {
		n := 1
		for n < len(ops) && ops[n].shape.in == ops[0].shape.in {
			n++
		}
		c := ops[0].shape.in
		var t table
		var err error
		if t.columns, err = c.ensure(ctx, s, conn, ops[:n]); err != nil {
			return nil, err
		}
		if s.divided != nil && len(t.columns) > 0 {
			k := known{t.columns, c.what().partitions}
			if t.partitions, t.used, err = c.divide(ctx, s, conn, k, ops[:n]); err != nil {
				return nil, err
			}
		}
		found[c], ops = t, ops[n:]
	}
	return found, nil
}

// tables are what the tables of a batch are.
type tables map[*catalog]table

type table struct {
	known
	used []uint32 // partitions that the batch's rows go to
}

// ensure is Sink.ensure for the columns of this table.
func (c *catalog) ensure(ctx context.Context, s *Sink, conn *sql.Conn, ops []operation) (map[string]string, error) {
	var needed []*shape
	for i, op := range ops { // sorted by shape
		if !op.shape.remove && (i == 0 || ops[i-1].shape != op.shape) {
			needed = append(needed, op.shape)
		}
	}
	declared := c.what().columns
	lacks := func() bool { return len(s.missing(declared, needed)) > 0 || len(s.narrow(declared, needed)) > 0 }
	if declared == nil || lacks() {
		var err error
		if declared, err = s.dialect.Columns(ctx, conn, c.table); err != nil {
			return nil, err
		}
		if lacks() {
			if declared, err = c.extend(ctx, s, conn, needed); err != nil {
				return nil, err
			}
		}
	}
	for _, sh := range needed {
		for _, col := range sh.columns {
			if have := declared[s.dialect.Fold(col.Name)]; !s.dialect.Fits(col, have) {
				return nil, c.misfit(s, col, have)
			}
		}
	}
	return declared, nil
}

// misfit says that a column cannot hold what is needed of it.
func (c *catalog) misfit(s *Sink, col Column, have string) error {
	return fmt.Errorf("column %q of table %s: expected a type that holds every %v, such as %s, found %s; change the column or write to another table: %w",
		col.Name, c.table, col, s.dialect.TypeName(col), have, consumers.ErrStop)
}

// missing lists the columns that are needed and not declared, each once. Where
// schemas disagree about a type, it is one that holds the values of all, if
// there is such a one.
func (s *Sink) missing(declared map[string]string, needed []*shape) []Column {
	var list []Column
	at := map[string]int{}
	for _, sh := range needed {
		for _, col := range sh.columns {
			name := s.dialect.Fold(col.Name)
			if _, ok := declared[name]; ok {
				continue
			}
			i, seen := at[name]
			switch {
			case !seen:
				at[name] = len(list)
				list = append(list, col)
			case s.dialect.Fits(list[i], s.dialect.TypeName(col)):
				list[i] = col
			}
		}
	}
	return list
}

// narrow lists the columns that may be widened to hold what is needed, with the
// types to give them as Declared. Key columns stay as they are, and the one by which
// the table is divided.
func (s *Sink) narrow(declared map[string]string, needed []*shape) []Column {
	evolver, ok := s.dialect.(Evolver)
	if !ok || !s.config.Widen {
		return nil
	}
	var list []Column
	for _, sh := range needed {
		for _, col := range sh.columns {
			have, there := declared[s.dialect.Fold(col.Name)]
			// Text fits a column of limited length only as long as it is short.
			if !there || s.dialect.Fits(col, have) && col.Type != Text || slices.Contains(s.config.Key, col.Name) || s.divides(col.Name) {
				continue
			}
			i := slices.IndexFunc(list, func(o Column) bool { return s.dialect.Fold(o.Name) == s.dialect.Fold(col.Name) })
			if i >= 0 {
				have = list[i].Declared
			}
			col.Declared = evolver.Widened(col, have)
			switch {
			case col.Declared == "":
			case i >= 0:
				list[i] = col
			default:
				list = append(list, col)
			}
		}
	}
	return list
}

// extend makes the table or changes it, while no one else does, and returns what
// the table is then.
func (c *catalog) extend(ctx context.Context, s *Sink, conn *sql.Conn, needed []*shape) (map[string]string, error) {
	if err := s.lock(ctx, conn); err != nil {
		return nil, err
	}
	declared, err := s.dialect.Columns(ctx, conn, c.table)
	if err != nil {
		return nil, err
	}
	statements, err := c.changes(s, declared, needed)
	if err != nil || len(statements) == 0 { // somebody else was faster
		return declared, err
	}
	for _, statement := range statements {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			return nil, err
		}
		s.log.Info("change table", "table", c.table, "statement", statement)
	}
	return s.dialect.Columns(ctx, conn, c.table)
}

// changes are the statements that make the table what is needed of it.
func (c *catalog) changes(s *Sink, declared map[string]string, needed []*shape) (statements []string, err error) {
	key := s.config.Key
	if s.config.Mode == Upsert && len(key) == 0 {
		key = []string{KeyColumn}
	}
	evolver, _ := s.dialect.(Evolver)
	var definitions, indexes []string
	for _, col := range s.missing(declared, needed) {
		name, err := s.dialect.Identifier(col.Name)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, consumers.ErrStop)
		}
		definition := name + " " + s.dialect.TypeName(col)
		switch {
		case slices.Contains(key, col.Name) && len(declared) > 0:
			return nil, fmt.Errorf("table %s: expected key column %q with a unique index, found no such column: %w", c.table, col.Name, consumers.ErrStop)
		case slices.Contains(key, col.Name):
			definition += " NOT NULL"
		case s.config.Constrain && len(declared) == 0: // rows that are there have no value for a new column
			constraints, err := constraintsOf(evolver, needed, col.Name)
			if err != nil {
				return nil, err
			}
			definition += constraints
		}
		if s.divides(col.Name) && !strings.Contains(definition, " NOT NULL") {
			definition += " NOT NULL"
		}
		definitions = append(definitions, definition)
		if slices.Contains(s.config.Index, col.Name) {
			index, err := evolver.Index(c.table, col.Name)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", err, consumers.ErrStop)
			}
			indexes = append(indexes, index)
		}
	}
	if len(declared) == 0 && len(definitions) > 0 {
		if len(key) > 0 {
			quoted := make([]string, len(key))
			for i, k := range key {
				if quoted[i], err = s.dialect.Identifier(k); err != nil {
					return nil, fmt.Errorf("%w: %w", err, consumers.ErrStop)
				}
			}
			definitions = append(definitions, "PRIMARY KEY ("+strings.Join(quoted, ", ")+")")
		}
		divided := ""
		if s.divided != nil {
			if divided, err = s.dialect.(Partitioner).PartitionedBy(s.divided.column); err != nil {
				return nil, fmt.Errorf("%w: %w", err, consumers.ErrStop)
			}
		}
		return append([]string{"CREATE TABLE " + c.table + " (\n\t" + strings.Join(definitions, ",\n\t") + "\n)" + divided}, indexes...), nil
	}
	for _, d := range definitions {
		statements = append(statements, "ALTER TABLE "+c.table+" ADD COLUMN "+d)
	}
	for _, col := range s.narrow(declared, needed) {
		name, err := s.dialect.Identifier(col.Name)
		if err != nil {
			return nil, err
		}
		statements = append(statements, "ALTER TABLE "+c.table+" ALTER COLUMN "+name+" TYPE "+col.Declared)
	}
	return append(statements, indexes...), nil
}

// divides reports whether tables are divided by the column.
func (s *Sink) divides(column string) bool { return s.divided != nil && s.divided.column == column }

// constraintsOf are what follows the type of a column: of a field that every one of
// the schemas has, by the last of them.
func constraintsOf(evolver Evolver, needed []*shape, column string) (constraints string, err error) {
	for _, sh := range needed {
		f := sh.model.Field(column)
		if !sh.record || f == nil {
			return "", nil
		}
		if constraints, err = evolver.Constraints(f); err != nil {
			return "", fmt.Errorf("%w: %w", err, consumers.ErrStop)
		}
	}
	return constraints, nil
}

// Plan returns the statements by which the table would be made or changed for
// values of a schema, and carries out none.
func (s *Sink) Plan(ctx context.Context, schema schemas.Schema) (statements []string, err error) {
	c := s.fixed
	if c == nil {
		return nil, fmt.Errorf("plan table %q: records say which table it is; name one", s.config.Table)
	}
	sh, err := c.shape(s, schema.Model())
	if err != nil {
		return nil, fmt.Errorf("plan table %s: %w", c.table, err)
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("plan table %s: %w", c.table, err)
	}
	defer conn.Close()
	declared, err := s.dialect.Columns(ctx, conn, c.table)
	if err == nil {
		statements, err = c.changes(s, declared, []*shape{sh})
	}
	if err == nil && s.divided != nil {
		var made []string
		made, err = c.planned(ctx, s, conn, declared, sh)
		statements = append(statements, made...)
	}
	if err != nil {
		return nil, fmt.Errorf("plan table %s: %w", c.table, err)
	}
	for _, col := range sh.columns {
		have, there := declared[s.dialect.Fold(col.Name)]
		if there && !s.dialect.Fits(col, have) && !slices.ContainsFunc(s.narrow(declared, []*shape{sh}), func(o Column) bool { return o.Name == col.Name }) {
			return statements, c.misfit(s, col, have)
		}
	}
	return statements, nil
}

func (c *catalog) what() known {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known
}

func (c *catalog) forget() { c.learn(known{}) }

func (c *catalog) learn(k known) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = k
}
