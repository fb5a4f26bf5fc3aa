// Package pipelines is the way from a topic to a sink as a value: read from a
// YAML file that a published JSON Schema describes, or made from flags, and run
// beside others. It opens nothing: whoever runs a pipeline wires it.
package pipelines

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"penstock/consumers"
	"penstock/consumers/microbatch"
	"penstock/rules"
	"penstock/schemas"
)

// Schema is the JSON Schema of a pipeline's file.
//
//go:embed schema.json
var Schema string

// Pipeline is one way from a topic to a sink. The comments of its parts are the
// descriptions in Schema.
type Pipeline struct {
	Name   string `json:"name,omitempty"`
	Source Source `json:"source"`
	Filter string `json:"filter,omitempty"`
	Map    string `json:"map,omitempty"`
	MapTo  string `json:"map-to,omitempty"`
	Batch  Batch  `json:"batch,omitzero"`
	Errors Errors `json:"errors,omitzero"`
	Sink   Sink   `json:"sink"`
}

// Source is what is read.
type Source struct {
	Topic    string `json:"topic"`
	Group    string `json:"group,omitempty"`
	Broker   string `json:"broker,omitempty"`
	Registry string `json:"registry,omitempty"`
	ReadAs   string `json:"read-as,omitempty"`
	Until    string `json:"until,omitempty"`
}

// Batch says when a batch ends.
type Batch struct {
	Count    int      `json:"count,omitempty"`
	Bytes    int      `json:"bytes,omitempty"`
	Linger   Duration `json:"linger,omitempty"`
	Latency  Duration `json:"latency,omitempty"`
	Rate     float64  `json:"rate,omitempty"`
	BySchema bool     `json:"by-schema,omitempty"`
	Cut      string   `json:"cut,omitempty"`
	Keys     int      `json:"keys,omitempty"`
	Coalesce bool     `json:"coalesce,omitempty"`
}

// Errors says what happens at a record that cannot pass.
type Errors struct {
	Ordering    string `json:"ordering,omitempty"`
	Attempts    int    `json:"attempts,omitempty"`
	DeadLetters string `json:"dead-letters,omitempty"`
}

// Sink is where records end.
type Sink struct {
	URL         string   `json:"url"`
	Table       string   `json:"table,omitempty"`
	Mode        string   `json:"mode,omitempty"`
	Key         []string `json:"key,omitempty"`
	SoftDelete  string   `json:"soft-delete,omitempty"`
	Widen       bool     `json:"widen,omitempty"`
	Constrain   bool     `json:"constrain,omitempty"`
	Index       []string `json:"index,omitempty"`
	PartitionBy []string `json:"partition-by,omitempty"`
	Ahead       int      `json:"ahead,omitempty"`
	Secret      string   `json:"secret,omitempty"`
}

// The values of Sink.Mode, of Source.Until and of Errors.Ordering.
const (
	Skip    = "skip"
	Park    = "park"
	Block   = "block"
	Append  = "append"
	Upsert  = "upsert"
	Stopped = "stopped"
	End     = "end"
)

// Duration is a time.Duration that JSON has as text, as in "500ms".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// WithDefaults is p with what it leaves open filled in, but for broker and
// registry.
func (p Pipeline) WithDefaults() Pipeline {
	p.Source.Group = cmp.Or(p.Source.Group, p.Name)
	p.Source.Until = cmp.Or(p.Source.Until, Stopped)
	p.Batch.Count = cmp.Or(p.Batch.Count, 5000)
	p.Batch.Bytes = cmp.Or(p.Batch.Bytes, 4_000_000)
	p.Batch.Linger = cmp.Or(p.Batch.Linger, Duration(500*time.Millisecond))
	p.Errors.Ordering = cmp.Or(p.Errors.Ordering, Skip)
	p.Errors.Attempts = cmp.Or(p.Errors.Attempts, 10)
	if p.Errors.Ordering != Block {
		p.Errors.DeadLetters = cmp.Or(p.Errors.DeadLetters, consumers.DeadLetterTopic(p.Source.Topic, p.Source.Group))
	}
	p.Sink.Table = cmp.Or(p.Sink.Table, p.Source.Topic)
	p.Sink.Mode = cmp.Or(p.Sink.Mode, Append)
	return p
}

