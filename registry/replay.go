package registry

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
)

// stretch is a number of events that follow each other, read by a goroutine of
// their own.
type stretch struct {
	events  []Event
	bytes   int
	records []record
	read    chan struct{} // closed when records are there
}

// A stretch ends where it has so many events or bytes.
const (
	stretchEvents = 256
	stretchBytes  = 256 << 10
)

// replay folds what the log has beyond position. It reads the events on all
// processors, and calls folded with the position after those of each stretch.
// What is no record is passed over; one that cannot be read is an error, unless
// a later one of its key takes its place. After an error what was folded last is
// dropped. Whoever calls it holds appending.
func (r *Registry) replay(ctx context.Context, folded func(position uint64)) error {
	broken := map[string]error{} // by key
	fold := func(s *stretch) {
		<-s.read
		for _, read := range s.records {
			switch err := r.pending.fold(read); {
			case err == nil:
				delete(broken, string(read.Key))
			case errors.Is(err, errNoRecord):
				r.options.Logger.Warn("the registry's log holds what is no record of a registry; it is passed over", "position", read.Position, "error", err)
			default:
				broken[string(read.Key)] = fmt.Errorf("record before position %d: %w", read.Position, err)
			}
		}
		folded(s.events[len(s.events)-1].Position)
	}
	next := &stretch{}
	var reading []*stretch // in order
	start := func() {
		s := next
		s.read = make(chan struct{})
		go func() {
			defer close(s.read)
			s.records = make([]record, 0, len(s.events))
			for _, e := range s.events {
				s.records = append(s.records, readRecord(e))
			}
		}()
		reading, next = append(reading, s), &stretch{}
	}
	err := r.log.Replay(ctx, r.position.Load(), func(e Event) error {
		next.events, next.bytes = append(next.events, e), next.bytes+len(e.Value)
		if len(next.events) == stretchEvents || next.bytes >= stretchBytes {
			start()
		}
		if len(reading) > runtime.GOMAXPROCS(0) {
			fold(reading[0])
			reading = slices.Delete(reading, 0, 1)
		}
		return nil
	})
	if len(next.events) > 0 {
		start()
	}
	for _, s := range reading {
		fold(s)
	}
	for _, b := range broken {
		err = errors.Join(err, b)
	}
	if err != nil {
		r.pending.drop()
		return fmt.Errorf("replay the registry's log: %w", err)
	}
	return nil
}
