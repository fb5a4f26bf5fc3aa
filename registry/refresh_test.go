package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"penstock/registry"
	"penstock/registry/logs/memory"
)

// sharedLog is one log that several registries of a test have open.
type sharedLog struct {
	*memory.Log
	end func(ctx context.Context) (uint64, error) // in place of the true end
	// append is asked before each append.
	append func() error

	mu    sync.Mutex
	asked int // how often for the end
}

func newSharedLog() *sharedLog { return &sharedLog{Log: memory.New()} }

func (l *sharedLog) End(ctx context.Context) (uint64, error) {
	l.mu.Lock()
	l.asked++
	end := l.end
	l.mu.Unlock()
	if end != nil {
		return end(ctx)
	}
	n := uint64(0)
	err := l.Replay(ctx, 0, func(e registry.Event) error {
		n = e.Position
		return nil
	})
	return n, err
}

func (l *sharedLog) Append(ctx context.Context, prev uint64, events ...registry.Event) (uint64, error) {
	if l.append != nil {
		if err := l.append(); err != nil {
			return 0, err
		}
	}
	return l.Log.Append(ctx, prev, events...)
}

// with returns the same log as another process has it.
func (l *sharedLog) with(change func(l *sharedLog)) *sharedLog {
	other := &sharedLog{Log: l.Log}
	change(other)
	return other
}

func (l *sharedLog) askedFor() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

func TestRefresh(t *testing.T) {
	log := newSharedLog()
	a, b := open(t, log), open(t, log)
	for i := range 5 {
		made, err := a.Register(t.Context(), fmt.Sprint("s", i), fake(fmt.Sprint("+f", i)), false)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := b.Version(fmt.Sprint("s", i), -1, false); err != nil || got.ID != made.ID {
			t.Errorf("the other node has %+v, %v; want id %d", got, err, made.ID)
		}
		if a.Position() != b.Position() {
			t.Errorf("positions %d and %d", a.Position(), b.Position())
		}
	}
	alone := fresh(t)
	if err := alone.Refresh(t.Context()); err != nil {
		t.Errorf("of a log of its own: %v", err)
	}
}

// Nobody asks and all the same everything comes within seconds.
func TestFollowerReadsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSharedLog()
		a, b := open(t, log), open(t, log)
		if _, err := a.Register(t.Context(), "s", fake("+f"), false); err != nil {
			t.Fatal(err)
		}
		for b.Position() != a.Position() {
			tick(t)
		}
	})
}

// Callers who wait at the same time share one question, and it is not one that
// was put before they came.
func TestRefreshIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers = 50
		log := newSharedLog()
		asked, answer := make(chan struct{}), make(chan struct{})
		other := log.with(func(l *sharedLog) {
			l.end = func(ctx context.Context) (uint64, error) {
				end, err := log.End(ctx)
				asked <- struct{}{}
				<-answer
				return end, err
			}
		})
		b := open(t, other)
		first := make(chan error, 1)
		go func() { first <- b.Refresh(t.Context()) }()
		<-asked // and has been told the end as it was then

		a := open(t, log)
		if _, err := a.Register(t.Context(), "s", fake("+f"), false); err != nil {
			t.Fatal(err)
		}
		var (
			wg       sync.WaitGroup
			returned atomic.Int32
		)
		for range callers {
			wg.Go(func() {
				if err := b.Refresh(t.Context()); err != nil {
					t.Error(err)
				}
				if _, err := b.Version("s", -1, false); err != nil {
					t.Errorf("after Refresh: %v", err)
				}
				returned.Add(1)
			})
		}
		synctest.Wait()
		answer <- struct{}{}
		if err := <-first; err != nil {
			t.Error(err)
		}
		<-asked
		synctest.Wait()
		if n := returned.Load(); n != 0 {
			t.Errorf("%d calls returned on a question that was put before them", n)
		}
		answer <- struct{}{}
		wg.Wait()
		if n := other.askedFor(); n != 2 {
			t.Errorf("%d calls asked %d times for the end, want twice", callers+1, n)
		}
	})
}

