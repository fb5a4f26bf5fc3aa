package registry

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"penstock/schemas"
)

// The kinds of record that the index is made from. Records of other kinds
// (NOOP, and what is still to come) are passed over.
const (
	schemaRecord        = "SCHEMA"
	configRecord        = "CONFIG"
	modeRecord          = "MODE"
	deleteSubjectRecord = "DELETE_SUBJECT"
	clearSubjectRecord  = "CLEAR_SUBJECT"
	contextRecord       = "CONTEXT"
	associationRecord   = "ASSOC"
	// noopRecord says nothing, as others write it; see exporterKey.
	noopRecord = "NOOP"
)

// recordKey is the key of every kind of record. The order of its fields is
// part of the format: a log that compacts compares the bytes.
type recordKey struct {
	KeyType           string `json:"keytype"`
	Tenant            string `json:"tenant,omitempty"`
	Context           string `json:"context,omitempty"`
	ResourceName      string `json:"resourceName,omitempty"`
	ResourceNamespace string `json:"resourceNamespace,omitempty"`
	ResourceType      string `json:"resourceType,omitempty"`
	AssociationType   string `json:"associationType,omitempty"`
	Subject           string `json:"subject,omitempty"`
	Version           int    `json:"version,omitempty"`
	Magic             int    `json:"magic"`
}

// tenant is the one that all records belong to which name one.
const tenant = "default"

type contextValue struct {
	Tenant  string `json:"tenant"`
	Context string `json:"context"`
}

type clearSubjectValue struct {
	Subject string `json:"subject,omitempty"`
}

func contextEvent(context string, value any, now time.Time) Event {
	return event(recordKey{KeyType: contextRecord, Tenant: tenant, Context: context}, value, now)
}

// MarshalJSON writes the key byte for byte as other registries do, with <, >
// and & as they are; that of the whole registry's settings has null where others
// have their subject. A tombstone with other bytes would go some day, and what
// it took away come back.
func (k recordKey) MarshalJSON() ([]byte, error) {
	type plain recordKey
	if k.Subject != "" || k.KeyType != configRecord && k.KeyType != modeRecord {
		return toJSON(plain(k)), nil
	}
	return toJSON(struct {
		KeyType string  `json:"keytype"`
		Subject *string `json:"subject"`
		Magic   int     `json:"magic"`
	}{k.KeyType, nil, k.Magic}), nil
}

// schemaValue is the value of a SCHEMA record.
type schemaValue struct {
	Subject string `json:"subject"`
	Version int    `json:"version"`
	ID      int    `json:"id"`
	MD5     string `json:"md5,omitempty"`
	// SchemaType is absent for Avro.
	SchemaType schemas.Type `json:"schemaType,omitempty"`
	References []Reference  `json:"references,omitempty"`
	Metadata   *Metadata    `json:"metadata,omitempty"`
	RuleSet    *RuleSet     `json:"ruleSet,omitempty"`
	Schema     string       `json:"schema"`
	Deleted    bool         `json:"deleted"`
}

type configValue struct {
	Subject string `json:"subject,omitempty"`
	Config
}

type modeValue struct {
	Subject string `json:"subject,omitempty"`
	Mode    Mode   `json:"mode"`
}

// deleteSubjectValue deletes the versions of a subject up to Version softly.
type deleteSubjectValue struct {
	Subject string `json:"subject"`
	Version int    `json:"version"`
}

// event makes a record of key and value, or a tombstone where value is nil.
func event(key recordKey, value any, now time.Time) Event {
	e := Event{Time: now.Truncate(time.Millisecond), Key: toJSON(key)}
	if value != nil {
		e.Value = toJSON(value)
	}
	return e
}

func schemaKey(subject string, version int) recordKey {
	return recordKey{KeyType: schemaRecord, Subject: subject, Version: version, Magic: 1}
}

func schemaEvent(subject string, v *version, now time.Time) Event {
	c := v.content
	value := schemaValue{
		Subject: subject, Version: v.number, ID: v.id,
		MD5:        base64.StdEncoding.EncodeToString(c.guid[:]),
		References: c.references, Metadata: c.metadata, RuleSet: c.ruleSet,
		Schema: c.text, Deleted: v.deleted,
	}
	if c.schemaType != schemas.Avro {
		value.SchemaType = c.schemaType
	}
	return event(schemaKey(subject, v.number), value, now)
}

// errNoRecord says that something in the log is no record of a registry.
var errNoRecord = errors.New("not a record of a registry")

// record is an event that was read, as far as that can be done without an index:
// the key, and the value of a SCHEMA record, which is most of the work.
type record struct {
	Event // without a Value if it is a tombstone
	key   recordKey
	// ours is whether the key's bytes are those that we write for it.
	ours bool
	// version is what a SCHEMA record says, unless it is a tombstone.
	version *version
	err     error // why it could not be read
}

func readRecord(e Event) record {
	r := record{Event: e}
	if err := readKey(e.Key, &r.key); err != nil || r.key.KeyType == "" {
		r.err = errNoRecord
		return r
	}
	r.Value, r.ours = valueOf(e.Value), spelledOurWay(e.Key, r.key)
	if !r.ours && r.Value != nil && misplaced(e) {
		r.err = fmt.Errorf("%w, or the one that came second of two at a time", errNoRecord)
		return r
	}
	if r.key.Magic < 0 || r.key.Magic > 1 {
		r.err = fmt.Errorf("record of kind %s has version %d, expected 0 or 1: it was written by a newer registry", r.key.KeyType, r.key.Magic)
	} else if r.key.KeyType == schemaRecord && r.Value != nil {
		r.err = r.unreadable(r.readVersion())
	}
	return r
}

