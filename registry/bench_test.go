package registry_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/registry/logs/file"
	"penstock/schemas"
	"penstock/schemas/avro"
)

func openAvro(b *testing.B) *registry.Registry {
	b.Helper()
	log, err := file.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = log.Close() })
	r, err := registry.New(b.Context(), log, []schemas.Format{avro.Format{}}, compat.Checker{}, registry.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(r.Close)
	return r
}

// wide is a record of n fields whose names begin with prefix.
func wide(prefix string, n int) registry.Schema {
	fields := make([]string, n)
	for i := range fields {
		fields[i] = fmt.Sprintf(`{"name":"%s%d","type":["null","string"],"default":null}`, prefix, i)
	}
	return registry.Schema{Schema: `{"type":"record","name":"R","fields":[` + strings.Join(fields, ",") + `]}`}
}

// BenchmarkRegister registers new schemas of 2 KB, durably, from 8 callers.
func BenchmarkRegister(b *testing.B) {
	r := openAvro(b)
	var n atomic.Int64
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			if _, err := r.Register(b.Context(), fmt.Sprint("s", i), wide(fmt.Sprintf("f%d_", i), 40), false); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkOpen opens a log of 100,000 different schemas of 2 KB.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	log, err := file.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	const count, batch = 100_000, 1000
	var events []registry.Event
	for i := range count {
		name, id := fmt.Sprint("s", i), i+1
		text := wide(fmt.Sprintf("f%d_", i), 36).Schema
		events = append(events, registry.Event{
			Time:  time.UnixMilli(int64(i)),
			Key:   fmt.Appendf(nil, `{"keytype":"SCHEMA","subject":%q,"version":1,"magic":1}`, name),
			Value: fmt.Appendf(nil, `{"subject":%q,"version":1,"id":%d,"md5":"1B2M2Y8AsgTpgAmY7PhCfg==","schema":%q,"deleted":false}`, name, id, text),
		})
		if len(events) == batch {
			if _, err := log.Append(b.Context(), uint64(i+1-batch), events...); err != nil {
				b.Fatal(err)
			}
			events = events[:0]
		}
	}
	if err := log.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		log, err := file.Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		r, err := registry.New(b.Context(), log, []schemas.Format{avro.Format{}}, compat.Checker{}, registry.Options{})
		if err != nil || r.MaxID(".") != count {
			b.Fatal(err)
		}
		r.Close()
		if err := log.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
