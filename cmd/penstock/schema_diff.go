package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"penstock/registry"
	"penstock/registry/compat"
)

// schemaDiffCmd compares schemas.
type schemaDiffCmd struct {
	Old         string `arg:"" help:"Schema file, folder, SUBJECT@VERSION, git REVISION:PATH, or the URL of a registry."`
	New         string `arg:"" help:"What to compare with it."`
	Level       string `enum:"full,backward,forward" default:"full" placeholder:"LEVEL" help:"Whom a change must not break to be an ERR: with backward, who reads with the new schema; forward, who reads with the old one; full (default), either."`
	Policy      string `enum:"strict,lenient,logical" default:"strict" placeholder:"POLICY" help:"How strict the rules are: strict (default), lenient or logical."`
	Ignore      string `placeholder:"FILE" help:"Changes that are accepted. Default: .penstock-ignore, if it is there."`
	Approve     bool   `help:"Add what is ERR to the file of --ignore."`
	Fix         bool   `help:"Mend in the file NEW what is mechanical, and show what is left."`
	OldRegistry string `placeholder:"URL" help:"Registry of OLD, if it is another than that of --registry."`
	impactFlags
	sqlFlags
	reportFlag
	connectFlags
}

// Help shows examples.
func (schemaDiffCmd) Help() string {
	return `Examples:
  penstock schema diff old.avsc new.avsc
  penstock schema diff flights-value@3 flights.avsc
  penstock schema diff flights-value@1 flights-value@latest -o markdown
  penstock schema diff main:schemas schemas -o github
  penstock schema diff flights-value@latest flights.avsc --fix
  penstock schema diff http://staging:8081 http://production:8081
  penstock schema diff flights-value@latest flights.avsc --impact
  penstock schema diff flights-value@latest flights.avsc --sql postgres --table flights

Folders, trees of git and registries are compared name by name. What the schemas
refer to is compared with them. Exit code 1 is that there is an ERR: a change
that stops a reader. A line of the file of --ignore is a rule, a name of a schema
and a path, in each of which * stands for anything, or what --approve writes.

--impact knows what the consumers of Penstock announce (topic penstock.readers: who
reads which versions and fields, within the last week), groups of others by name,
pipelines whose positions lie in --database, what --readers names, and subjects that
refer to this one; not consumers that never said anything and keep no position.`
}

// comparison is two versions of one schema, and what changed.
type comparison struct {
	Name       string          `json:"name,omitempty"` // among several
	Old        string          `json:"old"`
	New        string          `json:"new"`
	Compatible bool            `json:"compatible"`
	Changes    []compat.Change `json:"changes"`
	Accepted   []compat.Change `json:"accepted,omitempty"` // those that the ignore file has
	Impact     []concern       `json:"impact,omitempty"`

	before, after compat.Side
}

// Run prints the changes.
func (c *schemaDiffCmd) Run(ctx context.Context, t *terminal) error {
	accepted, err := readIgnore(c.Ignore)
	if err != nil {
		return err
	}
	sources := schemaSources{connectFlags: c.connectFlags}
	defer sources.close()
	after, err := sources.load(ctx, c.New)
	if err != nil {
		return advised(err)
	}
	if c.OldRegistry != "" {
		sources.close()
		sources.Registry = c.OldRegistry
	}
	before, err := sources.load(ctx, c.Old)
	if err != nil {
		return advised(err)
	}
	if c.SQL != "" {
		return c.migrate(t, before, after)
	}
	all, err := c.compare(before, after)
	if err == nil && c.Fix {
		all, err = c.mend(ctx, t, &sources, before, all)
	}
	if err != nil {
		return err
	}
	refused := false
	var approvals []string
	for i := range all {
		p := &all[i]
		p.Changes, p.Accepted = accepted.split(p.Name, p.New, p.Changes)
		p.Compatible = true
		for _, change := range p.Changes {
			if change.Severity == registry.SeverityError {
				p.Compatible = false
				approvals = append(approvals, approval(p.Name, change))
			}
		}
		refused = refused || !p.Compatible
	}
	if c.Approve {
		if err := accepted.add(approvals); err != nil {
			return err
		}
		t.notef("added to %s: %d\n", accepted.file, len(approvals))
		return nil
	}
	if c.Impact {
		if err := c.assess(ctx, t, &sources, all); err != nil {
			return advised(err)
		}
	}
	if err := c.print(t, all); err != nil {
		return err
	}
	if refused {
		return errNo
	}
	return nil
}

