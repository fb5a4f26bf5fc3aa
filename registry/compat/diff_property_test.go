package compat_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/schemas"
)

// drawPair draws two versions of a schema in each language.
var drawPair = map[schemas.Type]func(t *rapid.T) (before, after compat.Side){
	schemas.Avro: func(t *rapid.T) (compat.Side, compat.Side) {
		m := &maker{T: t, named: map[string]bool{}}
		s := m.typ("schema")
		return side(t, schemas.Avro, asText(s)), side(t, schemas.Avro, asText(changed(t, s)))
	},
	schemas.JSON: func(t *rapid.T) (compat.Side, compat.Side) {
		m := &jsonMaker{T: t}
		s := m.schema("schema")
		return side(t, schemas.JSON, asText(s)), side(t, schemas.JSON, asText(m.changed(s)))
	},
	schemas.Protobuf: func(t *rapid.T) (compat.Side, compat.Side) {
		f := drawFile(t)
		g := changedFile(t, f)
		if n := len(g.messages["A"]); n > 0 && rapid.Bool().Draw(t, "drop a field") {
			g.messages["A"] = g.messages["A"][:n-1]
		}
		return side(t, schemas.Protobuf, f.String()), side(t, schemas.Protobuf, g.String())
	},
}

func asText(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// side parses a schema; a draw that is none is drawn anew.
func side(t *rapid.T, language schemas.Type, text string) compat.Side {
	i := slices.IndexFunc(formats, func(f schemas.Format) bool { return f.Type() == language })
	s, err := formats[i].Parse(text, nil)
	if err != nil {
		t.Skip(err)
	}
	return compat.Side{Schema: s, Source: registry.Schema{Schema: text, SchemaType: language}}
}

func diff(t interface {
	Helper()
	Fatal(...any)
}, before, after compat.Side) []compat.Change {
	t.Helper()
	changes, err := compat.Checker{}.Diff(before, after, registry.PolicyStrict)
	if err != nil {
		t.Fatal(err)
	}
	return changes
}

// mirrors are the kinds of changes that are another kind the other way around.
var mirrors = map[schemas.ChangeKind]schemas.ChangeKind{
	schemas.TypeAdded: schemas.TypeRemoved, schemas.TypeNarrowed: schemas.TypeWidened,
	schemas.NullAllowed: schemas.NullForbidden, schemas.BranchAdded: schemas.BranchRemoved,
	schemas.FieldAdded: schemas.FieldRemoved, schemas.FieldRequired: schemas.FieldOptional,
	schemas.DefaultAdded: schemas.DefaultRemoved, schemas.SymbolAdded: schemas.SymbolRemoved,
	schemas.ConstraintTighter: schemas.ConstraintLooser, schemas.RecordOpened: schemas.RecordClosed,
	schemas.AliasAdded: schemas.AliasRemoved,
}

// TestDiffProperties: of a schema and itself there is nothing to tell; the other
// way around the same is told in each other's place; and what is told breaks
// just what the rules of the registry refuse; and Mend leaves nothing to mend.
func TestDiffProperties(t *testing.T) {
	for language, draw := range drawPair {
		t.Run(string(language), func(t *testing.T) {
			broken, sound, told, mended, whole := 0, 0, 0, 0, 0
			rapid.Check(t, func(t *rapid.T) {
				before, after := draw(t)
				for _, s := range []compat.Side{before, after} {
					if same := diff(t, s, s); len(same) > 0 {
						t.Fatalf("%s\nwith itself: %+v", s.Source.Schema, same)
					}
				}
				there, back := diff(t, before, after), diff(t, after, before)
				told += len(there)
				if d := cmp.Diff(outline(there, false), outline(back, true)); d != "" {
					t.Fatalf("%s\n%s\nthere and back (-there +back):\n%s", before.Source.Schema, after.Source.Schema, d)
				}
				for _, d := range []registry.Direction{registry.Backward, registry.Forward} {
					reader, writer := after, before
					if d == registry.Forward {
						reader, writer = before, after
					}
					found, err := compat.Checker{}.Check(reader.Schema, writer.Schema, d, registry.PolicyStrict)
					if err != nil {
						t.Fatal(err)
					}
					if got, want := compat.Compatible(there, d), registry.Compatible(found); got != want && before.Schema.Canonical() != after.Schema.Canonical() {
						t.Fatalf("%s\n%s\n%s: diff says %v, check says %v: %+v", before.Source.Schema, after.Source.Schema, d, got, want, there)
					} else if want {
						sound++
					} else {
						broken++
					}
				}
				// What is mended no longer stands against the new schema.
				if slices.ContainsFunc(there, func(c compat.Change) bool { return c.Mechanical }) {
					mended++
					text := compat.Mend(after.Source.Schema, there)
					i := slices.IndexFunc(formats, func(f schemas.Format) bool { return f.Type() == language })
					s, err := formats[i].Parse(text, nil)
					if err != nil {
						t.Fatalf("%s\nmended to %s\n%v", after.Source.Schema, text, err)
					}
					left := diff(t, before, compat.Side{Schema: s, Source: registry.Schema{Schema: text, SchemaType: language}})
					for _, c := range left {
						if c.Mechanical {
							t.Fatalf("%s\n%s\nmended to %s\n%+v", before.Source.Schema, after.Source.Schema, text, c)
						}
					}
					// Where all that broke was said to be mended, nothing breaks.
					for _, d := range []registry.Direction{registry.Backward, registry.Forward} {
						all := !slices.ContainsFunc(there, func(c compat.Change) bool { return slices.Contains(c.Breaks, d) && !slices.Contains(c.Mends, d) })
						if all && !compat.Compatible(there, d) {
							whole++
							if !compat.Compatible(left, d) {
								t.Fatalf("%s\n%s\nmended to %s\n%s: %+v", before.Source.Schema, after.Source.Schema, text, d, left)
							}
						}
					}
				}
				for _, c := range there {
					if (c.Severity == registry.SeverityError) != (len(c.Breaks) > 0) || c.Message == "" || c.NewAt == nil || c.OldAt == nil {
						t.Fatalf("%s\n%s\n%+v", before.Source.Schema, after.Source.Schema, c)
					}
				}
			})
			if broken == 0 || sound == 0 || told == 0 || mended == 0 || whole == 0 && language != schemas.Protobuf {
				t.Errorf("%d pairs broken, %d sound, %d mended, %d of these whole, %d changes told: too few to say something", broken, sound, mended, whole, told)
			}
		})
	}
}

// outline is what must be the same of changes there and back: what changed,
// where, and whom it breaks.
func outline(changes []compat.Change, back bool) []string {
	var lines []string
	for _, c := range changes {
		rule, was, is, from, to := c.Rule, c.Was, c.Is, c.OldPath, c.NewPath
		for kind, mirror := range mirrors {
			if rule == string(kind) || rule == string(mirror) {
				rule = string(kind)
				if (c.Rule == string(mirror)) != back {
					rule = string(mirror)
				}
			}
		}
		breaks := slices.Clone(c.Breaks)
		if back {
			was, is, from, to = is, was, to, from
			for i := range breaks {
				breaks[i] = map[registry.Direction]registry.Direction{registry.Backward: registry.Forward, registry.Forward: registry.Backward}[breaks[i]]
			}
		}
		slices.Sort(breaks)
		if !c.Neutral() {
			rule = "" // a rule of the language, which has two names for it
		}
		lines = append(lines, fmt.Sprintf("%s %s %s %q %q %v %d", rule, from, to, was, is, breaks, c.Sure))
	}
	slices.Sort(lines)
	return lines
}
