package schemas

import (
	"cmp"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// ChangeKind names what changed, in one vocabulary for all languages.
type ChangeKind string

// The kinds of changes.
const (
	TypeAdded         ChangeKind = "TYPE_ADDED" // a whole message or enum of a file
	TypeRemoved       ChangeKind = "TYPE_REMOVED"
	TypeRenamed       ChangeKind = "TYPE_RENAMED"
	TypeWidened       ChangeKind = "TYPE_WIDENED"
	TypeNarrowed      ChangeKind = "TYPE_NARROWED"
	TypeChanged       ChangeKind = "TYPE_CHANGED"
	MeaningChanged    ChangeKind = "MEANING_CHANGED" // the logical type, its unit, precision or scale
	NullAllowed       ChangeKind = "NULL_ALLOWED"
	NullForbidden     ChangeKind = "NULL_FORBIDDEN"
	BranchAdded       ChangeKind = "BRANCH_ADDED" // of a union
	BranchRemoved     ChangeKind = "BRANCH_REMOVED"
	FieldAdded        ChangeKind = "FIELD_ADDED"
	FieldRemoved      ChangeKind = "FIELD_REMOVED"
	FieldRenamed      ChangeKind = "FIELD_RENAMED"
	FieldMoved        ChangeKind = "FIELD_MOVED" // into another record
	FieldRenumbered   ChangeKind = "FIELD_RENUMBERED"
	FieldsReordered   ChangeKind = "FIELDS_REORDERED"
	FieldRequired     ChangeKind = "FIELD_REQUIRED"
	FieldOptional     ChangeKind = "FIELD_OPTIONAL"
	DefaultAdded      ChangeKind = "DEFAULT_ADDED"
	DefaultRemoved    ChangeKind = "DEFAULT_REMOVED"
	DefaultChanged    ChangeKind = "DEFAULT_CHANGED"
	SymbolAdded       ChangeKind = "SYMBOL_ADDED"
	SymbolRemoved     ChangeKind = "SYMBOL_REMOVED"
	SymbolRenamed     ChangeKind = "SYMBOL_RENAMED"
	SymbolsReordered  ChangeKind = "SYMBOLS_REORDERED"
	FallbackChanged   ChangeKind = "FALLBACK_CHANGED"
	ConstraintTighter ChangeKind = "CONSTRAINT_TIGHTENED"
	ConstraintLooser  ChangeKind = "CONSTRAINT_LOOSENED"
	ConstraintChanged ChangeKind = "CONSTRAINT_CHANGED"
	RecordClosed      ChangeKind = "RECORD_CLOSED" // fields beyond those named are no longer accepted
	RecordOpened      ChangeKind = "RECORD_OPENED"
	OneOfChanged      ChangeKind = "ONEOF_CHANGED"
	AliasAdded        ChangeKind = "ALIAS_ADDED"
	AliasRemoved      ChangeKind = "ALIAS_REMOVED"
	TagsChanged       ChangeKind = "TAGS_CHANGED"
	DocChanged        ChangeKind = "DOC_CHANGED"
)

// Change is one difference between two versions of a schema.
type Change struct {
	Kind ChangeKind
	// Old and New are where it lies in the two versions. What one version lacks
	// has there the place of the record, enum or union that lacks it.
	Old, New *Place
	// OldField and NewField are the fields that changed, nil where it is the
	// type below them.
	OldField, NewField *Field
	// What is the constraint that changed, by the name JSON Schema has for it,
	// and empty for other kinds.
	What string
	// Was and Is are what the two versions say, in words; empty is nothing.
	Was, Is string
	// Sure says in percent how sure it is that a field that was renamed or moved
	// is the same field, and By what it is known by: alias, number, type, name.
	Sure int
	By   string
}

// Place is a place in a schema: a step from the one above it. A root has Up nil.
type Place struct {
	Up    *Place
	Node  *Node
	Step  Step
	Index int    // of the field in its record, of the branch in its union
	Root  string // of a root, how it is called; empty where there is one only
}

// Step says how one gets to a place.
type Step uint8

// The steps.
const (
	StepRoot Step = iota
	StepField
	StepItems  // of an array
	StepValues // of a map
	StepKeys   // of a map
	StepBranch // of a union
)

// Field is the field whose type the place is, nil if it is no field's.
func (p *Place) Field() *Field {
	if p.Step != StepField {
		return nil
	}
	return &p.Up.Node.Fields[p.Index]
}

// String is the way to the place by names: position.altitude, tags[], by_day{}.
// The root is its name, or empty.
func (p *Place) String() string {
	if p == nil {
		return ""
	}
	switch p.Step {
	case StepField:
		if up := p.Up.String(); up != "" {
			return up + "." + p.Field().Name
		}
		return p.Field().Name
	case StepItems:
		return p.Up.String() + "[]"
	case StepValues, StepKeys:
		return p.Up.String() + "{}"
	case StepBranch:
		return p.Up.String()
	default:
		return p.Root
	}
}

func (p *Place) to(step Step, index int, n *Node) *Place {
	return &Place{Up: p, Node: n, Step: step, Index: index}
}

// Pair is two versions of one type. Where one is nil, the type is new or gone.
type Pair struct {
	Name     string // empty where a schema has one type only
	Old, New *Node
}

// Diff returns what changed between two versions of a schema in language t,
// given as pairs of its types. What is the same in both is told nowhere: of a
// schema and itself there is nothing to tell. The other way around it tells the
// same changes with old and new in each other's place.
//
// What changed in a type that is used more than once, or within itself, is told
// at one place; again has the others.
func Diff(t Type, pairs ...Pair) (changes []Change, again []Again) {
	d := differ{language: t, seen: map[[2]*Node][2]*Place{}, roots: map[string]bool{}}
	for _, p := range pairs {
		if p.Name != "" && p.Old != nil && p.New != nil {
			d.roots[p.Old.Name+" "+p.New.Name] = true
		}
	}
	for _, p := range pairs {
		before, after := &Place{Node: p.Old, Root: p.Name}, &Place{Node: p.New, Root: p.Name}
		switch {
		case p.Old == nil:
			d.tell(Change{Kind: TypeAdded, Old: before, New: after, Is: p.Name})
		case p.New == nil:
			d.tell(Change{Kind: TypeRemoved, Old: before, New: after, Was: p.Name})
		default:
			d.node(before, after)
		}
	}
	d.moved()
	return d.changes, d.again
}

// Again is a place in two versions at which the same two types meet as at
// another, where it is told what changed in them.
type Again struct{ Old, New, FirstOld, FirstNew *Place }

// differ is one comparison.
type differ struct {
	language Type
	changes  []Change
	again    []Again
	seen     map[[2]*Node][2]*Place // where pairs were, or are being, compared
	roots    map[string]bool        // pairs of types that are compared for themselves
}

func (d *differ) tell(c Change) { d.changes = append(d.changes, c) }

// node compares what is at two places.
func (d *differ) node(before, after *Place) {
	a, b := before.Node, after.Node
	if a == b {
		return
	}
	if before.Up != nil && d.roots[a.Name+" "+b.Name] && a.Name != "" {
		return
	}
	if len(a.Fields)+len(b.Fields)+len(a.Branches)+len(b.Branches) > 0 || a.Items != nil || b.Items != nil {
		pair := [2]*Node{a, b}
		if first, there := d.seen[pair]; there {
			d.again = append(d.again, Again{before, after, first[0], first[1]})
			return
		}
		d.seen[pair] = [2]*Place{before, after}
	}
	if (a.Kind == Union || b.Kind == Union) && a.Kind != Any && b.Kind != Any {
		d.union(before, after)
		return
	}
	if d.kind(before, after) {
		return
	}
	d.contents(before, after)
}

// kind tells what changed of a type itself, and reports whether it is another
// type, so that there is nothing to compare below it.
func (d *differ) kind(before, after *Place) (other bool) {
	a, b := before.Node, after.Node
	was, is := d.typeWords(a), d.typeWords(b)
	bits := d.language != JSON && (a.Bits != b.Bits || a.Unsigned != b.Unsigned)
	switch {
	case a.Kind != b.Kind || bits:
		kind := TypeChanged
		if d.wider(a, b) {
			kind = TypeWidened
		} else if d.wider(b, a) {
			kind = TypeNarrowed
		}
		d.tell(Change{Kind: kind, Old: before, New: after, Was: was, Is: is})
		return true
	case a.Kind == Fixed && a.Size != b.Size:
		d.tell(Change{Kind: TypeChanged, Old: before, New: after, Was: was, Is: is})
	case a.Logical != b.Logical || a.Precision != b.Precision || a.Scale != b.Scale:
		d.tell(Change{Kind: MeaningChanged, Old: before, New: after, Was: logicalWords(a), Is: logicalWords(b)})
	case a.Native != b.Native:
		kind := MeaningChanged
		if a.Logical == NoLogical {
			kind = TypeChanged
		}
		d.tell(Change{Kind: kind, Old: before, New: after, Was: a.Native, Is: b.Native})
	}
	if a.Name != b.Name && (a.Kind == Record || a.Kind == Enum || a.Kind == Fixed) {
		kind := TypeRenamed
		if d.language == JSON { // it is a title there
			kind = DocChanged
		}
		d.tell(Change{Kind: kind, Old: before, New: after, Was: a.Name, Is: b.Name})
	}
	return false
}

// contents compares what two places of one kind hold.
func (d *differ) contents(before, after *Place) {
	a, b := before.Node, after.Node
	if a.Doc != b.Doc && (d.language != JSON || before.Field() == nil || before.Field().Doc != a.Doc) {
		d.tell(Change{Kind: DocChanged, Old: before, New: after, Was: a.Doc, Is: b.Doc})
	}
	d.aliases(before, after, nil, nil, a.Aliases, b.Aliases)
	d.bounds(before, after)
	switch a.Kind {
	case Enum:
		d.symbols(before, after)
	case Array:
		d.below(before, after, StepItems, a.Items, b.Items)
	case Map:
		d.below(before, after, StepValues, a.Items, b.Items)
		d.below(before, after, StepKeys, a.Keys, b.Keys)
	case Record:
		if a.Open != b.Open {
			kind := RecordClosed
			if b.Open {
				kind = RecordOpened
			}
			d.tell(Change{Kind: kind, Old: before, New: after, Was: openWords(a.Open), Is: openWords(b.Open)})
		}
		d.record(before, after)
	}
}

func (d *differ) below(before, after *Place, step Step, a, b *Node) {
	switch {
	case a == b:
	case a == nil:
		d.tell(Change{Kind: TypeChanged, Old: before, New: after, Was: "keys of any text", Is: "keys of " + d.typeWords(b)})
	case b == nil:
		d.tell(Change{Kind: TypeChanged, Old: before, New: after, Was: "keys of " + d.typeWords(a), Is: "keys of any text"})
	default:
		d.node(before.to(step, 0, a), after.to(step, 0, b))
	}
}

// wider reports whether b takes all values of a, as the language reads them.
func (d *differ) wider(a, b *Node) bool {
	switch {
	case a.Kind == Int && b.Kind == Int:
		return a.Bits < b.Bits && (a.Unsigned == b.Unsigned || a.Unsigned)
	case a.Kind == Int && b.Kind == Float, a.Kind == Float && b.Kind == Float:
		return a.Kind == Int && d.language != Protobuf || a.Kind == Float && a.Bits < b.Bits
	case a.Kind == Bool && b.Kind == Int, a.Kind == Enum && b.Kind == Int:
		return d.language == Protobuf
	case a.Kind == Enum && b.Kind == String:
		return d.language == JSON
	case a.Kind == String && b.Kind == Bytes:
		return d.language != JSON
	default:
		return b.Kind == Any && d.language == JSON
	}
}

// union compares two types of which one at least is a union.
func (d *differ) union(before, after *Place) {
	a, b := before.branches(), after.branches()
	nullBefore, nullAfter := hasNull(before.Node), hasNull(after.Node)
	if nullBefore != nullAfter {
		kind, was, is := NullForbidden, "null or a value", "a value"
		if nullAfter {
			kind, was, is = NullAllowed, is, was
		}
		d.tell(Change{Kind: kind, Old: before, New: after, Was: was, Is: is})
	}
	// A branch goes by its kind and its name; of those without one, the first
	// goes with the first.
	key := func(p *Place) string {
		n := p.Node
		if n.Name != "" && d.language != JSON {
			return n.Kind.String() + " " + simple(n.Name)
		}
		return n.Kind.String()
	}
	matched := map[*Place]bool{}
	pair := func(same func(x, y *Place) bool) {
		for _, x := range a {
			if matched[x] {
				continue
			}
			if i := slices.IndexFunc(b, func(y *Place) bool { return !matched[y] && same(x, y) }); i >= 0 {
				matched[x], matched[b[i]] = true, true
				d.node(x, b[i])
			}
		}
	}
	pair(func(x, y *Place) bool { return key(x) == key(y) && d.typeWords(x.Node) == d.typeWords(y.Node) })
	pair(func(x, y *Place) bool { return key(x) == key(y) })
	if len(a) == 1 && len(b) == 1 {
		pair(func(_, _ *Place) bool { return true })
	}
	for _, x := range a {
		if !matched[x] {
			d.tell(Change{Kind: BranchRemoved, Old: x, New: after, Was: d.typeWords(x.Node)})
		}
	}
	for _, y := range b {
		if !matched[y] {
			d.tell(Change{Kind: BranchAdded, Old: before, New: y, Is: d.typeWords(y.Node)})
		}
	}
}

// branches are the places of what a type may be, without null.
func (p *Place) branches() []*Place {
	if p.Node.Kind == Null {
		return nil
	}
	if p.Node.Kind != Union {
		return []*Place{p}
	}
	var out []*Place
	for i, b := range p.Node.Branches {
		if b.Kind != Null {
			out = append(out, p.to(StepBranch, i, b))
		}
	}
	return out
}

func hasNull(n *Node) bool {
	_, null := n.Nullable()
	return null
}

// symbols compares two enums, by number where the language has them.
func (d *differ) symbols(before, after *Place) {
	a, b := before.Node, after.Node
	if a.Fallback != b.Fallback {
		d.tell(Change{Kind: FallbackChanged, Old: before, New: after, Was: a.Fallback, Is: b.Fallback})
	}
	if len(a.Numbers) > 0 && len(b.Numbers) > 0 {
		d.numbered(before, after)
		return
	}
	inA, inB := index(a.Symbols), index(b.Symbols)
	for _, s := range a.Symbols {
		if _, there := inB[s]; !there {
			d.tell(Change{Kind: SymbolRemoved, Old: before, New: after, Was: s})
		}
	}
	var common, moved []string
	for _, s := range b.Symbols {
		if _, there := inA[s]; !there {
			d.tell(Change{Kind: SymbolAdded, Old: before, New: after, Is: s})
		} else {
			common = append(common, s)
		}
	}
	for _, s := range a.Symbols {
		if _, there := inB[s]; there {
			moved = append(moved, s)
		}
	}
	if d.language == Avro && !slices.Equal(common, moved) {
		d.tell(Change{Kind: SymbolsReordered, Old: before, New: after, Was: strings.Join(moved, ", "), Is: strings.Join(common, ", ")})
	}
}

func (d *differ) numbered(before, after *Place) {
	list := func(n *Node) map[int32]string {
		names := make(map[int32]string, len(n.Symbols))
		for i, number := range n.Numbers {
			if names[number] == "" { // another is an alias
				names[number] = n.Symbols[i]
			}
		}
		return names
	}
	a, b := list(before.Node), list(after.Node)
	words := func(name string, number int32) string { return fmt.Sprintf("%s = %d", name, number) }
	for number, name := range sorted(a) {
		switch other, there := b[number]; {
		case !there:
			d.tell(Change{Kind: SymbolRemoved, Old: before, New: after, Was: words(name, number)})
		case other != name:
			d.tell(Change{Kind: SymbolRenamed, Old: before, New: after, Was: words(name, number), Is: words(other, number), Sure: 100, By: "number"})
		}
	}
	for number, name := range sorted(b) {
		if _, there := a[number]; !there {
			d.tell(Change{Kind: SymbolAdded, Old: before, New: after, Is: words(name, number)})
		}
	}
}

// sorted yields a map in the order of its keys.
func sorted[K cmp.Ordered, V any](m map[K]V) func(yield func(K, V) bool) {
	return func(yield func(K, V) bool) {
		keys := make([]K, 0, len(m))
		for k := range m {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

func index(names []string) map[string]int {
	at := make(map[string]int, len(names))
	for i, name := range names {
		at[name] = i
	}
	return at
}

// aliases compares the other names of a field, or of a type where the fields are
// nil.
func (d *differ) aliases(before, after *Place, f, g *Field, a, b []string) {
	for _, name := range a {
		if !slices.Contains(b, name) {
			d.tell(Change{Kind: AliasRemoved, Old: before, New: after, OldField: f, NewField: g, Was: name})
		}
	}
	for _, name := range b {
		if !slices.Contains(a, name) {
			d.tell(Change{Kind: AliasAdded, Old: before, New: after, OldField: f, NewField: g, Is: name})
		}
	}
}

// bounds compares what two types ask of their values.
func (d *differ) bounds(before, after *Place) {
	a, b := before.Node.Bounds, after.Node.Bounds
	if a == nil && b == nil {
		return
	}
	a, b = cmp.Or(a, &Bounds{}), cmp.Or(b, &Bounds{})
	tell := func(what string, kind ChangeKind, was, is string) {
		d.tell(Change{Kind: kind, Old: before, New: after, What: what, Was: was, Is: is})
	}
	// least and most are limits; a greater one is tighter if sign is 1.
	limit := func(what string, sign int, x, y *big.Rat) {
		switch {
		case x == nil && y == nil || x != nil && y != nil && x.Cmp(y) == 0:
		case x == nil || y != nil && x.Cmp(y) == -sign:
			tell(what, ConstraintTighter, ratWords(x), ratWords(y))
		default:
			tell(what, ConstraintLooser, ratWords(x), ratWords(y))
		}
	}
	limit("minimum", 1, a.Least, b.Least)
	limit("maximum", -1, a.Most, b.Most)
	limit("exclusiveMinimum", 1, a.Above, b.Above)
	limit("exclusiveMaximum", -1, a.Below, b.Below)
	limit("minimum size", 1, sizeRat(&a.MinSize), sizeRat(&b.MinSize))
	limit("maximum size", -1, sizeRat(a.MaxSize), sizeRat(b.MaxSize))
	text := func(what, x, y string) {
		switch {
		case x == y:
		case x == "":
			tell(what, ConstraintTighter, x, y)
		case y == "":
			tell(what, ConstraintLooser, x, y)
		default:
			tell(what, ConstraintChanged, x, y)
		}
	}
	if before.Node.Logical == after.Node.Logical { // else it was told
		text("format", a.Format, b.Format)
	}
	text("pattern", a.Pattern, b.Pattern)
	text("uniqueItems", boolWords(a.Unique), boolWords(b.Unique))
	x, y := a.Multiple, b.Multiple
	switch {
	case x == nil || y == nil:
		text("multipleOf", ratWords(x), ratWords(y))
	case x.Cmp(y) == 0:
	case new(big.Rat).Quo(y, x).IsInt():
		tell("multipleOf", ConstraintTighter, ratWords(x), ratWords(y))
	case new(big.Rat).Quo(x, y).IsInt():
		tell("multipleOf", ConstraintLooser, ratWords(x), ratWords(y))
	default:
		tell("multipleOf", ConstraintChanged, ratWords(x), ratWords(y))
	}
	if before.Node.Kind != Enum {
		text("values", valueWords(a.Values), valueWords(b.Values))
	}
}

// record compares the fields of two records.
func (d *differ) record(before, after *Place) {
	a, b := before.Node, after.Node
	m := d.match(a, b)
	// The pairs come in an order that does not depend on which is the old one,
	// so that a type that is used twice is told at the same place either way.
	for _, p := range m.pairs {
		d.field(before.to(StepField, p.old, a.Fields[p.old].Node), after.to(StepField, p.new, b.Fields[p.new].Node), p)
	}
	for _, i := range m.removed {
		f := &a.Fields[i]
		d.tell(Change{Kind: FieldRemoved, Old: before.to(StepField, i, f.Node), New: after, OldField: f, Was: d.fieldWords(f)})
	}
	for _, i := range m.added {
		f := &b.Fields[i]
		d.tell(Change{Kind: FieldAdded, Old: before, New: after.to(StepField, i, f.Node), NewField: f, Is: d.fieldWords(f)})
	}
	if d.language == Avro && m.reordered {
		d.tell(Change{Kind: FieldsReordered, Old: before, New: after, Was: fieldNames(a, m), Is: fieldNames(b, m)})
	}
}

// fieldNames lists the fields that two records have in common, in the order of
// one; of many, the first few.
func fieldNames(n *Node, m *matches) string {
	const most = 12
	var names []string
	for i := range n.Fields {
		if name := n.Fields[i].Name; m.common[name] {
			if len(names) == most {
				return strings.Join(names, ", ") + ", …"
			}
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// field compares one field with what became of it.
func (d *differ) field(before, after *Place, p match) {
	f, g := before.Field(), after.Field()
	tell := func(kind ChangeKind, was, is string) {
		d.tell(Change{Kind: kind, Old: before, New: after, OldField: f, NewField: g, Was: was, Is: is, Sure: p.sure, By: p.by})
	}
	if f.Name != g.Name {
		tell(FieldRenamed, f.Name, g.Name)
	}
	p.sure, p.by = 0, ""
	if f.Number != g.Number {
		tell(FieldRenumbered, strconv.Itoa(f.Number), strconv.Itoa(g.Number))
	}
	if f.OneOf != g.OneOf {
		tell(OneOfChanged, f.OneOf, g.OneOf)
	}
	had, has := d.defaults(f), d.defaults(g)
	switch {
	case had && !has:
		tell(DefaultRemoved, defaultWords(f), "")
	case !had && has:
		tell(DefaultAdded, "", defaultWords(g))
	case had && !sameDefault(f.Default, g.Default) && f.Node.Kind == g.Node.Kind:
		tell(DefaultChanged, defaultWords(f), defaultWords(g))
	}
	if f.Required != g.Required && (d.language != Avro || f.HasDefault == g.HasDefault && hasNull(f.Node) == hasNull(g.Node)) {
		kind := FieldOptional
		if g.Required {
			kind = FieldRequired
		}
		tell(kind, requiredWords(f.Required), requiredWords(g.Required))
	}
	if f.Doc != g.Doc {
		tell(DocChanged, f.Doc, g.Doc)
	}
	if !slices.Equal(f.Tags, g.Tags) {
		tell(TagsChanged, strings.Join(f.Tags, ", "), strings.Join(g.Tags, ", "))
	}
	// An alias that makes the new name known is part of that.
	without := func(names []string, name string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == name && f.Name != g.Name })
	}
	d.aliases(before, after, f, g, without(f.Aliases, g.Name), without(g.Aliases, f.Name))
	d.node(before, after)
}

// defaults reports whether a field has a default that its text gives: in
// Protobuf every field without presence has that of its type.
func (d *differ) defaults(f *Field) bool {
	if !f.HasDefault || d.language != Protobuf {
		return f.HasDefault
	}
	n, _ := f.Node.Nullable()
	switch v := f.Default.(type) {
	case []any, map[string]any:
		return false
	case []byte:
		return len(v) > 0
	case string:
		return v != "" && (n.Kind != Enum || v != n.Symbols[0])
	default:
		return v != nil && !reflect.ValueOf(v).IsZero()
	}
}

func sameDefault(a, b any) bool {
	if x, ok := a.(*big.Rat); ok {
		y, ok := b.(*big.Rat)
		return ok && x.Cmp(y) == 0
	}
	return reflect.DeepEqual(a, b)
}

// moved turns a field that went from one record and came in another into one
// change, where there is no doubt which it is.
func (d *differ) moved() {
	type found struct{ at, count int }
	gone, came := map[string]*found{}, map[string]*found{}
	key := func(f *Field) string { return fold(f.Name) + " " + d.plainWords(f.Node) }
	note := func(list map[string]*found, f *Field, at int) {
		k := key(f)
		if list[k] == nil {
			list[k] = &found{at: at}
		}
		list[k].count++
	}
	for i := range d.changes {
		switch c := &d.changes[i]; c.Kind {
		case FieldRemoved:
			note(gone, c.OldField, i)
		case FieldAdded:
			note(came, c.NewField, i)
		}
	}
	var drop []int
	for k, g := range sorted(gone) {
		c := came[k]
		if c == nil || g.count != 1 || c.count != 1 || d.language == Protobuf {
			continue
		}
		from, to := d.changes[g.at], d.changes[c.at]
		if from.Old.Up.Node == to.Old.Node || from.New == to.New {
			continue // of one record: it would have been matched
		}
		d.changes[g.at] = Change{
			Kind: FieldMoved, Old: from.Old, New: to.New, OldField: from.OldField, NewField: to.NewField,
			Was: from.Old.String(), Is: to.New.String(), Sure: 70, By: "name and type",
		}
		drop = append(drop, c.at)
	}
	slices.Sort(drop)
	for _, i := range slices.Backward(drop) {
		d.changes = slices.Delete(d.changes, i, i+1)
	}
}

// Words.

func openWords(open bool) string {
	if open {
		return "further fields allowed"
	}
	return "no further fields"
}

func requiredWords(required bool) string {
	if required {
		return "required"
	}
	return "optional"
}

func boolWords(b bool) string {
	if b {
		return "true"
	}
	return ""
}

func ratWords(r *big.Rat) string {
	if r == nil {
		return ""
	}
	if digits, exact := r.FloatPrec(); exact && digits < 40 {
		return r.FloatString(digits)
	}
	return r.RatString()
}

func sizeRat(n *int) *big.Rat {
	if n == nil {
		return nil
	}
	return new(big.Rat).SetInt64(int64(*n))
}

func valueWords(values []any) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = jsonWords(v)
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

func jsonWords(v any) string {
	text, err := AppendJSON(nil, v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

func defaultWords(f *Field) string { return jsonWords(f.Default) }

func simple(full string) string { return full[strings.LastIndexByte(full, '.')+1:] }

// typeWords is a type in a few words; two types with the same words are alike
// down to the names of what they are made of.
func (d *differ) typeWords(n *Node) string { return typeWords(n, d.language, 3) }

// plainWords is typeWords without null.
func (d *differ) plainWords(n *Node) string {
	n, _ = n.Nullable()
	return d.typeWords(n)
}

func (d *differ) fieldWords(f *Field) string {
	words := d.typeWords(f.Node)
	if f.HasDefault && d.language != Protobuf {
		words += ", default " + defaultWords(f)
	} else if f.Required && d.language != Avro {
		words += ", required"
	}
	return words
}

// TypeWords is the type of a node in a few words of its language.
func TypeWords(n *Node, t Type) string { return typeWords(n, t, 3) }

func typeWords(n *Node, t Type, depth int) string {
	if n == nil {
		return "anything"
	}
	if depth == 0 {
		return n.Kind.String()
	}
	name := ""
	if n.Name != "" && t != JSON {
		name = " " + simple(n.Name)
	}
	switch n.Kind {
	case Any:
		return "anything"
	case Array:
		return "array of " + typeWords(n.Items, t, depth-1)
	case Map:
		return "map of " + typeWords(n.Items, t, depth-1)
	case Union:
		words := make([]string, len(n.Branches))
		for i, b := range n.Branches {
			words[i] = typeWords(b, t, depth-1)
		}
		return strings.Join(words, " or ")
	case Fixed:
		return fmt.Sprintf("fixed%s of %d bytes", name, n.Size)
	case Record, Enum:
		return n.Kind.String() + name
	}
	if n.Native != "" {
		return n.Native
	}
	if n.Logical != NoLogical {
		return logicalWords(n)
	}
	switch {
	case n.Kind == Int && t == Protobuf:
		words := "int" + strconv.Itoa(n.Bits)
		if n.Unsigned {
			words = "u" + words
		}
		return words
	case n.Kind == Bool && t == Protobuf:
		return "bool"
	case n.Kind == Int && t == Avro && n.Bits == 64:
		return "long"
	case n.Kind == Int && t == Avro:
		return "int"
	case n.Kind == Float && t != JSON && n.Bits == 64:
		return "double"
	case n.Kind == Float && t != JSON:
		return "float"
	default:
		return n.Kind.String()
	}
}

func logicalWords(n *Node) string {
	switch {
	case n.Logical == NoLogical:
		return "no logical type"
	case n.Logical == Decimal && n.Precision > 0:
		return fmt.Sprintf("decimal(%d,%d)", n.Precision, n.Scale)
	case n.Native != "":
		return n.Native
	default:
		return string(n.Logical)
	}
}
