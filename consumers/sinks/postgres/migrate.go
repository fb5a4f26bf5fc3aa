package postgres

import (
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"

	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
)

// Phase says when a step of a migration is due.
type Phase string

// The phases, in their order.
const (
	// Expand comes before the first event of the new schema: whoever writes by
	// the old one goes on writing.
	Expand Phase = "expand"
	// Backfill brings the rows up to date that are there, while the table is in
	// use. It can be repeated.
	Backfill Phase = "backfill"
	// Contract comes when the last event of the old schema is stored.
	Contract Phase = "contract"
)

// Cost is what a step does to the rows of the table.
type Cost string

// The costs.
const (
	Catalog Cost = "catalog only"       // neither reads nor writes rows
	Scan    Cost = "scans the table"    // reads all of them
	Rewrite Cost = "rewrites the table" // writes all of them anew, and the indexes
	Rows    Cost = "writes rows"        // as an UPDATE does
)

// Step is a statement of a migration, or several that go into one transaction.
type Step struct {
	Phase Phase  `json:"phase"`
	SQL   string `json:"sql"` // without a semicolon at the end
	// Lock is the strongest lock that it takes on the table.
	Lock string `json:"lock"`
	Cost Cost   `json:"cost"`
	Why  string `json:"why"`
	// Repeat is that it is to be run until it changes no row.
	Repeat bool `json:"repeat,omitempty"`
}

// The locks, weakest first.
const (
	rowExclusive         = "ROW EXCLUSIVE"          // others read and write
	shareUpdateExclusive = "SHARE UPDATE EXCLUSIVE" // others read and write
	shareRowExclusive    = "SHARE ROW EXCLUSIVE"    // others read
	accessExclusive      = "ACCESS EXCLUSIVE"       // others wait
)

// Migrate says by which statements a table that the sink made from one version
// of a schema becomes one for the next, so that the sink goes on writing by both
// all the while. notes are what is left to decide. What bounds values in the
// schema becomes a CHECK, where SQL can say it.
//
// A column that is part of the key is left alone, but for a note.
func Migrate(t schemas.Type, before, after *schemas.Node, table string, key []string) (steps []Step, notes []string, err error) {
	m := migration{key: key}
	if m.table, _, err = m.d.Tables(table); err != nil {
		return nil, nil, err
	}
	m.base = table[strings.LastIndexByte(table, '.')+1:]
	before, after = record(before), record(after)
	renamed := map[string]schemas.Change{} // by new name
	changes, _ := schemas.Diff(t, schemas.Pair{Old: before, New: after})
	for _, c := range changes {
		if c.Kind == schemas.FieldRenamed && c.New.Up != nil && c.New.Up.Up == nil {
			renamed[c.NewField.Name] = c
		}
	}
	gone := map[string]bool{}
	for i := range before.Fields {
		gone[before.Fields[i].Name] = true
	}
	for i := range after.Fields {
		f := &after.Fields[i]
		was := before.Field(f.Name)
		if c, ok := renamed[f.Name]; ok {
			m.rename(f, c.OldField)
			m.add(f, c.OldField)
		} else if was == nil {
			m.add(f, nil)
		} else {
			delete(gone, f.Name)
			m.change(was, f)
		}
	}
	for i := range before.Fields {
		if f := &before.Fields[i]; gone[f.Name] {
			m.remove(f)
		}
	}
	slices.SortStableFunc(m.steps, func(a, b Step) int { return order(a.Phase) - order(b.Phase) })
	return m.steps, m.notes, m.err
}

func order(p Phase) int { return slices.Index([]Phase{Expand, Backfill, Contract}, p) }

// record is what the columns of a schema are made of: its record, or one of the
// single column that there is else.
func record(n *schemas.Node) *schemas.Node {
	n, nullable := n.Nullable()
	if n.Kind == schemas.Record {
		return n
	}
	c := sqlsink.ColumnsOf(n)[0]
	return &schemas.Node{Kind: schemas.Record, Fields: []schemas.Field{{Name: c.Name, Node: n, Required: !nullable}}}
}

type migration struct {
	d     dialect
	table string // as an identifier
	base  string // its name, without its schema
	key   []string
	steps []Step
	notes []string
	err   error
}

