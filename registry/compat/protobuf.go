package compat

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"penstock/registry"
)

// The rules of Protobuf go by numbers, as the wire does. Names, places and
// verdicts are those of the registries in use, which compare the whole file and
// not one message of it. Our own rules follow; they warn of data that is read,
// and taken for something else or in part, and stand in nobody's way.
const (
	packageChanged = iota
	messageAdded
	messageRemoved
	messageMoved
	enumAdded
	enumRemoved
	enumConstAdded
	enumConstChanged
	enumConstRemoved
	fieldAdded
	fieldRemoved
	fieldNameChanged
	fieldKindChanged
	fieldScalarKindChanged
	fieldNamedTypeChanged
	fieldNumericLabelChanged
	fieldStringLabelChanged
	requiredFieldAdded
	requiredFieldRemoved
	oneofAdded
	oneofRemoved
	oneofFieldAdded
	oneofFieldRemoved
	oneofFieldMovedOut
	fieldsMovedToOneof
	fieldMovedToOldOneof

	reservedNumberReused
	fieldTypeNarrowed
	fieldCardinalityChanged
	enumValueUnknown
	tooLargeToCompare
)

var protobufRules = [...]Rule{
	packageChanged:           {"PACKAGE_CHANGED", registry.SeverityError, "The file has another package, so that all its types have other names."},
	messageAdded:             {"MESSAGE_ADDED", registry.SeverityInfo, "The reader has a message that the writer lacks."},
	messageRemoved:           {"MESSAGE_REMOVED", registry.SeverityError, "The reader lacks a message of the writer, or has it in another place."},
	messageMoved:             {"MESSAGE_MOVED", registry.SeverityInfo, "A message has another index among those beside it."},
	enumAdded:                {"ENUM_ADDED", registry.SeverityInfo, "The reader has an enum that the writer lacks."},
	enumRemoved:              {"ENUM_REMOVED", registry.SeverityInfo, "The reader lacks an enum of the writer, or has it in another place."},
	enumConstAdded:           {"ENUM_CONST_ADDED", registry.SeverityInfo, "An enum of the reader has a number more."},
	enumConstChanged:         {"ENUM_CONST_CHANGED", registry.SeverityInfo, "A number of an enum has another name."},
	enumConstRemoved:         {"ENUM_CONST_REMOVED", registry.SeverityInfo, "An enum of the reader lacks a number of the writer's."},
	fieldAdded:               {"FIELD_ADDED", registry.SeverityInfo, "The reader has a field that the writer lacks."},
	fieldRemoved:             {"FIELD_REMOVED", registry.SeverityInfo, "The reader lacks a field of the writer."},
	fieldNameChanged:         {"FIELD_NAME_CHANGED", registry.SeverityInfo, "A field has another name under the same number."},
	fieldKindChanged:         {"FIELD_KIND_CHANGED", registry.SeverityError, "A field turned from one of scalar, message and map into another."},
	fieldScalarKindChanged:   {"FIELD_SCALAR_KIND_CHANGED", registry.SeverityError, "A field has another scalar type, which is written in another way."},
	fieldNamedTypeChanged:    {"FIELD_NAMED_TYPE_CHANGED", registry.SeverityError, "A field has another message as its type, or one whose content cannot be read."},
	fieldNumericLabelChanged: {"FIELD_NUMERIC_LABEL_CHANGED", registry.SeverityError, "A number's label changed, as from optional to repeated."},
	fieldStringLabelChanged:  {"FIELD_STRING_OR_BYTES_LABEL_CHANGED", registry.SeverityInfo, "The label of a string or bytes field changed."},
	requiredFieldAdded:       {"REQUIRED_FIELD_ADDED", registry.SeverityError, "The reader requires a field that the writer lacks."},
	requiredFieldRemoved:     {"REQUIRED_FIELD_REMOVED", registry.SeverityError, "The reader lacks a field that the writer requires."},
	oneofAdded:               {"ONEOF_ADDED", registry.SeverityInfo, "The reader has a oneof that the writer lacks."},
	oneofRemoved:             {"ONEOF_REMOVED", registry.SeverityInfo, "The reader lacks a oneof of the writer."},
	oneofFieldAdded:          {"ONEOF_FIELD_ADDED", registry.SeverityInfo, "A oneof of the reader has a field that the writer lacks."},
	oneofFieldRemoved:        {"ONEOF_FIELD_REMOVED", registry.SeverityError, "The reader lacks a field of a oneof of the writer."},
	oneofFieldMovedOut:       {"ONEOF_FIELD_MOVED_TO_TOP_LEVEL", registry.SeverityInfo, "A field of a oneof of the writer is a plain one of the reader."},
	fieldsMovedToOneof:       {"MULTIPLE_FIELDS_MOVED_TO_ONEOF", registry.SeverityError, "A oneof of the reader gathers several plain fields of the writer."},
	fieldMovedToOldOneof:     {"FIELD_MOVED_TO_EXISTING_ONEOF", registry.SeverityError, "A oneof of the reader joins what the writer may set at once."},

	reservedNumberReused:    {"RESERVED_NUMBER_REUSED", registry.SeverityWarning, "A new field has a number that the old schema reserves: what was written under it in earlier versions is taken for the new field."},
	fieldTypeNarrowed:       {"FIELD_TYPE_NARROWED", registry.SeverityWarning, "The types are written alike, but values of the writer's may not fit the reader's."},
	fieldCardinalityChanged: {"FIELD_CARDINALITY_CHANGED", registry.SeverityWarning, "The reader takes one value where the writer may write several, or needs one where it may write none."},
	enumValueUnknown:        {"ENUM_VALUE_UNKNOWN", registry.SeverityWarning, "The reader's enum lacks a number that the writer may write, or has it under another meaning."},
	tooLargeToCompare:       {"TOO_LARGE_TO_COMPARE", registry.SeverityError, "Comparing the two takes more steps than are granted."},
}

