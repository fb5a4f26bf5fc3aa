// Package compat holds the rules of evolution: for each language one file, and
// in it one table that names every rule, with its severity and what it says.
// A Checker applies them to parsed schemas and finds everything there is to
// say about a pair. Its Diff tells all that changed, in words that are the same
// for all languages, and lays what Check finds at the door of the changes.
package compat

import (
	"fmt"

	"penstock/registry"
	"penstock/schemas"
)

// Checker is the registry.Checker for Avro, JSON Schema and Protobuf, and finds
// the places of their findings in texts; another language gets
// registry.ErrNoRules. The zero value is ready, and may be used concurrently.
type Checker struct{}

// Check implements registry.Checker.
func (Checker) Check(reader, writer schemas.Schema, d registry.Direction, p registry.Policy) ([]registry.Finding, error) {
	if reader.Type() != writer.Type() {
		return nil, fmt.Errorf("compare %s with %s: expected one language", reader.Type(), writer.Type())
	}
	found, err := check(reader, writer, d, p)
	if err == nil && p == registry.PolicyLogical {
		found = append(found, checkLogical(reader, writer, d)...)
	}
	return found, err
}

func check(reader, writer schemas.Schema, d registry.Direction, p registry.Policy) ([]registry.Finding, error) {
	switch reader.Type() {
	case schemas.Avro:
		return checkAvro(reader.Model(), writer.Model(), d), nil
	case schemas.JSON:
		return checkJSON(reader, writer, d, p)
	case schemas.Protobuf:
		r, ok1 := reader.(described)
		w, ok2 := writer.(described)
		if ok1 && ok2 {
			return checkProtobuf(r.Descriptor(), w.Descriptor(), d, maxComparisons), nil
		}
	}
	return nil, fmt.Errorf("check %s: %w", reader.Type(), registry.ErrNoRules)
}

// Rule is a rule of evolution.
type Rule struct {
	Name     string
	Severity registry.Severity
	// Purpose says in a sentence what the rule speaks about.
	Purpose string
}

// Rules returns the rules of a language, or nil where there are none.
func Rules(t schemas.Type) []Rule {
	switch t {
	case schemas.Avro:
		return avroRules[:]
	case schemas.JSON:
		return rulesOfJSON()
	case schemas.Protobuf:
		return protobufRules[:]
	default:
		return nil
	}
}
