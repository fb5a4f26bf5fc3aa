package producers

import (
	"context"
	"errors"
	"reflect"

	"penstock/rules"
	"penstock/schemas"
	"penstock/stream"
)

// compiled are the rules of the schema that a subject had when it was last asked
// for.
type compiled struct {
	schema   schemas.Schema
	contract *byte // where it begins: the registry's client keeps it
	set      *rules.Set
}

// rulesOf compiles the rules of a schema, unless they have been.
func (p *Producer) rulesOf(subject string, r schemas.Registered) (*rules.Set, error) {
	contract := &r.Contract[0]
	if c, ok := p.compiled.Load(subject); ok {
		if c := c.(*compiled); c.schema == r.Schema && c.contract == contract {
			return c.set, nil
		}
	}
	set, err := rules.Of(r)
	if err != nil {
		return nil, err
	}
	p.compiled.Store(subject, &compiled{r.Schema, contract, set})
	return set, nil
}

// constrained are the constraints of a schema.
type constrained struct {
	schema      schemas.Schema
	constraints *rules.Constraints
}

// framed names a message of a schema, as bytes name it.
type framed struct {
	id      schemas.ID
	message string // its indexes
}

// constraintsOf compiles the constraints of a message, unless they have been: of which
// schema it is says where it is kept, and whole is what the registry returns for it.
func (p *Producer) constraintsOf(where any, whole, message schemas.Schema) (*rules.Constraints, error) {
	if _, ok := message.(schemas.Messages); !ok { // those of Protobuf
		return nil, nil
	}
	if c, ok := p.constraints.Load(where); ok {
		if c := c.(*constrained); c.schema == whole {
			return c.constraints, nil
		}
	}
	constraints, err := rules.ConstraintsOf(message)
	if err != nil {
		return nil, err
	}
	p.constraints.Store(where, &constrained{whole, constraints})
	return constraints, nil
}

// ruleError is a *rules.Error that is a *schemas.ValueError as well.
type ruleError struct {
	rule *rules.Error
}

func (e *ruleError) Error() string { return e.rule.Error() }

// Unwrap returns both.
func (e *ruleError) Unwrap() []error {
	return []error{e.rule, &schemas.ValueError{Violations: e.rule.Violations}}
}

// byRule makes a ruleError of what a rule says.
func byRule(err error) error {
	var rule *rules.Error
	if errors.As(err, &rule) {
		return &ruleError{rule}
	}
	return err
}

// written is what the rules for writing make of a value.
func (p *part) written(ctx context.Context, v any) (any, error) {
	if kind := reflect.ValueOf(v).Kind(); kind == reflect.Struct || kind == reflect.Pointer {
		// Rules look into maps: a Go type of its own becomes one, if it fits.
		encoded, err := p.registered.Schema.AppendEncode(nil, v)
		if err != nil {
			return nil, err
		}
		if v, err = p.registered.Schema.Decode(encoded); err != nil {
			return nil, err
		}
	}
	v, err := p.rules.Write(ctx, v)
	return v, byRule(err)
}

// writtenPayload is what the rules for writing make of the encoding that begins at
// a place of b.
func (p *part) writtenPayload(ctx context.Context, b []byte, at int) ([]byte, error) {
	payload, err := p.rules.WritePayload(ctx, b[at:])
	if err != nil {
		return nil, byRule(err)
	}
	return append(b[:at], payload...), nil
}

// deadLetterOf returns the dead letter that a rule asks for, which an event did not
// pass, or nil.
func deadLetterOf(e *Event, t *Topic, why error) *stream.Record {
	var rule *rules.Error
	if !errors.As(why, &rule) || rule.Action != "DLQ" {
		return nil
	}
	to := *t
	to.Misfits = DeadLetter
	if topic := rule.Param("dlq.topic"); topic != "" {
		to.DeadLetters = topic
	}
	r, err := misfit(e, &to, why)
	if err != nil {
		return nil // it has no form to be set aside in
	}
	return &r
}
