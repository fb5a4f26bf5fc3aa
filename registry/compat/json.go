package compat

import (
	"crypto/sha256"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"penstock/registry"
	"penstock/schemas"
)

// Bounds of one comparison of JSON Schemas.
const (
	// jsonWork is how many steps it may take. Comparing two nodes counts four,
	// looking at one of their properties, values or pairs of members one. An
	// anyOf of 300 members against one of 300 others is within it; it takes
	// less than half a second and about 100 MB.
	jsonWork = 1 << 19
	// jsonDepth is how many pairs may lie within each other. References in
	// circles of different length make it more than the schemas are deep.
	jsonDepth = 2000
	// jsonMatching is how long patterns may try names.
	jsonMatching = 500 * time.Millisecond
	// jsonFindings is how many findings of errors, and of anything else, are
	// told.
	jsonFindings = 1000
)

func checkJSON(reader, writer schemas.Schema, d registry.Direction, p registry.Policy) ([]registry.Finding, error) {
	r, ok1 := reader.(jsonSource)
	w, ok2 := writer.(jsonSource)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("compare %T with %T: expected schemas that give out their text", reader, writer)
	}
	k := &jsonWalk{lenient: p == registry.PolicyLenient, broken: map[jsonPair]bool{}}
	top := k.run(jsonForm(r), jsonForm(w))
	t := newJSONTeller(d, k.lenient)
	if k.left < 0 {
		t.tell(jsonPart{rule: jsonTooComplex}, "#/", "#/")
	} else {
		t.expand(top)
	}
	return t.findings, nil
}

// jsonWalk is one comparison.
//
// A schema may be recursive, so a pair of nodes that is met again while it is
// being compared counts as compatible, unless it was found broken before. The
// walk is repeated until no pair turns out broken of which that was assumed.
type jsonWalk struct {
	lenient  bool
	left     int // of jsonWork
	matching time.Duration
	depth    int
	broken   map[jsonPair]bool
	outcomes map[jsonPair]*jsonOutcome
	again    bool
}

type jsonPair struct{ r, w *jsonNode }

// jsonOutcome is what is to be said about a pair, with places relative to it.
type jsonOutcome struct {
	broken  bool
	parts   []jsonPart
	under   bool // being compared
	assumed bool // taken for compatible meanwhile
	telling bool
}

// jsonPart is a finding, or the outcome of a pair within.
type jsonPart struct {
	rule     int    // its place in the table
	at, from string // steps below the pair, in the reader's schema and in the writer's
	name     string
	r, w     string // what the two say
	inner    *jsonOutcome
	because  *jsonOutcome // of a pair that is not told but explains the finding
}

func (k *jsonWalk) run(r, w *jsonNode) *jsonOutcome {
	k.left = jsonWork
	for {
		k.again, k.outcomes = false, map[jsonPair]*jsonOutcome{}
		top := k.pair(r, w)
		if !k.again || k.left < 0 {
			return top
		}
	}
}

// spend takes n steps, and reports whether there were that many left.
func (k *jsonWalk) spend(n int) bool {
	k.left -= n
	return k.left >= 0
}

// pair compares a node of the reader with one of the writer.
func (k *jsonWalk) pair(r, w *jsonNode) *jsonOutcome {
	p := jsonPair{r.resolve(), w.resolve()}
	if p.r.same(p.w) {
		return &jsonOutcome{}
	}
	if o := k.outcomes[p]; o != nil {
		o.assumed = o.assumed || o.under && !o.broken
		return o
	}
	o := &jsonOutcome{broken: k.broken[p], under: true}
	k.outcomes[p] = o
	if k.depth++; k.depth > jsonDepth {
		k.left = -1
	}
	if k.spend(4) {
		k.compare(o, p.r, p.w)
	}
	k.depth--
	o.under = false
	if o.broken {
		k.broken[p] = true
		k.again = k.again || o.assumed
	}
	return o
}

// note adds a finding.
func (k *jsonWalk) note(o *jsonOutcome, p jsonPart) {
	o.parts = append(o.parts, p)
	o.broken = o.broken || jsonRules[p.rule].severity(k.lenient) == registry.SeverityError
}

// within adds the findings of a pair that lies below o's.
func (k *jsonWalk) within(o, inner *jsonOutcome, at, from string) {
	o.broken = o.broken || inner.broken
	if len(inner.parts) > 0 || inner.under {
		o.parts = append(o.parts, jsonPart{inner: inner, at: at, from: from})
	}
}

