package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
)

// Table is what a table says of its rows.
type Table struct {
	// Record has a field for each column that is written to: its type, its
	// comment, whether it may be NULL, its default where that is a constant, and
	// what the CHECK constraints say of it alone.
	Record *schemas.Node
	// Notes are what is not carried over.
	Notes []string

	declared map[string]string
}

// Describe reads what a table of a database is like. The name is as in Config.
func Describe(ctx context.Context, address, name string) (table *Table, err error) {
	if _, _, err := (dialect{}).Tables(name); err != nil {
		return nil, err
	}
	conn, err := connect(ctx, address)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	schema, relation, qualified := strings.Cut(name, ".")
	if !qualified {
		schema, relation = "", name
	}
	t := &Table{Record: &schemas.Node{Kind: schemas.Record, Name: relation}, declared: map[string]string{}}
	var id uint32
	err = conn.QueryRow(ctx, `SELECT c.oid, coalesce(obj_description(c.oid, 'pg_class'), '') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND CASE WHEN $2 = '' THEN pg_table_is_visible(c.oid) ELSE n.nspname = $2 END`,
		relation, schema).Scan(&id, &t.Record.Doc)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("PostgreSQL at %s has no table %q", where(conn.Config()), name)
	}
	if err == nil {
		err = t.columns(ctx, conn, id)
	}
	if err == nil {
		err = t.checks(ctx, conn, id)
	}
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL at %s: read table %q: %w", where(conn.Config()), name, err)
	}
	return t, nil
}

// Refuses are the columns to which the sink could not write what a schema says,
// each in a sentence.
func (t *Table) Refuses(model *schemas.Node) (all []string) {
	for _, c := range sqlsink.ColumnsOf(model) {
		if declared := t.declared[c.Name]; !(dialect{}).Fits(c, declared) {
			all = append(all, fmt.Sprintf("%s: the sink would want a column for every %v, and this is %s", c.Name, c, declared))
		}
	}
	return all
}

func (t *Table) columns(ctx context.Context, conn *pgx.Conn, id uint32) error {
	rows, err := conn.Query(ctx, `SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, coalesce(col_description(a.attrelid, a.attnum), ''),
		coalesce(pg_get_expr(d.adbin, d.adrelid), ''),
		ARRAY(SELECT enumlabel::text FROM pg_enum e WHERE e.enumtypid = a.atttypid ORDER BY enumsortorder)
		FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum`, id)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var (
			f                    schemas.Field
			declared, expression string
			labels               []string
		)
		if err := rows.Scan(&f.Name, &declared, &f.Required, &f.Doc, &expression, &labels); err != nil {
			return err
		}
		t.declared[f.Name] = declared
		if f.Node = nodeOf(declared, labels); f.Node == nil {
			f.Node = &schemas.Node{Kind: schemas.String}
			t.note("%s: a column of type %s is taken for text", f.Name, declared)
		}
		if expression != "" {
			if f.Default, f.HasDefault = constant(f.Node, uncast(expression)); !f.HasDefault {
				t.note("%s: the default %s is no constant", f.Name, expression)
			}
		}
		t.Record.Fields = append(t.Record.Fields, f)
	}
	return rows.Err()
}

func (t *Table) note(format string, args ...any) {
	t.Notes = append(t.Notes, fmt.Sprintf(format, args...))
}

var sized = regexp.MustCompile(`^(character varying|character|numeric)\((\d+)(?:,(-?\d+))?\)$`)

