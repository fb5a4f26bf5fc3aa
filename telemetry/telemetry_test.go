package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func open(t *testing.T, c Config) *Telemetry {
	t.Helper()
	tel, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

// routes is a handler with a pattern.
func routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/subjects/{subject}", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			panic(err)
		}
		Note(r.Context(), "principal", "alice")
		if r.PathValue("subject") == "gone" {
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprint(w, "12345")
	})
	return mux
}

func scrape(t *testing.T, tel *Telemetry) string {
	t.Helper()
	w := httptest.NewRecorder()
	tel.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func TestMetrics(t *testing.T) {
	tel := open(t, Config{Gauges: []Gauge{{"penstock_test_things", "Things.", func() float64 { return 7 }}}})
	h := tel.Wrap("registry", routes())
	for _, r := range []*http.Request{
		httptest.NewRequest("GET", "/subjects/a?token=hunter2", nil),
		httptest.NewRequest("POST", "/subjects/b", strings.NewReader(strings.Repeat("x", 300))),
		httptest.NewRequest("GET", "/subjects/gone", nil),
		httptest.NewRequest("BREW", "/hunter2", nil),
	} {
		r.Header.Set("Authorization", "Basic hunter2")
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	text := scrape(t, tel)
	for _, want := range []string{
		`penstock_http_requests_total{code="200",method="GET",route="/subjects/{subject}",server="registry"} 1`,
		`penstock_http_requests_total{code="200",method="POST",route="/subjects/{subject}",server="registry"} 1`,
		`penstock_http_requests_total{code="404",method="GET",route="/subjects/{subject}",server="registry"} 1`,
		`penstock_http_requests_total{code="404",method="other",route="none",server="registry"} 1`,
		`penstock_http_request_duration_seconds_count{method="GET",route="/subjects/{subject}",server="registry"} 2`,
		`penstock_http_request_bytes_sum{server="registry"} 300`,
		`penstock_http_requests_in_flight{server="registry"} 0`,
		`penstock_test_things 7`, "go_goroutines ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(text, "hunter2") {
		t.Error("a secret is among the metrics")
	}
	if _, err := New(Config{Gauges: []Gauge{{Name: "penstock_http_requests_total", Help: "x"}}}); err == nil {
		t.Error("two metrics have one name")
	}
}

// A handler that panics is counted, and its panic goes on.
func TestPanicIsCounted(t *testing.T) {
	tel := open(t, Config{})
	h := tel.Wrap("registry", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}()
	text := scrape(t, tel)
	for _, want := range []string{`code="500",method="GET",route="none"`, `in_flight{server="registry"} 0`} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing", want)
		}
	}
}

func TestAccessLog(t *testing.T) {
	var out bytes.Buffer
	tel := open(t, Config{AccessLog: slog.New(slog.NewJSONHandler(&out, nil)), LogEvery: 3})
	h := tel.Wrap("registry", routes())
	send := func(path string) {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Authorization", "Bearer hunter2")
		w := httptest.NewRecorder()
		w.Header().Set("X-Request-Id", "id-1")
		h.ServeHTTP(w, r)
	}
	for range 6 {
		send("/subjects/a?password=hunter2")
	}
	send("/subjects/gone")
	if n := strings.Count(out.String(), "\n"); n != 3 { // each third of six, and the one that failed
		t.Errorf("%d lines, want 3:\n%s", n, &out)
	}
	line, _, _ := strings.Cut(out.String(), "\n")
	var got map[string]any
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"server": "registry", "method": "GET", "path": "/subjects/a", "route": "/subjects/{subject}", "status": 200.0,
		"bytes": 5.0, "request": "id-1", "principal": "alice", "from": "192.0.2.1:1234",
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
	if strings.Contains(out.String(), "hunter2") {
		t.Errorf("a secret is in the log:\n%s", &out)
	}
}

// collector takes traces without a network, so that synctest's clock holds.
type collector struct {
	paths  []string
	bodies []string
	status int
}

func (c *collector) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	c.paths, c.bodies = append(c.paths, r.URL.Path), append(c.bodies, string(body))
	w := httptest.NewRecorder()
	w.WriteHeader(c.status)
	return w.Result(), err
}

