package registry_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/registry"
	"penstock/registry/logs/memory"
	"penstock/schemas"
)

// model is a registry as plainly as it can be said: lists, and loops over them.
type model struct {
	versions []modelVersion // in the order of their making
	levels   map[string]registry.Level
	modes    map[string]registry.Mode
	given    map[string]int    // highest id ever given, by context
	texts    map[string]string // what an id stood for, ever
	used     bool              // the context .c is there
	ties     map[string]tie    // associations, by resource
}

// tie is the association of a resource.
type tie struct {
	subject   string
	lifecycle registry.Lifecycle
}

func newModel() *model {
	return &model{
		levels: map[string]registry.Level{}, modes: map[string]registry.Mode{}, given: map[string]int{},
		texts: map[string]string{}, ties: map[string]tie{},
	}
}

type modelVersion struct {
	Subject    string
	Number, ID int
	Words      string
	Deleted    bool
}

func contextOf(subject string) string {
	if strings.HasPrefix(subject, ":.c:") {
		return ".c"
	}
	return "."
}

// of returns the versions of a subject, by number.
func (m *model) of(subject string, deleted bool) (out []modelVersion) {
	for _, v := range m.versions {
		if v.Subject == subject && (deleted || !v.Deleted) {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b modelVersion) int { return a.Number - b.Number })
	return out
}

func (m *model) level(subject string) registry.Level {
	if l := m.levels[subject]; l != "" {
		return l
	}
	if l := m.levels[""]; l != "" && contextOf(subject) == "." {
		return l
	}
	return registry.LevelBackward
}

func (m *model) readOnly(subject string) bool {
	mode := m.modes[subject]
	if mode == "" && contextOf(subject) == "." {
		mode = m.modes[""]
	}
	return mode == registry.ReadOnly
}

// reads reports whether a reader finds all it needs.
func reads(reader, writer string) bool {
	for word := range strings.FieldsSeq(reader) {
		if need, ok := strings.CutPrefix(word, "-"); ok && !slices.Contains(strings.Fields(writer), "+"+need) {
			return false
		}
	}
	return true
}

func (m *model) register(subject, words string) (modelVersion, registry.Code) {
	live := m.of(subject, false)
	for _, v := range slices.Backward(live) {
		if v.Words == words {
			return v, 0
		}
	}
	if m.readOnly(subject) {
		return modelVersion{}, registry.CodeNotPermitted
	}
	level := string(m.level(subject))
	for i, v := range live {
		if i < len(live)-1 && !strings.HasSuffix(level, "_TRANSITIVE") {
			continue
		}
		if (strings.HasPrefix(level, "BACKWARD") || strings.HasPrefix(level, "FULL")) && !reads(words, v.Words) {
			return modelVersion{}, registry.CodeIncompatible
		}
		if (strings.HasPrefix(level, "FORWARD") || strings.HasPrefix(level, "FULL")) && !reads(v.Words, words) {
			return modelVersion{}, registry.CodeIncompatible
		}
	}
	made := modelVersion{Subject: subject, Number: 1, Words: words}
	if all := m.of(subject, true); len(all) > 0 {
		made.Number = all[len(all)-1].Number + 1
	}
	context := contextOf(subject)
	for _, v := range m.versions {
		if contextOf(v.Subject) == context && v.Words == words && (made.ID == 0 || v.ID < made.ID) {
			made.ID = v.ID
		}
	}
	if made.ID == 0 {
		m.given[context]++
		made.ID = m.given[context]
	}
	m.versions = slices.DeleteFunc(m.versions, func(v modelVersion) bool {
		return v.Subject == subject && v.Words == words
	})
	m.put(made)
	return made, 0
}

func (m *model) put(v modelVersion) {
	m.versions = append(m.versions, v)
	m.used = m.used || contextOf(v.Subject) == ".c"
}

