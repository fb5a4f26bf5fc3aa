package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"penstock/registry"
	"penstock/registry/client"
)

// fleet is a registry's nodes without a network, by host name, for tests that
// control time. It counts what each is asked, and what is given up.
type fleet struct {
	mu     sync.Mutex
	nodes  map[string]node
	asked  map[string]int
	gaveUp map[string]int
}

// node is how a node answers.
type node struct {
	after  time.Duration
	down   bool // takes no connection
	hangs  bool
	status int // 0 is 200
	retry  string
}

func newFleet(nodes map[string]node) *fleet {
	return &fleet{nodes: nodes, asked: map[string]int{}, gaveUp: map[string]int{}}
}

func (f *fleet) set(name string, n node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes[name] = n
}

// took returns what was asked since it was last called.
func (f *fleet) took() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := f.asked
	f.asked = map[string]int{}
	return asked
}

func (f *fleet) RoundTrip(req *http.Request) (*http.Response, error) {
	f.mu.Lock()
	n := f.nodes[req.URL.Host]
	f.asked[req.URL.Host]++
	f.mu.Unlock()
	if n.down {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	var answer <-chan time.Time
	if !n.hangs {
		answer = time.After(n.after)
	}
	select {
	case <-answer:
	case <-req.Context().Done():
		f.mu.Lock()
		defer f.mu.Unlock()
		f.gaveUp[req.URL.Host]++
		return nil, req.Context().Err()
	}
	w := httptest.NewRecorder()
	if n.retry != "" {
		w.Header().Set("Retry-After", n.retry)
	}
	switch {
	case n.status != 0:
		w.WriteHeader(n.status)
		fmt.Fprintf(w, `{"error_code": %d, "message": "no"}`, n.status)
	case req.Method == http.MethodDelete:
		fmt.Fprint(w, `[1]`)
	case strings.HasSuffix(req.URL.Path, "/subjects"):
		fmt.Fprint(w, `["s"]`)
	default:
		fmt.Fprint(w, `{"id": 1}`)
	}
	return w.Result(), nil
}

func (f *fleet) client(t *testing.T, o client.Options, names ...string) *client.Client {
	o.HTTP = &http.Client{Transport: f}
	return open(t, "http://"+strings.Join(names, ",http://"), o)
}

func read(t *testing.T, c *client.Client) error {
	_, err := c.Subjects(t.Context(), false)
	return err
}

func write(t *testing.T, c *client.Client) error {
	_, err := c.Register(t.Context(), "s", registry.Schema{Schema: "one"})
	return err
}

func (f *fleet) want(t *testing.T, asked map[string]int) {
	t.Helper()
	if got := f.took(); !maps.Equal(got, asked) {
		t.Errorf("asked %v, want %v", got, asked)
	}
}

// TestSetAside: a URL that failed is asked again by the first read after a while,
// a longer one each time, and by nothing before that.
func TestSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(map[string]node{"a": {down: true}})
		c := f.client(t, client.Options{}, "a", "b")
		ok := func(do func(*testing.T, *client.Client) error, a, b int) {
			t.Helper()
			if err := do(t, c); err != nil {
				t.Errorf("with one node up: %v", err)
			}
			want := map[string]int{"b": b}
			if a > 0 {
				want["a"] = a
			}
			f.want(t, want)
		}
		ok(read, 1, 1)
		ok(read, 0, 1)
		ok(write, 0, 1)
		pause := 100 * time.Millisecond
		for range 12 {
			time.Sleep(pause/2 - 1) // it is at least half of that
			ok(read, 0, 1)
			time.Sleep(pause/2 + 1)
			ok(write, 0, 1) // no write is risked for it
			ok(read, 1, 1)
			ok(read, 0, 1)
			pause = min(2*pause, 30*time.Second)
		}
		f.set("a", node{})
		time.Sleep(pause)
		for range 3 {
			if err := read(t, c); err != nil {
				t.Error(err)
			}
		}
		f.want(t, map[string]int{"a": 3})
	})
}

