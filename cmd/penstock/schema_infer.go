package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"penstock/consumers/sinks/postgres"
	"penstock/registry"
	"penstock/schemas"
)

// schemaInferCmd proposes a schema from sample events.
type schemaInferCmd struct {
	File    string `arg:"" help:"Sample events, a JSON value a line; or postgres://…, whose --table proposes a schema."`
	Table   string `placeholder:"NAME" help:"Table of the database, or a schema and a table with a dot between."`
	Type    string `enum:"avro,json,protobuf" default:"avro" placeholder:"TYPE" help:"avro (default), json or protobuf."`
	Name    string `placeholder:"NAME" help:"Name of the outermost type. Default: that of the file."`
	Against string `placeholder:"SUBJECT" help:"Show instead how the events drift from the schema of this subject, SUBJECT@VERSION or schema file."`
	outputFlag
	connectFlags
}

// Help shows examples.
func (schemaInferCmd) Help() string {
	return `Examples:
  penstock schema infer flights.jsonl > flights.avsc
  penstock schema infer flights.jsonl --type json
  penstock schema infer flights.jsonl --against flights-value
  penstock schema infer postgres://localhost/shop --table orders > orders.avsc

The schema accepts every event of the file. What it rests on, how often a field
was there and how sure its type is, is said on standard error. With --against the
exit code is 1 if an event does not fit. Of a table, types, NOT NULL, defaults,
comments and CHECK constraints count; what a language has no word for stands in the
description, and what is not carried over on standard error.`
}

// Run prints the schema, or the drift from one.
func (c *schemaInferCmd) Run(ctx context.Context, t *terminal) error {
	if strings.HasPrefix(c.File, "postgres://") || strings.HasPrefix(c.File, "postgresql://") {
		return c.table(ctx, t)
	}
	shape := &schemas.Shape{}
	if err := eachEvent(ctx, c.File, func(_ int, v any) error { shape.Add(v); return nil }); err != nil {
		return err
	}
	if c.Against != "" {
		return c.drift(ctx, t, shape)
	}
	name := c.Name
	if name == "" {
		name, _, _ = strings.Cut(filepath.Base(c.File), ".")
	}
	language := schemas.Type(strings.ToUpper(c.Type))
	text, err := schemas.Infer(language, shape, name)
	if err != nil {
		return usageError{err}
	}
	schema, err := proposed(language, text)
	if err != nil {
		return err
	}
	// It is proposed only if it keeps its word.
	if err := eachEvent(ctx, c.File, func(line int, v any) error {
		if _, err := schema.AppendEncode(nil, v); err != nil {
			return fmt.Errorf("%s, line %d does not fit what was inferred: %w", c.File, line, err)
		}
		return nil
	}); err != nil {
		return err
	}
	if c.json() {
		return t.object(map[string]any{"schema": text, "schemaType": language, "samples": shape.Count})
	}
	t.printf("%s", text)
	tellShape(t, "", shape, shape.Count)
	return nil
}

// table prints the schema that a table proposes.
func (c *schemaInferCmd) table(ctx context.Context, t *terminal) error {
	if c.Table == "" || c.Against != "" {
		return usagef("expected --table with a database, and no --against")
	}
	found, err := postgres.Describe(ctx, c.File, c.Table)
	if err != nil {
		return err
	}
	if c.Name != "" {
		found.Record.Name = c.Name
	}
	language := schemas.Type(strings.ToUpper(c.Type))
	text, err := schemas.Propose(language, found.Record)
	if err != nil {
		return usageError{err}
	}
	schema, err := proposed(language, text)
	if err != nil {
		return err
	}
	notes := slices.Concat(found.Notes, found.Refuses(schema.Model()))
	if c.json() {
		return t.object(map[string]any{"schema": text, "schemaType": language, "notes": notes})
	}
	t.printf("%s", text)
	for _, n := range notes {
		t.notef("%s\n", n)
	}
	return nil
}

// proposed parses a schema that is about to be proposed.
func proposed(language schemas.Type, text string) (schemas.Schema, error) {
	one := sourced{title: "the proposed schema"}
	one.side.Source = registry.Schema{Schema: text, SchemaType: language}
	err := one.parse(func() (map[string]string, error) { return nil, nil })
	return one.side.Schema, err
}

