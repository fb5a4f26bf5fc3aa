package main

import (
	"context"
	"fmt"

	"penstock/registry"
	"penstock/registry/client"
	"penstock/registry/compat"
)

// schemaChangelogCmd writes the history of a subject.
type schemaChangelogCmd struct {
	Subject string `arg:"" help:"Subject."`
	Output  string `short:"o" enum:"text,json,markdown" default:"text" help:"Print text, json or markdown."`
	connectFlags
}

// Help shows examples.
func (schemaChangelogCmd) Help() string {
	return `Examples:
  penstock schema changelog flights-value
  penstock schema changelog flights-value -o markdown > CHANGES.md

Newest first. Each version is compared with the one before it, by the rules of
'penstock schema diff'; deleted versions are left out.`
}

// released is a version and what it changed.
type released struct {
	Version int             `json:"version"`
	ID      int             `json:"id"`
	Changes []compat.Change `json:"changes"`
}

// Run prints the versions.
func (c *schemaChangelogCmd) Run(ctx context.Context, t *terminal) error {
	return c.with(func(reg *client.Client) error {
		numbers, err := reg.Versions(ctx, c.Subject, false)
		if err != nil {
			return err
		}
		var all []released
		var last sourced
		for i, number := range numbers {
			next, err := versionOf(ctx, reg, c.Subject, number)
			if err != nil {
				return err
			}
			r := released{Version: next.side.Source.Version, ID: next.side.Source.ID, Changes: []compat.Change{}}
			if i > 0 {
				changes, err := compat.Checker{}.Diff(last.side, next.side, registry.PolicyStrict)
				if err != nil {
					return fmt.Errorf("compare versions %d and %d: %w", numbers[i-1], number, err)
				}
				r.Changes = append(r.Changes, changes...)
			}
			all, last = append(all, r), next
		}
		for i := len(all) - 1; i >= 0; i-- {
			if i < len(all)-1 && c.Output != "json" {
				t.printf("\n")
			}
			if err := c.print(t, all[i], i == 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// print shows a version; the first has nothing before it.
func (c *schemaChangelogCmd) print(t *terminal, r released, first bool) error {
	head, item := "version %d (id %d)\n", "  - "
	switch c.Output {
	case "json":
		return t.object(r)
	case "markdown":
		head, item = "## Version %d (id %d)\n\n", "- "
	}
	t.printf(head, r.Version, r.ID)
	if first {
		t.printf("%sthe first\n", item)
	}
	for _, change := range r.Changes {
		text := change.Message + breaksWords(change)
		if c.Output == "markdown" {
			text = markdownCell.Replace(text)
		}
		t.printf("%s%s\n", item, text)
	}
	if !first && len(r.Changes) == 0 {
		t.printf("%snothing that readers or writers see\n", item)
	}
	return nil
}
