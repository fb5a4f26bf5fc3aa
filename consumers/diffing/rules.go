package diffing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"penstock/schemas"
)

// Rules say what counts as a change of a value. A place is a JSON Pointer in
// which a step * stands for every member and every item; "" is the whole value.
// What does not count makes no event, and the state stays as it was; it comes
// with the next change that counts, so that patch after patch gives the value
// exactly. Deletions and new keys always count.
type Rules struct {
	// Ignore lists places where, and below which, nothing counts.
	Ignore []string
	// Watch lists the only places at which, or below which, something counts.
	// Empty is all. What is ignored below a watched place does not count.
	Watch []string
	// Tolerance says by how much numbers at a place or below it may differ, as
	// a decimal, from what the last event said. So many small steps do count,
	// once they add up.
	Tolerance map[string]string
	// ArrayKeys names, for arrays at a place, the member by which an item is
	// known: the order of such items does not count, and a patch follows them.
	// Where an item lacks it, or two share it, items are compared by index.
	ArrayKeys map[string]string
	// Sets lists arrays whose order, and how often an item comes, do not count.
	Sets []string
	// FoldCase lists places where, and below which, upper and lower case of
	// strings are the same.
	FoldCase []string
	// Times lists places where, and below which, strings that are RFC 3339
	// times are the same if the instant is, whatever the zone.
	Times []string
}

// rule is what the Rules say about one place. A nil rule says nothing.
type rule struct {
	names map[string]*rule
	any   *rule // for every other name, and every item

	ignored bool
	set     bool
	key     string // of the items of an array
	ways
}

// ways hold at a place and below it.
type ways struct {
	watched   bool
	fold      bool
	times     bool
	tolerance *big.Rat
}

func (w ways) and(more ways) ways {
	w.watched, w.fold, w.times = w.watched || more.watched, w.fold || more.fold, w.times || more.times
	if more.tolerance != nil {
		w.tolerance = more.tolerance
	}
	return w
}

// anyItem is the step to an item of an array.
var anyItem = []byte("*")

// child is the rule for a member, or an item (anyItem).
func (r *rule) child(name []byte) *rule {
	if r == nil {
		return nil
	}
	if c := r.names[string(name)]; c != nil {
		return c
	}
	return r.any
}

// identified says whether items of an array at r are known by something other
// than their index.
func (r *rule) identified() bool { return r != nil && (r.set || r.key != "") }

// identify says what an item of an array at r is known by.
func (r *rule) identify(t *text, item int32) (id string, ok bool) {
	if r.set {
		return string(normal(nil, t, item, r.child(anyItem), r.ways)), true
	}
	m := t.member(item, r.key)
	if m < 0 {
		return "", false
	}
	return string(normal(nil, t, m, nil, ways{})), true
}

// compile makes one rule of all. It returns nil if there are none.
func (r Rules) compile() (*rule, error) {
	root := &rule{}
	var err error
	at := func(what string, places []string, set func(*rule)) {
		for _, p := range places {
			place, e := root.at(p)
			if e != nil {
				if err == nil {
					err = fmt.Errorf("%s: %w", what, e)
				}
				continue
			}
			set(place)
		}
	}
	at("ignored place", r.Ignore, func(p *rule) { p.ignored = true })
	at("watched place", r.Watch, func(p *rule) { p.watched = true })
	at("set", r.Sets, func(p *rule) { p.set = true })
	at("place of strings in any case", r.FoldCase, func(p *rule) { p.fold = true })
	at("place of times", r.Times, func(p *rule) { p.times = true })
	for _, place := range slices.Sorted(maps.Keys(r.ArrayKeys)) {
		if r.ArrayKeys[place] == "" {
			return nil, fmt.Errorf("array %q: expected the name of the member that is the key of its items, found nothing", place)
		}
		at("array", []string{place}, func(p *rule) { p.key = r.ArrayKeys[place] })
	}
	for _, place := range slices.Sorted(maps.Keys(r.Tolerance)) {
		digits, e := schemas.AppendJSON(nil, json.Number(r.Tolerance[place]))
		most, ok := new(big.Rat).SetString(string(digits))
		if e != nil || !ok || most.Sign() < 0 {
			return nil, fmt.Errorf("tolerance of %q: expected a number that is not negative, found %q", place, r.Tolerance[place])
		}
		at("tolerance", []string{place}, func(p *rule) { p.tolerance = most })
	}
	if err != nil {
		return nil, err
	}
	if root.ignored {
		return nil, fmt.Errorf("ignored place \"\": expected a part of the value, found all of it; nothing would count")
	}
	root.settle()
	if len(r.Watch)+len(r.Ignore)+len(r.Tolerance)+len(r.ArrayKeys)+len(r.Sets)+len(r.FoldCase)+len(r.Times) == 0 {
		return nil, nil
	}
	root.watched = root.watched || len(r.Watch) == 0
	return root, nil
}