func (k *jsonWalk) compare(o *jsonOutcome, r, w *jsonNode) {
	if (r.kind == jsonCombined) != (w.kind == jsonCombined) && k.across(o, r, w) {
		return
	}
	if r.kind != w.kind {
		if w.kind == jsonFalse || r.kind == jsonEmpty || r.kind == jsonTrue || connectBytes(r) && connectBytes(w) {
			return
		}
		k.note(o, jsonPart{rule: jsonTypeChanged, r: describeKind(r), w: describeKind(w)})
		return
	}
	k.annotations(o, r, w)
	switch r.kind {
	case jsonString:
		k.pattern(o, r, w)
	case jsonNumber:
		k.numbers(o, r, w)
	case jsonObject:
		k.objects(o, r, w)
	case jsonArray:
		k.arrays(o, r, w)
	case jsonEnum:
		k.enums(o, r, w)
	case jsonConst:
		if rv, wv := r.word("const"), w.word("const"); r.key(rv) != w.key(wv) {
			k.note(o, jsonPart{rule: jsonEnumChanged, at: "const", from: "const", r: show(rv), w: show(wv)})
		}
	case jsonCombined:
		k.combined(o, r, w)
	case jsonNot:
		k.negations(o, r, w)
	case jsonReference:
		if absolute(r.where.base, r.ref) != absolute(w.where.base, w.ref) {
			k.note(o, jsonPart{rule: jsonTypeChanged, r: strconv.Quote(r.ref), w: strconv.Quote(w.ref)})
		}
	}
	k.limits(o, r, w)
}

// connectBytes reports that Kafka Connect takes the node's values for bytes.
func connectBytes(n *jsonNode) bool {
	return !n.part && textOf(n.word("connect.type")) == "bytes"
}

// describeKind names a node's kind in plain words.
func describeKind(n *jsonNode) string {
	switch {
	case n.kind == jsonNumber && n.integer:
		return "an integer"
	case n.kind == jsonCombined && n.criterion == "anyOf" && n.members[0].part:
		kinds := make([]string, len(n.members)) // a list of types
		for i, m := range n.members {
			kinds[i] = describeKind(m)
		}
		return strings.Join(kinds, " or ")
	case n.kind == jsonCombined:
		return fmt.Sprintf("%s of %d schemas", n.criterion, len(n.members))
	}
	return n.kind.String()
}

// across compares a combination with what is none. It reports whether that
// settles the pair.
func (k *jsonWalk) across(o *jsonOutcome, r, w *jsonNode) bool {
	combined, many := r, jsonSumExtended
	if w.kind == jsonCombined {
		combined, many = w, jsonProductNarrowed
	}
	single := len(combined.members) == 1
	if !single && (combined.criterion == "allOf") != (combined == w) {
		return false
	}
	for i, m := range combined.members {
		var inner *jsonOutcome
		from := ""
		if combined == r {
			inner = k.pair(m, w)
		} else {
			inner = k.pair(r, m)
			from = fmt.Sprintf("%s/%d", w.criterion, i)
		}
		if k.left < 0 {
			return true
		}
		if inner.broken {
			continue
		}
		k.within(o, inner, "", from)
		if !single {
			k.note(o, jsonPart{rule: many, r: describeKind(r), w: describeKind(w)})
		}
		return true
	}
	return false
}

// annotations compares what changes no verdict.
func (k *jsonWalk) annotations(o *jsonOutcome, r, w *jsonNode) {
	if r.part || w.part {
		return
	}
	compare := func(rule int, rv, wv *schemas.JSONNode) {
		if r.key(rv) != w.key(wv) {
			k.note(o, jsonPart{rule: rule, r: show(rv), w: show(wv)})
		}
	}
	id := func(n *jsonNode) *schemas.JSONNode {
		if v := n.word("$id"); v != nil {
			return v
		}
		return n.word("id")
	}
	compare(jsonIDChanged, id(r), id(w))
	compare(jsonTitleChanged, r.word("title"), w.word("title"))
	compare(jsonDescriptionChanged, r.word("description"), w.word("description"))
	compare(jsonDefaultChanged, r.word("default"), w.word("default"))
}

