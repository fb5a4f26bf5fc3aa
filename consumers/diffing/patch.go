package diffing

import "penstock/schemas"

// AppendJSONPatch appends the changes to dst as a JSON Patch (RFC 6902).
// Applied to the value before, it gives the value after.
func AppendJSONPatch(dst []byte, changes []Change) ([]byte, error) {
	dst = append(dst, '[')
	for i, c := range changes {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"op":"`...)
		dst = append(dst, c.Op...)
		dst = append(dst, `","path":`...)
		dst = schemas.AppendJSONString(dst, c.Pointer)
		if c.Op != Remove {
			dst = append(dst, `,"value":`...)
			var err error
			if dst, err = schemas.AppendJSON(dst, c.New); err != nil {
				return dst, err
			}
		}
		dst = append(dst, '}')
	}
	return append(dst, ']'), nil
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
