package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"penstock/schemas"
)

// Register adds a schema to a subject, unless one of its live versions already
// says the same, and returns it as registered. A schema that breaks the
// subject's level is refused with CodeIncompatible, and the *Error has the
// findings; force leaves that check out.
func (r *Registry) Register(ctx context.Context, name string, s Schema, force bool) (Schema, error) {
	reg, err := r.registration(name, s, force)
	if err != nil {
		return Schema{}, err
	}
	// The first look is at the durable state and outside the writer: most
	// registrations are of what is there, and what is checked here need not
	// be checked while others wait.
	if done, err := reg.look(); done || err != nil {
		return reg.result, err
	}
	if err := r.write(ctx, reg.decide); err != nil {
		return Schema{}, err
	}
	return reg.result, nil
}

// registration parses what is to be registered.
func (r *Registry) registration(name string, s Schema, force bool) (*registration, error) {
	name = normalName(name)
	if err := checkSubject(name); err != nil {
		return nil, err
	}
	if s.Schema == "" {
		if err := r.fillFromLatest(name, &s); err != nil {
			return nil, err
		}
	}
	c, err := r.prepare(name, s)
	if err != nil {
		return nil, err
	}
	return &registration{r: r, name: name, request: s, force: force, candidate: c}, nil
}

// fillFromLatest gives a request without a text that of the latest version, so
// that metadata and rules can be changed on their own.
func (r *Registry) fillFromLatest(name string, s *Schema) error {
	return r.read(func(x *index) error {
		live := x.subjects.get(name).live()
		if len(live) == 0 {
			return errorf(CodeInvalidSchema, "Invalid schema: the text is empty, and subject '%s' has no version to take it from", name)
		}
		c := live[len(live)-1].content
		s.Schema, s.SchemaType, s.References = c.text, c.schemaType, c.references
		return nil
	})
}

// registration is one call of Register.
type registration struct {
	r         *Registry
	name      string
	request   Schema
	force     bool
	candidate *candidate

	verdict verdict // what was found last, and against which versions
	result  Schema
}

// look decides on the durable state, outside the writer, as far as can be done
// without writing: done says that the schema is registered already.
func (reg *registration) look() (done bool, err error) {
	var state subjectState
	err = reg.r.read(func(x *index) error {
		state = reg.state(x)
		return nil
	})
	if err != nil {
		return false, err
	}
	if existing := reg.existing(state); existing != nil && reg.request.ID <= 0 {
		reg.result = reply(reg.name, existing)
		return true, nil
	}
	if err := state.validate(reg.candidate); err != nil {
		return false, err
	}
	if against := reg.comparison(state); against.needed() {
		reg.verdict = reg.r.compare(reg.candidate, against)
		// The next version will be compared with this one. What has no other
		// version rarely gets one, and a parsed schema is much larger than its text.
		c := reg.candidate
		reg.r.parsed.put(parsedKey(c.content, c.texts), c.schema, len(c.content.text))
	}
	return false, nil
}

// subjectState is what a registration rests on.
type subjectState struct {
	mode   Mode
	config Config
	live   []storedVersion
}

func (reg *registration) state(x *index) subjectState {
	return subjectState{effectiveMode(x, reg.name), effectiveConfig(x, reg.name), stored(x, reg.name, x.subjects.get(reg.name).live())}
}

// latest returns the newest live version, or nil.
func (s subjectState) latest() *version {
	if len(s.live) == 0 {
		return nil
	}
	return s.live[len(s.live)-1].version
}

// contract is the candidate's metadata and rules as they would be stored.
func (s subjectState) contract(c *content) (*Metadata, *RuleSet) {
	if s.mode.imports() {
		return c.metadata, c.ruleSet
	}
	return s.config.extend(c.metadata, c.ruleSet, s.latest())
}