// importVersion registers under a number and an id, after the subject was set to
// mode IMPORT by force, which takes away what is deleted.
func (m *model) importVersion(v modelVersion) registry.Code {
	m.versions = slices.DeleteFunc(m.versions, func(old modelVersion) bool { return old.Subject == v.Subject && old.Deleted })
	live := m.of(v.Subject, false)
	for _, old := range slices.Backward(live) {
		if old.Words == v.Words && old.Number == v.Number {
			if old.ID != v.ID {
				return registry.CodeIDMismatch
			}
			return 0
		}
		if old.Words == v.Words {
			break // only the newest counts
		}
	}
	for _, old := range m.versions {
		if old.Subject == v.Subject && old.Number == v.Number ||
			contextOf(old.Subject) == contextOf(v.Subject) && old.ID == v.ID && old.Words != v.Words {
			return registry.CodeNotPermitted
		}
	}
	m.put(v)
	m.given[contextOf(v.Subject)] = max(m.given[contextOf(v.Subject)], v.ID)
	m.texts[fmt.Sprint(contextOf(v.Subject), v.ID)] = text(v.Words)
	return 0
}

// tied are the resources that a subject belongs to.
func (m *model) tied(subject string) (resources []string) {
	for resource, t := range m.ties {
		if t.subject == subject {
			resources = append(resources, resource)
		}
	}
	return resources
}

// associate ties a resource to a subject, and registers words, unless empty,
// before; all or nothing.
func (m *model) associate(resource, op string, t tie, words string) registry.Code {
	if m.readOnly(t.subject) {
		return registry.CodeNotPermitted
	}
	old, tied := m.ties[resource]
	changes := true
	switch {
	case !tied:
	case old.subject != t.subject:
		return registry.CodeResourceAssociated
	case old == t:
		changes = false
	case op == "CREATE":
		return registry.CodeResourceAssociated
	}
	if changes {
		if words == "" && len(m.of(t.subject, false)) == 0 {
			return registry.CodeNoActiveVersion
		}
		for _, other := range m.tied(t.subject) {
			switch {
			case other == resource:
			case m.ties[other].lifecycle == registry.Strong:
				return registry.CodeStronglyAssociated
			case t.lifecycle == registry.Strong:
				return registry.CodeSubjectAssociated
			}
		}
	}
	if words != "" {
		if _, code := m.register(t.subject, words); code != 0 {
			return code
		}
	}
	m.ties[resource] = t
	return 0
}

func (m *model) dissociate(resource string, cascade bool) registry.Code {
	t, tied := m.ties[resource]
	switch {
	case !tied:
		return registry.CodeAssociationNotFound
	case m.readOnly(t.subject):
		return registry.CodeNotPermitted
	}
	delete(m.ties, resource)
	if cascade && t.lifecycle == registry.Strong {
		m.hide(t.subject)
	}
	return 0
}

func (m *model) hide(subject string) {
	for i := range m.versions {
		if m.versions[i].Subject == subject {
			m.versions[i].Deleted = true
		}
	}
}

// deleteContext takes the context .c away.
func (m *model) deleteContext() registry.Code {
	for _, v := range m.versions {
		if contextOf(v.Subject) == ".c" {
			return registry.CodeContextNotEmpty
		}
	}
	m.used = false
	return 0
}

func (m *model) deleteVersion(subject string, number int, permanent bool) registry.Code {
	if m.readOnly(subject) {
		return registry.CodeNotPermitted
	}
	all := m.of(subject, true)
	if len(all) == 0 {
		return registry.CodeSubjectNotFound
	}
	for i := range m.versions {
		v := &m.versions[i]
		if v.Subject != subject || v.Number != number {
			continue
		}
		switch {
		case !permanent && v.Deleted:
			return registry.CodeVersionDeleted
		case permanent && !v.Deleted:
			return registry.CodeVersionNotDeleted
		case !permanent && len(m.of(subject, false)) == 1 && len(m.tied(subject)) > 0:
			return registry.CodeNoActiveVersion
		case !permanent:
			v.Deleted = true
		default:
			m.versions = slices.Delete(m.versions, i, i+1)
			m.gone(subject)
		}
		return 0
	}
	return registry.CodeVersionNotFound
}

