package client_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/riferrei/srclient"
	"github.com/twmb/franz-go/pkg/sr"

	"penstock/registry"
	"penstock/registry/client"
	"penstock/registry/logs/memory"
	"penstock/schemas"
)

// fakeFormat takes any text for a schema; "use NAME" needs a reference, and
// "wide" and "narrow" say whether the schema reads what others write.
type fakeFormat struct{}

type fakeSchema struct {
	schemas.Schema
	text string
	refs map[string]string
}

func (fakeFormat) Type() schemas.Type { return schemas.Avro }

func (fakeFormat) Parse(text string, refs map[string]string) (schemas.Schema, error) {
	if name, ok := strings.CutPrefix(text, "use "); ok && refs[name] == "" {
		return nil, fmt.Errorf("%q is not known", name)
	}
	if text == "bad" {
		return nil, errors.New("bad at byte 0")
	}
	return &fakeSchema{text: text, refs: refs}, nil
}

func (s *fakeSchema) Type() schemas.Type { return schemas.Avro }
func (s *fakeSchema) Canonical() string  { return s.text }

type fakeChecker struct{}

func (fakeChecker) Check(reader, _ schemas.Schema, _ registry.Direction, _ registry.Policy) ([]registry.Finding, error) {
	if !strings.HasPrefix(reader.Canonical(), "narrow") {
		return nil, nil
	}
	return []registry.Finding{{
		Rule: "NARROW", Severity: registry.SeverityError, ReaderPath: "/a", WriterPath: "/",
		Message: "it's too narrow", Detail: "a", Fix: "widen it",
	}}, nil
}

var formats = []schemas.Format{fakeFormat{}}

// serve runs a registry and returns it with a client, and how many requests it
// got. gate, where it is not nil, is called for each request first.
func serve(t testing.TB, gate func(w http.ResponseWriter, req *http.Request) bool) (*registry.Registry, *httptest.Server, *atomic.Int64) {
	t.Helper()
	r, err := registry.New(t.Context(), memory.New(), formats, fakeChecker{}, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	requests := new(atomic.Int64)
	h := registry.Handler(r, registry.HandlerOptions{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		requests.Add(1)
		if gate == nil || gate(w, req) {
			h.ServeHTTP(w, req)
		}
	}))
	t.Cleanup(server.Close)
	return r, server, requests
}

