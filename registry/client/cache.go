package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"penstock/registry"
	"penstock/schemas"
)

// CacheOptions say what is kept, and for how long. The zero value is ready to
// use.
type CacheOptions struct {
	// LatestAge is how old the answer of Latest may be before it is fetched
	// again, in the background; where it is twice as old, Latest waits for the
	// new one, for up to a second. Zero is 30 s.
	LatestAge time.Duration
	// MissingAge is how long the answer holds that there is no such schema,
	// and how long a registry that failed is left alone while there is an old
	// answer. Zero is 2 s.
	MissingAge time.Duration
	// MaxBytes bounds the texts of the schemas kept, references included.
	// Beyond it, what was not used for a while goes. Zero is 64 MiB.
	MaxBytes int
	// Timeout bounds one fetch, references included. Zero is 20 s.
	Timeout time.Duration
}

// maxReferences is how many other schemas one schema may build on.
const maxReferences = 1000

// staleWait is how long Latest waits for a new answer where it has an old one.
const staleWait = time.Second

// entryBytes is what an entry costs besides its text.
const entryBytes = 512

// source is where schemas are fetched. Errors for what is not there wrap
// ErrNotFound.
type source interface {
	byID(ctx context.Context, id schemas.ID) (registry.Schema, error)
	// byVersion fetches one version of a subject, -1 the newest.
	byVersion(ctx context.Context, subject string, number int) (registry.Schema, error)
}

// guidSource is a source that knows schemas by GUID as well.
type guidSource interface {
	byGUID(ctx context.Context, guid schemas.GUID) (registry.Schema, error)
}

// metadataSource is a source that finds the newest version of a subject whose
// metadata has these properties.
type metadataSource interface {
	byMetadata(ctx context.Context, subject string, properties map[string]string) (registry.Schema, error)
}

// registeringSource is a source that registers what it does not have.
type registeringSource interface {
	byRegistering(ctx context.Context, key registering) (registry.Schema, error)
}

// associationSource is a source that knows which subject a topic is associated
// with. It is empty where there is none.
type associationSource interface {
	subjectOf(ctx context.Context, a association) (subject string, err error)
}

// choice is which version of a subject is asked for.
type choice struct {
	subject    string
	version    int    // or latest
	properties string // a JSON object, for the latest one with them; empty for any
}

// moves reports whether the answer for a key may be another one later.
func moves(key any) bool {
	switch k := key.(type) {
	case choice:
		return k.version == latest
	case association:
		return true
	}
	return false
}

// cache answers for a source. A hit takes no lock.
type cache struct {
	source  source
	formats map[schemas.Type]schemas.Format
	options CacheOptions

	entries sync.Map // from an ID, a GUID, a choice, a registering or an association to its *entry

	mu      sync.Mutex
	flights map[any]*flight
	newest  map[string]map[choice]bool // by subject, the keys that move and have an entry or a flight
	clock   []*entry                   // all entries, in a ring; hand goes round for the next to drop
	hand    int
	bytes   int
	closed  bool

	life context.Context // of the fetches
	end  context.CancelFunc
	wait sync.WaitGroup
}

// entry is an answer. It is immutable but for used, retry and at.
type entry struct {
	key     any
	found   schemas.Registered
	err     error // why there is none
	fetched time.Time
	bytes   int
	used    atomic.Bool // since the hand last passed
	// retry is when to ask again after a fetch that failed, in Unix
	// nanoseconds.
	retry atomic.Int64
	at    int // its place in the ring, guarded by the cache's mu
}

// flight is a fetch on its way, for all who wait for it.
type flight struct {
	done  chan struct{}
	entry *entry // once done is closed
	err   error
	stale bool // something changed since it started: the answer is not kept
}

