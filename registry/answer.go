package registry

import "net/http"

// WriteJSON answers a request with v, in the form of the API, for routes beside
// Handler's.
func WriteJSON(w http.ResponseWriter, req *http.Request, v any) {
	(&handler{}).send(w, req, http.StatusOK, toJSON(v))
}

// WriteError answers a request with an error, in the form of the API; one that
// is no *Error says nothing of what went wrong.
func WriteError(w http.ResponseWriter, req *http.Request, err error) {
	e := public(err)
	(&handler{}).send(w, req, e.Code.Status(), toJSON(Error{Code: e.Code, Message: e.Message}))
}
