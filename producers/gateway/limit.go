package gateway

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"penstock/access"
)

// limiter admits requests as long as they are answered about as fast as when there
// are few of them, after TCP Vegas: from how much longer an answer takes than the
// shortest it reckons how many requests wait, and moves the limit so that
// a few do. Twice the shortest is no waiting, since what comes while one batch is
// written goes with the next, and neither is what nobody notices. Where nothing is answered at all, it admits no more than the limit.
type limiter struct {
	most     int   // of requests
	maxBytes int64 // of their bodies

	mu       sync.Mutex
	limit    float64
	inFlight int
	bytes    int64
	shortest time.Duration // answer; 0: none yet
	usual    float64       // what an answer takes, smoothed
}

// unnoticed is how long an answer may always take.
const unnoticed = 25 * time.Millisecond

const (
	fewest     = 16 // the limit never sinks below, though the broker be slower than it was once
	startLimit = 32 // before anything is known
	waitFew    = 3  // with fewer that wait the limit rises
	waitMany   = 6  // with more it sinks
	smooth     = 50 // answers, over which what one takes is smoothed
)

func newLimiter(most int, maxBytes int64) *limiter {
	return &limiter{most: most, maxBytes: maxBytes, limit: float64(min(most, startLimit))}
}

// admitted is a request that was let in.
type admitted struct {
	l     *limiter
	bytes int64
	began time.Time // when its body was there; zero: it never was
}

// admit lets a request in or returns nil. Less urgent ones have to leave room for
// those that are more so.
func (l *limiter) admit(urgency int, bytes int64) *admitted {
	l.mu.Lock()
	defer l.mu.Unlock()
	share := 1 - float64(max(0, urgency-2))/10 // 0 to 2 all, 3 nine tenths, 7 half
	if float64(l.inFlight) >= math.Ceil(math.Floor(l.limit)*share) || float64(l.bytes+bytes) > float64(l.maxBytes)*share && l.bytes > 0 {
		return nil
	}
	l.inFlight++
	l.bytes += bytes
	return &admitted{l: l, bytes: bytes}
}

// done gives the place back.
func (a *admitted) done() {
	l := a.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if !a.began.IsZero() {
		l.learn(time.Since(a.began))
	}
	l.inFlight--
	l.bytes -= a.bytes
}

// learn moves the limit by what one request took.
func (l *limiter) learn(took time.Duration) {
	took = max(took, 1)
	if l.shortest == 0 || took < l.shortest {
		l.shortest = took
	}
	if l.usual == 0 {
		l.usual = float64(took)
	}
	l.usual += (float64(took) - l.usual) / smooth
	fast := float64(max(2*l.shortest, unnoticed))
	waiting := l.limit * (1 - fast/l.usual)
	switch {
	case waiting > waitMany:
		l.limit -= 1 / math.Sqrt(l.limit)
	case waiting < waitFew && float64(l.inFlight)*2 > l.limit: // it is used
		l.limit += 1 / math.Sqrt(l.limit)
	}
	l.limit = min(max(l.limit, float64(min(fewest, l.most))), float64(l.most))
}

// urgencyOf is how urgent a request is: what it asks for, or what its caller has if
// that is less.
func (g *Gateway) urgencyOf(r *http.Request) int {
	caller, _ := access.PrincipalOf(r.Context())
	return max(askedUrgency(r), g.cfg.Urgency[caller.Name])
}

// askedUrgency reads the header Priority of RFC 9218: u=0 is the most urgent, u=7 the
// least, and 3 is what a request has that says nothing.
func askedUrgency(r *http.Request) int {
	for part := range strings.SplitSeq(r.Header.Get("Priority"), ",") {
		if text, ok := strings.CutPrefix(strings.TrimSpace(part), "u="); ok {
			if u, err := strconv.Atoi(text); err == nil && u >= 0 && u <= 7 {
				return u
			}
		}
	}
	return 3
}