const (
	// maxComparisons is how many fields, constants and types one check
	// compares.
	maxComparisons = 1 << 20
	// maxProtobufFindings is how many findings one check returns. A check that
	// finds something wrong always returns that.
	maxProtobufFindings = 10_000
	// maxTypeDepth is how far a chain of message types in imports is followed.
	maxTypeDepth = 1000
)

// described is a schema that knows its file's descriptor.
type described interface {
	Descriptor() protoreflect.FileDescriptor
}

func checkProtobuf(reader, writer protoreflect.FileDescriptor, d registry.Direction, comparisons int) []registry.Finding {
	w := &protobufWalk{
		direction: d, reader: "the new schema", writer: "the old schema",
		readerFile: reader.Path(), writerFile: writer.Path(),
		left: comparisons, breaks: map[messagePair]bool{},
	}
	if d == registry.Forward {
		w.reader, w.writer = w.writer, w.reader
	}
	w.files(reader, writer)
	if w.left < 0 {
		w.report(tooLargeToCompare, nil, nil, strconv.Itoa(comparisons), "split the schema, or register it under level NONE",
			"the comparison was given up: it is granted %d fields, constants and types, and %d levels of imported types", comparisons, maxTypeDepth)
	}
	return w.findings
}

// protobufWalk is one comparison.
type protobufWalk struct {
	direction      registry.Direction
	reader, writer string // what the words call the two
	findings       []registry.Finding
	errors         int // findings against compatibility
	left           int // comparisons; below 0, the walk is over
	depth          int // of message types in imports
	// readerFile and writerFile are the paths of the two files: what is not
	// declared there is imported.
	readerFile, writerFile string
	// breaks says of each pair of messages that was met whether it is
	// incompatible; while it is being compared it counts as compatible.
	breaks map[messagePair]bool
}

type messagePair struct{ reader, writer protoreflect.FullName }

// step grants one comparison.
func (w *protobufWalk) step() bool {
	w.left--
	return w.left >= 0
}

func (w *protobufWalk) files(r, wr protoreflect.FileDescriptor) {
	if r.Package() != wr.Package() {
		w.report(packageChanged, nil, nil, fmt.Sprintf("expected: %s, found: %s", wr.Package(), r.Package()),
			fmt.Sprintf("keep the package %q", w.old(string(r.Package()), string(wr.Package()))),
			"the package is %q in %s and %q in %s: all types have other names, and whoever looks them up by name does not find them", r.Package(), w.reader, wr.Package(), w.writer)
	}
	w.types(r, wr, nil, nil)
}

// scope is what types are declared in, a file or a message.
type scope interface {
	Messages() protoreflect.MessageDescriptors
	Enums() protoreflect.EnumDescriptors
}