func newCache(s source, formats []schemas.Format, o CacheOptions) *cache {
	o.LatestAge = cmp.Or(o.LatestAge, 30*time.Second)
	o.MissingAge = cmp.Or(o.MissingAge, 2*time.Second)
	o.MaxBytes = cmp.Or(o.MaxBytes, 64<<20)
	o.Timeout = cmp.Or(o.Timeout, 20*time.Second)
	c := &cache{source: s, formats: map[schemas.Type]schemas.Format{}, options: o, flights: map[any]*flight{}, newest: map[string]map[choice]bool{}}
	for _, f := range formats {
		c.formats[f.Type()] = f
	}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

var errClosed = errors.New("registry client is closed")

// Close ends what is on its way and returns when nothing of it runs any more.
// It always returns nil, and may be called more than once.
func (c *cache) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.end()
	c.wait.Wait()
	return nil
}

// Schema returns the schema with that id. It is fetched once, by whoever asks
// first, and kept. The error wraps schemas.ErrNoSchema if the registry has none
// of that id, schemas.ErrBadSchema if it has one that cannot be used here, and
// ErrUnreachable if it cannot be reached.
func (c *cache) Schema(ctx context.Context, id schemas.ID) (schemas.Schema, error) {
	if e := c.load(id); c.holds(e) { // without a copy of id on the heap
		return e.found.Schema, e.err
	}
	found, err := c.fixed(ctx, id)
	return found.Schema, err
}

// holds reports whether an answer that never changes needs no fetch.
func (c *cache) holds(e *entry) bool {
	return e != nil && (e.err == nil || time.Since(e.fetched) < c.options.MissingAge)
}

// fixed returns what stands under a key whose answer never changes.
func (c *cache) fixed(ctx context.Context, key any) (schemas.Registered, error) {
	if e := c.load(key); c.holds(e) {
		return e.found, e.err
	}
	e, err := c.fetch(ctx, key)
	if err != nil {
		return schemas.Registered{}, err
	}
	return e.found, e.err
}

// Latest returns the newest schema of a subject and its id. The answer may be
// as old as CacheOptions.LatestAge; while the registry cannot be reached, the
// last answer holds. Errors are those of Schema.
func (c *cache) Latest(ctx context.Context, subject string) (schemas.ID, schemas.Schema, error) {
	found, err := c.Newest(ctx, subject)
	return found.ID, found.Schema, err
}

// Newest is Latest with all that the registry says of the schema.
func (c *cache) Newest(ctx context.Context, subject string) (schemas.Registered, error) {
	key := choice{subject: subject, version: latest}
	if e := c.load(key); c.recent(e) { // without a copy of key on the heap
		return e.found, e.err
	}
	return c.moving(ctx, key)
}

// recent reports whether an answer that may change needs no fetch.
func (c *cache) recent(e *entry) bool {
	if e == nil {
		return false
	}
	age := time.Since(e.fetched)
	if e.err != nil {
		return age < c.options.MissingAge
	}
	return age < c.options.LatestAge || time.Now().UnixNano() < e.retry.Load()
}

// moving returns what stands under a key whose answer may change.
func (c *cache) moving(ctx context.Context, key any) (schemas.Registered, error) {
	e := c.load(key)
	if c.recent(e) {
		return e.found, e.err
	}
	if e != nil && e.err != nil {
		e = nil
	}
	waiting := ctx
	if e != nil {
		if time.Since(e.fetched) < 2*c.options.LatestAge {
			c.start(key) // for the next who asks
			return e.found, nil
		}
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeout(ctx, staleWait)
		defer cancel()
	}
	got, err := c.fetch(waiting, key)
	if err != nil {
		if e != nil && ctx.Err() == nil {
			return e.found, nil // an outage
		}
		return schemas.Registered{}, err
	}
	return got.found, got.err
}

func (c *cache) load(key any) *entry {
	v, ok := c.entries.Load(key)
	if !ok {
		return nil
	}
	e := v.(*entry)
	if !e.used.Load() { // without it, all who read would write to one place
		e.used.Store(true)
	}
	return e
}