func open(t testing.TB, url string, o client.Options) *client.Client {
	t.Helper()
	c, err := client.New(url, formats, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func text(s schemas.Schema) string {
	if s == nil {
		return "<nil>"
	}
	return s.Canonical()
}

func TestCalls(t *testing.T) {
	_, server, _ := serve(t, nil)
	c := open(t, server.URL, client.Options{})
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := c.Latest(ctx, "a/b"); !errors.Is(err, client.ErrNotFound) || !errors.Is(err, schemas.ErrNoSchema) {
		t.Errorf("latest of a subject that is not there: %v", err)
	}
	id, err := c.Register(ctx, "a/b", registry.Schema{Schema: "one"})
	must(err)
	if gotID, s, err := c.Latest(ctx, "a/b"); gotID != id || text(s) != "one" || err != nil {
		t.Errorf("latest after register: %d %s %v", gotID, text(s), err)
	}
	two, err := c.Register(ctx, "a/b", registry.Schema{Schema: "two"})
	must(err)
	if gotID, s, err := c.Latest(ctx, "a/b"); gotID != two || text(s) != "two" || err != nil {
		t.Errorf("latest after another register: %d %s %v, want what was registered", gotID, text(s), err)
	}
	if s, err := c.Schema(ctx, id); text(s) != "one" || err != nil {
		t.Errorf("schema: %s %v", text(s), err)
	}
	if _, err := c.Schema(ctx, 99); !errors.Is(err, schemas.ErrNoSchema) {
		t.Errorf("schema of an id that is not there: %v", err)
	}
	one, err := c.Version(ctx, "a/b", 1, false)
	must(err)
	guid, err := schemas.ParseGUID(one.GUID)
	must(err)
	if s, err := c.SchemaByGUID(ctx, guid); text(s) != "one" || err != nil {
		t.Errorf("schema by GUID: %s %v", text(s), err)
	}
	if _, err := c.SchemaByGUID(ctx, schemas.GUID{1}); !errors.Is(err, schemas.ErrNoSchema) {
		t.Errorf("schema of a GUID that is not there: %v", err)
	}
	found, err := c.Lookup(ctx, "a/b", registry.Schema{Schema: "one"})
	if must(err); found.Version != 1 || found.Subject != "a/b" {
		t.Errorf("lookup: %+v", found)
	}
	if _, err := c.Lookup(ctx, "a/b", registry.Schema{Schema: "three"}); !errors.Is(err, &registry.Error{Code: registry.CodeSchemaNotFound}) {
		t.Errorf("lookup of what is not there: %v", err)
	}

	findings, err := c.Check(ctx, "a/b", -1, registry.Schema{Schema: "narrow"})
	if must(err); registry.Compatible(findings) || findings[0].Fix != "widen it" || findings[0].Version != 2 {
		t.Errorf("check: %+v", findings)
	}
	findings, err = c.Check(ctx, "a/b", registry.AllVersions, registry.Schema{Schema: "wide"})
	if must(err); !registry.Compatible(findings) {
		t.Errorf("check: %+v", findings)
	}
	var refused *registry.Error
	_, err = c.Register(ctx, "a/b", registry.Schema{Schema: "narrow"})
	if !errors.As(err, &refused) || refused.Code != registry.CodeIncompatible || len(refused.Findings) != 1 || refused.Findings[0].Rule != "NARROW" {
		t.Errorf("register what is incompatible: %v", err)
	}
	if _, err = c.Register(ctx, "a/b", registry.Schema{Schema: "bad"}); !errors.Is(err, &registry.Error{Code: registry.CodeInvalidSchema}) {
		t.Errorf("register what is invalid: %v", err)
	}

	names, err := c.Subjects(ctx, false)
	if must(err); len(names) != 1 || names[0] != "a/b" {
		t.Errorf("subjects: %v", names)
	}
	must(c.SetConfig(ctx, "a/b", registry.Config{CompatibilityLevel: registry.LevelNone}))
	cfg, err := c.Config(ctx, "a/b")
	if must(err); cfg.CompatibilityLevel != registry.LevelNone {
		t.Errorf("config: %+v", cfg)
	}
	must(c.DeleteConfig(ctx, "a/b"))
	cfg, err = c.Config(ctx, "a/b")
	if must(err); cfg.CompatibilityLevel != registry.DefaultLevel {
		t.Errorf("config after it was deleted: %+v", cfg)
	}
	must(c.SetMode(ctx, "a/b", registry.ReadOnly, false))
	if m, err := c.Mode(ctx, "a/b"); m != registry.ReadOnly || err != nil {
		t.Errorf("mode: %s %v", m, err)
	}
	must(c.SetMode(ctx, "a/b", registry.ReadWrite, false))

	_, err = c.Register(ctx, "user", registry.Schema{Schema: "use x", References: []registry.Reference{{Name: "x", Subject: "a/b", Version: 1}}})
	must(err)
	_, s, err := c.Latest(ctx, "user")
	if must(err); s.(*fakeSchema).refs["x"] != "one" {
		t.Errorf("references of the latest: %v", s.(*fakeSchema).refs)
	}
	ids, err := c.ReferencedBy(ctx, "a/b", 1)
	if must(err); len(ids) != 1 {
		t.Errorf("referenced by: %v", ids)
	}
	if _, err := c.DeleteVersion(ctx, "a/b", 1, false); !errors.Is(err, &registry.Error{Code: registry.CodeReferenceExists}) {
		t.Errorf("delete what is referred to: %v", err)
	}
	n, err := c.DeleteVersion(ctx, "a/b", -1, false)
	if must(err); n != 2 {
		t.Errorf("deleted version %d, want 2", n)
	}
	if gotID, _, err := c.Latest(ctx, "a/b"); gotID != id || err != nil {
		t.Errorf("latest after the newest was deleted: %d %v, want %d", gotID, err, id)
	}
	numbers, err := c.Versions(ctx, "a/b", true)
	if must(err); fmt.Sprint(numbers) != "[1 2]" {
		t.Errorf("versions: %v", numbers)
	}
	v, err := c.Version(ctx, "a/b", 2, true)
	if must(err); !v.Deleted || v.Schema != "two" {
		t.Errorf("version: %+v", v)
	}
	deleted, err := c.DeleteSubject(ctx, "user", false)
	if must(err); fmt.Sprint(deleted) != "[1]" {
		t.Errorf("deleted versions %v", deleted)
	}
}

// TestOtherRegistries: registries that know nothing of findings, and give 409
// for a code, are understood too.
func TestOtherRegistries(t *testing.T) {
	_, server, _ := serve(t, func(w http.ResponseWriter, req *http.Request) bool {
		reply := `{"is_compatible":false,"messages":["{errorType:'X', description:'it's so', additionalInfo:'i'}","{errorType:\"Y\", description:\"plain\"}","{oldSchemaVersion: 3}","{oldSchema: 'x'}","{validateFields: 'false', compatibility: 'FULL'}"]}`
		switch {
		case strings.HasSuffix(req.URL.Path, "/s/versions"):
			w.WriteHeader(http.StatusConflict)
			reply = `{"error_code":409,"message":"no"}`
		case strings.Contains(req.URL.Path, "/silent/"):
			reply = `{"is_compatible":false}`
		case strings.Contains(req.URL.Path, "/proxy"):
			w.WriteHeader(http.StatusBadGateway)
			reply = "<html>"
		}
		_, _ = w.Write([]byte(reply))
		return false
	})
	c := open(t, server.URL, client.Options{})
	findings, err := c.Check(t.Context(), "other", -1, registry.Schema{Schema: "x"})
	if err != nil || len(findings) != 2 || registry.Compatible(findings) {
		t.Fatalf("got %+v, %v, want two findings", findings, err)
	}
	if f := findings[0]; f.Rule != "X" || f.Message != "it's so" || f.Detail != "i" || f.Version != 3 {
		t.Errorf("first finding: %+v", f)
	}
	if f := findings[1]; f.Rule != "Y" || f.Message != "plain" {
		t.Errorf("second finding: %+v", f)
	}
	if findings, err := c.Check(t.Context(), "silent", -1, registry.Schema{}); err != nil || registry.Compatible(findings) {
		t.Errorf("a refusal without reasons: %+v, %v", findings, err)
	}
	if _, err := c.Register(t.Context(), "s", registry.Schema{}); !errors.Is(err, &registry.Error{Code: registry.CodeIncompatible}) {
		t.Errorf("register: %v, want CodeIncompatible", err)
	}
	if _, err := c.Lookup(t.Context(), "proxy", registry.Schema{}); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("status 502: %v, want ErrUnreachable", err)
	}
}

// A schema that is there, but that nobody here understands, is no passing
// failure: its records must not wait for it.
func TestSchemaOfNoUse(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"schema": "bad"}`)
	}))
	defer server.Close()
	c := open(t, server.URL, client.Options{})
	if _, err := c.Schema(t.Context(), 1); !errors.Is(err, schemas.ErrBadSchema) || !strings.Contains(err.Error(), "bad at byte 0") {
		t.Errorf("a schema that does not parse gives: %v", err)
	}
}

func TestAddress(t *testing.T) {
	for _, bad := range []string{"", "localhost:8081", "kafka://x:1", "http://", "http://user:secret@"} {
		_, err := client.New(bad, formats, client.Options{})
		if err == nil {
			t.Errorf("address %q is accepted", bad)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	_, server, _ := serve(t, func(w http.ResponseWriter, req *http.Request) bool {
		user, password, _ := req.BasicAuth()
		if user != "u" || password != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error_code":401,"message":"who are you?"}`))
			return false
		}
		return true
	})
	down := httptest.NewServer(nil)
	down.Close()
	with := strings.Replace(server.URL, "://", "://u:secret@", 1)
	if _, err := open(t, down.URL+","+with, client.Options{}).Subjects(t.Context(), false); err != nil {
		t.Errorf("the first of two addresses is down: %v", err)
	}
	if _, err := open(t, server.URL, client.Options{}).Subjects(t.Context(), false); !errors.Is(err, &registry.Error{Code: 401}) {
		t.Errorf("without a password: %v", err)
	}
	_, err := open(t, strings.Replace(down.URL, "://", "://u:secret@", 1), client.Options{}).Subjects(t.Context(), false)
	if !errors.Is(err, client.ErrUnreachable) || strings.Contains(err.Error(), "secret") {
		t.Errorf("nobody there: %v, want ErrUnreachable without the password", err)
	}
}