// TestDead: a registry that is dead costs nobody a request but who finds out
// whether it is back, and nobody a time-out but who found out that it hangs.
func TestDead(t *testing.T) {
	for name, n := range map[string]node{"refuses": {down: true}, "hangs": {hangs: true}, "unavailable": {status: 503}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(map[string]node{"a": n})
				c := f.client(t, client.Options{Timeout: 5 * time.Second}, "a")
				for range 3 {
					if err := read(t, c); !errors.Is(err, client.ErrUnreachable) {
						t.Fatalf("got %v, want ErrUnreachable", err)
					}
				}
				f.took()
				began := time.Now()
				for _, do := range []func(*testing.T, *client.Client) error{read, write, read} {
					if err := do(t, c); !errors.Is(err, client.ErrUnreachable) || strings.Count(err.Error(), "http://a") != 1 {
						t.Errorf("got %v, want ErrUnreachable with the address", err)
					}
				}
				f.want(t, map[string]int{})
				if d := time.Since(began); d != 0 {
					t.Errorf("three calls took %v, want none of them to wait", d)
				}

				f.set("a", node{hangs: true})
				time.Sleep(time.Minute)
				for range 10 {
					go func() { _ = read(t, c) }()
				}
				synctest.Wait()
				f.want(t, map[string]int{"a": 1}) // tries it for all

				f.set("a", node{})
				time.Sleep(time.Minute)
				if err := errors.Join(read(t, c), write(t, c), read(t, c)); err != nil {
					t.Errorf("back again: %v", err)
				}
				f.want(t, map[string]int{"a": 3})
			})
		})
	}
}

// TestImpatient: a registry that hangs is found dead by callers who do not wait
// until its time-out, but not by those who leave at once.
func TestImpatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(map[string]node{"a": {hangs: true}})
		c := f.client(t, client.Options{}, "a")
		for _, patience := range []time.Duration{time.Millisecond, time.Second} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if _, err := c.Subjects(ctx, false); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the end of the caller", err)
			}
			cancel()
			f.want(t, map[string]int{"a": 1})
		}
		if err := read(t, c); !errors.Is(err, client.ErrUnreachable) {
			t.Errorf("got %v, want ErrUnreachable", err)
		}
		f.want(t, map[string]int{})
	})
}

// TestHedge: a read that hangs is sent to a second URL and given up at the first;
// a write is not.
func TestHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(map[string]node{"a": {hangs: true}, "b": {after: time.Millisecond}})
		c := f.client(t, client.Options{}, "a", "b")
		began := time.Now()
		if err := read(t, c); err != nil || time.Since(began) != 51*time.Millisecond {
			t.Errorf("after %v: %v, want an answer after 51 ms", time.Since(began), err)
		}
		if f.gaveUp["a"] != 1 {
			t.Error("the request that lost goes on")
		}
		f.want(t, map[string]int{"a": 1, "b": 1})
		for range 20 { // it is known for the slow one now
			if err := read(t, c); err != nil {
				t.Error(err)
			}
		}
		f.want(t, map[string]int{"b": 20})
		f.set("b", node{after: 9 * time.Second})
		if err := write(t, c); err != nil {
			t.Error(err)
		}
		f.want(t, map[string]int{"b": 1})

		never := f.client(t, client.Options{HedgeAfter: -1}, "b", "c")
		if err := read(t, never); err != nil {
			t.Error(err)
		}
		f.want(t, map[string]int{"b": 1})
	})
}

// TestHedgeBudget: however slow all are, at most one read in ten is sent twice.
func TestHedgeBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(nil)
		c := f.client(t, client.Options{}, "a", "b")
		const reads = 300
		for i := range reads {
			n := node{after: time.Duration(60+i) * time.Millisecond} // always slower than before
			f.nodes = map[string]node{"a": n, "b": n}
			if err := read(t, c); err != nil {
				t.Fatal(err)
			}
		}
		asked := f.took()
		second := asked["a"] + asked["b"] - reads
		if second > reads/10+1 || second < reads/20 {
			t.Errorf("%d of %d reads were sent twice, want about one in ten", second, reads)
		}
	})
}

// TestHedgeDelay: what is usual is no reason for a second request.
func TestHedgeDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(map[string]node{})
		c := f.client(t, client.Options{}, "a", "b")
		for i := range 100 {
			f.set("a", node{after: 70 * time.Millisecond})
			if i%10 == 0 { // a little faster each time, so as not to meet the delay
				f.set("a", node{after: 100*time.Millisecond - time.Duration(i)*100*time.Microsecond})
			}
			f.set("b", node{after: time.Hour})
			if i == 10 {
				f.took() // until here it was not known
			}
			if err := read(t, c); err != nil {
				t.Fatal(err)
			}
		}
		f.want(t, map[string]int{"a": 90})
	})
}

