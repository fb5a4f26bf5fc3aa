package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/registry/logs/file"
	"penstock/registry/logs/jetstream"
	"penstock/registry/logs/memory"
)

// registryCmd serves a schema registry.
type registryCmd struct {
	Serve registryServeCmd `cmd:"" default:"withargs" help:"Serve the registry (default)."`
}

// registryServeCmd serves a schema registry on its own.
type registryServeCmd struct {
	Listen string `default:"127.0.0.1:8081" placeholder:"ADDR" help:"Address to listen on (default ${default})."`
	Store  string `default:"file:./penstock-data/registry" placeholder:"URL" help:"Where the registry keeps its log: memory:, file:DIR, or nats://HOST:PORT[/STREAM][?replicas=N] (default ${default})."`
}

// Help shows examples.
func (registryServeCmd) Help() string {
	return `Examples:
  penstock registry
  penstock registry --listen 127.0.0.1:8081 --store memory:

A schema that was answered for is on disk. The API is Confluent's.`
}

// Run serves until it is stopped.
func (c *registryServeCmd) Run(ctx context.Context, t *terminal) error {
	reg, err := openStore(ctx, c.Store, t.log)
	if err != nil {
		return err
	}
	s, err := serve("registry", c.Listen, reg.handler(), t.log)
	if err != nil {
		return errors.Join(err, reg.close())
	}
	debug.FreeOSMemory() // what reading the log took is not needed again
	t.notef("registry at %s, kept in %s\n", s.url, c.Store)
	<-ctx.Done()
	return errors.Join(s.stop(), reg.close())
}

// store is a registry and the end of its log.
type store struct {
	registry *registry.Registry
	close    func() error
}

func (s *store) handler() http.Handler {
	return registry.Handler(s.registry, registry.HandlerOptions{})
}

// openStore opens the registry whose log lies where the URL says.
func openStore(ctx context.Context, where string, log *slog.Logger) (*store, error) {
	var (
		l      registry.Log
		finish = func() error { return nil }
	)
	switch dir, isFile := strings.CutPrefix(where, "file:"); {
	case where == "memory:":
		l = memory.New()
	case isFile && dir != "":
		f, err := file.Open(dir)
		if err != nil {
			return nil, err
		}
		l, finish = f, f.Close
	case strings.HasPrefix(where, "nats://"), strings.HasPrefix(where, "tls://"):
		c, err := jetstream.ParseURL(where)
		if err != nil {
			return nil, usageError{err}
		}
		c.Logger = log
		j, err := jetstream.Open(ctx, c)
		if err != nil {
			return nil, err
		}
		l, finish = j, j.Close
	default:
		return nil, usagef("--store %q is none that penstock knows; write memory:, file:DIR or nats://HOST:PORT", where)
	}
	r, err := registry.New(ctx, l, formats(), compat.Checker{}, registry.Options{Logger: log})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the registry kept in %s: %w", where, err), finish())
	}
	return &store{r, func() error {
		r.Close()
		return finish()
	}}, nil
}
