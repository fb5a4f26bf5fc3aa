package compat

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"penstock/registry"
	"penstock/schemas"
)

// The rules of Avro are those of its specification for a reader's and a
// writer's schema, with the names, places and small differences of the
// registries in use: namespaces do not count in names, logical types do not
// count at all.
const (
	nameMismatch = iota
	fixedSizeMismatch
	missingEnumSymbols
	fieldMissingDefault
	fieldMatchesSeveral
	typeMismatch
	missingUnionBranch
	logicalTypeChanged
	avroTooLarge
)

// maxAvroPairs is how many pairs of types one check compares. Unions of 1,000
// records against others, all in another order, are within it.
const maxAvroPairs = 1 << 20

var avroRules = [...]Rule{
	nameMismatch:        {"NAME_MISMATCH", registry.SeverityError, "A record, enum or fixed has another name, and the reader has no alias for it."},
	fixedSizeMismatch:   {"FIXED_SIZE_MISMATCH", registry.SeverityError, "A fixed has another size."},
	missingEnumSymbols:  {"MISSING_ENUM_SYMBOLS", registry.SeverityError, "The writer's enum has symbols that the reader's lacks, and that has no default symbol."},
	fieldMissingDefault: {"READER_FIELD_MISSING_DEFAULT_VALUE", registry.SeverityError, "The reader expects a field that the writer lacks, and has no default for it."},
	fieldMatchesSeveral: {"READER_FIELD_MATCHES_SEVERAL", registry.SeverityError, "A field of the reader matches several of the writer's, by its name and its aliases."},
	typeMismatch:        {"TYPE_MISMATCH", registry.SeverityError, "The writer's type cannot be read as the reader's."},
	missingUnionBranch:  {"MISSING_UNION_BRANCH", registry.SeverityError, "The writer's type fits no branch of the reader's union."},
	logicalTypeChanged:  {"LOGICAL_TYPE_CHANGED", registry.SeverityWarning, "The type can be read, but its logical type, precision or scale changed: the reader takes the value for another."},
	avroTooLarge:        {"TOO_LARGE_TO_COMPARE", registry.SeverityError, "Comparing the two takes more steps than are granted."},
}

func checkAvro(reader, writer *schemas.Node, d registry.Direction) []registry.Finding {
	w := newAvroWalk(d)
	w.walk(reader, writer, nil, nil)
	if w.left < 0 {
		w.report(avroTooLarge, nil, nil, strconv.Itoa(maxAvroPairs), "let the unions have fewer records of one name, or register the schema under level NONE",
			"the comparison was given up: it is granted %d pairs of types", maxAvroPairs)
	}
	return w.findings
}

func newAvroWalk(d registry.Direction) *avroWalk {
	w := &avroWalk{
		direction: d, reader: "the new schema", writer: "the old schema",
		left:     maxAvroPairs,
		verdicts: map[avroPair]*avroVerdict{}, places: map[*schemas.Node]map[string]int{}, free: map[avroPair][]schemas.Field{},
	}
	if d == registry.Forward {
		w.reader, w.writer = w.writer, w.reader
	}
	return w
}

// avroWalk is one comparison.
//
// A schema may be recursive, so a pair of nodes that is met again while it is
// being compared counts as compatible: what is wrong with it will be found
// where it was met first. A pair that then turns out incompatible takes along
// every verdict that may rest on that assumption.
type avroWalk struct {
	direction      registry.Direction
	reader, writer string // what the words call the two
	findings       []registry.Finding
	quiet          int  // above 0, nothing is reported: a branch is tried
	inner          bool // it explains a finding of another comparison
	left           int  // pairs; below 0, the walk is over
	verdicts       map[avroPair]*avroVerdict
	places         map[*schemas.Node]map[string]int // of a writer's fields, by name
	free           map[avroPair][]schemas.Field     // of a writer's record, those that no field of the reader's takes
	trail          []avroPair                       // pairs with a verdict of compatible, in the order in which they were begun
}

type avroPair struct{ reader, writer *schemas.Node }

type avroVerdict struct {
	compatible bool // true while the pair is being compared
	reported   bool // its findings were, or are being, reported
	stale      bool // rested on an assumption that failed
}

// path is a place in a schema: a step from the place above it. nil is the root.
type path struct {
	up    *path
	name  string
	index int    // after the name, unless it is below 0
	tail  string // after the index
}

func (p *path) to(name string) *path { return &path{up: p, name: name, index: -1} }

func (p *path) at(name string, index int) *path { return &path{up: p, name: name, index: index} }

