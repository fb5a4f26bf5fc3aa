package rules

import (
	"errors"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"penstock/schemas"
)

// Record is what an Expression sees.
type Record struct {
	// Schema and Value are what the record says; both are nil where it was not
	// read.
	Schema    schemas.Schema
	Value     any
	Key       []byte // nil is none
	Headers   func() map[string]string
	Topic     string
	Partition int32
	Offset    int64
	Time      time.Time
}

// Expression is a CEL expression over one record as it comes from a topic, with
// the functions and bounds of rules. It may name message (what the record says),
// key (a string, bytes if it is not UTF-8, or null), headers (the first of each
// name), topic, partition, offset, time and now. It may be used concurrently.
type Expression struct {
	program cel.Program
	tagged  sync.Map // whether a *schemas.Node has tags somewhere
}

// SyntaxError says where in an expression, from 1, what is wrong.
type SyntaxError struct {
	Line, Column int
	Message      string
}

// Error is one sentence.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("at line %d, column %d: %s", e.Line, e.Column, e.Message)
}

// purpose says what an expression may name and has to give.
type purpose struct {
	environment func() (*cel.Env, error)
	gives       *cel.Type
	expected    string
}

var (
	recordVariables = []cel.EnvOption{
		cel.Variable("key", cel.DynType),
		cel.Variable("headers", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("topic", cel.StringType),
		cel.Variable("partition", cel.IntType),
		cel.Variable("offset", cel.IntType),
		cel.Variable("time", cel.TimestampType),
	}
	unread = sync.OnceValues(func() (*cel.Env, error) { return newEnvironment(recordVariables...) })
	read   = sync.OnceValues(func() (*cel.Env, error) {
		return newEnvironment(append(recordVariables[:len(recordVariables):len(recordVariables)], cel.Variable("message", cel.DynType))...)
	})
)

// Filter compiles an expression that says whether a record is wanted. Its error
// is a *SyntaxError.
func Filter(text string) (*Expression, error) {
	return newExpression(text, purpose{read, cel.BoolType, "true or false"})
}

// Map compiles an expression that makes another record. Its error is a
// *SyntaxError.
func Map(text string) (*Expression, error) {
	return newExpression(text, purpose{read, cel.MapType(cel.DynType, cel.DynType), "a record, as in {\"id\": message.id}"})
}

// Mark compiles an expression that says something of a record that was not read:
// there is no message. Its error is a *SyntaxError.
func Mark(text string) (*Expression, error) {
	return newExpression(text, purpose{unread, cel.BoolType, "true or false"})
}

func newExpression(text string, p purpose) (*Expression, error) {
	env, err := p.environment()
	if err != nil {
		return nil, &SyntaxError{1, 1, err.Error()}
	}
	if len(text) > maxExpr {
		return nil, &SyntaxError{1, 1, fmt.Sprintf("expected at most %d bytes, found %d", maxExpr, len(text))}
	}
	program, gives, err := compiledIn(env, text)
	if err != nil {
		if at := (*SyntaxError)(nil); errors.As(err, &at) {
			return nil, at
		}
		return nil, &SyntaxError{1, 1, err.Error()}
	}
	if !p.gives.IsAssignableType(gives) && gives.Kind() != cel.DynKind {
		return nil, &SyntaxError{1, 1, fmt.Sprintf("expected an expression that gives %s, found one that gives %s", p.expected, gives)}
	}
	return &Expression{program: program}, nil
}

// Holds says whether the expression is true of r. What is neither true nor false
// is an error.
func (e *Expression) Holds(r *Record) (bool, error) {
	v, err := e.eval(r)
	if err != nil {
		return false, err
	}
	holds, ok := v.(types.Bool)
	if !ok {
		return false, fmt.Errorf("evaluate expression: expected true or false, found %s", v.Type().TypeName())
	}
	return bool(holds), nil
}

// Map returns what the expression makes of r, for to to encode.
func (e *Expression) Map(r *Record, to schemas.Schema) (any, error) {
	v, err := e.eval(r)
	if err != nil {
		return nil, err
	}
	out, err := values{language: to.Type()}.fromCEL(to.Model(), v, maxDepth)
	if err != nil {
		return nil, e.shown(r, err)
	}
	return out, nil
}

func (e *Expression) eval(r *Record) (ref.Val, error) {
	s := &recordScope{record: r}
	s.steps = maxSteps
	v, _, err := e.program.Eval(s)
	if err != nil {
		return nil, e.shown(r, fmt.Errorf("evaluate expression: %w", err))
	}
	return v, nil
}

// shown is err, unless it may quote what is tagged.
func (e *Expression) shown(r *Record, err error) error {
	if r.Schema == nil {
		return err
	}
	n := r.Schema.Model()
	tagged, known := e.tagged.Load(n)
	if !known {
		tagged = anyTags(n, map[*schemas.Node]bool{})
		e.tagged.Store(n, tagged)
	}
	if tagged == true {
		return errNotShown
	}
	return err
}

// recordScope is what the variables of an Expression stand for.
type recordScope struct {
	scope
	record *Record
}

func (s *recordScope) ResolveName(name string) (any, bool) {
	r := s.record
	switch name {
	case "message":
		if s.message == nil {
			s.message = types.NullValue
			if r.Schema != nil {
				s.message = values{language: r.Schema.Type()}.toCEL(r.Schema.Model(), r.Value)
			}
		}
	case "key":
		switch {
		case r.Key == nil:
			return types.NullValue, true
		case utf8.Valid(r.Key):
			return types.String(r.Key), true
		}
		return types.Bytes(r.Key), true
	case "headers":
		return types.NewStringStringMap(types.DefaultTypeAdapter, r.Headers()), true
	case "topic":
		return types.String(r.Topic), true
	case "partition":
		return types.Int(r.Partition), true
	case "offset":
		return types.Int(r.Offset), true
	case "time":
		return types.Timestamp{Time: r.Time.UTC()}, true
	}
	return s.scope.ResolveName(name)
}
