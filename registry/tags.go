package registry

import (
	"context"
	"slices"
	"strings"

	"penstock/schemas"
)

// Tagged is a part of a schema and its tags.
type Tagged struct {
	Entity schemas.Entity `json:"schemaEntity"`
	Tags   []string       `json:"tags"`
}

// TagRequest asks for a new version whose parts have other tags.
type TagRequest struct {
	// NewVersion is the number that the version is to get; absent is the next.
	NewVersion   int      `json:"newVersion,omitempty"`
	TagsToAdd    []Tagged `json:"tagsToAdd,omitempty"`
	TagsToRemove []Tagged `json:"tagsToRemove,omitempty"`
	// Metadata and RuleSet take the place of the version's, if they are there.
	Metadata *Metadata `json:"metadata,omitempty"`
	RuleSet  *RuleSet  `json:"ruleSet,omitempty"`
	// RulesToMerge are laid over the rules, and RulesToRemove, by name, go.
	RulesToMerge  *RuleSet `json:"rulesToMerge,omitempty"`
	RulesToRemove []string `json:"rulesToRemove,omitempty"`
}

// Tag registers a version with other tags in its text, and returns it.
func (r *Registry) Tag(ctx context.Context, name string, number int, t TagRequest) (Schema, error) {
	s, err := r.Version(name, number, false)
	if err != nil {
		return s, err
	}
	add, remove := tagsByEntity(t.TagsToAdd), tagsByEntity(t.TagsToRemove)
	in, _ := split(s.Subject)
	text, err := r.retag(in, s, func(e schemas.Entity, tags []string) []string {
		removed, added := take(remove, e), take(add, e)
		tags = slices.DeleteFunc(slices.Clone(tags), func(tag string) bool { return slices.Contains(removed, tag) })
		for _, tag := range added {
			if !slices.Contains(tags, tag) {
				tags = append(tags, tag)
			}
		}
		return tags
	})
	if err != nil {
		return s, err
	}
	for e := range add {
		return s, errorf(CodeInvalidSchema, "Invalid tags: the schema has no entity %q of type %q; write the path as findTags=* writes those that have tags", e.Path, e.Type)
	}
	asked := Schema{
		Schema: text, SchemaType: s.SchemaType, References: s.References, Version: t.NewVersion,
		Metadata: either(t.Metadata, s.Metadata),
		RuleSet:  mergeRuleSet(either(t.RuleSet, s.RuleSet), t.RulesToMerge).without(t.RulesToRemove),
	}
	if asked.Metadata.versionNumber() > 0 {
		asked.Metadata = asked.Metadata.withVersion(0)
	}
	return r.Register(ctx, s.Subject, asked, false)
}

// retag returns the text of a version of a subject of that context with other
// tags, see schemas.Tagger.
func (r *Registry) retag(in string, s Schema, change func(schemas.Entity, []string) []string) (string, error) {
	parsed, err := r.parsedAgain(in, s)
	if err != nil {
		return "", err
	}
	tagger, ok := parsed.(schemas.Tagger)
	if !ok {
		return "", errorf(CodeInvalidSchema, "Invalid tags: a schema of type %s cannot have any", s.SchemaType)
	}
	return tagger.Retag(change)
}

// tagsByEntity collects tags. Of two spellings of a path, with a dot at its
// begin and without, it knows the second.
func tagsByEntity(list []Tagged) map[schemas.Entity][]string {
	tags := map[schemas.Entity][]string{}
	for _, t := range list {
		e := schemas.Entity{Path: strings.TrimPrefix(t.Entity.Path, "."), Type: strings.ToLower(t.Entity.Type)}
		tags[e] = append(tags[e], t.Tags...)
	}
	return tags
}

// take removes the tags of an entity, and returns them. An entity that was named
// without its type may be either.
func take(tags map[schemas.Entity][]string, e schemas.Entity) []string {
	taken := slices.Concat(tags[e], tags[schemas.Entity{Path: e.Path}])
	delete(tags, e)
	delete(tags, schemas.Entity{Path: e.Path})
	return taken
}

// without takes rules away by their names.
func (rs *RuleSet) without(names []string) *RuleSet {
	if rs == nil || len(names) == 0 {
		return rs
	}
	out := *rs
	for _, rules := range []*[]Rule{&out.MigrationRules, &out.DomainRules, &out.EncodingRules} {
		*rules = slices.DeleteFunc(slices.Clone(*rules), func(r Rule) bool { return slices.Contains(names, r.Name) })
	}
	return &out
}

// findTags lists the parts of s whose text has one of these tags, with all that
// they have; "*" is any.
func (r *Registry) findTags(in string, s Schema, wanted []string) (found []Tagged, err error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	_, err = r.retag(in, s, func(e schemas.Entity, tags []string) []string {
		if slices.ContainsFunc(tags, func(tag string) bool { return slices.Contains(wanted, tag) || slices.Contains(wanted, "*") }) {
			found = append(found, Tagged{e, tags})
		}
		return tags
	})
	return found, err
}