func (m *model) deleteSubject(subject string, permanent bool) registry.Code {
	if m.readOnly(subject) {
		return registry.CodeNotPermitted
	}
	if len(m.tied(subject)) > 0 {
		return registry.CodeSubjectAssociated
	}
	if len(m.of(subject, true)) == 0 {
		return registry.CodeSubjectNotFound
	}
	live := len(m.of(subject, false)) > 0
	switch {
	case live && permanent:
		return registry.CodeSubjectNotDeleted
	case !live && !permanent:
		return registry.CodeSubjectDeleted
	case permanent:
		m.versions = slices.DeleteFunc(m.versions, func(v modelVersion) bool { return v.Subject == subject })
		m.gone(subject)
	default:
		m.hide(subject)
	}
	return 0
}

func (m *model) gone(subject string) {
	if len(m.of(subject, true)) == 0 {
		delete(m.levels, subject)
		delete(m.modes, subject)
	}
}

func codeOf(err error) registry.Code {
	var e *registry.Error
	if errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		return -1
	}
	return 0
}

var (
	modelSubjects = []string{"s", "t", ":.c:s"}
	modelWords    = []string{"+a", "+b", "+a +b", "-a +a", "-b +a +b", "-c +c"}
)

// everything is all that a registry says about its versions and settings.
func everything(r *registry.Registry) map[string]any {
	all := map[string]any{
		"schemas": r.Schemas("", true, false), "live": r.Subjects("", registry.WithoutDeleted),
		"gone": r.Subjects("", registry.OnlyDeleted), "contexts": r.Contexts(),
		"ids": []int{r.MaxID("."), r.MaxID(".c")}, "associations": r.Associations(registry.AssociationQuery{}),
	}
	for _, context := range []string{".", ".c"} {
		for id := 1; id <= r.MaxID(context); id++ {
			s, err := r.SchemaByID(context, id)
			uses, err2 := r.VersionsByID(context, id, true)
			all[fmt.Sprint(context, id)] = []any{s, codeOf(err), uses, codeOf(err2)}
		}
	}
	for _, subject := range append([]string{""}, modelSubjects...) {
		c, err := r.Config(subject, false)
		m, err2 := r.Mode(subject, false)
		all["settings of "+subject] = []any{c, codeOf(err), m, codeOf(err2)}
	}
	return all
}

