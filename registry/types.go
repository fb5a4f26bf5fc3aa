package registry

import (
	"strings"

	"penstock/schemas"
)

// Schema is one version of a subject, as the API writes it. In a request only
// the text, its type and references, metadata and rule set are read, and, in
// mode IMPORT, ID and Version.
type Schema struct {
	Subject string `json:"subject,omitempty"`
	Version int    `json:"version,omitempty"`
	ID      int    `json:"id,omitempty"`
	GUID    string `json:"guid,omitempty"`
	// SchemaType is the language; absent in a request it is Avro.
	SchemaType schemas.Type `json:"schemaType,omitempty"`
	References []Reference  `json:"references,omitempty"`
	Metadata   *Metadata    `json:"metadata,omitempty"`
	RuleSet    *RuleSet     `json:"ruleSet,omitempty"`
	// Schema is the text: as sent in a request, in canonical form in a reply.
	Schema string `json:"schema"`
	// Timestamp is when the version was registered, in milliseconds since 1970.
	Timestamp int64 `json:"ts,omitempty"`
	Deleted   bool  `json:"deleted"`
	// Normalize asks, in a request, for the normalised text. It is a parameter
	// of the API, and no part of a body.
	Normalize bool `json:"-"`
}

// Reference names a version of another subject that a schema builds on.
type Reference struct {
	// Name is how the schema's text refers to it: a full name in Avro, a URI
	// in JSON Schema, an import path in Protobuf.
	Name    string `json:"name"`
	Subject string `json:"subject"`
	// Version is -1 for the latest at the time of the request.
	Version int `json:"version"`
}

// Metadata is what a schema says about itself. The registry keeps it and takes
// it for part of the schema's identity.
type Metadata struct {
	Tags       map[string][]string `json:"tags,omitempty"`
	Properties map[string]string   `json:"properties,omitempty"`
	Sensitive  []string            `json:"sensitive,omitempty"`
}

// RuleSet holds a schema's data contract rules. The registry keeps them, and
// takes them for part of the schema's identity; clients run them.
type RuleSet struct {
	MigrationRules []Rule `json:"migrationRules,omitempty"`
	DomainRules    []Rule `json:"domainRules,omitempty"`
	EncodingRules  []Rule `json:"encodingRules,omitempty"`
	EnableAt       string `json:"enableAt,omitempty"`
}

// Rule is one data contract rule.
type Rule struct {
	Name      string            `json:"name"`
	Doc       string            `json:"doc,omitempty"`
	Kind      string            `json:"kind,omitempty"` // empty is TRANSFORM
	Mode      string            `json:"mode,omitempty"` // empty is WRITEREAD
	Type      string            `json:"type,omitempty"`
	Tags      []string          `json:"tags,omitempty"`
	Params    map[string]string `json:"params,omitempty"`
	Expr      string            `json:"expr,omitempty"`
	OnSuccess string            `json:"onSuccess,omitempty"`
	OnFailure string            `json:"onFailure,omitempty"`
	Disabled  bool              `json:"disabled,omitempty"`
}

// SubjectVersion names one version.
type SubjectVersion struct {
	Subject string `json:"subject"`
	Version int    `json:"version"`
}

// Config is the configuration of a subject, a context, or the whole registry.
// What is absent is not configured there.
type Config struct {
	CompatibilityLevel  Level  `json:"compatibilityLevel,omitempty"`
	CompatibilityPolicy Policy `json:"compatibilityPolicy,omitempty"`
	// CompatibilityGroup names a metadata property; only versions with the same
	// value of it are compared.
	CompatibilityGroup string `json:"compatibilityGroup,omitempty"`
	// Normalize normalises every schema that comes in.
	Normalize *bool `json:"normalize,omitempty"`
	// ValidateFields looks at reserved names, see ReservedProperty.
	ValidateFields *bool `json:"validateFields,omitempty"`
	// ValidateNewSchemas, unless it is false, refuses what Confluent's clients
	// keep for themselves, see subjectState.validate. What no reader could use
	// is refused in any case.
	ValidateNewSchemas *bool `json:"validateNewSchemas,omitempty"`
	// ValidateRules is kept for clients that set it: the form of rules is
	// validated in any case, and what they say, by whoever runs them.
	ValidateRules *bool `json:"validateRules,omitempty"`
	// Alias is the subject that is meant wherever this one is named, but where
	// configuration and modes are.
	Alias string `json:"alias,omitempty"`
	// AliasForDeks is kept for clients that encrypt: it is for a registry of
	// keys, which this one is not.
	AliasForDeks string `json:"aliasForDeks,omitempty"`
	// Every schema that is registered gets the defaults below what it says
	// itself, and the overrides above.
	DefaultMetadata  *Metadata `json:"defaultMetadata,omitempty"`
	OverrideMetadata *Metadata `json:"overrideMetadata,omitempty"`
	DefaultRuleSet   *RuleSet  `json:"defaultRuleSet,omitempty"`
	OverrideRuleSet  *RuleSet  `json:"overrideRuleSet,omitempty"`
}

