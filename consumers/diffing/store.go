package diffing

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"penstock/stream"
)

// Errors of Open and of Write.
var (
	// ErrInUse says that another process has the state folder open.
	ErrInUse = errors.New("state folder is in use by another process")
	// ErrCorrupt says that the state does not hold what was written there.
	ErrCorrupt = errors.New("state is corrupted")
)

// memtable is how much is gathered in memory before it goes to the disk, and so
// what a kill undoes at most; the log has it.
const memtable = 8 << 20

// store is the state of a differ in a folder: a copy of the logs of its
// partitions. It is written without waiting for the disk: what a crash leaves is
// what was true some time before, and the cursor that was true then. Each block
// has a checksum, which is looked at whenever it is read.
//
//	c PARTITION           cursor, as JSON
//	v PARTITION KEY       entry
//	t PARTITION TIME KEY  nothing: the keys by when they were last seen, for a TTL
type store struct {
	dir   string
	cache int64
	log   *slog.Logger
	lock  *pebble.Lock
	timed bool // keys are listed by time

	mu sync.RWMutex // held to read while db is used, to write while it is made anew
	db *pebble.DB
	// lives counts how often the state was made anew.
	lives int
	// torn says that the database has panicked, and may hold its locks.
	torn atomic.Bool
}

// cursor says up to where a partition's log is in the store.
type cursor struct {
	// Log tells one life of the log from another.
	Log  string `json:"log"`
	Next int64  `json:"next"`
	// At is when that was, in Unix seconds. The log keeps tombstones for a day.
	At    int64 `json:"at"`
	Timed bool  `json:"timed,omitempty"`
	// Head says what the log belongs to, if it says that yet.
	Head string `json:"head,omitempty"`
}

// openStore opens the state in dir, which it makes if it is not there. What is
// corrupted is thrown away.
func openStore(dir string, cache int64, timed bool, log *slog.Logger) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	s := &store{dir: dir, cache: cache, log: log, timed: timed}
	var err error
	if s.lock, err = pebble.LockDirectory(dir, vfs.Default); err != nil {
		if path := (*fs.PathError)(nil); errors.As(err, &path) {
			return nil, fmt.Errorf("open state folder %q: %w", dir, err)
		}
		return nil, fmt.Errorf("open state folder %q: %w", dir, ErrInUse)
	}
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open state folder %q: %w", dir, err), s.lock.Close())
	}
	return s, nil
}

// open opens the database, or makes it anew.
func (s *store) open() error {
	path := filepath.Join(s.dir, "db")
	cache := pebble.NewCache(s.cache)
	defer cache.Unref()
	filter := bloom.FilterPolicy(10)
	options := &pebble.Options{
		Cache: cache, DisableWAL: true, MemTableSize: memtable, Logger: quiet{s.log},
		FormatMajorVersion: pebble.FormatNewest,
		// The default ends the process; here the error comes back to who reads.
		EventListener: &pebble.EventListener{
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				s.log.Warn("state is corrupted", "file", i.Path, "error", i.Details)
			},
			BackgroundError: func(err error) { s.log.Warn("state", "error", err) },
		},
	}
	for i := range options.Levels {
		options.Levels[i].FilterPolicy = filter
	}
	db, err := openDB(path, options)
	if err != nil {
		var system *fs.PathError
		if errors.As(err, &system) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.log.Warn("state is corrupted and made anew", "folder", s.dir, "error", err)
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if db, err = openDB(path, options); err != nil {
			return err
		}
	}
	s.db = db
	s.lives++
	return nil
}

// openDB makes an error of a panic: the library trusts some of what it reads.
func openDB(path string, options *pebble.Options) (db *pebble.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w (%v)", ErrCorrupt, r)
		}
	}()
	return pebble.Open(path, options)
}

// quiet logs what the database says.
type quiet struct{ log *slog.Logger }

