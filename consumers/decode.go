package consumers

import (
	"context"
	"errors"
	"fmt"

	"penstock/schemas"
	"penstock/stream"
)

// Code says in a word why a record cannot pass.
type Code string

// The codes.
const (
	NotFramed     Code = "not-framed"      // the value names no schema
	Truncated     Code = "truncated"       // it ends within the schema's id
	TooLarge      Code = "too-large"       // it is beyond the limit of the decoder
	UnknownSchema Code = "unknown-schema"  // the registry has no such schema
	DecodeFailed  Code = "decode-failed"   // it is not what its schema says
	RefusedBySink Code = "refused-by-sink" // the sink can never store it
)

// Reason says why a record cannot pass, now or later.
type Reason struct {
	Code Code
	Err  error
}

// Error is the code and the sentence.
func (r *Reason) Error() string { return string(r.Code) + ": " + r.Err.Error() }

// Unwrap returns the error behind the reason.
func (r *Reason) Unwrap() error { return r.Err }

// Pointer is the JSON Pointer of the place in the value that is at fault, where
// that is known, else "".
func (r *Reason) Pointer() string {
	var value *schemas.ValueError
	if errors.As(r.Err, &value) && len(value.Violations) > 0 {
		return value.Violations[0].Pointer
	}
	return ""
}

// GUIDRegistry is what a Registry implements if it knows schemas by GUID as
// well. Without it, records that name their schema so are set aside.
type GUIDRegistry interface {
	// SchemaByGUID is to a GUID what Registry.Schema is to an id.
	SchemaByGUID(ctx context.Context, guid schemas.GUID) (schemas.Schema, error)
}

// Decoder turns records that anyone may have written into messages. It may be
// used concurrently.
type Decoder struct {
	registry Registry
	limits   schemas.Limits
}

// NewDecoder returns a decoder that knows the schemas of registry.
func NewDecoder(registry Registry, limits schemas.Limits) *Decoder {
	if limits.MaxBytes == 0 {
		limits.MaxBytes = 16 << 20
	}
	return &Decoder{registry, limits}
}

// Decode reads one record. A record that cannot pass gives a *Reason. Any other
// error is the registry's, and passing: it says nothing about the record.
func (d *Decoder) Decode(ctx context.Context, r stream.Record) (Message, error) {
	m := Message{Record: r}
	if r.Value == nil {
		return m, nil
	}
	if len(r.Value) > d.limits.MaxBytes {
		return m, &Reason{TooLarge, fmt.Errorf("expected a value of at most %d bytes, found %d", d.limits.MaxBytes, len(r.Value))}
	}
	// The schema is named in front of the payload, or else in a header.
	named, inHeader := r.Header(schemas.ValueHeader)
	if !inHeader {
		named = r.Value
	}
	header, rest, err := schemas.ParseHeader(named)
	if err != nil {
		code := NotFramed
		if len(named) > 0 && named[0] <= 1 {
			code = Truncated
		}
		return m, &Reason{code, err}
	}
	schema, err := d.schema(ctx, header)
	if err != nil {
		return m, err
	}
	schema, body, err := schemas.SelectMessage(schema, rest)
	if err != nil {
		return m, &Reason{DecodeFailed, err}
	}
	if inHeader {
		body = r.Value
	}
	m.SchemaID, m.Schema = header.ID, schema
	if m.Data, err = schemas.Decode(schema, body, d.limits); err != nil {
		return m, &Reason{DecodeFailed, fmt.Errorf("written with schema %s: %w", name(header), err)}
	}
	return m, nil
}

func (d *Decoder) schema(ctx context.Context, h schemas.Header) (s schemas.Schema, err error) {
	if !h.ByGUID {
		s, err = d.registry.Schema(ctx, h.ID)
	} else if known, ok := d.registry.(GUIDRegistry); ok {
		s, err = known.SchemaByGUID(ctx, h.GUID)
	} else {
		err = fmt.Errorf("%w: the registry knows schemas by id only", schemas.ErrNoSchema)
	}
	switch {
	case errors.Is(err, schemas.ErrNoSchema):
		return nil, &Reason{UnknownSchema, fmt.Errorf("schema %s: %w; is this the registry it was written with?", name(h), err)}
	case errors.Is(err, schemas.ErrBadSchema):
		return nil, &Reason{UnknownSchema, err}
	case err != nil:
		return nil, fmt.Errorf("look up schema %s: %w", name(h), err)
	}
	return s, nil
}

func name(h schemas.Header) string {
	if h.ByGUID {
		return h.GUID.String()
	}
	return fmt.Sprintf("id %d", h.ID)
}
