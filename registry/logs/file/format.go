package file

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"

	"penstock/registry"
	"penstock/registry/logs/frame"
)

const (
	magic = "PENSTREG"
	// A log of version 1 has no compacted frames; one of version 2 begins with
	// them.
	plainVersion, compactedVersion = 1, 2
	headerSize                     = int64(len(magic) + 8)
	frameHead                      = 12
	// maxFrame bounds one append, in bytes.
	maxFrame = 1 << 30
	// These in the place of the number of events are a compacted frame, and the
	// last of them.
	compacted, lastCompacted = math.MaxUint32 - 1, math.MaxUint32
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// CorruptError says where a log is damaged in a way that no crash explains.
type CorruptError struct {
	Path   string
	Offset int64
	Reason string
}

// Error says what to do as well.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %s; restore it from a copy, or, to go on with what is before that byte, truncate a copy of it there", e.Path, e.Offset, e.Reason)
}

func appendHeader(b []byte, version uint32) []byte {
	b = binary.LittleEndian.AppendUint32(append(b, magic...), version)
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

// appendFrame writes the frame of one append after position prev.
func appendFrame(b []byte, prev uint64, events []registry.Event) ([]byte, error) {
	start, size := len(b), frameHead+12
	for _, e := range events {
		size += 16 + len(e.Key) + len(e.Value)
	}
	b = slices.Grow(b, size)
	b = append(b, make([]byte, frameHead)...)
	b = frame.Append(binary.LittleEndian.AppendUint64(b, prev), events)
	return seal(b, start)
}

// appendCompacted writes the frame of a stretch of the log that was compacted:
// of the events after position prev and up to end only those are left. kind is
// compacted or lastCompacted.
func appendCompacted(b []byte, kind uint32, prev, end uint64, events []registry.Event) ([]byte, error) {
	start := len(b)
	b = append(b, make([]byte, frameHead)...)
	b = binary.LittleEndian.AppendUint64(b, prev)
	b = binary.LittleEndian.AppendUint32(b, kind)
	b = binary.LittleEndian.AppendUint64(b, end)
	for _, e := range events {
		b = binary.LittleEndian.AppendUint64(b, e.Position)
		b = frame.AppendEvent(b, e)
	}
	return seal(b, start)
}

// seal fills in the head of the frame that begins at start.
func seal(b []byte, start int) ([]byte, error) {
	content := b[start+frameHead:]
	if len(content) > maxFrame {
		return nil, fmt.Errorf("the events have %d bytes, more than the limit of %d", len(content), maxFrame)
	}
	head := b[start:]
	binary.LittleEndian.PutUint32(head, uint32(len(content)))
	binary.LittleEndian.PutUint32(head[4:], checksum(head[:4]))
	binary.LittleEndian.PutUint32(head[8:], checksum(content))
	return b, nil
}

// extent says what a scan has found.
type extent struct {
	end      int64  // of the last whole frame
	position uint64 // after it
	// compactedEnd is where the compacted frames end, and compacted the
	// position after them; 0 if there are none.
	compactedEnd int64
	compacted    uint64
}

// scan reads a log of the given size and calls fn for each event. x.end below
// size says that the last append was cut off: every append is synced before the
// next begins, so a crash leaves at most one frame that is not whole, and
// nothing after it. A frame that is damaged and has another after it is a
// *CorruptError.
//
// Events that are kept are fn's for good; others have their memory until fn
// returns.
func scan(r io.ReaderAt, size int64, kept bool, fn func(registry.Event) error) (x extent, err error) {
	version, err := checkHeader(r, size)
	if err != nil {
		return x, err
	}
	x, err = scanFrames(&reader{r: r, size: size, kept: kept}, fn)
	if err == nil && version == compactedVersion && x.compactedEnd == 0 {
		// It was on the disk, as a whole, before it had its name.
		err = &CorruptError{Offset: x.end, Reason: "the compacted part of the log does not come to its end"}
	}
	return x, err
}

func scanFrames(in *reader, fn func(registry.Event) error) (x extent, err error) {
	x.end = headerSize
	size := in.size
	for x.end < size {
		if size-x.end < frameHead {
			return x, nil
		}
		head, err := in.read(x.end, frameHead)
		if err != nil {
			return x, err
		}
		length, ok := frameLength(head)
		if !ok {
			if next, err := nextFrame(in.r, x.end+1, size); err != nil {
				return x, err
			} else if next > 0 {
				return x, &CorruptError{Offset: x.end, Reason: fmt.Sprintf("the length of a record does not fit its checksum, and there are more records from byte %d on", next)}
			}
			return x, nil
		}
		if length > size-x.end-frameHead {
			return x, nil
		}
		sum := binary.LittleEndian.Uint32(head[8:]) // before reading on
		content, err := in.read(x.end+frameHead, length)
		if err != nil {
			return x, err
		}
		next := x.end + frameHead + length
		if checksum(content) != sum {
			if next < size {
				return x, &CorruptError{Offset: x.end, Reason: fmt.Sprintf("the checksum of a record of %d bytes is wrong, and there is more after it", length)}
			}
			return x, nil
		}
		events, end, err := readFrame(content, x.position)
		if err != nil {
			return x, &CorruptError{Offset: x.end, Reason: err.Error()}
		}
		for _, e := range events {
			if err := fn(e); err != nil {
				return x, err
			}
		}
		x.end, x.position = next, end
		if binary.LittleEndian.Uint32(content[8:]) == lastCompacted {
			x.compactedEnd, x.compacted = next, end
		}
	}
	return x, nil
}

// reader reads ahead. What it returns stays as it is if that is kept, else until
// it reads again.
type reader struct {
	r     io.ReaderAt
	size  int64
	kept  bool
	at    int64
	ahead []byte
}

const readAhead = 256 << 10

func (r *reader) read(at, n int64) ([]byte, error) {
	if at < r.at || at+n > r.at+int64(len(r.ahead)) {
		length := int(min(max(n, readAhead), r.size-at))
		if r.kept || cap(r.ahead) < length {
			r.ahead = make([]byte, length)
		}
		r.at, r.ahead = at, r.ahead[:length]
		if _, err := r.r.ReadAt(r.ahead, at); err != nil {
			r.ahead = nil
			return nil, fmt.Errorf("read at byte %d: %w", at, err)
		}
	}
	return r.ahead[at-r.at:][:n:n], nil
}

// checkHeader returns the version of a log.
func checkHeader(r io.ReaderAt, size int64) (version uint32, err error) {
	b := make([]byte, headerSize)
	if size < headerSize {
		return 0, &CorruptError{Reason: fmt.Sprintf("it has %d bytes, less than the header of a registry log", size)}
	}
	if _, err := r.ReadAt(b, 0); err != nil {
		return 0, fmt.Errorf("read header: %w", err)
	}
	if !bytes.HasPrefix(b, []byte(magic)) {
		return 0, &CorruptError{Reason: "it is not a registry log"}
	}
	if checksum(b[:headerSize-4]) != binary.LittleEndian.Uint32(b[headerSize-4:]) {
		return 0, &CorruptError{Reason: "the checksum of the header is wrong"}
	}
	version = binary.LittleEndian.Uint32(b[len(magic):])
	if version != plainVersion && version != compactedVersion {
		return 0, fmt.Errorf("it has format version %d, and this program knows up to %d: use the program that wrote it, or a newer one", version, compactedVersion)
	}
	return version, nil
}

func frameLength(head []byte) (length int64, ok bool) {
	length = int64(binary.LittleEndian.Uint32(head))
	return length, checksum(head[:4]) == binary.LittleEndian.Uint32(head[4:]) && length <= maxFrame
}

// nextFrame finds a whole frame at or after an offset, 0 if there is none. It
// is asked only where a length is damaged.
func nextFrame(r io.ReaderAt, from, size int64) (int64, error) {
	const window = 1 << 20
	buf := make([]byte, window+frameHead)
	for ; from < size; from += window {
		n, err := r.ReadAt(buf[:min(int64(len(buf)), size-from)], from)
		if err != nil && err != io.EOF {
			return 0, fmt.Errorf("read at byte %d: %w", from, err)
		}
		for i := 0; i+frameHead <= n && i < window; i++ {
			length, ok := frameLength(buf[i:])
			at := from + int64(i)
			if !ok || length > size-at-frameHead {
				continue
			}
			content := make([]byte, length)
			if _, err := r.ReadAt(content, at+frameHead); err != nil {
				return 0, fmt.Errorf("read at byte %d: %w", at, err)
			}
			if checksum(content) == binary.LittleEndian.Uint32(buf[i+8:]) {
				return at, nil
			}
		}
	}
	return 0, nil
}

// readFrame reads the content of a frame that follows position prev, and
// returns the position after it. The events share its memory.
func readFrame(b []byte, prev uint64) (events []registry.Event, end uint64, err error) {
	if len(b) < 12 {
		return nil, 0, fmt.Errorf("a record has %d bytes, too few for any", len(b))
	}
	if got := binary.LittleEndian.Uint64(b); got != prev {
		return nil, 0, fmt.Errorf("a record follows position %d, expected %d: records are missing, or stand twice", got, prev)
	}
	if kind := binary.LittleEndian.Uint32(b[8:]); kind == compacted || kind == lastCompacted {
		return readCompacted(b[12:], prev)
	}
	events, err = frame.Read(b[8:])
	for i := range events {
		events[i].Position = prev + uint64(i) + 1
	}
	return events, prev + uint64(len(events)), err
}

func readCompacted(b []byte, prev uint64) (events []registry.Event, end uint64, err error) {
	short := errors.New("a compacted record ends within an event")
	if len(b) < 8 {
		return nil, 0, short
	}
	end = binary.LittleEndian.Uint64(b)
	for b = b[8:]; len(b) > 0; {
		if len(b) < 8 {
			return nil, 0, short
		}
		position := binary.LittleEndian.Uint64(b)
		var e registry.Event
		if e, b, err = frame.ReadEvent(b[8:]); err != nil {
			return nil, 0, err
		}
		if position <= prev {
			return nil, 0, fmt.Errorf("an event of a compacted record has position %d and follows %d", position, prev)
		}
		e.Position, prev = position, position
		events = append(events, e)
	}
	if end < prev {
		return nil, 0, fmt.Errorf("a compacted record ends at position %d, its last event at %d", end, prev)
	}
	return events, end, nil
}
