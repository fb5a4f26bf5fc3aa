package schemas

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
)

// match is a field and what became of it.
type match struct {
	old, new int
	sure     int    // in percent, where the names differ
	by       string // what it is known by
}

// matches is how the fields of two records go together.
type matches struct {
	pairs          []match
	removed, added []int
	common         map[string]bool // names in both
	reordered      bool            // those with a name in common come in another order
}

// maxAlike is how many pairs of names are compared for their likeness in one
// record; of more, none are.
const maxAlike = 10_000

// leastAlike is how sure it must be, in percent, that a field has a new name.
const leastAlike = 60

// match finds the fields of a in b: by number where there are numbers, by name,
// by alias, and at last by type and a likeness of names.
func (d *differ) match(a, b *Node) *matches {
	m := &matches{common: map[string]bool{}}
	goesTo := make([]int, len(a.Fields)) // index in b, or -1
	comesFrom := make([]int, len(b.Fields))
	for i := range goesTo {
		goesTo[i] = -1
	}
	for i := range comesFrom {
		comesFrom[i] = -1
	}
	take := func(i, j, sure int, by string) {
		goesTo[i], comesFrom[j] = j, i
		m.pairs = append(m.pairs, match{i, j, sure, by})
	}
	if d.language == Protobuf {
		numbers := make(map[int]int, len(b.Fields))
		for j := range b.Fields {
			numbers[b.Fields[j].Number] = j
		}
		for i := range a.Fields {
			if j, there := numbers[a.Fields[i].Number]; there {
				take(i, j, 100, "number")
			}
		}
	}
	names := make(map[string]int, len(b.Fields))
	for j := range b.Fields {
		names[b.Fields[j].Name] = j
	}
	last := -1
	for i := range a.Fields {
		j, there := names[a.Fields[i].Name]
		if !there {
			continue
		}
		m.common[a.Fields[i].Name] = true
		m.reordered = m.reordered || j < last
		last = j
		if goesTo[i] < 0 && comesFrom[j] < 0 {
			take(i, j, 0, "")
		}
	}
	free := func(taken []int) []int {
		var out []int
		for i, to := range taken {
			if to < 0 {
				out = append(out, i)
			}
		}
		return out
	}
	gone, came := free(goesTo), free(comesFrom)
	if len(gone) > 0 && len(came) > 0 && d.language != Protobuf {
		d.renamed(a, b, gone, came, take)
		gone, came = free(goesTo), free(comesFrom)
	}
	m.removed, m.added = gone, came
	// In an order that is the same with a and b in each other's place.
	slices.SortStableFunc(m.pairs, func(p, q match) int {
		x, y := a.Fields[p.old].Name, b.Fields[p.new].Name
		u, v := a.Fields[q.old].Name, b.Fields[q.new].Name
		return cmp.Or(cmp.Compare(min(x, y), min(u, v)), cmp.Compare(max(x, y), max(u, v)))
	})
	return m
}

// renamed pairs fields of other names: those that an alias joins, and those of
// one type that are each other's likest.
func (d *differ) renamed(a, b *Node, gone, came []int, take func(i, j, sure int, by string)) {
	type likeness struct{ old, new, sure int }
	joined := func(f, g *Field) bool {
		return slices.Contains(g.Aliases, f.Name) || slices.Contains(f.Aliases, g.Name)
	}
	if len(gone)*len(came) > maxAlike {
		return
	}
	aliased := map[int]int{} // how often an alias leads to or from a field
	for _, i := range gone {
		for _, j := range came {
			if joined(&a.Fields[i], &b.Fields[j]) {
				aliased[i]++
				aliased[^j]++
			}
		}
	}
	var all []likeness
	for _, i := range gone {
		for _, j := range came {
			f, g := &a.Fields[i], &b.Fields[j]
			switch {
			case aliased[i] == 1 && aliased[^j] == 1 && joined(f, g):
				take(i, j, 100, "alias")
			case aliased[i] > 0 || aliased[^j] > 0:
			default:
				if sure := d.alike(a, b, i, j); sure >= leastAlike {
					all = append(all, likeness{i, j, sure})
				}
			}
		}
	}
	best := func(of likeness) bool {
		for _, l := range all {
			if l != of && (l.old == of.old || l.new == of.new) && l.sure >= of.sure {
				return false
			}
		}
		return true
	}
	for _, l := range all {
		if best(l) {
			take(l.old, l.new, l.sure, "type and name")
		}
	}
}

// alike is how sure it is, in percent, that field i of a is field j of b. Fields
// of other types are not; the most weight has the name.
func (d *differ) alike(a, b *Node, i, j int) int {
	f, g := &a.Fields[i], &b.Fields[j]
	if d.plainWords(f.Node) != d.plainWords(g.Node) {
		return 0
	}
	sure := 75 * likeness(fold(f.Name), fold(g.Name))
	if f.Doc != "" && f.Doc == g.Doc {
		sure += 45
	}
	// The same neighbour.
	if i > 0 && j > 0 && a.Fields[i-1].Name == b.Fields[j-1].Name ||
		i+1 < len(a.Fields) && j+1 < len(b.Fields) && a.Fields[i+1].Name == b.Fields[j+1].Name {
		sure += 20
	}
	return min(int(sure), 95)
}

// fold is a name without its style: totalAmount and total_amount are one.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || r == '.' {
			return -1
		}
		return unicode.ToLower(r)
	}, name)
}

// likeness is how much two texts are alike, from 0 to 1: the share of pairs of
// letters that they have in common, or of the shorter one where the other
// contains it.
func likeness(a, b string) float64 {
	if a == b {
		return 1.2 // but for their style
	}
	if len(a) < 2 || len(b) < 2 {
		return 0
	}
	pairs := map[string]int{}
	for i := range len(a) - 1 {
		pairs[a[i:i+2]]++
	}
	var common int
	for i := range len(b) - 1 {
		if pairs[b[i:i+2]] > 0 {
			pairs[b[i:i+2]]--
			common++
		}
	}
	share := 2 * float64(common) / float64(len(a)+len(b)-2)
	if strings.Contains(a, b) || strings.Contains(b, a) {
		share = max(share, 0.8)
	}
	return share
}