// step adds a step whose statement is made of a format and identifiers.
func (m *migration) step(p Phase, lock string, cost Cost, why, format string, args ...any) {
	m.steps = append(m.steps, Step{Phase: p, SQL: fmt.Sprintf(format, args...), Lock: lock, Cost: cost, Why: why})
}

func (m *migration) alter(p Phase, cost Cost, why, format string, args ...any) {
	m.step(p, accessExclusive, cost, why, "ALTER TABLE "+m.table+" "+format, args...)
}

// id quotes a column's name.
func (m *migration) id(name string) string {
	quoted, err := m.d.Identifier(name)
	if err != nil && m.err == nil {
		m.err = err
	}
	return quoted
}

// made quotes a name that is made of the table's, a column's and a word.
func (m *migration) made(column, word string) string {
	name := m.base + "_" + column + "_" + word
	if len(name) > maxIdentifier {
		name = strings.ToValidUTF8(name[:maxIdentifier-len(word)-1], "") + "_" + word
	}
	return m.id(name)
}

func (m *migration) isKey(name string) bool {
	if !slices.Contains(m.key, name) {
		return false
	}
	if note := name + " is part of the key: to change it, write to a new table"; !slices.Contains(m.notes, note) {
		m.notes = append(m.notes, note)
	}
	return true
}

// column is the sink's column of a field.
func column(f *schemas.Field) sqlsink.Column {
	return sqlsink.ColumnsOf(&schemas.Node{Kind: schemas.Record, Fields: []schemas.Field{*f}})[0]
}

// needed reports whether a field always has a value that is not null.
func needed(f *schemas.Field) bool {
	_, nullable := f.Node.Nullable()
	return !nullable && f.Node.Kind != schemas.Null && (f.Required || f.HasDefault && f.Default != nil)
}

// add adds the column of a new field, or of one that was called otherwise.
func (m *migration) add(f, was *schemas.Field) {
	c := column(f)
	name, declared := m.id(f.Name), m.d.TypeName(c)
	why := "the field is new"
	fill := ""
	if was != nil {
		why = "the field was called " + was.Name
	} else if f.HasDefault && f.Default != nil {
		if literal, ok := literalOf(c, f.Default); ok {
			fill = " DEFAULT " + literal
			why += ", and old events have its default"
		} else {
			m.notes = append(m.notes, fmt.Sprintf("the default of %s is not carried over: rows of old events have NULL", f.Name))
		}
	}
	m.alter(Expand, Catalog, why, "ADD COLUMN IF NOT EXISTS %s %s%s", name, declared, fill)
	m.constrain(nil, f)
	switch {
	case !needed(f):
	case was != nil && needed(was), fill != "":
		m.require(f, false, false)
	default:
		m.notes = append(m.notes, fmt.Sprintf("%s is required, and rows of old events have none: fill them before it can be NOT NULL", f.Name))
	}
}

// rename copies what is in the old column, and once more what was written to it
// meanwhile.
func (m *migration) rename(f, was *schemas.Field) {
	if m.isKey(was.Name) {
		return
	}
	from, to := column(was), column(f)
	value, ok := cast(m.id(was.Name), from, to)
	if !ok {
		m.notes = append(m.notes, fmt.Sprintf("%s was called %s and was %v: PostgreSQL makes no %v of that", f.Name, was.Name, from, to))
		return
	}
	m.fill(Backfill, f.Name, value, "rows of old events have it under the old name")
	m.fill(Contract, f.Name, value, "and so do those that were written meanwhile")
}

// fill copies one column into another, some rows at a time.
func (m *migration) fill(p Phase, to, value, why string) {
	const rows = 10_000
	m.step(p, rowExclusive, Rows, why, `UPDATE %[1]s SET %[2]s = %[3]s WHERE ctid = ANY (ARRAY(SELECT ctid FROM %[1]s WHERE %[2]s IS NULL AND (%[3]s) IS NOT NULL LIMIT %[4]d))`,
		m.table, m.id(to), value, rows)
	m.steps[len(m.steps)-1].Repeat = true
}

// remove drops the column of a field that is gone.
func (m *migration) remove(f *schemas.Field) {
	if m.isKey(f.Name) {
		return
	}
	if needed(f) {
		m.alter(Expand, Catalog, "new events lack the field", "ALTER COLUMN %s DROP NOT NULL", m.id(f.Name))
	}
	m.alter(Contract, Catalog, "the field is gone; its space is given back as rows are written anew", "DROP COLUMN IF EXISTS %s", m.id(f.Name))
}

