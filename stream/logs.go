package stream

import "context"

// MaxSpan is how many records one Commit of a Spanner's Transactor takes at most.
const MaxSpan = 20_000

// Spanner is a Resumer that writes to several topics at once.
type Spanner interface {
	// Span is Resume with a Transactor whose Commit takes records of topic and
	// of more, MaxSpan of them at most.
	Span(ctx context.Context, topic, input string, more ...string) (Transactor, Position, error)
}

// Logs is a Broker that keeps logs: topics of one partition in which the last
// record of each key stays, while those before it may go. So does a tombstone
// after a day, with the key. Of a log Ranges has one, whose Records is how many
// records may have to be read.
type Logs interface {
	// CreateLog makes a log. One that exists already is left as it is.
	CreateLog(ctx context.Context, topic string) error
	// ReadLog hands the records of a log from an offset on to read, in their
	// order, up to what is its end when it is called, and returns the offset
	// to go on from. An error of read ends it. The records are read's to keep.
	// It returns ErrNoTopic if there is no such topic. What was committed last may
	// not be there yet, but for who has taken its position over since, by Resume or
	// Span.
	ReadLog(ctx context.Context, topic string, from int64, read func([]Record) error) (next int64, err error)
}