// types compares the messages and enums of two scopes by their simple names.
func (w *protobufWalk) types(r, wr scope, rp, wp *path) {
	readers, writers := messagesOf(r), messagesOf(wr)
	indexes := make(map[protoreflect.Name]int, len(readers))
	for i, m := range readers {
		indexes[m.Name()] = i
	}
	for j, old := range writers {
		if !w.step() {
			return
		}
		name := string(old.Name())
		at := rp.to(name)
		i, ok := indexes[old.Name()]
		delete(indexes, old.Name())
		if !ok {
			w.report(messageRemoved, at, wp.to(name), name,
				w.fix(fmt.Sprintf("keep the message %q where it is, even if nothing refers to it", name),
					fmt.Sprintf("define the message %q in a schema of its own that this one imports", name)),
				"%s has the message %q at %s, %s lacks it: whoever reads with %[4]s cannot read data of it", w.writer, old.FullName(), at, w.reader)
			continue
		}
		if i != j {
			w.report(messageMoved, at, wp.to(name), fmt.Sprintf("expected: %d, found: %d", j, i), "",
				"the message %q is number %d of the messages beside it in %s and %d in %s: payloads name it by that number, so it has to be taken from the schema that they were written with", name, i, w.reader, j, w.writer)
		}
		w.message(readers[i], old, at, wp.to(name))
	}
	for _, m := range readers {
		if _, left := indexes[m.Name()]; left {
			w.report(messageAdded, rp.to(string(m.Name())), wp, string(m.Name()), "", "%s has the message %q, %s lacks it", w.reader, m.FullName(), w.writer)
		}
	}
	w.enums(r.Enums(), wr.Enums(), rp, wp)
}

// messagesOf leaves out the messages that a file's text does not declare as
// such: entries of maps and the bodies of groups.
func messagesOf(s scope) []protoreflect.MessageDescriptor {
	groups := map[protoreflect.FullName]bool{}
	if m, ok := s.(protoreflect.MessageDescriptor); ok {
		for i := range m.Fields().Len() {
			if f := m.Fields().Get(i); f.Kind() == protoreflect.GroupKind {
				groups[f.Message().FullName()] = true
			}
		}
	}
	all := make([]protoreflect.MessageDescriptor, 0, s.Messages().Len())
	for i := range s.Messages().Len() {
		if m := s.Messages().Get(i); !m.IsMapEntry() && !groups[m.FullName()] {
			all = append(all, m)
		}
	}
	return all
}

func (w *protobufWalk) enums(r, wr protoreflect.EnumDescriptors, rp, wp *path) {
	for i := range wr.Len() {
		if !w.step() {
			return
		}
		old := wr.Get(i)
		name := string(old.Name())
		if e := r.ByName(old.Name()); e != nil {
			w.enum(e, old, rp.to(name), wp.to(name))
			continue
		}
		w.report(enumRemoved, rp.to(name), wp.to(name), name, "", "%s has the enum %q, %s lacks it", w.writer, old.FullName(), w.reader)
	}
	for i := range r.Len() {
		if e := r.Get(i); wr.ByName(e.Name()) == nil {
			w.report(enumAdded, rp.to(string(e.Name())), wp, string(e.Name()), "", "%s has the enum %q, %s lacks it", w.reader, e.FullName(), w.writer)
		}
	}
}

// enum compares constants by their numbers. Of several names for one number
// the first counts.
func (w *protobufWalk) enum(r, wr protoreflect.EnumDescriptor, rp, wp *path) {
	numbers := slices.Sorted(func(yield func(protoreflect.EnumNumber) bool) {
		for _, e := range []protoreflect.EnumDescriptor{r, wr} {
			for i := range e.Values().Len() {
				if !yield(e.Values().Get(i).Number()) {
					return
				}
			}
		}
	})
	for _, n := range slices.Compact(numbers) {
		if !w.step() {
			return
		}
		c, old := r.Values().ByNumber(n), wr.Values().ByNumber(n)
		number := strconv.Itoa(int(n))
		at, was := rp.to(number), wp.to(number)
		switch {
		case old == nil:
			w.report(enumConstAdded, at, wp, string(c.Name()), "", "the enum %q has %s = %d in %s only", r.Name(), c.Name(), n, w.reader)
		case c == nil:
			w.report(enumConstRemoved, at, was, string(old.Name()), "", "the enum %q has %s = %d in %s only", wr.Name(), old.Name(), n, w.writer)
			w.report(enumValueUnknown, at, was, string(old.Name()),
				w.fix(fmt.Sprintf("keep %s = %d, marked as deprecated, while there is data with it", old.Name(), n),
					fmt.Sprintf("write %s only when all readers know it", old.Name())),
				"the enum %q lacks the number %d in %s, which %s calls %s: who reads it gets a bare number, or the default where the enum is closed", wr.Name(), n, w.reader, w.writer, old.Name())
		case c.Name() != old.Name():
			w.report(enumConstChanged, at, was, fmt.Sprintf("expected: %s, found: %s", old.Name(), c.Name()), "",
				"the number %d of the enum %q is %s in %s and %s in %s: binary data is the same, JSON is not", n, r.Name(), c.Name(), w.reader, old.Name(), w.writer)
		}
	}
}

