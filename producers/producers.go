// Package producers publishes events that fit their schema, and nothing else:
// validate, encode, frame, publish. It sees neither a broker nor a registry,
// only stream.Publisher and the one method it asks of a registry.
package producers

import (
	"context"
	"time"

	"penstock/schemas"
	"penstock/stream"
)

// Registry is what a producer asks of a schema registry. An error that wraps
// schemas.ErrNoSchema says that the subject has none.
type Registry interface {
	// Latest returns the newest schema of a subject and its id. It is called
	// for every event, so it answers from a cache.
	Latest(ctx context.Context, subject string) (schemas.ID, schemas.Schema, error)
}

// Event is a value on its way to a topic.
type Event struct {
	Topic   string
	Key     []byte // nil: no key
	Value   any    // what schemas.Schema encodes; nil is a tombstone
	Headers []stream.Header
	Time    time.Time // zero: now
}
