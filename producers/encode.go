package producers

import (
	"context"
	"errors"
	"fmt"

	"penstock/rules"
	"penstock/schemas"
	"penstock/stream"
)

// batch holds what one call of Publish needs, to be used again by the next.
type batch struct {
	records []stream.Record
	indexes []int   // of each record among the events
	spans   []spans // of each record
	bytes   []byte  // encoded keys and values, one after the other
	targets map[targetName]target
	checks  bool // every misfit is rejected
}

// spans say where in a batch's bytes a record's key and value lie, if they were
// encoded there.
type spans struct{ key, value span }

type span struct {
	begin, end int
	there      bool
}

// targetName is what a target depends on.
type targetName struct {
	topic, typ string
	how        *Topic
}

// target is what the events of one topic and type need.
type target struct {
	topic      Topic
	key, value part
}

// part is the schema of a target's keys or values.
type part struct {
	asked      bool // the rest is known
	registered schemas.Registered
	subject    string
	rules      *rules.Set
	// constraints are those of its text.
	constraints *rules.Constraints
	frame       []byte        // what stands before the encoding
	header      stream.Header // what names the schema in its place
	err         error         // why there is no schema
}

// What a batch may keep for the next call; a larger one is left to the
// collector, so that one large call does not hold its memory for good.
const (
	keepBytes   = 4 << 20
	keepRecords = 1 << 14
	keepTargets = 64
)

func (p *Producer) release(b *batch) {
	if cap(b.bytes) > keepBytes || cap(b.records) > keepRecords || len(b.targets) > keepTargets {
		return
	}
	clear(b.records) // no reference to the caller's keys and headers
	clear(b.targets)
	b.records, b.indexes, b.spans, b.bytes = b.records[:0], b.indexes[:0], b.spans[:0], b.bytes[:0]
	b.checks = false
	p.batches.Put(b)
}

// encode fills b with the events that fit, and with what becomes of those that
// do not. Its error is that of a registry that cannot be asked.
func (p *Producer) encode(ctx context.Context, b *batch, events []Event) (*stream.BatchError, error) {
	failed := &stream.BatchError{}
	var (
		name targetName
		t    *target
	)
	for i := range events {
		e := &events[i]
		if t == nil || e.Topic != name.topic || e.Type != name.typ || e.How != name.how {
			name = targetName{e.Topic, e.Type, e.How}
			known, ok := b.targets[name]
			switch {
			case ok:
			case e.How != nil:
				known.topic = *e.How
			default:
				known.topic = p.config.Topic(e.Topic)
			}
			t = &known
		}
		record := stream.Record{Topic: e.Topic, Key: e.Key, Headers: e.Headers, Time: e.Time}
		var at spans
		begin := len(b.bytes)
		err := error(nil)
		if e.KeyValue != nil {
			at.key, err = p.encodePart(ctx, b, name, t, true, e.KeyValue, &record)
		}
		if e.Value != nil && (err == nil || b.checks) {
			wrong := err
			if at.value, err = p.encodePart(ctx, b, name, t, false, e.Value, &record); wrong != nil {
				err = errors.Join(wrong, err)
			}
		}
		if err != nil {
			b.bytes = b.bytes[:begin]
			if unasked := (*registryError)(nil); errors.As(err, &unasked) {
				return nil, unasked.err
			}
			if asked := deadLetterOf(e, &t.topic, err); asked != nil && !b.checks {
				b.records = append(b.records, *asked)
				b.indexes = append(b.indexes, i)
				b.spans = append(b.spans, spans{})
				failed.Fail(i, err)
				continue
			}
			if t.topic.Misfits == Reject || b.checks || !isMisfit(err) {
				failed.Fail(i, err)
				continue
			}
			if record, err = p.setAside(e, &t.topic, err); err != nil {
				failed.Fail(i, err)
				continue
			}
			at = spans{}
		}
		b.records = append(b.records, record)
		b.indexes = append(b.indexes, i)
		b.spans = append(b.spans, at)
	}
	// Only now, since bytes has moved while it grew.
	for n, at := range b.spans {
		if at.key.there {
			b.records[n].Key = b.bytes[at.key.begin:at.key.end:at.key.end]
		}
		if at.value.there {
			b.records[n].Value = b.bytes[at.value.begin:at.value.end:at.value.end]
		}
	}
	return failed, nil
}

