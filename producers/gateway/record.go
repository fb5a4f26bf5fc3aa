package gateway

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"penstock/producers"
	"penstock/schemas"
	"penstock/stream"
)

// The types of a body.
const (
	typeEvent       = "application/json"
	typeCloudEvent  = "application/cloudevents+json"
	typeCloudEvents = "application/cloudevents-batch+json"
	typeRecords     = "application/vnd.kafka.json.v2+json"

	kafkaMedia = "application/vnd.kafka."
	typeV2     = kafkaMedia + "v2+json" // of answers
)

// The forms of a key or a value, as Kafka's REST Proxy v3 names them.
const (
	formBinary   = "BINARY"
	formJSON     = "JSON"
	formString   = "STRING"
	formAvro     = "AVRO"
	formSchema   = "JSONSCHEMA"
	formProtobuf = "PROTOBUF"
)

// kafkaForms are the forms that bodies of v2 have.
var kafkaForms = map[string]string{
	"application/vnd.kafka.binary.v2+json":     formBinary,
	typeRecords:                                formJSON,
	"application/vnd.kafka.avro.v2+json":       formAvro,
	"application/vnd.kafka.jsonschema.v2+json": formSchema,
	"application/vnd.kafka.protobuf.v2+json":   formProtobuf,
}

// languages are the schema languages of the forms that have one.
var languages = map[string]schemas.Type{formAvro: schemas.Avro, formSchema: schemas.JSON, formProtobuf: schemas.Protobuf}

// Choice is which schema a request chooses for its keys or values: the one of an
// ID, the version of the subject, or one by its text, which is registered if the
// subject has none like it. The zero value is the newest of the subject.
type Choice struct {
	ID      schemas.ID
	Version int
	Type    schemas.Type
	Schema  string
}

// request is what a request asks to be published, and what is to be said of it.
type request struct {
	events     []producers.Event
	media      string
	key, value side // of all events
	once       *once
}

// side is a key or a value.
type side struct {
	form    string
	subject string
	found   schemas.Registered // once it is encoded
}

// chosen returns how a key or a value is encoded, and notes in s what it comes to.
// language is what the schema has to be in, unless empty.
func (g *Gateway) chosen(s *side, c Choice, subject producers.Subject, language schemas.Type) (producers.Part, error) {
	if g.cfg.Lookup == nil {
		return producers.Part{}, faultf(codeShape, "this gateway takes the newest schema of each topic; choose none")
	}
	lookup := g.cfg.Lookup(c)
	return producers.Part{
		Subject: subject,
		Lookup: func(ctx context.Context, subject string) (schemas.Registered, error) {
			found, err := lookup(ctx, subject)
			if err == nil && language != "" && found.Schema.Type() != language {
				err = faultf(codeBadSchema, "expected a schema in %s, found schema %d of subject %q in %s", language, found.ID, subject, found.Schema.Type())
			}
			s.subject, s.found = subject, found
			return found, err
		},
	}, nil
}

// records reads the body of v2: {"records": […]}, and which schemas they have.
func (g *Gateway) records(q *request, topic, form string, value any) error {
	const like = `{"records": [{"key": …, "value": …, "headers": {…}}]}`
	body, ok := value.(map[string]any)
	if !ok {
		return shape("", like, schemas.Describe(value), "")
	}
	list, ok := body["records"].([]any)
	if !ok || len(list) == 0 {
		return shape("/records", "an array of at least one record", schemas.Describe(body["records"]), "")
	}
	members := []string{"records"}
	if languages[form] != "" {
		members = append(members, "key_schema", "key_schema_id", "value_schema", "value_schema_id")
	}
	if err := onlyMembers(body, "", members...); err != nil {
		return err
	}
	if len(list) > g.cfg.MaxRecords {
		return faultf(codeTooLarge, "expected at most %d records, found %d; send fewer at a time", g.cfg.MaxRecords, len(list))
	}
	keys, err := choiceV2(body, "key", form)
	if err != nil {
		return err
	}
	values, err := choiceV2(body, "value", form)
	if err != nil {
		return err
	}
	// One Topic for all, so that each schema is looked up once.
	how := &producers.Topic{AllowRaw: g.cfg.AllowRaw(topic)}
	if keys != nil {
		how.Key, err = g.chosen(&q.key, *keys, nil, languages[form])
	}
	if values != nil && err == nil {
		how.Value, err = g.chosen(&q.value, *values, nil, languages[form])
	}
	if err != nil {
		return err
	}
	for i, item := range list {
		e, err := eventV2(topic, form, item, "/records/"+strconv.Itoa(i), keys != nil, how.AllowRaw)
		if err != nil {
			return err
		}
		e.How = how
		q.events = append(q.events, e)
	}
	return nil
}

