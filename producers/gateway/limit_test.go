package gateway

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"penstock/access"
	"penstock/producers"
	"penstock/stream"
)

// The limit follows what stands behind it: it rises while answers stay as fast as
// they were, and sinks when they queue up.
func TestLimitAdapts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(256, 1<<30)
		at := 50 * time.Millisecond // an answer takes this, for so many at a time
		places := make(chan struct{}, 100)
		load := func(requests int) (refused int64) {
			var n atomic.Int64
			var all sync.WaitGroup
			for range 300 {
				all.Go(func() {
					for range requests {
						in := l.admit(0, 1)
						if in == nil {
							n.Add(1)
							time.Sleep(at)
							continue
						}
						in.began = time.Now()
						places <- struct{}{}
						time.Sleep(at)
						<-places
						in.done()
					}
				})
			}
			all.Wait()
			return n.Load()
		}
		load(300)
		if l.limit < 150 {
			t.Errorf("with 100 places the limit is %.0f", l.limit)
		}
		places = make(chan struct{}, 5)
		load(300)
		if l.limit > 30 {
			t.Errorf("with 5 places the limit is %.0f", l.limit)
		}
		if l.inFlight != 0 || l.bytes != 0 {
			t.Errorf("%d requests of %d bytes are left", l.inFlight, l.bytes)
		}
	})
}

// While the broker is blocked, no more bodies are taken in than the bounds say, the
// rest is refused, and the urgent find room.
func TestLimitWhileBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		g := open(t, producers.New(publisherFunc(func(context.Context, ...stream.Record) error {
			<-release
			return nil
		}), registry{}, producers.Config{}), Config{MaxBodyBytes: 1000, MaxBytesInFlight: 10_000})
		var served, busy atomic.Int64
		var all sync.WaitGroup
		send := func(priority string) {
			r := httptest.NewRequest("POST", "/topics/orders", strings.NewReader(fit+strings.Repeat(" ", 1000-len(fit))))
			r.Header.Set("Content-Type", typeEvent)
			r.Header.Set("Priority", priority)
			w := httptest.NewRecorder()
			g.ServeHTTP(w, r)
			switch {
			case w.Code == 200:
				served.Add(1)
			case w.Code == 429 && w.Header().Get("Retry-After") != "":
				busy.Add(1)
			default:
				t.Errorf("%d %s", w.Code, w.Body)
			}
		}
		for range 10_000 {
			all.Go(func() { send("") })
		}
		synctest.Wait()
		if n := busy.Load(); n != 10_000-9 {
			t.Errorf("%d of 10,000 were refused, want all but 9", n)
		}
		all.Go(func() { send("u=0, i") })
		all.Go(func() { send("u=7") })
		synctest.Wait()
		close(release)
		all.Wait()
		if served.Load() != 10 {
			t.Errorf("%d were served, want the nine and the urgent one", served.Load())
		}
	})
}

// A caller that is to give way does, whatever it asks for, and one that is not named
// gets what it asks for.
func TestUrgencyOfCaller(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users.yaml")
	const hash = "$2a$04$sK2t2IKUCCkZO.Vr0wpWY.oYUgrVW/6zyVTwRN6pvxjcAIDnQ6T4u" // of correct-horse
	if err := os.WriteFile(users, []byte(`users: {nightly: {hash: "`+hash+`"}, shop: {hash: "`+hash+`"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	guard, err := access.New(access.Config{UsersFile: users})
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{cfg: Config{Urgency: map[string]int{"nightly": 6}}}
	for _, test := range []struct {
		caller, priority string
		want             int
	}{
		{"nightly", "", 6}, {"nightly", "u=0", 6}, {"nightly", "u=7", 7},
		{"shop", "", 3}, {"shop", "u=0", 0}, {"shop", "u=7", 7},
	} {
		got := -1
		r := httptest.NewRequest("POST", "https://gateway/topics/orders", nil)
		r.Header.Set("Priority", test.priority)
		r.SetBasicAuth(test.caller, "correct-horse")
		guard.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = g.urgencyOf(r) })).ServeHTTP(httptest.NewRecorder(), r)
		if got != test.want {
			t.Errorf("the urgency of %s with priority %q is %d, want %d", test.caller, test.priority, got, test.want)
		}
	}
}
