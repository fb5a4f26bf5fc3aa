// Package protobuf is the Protocol Buffers schema language, on protocompile
// and dynamicpb.
//
// Values. A message is a map[string]any of its fields under their names in the
// schema. Decoding gives every field: an absent one that can be absent is nil,
// any other its zero value; an enum is its symbol, or an int32 where the
// schema does not know the number. A google.protobuf.Timestamp is a time.Time,
// the wrappers are the value they wrap or nil, Struct, Value and ListValue are
// the JSON they hold, keys of maps are strings whatever their type. Encoding
// takes the same, a base64 string for bytes, and a proto.Message of the
// schema's type. Fields that the schema does not know are dropped in decoding.
//
// Text. Canonical and normalised texts are those that Confluent's registry
// keeps, byte for byte, made of the source as it was written. Where that one
// keeps a text that cannot be parsed again, or that means something else, ours
// differs:
//   - defaults of bytes are quoted, and bytes that are not UTF-8 are escaped;
//   - \u and \U in a string are the character that they name;
//   - field numbers in octal are octal; max in an enum is that of an enum;
//   - numbers of normalised options keep all their digits;
//   - several settings of one option become one aggregate by what its message
//     says, so that a field that is not repeated never gets a list;
//   - options of extension ranges are kept; so is all that a group holds, and
//     groups of descriptors are groups;
//   - a weak import is kept where something of it is used;
//   - serialized keeps custom options, and its nested messages have the order
//     of their indexes;
//   - an extension within a dotted option name, and angle brackets, are read.
//
// Editions are refused, as there. An import that is missing is refused even if
// nothing of it is used, and so is an option that is not defined.
//
// Indexes. A message's index counts the messages that have a statement of
// their own in the text: not the entries of maps or the messages of groups.
// So text and canonical text have the same.
package protobuf

import (
	"fmt"
	"slices"
	"sync"

	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"penstock/schemas"
)

// Format parses Protobuf schemas.
type Format struct{}

// Type returns schemas.Protobuf.
func (Format) Type() schemas.Type { return schemas.Protobuf }

const (
	// maxText and what follows are of a file and all that it imports.
	maxText     = 2 << 20
	maxElements = 60_000
	maxWeight   = 64_000_000
	// maxImports is how many imports a file may have: the compiler's time grows
	// with their square.
	maxImports = 1000
	// maxBrackets is how deep braces and brackets nest in a text.
	maxBrackets = 64
	// maxLevels is how deep messages may nest in a value.
	maxLevels = 100
	// maxValues bounds what one payload decodes into: an empty message of two
	// bytes becomes a map of all its fields.
	maxValues = 4 << 20
)

// Parse reads a file, as text or as a FileDescriptorProto in base64, its
// imports from refs by the path that the import names, in either form. What
// lies at google/protobuf, google/type and confluent, and buf/validate/validate.proto,
// is at hand. All together are 2 MiB at most. The Schema is the file's first message, others by its
// method Message. A file without messages is a schema that no value fits.
func (Format) Parse(text string, refs map[string]string) (_ schemas.Schema, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("parse Protobuf schema: the parser panicked on this text: %v", p)
		}
	}()
	linked, source, err := compile(text, refs)
	if err != nil {
		return nil, fmt.Errorf("parse Protobuf schema: %w", err)
	}
	known, err := knownTo(linked, refs)
	if err != nil {
		return nil, fmt.Errorf("parse Protobuf schema: %w", err)
	}
	descriptor, err := index(linked, known)
	if err != nil {
		return nil, fmt.Errorf("parse Protobuf schema: %w", err)
	}
	f := &file{canonical: source.print(false), descriptor: descriptor, declared: declare(source.messages)}
	if len(f.declared) == 0 {
		return &Schema{file: f, model: &schemas.Node{}}, nil
	}
	return f.message([]int{0})
}

