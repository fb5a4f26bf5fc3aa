package producers

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"penstock/schemas"
	"penstock/stream"
)

// Payload is what a bridge makes an event's value of: JSON text, or a Framed if
// the bytes begin with a 0, which no JSON does. Its error is a
// *schemas.ValueError. null and nothing at all are no tombstones but misfits: where
// they come from they mean less than to delete a key.
func Payload(b []byte) (any, error) {
	misfit := func(pointer, expected, found string) error {
		return &schemas.ValueError{Violations: []schemas.Violation{{Pointer: pointer, Expected: expected, Found: found}}}
	}
	if len(b) > 0 && b[0] == 0 {
		return Framed(b), nil
	}
	v, err := Text(b)
	if faulty := (*schemas.JSONError)(nil); errors.As(err, &faulty) {
		return nil, misfit(faulty.Pointer, faulty.Expected, faulty.Found)
	}
	if v == nil && err == nil {
		return nil, misfit("", "an event", "null")
	}
	return v, err
}

// Text is an event that is given as JSON text: a JSON, or nil if the text is null.
// Its error is a *schemas.JSONError, as that of schemas.ParseJSON.
func Text(b []byte) (any, error) {
	v, err := schemas.ParseJSONLeaving(b, func([]string) bool { return true })
	if text, ok := v.(schemas.JSONText); ok {
		return JSON(text), err
	}
	return v, err
}

// IsFinal says of an error of Publish whether the event is one that a bridge does
// not try again. Topics and schemas may yet be made, but the name of a topic may
// come from who sent the event, who must not hold up the others.
func IsFinal(err error) bool {
	return errors.As(err, new(*schemas.ValueError)) || errors.Is(err, schemas.ErrNoSchema) || errors.Is(err, schemas.ErrBadSchema) ||
		errors.Is(err, stream.ErrNoTopic) || errors.Is(err, stream.ErrTooLarge)
}

// Backoff are pauses that double, from First to a hundred times that.
type Backoff struct {
	First time.Duration
	next  time.Duration
}

// Longest is the longest pause.
func (b *Backoff) Longest() time.Duration { return 100 * b.First }

// Reset begins anew.
func (b *Backoff) Reset() { b.next = 0 }

// Wait waits, and says whether ctx still holds. Each pause is shortened by up to a
// half, so that many bridges do not come back at once.
func (b *Backoff) Wait(ctx context.Context) bool {
	b.next = min(max(2*b.next, b.First), b.Longest())
	pause := time.NewTimer(b.next - rand.N(b.next/2+1))
	defer pause.Stop()
	select {
	case <-pause.C:
		return true
	case <-ctx.Done():
		return false
	}
}
