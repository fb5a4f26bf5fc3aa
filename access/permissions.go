package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits on a permissions file.
const (
	maxRules   = 10_000
	maxEntries = 1_000 // of one list of a rule
)

// permissions is what a permissions file says: what no rule allows is denied,
// and what a rule denies no other allows.
type permissions struct {
	rules  []rule
	groups map[string][]string // by principal
}

// A rule allows or denies operations on subjects to principals.
type rule struct {
	deny       bool
	operations []string // "*" is every one
	to         []who
	on         []pattern
}

// who is one entry of a rule's "to".
type who struct {
	kind whoKind
	name string
}

type whoKind int

const (
	named     whoKind = iota // the principal of that name
	group                    // group:NAME
	everyone                 // "*": whoever has shown who they are
	anonymous                // anonymous: whoever has not
)

// parsePermissions reads
//
//	groups:
//	  platform: [alice, bob]
//	rules:
//	  - {allow: [read, write], to: [group:platform], on: ["orders-*", ":.team:*"]}
//	  - {deny: [delete], to: ["*"], on: ["*"]}
//
// operations are those that a rule may name.
func parsePermissions(contents [][]byte, operations []string) (*permissions, error) {
	var file struct {
		Groups map[string][]string `yaml:"groups"`
		Rules  []struct {
			Allow []string `yaml:"allow"`
			Deny  []string `yaml:"deny"`
			To    []string `yaml:"to"`
			On    []string `yaml:"on"`
		} `yaml:"rules"`
	}
	if line, err := loadYAML(contents[0], &file); err != nil {
		return nil, fmt.Errorf("line %d: %w", line, err)
	}
	if n := len(file.Rules); n == 0 || n > maxRules {
		return nil, fmt.Errorf("expected from 1 to %d entries below \"rules\", found %d", maxRules, n)
	}
	p := &permissions{groups: map[string][]string{}}
	for name, members := range file.Groups {
		if err := checkName(name); err != nil {
			return nil, fmt.Errorf("groups: %w", err)
		}
		for _, m := range members {
			p.groups[m] = append(p.groups[m], name)
		}
	}
	for i, r := range file.Rules {
		made := rule{deny: len(r.Deny) > 0, operations: slices.Concat(r.Allow, r.Deny)}
		err := checkLists(r.Allow, r.Deny, r.To, r.On)
		for _, op := range made.operations {
			if op != "*" && !slices.Contains(operations, op) && err == nil {
				err = fmt.Errorf("expected operations of %s or \"*\", found %.80q", strings.Join(operations, ", "), op)
			}
		}
		for _, text := range r.To {
			w, badName := parseWho(text)
			if badName != nil && err == nil {
				err = fmt.Errorf("to: %w", badName)
			}
			made.to = append(made.to, w)
		}
		for _, text := range r.On {
			if (len(text) > maxName || !printable(text)) && err == nil {
				err = fmt.Errorf("on: expected a pattern of at most %d bytes without control characters, found %.80q", maxName, text)
			}
			made.on = append(made.on, parsePattern(text))
		}
		if err != nil {
			return nil, fmt.Errorf("rules[%d]: %w", i, err)
		}
		p.rules = append(p.rules, made)
	}
	return p, nil
}

func checkLists(allow, deny, to, on []string) error {
	if (len(allow) > 0) == (len(deny) > 0) {
		return errors.New("expected either \"allow\" or \"deny\" with a list of operations")
	}
	for name, list := range map[string][]string{"to": to, "on": on} {
		if len(list) == 0 || len(list) > maxEntries {
			return fmt.Errorf("%s: expected from 1 to %d entries, found %d", name, maxEntries, len(list))
		}
	}
	return nil
}

func parseWho(text string) (who, error) {
	switch name, isGroup := strings.CutPrefix(text, "group:"); {
	case text == "*":
		return who{kind: everyone}, nil
	case text == "anonymous":
		return who{kind: anonymous}, nil
	case isGroup:
		return who{group, name}, checkName(name)
	}
	return who{named, text}, checkName(text)
}

// forAnonymous reports whether some rule allows anything to somebody who has
// not shown who they are.
func (p *permissions) forAnonymous() bool {
	return slices.ContainsFunc(p.rules, func(r rule) bool {
		return !r.deny && slices.Contains(r.to, who{kind: anonymous})
	})
}

// of are the rules that hold for a principal, nil being anonymous.
func (p *permissions) of(principal *Principal) []rule {
	var groups []string
	if principal != nil {
		groups = slices.Concat(principal.Groups, p.groups[principal.Name])
	}
	var rules []rule
	for _, r := range p.rules {
		if slices.ContainsFunc(r.to, func(w who) bool {
			switch w.kind {
			case everyone:
				return principal != nil
			case anonymous:
				return principal == nil
			case group:
				return slices.Contains(groups, w.name)
			default:
				return principal != nil && w.name == principal.Name
			}
		}) {
			rules = append(rules, r)
		}
	}
	return rules
}

// allowed reports whether the rules of a principal allow an operation on a
// subject: ":.context:name", ":.context:" for a context, a name alone for one
// of the default context, "" for what belongs to no subject.
func allowed(rules []rule, operation, subject string) bool {
	allowed := false
	for _, r := range rules {
		if (r.deny || !allowed) && r.covers(operation, subject) {
			if r.deny {
				return false
			}
			allowed = true
		}
	}
	return allowed
}

func (r *rule) covers(operation, subject string) bool {
	return slices.ContainsFunc(r.operations, func(o string) bool { return o == "*" || o == operation }) &&
		slices.ContainsFunc(r.on, func(p pattern) bool { return p.matches(subject) })
}

// A pattern stands for subjects. "*" is any run of characters; it does not
// reach from a context into a name: "orders-*" is of the default context,
// ":.team:*" of the context .team and the context itself, ":.*:*" of every
// context. "*" alone is everything, and alone covers what belongs to no
// subject.
type pattern struct {
	all           bool
	context, name string
}

func parsePattern(text string) pattern {
	if text == "*" {
		return pattern{all: true}
	}
	context, name := splitSubject(text)
	return pattern{context: context, name: name}
}

func (p pattern) matches(subject string) bool {
	if p.all {
		return true
	}
	if subject == "" {
		return false
	}
	context, name := splitSubject(subject)
	return glob(p.context, context) && glob(p.name, name)
}

// splitSubject takes ":.context:name" apart; a name alone is of the context ".".
func splitSubject(s string) (context, name string) {
	rest, ok := strings.CutPrefix(s, ":.")
	if !ok {
		return ".", s
	}
	context, name, _ = strings.Cut(rest, ":")
	return "." + context, name
}

// glob reports whether all of s is of the form of pattern, in which "*" is any
// run of characters. It goes back to the last "*" only, so that it takes no
// longer than the product of the two lengths.
func glob(pattern, s string) bool {
	star, from := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
