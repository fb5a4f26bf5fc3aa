package schemas

import (
	"fmt"
	"strings"
)

// Violation is one way in which a value does not fit its schema.
type Violation struct {
	// Pointer is the JSON Pointer (RFC 6901) of the place in the value; empty
	// is the value itself.
	Pointer string `json:"pointer"`
	// Expected is what the schema asks for there, in plain words.
	Expected string `json:"expected"`
	// Found is what stands there, shortened, with its type.
	Found string `json:"found"`
	// Hint is what to do about it.
	Hint string `json:"hint,omitempty"`
}

// String is the violation as one sentence.
func (v Violation) String() string {
	where := v.Pointer
	if where == "" {
		where = "the value"
	}
	s := fmt.Sprintf("at %s: expected %s, found %s", where, v.Expected, v.Found)
	if v.Hint != "" {
		s += "; " + v.Hint
	}
	return s
}

// ValueError says why a value does not fit its schema: every violation, in
// the order of the schema's fields.
type ValueError struct {
	Violations []Violation
}

// Error joins the violations.
func (e *ValueError) Error() string {
	parts := make([]string, len(e.Violations))
	for i, v := range e.Violations {
		parts[i] = v.String()
	}
	return strings.Join(parts, "; ")
}
