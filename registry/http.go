package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// FindingsMediaType in a request's Accept header asks for the findings of a
// compatibility check in machine-readable form. The answers of the
// compatibility routes and the body of a refusal (409) then have a further
// member, "findings", an array of Finding.
const FindingsMediaType = "application/vnd.penstock.findings+json"

// mediaTypes are what replies may be labelled with; the first is the default.
var mediaTypes = []string{
	"application/vnd.schemaregistry.v1+json",
	"application/vnd.schemaregistry+json",
	"application/json",
	FindingsMediaType,
}

// Handler serves a registry over HTTP, in the dialect of Confluent's 8.x
// registries, which their clients of all versions understand. Any route may be
// prefixed with /contexts/{context}. Unknown query parameters are ignored;
// normalize is too, since texts are kept in canonical form in any case.
//
// Errors are {"error_code", "message"}, and nothing else unless the findings
// were asked for (see FindingsMediaType). What went wrong inside is logged, not
// told.
func Handler(r *Registry, o HandlerOptions) http.Handler {
	h := &handler{r: r, options: o, mux: http.NewServeMux(), peers: o.Peers}
	if h.peers == nil {
		h.peers = r.peerTransport()
	}
	for pattern, serve := range map[string]endpoint{
		"GET /{$}":  h.root,
		"POST /{$}": h.root,

		"GET /schemas":                   h.schemas,
		"GET /schemas/types":             h.types,
		"GET /schemas/ids/{id}":          h.schemaByID,
		"GET /schemas/ids/{id}/schema":   h.textByID,
		"GET /schemas/ids/{id}/subjects": h.subjectsByID,
		"GET /schemas/ids/{id}/versions": h.versionsByID,
		"GET /schemas/guids/{guid}":      h.schemaByGUID,
		"GET /schemas/guids/{guid}/ids":  h.idsByGUID,

		"GET /subjects":                                             h.subjects,
		"POST /subjects/{subject}":                                  h.lookup,
		"DELETE /subjects/{subject}":                                h.deleteSubject,
		"GET /subjects/{subject}/versions":                          h.versions,
		"POST /subjects/{subject}/versions":                         h.register,
		"GET /subjects/{subject}/versions/{version}":                h.version,
		"GET /subjects/{subject}/versions/{version}/schema":         h.textOfVersion,
		"GET /subjects/{subject}/versions/{version}/referencedby":   h.referencedBy,
		"DELETE /subjects/{subject}/versions/{version}":             h.deleteVersion,
		"POST /compatibility/subjects/{subject}/versions":           h.checkAll,
		"POST /compatibility/subjects/{subject}/versions/{version}": h.checkOne,

		"GET /config":              h.config,
		"PUT /config":              h.setConfig,
		"DELETE /config":           h.deleteConfig,
		"GET /config/{subject}":    h.config,
		"PUT /config/{subject}":    h.setConfig,
		"DELETE /config/{subject}": h.deleteConfig,
		"GET /mode":                h.mode,
		"PUT /mode":                h.setMode,
		"DELETE /mode":             h.deleteMode,
		"GET /mode/{subject}":      h.mode,
		"PUT /mode/{subject}":      h.setMode,
		"DELETE /mode/{subject}":   h.deleteMode,

		"GET /contexts":       h.contexts,
		"GET /v1/metadata/id": h.clusterID,
		"GET /livez":          h.root,
		"GET /readyz":         h.ready,
	} {
		h.mux.Handle(pattern, h.serve(serve))
	}
	return h
}

// endpoint answers one route: with a value to write as JSON, a raw text, or an
// error.
type endpoint func(q *query) (any, error)

// raw is a reply that is JSON already.
type raw string

type handler struct {
	r       *Registry
	options HandlerOptions
	mux     *http.ServeMux
	peers   http.RoundTripper
}

// ServeHTTP routes a request, and puts what the mux says itself (no such page,
// no such method) into the API's form.
func (h *handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	req = inContext(req)
	if _, pattern := h.mux.Handler(req); pattern != "" {
		h.mux.ServeHTTP(w, req)
		return
	}
	said := &discard{header: http.Header{}}
	h.mux.ServeHTTP(said, req)
	allow := said.header.Get("Allow")
	switch {
	case said.status == http.StatusMethodNotAllowed && req.Method == http.MethodOptions:
		w.Header().Set("Allow", allow+", OPTIONS")
		w.WriteHeader(http.StatusOK)
	case said.status == http.StatusMethodNotAllowed:
		w.Header().Set("Allow", allow+", OPTIONS")
		h.fail(w, req, errorf(codeMethodNotAllowed, "HTTP 405 Method Not Allowed"))
	default:
		h.fail(w, req, errorf(codeNotFound, "HTTP 404 Not Found"))
	}
}

// discard is a response of which only status and header count.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }

// inContext takes a leading /contexts/{context} off the path and notes it as
// the path value "in".
func inContext(req *http.Request) *http.Request {
	rest, ok := strings.CutPrefix(req.URL.EscapedPath(), "/contexts/")
	if !ok {
		return req
	}
	escaped, rest, ok := strings.Cut(rest, "/")
	context, err := url.PathUnescape(escaped)
	if !ok || err != nil {
		return req
	}
	path, err := url.PathUnescape("/" + rest)
	if err != nil {
		return req
	}
	context = strings.Trim(context, ":")
	if !strings.HasPrefix(context, ".") {
		context = "." + context
	}
	inner := *req
	target := *req.URL
	target.Path, target.RawPath = path, "/"+rest
	inner.URL = &target
	inner.SetPathValue("in", context)
	return &inner
}

