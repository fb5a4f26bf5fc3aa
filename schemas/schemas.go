// Package schemas says what a schema is, whatever its language: how it is
// parsed, what it accepts, how a value is written and read back, and how a
// payload names its schema on the wire. The languages themselves are the
// packages avro, jsonschema and protobuf below; this one imports the standard
// library alone.
package schemas

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
)

// ErrNoSchema is wrapped by the errors of whatever looks schemas up, where
// there is no schema of that id, or none under that subject. Any other error
// of a lookup says nothing about whether there is one.
var ErrNoSchema = errors.New("no such schema")

// ErrBadSchema is wrapped by the errors of whatever looks schemas up, where
// there is one, but its text or its language is beyond what is understood here.
var ErrBadSchema = errors.New("schema cannot be used here")

// Type is the name of a schema language, as registries spell it.
type Type string

// The languages.
const (
	Avro     Type = "AVRO"
	JSON     Type = "JSON"
	Protobuf Type = "PROTOBUF"
)

// ID is a schema's number in a registry.
type ID int32

// Format is one schema language. A Format is a stateless value, safe for
// concurrent use.
type Format interface {
	Type() Type
	// Parse reads one schema. refs holds the texts of everything the schema
	// refers to, directly or through another, keyed by the name under which
	// it is referred to. Parse opens no file and no address. Its error says in
	// one sentence where the text is wrong.
	Parse(text string, refs map[string]string) (Schema, error)
}

// Schema is a parsed schema: immutable, safe for concurrent use.
//
// Values. Encoding takes, and decoding gives, these Go types: nil, bool,
// int32, int64, uint32, uint64, float32, float64, string, []byte, time.Time
// (timestamps and dates), time.Duration (times of day), *big.Rat (decimals),
// json.Number, []any and map[string]any. Encoding is lenient where nothing is
// lost: any integer type, a whole float64 or a json.Number for an integer, an
// RFC 3339 string for a timestamp; and it takes Go structs, with the tags of
// the format's library, where that library does.
type Schema interface {
	Type() Type
	// Canonical is a normal form: two schemas of one language with equal
	// forms accept and mean the same.
	Canonical() string
	// Model is the schema as a neutral tree. Treat it as read-only.
	Model() *Node
	// AppendEncode checks v and appends its encoding to dst. If v does not fit
	// it returns dst unchanged and a *ValueError that names every violation.
	AppendEncode(dst []byte, v any) ([]byte, error)
	// Decode reads exactly one value from src; bytes left over are an error.
	// For bytes from outside call Decode of this package instead, which guards
	// it. Decode keeps no reference to src.
	Decode(src []byte) (any, error)
}

// Fingerprint is the SHA-256 of the canonical form.
func Fingerprint(s Schema) [sha256.Size]byte {
	return sha256.Sum256([]byte(s.Canonical()))
}

// Kind is what sort of value a Node describes.
type Kind uint8

// The kinds.
const (
	Any Kind = iota // anything: the schema does not say
	Null
	Bool
	Int    // integers; Bits says how wide
	Float  // Bits is 32 or 64
	String // Unicode text
	Bytes
	Fixed // Size bytes
	Enum  // one of Symbols
	Array // of Items
	Map   // from strings to Items
	Record
	Union // one of Branches
)