// A node that cannot ask says so, goes on to read, and comes back.
func TestRefreshFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSharedLog()
		var (
			mu      sync.Mutex
			failure error
		)
		b := open(t, log.with(func(l *sharedLog) {
			l.end = func(ctx context.Context) (uint64, error) {
				mu.Lock()
				defer mu.Unlock()
				if failure != nil {
					return 0, failure
				}
				return log.End(ctx)
			}
		}))
		a := open(t, log)
		first, err := a.Register(t.Context(), "s", fake("+f"), false)
		if err != nil || b.Refresh(t.Context()) != nil {
			t.Fatal(err)
		}
		set := func(err error) {
			mu.Lock()
			defer mu.Unlock()
			failure = err
		}
		set(errors.New("secret"))
		if _, err := a.Register(t.Context(), "u", fake("+g"), false); err != nil {
			t.Fatal(err)
		}
		h := registry.Handler(b, registry.HandlerOptions{})
		check := func(method, target, body string, header http.Header, wantStatus int, wantBody string, wantStale bool) {
			t.Helper()
			resp := answer(h, method, target, body, header)
			got := resp.Body.String()
			if resp.Code != wantStatus || !strings.Contains(got, wantBody) || strings.Contains(got, "secret") {
				t.Errorf("%s %s: %d %s, want %d with %q", method, target, resp.Code, got, wantStatus, wantBody)
			}
			if stale := resp.Header().Get(registry.StaleHeader) == "true"; stale != wantStale {
				t.Errorf("%s %s: says that it is stale: %v", method, target, stale)
			}
			if again := resp.Header().Get("Retry-After") != ""; again != (wantStatus == http.StatusServiceUnavailable) {
				t.Errorf("%s %s: %d, and Retry-After is there: %v", method, target, wantStatus, again)
			}
		}
		at := func(position uint64) http.Header {
			return http.Header{registry.AtLeastHeader: {fmt.Sprint(position)}}
		}
		check("GET", "/subjects", "", nil, 200, `["s"]`, true)
		check("GET", "/subjects", "", at(b.Position()), 200, `["s"]`, true)
		check("GET", "/subjects", "", at(a.Position()), 503, "50001", false)
		check("GET", fmt.Sprint("/schemas/ids/", first.ID), "", nil, 200, "has", false)
		check("GET", "/schemas/ids/99", "", nil, 404, "40403", true)
		check("GET", "/schemas/types", "", nil, 200, "AVRO", false)
		check("POST", "/subjects/s/versions", `{"schema":"{}"}`, nil, 503, "50004", false)
		check("GET", "/subjects", "", http.Header{registry.AtLeastHeader: {"-1"}}, 400, registry.AtLeastHeader, false)

		set(nil)
		for b.Refresh(t.Context()) != nil {
			tick(t)
		}
		check("GET", "/subjects", "", nil, 200, `["s","u"]`, false)
		check("GET", "/subjects", "", at(a.Position()), 200, `["s","u"]`, false)
	})
}

// An id that is known needs no look at the log, one that is not does.
func TestIDsThatAreFoundNeedNoLook(t *testing.T) {
	log := newSharedLog()
	a, b := open(t, log), open(t, log)
	h := registry.Handler(b, registry.HandlerOptions{})
	for i := range 3 {
		made, err := a.Register(t.Context(), "s", fake(fmt.Sprint("+f", i)), false)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{fmt.Sprintf("/schemas/ids/%d", made.ID), "/schemas/guids/" + made.GUID} {
			if resp := answer(h, "GET", path, "", nil); resp.Code != http.StatusOK {
				t.Errorf("%s right after it was made elsewhere: %d %s", path, resp.Code, resp.Body)
			}
		}
	}
	synctest.Test(t, func(t *testing.T) { // so that nothing looks by itself
		other := log.with(func(*sharedLog) {})
		h := registry.Handler(open(t, other), registry.HandlerOptions{})
		for range 3 {
			if resp := answer(h, "GET", "/schemas/ids/1", "", nil); resp.Code != http.StatusOK {
				t.Errorf("%d %s", resp.Code, resp.Body)
			}
		}
		if n := other.askedFor(); n != 0 {
			t.Errorf("reads of a known id asked the log %d times", n)
		}
		if resp := answer(h, "GET", "/schemas/ids/1?fetchMaxId=true", "", nil); resp.Code != http.StatusOK || other.askedFor() != 1 {
			t.Errorf("with the highest id: %d, asked %d times", resp.Code, other.askedFor())
		}
	})
}