// validate refuses a new schema that makes no sense and, where
// Config.ValidateNewSchemas is not off, properties of a JSON Schema that begin
// with $$, which clients keep for themselves. What is imported is taken as it is.
func (s subjectState) validate(c *candidate) error {
	if c.refused != nil && !s.mode.imports() {
		return c.refused
	}
	if s.mode.imports() || c.content.schemaType != schemas.JSON || !deref(cmp.Or(s.config.ValidateNewSchemas, new(true))) {
		return nil
	}
	for _, name := range schemas.TopFields(c.schema) {
		if strings.HasPrefix(name, "$$") {
			return errorf(CodeInvalidSchema, "Invalid schema: at /properties/%s expected a name that does not begin with $$, which is reserved; rename the property, or set validateNewSchemas to false", name)
		}
	}
	return nil
}

// decide is a decision; see there.
func (reg *registration) decide(x *index) ([]Event, error) {
	context, _ := split(reg.name)
	state := reg.state(x)
	switch {
	case state.mode.readOnly():
		return nil, readOnly(reg.name)
	case reg.request.ID > 0 && !state.mode.imports():
		return nil, errorf(CodeNotPermitted, "Subject '%s' is not in import mode, so the registry gives the ids; leave the id out, or set the mode to IMPORT", reg.name)
	}
	// What the references stand for may have changed since the schema was
	// parsed, by a permanent deletion and a new registration.
	_, texts, err := resolve(x, reg.name, reg.candidate.content.references, false)
	if err != nil {
		return nil, err
	}
	if !maps.Equal(texts, reg.candidate.texts) {
		return nil, errorf(CodeInvalidSchema, "Invalid schema: what it refers to changed while it was registered; send it again")
	}
	if existing := reg.existing(state); existing != nil {
		if reg.request.ID > 0 && reg.request.ID != existing.id {
			return nil, errorf(CodeIDMismatch, "Schema already registered with id %d instead of input id %d", existing.id, reg.request.ID)
		}
		reg.result = reply(reg.name, existing)
		return nil, nil
	}
	if reg.request.ID <= 0 && state.mode.imports() {
		return nil, errorf(CodeNotPermitted, "Subject '%s' is not in read-write mode: in mode %s a new schema brings its id", reg.name, state.mode)
	}
	if err := referable(x, reg.name, reg.candidate.content.references); err != nil {
		return nil, err
	}
	s := x.subjects.get(reg.name)
	number, err := reg.number(s, state.mode)
	if err != nil {
		return nil, err
	}
	if err := state.validate(reg.candidate); err != nil {
		return nil, err
	}
	against := reg.comparison(state)
	if !against.equal(reg.verdict.against) {
		reg.verdict = reg.r.compare(reg.candidate, against)
	}
	if err := reg.verdict.refusal(reg.name); err != nil {
		return nil, err
	}
	m, rs := state.contract(reg.candidate.content)
	if m.versionNumber() > 0 && !state.mode.imports() {
		m = m.withVersion(number)
	}
	c := x.intern(reg.candidate.content.with(m, rs))
	id, err := reg.id(x, context, c)
	if err != nil {
		return nil, err
	}
	now := reg.r.options.Now()
	v := &version{number: number, id: id, content: c, registered: now}
	reg.result = reply(reg.name, v)
	var events []Event
	if context != DefaultContext && x.contexts.get(context) == nil {
		events = append(events, contextEvent(context, contextValue{tenant, context}, now))
	}
	events = append(events, schemaEvent(reg.name, v, now))
	// The same schema, deleted softly before, lives on in the new version.
	if s != nil && !state.mode.imports() {
		for _, old := range s.versions {
			if old.deleted && old.content.key() == c.key() && len(x.usersOf(SubjectVersion{reg.name, old.number}, true)) == 0 {
				events = append(events, event(schemaKey(reg.name, old.number), nil, now))
			}
		}
	}
	return events, nil
}

// existing returns the live version that says the same, or nil. In an import
// two versions may say the same, if the request names the second.
func (reg *registration) existing(state subjectState) *version {
	c := reg.candidate.content
	var found *version
	if state.mode.imports() || !state.config.extends() {
		found = reg.r.twin(reg.candidate, c.metadata, c.ruleSet, state.live)
	}
	if found == nil {
		m, rs := state.contract(c)
		found = reg.r.twin(reg.candidate, m, rs, state.live)
	}
	if found != nil && state.mode.imports() && reg.request.Version > 0 && reg.request.Version != found.number {
		return nil
	}
	return found
}

