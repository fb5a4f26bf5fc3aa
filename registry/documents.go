package registry

import (
	"context"
	"encoding/json"
)

// exporterRecord is a record of what runs beside the registry and is kept in
// its log: a JSON document by name.
const exporterRecord = "EXPORTER"

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
		return []Event{event(recordKey{KeyType: exporterRecord, Subject: name}, value, r.options.Now())}, nil
	})
}
