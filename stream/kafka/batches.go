package kafka

import (
	"cmp"
	"slices"
)

// openBatches are the batches of one partition that were delivered and are not
// settled yet. Each is known by the offset of its first record, which no other
// has, and which is its lowest that is not settled: a batch is settled at once,
// and what of it is to come again is another batch.
//
// What counts is what was delivered: offsets that hold no record (compaction,
// transaction markers) are nobody's.
type openBatches struct {
	firsts []position // ascending
	// next is where the partition stands once nothing is open: behind the last
	// record that was delivered.
	next position
}

// position is an offset, and the epoch of a leader that had the record there, or
// the one before. No position has offset -1.
type position struct {
	offset int64
	epoch  int32
}

// deliver opens a batch of new records, which lie behind all delivered before.
func (o *openBatches) deliver(first, last position) {
	o.firsts = append(o.firsts, first)
	o.next = position{last.offset + 1, last.epoch}
}

// open opens a batch of records that were delivered before.
func (o *openBatches) open(first position) {
	i, _ := o.find(first.offset)
	o.firsts = slices.Insert(o.firsts, i, first)
}

// close closes the batch that begins at offset.
func (o *openBatches) close(offset int64) {
	if i, ok := o.find(offset); ok {
		o.firsts = slices.Delete(o.firsts, i, i+1)
	}
}

func (o *openBatches) find(offset int64) (int, bool) {
	return slices.BinarySearchFunc(o.firsts, offset, func(p position, offset int64) int { return cmp.Compare(p.offset, offset) })
}

// low is how far a commit may go: the lowest record that is not settled.
func (o *openBatches) low() position {
	if len(o.firsts) > 0 {
		return o.firsts[0]
	}
	return o.next
}