// typeOf is the type of a record's field.
func (p *path) typeOf(field int) *path { return &path{p, "fields", field, "type"} }

func (p *path) String() string {
	if p == nil {
		return "/"
	}
	var steps []string
	for ; p != nil; p = p.up {
		if p.tail != "" {
			steps = append(steps, p.tail)
		}
		if p.index >= 0 {
			steps = append(steps, strconv.Itoa(p.index))
		}
		if p.name != "" {
			steps = append(steps, p.name)
		}
	}
	slices.Reverse(steps)
	return "/" + strings.Join(steps, "/")
}

// walk compares two nodes and returns whether the writer's can be read as the
// reader's. Every recursion goes through a record, so verdicts on records are
// enough.
func (w *avroWalk) walk(r, wr *schemas.Node, rp, wp *path) bool {
	if r.Kind != schemas.Record || wr.Kind != schemas.Record {
		return w.compare(r, wr, rp, wp)
	}
	if w.quiet > 0 && !named(r, wr) {
		return false
	}
	pair := avroPair{r, wr}
	known := w.verdicts[pair]
	if known != nil && !known.stale && (w.quiet > 0 || known.reported) {
		return known.compatible
	}
	reported := known != nil && known.reported
	if reported {
		w.quiet++ // only the verdict is wanted
		defer func() { w.quiet-- }()
	}
	v := &avroVerdict{compatible: true, reported: reported || w.quiet == 0}
	w.verdicts[pair] = v
	start := len(w.trail)
	w.trail = append(w.trail, pair)

	v.compatible = w.compare(r, wr, rp, wp)
	if !v.compatible {
		for _, p := range w.trail[start+1:] {
			if u := w.verdicts[p]; u.compatible {
				u.stale = true
			}
		}
		w.trail = w.trail[:start]
	}
	return v.compatible
}

func (w *avroWalk) compare(r, wr *schemas.Node, rp, wp *path) bool {
	if w.left--; w.left < 0 {
		return false
	}
	if wr.Kind == schemas.Union {
		return w.fromUnion(r, wr, rp, wp)
	}
	if r.Kind == schemas.Union {
		return w.toUnion(r, wr, rp, wp)
	}
	if r.Kind != wr.Kind || r.Bits != wr.Bits {
		if promotes(wr, r) {
			return true
		}
		if w.quiet > 0 {
			return false
		}
		w.report(typeMismatch, rp, wp, typesDetail(r, wr), w.typeFix(wr),
			"%s has type %s at %s, where %s has %s, which cannot be read as it", w.reader, typeName(r), rp, w.writer, typeName(wr))
		return false
	}
	ok := true
	switch r.Kind {
	case schemas.Array:
		ok = w.walk(r.Items, wr.Items, rp.to("items"), wp.to("items"))
	case schemas.Map:
		ok = w.walk(r.Items, wr.Items, rp.to("values"), wp.to("values"))
	case schemas.Fixed:
		ok = w.names(r, wr, rp, wp)
		if r.Size != wr.Size {
			ok = false
			w.report(fixedSizeMismatch, rp.to("size"), wp.to("size"), fmt.Sprintf("expected: %d, found: %d", wr.Size, r.Size),
				fmt.Sprintf("keep the size %d; for another size add a new field with a type of a new name", w.old(wr, r).Size),
				"the fixed %q has %d bytes in %s and %d in %s", r.Name, r.Size, w.reader, wr.Size, w.writer)
		}
	case schemas.Enum:
		ok = w.names(r, wr, rp, wp)
		ok = w.symbols(r, wr, rp, wp) && ok
	case schemas.Record:
		ok = w.names(r, wr, rp, wp)
		next := 0 // most fields stand in the same order
		for i := range r.Fields {
			matches := w.matches(&r.Fields[i], wr, next)
			ok = w.field(r, wr, i, matches, rp, wp) && ok
			if len(matches) > 0 {
				next = matches[0] + 1
			}
		}
	}
	w.logical(r, wr, rp, wp)
	return ok
}

// fromUnion compares a union of the writer: each of its branches must be
// readable.
func (w *avroWalk) fromUnion(r, wr *schemas.Node, rp, wp *path) bool {
	ok := true
	for i, branch := range wr.Branches {
		switch {
		case r.Kind != schemas.Union:
			// The place is counted by the writer's branches, as in the
			// registries in use, though the reader has none.
			ok = w.walk(r, branch, rp.at("", i), wp.at("", i)) && ok
		case !w.readable(r, branch, i):
			ok = false
			w.missingBranch(r, branch, rp, rp.at("", i), wp.at("", i))
		}
	}
	return ok
}

