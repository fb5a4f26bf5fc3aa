package access

import "sync"

// recent is a map that forgets what was not asked for lately, so that it never
// holds more than twice max. Its methods may be called concurrently.
type recent[K comparable, V any] struct {
	max int

	mu       sync.Mutex
	new, old map[K]V
}

// update replaces the value of a key, the zero value if it has none, by what
// f makes of it, and returns that. f must not call back.
func (r *recent[K, V]) update(key K, f func(V) V) V {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.new[key]
	if !ok {
		v = r.old[key]
	}
	v = f(v)
	if r.new == nil || !ok && len(r.new) >= r.max {
		r.new, r.old = map[K]V{}, r.new
	}
	r.new[key] = v
	return v
}

// get returns the value of a key.
func (r *recent[K, V]) get(key K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.new[key]
	if !ok {
		v, ok = r.old[key]
	}
	return v, ok
}
