package registry

import (
	"context"
	"encoding/json"
	"math"
	"sync"
	"sync/atomic"
)

// Compacter is a Log that can forget. A Registry over one calls it when it is
// worth the trouble.
type Compacter interface {
	Log
	// Wasteful reports whether Compact is worth the trouble. It is cheap.
	Wasteful() bool
	// Compact drops the events that a Compaction of the whole log does not
	// keep. The others keep their positions, and Append goes on meanwhile.
	// After an error the log is as it was. It is not called concurrently.
	Compact(ctx context.Context) error
}

// Compaction says which events of a log make no difference to who replays it
// from the beginning: they are superseded by later ones of their key, or are
// tombstones of what is gone from the log.
//
// Two kinds of event are needed beyond that. A record that deletes all versions
// of a subject stays while one of them is in the log in a form that does not
// say so itself. And of each context the newest record with the highest id
// stays, since an id is never given again, even if nothing else has it.
//
// Every event goes through Add, in order; after that, Keep decides.
type Compaction struct {
	versions map[SubjectVersion]lastEvent
	others   map[string]uint64 // by key, the position of the last event
	highest  map[string]highestID
	sweeps   map[string][]sweep
	needed   map[uint64]bool // positions of sweeps; nil until it is asked for
}

// lastEvent is the last event of a version.
type lastEvent struct {
	position  uint64
	tombstone bool
}

// highestID is the record that holds the highest id of a context.
type highestID struct {
	id       int
	version  SubjectVersion
	position uint64
}

// sweep is a record that acts on the versions of a subject before it: it deletes
// them softly up to a number, or takes those away for good that are.
type sweep struct {
	position uint64
	upTo     int
	clear    bool
}

// NewCompaction returns a Compaction of a log of which nothing is known yet.
func NewCompaction() *Compaction {
	return &Compaction{
		versions: map[SubjectVersion]lastEvent{}, others: map[string]uint64{},
		highest: map[string]highestID{}, sweeps: map[string][]sweep{},
	}
}

// Add takes note of the next event of the log.
func (c *Compaction) Add(e Event) {
	key := compactionKey(e)
	switch key.KeyType {
	case schemaRecord:
		version := SubjectVersion{key.Subject, key.Version}
		c.versions[version] = lastEvent{e.Position, e.Value == nil}
		var v schemaValue
		if e.Value == nil || readSchema(e.Value, &v) != nil {
			return
		}
		context, _ := split(key.Subject)
		if v.ID >= c.highest[context].id {
			c.highest[context] = highestID{v.ID, version, e.Position}
		}
	case deleteSubjectRecord:
		var v deleteSubjectValue
		if e.Value != nil && json.Unmarshal(e.Value, &v) == nil {
			c.sweeps[key.Subject] = append(c.sweeps[key.Subject], sweep{e.Position, v.Version, false})
		}
	case clearSubjectRecord:
		if e.Value != nil {
			c.sweeps[key.Subject] = append(c.sweeps[key.Subject], sweep{e.Position, math.MaxInt, true})
		}
	default:
		c.others[string(e.Key)] = e.Position
	}
}

// Keep reports whether an event that Add has taken note of is needed.
func (c *Compaction) Keep(e Event) bool {
	key := compactionKey(e)
	switch key.KeyType {
	case schemaRecord:
		version := SubjectVersion{key.Subject, key.Version}
		context, _ := split(key.Subject)
		highest, last := c.highest[context], c.versions[version]
		if e.Position == highest.position {
			return true
		}
		// A tombstone is needed where what it takes away stays.
		return e.Position == last.position && (!last.tombstone || version == highest.version)
	case deleteSubjectRecord, clearSubjectRecord:
		if c.needed == nil {
			c.needed = c.neededSweeps()
		}
		return c.needed[e.Position]
	default:
		return e.Value != nil && e.Position == c.others[string(e.Key)]
	}
}

// neededSweeps finds, for each version that stays, the first record that deletes
// it, and all that clear its subject later.
func (c *Compaction) neededSweeps() map[uint64]bool {
	needed := map[uint64]bool{}
	for version, last := range c.versions {
		if last.tombstone {
			continue
		}
		deleted := false
		for _, s := range c.sweeps[version.Subject] {
			if s.position > last.position && s.upTo >= version.Version && (s.clear || !deleted) {
				needed[s.position], deleted = true, deleted || !s.clear
			}
		}
	}
	return needed
}

// compactionKey reads a key. One that cannot be read is of no known kind.
func compactionKey(e Event) (key recordKey) {
	if readKey(e.Key, &key) != nil {
		return recordKey{}
	}
	return key
}

// compactor compacts a log in the background, one time after another.
type compactor struct {
	r    *Registry
	log  Compacter
	ctx  context.Context
	stop context.CancelFunc
	work sync.WaitGroup
	// rest is how many more appends it passes over. While it compacts there is
	// no end to it.
	rest atomic.Int64
}

// retryCompaction is after how many appends a compaction that failed, for lack
// of room perhaps, is tried again.
const retryCompaction = 1000

func newCompactor(r *Registry, log Compacter) *compactor {
	c := &compactor{r: r, log: log}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// appended starts a compaction if one is due. It is called by one goroutine at
// a time.
func (c *compactor) appended() {
	if c == nil || c.rest.Add(-1) >= 0 || !c.log.Wasteful() {
		return
	}
	c.rest.Store(math.MaxInt64)
	c.work.Go(func() {
		err := c.log.Compact(c.ctx)
		if err == nil {
			c.rest.Store(0)
			return
		}
		if c.ctx.Err() == nil {
			c.r.options.Logger.Warn("compact the registry's log", "error", err)
		}
		c.rest.Store(retryCompaction)
	})
}

// close waits until nothing compacts any more.
func (c *compactor) close() {
	if c != nil {
		c.stop()
		c.work.Wait()
	}
}
