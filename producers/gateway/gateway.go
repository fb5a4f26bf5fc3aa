// Package gateway takes events over HTTP: POST /topics/{topic} checks what it
// is sent against the topic's schema, publishes it, and answers when it is
// durable.
//
// A body of type application/json is one event; ?key=FIELD makes one of its
// fields the record's key. A body of type application/vnd.kafka.json.v2+json is
//
//	{"records": [{"key": …, "value": …, "headers": {"name": "text", …}}, …]}
//
// where key and headers may be missing and a value of null is a tombstone. A
// key that is a string is its text, any other the JSON of it.
//
// Either all events of a request fit, or none is published. The answer to
// success is 200 and {"accepted": n}. Any other answer is an Answer: 400 for a
// body that is not of that form, 404 for a topic that does not exist or has no
// schema, 413 for too much, 415 for another type of body, 422 for events that
// do not fit, with every violation, 429 for too many requests at a time, 503
// while the broker or the registry is away. After 429 nothing was written.
// After 503 events may have been, and after any answer whose Accepted is not 0
// that many were.
package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/producers"
	"penstock/schemas"
	"penstock/stream"
)

// The types of a body.
const (
	typeEvent   = "application/json"
	typeRecords = "application/vnd.kafka.json.v2+json"
)

// Config bounds what a gateway does. Zero fields have useful defaults.
type Config struct {
	// MaxBodyBytes is the largest body; 0 is 2 MiB.
	MaxBodyBytes int64
	// MaxRecords is the largest number of records in a body; 0 is 10,000.
	MaxRecords int
	// MaxInFlight is how many requests are worked on at a time; 0 is 32. Beyond
	// it the answer is 429 at once. A body parsed takes up to some 20 times its
	// size in memory, so that all together stay within MaxInFlight times that.
	MaxInFlight int
	// ReadTimeout is how long a body may take to arrive; 0 is 15 seconds. Give
	// the server a ReadHeaderTimeout and an IdleTimeout besides.
	ReadTimeout time.Duration
	// PublishTimeout is how long the broker may take; 0 is 30 seconds.
	PublishTimeout time.Duration
	// Log is told why a request could not be served, where the fault is not
	// the client's; nil is silence.
	Log *slog.Logger
}

// Gateway is the handler. It may be used concurrently.
type Gateway struct {
	producer *producers.Producer
	cfg      Config
	mux      *http.ServeMux
	slots    chan struct{}
}

// New returns a gateway that publishes through producer.
func New(producer *producers.Producer, cfg Config) *Gateway {
	cfg.MaxBodyBytes = cmp.Or(cfg.MaxBodyBytes, 2<<20)
	cfg.MaxRecords = cmp.Or(cfg.MaxRecords, 10_000)
	cfg.MaxInFlight = cmp.Or(cfg.MaxInFlight, 32)
	cfg.ReadTimeout = cmp.Or(cfg.ReadTimeout, 15*time.Second)
	cfg.PublishTimeout = cmp.Or(cfg.PublishTimeout, 30*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{producer: producer, cfg: cfg, mux: http.NewServeMux(), slots: make(chan struct{}, cfg.MaxInFlight)}
	g.mux.HandleFunc("POST /topics/{topic}", g.post)
	return g
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.mux.ServeHTTP(w, r) }

// Answer is the body of every answer of post.
type Answer struct {
	// Accepted is how many events were published, and are durable.
	Accepted int `json:"accepted"`
	// Code is the HTTP status and two digits more, and Message what is wrong
	// in one sentence.
	Code    int    `json:"error_code,omitempty"`
	Message string `json:"message,omitempty"`
	// Records are the events that were not published, as far as they are to
	// blame.
	Records []Refused `json:"records,omitempty"`
}

// Refused is one event that was not published.
type Refused struct {
	Index   int    `json:"index"` // among the records of the request
	Code    int    `json:"error_code"`
	Message string `json:"message"`
	// Violations say where in the value, by JSON pointer, what was expected,
	// what was found and what to do.
	Violations []schemas.Violation `json:"violations,omitempty"`
}

// fault is why a request is not served.
type fault struct {
	code    int
	message string
	records []Refused
}

func (f *fault) Error() string { return f.message }

func faultf(code int, format string, args ...any) *fault {
	return &fault{code: code, message: fmt.Sprintf(format, args...)}
}

// The codes. Those that Confluent's REST Proxy has mean the same there.
const (
	codeJSON      = 40001
	codeShape     = 40002
	codeNoTopic   = 40401
	codeNoSchema  = 40403
	codeSlow      = 40801
	codeTooLarge  = 41301
	codeMediaType = 41501
	codeMisfit    = 42207
	codeBusy      = 42901
	codeInternal  = 50001
	codeAway      = 50301
)

func (g *Gateway) post(w http.ResponseWriter, r *http.Request) {
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	default:
		g.answer(w, 0, faultf(codeBusy, "%d requests are being served, which is the limit; try again in a second", g.cfg.MaxInFlight))
		return
	}
	accepted, err := g.publish(w, r)
	var f *fault
	if err != nil && !errors.As(err, &f) {
		f = faultf(codeInternal, "the gateway failed; its log says why")
		g.cfg.Log.ErrorContext(r.Context(), "publish over HTTP", "topic", r.PathValue("topic"), "error", err)
	}
	g.answer(w, accepted, f)
}

