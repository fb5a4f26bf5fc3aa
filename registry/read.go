package registry

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
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

// Subjects returns the names, in order, of the subjects that start with prefix
// and have a version that d admits; with OnlyDeleted, those that have no live
// one.
func (r *Registry) Subjects(prefix string, d Deleted) []string {
	names := []string{}
	_ = r.read(func(x *index) error {
		for name, s := range x.subjects.all() {
			live := slices.ContainsFunc(s.versions, func(v *version) bool { return !v.deleted })
			if (d == WithDeleted || live == (d == WithoutDeleted)) && strings.HasPrefix(name, prefix) {
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
// deleted is set.
func (r *Registry) Version(name string, number int, deleted bool) (s Schema, err error) {
	name = normalName(name)
	err = r.read(func(x *index) error {
		v, err := pick(x, name, number, deleted)
		if err != nil {
			return err
		}
		s = reply(name, v)
		return nil
	})
	return s, err
}

// pick finds a version, the newest for -1.
func pick(x *index, name string, number int, deleted bool) (*version, error) {
	s := x.subjects.get(name)
	versions := s.live()
	if deleted && s != nil {
		versions = s.versions
	}
	if len(versions) == 0 {
		return nil, subjectNotFound(name)
	}
	if number == latest {
		return versions[len(versions)-1], nil
	}
	if v := s.version(number); v != nil && (deleted || !v.deleted) {
		return v, nil
	}
	return nil, versionNotFound(number)
}

// Schemas returns the versions of all subjects that start with prefix, ordered
// by name and number; only the newest of each where latestOnly is set.
func (r *Registry) Schemas(prefix string, deleted, latestOnly bool) []Schema {
	list := []Schema{}
	_ = r.read(func(x *index) error {
		for name, s := range x.subjects.all() {
			if !strings.HasPrefix(name, prefix) {
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

// Contexts returns the contexts that ids were ever given in, in order; the
// default one is always among them.
func (r *Registry) Contexts() []string {
	all := map[string]bool{DefaultContext: true}
	_ = r.read(func(x *index) error {
		for context := range x.maxIDs.all() {
			all[context] = true
		}
		return nil
	})
	return slices.Sorted(maps.Keys(all))
}

// Lookup returns the version of a subject that says what s says,
// CodeSubjectNotFound, or CodeSchemaNotFound.
func (r *Registry) Lookup(name string, s Schema, deleted bool) (found Schema, err error) {
	name = normalName(name)
	err = r.read(func(x *index) error {
		_, err := pick(x, name, latest, deleted)
		return err
	})
	if err != nil {
		return found, err
	}
	c, err := r.prepare(name, s)
	if err != nil {
		return found, err
	}
	err = r.read(func(x *index) error {
		sub := x.subjects.get(name)
		v := find(sub.live(), c.content)
		if v == nil && deleted && sub != nil {
			v = find(sub.versions, c.content)
		}
		if v == nil {
			return errSchemaNotFound
		}
		found = reply(name, v)
		return nil
	})
	return found, err
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
		against.level = effectiveConfig(x, name).CompatibilityLevel
		versions := x.subjects.get(name).live()
		switch {
		case number == AllVersions:
		case number == latest:
			versions = versions[max(0, len(versions)-1):]
		default:
			v := x.subjects.get(name).version(number)
			if v == nil || v.deleted {
				return versionNotFound(number)
			}
			versions = []*version{v}
		}
		against.versions = stored(x, name, versions)
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
