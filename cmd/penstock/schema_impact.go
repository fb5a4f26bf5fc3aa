package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"penstock/pipelines"
	"penstock/registry"
	"penstock/registry/client"
	"penstock/registry/compat"
	"penstock/schemas"
)

// impactFlags say where to look for those who read what a schema describes.
type impactFlags struct {
	Impact   bool     `help:"Show whom the changes concern: consumers, tables, and schemas that refer to it."`
	Subject  string   `placeholder:"NAME" help:"With --impact: the subject, if OLD does not name it."`
	Topic    []string `placeholder:"NAME,…" help:"With --impact: topics of the subject. Default: the subject without -value or -key."`
	Readers  string   `placeholder:"FILE" help:"With --impact: YAML that names readers who announce nothing."`
	Pipes    string   `name:"pipelines" placeholder:"PATH" help:"With --impact: pipelines as 'penstock consume' runs them, a YAML file or a folder."`
	Database []string `placeholder:"URL,…" help:"With --impact: databases whose tables may be fed from the topics: postgres://… or sqlite:FILE."`
}

// The kinds of what a change concerns.
const (
	groupReads     = "group"
	subjectRefers  = "subject"
	effectBreaks   = "breaks"      // with the next event that the new schema writes
	effectLater    = "breaks-when" // it moves to the new schema
	effectUnknown  = "may-break"   // it does not say what it reads
	effectSpares   = "spares"
	changesInWords = 3 // of a reader; there are more in JSON
)

// concern is who reads or uses a schema, and what a change means for it.
type concern struct {
	Kind    string          `json:"kind"`
	Name    string          `json:"name"`
	Version int             `json:"version,omitempty"` // which it reads: of several, the newest
	Pinned  bool            `json:"pinned,omitempty"`  // it reads everything as that version
	Fields  []string        `json:"fields,omitempty"`  // none: all of them
	To      string          `json:"to,omitempty"`
	As      string          `json:"as,omitempty"` // how a schema names it
	Effect  string          `json:"effect"`
	Changes []concernChange `json:"changes,omitempty"`
}

// concernChange is what of a change matters to who it concerns.
type concernChange struct {
	Rule    string `json:"rule"`
	Path    string `json:"path"`
	Message string `json:"message"`
}

// impact finds whom a comparison concerns.
type impact struct {
	*schemaDiffCmd
	reg     *client.Client
	subject string
	after   sourced
	cached  map[int][]compat.Change // what changed since a version of the subject
}

// assess fills in the impact of the comparisons.
func (c *schemaDiffCmd) assess(ctx context.Context, t *terminal, sources *schemaSources, all []comparison) error {
	if c.Subject != "" && len(all) > 1 {
		return usagef("--subject: expected two schemas to compare, found %d pairs", len(all))
	}
	if err := sources.open(); err != nil {
		return err
	}
	for i := range all {
		p := &all[i]
		if p.New == "" || p.Old == "" {
			continue
		}
		subject := cmp.Or(c.Subject, p.before.Source.Subject)
		if subject == "" {
			return usagef("--impact: expected SUBJECT@VERSION as OLD, or --subject, found %s", p.Old)
		}
		if err := c.assessOne(ctx, t, sources.reg, subject, p); err != nil {
			return err
		}
	}
	return nil
}

func (c *schemaDiffCmd) assessOne(ctx context.Context, t *terminal, reg *client.Client, subject string, p *comparison) error {
	i := impact{schemaDiffCmd: c, reg: reg, subject: subject, after: sourced{title: p.New, side: p.after}, cached: map[int][]compat.Change{}}
	readers, err := i.readers(ctx, t)
	if err != nil {
		return err
	}
	unknown, err := compat.Checker{}.Diff(p.before, p.after, c.policy())
	if err != nil {
		return err
	}
	for _, r := range readers {
		changes := unknown
		if r.Version > 0 {
			if changes, err = i.since(ctx, r.Version); err != nil {
				return err
			}
		}
		r.weigh(p.after.Source.SchemaType, changes)
		p.Impact = append(p.Impact, r)
	}
	referring, err := i.referring(ctx)
	p.Impact = append(p.Impact, referring...)
	return err
}

