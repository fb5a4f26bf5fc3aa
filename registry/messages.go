package registry

import (
	"fmt"
	"strings"
)

// maxOldSchema is where the text of the old schema is cut in messages.
const maxOldSchema = 10240

// messages renders the findings against the newest version that fails in the
// shape in which Confluent's registry lists them.
func (v verdict) messages() []string {
	if v.err != nil {
		return []string{public(v.err).Message}
	}
	var list []string
	failed := 0
	for _, f := range v.findings {
		if f.Severity != SeverityError || failed != 0 && f.Version != failed {
			continue
		}
		failed = f.Version
		s := fmt.Sprintf("{errorType:'%s', description:'%s'", f.Rule, f.Message)
		if f.Detail != "" {
			s += fmt.Sprintf(", additionalInfo:'%s'", f.Detail)
		}
		list = append(list, s+"}")
	}
	if failed == 0 {
		return nil
	}
	for _, old := range v.against.versions {
		if old.number == failed {
			text := old.content.text
			if len(text) > maxOldSchema {
				text = strings.ToValidUTF8(text[:maxOldSchema], "") + "..."
			}
			list = append(list, fmt.Sprintf("{oldSchemaVersion: %d}", failed), fmt.Sprintf("{oldSchema: '%s'}", text))
		}
	}
	return append(list, fmt.Sprintf("{validateFields: '%t', compatibility: '%s'}", v.against.reserved, v.against.level))
}

// details is the list as the text of a refusal has it.
func (v verdict) details() string {
	return "[" + strings.Join(v.messages(), ", ") + "]"
}