// toUnion compares a plain type of the writer with a union of the reader.
func (w *avroWalk) toUnion(r, wr *schemas.Node, rp, wp *path) bool {
	if w.readable(r, wr, 0) {
		return true
	}
	w.missingBranch(r, wr, rp, rp, wp)
	return false
}

// readable reports whether some branch of a union can read a type. first is
// where to look first: most branches keep their places.
func (w *avroWalk) readable(union, wr *schemas.Node, first int) bool {
	w.quiet++
	defer func() { w.quiet-- }()
	for i := range union.Branches {
		if w.left < 0 {
			return false
		}
		if w.walk(union.Branches[(first+i)%len(union.Branches)], wr, nil, nil) {
			return true
		}
	}
	return false
}

// missingBranch reports that no branch of the reader's union r can read wr. at is
// the place to report, which is that of the writer's branch.
func (w *avroWalk) missingBranch(r, wr *schemas.Node, rp, at, wp *path) {
	if w.quiet > 0 {
		return
	}
	fix := fmt.Sprintf("keep a branch in the union that can read %s", typeName(wr))
	if w.direction == registry.Forward {
		fix = fmt.Sprintf("leave %s out of the union: readers with the old schema do not know it", typeName(wr))
	}
	because := ""
	if reason := w.reason(r, wr, rp, wp); reason != nil {
		because, fix = "; its own "+typeName(wr)+" cannot: "+reason.Message, reason.Fix
	}
	w.report(missingUnionBranch, at, wp, "reader union lacking writer type: "+upperType(wr), fix,
		"the union at %s of %s has no branch that can read %s, which %s may hold there%s", rp, w.reader, typeName(wr), w.writer, because)
}

// reason is the first thing that keeps the branch of the same type and name
// from reading wr, or nil if there is no such branch.
func (w *avroWalk) reason(r, wr *schemas.Node, rp, wp *path) *registry.Finding {
	if w.inner {
		return nil // one step of explanation is enough
	}
	for i, branch := range r.Branches {
		if branch.Kind != wr.Kind || branch.Bits != wr.Bits || simpleName(branch.Name) != simpleName(wr.Name) {
			continue
		}
		in := newAvroWalk(w.direction)
		in.inner, in.left = true, w.left
		in.walk(branch, wr, rp.at("", i), wp)
		w.left = in.left
		for _, f := range in.findings {
			if f.Severity == registry.SeverityError {
				return &f
			}
		}
	}
	return nil
}

// named reports that a type of the reader goes by the name of the writer's.
func named(r, wr *schemas.Node) bool {
	return simpleName(r.Name) == simpleName(wr.Name) || slices.Contains(r.Aliases, wr.Name)
}

// names compares the names of two named types. Namespaces do not count, but an
// alias is a full name.
func (w *avroWalk) names(r, wr *schemas.Node, rp, wp *path) bool {
	if named(r, wr) {
		return true
	}
	if w.quiet > 0 {
		return false
	}
	fix := fmt.Sprintf(`keep the name %q, or give the %s "aliases": [%q]`, wr.Name, r.Kind, wr.Name)
	if w.direction == registry.Forward {
		fix = fmt.Sprintf("keep the name %q: readers with the old schema know no other", r.Name)
	}
	w.report(nameMismatch, rp.to("name"), wp.to("name"), "expected: "+wr.Name, fix,
		"the %s at %s is named %q in %s and %q in %s", r.Kind, rp, r.Name, w.reader, wr.Name, w.writer)
	return false
}

func (w *avroWalk) symbols(r, wr *schemas.Node, rp, wp *path) bool {
	if r.Fallback != "" {
		return true
	}
	known := make(map[string]bool, len(r.Symbols))
	for _, s := range r.Symbols {
		known[s] = true
	}
	var missing []string
	for _, s := range wr.Symbols {
		if !known[s] {
			missing = append(missing, s)
		}
	}
	if missing == nil {
		return true
	}
	slices.Sort(missing)
	list := strings.Join(missing, ", ")
	fix := fmt.Sprintf(`keep the symbols %s, or give the enum a "default", the symbol to read instead`, list)
	if w.direction == registry.Forward {
		fix = fmt.Sprintf(`first register a version in which the enum has a "default", and add %s after that`, list)
	}
	w.report(missingEnumSymbols, rp.to("symbols"), wp.to("symbols"), "["+list+"]", fix,
		"the enum %q lacks the symbols %s in %s, and has no default symbol; %s may hold them", r.Name, list, w.reader, w.writer)
	return false
}