// A write is passed on to the node that writes, as it came.
func TestForwarding(t *testing.T) {
	log := newSharedLog()
	var through http.Header
	h := registry.Handler(open(t, log), registry.HandlerOptions{})
	writer := httptest.NewServer(http.StripPrefix("/base", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		through = req.Header.Clone()
		h.ServeHTTP(w, req)
	})))
	t.Cleanup(writer.Close)
	node := func(url string) *httptest.Server {
		r := open(t, log.with(func(l *sharedLog) {
			l.append = func() error { return &registry.NotWriterError{Writer: url} }
		}))
		s := httptest.NewServer(registry.Handler(r, registry.HandlerOptions{}))
		t.Cleanup(s.Close)
		return s
	}
	send := func(s *httptest.Server, method, path, body string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Basic secret")
		req.Header.Set("Accept", "application/json")
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(text)
	}
	follower := node(writer.URL + "/base")
	for _, tt := range []struct{ method, path, body, want string }{
		{"POST", "/subjects/a%2Fb/versions?normalize=true", `{"schema":"{\"has\":[\"f\"]}"}`, `"id":1`},
		{"POST", "/contexts/.c/subjects/s/versions", `{"schema":"{\"has\":[\"f\"]}"}`, `"subject":":.c:s"`},
		{"PUT", "/config/a%2Fb", `{"compatibility":"NONE"}`, `NONE`},
		{"DELETE", "/config/a%2Fb", ``, `NONE`},
		{"DELETE", "/subjects/a%2Fb/versions/1", ``, `1`},
	} {
		resp, got := send(follower, tt.method, tt.path, tt.body)
		if resp.StatusCode != http.StatusOK || !strings.Contains(got, tt.want) {
			t.Fatalf("%s %s: %s %s, want %s", tt.method, tt.path, resp.Status, got, tt.want)
		}
		if resp.Header.Get(registry.PositionHeader) == "" || len(resp.Header.Values(registry.PositionHeader)) != 1 {
			t.Errorf("%s %s: positions %q", tt.method, tt.path, resp.Header.Values(registry.PositionHeader))
		}
		if through.Get("Authorization") != "Basic secret" || through.Get("Accept") != "application/json" {
			t.Errorf("%s %s: came through with %v", tt.method, tt.path, through)
		}
	}
	if _, got := send(follower, "GET", "/subjects", ""); !strings.Contains(got, ":.c:s") {
		t.Errorf("read after the writes: %s", got)
	}

	const create = `{"schema":"{\"has\":[\"g\"]}"}`
	fails := func(name string, s *httptest.Server, code string) {
		t.Helper()
		resp, got := send(s, "POST", "/subjects/s/versions", create)
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(got, code) {
			t.Errorf("%s: %s %s, want 503 with code %s and Retry-After", name, resp.Status, got, code)
		}
	}
	fails("to a node that is no writer itself", node(follower.URL), "50004")
	fails("to nobody", node(""), "50004")
	fails("to a URL that is none", node("::"), "50003")
	gone := httptest.NewServer(nil)
	gone.Close()
	fails("to a node that is gone", node(gone.URL), "50003")
	if resp, got := send(follower, "POST", "/subjects/s/versions", create); resp.StatusCode != http.StatusOK {
		t.Errorf("to the writer in the end: %s %s", resp.Status, got)
	}
}

// One record that is too large for the log spoils none of those that wait with it.
func TestTooLargeForTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &limitedLog{Log: memory.New(), gate: make(chan struct{})}
		r := open(t, log)
		var wg sync.WaitGroup
		results := make([]error, 8)
		for i := range results {
			wg.Go(func() {
				field := "f"
				if i == 3 {
					field = strings.Repeat("f", 1000)
				}
				_, results[i] = r.Register(t.Context(), fmt.Sprint("s", i), fake(fmt.Sprint("+", field, i)), false)
			})
			synctest.Wait() // the first is at the log, the others wait together
		}
		close(log.gate)
		wg.Wait()
		for i, err := range results {
			want := registry.Code(0)
			if i == 3 {
				want = registry.CodeTooLarge
			}
			if codeOf(err) != want {
				t.Errorf("write %d: %v, want code %d", i, err, want)
			}
		}
	})
}

type limitedLog struct {
	*memory.Log
	gate chan struct{}
}

func (l *limitedLog) Append(ctx context.Context, prev uint64, events ...registry.Event) (uint64, error) {
	<-l.gate
	for _, e := range events {
		if len(e.Value) > 1000 {
			return 0, registry.ErrTooLarge
		}
	}
	return l.Log.Append(ctx, prev, events...)
}

func answer(h http.Handler, method, target, body string, header http.Header) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, target, strings.NewReader(body))
	for k, v := range header {
		req.Header[k] = v
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

// tick lets the time of a synctest bubble go on a little.
func tick(t *testing.T) {
	if t.Context().Err() != nil {
		t.Fatal("it has taken for ever")
	}
	time.Sleep(100 * time.Millisecond)
}