// message compares two messages, once, and returns whether they are
// incompatible.
func (w *protobufWalk) message(r, wr protoreflect.MessageDescriptor, rp, wp *path) bool {
	pair := messagePair{r.FullName(), wr.FullName()}
	if breaks, met := w.breaks[pair]; met {
		return breaks
	}
	w.breaks[pair] = false
	errors := w.errors
	w.exclusivity(r, wr, rp, wp)
	w.oneofs(r, wr, rp, wp)
	w.fields(r, wr, rp, wp)
	w.types(r, wr, rp, wp)
	w.breaks[pair] = w.errors > errors
	return w.breaks[pair]
}

// oneofOf is the oneof that a field stands in in the text, or nil.
func oneofOf(f protoreflect.FieldDescriptor) protoreflect.OneofDescriptor {
	if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
		return o
	}
	return nil
}

// oneofsOf are the oneofs of a message's text, by name.
func oneofsOf(m protoreflect.MessageDescriptor) []protoreflect.OneofDescriptor {
	var all []protoreflect.OneofDescriptor
	for i := range m.Oneofs().Len() {
		if o := m.Oneofs().Get(i); !o.IsSynthetic() {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b protoreflect.OneofDescriptor) int {
		return strings.Compare(string(a.Name()), string(b.Name()))
	})
	return all
}

func oneofNamed(m protoreflect.MessageDescriptor, name protoreflect.Name) protoreflect.OneofDescriptor {
	if o := m.Oneofs().ByName(name); o != nil && !o.IsSynthetic() {
		return o
	}
	return nil
}

// fieldOf is the field of a number, unless it is a group.
func fieldOf(m protoreflect.MessageDescriptor, n protoreflect.FieldNumber) protoreflect.FieldDescriptor {
	if f := m.Fields().ByNumber(n); f != nil && f.Kind() != protoreflect.GroupKind {
		return f
	}
	return nil
}

// exclusivity looks for fields that the writer may set at once and the reader
// keeps one of: in a oneof of the reader may come together one plain field of
// the writer, or fields of one of its oneofs.
func (w *protobufWalk) exclusivity(r, wr protoreflect.MessageDescriptor, rp, wp *path) {
	for _, o := range oneofsOf(r) {
		var plain, names []string
		origins := map[protoreflect.Name]bool{}
		for i := range o.Fields().Len() {
			if !w.step() {
				return
			}
			old := fieldOf(wr, o.Fields().Get(i).Number())
			if old == nil || fieldOf(r, old.Number()) == nil {
				continue
			}
			names = append(names, string(old.Name()))
			if from := oneofOf(old); from != nil {
				origins[from.Name()] = true
			} else {
				plain = append(plain, string(old.Name()))
			}
		}
		if len(plain)+len(origins) < 2 {
			continue
		}
		rule := fieldMovedToOldOneof
		if len(plain) > 1 {
			rule = fieldsMovedToOneof
		}
		list := strings.Join(names, ", ")
		w.report(rule, rp.to(string(o.Name())), wp, list,
			w.fix("leave the fields where they are, and put new ones into the oneof", "keep the fields in the oneof; or add new fields beside it"),
			"the oneof at %s of %s holds the fields %s, which %s can set at the same time: whoever reads with %[2]s keeps only one of them", rp.to(string(o.Name())), w.reader, list, w.writer)
	}
}