// String returns the kind's name in plain words.
func (k Kind) String() string {
	names := [...]string{"any", "null", "boolean", "integer", "number", "string", "bytes", "fixed", "enum", "array", "map", "record", "union"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Logical is what a value means beyond its kind, in one vocabulary for all
// languages.
type Logical string

// The logical types. Parameters stand beside them in Node.
const (
	NoLogical Logical = ""
	Date      Logical = "date"
	TimeOfDay Logical = "time"
	Timestamp Logical = "timestamp"       // an instant
	LocalTime Logical = "local-timestamp" // a date and time without a zone
	Decimal   Logical = "decimal"         // Precision, Scale
	UUID      Logical = "uuid"
)

// Node is one place of a schema, neutral of its language. A recursive schema
// is a graph: a named node may be reached from within itself.
type Node struct {
	Kind    Kind
	Name    string   // full name of a record, enum or fixed, where it has one
	Aliases []string // Record, Enum, Fixed: full names that a reader takes for its own
	Doc     string
	Logical Logical
	// Native is the language's own name of the type where it says more than the
	// rest: sint32, timestamp-micros. What lies in values is the same.
	Native   string
	Bits     int  // Int: 32 or 64; Float: 32 or 64; 0 for unbounded
	Unsigned bool // Int
	Size     int  // Fixed: bytes
	// Precision and Scale belong to Decimal.
	Precision, Scale int
	Symbols          []string // Enum
	// Numbers are those of the Symbols on the wire, where the language has
	// them (Protobuf).
	Numbers []int32
	// Fallback is the symbol that an Enum reads for one it does not know; it
	// is one of Symbols, or empty if there is none.
	Fallback string
	Fields   []Field // Record, in the order of the schema
	Open     bool    // Record: fields beyond Fields are accepted
	Items    *Node   // Array, Map
	Keys     *Node   // Map: what a key spells, a String or Int or Bool; nil is any text
	Branches []*Node // Union, in the order of the schema
	Bounds   *Bounds // nil: none
}

// Bounds narrow what a Node accepts beyond its kind, as far as its language says
// that of a single value. Check does not look at them: the language does. What
// is nil or empty bounds nothing.
type Bounds struct {
	Least, Most  *big.Rat // Int, Float: from Least to Most
	Above, Below *big.Rat // and without these themselves
	Multiple     *big.Rat // and a whole multiple of this
	MinSize      int      // characters of a String, items of an Array, entries of a Map
	MaxSize      *int
	Unique       bool   // Array: no item twice
	Pattern      string // String: a regular expression that is found in it
	Format       string // String: what it spells, as JSON Schema names it
	Values       []any  // one of these
}

// Field is one field of a record.
type Field struct {
	Name    string
	Aliases []string
	Doc     string
	Number  int // Protobuf's field number, else 0
	// Tags are the words that the schema's text labels the field with, in
	// Confluent's way: what kind of data it is, such as PII.
	Tags []string
	Node *Node
	// Required says that a value without this field does not fit. An Avro
	// field is required unless it has a default or is a union that begins with
	// null; a Protobuf field only where it is marked so.
	Required   bool
	HasDefault bool
	Default    any
	// OneOf names the group of fields of which a value has one at most; empty
	// is none.
	OneOf string
}

// Nullable returns the node without its null branch, and whether it had one. A
// union of null and one other type is that type.
func (n *Node) Nullable() (*Node, bool) {
	if n.Kind != Union {
		return n, n.Kind == Null
	}
	var rest []*Node
	for _, b := range n.Branches {
		if b.Kind != Null {
			rest = append(rest, b)
		}
	}
	if len(rest) == len(n.Branches) {
		return n, false
	}
	if len(rest) == 1 {
		return rest[0], true
	}
	return &Node{Kind: Union, Name: n.Name, Doc: n.Doc, Branches: rest}, true
}

// Field returns the record's field of that name, or nil.
func (n *Node) Field(name string) *Field {
	for i := range n.Fields {
		if n.Fields[i].Name == name {
			return &n.Fields[i]
		}
	}
	return nil
}

// Registered is a schema as a registry knows it.
type Registered struct {
	ID ID
	// GUID is the zero value where the registry gives none.
	GUID   GUID
	Schema Schema
	// Subject and Version say where it was found; Version is 0 where only its
	// id was asked for.
	Subject string
	Version int
	// Contract is a JSON object with the members "metadata" and "ruleSet" that
	// the registry keeps with the schema, nil where it keeps neither.
	Contract []byte
}
