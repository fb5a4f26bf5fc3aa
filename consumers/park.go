package consumers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"penstock/stream"
)

// maxParked bounds how many records may wait, over all partitions of a topic.
const maxParked = 1_000_000

// ParkingBroker is a broker on which records can be parked.
type ParkingBroker interface {
	stream.Logs
	stream.Publisher
}

// Parking keeps, for the ordering Park, which records of which keys wait among the
// dead letters of a group. It is written before what it says takes place, into a log
// beside the topic, and read again when a partition comes from another consumer, and
// when a record comes back. It may be used concurrently.
type Parking struct {
	broker ParkingBroker
	group  string

	mu   sync.Mutex
	lots map[string]*lot
}

// lot is what waits of a topic.
type lot struct {
	next    int64            // of the log
	waiting map[spot][]int64 // the offsets at which records of a key lay first, ascending
	keys    map[place]string // of all that waits
	parts   map[int32]int32  // the assignment under which the log was last read
}

// spot is a key of a partition, and place a record.
type spot struct {
	partition int32
	key       string
}

type place struct {
	partition int32
	offset    int64
}

// NewParking returns the Parking of a group.
func NewParking(broker ParkingBroker, group string) *Parking {
	return &Parking{broker: broker, group: group, lots: map[string]*lot{}}
}

// ParkingTopic is the log of which records wait.
func ParkingTopic(topic, group string) string { return topic + "." + group + ".parked" }

// Release forgets a record that lay at an offset and waits: those of its key behind
// it no longer wait for it. It reports whether it waited.
func (p *Parking) Release(ctx context.Context, topic string, partition int32, offset int64) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, err := p.read(ctx, topic)
	if err != nil {
		return false, err
	}
	if _, waits := l.keys[place{partition, offset}]; !waits {
		return false, nil
	}
	return true, p.broker.Publish(ctx, p.entry(topic, partition, offset, nil))
}

// read reads what was written to the log since it was read last. It is called with
// p.mu held.
func (p *Parking) read(ctx context.Context, topic string) (*lot, error) {
	name := ParkingTopic(topic, p.group)
	l := p.lots[topic]
	if l == nil {
		if err := p.broker.CreateLog(ctx, name); err != nil {
			return nil, fmt.Errorf("make the log of what is parked: %w", err)
		}
		l = &lot{waiting: map[spot][]int64{}, keys: map[place]string{}, parts: map[int32]int32{}}
		p.lots[topic] = l
	}
	next, err := p.broker.ReadLog(ctx, name, l.next, func(records []stream.Record) error {
		for _, r := range records {
			if err := l.apply(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what is parked: %w", err)
	}
	l.next = next
	return l, nil
}

// entry is the record of the log that says that a record of a key waits, or, with a
// nil key, that it does not.
func (p *Parking) entry(topic string, partition int32, offset int64, key []byte) stream.Record {
	return stream.Record{
		Topic: ParkingTopic(topic, p.group),
		Key:   fmt.Appendf(nil, "%d/%d", partition, offset),
		Value: key,
	}
}

// apply notes what an entry of the log says.
func (l *lot) apply(r stream.Record) error {
	a, b, _ := strings.Cut(string(r.Key), "/")
	partition, err1 := strconv.ParseInt(a, 10, 32)
	offset, err2 := strconv.ParseInt(b, 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("entry %d is about %q, expected PARTITION/OFFSET: %w", r.Offset, r.Key, ErrStop)
	}
	at := place{int32(partition), offset}
	key, waits := l.keys[at]
	switch {
	case r.Value == nil && waits:
		l.leave(at, key)
	case r.Value != nil && !waits:
		return l.wait(at, string(r.Value))
	}
	return nil
}

// wait notes that a record of a key waits, and leave that it does not any more.
func (l *lot) wait(at place, key string) error {
	if len(l.keys) >= maxParked {
		return fmt.Errorf("%d records wait among the dead letters, which is the most: redrive or release some: %w", len(l.keys), ErrStop)
	}
	l.keys[at] = key
	s := spot{at.partition, key}
	i, _ := slices.BinarySearch(l.waiting[s], at.offset)
	l.waiting[s] = slices.Insert(l.waiting[s], i, at.offset)
	return nil
}

func (l *lot) leave(at place, key string) {
	delete(l.keys, at)
	s := spot{at.partition, key}
	i, _ := slices.BinarySearch(l.waiting[s], at.offset)
	if l.waiting[s] = slices.Delete(l.waiting[s], i, i+1); len(l.waiting[s]) == 0 {
		delete(l.waiting, s)
	}
}

// origin is the offset at which a record lay first in its partition, which for one
// that was redriven is another than its own.
func origin(r stream.Record) (offset int64, redriven bool) {
	if _, redriven = r.Header(attemptHeader); redriven {
		if from := ReadLetter(r).From; from.Topic == r.Topic && from.Partition == r.Partition && from.Offset >= 0 {
			return from.Offset, true
		}
	}
	return r.Offset, redriven
}

// fresh has what others parked of a partition known, if it may not be.
func (p *Parking) fresh(ctx context.Context, records []stream.Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := records[0]
	if l := p.lots[first.Topic]; l != nil {
		assignment, known := l.parts[first.Partition]
		again := slices.ContainsFunc(records, func(r stream.Record) bool { _, redriven := origin(r); return redriven })
		if known && assignment == first.Assignment && !again {
			return nil
		}
	}
	l, err := p.read(ctx, first.Topic)
	if err == nil {
		l.parts[first.Partition] = first.Assignment
	}
	return err
}

// sort returns which of a batch's messages have to wait for an earlier record of
// their key, the others, and what is to be written of those that waited and do not
// any more.
func (p *Parking) sort(b *Batch) (behind []deadLetter, rest []Message, released []stream.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lots[b.Topic]
	rest = make([]Message, 0, len(b.Messages))
	for _, m := range b.Messages {
		if m.Key == nil || len(l.keys) == 0 {
			rest = append(rest, m)
			continue
		}
		offset, _ := origin(m.Record)
		earlier := l.waiting[spot{m.Partition, string(m.Key)}]
		i, waits := slices.BinarySearch(earlier, offset)
		if i > 0 {
			behind = append(behind, deadLetter{m.Record, &Reason{Parked, fmt.Errorf("the record of its key at offset %d waits among the dead letters: redrive that one first, or release it", earlier[i-1])}})
			continue
		}
		if waits {
			l.leave(place{m.Partition, offset}, string(m.Key))
			released = append(released, p.entry(m.Topic, m.Partition, offset, nil))
		}
		rest = append(rest, m)
	}
	return behind, rest, released
}

// waits are the entries that say that dead letters wait.
func (p *Parking) waits(letters []deadLetter) (entries []stream.Record) {
	for _, d := range letters {
		if d.record.Key != nil {
			offset, _ := origin(d.record)
			entries = append(entries, p.entry(d.record.Topic, d.record.Partition, offset, d.record.Key))
		}
	}
	return entries
}

// write writes entries about a topic.
func (p *Parking) write(ctx context.Context, topic string, entries []stream.Record) error {
	if len(entries) == 0 {
		return nil
	}
	if err := p.broker.Publish(ctx, entries...); err != nil {
		return fmt.Errorf("note what is parked: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range entries {
		if err := p.lots[topic].apply(e); err != nil {
			return err
		}
	}
	return nil
}