// at returns the rule of a place, which it makes if it is not there.
func (r *rule) at(place string) (*rule, error) {
	if place == "" {
		return r, nil
	}
	if place[0] != '/' {
		return nil, fmt.Errorf("%q is not a JSON Pointer: it starts with a slash, as in %q", place, "/"+place)
	}
	for step := range strings.SplitSeq(place[1:], "/") {
		if step == "*" {
			if r.any == nil {
				r.any = &rule{}
			}
			r = r.any
			continue
		}
		if r.names == nil {
			r.names = map[string]*rule{}
		}
		name := schemas.UnescapePointer(step)
		if r.names[name] == nil {
			r.names[name] = &rule{}
		}
		r = r.names[name]
	}
	return r, nil
}

// settle has what holds for every name hold for those that have rules of their
// own.
func (r *rule) settle() {
	for _, c := range r.names {
		c.adopt(r.any)
		c.settle()
	}
	if r.any != nil {
		r.any.settle()
	}
}

// adopt has r say what more says as well, where r does not say it otherwise.
func (r *rule) adopt(more *rule) {
	if more == nil {
		return
	}
	r.ignored, r.set = r.ignored || more.ignored, r.set || more.set
	if r.key == "" {
		r.key = more.key
	}
	r.ways = more.and(r.ways)
	for name, c := range more.names {
		if r.names == nil {
			r.names = map[string]*rule{}
		}
		if r.names[name] == nil {
			r.names[name] = &rule{}
		}
		r.names[name].adopt(c)
	}
	if more.any != nil {
		if r.any == nil {
			r.any = &rule{}
		}
		r.any.adopt(more.any)
	}
}

// same compares two texts by rules.
type same struct {
	a, b *text
	// free says of a member that only one of the two has that it does not
	// count; it may be nil.
	free func(path [][]byte, before, after *node) bool
	path [][]byte // kept for free
}

// values says whether what differs between two values does not count. w is what
// holds above them.
func (s *same) values(ai, bi int32, r *rule, w ways) bool {
	if r != nil {
		if r.ignored {
			return true
		}
		w = w.and(r.ways)
	}
	a, b := &s.a.nodes[ai], &s.b.nodes[bi]
	switch {
	case bytes.Equal(a.raw, b.raw):
		return true
	case a.kind == '{' && b.kind == '{':
		return both(s.a, s.b, ai, bi, func(name []byte, i, j int32) bool {
			if s.free != nil {
				s.path = append(s.path, name)
				defer func() { s.path = s.path[:len(s.path)-1] }()
			}
			switch {
			case i < 0:
				return s.free != nil && s.free(s.path, nil, &s.b.nodes[j]) || !counts(s.b, j, r.child(name), w)
			case j < 0:
				return s.free != nil && s.free(s.path, &s.a.nodes[i], nil) || !counts(s.a, i, r.child(name), w)
			}
			return s.values(i, j, r.child(name), w)
		})
	case a.kind == '[' && b.kind == '[':
		return s.arrays(ai, bi, r, w)
	case a.kind == '0' && b.kind == '0' && w.tolerance != nil:
		return !w.watched || within(a.raw, b.raw, w.tolerance)
	case a.kind == '"' && b.kind == '"' && (w.fold || w.times):
		return !w.watched || bytes.Equal(w.normal(a.text()), w.normal(b.text()))
	case equalScalar(a, b):
		return true
	}
	return !counts(s.a, ai, r, w) && !counts(s.b, bi, r, w)
}

