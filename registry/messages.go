package registry

import (
	"fmt"
	"slices"
	"strings"

	"penstock/schemas"
)

// maxOldSchema is how many characters of the old schema a message repeats.
const maxOldSchema = 10240

// messages renders the findings against the newest version that fails in the
// shape in which Confluent's registry lists them.
func (v verdict) messages() []string {
	if v.err != nil {
		return []string{public(v.err).Message}
	}
	first := slices.IndexFunc(v.findings, func(f Finding) bool { return f.Severity == SeverityError })
	if first < 0 {
		return nil
	}
	failed := v.findings[first].Version
	var old *content
	for _, version := range v.against.versions {
		if version.number == failed {
			old = version.content
		}
	}
	var list []string
	var directions []Direction
	for _, f := range v.findings {
		if f.Severity != SeverityError || f.Version != failed {
			continue
		}
		if f.Rule == schemaTypeChanged || old == nil {
			list = append(list, f.Message)
			continue
		}
		list = append(list, message(old.schemaType, f))
		directions = append(directions, f.Direction)
	}
	// Of a level that looks both ways the registry in use shows the old schema
	// only where it is the new one that cannot read.
	ways := levels[v.against.level].directions
	if len(ways) == 1 && len(directions) > 0 || slices.Contains(directions, Backward) {
		list = append(list, fmt.Sprintf("{oldSchemaVersion: %d}", failed), fmt.Sprintf("{oldSchema: '%s'}", cut(old.text, maxOldSchema)))
	}
	return append(list, fmt.Sprintf("{validateFields: '%t', compatibility: '%s'}", v.against.reserved, v.against.level))
}

// message is one finding. Each language has a shape of its own; that of JSON
// Schema ends in a quote other than it begins with, and readers know it so.
func message(t schemas.Type, f Finding) string {
	switch t {
	case schemas.Protobuf:
		return fmt.Sprintf(`{errorType:"%s", description:"%s"}`, f.Rule, f.Message)
	case schemas.JSON:
		return fmt.Sprintf(`{errorType:"%s", description:"%s'}`, f.Rule, f.Message)
	}
	s := fmt.Sprintf("{errorType:'%s', description:'%s'", f.Rule, f.Message)
	if f.Detail != "" {
		s += fmt.Sprintf(", additionalInfo:'%s'", f.Detail)
	}
	return s + "}"
}

// cut returns the first n characters of s, and a sign that there are more.
func cut(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i] + "..."
		}
		n--
	}
	return s
}

// details is the list as the text of a refusal has it.
func (v verdict) details() string {
	return "[" + strings.Join(v.messages(), ", ") + "]"
}
