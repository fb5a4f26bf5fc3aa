package registry

import (
	"context"
	"net/http"
)

// Operation is a kind of thing that a request does, as permissions tell them
// apart.
type Operation string

// The operations.
const (
	// OpRead reads schemas, versions, configuration and modes, and looks
	// schemas up.
	OpRead Operation = "read"
	// OpWrite registers schemas, and tags and associates them.
	OpWrite Operation = "write"
	// OpDelete deletes versions and subjects, and brings them back.
	OpDelete Operation = "delete"
	// OpCheck checks compatibility without registering.
	OpCheck Operation = "compatibility"
	// OpAdmin sets configuration and modes, deletes contexts, and runs
	// exporters.
	OpAdmin Operation = "admin"
)

// HandlerOptions are what Handler may be told. The zero value is ready to use.
type HandlerOptions struct {
	// Dialect is the generation of Confluent's registry that replies follow.
	// Empty is DialectV8.
	Dialect Dialect
	// Authorize returns an error, best an *Error, where the caller that ctx
	// names may not do op to subject: a qualified name, a context as
	// ":.name:", or "" for what belongs to no subject. Lists leave out what
	// may not be read. nil permits everything.
	Authorize func(ctx context.Context, op Operation, subject string) error
	// Routes are served too.
	Routes []Route
	// Peers carries the writes that this node passes on to the one that takes
	// them. nil is a transport with time-outs and the system's certificates.
	Peers http.RoundTripper
}

// Route is a route beside the registry's own, which its errors, permissions and
// forwarding of writes hold for too.
type Route struct {
	// Pattern is a method and a path, as http.ServeMux reads them.
	Pattern string
	// Op is what the caller must be permitted to do to the registry as a whole.
	Op Operation
	// Summary describes the route, and Body and Reply are examples of what is
	// sent and answered; nil is nothing.
	Summary     string
	Body, Reply any
	// Serve returns what is answered as JSON, nil for 204, or an error.
	Serve func(r Request) (any, error)
}

// Request is what a Route is asked.
type Request struct {
	*http.Request
	// Read reads the JSON of the body into a pointer; its error is one to return.
	Read func(v any) error
}

// route is rt as a line of the API.
func (rt Route) route() route {
	serve := func(_ *handler, q *query) (any, error) {
		answer, err := rt.Serve(Request{q.req, q.body})
		if answer == nil {
			return withStatus{status: http.StatusNoContent}, err
		}
		return answer, err
	}
	return route{rt.Pattern, rt.Op, nobody, serve, rt.Summary, nil, rt.Body, rt.Reply}
}

// Dialect is a generation of replies.
type Dialect string

// The dialects.
const (
	// DialectV8 is Confluent's from 8.0 on: registration answers with the whole
	// schema, schemaType is always there, a refusal has code 40901.
	DialectV8 Dialect = "v8"
	// DialectV7 is theirs up to 7.9, for clients that refuse members they do
	// not know: registration answers with the id alone, schemaType is left out
	// for Avro, there is no guid and no ts, a refusal has code 409.
	DialectV7 Dialect = "v7"
)
