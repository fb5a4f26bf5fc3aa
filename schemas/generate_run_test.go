package schemas_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
	"penstock/schemas/samples"
	"penstock/servertest"
)

// generated is the types of a sample in a programming language, and events.
type generated struct {
	name   string // a name for files and packages
	text   string
	root   string // the type of an event
	schema schemas.Schema
	events [][]byte // as JSON
}

// generate writes the types of every sample in every schema language.
func generate(t *testing.T, to schemas.Target, root string) (all []generated) {
	t.Helper()
	for _, f := range []schemas.Format{avro.Format{}, jsonschema.Format{}, protobuf.Format{}} {
		for _, name := range samples.Names() {
			s, err := samples.Get(name)
			if err != nil {
				t.Fatal(err)
			}
			text, err := s.Schema(f.Type())
			if err != nil {
				t.Fatal(err)
			}
			g := generated{name: name + "_" + strings.ToLower(string(f.Type()))}
			if g.schema, err = f.Parse(text, nil); err != nil {
				t.Fatal(err)
			}
			if g.text, err = schemas.Generate(to, schemas.Registered{ID: 7, Schema: g.schema, Subject: name + "-value", Version: 1}, g.name); err != nil {
				t.Fatal(err)
			}
			g.root = regexp.MustCompile(root).FindStringSubmatch(g.text)[1]
			maker, err := samples.NewMaker(g.schema, samples.Options{Seed: 1})
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				e, err := maker.Next()
				if err != nil {
					t.Fatal(err)
				}
				g.events = append(g.events, asJSON(t, g.schema, encoded(t, g.schema, e.Value)))
			}
			all = append(all, g)
		}
	}
	return all
}

