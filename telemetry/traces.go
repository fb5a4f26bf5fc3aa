package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

const (
	maxTraceQueue = 4096 // spans that wait; more are dropped
	traceTimeout  = 10 * time.Second
)

// openTraces begins to trace.
func (t *Telemetry) openTraces() error {
	u, err := url.Parse(t.config.Traces)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errTraceURL
	}
	if ratio := t.config.TraceRatio; !(ratio >= 0 && ratio <= 1) {
		return fmt.Errorf("the part of requests that are traced must be from 0 to 1, found %g", ratio)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces"
	}
	e := &exporter{url: u, log: t.config.Logger, http: http.Client{}}
	if t.config.HTTP != nil {
		e.http = *t.config.HTTP
	}
	e.http.Timeout = traceTimeout
	ratio := t.config.TraceRatio
	if ratio == 0 {
		ratio = 1
	}
	p := sdk.NewTracerProvider(
		sdk.WithBatcher(e, sdk.WithMaxQueueSize(maxTraceQueue), sdk.WithExportTimeout(traceTimeout)),
		sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(ratio))),
		sdk.WithResource(resource.NewSchemaless(
			attribute.String("service.name", t.config.Service),
			attribute.String("service.version", t.config.Version),
		)),
	)
	t.tracer, t.flush = p.Tracer("penstock"), p.Shutdown
	return nil
}

// exporter sends spans to a collector, as JSON over HTTP. What cannot be sent is
// lost, and logged.
type exporter struct {
	url  *url.URL
	http http.Client
	log  *slog.Logger
}

// ExportSpans implements the SDK's SpanExporter. It returns no error, since the
// SDK would write it to the process's own standard error.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	if err := e.send(ctx, spans); err != nil {
		e.log.Warn("traces were lost", "spans", len(spans), "to", e.url.Host, "error", err)
	}
	return nil
}

// Shutdown implements the SDK's SpanExporter.
func (e *exporter) Shutdown(context.Context) error {
	e.http.CloseIdleConnections()
	return nil
}

func (e *exporter) send(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	body, err := encodeSpans(spans)
	if err != nil {
		return fmt.Errorf("encode spans: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url.String(), bytes.NewReader(body))
	if err != nil {
		return errTraceURL
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.http.Do(req)
	if err != nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // without the URL, which may hold a secret
		}
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// The form of OTLP's JSON, of which these are the parts that our spans have.
type (
	otlpValue struct {
		String string `json:"stringValue,omitempty"`
		Int    string `json:"intValue,omitempty"` // 64 bits are text in JSON
	}
	otlpAttribute struct {
		Key   string    `json:"key"`
		Value otlpValue `json:"value"`
	}
	otlpStatus struct {
		Code int `json:"code,omitempty"`
	}
	otlpLink struct {
		TraceID string `json:"traceId"`
		SpanID  string `json:"spanId"`
		State   string `json:"traceState,omitempty"`
	}
	otlpSpan struct {
		TraceID    string          `json:"traceId"`
		SpanID     string          `json:"spanId"`
		ParentID   string          `json:"parentSpanId,omitempty"`
		State      string          `json:"traceState,omitempty"`
		Name       string          `json:"name"`
		Kind       int             `json:"kind"`
		Start      string          `json:"startTimeUnixNano"`
		End        string          `json:"endTimeUnixNano"`
		Attributes []otlpAttribute `json:"attributes,omitempty"`
		Links      []otlpLink      `json:"links,omitempty"`
		Status     otlpStatus      `json:"status"`
	}
	otlpScopeSpans struct {
		Scope struct {
			Name string `json:"name"`
		} `json:"scope"`
		Spans []otlpSpan `json:"spans"`
	}
	otlpResourceSpans struct {
		Resource struct {
			Attributes []otlpAttribute `json:"attributes"`
		} `json:"resource"`
		Scopes []otlpScopeSpans `json:"scopeSpans"`
	}
)

// encodeSpans makes one request of spans, which are all of one resource and of
// our one tracer.
func encodeSpans(spans []sdk.ReadOnlySpan) ([]byte, error) {
	var all otlpResourceSpans
	scope := otlpScopeSpans{}
	for _, s := range spans {
		all.Resource.Attributes = otlpAttributes(s.Resource().Attributes())
		scope.Scope.Name = s.InstrumentationScope().Name
		made := otlpSpan{
			TraceID:    s.SpanContext().TraceID().String(),
			SpanID:     s.SpanContext().SpanID().String(),
			State:      s.SpanContext().TraceState().String(),
			Name:       s.Name(),
			Kind:       int(s.SpanKind()), // the SDK's numbers are OTLP's
			Start:      strconv.FormatInt(s.StartTime().UnixNano(), 10),
			End:        strconv.FormatInt(s.EndTime().UnixNano(), 10),
			Attributes: otlpAttributes(s.Attributes()),
		}
		if s.Parent().IsValid() {
			made.ParentID = s.Parent().SpanID().String()
		}
		for _, l := range s.Links() {
			made.Links = append(made.Links, otlpLink{l.SpanContext.TraceID().String(), l.SpanContext.SpanID().String(), l.SpanContext.TraceState().String()})
		}
		if s.Status().Code == codes.Error {
			made.Status.Code = 2
		}
		scope.Spans = append(scope.Spans, made)
	}
	all.Scopes = []otlpScopeSpans{scope}
	return json.Marshal(map[string]any{"resourceSpans": []otlpResourceSpans{all}})
}

func otlpAttributes(attrs []attribute.KeyValue) []otlpAttribute {
	made := make([]otlpAttribute, 0, len(attrs))
	for _, a := range attrs {
		v := otlpValue{String: a.Value.String()}
		if a.Value.Type() == attribute.INT64 {
			v = otlpValue{Int: strconv.FormatInt(a.Value.AsInt64(), 10)}
		}
		made = append(made, otlpAttribute{string(a.Key), v})
	}
	return made
}