// limits compares the keywords that set a bound.
func (k *jsonWalk) limits(o *jsonOutcome, r, w *jsonNode) {
	for i := range jsonLimits {
		l := &jsonLimits[i]
		if l.kind != r.kind {
			continue
		}
		rn, wn := r.limit(l.keyword), w.limit(l.keyword)
		p := jsonPart{rule: jsonLimitRules + 4*i, at: l.keyword, from: l.keyword, name: l.keyword, r: decimal(rn), w: decimal(wn)}
		switch {
		case rn == nil && wn == nil:
			continue
		case wn == nil:
			p.rule, p.from = p.rule+limitAdded, ""
		case rn == nil:
			p.rule += limitRemoved
		case rn.Cmp(wn) > 0:
			p.rule += limitIncreased
		case rn.Cmp(wn) < 0:
			p.rule += limitDecreased
		default:
			continue
		}
		k.note(o, p)
	}
}

// limit returns a bound. Since draft 2019-09 contains alone asks for one item.
func (n *jsonNode) limit(keyword string) *big.Rat {
	bound := n.number(keyword)
	if bound == nil && keyword == "minContains" && n.array.contains {
		return big.NewRat(1, 1)
	}
	return bound
}

// presence compares a keyword that is there or not.
func (k *jsonWalk) presence(o *jsonOutcome, keyword string, rv, wv *schemas.JSONNode, added, removed int) (both bool) {
	p := jsonPart{at: keyword, from: keyword, name: keyword, r: show(rv), w: show(wv)}
	switch {
	case rv == nil && wv == nil:
	case wv == nil:
		p.rule, p.from = added, ""
		k.note(o, p)
	case rv == nil:
		p.rule = removed
		k.note(o, p)
	default:
		return true
	}
	return false
}

func (k *jsonWalk) pattern(o *jsonOutcome, r, w *jsonNode) {
	rv, wv := r.word("pattern"), w.word("pattern")
	if k.presence(o, "pattern", rv, wv, jsonPatternAdded, jsonPatternRemoved) && rv.Text != wv.Text {
		k.note(o, jsonPart{rule: jsonPatternChanged, at: "pattern", from: "pattern", name: "pattern", r: show(rv), w: show(wv)})
	}
}

func (k *jsonWalk) numbers(o *jsonOutcome, r, w *jsonNode) {
	const word = "multipleOf"
	if k.presence(o, word, r.word(word), w.word(word), jsonMultipleAdded, jsonMultipleRemoved) {
		rn, wn := r.number(word), w.number(word)
		if rn != nil && wn != nil && rn.Sign() > 0 && wn.Sign() > 0 && rn.Cmp(wn) != 0 {
			p := jsonPart{rule: jsonMultipleChanged, at: word, from: word, name: word, r: show(r.word(word)), w: show(w.word(word))}
			if new(big.Rat).Quo(rn, wn).IsInt() {
				p.rule = jsonMultipleExpanded
			} else if new(big.Rat).Quo(wn, rn).IsInt() {
				p.rule = jsonMultipleReduced
			}
			k.note(o, p)
		}
	}
	switch {
	case r.integer && !w.integer:
		k.note(o, jsonPart{rule: jsonTypeNarrowed, r: describeKind(r), w: describeKind(w)})
	case !r.integer && w.integer:
		k.note(o, jsonPart{rule: jsonTypeExtended, r: describeKind(r), w: describeKind(w)})
	}
}

func (k *jsonWalk) enums(o *jsonOutcome, r, w *jsonNode) {
	rv, wv := r.word("enum").Items, w.word("enum").Items
	if !k.spend(len(rv) + len(wv)) {
		return
	}
	more, less := r.without(rv, w, wv), w.without(wv, r, rv)
	p := jsonPart{at: "enum", from: "enum", r: showAll(more), w: showAll(less)}
	switch {
	case more == nil && less == nil:
		return
	case less == nil:
		p.rule = jsonEnumExtended
	case more == nil:
		p.rule = jsonEnumNarrowed
	default:
		p.rule = jsonEnumChanged
	}
	k.note(o, p)
}

// without returns the values of n's that are not among those of another node.
func (n *jsonNode) without(values []*schemas.JSONNode, other *jsonNode, others []*schemas.JSONNode) []*schemas.JSONNode {
	known := make(map[[sha256.Size]byte]bool, len(others))
	for _, v := range others {
		known[other.key(v)] = true
	}
	var rest []*schemas.JSONNode
	for _, v := range values {
		if !known[n.key(v)] {
			rest = append(rest, v)
		}
	}
	return rest
}

