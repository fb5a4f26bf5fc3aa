// Package rules runs the data contract rules that a registry keeps beside a
// schema: conditions that a record has to meet and transforms of it, when it is
// written, when it is read, and when it is taken from one version to another.
//
// Rule sets mean here what they mean to Confluent's clients; TestConfluent compares
// with the verdicts of one of them. A rule runs if it is enabled, its mode is the one at hand
// and the set's enableAt is absent, ALL or CLIENT. Rules run in their order, on
// reading and downgrading in reverse. The types are
//
//   - CEL: an expression over the record, in the variable message; a condition
//     has to give true, a transform gives the new record.
//   - CEL_FIELD: an expression for each field without parts, or with one of the
//     rule's tags if it has some, over value, message (the record around it),
//     name, fullName, typeName and tags. Of several transforms of one mode with
//     the same tags the first alone runs.
//   - JSONATA: an expression over the record, for migrations. The language is
//     that of JSONata 1.5; bytes, times and decimals can only be passed on. One
//     evaluation runs at a time.
//
// CEL also knows the time, as now. What stands before the first semicolon of a
// CEL expression is its guard: where that is not true the rule does not apply.
// onSuccess and onFailure name an action: NONE, ERROR, DLQ, or two of them with a
// comma, for writing and for reading. Success is NONE by default and failure
// ERROR. Whoever gets an *Error carries its action out: the record must not go
// on, and DLQ asks for it in a dead letter topic.
//
// What differs from Confluent's clients, which differ among themselves:
//
//   - A condition on fields is judged for the fields that it is about. Theirs
//     also fails on an untagged boolean that is false, and never on the items of
//     an array.
//   - A rule without a mode is WRITEREAD and one without a kind TRANSFORM, as
//     the registry says; their Python client passes over such rules.
//   - Transforms never change the value that came in, but return another.
//   - CEL sees an Avro date as the days since 1970, a time of day as a duration,
//     a timestamp as a timestamp and a decimal as the nearest double; a Protobuf
//     enum as its number, and a wrapper message as the value within. Their newest
//     clients have functions for decimals and variants, which are not here, nor
//     are the inline rules of confluent:rules.
//   - Fields are those of the schema's model: in JSON Schema those of properties,
//     and of what allOf combines; of anyOf and oneOf those of the first branch
//     that fits.
//   - Expressions are bounded in length, in cost and in what they build, and a
//     field cannot become a record or an array.
package rules

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"penstock/schemas"
)

const (
	maxRules = 1000
	// maxExpr bounds an expression, in bytes.
	maxExpr = 16 << 10
)

// Definition is what the registry keeps beside a schema, as its API writes it: a
// version of a subject can be decoded into it.
type Definition struct {
	Metadata *Metadata `json:"metadata,omitempty"`
	RuleSet  *RuleSet  `json:"ruleSet,omitempty"`
}

// Metadata is what a schema says about itself.
type Metadata struct {
	// Tags are the tags of fields by their full names, in which ? is a
	// character, * any within a name, and ** any across names.
	Tags map[string][]string `json:"tags,omitempty"`
}

// RuleSet holds the rules of a schema.
type RuleSet struct {
	MigrationRules []Rule `json:"migrationRules,omitempty"`
	DomainRules    []Rule `json:"domainRules,omitempty"`
	EncodingRules  []Rule `json:"encodingRules,omitempty"`
	EnableAt       string `json:"enableAt,omitempty"`
}

// Rule is one rule.
type Rule struct {
	Name      string            `json:"name"`
	Doc       string            `json:"doc,omitempty"`
	Kind      string            `json:"kind,omitempty"` // CONDITION or TRANSFORM
	Mode      string            `json:"mode,omitempty"`
	Type      string            `json:"type,omitempty"`
	Tags      []string          `json:"tags,omitempty"`
	Params    map[string]string `json:"params,omitempty"`
	Expr      string            `json:"expr,omitempty"`
	OnSuccess string            `json:"onSuccess,omitempty"`
	OnFailure string            `json:"onFailure,omitempty"`
	Disabled  bool              `json:"disabled,omitempty"`
}

// The actions that this package knows by name. Only Error and DLQ, and names it
// does not know, reach a caller.
const (
	ActionNone  = "NONE"
	ActionError = "ERROR"
	ActionDLQ   = "DLQ"
)

// Error says which rule a record did not pass, and why.
type Error struct {
	Rule Rule
	// Mode is what was done: WRITE, READ, UPGRADE or DOWNGRADE.
	Mode string
	// Action is what the rule asks for: ERROR, DLQ, or a name that the caller
	// may know.
	Action string
	// Violations are the places that did not pass. What was found there is
	// only shown if the place has no tags.
	Violations []schemas.Violation
	// Err is why the rule could not be run, if it could not.
	Err error
}

// Error is one sentence for each violation.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "rule %q (%s)", e.Rule.Name, e.Mode)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	for i, v := range e.Violations {
		b.WriteString([]string{": ", "; "}[min(i, 1)])
		b.WriteString(v.String())
	}
	return b.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Param is the value of one of the rule's parameters, such as dlq.topic, or "".