// TestCoalesced: many who miss at once cost one request, and the end of the
// first one's context is not the end of the others.
func TestCoalesced(t *testing.T) {
	arrived, release := make(chan struct{}, 100), make(chan struct{})
	r, server, requests := serve(t, func(http.ResponseWriter, *http.Request) bool {
		arrived <- struct{}{}
		<-release
		return true
	})
	registered, err := r.Register(t.Context(), "s", registry.Schema{Schema: "one"}, false)
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, server.URL, client.Options{})
	first, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := c.Schema(first, schemas.ID(registered.ID))
		gone <- err
	}()
	<-arrived
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the first caller: %v, want its own end", err)
	}
	var wg sync.WaitGroup
	var started sync.WaitGroup
	for range 20 {
		started.Add(1)
		wg.Go(func() {
			started.Done()
			if s, err := c.Schema(t.Context(), schemas.ID(registered.ID)); text(s) != "one" || err != nil {
				t.Errorf("another caller: %s %v", text(s), err)
			}
		})
	}
	started.Wait()
	close(release)
	wg.Wait()
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

// origin is a registry without a network, for tests that control time. It
// answers what latest says, and counts.
type origin struct {
	mu     sync.Mutex
	text   string
	down   bool
	asked  int
	around chan struct{} // where it is not nil, an answer waits for it
}