// Policy is how batches of a pipeline that Check admits are gathered.
func (p Pipeline) Policy() (microbatch.Policy, error) {
	b := p.Batch
	cut, err := compile("/batch/cut", b.Cut, rules.Mark)
	policy := microbatch.Policy{
		Count: b.Count, Bytes: b.Bytes, Linger: time.Duration(b.Linger), BySchema: b.BySchema,
		Latency: time.Duration(b.Latency), Rate: b.Rate, Keys: b.Keys,
	}
	if cut != nil {
		policy.Cut = consumers.Holds(cut)
	}
	return policy, err
}

// Between is what stands between source and sink of a pipeline that Check admits,
// or nil. newest looks up the newest schema of a subject.
func (p Pipeline) Between(newest func(ctx context.Context, subject string) (schemas.Registered, error)) (consumers.Between, error) {
	if p.Filter == "" && p.Map == "" {
		return nil, nil
	}
	var e consumers.Expressions
	var err error
	if e.Filter, err = compile("/filter", p.Filter, rules.Filter); err != nil {
		return nil, err
	}
	if e.Map, err = compile("/map", p.Map, rules.Map); err != nil {
		return nil, err
	}
	if p.MapTo != "" {
		e.To = func(ctx context.Context) (schemas.Registered, error) { return newest(ctx, p.MapTo) }
	}
	return consumers.Evaluate(e), nil
}

// compile compiles an expression, if there is one. Its error is a *Problem.
func compile(pointer, text string, compile func(string) (*rules.Expression, error)) (*rules.Expression, error) {
	if text == "" {
		return nil, nil
	}
	e, err := compile(text)
	if at := (*rules.SyntaxError)(nil); errors.As(err, &at) {
		hint := "it may name message, key, headers, topic, partition, offset, time and now"
		if pointer == "/batch/cut" {
			hint = "it may name key, headers, topic, partition, offset, time and now; what a record says is not read yet"
		}
		return nil, &Problem{Pointer: pointer, Expected: "an expression of CEL", Found: "a fault " + at.Error(), Hint: hint, line: at.Line, column: at.Column}
	}
	return e, err
}

// Ordering is what a record that cannot pass does to those behind it.
func (p Pipeline) Ordering() consumers.Ordering {
	switch p.Errors.Ordering {
	case Park:
		return consumers.Park
	case Block:
		return consumers.Block
	}
	return consumers.Skip
}

// equal reports whether two pipelines are the same in all.
func equal(a, b Pipeline) bool { return reflect.DeepEqual(a, b) }

// Kind is a kind of sink.
type Kind string

// The kinds of sinks.
const (
	SQLite   Kind = "sqlite"
	Postgres Kind = "postgres"
	Parquet  Kind = "parquet"
	Topic    Kind = "topic"
	Webhook  Kind = "webhook"
)

// Kind is the kind of the sink by the scheme of its URL, "" for none.
func (s Sink) Kind() Kind {
	switch scheme, _, _ := strings.Cut(s.URL, ":"); scheme {
	case "sqlite", "parquet", "topic":
		return Kind(scheme)
	case "postgres", "postgresql":
		return Postgres
	case "http", "https":
		return Webhook
	}
	return ""
}

// Rest is the URL behind its scheme.
func (s Sink) Rest() string {
	_, rest, _ := strings.Cut(s.URL, ":")
	return rest
}

// Problem is what a pipeline cannot have.
type Problem struct {
	// Pointer is the place in the pipeline, as a JSON Pointer.
	Pointer               string
	Expected, Found, Hint string
	line, column          int // in the text there, from 1; 0 where it is none in particular
}

// Error is one sentence.
func (p *Problem) Error() string {
	s := fmt.Sprintf("%s: expected %s, found %s", cmp.Or(p.Pointer, "/"), p.Expected, p.Found)
	if p.Hint != "" {
		s += "; " + p.Hint
	}
	return s
}

// byTime is how a table is partitioned.
var byTime = regexp.MustCompile(`^[^:]+:(hour|day|month|year)$`)

