package registry

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"penstock/schemas"
)

const (
	// latest stands for the newest live version.
	latest     = -1
	maxVersion = math.MaxInt32
)

// ParseVersion reads a version number; "latest" and -1 are the newest.
func ParseVersion(s string) (int, error) {
	if strings.EqualFold(s, "latest") {
		return latest, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n > maxVersion || n < 1 && n != latest {
		return 0, invalidVersion(s)
	}
	return n, nil
}

func invalidVersion(s string) error {
	return errorf(CodeInvalidVersion, "The specified version '%s' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\"", s)
}

func subjectNotFound(name string) error {
	return errorf(CodeSubjectNotFound, "Subject '%s' not found.", name)
}

func versionNotFound(number int) error {
	if number == latest {
		return errorf(CodeVersionNotFound, "Version latest not found.")
	}
	return errorf(CodeVersionNotFound, "Version %d not found.", number)
}

var errSchemaNotFound = &Error{Code: CodeSchemaNotFound, Message: "Schema not found"}

// Deleted says what a read does with what is deleted softly.
type Deleted int

// The choices.
const (
	WithoutDeleted Deleted = iota
	WithDeleted
	OnlyDeleted
)

func (d Deleted) admits(deleted bool) bool {
	return d == WithDeleted || deleted == (d == OnlyDeleted)
}

// Types returns the schema languages, in the order in which they were given.
func (r *Registry) Types() []schemas.Type { return slices.Clone(r.types) }

// Subjects returns the names, in order, of the subjects that start with prefix,
// in any context where that begins with ":*:" or is empty, and have a version that d admits; with OnlyDeleted, those that have no live
// one.
func (r *Registry) Subjects(prefix string, d Deleted) []string {
	names := []string{}
	matches := prefixFilter(prefix)
	_ = r.read(func(x *index) error {
		for name, s := range x.subjects.all() {
			live := slices.ContainsFunc(s.versions, func(v *version) bool { return !v.deleted })
			if (d == WithDeleted || live == (d == WithoutDeleted)) && matches(name) {
				names = append(names, name)
			}
		}
		return nil
	})
	slices.Sort(names)
	return names
}

// Versions returns the numbers of a subject's versions, or CodeSubjectNotFound
// if there is none that d admits.
func (r *Registry) Versions(name string, d Deleted) ([]int, error) {
	name = normalName(name)
	var numbers []int
	err := r.read(func(x *index) error {
		for _, v := range deref(x.subjects.get(name)).versions {
			if d.admits(v.deleted) {
				numbers = append(numbers, v.number)
			}
		}
		if numbers == nil {
			return subjectNotFound(name)
		}
		return nil
	})
	return numbers, err
}

// Version returns one version of a subject, CodeSubjectNotFound, or
// CodeVersionNotFound. -1 is the newest. Softly deleted ones count where
// deleted is set. What the default context does not have is looked for in the
// others.
func (r *Registry) Version(name string, number int, deleted bool) (s Schema, err error) {
	err = r.inContexts(name, func(name string) error {
		return r.read(func(x *index) error {
			v, err := pick(x, name, number, deleted)
			if err == nil {
				s = reply(name, v)
			}
			return err
		})
	})
	return s, err
}

// inContexts calls fn with a subject and, while it fails and the subject's
// context is the default one, with that of the same name in the others. The
// error is the first.
func (r *Registry) inContexts(name string, fn func(name string) error) error {
	name = normalName(name)
	err := fn(name)
	if context, own := split(name); err != nil && context == DefaultContext {
		for _, other := range r.Contexts()[1:] {
			if fn(qualify(other, own)) == nil {
				return nil
			}
		}
	}
	return err
}

// VersionWith returns the newest version of a subject whose metadata has all of
// these properties, CodeSubjectNotFound, or CodeSchemaNotFound.
func (r *Registry) VersionWith(name string, properties map[string]string, deleted bool) (s Schema, err error) {
	err = r.inContexts(name, func(name string) error {
		return r.read(func(x *index) error {
			if err := holds(x, name, deleted); err != nil {
				return err
			}
			for _, v := range slices.Backward(x.subjects.get(name).versions) {
				if (deleted || !v.deleted) && hasProperties(v.content.metadata, properties) {
					s = reply(name, v)
					return nil
				}
			}
			return errSchemaNotFound
		})
	})
	return s, err
}

func hasProperties(m *Metadata, properties map[string]string) bool {
	for key, value := range properties {
		if has, ok := deref(m).Properties[key]; !ok || has != value {
			return false
		}
	}
	return true
}

// pick finds a version, for -1 the newest that is live: also where softly deleted
// ones are asked for, as other registries have it.
func pick(x *index, name string, number int, deleted bool) (*version, error) {
	if err := holds(x, name, deleted); err != nil {
		return nil, err
	}
	s := x.subjects.get(name)
	if live := s.live(); number == latest && len(live) > 0 {
		return live[len(live)-1], nil
	}
	if v := s.version(number); v != nil && (deleted || !v.deleted) {
		return v, nil
	}
	return nil, versionNotFound(number)
}

// holds returns an error unless a subject has versions.
func holds(x *index, name string, deleted bool) error {
	if s := x.subjects.get(name); s == nil || !deleted && len(s.live()) == 0 {
		return subjectNotFound(name)
	}
	return nil
}

// Schemas returns the versions of all subjects that start with prefix, ordered
// by name and number; only the newest of each where latestOnly is set.
func (r *Registry) Schemas(prefix string, deleted, latestOnly bool) []Schema {
	list := []Schema{}
	matches := prefixFilter(prefix)
	_ = r.read(func(x *index) error {
		for name, s := range x.subjects.all() {
			if !matches(name) {
				continue
			}
			versions := s.versions
			if !deleted {
				versions = s.live()
			}
			if latestOnly && len(versions) > 1 {
				versions = versions[len(versions)-1:]
			}
			for _, v := range versions {
				list = append(list, reply(name, v))
			}
		}
		return nil
	})
	slices.SortFunc(list, func(a, b Schema) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), a.Version-b.Version)
	})
	return list
}

