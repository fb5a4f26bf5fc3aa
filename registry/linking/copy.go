// Package linking copies schemas from one registry to another, with their ids,
// versions and settings: once, to move in or out, or again and again, as an
// exporter. The registries may be any that speak Confluent's dialect.
package linking

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"penstock/registry"
	"penstock/schemas"
)

// Reader is what copying asks of the registry that it copies from; a
// *client.Client is one.
type Reader interface {
	// Subjects lists the subjects of all contexts.
	Subjects(ctx context.Context, deleted bool) ([]string, error)
	Versions(ctx context.Context, subject string, deleted bool) ([]int, error)
	Version(ctx context.Context, subject string, number int, deleted bool) (registry.Schema, error)
	// Setting returns what is set for a scope itself, "config" or "mode", as
	// the registry writes it, and an error that wraps schemas.ErrNoSchema or
	// has CodeConfigNotFound or CodeModeNotFound where nothing is.
	Setting(ctx context.Context, kind, scope string) (map[string]json.RawMessage, error)
	// MaxID returns the highest id that was ever given in the context of a
	// scope, where id is in use, or 0 if the registry does not say.
	MaxID(ctx context.Context, scope string, id int) (int, error)
}

// Writer is what copying asks of the registry that it copies to; a
// *client.Client is one.
type Writer interface {
	Reader
	Register(ctx context.Context, subject string, s registry.Schema) (schemas.ID, error)
	DeleteVersion(ctx context.Context, subject string, number int, permanent bool) (int, error)
	PutSetting(ctx context.Context, kind, scope string, value map[string]json.RawMessage, force bool) error
	DeleteSetting(ctx context.Context, kind, scope string) error
}

// Options say what is copied. The zero value copies everything, once, and takes
// nothing away.
type Options struct {
	// Subjects are patterns, as path.Match reads them, of the subjects that
	// are copied; none is all. A subject that one of them refers to is copied
	// too.
	Subjects []string
	// Rename gives the name that a subject, which is qualified by its context,
	// has in the target. nil keeps it.
	Rename func(subject string) string
	// Prune deletes from the target what the link copied there and the source
	// has no longer.
	Prune bool
	// Settings copies configurations and modes too, those of contexts and the
	// whole registry included.
	Settings bool
	// Progress is called after each version, with how many of how many are
	// done. It may be nil.
	Progress func(done, total int)
}

// Link is a way from one registry to another. It remembers what the target
// holds, so that a second Copy sends only what has changed. It is for one
// goroutine.
type Link struct {
	from Reader
	to   Writer
	o    Options
	held map[string]map[int]bool // by the target's names: is the version deleted?
	open map[string]bool         // contexts of the target that take ids as given
	most map[string]int          // by scope of the target: ids up to there were given
	also map[string]bool         // subjects of the source that others were found to refer to
}

// New makes a link; it asks nothing yet.
func New(from Reader, to Writer, o Options) *Link {
	if o.Rename == nil {
		o.Rename = func(subject string) string { return subject }
	}
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
	return &Link{from: from, to: to, o: o, held: map[string]map[int]bool{}, open: map[string]bool{}, most: map[string]int{}, also: map[string]bool{}}
}

// Counts is what a Copy did.
type Counts struct {
	Subjects int `json:"subjects"` // looked at
	Versions int `json:"versions"` // of these, softly deleted ones included
	Copied   int `json:"copied"`   // versions that the target lacked
	Deleted  int `json:"deleted"`  // versions deleted in the target, softly or for good
	Settings int `json:"settings"` // configurations and modes
}

// Copy brings the target to where the source is. What it copies goes in with
// its id and version, so each context of the target that it writes to is set to
// mode IMPORT, which has to be free of other schemas, or in that mode already.
// With Options.Settings the modes of the source replace that in the end; else
// it stays, so that nothing but the link gives ids there.
//
// A context that holds nothing but what an earlier Copy brought there is set to
// IMPORT again. The highest id comes along, so that the target gives no id that
// the source has given, even where nothing has it any more.
//
// An error leaves the rest undone; another Copy goes on. Versions are copied
// after those that they refer to.
func (l *Link) Copy(ctx context.Context) (Counts, error) {
	for {
		counts, err := l.copy(ctx)
		if !errors.Is(err, errTaken) {
			return counts, err
		}
	}
}

