package schemas

import (
	"encoding/base64"
	"math"
	"time"
)

// Restore gives v, which was read from canonical JSON, the Go types of values of n
// where JSON has text for them: bytes, instants, dates, times of day, and floats that
// are no numbers. What it can make nothing of stays as it is, for AppendEncode to
// name. In a union with texts, text is text. Parts of v become part of what it returns.
// Values of JSON Schema are JSON, and need no restoring.
func Restore(n *Node, v any) any {
	if n == nil || v == nil {
		return v
	}
	switch v := v.(type) {
	case map[string]any:
		n = n.branch(func(b *Node) bool {
			if b.Kind != Record {
				return b.Kind == Map
			}
			for name := range v {
				if b.Field(name) == nil {
					return false
				}
			}
			return true
		})
		for name, item := range v {
			if f := n.Field(name); f != nil {
				v[name] = Restore(f.Node, item)
			} else if n.Kind == Map {
				v[name] = Restore(n.Items, item)
			}
		}
	case []any:
		if n = n.branch(func(b *Node) bool { return b.Kind == Array }); n.Kind == Array {
			for i, item := range v {
				v[i] = Restore(n.Items, item)
			}
		}
	case string:
		text := func(b *Node) bool { return b.Logical == NoLogical && (b.Kind == String || b.Kind == Enum) }
		if n.Kind != Union {
			return restoreText(n, v)
		}
		if text(n.branch(text)) {
			return v
		}
		for _, b := range n.Branches {
			if restored := restoreText(b, v); restored != any(v) {
				return restored
			}
		}
	}
	return v
}

// branch is the first branch of a union for which fits says so, or n.
func (n *Node) branch(fits func(*Node) bool) *Node {
	for _, b := range n.Branches {
		if fits(b) {
			return b
		}
	}
	return n
}

func restoreText(n *Node, text string) any {
	switch n.Logical {
	case Timestamp, LocalTime, Date:
		if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
			return t
		}
	case TimeOfDay:
		if t, err := time.Parse(time.TimeOnly, text); err == nil {
			return t.Sub(time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC))
		}
	case NoLogical:
		switch n.Kind {
		case Bytes, Fixed:
			if b, err := base64.StdEncoding.DecodeString(text); err == nil {
				return b
			}
		case Float:
			switch text {
			case "NaN":
				return math.NaN()
			case "Infinity":
				return math.Inf(1)
			case "-Infinity":
				return math.Inf(-1)
			}
		}
	}
	return text
}
