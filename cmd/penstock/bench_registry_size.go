package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"penstock/registry"
	"penstock/registry/logs/file"
)

// sizeRow is how long a registry of its own process took until it served, and
// how much memory it has then.
type sizeRow struct {
	Name         string  `json:"name"`
	Schemas      int     `json:"schemas"`
	ReadySeconds float64 `json:"ready_seconds"`
	ResidentMB   float64 `json:"resident_mb"`
}

// sizes prints what registries of their own take: one with nothing in it, the
// same after clients have registered schemas, and one that starts with many.
func (c *benchRegistryCmd) sizes(ctx context.Context, t *terminal, b *registryBench, dir string) error {
	empty := filepath.Join(dir, "empty")
	if err := c.start(ctx, t, "idle", empty, 0, nil); err != nil {
		return err
	}
	const registered = 10_000
	if err := c.start(ctx, t, "registered by clients, 2 KB each", empty, registered, func(url string) error {
		loaded := *b
		loaded.url = url
		_, err := loaded.registers(registered)(ctx)
		return err
	}); err != nil {
		return err
	}
	const unique, same = 100_000, 8_000
	if err := fill(ctx, filepath.Join(dir, "unique"), unique, func(i int) string { return benchSchema(i, 36) }); err != nil {
		return err
	}
	if err := c.start(ctx, t, "started with, 2 KB each", filepath.Join(dir, "unique"), unique, nil); err != nil {
		return err
	}
	large := benchSchema(0, 1400)
	if err := fill(ctx, filepath.Join(dir, "same"), same, func(int) string { return large }); err != nil {
		return err
	}
	return c.start(ctx, t, "started with, subjects of one schema of 80 KB", filepath.Join(dir, "same"), same, nil)
}

// start runs a registry over a folder, has load use it, and prints its row.
func (c *benchRegistryCmd) start(ctx context.Context, t *terminal, name, dir string, schemas int, load func(url string) error) (err error) {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	server := exec.CommandContext(ctx, exe, "registry", "--listen", "127.0.0.1:0", "--store", "file:"+dir)
	server.Cancel = func() error { return server.Process.Signal(os.Interrupt) }
	said, err := server.StderrPipe()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := server.Start(); err != nil {
		return err
	}
	defer func() {
		_ = server.Process.Signal(os.Interrupt)
		err = errors.Join(err, server.Wait())
	}()
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil {
		return fmt.Errorf("start %s: %w", exe, err)
	}
	row := sizeRow{Name: name, Schemas: schemas, ReadySeconds: round3(time.Since(began).Seconds())}
	url, _, ok := strings.Cut(strings.TrimPrefix(line, "registry at "), ",")
	if !ok {
		return fmt.Errorf("start %s: it said %q", exe, line)
	}
	if load != nil {
		if err := load(url); err != nil {
			return err
		}
	}
	if row.ResidentMB, err = settledMB(ctx, server.Process.Pid); err != nil {
		return err
	}
	if c.json() {
		return t.object(row)
	}
	t.printf("%-24s %s schemas, ready in %.2f s, %.1f MB resident\n", row.Name, count(int64(row.Schemas)), row.ReadySeconds, row.ResidentMB)
	return nil
}

// settledMB is what a process has in memory when that no longer changes: a
// registry gives back what its start took after it has begun to serve.
func settledMB(ctx context.Context, pid int) (mb float64, err error) {
	for last := -1.0; ; last = mb {
		if mb, err = residentMB(pid); err != nil || mb == last {
			return mb, err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return mb, ctx.Err()
		}
	}
}

// residentMB reads what the system says that a process has in memory.
func residentMB(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read the memory of a process, which needs Linux: %w", err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	var kB float64
	if _, err := fmt.Sscan(after, &kB); err != nil {
		return 0, fmt.Errorf("read the memory of a process: %w", err)
	}
	return math.Round(kB/102.4) / 10, nil
}

// fill writes a log with so many subjects of one version, as a registry would.
func fill(ctx context.Context, dir string, n int, text func(i int) string) (err error) {
	log, err := file.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	ids := map[string]int{}
	var events []registry.Event
	for i := range n {
		schema := text(i)
		if ids[schema] == 0 {
			ids[schema] = len(ids) + 1
		}
		subject := fmt.Sprint("bench-", i)
		key, _ := json.Marshal(recordKey{"SCHEMA", subject, 1, 1})
		value, _ := json.Marshal(recordValue{subject, 1, ids[schema], schema, false}) // strings are always JSON
		events = append(events, registry.Event{Time: time.Now(), Key: key, Value: value})
		if len(events) == 500 || i == n-1 {
			if _, err := log.Append(ctx, uint64(i+1-len(events)), events...); err != nil {
				return err
			}
			events = events[:0]
		}
	}
	return nil
}

// recordKey and recordValue are a SCHEMA record of the registry's log.
type recordKey struct {
	KeyType string `json:"keytype"`
	Subject string `json:"subject"`
	Version int    `json:"version"`
	Magic   int    `json:"magic"`
}

type recordValue struct {
	Subject string `json:"subject"`
	Version int    `json:"version"`
	ID      int    `json:"id"`
	Schema  string `json:"schema"`
	Deleted bool   `json:"deleted"`
}