// choiceV2 reads key_schema and key_schema_id, or those of the value; nil is
// neither.
func choiceV2(body map[string]any, part, form string) (*Choice, error) {
	c := &Choice{Type: languages[form]}
	text, id := body[part+"_schema"], body[part+"_schema_id"]
	switch {
	case text == nil && id == nil:
		return nil, nil //nolint:nilnil // no choice is no error
	case text != nil && id != nil:
		return nil, shape("/"+part+"_schema_id", "either a schema or its id", "both", "")
	case text != nil:
		var ok bool
		if c.Schema, ok = text.(string); !ok {
			return nil, shape("/"+part+"_schema", "the text of a schema as a string", schemas.Describe(text), "")
		}
		return c, nil
	}
	n, err := positive(id, "/"+part+"_schema_id")
	c.ID = schemas.ID(n)
	return c, err
}

// positive reads a number from 1 on.
func positive(v any, pointer string) (int32, error) {
	if number, ok := v.(json.Number); ok {
		if n, err := strconv.ParseInt(number.String(), 10, 32); err == nil && n > 0 {
			return int32(n), nil
		}
	}
	return 0, shape(pointer, "a whole number from 1 on", schemas.Describe(v), "")
}

// eventV2 reads one record of v2.
func eventV2(topic, form string, item any, pointer string, keySchema, raw bool) (e producers.Event, err error) {
	object, ok := item.(map[string]any)
	if !ok {
		return e, shape(pointer, `a record, {"key": …, "value": …}`, schemas.Describe(item), "")
	}
	if err := onlyMembers(object, pointer, "key", "value", "headers"); err != nil {
		return e, err
	}
	e.Topic = topic
	if key := object["key"]; key != nil {
		switch {
		case keySchema:
			e.KeyValue = key
		case form == formBinary:
			e.Key, err = decode64(key, pointer+"/key")
		default:
			e.Key, err = keyOf(key)
		}
		if err != nil {
			return e, err
		}
	}
	value, ok := object["value"]
	switch {
	case !ok:
		return e, shape(pointer+"/value", "the event, or null for a tombstone", "nothing", "")
	case value == nil && e.Key == nil && e.KeyValue == nil:
		return e, shape(pointer+"/key", "a key, because the record is a tombstone", "nothing", "")
	case value == nil:
	case form == formBinary:
		if e.Value, err = binary(value, pointer+"/value", raw); err != nil {
			return e, err
		}
	default:
		e.Value = asEvent(value)
	}
	e.Headers, err = headers(object["headers"], pointer+"/headers")
	return e, err
}

// binary reads base64: bytes that name their schema, or raw ones where those are
// admitted.
func binary(v any, pointer string, raw bool) (any, error) {
	b, err := decode64(v, pointer)
	switch {
	case err != nil:
		return nil, err
	case raw:
		return producers.Raw(b), nil
	}
	return producers.Framed(b), nil
}

// decode64 reads base64.
func decode64(v any, pointer string) ([]byte, error) {
	text, ok := v.(string)
	if ok {
		if b, err := base64.StdEncoding.DecodeString(text); err == nil {
			return b, nil
		}
	}
	return nil, shape(pointer, "base64 in a string", schemas.Describe(v), "")
}

// headers reads an object of strings, in the order of their names.
func headers(value any, pointer string) ([]stream.Header, error) {
	if value == nil {
		return nil, nil
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, shape(pointer, "an object of strings", schemas.Describe(value), "")
	}
	var out []stream.Header
	for _, name := range slices.Sorted(maps.Keys(object)) {
		text, ok := object[name].(string)
		if !ok {
			return nil, shape(pointer+"/"+schemas.EscapePointer(clip(name)), "a string", schemas.Describe(object[name]), "")
		}
		out = append(out, stream.Header{Key: name, Value: []byte(text)})
	}
	return out, nil
}
