// Package memory keeps the registry's log in memory: for tests, demonstrations
// and throw-away registries. What it holds is gone with the process.
package memory

import (
	"context"
	"sync"

	"penstock/registry"
)

// Log is a registry.Log.
type Log struct {
	mu     sync.RWMutex
	events []registry.Event
}

// New returns an empty log.
func New() *Log { return new(Log) }

// Append implements registry.Log.
func (l *Log) Append(ctx context.Context, prev uint64, events ...registry.Event) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if prev != uint64(len(l.events)) {
		return 0, registry.ErrConflict
	}
	for i, e := range events {
		e.Position = prev + uint64(i) + 1
		l.events = append(l.events, e)
	}
	return uint64(len(l.events)), nil
}

// Replay implements registry.Log.
func (l *Log) Replay(ctx context.Context, from uint64, fn func(registry.Event) error) error {
	l.mu.RLock()
	events := l.events // only ever appended to
	l.mu.RUnlock()
	for _, e := range events[min(from, uint64(len(events))):] {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}