// TestRetry: what may be repeated is, after the time that the registry asks for,
// and nothing else.
func TestRetry(t *testing.T) {
	remove := func(t *testing.T, c *client.Client) error {
		_, err := c.DeleteSubject(t.Context(), "s", false)
		return err
	}
	set := func(t *testing.T, c *client.Client) error {
		return c.SetMode(t.Context(), "s", registry.ReadOnly, false)
	}
	tests := []struct {
		name  string
		do    func(*testing.T, *client.Client) error
		node  node
		again bool
		after time.Duration // at least
	}{
		{"read, 500", read, node{status: 500}, true, 0},
		{"read, 429 with a time", read, node{status: 429, retry: "3"}, true, 3 * time.Second},
		{"read, 503 with a time", read, node{status: 503, retry: "2"}, true, 2 * time.Second},
		{"read, 503 with a date", read, node{status: 503, retry: "Sat, 01 Jan 2000 00:00:05 GMT"}, true, 5 * time.Second},
		{"read, 502", read, node{status: 502}, true, 0},
		{"read, down", read, node{down: true}, true, 0},
		{"register, 503 with a time", write, node{status: 503, retry: "2"}, true, 2 * time.Second},
		{"register, 500", write, node{status: 500}, true, 0},
		{"register, down", write, node{down: true}, true, 0},
		{"setting, 504", set, node{status: 504}, true, 0},
		{"delete, 429", remove, node{status: 429}, true, 0},
		{"delete, down", remove, node{down: true}, true, 0},
		{"delete, 503", remove, node{status: 503, retry: "1"}, false, 0},
		{"delete, 500", remove, node{status: 500}, false, 0},
		{"read, 429 with a time that is too long", read, node{status: 429, retry: "60"}, false, 0},
		{"read, 400", read, node{status: 400}, false, 0},
		{"read, 401", read, node{status: 401}, false, 0},
		{"read, 404", read, node{status: 404}, false, 0},
		{"read, 408", read, node{status: 408}, false, 0},
		{"register, 409", write, node{status: 409}, false, 0},
		{"register, 422", write, node{status: 422, retry: "1"}, false, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(map[string]node{"a": test.node})
				c := f.client(t, client.Options{}, "a")
				began := time.Now()
				done := make(chan error, 1)
				go func() { done <- test.do(t, c) }()
				synctest.Wait()
				f.want(t, map[string]int{"a": 1})
				if !test.again {
					if err := <-done; err == nil || time.Since(began) != 0 {
						t.Errorf("after %v: %v, want the refusal at once", time.Since(began), err)
					}
					f.want(t, map[string]int{})
					return
				}
				f.set("a", node{})
				if err := <-done; err != nil || time.Since(began) < test.after {
					t.Errorf("after %v: %v, want it done, not before %v", time.Since(began), err, test.after)
				}
				f.want(t, map[string]int{"a": 1})
			})
		})
	}
}

// TestRetriesEnd: with their number, with the caller, and in the time of one
// request.
func TestRetriesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(map[string]node{"a": {status: 500}})
		for retries, requests := range map[int]int{-1: 1, 0: 4, 1: 2, 7: 8} {
			c := f.client(t, client.Options{Retries: retries}, "a")
			if err := read(t, c); !errors.Is(err, &registry.Error{Code: 500}) {
				t.Errorf("got %v, want the registry's refusal", err)
			}
			f.want(t, map[string]int{"a": requests})
		}
		f.set("a", node{status: 500, after: 3 * time.Second})
		c := f.client(t, client.Options{Timeout: 5 * time.Second, Retries: 100}, "a")
		began := time.Now()
		if err := read(t, c); err == nil || time.Since(began) > 10*time.Second {
			t.Errorf("after %v: %v, want no try begun after 5 s", time.Since(began), err)
		}
		f.set("a", node{status: 429, retry: "5"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if _, err := c.Subjects(ctx, false); !errors.Is(err, &registry.Error{Code: 429}) || time.Since(began) != 0 {
			t.Errorf("after %v: %v, want the refusal at once: there is no time for another try", time.Since(began), err)
		}
		gone, leave := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := c.Subjects(gone, false)
			done <- err
		}()
		synctest.Wait()
		leave()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the end of the caller", err)
		}
	})
}