func (o *origin) set(text string, down bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text, o.down = text, down
}

func (o *origin) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked
}

func (o *origin) RoundTrip(req *http.Request) (*http.Response, error) {
	if o.around != nil {
		<-o.around
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	if o.down {
		return nil, errors.New("no route")
	}
	w := httptest.NewRecorder()
	if o.text == "" {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.WriteString(`{"error_code":40401,"message":"none"}`)
	} else {
		_ = json.NewEncoder(w).Encode(registry.Schema{ID: len(o.text), Version: 1, Schema: o.text})
	}
	return w.Result(), nil
}

func (o *origin) client(t *testing.T, cache client.CacheOptions) *client.Client {
	return open(t, "http://registry", client.Options{HTTP: &http.Client{Transport: o}, Retries: -1, Cache: cache})
}

func TestAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &origin{text: "a"}
		c := o.client(t, client.CacheOptions{LatestAge: 10 * time.Second, MissingAge: time.Second})
		want := func(words string, asked int) {
			t.Helper()
			_, s, err := c.Latest(t.Context(), "s")
			synctest.Wait() // for a refresh
			if text(s) != words || err != nil || o.count() != asked {
				t.Errorf("got %s, %v after %d requests, want %s after %d", text(s), err, o.count(), words, asked)
			}
		}
		want("a", 1)
		o.set("bb", false)
		time.Sleep(9 * time.Second)
		want("a", 1)
		time.Sleep(2 * time.Second)
		want("a", 2) // old: refreshed for the next
		want("bb", 2)
		time.Sleep(25 * time.Second)
		o.set("ccc", false)
		want("ccc", 3) // too old: waited for

		o.set("", true)
		time.Sleep(time.Hour)
		want("ccc", 4) // an outage
		want("ccc", 4) // in which the registry is left alone
		time.Sleep(time.Second)
		want("ccc", 5)
		if s, err := c.Schema(t.Context(), 77); !errors.Is(err, client.ErrUnreachable) {
			t.Errorf("an unknown id in an outage: %v %v, want ErrUnreachable", text(s), err)
		}

		o.set("", false)
		time.Sleep(time.Hour)
		if _, _, err := c.Latest(t.Context(), "s"); !errors.Is(err, client.ErrNotFound) {
			t.Errorf("a subject that is gone: %v", err)
		}
		asked := o.count()
		if _, _, err := c.Latest(t.Context(), "s"); !errors.Is(err, client.ErrNotFound) || o.count() != asked {
			t.Errorf("a second time: %v after %d more requests, want the answer kept", err, o.count()-asked)
		}
		o.set("dddd", false)
		time.Sleep(2 * time.Second)
		want("dddd", asked+1)

		if _, err := c.Schema(t.Context(), 5); err != nil {
			t.Fatal(err)
		}
		o.set("", true)
		time.Sleep(1000 * time.Hour)
		if s, err := c.Schema(t.Context(), 5); text(s) != "dddd" || err != nil {
			t.Errorf("an id that was read before, in an outage: %s %v", text(s), err)
		}
	})
}

