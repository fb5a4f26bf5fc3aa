package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"penstock/registry"
	"penstock/registry/client"
	"penstock/registry/compat"
	"penstock/registry/linking"
	"penstock/registry/logs/memory"
)

// runningExporters are the exporters of a registry in this process.
type runningExporters struct {
	*linking.Manager
	client *client.Client
}

// exporters starts to run what exporters the registry's log names.
func (s *store) exporters(log *slog.Logger) (*runningExporters, error) {
	own, err := client.Local(s.handler(registry.HandlerOptions{}), nil, client.Options{})
	if err != nil {
		return nil, err
	}
	m := linking.NewManager(linking.Config{
		Registry: s.registry, From: own, Logger: log, Cluster: "penstock", Runs: s.registry.Leads,
		Connect: func(url, user, password, token string) (linking.Target, error) {
			c, err := client.New(url, nil, client.Options{Username: user, Password: password, Token: token})
			if err != nil {
				return nil, err
			}
			return linkTarget{c}, nil
		},
	})
	return &runningExporters{m, own}, nil
}

func (e *runningExporters) close() error {
	e.Manager.Close()
	return e.client.Close()
}

// linkTarget is a client whose end is of no interest.
type linkTarget struct{ *client.Client }

func (t linkTarget) Close() { _ = t.Client.Close() }

// registryImportCmd copies into a registry.
type registryImportCmd struct {
	Source  string   `arg:"" help:"URL of a registry that speaks Confluent's dialect, a file of 'penstock registry export' or of the topic _schemas as printed with its keys, or - for standard input."`
	Subject []string `placeholder:"PATTERN" help:"Copy only subjects that fit, such as orders-*, and what they refer to."`
	registryFlags
}

// Help shows examples.
func (registryImportCmd) Help() string {
	return `Examples:
  penstock registry import http://old-registry:8081 --registry http://127.0.0.1:8081
  penstock registry import backup.jsonl

Ids, versions, deleted versions, configuration and modes come along. The
registry that takes them must hold no other schemas, or be in mode IMPORT. Run
it again to copy what has come since. The name and password of a source go into
its URL, or PENSTOCK_SOURCE_AUTH=name:password.`
}

// Run copies, and prints what.
func (c *registryImportCmd) Run(ctx context.Context, t *terminal) error {
	from, finish, err := c.source(ctx, t)
	if err != nil {
		return err
	}
	defer finish()
	return c.with(func(to *client.Client) error {
		counts, err := copyRegistry(ctx, t, "imported", from, to, linking.Options{Subjects: c.Subject, Settings: len(c.Subject) == 0})
		if err != nil {
			return err
		}
		if c.json() {
			return t.object(counts)
		}
		t.printf("imported %d of %d versions of %d subjects (the others were there), deleted %d, set %d settings\n",
			counts.Copied, counts.Versions, counts.Subjects, counts.Deleted, counts.Settings)
		return nil
	})
}

func copyRegistry(ctx context.Context, t *terminal, label string, from linking.Reader, to linking.Writer, o linking.Options) (linking.Counts, error) {
	bar := t.progress(label, 0)
	defer bar.stop()
	o.Progress = func(done, total int) {
		bar.total = int64(total)
		bar.set(int64(done))
	}
	return linking.New(from, to, o).Copy(ctx)
}

// source opens what is imported.
func (c *registryImportCmd) source(ctx context.Context, t *terminal) (linking.Reader, func(), error) {
	if strings.HasPrefix(c.Source, "http://") || strings.HasPrefix(c.Source, "https://") {
		user, password, _ := strings.Cut(os.Getenv("PENSTOCK_SOURCE_AUTH"), ":")
		reg, err := client.New(c.Source, nil, client.Options{Username: user, Password: password})
		if err != nil {
			return nil, nil, usageError{err}
		}
		return reg, func() { _ = reg.Close() }, nil
	}
	in := t.in
	if c.Source != "-" {
		f, err := os.Open(c.Source)
		if err != nil {
			return nil, nil, usageError{fmt.Errorf("read records: %w", err)}
		}
		defer f.Close()
		in = f
	}
	log := memory.New()
	if _, err := linking.ReadRecords(ctx, in, log); err != nil {
		return nil, nil, noError{err}
	}
	reg, finish, err := localRegistry(ctx, log)
	return reg, finish, err
}

// localRegistry is a registry in memory, for as long as finish is not called.
func localRegistry(ctx context.Context, log *memory.Log) (_ *client.Client, finish func(), err error) {
	r, err := registry.New(ctx, log, formats(), compat.Checker{}, registry.Options{})
	if err != nil {
		return nil, nil, err
	}
	c, err := client.Local(registry.Handler(r, registry.HandlerOptions{}), nil, client.Options{})
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	return c, func() {
		_ = c.Close()
		r.Close()
	}, nil
}

// registryExportCmd copies a registry into a file.
type registryExportCmd struct {
	File string `arg:"" help:"File to write, which must not exist, or - for standard output."`
	registryFlags
}

// Help shows examples.
func (registryExportCmd) Help() string {
	return `Examples:
  penstock registry export backup.jsonl
  penstock registry export backup.jsonl --registry http://old-registry:8081

The file holds records as the topic _schemas has them, a line each, for
'penstock registry import'.`
}

// Run copies, and prints how much.
func (c *registryExportCmd) Run(ctx context.Context, t *terminal) error {
	return c.with(func(from *client.Client) (err error) {
		log := memory.New()
		to, finish, err := localRegistry(ctx, log)
		if err != nil {
			return err
		}
		defer finish()
		counts, err := copyRegistry(ctx, t, "exported", from, to, linking.Options{Settings: true})
		if err != nil {
			return err
		}
		var out io.Writer = t.out
		if c.File != "-" {
			f, err := os.OpenFile(c.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return usageError{fmt.Errorf("write records: %w", err)}
			}
			defer func() { err = errors.Join(err, f.Sync(), f.Close()) }()
			out = f
		}
		written, err := linking.WriteRecords(ctx, out, log)
		if err != nil || c.File == "-" {
			return err
		}
		if c.json() {
			return t.object(map[string]any{"subjects": counts.Subjects, "versions": counts.Versions, "records": written})
		}
		t.printf("exported %d versions of %d subjects to %s\n", counts.Versions, counts.Subjects, c.File)
		return nil
	})
}
