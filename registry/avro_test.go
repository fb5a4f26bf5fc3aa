package registry_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/registry/logs/file"
	"penstock/schemas"
	"penstock/schemas/avro"
)

// TestAvroOnFile is a registry as it is run: Avro, its rules, and a log in a
// file, started anew after each step.
func TestAvroOnFile(t *testing.T) {
	dir := t.TempDir()
	with := func(step func(r *registry.Registry)) {
		t.Helper()
		log, err := file.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		r, err := registry.New(t.Context(), log, []schemas.Format{avro.Format{}}, compat.Checker{}, registry.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		step(r)
	}
	record := func(fields string) registry.Schema {
		return registry.Schema{Schema: fmt.Sprintf(`{"type": "record", "name": "Flight", "namespace": "air", "fields": [{"name": "carrier", "type": {"type": "string"}}%s]}`, fields)}
	}
	with(func(r *registry.Registry) {
		s, err := r.Register(t.Context(), "flights-value", record(""), false)
		if err != nil || s.ID != 1 || s.Schema != `{"type":"record","name":"Flight","namespace":"air","fields":[{"name":"carrier","type":"string"}]}` {
			t.Fatalf("got %+v, %v, want id 1 and the text in canonical form", s, err)
		}
	})
	with(func(r *registry.Registry) {
		_, err := r.Register(t.Context(), "flights-value", record(`, {"name": "gate", "type": "string"}`), false)
		var refused *registry.Error
		if !errors.As(err, &refused) || refused.Code != registry.CodeIncompatible || len(refused.Findings) != 1 {
			t.Fatalf("a new field without a default: %v", err)
		}
		f := refused.Findings[0]
		if f.Rule != "READER_FIELD_MISSING_DEFAULT_VALUE" || f.ReaderPath != "/fields/1" || f.Version != 1 || !strings.Contains(f.Fix, `"default": null with type ["null","string"]`) {
			t.Errorf("finding %+v", f)
		}
		if !strings.Contains(err.Error(), "{errorType:'READER_FIELD_MISSING_DEFAULT_VALUE', description:'the field \"gate\"") {
			t.Errorf("message %q", err)
		}
		s, err := r.Register(t.Context(), "flights-value", record(`, {"name": "gate", "type": ["null", "string"], "default": null}`), false)
		if err != nil || s.ID != 2 || s.Version != 2 {
			t.Errorf("a new field with a default: %+v, %v", s, err)
		}
		ref := registry.Schema{
			Schema:     `{"type": "record", "name": "Day", "fields": [{"name": "flights", "type": {"type": "array", "items": "air.Flight"}}]}`,
			References: []registry.Reference{{Name: "air.Flight", Subject: "flights-value", Version: -1}},
		}
		if s, err := r.Register(t.Context(), "days-value", ref, false); err != nil || s.References[0].Version != 2 {
			t.Errorf("with a reference: %+v, %v", s, err)
		}
		worse := ref
		worse.Schema = strings.Replace(ref.Schema, `"items": "air.Flight"`, `"items": "string"`, 1)
		if c, err := r.Check("days-value", -1, worse); err != nil || c.Compatible || c.Findings[0].ReaderPath != "/fields/0/type/items" {
			t.Errorf("check against a version with a reference: %+v, %v", c, err)
		}
		if _, err := r.Register(t.Context(), "x", registry.Schema{Schema: `{"type": "record", "name": "X", "fields": [{"name": "f", "type": "nothing"}]}`}, false); codeOf(err) != registry.CodeInvalidSchema || !strings.Contains(err.Error(), "nothing") {
			t.Errorf("an unknown type: %v", err)
		}
	})
	with(func(r *registry.Registry) {
		if s, err := r.Lookup("flights-value", record(""), false); err != nil || s.Version != 1 {
			t.Errorf("look up what was registered two starts ago: %+v, %v", s, err)
		}
		if s, err := r.Register(t.Context(), "other", record(""), false); err != nil || s.ID != 1 {
			t.Errorf("the same schema elsewhere: %+v, %v, want the same id", s, err)
		}
	})
}
