package diffing

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"strings"

	"penstock/schemas"
)

// Op is what happened at one place of a value.
type Op string

// The operations, as RFC 6902 names them.
const (
	Add     Op = "add"
	Remove  Op = "remove"
	Replace Op = "replace"
)

// Change is one place at which two values differ.
type Change struct {
	Op Op
	// Pointer is the JSON Pointer (RFC 6901) of the place; empty is the whole
	// value.
	Pointer string
	// Old is nil for Add, New is nil for Remove. A nil that stands beside
	// another Op is null, which is a value: null and absent are different.
	Old, New any
}

// Diff returns the changes that turn before into after, in an order in which
// they can be applied one after the other; none if the two are equal. Objects
// are compared member by member, in the order of their names, arrays item by
// item at the same index.
//
// Both are made of the types that schemas.Schema lists, and they are equal when
// they say the same, whatever those types are: 1 and 1.0 are equal, as are an
// instant and its RFC 3339 text in UTC; NaN equals NaN; integers beyond 2^53 and
// decimals are compared exactly. A value of any other type equals nothing.
func Diff(before, after any) []Change {
	var d differ
	d.walk(before, after)
	return d.changes
}

type differ struct {
	pointer []byte // of where the walk is
	changes []Change
}

func (d *differ) note(op Op, old, new any) {
	d.changes = append(d.changes, Change{Op: op, Pointer: string(d.pointer), Old: old, New: new})
}

// at runs f one token further down.
func (d *differ) at(token string, f func()) {
	n := len(d.pointer)
	d.pointer = appendToken(d.pointer, token)
	f()
	d.pointer = d.pointer[:n]
}

func (d *differ) walk(before, after any) {
	switch b := before.(type) {
	case map[string]any:
		if a, ok := after.(map[string]any); ok {
			d.objects(b, a)
			return
		}
	case []any:
		if a, ok := after.([]any); ok {
			d.arrays(b, a)
			return
		}
	default:
		if equalScalars(before, after) {
			return
		}
	}
	d.note(Replace, before, after)
}

func (d *differ) objects(before, after map[string]any) {
	names := make([]string, 0, len(before))
	names = slices.AppendSeq(names, maps.Keys(before))
	for name := range after {
		if _, ok := before[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		b, was := before[name]
		a, is := after[name]
		d.at(name, func() {
			switch {
			case !was:
				d.note(Add, nil, a)
			case !is:
				d.note(Remove, b, nil)
			default:
				d.walk(b, a)
			}
		})
	}
}

// arrays removes from the end, so that the indexes before it stay right.
func (d *differ) arrays(before, after []any) {
	common := min(len(before), len(after))
	for i := range common {
		d.at(strconv.Itoa(i), func() { d.walk(before[i], after[i]) })
	}
	for i := len(before) - 1; i >= common; i-- {
		d.at(strconv.Itoa(i), func() { d.note(Remove, before[i], nil) })
	}
	for i := common; i < len(after); i++ {
		d.at(strconv.Itoa(i), func() { d.note(Add, nil, after[i]) })
	}
}

// equalScalars compares values of which the first is neither an object nor an
// array.
func equalScalars(a, b any) bool {
	switch a := a.(type) {
	case nil:
		return b == nil
	case bool:
		b, ok := b.(bool)
		return ok && a == b
	case string:
		if b, ok := b.(string); ok {
			return a == b
		}
	case int64:
		if b, ok := b.(int64); ok {
			return a == b
		}
	case float64:
		if b, ok := b.(float64); ok && a == b {
			return true
		}
	}
	var bufA, bufB [64]byte
	textA, errA := schemas.AppendJSON(bufA[:0], a)
	textB, errB := schemas.AppendJSON(bufB[:0], b)
	return errA == nil && errB == nil && bytes.Equal(textA, textB)
}

// appendToken appends one step of a JSON Pointer.
func appendToken(dst []byte, token string) []byte {
	dst = append(dst, '/')
	return append(dst, schemas.EscapePointer(token)...)
}

// matters says whether any change lies outside of the ignored places.
func matters(changes []Change, ignored []string) bool {
	return slices.ContainsFunc(changes, func(c Change) bool {
		return !slices.ContainsFunc(ignored, func(p string) bool {
			rest, ok := strings.CutPrefix(c.Pointer, p)
			return ok && (rest == "" || rest[0] == '/')
		})
	})
}