func encoded(t *testing.T, s schemas.Schema, v any) []byte {
	t.Helper()
	data, err := s.AppendEncode(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func asJSON(t *testing.T, s schemas.Schema, data []byte) []byte {
	t.Helper()
	v, err := schemas.Decode(s, data, schemas.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := schemas.AppendJSON(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var nullMember = regexp.MustCompile(`,"\w+":null|"\w+":null,`)

// roundTripped checks that the lines a program printed say what the events say.
func roundTripped(t *testing.T, all []generated, out []byte) {
	t.Helper()
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	for _, g := range all {
		for _, e := range g.events {
			if len(lines) == 0 {
				t.Fatalf("%s: nothing came back for %s", g.name, e)
			}
			var sides [][]byte
			for _, text := range [][]byte{e, lines[0]} {
				v, err := schemas.ParseJSON(text)
				if err != nil {
					t.Fatalf("%s: %v: %s", g.name, err, text)
				}
				data, err := g.schema.AppendEncode(nil, v)
				if err != nil {
					t.Fatalf("%s: %v: %s", g.name, err, text)
				}
				said := asJSON(t, g.schema, data)
				if g.schema.Type() == schemas.JSON { // a type of Go has one word for null and absent
					said = nullMember.ReplaceAll(said, nil)
				}
				sides = append(sides, said)
			}
			if !bytes.Equal(sides[0], sides[1]) {
				t.Errorf("%s: %s came back as %s", g.name, sides[0], sides[1])
			}
			lines = lines[1:]
		}
	}
}

func save(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// The generated Go is a program's: events of each sample go through its types.
func TestGeneratedGo(t *testing.T) {
	dir := t.TempDir()
	all := slices.DeleteFunc(generate(t, schemas.Go, `(?m)^type (\w+) struct`), func(g generated) bool {
		return strings.Contains(g.text, "big.Rat") // which encoding/json writes as a fraction
	})
	var imports, calls strings.Builder
	for _, g := range all {
		save(t, dir, g.name+"/event.go", g.text)
		fmt.Fprintf(&imports, "%q\n", "check/"+g.name)
		for _, e := range g.events {
			fmt.Fprintf(&calls, "through(new(%s.%s), %q)\n", g.name, g.root, e)
		}
	}
	save(t, dir, "go.mod", "module check\n\ngo 1.26\n")
	save(t, dir, "main.go", `package main

import (
	"encoding/json"
	"fmt"
	"os"

`+imports.String()+`)

func through(v any, event string) {
	if err := json.Unmarshal([]byte(event), v); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	out, err := json.Marshal(v)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(string(out))
}

func main() {
`+calls.String()+"}\n")
	cmd := exec.CommandContext(t.Context(), "go", "run", ".")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderrOf(err))
	}
	roundTripped(t, all, out)
}

func stderrOf(err error) []byte {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.Stderr
	}
	return nil
}

// Pydantic reads events of each sample by the generated models, writes them again,
// and refuses one with a field too few.
func TestGeneratedPython(t *testing.T) {
	python := servertest.Python(t)
	if exec.CommandContext(t.Context(), python, "-c", "import pydantic").Run() != nil {
		t.Skip("the kit was fetched before Pydantic was in it")
	}
	dir := t.TempDir()
	all := generate(t, schemas.Python, `(?m)^class (\w+)\(pydantic\.BaseModel\)`)
	var script strings.Builder
	script.WriteString("import pydantic\n")
	for _, g := range all {
		save(t, dir, g.name+".py", g.text)
		fmt.Fprintf(&script, "import %[1]s\nassert %[1]s.SCHEMA_ID == 7\n", g.name)
		for _, e := range g.events {
			fmt.Fprintf(&script, "print(%s.%s.model_validate_json(%+q).model_dump_json(by_alias=True, exclude_unset=True))\n", g.name, g.root, e)
		}
		if g.schema.Type() == schemas.Avro {
			fmt.Fprintf(&script, "try:\n    %s.%s.model_validate_json('{}')\n    raise SystemExit('an empty event passes')\nexcept pydantic.ValidationError:\n    pass\n", g.name, g.root)
		}
	}
	out, err := exec.CommandContext(t.Context(), python, save(t, dir, "check.py", script.String())).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderrOf(err))
	}
	roundTripped(t, all, out)
}

// The TypeScript compiler takes events of each sample for values of the generated
// types, and no other objects.
func TestGeneratedTypeScript(t *testing.T) {
	node := servertest.Node(t)
	compiler := filepath.Join(node, "node_modules", "typescript", "bin", "tsc")
	if _, err := os.Stat(compiler); err != nil {
		t.Skip("the kit was fetched before TypeScript was in it")
	}
	dir := t.TempDir()
	var files []string
	for _, g := range generate(t, schemas.TypeScript, `(?m)^export interface (\w+)`) {
		save(t, dir, g.name+".ts", g.text)
		var check strings.Builder
		fmt.Fprintf(&check, "import { %s as Event, schemaId } from './%s';\nexport const id: 7 = schemaId;\n", g.root, g.name)
		for i, e := range g.events {
			fmt.Fprintf(&check, "export const event%d: Event = %s;\n", i, e)
		}
		check.WriteString("// @ts-expect-error: there is no such field\nexport const other: Event = { ...event0, noSuchField: 1 };\n// @ts-expect-error: it is no object\nexport const wrong: Event = 'text';\n")
		files = append(files, save(t, dir, g.name+"_check.ts", check.String()))
	}
	args := append([]string{compiler, "--noEmit", "--strict", "--target", "es2022", "--module", "commonjs"}, files...)
	cmd := exec.CommandContext(t.Context(), "node", append(args, save(t, dir, "awkward.ts", awkwardTypeScript(t)))...)
	cmd.Dir = dir // where there are no other types
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("tsc: %v\n%s", err, out)
	}
}

// awkwardTypeScript is the types of the awkward schemas, in one file.
func awkwardTypeScript(t *testing.T) string {
	var out strings.Builder
	for _, f := range []schemas.Format{avro.Format{}, jsonschema.Format{}, protobuf.Format{}} {
		s, err := f.Parse(awkward[f.Type()], nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := schemas.Generate(schemas.TypeScript, schemas.Registered{Schema: s}, "")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "export namespace %s {\n%s}\n", strings.ToLower(string(f.Type())), text)
	}
	return out.String()
}