func (w *protobufWalk) oneofs(r, wr protoreflect.MessageDescriptor, rp, wp *path) {
	var names []protoreflect.Name
	for _, m := range []protoreflect.MessageDescriptor{r, wr} {
		for _, o := range oneofsOf(m) {
			names = append(names, o.Name())
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		at := rp.to(string(name))
		switch {
		case oneofNamed(wr, name) == nil:
			w.report(oneofAdded, at, wp, string(name), "", "%s has the oneof at %s, %s lacks it", w.reader, at, w.writer)
		case oneofNamed(r, name) == nil:
			w.report(oneofRemoved, at, wp.to(string(name)), string(name), "", "%s has the oneof at %s, %s lacks it", w.writer, at, w.reader)
		}
	}
}

// fields compares plain fields and members of oneofs in one order of numbers.
func (w *protobufWalk) fields(r, wr protoreflect.MessageDescriptor, rp, wp *path) {
	readers, writers := fieldsOf(r), fieldsOf(wr)
	survives := map[protoreflect.OneofDescriptor]bool{} // answers of anySurvives
	for len(readers)+len(writers) > 0 {
		if !w.step() {
			return
		}
		switch {
		case len(writers) == 0 || len(readers) > 0 && readers[0].Number() < writers[0].Number():
			w.added(readers[0], wr, rp, wp, survives)
			readers = readers[1:]
		case len(readers) == 0 || readers[0].Number() > writers[0].Number():
			w.removed(writers[0], r, rp, wp, survives)
			writers = writers[1:]
		default:
			w.field(readers[0], writers[0], rp, wp)
			readers, writers = readers[1:], writers[1:]
		}
	}
}

// fieldsOf are the fields of a message, groups apart, in the order of their
// numbers.
func fieldsOf(m protoreflect.MessageDescriptor) []protoreflect.FieldDescriptor {
	all := make([]protoreflect.FieldDescriptor, 0, m.Fields().Len())
	for i := range m.Fields().Len() {
		if f := m.Fields().Get(i); f.Kind() != protoreflect.GroupKind {
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b protoreflect.FieldDescriptor) int { return int(a.Number()) - int(b.Number()) })
	return all
}

// anySurvives reports whether some field of a oneof is a field of m.
func (w *protobufWalk) anySurvives(o protoreflect.OneofDescriptor, m protoreflect.MessageDescriptor, known map[protoreflect.OneofDescriptor]bool) bool {
	found, ok := known[o]
	if !ok {
		for i := 0; i < o.Fields().Len() && !found; i++ {
			found = fieldOf(m, o.Fields().Get(i).Number()) != nil
		}
		known[o] = found
	}
	return found
}

// place is where a field's findings lie in its message.
func place(p *path, f protoreflect.FieldDescriptor) *path {
	if o := oneofOf(f); o != nil {
		p = p.to(string(o.Name()))
	}
	return p.at("", int(f.Number()))
}

// added speaks about a field that only the reader has. Members of a oneof that
// is new as a whole are not told one by one.
func (w *protobufWalk) added(f protoreflect.FieldDescriptor, wr protoreflect.MessageDescriptor, rp, wp *path, survives map[protoreflect.OneofDescriptor]bool) {
	at := place(rp, f)
	if wr.ReservedRanges().Has(f.Number()) && w.direction == registry.Backward {
		w.report(reservedNumberReused, at, wp, strconv.Itoa(int(f.Number())), "give the field a number that was never used",
			"the field %q at %s of %s has the number %d, which %s reserves: data from before it was reserved is taken for the new field", f.Name(), at, w.reader, f.Number(), w.writer)
	}
	o := oneofOf(f)
	switch {
	case o != nil:
		if oneofNamed(wr, o.Name()) != nil || w.anySurvives(o, wr, survives) {
			w.report(oneofFieldAdded, at, wp, string(f.Name()), "", "%s has the field %q at %s, %s lacks it", w.reader, f.Name(), at, w.writer)
		}
	case f.Cardinality() == protoreflect.Required:
		w.report(requiredFieldAdded, at, wp, string(f.Name()),
			w.fix(fmt.Sprintf("make the new field %q optional", f.Name()), fmt.Sprintf("keep the field %q: readers with the old schema refuse a message without it", f.Name())),
			"%s requires the field %q at %s, %s lacks it: whoever reads with %[1]s refuses the message", w.reader, f.Name(), at, w.writer)
	default:
		w.report(fieldAdded, at, wp, string(f.Name()), "", "%s has the field %q at %s, %s lacks it", w.reader, f.Name(), at, w.writer)
	}
}

// removed speaks about a field that only the writer has. A oneof that is gone
// as a whole takes its fields along.
func (w *protobufWalk) removed(old protoreflect.FieldDescriptor, r protoreflect.MessageDescriptor, rp, wp *path, survives map[protoreflect.OneofDescriptor]bool) {
	at, was := place(rp, old), place(wp, old)
	o := oneofOf(old)
	switch {
	case o != nil:
		if oneofNamed(r, o.Name()) != nil || w.anySurvives(o, r, survives) {
			w.report(oneofFieldRemoved, at, was, string(old.Name()),
				w.fix(fmt.Sprintf("keep the field %q in the oneof, marked as deprecated", old.Name()),
					fmt.Sprintf("add %q beside the oneof: readers with the old schema do not know it, and take the oneof for empty", old.Name())),
				"the oneof %q may hold the field %q (%d) in %s, %s lacks it: whoever reads with %[5]s takes the oneof for empty", o.Name(), old.Name(), old.Number(), w.writer, w.reader)
		}
	case old.Cardinality() == protoreflect.Required:
		w.report(requiredFieldRemoved, at, was, string(old.Name()),
			w.fix(fmt.Sprintf("keep the field %q: who still reads with the old schema refuses a message without it", old.Name()),
				fmt.Sprintf("make the new field %q optional", old.Name())),
			"%s requires the field %q at %s, %s lacks it", w.writer, old.Name(), was, w.reader)
	default:
		fix := ""
		if w.direction == registry.Backward && !r.ReservedRanges().Has(old.Number()) {
			fix = fmt.Sprintf("write reserved %d, so that nobody takes the number for another field", old.Number())
		}
		w.report(fieldRemoved, at, was, string(old.Name()), fix,
			"%s has the field %q at %s, %s lacks it: its values are passed over", w.writer, old.Name(), was, w.reader)
	}
}

// field compares what is a field on both sides.
func (w *protobufWalk) field(f, old protoreflect.FieldDescriptor, rp, wp *path) {
	at, was := place(rp, f), place(wp, old)
	if from := oneofOf(old); from != nil && oneofOf(f) == nil {
		w.report(oneofFieldMovedOut, place(rp, old), was, string(old.Name()), "",
			"the field %q (%d) is in the oneof %q in %s and a plain field in %s", old.Name(), old.Number(), from.Name(), w.writer, w.reader)
	}
	if f.Name() != old.Name() {
		w.report(fieldNameChanged, at, was, fmt.Sprintf("expected: %s, found: %s", old.Name(), f.Name()), "",
			"the field %d is %q in %s and %q in %s: binary data is the same, JSON is not", f.Number(), f.Name(), w.reader, old.Name(), w.writer)
	}
	errors := w.errors
	w.fieldType(f, old, at, was)
	if w.errors == errors && fieldKindOf(f) == "scalar" {
		w.labels(f, old, at, was)
	}
	if w.errors == errors {
		w.cardinality(f, old, at, was)
	}
}

// fieldType compares the types of two fields, or of the keys or the values of
// two maps.
func (w *protobufWalk) fieldType(f, old protoreflect.FieldDescriptor, at, was *path) {
	switch kind, before := fieldKindOf(f), fieldKindOf(old); {
	case kind != before:
		w.report(fieldKindChanged, at, was, fmt.Sprintf("expected: %s, found: %s", before, kind), w.fieldFix(f, old),
			"the field %q at %s is a %s in %s and a %s in %s: whoever reads with %[4]s cannot read it", f.Name(), at, kind, w.reader, before, w.writer)
	case kind == "map":
		w.fieldType(f.MapKey(), old.MapKey(), at, was)
		w.fieldType(f.MapValue(), old.MapValue(), at, was)
	case kind == "message":
		w.namedType(f, old, at, was)
	case scalarGroup(f.Kind()) != scalarGroup(old.Kind()):
		w.report(fieldScalarKindChanged, at, was, fmt.Sprintf("expected: %s, found: %s", old.Kind(), f.Kind()), w.fieldFix(f, old),
			"the field %q at %s is %s in %s and %s in %s, which is written in another way: whoever reads with %[4]s loses the value or gets another", f.Name(), at, f.Kind(), w.reader, old.Kind(), w.writer)
	case !fits(old.Kind(), f.Kind()):
		w.report(fieldTypeNarrowed, at, was, fmt.Sprintf("expected: %s, found: %s", old.Kind(), f.Kind()), w.fieldFix(f, old),
			"the field %q at %s is %s in %s and %s in %s: %s", f.Name(), at, f.Kind(), w.reader, old.Kind(), w.writer, misread(old.Kind(), f.Kind()))
	case f.Kind() == protoreflect.EnumKind:
		w.enumType(f, old, at, was)
	}
}

func fieldKindOf(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		return "map"
	case f.Kind() == protoreflect.MessageKind:
		return "message"
	default:
		return "scalar"
	}
}

