package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// The headers by which clients of several nodes know how new an answer is.
const (
	// StaleHeader is "true" on an answer from memory whose node could not ask
	// the log whether it has gone on.
	StaleHeader = "Penstock-Stale"
	// PositionHeader on an answer is a position of the log at which what was
	// answered is known. It is there unless the answer is one that never changes.
	PositionHeader = "Penstock-Position"
	// AtLeastHeader on a request is a position that an answer gave. The request
	// is answered from what the log held there or later, or with 503.
	AtLeastHeader = "Penstock-At-Least"
)

const (
	// lookEvery is how often a registry over a SharedLog reads what others have
	// appended where no request makes it do so sooner.
	lookEvery = time.Second
	// lookWithin bounds how long the log may take to say where it ends.
	lookWithin = 3 * time.Second
	// retryAfter is what clients are told to wait, in seconds.
	retryAfter = "1"
)

// Refresh returns once the registry knows all that was acknowledged before the
// call, by whatever process. It costs nothing unless the log is a SharedLog;
// calls that wait at the same time share one question to the log. Where the log
// does not answer, Refresh returns an error, without asking as long as the last
// attempt, made every second, has failed; reads then go on to work on what is
// known.
func (r *Registry) Refresh(ctx context.Context) error {
	if r.follower == nil {
		return nil
	}
	return r.follower.refresh(ctx)
}

// Position is that of the last event that the registry knows. It never sinks.
func (r *Registry) Position() uint64 { return r.position.Load() }

// Leads reports whether this registry is the one, of those that share its log,
// that does what only one should do.
func (r *Registry) Leads() bool {
	l, shared := r.log.(Leader)
	return !shared || l.Leads()
}

// knows reports whether the registry knows all events before position. Between
// the last of them and the log's end there may be positions without an event.
func (r *Registry) knows(position uint64) bool {
	return position <= r.position.Load() || r.follower != nil && position <= r.follower.seen.Load()
}

// follower reads what other processes append to the log of r.
type follower struct {
	r    *Registry
	log  SharedLog
	wake chan struct{} // of capacity 1
	done chan struct{} // closed when run has ended
	seen atomic.Uint64 // the last end up to which everything was read

	mu     sync.Mutex
	next   *look // the one that has not begun, nil if nobody waits for it
	failed error // why the last one failed, or nil
}

// look is one question to the log, which all share who came before it was put.
type look struct {
	done chan struct{}
	err  error // read it after done
}

func newFollower(r *Registry, log SharedLog) *follower {
	return &follower{r: r, log: log, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

func (f *follower) refresh(ctx context.Context) error {
	f.mu.Lock()
	if f.failed != nil {
		defer f.mu.Unlock()
		return f.failed
	}
	if f.next == nil {
		f.next = &look{done: make(chan struct{})}
	}
	next := f.next
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default: // run has yet to see the last one
	}
	select {
	case <-next.done:
		return next.err
	case <-ctx.Done():
		return ctx.Err()
	case <-f.done:
		return errClosed
	}
}

// run looks whenever somebody waits for it, and every lookEvery.
func (f *follower) run(ctx context.Context) {
	defer close(f.done)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-tick.C:
		}
		f.mu.Lock()
		l := f.next
		f.next = nil
		f.mu.Unlock()
		err := f.look(ctx)
		if err != nil && ctx.Err() != nil {
			return
		}
		f.mu.Lock()
		if (err == nil) != (f.failed == nil) {
			f.r.options.Logger.Warn("whether the registry's log can be read has changed", "error", err)
		}
		f.failed = err
		if err != nil && l == nil {
			l, f.next = f.next, nil // it would fare no better
		}
		f.mu.Unlock()
		if l != nil {
			l.err = err
			close(l.done)
		}
	}
}

// look reads up to where the log ends now.
func (f *follower) look(ctx context.Context) error {
	asked, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	end, err := f.log.End(asked)
	if err != nil {
		return fmt.Errorf("ask for the end of the registry's log: %w", err)
	}
	if f.r.knows(end) {
		return nil
	}
	f.r.appending.Lock()
	defer f.r.appending.Unlock()
	if f.r.knows(end) {
		return nil
	}
	reading, cancel := context.WithTimeout(ctx, f.r.options.WriteTimeout)
	defer cancel()
	if err := f.r.catchUp(reading); err != nil {
		return err
	}
	f.seen.Store(end)
	return nil
}

// answersAlone lists the routes whose answers no write changes.
var answersAlone = map[string]bool{
	"GET /{$}": true, "POST /{$}": true, "GET /livez": true, "GET /readyz": true,
	"GET /schemas/types": true, "GET /v1/metadata/id": true,
}

// answersHits lists the routes where only that there is nothing may have changed:
// what an id or a GUID stands for never does.
var answersHits = map[string]bool{
	"GET /schemas/ids/{id}": true, "GET /schemas/ids/{id}/schema": true, "GET /schemas/guids/{guid}": true,
}

// current makes an endpoint answer from what the log holds. Reads go on without
// the log, and say so; writes are refused, since what they would be told might
// be outdated.
func (h *handler) current(e endpoint) endpoint {
	return func(q *query) (any, error) {
		route := q.req.Pattern
		if answersAlone[route] {
			return e(q)
		}
		least, err := atLeast(q.req)
		if err != nil {
			return nil, err
		}
		if answersHits[route] && !q.values.Has("fetchMaxId") {
			if reply, err := e(q); !errors.Is(err, &Error{Code: CodeSchemaNotFound}) {
				return reply, err
			}
		}
		err = h.r.Refresh(q.req.Context())
		unable := CodeStore
		if writes(q.req) {
			unable = CodeNoWriter // which says that nothing was done
		}
		switch {
		case !h.r.knows(least):
			return nil, &Error{Code: unable, Message: fmt.Sprintf("This node knows the registry's log up to position %d, the request asks for %d; send it again", h.r.Position(), least), cause: err, unavailable: true}
		case err != nil && writes(q.req):
			return nil, &Error{Code: unable, Message: "This node cannot reach the registry's log at the moment; send the request again", cause: err, unavailable: true}
		case err != nil:
			q.w.Header().Set(StaleHeader, "true")
		}
		reply, err := e(q)
		if reply != answered {
			q.w.Header().Set(PositionHeader, strconv.FormatUint(h.r.Position(), 10))
		}
		return reply, err
	}
}

// atLeast reads AtLeastHeader; it is 0 where there is none.
func atLeast(req *http.Request) (uint64, error) {
	sent := req.Header.Get(AtLeastHeader)
	if sent == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(sent, 10, 64)
	if err != nil {
		return 0, errorf(codeBadRequest, "The header %s is %q, expected a position as %s gives it", AtLeastHeader, sent, PositionHeader)
	}
	return n, nil
}
