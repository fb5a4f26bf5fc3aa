package registry

import (
	"errors"
	"fmt"
	"net/http"

	"penstock/schemas"
)

// Code is an error code of the API.
type Code int

// The error codes.
const (
	CodeSubjectNotFound      Code = 40401
	CodeVersionNotFound      Code = 40402
	CodeSchemaNotFound       Code = 40403
	CodeSubjectDeleted       Code = 40404
	CodeSubjectNotDeleted    Code = 40405
	CodeVersionDeleted       Code = 40406
	CodeVersionNotDeleted    Code = 40407
	CodeConfigNotFound       Code = 40408
	CodeModeNotFound         Code = 40409
	CodeAssociationNotFound  Code = 40410
	CodeExporterNotFound     Code = 40450
	CodeIncompatible         Code = 40901
	CodeTooManyAssociations  Code = 40902
	CodeResourceAssociated   Code = 40903
	CodeSubjectAssociated    Code = 40904
	CodeStronglyAssociated   Code = 40905
	CodeNoActiveVersion      Code = 40907
	CodeAssociationFrozen    Code = 40908
	CodeExporterExists       Code = 40950
	CodeInvalidSchema        Code = 42201
	CodeInvalidVersion       Code = 42202
	CodeInvalidLevel         Code = 42203
	CodeInvalidMode          Code = 42204
	CodeNotPermitted         Code = 42205
	CodeReferenceExists      Code = 42206
	CodeIDMismatch           Code = 42207
	CodeInvalidSubject       Code = 42208
	CodeTooLarge             Code = 42209
	CodeInvalidRuleSet       Code = 42210
	CodeContextNotEmpty      Code = 42211
	CodeInvalidAssociation   Code = 42212
	CodeStore                Code = 50001
	CodeTimeout              Code = 50002
	CodeForwarding           Code = 50003
	CodeNoWriter             Code = 50004
	codeIncompatibleV7       Code = 409
	codeUnclassified         Code = 500
	codeBadRequest           Code = 400
	codeForbidden            Code = 403
	codeNotFound             Code = 404
	codeMethodNotAllowed     Code = 405
	codeNotAcceptable        Code = 406
	codeUnsupportedMediaType Code = 415
)

// Status is the HTTP status that a code goes with.
func (c Code) Status() int {
	switch {
	case c == CodeForwarding, c == CodeNoWriter:
		return http.StatusServiceUnavailable
	case c < 1000:
		return int(c)
	}
	return int(c) / 100
}

// Error is what the registry answers where it refuses. To errors.Is two of them
// are the same if their codes are, and those that say that there is no such
// subject, version or schema are schemas.ErrNoSchema.
type Error struct {
	Code    Code   `json:"error_code"`
	Message string `json:"message"`
	// Findings is what stands against compatibility, with CodeIncompatible.
	Findings []Finding `json:"findings,omitempty"`

	cause error
	// unavailable says that trying again later, or elsewhere, makes sense.
	unavailable bool
}

// Status is the HTTP status that the error goes with: that of its code, or 503
// where trying again later, or at another node, makes sense.
func (e *Error) Status() int {
	if e.unavailable {
		return http.StatusServiceUnavailable
	}
	return e.Code.Status()
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Is reports whether target is an *Error of the same code, or schemas.ErrNoSchema
// and the code one of those.
func (e *Error) Is(target error) bool {
	if target == schemas.ErrNoSchema {
		return e.Code == CodeSubjectNotFound || e.Code == CodeVersionNotFound || e.Code == CodeSchemaNotFound
	}
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Unwrap returns what lies behind the error, which no client sees.
func (e *Error) Unwrap() error { return e.cause }

func errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// public turns any error into one that a client may see: an *Error as it is,
// anything else as a code and a general sentence.
func public(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: codeUnclassified, Message: "Internal server error; the registry's log says more", cause: err}
}
