package sqlsink

import (
	"fmt"

	"penstock/schemas"
)

// Type is what a column holds, whatever a database calls it.
type Type uint8

// The types, with the Go types in which a Dialect gets their values.
const (
	JSON           Type = iota // string: anything that has no column type of its own
	Bool                       // bool
	Int32                      // int32 or int64, within 32 bits
	Int64                      // int32 or int64
	Float32                    // float32 or float64
	Float64                    // float32 or float64
	Decimal                    // string: digits with an optional sign and point
	Text                       // string
	UUID                       // string of 32 hexadecimal digits, and hyphens
	Bytes                      // []byte
	Date                       // time.Time, midnight UTC
	TimeOfDay                  // time.Duration since midnight, whole microseconds
	Timestamp                  // time.Time in UTC, whole microseconds
	LocalTimestamp             // time.Time in UTC that stands for no zone, whole microseconds
)

// String names the type in plain words.
func (t Type) String() string {
	return [...]string{"JSON", "boolean", "32-bit integer", "64-bit integer", "32-bit float", "64-bit float",
		"decimal", "text", "UUID", "bytes", "date", "time of day", "timestamp", "timestamp without zone"}[t]
}

// Column is one column of the target table.
type Column struct {
	Name string
	Type Type
	// Precision and Scale belong to Decimal; Precision 0 is any number of
	// digits.
	Precision, Scale int
	// Declared is the column's type as the database states it, where the
	// column is there.
	Declared string
}

// String is the column's type in plain words.
func (c Column) String() string {
	if c.Type == Decimal && c.Precision > 0 {
		return fmt.Sprintf("decimal(%d,%d)", c.Precision, c.Scale)
	}
	return c.Type.String()
}

// valueColumn is the only column of a schema that is no record.
const valueColumn = "value"

// ColumnsOf lists the columns of what a schema describes: one for each field of
// a record, in their order, else one named "value".
func ColumnsOf(n *schemas.Node) []Column {
	n, _ = n.Nullable()
	if n.Kind != schemas.Record {
		return []Column{columnOf(valueColumn, n)}
	}
	columns := make([]Column, len(n.Fields))
	for i, f := range n.Fields {
		columns[i] = columnOf(f.Name, f.Node)
	}
	return columns
}

func columnOf(name string, n *schemas.Node) Column {
	n, _ = n.Nullable()
	c := Column{Name: name}
	switch n.Logical {
	case schemas.Date:
		c.Type = Date
		return c
	case schemas.TimeOfDay:
		c.Type = TimeOfDay
		return c
	case schemas.Timestamp:
		c.Type = Timestamp
		return c
	case schemas.LocalTime:
		c.Type = LocalTimestamp
		return c
	case schemas.UUID:
		c.Type = UUID
		return c
	case schemas.Decimal:
		c.Type, c.Precision, c.Scale = Decimal, n.Precision, n.Scale
		return c
	}
	switch n.Kind {
	case schemas.Bool:
		c.Type = Bool
	case schemas.Int:
		switch {
		case n.Unsigned && n.Bits == 64: // no SQL integer holds it
			c.Type, c.Precision = Decimal, 20
		case n.Bits == 32 && !n.Unsigned:
			c.Type = Int32
		default:
			c.Type = Int64
		}
	case schemas.Float:
		c.Type = Float64
		if n.Bits == 32 {
			c.Type = Float32
		}
	case schemas.String, schemas.Enum:
		c.Type = Text
	case schemas.Bytes, schemas.Fixed:
		c.Type = Bytes
	}
	return c
}
