package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"penstock/schemas"
)

// Limits on what is taken in.
const (
	maxSubjectBytes = 1024
	// maxReferences is how many other schemas one schema may build on,
	// directly and through others.
	maxReferences = 1000
	// maxBatch is how many waiting writes share one append.
	maxBatch = 256
	// parsedBytes bounds the text of the schemas that are kept in parsed form,
	// which takes about 15 times as much memory.
	parsedBytes = 2 << 20
)

// DefaultMaxSchemaBytes is the largest schema text taken where Options say
// nothing else.
const DefaultMaxSchemaBytes = 1 << 20

// Options are what New may be told. The zero value is ready to use.
type Options struct {
	// Logger gets what clients must not see. nil logs nothing.
	Logger *slog.Logger
	// ClusterID names the registry at /v1/metadata/id. Empty is "penstock".
	ClusterID string
	// Version is what /v1/metadata/version says. Empty is "dev".
	Version string
	// MaxSchemaBytes is the largest schema text taken, references apart. Zero
	// is DefaultMaxSchemaBytes.
	MaxSchemaBytes int
	// WriteTimeout bounds how long an append may take; a write that exceeds it
	// may or may not have been stored. Zero is 30 s.
	WriteTimeout time.Duration
	// FixedModes refuses to set and to take away modes, with CodeNotPermitted.
	FixedModes bool
	// Now is the clock. nil is time.Now.
	Now func() time.Time
}

// Registry is the state machine. Its methods may be called concurrently. Reads
// answer from memory and never wait for a write that is on its way to the log.
type Registry struct {
	log     Log
	formats map[schemas.Type]schemas.Format
	types   []schemas.Type
	checker Checker
	options Options
	parsed  *parsedCache

	mu      sync.RWMutex // guards durable's base; never held across I/O
	durable *index

	// appending is held while the log is appended to or replayed. It guards
	// pending, and who holds it alone changes position.
	appending sync.Mutex
	pending   *index
	position  atomic.Uint64 // of the last event in the index

	writes    chan *writeRequest
	stop      context.CancelFunc
	done      chan struct{} // closed when the writer has ended
	follower  *follower     // nil unless log is a SharedLog
	compactor *compactor    // nil unless log is a Compacter
}

// New builds the index from log and starts to take writes. Whoever calls it
// calls Close, and closes log after that. One format a language; checker knows
// the rules of evolution.
func New(ctx context.Context, log Log, formats []schemas.Format, checker Checker, o Options) (*Registry, error) {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.ClusterID = cmp.Or(o.ClusterID, "penstock")
	o.Version = cmp.Or(o.Version, "dev")
	o.MaxSchemaBytes = cmp.Or(o.MaxSchemaBytes, DefaultMaxSchemaBytes)
	o.WriteTimeout = cmp.Or(o.WriteTimeout, 30*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &Registry{
		log: log, formats: map[schemas.Type]schemas.Format{}, checker: checker, options: o,
		parsed: newParsedCache(parsedBytes), pending: newIndex(),
		writes: make(chan *writeRequest, maxBatch), done: make(chan struct{}),
	}
	r.durable = r.pending.durable()
	for _, f := range formats {
		r.formats[f.Type()] = f
		r.types = append(r.types, f.Type())
	}
	if err := r.load(ctx); err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.Background())
	r.stop = stop
	go r.writer(run)
	if c, ok := log.(Compacter); ok {
		r.compactor = newCompactor(r, c)
	}
	if shared, ok := log.(SharedLog); ok {
		r.follower = newFollower(r, shared)
		go r.follower.run(run)
	}
	return r, nil
}

// Close lets the write that is on its way end, refuses the others, and
// returns. Reads go on to work.
func (r *Registry) Close() {
	r.stop()
	<-r.done
	r.compactor.close()
	if r.follower != nil {
		<-r.follower.done
	}
}

// errClosed is what a write gets that comes too late.
var errClosed = &Error{Code: CodeStore, Message: "The registry is shutting down; send the request again", unavailable: true}

// decision says which events a write comes to, given the state, or why it is
// refused. It may be called several times, and changes nothing; x is only valid
// during the call.
type decision func(x *index) ([]Event, error)

type writeRequest struct {
	ctx      context.Context
	decide   decision
	answer   chan error    // of capacity 1
	deciding chan struct{} // of capacity 1: has an element while decide runs, or once nobody waits for it
}

// events is what the write comes to, unless its caller has given up.
func (q *writeRequest) events(x *index) ([]Event, error) {
	select {
	case q.deciding <- struct{}{}:
		defer func() { <-q.deciding }()
	case <-q.ctx.Done():
	}
	if q.ctx.Err() != nil {
		return nil, timeout(q.ctx)
	}
	return q.decide(x)
}