func (q quiet) Infof(format string, args ...any)  { q.log.Debug(fmt.Sprintf(format, args...)) }
func (q quiet) Errorf(format string, args ...any) { q.log.Warn(fmt.Sprintf(format, args...)) }
func (q quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// renew throws the state away, unless that has happened since the given life.
func (s *store) renew(life int, why error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lives != life {
		return nil
	}
	s.log.Warn("state is corrupted and made anew", "folder", s.dir, "error", why)
	if !s.torn.Swap(false) {
		_ = s.db.Close() // it is of no more use
	}
	if err := os.RemoveAll(filepath.Join(s.dir, "db")); err != nil {
		return err
	}
	return s.open()
}

// close may be called more than once.
func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil
	}
	var err error
	if !s.torn.Load() {
		err = errors.Join(s.db.Flush(), s.db.Close())
	}
	s.db = nil
	return errors.Join(err, s.lock.Close())
}

// use calls fn with the database, and marks its errors that say it is corrupted.
// So is a panic: the library trusts some of what it reads.
func (s *store) use(fn func(db *pebble.DB) error) (err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	defer func() {
		if r := recover(); r != nil {
			s.torn.Store(true)
			err = fmt.Errorf("%w (%v)", ErrCorrupt, r)
		}
	}()
	if s.db == nil {
		return errors.New("the state is closed")
	}
	err = fn(s.db)
	if err != nil && pebble.IsCorruptionError(err) && !errors.Is(err, ErrCorrupt) {
		err = fmt.Errorf("%w (%w)", ErrCorrupt, err)
	}
	return err
}

// life is how often the state was made anew until now.
func (s *store) life() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.lives
}

func rowKey(kind byte, partition int32, rest ...string) []byte {
	k := binary.BigEndian.AppendUint32([]byte{kind}, uint32(partition))
	for _, r := range rest {
		k = append(k, r...)
	}
	return k
}

func timeOf(seen int64) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(seen)^1<<63))
}

