package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"runtime/debug"
	"strings"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/registry/logs/file"
	"penstock/registry/logs/jetstream"
	kafkalog "penstock/registry/logs/kafka"
	"penstock/registry/logs/memory"
)

// registryCmd serves a schema registry.
type registryCmd struct {
	Import registryImportCmd `cmd:"" help:"Copy another registry, or a file, into a registry."`
	Export registryExportCmd `cmd:"" help:"Copy a registry into a file."`
	Serve  registryServeCmd  `cmd:"" default:"withargs" help:"Serve the registry (default)."`
	Passwd registryPasswdCmd `cmd:"" help:"Print the hash of a password, for a users file."`
}

// registryServeCmd serves a schema registry on its own.
type registryServeCmd struct {
	Listen    string `default:"127.0.0.1:8081" placeholder:"ADDR" help:"Address to listen on (default ${default})."`
	Store     string `default:"file:./penstock-data/registry" placeholder:"URL" help:"Where the registry keeps its log: memory:, file:DIR, nats://HOST:PORT[/STREAM][?replicas=N] or kafka://HOST:PORT,…[/TOPIC] (default ${default})."`
	Advertise string `placeholder:"URL" help:"Where the other nodes of a registry kept in Kafka reach this one. Default: http:// or, with --tls-cert, https://, and the address to listen on."`
	dialectFlags
	secureFlags
}

// dialectFlags are how a registry behaves where Confluent's can behave in two
// ways.
type dialectFlags struct {
	Dialect        registry.Dialect `enum:"v8,v7" default:"v8" placeholder:"v8|v7" help:"Answer as Confluent's registry does from 8.0 on, or as up to 7.9, for clients that refuse members they do not know (default ${default})."`
	ModeMutability bool             `negatable:"" default:"true" help:"Let modes be set and taken away (default)."`
}

// options are those of a registry that logs to log.
func (f dialectFlags) options(log *slog.Logger) registry.Options {
	return registry.Options{Logger: log, FixedModes: !f.ModeMutability}
}

// Help shows examples.
func (registryServeCmd) Help() string {
	return `Examples:
  penstock registry
  penstock registry --listen 127.0.0.1:8081 --store memory:
  penstock registry --listen 10.0.0.1:8081 --store kafka://10.0.0.9:9092
  penstock registry --tls-cert server.pem --tls-key server.key --users users.yaml --permissions permissions.yaml

A schema that was answered for is on disk. The API is Confluent's.

Several nodes may keep one registry in Kafka, in the topic _schemas. One of them
writes, and the others pass writes on to it.
` + kafkaHelp
}

// Run serves until it is stopped.
func (c *registryServeCmd) Run(ctx context.Context, t *terminal) error {
	reg, err := openStore(ctx, c.Store, advertised(c.Advertise, c.Listen, c.secureFlags), c.options(t.log))
	if err != nil {
		return err
	}
	f, err := c.open(reg.gauges(), barWriter{t, t.err}, t.log)
	if err != nil {
		return errors.Join(err, reg.close())
	}
	ends := []func() error{reg.close, f.close}
	s, more, err := f.serveRegistry(c.Listen, reg, c.Dialect)
	if err == nil {
		ends = append(ends, more...)
		t.notef("registry at %s, kept in %s\n", s.url, withoutSecrets(c.Store))
		frugal()
		debug.FreeOSMemory() // what reading the log took is not needed again
		<-ctx.Done()
	}
	return errors.Join(err, stopAll(ends))
}

// frugal has the collector run when half as much garbage as live memory has come
// up, unless the environment says when. A registry holds its schemas for good and
// is read far more than written, so memory counts for more than the processor
// time: 10,000 schemas of 2 KB take 15 MB less, and registering one a tenth more
// time of the server's.
func frugal() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}

// store is a registry and the end of its log.
type store struct {
	registry *registry.Registry
	close    func() error
}

func (s *store) handler(o registry.HandlerOptions) http.Handler {
	return registry.Handler(s.registry, o)
}

// advertised is the URL at which other nodes reach this one.
func advertised(url, listen string, secure secureFlags) string {
	if secure.TLSCert != "" {
		return cmp.Or(url, "https://"+listen)
	}
	return cmp.Or(url, "http://"+listen)
}

// withoutSecrets is a URL, or several, without users and passwords.
func withoutSecrets(where string) string {
	return regexp.MustCompile(`[^/,]*@`).ReplaceAllString(where, "")
}

// openStore opens the registry whose log lies where the URL says. Other nodes,
// if there are any, reach this one at the URL self.
func openStore(ctx context.Context, where, self string, o registry.Options) (*store, error) {
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
		c.Logger = o.Logger
		j, err := jetstream.Open(ctx, c)
		if err != nil {
			return nil, err
		}
		l, finish = j, j.Close
	case strings.HasPrefix(where, "kafka://"):
		k, err := openKafkaLog(ctx, where, self, o.Logger)
		if err != nil {
			return nil, err
		}
		l, finish = k, k.Close
	default:
		return nil, usagef("--store %q is none that penstock knows; write memory:, file:DIR, nats://HOST:PORT or kafka://HOST:PORT", where)
	}
	r, err := registry.New(ctx, l, formats(), compat.Checker{}, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the registry kept in %s: %w", withoutSecrets(where), err), finish())
	}
	return &store{r, func() error {
		r.Close()
		return finish()
	}}, nil
}

// openKafkaLog opens the log that kafka://HOST:PORT,…[/TOPIC] names.
func openKafkaLog(ctx context.Context, where, self string, log *slog.Logger) (*kafkalog.Log, error) {
	c, err := parseKafka(where)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(self)
	if err != nil || u.Hostname() == "" || u.Port() == "0" {
		return nil, usagef("other nodes cannot reach this one at %q; write --advertise http://HOST:PORT", self)
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && ip.IsUnspecified() {
		return nil, usagef("other nodes cannot reach this one at %q; write --advertise http://HOST:PORT", self)
	}
	return kafkalog.Open(ctx, kafkalog.Options{Seeds: c.seeds, Topic: c.topic, TLS: c.tls, SASL: c.sasl, URL: self, Logger: log})
}
