// Package gateway takes events over HTTP, checks each against a schema, publishes
// it, and answers when it is durable:
//
//   - POST /topics/{topic} takes one event, the records of Kafka's REST Proxy v2,
//     or CloudEvents, by the Content-Type; see Gateway.
//   - POST /v3/clusters/{cluster}/topics/{topic}/records takes a stream of
//     records, and records:batch a few, as Kafka's REST Proxy v3 does.
//   - GET /topics/{topic}/publish takes events by WebSocket; see Message.
//
// GET /openapi.json describes all of it.
//
// Answers of an error have a code of the HTTP status and two digits more, and one
// sentence. After 429 nothing was written; after 503 events may have been.
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
	"strings"
	"sync"
	"time"

	"penstock/access"
	"penstock/producers"
	"penstock/schemas"
	"penstock/stream"
)

// Config bounds what a gateway does. Zero fields have useful defaults.
type Config struct {
	// MaxBodyBytes is the largest body, and the largest record of a stream; 0 is
	// 2 MiB.
	MaxBodyBytes int64
	// MaxRecords is the largest number of records in a body; 0 is 10,000. A
	// stream has no end.
	MaxRecords int
	// MaxInFlight is how many requests may be worked on at a time; 0 is 256. How
	// many are, between 16 and that, the gateway learns from how long the broker
	// takes. Beyond it the answer is 429 at once.
	MaxInFlight int
	// MaxBytesInFlight bounds their bodies together; 0 is 32 times MaxBodyBytes.
	// One that does not say its size counts as MaxBodyBytes. A body parsed takes
	// up to some 20 times its size in memory.
	MaxBytesInFlight int64
	// MaxStreams is how many streams of records may be open; 0 is 256. They
	// count apart from MaxInFlight.
	MaxStreams int
	// ReadTimeout is how long a body, or the next record of a stream, may take
	// to arrive; 0 is 15 seconds. Give the server a ReadHeaderTimeout and an
	// IdleTimeout besides.
	ReadTimeout time.Duration
	// PublishTimeout is how long the broker may take; 0 is 30 seconds.
	PublishTimeout time.Duration
	// Cluster is the id of the Kafka cluster that paths below /v3 name; empty is
	// "penstock".
	Cluster string
	// Lookup returns what finds the schema that a request chooses; nil refuses
	// requests that choose one. What it returns is called with the context of the
	// request, and may say with an *access.DeniedError that the caller may not
	// choose it.
	Lookup func(Choice) func(ctx context.Context, subject string) (schemas.Registered, error)
	// Formats are the languages of schemas that requests give as text, to find
	// the names of their records.
	Formats []schemas.Format
	// AllowRaw says which topics take bytes that no schema describes; nil is
	// none.
	AllowRaw func(topic string) bool
	// Authorize says whether the caller may publish to a topic; its error is
	// for access.Refuse. nil: everybody may.
	Authorize func(ctx context.Context, topic string) error
	// Urgency says how urgent the requests of a caller are at most, by its name: 0 is
	// the most and 7 the least, as in the header Priority, which may ask for less. Who
	// is not named asks for what he likes.
	Urgency map[string]int
	// Keeper keeps the idempotency keys of requests; nil refuses requests that
	// have one.
	Keeper stream.Keeper
	// Log is told why a request could not be served, where the fault is not
	// the client's; nil is silence.
	Log *slog.Logger
}

// Gateway is the handler. It may be used concurrently.
//
// POST /topics/{topic} takes by Content-Type:
//
//   - application/json: one event; ?key=FIELD makes one of its fields the
//     record's key. With the headers ce-id, ce-source, ce-type and
//     ce-specversion it is the data of a CloudEvent.
//   - application/cloudevents+json and application/cloudevents-batch+json: one
//     CloudEvent, or an array of them. Its attributes become headers as in the
//     Kafka binding, its partitionkey the key, its data the event.
//   - application/vnd.kafka.{json,avro,jsonschema,protobuf,binary}.v2+json: the
//     records of Kafka's REST Proxy v2, {"records": [{"key": …, "value": …}]}.
//     A key that is a string is its text, any other the JSON of it, unless it
//     has a schema; a value of null is a tombstone; headers may be given as an
//     object of strings. Values of json, which name no schema, are checked by
//     the topic's; those of binary are base64, and begin with the id of a schema
//     unless the topic takes raw bytes.
//
// Either all events of such a request fit, or none is published. The answer to
// success is 200. Any other is 400 for a body that is not of that form, 404 for
// a topic that does not exist or has no schema, 413 for too much, 415 for
// another type of body, 422 for events that do not fit, with every violation,
// 429 for too many requests at a time, 503 while the broker or the registry is
// away. Accepted, in the answer, is how many events are durable.
type Gateway struct {
	producer *producers.Producer
	single   *producers.Async // what comes one by one goes together
	keys     *ledger          // nil without a Keeper
	cfg      Config
	mux      *http.ServeMux
	limit    *limiter
	streams  chan struct{}
	document []byte // of OpenAPI

	mu      sync.Mutex
	closing chan struct{}
	sockets sync.WaitGroup
}

