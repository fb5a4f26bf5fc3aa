package stream

import (
	"context"
	"errors"
)

// ErrUnknownOutcome is in the error of whoever has asked a broker to write and got no
// answer, or none that says what was done. Whoever asks again may have it twice.
var ErrUnknownOutcome = errors.New("the outcome is unknown: it may or may not have been written")

// ErrConflict is returned where a partition holds other records than
// Conditions.After expects.
var ErrConflict = errors.New("somebody else has written since")

// ErrDuplicate is returned where the records of a Conditions.ID have been written
// before.
var ErrDuplicate = errors.New("written before")

// AtomicPublisher is a Publisher that writes records together or not at all.
type AtomicPublisher interface {
	Publisher
	// PublishAtomic writes all of the records or none, and returns once they are
	// durable. It sets their Partition and Offset. Whoever reads committed records,
	// as every Source does, sees none of them before all are written.
	//
	// A *BatchError names those that can never be written: too large, or of a
	// topic that does not exist. After it, and after any other error but one that
	// wraps ErrUnknownOutcome, nothing was written and nothing will be.
	// ErrUnsupported is returned where the broker cannot write these together or
	// cannot see to the conditions. It may be called concurrently.
	PublishAtomic(ctx context.Context, c Conditions, records ...Record) error
}

// Conditions are under what records are written. The zero value is none.
type Conditions struct {
	// ID, if it is not empty, has them written once: within the time for which the
	// broker remembers it, a second call with this ID is ErrDuplicate, whatever
	// its records are. So it tells what has become of an unknown outcome.
	ID string
	// After names partitions of the records' topic, of which there may be one only,
	// and the offset of the last record that each may hold, -1 if none. If one of
	// them holds another by then it is ErrConflict (optimistic append).
	After map[int32]int64
}
