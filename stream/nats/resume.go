package nats

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"penstock/stream"
)

const expectedSubjectSequenceHeader = "Nats-Expected-Last-Subject-Sequence"

// Resume implements stream.Resumer. The position is a message of the topic's own
// stream, of a subject that no partition has, which Resume adds to the stream of
// an older Penstock if it is not there; so records and position are one atomic batch. Each position
// is written only after the one that its writer knows: whoever takes an input
// over writes it again, and the one before is refused.
//
// A stream that Penstock did not make, or that does not allow atomic batches, is
// ErrUnsupported.
func (b *Broker) Resume(ctx context.Context, topic, input string) (stream.Transactor, stream.Position, error) {
	x, at, err := b.resume(ctx, topic, input)
	if err != nil {
		return nil, at, fmt.Errorf("take the input over: %w", err)
	}
	return x, at, nil
}

func (b *Broker) resume(ctx context.Context, name, input string) (*transactor, stream.Position, error) {
	var at stream.Position
	w, err := b.newWriter(ctx, name, input)
	if err != nil {
		return nil, at, err
	}
	x := &transactor{w}
	asking, cancel, err := b.ask(ctx)
	if err != nil {
		return nil, at, err
	}
	defer cancel()
	err = w.take(ctx, func() error {
		at, x.last = stream.Position{}, 0
		last, err := w.stream.GetLastMsgForSubject(asking, x.subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return x.Commit(ctx, nil, at)
		}
		if err != nil {
			return b.explain(ctx, err)
		}
		var stored storedPosition
		if err := json.Unmarshal(last.Data, &stored); err != nil {
			return fmt.Errorf("read its position, message %d of stream %q: %w", last.Sequence, w.topic.stream, err)
		}
		x.last, at = last.Sequence, stream.Position(stored)
		return x.Commit(ctx, nil, at)
	})
	return x, at, err
}