// New returns a gateway that publishes through producer. Whoever calls it calls
// Close.
func New(producer *producers.Producer, cfg Config) *Gateway {
	cfg.MaxBodyBytes = cmp.Or(cfg.MaxBodyBytes, 2<<20)
	cfg.MaxRecords = cmp.Or(cfg.MaxRecords, 10_000)
	cfg.MaxInFlight = cmp.Or(cfg.MaxInFlight, 256)
	cfg.MaxBytesInFlight = cmp.Or(cfg.MaxBytesInFlight, 32*cfg.MaxBodyBytes)
	cfg.MaxStreams = cmp.Or(cfg.MaxStreams, 256)
	cfg.ReadTimeout = cmp.Or(cfg.ReadTimeout, 15*time.Second)
	cfg.PublishTimeout = cmp.Or(cfg.PublishTimeout, 30*time.Second)
	cfg.Cluster = cmp.Or(cfg.Cluster, "penstock")
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))
	if cfg.AllowRaw == nil {
		cfg.AllowRaw = func(string) bool { return false }
	}
	g := &Gateway{
		producer: producer, single: producer.Async(producers.AsyncConfig{}), cfg: cfg, mux: http.NewServeMux(),
		limit: newLimiter(cfg.MaxInFlight, cfg.MaxBytesInFlight), streams: make(chan struct{}, cfg.MaxStreams),
		closing: make(chan struct{}),
	}
	if cfg.Keeper != nil {
		g.keys = newLedger(cfg.Keeper, cfg.PublishTimeout)
	}
	for _, rt := range g.routes() {
		g.mux.HandleFunc(rt.Pattern, rt.serve)
	}
	g.document, _ = json.Marshal(g.describeAPI()) // of maps and strings
	return g
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.mux.ServeHTTP(w, r) }

// Close waits until what was taken is durable or has failed, at most until ctx
// ends. Stop the server first.
func (g *Gateway) Close(ctx context.Context) error {
	g.leave(ctx)
	err := g.single.Close(ctx)
	if g.keys != nil {
		err = errors.Join(err, g.keys.close(ctx))
	}
	return err
}

// to sees whether the caller may publish to the topic of the path.
func (g *Gateway) to(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		topic := r.PathValue("topic")
		if !legal(topic) {
			g.answer(w, Answer{}, faultf(codeNoTopic, "%q cannot be a topic: expected 1 to 249 letters, digits, dots, dashes and underscores", clip(topic)))
			return
		}
		if g.cfg.Authorize != nil {
			if err := g.cfg.Authorize(r.Context(), topic); err != nil {
				access.Refuse(w, err)
				return
			}
		}
		h(w, r)
	}
}

// Answer is the body of every answer to POST /topics/{topic}.
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

	// Offsets say of the records of the REST Proxy v2 where each lies, and the
	// ids under which schemas they were written, where all share one.
	Offsets       []Offset   `json:"offsets,omitempty"`
	KeySchemaID   schemas.ID `json:"key_schema_id,omitempty"`
	ValueSchemaID schemas.ID `json:"value_schema_id,omitempty"`
}

// Offset is where a record lies.
type Offset struct {
	Partition int32   `json:"partition"`
	Offset    int64   `json:"offset"`
	Code      *int    `json:"error_code"`
	Error     *string `json:"error"`
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
	codeJSON          = 40001
	codeShape         = 40002
	codeNoTopic       = 40401
	codeNoSchema      = 40403
	codeNoCluster     = 40404
	codeSlow          = 40801
	codePending       = 40901
	codeTooLarge      = 41301
	codeMediaType     = 41501
	codeBadSchema     = 42205
	codeSerialization = 42206 // a key or value that is not in the form its type asks for
	codeMisfit        = 42207
	codeReused        = 42210
	codeBusy          = 42901
	codeInternal      = 50001
	codeNotKept       = 50101
	codeAway          = 50301
)