// setAside makes a record of an event that does not fit.
func (p *Producer) setAside(e *Event, t *Topic, why error) (stream.Record, error) {
	record, err := misfit(e, t, why)
	if err == nil && p.config.Refused != nil {
		p.config.Refused(*e, why)
	}
	return record, err
}

// isMisfit reports whether err says that an event does not fit its schema.
func isMisfit(err error) bool {
	return errors.As(err, new(*schemas.ValueError))
}

// registryError marks that the registry cannot be asked.
type registryError struct{ err error }

func (e *registryError) Error() string { return e.err.Error() }
func (e *registryError) Unwrap() error { return e.err }

// encodePart appends the encoding of an event's key or value to b.bytes, and what
// names its schema to the record's headers where it stands there.
func (p *Producer) encodePart(ctx context.Context, b *batch, name targetName, t *target, key bool, v any, record *stream.Record) (span, error) {
	part, what := &t.value, "event"
	if key {
		part, what = &t.key, "key of the event"
	}
	var bytes []byte
	isBytes := true
	switch v := v.(type) {
	default:
		isBytes = false
	case Raw:
		if !t.topic.AllowRaw {
			return span{}, fmt.Errorf("%s: %w", what, ErrRaw)
		}
		bytes = v
	case Framed:
		if err := p.fits(ctx, v); err != nil {
			return span{}, fmt.Errorf("%s: %w", what, err)
		}
		bytes = v
	}
	if isBytes {
		begin := len(b.bytes)
		b.bytes = append(b.bytes, bytes...)
		return span{begin, len(b.bytes), true}, nil
	}
	if !part.asked {
		if err := p.ask(ctx, name, t, key); err != nil {
			return span{}, err
		}
		b.targets[name] = *t
	}
	if part.err != nil {
		return span{}, part.err
	}
	begin := len(b.bytes)
	grown, err := part.append(ctx, append(b.bytes, part.frame...), v, key)
	if err != nil {
		if !errors.As(err, new(*rules.Error)) { // which conceals by itself
			err = schemas.Conceal(part.registered.Schema.Model(), p.config.Sensitive, err)
		}
		return span{}, fmt.Errorf("%s does not fit schema %d of subject %q: %w", what, part.registered.ID, part.subject, err)
	}
	b.bytes = grown
	if part.header.Key != "" {
		record.Headers = append(record.Headers[:len(record.Headers):len(record.Headers)], part.header)
	}
	return span{begin, len(grown), true}, nil
}

// append appends the encoding of a value, as the rules for writing have it.
func (p *part) append(ctx context.Context, dst []byte, v any, key bool) (_ []byte, err error) {
	begin := len(dst)
	if text, ok := v.(JSON); ok {
		if p.rules == nil && !key { // keys that are equal are to be so in each spelling
			if dst, err = schemas.AppendText(p.registered.Schema, dst, text); err != nil {
				return nil, err
			}
			return dst, p.constraints.Check(dst[begin:])
		}
		if v, err = schemas.ParseText(text); err != nil {
			return nil, err
		}
	}
	if p.rules != nil {
		if v, err = p.written(ctx, v); err != nil {
			return nil, err
		}
	}
	if dst, err = p.registered.Schema.AppendEncode(dst, v); err != nil {
		return nil, err
	}
	if err := p.constraints.Check(dst[begin:]); err != nil || p.rules == nil {
		return dst, err
	}
	return p.writtenPayload(ctx, dst, begin)
}

// ErrRaw refuses a Raw whose topic does not admit it.
var ErrRaw = errors.New("expected an event that a schema can check, found bytes that none describes; the topic admits no raw bytes")

