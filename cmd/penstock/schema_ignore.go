package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"penstock/registry/compat"
)

// ignoreName is the file of accepted changes where none is named.
const ignoreName = ".penstock-ignore"

// ignored are the changes that a file accepts. Its lines are
//
//	RULE [SCHEMA [PATH]]    # why
//	approved HASH           # what
//
// In the first, * stands for anything within one name or path; the second is
// just one change, and no longer it when something about it is another.
type ignored struct {
	file     string
	rules    [][]string
	approved map[string]bool
}

func readIgnore(file string) (*ignored, error) {
	g := &ignored{file: file, approved: map[string]bool{}}
	if file == "" {
		g.file = ignoreName
	}
	text, err := os.ReadFile(g.file)
	if errors.Is(err, os.ErrNotExist) {
		return g, nil // --approve makes it
	}
	if err != nil {
		return nil, usageError{fmt.Errorf("read --ignore: %w", err)}
	}
	const most = 1 << 20
	if len(text) > most {
		return nil, usagef("read --ignore %s: %d bytes are more than the limit of %d", g.file, len(text), most)
	}
	for i, line := range strings.Split(string(text), "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if words[0] == "approved" && len(words) == 2 {
			g.approved[words[1]] = true
			continue
		}
		for _, pattern := range words {
			if _, err := path.Match(pattern, ""); err != nil || len(words) > 3 || words[0] == "approved" {
				return nil, usagef("%s, line %d: expected RULE [SCHEMA [PATH]] with * for anything, or approved HASH, found %q", g.file, i+1, strings.TrimSpace(line))
			}
		}
		g.rules = append(g.rules, words)
	}
	return g, nil
}

// split tells changes from those that are accepted.
func (g *ignored) split(name, title string, all []compat.Change) (changes, accepted []compat.Change) {
	for _, c := range all {
		if g.approved[hashOf(name, c)] || g.matches(name, title, c) {
			accepted = append(accepted, c)
		} else {
			changes = append(changes, c)
		}
	}
	return changes, accepted
}

func (g *ignored) matches(name, title string, c compat.Change) bool {
	match := func(pattern string, texts ...string) bool {
		for _, text := range texts {
			if ok, err := path.Match(pattern, text); pattern == "*" || err == nil && ok {
				return true
			}
		}
		return false
	}
	for _, words := range g.rules {
		ids := []string{c.Rule}
		for _, f := range c.Findings {
			ids = append(ids, f.Rule)
		}
		if match(words[0], ids...) && (len(words) < 2 || match(words[1], name, title)) && (len(words) < 3 || match(words[2], c.Path)) {
			return true
		}
	}
	return false
}

// hashOf tells a change from every other.
func hashOf(name string, c compat.Change) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %q %q", name, c.Rule, c.Path, c.Was, c.Is, c.Breaks))
	return hex.EncodeToString(sum[:8])
}

// approval is the line that accepts a change.
func approval(name string, c compat.Change) string {
	return fmt.Sprintf("approved %s  # %s: %s", hashOf(name, c), c.Rule, oneLine(errors.New(c.Message)))
}

// add writes approvals behind what the file has.
func (g *ignored) add(lines []string) (err error) {
	if len(lines) == 0 {
		return nil
	}
	f, err := os.OpenFile(g.file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return usageError{fmt.Errorf("write --ignore: %w", err)}
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = fmt.Fprintln(f, strings.Join(lines, "\n"))
	return err
}