// compare pairs the schemas of two sides and finds what changed in each pair.
func (c *schemaDiffCmd) compare(before, after []sourced) ([]comparison, error) {
	one := len(before) == 1 && len(after) == 1
	var all []comparison
	for _, b := range before {
		i := slices.IndexFunc(after, func(a sourced) bool { return one || a.name == b.name })
		p := comparison{Old: b.title, before: b.side}
		if !one {
			p.Name = b.name
		}
		if i < 0 {
			p.Changes = []compat.Change{{
				Rule: "SCHEMA_REMOVED", Severity: registry.SeverityWarning,
				Message: fmt.Sprintf("%s is gone: whoever still reads or writes with it cannot look it up", b.name),
			}}
			all = append(all, p)
			continue
		}
		p.New, p.after = after[i].title, after[i].side
		changes, err := compat.Checker{}.Diff(p.before, p.after, c.policy())
		if err != nil {
			return nil, fmt.Errorf("compare %s with %s: %w", p.Old, p.New, err)
		}
		for i := range changes {
			c.weigh(&changes[i])
		}
		p.Changes = changes
		if one || len(changes) > 0 {
			all = append(all, p)
		}
	}
	for _, a := range after {
		if !one && !slices.ContainsFunc(before, func(b sourced) bool { return b.name == a.name }) {
			all = append(all, comparison{Name: a.name, New: a.title, after: a.side, Changes: []compat.Change{{
				Rule: "SCHEMA_ADDED", Severity: registry.SeverityInfo, Message: fmt.Sprintf("%s is new", a.name),
			}}})
		}
	}
	return all, nil
}

// mend writes the mended schema into the file NEW, and compares again.
func (c *schemaDiffCmd) mend(ctx context.Context, t *terminal, sources *schemaSources, before []sourced, all []comparison) ([]comparison, error) {
	info, err := os.Stat(c.New)
	if err != nil || !info.Mode().IsRegular() || len(all) != 1 {
		return nil, usagef("--fix: expected a file that can be mended, found %s", c.New)
	}
	fixed := 0
	for _, change := range all[0].Changes {
		if change.Mechanical {
			fixed++
			t.notef("fixed %s at %s\n", change.Rule, change.Path)
		}
	}
	if fixed == 0 {
		t.notef("nothing here is mechanical\n")
		return all, nil
	}
	text := compat.Mend(all[0].after.Source.Schema, all[0].Changes)
	if err := os.WriteFile(c.New, []byte(text), info.Mode().Perm()); err != nil {
		return nil, usageError{fmt.Errorf("write --fix: %w", err)}
	}
	after, err := sources.load(ctx, c.New)
	if err != nil {
		return nil, err
	}
	return c.compare(before, after)
}

// weigh makes a warning of an error in a direction that nobody asked for.
func (c *schemaDiffCmd) weigh(change *compat.Change) {
	if c.Level != "full" && change.Severity == registry.SeverityError && !slices.Contains(change.Breaks, registry.Direction(strings.ToUpper(c.Level))) {
		change.Severity = registry.SeverityWarning
	}
}

// print shows the comparisons in the format that was asked for.
func (c *schemaDiffCmd) print(t *terminal, all []comparison) error {
	switch c.Output {
	case "json":
		for _, p := range all {
			if p.Changes == nil {
				p.Changes = []compat.Change{}
			}
			if err := t.object(p); err != nil {
				return err
			}
		}
		return nil
	case "junit":
		return junit(t, "penstock schema diff", c.Old, c.New, diffProblems(all))
	case "sarif":
		return t.object(sarif(diffProblems(all)))
	case "github":
		github(t, diffProblems(all))
		return nil
	case "markdown":
		for _, p := range all {
			p.markdown(t)
		}
		return nil
	}
	for _, p := range all {
		p.text(t)
	}
	if len(all) == 0 {
		t.printf("nothing changed\n")
	}
	return nil
}

func diffProblems(all []comparison) []problem {
	var found []problem
	for _, p := range all {
		file := p.New
		if file == "" {
			file = p.Old
		}
		for _, c := range p.Changes {
			title := c.Rule
			if c.Path != "" {
				title += " at " + c.Path
			}
			explained := c.Message + breaksWords(c)
			if c.Fix != "" {
				explained += "; to fix it: " + c.Fix
			}
			found = append(found, problem{p.Old, file, title, c.Rule, c.Severity, c.NewAt, c.Message, explained})
		}
	}
	return found
}

// breaksWords says whom a change breaks, in brackets behind a space.
func breaksWords(c compat.Change) string {
	backward, forward := slices.Contains(c.Breaks, registry.Backward), slices.Contains(c.Breaks, registry.Forward)
	switch {
	case backward && forward:
		return " (breaks BACKWARD and FORWARD: neither schema reads what the other wrote)"
	case backward:
		return " (breaks BACKWARD: readers with the new schema cannot read old events)"
	case forward:
		return " (breaks FORWARD: readers with the old schema cannot read new events)"
	}
	return ""
}

// verdict is what came of a comparison, in words.
func (p *comparison) verdict() string {
	if len(p.Changes) == 0 {
		if len(p.Accepted) > 0 {
			return fmt.Sprintf("nothing but what is accepted (%d)", len(p.Accepted))
		}
		return "nothing changed"
	}
	counts := map[registry.Severity]int{}
	for _, c := range p.Changes {
		counts[c.Severity]++
	}
	words := fmt.Sprintf("%d ERR, %d WARN, %d INFO", counts[registry.SeverityError], counts[registry.SeverityWarning], counts[registry.SeverityInfo])
	if len(p.Accepted) > 0 {
		words += fmt.Sprintf(", %d accepted", len(p.Accepted))
	}
	return words
}