// fits decodes a payload under the schema that it names. An error is a
// *schemas.ValueError unless there is no such schema or it cannot be asked for.
func (p *Producer) fits(ctx context.Context, payload Framed) error {
	misfit := func(expected string, err error) error {
		return &schemas.ValueError{Violations: []schemas.Violation{{Expected: expected, Found: err.Error()}}}
	}
	header, rest, err := schemas.ParseHeader(payload)
	if err == nil && header.ByGUID {
		err = fmt.Errorf("%w: a GUID, which cannot be looked up here", schemas.ErrNotFramed)
	}
	if err != nil {
		return misfit("bytes that begin with a byte 0 and the id of a schema", err)
	}
	known, ok := p.registry.(SchemaRegistry)
	if !ok {
		return errors.New("bytes that name a schema cannot be checked: this registry is asked for the newest ones only")
	}
	schema, err := known.Schema(ctx, header.ID)
	switch {
	case errors.Is(err, schemas.ErrNoSchema):
		return misfit("the id of a schema that the registry has", err)
	case err != nil:
		return &registryError{fmt.Errorf("look up schema %d: %w", header.ID, err)}
	}
	one, body, err := schemas.SelectMessage(schema, rest)
	if err == nil {
		_, err = schemas.Decode(one, body, schemas.Limits{})
	}
	if err != nil {
		return misfit(fmt.Sprintf("an encoding under schema %d", header.ID), err)
	}
	where := framed{id: header.ID}
	if m, ok := one.(schemas.Messages); ok {
		where.message = fmt.Sprint(m.Indexes())
	}
	constraints, err := p.constraintsOf(where, schema, one)
	if err != nil {
		return fmt.Errorf("the constraints of schema %d cannot be run: %w", header.ID, err)
	}
	return schemas.Conceal(one.Model(), p.config.Sensitive, constraints.Check(body))
}

// NoSchemaError says that a topic's subject has no schema. It wraps
// schemas.ErrNoSchema.
type NoSchemaError struct {
	Topic, Subject string

	what string
	err  error
}

// Error says what to do.
func (e *NoSchemaError) Error() string {
	return fmt.Sprintf("topic %q has no %s under subject %q: %v; register one first: penstock schema register FILE --subject %s", e.Topic, e.what, e.Subject, e.err, e.Subject)
}

// Unwrap returns the registry's error.
func (e *NoSchemaError) Unwrap() error { return e.err }

// ask learns the schema of a target's keys or values. Its error is that of a
// registry that cannot be asked.
func (p *Producer) ask(ctx context.Context, name targetName, t *target, key bool) error {
	o, part, what, header := t.topic.Value, &t.value, "schema", schemas.ValueHeader
	subjectOf := Subject(TopicSubject)
	if key {
		o, part, what, header = t.topic.Key, &t.key, "schema of its keys", schemas.KeyHeader
		subjectOf = KeySubject
	}
	if o.Subject != nil {
		subjectOf = o.Subject
	}
	subject, err := subjectOf(ctx, name.topic, name.typ)
	if errors.Is(err, ErrNoType) {
		part.asked, part.err = true, err
		return nil
	}
	if err == nil {
		part.subject = subject
		switch registry, ok := p.registry.(ContractRegistry); {
		case o.Lookup != nil:
			part.registered, err = o.Lookup(ctx, subject)
		case ok:
			part.registered, err = registry.Newest(ctx, subject)
		default:
			part.registered.ID, part.registered.Schema, err = p.registry.Latest(ctx, subject)
		}
	}
	if err == nil && part.registered.Contract != nil {
		if part.rules, err = p.rulesOf(subject, part.registered); err != nil {
			part.asked, part.err = true, fmt.Errorf("topic %q: the rules of schema %d of subject %q cannot be run: %w", name.topic, part.registered.ID, subject, err)
			return nil
		}
	}
	if err == nil {
		if part.constraints, err = p.constraintsOf(subject, part.registered.Schema, part.registered.Schema); err != nil {
			part.asked, part.err = true, fmt.Errorf("topic %q: the constraints of schema %d of subject %q cannot be run: %w", name.topic, part.registered.ID, subject, err)
			return nil
		}
	}
	switch {
	case errors.Is(err, schemas.ErrNoSchema):
		part.err = &NoSchemaError{Topic: name.topic, Subject: subject, what: what, err: err}
	case err != nil:
		return &registryError{fmt.Errorf("look up the %s of subject %q: %w", what, subject, err)}
	case !o.GUIDHeader:
		part.frame = schemas.AppendFrame(nil, part.registered.ID, part.registered.Schema)
	case part.registered.GUID == schemas.GUID{}:
		part.err = fmt.Errorf("schema %d of subject %q has no GUID to name it by in a header: its registry gives none; name schemas by id", part.registered.ID, subject)
	default:
		id := schemas.AppendGUID(nil, part.registered.GUID)
		if m, ok := part.registered.Schema.(schemas.Messages); ok {
			id = schemas.AppendMessageIndexes(id, m.Indexes())
		}
		part.header = stream.Header{Key: header, Value: id}
	}
	part.asked = true
	return nil
}
