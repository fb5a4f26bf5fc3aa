package diffing

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"penstock/schemas"
)

// appendOperation appends one operation; old and now are JSON.
func appendOperation(dst []byte, op Op, pointer, old, now []byte, invertible bool) []byte {
	if invertible && op != Add {
		dst = appendOperation(dst, Test, pointer, nil, old, false)
		dst = append(dst, ',')
	}
	dst = append(dst, `{"op":"`...)
	dst = append(dst, op...)
	dst = append(dst, `","path":`...)
	dst = schemas.AppendJSONString(dst, string(pointer))
	if op != Remove {
		dst = append(dst, `,"value":`...)
		dst = append(dst, now...)
	}
	return append(dst, '}')
}

// operation is an operation of a patch that was read.
type operation struct {
	op    Op
	path  string
	value any
}

// readPatch reads a JSON Patch. Its error is one sentence.
func readPatch(patch []byte) ([]operation, error) {
	v, err := schemas.ParseJSON(patch)
	if err != nil {
		return nil, err
	}
	return operationsOf(v)
}

// operationsOf reads a JSON Patch that was parsed.
func operationsOf(v any) ([]operation, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, misfit(nil, "an array of operations", schemas.Describe(v), "")
	}
	var out []operation
	for i, item := range list {
		at := []string{strconv.Itoa(i)}
		object, ok := item.(map[string]any)
		if !ok {
			return nil, misfit(at, "an operation", schemas.Describe(item), "")
		}
		name, _ := object["op"].(string)
		path, isString := object["path"].(string)
		value, has := object["value"]
		o := operation{Op(name), path, value}
		switch o.op {
		case Add, Replace, Test:
			if !has {
				return nil, misfit(append(at, "value"), "a value", "nothing", "")
			}
		case Remove:
		default:
			return nil, misfit(append(at, "op"), "add, remove, replace or test", schemas.Describe(object["op"]), "only patches that this program writes are applied")
		}
		if !isString || path != "" && path[0] != '/' {
			return nil, misfit(append(at, "path"), "a JSON Pointer", schemas.Describe(object["path"]), "")
		}
		out = append(out, o)
	}
	return out, nil
}

// absent is the value of what is not there.
type absent struct{}

// Apply applies a JSON Patch (RFC 6902) of adds, removes, replaces and tests to a
// value and returns the new one. nothing says that there is no value: before, so
// that the patch adds it whole, or, returned, after. The value given is not used
// any more: parts of it may be part of the new one.
func Apply(v any, nothing bool, patch []byte) (after any, gone bool, err error) {
	operations, err := readPatch(patch)
	if err != nil {
		return nil, false, fmt.Errorf("read patch: %w", err)
	}
	return applyAll(operations, v, nothing)
}

func applyAll(operations []operation, v any, nothing bool) (after any, gone bool, err error) {
	if nothing {
		v = absent{}
	}
	for i, o := range operations {
		var steps []string
		if o.path != "" {
			steps = strings.Split(o.path[1:], "/")
		}
		if v, err = o.apply(v, steps); err != nil {
			return nil, false, fmt.Errorf("apply operation %d of the patch, %s %q: %w", i, o.op, o.path, err)
		}
	}
	if _, gone = v.(absent); gone {
		return nil, true, nil
	}
	return v, false, nil
}