// sides names the two versions.
func (p *comparison) sides() string {
	switch {
	case p.Old == "":
		return p.New
	case p.New == "":
		return p.Old
	}
	return p.Old + " → " + p.New
}

func (p *comparison) markdown(t *terminal) {
	t.printf("**%s**: %s\n", markdownCell.Replace(p.sides()), p.verdict())
	if len(p.Impact) > 0 {
		t.printf("\n")
	}
	for _, r := range p.Impact {
		t.printf("- %s\n", markdownCell.Replace(r.String()))
	}
	if len(p.Changes) == 0 {
		return
	}
	t.printf("\n| severity | rule | where | breaks | what changed | fix |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, c := range p.Changes {
		where := "`" + c.Path + "`"
		if c.Path == "" {
			where = "the schema"
		}
		if c.NewAt != nil {
			where += fmt.Sprintf(", line %d", c.NewAt.Line)
		}
		var breaks []string
		for _, d := range c.Breaks {
			breaks = append(breaks, string(d))
		}
		t.printf("| %s | %s | %s | %s | %s | %s |\n", c.Severity, c.Rule, markdownCell.Replace(where), strings.Join(breaks, ", "), markdownCell.Replace(c.Message), markdownCell.Replace(c.Fix))
	}
	t.printf("\n")
}

// text shows each change with the lines of the two texts, on a terminal in
// colours and side by side.
func (p *comparison) text(t *terminal) {
	paint := func(colour, s string) string {
		if t.width == 0 {
			return s
		}
		return "\x1b[" + colour + "m" + s + "\x1b[0m"
	}
	colours := map[registry.Severity]string{registry.SeverityError: "31;1", registry.SeverityWarning: "33", registry.SeverityInfo: "36"}
	before, after := strings.Split(p.before.Source.Schema, "\n"), strings.Split(p.after.Source.Schema, "\n")
	for _, c := range p.Changes {
		path := ""
		if c.Path != "" {
			path = " at " + c.Path
		}
		t.printf("%s%s%s\n  %s\n", paint(colours[c.Severity], fmt.Sprintf("%s %s", c.Severity, c.Rule)), path, places(c), c.Message+breaksWords(c))
		was, is := lineAt(before, c.OldAt), lineAt(after, c.NewAt)
		switch half := (t.width - 7) / 2; {
		case was == is || c.OldAt == nil || c.NewAt == nil:
		case onlyNew(c):
			t.printf("  %s\n", paint("32", "+ "+is))
		case onlyOld(c):
			t.printf("  %s\n", paint("31", "- "+was))
		case t.width > 0:
			t.printf("  %s │ %s\n", paint("31", column(was, half)), paint("32", column(is, half)))
		default:
			t.printf("  - %s\n  + %s\n", was, is)
		}
		if c.Fix != "" {
			t.printf("  to fix it: %s\n", c.Fix)
		}
	}
	t.printf("%s: %s\n", p.sides(), p.verdict())
	for _, r := range p.Impact {
		t.printf("  %s\n", r.String())
	}
}

// onlyNew and onlyOld report whether what changed is in one of the texts only.
func onlyNew(c compat.Change) bool {
	return slices.Contains([]string{"FIELD_ADDED", "TYPE_ADDED", "BRANCH_ADDED"}, c.Rule)
}

func onlyOld(c compat.Change) bool {
	return slices.Contains([]string{"FIELD_REMOVED", "TYPE_REMOVED", "BRANCH_REMOVED"}, c.Rule)
}

// places is where a change lies in the two texts.
func places(c compat.Change) string {
	var words []string
	if c.OldAt != nil {
		words = append(words, fmt.Sprintf("old %d:%d", c.OldAt.Line, c.OldAt.Column))
	}
	if c.NewAt != nil {
		words = append(words, fmt.Sprintf("new %d:%d", c.NewAt.Line, c.NewAt.Column))
	}
	if words == nil {
		return ""
	}
	return " (" + strings.Join(words, ", ") + ")"
}

// lineAt is a line of a text, from where the change is if the line is long.
func lineAt(lines []string, at *registry.Position) string {
	const most = 160
	if at == nil || at.Line > len(lines) {
		return ""
	}
	line := lines[at.Line-1]
	if utf8.RuneCountInString(line) > most {
		line = string([]rune(line)[at.Column-1:])
		line = column(line, most)
	}
	return strings.TrimSpace(line)
}

// column is a text of just so many characters.
func column(s string, width int) string {
	n := utf8.RuneCountInString(s)
	if n > width {
		return string([]rune(s)[:width-1]) + "…"
	}
	return s + strings.Repeat(" ", width-n)
}