// SchemaByID returns what an id stands for in a context, or CodeSchemaNotFound.
// It names no subject and no version.
func (r *Registry) SchemaByID(context string, id int) (s Schema, err error) {
	err = r.read(func(x *index) error {
		held := x.ids.get(schemaID{context, id})
		if held == nil {
			return &Error{Code: CodeSchemaNotFound, Message: fmt.Sprintf("Schema %d not found", id)}
		}
		s = held.content.reply()
		return nil
	})
	return s, err
}

// MaxID returns the highest id ever given in a context, 0 for none.
func (r *Registry) MaxID(context string) (id int) {
	_ = r.read(func(x *index) error {
		id = deref(x.maxIDs.get(context))
		return nil
	})
	return id
}

// SchemaByGUID returns the schema with that GUID, or CodeSchemaNotFound.
func (r *Registry) SchemaByGUID(id string) (s Schema, err error) {
	g, ok := parseGUID(id)
	if !ok {
		return s, errorf(CodeSchemaNotFound, "Schema %s not found", id)
	}
	err = r.read(func(x *index) error {
		for _, t := range r.types {
			if held := x.contents.get(contentKey{g, t}); held != nil {
				s = held.content.reply()
				return nil
			}
		}
		return errorf(CodeSchemaNotFound, "Schema %s not found", id)
	})
	return s, err
}

// ContextID is an id in its context.
type ContextID struct {
	Context string `json:"context"`
	ID      int    `json:"id"`
}

// IDsByGUID returns the ids of the schema with that GUID, one a context.
func (r *Registry) IDsByGUID(id string) []ContextID {
	ids := []ContextID{}
	g, _ := parseGUID(id)
	_ = r.read(func(x *index) error {
		for _, t := range r.types {
			for _, held := range deref(x.contents.get(contentKey{g, t})).ids {
				ids = append(ids, ContextID{held.context, held.id})
			}
		}
		return nil
	})
	return ids
}

// VersionsByID returns the versions that have an id, or CodeSchemaNotFound.
func (r *Registry) VersionsByID(context string, id int, deleted bool) ([]SubjectVersion, error) {
	uses := []SubjectVersion{}
	err := r.read(func(x *index) error {
		held := x.ids.get(schemaID{context, id})
		if held == nil {
			return errSchemaNotFound
		}
		for _, u := range held.uses {
			if v := x.subjects.get(u.Subject).version(u.Version); v != nil && (deleted || !v.deleted) {
				uses = append(uses, u)
			}
		}
		return nil
	})
	slices.SortFunc(uses, func(a, b SubjectVersion) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), a.Version-b.Version)
	})
	return uses, err
}

// ReferencedBy returns the ids of the schemas that refer to a version.
func (r *Registry) ReferencedBy(name string, number int, deleted bool) ([]int, error) {
	name = normalName(name)
	ids := []int{}
	err := r.read(func(x *index) error {
		v, err := pick(x, name, number, true)
		if err != nil {
			return err
		}
		for _, u := range x.usersOf(SubjectVersion{name, v.number}, deleted) {
			ids = append(ids, u.id)
		}
		return nil
	})
	slices.Sort(ids)
	return slices.Compact(ids), err
}

// Contexts returns the contexts, in order, the default one first.
func (r *Registry) Contexts() (names []string) {
	_ = r.read(func(x *index) error {
		names = x.allContexts()
		return nil
	})
	return names
}

