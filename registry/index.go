package registry

import (
	"encoding/json"
	"iter"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"penstock/schemas"
)

// content is what a schema says, apart from where it is registered. It is
// immutable, canonical apart, and shared by all versions that say the same.
type content struct {
	schemaType schemas.Type
	text       string
	references []Reference
	metadata   *Metadata
	ruleSet    *RuleSet
	guid       guid
	// canonical is the text as its language writes it, nil while nobody has
	// asked. What other registries stored, or was imported, may be another.
	canonical atomic.Pointer[string]
}

func newContent(t schemas.Type, text string, refs []Reference, m *Metadata, rs *RuleSet) *content {
	return &content{
		schemaType: t, text: text, references: refs, metadata: m, ruleSet: rs,
		guid: guidOf(text, refs, m, rs),
	}
}

// with returns c with other metadata and rules.
func (c *content) with(m *Metadata, rs *RuleSet) *content {
	if m == c.metadata && rs == c.ruleSet {
		return c
	}
	other := newContent(c.schemaType, c.text, c.references, m, rs)
	other.canonical.Store(c.canonical.Load())
	return other
}

// key tells contents apart. The type is not part of a guid.
func (c *content) key() contentKey { return contentKey{c.guid, c.schemaType} }

type contentKey struct {
	guid       guid
	schemaType schemas.Type
}

// version is one version of a subject. It is immutable.
type version struct {
	number, id int
	deleted    bool // softly
	content    *content
	registered time.Time
}

// subject holds its versions in ascending order. It is immutable: an index
// replaces it.
type subject struct {
	name     string
	versions []*version
}

// live returns the versions that are not deleted.
func (s *subject) live() []*version {
	if s == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.versions), func(v *version) bool { return v.deleted })
}

// version returns the version of that number, or nil.
func (s *subject) version(number int) *version {
	if s == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(s.versions, number, byNumber)
	if !ok {
		return nil
	}
	return s.versions[i]
}

func byNumber(v *version, number int) int { return v.number - number }

// schemaID is an id within its context.
type schemaID struct {
	context string
	id      int
}

// identified is what an id stands for, and the versions that have it. It is
// immutable.
type identified struct {
	content *content
	uses    []SubjectVersion
}

// users are the versions that refer to one version. It is immutable.
type users []*versionOf

type versionOf struct {
	subject string
	*version
}

// index is the state that the events add up to. Its values are immutable, so
// what a reader has got stays right after the lock is gone.
//
// It has two layers: the base holds what is durable, the layer over it what a
// writer has decided and not yet appended. merge moves the second into the
// first, drop forgets it. Readers have an index of their own, over the same
// base and without the second layer.
type index struct {
	subjects layered[string, subject]
	ids      layered[schemaID, identified]
	contents layered[contentKey, shared]
	// maxIDs is the highest id ever given in a context; it never sinks.
	maxIDs     layered[string, int]
	configs    layered[string, Config]
	modes      layered[string, Mode]
	references layered[SubjectVersion, users]
	// contexts holds those that were used, but for the default one.
	contexts layered[string, struct{}]
	// associations are found by their subject, and again by the name of their
	// resource.
	associations layered[string, []*Association]
	resources    layered[string, []*Association]
	exporters    layered[string, json.RawMessage]
	// spellings are the bytes other than ours that a key has in the log.
	spellings layered[recordKey, []string]

	tentative bool // see tentatively
}

// shared is a content and the ids it has, normally one in a context. It is
// immutable.
type shared struct {
	content *content
	ids     []schemaID
}

func newIndex() *index {
	return &index{
		subjects:   newLayered[string, subject](),
		ids:        newLayered[schemaID, identified](),
		contents:   newLayered[contentKey, shared](),
		maxIDs:     newLayered[string, int](),
		configs:    newLayered[string, Config](),
		modes:      newLayered[string, Mode](),
		references: newLayered[SubjectVersion, users](),
		contexts:   newLayered[string, struct{}](),

		associations: newLayered[string, []*Association](),
		resources:    newLayered[string, []*Association](),
		exporters:    newLayered[string, json.RawMessage](),
		spellings:    newLayered[recordKey, []string](),
	}
}

// durable returns an index over the same base that has no second layer.
func (x *index) durable() *index {
	return &index{
		subjects:   x.subjects.durable(),
		ids:        x.ids.durable(),
		contents:   x.contents.durable(),
		maxIDs:     x.maxIDs.durable(),
		configs:    x.configs.durable(),
		modes:      x.modes.durable(),
		references: x.references.durable(),
		contexts:   x.contexts.durable(),

		associations: x.associations.durable(),
		resources:    x.resources.durable(),
		exporters:    x.exporters.durable(),
		spellings:    x.spellings.durable(),
	}
}