func (e *Error) Param(name string) string { return e.Rule.Params[name] }

// Set is the rules of one schema, ready to run. It is immutable and safe for
// concurrent use; a nil Set has no rules.
type Set struct {
	schema   schemas.Schema
	fields   *fields
	domain   []*rule
	encoding []*rule
	migrate  []*rule
}

// Compile prepares the rules that d has for s, or returns nil if there are none
// to run. A rule that cannot be understood is no error here: it fails when it is
// run, and its action says what follows. The error is for sets that are too
// large.
func Compile(s schemas.Schema, d Definition) (*Set, error) {
	if d.RuleSet == nil || !slices.Contains([]string{"", "ALL", "CLIENT"}, d.RuleSet.EnableAt) {
		return nil, nil
	}
	set := &Set{schema: s, fields: newFields(s, d.Metadata)}
	n := 0
	for _, phase := range []struct {
		rules []Rule
		to    *[]*rule
	}{
		{d.RuleSet.DomainRules, &set.domain},
		{d.RuleSet.EncodingRules, &set.encoding},
		{d.RuleSet.MigrationRules, &set.migrate},
	} {
		if n += len(phase.rules); n > maxRules {
			return nil, fmt.Errorf("compile rules: expected at most %d, found more; remove some from the schema", maxRules)
		}
		for i, r := range phase.rules {
			if !r.Disabled {
				*phase.to = append(*phase.to, compile(r, phase.rules[:i]))
			}
		}
	}
	if len(set.domain)+len(set.encoding)+len(set.migrate) == 0 {
		return nil, nil
	}
	return set, nil
}

// Of is Compile with what a registry keeps with a schema.
func Of(r schemas.Registered) (*Set, error) {
	if r.Contract == nil {
		return nil, nil
	}
	var d Definition
	if err := json.Unmarshal(r.Contract, &d); err != nil {
		return nil, fmt.Errorf("read the rules of schema %d: %w", r.ID, err)
	}
	set, err := Compile(r.Schema, d)
	if err != nil {
		return nil, fmt.Errorf("schema %d: %w", r.ID, err)
	}
	return set, nil
}

// rule is a Rule with its program.
type rule struct {
	Rule
	// modes are those in which it runs.
	modes []string
	// shadowed is a transform of fields behind another for the same tags.
	shadowed bool
	// unknown is a type that cannot be run here.
	unknown bool
	program program
	err     error // why there is no program
}

// program is a compiled expression. run returns what becomes of v, and the
// places that did not pass.
type program interface {
	run(ctx context.Context, s *Set, r *rule, v any) (any, []schemas.Violation, error)
}

// compile prepares r, which stands behind others.
func compile(r Rule, before []Rule) *rule {
	if r.Kind == "" {
		r.Kind = "TRANSFORM"
	}
	out := &rule{Rule: r}
	switch r.Mode {
	case "", "WRITEREAD":
		out.modes = []string{"WRITE", "READ"}
	case "UPDOWN":
		out.modes = []string{"UPGRADE", "DOWNGRADE"}
	default:
		out.modes = []string{r.Mode}
	}
	if len(r.Expr) > maxExpr {
		out.err = fmt.Errorf("expected an expression of at most %d bytes, found %d", maxExpr, len(r.Expr))
		return out
	}
	switch kind := strings.ToUpper(r.Type); kind {
	case "CEL":
		out.program, out.err = compileCEL(r.Expr)
	case "CEL_FIELD":
		out.shadowed = len(r.Tags) > 0 && r.Kind == "TRANSFORM" && slices.ContainsFunc(before, func(o Rule) bool {
			return (o.Kind == "" || o.Kind == r.Kind) && o.Mode == r.Mode && o.Type == r.Type && slices.Equal(o.Tags, r.Tags)
		})
		var p celProgram
		p, out.err = compileCEL(r.Expr)
		out.program = fieldProgram{p}
	case "JSONATA":
		out.program, out.err = compileJSONata(r.Expr)
	case "":
		out.unknown = true
		out.err = errors.New("expected a type, found none; say CEL, CEL_FIELD or JSONATA")
	default:
		out.unknown = true
		out.err = fmt.Errorf("expected the type CEL, CEL_FIELD or JSONATA, found %q, which cannot be run here; disable the rule", r.Type)
	}
	return out
}

// Write runs the rules for a record about to be encoded, and returns what to
// encode. It takes what the schema encodes; v itself is left as it is.
func (s *Set) Write(ctx context.Context, v any) (any, error) {
	if s == nil {
		return v, nil
	}
	return s.run(ctx, s.domain, "WRITE", v)
}

// Read runs the rules for a record that was decoded.
func (s *Set) Read(ctx context.Context, v any) (any, error) {
	if s == nil {
		return v, nil
	}
	return s.run(ctx, s.domain, "READ", v)
}

// WritePayload runs the rules for an encoded record, the wire header apart.
func (s *Set) WritePayload(ctx context.Context, payload []byte) ([]byte, error) {
	return s.payload(ctx, "WRITE", payload)
}

