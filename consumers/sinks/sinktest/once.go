package sinktest

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"penstock/consumers"
	"penstock/consumers/sinks/sqlsink"
	"penstock/schemas"
	"penstock/stream"
)

// Sink is any sink that holds positions.
type Sink interface {
	consumers.Sink
	stream.Owner
	io.Closer
}

// Opener opens a sink at an address, which is for the messages of LogMessage.
type Opener func(ctx context.Context, address string) (Sink, error)

// Row is what a sink stores of such a message: its fields part and at.
type Row [2]int64

// Rows reads what sinks have stored, in any order.
type Rows func(t testing.TB) []Row

// SQL opens sinks of a database, for Once, Crash and Rebalance.
func SQL(open func(ctx context.Context, address string, c sqlsink.Config) (*sqlsink.Sink, error)) Opener {
	return func(ctx context.Context, address string) (Sink, error) {
		return open(ctx, address, sqlsink.Config{Table: "log", Pipeline: "p"})
	}
}

// SQLRows reads what such sinks have stored.
func SQLRows(db Database) Rows {
	return func(t testing.TB) []Row {
		var rows []Row
		for _, r := range db.Query(t, "SELECT part, at FROM log") {
			var row Row
			if _, err := fmt.Sscan(r[0]+" "+r[1], &row[0], &row[1]); err != nil {
				t.Fatal(err)
			}
			rows = append(rows, row)
		}
		return rows
	}
}

// ReadRow reads a row from the value of a log's record.
func ReadRow(t testing.TB, value []byte) Row {
	_, body, err := schemas.ParseHeader(value)
	if err != nil || len(body) != 12 {
		t.Fatalf("a value %q is none of the log: %v", value, err)
	}
	return Row{int64(binary.BigEndian.Uint32(body)), int64(binary.BigEndian.Uint64(body[4:]))}
}

// logRecord is the record of the log at an offset of a partition.
func logRecord(partition int32, offset int64) stream.Record {
	value := schemas.AppendHeader(nil, 1)
	value = binary.BigEndian.AppendUint32(value, uint32(partition))
	value = binary.BigEndian.AppendUint64(value, uint64(offset))
	return stream.Record{Topic: "log", Partition: partition, Offset: offset, Key: fmt.Append(nil, offset%5), Value: value}
}

var theLogSchema = newLogSchema()

// LogMessage is the message of the log at an offset of a partition.
func LogMessage(partition int32, offset int64) consumers.Message {
	return consumers.Message{
		Record: logRecord(partition, offset), SchemaID: 1, Schema: theLogSchema,
		Data: logData(partition, offset),
	}
}

// logData is what such a message says. Its kind is one of three.
func logData(partition int32, offset int64) map[string]any {
	return map[string]any{"part": int64(partition), "at": offset, "kind": fmt.Sprint("kind ", offset%3)}
}

// compare sees that each row is there, once.
func compare(t *testing.T, want, got []Row) {
	t.Helper()
	order := func(a, b Row) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) }
	got = slices.SortedFunc(slices.Values(got), order)
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("row %d of %d is %v, want %v of %d", i, len(got), got[i], want[i], len(want))
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d rows are stored, want %d", len(got), len(want))
	}
}

// Once has two sinks at one address claim a partition from one another, lose
// it, close, and write from wherever they believe to be, with batches cut anew
// and records delivered again, whoever owns it: what Write said it stored is
// there, and at the end each record of the log, once.
func Once(t *testing.T, rounds int, open Opener, fresh func(t *testing.T) (address string, rows Rows)) {
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			address, rows := fresh(t)
			once(t, rand.New(rand.NewPCG(seed, 0)), open, address, rows)
		})
	}
}

func once(t *testing.T, random *rand.Rand, open Opener, address string, rows Rows) {
	ctx := t.Context()
	p := stream.Partition{Cluster: "c", Topic: "log", Incarnation: "i", Number: 0}
	var sinks [2]Sink
	var next [2]int64 // where the source of each would go on; -1: it reads nothing
	opened := func(i int) {
		var err error
		if sinks[i], err = open(ctx, address); err != nil {
			t.Fatal(err)
		}
		next[i] = -1
	}
	closed := func(i int) {
		if err := sinks[i].Close(); err != nil {
			t.Fatal(err)
		}
	}
	assign := func(i int) {
		at, err := sinks[i].Assigned(ctx, []stream.Partition{p})
		if err != nil {
			t.Fatalf("Assigned: %v", err)
		}
		next[i] = at[p]
	}
	acknowledged := int64(0)
	write := func(i int, first, end int64) error {
		b := consumers.Batch{Topic: p.Topic, Partition: p.Number, First: first, Next: end}
		for o := first; o < end; o++ {
			if o%logGap != 0 {
				b.Messages = append(b.Messages, LogMessage(0, o))
			}
		}
		err := sinks[i].Write(ctx, b)
		switch {
		case err == nil:
			next[i], acknowledged = max(next[i], end), max(acknowledged, end)
		case !errors.Is(err, stream.ErrFenced):
			t.Fatalf("Write of %d to %d: %v, want none, or ErrFenced", first, end, err)
		}
		return err
	}
	opened(0)
	opened(1)
	defer func() { closed(0); closed(1) }()
	const end = 300
	for acknowledged < end-20 {
		i := random.IntN(2)
		switch n := random.IntN(20); {
		case n == 0:
			closed(i)
			opened(i)
		case n < 3:
			if err := sinks[i].Lost(ctx, []stream.Partition{p}); err != nil {
				t.Fatal(err)
			}
			next[i] = -1
		case n < 7:
			assign(i)
		case next[i] >= 0:
			first := max(0, next[i]-random.Int64N(6))
			_ = write(i, first, first+1+random.Int64N(12)) // checked there
		}
	}
	assign(0)
	if err := write(0, max(0, next[0]-3), end); err != nil {
		t.Fatalf("Write of the one that claimed last: %v", err)
	}
	var want []Row
	for o := range max(acknowledged, end) {
		if o%logGap != 0 {
			want = append(want, Row{0, o})
		}
	}
	compare(t, want, rows(t))
}
