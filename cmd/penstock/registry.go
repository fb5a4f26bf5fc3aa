package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/registry/logs/file"
	"penstock/registry/logs/memory"
)

// registryCmd serves a schema registry.
type registryCmd struct {
	Serve  registryServeCmd  `cmd:"" default:"withargs" help:"Serve the registry (default)."`
	Passwd registryPasswdCmd `cmd:"" help:"Print the hash of a password, for a users file."`
}

// registryServeCmd serves a schema registry on its own.
type registryServeCmd struct {
	Listen string `default:"127.0.0.1:8081" placeholder:"ADDR" help:"Address to listen on (default ${default})."`
	Store  string `default:"file:./penstock-data/registry" placeholder:"URL" help:"Where the registry keeps its log: memory: or file:DIR (default ${default})."`
	secureFlags
}

// Help shows examples.
func (registryServeCmd) Help() string {
	return `Examples:
  penstock registry
  penstock registry --listen 127.0.0.1:8081 --store memory:
  penstock registry --tls-cert server.pem --tls-key server.key --users users.yaml --permissions permissions.yaml

A schema that was answered for is on disk. The API is Confluent's.`
}

// Run serves until it is stopped.
func (c *registryServeCmd) Run(ctx context.Context, t *terminal) error {
	reg, err := openStore(ctx, c.Store, t.log)
	if err != nil {
		return err
	}
	f, err := c.open(reg.gauges(), barWriter{t, t.err}, t.log)
	if err != nil {
		return errors.Join(err, reg.close())
	}
	ends := []func() error{reg.close, f.close}
	s, more, err := f.serveRegistry(c.Listen, reg)
	if err == nil {
		ends = append(ends, more...)
		t.notef("registry at %s, kept in %s\n", s.url, c.Store)
		<-ctx.Done()
	}
	return errors.Join(err, stopAll(ends))
}

// store is a registry and the end of its log.
type store struct {
	registry *registry.Registry
	close    func() error
}

func (s *store) handler(o registry.HandlerOptions) http.Handler {
	return registry.Handler(s.registry, o)
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
	default:
		return nil, usagef("--store %q is none that penstock knows; write memory: or file:DIR", where)
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
