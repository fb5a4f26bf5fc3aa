// Package consumers turns the records of a stream.Source into decoded messages
// and hands them to a Sink, batch by batch: decode, set aside what cannot pass,
// write, settle. The three jobs (microbatch, diffing, federated) and the sinks
// are the packages below.
package consumers

import (
	"context"

	"penstock/schemas"
	"penstock/stream"
)

// Registry is what a consumer asks of a schema registry.
type Registry interface {
	// Schema returns the schema with that id. It is called for every record,
	// so it answers from a cache.
	Schema(ctx context.Context, id schemas.ID) (schemas.Schema, error)
}

// Message is a record and what it says.
type Message struct {
	stream.Record
	// SchemaID and Schema are what the value was written with. Both are zero
	// for a tombstone.
	SchemaID schemas.ID
	Schema   schemas.Schema
	// Data is the decoded value, nil for a tombstone. See schemas.Schema for
	// the Go types it is made of.
	Data any
}

// Batch is a run of one partition: everything from offset First up to, not
// including, Next. Records that were set aside as dead letters are part of the
// run but not among Messages, so a batch may have none.
type Batch struct {
	Topic       string
	Partition   int32
	First, Next int64
	Messages    []Message
}

// Sink is where results end.
type Sink interface {
	// Write stores b whole, or not at all, or returns a *stream.BatchError
	// that names by index the messages that can never be stored; then none is
	// stored yet, and Write is called again without them. Any other error is
	// taken as passing: the same batch is written again after a delay, and
	// nothing of it is settled before. An error that wraps ErrStop ends the
	// run. Batches of one partition come in order, one at a time; those of
	// different partitions may come concurrently.
	//
	// A sink that holds positions is a stream.Owner as well and moves the
	// partition's position from First to Next in the transaction that stores
	// the messages.
	Write(ctx context.Context, b Batch) error
}
