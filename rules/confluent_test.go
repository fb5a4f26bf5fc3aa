package rules_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/rules"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
	"penstock/servertest"
)

// verdict is a case of testdata/verdicts.json and what Confluent's Python client
// made of it; verdicts.py says how.
type verdict struct {
	Name, Schema, Reader, Mode string
	Language                   schemas.Type
	RuleSet                    rules.RuleSet
	Tags                       map[string][]string
	In, Out                    []byte
	Refused                    string
}

// Why Penstock means to differ.
const (
	uri      = "their Python client has an idea of URIs of its own"
	text     = "an Avro field of bytes takes text here"
	broken   = "a broken expression fails even where there is nothing to run it on"
	judged   = "a condition is judged for each item of an array or map, and only where the tags say so"
	unsigned = "CEL does not add int to uint"
)

func TestConfluent(t *testing.T) {
	differs := map[string]string{
		`isUriRef a/b?c#d`:   uri,
		`isUriRef http://#x`: uri,
		`flight write fields typeName == 'NULL'; 'n' None`:           text,
		`flight read fields typeName == 'NULL'; 'n' None`:            text,
		`order write fields typeName == 'INT'; value + 1 None`:       unsigned,
		`order write fields typeName == 'INT'; value + 1 None unset`: unsigned,
		`order write fields 1 + 'a' ['PII'] unset`:                   broken,
		`condition write size(value) > 1 ['PII']`:                    judged,
		`condition read size(value) > 1 ['PII']`:                     judged,
		`untagged false`:                                             judged,
		`items`:                                                      judged,
	}
	kept, err := os.ReadFile("testdata/verdicts.json")
	if err != nil {
		t.Fatal(err)
	}
	var table struct {
		Schemas map[string]json.RawMessage
		Cases   []verdict
	}
	if err := json.Unmarshal(kept, &table); err != nil {
		t.Fatal(err)
	}
	formats := map[schemas.Type]schemas.Format{schemas.Avro: avro.Format{}, schemas.JSON: jsonschema.Format{}, schemas.Protobuf: protobuf.Format{}}
	for _, c := range table.Cases {
		parsed := func(name string) schemas.Schema {
			text := string(table.Schemas[name])
			if c.Language == schemas.Protobuf {
				_ = json.Unmarshal(table.Schemas[name], &text)
			}
			s, err := formats[c.Language].Parse(text, nil)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		writer, reader := parsed(c.Schema), parsed(c.Schema)
		if c.Reader != "" {
			reader = parsed(c.Reader)
		}
		out, refused := run(t, c, writer, reader)
		same := refused == c.Refused
		if same && refused == "" {
			got, err := reader.Decode(out)
			if err != nil {
				t.Fatalf("%s: %v", c.Name, err)
			}
			want, err := reader.Decode(c.Out)
			if err != nil {
				t.Fatalf("%s: %v", c.Name, err)
			}
			same = cmp.Equal(got, want, cmp.Comparer(sameNumber))
		}
		if same == (differs[c.Name] != "") {
			t.Errorf("%s: got %q, refused %q; Confluent %q, refused %q; meant to differ: %q", c.Name, out, refused, c.Out, c.Refused, differs[c.Name])
		}
		delete(differs, c.Name)
	}
	for name := range differs {
		t.Errorf("there is no case %q", name)
	}
}

func sameNumber(a, b json.Number) bool {
	x, _ := a.Float64()
	y, _ := b.Float64()
	return x == y
}

// run takes a case through the rules, and returns the encoded outcome.
func run(t *testing.T, c verdict, writer, reader schemas.Schema) (out []byte, refused string) {
	t.Helper()
	of := reader
	if c.Mode == "DOWNGRADE" {
		of = writer
	}
	set, err := rules.Compile(of, rules.Definition{Metadata: &rules.Metadata{Tags: c.Tags}, RuleSet: &c.RuleSet})
	if err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
	ctx := context.Background()
	step := map[string]func(context.Context, any) (any, error){
		"WRITE": set.Write, "READ": set.Read, "UPGRADE": set.Upgrade, "DOWNGRADE": set.Downgrade,
	}[c.Mode]
	in := c.In
	if c.Mode == "READ" {
		if in, err = set.ReadPayload(ctx, in); err != nil {
			return nil, action(err)
		}
	}
	v, err := writer.Decode(in)
	if err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
	if v, err = step(ctx, v); err != nil {
		return nil, action(err)
	}
	if out, err = reader.AppendEncode(nil, v); err != nil {
		return nil, action(err)
	}
	if c.Mode == "WRITE" {
		if out, err = set.WritePayload(ctx, out); err != nil {
			return nil, action(err)
		}
	}
	return out, ""
}

// action is what an error asks for; what the rules let pass and the schema does
// not is an error too.
func action(err error) string {
	var refused *rules.Error
	if errors.As(err, &refused) && refused.Action == rules.ActionDLQ {
		return refused.Action
	}
	return rules.ActionError
}

// TestVerdicts: the verdicts are those of the client as it is.
func TestVerdicts(t *testing.T) {
	python := servertest.Python(t)
	kept, err := os.ReadFile("testdata/verdicts.json")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "testdata/verdicts.py")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(kept), os.Stderr
	now, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(kept), string(now)); diff != "" {
		t.Error(diff)
	}
}