// serve makes a handler of an endpoint.
func (h *handler) serve(e endpoint) http.Handler {
	e = h.current(h.forwarding(e))
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		reply, err := e(&query{handler: h, req: req, values: req.URL.Query(), w: w})
		if err != nil {
			h.fail(w, req, err)
			return
		}
		if reply == answered {
			return
		}
		if text, ok := reply.(raw); ok {
			h.send(w, req, http.StatusOK, []byte(text))
			return
		}
		h.send(w, req, http.StatusOK, toJSON(reply))
	})
}

// toJSON leaves <, > and & as they are, since schemas are full of them.
func toJSON(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("encode reply: %v", err)) // the reply types hold nothing that JSON lacks
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func (h *handler) fail(w http.ResponseWriter, req *http.Request, err error) {
	e := public(err)
	status := e.Status()
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	if status >= http.StatusInternalServerError && !errors.Is(err, context.Canceled) {
		h.r.options.Logger.Error("request failed", "method", req.Method, "path", req.URL.Path, "code", int(e.Code), "error", err, "cause", e.cause)
	}
	body := *e
	if !wantsFindings(req) {
		body.Findings = nil
	}
	h.send(w, req, status, toJSON(body))
}

func (h *handler) send(w http.ResponseWriter, req *http.Request, status int, body []byte) {
	w.Header().Set("Content-Type", replyType(req))
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone is no one to tell
}

// replyType is the first media type that the client accepts and we have.
func replyType(req *http.Request) string {
	for _, t := range accepted(req) {
		if slices.Contains(mediaTypes, t) {
			return t
		}
	}
	return mediaTypes[0]
}

func wantsFindings(req *http.Request) bool {
	return slices.Contains(accepted(req), FindingsMediaType)
}

// accepted lists the media types of the Accept header as they stand there.
func accepted(req *http.Request) []string {
	var types []string
	for part := range strings.SplitSeq(strings.Join(req.Header.Values("Accept"), ","), ",") {
		if t, _, err := mime.ParseMediaType(part); err == nil {
			types = append(types, t)
		}
	}
	return types
}

// query is one request on its way through an endpoint.
type query struct {
	*handler
	req    *http.Request
	w      http.ResponseWriter
	values url.Values
}

// subject is the subject of the path within the context of the path; "" where
// there is none.
func (q *query) subject() string {
	return q.qualify(q.req.PathValue("subject"))
}

// qualify puts a name into the context of the path, unless it has one.
func (q *query) qualify(name string) string {
	if in := q.req.PathValue("in"); in != "" && !strings.HasPrefix(name, ":.") {
		return qualify(in, name)
	}
	return name
}

// context is where an id is looked up: the context of the path, or that of the
// query's subject.
func (q *query) context() string {
	context, _ := split(q.qualify(q.values.Get("subject")))
	return context
}

func (q *query) version() (int, error) {
	return ParseVersion(q.req.PathValue("version"))
}

func (q *query) id() (int, error) {
	id, err := strconv.Atoi(q.req.PathValue("id"))
	if err != nil {
		return 0, errorf(codeNotFound, "HTTP 404 Not Found")
	}
	return id, nil
}

// is reads a boolean parameter, in any case; what is no boolean is false.
func (q *query) is(name string) bool {
	return strings.EqualFold(q.values.Get(name), "true")
}

func (q *query) deleted() Deleted {
	switch {
	case q.is("deletedOnly"):
		return OnlyDeleted
	case q.is("deleted"):
		return WithDeleted
	}
	return WithoutDeleted
}

// page cuts a list by the parameters offset and limit.
func page[T any](q *query, list []T) []T {
	offset, err := strconv.Atoi(q.values.Get("offset"))
	if err != nil || offset < 0 {
		offset = 0
	}
	limit, err := strconv.Atoi(q.values.Get("limit"))
	if err != nil || limit < 0 {
		limit = len(list)
	}
	list = list[min(offset, len(list)):]
	return list[:min(limit, len(list))]
}

// bodyTypes are the media types of bodies, besides none.
var bodyTypes = append([]string{"application/octet-stream"}, mediaTypes...)

// body reads the request's JSON into v.
func (q *query) body(v any) error {
	if sent := q.req.Header.Get("Content-Type"); sent != "" {
		if t, _, err := mime.ParseMediaType(sent); err != nil || !slices.Contains(bodyTypes, t) {
			return errorf(codeUnsupportedMediaType, "The body is labelled %q, expected %s", sent, mediaTypes[0])
		}
	}
	limit := q.r.maxBody()
	raw, err := io.ReadAll(http.MaxBytesReader(q.w, q.req.Body, limit))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return errorf(CodeTooLarge, "The body has more than %d bytes", limit)
	}
	if err != nil {
		return &Error{Code: codeBadRequest, Message: "The body could not be read to its end", cause: err}
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return badJSON(err)
	}
	return nil
}

func badJSON(err error) error {
	var typ *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &typ):
		return errorf(codeBadRequest, "The body does not fit: at %q expected %s, found a JSON %s", "/"+strings.ReplaceAll(typ.Field, ".", "/"), plainType(typ), typ.Value)
	case errors.As(err, &syntax):
		return errorf(codeBadRequest, "The body is not JSON: at byte %d: %v", syntax.Offset, err)
	default:
		return errorf(codeBadRequest, "The body is not a JSON object")
	}
}

func plainType(e *json.UnmarshalTypeError) string {
	switch e.Type.Kind().String() {
	case "string":
		return "a string"
	case "int", "int64":
		return "an integer"
	case "bool":
		return "true or false"
	case "slice":
		return "an array"
	default:
		return "an object"
	}
}