// change brings a column from one version of its field to the next.
func (m *migration) change(was, f *schemas.Field) {
	from, to := column(was), column(f)
	old, declared := m.d.TypeName(from), m.d.TypeName(to)
	// A column that holds all of the new values stays as it is.
	replaced := !m.d.Fits(to, old) && !m.isKey(f.Name) && m.retype(f, from, to, declared)
	if needed(was) && !needed(f) && !replaced {
		m.alter(Expand, Catalog, "it may be null or absent", "ALTER COLUMN %s DROP NOT NULL", m.id(f.Name))
	}
	if replaced {
		was = nil // what was said of the column went with it
	}
	m.constrain(was, f)
	if (was == nil || !needed(was)) && needed(f) {
		m.require(f, false, false)
	}
}

// retype changes a column's type: in the catalog alone where PostgreSQL can, else
// by another column that follows the first and takes its place. It reports
// whether there is another.
func (m *migration) retype(f *schemas.Field, from, to sqlsink.Column, declared string) (replaced bool) {
	name := m.id(f.Name)
	why := fmt.Sprintf("it is %v and was %v", to, from)
	if from.Type == sqlsink.Decimal && to.Type == sqlsink.Decimal && (to.Precision == 0 || from.Precision > 0 && from.Scale == to.Scale && to.Precision >= from.Precision) {
		m.alter(Expand, Catalog, why, "ALTER COLUMN %s TYPE %s", name, declared)
		return false
	}
	value, ok := cast(name, from, to)
	if !ok {
		m.notes = append(m.notes, fmt.Sprintf("%s: PostgreSQL makes no %v of %v: give the field a new name", f.Name, to, from))
		return false
	}
	// A sink keeps the types of columns in mind, and COPY takes bytes for what the
	// column is: a long for a double.
	m.notes = append(m.notes, fmt.Sprintf("%s: stop the consumers before the columns change places, and start them again afterwards: one that runs stops by itself where the new type does not hold what its schema has", f.Name))
	if !m.d.Fits(from, declared) {
		m.notes = append(m.notes, fmt.Sprintf("%s: a column of %v does not hold all of %v: by then nobody may write by the old schema", f.Name, to, from))
	}
	follow, next, last := m.made(f.Name, "follow"), f.Name+"__new", f.Name+"__old"
	m.alter(Expand, Catalog, why+"; a change in place would rewrite the table while everybody waits, so a second column is filled beside the first", "ADD COLUMN IF NOT EXISTS %s %s", m.id(next), declared)
	inRow, _ := cast("NEW."+name, from, to)
	m.step(Expand, shareRowExclusive, Catalog, "it follows what is written", "CREATE FUNCTION %[1]s() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.%[2]s := %[3]s; RETURN NEW; END $$;\nCREATE TRIGGER %[1]s BEFORE INSERT OR UPDATE ON %[4]s FOR EACH ROW EXECUTE FUNCTION %[1]s()",
		follow, m.id(next), inRow, m.table)
	m.fill(Backfill, next, value, "rows from before it followed")
	m.step(Backfill, accessExclusive, Catalog, "the columns change places, in one transaction, with no consumer running; from here on events of the new schema can be stored",
		"DROP TRIGGER %[1]s ON %[2]s;\nDROP FUNCTION %[1]s();\nALTER TABLE %[2]s ALTER COLUMN %[3]s DROP NOT NULL;\nALTER TABLE %[2]s RENAME COLUMN %[3]s TO %[4]s;\nALTER TABLE %[2]s RENAME COLUMN %[5]s TO %[3]s",
		follow, m.table, name, m.id(last), m.id(next))
	m.alter(Contract, Catalog, "nobody needs what it was", "DROP COLUMN IF EXISTS %s", m.id(last))
	return true
}

// require makes a column NOT NULL without a scan under the lock that keeps others
// out: a CHECK is validated first, and PostgreSQL believes that. there and valid say
// how far an earlier run has come.
func (m *migration) require(f *schemas.Field, there, valid bool) {
	name, check := m.id(f.Name), m.made(f.Name, "present")
	if !there {
		m.alter(Contract, Catalog, "it is required", "ADD CONSTRAINT %s CHECK (%s IS NOT NULL) NOT VALID", check, name)
	}
	if !valid {
		m.validate(check, "fails if there is a NULL: fill it in first")
	}
	m.alter(Contract, Catalog, "PostgreSQL knows by the constraint that there is no NULL", "ALTER COLUMN %s SET NOT NULL", name)
	m.drop(check)
}

