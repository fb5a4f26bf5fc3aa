package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
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
	"unicode/utf16"
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

// Handler serves a registry over HTTP, in the dialect of Confluent's registry.
// The routes are in a table, and described at /openapi.json. Any of them may be
// prefixed with /contexts/{context}. Unknown query parameters are ignored, and
// so are doubled slashes and one at the end of the path.
//
// Errors are {"error_code", "message"}, and nothing else unless the findings
// were asked for (see FindingsMediaType). What went wrong inside is logged, not
// told.
func Handler(r *Registry, o HandlerOptions) http.Handler {
	h := &handler{r: r, options: o, mux: http.NewServeMux(), peers: o.Peers, routes: routes()}
	if h.peers == nil {
		h.peers = r.peerTransport()
	}
	for _, rt := range o.Routes {
		h.routes = append(h.routes, rt.route())
	}
	for _, rt := range h.routes {
		h.mux.Handle(rt.pattern, h.serve(rt.endpoint(h)))
	}
	return h
}

// endpoint answers one route: with a value to write as JSON, a raw text, or an
// error.
type endpoint func(q *query) (any, error)

// raw is a reply that is JSON already, or a text.
type raw string

// withStatus is a reply with a status of its own; a nil body is none.
type withStatus struct {
	status int
	body   any
}

type handler struct {
	r       *Registry
	options HandlerOptions
	mux     *http.ServeMux
	routes  []route
	peers   http.RoundTripper
}

