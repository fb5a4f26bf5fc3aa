package diffing

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Errors of Open and of Write.
var (
	// ErrInUse says that another process has the state folder open.
	ErrInUse = errors.New("state folder is in use by another process")
	// ErrCorrupt says that the state folder does not hold what was written
	// there.
	ErrCorrupt = errors.New("state is corrupted: remove the folder to build it again from the topic, which emits the events again")
)

const (
	stateFile   = "diff.db"
	stateFormat = 1
	lockTimeout = time.Second
	// maxKey keeps keys below bbolt's limit of 32,768 bytes.
	maxKey = 32_000
)

// store is the state of a differ: one bbolt file.
//
//	input       who the state belongs to, as JSON
//	positions/  partition number -> next offset, number of keys
//	values/     a bucket a partition: '=' and the key -> canonical JSON
//
// Every value ends with a CRC-32C over its key and itself.
type store struct {
	db    *bolt.DB
	stuck atomic.Bool // a panic in Update may have left its lock taken
}

var (
	inputBucket     = []byte("input")
	inputKey        = []byte("input")
	positionsBucket = []byte("positions")
	valuesBucket    = []byte("values")
	castagnoli      = crc32.MakeTable(crc32.Castagnoli)
)

// input is what the state belongs to.
type input struct {
	Format      int    `json:"format"`
	KeyField    string `json:"key_field,omitempty"`
	Cluster     string `json:"cluster"`
	Topic       string `json:"topic"`
	Incarnation string `json:"incarnation"`
}

// position is how far a partition has come.
type position struct {
	next int64 // the offset after the last record that was dealt with
	keys int64 // how many keys have a value
}

// openStore opens the state in dir, which it makes if it is not there, and
// reads all of it once to see that it is whole.
func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	s := &store{}
	err := guard(func() error {
		var err error
		s.db, err = bolt.Open(filepath.Join(dir, stateFile), 0o600, &bolt.Options{Timeout: lockTimeout})
		var path *fs.PathError
		switch {
		case errors.Is(err, bolterrors.ErrTimeout):
			return ErrInUse
		case err != nil && !errors.As(err, &path): // not the system's: the file is not what it should be
			return fmt.Errorf("%w (%w)", ErrCorrupt, err)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open state folder %q: %w", dir, err)
	}
	if err := s.view(verify); err != nil {
		return nil, errors.Join(fmt.Errorf("open state folder %q: %w", dir, err), s.close())
	}
	return s, nil
}

// close may be called more than once.
func (s *store) close() error {
	if s.stuck.Load() {
		return nil // the file is closed when the process ends
	}
	return guard(s.db.Close)
}

// guard calls fn, which uses bbolt. bbolt trusts its pages: where they are
// damaged it panics, or follows a number out of the mapped file, which is a
// fault. guard makes either of them ErrCorrupt.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w (%v)", ErrCorrupt, r)
		}
	}()
	return fn()
}

func (s *store) view(fn func(tx *bolt.Tx) error) error {
	return guard(func() error { return s.db.View(fn) })
}

func (s *store) update(fn func(tx *bolt.Tx) error) error {
	finished := false
	err := guard(func() error {
		err := s.db.Update(fn)
		finished = true
		return err
	})
	if !finished {
		s.stuck.Store(true)
	}
	return err
}

