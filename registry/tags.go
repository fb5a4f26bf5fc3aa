package registry

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// Entity is a part of a schema: a record or a field, by its full name.
type Entity struct {
	Path string `json:"entityPath"`
	Type string `json:"entityType"` // "sr_record" or "sr_field"
}

// Tagged is a part of a schema and its tags.
type Tagged struct {
	Entity Entity   `json:"schemaEntity"`
	Tags   []string `json:"tags"`
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

// Tag registers a version with other tags, and returns it. Tags are kept in the
// metadata, by the path of what has them.
func (r *Registry) Tag(ctx context.Context, name string, number int, t TagRequest) (Schema, error) {
	s, err := r.Version(name, number, false)
	if err != nil {
		return s, err
	}
	rs := mergeRuleSet(either(t.RuleSet, s.RuleSet), t.RulesToMerge).without(t.RulesToRemove)
	m := mergeMetadata(either(t.Metadata, s.Metadata), &Metadata{}) // a copy
	for _, add := range t.TagsToAdd {
		if add.Entity.Path == "" {
			return s, errorf(CodeInvalidSchema, "Invalid tags: an entity has no path")
		}
		m.Tags = with(m.Tags, add.Entity.Path, set(slices.Concat(m.Tags[add.Entity.Path], add.Tags)))
	}
	for _, remove := range t.TagsToRemove {
		left := slices.DeleteFunc(slices.Clone(m.Tags[remove.Entity.Path]), func(tag string) bool { return slices.Contains(remove.Tags, tag) })
		if len(left) == 0 {
			delete(m.Tags, remove.Entity.Path)
		} else {
			m.Tags[remove.Entity.Path] = left
		}
	}
	asked := Schema{
		Schema: s.Schema, SchemaType: s.SchemaType, References: s.References, Metadata: m, RuleSet: rs, Version: t.NewVersion,
	}
	if m.versionNumber() > 0 {
		asked.Metadata = m.withVersion(0)
	}
	return r.Register(ctx, s.Subject, asked, false)
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

// findTags lists the parts of s that have one of these tags; "*" is any.
func findTags(s Schema, tags []string) []Tagged {
	var found []Tagged
	for _, path := range sorted(maps.Keys(deref(s.Metadata).Tags)) {
		has := slices.DeleteFunc(slices.Clone(s.Metadata.Tags[path]), func(tag string) bool {
			return !slices.Contains(tags, tag) && !slices.Contains(tags, "*")
		})
		if len(has) > 0 {
			kind := "sr_record"
			if strings.Contains(path, ".") {
				kind = "sr_field"
			}
			found = append(found, Tagged{Entity{path, kind}, has})
		}
	}
	return found
}
