package compat

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/schemas"
)

// What the rules say about properties and items that only one of the schemas
// has depends on the content model of the other: whether it is open, covers
// them by a schema for all the rest, or is closed.

func (k *jsonWalk) objects(o *jsonOutcome, r, w *jsonNode) {
	ro, wo := r.object, w.object
	if !k.spend(len(ro.names) + len(wo.names) + len(ro.lists) + len(wo.lists) + len(ro.dependencies) + len(wo.dependencies)) {
		return
	}
	k.required(o, ro, wo)
	for _, name := range wo.names {
		at := "properties/" + name
		if node := ro.nodes[name]; node != nil {
			k.within(o, k.pair(node, wo.nodes[name]), at, at)
		} else {
			k.propertyGone(o, name, ro, wo)
		}
	}
	for _, name := range ro.names {
		if wo.nodes[name] == nil {
			k.propertyNew(o, name, ro, wo)
		}
	}
	k.lists(o, ro, wo)
	k.dependencies(o, ro, wo)
	k.additional(o, ro.additional, wo.additional, "additionalProperties", &jsonAdditionalProperties)
	k.unevaluated(o, ro.unevaluated, wo.unevaluated, "unevaluatedProperties", &jsonUnevaluatedProperties)
}

// required compares which of the properties of both are required.
func (k *jsonWalk) required(o *jsonOutcome, ro, wo *jsonProperties) {
	for _, name := range ro.names {
		if wo.nodes[name] == nil || ro.required[name] == wo.required[name] {
			continue
		}
		p := jsonPart{rule: jsonRequiredRemoved, at: "required/" + name, from: "required/" + name, name: name}
		if ro.required[name] {
			p.rule, p.from = jsonRequiredAdded, "properties/"+name
			if ro.nodes[name].word("default") != nil {
				p.rule = jsonRequiredWithDefaultAdded
			}
		}
		k.note(o, p)
	}
}

// covering returns the schema that a content model has for a property that it
// does not name, and where it stands, or nil. Where a pattern cannot be decided
// in time, or all together take too long, the comparison is given up.
func (k *jsonWalk) covering(o *jsonProperties, name string) (*jsonNode, string) {
	for _, p := range o.patterns {
		if !k.spend(1 + len(name)/64) {
			return nil, ""
		}
		start := time.Now()
		found, err := p.match(name)
		if k.matching += time.Since(start); err != nil || k.matching > jsonMatching {
			k.left = -1
			return nil, ""
		}
		if found {
			return p.node, "patternProperties/" + p.name
		}
	}
	return beyond(o.additional, o.unevaluated)
}

// propertyGone compares a property that the writer's schema alone has.
func (k *jsonWalk) propertyGone(o *jsonOutcome, name string, ro, wo *jsonProperties) {
	p := jsonPart{at: "properties/" + name, from: "properties/" + name, name: name}
	node := wo.nodes[name]
	cover, _ := k.covering(ro, name)
	switch {
	case ro.open():
		p.rule = jsonPropertyGoneOpen
	case cover != nil:
		inner := k.pair(cover, node)
		k.within(o, inner, p.at, p.from)
		p.rule = jsonPropertyGoneCovered
		if inner.broken {
			p.rule = jsonPropertyGoneNotCovered
		}
	case node.kind == jsonFalse:
		p.rule = jsonFalsePropertyGone
	default:
		p.rule = jsonPropertyGoneClosed
	}
	k.note(o, p)
}

// propertyNew compares a property that the reader's schema alone has.
func (k *jsonWalk) propertyNew(o *jsonOutcome, name string, ro, wo *jsonProperties) {
	p := jsonPart{at: "properties/" + name, name: name}
	node := ro.nodes[name]
	rules := jsonNewPropertyUnopen
	if wo.open() {
		rules = jsonNewPropertyOpen
	} else if cover, from := k.covering(wo, name); cover != nil {
		inner := k.pair(node, cover)
		k.within(o, inner, p.at, from)
		covered := p
		covered.rule, covered.from = jsonPropertyNewCovered, from
		if inner.broken {
			covered.rule = jsonPropertyNewNotCovered
		}
		k.note(o, covered)
	}
	switch {
	case rules.empty != jsonNoRule && (node.kind == jsonEmpty || node.kind == jsonTrue):
		p.rule = rules.empty
	case !ro.required[name]:
		p.rule = rules.optional
	case node.word("default") != nil:
		p.rule = rules.withDefault
	default:
		p.rule = rules.required
	}
	k.note(o, p)
}

// lists compares the dependencies on names.
func (k *jsonWalk) lists(o *jsonOutcome, ro, wo *jsonProperties) {
	was := map[string]map[string]bool{}
	for _, l := range wo.lists {
		was[l.key] = l.names
	}
	is := map[string]bool{}
	for _, l := range ro.lists {
		is[l.key] = true
		p := jsonPart{at: "dependencies/" + l.key, from: "dependencies/" + l.key, name: l.key, r: names(l.names)}
		old, ok := was[l.key]
		if !ok {
			p.rule, p.from = jsonListAdded, ""
			k.note(o, p)
			continue
		}
		p.w = names(old)
		switch more, less := containsAll(l.names, old), containsAll(old, l.names); {
		case more && less:
			continue
		case more:
			p.rule = jsonListExtended
		case less:
			p.rule = jsonListNarrowed
		default:
			p.rule = jsonListChanged
		}
		k.note(o, p)
	}
	for _, l := range wo.lists {
		if !is[l.key] {
			k.note(o, jsonPart{rule: jsonListRemoved, at: "dependencies/" + l.key, from: "dependencies/" + l.key, name: l.key, w: names(l.names)})
		}
	}
}