// misplaced reports whether a record names the offset that it was meant for, and
// has another. Redpanda's nodes write at a time; the one that came second has
// lost, and tries again.
func misplaced(e Event) bool {
	var meant struct {
		Seq *uint64 `json:"seq"`
	}
	return json.Unmarshal(e.Key, &meant) == nil && meant.Seq != nil && *meant.Seq+1 != e.Position
}

func (r *record) readVersion() error {
	var v schemaValue
	if err := readSchema(r.Value, &v); err != nil {
		return err
	}
	if r.key.Version < 1 || v.ID < 1 {
		return fmt.Errorf("version %d with id %d, expected both above 0", r.key.Version, v.ID)
	}
	if v.SchemaType == "" {
		v.SchemaType = schemas.Avro
	}
	r.version = &version{
		number: r.key.Version, id: v.ID, deleted: v.Deleted, registered: r.Time,
		content: newContent(v.SchemaType, v.Schema, v.References, v.Metadata, v.RuleSet),
	}
	return nil
}

func (r *record) unreadable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("read %s record of subject %q: %w", r.key.KeyType, r.key.Subject, err)
}

// apply reads an event and folds it into x.
func (x *index) apply(e Event) error { return x.fold(readRecord(e)) }

// fold folds a record into x. It is the only place that changes an index, so
// that replay yields what the writes made.
func (x *index) fold(r record) error {
	key, e := r.key, r.Event
	switch {
	case errors.Is(r.err, errNoRecord):
		return r.err
	case e.Value == nil:
		x.unspell(key, e.Key)
	case !r.ours:
		x.spell(key, e.Key)
	}
	if r.err != nil {
		return r.err
	}
	var err error
	switch key.KeyType {
	case schemaRecord:
		if r.version == nil {
			x.removeVersion(key.Subject, key.Version)
			break
		}
		r.version.content = x.intern(r.version.content)
		x.putVersion(key.Subject, r.version)
	case configRecord:
		var v configValue
		if err = decode(e.Value, &v); err == nil {
			x.configs.put(key.Subject, pointerUnless(e.Value == nil, v.Config))
		}
	case modeRecord:
		var v modeValue
		if err = decode(e.Value, &v); err == nil {
			x.modes.put(key.Subject, pointerUnless(e.Value == nil, v.Mode))
		}
	case deleteSubjectRecord:
		var v deleteSubjectValue
		if err = decode(e.Value, &v); err == nil && e.Value != nil {
			x.deleteSubject(key.Subject, v.Version)
		}
	case noopRecord:
		if key.Subject != "" {
			x.exporters.put(key.Subject, pointerUnless(e.Value == nil, json.RawMessage(e.Value)))
		}
	case clearSubjectRecord:
		if e.Value != nil {
			x.clearSubject(key.Subject)
		}
	case contextRecord:
		if e.Value == nil {
			x.contexts.put(key.Context, nil)
		} else {
			x.putContext(key.Context)
		}
	case associationRecord:
		key.Tenant, key.Magic = tenant, 0
		var v Association
		if err = decode(e.Value, &v); err == nil && e.Value != nil {
			x.putAssociation(v.withKey(key))
		} else if err == nil {
			x.removeAssociation(key)
		}
	}
	return r.unreadable(err)
}

// valueOf is nil for a tombstone, which Karapace writes as a value of no bytes.
func valueOf(raw []byte) []byte {
	switch string(raw) {
	case "", "null", `""`:
		return nil
	}
	return raw
}

// spelledOurWay reports whether a key's bytes are those that we write for it.
func spelledOurWay(raw []byte, key recordKey) bool {
	// Nearly all keys are of this form, without anything to escape.
	rest, ofSchema := bytes.CutPrefix(raw, []byte(`{"keytype":"SCHEMA","subject":"`))
	rest, named := bytes.CutPrefix(rest, []byte(key.Subject))
	if ofSchema && named && bytes.IndexByte(raw, '\\') < 0 {
		return string(rest) == `","version":`+strconv.Itoa(key.Version)+`,"magic":`+strconv.Itoa(key.Magic)+`}`
	}
	return bytes.Equal(raw, toJSON(key))
}

// spell notes that the log holds the record of a key under other bytes than
// ours: Karapace orders members otherwise, and escapes what is not ASCII. Kafka,
// which compacts by the bytes, would keep it when our tombstone is gone.
func (x *index) spell(key recordKey, raw []byte) {
	known := deref(x.spellings.get(key))
	if !slices.Contains(known, string(raw)) {
		x.spellings.put(key, new(append(slices.Clone(known), string(raw))))
	}
}

func (x *index) unspell(key recordKey, raw []byte) {
	if known := x.spellings.get(key); known != nil {
		rest := slices.DeleteFunc(slices.Clone(*known), func(s string) bool { return s == string(raw) })
		x.spellings.put(key, pointerUnless(len(rest) == 0, rest))
	}
}

// buried adds to the tombstones among events those of the keys' other spellings.
func (x *index) buried(events []Event) []Event {
	for _, e := range slices.Clone(events) {
		if e.Value != nil || len(x.spellings.base)+len(x.spellings.over) == 0 {
			continue
		}
		var key recordKey
		if readKey(e.Key, &key) != nil {
			continue
		}
		for _, raw := range deref(x.spellings.get(key)) {
			events = append(events, Event{Time: e.Time, Key: []byte(raw)})
		}
	}
	return events
}

// decode reads a value; a tombstone leaves v as it is.
func decode(raw []byte, v any) error {
	if raw == nil {
		return nil
	}
	return json.Unmarshal(raw, v)
}

func pointerUnless[T any](absent bool, v T) *T {
	if absent {
		return nil
	}
	return &v
}