// scalarGroup is a kind that stands for all that are written alike.
func scalarGroup(k protoreflect.Kind) protoreflect.Kind {
	switch k {
	case protoreflect.Int64Kind, protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.BoolKind, protoreflect.EnumKind:
		return protoreflect.Int32Kind
	case protoreflect.Sint64Kind:
		return protoreflect.Sint32Kind
	case protoreflect.BytesKind:
		return protoreflect.StringKind
	case protoreflect.Sfixed32Kind:
		return protoreflect.Fixed32Kind
	case protoreflect.Sfixed64Kind:
		return protoreflect.Fixed64Kind
	default:
		return k
	}
}

// fits reports whether every value of one kind keeps its meaning when it is
// read as another of its group.
func fits(from, to protoreflect.Kind) bool {
	if from == to {
		return true
	}
	switch from {
	case protoreflect.BoolKind:
		return to != protoreflect.EnumKind
	case protoreflect.EnumKind:
		return to == protoreflect.Int32Kind || to == protoreflect.Int64Kind
	case protoreflect.Int32Kind:
		return to == protoreflect.Int64Kind
	case protoreflect.Uint32Kind:
		return to == protoreflect.Int64Kind || to == protoreflect.Uint64Kind
	case protoreflect.Sint32Kind:
		return to == protoreflect.Sint64Kind
	default:
		return from == protoreflect.StringKind
	}
}