// drop drops the CHECK by which PostgreSQL knew that a column has no NULL.
func (m *migration) drop(check string) {
	m.alter(Contract, Catalog, "it has done its work", "DROP CONSTRAINT %s", check)
}

func (m *migration) validate(constraint, why string) {
	m.step(Contract, shareUpdateExclusive, Scan, why, "ALTER TABLE %s VALIDATE CONSTRAINT %s", m.table, constraint)
}

// constrain brings a column's CHECK from one version to the next. In between
// there is none.
func (m *migration) constrain(was, f *schemas.Field) {
	var old string
	if was != nil {
		old, _ = m.check(was)
	}
	fresh := m.noted(f)
	if old == fresh {
		return
	}
	check := m.made(f.Name, "check")
	if old != "" {
		m.alter(Expand, Catalog, "values are bounded in another way", "DROP CONSTRAINT IF EXISTS %s", check)
	}
	if fresh != "" {
		m.bound(check, fresh)
	}
}

// bound adds a CHECK without a scan under the lock that keeps others out.
func (m *migration) bound(check, condition string) {
	m.alter(Contract, Catalog, "it holds for what is written from now on", "ADD CONSTRAINT %s CHECK (%s) NOT VALID", check, condition)
	m.validate(check, outOfBounds)
}

const outOfBounds = "fails if an old row is out of bounds"

// noted is check, with a note of what SQL does not say.
func (m *migration) noted(f *schemas.Field) string {
	condition, lost := m.check(f)
	for _, l := range lost {
		m.notes = append(m.notes, fmt.Sprintf("%s: the table does not check the %s", f.Name, l))
	}
	return condition
}

// check is the condition that a field's values meet, and what of it SQL does not
// say.
func (m *migration) check(f *schemas.Field) (condition string, lost []string) {
	n, _ := f.Node.Nullable()
	name := m.id(f.Name)
	c := column(f)
	var all []string
	require := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	// Protobuf's enums, which have numbers, take ones that they do not name.
	if n.Kind == schemas.Enum && n.Numbers == nil && n.Fallback == "" && len(n.Symbols) > 0 && c.Type == sqlsink.Text {
		require("%s IN (%s)", name, quoted(n.Symbols))
	}
	b := n.Bounds
	if b == nil {
		return strings.Join(all, " AND "), nil
	}
	number := c.Type == sqlsink.Int32 || c.Type == sqlsink.Int64 || c.Type == sqlsink.Float32 || c.Type == sqlsink.Float64 || c.Type == sqlsink.Decimal
	for _, bound := range []struct {
		op string
		at *big.Rat
	}{{">=", b.Least}, {"<=", b.Most}, {">", b.Above}, {"<", b.Below}} {
		if bound.at == nil {
			continue
		}
		if text, ok := decimal(bound.at); ok && number {
			require("%s %s %s", name, bound.op, text)
		} else {
			lost = append(lost, "range")
		}
	}
	if b.Multiple != nil {
		if text, ok := decimal(b.Multiple); ok && number && c.Type != sqlsink.Float32 && c.Type != sqlsink.Float64 {
			require("mod(%s, %s) = 0", name, text)
		} else {
			lost = append(lost, "multiple")
		}
	}
	size := ""
	switch {
	case c.Type == sqlsink.Text:
		size = "char_length(" + name + ")"
	case n.Kind == schemas.Array:
		size = "jsonb_array_length(" + name + ")"
	}
	if b.MinSize > 0 || b.MaxSize != nil {
		switch {
		case size == "":
			lost = append(lost, "size")
		case b.MaxSize == nil:
			require("%s >= %d", size, b.MinSize)
		case b.MinSize == 0:
			require("%s <= %d", size, *b.MaxSize)
		default:
			require("%s BETWEEN %d AND %d", size, b.MinSize, *b.MaxSize)
		}
	}
	if b.Pattern != "" {
		if c.Type == sqlsink.Text && plainPattern(b.Pattern) {
			require("%s ~ %s", name, quote(b.Pattern))
		} else {
			lost = append(lost, "pattern")
		}
	}
	if b.Unique {
		lost = append(lost, "uniqueness of the items")
	}
	if len(b.Values) > 0 && n.Kind != schemas.Enum {
		var texts []string
		for _, v := range b.Values {
			if s, ok := literalOf(c, v); ok {
				texts = append(texts, s)
			}
		}
		if len(texts) == len(b.Values) && c.Type != sqlsink.JSON {
			require("%s IN (%s)", name, strings.Join(texts, ", "))
		} else {
			lost = append(lost, "list of values")
		}
	}
	return strings.Join(all, " AND "), lost
}