// newWriter returns what writes to a topic and a subject of its stream. It has to
// be taken.
func (b *Broker) newWriter(ctx context.Context, name, of string) (*writer, error) {
	t, s, err := b.lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	if t.foreign || !t.atomic {
		return nil, fmt.Errorf("topic %q: its stream was not made by Penstock, or allows no atomic batches: %w", name, stream.ErrUnsupported)
	}
	asking, cancel, err := b.ask(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	if config := s.CachedInfo().Config; admitPositions(&config) {
		if s, err = b.js.UpdateStream(asking, config); err != nil {
			return nil, fmt.Errorf("add a subject for positions to the stream of topic %q: %w", name, b.explain(ctx, err))
		}
	}
	return &writer{b: b, topic: t, stream: s, subject: t.stream + ".resume." + escape(of)}, nil
}

// admitPositions has a stream take positions beside its records, and says whether it did
// not yet. Topics are made so; a server that changes a stream while a consumer is made for
// it has a data race.
func admitPositions(c *jetstream.StreamConfig) (changed bool) {
	all := c.Name + ".resume.*"
	if slices.Contains(c.Subjects, all) && c.AllowMsgTTL {
		return false
	}
	if !slices.Contains(c.Subjects, all) {
		c.Subjects = append(c.Subjects, all)
	}
	c.AllowMsgTTL = true // of the entries of books
	return true
}

// writer writes to a topic and, in the same batches, to a subject of its own.
type writer struct {
	b       *Broker
	topic   *topic
	stream  jetstream.Stream
	subject string
	last    uint64 // the message that is the last of subject, as far as is known
	over    bool   // after an error
}

// take reads what was written and writes behind it, until nobody is faster. Whoever
// writes one batch after the other is so more often than not, on a busy machine many
// times in a row; the first time that it is not shuts it out.
func (x *writer) take(ctx context.Context, readAndWrite func() error) error {
	for end := time.Now().Add(replyTimeout); ; {
		x.over = false
		if err := readAndWrite(); !errors.Is(err, stream.ErrFenced) || ctx.Err() != nil || time.Now().After(end) {
			return err
		}
	}
}

// transactor implements stream.Transactor.
type transactor struct{ *writer }

// storedPosition is the value of a position's message.
type storedPosition struct {
	Next int64  `json:"next"`
	Note string `json:"note,omitempty"`
}

// Commit implements stream.Transactor.
func (x *transactor) Commit(ctx context.Context, out []stream.Record, in stream.Position) error {
	value, err := json.Marshal(storedPosition(in))
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	messages, partitions, err := x.messages(out)
	if err != nil {
		return err
	}
	if err := x.commit(ctx, messages, &nats.Msg{Subject: x.subject, Data: value, Header: nats.Header{}}); err != nil {
		return err
	}
	place(out, partitions, x.last)
	return nil
}

// place says where the records of a batch lie, whose last message is last.
func place(out []stream.Record, partitions []int, last uint64) {
	for i, p := range partitions {
		out[i].Partition, out[i].Offset = int32(p), int64(last)-int64(len(out)-i)
	}
}

// messages encodes records, and says for which partitions.
func (x *writer) messages(out []stream.Record) (messages []*nats.Msg, partitions []int, err error) {
	if len(out) > stream.MaxCommit {
		return nil, nil, fmt.Errorf("commit: %d records, expected %d at most", len(out), stream.MaxCommit)
	}
	var failed stream.BatchError
	for i, r := range out {
		if r.Topic != x.topic.name {
			return nil, nil, fmt.Errorf("commit: a record of topic %q, expected those of %q", r.Topic, x.topic.name)
		}
		m, p, err := x.b.message(x.topic, r)
		if err != nil {
			failed.Fail(i, err)
		}
		messages, partitions = append(messages, m), append(partitions, p)
	}
	return messages, partitions, failed.OrNil()
}

// commit writes messages and more, which is of x.subject.
func (x *writer) commit(ctx context.Context, messages []*nats.Msg, more *nats.Msg) error {
	if x.over {
		return stream.ErrClosed
	}
	more.Header.Set(expectedSubjectSequenceHeader, strconv.FormatUint(x.last, 10))
	last, err := x.b.writeTogether(ctx, append(messages, more))
	if err != nil {
		x.over = true
		if isConflict(err) {
			err = fmt.Errorf("%w: %w", stream.ErrFenced, err)
		}
		return fmt.Errorf("commit: %w", err)
	}
	x.last = last
	return nil
}

// writeTogether writes messages to their stream as one atomic batch, and says the
// sequence of the last one. What the server has not begun to take, for want of room
// for another batch, is sent again. After an error nothing was written, unless it
// wraps stream.ErrUnknownOutcome.
func (b *Broker) writeTogether(ctx context.Context, messages []*nats.Msg) (last uint64, err error) {
	for attempt := 1; ; attempt++ {
		last, err := b.tryTogether(ctx, messages)
		if !errors.Is(err, errRefused) || attempt == batchAttempts {
			return last, err
		}
		select {
		case <-time.After(time.Duration(attempt) * 20 * time.Millisecond):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// tryTogether sends one atomic batch and waits for its answer, for as long as the
// connection lasts.
func (b *Broker) tryTogether(ctx context.Context, messages []*nats.Msg) (last uint64, err error) {
	asking, cancel, err := b.ask(ctx)
	if err != nil {
		return 0, err
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	l, err := b.connected(ctx)
	if err != nil {
		return 0, err
	}
	watching.Go(func() {
		select {
		case <-l.down:
			cancel()
		case <-asking.Done():
		}
	})
	id := rand.Text()
	for i, m := range messages {
		if m.Header == nil {
			m.Header = nats.Header{}
		}
		m.Header[batchIDHeader] = []string{id}
		m.Header[batchSequenceHeader] = []string{strconv.Itoa(i + 1)}
		if i < len(messages)-1 {
			if err := b.nc.PublishMsg(m); err != nil {
				return 0, b.explain(ctx, err) // without its end the batch is nothing
			}
		}
	}
	end := messages[len(messages)-1]
	end.Header[batchCommitHeader] = []string{"1"}
	answer, err := b.nc.RequestMsgWithContext(asking, end)
	switch {
	case err != nil && asking.Err() != nil && ctx.Err() == nil:
		return 0, fmt.Errorf("%w: %w", stream.ErrUnreachable, stream.ErrUnknownOutcome)
	case err != nil:
		return 0, fmt.Errorf("%w: %w", b.explain(ctx, err), stream.ErrUnknownOutcome)
	}
	seq, err := (&committer{b: b}).answer(answer, len(messages))
	return uint64(seq), err
}

// isConflict says of a refusal whether something else was written since.
func isConflict(err error) bool {
	var refused *jetstream.APIError
	return errors.As(err, &refused) && (refused.ErrorCode == codeWrongLastSequence || refused.ErrorCode == codeWrongLastSequenceConstant)
}

// The codes of a refusal because something else was written since.
const (
	codeWrongLastSequence         = 10071
	codeWrongLastSequenceConstant = 10164
)

// Close implements stream.Transactor and stream.Book.
func (x *writer) Close() error {
	x.over = true
	return nil
}

var _ stream.Resumer = (*Broker)(nil)
