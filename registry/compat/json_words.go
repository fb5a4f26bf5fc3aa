package compat

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"penstock/registry"
	"penstock/schemas"
)

// limitRules returns the rules of jsonLimits, four for each.
func limitRules() []jsonRule {
	var rules []jsonRule
	for _, l := range jsonLimits {
		r, w := strings.ReplaceAll(l.what, "{}", "{r}"), strings.ReplaceAll(l.what, "{}", "{w}")
		keep := fmt.Sprintf("keep %q: {r}, which readers with the old schema ask for", l.keyword)
		tight := jsonRule{
			verdict: 'n', purpose: fmt.Sprintf("The reader's %s is closer than the writer's.", l.keyword),
			says:    "{R} asks for " + r + " at {at}, and {W} for " + w + ": data written with {W} may be refused",
			fix:     fmt.Sprintf("keep %q: {w}, or let it allow more", l.keyword),
			forward: keep,
		}
		wide := jsonRule{
			verdict: 'y', purpose: fmt.Sprintf("The reader's %s is wider than the writer's.", l.keyword),
			says: "{R} asks for " + r + " at {at}, and {W} for " + w + ": all that is written fits",
		}
		increased, decreased := tight, wide
		if l.upper {
			increased, decreased = wide, tight
		}
		increased.name, decreased.name = l.name+"_INCREASED", l.name+"_DECREASED"
		rules = append(rules,
			jsonRule{
				l.name + "_ADDED", 'n', fmt.Sprintf("The reader sets a %s, and the writer does not.", l.keyword),
				"{R} asks for " + r + " at {at}, and {W} sets no such bound: data written with {W} may be refused",
				fmt.Sprintf("leave %q out", l.keyword), keep,
			},
			jsonRule{
				name: l.name + "_REMOVED", verdict: 'y', purpose: fmt.Sprintf("The writer sets a %s, and the reader does not.", l.keyword),
				says: "{R} sets no bound at {at}, and {W} asks for " + w + ": all that is written fits",
			},
			increased, decreased)
	}
	return rules
}

// jsonTeller turns the outcome of a walk into findings.
type jsonTeller struct {
	direction      registry.Direction
	lenient        bool
	reader, writer string            // what the words call the two
	purposes       *strings.Replacer // puts them into the purpose of a rule
	findings       []registry.Finding
	told           map[registry.Severity]int
	steps          int
	cut            bool
}

func newJSONTeller(d registry.Direction, lenient bool) *jsonTeller {
	t := &jsonTeller{
		direction: d, lenient: lenient, reader: "the new schema", writer: "the old schema",
		told: map[registry.Severity]int{}, steps: jsonWork,
	}
	if d == registry.Forward {
		t.reader, t.writer = t.writer, t.reader
	}
	t.purposes = strings.NewReplacer("The reader", t.reader, "the reader", t.reader, "The writer", t.writer, "the writer", t.writer)
	return t
}

// expand tells the outcome of the root. A pair is told at each place where it
// was met, but not within itself.
func (t *jsonTeller) expand(o *jsonOutcome) {
	t.outcome(o, "#/", "#/")
	if !t.cut {
		return
	}
	p := jsonPart{rule: jsonMoreFindings}
	f := t.finding(p, "#/", "#/")
	if o.broken && t.told[registry.SeverityError] == 0 {
		f.Severity = registry.SeverityError
	}
	t.findings = append(t.findings, f)
}

func (t *jsonTeller) outcome(o *jsonOutcome, at, from string) {
	if o.telling {
		return
	}
	o.telling = true
	defer func() { o.telling = false }()
	for _, p := range o.parts {
		if t.steps--; t.steps < 0 {
			t.cut = true
			return
		}
		if p.inner == nil {
			t.tell(p, at, from)
			continue
		}
		if t.told[registry.SeverityInfo] >= jsonFindings && !p.inner.broken {
			t.cut = true
			continue
		}
		t.outcome(p.inner, below(at, p.at), below(from, p.from))
	}
}

func below(path, steps string) string {
	switch {
	case steps == "":
		return path
	case path == "#/":
		return path + steps
	}
	return path + "/" + steps
}

func (t *jsonTeller) tell(p jsonPart, at, from string) {
	severity := jsonRules[p.rule].severity(t.lenient)
	if t.told[severity] >= jsonFindings {
		t.cut = true
		return
	}
	t.told[severity]++
	t.findings = append(t.findings, t.finding(p, at, from))
}

