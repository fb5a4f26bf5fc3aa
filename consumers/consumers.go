// Package consumers turns the records of a stream.Source into decoded messages
// and hands them to a Sink, batch by batch: decode, set aside what cannot pass,
// write, settle. The three jobs (microbatch, diffing, federated) and the sinks
// are the packages below.
package consumers

import (
	"context"
	"errors"

	"penstock/schemas"
	"penstock/stream"
)

// Registry is what a consumer asks of a schema registry.
type Registry interface {
	// Schema returns the schema with that id. It is called for every record,
	// so it answers from a cache. An error that wraps schemas.ErrNoSchema says
	// that there is none, one that wraps schemas.ErrBadSchema that it is of no
	// use here, and the record is set aside; any other error is taken as
	// passing, and the batch waits for the registry.
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
	// the Go types it is made of. Its bytes may lie in Value.
	Data any
	// Cells is what a CellSink may be given instead of Data: the value as cells,
	// one for each field of the schema's model. Their bytes lie in Value.
	Cells []schemas.Cell
}

// CellSink is a Sink that takes flat records as cells, see schemas.CellReader,
// which costs a fraction of what maps do.
type CellSink interface {
	Sink
	// TakesCells says whether messages of a schema may have Cells in the place of
	// Data.
	TakesCells(s schemas.Schema) bool
}

// Batch is a run of one partition: everything from offset First up to, not
// including, Next. Its messages are in ascending order of their offsets, which
// lie in that range and may leave gaps: records that were set aside as dead
// letters, and offsets at which there is no record (compaction, transaction
// markers). A batch may have no messages; it moves the position all the same.
//
// Next is one past the last record fetched. First is the Next of the batch
// before it on that partition, so that runs follow on from one another. There
// are two exceptions, in which First is the offset of the first record
// fetched: the first batch of a partition, and a run that starts below the
// Next of the one before, because the source delivered it again.
//
// # What a sink that holds positions may rely on
//
// Let stored be the position that it holds for the partition: a message below
// stored has been dealt with, one at stored or above has not.
//
//   - Between two calls of its Assigned, batches come without a hole: only the
//     first may have First > stored, where no record lies in between. On any
//     later one First > stored cannot be, and a sink that sees it should
//     refuse with ErrStop rather than move its position.
//   - First < stored is normal: the broker redelivers what was stored but not
//     yet acknowledged, and a partition that comes back from another consumer
//     may follow on from where it was when it went. The sink leaves out the
//     messages below stored, and has nothing to do where Next <= stored.
//   - A batch may arrive for a partition that was lost meanwhile. The sink then
//     returns an error that wraps stream.ErrFenced (it has no claim, or the
//     owner epoch it finds in the database is not its own). Run writes nothing
//     more of that partition until the source has delivered it again, so that
//     no later batch of a lost assignment is stored under a new one without
//     those before it.
type Batch struct {
	Topic       string
	Partition   int32
	First, Next int64
	Messages    []Message
}

// ErrStop in the error of a Sink ends the run: what is wrong does not pass by
// waiting (a table that is not there, a password that is refused), and is not
// the record's fault.
var ErrStop = errors.New("the sink cannot go on")

// ErrBadRecord in the error of a Sink says that something in the batch can never
// be stored, but not which message it is. The batch is then written in halves,
// and these in halves, until it is found.
var ErrBadRecord = errors.New("a record of the batch cannot be stored")

// ErrUnknown beside a *stream.BatchError in the error of a Sink says that it is not
// known whether the records it names are at fault, or what the sink needs. See
// Config.Attempts.
var ErrUnknown = errors.New("it is not known whether the record is at fault")

// Sink is where results end.
type Sink interface {
	// Write stores b whole, or not at all. Its error says what comes next:
	//
	//   - nil: all of b is stored; it is acknowledged.
	//   - a *stream.BatchError names by index the messages that can never be
	//     stored. Nothing of b is stored yet; those become dead letters, and
	//     Write is called again with the same First and Next without them.
	//     If it wraps ErrUnknown as well, nothing is wrong with the messages
	//     before the first one named.
	//   - one that wraps ErrBadRecord: Write is called for the first half of b,
	//     with a Next of its own, and then for the second, which may be halved
	//     in turn. A single message becomes a dead letter.
	//   - one that wraps stream.ErrFenced: the partition belongs to another
	//     consumer; b is dropped, unsettled.
	//   - one that wraps ErrStop ends the run; b stays unsettled.
	//   - any other is taken as passing: b is written again after a delay, and
	//     nothing of it is settled before. An error with a method
	//     RetryAfter() time.Duration asks for at least that delay.
	//
	// Batches of one partition come in order, one at a time; those of
	// different partitions may come concurrently. Write may keep neither b nor
	// its messages after it returns, and may not change them. When ctx ends,
	// Write should give up soon: the batch is then delivered again.
	//
	// A sink that holds positions is a stream.Owner as well and moves the
	// partition's position to Next in the transaction that stores the
	// messages; see Batch.
	Write(ctx context.Context, b Batch) error
}