func containsAll(a, b map[string]bool) bool {
	for name := range b {
		if !a[name] {
			return false
		}
	}
	return true
}

// dependencies compares the dependencies on schemas.
func (k *jsonWalk) dependencies(o *jsonOutcome, ro, wo *jsonProperties) {
	was := map[string]*jsonNode{}
	for _, d := range wo.dependencies {
		was[d.key] = d.node
	}
	is := map[string]bool{}
	for _, d := range ro.dependencies {
		is[d.key] = true
		at := "dependencies/" + d.key
		if old := was[d.key]; old != nil {
			k.within(o, k.pair(d.node, old), at, at)
		} else {
			k.note(o, jsonPart{rule: jsonDependencyAdded, at: at, name: d.key})
		}
	}
	for _, d := range wo.dependencies {
		if !is[d.key] {
			k.note(o, jsonPart{rule: jsonDependencyRemoved, at: "dependencies/" + d.key, from: "dependencies/" + d.key, name: d.key})
		}
	}
}

func (k *jsonWalk) arrays(o *jsonOutcome, r, w *jsonNode) {
	ra, wa := r.array, w.array
	if !k.spend(len(ra.positions) + len(wa.positions)) {
		return
	}
	switch {
	case ra.all != nil && wa.all != nil:
		k.within(o, k.pair(ra.all, wa.all), "items", "items")
	case ra.all != nil:
		k.note(o, jsonPart{rule: jsonSchemaAdded, at: "items"})
	case wa.all != nil:
		k.note(o, jsonPart{rule: jsonSchemaRemoved, at: "items", from: "items"})
	}
	for i := range max(len(ra.positions), len(wa.positions)) {
		at := "items/" + strconv.Itoa(i)
		switch {
		case i >= len(ra.positions):
			k.itemGone(o, wa.positions[i], ra, at)
		case i >= len(wa.positions):
			k.itemNew(o, ra.positions[i], wa, at)
		default:
			k.within(o, k.pair(ra.positions[i], wa.positions[i]), at, at)
		}
	}
	k.additional(o, ra.additional, wa.additional, "additionalItems", &jsonAdditionalItems)
	k.unevaluated(o, ra.unevaluated, wa.unevaluated, "unevaluatedItems", &jsonUnevaluatedItems)
	const word = "uniqueItems"
	switch rv, wv := isTrue(r.word(word)), isTrue(w.word(word)); {
	case rv && !wv:
		k.note(o, jsonPart{rule: jsonUniqueAdded, at: word})
	case !rv && wv:
		k.note(o, jsonPart{rule: jsonUniqueRemoved, at: word, from: word})
	}
}

func isTrue(v *schemas.JSONNode) bool {
	return v != nil && v.Kind == schemas.JSONBool && v.Text == "true"
}

// itemGone compares a position that the writer's schema alone has.
func (k *jsonWalk) itemGone(o *jsonOutcome, item *jsonNode, ra *jsonItems, at string) {
	p := jsonPart{at: at, from: at}
	cover, _ := beyond(ra.additional, ra.unevaluated)
	switch {
	case open(ra.additional, ra.unevaluated):
		p.rule = jsonItemGoneOpen
	case cover != nil:
		inner := k.pair(cover, item)
		k.within(o, inner, at, at)
		p.rule = jsonItemGoneCovered
		if inner.broken {
			p.rule = jsonItemGoneNotCovered
		}
	case item.kind == jsonFalse:
		p.rule = jsonFalseItemGone
	default:
		p.rule = jsonItemGoneClosed
	}
	k.note(o, p)
}

// itemNew compares a position that the reader's schema alone has.
func (k *jsonWalk) itemNew(o *jsonOutcome, item *jsonNode, wa *jsonItems, at string) {
	p := jsonPart{at: at}
	cover, from := beyond(wa.additional, wa.unevaluated)
	switch {
	case open(wa.additional, wa.unevaluated) && (item.kind == jsonEmpty || item.kind == jsonTrue):
		p.rule = jsonEmptyItemNewOpen
	case open(wa.additional, wa.unevaluated):
		p.rule = jsonItemNewOpen
	case cover != nil:
		inner := k.pair(item, cover)
		k.within(o, inner, at, from)
		p.rule, p.from = jsonItemNewCovered, from
		if inner.broken {
			p.rule = jsonItemNewNotCovered
		}
	default:
		p.rule = jsonItemNewClosed
	}
	k.note(o, p)
}

// additional compares what is said of all other properties or items.
func (k *jsonWalk) additional(o *jsonOutcome, r, w jsonRest, word string, rules *jsonRestRules) {
	p := jsonPart{at: word, from: w.keyword}
	switch {
	case w.forbidden && r.forbidden:
		return
	case w.forbidden:
		p.rule = rules.added
	case r.forbidden:
		p.rule = rules.removed
	case r.node != nil && w.node != nil:
		k.within(o, k.pair(r.node, w.node), word, w.keyword)
		return
	case r.node != nil:
		p.rule = rules.narrowed
	case w.node != nil:
		p.rule = rules.extended
	default:
		return
	}
	k.note(o, p)
}

// unevaluated compares what is said of the properties or items that nothing
// else speaks of. Saying that they are allowed differs from saying nothing.
func (k *jsonWalk) unevaluated(o *jsonOutcome, r, w jsonRest, word string, rules *jsonRestRules) {
	if r.allowed == w.allowed || r.forbidden || w.forbidden || r.node != nil || w.node != nil {
		k.additional(o, r, w, word, rules)
		return
	}
	rule := rules.narrowed
	if w.allowed {
		rule = rules.extended
	}
	k.note(o, jsonPart{rule: rule, at: word, from: w.keyword})
}

func names(set map[string]bool) string {
	return strings.Join(slices.Sorted(maps.Keys(set)), ", ")
}