// TestModel applies random calls to a registry and to the model, which must
// agree about every answer and about all that is kept. Now and then the registry
// starts again from its log.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := memory.New()
		newRegistry := func() *registry.Registry {
			r, err := registry.New(t.Context(), log, []schemas.Format{fakeFormat{schemas.Avro}}, fakeChecker{}, registry.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		r := newRegistry()
		defer func() { r.Close() }()
		m := newModel()
		agree := func(what string, err error, want registry.Code) {
			t.Helper()
			if got := codeOf(err); got != want {
				t.Fatalf("%s: got code %d (%v), the model says %d", what, got, err, want)
			}
		}
		subject := rapid.SampledFrom(modelSubjects)
		scope := rapid.SampledFrom(append([]string{""}, modelSubjects...))
		number := rapid.IntRange(1, 4)
		permanent := rapid.Bool()
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				var want, got []modelVersion
				for _, s := range modelSubjects {
					want = append(want, m.of(s, true)...)
				}
				for _, s := range r.Schemas("", true, false) {
					words := modelWords[slices.IndexFunc(modelWords, func(w string) bool { return text(w) == s.Schema })]
					got = append(got, modelVersion{s.Subject, s.Version, s.ID, words, s.Deleted})
					key := fmt.Sprint(contextOf(s.Subject), s.ID)
					if before, ok := m.texts[key]; ok && before != s.Schema {
						t.Fatalf("id %s stood for %s, and stands for %s now", key, before, s.Schema)
					}
					m.texts[key] = s.Schema
				}
				for context, id := range map[string]int{".": r.MaxID("."), ".c": r.MaxID(".c")} {
					if id != m.given[context] {
						t.Fatalf("the highest id of %s is %d, the model says %d", context, id, m.given[context])
					}
				}
				if got := len(r.Contexts()) == 2; got != m.used {
					t.Fatalf("contexts %q, the model says %v of .c", r.Contexts(), m.used)
				}
				ties := map[string]tie{}
				for _, a := range r.Associations(registry.AssociationQuery{}) {
					ties[a.ResourceName] = tie{a.Subject, a.Lifecycle}
				}
				if diff := cmp.Diff(m.ties, ties, cmp.AllowUnexported(tie{})); diff != "" {
					t.Fatalf("associations (-model +registry):\n%s", diff)
				}
				order := func(a, b modelVersion) int {
					return strings.Compare(fmt.Sprintf("%s %9d", a.Subject, a.Number), fmt.Sprintf("%s %9d", b.Subject, b.Number))
				}
				slices.SortFunc(want, order)
				slices.SortFunc(got, order)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("versions (-model +registry):\n%s", diff)
				}
				for _, s := range modelSubjects {
					if c, err := r.Config(s, true); err != nil || c.CompatibilityLevel != m.level(s) {
						t.Fatalf("level of %s: %v %v, the model says %s", s, c, err, m.level(s))
					}
				}
			},
			"register": func(t *rapid.T) {
				s, words := subject.Draw(t, "subject"), rapid.SampledFrom(modelWords).Draw(t, "words")
				want, code := m.register(s, words)
				got, err := r.Register(t.Context(), s, fake(words), false)
				agree("register "+words+" at "+s, err, code)
				if err == nil && (got.ID != want.ID || got.Version != want.Number) {
					t.Fatalf("register %s at %s: id %d, version %d; the model says %d, %d", words, s, got.ID, got.Version, want.ID, want.Number)
				}
			},
			"lookup": func(t *rapid.T) {
				s, words := subject.Draw(t, "subject"), rapid.SampledFrom(modelWords).Draw(t, "words")
				live := m.of(s, false)
				code := registry.CodeSchemaNotFound
				if len(live) == 0 {
					code = registry.CodeSubjectNotFound
				}
				var want modelVersion
				find := func(live []modelVersion) {
					for _, v := range live {
						if v.Words == words {
							want, code = v, 0
						}
					}
				}
				if find(live); code != 0 && contextOf(s) == "." {
					find(m.of(":.c:"+s, false))
				}
				got, err := r.Lookup(s, fake(words), false)
				agree("look up "+words+" at "+s, err, code)
				if got.Version != want.Number || got.ID != want.ID {
					t.Fatalf("look up %s at %s: %+v, the model says %+v", words, s, got, want)
				}
			},
			"delete version": func(t *rapid.T) {
				s, n, p := subject.Draw(t, "subject"), number.Draw(t, "number"), permanent.Draw(t, "permanent")
				code := m.deleteVersion(s, n, p)
				_, err := r.DeleteVersion(t.Context(), s, n, p)
				agree(fmt.Sprintf("delete version %d of %s, permanently %v", n, s, p), err, code)
			},
			"delete subject": func(t *rapid.T) {
				s, p := subject.Draw(t, "subject"), permanent.Draw(t, "permanent")
				code := m.deleteSubject(s, p)
				_, err := r.DeleteSubject(t.Context(), s, p)
				agree(fmt.Sprintf("delete %s, permanently %v", s, p), err, code)
			},
			"configure": func(t *rapid.T) {
				s := scope.Draw(t, "scope")
				level := rapid.SampledFrom([]registry.Level{registry.LevelNone, registry.LevelBackward, registry.LevelForward, registry.LevelFullTransitive}).Draw(t, "level")
				code := registry.Code(0)
				if m.readOnly(s) {
					code = registry.CodeNotPermitted
				} else {
					m.levels[s] = level
				}
				agree("configure "+s, r.SetConfig(t.Context(), s, registry.Config{CompatibilityLevel: level}), code)
			},
			"mode": func(t *rapid.T) {
				s := scope.Draw(t, "scope")
				mode := rapid.SampledFrom([]registry.Mode{registry.ReadWrite, registry.ReadWrite, registry.ReadOnly}).Draw(t, "mode")
				m.modes[s] = mode
				agree("mode of "+s, r.SetMode(t.Context(), s, mode, false), 0)
			},
			"import": func(t *rapid.T) {
				v := modelVersion{
					Subject: subject.Draw(t, "subject"), Words: rapid.SampledFrom(modelWords).Draw(t, "words"),
					Number: rapid.IntRange(1, 6).Draw(t, "number"), ID: rapid.IntRange(1, 9).Draw(t, "id"),
				}
				agree("set IMPORT", r.SetMode(t.Context(), v.Subject, registry.Import, true), 0)
				s := fake(v.Words)
				s.ID, s.Version = v.ID, v.Number
				_, err := r.Register(t.Context(), v.Subject, s, false)
				agree(fmt.Sprintf("import %+v", v), err, m.importVersion(v))
				agree("set READWRITE", r.SetMode(t.Context(), v.Subject, registry.ReadWrite, false), 0)
				m.modes[v.Subject] = registry.ReadWrite
			},
			"associate": func(t *rapid.T) {
				resource := rapid.SampledFrom([]string{"q", "r"}).Draw(t, "resource")
				op := rapid.SampledFrom([]string{"CREATE", "UPSERT"}).Draw(t, "op")
				to := tie{subject.Draw(t, "subject"), rapid.SampledFrom([]registry.Lifecycle{registry.Strong, registry.Weak}).Draw(t, "lifecycle")}
				words := rapid.SampledFrom(append([]string{"", ""}, modelWords...)).Draw(t, "words")
				change := registry.AssociationChange{Op: op, Subject: to.subject, AssociationType: "value", Lifecycle: to.lifecycle}
				if words != "" {
					change.Schema = new(fake(words))
				}
				request := registry.AssociationRequest{
					ResourceName: resource, ResourceNamespace: "n", ResourceID: "id-" + resource, ResourceType: "topic",
					Associations: []registry.AssociationChange{change},
				}
				_, err := r.Associate(t.Context(), request, false)
				agree(fmt.Sprintf("%s %s with %+v and %q", op, resource, to, words), err, m.associate(resource, op, to, words))
			},
			"dissociate": func(t *rapid.T) {
				resource, cascade := rapid.SampledFrom([]string{"q", "r"}).Draw(t, "resource"), rapid.Bool().Draw(t, "cascade")
				err := r.Dissociate(t.Context(), registry.AssociationQuery{ResourceID: "id-" + resource}, cascade, false)
				agree(fmt.Sprintf("dissociate %s, cascading %v", resource, cascade), err, m.dissociate(resource, cascade))
			},
			"delete context": func(t *rapid.T) {
				agree("delete .c", r.DeleteContext(t.Context(), ".c"), m.deleteContext())
			},
			"restart": func(t *rapid.T) {
				before := everything(r)
				r.Close()
				r = newRegistry()
				if diff := cmp.Diff(before, everything(r)); diff != "" {
					t.Fatalf("after a restart (-before +after):\n%s", diff)
				}
			},
		})
	})
}

// TestReplayIsTheSame: replay in one go and event by event come to one state.
func TestReplayIsTheSame(t *testing.T) {
	log := memory.New()
	r := open(t, log)
	for i := range 20 {
		s := modelSubjects[i%len(modelSubjects)]
		_ = r.SetConfig(t.Context(), s, registry.Config{CompatibilityLevel: registry.LevelNone})
		_, _ = r.Register(t.Context(), s, fake(modelWords[i%len(modelWords)]), false)
		_, _ = r.DeleteVersion(t.Context(), s, i%4+1, i%2 == 0)
	}
	want := everything(r)
	if len(want) < 10 || !slices.Contains(slices.Collect(maps.Keys(want)), ".1") {
		t.Fatalf("nothing much happened: %v", want)
	}
	if diff := cmp.Diff(want, everything(open(t, log))); diff != "" {
		t.Errorf("after replay (-before +after):\n%s", diff)
	}
}
