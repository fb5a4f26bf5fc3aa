package schemas_test

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
	"penstock/schemas/samples"
)

// awkward are schemas whose names and types are hard to write in a program.
var awkward = map[schemas.Type]string{
	schemas.Avro: `{"type":"record","name":"class","doc":"two\nlines */","fields":[
		{"name":"from","type":["null",{"type":"enum","name":"E","symbols":["a","A","None"]}],"default":null,"doc":"a */ b"},
		{"name":"type","type":{"type":"map","values":["int","string","class"]}},
		{"name":"amount","type":["null",{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}]},
		{"name":"From","type":{"type":"array","items":{"type":"fixed","name":"F","size":3}}},
		{"name":"_x","type":{"type":"int","logicalType":"time-millis"}},
		{"name":"next","type":["null","class"]}]}`,
	schemas.JSON: `{"type":"object","required":["a b"],"properties":{
		"a b":{"type":"string","pattern":"^\"\\d+'$","maxLength":9},"9":{"type":["integer","null"],"minimum":-3},"é":{},
		"self":{"$ref":"#"},"class":{"enum":["x y","x-y",""]},"n":{"type":"number","exclusiveMinimum":0.5,"multipleOf":0.25},
		"list":{"type":"array","minItems":1,"items":{"type":"object","properties":{"self":{"type":"boolean"}}}}}}`,
	schemas.Protobuf: `syntax = "proto3"; message M { message I { uint64 yield = 1; } enum E { Z = 0; NONE = 1; }
		repeated I list = 1; map<string, E> map = 2; optional bytes data = 3; M self = 4; fixed32 f = 5; }`,
}

// readPython compiles each of its arguments, and runs it too where Pydantic is.
const readPython = `
import importlib, os, sys
try:
    import pydantic
except ImportError:
    pydantic = None
for name in sys.argv[1:]:
    with open(name) as f:
        compile(f.read(), name, "exec")
    if pydantic is None or int(pydantic.VERSION.split(".")[0]) < 2:
        continue
    sys.path.insert(0, os.path.dirname(name))
    module = importlib.import_module(os.path.basename(name)[:-3])
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, pydantic.BaseModel) and value is not pydantic.BaseModel:
            value.model_json_schema()
`

// TestGenerate writes the types of every sample and of awkward schemas: the same
// text twice, Go that type-checks, and, where there is a Python, Python that it
// reads.
func TestGenerate(t *testing.T) {
	imports := importer.ForCompiler(token.NewFileSet(), "source", nil)
	dir := t.TempDir()
	var scripts []string
	for _, f := range []schemas.Format{avro.Format{}, jsonschema.Format{}, protobuf.Format{}} {
		texts := []string{awkward[f.Type()]}
		for _, name := range samples.Names() {
			s, err := samples.Get(name)
			if err != nil {
				t.Fatal(err)
			}
			text, err := s.Schema(f.Type())
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, text)
		}
		for i, text := range texts {
			s, err := f.Parse(text, nil)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			r := schemas.Registered{ID: 7, Schema: s, Subject: "a-value", Version: 2}
			for _, to := range []schemas.Target{schemas.Go, schemas.Python, schemas.TypeScript} {
				out, err := schemas.Generate(to, r, "events")
				if err != nil {
					t.Fatalf("%s of %s: %v", to, text, err)
				}
				if again, err := schemas.Generate(to, r, "events"); err != nil || again != out {
					t.Errorf("%s of %s: another text, or %v", to, text, err)
				}
				switch to {
				case schemas.Go:
					set := token.NewFileSet()
					file, err := parser.ParseFile(set, "event.go", out, 0)
					if err != nil {
						t.Fatalf("%v\n%s", err, out)
					}
					if _, err := (&types.Config{Importer: imports}).Check("events", set, []*ast.File{file}, nil); err != nil {
						t.Errorf("%v\n%s", err, out)
					}
				case schemas.Python:
					file := filepath.Join(dir, fmt.Sprintf("%s%d.py", f.Type(), i))
					if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
						t.Fatal(err)
					}
					scripts = append(scripts, file)
				}
			}
		}
	}
	if python, err := exec.LookPath("python3"); err == nil {
		out, err := exec.CommandContext(t.Context(), python, append([]string{"-c", readPython}, scripts...)...).CombinedOutput()
		if err != nil {
			t.Errorf("python: %v\n%s", err, out)
		}
	}
	s, err := avro.Format{}.Parse(`"int"`, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range []string{"", "a b", "func"} {
		if _, err := schemas.Generate(schemas.Go, schemas.Registered{Schema: s}, pkg); err == nil || !strings.Contains(err.Error(), "no name of a package") {
			t.Errorf("package %q: %v", pkg, err)
		}
	}
	if _, err := schemas.Generate("cobol", schemas.Registered{Schema: s}, ""); err == nil {
		t.Error("cobol is generated")
	}
}