// nodeOf is what a column of a type holds, nil for a type that is not known.
func nodeOf(declared string, labels []string) *schemas.Node {
	if item, ok := strings.CutSuffix(declared, "[]"); ok {
		items := nodeOf(item, labels)
		if items == nil {
			return nil
		}
		return &schemas.Node{Kind: schemas.Array, Items: items}
	}
	if len(labels) > 0 {
		return &schemas.Node{Kind: schemas.Enum, Symbols: labels}
	}
	if m := sized.FindStringSubmatch(declared); m != nil {
		first, _ := strconv.Atoi(m[2])
		if m[1] != "numeric" {
			return &schemas.Node{Kind: schemas.String, Bounds: &schemas.Bounds{MaxSize: &first}}
		}
		scale, _ := strconv.Atoi(m[3])
		if scale < 0 || scale > first {
			return &schemas.Node{Kind: schemas.Bytes, Logical: schemas.Decimal}
		}
		return &schemas.Node{Kind: schemas.Bytes, Logical: schemas.Decimal, Precision: first, Scale: scale}
	}
	node, ok := map[string]schemas.Node{
		"boolean": {Kind: schemas.Bool}, "smallint": {Kind: schemas.Int, Bits: 32}, "integer": {Kind: schemas.Int, Bits: 32},
		"bigint": {Kind: schemas.Int, Bits: 64}, "real": {Kind: schemas.Float, Bits: 32}, "double precision": {Kind: schemas.Float, Bits: 64},
		"numeric": {Kind: schemas.Bytes, Logical: schemas.Decimal},
		"text":    {Kind: schemas.String}, "character varying": {Kind: schemas.String}, "bytea": {Kind: schemas.Bytes},
		"uuid": {Kind: schemas.String, Logical: schemas.UUID}, "date": {Kind: schemas.Int, Bits: 32, Logical: schemas.Date},
		"time without time zone":      {Kind: schemas.Int, Bits: 64, Logical: schemas.TimeOfDay},
		"timestamp with time zone":    {Kind: schemas.Int, Bits: 64, Logical: schemas.Timestamp},
		"timestamp without time zone": {Kind: schemas.Int, Bits: 64, Logical: schemas.LocalTime},
		"json":                        {Kind: schemas.Any}, "jsonb": {Kind: schemas.Any},
	}[declared]
	if !ok {
		return nil
	}
	if declared == "smallint" {
		node.Bounds = &schemas.Bounds{Least: big.NewRat(-1<<15, 1), Most: big.NewRat(1<<15-1, 1)}
	}
	return &node
}

// What PostgreSQL prints of the expressions that Migrate writes, and of those that
// mean the same, without casts.
var (
	stringSQL   = `'((?:[^']|'')*)'`
	numberSQL   = `'?\(*(-?[0-9]+(?:\.[0-9]+)?)\)*'?\)*`
	columnSQL   = `\(*"?([^"()]+?)"?\)*`
	stringOnly  = regexp.MustCompile(`^` + stringSQL + `$`)
	numberOnly  = regexp.MustCompile(`^` + numberSQL + `$`)
	comparison  = regexp.MustCompile(`^` + columnSQL + ` (>=|<=|>|<) \(*` + numberSQL + `$`)
	lengthCheck = regexp.MustCompile(`^(?:char_length|length|jsonb_array_length)\(` + columnSQL + `\) (>=|<=) (\d+)$`)
	patternTest = regexp.MustCompile(`^` + columnSQL + ` ~ ` + stringSQL + `$`)
	anyOf       = regexp.MustCompile(`^` + columnSQL + ` = ANY \(+ARRAY\[(` + stringSQL + `(?:, ` + stringSQL + `)*)\]\)+$`)
	oneString   = regexp.MustCompile(stringSQL)
	notNull     = regexp.MustCompile(`^` + columnSQL + ` IS NOT NULL$`)
	castTo      = regexp.MustCompile(`^::(character varying|double precision|timestamp with(out)? time zone|time with(out)? time zone|[A-Za-z0-9_."]+)(\(\d+(,\d+)?\))?(\[\])?`)
)

// uncast is an expression without the casts in it.
func uncast(e string) string {
	var out strings.Builder
	inText := false
	for i := 0; i < len(e); i++ {
		if e[i] == '\'' {
			inText = !inText
		}
		if cast := castTo.FindString(e[i:]); !inText && cast != "" {
			i += len(cast) - 1
			continue
		}
		out.WriteByte(e[i])
	}
	return out.String()
}

