package producers

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"penstock/schemas"
	"penstock/stream"
)

// Misfits says what becomes of events that do not fit their schema.
type Misfits uint8

const (
	// Reject fails the event, and nothing is written.
	Reject Misfits = iota
	// DeadLetter publishes the event as JSON to the topic's dead letters, with
	// the reason in the headers that stream names.
	DeadLetter
	// Mark publishes the event as JSON to its own topic, without naming a
	// schema, with the reason in MisfitHeader.
	Mark
)

// MisfitHeader says of a record why it does not fit the schema of its topic.
const MisfitHeader = "penstock-misfit"

// The codes of a producer's dead letters.
const (
	reasonMisfit = "does-not-fit"
	reasonOther  = "not-publishable" // no such topic, no schema, too large
)

// misfit returns the record that an event becomes which does not fit, or why
// there is none.
func misfit(e *Event, t *Topic, why error) (stream.Record, error) {
	key, err := plain(e.KeyValue)
	if err != nil {
		return stream.Record{}, errors.Join(why, err)
	}
	if e.KeyValue == nil {
		key = e.Key
	}
	value, err := plain(e.Value)
	if err != nil {
		return stream.Record{}, errors.Join(why, err)
	}
	r := stream.Record{Topic: e.Topic, Key: key, Value: value, Headers: slices.Clone(e.Headers), Time: e.Time}
	if t.Misfits == Mark {
		r.Headers = append(r.Headers, stream.Header{Key: MisfitHeader, Value: []byte(stream.HeaderText(why.Error()))})
		return r, nil
	}
	to := t.DeadLetters
	if to == "" {
		to = e.Topic + ".dlq"
	}
	return SetAside(r, to, why), nil
}

// SetAside returns a record that cannot go where it was to go as one for the
// topic to, with the reason in the headers that stream names.
func SetAside(r stream.Record, to string, why error) stream.Record {
	from, code, pointer := r.Topic, reasonOther, ""
	r.Topic = to
	if v := (*schemas.ValueError)(nil); errors.As(why, &v) {
		code = reasonMisfit
		if len(v.Violations) > 0 {
			pointer = stream.HeaderText(v.Violations[0].Pointer)
		}
	}
	reason := stream.HeaderText(why.Error())
	r.Headers = slices.Clone(r.Headers)
	for _, h := range [][2]string{
		{stream.HeaderTopic, from},
		{stream.HeaderStage, "VALUE_CONVERTER"},
		{stream.HeaderMessage, reason},
		{stream.HeaderReason, code},
		{stream.HeaderError, reason},
		{stream.HeaderPointer, pointer},
		{stream.HeaderTime, time.Now().UTC().Format(time.RFC3339Nano)},
	} {
		r.Headers = append(r.Headers, stream.Header{Key: h[0], Value: []byte(h[1])})
	}
	return r
}

// plain is a value as JSON, or as it is where it is bytes already. nil stays nil.
func plain(v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case []byte:
		return v, nil
	case json.RawMessage:
		return v, nil
	case JSON:
		return v, nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("nor has it a JSON to set it aside as: %w", err)
	}
	return text, nil
}
