package access

import (
	"net/netip"
	"time"
)

// maxKeys is how many principals and addresses a limiter and a users file keep
// in mind, at least. One that was forgotten starts afresh.
const maxKeys = 10_000

// limiter gives each key so many goes a second, and a burst at once.
type limiter struct {
	interval time.Duration // from one go to the next
	burst    time.Duration // how far ahead of itself a key may be
	ahead    recent[string, time.Time]
}

func newLimiter(perSecond float64, burst int) *limiter {
	interval := max(time.Duration(float64(time.Second)/perSecond), 1)
	return &limiter{
		interval: interval,
		burst:    time.Duration(burst) * interval,
		ahead:    recent[string, time.Time]{max: maxKeys},
	}
}

// take takes a go for key. It returns 0, or for how long there is none.
func (l *limiter) take(key string, now time.Time) (wait time.Duration) {
	l.ahead.update(key, func(next time.Time) time.Time {
		if next.Before(now) {
			next = now
		}
		next = next.Add(l.interval)
		if wait = max(next.Sub(now)-l.burst, 0); wait > 0 {
			return next.Add(-l.interval)
		}
		return next
	})
	return wait
}

// giveBack undoes a take.
func (l *limiter) giveBack(key string) {
	l.ahead.update(key, func(next time.Time) time.Time { return next.Add(-l.interval) })
}

// hostOf is the part of an address that whoever sends has no choice of: all of
// one of IPv4, the first half of one of IPv6.
func hostOf(remoteAddr string) string {
	ap, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return remoteAddr
	}
	a := ap.Addr().Unmap().WithZone("")
	if a.Is4() {
		return a.String()
	}
	half, err := a.Prefix(64)
	if err != nil {
		return a.String()
	}
	return half.String()
}
