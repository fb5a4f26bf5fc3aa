package federated

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"

	"penstock/consumers/federated/strategies"
)

// errDisk is the error of the files in which numbers are kept that memory is not for.
var errDisk = errors.New("numbers are kept in temporary files (TMPDIR says where)")

// newSpill makes a file that has no name, so that nothing is left of it when the process
// ends, however it does.
func newSpill() (*os.File, error) {
	file, err := os.CreateTemp("", "penstock-federated-")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(file.Name()) // some systems keep the name of an open file
	return file, nil
}

// spilled are the values of updates, one after the other in a file: little-endian
// float32, as many of each. The zero spilled has none.
type spilled struct {
	file *os.File
	dim  int
	n    int
}

// add keeps more updates: all of them, or none if there is an error.
func (s *spilled) add(updates ...[]Tensor) error {
	if err := s.write(updates); err != nil {
		return fmt.Errorf("keep an update: %w: %w", errDisk, err)
	}
	s.n += len(updates)
	return nil
}

func (s *spilled) write(updates [][]Tensor) (err error) {
	if s.file == nil && len(updates) > 0 {
		s.dim = elements(updates[0])
		if s.file, err = newSpill(); err != nil {
			return err
		}
	}
	block := make([]byte, 0, min(blockSize, 4*s.dim))
	for i, u := range updates {
		at := s.offset(s.n + i)
		for _, t := range u {
			for values := t.Values; len(values) > 0; {
				b := block
				for _, v := range values[:min(len(values), cap(block)/4)] {
					b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
				}
				if _, err := s.file.WriteAt(b, at); err != nil {
					return err
				}
				values, at = values[len(b)/4:], at+int64(len(b))
			}
		}
	}
	return nil
}

// offset is where update i begins.
func (s *spilled) offset(i int) int64 { return 4 * int64(i) * int64(s.dim) }

// close lets go of the updates, and of the room that they take.
func (s *spilled) close() {
	if s.file != nil {
		_ = s.file.Close() // nobody needs what it holds
	}
	*s = spilled{}
}

func closeAll(partials []*partial) {
	for _, p := range partials {
		p.spilled.close()
	}
}

// rows are updates as robust strategies read them.
type rows struct {
	dim     int
	counted []Contribution
	at      []place     // of each
	blocks  chan []byte // that are free, each of blockSize
}

// place is where the values of an update are.
type place struct {
	in     io.ReaderAt
	offset int64
}

// combine is what a robust strategy makes of the updates of partials, which it reads
// through memory where the system can map files.
func combine(s strategies.Robust, partials []*partial) (model []float64, err error) {
	all := rows{blocks: make(chan []byte, runtime.GOMAXPROCS(0))}
	for _, p := range partials {
		in, unmap, err := mapFile(p.spilled.file, p.spilled.offset(p.spilled.n))
		if err != nil {
			return nil, fmt.Errorf("read updates: %w: %w", errDisk, err)
		}
		defer unmap()
		all.dim = p.spilled.dim
		all.counted = append(all.counted, p.counted...)
		for i := range p.spilled.n {
			all.at = append(all.at, place{in, p.spilled.offset(i)})
		}
	}
	return s.Combine(all)
}

func (r rows) Len() int { return len(r.at) }

func (r rows) Dim() int { return r.dim }

func (r rows) Samples(i int) float64 { return float64(r.counted[i].Samples) }

func (r rows) Read(i, from int, dst []float64) error {
	var block []byte
	select {
	case block = <-r.blocks:
	default:
		block = make([]byte, blockSize)
	}
	defer func() {
		select {
		case r.blocks <- block:
		default:
		}
	}()
	for at := r.at[i].offset + 4*int64(from); len(dst) > 0; {
		b := block[:4*min(len(dst), blockSize/4)]
		if _, err := r.at[i].in.ReadAt(b, at); err != nil {
			return fmt.Errorf("read updates: %w: %w", errDisk, err)
		}
		at += int64(len(b))
		for j := range dst[:len(b)/4] {
			dst[j] = float64(math.Float32frombits(binary.LittleEndian.Uint32(b[4*j:])))
		}
		dst = dst[len(b)/4:]
	}
	return nil
}

// blanks are so many updates of one value.
type blanks int

func (z blanks) Len() int { return int(z) }

func (blanks) Dim() int { return 1 }

func (blanks) Samples(int) float64 { return 1 }

func (blanks) Read(_, _ int, dst []float64) error {
	clear(dst)
	return nil
}

// enough says why so many clients are too few for s.
func enough(s strategies.Strategy, clients int) error {
	robust, ok := s.(strategies.Robust)
	if !ok {
		return nil
	}
	_, err := robust.Combine(blanks(clients))
	return err
}