// ParseRegistered implements schemas.Lenient: what a file imports need not be
// there, nor what it names. A descriptor has to be whole.
func (f Format) ParseRegistered(text string, refs map[string]string) (_ schemas.Schema, err error) {
	s, cause := f.Parse(text, refs)
	if cause == nil {
		return s, nil
	}
	defer func() {
		if recover() != nil {
			err = cause
		}
	}()
	if len(text) > maxText {
		return nil, cause
	}
	tree, err := parseText("schema.proto", text)
	if err != nil {
		return nil, cause
	}
	return schemas.NewOpaque(schemas.Protobuf, readSource(tree).print(false), cause), nil
}

// file is what the messages of one file share.
type file struct {
	canonical  string
	descriptor protoreflect.FileDescriptor
	declared   []declaredMessage

	mu   sync.Mutex
	made []*Schema // by message, each once
}

// declaredMessage is a message that has a statement of its own in the text,
// in the order of the canonical text. These have indexes. What a compiler adds
// to them, for maps and groups, has none: each compiler adds it at another
// place.
type declaredMessage struct {
	name   string
	nested []declaredMessage
}

func declare(messages []*messageText) []declaredMessage {
	if len(messages) == 0 {
		return nil
	}
	out := make([]declaredMessage, len(messages))
	for i, m := range messages {
		out[i] = declaredMessage{m.name, declare(m.messages)}
	}
	return out
}

// Schema is one message of a parsed file. It is immutable and safe for
// concurrent use.
type Schema struct {
	*file
	indexes []int
	message protoreflect.MessageDescriptor // nil in a file without messages
	model   *schemas.Node
	cells   *cellPlans // nil: values cannot be read so
}

var (
	_ schemas.Messages   = (*Schema)(nil)
	_ schemas.Normalizer = (*Schema)(nil)
	_ schemas.Formatter  = (*Schema)(nil)
	_ schemas.TopFielder = (*Schema)(nil)
	_ schemas.CellReader = (*Schema)(nil)
)

