package registry

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"penstock/schemas"
)

// Level is a compatibility level.
type Level string

// The levels. Those without TRANSITIVE look at the latest version only.
const (
	LevelNone               Level = "NONE"
	LevelBackward           Level = "BACKWARD"
	LevelBackwardTransitive Level = "BACKWARD_TRANSITIVE"
	LevelForward            Level = "FORWARD"
	LevelForwardTransitive  Level = "FORWARD_TRANSITIVE"
	LevelFull               Level = "FULL"
	LevelFullTransitive     Level = "FULL_TRANSITIVE"
)

// DefaultLevel holds where nothing is configured.
const DefaultLevel = LevelBackward

// levels says for each level in which directions it looks, in the order of the
// findings, and whether at all versions.
var levels = map[Level]struct {
	directions []Direction
	transitive bool
}{
	LevelNone:               {nil, false},
	LevelBackward:           {[]Direction{Backward}, false},
	LevelBackwardTransitive: {[]Direction{Backward}, true},
	LevelForward:            {[]Direction{Forward}, false},
	LevelForwardTransitive:  {[]Direction{Forward}, true},
	LevelFull:               {[]Direction{Forward, Backward}, false},
	LevelFullTransitive:     {[]Direction{Forward, Backward}, true},
}

// ParseLevel reads a level, in any case.
func ParseLevel(s string) (Level, error) {
	l := Level(strings.ToUpper(s))
	if _, ok := levels[l]; !ok {
		return "", errorf(CodeInvalidLevel, "Invalid compatibility level %q. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive", s)
	}
	return l, nil
}

// ErrNoRules is wrapped by the error of a Checker that knows no rules of
// evolution for the language.
var ErrNoRules = errors.New("no compatibility rules for this language")

// Checker knows the rules of evolution.
type Checker interface {
	// Check returns everything that the rules have to say about data of writer
	// in the hands of reader, not only the first; reader can read it if no
	// finding has SeverityError. d says which of the two is the new schema, for
	// the words and the fixes: in direction Backward it is reader. The two are
	// of one language; the error wraps ErrNoRules if there are no rules for
	// it. An empty policy is PolicyStrict. Check may be called concurrently.
	Check(reader, writer schemas.Schema, d Direction, p Policy) ([]Finding, error)
}

// Locator is a Checker that finds the place of a finding in a schema's text.
type Locator interface {
	// Locate returns where in text, a schema of type t, the path of a finding
	// lies, or nil where it is not there. A path that ends in what the text
	// leaves out is at the nearest place above it.
	Locate(t schemas.Type, text, path string) *Position
}

// schemaTypeChanged is the rule that no language has: to be of one language.
const schemaTypeChanged = "SCHEMA_TYPE_CHANGED"

// Registered is a version to compare a new schema with.
type Registered struct {
	Version int
	Schema  schemas.Schema
}

// CheckLevel compares candidate with the versions that level looks at, newest
// first, and returns the findings of each, every version included. versions
// are in ascending order. A language without rules is incompatible with what
// is not the same text, and then the error wraps ErrNoRules.
func CheckLevel(c Checker, level Level, policy Policy, candidate schemas.Schema, versions []Registered) ([]Finding, error) {
	rule := levels[level]
	if len(rule.directions) == 0 || len(versions) == 0 {
		return nil, nil
	}
	if !rule.transitive {
		versions = versions[len(versions)-1:]
	}
	var all []Finding
	for _, old := range slices.Backward(versions) {
		if old.Schema.Type() != candidate.Type() {
			all = append(all, Finding{
				Rule: schemaTypeChanged, Severity: SeverityError, Direction: rule.directions[0],
				ReaderPath: "/", WriterPath: "/", Version: old.Version,
				Message: fmt.Sprintf("the new schema is %s, but version %d is %s: a subject keeps one schema language", candidate.Type(), old.Version, old.Schema.Type()),
				Fix:     "register the schema under another subject",
			})
			continue
		}
		for _, d := range rule.directions {
			reader, writer := candidate, old.Schema
			if d == Forward {
				reader, writer = writer, reader
			}
			found, err := c.Check(reader, writer, d, policy)
			if errors.Is(err, ErrNoRules) && reader.Canonical() == writer.Canonical() {
				continue
			}
			if err != nil {
				return nil, err
			}
			for _, f := range found {
				f.Direction, f.Version = d, old.Version
				all = append(all, f)
			}
		}
	}
	return all, nil
}

// Compatible reports whether no finding stands against compatibility.
func Compatible(findings []Finding) bool {
	return !slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == SeverityError })
}
