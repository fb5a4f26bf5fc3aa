package compat_test

import (
	"fmt"
	"strings"
	"testing"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
)

// wide is a record of n optional fields in each language.
var wide = map[schemas.Type]func(n int) string{
	schemas.Avro: func(n int) string {
		return `{"type":"record","name":"R","fields":[` + list(n, ",", `{"name":"f%[1]d","type":["null","string"],"default":null}`) + `]}`
	},
	schemas.JSON: func(n int) string {
		return `{"type":"object","additionalProperties":false,"properties":{` + list(n, ",", `"f%[1]d":{"type":"string","maxLength":80,"description":"a field"}`) + `}}`
	},
	schemas.Protobuf: func(n int) string {
		return "syntax = \"proto3\";\nmessage R {\n" + list(n, "\n", "  optional string f%[1]d = %[2]d;") + "\n}\n"
	},
}

// list joins n lines of a form that names the numbers it takes: %[1]d counts
// from 0 and %[2]d from 1.
func list(n int, separator, form string) string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf(form, i, i+1)
	}
	return strings.Join(lines, separator)
}

var formats = []schemas.Format{avro.Format{}, jsonschema.Format{}, protobuf.Format{}}

// BenchmarkCheck compares a record of 501 fields with 50 versions of it, in one
// direction and in both. All are parsed; cold, none has been compared before.
func BenchmarkCheck(b *testing.B) {
	for _, f := range formats {
		parse := func() (schemas.Schema, []registry.Registered) {
			versions := make([]registry.Registered, 51)
			for i := range versions {
				s, err := f.Parse(wide[f.Type()](451+i), nil)
				if err != nil {
					b.Fatal(err)
				}
				versions[i] = registry.Registered{Version: i + 1, Schema: s}
			}
			return versions[50].Schema, versions[:50]
		}
		check := func(level registry.Level, candidate schemas.Schema, versions []registry.Registered) {
			found, err := registry.CheckLevel(compat.Checker{}, level, registry.PolicyLenient, candidate, versions)
			if err != nil || !registry.Compatible(found) {
				b.Fatal(found, err)
			}
		}
		for _, level := range []registry.Level{registry.LevelBackwardTransitive, registry.LevelFullTransitive} {
			b.Run(fmt.Sprintf("%s/warm/%s", f.Type(), level), func(b *testing.B) {
				candidate, versions := parse()
				check(level, candidate, versions)
				for b.Loop() {
					check(level, candidate, versions)
				}
			})
		}
		b.Run(string(f.Type())+"/cold", func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				candidate, versions := parse()
				b.StartTimer()
				check(registry.LevelFullTransitive, candidate, versions)
			}
		})
	}
}

// BenchmarkDiff compares two records of 1,000 fields, of which every tenth has
// another name, type or default, both ways. Parsed, there is no text to find
// lines in; cold, parsing and lines are part of it.
func BenchmarkDiff(b *testing.B) {
	for _, f := range formats {
		texts := [2]string{wide[f.Type()](1000), wide[f.Type()](1000)}
		lines := strings.SplitAfter(texts[1], "f")
		for i := 10; i < len(lines); i += 10 {
			lines[i] = "_" + lines[i]
		}
		texts[1] = strings.ReplaceAll(strings.Join(lines, ""), `maxLength":80,"description":"a f_`, `maxLength":81,"description":"a f`)
		sides := func(located bool) (out [2]compat.Side) {
			for i, text := range texts {
				s, err := f.Parse(text, nil)
				if err != nil {
					b.Fatal(err)
				}
				out[i].Schema = s
				if located {
					out[i].Source = registry.Schema{Schema: text, SchemaType: f.Type()}
				}
			}
			return out
		}
		run := func(located, cold bool) func(b *testing.B) {
			return func(b *testing.B) {
				s := sides(located)
				var told int
				for b.Loop() {
					if cold {
						s = sides(located)
					}
					changes, err := compat.Checker{}.Diff(s[0], s[1], registry.PolicyStrict)
					if err != nil || len(changes) < 50 {
						b.Fatal(len(changes), err)
					}
					told = len(changes)
				}
				b.ReportMetric(float64(told), "changes")
			}
		}
		b.Run(string(f.Type())+"/parsed", run(false, false))
		b.Run(string(f.Type())+"/parsed-lines", run(true, false))
		b.Run(string(f.Type())+"/cold", run(true, true))
	}
}