// verify reads every checksum, finds every key again from the root, and
// compares the number of keys.
func verify(tx *bolt.Tx) error {
	if tx.Bucket(inputBucket) != nil {
		if _, err := readInput(tx); err != nil {
			return err
		}
	}
	keys := map[string]int64{}
	if values := tx.Bucket(valuesBucket); values != nil {
		err := values.ForEachBucket(func(partition []byte) error {
			b := values.Bucket(partition)
			return b.ForEach(func(k, v []byte) error {
				keys[string(partition)]++
				if _, err := unseal(k, v); err != nil {
					return err
				}
				if b.Get(k) == nil {
					return fmt.Errorf("%w (%.40q is not found where it should be)", ErrCorrupt, k)
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	if positions := tx.Bucket(positionsBucket); positions != nil {
		err := positions.ForEach(func(k, v []byte) error {
			p, err := readPosition(k, v)
			if err == nil && p.keys != keys[string(k)] {
				err = fmt.Errorf("%w (partition %x has %d keys, not %d)", ErrCorrupt, k, keys[string(k)], p.keys)
			}
			delete(keys, string(k))
			return err
		})
		if err != nil {
			return err
		}
	}
	for partition := range keys {
		return fmt.Errorf("%w (partition %x has no position)", ErrCorrupt, partition)
	}
	return nil
}

// claim binds an empty store to what it belongs to, or returns what it belongs
// to already.
func (s *store) claim(want input) (input, error) {
	var have input
	err := s.update(func(tx *bolt.Tx) error {
		if tx.Bucket(inputBucket) != nil {
			var err error
			have, err = readInput(tx)
			return err
		}
		b, err := tx.CreateBucket(inputBucket)
		if err != nil {
			return err
		}
		text, err := json.Marshal(want)
		if err != nil {
			return err
		}
		have = want
		return b.Put(inputKey, seal(inputKey, text))
	})
	return have, err
}

func readInput(tx *bolt.Tx) (input, error) {
	var in input
	text, err := unseal(inputKey, tx.Bucket(inputBucket).Get(inputKey))
	if err != nil {
		return in, err
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return in, fmt.Errorf("%w (%w)", ErrCorrupt, err)
	}
	if in.Format != stateFormat {
		return in, fmt.Errorf("its format is %d, of which this program, which writes %d, knows nothing", in.Format, stateFormat)
	}
	return in, nil
}

// position returns how far a partition has come; ok is false if it has not
// begun.
func (s *store) position(partition int32) (p position, ok bool, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		p, ok, err = positionIn(tx, partition)
		return err
	})
	return p, ok, err
}

func positionIn(tx *bolt.Tx, partition int32) (p position, ok bool, err error) {
	b := tx.Bucket(positionsBucket)
	if b == nil {
		return p, false, nil
	}
	k := partitionKey(partition)
	v := b.Get(k)
	if v == nil {
		return p, false, nil
	}
	p, err = readPosition(k, v)
	return p, err == nil, err
}

func readPosition(k, v []byte) (position, error) {
	v, err := unseal(k, v)
	if err != nil {
		return position{}, err
	}
	if len(v) != 16 {
		return position{}, fmt.Errorf("%w (a position of %d bytes)", ErrCorrupt, len(v))
	}
	return position{
		next: int64(binary.BigEndian.Uint64(v)),
		keys: int64(binary.BigEndian.Uint64(v[8:])),
	}, nil
}

// read calls fn with a function that returns the value of a key, nil if it has
// none. The values are valid until fn returns.
func (s *store) read(partition int32, fn func(get func(key string) ([]byte, error)) error) error {
	return s.view(func(tx *bolt.Tx) error {
		var b *bolt.Bucket
		if values := tx.Bucket(valuesBucket); values != nil {
			b = values.Bucket(partitionKey(partition))
		}
		return fn(func(key string) ([]byte, error) {
			if b == nil {
				return nil, nil
			}
			k := valueKey(key)
			v := b.Get(k)
			if v == nil {
				return nil, nil
			}
			return unseal(k, v)
		})
	})
}

// commit stores the values (nil deletes a key) and moves the partition's
// position from the one given to next, in one transaction. moved is false, and
// nothing is stored, if the position is another one by now.
func (s *store) commit(partition int32, from position, begun bool, next int64, values map[string][]byte) (moved bool, err error) {
	err = s.update(func(tx *bolt.Tx) error {
		now, ok, err := positionIn(tx, partition)
		if err != nil || now != from || ok != begun {
			return err
		}
		positions, err := tx.CreateBucketIfNotExists(positionsBucket)
		if err != nil {
			return err
		}
		all, err := tx.CreateBucketIfNotExists(valuesBucket)
		if err != nil {
			return err
		}
		b, err := all.CreateBucketIfNotExists(partitionKey(partition))
		if err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(values)) { // in order, as bbolt stores them
			k, v := valueKey(key), values[key]
			was := b.Get(k) != nil
			switch {
			case v != nil:
				if err := b.Put(k, seal(k, v)); err != nil {
					return err
				}
				if !was {
					now.keys++
				}
			case was:
				if err := b.Delete(k); err != nil {
					return err
				}
				now.keys--
			}
		}
		k := partitionKey(partition)
		v := binary.BigEndian.AppendUint64(nil, uint64(next))
		v = binary.BigEndian.AppendUint64(v, uint64(now.keys))
		moved = true
		return positions.Put(k, seal(k, v))
	})
	return moved && err == nil, err
}

func partitionKey(partition int32) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(partition))
}

// valueKey has a byte before the key, because bbolt refuses an empty one.
func valueKey(key string) []byte {
	return append([]byte{'='}, key...)
}

func checksum(k, v []byte) uint32 {
	return crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, v)
}

func seal(k, v []byte) []byte {
	sealed := make([]byte, 0, len(v)+4)
	return binary.BigEndian.AppendUint32(append(sealed, v...), checksum(k, v))
}

func unseal(k, sealed []byte) ([]byte, error) {
	n := len(sealed) - 4
	if n < 0 || binary.BigEndian.Uint32(sealed[n:]) != checksum(k, sealed[:n]) {
		return nil, fmt.Errorf("%w (the checksum of %.40q is wrong)", ErrCorrupt, k)
	}
	return sealed[:n], nil
}