// fetch waits for the fetch of a key, which may have been started by another.
// An answer that there is no such schema is an entry, not an error.
func (c *cache) fetch(ctx context.Context, key any) (*entry, error) {
	f := c.start(key)
	if f == nil {
		return nil, errClosed
	}
	select {
	case <-f.done:
		return f.entry, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// start starts the fetch of a key, unless one is on its way. The fetch belongs
// to the cache and not to the caller, whose context may end before that of
// others who wait. It returns nil after Close.
func (c *cache) start(key any) *flight {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	if f := c.flights[key]; f != nil {
		return f
	}
	f := &flight{done: make(chan struct{})}
	c.flights[key] = f
	c.index(key)
	c.wait.Go(func() {
		ctx, cancel := context.WithTimeout(c.life, c.options.Timeout)
		defer cancel()
		f.entry, f.err = c.ask(ctx, key)
		c.mu.Lock()
		if f.err == nil && !f.stale {
			c.keep(f.entry)
		}
		if old, ok := c.entries.Load(key); ok && f.err != nil {
			old.(*entry).retry.Store(time.Now().Add(c.options.MissingAge).UnixNano())
		}
		if c.flights[key] == f {
			delete(c.flights, key)
			c.index(key)
		}
		c.mu.Unlock()
		close(f.done)
	})
	return f
}

// ask fetches and parses what key stands for.
func (c *cache) ask(ctx context.Context, key any) (*entry, error) {
	if a, ok := key.(association); ok {
		subject, err := c.source.(associationSource).subjectOf(ctx, a)
		return &entry{key: key, found: schemas.Registered{Subject: subject}, fetched: time.Now(), bytes: entryBytes}, err
	}
	var s registry.Schema
	var err error
	switch key := key.(type) {
	case schemas.ID:
		s, err = c.source.byID(ctx, key)
		if err != nil {
			err = fmt.Errorf("get schema %d: %w", key, err)
		}
	case schemas.GUID:
		s, err = c.source.(guidSource).byGUID(ctx, key)
		if err != nil {
			err = fmt.Errorf("get schema %s: %w", key, err)
		}
	case registering:
		s, err = c.source.(registeringSource).byRegistering(ctx, key)
	case choice:
		if key.properties == "" {
			s, err = c.source.byVersion(ctx, key.subject, key.version)
			break
		}
		var properties map[string]string
		if err = json.Unmarshal([]byte(key.properties), &properties); err == nil {
			s, err = c.source.(metadataSource).byMetadata(ctx, key.subject, properties)
		}
	}
	e := &entry{key: key, fetched: time.Now(), bytes: entryBytes}
	if errors.Is(err, schemas.ErrNoSchema) {
		e.err = err
		return e, nil
	}
	if err != nil {
		return nil, err
	}
	texts := map[string]string{}
	if err := c.references(ctx, s.References, texts); err != nil {
		return nil, fmt.Errorf("get what schema %d refers to: %w", s.ID, err)
	}
	e.found = schemas.Registered{ID: schemas.ID(s.ID), Subject: s.Subject, Version: s.Version}
	if k, ok := key.(schemas.GUID); ok {
		e.found.GUID = k
	} else if s.GUID != "" {
		if e.found.GUID, err = schemas.ParseGUID(s.GUID); err != nil {
			return nil, fmt.Errorf("read the answer for schema %d: %w", s.ID, err)
		}
	}
	if s.Metadata != nil || s.RuleSet != nil {
		e.found.Contract, err = json.Marshal(contract{s.Metadata, s.RuleSet})
		if err != nil {
			return nil, fmt.Errorf("keep what goes with schema %d: %w", s.ID, err)
		}
	}
	e.bytes += len(s.Schema) + len(e.found.Contract)
	for _, t := range texts {
		e.bytes += len(t)
	}
	e.found.Schema, err = c.parse(s, texts)
	if moves(key) {
		return e, err // the last answer holds
	}
	e.err = err
	return e, nil
}

// contract is the JSON of schemas.Registered's Contract.
type contract struct {
	Metadata *registry.Metadata `json:"metadata,omitempty"`
	RuleSet  *registry.RuleSet  `json:"ruleSet,omitempty"`
}

// parse parses what the registry has. Its errors wrap schemas.ErrBadSchema.
func (c *cache) parse(s registry.Schema, texts map[string]string) (schemas.Schema, error) {
	t := cmp.Or(s.SchemaType, schemas.Avro)
	f, ok := c.formats[t]
	if !ok {
		return nil, fmt.Errorf("schema %d is of type %s: %w", s.ID, t, schemas.ErrBadSchema)
	}
	parsed, err := f.Parse(s.Schema, texts)
	if l, ok := f.(schemas.Lenient); ok && err != nil {
		// Data may be written with it all the same.
		read, kept := l.ParseRegistered(s.Schema, texts)
		if _, opaque := read.(*schemas.Opaque); kept == nil && !opaque {
			return read, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("schema %d: %w: %w", s.ID, schemas.ErrBadSchema, err)
	}
	return parsed, nil
}

// references collects the texts of what a schema refers to, directly and
// through others, by name.
func (c *cache) references(ctx context.Context, refs []registry.Reference, texts map[string]string) error {
	for _, r := range refs {
		if _, ok := texts[r.Name]; ok {
			continue
		}
		if len(texts) == maxReferences {
			return fmt.Errorf("there are more than %d", maxReferences)
		}
		s, err := c.source.byVersion(ctx, r.Subject, r.Version)
		if errors.Is(err, schemas.ErrNoSchema) {
			// The schema itself is there: that its reference is not is the
			// registry's fault, and says nothing about the record.
			return fmt.Errorf("reference %q to version %d of subject %q is missing in the registry", r.Name, r.Version, r.Subject)
		}
		if err != nil {
			return err
		}
		texts[r.Name] = s.Schema
		if err := c.references(ctx, s.References, texts); err != nil {
			return err
		}
	}
	return nil
}

// keep stores an entry in the place of the one of its key, and drops others
// while there is too much. The caller holds mu.
func (c *cache) keep(e *entry) {
	if old, ok := c.entries.Load(e.key); ok {
		c.drop(old.(*entry))
	}
	e.at = len(c.clock)
	c.clock = append(c.clock, e)
	c.entries.Store(e.key, e)
	c.index(e.key)
	c.bytes += e.bytes
	for c.bytes > c.options.MaxBytes && len(c.clock) > 1 {
		c.hand %= len(c.clock)
		next := c.clock[c.hand]
		if next == e || next.used.CompareAndSwap(true, false) {
			c.hand++
			continue
		}
		c.drop(next)
	}
}

// drop forgets an entry; the last of the ring takes its place. The caller holds
// mu.
func (c *cache) drop(e *entry) {
	c.entries.Delete(e.key)
	c.index(e.key)
	c.bytes -= e.bytes
	last := c.clock[len(c.clock)-1]
	c.clock[e.at], last.at = last, e.at
	c.clock[len(c.clock)-1] = nil
	c.clock = c.clock[:len(c.clock)-1]
}

// index notes whether a key is one that forget must find. The caller holds mu,
// and has just added or taken away its entry or its flight.
func (c *cache) index(key any) {
	k, ok := key.(choice)
	if !ok || !moves(key) {
		return
	}
	keys := c.newest[k.subject]
	if _, kept := c.entries.Load(key); kept || c.flights[key] != nil {
		if keys == nil {
			keys = map[choice]bool{}
			c.newest[k.subject] = keys
		}
		keys[k] = true
	} else if delete(keys, k); len(keys) == 0 {
		delete(c.newest, k.subject)
	}
}

// forget makes the next Newest of a subject ask the registry, since it was
// changed.
func (c *cache) forget(subject string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range maps.Clone(c.newest[subject]) {
		if f := c.flights[key]; f != nil {
			f.stale = true
			delete(c.flights, key)
		}
		if e, ok := c.entries.Load(key); ok {
			c.drop(e.(*entry))
		}
		c.index(key)
	}
}