// publish reads the events of a request and publishes them. It returns how
// many are durable.
func (g *Gateway) publish(w http.ResponseWriter, r *http.Request) (accepted int, err error) {
	topic := r.PathValue("topic")
	events, err := g.read(w, r, topic)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), g.cfg.PublishTimeout)
	defer cancel()
	// Publish publishes what fits; Check first, so that it is all or none.
	if err := g.producer.Check(ctx, events...); err != nil {
		return 0, g.explain(topic, err)
	}
	err = g.producer.Publish(ctx, events...)
	var failed *stream.BatchError
	switch {
	case err == nil:
		return len(events), nil
	case errors.As(err, &failed):
		accepted = len(events) - len(failed.Errs)
	}
	return accepted, g.explain(topic, err)
}

// answer writes 200, or what f says.
func (g *Gateway) answer(w http.ResponseWriter, accepted int, f *fault) {
	status, a := http.StatusOK, Answer{Accepted: accepted}
	if f != nil {
		status = f.code / 100
		a.Code, a.Message, a.Records = f.code, f.message, f.records
	}
	switch status {
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", "1")
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "5")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(a); err != nil {
		g.cfg.Log.Debug("answer over HTTP", "error", err) // the client is gone
	}
}

// explain turns what the producer says into an answer. What the broker and the
// registry say themselves stays in the log.
func (g *Gateway) explain(topic string, err error) *fault {
	var failed *stream.BatchError
	if !errors.As(err, &failed) {
		g.cfg.Log.Warn("publish over HTTP", "topic", topic, "error", err)
		return faultf(codeAway, "the broker or the schema registry does not answer; the events may have been written or not")
	}
	f := &fault{}
	for _, i := range slices.Sorted(maps.Keys(failed.Errs)) {
		record := Refused{Index: i}
		var misfit *schemas.ValueError
		var none *producers.NoSchemaError
		switch err := failed.Errs[i]; {
		case errors.As(err, &misfit):
			record.Code, record.Violations = codeMisfit, misfit.Violations
			record.Message = fmt.Sprintf("the event does not fit the schema of topic %q: %v", topic, misfit)
		case errors.As(err, &none):
			record.Code = codeNoSchema
			record.Message = fmt.Sprintf("topic %q has no schema in the registry; register one under subject %q first", topic, none.Subject)
		case errors.Is(err, stream.ErrNoTopic):
			record.Code = codeNoTopic
			record.Message = fmt.Sprintf("there is no topic %q; make it first", topic)
		case errors.Is(err, stream.ErrTooLarge):
			record.Code = codeTooLarge
			record.Message = "the event is larger than the broker takes"
		default:
			record.Code = codeAway
			record.Message = "the broker did not confirm the event, which may have been written or not"
			g.cfg.Log.Warn("publish over HTTP", "topic", topic, "error", err)
		}
		f.records = append(f.records, record)
		f.code = max(f.code, record.Code)
	}
	for _, record := range f.records {
		if record.Code == f.code {
			f.message = record.Message
			break
		}
	}
	if n := len(f.records); n > 1 {
		f.message = fmt.Sprintf("%d events were not published; record %s", n, f.message)
	}
	return f
}

