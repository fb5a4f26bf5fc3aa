package samples

import (
	"fmt"
	"math/rand/v2"
	"regexp/syntax"
	"strings"
)

// pattern makes text that a regular expression is meant to match. Assertions
// about what stands around a place are passed over, so the caller looks whether
// it does.
type pattern struct{ re *syntax.Regexp }

func newPattern(text string) (pattern, error) {
	re, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return pattern{}, fmt.Errorf("read pattern: %w", err)
	}
	return pattern{re}, nil
}

// text is one of about want characters or more, if that can be, and of
// maxText at most. A higher try repeats more.
func (p pattern) text(r *rand.Rand, want, try int) string {
	w := writer{Rand: r, more: try/4 + 1}
	if want > 0 {
		w.more = max(w.more, want/(1+try%3)) // among several repetitions, or in one
	}
	w.write(p.re)
	return w.out.String()
}

type writer struct {
	*rand.Rand
	out   strings.Builder
	more  int // how often something is repeated beyond what it must be
	steps int
}

// maxSteps bounds the nodes visited, since repetitions of nothing write nothing.
const maxSteps = 4 * maxText

func (w *writer) write(re *syntax.Regexp) {
	if w.steps++; w.steps > maxSteps || w.out.Len() > maxText {
		return
	}
	switch re.Op {
	case syntax.OpLiteral:
		for _, c := range re.Rune {
			w.out.WriteRune(c)
		}
	case syntax.OpCharClass:
		w.out.WriteRune(w.oneOf(re.Rune))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		w.out.WriteRune(rune('a' + w.IntN(26)))
	case syntax.OpCapture, syntax.OpConcat:
		for _, sub := range re.Sub {
			w.write(sub)
		}
	case syntax.OpAlternate:
		w.write(re.Sub[w.IntN(len(re.Sub))])
	case syntax.OpStar:
		w.repeat(re.Sub[0], 0, -1)
	case syntax.OpPlus:
		w.repeat(re.Sub[0], 1, -1)
	case syntax.OpQuest:
		w.repeat(re.Sub[0], 0, 1)
	case syntax.OpRepeat:
		w.repeat(re.Sub[0], re.Min, re.Max)
	}
}

func (w *writer) repeat(re *syntax.Regexp, low, high int) {
	if high < 0 || high > low+w.more {
		high = low + w.more
	}
	for range low + w.IntN(high-low+1) {
		w.write(re)
	}
}

// oneOf is a character of a class, which is pairs of the first and last of a
// range: one that can be printed everywhere, if there is one.
func (w *writer) oneOf(class []rune) rune {
	if len(class) == 0 {
		return 'x' // of nothing; the text will not match
	}
	var printable []rune
	for i := 0; i < len(class); i += 2 {
		if low, high := max(class[i], '!'), min(class[i+1], '~'); low <= high {
			printable = append(printable, low, high)
		}
	}
	if len(printable) > 0 {
		class = printable
	}
	i := 2 * w.IntN(len(class)/2)
	low, high := class[i], class[i+1]
	c := low + rune(w.IntN(int(high-low)+1))
	if c >= 0xD800 && c <= 0xDFFF {
		return low
	}
	return c
}