// write decides, appends, and returns once the events are durable and visible, or
// ctx has ended. When it has returned decide is not running and is not called
// again, so that a caller may read what its decision has left.
func (r *Registry) write(ctx context.Context, decide decision) error {
	req := &writeRequest{ctx: ctx, decide: decide, answer: make(chan error, 1), deciding: make(chan struct{}, 1)}
	select {
	case r.writes <- req:
	case <-ctx.Done():
		return timeout(ctx)
	case <-r.done:
		return errClosed
	}
	select {
	case err := <-req.answer:
		return err
	case <-ctx.Done():
		req.deciding <- struct{}{}
		return timeout(ctx)
	case <-r.done:
		select { // the answer may have come first
		case err := <-req.answer:
			return err
		default:
			return errClosed
		}
	}
}

func timeout(ctx context.Context) error {
	return &Error{Code: CodeTimeout, Message: "Operation timed out; it may or may not have been done", cause: ctx.Err()}
}

// writer is the goroutine that takes the writes that wait and appends what they come to in one go.
func (r *Registry) writer(ctx context.Context) {
	defer close(r.done)
	for {
		var batch []*writeRequest
		select {
		case <-ctx.Done():
			return
		case req := <-r.writes:
			batch = append(batch, req)
		}
		for more := true; more && len(batch) < maxBatch; {
			select {
			case req := <-r.writes:
				batch = append(batch, req)
			default:
				more = false
			}
		}
		r.commit(batch)
	}
}

// commit decides a batch, appends it, and answers each of its writes once. The
// append is not bound to any one caller's context, since it is everyone's.
func (r *Registry) commit(batch []*writeRequest) {
	r.appending.Lock()
	answers, err := r.decideAndAppend(batch)
	r.appending.Unlock()
	if errors.Is(err, ErrTooLarge) && len(batch) > 1 {
		// One of them is, and the others need not pay for it.
		for _, req := range batch {
			r.commit([]*writeRequest{req})
		}
		return
	}
	if err != nil && !errors.As(err, new(*NotWriterError)) && !errors.Is(err, ErrTooLarge) {
		r.options.Logger.Error("write to the registry's log failed", "error", err)
	}
	for i, req := range batch {
		if err != nil {
			// A refusal too may rest on what was to be stored before it.
			req.answer <- r.storeError(err)
		} else {
			req.answer <- answers[i]
		}
	}
}

func (r *Registry) decideAndAppend(batch []*writeRequest) ([]error, error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.options.WriteTimeout)
	defer cancel()
	answers, err := r.tryCommit(ctx, batch)
	for errors.Is(err, ErrConflict) && ctx.Err() == nil {
		// Another writer came first: decide again on what it has left.
		if err = r.catchUp(ctx); err == nil {
			answers, err = r.tryCommit(ctx, batch)
		}
	}
	return answers, err
}

// tryCommit decides each write of a batch on the state that those before it
// leave, and appends what they come to. On error nothing is merged.
func (r *Registry) tryCommit(ctx context.Context, batch []*writeRequest) (answers []error, err error) {
	defer func() {
		if err != nil {
			r.pending.drop()
		}
	}()
	answers = make([]error, len(batch))
	var events []Event
	for i, req := range batch {
		var made []Event
		made, answers[i] = req.events(r.pending)
		made = r.pending.buried(made)
		for _, e := range made {
			if err := r.pending.apply(e); err != nil {
				return nil, fmt.Errorf("apply own record %s: %w", e.Key, err)
			}
		}
		events = append(events, made...)
	}
	if len(events) == 0 {
		return answers, nil
	}
	end, err := r.log.Append(ctx, r.position.Load(), events...)
	if err != nil {
		return nil, fmt.Errorf("append %d records after position %d: %w", len(events), r.position.Load(), err)
	}
	r.merge(end)
	r.compactor.appended()
	return answers, nil
}

// storeError is what a client sees of a failed append or replay. A log on the
// network may be there again in a moment, so then trying again makes sense.
func (r *Registry) storeError(err error) *Error {
	shared := r.follower != nil
	switch {
	case errors.As(err, new(*NotWriterError)):
		return &Error{Code: CodeNoWriter, Message: "No node of this registry takes writes at the moment; send the request again", cause: err}
	case errors.Is(err, ErrTooLarge):
		return &Error{Code: CodeTooLarge, Message: "The schema is larger than the registry's log takes", cause: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: CodeTimeout, Message: "The write to the registry's log timed out; it may or may not have been done", cause: err, unavailable: shared}
	}
	return &Error{Code: CodeStore, Message: "The write to the registry's log failed; the registry's log says why", cause: err, unavailable: shared}
}

// catchUp replays what the log has beyond position. Whoever calls it holds
// appending.
func (r *Registry) catchUp(ctx context.Context) error {
	position := r.position.Load()
	if err := r.replay(ctx, func(p uint64) { position = p }); err != nil {
		return err
	}
	r.merge(position)
	return nil
}

// load replays the whole log. Nobody reads yet, so what was folded can become
// visible bit by bit, while the layer above it is small.
func (r *Registry) load(ctx context.Context) error { return r.replay(ctx, r.merge) }

// merge makes visible what was decided or replayed, which ends at position.
func (r *Registry) merge(position uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending.merge()
	r.position.Store(position)
}

// read calls fn with the durable state. What fn takes out of it stays right; fn
// itself parses nothing and does no I/O, because a merge waits for it.
func (r *Registry) read(fn func(x *index) error) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return fn(r.durable)
}