// negations compares what two nodes forbid, with the sides swapped: what the
// reader forbids, the writer must have forbidden.
func (k *jsonWalk) negations(o *jsonOutcome, r, w *jsonNode) {
	swapped := k.pair(w.inner, r.inner)
	switch {
	case swapped.broken:
		k.note(o, jsonPart{rule: jsonNotExtended, at: "not", from: "not"})
	case r.inner.print != w.inner.print:
		k.note(o, jsonPart{rule: jsonNotNarrowed, at: "not", from: "not"})
	}
}

// combined compares two combinations.
func (k *jsonWalk) combined(o *jsonOutcome, r, w *jsonNode) {
	facts := jsonPart{r: describeKind(r), w: describeKind(w)}
	if r.criterion != w.criterion {
		one, first := len(r.members) == 1, len(w.members) == 1
		facts.rule = jsonCombinedExtended
		if r.criterion != "anyOf" && !(one && first) && !(first && r.criterion == "oneOf") && !(w.criterion == "allOf" && one) {
			facts.rule = jsonCombinedChanged
		}
		k.note(o, facts)
		if facts.rule == jsonCombinedChanged {
			return
		}
	}
	most := len(r.different)
	switch {
	case len(r.different) > len(w.different):
		most = len(w.different)
		facts.rule = jsonSumExtended
		if r.criterion == "allOf" {
			facts.rule = jsonProductExtended
		}
		k.note(o, facts)
	case len(r.different) < len(w.different):
		facts.rule = jsonProductNarrowed
		if w.criterion != "allOf" {
			facts.rule = jsonSumNarrowed
		}
		k.note(o, facts)
	}
	matched := k.match(r.different, w.different)
	found, lone := 0, -1
	for i, j := range matched {
		if j < 0 {
			if lone < 0 {
				lone = i
			}
			continue
		}
		found++
		at := fmt.Sprintf("%s/%d", w.criterion, i)
		k.within(o, k.pair(r.different[j], w.different[i]), at, at)
	}
	if found < most {
		facts.rule, facts.name = jsonMembersChanged, fmt.Sprintf("%s/%d", w.criterion, lone)
		facts.because = k.nearest(r.different, w.different[lone], matched, lone)
		k.note(o, facts)
	}
}

// match pairs as many members of the writer with members of the reader that
// can take their values as can be, and returns the reader's by the writer's, -1
// for none. It begins with members of equal text, which mostly settles most of
// them, and improves on that by augmenting paths until none is left.
func (k *jsonWalk) match(r, w []*jsonNode) []int {
	of, by := make([]int, len(w)), make([]int, len(r))
	for i := range of {
		of[i] = -1
	}
	equal := map[[sha256.Size]byte]int{}
	for j := range by {
		by[j] = -1
		equal[r[j].print] = j
	}
	for i, m := range w {
		if j, ok := equal[m.print]; ok && !k.pair(r[j], m).broken {
			of[i], by[j] = j, i
		}
	}
	for i := range w {
		if of[i] >= 0 {
			continue
		}
		from := map[int]int{} // the writer's member from which one of the reader's was reached
		end := -1
		for queue := []int{i}; len(queue) > 0 && end < 0; queue = queue[1:] {
			at := queue[0]
			for n := range r {
				j := (at + n) % len(r) // members mostly keep their places
				if _, seen := from[j]; seen {
					continue
				}
				if !k.spend(1) {
					return of
				}
				if k.pair(r[j], w[at]).broken {
					continue
				}
				from[j] = at
				if by[j] < 0 {
					end = j
					break
				}
				queue = append(queue, by[j])
			}
		}
		for end >= 0 {
			at := from[end]
			end, of[at], by[end] = of[at], end, at
		}
	}
	return of
}

// nearest is the outcome of a member of the writer that found no partner, with
// the one that most likely should be it: at its place, or of its kind.
func (k *jsonWalk) nearest(r []*jsonNode, lone *jsonNode, matched []int, place int) *jsonOutcome {
	taken := make([]bool, len(r))
	for _, j := range matched {
		if j >= 0 {
			taken[j] = true
		}
	}
	best := -1
	for j := range r {
		if taken[j] {
			continue
		}
		if best < 0 || r[j].resolve().kind == lone.resolve().kind && (r[best].resolve().kind != lone.resolve().kind || j == place) {
			best = j
		}
	}
	if best < 0 {
		return nil
	}
	return k.pair(r[best], lone)
}