// ContextOf returns the context in which an id is to be read that is asked for
// on behalf of a subject, or of a context as ":.name:", or of nobody (""): that
// of the subject, or, where it is the default one and the id is not used there,
// the first other that has it.
func (r *Registry) ContextOf(subject string, id int) string {
	context, own := split(normalName(subject))
	if context != DefaultContext {
		return context
	}
	_ = r.read(func(x *index) error {
		if own == "" && x.ids.get(schemaID{context, id}) != nil {
			return nil
		}
		var has []string
		for _, c := range x.allContexts() {
			held := x.ids.get(schemaID{c, id})
			if held == nil {
				continue
			}
			if slices.ContainsFunc(held.uses, func(u SubjectVersion) bool { return u.Subject == qualify(c, own) }) {
				context = c
				return nil
			}
			has = append(has, c)
		}
		if len(has) > 0 {
			context = has[0]
		}
		return nil
	})
	return context
}

// Lookup returns the version of a subject that says what s says,
// CodeSubjectNotFound, or CodeSchemaNotFound. What the default context does not
// have is looked for in the others.
func (r *Registry) Lookup(name string, s Schema, deleted bool) (found Schema, err error) {
	err = r.inContexts(name, func(name string) error {
		found, err = r.lookup(name, s, deleted)
		return err
	})
	return found, err
}

func (r *Registry) lookup(name string, s Schema, deleted bool) (Schema, error) {
	err := r.read(func(x *index) error {
		return holds(x, name, deleted)
	})
	if err != nil {
		return Schema{}, err
	}
	c, err := r.prepare(name, s)
	if err != nil {
		return Schema{}, err
	}
	var versions []storedVersion
	var config Config
	_ = r.read(func(x *index) error {
		config = effectiveConfig(x, name)
		if sub := x.subjects.get(name); sub != nil && deleted {
			versions = stored(x, name, sub.versions)
		} else {
			versions = stored(x, name, sub.live())
		}
		return nil
	})
	v := r.twin(c, c.content.metadata, c.content.ruleSet, versions)
	if v == nil && len(versions) > 0 {
		m, rs := config.extend(c.content.metadata, c.content.ruleSet, versions[len(versions)-1].version)
		v = r.twin(c, m, rs, versions)
	}
	if v == nil {
		// Karapace keeps JSON Schemas in normal form, whatever clients send.
		if text, err := schemas.Normalized(c.schema); err == nil && text != c.content.text {
			normal := *c
			normal.content = newContent(c.content.schemaType, text, c.content.references, s.Metadata, s.RuleSet)
			v = r.twin(&normal, s.Metadata, s.RuleSet, versions)
		}
	}
	if v == nil {
		return Schema{}, cmp.Or(c.refused, error(errSchemaNotFound))
	}
	return reply(name, v), nil
}

// Compatibility is the answer of a check.
type Compatibility struct {
	Compatible bool
	// Level is the level that was applied.
	Level Level
	// Findings holds all that was found, in every version compared.
	Findings []Finding
	// Messages lists what is wrong with the newest version that fails, in the
	// shape of Confluent's registry. It is empty if Compatible.
	Messages []string
}

// AllVersions makes Check compare with every live version.
const AllVersions = 0

// Check compares s, without registering it, with one version of a subject (-1
// is the newest) or with AllVersions, under the subject's level. With
// AllVersions a level without TRANSITIVE looks at the newest only. Without a
// version to compare with, s is compatible, unless a number was asked for that
// there is not: that is CodeVersionNotFound.
func (r *Registry) Check(name string, number int, s Schema) (Compatibility, error) {
	name = normalName(name)
	if err := checkSubject(name); err != nil {
		return Compatibility{}, err
	}
	c, err := r.prepare(name, s)
	if err != nil {
		return Compatibility{}, err
	}
	var against comparison
	err = r.read(func(x *index) error {
		state := (&registration{name: name}).state(x)
		if err := state.validate(c); err != nil {
			return err
		}
		against = state.comparison(c.content)
		switch {
		case number == AllVersions:
		case number == latest:
			against.versions = against.versions[max(0, len(against.versions)-1):]
		default:
			v := x.subjects.get(name).version(number)
			if v == nil || v.deleted {
				return versionNotFound(number)
			}
			against.versions = slices.DeleteFunc(slices.Clone(against.versions), func(in storedVersion) bool { return in.version != v })
		}
		return nil
	})
	if err != nil {
		return Compatibility{}, err
	}
	v := r.compare(c, against)
	if errors.Is(v.err, ErrNoRules) {
		return Compatibility{}, v.noRules(name)
	}
	if v.err != nil {
		return Compatibility{}, v.err
	}
	return Compatibility{
		Compatible: Compatible(v.findings), Level: against.level,
		Findings: v.findings, Messages: v.messages(),
	}, nil
}
