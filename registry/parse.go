package registry

import (
	"cmp"
	"container/list"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"penstock/schemas"
)

// candidate is a schema as it came in: parsed, and its content in the form in
// which it would be stored.
type candidate struct {
	content *content
	schema  schemas.Schema
	texts   map[string]string // what its references stand for
	// refused is why it cannot be registered, nil if it can: what another
	// registry let pass is imported, and found again.
	refused error
	// same remembers which versions say the same by structure.
	same map[*version]bool
}

// prepare parses what was sent for a subject.
func (r *Registry) prepare(name string, s Schema) (*candidate, error) {
	s.SchemaType = cmp.Or(s.SchemaType, schemas.Avro)
	format, ok := r.formats[s.SchemaType]
	if !ok {
		return nil, errorf(CodeInvalidSchema, "Invalid schema type %s: expected one of %v", s.SchemaType, r.types)
	}
	if n := len(s.Schema); n > r.options.MaxSchemaBytes {
		return nil, errorf(CodeTooLarge, "The schema has %d bytes, and this registry takes at most %d; move parts of it into schemas of their own and refer to them", n, r.options.MaxSchemaBytes)
	}
	if s.Metadata != nil || s.RuleSet != nil {
		if n := len(toJSON(s.Metadata)) + len(toJSON(s.RuleSet)); n > r.options.MaxSchemaBytes {
			return nil, errorf(CodeTooLarge, "Metadata and rules have %d bytes, and this registry takes at most %d", n, r.options.MaxSchemaBytes)
		}
	}
	if err := s.RuleSet.validate(); err != nil {
		return nil, err
	}
	var refs []Reference
	var texts map[string]string
	var normalize bool
	err := r.read(func(x *index) (err error) {
		normalize = (s.Normalize || deref(effectiveConfig(x, name).Normalize)) && !effectiveMode(x, name).imports()
		refs, texts, err = resolve(x, name, s.References, false)
		return err
	})
	if err != nil {
		return nil, err
	}
	parsed, err := format.Parse(s.Schema, texts)
	text := ""
	if err == nil {
		text = parsed.Canonical()
		if normalize {
			refs = normalReferences(refs)
			if text, err = schemas.Normalized(parsed); err == nil && text != parsed.Canonical() {
				parsed, err = format.Parse(text, texts)
			}
		}
	}
	if err != nil {
		refused := errorf(CodeInvalidSchema, "Invalid schema of type %s: %v", s.SchemaType, err)
		if parsed, err = parseRegistered(format, s.Schema, texts); err != nil {
			return nil, refused
		}
		c := newContent(s.SchemaType, parsed.Canonical(), refs, s.Metadata, s.RuleSet)
		return &candidate{content: c, schema: parsed, texts: texts, refused: refused, same: map[*version]bool{}}, nil
	}
	c := newContent(s.SchemaType, text, refs, s.Metadata, s.RuleSet)
	c.canonical.Store(&c.text)
	return &candidate{content: c, schema: parsed, texts: texts, same: map[*version]bool{}}, nil
}

// normalReferences sorts by subject and version, and leaves out doubles.
func normalReferences(refs []Reference) []Reference {
	slices.SortStableFunc(refs, func(a, b Reference) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), a.Version-b.Version)
	})
	return slices.Compact(refs)
}

// twin returns the newest of some versions that says what c does with other
// metadata and rules: one of the same hash, else one of the same structure. It
// may parse.
func (r *Registry) twin(c *candidate, m *Metadata, rs *RuleSet, versions []storedVersion) *version {
	key := c.content.with(m, rs).key()
	for _, v := range slices.Backward(versions) {
		if v.content.key() == key {
			return v.version
		}
	}
	for _, v := range slices.Backward(versions) {
		if sameContract(m, rs, v.version) && r.same(c, v) {
			return v.version
		}
	}
	return nil
}

// same reports whether the text of a version says what that of c does. A schema
// without references is the same as one with them that comes to it.
func (r *Registry) same(c *candidate, v storedVersion) bool {
	if v.content.schemaType != c.content.schemaType || len(c.content.references) > 0 && !slices.Equal(c.content.references, v.content.references) {
		return false
	}
	text := r.canonical(v)
	if text == c.content.text {
		return true
	}
	if _, ok := c.schema.(schemas.Comparer); !ok {
		return false
	}
	if len(c.content.references) == len(v.content.references) && !reordered(c.content.text, text) {
		return false
	}
	same, known := c.same[v.version]
	if !known {
		stored, err := r.parse(v.content, v.texts)
		same = err == nil && schemas.Same(c.schema, stored)
		c.same[v.version] = same
	}
	return same
}

// canonical returns the text of a version as its language writes it, or as it
// is stored if it cannot be parsed.
func (r *Registry) canonical(v storedVersion) string {
	c := v.content
	if known := c.canonical.Load(); known != nil {
		return *known
	}
	parsed, err := r.parse(c, v.texts)
	if err != nil {
		return c.text
	}
	text := parsed.Canonical()
	if text == c.text {
		text = c.text // one of them is enough
	}
	c.canonical.Store(&text)
	return text
}

// reordered reports whether two texts have the same bytes in some order.
// Canonical texts that say the same differ in no more, so most need not be
// parsed to be told apart.
func reordered(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	var count [256]int
	for i := range len(a) {
		count[a[i]]++
		count[b[i]]--
	}
	return count == [256]int{}
}

// InFormat returns the text of s, a version of a subject of that context, in a
// format; see schemas.Formatter.
func (r *Registry) InFormat(context string, s Schema, format string) (string, error) {
	if format == "" {
		return s.Schema, nil
	}
	parsed, err := r.parsedAgain(context, s)
	if err != nil {
		return "", err
	}
	text, err := schemas.Text(parsed, format)
	if err != nil {
		return "", errorf(CodeInvalidSchema, "Invalid schema: it cannot be written in the format %q: %v", format, err)
	}
	return text, nil
}

