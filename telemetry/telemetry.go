// Package telemetry measures HTTP servers: metrics for Prometheus, an access
// log, and traces in OpenTelemetry's form; and consumers, as metrics. It imports
// nothing of ours; what a package wants to show it hands over as a Gauge, or to
// the methods of a Consumer.
//
// No query, no header and no body is part of what is shown, so that no secret
// is. What a client may choose freely (paths, methods) is never a label.
package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Config says what is shown and where. The zero value measures, and neither
// logs nor traces.
type Config struct {
	// Service and Version name this program in traces. An empty Service is
	// "penstock".
	Service, Version string
	// Gauges are shown among the metrics.
	Gauges []Gauge
	// AccessLog gets one line a request. nil means none.
	AccessLog *slog.Logger
	// LogEvery says that of the requests that end well only each such one is
	// logged. 0 is 1. Status 400 and above is always logged.
	LogEvery int
	// Traces is the URL of an OpenTelemetry collector that takes OTLP over
	// HTTP, as in http://127.0.0.1:4318. Empty means no traces.
	Traces string
	// TraceRatio is the part of requests that are traced, unless whoever sends
	// one has decided already. 0 is all.
	TraceRatio float64
	// Logger gets what the operator must know. nil logs nothing.
	Logger *slog.Logger
	// HTTP sends the traces. nil is a client of its own.
	HTTP *http.Client
}

// Gauge is a number that is asked for each time the metrics are read.
type Gauge struct {
	Name, Help string
	Value      func() float64 // may be called concurrently
}

// Telemetry holds what was measured. Its methods may be called concurrently.
type Telemetry struct {
	config   Config
	metrics  *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight *prometheus.GaugeVec
	received *prometheus.HistogramVec
	sent     *prometheus.HistogramVec
	good     atomic.Uint64 // requests that ended well, for LogEvery
	tracer   trace.Tracer
	flush    func(context.Context) error
}

// New returns an error for a gauge or a URL that cannot be. Whoever calls it
// calls Close.
func New(c Config) (*Telemetry, error) {
	c.Service = cmp.Or(c.Service, "penstock")
	c.LogEvery = max(c.LogEvery, 1)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	sizes := prometheus.ExponentialBuckets(256, 8, 6) // to 8 MiB
	t := &Telemetry{
		config:  c,
		metrics: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_http_requests_total", Help: "Requests that were answered.",
		}, []string{"server", "route", "method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "penstock_http_request_duration_seconds", Help: "From the end of a request's header to the end of its answer.",
			Buckets: []float64{.0001, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"server", "route", "method"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "penstock_http_requests_in_flight", Help: "Requests that are being answered.",
		}, []string{"server"}),
		received: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "penstock_http_request_bytes", Help: "Bytes of a request's body that were read.", Buckets: sizes,
		}, []string{"server"}),
		sent: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "penstock_http_response_bytes", Help: "Bytes of an answer's body.", Buckets: sizes,
		}, []string{"server"}),
		tracer: noop.NewTracerProvider().Tracer(""),
		flush:  func(context.Context) error { return nil },
	}
	all := []prometheus.Collector{
		t.requests, t.duration, t.inFlight, t.received, t.sent,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	}
	for _, g := range c.Gauges {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.Name, Help: g.Help}, g.Value))
	}
	for _, m := range all {
		if err := t.metrics.Register(m); err != nil {
			return nil, fmt.Errorf("register metric: %w", err)
		}
	}
	if c.Traces != "" {
		if err := t.openTraces(); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Close sends the traces that wait, until ctx ends.
func (t *Telemetry) Close(ctx context.Context) error {
	if err := t.flush(ctx); err != nil {
		return fmt.Errorf("send the last traces: %w", err)
	}
	return nil
}

// Metrics serves what was measured.
func (t *Telemetry) Metrics() http.Handler {
	return promhttp.HandlerFor(t.metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// Profiles serves Go's profiles below /debug/pprof/, but for the command line,
// which may hold secrets.
func Profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", http.NotFound)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// notes are what handlers add to a request's line in the access log.
type notes struct {
	mu    sync.Mutex
	attrs []slog.Attr
}

type notesKey struct{}

// maxNotes is how many notes of a request are kept.
const maxNotes = 8

// Note adds to the line in the access log of the request that ctx is of.
func Note(ctx context.Context, key, value string) {
	n, _ := ctx.Value(notesKey{}).(*notes)
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.attrs) < maxNotes {
		n.attrs = append(n.attrs, slog.String(key, value))
	}
}

// methods are the labels that there are; any other is "other".
var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
	http.MethodDelete, http.MethodOptions,
}

// Wrap measures a handler. server names it among the process's others. The
// route of a request is the pattern of the ServeMux that it went through,
// without the method, "none" where there was none.
func (t *Telemetry) Wrap(server string, next http.Handler) http.Handler {
	inFlight := t.inFlight.WithLabelValues(server)
	received := t.received.WithLabelValues(server)
	sent := t.sent.WithLabelValues(server)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		inFlight.Inc()
		rw := &response{ResponseWriter: w}
		body := &countingBody{ReadCloser: r.Body}
		n := &notes{}
		ctx := context.WithValue(r.Context(), notesKey{}, n)
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
		ctx, span := t.tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
		inner := r.WithContext(ctx)
		inner.Body = body
		finished := false
		defer func() {
			if !finished {
				rw.status = http.StatusInternalServerError // a panic is on its way
			}
			inFlight.Dec()
			route, method, status := routeOf(inner), methodOf(r), cmp.Or(rw.status, http.StatusOK)
			took := time.Since(start)
			t.requests.WithLabelValues(server, route, method, strconv.Itoa(status)).Inc()
			t.duration.WithLabelValues(server, route, method).Observe(took.Seconds())
			received.Observe(float64(body.n.Load()))
			sent.Observe(float64(rw.n))
			endSpan(span, route, method, status)
			t.log(ctx, server, route, r, rw, took, n)
		}()
		next.ServeHTTP(rw, inner)
		finished = true
	})
}

