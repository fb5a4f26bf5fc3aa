package diffing

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"penstock/schemas"
)

// Op is what happened at one place of a value.
type Op string

// The operations, as RFC 6902 names them.
const (
	Add     Op = "add"
	Remove  Op = "remove"
	Replace Op = "replace"
	Test    Op = "test" // of patches alone
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
	pointer []byte   // of where the walk is
	names   []string // of members that are to be looked at, of all levels
	changes []Change

	// Where dst is not nil, changes are written to it instead, as a patch.
	dst        []byte
	start      int
	invertible bool
	old, now   []byte
	err        error // the first one
}

func (d *differ) note(op Op, old, new any) {
	if d.dst != nil {
		d.write(op, old, new)
		return
	}
	d.changes = append(d.changes, Change{Op: op, Pointer: string(d.pointer), Old: old, New: new})
}

func (d *differ) write(op Op, old, new any) {
	var err error
	if op != Add && d.invertible {
		d.old, err = schemas.AppendJSON(d.old[:0], old)
		d.err = cmp.Or(d.err, err)
	}
	if op != Remove {
		d.now, err = schemas.AppendJSON(d.now[:0], new)
		d.err = cmp.Or(d.err, err)
	}
	if len(d.dst) > d.start {
		d.dst = append(d.dst, ',')
	}
	d.dst = appendOperation(d.dst, op, d.pointer, d.old, d.now, d.invertible)
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
	from, up := len(d.names), len(d.pointer)
	missing := len(after)
	for name, b := range before {
		a, is := after[name]
		if is {
			missing--
		}
		if !is || !scalar(b) || !equalScalars(b, a) {
			d.names = append(d.names, name)
		}
	}
	if missing > 0 {
		for name := range after {
			if _, was := before[name]; !was {
				d.names = append(d.names, name)
			}
		}
	}
	slices.Sort(d.names[from:])
	for i := from; i < len(d.names); i++ { // a walk further down may move them
		name := d.names[i]
		b, was := before[name]
		a, is := after[name]
		d.pointer = appendToken(d.pointer, name)
		switch {
		case !was:
			d.note(Add, nil, a)
		case !is:
			d.note(Remove, b, nil)
		case scalar(b):
			d.note(Replace, b, a)
		default:
			d.walk(b, a)
		}
		d.pointer = d.pointer[:up]
	}
	d.names = d.names[:from]
}

// arrays removes from the end, so that the indexes before it stay right.
func (d *differ) arrays(before, after []any) {
	common, up := min(len(before), len(after)), len(d.pointer)
	at := func(i int) {
		d.pointer = strconv.AppendInt(append(d.pointer[:up], '/'), int64(i), 10)
	}
	for i := range common {
		at(i)
		d.walk(before[i], after[i])
	}
	for i := len(before) - 1; i >= common; i-- {
		at(i)
		d.note(Remove, before[i], nil)
	}
	for i := common; i < len(after); i++ {
		at(i)
		d.note(Add, nil, after[i])
	}
	d.pointer = d.pointer[:up]
}

func scalar(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return false
	}
	return true
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
	case int32:
		if b, ok := b.(int32); ok {
			return a == b
		}
	case time.Time:
		if b, ok := b.(time.Time); ok && a.Equal(b) {
			return true
		}
	case json.Number:
		if b, ok := b.(json.Number); ok && a == b {
			return true
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
