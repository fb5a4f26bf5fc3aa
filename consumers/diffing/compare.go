package diffing

import (
	"errors"
	"fmt"
	"log/slog"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
)

// Side is one of the two that are compared.
type Side int32

// The sides.
const (
	Left Side = iota
	Right
)

// Comparison compares by key what two topics say: of each key the last value, or
// nothing after a tombstone. It gathers both in a folder, so that its memory is
// bounded, however much they hold. One goroutine may use it at a time.
type Comparison struct {
	store   *store
	key     string
	compare *Comparer
}

// OpenComparison begins a comparison in an empty folder, with keys and rules as a
// Differ has them. Cache is for reading, in bytes; 0 is 64 MiB.
func OpenComparison(dir, keyField string, rules Rules, cache int64) (*Comparison, error) {
	compare, err := NewComparer(rules)
	if err != nil {
		return nil, fmt.Errorf("open comparison: %w", err)
	}
	if cache == 0 {
		cache = 64 << 20
	}
	s, err := openStore(dir, cache, false, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return &Comparison{store: s, key: keyField, compare: compare}, nil
}

// Close closes the folder, which is of no more use.
func (c *Comparison) Close() error { return c.store.close() }

// Add adds messages, those of a key in their order. Those that have no key, or a
// value that JSON cannot hold, are left out and named in a *stream.BatchError.
func (c *Comparison) Add(side Side, messages ...consumers.Message) error {
	var refused stream.BatchError
	at := map[string]int{}
	var updates []update
	for i, m := range messages {
		key, err := keyOf(m, c.key)
		if err != nil {
			refused.Fail(i, err)
			continue
		}
		u := update{key: key}
		if m.Value != nil {
			text, err := schemas.AppendJSON(nil, m.Data)
			if err != nil {
				refused.Fail(i, err)
				continue
			}
			u.entry = &entry{value: text}
		}
		if k, twice := at[key]; twice {
			updates[k] = u
			continue
		}
		at[key] = len(updates)
		updates = append(updates, u)
	}
	if err := c.store.apply(int32(side), updates, cursor{}); err != nil {
		return fmt.Errorf("store what is compared: %w", err)
	}
	return refused.OrNil()
}

// Difference is a key about which the sides say different things, as canonical
// JSON; nil is nothing.
type Difference struct {
	Key         string
	Left, Right []byte
	// Patch is the JSON Patch from Left to Right, where there are both.
	Patch []byte
}

// Report hands every difference to report, and says how many keys were the same.
// Those that only Right has come after all others; else they come by key.
func (c *Comparison) Report(report func(Difference) error) (same int64, err error) {
	for _, side := range []Side{Left, Right} {
		var failed error
		err := c.store.each(int32(side), "", func(key string, e *entry) bool {
			var other *entry
			if other, failed = c.store.get(int32(1-side), key); failed != nil {
				return false
			}
			switch {
			case other == nil && side == Left:
				failed = report(Difference{Key: key, Left: e.value})
			case other == nil:
				failed = report(Difference{Key: key, Right: e.value})
			case side == Right: // it was seen from the left
			default:
				var equal bool
				if equal, failed = c.compare.Same(e.value, other.value); failed == nil && equal {
					same++
				} else if failed == nil {
					patch, _ := c.compare.appendPatch(nil, false)
					failed = report(Difference{Key: key, Left: e.value, Right: other.value, Patch: patch})
				}
			}
			return failed == nil
		})
		if err := errors.Join(err, failed); err != nil {
			return same, err
		}
	}
	return same, nil
}
