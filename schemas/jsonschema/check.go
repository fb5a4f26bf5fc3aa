package jsonschema

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"penstock/schemas"
)

// check validates v, which a converter or ParseJSON made; given is the value
// as the caller has it, which is what violations describe, and faults is what
// was found wrong with it before.
func (s *Schema) check(v, given any, faults []schemas.Violation) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case tooMany:
			err = &schemas.ValueError{Violations: []schemas.Violation{{
				Expected: "a value that can be checked in good time", Found: schemas.Describe(given),
				Hint: "the schema has alternatives that contain themselves: nest the value less deep",
			}}}
		case cannotMatch:
			err = &schemas.ValueError{Violations: []schemas.Violation{{
				Expected: fmt.Sprintf("text for which the pattern %.100q can be decided in %v", p.pattern, matchLimit), Found: schemas.Describe(p.text),
				Hint: "simplify the pattern: it tries too many ways to match",
			}}}
		default:
			err = fmt.Errorf("check against JSON Schema: the validator panicked on this value: %v", p)
		}
	}()
	var failed *jsonschema.ValidationError
	if err := s.validate(v); err == nil && len(faults) == 0 {
		return nil
	} else if err != nil && !errors.As(err, &failed) {
		return fmt.Errorf("check against JSON Schema: %w", err)
	}
	return &schemas.ValueError{Violations: s.violations(failed, given, faults)}
}

// violations puts the library's findings into the words that all languages
// share. Where the neutral tree finds fault with the same place, its words are
// taken; only a bound that is not just the width of an integer is said in the
// schema's own terms.
func (s *Schema) violations(failed *jsonschema.ValidationError, v any, found []schemas.Violation) []schemas.Violation {
	own := map[string]bool{}     // places whose words are the schema's own
	faulted := map[string]bool{} // places where there is a fault
	for _, violation := range found {
		faulted[violation.Pointer] = true
	}
	add := func(at []string, name string, k jsonschema.ErrorKind) {
		p := pointer(at)
		violation := schemas.Violation{
			Expected: expected(k), Found: schemas.Describe(lookup(v, at)),
			Hint: "change the value, or the rule in the schema",
		}
		switch k.(type) {
		case *kind.Required, *kind.Dependency, *kind.DependentRequired:
			p += "/" + schemas.EscapePointer(name)
			violation.Expected, violation.Found = "any value", "nothing"
			violation.Hint = fmt.Sprintf("the field %q is required: add it", name)
		case *kind.AdditionalProperties:
			p += "/" + schemas.EscapePointer(name)
			violation.Expected, violation.Found = "a field of the schema", "the unknown field "+strconv.Quote(name)
			violation.Hint = "remove it, or add it to the schema"
		}
		if faulted[p] {
			return
		}
		faulted[p], own[p] = true, isOwnBound(k)
		violation.Pointer = p
		found = append(found, violation)
	}
	for leaf := range leaves(failed) {
		switch k := leaf.ErrorKind.(type) {
		case *kind.Required:
			each(k.Missing, func(name string) { add(leaf.InstanceLocation, name, k) })
		case *kind.Dependency:
			each(k.Missing, func(name string) { add(leaf.InstanceLocation, name, k) })
		case *kind.DependentRequired:
			each(k.Missing, func(name string) { add(leaf.InstanceLocation, name, k) })
		case *kind.AdditionalProperties:
			each(slices.Sorted(slices.Values(k.Properties)), func(name string) { add(leaf.InstanceLocation, name, k) })
		default:
			add(leaf.InstanceLocation, "", k)
		}
		if len(found) >= schemas.MaxViolations {
			break
		}
	}
	var out []schemas.Violation
	said := map[string]bool{}
	for _, violation := range schemas.Check(s.model, v) {
		if faulted[violation.Pointer] && !own[violation.Pointer] {
			out = append(out, violation)
			said[violation.Pointer] = true
		}
	}
	for _, violation := range found {
		if !said[violation.Pointer] {
			out = append(out, violation)
			said[violation.Pointer] = true
		}
	}
	return out
}

func each(names []string, f func(string)) {
	for _, name := range names {
		f(name)
	}
}

// isOwnBound reports whether k is a bound that is not merely the width of an
// integer.
func isOwnBound(k jsonschema.ErrorKind) bool {
	var bound *big.Rat
	switch k := k.(type) {
	case *kind.Minimum:
		bound = k.Want
	case *kind.Maximum:
		bound = k.Want
	case *kind.ExclusiveMinimum:
		bound = k.Want
	case *kind.ExclusiveMaximum:
		bound = k.Want
	default:
		return false
	}
	for _, width := range []int64{math.MinInt32, math.MaxInt32, math.MinInt64, math.MaxInt64} {
		if bound.Cmp(new(big.Rat).SetInt64(width)) == 0 {
			return false
		}
	}
	return true
}