// TestHangs: a registry that takes requests and does not answer holds nobody up
// who has an old answer.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &origin{text: "a", around: make(chan struct{}, 1)}
		c := o.client(t, client.CacheOptions{})
		o.around <- struct{}{}
		if _, _, err := c.Latest(t.Context(), "s"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		began := time.Now()
		if _, s, err := c.Latest(t.Context(), "s"); text(s) != "a" || err != nil || time.Since(began) > time.Second {
			t.Errorf("got %s, %v after %v, want the old answer within a second", text(s), err, time.Since(began))
		}
		close(o.around)
	})
}

// TestForgetDuringFetch: what was on its way when the subject changed is not
// kept.
func TestForgetDuringFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &origin{text: "a", around: make(chan struct{})}
		c := o.client(t, client.CacheOptions{})
		go func() { _, _, _ = c.Latest(t.Context(), "s") }()
		synctest.Wait()
		go func() { _, _ = c.Register(t.Context(), "s", registry.Schema{Schema: "bb"}) }()
		synctest.Wait()
		o.around <- struct{}{} // one of the two
		o.around <- struct{}{}
		synctest.Wait()
		o.set("bb", false)
		close(o.around)
		if _, s, err := c.Latest(t.Context(), "s"); text(s) != "bb" || err != nil {
			t.Errorf("got %s %v, want what was registered", text(s), err)
		}
	})
}