// misread says what becomes of values that do not fit.
func misread(from, to protoreflect.Kind) string {
	wide := from == protoreflect.Int64Kind || from == protoreflect.Uint64Kind || from == protoreflect.Sint64Kind
	narrow := to == protoreflect.Int32Kind || to == protoreflect.Uint32Kind || to == protoreflect.Sint32Kind
	switch {
	case to == protoreflect.StringKind:
		return "bytes that are not UTF-8 are refused, and the whole message with them"
	case to == protoreflect.BoolKind:
		return "every number but 0 is read as true"
	case to == protoreflect.EnumKind:
		return "a number that the enum lacks has no name, and is lost where the enum is closed"
	case wide && narrow:
		return "values that need more than 32 bits lose the upper ones"
	default:
		return "negative and very large values turn into each other"
	}
}

// namedType compares the messages that are the types of two fields. Those of
// the files themselves are compared where they are declared.
func (w *protobufWalk) namedType(f, old protoreflect.FieldDescriptor, at, was *path) {
	r, wr := f.Message(), old.Message()
	name, before := relativeName(r), relativeName(wr)
	if name == before {
		if w.local(r, wr) {
			return
		}
		if w.depth == maxTypeDepth {
			w.left = -1
			return
		}
		var p *path
		for step := range strings.SplitSeq(name, ".") {
			p = p.to(step)
		}
		w.depth++
		breaks := w.message(r, wr, p, p)
		w.depth--
		if !breaks {
			return
		}
	}
	because := ""
	if name == before {
		because = ", whose content cannot be read"
	}
	w.report(fieldNamedTypeChanged, at, was, fmt.Sprintf("expected: %s, found: %s", wr.FullName(), r.FullName()), w.fieldFix(f, old),
		"the field %q at %s is a message %q in %s and a message %q in %s%s: whoever reads with %[4]s takes it for something else", f.Name(), at, r.FullName(), w.reader, wr.FullName(), w.writer, because)
}

// enumType compares the enums of two fields. Those of the files themselves are
// compared where they are declared, if they have one name.
func (w *protobufWalk) enumType(f, old protoreflect.FieldDescriptor, at, was *path) {
	r, wr := f.Enum(), old.Enum()
	renamed := relativeName(r) != relativeName(wr)
	if !renamed && w.local(r, wr) {
		return
	}
	for i := range wr.Values().Len() {
		if !w.step() {
			return
		}
		v := wr.Values().Get(i)
		c := r.Values().ByNumber(v.Number())
		if c != nil && (!renamed || c.Name() == wr.Values().ByNumber(v.Number()).Name()) {
			continue
		}
		w.report(enumValueUnknown, at, was, string(v.Name()), w.fieldFix(f, old),
			"the field %q at %s has the enum %q in %s, which lacks %s = %d of the enum %q in %s, or means something else by it", f.Name(), at, r.FullName(), w.reader, v.Name(), v.Number(), wr.FullName(), w.writer)
		return
	}
}