// leaves yields the errors that have no cause below them. Of alternatives that
// all fail it yields those of the one that comes nearest: which does not fail
// by type at once, and then has the fewest faults.
func leaves(e *jsonschema.ValidationError) iter.Seq[*jsonschema.ValidationError] {
	return func(yield func(*jsonschema.ValidationError) bool) {
		if e != nil {
			descend(e, yield)
		}
	}
}

func descend(e *jsonschema.ValidationError, yield func(*jsonschema.ValidationError) bool) bool {
	switch e.ErrorKind.(type) {
	case *kind.AnyOf, *kind.OneOf:
		var best []*jsonschema.ValidationError
		direct := true
		for _, branch := range e.Causes {
			faults := slices.Collect(leaves(branch))
			byType := len(faults) == 1 && len(faults[0].InstanceLocation) == len(e.InstanceLocation) && isType(faults[0])
			if best == nil || direct && !byType || direct == byType && len(faults) < len(best) {
				best, direct = faults, byType
			}
		}
		if direct && len(e.Causes) > 1 {
			return yield(e)
		}
		for _, fault := range best {
			if !yield(fault) {
				return false
			}
		}
		if best == nil {
			return yield(e)
		}
		return true
	case *kind.Contains, *kind.MinContains, *kind.PropertyNames:
		return yield(e)
	}
	if len(e.Causes) == 0 {
		return yield(e)
	}
	for _, cause := range e.Causes {
		if !descend(cause, yield) {
			return false
		}
	}
	return true
}

func isType(e *jsonschema.ValidationError) bool {
	_, ok := e.ErrorKind.(*kind.Type)
	return ok
}

// expected is what a keyword asks for, in plain words.
func expected(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		want := slices.Clone(k.Want)
		if i := slices.Index(want, "null"); i >= 0 {
			want = append(slices.Delete(want, i, i+1), "null")
		}
		return strings.Join(want, " or ")
	case *kind.Enum:
		words := make([]string, 0, 10)
		for _, v := range k.Want[:min(len(k.Want), 10)] {
			words = append(words, strings.TrimPrefix(schemas.Describe(v), "string "))
		}
		return "one of " + strings.Join(words, ", ")
	case *kind.Const:
		return "exactly the " + schemas.Describe(k.Want)
	case *kind.Format:
		return fmt.Sprintf("text of the format %q", k.Want)
	case *kind.Minimum:
		return "at least " + number(k.Want)
	case *kind.Maximum:
		return "at most " + number(k.Want)
	case *kind.ExclusiveMinimum:
		return "more than " + number(k.Want)
	case *kind.ExclusiveMaximum:
		return "less than " + number(k.Want)
	case *kind.MultipleOf:
		return "a multiple of " + number(k.Want)
	case *kind.MinLength:
		return fmt.Sprintf("at least %d characters", k.Want)
	case *kind.MaxLength:
		return fmt.Sprintf("at most %d characters", k.Want)
	case *kind.Pattern:
		return fmt.Sprintf("text that matches %q", k.Want)
	case *kind.MinItems:
		return fmt.Sprintf("at least %d items", k.Want)
	case *kind.MaxItems:
		return fmt.Sprintf("at most %d items", k.Want)
	case *kind.UniqueItems:
		return fmt.Sprintf("items that differ, but items %d and %d are equal", k.Duplicates[0], k.Duplicates[1])
	case *kind.MinProperties:
		return fmt.Sprintf("at least %d fields", k.Want)
	case *kind.MaxProperties:
		return fmt.Sprintf("at most %d fields", k.Want)
	case *kind.PropertyNames:
		return fmt.Sprintf("other names than %q", k.Property)
	case *kind.AdditionalItems:
		return fmt.Sprintf("%d items less", k.Count)
	case *kind.Not:
		return "anything that its \"not\" does not describe"
	case *kind.FalseSchema:
		return "nothing"
	case *kind.AnyOf:
		return "one of the alternatives of its \"anyOf\""
	case *kind.OneOf:
		return "exactly one of the alternatives of its \"oneOf\""
	}
	return fmt.Sprintf("what its %q asks for", strings.Join(k.KeywordPath(), "/"))
}

func number(r *big.Rat) string {
	digits, _ := r.FloatPrec()
	return r.FloatString(min(digits, 20))
}

func pointer(tokens []string) string {
	var b strings.Builder
	for _, t := range tokens {
		b.WriteByte('/')
		b.WriteString(schemas.EscapePointer(t))
	}
	return b.String()
}

// lookup returns the value at a place.
func lookup(v any, at []string) any {
	for _, token := range at {
		switch parent := v.(type) {
		case map[string]any:
			v = parent[token]
		case []any:
			i, err := strconv.Atoi(token)
			if err != nil || i >= len(parent) {
				return nil
			}
			v = parent[i]
		}
	}
	return v
}