// number is the version number that a new version gets.
func (reg *registration) number(s *subject, mode Mode) (int, error) {
	next := 1
	if s != nil {
		next = s.versions[len(s.versions)-1].number + 1
	}
	switch want := reg.request.Version; {
	case want <= 0 || want == next:
		return next, nil
	case !mode.imports():
		return 0, errorf(CodeInvalidSchema, "Version %d is not one more than the last version %d; leave the version out", want, next-1)
	case want > maxVersion:
		return 0, invalidVersion(fmt.Sprint(want))
	case s.version(want) != nil:
		return 0, errorf(CodeNotPermitted, "Version %d of subject '%s' holds another schema already", want, reg.name)
	default:
		return want, nil
	}
}

// id is the id that the schema gets: the one asked for in mode IMPORT, that of
// the same content elsewhere in the context, else the next.
func (reg *registration) id(x *index, context string, c *content) (int, error) {
	held := x.idOf(context, c)
	id := reg.request.ID
	switch {
	case id <= 0 && held > 0:
		return held, nil
	case id <= 0:
		id = x.nextID(context)
	default:
		if other := x.ids.get(schemaID{context, id}); other != nil && other.content.key() != c.key() {
			return 0, errorf(CodeNotPermitted, "Overwrite new schema with id %d is not permitted: the id belongs to another schema", id)
		}
	}
	if id > math.MaxInt32 {
		return 0, errorf(CodeNotPermitted, "Id %d is above %d, the highest that a message can name", id, math.MaxInt32)
	}
	return id, nil
}

// comparison is what the candidate is to be compared with: nothing where that is
// left out.
func (reg *registration) comparison(state subjectState) comparison {
	if reg.force || state.mode.imports() {
		return comparison{level: LevelNone}
	}
	return state.comparison(reg.candidate.content)
}

// storedVersion is a version and what its references stand for.
type storedVersion struct {
	*version
	texts map[string]string
}

func stored(x *index, name string, versions []*version) []storedVersion {
	out := make([]storedVersion, len(versions))
	for i, v := range versions {
		_, texts, err := resolve(x, name, v.content.references, true)
		if err != nil {
			texts = nil // parsing says what is missing
		}
		out[i] = storedVersion{v, texts}
	}
	return out
}

// comparison is what a candidate is compared with.
type comparison struct {
	level    Level
	policy   Policy
	versions []storedVersion // in ascending order
	// reserved is whether reserved names are looked at, and newest the version
	// before, or nil.
	reserved bool
	metadata *Metadata
	newest   *version
}

// comparison compares with the live versions of the candidate's group.
func (s subjectState) comparison(c *content) comparison {
	m, _ := s.contract(c)
	group := func(m *Metadata) string { return deref(m).Properties[s.config.CompatibilityGroup] }
	against := comparison{
		level: s.config.CompatibilityLevel, policy: cmp.Or(s.config.CompatibilityPolicy, PolicyStrict), versions: s.live,
		reserved: deref(s.config.ValidateFields), metadata: m, newest: s.latest(),
	}
	if s.config.CompatibilityGroup != "" {
		against.versions = slices.DeleteFunc(slices.Clone(s.live), func(v storedVersion) bool { return group(v.content.metadata) != group(m) })
	}
	return against
}

func (c comparison) equal(other comparison) bool {
	return c.level == other.level && c.policy == other.policy && c.reserved == other.reserved && c.newest == other.newest &&
		equalJSON(c.metadata, other.metadata) &&
		slices.EqualFunc(c.versions, other.versions, func(a, b storedVersion) bool {
			return a.version == b.version && maps.Equal(a.texts, b.texts)
		})
}

// needed reports whether there is something to compare with.
func (c comparison) needed() bool {
	return len(c.versions) > 0 && len(levels[c.level].directions) > 0 || c.reserved && c.newest != nil
}

