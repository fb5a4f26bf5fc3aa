package linking

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"penstock/registry"
)

// MaxRecord bounds a line of a file of records, in bytes.
const MaxRecord = 32 << 20

// record is a line of a file: a record of the log, in the form of Confluent's
// _schemas topic.
type record struct {
	Key   json.RawMessage `json:"key"`
	Value json.RawMessage `json:"value"` // null is a tombstone
	Time  int64           `json:"ts,omitempty"`
}

// WriteRecords writes what a log holds, a JSON object a line with key, value
// and ts, the time of the record in milliseconds since 1970. Records that make
// no difference are left out, see registry.Compaction.
func WriteRecords(ctx context.Context, w io.Writer, log registry.Log) (written int, err error) {
	c := registry.NewCompaction()
	err = log.Replay(ctx, 0, func(e registry.Event) error {
		c.Add(e)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read the log: %w", err)
	}
	out := bufio.NewWriter(w)
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	err = log.Replay(ctx, 0, func(e registry.Event) error {
		if !c.Keep(e) {
			return nil
		}
		written++
		r := record{e.Key, e.Value, e.Time.UnixMilli()}
		if e.Value == nil {
			r.Value = json.RawMessage("null")
		}
		return lines.Encode(r)
	})
	if err = errors.Join(err, out.Flush()); err != nil {
		return written, fmt.Errorf("write records: %w", err)
	}
	return written, nil
}

// ReadRecords reads a file that WriteRecords wrote, or lines of key and value
// with a tab between, as console consumers print the topic _schemas, and
// appends them to a log that is empty. Its error names the line.
func ReadRecords(ctx context.Context, r io.Reader, log registry.Log) (read int, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), MaxRecord)
	position, number := uint64(0), 0
	var batch []registry.Event
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		var err error
		position, err = log.Append(ctx, position, batch...)
		read += len(batch)
		batch = batch[:0]
		return err
	}
	for lines.Scan() {
		number++
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		e, err := parseRecord(line)
		if err != nil {
			return read, fmt.Errorf("read line %d: %w", number, err)
		}
		if batch = append(batch, e); len(batch) == 1000 {
			if err := flush(); err != nil {
				return read, err
			}
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return read, fmt.Errorf("read line %d: expected at most %d bytes, found more", number+1, MaxRecord)
	}
	if err := lines.Err(); err != nil {
		return read, fmt.Errorf("read records: %w", err)
	}
	return read, flush()
}

// parseRecord reads one line. What it returns holds no part of the line.
func parseRecord(line []byte) (registry.Event, error) {
	key, value, tabbed := bytes.Cut(line, []byte("\t"))
	if tabbed && json.Valid(key) && (json.Valid(value) || string(value) == "null") {
		return event(key, value, 0), nil
	}
	var r record
	if err := json.Unmarshal(line, &r); err != nil || len(r.Key) == 0 || r.Key[0] != '{' {
		return registry.Event{}, errors.New(`expected an object with key and value, or both with a tab between, found something else; is this a file of 'penstock registry export', or the topic _schemas as printed with its keys?`)
	}
	return event(r.Key, r.Value, r.Time), nil
}

func event(key, value []byte, ms int64) registry.Event {
	e := registry.Event{Key: bytes.Clone(key), Time: time.UnixMilli(ms).UTC()}
	if len(value) > 0 && string(value) != "null" {
		e.Value = bytes.Clone(value)
	}
	return e
}