// read returns the events of a request.
func (g *Gateway) read(w http.ResponseWriter, r *http.Request, topic string) ([]producers.Event, error) {
	if !legal(topic) {
		return nil, faultf(codeNoTopic, "%q cannot be a topic: expected 1 to 249 letters, digits, dots, dashes and underscores", clip(topic))
	}
	media, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := cmp.Or(strings.ToLower(parameters["charset"]), "utf-8")
	if err != nil || media != typeEvent && media != typeRecords || charset != "utf-8" {
		return nil, faultf(codeMediaType, "expected a Content-Type of %s for one event, or %s for records, found %q", typeEvent, typeRecords, clip(r.Header.Get("Content-Type")))
	}
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, faultf(codeMediaType, "expected no Content-Encoding, found %q", clip(e))
	}
	// A server that cannot set deadlines (a recorder in a test) has none.
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(g.cfg.ReadTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("set the deadline of a body: %w", err)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, g.cfg.MaxBodyBytes))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, faultf(codeTooLarge, "expected a body of at most %d bytes; send fewer records at a time", tooLarge.Limit)
	case err != nil:
		return nil, faultf(codeSlow, "the body did not arrive within %s", g.cfg.ReadTimeout)
	}
	value, err := schemas.ParseJSON(body)
	if err != nil {
		return nil, faultf(codeJSON, "%v", err)
	}
	if media == typeRecords {
		return g.records(topic, value)
	}
	e := producers.Event{Topic: topic, Value: value}
	if value == nil {
		return nil, shape("", "an event", "null", "a tombstone needs a key: send it as "+typeRecords)
	}
	if field := r.URL.Query().Get("key"); field != "" {
		object, _ := value.(map[string]any)
		key := object[field]
		if key == nil {
			return nil, shape("/"+schemas.EscapePointer(field), "a value, because ?key= names this field", "nothing", "add the field, or name another")
		}
		if e.Key, err = keyOf(key); err != nil {
			return nil, err
		}
	}
	return []producers.Event{e}, nil
}

// shape is the fault of a body that is JSON, but not of the form asked for.
func shape(pointer, expected, found, hint string) *fault {
	return faultf(codeShape, "%v", schemas.Violation{Pointer: pointer, Expected: expected, Found: found, Hint: hint})
}

// records reads {"records": […]}.
func (g *Gateway) records(topic string, value any) ([]producers.Event, error) {
	const form = `{"records": [{"key": …, "value": …, "headers": {…}}]}`
	body, ok := value.(map[string]any)
	if !ok {
		return nil, shape("", form, schemas.Describe(value), "")
	}
	list, ok := body["records"].([]any)
	if !ok || len(list) == 0 {
		return nil, shape("/records", "an array of at least one record", schemas.Describe(body["records"]), "")
	}
	if err := onlyMembers(body, "", "records"); err != nil {
		return nil, err
	}
	if len(list) > g.cfg.MaxRecords {
		return nil, faultf(codeTooLarge, "expected at most %d records, found %d; send fewer at a time", g.cfg.MaxRecords, len(list))
	}
	events := make([]producers.Event, len(list))
	for i, item := range list {
		pointer := "/records/" + strconv.Itoa(i)
		record, ok := item.(map[string]any)
		if !ok {
			return nil, shape(pointer, `a record, {"key": …, "value": …}`, schemas.Describe(item), "")
		}
		if err := onlyMembers(record, pointer, "key", "value", "headers"); err != nil {
			return nil, err
		}
		e := producers.Event{Topic: topic}
		var err error
		if key := record["key"]; key != nil {
			if e.Key, err = keyOf(key); err != nil {
				return nil, err
			}
		}
		if e.Value, ok = record["value"]; !ok {
			return nil, shape(pointer+"/value", "the event, or null for a tombstone", "nothing", "")
		}
		if e.Value == nil && e.Key == nil {
			return nil, shape(pointer+"/key", "a key, because the record is a tombstone", "nothing", "")
		}
		if e.Headers, err = headers(record["headers"], pointer+"/headers"); err != nil {
			return nil, err
		}
		events[i] = e
	}
	return events, nil
}

// onlyMembers refuses members of an object that mean nothing here.
func onlyMembers(object map[string]any, pointer string, names ...string) error {
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if !slices.Contains(names, name) {
			return shape(pointer+"/"+schemas.EscapePointer(clip(name)), "only "+strings.Join(names, ", "), "a member of another name", "")
		}
	}
	return nil
}

// headers reads an object of strings, in the order of their names.
func headers(value any, pointer string) ([]stream.Header, error) {
	if value == nil {
		return nil, nil
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, shape(pointer, "an object of strings", schemas.Describe(value), "")
	}
	var out []stream.Header
	for _, name := range slices.Sorted(maps.Keys(object)) {
		text, ok := object[name].(string)
		if !ok {
			return nil, shape(pointer+"/"+schemas.EscapePointer(clip(name)), "a string", schemas.Describe(object[name]), "")
		}
		out = append(out, stream.Header{Key: name, Value: []byte(text)})
	}
	return out, nil
}

// keyOf is the bytes of a key: the text of a string, else JSON.
func keyOf(value any) ([]byte, error) {
	if s, ok := value.(string); ok {
		return []byte(s), nil
	}
	b, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return b, nil
}

// legal reports whether Kafka would take name for a topic.
func legal(name string) bool {
	return len(name) >= 1 && len(name) <= 249 && name != "." && name != ".." && !strings.ContainsFunc(name, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("._-", c))
	})
}

// clip shortens what goes back into a message.
func clip(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}