// constant is the value of a default, where it is one that a schema can have.
func constant(n *schemas.Node, expression string) (any, bool) {
	switch n.Kind {
	case schemas.Bool:
		return expression == "true", expression == "true" || expression == "false"
	case schemas.Int, schemas.Float:
		if m := numberOnly.FindStringSubmatch(expression); m != nil && n.Logical == schemas.NoLogical {
			return json.Number(m[1]), true
		}
	case schemas.String, schemas.Enum:
		if m := stringOnly.FindStringSubmatch(expression); m != nil {
			return strings.ReplaceAll(m[1], "''", "'"), true
		}
	}
	return nil, false
}

func (t *Table) checks(ctx context.Context, conn *pgx.Conn, id uint32) error {
	rows, err := conn.Query(ctx, `SELECT conname::text, pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE conrelid = $1 AND contype = 'c' ORDER BY conname`, id)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name, expression string
		if err := rows.Scan(&name, &expression); err != nil {
			return err
		}
		for _, part := range conjuncts(expression) {
			if !t.bound(uncast(part)) {
				t.note("the constraint %s is not carried over: %s", name, part)
			}
		}
	}
	return rows.Err()
}

// conjuncts are the conditions that an expression joins by AND.
func conjuncts(e string) (parts []string) {
	e = strings.TrimSpace(e)
	for strings.HasPrefix(e, "(") && closes(e) == len(e)-1 {
		e = e[1 : len(e)-1]
	}
	depth, start, inText := 0, 0, false
	for i := 0; i < len(e); i++ {
		switch {
		case e[i] == '\'':
			inText = !inText
		case inText:
		case e[i] == '(':
			depth++
		case e[i] == ')':
			depth--
		case depth == 0 && strings.HasPrefix(e[i:], " AND "):
			parts = append(parts, conjuncts(e[start:i])...)
			start = i + len(" AND ")
		}
	}
	if start == 0 {
		return []string{e}
	}
	return append(parts, conjuncts(e[start:])...)
}

// closes is where the bracket closes with which a text begins.
func closes(e string) int {
	depth, inText := 0, false
	for i := range len(e) {
		switch {
		case e[i] == '\'':
			inText = !inText
		case inText:
		case e[i] == '(':
			depth++
		case e[i] == ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// bound notes what a condition says of a column, and reports whether it could.
func (t *Table) bound(condition string) bool {
	of := func(column string) (*schemas.Field, *schemas.Bounds) {
		f := t.Record.Field(column)
		if f == nil {
			return nil, nil
		}
		if f.Node.Bounds == nil {
			f.Node.Bounds = &schemas.Bounds{}
		}
		return f, f.Node.Bounds
	}
	if m := comparison.FindStringSubmatch(condition); m != nil {
		f, b := of(m[1])
		at, ok := new(big.Rat).SetString(m[3])
		if f == nil || !ok {
			return false
		}
		*map[string]**big.Rat{">=": &b.Least, "<=": &b.Most, ">": &b.Above, "<": &b.Below}[m[2]] = at
		return true
	}
	if m := lengthCheck.FindStringSubmatch(condition); m != nil {
		f, b := of(m[1])
		size, err := strconv.Atoi(m[3])
		if f == nil || err != nil {
			return false
		}
		if m[2] == ">=" {
			b.MinSize = size
		} else {
			b.MaxSize = &size
		}
		return true
	}
	if m := patternTest.FindStringSubmatch(condition); m != nil && plainPattern(strings.ReplaceAll(m[2], "''", "'")) {
		f, b := of(m[1])
		if f != nil {
			b.Pattern = strings.ReplaceAll(m[2], "''", "'")
		}
		return f != nil
	}
	if m := notNull.FindStringSubmatch(condition); m != nil {
		if f := t.Record.Field(m[1]); f != nil {
			f.Required = true
			return true
		}
		return false
	}
	if m := anyOf.FindStringSubmatch(condition); m != nil {
		f := t.Record.Field(m[1])
		if f == nil || f.Node.Kind != schemas.String {
			return false
		}
		f.Node = &schemas.Node{Kind: schemas.Enum}
		for _, s := range oneString.FindAllStringSubmatch(m[2], -1) {
			f.Node.Symbols = append(f.Node.Symbols, strings.ReplaceAll(s[1], "''", "'"))
		}
		return true
	}
	return false
}
