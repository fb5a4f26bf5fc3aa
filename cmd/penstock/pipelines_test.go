package main

import (
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"penstock/pipelines"
)

// Flags and a file that says the same make the same pipeline.
func TestFlagsAndFile(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		file string
	}{
		"defaults": {[]string{"--to", "sqlite:x.db"}, `{source: {topic: orders}, sink: {url: "sqlite:x.db"}}`},
		"everything": {
			[]string{
				"--to", "parquet:d", "--broker", "nats://n", "--registry", "http://r", "--group", "g", "--read-as", "3", "--until", "end",
				"--table", "t", "--partition-by", "a,b:day", "--count", "7", "--bytes", "8", "--linger", "9s",
				"--by-schema", "--coalesce", "--latency", "10ms", "--rate", "1.5",
				"--filter", "message.a > 1", "--map", `{"a": 1}`, "--map-to", "s", "--cut", "offset == 1", "--ordering", "block", "--attempts", "4",
			},
			`{source: {topic: orders, broker: "nats://n", registry: "http://r", group: g, read-as: "3", until: end},
			  batch: {count: 7, bytes: 8, linger: 9s, by-schema: true, coalesce: true, latency: 10ms, rate: 1.5, cut: offset == 1},
			  filter: message.a > 1, map: '{"a": 1}', map-to: s, errors: {ordering: block, attempts: 4},
			  sink: {url: "parquet:d", table: t, partition-by: [a, "b:day"]}}`,
		},
		"upsert": {[]string{"--to", "postgres://h/d", "--mode", "upsert", "--key", "a,b", "--soft-delete", "gone", "--dead-letters", "refused", "--widen", "--constrain", "--index", "c,d"},
			`{source: {topic: orders}, errors: {dead-letters: refused}, sink: {url: "postgres://h/d", mode: upsert, key: [a, b], soft-delete: gone, widen: true, constrain: true, index: [c, d]}}`},
		"partitions": {[]string{"--to", "postgres://h/d", "--partition-by", "at:day", "--ahead", "9"},
			`{source: {topic: orders}, sink: {url: "postgres://h/d", partition-by: ["at:day"], ahead: 9}}`},
		"secret": {[]string{"--to", "https://h/", "--secret", "f", "--keys", "9"}, `{source: {topic: orders}, batch: {keys: 9}, sink: {url: "https://h/", secret: f}}`},
	} {
		t.Run(name, func(t *testing.T) {
			var flags struct {
				Microbatch microbatchCmd `cmd:""`
			}
			parser, err := kong.New(&flags, kong.Vars{"broker": defaultBroker, "registry": defaultRegistry})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parser.Parse(append([]string{"microbatch", "orders"}, c.args...)); err != nil {
				t.Fatal(err)
			}
			want, err := pipelines.Parse("microbatch.yaml", []byte(c.file), pipelines.Options{Broker: defaultBroker})
			if err != nil {
				t.Fatal(err)
			}
			f := flags.Microbatch
			got, err := pipelineOf(f.Topic, f.To, f.readFlags, f.storeFlags)
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Error(diff, err)
			}
		})
	}
}
