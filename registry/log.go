package registry

import (
	"context"
	"errors"
	"time"
)

// Event is one record of the log, in the form of Confluent's _schemas topic:
// Key and Value are JSON, and a later record of one key replaces an earlier.
type Event struct {
	// Position is where the log continues after this event: its offset + 1.
	// Replay sets it, Append ignores it. Gaps are normal.
	Position uint64
	// Time is when the event was appended, to the millisecond.
	Time time.Time
	Key  []byte
	// Value is nil for a tombstone, which takes away what the key held.
	Value []byte
}

// ErrConflict is returned by Log.Append where another writer has moved the end
// of the log.
var ErrConflict = errors.New("the log has moved on")

// ErrTooLarge is wrapped by what Log.Append returns, and nothing is stored, where
// an event is larger than the log takes.
var ErrTooLarge = errors.New("the record is larger than the log takes")

// Log is an append-only log of everything the registry must not forget.
type Log interface {
	// Append adds events, at least one, right after position prev, all of them
	// or none, and returns the position after them once they are durable. It
	// returns ErrConflict, and stores nothing, if the log does not end at
	// prev. After any other error the events may or may not have been stored,
	// and whoever wants to go on replays first. It may be called concurrently.
	Append(ctx context.Context, prev uint64, events ...Event) (uint64, error)
	// Replay calls fn, in order, for every event after position from that was
	// durable when Replay was called; 0 is the beginning. An event belongs to
	// fn for good. Replay stops at fn's first error and returns it. It may be
	// called concurrently, with Append too.
	Replay(ctx context.Context, from uint64, fn func(Event) error) error
}

// SharedLog is a Log that other processes append to as well. A registry over
// one reads up to its end before it answers from memory.
type SharedLog interface {
	Log
	// End returns the position where the log ended at some moment after End was
	// called: everything that was acknowledged before the call lies before it.
	End(ctx context.Context) (uint64, error)
}

// Leader is a SharedLog that tells one of the processes over it from the others.
type Leader interface {
	SharedLog
	// Leads reports whether this process is the one now. While one takes
	// another's place there may be none, or, if a process has slept, two.
	Leads() bool
}

// NotWriterError is wrapped by what Log.Append returns, and nothing is stored,
// where one process writes at a time and this is not the one, or is no longer.
type NotWriterError struct {
	// Writer is the base URL of the registry that writes now, empty while
	// nobody knows.
	Writer string
}

// Error says who writes.
func (e *NotWriterError) Error() string {
	if e.Writer == "" {
		return "no node writes to the registry's log at the moment"
	}
	return "the registry at " + e.Writer + " writes to the log, this one does not"
}
