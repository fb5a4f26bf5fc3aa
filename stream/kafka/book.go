package kafka

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/stream"
)

// Keep implements stream.Keeper. Entries are records of EntriesTopic, under the
// topic's id, so that a topic made again begins anew.
func (b *Broker) Keep(ctx context.Context, topic, name string) (stream.Book, error) {
	w, err := b.newWriter(ctx, topic, name, EntriesTopic)
	if err != nil {
		return nil, fmt.Errorf("open a book: %w", err)
	}
	return &book{writer: w, key: []byte("entry/" + w.id), next: -1}, nil
}

// book implements stream.Book.
type book struct {
	*writer
	key  []byte
	next int64 // offset of EntriesTopic from which it was not read yet; -1: never
}

// storedEntry is the value of an entry's record.
type storedEntry struct {
	Note   []byte     `json:"note"`
	Places [][2]int64 `json:"places,omitempty"` // partition and offset
}

// Take implements stream.Book.
func (x *book) Take(ctx context.Context, read func(stream.Entry) error) error {
	from := kgo.NewOffset().At(x.next)
	if x.next < 0 {
		from = kgo.NewOffset().AfterMilli(time.Now().Add(-stream.KeepFor).UnixMilli())
	}
	err := x.take(ctx, from, func(r *kgo.Record) error {
		if !slices.Equal(r.Key, x.key) {
			return nil
		}
		var stored storedEntry
		if err := json.Unmarshal(r.Value, &stored); err != nil {
			return err
		}
		e := stream.Entry{Note: stored.Note, Time: r.Timestamp}
		for _, p := range stored.Places {
			e.Places = append(e.Places, stream.Place{Partition: int32(p[0]), Offset: p[1]})
		}
		if err := read(e); err != nil {
			return err
		}
		x.next = r.Offset + 1
		return nil
	})
	if err != nil {
		return fmt.Errorf("take a book over: %w", err)
	}
	return nil
}

// Commit implements stream.Book.
func (x *book) Commit(ctx context.Context, out []stream.Record, note []byte) error {
	if len(note) > stream.MaxNote {
		return fmt.Errorf("commit: a note of %d bytes, expected %d at most", len(note), stream.MaxNote)
	}
	records, err := x.admit(ctx, out)
	if err != nil {
		return committed(err)
	}
	var entry *kgo.Record
	err = x.write(ctx, records, func() *kgo.Record {
		stored := storedEntry{Note: note}
		for i := range records {
			stored.Places = append(stored.Places, [2]int64{int64(records[i].Partition), records[i].Offset})
		}
		value, _ := json.Marshal(stored) // of bytes and numbers
		entry = x.logged(x.key, value)()
		return entry
	})
	if err != nil {
		return committed(err)
	}
	place(out, records)
	x.next = entry.Offset + 1
	return nil
}

var _ stream.Keeper = (*Broker)(nil)
