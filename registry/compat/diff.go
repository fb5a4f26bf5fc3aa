package compat

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"penstock/registry"
	"penstock/schemas"
)

// Side is one of two versions of a schema that Diff compares.
type Side struct {
	Schema schemas.Schema
	// Source is the text, for lines and columns, and what it refers to. Without
	// it the changes have no places in a text.
	Source registry.Schema
}

// Change is a difference between two versions of a schema, with what it means
// to those who read and write.
type Change struct {
	// Rule is the rule's name: the kind of the change in the words of all
	// languages, or a rule of the language's own where there is no such word.
	Rule string `json:"rule"`
	// Severity is SeverityError if the change breaks a reader, SeverityWarning
	// if the schemas do not tell whether it does.
	Severity registry.Severity `json:"severity"`
	// Breaks says in which direction: BACKWARD is that the new schema cannot
	// read what the old one wrote, FORWARD that the old cannot read what the
	// new one writes.
	Breaks []registry.Direction `json:"breaks,omitempty"`
	// Path is the place by names, as position.altitude; the root is empty.
	Path string `json:"path"`
	// OldPath and NewPath are the place in the two versions as Finding has it,
	// OldAt and NewAt are where it lies in their texts.
	OldPath string             `json:"oldPath"`
	NewPath string             `json:"newPath"`
	OldAt   *registry.Position `json:"oldAt,omitempty"`
	NewAt   *registry.Position `json:"newAt,omitempty"`
	// Was and Is are what the two versions say; empty is nothing.
	Was string `json:"was,omitempty"`
	Is  string `json:"is,omitempty"`
	// Sure says in percent how sure it is that what was renamed or moved is the
	// same, and By what it is known by.
	Sure int    `json:"sure,omitempty"`
	By   string `json:"by,omitempty"`
	// Message says in plain words what changed.
	Message string `json:"message"`
	// Findings are what the rules of the language say against it.
	Findings []registry.Finding `json:"findings,omitempty"`
	// Fix is what to do about it; Mechanical that Mend can.
	Fix        string `json:"fix,omitempty"`
	Mechanical bool   `json:"mechanical,omitempty"`
	// Mends are the directions of Breaks in which Mend leaves nothing of it.
	Mends []registry.Direction `json:"mends,omitempty"`

	change *schemas.Change // nil where no kind of change says it
	edits  []edit          // what Mend does
}

// Neutral reports whether the rule is one of ChangeRules, and not of the
// language's own.
func (c *Change) Neutral() bool { return c.change != nil || extraRules[c.Rule].purpose != "" }

// Compatible reports whether none of the changes breaks a reader in one of the
// directions.
func Compatible(changes []Change, directions ...registry.Direction) bool {
	return !slices.ContainsFunc(changes, func(c Change) bool {
		return slices.ContainsFunc(directions, func(d registry.Direction) bool { return slices.Contains(c.Breaks, d) })
	})
}

// Diff returns what changed between two versions of a schema. What a change
// breaks is what Check finds: of a pair that Check finds compatible in a
// direction no change breaks that, of any other pair at least one does.
func (c Checker) Diff(before, after Side, p registry.Policy) ([]Change, error) {
	a, b := before.Schema, after.Schema
	if a.Type() != b.Type() {
		change := changed("LANGUAGE_CHANGED", string(a.Type()), string(b.Type()))
		change.Breaks = []registry.Direction{registry.Backward, registry.Forward}
		change.Severity = registry.SeverityError
		change.Fix = "keep the language, or write the events to a new topic with a subject of its own"
		return []Change{change}, nil
	}
	backward, err := c.Check(b, a, registry.Backward, p)
	if err != nil {
		return nil, err
	}
	forward, err := c.Check(a, b, registry.Forward, p)
	if err != nil {
		return nil, err
	}
	w := &diffWalk{language: a.Type(), old: pathsOf(a), new: pathsOf(b), first: map[pathPair]pathPair{}}
	found, again := schemas.Diff(a.Type(), typePairs(a, b)...)
	for _, f := range found {
		w.add(f)
	}
	for _, g := range again {
		w.first[pathPair{w.old.place(g.Old, false), w.new.place(g.New, false)}] = pathPair{w.old.place(g.FirstOld, false), w.new.place(g.FirstNew, false)}
	}
	w.ownWords(a, b)
	// A few schemas cannot read what they write themselves; that is no change.
	if len(w.changes) > 0 || a.Canonical() != b.Canonical() {
		w.judge(append(backward, forward...))
	}
	w.references(before.Source.References, after.Source.References)
	if len(w.changes) == 0 && a.Canonical() != b.Canonical() {
		w.changes = append(w.changes, changed("TEXT_CHANGED", "", ""))
	}
	w.locate(before.Source, after.Source)
	for i := range w.changes {
		w.advise(&w.changes[i])
	}
	w.mend(before.Source, after.Source)
	return w.changes, nil
}

