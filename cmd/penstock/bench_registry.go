package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"penstock/registry"
)

// benchRegistryCmd measures the registry.
type benchRegistryCmd struct {
	outputFlag
	Gets      int    `default:"20000" placeholder:"N" help:"Requests a run for schemas by id (default ${default})."`
	Registers int    `default:"400" placeholder:"N" help:"New schemas a run (default ${default})."`
	Pairs     int    `default:"9" placeholder:"N" help:"Runs of each side, taken in turn (default ${default})."`
	Sizes     bool   `help:"Measure, too, how soon registries of 100,000 schemas serve, and how much memory they take. Needs Linux, 1.5 GB in DIR, and a minute."`
	Dir       string `placeholder:"DIR" help:"Folder for the logs of both sides. Default: a temporary one."`
}

// Help says what is measured.
func (benchRegistryCmd) Help() string {
	return `Row get: a schema by its id over HTTP, against a bare handler that writes the same
bytes. Row register: new Avro schemas of 2 KB over HTTP, each on the disk before it
is answered, against a loop that appends and syncs as many bytes. Both sides have
8 connections or writers, and take turns.

Examples:
  penstock bench registry -o json
  penstock bench registry --sizes
  penstock bench registry --dir /var/lib/penstock --registers 2000`
}

// benchWriters is how many connections or writers each side has.
const benchWriters = 8

// Run prints both rows.
func (c *benchRegistryCmd) Run(ctx context.Context, t *terminal) (err error) {
	dir, err := os.MkdirTemp(c.Dir, "penstock-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	reg, err := openStore(ctx, "file:"+filepath.Join(dir, "registry"), "", registry.Options{Logger: t.log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.close()) }()
	frugal()
	ours, err := serve("registry", "127.0.0.1:0", reg.handler(registry.HandlerOptions{}), nil, t.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.stop()) }()
	transport := &http.Transport{MaxIdleConnsPerHost: benchWriters}
	defer transport.CloseIdleConnections()
	b := &registryBench{url: ours.url, client: &http.Client{Transport: transport}}

	if _, err := b.registers(1)(ctx); err != nil {
		return err
	}
	contentType, body, err := b.get(ctx, ours.url+"/schemas/ids/1")
	if err != nil {
		return err
	}
	bare, err := serve("bare handler", "127.0.0.1:0", rawReply(contentType, body), nil, t.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bare.stop()) }()
	gets := &benchFlags{outputFlag: c.outputFlag, Records: c.Gets, Pairs: c.Pairs}
	if err := gets.compare(ctx, t, "get", fmt.Sprintf("net/http, %d connections, %d bytes", benchWriters, len(body)),
		b.gets(c.Gets, ours.url+"/schemas/ids/1"), b.gets(c.Gets, bare.url+"/schemas/ids/1")); err != nil {
		return err
	}

	record, err := b.recordSize(ctx, filepath.Join(dir, "registry", "events.log"))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "raw.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	registers := &benchFlags{outputFlag: c.outputFlag, Records: c.Registers, Pairs: c.Pairs}
	if err := registers.compare(ctx, t, "register", fmt.Sprintf("append and fsync, %d writers, %d bytes", benchWriters, len(record)),
		b.registers(c.Registers),
		timed(func(ctx context.Context) error { return rawAppend(ctx, f, record, c.Registers, benchWriters) })); err != nil || !c.Sizes {
		return err
	}
	return c.sizes(ctx, t, b, dir)
}

func timed(do func(ctx context.Context) error) side {
	return func(ctx context.Context) (time.Duration, error) {
		start := time.Now()
		err := do(ctx)
		return time.Since(start), err
	}
}

// registryBench is a client of the registry that is measured.
type registryBench struct {
	url    string
	client *http.Client
	made   int // schemas
}

func (b *registryBench) gets(n int, url string) side {
	return timed(func(ctx context.Context) error {
		return spread(ctx, n, benchWriters, func(ctx context.Context, _ int) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			reply, err := b.client.Do(req)
			if err != nil {
				return err
			}
			return drain(reply)
		})
	})
}

func (b *registryBench) get(ctx context.Context, url string) (contentType string, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", nil, err
	}
	reply, err := b.client.Do(req)
	if err != nil {
		return "", nil, err
	}
	defer reply.Body.Close()
	body, err = io.ReadAll(reply.Body)
	return reply.Header.Get("Content-Type"), body, err
}

// registers returns a side that registers n schemas. They are written before the
// clock starts.
func (b *registryBench) registers(n int) side {
	return func(ctx context.Context) (time.Duration, error) {
		bodies := make([][]byte, n)
		first := b.made
		for i := range bodies {
			bodies[i] = b.schema()
		}
		return timed(func(ctx context.Context) error {
			return spread(ctx, n, benchWriters, func(ctx context.Context, i int) error {
				return b.register(ctx, first+i, bodies[i])
			})
		})(ctx)
	}
}

// schema is the body of a request with a schema of 2 KB that is like no other.
func (b *registryBench) schema() []byte {
	text := benchSchema(b.made, 36)
	b.made++
	body, _ := json.Marshal(map[string]string{"schema": text}) // strings are always JSON
	return body
}

// benchSchema is a record of so many fields, whose names have n in them.
func benchSchema(n, fields int) string {
	var text strings.Builder
	fmt.Fprintf(&text, `{"type":"record","name":"R%d","fields":[`, n)
	for i := range fields {
		if i > 0 {
			text.WriteByte(',')
		}
		fmt.Fprintf(&text, `{"name":"f%d_%d","type":["null","string"],"default":null}`, i, n)
	}
	text.WriteString("]}")
	return text.String()
}

// register registers the n-th schema, with a subject of its own.
func (b *registryBench) register(ctx context.Context, n int, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("%s/subjects/bench-%d/versions", b.url, n), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	reply, err := b.client.Do(req)
	if err != nil {
		return err
	}
	if reply.StatusCode != http.StatusOK {
		err = fmt.Errorf("register a schema: %s", reply.Status)
	}
	return errors.Join(err, drain(reply))
}

// recordSize is what one registration adds to the log.
func (b *registryBench) recordSize(ctx context.Context, log string) ([]byte, error) {
	before, err := os.Stat(log)
	if err != nil {
		return nil, err
	}
	if _, err := b.registers(1)(ctx); err != nil {
		return nil, err
	}
	after, err := os.Stat(log)
	if err != nil {
		return nil, err
	}
	return make([]byte, after.Size()-before.Size()), nil
}