// ReservedProperty is the metadata property that lists, with commas, the names
// that no field may have. Where Config.ValidateFields is set, a name cannot be
// taken off the list, and a new schema cannot use one.
const ReservedProperty = "confluent:reserved"

// versionProperty is the metadata property that holds the number of the version
// it is in, and so makes a schema differ from what was registered before.
const versionProperty = "confluent:version"

// Mode says what may be written to a subject.
type Mode string

// The modes.
const (
	// ReadWrite is the default.
	ReadWrite Mode = "READWRITE"
	// ReadOnly refuses every write to schemas.
	ReadOnly Mode = "READONLY"
	// ReadOnlyOverride, set for a context or for all, is ReadOnly whatever the
	// modes below say.
	ReadOnlyOverride Mode = "READONLY_OVERRIDE"
	// Import takes ids and versions as given and checks no compatibility, to
	// copy another registry.
	Import Mode = "IMPORT"
	// ForwardMode is Import for a registry that follows another all the time. It
	// can be set for the whole registry only.
	ForwardMode Mode = "FORWARD"
)

func (m Mode) valid() bool {
	return m == ReadWrite || m == Import || m == ForwardMode || m.readOnly()
}

func (m Mode) readOnly() bool { return m == ReadOnly || m == ReadOnlyOverride }

// imports reports whether ids and versions come with the schemas.
func (m Mode) imports() bool { return m == Import || m == ForwardMode }

// Severity says how much a finding weighs.
type Severity string

// The severities. A finding of SeverityError makes schemas incompatible, the
// others do not.
const (
	SeverityError   Severity = "ERR"
	SeverityWarning Severity = "WARN"
	SeverityInfo    Severity = "INFO"
)

// Direction says which of two schemas reads.
type Direction string

// The directions.
const (
	// Backward: the new schema reads what was written with the old.
	Backward Direction = "BACKWARD"
	// Forward: the old schema reads what is written with the new.
	Forward Direction = "FORWARD"
)

// Finding is one difference between a new schema and an old one that a rule of
// evolution speaks about.
type Finding struct {
	// Rule is the rule's name, as Confluent spells it where it has one.
	Rule     string   `json:"rule"`
	Severity Severity `json:"severity"`
	// Direction says which side reads: in BACKWARD the new schema does.
	Direction Direction `json:"direction"`
	// ReaderPath and WriterPath are where the difference lies in the two
	// schemas, as JSON pointers; / is the root. WriterPath is the nearest
	// place that exists in the writer's schema.
	ReaderPath string `json:"readerPath"`
	WriterPath string `json:"writerPath"`
	// Message says in plain words what is wrong, and what it breaks.
	Message string `json:"message"`
	// Detail is the bare fact behind it: a field's name, the missing symbols.
	Detail string `json:"detail,omitempty"`
	// Fix is what to change in the new schema; it may be empty.
	Fix string `json:"fix,omitempty"`
	// Version is the registered version compared with. Registry sets it.
	Version int `json:"version,omitempty"`
	// ReaderAt and WriterAt are where the paths lie in the texts of the two
	// schemas, nil where that is not known. The texts are the canonical ones
	// unless who shows the finding has located it in others.
	ReaderAt *Position `json:"readerAt,omitempty"`
	WriterAt *Position `json:"writerAt,omitempty"`
}

// Position is a place in a text, counted from 1; columns count characters.
type Position struct {
	Line   int `json:"line"`
	Column int `json:"column"`
}

// Policy says how strict the comparison of schemas is, where a language knows
// more than one way.
type Policy string

// The policies.
const (
	// PolicyStrict is the default.
	PolicyStrict Policy = "STRICT"
	// PolicyLenient lets JSON Schemas change what their content models leave
	// open; the other languages know no difference.
	PolicyLenient Policy = "LENIENT"
	// PolicyLogical is PolicyStrict and, beyond that, that the data can stay in
	// one table: the types of its columns only widen.
	PolicyLogical Policy = "LOGICAL"
)

// ParsePolicy reads a policy, in any case.
func ParsePolicy(s string) (Policy, error) {
	p := Policy(strings.ToUpper(s))
	if p != PolicyStrict && p != PolicyLenient && p != PolicyLogical {
		return "", errorf(CodeInvalidLevel, "Invalid compatibility policy %q. Valid values are strict, lenient, and logical", s)
	}
	return p, nil
}
