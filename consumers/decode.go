package consumers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"penstock/rules"
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
	RefusedByRule Code = "refused-by-rule" // a data contract rule refuses it
	RefusedBySink Code = "refused-by-sink" // the sink can never store it
	Parked        Code = "parked"          // an earlier record of its key waits; see Parking
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
	var rule *rules.Error
	if errors.As(r.Err, &rule) && len(rule.Violations) > 0 {
		return rule.Violations[0].Pointer
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
	registry  Registry
	contracts Contracts // nil if the registry is none
	reader    Reader
	plain     schemas.Schema
	limits    schemas.Limits

	plans    atomic.Pointer[map[route]*plan]
	planning sync.Mutex // guards the change of plans
}

// NewDecoder returns a decoder that knows the schemas of registry.
func NewDecoder(registry Registry, limits schemas.Limits) *Decoder {
	if limits.MaxBytes == 0 {
		limits.MaxBytes = 16 << 20
	}
	d := &Decoder{registry: registry, limits: limits}
	d.contracts, _ = registry.(Contracts)
	return d
}

// Plain has d read values that name no schema, and do not begin as if they did, as
// s encodes them; nil leaves them refused. It is called before the first Decode,
// and returns d.
func (d *Decoder) Plain(s schemas.Schema) *Decoder {
	d.plain = s
	return d
}

// Decode reads one record. A record that cannot pass gives a *Reason. Any other
// error is the registry's, and passing: it says nothing about the record.
func (d *Decoder) Decode(ctx context.Context, r stream.Record) (Message, error) {
	return d.decode(ctx, r, nil)
}

// decode reads a record into cells of room, if it is given and the record can be
// read so.
func (d *Decoder) decode(ctx context.Context, r stream.Record, room *cells) (Message, error) {
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
		if len(named) > 0 && named[0] <= 1 {
			return m, &Reason{Truncated, err}
		}
		if d.plain == nil || inHeader {
			return m, &Reason{NotFramed, err}
		}
		m.Schema = d.plain
		if m.Data, err = schemas.Decode(d.plain, r.Value, d.limits); err != nil {
			return m, &Reason{DecodeFailed, err}
		}
		return m, nil
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
	plan, err := d.plan(ctx, r.Topic, header, schema)
	if err != nil {
		return m, reason(header, err)
	}
	if plan == nil && room != nil {
		if m.Cells = room.read(schema, r.Value, len(r.Value)-len(body)); m.Cells != nil {
			return m, nil
		}
	}
	if plan != nil {
		if body, err = plan.payload.ReadPayload(ctx, body); err != nil {
			return m, ruled(err)
		}
	}
	decode := schemas.DecodeShared
	if plan != nil {
		decode = schemas.Decode // rules may change what they read
	}
	if m.Data, err = decode(schema, body, d.limits); err != nil {
		return m, &Reason{DecodeFailed, fmt.Errorf("written with schema %s: %w", name(header), err)}
	}
	if plan != nil {
		if m.Data, err = plan.value(ctx, m.Data, d.limits); err != nil {
			return m, err
		}
		if plan.target != nil {
			m.SchemaID, m.Schema = plan.id, plan.target
		}
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
	if err != nil {
		return nil, reason(h, err)
	}
	return s, nil
}

// reason is a *Reason where the error of a lookup is about the record.
func reason(h schemas.Header, err error) error {
	switch {
	case errors.As(err, new(*Reason)):
		return err
	case errors.Is(err, schemas.ErrNoSchema):
		return &Reason{UnknownSchema, fmt.Errorf("schema %s: %w; is this the registry it was written with?", name(h), err)}
	case errors.Is(err, schemas.ErrBadSchema):
		return &Reason{UnknownSchema, err}
	}
	return fmt.Errorf("look up schema %s: %w", name(h), err)
}

func name(h schemas.Header) string {
	if h.ByGUID {
		return h.GUID.String()
	}
	return fmt.Sprintf("id %d", h.ID)
}

// cells is room for the cells of a batch.
type cells struct {
	of   CellSink
	free []schemas.Cell
	all  []schemas.Cell
}

// fewCells is how many there is room for at least.
const fewCells = 1 << 12

// read reads the value that lies in src from at on, or returns nil.
func (c *cells) read(s schemas.Schema, src []byte, at int) []schemas.Cell {
	reader, ok := s.(schemas.CellReader)
	if !ok || !c.of.TakesCells(s) {
		return nil
	}
	n := reader.Cells()
	if n == 0 {
		return nil
	}
	if len(c.free) < n {
		c.all = make([]schemas.Cell, max(n, fewCells, 2*len(c.all)))
		c.free = c.all
	}
	row := c.free[:n:n]
	if !schemas.ReadCells(reader, row, src, at) {
		return nil
	}
	c.free = c.free[n:]
	return row
}