// ReadPayload runs the rules for a record about to be decoded, the wire header
// apart.
func (s *Set) ReadPayload(ctx context.Context, payload []byte) ([]byte, error) {
	return s.payload(ctx, "READ", payload)
}

func (s *Set) payload(ctx context.Context, mode string, payload []byte) ([]byte, error) {
	if s == nil || len(s.encoding) == 0 {
		return payload, nil
	}
	v, err := s.run(ctx, s.encoding, mode, payload)
	if err != nil {
		return nil, err
	}
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("run encoding rules: expected bytes, found %s; mend the rules of the schema", schemas.Describe(v))
	}
	return b, nil
}

// Upgrade takes a record of the version before to the one that the rules belong
// to.
func (s *Set) Upgrade(ctx context.Context, v any) (any, error) {
	if s == nil {
		return v, nil
	}
	return s.run(ctx, s.migrate, "UPGRADE", v)
}

// Downgrade takes a record of the version that the rules belong to to the one
// before.
func (s *Set) Downgrade(ctx context.Context, v any) (any, error) {
	if s == nil {
		return v, nil
	}
	return s.run(ctx, s.migrate, "DOWNGRADE", v)
}

// Transforms reports whether a rule may change records where mode, WRITE or READ,
// is what is done.
func (s *Set) Transforms(mode string) bool {
	return s != nil && slices.ContainsFunc(s.domain, func(r *rule) bool { return r.Kind == "TRANSFORM" && slices.Contains(r.modes, mode) })
}

// run runs those of rules that are for mode.
func (s *Set) run(ctx context.Context, rules []*rule, mode string, v any) (any, error) {
	if v == nil {
		return nil, nil // a tombstone
	}
	backward := mode == "READ" || mode == "DOWNGRADE"
	prepared := false
	for i := range rules {
		r := rules[i]
		if backward {
			r = rules[len(rules)-1-i]
		}
		if !slices.Contains(r.modes, mode) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !prepared {
			var err error
			if v, err = s.generic(v); err != nil {
				return nil, err
			}
			prepared = true
		}
		if r.err != nil {
			if err := r.fail(mode, nil, fmt.Errorf("run rule: %w", r.err)); err != nil {
				return nil, err
			}
			if r.unknown {
				return v, nil // as Confluent's clients, who end at a type they cannot run
			}
			continue
		}
		next, violations, err := v, []schemas.Violation(nil), error(nil)
		if !r.shadowed {
			next, violations, err = r.program.run(ctx, s, r, v)
		}
		switch {
		case err != nil:
			err = fmt.Errorf("run rule: %w", err)
		case r.Kind == "TRANSFORM" && next == nil:
			// Confluent's clients go on with null, which no serializer takes.
			err = errors.New("run rule: expected a record, found null; mend the expression")
			if action := r.action(r.OnFailure, mode, ActionError); action == ActionNone {
				return nil, &Error{Rule: r.Rule, Mode: mode, Action: ActionError, Err: err}
			}
		}
		if err != nil || len(violations) > 0 {
			if err := r.fail(mode, violations, err); err != nil {
				return nil, err
			}
			continue
		}
		if r.Kind == "TRANSFORM" {
			v = next
		}
		if action := r.action(r.OnSuccess, mode, ActionNone); action != ActionNone {
			return nil, &Error{Rule: r.Rule, Mode: mode, Action: action, Err: errors.New("the record is one that the rule takes out")}
		}
	}
	return v, nil
}

// fail returns the error of r, or nil if it is to be passed over.
func (r *rule) fail(mode string, violations []schemas.Violation, cause error) error {
	action := r.action(r.OnFailure, mode, ActionError)
	if action == ActionNone {
		return nil
	}
	return &Error{Rule: r.Rule, Mode: mode, Action: action, Violations: violations, Err: cause}
}

// action picks the one of the actions that is for mode.
func (r *rule) action(actions, mode, fallback string) string {
	if len(r.modes) == 2 {
		if first, second, ok := strings.Cut(actions, ","); ok {
			second, _, _ = strings.Cut(second, ",")
			if actions = first; mode == r.modes[1] {
				actions = second
			}
			return cmp.Or(actions, ActionError) // an empty name is none that is known
		}
	}
	if actions == "" {
		return fallback
	}
	return actions
}

// expected is what r asks for, in its author's words if there are some.
func (r *rule) expected() string {
	switch {
	case r.Doc != "":
		return r.Doc
	case r.Expr != "":
		return r.Expr
	}
	return "what the rule asks for"
}

// unmet says that a record as a whole does not meet r.
func (r *rule) unmet() schemas.Violation {
	return schemas.Violation{Expected: r.expected(), Found: "a record that does not meet it", Hint: "correct the record, or the rule in the registry"}
}

// generic returns v as one of the values that schemas.Schema lists: a struct
// goes through the encoding.
func (s *Set) generic(v any) (any, error) {
	switch v.(type) {
	case map[string]any, []any, string, []byte, bool:
		return v, nil
	}
	if s.schema.Model().Kind != schemas.Record {
		return v, nil
	}
	b, err := s.schema.AppendEncode(nil, v)
	if err != nil {
		return nil, err
	}
	return s.schema.Decode(b)
}
