package avro

import (
	"encoding/binary"
	"math"
	"time"
	"unicode/utf8"
)

// appendMap is the quick way of AppendEncode for a map[string]any, by the plan that
// text is read by, without reflection and without looking at the encoding again. If
// it reports false, dst is to be taken as it was, and the library is to say what
// becomes of v: whatever is not of the one Go type that a schema's type most often
// has, and whatever does not fit.
func (c *coder) appendMap(dst []byte, v map[string]any) ([]byte, bool) {
	p := c.texts()
	if p == nil || p.kind != recordText {
		return dst, false
	}
	return p.record(dst, v, maxPlainDepth)
}

func (p *textPlan) record(dst []byte, m map[string]any, levels int) (_ []byte, ok bool) {
	known := 0
	for i := range p.fields {
		f := &p.fields[i]
		v, given := m[f.name]
		if !given {
			if f.def == nil {
				return dst, false
			}
			dst = append(dst, f.def...)
			continue
		}
		known++
		if dst, ok = f.plan.append(dst, v, levels-1); !ok {
			return dst, false
		}
	}
	return dst, known == len(m)
}

// append appends a value of at most so many levels.
func (p *textPlan) append(dst []byte, v any, levels int) (_ []byte, ok bool) {
	if levels == 0 {
		return dst, false
	}
	switch v := v.(type) {
	case nil:
		if p.kind == unionText && p.branches[nullToken].plan != nil {
			return binary.AppendVarint(dst, int64(p.branches[nullToken].number)), true
		}
		return dst, p.kind == nullText
	case string:
		switch p.kind {
		case stringText:
			return append(binary.AppendVarint(dst, int64(len(v))), v...), utf8.ValidString(v)
		case fixedText:
			return append(dst, v...), len(v) == p.size
		case enumText:
			i, known := p.symbols[v]
			return binary.AppendVarint(dst, int64(i)), known
		case unionText:
			b := p.branches[stringToken]
			if b.plan == nil {
				return dst, false
			}
			return b.plan.append(binary.AppendVarint(dst, int64(b.number)), v, levels-1)
		}
		return dst, false
	}
	if p.kind == unionText {
		// Of more types, the library may mean another one.
		null := p.branches[nullToken]
		if p.size != 2 || null.plan == nil || isNil(v) {
			return dst, false
		}
		m, isMap := v.(map[string]any)
		if isMap && len(m) == 1 { // it may name its branch
			return dst, false
		}
		return p.only.append(binary.AppendVarint(dst, int64(1-null.number)), v, levels-1)
	}
	switch v := v.(type) {
	case bool:
		if v {
			return append(dst, 1), p.kind == boolText
		}
		return append(dst, 0), p.kind == boolText
	case int:
		return p.integer(dst, int64(v))
	case int32:
		return p.integer(dst, int64(v))
	case int64:
		return p.integer(dst, v)
	case float32:
		return binary.LittleEndian.AppendUint32(dst, math.Float32bits(v)), p.kind == floatText && finite(float64(v))
	case float64:
		return binary.LittleEndian.AppendUint64(dst, math.Float64bits(v)), p.kind == doubleText && finite(v)
	case time.Time:
		if p.kind != timestampText || v.Unix() < 0 || v.Year() > 2200 {
			return dst, false
		}
		return binary.AppendVarint(dst, v.UnixNano()/int64(p.unit)), true
	case []byte:
		switch p.kind {
		case stringText:
			return append(binary.AppendVarint(dst, int64(len(v))), v...), utf8.Valid(v)
		case fixedText:
			return append(dst, v...), len(v) == p.size
		}
	case []string:
		if p.kind != arrayText || p.items.kind != stringText {
			return dst, false
		}
		return appendItems(dst, p.items, v, levels-1)
	case []any:
		if p.kind != arrayText || len(v) > maxPlainItems {
			return dst, false
		}
		return appendItems(dst, p.items, v, levels-1)
	case map[string]any:
		if p.kind == recordText {
			return p.record(dst, v, levels)
		}
		if p.kind != mapText {
			return dst, false
		}
		dst = binary.AppendVarint(dst, int64(len(v)))
		for key, item := range v {
			dst = append(binary.AppendVarint(dst, int64(len(key))), key...)
			if dst, ok = p.items.append(dst, item, levels-1); !ok || !utf8.ValidString(key) {
				return dst, false
			}
		}
		return end(dst, len(v)), true
	}
	return dst, false
}

func appendItems[T any](dst []byte, each *textPlan, items []T, levels int) (_ []byte, ok bool) {
	dst = binary.AppendVarint(dst, int64(len(items)))
	for _, item := range items {
		if dst, ok = each.append(dst, item, levels); !ok {
			return dst, false
		}
	}
	return end(dst, len(items)), true
}

// end ends the blocks of an array or a map of n items; none is its own end.
func end(dst []byte, n int) []byte {
	if n == 0 {
		return dst
	}
	return append(dst, 0)
}

func (p *textPlan) integer(dst []byte, n int64) ([]byte, bool) {
	switch p.kind {
	case longText, timestampText:
	case intText, dateText:
		if n != int64(int32(n)) {
			return dst, false
		}
	default:
		return dst, false
	}
	return binary.AppendVarint(dst, n), true
}

func finite(f float64) bool { return !math.IsInf(f, 0) && !math.IsNaN(f) }

// isNil reports whether v is a nil that is not the bare one, which may stand for
// null.
func isNil(v any) bool {
	switch v := v.(type) {
	case []byte:
		return v == nil
	case []any:
		return v == nil
	case []string:
		return v == nil
	case map[string]any:
		return v == nil
	}
	return false
}