// local reports whether two types are declared in the two files.
func (w *protobufWalk) local(r, wr protoreflect.Descriptor) bool {
	return r.ParentFile().Path() == w.readerFile && wr.ParentFile().Path() == w.writerFile
}

// relativeName is a type's name below its package.
func relativeName(d protoreflect.Descriptor) string {
	return strings.TrimPrefix(strings.TrimPrefix(string(d.FullName()), string(d.ParentFile().Package())), ".")
}

// labels compares the labels of two scalars of one group, if both are written.
func (w *protobufWalk) labels(f, old protoreflect.FieldDescriptor, at, was *path) {
	label, before := labelOf(f), labelOf(old)
	if label == "" || before == "" || label == before {
		return
	}
	detail := fmt.Sprintf("expected: %s, found: %s", before, label)
	if scalarGroup(f.Kind()) == protoreflect.StringKind {
		w.report(fieldStringLabelChanged, at, was, detail, "", "the field %q at %s is %s in %s and %s in %s", f.Name(), at, label, w.reader, before, w.writer)
		return
	}
	w.report(fieldNumericLabelChanged, at, was, detail, w.fieldFix(f, old),
		"the field %q at %s is %s in %s and %s in %s: several numbers may be written in another way than one, and a number that is required be missing, so whoever reads with %[4]s may lose them", f.Name(), at, label, w.reader, before, w.writer)
}

// labelOf is the label that the text gives a field, or "" where it has none.
func labelOf(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap() || oneofOf(f) != nil:
		return ""
	case f.Cardinality() == protoreflect.Repeated:
		return "repeated"
	case f.ContainingOneof() != nil: // the synthetic one of proto3
		return "optional"
	case f.ParentFile().Syntax() == protoreflect.Proto2:
		return f.Cardinality().String()
	default:
		return ""
	}
}

// cardinality speaks about what labels do not: they are written on both sides
// for a part of the fields only.
func (w *protobufWalk) cardinality(f, old protoreflect.FieldDescriptor, at, was *path) {
	if old.Cardinality() == f.Cardinality() {
		return
	}
	detail := fmt.Sprintf("expected: %s, found: %s", old.Cardinality(), f.Cardinality())
	switch {
	case old.IsList() && !f.IsList():
		w.report(fieldCardinalityChanged, at, was, detail, w.fieldFix(f, old),
			"the field %q at %s is one value in %s and a list in %s: whoever reads with %[3]s keeps the last, merges messages, and passes over packed numbers", f.Name(), at, w.reader, w.writer)
	case f.Cardinality() == protoreflect.Required:
		w.report(fieldCardinalityChanged, at, was, detail, "leave the field optional",
			"the field %q at %s is required in %s and may be left out in %s: whoever reads with %[3]s refuses a message without it", f.Name(), at, w.reader, w.writer)
	}
}

func (w *protobufWalk) report(rule int, rp, wp *path, detail, fix, message string, args ...any) {
	r := protobufRules[rule]
	if r.Severity == registry.SeverityError {
		w.errors++
	}
	if len(w.findings) >= maxProtobufFindings && (r.Severity != registry.SeverityError || w.errors > 1) {
		return
	}
	for i, arg := range args {
		if p, ok := arg.(*path); ok {
			args[i] = "#" + p.String()
		}
	}
	w.findings = append(w.findings, registry.Finding{
		Rule: r.Name, Severity: r.Severity, Direction: w.direction,
		ReaderPath: "#" + rp.String(), WriterPath: "#" + wp.String(),
		Message: fmt.Sprintf(message, args...), Detail: detail, Fix: fix,
	})
}

// old is what the old schema has, of what the two have.
func (w *protobufWalk) old(reader, writer string) string { return w.fix(writer, reader) }

func (w *protobufWalk) fix(backward, forward string) string {
	if w.direction == registry.Forward {
		return forward
	}
	return backward
}

// fieldFix is what to do about a field that cannot change as it did.
func (w *protobufWalk) fieldFix(f, old protoreflect.FieldDescriptor) string {
	if w.direction == registry.Forward {
		old = f // the reader's is the old one
	}
	return fmt.Sprintf("keep the field %q (%d) as it is, and add a new field with a new number", old.Name(), old.Number())
}
