package file

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"penstock/registry"
	"penstock/registry/logs/frame"
)

const (
	magic         = "PENSTREG"
	formatVersion = 1
	headerSize    = int64(len(magic) + 8)
	frameHead     = 12
	// maxFrame bounds one append, in bytes.
	maxFrame = 1 << 30
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

func appendHeader(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(append(b, magic...), formatVersion)
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

// appendFrame writes the frame of one append after position prev.
func appendFrame(b []byte, prev uint64, events []registry.Event) ([]byte, error) {
	start := len(b)
	b = append(b, make([]byte, frameHead)...)
	b = frame.Append(binary.LittleEndian.AppendUint64(b, prev), events)
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

// scan reads a log of the given size and calls fn for each event. It returns
// where the last whole frame ends, and the position after it. end below size
// says that the last append was cut off: every append is synced before the
// next begins, so a crash leaves at most one frame that is not whole, and
// nothing after it. A frame that is damaged and has another after it is a
// *CorruptError.
func scan(r io.ReaderAt, size int64, fn func(registry.Event) error) (end int64, position uint64, err error) {
	if err := checkHeader(r, size); err != nil {
		return 0, 0, err
	}
	end = headerSize
	head := make([]byte, frameHead)
	for end < size {
		if size-end < frameHead {
			return end, position, nil
		}
		if _, err := r.ReadAt(head, end); err != nil {
			return end, position, fmt.Errorf("read at byte %d: %w", end, err)
		}
		length, ok := frameLength(head)
		if !ok {
			if next, err := nextFrame(r, end+1, size); err != nil {
				return end, position, err
			} else if next > 0 {
				return end, position, &CorruptError{Offset: end, Reason: fmt.Sprintf("the length of a record does not fit its checksum, and there are more records from byte %d on", next)}
			}
			return end, position, nil
		}
		if length > size-end-frameHead {
			return end, position, nil
		}
		content := make([]byte, length)
		if _, err := r.ReadAt(content, end+frameHead); err != nil {
			return end, position, fmt.Errorf("read at byte %d: %w", end, err)
		}
		next := end + frameHead + length
		if checksum(content) != binary.LittleEndian.Uint32(head[8:]) {
			if next < size {
				return end, position, &CorruptError{Offset: end, Reason: fmt.Sprintf("the checksum of a record of %d bytes is wrong, and there is more after it", length)}
			}
			return end, position, nil
		}
		events, err := readFrame(content, position)
		if err != nil {
			return end, position, &CorruptError{Offset: end, Reason: err.Error()}
		}
		for _, e := range events {
			if err := fn(e); err != nil {
				return end, position, err
			}
			position = e.Position
		}
		end = next
	}
	return end, position, nil
}

func checkHeader(r io.ReaderAt, size int64) error {
	b := make([]byte, headerSize)
	if size < headerSize {
		return &CorruptError{Reason: fmt.Sprintf("it has %d bytes, less than the header of a registry log", size)}
	}
	if _, err := r.ReadAt(b, 0); err != nil {
		return fmt.Errorf("read header: %w", err)
	}
	if !bytes.HasPrefix(b, []byte(magic)) {
		return &CorruptError{Reason: "it is not a registry log"}
	}
	if checksum(b[:headerSize-4]) != binary.LittleEndian.Uint32(b[headerSize-4:]) {
		return &CorruptError{Reason: "the checksum of the header is wrong"}
	}
	if v := binary.LittleEndian.Uint32(b[len(magic):]); v != formatVersion {
		return fmt.Errorf("it has format version %d, and this program knows %d only: use the program that wrote it, or a newer one", v, formatVersion)
	}
	return nil
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

// readFrame reads the content of a frame that follows position prev. The
// events share its memory.
func readFrame(b []byte, prev uint64) ([]registry.Event, error) {
	if len(b) < 8 {
		return nil, fmt.Errorf("a record has %d bytes, too few for any", len(b))
	}
	if got := binary.LittleEndian.Uint64(b); got != prev {
		return nil, fmt.Errorf("a record follows position %d, expected %d: records are missing, or stand twice", got, prev)
	}
	events, err := frame.Read(b[8:])
	for i := range events {
		events[i].Position = prev + uint64(i) + 1
	}
	return events, err
}
