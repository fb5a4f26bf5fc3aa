package samples

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"penstock/schemas"
)

// Options say what a Maker makes. The zero value makes unrelated events, a
// second apart, that all fit.
type Options struct {
	// Seed decides everything: the same seed, options and schema give the same
	// events, on every machine.
	Seed uint64
	// Start is the time of the first event. Zero is a Monday morning of 2026.
	Start time.Time
	// Every is the time from one event to the next. Zero is a second.
	Every time.Duration
	// Entities, if above 0, is of how many things the events tell: each is the
	// new state of one of them, with the same key and few fields changed, or
	// now and then its end, a tombstone. At most MaxEntities.
	Entities int
	// Key is the field whose value is an event's key. Empty is the one that
	// looks most like a key, if one does.
	Key string
	// Invalid is the share of the events that are broken, from 0 to 1.
	Invalid float64
}

// MaxEntities bounds the things that a Maker keeps the state of.
const MaxEntities = 1_000_000

// Event is something made up.
type Event struct {
	Key     any      // the value of the key's field, nil if there is none
	Value   any      // what schemas.Schema encodes; nil is a tombstone
	Mistake *Mistake // what is wrong with it, nil if nothing is
}

// Maker makes up events that fit a schema: plausible by the names of the
// fields, within the bounds that the schema gives. One goroutine may use it at a
// time.
type Maker struct {
	schema schemas.Schema
	model  *schemas.Node
	o      Options
	costs  map[*schemas.Node]int
	made   uint64
	states []state
	encode []byte // to be used again
}

// state is what is known of one entity.
type state struct {
	key   any
	value map[string]any // nil: it is yet to come, or has ended
}