// diffWalk is one comparison.
type diffWalk struct {
	language schemas.Type
	old, new pathWriter
	changes  []Change
	first    map[pathPair]pathPair // where what changed at a place is told, if not there
}

// pathPair is a place in both versions.
type pathPair struct{ old, new string }

// typePairs are the types that two schemas have: one in Avro and JSON Schema,
// in Protobuf every message and enum of the file.
func typePairs(a, b schemas.Schema) []schemas.Pair {
	if a.Type() != schemas.Protobuf {
		return []schemas.Pair{{Old: a.Model(), New: b.Model()}}
	}
	var pairs []schemas.Pair
	before, names := typesOf(a)
	after, more := typesOf(b)
	for _, name := range more {
		if before[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		pairs = append(pairs, schemas.Pair{Name: name, Old: before[name], New: after[name]})
	}
	return pairs
}

// typesOf returns the messages and enums of a file by their names without the
// package, and those names.
func typesOf(s schemas.Schema) (map[string]*schemas.Node, []string) {
	found := map[string]*schemas.Node{}
	var names []string
	note := func(name string, n *schemas.Node) {
		found[name] = n
		names = append(names, name)
	}
	file, ok := s.(described)
	messages, also := s.(schemas.Messages)
	if !ok || !also {
		return found, nil
	}
	d := file.Descriptor()
	prefix := string(d.Package()) + "."
	enums := func(list protoreflect.EnumDescriptors) {
		for i := range list.Len() {
			e := list.Get(i)
			n := &schemas.Node{Kind: schemas.Enum, Name: string(e.FullName())}
			for j := range e.Values().Len() {
				n.Symbols = append(n.Symbols, string(e.Values().Get(j).Name()))
				n.Numbers = append(n.Numbers, int32(e.Values().Get(j).Number()))
			}
			note(strings.TrimPrefix(n.Name, prefix), n)
		}
	}
	var visit func(list protoreflect.MessageDescriptors, indexes []int)
	visit = func(list protoreflect.MessageDescriptors, indexes []int) {
		for i := range list.Len() {
			m := list.Get(i)
			if m.IsMapEntry() {
				continue
			}
			at := append(slices.Clip(indexes), i)
			one, err := messages.Message(at)
			if err != nil {
				continue // it is there, or the descriptor would not name it
			}
			note(strings.TrimPrefix(string(m.FullName()), prefix), one.Model())
			enums(m.Enums())
			visit(m.Messages(), at)
		}
	}
	visit(d.Messages(), nil)
	enums(d.Enums())
	return found, names
}

// pathWriter writes places of one version as the rules of its language do.
type pathWriter struct {
	language schemas.Type
	prefix   string // of the full names of Protobuf's types
}

func pathsOf(s schemas.Schema) pathWriter {
	w := pathWriter{language: s.Type()}
	if d, ok := s.(described); ok {
		w.prefix = string(d.Descriptor().Package()) + "."
	}
	return w
}

// place is the path of a place. With field, the last step is the field itself
// and not its type.
func (w pathWriter) place(p *schemas.Place, field bool) string {
	switch w.language {
	case schemas.Avro:
		if path := w.avro(p, field); path != "" {
			return path
		}
		return "/"
	case schemas.JSON:
		return "#/" + strings.TrimPrefix(w.json(p), "/")
	default:
		return w.protobuf(p)
	}
}

func (w pathWriter) avro(p *schemas.Place, field bool) string {
	switch p.Step {
	case schemas.StepField:
		path := w.avro(p.Up, false) + "/fields/" + strconv.Itoa(p.Index)
		if field {
			return path
		}
		return path + "/type"
	case schemas.StepItems:
		return w.avro(p.Up, false) + "/items"
	case schemas.StepValues:
		return w.avro(p.Up, false) + "/values"
	case schemas.StepBranch:
		return w.avro(p.Up, false) + "/" + strconv.Itoa(p.Index)
	default:
		return ""
	}
}

// json leaves out the members of combinations, since the rules count those that
// they make of other words too.
func (w pathWriter) json(p *schemas.Place) string {
	switch p.Step {
	case schemas.StepField:
		return w.json(p.Up) + "/properties/" + p.Field().Name
	case schemas.StepItems:
		return w.json(p.Up) + "/items"
	case schemas.StepValues:
		return w.json(p.Up) + "/additionalProperties"
	case schemas.StepKeys:
		return w.json(p.Up) + "/propertyNames"
	case schemas.StepBranch:
		return w.json(p.Up)
	default:
		return ""
	}
}

// protobuf is the number below its message, wherever that is used.
func (w pathWriter) protobuf(p *schemas.Place) string {
	for ; p != nil; p = p.Up {
		if p.Step == schemas.StepField {
			return w.typePath(p.Up.Node) + "/" + strconv.Itoa(p.Field().Number)
		}
		if p.Node != nil && (p.Node.Kind == schemas.Record || p.Node.Kind == schemas.Enum) && p.Up == nil {
			return w.typePath(p.Node)
		}
	}
	return "#/"
}

func (w pathWriter) typePath(n *schemas.Node) string {
	return "#/" + strings.ReplaceAll(strings.TrimPrefix(n.Name, w.prefix), ".", "/")
}

// add turns a change of the neutral trees into one of the schemas.
func (w *diffWalk) add(found schemas.Change) {
	name := string(found.Kind)
	c := changed(name, found.Was, found.Is)
	field := found.OldField != nil || found.NewField != nil
	c.OldPath = w.old.place(found.Old, found.OldField != nil)
	c.NewPath = w.new.place(found.New, found.NewField != nil)
	if found.OldField == nil && field && w.language == schemas.Protobuf {
		c.OldPath = w.old.typePath(found.Old.Node)
	}
	if found.NewField == nil && field && w.language == schemas.Protobuf {
		c.NewPath = w.new.typePath(found.New.Node)
	}
	c.Path = found.New.String()
	if found.Kind == schemas.FieldRemoved || found.Kind == schemas.TypeRemoved || found.Kind == schemas.BranchRemoved {
		c.Path = found.Old.String()
	}
	c.Sure, c.By = found.Sure, found.By
	c.Severity = kindRules[found.Kind].severityIn(w.language)
	c.Message = kindRules[found.Kind].words(&c, found.What)
	c.change = &found
	w.changes = append(w.changes, c)
}

// ownWords adds what only one language has.
func (w *diffWalk) ownWords(a, b schemas.Schema) {
	x, ok := a.(described)
	y, also := b.(described)
	if !ok || !also {
		return
	}
	before, after := reservations(x.Descriptor()), reservations(y.Descriptor())
	for i := range w.changes { // a number that is kept free is taken by nobody
		if c := &w.changes[i]; c.has(schemas.FieldRemoved) && reserves(c.change.New.Node.Name, y.Descriptor(), c.change.OldField.Number) {
			c.Severity = info
		}
	}
	tell := func(rule, at, was, is string) {
		c := changed(rule, was, is)
		c.Path = strings.ReplaceAll(strings.TrimPrefix(at, "#/"), "/", ".")
		c.OldPath, c.NewPath = at, at
		c.Message = extraRules[rule].words(&c, "")
		w.changes = append(w.changes, c)
	}
	for _, r := range before {
		if !slices.Contains(after, r) {
			tell("RESERVED_REMOVED", r.at, r.what, "")
		}
	}
	for _, r := range after {
		if !slices.Contains(before, r) {
			tell("RESERVED_ADDED", r.at, "", r.what)
		}
	}
}

// reserves reports whether the message of a full name keeps a number free.
func reserves(name string, file protoreflect.FileDescriptor, number int) bool {
	var within func(list protoreflect.MessageDescriptors) bool
	within = func(list protoreflect.MessageDescriptors) bool {
		for i := range list.Len() {
			m := list.Get(i)
			if string(m.FullName()) == name {
				return m.ReservedRanges().Has(protoreflect.FieldNumber(number))
			}
			if within(m.Messages()) {
				return true
			}
		}
		return false
	}
	return within(file.Messages())
}

// reservation is a number or name that a message or enum keeps free.
type reservation struct{ at, what string }

func reservations(file protoreflect.FileDescriptor) (found []reservation) {
	prefix := string(file.Package()) + "."
	note := func(d protoreflect.Descriptor, names protoreflect.Names, ranges func(each func(from, to int))) {
		at := "#/" + strings.ReplaceAll(strings.TrimPrefix(string(d.FullName()), prefix), ".", "/")
		for i := range names.Len() {
			found = append(found, reservation{at, strconv.Quote(string(names.Get(i)))})
		}
		ranges(func(from, to int) {
			what := strconv.Itoa(from)
			if to > from {
				what += " to " + strconv.Itoa(to)
			}
			found = append(found, reservation{at, what})
		})
	}
	enums := func(list protoreflect.EnumDescriptors) {
		for i := range list.Len() {
			e := list.Get(i)
			note(e, e.ReservedNames(), func(each func(from, to int)) {
				for j := range e.ReservedRanges().Len() {
					r := e.ReservedRanges().Get(j)
					each(int(r[0]), int(r[1]))
				}
			})
		}
	}
	var visit func(list protoreflect.MessageDescriptors)
	visit = func(list protoreflect.MessageDescriptors) {
		for i := range list.Len() {
			m := list.Get(i)
			note(m, m.ReservedNames(), func(each func(from, to int)) {
				for j := range m.ReservedRanges().Len() {
					r := m.ReservedRanges().Get(j)
					each(int(r[0]), int(r[1])-1)
				}
			})
			enums(m.Enums())
			visit(m.Messages())
		}
	}
	visit(file.Messages())
	enums(file.Enums())
	return found
}

// references compares what the two versions refer to.
func (w *diffWalk) references(before, after []registry.Reference) {
	words := func(r registry.Reference) string { return fmt.Sprintf("%s version %d", r.Subject, r.Version) }
	tell := func(rule, name, was, is string) {
		c := changed(rule, was, is)
		c.Path = name
		c.Message = extraRules[rule].words(&c, "")
		w.changes = append(w.changes, c)
	}
	for _, r := range before {
		i := slices.IndexFunc(after, func(s registry.Reference) bool { return s.Name == r.Name })
		switch {
		case i < 0:
			tell("REFERENCE_REMOVED", r.Name, words(r), "")
		case after[i].Subject != r.Subject || after[i].Version != r.Version:
			tell("REFERENCE_CHANGED", r.Name, words(r), words(after[i]))
		}
	}
	for _, r := range after {
		if !slices.ContainsFunc(before, func(s registry.Reference) bool { return s.Name == r.Name }) {
			tell("REFERENCE_ADDED", r.Name, "", words(r))
		}
	}
}

// judge lays what Check found at the door of the changes that cause it. A
// finding without such a change is a change of its own.
func (w *diffWalk) judge(findings []registry.Finding) {
	known := len(w.changes) // those that come of findings are behind
	exact := map[pathPair][]int{}
	byOld, byNew := map[string][]int{}, map[string][]int{}
	for i := range w.changes[:known] {
		c := &w.changes[i]
		exact[pathPair{c.OldPath, c.NewPath}] = append(exact[pathPair{c.OldPath, c.NewPath}], i)
		byOld[c.OldPath] = append(byOld[c.OldPath], i)
		byNew[c.NewPath] = append(byNew[c.NewPath], i)
	}
	own := map[pathPair]int{}
	for _, f := range findings {
		from, to := w.pathsOf(f)
		fits := func(i int) bool {
			return f.Severity != registry.SeverityError || w.changes[i].suspect(f.Direction) && w.changes[i].explains(f.Rule)
		}
		var guilty []int
		for o, n, steps := from, to, 0; guilty == nil && steps < 4; steps++ {
			switch f.Severity {
			case registry.SeverityInfo: // it says no more than they do
				guilty = append(slices.Clip(byNew[n]), byOld[o]...)
			default:
				guilty = filter(exact[pathPair{o, n}], fits)
				// What one version lacks has another place in it.
				for _, i := range append(slices.Clip(byNew[n]), byOld[o]...) {
					if fits(i) && w.changes[i].oneSided(n, o) && !slices.Contains(guilty, i) {
						guilty = append(guilty, i)
					}
				}
			}
			if !narrow(&o) || !narrow(&n) {
				break
			}
		}
		if guilty == nil && f.Severity == registry.SeverityError {
			guilty = w.beneath(known, from, to, fits)
		}
		switch {
		case guilty == nil:
			at := pathPair{from, to}
			i, there := own[at]
			if !there {
				i = len(w.changes)
				own[at] = i
				w.changes = append(w.changes, w.ofFinding(f, from, to))
			}
			w.changes[i].blame(f)
		case f.Severity != registry.SeverityInfo:
			for _, i := range guilty {
				w.changes[i].blame(f)
			}
		}
	}
}

// beneath are the changes within a place that the rules found broken as a whole,
// such as a union of which no branch fits.
func (w *diffWalk) beneath(known int, from, to string, fits func(i int) bool) (found []int) {
	within := func(path, above string) bool {
		above = strings.TrimSuffix(above, "/")
		return path == above || strings.HasPrefix(path, above+"/")
	}
	for i := range w.changes[:known] {
		if c := &w.changes[i]; fits(i) && within(c.OldPath, from) && within(c.NewPath, to) {
			found = append(found, i)
		}
	}
	return found
}

// narrow takes the last step off a path, and reports whether there was one.
func narrow(path *string) bool {
	i := strings.LastIndexByte(*path, '/')
	switch {
	case i < 0 || *path == "/" || *path == "#/":
		return false
	case i == 0:
		*path = "/"
	case *path == "#"+(*path)[i:]:
		*path = "#/"
	default:
		*path = (*path)[:i]
	}
	return true
}

// pathsOf are a finding's places in the old and the new version, as changes have
// them.
func (w *diffWalk) pathsOf(f registry.Finding) (from, to string) {
	from, to = f.WriterPath, f.ReaderPath
	if f.Direction == registry.Forward {
		from, to = to, from
	}
	if w.language == schemas.JSON {
		from, to = plainJSON(from), plainJSON(to)
	}
	const most = 50 // types within types
	for range most {
		if !w.toFirst(&from, &to) {
			break
		}
	}
	return from, to
}

// toFirst moves a pair of places within a type to where that was compared first,
// and reports whether they are another's.
func (w *diffWalk) toFirst(from, to *string) bool {
	if len(w.first) == 0 {
		return false
	}
	at := func(o, n string) bool {
		first, there := w.first[pathPair{o, n}]
		if !there {
			return false
		}
		*from = joined(first.old, strings.TrimPrefix(*from, o))
		*to = joined(first.new, strings.TrimPrefix(*to, n))
		return true
	}
	o, n := *from, *to
	for {
		// One of the two may be a step shorter, where it lacks what the other has.
		up, down := o, n
		if at(o, n) || narrow(&up) && at(up, n) || narrow(&down) && at(o, down) {
			return true
		}
		if !narrow(&o) || !narrow(&n) {
			return false
		}
	}
}

func joined(path, rest string) string {
	if rest == "" {
		return path
	}
	return strings.TrimSuffix(path, "/") + "/" + strings.TrimPrefix(rest, "/")
}

// plainJSON is a path of the rules of JSON Schema without the members of
// combinations, and that of the property for one that is required.
func plainJSON(path string) string {
	if !strings.Contains(path, "Of/") && !strings.Contains(path, "required/") {
		return path
	}
	steps := strings.Split(path, "/")
	out := steps[:0:0]
	for i := 0; i < len(steps); i++ {
		switch steps[i] {
		case "allOf", "anyOf", "oneOf":
			i++
		case "required":
			out = append(out, "properties")
		default:
			out = append(out, steps[i])
		}
	}
	if len(out) == 1 {
		return "#/"
	}
	return strings.Join(out, "/")
}

func filter(of []int, keep func(i int) bool) (kept []int) {
	for _, i := range of {
		if keep(i) {
			kept = append(kept, i)
		}
	}
	return kept
}

// ofFinding is a change that only the rules of the language know.
func (w *diffWalk) ofFinding(f registry.Finding, from, to string) Change {
	c := changed(f.Rule, "", "")
	c.OldPath, c.NewPath = from, to
	c.Path = strings.Trim(strings.TrimPrefix(to, "#"), "/")
	c.Message = f.Message
	return c
}

// blame says that a finding comes of the change.
func (c *Change) blame(f registry.Finding) {
	if f.Severity == registry.SeverityInfo {
		return
	}
	c.Findings = append(c.Findings, f)
	if c.change == nil && f.Severity == registry.SeverityError {
		c.Rule, c.Message = f.Rule, f.Message
	}
	if f.Severity == registry.SeverityError {
		c.Severity = registry.SeverityError
		if !slices.Contains(c.Breaks, f.Direction) {
			c.Breaks = append(c.Breaks, f.Direction)
		}
	} else if c.Severity == registry.SeverityInfo {
		c.Severity = registry.SeverityWarning
	}
	if c.Fix == "" {
		c.Fix = f.Fix
	}
}

// oneSided reports whether the change is to something at a path that only one
// version has, or has there.
func (c *Change) oneSided(newPath, oldPath string) bool {
	if c.change == nil {
		return false
	}
	switch c.change.Kind {
	case schemas.FieldAdded, schemas.BranchAdded:
		return c.NewPath == newPath
	case schemas.FieldRemoved, schemas.BranchRemoved:
		return c.OldPath == oldPath
	case schemas.FieldRenamed, schemas.FieldMoved:
		return c.NewPath == newPath || c.OldPath == oldPath
	}
	return false
}

func (c *Change) has(kind schemas.ChangeKind) bool { return c.change != nil && c.change.Kind == kind }

// suspect reports whether a change of this kind can break readers in a
// direction.
func (c *Change) suspect(d registry.Direction) bool {
	if c.change == nil {
		return false
	}
	rule := kindRules[c.change.Kind]
	if d == registry.Forward {
		return rule.forward
	}
	return rule.backward
}

// explains reports whether a change can be what a rule of Avro means that speaks
// of one thing only.
func (c *Change) explains(rule string) bool {
	symbols := c.has(schemas.SymbolAdded) || c.has(schemas.SymbolRemoved) || c.has(schemas.FallbackChanged)
	switch rule {
	case avroRules[nameMismatch].Name:
		return c.has(schemas.TypeRenamed)
	case avroRules[fixedSizeMismatch].Name:
		return c.has(schemas.TypeChanged)
	case avroRules[missingEnumSymbols].Name:
		return symbols
	case avroRules[fieldMissingDefault].Name:
		return !symbols && !c.has(schemas.TypeRenamed)
	}
	return true
}

// locate finds the lines and columns of the changes, and puts them in the order
// of the texts.
func (w *diffWalk) locate(before, after registry.Schema) {
	places := func(s registry.Schema, at func(c *Change) (string, **registry.Position)) {
		if s.Schema == "" {
			return
		}
		find := finder(w.language, s.Schema)
		for i := range w.changes {
			path, into := at(&w.changes[i])
			*into = find(path)
		}
	}
	places(before, func(c *Change) (string, **registry.Position) { return c.OldPath, &c.OldAt })
	places(after, func(c *Change) (string, **registry.Position) { return c.NewPath, &c.NewAt })
	slices.SortStableFunc(w.changes, func(a, b Change) int {
		return cmp.Or(comparePlaces(a.NewAt, b.NewAt), comparePlaces(a.OldAt, b.OldAt))
	})
}

func comparePlaces(a, b *registry.Position) int {
	if a == nil || b == nil {
		return 0
	}
	return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}
