// Package registry is a schema registry that speaks Confluent's dialect:
// subjects, versions, ids, references, compatibility levels and modes.
//
// It is one deterministic state machine over an append-only Log. Everything
// that it must not forget is an Event, in the record form of Confluent's
// _schemas topic; the index in memory is the fold of the events, and is built
// again by replay at start. A write is decided against that index, appended to
// the log, and visible once the log has it for good. Writes that wait at the
// same time share one append, and so one fsync or one transaction.
//
// Registry has the rules; Handler serves them over HTTP. The languages are
// handed in as schemas.Format values, the rules of evolution as a Checker (see
// the package compat), the log's home as a Log (see the packages under logs).
package registry
