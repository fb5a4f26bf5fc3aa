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

// catalog is what a sink knows of schemas and of its table.
type catalog struct {
	mu sync.Mutex
	// shapes by the model of the schema. Schemas that come and go (a Protobuf
	// message may be a new Schema each time) must not fill it.
	shapes    map[*schemas.Node]*shape
	all       []*shape // each different one
	deletions *shape
	// declared is the types of the table's columns by folded name. It is
	// replaced, never changed; nil is not known.
	declared map[string]string
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
	sh, err := s.newShape(model)
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

func (s *Sink) newShape(model *schemas.Node) (*shape, error) {
	model, _ = model.Nullable()
	sh := &shape{columns: ColumnsOf(model), record: model.Kind == schemas.Record}
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
	sh := &shape{columns: slices.Clone(a.columns), key: a.key, keyed: a.keyed, record: true}
	for _, col := range b.columns {
		if !slices.ContainsFunc(a.columns, func(o Column) bool { return o.Name == col.Name }) {
			sh.columns = append(sh.columns, col)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.same(sh)
}

// deletion is the shape of a tombstone that finds its row by this column.
func (c *catalog) deletion(key Column) *shape {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deletions == nil {
		c.deletions = &shape{columns: []Column{key}, key: []int{0}, remove: true}
	}
	return c.deletions
}

// ensure makes the table, or adds the columns to it, that operations need, and
// returns the declared types of all its columns. It reads the table only where
// what is known does not suffice.
func (c *catalog) ensure(ctx context.Context, s *Sink, conn *sql.Conn, ops []operation) (map[string]string, error) {
	var needed [][]Column
	for i, op := range ops { // sorted by shape
		if !op.shape.remove && (i == 0 || ops[i-1].shape != op.shape) {
			needed = append(needed, op.shape.columns)
		}
	}
	declared := c.known()
	missing := s.missing(declared, needed)
	if declared == nil || len(missing) > 0 {
		var err error
		if declared, err = s.dialect.Columns(ctx, conn, s.table); err != nil {
			return nil, err
		}
		if missing = s.missing(declared, needed); len(missing) > 0 {
			if declared, err = s.extend(ctx, conn, needed); err != nil {
				return nil, err
			}
		}
	}
	for _, columns := range needed {
		for _, col := range columns {
			if have := declared[s.dialect.Fold(col.Name)]; !s.dialect.Fits(col, have) {
				return nil, fmt.Errorf("column %q of table %s: expected a type that holds every %v, such as %s, found %s; change the column or write to another table: %w",
					col.Name, s.table, col, s.dialect.TypeName(col), have, consumers.ErrStop)
			}
		}
	}
	return declared, nil
}

// missing lists the columns that are needed and not declared, each once. Where
// schemas disagree about a type, it is one that holds the values of all, if
// there is such a one.
func (s *Sink) missing(declared map[string]string, needed [][]Column) []Column {
	var list []Column
	at := map[string]int{}
	for _, columns := range needed {
		for _, col := range columns {
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

// extend makes the table or adds columns to it, while no one else does, and
// returns what the table is then.
func (s *Sink) extend(ctx context.Context, conn *sql.Conn, needed [][]Column) (map[string]string, error) {
	if err := s.lock(ctx, conn); err != nil {
		return nil, err
	}
	declared, err := s.dialect.Columns(ctx, conn, s.table)
	if err != nil {
		return nil, err
	}
	missing := s.missing(declared, needed)
	key := s.config.Key
	if s.config.Mode == Upsert && len(key) == 0 {
		key = []string{KeyColumn}
	}
	var definitions []string
	for _, col := range missing {
		name, err := s.dialect.Identifier(col.Name)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, consumers.ErrStop)
		}
		definition := name + " " + s.dialect.TypeName(col)
		if slices.Contains(key, col.Name) {
			if len(declared) > 0 {
				return nil, fmt.Errorf("table %s: expected key column %q with a unique index, found no such column: %w", s.table, col.Name, consumers.ErrStop)
			}
			definition += " NOT NULL"
		}
		definitions = append(definitions, definition)
	}
	switch {
	case len(definitions) == 0: // somebody else was faster
		return declared, nil
	case len(declared) == 0:
		if len(key) > 0 {
			quoted := make([]string, len(key))
			for i, k := range key {
				if quoted[i], err = s.dialect.Identifier(k); err != nil {
					return nil, fmt.Errorf("%w: %w", err, consumers.ErrStop)
				}
			}
			definitions = append(definitions, "PRIMARY KEY ("+strings.Join(quoted, ", ")+")")
		}
		if _, err := conn.ExecContext(ctx, "CREATE TABLE "+s.table+" (\n\t"+strings.Join(definitions, ",\n\t")+"\n)"); err != nil {
			return nil, err
		}
		s.log.Info("make table", "table", s.table, "columns", len(missing))
	default:
		for i, d := range definitions {
			if _, err := conn.ExecContext(ctx, "ALTER TABLE "+s.table+" ADD COLUMN "+d); err != nil {
				return nil, err
			}
			s.log.Info("add column", "table", s.table, "column", missing[i].Name, "type", s.dialect.TypeName(missing[i]))
		}
	}
	return s.dialect.Columns(ctx, conn, s.table)
}

func (c *catalog) known() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.declared
}

func (c *catalog) forget() { c.learn(nil) }

func (c *catalog) learn(declared map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.declared = declared
}
