package consumers

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"penstock/rules"
	"penstock/schemas"
)

// Contracts is what a Registry implements if it keeps data contract rules with
// its schemas. Then those for reading are run, see penstock/rules; what they
// refuse is set aside. Errors are to be like those of Registry.Schema.
type Contracts interface {
	// Registered is Registry.Schema, or SchemaByGUID, with all that is known of
	// the schema. It is called for every record.
	Registered(ctx context.Context, named schemas.Header) (schemas.Registered, error)
	// Path returns the versions that lead from one schema of a subject to
	// another, the two included, in that order.
	Path(ctx context.Context, subject string, from, to schemas.Registered) ([]schemas.Registered, error)
}

// Reader says as which schema, the newest of a subject for instance, the values
// of a topic are to be read. It is called for every record. Values that were
// written with another version of its subject are taken there by the migration
// rules that lie between; what they leave is fitted to the schema: fields that it
// does not have go, and those that are missing get their defaults.
type Reader func(ctx context.Context, topic string) (schemas.Registered, error)

// ReadAs has d read values as reader says. The registry has to be Contracts. It is
// called before the first Decode, and returns d.
func (d *Decoder) ReadAs(reader Reader) *Decoder {
	d.reader = reader
	return d
}

// maxPlans is how many pairs of schemas are kept in mind.
const maxPlans = 10_000

// route is what plans are known by.
type route struct {
	written schemas.Header
	message string     // the one of a Protobuf file
	target  schemas.ID // 0 for as written
}

// plan is what to do with the records written with one schema.
type plan struct {
	payload *rules.Set
	steps   []func(context.Context, any) (any, error)
	// target is the schema that the value is of in the end, if it may not be
	// that which it was written with, or may have been changed.
	target schemas.Schema
	id     schemas.ID
	read   *rules.Set
}

// plan returns what to do with a record written with schema, which h names; it
// is nil if there is nothing to do.
func (d *Decoder) plan(ctx context.Context, topic string, h schemas.Header, schema schemas.Schema) (*plan, error) {
	if d.contracts == nil {
		return nil, nil
	}
	key := route{written: h, message: schema.Model().Name}
	var target schemas.Registered
	if d.reader != nil {
		var err error
		if target, err = d.reader(ctx, topic); err != nil {
			return nil, fmt.Errorf("look up the schema to read topic %q as: %w", topic, err)
		}
		key.target = target.ID
	}
	if known := d.plans.Load(); known != nil {
		if p, ok := (*known)[key]; ok {
			return p, nil
		}
	}
	p, err := d.newPlan(ctx, h, schema, target)
	if err != nil {
		return nil, err
	}
	d.planning.Lock()
	defer d.planning.Unlock()
	plans := map[route]*plan{}
	if known := d.plans.Load(); known != nil && len(*known) < maxPlans {
		plans = maps.Clone(*known)
	}
	plans[key] = p
	d.plans.Store(&plans)
	return p, nil
}

func (d *Decoder) newPlan(ctx context.Context, h schemas.Header, schema schemas.Schema, target schemas.Registered) (*plan, error) {
	written, err := d.contracts.Registered(ctx, h)
	if err != nil {
		return nil, err
	}
	written.Schema = schema
	set, err := compile(written)
	if err != nil {
		return nil, err
	}
	p := &plan{payload: set, read: set}
	if target.Schema == nil || target.ID == written.ID {
		if set == nil {
			return nil, nil
		}
		if set.Transforms("READ") {
			p.target, p.id = schema, written.ID
		}
		return p, nil
	}
	p.target, p.id = target.Schema, target.ID
	if p.read, err = compile(target); err != nil {
		return nil, err
	}
	path, err := d.contracts.Path(ctx, target.Subject, written, target)
	if err != nil {
		return nil, fmt.Errorf("look up the versions of subject %q from schema %s on: %w", target.Subject, name(h), err)
	}
	for i := range len(path) - 1 {
		if path[i].Version < path[i+1].Version {
			if set, err = compile(path[i+1]); set != nil {
				p.steps = append(p.steps, set.Upgrade)
			}
		} else if set, err = compile(path[i]); set != nil {
			p.steps = append(p.steps, set.Downgrade)
		}
		if err != nil {
			return nil, err
		}
	}
	return p, nil
}

// compile prepares what a registry keeps with a schema.
func compile(r schemas.Registered) (*rules.Set, error) {
	set, err := rules.Of(r)
	if err != nil {
		return nil, &Reason{RefusedByRule, err}
	}
	return set, nil
}

// value takes a decoded value through the rules.
func (p *plan) value(ctx context.Context, v any, limits schemas.Limits) (any, error) {
	var err error
	for _, step := range p.steps {
		if v, err = step(ctx, v); err != nil {
			return nil, ruled(err)
		}
	}
	if len(p.steps) > 0 || p.target != nil {
		if v, err = as(p.target, v, limits); err != nil {
			return nil, err
		}
	}
	after, err := p.read.Read(ctx, v)
	if err != nil {
		return nil, ruled(err)
	}
	if p.read.Transforms("READ") {
		return as(p.target, after, limits)
	}
	return after, nil
}

// as returns v as s decodes it.
func as(s schemas.Schema, v any, limits schemas.Limits) (any, error) {
	b, err := s.AppendEncode(nil, Fitted(s.Model(), v))
	if err != nil {
		return nil, &Reason{RefusedByRule, fmt.Errorf("what the rules made of the value does not fit the schema: %w", err)}
	}
	if v, err = schemas.Decode(s, b, limits); err != nil {
		return nil, &Reason{RefusedByRule, fmt.Errorf("read what the rules made of the value: %w", err)}
	}
	return v, nil
}

// Fitted returns v without the fields that n does not have.
func Fitted(n *schemas.Node, v any) any {
	n, _ = n.Nullable()
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, item := range v {
			switch f := n.Field(name); {
			case n.Kind == schemas.Map:
				out[name] = Fitted(n.Items, item)
			case f != nil:
				out[name] = Fitted(f.Node, item)
			case n.Kind != schemas.Record || n.Open:
				out[name] = item
			}
		}
		return out
	case []any:
		if n.Kind != schemas.Array {
			return v
		}
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = Fitted(n.Items, item)
		}
		return out
	}
	return v
}

// ruled is the error of a rule, which says something about the record unless the
// time was up.
func ruled(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &Reason{RefusedByRule, err}
}