// Check says what of a complete pipeline does not go together, as a *Problem, or
// returns nil. What values each field may have Schema says.
func (p Pipeline) Check() error {
	kind := p.Sink.Kind()
	column, _, _ := strings.Cut(strings.Join(p.Sink.PartitionBy, ","), ":")
	refuse := func(pointer, expected, found, hint string) error {
		return &Problem{Pointer: pointer, Expected: expected, Found: found, Hint: hint}
	}
	switch {
	case kind == "" || p.Sink.Rest() == "":
		scheme, _, _ := strings.Cut(p.Sink.URL, ":") // the rest may hold a password
		return refuse("/sink/url", "the URL of a sink", fmt.Sprintf("one that begins with %q", scheme),
			"write sqlite:FILE, postgres://HOST/DATABASE, parquet:DIR, parquet:s3://BUCKET/PREFIX, topic:NAME or https://HOST/PATH")
	case kind == Topic && p.Sink.Rest() == p.Source.Topic:
		return refuse("/sink/url", "another topic than the one that is read", fmt.Sprintf("%q", p.Sink.URL), "write its name, as in topic:orders.checked")
	case p.Sink.Mode == Upsert && kind != SQLite && kind != Postgres:
		return refuse("/sink/mode", "append", "upsert", fmt.Sprintf("what goes to a %s sink is only added to; use append, or a database", kind))
	case len(p.Sink.Key) > 0 && p.Sink.Mode != Upsert:
		return refuse("/sink/key", "no key columns where rows are appended", fmt.Sprintf("%q", p.Sink.Key), "use mode upsert, or leave the key out")
	case p.Sink.SoftDelete != "" && p.Sink.Mode != Upsert:
		return refuse("/sink/soft-delete", "no column for tombstones where rows are appended", fmt.Sprintf("%q", p.Sink.SoftDelete), "use mode upsert, or leave it out")
	case (p.Sink.Widen || p.Sink.Constrain || len(p.Sink.Index) > 0) && kind != Postgres:
		return refuse("/sink/url", "PostgreSQL, whose tables can be widened, constrained and indexed", fmt.Sprintf("a sink of kind %s", kind), "leave widen, constrain and index out")
	case len(p.Sink.PartitionBy) > 0 && kind != Parquet && kind != Postgres:
		return refuse("/sink/partition-by", "a sink of Parquet files or PostgreSQL", fmt.Sprintf("one of kind %s", kind), "leave it out, or write parquet:DIR")
	case len(p.Sink.PartitionBy) > 0 && kind == Postgres && (len(p.Sink.PartitionBy) > 1 || !byTime.MatchString(p.Sink.PartitionBy[0])):
		return refuse("/sink/partition-by", "one column of a time, as COLUMN:hour, COLUMN:day, COLUMN:month or COLUMN:year", fmt.Sprintf("%q", p.Sink.PartitionBy), "record_time:day is by the record's own time")
	case len(p.Sink.PartitionBy) > 0 && kind == Postgres && p.Sink.Mode == Upsert && !slices.Contains(p.Sink.Key, column):
		return refuse("/sink/key", fmt.Sprintf("a key with %q in it, by which the table is partitioned", column), fmt.Sprintf("%q", p.Sink.Key), "PostgreSQL keeps keys unique only together with it; add it, or leave partition-by out")
	case p.Sink.Ahead > 0 && (kind != Postgres || len(p.Sink.PartitionBy) == 0):
		return refuse("/sink/ahead", "a table of PostgreSQL with partitions", "none", "write partition-by, or leave ahead out")
	case p.Sink.Secret != "" && kind != Webhook:
		return refuse("/sink/secret", "a sink that is posted to", fmt.Sprintf("one of kind %s", kind), "leave it out, or write https://…")
	case p.Errors.DeadLetters != "" && p.Errors.Ordering == Block:
		return refuse("/errors/dead-letters", "none where a record that cannot pass blocks its partition", fmt.Sprintf("%q", p.Errors.DeadLetters), "use ordering skip, or leave it out")
	case p.Errors.DeadLetters != "" && (p.Errors.DeadLetters == p.Source.Topic || kind == Topic && p.Errors.DeadLetters == p.Sink.Rest()):
		return refuse("/errors/dead-letters", "a topic for dead letters alone", fmt.Sprintf("%q, which is read or written", p.Errors.DeadLetters), "write another name, or leave it out")
	case p.MapTo != "" && p.Map == "":
		return refuse("/map-to", "map beside it", "none", "write what map makes, or leave map-to out")
	case p.Batch.Keys > 0 && kind != Webhook:
		return refuse("/batch/keys", "a sink that is posted to", fmt.Sprintf("one of kind %s", kind), "it holds positions, which batches by key would move past one another; leave keys out")
	case kind == Webhook && p.Source.Until == End:
		return refuse("/source/until", "stopped", "end", "an endpoint keeps no positions to tell the end by; use stopped, or a sink that does")
	}
	if _, err := p.Between(nil); err != nil {
		return err
	}
	_, err := p.Policy()
	return err
}

// String is the pipeline as JSON.
func (p Pipeline) String() string {
	text, err := json.Marshal(p)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