func routeOf(r *http.Request) string {
	pattern := r.Pattern
	if _, path, ok := strings.Cut(pattern, " "); ok {
		pattern = path
	}
	return cmp.Or(pattern, "none")
}

func methodOf(r *http.Request) string {
	if slices.Contains(methods, r.Method) {
		return r.Method
	}
	return "other"
}

func endSpan(span trace.Span, route, method string, status int) {
	if span.IsRecording() {
		span.SetName(method + " " + route)
		span.SetAttributes(
			attribute.String("http.request.method", method),
			attribute.String("http.route", route),
			attribute.Int("http.response.status_code", status),
		)
		if status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, "")
		}
	}
	span.End()
}

func (t *Telemetry) log(ctx context.Context, server, route string, r *http.Request, rw *response, took time.Duration, n *notes) {
	status := cmp.Or(rw.status, http.StatusOK)
	if t.config.AccessLog == nil || status < 400 && (t.good.Add(1)-1)%uint64(t.config.LogEvery) != 0 {
		return
	}
	attrs := []slog.Attr{
		slog.String("server", server),
		slog.String("from", r.RemoteAddr),
		slog.String("method", r.Method),
		slog.String("path", r.URL.Path),
		slog.String("route", route),
		slog.Int("status", status),
		slog.Int64("bytes", rw.n),
		slog.Duration("took", took),
		slog.String("request", rw.Header().Get("X-Request-Id")),
	}
	if s := trace.SpanContextFromContext(ctx); s.IsValid() {
		attrs = append(attrs, slog.String("trace", s.TraceID().String()))
	}
	n.mu.Lock()
	attrs = append(attrs, n.attrs...)
	n.mu.Unlock()
	t.config.AccessLog.LogAttrs(ctx, slog.LevelInfo, "request", attrs...)
}

// response notes status and size.
type response struct {
	http.ResponseWriter
	status int
	n      int64
}

func (r *response) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *response) Write(p []byte) (int, error) {
	n, err := r.ResponseWriter.Write(p)
	r.n += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// countingBody counts what is read of a body, which net/http may still do when
// the handler is through.
type countingBody struct {
	io.ReadCloser
	n atomic.Int64
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

var errTraceURL = errors.New("traces go to an http or https URL, as in http://127.0.0.1:4318")
