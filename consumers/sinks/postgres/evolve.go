package postgres

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
)

var _ sqlsink.Evolver = dialect{}

// Widened implements sqlsink.Evolver: integers to bigint or numeric, real to double
// precision, text of a limited length to text, a numeric to one of more digits.
func (d dialect) Widened(c sqlsink.Column, declared string) string {
	to := d.TypeName(c)
	var precision, scale int
	n, _ := fmt.Sscanf(declared, "numeric(%d,%d)", &precision, &scale)
	number := n == 2
	switch c.Type {
	case sqlsink.Int32, sqlsink.Int64:
		switch {
		case declared == "smallint", declared == "integer":
			return to
		case number && scale == 0:
			return "numeric(" + strconv.Itoa(max(precision, 19)) + ",0)"
		}
	case sqlsink.Float64:
		if declared == "real" {
			return to
		}
	case sqlsink.Decimal:
		switch {
		case declared == "smallint", declared == "integer", declared == "bigint":
			if c.Precision == 0 || c.Precision-c.Scale >= 19 {
				return to
			}
			return fmt.Sprintf("numeric(%d,%d)", 19+c.Scale, c.Scale)
		case number && c.Precision == 0:
			return "numeric"
		case number:
			places := max(scale, c.Scale)
			return fmt.Sprintf("numeric(%d,%d)", max(precision-scale, c.Precision-c.Scale)+places, places)
		}
	case sqlsink.Text:
		if limited.MatchString(declared) {
			return "text"
		}
	}
	return ""
}

// limited are types of text of which a value may be too long for a column. What
// character(n) holds is padded, so it would change.
var limited = regexp.MustCompile(`^character varying\(\d+\)$`)

// Constraints implements sqlsink.Evolver. What of a field's bounds SQL does not say
// is left out.
func (d dialect) Constraints(f *schemas.Field) (string, error) {
	m := migration{d: d}
	condition, _ := m.check(f)
	if m.err != nil {
		return "", m.err
	}
	var all strings.Builder
	if needed(f) {
		all.WriteString(" NOT NULL")
	}
	if condition != "" {
		all.WriteString(" CHECK (" + condition + ")")
	}
	return all.String(), nil
}

// Index implements sqlsink.Evolver by a GIN index, for columns of jsonb.
func (d dialect) Index(table, column string) (string, error) {
	name, err := d.Identifier(column)
	if err != nil {
		return "", err
	}
	if table == "" {
		return "", errors.New("an index needs a table")
	}
	return "CREATE INDEX ON " + table + " USING gin (" + name + ")", nil
}