func (c *schemaDiffCmd) policy() registry.Policy { return registry.Policy(strings.ToUpper(c.Policy)) }

// since is what changed between a version of the subject and the new schema.
func (i *impact) since(ctx context.Context, version int) ([]compat.Change, error) {
	if changes, ok := i.cached[version]; ok {
		return changes, nil
	}
	found, err := versionOf(ctx, i.reg, i.subject, version)
	if err != nil {
		return nil, err
	}
	changes, err := compat.Checker{}.Diff(found.side, i.after.side, i.policy())
	i.cached[version] = changes
	return changes, err
}

// weigh says what the changes since the version that it reads mean for a reader.
//
// Who reads everything as one version fails where that cannot read what the new
// one writes, and where the new one cannot read old events once it moves there,
// whatever fields it uses: but for Protobuf, an event is read whole or not at all.
// Who reads events as they were written fails at the first where it uses the
// field, and misses one that is gone, by whatever default another reader would
// fill it in.
func (r *concern) weigh(language schemas.Type, changes []compat.Change) {
	at := map[string][]concernChange{}
	for _, c := range changes {
		if whole := r.Pinned && language != schemas.Protobuf; !whole && !r.uses(c) {
			continue
		}
		effect := ""
		switch {
		case slices.Contains(c.Breaks, registry.Forward), !r.Pinned && goes(c):
			effect = effectBreaks
		case slices.Contains(c.Breaks, registry.Backward) && r.Pinned:
			effect = effectLater
		default:
			continue
		}
		at[effect] = append(at[effect], concernChange{c.Rule, c.Path, c.Message})
	}
	r.Effect = effectSpares
	for _, effect := range []string{effectBreaks, effectLater} {
		if len(at[effect]) > 0 {
			r.Effect, r.Changes = effect, at[effect]
			break
		}
	}
	if r.Version == 0 && r.Effect == effectBreaks {
		r.Effect = effectUnknown
	}
}

// goes reports whether after a change nothing is where a field was.
func goes(c compat.Change) bool {
	return slices.Contains([]schemas.ChangeKind{schemas.FieldRemoved, schemas.FieldRenamed, schemas.FieldMoved}, schemas.ChangeKind(c.Rule))
}

// uses reports whether a change is of something that the reader uses.
func (r *concern) uses(c compat.Change) bool {
	if len(r.Fields) == 0 || c.Path == "" {
		return true
	}
	paths := []string{c.Path}
	switch schemas.ChangeKind(c.Rule) {
	case schemas.FieldRenamed:
		paths[0] = c.Path[:strings.LastIndexByte(c.Path, '.')+1] + c.Was
	case schemas.FieldMoved:
		paths[0] = c.Was
	}
	if _, below, ok := strings.Cut(paths[0], "."); ok {
		paths = append(paths, below) // the paths of Protobuf begin with the message
	}
	return slices.ContainsFunc(r.Fields, func(field string) bool {
		return slices.ContainsFunc(paths, func(path string) bool {
			return path == field || strings.HasPrefix(path, field+".") || strings.HasPrefix(field, path+".") || strings.HasPrefix(path, field+"[")
		})
	})
}