// verdict is what came of a comparison.
type verdict struct {
	against  comparison
	findings []Finding
	err      error // where it could not be made
}

// compare checks a candidate.
func (r *Registry) compare(c *candidate, against comparison) verdict {
	v := verdict{against: against}
	if against.reserved && against.newest != nil {
		v.findings = reservedFindings(c.schema, against.metadata, against.newest)
	}
	versions := against.versions
	if rule := levels[against.level]; len(rule.directions) == 0 {
		return v
	} else if !rule.transitive && len(versions) > 1 {
		versions = versions[len(versions)-1:]
	}
	registered := make([]Registered, len(versions))
	for i, old := range versions {
		s, err := r.parse(old.content, old.texts)
		if opaque, ok := s.(*schemas.Opaque); ok {
			err = errorf(CodeInvalidSchema, "Version %d, with which the schema is to be compared, makes no sense to this registry: %v; delete it, or set the level to NONE", old.number, opaque.Cause())
		}
		if err != nil {
			v.err = err
			return v
		}
		registered[i] = Registered{old.number, s}
	}
	found, err := CheckLevel(r.checker, against.level, against.policy, c.schema, registered)
	v.findings, v.err = append(v.findings, found...), err
	return v
}

// reservedFindings says which reserved names were dropped, and which the new
// schema uses.
func reservedFindings(s schemas.Schema, m *Metadata, newest *version) []Finding {
	var found []Finding
	add := func(rule, name, message, fix string) {
		found = append(found, Finding{
			Rule: rule, Severity: SeverityError, Direction: Backward, ReaderPath: "/", WriterPath: "/",
			Message: message, Detail: name, Fix: fix, Version: newest.number,
		})
	}
	names := reservedNames(m)
	for _, name := range reservedNames(newest.content.metadata) {
		if !slices.Contains(names, name) {
			add("RESERVED_FIELD_REMOVED", name,
				fmt.Sprintf("the new schema no longer reserves the name %q, which version %d does", name, newest.number),
				fmt.Sprintf("list %q in the metadata property %s", name, ReservedProperty))
		}
	}
	fields := schemas.TopFields(s)
	for _, name := range names {
		if slices.Contains(fields, name) {
			add("RESERVED_FIELD_CONFLICTS_WITH_FIELD", name,
				fmt.Sprintf("the new schema has a field %q, a name that is reserved", name),
				fmt.Sprintf("give the field %q another name", name))
		}
	}
	return found
}

func reservedNames(m *Metadata) []string {
	var names []string
	for name := range strings.SplitSeq(deref(m).Properties[ReservedProperty], ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// refusal is the error that stands against registering, or nil.
func (v verdict) refusal(name string) error {
	if errors.Is(v.err, ErrNoRules) {
		return v.noRules(name)
	}
	if v.err != nil || Compatible(v.findings) {
		return v.err
	}
	return &Error{
		Code:     CodeIncompatible,
		Message:  fmt.Sprintf("Schema being registered is incompatible with an earlier schema for subject %q, details: %s", name, v.details()),
		Findings: v.findings,
	}
}

// noRules says that the schema could not be checked, and what to do.
func (v verdict) noRules(name string) *Error {
	var t schemas.Type
	if n := len(v.against.versions); n > 0 {
		t = v.against.versions[n-1].content.schemaType
	}
	e := errorf(CodeInvalidSchema, "Invalid schema: a second, different %s schema cannot be registered for subject '%s' under level %s, because this registry has no compatibility rules for %s yet; set the subject's level to NONE to register it unchecked", t, name, v.against.level, t)
	e.cause = v.err
	return e
}

// reply is a version as the API writes it.
func reply(name string, v *version) Schema {
	s := v.content.reply()
	s.Subject, s.Version, s.ID = name, v.number, v.id
	s.Timestamp, s.Deleted = v.registered.UnixMilli(), v.deleted
	return s
}

func (c *content) reply() Schema {
	return Schema{
		GUID: c.guid.String(), SchemaType: c.schemaType, Schema: c.text,
		References: c.references, Metadata: c.metadata, RuleSet: c.ruleSet,
	}
}
