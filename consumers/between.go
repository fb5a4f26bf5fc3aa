package consumers

import (
	"context"
	"fmt"

	"penstock/rules"
	"penstock/schemas"
	"penstock/stream"
)

// ExpressionFailed is the Code of a record that Between could not judge or change.
const ExpressionFailed Code = "expression-failed"

// Between stands between a decoder and a sink. It returns the message, or another
// in its place, and whether it goes on to the sink; one that does not is done with.
// A *Reason as error sets the record aside; any other is taken as passing, and the
// batch waits. It may be called concurrently, and gives the same for the same
// message, since a message may come again.
type Between func(ctx context.Context, m Message) (Message, bool, error)

// Expressions are what Evaluate evaluates. What is nil is left out.
type Expressions struct {
	Filter, Map *rules.Expression
	// To says which schema the values that Map makes are of; nil leaves them that
	// of the message.
	To func(ctx context.Context) (schemas.Registered, error)
	// Limits bound the values that Map makes.
	Limits schemas.Limits
}

// Evaluate is a Between that lets messages pass for which a filter is true, and
// makes others of them. Tombstones pass as they are, since they say nothing.
func Evaluate(e Expressions) Between {
	return func(ctx context.Context, m Message) (Message, bool, error) {
		if m.Value == nil {
			return m, true, nil
		}
		r := recordOf(m)
		if e.Filter != nil {
			if wanted, err := e.Filter.Holds(r); err != nil || !wanted {
				return m, false, failed("filter", err)
			}
		}
		if e.Map == nil {
			return m, true, nil
		}
		if e.To != nil {
			to, err := e.To(ctx)
			if err != nil {
				return m, false, fmt.Errorf("look up the schema of what map makes: %w", err)
			}
			m.SchemaID, m.Schema = to.ID, to.Schema
		}
		v, err := e.Map.Map(r, m.Schema)
		if err != nil {
			return m, false, failed("map", err)
		}
		b, err := m.Schema.AppendEncode(nil, v)
		if err == nil {
			m.Data, err = schemas.Decode(m.Schema, b, e.Limits)
		}
		if err != nil {
			return m, false, failed("map", fmt.Errorf("what it makes does not fit schema %d: %w", m.SchemaID, err))
		}
		return m, true, nil
	}
}

// failed is the *Reason of an error, or nil.
func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return &Reason{ExpressionFailed, fmt.Errorf("%s: %w", what, err)}
}

// recordOf is a message as expressions see it.
func recordOf(m Message) *rules.Record {
	return &rules.Record{
		Schema: m.Schema, Value: m.Data, Key: m.Key, Topic: m.Topic, Partition: m.Partition, Offset: m.Offset, Time: m.Time,
		Headers: func() map[string]string {
			first := make(map[string]string, len(m.Headers))
			for _, h := range m.Headers {
				if _, known := first[h.Key]; !known {
					first[h.Key] = string(h.Value)
				}
			}
			return first
		},
	}
}

// Holds says of records that were not read whether an expression is true of them;
// one that it cannot judge is none of them.
func Holds(e *rules.Expression) func(stream.Record) bool {
	return func(r stream.Record) bool {
		holds, err := e.Holds(recordOf(Message{Record: r}))
		return err == nil && holds
	}
}
