package registry

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// What a schema says beside its text: metadata and rules.

const maxRuleName = 256

// validate refuses rule sets that clients could not run.
func (rs *RuleSet) validate() error {
	if rs == nil {
		return nil
	}
	for _, kind := range []struct {
		name  string
		rules []Rule
		modes []string
	}{
		{"migrationRules", rs.MigrationRules, []string{"UPGRADE", "DOWNGRADE", "UPDOWN"}},
		{"domainRules", rs.DomainRules, []string{"WRITE", "READ", "WRITEREAD", ""}},
		{"encodingRules", rs.EncodingRules, []string{"WRITE", "READ", "WRITEREAD", ""}},
	} {
		seen := map[string]bool{}
		for i, r := range kind.rules {
			at := "/" + kind.name + "/" + strconv.Itoa(i)
			switch {
			case r.Name == "":
				return errorf(CodeInvalidRuleSet, "Invalid rule set: at %q the rule has no name", at)
			case utf8.RuneCountInString(r.Name) > maxRuleName:
				return errorf(CodeInvalidRuleSet, "Invalid rule set: at %q the name has more than %d characters", at, maxRuleName)
			case !isRuleName(r.Name):
				return errorf(CodeInvalidRuleSet, "Invalid rule set: at %q the name %q is not a letter or _ and then letters, digits, _ and -", at, r.Name)
			case seen[r.Name]:
				return errorf(CodeInvalidRuleSet, "Invalid rule set: at %q the name %q is that of an earlier rule", at, r.Name)
			case r.Type == "":
				return errorf(CodeInvalidRuleSet, "Invalid rule set: at %q the rule %q has no type", at, r.Name)
			case r.Kind != "" && r.Kind != "TRANSFORM" && r.Kind != "CONDITION":
				return errorf(CodeInvalidRuleSet, "Invalid rule set: at %q the kind is %q, expected TRANSFORM or CONDITION", at, r.Kind)
			case !slices.Contains(kind.modes, r.Mode):
				return errorf(CodeInvalidRuleSet, "Invalid rule set: at %q the mode is %q, expected one of %q", at, r.Mode, kind.modes[:3])
			}
			seen[r.Name] = true
		}
	}
	return nil
}

// has reports whether one of the rules is of a type.
func (rs *RuleSet) has(ruleType string) bool {
	return rs != nil && slices.ContainsFunc(slices.Concat(rs.MigrationRules, rs.DomainRules, rs.EncodingRules), func(r Rule) bool { return r.Type == ruleType })
}

func isRuleName(s string) bool {
	for i, c := range s {
		if !unicode.IsLetter(c) && c != '_' && (i == 0 || !unicode.IsDigit(c) && c != '-') {
			return false
		}
	}
	return true
}

// mergeMetadata lays over on base: its properties win, its tags and sensitive
// names come to those of base.
func mergeMetadata(base, over *Metadata) *Metadata {
	if base == nil || over == nil {
		return either(base, over)
	}
	m := &Metadata{Tags: maps.Clone(base.Tags), Properties: maps.Clone(base.Properties), Sensitive: set(slices.Concat(base.Sensitive, over.Sensitive))}
	for path, tags := range over.Tags {
		m.Tags = with(m.Tags, path, set(slices.Concat(m.Tags[path], tags)))
	}
	for key, value := range over.Properties {
		m.Properties = with(m.Properties, key, value)
	}
	return m
}

// mergeRuleSet lays over on base: a rule of it takes the place of the rule of
// that name.
func mergeRuleSet(base, over *RuleSet) *RuleSet {
	if base == nil || over == nil {
		return either(base, over)
	}
	merge := func(base, over []Rule) []Rule {
		kept := slices.DeleteFunc(slices.Clone(base), func(r Rule) bool {
			return slices.ContainsFunc(over, func(o Rule) bool { return o.Name == r.Name })
		})
		return append(kept, over...)
	}
	rs := &RuleSet{
		MigrationRules: merge(base.MigrationRules, over.MigrationRules),
		DomainRules:    merge(base.DomainRules, over.DomainRules),
		EncodingRules:  merge(base.EncodingRules, over.EncodingRules),
		EnableAt:       over.EnableAt,
	}
	if rs.EnableAt == "" {
		rs.EnableAt = base.EnableAt
	}
	return rs
}

func either[T any](a, b *T) *T {
	if a == nil {
		return b
	}
	return a
}

func with[V any](m map[string]V, k string, v V) map[string]V {
	if m == nil {
		m = map[string]V{}
	}
	m[k] = v
	return m
}

// extend is what a request's metadata and rules become in a subject: where it
// has none they are those of the version before it, and the configuration's
// defaults and overrides go below and above.
func (c Config) extend(m *Metadata, rs *RuleSet, before *version) (*Metadata, *RuleSet) {
	if before != nil {
		m, rs = either(m, before.content.metadata), either(rs, before.content.ruleSet)
	}
	return mergeMetadata(mergeMetadata(c.DefaultMetadata, m), c.OverrideMetadata),
		mergeRuleSet(mergeRuleSet(c.DefaultRuleSet, rs), c.OverrideRuleSet)
}

// extends reports whether the configuration has something to add by itself.
func (c Config) extends() bool {
	return c.DefaultMetadata != nil || c.OverrideMetadata != nil || c.DefaultRuleSet != nil || c.OverrideRuleSet != nil
}

// versionNumber is what versionProperty says, 0 for nothing.
func (m *Metadata) versionNumber() int {
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(m.Properties[versionProperty])
	if err != nil {
		return 0
	}
	return n
}

// withVersion is m with another versionProperty, and without one for 0.
func (m *Metadata) withVersion(number int) *Metadata {
	out := *m
	out.Properties = maps.Clone(m.Properties)
	if number > 0 {
		out.Properties[versionProperty] = strconv.Itoa(number)
		return &out
	}
	delete(out.Properties, versionProperty)
	if len(out.Properties)+len(out.Tags)+len(out.Sensitive) == 0 {
		return nil
	}
	return &out
}

// sameContract reports whether metadata and rules of a request are those of v.
// Where only one side has a versionProperty it does not count; that of the
// request must be the version's number.
func sameContract(m *Metadata, rs *RuleSet, v *version) bool {
	theirs := v.content.metadata
	asked, has := m.versionNumber(), theirs.versionNumber()
	switch {
	case asked > 0 && asked != v.number:
		return false
	case asked > 0 && has == 0:
		m = m.withVersion(0)
	case asked == 0 && has > 0:
		theirs = theirs.withVersion(0)
	}
	return equalJSON(m, theirs) && equalJSON(rs, v.content.ruleSet)
}

// equalJSON compares two values by what they are written as, so that absent and
// empty members are equal, while nil differs from empty.
func equalJSON[T any](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return reflect.DeepEqual(a, b) || string(toJSON(a)) == string(toJSON(b))
}