func (s *same) arrays(ai, bi int32, r *rule, w ways) bool {
	items := r.child(anyItem)
	if r.identified() {
		if r.set { // however often an item comes
			return maps.Equal(idSet(s.a, ai, r), idSet(s.b, bi, r)) || !counts(s.a, ai, r, w) && !counts(s.b, bi, r, w)
		}
		before, okA := identities(s.a, ai, r)
		after, okB := identities(s.b, bi, r)
		if okA && okB {
			was := make(map[string]int32, len(before))
			for _, v := range before {
				was[v.id] = v.at
			}
			for _, v := range after {
				i, there := was[v.id]
				if there && !s.values(i, v.at, items, w) || !there && counts(s.b, v.at, items, w) {
					return false
				}
				delete(was, v.id)
			}
			for _, i := range was {
				if counts(s.a, i, items, w) {
					return false
				}
			}
			return true
		}
	}
	x, y := s.a.below(ai), s.b.below(bi)
	for ; x.left > 0 && y.left > 0; x.step() {
		if !s.values(x.at, y.at, items, w) {
			return false
		}
		y.step()
	}
	for ; x.left > 0; x.step() {
		if counts(s.a, x.at, items, w) {
			return false
		}
	}
	for ; y.left > 0; y.step() {
		if counts(s.b, y.at, items, w) {
			return false
		}
	}
	return true
}

func idSet(t *text, at int32, r *rule) map[string]bool {
	set := map[string]bool{}
	for m := t.below(at); m.left > 0; m.step() {
		id, _ := r.identify(t, m.at)
		set[id] = true
	}
	return set
}

// counts says whether it counts that a value is there at all. w is what holds
// above it.
func counts(t *text, at int32, r *rule, w ways) bool {
	if r != nil && r.ignored {
		return false
	}
	if w.watched || r != nil && r.watched {
		return true
	}
	if r == nil {
		return false
	}
	switch t.nodes[at].kind {
	case '{':
		for m := t.below(at); m.left > 0; m.step() {
			if counts(t, m.at, r.child(m.node().name), w) {
				return true
			}
		}
	case '[':
		for m := t.below(at); m.left > 0; m.step() {
			if counts(t, m.at, r.child(anyItem), w) {
				return true
			}
		}
	}
	return false
}

// within says whether two numbers differ by no more than most.
func within(a, b []byte, most *big.Rat) bool {
	x, okX := rational(a)
	y, okY := rational(b)
	if !okX || !okY {
		return false
	}
	x.Sub(x, y)
	return x.Abs(x).Cmp(most) <= 0
}

// maxExponent bounds the numbers that are reckoned with: those beyond it are
// compared as they are spelled.
const maxExponent = 400

// rational is a JSON number; ok is false if it is beyond the limits.
func rational(digits []byte) (r *big.Rat, ok bool) {
	if len(digits) > 1000 {
		return nil, false
	}
	if e := bytes.IndexAny(digits, "eE"); e >= 0 && len(bytes.TrimLeft(digits[e+1:], "+-0")) > 3 {
		return nil, false
	} else if e >= 0 {
		if x, err := json.Number(bytes.TrimLeft(digits[e+1:], "+")).Int64(); err != nil || max(x, -x) > maxExponent {
			return nil, false
		}
	}
	return new(big.Rat).SetString(string(digits))
}

// normal is a string as it is compared.
func (w ways) normal(s []byte) []byte {
	if w.times {
		if at, err := time.Parse(time.RFC3339Nano, string(s)); err == nil {
			return at.UTC().AppendFormat(nil, time.RFC3339Nano)
		}
	}
	if w.fold {
		return []byte(foldCase(string(s)))
	}
	return s
}

// foldCase is the same for strings that differ in case alone.
func foldCase(s string) string { return strings.ToLower(strings.ToUpper(s)) }

// normal appends a value as it is known in a set: without what is ignored, in
// one spelling.
func normal(dst []byte, t *text, at int32, r *rule, w ways) []byte {
	if r != nil {
		w = w.and(r.ways)
	}
	v := &t.nodes[at]
	switch v.kind {
	case '{':
		dst = append(dst, '{')
		for m := t.below(at); m.left > 0; m.step() {
			if c := r.child(m.node().name); c == nil || !c.ignored {
				dst = append(schemas.AppendJSONString(dst, string(m.node().name)), ':')
				dst = append(normal(dst, t, m.at, c, w), ',')
			}
		}
		return append(dst, '}')
	case '[':
		dst = append(dst, '[')
		for m := t.below(at); m.left > 0; m.step() {
			dst = append(normal(dst, t, m.at, r.child(anyItem), w), ',')
		}
		return append(dst, ']')
	case '0':
		if n, err := schemas.AppendJSON(dst, json.Number(v.raw)); err == nil {
			return n
		}
	case '"':
		return schemas.AppendJSONString(dst, string(w.normal(v.text())))
	}
	return append(dst, v.raw...)
}