// parsedAgain returns the parsed form of s, a version of a subject of that
// context.
func (r *Registry) parsedAgain(context string, s Schema) (schemas.Schema, error) {
	var texts map[string]string
	err := r.read(func(x *index) (err error) {
		_, texts, err = resolve(x, qualify(context, ""), s.References, true)
		return err
	})
	if err != nil {
		return nil, err
	}
	return r.parse(newContent(s.SchemaType, s.Schema, s.References, s.Metadata, s.RuleSet), texts)
}

// parse returns the parsed form of a stored content, from the cache if it can.
func (r *Registry) parse(c *content, texts map[string]string) (schemas.Schema, error) {
	key := parsedKey(c, texts)
	if s, ok := r.parsed.get(key); ok {
		return s, nil
	}
	format, ok := r.formats[c.schemaType]
	if !ok {
		return nil, errorf(CodeInvalidSchema, "A registered version is of type %s, which this registry was not set up for", c.schemaType)
	}
	s, err := format.Parse(c.text, texts)
	if err == nil {
		r.parsed.put(key, s, len(c.text))
		return s, nil
	}
	// Not kept in the cache, where a candidate of that text would find it.
	if s, err := parseRegistered(format, c.text, texts); err == nil {
		return s, nil
	}
	return nil, errorf(CodeInvalidSchema, "A registered version cannot be read by this registry: %v", err)
}

// parseRegistered parses what Parse refused, see schemas.Lenient.
func parseRegistered(format schemas.Format, text string, texts map[string]string) (schemas.Schema, error) {
	if l, ok := format.(schemas.Lenient); ok {
		return l.ParseRegistered(text, texts)
	}
	return nil, errors.ErrUnsupported
}

// resolve gives each reference of a schema its version, and collects the texts
// of all that it refers to, directly and through others, by name. A softly
// deleted version may be referred to only where deleted is set: by schemas that
// were registered before.
func resolve(x *index, subject string, refs []Reference, deleted bool) ([]Reference, map[string]string, error) {
	if len(refs) == 0 {
		return nil, nil, nil
	}
	own := slices.Clone(refs)
	texts := map[string]string{}
	seen := map[string]SubjectVersion{}
	var walk func(parent string, refs []Reference, deleted bool) error
	walk = func(parent string, refs []Reference, deleted bool) error {
		for i, ref := range refs {
			if ref.Name == "" || ref.Subject == "" {
				return errorf(CodeInvalidSchema, "Invalid schema: reference %d has no name or no subject; give both, and a version", i)
			}
			at := SubjectVersion{InContextOf(parent, ref.Subject), ref.Version}
			s := x.subjects.get(at.Subject)
			v := s.version(at.Version)
			if live := s.live(); at.Version == latest && len(live) > 0 {
				v = live[len(live)-1]
				refs[i].Version, at.Version = v.number, v.number
			}
			if v == nil || v.deleted && !deleted {
				return errorf(CodeInvalidSchema, "Invalid schema: no schema reference found for subject '%s' and version %d; register it first, or correct the reference %q", ref.Subject, ref.Version, ref.Name)
			}
			if before, ok := seen[ref.Name]; ok {
				if before != at && texts[ref.Name] != v.content.text {
					return errorf(CodeInvalidSchema, "Invalid schema: the name %q refers both to version %d of '%s' and to version %d of '%s'; let both refer to one", ref.Name, before.Version, before.Subject, at.Version, at.Subject)
				}
				continue
			}
			if len(seen) == maxReferences {
				return errorf(CodeInvalidSchema, "Invalid schema: it refers to more than %d others", maxReferences)
			}
			seen[ref.Name], texts[ref.Name] = at, v.content.text
			if err := walk(at.Subject, slices.Clone(v.content.references), true); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(subject, own, deleted); err != nil {
		return nil, nil, err
	}
	return own, texts, nil
}

// cacheKey names a content together with what its references stand for.
type cacheKey struct {
	contentKey
	texts [sha256.Size]byte
}

func parsedKey(c *content, texts map[string]string) cacheKey {
	key := cacheKey{contentKey: c.key()}
	if len(texts) > 0 {
		h := sha256.New()
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			_, _ = fmt.Fprintf(h, "%d,%d,", len(name), len(texts[name]))
			_, _ = io.WriteString(h, name+texts[name])
		}
		h.Sum(key.texts[:0])
	}
	return key
}

// parsedCache keeps the schemas that were used last, up to a number of bytes of
// their texts. It may be used concurrently.
type parsedCache struct {
	mu      sync.Mutex
	room    int
	entries map[cacheKey]*list.Element
	order   list.List // of cached, last used first
}

type cached struct {
	key    cacheKey
	schema schemas.Schema
	bytes  int
}

func newParsedCache(bytes int) *parsedCache {
	return &parsedCache{room: bytes, entries: map[cacheKey]*list.Element{}}
}

func (p *parsedCache) get(key cacheKey) (schemas.Schema, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.entries[key]
	if !ok {
		return nil, false
	}
	p.order.MoveToFront(e)
	return e.Value.(cached).schema, true
}

func (p *parsedCache) put(key cacheKey, s schemas.Schema, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.entries[key]; ok {
		return
	}
	p.entries[key] = p.order.PushFront(cached{key, s, bytes})
	for p.room -= bytes; p.room < 0; {
		last := p.order.Remove(p.order.Back()).(cached)
		delete(p.entries, last.key)
		p.room += last.bytes
	}
}
