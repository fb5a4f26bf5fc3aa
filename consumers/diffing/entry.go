package diffing

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/big"
	"time"

	"penstock/schemas"
)

// entry is the state of a key, as it lies in the store and in the log.
type entry struct {
	value   []byte     // canonical JSON
	schema  schemas.ID // it was written with; 0 if that is not known
	version []byte     // the newest that was seen, as JSON; nil for none
	seen    int64      // when a record of the key came last, in milliseconds; kept for a TTL
}

// append appends the form in which an entry is stored.
func (e *entry) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(uint32(e.schema)))
	dst = binary.AppendVarint(dst, e.seen)
	dst = binary.AppendUvarint(dst, uint64(len(e.version)))
	dst = append(dst, e.version...)
	return append(dst, e.value...)
}

// parseEntry reads what append wrote. It refers to src.
func parseEntry(src []byte) (*entry, error) {
	schema, n := binary.Uvarint(src)
	seen, m := binary.Varint(src[max(n, 0):])
	if n <= 0 || m <= 0 {
		return nil, errEntry
	}
	rest := src[n+m:]
	size, n := binary.Uvarint(rest)
	if n <= 0 || size >= uint64(len(rest)-n) {
		return nil, errEntry
	}
	e := &entry{schema: schemas.ID(uint32(schema)), seen: seen, value: rest[n+int(size):]}
	if size > 0 {
		e.version = rest[n : n+int(size)]
	}
	return e, nil
}

var errEntry = fmt.Errorf("%w (what is stored for a key is no entry)", ErrCorrupt)

// find returns the value at a JSON Pointer, given as its steps; nil if there is
// none. Steps lead through objects alone.
func (t *text) find(steps []string) *node {
	at := int32(0)
	for _, step := range steps {
		if at = t.member(at, step); at < 0 {
			return nil
		}
	}
	return &t.nodes[at]
}

// compareVersions compares two versions, which are JSON numbers or strings: times
// by their instant, other strings byte by byte. A version of another kind than
// the one before is newer.
func compareVersions(a, b []byte) int {
	if a[0] == '"' && b[0] == '"' {
		x, y := (&node{raw: a}).text(), (&node{raw: b}).text()
		s, errS := time.Parse(time.RFC3339Nano, string(x))
		t, errT := time.Parse(time.RFC3339Nano, string(y))
		if errS == nil && errT == nil {
			return s.Compare(t)
		}
		return bytes.Compare(x, y)
	}
	if a[0] == '"' || b[0] == '"' {
		return 1
	}
	var x, y *big.Rat
	var okX, okY bool
	if x, okX = rational(a); okX {
		y, okY = rational(b)
	}
	if !okX || !okY {
		return 1
	}
	return x.Cmp(y)
}
