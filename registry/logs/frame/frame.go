// Package frame is how the homes of the registry's log write the events of one
// append: their number, and each one's time, key and value, all little-endian.
package frame

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"penstock/registry"
)

// noValue in the place of a value's length is a tombstone.
const noValue = math.MaxUint32

// Append writes events to b. Positions are not written.
func Append(b []byte, events []registry.Event) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(events)))
	for _, e := range events {
		b = AppendEvent(b, e)
	}
	return b
}

// AppendEvent writes one event to b.
func AppendEvent(b []byte, e registry.Event) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(e.Time.UnixMilli()))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(e.Key)))
	b = append(b, e.Key...)
	if e.Value == nil {
		return binary.LittleEndian.AppendUint32(b, noValue)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(e.Value)))
	return append(b, e.Value...)
}

// Read reads what Append wrote, and nothing after it. The events share the
// memory of b and have no positions.
func Read(b []byte) ([]registry.Event, error) {
	if len(b) < 4 {
		return nil, short(b)
	}
	count, rest := binary.LittleEndian.Uint32(b), b[4:]
	var events []registry.Event
	for range count {
		e, after, err := ReadEvent(rest)
		if err != nil {
			return nil, err
		}
		events, rest = append(events, e), after
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("a record has %d bytes after its last event", len(rest))
	}
	return events, nil
}

// ReadEvent reads what AppendEvent wrote, and returns what follows it.
func ReadEvent(b []byte) (e registry.Event, rest []byte, err error) {
	field := func(n uint64) []byte {
		if n > uint64(len(b)) {
			err = short(b)
			return nil
		}
		out := b[:n:n]
		b = b[n:]
		return out
	}
	head := field(12)
	if err != nil {
		return e, nil, err
	}
	e.Time = time.UnixMilli(int64(binary.LittleEndian.Uint64(head)))
	e.Key = field(uint64(binary.LittleEndian.Uint32(head[8:])))
	length := field(4)
	if err != nil {
		return e, nil, err
	}
	if n := binary.LittleEndian.Uint32(length); n != noValue {
		e.Value = field(uint64(n))
	}
	return e, b, err
}

func short(b []byte) error {
	return fmt.Errorf("a record ends within an event, with %d bytes of it", len(b))
}
