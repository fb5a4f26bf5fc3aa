package consumers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"penstock/stream"
)

// maxParked bounds how many records of a topic may wait.
const maxParked = 1_000_000

// lookEvery is how often it is looked whether something that waits was released.
const lookEvery = 10 * time.Second

// ParkingBroker is a broker on which records can be parked.
type ParkingBroker interface {
	stream.Logs
	stream.Publisher
}

// Parking keeps, for the ordering Park, which records of which keys wait among the
// dead letters of a group. It is written before what it says takes place, into a log
// beside the topic, and read again when a partition comes from another consumer, and
// when a record comes back. It may be used concurrently.
//
// That a record has passed is not written, but that it came back, and at which
// offset: once the partition is read further than that, it has. So it does not matter
// where between the sink and the log a consumer ends.
type Parking struct {
	broker ParkingBroker
	group  string

	mu   sync.Mutex
	lots map[string]*lot
}

// lot is what waits of a topic.
type lot struct {
	next    int64            // of the log
	at      time.Time        // when it was read
	waiting map[spot][]wait  // ascending
	keys    map[place]string // of all that waits
	parts   map[int32]int32  // the assignment under which the log was last read
}

// spot is a key of a partition, place a record, and wait where a record lay first,
// and where it came back, or -1.
type spot struct {
	partition int32
	key       string
}

type place struct {
	partition int32
	offset    int64
}

type wait struct{ offset, back int64 }

// backHeader of an entry says at which offset a record came back.
const backHeader = "back"

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
	at := place{partition, offset}
	if _, waits := l.keys[at]; !waits {
		return false, nil
	}
	return true, p.broker.Publish(ctx, p.entry(topic, at, nil, -1))
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
		l = &lot{waiting: map[spot][]wait{}, keys: map[place]string{}, parts: map[int32]int32{}}
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
	l.next, l.at = next, time.Now()
	return l, nil
}

// entry is the record of the log that says that a record of a key waits, and where it
// came back, or, with a nil key, that it does not wait.
func (p *Parking) entry(topic string, at place, key []byte, back int64) stream.Record {
	r := stream.Record{
		Topic: ParkingTopic(topic, p.group),
		Key:   fmt.Appendf(nil, "%d/%d", at.partition, at.offset),
		Value: key,
	}
	if back >= 0 {
		r.Headers = []stream.Header{{Key: backHeader, Value: strconv.AppendInt(nil, back, 10)}}
	}
	return r
}

// apply notes what an entry of the log says.
func (l *lot) apply(r stream.Record) error {
	a, b, _ := strings.Cut(string(r.Key), "/")
	partition, err1 := strconv.ParseInt(a, 10, 32)
	offset, err2 := strconv.ParseInt(b, 10, 64)
	back := int64(-1)
	var err3 error
	if text, ok := r.Header(backHeader); ok {
		back, err3 = strconv.ParseInt(string(text), 10, 64)
	}
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("entry %d is about %q, expected PARTITION/OFFSET: %w: %w", r.Offset, r.Key, err, ErrStop)
	}
	at := place{int32(partition), offset}
	if r.Value == nil {
		l.leave(at)
		return nil
	}
	return l.set(at, string(r.Value), back)
}

// set notes that a record of a key waits, and leave that it does not any more.
func (l *lot) set(at place, key string, back int64) error {
	s := spot{at.partition, key}
	i, waits := slices.BinarySearchFunc(l.waiting[s], at.offset, compareWait)
	if waits {
		l.waiting[s][i].back = back
		return nil
	}
	if len(l.keys) >= maxParked {
		return fmt.Errorf("%d records wait among the dead letters, which is the most: redrive or release some: %w", len(l.keys), ErrStop)
	}
	l.keys[at] = key
	l.waiting[s] = slices.Insert(l.waiting[s], i, wait{at.offset, back})
	return nil
}

func (l *lot) leave(at place) {
	key, waits := l.keys[at]
	if !waits {
		return
	}
	delete(l.keys, at)
	s := spot{at.partition, key}
	i, _ := slices.BinarySearchFunc(l.waiting[s], at.offset, compareWait)
	if l.waiting[s] = slices.Delete(l.waiting[s], i, i+1); len(l.waiting[s]) == 0 {
		delete(l.waiting, s)
	}
}

func compareWait(w wait, offset int64) int { return cmp.Compare(w.offset, offset) }

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
		old := len(l.keys) > 0 && time.Since(l.at) > lookEvery
		if known && assignment == first.Assignment && !again && !old {
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
// their key, the others, and what is to be written before these: that some came back,
// and that others have passed.
func (p *Parking) sort(b *Batch) (behind []deadLetter, rest []Message, entries []stream.Record, err error) {
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
		at := place{m.Partition, offset}
		back, before := m.Offset, int64(-1)
		s := spot{m.Partition, string(m.Key)}
		for i := 0; i < len(l.waiting[s]) && l.waiting[s][i].offset < offset; {
			w := l.waiting[s][i]
			if w.back < 0 || w.back >= m.Offset {
				back, before = -1, w.offset
				break
			}
			if w.back >= b.First {
				i++
				continue
			}
			over := place{m.Partition, w.offset}
			l.leave(over)
			entries = append(entries, p.entry(m.Topic, over, nil, -1))
		}
		if _, waits := l.keys[at]; waits || before >= 0 {
			if err := l.set(at, string(m.Key), back); err != nil {
				return nil, nil, nil, err
			}
			if before < 0 {
				entries = append(entries, p.entry(m.Topic, at, m.Key, back))
			}
		}
		if before >= 0 {
			behind = append(behind, deadLetter{m.Record, &Reason{Parked, fmt.Errorf("the record of its key at offset %d waits among the dead letters: redrive that one first, or release it", before)}})
			continue
		}
		rest = append(rest, m)
	}
	return behind, rest, entries, nil
}

// waits are the entries that say that dead letters wait.
func (p *Parking) waits(letters []deadLetter) (entries []stream.Record) {
	for _, d := range letters {
		if d.record.Key != nil {
			offset, _ := origin(d.record)
			entries = append(entries, p.entry(d.record.Topic, place{d.record.Partition, offset}, d.record.Key, -1))
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
