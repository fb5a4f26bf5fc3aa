package microbatch

import (
	"cmp"
	"math"
	"time"

	"penstock/stream"
)

// Policy says when a batch is large or old enough. A field that is zero has
// its default.
type Policy struct {
	// Count is the largest number of records in a batch; 0 is 5000. A Fetch
	// that asks for fewer gets fewer: consumers.Config.MaxRecords should be no
	// less.
	Count int
	// Bytes is the largest sum of keys, values and headers in a batch; 0 is
	// 8 MiB. A record that is larger is a batch of its own.
	Bytes int
	// Linger is how long the first record of a batch waits for others; 0 is
	// 200 milliseconds, and less than 0 is not at all. The HoldFor of the
	// subscription has to allow for it.
	Linger time.Duration
	// Cut, if not nil, ends a batch behind each record for which it is true.
	Cut func(stream.Record) bool
	// BySchema ends a batch before a record that names another schema than the
	// ones in it. Records that name none, as tombstones, go with either.
	BySchema bool
	// Keys, if it is not 0, makes batches of one key each; a batch then has
	// records of others between its own. It is how many keys of all partitions
	// may wait for more records at a time: with one more, the key that has
	// waited longest does not wait any longer. consumers.Config.ByKey has to be
	// set with it.
	Keys int
	// Out is how many batches of one partition may be handed out and not
	// settled; 0 is 3, and with Keys as many as may be fetched.
	Out int
	// Latency, if it is not 0, steers how many records a batch may have, from 1
	// to Count, so that a batch is settled that long after it was handed out.
	Latency time.Duration
	// Rate, if it is not 0, steers it so that batches are as small as they can
	// be while that many records a second are settled by one lane. With Latency
	// as well, that one wins.
	Rate float64
	// BufferedRecords and BufferedBytes bound what is gathered and not fetched
	// yet, over all partitions; 0 is 4 times Count and Bytes. Once either is
	// reached nothing more is read, and the oldest batch does not wait any
	// longer. One fetch of the source may go beyond BufferedBytes, since its
	// size is not known before.
	BufferedRecords, BufferedBytes int
	// Flushed, if not nil, is told of each batch that is settled, or no longer
	// may be. It is called by who settles it.
	Flushed func(Flush)
}

func (p Policy) withDefaults() Policy {
	p.Count = cmp.Or(p.Count, 5000)
	p.Bytes = cmp.Or(p.Bytes, 8<<20)
	p.Linger = cmp.Or(p.Linger, 200*time.Millisecond)
	p.BufferedRecords = cmp.Or(p.BufferedRecords, 4*p.Count)
	p.BufferedBytes = cmp.Or(p.BufferedBytes, 4*p.Bytes)
	if p.Out == 0 && p.Keys > 0 {
		p.Out = math.MaxInt
	}
	p.Out = cmp.Or(p.Out, 3)
	return p
}

// Cause says in a word why a batch ended where it does.
type Cause string

// The causes.
const (
	Count        Cause = "count"      // it holds as many records as it may
	Bytes        Cause = "bytes"      // with one more record it would be too large
	Linger       Cause = "linger"     // its first record has waited long enough
	Predicate    Cause = "predicate"  // Policy.Cut
	SchemaChange Cause = "schema"     // Policy.BySchema
	OpenKeys     Cause = "keys"       // Policy.Keys
	Redelivery   Cause = "redelivery" // the source goes back to an earlier record
	Buffer       Cause = "buffer"     // nothing more can be read before, or the source failed
	Revoke       Cause = "revoke"     // the partition is about to go
	Drain        Cause = "drain"      // the end
)

// Flush is what became of a batch.
type Flush struct {
	Topic       string
	Partition   int32
	First, Last int64 // the offsets of its records
	Records     int
	Bytes       int
	Cause       Cause
	Gathered    time.Duration // from its first record to when it was handed out
	Took        time.Duration // from then until it was settled
	Err         error         // why it was not acknowledged whole; else nil
}

// start is how many records the first batches may have: few where the size is
// steered, since a batch that is too large holds up all that is behind it.
func (p Policy) start() int {
	if p.Latency > 0 || p.Rate > 0 {
		return min(p.Count, 100)
	}
	return p.Count
}

// steer returns how many records a batch may have, after one of them was
// settled while size was the most. It grows by at most a quarter, and only
// after batches that were full, and shrinks by at most half.
func (p Policy) steer(size int, f Flush) int {
	var want float64
	full := f.Cause == Count
	switch {
	case p.Latency > 0 && (full || f.Took > p.Latency):
		want = float64(f.Records) * p.Latency.Seconds() / max(f.Took.Seconds(), 1e-9)
	case p.Rate > 0 && full && float64(f.Records) < p.Rate*f.Took.Seconds():
		want = 1.25 * float64(size)
	case p.Rate > 0 && full:
		want = 0.95 * float64(size)
	default:
		return size
	}
	n := float64(size)
	return int(min(max(want, n/2, 1), n*1.25+1, float64(p.Count)))
}
