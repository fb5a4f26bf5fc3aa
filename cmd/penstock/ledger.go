package main

import (
	"fmt"
	"strings"
)

// ledger is a table of counts, each read back from where the data lies, and
// the sums that must hold between them.
type ledger struct {
	entries []entry
	sums    []sum
}

// entry is one count.
type entry struct {
	What  string `json:"what"`
	Where string `json:"where"`
	Count int64  `json:"count"`
}

// sum says that the entry left is the sum of the entries right.
type sum struct {
	left  int
	right []int
}

// add notes a count and returns its place, for balance.
func (l *ledger) add(what, where string, n int64) int {
	l.entries = append(l.entries, entry{what, where, n})
	return len(l.entries) - 1
}

// balance notes that left must be the sum of right.
func (l *ledger) balance(left int, right ...int) {
	l.sums = append(l.sums, sum{left, right})
}

// failures are the sums that do not hold.
func (l *ledger) failures() []string {
	out := []string{}
	for _, s := range l.sums {
		var total int64
		for _, i := range s.right {
			total += l.entries[i].Count
		}
		if total != l.entries[s.left].Count {
			out = append(out, l.sentence(s))
		}
	}
	return out
}

// sentence spells a sum out.
func (l *ledger) sentence(s sum) string {
	var names, counts []string
	for _, i := range s.right {
		names = append(names, l.entries[i].What)
		counts = append(counts, count(l.entries[i].Count))
	}
	return fmt.Sprintf("%s = %s: %s = %s", l.entries[s.left].What, strings.Join(names, " + "),
		count(l.entries[s.left].Count), strings.Join(counts, " + "))
}

// print prints the table and says of each sum whether it holds.
func (l *ledger) print(t *terminal) {
	what, where := 0, 0
	for _, e := range l.entries {
		what, where = max(what, len(e.What)), max(where, len(e.Where))
	}
	for _, e := range l.entries {
		t.printf("  %-*s  %8s  %s\n", what, e.What, count(e.Count), e.Where)
	}
	failed := map[string]bool{}
	for _, f := range l.failures() {
		failed[f] = true
	}
	t.printf("\n")
	for _, s := range l.sums {
		mark := "holds"
		if line := l.sentence(s); failed[line] {
			mark = "DOES NOT HOLD"
		}
		t.printf("  %-13s  %s\n", mark, l.sentence(s))
	}
}