// apply does what the operation says at the place that steps lead to from v.
func (o operation) apply(v any, steps []string) (any, error) {
	_, none := v.(absent)
	if len(steps) == 0 {
		switch {
		case o.op == Add:
			return o.value, nil
		case none:
			return nil, fmt.Errorf("expected a value, found nothing")
		case o.op == Remove:
			return absent{}, nil
		case o.op == Test:
			if len(Diff(o.value, v)) > 0 {
				return nil, fmt.Errorf("expected %s, found %s; the patch is of another value", schemas.Describe(o.value), schemas.Describe(v))
			}
			return v, nil
		}
		return o.value, nil
	}
	step := schemas.UnescapePointer(steps[0])
	switch parent := v.(type) {
	case map[string]any:
		child, there := parent[step]
		if !there {
			child = absent{}
		}
		now, err := o.apply(child, steps[1:])
		if err != nil {
			return nil, err
		}
		if _, gone := now.(absent); gone {
			delete(parent, step)
		} else {
			parent[step] = now
		}
		return parent, nil
	case []any:
		i, err := strconv.Atoi(step)
		last := len(steps) == 1
		switch {
		case step == "-" && last && o.op == Add:
			return append(parent, o.value), nil
		case err != nil || i < 0 || i > len(parent) || i == len(parent) && (!last || o.op != Add):
			return nil, fmt.Errorf("expected an index below %d, found %q", len(parent), step)
		case last && o.op == Add:
			return slices.Insert(parent, i, o.value), nil
		}
		now, err := o.apply(parent[i], steps[1:])
		if err != nil {
			return nil, err
		}
		if _, gone := now.(absent); gone {
			return slices.Delete(parent, i, i+1), nil
		}
		parent[i] = now
		return parent, nil
	}
	return nil, fmt.Errorf("expected an object or an array at the step %q, found %s", step, describe(v))
}

func describe(v any) string {
	if _, none := v.(absent); none {
		return "nothing"
	}
	return schemas.Describe(v)
}

// Invert appends to dst the patch that undoes an invertible one.
func Invert(dst, patch []byte) ([]byte, error) {
	operations, err := readPatch(patch)
	if err != nil {
		return dst, fmt.Errorf("read patch: %w", err)
	}
	dst = append(dst, '[')
	start := len(dst)
	for i, o := range slices.Backward(operations) {
		var old any
		if o.op != Add && o.op != Test {
			if i == 0 || operations[i-1].op != Test || operations[i-1].path != o.path {
				return dst, fmt.Errorf("invert patch: expected a test of the old value before operation %d, %s %q; only an invertible patch can be turned round", i, o.op, o.path)
			}
			old = operations[i-1].value
		}
		back := map[Op]Op{Add: Remove, Remove: Add, Replace: Replace}[o.op]
		if back == "" {
			continue
		}
		if len(dst) > start {
			dst = append(dst, ',')
		}
		was, err := schemas.AppendJSON(nil, o.value)
		if err != nil {
			return dst, err
		}
		now, err := schemas.AppendJSON(nil, old)
		if err != nil {
			return dst, err
		}
		dst = appendOperation(dst, back, []byte(o.path), was, now, true)
	}
	return append(dst, ']'), nil
}

// ApplyMerge applies a JSON Merge Patch (RFC 7396, section 2) to a value, parts
// of which may be part of the new one.
func ApplyMerge(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	out, ok := target.(map[string]any)
	if !ok {
		out = map[string]any{}
	}
	for name, v := range p {
		if v == nil {
			delete(out, name)
		} else {
			out[name] = ApplyMerge(out[name], v)
		}
	}
	return out
}

// AppendMergePatch appends to dst the JSON Merge Patch (RFC 7396) that turns
// before into after. That format says null where a member is removed, so it
// cannot set a member to null: applied to the value before, the patch gives the
// value after without the members that are null, save those inside arrays,
// which it replaces whole.
func AppendMergePatch(dst []byte, before, after any) ([]byte, error) {
	return schemas.AppendJSON(dst, mergePatch(before, after))
}

func mergePatch(before, after any) any {
	a, ok := after.(map[string]any)
	if !ok {
		return after
	}
	b, _ := before.(map[string]any) // what is no object counts as an empty one
	patch := map[string]any{}
	for name, old := range b {
		if v, is := a[name]; !is || v == nil && old != nil {
			patch[name] = nil
		}
	}
	for name, v := range a {
		if old, was := b[name]; v != nil && (!was || len(Diff(old, v)) > 0) {
			patch[name] = mergePatch(old, v)
		}
	}
	return patch
}