// take occupies one of a number of places, or answers 429.
func (g *Gateway) take(w http.ResponseWriter, places chan struct{}, what string) bool {
	select {
	case places <- struct{}{}:
		return true
	default:
		g.answer(w, Answer{}, faultf(codeBusy, "%d %s are being served, which is the limit; try again in a second", cap(places), what))
		return false
	}
}

// admit lets a request in, or answers 429.
func (g *Gateway) admit(w http.ResponseWriter, r *http.Request) *admitted {
	size := r.ContentLength
	if size < 0 || size > g.cfg.MaxBodyBytes {
		size = g.cfg.MaxBodyBytes
	}
	in := g.limit.admit(g.urgencyOf(r), size)
	if in == nil {
		g.answer(w, Answer{}, faultf(codeBusy, "as many requests are being served as the broker keeps up with; nothing was written, try again in a second"))
	}
	return in
}

func (g *Gateway) post(w http.ResponseWriter, r *http.Request) {
	in := g.admit(w, r)
	if in == nil {
		return
	}
	defer in.done()
	a, err := g.publish(w, r, in)
	g.answer(w, a, g.asFault(r, err))
}

// asFault is err as what the client is told.
func (g *Gateway) asFault(r *http.Request, err error) *fault {
	var f *fault
	if err != nil && !errors.As(err, &f) {
		f = faultf(codeInternal, "the gateway failed; its log says why")
		g.cfg.Log.ErrorContext(r.Context(), "publish over HTTP", "topic", r.PathValue("topic"), "error", err)
	}
	return f
}

// publish reads the events of a request and publishes them.
func (g *Gateway) publish(w http.ResponseWriter, r *http.Request, in *admitted) (a Answer, err error) {
	topic := r.PathValue("topic")
	q := &request{}
	if err := g.read(q, w, r, topic, in); err != nil {
		return a, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), g.cfg.PublishTimeout)
	defer cancel()
	events := q.events
	if q.once != nil {
		return g.publishOnce(ctx, w, q, topic)
	}
	if len(events) == 1 {
		events[0].Partition, events[0].Offset, err = g.one(ctx, events[0])
	} else {
		err = g.producer.PublishTogether(ctx, events...)
	}
	failed := &stream.BatchError{}
	switch {
	case err == nil:
		a.Accepted = len(events)
	case errors.As(err, &failed) && !misfits(failed):
		a.Accepted = len(events) - len(failed.Errs)
	}
	if strings.HasPrefix(q.media, kafkaMedia) {
		w.Header().Set("Content-Type", typeV2)
		if err == nil {
			a.KeySchemaID, a.ValueSchemaID = q.key.found.ID, q.value.found.ID
			for _, e := range events {
				a.Offsets = append(a.Offsets, Offset{Partition: e.Partition, Offset: e.Offset})
			}
		}
	}
	if err != nil {
		return a, g.explain(topic, err)
	}
	return a, nil
}

// publishOnce publishes the events of a request that has a key.
func (g *Gateway) publishOnce(ctx context.Context, w http.ResponseWriter, q *request, topic string) (a Answer, err error) {
	kept, err := g.keep(ctx, w, topic, q.once, func() ([]stream.Record, any, error) {
		records, err := g.producer.Encode(ctx, q.events...)
		return records, &Answer{Accepted: len(q.events), KeySchemaID: q.key.found.ID, ValueSchemaID: q.value.found.ID}, err
	})
	if err != nil {
		return a, g.explain(topic, err)
	}
	if err := json.Unmarshal(kept.answer, &a); err != nil {
		return a, fmt.Errorf("read a kept answer: %w", err)
	}
	if strings.HasPrefix(q.media, kafkaMedia) {
		w.Header().Set("Content-Type", typeV2)
		for _, p := range kept.places {
			a.Offsets = append(a.Offsets, Offset{Partition: p.Partition, Offset: p.Offset})
		}
	} else {
		a.KeySchemaID, a.ValueSchemaID = 0, 0
	}
	return a, nil
}

