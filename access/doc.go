// Package access says who a request is from and what they may do. It is shared
// by whatever of this program listens, and knows none of it: operations and
// subjects are strings.
//
// A Guard puts a handler behind, in this order: an id for the request, who sent
// it (basic authentication, a bearer token, a client certificate, or nobody),
// how often they may, and, when the handler is through, the audit log. What may
// be done to what is asked by the handler itself, with Authorize.
//
// The files that it is given (certificates, users, permissions, keys) are read
// again every two seconds. What has changed holds from then on; what no longer
// can be read is logged, once, and the last good state stays.
//
// Names live in one space: user alice, the token whose subject is alice and the
// certificate of the common name alice are the same principal. No secret ever
// reaches a log or an answer, nor does the reason why one was refused.
package access