// tentatively returns an index over x, in which a decision can try what its events
// come to. What it has is forgotten with it. It is of no use once x has changed.
func (x *index) tentatively() *index {
	return &index{
		tentative: true,

		subjects:   x.subjects.tentatively(),
		ids:        x.ids.tentatively(),
		contents:   x.contents.tentatively(),
		maxIDs:     x.maxIDs.tentatively(),
		configs:    x.configs.tentatively(),
		modes:      x.modes.tentatively(),
		references: x.references.tentatively(),
		contexts:   x.contexts.tentatively(),

		associations: x.associations.tentatively(),
		resources:    x.resources.tentatively(),
		exporters:    x.exporters.tentatively(),
		spellings:    x.spellings.tentatively(),
	}
}

type layer interface {
	merge()
	drop()
}

func (x *index) layers() []layer {
	return []layer{
		&x.subjects, &x.ids, &x.contents, &x.maxIDs, &x.configs, &x.modes, &x.references,
		&x.contexts, &x.associations, &x.resources, &x.exporters, &x.spellings,
	}
}

// merge makes what was decided part of the base.
func (x *index) merge() {
	for _, l := range x.layers() {
		l.merge()
	}
}

// drop forgets what was decided since the last merge.
func (x *index) drop() {
	for _, l := range x.layers() {
		l.drop()
	}
}

// intern returns the content that is already held and says the same, or c.
func (x *index) intern(c *content) *content {
	if held := x.contents.get(c.key()); held != nil {
		return held.content
	}
	return c
}

// putVersion adds v, or puts it in the place of the version of its number.
func (x *index) putVersion(name string, v *version) {
	x.removeVersion(name, v.number)
	context, _ := split(name)

	s := x.subjects.get(name)
	if s == nil {
		s = &subject{name: name}
	}
	versions := appended(x, s.versions, v)
	if n := len(s.versions); n > 0 && s.versions[n-1].number > v.number {
		at, _ := slices.BinarySearchFunc(s.versions, v.number, byNumber)
		versions = slices.Insert(slices.Clone(s.versions), at, v)
	}
	x.subjects.put(name, &subject{name, versions})

	id := schemaID{context, v.id}
	held := x.ids.get(id)
	if held == nil {
		held = &identified{content: v.content}
		x.hold(id, v.content)
	}
	x.ids.put(id, &identified{held.content, appended(x, held.uses, SubjectVersion{name, v.number})})
	x.putContext(context)
	if m := x.maxIDs.get(context); m == nil || *m < v.id {
		x.maxIDs.put(context, &v.id)
	}
	for _, r := range v.content.references {
		target := SubjectVersion{InContextOf(name, r.Subject), r.Version}
		x.references.put(target, new(append(slices.Clone(deref(x.references.get(target))), &versionOf{name, v})))
	}
}

// appended returns list with one more. Appending in place is safe: what a reader
// holds ends before the new element, and only the newest slice is ever appended
// to, but by an index that tries something.
func appended[T any](x *index, list []T, v T) []T {
	if x.tentative {
		list = slices.Clip(list)
	}
	return append(list, v)
}

// hold notes that c has an id.
func (x *index) hold(id schemaID, c *content) {
	s := x.contents.get(c.key())
	if s == nil {
		s = &shared{content: c}
	}
	x.contents.put(c.key(), &shared{s.content, append(slices.Clone(s.ids), id)})
}

// release takes that note back.
func (x *index) release(id schemaID, c *content) {
	if s := x.contents.get(c.key()); s != nil {
		ids := slices.DeleteFunc(slices.Clone(s.ids), func(other schemaID) bool { return other == id })
		x.contents.put(c.key(), pointerUnless(len(ids) == 0, shared{s.content, ids}))
	}
}

// idOf returns the id that c has in a context, the lowest if it has several, or
// 0.
func (x *index) idOf(context string, c *content) (lowest int) {
	for _, id := range deref(x.contents.get(c.key())).ids {
		if id.context == context && (lowest == 0 || id.id < lowest) {
			lowest = id.id
		}
	}
	return lowest
}

// removeVersion takes a version away for good, and its id if nothing else has
// it. The id is not given again.
func (x *index) removeVersion(name string, number int) {
	s := x.subjects.get(name)
	v := s.version(number)
	if v == nil {
		return
	}
	rest := slices.DeleteFunc(slices.Clone(s.versions), func(other *version) bool { return other == v })
	x.subjects.put(name, pointerUnless(len(rest) == 0, subject{name, rest}))

	context, _ := split(name)
	id := schemaID{context, v.id}
	if held := x.ids.get(id); held != nil {
		uses := slices.DeleteFunc(slices.Clone(held.uses), func(u SubjectVersion) bool { return u == SubjectVersion{name, number} })
		x.ids.put(id, pointerUnless(len(uses) == 0, identified{held.content, uses}))
		if len(uses) == 0 {
			x.release(id, held.content)
		}
	}
	for _, r := range v.content.references {
		target := SubjectVersion{InContextOf(name, r.Subject), r.Version}
		rest := slices.DeleteFunc(slices.Clone(deref(x.references.get(target))), func(u *versionOf) bool { return u.version == v })
		x.references.put(target, pointerUnless(len(rest) == 0, rest))
	}
}

