package diffing

import (
	"errors"
	"fmt"
	"strings"

	"penstock/consumers"
	"penstock/schemas"
)

// missed is what to do where an event is of another value than the last.
const missed = "events of this key are missing or out of order; a snapshot by the differ brings it back"

// fold returns what the value of a key is after an event, as canonical JSON; nil is
// that there is none. Its error says why the event cannot be applied to the value
// before. An event that leads to the value that is there already can, for it has
// come again; and so can one of a snapshot, whatever was before.
func (f Format) fold(before []byte, m consumers.Message) (after []byte, err error) {
	if m.Value == nil {
		return nil, nil
	}
	switch f {
	case JSONPatch:
		operations, err := operationsOf(m.Data)
		if err != nil {
			return nil, fmt.Errorf("read patch: %w", err)
		}
		v, err := parseState(before)
		if err != nil {
			return nil, err
		}
		v, gone, err := applyAll(operations, v, before == nil)
		if err != nil || gone {
			return nil, err
		}
		return schemas.AppendJSON(nil, v)
	case MergePatch:
		if m.Data == nil {
			return nil, nil
		}
		v, err := parseState(before)
		if err != nil {
			return nil, err
		}
		return schemas.AppendJSON(nil, ApplyMerge(v, m.Data))
	case CloudEvents:
		return foldCloudEvent(before, m.Data)
	}
	return foldEnvelope(before, m.Data, m.Schema)
}

// parseState reads what fold made. An error wraps ErrCorrupt.
func parseState(text []byte) (any, error) {
	if text == nil {
		return nil, nil
	}
	v, err := parseJSON(text)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrCorrupt, err)
	}
	return v, nil
}

// foldEnvelope applies a Debezium envelope that was written with a schema. Where its
// values have one of their own (see EnvelopeText), before may say what the last value
// is in that.
func foldEnvelope(before []byte, event any, schema schemas.Schema) ([]byte, error) {
	object, ok := event.(map[string]any)
	if !ok {
		return nil, misfit(nil, "a Debezium envelope, an object with before, after and op", schemas.Describe(event), "say what format the events have")
	}
	op, _ := object["op"].(string)
	w := what(strings.Index(ops, op))
	if len(op) != 1 || int(w) >= len(ops) {
		return nil, misfit([]string{"op"}, "c, u, d or r", found(object, "op"), "say what format the events have")
	}
	var model *schemas.Node
	if schema != nil {
		if f := schema.Model().Field("before"); f != nil {
			model, _ = f.Node.Nullable()
		}
	}
	return foldChange(before, w, object, nil, model)
}

// foldCloudEvent applies a CloudEvent.
func foldCloudEvent(before []byte, event any) ([]byte, error) {
	object, ok := event.(map[string]any)
	if !ok {
		return nil, misfit(nil, "a CloudEvent, an object with type and data", schemas.Describe(event), "say what format the events have")
	}
	kind, _ := object["type"].(string)
	for w := updated; w <= read; w++ {
		if kind != eventType+w.name() {
			continue
		}
		data, ok := object["data"].(map[string]any)
		if !ok {
			return nil, misfit([]string{"data"}, "an object with before and after", found(object, "data"), "")
		}
		return foldChange(before, w, data, []string{"data"}, nil)
	}
	return nil, misfit([]string{"type"}, "penstock.created, penstock.updated, penstock.deleted or penstock.read", found(object, "type"), "say what format the events have")
}

// foldChange applies what happened, if the members before and after of data, which
// is at path, agree with the value before. Where there is none in data, or it is
// null, the one who wrote it does not know. model is what the value before is of, nil
// for none in particular.
func foldChange(before []byte, w what, data map[string]any, path []string, model *schemas.Node) (after []byte, err error) {
	if w != deleted {
		v, ok := data["after"]
		if !ok {
			return nil, misfit(append(path, "after"), "the value after the change", "nothing", "")
		}
		if after, err = schemas.AppendJSON(nil, v); err != nil {
			return nil, err
		}
	}
	if w == read || (before == nil) == (after == nil) && string(before) == string(after) {
		return after, nil
	}
	claimed, err := schemas.AppendJSON(nil, data["before"])
	if err != nil {
		return nil, err
	}
	at := append(path, "before")
	switch {
	case w == created && before != nil:
		return nil, misfit(at, "nothing, since the key has no value yet", "a key that has one", missed)
	case w == created, data["before"] == nil:
	case before == nil:
		return nil, misfit(at, "the last value of the key", "a key that has none", missed)
	case string(claimed) != string(before):
		if same, err := evolved(before, claimed, model); err != nil {
			return nil, err
		} else if !same {
			return nil, misfit(at, "the last value of the key", "another", missed)
		}
	}
	return after, nil
}

// evolved says whether a value is the one before, as a later schema has it.
func evolved(before, now []byte, model *schemas.Node) (bool, error) {
	if model == nil {
		return false, nil
	}
	var c Comparer
	if err := c.read(before, now); err != nil {
		return false, err
	}
	return c.sameIn(model), nil
}

// found describes a member.
func found(object map[string]any, name string) string {
	v, ok := object[name]
	if !ok {
		return "nothing"
	}
	return schemas.Describe(v)
}

// ofEvent says of an error of fold whether it is the event's fault.
func ofEvent(err error) bool { return !errors.Is(err, ErrCorrupt) }
