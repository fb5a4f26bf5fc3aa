package main

import (
	"context"
	"errors"
	"fmt"

	"penstock/registry"
	"penstock/registry/client"
	"penstock/schemas"
)

// schemaReferencesCmd shows how versions hang together.
type schemaReferencesCmd struct {
	Subject string `arg:"" help:"Subject."`
	Version string `arg:"" optional:"" default:"latest" help:"Version, or latest (default)."`
	registryFlags
}

// Help shows examples.
func (schemaReferencesCmd) Help() string {
	return `Examples:
  penstock schema references orders-value
  penstock schema references common-money 2 -o json

What a version refers to, and what refers to it, each with what that refers to in
turn. A version that comes again is shown without what is below it.`
}

// linked is a version among others.
type linked struct {
	Subject      string     `json:"subject"`
	Version      int        `json:"version"`
	ID           schemas.ID `json:"id"`
	Name         string     `json:"name,omitempty"`     // under which it is referred to
	Repeated     bool       `json:"repeated,omitempty"` // what is below it is elsewhere
	Missing      bool       `json:"missing,omitempty"`
	References   []*linked  `json:"references,omitempty"`
	ReferencedBy []*linked  `json:"referencedBy,omitempty"`
}

// maxLinked bounds how many versions are shown.
const maxLinked = 10_000

// Run prints both trees.
func (c *schemaReferencesCmd) Run(ctx context.Context, t *terminal) error {
	number, err := versionNumber(c.Version)
	if err != nil {
		return err
	}
	return c.with(func(reg *client.Client) error {
		s, err := reg.Version(ctx, c.Subject, number, false)
		if err != nil {
			return err
		}
		root := &linked{Subject: c.Subject, Version: s.Version, ID: schemas.ID(s.ID)}
		down := links{reg: reg, seen: map[registry.SubjectVersion]bool{}}
		if err := down.references(ctx, root, s.References); err != nil {
			return err
		}
		up := links{reg: reg, seen: map[registry.SubjectVersion]bool{}}
		if err := up.referencedBy(ctx, root); err != nil {
			return err
		}
		if c.json() {
			return t.object(root)
		}
		t.printf("%s\n", root)
		branch(t, "refers to", root.References, func(l *linked) []*linked { return l.References })
		branch(t, "is referred to by", root.ReferencedBy, func(l *linked) []*linked { return l.ReferencedBy })
		return nil
	})
}

// String is a version in words.
func (l *linked) String() string {
	text := fmt.Sprintf("%s version %d", l.Subject, l.Version)
	switch {
	case l.Missing:
		text += ", MISSING in the registry"
	case l.ID != 0:
		text += fmt.Sprintf(", id %d", l.ID)
	}
	if l.Name != "" {
		text += fmt.Sprintf(", as %q", l.Name)
	}
	if l.Repeated {
		text += ", shown above"
	}
	return text
}

// branch prints what hangs on a version in one direction.
func branch(t *terminal, title string, first []*linked, next func(*linked) []*linked) {
	if len(first) == 0 {
		t.printf("%s nothing\n", title)
		return
	}
	t.printf("%s\n", title)
	var show func(level []*linked, indent string)
	show = func(level []*linked, indent string) {
		for i, l := range level {
			corner, below := "├── ", "│   "
			if i == len(level)-1 {
				corner, below = "└── ", "    "
			}
			t.printf("%s%s%s\n", indent, corner, l)
			show(next(l), indent+below)
		}
	}
	show(first, "")
}

// links follows references in one direction.
type links struct {
	reg  *client.Client
	seen map[registry.SubjectVersion]bool
}

// visit reports whether l comes for the first time, and marks it if it does not.
func (k *links) visit(l *linked) (first bool, err error) {
	at := registry.SubjectVersion{Subject: l.Subject, Version: l.Version}
	if k.seen[at] {
		l.Repeated = true
		return false, nil
	}
	if len(k.seen) == maxLinked {
		return false, fmt.Errorf("more than %d versions hang together there", maxLinked)
	}
	k.seen[at] = true
	return true, nil
}

// references fills in what l refers to, deleted versions too: they are needed.
func (k *links) references(ctx context.Context, l *linked, refs []registry.Reference) error {
	for _, r := range refs {
		next := &linked{Subject: registry.InContextOf(l.Subject, r.Subject), Version: r.Version, Name: r.Name}
		l.References = append(l.References, next)
		s, err := k.reg.Version(ctx, next.Subject, r.Version, r.Version > 0)
		if errors.Is(err, client.ErrNotFound) {
			next.Missing = true
			continue
		}
		if err != nil {
			return err
		}
		next.Version, next.ID = s.Version, schemas.ID(s.ID)
		first, err := k.visit(next)
		if err != nil {
			return err
		}
		if !first {
			next.Repeated = len(s.References) > 0
			continue
		}
		if err := k.references(ctx, next, s.References); err != nil {
			return err
		}
	}
	return nil
}

// referencedBy fills in what refers to l.
func (k *links) referencedBy(ctx context.Context, l *linked) error {
	ids, err := k.reg.ReferencedBy(ctx, l.Subject, l.Version)
	if err != nil {
		return err
	}
	for _, id := range ids {
		uses, err := k.reg.UsesOf(ctx, l.Subject, id)
		if err != nil {
			return err
		}
		for _, u := range uses {
			next := &linked{Subject: u.Subject, Version: u.Version, ID: id}
			l.ReferencedBy = append(l.ReferencedBy, next)
			first, err := k.visit(next)
			if err != nil {
				return err
			}
			if !first {
				continue
			}
			if err := k.referencedBy(ctx, next); err != nil {
				return err
			}
		}
	}
	return nil
}
