package consumers

import (
	"maps"
	"slices"
)

// A hole is where batches of a partition were given back and have not been written
// since. None behind it may be written before it is filled: it may have been fetched
// under an assignment of the partition that has ended, and a sink that meanwhile holds
// the partition under a new one cannot tell the hole from offsets at which nothing
// lies. So what follows is given back as well, until what lies lowest comes again.
//
// That may never be. Of an ended assignment the source takes nothing back, and the
// next one may begin above the hole. But of one assignment the source delivers again
// what lies lowest first: where a batch that was given back for the hole's sake comes
// again, nothing below it will. What was on its way before the hole was there says no
// such thing, even if it was delivered again for an earlier one.
type hole struct {
	open bool
	// back are the offsets that the source has taken back since the hole is there and
	// that have not been written; true where they were given back for its sake.
	back map[int64]bool
}

// bars reports whether a batch that begins at first has to be given back.
func (h *hole) bars(first int64) bool {
	if !h.open {
		return false
	}
	if h.back[first] {
		h.below(first)
		return false
	}
	return len(h.back) == 0 || first > slices.Min(slices.Collect(maps.Keys(h.back)))
}

// begin makes a hole, in place of one that may be there.
func (h *hole) begin() {
	h.open, h.back = true, map[int64]bool{}
}

// returned notes that the source has taken an offset back, for the sake of a hole
// before it or as the one that is the hole.
func (h *hole) returned(offset int64, behind bool) {
	h.back[offset] = h.back[offset] || behind
}

// gone notes that the assignment has ended under which offsets were taken back.
func (h *hole) gone() { clear(h.back) }

// written notes that nothing below next is missing.
func (h *hole) written(next int64) {
	h.below(next)
	h.open = h.open && len(h.back) > 0
}

func (h *hole) below(next int64) {
	maps.DeleteFunc(h.back, func(offset int64, _ bool) bool { return offset < next })
}