// matches returns which fields of the writer's record a field of the reader
// takes for its own: that of its name, and those of its aliases. next is where
// to look first.
func (w *avroWalk) matches(f *schemas.Field, wr *schemas.Node, next int) []int {
	if len(f.Aliases) == 0 && next < len(wr.Fields) && wr.Fields[next].Name == f.Name {
		return []int{next}
	}
	places := w.places[wr]
	if places == nil {
		places = make(map[string]int, len(wr.Fields))
		for i := range wr.Fields {
			places[wr.Fields[i].Name] = i
		}
		w.places[wr] = places
	}
	var found []int
	if i, ok := places[f.Name]; ok {
		found = append(found, i)
	}
	for _, alias := range f.Aliases {
		if i, ok := places[alias]; ok && !slices.Contains(found, i) {
			found = append(found, i)
		}
	}
	slices.Sort(found)
	return found
}

// field compares one field of the reader's record with those of the writer's
// that it matches.
func (w *avroWalk) field(r, wr *schemas.Node, i int, matches []int, rp, wp *path) bool {
	f := &r.Fields[i]
	switch {
	case len(matches) == 1:
		j := matches[0]
		return w.walk(f.Node, wr.Fields[j].Node, rp.typeOf(i), wp.typeOf(j))
	case len(matches) == 0 && f.HasDefault:
		return true
	case w.quiet > 0:
		return false
	}
	at := rp.at("fields", i)
	if len(matches) > 1 {
		names := make([]string, len(matches))
		for i, j := range matches {
			names[i] = strconv.Quote(wr.Fields[j].Name)
		}
		w.report(fieldMatchesSeveral, at, wp, f.Name, "leave out the aliases that name a field of its own",
			"the field %q at %s of %s matches the fields %s of %s, by its name and its aliases", f.Name, at, w.reader, strings.Join(names, " and "), w.writer)
		return false
	}
	rule, place, detail := fieldMissingDefault, at, f.Name
	also := ""
	if f.Node.Kind == schemas.Enum && f.Node.Fallback != "" {
		// The registries in use report the enum against the whole record.
		rule, place, detail = typeMismatch, rp.typeOf(i), typesDetail(f.Node, wr)
		also = "; the enum's own default stands for unknown symbols, not for a missing field"
	}
	w.report(rule, place, wp, detail, w.defaultFix(f, r, wr),
		"the field %q at %s of %s has no default, and %s lacks the field%s", f.Name, at, w.reader, w.writer, also)
	return false
}

// defaultFix says what to do about a field that the writer lacks.
func (w *avroWalk) defaultFix(f *schemas.Field, r, wr *schemas.Node) string {
	if w.direction == registry.Forward {
		return fmt.Sprintf("keep the field %q: readers with the old schema need it; to remove it, first register a version that gives it a default", f.Name)
	}
	var fix string
	switch inner, nullable := f.Node.Nullable(); {
	case f.Node.Kind == schemas.Enum && len(f.Node.Symbols) > 0:
		fix = fmt.Sprintf(`give the new field %q a default, e.g. "default": %q`, f.Name, cmp.Or(f.Node.Fallback, f.Node.Symbols[0]))
	case nullable && f.Node.Kind == schemas.Union && f.Node.Branches[0].Kind == schemas.Null:
		fix = fmt.Sprintf(`give the new field %q a default: "default": null`, f.Name)
	case nullable && f.Node.Kind == schemas.Union:
		fix = fmt.Sprintf(`give the new field %q a default, e.g. "default": null with null as the first branch of its type`, f.Name)
	default:
		fix = fmt.Sprintf(`give the new field %q a default, e.g. "default": null with type ["null",%s]`, f.Name, typeJSON(inner))
	}
	if renamed := w.renamed(f, r, wr); renamed != "" {
		fix += fmt.Sprintf(`; if it is the old field %q under a new name, give it "aliases": [%q]`, renamed, renamed)
	}
	return fix
}