// plainPattern reports whether a regular expression means the same to PostgreSQL:
// it has neither classes by name nor looks around.
func plainPattern(p string) bool {
	return regexp.MustCompile(`^([^\\]|\\[-.+*?/|^$()\[\]{}])*$`).MatchString(p) &&
		!strings.Contains(p, "(?") && !strings.Contains(p, "[[") && !strings.Contains(p, "[.") && !strings.Contains(p, "[=") && !strings.HasPrefix(p, "***")
}

// decimal is a number as SQL writes it, where it has finitely many digits.
func decimal(r *big.Rat) (string, bool) {
	digits, exact := r.FloatPrec()
	return r.FloatString(digits), exact
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func quoted(all []string) string {
	texts := make([]string, len(all))
	for i, s := range all {
		texts[i] = quote(s)
	}
	return strings.Join(texts, ", ")
}

// literalOf is a value as SQL writes it, where it is one that a column of its type
// holds and that has a plain spelling.
func literalOf(c sqlsink.Column, v any) (string, bool) {
	switch v := v.(type) {
	case bool:
		return fmt.Sprint(v), c.Type == sqlsink.Bool
	case string:
		return quote(v), (c.Type == sqlsink.Text || c.Type == sqlsink.UUID) && !strings.ContainsRune(v, 0)
	}
	text := fmt.Sprint(v) // numbers of Go, and JSON's as they are written
	if _, ok := new(big.Rat).SetString(text); !ok {
		return "", false
	}
	switch c.Type {
	case sqlsink.Int32, sqlsink.Int64, sqlsink.Float32, sqlsink.Float64, sqlsink.Decimal:
		return text, true
	}
	return "", false
}

// cast makes a value of one column's type of an expression of another's, where
// PostgreSQL has a way.
func cast(value string, from, to sqlsink.Column) (string, bool) {
	declared := dialect{}.TypeName(to)
	number := func(t sqlsink.Type) bool {
		return slices.Contains([]sqlsink.Type{sqlsink.Int32, sqlsink.Int64, sqlsink.Float32, sqlsink.Float64, sqlsink.Decimal}, t)
	}
	moment := func(t sqlsink.Type) bool {
		return slices.Contains([]sqlsink.Type{sqlsink.Date, sqlsink.Timestamp, sqlsink.LocalTimestamp}, t)
	}
	plain := value + "::" + declared
	switch {
	case declared == (dialect{}).TypeName(from):
		return value, true
	case from.Type == to.Type, number(from.Type) && number(to.Type):
		return plain, true
	case from.Type == sqlsink.Bytes && to.Type == sqlsink.Text:
		return "convert_from(" + value + ", 'UTF8')", true
	case from.Type == sqlsink.Text && to.Type == sqlsink.Bytes:
		return "convert_to(" + value + ", 'UTF8')", true
	case from.Type == sqlsink.Bytes || to.Type == sqlsink.Bytes:
		return "", false
	case to.Type == sqlsink.JSON:
		return "to_jsonb(" + value + ")", true
	case from.Type == sqlsink.JSON:
		return "(" + value + " #>> '{}')::" + declared, true
	case from.Type == sqlsink.Text || to.Type == sqlsink.Text:
		return plain, true
	case from.Type == sqlsink.Bool && number(to.Type):
		return value + "::int::" + declared, true
	case number(from.Type) && to.Type == sqlsink.Bool:
		return "(" + value + " <> 0)", true
	case moment(from.Type) && to.Type == sqlsink.Timestamp: // the sink's days and local times stand in UTC
		return value + "::timestamp AT TIME ZONE 'UTC'", true
	case from.Type == sqlsink.Timestamp && moment(to.Type):
		return "(" + value + " AT TIME ZONE 'UTC')::" + declared, true
	case moment(from.Type) && moment(to.Type):
		return plain, true
	}
	return "", false
}
