package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"penstock/stream"
)

// ttlHeader says after what time the server removes a message.
const ttlHeader = "Nats-TTL"

// Keep implements stream.Keeper, with the means of Resume: an entry is a message of
// the topic's own stream, of the subject STREAM.resume.NAME. The server removes it
// an hour after stream.KeepFor.
func (b *Broker) Keep(ctx context.Context, topic, name string) (stream.Book, error) {
	w, err := b.newWriter(ctx, topic, name)
	if err != nil {
		return nil, fmt.Errorf("open a book: %w", err)
	}
	return &book{writer: w}, nil
}

// book implements stream.Book.
type book struct {
	*writer
	read uint64 // the last entry that was read or written
}

// storedEntry is the value of an entry's message. Its records lie side by side
// before it, which says their offsets.
type storedEntry struct {
	Note       []byte `json:"note,omitempty"` // none: who took the book over
	Partitions []int  `json:"partitions,omitempty"`
}

// Take implements stream.Book.
func (x *book) Take(ctx context.Context, read func(stream.Entry) error) error {
	err := x.take(ctx, func() error {
		if err := x.readOn(ctx, read); err != nil {
			return err
		}
		return x.put(ctx, nil, storedEntry{})
	})
	if err != nil {
		return fmt.Errorf("take a book over: %w", err)
	}
	return nil
}

// readOn reads what is there behind what was read, and notes the last of it.
func (x *book) readOn(ctx context.Context, read func(stream.Entry) error) error {
	asking, cancel, err := x.b.ask(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	last, err := x.stream.GetLastMsgForSubject(asking, x.subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		x.last = 0
		return nil
	}
	if err != nil {
		return x.b.explain(ctx, err)
	}
	x.last = last.Sequence
	from := time.Now().Add(-stream.KeepFor)
	if x.last <= x.read || last.Time.Before(from) {
		return nil
	}
	config := jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{x.subject}, DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &from,
	}
	if x.read > 0 {
		config.DeliverPolicy, config.OptStartTime, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, nil, x.read+1
	}
	consumer, err := x.stream.OrderedConsumer(asking, config)
	if err != nil {
		return x.b.explain(ctx, err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return x.b.explain(ctx, err)
	}
	defer messages.Stop()
	for x.read < x.last {
		m, err := messages.Next(jetstream.NextContext(asking))
		if err != nil {
			return fmt.Errorf("read back: %w", x.b.explain(ctx, err))
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("read back: %w", err)
		}
		at := meta.Sequence.Stream
		var stored storedEntry
		if err := json.Unmarshal(m.Data(), &stored); err != nil {
			return fmt.Errorf("read back: message %d of stream %q: %w", at, x.topic.stream, err)
		}
		if stored.Note != nil {
			e := stream.Entry{Note: stored.Note, Time: meta.Timestamp}
			for i, p := range stored.Partitions {
				e.Places = append(e.Places, stream.Place{Partition: int32(p), Offset: int64(at) - int64(len(stored.Partitions)-i)})
			}
			if err := read(e); err != nil {
				return fmt.Errorf("read back: message %d of stream %q: %w", at, x.topic.stream, err)
			}
		}
		x.read = at
	}
	return nil
}

// Commit implements stream.Book.
func (x *book) Commit(ctx context.Context, out []stream.Record, note []byte) error {
	if len(note) > stream.MaxNote {
		return fmt.Errorf("commit: a note of %d bytes, expected %d at most", len(note), stream.MaxNote)
	}
	messages, partitions, err := x.messages(out)
	if err != nil {
		return err
	}
	if err := x.put(ctx, messages, storedEntry{Note: note, Partitions: partitions}); err != nil {
		return err
	}
	place(out, partitions, x.last)
	x.read = x.last
	return nil
}

// put writes an entry.
func (x *book) put(ctx context.Context, messages []*nats.Msg, entry storedEntry) error {
	value, err := json.Marshal(entry)
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return x.commit(ctx, messages, &nats.Msg{Subject: x.subject, Data: value, Header: nats.Header{
		ttlHeader: {(stream.KeepFor + time.Hour).String()},
	}})
}

var _ stream.Keeper = (*Broker)(nil)