// TestFastest: of several in good health the one that is known to answer faster is
// asked first.
func TestFastest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(map[string]node{"a": {after: 40 * time.Millisecond}, "b": {after: 2 * time.Millisecond}})
		c := f.client(t, client.Options{}, "a", "b")
		for range 3 { // b is not known
			if err := read(t, c); err != nil {
				t.Fatal(err)
			}
		}
		f.want(t, map[string]int{"a": 3})
		f.set("a", node{status: 500})
		if err := read(t, c); err != nil {
			t.Fatal(err)
		}
		f.set("a", node{after: 40 * time.Millisecond})
		f.took()
		for range 3 {
			if err := read(t, c); err != nil {
				t.Fatal(err)
			}
		}
		f.want(t, map[string]int{"b": 3})
	})
}

// TestWhose: a name and a password go to the URL that they came with.
func TestWhose(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]string{}
	transport := roundTrip(func(req *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		user, password, _ := req.BasicAuth()
		seen[req.URL.String()] = user + ":" + password
		if token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer "); ok {
			seen[req.URL.String()] = token
		}
		return nil, errors.New("down")
	})
	const urls = "https://u:secret@b:9/, http://a/path/"
	for _, o := range []client.Options{{}, {Username: "x", Password: "y"}, {Token: "t"}} {
		clear(seen)
		o.HTTP, o.Retries = &http.Client{Transport: transport}, -1
		_, err := open(t, urls, o).Versions(t.Context(), "a/b", true)
		if !errors.Is(err, client.ErrUnreachable) || strings.Contains(err.Error(), "secret") ||
			!strings.Contains(err.Error(), "http://a/path") || !strings.Contains(err.Error(), "https://b:9") {
			t.Errorf("got %v, want both addresses, and no password", err)
		}
		want := map[string]string{
			"http://a/path/subjects/a%2Fb/versions?deleted=true": o.Username + ":" + o.Password,
			"https://b:9/subjects/a%2Fb/versions?deleted=true":   "u:secret",
		}
		if o.Token != "" {
			want["http://a/path/subjects/a%2Fb/versions?deleted=true"] = o.Token
		}
		if !maps.Equal(seen, want) {
			t.Errorf("sent %v, want %v", seen, want)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// TestTLS: an authority of one's own, and a certificate of the client.
func TestTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		fmt.Fprintf(w, "%q", req.TLS.PeerCertificates[0].Subject.Organization)
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))

	o := client.Options{Retries: -1}
	if err := read(t, open(t, server.URL, o)); !errors.Is(err, client.ErrUnreachable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an authority that is not known: %v", err)
	}
	o.TLS = &tls.Config{RootCAs: roots}
	if err := read(t, open(t, server.URL, o)); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("without a certificate: %v", err)
	}
	o.TLS.Certificates = server.TLS.Certificates
	names, err := open(t, server.URL, o).Subjects(t.Context(), false)
	if err != nil || !slices.Equal(names, []string{"Acme Co"}) {
		t.Errorf("with a certificate: %v %v", names, err)
	}
	o.HTTP = &http.Client{Transport: roundTrip(nil)}
	if _, err := client.New(server.URL, nil, o); err == nil {
		t.Error("TLS with a transport of unknown kind is accepted")
	}
}

// TestOneIsEnough: while one node is well, no call fails that may be repeated,
// whatever befalls the others and however many call.
func TestOneIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(map[string]node{"c": {after: 40 * time.Millisecond}}) // the last choice
		c := f.client(t, client.Options{Timeout: time.Second, Retries: -1}, "a", "b", "c")
		troubles := []node{{}, {down: true}, {hangs: true}, {status: 500}, {status: 503}, {status: 503, retry: "7"}, {after: 300 * time.Millisecond}}
		ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
		defer stop()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for ctx.Err() == nil {
					if err := []func(*testing.T, *client.Client) error{read, write}[i%2](t, c); err != nil {
						t.Errorf("with one node in good health: %v", err)
					}
					time.Sleep(time.Duration(10+i) * time.Millisecond)
				}
			})
		}
		for i := 0; ctx.Err() == nil; i++ {
			f.set("a", troubles[i%len(troubles)])
			f.set("b", troubles[i*3%len(troubles)])
			time.Sleep(170 * time.Millisecond)
		}
		wg.Wait()
	})
}
