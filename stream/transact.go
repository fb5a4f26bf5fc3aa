package stream

import (
	"context"
	"errors"
	"time"
)

// ErrUnsupported is returned where a broker, or the topic it holds, has no
// means for what was asked.
var ErrUnsupported = errors.New("not supported by the broker")

// MaxCommit is how many records one Commit takes at most: what JetStream admits
// in an atomic batch, less room for the position.
const MaxCommit = 900

// Position is how far an input has come.
type Position struct {
	// Next is the first of the input's records, from 0, that is not in yet.
	Next int64
	// Note is what the input's reader wants to find again beside it, of at most
	// a few hundred bytes.
	Note string
}

// Resumer is a Broker that publishes an input once, however often it is
// interrupted: it keeps the input's position where it keeps the records, and
// moves it together with them.
type Resumer interface {
	// Resume takes over the input of that name, which is published to topic, from
	// whoever had it, and says how far it has come. It returns ErrNoTopic if
	// there is no such topic, and ErrUnsupported if positions cannot be kept
	// with it.
	Resume(ctx context.Context, topic, input string) (Transactor, Position, error)
}

// Transactor publishes what one input holds. One goroutine may use it at a time.
type Transactor interface {
	// Commit writes all of out, which are MaxCommit records of the input's topic
	// at most, and moves the position to in, or does neither; it sets their
	// Partition and Offset, as Publish does. It returns
	// ErrFenced if someone else has taken the input over since, and a
	// *BatchError that names those that can never be written; then nothing was.
	// After any other error both may be there or neither, and the Transactor
	// is of no more use: Resume says which.
	Commit(ctx context.Context, out []Record, in Position) error
	// Close gives up the input, without moving its position.
	Close() error
}

// KeepFor is how long an entry of a Book can be read at least.
const KeepFor = 24 * time.Hour

// MaxNote is the largest note of an entry, in bytes.
const MaxNote = 256 << 10

// Place is where a record lies.
type Place struct {
	Partition int32
	Offset    int64
}

// Entry is what one Commit of a Book has written.
type Entry struct {
	Note   []byte
	Places []Place // of the records that came with it, in their order
	Time   time.Time
}

// Keeper is a Broker that keeps notes about records where it keeps these, so that
// whoever looks at the notes knows what has been published.
type Keeper interface {
	// Keep opens the book of that name beside topic. It returns ErrNoTopic if
	// there is no such topic, and ErrUnsupported if nothing can be kept with it.
	Keep(ctx context.Context, topic, name string) (Book, error)
}

// Book is a list of entries that one at a time adds to. One goroutine may use it
// at a time.
type Book interface {
	// Take takes the book over from whoever had it, and hands what has been
	// written since it was last taken, the first time that of the last KeepFor,
	// to read, the oldest first. Entries of its own may be among that. After it
	// nobody else adds anything, until he takes the book himself.
	Take(ctx context.Context, read func(Entry) error) error
	// Commit writes all of out, which are MaxCommit records of the book's topic
	// at most, and note, of MaxNote bytes at most, or neither, and says of each
	// record where it lies. It returns ErrFenced if someone else has taken the
	// book over since, and a *BatchError that names those that can never be
	// written; then nothing was. After any other error both may be there or
	// neither. After all but a *BatchError the book has to be taken again, which
	// says which.
	Commit(ctx context.Context, out []Record, note []byte) error
	// Close gives the book up.
	Close() error
}
