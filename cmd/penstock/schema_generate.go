package main

import (
	"context"

	"penstock/schemas"
)

// schemaGenerateCmd writes the types of a schema in a programming language.
type schemaGenerateCmd struct {
	Language string `arg:"" enum:"go,python,typescript" help:"go, python (Pydantic v2) or typescript."`
	Source   string `arg:"" help:"Subject, SUBJECT@VERSION, or a schema file."`
	Package  string `default:"events" placeholder:"NAME" help:"Package of the Go code. Default: events."`
	connectFlags
}

// Help shows examples.
func (schemaGenerateCmd) Help() string {
	return `Examples:
  penstock schema generate go flights-value --package flights > flights/event.go
  penstock schema generate python flights-value@3 > flights.py
  penstock schema generate typescript orders.json > orders.ts

The same version gives the same text. The id of the schema is in it; of a file it
is 0.`
}

// Run prints the types.
func (c *schemaGenerateCmd) Run(ctx context.Context, t *terminal) error {
	sources := schemaSources{connectFlags: c.connectFlags}
	defer sources.close()
	found, err := sources.one(ctx, c.Source)
	if err != nil {
		return advised(err)
	}
	text, err := schemas.Generate(schemas.Target(c.Language), schemas.Registered{
		ID: schemas.ID(found.side.Source.ID), Schema: found.side.Schema, Subject: found.name, Version: found.side.Source.Version,
	}, c.Package)
	if err != nil {
		return usageError{err}
	}
	t.printf("%s", text)
	return nil
}

// one loads one schema: a file, or a subject whose version need not be named.
func (s *schemaSources) one(ctx context.Context, from string) (sourced, error) {
	if _, err := typeOf(from); err == nil {
		found, err := loadFile(from)
		if err != nil {
			return sourced{}, err
		}
		return found[0], nil
	}
	subject, number, ok := cutVersion(from)
	if !ok {
		subject, number = from, -1
	}
	return s.version(ctx, subject, number)
}
