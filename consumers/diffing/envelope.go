package diffing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"penstock/consumers"
	"penstock/schemas"
)

// EnvelopeText is the text of a schema of Debezium envelopes whose before and after
// are values of s, in the language of s, which is Avro or Protobuf. In Protobuf it
// has the references that s has, and EnvelopeIn finds the message in it.
func EnvelopeText(s schemas.Schema) (string, error) {
	switch s.Type() {
	case schemas.Avro:
		return avroEnvelope(s)
	case schemas.Protobuf:
		return protobufEnvelope(s)
	}
	return "", fmt.Errorf("expected values in Avro or Protobuf to write events under a schema of theirs, found %s; leave that out, and the events are JSON: %w", s.Type(), schemas.ErrBadSchema)
}

// EnvelopeIn is the schema of envelopes in what was made of EnvelopeText.
func EnvelopeIn(s schemas.Schema) (schemas.Schema, error) {
	if m, ok := s.(schemas.Messages); ok {
		return m.Message([]int{1})
	}
	return s, nil
}

// protobufEnvelope adds a message to the file of s.
func protobufEnvelope(s schemas.Schema) (string, error) {
	has := func(i int) bool {
		m, ok := s.(schemas.Messages)
		if !ok {
			return false
		}
		_, err := m.Message([]int{i})
		return err == nil
	}
	switch {
	case !has(0):
		return "", fmt.Errorf("expected a file with a message, found none: %w", schemas.ErrBadSchema)
	case has(1):
		return "", fmt.Errorf("expected a file with one message, found more; a schema's number does not say which of them a value is: %w", schemas.ErrBadSchema)
	}
	text, err := schemas.Text(s, "")
	if err != nil {
		return "", err
	}
	value := "." + s.Model().Name
	return text + `
// What happened to a key: its value before and after.
message PenstockChange {
  optional ` + value + ` before = 1;
  optional ` + value + ` after = 2;
  optional Source source = 3;
  optional string op = 4;
  optional int64 ts_ms = 5;

  message Source {
    optional string topic = 1;
    optional int32 partition = 2;
    optional int64 offset = 3;
    optional int64 ts_ms = 4;
  }
}
`, nil
}

func avroEnvelope(s schemas.Schema) (string, error) {
	text, err := schemas.Text(s, "resolved")
	if err != nil {
		return "", err
	}
	var branches []json.RawMessage
	if strings.HasPrefix(text, "[") { // a union in a union there cannot be
		if err := json.Unmarshal([]byte(text), &branches); err != nil {
			return "", err
		}
	} else {
		branches = []json.RawMessage{json.RawMessage(text)}
	}
	before, after := `["null"`, `["null"`
	for _, b := range branches {
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			return "", err
		}
		if v == "null" {
			continue
		}
		again, err := json.Marshal(byName(v))
		if err != nil {
			return "", err
		}
		before += "," + string(b)
		after += "," + string(again)
	}
	return `{"type":"record","name":"PenstockChange","doc":"What happened to a key: its value before and after.","fields":[` +
		`{"name":"before","type":` + before + `],"default":null},` +
		`{"name":"after","type":` + after + `],"default":null},` +
		`{"name":"source","type":{"type":"record","name":"PenstockSource","doc":"The record that made the change.","fields":[` +
		`{"name":"topic","type":"string"},{"name":"partition","type":"int"},{"name":"offset","type":"long"},{"name":"ts_ms","type":"long"}]}},` +
		`{"name":"op","type":"string","doc":"c for created, u for updated, d for deleted, r for read by a snapshot"},` +
		`{"name":"ts_ms","type":"long"}]}`, nil
}

// byName is an Avro type that was defined before: what has a name goes by it.
func byName(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = byName(v[i])
		}
	case map[string]any:
		switch v["type"] {
		case "record", "error", "enum", "fixed":
			name, _ := v["name"].(string)
			if space, _ := v["namespace"].(string); space != "" && !strings.Contains(name, ".") {
				name = space + "." + name
			}
			return name
		}
		for _, member := range []string{"type", "items", "values"} {
			if inner, ok := v[member]; ok {
				v[member] = byName(inner)
			}
		}
	}
	return v
}

// event is what is written of a change. An error that is not ofSink is the
// change's fault.
func (l *lane) event(ctx context.Context, ch *change) ([]byte, error) {
	c := &l.d.config
	room := make([]byte, 0, len(ch.before)+len(ch.after)+fewChanges)
	if c.Envelope == nil {
		return ch.append(room, c, &l.compare), nil
	}
	id := ch.schema
	if ch.what == deleted {
		id = ch.was
	}
	if id == 0 {
		return nil, errors.New("expected a value that names its schema by a number, to write the event under one of its kind, found one that does not")
	}
	to, err := c.Envelope(ctx, id)
	switch {
	case errors.Is(err, schemas.ErrNoSchema), errors.Is(err, schemas.ErrBadSchema):
		return nil, err
	case err != nil:
		return nil, ofSink{fmt.Errorf("look up the schema of the event: %w", err)}
	}
	frame := schemas.AppendFrame(nil, to.ID, to.Schema)
	if ch.before != nil && ch.was != id { // fields that are no more go
		v, err := schemas.ParseText(ch.appendEnvelope(room))
		if err != nil {
			return nil, err
		}
		model := to.Schema.Model()
		event, err := to.Schema.AppendEncode(frame, schemas.Restore(model, consumers.Fitted(model, v)))
		if err == nil {
			return event, nil
		}
		known := *ch
		known.before = nil // it cannot be said
		ch = &known
	}
	return encode(frame, to.Schema, ch.appendEnvelope(room[:0]))
}
