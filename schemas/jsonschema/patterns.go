package jsonschema

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"sync"
	"time"

	"github.com/dlclark/regexp2"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Limits of patterns.
const (
	maxPattern = 1 << 14 // bytes
	// maxSteps bounds what the patterns of a schema and what it refers to
	// compile into: a step takes some hundred bytes, and a short pattern can
	// have very many.
	maxSteps = 1 << 18
	// matchLimit is how long a pattern that needs backtracking may try one
	// text.
	matchLimit = 50 * time.Millisecond
	// matchTick is how often the backtracking engine looks at the clock.
	matchTick = 5 * time.Millisecond
)

// setTick lets the engine keep to matchLimit; left alone, it looks at the clock
// every 100 ms. The setting is one for the whole process, and made before the
// engine's clock first runs. That stops by itself a second after the last match.
var setTick = sync.OnceFunc(func() { regexp2.SetTimeoutCheckPeriod(matchTick) })

// pattern is a compiled pattern: RE2, whose time is linear in the text, and for
// what that lacks (looking ahead and behind, references back) ECMAScript's with
// a limit in time.
type pattern struct {
	text  string
	match func(string) (bool, error) // an error if it cannot be told in time
}

// newPattern compiles a pattern. left is what remains of maxSteps.
func newPattern(text string, left *int) (*pattern, error) {
	if len(text) > maxPattern {
		return nil, fmt.Errorf("expected a pattern of at most %d bytes, found %d", maxPattern, len(text))
	}
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return newBacktracking(text, left)
	}
	if *left -= steps(tree); *left < 0 {
		return nil, fmt.Errorf("expected patterns of at most %d steps in all, a repetition counting as often as it repeats, found more: use * or +, or fewer patterns", maxSteps)
	}
	// Compiled where it is used: most are not, in a registry.
	compile := sync.OnceValues(func() (*regexp.Regexp, error) { return regexp.Compile(text) })
	return &pattern{text, func(s string) (bool, error) {
		re, err := compile()
		return err == nil && re.MatchString(s), err
	}}, nil
}

func newBacktracking(text string, left *int) (*pattern, error) {
	if *left -= len(text); *left < 0 {
		return nil, fmt.Errorf("expected patterns of at most %d steps in all, found more: use fewer", maxSteps)
	}
	setTick()
	re, err := regexp2.Compile(text, regexp2.ECMAScript)
	if err != nil {
		return nil, err
	}
	re.MatchTimeout = matchLimit - 2*matchTick // it is exact to two ticks
	return &pattern{text, re.MatchString}, nil
}

// steps is about how many instructions an expression compiles into.
func steps(re *syntax.Regexp) int {
	n := 1
	if re.Op == syntax.OpLiteral {
		n = len(re.Rune)
	}
	for _, sub := range re.Sub {
		n += steps(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return n
}

// String implements jsonschema.Regexp.
func (p *pattern) String() string { return p.text }

// MatchString implements jsonschema.Regexp. It panics with cannotMatch.
func (p *pattern) MatchString(s string) bool {
	ok, err := p.match(s)
	if err != nil {
		panic(cannotMatch{p.text, s})
	}
	return ok
}

// cannotMatch is the panic that ends a validation in which a pattern took too
// long to be matched: whichever way the answer went, a schema could be made that
// lets the value pass.
type cannotMatch struct{ pattern, text string }

// patterns are those of one schema and what it refers to. As long as it is
// compiled, each is compiled once, and all are within maxSteps; then texts come
// that are values, of the format "regex".
type patterns struct {
	left  int
	known map[string]*pattern // nil after compiling
}

// compile is the library's regexp engine.
func (p *patterns) compile(text string) (jsonschema.Regexp, error) {
	if p.known == nil {
		left := maxSteps
		return newPattern(text, &left)
	}
	if known := p.known[text]; known != nil {
		return known, nil
	}
	compiled, err := newPattern(text, &p.left)
	if err == nil {
		p.known[text] = compiled
	}
	return compiled, err
}

// Pattern compiles one of the schema's patterns. match reports whether it is
// found in a text; its error says that this cannot be told in time.
func (s *Schema) Pattern(text string) (match func(string) (bool, error), err error) {
	left := maxSteps
	p, err := newPattern(text, &left)
	if err != nil {
		return nil, err
	}
	return p.match, nil
}