// ServeHTTP routes a request, and puts what the mux says itself (no such page,
// no such method) into the API's form.
func (h *handler) ServeHTTP(w http.ResponseWriter, asked *http.Request) {
	req := plainPath(asked)
	defer func() { asked.Pattern = req.Pattern }() // for whoever counts requests by route
	if _, pattern := h.mux.Handler(req); pattern != "" {
		h.mux.ServeHTTP(w, req)
		return
	}
	if inner := inContext(req); inner != req {
		h.ServeHTTP(w, inner)
		req.Pattern = inner.Pattern
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

// plainPath takes doubled slashes, and one at the end, out of the path: clients
// come by them when they join a base URL and a path.
func plainPath(req *http.Request) *http.Request {
	escaped := req.URL.EscapedPath()
	plain := escaped
	for strings.Contains(plain, "//") {
		plain = strings.ReplaceAll(plain, "//", "/")
	}
	if plain != "/" {
		plain = strings.TrimSuffix(plain, "/")
	}
	if plain == escaped {
		return req
	}
	return withPath(req, plain)
}

// withPath returns req with another path, given in its escaped form, or req if
// that is none.
func withPath(req *http.Request, escaped string) *http.Request {
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return req
	}
	inner, target := *req, *req.URL
	target.Path, target.RawPath = path, escaped
	inner.URL = &target
	return &inner
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
// the path value "in". A request that has none is returned as it is.
func inContext(req *http.Request) *http.Request {
	rest, ok := strings.CutPrefix(req.URL.EscapedPath(), "/contexts/")
	if !ok || req.PathValue("in") != "" {
		return req
	}
	escaped, rest, ok := strings.Cut(rest, "/")
	context, err := url.PathUnescape(escaped)
	if !ok || err != nil {
		return req
	}
	inner := withPath(req, "/"+rest)
	if inner != req {
		inner.SetPathValue("in", contextName(context))
	}
	return inner
}

// contextName is the name of a context that is written as ".name", "name" or
// ":.name:".
func contextName(s string) string {
	s = strings.Trim(s, ":")
	if !strings.HasPrefix(s, ".") {
		s = "." + s
	}
	return s
}

// serve makes a handler of an endpoint.
func (h *handler) serve(e endpoint) http.Handler {
	e = h.current(h.forwarding(e))
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !acceptable(req) {
			h.fail(w, req, errorf(codeNotAcceptable, "HTTP 406 Not Acceptable"))
			return
		}
		reply, err := e(&query{handler: h, req: req, values: req.URL.Query(), w: w})
		if err != nil {
			h.fail(w, req, err)
			return
		}
		if reply == answered {
			return
		}
		status := http.StatusOK
		if s, ok := reply.(withStatus); ok {
			status, reply = s.status, s.body
		}
		if text, ok := reply.(raw); ok {
			h.send(w, req, status, []byte(text))
		} else if reply == nil {
			w.WriteHeader(status)
		} else {
			h.send(w, req, status, toJSON(reply))
		}
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
	if body.Code == CodeIncompatible && h.options.Dialect == DialectV7 {
		body.Code = codeIncompatibleV7
	}
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

// acceptable reports whether the client takes what we have. Who asks whether the
// server lives takes anything.
func acceptable(req *http.Request) bool {
	types := accepted(req)
	return len(types) == 0 || req.Pattern == "GET /livez" || req.Pattern == "GET /readyz" || slices.ContainsFunc(types, func(t string) bool {
		return slices.Contains(mediaTypes, t) || t == "*" || t == "application/*" || strings.HasPrefix(t, "*/")
	})
}

func wantsFindings(req *http.Request) bool {
	return slices.Contains(accepted(req), FindingsMediaType)
}

// accepted lists the media types of the Accept header, what the client would
// rather have first.
func accepted(req *http.Request) []string {
	var types []string
	weights := map[string]float64{}
	for part := range strings.SplitSeq(strings.Join(req.Header.Values("Accept"), ","), ",") {
		t, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		weight, err := strconv.ParseFloat(params["q"], 64)
		if err != nil {
			weight = 1
		}
		if weight > 0 {
			types, weights[t] = append(types, t), weight
		}
	}
	slices.SortStableFunc(types, func(a, b string) int { return cmp.Compare(weights[b], weights[a]) })
	return types
}

// query is one request on its way through an endpoint.
type query struct {
	*handler
	req    *http.Request
	w      http.ResponseWriter
	values url.Values
}

// scope is the subject of the path within the context of the path, or what the
// whole context is named; "" is the registry.
func (q *query) scope() string {
	return normalName(q.qualify(q.req.PathValue("subject")))
}

// subject is the scope, or what that is an alias of.
func (q *query) subject() string { return q.r.aliased(q.scope()) }

// qualify puts a name into the context of the path, unless it has one.
func (q *query) qualify(name string) string {
	if in := q.req.PathValue("in"); in != "" && !strings.HasPrefix(name, ":.") && !strings.HasPrefix(name, anyContext) {
		return qualify(in, name)
	}
	return name
}

// context is where an id is looked up: the context of the path, or that of the
// query's subject.
func (q *query) context(id int) string {
	return q.r.ContextOf(q.r.aliased(normalName(q.qualify(q.values.Get("subject")))), id)
}

func (q *query) version() (int, error) {
	return ParseVersion(q.req.PathValue("version"))
}

// id is the id of the path, and the context in which it is meant; the caller may
// read it.
func (q *query) id() (id int, in string, err error) {
	if id, err = strconv.Atoi(q.req.PathValue("id")); err != nil {
		return 0, "", errorf(codeNotFound, "HTTP 404 Not Found")
	}
	in = q.context(id)
	return id, in, q.permitID(in, id)
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

// page cuts a list by the parameters offset and limit. A limit of 0 is none, as
// one below is.
func page[T any](q *query, list []T) []T {
	offset, err := strconv.Atoi(q.values.Get("offset"))
	if err != nil || offset < 0 {
		offset = 0
	}
	limit, err := strconv.Atoi(q.values.Get("limit"))
	if err != nil || limit <= 0 {
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
	raw = inUTF8(raw)
	if bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
		return errorf(codeBadRequest, "The body is null, expected an object")
	}
	if s, ok := v.(*Schema); ok {
		err = readSent(raw, s)
	} else {
		err = json.Unmarshal(raw, v)
	}
	if errors.As(err, new(*json.SyntaxError)) && json.NewDecoder(bytes.NewReader(raw)).Decode(v) == nil {
		err = nil // what follows the value is nobody's business, as with other registries
	}
	if err != nil {
		return badJSON(err)
	}
	return nil
}

// inUTF8 turns JSON in UTF-16 into UTF-8. The first character of JSON is ASCII,
// so one of its bytes is zero, unless a byte order mark comes first.
func inUTF8(raw []byte) []byte {
	if len(raw) < 2 || len(raw)%2 != 0 {
		return raw
	}
	mark := binary.BigEndian.Uint16(raw)
	var order binary.ByteOrder
	switch {
	case mark == 0xfeff || raw[0] == 0:
		order = binary.BigEndian
	case mark == 0xfffe || raw[1] == 0:
		order = binary.LittleEndian
	default:
		return raw
	}
	units := make([]uint16, len(raw)/2)
	for i := range units {
		units[i] = order.Uint16(raw[2*i:])
	}
	if units[0] == 0xfeff {
		units = units[1:]
	}
	return []byte(string(utf16.Decode(units)))
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