// keep publishes what prepare returns once, and waits for it.
func (g *Gateway) keep(ctx context.Context, w http.ResponseWriter, topic string, o *once, prepare func() ([]stream.Record, any, error)) (*kept, error) {
	type result struct {
		kept *kept
		err  error
	}
	done := make(chan result, 1)
	begun := false
	err := g.once(ctx, topic, o, func() ([]stream.Record, any, error) {
		begun = true
		return prepare()
	}, func(k *kept, err error) { done <- result{k, err} })
	if err != nil {
		return nil, err
	}
	select {
	case r := <-done:
		if !begun {
			w.Header().Set(replayedHeader, "true")
		}
		return r.kept, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// once hands a request to the ledger.
func (g *Gateway) once(ctx context.Context, topic string, o *once, prepare func() ([]stream.Record, any, error), done func(*kept, error)) error {
	if g.keys == nil {
		return faultf(codeNotKept, "this gateway keeps no keys; send the request without %s", keyHeader)
	}
	return g.keys.publish(ctx, topic, o, prepare, done)
}

// misfits reports whether an event does not fit, so that none was published.
func misfits(failed *stream.BatchError) bool {
	for _, err := range failed.Errs {
		if errors.As(err, new(*schemas.ValueError)) || errors.Is(err, schemas.ErrNoSchema) || errors.Is(err, producers.ErrRaw) || errors.Is(err, producers.ErrNoType) {
			return true
		}
	}
	return false
}

// one publishes one event, together with those of other requests.
func (g *Gateway) one(ctx context.Context, e producers.Event) (partition int32, offset int64, err error) {
	type result struct {
		at  producers.Place
		err error
	}
	done := make(chan result, 1)
	if err := g.single.Send(ctx, e, func(at producers.Place, err error) { done <- result{at, err} }); err != nil {
		return 0, 0, ofOne(err)
	}
	select {
	case r := <-done:
		return r.at.Partition, r.at.Offset, ofOne(r.err)
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
}

// ofOne is an error of the only event as that of a batch.
func ofOne(err error) error {
	if err == nil {
		return nil
	}
	return &stream.BatchError{Errs: map[int]error{0: err}}
}

// ofBatch is the error of a batch as that of its only event.
func ofBatch(err error) error {
	if failed := (*stream.BatchError)(nil); errors.As(err, &failed) {
		return failed.Errs[0]
	}
	return err
}

// answer writes 200, or what f says.
func (g *Gateway) answer(w http.ResponseWriter, a Answer, f *fault) {
	status := http.StatusOK
	if f != nil {
		status = f.code / 100
		a.Code, a.Message, a.Records = f.code, f.message, f.records
	}
	g.write(w, status, a)
}

// write writes an answer in JSON.
func (g *Gateway) write(w http.ResponseWriter, status int, answer any) {
	h := w.Header()
	switch status {
	case http.StatusTooManyRequests:
		h.Set("Retry-After", "1")
	case http.StatusConflict:
		h.Set("Retry-After", "1")
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", "5")
	}
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		g.cfg.Log.Debug("answer over HTTP", "error", err) // the client is gone
	}
}

// explain turns what the producer says into an answer.
func (g *Gateway) explain(topic string, err error) *fault {
	var failed *stream.BatchError
	if !errors.As(err, &failed) {
		r := g.refused(topic, err)
		return &fault{code: r.Code, message: r.Message}
	}
	f := &fault{}
	for _, i := range slices.Sorted(maps.Keys(failed.Errs)) {
		record := g.refused(topic, failed.Errs[i])
		record.Index = i
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

// refused says why one event was not published. What the broker and the registry
// say themselves stays in the log.
func (g *Gateway) refused(topic string, err error) (record Refused) {
	var misfit *schemas.ValueError
	var none *producers.NoSchemaError
	var denied *access.DeniedError
	var f *fault
	switch {
	case errors.As(err, &f):
		record.Code, record.Message = f.code, f.message
	case errors.As(err, &denied):
		record.Code, record.Message = denied.Status()*100+1, denied.Error()
	case errors.As(err, &misfit):
		record.Code, record.Violations = codeMisfit, misfit.Violations
		record.Message = fmt.Sprintf("the event does not fit the schema of topic %q: %v", topic, misfit)
	case errors.As(err, &none):
		record.Code = codeNoSchema
		record.Message = fmt.Sprintf("topic %q has no schema in the registry; register one under subject %q first", topic, none.Subject)
	case errors.Is(err, producers.ErrRaw):
		record.Code = codeSerialization
		record.Message = fmt.Sprintf("topic %q takes no raw bytes; send the event in a form that its schema can check", topic)
	case errors.Is(err, producers.ErrNoType):
		record.Code = codeShape
		record.Message = "the subject is made of the record's name, which nothing says; name the schema by id, or give its text"
	case errors.Is(err, schemas.ErrBadSchema):
		record.Code = codeBadSchema
		record.Message = "the schema that was chosen cannot be used here"
	case errors.Is(err, stream.ErrNoTopic):
		record.Code = codeNoTopic
		record.Message = fmt.Sprintf("there is no topic %q; make it first", topic)
	case errors.Is(err, stream.ErrUnsupported):
		record.Code = codeNotKept
		record.Message = fmt.Sprintf("no keys can be kept with topic %q, which Penstock did not make; send the request without %s", topic, keyHeader)
	case errors.Is(err, stream.ErrTooLarge):
		record.Code = codeTooLarge
		record.Message = "the event is larger than the broker takes"
	default:
		record.Code = codeAway
		record.Message = "the broker or the schema registry did not confirm the event, which may have been written or not"
		g.cfg.Log.Warn("publish over HTTP", "topic", topic, "error", err)
	}
	return record
}

// read reads the events of a request.
func (g *Gateway) read(q *request, w http.ResponseWriter, r *http.Request, topic string, in *admitted) error {
	media, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := cmp.Or(strings.ToLower(parameters["charset"]), "utf-8")
	form, known := kafkaForms[media]
	known = known || media == typeEvent || media == typeCloudEvent || media == typeCloudEvents
	if err != nil || !known || charset != "utf-8" {
		return faultf(codeMediaType, "expected a Content-Type of %s for one event, %s for a CloudEvent, or %s for records, found %q", typeEvent, typeCloudEvent, typeRecords, clip(r.Header.Get("Content-Type")))
	}
	q.media = media
	field := r.URL.Query().Get("key")
	value, text, err := g.body(w, r, in, func(path []string) bool {
		switch {
		case form == formBinary:
			return false
		case form != "":
			return len(path) == 3 && path[0] == "records" && path[2] == "value"
		}
		return media == typeEvent && field == ""
	})
	if err == nil {
		q.once, err = onceOf(r, text)
	}
	switch {
	case err != nil:
		return err
	case form != "":
		return g.records(q, topic, form, value)
	case media != typeEvent:
		return g.cloudEvents(q, topic, value)
	}
	e := producers.Event{Topic: topic, Value: asEvent(value)}
	if value == nil {
		return shape("", "an event", "null", "a tombstone needs a key: send it as "+typeRecords)
	}
	if r.Header.Get("Ce-Specversion") != "" {
		if err := cloudHeaders(&e, r.Header); err != nil {
			return err
		}
	}
	if field != "" {
		object, _ := value.(map[string]any)
		key := object[field]
		if key == nil {
			return shape("/"+schemas.EscapePointer(field), "a value, because ?key= names this field", "nothing", "add the field, or name another")
		}
		if e.Key, err = keyOf(key); err != nil {
			return err
		}
	}
	q.events = []producers.Event{e}
	return nil
}

// asEvent is a value as a producer takes it.
func asEvent(value any) any {
	if text, ok := value.(schemas.JSONText); ok {
		return producers.JSON(text)
	}
	return value
}

// body reads a body and parses its JSON, but for the values that leave leaves.
func (g *Gateway) body(w http.ResponseWriter, r *http.Request, in *admitted, leave func(path []string) bool) (value any, text []byte, err error) {
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, nil, faultf(codeMediaType, "expected no Content-Encoding, found %q", clip(e))
	}
	// A server that cannot set deadlines (a recorder in a test) has none.
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(g.cfg.ReadTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, nil, fmt.Errorf("set the deadline of a body: %w", err)
	}
	text, err = io.ReadAll(http.MaxBytesReader(w, r.Body, g.cfg.MaxBodyBytes))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, nil, faultf(codeTooLarge, "expected a body of at most %d bytes; send fewer records at a time", tooLarge.Limit)
	case err != nil:
		return nil, nil, faultf(codeSlow, "the body did not arrive within %s", g.cfg.ReadTimeout)
	}
	in.began = time.Now()
	value, err = schemas.ParseJSONLeaving(text, leave)
	if err != nil {
		return nil, nil, faultf(codeJSON, "%v", err)
	}
	return value, text, nil
}

// shape is the fault of a body that is JSON, but not of the form asked for.
func shape(pointer, expected, found, hint string) *fault {
	return faultf(codeShape, "%v", schemas.Violation{Pointer: pointer, Expected: expected, Found: found, Hint: hint})
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