// cursor returns how far a partition's log is here, if at all.
func (s *store) cursor(partition int32) (c cursor, ok bool, err error) {
	err = s.use(func(db *pebble.DB) error {
		v, closer, err := db.Get(rowKey('c', partition))
		if errors.Is(err, pebble.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		defer closer.Close()
		ok = true
		if err := json.Unmarshal(v, &c); err != nil {
			return fmt.Errorf("%w (%w)", ErrCorrupt, err)
		}
		return nil
	})
	return c, ok && err == nil, err
}

// get returns the entry of a key; nil if it has none.
func (s *store) get(partition int32, key string) (e *entry, err error) {
	err = s.use(func(db *pebble.DB) error {
		v, closer, err := db.Get(rowKey('v', partition, key))
		if errors.Is(err, pebble.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		defer closer.Close()
		e, err = parseEntry(slices.Clone(v))
		return err
	})
	return e, err
}

// update is a new entry of a key; nil deletes it.
type update struct {
	key   string
	entry *entry
}

// take stores what records of a partition's log say, with the cursor behind them,
// which it returns.
func (s *store) take(partition int32, records []stream.Record, c cursor) (cursor, error) {
	c.Next = records[len(records)-1].Offset + 1
	if s.timed { // where a key was before has to be known
		var updates []update
		at := make(map[string]int, len(records))
		head, err := readLog(records, func(key []byte, e *entry, _ []byte) error {
			i, twice := at[string(key)]
			if !twice {
				i = len(updates)
				at[string(key)] = i
				updates = append(updates, update{})
			}
			updates[i] = update{string(key), e}
			return nil
		})
		if err != nil {
			return c, err
		}
		c.Head = cmp.Or(head, c.Head)
		err = s.apply(partition, updates, c)
		return c, err
	}
	err := s.use(func(db *pebble.DB) error {
		batch := db.NewBatch()
		defer batch.Close()
		prefix := rowKey('v', partition, "")
		head, err := readLog(records, func(key []byte, e *entry, raw []byte) error {
			size := len(prefix) + len(key)
			if e == nil {
				op := batch.DeleteDeferred(size)
				copy(op.Key[copy(op.Key, prefix):], key)
				return op.Finish()
			}
			op := batch.SetDeferred(size, len(raw))
			copy(op.Key[copy(op.Key, prefix):], key)
			copy(op.Value, raw)
			return op.Finish()
		})
		if err != nil {
			return err
		}
		c.Head = cmp.Or(head, c.Head)
		return s.commit(batch, partition, c)
	})
	return c, err
}

// commit writes a batch with the cursor that goes with it.
func (s *store) commit(batch *pebble.Batch, partition int32, c cursor) error {
	c.At, c.Timed = time.Now().Unix(), s.timed
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := batch.Set(rowKey('c', partition), text, nil); err != nil {
		return err
	}
	return batch.Commit(pebble.NoSync)
}

// apply stores entries and the cursor that goes with them. The keys differ.
func (s *store) apply(partition int32, updates []update, c cursor) error {
	return s.use(func(db *pebble.DB) error {
		batch := db.NewBatch()
		defer batch.Close()
		var buf []byte
		for _, u := range updates {
			row := rowKey('v', partition, u.key)
			if s.timed {
				if err := s.retime(db, batch, partition, row, u); err != nil {
					return err
				}
			}
			if u.entry == nil {
				if err := batch.Delete(row, nil); err != nil {
					return err
				}
				continue
			}
			buf = u.entry.append(buf[:0])
			if err := batch.Set(row, buf, nil); err != nil {
				return err
			}
		}
		return s.commit(batch, partition, c)
	})
}

// retime moves a key in the list by time.
func (s *store) retime(db *pebble.DB, batch *pebble.Batch, partition int32, row []byte, u update) error {
	v, closer, err := db.Get(row)
	if err == nil {
		old, parsed := parseEntry(v)
		if parsed == nil {
			err = batch.Delete(rowKey('t', partition, timeOf(old.seen), u.key), nil)
		}
		err = errors.Join(err, parsed, closer.Close())
	}
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return err
	}
	if u.entry == nil {
		return nil
	}
	return batch.Set(rowKey('t', partition, timeOf(u.entry.seen), u.key), nil, nil)
}

// drop forgets a partition.
func (s *store) drop(partition int32) error {
	return s.use(func(db *pebble.DB) error {
		batch := db.NewBatch()
		defer batch.Close()
		for _, kind := range []byte("cvt") {
			from := rowKey(kind, partition)
			if err := batch.DeleteRange(from, after(from), nil); err != nil {
				return err
			}
		}
		return batch.Commit(pebble.NoSync)
	})
}

// after is the first key that does not begin with prefix.
func after(prefix []byte) []byte {
	end := slices.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// each calls fn for the entries of a partition, from a key on, by key, until it
// returns false. The entry is valid until fn returns.
func (s *store) each(partition int32, from string, fn func(key string, e *entry) bool) error {
	return s.scan('v', partition, rowKey('v', partition, from), func(rest, v []byte) (bool, error) {
		e, err := parseEntry(v)
		return err == nil && fn(string(rest), e), err
	})
}

// due returns the keys that were last seen before a time, the oldest first, at
// most n.
func (s *store) due(partition int32, before int64, n int) (keys []string, err error) {
	limit := []byte(timeOf(before))
	err = s.scan('t', partition, rowKey('t', partition), func(rest, _ []byte) (bool, error) {
		if len(rest) < len(limit) {
			return false, errEntry
		}
		if len(keys) == n || bytes.Compare(rest[:len(limit)], limit) >= 0 {
			return false, nil
		}
		keys = append(keys, string(rest[len(limit):]))
		return true, nil
	})
	return keys, err
}

func (s *store) scan(kind byte, partition int32, from []byte, fn func(rest, v []byte) (bool, error)) error {
	return s.use(func(db *pebble.DB) (err error) {
		prefix := rowKey(kind, partition)
		it, err := db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: after(prefix)})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, it.Close()) }()
		for ok := it.First(); ok; ok = it.Next() {
			v, err := it.ValueAndErr()
			if err != nil {
				return err
			}
			if more, err := fn(it.Key()[len(prefix):], v); err != nil || !more {
				return err
			}
		}
		return nil
	})
}