func (f *file) message(indexes []int) (*Schema, error) {
	if len(indexes) == 0 {
		indexes = []int{0}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.made {
		if slices.Equal(s.indexes, indexes) {
			return s, nil
		}
	}
	var m protoreflect.MessageDescriptor
	messages, declared := f.descriptor.Messages(), f.declared
	for depth, i := range indexes {
		if i < 0 || i >= len(declared) {
			return nil, fmt.Errorf("find message %v: expected an index below %d at position %d, found %d", indexes, len(declared), depth, i)
		}
		m = messages.ByName(protoreflect.Name(declared[i].name))
		messages, declared = m.Messages(), declared[i].nested
	}
	if m.IsMapEntry() {
		return nil, fmt.Errorf("find message %v: %q is the entry of a map, not a message", indexes, m.FullName())
	}
	s := &Schema{file: f, indexes: slices.Clone(indexes), message: m, model: modeller{}.record(m), cells: planCells(m)}
	f.made = append(f.made, s)
	return s, nil
}

// Type returns schemas.Protobuf.
func (s *Schema) Type() schemas.Type { return schemas.Protobuf }

// Canonical is the text of the file as Confluent's registry keeps it.
func (s *Schema) Canonical() string { return s.canonical }

// Normalized is the text that Confluent's registry keeps of the file if asked
// to normalise.
func (s *Schema) Normalized() (string, error) {
	source, err := s.source()
	if err != nil {
		return "", err
	}
	linked, err := linker.NewFileRecursive(s.descriptor)
	if err != nil {
		return "", fmt.Errorf("normalise Protobuf schema: %w", err)
	}
	n := normalizer{linker.ResolverFromFile(linked), s.descriptor.Package()}
	n.file(source, s.descriptor)
	return source.print(false), nil
}

// Text knows "serialized" and "ignore_extensions". The latter keeps the custom
// options of Confluent's own.
func (s *Schema) Text(format string) (string, error) {
	switch format {
	case "serialized":
		return encodeProto(protoutil.ProtoFromFileDescriptor(s.descriptor), s.declared)
	case "ignore_extensions":
		source, err := s.source()
		if err != nil {
			return "", err
		}
		return source.print(true), nil
	}
	return "", nil
}

// source is read anew, since few ask for it and it is larger than the text.
func (s *Schema) source() (*fileText, error) {
	file, err := parseText("schema.proto", s.canonical)
	if err != nil {
		return nil, fmt.Errorf("read Protobuf schema again: %w", err)
	}
	return readSource(file), nil
}

// TopFields names the fields outside oneofs of the messages at the top of the
// file.
func (s *Schema) TopFields() []string {
	var names []string
	for i := range s.descriptor.Messages().Len() {
		fields := s.descriptor.Messages().Get(i).Fields()
		for j := range fields.Len() {
			if of := fields.Get(j).ContainingOneof(); of == nil || of.IsSynthetic() {
				names = append(names, string(fields.Get(j).Name()))
			}
		}
	}
	return names
}

// Model returns the neutral tree of the message. A field that can be absent is
// a union with null.
func (s *Schema) Model() *schemas.Node { return s.model }

// Indexes is the way to the message, [0] for the file's first.
func (s *Schema) Indexes() []int { return slices.Clone(s.indexes) }

// Message returns the schema of another message of the file.
func (s *Schema) Message(indexes []int) (schemas.Schema, error) {
	if len(indexes) > 0 && slices.Equal(indexes, s.indexes) {
		return s, nil
	}
	return s.file.message(indexes)
}

// Name is the message's full name.
func (s *Schema) Name() string {
	if s.message == nil {
		return ""
	}
	return string(s.message.FullName())
}

// AppendEncode encodes v, maps in the order of their keys.
func (s *Schema) AppendEncode(dst []byte, v any) ([]byte, error) {
	if s.message == nil {
		return dst, fmt.Errorf("encode Protobuf: the schema has no messages")
	}
	m, ok := v.(proto.Message)
	if ok {
		if name := m.ProtoReflect().Descriptor().FullName(); name != s.message.FullName() {
			return dst, &schemas.ValueError{Violations: []schemas.Violation{{
				Expected: "a message " + string(s.message.FullName()), Found: "a message " + string(name),
			}}}
		}
	} else {
		built := dynamicpb.NewMessage(s.message)
		if f := fill(built, v, "", maxLevels); f != nil {
			vs := schemas.Check(s.model, v)
			if len(vs) == 0 {
				vs = []schemas.Violation{*f}
			}
			return dst, &schemas.ValueError{Violations: vs}
		}
		m = built
	}
	out, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(dst, m)
	if err != nil {
		return dst, &schemas.ValueError{Violations: []schemas.Violation{{
			Expected: "a message that can be written", Found: schemas.Describe(v), Hint: err.Error(),
		}}}
	}
	return out, nil
}

// Decode reads one message. The library is known to panic on some bytes; the
// panic is returned as an error.
func (s *Schema) Decode(src []byte) (_ any, err error) {
	if s.message == nil {
		return nil, fmt.Errorf("decode Protobuf: the schema has no messages")
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("decode Protobuf: the decoder panicked on these %d bytes: %v", len(src), p)
		}
	}()
	m := dynamicpb.NewMessage(s.message)
	if err := (proto.UnmarshalOptions{RecursionLimit: maxLevels}).Unmarshal(src, m); err != nil {
		return nil, fmt.Errorf("decode Protobuf: %w", err)
	}
	r := reader{left: maxValues}
	v := r.message(m)
	if r.left < 0 {
		r.err = fmt.Errorf("expected at most %d values, found more", maxValues)
	}
	if r.err != nil {
		return nil, fmt.Errorf("decode Protobuf: %w", r.err)
	}
	return v, nil
}
