package microbatch

import (
	"context"

	"penstock/consumers"
	"penstock/schemas"
)

// Coalesce is a sink that hands on, of the messages of a batch that have one
// key, the last alone, at its place. Messages without a key are all handed on.
// Which one is the last is looked at anew when messages turn out to be such as
// can never be stored: then the one before counts. For sinks that keep the
// newest of each key, and where what was in between need not be seen.
func Coalesce(sink consumers.Sink) consumers.Sink { return coalescing{sink} }

type coalescing struct{ sink consumers.Sink }

// TakesCells implements consumers.CellSink: as the sink behind it does.
func (c coalescing) TakesCells(s schemas.Schema) bool {
	sink, ok := c.sink.(consumers.CellSink)
	return ok && sink.TakesCells(s)
}

// Write implements consumers.Sink.
func (c coalescing) Write(ctx context.Context, b consumers.Batch) error {
	last := make(map[string]int, len(b.Messages))
	for i, m := range b.Messages {
		if m.Key != nil {
			last[string(m.Key)] = i
		}
	}
	var kept []int // their indexes in b
	all := b.Messages
	b.Messages = make([]consumers.Message, 0, len(last))
	for i, m := range all {
		if m.Key == nil || last[string(m.Key)] == i {
			b.Messages = append(b.Messages, m)
			kept = append(kept, i)
		}
	}
	return consumers.Renumbered(c.sink.Write(ctx, b), kept)
}