// tellShape says of each field what was seen.
func tellShape(t *terminal, path string, s *schemas.Shape, of int) {
	if path != "" {
		t.notef("%s: %s, in %d of %d, %d%% sure\n", path, s.Words(), s.Count, of, s.Ratio())
	}
	const most = 200 // more are names of data, not of fields
	if len(s.Names) <= most {
		for _, name := range s.Names {
			tellShape(t, strings.TrimPrefix(path+"."+name, "."), s.Fields[name], s.Maps)
		}
	}
	if s.Items != nil && s.Items.Maps > 0 {
		tellShape(t, path+"[]", s.Items, s.Items.Count)
	}
}

// eachEvent calls do with each line of a file that is not empty.
func eachEvent(ctx context.Context, name string, do func(line int, v any) error) (err error) {
	file, err := os.Open(name)
	if err != nil {
		return usageError{fmt.Errorf("read samples: %w", err)}
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	const most = 16 << 20 // bytes a line
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, most)
	line := 0
	for lines.Scan() {
		line++
		if ctx.Err() != nil {
			return ctx.Err()
		}
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		v, err := schemas.ParseJSON(text)
		if err != nil {
			return usageError{fmt.Errorf("%s, line %d: %w", name, line, err)}
		}
		if err := do(line, v); err != nil {
			return err
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return usagef("%s, line %d: expected a line of at most %d bytes, found a longer one", name, line+1, most)
	} else if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read samples: %w", err)
	}
	return nil
}

// drifted is one way in which events do not fit.
type drifted struct {
	Pointer  string `json:"pointer"` // * stands for the place in a list
	Expected string `json:"expected"`
	Found    string `json:"found"` // by the first
	Line     int    `json:"line"`
	Events   int    `json:"events"`
}

var placeInList = regexp.MustCompile(`/\d+(/|$)`)

// drift shows how the events of the file differ from a schema.
func (c *schemaInferCmd) drift(ctx context.Context, t *terminal, shape *schemas.Shape) error {
	sources := schemaSources{connectFlags: c.connectFlags}
	defer sources.close()
	against, err := sources.one(ctx, c.Against)
	if err != nil {
		return advised(err)
	}
	var all []*drifted
	ways := map[string]*drifted{}
	broken := 0
	err = eachEvent(ctx, c.File, func(line int, v any) error {
		_, err := against.side.Schema.AppendEncode(nil, v)
		wrong := (*schemas.ValueError)(nil)
		if err == nil {
			return nil
		}
		if !errors.As(err, &wrong) {
			return err
		}
		broken++
		seen := map[string]bool{}
		for _, violation := range wrong.Violations {
			pointer := placeInList.ReplaceAllString(violation.Pointer, "/*$1")
			key := pointer + " " + violation.Expected
			d := ways[key]
			if d == nil {
				d = &drifted{Pointer: pointer, Expected: violation.Expected, Found: violation.Found, Line: line}
				ways[key] = d
				all = append(all, d)
			}
			if !seen[key] {
				seen[key] = true
				d.Events++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	unseen := neverSeen(against.side.Schema.Model(), shape)
	if c.json() {
		if err := t.object(map[string]any{"against": against.title, "samples": shape.Count, "broken": broken, "drift": all, "neverSeen": unseen}); err != nil {
			return err
		}
	} else {
		for _, d := range all {
			t.printf("%s: expected %s, found %s, in %d events, first in line %d\n", d.Pointer, d.Expected, d.Found, d.Events, d.Line)
		}
		for _, name := range unseen {
			t.printf("/%s: in the schema, and in no event\n", name)
		}
		t.printf("%d of %d events fit %s\n", shape.Count-broken, shape.Count, against.title)
	}
	if broken > 0 {
		return errNo
	}
	return nil
}

// neverSeen are the fields at the top of a schema that no event has, or has but
// as null.
func neverSeen(n *schemas.Node, s *schemas.Shape) []string {
	names := []string{}
	for i := range n.Fields {
		f := s.Fields[n.Fields[i].Name]
		if f == nil || f.Nulls == f.Count {
			names = append(names, n.Fields[i].Name)
		}
	}
	slices.Sort(names)
	return names
}
