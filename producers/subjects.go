package producers

import (
	"context"
	"errors"
	"fmt"
)

// Subject returns the subject under which the schema of a topic's events is
// registered. typ is the event's Type. It is called as often as Registry.Latest,
// so one that has to ask somebody answers from a cache.
type Subject func(ctx context.Context, topic, typ string) (string, error)

// ErrNoType marks events that name no Type where their subject is made of it.
var ErrNoType = errors.New("event names no type")

// TopicSubject is the subject of a topic's values that most clients use: its
// name, then "-value".
func TopicSubject(_ context.Context, topic, _ string) (string, error) { return topic + "-value", nil }

// KeySubject is the same for a topic's keys: its name, then "-key".
func KeySubject(_ context.Context, topic, _ string) (string, error) { return topic + "-key", nil }

// RecordSubject is the full name of the event's type: events of one type share
// a subject whatever their topic, and a topic holds many types.
func RecordSubject(_ context.Context, topic, typ string) (string, error) {
	if typ == "" {
		return "", fmt.Errorf("%w: the subjects of topic %q are record names; set the event's type to the full name of its record", ErrNoType, topic)
	}
	return typ, nil
}

// TopicRecordSubject is the topic's name, "-", and the full name of the event's
// type: a topic holds many types, and each evolves by itself there.
func TopicRecordSubject(ctx context.Context, topic, typ string) (string, error) {
	record, err := RecordSubject(ctx, topic, typ)
	if err != nil {
		return "", err
	}
	return topic + "-" + record, nil
}

// FixedSubject is one subject, whatever the topic.
func FixedSubject(subject string) Subject {
	return func(context.Context, string, string) (string, error) { return subject, nil }
}
