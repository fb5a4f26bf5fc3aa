package diffing

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"
	"unicode/utf8"

	"penstock/consumers"
	"penstock/schemas"
)

// Format is how a change is written.
type Format string

// The formats. In all of them a tombstone on the input becomes the event of the
// deletion, followed by a tombstone.
const (
	// Debezium is an object with before, after, op (c for created, u for
	// updated, d for deleted), source (topic, partition, offset and ts_ms of
	// the record that made the change) and ts_ms. Both ts_ms are the record's
	// time in milliseconds, so that an event emitted again is the same.
	Debezium Format = "debezium"
	// JSONPatch is an RFC 6902 patch of the last value. A new key adds, and a
	// deletion removes, the whole value (path "").
	JSONPatch Format = "json-patch"
	// MergePatch is an RFC 7396 patch of the last value; see AppendMergePatch
	// for what that format cannot say. A new key is its value, a deletion is
	// null.
	MergePatch Format = "merge-patch"
	// CloudEvents is a CloudEvents 1.0 event in its structured mode: its type is
	// penstock.created, penstock.updated or penstock.deleted, its subject the key
	// (left out if it is no text), its id that of IDHeader, and its data has
	// before and after.
	CloudEvents Format = "cloudevents"
)

// change is what happened to a key: its values before and after, as canonical
// JSON; nil is nothing.
type change struct {
	before, after []byte
	what          what
	key, id       string
	topic         string // of the record that made it, and where it lies
	partition     int32
	offset        int64
	time          time.Time
	schema, was   schemas.ID // of the values after and before
}

// what is what happened to a key.
type what uint8

const (
	updated what = iota
	created
	deleted
	read // by a snapshot
)

// append appends the event of a change to dst. compare has read both values of
// an update, where the format asks for that.
func (c *change) append(dst []byte, config *Config, compare *Comparer) []byte {
	switch {
	case config.Format == CloudEvents:
		return c.appendCloudEvent(dst)
	case config.Format == Debezium:
		return c.appendEnvelope(dst)
	case config.Format == MergePatch && c.what == updated:
		return compare.appendMerge(dst, 0, 0)
	case config.Format == MergePatch:
		return append(dst, orNull(c.after)...)
	case c.what == updated:
		dst, _ = compare.appendPatch(dst, config.Invertible)
		return dst
	case c.what == deleted:
		dst = appendOperation(append(dst, '['), Remove, nil, c.before, nil, config.Invertible)
	default:
		dst = appendOperation(append(dst, '['), Add, nil, nil, c.after, false)
	}
	return append(dst, ']')
}

// appendCloudEvent appends the CloudEvent of a change.
func (c *change) appendCloudEvent(dst []byte) []byte {
	dst = append(dst, `{"specversion":"1.0","id":`...)
	dst = schemas.AppendJSONString(dst, c.id)
	dst = append(dst, `,"source":`...)
	dst = schemas.AppendJSONString(dst, "/"+url.PathEscape(c.topic))
	dst = append(dst, `,"type":"`+eventType...)
	dst = append(dst, c.what.name()...)
	if c.key != "" && utf8.ValidString(c.key) {
		dst = append(dst, `","subject":`...)
		dst = schemas.AppendJSONString(dst, c.key)
		dst = append(dst, `,"time":"`...)
	} else {
		dst = append(dst, `","time":"`...)
	}
	dst = c.time.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","datacontenttype":"application/json","data":{"before":`...)
	dst = append(dst, orNull(c.before)...)
	dst = append(dst, `,"after":`...)
	return append(append(dst, orNull(c.after)...), "}}"...)
}

// appendEnvelope appends the Debezium envelope of a change.
func (c *change) appendEnvelope(dst []byte) []byte {
	ms := c.time.UnixMilli()
	dst = append(dst, `{"before":`...)
	dst = append(dst, orNull(c.before)...)
	dst = append(dst, `,"after":`...)
	dst = append(dst, orNull(c.after)...)
	dst = append(dst, `,"source":{"topic":`...)
	dst = schemas.AppendJSONString(dst, c.topic)
	return fmt.Appendf(dst, `,"partition":%d,"offset":%d,"ts_ms":%d},"op":"%c","ts_ms":%d}`,
		c.partition, c.offset, ms, ops[c.what], ms)
}

// ops are what happened, in an envelope.
const ops = "ucdr"

// eventType is before what happened, in a CloudEvent.
const eventType = "penstock."

func (w what) name() string { return [...]string{"updated", "created", "deleted", "read"}[w] }

func orNull(text []byte) []byte {
	if text == nil {
		return []byte("null")
	}
	return text
}

// maxKey keeps the key of a record within what every broker takes.
const maxKey = 32_000

// keyOf returns the key of a message: the record's own, or the value's field.
func keyOf(m consumers.Message, field string) (string, error) {
	key := m.Key
	if field != "" {
		var err error
		if key, err = fieldKey(m, field); err != nil {
			return "", err
		}
	} else if key == nil {
		return "", errors.New("expected a record with a key, found none; produce it with a key, or name the field of the value that is the key")
	}
	if len(key) > maxKey {
		return "", fmt.Errorf("expected a key of at most %d bytes, found %d", maxKey, len(key))
	}
	return string(key), nil
}

func fieldKey(m consumers.Message, field string) ([]byte, error) {
	if m.Value == nil {
		return nil, misfit(nil, fmt.Sprintf("a value with the key in field %q", field), "a tombstone", "where there are tombstones, use the record's own key")
	}
	var v any
	var ok bool
	if m.Cells != nil {
		fields := m.Schema.Model().Fields
		i := slices.IndexFunc(fields, func(f schemas.Field) bool { return f.Name == field })
		if ok = i >= 0; ok {
			v = m.Cells[i].Value(fields[i].Node, m.Value)
		}
	} else {
		object, isObject := m.Data.(map[string]any)
		if !isObject {
			return nil, misfit(nil, fmt.Sprintf("an object with the key in field %q", field), schemas.Describe(m.Data), "")
		}
		v, ok = object[field]
	}
	path := []string{field}
	if !ok {
		return nil, misfit(path, "the key", "nothing", "")
	}
	switch v := v.(type) {
	case string:
		return []byte(v), nil
	case []byte:
		return v, nil
	case nil, map[string]any, []any:
		return nil, misfit(path, "the key, a single value", schemas.Describe(v), "")
	}
	key, err := schemas.AppendJSON(nil, v)
	if err != nil {
		return nil, misfit(path, "a value that a schema gives", schemas.Describe(v), "")
	}
	return key, nil
}