// NewMaker returns a maker of events that fit schema. Its error says what in
// the options cannot be, or why no value fits.
func NewMaker(schema schemas.Schema, o Options) (*Maker, error) {
	m := &Maker{schema: schema, model: schema.Model(), o: o}
	if m.o.Start.IsZero() {
		m.o.Start = epoch
	}
	m.o.Every = cmp.Or(o.Every, time.Second)
	m.costs = costs(m.model)
	if cost := m.costs[m.model]; cost >= tooMuch {
		return nil, errors.New("make up events: no value of the schema ends, or the smallest is too large: break the circle of required fields")
	}
	switch {
	case o.Invalid < 0 || o.Invalid > 1:
		return nil, fmt.Errorf("make up events: the share of broken ones must be from 0 to 1, not %v", o.Invalid)
	case o.Entities < 0 || o.Entities > MaxEntities:
		return nil, fmt.Errorf("make up events: the number of entities must be from 0 to %d, not %d", MaxEntities, o.Entities)
	case o.Key == "":
		m.o.Key = keyField(m.model)
	case m.model.Field(o.Key) == nil:
		return nil, fmt.Errorf("make up events: the key %q is no field of the schema", o.Key)
	}
	if o.Entities > 0 {
		if m.o.Key == "" {
			return nil, errors.New("make up entities: no field of the schema looks like a key: name one")
		}
		if err := m.identify(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Key is the field whose values are the keys, empty if there is none.
func (m *Maker) Key() string { return m.o.Key }

// keyField is the field of n that looks most like the key of a record.
func keyField(n *schemas.Node) string {
	best, found := 0, ""
	for i := range n.Fields {
		f := &n.Fields[i]
		inner, nullable := f.Node.Nullable()
		if inner.Kind != schemas.String && inner.Kind != schemas.Int || nullable && f.OneOf != "" {
			continue
		}
		score := 0
		switch w := words(f.Name); {
		case f.Name == "id" || f.Name == "key" || f.Name == "uuid":
			score = 4
		case w[len(w)-1] == "id" || w[len(w)-1] == "uuid" || w[len(w)-1] == "key":
			score = 3
		case w[len(w)-1] == "number" || w[len(w)-1] == "code" || w[len(w)-1] == "device":
			score = 2
		case inner.Kind == schemas.String && inner.Logical == schemas.NoLogical:
			score = 1
		}
		if score > best {
			best, found = score, f.Name
		}
	}
	return found
}

// identify gives every entity a key of its own.
func (m *Maker) identify() error {
	f := m.model.Field(m.o.Key)
	inner, _ := f.Node.Nullable()
	seen := map[string]bool{}
	m.states = make([]state, m.o.Entities)
	for i := range m.states {
		// A stream of its own, far from those of the events.
		g := m.draw(uint64(i), 1)
		for try := 0; ; try++ {
			g.try, g.owner = try, lastPart(m.model.Name)
			key := g.value(inner, m.o.Key, 0)
			text, err := schemas.AppendJSON(nil, key)
			if err == nil && !seen[string(text)] {
				seen[string(text)] = true
				m.states[i].key = key
				break
			}
			if try == maxTries {
				return fmt.Errorf("make up entities: the field %q has few values: found %d, expected %d: ask for fewer entities, or name another key", m.o.Key, i, m.o.Entities)
			}
		}
	}
	return nil
}

// Next makes up the next event. Its error says why nothing was found that
// fits, or that a schema that takes anything cannot be broken.
func (m *Maker) Next() (Event, error) {
	g := m.draw(m.made, 0)
	m.made++
	e, err := m.event(g)
	if err != nil || e.Value == nil || m.o.Invalid == 0 || g.Float64() >= m.o.Invalid {
		return e, err
	}
	e.Value, e.Mistake, err = m.breakUp(g, e.Value)
	return e, err
}

func (m *Maker) event(g *generator) (Event, error) {
	if len(m.states) == 0 {
		v, err := m.fresh(g, nil)
		if err != nil {
			return Event{}, err
		}
		e := Event{Value: v}
		if fields, ok := v.(map[string]any); ok && m.o.Key != "" {
			e.Key = fields[m.o.Key]
		}
		return e, nil
	}
	s := &m.states[g.IntN(len(m.states))]
	switch {
	case s.value == nil:
		v, err := m.fresh(g, s.key)
		if err != nil {
			return Event{}, err
		}
		s.value = v.(map[string]any) // the model is a record: it has the key's field
	case g.oneIn(40):
		s.value = nil
		return Event{Key: s.key}, nil
	default:
		next, err := m.evolve(g, s)
		if err != nil {
			return Event{}, err
		}
		s.value = next
	}
	return Event{Key: s.key, Value: copied(s.value)}, nil
}

// maxTries is how often something that fits is looked for: what a schema says
// of several values together is not in the model.
const maxTries = 100

// fresh makes up a value that fits, of that key unless it is nil.
func (m *Maker) fresh(g *generator, key any) (any, error) {
	var err error
	for g.try = 0; g.try < maxTries; g.try++ {
		g.left = maxPlaces
		v := g.value(m.model, lastPart(m.model.Name), 0)
		if fields, ok := v.(map[string]any); ok && key != nil {
			fields[m.o.Key] = key
		}
		if err = m.fits(v); err == nil {
			return v, nil
		}
	}
	return nil, fmt.Errorf("make up an event: none of %d fits the schema; of the last one: %w", maxTries, err)
}

func (m *Maker) fits(v any) error {
	out, err := m.schema.AppendEncode(m.encode[:0], v)
	if err == nil {
		m.encode = out
	}
	return err
}

func (m *Maker) refuses(v any) bool { return m.fits(v) != nil }

// evolve is the next state of s: one or two fields are other than before, and
// the timestamps go on. Where that does not fit, everything is new but the key.
func (m *Maker) evolve(g *generator, s *state) (map[string]any, error) {
	fresh, err := m.fresh(g, s.key)
	if err != nil {
		return nil, err
	}
	news := fresh.(map[string]any)
	var others []string
	for i := range m.model.Fields {
		if name := m.model.Fields[i].Name; name != m.o.Key && !m.goesOn(i) {
			others = append(others, name)
		}
	}
	for range 5 {
		next := maps.Clone(s.value)
		for i := range m.model.Fields {
			if m.goesOn(i) {
				m.take(next, news, m.model.Fields[i].Name)
			}
		}
		if len(others) > 0 {
			for range 1 + g.IntN(2) {
				m.take(next, news, others[g.IntN(len(others))])
			}
		}
		if m.fits(next) == nil {
			return next, nil
		}
	}
	return news, nil
}

// goesOn reports whether the i-th field is a timestamp that moves with the
// events.
func (m *Maker) goesOn(i int) bool {
	f := &m.model.Fields[i]
	inner, _ := f.Node.Nullable()
	return f.Name != m.o.Key && inner.Logical == schemas.Timestamp && !isOrigin(words(f.Name))
}

// take gives v the field of news, and with it the others of its group.
func (m *Maker) take(v, news map[string]any, name string) {
	group := m.model.Field(name).OneOf
	for i := range m.model.Fields {
		f := &m.model.Fields[i]
		if f.Name != name && (group == "" || f.OneOf != group) {
			continue
		}
		if now, ok := news[f.Name]; ok {
			v[f.Name] = now
		} else {
			delete(v, f.Name)
		}
	}
}

// draw is what makes up event i.
func (m *Maker) draw(i, stream uint64) *generator {
	return &generator{
		Rand:   rand.New(rand.NewPCG(m.o.Seed^stream<<63, i)),
		at:     m.o.Start.Add(time.Duration(i) * m.o.Every),
		nth:    i,
		costs:  m.costs,
		asText: m.schema.Type() == schemas.Avro,
		left:   maxPlaces,
		path:   map[*schemas.Node]int{},
	}
}

// copied is v with its objects and arrays anew.
func copied(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = copied(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = copied(e)
		}
		return out
	}
	return v
}

// tooMuch is the cost of what has no end, or more places than an event should.
const tooMuch = 100_000

// costs is how many places the smallest value of each node below n has.
func costs(n *schemas.Node) map[*schemas.Node]int {
	costs := map[*schemas.Node]int{}
	var order []*schemas.Node
	var visit func(n *schemas.Node)
	visit = func(n *schemas.Node) {
		if _, ok := costs[n]; ok {
			return
		}
		costs[n] = tooMuch
		for _, b := range n.Branches {
			visit(b)
		}
		if n.Items != nil {
			visit(n.Items)
		}
		for i := range n.Fields {
			visit(n.Fields[i].Node)
		}
		order = append(order, n) // what it is made of stands before it
	}
	visit(n)
	for changed := true; changed; {
		changed = false
		for _, n := range order {
			cost := 1
			switch {
			case n.Bounds != nil && n.Bounds.Values != nil:
			case n.Kind == schemas.Union:
				cost = tooMuch
				for _, b := range n.Branches {
					cost = min(cost, costs[b])
				}
			case n.Items != nil && n.Bounds != nil && n.Bounds.MinSize > 0:
				cost = min(tooMuch, 1+costs[n.Items]*min(n.Bounds.MinSize, tooMuch))
			case n.Kind == schemas.Record:
				for i := range n.Fields {
					if f := &n.Fields[i]; f.Required {
						cost = min(tooMuch, cost+costs[f.Node])
					}
				}
			}
			if cost < costs[n] {
				costs[n], changed = cost, true
			}
		}
	}
	return costs
}

// lastPart is a full name without what stands before the last dot.
func lastPart(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// words are the words of a name, in lower case: of shipTo_address "ship", "to"
// and "address". There is one at least.
func words(name string) []string {
	var b strings.Builder
	lower := false
	for _, r := range name {
		switch {
		case r >= 'A' && r <= 'Z':
			if lower {
				b.WriteByte(' ')
			}
			b.WriteRune(r - 'A' + 'a')
			lower = false
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
			lower = true
		default:
			b.WriteByte(' ')
			lower = false
		}
	}
	w := strings.Fields(b.String())
	if len(w) == 0 {
		return []string{"value"}
	}
	return w
}

// isOrigin reports whether a time of that name is when something began, which
// stays.
func isOrigin(w []string) bool {
	return slices.ContainsFunc(w, func(s string) bool {
		switch s {
		case "created", "placed", "born", "birth", "birthday", "registered", "joined", "opened", "since", "start", "started":
			return true
		}
		return false
	})
}