func (t *jsonTeller) finding(p jsonPart, at, from string) registry.Finding {
	rule := &jsonRules[p.rule]
	f := registry.Finding{
		Rule: rule.name, Severity: rule.severity(t.lenient), Direction: t.direction,
		ReaderPath: below(at, p.at), WriterPath: below(from, p.from), Detail: p.detail(),
	}
	words := func(text string) string { return t.fill(text, f.ReaderPath, p) }
	if f.Message = words(rule.says); rule.says == "" {
		purpose := strings.TrimSuffix(rule.purpose, ".")
		purpose = t.purposes.Replace(purpose)
		f.Message = fmt.Sprintf("at %s: %s%s", f.ReaderPath, strings.ToLower(purpose[:1]), purpose[1:])
	}
	if f.Severity == registry.SeverityError {
		f.Fix = words(rule.fix)
		if t.direction == registry.Forward {
			f.Fix = words(rule.forward)
		}
	}
	if reason := t.reason(p.because, below(at, p.name), below(from, p.name)); reason != nil {
		f.Message += "; the nearest does not: " + reason.Message
		f.Fix = reason.Fix
	}
	return f
}

// fill puts what a finding is about into a text of the table: {R} and {W} are
// the two schemas, {at} is the place, {name} the name, {r} and {w} what the two
// say.
func (t *jsonTeller) fill(text, at string, p jsonPart) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "{")
		b.WriteString(before)
		word, rest, closed := strings.Cut(rest, "}")
		if !found || !closed {
			return b.String()
		}
		text = rest
		switch word {
		case "R":
			b.WriteString(t.reader)
		case "W":
			b.WriteString(t.writer)
		case "at":
			b.WriteString(at)
		case "name":
			b.WriteString(strconv.Quote(p.name))
		case "r":
			b.WriteString(p.r)
		case "w":
			b.WriteString(p.w)
		}
	}
}

// reason is the first error of an outcome that explains a finding, or nil.
func (t *jsonTeller) reason(o *jsonOutcome, at, from string) *registry.Finding {
	if o == nil || o.telling {
		return nil
	}
	o.telling = true
	defer func() { o.telling = false }()
	for _, p := range o.parts {
		if t.steps--; t.steps < 0 {
			return nil
		}
		if p.inner != nil && p.inner.broken {
			if f := t.reason(p.inner, below(at, p.at), below(from, p.from)); f != nil {
				return f
			}
		}
		if p.inner == nil && jsonRules[p.rule].severity(t.lenient) == registry.SeverityError {
			f := t.finding(p, at, from)
			return &f
		}
	}
	return nil
}

// detail is the bare fact behind a finding.
func (p *jsonPart) detail() string {
	var facts []string
	if p.name != "" {
		facts = append(facts, p.name)
	}
	if p.r != "" {
		facts = append(facts, "reader: "+p.r)
	}
	if p.w != "" {
		facts = append(facts, "writer: "+p.w)
	}
	return strings.Join(facts, ", ")
}

// show is a value as its text has it, cut where it is long, and "" for none.
func show(v *schemas.JSONNode) string {
	if v == nil {
		return ""
	}
	return string(appendShown(nil, v, 80))
}

// appendShown appends a value and stops soon after most bytes.
func appendShown(dst []byte, v *schemas.JSONNode, most int) []byte {
	switch v.Kind {
	case schemas.JSONNull:
		dst = append(dst, "null"...)
	case schemas.JSONString:
		dst = schemas.AppendJSONString(dst, clip(v.Text, most))
	case schemas.JSONArray:
		dst = append(dst, '[')
		for i, item := range v.Items {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			if len(dst) > most {
				dst = append(dst, "…"...)
				break
			}
			dst = appendShown(dst, item, most)
		}
		dst = append(dst, ']')
	case schemas.JSONObject:
		dst = append(dst, '{')
		for i, m := range v.Members {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			if len(dst) > most {
				dst = append(dst, "…"...)
				break
			}
			dst = append(schemas.AppendJSONString(dst, clip(m.Name, most)), ": "...)
			dst = appendShown(dst, m.Value, most)
		}
		dst = append(dst, '}')
	default:
		dst = append(dst, clip(v.Text, most)...)
	}
	return dst
}

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for i := range s {
		if i >= most {
			return s[:i] + "…"
		}
	}
	return s
}

// showAll is a list of values, the first ten of them.
func showAll(values []*schemas.JSONNode) string {
	const most = 10
	var words []string
	for i, v := range values {
		if i == most {
			words = append(words, "…")
			break
		}
		words = append(words, show(v))
	}
	return strings.Join(words, ", ")
}

// decimal writes a bound, "" for none.
func decimal(r *big.Rat) string {
	if r == nil {
		return ""
	}
	digits, _ := r.FloatPrec()
	return clip(r.FloatString(min(digits, 40)), 80)
}
