package registry

import (
	"context"
	"encoding/json"
)

// exporterKey is that of a JSON document about what runs beside the registry.
// The kind is one that Confluent's registry and Karapace pass over whatever else
// is in it; one that it does not know stops Confluent's for good.
func exporterKey(name string) recordKey { return recordKey{KeyType: noopRecord, Subject: name} }

// Exporters returns the documents of exporters, by name; see PutExporter. Treat
// them as read-only.
func (r *Registry) Exporters() map[string]json.RawMessage {
	all := map[string]json.RawMessage{}
	_ = r.read(func(x *index) error {
		for name, text := range x.exporters.all() {
			all[name] = *text
		}
		return nil
	})
	return all
}

// PutExporter keeps the document of an exporter, a JSON value, in the log, so
// that every node over it knows the exporter; nil takes it away. check sees what
// is kept under the name, nil for nothing, and may refuse; it may be called
// several times.
func (r *Registry) PutExporter(ctx context.Context, name string, text json.RawMessage, check func(old json.RawMessage) error) error {
	return r.write(ctx, func(x *index) ([]Event, error) {
		if err := check(deref(x.exporters.get(name))); err != nil {
			return nil, err
		}
		var value any
		if text != nil {
			value = text
		}
		return []Event{event(exporterKey(name), value, r.options.Now())}, nil
	})
}
