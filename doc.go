// Package penstock is the map of the house; it holds no code. README.md says
// how to run what is built here.
//
// A record's way leads through these packages, from the left to the right:
//
//	producers ─ validate, encode, frame ─▶ stream ─▶ consumers ─ decode, batch ─▶ sinks
//	     │                             kafka, nats,      │
//	     ╰───────── schemas ─────────────memory──────────╯
//	                   ▲
//	               registry
//
// [penstock/stream] is the seam to the broker: a Publisher that returns when
// records are durable, and a Source that yields batches of one partition, each
// with a function that settles it. Below it lies one package for each broker,
// and streamtest, the suite that all of them pass. stream/watermill lets
// handlers written for Watermill, one record at a time, run on any of them.
//
// [penstock/schemas] is the seam to the schema languages: a Format parses text,
// a Schema encodes and decodes values and says, with a pointer into the value,
// what does not fit. Below it lies one package for each language.
//
// [penstock/rules] runs the data contract rules that stand beside a schema, for
// those who write and those who read.
//
// [penstock/registry] keeps the schemas: one deterministic state machine,
// rebuilt from an append-only log, behind the HTTP interface that Confluent's
// clients speak. registry/compat holds the rules of evolution, registry/logs
// the homes of the log, registry/client the cached way in from elsewhere,
// registry/linking the way from one registry into another.
//
// [penstock/openapi] describes the HTTP interfaces of registry and gateway.
// [penstock/access] says who may use a server, and [penstock/telemetry] shows
// what it does; neither knows the registry, the command line joins them.
//
// [penstock/producers] publishes what fits its schema; below it are the ways in
// from HTTP, MQTT, tables and Watermill. [penstock/consumers]
// runs the loop that decodes, sets aside what cannot pass, and settles; its
// three jobs are below it (microbatch, diffing, federated), and so are the
// sinks, which store a batch and the position behind it in one transaction, and
// handlers, for functions of one record at a time. [penstock/pipelines] holds
// the way from a topic to a sink as a value, read from YAML.
//
// Neither producers nor consumers see a broker, a registry or each other. Only
// cmd/penstock knows everything: it reads the command line and plugs one of
// each together. Who may import whom is a table in arch_test.go, with the
// libraries of each package, and the reasons are in docs/adr.
//
// [penstock/servertest] gives tests the real servers that `make check` starts.
// Beside the tests, testdata/mutants holds defects that they must find.
package penstock