// deleteSubject deletes the versions of a subject up to number softly.
func (x *index) deleteSubject(name string, number int) {
	s := x.subjects.get(name)
	if s == nil {
		return
	}
	for _, v := range s.versions {
		if v.number <= number && !v.deleted {
			gone := *v
			gone.deleted = true
			x.putVersion(name, &gone)
		}
	}
}

// clearSubject takes the softly deleted versions of a scope away for good.
func (x *index) clearSubject(scope string) {
	for name, s := range x.within(scope) {
		for _, v := range s.versions {
			if v.deleted {
				x.removeVersion(name, v.number)
			}
		}
	}
}

// within returns the subjects of a scope: one, those of a context, or, with the
// global context, all.
func (x *index) within(scope string) map[string]*subject {
	found := map[string]*subject{}
	if context, own := split(scope); own != "" {
		if s := x.subjects.get(scope); s != nil {
			found[scope] = s
		}
	} else {
		for name, s := range x.subjects.all() {
			if in, _ := split(name); in == context || context == globalContext {
				found[name] = s
			}
		}
	}
	return found
}

// putContext notes that a context is used.
func (x *index) putContext(context string) {
	if context != DefaultContext && x.contexts.get(context) == nil {
		x.contexts.put(context, &struct{}{})
	}
}

// allContexts returns the contexts in order, the default one first.
func (x *index) allContexts() []string {
	names := []string{}
	for name := range x.contexts.all() {
		names = append(names, name)
	}
	slices.Sort(names)
	return append([]string{DefaultContext}, names...)
}

// putAssociation adds a, or puts it in the place of the one of its key.
func (x *index) putAssociation(a *Association) {
	x.removeAssociation(a.key())
	x.associations.put(a.Subject, new(append(slices.Clone(deref(x.associations.get(a.Subject))), a)))
	x.resources.put(a.ResourceName, new(append(slices.Clone(deref(x.resources.get(a.ResourceName))), a)))
}

func (x *index) removeAssociation(key recordKey) {
	isIt := func(a *Association) bool { return a.key() == key }
	bySubject := slices.DeleteFunc(slices.Clone(deref(x.associations.get(key.Subject))), isIt)
	x.associations.put(key.Subject, pointerUnless(len(bySubject) == 0, bySubject))
	byName := slices.DeleteFunc(slices.Clone(deref(x.resources.get(key.ResourceName))), isIt)
	x.resources.put(key.ResourceName, pointerUnless(len(byName) == 0, byName))
}

// nextID is the id that a new content gets in a context.
func (x *index) nextID(context string) int {
	return deref(x.maxIDs.get(context)) + 1
}

// usersOf returns the versions that refer to one version, softly deleted ones
// too where deleted is set.
func (x *index) usersOf(v SubjectVersion, deleted bool) []*versionOf {
	return slices.DeleteFunc(slices.Clone(deref(x.references.get(v))), func(u *versionOf) bool {
		return u.deleted && !deleted
	})
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// layered is a map with a second layer over it. A nil value stands for none.
type layered[K comparable, V any] struct {
	base, over map[K]*V
	under      *layered[K, V] // in the place of base, of an index that tries something
}

func newLayered[K comparable, V any]() layered[K, V] {
	return layered[K, V]{base: map[K]*V{}, over: map[K]*V{}}
}

func (l *layered[K, V]) durable() layered[K, V] { return layered[K, V]{base: l.base} }

func (l *layered[K, V]) tentatively() layered[K, V] {
	return layered[K, V]{over: map[K]*V{}, under: l}
}

func (l *layered[K, V]) get(k K) *V {
	if v, ok := l.over[k]; ok {
		return v
	}
	if l.under != nil {
		return l.under.get(k)
	}
	return l.base[k]
}

func (l *layered[K, V]) put(k K, v *V) { l.over[k] = v }

// all yields what the layers hold, in no order.
func (l *layered[K, V]) all() iter.Seq2[K, *V] {
	return func(yield func(K, *V) bool) {
		for k, v := range l.over {
			if v != nil && !yield(k, v) {
				return
			}
		}
		rest := maps.All(l.base)
		if l.under != nil {
			rest = l.under.all()
		}
		for k, v := range rest {
			if _, covered := l.over[k]; !covered && !yield(k, v) {
				return
			}
		}
	}
}

func (l *layered[K, V]) merge() {
	for k, v := range l.over {
		if v == nil {
			delete(l.base, k)
		} else {
			l.base[k] = v
		}
	}
	clear(l.over)
}

func (l *layered[K, V]) drop() { clear(l.over) }
