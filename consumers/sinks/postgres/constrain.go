package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"penstock/schemas"
)

// check is a CHECK that a table has.
type check struct {
	expression string // as the server prints it
	valid      bool   // every row meets it
}

// Constrain says by which statements a table that is there gets what a schema says of
// its fields' values, as Config.Constrain has it in a new one: none of them keeps
// others from reading and writing while rows are looked at. One that is there is left
// alone, whatever it is called, and what an earlier run began is gone on with. notes
// are what is left to decide. A table that is not there gets none.
func Constrain(ctx context.Context, address, table string, model *schemas.Node) (steps []Step, notes []string, err error) {
	m := migration{base: table[strings.LastIndexByte(table, '.')+1:]}
	if m.table, _, err = m.d.Tables(table); err != nil {
		return nil, nil, err
	}
	conn, err := connect(ctx, address)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	model = record(model)
	if err = m.lacking(ctx, conn, model); err != nil {
		return nil, nil, fmt.Errorf("constrain table %s: %w", m.table, err)
	}
	return m.steps, m.notes, m.err
}

// lacking adds the steps that bring the table's constraints.
func (m *migration) lacking(ctx context.Context, conn *pgx.Conn, model *schemas.Node) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // what it made is to be gone
	present := map[string]bool{}                  // columns, with whether they are NOT NULL
	rows, err := tx.Query(ctx, `SELECT a.attname::text, a.attnotnull FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE `+named+` AND a.attnum > 0 AND NOT a.attisdropped`, parameters(m.table)...)
	if err != nil {
		return err
	}
	var name string
	var required bool
	if _, err = pgx.ForEachRow(rows, []any{&name, &required}, func() error { present[name] = required; return nil }); err != nil || len(present) == 0 {
		return err
	}
	have, err := checks(ctx, tx, m.table)
	if err != nil {
		return err
	}
	wanted, err := m.printed(ctx, tx, model, present)
	if err != nil {
		return err
	}
	for i := range model.Fields {
		f := &model.Fields[i]
		if condition := m.noted(f); condition != "" {
			m.bring(f, condition, wanted[f.Name], have)
		}
		marker, there := have[m.made(f.Name, "present")]
		switch required, known := present[f.Name]; {
		case needed(f) && !known:
			m.notes = append(m.notes, f.Name+": the column is new, so the rows that are there have no value, and it cannot be required")
		case needed(f) && !required:
			m.require(f, there, marker.valid)
		case required && there:
			m.drop(m.made(f.Name, "present"))
		}
	}
	return nil
}

// bring adds the steps that bring one CHECK, unless it is there. printed is what the
// server makes of the condition.
func (m *migration) bring(f *schemas.Field, condition, printed string, have map[string]check) {
	own, begun := m.made(f.Name, "check"), ""
	for name, c := range have {
		switch same := printed != "" && c.expression == printed; {
		case same && c.valid:
			return
		case same:
			begun = max(begun, name)
		}
	}
	if begun != "" {
		m.validate(begun, outOfBounds)
		return
	}
	if c, taken := have[own]; taken {
		m.notes = append(m.notes, fmt.Sprintf("%s: the schema says %s, and the constraint %s says %s: drop it if the schema is right", f.Name, condition, own, c.expression))
		return
	}
	m.bound(own, condition)
}

// checks are the CHECKs of a table, by their names as identifiers.
func checks(ctx context.Context, tx pgx.Tx, table string) (map[string]check, error) {
	all := map[string]check{}
	rows, err := tx.Query(ctx, `SELECT k.conname::text, pg_get_expr(k.conbin, k.conrelid), k.convalidated FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE k.contype = 'c' AND `+named, parameters(table)...)
	if err != nil {
		return nil, err
	}
	var name string
	var c check
	_, err = pgx.ForEachRow(rows, []any{&name, &c.expression, &c.valid}, func() error {
		quoted, err := dialect{}.Identifier(name)
		all[quoted] = c
		return err
	})
	return all, err
}

// printed is, by column, what the server makes of the conditions of columns that are
// there: the one way to tell whether two say the same. It makes a table of its own
// for that, which goes with the transaction.
func (m *migration) printed(ctx context.Context, tx pgx.Tx, model *schemas.Node, present map[string]bool) (map[string]string, error) {
	const scratch = `"penstock_conditions"`
	var names, add []string
	for i := range model.Fields {
		f := &model.Fields[i]
		condition, _ := m.check(f)
		if _, there := present[f.Name]; there && condition != "" {
			add = append(add, fmt.Sprintf(`ADD CONSTRAINT "c%d" CHECK (%s)`, len(names), condition))
			names = append(names, f.Name)
		}
	}
	if m.err != nil || len(add) == 0 {
		return nil, m.err
	}
	if _, err := tx.Exec(ctx, "CREATE TEMPORARY TABLE "+scratch+" (LIKE "+m.table+"); ALTER TABLE pg_temp."+scratch+" "+strings.Join(add, ", ")); err != nil {
		return nil, err
	}
	made, err := checks(ctx, tx, scratch)
	all := map[string]string{}
	for i, name := range names {
		all[name] = made[fmt.Sprintf(`"c%d"`, i)].expression
	}
	return all, err
}

// lockTimeout is how long a statement of Apply waits for a lock, while others wait
// for it.
const lockTimeout = "3s"

// Apply carries out statements, each by itself, those of one text in one transaction,
// and tells of each text that is done.
func Apply(ctx context.Context, address string, statements []string, done func(statement string)) (err error) {
	conn, err := connect(ctx, address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	for _, s := range slices.Insert(slices.Clone(statements), 0, "SET lock_timeout = '"+lockTimeout+"'") {
		if _, err := conn.Exec(ctx, s); err != nil {
			return fmt.Errorf("carry out %s: %w", s, err)
		}
		done(s)
	}
	return nil
}