func TestTraces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &collector{status: 200}
		tel := open(t, Config{Version: "1.2", Traces: "http://collector:4318", HTTP: &http.Client{Transport: c}})
		start := time.Now()
		h := tel.Wrap("registry", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			w.WriteHeader(http.StatusBadGateway)
		}))
		r := httptest.NewRequest("GET", "/x?token=hunter2", nil)
		r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		h.ServeHTTP(httptest.NewRecorder(), r)
		unsampled := httptest.NewRequest("GET", "/x", nil)
		unsampled.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203331-00")
		h.ServeHTTP(httptest.NewRecorder(), unsampled)
		if err := tel.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(c.bodies) != 1 || c.paths[0] != "/v1/traces" {
			t.Fatalf("got %d requests to %q, want 1", len(c.bodies), c.paths)
		}
		var sent struct {
			ResourceSpans []struct {
				Resource   struct{ Attributes []map[string]any }
				ScopeSpans []struct{ Spans []map[string]any }
			}
		}
		if err := json.Unmarshal([]byte(c.bodies[0]), &sent); err != nil {
			t.Fatal(err)
		}
		spans := sent.ResourceSpans[0].ScopeSpans[0].Spans
		if len(spans) != 1 {
			t.Fatalf("%d spans, want 1", len(spans))
		}
		s := spans[0]
		if s["traceId"] != "0af7651916cd43dd8448eb211c80319c" || s["parentSpanId"] != "b7ad6b7169203331" || s["name"] != "GET none" || s["kind"] != 2.0 ||
			s["startTimeUnixNano"] != fmt.Sprint(start.UnixNano()) || s["endTimeUnixNano"] != fmt.Sprint(start.Add(time.Second).UnixNano()) {
			t.Errorf("got %v", s)
		}
		for _, want := range []string{`"code":2`, `{"key":"http.response.status_code","value":{"intValue":"502"}}`, `{"key":"service.version","value":{"stringValue":"1.2"}}`} {
			if !strings.Contains(c.bodies[0], want) {
				t.Errorf("%s is missing in %s", want, c.bodies[0])
			}
		}
		if strings.Contains(c.bodies[0], "hunter2") {
			t.Error("a secret is in a trace")
		}
	})
}

// A collector that is away costs a line in the log, and shows no secret there.
func TestTracesLost(t *testing.T) {
	var out bytes.Buffer
	c := &collector{status: 503}
	tel := open(t, Config{
		Traces: "http://user:hunter2@collector/own?key=hunter2", HTTP: &http.Client{Transport: c}, Logger: slog.New(slog.NewTextHandler(&out, nil)),
	})
	tel.Wrap("registry", routes()).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if err := tel.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); !strings.Contains(s, "traces were lost") || strings.Contains(s, "hunter2") {
		t.Errorf("logged %s", s)
	}
	if len(c.paths) != 1 || c.paths[0] != "/own" {
		t.Errorf("asked for %q", c.paths)
	}
	for _, bad := range []Config{{Traces: "collector:4318"}, {Traces: "http://x", TraceRatio: 2}} {
		if _, err := New(bad); err == nil || strings.Contains(err.Error(), "collector") {
			t.Errorf("%+v: got %v", bad, err)
		}
	}
}

func TestProfiles(t *testing.T) {
	for path, want := range map[string]int{
		"/debug/pprof/": 200, "/debug/pprof/goroutine?debug=1": 200, "/debug/pprof/cmdline": 404, "/": 404,
	} {
		w := httptest.NewRecorder()
		Profiles().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != want {
			t.Errorf("%s: got %d, want %d", path, w.Code, want)
		}
	}
}

func TestNoteIsBounded(t *testing.T) {
	n := &notes{}
	ctx := context.WithValue(t.Context(), notesKey{}, n)
	for range 100 {
		Note(ctx, "a", "b")
	}
	if len(n.attrs) != maxNotes {
		t.Errorf("%d notes are kept", len(n.attrs))
	}
	Note(t.Context(), "a", "b") // of no request
}

func BenchmarkWrap(b *testing.B) {
	tel, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	h := tel.Wrap("registry", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}