func TestBounded(t *testing.T) {
	o := &origin{text: strings.Repeat("x", 10_000)}
	c := o.client(t, client.CacheOptions{MaxBytes: 200_000})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for id := range 3000 {
		if _, err := c.Schema(t.Context(), schemas.ID(id)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Schema(t.Context(), 0); err != nil { // in use, so it stays
			t.Fatal(err)
		}
	}
	if n := o.count(); n != 3000 {
		t.Errorf("%d requests, want 3000: the schema in use was dropped", n)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 5_000_000 {
		t.Errorf("the cache grew to %d bytes, want about 200,000", grown)
	}
	if _, err := c.Schema(t.Context(), 1); err != nil || o.count() != 3001 {
		t.Errorf("a schema not in use was kept: %d requests, %v", o.count(), err)
	}
}

func TestClosed(t *testing.T) {
	o := &origin{text: "a"}
	c := o.client(t, client.CacheOptions{})
	if err := cmp.Or(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	if _, err := c.Schema(t.Context(), 1); err == nil {
		t.Error("a closed client fetched")
	}
}

// TestHitCostsNothing: a schema that is there is handed out without a lock or
// an allocation.
func TestHitCostsNothing(t *testing.T) {
	o := &origin{text: "a"}
	c := o.client(t, client.CacheOptions{})
	ctx := t.Context()
	get := func() {
		if _, err := c.Schema(ctx, 100_000); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Latest(ctx, "a subject of some length"); err != nil {
			t.Fatal(err)
		}
	}
	get()
	if n := testing.AllocsPerRun(100, get); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkSchema(b *testing.B) {
	r, server, _ := serve(b, nil)
	s, err := r.Register(b.Context(), "s", registry.Schema{Schema: "one"}, false)
	if err != nil {
		b.Fatal(err)
	}
	c := open(b, server.URL, client.Options{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ctx := context.Background()
		for pb.Next() {
			if _, err := c.Schema(ctx, schemas.ID(s.ID)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestSrclient runs srclient against the registry, and the adapter over it.
func TestSrclient(t *testing.T) {
	r, server, requests := serve(t, nil)
	their := srclient.NewSchemaRegistryClient(server.URL)
	one, err := their.CreateSchema("s/t", "one", srclient.Avro)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := their.CreateSchema("user", "use x", srclient.Avro, srclient.Reference{Name: "x", Subject: "s/t", Version: 1}); err != nil {
		t.Fatal(err)
	}
	if ok, err := their.IsSchemaCompatible("s/t", "narrow", "latest", srclient.Avro); ok || err != nil {
		t.Errorf("compatible: %v %v", ok, err)
	}
	if found, err := their.LookupSchema("s/t", "one", srclient.Avro); err != nil || found.ID() != one.ID() {
		t.Errorf("lookup: %+v %v", found, err)
	}
	if level, err := their.ChangeSubjectCompatibilityLevel("s/t", srclient.Full); err != nil || *level != srclient.Full {
		t.Errorf("change level: %v %v", level, err)
	}
	if level, err := their.GetCompatibilityLevel("user", true); err != nil || *level != srclient.Backward {
		t.Errorf("level: %v %v", level, err)
	}

	c := client.FromSrclient(their, formats, client.CacheOptions{LatestAge: time.Nanosecond})
	defer c.Close()
	id, s, err := c.Latest(t.Context(), "user")
	if err != nil || s.(*fakeSchema).refs["x"] != "one" {
		t.Errorf("latest: %d %s %v", id, text(s), err)
	}
	if s, err := c.Schema(t.Context(), schemas.ID(one.ID())); text(s) != "one" || err != nil {
		t.Errorf("schema: %s %v", text(s), err)
	}
	if _, err := r.Register(t.Context(), "s/t", registry.Schema{Schema: "two"}, false); err != nil {
		t.Fatal(err)
	}
	if _, s, err := c.Latest(t.Context(), "s/t"); text(s) != "two" || err != nil {
		t.Errorf("latest after another version: %s %v", text(s), err)
	}
	if _, err := r.Register(t.Context(), "s/t", registry.Schema{Schema: "three"}, false); err != nil {
		t.Fatal(err)
	}
	if _, s, err := c.Latest(t.Context(), "s/t"); text(s) != "three" || err != nil {
		t.Errorf("latest after one more: %s %v, srclient's own cache is in the way", text(s), err)
	}
	if _, err := c.Schema(t.Context(), 99); !errors.Is(err, schemas.ErrNoSchema) {
		t.Errorf("an id that is not there: %v", err)
	}
	if err := cmp.Or(their.DeleteSubject("user", false), their.DeleteSubject("user", true), their.DeleteSubjectByVersion("s/t", 2, true)); err != nil {
		t.Errorf("delete: %v", err)
	}
	if requests.Load() == 0 {
		t.Error("nothing was asked")
	}
	server.Close()
	if _, err := c.Schema(t.Context(), 98); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("in an outage: %v", err)
	}
}

// TestFranz runs franz-go's client against the registry.
func TestFranz(t *testing.T) {
	_, server, _ := serve(t, nil)
	c, err := sr.NewClient(sr.URLs(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	made, err := c.CreateSchema(ctx, "s/t", sr.Schema{Schema: "one"})
	if must(err); made.ID != 1 || made.Version != 1 || made.Subject != "s/t" || made.GUID == "" {
		t.Errorf("create: %+v", made)
	}
	got, err := c.SchemaByGUID(ctx, made.GUID)
	if must(err); got.Schema.Schema != "one" {
		t.Errorf("by guid: %+v", got)
	}
	if _, err := c.SchemaByID(ctx, 9); !isCode(err, 40403) {
		t.Errorf("by an id that is not there: %v", err)
	}
	answer, err := c.CheckCompatibility(sr.WithParams(ctx, sr.Verbose), "s/t", -1, sr.Schema{Schema: "narrow"})
	if must(err); answer.Is || len(answer.Messages) != 4 {
		t.Errorf("check: %+v", answer)
	}
	all, err := c.AllSchemas(ctx)
	if must(err); len(all) != 1 {
		t.Errorf("all schemas: %+v", all)
	}
	for _, result := range c.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatFull}, "s/t") {
		must(result.Err)
	}
	for _, result := range c.Compatibility(ctx, "s/t", "") {
		must(result.Err)
	}
	usages, err := c.SchemaUsagesByID(ctx, 1)
	if must(err); len(usages) != 1 {
		t.Errorf("usages: %+v", usages)
	}
	contexts, err := c.Contexts(ctx)
	if must(err); len(contexts) != 1 {
		t.Errorf("contexts: %v", contexts)
	}
	if _, err := c.CreateSchema(sr.InContext(ctx, ".other"), "s", sr.Schema{Schema: "two"}); err != nil {
		t.Errorf("create in a context: %v", err)
	}
	_, err = c.DeleteSubject(ctx, "s/t", sr.SoftDelete)
	must(err)
	_, err = c.DeleteSubject(ctx, "s/t", sr.HardDelete)
	must(err)
}

func isCode(err error, code int) bool {
	var e *sr.ResponseError
	return errors.As(err, &e) && e.ErrorCode == code
}