// errTaken says that a context was cleared of what is deleted, which is to be
// copied again.
var errTaken = errors.New("the context was set to mode IMPORT by force")

func (l *Link) copy(ctx context.Context) (Counts, error) {
	p := &pass{Link: l, versions: map[string]map[int]bool{}, done: map[registry.SubjectVersion]bool{}}
	if err := p.list(ctx); err != nil {
		return p.counts, err
	}
	for _, subject := range p.subjects {
		for _, number := range ascending(p.versions[subject]) {
			if err := p.put(ctx, registry.SubjectVersion{Subject: subject, Version: number}); err != nil {
				return p.counts, fmt.Errorf("copy version %d of subject %q: %w", number, subject, err)
			}
			p.o.Progress(len(p.done), p.counts.Versions)
		}
	}
	if err := p.delete(ctx); err != nil {
		return p.counts, err
	}
	if err := p.highest(ctx); err != nil {
		return p.counts, err
	}
	if l.o.Settings {
		if err := p.settings(ctx); err != nil {
			return p.counts, err
		}
	}
	return p.counts, nil
}

// pass is one Copy.
type pass struct {
	*Link
	subjects []string                // of the source, in order
	versions map[string]map[int]bool // of each: is it deleted?
	done     map[registry.SubjectVersion]bool
	counts   Counts
}

