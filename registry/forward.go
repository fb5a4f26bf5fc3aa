package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"
)

// forwardedHeader marks a request that a node has passed on, so that it is not
// passed on again.
const forwardedHeader = "Penstock-Forwarded"

// answered is the reply of an endpoint that has written it already.
var answered any = new(int)

// readingPosts lists the routes that read, although a body comes with them.
var readingPosts = map[string]bool{
	"POST /{$}":                true,
	"POST /subjects/{subject}": true,
	"POST /compatibility/subjects/{subject}/versions":           true,
	"POST /compatibility/subjects/{subject}/versions/{version}": true,
	"POST /associations:batchGet":                               true,
}

// writes reports whether a request is one that may change something.
func writes(req *http.Request) bool {
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	}
	return !readingPosts[req.Pattern]
}

// maxBody is the longest body taken. In JSON a text of so many bytes may take up
// to six times as much, and a reference a few hundred bytes.
func (r *Registry) maxBody() int64 {
	return int64(6*r.options.MaxSchemaBytes + maxReferences*maxSubjectBytes)
}

// forwarding makes an endpoint pass a write on, once, to the node that may
// append to the log, if this one may not.
func (h *handler) forwarding(e endpoint) endpoint {
	if h.r.follower == nil {
		return e
	}
	return func(q *query) (any, error) {
		if !writes(q.req) {
			return e(q)
		}
		body := &recorder{from: q.req.Body}
		q.req.Body = body
		reply, err := e(q)
		if elsewhere := (*NotWriterError)(nil); errors.As(err, &elsewhere) && elsewhere.Writer != "" {
			return h.forward(q, body, elsewhere.Writer)
		}
		return reply, err
	}
}

// recorder is a body that can be read a second time.
type recorder struct {
	from io.ReadCloser
	read bytes.Buffer
}

func (b *recorder) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	b.read.Write(p[:n])
	return n, err
}

func (b *recorder) Close() error { return b.from.Close() }

// again is the body from its beginning.
func (b *recorder) again() io.Reader { return io.MultiReader(&b.read, b.from) }

// forward has the request answered by the node at writer.
func (h *handler) forward(q *query, body *recorder, writer string) (any, error) {
	if by := q.req.Header.Get(forwardedHeader); by != "" {
		return nil, &Error{Code: CodeNoWriter, Message: "The node that takes writes is changing; send the request again"}
	}
	base, err := url.Parse(writer)
	target, err2 := url.ParseRequestURI(q.req.RequestURI)
	if err := errors.Join(err, err2); err != nil {
		return nil, forwardingFailed(writer, err)
	}
	var failed error
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			to := *target
			to.Scheme, to.Host, to.User = base.Scheme, base.Host, nil
			if prefix := strings.TrimSuffix(base.EscapedPath(), "/"); prefix != "" {
				to.Path, to.RawPath = strings.TrimSuffix(base.Path, "/")+to.Path, prefix+target.EscapedPath()
			}
			p.Out.URL, p.Out.Host = &to, ""
			p.Out.Body = http.MaxBytesReader(nil, io.NopCloser(body.again()), h.r.maxBody())
			p.Out.Header.Set(forwardedHeader, "1")
			p.SetXForwarded()
		},
		Transport:    h.peers,
		ErrorLog:     slog.NewLogLogger(h.r.options.Logger.Handler(), slog.LevelWarn),
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { failed = err },
	}
	proxy.ServeHTTP(q.w, q.req)
	if failed != nil {
		return nil, forwardingFailed(writer, failed)
	}
	return answered, nil
}

func forwardingFailed(writer string, err error) *Error {
	return &Error{Code: CodeForwarding, Message: "The request could not be passed on to the node that takes writes; it may or may not have been done; send it again", cause: fmt.Errorf("forward to %s: %w", writer, err)}
}

// peerTransport is how requests are passed on where HandlerOptions say nothing.
func (r *Registry) peerTransport() http.RoundTripper {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: r.options.WriteTimeout / 2, // a node that sleeps is soon not the writer
		IdleConnTimeout:       time.Minute,
		MaxIdleConnsPerHost:   32,
		ForceAttemptHTTP2:     true,
	}
}
