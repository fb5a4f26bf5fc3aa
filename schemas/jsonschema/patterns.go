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

const (
	maxPattern = 1 << 14 // bytes
	// matchLimit is how long a pattern that needs backtracking may try one
	// text. The engine looks at the clock every 100 ms, so it may take three
	// times as long.
	matchLimit = 50 * time.Millisecond
)

// compilePattern is the library's regexp engine: RE2, whose time is linear in the
// text, and for what that lacks (looking ahead and behind, references back)
// ECMAScript's with a limit in time.
func compilePattern(text string) (jsonschema.Regexp, error) {
	if len(text) > maxPattern {
		return nil, fmt.Errorf("expected a pattern of at most %d bytes, found %d", maxPattern, len(text))
	}
	if _, err := syntax.Parse(text, syntax.Perl); err == nil {
		// Compiled where it is used: a short pattern can make a large program,
		// and a schema can have thousands.
		return &linear{text, sync.OnceValues(func() (*regexp.Regexp, error) { return regexp.Compile(text) })}, nil
	}
	re, err := regexp2.Compile(text, regexp2.ECMAScript)
	if err != nil {
		return nil, err
	}
	re.MatchTimeout = matchLimit
	return &backtracking{re}, nil
}

type linear struct {
	text    string
	compile func() (*regexp.Regexp, error)
}

func (p *linear) String() string { return p.text }

func (p *linear) MatchString(s string) bool {
	re, err := p.compile()
	if err != nil {
		panic(cannotMatch{p.text, s})
	}
	return re.MatchString(s)
}

type backtracking struct{ re *regexp2.Regexp }

func (p *backtracking) String() string { return p.re.String() }

func (p *backtracking) MatchString(s string) bool {
	ok, err := p.re.MatchString(s)
	if err != nil {
		panic(cannotMatch{p.re.String(), s})
	}
	return ok
}

// cannotMatch is the panic that ends a validation in which a pattern took too
// long to be matched: whichever way the answer went, a schema could be made that
// lets the value pass.
type cannotMatch struct{ pattern, text string }