// renamed is the only field of the writer that no field of the reader takes and
// that f could read, or "".
func (w *avroWalk) renamed(f *schemas.Field, r, wr *schemas.Node) string {
	const most = 16 // of more, none is likely to be the only one
	pair := avroPair{r, wr}
	free, known := w.free[pair]
	if !known {
		taken := map[string]bool{}
		for _, f := range r.Fields {
			taken[f.Name] = true
			for _, alias := range f.Aliases {
				taken[alias] = true
			}
		}
		for _, old := range wr.Fields {
			if !taken[old.Name] {
				free = append(free, old)
			}
		}
		w.free[pair] = free
	}
	if len(free) > most {
		return ""
	}
	w.quiet++
	defer func() { w.quiet-- }()
	var name string
	for _, old := range free {
		if !w.walk(f.Node, old.Node, nil, nil) {
			continue
		}
		if name != "" {
			return ""
		}
		name = old.Name
	}
	return name
}

func (w *avroWalk) logical(r, wr *schemas.Node, rp, wp *path) {
	if r.Logical == wr.Logical && r.Precision == wr.Precision && r.Scale == wr.Scale {
		return
	}
	name := func(n *schemas.Node) string {
		switch n.Logical {
		case schemas.NoLogical:
			return "no logical type"
		case schemas.Decimal:
			return fmt.Sprintf("decimal(%d,%d)", n.Precision, n.Scale)
		default:
			return string(n.Logical)
		}
	}
	w.report(logicalTypeChanged, rp, wp, "", "add a new field for the new meaning",
		"the %s at %s has %s in %s and %s in %s: its values are read, and taken for something else", typeName(r), rp, name(r), w.reader, name(wr), w.writer)
}

func (w *avroWalk) report(rule int, rp, wp *path, detail, fix, message string, args ...any) {
	if w.quiet > 0 || w.left < 0 && rule != avroTooLarge {
		return
	}
	w.findings = append(w.findings, registry.Finding{
		Rule: avroRules[rule].Name, Severity: avroRules[rule].Severity, Direction: w.direction,
		ReaderPath: rp.String(), WriterPath: wp.String(),
		Message: fmt.Sprintf(message, args...), Detail: detail, Fix: fix,
	})
}

// old is the node of the old schema.
func (w *avroWalk) old(writer, reader *schemas.Node) *schemas.Node {
	if w.direction == registry.Forward {
		return reader
	}
	return writer
}

func (w *avroWalk) typeFix(wr *schemas.Node) string {
	if w.direction == registry.Forward {
		return "keep the old type: readers with the old schema cannot read another; or add a new field"
	}
	if wr.Kind == schemas.Null {
		return "let the type be a union that has null as well"
	}
	return fmt.Sprintf("keep the type %s, or let it be a union that has %s as well; or add a new field", typeName(wr), typeName(wr))
}

// promotes reports whether a reader takes values of one primitive type for
// those of another, as the specification has it.
func promotes(from, to *schemas.Node) bool {
	switch {
	case from.Kind == schemas.Int && to.Kind == schemas.Int:
		return from.Bits < to.Bits
	case from.Kind == schemas.Int && to.Kind == schemas.Float:
		return true
	case from.Kind == schemas.Float && to.Kind == schemas.Float:
		return from.Bits < to.Bits
	default:
		return from.Kind == schemas.String && to.Kind == schemas.Bytes ||
			from.Kind == schemas.Bytes && to.Kind == schemas.String
	}
}

// avroType is the specification's name of a node's type.
func avroType(n *schemas.Node) string {
	switch {
	case n.Kind == schemas.Int && n.Bits == 64:
		return "long"
	case n.Kind == schemas.Int:
		return "int"
	case n.Kind == schemas.Float && n.Bits == 64:
		return "double"
	case n.Kind == schemas.Float:
		return "float"
	default:
		return n.Kind.String()
	}
}

func upperType(n *schemas.Node) string { return strings.ToUpper(avroType(n)) }

// typeName is the type in plain words, with its name if it has one.
func typeName(n *schemas.Node) string {
	if n.Name != "" {
		return fmt.Sprintf("%s %q", avroType(n), n.Name)
	}
	return avroType(n)
}

// typeJSON is how a schema's text names a type.
func typeJSON(n *schemas.Node) string {
	switch n.Kind {
	case schemas.Array, schemas.Map:
		return fmt.Sprintf(`{"type":%q,…}`, avroType(n))
	case schemas.Record, schemas.Enum, schemas.Fixed:
		return strconv.Quote(n.Name)
	default:
		return strconv.Quote(avroType(n))
	}
}

func typesDetail(r, wr *schemas.Node) string {
	return fmt.Sprintf("reader type: %s not compatible with writer type: %s", upperType(r), upperType(wr))
}

func simpleName(full string) string { return full[strings.LastIndexByte(full, '.')+1:] }