// String is what the change means for it, in a sentence.
func (r *concern) String() string {
	words := map[string]string{effectBreaks: "breaks", effectLater: "breaks", effectUnknown: "may break", effectSpares: "spares"}[r.Effect]
	words += " " + r.Kind + " " + r.Name
	switch {
	case r.Kind == subjectRefers:
		words += fmt.Sprintf(", whose version %d refers to it as %s", r.Version, r.As)
	case r.Version == 0:
		words += ", which does not say what it reads"
	default:
		words += fmt.Sprintf(", which reads version %d", r.Version)
		switch len(r.Fields) {
		case 0:
		case 1:
			words += " and field " + r.Fields[0]
		default:
			words += " and fields " + strings.Join(r.Fields, ", ")
		}
	}
	if r.To != "" {
		words += ", into " + r.To
	}
	if r.Effect == effectLater {
		words += ", once it takes the new one"
	}
	for i, c := range r.Changes {
		if i == changesInWords {
			return words + fmt.Sprintf("; and %d more", len(r.Changes)-i)
		}
		words += map[bool]string{true: ": ", false: "; "}[i == 0] + c.Message
	}
	return words
}

// readers are the consumers that are known to read the subject's topics, by
// their announcements, the broker, the databases and the file of --readers.
func (i *impact) readers(ctx context.Context, t *terminal) ([]concern, error) {
	found := map[string]*concern{}
	of := func(name string) *concern {
		if found[name] == nil {
			found[name] = &concern{Kind: groupReads, Name: name}
		}
		return found[name]
	}
	topics := i.Topic
	if len(topics) == 0 {
		topic, isValue := strings.CutSuffix(i.subject, "-value")
		topic, isKey := strings.CutSuffix(topic, "-key")
		if isValue || isKey {
			topics = []string{topic}
		} else {
			t.notef("which topics %s is of is not known: name them with --topic\n", i.subject)
		}
	}
	if len(topics) > 0 {
		seen, err := i.onBroker(ctx, t, topics)
		if err != nil {
			return nil, err
		}
		for _, s := range seen {
			r := of(s.group)
			if s.announced {
				r.Pinned, r.Fields, r.To = s.reading.Pinned, s.reading.Fields, s.reading.To
				if r.Version, err = i.newest(ctx, s.reading.Schemas); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, address := range i.Database {
		pipelines, err := pipelinesIn(ctx, address, topics)
		if err != nil {
			return nil, err
		}
		for _, p := range pipelines {
			if r := of(p.name); r.To == "" {
				r.To = p.where
			}
		}
	}
	if i.Pipes != "" {
		all, err := pipelines.Load(i.Pipes, pipelines.Options{Broker: i.Broker, Registry: i.Registry})
		if err != nil {
			return nil, usageError{err}
		}
		for _, p := range all {
			if slices.Contains(topics, p.Source.Topic) {
				of(p.Source.Group).To = goal(p.Sink)
			}
		}
	}
	if i.Readers != "" {
		named, err := readReaders(i.Readers)
		if err != nil {
			return nil, err
		}
		for _, n := range named {
			if n.Subject == i.subject || slices.Contains(topics, n.Topic) {
				r := of(n.Group)
				r.Version, r.Pinned, r.Fields, r.To = n.Version, !n.AsWritten, n.Fields, cmp.Or(n.To, r.To)
			}
		}
	}
	var all []concern
	for _, name := range sortedNames(found) {
		all = append(all, *found[name])
	}
	return all, nil
}

// newest is the newest version of the subject that has one of these ids, 0 for
// none.
func (i *impact) newest(ctx context.Context, ids []schemas.ID) (version int, err error) {
	for _, id := range ids {
		uses, err := i.reg.UsesOf(ctx, i.subject, id)
		if errors.Is(err, client.ErrNotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		for _, u := range uses {
			if u.Subject == i.subject {
				version = max(version, u.Version)
			}
		}
	}
	return version, nil
}

// namedReader is an entry of the file of --readers.
type namedReader struct {
	Group     string   `yaml:"group"`
	Subject   string   `yaml:"subject"`
	Topic     string   `yaml:"topic"`
	Version   int      `yaml:"version"`
	AsWritten bool     `yaml:"asWritten"`
	Fields    []string `yaml:"fields"`
	To        string   `yaml:"to"`
}

func readReaders(file string) ([]namedReader, error) {
	const limit = 1 << 20
	info, err := os.Stat(file)
	if err != nil {
		return nil, usageError{fmt.Errorf("read --readers: %w", err)}
	}
	if info.Size() > limit {
		return nil, usagef("read --readers: %s has %d bytes, more than the limit of %d", file, info.Size(), limit)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, usageError{fmt.Errorf("read --readers: %w", err)}
	}
	var named []namedReader
	if err := yaml.Load(text, &named, yaml.WithKnownFields()); err != nil {
		return nil, usagef("read --readers %s: %v", file, err)
	}
	for i, n := range named {
		if n.Group == "" || n.Subject == "" && n.Topic == "" || n.Version < 0 {
			return nil, usagef("read --readers %s, /%d: expected group, and subject or topic, and perhaps version, fields, to and asWritten", file, i)
		}
	}
	return named, nil
}

// referring are the newest versions of other subjects that refer to the subject,
// compared with what they would be over the new schema.
func (i *impact) referring(ctx context.Context) ([]concern, error) {
	numbers, err := i.reg.Versions(ctx, i.subject, false)
	if errors.Is(err, client.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	up := links{reg: i.reg, seen: map[registry.SubjectVersion]bool{}}
	for _, n := range numbers {
		if err := up.referencedBy(ctx, &linked{Subject: i.subject, Version: n}); err != nil {
			return nil, err
		}
	}
	newest := map[string]int{}
	for at := range up.seen {
		if at.Subject != i.subject {
			newest[at.Subject] = max(newest[at.Subject], at.Version)
		}
	}
	var all []concern
	for _, subject := range sortedNames(newest) {
		r, err := i.over(ctx, subject, newest[subject])
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// over is what becomes of a schema that refers to the subject over the new one.
func (i *impact) over(ctx context.Context, subject string, version int) (concern, error) {
	r := concern{Kind: subjectRefers, Name: subject, Version: version, Effect: effectSpares}
	found, err := versionOf(ctx, i.reg, subject, version)
	if err != nil {
		return r, err
	}
	texts := map[string]string{}
	if r.As, err = i.texts(ctx, found.side.Source, texts); err != nil {
		return r, err
	}
	fresh := sourced{title: found.title, side: compat.Side{Source: found.side.Source}}
	if err := fresh.parse(func() (map[string]string, error) { return texts, nil }); err != nil {
		r.Effect = effectLater
		r.Changes = []concernChange{{Rule: "UNREADABLE", Message: err.Error()}}
		return r, nil //nolint:nilerr // it is what the change means
	}
	changes, err := compat.Checker{}.Diff(found.side, fresh.side, i.policy())
	if err != nil {
		return r, err
	}
	for _, c := range changes {
		if len(c.Breaks) > 0 {
			r.Effect = effectLater
			r.Changes = append(r.Changes, concernChange{c.Rule, c.Path, c.Message})
		}
	}
	return r, nil
}

// texts collects what a schema refers to, by name, with the new schema in the
// place of the subject's, and says by which name it goes.
func (i *impact) texts(ctx context.Context, s registry.Schema, into map[string]string) (as string, err error) {
	for _, ref := range s.References {
		if _, ok := into[ref.Name]; ok {
			continue
		}
		if len(into) == maxLinked {
			return "", fmt.Errorf("more than %d versions hang together there", maxLinked)
		}
		subject := registry.InContextOf(s.Subject, ref.Subject)
		next := i.after.side.Source
		if subject == i.subject {
			as = ref.Name
		} else if next, err = i.reg.Version(ctx, subject, ref.Version, ref.Version > 0); err != nil {
			return "", err
		}
		into[ref.Name] = next.Schema
		below, err := i.texts(ctx, next, into)
		if err != nil {
			return "", err
		}
		as = cmp.Or(as, below)
	}
	return as, nil
}
