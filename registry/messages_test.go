package registry

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/schemas"
)

func TestMessages(t *testing.T) {
	f := func(typ schemas.Type, level Level, findings []Finding, want ...string) {
		t.Helper()
		var versions []storedVersion
		for i, text := range []string{"one", strings.Repeat("é", maxOldSchema), strings.Repeat("é", maxOldSchema+1)} {
			versions = append(versions, storedVersion{version: &version{number: i + 1, content: &content{schemaType: typ, text: text}}})
		}
		v := verdict{against: comparison{level: level, versions: versions}, findings: findings}
		if diff := cmp.Diff(want, v.messages()); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", typ, level, diff)
		}
	}
	finding := func(rule string, version int, d Direction) Finding {
		return Finding{Rule: rule, Severity: SeverityError, Version: version, Direction: d, Message: "it's wrong", Detail: "more"}
	}
	f(schemas.Avro, LevelBackward, nil)
	f(schemas.Avro, LevelBackward, []Finding{{Rule: "I", Severity: SeverityInfo, Version: 1}})

	// Each language's shape, and the newest version that fails alone.
	all := []Finding{{Rule: "W", Severity: SeverityWarning, Version: 3}, finding("A", 1, Backward), finding("B", 1, Backward)}
	old := []string{"{oldSchemaVersion: 1}", "{oldSchema: 'one'}", "{validateFields: 'false', compatibility: 'BACKWARD'}"}
	f(schemas.Avro, LevelBackward, all, append([]string{"{errorType:'A', description:'it's wrong', additionalInfo:'more'}", "{errorType:'B', description:'it's wrong', additionalInfo:'more'}"}, old...)...)
	f(schemas.Protobuf, LevelBackward, all, append([]string{`{errorType:"A", description:"it's wrong"}`, `{errorType:"B", description:"it's wrong"}`}, old...)...)
	f(schemas.JSON, LevelBackward, all, append([]string{`{errorType:"A", description:"it's wrong'}`, `{errorType:"B", description:"it's wrong'}`}, old...)...)
	f(schemas.Avro, LevelBackward, []Finding{{Rule: "A", Severity: SeverityError, Version: 1, Message: "m"}}, append([]string{"{errorType:'A', description:'m'}"}, old...)...)

	// The old schema is cut, after whole characters.
	f(schemas.Avro, LevelForwardTransitive, []Finding{finding("A", 2, Forward), finding("A", 1, Forward)},
		"{errorType:'A', description:'it's wrong', additionalInfo:'more'}", "{oldSchemaVersion: 2}", "{oldSchema: '"+strings.Repeat("é", maxOldSchema)+"'}", "{validateFields: 'false', compatibility: 'FORWARD_TRANSITIVE'}")
	f(schemas.Avro, LevelForward, []Finding{finding("A", 3, Forward)},
		"{errorType:'A', description:'it's wrong', additionalInfo:'more'}", "{oldSchemaVersion: 3}", "{oldSchema: '"+strings.Repeat("é", maxOldSchema)+"...'}", "{validateFields: 'false', compatibility: 'FORWARD'}")

	// Both directions.
	f(schemas.Protobuf, LevelFull, []Finding{finding("A", 1, Forward), finding("B", 1, Backward)},
		`{errorType:"A", description:"it's wrong"}`, `{errorType:"B", description:"it's wrong"}`, "{oldSchemaVersion: 1}", "{oldSchema: 'one'}", "{validateFields: 'false', compatibility: 'FULL'}")
	f(schemas.Protobuf, LevelFullTransitive, []Finding{finding("A", 1, Forward)},
		`{errorType:"A", description:"it's wrong"}`, "{validateFields: 'false', compatibility: 'FULL_TRANSITIVE'}")

	// Another language has nothing to show.
	f(schemas.JSON, LevelBackward, []Finding{finding(schemaTypeChanged, 3, Backward)},
		"it's wrong", "{validateFields: 'false', compatibility: 'BACKWARD'}")
}