// list asks the source what there is.
func (p *pass) list(ctx context.Context) error {
	all, err := p.from.Subjects(ctx, true)
	if err != nil {
		return err
	}
	for _, subject := range all {
		if p.wanted(subject) || p.also[subject] {
			if _, err := p.add(ctx, subject); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pass) wanted(subject string) bool {
	return len(p.o.Subjects) == 0 || slices.ContainsFunc(p.o.Subjects, func(pattern string) bool {
		ok, err := path.Match(pattern, subject)
		return err == nil && ok
	})
}

// add notes a subject and its versions, and returns these.
func (p *pass) add(ctx context.Context, subject string) (map[int]bool, error) {
	if known, ok := p.versions[subject]; ok {
		return known, nil
	}
	versions, err := list(ctx, p.from, subject)
	if err != nil {
		return nil, err
	}
	p.subjects = append(p.subjects, subject)
	p.versions[subject] = versions
	p.counts.Subjects++
	p.counts.Versions += len(versions)
	return versions, nil
}

// list returns the versions of a subject, and which are deleted; none where
// there is no such subject.
func list(ctx context.Context, r Reader, subject string) (map[int]bool, error) {
	versions := map[int]bool{}
	for _, deleted := range []bool{true, false} {
		numbers, err := r.Versions(ctx, subject, deleted)
		if err != nil && !errors.Is(err, schemas.ErrNoSchema) {
			return nil, err
		}
		for _, n := range numbers {
			versions[n] = deleted
		}
	}
	return versions, nil
}

func ascending(versions map[int]bool) []int {
	var numbers []int
	for n := range versions {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers
}

// target returns what the target holds of a subject, by the target's name.
func (p *pass) target(ctx context.Context, subject string) (map[int]bool, error) {
	if held, ok := p.held[subject]; ok {
		return held, nil
	}
	held, err := list(ctx, p.to, subject)
	if err != nil {
		return nil, err
	}
	p.held[subject] = held
	return held, nil
}

// put copies a version, what it refers to first.
func (p *pass) put(ctx context.Context, v registry.SubjectVersion) error {
	if p.done[v] {
		return nil
	}
	p.done[v] = true // before the references: a cycle of them cannot be registered anywhere
	name := p.o.Rename(v.Subject)
	held, err := p.target(ctx, name)
	if err != nil {
		return err
	}
	if _, there := held[v.Version]; there {
		return nil
	}
	s, err := p.from.Version(ctx, v.Subject, v.Version, true)
	if errors.Is(err, schemas.ErrNoSchema) {
		return nil // deleted for good meanwhile
	}
	if err != nil {
		return err
	}
	for i, r := range s.References {
		at := registry.InContextOf(v.Subject, r.Subject)
		if _, err := p.add(ctx, at); err != nil {
			return err
		}
		p.also[at] = true
		if err := p.put(ctx, registry.SubjectVersion{Subject: at, Version: r.Version}); err != nil {
			return fmt.Errorf("copy version %d of subject %q, which it refers to: %w", r.Version, at, err)
		}
		if renamed := p.o.Rename(at); renamed != at {
			s.References[i].Subject = renamed
		}
	}
	if err := p.take(ctx, name); err != nil {
		return err
	}
	if _, err := p.to.Register(ctx, name, s); err != nil {
		return err
	}
	held[v.Version] = false
	p.counts.Copied++
	return nil
}

// take sets the context of a subject to mode IMPORT.
func (p *pass) take(ctx context.Context, subject string) error {
	scope := registry.ScopeOf(subject)
	if p.open[scope] {
		return nil
	}
	mode, err := p.to.Setting(ctx, "mode", scope)
	if err != nil && !unset(err) {
		return err
	}
	if string(mode["mode"]) != importMode {
		set := func(force bool) error {
			return p.to.PutSetting(ctx, "mode", scope, map[string]json.RawMessage{"mode": []byte(importMode)}, force)
		}
		err := set(false)
		again := false
		if errors.Is(err, &registry.Error{Code: registry.CodeNotPermitted}) {
			if again, err = p.copied(ctx, scope, err); again {
				err = set(true)
			}
		}
		if err != nil {
			return fmt.Errorf("set mode IMPORT for %s: %w", cmp.Or(scope, "the registry"), err)
		}
		if again {
			p.open[scope] = true
			clear(p.held)
			return errTaken
		}
	}
	p.open[scope] = true
	return nil
}

// copied reports whether all that lives in a scope of the target is what the
// source has too; if not, its error says
// what is not and wraps the one given.
func (p *pass) copied(ctx context.Context, scope string, otherwise error) (bool, error) {
	kept := p.kept()
	names, err := p.to.Subjects(ctx, false)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if registry.ScopeOf(name) != scope {
			continue
		}
		numbers, err := p.to.Versions(ctx, name, false)
		if err != nil {
			return false, err
		}
		for _, n := range numbers {
			if _, there := kept[name][n]; !there {
				return false, fmt.Errorf("version %d of subject %q is not of the source: %w", n, name, otherwise)
			}
		}
	}
	return true, nil
}

// kept are the versions of the source, by the target's names.
func (p *pass) kept() map[string]map[int]bool {
	kept := map[string]map[int]bool{}
	for _, subject := range p.subjects {
		kept[p.o.Rename(subject)] = p.versions[subject]
	}
	return kept
}

// highest carries the highest id of each context over.
func (p *pass) highest(ctx context.Context) error {
	asked := map[string]bool{}
	for _, subject := range p.subjects {
		scope, numbers := registry.ScopeOf(subject), ascending(p.versions[subject])
		if asked[scope] || len(numbers) == 0 {
			continue
		}
		s, err := p.from.Version(ctx, subject, numbers[0], true)
		if errors.Is(err, schemas.ErrNoSchema) {
			continue // deleted for good meanwhile
		}
		if err != nil {
			return err
		}
		asked[scope] = true
		most, err := p.from.MaxID(ctx, scope, s.ID)
		if err != nil {
			return err
		}
		target := registry.ScopeOf(p.o.Rename(subject))
		if most <= p.most[target] {
			continue
		}
		given, err := p.to.MaxID(ctx, target, s.ID)
		if err == nil && given > 0 && given < most {
			err = p.give(ctx, target, most)
		}
		if err != nil {
			return err
		}
		p.most[target] = most
	}
	return nil
}

// give lets a scope of the target give an id to a schema that is deleted for
// good at once.
func (p *pass) give(ctx context.Context, scope string, id int) error {
	name := scope + "highest-id-of-a-copy"
	gone := func() error {
		for _, permanent := range []bool{false, true} {
			_, err := p.to.DeleteVersion(ctx, name, 1, permanent)
			if err != nil && !errors.Is(err, schemas.ErrNoSchema) && !errors.Is(err, &registry.Error{Code: registry.CodeVersionDeleted}) {
				return err
			}
		}
		return nil
	}
	if err := p.take(ctx, name); err != nil {
		return err
	}
	if err := gone(); err != nil { // what a copy that was cut off left
		return err
	}
	if _, err := p.to.Register(ctx, name, registry.Schema{Schema: `"null"`, SchemaType: schemas.Avro, ID: id, Version: 1}); err != nil {
		return err
	}
	return gone()
}

const importMode = `"` + string(registry.Import) + `"`

// unset says that there is no such setting.
func unset(err error) bool {
	return errors.Is(err, schemas.ErrNoSchema) || errors.Is(err, &registry.Error{Code: registry.CodeConfigNotFound}) ||
		errors.Is(err, &registry.Error{Code: registry.CodeModeNotFound})
}

// delete takes away from the target what the source has deleted, the latest
// first, so that what refers goes before what is referred to.
func (p *pass) delete(ctx context.Context) error {
	for _, subject := range slices.Backward(p.subjects) {
		name := p.o.Rename(subject)
		held := p.held[name]
		for _, number := range slices.Backward(ascending(p.versions[subject])) {
			if deleted, there := held[number]; there && !deleted && p.versions[subject][number] {
				if err := p.remove(ctx, name, number, false); err != nil {
					return err
				}
			}
		}
	}
	if !p.o.Prune {
		return nil
	}
	kept := p.kept()
	for name, held := range p.held {
		for _, number := range slices.Backward(ascending(held)) {
			if _, there := kept[name][number]; there {
				continue
			}
			if !held[number] {
				if err := p.remove(ctx, name, number, false); err != nil {
					return err
				}
			}
			if err := p.remove(ctx, name, number, true); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pass) remove(ctx context.Context, name string, number int, permanent bool) error {
	_, err := p.to.DeleteVersion(ctx, name, number, permanent)
	if err != nil && !errors.Is(err, schemas.ErrNoSchema) {
		return err
	}
	p.held[name][number] = true
	if permanent {
		delete(p.held[name], number)
	}
	p.counts.Deleted++
	return nil
}

// settings copies configurations, and then modes, because a mode may refuse
// what comes after it.
func (p *pass) settings(ctx context.Context) error {
	scopes := []string{""}
	for _, subject := range p.subjects {
		if scope := registry.ScopeOf(subject); !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	slices.Reverse(scopes) // the whole registry last, its mode holds for the others
	scopes = append(slices.Clone(p.subjects), scopes...)
	for _, kind := range []string{"config", "mode"} {
		for _, scope := range scopes {
			if err := p.setting(ctx, kind, scope); err != nil {
				return fmt.Errorf("copy %s of %s: %w", kind, cmp.Or(scope, "the registry"), err)
			}
		}
	}
	return nil
}

func (p *pass) setting(ctx context.Context, kind, scope string) error {
	value, err := p.from.Setting(ctx, kind, scope)
	target := scope
	if !strings.HasSuffix(scope, ":") && scope != "" {
		target = p.o.Rename(scope)
	}
	switch {
	case err != nil && !unset(err):
		return err
	case err != nil || len(value) == 0:
		if !p.open[target] || kind != "mode" {
			return nil
		}
		if err := p.to.DeleteSetting(ctx, kind, target); err != nil && !unset(err) {
			return err
		}
		delete(p.open, target)
		return nil
	}
	// A registry answers with another name than it asks for.
	if level, ok := value["compatibilityLevel"]; ok {
		delete(value, "compatibilityLevel")
		value["compatibility"] = level
	}
	if err := p.to.PutSetting(ctx, kind, target, value, true); err != nil {
		return err
	}
	if kind == "mode" {
		delete(p.open, target)
	}
	p.counts.Settings++
	return nil
}
